"""Three tasks on scenes, on tiny data: rows, weights, measures, and resuming."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import scenes
from tlcourse.experiments import get, load_result, run
from tlcourse.experiments.multitask import uncertainty_scenes as module

TINY = module.SCENES | {"width": 2, "epochs": 3, "n_scenes": [24, 8, 8], "size": 24}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))


def tiny():
    train, test = scenes(24, 8, size=24)
    data = {"train": train.coarse(), "validation": train.coarse(), "test": test.coarse()}
    experiment = get("uncertainty-scenes")
    return dataclasses.replace(experiment, settings={"quick": TINY}, load=lambda _: data)


def test_a_run_fills_its_table(tmp_path):
    result = run(tiny(), profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    for row in result.rows.values():
        assert row.unit
        assert row.values[0] >= 0


def test_a_killed_run_ends_in_the_same_numbers(tmp_path, monkeypatch):
    undisturbed = run(tiny(), profile="quick", seeds=[3], out=tmp_path / "a", say=lambda _: 0)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "other"))
    real, calls = module.fit, []

    def killed(*arguments, **how):
        calls.append(how["checkpoint"].name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments, **how)

    monkeypatch.setattr(module, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    monkeypatch.setattr(module, "fit", real)
    resumed = run(tiny(), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert resumed.record["runs"][0]["resumed"]
    assert {k: row.values for k, row in resumed.rows.items()} == {
        k: row.values for k, row in undisturbed.rows.items()
    }


def test_every_training_has_a_checkpoint_of_its_own(tmp_path, monkeypatch):
    files, real = [], module.fit
    monkeypatch.setattr(
        module, "fit", lambda *a, **how: files.append(how["checkpoint"]) or real(*a, **how)
    )
    experiment = tiny()
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    assert len(set(files)) == len(files)


def test_mean_iou_by_hand():
    true = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 0]])
    predicted = torch.tensor([[0, 1, 1, 1], [2, 2, 0, 0]])
    # class 0: both 2, either 4; class 1: both 2, either 3; class 2: both 2, either 3
    expected = (2 / 4 + 2 / 3 + 2 / 3) / 3
    assert module.mean_iou(predicted, true, 3) == pytest.approx(expected)


def test_the_measures_of_a_perfect_and_of_a_shifted_answer():
    data = scenes(5, 1, size=24)[0].coarse()

    class Answers(torch.nn.Module):
        def __init__(self, instances, depth):
            super().__init__()
            self.answers = instances, depth

        def forward(self, images):
            one_hot = torch.nn.functional.one_hot(data.segmentation, 5).movedim(-1, 1).float()
            return (one_hot, *self.answers)

    perfect = Answers(data.instances, data.inverse_depth)
    found = module.measure(perfect, data, module.TASKS)
    assert found == {"segmentation": 100, "instances": 0, "depth": 0}
    shift = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    off = Answers(data.instances + shift, data.inverse_depth - 0.02)
    found = module.measure(off, data, module.TASKS)
    assert found["instances"] == pytest.approx(5, rel=1e-5)
    assert found["depth"] == pytest.approx(2, rel=1e-4)


def test_weights_are_fixed_or_learned(tmp_path, monkeypatch):
    seen = []

    def spy(model, objective, data, *, optimizer, checkpoint, **how):
        trainable = {id(p) for g in optimizer.param_groups for p in g["params"]}
        seen.append((checkpoint.stem, model, trainable, optimizer))

    monkeypatch.setattr(module, "fit", spy)
    experiment = tiny()
    experiment.run_seed(experiment.load({}), TINY, 0, tmp_path)
    rows = {name: model for name, model, *_ in seen}
    assert rows["unweighted"].weights == [1 / 3] * 3
    assert rows["grid-1"].weights == pytest.approx([3 / 304, 1 / 304, 300 / 304])
    assert rows["optimal"].weights in [rows[f"grid-{i}"].weights for i in range(6)]
    assert rows["seg-depth"].weighting.kinds == ("classification", "regression")
    assert rows["all"].weighting.kinds == ("classification", "regression", "regression")
    for name, model, trainable, optimizer in seen:
        assert {id(p) for p in model.parameters()} == trainable
        if name in module._LEARNED:
            group = optimizer.param_groups[1]
            assert group["params"] == [model.weighting.log_variances]
            assert group["weight_decay"] == 0


def test_the_fixed_sum_is_the_weighted_sum():
    data = scenes(3, 1, size=24)[0].coarse()
    torch.manual_seed(0)
    model = module.Weighted(module.TASKS, [0.2, 0.5, 0.3], 5, 2).eval()
    batch = data[:]
    losses = module.dense_losses(model(batch[0]), batch, module.TASKS)
    expected = 0.2 * losses[0] + 0.5 * losses[1] + 0.3 * losses[2]
    torch.testing.assert_close(model.loss(batch), expected)


def test_the_best_weights_are_chosen_on_the_validation_scenes(tmp_path, monkeypatch):
    experiment = tiny()
    data = dict(experiment.load({}))
    data["validation"] = data["test"].subset(range(4))
    asked = []
    real = module.measure
    monkeypatch.setattr(module, "fit", lambda *_, **__: None)
    monkeypatch.setattr(
        module, "measure", lambda m, d, t: asked.append((d, m.weights)) or real(m, d, t)
    )
    experiment.run_seed(data, TINY, 0, tmp_path)
    grid = [module.normalised(w) for w in TINY["grid"]]
    on_test = [w for d, w in asked if d is data["test"] and w in grid]
    on_validation = [w for d, w in asked if d is data["validation"] and w in grid]
    assert len(on_test) == 1  # the chosen one
    assert on_validation == grid


def test_no_digit_of_the_test_scenes_is_trained_on():
    data = module.load_scenes(TINY)
    assert [len(d) for d in data.values()] == [24, 8, 8]
    assert len({d.fingerprint() for d in data.values()}) == 3
    assert all(d.n_classes == 5 for d in data.values())


def test_the_lecture_s_nine_lines_have_their_rows():
    paper = {row.key: row.paper for row in get("uncertainty-scenes").rows}
    assert len(paper) == 18
    assert paper["alone-seg"] == 59.4
    assert paper["alone-inst"] == 4.61
    assert paper["alone-depth"] == 0.64
    assert [paper[f"unweighted-{m}"] for m in ("seg", "inst", "depth")] == [50.1, 3.79, 0.592]
    assert [paper[f"optimal-{m}"] for m in ("seg", "inst", "depth")] == [62.8, 3.61, 0.549]
    assert [paper["seg-inst-seg"], paper["seg-inst-inst"]] == [61.0, 3.42]
    assert [paper["seg-depth-seg"], paper["seg-depth-depth"]] == [62.7, 0.533]
    assert [paper["inst-depth-inst"], paper["inst-depth-depth"]] == [3.54, 0.539]
    assert [paper[f"all-{m}"] for m in ("seg", "inst", "depth")] == [63.4, 3.50, 0.522]


# --- what the chapter says ------------------------------------------------------------------------


# Three seeds carry no claim, so each sentence is of every seed. Segmentation is an IoU, higher is
# better; the other two are errors, lower is better.


def of_each_seed(row, other, measure):
    return load_result("uncertainty-scenes").differences(f"{row}-{measure}", f"{other}-{measure}")


def test_what_the_chapter_says_of_the_segmentation():
    assert max(of_each_seed("unweighted", "alone", "seg")) < 0
    assert min(of_each_seed("all", "unweighted", "seg")) > 0
    assert min(of_each_seed("all", "alone", "seg")) > -2
    assert max(of_each_seed("all", "alone", "seg")) < 0


def test_what_the_chapter_says_of_the_centres():
    assert max(map(abs, of_each_seed("unweighted", "alone", "inst"))) < 1 / 50
    for other in ("unweighted", "alone"):
        more = of_each_seed("all", other, "inst")
        assert 0 < min(more) <= max(more) < 1 / 20, other


def test_what_the_chapter_says_of_the_depth():
    assert min(of_each_seed("unweighted", "alone", "depth")) > 0
    for other in ("unweighted", "alone"):
        assert max(of_each_seed("all", other, "depth")) < 0, other


@pytest.mark.parametrize("two", ["seg-inst-seg", "seg-depth-seg", "seg-depth-depth",
                                 "inst-depth-depth"])  # fmt: skip
def test_what_the_chapter_says_of_the_third_task(two):
    measure = two.rpartition("-")[2]
    third = load_result("uncertainty-scenes").paired(f"all-{measure}", two)
    assert third.low < 0 < third.high


def test_what_the_chapter_says_of_the_papers_scenes():
    paper = {row.key: row.paper for row in get("uncertainty-scenes").rows}
    assert paper["unweighted-seg"] < paper["alone-seg"] < paper["all-seg"]
    for measure in ("inst", "depth"):  # errors
        alone = paper[f"alone-{measure}"]
        assert max(paper[f"unweighted-{measure}"], paper[f"all-{measure}"]) < alone
    assert paper["all-seg"] == max(v for k, v in paper.items() if k.endswith("-seg"))
    assert paper["all-depth"] == min(v for k, v in paper.items() if k.endswith("-depth"))
