"""The multi-task experiments on tiny data: rows, weights, selections, and resuming."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import LabelledImages, scenes
from tlcourse.experiments import get, multitask, selective, selective_why
from tlcourse.experiments.results import load_result
from tlcourse.experiments.runner import run
from tlcourse.metrics import interval
from tlcourse.models import SmallResNet
from tlcourse.multitask import JointFineTuning, SelectiveJointFineTuning

SCENES = multitask.SCENES | {"width": 2, "epochs": 3, "n_scenes": [24, 8, 8], "size": 24}
SELECTIVE = selective.DIGITS | {
    "labels_per_class": 2,
    "epochs": 4,
    "rounds": 2,
    "width": 4,
    "most": 12,
    "bins": 8,
    "retrieval": {"start": 2, "if_wrong": 4, "if_uncertain": 1, "entropy_threshold": 0.1},
}
CIFAR10 = SELECTIVE | {"source_rate": 1e-3, "source_epochs": 1}
NAMES = ("uncertainty-scenes", "selective-joint", "selective-joint-cifar10")


def images(n_per_class, n_classes, *, channels=1, seed=0):
    """Noise with a brightness of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_per_class * n_classes) % n_classes
    noise = torch.rand(len(labels), channels, 32, 32, generator=generator)
    pixels = 0.6 * noise + 0.4 * labels[:, None, None, None] / n_classes
    return LabelledImages(pixels, labels, tuple("abcdefghij"[:n_classes]), "CIFAR-10 (JPEG)")


@pytest.fixture(autouse=True)
def small_source(monkeypatch, tmp_path):
    def network(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(9)
            return SmallResNet(4, width=4).eval()

    monkeypatch.setattr(selective, "glyph_network", network)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))


def tiny(name):
    if name == "uncertainty-scenes":
        train, test = scenes(24, 8, size=24)
        data = {"train": train.coarse(), "validation": train.coarse(), "test": test.coarse()}
        settings = SCENES
    else:
        channels = 3 if name.endswith("cifar10") else 1
        data = {
            "source": images(10, 4, channels=channels),
            "train": images(5, 3, channels=channels, seed=1),
            "test": images(4, 3, channels=channels, seed=2),
        }
        settings = CIFAR10 if name.endswith("cifar10") else SELECTIVE
    return dataclasses.replace(get(name), settings={"quick": settings}, load=lambda _: data)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_fills_its_table(name, tmp_path):
    result = run(tiny(name), profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    for row in result.rows.values():
        assert row.unit
        assert row.values[0] >= 0
        if name != "uncertainty-scenes":
            hits = row.values[0] / 100 * 12
            assert hits == pytest.approx(round(hits)), row.key


@pytest.mark.parametrize(("name", "stop"), [("uncertainty-scenes", 6), ("selective-joint", 2)])
def test_a_killed_run_ends_in_the_same_numbers(name, stop, tmp_path, monkeypatch):
    module = multitask if name == "uncertainty-scenes" else selective
    undisturbed = run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "a", say=lambda _: 0)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "other"))
    real, calls = module.fit, []

    def killed(*arguments, **how):
        calls.append(how["checkpoint"].name)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return real(*arguments, **how)

    monkeypatch.setattr(module, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    monkeypatch.setattr(module, "fit", real)
    resumed = run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert resumed.record["resumed"]
    assert {k: row.values for k, row in resumed.rows.items()} == {
        k: row.values for k, row in undisturbed.rows.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_training_has_a_checkpoint_of_its_own(name, tmp_path, monkeypatch):
    module = multitask if name == "uncertainty-scenes" else selective
    files, real = [], module.fit
    monkeypatch.setattr(
        module, "fit", lambda *a, **how: files.append(how["checkpoint"]) or real(*a, **how)
    )
    experiment = tiny(name)
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    assert len(set(files)) == len(files)


# --- scenes ---------------------------------------------------------------------------------------


def test_mean_iou_by_hand():
    true = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 0]])
    predicted = torch.tensor([[0, 1, 1, 1], [2, 2, 0, 0]])
    # class 0: both 2, either 4; class 1: both 2, either 3; class 2: both 2, either 3
    expected = (2 / 4 + 2 / 3 + 2 / 3) / 3
    assert multitask.mean_iou(predicted, true, 3) == pytest.approx(expected)


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
    found = multitask.measure(perfect, data, multitask.TASKS)
    assert found == {"segmentation": 100, "instances": 0, "depth": 0}
    shift = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    off = Answers(data.instances + shift, data.inverse_depth - 0.02)
    found = multitask.measure(off, data, multitask.TASKS)
    assert found["instances"] == pytest.approx(5, rel=1e-5)
    assert found["depth"] == pytest.approx(2, rel=1e-4)


