"""Grading: submissions of the distillation assignment, against nbgrader's own command."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from bench.timing import Case, Row

NAME = "distillation"
COUNT = int(os.environ.get("TLCOURSE_BENCH_SUBMISSIONS", "200"))
LEAST_GAIN = 3  # times faster than nbgrader, on two cores


def grading_against_nbgrader() -> list[Row]:
    """Grade many submissions in sandboxes, two at a time, and by `nbgrader autograde`."""
    from tlcourse.grading import course

    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's own
        folder = Path(temporary) / "course"
        course.new(folder, NAME)
        course.release(folder, NAME)
        _hand_in(folder, COUNT)
        other = Path(shutil.copytree(folder, Path(temporary) / "nbgrader"))
        (other / "nbgrader_config.py").unlink()  # there it would run no code

        began = time.perf_counter()
        count, records, _ = course.grade(folder, NAME, way="bubblewrap", jobs=2)
        ours = time.perf_counter() - began
        assert count == COUNT
        assert {record["status"] for record in records.values()} == {"graded"}
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        began = time.perf_counter()
        again, _, _ = course.grade(folder, NAME, way="bubblewrap", jobs=2)
        resumed = time.perf_counter() - began
        assert again == 0

        command = [sys.executable, "-m", "nbgrader", "autograde", NAME, "--course-dir", str(other)]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})
        theirs = time.perf_counter() - began
    size = f"{COUNT} submissions"
    each = f"{ours / COUNT:.2f} / {theirs / COUNT:.2f} s each, grader at most {largest:.0f} MB"
    return [
        Row("grading / nbgrader autograde", size, ours / theirs, 1 / LEAST_GAIN, detail=each),
        Row("nothing new to grade", size, resumed / COUNT, 0.1, "s", detail="each"),
    ]


def _hand_in(folder: Path, count: int) -> None:
    """Put submissions there that differ: most are right, every fourth lacks an answer."""
    source = json.loads((folder / "assignments" / NAME / f"{NAME}.ipynb").read_text("utf-8"))
    released = json.loads((folder / "release" / NAME / f"{NAME}.ipynb").read_text("utf-8"))
    answers = {c["metadata"]["nbgrader"]["grade_id"]: c["source"] for c in source["cells"]}
    for k in range(count):
        for cell in released["cells"]:
            graded = cell["metadata"]["nbgrader"]
            if graded["solution"] and not graded["grade"]:
                lacks = k % 4 == 0 and graded["grade_id"] == "gradient"
                answer = "pass" if lacks else "".join(answers[graded["grade_id"]])
                cell["source"] = f"{answer}\n# student {k}"
        path = folder / "submitted" / f"s{k:03d}" / NAME / f"{NAME}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(released), "utf-8")


CASES: tuple[Case, ...] = (grading_against_nbgrader,)
