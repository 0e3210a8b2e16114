"""Printed characters, embedded: as large a source domain as one likes, on any machine.

Characters of the fonts that Matplotlib carries are drawn large, then photographed badly: each
image gets its own perspective, sharpness, contrast, background and noise. Printed to handwritten is
a real shift of domain: the strokes differ, and so do the classes, of which the ten digits are the
first.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_int
from tlcourse.data.labelled import LabelledImages

# Each character is scaled to the frame, as handwritten digits are, so letters that differ from
# another class in size alone cannot be told apart. Left out are o and O (0), i, I and l (1 or each
# other), and the small letters that are their capitals made small, or nearly so:
# c j k m p s u v w x y z. What stays is, apart from I and O, the merged set of EMNIST.
CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghnqrt"

# Fonts that Matplotlib may carry beside its text fonts: placeholder boxes, variants of STIX for
# large brackets, fonts of mathematical symbols (cmmi10 has old-style digits, in other places).
NOT_TEXT = ("LastResort", "Display", "STIXNonUni", "STIXSiz", "cmex", "cmmi", "cmsy")

LARGE = 64  # side in pixels at which a character is drawn once, before it is warped
BLOCK = 500  # images drawn together; more would only take more memory


def glyphs(
    n_train: int = 12_000, n_test: int = 2_000, *, size: int = 32, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Return printed characters, drawn at random: a source domain for handwriting.

    One seed gives the same images every time, and a smaller set is the beginning of a larger one.
    Training and test images come from different draws of the same fonts.

    Parameters
    ----------
    n_train, n_test
        Number of images, at least 1 each; the classes share them evenly.
    size
        Side of the images in pixels, 8 to 128.
    seed
        Which draw, 0 or more.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: images (N, 1, size, size), bright ink on dark ground; 45 classes, the
        ten digits first, then the letters that can be told from them and from each other.

    Raises
    ------
    TypeError, ValueError
        If an argument is no integer or out of range.
    RuntimeError
        If this Matplotlib carries no usable font.

    Examples
    --------
    >>> train, test = glyphs(90, 45)
    >>> train
    LabelledImages('glyphs', 90 images of 1x32x32, 45 classes)
    >>> train.classes[:12]
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B')
    """
    check_int("n_train", n_train, low=1)
    check_int("n_test", n_test, low=1)
    check_int("size", size, low=8, high=128)
    check_int("seed", seed, low=0, high=2**31)
    # Two seeds from one, so that neither set depends on the length of the other.
    return _draw(n_train, size, 2 * seed), _draw(n_test, size, 2 * seed + 1)


def _draw(n: int, size: int, seed: int) -> LabelledImages:
    """Return ``n`` glyphs; position i is of class i modulo the number of classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(CHARACTERS)
    blocks = []
    for start in range(0, n, BLOCK):
        # A whole block is always drawn, so that the numbers of one image do not hang on n.
        block = torch.arange(start, start + BLOCK) % len(CHARACTERS)
        drawn = _photograph(_print(block, generator), size, generator)
        blocks.append(drawn[: n - start])
    return LabelledImages(torch.cat(blocks), labels, tuple(CHARACTERS), "glyphs")


def _print(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return each character in a font drawn at random, (N, 1, LARGE, LARGE) in [0, 1]."""
    alphabet = _alphabet()  # (fonts, characters, LARGE, LARGE)
    font = torch.randint(len(alphabet), labels.shape, generator=generator)
    return alphabet[font, labels][:, None].float() / 255


