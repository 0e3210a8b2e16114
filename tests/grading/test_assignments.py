"""The course's own assignments: wrong answers lose what they should, and no answer can be found.

A planted answer stands with the tests that it loses, all others of its cell are passed, and with
words of the hint that it gets.
"""

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from tlcourse.grading import course, sandbox
from tlcourse.grading.assignment import PACKAGED, load
from tlcourse.grading.grade import grade
from tlcourse.grading.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
NAMES = course.packaged()
SEED = "a secret"


@dataclass(frozen=True)
class Wrong:
    """An answer to a cell, the tests that it loses, and words of the hint."""

    cell: str
    source: str
    lost: set[str]
    hint: str = ""


AT_MAP = "def attention_map(A, p, kind):\n    "
AT_DISTANCE = """def attention_distance(student, teacher, weights):
    total = 0.0
    for a, b, w in zip(student, teacher, weights):
        small, large = a.pow(2).sum(1), b.pow(2).sum(1)
        large = F.adaptive_avg_pool2d(large, small.shape[1:])
        q, t = F.normalize(small.flatten(1)), F.normalize(large.flatten(1))
        total = total + w * (q - t).pow(2).mean()
    return total
"""
AT_PAPER = """def paper_distance(student, teacher):
    q = F.normalize(student.pow(2).mean(1).flatten(1), dim=1)
    t = F.normalize(teacher.detach().pow(2).mean(1).flatten(1), dim=1)
    return torch.linalg.vector_norm(q - t, dim=1).mean() / 2
"""
AT_TRAIN = """def train_student(x, maps, labels, n_classes):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, n_classes))
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        adam.zero_grad()
        a = net[:4](x)
        q, t = F.normalize(a.pow(2).sum(1).flatten(1)), F.normalize(maps.flatten(1))
        looks = (q - t).pow(2).sum(1).mean()
        right = F.cross_entropy(net[4:](a)[labels >= 0], labels[labels >= 0])
        (right + looks).backward()
        adam.step()
    return net.state_dict()
"""
ST_DRAW = "def draw(a, u):\n    noisy = a - (-u.log()).log()\n"
ST_SLOPE = """def straight_through(a, u, T):
    G = -(-u.log()).log()
    hard = ((a + G)[..., 1] > (a + G)[..., 0]).float()
    soft = torch.softmax((a + G) / T, -1)[..., 1]
    return hard + soft - soft.detach()
"""
ST_ROUTED = """class Routed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.frozen, self.tuned = copy.deepcopy(block), copy.deepcopy(block)
        for p in self.frozen.parameters(): p.requires_grad = False
        self.frozen.eval()
    def train(self, mode=True):
        self.training = mode
        self.tuned.train(mode)
        return self
    def forward(self, x, I):
        a, b = self.tuned(x), self.frozen(x)
        I = I.reshape(-1, *[1] * (a.ndim - 1))
        return I * a + (1 - I) * b
"""
ST_BUDGET = "def budget_loss(decisions, k):\n    v = decisions.mean(0)\n    "
ST_PREDICT = """def predict(agent, pairs, head, x):
    for pair in pairs:
        for copy_ in pair: copy_.eval()
    decisions = agent(x).view(len(x), -1, 2).argmax(-1).float()
    for l, (frozen, tuned) in enumerate(pairs):
        I = decisions[:, l:l + 1]
        x = I * tuned(x) + (1 - I) * frozen(x)
    return head(x)
"""
KD_LOSS = """def partly_labelled_loss(z, p, labels, T, alpha):
    known = labels >= 0
    hard = F.cross_entropy(z[known], labels[known]) if known.any() else z.new_zeros(())
    return alpha * T**2 * F.cross_entropy(z / T, p) + (1 - alpha) * hard
"""
FREEZE = """def freeze(model, parts):
    for name, p in model.named_parameters():
        p.requires_grad = name.split(".")[0] not in parts
    return [n for n, p in model.named_parameters() if p.requires_grad]
"""
MODE = """def train_mode(model, parts):
    model.train()
    for part in parts: getattr(model, part).eval()
"""
STEPS = """def train_steps(model, parts, x, y, n):
    for name, p in model.named_parameters(): p.requires_grad = name.split(".")[0] not in parts
    model.train()
    for part in parts: getattr(model, part).eval()
    learning = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(learning, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(n):
        sgd.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sgd.step()
    return model.state_dict()
"""


