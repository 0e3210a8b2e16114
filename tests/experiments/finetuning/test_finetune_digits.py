"""From printed characters to digits, on tiny data: which stages move when."""

from __future__ import annotations


def test_staged_digits_move_later_stages_first(tmp_path, fits, tiny):
    experiment = tiny("finetune-digits")
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    moved = {name: {n.split(".")[1] for n in names} for name, names, _ in fits}
    assert moved["staged-1-1"] == {"stage3", "weight", "bias"}  # of the head
    assert moved["staged-1-2"] == {"stage2", "stage3", "weight", "bias"}
    everything = {"stem", "stage1", "stage2", "stage3", "weight", "bias"}
    assert moved["staged-1-3"] == moved["tuned-1"] == moved["scratch-1"] == everything