def _photograph(ink: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Warp, blur, light and roughen every image by its own draw: (N, 1, size, size) in [0, 1]."""
    n = len(ink)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    x = _perspective(ink, size, generator)  # (N, 1, size, size)
    # From sharp to as soft as an image of 8 x 8 pixels that was enlarged to this size.
    x = _blur(x, size * uniform(0.01, 0.075))
    x = x / x.amax(dim=(2, 3), keepdim=True).clamp(min=0.3)  # thin strokes stay visible

    # Squares of uniform draws: most images are nearly clean, a few are rough.
    ground = 0.35 * uniform(0, 1) ** 2
    ink_level = uniform(0.65, 1.0)
    texture = torch.rand(n, 1, 5, 5, generator=generator) - 0.5
    texture = F.interpolate(texture, (size, size), mode="bilinear", align_corners=True)
    ground = ground + 0.5 * uniform(0, 1) ** 2 * texture
    noise = 0.1 * uniform(0, 1) ** 2 * torch.randn(n, 1, size, size, generator=generator)
    x = x * ink_level + (1 - x) * ground + noise
    return (x.clamp(0, 1) * 255).round() / 255  # 8-bit levels, as a scanner gives


def _perspective(ink: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Look at every image from another side: (N, 1, LARGE, LARGE) -> (N, 1, size, size)."""
    n = len(ink)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(n, generator=generator).clamp(-2, 2)

    turn, slant = normal(0.12), normal(0.2)  # radians; sideways shift per unit of height
    wide, high = torch.exp(normal(0.13)), torch.exp(normal(0.08))
    # The homography takes a pixel of the result, (x, y, 1) in [-1, 1], to a place in the drawing.
    homography = torch.zeros(n, 3, 3)
    homography[:, 0, 0] = turn.cos() * wide
    homography[:, 0, 1] = (slant - turn.sin()) * wide
    homography[:, 1, 0] = turn.sin() * high
    homography[:, 1, 1] = turn.cos() * high
    homography[:, 0, 2], homography[:, 1, 2] = normal(0.06), normal(0.06)
    homography[:, 2, 0], homography[:, 2, 1] = normal(0.1), normal(0.1)
    homography[:, 2, 2] = 1
    centres = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), dim=-1).view(1, -1, 3)  # (1, size^2, 3)
    places = pixels @ homography.mT  # (N, size^2, 3)
    grid = (places[..., :2] / places[..., 2:]).view(n, size, size, 2)
    return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur every image with its own Gaussian: x (N, 1, S, S), sigma (N, 1, 1, 1) in pixels."""
    position = torch.arange(x.shape[-1], dtype=x.dtype)
    distance = position[:, None] - position  # (S, S)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)  # (N, 1, S, S)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights @ x @ weights.mT


@lru_cache(maxsize=1)
def _alphabet() -> Tensor:
    """Return every character of every text font, (fonts, characters, LARGE, LARGE), uint8."""
    return torch.stack([_draw_font(path) for path in _text_fonts()])


def _text_fonts() -> list[Path]:
    """Return Matplotlib's own text fonts, in the order of their names."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [
        path
        for path in sorted(folder.glob("*.ttf"))
        if not any(part in path.name for part in NOT_TEXT)
    ]
    if not fonts:
        raise RuntimeError(
            f"No text font in {folder}, where Matplotlib keeps its own. Install Matplotlib again."
        )
    return fonts


def _draw_font(path: Path) -> Tensor:
    """Return the characters of one font, each filling its frame: (characters, LARGE, LARGE)."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(path), 96, layout_engine=ImageFont.Layout.BASIC)
    drawn = []
    for character in CHARACTERS:
        left, top, right, bottom = (int(v) for v in font.getbbox(character))
        width, height = right - left, bottom - top
        side = max(width, height)
        canvas = Image.new("L", (side, side))
        place = ((side - width) // 2 - left, (side - height) // 2 - top)
        ImageDraw.Draw(canvas).text(place, character, fill=255, font=font)
        inner = round(0.86 * LARGE)  # a margin, so that a turned character stays inside
        framed = Image.new("L", (LARGE, LARGE))
        corner = (LARGE - inner) // 2
        framed.paste(canvas.resize((inner, inner), Image.Resampling.BOX), (corner, corner))
        drawn.append(torch.from_numpy(np.asarray(framed).copy()))
    return torch.stack(drawn)
