"""The sandbox itself: what it says when it cannot be had, what it hands out, its limits."""

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tlcourse.grading import _seccomp, _wire, sandbox
from tlcourse.grading.assignment import COURSE
from tlcourse.grading.sandbox import Answered, Ended, Limits, Sandbox, TimedOut, Unavailable

SMALL = Limits(cell=20, test=5, total=60)


def test_a_missing_bubblewrap_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable) as error:
        Sandbox()
    for word in ("apt-get install bubblewrap", "--container", "--unsafe-no-sandbox"):
        assert word in str(error.value)
    with pytest.raises(Unavailable, match="podman"):
        Sandbox(way="podman:image")


def test_a_bubblewrap_that_cannot_start_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Unavailable, match="Permission denied") as error:
        Sandbox()
    assert "apparmor" in str(error.value)


def test_root_inside_is_refused(monkeypatch):
    if os.getuid() != 0:
        pytest.skip("the process inside is root only where the grader is")
    monkeypatch.setattr(sandbox.secrets, "randbelow", lambda n: -2_000_000_000)  # uid 0
    with pytest.raises(Unavailable, match="as root"):
        Sandbox()


@pytest.mark.parametrize("name", ["grading", "experiments", "../tests", "/etc", "no_such", ""])
def test_the_course_inside_has_no_answers(name):
    with pytest.raises(ValueError, match="tlcourse"):
        Sandbox([name])


def test_the_course_inside_can_be_imported():
    course = (*COURSE, "models", "data")
    with Sandbox(course, SMALL) as box:
        ran = box.run_cell(
            "import tlcourse.models, tlcourse.data, sys\n"
            "for name in ('distillation', 'grading', 'experiments'):\n"
            "    try: __import__('tlcourse.' + name); print('found', name)\n"
            "    except ImportError: pass\n"
            "len(tlcourse.data.glyphs.__doc__) > 1"
        )
        assert (ran.error, ran.output) == (None, "True\n")


def test_calls_values_and_errors_cross():
    with Sandbox(limits=SMALL) as box:
        ran = box.run_cell(
            "import torch, warnings\n"
            "weight = torch.nn.Linear(2, 3)\n"
            "def twice(x, *, plus=0): return {'y': 2 * x + plus, 'kind': type(x).__name__}\n"
            "def bad(): raise KeyError('no')\n"
            "warnings.warn('careful')\n'end'"
        )
        assert ran.error is None
        assert "careful" in ran.output
        assert ran.output.endswith("'end'\n")
        with box.test() as student:
            found = student.twice(np.ones((2, 2)), plus=1)
            np.testing.assert_array_equal(found["y"], np.full((2, 2), 3.0))
            assert found["kind"] == "Tensor"
            assert student.run("result = [p.shape[0] for p in weight.parameters()]") == [3, 3]
            with pytest.raises(Answered) as error:
                student.bad()
            assert (error.value.kind, error.value.name) == ("raised", "KeyError")
            with pytest.raises(Answered) as error:
                student.get("weight")
            assert (error.value.kind, error.value.name) == ("unsendable", "Linear")
            with pytest.raises(Answered, match="NameError"):
                student.missing()
            student.run("weight = None; globals().clear(); result = 0")
        with box.test() as student:  # the next test sees none of it
            assert student.run("result = weight.in_features") == 2


def test_limits_end_a_process():
    with Sandbox(limits=Limits(cell=0.5)) as box, pytest.raises(TimedOut):
        box.run_cell("import time; time.sleep(100)")
    with Sandbox(limits=Limits(total=1)) as box, pytest.raises(TimedOut):
        list(map(box.run_cell, ["import time; time.sleep(0.5)"] * 100))
    with Sandbox(limits=Limits(output=1 << 20)) as box, pytest.raises(Ended, match="printed"):
        box.run_cell("while True: print('x' * 1000)")


def test_every_limit_holds_inside():
    limits = Limits(memory=3 << 30, processes=20, disk=1 << 20, total=30)
    with Sandbox(limits=limits) as box:
        names = ("AS", "NPROC", "FSIZE", "NOFILE", "CPU", "CORE")
        source = f"import resource as r\n[r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in {names}]"
        expected = [3 << 30, 20, 1 << 20, 512, 31, 0]
        assert box.run_cell(source).output == f"{[(n, n) for n in expected]}\n"
        forks = (
            "import os, time\ncount = 0\ntry:\n    while count < 50:\n"
            "        if os.fork() == 0: time.sleep(100)\n        count += 1\n"
            "except OSError: pass\nprint(count <= 20)"
        )
        assert box.run_cell(forks).output == "True\n"


