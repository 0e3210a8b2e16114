"""Images cut into tiles and laid in another order: a target that is made to differ."""

from __future__ import annotations

import torch

from tlcourse._checks import check_int
from tlcourse.data.labelled import LabelledImages


def shuffle_tiles(data: LabelledImages, tiles: int = 4, *, seed: int = 0) -> LabelledImages:
    """Cut every image into tiles and lay them in another order, one order for all images.

    Strokes stay, shapes go. A linear classifier of the pixels does not see the difference; a
    network that has learnt shapes does.

    Parameters
    ----------
    data
        Images (N, C, H, W).
    tiles
        Tiles along each side, which must divide H and W.
    seed
        Draws the order.

    Returns
    -------
    LabelledImages
        Images of the same shape, with the same labels, called ``"tiles of ..."``.

    Raises
    ------
    TypeError, ValueError
        If ``data`` holds no images, or ``tiles`` is no integer of at least 2 that divides H and W.

    Examples
    --------
    >>> pixels = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    >>> image = LabelledImages(pixels, torch.tensor([0]), ("a", "b"), "steps")
    >>> (16 * shuffle_tiles(image, 2).images).int().squeeze()
    tensor([[ 0,  1,  2,  3],
            [ 4,  5,  6,  7],
            [10, 11,  8,  9],
            [14, 15, 12, 13]], dtype=torch.int32)
    """
    if not isinstance(data, LabelledImages):
        raise TypeError(f"data must be LabelledImages, got {type(data).__name__}.")
    check_int("tiles", tiles, low=2)
    H, W = data.images.shape[2:]
    if H % tiles or W % tiles:
        raise ValueError(
            f"tiles must divide the height and width of the images, {H} x {W}; got {tiles}."
        )
    order = torch.randperm(tiles * tiles, generator=torch.Generator().manual_seed(seed))
    cut = data.images.unflatten(3, (tiles, -1)).unflatten(2, (tiles, -1))  # (N, C, t, h, t, w)
    cut = cut.transpose(3, 4).flatten(2, 3)[:, :, order]  # (N, C, t * t, h, w)
    laid = cut.unflatten(2, (tiles, tiles)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return LabelledImages(laid.contiguous(), data.labels, data.classes, f"tiles of {data.name}")
