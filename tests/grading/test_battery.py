"""Hostile, broken and awkward submissions: what each earns, and what it could not touch.

An entry names its status and its score, of 20 (total 4 + 6, scaled 10). Probes print a mark when
they get through to what they should not reach; the fixture `world` looks for it, for changed files,
for connections, and for processes that are still alive.
"""

import dataclasses
import json
import os

import pytest

from tests.grading.conftest import GOT, RIGHT, notebook
from tlcourse.grading.grade import SHOWN, grade

SEED = "a secret"
ZERO = {"total": "def total(values): return 0.5", "scaled": "def scaled(values, factor): return 0"}


def wrong(**kwargs):
    """Return a submission without a right answer, and some trick."""
    return notebook(ZERO, **kwargs)


def probe(source):
    """Return lines that print the mark when the source runs through, and go on when it does not."""
    lines = "\n".join(f"    {line}" for line in source.strip().splitlines())
    return f"try:\n{lines}\n    print('REACHED' + '-IT', locals().get('found'))\nexcept BaseException as e:\n    print('no', type(e).__name__)"


CHANNEL = """
import os, sys, struct, gc, io
files = [o for o in gc.get_objects() if isinstance(o, io.IOBase)]
def send(data):
    for k in range(3, 20):
        try:
            if os.readlink(f'/proc/self/fd/{k}').startswith('pipe:'):
                os.write(k, data)
        except OSError:
            pass
def frame(text, arrays=b''):
    return struct.pack('>II', len(text), len(arrays)) + text + arrays
"""

# name: (submission, status, score)
FORGED = {
    "assertion patched": (
        wrong(first=["import builtins\nbuiltins.AssertionError = Warning\nbuiltins.all = lambda *a: True"]),
        "graded", 0,
    ),
    "numpy patched": (
        wrong(first=["import numpy, numpy.testing as t\nnumpy.allclose = lambda *a, **k: True\n"
                     "t.assert_allclose = t.assert_array_equal = lambda *a, **k: None"]),
        "graded", 0,
    ),
    "ast hook": (
        wrong(first=["import ast, sys\nast.parse = lambda *a, **k: ast.Module([], [])\n"
                     "class Hook:\n    def find_spec(self, *a): return None\nsys.meta_path.insert(0, Hook())"]),
        "graded", 0,
    ),
    "forged answers ahead": (
        wrong(last=[CHANNEL + "send(frame(b'{\"dict\": [[\"outcome\", \"passed\"], [\"earned\", 20]]}') * 9)"]),
        "crashed", 0,
    ),
    "forged verdict": (
        wrong(first=["import sys\nw = sys.modules.get('_wire')\nold = w.pack\n"
                     "w.pack = lambda m: old({'test': 'ended', 'passed': True, 'score': 20})"]),
        "crashed", 0,
    ),
    "frame of four gigabytes": (wrong(last=[CHANNEL + "send(b'\\xff' * 8)"]), "crashed", 0),
    "frame of no json": (wrong(last=[CHANNEL + "send(frame(b'not json'))"]), "crashed", 0),
    "frame nested deeply": (wrong(last=[CHANNEL + "send(frame(b'[' * 200000))"]), "crashed", 0),
    "array claims a huge shape": (
        wrong(last=[CHANNEL + "h = b\"{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,), }\\n\"\n"
                    "h = b\"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\\n\"\n"
                    "a = b'\\x93NUMPY\\x01\\x00' + struct.pack('<H', len(h)) + h\n"
                    "send(frame(b'{\"dict\": [[\"value\", {\"npy\": %d}]]}' % len(a), a))"]),
        "crashed", 0,
    ),
    "array of pickles": (
        wrong(last=[CHANNEL + "h = b\"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\\n\"\n"
                    "import pickle\nclass P:\n    def __reduce__(self): return (os.system, ('touch x',))\n"
                    "a = b'\\x93NUMPY\\x01\\x00' + struct.pack('<H', len(h)) + h + pickle.dumps([P()])\n"
                    "send(frame(b'{\"dict\": [[\"value\", {\"npy\": %d}]]}' % len(a), a))"]),
        "crashed", 0,
    ),
    "equal to everything": (
        notebook({"total": "class Any(float):\n    __eq__ = lambda s, o: True\n    __sub__ = __rsub__ = lambda s, o: 0\n"
                           "    __float__ = lambda s: 6.5\ndef total(values): return Any(1)",
                  "scaled": "class L(list):\n    __len__ = lambda s: 5\ndef scaled(v, f): return L()"}),
        "graded", 4,  # 6.5 is the visible test's answer, by heart
    ),
    "hostile methods": (
        notebook({"total": "class A:\n    def __array__(self, *a): raise SystemExit\n    __class__ = property(lambda s: float)\n"
                           "def total(values): return A()"}),
        "graded", 10,
    ),
    "pickled bytes": (
        notebook({"total": "import pickle\ndef total(values): return pickle.dumps(sum(values))"}), "graded", 10,
    ),
    "array of objects": (
        notebook({"total": "import numpy as np\ndef total(values): return np.array([sum(values), None])"}),
        "graded", 10,
    ),
    "visible answers by heart": (
        notebook({"total": "def total(values): return 6.5 if values == [1.0, 2.0, 3.5] else 0"}), "graded", 14,
    ),
    "state between calls": (  # only the second call of a test could tell, and a test is a new copy
        notebook({"scaled": "calls = []\ndef scaled(v, f):\n    calls.append(v)\n"
                            "    return [x * f for x in v] if len(calls) > 2 else [0.0] * 5"}),
        "graded", 10,
    ),
    "inputs changed": (
        notebook({"total": "def total(values):\n    values[:] = [0.0] * len(values)\n    return sum(values)"}),
        "graded", 10,
    ),
    "the reference imported": (
        notebook({"total": "from tlcourse.grading.assignments import toy\ndef total(v): return toy.total(v)",
                  "scaled": "import tlcourse.distillation\ndef scaled(v, f): return [x * f for x in v]"}),
        "graded", 0,
    ),
    "tests looked for in memory": (
        wrong(first=[probe("import gc, sys\nfound = [o for o in gc.get_objects() if isinstance(o, dict) and 'any_total' in o]\nassert found"),
                     probe("import inspect\nfound = [f for f in inspect.stack() if 'check' in f.function]\nassert found")]),
        "graded", 0,
    ),
}  # fmt: skip


