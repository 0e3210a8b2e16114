"""Measure the speed that the project promises, as ratios within one run.

    python tools/bench.py             print a table and write _build/bench.json
    python tools/bench.py --strict    also fail when a row is over its limit

Absolute times say more about the machine than about the code, so what is compared is timed
alternately in one process and given as a ratio. To add a case: write a function that returns
rows, and put it into CASES.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch.utils.data import TensorDataset

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "_build" / "bench.json"

# Two timings of the same code differ by a few per cent on a busy machine.
NOISE = 1.05


@dataclass(frozen=True)
class Row:
    """One measured value and its limit: a ratio of two times, or seconds."""

    case: str
    size: str
    value: float
    limit: float
    unit: str = ""  # "" for a ratio, "s" for seconds
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the value keeps to its limit."""
        return self.value <= self.limit


def alternate(
    functions: Sequence[Callable[[], object]], *, seconds: float = 1.5, least: int = 30
) -> list[list[float]]:
    """Time functions in turns.

    Parameters
    ----------
    functions
        What to time; each is called once in every turn, in an order that rotates.
    seconds
        How long to go on.
    least
        The least number of turns.

    Returns
    -------
    list of list of float
        For every function its times in seconds, turn by turn.
    """
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    order = list(range(len(functions)))
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while time.perf_counter() < end or len(times[0]) < least:
            for number in order:
                start = time.perf_counter()
                functions[number]()
                times[number].append(time.perf_counter() - start)
            order.append(order.pop(0))
    finally:
        gc.enable()
    return times


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


def import_beyond_torch() -> list[Row]:
    """Time `import tlcourse` after `import torch`, in fresh interpreters."""
    program = (
        "import time, torch; start = time.perf_counter(); import tlcourse; "
        "print(time.perf_counter() - start)"
    )
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", program],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            ).stdout
        )
        for _ in range(7)
    ]
    return [Row("import tlcourse, after torch", "", statistics.median(times), 0.3, "s")]


def cached_features() -> list[Row]:
    """Compare 25 epochs of a head on cached features with the frozen backbone in the loop.

    The loop is that of the official PyTorch transfer-learning tutorial, without augmentation, so
    that both learn from the same images: SGD at 0.001 with momentum 0.9, batches of 4, the rate
    times 0.1 every 7 epochs, training and validation images through the network at each epoch. The
    backbone has random weights, which cost the same, and its features are brought to the size of
    1 that trained ones have. The classes are stripes down and across, under noise. Both heads must
    end with the same weights.
    """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from tlcourse.finetuning import extract_features
    from tlcourse.models import pretrained_backbone

    epochs, n = 25, 40
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * n) % 2
    stripes = (torch.arange(224) % 16 < 8).float().expand(224, 224)
    pictures = torch.stack([stripes, stripes.T])[labels].unsqueeze(1)  # (80, 1, 224, 224)
    noise = torch.rand(2 * n, 3, 224, 224, generator=generator)
    images = 0.5 * pictures + 0.5 * noise
    torch.manual_seed(0)
    network = pretrained_backbone("squeezenet1_0", weights=None).eval().requires_grad_(False)
    scale = nn.Linear(network.n_features, network.n_features, bias=False)
    with torch.no_grad():
        scale.weight.copy_(torch.eye(network.n_features) / network(images[:8]).std())
    backbone = nn.Sequential(network, scale).eval().requires_grad_(False)
    start = nn.Linear(network.n_features, 2).state_dict()

    def learn(
        through: nn.Module, train: TensorDataset, held_out: TensorDataset
    ) -> tuple[float, torch.Tensor]:
        head = nn.Linear(network.n_features, 2)
        head.load_state_dict(start)
        optimizer = torch.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
        right = 0.0
        for epoch in range(epochs):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
            for batch in order.split(4):
                x, y = train[batch]
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(through(x)), y).backward()
                optimizer.step()
            schedule.step()
            with torch.no_grad():
                answers = torch.cat([head(through(x)).argmax(1) for x in _fours(held_out)])
            right = float((answers == held_out.tensors[1]).double().mean())
        return right, head.weight.detach()

    def split(tensors: tuple[torch.Tensor, ...]) -> list[TensorDataset]:
        return [TensorDataset(*(t[part] for t in tensors)) for part in (slice(n), slice(n, None))]

    begun = time.perf_counter()
    in_the_loop, heavy = learn(backbone, *split((images, labels)))
    loop = time.perf_counter() - begun
    begun = time.perf_counter()
    features = extract_features(backbone, TensorDataset(images, labels))
    on_features, light = learn(nn.Identity(), *split(features.tensors))
    cached = time.perf_counter() - begun
    detail = f"{loop / cached:.1f} times faster; accuracy {in_the_loop:.3f} and {on_features:.3f}"
    torch.testing.assert_close(heavy, light, rtol=1e-3, atol=1e-4)  # one result, or no comparison
    return [
        Row(
            "cached features / in the loop",
            "25 epochs, 80 images",
            cached / loop,
            1 / 20,
            detail=detail,
        )
    ]


