"""``tlcourse doctor``: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

MINIMUM_FREE = 2 * 10**9  # bytes: the real data sets and the decoded copies of their images


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what, found
        What was looked at, and what is there.
    ok
        Whether it is in order.
    what_to_do
        The remedy, or a remark; empty where none is needed.
    """

    what: str
    found: str
    ok: bool = True
    what_to_do: str = ""


def examine() -> list[Finding]:
    """Look at Python, packages, devices, settings, folders and data; fetch nothing."""
    torch = _torch()
    data = _data() if all(finding.ok for finding in torch) else []  # it is read with torch
    return [_python(), *_packages(), *torch, _profile(), _cache_folder(), *data]


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("Python", platform.python_version(), ok, "" if ok else "Install 3.11 or newer.")


def _packages() -> list[Finding]:
    """Return one finding for all packages that are in order, and one for each of the others."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires("tlcourse") or []]
    except PackageNotFoundError:
        return [Finding("tlcourse", "not installed", False, "pip install . in the clone")]
    fine, problems = [], []
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = ""
        if found and requirement.specifier.contains(found, prereleases=True):
            fine.append(f"{requirement.name} {found}")
        else:
            remedy = f"pip install '{requirement}'"
            problems.append(Finding(requirement.name, found or "missing", False, remedy))
    return [Finding("packages", ", ".join(fine) or "none in order"), *problems]


def _torch() -> list[Finding]:
    try:
        import torch
        import torchvision  # noqa: F401 - the pair must import together
    except Exception as error:  # a broken pair fails in many ways, with OSError or RuntimeError too
        remedy = "Install torch and torchvision as a pair, from one place and in one command."
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Finding("torch with torchvision", found, False, remedy)]
    findings = [Finding("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        findings.append(Finding("GPU", ", ".join(names)))
    elif torch.backends.mps.is_available():
        findings.append(Finding("GPU", "Apple MPS"))
    else:
        remark = (
            "None is needed: every chapter runs on a CPU. The full profile of CIFAR-10 wants one."
        )
        findings.append(Finding("GPU", "none", what_to_do=remark))
    return findings


def _profile() -> Finding:
    from tlcourse.settings import current_profile

    try:
        return Finding("profile", current_profile())
    except ValueError as error:
        return Finding("profile", os.environ.get("TLCOURSE_PROFILE", ""), False, str(error))


def _cache_folder() -> Finding:
    from tlcourse.settings import cache_dir

    try:
        folder = cache_dir()
    except OSError as error:
        return Finding("cache folder", "not usable", False, str(error))
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    ok = writable and free > MINIMUM_FREE
    found = f"{folder}, {free / 1e9:.0f} GB free" + ("" if writable else ", not writable")
    remedy = "" if ok else "Set TLCOURSE_CACHE to a folder that is writable and has 2 GB free."
    return Finding("cache folder", found, ok, remedy)


def _data() -> list[Finding]:
    from tlcourse.data import status

    return [
        # A missing set is no fault: the embedded sets do everything. A damaged one is.
        Finding(
            f"data: {row.name}", re.sub(r"\s+", " ", row.state), row.state != "broken", row.todo
        )
        for row in status()
    ]