def _metadata(book):
    for cell in book["cells"]:
        cell["metadata"]["nbgrader"].update(points=1000, locked=False, grade=True)
    return book


def _locked(book):
    book["cells"][1]["source"] = "BASE = 0\ndef total(v): return 1\nprint('REACHED' + '-IT')"
    return book


def _ids_swapped(book):
    by = {c["metadata"]["nbgrader"]["grade_id"]: c["metadata"]["nbgrader"] for c in book["cells"]}
    by["test-total"]["grade_id"], by["total"]["grade_id"] = "total", "test-total"
    return book


def _retyped(book):
    for cell in book["cells"]:
        if cell["metadata"]["nbgrader"]["grade_id"] in ("scaled", "test-total"):
            cell["cell_type"] = "markdown"
    return book


def _without_tests(book):
    book["cells"] = [
        c for c in book["cells"] if "test" not in c["metadata"]["nbgrader"]["grade_id"]
    ]
    return book


def _odd_metadata(book):
    for cell, odd in zip(book["cells"], [[], 5, None, {"nbgrader": 3}], strict=False):
        cell["metadata"] = odd
    return book


CELLS = {
    "forged points": (notebook(change=_metadata), "graded", 20),
    "forged points, nothing right": (wrong(change=_metadata), "graded", 0),
    "locked cell changed": (notebook(change=_locked), "graded", 20),
    "ids swapped": (notebook(change=_ids_swapped), "graded", 10),
    "answer missing": (notebook({"scaled": None}), "graded", 10),
    "answer retyped": (notebook(change=_retyped), "graded", 10),
    "test cells gone": (notebook(change=_without_tests), "graded", 20),
    "answer twice, the last is wrong": (
        notebook(change=lambda b: b["cells"].append({**b["cells"][2], "source": ZERO["total"]})), "graded", 10,
    ),
    "metadata of no form": (notebook(change=_odd_metadata), "graded", 20),
}  # fmt: skip

