"""The runner: a killed run goes on, ends in the same numbers, and its file says how it was made."""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tlcourse.data import LabelledImages
from tlcourse.experiments import Experiment, Row, get, load_result, results_dir, run
from tlcourse.experiments._engine import experiment as experiment_module
from tlcourse.experiments._engine import runner as runner_module
from tlcourse.experiments._engine.results import OF_A_RUN
from tlcourse.training import fit

commit = runner_module._commit

EPOCHS, STEPS = 2, 2
SETTINGS = {"epochs": EPOCHS, "rate": 0.5, "samples": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TLCOURSE_PROFILE", raising=False)
    monkeypatch.setattr(runner_module, "_commit", lambda: "0123456789ab")  # git takes its time
    return tmp_path / "cache"


class Tiny:
    """An experiment that takes milliseconds, notes all that happens, and can be interrupted."""

    def __init__(self, **changes) -> None:
        self.events: list[str] = []
        self.interrupt_at: int | None = None
        self.bias = 0.0
        self.experiment = dataclasses.replace(self._experiment(), **changes)

    def _experiment(self) -> Experiment:
        return Experiment(
            name="tiny",
            title="A linear model on noise",
            chapter="methods/none",
            unit="test error, %",
            better="lower",
            rows=(Row("error", "of the model", 1.5), Row("weight", "its largest weight", unit="1")),
            source="nowhere",
            settings={"quick": SETTINGS, "full": SETTINGS | {"epochs": EPOCHS + 1}},
            seeds={"quick": 2, "full": 3},
            load=self.load,
            run_seed=self.run_seed,
        )

    def happens(self, event: str) -> None:
        self.events.append(event)
        if self.interrupt_at is not None and len(self.events) > self.interrupt_at:
            raise KeyboardInterrupt

    def load(self, settings) -> dict[str, LabelledImages]:
        self.happens("load")
        draw = torch.Generator().manual_seed(1)
        images = (torch.rand(settings["samples"], 1, 2, 2, generator=draw) + self.bias).clamp(0, 1)
        labels = torch.arange(settings["samples"]) % 2
        return {"train": LabelledImages(images, labels, ("a", "b"), "noise")}

    def run_seed(self, data, settings, seed, folder) -> dict[str, float]:
        self.happens(f"seed {seed}")
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        train = data["train"]

        def objective(model, batch):
            self.happens(f"step of {seed}")
            return cross_entropy(model(batch[0]), batch[1])

        fit(
            model,
            objective,
            train,
            optimizer=torch.optim.SGD(model.parameters(), settings["rate"], momentum=0.9),
            epochs=settings["epochs"],
            batch_size=train.images.shape[0] // STEPS,
            seed=seed,
            checkpoint=folder / "model.safetensors",
            progress=False,
        )
        self.happens(f"trained {seed}")
        wrong = (model(train.images).argmax(1) != train.labels).double().mean()
        return {"error": 100 * float(wrong), "weight": float(model[1].weight.detach().abs().max())}


def go(experiment: Experiment, out: Path, **how):
    return run(experiment, out=out, say=how.pop("say", lambda line: None), **how)


def values(result) -> dict[str, tuple[float, ...]]:
    return {key: row.values for key, row in result.rows.items()}


def returning(returned) -> Experiment:
    return Tiny(run_seed=lambda data, settings, seed, folder: returned).experiment


def parts(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*.part")]


# --- interrupted and started again ----------------------------------------------------------------


def test_interrupted_at_any_moment_it_ends_in_the_same_numbers(tmp_path, cache, monkeypatch):
    whole, replace = Tiny(), Path.replace
    current = whole

    def replacing(self, target):
        current.happens(f"before {Path(target).name}")
        replace(self, target)
        current.happens(f"after {Path(target).name}")

    monkeypatch.setattr(Path, "replace", replacing)
    expected = values(go(whole.experiment, tmp_path / "whole"))
    moments = list(whole.events)
    steps = [f"step of {s}" for s in (0, 1) for _ in range(EPOCHS * STEPS)]
    assert [e for e in moments if e.startswith("step")] == steps
    assert {"before tiny-quick.json", "after seed-0.json", "trained 1"} < set(moments)

    for moment in range(len(moments)):
        monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / f"cache-{moment}"))
        out = tmp_path / f"out-{moment}"
        current = killed = Tiny()
        killed.interrupt_at = moment
        with pytest.raises(KeyboardInterrupt):
            go(killed.experiment, out)
        assert killed.events == moments[: moment + 1]
        current = again = Tiny()
        assert values(go(again.experiment, out)) == expected, moments[moment]
        for seed in (0, 1):
            if f"after seed-{seed}.json" in killed.events:  # its numbers were kept
                assert not [e for e in again.events if e == f"seed {seed}"]
        repeated = len([e for e in killed.events + again.events if e.startswith("step")])
        assert repeated <= len(steps) + STEPS, "more than the epoch that was killed is run twice"
        assert not parts(out, tmp_path / f"cache-{moment}")


