r"""Filter banks: what an image looks like at the lowest level, before any meaning.

Selective joint fine-tuning asks which source images have edges, textures and colours like those of
the target. Two banks answer: Gabor filters, which need no data, and the first convolutions of a
trained network, which fit natural images better (Ge and Yu, 2017).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tlcourse._checks import check_float_tensor, check_int, check_number, near, shape_of
from tlcourse._modes import evaluating


@dataclass(frozen=True)
class Responses:
    """What a bank answers to N images.

    Attributes
    ----------
    maps
        For every layer the responses of its filters, (N, F_l, H_l, W_l), before any non-linearity.
    bank
        The key of the bank, so that what is made of them cannot be mixed with another's.
    """

    maps: tuple[Tensor, ...]
    bank: str

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.maps)


class GaborBank(nn.Module):
    r"""Gabor filters of several orientations and wavelengths: edges and stripes.

    .. math:: g(x, y) = \exp \left( -\frac{x'^2 + \gamma^2 y'^2}{2 \varsigma^2} \right)
              \cos \left( 2 \pi \frac{x'}{\lambda} + \psi \right), \qquad
              x' = x \cos\theta + y \sin\theta, \quad y' = -x \sin\theta + y \cos\theta

    where :math:`\theta` is the orientation, :math:`\lambda` the wavelength and
    :math:`\varsigma = \lambda / 2` the width in pixels, :math:`\gamma = 0.5`, and :math:`\psi` is 0
    and :math:`\pi / 2`: one even and one odd filter. Each has a mean of 0, so that it does not see
    brightness, and a norm of 1. Coloured images are averaged over their channels first.

    Parameters
    ----------
    orientations
        How many, evenly over half a turn; at least 1.
    wavelengths
        In pixels, each at least 2.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or there is no wavelength.

    Examples
    --------
    >>> bank = GaborBank(orientations=4, wavelengths=(4.0, 8.0))
    >>> bank.n_filters
    16
    >>> [tuple(m.shape) for m in bank(torch.rand(3, 1, 32, 32))]
    [(3, 16, 32, 32)]

    References
    ----------
    Ge and Yu (2017), section 3, use a bank of Gabor filters as one of two; Jain and Farrokhnia,
    Unsupervised Texture Segmentation Using Gabor Filters, 1991, for the filters.
    """

    def __init__(
        self, *, orientations: int = 6, wavelengths: Sequence[float] = (3.0, 5.0, 8.0)
    ) -> None:
        super().__init__()
        check_int("orientations", orientations, low=1)
        if isinstance(wavelengths, (int, float)):
            raise TypeError(
                f"wavelengths must be a list of numbers, got {wavelengths}: write ({wavelengths},)."
            )
        if len(wavelengths) == 0:
            raise ValueError("wavelengths is empty: give one or more, in pixels.")
        for i, wavelength in enumerate(wavelengths):
            check_number(f"wavelengths[{i}]", wavelength, low=2)
        self.kernels: list[Tensor] = []  # for every wavelength, (2 orientations, 1, k, k)
        for wavelength in wavelengths:
            angles = [math.pi * i / orientations for i in range(orientations)]
            self.kernels.append(
                torch.stack([_gabor(wavelength, a, p) for a in angles for p in (0, 1)])
            )
        self.n_filters = 2 * orientations * len(wavelengths)
        self.weights = torch.full((self.n_filters,), 1 / self.n_filters)
        self.key = key_of("gabor", self.kernels)

    def forward(self, images: Tensor) -> Responses:
        """Return the responses at every pixel: one map, (N, F, H, W). The images are (N, C, H, W).

        The map comes to the CPU, where bin edges and descriptors are made.

        Raises
        ------
        TypeError, ValueError
            If the images have another shape, hold NaN, or are smaller than the largest filter.
        """
        _check_images(images)
        grey = images.mean(1, keepdim=True)  # (N, 1, H, W)
        maps = []
        for kernel in self.kernels:
            margin = kernel.shape[-1] // 2
            if margin >= min(images.shape[2:]):
                raise ValueError(
                    f"images of {shape_of(images.shape[2:])} pixels are too small for a filter of "
                    f"{kernel.shape[-1]}: take shorter wavelengths."
                )
            padded = F.pad(grey, (margin,) * 4, mode="reflect")  # no edge where the image ends
            maps.append(F.conv2d(padded, kernel.to(grey)))
        return Responses((torch.cat(maps, dim=1).cpu(),), self.key)  # (N, F, H, W)

    def extra_repr(self) -> str:
        """Return the number of filters, for printing."""
        return f"n_filters={self.n_filters}"


class ConvBank(nn.Module):
    """The first convolutions of a trained network, as a filter bank.

    The responses are taken where a convolution has written them, before batch normalisation and
    ReLU, and copied there: a ReLU that works in place would else write its zeros into them. The
    network runs in evaluation mode, no further than the last layer named, and without gradients.

    Parameters
    ----------
    model
        A network. It is taken as it is, not copied: trained further, it is another bank, and asks
        for new bin edges.
    layers
        Names of its convolutions, as ``model.named_modules()`` gives them.

    Raises
    ------
    TypeError, ValueError
        If a name is none of the model's modules, is named twice, or is no convolution.

    Examples
    --------
    >>> from tlcourse.models import SmallResNet
    >>> bank = ConvBank(SmallResNet(10), ["backbone.stem.0", "backbone.stage1.conv1"])
    >>> bank.n_filters
    32
    >>> [tuple(m.shape) for m in bank(torch.rand(3, 1, 32, 32))]
    [(3, 16, 16, 16), (3, 16, 16, 16)]

    References
    ----------
    Ge and Yu (2017), section 3, with the first two layers of AlexNet. ``weights`` gives each layer
    the same share of the distance, however many filters it has.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
        if isinstance(layers, str) or len(layers) == 0:
            raise TypeError(f"layers must be a list of one or more names, got {layers!r}.")
        modules = dict(model.named_modules())
        found = []
        for name in layers:
            if name not in modules:
                takes = [n for n, m in modules.items() if isinstance(m, nn.Conv2d)]
                raise ValueError(
                    f"layers names {name!r}, which {type(model).__name__} has not; its "
                    f"convolutions are {', '.join(takes)}.{near(name, takes)}"
                )
            module = modules[name]
            if not isinstance(module, nn.Conv2d):
                raise TypeError(
                    f"layers[{name!r}] is a {type(module).__name__}; a bank takes nn.Conv2d, whose "
                    "responses come before the non-linearity."
                )
            found.append(module)
        if len(set(layers)) != len(layers):
            raise ValueError(f"layers names one twice: {list(layers)}.")
        self.layers = tuple(layers)
        self.model = model
        self.n_filters = sum(m.out_channels for m in found)
        weights = [1 / m.out_channels for m in found for _ in range(m.out_channels)]
        self.weights = torch.tensor(weights) / len(found)  # sums to 1, each layer has its share
        self._convolutions = found

    @property
    def key(self) -> str:
        """What tells this bank from others: a hash of the layers and of the model as it is now.

        It takes in the whole model: a bias, or a statistic of batch normalisation between two of
        the layers, changes the responses as much as the weights of the convolutions do.
        """
        state = {
            name: value
            for name, value in self.model.state_dict().items()
            # How many batches were seen changes no answer; a lazy layer has no weights yet.
            if isinstance(value, Tensor)
            and not (name.endswith("num_batches_tracked") or is_lazy(value))
        }
        layers = [
            (name, m.stride, m.padding, m.padding_mode, m.dilation, m.groups)
            for name, m in zip(self.layers, self._convolutions, strict=True)
        ]
        return key_of("conv", list(state.values()), layers, list(state))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Responses:
        """Return a map for every layer, (N, F_l, H_l, W_l). The images are (N, C, H, W).

        The maps come to the CPU, where bin edges and descriptors are made.

        Raises
        ------
        TypeError, ValueError
            If the images have another shape or hold NaN, or the model runs without a layer named.
        """
        _check_images(images)
        found: dict[int, Tensor] = {}

        def keep(module: nn.Module, _: object, output: Tensor) -> None:
            found[id(module)] = output.clone()
            if len(found) == len(self._convolutions):
                raise _EnoughError

        hooks = [m.register_forward_hook(keep) for m in self._convolutions]
        try:
            with evaluating(self.model):
                self.model(images.clone().to(next(self.model.parameters()).device))
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        unused = [
            name
            for name, m in zip(self.layers, self._convolutions, strict=True)
            if id(m) not in found
        ]
        if unused:
            raise ValueError(
                f"layers names {', '.join(unused)}, which {type(self.model).__name__} does not run "
                "in its forward pass: choose layers that it does."
            )
        return Responses(tuple(found[id(m)].cpu() for m in self._convolutions), self.key)

    def extra_repr(self) -> str:
        """Return the layers and the number of filters, for printing."""
        return f"layers={list(self.layers)}, n_filters={self.n_filters}"


class _EnoughError(Exception):
    """All layers have answered: the rest of the network need not run."""


def _gabor(wavelength: float, angle: float, odd: int) -> Tensor:
    """Return one filter, (1, k, k), of mean 0 and norm 1."""
    reach = math.ceil(wavelength)  # two widths
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = torch.meshgrid(place, place, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    envelope = torch.exp(-(along**2 + 0.25 * across**2) / (2 * (wavelength / 2) ** 2))
    g = envelope * torch.cos(2 * math.pi * along / wavelength + odd * math.pi / 2)
    g = g - envelope * (g.sum() / envelope.sum())
    return (g / g.norm()).float()[None]


def key_of(kind: str, tensors: Sequence[Tensor], *settings: object) -> str:
    """Return ``kind`` with a hash of the tensors and of the settings, as they print."""
    digest = hashlib.sha256(repr((kind, *settings)).encode())
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)  # any dtype, bfloat16 too
    return f"{kind} {digest.hexdigest()[:8]}"


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a torch.Tensor (N, C, H, W), got {type(images).__name__}. Pass a data "
            "set's .images: descriptors are of images as they are, neither mirrored nor cropped."
        )
    check_float_tensor("images", images)
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images must have shape (N, C, H, W), got {shape_of(images)}.")