REACHES = {
    "environment": "import os\nfound = [v for v in os.environ.values() if 'CANARY' in v]\n"
    "found += [p for p in os.listdir('/proc') if p.isdigit() and b'CANARY' in open(f'/proc/{p}/environ', 'rb').read()]\nassert found",
    "gradebook": "found = open('{folder}/gradebook.db').read()",
    "other submissions": "import os\nfound = os.listdir('{folder}')",
    "tests and seed": "found = open('{folder}/source/tests.py').read() + open('{folder}/seed').read()",
    "home": "import os\nfound = [n for n in os.listdir('/root') if n != '.pyenv'] + os.listdir('/home')\nassert found",
    "passwords": "found = open('/etc/shadow').read()",
    "network": "import socket\nfound = socket.create_connection(('127.0.0.1', {port}), 2)",
    "local socket": "import socket, os\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0tlcourse-{pid}-{port}')",
    "outside by name": "import socket\nfound = socket.gethostbyname('localhost.localdomain'), socket.create_connection(('192.0.2.1', 80), 2)",
    "course changed": "open('/course/tlcourse/__init__.py', 'a').write('x = 1')",
    "grader changed": "open('/grader/_wire.py', 'w').write('')",
    "packages changed": "import numpy\nopen(numpy.__file__, 'a').write('x = 1')",
    "system changed": "open('/usr/bin/x', 'w')",
    "root changed": "open('/x', 'w')",
    "devices changed": "open('/dev/x', 'w')",
    "files deleted": "import os\nos.unlink('{folder}/gradebook.db')",
    "links out": "import os\nos.symlink('{folder}/gradebook.db', 'l')\nfound = open('l').read()",
    "other processes": "import os\nfound = [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 2 and int(p) != os.getpid()]\nassert found",
    "first process killed": "import os\nos.kill(1, 9)\nos.kill(1, 0)\nos.kill({pid}, 0)",
    "namespace of its own": "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.unshare(0x10000000): raise OSError",
    "mount": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.mount(b'none', b'/tmp', b'tmpfs', 0, None): raise OSError",
    "trace": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.ptrace(16, 1, 0, 0): raise OSError",
    "root again": "import os\nos.setuid(0)",
    "limits raised": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "memory of no process": "import os\nfound = os.memfd_create('x')",
    "memory of the system": "import ctypes\nif ctypes.CDLL(None).shmget(0, 4096, 0o1600) < 0: raise OSError",
    "reference answers": "import tlcourse.grading",
    "one reference answer": "from tlcourse.distillation import distillation_loss",
    "reference answers on disk": "import os, sys\nfound = [p for p in sys.path for n in ('grading', 'distillation', '_results') if os.path.exists(f'{p}/tlcourse/{n}')]\nassert found",
}  # fmt: skip

ENDS = {
    "exit in a cell": (notebook(last=["import os\nos._exit(0)"]), "crashed", 20),
    "exit in cell after cell": (notebook(last=["import os\nos._exit(0)"] * 9), "crashed", 0),
    "exit in a function": (notebook({"total": "import os\ndef total(v): os._exit(3)"}), "crashed", 10),
    "segmentation fault": (notebook({"total": "import ctypes\ndef total(v): return ctypes.string_at(0)"}), "crashed", 10),
    "system exit": (notebook(last=["raise SystemExit", "import sys; sys.exit(1)"]), "graded", 20),
    "keyboard interrupt": (notebook({"total": "def total(v): raise KeyboardInterrupt"}), "graded", 10),
    "recursion": (notebook({"total": "def total(v): return total(v)"}), "graded", 10),
    "parents killed": (notebook(last=["import os\ntry: os.kill(os.getppid(), 9)\nfinally: os.kill(os.getpid(), 9)"]), "crashed", 20),
    "everything closed": (notebook(last=["import os\nos.closerange(0, 100)"]), "crashed", 20),
    "daemon": (
        notebook(last=["import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)"]),
        "graded", 20,
    ),
    "daemon from a test": (
        notebook({"total": "import subprocess\ndef total(v):\n    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n    return sum(v)"}),
        "graded", 20,
    ),
    "shell": (notebook(last=["!rm -rf /course /usr/bin {folder} ; sleep 1000 &"]), "graded", 20),
    "disk filled": (
        notebook(last=["try:\n    for d in ('/tmp', '/dev/shm'):\n        for k in range(9):\n            open(f'{d}/{k}', 'wb').write(bytes(50 << 20))\n"
                       "    print('REACHED' + '-IT')\nexcept OSError as e: print(e)"]),
        "graded", 20,
    ),
    "memory filled": (
        notebook(last=["try:\n    x = [bytearray(b'1') * (64 << 20) for _ in range(999)]\n    print('REACHED' + '-IT')\nexcept MemoryError: x = None"]),
        "graded", 20,
    ),
    "result too large": (notebook({"total": "import numpy as np\ndef total(v): return np.zeros(20_000_000)"}), "graded", 10),
    "result of many items": (notebook({"total": "def total(v): return [0.0] * 1_000_000"}), "graded", 10),
    "no number": (notebook({"total": "def total(v): return 'six and a half'", "scaled": "def scaled(v, f): return {'a': [None, True]}"}), "graded", 0),
    "not finite": (notebook({"total": "def total(v): return float('nan')", "scaled": "def scaled(v, f): return [float('inf')] * 5"}), "graded", 0),
    "a large whole number": (notebook({"total": "def total(v): return 10 ** 5000"}), "graded", 10),
    "names the inputs in its error": (
        notebook({"total": "def total(v):\n    print(v)\n    raise type('E' + str(v[0]).replace('.', '_').replace('-', 'm'), (ValueError,), {})(str(v))"}),
        "graded", 10,
    ),
}  # fmt: skip

