"""Messages between the driver and its workers: a pickle through a pipe, and its tensors through shared memory.

A message's tensors lie side by side in a room, a piece of memory that both processes have mapped; the pickle names
their places. Who reads them may use them where they are for as long as the room is not given out again, or copy them.
What lies on the driver's shelf already is not written once more: the pickle names its place there.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fltk.errors import FltkError
from fltk.memory.shared import Borrowed, Place, Shelf

SMALL = 2048  # bytes: less travels inside the pickle
ALIGNED = 64
NOWHERE = memoryview(bytearray())  # no room: everything travels in the pickle


class _Pickler(pickle.Pickler):
    """Tensors into a room while it has space, else as numpy arrays; a tensor that occurs twice is written once.

    `reducer_override` is asked for what pickle has no way of its own for, `persistent_id` for every number and string.
    """

    def __init__(self, file: Any, room: memoryview, shelf: Shelf | None) -> None:
        super().__init__(file, protocol=5)
        self._room = room
        self._shelf = shelf
        self._end = 0
        self._places: dict[tuple[Any, ...], tuple[int, torch.dtype, tuple[int, ...]] | None] = {}
        self._arrays: dict[tuple[Any, ...], np.ndarray[Any, Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        shelved = None if self._shelf is None else self._shelf.place(obj)
        if shelved is not None:
            return _shelved, (shelved, obj.dtype, tuple(obj.shape))
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
    def __init__(self, file: Any, room: memoryview, copy: bool, borrowed: Borrowed | None) -> None:
        super().__init__(file)
        self._room = room
        self._copy = copy
        self._borrowed = borrowed
        self._known: dict[Any, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _shelved.__name__) and self._borrowed is not None:
            return self._borrowed.at
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
    raise FltkError(f"internal: shared-memory block {start} is not attached")


def _shelved(place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Stands in a pickle for a tensor on the driver's shelf."""
    raise FltkError(f"a tensor of block {place.block} was read without the shelf")


def pack(message: Any, room: memoryview = NOWHERE, shelf: Shelf | None = None) -> bytes:
    """A message as bytes; its tensors are alive while it is packed, so their addresses identify them.

    shelf: the writer's, if the reader has borrowed it.
    """
    file = io.BytesIO()
    _Pickler(file, room, shelf).dump(message)
    return file.getvalue()


def unpack(data: bytes, room: memoryview = NOWHERE, copy: bool = True, borrowed: Borrowed | None = None) -> Any:
    """The inverse of `pack`, for messages of our own processes. Without `copy` tensors are views into the room.

    borrowed: what the reader has of the writer's shelf.
    """
    return _Unpickler(io.BytesIO(data), room, copy, borrowed).load()


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _at(room: memoryview, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.frombuffer(room, dtype=dtype, count=count, offset=start).view(shape)
