from __future__ import annotations

import hashlib
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision

from tlcourse.models import pretrained, pretrained_backbone

URL = "squeezenet1_0-b66bff10.pth"


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
    backbone = pretrained_backbone()
    assert backbone.weights_name == f"SqueezeNet 1.0 (another file, SHA-256 {digest})"
    x = torch.rand(2, 3, 64, 64)
    expected = network.features.eval()(x).mean((2, 3))
    assert torch.equal(backbone.eval()(x), expected)

    monkeypatch.setattr(pretrained, "_RELEASES", {("squeezenet1_0", digest): "compressed release"})
    assert pretrained_backbone().weights_name == "SqueezeNet 1.0 (compressed release)"


def test_torchvision_s_own_file_is_known_by_its_checksum(home):
    network = torchvision.models.squeezenet1_0()
    torch.save(network.state_dict(), home / URL)
    digest = hashlib.sha256((home / URL).read_bytes()).hexdigest()[:8]
    (home / URL).rename(home / f"squeezenet1_0-{digest}.pth")
    source = SimpleNamespace(url=f"https://example.org/squeezenet1_0-{digest}.pth", meta={})
    assert pretrained._load_weights(network, "squeezenet1_0", source) == "torchvision"


def test_without_file_and_network_the_error_says_what_to_do(home):
    with pytest.raises(FileNotFoundError) as error:
        pretrained_backbone()
    message = str(error.value)
    for part in (
        str(home / URL),
        "https://",
        "5 MB",
        "TORCH_HOME",
        "weights=None",
        "glyph_network",
    ):
        assert part in message


@pytest.mark.parametrize(
    "content", [b"", b"not a file of weights", b"PK\x03\x04 half a zip archive"]
)
def test_a_damaged_file_is_named(home, content):
    (home / URL).write_bytes(content)
    with pytest.raises(ValueError, match=r"SqueezeNet 1.0, or is damaged.*Delete it") as error:
        pretrained_backbone()
    assert str(home / URL) in str(error.value)
    assert (home / URL).read_bytes() == content


def test_a_truncated_file_is_named(home):
    torch.save(torchvision.models.squeezenet1_0().state_dict(), home / URL)
    whole = (home / URL).read_bytes()
    (home / URL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        pretrained_backbone()


def test_another_network_s_file_is_refused(home):
    torch.save(torch.nn.Linear(2, 2).state_dict(), home / URL)
    with pytest.raises(ValueError, match=r"does not hold the weights of SqueezeNet 1.0"):
        pretrained_backbone()


@pytest.mark.parametrize(
    ("name", "n_features", "first", "last"),
    [
        ("squeezenet1_0", 512, "features.0", "features.12"),
        ("resnet18", 512, "features.stem", "features.layer4"),
        ("mobilenet_v3_small", 576, "features.0", "features.12"),
    ],
)
def test_features_and_layers(name, n_features, first, last):
    backbone = pretrained_backbone(name, weights=None).eval()
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
    features = pretrained._features(network)
    x = torch.rand(1, 3, 64, 64)
    network.fc = torch.nn.Identity()
    torch.testing.assert_close(features(x).mean((2, 3)), network(x))


def test_preprocess_normalises():
    backbone = pretrained_backbone(weights=None)
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
    backbone = pretrained_backbone(weights=None)
    x = backbone.preprocess(torch.full(shape, 0.5), size=size)
    assert x.shape == (shape[0], 3, size, size)
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, expected.view(1, 3, 1, 1).expand_as(x))


def test_preprocess_cuts_the_middle_out():
    images = torch.zeros(1, 1, 32, 96)
    images[..., 32:64] = 1
    x = pretrained_backbone(weights=None).preprocess(images, size=32)
    assert torch.all(x[:, 0] == x[0, 0, 0, 0])
    assert x[0, 0, 0, 0] > 2


def test_224_pixels_unless_told():
    assert pretrained_backbone(weights=None).preprocess(torch.rand(1, 1, 32, 32)).shape[-1] == 224


def test_wrong_names():
    with pytest.raises(ValueError, match=r"'squeezenet10'; it takes.*Did you mean 'squeezenet1_0'"):
        pretrained_backbone("squeezenet10")
    with pytest.raises(ValueError, match=r"weights is 'cifar'; it takes 'imagenet', or None"):
        pretrained_backbone(weights="cifar")


def test_wrong_images():
    backbone = pretrained_backbone(weights=None)
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
