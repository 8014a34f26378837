"""Memory that the processes of a run share: files without a name, and large matrices in them.

A method's rows, (N, P) with a model in each, are written anew every round. On the `SHELF` they lie in files that worker
processes map as well, so that a row is read and written where it is, and the memory of a matrix that nobody holds any
more is given out again: to get fresh pages for hundreds of megabytes costs more than to fill them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

LEAST, MOST = 1 << 20, 1 << 29  # bytes of a matrix on the shelf; two larger ones would not fit everywhere
PAGE = 1 << 12  # bytes: shorter rows travel as fast as their places
LINE = 64  # bytes: rows begin with a cache line


class SharedFile:
    """A file without a name that a process and one that it starts can both map."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @staticmethod
    def of(size: int) -> SharedFile | None:
        """A file of so many bytes, in memory where that is possible; None where there is no room or no such thing."""
        found = SharedFile.in_memory(size)
        if found is not None:
            return found
        for folder in ("/dev/shm", tempfile.gettempdir()) if hasattr(os, "statvfs") else ():
            with contextlib.suppress(OSError):
                free = os.statvfs(folder)
                if free.f_bavail * free.f_frsize < 2 * size:
                    continue
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.truncate(size)
                    return SharedFile(os.dup(file.fileno()))
        return None

    @staticmethod
    def in_memory(size: int) -> SharedFile | None:
        """The same that no mount limits the size of; None but on Linux."""
        with contextlib.suppress(AttributeError, OSError):
            descriptor = os.memfd_create("fltk")
            os.ftruncate(descriptor, size)
            return SharedFile(descriptor)
        return None

    def rooms(self, count: int) -> list[memoryview]:
        """The file mapped, as `count` rooms of equal size; it is closed by that."""
        size = os.fstat(self.descriptor).st_size // count
        whole = memoryview(mmap.mmap(self.descriptor, count * size))
        os.close(self.descriptor)
        return [whole[k * size : (k + 1) * size] for k in range(count)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.descriptor),)


def _received(descriptor: Any) -> SharedFile:
    return SharedFile(descriptor.detach())


def rooms(file: SharedFile | None, count: int) -> list[memoryview]:
    """`count` rooms in a shared file; without a file there is nowhere."""
    return [memoryview(bytearray())] * count if file is None else file.rooms(count)


@dataclass(frozen=True)
class Place:
    """Where numbers lie side by side: a block of a shelf, and the first of its bytes."""

    block: int
    start: int


@dataclass(frozen=True)
class _Block:
    descriptor: int
    size: int
    memory: mmap.mmap
    address: int

    @staticmethod
    def of(descriptor: int, size: int) -> _Block:
        memory = mmap.mmap(descriptor, size)
        return _Block(descriptor, size, memory, torch.frombuffer(memory, dtype=torch.uint8).data_ptr())


class Shelf:
    """Blocks of shared memory, which worker processes borrow."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._free: list[int] = []
        self._made = 0

    def matrix(self, rows: int, width: int) -> Tensor:
        """An uninitialised float32 matrix (rows, width), in a block where that is worth it and possible.

        Its rows begin with cache lines, so there may be a gap behind each of them.
        """
        stride = -(-4 * width // LINE) * LINE
        key = self._block(rows * stride) if 4 * width >= PAGE and LEAST <= rows * stride <= MOST else None
        if key is None:
            return torch.empty(rows, width)
        held = memoryview(self._blocks[key].memory)  # torch holds it for as long as there is a tensor in it
        finalize(held, self._free.append, key).atexit = False
        return torch.frombuffer(held, dtype=torch.float32).as_strided((rows, width), (stride // 4, 1))

    def place(self, tensor: Tensor) -> Place | None:
        """Where a tensor lies, if it does so on this shelf and side by side."""
        address = tensor.data_ptr()
        for key, block in self._blocks.items():
            if block.address <= address < block.address + block.size:
                return Place(key, address - block.address) if tensor.is_contiguous() else None
        return None

    def blocks(self) -> dict[int, tuple[int, int]]:
        """All blocks: number -> file descriptor, size."""
        return {key: (block.descriptor, block.size) for key, block in self._blocks.items()}

    def _block(self, size: int) -> int | None:
        """A block that nobody holds; if none has the size, the free ones make way for a new one."""
        for key in self._free:
            if self._blocks[key].size == size:
                self._free.remove(key)
                return key
        while self._free:
            os.close(self._blocks.pop(self._free.pop()).descriptor)
        file = SharedFile.in_memory(size)
        with contextlib.suppress(OSError):  # no address space
            if file is not None:
                self._blocks[self._made + 1] = _Block.of(file.descriptor, size)
                self._made += 1
                return self._made
        return None


class Borrowed:
    """What a worker has mapped of the driver's shelf."""

    def __init__(self) -> None:
        self._memory: dict[int, mmap.mmap] = {}

    def take(self, block: int, descriptor: int, size: int) -> None:
        """Maps a block; its descriptor is closed by that."""
        self._memory[block] = mmap.mmap(descriptor, size)
        os.close(descriptor)

    def leave(self, blocks: Iterable[int]) -> None:
        """Forgets blocks that are not on the shelf any more."""
        for block in blocks:
            del self._memory[block]

    def at(self, place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The tensor at a place."""
        count = torch.Size(shape).numel()
        return torch.frombuffer(self._memory[place.block], dtype=dtype, count=count, offset=place.start).view(shape)


SHELF = Shelf()  # this process's own


def rows_of(rows: Sequence[Tensor]) -> Tensor | None:
    """The matrix (K, P) that has just these rows (P,), one after the other; None if they come from elsewhere."""
    first, step = rows[0], rows[1].data_ptr() - rows[0].data_ptr() if len(rows) > 1 else 0
    size, base = first.element_size(), first.untyped_storage().data_ptr()
    if first.dim() != 1 or first.stride() != (1,) or step % size or step < first.nbytes * (len(rows) > 1):
        return None
    for k, row in enumerate(rows):
        there = row.data_ptr() == first.data_ptr() + k * step and row.untyped_storage().data_ptr() == base
        if not there or row.shape != first.shape or row.stride() != (1,) or row.dtype != first.dtype:
            return None
    return first.as_strided((len(rows), len(first)), (step // size or len(first), 1))


def renewed(rows: Tensor, new: Mapping[int, Tensor]) -> Tensor:
    """The clients' rows (N, ...) with `new` ones for some clients; without a copy if these are a matrix of all."""
    if list(new) == list(range(len(rows))):
        whole = rows_of(list(new.values()))
        if whole is not None and whole.dtype == rows.dtype:
            return whole
    out = written_anew(rows, len(new))
    for i, row in new.items():
        out[i] = row
    return out


def written_anew(rows: Tensor, count: int) -> Tensor:
    """A copy of the clients' rows (N, ...), of which `count` are about to be written: if all, only of their shape."""
    out = SHELF.matrix(*rows.shape) if rows.dim() == 2 and rows.dtype == torch.float32 else torch.empty_like(rows)
    return out if count == len(rows) else out.copy_(rows)
