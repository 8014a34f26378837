"""The circumstances of a run: software, hardware, and the state of the code.

What cannot be found out is recorded as absent; nothing here can make a run fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fltk import __version__
from fltk.registry.git import GitFailed, git, git_hashed, harmless

DIFF_LIMIT = 2 * 1024 * 1024  # bytes; a longer diff is recorded by hash and size alone
UNTRACKED_LIMIT = 1000  # files
# Parts of fltk that read, write or show results and change no bit of them.
AROUND = ("bench", "cli", "export", "plots", "registry", "report", "sweep")
PACKAGE = Path(__file__).resolve().parents[1]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")


def environment() -> dict[str, Any]:
    """Python, system, processor, torch and every installed distribution; equal ones give equal data."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "torch": _torch(),
        "packages": _packages(),
    }


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """The state of the code that makes a run: of the repository of this package, and under `folder` of that around it.

    Both tell commit, branch, changes and untracked Python files. `diff` (bytes) is present when tracked files of
    fltk's repository differ from the commit by at most DIFF_LIMIT; `diff_size` and `diff_hash` describe any difference.
    Without a repository: {"present": False, "reason": ...}. `folder` (default: the current one) holds experiment files
    and scripts, if anything; in fltk's repository it is {"present": True, "same": True}. Either way `version` and
    `fltk_sha256` identify this package, and `core_sha256` the part of it that decides results.
    """
    own, around = _top(PACKAGE, tracked="__init__.py"), _top(folder or Path.cwd())
    there = _tree(around)
    there.pop("diff", None)
    return {
        **_tree(own),
        "folder": {"present": True, "same": True} if own == around and isinstance(own, Path) else there,
        "version": __version__,
        "fltk_sha256": package_digest(),
        "core_sha256": core_digest(),
    }


def unclean(folder: Path | None = None) -> str | None:
    """Why git could not bring back the code and the files of a run, naming the folder; None where it could.

    An installed package has a version and no changes; but git has to know something, hence the current folder.
    """
    own, around = _top(PACKAGE, tracked="__init__.py"), _top(folder or Path.cwd())
    if isinstance(own, str) and isinstance(around, str):
        return f"fltk's code: {own}; the current folder: {around}"
    for what, top in (("fltk's code", own), ("the current folder", around)):
        state = _tree(top)
        if state["present"] and (state["dirty"] or state["commit"] is None):
            return f"{top}, the repository of {what}, is not as in a commit"
    return None


def _top(where: Path, tracked: str = "") -> Path | str:
    """The root of the repository around a folder, or why there is none.

    With `tracked` it has to know this file of the folder: a virtual environment may lie in anybody's repository.
    """
    try:
        top = Path(os.fsdecode(git(where, "rev-parse", "--show-toplevel").rstrip(b"\r\n")))
        if tracked and not git(where, "ls-files", "--", tracked):
            return "an installed package, not a git repository"
    except GitFailed as error:
        return str(error)
    return top


def _tree(top: Path | str) -> dict[str, Any]:
    """The state of a repository, or the reason why there is none."""
    if isinstance(top, str):
        return {"present": False, "reason": top}
    try:
        settings = harmless(top)
        state: dict[str, Any] = {
            "present": True,
            "commit": _maybe(top, "rev-parse", "--verify", "--quiet", "HEAD"),
            "branch": _maybe(top, "symbolic-ref", "--quiet", "--short", "HEAD"),
            "dirty": bool(git(top, "status", "--porcelain", "-z", "--untracked-files=normal", settings=settings)),
            "untracked": _untracked(top),
        }
        if state["commit"] is not None:
            state |= _diff(top, settings)
    except GitFailed as error:
        return {"present": False, "reason": str(error)}
    return state


def core_digest() -> str:
    """SHA-256 of the code that decides results."""
    return package_digest(without=AROUND)


def package_digest(without: Collection[str] = ()) -> str:
    """SHA-256 over names and content of the installed package's Python files, some of its parts left out."""
    root = PACKAGE
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda item: item.relative_to(root).as_posix()):
        if path.relative_to(root).parts[0] in without:
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def _maybe(folder: Path, *arguments: str) -> str | None:
    """One line of output; None where git has no answer, such as the commit of an empty repository."""
    try:
        return os.fsdecode(git(folder, *arguments)).strip().encode("utf-8", "replace").decode() or None
    except GitFailed:
        return None


def _diff(top: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    arguments = ("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv")
    content, size, sha256 = git_hashed(top, *arguments, limit=DIFF_LIMIT, settings=settings)
    if not size:
        return {}
    described = {"diff_size": size, "diff_hash": sha256}
    return described | ({"diff": content} if size <= DIFF_LIMIT else {})


def _untracked(top: Path) -> dict[str, str]:
    """Path -> SHA-256 of the untracked, not ignored Python files; the first UNTRACKED_LIMIT by name."""
    listing = git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.py")
    names = sorted(name for name in listing.split(b"\0") if name)
    found: dict[str, str] = {}
    for name in names[:UNTRACKED_LIMIT]:
        with contextlib.suppress(OSError):
            path = top / os.fsdecode(name)
            if path.is_symlink() or not path.is_file():  # a link may lead to what never ends
                continue
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            found[name.decode("utf-8", "replace")] = digest.hexdigest()
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _torch() -> dict[str, Any]:
    """Version, and what only a loaded torch knows. It is not imported for this: that takes seconds."""
    module: Any = sys.modules.get("torch")
    if module is None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return {"version": metadata.version("torch")}
        return {}
    return {
        "version": str(module.__version__),
        "config": str(module.__config__.show()),
        "threads": int(module.get_num_threads()),
        "deterministic": bool(module.are_deterministic_algorithms_enabled()),
        "gpus": [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())],
    }


def _packages() -> dict[str, str]:
    """Name -> version of every installed distribution; damaged installations are left out."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        with contextlib.suppress(Exception):  # third-party metadata can be broken in any way
            name = distribution.metadata["Name"]
            if name:
                found.setdefault(str(name).lower(), str(distribution.version))
    return dict(sorted(found.items()))
