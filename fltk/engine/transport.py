"""Messages between the driver and its workers: a pickle through a pipe, and its tensors through shared memory.

A message's tensors lie side by side in a room, a piece of memory that both processes have mapped; the pickle names
their places. Who reads them may use them where they are for as long as the room is not given out again, or copy them.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import tempfile
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fltk.errors import FltkError

SMALL = 2048  # bytes: less travels inside the pickle
ALIGNED = 64
NOWHERE = memoryview(bytearray())  # no room: everything travels in the pickle


class SharedFile:
    """A file without a name that a process and one that it starts can both map."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @staticmethod
    def of(size: int) -> SharedFile | None:
        """A file of so many bytes; None where there is no room for it, or no such thing."""
        for folder in ("/dev/shm", tempfile.gettempdir()) if hasattr(os, "statvfs") else ():
            with contextlib.suppress(OSError):
                free = os.statvfs(folder)
                if free.f_bavail * free.f_frsize < 2 * size:
                    continue
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.truncate(size)
                    return SharedFile(os.dup(file.fileno()))
        return None

    def rooms(self, count: int) -> list[memoryview]:
        """The file mapped, as `count` rooms of equal size; it is closed by that."""
        size = os.fstat(self._descriptor).st_size // count
        whole = memoryview(mmap.mmap(self._descriptor, count * size))
        os.close(self._descriptor)
        return [whole[k * size : (k + 1) * size] for k in range(count)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor),)


def _received(descriptor: Any) -> SharedFile:
    return SharedFile(descriptor.detach())


def rooms(file: SharedFile | None, count: int) -> list[memoryview]:
    """`count` rooms in a shared file; without a file there is nowhere."""
    return [NOWHERE] * count if file is None else file.rooms(count)


class _Pickler(pickle.Pickler):
    """Tensors into a room while it has space, else as numpy arrays; a tensor that occurs twice is written once.

    `reducer_override` is asked for what pickle has no way of its own for, `persistent_id` for every number and string.
    """

    def __init__(self, file: Any, room: memoryview) -> None:
        super().__init__(file, protocol=5)
        self._room = room
        self._end = 0
        self._places: dict[tuple[Any, ...], tuple[int, torch.dtype, tuple[int, ...]] | None] = {}
        self._arrays: dict[tuple[Any, ...], np.ndarray[Any, Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        key = _identity(obj)
        if obj.nbytes >= SMALL:
            if key not in self._places:
                self._places[key] = self._place(obj)
            place = self._places[key]
            if place is not None:
                return _placed, place
        return torch.from_numpy, (self._arrays.setdefault(key, obj.detach().contiguous().numpy()),)

    def _place(self, tensor: Tensor) -> tuple[int, torch.dtype, tuple[int, ...]] | None:
        start = -(-self._end // ALIGNED) * ALIGNED
        if start + tensor.nbytes > len(self._room):
            return None
        place = (start, tensor.dtype, tuple(tensor.shape))
        _at(self._room, *place).copy_(tensor.detach())
        self._end = start + tensor.nbytes
        return place


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, room: memoryview, copy: bool) -> None:
        super().__init__(file)
        self._room = room
        self._copy = copy
        self._known: dict[Any, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        return self._found if (module, name) == (__name__, _placed.__name__) else super().find_class(module, name)

    def _found(self, *place: Any) -> Tensor:
        found = _at(self._room, *place)
        if not self._copy:
            return found
        if place not in self._known:
            self._known[place] = found.clone()
        return self._known[place]


def _placed(start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Stands in a pickle for the tensor at a place in the reader's room."""
    raise FltkError(f"a tensor at byte {start} of a room was read without the room")


def pack(message: Any, room: memoryview = NOWHERE) -> bytes:
    """A message as bytes; its tensors are alive while it is packed, so their addresses identify them."""
    file = io.BytesIO()
    _Pickler(file, room).dump(message)
    return file.getvalue()


def unpack(data: bytes, room: memoryview = NOWHERE, copy: bool = True) -> Any:
    """The inverse of `pack`, for messages of our own workers. Without `copy` tensors are views into the room."""
    return _Unpickler(io.BytesIO(data), room, copy).load()


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _at(room: memoryview, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.frombuffer(room, dtype=dtype, count=count, offset=start).view(shape)
