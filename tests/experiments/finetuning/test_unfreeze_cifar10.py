"""Unfreezing on tiny data: which layers move when, and where it starts."""

from __future__ import annotations

from tlcourse.experiments import get
from tlcourse.experiments.finetuning import _parts as parts


def test_unfreezing_goes_layer_by_layer_from_the_end(tmp_path, fits, tiny):
    experiment = tiny("unfreeze-cifar10")
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)

    def layers(moved):
        return {int(n.split(".")[3]) for n in moved if n.startswith("backbone.net.features.")}

    stages = {name: layers(moved) for name, moved, _ in fits}
    assert {n for n, _, _ in fits} == {"fire9", "fire8", "fires6-7", "all", "scratch"}
    assert stages["fire9"] == {12}
    assert stages["fire8"] == {10, 12}
    assert stages["fires6-7"] == {8, 9, 10, 12}
    assert stages["all"] == {0, 3, 4, 5, 7, 8, 9, 10, 12}


def test_unfreezing_starts_at_the_head_of_a_probe(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(parts, "fit", lambda *_, **__: None)
    unfreeze, probe = tiny("unfreeze-cifar10"), tiny("probe-cifar10")
    settings, of_probe = unfreeze.settings["quick"], probe.settings["quick"]
    data = unfreeze.load({})
    found = unfreeze.run_seed(data, settings, 0, tmp_path)
    same = probe.run_seed(data, of_probe | {"labels_per_class": [3, 5]}, 0, tmp_path)
    assert {found[name] for name in settings["stages"]} == {same["probe-3"]}


def test_the_report_s_figures_stand_beside_the_rows_that_they_are_of():
    paper = {row.key: row.paper for row in get("unfreeze-cifar10").rows if row.paper is not None}
    assert paper == {"head": 77.0, "fire8": 97.0}
    for name in ("probe-cifar10", "finetune-digits"):
        assert all(row.paper is None for row in get(name).rows)
