"""A folder of files named by the SHA-256 of their content: weights as safetensors, arrays as npz.

    <folder>/ab/abcdef...      a file
    <folder>/staging/...       files being written; leftovers of killed processes are removed after a day

A file is written aside, flushed to the disk and only then renamed, so a name never stands for half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fltk.config import canonical_json
from fltk.errors import FltkError

if TYPE_CHECKING:
    from torch import Tensor

STAGING = "staging"
LEFTOVER_SECONDS = 24 * 3600.0
_HASH = re.compile(r"[0-9a-f]{64}")
_STAGED_NAME = re.compile(r"\d+-[0-9a-f]{32}")


class ArtifactMissing(FltkError):
    """A file is not in the folder, which may not be there at all; it may be made again."""


@dataclass(frozen=True)
class Staged:
    """A complete file that has no public name yet. `size` in bytes."""

    sha256: str
    size: int
    temporary: Path
    final: Path

    def publish(self) -> None:
        """Give the file its name. Quick: safe to call while the database's write lock is held."""
        self.final.parent.mkdir(exist_ok=True)
        os.replace(self.temporary, self.final)
        _sync_folder(self.final.parent)


def is_hash(name: object) -> bool:
    """Whether a stored value can name an artifact: 64 hexadecimal digits and nothing else."""
    return isinstance(name, str) and _HASH.fullmatch(name) is not None


@dataclass(frozen=True)
class ArtifactFolder:
    """The content-addressed folder beside a database; made on first use.

    Hashes come from databases that other people wrote: only what is a hash ever becomes a path, and no folder in
    here is followed to another place.
    """

    folder: Path

    def path(self, sha256: str) -> Path:
        """Where the file with this hash is, or would be. FltkError for what is no hash or would lie elsewhere."""
        if not is_hash(sha256):
            raise FltkError(f"the database names an artifact {sha256!r}, which is no SHA-256; the row is damaged")
        parent = self.folder / sha256[:2]
        self._refuse_link(parent)
        return parent / sha256

    def unneeded(self, kept: Collection[str]) -> Iterator[Path]:
        """Files of artifacts that are not among `kept`, and old half-written ones; no file of another kind."""
        for parent in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            if parent.is_symlink():
                continue
            for path in sorted(parent.iterdir()):
                if is_hash(path.name) and path.name[:2] == parent.name and path.name not in kept:
                    yield path
        yield from self._leftovers()

    @contextmanager
    def stage(self, write: Callable[[Path], object]) -> Iterator[Staged]:
        """Let `write` fill a temporary file, flush and hash it; inside the block it may be published.

        An unpublished file is removed afterwards. FltkError when the folder cannot be written or is full.
        """
        temporary = self.folder / STAGING / f"{os.getpid()}-{uuid.uuid4().hex}"
        self._refuse_link(temporary.parent)
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.touch()
            mode = temporary.stat().st_mode  # as the user's mask has it; a library may write the file as private
            write(temporary)
            temporary.chmod(mode)
            _sync(temporary)
            sha256, size = digest_file(temporary)
            yield Staged(sha256, size, temporary, self.path(sha256))
        except OSError as error:
            named = error.filename2 or error.filename
            place = self.folder if named in (None, temporary, str(temporary)) else named
            raise FltkError(f"--db: cannot write to {place}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    @property
    def absent(self) -> str:
        """What is said where the whole folder is not there."""
        return f"the database came without its folder {self.folder}, which holds weights, partitions and differences"

    def verified(self, sha256: str) -> Path:
        """The path of a file whose content still has its hash; otherwise FltkError naming the file.

        `ArtifactMissing` where it is not there, a plain FltkError where it is damaged.
        """
        path = self.path(sha256)
        try:
            found, _ = digest_file(path)
        except FileNotFoundError as error:
            if not self.folder.is_dir():
                raise ArtifactMissing(f"{self.absent}; put it back, or train the run again") from error
            told = f"artifact file {path} is missing; restore it (its folder belongs next to the database)"
            raise ArtifactMissing(told) from error
        except OSError as error:
            raise FltkError(f"artifact file {path} cannot be read ({error.strerror})") from error
        if found != sha256:
            raise FltkError(f"artifact file {path} is damaged: its content does not match its hash; restore a copy")
        return path

    def remove(self, sha256: str) -> None:
        """Delete a file; one that is gone already is fine, and so is a name that no artifact can have."""
        if not is_hash(sha256):
            return
        path = self.path(sha256)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FltkError(f"artifact file {path} cannot be removed ({error.strerror})") from error

    def _remove_leftovers(self) -> None:
        for path in self._leftovers():
            with contextlib.suppress(OSError):  # another process may be removing the same file
                path.unlink()

    def _leftovers(self) -> Iterator[Path]:
        """Files that a killed process left half-written a day ago or earlier."""
        staging = self.folder / STAGING
        if staging.is_symlink() or not staging.is_dir():
            return
        limit = time.time() - LEFTOVER_SECONDS
        for path in sorted(staging.iterdir()):
            if not _STAGED_NAME.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < limit:
                    yield path

    def _refuse_link(self, folder: Path) -> None:
        """FltkError for a folder that is a symbolic link: what is written or deleted there lies somewhere else."""
        if folder.is_symlink():
            raise FltkError(
                f"{folder} is a symbolic link; artifacts are kept in a folder of their own: remove the link"
            )


def digest_file(path: Path) -> tuple[str, int]:
    """(SHA-256, size in bytes) of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return sha256, file.tell()


def write_tensors(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> Callable[[Path], None]:
    """A writer of one safetensors file. Equal tensors and metadata give equal bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # One metadata entry: the format keeps several in no fixed order, and the hash names the file.
    header = {"fltk": canonical_json(dict(meta))}

    def write(path: Path) -> None:
        try:
            save_file(_separate(tensors), path, metadata=header)
        except SafetensorError as error:  # the library's wrapping of, among others, a full disk
            raise FltkError(f"--db: cannot write weights to {path.parent.parent}: {error}") from error

    return write


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FltkError(f"artifact file {path} is not readable as weights ({error})") from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors with a memory of their own, as the format demands; copies only where needed."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        memory: Any = flat.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() != flat.numel() * flat.element_size():
            flat = flat.clone()
            memory = flat.untyped_storage()
        taken.add(memory.data_ptr())
        result[name] = flat
    return result


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
