"""Matching features: the attention-transfer loss."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.timing import NOISE, Case, Row, alternate

if TYPE_CHECKING:
    import torch


def attention_loss_against_the_authors() -> list[Row]:
    """Time `attention_transfer_loss`, forward and backward, against the authors' formula."""
    import torch
    from torch.nn import functional

    from tlcourse.matching import attention_transfer_loss

    def at(x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(x.pow(2).mean(1).view(x.size(0), -1))

    def by_hand(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        pairs = zip(student, teacher, strict=True)
        return 1e3 * torch.stack([(at(s) - at(t)).pow(2).mean() for s, t in pairs]).sum()

    rows = []
    generator = torch.Generator().manual_seed(0)

    def maps(batch: int, width: int) -> list[torch.Tensor]:
        groups = ((1, 32), (2, 16), (4, 8))  # of a wide residual net: channels and size
        return [torch.randn(batch, k * width, h, h, generator=generator) for k, h in groups]

    for batch, narrow, wide in ((32, 16, 32), (128, 16, 32), (128, 32, 64)):
        student, teacher = [a.requires_grad_() for a in maps(batch, narrow)], maps(batch, wide)

        def ours(
            student: list[torch.Tensor] = student, teacher: list[torch.Tensor] = teacher
        ) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(
                attention_transfer_loss(student, teacher, beta=1e3, mode="code"), student
            )

        def theirs(
            student: list[torch.Tensor] = student, teacher: list[torch.Tensor] = teacher
        ) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(by_hand(student, teacher), student)

        for mine, hand in zip(ours(), theirs(), strict=True):
            torch.testing.assert_close(mine, hand)  # the same formula, or no comparison
        ours_s, theirs_s = (statistics.median(times) for times in alternate([ours, theirs]))
        rows.append(
            Row(
                "AT loss / the authors' formula",
                f"{batch} images, {narrow} and {wide} wide",
                ours_s / theirs_s,
                NOISE,
                detail=f"{1e3 * ours_s:.2f} / {1e3 * theirs_s:.2f} milliseconds",
            )
        )
    return rows


CASES: tuple[Case, ...] = (attention_loss_against_the_authors,)
