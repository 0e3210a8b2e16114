"""Unfreezing on tiny data: which layers move when, and where it starts."""

from __future__ import annotations

from tlcourse.experiments import get, load_result
from tlcourse.experiments.finetuning import _parts as parts


def test_unfreezing_goes_layer_by_layer_from_the_end(tmp_path, fits, tiny):
    experiment = tiny("unfreeze-cifar10")
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)

    def layers(moved):
        return {n.split(".")[3] for n in moved if n.startswith("backbone.net.features.")}

    found = {name: layers(moved) for name, moved, _ in fits}
    assert {"head.weight", "head.bias"} <= set.intersection(*(moved for _, moved, _ in fits[:-1]))
    squeezenet = {
        "squeezenet-fire9": {"12"},
        "squeezenet-fire8": {"10", "12"},
        "squeezenet-fires6-7": {"8", "9", "10", "12"},
        "squeezenet-all": {"0", "3", "4", "5", "7", "8", "9", "10", "12"},
    }
    lite0 = {
        "lite0-top": {"top"},
        "lite0-stage7": {"stage7", "top"},
        "lite0-stages5-6": {"stage5", "stage6", "stage7", "top"},
        "lite0-all": {"stem", *(f"stage{i}" for i in range(1, 8)), "top"},
    }
    assert found == squeezenet | lite0 | {"scratch": set()}


def test_unfreezing_starts_at_the_head_of_a_probe(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(parts, "fit", lambda *_, **__: None)
    unfreeze, probe = tiny("unfreeze-cifar10"), tiny("probe-cifar10")
    settings, of_probe = unfreeze.settings["quick"], probe.settings["quick"]
    data = unfreeze.load({})
    found = unfreeze.run_seed(data, settings, 0, tmp_path)
    same = probe.run_seed(data, of_probe | {"labels_per_class": [3, 5]}, 0, tmp_path)
    for key, network in settings["networks"].items():
        assert {found[f"{key}-{stage}"] for stage in network["stages"]} == {same[f"{key}-probe-3"]}


def test_the_report_s_figures_stand_beside_the_rows_that_they_are_of():
    paper = {row.key: row.paper for row in get("unfreeze-cifar10").rows if row.paper is not None}
    heads, second = ("squeezenet-head", "lite0-head"), ("squeezenet-fire8", "lite0-stage7")
    assert paper == dict.fromkeys(heads, 77.0) | dict.fromkeys(second, 97.0)
    for name in ("probe-cifar10", "finetune-digits"):
        assert all(row.paper is None for row in get(name).rows)


def test_what_the_chapter_says_of_the_five_seeds():
    result = load_result("unfreeze-cifar10")
    stages = {
        "squeezenet": ("head", "fire9", "fire8", "fires6-7", "all"),
        "lite0": ("head", "top", "stage7", "stages5-6", "all"),
    }

    def always(better, worse):
        return min(result.differences(better, worse)) > 0

    adds = []
    for key, steps in stages.items():
        assert always(f"{key}-head", "scratch")
        assert always(f"{key}-all", f"{key}-head")
        pairs = zip(steps[1:], steps, strict=False)
        adds += [f"{key}-{b}" for b, a in pairs if always(f"{key}-{b}", f"{key}-{a}")]
        second = result.paired(f"{key}-{steps[2]}", f"{key}-{steps[0]}")
        assert second.high < 20  # the source's step from the head alone to two layers
    assert adds == ["squeezenet-fires6-7", "squeezenet-all", "lite0-top", "lite0-stages5-6"]