def test_what_is_done_is_not_run_again(tmp_path):
    tiny = Tiny()
    first = go(tiny.experiment, tmp_path, seeds=[0])
    tiny.events.clear()
    second = go(tiny.experiment, tmp_path, seeds=[1, 0])
    assert {e for e in tiny.events if e.startswith("seed")} == {"seed 1"}
    assert second["weight"].values[1] == first["weight"].values[0]
    assert second.record["seeds"] == [1, 0]


def test_finished_checkpoints_are_removed(tmp_path, cache):
    go(Tiny().experiment, tmp_path)
    (folder,) = (cache / "runs").iterdir()
    assert sorted(path.name for path in folder.rglob("*")) == ["seed-0.json", "seed-1.json"]


def test_it_says_what_it_does(tmp_path):
    lines: list[str] = []
    go(Tiny().experiment, tmp_path, seeds=[0], say=lines.append)
    go(Tiny().experiment, tmp_path, seeds=[0], say=lines.append)
    wrote = f"tiny (quick): wrote {tmp_path / 'tiny-quick.json'}"
    assert lines[:3] == ["tiny (quick): loading data", "tiny (quick): seed 0", wrote]
    assert lines[4] == "tiny (quick): seed 0 is done already"


def ran(tiny: Tiny, tmp_path: Path, **how) -> bool:
    tiny.events.clear()
    go(tiny.experiment, tmp_path, seeds=[0], **how)
    return "seed 0" in tiny.events


def test_changed_settings_or_data_start_anew(tmp_path):
    tiny = Tiny()
    assert ran(tiny, tmp_path)
    assert not ran(tiny, tmp_path)
    assert ran(Tiny(settings={"quick": SETTINGS | {"rate": 0.4}}), tmp_path)
    assert ran(tiny, tmp_path, profile="full")
    tiny.bias = 0.1
    assert ran(tiny, tmp_path)
    tiny.bias = 0.0
    assert not ran(tiny, tmp_path)


def test_changed_code_starts_anew(tmp_path, monkeypatch):
    """A mended loss is not answered with the numbers of the old one."""
    tiny, real = Tiny(), runner_module.code_of
    assert ran(tiny, tmp_path)
    assert not ran(tiny, tmp_path)
    assert "tlcourse.training.loop" in real(tiny.run_seed.__module__)  # by which it is trained
    mended = {"tlcourse.training.loop": "another"}
    monkeypatch.setattr(runner_module, "code_of", lambda *a, **how: real(*a, **how) | mended)
    assert ran(tiny, tmp_path)
    assert not ran(tiny, tmp_path)