def test_output_is_cut_and_the_rest_let_go():
    with Sandbox(limits=Limits(shown=1000)) as box:
        assert len(box.run_cell("print('x' * 100_000)").output) == 1000
        assert box.run_cell("print('next')").output == "next\n"


def test_no_copy_of_the_course_is_seen(tmp_path, monkeypatch):
    """Neither one that is installed elsewhere below what is bound, nor the one that is running."""
    there = tmp_path / "local" / "lib" / "python3.11" / "dist-packages" / "tlcourse"
    there.mkdir(parents=True)
    (there / "__init__.py").touch()
    tmp_path.chmod(0o755)  # or only its owner sees what is in it
    bound = sandbox._bound()
    monkeypatch.setattr(sandbox, "_bound", lambda: [*bound, tmp_path, sandbox.COURSE.parent])
    source = (
        f"import os\nprint(*[os.listdir(p) for p in ({str(there)!r}, {str(sandbox.COURSE)!r})])"
    )
    with Sandbox(limits=SMALL) as box:
        assert box.run_cell(source).output == "[] []\n"
    assert sandbox.bound_above(there) == tmp_path
    assert sandbox.bound_above(tmp_path.parent) is None


def test_a_container_is_ended_and_may_not_hold_the_answers(tmp_path, monkeypatch):
    ready = _wire.pack({"ready": 65534, "answers": ["/site-packages/tlcourse/__init__.py"]})
    (tmp_path / "ready").write_bytes(ready)
    docker = tmp_path / "docker"
    docker.write_text(
        f"#!/bin/sh\necho $* >> {tmp_path}/log\ncat {tmp_path}/ready\nexec sleep 60\n"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "KILL_WAIT", 0.2)
    with pytest.raises(Unavailable, match="reference answers, in .*/site-packages"):
        Sandbox(way="docker:image")
    run, kill = (tmp_path / "log").read_text().splitlines()
    words = run.split()
    assert kill == f"kill {words[words.index('--name') + 1]}"
    assert words[words.index("--network") + 1] == "none"


def test_two_sandboxes_have_two_users_and_do_not_see_each_other():
    source = "import os; os.getuid(), sorted(int(p) for p in os.listdir('/proc') if p.isdigit())"
    with Sandbox() as one, Sandbox() as two:
        first, second = one.run_cell(source).output, two.run_cell(source).output
    assert first.startswith("(")
    assert "[1, 2]" in first
    if os.getuid() == 0:
        assert first != second


def test_a_killed_grader_leaves_nothing(tmp_path):
    program = (
        "import sys, time\nfrom tlcourse.grading.sandbox import Sandbox\nbox = Sandbox()\n"
        "box.run_cell('import os, time\\nif os.fork() == 0: time.sleep(1000)')\n"
        "print(box.child, flush=True)\ntime.sleep(1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(sandbox.COURSE.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    with process:
        child = int(process.stdout.readline())
        handle = os.pidfd_open(child)
        process.kill()
    import select

    gone = select.poll()
    gone.register(handle, select.POLLIN)
    assert gone.poll(10_000)  # the namespace's first process ended, and all others before it
    os.close(handle)


def test_the_command_binds_little():
    command = sandbox.bubblewrap(COURSE, Limits(), 3, 4)
    bound = [command[k + 2] for k, word in enumerate(command) if word.startswith("--ro-bind")]
    assert "--bind" not in command
    home = os.path.expanduser("~")  # noqa: PTH111
    assert not {"/", "/etc", "/home", "/root", "/var", "/run", home} & set(bound)
    assert {"--unshare-pid", "--unshare-net", "--clearenv", "--die-with-parent"} <= set(command)
    assert not any("secret" in word.lower() for word in command)


def test_the_filter_is_that_of_this_machine():
    assert _seccomp.program("x86_64") != _seccomp.program("aarch64")
    if platform.machine() in ("x86_64", "aarch64"):
        assert _seccomp.program()


def test_a_container_gets_the_same_limits():
    try:
        command = sandbox.container("docker:image", COURSE, Limits(), "name")
    except Unavailable:
        pytest.skip("no docker here")  # how its absence is told, see above
    assert command[:4] == ["docker", "run", "--rm", "-i"]
    assert command[command.index("--network") + 1] == "none"
    assert command[command.index("--user") + 1] == "65534:65534"
    with pytest.raises(ValueError, match="IMAGE"):
        sandbox.container("docker", COURSE, Limits(), "name")
