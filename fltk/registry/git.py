"""Asking git about a repository that somebody else may have made.

A repository's own configuration can name programs that git starts: filters of `git status` and `git diff`, a monitor of
the file system, hooks, the other side of a transfer. None of them is started here. What the user has configured for all
repositories, such as the filters of Git LFS, is trusted and stays.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from fltk.errors import FltkError

GIT_SECONDS = 20.0
FIXED = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "protocol.allow": "never",  # a partial clone would fetch the objects that it lacks
    "status.submoduleSummary": "false",
}
OF_THE_REPOSITORY = ("local", "worktree")
_FILTER = re.compile(r"filter\..+\.(clean|smudge|process|required)", re.DOTALL)
_GITLINK = b"160000 "


class GitFailed(FltkError):
    """Git is absent, too slow or too old, or this is no repository."""


def git(folder: Path, *arguments: str, limit: int | None = None, settings: Mapping[str, str] | None = None) -> bytes:
    """The output of one git command, at most `limit` bytes of it."""
    return git_hashed(folder, *arguments, limit=limit, settings=settings)[0]


def git_hashed(
    folder: Path, *arguments: str, limit: int | None, settings: Mapping[str, str] | None = None
) -> tuple[bytes, int, str]:
    """(start of the output up to `limit` bytes, its full size, its full SHA-256), in bounded memory.

    `settings` win over every configuration; commands that look at files of the working tree need those of `harmless`.
    """
    # No lock on the index: looking must not disturb a git command of the user.
    command = ["git", "--no-optional-locks", *arguments]
    environment = {**os.environ, **_as_environment({**FIXED, **(settings or {})})}
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=quiet, stdin=quiet
        )
    except OSError as error:
        raise GitFailed("git is not installed or cannot be started here") from error

    timer = threading.Timer(GIT_SECONDS, process.kill)
    timer.start()
    kept, size, sha256 = bytearray(), 0, hashlib.sha256()
    try:
        with process:
            assert process.stdout is not None
            while chunk := process.stdout.read(1 << 16):
                sha256.update(chunk)
                size += len(chunk)
                kept += chunk if limit is None else chunk[: max(0, limit - len(kept))]
    finally:
        timer.cancel()
    if process.returncode != 0:
        raise GitFailed("not a git repository" if process.returncode > 0 else "git took too long")
    return bytes(kept), size, sha256.hexdigest()


def harmless(top: Path) -> dict[str, str]:
    """Settings under which `git status` and `git diff` start no filter that the repository, or a submodule, names.

    Each filter is as the user has configured it for all repositories, or else absent.
    """
    settings: dict[str, str] = {}
    for folder in _repositories(top, set()):
        settings |= _filters(folder)
    return settings


def _filters(folder: Path) -> dict[str, str]:
    """The filters that a repository's own configuration names, each with the value that it has elsewhere."""
    own: set[str] = set()
    elsewhere: dict[str, str] = {}
    entries = git(folder, "config", "--list", "--show-scope", "-z").split(b"\0")
    for scope, entry in zip(entries[::2], entries[1::2], strict=False):
        key, _, value = os.fsdecode(entry).partition("\n")
        if not _FILTER.fullmatch(key):
            continue
        if os.fsdecode(scope) in OF_THE_REPOSITORY:
            own.add(key)
        else:
            elsewhere[key] = value

    settings = {}
    for key in own:
        absent = "false" if key.endswith(".required") else ""
        settings[key] = elsewhere.get(key, absent)
    return settings


def _repositories(top: Path, seen: set[Path]) -> Iterator[Path]:
    """A repository and those of its submodules that are checked out: git looks into them as well."""
    place = top.resolve()
    if place in seen:
        return
    seen.add(place)
    yield top
    for line in git(top, "ls-files", "--stage", "-z").split(b"\0"):
        if line.startswith(_GITLINK):
            inner = top / os.fsdecode(line.partition(b"\t")[2])
            if (inner / ".git").exists():
                yield from _repositories(inner, seen)


def _as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as git reads them from its environment, where a name may hold any character."""
    start = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    found = {"GIT_CONFIG_COUNT": str(start + len(settings))}
    for number, (key, value) in enumerate(settings.items(), start):
        found[f"GIT_CONFIG_KEY_{number}"] = key
        found[f"GIT_CONFIG_VALUE_{number}"] = value
    return found
