"""The workloads by name: what is measured, on what, against what. Nothing heavy is imported here.

Pools are cut so that a client of W1 trains on 100 samples and has 25 for validation and 25 for testing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fltk.config import PartitionConfig, TrainConfig
from fltk.errors import unknown

PLAIN = "plain loop"  # the same work as people write it
UNEVALUATED = "no evaluation"  # the same without evaluation
DATASET = "mnist"
QUICK = 5  # with --quick a workload has a fifth of its clients
PART = " (a fifth of the clients)"


@dataclass(frozen=True)
class Training:
    """Rounds of a method. `against` is PLAIN, UNEVALUATED, or a method on the same data."""

    help: str
    partition: PartitionConfig
    train: TrainConfig
    method: str = "fedavg"
    against: str = PLAIN
    evaluated: bool = False

    def smaller(self) -> Training:
        """A fifth of the clients, each with as many samples as before."""
        return replace(self, help=self.help + PART, partition=_smaller(self.partition))


@dataclass(frozen=True)
class Aggregation:
    """A map of attention over the models that clients have after one round, and the mixed models.

    streamed: models lie in a file and are never in memory as a whole.
    """

    help: str
    partition: PartitionConfig
    train: TrainConfig
    streamed: bool = False

    def smaller(self) -> Aggregation:
        """A fifth of the clients."""
        return replace(self, help=self.help + PART, partition=_smaller(self.partition))


@dataclass(frozen=True)
class Writes:
    """Rounds of per-client numbers, written to a registry of their own and read back."""

    help: str
    clients: int = 1000
    rounds: int = 100

    def smaller(self) -> Writes:
        """A fifth of the clients."""
        return replace(self, help=self.help + PART, clients=self.clients // QUICK)


Workload = Training | Aggregation | Writes


def _smaller(config: PartitionConfig) -> PartitionConfig:
    clients = max(2, config.clients // QUICK)
    return replace(config, clients=clients, subset=config.subset * clients // config.clients)


def _dealt(clients: int, pool: int, scheme: str = "iid", **more: float) -> PartitionConfig:
    """`pool` samples a client on average, of which two thirds are for training."""
    return PartitionConfig(
        dataset=DATASET,
        subset=clients * pool,
        scheme=scheme,
        clients=clients,
        newcomers=0,
        min_size=min(10, pool),
        test_share=1 / 6,
        val_share=0.2,
        **more,  # type: ignore[arg-type]  # alpha alone
    )


W1, W2, W3 = _dealt(100, 150), _dealt(20, 750, "quantity", alpha=0.5), _dealt(20, 75)
MLP, CNN, RESNET = (TrainConfig(model=model, lr=0.005) for model in ("mlp", "cnn", "resnet8"))
MANY = _dealt(10_000, 7)  # as many clients as the data allow: 5 samples each for training

CLIENTS = {
    f"clients-{n}": Training(f"mlp, {n:,} clients x 5 samples", _dealt(n, 7), MLP) for n in (10, 100, 1000, 10_000)
}
PARAMETERS = {
    f"hidden-{h}": Training(
        f"mlp with {h:,} hidden units, 20 clients x 100 samples", _dealt(20, 150), replace(MLP, hidden=str(h))
    )
    for h in (10, 100, 1000, 10_000)
}
CROWD = _dealt(1000, 7)
MEMORY = {
    "memory-cnn": Training("cnn, 1,000 clients x 5 samples", CROWD, CNN),
    "memory-cnn-ditto": Training("the same with a personal model each", CROWD, CNN, "ditto", "fedavg"),
    "memory-cnn-attn": Training("the same with attention", CROWD, CNN, "attn", "fedavg"),
}
OTHERS = ("fedprox", "ditto", "fedper", "scaffold", "attn")
METHODS = {f"w1-{name}": Training(f"W1 mlp with {name}, against fedavg", W1, MLP, name, "fedavg") for name in OTHERS}
CONVOLVED = {
    f"w1-cnn-{name}": Training(f"W1 cnn with {name}, against fedavg", W1, CNN, name, "fedavg") for name in OTHERS
}
WORKLOADS: dict[str, Workload] = {
    "w1-mlp": Training("W1: fedavg, mlp, 100 clients x 100 samples", W1, MLP),
    "w1-cnn": Training("W1 with the cnn", W1, CNN),
    "w1-mlp-eval": Training("W1 mlp, all clients evaluated every round", W1, MLP, "fedavg", UNEVALUATED, True),
    "w1-cnn-eval": Training("W1 cnn, all clients evaluated every round", W1, CNN, "fedavg", UNEVALUATED, True),
    **METHODS,
    "w2": Training("W2: mlp, 20 clients of uneven size (Dirichlet quantities)", W2, MLP),
    "w3": Training("W3: resnet8, 20 clients x 50 samples", W3, RESNET),
    "attention-100": Aggregation("attention over 100 clients, cnn", W1, CNN),
    "attention-1000": Aggregation("attention over 1,000 clients, mlp", CROWD, MLP),
    "attention-10000": Aggregation(
        "attention over 10,000 clients, small mlp, streamed", MANY, replace(MLP, hidden="12"), True
    ),
    "registry": Writes("1,000 clients x 100 rounds x 4 numbers, written and read"),
    **CONVOLVED,
    **CLIENTS,
    **PARAMETERS,
    **MEMORY,
}
GROUPS: dict[str, tuple[str, ...]] = {
    "w1": ("w1-mlp", "w1-cnn"),
    "evaluation": ("w1-mlp-eval", "w1-cnn-eval"),
    "methods": tuple(METHODS),
    "methods-cnn": tuple(CONVOLVED),
    "attention": ("attention-100", "attention-1000", "attention-10000"),
    "clients": tuple(CLIENTS),
    "parameters": tuple(PARAMETERS),
    "memory": tuple(MEMORY),
}
APART = {**CONVOLVED, **CLIENTS, **PARAMETERS, **MEMORY}  # long or large
ALL = tuple(name for name in WORKLOADS if name not in APART)
FEW = ("w1-mlp", "w1-cnn", "w1-mlp-eval", "w3", "attention-100", "registry")  # what --quick takes


def choose(names: Iterable[str], quick: bool) -> dict[str, Workload]:
    """The workloads that names or groups, separated by commas, mean; without any the usual ones."""
    given = [name.strip() for text in names for name in text.split(",") if name.strip()]
    known = {**GROUPS, **{name: (name,) for name in WORKLOADS}, "all": ALL}
    for name in given:
        if name not in known:
            raise unknown("workload", name, known, "--workload")
    chosen = [name for text in given for name in known[text]] or (FEW if quick else ALL)
    return {name: WORKLOADS[name].smaller() if quick else WORKLOADS[name] for name in chosen}
