from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tlcourse.metrics import accuracy
from tlcourse.training import (
    History,
    cosine_decay,
    fit,
    load_model,
    loader,
    save_model,
    step_decay,
)
from tlcourse.training.batches import check_batch, derived_seed, rows_of

OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": functools.partial(torch.optim.Adam, lr=0.01),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
}


def make_data(n=50):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator)
    return TensorDataset(x, (x[:, 0] > x[:, 1]).long())


def make_model():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
    )


def objective(model, batch):
    x, y = batch
    return cross_entropy(model(x), y)


def noisy(images):
    """Augment with all three generators."""
    shift = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
    return images + shift + 0.1 * torch.randn_like(images)


class Run:
    """The same call of fit, made anew each time as a new process would."""

    def __init__(self, optimizer="sgd", **changes):
        self.model = make_model()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.settings = {
            "data": make_data(),
            "objective": objective,
            "epochs": 4,
            "batch_size": 8,
            "schedule": cosine_decay,
            "augment": noisy,
            "on_epoch": self.measure,
            "seed": 3,
            "progress": False,
            **changes,
        }

    def measure(self, model):
        return {"accuracy": accuracy(model, make_data())}

    def __call__(self):
        rows = fit(self.model, optimizer=self.optimizer, **self.settings).rows
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same(one: Run, other: Run):
    mine, others = one.model.state_dict(), other.model.state_dict()
    assert mine.keys() == others.keys()
    for name in mine:
        assert torch.equal(mine[name], others[name]), name
    a, b = (run.optimizer.state_dict()["state"] for run in (one, other))
    assert a.keys() == b.keys()
    for index in a:
        assert a[index].keys() == b[index].keys()
        for name, value in a[index].items():
            assert torch.equal(value, b[index][name])


# --- the loop -------------------------------------------------------------------------------------


def test_it_is_the_loop_one_would_write_by_hand():
    run = Run(epochs=2, augment=None, on_epoch=None)
    run.model[3].p = 0.0
    rows = run()

    model = make_model()
    model[3].p = 0.0
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    data = make_data()
    batches = loader(data, 8, shuffle=True, seed=3)
    means, step = [], 0
    for _ in range(2):
        total = 0.0
        for x, y in batches:
            optimizer.param_groups[0]["lr"] = 0.1 * cosine_decay(step / 14)
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
            step += 1
        means.append(total / len(data))
    for mine, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [row["loss"] for row in rows] == pytest.approx(means, rel=1e-12)


def test_it_learns():
    run = Run(epochs=20, augment=None)
    run.model[3].p = 0.0
    rows = run()
    assert rows[-1]["accuracy"] > 0.9
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


def test_history():
    run = Run(epochs=2)
    history = fit(run.model, optimizer=run.optimizer, **run.settings)
    assert isinstance(history, History)
    assert [row["epoch"] for row in history.rows] == [1, 2]
    assert list(history.frame().columns) == ["epoch", "loss", "seconds", "accuracy"]
    assert all(row["seconds"] > 0 for row in history.rows)


def test_two_runs_give_the_same_numbers_and_another_seed_others():
    one, two, three = Run(), Run(), Run(seed=4)
    rows = one()
    random.random(), np.random.rand(), torch.rand(1)
    assert two() == rows
    assert_same(one, two)
    assert three() != rows


def test_the_caller_s_random_state_is_left_alone():
    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    seed()
    expected = draw()
    run = Run()
    seed()
    run()
    assert draw() == expected
    interrupted = Run(objective=kill_at(3))
    seed()
    with pytest.raises(Killed):
        interrupted()
    assert draw() == expected


@pytest.mark.parametrize("flags", [(False, True), (True, False)])
def test_learning_rates_and_cudnn_s_switches_are_put_back(monkeypatch, flags):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", flags[0])
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", flags[1])

    def watch(model, batch):
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        return objective(model, batch)

    run = Run(objective=watch)
    run()
    assert run.optimizer.param_groups[0]["lr"] == 0.1
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags


def test_every_epoch_draws_anew_and_again_the_same():
    def draws():
        seen = []

        def augment(images):
            seen.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
            return images

        Run(augment=augment, batch_size=50)()
        return seen

    first = draws()
    assert len({number for three in first for number in three}) == 12  # 4 epochs, 3 generators
    assert draws() == first