def but(source, old, new):
    """Return a right answer with one thing changed."""
    assert source.count(old) == 1, (old, source)
    return source.replace(old, new)


# Of each list one answer for a cell; what is not named there is answered rightly.
PLANTED = {
    "attention_transfer": [
        [
            Wrong("maps", AT_MAP + "return (A**p).sum(1) if kind == 'sum' else (A**p).amax(1)",
                  {"shown_maps", "any_sums", "any_largest"}, "absolute values first"),
            Wrong("distance", but(AT_DISTANCE, "F.normalize(small.flatten(1)), F.normalize(large.flatten(1))",
                                  "small.flatten(1), large.flatten(1)"),
                  {"shown_distance", "any_distance", "larger_maps", "no_activation"}, "its own length"),
            Wrong("gradient", "def map_gradient(Q, R):\n    n = Q.norm(dim=1, keepdim=True)\n"
                              "    return 2 * (Q / n - F.normalize(R)) / n / len(Q)",
                  {"shown_gradient", "any_gradient"}, "changes with Q, too"),
            Wrong("bugs", "def paper_distance(s, t):\n    q = F.normalize(s.pow(2).mean(1).flatten(1), dim=0)\n"
                          "    t = F.normalize(t.pow(2).mean(1).flatten(1), dim=0)\n    return (q - t).pow(2).sum().sqrt() / 2",
                  {"shown_bugs", "any_bugs"}),
            Wrong("train", but(AT_TRAIN, "(right + looks)", "right"), {"learns"}, "Its maps are"),
        ],
        [
            Wrong("maps", AT_MAP + "return A.abs().pow(p).mean(1) if kind == 'sum' else A.abs().pow(p).amax(1)",
                  {"shown_maps", "any_sums"}, "not a mean"),
            Wrong("distance", but(AT_DISTANCE, "a.pow(2).sum(1), b.pow(2).sum(1)",
                                  "a.pow(2).sum(1), F.adaptive_avg_pool2d(b, a.shape[2:]).pow(2).sum(1)"),
                  {"larger_maps"}, "not the activations"),
            Wrong("gradient", "def map_gradient(Q, R):\n    n = Q.norm(dim=1, keepdim=True)\n    q, r = Q / n, F.normalize(R)\n"
                              "    return 2 * ((q * r).sum(1, keepdim=True) * q - r) / n",
                  {"shown_gradient", "any_gradient"}, "divide by N"),
            Wrong("bugs", but(AT_PAPER, "teacher.detach()", "teacher"), {"shown_bugs", "any_bugs"}, "reaches the teacher"),
            Wrong("train", but(AT_TRAIN, "(right + looks)", "looks"), {"learns"}, "It is right on"),
        ],
        [
            Wrong("maps", AT_MAP + "return A.abs().pow(p).amax(1) if kind == 'sum' else A.abs().pow(p).sum(1)",
                  {"shown_maps", "any_sums", "any_largest"}, "exchanged"),
            Wrong("distance", but(but(AT_DISTANCE, "F.normalize(small.flatten(1))", "small.flatten(1) / small.flatten(1).norm(dim=1, keepdim=True)"),
                                  "F.normalize(large.flatten(1))", "large.flatten(1) / large.flatten(1).norm(dim=1, keepdim=True)"),
                  {"no_activation"}, "NaN"),
            Wrong("bugs", but(AT_PAPER, "torch.linalg.vector_norm(q - t, dim=1)", "(q - t).pow(2).sum(1).sqrt()"),
                  {"shown_bugs"}, "NaN"),
            Wrong("train", "def train_student(x, maps, labels, n): return {}", {"shown_train", "learns"}, "state_dict()"),
        ],
    ],
    "spottune": [
        [
            Wrong("draw", ST_DRAW + "    return (noisy[..., 0] > noisy[..., 1]).float()", {"shown_draw", "any_draw"}, "Index 1"),
            Wrong("straight-through", but(ST_SLOPE, "hard + soft - soft.detach()", "soft"),
                  {"shown_slope", "any_slope", "slope_of_blocks"}, "forwards they are 0 or 1"),
            Wrong("routed", but(ST_ROUTED, "copy.deepcopy(block), copy.deepcopy(block)", "block, block"),
                  {"shown_routed", "images_routed", "trained_routed", "gradients_routed"}, "share their memory"),
            Wrong("budget", ST_BUDGET + "return (v.sum() - k) ** 2 - torch.xlogy(v, v.clamp(min=1e-9)).sum()",
                  {"shown_budget", "any_budget"}, "fewer cost nothing"),
            Wrong("bugs", "def predict(agent, pairs, head, x):\n    d = F.gumbel_softmax(agent(x).view(len(x), -1, 2), tau=5.0)[..., 0]\n"
                          "    for l, (f, t) in enumerate(pairs):\n        I = d[:, l].mean()\n        x = I * t(x) + (1 - I) * f(x)\n    return head(x)",
                  {"shown_bugs", "any_bugs"}),
        ],
        [
            Wrong("draw", "def draw(a, u): return ((a + u)[..., 1] > (a + u)[..., 0]).float()", {"shown_draw", "any_draw"}, "not the noise yet"),
            Wrong("straight-through", but(ST_SLOPE, "softmax((a + G) / T", "softmax(a / T"),
                  {"shown_slope", "any_slope", "slope_of_blocks"}, "noise belongs"),
            Wrong("routed", but(ST_ROUTED, "        self.training = mode\n        self.tuned.train(mode)\n", "        super().train(mode)\n"),
                  {"trained_routed"}, "The frozen copy is not as it should be"),
            Wrong("budget", ST_BUDGET + "return F.relu(v.sum() - k) ** 2 - (v * v.log()).sum()",
                  {"shown_budget", "unused_blocks"}, "NaN"),
            Wrong("bugs", but(ST_PREDICT, "decisions[:, l:l + 1]", "decisions[:, l].mean()"), {"shown_bugs", "any_bugs"}, "decisions of its own"),
        ],
        [
            Wrong("draw", "def draw(a, u): return (a[..., 1] > a[..., 0]).float()", {"shown_draw", "any_draw"}, "noise is missing"),
            Wrong("straight-through", but(ST_SLOPE, "hard + soft - soft.detach()", "hard"),
                  {"shown_slope", "any_slope", "slope_of_blocks"}, "RuntimeError"),
            Wrong("routed", but(ST_ROUTED, "I.reshape(-1, *[1] * (a.ndim - 1))", "I.mean()"),
                  {"shown_routed", "images_routed", "gradients_routed"}, "not another's"),
            Wrong("budget", ST_BUDGET + "return F.relu(v.sum() - k) ** 2", {"shown_budget", "any_budget", "unused_blocks"}, "second sum is missing"),
            Wrong("bugs", but(ST_PREDICT, "copy_.eval()", "copy_.train()"), {"shown_bugs", "any_bugs"}, "training mode"),
        ],
    ],
    "distillation": [
        [
            Wrong("soft-targets", "def soft_targets(z, T): return torch.softmax(z.mean(0) / T, -1)",
                  {"shown_soft_targets", "any_soft_targets", "large_soft_targets"}, "not the logits"),
            Wrong("loss", but(KD_LOSS, "T**2 * ", ""), {"shown_loss", "some_labels", "all_labels", "no_labels"}, "lacks the factor"),
            Wrong("gradient", "def soft_gradient(z, p, T): return T * (torch.softmax(z / T, 1) - p)",
                  {"shown_gradient", "any_gradient"}, "divide by N"),
            Wrong("bugs", "def kl_term(z, v, T):\n    return nn.KLDivLoss()(F.log_softmax(z / T, 1), F.softmax(v / T, 1)) * T**2",
                  {"shown_bugs", "any_bugs"}),
            Wrong("train", "def train_student(x, p, labels, T):\n"
                           "    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, p.shape[1])).state_dict()",
                  {"learns"}, "It is right on"),
        ],
        [
            Wrong("soft-targets", "def soft_targets(z, T): return torch.stack([(q / T).exp() / (q / T).exp().sum(1, keepdim=True) for q in z]).mean(0)",
                  {"large_soft_targets"}, "NaN"),
            Wrong("loss", but(KD_LOSS, " if known.any() else z.new_zeros(())", ""), {"no_labels"}, "NaN"),
        ],
    ],
    "fine_tuning": [
        [
            Wrong("freeze", but(FREEZE, 'name.split(".")[0] not in parts', "not name.startswith(tuple(parts))"),
                  {"shown_freeze", "any_freeze", "again_freeze"}, "only begins like"),
            Wrong("train-mode", but(MODE, "    for part in parts: getattr(model, part).eval()\n", ""),
                  {"shown_train_mode", "any_train_mode"}, "A frozen part"),
            Wrong("rates", "def rates(model, lr, factor, frozen):\n    names = [n for n, _ in model.named_children()]\n"
                           "    return {n: lr * factor**k for k, n in enumerate(names) if n not in frozen}",
                  {"shown_rates", "any_rates"}, "head has the largest"),
            Wrong("new-head", "def new_head(model, n):\n    model.head = nn.Linear(model.head.in_features, n)\n"
                              "    nn.init.zeros_(model.head.weight)\n    return model",
                  {"shown_head", "any_head"}, "other values"),
            Wrong("steps", but(STEPS, "        sgd.zero_grad()\n", ""), {"shown_steps", "any_steps"}, "A trained part"),
        ],
        [
            Wrong("freeze", but(FREEZE, "p.requires_grad = name.split(\".\")[0] not in parts",
                                "p.requires_grad = p.requires_grad and name.split(\".\")[0] not in parts"),
                  {"again_freeze"}, "frozen before"),
            Wrong("train-mode", MODE, set()),
            Wrong("steps", but(STEPS, "    for part in parts: getattr(model, part).eval()\n", ""),
                  {"shown_steps", "any_steps"}, "A frozen part"),
        ],
    ],
}  # fmt: skip
# Right answers in other words.
OTHERS = {
    "attention_transfer": {"distance": AT_DISTANCE, "bugs": AT_PAPER, "train": AT_TRAIN},
    "spottune": {
        "draw": ST_DRAW + "    return noisy.argmax(-1).float()",
        "straight-through": ST_SLOPE,
        "routed": ST_ROUTED,
        "budget": ST_BUDGET
        + "return (v.sum() - k).clamp(min=0) ** 2 - torch.xlogy(v, v + (v == 0)).sum()",
        "bugs": ST_PREDICT,
    },
    "distillation": {"loss": KD_LOSS},
    "fine_tuning": {"freeze": FREEZE, "train-mode": MODE, "steps": STEPS},
}
# Answers of no form, which should neither pass nor break the grader.
ODD = {
    "attention_transfer": {
        "maps": "def attention_map(A, p, kind): return A.abs()",
        "distance": "def attention_distance(s, t, w): return torch.tensor(float('nan'))",
        "gradient": "def map_gradient(Q, R): return None",
        "bugs": "def paper_distance(s, t): return (s.sum() + t.sum()) * 0 + float('inf')",
        "train": AT_TRAIN.replace(
            "net.state_dict()", "{k: v * float('nan') for k, v in net.state_dict().items()}"
        ),
    },
    "spottune": {
        "draw": "def draw(a, u): return a[..., 0] > 0",
        "straight-through": "def straight_through(a, u, T): return (a * float('nan')).sum(-1)",
        "routed": "class Routed:\n    def __getattr__(self, name): return self\n    def __call__(self, *a, **k): return self",
        "budget": "def budget_loss(d, k): return d.sum() * float('nan')",
        "bugs": "def predict(agent, pairs, head, x):\n    pairs.clear()\n    return [x] * 3",
    },
}
ROUNDS = [
    pytest.param(name, k, marks=pytest.mark.grading if k else ())
    for name, rounds in PLANTED.items()
    for k in range(len(rounds))
]
# What students could import to be done: the module and the name of each reference.
REFERENCES = {
    "attention_transfer": ("tlcourse.matching", "attention_transfer_loss"),
    "spottune": ("tlcourse.adaptive.spottune", "RoutedBlock"),
    "distillation": ("tlcourse.distillation", "distillation_loss"),
    "fine_tuning": ("tlcourse.finetuning", "freeze"),
}