def test_the_code_of_what_an_experiment_uses_counts_and_the_engine_does_not():
    code = set(runner_module._code(get("at-cifar10")))
    assert {"tlcourse.matching.attention", "tlcourse.distillation.loss", "tlcourse.metrics"} < code
    assert {"tlcourse.models.wide_resnet", "tlcourse.data.augment"} < code
    assert not {name for name in code if "_engine" in name}
    assert not {"tlcourse.matching.jacobian", "tlcourse.plotting", "tlcourse.cli"} & code


def test_where_the_code_cannot_be_compared_every_run_starts_anew(tmp_path):
    """Such as in a notebook, and where a definition is bound to arguments of anywhere."""
    tiny = Tiny()
    bound = dataclasses.replace(tiny.experiment, run_seed=functools.partial(tiny.run_seed))
    of_notebook = types.FunctionType(
        (lambda data, settings, seed, folder: tiny.run_seed(data, settings, seed, folder)).__code__,
        {"__name__": "no_file", "tiny": tiny},
        closure=(types.CellType(tiny),),
    )
    in_notebook = dataclasses.replace(tiny.experiment, run_seed=of_notebook)
    for experiment in (bound, in_notebook):
        for _ in range(2):
            tiny.events.clear()
            go(experiment, tmp_path, seeds=[0])
            assert "seed 0" in tiny.events


def test_fresh_forgets(tmp_path):
    tiny = Tiny()
    assert ran(tiny, tmp_path)
    assert ran(tiny, tmp_path, fresh=True)
    tiny.interrupt_at = 5
    tiny.events.clear()
    with pytest.raises(KeyboardInterrupt):
        go(tiny.experiment, tmp_path, seeds=[1])
    tiny.interrupt_at = None
    tiny.events.clear()
    result = go(tiny.experiment, tmp_path, seeds=[1], fresh=True)
    assert tiny.events.count("step of 1") == EPOCHS * STEPS
    assert result.record["runs"][-1]["resumed"] is False


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"values": {}}', '{"values": {"error": 1}}']
)
def test_a_damaged_seed_file_is_run_again(tmp_path, cache, text):
    tiny = Tiny()
    before = go(tiny.experiment, tmp_path, seeds=[0])
    (file,) = cache.rglob("seed-0.json")
    file.write_text(text, encoding="utf-8")
    tiny.events.clear()
    assert values(go(tiny.experiment, tmp_path, seeds=[0])) == values(before)
    assert "seed 0" in tiny.events


def test_numbers_of_before_without_their_origin_are_run_again(tmp_path, cache):
    tiny = Tiny()
    go(tiny.experiment, tmp_path, seeds=[0])
    (file,) = cache.rglob("seed-0.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    del found["run"]["hardware"]
    for broken in (found, {"values": found["values"], "seconds": 1.0, "commit": "0123456789ab"}):
        file.write_text(json.dumps(broken), encoding="utf-8")
        assert ran(tiny, tmp_path)


def test_a_seed_decides_what_is_drawn(tmp_path):
    def run_seed(data, settings, seed, folder):
        return {"error": torch.rand(()), "weight": np.random.rand()}

    found = go(Tiny(run_seed=run_seed).experiment, tmp_path, seeds=[3, 5])
    torch.manual_seed(5)
    np.random.seed(5)
    assert found["error"].values[1] == float(torch.rand(()))
    assert found["weight"].values[1] == np.random.rand()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "error", "match"),
    [
        ({"error": 1.0}, ValueError, r"tiny: .* each row; missing \['weight'\], unknown \[\]"),
        (
            {"error": 1.0, "weight": 1.0, "wieght": 1.0},
            ValueError,
            r"missing \[\], unknown \['wieght'\]",
        ),
        ({"error": float("nan"), "weight": 1.0}, ValueError, r"not finite: \['error'\]"),
        ({"error": 1.0, "weight": torch.tensor(torch.inf)}, ValueError, "finite: .'weight'"),
        ({"error": None, "weight": 1.0}, TypeError, "row 'error' must be a number, got NoneType"),
        ({"error": "much", "weight": 1.0}, TypeError, "row 'error' must be a number, got str"),
        (1.0, TypeError, "a number for each row, a dict; got float"),
    ],
)
def test_what_a_run_may_not_return(tmp_path, cache, returned, error, match):
    with pytest.raises(error, match=match):
        go(returning(returned), tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert not list(cache.rglob("seed-0.json"))


def test_numbers_of_numpy_and_torch_are_taken(tmp_path):
    returned = {"error": np.float32(0.5), "weight": torch.tensor(2)}
    result = go(returning(returned), tmp_path, seeds=[0])
    assert values(result) == {"error": (0.5,), "weight": (2.0,)}


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"profile": "qick"}, ValueError, "profile is 'qick'.* Did you mean 'quick'"),
        ({"seeds": []}, ValueError, r"one or more different integers, got \[\]"),
        ({"seeds": [0, 1, 0]}, ValueError, "different integers"),
        ({"seeds": [-1]}, ValueError, "seed must be in .*, got -1"),
        ({"seeds": [2**32]}, ValueError, "seed must be in"),
        ({"seeds": [0.5]}, TypeError, "seed must be an integer, got 0.5"),
        ({"seeds": [True]}, TypeError, "seed must be an integer, got True"),
        ({"seeds": [[0]]}, TypeError, "seed must be an integer"),
    ],
)
def test_wrong_profile_or_seeds(tmp_path, how, error, match):
    tiny = Tiny()
    with pytest.raises(error, match=match):
        go(tiny.experiment, tmp_path, **how)
    assert tiny.events == []  # said before the data is loaded


