from __future__ import annotations

import importlib

import pytest
import torch

from tlcourse.data import digits, glyphs

module = importlib.import_module("tlcourse.data.glyphs")


@pytest.fixture(scope="module")
def drawn():
    return glyphs(1800, 450)


def test_form(drawn):
    train, test = drawn
    assert train.images.shape == (1800, 1, 32, 32)
    assert len(test) == 450
    assert train.classes[:10] == tuple("0123456789")
    assert train.n_classes == 45
    assert torch.bincount(train.labels).unique().tolist() == [40]
    assert torch.bincount(test.labels).unique().tolist() == [10]


def test_the_same_numbers_every_time(drawn):
    train, test = drawn
    again, again_test = glyphs(1800, 450)
    assert train.fingerprint() == again.fingerprint()
    assert test.fingerprint() == again_test.fingerprint()
    assert not torch.equal(glyphs(45, 45, seed=1)[0].images, train.images[:45])


def test_a_smaller_set_begins_a_larger_one(drawn):
    train, test = drawn
    small, small_test = glyphs(620, 7)
    assert torch.equal(small.images, train.images[:620])
    assert torch.equal(small_test.images, test.images[:7])


def test_no_image_twice(drawn):
    images = torch.cat([part.images for part in drawn]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_no_seed_draws_what_another_seed_draws_for_testing():
    sets = [part.fingerprint() for seed in range(4) for part in glyphs(45, 45, seed=seed)]
    assert len(set(sets)) == 8


def test_bright_ink_on_dark_ground(drawn):
    train, _ = drawn
    ink = module._alphabet().float().mean(dim=0) / 255  # (45, 64, 64) over the fonts
    for k in range(45):
        mean = train.images[train.labels == k].mean(dim=0)[0]
        large = torch.nn.functional.interpolate(mean[None, None], (64, 64), mode="bilinear")[0, 0]
        both = torch.stack([large.flatten(), ink[k].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.75, train.classes[k]


def test_fonts_are_text_fonts_and_draw_every_character():
    fonts = module._text_fonts()
    assert len(fonts) >= 15
    assert not [f.name for f in fonts if "LastResort" in f.name or "Display" in f.name]
    alphabet = module._alphabet()
    assert alphabet.shape == (len(fonts), 45, 64, 64)
    assert (alphabet.flatten(2).max(dim=2).values == 255).all()
    # A font without the letters draws one placeholder for all of them.
    for font in alphabet.flatten(2):
        assert len(font.unique(dim=0)) == 45


def test_transfers_to_handwriting(drawn):
    """Prototypes of printed digits name handwritten ones far better than chance, not perfectly."""
    train, _ = drawn
    _, target = digits()
    prototypes = torch.stack([train.images[train.labels == k].mean(dim=0) for k in range(10)])
    a, b = (
        x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True) for x in (target.images, prototypes)
    )
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    accuracy = ((a @ b.T).argmax(dim=1) == target.labels).float().mean()
    assert 0.45 < accuracy < 0.95


def test_blur_is_each_images_own_gaussian():
    spot = torch.zeros(2, 1, 33, 33)
    spot[:, 0, 16, 16] = 1
    sigma = torch.tensor([0.5, 1.5]).view(2, 1, 1, 1)
    offset = torch.arange(33.0) - 16
    line = torch.exp(-0.5 * (offset / sigma) ** 2)  # (2, 1, 1, 33)
    line = line / line.sum(dim=3, keepdim=True)
    assert torch.allclose(module._blur(spot, sigma), line.mT @ line, atol=1e-6)
    even = torch.full((2, 1, 33, 33), 0.7)  # no dark rim: the borders are normalised
    assert torch.allclose(module._blur(even, sigma), even)


def test_perspective_without_a_draw_is_plain_scaling(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda n, generator: torch.zeros(n))
    ink = torch.rand(3, 1, 64, 64)
    got = module._perspective(ink, 32, torch.Generator())
    want = torch.nn.functional.avg_pool2d(ink, 2)
    assert torch.allclose(got, want, atol=1e-6)


def test_other_sizes():
    train, _ = glyphs(45, 1, size=16)
    assert train.images.shape == (45, 1, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n_train": 0}, ValueError, "n_train must be at least 1"),
        ({"n_test": 0}, ValueError, "n_test must be at least 1"),
        ({"n_train": 1e4}, TypeError, "n_train must be an integer"),
        ({"size": 4}, ValueError, r"size must be in \[8, 128\]"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"seed": None}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        glyphs(**arguments)


def test_matplotlib_without_fonts(monkeypatch, tmp_path):
    import matplotlib

    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match="No text font in"):
        module._text_fonts()
