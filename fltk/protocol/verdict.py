"""What a defence offers to a method: its verdict on the uploads of a round, and what it leaves in the run's state.

A method sees a defence through `Verdict` alone, and the tensors that begin with PREFIX through the functions here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fltk.memory.products import Gram

PREFIX = "defence."
BLANK = {"trust": 1.0, "rows": torch.nan}  # a defence's records of clients -> what they hold of an unknown one

Mean = Callable[[Sequence[Tensor], Tensor, Sequence[int]], Tensor]  # rows, weights, client ids -> one row


class Terms(Protocol):
    """On which terms a defence judges a run, the same in every round."""

    @property
    def equal(self) -> bool:
        """Whether clients weigh equally in its averages."""

    @property
    def combines(self) -> bool:
        """Whether a rule takes the place of the mean."""

    @property
    def parameters(self) -> int:
        """Columns of the shared part that are no buffers; they come first."""


class Verdict(Protocol):
    """One round under a defence, which has judged the uploads before the method sees them."""

    @property
    def guard(self) -> Terms:
        """The defence of the run."""

    @property
    def trust(self) -> Tensor:
        """How far clients are trusted, (N,) float64 in [0, 1]."""

    @property
    def clipped(self) -> Mapping[int, Tensor]:
        """Rows (P,) of this round that the defence has changed, by client."""

    def remember(self, ids: Sequence[int], rows: Mapping[int, Tensor]) -> None:
        """The last rows of the clients `ids` are this round's; `rows` (P,) are those that others get otherwise."""

    def usable(self, bank: Tensor) -> Tensor | None:
        """Last rows (N, P) as others may use them, from those of the method; None where nothing was clipped."""

    def weigh_map(self, a: Tensor) -> Tensor:
        """Rows of a map (N, N) by trust, each client's own entry exempt."""

    def memory(self, target: str) -> bytes:
        """What the rule remembers of a target, to be compared with that of another."""

    def copy(self, place: str, twin: str) -> None:
        """Give a target the state of one that is computed alike."""

    def average(
        self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], origin: Tensor, target: str, mean: Mean
    ) -> tuple[Tensor, Tensor]:
        """One target's row (P,) and the weights (K,) that entered it; `origin` and zeros without a trusted client."""

    def apply(
        self,
        rows: Sequence[Tensor],
        p: Tensor,
        ids: Sequence[int],
        origin: Tensor,
        target: str,
        mean: Mean,
        parameters: int,
        shared: Gram | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The rule or the mean of rows with a positive weight; weights are final."""


def trust_left(server: Mapping[str, Tensor], n: int) -> Tensor:
    """Trust (n,) float64 in clients whose last rows are still mixed, as the last round left it; 1 without a screen."""
    found = server.get(f"{PREFIX}trust")
    return torch.ones(n, dtype=torch.float64) if found is None else found


def rows_left(server: Mapping[str, Tensor], bank: Tensor) -> Tensor:
    """Last rows (N, P) as others may use them, from those of the method: what a screen has clipped, clipped."""
    kept = server.get(f"{PREFIX}rows")
    return bank if kept is None else torch.where(kept.isnan(), bank, kept)


def grown(server: Mapping[str, Tensor], n: int, total: int) -> dict[str, Tensor]:
    """The defence's tensors of the run's state when the federation grows from n to `total` clients.

    Newcomers begin as everybody did: trusted, and nothing is remembered of them (rows NaN, histories 0).
    """
    out = {}
    for name, tensor in server.items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX)
        if key in BLANK or (key.startswith("screen:") and tensor.shape[:1] == (n,)):
            blank = tensor.new_full((total - n, *tensor.shape[1:]), BLANK.get(key, 0.0))
            tensor = torch.cat([tensor, blank])
        out[name] = tensor
    return out