def submission(name, answers, *, stub=False):
    """Return the model answers with others in some cells, or stubs with others, as bytes."""
    book = json.loads((PACKAGED / name / f"{name}.ipynb").read_text())
    for cell in book["cells"]:
        cell["source"] = "".join(cell["source"])
        graded = cell["metadata"]["nbgrader"]
        if graded["solution"] and not graded["grade"]:
            given = "raise NotImplementedError" if stub else cell["source"]
            cell["source"] = answers.get(graded["grade_id"], given)
    return json.dumps(book).encode()


def test_all_assignments_are_tried():
    assert set(PLANTED) == set(REFERENCES) == set(NAMES)
    for name, rounds in PLANTED.items():
        cells = {test.cell.removeprefix("test-") for test in load(PACKAGED / name).tests}
        assert {wrong.cell for one in rounds for wrong in one} == cells


@pytest.mark.parametrize(("name", "number"), ROUNDS)
def test_a_wrong_answer_loses_what_it_should(name, number):
    planted = PLANTED[name][number]
    assignment = load(PACKAGED / name)
    record = grade(assignment, submission(name, {w.cell: w.source for w in planted}), SEED)
    assert record["status"] == "graded"
    told = {test["test"]: test["message"] for test in record["tests"]}
    lost = {test["test"] for test in record["tests"] if test["outcome"] != "passed"}
    assert lost == {test for wrong in planted for test in wrong.lost}, told
    points = sum(test.points for test in assignment.tests if test.name not in lost)
    assert record["score"] == points
    for wrong in planted:
        if wrong.lost:
            assert wrong.hint in "\n".join(told[test] for test in wrong.lost), told


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_in_other_words_have_all_points(name):
    assignment = load(PACKAGED / name)
    record = grade(assignment, submission(name, OTHERS[name]), SEED)
    told = {test["test"]: test["message"] for test in record["tests"] if not test["earned"]}
    assert record["score"] == sum(test.points for test in assignment.tests), told


