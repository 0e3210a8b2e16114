"""The fine-tuning experiments on tiny data: what is frozen, chosen and measured, and resuming."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, few_per_class
from tlcourse.experiments import common, get
from tlcourse.experiments import finetuning as module
from tlcourse.experiments.runner import run
from tlcourse.finetuning import changed, extract_features, snapshot
from tlcourse.models import SmallResNet, pretrained_backbone

NAMES = ("probe-cifar10", "unfreeze-cifar10", "finetune-digits")
SQUEEZENET = module.PROBE_QUICK | {
    "size": 32,
    "weights": "SqueezeNet 1.0 (random weights)",
    "scratch_width": 2,
    "batch_size": 8,
}
PROBE = SQUEEZENET | {
    "labels_per_class": [2, 5],
    "strengths": [0.01, 1.0],
    "finetune_epochs": [1, 1],
    "scratch_epochs": [2, 1],
}
UNFREEZE = (
    module.UNFREEZE_QUICK
    | SQUEEZENET
    | {
        "labels_per_class": 3,
        "strengths": [0.01, 1.0],
        "stage_epochs": [1] * 4,
        "scratch_epochs": 1,
    }
)
DIGITS = module.DIGITS | {"scratch_width": 4, "labels_per_class": [1, 2], "epochs": [3, 3]}


def images(n_per_class, *, channels=3, n_classes=3, seed=0, name="CIFAR-10 (JPEG)"):
    """Noise with a brightness of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_per_class * n_classes) % n_classes
    noise = torch.rand(len(labels), channels, 32, 32, generator=generator)
    pixels = 0.6 * noise + 0.4 * labels[:, None, None, None] / (n_classes - 1)
    return LabelledImages(pixels, labels, tuple("abcdefghij"[:n_classes]), name)


@pytest.fixture(autouse=True)
def random_networks(monkeypatch, tmp_path):
    """Put networks of fixed random weights in the place of the trained ones."""

    def backbone(name):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return pretrained_backbone(name, weights=None)

    def glyphs(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SmallResNet(62).eval()

    monkeypatch.setattr(module, "pretrained_backbone", backbone)
    monkeypatch.setattr(module, "glyph_network", glyphs)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))


def tiny(name):
    """Return an experiment with tiny settings on tiny data."""
    channels = 1 if name == "finetune-digits" else 3
    data = {"train": images(6, channels=channels), "test": images(4, channels=channels, seed=1)}
    settings, rows = {
        "probe-cifar10": (PROBE, module._probe_rows((2, 5))),
        "unfreeze-cifar10": (UNFREEZE, module.UNFREEZE_ROWS),
        "finetune-digits": (DIGITS, module._digits_rows((1, 2))),
    }[name]
    return dataclasses.replace(
        get(name), settings={"quick": settings}, rows=rows, load=lambda _: data
    )


@pytest.fixture
def fits(monkeypatch):
    """Return a record of every training: its checkpoint's name, and the weights that moved."""
    done, real = [], module.fit

    def spy(model, *arguments, **how):
        before = snapshot(model)
        real(model, *arguments, **how)
        moved = {name for name in changed(model, before) if not name.endswith("tracked")}
        done.append((how["checkpoint"].stem, moved, model))

    monkeypatch.setattr(module, "fit", spy)
    return done


@pytest.mark.parametrize("name", NAMES)
def test_a_run_fills_its_table_with_accuracies(name, tmp_path):
    result = run(tiny(name), profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == len(tiny(name).rows)
    test_images = 12  # every accuracy is so many twelfths
    for row in result.rows.values():
        hits = row.values[0] / 100 * test_images
        assert hits == pytest.approx(round(hits)), row.key
        assert 0 <= hits <= test_images, row.key


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_in_the_same_numbers(name, tmp_path, monkeypatch):
    undisturbed = run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "a", say=lambda _: 0)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "other"))
    real, calls = module.fit, []

    def killed(*arguments, **how):
        calls.append(how["checkpoint"].name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **how)

    monkeypatch.setattr(module, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    kept = {path.name for path in (tmp_path / "other").rglob("*.safetensors")}
    assert set(calls[:3]) <= kept
    monkeypatch.setattr(module, "fit", real)
    resumed = run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert resumed.record["resumed"]
    assert {k: row.values for k, row in resumed.rows.items()} == {
        k: row.values for k, row in undisturbed.rows.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_training_has_a_checkpoint_of_its_own(name, tmp_path, fits):
    experiment = tiny(name)
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    names = [name for name, _, _ in fits]
    assert len(set(names)) == len(names)


def test_unfreezing_goes_layer_by_layer_from_the_end(tmp_path, fits):
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


def test_the_groups_hold_every_layer_of_squeezenet_once():
    model = module.with_head(module._imagenet_features(SQUEEZENET), torch.nn.Linear(512, 3))
    layers = [f"backbone.net.{layer}" for layer in model.backbone.net.layers]
    assert [name for group in module._BLOCKS for name in group] == [*layers, "head"]


def test_staged_digits_move_later_stages_first(tmp_path, fits):
    experiment = tiny("finetune-digits")
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    moved = {name: {n.split(".")[1] for n in names} for name, names, _ in fits}
    assert moved["staged-1-1"] == {"stage3", "weight", "bias"}  # of the head
    assert moved["staged-1-2"] == {"stage2", "stage3", "weight", "bias"}
    everything = {"stem", "stage1", "stage2", "stage3", "weight", "bias"}
    assert moved["staged-1-3"] == moved["tuned-1"] == moved["scratch-1"] == everything


def test_fine_tuning_starts_at_the_head_of_the_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit", lambda *_, **__: None)
    found = module.run_probe(tiny("probe-cifar10").load({}), PROBE, 0, tmp_path)
    assert found["finetune-2"] == found["probe-2"]
    assert found["finetune-5"] == found["probe-5"]


def test_unfreezing_starts_at_the_head_of_a_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit", lambda *_, **__: None)
    data = tiny("unfreeze-cifar10").load({})
    found = module.run_unfreeze(data, UNFREEZE, 0, tmp_path)
    probe = module.run_probe(data, PROBE | {"labels_per_class": [3, 5]}, 0, tmp_path)
    assert {found[name] for name in UNFREEZE["stages"]} == {probe["probe-3"]}


def test_a_seed_draws_its_own_images_and_never_test_images(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "fit", lambda *a, **_: seen.append(a[2]))
    data = tiny("probe-cifar10").load({})
    for seed in (0, 1):
        module.run_probe(data, PROBE, seed, tmp_path)
    for i, seed in ((0, 0), (4, 1)):  # four trainings a seed, with 2 and with 5 a class
        for j, n in ((0, 2), (1, 2), (2, 5), (3, 5)):
            expected = few_per_class(data["train"], n, seed=seed)
            assert torch.equal(seen[i + j].images, expected.images)
    assert not torch.equal(seen[0].images, seen[4].images)


def test_the_head_of_cached_features_is_the_head_of_the_network():
    few, backbone = images(5), module._imagenet_features(SQUEEZENET)
    features = extract_features(backbone, few)
    head = module.linear_head(features, [0.1])
    model = module.with_head(backbone, head).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(few.images), head(features.tensors[0]))
    assert model.head is not head  # training the network leaves the probe as it is


def test_the_standardisation_is_folded_into_the_head():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + 5
    y = torch.arange(30) % 3
    head = module.linear_head(TensorDataset(x, y), [0.5])
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=5_000))
    expected = torch.from_numpy(expected.fit(x.double().numpy(), y.numpy()).decision_function(x))
    torch.testing.assert_close(head(x).double(), expected, rtol=1e-3, atol=1e-4)


