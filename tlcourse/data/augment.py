"""Random changes of images that leave their labels true: shifts, crops and flips.

Each image of a batch gets its own draw. All crops of all images are one strided view, and a batch
is one gather from it, so augmenting costs little beside a training step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_int, shape_of


def random_shift(
    images: Tensor, pixels: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Shift every image by its own whole number of pixels, filling with zeros.

    Both offsets are drawn evenly from -pixels ... pixels: the "jitter" of the teacher in [1]_.

    Parameters
    ----------
    images
        (N, C, H, W).
    pixels
        Largest shift in either direction, in pixels; 0 leaves the images as they are.
    generator
        Where the draws come from; PyTorch's own generator (on the CPU) if not given.

    Returns
    -------
    Tensor
        (N, C, H, W), of the dtype and on the device of ``images``.

    Raises
    ------
    TypeError, ValueError
        If ``images`` has not the shape (N, C, H, W), or ``pixels`` is out of [0, min(H, W) - 1].

    References
    ----------
    .. [1] Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015, section 3.

    Examples
    --------
    >>> image = torch.zeros(1, 1, 5, 5)
    >>> image[0, 0, 2, 2] = 1
    >>> shifted = random_shift(image, 1, generator=torch.Generator().manual_seed(0))
    >>> shifted.sum(), shifted[0, 0, 1:4, 1:4].sum()  # the bright pixel moved by one at most
    (tensor(1.), tensor(1.))
    """
    _check_batch(images)
    check_int("pixels", pixels, low=0, high=min(images.shape[2:]) - 1)
    padded = F.pad(images, (pixels,) * 4)  # (N, C, H + 2 pixels, W + 2 pixels)
    return _random_crop(padded, images, 2 * pixels + 1, generator)


def random_crop_flip(
    images: Tensor, padding: int = 4, *, generator: torch.Generator | None = None
) -> Tensor:
    """Crop every image at random out of its mirror-padded self, and flip half of them.

    The usual augmentation for CIFAR-10: ``padding`` pixels are mirrored at each border, a crop of
    the original size is drawn, and left and right are exchanged with probability 1/2 [1]_.

    Parameters
    ----------
    images
        (N, C, H, W).
    padding
        Pixels mirrored at each border; 0 leaves the flip alone.
    generator
        Where the draws come from; PyTorch's own generator (on the CPU) if not given.

    Returns
    -------
    Tensor
        (N, C, H, W), of the dtype and on the device of ``images``.

    Raises
    ------
    TypeError, ValueError
        If ``images`` has not the shape (N, C, H, W), or ``padding`` is out of [0, min(H, W) - 1].

    References
    ----------
    .. [1] Zagoruyko and Komodakis, Wide residual networks, 2016, section 3.

    Examples
    --------
    >>> image = torch.arange(4.0).expand(1, 1, 4, 4) / 3
    >>> random_crop_flip(image, 0, generator=torch.Generator().manual_seed(0))[0, 0, 0]
    tensor([1.0000, 0.6667, 0.3333, 0.0000])
    """
    _check_batch(images)
    check_int("padding", padding, low=0, high=min(images.shape[2:]) - 1)
    rows, columns = (_mirrored(size, padding).to(images.device) for size in images.shape[2:])
    padded = images[:, :, rows][..., columns]
    cropped = _random_crop(padded, images, 2 * padding + 1, generator)
    flip = torch.rand(len(images), generator=generator, device=_device(generator)) < 0.5  # (N,)
    return torch.where(flip.to(images.device)[:, None, None, None], cropped.flip(3), cropped)


def _mirrored(size: int, padding: int) -> Tensor:
    """Return the places 0 to size - 1, and beyond each end those that a mirror there shows."""
    last = size - 1
    return last - (last - torch.arange(-padding, size + padding).abs()).abs()


def _random_crop(
    padded: Tensor, images: Tensor, offsets: int, generator: torch.Generator | None
) -> Tensor:
    """Return for every image one of its offsets x offsets crops of the original size."""
    n, _, height, width = images.shape
    top, left = torch.randint(offsets, (2, n), generator=generator, device=_device(generator)).to(
        images.device
    )
    crops = padded.unfold(2, height, 1).unfold(
        3, width, 1
    )  # (N, C, offsets, offsets, H, W), a view
    return crops[torch.arange(n, device=images.device), :, top, left]  # (N, C, H, W)


def _device(generator: torch.Generator | None) -> torch.device:
    """Where to draw: on the CPU unless the generator lives elsewhere, so a seed means one thing."""
    return torch.device("cpu") if generator is None else generator.device


def _check_batch(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}.")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"images must have shape (N, C, H, W) with no side 0, got {shape_of(images)}."
        )
