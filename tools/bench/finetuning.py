"""Fine-tuning: features that are computed once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.timing import Case, Row, alternate, in_fresh_python

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset


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
                answers = torch.cat([head(through(x)).argmax(1) for x in in_fours(held_out)])
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


def in_fours(dataset: TensorDataset) -> list[torch.Tensor]:
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
    few, many = (in_fresh_python(program, str(n)) for n in (256, 1024))
    detail = f"{few:.0f} and {many:.0f} MB, the features themselves left out"
    rows.append(Row("peak memory, 1024 / 256 images", "96 px", many / few, 1.05, detail=detail))
    return rows


CASES: tuple[Case, ...] = (
    cached_features,
    extraction,
)
