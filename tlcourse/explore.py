"""Explorers: one figure, redrawn for each value that a slider takes.

The same call serves twice. In a running notebook it is a live slider that draws on demand. In the
built page, where no kernel runs, every frame is drawn beforehand and a plain slider steps through
them; the page needs nothing else.
"""

from __future__ import annotations

import base64
import os
import re
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from matplotlib.figure import Figure

Value = TypeVar("Value")

_COLOURS = 256
_DPI = 144
_built: set[str] = set()  # names used so far by the build of one notebook


def explorer(
    draw: Callable[[Value], Figure],
    values: Iterable[Value],
    *,
    name: str,
    alt: Callable[[Value], str],
    label: str | None = None,
    format: Callable[[Value], str] = str,
) -> Any:
    """Show one figure for each value, chosen with a slider.

    Make it the last expression of a notebook cell.

    Parameters
    ----------
    draw
        Takes a value and returns the matplotlib figure for it. The figure is closed afterwards.
    values
        The values that the slider steps through, in order. About 20 keep the built page small.
    name
        Names the explorer in the page: lower-case letters, digits and hyphens, once in a chapter.
    alt
        Takes a value and returns the text for those who do not see the figure.
    label
        The slider's visible label. Without one, the name with spaces for hyphens.
    format
        Takes a value and returns how it is written beside the slider.

    Returns
    -------
    object
        What the notebook displays: live widgets, or HTML when the site is being built.

    Raises
    ------
    TypeError
        When `draw` returns anything but a matplotlib figure, or `alt` or `format` no text.
    ValueError
        When there is no value, a text is empty, or the name is malformed or was taken.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> def draw(power):
    ...     figure = Figure(figsize=(3, 2))
    ...     _ = figure.subplots().plot([x**power for x in range(5)])
    ...     return figure
    >>> shown = explorer(draw, [1, 2, 3], name="powers", alt=lambda p: f"The curve x to the {p}.")
    """
    choices = list(values)
    if not choices:
        raise ValueError("values is empty: an explorer needs at least one value to draw")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(
            f"name={name!r}: take lower-case letters, digits and single hyphens, as in "
            "'soft-targets'"
        )
    label = name.replace("-", " ").capitalize() if label is None else label
    if not label.strip():
        raise ValueError("label is empty: say what the slider changes, or leave it out")
    texts = [_text(format, value, "format") for value in choices]
    if os.environ.get("TLCOURSE_BUILD_SITE") == "1":
        return _page(draw, choices, texts, name=name, alt=alt, label=label)
    return _widgets(draw, choices, texts, name=name, alt=alt, label=label)


def _text(function: Callable[[Value], str], value: Value, role: str) -> str:
    """Return `function(value)`, a text that is not empty."""
    text = function(value)
    if not isinstance(text, str):
        raise TypeError(f"{role}({value!r}) returned {type(text).__name__}; return a text")
    if not text.strip():
        raise ValueError(f"{role}({value!r}) is empty; return a text for every value")
    return text


def _image(figure: Figure) -> bytes:
    """Return the figure as a PNG file with a small palette: the same bytes on every run."""
    from io import BytesIO

    from PIL import Image

    drawn, small = BytesIO(), BytesIO()
    figure.savefig(
        drawn,
        format="png",
        dpi=_DPI,
        facecolor="none",
        bbox_inches=None,
        metadata={"Software": None},
    )
    with Image.open(drawn) as image:
        # The one way to a palette that keeps what is transparent.
        method = Image.Quantize.FASTOCTREE
        palette = image.convert("RGBA").quantize(_COLOURS, method, dither=Image.Dither.NONE)
        palette.save(small, format="PNG", optimize=True)
    return small.getvalue()


def _frame(draw: Callable[[Value], Figure], value: Value) -> tuple[str, int, int]:
    """Draw one frame: its address with the image inside, and its size in CSS pixels."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    figure = draw(value)
    if not isinstance(figure, Figure):
        raise TypeError(
            f"draw({value!r}) returned {type(figure).__name__}; return the matplotlib figure, as "
            "in `figure, axes = plt.subplots(); ...; return figure`"
        )
    try:
        if figure.get_layout_engine() is None:
            figure.set_layout_engine("constrained")  # labels inside, every frame of one size
        width, height = (round(96 * float(inches)) for inches in figure.get_size_inches())
        data = base64.b64encode(_image(figure)).decode()
    finally:
        plt.close(figure)
    return f"data:image/png;base64,{data}", width, height


def _page(
    draw: Callable[[Value], Figure],
    values: list[Value],
    texts: list[str],
    *,
    name: str,
    alt: Callable[[Value], str],
    label: str,
) -> Any:
    """Return all frames as HTML; the site's explorer.js moves between them."""
    from IPython.display import HTML

    if name in _built:
        raise ValueError(
            f"name={name!r} is taken by another explorer of this chapter; take another"
        )
    frames, first = [], ""
    for value, text in zip(values, texts, strict=True):
        source, width, height = _frame(draw, value)
        image = (
            f'<img src="{source}" alt="{escape(_text(alt, value, "alt"))}" '
            f'width="{width}" height="{height}"'
        )
        first = first or f"{image}>"
        frames.append(f'{image} data-value="{escape(text)}">')
    _built.add(name)
    slider = f"explorer-{name}-slider"
    return HTML(
        f'<div class="tl-explorer" id="explorer-{name}" role="group" '
        f'aria-label="{escape(label)}">\n'
        f'<div class="tl-explorer-controls" hidden><label for="{slider}">{escape(label)}</label>\n'
        f'<input type="range" id="{slider}" min="0" max="{len(values) - 1}" step="1" value="0" '
        f'aria-valuetext="{escape(texts[0])}">\n'
        f'<span class="tl-explorer-value" aria-hidden="true">{escape(texts[0])}</span></div>\n'
        f"{first}\n"
        f"<noscript><p>This is the first of {len(values)} figures ({escape(label)}: "
        f"{escape(texts[0])}). The slider to the others needs JavaScript.</p></noscript>\n"
        f"<template>{''.join(frames)}</template>\n</div>"
    )


def _widgets(
    draw: Callable[[Value], Figure],
    values: list[Value],
    texts: list[str],
    *,
    name: str,
    alt: Callable[[Value], str],
    label: str,
) -> Any:
    """Return a live slider over a figure that is drawn when first asked for."""
    import ipywidgets

    drawn: dict[int, str] = {}

    def image(i: int) -> str:
        if i not in drawn:
            source, width, height = _frame(draw, values[i])
            text = escape(_text(alt, values[i], "alt"))
            drawn[i] = f'<img src="{source}" alt="{text}" width="{width}" height="{height}">'
        return drawn[i]

    slider = ipywidgets.SelectionSlider(
        options=[(text, i) for i, text in enumerate(texts)],
        value=0,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "min(30rem, 100%)"},
    )
    picture = ipywidgets.HTML(value=image(0))

    def show(change: Any) -> None:
        picture.value = image(change["new"])

    slider.observe(show, names="value")
    return ipywidgets.VBox([slider, picture])
