"""Check the spelling of what people read: pages, docstrings, comments, and texts in the code.

codespell knows common misspellings; tools/british.txt adds the American forms, each with the
British one that this project writes. It is shown prose alone: code, names, formulas, addresses and
the works' own titles are blanked out first.

Usage: python tools/spelling.py
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

from check import ROOT, files_of

FOLDERS = ("book", "tlcourse", "tools", "tests", "*.md", "Makefile", "_config.yml")
UNREAD = ("tests/book/test_spelling.py",)  # misspelt on purpose
SUFFIXES = (".py", ".md", ".ipynb", ".svg", ".yml", ".toml", "")
BRITISH = ROOT / "tools" / "british.txt"
IGNORED: tuple[str, ...] = ()  # right, though codespell takes them for mistakes

# What is no prose, within a text. Longer forms come first.
NO_PROSE = re.compile(
    r"^(?P<fence>`{3,})[a-z]*\n.*?^(?P=fence)[ ]*$"  # code; a directive has braces, and is read
    r"|\$\$.*?\$\$|\$[^$\n]+\$"  # formulas
    r"|(?<!`)(`{1,2})[^`].*?\2(?!`)"  # code in a line, also over a line's end
    r"|\{[^{}\s]*\}"  # what an f-string fills in
    r"|\]\([^)\s]*\)|\b\w+://\S+"  # addresses
    r"|“[^”]*”|\*[A-Z][^*\n]+\*|\bCenter for [A-Z]"  # titles and names
    r"|\b[A-Z][\w-]+(?: (?:(?:a|and|by|for|in|of|on|the|to|via|with) )*[A-Z][\w-]+){2,}"
    r"|^[ ]*(?:>>>|\.\.\.)[ ].*$"  # examples
    r"|^[ ]*\w+(?:, \w+)*[ ]*$\n(?=[ ]{8})"  # the names before their description in a docstring
    r"|^[rbf]*[\"']\w+(?= (?:must|holds|was|group)\b)"  # an error begins with an argument's name
    r"|[\w,]+->\w+"  # the letters of an einsum
    r"|\b\w*[_.=(\[/]\w+|\b\w+[(\[_=]",  # names with what makes them names
    re.MULTILINE | re.DOTALL,
)
# A text of one word is a key or a name, and Matplotlib's places have two or three.
NAME = re.compile(r"""[rbf]*(["'])((?:outside |upper |lower |cent\w+ )*[\w./{}-]*)\1""")

TAG = re.compile(r"<style>.*?</style>|<[^>]*>", re.DOTALL)


def blank(text: str) -> str:
    """Return as many blanks and ends of lines."""
    return re.sub(r"[^\n]", " ", text)


def of_text(text: str) -> str:
    """Return a text with what is no prose blanked."""
    return NO_PROSE.sub(lambda found: blank(found[0]), text)


def of_code(code: str) -> str:
    """Return Python code with all but comments and texts blanked."""
    lines = [blank(line) for line in code.splitlines(keepends=True)]
    readable = re.sub(r"^[%!].*", "", code, flags=re.MULTILINE)  # a notebook's commands
    for token in tokenize.generate_tokens(io.StringIO(readable).readline):
        kind = tokenize.tok_name[token.type]
        if kind not in ("COMMENT", "STRING", "FSTRING_MIDDLE") or NAME.fullmatch(token.string):
            continue
        for i, part in enumerate(of_text(token.string).splitlines()):
            row, start = token.start[0] - 1 + i, token.start[1] if i == 0 else 0
            lines[row] = lines[row][:start] + part + lines[row][start + len(part) :]
    return "".join(lines)


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the prose of a file, in parts with a name each; a notebook has one for each cell."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield "", of_code(text)
    elif path.suffix == ".ipynb":
        for i, cell in enumerate(json.loads(text)["cells"]):
            source = "".join(cell["source"])
            read = of_text if cell["cell_type"] == "markdown" else of_code
            yield f"/cell {i}", read(source)
            shown = cell["metadata"].get("mystnb", {})
            yield f"/cell {i}, figure", of_text(json.dumps(shown, indent=1, ensure_ascii=False))
    elif path.suffix == ".svg":
        yield "", TAG.sub(lambda found: blank(found[0]), text)
    else:
        yield "", of_text(text)


def files() -> list[Path]:
    """Return the files that are checked: those that git tracks or would add."""
    paths = (path for path in files_of(FOLDERS) if path.suffix in SUFFIXES)
    return [path for path in paths if path.relative_to(ROOT).as_posix() not in UNREAD]


def mistakes(paths: list[Path], root: Path = ROOT) -> list[str]:
    """Return a line for every word that is misspelt, with its place and the right spelling."""
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            for part, text in texts_of(path):
                target = Path(folder) / "prose" / f"{path.relative_to(root)}{part}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "codespell_lib", "--dictionary=-"]
        command += [f"--dictionary={BRITISH}", f"--ignore-words-list={','.join(IGNORED)}", "prose"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    if run.stderr or run.returncode not in (0, 65):  # 65: there are mistakes
        raise RuntimeError(f"codespell did not run: {run.stderr or run.returncode}")
    return [line.removeprefix("prose/") for line in run.stdout.splitlines()]


def main() -> int:
    found = mistakes(files())
    for line in found:
        print(line)
    if found:
        print(
            f"\n{len(found)} words to mend. A name in the code stands between backticks; a word "
            "that is right all the same goes into IGNORED in tools/spelling.py.",
            file=sys.stderr,
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