def test_the_strength_is_chosen_on_the_last_fifth_alone():
    # Two features tell the classes; a hundred are noise, which only a strong penalty keeps out.
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(60) % 3
    x = torch.randn(60, 100, generator=generator)
    x[:, 0] += 1.5 * y
    strengths = [1e-3, 1e-2, 1e1]
    x_np, y_np = x.double().numpy(), y.numpy()
    scores = []
    for c in strengths:
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5_000))
        scores.append(pipeline.fit(x_np[:48], y_np[:48]).score(x_np[48:], y_np[48:]))
    best = strengths[scores.index(max(scores))]
    assert min(scores) < max(scores)
    chosen = module.linear_head(TensorDataset(x, y), strengths)
    expected = module.linear_head(TensorDataset(x, y), [best])
    assert torch.equal(chosen.weight, expected.weight)
    others = [module.linear_head(TensorDataset(x, y), [c]) for c in strengths if c != best]
    assert all(not torch.allclose(chosen.weight, o.weight) for o in others)


def test_the_test_images_are_a_fixed_share_of_every_class(monkeypatch):
    pool = images(9, seed=1)
    pool = pool.subset(pool.labels.argsort())  # class by class, as files in folders are
    monkeypatch.setattr(common, "cifar10", lambda: (images(3), pool))
    settings = SQUEEZENET | {"test_per_class": 4}
    first, second = common.load_cifar10(settings), common.load_cifar10(settings)
    assert first["test"].labels.bincount().tolist() == [4, 4, 4]
    assert first["test"].fingerprint() == second["test"].fingerprint()
    assert first["train"].fingerprint() == images(3).fingerprint()


def test_other_data_or_weights_than_the_recorded_are_said(monkeypatch):
    original = images(3, name="CIFAR-10")
    monkeypatch.setattr(common, "cifar10", lambda: (original, original))
    with pytest.warns(UserWarning, match=r"data: CIFAR-10\. .* CIFAR-10 \(JPEG\)"):
        common.load_cifar10(SQUEEZENET | {"test_per_class": 1})
    with pytest.warns(UserWarning, match=r"weights: SqueezeNet 1.0 \(random weights\)"):
        module._imagenet_features(module.PROBE_FULL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module._imagenet_features(SQUEEZENET)


def test_the_report_s_figures_stand_beside_the_rows_that_they_are_of():
    paper = {row.key: row.paper for row in get("unfreeze-cifar10").rows if row.paper is not None}
    assert paper == {"head": 77.0, "fire8": 97.0}
    for name in ("probe-cifar10", "finetune-digits"):
        assert all(row.paper is None for row in get(name).rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_settings_fit_the_table(name, profile):
    experiment = get(name)
    settings = experiment.settings[profile]
    assert experiment.seeds["full"] >= 3
    if name == "unfreeze-cifar10":
        assert [*settings["stages"], "scratch"] == [row.key for row in experiment.rows]
        assert len(settings["stage_epochs"]) == len(settings["stages"]) - 1
        assert len(settings["groups"]) == len(settings["stages"])
        return
    keys = {row.key.rpartition("-")[2] for row in experiment.rows}
    assert keys == {str(n) for n in settings["labels_per_class"]}
    per_size = [v for k, v in settings.items() if k.endswith("epochs")]
    assert all(len(v) == len(settings["labels_per_class"]) for v in per_size)
