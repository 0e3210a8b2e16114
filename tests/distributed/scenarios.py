"""Runs that must come out the same in one process and in several.

As a program, started by torchrun, it does every scenario and writes what each process found:

    torchrun --nproc-per-node 2 scenarios.py FOLDER           all of SCENARIOS
    torchrun --nproc-per-node 2 scenarios.py FOLDER NAME      one of DEADLY

The tests start it once and call the same functions in their own process. A new scenario is a
function of a folder (its own in each launch, one for all processes) that returns a dict of tensors,
numbers, texts and lists, put into SCENARIOS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, TensorDataset

from tlcourse import experiments
from tlcourse.continual import LearningWithoutForgetting, ProgressiveNetwork
from tlcourse.data import LabelledImages
from tlcourse.experiments import Experiment, Row, run
from tlcourse.finetuning import UnfreezeSchedule, freeze
from tlcourse.matching import jacobian_matching_loss
from tlcourse.metrics import accuracy, predict
from tlcourse.models import MLP
from tlcourse.training import cosine_decay, fit
from tlcourse.training._processes import accelerator
from tlcourse.training.files import Checkpoint


def make_data(n=50, n_features=6, n_classes=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, n_features, generator=generator)
    return TensorDataset(x, x[:, :n_classes].argmax(1))


def make_mlp(seed=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def objective(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def train(model, loss=objective, data=None, *, optimizer=None, **settings):
    """Train, and return what must not depend on the processes."""
    history = fit(
        model,
        loss,
        make_data() if data is None else data,
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        **{"epochs": 3, "batch_size": 8, "seed": 2, "progress": False, **settings},
    )
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    return {"weights": dict(model.state_dict()), "rows": rows}


def divided(n, batch_size):
    """Train on n samples; the batch may not divide them, nor two processes the batch."""
    return lambda _: train(make_mlp(), data=make_data(n), batch_size=batch_size)


def one_sample_at_a_time(_):
    class Samples(Dataset):
        def __len__(self):
            return 51

        def __getitem__(self, i):
            return make_data(51)[i]

    return train(make_mlp(), data=Samples())


def adam_with_schedule_and_clipping(_):
    model = make_mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.1)
    return train(model, optimizer=optimizer, schedule=cosine_decay, clip_norm=0.2)


class Routed(nn.Module):
    """A head that only some labels use, one that none uses, and a layer of another type."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.trunk = nn.Linear(6, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(3)])
        self.exact = nn.Linear(8, 3).double()

    def loss(self, batch):
        x, y = batch
        hidden = self.trunk(x).tanh()
        total = self.exact(hidden.double()).square().sum() / len(x)
        for k in (0, 1):  # head 2 is left out by everyone, head 1 by whoever has no label of it
            chosen = (y == k) if k else (y != 1)
            if chosen.any():
                logits = self.heads[k](hidden[chosen])
                total = total + cross_entropy(logits, y[chosen], reduction="sum") / len(x)
        return total


def parameters_left_out(_):
    x, _ = make_data(60).tensors
    y = torch.zeros(60, dtype=torch.int64)
    y[::9] = 1  # rare: often in the batch of one process alone
    model = Routed()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    found = train(model, Routed.loss, TensorDataset(x, y), optimizer=optimizer, batch_size=6)
    return {**found, "with state": sorted(optimizer.state_dict()["state"])}


def lwf(old_weight):
    def run(_):
        torch.manual_seed(3)
        network = LearningWithoutForgetting(MLP((6, 8, 3)), old_weight=old_weight)
        recording = network.new_task(make_data(50, n_classes=2), n_classes=2)
        return train(network, LearningWithoutForgetting.loss, recording.answers)

    return run


def jacobian_matching(_):
    # In float64: a unit vector of a short gradient magnifies rounding.
    teacher, (x, y) = make_mlp(8).double(), make_data().tensors

    def loss(model, batch):
        return objective(model, batch) + jacobian_matching_loss(model, teacher, batch[0])

    return train(make_mlp().double(), loss, TensorDataset(x.double(), y))


def staged_unfreezing(_):
    """Stages in calls of their own, and inside one call."""
    model = make_mlp()
    schedule = UnfreezeSchedule(model, ["2", "0"])
    train(model)
    schedule.advance()
    train(model)
    again = UnfreezeSchedule(model, ["2", "0"])

    def advance(_model):
        if not again.done:
            again.advance()
        return {"trained": sum(p.requires_grad for p in model.parameters())}

    return train(model, on_epoch=advance)


def progressive_columns(_):
    torch.manual_seed(4)
    network = ProgressiveNetwork(6, (8, 8))
    for _ in range(2):
        network.add_column(3)
        learning = [p for p in network.columns[-1].parameters() if p.requires_grad]
        found = train(network, optimizer=torch.optim.SGD(learning, lr=0.3))
        network.eval()
    return found


