"""Where an experiment's code, test, chapter and result lie: one rule for all of the course."""

from __future__ import annotations

from pathlib import Path

from tlcourse.experiments._engine.experiment import Experiment
from tlcourse.experiments._engine.results import file_name

ROOT = Path(__file__).resolve().parents[3]  # of the clone; where the package is installed, no more


def places(experiment: Experiment) -> dict[str, Path]:
    """Return where an experiment of the course lies, as paths in a clone.

    - code: ``tlcourse/experiments/FAMILY/STEM.py``, where STEM is the experiment's name, with
      ``_`` for ``-``, or what the names of a few begin with;
    - test: ``tests/experiments/FAMILY/test_STEM.py``;
    - chapter: ``book/CHAPTER.ipynb``;
    - result: ``book/results/NAME.json``, once it is recorded.

    Raises
    ------
    ValueError
        If it is defined elsewhere, as one's own experiments are.
    """
    module = experiment.run_seed.__module__
    package, _, name = module.partition(".experiments.")
    family, _, stem = name.partition(".")
    if package != "tlcourse" or not stem or "." in stem:
        raise ValueError(
            f"{experiment.name} is defined in {module}, not in a family's folder of "
            "tlcourse/experiments; only those have a test, a chapter and a result of the course."
        )
    return {
        "code": Path("tlcourse", "experiments", family, f"{stem}.py"),
        "test": Path("tests", "experiments", family, f"test_{stem}.py"),
        "chapter": Path("book", f"{experiment.chapter}.ipynb"),
        "result": Path("book", "results", file_name(experiment.name, "full")),
    }
