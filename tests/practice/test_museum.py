"""Every exhibit of the museum is a mistake; the test that it names is there, and catches it."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import math
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FLOORS = ("museum-of-mistakes", "museum-second-floor")
NAMED = re.compile(r"`(test_\w+)` (?:in|\() ?`(tests/[\w/]+\.py)`")


@cache
def floors() -> dict[str, dict[str, str]]:
    """Return the cells of both pages by their id, in order."""
    found = {}
    for name in FLOORS:
        path = ROOT / "book" / "practice" / f"{name}.ipynb"
        read = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[name] = {cell["id"]: "".join(cell["source"]) for cell in read}
    return found


@cache
def cells() -> dict[str, str]:
    """Return the cells of both pages that show an exhibit or say what catches it."""
    kinds = r"room-\d|(?:mistake|question|caught)-.*|others"
    found = [(n, c) for floor in floors().values() for n, c in floor.items()]
    shown = [(n, c) for n, c in found if re.fullmatch(kinds, n)]
    assert len(shown) == len(dict(shown)), "an exhibit is on both floors"
    return dict(shown)


def exhibits() -> list[str]:
    return [name.removeprefix("mistake-") for name in cells() if name.startswith("mistake-")]


def caught(exhibit: str) -> str:
    """Return what the page says catches it: the question or the folded answer."""
    return cells().get(f"question-{exhibit}") or cells()[f"caught-{exhibit}"]


@pytest.fixture(scope="module")
def run():
    """Run the pages' exhibits; return their names, and the pairs of numbers that they compare."""
    every: dict[str, Any] = {}
    pairs: dict[str, list[tuple[float, float]]] = {}

    def compare(what, mistaken, right):
        shown(what, mistaken, right)
        pairs[list(pairs)[-1]].append(tuple(torch.as_tensor(n).item() for n in (mistaken, right)))

    with contextlib.redirect_stdout(io.StringIO()):
        for floor in floors().values():
            names: dict[str, Any] = {"__name__": "museum"}
            exec(compile(floor["setup"], "setup", "exec"), names)
            shown, names["compare"] = names["compare"], compare
            for name, source in floor.items():
                if re.fullmatch(r"room-\d-start|mistake-.*", name):
                    pairs[name.removeprefix("mistake-")] = []
                    exec(compile(source, name, "exec"), names)
            every |= names
    return every, pairs


def test_there_are_exhibits_in_six_rooms():
    assert len(exhibits()) > 30
    assert [n for n in cells() if re.fullmatch(r"room-\d", n)] == [f"room-{i}" for i in range(1, 7)]


@pytest.mark.parametrize("exhibit", exhibits())
def test_the_mistake_differs_from_what_is_right(run, exhibit):
    _, pairs = run
    assert pairs[exhibit], "the exhibit compares nothing"
    for mistaken, right in pairs[exhibit]:
        assert math.isfinite(right)
        assert not math.isclose(mistaken, right, rel_tol=0.2, abs_tol=1e-3)


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("exhibit", exhibits())
def test_the_test_that_is_named_is_there(exhibit):
    named = NAMED.findall(caught(exhibit))
    assert len(named) == 1
    assert named[0][0] in functions(ROOT / named[0][1])