def test_weights_are_fixed_or_learned(tmp_path, monkeypatch):
    seen = []

    def spy(model, objective, data, *, optimizer, checkpoint, **how):
        trainable = {id(p) for g in optimizer.param_groups for p in g["params"]}
        seen.append((checkpoint.stem, model, trainable, optimizer))

    monkeypatch.setattr(multitask, "fit", spy)
    experiment = tiny("uncertainty-scenes")
    experiment.run_seed(experiment.load({}), SCENES, 0, tmp_path)
    rows = {name: model for name, model, *_ in seen}
    assert rows["unweighted"].weights == [1 / 3] * 3
    assert rows["grid-1"].weights == pytest.approx([3 / 304, 1 / 304, 300 / 304])
    assert rows["optimal"].weights in [rows[f"grid-{i}"].weights for i in range(6)]
    assert rows["seg-depth"].weighting.kinds == ("classification", "regression")
    assert rows["all"].weighting.kinds == ("classification", "regression", "regression")
    for name, model, trainable, optimizer in seen:
        assert {id(p) for p in model.parameters()} == trainable
        if name in multitask._LEARNED:
            group = optimizer.param_groups[1]
            assert group["params"] == [model.weighting.log_variances]
            assert group["weight_decay"] == 0


def test_the_fixed_sum_is_the_weighted_sum():
    data = scenes(3, 1, size=24)[0].coarse()
    torch.manual_seed(0)
    model = multitask.Weighted(multitask.TASKS, [0.2, 0.5, 0.3], 5, 2).eval()
    batch = data[:]
    losses = multitask.dense_losses(model(batch[0]), batch, multitask.TASKS)
    expected = 0.2 * losses[0] + 0.5 * losses[1] + 0.3 * losses[2]
    torch.testing.assert_close(model.loss(batch), expected)


def test_the_best_weights_are_chosen_on_the_validation_scenes(tmp_path, monkeypatch):
    experiment = tiny("uncertainty-scenes")
    data = dict(experiment.load({}))
    data["validation"] = data["test"].subset(range(4))
    asked = []
    real = multitask.measure
    monkeypatch.setattr(multitask, "fit", lambda *_, **__: None)
    monkeypatch.setattr(
        multitask, "measure", lambda m, d, t: asked.append((d, m.weights)) or real(m, d, t)
    )
    experiment.run_seed(data, SCENES, 0, tmp_path)
    grid = [multitask.normalised(w) for w in SCENES["grid"]]
    on_test = [w for d, w in asked if d is data["test"] and w in grid]
    on_validation = [w for d, w in asked if d is data["validation"] and w in grid]
    assert len(on_test) == 1  # the chosen one
    assert on_validation == grid


def test_no_digit_of_the_test_scenes_is_trained_on():
    data = multitask.load_scenes(SCENES)
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


# --- selective ------------------------------------------------------------------------------------


@pytest.fixture
def source_heads():
    """Return what `rows` fills in: the first weights of every row's source head."""
    return {}


