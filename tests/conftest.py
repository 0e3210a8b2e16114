"""The fixture `claim`: a comparing sentence of a chapter, held to a recorded result.

A chapter marks the sentence, ``[... is better ...]{#claim-lwf-keeps-old}``; a test below
tests/experiments marks itself with the same label and says what the sentence says:

    @pytest.mark.claim("claim-lwf-keeps-old")
    def test_lwf_keeps_the_old_task(claim):
        claim.no_difference(load_result("lwf"), "lwf-old", "joint-old", within=1.0)

What it compared is kept in book/claims.json (`make claims` writes it), from which the page shows
difference, interval, seeds and the test's name. A test whose figures differ from that file fails.

And which tests stay together where workers share them: `pytest_xdist_make_scheduler`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "book" / "claims.json"
SEEDS = 8  # fewer carry no conclusion
RECORDED = pytest.StashKey[dict[str, Any]]()
TOGETHER = ("tests/distributed",)  # folders whose tests start processes of their own


class Claim:
    """What a marked test compares: row minus other row, seed by seed, with Student's interval."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def better(
        self, result: Any, key: str, other: str, *, seeds: int = SEEDS, lower: bool | None = None
    ) -> None:
        """The row is better than the other one: the interval leaves out 0 on the better side.

        Where some rows of a result are errors and some are not, ``lower`` says which way is better.
        """
        found = self._compared(result, key, other, seeds, "better")
        good = found.high < 0 if lower_is_better(result, lower) else found.low > 0
        assert good, f"{key} is not better than {other}: {self._text()}"

    def no_difference(
        self, result: Any, key: str, other: str, *, within: float, seeds: int = SEEDS
    ) -> None:
        """The rows differ by less than the margin that the sentence names: the whole interval."""
        found = self._compared(result, key, other, seeds, f"no difference beyond {within:g}")
        inside = -within < found.low and found.high < within
        assert inside, f"{key} and {other} may differ by {within:g}: {self._text()}"

    def on_average(
        self, result: Any, key: str, other: str, *, seeds: int = 3, lower: bool | None = None
    ) -> None:
        """The row is better on average, and not beyond the spread of the seeds."""
        found = self._compared(result, key, other, seeds, "on average better")
        good = found.mean < 0 if lower_is_better(result, lower) else found.mean > 0
        assert good, f"{key} is not better than {other} on average: {self._text()}"
        assert found.low <= 0 <= found.high, f"it is beyond the spread: {self._text()}"

    def beyond(self, result: Any, key: str, limit: float, *, of: str, seeds: int = SEEDS) -> None:
        """The row is better than a number from elsewhere; ``of`` says what it is and whose."""
        from tlcourse.metrics import interval

        found = interval([value - limit for value in result[key].values])
        self._keep(result, key, of, found, seeds, "better")
        good = found.high < 0 if lower_is_better(result) else found.low > 0
        assert good, f"{key} is not better than {limit:g}: {self._text()}"

    def _compared(self, result: Any, key: str, other: str, seeds: int, says: str) -> Any:
        found = result.paired(key, other)
        self._keep(result, key, result[other].label, found, seeds, says)
        return found

    def _keep(self, result: Any, key: str, other: str, found: Any, seeds: int, says: str) -> None:
        self.figures.append(
            {
                "result": result.record["experiment"],
                "row": result[key].label,
                "other": other,
                "unit": result[key].unit,
                "says": says,
                "difference": round(found.mean, 4),
                "low": round(found.low, 4),
                "high": round(found.high, 4),
                "seeds": found.n,
            }
        )
        assert found.n >= seeds, f"{found.n} seeds carry no conclusion; {seeds} are needed"

    def _text(self) -> str:
        last = self.figures[-1]
        return f"{last['difference']:+g} ({last['low']:+g} to {last['high']:+g}), n={last['seeds']}"


def lower_is_better(result: Any, lower: bool | None = None) -> bool:
    """Whether lower is better: as the result says, or the test where the result says both."""
    says: str = result.record["better"]
    if says not in ("lower", "higher"):
        assert lower is not None, (
            f"{says!r} does not order two rows: pass lower=True or lower=False"
        )
        return lower
    assert lower is None, f"the result says already which way is better: {says}"
    return says == "lower"


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> Any:
    """Compare rows of recorded results in the name of the sentence that the test is marked with."""
    labels = [str(m.args[0]) for m in request.node.iter_markers("claim")]
    assert len(labels) == 1, "a test that takes `claim` is marked with the label of one sentence"
    made = Claim()
    yield made
    test = f"{request.path.relative_to(ROOT).as_posix()}::{request.node.originalname}"
    found = {"test": test, "figures": made.figures}
    assert made.figures, f"{labels[0]}: the test compares nothing"
    if request.config.getoption("record_claims"):
        request.config.stash[RECORDED][labels[0]] = found
        return
    kept = json.loads(RECORD.read_text(encoding="utf-8")).get(labels[0])
    assert kept == found, f"book/claims.json holds other figures of {labels[0]}: run `make claims`"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-claims", action="store_true", help="write the figures of all claims anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDED] = {}
    # Each worker would see its own share alone, and the file would keep none.
    if config.getoption("record_claims") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--record-claims takes one process: leave -n out.")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("record_claims") and exitstatus == 0:
        found = dict(sorted(session.config.stash[RECORDED].items()))
        text = json.dumps(found, indent=1, ensure_ascii=False)
        RECORD.write_text(f"{text}\n", encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests out one by one, and all of a folder in TOGETHER to one worker.

    xdist's own groups would do, but pytest 9.2 does not read the names that they are written into:
    the tests of a group ran side by side, and nothing said so.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneByOne(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = nodeid.partition("::")[0].rpartition("/")[0]
            return folder if folder in TOGETHER else nodeid

    return OneByOne(config, log) if config.getvalue("dist") == "load" else None