def others() -> list[tuple[str, str, str]]:
    tree = ast.parse(cells()["others"])
    return ast.literal_eval(tree.body[0].value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("row", others(), ids=lambda row: row[2].partition("::")[2])
def test_so_it_is_for_the_others(row):
    what, where, named = row
    path, _, test = named.partition("::")
    assert what
    assert where
    assert test in functions(ROOT / path)


# --- the mistake in the place of what is right, and the test that was named ----------------------


def fails(monkeypatch, named: tuple[str, str], arguments: tuple[Any, ...] = (), **mistakes: Any):
    """Run a test of the package with a mistake put in its file's place for ours: it must fail."""
    test, path = named
    before = list(sys.path)
    monkeypatch.syspath_prepend(str((ROOT / path).parent))
    spec = importlib.util.spec_from_file_location(f"museum_{test}", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    getattr(module, test)(*arguments)  # without the mistake it passes
    for name, mistake in mistakes.items():
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, mistake)
    # A gradient that is wrong is gradcheck's own error, a RuntimeError.
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        getattr(module, test)(*arguments)


def named(exhibit: str) -> tuple[str, str]:
    return NAMED.findall(caught(exhibit))[0]


def redrawn(x, y, bandwidths, **settings):
    from tlcourse.adaptation import mmd2

    rows = torch.randint(len(x), (len(x),))
    return mmd2(x[rows], y[rows], bandwidths, **settings)


def cyclic(x, y, bandwidths, *, estimator):
    x_, y_ = x.roll(-1, 0), y.roll(-1, 0)
    first, second, across, back = (
        torch.exp(-(u - v).square().sum(1) / bandwidths)
        for u, v in ((x, x_), (y, y_), (x, y_), (x_, y))
    )
    return (first + second - across - back).mean()


def ignoring(x, y, bandwidths, **settings):
    from tlcourse.adaptation import median_bandwidth, mmd2

    return mmd2(x, y, median_bandwidth(x, y), **settings)


def added_to(progress, gamma=10.0):
    """The bracket: the step counts whole, of the training's 10,000."""
    return 2 / (1 + math.exp(-gamma * progress * 10_000)) - 1


LAST_WINS = {
    "step_decay": lambda parts, factor: (
        lambda progress: 1.0 if progress < 40 / 110 else 0.1  # as `last_wins` of the page
    )
}
SWAPS = {
    "sign": lambda names: {"scale_invariant_error": names["added"]},
    "centred": lambda names: {"difference_loss": names["not_centred"]},
    "laplacian": lambda names: {"gaussian_kernel": names["not_squared"]},
    "lifted": lambda names: {"mmd2": names["lifted"]},
    "power": lambda names: {"lwf_old_task_loss": names["of_probabilities"]},
    "last-wins": lambda names: LAST_WINS,
    "bracket": lambda names: {"reversal_schedule": added_to},
    "redrawn": lambda names: {"mmd2": redrawn},
    "cyclic": lambda names: {"mmd2": cyclic},
    "root": lambda names: {"ccsa_loss": names["with_roots"]},
    "ignored": lambda names: {"mmd2": ignoring},
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "redrawn": ("linear",),
    "root": ("paper",),
}


@pytest.mark.parametrize("exhibit", SWAPS)
def test_with_the_mistake_the_named_test_fails(run, monkeypatch, exhibit):
    names, _ = run
    fails(monkeypatch, named(exhibit), ARGUMENTS.get(exhibit, ()), **SWAPS[exhibit](names))


def clipped(x, y, bandwidths, **settings):
    from tlcourse.adaptation import mmd2

    return mmd2(x, y, bandwidths, **settings).clamp_min(1e-4)


def zeros_and_source_alone(x, y):
    return torch.cdist(x, x).square().flatten().median()


def pooled(source, target, bandwidth):
    from tlcourse.adaptation import mmd2

    (a, b), (c, d) = source, target
    products = [torch.einsum("nd,nk->ndk", *pair) for pair in ((a, b), (c, d))]
    small = [torch.nn.functional.max_pool2d(p[:, None], 2).flatten(1) for p in products]
    return mmd2(*small, bandwidth, estimator="biased")


def cut_off(logits):
    p = logits.softmax(1)
    return -(p * p.log() * (p > 1e-3)).sum(1).mean()


def not_held(source, target, bandwidth):
    def kernel(a, b, c, d):
        first, second = (p.square().sum(1) * q.square().sum(1) for p, q in ((a, b), (c, d)))
        return (-(first[:, None] + second - 2 * (a @ c.T) * (b @ d.T)) / bandwidth).exp().mean()

    return kernel(*source, *source) + kernel(*target, *target) - 2 * kernel(*source, *target)


def with_detached_length(shared, private):
    a, b = shared - shared.mean(0), private - private.mean(0)
    rows = [z / z.detach().norm(dim=1, keepdim=True) for z in (a, b)]
    return (rows[0].T @ rows[1]).square().sum()


def of_logarithms(made, image):
    d = (made.log1p() - image.log1p()).flatten(1)
    return (d.square().mean(1) - d.mean(1).square()).mean()


OTHERS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    (
        "test_estimates_are_spread_about_the_closed_form_for_two_gaussians",
        ("unbiased",),
        {"mmd2": lambda x, y, bandwidths, **settings: x.sum() * 0},
    ),
    ("test_domains_that_are_near_still_have_a_gradient", ("biased",), {"mmd2": clipped}),
    ("test_the_median_leaves_the_diagonal_out", (), {"median_bandwidth": zeros_and_source_alone}),
    (
        "test_it_equals_the_discrepancy_of_the_outer_products",
        (),
        {"joint_mmd2": pooled},
    ),
    ("test_small_probabilities_count_in_the_entropy", (), {"entropy_loss": cut_off}),
    (
        "test_in_float32_no_product_is_nearer_to_another_than_to_itself",
        (),
        {"joint_mmd2": not_held},
    ),
    (
        "test_the_gradient_goes_through_the_length_of_a_row",
        (),
        {"difference_loss": with_detached_length},
    ),
]


@pytest.mark.parametrize(("test", "arguments", "mistakes"), OTHERS, ids=[o[0] for o in OTHERS])
def test_so_it_does_for_others(monkeypatch, test, arguments, mistakes):
    (path,) = {row[2].partition("::")[0] for row in others() if row[2].endswith(f"::{test}")}
    fails(monkeypatch, (test, path), arguments, **mistakes)


def faulty_boost(line: str, instead: str) -> Any:
    """Return the package's TrAdaBoost with one line of its source changed."""
    import tlcourse.instances.tradaboost as module

    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(line) == 1
    names = {"__name__": "museum_boost"}
    exec(compile(source.replace(line, instead), "tradaboost", "exec"), names)
    return names["TrAdaBoost"]


BOOSTS = {
    "log": ("np.log(n_source) / self.n_estimators", "np.log(n_source / self.n_estimators)"),
    "half": ("weights * (1 - error) / error", "weights * (2 - error) / error"),
    "vote": ("np.where(counted > 0, counted, 1 / (2 * n_target))", "counted"),
    "test_the_weights_are_those_of_the_paper": ("np.log(n_source) /", "np.log(n_target) /"),
    "test_no_round_loses_a_class": (
        "clone(learner).fit(samples, labels, sample_weight=weights)",
        "(lambda at: clone(learner).fit(samples[at], labels[at]))("
        "np.random.default_rng(len(errors)).choice(len(weights), len(weights), p=weights))",
    ),
    "test_the_vote_is_over_the_second_half_of_the_rounds": (
        "first = (len(errors) - 1) // 2 if n_source else 0",
        "first = len(errors) // 2 if n_source else 0",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", BOOSTS)
def test_so_it_does_for_boosting(monkeypatch, mistake):
    found = [row[2].partition("::")[::2] for row in others() if row[2].endswith(f"::{mistake}")]
    test = (found[0][1], found[0][0]) if found else named(mistake)
    arguments = (8,) if "second_half" in mistake else ()
    fails(monkeypatch, test, arguments, TrAdaBoost=faulty_boost(*BOOSTS[mistake]))