@pytest.fixture
def rows(monkeypatch, tmp_path, source_heads):
    """Return every row's model with what it had selected before and after its training."""
    found = {}
    real = selective.train

    def spy(model, few, settings, rate, seed, files, augment, *, iterate):
        before = getattr(model, "selected", None)
        weight = model.backbone.stage2.conv1.weight.detach().clone()
        if isinstance(model, JointFineTuning):
            source_heads[files.name] = model.source_head.weight.detach().clone()
        real(model, few, settings, rate, seed, files, augment, iterate=iterate)
        found[files.name] = (model, before, getattr(model, "selected", None), weight, rate)

    monkeypatch.setattr(selective, "train", spy)
    experiment = tiny("selective-joint")
    experiment.run_seed(experiment.load({}), SELECTIVE, 0, tmp_path)
    return found


def test_which_source_images_each_row_sees(rows):
    trained = {row.key for row in get("selective-joint").rows} - {"fusion"}
    assert set(rows) == trained
    for name in ("selective", "gabor", "selective-scratch", "val"):
        model, before, after, *_ = rows[name]
        assert isinstance(model, SelectiveJointFineTuning)
        assert set(before.tolist()) < set(after.tolist()), name
    assert torch.equal(rows["once"][1], rows["once"][2])
    assert torch.equal(rows["once"][1], rows["selective"][1])
    assert not torch.equal(rows["gabor"][1], rows["selective"][1])
    assert len(rows["all"][2]) == 40
    assert len(rows["random"][2]) == len(rows["selective"][2])
    for name in ("finetune", "scratch"):
        assert not isinstance(rows[name][0], JointFineTuning)


def test_which_weights_each_row_starts_from(rows):
    source = selective.glyph_network(progress=False).backbone.stage2.conv1.weight
    for name, (_, _, _, weight, rate) in rows.items():
        from_scratch = name in ("scratch", "selective-scratch")
        assert torch.equal(weight, source) != from_scratch, name
        assert rate == SELECTIVE["scratch_rate" if from_scratch else "rate"]
    assert torch.equal(rows["scratch"][3], rows["selective-scratch"][3])


def test_joint_rows_start_with_the_source_network_s_head(rows, source_heads):
    head = selective.glyph_network(progress=False).head.weight
    assert set(source_heads) == set(rows) - {"scratch", "finetune"}
    for name, weight in source_heads.items():
        assert torch.equal(weight, head) == (name != "selective-scratch"), name


def test_rounds_change_nothing_for_a_row_that_retrieves_nothing(tmp_path):
    """One cosine over all rounds, one optimizer: only the order of the samples is another."""
    parts = [selective._part_of_cosine(i, 4, t) for i in range(4) for t in (0.0, 0.5)]
    assert parts == [selective.cosine_decay(i / 8) for i in range(8)]


def test_classes_of_cifar10_are_divided_between_source_and_target():
    data = images(4, 6)
    target = selective.only(data, ["e", "b"])
    assert target.classes == ("e", "b")
    assert torch.equal(target.images[target.labels == 0], data.images[data.labels == 4])
    assert torch.equal(target.images[target.labels == 1], data.images[data.labels == 1])


def test_the_lecture_s_rows_stand_in_its_order():
    flowers, dogs = ([row.paper for row in get(name).rows] for name in NAMES[1:])
    assert flowers == [58.2, 80.6, 92.3, 93.4, 93.2, 94.2, 93.8, 94.7, 95.8, 97.0]
    assert dogs == [53.8, 83.4, 80.4, 85.6, 85.5, 88.3, 87.5, 90.2, 90.3, None]


def test_fusion_is_the_mean_of_probabilities():
    x = torch.rand(3, 1, 32, 32)
    models = [SmallResNet(4, width=2).eval() for _ in range(2)]
    expected = sum(model(x).exp() / model(x).exp().sum(1, keepdim=True) for model in models) / 2
    torch.testing.assert_close(selective.Fusion(models)(x), expected)