@pytest.mark.parametrize("name", ODD)
def test_answers_of_no_form_earn_nothing(name):
    record = grade(load(PACKAGED / name), submission(name, ODD[name]), SEED)
    earned = {test["test"] for test in record["tests"] if test["earned"]}
    assert record["status"] == "graded"
    # The shapes of the state dict are right.
    assert earned == ({"shown_train"} if name == "attention_transfer" else set())


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_cannot_be_imported(name):
    module, function = REFERENCES[name]
    assert hasattr(__import__(module, fromlist=["x"]), function)  # it is there, outside
    places = "[p for p in sys.path for n in ('grading', 'matching', 'adaptive') if os.path.exists(f'{p}/tlcourse/{n}')]"
    cells = {
        "first": f"import importlib, os, sys\nfor name in ({module!r}, 'tlcourse.grading', 'tlcourse.exercises'):\n"
        "    try:\n        importlib.import_module(name)\n        print('found', name)\n"
        f"    except ImportError: print('no', name)\nprint({places})\n",
    }
    answers = [cell.grade_id for cell in load(PACKAGED / name).cells if cell.role == "solution"]
    use = f"from {module} import {function}\n"
    data = submission(name, {answers[0]: cells["first"], answers[1]: use}, stub=True)
    record = grade(load(PACKAGED / name), data, SEED)
    assert record["score"] == 0
    ran = {cell["label"]: cell for cell in record["cells"]}
    assert ran[answers[0]]["output"].splitlines() == [
        f"no {module}", "no tlcourse.grading", "no tlcourse.exercises", "[]",
    ]  # fmt: skip
    assert ran[answers[1]]["error"] == "ModuleNotFoundError"


