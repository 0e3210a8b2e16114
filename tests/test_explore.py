from __future__ import annotations

from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from tlcourse import explore
from tlcourse.explore import explorer

VALUES = [1, 2, 4]


def draw(power):
    figure, axes = plt.subplots(figsize=(2, 1.5))
    axes.plot(np.arange(5.0) ** power)
    return figure


def alt(power):
    return f"x to the power of {power} & more"


@pytest.fixture
def page(monkeypatch):
    """The site is being built, by a notebook of its own."""
    monkeypatch.setenv("TLCOURSE_BUILD_SITE", "1")
    monkeypatch.setattr(explore, "_built", set())


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("TLCOURSE_BUILD_SITE", raising=False)


@pytest.fixture(params=["page", "live"])
def either(request):
    request.getfixturevalue(request.param)


def built(**more):
    settings = {"name": "powers", "alt": alt} | more
    return BeautifulSoup(explorer(draw, VALUES, **settings).data, "html5lib")


@pytest.mark.usefixtures("page")
class TestPage:
    def test_every_value_has_its_frame_and_text(self):
        box = built(format=lambda p: f"p = {p}").select_one("#explorer-powers")
        frames = box.find("template").find_all("img")
        assert [f["alt"] for f in frames] == [alt(p) for p in VALUES]
        assert [f["data-value"] for f in frames] == ["p = 1", "p = 2", "p = 4"]
        assert len({f["src"] for f in frames}) == 3
        assert {(f["width"], f["height"]) for f in frames} == {("192", "144")}

    def test_the_first_frame_shows_without_a_script(self):
        box = built().select_one(".tl-explorer")
        assert box.find("img")["alt"] == alt(1)
        assert "hidden" in box.select_one(".tl-explorer-controls").attrs
        assert "first of 3 figures" in box.find("noscript").get_text()
        assert not box.find("script")

    def test_the_slider_is_labelled(self):
        box = built(label="Power & root").select_one(".tl-explorer")
        slider = box.find("input", type="range")
        assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "0")
        assert slider["aria-valuetext"] == "1"
        assert box.find("label", attrs={"for": slider["id"]}).get_text() == "Power & root"

    def test_the_name_is_the_label_when_there_is_none(self):
        assert built(name="soft-targets").find("label").get_text() == "Soft targets"

    def test_the_same_call_gives_the_same_bytes(self, monkeypatch):
        first = explorer(draw, VALUES, name="powers", alt=alt).data
        monkeypatch.setattr(explore, "_built", set())
        assert explorer(draw, VALUES, name="powers", alt=alt).data == first

    def test_frames_are_small_palette_images(self):
        sources = [f["src"] for f in built().find("template").find_all("img")]
        for source in sources:
            start, _, encoded = source.partition(",")
            assert start == "data:image/png;base64"
            data = b64decode(encoded)
            assert data[25] == 3, "colour type 3 is a palette"
            assert b"tRNS" in data, "the frame has no ground"
            assert b"Software" not in data
            assert b"tIME" not in data
        assert sum(map(len, sources)) / len(sources) < 10_000

    def test_labels_are_not_cut_off(self):
        def labelled(value):
            figure = Figure(figsize=(3, 1.5))
            figure.subplots().set(xlabel="below", ylabel="beside")
            figures.append(figure)
            return figure

        figures = []
        explorer(labelled, [1], name="labelled", alt=str)
        figures[0].draw_without_rendering()
        box = figures[0].axes[0].get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0

    def test_a_name_is_taken_once(self):
        built()
        with pytest.raises(ValueError, match="'powers' is taken by another explorer"):
            built()

    def test_a_failed_call_takes_no_name(self):
        with pytest.raises(TypeError):
            explorer(lambda v: None, VALUES, name="powers", alt=alt)
        built()


@pytest.mark.usefixtures("live")
class TestLive:
    def test_the_slider_changes_figure_and_text(self):
        slider, picture = explorer(draw, VALUES, name="powers", alt=alt, label="Power").children
        assert slider.description == "Power"
        first = picture.value
        assert 'alt="x to the power of 1 &amp; more"' in first
        slider.value = 2
        assert 'alt="x to the power of 4 &amp; more"' in picture.value
        slider.value = 0
        assert picture.value == first

    def test_a_figure_is_drawn_when_it_is_asked_for_and_once(self):
        drawn = []

        def noted(value):
            drawn.append(value)
            return draw(value)

        slider, _ = explorer(noted, VALUES, name="powers", alt=alt).children
        assert drawn == [1]
        for index in (2, 0, 2):
            slider.value = index
        assert drawn == [1, 4]

    def test_a_cell_can_be_run_again(self):
        for _ in range(2):
            explorer(draw, VALUES, name="powers", alt=alt)

    def test_equal_texts_are_told_apart(self):
        slider, picture = explorer(
            draw, VALUES, name="powers", alt=alt, format=lambda p: "same"
        ).children
        slider.value = 1
        assert "power of 2" in picture.value


@pytest.mark.usefixtures("either")
class TestEither:
    def test_figures_are_closed(self):
        explorer(draw, VALUES, name="powers", alt=alt)
        assert plt.get_fignums() == []

    def test_values_may_be_any_iterable(self):
        explorer(draw, iter(np.array(VALUES)), name="powers", alt=alt)

    def test_no_value_is_refused(self):
        with pytest.raises(ValueError, match="values is empty"):
            explorer(draw, [], name="powers", alt=alt)

    @pytest.mark.parametrize("name", ["", "Powers", "a b", "a--b", "-a", 'a"b'])
    def test_a_malformed_name_is_refused(self, name):
        with pytest.raises(ValueError, match=r"name=.*lower-case letters, digits"):
            explorer(draw, VALUES, name=name, alt=alt)

    def test_a_label_says_something(self):
        with pytest.raises(ValueError, match="label is empty"):
            explorer(draw, VALUES, name="powers", alt=alt, label=" ")

    def test_draw_returns_a_figure(self):
        with pytest.raises(TypeError, match=r"draw\(1\) returned NoneType; return the matplotlib"):
            explorer(lambda v: None, VALUES, name="powers", alt=alt)

    @pytest.mark.parametrize("text", ["", "  "])
    def test_an_empty_alternative_text_is_refused(self, text):
        with pytest.raises(ValueError, match=r"alt\(1\) is empty"):
            explorer(draw, VALUES, name="powers", alt=lambda v: text)
        plt.close("all")

    def test_a_text_is_a_text(self):
        with pytest.raises(TypeError, match=r"format\(1\) returned int; return a text"):
            explorer(draw, VALUES, name="powers", alt=alt, format=lambda v: v)
