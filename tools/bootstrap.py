"""Make the project's environment in `.venv`, or leave it alone when it is complete.

`make` calls this before everything else. It runs on the system's own Python, so it uses the
standard library alone, and syntax that an old `python3` can read: only then can it say that
the interpreter is too old. (This is why annotations newer than Python 3.6 stand in quotes.)

    python3 tools/bootstrap.py                      the locked packages, torch included
    python3 tools/bootstrap.py --torch system       keep the torch that this machine has
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLD = ROOT / ".venv.old"  # an environment on its way out
VENV_PYTHON = VENV / "bin" / "python"
MARK = VENV / ".tlcourse"  # this script made the folder, and may make it again
READY = VENV / ".ready"  # the installation ran to its end; holds what it was made from
LOCK = ROOT / "requirements.lock"
PYPROJECT = ROOT / "pyproject.toml"

UV = "uv==0.13.8"
OLDEST = (3, 11)
NEWEST_TRIED = (3, 13)
CANDIDATES = ("python3.13", "python3.12", "python3.11", "python3", "python")

# What --torch system leaves out of the lock: torch and what only torch's own wheels need.
TORCH_FAMILY = re.compile(r"^(torch|torchvision|triton|pytorch-triton|nvidia-.*|cuda-.*)$")

PROBE = """
import importlib.util, json, sys, sysconfig
has = lambda name: importlib.util.find_spec(name) is not None
print(json.dumps({
    "version": list(sys.version_info[:3]), "executable": sys.executable,
    "prefix": sys.prefix, "is_venv": sys.prefix != sys.base_prefix,
    "site": sysconfig.get_path("purelib"),
    "ensurepip": has("ensurepip") and has("venv"), "venv": has("venv"), "pip": has("pip"),
    "torch": has("torch") and has("torchvision"),
}))
"""

CHECK_TORCH = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, torchvision
from torchvision.ops import nms
nms(torch.rand(2, 4), torch.rand(2), 0.5)
if sys.argv[1] == "numpy":
    import numpy
    torch.from_numpy(numpy.ones(2)).numpy()
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__}))
"""

NO_PYTHON = """\
Python {oldest} or newer is needed. Found: {found}.
Install one, then run the same command again:
  Debian, Ubuntu   sudo apt install python3 python3-venv
  Fedora           sudo dnf install python3.12
  macOS            brew install python@3.12
  conda            conda create -n course python=3.12 && conda activate course
Is it in an unusual place? Name it: make book PYTHON=/path/to/python"""

NO_VENV = """\
{python} (Python {version}) cannot make virtual environments: its ensurepip module is missing.
Install it, then run the same command again:
  Debian, Ubuntu   sudo apt install python3-venv    (or python{short}-venv)
Or name another Python: make book PYTHON=/path/to/python"""

NO_TORCH = """\
TORCH=system needs a Python that has torch and torchvision already. Looked at: {found}.
Name it: make book TORCH=system PYTHON=/path/to/python
Or leave TORCH=system out: then torch is downloaded into .venv."""

INSTALL_FAILED = """\
The packages could not be installed; the messages above say why.
  No network?      A first run downloads the packages. Later runs need no network.
  A proxy, mirror? The settings of pip (pip.conf, PIP_*) and of uv (uv.toml, UV_*) are used.
  No room?         {free:.1f} GB are free in {root}; torch for Linux takes about 6 GB.
                   With torch already on the machine: make book TORCH=system (see README.md)
Run the same command again afterwards: finished downloads are kept."""