def _fours(dataset: TensorDataset) -> list[torch.Tensor]:
    return list(dataset.tensors[0].split(4))


def extraction() -> list[Row]:
    """Compare feature extraction with bare forward passes, in time and in peak memory."""
    import torch
    from torch.utils.data import TensorDataset

    from tlcourse.finetuning import extract_features
    from tlcourse.models import pretrained_backbone

    torch.manual_seed(0)
    backbone = pretrained_backbone("squeezenet1_0", weights=None).eval()
    images = torch.rand(64, 3, 128, 128)
    dataset = TensorDataset(images, torch.zeros(64).long())

    def bare() -> None:
        with torch.no_grad():
            for batch in images.split(32):
                backbone(batch)

    def ours() -> None:
        extract_features(backbone, dataset, batch_size=32)

    mine, plain = (min(times) for times in alternate([ours, bare], seconds=6, least=5))
    rows = [Row("extract_features / bare forward", "64 images of 128 px", mine / plain, 1.1)]

    # In fresh interpreters: the memory beyond start-up for 4 times the images, less the features.
    program = (
        "import resource, sys, torch; from torch.utils.data import TensorDataset; "
        "from tlcourse.finetuning import extract_features; "
        "from tlcourse.models import pretrained_backbone; torch.manual_seed(0); "
        "b = pretrained_backbone('squeezenet1_0', weights=None).eval(); n = int(sys.argv[1]); "
        "x = torch.zeros(1, 3, 96, 96).expand(n, -1, -1, -1); "
        "f = extract_features(b, TensorDataset(x, torch.zeros(n).long()), batch_size=32); "
        "kept = f.tensors[0].numel() * 4 / 2**20; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - kept)"
    )
    few, many = (
        float(
            subprocess.run(
                [sys.executable, "-c", program, str(n)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            ).stdout
        )
        for n in (256, 1024)
    )
    detail = f"{few:.0f} and {many:.0f} MB, the features themselves left out"
    rows.append(Row("peak memory, 1024 / 256 images", "96 px", many / few, 1.05, detail=detail))
    return rows


def retrieval() -> list[Row]:
    """Compare the index with the exact search on 10^4 to 10^6 generated source descriptors.

    The descriptors are histograms of 4 filters with 16 bins around 200 centres, as images of a few
    kinds give them. The cost of a query may not grow as the set does, and few neighbours may be
    missed.
    """
    import torch

    from tlcourse.multitask import DescriptorIndex, retrieve

    k, n_queries = 10, 500
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        centres = torch.distributions.Dirichlet(torch.ones(16)).sample((200, 4))

        def descriptors(n: int) -> torch.Tensor:
            parts = []
            for start in range(0, n, 100_000):  # Dirichlet draws in parts: less memory
                at = torch.randint(200, (min(100_000, n - start),), generator=generator)
                drawn = torch.distributions.Gamma(60 * centres[at] + 0.05, torch.ones(1)).sample()
                parts.append(drawn / drawn.sum(-1, keepdim=True))
            return torch.cat(parts)

        target, everything = descriptors(n_queries), descriptors(10**6)
    queries, searches, missed, details = [], [], [], []
    for n in (10**4, 10**5, 10**6):
        source = everything[:n]
        begun = time.perf_counter()
        index = DescriptorIndex(source)
        build = time.perf_counter() - begun
        few = target[: 10**6 // n * 100]  # the exact search of a million takes its time
        begun = time.perf_counter()
        exact = retrieve(source, few, k, method="exact")
        searches.append((time.perf_counter() - begun) / len(few))
        missed.append(1 - index.search(few, k).recall(exact))
        (times,) = alternate([lambda index=index: index.search(target, k)], seconds=1, least=3)  # type: ignore[misc]
        queries.append(min(times) / n_queries)
        details.append(
            f"built in {build:.1f} s; a query {1e3 * queries[-1]:.2f} ms, "
            f"exact {1e3 * searches[-1]:.2f} ms"
        )
        del index
    rows = [
        Row("neighbours missed, of all", f"{10**p:,} descriptors", share, 0.05, detail=detail)
        for p, share, detail in zip((4, 5, 6), missed, details, strict=True)
    ]
    growth = queries[-1] / queries[0] / 100
    rows.append(Row("query time / size of the set", "10^6 / 10^4", growth, 0.5))
    rows.append(Row("index / exact search", "10^6", queries[-1] / searches[-1], 0.1))
    return rows


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: two that share a core with something else wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
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


@_one_thread()
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


def chapters() -> list[Row]:
    """Read the recorded quick run of every chapter: 30 s is the aim, 90 s the limit."""
    path = ROOT / "book" / "results" / "chapters.json"
    if not path.exists():
        print("No chapter has been measured yet: make measure", file=sys.stderr)
        return []
    recorded = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, entry in recorded.get("chapters", recorded).items():
        if isinstance(entry, dict) and "seconds" in entry:
            seconds = float(entry["seconds"])
            detail = "" if seconds <= 30 else "over the aim of 30 s"
            rows.append(Row("chapter, quick run", name, seconds, 90, "s", detail))
    return rows


CASES: tuple[Callable[[], list[Row]], ...] = (
    distillation_loss_against_by_hand,
    attention_loss_against_the_authors,
    import_beyond_torch,
    cached_features,
    extraction,
    retrieval,
    lwf_step,
    lwf_memory,
    progressive_forward,
    chapters,
)


def main() -> int:
    """Run every case, print the table and write it to a file."""
    parser = argparse.ArgumentParser(description="Measure speed as ratios within one run.")
    parser.add_argument("--strict", action="store_true", help="fail when a row is over its limit")
    arguments = parser.parse_args()
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        # glibc hands freed memory back to the system at once, and which of two functions pays for
        # asking again is chance. Here it keeps it, for all that is timed alike.
        kept = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **kept})
    rows: list[Row] = []
    print(f"{'what':30} {'size':28} {'value':>9} {'limit':>8}")
    for case in CASES:
        for row in case():
            rows.append(row)
            remark = "" if row.good else "OVER THE LIMIT  "
            print(
                f"{row.case:30} {row.size:28} {row.value:7.2f} {row.unit:1} "
                f"{row.limit:6.2f} {row.unit:1}  {remark}{row.detail}",
                flush=True,
            )
    over = [row for row in rows if not row.good]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "rows": [{**asdict(row), "good": row.good} for row in rows],
    }
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{len(rows)} rows, {len(over)} over the limit. Written to {OUTPUT.relative_to(ROOT)}")
    return 1 if over and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
