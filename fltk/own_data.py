"""Names of the user's own data: files and folders, known by the SHA-256 of their content.

    wine.csv               as it is typed: a table, or a folder with a folder of images for each class
    wine.csv#3f2a9c01b7de  as configurations store it: where such a file lies is in the user's record (`fltk.ledger`)

A stored name is never a path that is opened: it is looked up by its hash, or under the folder of data sets.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fltk import ledger
from fltk.errors import ChangedFiles, UsageError
from fltk.names import DATASETS

TABLES = (".csv", ".parquet", ".npz", ".safetensors")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
FILES = 2_000_000  # in a folder of images
_STORED = re.compile(rf"(?P<name>[^\0]+)#(?P<hash>[0-9a-f]{{{ledger.SHORT}}})")


@dataclass(frozen=True)
class Files:
    """Data as they lie: one table, or a folder of images. `name` is how configurations store them."""

    path: Path
    sha256: str
    name: str


def split(name: str) -> tuple[str, str]:
    """A stored name as (name, hash); the hash is empty for a name as it is typed."""
    match = _STORED.fullmatch(name)
    return (match["name"], match["hash"]) if match else (name, "")


def is_data(name: str) -> bool:
    """Whether a name means files of the user's; built-in names come first."""
    if name in DATASETS:
        return False
    if split(name)[1] or name.lower().endswith(TABLES):
        return True
    if name.endswith(".py") or ":" in name or "\0" in name:
        return False
    return "/" in name or name in ledger.data_names() or Path(name).is_dir()


def locate(name: str, data_dir: Path) -> Files:
    """The files that a name means; their content is hashed. UsageError where there are none.

    `ChangedFiles` where the files of a stored name have another content by now.
    """
    shown, short = split(name)
    if short:
        return _stored(shown, short, data_dir)
    path = Path(ledger.data_names().get(shown, {}).get("path", shown)).expanduser()
    named = shown if shown in ledger.data_names() else path.resolve().name
    found = _files(path, named)
    ledger.remember(ledger.DATA, found.sha256, str(found.path))
    return found


def _stored(shown: str, short: str, data_dir: Path) -> Files:
    """The files with that hash, where the user has used them before or in the folder of data sets."""
    known = [Path(path) for _, path in ledger.places(ledger.DATA, short)]
    beside = [] if "/" in shown or shown in (".", "..") else [data_dir / shown]
    changed = ""
    for path in (*known, *beside):
        if not path.exists():
            continue
        found = _files(path, shown)
        if found.sha256.startswith(short):
            return found
        changed = (
            changed or f"{path} changed since (fingerprint {short} then, {found.sha256[:12]} now); use the same files"
        )
    if changed:
        raise ChangedFiles(f"the data of --dataset {shown}: {changed}")
    raise UsageError(
        f"--dataset {shown}#{short}: these data have not been used here; put {Path(shown).name!r} into the folder of "
        "--data-dir, or name the file once (fltk data add NAME PATH)"
    )


def _files(path: Path, shown: str) -> Files:
    """A table or a folder with the hash of its content."""
    if path.is_dir():
        sha256 = _folder_hash(path)
    elif path.is_file():
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        raise UsageError(f"--dataset {str(path)!r}: no such file or folder")
    return Files(path.resolve(), sha256, f"{shown}#{sha256[: ledger.SHORT]}")


def _folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the images, in the order of their names."""
    total = hashlib.sha256()
    for relative in images(folder):
        with (folder / relative).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{relative}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def images(folder: Path) -> list[str]:
    """Paths of the images below a folder, sorted. Links are left out: they may lead anywhere, or in a circle."""
    found: list[str] = []
    for path in _below(folder):
        if path.suffix.lower() in IMAGES:
            found.append(path.relative_to(folder).as_posix())
        if len(found) > FILES:
            raise UsageError(f"--dataset {folder}: more than {FILES:,} images")
    return sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            path = Path(root, name)
            if not path.is_symlink():
                yield path