class Stop(Exception):
    """An error that the user can do something about; its text says what."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f"[setup] {text}", flush=True)


def run(command: "list[str]", env: "dict[str, str]") -> bool:
    """Run a command with its output shown; True when it succeeded."""
    try:
        return subprocess.call(command, cwd=str(ROOT), env=env, stdin=subprocess.DEVNULL) == 0
    except OSError as error:
        say(f"{command[0]}: {error}")
        return False


def ask(command: "list[str]") -> str:
    """Return what a command prints, or an empty string when it cannot be run or fails."""
    try:
        done = subprocess.run(
            command,
            cwd=str(ROOT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def probe(python: str) -> "dict[str, Any]":
    """Return what an interpreter can do, or an empty dict when it does not run."""
    answer = ask([python, "-c", PROBE])
    return json.loads(answer.splitlines()[-1]) if answer else {}


def dotted(version: "Sequence[int]") -> str:
    """Write a version such as (3, 11, 7) as 3.11.7."""
    return ".".join(str(part) for part in version)


def choose_python(asked: str, system: bool) -> "dict[str, Any]":
    """Return the interpreter to build on: the one asked for, or the newest that will do."""
    found: dict[str, dict[str, Any]] = {}
    for name in [asked] if asked else [*list(CANDIDATES), sys.executable]:
        path = shutil.which(os.path.expanduser(name))  # noqa: PTH111
        # An environment cannot be built on itself.
        if path is None or Path(os.path.abspath(path)).parent == VENV_PYTHON.parent:  # noqa: PTH100
            continue
        info = probe(path)
        if info:
            found.setdefault(str(info["executable"]), info)
    if asked and not found:
        raise Stop(f"PYTHON={asked} does not run. Give the path of a Python {dotted(OLDEST)}+.")
    seen = ", ".join(f"{name} ({dotted(info['version'])})" for name, info in found.items())
    usable = [info for info in found.values() if tuple(info["version"]) >= OLDEST]
    if not usable:
        raise Stop(NO_PYTHON.format(oldest=dotted(OLDEST), found=seen or "no Python at all"))
    if system:
        usable = [info for info in usable if info["torch"]]
        if not usable:
            raise Stop(NO_TORCH.format(found=seen))
    return max(usable, key=rank)


def rank(info: "dict[str, Any]") -> "tuple[bool, bool, tuple[int, ...]]":
    """Prefer an interpreter that can make environments, then a tried version, then the newest."""
    version = tuple(info["version"])
    return bool(info["ensurepip"]), version[:2] <= NEWEST_TRIED, version


def fingerprint() -> str:
    """Return a hash of everything that decides what belongs into the environment."""
    digest = hashlib.sha256()
    for path in (LOCK, PYPROJECT, Path(__file__).resolve()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_ready() -> "dict[str, str]":
    """Return the record of a complete environment, or an empty dict."""
    try:
        record = json.loads(READY.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def look_inside() -> "dict[str, Any]":
    """Probe the Python in `.venv`; an empty dict unless it is an environment of its own there.

    A folder without pyvenv.cfg can hold a working `bin/python` that is the system's: what is
    installed with that one goes into the system. Nothing may be done with it.
    """
    info = probe(str(VENV_PYTHON))
    own = bool(info) and info["is_venv"] and Path(str(info["prefix"])).resolve() == VENV.resolve()
    return info if own else {}


def remove_venv() -> None:
    """Remove `.venv` in one step, so that an interrupted removal leaves no half of it there."""
    if OLD.exists():
        shutil.rmtree(str(OLD))
    if VENV.exists():
        VENV.rename(OLD)
        shutil.rmtree(str(OLD))


def make_venv(base: "dict[str, Any]", system: bool) -> None:
    """Make an empty environment on an interpreter; with its packages visible for `system`."""
    python = str(base["executable"])
    command = [python, "-m", "venv"]
    if system:
        command.append("--system-site-packages")
    uv = shutil.which("uv")
    if not base["ensurepip"]:
        if base["venv"] and (base["pip"] or uv):
            command.append("--without-pip")
        elif uv:
            command = [uv, "venv", "--allow-existing", "--python", python]
            command += ["--system-site-packages"] if system else []
        else:
            version = dotted(base["version"])
            short = ".".join(version.split(".")[:2])
            raise Stop(NO_VENV.format(python=python, version=version, short=short))
    say(f"1/4 making .venv on Python {dotted(base['version'])} ({python})")
    VENV.mkdir()
    MARK.write_text("made by tools/bootstrap.py\n", encoding="utf-8")
    if not run([*command, str(VENV)], dict(os.environ)):
        raise Stop("The environment could not be made; the messages above say why.")
    if system and base["is_venv"]:
        # An environment made on another environment sees the system's packages, not those of
        # the other one; a path file adds them, behind its own.
        site = Path(str(probe(str(VENV_PYTHON))["site"]))
        (site / "_packages_of_the_other_environment.pth").write_text(
            f"{base['site']}\n", encoding="utf-8"
        )


def pip_for_venv(base: "dict[str, Any]") -> "list[str]":
    """Return the command that runs a pip on the environment, or an empty list."""
    if ask([str(VENV_PYTHON), "-c", "import pip; print(pip.__file__)"]).startswith(str(VENV)):
        return [str(VENV_PYTHON), "-m", "pip"]
    if base["pip"]:
        return [str(base["executable"]), "-m", "pip", "--python", str(VENV_PYTHON)]
    return []


def pip_settings(pip: "list[str]") -> "dict[str, str]":
    """Return pip's own settings (files and PIP_* variables), the strongest of each name."""
    settings: dict[str, tuple[int, str]] = {}
    strength = {"global": 0, "install": 1, ":env:": 2}
    for line in ask([*pip, "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        group, _, key = name.rpartition(".")
        if group in strength and strength[group] >= settings.get(key, (-1, ""))[0]:
            try:
                settings[key] = (strength[group], str(ast.literal_eval(value)))
            except (ValueError, SyntaxError):
                continue
    return {key: value for key, (_, value) in settings.items()}


def uv_settings(pip: "list[str]", env: "dict[str, str]") -> "list[str]":
    """Return options that give uv the index which pip is set to use, unless uv has its own."""
    own = ("INDEX_URL", "DEFAULT_INDEX", "EXTRA_INDEX_URL", "INDEX", "FIND_LINKS", "NO_INDEX")
    config = Path(env.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))  # noqa: PTH111
    files = [config / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    if any(env.get("UV_" + name) for name in (*own, "CONFIG_FILE", "OFFLINE")):
        return []
    if not pip or any(path.exists() for path in files):
        return []
    settings = pip_settings(pip)
    options = []
    if settings.get("index-url"):
        options += ["--default-index", settings["index-url"]]
    more = settings.get("extra-index-url", "").split()
    for url in more:
        options += ["--index", url]
    if more:  # as pip does: the best version of all indexes
        options += ["--index-strategy", "unsafe-best-match"]
    for place in settings.get("find-links", "").split():
        if "://" in place or Path(place).exists():
            options += ["--find-links", place]
    for host in settings.get("trusted-host", "").split():
        options += ["--allow-insecure-host", host]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if settings.get("cert"):
        env.setdefault("SSL_CERT_FILE", settings["cert"])
    if settings.get("proxy"):
        env.setdefault("HTTPS_PROXY", settings["proxy"])
        env.setdefault("HTTP_PROXY", settings["proxy"])
    return options


def locked_requirements(system: bool) -> Path:
    """Return the file to install: the lock, or for `system` the lock without torch's family."""
    if not system:
        return LOCK
    kept = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name and not TORCH_FAMILY.match(name.group().lower()):
            kept.append(line)
    path = VENV / "requirements-without-torch.txt"
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


def install(base: "dict[str, Any]", system: bool) -> None:
    """Install uv, the locked packages and the project itself into the environment."""
    env = dict(os.environ)
    env.update({"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"})
    for name in ("UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "PIP_TARGET", "PIP_PREFIX"):
        env.pop(name, None)
    env.setdefault("UV_HTTP_TIMEOUT", "300")

    pip = pip_for_venv(base)
    uv = str(VENV / "bin" / "uv")
    say(f"2/4 installing {UV}, which installs the rest")
    if ask([uv, "--version"]).split()[1:2] != [UV.partition("==")[2]] and not (
        pip and run([*pip, "install", "--quiet", UV], env)
    ):
        uv = shutil.which("uv") or ""
        say(f"that did not work; going on with {uv or 'pip'}")

    size = "about 150 packages" if system else "about 170 packages, torch among them"
    say(f"3/4 installing {size}; the first time this downloads them and takes some minutes")
    requirements = ["--requirement", str(locked_requirements(system))]
    if system:
        requirements.insert(0, "--no-deps")
    project = ["--no-deps", "--editable", str(ROOT)]
    tools = []
    if uv:
        target = ["--python", str(VENV_PYTHON), *uv_settings(pip, env)]
        if env.get("PYTHONDONTWRITEBYTECODE"):
            # Nothing would compile the packages later, and importing torch takes 3 times as long.
            target.append("--compile-bytecode")
        tools.append([uv, "pip", "install", *target])
    if pip:
        tools.append([*pip, "install"])
    for number, tool in enumerate(tools):
        if number:
            say("once more, with pip, which is slower")
        if run(tool + requirements, env) and run(tool + project, env):
            return
        if free_gigabytes() < 0.5:
            break
    raise Stop(INSTALL_FAILED.format(free=free_gigabytes(), root=ROOT))


def free_gigabytes() -> float:
    """Return the room that is left where the environment goes."""
    return shutil.disk_usage(str(ROOT)).free / 1e9


def lower_bounds() -> "dict[str, str]":
    """Return the oldest torch and torchvision that the package takes."""
    found = re.findall(
        r'"(torch|torchvision)\s*>=\s*([0-9.]+)"', PYPROJECT.read_text(encoding="utf-8")
    )
    return dict(found)


def numbers(version: str) -> "tuple[int, ...]":
    """Return the leading numbers of a version: 2.13.0+cpu -> (2, 13, 0)."""
    match = re.match(r"[0-9.]*[0-9]", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def check_torch(python: str, with_numpy: bool) -> "dict[str, str]":
    """Return the versions of torch and torchvision after trying that they work together."""
    command = [python, "-c", CHECK_TORCH, "numpy" if with_numpy else "alone"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise Stop(
            f"torch and torchvision do not work together in {python}:\n  {' '.join(reason)}\n"
            "They must be of matching releases, and torch 2.2 needs NumPy 1. Install a matching\n"
            "pair there, or run once with TORCH=locked: then torch is installed into .venv."
        )
    versions: dict[str, str] = json.loads(done.stdout.decode().splitlines()[-1])
    for name, oldest in lower_bounds().items():
        if numbers(versions[name]) < numbers(oldest):
            raise Stop(f"{python} has {name} {versions[name]}; {name} {oldest} or newer is needed.")
    return versions


def set_up(asked_mode: str, asked_python: str) -> None:
    """Bring `.venv` to the state that the lock file asks for, with as little work as needed."""
    ready = read_ready()
    # Once chosen, TORCH=system and PYTHON=... stay chosen until others are asked for.
    goal = {
        "key": fingerprint(),
        "mode": asked_mode or ready.get("mode", "locked"),
        "python": asked_python or ready.get("python", ""),
        "root": str(ROOT),
    }
    if VENV_PYTHON.exists() and all(ready.get(name) == value for name, value in goal.items()):
        return

    started = time.monotonic()
    system = goal["mode"] == "system"
    base = choose_python(goal["python"], system)
    if system:
        found = check_torch(str(base["executable"]), with_numpy=False)
        say(f"{base['executable']} has torch {found['torch']}; it stays the one that is used")
    elif free_gigabytes() < 8:
        say(f"only {free_gigabytes():.1f} GB are free here; on Linux up to 8 GB may be needed")

    if OLD.exists():
        shutil.rmtree(str(OLD))
    inside = look_inside()
    if inside and ready and all(ready.get(name) == goal[name] for name in goal if name != "key"):
        say("requirements.lock or pyproject.toml changed: bringing .venv up to date")
        READY.unlink()
    elif MARK.exists() or (VENV.is_dir() and not any(VENV.iterdir())):
        say(
            "making .venv again: "
            + ("it was made for another place or choice" if ready else "it is half-made")
        )
        if ready:
            READY.unlink()
        remove_venv()
        make_venv(base, system)
    elif VENV.exists() or VENV.is_symlink():
        if not inside or tuple(inside["version"]) < OLDEST:
            raise Stop(
                f"{VENV} is there, but it is no environment with Python {dotted(OLDEST)}+,\n"
                "and this Makefile did not make it. Move it away, or remove it: make distclean"
            )
        say("using the .venv that is there already")
    else:
        make_venv(base, system)

    if not look_inside():
        raise Stop(f"{VENV_PYTHON} is no environment of its own. Run: make distclean")
    install(base, system)
    say("4/4 trying torch and torchvision")
    versions = check_torch(str(VENV_PYTHON), with_numpy=True)
    partial = READY.with_suffix(".part")
    partial.write_text(json.dumps(goal, indent=1) + "\n", encoding="utf-8")
    partial.replace(READY)
    say(
        f"ready in {time.monotonic() - started:.0f} s: torch {versions['torch']}, "
        f"torchvision {versions['torchvision']}"
        + (f" (those of {base['executable']})" if system else "")
    )


def main() -> int:
    """Read the command line, set up, and turn every expected error into a few plain lines."""
    parser = argparse.ArgumentParser(description="Make the project's environment in .venv.")
    parser.add_argument(
        "--torch",
        choices=("locked", "system"),
        default="",
        help="locked: install torch from requirements.lock; system: use the one that is there",
    )
    parser.add_argument("--python", default="", help="the Python to build on (default: the newest)")
    arguments = parser.parse_args()
    try:
        import fcntl

        # One set-up at a time: a second `make` waits here, then finds everything done.
        handle = os.open(str(ROOT), os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is running in this folder; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        set_up(arguments.torch, arguments.python)
    except Stop as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nThe environment could not be made: {error}", file=sys.stderr)
        print(f"{free_gigabytes():.1f} GB are free in {ROOT}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it goes on cleanly.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
