"""Wide residual networks for 32 x 32 images: WRN-d-k has d layers and is k times as wide."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from tlcourse._checks import check_int
from tlcourse.models.classifier import Classifier, check_images


class WideResNet(Classifier):
    """Classify small images with WRN-d-k, d = 6n + 4.

    A 3 x 3 convolution, then three groups of n blocks with 16k, 32k and 64k channels on maps of
    32 x 32, 16 x 16 and 8 x 8 pixels. A block is BN-ReLU-conv, twice, beside a shortcut, so that
    nothing but additions lies on the straight path from first to last layer.

    Parameters
    ----------
    depth
        d: 10, 16, 22, 28, 34, 40 ... It counts the first convolution, the 6n of the blocks, and the
        groups' three shortcuts.
    width
        k, at least 1.
    n_classes
        K, at least 2.
    in_channels
        3 for coloured images, 1 for grey ones.

    Raises
    ------
    TypeError, ValueError
        If the depth is not 6n + 4, or another number too small.

    Notes
    -----
    Weights and maps are kept in the channels-last memory format, twice as quick on a CPU. Shapes
    are as always, (N, C, H, W).

    Examples
    --------
    >>> model = WideResNet(16, 1, 10)
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> model.layers
    ('backbone.stem', 'backbone.stage1', ..., 'backbone.bn', 'head')

    References
    ----------
    Zagoruyko and Komodakis, Wide Residual Networks, 2016, table 1; He et al., Identity Mappings in
    Deep Residual Networks, 2016, figure 1b, for the order inside a block.
    """

    def __init__(self, depth: int, width: int, n_classes: int, *, in_channels: int = 3) -> None:
        check_int("depth", depth, low=10)
        if (depth - 4) % 6:
            below = depth - (depth - 4) % 6
            raise ValueError(
                f"depth must be 6n + 4 (10, 16, 22, 28, 34, 40 ...), got {depth}; the nearest are "
                f"{below} and {below + 6}."
            )
        check_int("width", width, low=1)
        check_int("in_channels", in_channels, low=1)
        super().__init__(_Groups((depth - 4) // 6, width, in_channels), n_classes)
        nn.init.zeros_(self.head.bias)


class _Groups(nn.Module):
    layers = ("stem", "stage1", "stage2", "stage3", "bn")

    def __init__(self, n: int, width: int, in_channels: int) -> None:
        super().__init__()
        k = width
        self.in_channels, self.n_features = in_channels, 64 * k
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stage1 = _group(n, 16, 16 * k, stride=1)
        self.stage2 = _group(n, 16 * k, 32 * k, stride=2)
        self.stage3 = _group(n, 32 * k, 64 * k, stride=2)
        self.bn = nn.BatchNorm2d(64 * k)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, smallest=4)
        h = self.stem(x.contiguous(memory_format=torch.channels_last))  # -> (N, 16, H, W)
        h = self.stage1(h)  # -> (N, 16k, H, W)
        h = self.stage2(h)  # -> (N, 32k, H/2, W/2)
        h = self.stage3(h)  # -> (N, 64k, H/4, W/4)
        return relu(self.bn(h)).mean((2, 3))  # -> (N, 64k)


def _group(n: int, n_in: int, n_out: int, stride: int) -> nn.Sequential:
    first = _Block(n_in, n_out, stride)
    return nn.Sequential(first, *(_Block(n_out, n_out, 1) for _ in range(n - 1)))


class _Block(nn.Module):
    """BN-ReLU-conv, twice, beside the shortcut; a 1 x 1 convolution where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if n_in != n_out or stride != 1:
            self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = relu(self.bn1(x))
        h: Tensor = self.conv1(a)  # (N, n_in, H, W) -> (N, n_out, H/stride, W/stride)
        h = self.conv2(relu(self.bn2(h)))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(a)
        return h + shortcut
