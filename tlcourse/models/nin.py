"""Network in network: convolutions with small perceptrons between them, for 32 x 32 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlcourse._checks import check_int
from tlcourse.models.classifier import Classifier, check_images


class NetworkInNetwork(Classifier):
    """Classify small images with three groups of one wide convolution and 1 x 1 convolutions.

    A 1 x 1 convolution is a layer of a perceptron that looks at one place: so each group slides a
    small network over its input. With width w the groups have w, 5w/6, w/2 channels on maps of
    32 x 32 pixels, w, w, w on 16 x 16, and w, w on 8 x 8. Every convolution is followed by batch
    normalisation and a ReLU.

    Parameters
    ----------
    width
        w, a multiple of 6: 192 is the paper's network (1 million weights for 10 classes), 96 one
        of half its channels (0.2 million).
    n_classes
        K, at least 2.
    in_channels
        3 for coloured images, 1 for grey ones.

    Raises
    ------
    TypeError, ValueError
        If the width is no multiple of 6, or another number too small.

    Notes
    -----
    The paper ends in a 1 x 1 convolution to K maps and takes the mean of each. Here the mean comes
    first and a linear head second: both are linear, so that their order does not matter. The paper
    drops half of what lies between two groups and does not normalise; this network normalises and
    drops nothing.

    Weights and maps are kept in the channels-last memory format, which is quicker on a CPU. Shapes
    are as always, (N, C, H, W).

    Examples
    --------
    >>> model = NetworkInNetwork(96, 10)
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> model.layers
    ('backbone.stage1', 'backbone.stage2', 'backbone.stage3', 'head')

    References
    ----------
    Lin, Chen and Yan, Network In Network, 2014, section 3; Ioffe and Szegedy, Batch Normalization,
    2015.
    """

    def __init__(self, width: int, n_classes: int, *, in_channels: int = 3) -> None:
        check_int("width", width, low=6)
        if width % 6:
            below = width - width % 6
            raise ValueError(
                f"width must be a multiple of 6, got {width}; the nearest are {below} and "
                f"{below + 6}."
            )
        check_int("in_channels", in_channels, low=1)
        super().__init__(_Groups(width, in_channels), n_classes)


class _Groups(nn.Module):
    layers = ("stage1", "stage2", "stage3")

    def __init__(self, w: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.n_features = in_channels, w
        self.stage1 = nn.Sequential(
            *_convolution(in_channels, w, 5),
            *_convolution(w, 5 * w // 6, 1),
            *_convolution(5 * w // 6, w // 2, 1),
        )
        self.stage2 = nn.Sequential(
            nn.MaxPool2d(3, stride=2, padding=1),
            *_convolution(w // 2, w, 5),
            *_convolution(w, w, 1),
            *_convolution(w, w, 1),
        )
        self.stage3 = nn.Sequential(
            nn.AvgPool2d(3, stride=2, padding=1),
            *_convolution(w, w, 3),
            *_convolution(w, w, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, smallest=4)
        h = self.stage1(x.contiguous(memory_format=torch.channels_last))  # -> (N, w/2, H, W)
        h = self.stage2(h)  # -> (N, w, H/2, W/2)
        h = self.stage3(h)  # -> (N, w, H/4, W/4)
        mean: Tensor = h.mean((2, 3))  # -> (N, w)
        return mean


def _convolution(n_in: int, n_out: int, size: int) -> tuple[nn.Module, ...]:
    """(N, n_in, H, W) -> (N, n_out, H, W)."""
    convolution = nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(n_out), nn.ReLU()
