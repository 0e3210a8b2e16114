from __future__ import annotations

import pytest
import torch

from tlcourse.data import random_crop_flip, random_shift


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(image: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """One image moved by a loop over its pixels, zeros where nothing comes from."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[:, y, x] = image[:, y + dy, x + dx]
    return out


def mirrored(image: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """The same with the image mirrored at its borders."""

    def inside(i: int, n: int) -> int:
        i = abs(i)
        return 2 * (n - 1) - i if i >= n else i

    out = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            out[:, y, x] = image[:, inside(y + dy, height), inside(x + dx, width)]
    return out


@pytest.mark.parametrize("shape", [(40, 1, 6, 7), (40, 3, 7, 6)])
@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_shift_is_the_loop_over_pixels(shape, pixels):
    images = torch.rand(shape, generator=gen(1))
    got = random_shift(images, pixels, generator=gen())
    top, left = torch.randint(2 * pixels + 1, (2, len(images)), generator=gen())
    want = [shifted(x, int(t) - pixels, int(s) - pixels) for x, t, s in zip(images, top, left)]  # noqa: B905
    assert torch.equal(got, torch.stack(want))


@pytest.mark.parametrize("padding", [1, 4])
def test_crop_flip_is_the_loop_over_pixels(padding):
    images = torch.rand(40, 3, 6, 7, generator=gen(1))
    got = random_crop_flip(images, padding, generator=gen())
    same = gen()
    top, left = torch.randint(2 * padding + 1, (2, len(images)), generator=same)
    flip = torch.rand(len(images), generator=same) < 0.5
    for x, t, s, f, out in zip(images, top, left, flip, got, strict=True):
        want = mirrored(x, int(t) - padding, int(s) - padding)
        assert torch.equal(out, want.flip(2) if f else want)
    assert 0 < flip.sum() < len(flip)


def test_every_shift_occurs_and_equally_often():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    moved = random_shift(image.expand(5000, 1, 9, 9), 2, generator=gen())
    counts = moved.sum(dim=0)[0]
    assert counts.sum() == 5000
    inner = counts[2:7, 2:7]
    assert inner.sum() == 5000
    assert inner.min() > 130  # 200 expected, standard deviation 14
    assert inner.max() < 270


def test_half_of_the_images_are_flipped():
    images = torch.arange(8.0).expand(4000, 1, 8, 8) / 7
    flipped = random_crop_flip(images, 0, generator=gen())[:, 0, 0, 0] == 1
    assert 1850 < flipped.sum() < 2150


def test_zero_pixels_change_nothing():
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(random_shift(images, 0), images)


@pytest.mark.parametrize("change", [lambda x, g: random_shift(x, 2, generator=g), random_crop_flip])
def test_input_stays_and_form_is_kept(change):
    for dtype in (torch.float32, torch.float64, torch.float16):
        images = torch.rand(6, 3, 8, 8).to(dtype)
        before = images.clone()
        out = change(images, 2) if change is random_crop_flip else change(images, None)
        assert (out.shape, out.dtype) == (images.shape, dtype)
        assert torch.equal(images, before)
        assert out.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("change", [random_shift, random_crop_flip])
def test_seeded_by_a_generator_or_by_torch(change):
    images = torch.rand(50, 1, 8, 8)
    assert torch.equal(change(images, 3, generator=gen(4)), change(images, 3, generator=gen(4)))
    assert not torch.equal(change(images, 3, generator=gen(4)), change(images, 3, generator=gen(5)))
    torch.manual_seed(4)
    assert torch.equal(change(images, 3), change(images, 3, generator=gen(4)))


@pytest.mark.parametrize(
    ("change", "name"), [(random_shift, "pixels"), (random_crop_flip, "padding")]
)
def test_bad_arguments_are_named(change, name):
    images = torch.rand(5, 1, 8, 6)
    for value in (-1, 6):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 5\], got {value}"):
            change(images, value)
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        change(images, 1.0)
    for bad in (images[0], images[:0], torch.zeros(2, 1, 0, 3)):
        with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\)"):
            change(bad, 1)
    with pytest.raises(TypeError, match=r"images must be a torch\.Tensor, got list"):
        change([1], 1)