def test_the_fused_are_the_two_banks_and_a_validation_set_doubles_the_target(tmp_path, monkeypatch):
    experiment = tiny("selective-joint")
    data, seen, measured = experiment.load({}), {}, []
    real_train, real_per_cent = selective.train, selective.per_cent

    def train(model, few, settings, rate, seed, files, augment, *, iterate):
        seen[files.name] = model, few
        real_train(model, few, settings, rate, seed, files, augment, iterate=iterate)

    def per_cent(model, test):
        assert test is data["test"]
        measured.append(model)
        return real_per_cent(model, test)

    monkeypatch.setattr(selective, "train", train)
    monkeypatch.setattr(selective, "per_cent", per_cent)
    experiment.run_seed(data, SELECTIVE, 0, tmp_path)
    (fusion,) = [model for model in measured if isinstance(model, selective.Fusion)]
    assert list(fusion.models) == [seen["selective"][0], seen["gabor"][0]]
    (_, few), (_, twice) = seen["selective"], seen["val"]
    assert len(twice) == 2 * len(few)
    assert torch.equal(twice.images[: len(few)], few.images)
    assert all(part is few for name, (_, part) in seen.items() if name != "val")


def test_every_row_takes_as_many_steps(tmp_path, monkeypatch):
    steps, real = {}, selective.fit

    def fit(model, objective, on, *, epochs, batch_size, checkpoint, **how):
        name = checkpoint.stem.rpartition("-")[0]
        steps[name] = steps.get(name, 0) + epochs * -(-len(on) // batch_size)
        how |= {"epochs": epochs, "batch_size": batch_size, "checkpoint": checkpoint}
        return real(model, objective, on, **how)

    monkeypatch.setattr(selective, "fit", fit)
    experiment = tiny("selective-joint")
    settings = SELECTIVE | {"batch_size": 3}
    experiment.run_seed(experiment.load({}), settings, 0, tmp_path)
    assert len(steps) == 9
    assert len(set(steps.values())) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_settings_fit(name, profile):
    experiment = get(name)
    settings = experiment.settings[profile]
    assert experiment.seeds["full"] >= 3
    if name != "uncertainty-scenes":
        assert settings["epochs"] % (2 * settings["rounds"]) == 0
        assert settings["retrieval"]["start"] <= settings["most"]


# --- why selection wins nothing -------------------------------------------------------------------

WHY = selective_why.QUICK | {
    "n_source": 225,
    "width": 4,
    "epochs": 4,
    "rounds": 2,
    "most": 12,
    "bins": 8,
    "retrieval": SELECTIVE["retrieval"],
}


@pytest.fixture(scope="module")
def characters():
    return selective_why.load_characters_and_digits(WHY)


def test_what_is_near_and_what_is_far(characters):
    letters, near, far = (characters[name] for name in ("letters", "near", "far"))
    assert [len(letters), len(near), len(far)] == [175, 50, 150]
    assert letters.classes == near.classes == far.classes
    assert len(far.classes) == 10 + 35 + 35
    assert near.labels.max() < 10 <= letters.labels.min()
    assert letters.labels.max() < 45 <= far.labels.min()
    names = {far.classes[k] for k in far.labels.tolist()}
    assert all(name.endswith(", negative") for name in names)
    assert far.images.mean() > 0.5 > letters.images.mean()  # dark ink on bright ground
    mixed = selective_why.together(near, far)
    assert sorted(mixed.labels.tolist()) == sorted([*near.labels.tolist(), *far.labels.tolist()])
    assert (mixed.labels[:50] < 10).float().mean() < 0.5  # shuffled
    i = int((mixed.labels == far.labels[0]).nonzero()[0])
    assert any(torch.equal(mixed.images[i], image) for image in far.images)


def test_each_row_starts_and_sees_what_it_says(characters, tmp_path, monkeypatch):
    seen, learned = {}, {}
    real_train, real_pretrain = selective_why.train, selective_why.pretrain

    def train(model, few, settings, rate, seed, files, augment, *, iterate):
        seen[files.name] = model, model.backbone.stage2.conv1.weight.detach().clone(), iterate
        real_train(model, few, settings, rate, seed, files, augment, iterate=iterate)

    def pretrain(network, data, settings, seed, file, augment, *, batch_size):
        real_pretrain(network, data, settings, seed, file, augment, batch_size=batch_size)
        learned[file.stem] = set(data.labels.tolist()), network.backbone.stage2.conv1.weight.clone()

    monkeypatch.setattr(selective_why, "train", train)
    monkeypatch.setattr(selective_why, "pretrain", pretrain)
    found = selective_why.run_seed(characters, WHY, 0, tmp_path)
    experiment = get("selective-joint-why")
    assert set(found) == {row.key for row in experiment.rows}
    assert learned["new"][0] == set(range(10, 45))  # letters alone
    assert learned["known"][0] == set(range(80))
    for name, (model, weight, iterate) in seen.items():
        known, *rest = name.split("-")
        assert torch.equal(weight, learned[known][1]), name
        assert iterate == name.endswith("selective")
        assert isinstance(model, JointFineTuning) == (rest != ["finetune"])
        if rest[0] in ("near", "mixed"):
            assert len(model.source) == {"near": 50, "mixed": 200}[rest[0]]
    for case in ("known-near", "known-mixed", "new-near", "new-mixed"):
        models = {way: seen[f"{case}-{way}"][0] for way in selective_why.WAYS}
        assert len(models["random"].selected) == len(models["selective"].selected)
        assert len(models["all"].selected) == len(models["all"].source)
    chosen = seen["new-mixed-selective"][0]
    near = (chosen.source.labels[chosen.selected] < 10).sum()
    assert found["new-mixed-share"] == pytest.approx(100 * float(near) / len(chosen.selected))


# --- what the chapter says ------------------------------------------------------------------------


def test_what_the_chapter_says_of_the_recorded_digits():
    """To start from the source pays; how the source images are chosen makes no difference."""
    result = load_result("selective-joint")

    def difference(a, b):
        return interval(result.differences(a, b))

    for row in ("all", "random", "once", "gabor", "selective"):
        assert difference(row, "finetune").low < 0 < difference(row, "finetune").high, row
        assert difference(row, "scratch").low > 0, row
    for row in ("all", "random", "once", "gabor", "fusion"):
        assert difference("selective", row).low < 0 < difference("selective", row).high, row
    assert difference("val", "selective").low > 0  # more labels do help
    for name in ("selective-joint", "selective-joint-cifar10"):
        result = load_result(name)
        gain = difference("selective-scratch", "scratch")
        assert gain.low < 0 < gain.high, name


def test_what_the_chapter_says_of_why():
    """Selection pays where the source is new and partly far off: it spares the target the harm."""
    result = load_result("selective-joint-why")

    def difference(a, b):
        return interval(result.differences(a, b))

    for case in ("known-near", "known-mixed", "new-near"):
        for way in ("all", "random", "selective"):
            gain = difference(f"{case}-{way}", f"{case.partition('-')[0]}-finetune")
            assert gain.low < 0 < gain.high, (case, way)
    for way in ("all", "random"):
        assert difference(f"new-mixed-{way}", "new-finetune").high < 0
        assert difference("new-mixed-selective", f"new-mixed-{way}").low > 0
        assert difference("known-mixed-selective", f"known-mixed-{way}").low < 0
    back = difference("new-mixed-selective", "new-finetune")
    assert back.low < 0 < back.high
    for known in ("known", "new"):
        assert result[f"{known}-mixed-share"].interval.mean > 95


def test_what_the_chapter_says_of_the_recorded_scenes():
    result = load_result("uncertainty-scenes")

    def difference(a, b):
        return interval(result.differences(a, b))

    assert difference("all-seg", "unweighted-seg").low > 0  # the plain sum spoils two tasks
    assert difference("all-depth", "unweighted-depth").high < 0
    assert difference("unweighted-seg", "alone-seg").high < 0
    assert difference("unweighted-depth", "alone-depth").low > 0
    assert difference("all-depth", "alone-depth").high < 0  # one network against three
    assert difference("all-seg", "alone-seg").low < 0 < difference("all-seg", "alone-seg").high
    assert 0 < difference("all-inst", "alone-inst").mean < 0.1
    spread = max(result[f"{row}-inst"].interval.mean for row in ("unweighted", "optimal", "all"))
    assert spread < 1.05 * result["alone-inst"].interval.mean
