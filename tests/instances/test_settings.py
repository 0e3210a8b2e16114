"""The survey's tables, asked."""

import pytest

from tlcourse.instances import APPROACHES, SETTINGS, Given, settings_of


@pytest.mark.parametrize(
    ("source", "target", "name", "area"),
    [
        (Given("MNIST", "digit", True), Given("USPS", "digit", True), "inductive", "multi-task"),
        (Given("web", "topic", False), Given("USPS", "digit", True), "inductive", "self-taught"),
        (Given("MNIST", "digit", True), Given("USPS", "digit", False), "transductive", "domain"),
        (Given("MNIST", "digit", False), Given("USPS", "group", False), "unsupervised", ""),
    ],
)
def test_the_labels_decide(source, target, name, area):
    found = settings_of(source, target)
    assert found.name == name
    assert area in " ".join(found.areas)


def test_what_applies_where_is_the_surveys_fourth_table():
    applies = {a.name: set(a.settings) for a in APPROACHES}
    assert applies == {
        "instances": {"inductive", "transductive"},
        "feature representation": {"inductive", "transductive", "unsupervised"},
        "parameters": {"inductive"},
        "relational knowledge": {"inductive"},
    }
    assert [a.name for a in SETTINGS[-1].approaches] == ["feature representation"]


def test_every_mixture_of_labels_has_its_row():
    assert len({(s.source_labels, s.target_labels) for s in SETTINGS}) == len(SETTINGS) == 4


def test_nothing_to_transfer_and_no_way_are_said():
    side = Given("MNIST", "digit", True)
    with pytest.raises(ValueError, match="nothing to transfer"):
        settings_of(side, Given("MNIST", "digit", False))
    with pytest.raises(ValueError, match="Only the source has labels"):
        settings_of(side, Given("USPS", "writer", False))
    with pytest.raises(TypeError, match="target must be Given"):
        settings_of(side, "USPS")
