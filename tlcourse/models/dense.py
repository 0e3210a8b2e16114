"""One network for several tasks on every pixel: a shared trunk, and a head for each task."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_dtype, check_int, shape_of


class DenseNetwork(nn.Module):
    """Answer several questions about every pixel, from shared features.

    The trunk goes down to an eighth of the resolution and back up to half of it, with a shortcut at
    each size. A head is a 3 x 3 convolution and a linear layer of its own; it writes the four
    pixels that each place stands for.

    Parameters
    ----------
    outputs
        For every task the numbers per pixel: classes, or dimensions of a regression.
    in_channels
        Of the images.
    width
        Channels at half the resolution; twice as many below.

    Raises
    ------
    TypeError, ValueError
        If there is no task, or a number is no integer or too small.

    Examples
    --------
    >>> import torch
    >>> model = DenseNetwork([14, 2, 1])
    >>> [tuple(answer.shape) for answer in model(torch.rand(3, 1, 40, 40))]
    [(3, 14, 40, 40), (3, 2, 40, 40), (3, 1, 40, 40)]
    """

    def __init__(self, outputs: Sequence[int], *, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        if len(outputs) == 0:
            raise ValueError("outputs is empty: it takes the numbers per pixel of every task.")
        for i, n in enumerate(outputs):
            check_int(f"outputs[{i}]", n, low=1)
        check_int("in_channels", in_channels, low=1)
        check_int("width", width, low=1)
        w = width
        self.in_channels = in_channels
        self.stem = nn.Sequential(_layer(4 * in_channels, w), _layer(w, w))
        self.down1 = nn.Sequential(_layer(w, 2 * w, stride=2), _layer(2 * w, 2 * w))
        self.down2 = nn.Sequential(_layer(2 * w, 2 * w, stride=2), _layer(2 * w, 2 * w))
        self.up2 = _layer(2 * w, 2 * w)
        self.up1 = _layer(2 * w, w)
        self.heads = nn.ModuleList(
            nn.Sequential(_layer(w, w), nn.Conv2d(w, 4 * n, 1)) for n in outputs
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return an answer for every task, (N, C_i, H, W). H and W must be multiples of 8."""
        check_dtype("images", images)
        if images.ndim != 4 or images.shape[1] != self.in_channels or images.numel() == 0:
            raise ValueError(
                f"images must have shape (N, {self.in_channels}, H, W), none of them 0; got "
                f"{shape_of(images)}."
            )
        if images.shape[2] % 8 or images.shape[3] % 8:
            raise ValueError(f"images must have sides of 8 n pixels, got {shape_of(images)}.")
        half = self.stem(F.pixel_unshuffle(images, 2))  # (N, w, H/2, W/2)
        quarter = self.down1(half)  # (N, 2w, H/4, W/4)
        eighth = self.down2(quarter)  # (N, 2w, H/8, W/8)
        quarter = self.up2(quarter + _double(eighth))
        half = half + _double(self.up1(quarter))
        return tuple(F.pixel_shuffle(head(half), 2) for head in self.heads)


def _layer(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
