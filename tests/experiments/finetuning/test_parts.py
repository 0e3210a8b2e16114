"""What the experiments on few labels share: the head, killed runs, the data, on tiny data."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset

from tlcourse.experiments import _shared, get, run
from tlcourse.experiments.finetuning import _parts as parts
from tlcourse.experiments.finetuning import probe_cifar10
from tlcourse.finetuning import extract_features

NAMES = ("probe-cifar10", "unfreeze-cifar10", "finetune-digits")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_fills_its_table_with_accuracies(name, tmp_path, tiny):
    result = run(tiny(name), profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == len(tiny(name).rows)
    test_images = 12  # every accuracy is so many twelfths
    for row in result.rows.values():
        hits = row.values[0] / 100 * test_images
        assert hits == pytest.approx(round(hits)), row.key
        assert 0 <= hits <= test_images, row.key


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_in_the_same_numbers(name, tmp_path, monkeypatch, tiny):
    undisturbed = run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "a", say=lambda _: 0)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "other"))
    real, calls = parts.fit, []

    def killed(*arguments, **how):
        calls.append(how["checkpoint"].name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **how)

    monkeypatch.setattr(parts, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    kept = {path.name for path in (tmp_path / "other").rglob("*.safetensors")}
    assert set(calls[:3]) <= kept
    monkeypatch.setattr(parts, "fit", real)
    resumed = run(tiny(name), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert resumed.record["runs"][0]["resumed"]
    assert {k: row.values for k, row in resumed.rows.items()} == {
        k: row.values for k, row in undisturbed.rows.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_training_has_a_checkpoint_of_its_own(name, tmp_path, fits, tiny):
    experiment = tiny(name)
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    names = [name for name, _, _ in fits]
    assert len(set(names)) == len(names)


@pytest.fixture(params=sorted(parts.NETWORKS))
def network(request, tiny):
    """One of the two networks, with random weights."""
    return tiny("probe-cifar10").settings["quick"]["networks"][request.param]


def test_the_groups_hold_every_layer_of_a_network_once(network):
    backbone = parts.imagenet_features(network, 32)
    layers = [f"backbone.net.{layer}" for layer in backbone.net.layers]
    assert [name for group in network["groups"] for name in group] == [*layers, "head"]


def test_the_images_are_preprocessed_as_the_network_wants_them(network, images):
    backbone, few = parts.imagenet_features(network, 40), images(2)
    plain = parts.pretrained_backbone(network["name"]).eval()
    with torch.no_grad():
        expected = plain(plain.preprocess(few.images, size=40))
        torch.testing.assert_close(backbone.eval()(few.images), expected)


def test_the_head_of_cached_features_is_the_head_of_the_network(images, network):
    few, backbone = images(5), parts.imagenet_features(network, 32)
    features = extract_features(backbone, few)
    head = parts.linear_head(features, [0.1])
    model = parts.with_head(backbone, head).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(few.images), head(features.tensors[0]))
    assert model.head is not head  # training the network leaves the probe as it is


def test_the_standardisation_is_folded_into_the_head():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + 5
    y = torch.arange(30) % 3
    head = parts.linear_head(TensorDataset(x, y), [0.5])
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
    chosen = parts.linear_head(TensorDataset(x, y), strengths)
    expected = parts.linear_head(TensorDataset(x, y), [best])
    assert torch.equal(chosen.weight, expected.weight)
    others = [parts.linear_head(TensorDataset(x, y), [c]) for c in strengths if c != best]
    assert all(not torch.allclose(chosen.weight, o.weight) for o in others)


def test_the_test_images_are_a_fixed_share_of_every_class(monkeypatch, images, tiny):
    probe = tiny("probe-cifar10").settings["quick"]
    pool = images(9, seed=1)
    pool = pool.subset(pool.labels.argsort())  # class by class, as files in folders are
    monkeypatch.setattr(_shared, "cifar10", lambda: (images(3), pool))
    settings = probe | {"test_per_class": 4}
    first, second = _shared.load_cifar10(settings), _shared.load_cifar10(settings)
    assert first["test"].labels.bincount().tolist() == [4, 4, 4]
    assert first["test"].fingerprint() == second["test"].fingerprint()
    assert first["train"].fingerprint() == images(3).fingerprint()


def test_other_data_or_weights_than_the_recorded_are_said(monkeypatch, images, tiny):
    probe = tiny("probe-cifar10").settings["quick"]
    original = images(3, name="CIFAR-10")
    monkeypatch.setattr(_shared, "cifar10", lambda: (original, original))
    with pytest.warns(UserWarning, match=r"data: CIFAR-10\. .* CIFAR-10 \(JPEG\)"):
        _shared.load_cifar10(probe | {"test_per_class": 1})
    with pytest.warns(UserWarning, match=r"weights: SqueezeNet 1.0 \(random weights\)"):
        parts.imagenet_features(probe_cifar10.FULL["networks"]["squeezenet"], 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for network in probe["networks"].values():
            parts.imagenet_features(network, 32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_settings_fit_the_table(name, profile):
    experiment = get(name)
    settings = experiment.settings[profile]
    assert experiment.seeds["full"] >= 3
    if name == "unfreeze-cifar10":
        keys = [f"{k}-{s}" for k, net in settings["networks"].items() for s in net["stages"]]
        assert [*keys, "scratch"] == [row.key for row in experiment.rows]
        for network in settings["networks"].values():
            assert len(settings["stage_epochs"]) == len(network["stages"]) - 1
            assert len(network["groups"]) == len(network["stages"])
        return
    keys = {row.key.rpartition("-")[2] for row in experiment.rows}
    assert keys == {str(n) for n in settings["labels_per_class"]}
    per_size = [v for k, v in settings.items() if k.endswith("epochs")]
    assert all(len(v) == len(settings["labels_per_class"]) for v in per_size)