def frozen_part(_):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), *make_mlp()[1:])
    model[3] = nn.Linear(8, 3)
    torch.manual_seed(7)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    freeze(model[:3])
    return train(nn.Sequential(*model[:4]), on_epoch=measure)


def measure(model):
    return {
        "accuracy": accuracy(model, make_data()),
        "mean": float(predict(model, make_data()).abs().mean()),
    }


def measures(_):
    return train(make_mlp(), on_epoch=measure)


def channels_last(_):
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    model = model.to(memory_format=torch.channels_last)
    x = torch.randn(30, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    return train(model, data=TensorDataset(x, torch.arange(30) % 3))


def loss_in_bfloat16(_):
    """The loss is rounded, so only the weights can agree."""
    found = train(make_mlp(), lambda m, b: objective(m, b).bfloat16(), batch_size=7)
    return {"weights": found["weights"]}


def too_large(_):
    """A loss that is not finite for one sample: in one process's part of a batch."""

    def loss(model, batch):
        x = batch[0]
        poison = torch.where((x == make_data().tensors[0][3]).all(1), torch.inf, 0.0)
        return objective(model, batch) + poison.mean()

    try:
        train(make_mlp(), loss)
    except FloatingPointError as error:
        return {"message": str(error)}
    raise AssertionError("a loss that is not finite went through")


# --- what is not compared with one process --------------------------------------------------------


class Killed(KeyboardInterrupt):
    """A run that was stopped from outside."""


def noisy_run(path=None, end=None):
    """Do a run that draws in every process (dropout, BatchNorm, augmentation), or begin it.

    ``end`` is called in the third of its four epochs.
    """
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )
    calls = iter(range(1, 1000))

    def loss(model, batch):
        if next(calls) == 17 and end is not None:
            end()
        return objective(model, batch)

    return train(
        model,
        loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.01),
        augment=lambda x: x + 0.1 * torch.randn_like(x),
        on_epoch=measure,
        checkpoint=path,
        epochs=4,
    )


def undisturbed(_):
    return noisy_run()


def killed_and_resumed(folder):
    path = folder / "run.safetensors"

    def kill():
        raise Killed

    with contextlib.suppress(Killed):
        noisy_run(path, kill)
    return noisy_run(path)


def restarted(folder):
    """Go on where a launch of ``dies`` has left its checkpoint in the folder."""
    assert (folder / "run.safetensors").exists()
    return noisy_run(folder / "run.safetensors")


def own_draws(_):
    seen = []
    train(make_mlp(), augment=lambda x: seen.append(float(torch.rand(()))) or x, batch_size=50)
    return {"draws": seen}


def first_weights(_):
    """Every process comes with weights of its own: those of the first count."""
    return train(make_mlp(seed=accelerator().process_index))


def written_and_shown(folder):
    """Count the writes, and keep what the bar shows, in every process."""
    writes, write = [], Checkpoint.write
    Checkpoint.write = lambda self, rows: writes.append(len(rows)) or write(self, rows)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            train(make_mlp(), checkpoint=folder / "run.safetensors", progress=True)
    finally:
        Checkpoint.write = write
    return {"writes": writes, "shown": shown.getvalue()}


def folders_of_their_own(folder):
    """A checkpoint that only the first process sees, as on machines without a shared disk."""
    index = accelerator().process_index
    path = folder / str(index) / "run.safetensors"
    train(make_mlp(), checkpoint=folder / "run.safetensors")
    accelerator().wait_for_everyone()
    if index == 0:
        path.parent.mkdir()
        (folder / "run.safetensors").rename(path)
    accelerator().wait_for_everyone()
    try:
        train(make_mlp(), checkpoint=path)
    except ValueError as error:
        return {"message": str(error)}
    raise AssertionError("the processes went on from different epochs")


def after_fit(_):
    """After a run the model is one process's own again: a step in one alone waits for nobody."""
    model = make_mlp()
    train(model)
    if accelerator().process_index == 0:
        objective(model, make_data().tensors).backward()
    return {}


# --- experiments ----------------------------------------------------------------------------------


