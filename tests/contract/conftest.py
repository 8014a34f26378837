"""Real digits in four groups of permuted labels, for the promises that every method keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fltk import methods, partition
from fltk.config import PartitionConfig, TrainConfig
from fltk.data import load
from fltk.engine.base import Job
from fltk.names import METHODS
from fltk.partition.federation import Federation, build

MakeJob = Callable[..., Job]

# Settings that spare work which no promise depends on.
QUICK: dict[str, dict[str, object]] = {"feddf": {"server_steps": 4}}


def digits(clients: int, groups: int) -> Federation:
    config = PartitionConfig(
        dataset="digits", subset=540, public=60, scheme="permuted-labels", groups=groups, clients=clients, newcomers=0
    )
    dataset = load("digits", None, subset=config.subset)
    return build(dataset, partition.make(dataset, config))


@pytest.fixture(scope="session")
def federation() -> Federation:
    """Eight clients in four groups."""
    return digits(8, 4)


@pytest.fixture(scope="session")
def hermit() -> Federation:
    """A federation of one client."""
    return digits(1, 1)


@pytest.fixture(params=sorted(METHODS))
def name(request: pytest.FixtureRequest) -> str:
    """Every method there is."""
    return str(request.param)


@pytest.fixture
def make_job(federation: Federation) -> MakeJob:
    """A short job of a method on the digits; further arguments are training settings."""

    def make(name: str, data: Federation | None = None, **train: object) -> Job:
        settings = {"model": "mlp", "hidden": "16", "rounds": 2, "lr": 0.1, "eval_every": 100, **train}
        return Job(data or federation, TrainConfig(**settings), methods.create(name, QUICK.get(name, {})), seed=3)

    return make