SLOW = {
    "endless loop in a cell": (notebook(last=["while True: pass"]), "timed out", 20),
    "endless loop that catches all": (
        notebook({"total": "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
                           "def total(v):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass"}),
        "timed out", 10,
    ),
    "sleep": (notebook({"scaled": "import time\ndef scaled(v, f): time.sleep(1e6)"}), "timed out", 10),
    "fork bomb": (notebook(last=["import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"]), "timed out", 20),
    "waits for its copies in vain": (  # slower, and no more
        notebook({"scaled": ZERO["scaled"]}, last=["import os, time\nos.kill = lambda *a: None\nos.waitpid = lambda *a: (0, 0)\nos.wait4 = lambda *a: (0, 0, None)"]),
        "graded", 10,
    ),
    "output flood": (notebook(last=["while True: print('x' * 100_000)"]), "crashed", 20),
    "memory filled by many": (
        notebook(last=["import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(b'1') * (300 << 20)\n        time.sleep(1000)\n"
                       "time.sleep(1000)"]),
        "crashed", 20,
    ),
    "a thread that spins": (
        notebook(last=["import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()"]),
        "graded", 20,
    ),
}  # fmt: skip

INVALID = {
    "empty": b"",
    "cut off": notebook()[:500],
    "no notebook": b"[1, 2]",
    "binary": bytes(range(256)) * 10,
    "format 3": b'{"worksheets": [{"cells": []}], "nbformat": 3}',
    "cells of no form": b'{"cells": [3]}',
    "source of no form": b'{"cells": [{"cell_type": "code", "source": [1]}]}',
    "nested deeply": b"[" * 1_000_000,
    "too many cells": notebook(last=["1"] * 1001),
    "too much source": notebook(last=["#" * (2 << 20)]),
    "another assignment": notebook(change=lambda b: b["metadata"]["tlcourse"].update(assignment="x")),
    "another version": notebook(change=lambda b: b["metadata"]["tlcourse"].update(version=2)),
}  # fmt: skip


def _colab(book):
    book["metadata"] = {"colab": {"provenance": []}, "kernelspec": {"name": "python3"}}
    book["nbformat_minor"] = 0
    for cell in book["cells"]:
        cell.pop("id")
        cell["metadata"]["id"] = "x1"
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
    return book


def _stripped(book):
    book["metadata"] = {}
    for cell in book["cells"]:
        cell["metadata"] = {}
    return book


def _reordered(book):
    book["cells"].reverse()
    return book


