"""Figures of the chapters: readable in grey, by the colour-blind, and with the spread of the seeds.

Every line has a colour, a dash pattern and a marker of its own, so that no one of the three has to
be seen. The colours are those of Okabe and Ito (2008); for their black stands a grey, that of all
text, which can be read on a white page as on a dark one: the figures have no ground of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from torch import Tensor

from tlcourse._checks import check_dtype, check_int, check_number, shape_of
from tlcourse.metrics import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tlcourse.experiments import ResultRow

INK = "#757575"  # 4.6 to 1 on white, 3.8 to 1 on the site's dark ground
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Set Matplotlib's defaults for the course: call it once, in a chapter's first cell."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS)
            + cycler(linestyle=DASHES)
            + cycler(marker=MARKERS),
            "axes.edgecolor": INK,
            "axes.facecolor": "none",
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "grid.color": INK,
            "hatch.color": INK,
            "figure.figsize": (6.0, 3.4),
            "figure.dpi": 100,
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.markersize": 5,
            "savefig.dpi": 100,
            "svg.fonttype": "none",
            "svg.hashsalt": "tlcourse",
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    shell = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")  # twice the pixels, shown at the size that was asked for


def show_images(
    images: Tensor, titles: Sequence[str] | None = None, *, columns: int = 8, size: float = 1.0
) -> Figure:
    """Show images in a grid, each with its title above it.

    Parameters
    ----------
    images
        (N, 1, H, W) grey or (N, 3, H, W) in colour, values in [0, 1].
    titles
        N texts, or none.
    columns
        Images in a row.
    size
        Width of an image in inches.

    Raises
    ------
    TypeError, ValueError
        If the images have another shape or type, there is not one title for each, or a setting is
        wrong.
    """
    check_dtype("images", images)
    check_int("columns", columns, low=1)
    check_number("size", size, above=0)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images must have shape (N, 1, H, W) or (N, 3, H, W), got {shape_of(images)}."
        )
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"titles must be {len(images)} texts, got {len(titles)}.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = size * (1.0 if titles is None else 1.3)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * height), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for i, image in enumerate(images.detach().float().cpu().numpy()):
        axis = axes.flat[i]
        axis.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), vmin=0, vmax=1)
        if titles is not None:
            axis.set_title(titles[i], fontsize=9)
    return figure


def plot_curves(
    axis: Axes, x: Sequence[float], curves: Mapping[str, Sequence[Sequence[float]]]
) -> None:
    """Plot a line per label: the mean over the seeds, and Student's 95 % interval as a band.

    Parameters
    ----------
    axis
        Where to plot; its labels are the caller's.
    x
        The places along the axis, M numbers.
    curves
        For each label, S seeds of M numbers. With one seed there is no band.

    Raises
    ------
    ValueError
        If there is no curve or more than can be told apart, or one has not M numbers for every
        seed.
    """
    if not 1 <= len(curves) <= len(COLOURS):
        raise ValueError(f"curves must be 1 to {len(COLOURS)}, got {len(curves)}.")
    for label, seeds in curves.items():
        lengths = {len(seed) for seed in seeds}
        if lengths != {len(x)}:
            raise ValueError(
                f"curves[{label!r}] must hold {len(x)} numbers for every seed, one for each x; "
                f"got {' or '.join(map(str, sorted(lengths))) or 'no seed'}."
            )
        values = np.asarray(seeds, dtype=float)  # (S, M)
        found = [interval(column) for column in values.T.tolist()]
        (line,) = axis.plot(x, [f.mean for f in found], label=label)
        if len(values) > 1:
            low, high = [f.low for f in found], [f.high for f in found]
            axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axis.legend()


def plot_seeds(axis: Axes, groups: Mapping[str, Sequence[float]]) -> None:
    """Plot a row per label: every seed as a small circle, the mean and its 95 % interval as a bar.

    Parameters
    ----------
    axis
        Where to plot; its x label is the caller's.
    groups
        For each label, a number per seed. The first is at the top.

    Raises
    ------
    ValueError
        If there is no group, or an empty one.
    """
    if not groups:
        raise ValueError("groups is empty: give at least one label with its numbers.")
    for i, (label, values) in enumerate(groups.items()):
        if len(values) == 0:
            raise ValueError(f"groups[{label!r}] is empty: give a number per seed.")
        found = interval(values)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axis.plot(values, [i] * len(values), "o", mfc="none", mec="0.5", markersize=4)
        spread = None if found.n < 2 else found.margin
        axis.errorbar(found.mean, i, xerr=spread, fmt=marker, color=colour, markersize=7, capsize=4)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.5, -0.5)


def plot_result(groups: Mapping[str, Mapping[str, ResultRow]], *, source: str = "") -> Figure:
    """Plot rows of a recorded result: a dot with its 95 % interval each, the unit on the axis.

    The figure of the source, where a row has one, is an open diamond on the row's line.

    Parameters
    ----------
    groups
        Rows by the name to show, in groups that are set apart: ``{"few labels": {"from scratch":
        result["scratch-5"], ...}, ...}``. A group whose name is empty has no heading. All rows
        have one unit.
    source
        Whose figures the diamonds are, such as ``"Guo et al. (2019)"``.

    Raises
    ------
    ValueError
        If there is no row, or the rows are of more than one unit.
    """
    every = [row for rows in groups.values() for row in rows.values()]
    units = sorted({row.unit for row in every})
    if len(units) != 1:
        raise ValueError(
            f"groups must hold rows of one unit, got {' and '.join(units) or 'no row'}. "
            "Call plot_result once for each unit."
        )
    names: list[str] = []
    headings: list[int] = []
    figure, axis = plt.subplots()
    for heading, rows in groups.items():
        if heading:
            headings.append(len(names))
            names.append(heading)
        for name, row in rows.items():
            found, y = row.interval, len(names)
            spread = None if found.n < 2 else found.margin
            axis.errorbar(found.mean, y, xerr=spread, fmt="o", color=COLOURS[0], capsize=3)
            if row.paper is not None:
                axis.plot(row.paper, y, "D", mfc="none", mec=INK, markersize=7)
            names.append(name)
    axis.set_yticks(range(len(names)), names)
    for y in headings:
        axis.get_yticklabels()[y].set_fontweight("bold")
        axis.axhline(y - 0.5, color="0.6", linewidth=0.8, linestyle="-", marker="")
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(units[0])
    if any(row.paper is not None for row in every):
        label = source or "the source's figure"
        axis.plot([], [], "D", mfc="none", mec=INK, markersize=7, linestyle="none", label=label)
        figure.legend(loc="outside upper right")
    figure.set_size_inches(6.0, 0.9 + 0.25 * len(names))
    return figure
