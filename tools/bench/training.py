"""Training: what the loop adds to the steps themselves."""

from __future__ import annotations

from bench.timing import Case, Row, alternate, one_thread


def fit_against_a_bare_loop() -> list[Row]:
    """Time an epoch of `fit` against the same steps in a bare loop over batches in memory."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
    from torch.utils.data import TensorDataset

    from tlcourse.models import MLP
    from tlcourse.training import fit

    widths, batch, steps = (100, 100, 100, 10), 64, 200
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch * steps, widths[0], generator=generator)
    y = torch.randint(widths[-1], (batch * steps,), generator=generator)
    data = TensorDataset(x, y)

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = MLP(widths)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    (mine, my_steps), (bare, bare_steps) = made(), made()

    def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def ours() -> None:
        fit(
            *(mine, objective, data),
            optimizer=my_steps,
            epochs=1,
            batch_size=batch,
            progress=False,
        )

    def by_hand() -> None:
        bare.train()
        for index in torch.randperm(len(x)).split(batch):
            loss = cross_entropy(bare(x[index]), y[index])
            bare_steps.zero_grad()
            loss.backward()
            bare_steps.step()

    with one_thread():
        times = alternate([ours, by_hand], seconds=6, least=15)
    fitted, alone = (min(t) for t in times)  # what else runs on the machine only adds
    return [
        Row(
            "fit / a bare loop",
            f"MLP 2 x {widths[1]}, batch {batch}",
            fitted / alone,
            1.3,
            detail=f"{1e6 * fitted / steps:.0f} / {1e6 * alone / steps:.0f} microseconds a step",
        )
    ]


CASES: tuple[Case, ...] = (fit_against_a_bare_loop,)
