"""Generated scenes, embedded: several tasks on one image, each with an exact answer.

Handwritten digits and plain shapes stand at different distances before a cluttered ground. What is
near is larger, clearer and hides what is behind it. So the tasks of a scene - what is where, which
pixels belong together, how far away they are - depend on each other, as they do in a street.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from tlcourse._checks import check_int, shape_of
from tlcourse.data.labelled import _positions

SHAPES = ("disc", "square", "triangle")
CLASSES = ("background", *"0123456789", *SHAPES)
COARSE = ("background", "digit", *SHAPES)
SPRITE = 32  # side in pixels at which an object is kept before it is placed
MOST = 4  # objects of a scene, at most; at least 2
BLOCK = 250  # scenes drawn together; more would only take more memory
SMALLEST = 0.2  # part of the scene's side that the farthest object takes; the nearest takes 0.5
LEAST_VISIBLE = 0.3  # an object of which less than this part is seen is no answer, but clutter


class Scenes(TensorDataset):
    """Scenes with an answer for every pixel, and the boxes of their objects.

    ``dataset[i]`` and ``dataset[indices]`` are ``(image, segmentation, instances, inverse_depth)``.
    :func:`scenes` makes them; a subset is made by :meth:`subset`.

    Parameters
    ----------
    images
        (N, 1, H, W), float32, values in [0, 1].
    segmentation
        (N, H, W), int64: the class of every pixel; 0 is the background.
    instances
        (N, 2, H, W), float32: from the pixel to the centre of its object, in pixels, to the right
        and down. 0 on the background, where it is not defined; see :attr:`defined`.
    inverse_depth
        (N, 1, H, W), float32, in (0, 1]: 1 over the distance, and 1 is the nearest.
    boxes
        (N, M, 4), float32: left, top, right and bottom edge of what is seen of each object, in
        pixels; rows without a visible object are 0.
    labels
        (N, M), int64: the classes of the objects, -1 in rows without a visible object.
    classes
        Their names, the background first.

    Raises
    ------
    TypeError, ValueError
        If a shape or a dtype is wrong, or a class is none of ``classes``.

    Examples
    --------
    >>> train, test = scenes(3, 1, size=32)
    >>> train
    Scenes(3 scenes of 1x32x32, 14 classes)
    >>> image, segmentation, instances, inverse_depth = train[0]
    >>> segmentation.shape, instances.shape, inverse_depth.shape
    (torch.Size([32, 32]), torch.Size([2, 32, 32]), torch.Size([1, 32, 32]))
    """

    def __init__(
        self,
        images: Tensor,
        segmentation: Tensor,
        instances: Tensor,
        inverse_depth: Tensor,
        boxes: Tensor,
        labels: Tensor,
        *,
        classes: Sequence[str] = CLASSES,
    ) -> None:
        _check("images", images, torch.float32, (None, 1, None, None))
        n, _, height, width = images.shape
        _check("segmentation", segmentation, torch.int64, (n, height, width))
        _check("instances", instances, torch.float32, (n, 2, height, width))
        _check("inverse_depth", inverse_depth, torch.float32, (n, 1, height, width))
        _check("labels", labels, torch.int64, (n, None))
        _check("boxes", boxes, torch.float32, (n, labels.shape[1], 4))
        _check_classes("segmentation", segmentation, 0, len(classes))
        _check_classes("labels", labels, -1, len(classes))
        super().__init__(images, segmentation, instances, inverse_depth)
        self._boxes, self._labels = boxes, labels
        self.classes = tuple(classes)
        self.name = "scenes"

    @property
    def images(self) -> Tensor:
        """The images, (N, 1, H, W), float32 in [0, 1]."""
        return self.tensors[0]

    @property
    def segmentation(self) -> Tensor:
        """The class of every pixel, (N, H, W), int64."""
        return self.tensors[1]

    @property
    def instances(self) -> Tensor:
        """The way from every pixel to its object's centre, (N, 2, H, W), in pixels."""
        return self.tensors[2]

    @property
    def inverse_depth(self) -> Tensor:
        """1 over the distance, (N, 1, H, W)."""
        return self.tensors[3]

    @property
    def defined(self) -> Tensor:
        """Where :attr:`instances` is defined: on the objects, (N, H, W), bool."""
        return self.segmentation > 0

    @property
    def boxes(self) -> tuple[Tensor, ...]:
        """For each scene the boxes of its objects, (n, 4): left, top, right, bottom."""
        return tuple(b[y >= 0] for b, y in zip(self._boxes, self._labels, strict=True))

    @property
    def labels(self) -> tuple[Tensor, ...]:
        """For each scene the classes of its objects, (n,), in the order of the boxes."""
        return tuple(y[y >= 0] for y in self._labels)

    @property
    def n_classes(self) -> int:
        """The number of classes, the background included."""
        return len(self.classes)

    def subset(self, indices: Tensor | Sequence[int]) -> Scenes:
        """Return the chosen scenes, in the order of ``indices``.

        Raises
        ------
        TypeError, ValueError
            If an index is no integer or out of range, or if nothing is chosen.
        """
        chosen = _positions(indices, len(self))
        tensors = (t[chosen] for t in (*self.tensors, self._boxes, self._labels))
        return Scenes(*tensors, classes=self.classes)

    def coarse(self) -> Scenes:
        """Return the same scenes with one class for all ten digits: five classes instead of 14.

        Scenes that are coarse already are returned as they are.

        Raises
        ------
        ValueError
            If the classes are none of these two sets.

        Examples
        --------
        >>> train, _ = scenes(2, 1)
        >>> train.coarse().classes
        ('background', 'digit', 'disc', 'square', 'triangle')
        """
        if self.classes == COARSE:
            return self
        if self.classes != CLASSES:
            raise ValueError(
                f"coarse takes scenes of the {len(CLASSES)} classes {', '.join(CLASSES)}; these "
                f"have {', '.join(self.classes)}."
            )
        coarser = torch.tensor([0] + [1] * 10 + [2, 3, 4])
        labels = torch.where(self._labels < 0, -1, coarser[self._labels.clamp(min=0)])
        images, segmentation, instances, inverse_depth = self.tensors
        return Scenes(
            images,
            coarser[segmentation],
            instances,
            inverse_depth,
            self._boxes,
            labels,
            classes=COARSE,
        )

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any pixel, answer or box."""
        digest = hashlib.sha256(repr((self.name, self.classes)).encode())
        for tensor in (*self.tensors, self._boxes, self._labels):
            digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        n, *shape = self.images.shape
        size = "x".join(str(s) for s in shape)
        return f"Scenes({n:,} scenes of {size}, {self.n_classes} classes)"


def scenes(
    n_train: int = 2_000, n_test: int = 500, *, size: int = 48, seed: int = 0
) -> tuple[Scenes, Scenes]:
    """Return generated scenes of digits and shapes, with the answers to three tasks.

    Each scene has 2 to 4 objects: handwritten digits, or discs, squares and triangles. An object's
    inverse depth decides how large it is, how clear, and what it hides. One seed gives the same
    scenes every time, and a smaller set is the beginning of a larger one. No handwritten digit is
    in scenes of both sets.

    Parameters
    ----------
    n_train, n_test
        Number of scenes, at least 1 each.
    size
        Side of the images in pixels, 24 to 256.
    seed
        Which draw, 0 or more.

    Returns
    -------
    (Scenes, Scenes)
        Training and test set.

    Raises
    ------
    TypeError, ValueError
        If an argument is no integer or out of range.

    Examples
    --------
    >>> train, test = scenes(2, 2, size=32)
    >>> [len(labels) for labels in train.labels] == [len(boxes) for boxes in train.boxes]
    True
    """
    check_int("n_train", n_train, low=1)
    check_int("n_test", n_test, low=1)
    check_int("size", size, low=24, high=256)
    check_int("seed", seed, low=0, high=2**31)
    # Two seeds from one, so that neither set depends on the length of the other.
    return _draw(n_train, size, 2 * seed, part=0), _draw(n_test, size, 2 * seed + 1, part=1)


def _draw(n: int, size: int, seed: int, *, part: int) -> Scenes:
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for start in range(0, n, BLOCK):
        # A whole block is always drawn, so that the numbers of one scene do not hang on n.
        block = _scenes(_objects(part), size, generator)
        blocks.append([t[: n - start] for t in block])
    return Scenes(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _scenes(objects: tuple[Tensor, Tensor], size: int, g: torch.Generator) -> list[Tensor]:
    """Return a block of scenes, from the farthest object to the nearest: the tensors of `Scenes`.

    The i-th scene of every tensor is drawn at once; shapes are written for N scenes of side S.
    """
    sprites, classes = objects  # (P, 1, SPRITE, SPRITE), (P,)
    n = BLOCK

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    image = _clutter(sprites, size, g)  # (N, 1, S, S)
    horizon, slope = uniform(0.02, 0.08, 1, 1, 1), uniform(0.1, 0.3, 1, 1, 1)
    rows = ((torch.arange(size) + 0.5) / size).view(1, 1, size, 1)
    inverse_depth = (horizon + slope * rows).expand(n, 1, size, size).clone()  # the ground rises
    owner = torch.full((n, size, size), -1)  # which object a pixel belongs to
    centres = torch.zeros(n, MOST, 2)
    whole = torch.zeros(n, MOST)  # pixels of each object, hidden or not
    labels = torch.zeros(n, MOST, dtype=torch.int64)

    count = torch.randint(2, MOST + 1, (n,), generator=g)
    near = uniform(0.4, 1.0, MOST).sort(dim=1).values  # the farthest first
    for m in range(MOST):
        there = m < count
        # Half of the objects are shapes, which come last among the sprites.
        n_digits = len(sprites) - len(SHAPES)
        digit = torch.randint(n_digits, (n,), generator=g)
        shape = n_digits + torch.randint(len(SHAPES), (n,), generator=g)
        chosen = torch.where(torch.rand(n, generator=g) < 0.5, digit, shape)
        d = near[:, m]
        # Twice as near is twice as large, give or take a tenth.
        side = size * SMALLEST * (d / 0.4) * uniform(0.9, 1.1)  # (N,) pixels
        room = size - side
        centre = side[:, None] / 2 + room[:, None] * torch.rand(n, 2, generator=g)  # (N, 2) x, y
        turn = uniform(-0.25, 0.25)
        cover = _place(sprites[chosen], centre, side, turn, size) * there.view(n, 1, 1, 1)
        ink = uniform(0.75, 1.0, 1, 1, 1)
        haze = (0.45 + 0.55 * d).view(n, 1, 1, 1)  # what is far is pale
        image = (1 - cover) * image + cover * (haze * ink + (1 - haze) * 0.35)
        mask = cover[:, 0] > 0.5  # (N, S, S)
        owner[mask] = m
        inverse_depth = torch.where(mask[:, None], d.view(n, 1, 1, 1), inverse_depth)
        centres[:, m], labels[:, m], whole[:, m] = centre, classes[chosen], mask.sum((1, 2)).float()

    image = image + 0.03 * torch.randn(n, 1, size, size, generator=g)
    image = (image.clamp(0, 1) * 255).round() / 255  # 8-bit levels, as a camera gives

    # What is hardly seen is no object: its pixels go to the background. Their inverse depth stays,
    # which is that of something there.
    masks = owner[:, None] == torch.arange(MOST).view(1, MOST, 1, 1)  # (N, M, S, S)
    seen = masks.sum((2, 3))  # (N, M)
    kept = (seen >= 4) & (seen >= LEAST_VISIBLE * whole)
    masks = masks & kept[..., None, None]
    segmentation = (masks * labels[..., None, None]).sum(1)  # (N, S, S); masks never overlap
    labels = torch.where(kept, labels, -1)
    place = torch.arange(size) + 0.5  # the centres of the pixels
    to_x = centres[..., 0, None, None] - place.view(1, 1, 1, size)
    to_y = centres[..., 1, None, None] - place.view(1, 1, size, 1)
    instances = torch.stack([(masks * to_x).sum(1), (masks * to_y).sum(1)], dim=1)  # (N, 2, S, S)
    return [image, segmentation, instances, inverse_depth, _boxes(masks), labels]


def _clutter(sprites: Tensor, size: int, g: torch.Generator) -> Tensor:
    """Return a ground of soft noise with pieces of strokes and edges, (N, 1, S, S)."""
    n = BLOCK
    image = torch.full((n, 1, size, size), 0.25)
    for cells, strength in ((3, 0.25), (8, 0.15)):
        noise = torch.rand(n, 1, cells, cells, generator=g) - 0.5
        image = image + strength * F.interpolate(noise, (size, size), mode="bicubic")
    for _ in range(3):  # stretched pieces of objects, which are none
        chosen = torch.randint(len(sprites), (n,), generator=g)
        piece = sprites[chosen].clone()
        half = SPRITE // 2
        piece[:, :, :, half:] = 0
        side = size * (0.15 + 0.25 * torch.rand(n, generator=g))
        centre = size * torch.rand(n, 2, generator=g)
        turn = 2 * math.pi * torch.rand(n, generator=g)
        level = 0.15 + 0.35 * torch.rand(n, 1, 1, 1, generator=g)
        cover = _place(piece, centre, side, turn, size)
        image = (1 - cover) * image + cover * level
    return image


def _place(sprites: Tensor, centre: Tensor, side: Tensor, turn: Tensor, size: int) -> Tensor:
    """Put one sprite into every scene: (N, 1, SPRITE, SPRITE) -> (N, 1, S, S) in [0, 1].

    ``centre`` (N, 2) and ``side`` (N,) are in pixels, ``turn`` (N,) in radians.
    """
    place = torch.arange(size) + 0.5
    x = (place.view(1, 1, size) - centre[:, 0, None, None]) / (side / 2)[:, None, None]
    y = (place.view(1, size, 1) - centre[:, 1, None, None]) / (side / 2)[:, None, None]
    c, s = turn.cos()[:, None, None], turn.sin()[:, None, None]
    x, y = torch.broadcast_tensors(x, y)
    grid = torch.stack([c * x + s * y, c * y - s * x], dim=-1)  # (N, S, S, 2) in [-1, 1] inside
    return F.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _boxes(masks: Tensor) -> Tensor:
    """Return the smallest box around every mask: (N, M, S, S) -> (N, M, 4); 0 around nothing."""
    size = masks.shape[-1]
    edges = []
    for along in (masks.any(2), masks.any(3)):  # columns, then rows: (N, M, S)
        first = along.float().argmax(-1)
        last = size - along.flip(-1).float().argmax(-1)
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    boxes = torch.stack([left, top, right, bottom], dim=-1).float()
    return boxes * masks.any(3).any(2)[..., None]


@lru_cache(maxsize=2)
def _objects(part: int) -> tuple[Tensor, Tensor]:
    """Return how much each pixel of an object covers, (P, 1, SPRITE, SPRITE), and the classes.

    ``part`` is 0 for the digits of the training set, and 1 for those of the test set.
    """
    from tlcourse.data.digits import digits

    handwritten = digits(size=SPRITE)[part]
    ink = (3 * (handwritten.images - 0.2)).clamp(0, 1)  # strokes with an edge
    place = (torch.arange(SPRITE) + 0.5) / SPRITE * 2 - 1
    y, x = torch.meshgrid(place, place, indexing="ij")
    within = {  # more than 0 inside, about the distance to the edge
        "disc": 0.85 - (x**2 + y**2).sqrt(),
        "square": 0.75 - torch.maximum(x.abs(), y.abs()),
        "triangle": torch.minimum(0.75 - y, (y + 0.85) * 0.45 - x.abs() * 0.9),
    }
    shapes = torch.stack([(0.5 + within[name] * SPRITE / 2).clamp(0, 1) for name in SHAPES])
    classes = torch.cat([handwritten.labels + 1, torch.tensor([CLASSES.index(s) for s in SHAPES])])
    return torch.cat([ink, shapes[:, None]]), classes


def _check(name: str, value: Tensor, dtype: torch.dtype, shape: Sequence[int | None]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if value.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {value.dtype}.")
    fits = value.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits or value.numel() == 0:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {shape_of(value)}.")


def _check_classes(name: str, value: Tensor, low: int, n_classes: int) -> None:
    """Raise unless all classes lie in [low, n_classes - 1]."""
    least, most = (int(bound) for bound in value.aminmax())
    if least < low or most >= n_classes:
        raise ValueError(
            f"{name} must lie in [{low}, {n_classes - 1}] for {n_classes} classes, got values from "
            f"{least} to {most}."
        )
