"""Continual learning: a step of LwF and what it keeps, progressive columns."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING

from bench.timing import Case, Row, alternate, one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from tlcourse.continual import LearningWithoutForgetting


@one_thread()
def lwf_step() -> list[Row]:
    """Time a step of learning without forgetting against one of plain joint-head training.

    Both have the same network with two heads, the same images and the same optimiser. Joint-head
    training has hard labels for both heads; LwF has recorded logits for the old one.
    """
    import copy

    import torch
    from torch.nn import functional

    from tlcourse.continual import LearningWithoutForgetting
    from tlcourse.data import LabelledImages
    from tlcourse.models import SmallResNet

    rows = []
    for batch, old_classes in ((32, 45), (128, 45), (32, 1000)):
        torch.manual_seed(0)
        images, labels = torch.rand(batch, 1, 32, 32), torch.arange(batch) % 10
        old_labels = torch.arange(batch) % old_classes
        lwf = LearningWithoutForgetting(SmallResNet(old_classes))
        data = LabelledImages(images, labels, tuple("0123456789"), "noise")
        recorded = lwf.new_task(data, 10).answers.tensors[2]
        joint = copy.deepcopy(lwf)
        optimizers = [torch.optim.SGD(m.parameters(), lr=1e-4, momentum=0.9) for m in (lwf, joint)]

        def ours(
            model: LearningWithoutForgetting = lwf,
            optimizer: torch.optim.Optimizer = optimizers[0],
            batch: tuple[torch.Tensor, ...] = (images, labels, recorded),
        ) -> None:
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()

        def theirs(
            model: LearningWithoutForgetting = joint,
            optimizer: torch.optim.Optimizer = optimizers[1],
            x: torch.Tensor = images,
            y: torch.Tensor = labels,
            y_old: torch.Tensor = old_labels,
        ) -> None:
            optimizer.zero_grad()
            old, new = model.logits(x)
            loss = functional.cross_entropy(old, y_old) + functional.cross_entropy(new, y)
            loss.backward()
            optimizer.step()

        mine, plain = (statistics.median(times) for times in alternate([ours, theirs], seconds=3))
        rows.append(
            Row(
                "LwF step / joint-head step",
                f"{batch} images, {old_classes} old classes",
                mine / plain,
                1.15,
                detail=f"{1e3 * mine:.1f} / {1e3 * plain:.1f} milliseconds",
            )
        )
    return rows


def lwf_memory() -> list[Row]:
    """Measure what LwF keeps: numbers for each new image, per old class; of old images, none.

    The network is the same whether it was trained on few or on many old images, and no function
    takes them: what is kept is measured for 1 and for 4 times the new images.
    """
    import torch
    from torch.utils.data import TensorDataset

    from tlcourse.continual import LearningWithoutForgetting
    from tlcourse.models import MLP

    old_classes, rows = 45, []
    for n in (1000, 4000):
        lwf = LearningWithoutForgetting(MLP((64, 32, old_classes)))
        data = TensorDataset(torch.rand(n, 64), torch.zeros(n).long())
        recording = lwf.new_task(data, 2)
        kept = recording.answers.tensors[2:]
        per_image = sum(t.untyped_storage().nbytes() for t in kept) / n
        rows.append(
            Row(
                "LwF keeps / 4 bytes a logit",
                f"{n} new images",
                per_image / (4 * old_classes),
                1.0,
                detail=f"{per_image:.0f} bytes a new image, 0 an old one",
            )
        )
    return rows


@one_thread()
def progressive_forward() -> list[Row]:
    """Compare how the time of a progressive forward pass and its work grow with the columns.

    The work is the parameters, each times the places of the image that it is used at: one in "mlp"
    columns. In "conv" columns V is used at four times as many places as W and U, which have stride
    2, so that the parameters alone would not tell.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tlcourse.continual import ProgressiveNetwork

    rows = []
    for kind, n_inputs, widths, size in (
        ("mlp", 1024, (512, 512), (256, 1024)),
        ("conv", 1, (32, 64, 64), (32, 1, 32, 32)),
    ):
        torch.manual_seed(0)
        net = ProgressiveNetwork(n_inputs, widths, kind=kind).eval()
        x = torch.rand(size)
        for _ in range(8):
            net.add_column(10)

        def forward(column: int) -> Callable[[], object]:
            def run() -> object:
                with torch.no_grad():
                    return net(x, column=column)  # noqa: B023

            return run

        columns, works = (1, 3, 7), []  # 2, 4 and 8 columns: all but the first have adapters
        for column in columns:
            with FlopCounterMode(display=False) as counter:
                forward(column)()
            works.append(counter.get_total_flops())
        times = [math.inf] * len(columns)
        for _ in range(20):
            for i, column in enumerate(columns):
                start = time.process_time()  # a long call is seldom left alone on a busy machine
                forward(column)()
                times[i] = min(times[i], time.process_time() - start)
        for i in (1, 2):
            time_growth, work_growth = times[i] / times[0], works[i] / works[0]
            rows.append(
                Row(
                    "progressive forward: time / work",
                    f"{kind}, {columns[i] + 1} columns against 2",
                    time_growth / work_growth,
                    1.2,
                    detail=f"time x {time_growth:.1f}, work x {work_growth:.1f}",
                )
            )
    return rows


CASES: tuple[Case, ...] = (
    lwf_step,
    lwf_memory,
    progressive_forward,
)
