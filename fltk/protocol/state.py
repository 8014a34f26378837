"""The state of a method: all that survives a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class State:
    """All that survives a round, and therefore the checkpoint: tensors only, never changed in place.

    server: what the server holds.  client: one row per client, (N, ...), kept by the client or about it.
    last: (N,) the last round in which a client took part, -1 for never.
    """

    server: Mapping[str, Tensor]
    client: Mapping[str, Tensor]
    last: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Flat names for storage."""
        named = {f"server.{k}": v for k, v in self.server.items()} | {f"client.{k}": v for k, v in self.client.items()}
        return named | {"last": self.last}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> State:
        """The inverse of `tensors`."""

        def group(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        return State(group("server."), group("client."), tensors["last"])


def enlarged(old: Tensor, new: Tensor | None, n: int, total: int) -> Tensor:
    """`old` as the leading block of `new`; of zeros without one, where dimensions of size n become `total`."""
    if new is None:
        new = old.new_zeros([total if size == n else size for size in old.shape])
    if new.shape == old.shape:
        return old
    out = new.clone()
    out[tuple(slice(size) for size in old.shape)] = old
    return out