def test_the_profile_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_PROFILE", "full")
    result = go(Tiny().experiment, tmp_path)
    assert result.record["seeds"] == [0, 1, 2]
    assert [path.name for path in tmp_path.glob("*.json")] == ["tiny.json"]
    monkeypatch.setenv("TLCOURSE_PROFILE", "fast")
    with pytest.raises(ValueError, match="TLCOURSE_PROFILE is 'fast'"):
        go(Tiny().experiment, tmp_path)


def test_a_bad_folder_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    tiny = Tiny()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="folder .*file.* cannot be made .* --out FOLDER"):
            go(tiny.experiment, out)
    assert tiny.events == []


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    """The result file cannot be replaced: the old one stays, and so do the seeds' numbers."""
    tiny = Tiny()
    go(tiny.experiment, tmp_path, seeds=[0])
    old = (tmp_path / "tiny-quick.json").read_bytes()
    replace = Path.replace

    def full(self, target):
        if Path(target).name == "tiny-quick.json":
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            go(tiny.experiment, tmp_path)
    assert (tmp_path / "tiny-quick.json").read_bytes() == old
    assert not parts(tmp_path)
    tiny.events.clear()
    assert len(go(tiny.experiment, tmp_path)["error"].values) == 2
    assert tiny.events == ["load"]


# --- what the file holds --------------------------------------------------------------------------


def test_the_file_says_how_it_was_made(tmp_path):
    tiny = Tiny()
    result = go(tiny.experiment, tmp_path)
    record = json.loads((tmp_path / "tiny-quick.json").read_text(encoding="utf-8"))
    assert record == result.record
    asked = {
        "experiment": "tiny",
        "title": "A linear model on noise",
        "chapter": "methods/none",
        "profile": "quick",
        "better": "lower",
        "source": "nowhere",
        "settings": SETTINGS,
        "seeds": [0, 1],
        "data": {"train": tiny.load(SETTINGS)["train"].fingerprint()},
    }
    assert {key: record[key] for key in asked} == asked
    assert [row["unit"] for row in record["rows"]] == ["test error, %", "1"]
    assert [row["paper"] for row in record["rows"]] == [1.5, None]
    assert all(len(row["values"]) == 2 for row in record["rows"])
    assert record["rows"][1]["values"][0] != record["rows"][1]["values"][1]
    assert [made["seeds"] for made in record["runs"]] == [[0], [1]]
    for made in record["runs"]:
        assert tuple(made) == OF_A_RUN
        assert made["hardware"] == runner_module._hardware()
        assert made["processes"] == 1
        assert made["resumed"] is False
        assert made["commits"] == ["0123456789ab"]
        assert made["versions"]["python"] == platform.python_version()
        assert made["versions"]["torch"] == version("torch")
        assert set(made["versions"]) > {"torchvision", "accelerate", "numpy"}
        assert 0 <= made["seconds"] < 600
        assert len(made["date"].split("-")) == 3


