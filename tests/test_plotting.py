from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from tlcourse import plotting
from tlcourse.experiments import ResultRow
from tlcourse.metrics import interval
from tlcourse.plotting import plot_curves, plot_result, plot_seeds, show_images, use_style

CURVES = {"a": [[0.1, 0.5, 0.9], [0.2, 0.6, 0.8]], "b": [[0.0, 0.1, 0.2]]}


@pytest.fixture(autouse=True)
def style(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a window was opened"))
    before = mpl.get_backend()
    plt.switch_backend("agg")
    with mpl.rc_context():
        use_style()
        yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture
def axis():
    return plt.subplots()[1]


def luminance(colour: str) -> float:
    red, green, blue = mpl.colors.to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_every_line_has_its_own_colour_dash_and_marker(axis):
    labels = [f"line {i}" for i in range(len(plotting.COLOURS))]
    plot_curves(axis, [0, 1, 2], {label: [[0.0, 0.5, 1.0]] for label in labels})
    axis.figure.canvas.draw()
    lines = axis.get_lines()
    assert len(lines) == 7
    assert len({to_hex(line.get_color()) for line in lines}) == 7
    assert len({line.get_marker() for line in lines}) == 7
    # get_linestyle() calls every dash pattern of one's own "--".
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 7
    assert all(line.get_marker() not in ("", "None", None) for line in lines)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == labels


def test_colours_are_far_from_white():
    assert all(luminance(colour) < 0.75 for colour in plotting.COLOURS)


def test_curves_are_means_with_their_intervals(axis):
    plot_curves(axis, [0, 5, 10], CURVES)
    first, second = axis.get_lines()
    assert first.get_xdata().tolist() == [0, 5, 10]
    np.testing.assert_allclose(first.get_ydata(), [0.15, 0.55, 0.85])
    np.testing.assert_allclose(second.get_ydata(), [0.0, 0.1, 0.2])
    (band,) = axis.collections  # one seed has no band
    edge = band.get_paths()[0].vertices
    found = interval([0.1, 0.2])
    at_start = edge[edge[:, 0] == 0][:, 1]
    assert at_start.min() == pytest.approx(found.low)
    assert at_start.max() == pytest.approx(found.high)
    assert to_hex(band.get_facecolor()[0]) == to_hex(first.get_color())
    axis.figure.canvas.draw()


@pytest.mark.parametrize(
    ("curves", "match"),
    [
        ({}, "curves must be 1 to 7, got 0"),
        ({str(i): [[0.0, 0.0]] for i in range(8)}, "curves must be 1 to 7, got 8"),
        ({"a": []}, "'a'.* must hold 2 numbers for every seed.* got no seed"),
        ({"a": [[1.0]]}, "must hold 2 numbers .* got 1"),
        ({"a": [[1.0, 2.0], [1.0, 2.0, 3.0]]}, "got 2 or 3"),
        ({"a": [[1.0, float("nan")]]}, "finite"),
    ],
)
def test_wrong_curves(axis, curves, match):
    with pytest.raises(ValueError, match=match):
        plot_curves(axis, [0, 1], curves)


def test_seeds_are_points_with_a_bar(axis):
    plot_seeds(axis, {"many": [1.0, 2.0, 4.0], "one": [3.0]})
    axis.figure.canvas.draw()
    assert [text.get_text() for text in axis.get_yticklabels()] == ["many", "one"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first is at the top
    points = [line for line in axis.get_lines() if line.get_marker() == "o"]
    assert points[0].get_xdata().tolist() == [1.0, 2.0, 4.0]
    assert set(points[0].get_ydata()) == {0}
    bars = axis.containers
    assert [bar.has_xerr for bar in bars] == [True, False]  # of one seed there is no interval
    low, high = (end for end in bars[0].lines[2][0].get_segments()[0][:, 0])
    found = interval([1.0, 2.0, 4.0])
    assert (low, high) == (pytest.approx(found.low), pytest.approx(found.high))
    means = [bar.lines[0] for bar in bars]
    assert means[0].get_xdata()[0] == pytest.approx(7 / 3)
    assert len({mean.get_marker() for mean in means}) == 2
    assert len({to_hex(mean.get_color()) for mean in means}) == 2


def test_more_groups_than_colours(axis):
    plot_seeds(axis, {str(i): [float(i), i + 1.0] for i in range(9)})
    assert len(axis.get_yticks()) == 9


@pytest.mark.parametrize(
    ("groups", "match"),
    [({}, "groups is empty"), ({"a": [1.0], "b": []}, r"groups\['b'\] is empty")],
)
def test_wrong_groups(axis, groups, match):
    with pytest.raises(ValueError, match=match):
        plot_seeds(axis, groups)


def test_images_in_a_grid():
    images = torch.rand(5, 1, 4, 6)
    figure = show_images(images, list("abcde"), columns=3, size=0.5)
    figure.canvas.draw()
    axes = figure.axes
    assert len(axes) == 6
    assert figure.get_figwidth() == pytest.approx(1.5)
    assert [axis.get_title() for axis in axes] == ["a", "b", "c", "d", "e", ""]
    for axis, image in zip(axes, images, strict=False):
        (shown,) = axis.images
        np.testing.assert_array_equal(shown.get_array(), image[0])
        assert (shown.norm.vmin, shown.norm.vmax) == (0, 1)  # one scale for all
        assert shown.get_cmap().name == "gray"
    assert not any(axis.axison for axis in axes)
    assert not axes[5].images


def test_colour_images_and_fewer_than_a_row():
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    figure = show_images(images)
    figure.canvas.draw()
    assert len(figure.axes) == 2
    np.testing.assert_array_equal(
        figure.axes[1].images[0].get_array(), images[1].detach().permute(1, 2, 0)
    )


@pytest.mark.parametrize(
    ("images", "how", "error", "match"),
    [
        (torch.rand(4, 4), {}, ValueError, r"shape \(N, 1, H, W\) .* got \(4, 4\)"),
        (torch.rand(1, 2, 4, 4), {}, ValueError, "images must have shape"),
        (torch.rand(0, 1, 4, 4), {}, ValueError, "images must have shape"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), {}, TypeError, "floating-point .*uint8"),
        (np.zeros((1, 1, 4, 4)), {}, TypeError, "images must be a torch.Tensor, got ndarray"),
        (torch.rand(2, 1, 4, 4), {"titles": ["a"]}, ValueError, "titles must be 2 texts, got 1"),
        (torch.rand(2, 1, 4, 4), {"columns": 0}, ValueError, "columns must be at least 1"),
        (torch.rand(2, 1, 4, 4), {"columns": 1.5}, TypeError, "columns must be an integer"),
        (torch.rand(2, 1, 4, 4), {"size": 0}, ValueError, "size must be greater than 0"),
    ],
)
def test_wrong_images(images, how, error, match):
    with pytest.raises(error, match=match):
        show_images(images, **how)
    assert not plt.get_fignums()


def _row(values, paper=None, unit="error, %"):
    return ResultRow("key", "label", unit, values, paper)


def test_a_result_is_a_dot_with_its_interval_and_the_papers_figure_a_diamond():
    figure = plot_result(
        {
            "few labels": {"alone": _row((3.0, 5.0, 4.0)), "distilled": _row((2.0, 2.0, 2.0), 0.7)},
            "many labels": {"alone": _row((1.0,))},
        },
        source="Hinton et al. (2015)",
    )
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["few labels", "alone", "distilled", "many labels", "alone"]
    places = {(round(float(d[0][0]), 6), d[1][0]) for d in (line.get_data() for line in axis.lines)
              if len(d[0]) == 1}  # fmt: skip
    assert {(4.0, 1), (2.0, 2), (1.0, 4), (0.7, 2)} <= places
    (spread,) = [c for c in axis.containers if c.lines[0].get_ydata()[0] == 1]
    ends = spread.lines[2][0].get_segments()[0][:, 0]
    assert tuple(ends) == pytest.approx((interval([3.0, 5.0, 4.0]).low, interval([3, 5, 4]).high))
    assert axis.get_xlabel() == "error, %"
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row is on top
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Hinton et al. (2015)"]
    assert [label.get_fontweight() for label in axis.get_yticklabels()].count("bold") == 2


def test_a_result_without_headings_and_without_a_source():
    figure = plot_result({"": {"alone": _row((3.0, 5.0))}})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["alone"]
    assert not figure.legends


@pytest.mark.parametrize(
    ("groups", "said"),
    [({}, "got no row"), ({"": {"a": _row((1.0,)), "b": _row((1.0,), unit="s")}}, "%.* and s")],
)
def test_rows_of_one_unit(groups, said):
    with pytest.raises(ValueError, match=said):
        plot_result(groups)


def test_text_can_be_read_on_a_white_and_on_a_dark_page(axis):
    def light(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = light(mpl.colors.to_rgb(plotting.INK))
    assert 1.05 / (ink + 0.05) > 4.5
    assert (ink + 0.05) / (light(mpl.colors.to_rgb("#14181e")) + 0.05) > 3.5
    axis.set(xlabel="x", title="title")
    used = [
        axis.xaxis.label.get_color(),
        axis.title.get_color(),
        axis.spines["left"].get_edgecolor(),
    ]
    assert {to_hex(colour) for colour in used} == {to_hex(plotting.INK)}
    axis.figure.canvas.draw()
    pixels = np.asarray(axis.figure.canvas.buffer_rgba())
    assert pixels[0, 0, 3] == 0, "the figure has no ground"