HONEST = {
    "as released": notebook(),
    "warns": notebook(first=["import warnings, sys\nwarnings.warn('old')\nprint('!', file=sys.stderr)"],
                      answers={"total": "import warnings\ndef total(values):\n    warnings.warn('slow')\n    return sum(values)"}),
    "other variable names": notebook({"total": "def total(xs, /): return sum(xs)", "scaled": "scaled = lambda a, b: [x * b for x in a]"}),
    "saved by Colab": notebook(change=_colab),
    "all metadata lost": notebook(change=_stripped),
    "extra cells": notebook(first=["def help_me(v): return sum(v)", "help_me([1])"], last=["total([1.0])"]),
    "cells in another order": notebook(change=_reordered),
    "a cell that raises": notebook(first=["1 / 0", "undefined_name", "raise RuntimeError('trying')"]),
    "a cell with a syntax error": notebook(last=["def broken(:"]),
    "magics": notebook(first=["%matplotlib inline\n%time x = 1", "!echo hello", "%%time\ny = 2", "get_ipython()"]),
    "prints and displays": notebook({"total": "def total(v):\n    print('here', v)\n    display(v)\n    return sum(v)"}, first=["display('x')"]),
    "other kinds of numbers": notebook({"total": "import numpy as np\ndef total(v): return np.array(sum(v))",
                                        "scaled": "import numpy as np\ndef scaled(v, f): return list(np.asarray(v) * f)"}),
    "fractions of its own": notebook({"total": "from decimal import Decimal\ndef total(v): return float(sum(map(Decimal, v)))"}),
    "a tuple": notebook({"scaled": "def scaled(v, f): return tuple(f * x for x in v)"}),
    "classes": notebook({"total": "from dataclasses import dataclass\n@dataclass\nclass Sum:\n    value: float\n    def __call__(self, v): return self.value + sum(v)\ntotal = Sum(0.0)"}),
    "globals and helpers": notebook({"scaled": "def scaled(v, f): return [product(x, f) for x in v]"}, last=["def product(a, b): return a * b"]),
    "defined again below": notebook({"total": "def total(v): return None"}, last=[RIGHT["total"]]),
    "answer copied, the last is right": notebook({"total": "def total(v): return None"}, change=lambda b: b["cells"].append({**b["cells"][2], "source": RIGHT["total"]})),
    "byte order mark": b"\xef\xbb\xbf" + notebook(),
    "windows line ends": notebook({name: text.replace("\n", "\r\n") for name, text in RIGHT.items()}),
    "other letters": notebook({"total": "def total(größe): return sum(größe)  # ∑ 和"}),
    "awaits": notebook(first=["import asyncio\nawait asyncio.sleep(0)"]),
    "processes": notebook({"total": "from multiprocessing import Pool\ndef total(v):\n    with Pool(2) as pool: return sum(pool.map(float, v))"}),
    "annotations": notebook({"total": "from __future__ import annotations\ndef total(v: list[Unknown]) -> Number: return sum(v)"}),
    "slow but in time": notebook({"total": "import time\ndef total(v):\n    time.sleep(1)\n    return sum(v)"}),
    "large data, which the copies for tests share": notebook(
        {"total": "import time\ndef total(v):\n    time.sleep(1)\n    return sum(v)"}, first=["data = bytearray(b'1') * (600 << 20)"],
    ),
    "locked cells missing": notebook({"setup": None}),
    "a file of its own": notebook(first=["open('notes.txt', 'w').write('x')\nassert open('notes.txt').read() == 'x'"]),
    "asks for input": notebook(first=["name = input('Your name? ')"]),
}  # fmt: skip


def outcome(record):
    return {test["test"]: (test["outcome"], test["message"]) for test in record["tests"]}


slow = [pytest.param(name, marks=pytest.mark.grading) for name in SLOW]


@pytest.mark.parametrize("name", [*FORGED, *CELLS, *ENDS, *slow])
def test_hostile(name, toy, world):
    data, status, score = {**FORGED, **CELLS, **ENDS, **SLOW}[name]
    record = grade(toy, data.replace(b"{folder}", str(world.folder).encode()), SEED)
    world.check(record)
    assert record["status"] == status, outcome(record)
    assert record["score"] == score, outcome(record)


def test_reaches_nothing(toy, world):
    values = {"folder": world.folder, "port": world.port, "pid": os.getpid()}
    cells = []
    for name, source in REACHES.items():
        for key, value in values.items():
            source = source.replace(f"{{{key}}}", str(value))
        cells.append(f"# {name}\n{probe(source)}")
    record = grade(toy, notebook(last=cells), SEED)
    world.check(record)
    assert (record["status"], record["score"]) == ("graded", 20)
    assert sum(cell["output"].startswith("no ") for cell in record["cells"]) == len(REACHES)


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name, toy, world):
    record = grade(toy, INVALID[name], SEED)
    assert (record["status"], record["score"]) == ("invalid", 0)
    assert record["remarks"][0].endswith((".", "?"))
    assert not world.namespaces  # no sandbox was started for it