def test_the_file_says_of_each_seed_when_and_where_it_was_run(tmp_path, monkeypatch):
    """Though its numbers are found again later, at another commit and on another machine."""
    go(Tiny().experiment, tmp_path, seeds=[0])
    monkeypatch.setattr(runner_module, "_commit", lambda: "fedcba987654")
    monkeypatch.setattr(runner_module, "_hardware", lambda: "another machine")
    first, second = go(Tiny().experiment, tmp_path).record["runs"]
    assert (first["seeds"], first["commits"]) == ([0], ["0123456789ab"])
    assert (second["seeds"], second["commits"]) == ([1], ["fedcba987654"])
    assert first["hardware"] != second["hardware"] == "another machine"


def test_a_run_that_was_interrupted_is_marked(tmp_path):
    tiny = Tiny()
    tiny.interrupt_at = 6
    with pytest.raises(KeyboardInterrupt):
        go(tiny.experiment, tmp_path)
    tiny.interrupt_at = None
    runs = go(tiny.experiment, tmp_path).record["runs"]
    assert [made["resumed"] for made in runs] == [True, False]


def test_a_run_that_was_killed_before_it_had_kept_anything_is_not(tmp_path):
    tiny = Tiny()
    tiny.interrupt_at = 1  # its folder is there, a checkpoint is not
    with pytest.raises(KeyboardInterrupt):
        go(tiny.experiment, tmp_path)
    tiny.interrupt_at = None
    runs = go(tiny.experiment, tmp_path).record["runs"]
    assert [made["resumed"] for made in runs] == [False, False]


def test_half_a_checkpoint_is_none(tmp_path):
    folder = tmp_path / "seed-0"
    assert not runner_module._has_files(folder)
    folder.mkdir()
    (folder / ".a.safetensors.0123.part").touch()
    assert not runner_module._has_files(folder)
    (folder / "a.safetensors").touch()
    assert runner_module._has_files(folder)


# --- a result file that is there ------------------------------------------------------------------


def test_other_seeds_of_the_file_stay_in_it(tmp_path):
    tiny = Tiny()
    whole = go(tiny.experiment, tmp_path / "whole", seeds=[0, 2, 3])
    for seed in (3, 0, 2):
        found = go(tiny.experiment, tmp_path / "parts", seeds=[seed])
    assert found.record["seeds"] == [0, 2, 3]
    assert values(found) == values(whole)
    assert [made["seeds"] for made in found.record["runs"]] == [[3], [0], [2]]


def test_settings_are_compared_as_a_file_holds_them(tmp_path):
    """A tuple comes back as a list, and is the same setting."""
    tiny = Tiny(settings={"quick": SETTINGS | {"widths": (3, 4), "of": {1: "one"}}})
    for seed in (0, 1):
        found = go(tiny.experiment, tmp_path, seeds=[seed])
    assert found.record["seeds"] == [0, 1]


def test_a_run_of_all_seeds_of_the_file_replaces_it(tmp_path):
    go(Tiny().experiment, tmp_path, seeds=[0])
    other = Tiny(settings={"quick": SETTINGS | {"rate": 0.4}}).experiment
    found = go(other, tmp_path)
    assert found.record["settings"]["rate"] == 0.4
    assert [made["seeds"] for made in found.record["runs"]] == [[0], [1]]


