"""What this user has run or added on this machine: code by its hash, data by the hash of their files, names of data.

A stored run names a plug-in or a data file by its content, and this record says where a file with that content lies.
It also decides which code may run: only what the user has named on a command line or in a configuration of their own is
recorded, so that a registry from somebody else cannot have code executed.

    ~/.config/fltk/known       lines `code<TAB>SHA-256<TAB>path` and `data<TAB>SHA-256<TAB>path`, newest last
    ~/.config/fltk/data.json   names given by `fltk data add`

XDG_CONFIG_HOME replaces ~/.config. A folder that cannot be written is no error: then nothing is remembered.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fltk.bounded import read_text
from fltk.errors import FltkError
from fltk.files import replacing

CODE, DATA = "code", "data"
SHORT = 12  # hexadecimal digits of a hash that stand in a stored name
LINES = 1 << 22  # bytes of the record that are read, from its end
_HASH = re.compile(r"[0-9a-f]{64}")
_seen: dict[tuple[str, str], str] = {}  # of this process, also where nothing can be written: (kind, SHA-256) -> path


def folder() -> Path:
    """The folder of the user's settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "fltk"


def remember(kind: str, sha256: str, path: str) -> None:
    """Record where content with this hash lies."""
    if _seen.get((kind, sha256)) == path or "\n" in path:
        return
    known = (sha256, path) in places(kind, sha256)
    _seen[kind, sha256] = path
    if known:
        return
    with suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        # One write of one line at the end of the file: processes that write at once do not mix their lines.
        handle = os.open(folder() / "known", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{kind}\t{sha256}\t{path}\n".encode("utf-8", "surrogateescape"))
        finally:
            os.close(handle)


def places(kind: str, start: str) -> list[tuple[str, str]]:
    """(SHA-256, path) of all recorded content whose hash begins with `start`, the newest first."""
    found: list[tuple[str, str]] = []
    for (seen, sha256), path in reversed(_seen.items()):
        if seen == kind and sha256.startswith(start):
            found.append((sha256, path))

    for line in reversed(_lines()):
        parts = line.split("\t")
        if len(parts) != 3 or parts[0] != kind or not _HASH.fullmatch(parts[1]):
            continue
        if parts[1].startswith(start) and (parts[1], parts[2]) not in found:
            found.append((parts[1], parts[2]))
    return found


def _lines() -> list[str]:
    """The lines of the record; none where there is no record."""
    path = folder() / "known"
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LINES))
            return file.read(LINES).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []


def data_names() -> dict[str, dict[str, str]]:
    """Names given by `fltk data add`, each with the settings of the partition that it stands for."""
    path = folder() / "data.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path, str(path)))
        return {str(name): {str(k): str(v) for k, v in entry.items()} for name, entry in content.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise FltkError(f"{path} is damaged ({error}); repair or remove it") from None


def add_data_name(name: str, settings: Mapping[str, Any]) -> Path:
    """Give data a name, replacing one of the same name; returns the file that holds it."""
    names = {**data_names(), name: dict(settings)}
    path = folder() / "data.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FltkError(f"XDG_CONFIG_HOME: cannot write {path}: {error.strerror}") from None
    with replacing(path, "XDG_CONFIG_HOME") as file:
        file.write((json.dumps(names, indent=2, sort_keys=True) + "\n").encode())
    return path
