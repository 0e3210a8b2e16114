from __future__ import annotations

import pytest
import torch

from tlcourse.data import LabelledImages, on_photographs, surfaces
from tlcourse.data.textures import PIECES


def of_ink(n=40, size=16):
    images = torch.zeros(n, 1, size, size)
    images[:, :, 4:8] = 1
    return LabelledImages(images, torch.arange(n) % 10, tuple("0123456789"), "bars")


@pytest.mark.parametrize(("part", "which"), [("train", 0), ("test", 1)])
def test_each_pixel_is_the_difference_of_photograph_and_ink(part, which):
    mixed = on_photographs(of_ink(), part=part, seed=3)
    pieces = surfaces(n_train=PIECES, n_test=PIECES, size=16, seed=3)[which].images
    for x in mixed.images:
        behind = x.clone()
        behind[:, 4:8] = 1 - behind[:, 4:8]  # where there is ink, the photograph is inverted
        assert (behind - pieces).flatten(1).abs().max(1).values.min() < 1e-6


def test_labels_stay_and_the_draw_repeats():
    plain = of_ink()
    mixed = on_photographs(plain, part="train")
    assert torch.equal(mixed.labels, plain.labels)
    assert mixed.name == "bars on photographs"
    assert mixed.fingerprint() == on_photographs(plain, part="train").fingerprint()
    assert mixed.fingerprint() != on_photographs(plain, part="train", seed=1).fingerprint()
    assert mixed.fingerprint() != on_photographs(plain, part="test").fingerprint()
    assert len(mixed.images.unique(dim=0)) > 30  # not one photograph behind all


@pytest.mark.parametrize(
    ("given", "settings", "error", "said"),
    [
        (torch.rand(3, 1, 16, 16), {}, TypeError, "LabelledImages, got Tensor"),
        (of_ink(), {"part": "val"}, ValueError, "part"),
        (of_ink(), {"seed": -1}, ValueError, "seed"),
        (
            LabelledImages(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), ("a", "b"), "colour"),
            {},
            ValueError,
            "grey and square",
        ),
    ],
)
def test_what_it_refuses(given, settings, error, said):
    with pytest.raises(error, match=said):
        on_photographs(given, **{"part": "train"} | settings)