def test_what_would_lose_seeds_is_refused_before_the_work(tmp_path):
    go(Tiny().experiment, tmp_path)
    path = tmp_path / "tiny-quick.json"
    before = path.read_bytes()
    tiny = Tiny(settings={"quick": SETTINGS | {"rate": 0.4}})
    with pytest.raises(ValueError, match="settings, 'rate', is 0.4, not 0.5.* of seed 1: .*--out"):
        go(tiny.experiment, tmp_path, seeds=[0])
    assert tiny.events == ["load"]
    assert path.read_bytes() == before


def test_other_numbers_of_the_same_seed_are_refused_after_that_seed(tmp_path):
    """The loss was mended, say: seeds of before and after do not go into one file."""
    go(returning({"error": 1.0, "weight": 2.0}), tmp_path)
    path = tmp_path / "tiny-quick.json"
    before = path.read_bytes()
    seen = []

    def run_seed(data, settings, seed, folder):
        seen.append(seed)
        return {"error": 1.0, "weight": 3.0}

    mended = Tiny(run_seed=run_seed).experiment
    with pytest.raises(ValueError, match="Seed 1 has two values of 'weight': 2.0 in .*, 3.0 in"):
        go(mended, tmp_path, seeds=[1, 7], fresh=True)
    assert seen == [1]
    assert path.read_bytes() == before


def test_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runner_module._hardware().startswith(f"CPU, {torch.get_num_threads()} thread")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runner_module._hardware() == "Apple MPS"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fast One")
    assert runner_module._hardware() == "2 x Fast One"


def commit_with(monkeypatch, root: Path, asked: Callable[..., object]) -> str:
    there = root / "tlcourse" / "experiments" / "_engine" / "runner.py"
    monkeypatch.setattr(runner_module, "__file__", str(there))
    monkeypatch.setattr(runner_module.subprocess, "run", asked)
    return commit()


def test_the_commit(tmp_path, monkeypatch):
    """In a clone git is asked; an installed package names its version, wherever it lies."""
    release = f"tlcourse {sys.modules['tlcourse'].__version__}"

    def answer(asked, **how):
        return types.SimpleNamespace(stdout="0123456789ab+changes\n")

    def none(asked, **how):
        raise FileNotFoundError("git")

    def refuse(asked, **how):
        raise subprocess.CalledProcessError(128, asked)

    assert commit_with(monkeypatch, tmp_path, answer) == release
    (tmp_path / ".git").mkdir()
    assert commit_with(monkeypatch, tmp_path, answer) == "0123456789ab+changes"
    assert commit_with(monkeypatch, tmp_path, none) == release
    assert commit_with(monkeypatch, tmp_path, refuse) == release


def test_the_file_is_read_where_it_was_written(tmp_path):
    result = go(Tiny().experiment, tmp_path / "a" / "b", seeds=[3])
    assert load_result("tiny", profile="quick", folder=tmp_path / "a" / "b") == result
    assert not (results_dir() / "tiny-quick.json").exists()


@pytest.mark.parametrize(("gpu", "samples"), [(True, 40), (False, 8)])
def test_a_schedule_that_needs_a_gpu_has_a_shorter_one(tmp_path, monkeypatch, gpu, samples):
    short = SETTINGS | {"samples": 8, "schedule": "8 samples, for a machine without a GPU"}
    settings = {"full": SETTINGS | {"samples": 40}, "full, without a GPU": short}
    experiment, said = Tiny(settings=settings).experiment, []
    monkeypatch.setattr(experiment_module.torch.cuda, "is_available", lambda: gpu)
    assert experiment.settings_for("full")["samples"] == samples
    if not gpu:  # a run takes them too, says so, and its file holds them
        result = go(experiment, tmp_path, profile="full", seeds=[0], say=said.append)
        assert any(short["schedule"] in line for line in said)
        assert result.record["settings"] == short
