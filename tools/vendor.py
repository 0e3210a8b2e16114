"""Put the scripts that the site serves itself into _build/extra.

MathJax sets the equations. It comes out of an installed, pinned Python package and is served by
the site, so that reading a page asks no other host for anything. Every file is checked against
the digest written here before it is copied.

Usage: python tools/vendor.py
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "_build" / "extra" / "_static" / "vendor" / "mathjax"
PACKAGE = "sphinx-mathjax-offline"
# Its wheel 0.0.2 lays MathJax 3.2.2 in a folder of this name, beside the importable packages.
SOURCE = Path("sphinx-mathjax-offline") / "static" / "mathjax"

# One digest for each file, or for each folder: of all names and contents in it, in order.
PINNED: dict[str, str] = {
    # the script that every page with an equation loads
    "tex-mml-chtml.js": "300480069078b5892d2363a2b65e2dfbbf30fe5c80f83edbfecf4610fd093862",
    # its fonts
    "output/chtml/fonts/woff-v2": (
        "112cef0c9903d49b3757072bd5ed933edbe4fa46f0b191998b26b45fd722fc68"
    ),
    # TeX commands loaded on first use, such as \boldsymbol
    "input/tex/extensions": "f55c39ea7c5c4539fb5d0f5e002bbfc51b6efa6d542425a25d163f5263283443",
    # what the menu's screen reader support loads
    "a11y": "e6f706774bfd3aeab471ca940c1f727ad39490ee0b1c669bb62d8ffea97ddd24",
    # the words that it speaks
    "sre/mathmaps/base.json": "83311887b069476a6a4d0c6afe7f8e55075c85b44b029588739c0d835fc912b8",
    "sre/mathmaps/en.json": "19d9b309dc0d25d2bde2d3130bd3772b6d7c3f8316ebbd85306bef55ac89b2a7",
    "sre/mathmaps/nemeth.json": "35f253e59912d2ec3bd08be4271462fc58904d5da74ea368e073c2a593eb9516",
}


class VendorError(Exception):
    """The scripts to serve are missing or are not those that were pinned."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all names and contents below a folder."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(file.relative_to(path).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def vendor(source: Path, target: Path) -> bool:
    """Copy the pinned files from `source` to `target`; return whether anything had to be copied."""
    if not source.is_dir():
        raise VendorError(
            f"MathJax was looked for in {source} and is not there. "
            f"Install the locked packages again: the release 0.0.2 of {PACKAGE} has it."
        )
    if all((target / n).exists() and digest(target / n) == d for n, d in PINNED.items()):
        return False
    for name, expected in PINNED.items():
        if not (source / name).exists():
            raise VendorError(f"{source / name} is missing: the package is not the pinned release.")
        if (found := digest(source / name)) != expected:
            raise VendorError(
                f"{source / name} has SHA-256 {found}, expected {expected}. "
                "Reinstall the locked packages, or check a new release and pin its digests."
            )
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    for name in PINNED:
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, fresh / name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source / name, fresh / name)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return True


def main() -> int:
    try:
        source = Path(str(distribution(PACKAGE).locate_file(SOURCE)))
        copied = vendor(source, TARGET)
    except PackageNotFoundError:
        print(
            f"{PACKAGE} is not installed: run `make setup` to install the locked packages",
            file=sys.stderr,
        )
        return 1
    except (VendorError, OSError) as error:
        print(f"The site's scripts could not be put in place: {error}", file=sys.stderr)
        return 1
    where = TARGET.relative_to(ROOT)
    print(f"MathJax copied to {where}" if copied else f"MathJax is in place: {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
