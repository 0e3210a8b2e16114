"""A classifier is a backbone, which makes features, and a head, which makes logits of them.

To transfer is to keep the backbone of one classifier and to put a fresh head on it.
"""

from __future__ import annotations

from torch import Tensor, nn

from tlcourse._checks import check_int, shape_of


class Classifier(nn.Module):
    r"""Put a fresh linear head on a backbone.

    .. math:: z = W \, \phi(x) + b

    where

    - x: (N, C, H, W) images;
    - :math:`\phi`: the backbone, x -> (N, D) features;
    - W: (K, D) and b: (K,), the head's weight and bias;
    - z: (N, K) logits.

    Parameters
    ----------
    backbone
        A module that returns (N, D) features and has ``n_features``, its D. It is taken as it is,
        not copied: what trains here trains there.
    n_classes
        K, at least 2.

    Raises
    ------
    TypeError
        If the backbone is no module, or does not say its number of features.
    ValueError
        If there are fewer than 2 classes.

    Examples
    --------
    >>> import torch
    >>> from tlcourse.models import SmallResNet
    >>> source = SmallResNet(62)
    >>> model = Classifier(source.backbone, 10)
    >>> model(torch.rand(3, 1, 32, 32)).shape
    torch.Size([3, 10])
    >>> model.layers
    ('backbone.stem', 'backbone.stage1', 'backbone.stage2', 'backbone.stage3', 'head')
    """

    def __init__(self, backbone: nn.Module, n_classes: int) -> None:
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}.")
        n_features = getattr(backbone, "n_features", None)
        if not isinstance(n_features, int):
            raise TypeError(
                f"backbone must have an integer n_features, the length of its feature vectors; "
                f"{type(backbone).__name__} has {n_features!r}. Pass the .backbone of a "
                "classifier, or set the attribute."
            )
        check_int("n_classes", n_classes, low=2)
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(n_features, n_classes)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the parts that can be frozen or unfrozen, the earliest first."""
        inner = getattr(self.backbone, "layers", None)
        return (*(f"backbone.{name}" for name in inner), "head") if inner else ("backbone", "head")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        logits: Tensor = self.head(self.backbone(x))  # (N, D) -> (N, K)
        return logits


def check_images(x: Tensor, channels: int, *, smallest: int = 1) -> None:
    """Raise unless x is (N, channels, H, W) of floating-point numbers, H and W not too small."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}.")
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(
            f"x must be images of shape (N, {channels}, H, W), got {shape_of(x)}."
            + (" Add the batch dimension: x[None]." if x.ndim == 3 else "")
        )
    if min(x.shape[2:]) < smallest:
        raise ValueError(f"x must be at least {smallest} pixels wide and high, got {shape_of(x)}.")
    if not x.is_floating_point():
        raise TypeError(f"x must hold floating-point numbers, got {x.dtype}: use images / 255.")