def test_draws_are_those_of_the_seed_and_the_epoch():
    """The numbers that recorded runs were made with."""
    seen = []
    Run(augment=lambda x: seen.append(float(torch.rand(()))) or x, batch_size=50, epochs=2)()
    for epoch, draw in enumerate(seen):
        generator = torch.Generator().manual_seed(derived_seed(3, epoch, 1, 0))
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        assert draw == float(torch.rand((), generator=generator))


# --- clipping, mixed precision --------------------------------------------------------------------


def test_clipping_is_what_one_would_write_by_hand():
    settings = {"augment": None, "on_epoch": None, "schedule": None, "epochs": 2}
    runs = {norm: Run(clip_norm=norm, **settings) for norm in (None, 0.6, 1e6)}
    for run in runs.values():
        run.model[3].p = 0.0
        run()
    assert_same(runs[None], runs[1e6])

    model = make_model()
    model[3].p = 0.0
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    batches = loader(make_data(), 8, shuffle=True, seed=3)
    lengths = []
    for _ in range(2):
        for batch in batches:
            optimizer.zero_grad()
            objective(model, batch).backward()
            lengths.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.6)))
            optimizer.step()
    assert min(lengths) < 0.6 < max(lengths)
    for mine, theirs in zip(runs[0.6].model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_only_what_is_trained_counts_in_the_norm():
    """What the optimiser leaves out gets gradients that nobody resets."""

    def trained(scale):
        model = make_model()[:1]
        extra = nn.Linear(6, 16)
        both = nn.ModuleList([model, extra])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def loss(both, batch):
            return both[0](batch[0]).square().mean() + scale * both[1](batch[0]).square().mean()

        fit(both, loss, make_data(), optimizer=optimizer, epochs=1, clip_norm=0.1, progress=False)
        return model[0].weight

    assert torch.equal(trained(0.0), trained(100.0))


def test_gradients_are_clipped_at_their_own_scale(monkeypatch):
    """Half precision scales the loss; powers of two change no bit of a gradient."""
    from accelerate import Accelerator

    settings = {"clip_norm": 0.3, "augment": None, "on_epoch": None}
    plain, scaled = Run(**settings), Run(**settings)
    plain()
    made = Accelerator.__init__

    def with_scaler(self, *arguments, **keywords):
        made(self, *arguments, **keywords)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        self.native_amp = True

    monkeypatch.setattr(Accelerator, "__init__", with_scaler)
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    monkeypatch.setattr(Accelerator, "autocast", lambda self: contextlib.nullcontext())
    scaled()
    assert_same(plain, scaled)


def test_a_loss_in_half_precision_is_taken():
    rows = Run(objective=lambda m, b: objective(m, b).half(), epochs=1, schedule=None)()
    assert rows[0]["loss"] == pytest.approx(math.log(2), rel=0.5)


@pytest.mark.parametrize("norm", [0, -1.0, math.nan, "1"])
def test_wrong_norms(norm):
    with pytest.raises((TypeError, ValueError), match="clip_norm must be"):
        Run(clip_norm=norm)()


def test_the_advice_to_clip_can_be_followed():
    run = Run(objective=lambda m, b: objective(m, b) * math.inf)
    with pytest.raises(FloatingPointError, match=r"clip the gradient: clip_norm=1\.0\."):
        run()
    Run(clip_norm=1.0)()


# --- the loop, continued --------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch_size", "last"), [(17, 8, 1), (4, 1, 1)])
def test_batchnorm_and_a_batch_of_one(n, batch_size, last):
    with pytest.raises(ValueError, match="BatchNorm got a single value per channel") as error:
        Run(data=make_data(n), batch_size=batch_size)()
    message = str(error.value)
    assert f"Of {n} samples at batch_size={batch_size} the last batch has {last}" in message
    assert "Choose a batch_size that leaves no batch of one sample" in message


def test_other_errors_of_an_objective_pass_as_they_are():
    def wrong(model, batch):
        raise ValueError("my own")

    with pytest.raises(ValueError, match="^my own$") as error:
        Run(objective=wrong)()
    assert not hasattr(error.value, "__notes__")


class Counted(nn.Linear):
    """A layer whose state holds more than tensors."""

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


def test_a_state_that_is_no_tensor_trains_but_has_no_file(tmp_path):
    def call(**more):
        model = nn.Sequential(Counted(6, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return fit(
            model, objective, make_data(), optimizer=optimizer, epochs=1, progress=False, **more
        )

    call()
    path = tmp_path / "m.safetensors"
    match = r"state holds '0\._extra_state', a dict.*torch\.save"
    with pytest.raises(TypeError, match=match):
        call(checkpoint=path)
    with pytest.raises(TypeError, match=match):
        save_model(nn.Sequential(Counted(6, 2)), path)
    save_model(nn.Sequential(nn.Linear(6, 2)), path)
    with pytest.raises(TypeError, match=match):
        load_model(nn.Sequential(Counted(6, 2)), path)


def test_home_is_home_at_every_entrance(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_model(make_model(), "~/model.safetensors")
    load_model(make_model(), "~/model.safetensors")
    rows = Run(checkpoint="~/run.safetensors")()
    assert Run(checkpoint=tmp_path / "home" / "run.safetensors", objective=kill_at(1))() == rows
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    for call in (lambda: save_model(make_model(), None), lambda: Run(checkpoint=3)()):
        with pytest.raises(TypeError, match="must be a path"):
            call()


def test_every_group_keeps_its_own_rate():
    model = make_model()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    seen = []

    def schedule(progress):
        seen.append([g["lr"] for g in optimizer.param_groups])
        return 0.5

    fit(
        model, objective, make_data(16), optimizer=optimizer, epochs=1, batch_size=8,
        schedule=schedule, progress=False,
    )  # fmt: skip
    assert seen == [[0.1, 0.01], [0.05, 0.005]]


def test_every_epoch_sees_every_sample_once_in_another_order():
    seen = []

    def watch(model, batch):
        seen.append(batch[0][:, 0])
        return objective(model, batch)

    Run(epochs=2, objective=watch, augment=None)()
    one, two = torch.cat(seen).split(50)
    assert not torch.equal(one, two)
    assert torch.equal(one.sort()[0], two.sort()[0])
    assert torch.equal(one.sort()[0], make_data().tensors[0][:, 0].sort()[0])


def test_progress_goes_from_zero_to_below_one():
    seen = []
    Run(epochs=2, schedule=lambda p: seen.append(p) or 1.0)()
    assert seen == [i / 14 for i in range(14)]


def test_a_frozen_part_can_stay_in_evaluation_mode():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(Frozen(6), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    before = model[0].running_mean.clone()
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    fit(model, objective, make_data(), optimizer=optimizer, epochs=1, progress=False)
    assert torch.equal(model[0].running_mean, before)
    assert model[1].training


def test_the_objective_sees_the_model_itself():
    run = Run(
        objective=lambda model, batch: objective(model[:2], batch) if model is run.model else 1
    )
    run()


def test_a_model_may_be_trained_inside_an_objective_s_module():
    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = nn.Linear(6, 2)

        def forward(self, model, batch):
            return (model(batch[0]) - self.teacher(batch[0]).detach()).square().mean()

    teacher = Teacher()
    before = teacher.teacher.weight.clone()
    run = Run(objective=teacher, augment=None, on_epoch=None)
    rows = run()
    assert torch.equal(teacher.teacher.weight, before)
    assert rows[-1]["loss"] < rows[0]["loss"]


class Samples(Dataset):
    """One sample at a time, without ``.tensors``."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i]


def test_batched_and_single_indexing_give_the_same_run():
    one, two = Run(), Run(data=Samples(make_data()))
    assert one() == two()
    assert_same(one, two)


def test_data_of_images_alone():
    rows = Run(
        data=TensorDataset(make_data().tensors[0]),
        objective=lambda model, batch: model(batch[0]).square().mean(),
        on_epoch=None,
    )()
    assert len(rows) == 4


# --- resuming -------------------------------------------------------------------------------------


class Killed(KeyboardInterrupt):
    """A run that was stopped from outside."""


def kill_at(call):
    """Return the objective, which stops the run at its ``call``-th call."""
    calls = iter(range(1, 10_000))

    def killed(model, batch):
        if next(calls) == call:
            raise Killed
        return objective(model, batch)

    killed.__qualname__ = objective.__qualname__
    return killed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("call", [1, 4, 8, 17, 28])  # 7 steps an epoch
def test_killed_in_an_epoch_and_run_again(tmp_path, optimizer, call):
    undisturbed = Run(optimizer)
    rows = undisturbed()
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        Run(optimizer, checkpoint=path, objective=kill_at(call))()
    again = Run(optimizer, checkpoint=path)
    torch.manual_seed(99)
    for parameter in again.model.parameters():  # nothing but the file may matter
        nn.init.normal_(parameter)
    assert again() == rows
    assert_same(undisturbed, again)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_between_training_and_checkpoint(tmp_path, optimizer):
    undisturbed = Run(optimizer)
    rows = undisturbed()
    path = tmp_path / "run.safetensors"
    killed = Run(optimizer, checkpoint=path)
    measure = killed.measure

    def stop(model):
        if killed.optimizer.state_dict()["state"] and stop.epoch == 2:
            raise Killed
        stop.epoch += 1
        return measure(model)

    stop.epoch = 0
    killed.settings["on_epoch"] = stop
    with pytest.raises(Killed):
        killed()
    again = Run(optimizer, checkpoint=path)
    assert again() == rows
    assert_same(undisturbed, again)


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("write", [1, 2, 4, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_killed_while_the_checkpoint_is_written(tmp_path, monkeypatch, where, write, optimizer):
    undisturbed = Run(optimizer)
    rows = undisturbed()
    path = tmp_path / "run.safetensors"
    calls = iter(range(1, 100))

    def stop(original):
        def stopped(*arguments):
            if next(calls) == write:
                raise Killed
            return original(*arguments)

        return stopped

    with monkeypatch.context() as patch:
        if where == "fsync":
            patch.setattr(os, "fsync", stop(os.fsync))
        else:
            patch.setattr(Path, "replace", stop(Path.replace))
        with pytest.raises(Killed):
            Run(optimizer, checkpoint=path)()
    assert path.exists() == (write > 1)
    again = Run(optimizer, checkpoint=path)
    assert again() == rows
    assert_same(undisturbed, again)
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_what_a_kill_left_half_written_is_ignored_and_goes_in_time(tmp_path):
    path = tmp_path / "run.safetensors"
    old = tmp_path / ".run.safetensors.123.part"
    fresh = tmp_path / ".run.safetensors.124.part"
    for part in (old, fresh):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    Run(checkpoint=path)()
    assert not old.exists()
    assert fresh.exists()  # it may be another process's


def test_the_same_objects_can_go_on_after_an_interruption(tmp_path):
    undisturbed = Run()
    rows = undisturbed()
    run = Run(checkpoint=tmp_path / "run.safetensors", objective=kill_at(10))
    with pytest.raises(Killed):
        run()
    assert run() == rows  # the file's weights and momentum replace those of the broken epoch
    assert_same(undisturbed, run)


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    path = tmp_path / "run.safetensors"
    one = Run(checkpoint=path)
    rows = one()
    content = path.read_bytes()
    two = Run(checkpoint=path, objective=kill_at(1))
    assert two() == rows
    assert_same(one, two)
    assert path.read_bytes() == content


def test_a_checkpoint_changes_no_number(tmp_path):
    one, two = Run(), Run(checkpoint=tmp_path / "new" / "folder" / "run.safetensors")
    assert one() == two()
    assert_same(one, two)


def test_tied_weights_can_be_kept(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "run.safetensors"
    fit(
        model,
        objective,
        make_data(),
        optimizer=optimizer,
        epochs=1,
        checkpoint=path,
        progress=False,
    )
    save_model(model, tmp_path / "model.safetensors")
    other = load_model(Tied(), tmp_path / "model.safetensors")
    assert torch.equal(other.second.weight, model.first.weight)


CHANGES = {
    "epochs was 4 and is now 5": {"epochs": 5},
    "batch_size was 8 and is now 9": {"batch_size": 9},
    "seed was 3 and is now 4": {"seed": 4},
    "clip_norm was None and is now 1.0": {"clip_norm": 1.0},
    "schedule was": {"schedule": None},
    "augment was 'noisy' and is now None": {"augment": None},
    "objective was 'objective' and is now": {"objective": lambda m, b: objective(m, b)},
    "data was": {"data": make_data(51)},
    "optimizer was 'SGD' and is now 'Adam'": {"optimizer": "adam"},
    "optimizer group 0, nesterov was False and is now True": {"optimizer": "nesterov"},
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path, message):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        Run(checkpoint=path, objective=kill_at(10))()
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"is the checkpoint of another run.*Delete the file") as e:
        Run(checkpoint=path, **CHANGES[message])()
    assert message in str(e.value)
    assert str(path) in str(e.value)
    assert path.read_bytes() == content


def test_a_checkpoint_of_other_data_of_the_same_size_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    Run(checkpoint=path)()
    data = make_data()
    data.tensors[0][7, 2] += 1e-3
    with pytest.raises(ValueError, match="data was"):
        Run(checkpoint=path, data=data)()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    Run(checkpoint=path)()
    other = Run(checkpoint=path)
    other.model[0] = nn.Linear(6, 16, bias=False)
    other.optimizer = OPTIMIZERS["sgd"](other.model.parameters())
    with pytest.raises(ValueError, match=r"model was .*only in the file: 0.bias"):
        other()
    weights = {name: t.clone() for name, t in make_model().state_dict().items()}
    dropout = Run(checkpoint=path)
    dropout.model[3].p = 0.5
    with pytest.raises(ValueError, match="model was 'Sequential"):
        dropout()
    assert all(torch.equal(t, weights[n]) for n, t in dropout.model.state_dict().items())


def damaged(content: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "header":
        return content[:100]
    if how == "half":
        return content[: len(content) // 2]
    if how == "bit":
        return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    return b"\xff" * 500


@pytest.mark.parametrize("how", ["empty", "header", "half", "bit", "noise"])
def test_a_damaged_checkpoint_is_refused_and_kept(tmp_path, how):
    path = tmp_path / "run.safetensors"
    Run(checkpoint=path)()
    content = damaged(path.read_bytes(), how)
    path.write_bytes(content)
    run = Run(checkpoint=path)
    with pytest.raises(ValueError, match=r"damaged.*Delete the file to start again") as error:
        run()
    assert str(path) in str(error.value)
    assert path.read_bytes() == content


def test_a_file_of_something_else_is_refused_and_kept(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(make_model(), path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="is not a checkpoint of fit"):
        Run(checkpoint=path)()
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="is a folder"):
        Run(checkpoint=tmp_path)()


@pytest.mark.parametrize("write", [1, 3])
def test_no_space_while_writing(tmp_path, monkeypatch, write):
    undisturbed = Run()
    rows = undisturbed()
    path = tmp_path / "run.safetensors"
    calls = iter(range(1, 100))

    def full(_descriptor):
        if next(calls) == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"could not be written \(No space left") as error:
            Run(checkpoint=path)()
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == (["run.safetensors"] if write > 1 else [])
    again = Run(checkpoint=path)
    assert again() == rows
    assert_same(undisturbed, again)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        Run(checkpoint=tmp_path / "file" / "run.safetensors")()


# --- what goes wrong in the loop ------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [1, 5, 50])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, value, every):
    monkeypatch.setattr("tlcourse.training._guards.reading_interval", lambda _device: every)
    calls = iter(range(1, 1000))

    def poisoned(model, batch):
        loss = objective(model, batch)
        return loss + value if next(calls) == 7 * 2 + 3 else loss

    poisoned.__qualname__ = objective.__qualname__
    path = tmp_path / "run.safetensors"
    with pytest.raises(FloatingPointError) as error:
        Run(checkpoint=path, objective=poisoned)()
    message = str(error.value)
    assert f"The loss is {value} at epoch 3, step 3 of 7" in message
    assert "smaller learning rate" in message
    assert str(path) in message
    again = Run(checkpoint=path)
    undisturbed = Run()
    assert again() == undisturbed()
    assert_same(again, undisturbed)


def test_a_run_stops_at_the_very_step_whose_loss_is_not_finite():
    calls = []

    def poisoned(model, batch):
        calls.append(1)
        return objective(model, batch) + (math.inf if len(calls) == 10 else 0.0)

    with pytest.raises(FloatingPointError):
        Run(objective=poisoned)()
    assert len(calls) == 10


def test_a_bad_path_is_known_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        Run(checkpoint=tmp_path / "file" / "run.safetensors", objective=kill_at(1))()


def test_weights_that_are_not_finite_are_never_kept(tmp_path):
    def last_step_too_long(model, batch):
        calls[0] += 1
        loss = objective(model, batch)
        return loss * 1e38 * 1e38 if calls[0] == -1 else loss

    calls = [0]
    path = tmp_path / "run.safetensors"
    run = Run(checkpoint=path, objective=last_step_too_long)
    handle = run.model[4].weight.register_hook(
        lambda g: g * math.inf if calls[0] == 14 else g  # the last step of epoch 2
    )
    with pytest.raises(FloatingPointError, match=r"4.weight holds NaN.*after epoch 2.*safetensors"):
        run()
    handle.remove()
    kept = load_file(path)
    assert all(bool(torch.isfinite(t).all()) for t in kept.values())


BAD = {
    "must return a scalar tensor, the loss; got float": (TypeError, lambda m, b: 1.0),
    "must return a scalar tensor, the loss; got NoneType": (TypeError, lambda m, b: None),
    r"must return a scalar, got shape \(8,\)": (
        ValueError,
        lambda m, b: cross_entropy(m(b[0]), b[1], reduction="none"),
    ),
    "has no gradient": (ValueError, lambda m, b: objective(m, b).detach()),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_objective(message):
    error, wrong = BAD[message]
    with pytest.raises(error, match=message):
        Run(objective=wrong)()


def test_a_model_that_is_all_frozen():
    run = Run()
    run.model.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        run()


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_counts_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Run(**{name: 0})()
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        Run(**{name: 2.5})()


def test_wrong_seeds():
    with pytest.raises(ValueError, match="seed must be at least 0"):
        Run(seed=-1)()


def test_no_data():
    with pytest.raises(ValueError, match="The data is empty"):
        Run(data=TensorDataset(torch.rand(0, 6), torch.zeros(0, dtype=torch.int64)))()


def test_data_without_a_length():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from make_data()

    with pytest.raises(TypeError, match="The data must have a length, which Stream has not"):
        Run(data=Stream())()


def test_wrong_kinds_of_arguments():
    model = make_model()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    call = functools.partial(fit, epochs=1, progress=False)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        call("model", objective, make_data(), optimizer=optimizer)
    with pytest.raises(TypeError, match="objective must be a function of"):
        call(model, None, make_data(), optimizer=optimizer)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got type"):
        call(model, objective, make_data(), optimizer=torch.optim.SGD)


def test_an_optimizer_of_another_model():
    run = Run()
    run.optimizer = OPTIMIZERS["sgd"](make_model().parameters())
    with pytest.raises(ValueError, match="optimizer holds 6 parameters that are not the model's"):
        run()


def test_wrong_augmentation():
    with pytest.raises(TypeError, match="augment must return a tensor, got NoneType"):
        Run(augment=lambda x: None)()
    with pytest.raises(ValueError, match="as many images as it gets, 8; got 4"):
        Run(augment=lambda x: x[:4])()


@pytest.mark.parametrize("factor", [math.nan, -0.5, "half", None])
def test_wrong_schedules(factor):
    with pytest.raises((TypeError, ValueError), match=r"schedule\(.*\) must be"):
        Run(schedule=lambda p: factor if p > 0.5 else 1.0)()


def test_wrong_measures():
    with pytest.raises(TypeError, match="on_epoch must return a dict of measures, got float"):
        Run(on_epoch=lambda m: 0.5)()
    with pytest.raises(ValueError, match="must not name a measure 'loss'"):
        Run(on_epoch=lambda m: {"loss": 0.5})()
    with pytest.raises(TypeError, match="must return numbers, got 'a': str"):
        Run(on_epoch=lambda m: {"a": "b"})()


def test_the_progress_bar(capsys):
    Run(progress=True, epochs=1)()
    assert "epoch 1 of 1" in capsys.readouterr().err
    Run(progress=False)()
    assert capsys.readouterr() == ("", "")


def test_no_bar_in_a_page_that_is_built(capsys, monkeypatch):
    monkeypatch.setenv("TLCOURSE_BUILD_SITE", "1")
    Run(progress=True)()
    assert capsys.readouterr() == ("", "")


# --- schedules ------------------------------------------------------------------------------------


def test_cosine_decay():
    for t in (0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0):
        assert cosine_decay(t) == pytest.approx((1 + math.cos(math.pi * t)) / 2)


def test_step_decay_changes_at_the_very_step():
    schedule = step_decay((0.3, 0.6, 0.8), 0.2)
    steps = 391
    factors = [schedule(i / (200 * steps)) for i in range(200 * steps)]
    changes = [i for i in range(1, len(factors)) if factors[i] != factors[i - 1]]
    assert changes == [60 * steps, 120 * steps, 160 * steps]
    assert factors[-1] == pytest.approx(0.008)


@pytest.mark.parametrize("milestones", [(0.5, 0.5), (0.6, 0.3), (0, 0.5), (0.5, 1), (60, 120)])
def test_wrong_milestones(milestones):
    with pytest.raises(ValueError, match=r"milestones must rise and lie in \(0, 1\)"):
        step_decay(milestones, 0.2)


@pytest.mark.parametrize("factor", [0, -1, 1, 5])
def test_wrong_factors(factor):
    with pytest.raises(ValueError, match="factor must be"):
        step_decay((0.5,), factor)


# --- batches --------------------------------------------------------------------------------------


def test_a_loader_s_passes_differ_and_repeat_with_the_seed():
    data = TensorDataset(torch.arange(20))

    def passes(seed):
        batches = loader(data, 6, shuffle=True, seed=seed)
        return [torch.cat([x for (x,) in batches]).tolist() for _ in range(3)]

    first = passes(0)
    assert first == passes(0) != passes(1)
    assert first[0] != first[1] != first[2]
    assert all(sorted(order) == list(range(20)) for order in first)


class Counting(Dataset):
    """Counts how often it is asked, and may say that its samples are rows of tensors."""

    def __init__(self, *tensors, said):
        self.tensors, self.said, self.calls = tensors, said, 0

    def rows(self):
        return self.tensors if self.said else None

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, i):
        self.calls += 1
        return tuple(t[i] for t in self.tensors)


@pytest.mark.parametrize("said", [True, False])
def test_rows_of_tensors_are_indexed_a_batch_at_a_time(said):
    data = Counting(torch.arange(20), torch.arange(20), said=said)
    batches = loader(data, 8, shuffle=True)
    assert [len(x) for x, _ in batches] == [8, 8, 4]
    assert data.calls == (0 if said else 20)
    assert len(batches) == 3


class Standardised(TensorDataset):
    """Changes one image at a time, so it must not get a batch."""

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return (image - image.mean()) / image.std(), label


class StandardisedPlain(Dataset):
    """The same, no TensorDataset, but with tensors of that name."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, i):
        image = self.tensors[0][i]
        return (image - image.mean()) / image.std(), self.tensors[1][i]


@pytest.mark.parametrize("kind", [Standardised, StandardisedPlain])
@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_a_transform_sees_one_sample_whatever_the_batch(kind, batch_size):
    scale = torch.arange(1, 13).view(-1, 1, 1, 1)
    data = kind(torch.randn(12, 1, 4, 4) * scale + scale, torch.arange(12))
    assert rows_of(data) is None
    by_hand = torch.stack([data[i][0] for i in range(12)])
    images = torch.cat([x for x, _ in loader(data, batch_size, shuffle=False)])
    torch.testing.assert_close(images, by_hand, rtol=0, atol=0)


def test_a_dataset_s_own_way_to_give_several_samples_is_used():
    class Together(Samples):
        def __getitems__(self, indices):
            asked.append(indices)
            return [self.data[i] for i in indices]

    asked = []
    batches = list(loader(Together(TensorDataset(torch.arange(5))), 2, shuffle=False))
    assert asked == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.cat([x for (x,) in batches]), torch.arange(5))


def test_samples_that_are_tensors_come_as_tuples_of_one():
    batches = list(loader(Samples(torch.arange(3)), 2, shuffle=False))
    assert [type(b) for b in batches] == [tuple, tuple]
    assert batches[0][0].tolist() == [0, 1]


def test_a_loader_leaves_pytorch_s_generator_alone():
    before = torch.get_rng_state()
    list(loader(make_data(), 8, shuffle=True))
    list(loader(Samples(make_data()), 8, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_differ_by_purpose_epoch_and_process():
    seeds = {
        derived_seed(seed, epoch, purpose, process)
        for seed in (0, 1)
        for epoch in (0, 1)
        for purpose in (0, 1)
        for process in (0, 1)
    }
    assert len(seeds) == 16


def test_samples_that_do_not_fit_together():
    class Sizes(Samples):
        def __getitem__(self, i):
            return torch.zeros(i + 1), 0

    with pytest.raises(TypeError, match=r"samples 0 to 1 cannot be put into one batch.*one size"):
        list(loader(Sizes(range(4)), 2, shuffle=False))

    class Pictures(Samples):
        def __getitem__(self, i):
            return object(), 0

    with pytest.raises(TypeError, match="cannot be put into one batch.*tuples of tensors"):
        list(loader(Pictures(range(4)), 2, shuffle=False))


class Dicts(Samples):
    def __getitem__(self, i):
        image, label = self.data[i]
        return {"image": image, "label": label}


def test_samples_that_are_no_tuples_are_named():
    with pytest.raises(TypeError, match=r"are of type dict, with the keys 'image', 'label'\. Wrap"):
        Run(data=Dicts(make_data()))()
    with pytest.raises(TypeError, match="but they give object"):
        check_batch(object())
    with pytest.raises(TypeError, match="but they begin with str"):
        check_batch(("a", "b"))
    with pytest.raises(TypeError, match="but they give tuple"):
        check_batch(())


# --- models' files --------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    model = make_model()
    model(torch.randn(10, 6))  # so that the buffers have moved
    path = tmp_path / "new" / "model.safetensors"
    save_model(model, path)
    other = nn.Sequential(*make_model())
    nn.init.zeros_(other[0].weight)
    assert load_model(other, path) is other
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_file_of_another_program_can_be_loaded(tmp_path):
    model = nn.Linear(3, 2)
    save_file(dict(model.state_dict()), tmp_path / "m.safetensors")
    assert torch.equal(load_model(nn.Linear(3, 2), tmp_path / "m.safetensors").weight, model.weight)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.safetensors"):
        load_model(make_model(), tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        load_model(make_model(), tmp_path)


@pytest.mark.parametrize("how", ["empty", "header", "half", "bit", "noise"])
def test_a_damaged_model_file(tmp_path, how):
    path = tmp_path / "model.safetensors"
    save_model(make_model(), path)
    path.write_bytes(damaged(path.read_bytes(), how))
    model = make_model()
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(model, path)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), make_model().parameters()))  # noqa: B905


def test_another_model_s_file_changes_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 2, bias=False)), path)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    before = model[0].bias.clone()
    with pytest.raises(ValueError, match="holds another model") as error:
        load_model(model, path)
    message = str(error.value)
    assert "missing in the file: 1.bias" in message
    assert "0.weight is (3, 6) float32 in the file, (4, 6) float32 in the model" in message
    assert torch.equal(model[0].bias, before)
    with pytest.raises(ValueError, match="only in the file: 1.weight"):
        load_model(nn.Sequential(nn.Linear(6, 3)), path)
    with pytest.raises(ValueError, match="float64 in the model"):
        load_model(nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 2, bias=False)).double(), path)


def test_a_checkpoint_is_no_model(tmp_path):
    path = tmp_path / "run.safetensors"
    Run(checkpoint=path)()
    with pytest.raises(ValueError, match="holds a checkpoint, not a model"):
        load_model(make_model(), path)


def test_a_model_s_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(nn.Linear(2, 2), path)
    content = path.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not be written"):
        save_model(nn.Linear(3, 3), path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_metadata_is_readable_by_others(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "run.safetensors"
    rows = Run(checkpoint=path)()
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    assert [row["loss"] for row in state["history"]] == [row["loss"] for row in rows]
    assert state["settings"]["epochs"] == 4