def noise(n, n_classes=3, *, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(n, 1, size, size, generator=generator)
    return LabelledImages(
        pixels, torch.arange(n) % n_classes, tuple("abcdefghij"[:n_classes]), f"noise {seed}"
    )


def of_the_runner(folder, experiment, data, seeds, **changes):
    """Run an experiment with other settings, all its files in a folder; return what must agree."""
    os.environ["TLCOURSE_CACHE"] = str(folder / "cache")
    settings = {"quick": dict(experiment.settings["quick"]) | changes}
    said = []
    result = run(
        dataclasses.replace(experiment, settings=settings, load=lambda _: data),
        profile="quick",
        seeds=seeds,
        out=folder / "results",
        say=said.append,
    )
    return {
        "said": said,
        "values": {key: list(row.values) for key, row in result.rows.items()},
        "resumed": [made["resumed"] for made in result.record["runs"]],
        "processes": [made["processes"] for made in result.record["runs"]],
    }


def small(run_seed):
    rows = (Row("mean", "of the logits"),)
    return Experiment(
        *("small", "Small", "none", "1", "lower", rows, "", {"quick": {}}, {"quick": 1}),
        load=lambda _: {},
        run_seed=run_seed,
    )


def trained_seed(data, settings, seed, folder):
    model = make_mlp(seed)
    train(model, data=TensorDataset(*make_data().tensors), checkpoint=folder / "a.safetensors")
    return {"mean": float(predict(model, make_data()).mean())}


def an_experiment(folder):
    """Three seeds, of which the first is done before, and then all again."""
    first = of_the_runner(folder, small(trained_seed), {}, [7])
    seeds = of_the_runner(folder, small(trained_seed), {}, [7, 3, 5])
    return {"first": first, "seeds": seeds}


def a_killed_experiment(folder):
    """Killed after its training; a process alone may have been so quick as to end another way."""

    def killed(data, settings, seed, folder):
        trained_seed(data, settings, seed, folder)
        raise Killed

    with contextlib.suppress(Killed):
        of_the_runner(folder, small(killed), {}, [3])
    return of_the_runner(folder, small(trained_seed), {}, [3, 4])


def a_refused_experiment(folder):
    """The first process alone reads the result file, and all hear what is wrong with it."""
    of_the_runner(folder, small(trained_seed), {}, [3, 4])
    try:
        of_the_runner(folder, small(trained_seed), {}, [3], other="settings")
    except ValueError as error:
        return {"message": str(error)}
    raise AssertionError("seeds with other settings were mixed")


def forgetting_digits(folder):
    data = {"train": noise(60, 10, size=8), "test": noise(40, 10, size=8, seed=1)}
    small = {"widths": [16], "epochs": 2, "warm_up_epochs": 1, "batch_size": 7}
    return of_the_runner(folder, experiments.get("forgetting-digits"), data, [0], **small)


def at_transfer(folder):
    data = {"source": noise(30, 5), "train": noise(24, seed=1), "test": noise(21, seed=2)}
    small = {"teacher": "SmallResNet-4", "student": "SmallResNet-2", "labels_per_class": 5}
    epochs = {"source_epochs": 1, "epochs": 2, "batch_size": 7}
    return of_the_runner(folder, experiments.get("at-transfer"), data, [0], **small, **epochs)


SAME = {
    "even": divided(64, 16),
    "uneven": divided(50, 8),
    "a last batch of three": divided(51, 8),
    "a last batch of one": divided(50, 7),
    "one sample at a time": one_sample_at_a_time,
    "adam, schedule, clipping": adam_with_schedule_and_clipping,
    "parameters left out": parameters_left_out,
    "lwf": lwf(1.0),
    "lwf without the old loss": lwf(0.0),
    "jacobian matching": jacobian_matching,
    "staged unfreezing": staged_unfreezing,
    "progressive columns": progressive_columns,
    "a frozen part": frozen_part,
    "measures": measures,
    "channels last": channels_last,
    "a loss in bfloat16": loss_in_bfloat16,
    "too large": too_large,
}
OTHERS = {
    "undisturbed": undisturbed,
    "killed and resumed": killed_and_resumed,
    "restarted": restarted,
    "own draws": own_draws,
    "first weights": first_weights,
    "written and shown": written_and_shown,
    "folders of their own": folders_of_their_own,
    "after fit": after_fit,
    "an experiment": an_experiment,
    "a killed experiment": a_killed_experiment,
    "a refused experiment": a_refused_experiment,
    "forgetting-digits": forgetting_digits,
    "at-transfer": at_transfer,
}
SCENARIOS = SAME | OTHERS


# --- launches that end badly ----------------------------------------------------------------------


def dies(folder):
    """Die in the third of four epochs, as a process does when memory is full."""
    _survive_as_long_as_you_can(folder, lambda: os.kill(os.getpid(), signal.SIGKILL))


def raises(folder):
    """Fail in one process alone."""

    def fail():
        raise ValueError("only here")

    _survive_as_long_as_you_can(folder, fail)


def _survive_as_long_as_you_can(folder, end):
    first = accelerator().is_main_process
    if first:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that it can say what it has seen
    try:
        noisy_run(folder / "run.safetensors", None if first else end)
    except RuntimeError as error:
        (folder / "survivor.txt").write_text("\n".join([str(error), *error.__notes__]))
        raise


DEADLY = {"dies": dies, "raises": raises}


def main(folder, name=None):
    # A file for the processes to meet in: a store on a port would listen to the whole network.
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count
    )
    if name is not None:
        DEADLY[name](folder)
        return
    processes = accelerator()
    assert processes.num_processes == count
    for name, scenario in SCENARIOS.items():
        place = folder / name
        if processes.is_main_process:
            place.mkdir(exist_ok=True)
        processes.wait_for_everyone()
        torch.save(scenario(place), place / f"found-{processes.process_index}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
