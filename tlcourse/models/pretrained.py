"""Backbones that were trained on ImageNet, from torchvision, without their ImageNet heads."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tlcourse._checks import check_choice, check_float_tensor, check_int, shape_of
from tlcourse.models.classifier import check_images

# The names that are taken, and how to write them.
TITLES = {
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
# What ImageNet networks were trained on: channel means and deviations of images in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Turn ImageNet-like images into feature vectors.

    `pretrained_backbone` makes them; ``Classifier(backbone, n_classes)`` puts a head on one.

    Attributes
    ----------
    n_features
        D, the length of a feature vector.
    layers
        The names of the submodules that hold parameters, the earliest first.
    weights_name
        Which weights these are, in words for a table.
    """

    def __init__(self, features: nn.Sequential, n_features: int, weights_name: str) -> None:
        super().__init__()
        self.features = features
        self.n_features = n_features
        self.weights_name = weights_name
        self.layers = tuple(
            f"features.{name}"
            for name, child in features.named_children()
            if any(True for _ in child.parameters())
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of normalised images, (N, 3, H, W) -> (N, D)."""
        check_images(x, 3, smallest=32)
        maps: Tensor = self.features(x)  # (N, 3, H, W) -> (N, D, h, w)
        return maps.mean((2, 3))  # -> (N, D)

    def preprocess(self, images: Tensor, *, size: int = 224) -> Tensor:
        r"""Bring images into the form that the weights were trained on.

        The shorter side is resized to ``size`` pixels, the middle cut out, and every channel c
        normalised:

        .. math:: x_c = (i_c - \mu_c) / \sigma_c

        where i are the images and :math:`\mu`, :math:`\sigma` ImageNet's means and deviations.

        Parameters
        ----------
        images
            (N, 1 or 3, H, W), floating-point, in [0, 1]. A grey channel is repeated three times.
        size
            Pixels, at least 32. 224 is what the weights were trained at; 128 takes a third of the
            time.

        Returns
        -------
        Tensor
            (N, 3, size, size).

        Raises
        ------
        TypeError, ValueError
            If the shape is another, a value NaN or out of [0, 1], or the size too small.
        """
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
            images = interpolate(images, shape, mode="bilinear", antialias=True)
            images = images.clamp(0, 1)
        top, left = (images.shape[2] - size) // 2, (images.shape[3] - size) // 2
        images = images[:, :, top : top + size, left : left + size]  # (N, C, size, size)
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        return (images - mean) / std  # (N, 1 or 3, size, size) -> (N, 3, size, size)


def pretrained_backbone(
    name: str = "squeezenet1_0", *, weights: str | None = "imagenet"
) -> Backbone:
    """Return a torchvision network without its head, with ImageNet weights or with random ones.

    The weights' file is looked for in ``$TORCH_HOME/hub/checkpoints``, torch's own cache; if it is
    not there, torchvision's is downloaded to it.

    Parameters
    ----------
    name
        ``squeezenet1_0``, ``squeezenet1_1``, ``resnet18``, ``resnet34``, ``resnet50``,
        ``mobilenet_v2``, ``mobilenet_v3_small``, ``mobilenet_v3_large`` or ``efficientnet_b0``.
    weights
        ``"imagenet"``, or None for random weights.

    Returns
    -------
    Backbone
        In training mode, like every new module.

    Raises
    ------
    FileNotFoundError
        If the weights are not on this machine and cannot be downloaded.
    ValueError
        If the name is not taken, or the file is damaged or belongs to another network.

    Examples
    --------
    >>> backbone = pretrained_backbone("squeezenet1_0", weights=None)
    >>> x = backbone.preprocess(torch.rand(2, 1, 28, 28), size=64)
    >>> x.shape, backbone(x).shape
    (torch.Size([2, 3, 64, 64]), torch.Size([2, 512]))
    >>> backbone.layers[:2], backbone.weights_name
    (('features.0', 'features.3'), 'SqueezeNet 1.0 (random weights)')

    References
    ----------
    Iandola et al., SqueezeNet, 2016. Han, Mao and Dally, Deep Compression, 2016, for its compressed
    release. He et al., 2016 (ResNet); Sandler et al., 2018, Howard et al., 2019 (MobileNet); Tan
    and Le, 2019 (EfficientNet).
    """
    check_choice("name", name, TITLES)
    if weights not in (None, "imagenet"):
        raise ValueError(
            f"weights is {weights!r}; it takes 'imagenet', or None for random weights."
        )
    import torchvision

    network = torchvision.models.get_model(name, weights=None)
    weights_name = f"{TITLES[name]} (random weights)"
    if weights == "imagenet":
        source = torchvision.models.get_model_weights(name).DEFAULT
        weights_name = f"{TITLES[name]} ({_load_weights(network, name, source)})"
    features = _features(network)
    with torch.no_grad():
        n_features = features.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
    return Backbone(features.train(), n_features, weights_name)


def _features(network: Any) -> nn.Sequential:
    """Return all but the head: torchvision has it in ``features``, or as a ResNet's layers."""
    if hasattr(network, "features"):
        features: nn.Sequential = network.features
        return features
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    stages = {f"layer{i}": getattr(network, f"layer{i}") for i in range(1, 5)}
    return nn.Sequential(OrderedDict(stem=stem, **stages))


def _load_weights(network: nn.Module, name: str, source: Any) -> str:
    """Load the file into the network, and say whose file it is by its checksum."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(source.url).name
    megabytes = source.meta.get("_file_size", 0.0)
    instead = (
        "weights=None (random weights) needs no file, and tlcourse.source.glyph_network() trains a "
        "source network for small images here."
    )
    if not path.exists():
        try:
            torch.hub.load_state_dict_from_url(
                source.url, map_location="cpu", check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash the other
            raise FileNotFoundError(
                f"The ImageNet weights of {TITLES[name]} are not on this machine: looked at "
                f"{path}, then tried {source.url} ({megabytes:.0f} MB), which failed ({error}). "
                f"Put the file there by hand, or set TORCH_HOME to a folder that has it. {instead}"
            ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} does not hold the weights of {TITLES[name]}, or is damaged: {reason} "
            f"Delete it and run this again to download {megabytes:.0f} MB from {source.url}. "
            f"{instead}"
        ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # torchvision puts the start of a file's SHA-256 at the end of its name.
    if digest.startswith(path.stem.rsplit("-", 1)[-1]):
        return "torchvision"
    return _RELEASES.get((name, digest[:8]), f"another file, SHA-256 {digest[:8]}")
