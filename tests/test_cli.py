"""The `tlcourse` command: what it prints, and one line for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from tlcourse import cli, doctor, experiments
from tlcourse.data import LabelledImages
from tlcourse.experiments import Experiment, Row
from tlcourse.experiments._engine import places as place_module


def load(settings) -> dict[str, LabelledImages]:
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    return {"train": LabelledImages(images, labels, ("a", "b"), "nothing")}


def run_seed(data, settings, seed, folder) -> dict[str, float]:
    return {"error": settings["error"] + seed}


TINY = Experiment(
    name="tiny",
    title="A model of nothing",
    chapter="methods/none",
    unit="test error, %",
    better="lower",
    rows=(Row("error", "of the model", 1.25),),
    source="Nobody (2000)",
    settings={"quick": {"error": 3.0}, "full": {"error": 2.0}},
    seeds={"quick": 2, "full": 3},
    load=load,
    run_seed=run_seed,
)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    for name in ("TLCOURSE_DATA", "TLCOURSE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", TINY)
    # Results land in this test's folder, as they do where the package is installed.
    monkeypatch.setattr(experiments, "results_dir", lambda: tmp_path / "recorded" / "_results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use(monkeypatch, **changes) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", Experiment(**{**vars(TINY), **changes}))


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def output(*arguments: str, code: int = 0) -> str:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert max(map(len, result.output.splitlines())) <= 80 or "/" in result.output
    return result.output


def main(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Run the command as the shell does; return its exit status, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["tlcourse", *arguments])
    with pytest.raises(SystemExit) as info:
        cli.main()
    captured = capsys.readouterr()
    return info.value.code, captured.out, captured.err


# --- list, run, compare ---------------------------------------------------------------------------


def test_list(machine):
    text = output("list")
    for name in experiments.EXPERIMENTS:
        assert f"{name}  (recorded: not yet)" in text
    assert "    A model of nothing\n    chapter methods/none\n" in text
    (machine / "recorded" / "_results").mkdir(parents=True)
    for name in ("tiny.json", "tiny-quick.json"):
        (machine / "recorded" / "_results" / name).touch()
    assert "tiny  (recorded: quick, full)" in output("list")


def test_run_and_compare(machine):
    text = output("run", "tiny", "--out", "here")
    assert "tiny (quick): seed 1" in text
    assert "A model of nothing (quick)" in text
    assert "2 seeds" in text
    assert "Source: Nobody (2000)." in text
    record = json.loads((machine / "here" / "tiny-quick.json").read_text(encoding="utf-8"))
    assert record["rows"][0]["values"] == [3.0, 4.0]
    row = next(line for line in text.splitlines() if "of the model" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "of the model",
        "test error, %",
        "3.50",
        "-2.85 to 9.85",
        "1.25",
    ]
    assert row in output("compare", "tiny", "--out", "here")


def test_run_writes_where_compare_looks(machine):
    output("run", "tiny", "--seeds", "1")
    assert (machine / "results" / "tiny-quick.json").exists()
    assert "A model of nothing (quick)" in output("compare", "tiny")
    output("run", "tiny", "--profile", "full")
    assert (machine / "results" / "tiny.json").exists()
    assert "A model of nothing (full)" in output("compare", "tiny")
    assert "(quick)" in output("compare", "tiny", "--profile", "quick")


def test_compare_shows_what_comes_with_the_course(machine):
    output("run", "tiny", "--profile", "full", "--out", "recorded/_results")
    assert "A model of nothing (full)" in output("compare", "tiny")
    assert "recorded: full" in output("list")


def test_in_a_clone_results_go_into_the_book(machine, monkeypatch):
    monkeypatch.setattr(experiments, "results_dir", lambda: machine / "book" / "results")
    output("run", "tiny")
    assert (machine / "book" / "results" / "tiny-quick.json").exists()


def test_run_goes_on_and_fresh_starts_again():
    assert "is done already" not in output("run", "tiny", "--seeds", "2")
    assert output("run", "tiny", "--seeds", "3").count("is done already") == 2
    assert "is done already" not in output("run", "tiny", "--fresh")


def test_single_seeds_join_what_is_there(machine):
    output("run", "tiny", "--seed", "4", "--seed", "1")
    text = output("run", "tiny", "--seed", "0")
    assert "3 seeds" in text
    record = json.loads((machine / "results" / "tiny-quick.json").read_text(encoding="utf-8"))
    assert record["seeds"] == [0, 1, 4]
    assert record["rows"][0]["values"] == [3.0, 4.0, 7.0]
    assert [made["seeds"] for made in record["runs"]] == [[4], [1], [0]]


def test_merge(machine):
    for seed in "20":
        output("run", "tiny", "--seed", seed, "--out", f"machine-{seed}")
    text = output("merge", "machine-2/tiny-quick.json", "machine-0/tiny-quick.json")
    assert "A model of nothing (quick)" in text
    record = json.loads((machine / "results" / "tiny-quick.json").read_text(encoding="utf-8"))
    assert record["seeds"] == [0, 2]
    output("merge", "machine-2/tiny-quick.json", "--out", "there")
    assert (machine / "there" / "tiny-quick.json").exists()


def test_list_one(monkeypatch):
    assert output("list", "kd-digits").splitlines()[-4:] == [
        "    code     tlcourse/experiments/distillation/kd.py",
        "    test     tests/experiments/distillation/test_kd.py",
        "    chapter  book/methods/distillation.ipynb",
        "    result   not recorded yet; `tlcourse run kd-digits --profile full` does it",
    ]
    monkeypatch.undo()
    lines = output("list", "at-cifar10-nin").splitlines()
    assert lines[0].startswith("at-cifar10-nin  Attention transfer between networks in networks")
    assert lines[-4:] == [
        "    code     tlcourse/experiments/matching/at.py",
        "    test     tests/experiments/matching/test_at.py",
        "    chapter  book/methods/attention-transfer.ipynb",
        "    result   book/results/at-cifar10-nin.json",
    ]


def test_list_one_where_the_package_is_installed(machine, monkeypatch):
    """The code and the recorded result are there; test and chapter are in a clone alone."""
    for file in ("tlcourse/experiments/distillation/kd.py", "recorded/_results/kd-digits.json"):
        (machine / file).parent.mkdir(parents=True)
        (machine / file).touch()
    monkeypatch.setattr(place_module, "ROOT", machine)
    monkeypatch.setenv("COLUMNS", "100")
    alone = "(in a clone; this is the package alone)"
    assert " ".join(output("list", "kd-digits").split()).endswith(
        f"code {machine}/tlcourse/experiments/distillation/kd.py "
        f"test tests/experiments/distillation/test_kd.py {alone} "
        f"chapter book/methods/distillation.ipynb {alone} "
        f"result {machine}/recorded/_results/kd-digits.json"
    )


def test_list_names_what_is_missing_in_a_clone(machine, monkeypatch):
    (machine / "tests").mkdir()
    monkeypatch.setattr(place_module, "ROOT", machine)
    text = output("list", "kd-digits")
    assert "code     tlcourse/experiments/distillation/kd.py (missing)" in text
    assert "test     tests/experiments/distillation/test_kd.py (missing)" in text


def test_home_may_be_written_as_a_tilde(machine, monkeypatch):
    """As in a script or a notebook, where no shell expands it."""
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(machine / "home"))
    output("run", "tiny", "--out", "~/results")
    assert (machine / "home" / "results" / "tiny-quick.json").exists()
    assert "A model of nothing" in output("compare", "tiny", "--out", "~/results")
    output("merge", "~/results/tiny-quick.json", "--out", "~/merged")
    assert (machine / "home" / "merged" / "tiny-quick.json").exists()
    assert not (machine / "~").exists()


def test_several_at_once(monkeypatch):
    other = Experiment(**{**vars(TINY), "name": "other"})
    monkeypatch.setitem(experiments.EXPERIMENTS, "other", other)
    text = output("run", "tiny", "other")
    assert text.index("tiny (quick): wrote") < text.index("other (quick): wrote")


def test_without_names_run_shows_its_usage():
    result = invoke("run")
    assert result.exit_code == 2
    assert "Usage" in result.output
    assert "names" in result.output.lower()


def test_seeds_are_counted_or_named():
    result = invoke("run", "tiny", "--seeds", "3", "--seed", "1")
    assert result.exit_code == 2
    assert "not both" in result.output
    assert invoke("run", "tiny", "--seed", "-1").exit_code == 2


def test_what_does_not_go_together_is_one_line(machine, monkeypatch, capsys):
    output("run", "tiny", "--out", "a", "--seed", "0")
    use(monkeypatch, settings={"quick": {"error": 9.0}})
    output("run", "tiny", "--out", "b", "--seed", "1")
    code, out, err = main(monkeypatch, capsys, "merge", "a/tiny-quick.json", "b/tiny-quick.json")
    assert (code, out) == (1, "")
    assert "settings, 'error', is 9.0, not 3.0" in err


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_without_a_command_there_is_help(arguments):
    text = invoke(*arguments).output
    assert "Usage" in text
    assert ("fetch" if arguments else "doctor") in text


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "kd-mnits"], "Did you mean 'kd-mnist'"),
        (["run", "tiny", "kd-digtis"], "Did you mean 'kd-digits'"),
        (["run", "tiny", "--profile", "qick"], "profile is 'qick'; it takes 'quick', 'full'."),
        (["compare", "kd-mnits"], "Did you mean 'kd-mnist'"),
        (["compare", "tiny"], "No recorded result tiny.json in "),
        (["compare", "tiny", "--profile", "ful"], "profile is 'ful'"),
        (["compare", "tiny", "--out", "none"], "`tlcourse run tiny --profile full` writes it."),
        (["data", "fetch", "mnits"], "Did you mean 'mnist'"),
        (["run", "tiny", "--out", "file"], "Choose another: --out FOLDER."),
        (["list", "kd-mnits"], "Did you mean 'kd-mnist'"),
        (["list", "tiny"], "tiny is defined in "),
        (["merge", "none.json"], "There is no result file none.json."),
        (["merge", "file"], "file is not a result file"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(machine, monkeypatch, capsys, arguments, message):
    (machine / "file").touch()
    code, out, err = main(monkeypatch, capsys, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("tlcourse: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_mistake_in_one_name_runs_nothing(machine, monkeypatch, capsys):
    main(monkeypatch, capsys, "run", "tiny", "kd-mnits")
    assert not (machine / "results").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FloatingPointError("The loss is nan."), "tlcourse: The loss is nan.\n"),
        (FileNotFoundError("MNIST is not here."), "tlcourse: MNIST is not here.\n"),
        (
            ImportError("No module named 'torch'"),
            "tlcourse: No module named 'torch'. `tlcourse doctor` says what to do.\n",
        ),
    ],
)
def test_what_a_run_raises_is_one_line(monkeypatch, capsys, error, message):
    def broken(*arguments):
        raise error

    use(monkeypatch, run_seed=broken)
    code, _, err = main(monkeypatch, capsys, "run", "tiny")
    assert (code, err) == (1, message)


def test_an_error_of_the_program_itself_keeps_its_traceback(monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    use(monkeypatch, run_seed=broken)
    monkeypatch.setattr(sys, "argv", ["tlcourse", "run", "tiny"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(data, settings, seed, folder):
        if seed == 1:
            raise KeyboardInterrupt
        return run_seed(data, settings, seed, folder)

    use(monkeypatch, run_seed=interrupted)
    code, _, err = main(monkeypatch, capsys, "run", "tiny")
    assert code == 130
    assert err == "tlcourse: interrupted; run the same command again to go on.\n"
    use(monkeypatch, run_seed=run_seed)
    text = output("run", "tiny")
    assert "seed 0 is done already" in text
    assert "seed 1 is done already" not in text


def test_a_result_file_that_is_damaged(machine, monkeypatch, capsys):
    (machine / "results").mkdir()
    (machine / "results" / "tiny.json").write_text("{", encoding="utf-8")
    code, _, err = main(monkeypatch, capsys, "compare", "tiny")
    assert code == 1
    assert "is not a result file" in err
    output("run", "tiny", "--profile", "full")
    assert main(monkeypatch, capsys, "compare", "tiny")[0] == 0


# --- data and doctor ------------------------------------------------------------------------------


def test_data_status(machine):
    text = output("data", "status")
    assert text.startswith("digits    ready    embedded, 1,797 images\n    inside scikit-learn\n")
    assert "mnist     missing  real, 12 MB to download\n" in text
    assert str(machine / "cache" / "data") in text  # whole, to be copied
    assert "    tlcourse data fetch mnist (or set TLCOURSE_DATA to a folder that has it)\n" in text


def test_wide_texts_are_wrapped_at_the_width_of_the_terminal(monkeypatch):
    for columns, width in [("60", 60), ("80", 80), ("300", 100), ("5", 40)]:
        monkeypatch.setenv("COLUMNS", columns)
        lines = [line for line in output("data", "status").splitlines() if "/" not in line]
        assert 0.7 * width < max(map(len, lines)) <= width


def test_data_fetch_of_what_is_embedded():
    text = output("data", "fetch", "digits")
    assert text == (
        "digits: ready, inside scikit-learn (1,797 images). nothing: it comes with the\n"
        "    course\n"
    )


FINE = doctor.Finding("packages", "torch 2.2, numpy 2.0")
REMARK = doctor.Finding("GPU", "none", True, "None is needed.")
FAULT = doctor.Finding("numpy", "1.26", False, "pip install 'numpy>=2.0'")


def test_doctor_in_order(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [FINE, REMARK])
    assert output("doctor").splitlines() == [
        "ok  packages: torch 2.2, numpy 2.0",
        "ok  GPU: none",
        "    None is needed.",
        "Everything is in order.",
    ]


def test_doctor_with_faults(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [FINE, FAULT, REMARK])
    assert output("doctor", code=1).splitlines() == [
        "ok  packages: torch 2.2, numpy 2.0",
        "!!  numpy: 1.26",
        "    pip install 'numpy>=2.0'",
        "ok  GPU: none",
        "    None is needed.",
        "To look at: numpy.",
    ]


def test_doctor_looks_at_this_machine():
    text = invoke("doctor").output
    assert "  Python: " in text
    assert "profile: quick" in text
    assert "data: digits: ready" in text


def test_the_module_runs_as_a_command(machine):
    done = subprocess.run(
        [sys.executable, "-m", "tlcourse", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("list", "run", "merge", "compare", "data", "doctor"):
        assert f" {command} " in done.stdout