# Lines that say nothing about the answer that they stand in.
COMMON = {"optimizer.zero_grad()", "def train(self, mode=True):"}


def squeezed(text):
    return re.sub(r"\s+", " ", text)


def text_of(path):
    """Return what can be searched in a file; of a notebook its cells and what they printed."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".ipynb":
        return squeezed(text)
    found = []
    for cell in json.loads(text)["cells"]:
        found.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            found += ["".join(output.get("text", "")), json.dumps(output.get("data", ""))]
    return squeezed("\n".join(found))


def secrets(name):
    """Return the lines that give an answer away: of the code, and the sentences of the words."""
    given, found = [], set()
    for cell in load(PACKAGED / name).cells:
        before, *parts = cell.source.split("### BEGIN SOLUTION")
        given.append(before)
        for part in parts:
            inner, _, after = part.partition("### END SOLUTION")
            given.append(after)
            found |= {squeezed(line.strip()) for line in inner.splitlines()}
        if cell.role == "written":
            given.pop()
            sentences = re.split(r"(?<=[.;:])\s", cell.source)
            found |= {squeezed(one.strip()) for one in sentences if len(one) > 40}
    shown = squeezed("\n".join(given))
    return {line for line in found if len(line) > 20 and line not in shown} - COMMON


def found_in(paths, name):
    wanted = secrets(name)
    assert len(wanted) > 12
    hits = []
    for path in paths:
        text = text_of(path)
        hits += [(str(path), line) for line in wanted if line in text]
    return hits


SEARCHED = (".ipynb", ".md", ".py", ".json", ".js", ".html", ".css", ".svg", ".bib", ".txt")


def readable(folder):
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix in SEARCHED]


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_is_found_in_the_site_or_the_lab(name):
    """The pages, the search index and the notebooks are made of these, and of nothing else."""
    paths = [*readable(ROOT / "book"), *readable(ROOT / "lab")]
    assert len(paths) > 60
    assert found_in(paths, name) == []
    if (built := ROOT / "_build" / "html").is_dir():  # where there is one
        pages = [*built.rglob("*.html"), *built.glob("searchindex.js"), *built.rglob("*.ipynb")]
        assert found_in(pages, name) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_no_answer_is_found_in_a_release(name, tmp_path):
    course.new(tmp_path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        course.release(tmp_path, name)
    paths = [path for path in (tmp_path / "release").rglob("*") if path.is_file()]
    assert [path.name for path in paths] == [f"{name}.ipynb"]
    assert found_in(paths, name) == []
    own = tmp_path / "assignments" / name / f"{name}.ipynb"
    assert {line for _, line in found_in([own], name)} == secrets(name)  # the search does find


SEARCH = """
import os, sys
roots = dict.fromkeys(["/course", "/grader", "/tmp", "/home", "/root", "/usr", "/opt", *sys.path,
                       sys.prefix, sys.base_prefix])
seen, read = set(), 0
for root in roots:
    for folder, folders, files in os.walk(root):
        if folder in seen:
            folders.clear()
            continue
        seen.add(folder)
        for file in files:
            path = f"{folder}/{file}"
            own = "tlcourse" in path.lower() or root in ("/course", "/grader")
            if own or file.endswith(".ipynb") or file == "tests.py":
                try:
                    text = " ".join(open(path, errors="replace").read().split())
                except OSError:
                    continue
                read += 1
                for line in wanted:
                    if line in text:
                        print("FOUND", path, line)
print(read > 5, len(seen) > 100)
"""


def test_no_answer_is_found_in_what_the_sandbox_holds():
    wanted = sorted(set().union(*map(secrets, NAMES)))
    held = {part for name in NAMES for part in load(PACKAGED / name).course}
    with Sandbox(sorted(held)) as box:
        ran = box.run_cell(f"wanted = {wanted!r}\n{SEARCH}")
    assert (ran.error, ran.output) == (None, "True True\n"), ran.trace
    assert (
        found_in([p for part in held for p in [sandbox.COURSE / part] if p.is_file()], "spottune")
        == []
    )
