"""A method that breaks a promise is told so in one line that names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from toys import job, play

from fltk.errors import FltkError
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State


@dataclass(frozen=True)
class Short(Method):
    def local_update(self, down: Down, client: Any, trainer: Any) -> Upload:
        return Upload(trainer.sgd(down.w, client.train)[:-3])


@dataclass(frozen=True)
class Forgetful(Method):
    def local_update(self, down: Down, client: Any, trainer: Any) -> Upload:
        return trainer.sgd(down.w, client.train)  # type: ignore[return-value]


@dataclass(frozen=True)
class Keeper(Method):
    def local_update(self, down: Down, client: Any, trainer: Any) -> Upload:
        return Upload(trainer.sgd(down.w, client.train), sent={"x": down.w}, own={"diary": down.w})

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        return super().aggregate(state, uploads, server)


@dataclass(frozen=True)
class Gambler(Method):
    def local_update(self, down: Down, client: Any, trainer: Any) -> Upload:
        return Upload(trainer.sgd(down.w, client.train) + 1e-3 * torch.randn(len(down.w)))


@dataclass(frozen=True)
class InPlace(Method):
    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        state.server["w"].add_(1.0)
        return super().aggregate(state, uploads, server)


@dataclass(frozen=True)
class Missing(Method):
    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        return self.next_state(state, uploads, server, {"w": uploads[0].sent["control"]})


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (Short, r"Short.local_update has to return a whole model of shape \(\d+,\).*not \(\d+,\)"),
        (Forgetful, "Forgetful.local_update has to return an Upload, not Tensor"),
        (Keeper, "Keeper.local_update keeps 'diary', which Keeper.init has not made for the clients"),
        (Gambler, "Gambler.local_update drew from torch's global random numbers"),
        (InPlace, "InPlace.aggregate changed state.server.w in place"),
        (Missing, "Missing.aggregate asked for 'control', which the clients have not sent"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(broken: type[Method], found: str) -> None:
    made = replace(job("fedavg"), method=broken())
    with pytest.raises(FltkError, match=found) as error:
        play(made)
    assert "\n" not in str(error.value)
