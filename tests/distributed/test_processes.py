"""Two real processes against one. All that they do is in scenarios.py, started once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tlcourse.training import _processes

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("scenarios.py")
PATIENCE = 1800  # seconds; it ends a launch that hangs, however slow the machine is

_spec = importlib.util.spec_from_file_location("distributed_scenarios", PROGRAM)
scenarios = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = scenarios  # where its experiments' code is looked for
_spec.loader.exec_module(scenarios)


def launch(folder, *name, **environment):
    """Start two processes, which meet in files and over the loopback address alone."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={folder / 'rendezvous'}"),
        *("--rdzv-conf=store_type=file", "--local-addr=127.0.0.1"),
        *(str(PROGRAM), str(folder), *name),
    ]
    own = {
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # it would listen to the network
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **environment,
    }
    return subprocess.run(
        command,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    folder = tmp_path_factory.mktemp("died")
    return folder, launch(folder, "dies", ACCELERATE_USE_CPU="true")


@pytest.fixture(scope="module")
def found(tmp_path_factory, died):
    """Return, by scenario, what the first and the second process found."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "restarted").mkdir()
    shutil.copy(died[0] / "run.safetensors", folder / "restarted")
    done = launch(folder, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    return {
        name: [torch.load(folder / name / f"found-{i}.pt") for i in (0, 1)]
        for name in scenarios.SCENARIOS
    }


def assert_near(one, other, tolerance):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_near(one[key], other[key], tolerance)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_near(mine, theirs, tolerance)
    elif isinstance(one, (torch.Tensor, float)):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    else:
        assert one == other


@pytest.mark.parametrize("name", scenarios.SAME)
def test_two_processes_are_one(found, tmp_path, name):
    first, second = found[name]
    assert_near(first, second, 0.0)
    assert_near(first, scenarios.SAME[name](tmp_path), 1e-6)


def test_a_killed_run_goes_on_bit_by_bit(found):
    for i in (0, 1):
        assert_near(found["killed and resumed"][i], found["undisturbed"][i], 0.0)


def test_what_a_process_draws_is_its_own(found):
    first, second = (found["own draws"][i]["draws"] for i in (0, 1))
    assert len({*first, *second}) == 6  # one draw in each of three epochs and two processes


def test_batchnorm_s_running_statistics_are_those_of_the_first_process(found):
    assert_near(*found["undisturbed"], 0.0)  # measures and buffers too


def test_the_first_process_s_weights_count(found):
    first, second = found["first weights"]
    assert_near(first, second, 0.0)
    alone = scenarios.train(scenarios.make_mlp(seed=0))
    assert_near(first, alone, 1e-6)


def test_files_and_bars_come_from_the_first_process_alone(found):
    first, second = found["written and shown"]
    assert first["writes"] == [0, 1, 2, 3]
    assert "epoch 1 of 3" in first["shown"]  # later ones only if they take long enough
    assert second == {"writes": [], "shown": ""}


def test_a_checkpoint_must_be_seen_by_all(found):
    for i, epochs in enumerate((3, 0)):
        message = found["folders of their own"][i]["message"]
        assert f"Process {i} finds {epochs} finished epochs" in message
        assert "all machines share" in message


def said(name, *lines):
    return [f"{name} (quick): {line}" for line in lines]


def test_an_experiment_s_lines_and_files_come_from_the_first_process(found, tmp_path, monkeypatch):
    first, second = found["an experiment"]
    alone = ["seed 7 is done already", "seed 3", "seed 5"]
    assert first["seeds"]["said"][:4] == said("small", "loading data", *alone)
    assert [len(first[part]["said"]) for part in ("first", "seeds")] == [3, 5]
    for part in ("first", "seeds"):
        assert second[part]["said"] == []
        assert first[part]["values"] == second[part]["values"]
        assert first[part]["resumed"] == second[part]["resumed"]
    assert first["seeds"]["resumed"] == [False] * 3
    assert first["seeds"]["processes"] == [2] * 3
    monkeypatch.setenv("TLCOURSE_CACHE", "")  # put back afterwards
    one = scenarios.an_experiment(tmp_path)["seeds"]
    assert one["said"][:4] == first["seeds"]["said"][:4]
    assert_near(one["values"], first["seeds"]["values"], 1e-6)


def test_a_killed_experiment_is_marked_where_it_was_killed(found):
    first, second = found["a killed experiment"]
    assert first["resumed"] == second["resumed"] == [True, False]
    assert first["values"] == second["values"]


def test_what_a_result_file_refuses_all_processes_hear(found):
    first, second = found["a refused experiment"]
    assert first == second
    assert "settings, 'other', is 'settings', not 'absent'" in first["message"]


def test_forgetting_digits_runs_in_two_processes(found, tmp_path, monkeypatch):
    first, second = found["forgetting-digits"]
    assert first["values"] == second["values"]
    monkeypatch.setenv("TLCOURSE_CACHE", "")
    alone = scenarios.forgetting_digits(tmp_path)["values"]
    assert alone.keys() == first["values"].keys()
    # The old loss of LwF begins where its gradient is 0, and AdamW makes of what rounding leaves of
    # it steps as long as any: its rows may end elsewhere.
    for row in alone:
        if "lwf" not in row:
            assert_near(alone[row], first["values"][row], 1e-6)


def test_at_transfer_runs_in_two_processes(found):
    """BatchNorm sees other batches there: the numbers are not those of one process."""
    first, second = found["at-transfer"]
    assert first["values"] == second["values"]
    assert set(first["values"]) == {"student", "kd", "at", "teacher"}
    assert all(0 <= error <= 100 for (error,) in first["values"].values())


def test_a_process_that_dies(died):
    folder, done = died
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    said = (folder / "survivor.txt").read_text()
    assert "Another process of this run has stopped" in said
    assert "This is process 0 of 2" in said
    assert f"started again, goes on from {folder / 'run.safetensors'}" in said


def test_a_restart_goes_on_where_the_dead_run_stopped(found):
    for i in (0, 1):
        assert_near(found["restarted"][i], found["undisturbed"][i], 0.0)


def test_a_process_that_fails_says_why_and_stops_the_others(tmp_path):
    done = launch(tmp_path, "raises", CUDA_VISIBLE_DEVICES="")  # Accelerate is told nothing
    assert done.returncode != 0
    assert "ValueError: only here" in done.stderr
    assert "This is process 1 of 2" in done.stderr
    assert "Another process of this run has stopped" in (tmp_path / "survivor.txt").read_text()


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    model = scenarios.make_mlp()
    _processes.accelerator()  # Accelerate now knows of one
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"2 processes \(WORLD_SIZE\).*ACCELERATE_USE_CPU=true"):
        scenarios.train(model)
    monkeypatch.setenv("WORLD_SIZE", "1")
    scenarios.train(model, epochs=1)