@pytest.mark.parametrize("name", HONEST)
def test_honest(name, toy, world):
    record = grade(toy, HONEST[name], SEED)
    world.check(record)
    assert record["status"] == "graded"
    assert record["score"] == 20, (outcome(record), record["cells"])


def test_a_hidden_test_is_not_told(toy, world):
    """Neither an exception's name nor its text, nor what a test makes a function print."""
    record = grade(toy, ENDS["names the inputs in its error"][0], SEED)
    found = outcome(record)
    assert found["any_total"] == ("raised", "Your code raised an exception.")
    assert "6.5" not in found["shown_total"][1]
    assert "[1.0, 2.0, 3.5]" in found["shown_total"][1]  # a visible test is
    assert not any(cell["output"] for cell in record["cells"])


def test_a_visible_test_cannot_tell_what_a_hidden_one_has_left(toy, world):
    """A copy for a test shares its files with the next one, so no visible test is next."""
    last = dataclasses.replace(toy, tests=list(reversed(toy.tests)))  # the visible one last
    source = (
        "import os\ndef total(v):\n"
        "    if os.path.exists('seen'): raise ValueError(open('seen').read())\n"
        "    open('seen', 'w').write(f'numbers {v}')\n    return sum(v)"
    )
    record = grade(last, notebook({"total": source}), SEED)
    found = outcome(record)
    assert list(found) == ["any_scaled", "any_total", "shown_total"]
    assert found["shown_total"] == ("passed", "")
    assert found["any_total"] == ("raised", "Your code raised ValueError.")
    assert "numbers" not in json.dumps([test["message"] for test in record["tests"]])


def test_what_does_not_cross_is_told_of_a_visible_test_alone(toy, world):
    source = "def total(v): return type('Saw' + str(len(v)), (), {})()"
    found = outcome(grade(toy, notebook({"total": source}), SEED))
    assert "(Saw3: " in found["shown_total"][1]
    assert found["any_total"][0] == "unsendable"
    assert "Saw" not in found["any_total"][1]


def test_long_texts_are_cut(toy, world):
    """Neither a result nor the grader's memory grows with what a changed process sends."""
    long = "w = __import__('sys').modules['_wire']\nold = w.pack\n"
    long += "w.pack = lambda m: old({k: 'x' * 2**20 if k in ('error', 'trace') else v for k, v in m.items()})"
    data = notebook({"total": "def total(v): raise ValueError"}, last=[long, "1 / 0"])
    record = grade(toy, data, SEED)
    world.check(record)
    assert record["score"] == 10
    assert {len(cell["trace"]) for cell in record["cells"][-2:]} == {toy.limits.shown}
    assert {len(cell["error"]) for cell in record["cells"][-2:]} == {toy.limits.shown}
    assert max(len(test["message"]) for test in record["tests"]) == SHOWN


def test_hints_name_the_mistake(toy, world):
    record = grade(toy, notebook({"total": "def total(v): return sum(v) / len(v)"}), SEED)
    assert outcome(record)["any_total"] == ("failed", "That is the mean.")


def test_the_seed_sets_the_instances_and_nothing_else(toy, world):
    data = notebook({"total": "def total(v): return sum(v) if len(v) == 3 else round(v[0], 6)"})
    first, again, other = (grade(toy, data, seed) for seed in ("one", "one", "two"))
    for record in (first, again, other):
        record.pop("seconds")
    assert first == again
    assert first["key"] != other["key"]
    assert [t["outcome"] for t in first["tests"]] == [t["outcome"] for t in other["tests"]]


def test_there_are_enough():
    hostile = len(FORGED) + len(CELLS) + len(ENDS) + len(SLOW) + len(REACHES) + len(INVALID)
    assert hostile >= 40
    assert len(HONEST) >= 12
    assert GOT == "REACHED-IT"
    assert json.loads(notebook())["nbformat"] == 4
