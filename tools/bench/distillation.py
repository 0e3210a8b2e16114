"""Distillation: the loss."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.timing import NOISE, Case, Row, alternate

if TYPE_CHECKING:
    import torch


def distillation_loss_against_by_hand() -> list[Row]:
    """Time `distillation_loss`, forward and backward, against the same formula by hand."""
    import torch
    from torch.nn import functional

    from tlcourse.distillation import distillation_loss

    temperature, alpha = 4.0, 0.9

    def by_hand(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        soft = functional.cross_entropy(
            student / temperature, functional.softmax(teacher / temperature, dim=1)
        )
        hard = functional.cross_entropy(student, labels)
        return (1 - alpha) * hard + alpha * temperature**2 * soft

    rows = []
    for batch, classes in ((128, 10), (1024, 10), (128, 100), (256, 1000), (4096, 100)):
        generator = torch.Generator().manual_seed(0)
        student = torch.randn(batch, classes, generator=generator).requires_grad_()
        teacher = torch.randn(batch, classes, generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)

        def ours(
            student: torch.Tensor = student,
            teacher: torch.Tensor = teacher,
            labels: torch.Tensor = labels,
        ) -> torch.Tensor:
            loss = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
            return torch.autograd.grad(loss, student)[0]

        def theirs(
            student: torch.Tensor = student,
            teacher: torch.Tensor = teacher,
            labels: torch.Tensor = labels,
        ) -> torch.Tensor:
            return torch.autograd.grad(by_hand(student, teacher, labels), student)[0]

        torch.testing.assert_close(ours(), theirs())  # the same formula, or no comparison
        mine, hand = (statistics.median(times) for times in alternate([ours, theirs]))
        rows.append(
            Row(
                "distillation_loss / by hand",
                f"{batch} x {classes}",
                mine / hand,
                NOISE,
                detail=f"{1e6 * mine:.0f} / {1e6 * hand:.0f} microseconds",
            )
        )
    return rows


CASES: tuple[Case, ...] = (distillation_loss_against_by_hand,)
