"""A small residual network for images of about 32 x 32 pixels, quick enough for a laptop."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from tlcourse._checks import check_int
from tlcourse.models.classifier import Classifier, check_images


class SmallResNet(Classifier):
    """Classify small images with a stem and three residual stages.

    The backbone's parts, earliest first, for images of 32 x 32 and width w: ``stem``
    (w, 16, 16), ``stage1`` (w, 16, 16), ``stage2`` (2w, 8, 8), ``stage3`` (4w, 4, 4), then the mean
    over space: D = 4w features.

    Parameters
    ----------
    n_classes
        K, at least 2.
    in_channels
        1 for grey images, 3 for coloured ones.
    width
        w, the number of channels of the first stage.

    Raises
    ------
    TypeError, ValueError
        If a number is no integer or too small.

    Examples
    --------
    >>> import torch
    >>> model = SmallResNet(10)
    >>> model(torch.rand(3, 1, 32, 32)).shape
    torch.Size([3, 10])
    >>> model.backbone(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 64])

    References
    ----------
    He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2016, section 3.3; He et
    al., Delving Deep into Rectifiers, 2015, eq. 10, for the initial weights.
    """

    def __init__(self, n_classes: int, *, in_channels: int = 1, width: int = 16) -> None:
        check_int("in_channels", in_channels, low=1)
        check_int("width", width, low=1)
        super().__init__(_Stages(in_channels, width), n_classes)


class _Stages(nn.Module):
    layers = ("stem", "stage1", "stage2", "stage3")

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.in_channels, self.n_features = in_channels, 4 * width
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.stage1 = _Block(width, width, stride=1)
        self.stage2 = _Block(width, 2 * width, stride=2)
        self.stage3 = _Block(2 * width, 4 * width, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, smallest=8)
        h: Tensor = self.stem(x)  # (N, C, H, W) -> (N, w, H/2, W/2)
        h = self.stage1(h)
        h = self.stage2(h)  # -> (N, 2w, H/4, W/4)
        h = self.stage3(h)  # -> (N, 4w, H/8, W/8)
        return h.mean((2, 3))  # -> (N, 4w)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, a 1 x 1 convolution where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.bn1(self.conv1(x)))  # (N, n_in, H, W) -> (N, n_out, H/stride, W/stride)
        h = self.bn2(self.conv2(h))
        return relu(h + self.shortcut(x))
