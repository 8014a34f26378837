"""Everything that decides a run's numbers, as frozen dataclasses with the standard library alone.

Each field carries its help text once; the command line builds its options from these fields and the registry stores
them, resolved, as canonical JSON. Engine and device are absent on purpose: they change no bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from fltk import catalogue, own_data
from fltk.errors import UsageError, unknown
from fltk.fields import at_least, at_most, option, positive, whole
from fltk.hyper import FLOAT32, MANY
from fltk.names import (
    ATTACKS,
    DATASETS,
    DEFENCES,
    IMPORTED,
    MODELS,
    OWN,
    SCHEMES,
    SERVER_OPTIMISERS,
    canonical,
)

SEEDS = 2**63  # the registry's integers are smaller
UNITS = 10_000_000  # in one layer: already two such layers fit into no memory
STEPS = ("auto", "fast", "autograd", "vmap")
OWN_STEPS = ("auto", "vote", "none")
CLIENT_OPTIMISERS = ("sgd", "adam", "adamw")
MAP_CONTROLS = ("shuffle", "uniform", "identity", "random")


def _whole(field_name: str, value: int, low: int) -> None:
    """A count from `low` to MANY, by the name of its field."""
    name = field_name.replace("_", "-")
    at_least(name, value, low)
    at_most(name, value, MANY)


def _seed(name: str, value: int, low: int) -> None:
    if not low <= value < SEEDS:
        raise UsageError(f"--{name} must lie in [{low}, 2^63), not {value}")


def _share(name: str, value: float, *, open_top: bool) -> None:
    if not (0 <= value < 1 or (value == 1 and not open_top)):
        raise UsageError(f"--{name} must lie in [0, 1{')' if open_top else ']'}, not {value}")


def _choice(config: object, name: str, known: tuple[str, ...]) -> None:
    """The field takes one of these names, in whatever case it was written; UsageError for another one."""
    field_name = name.replace("-", "_")
    given = getattr(config, field_name)
    value = canonical(given, known)
    if value not in known:
        raise unknown(name.replace("-", " "), value, known, f"--{name}")
    object.__setattr__(config, field_name, value)  # a frozen dataclass, which is still being made


def _named(config: object, name: str, kind: str, also: tuple[str, ...] = ()) -> None:
    """The field takes a name of the catalogue, in whatever case it was written; UsageError for another one."""
    value = getattr(config, name)
    if value not in also:
        object.__setattr__(config, name, catalogue.spelled(kind, value))


@dataclass(frozen=True)
class PartitionConfig:
    """Which data, and who holds what."""

    dataset: str = option(
        "digits",
        "data set (fltk data lists them), a file (csv, parquet, npz, safetensors), a folder of images, or FILE.py:NAME",
        choices=DATASETS,
        kind="dataset",
    )
    subset: int = option(0, "use a stratified, seeded part of this many samples (0: all)")
    scheme: str = option("dirichlet", "partitioning scheme, also FILE.py:NAME", choices=SCHEMES, kind="scheme")
    alpha: float = option(
        0.1, "Dirichlet concentration: smaller is more heterogeneous (dirichlet*, extended-dirichlet, quantity)"
    )
    classes_per_client: int = option(2, "classes a client holds (pathological, extended-dirichlet)")
    shards_per_client: int = option(2, "shards a client holds (shards)")
    groups: int = option(4, "number of known groups (rotated, permuted-labels)")
    min_size: int = option(
        10, "smallest number of samples a client may hold (dirichlet-capped asks for more: one test batch)"
    )
    balance: bool = option(True, "Dirichlet schemes: cap each client at n/N samples (balanced sizes)")
    clients: int = option(20, "number of training clients")
    newcomers: int = option(4, "held-out clients (for join-new-client)")
    test_split: str = option(
        "local",
        "test data: a part of each client's pool (local), the official test set partitioned in the same class "
        "proportions (match), or the whole official test set for every client (global)",
        choices=("local", "match", "global"),
    )
    test_share: float = option(0.25, "share of a client's pool held out for testing (test split local)")
    val_share: float = option(0.2, "share of a client's training part held out for validation")
    partition_seed: int = option(0, "seed of the partition")
    public: int = option(0, "samples that no client holds and that the server has in public (feddf, fedmd)", later=True)
    label: str = option("", "own table: the column of class labels", later=True, sparse=True)
    client: str = option("", "own table: the column of natural clients (scheme natural)", later=True, sparse=True)
    group: str = option("", "own table: the column of known groups of clients", later=True, sparse=True)
    from_pfllib: str = option("", "import data and clients from a folder written by PFLlib (train/*.npz, test/*.npz)")

    def __post_init__(self) -> None:
        imported = (IMPORTED,) if self.from_pfllib else ()
        if not (self.dataset.startswith(OWN) or own_data.is_data(self.dataset)):
            _named(self, "dataset", "dataset", imported)
        _named(self, "scheme", "scheme", imported)
        _choice(self, "test-split", ("local", "match", "global"))
        positive("alpha", self.alpha)
        for name in ("classes_per_client", "shards_per_client", "groups", "min_size", "clients"):
            _whole(name, getattr(self, name), 1)
        for name in ("subset", "newcomers", "public"):
            _whole(name, getattr(self, name), 0)
        _seed("partition-seed", self.partition_seed, 0)
        _share("test-share", self.test_share, open_top=True)
        _share("val-share", self.val_share, open_top=True)


# The schemes that read a setting of the partition; the others are read by all.
READ_BY = {
    "alpha": ("dirichlet", "dirichlet-capped", "extended-dirichlet", "quantity"),
    "balance": ("dirichlet", "extended-dirichlet"),
    "classes_per_client": ("pathological", "extended-dirichlet"),
    "shards_per_client": ("shards",),
    "groups": ("rotated", "permuted-labels"),
}


# What a folder of another program settles, so that it cannot be asked for beside it.
IMPORT_SETTLES = frozenset(
    {*READ_BY, "public", "dataset", "subset", "scheme", "min_size", "clients", "test_split", "test_share"}
)


def ignored(scheme: str) -> frozenset[str]:
    """The settings of a partition that its scheme does not read, so that they tell no two partitions apart."""
    return frozenset(name for name, schemes in READ_BY.items() if scheme not in schemes)


@dataclass(frozen=True)
class TrainConfig:
    """How the clients train, shared by all methods so that comparisons have equal budgets."""

    model: str = option(
        "",
        "network (empty: mlp for images and tables, cnn1d for time series, lstm for text), also FILE.py:NAME",
        choices=("", *MODELS),
        kind="model",
    )
    hidden: str = option("100", "mlp, lstm, gru: hidden layer sizes, separated by commas (mlp, none: a linear model)")
    rounds: int = option(30, "communication rounds")
    participation: float = option(1.0, "share of clients sampled in each round")
    epochs: float = option(1.0, "local epochs per round; fractions allowed")
    steps: int = option(0, "local steps per round, instead of epochs (0: use epochs)")
    batch_size: int = option(10, "local batch size")
    lr: float = option(0.05, "local learning rate")
    lr_schedule: str = option(
        "constant", "learning rate over the rounds", choices=("constant", "cosine", "exponential")
    )
    lr_decay: float = option(0.99, "factor per round of the exponential schedule")
    momentum: float = option(0.0, "momentum of local SGD, reset in each round")
    weight_decay: float = option(0.0, "weight decay of local SGD")
    drop_last: bool = option(False, "drop the last incomplete batch of an epoch")
    agg_weights: str = option("samples", "weight of a client in averages", choices=("samples", "uniform"))
    eval_every: int = option(1, "evaluate all clients every N rounds (the last round always)")
    step: str = option(
        "auto",
        "how local SGD is computed: hand-written for several small models at once (fast), by autograd (autograd), by "
        "torch.func.vmap over many models (vmap), or chosen by model and device (auto); rounding differs",
        choices=STEPS,
        later=True,
    )
    head_mix: str = option(
        "rows",
        "average the output layer like the rest (rows), or each class's row over the clients that have seen the class "
        "(classes); a private head stays as it is",
        choices=("rows", "classes"),
        later=True,
    )

    own_step: str = option(
        "auto",
        "what clients do with their personal model before they use it: the federation votes, on validation data, on "
        "tuning the output layer and on the label prior (vote), or nothing beyond the method's own (none); auto: vote "
        "for attn, none for other methods",
        choices=OWN_STEPS,
        later=True,
    )

    client_opt: str = option(
        "sgd",
        "optimiser of local training, with fresh moments in every training",
        choices=CLIENT_OPTIMISERS,
        later=True,
    )
    adam_beta1: float = option(0.9, "--client-opt adam, adamw: decay of the first moment", later=True)
    adam_beta2: float = option(0.999, "--client-opt adam, adamw: decay of the second moment", later=True)
    adam_eps: float = option(1e-8, "--client-opt adam, adamw: added to the root of the second moment", later=True)
    clip_grad: float = option(0.0, "largest norm of the gradient of a local step (0: no limit)", later=True)
    augment: str = option("", "augmentation of training batches: mixup:ALPHA, such as mixup:0.2", later=True)
    map_control: str = option(
        "",
        "put another map in the place of the method's own, to see what it is worth: its weights given to other clients "
        "(shuffle), FedAvg's (uniform), own models (identity), or drawn (random)",
        choices=("", *MAP_CONTROLS),
        later=True,
    )
    models: str = option(
        "",
        "networks by client, such as mlp:10,cnn:10 for ten clients with each, in the order of the clients; for methods "
        "that send no models",
        later=True,
    )
    server_opt: str = option(
        "",
        "what the server does with an average: momentum (avgm), or an adaptive rule (adagrad, adam, yogi); empty: the "
        "average is the next model",
        choices=("", *SERVER_OPTIMISERS),
        later=True,
    )
    server_lr: float = option(0.0, "learning rate of --server-opt (0: 1 for avgm, 0.01 for others)", later=True)
    server_beta1: float = option(-1.0, "--server-opt: decay of the first moment (-1: 0.9; 0 for adagrad)", later=True)
    server_beta2: float = option(0.99, "--server-opt adam, yogi: decay of the second moment", later=True)
    server_tau: float = option(1e-3, "--server-opt adagrad, adam, yogi: degree of adaptivity tau", later=True)
    channel: str = option(
        "",
        "filters for the updates that clients send, in order: grad-drop:SHARE sends that share of the entries, the "
        "largest; qsgd:BITS rounds entries at random to so many bits; such as grad-drop:0.02,qsgd:8",
        later=True,
    )

    def __post_init__(self) -> None:
        _choice(self, "server-opt", ("", *SERVER_OPTIMISERS))
        _choice(self, "client-opt", CLIENT_OPTIMISERS)
        _choice(self, "map-control", ("", *MAP_CONTROLS))
        _check_client_optimiser(self)
        _check_server_optimiser(self)
        _named(self, "model", "model", ("",))
        _choice(self, "own-step", OWN_STEPS)
        _choice(self, "lr-schedule", ("constant", "cosine", "exponential"))
        _choice(self, "agg-weights", ("samples", "uniform"))
        _choice(self, "head-mix", ("rows", "classes"))
        _choice(self, "step", STEPS)
        positive("lr", self.lr)
        positive("lr-decay", self.lr_decay)
        for name in ("rounds", "batch_size", "eval_every"):
            _whole(name, getattr(self, name), 1)
        _whole("steps", self.steps, 0)
        if self.steps == 0:
            positive("epochs", self.epochs, MANY)
        if not 0 < self.participation <= 1:
            raise UsageError(f"--participation must lie in (0, 1], not {self.participation}")
        _share("momentum", self.momentum, open_top=True)
        at_least("weight-decay", self.weight_decay, 0)
        at_most("weight-decay", self.weight_decay, FLOAT32)
        self.hidden_sizes()

    @property
    def plain_sgd(self) -> bool:
        """Whether a local step is the gradient times the learning rate and nothing else."""
        extras = self.momentum or self.weight_decay or self.clip_grad
        return self.client_opt == "sgd" and not extras

    @property
    def training(self) -> TrainConfig:
        """The settings that decide which models come out of training: all but how these are used and looked at."""
        return replace(self, eval_every=1, own_step="auto")

    def network_names(self, clients: int) -> tuple[str, ...]:
        """With `--models` the network of every client, else none; UsageError unless it names as many as there are."""
        names: list[str] = []
        for word in self.models.split(",") if self.models else ():
            name, _, text = word.strip().partition(":")
            name, number = canonical(name, MODELS), whole(text)
            if name not in MODELS:
                raise unknown("model", name, MODELS, "--models")
            if not number:
                raise UsageError(f"--models takes networks with client counts, such as mlp:10,cnn:10, not {word!r}")
            names += [name] * number
        if names and len(names) != clients:
            raise UsageError(f"--models names networks of {len(names)} clients, but there are {clients}")
        return tuple(names)

    def hidden_sizes(self) -> tuple[int, ...]:
        """The mlp's hidden layers, e.g. (100,); softmax regression has none, which an empty text says as well."""
        if self.hidden.strip().lower() == "none":
            return ()
        try:
            sizes = tuple(int(part) for part in self.hidden.split(",") if part.strip())
        except ValueError:
            raise UsageError(
                f"--hidden takes sizes separated by commas, such as 200,100, not {self.hidden!r}"
            ) from None
        if any(size < 1 for size in sizes):
            raise UsageError(f"--hidden: every layer needs at least one unit, not {self.hidden!r}")
        if any(size > UNITS for size in sizes):
            raise UsageError(f"--hidden: a layer has at most {UNITS} units, not as many as in {self.hidden!r}")
        return sizes


def _check_client_optimiser(config: TrainConfig) -> None:
    """Refuse constants of the clients' optimiser that make no sense, and such as nothing reads."""
    default = TrainConfig.__dataclass_fields__
    if config.client_opt == "sgd":
        for name in ("adam_beta1", "adam_beta2", "adam_eps"):
            if getattr(config, name) != default[name].default:
                raise UsageError(f"--{name.replace('_', '-')} needs --client-opt adam or adamw")
    elif config.momentum:
        raise UsageError(f"--momentum is for --client-opt sgd, not for {config.client_opt}: use --adam-beta1")
    _share("adam-beta1", config.adam_beta1, open_top=True)
    _share("adam-beta2", config.adam_beta2, open_top=True)
    positive("adam-eps", config.adam_eps)
    if config.clip_grad:
        positive("clip-grad", config.clip_grad)


def _check_server_optimiser(config: TrainConfig) -> None:
    """Refuse constants of the server optimiser that make no sense, and such as nothing reads."""
    kind = config.server_opt
    default = TrainConfig.__dataclass_fields__
    if not kind:
        for name in ("server_lr", "server_beta1", "server_beta2", "server_tau"):
            if getattr(config, name) != default[name].default:
                raise UsageError(f"--{name.replace('_', '-')} needs --server-opt {'|'.join(SERVER_OPTIMISERS)}")
    if config.server_lr:
        positive("server-lr", config.server_lr)
    if config.server_beta1 != -1:
        _share("server-beta1", config.server_beta1, open_top=True)
    _share("server-beta2", config.server_beta2, open_top=True)
    positive("server-tau", config.server_tau)


@dataclass(frozen=True)
class JoinConfig:
    """How newcomers join a run that is there, and what they do afterwards."""

    finetune: str = option("head", "what a newcomer fine-tunes after joining", choices=("head", "all", "none"))
    epochs: int = option(5, "epochs of fine-tuning, and of the comparison with training from scratch")
    lr: float = option(0.0, "learning rate of fine-tuning (0: the run's)")
    shots: str = option("all", "training samples per class that a newcomer uses: a number or all, several with commas")
    share: float = option(1.0, "share of the partition's newcomers that join")
    at_round: int = option(0, "join after this round and train with the others from then on (0: after the last round)")

    def __post_init__(self) -> None:
        _choice(self, "finetune", ("head", "all", "none"))
        _whole("epochs", self.epochs, 1)
        if self.lr:
            positive("lr", self.lr)
        if not 0 < self.share <= 1:
            raise UsageError(f"--share must lie in (0, 1], not {self.share}")
        _whole("at_round", self.at_round, 0)
        if self.at_round and len(self.shot_counts()) > 1:
            raise UsageError("--at-round takes one number of --shots: with several there would be several runs")
        self.shot_counts()

    def shot_counts(self) -> tuple[int, ...]:
        """Samples per class, ascending; 0 means all of them and stands last."""
        words = [word.strip() for word in self.shots.split(",")]
        few: set[int] = set()
        for word in words:
            number = whole(word)
            if number:
                few.add(number)
            elif word != "all":
                raise UsageError(f"--shots takes whole numbers from 1 or all, separated by commas, not {self.shots!r}")
        return (*sorted(few), 0) if "all" in words else tuple(sorted(few))


@dataclass(frozen=True)
class AttackConfig:
    """Who attacks, when and with what; an empty kind is no attack. Rounds are counted from 1."""

    kind: str = option("", "what malicious clients do (fltk attacks lists it)", choices=("", *ATTACKS), kind="attack")
    malicious: float = option(0.2, "share of all clients that are malicious")
    attackers: str = option("", "malicious clients by number, such as 3,7, in place of a share")
    attack_start: int = option(1, "first attacked round")
    attack_stop: int = option(0, "first round that is no longer attacked (0: to the end)")
    attack_size: float = option(1.0, "factor on the number of samples that malicious clients claim")
    attack_seed: int = option(-1, "seed of who is malicious and of the attack's random numbers (-1: the run's)")

    def __post_init__(self) -> None:
        _named(self, "kind", "attack", ("",))
        _share("malicious", self.malicious, open_top=True)
        _whole("attack_start", self.attack_start, 1)
        _whole("attack_stop", self.attack_stop, 0)
        positive("attack-size", self.attack_size, MANY)
        _seed("attack-seed", self.attack_seed, -1)
        if self.attack_stop and self.attack_stop <= self.attack_start:
            raise UsageError(
                f"--attack-stop must be later than --attack-start {self.attack_start}, not {self.attack_stop}"
            )
        self.ids()

    def ids(self) -> tuple[int, ...]:
        """The malicious clients that were named, ascending."""
        found: set[int] = set()
        for word in self.attackers.split(","):
            number = whole(word)
            if number is not None:
                found.add(number)
            elif word.strip():
                raise UsageError(
                    f"--attackers takes client numbers separated by commas, such as 3,7, not {self.attackers!r}"
                )
        return tuple(sorted(found))


@dataclass(frozen=True)
class DefenceConfig:
    """What the server does about malicious clients; an empty name is plain averaging."""

    defence: str = option(
        "", "robust rule of the server (fltk defences lists it)", choices=("", *DEFENCES), kind="defence"
    )
    defence_fraction: float = option(
        -1.0,
        "share of malicious clients that the defence assumes (-1: the true one, which no server knows; 0.2 without an "
        "attack)",
    )
    defence_weights: str = option(
        "",
        "averaging weights under the defence: the method's, equal ones, or (empty) those of the rule's paper",
        choices=("", "method", "uniform"),
    )
    root_samples: int = option(100, "samples of the server's clean set, drawn from the newcomers' data (fltrust)")

    def __post_init__(self) -> None:
        _named(self, "defence", "defence", ("",))
        _choice(self, "defence-weights", ("", "method", "uniform"))
        _whole("root_samples", self.root_samples, 1)
        if self.defence_fraction != -1:
            _share("defence-fraction", self.defence_fraction, open_top=True)


@dataclass(frozen=True)
class RunConfig:
    """One run: partition, training, method with its hyper-parameters, and the root seed of every random stream.

    What attackers and defence are enters the stored form, and the hash, only where there are any.
    """

    partition: PartitionConfig = PartitionConfig()
    train: TrainConfig = TrainConfig()
    method: str = "attn"
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    attack: AttackConfig = AttackConfig()
    attack_params: Mapping[str, Any] = field(default_factory=dict)
    defence: DefenceConfig = DefenceConfig()
    defence_params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _named(self, "method", "method")
        _seed("seed", self.seed, 0)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data; the form that is stored and hashed."""
        return {
            "partition": as_stored(self.partition),
            "train": asdict(self.train),
            "method": self.method,
            "params": dict(self.params),
            "seed": self.seed,
            **({"attack": asdict(self.attack), "attack_params": dict(self.attack_params)} if self.attack.kind else {}),
            **(
                {"defence": asdict(self.defence), "defence_params": dict(self.defence_params)}
                if self.defence.defence
                else {}
            ),
        }

    @property
    def clean(self) -> RunConfig:
        """The same without attackers and defence."""
        return RunConfig(self.partition, self.train, self.method, self.params, self.seed)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_dict`, for stored data. Unknown keys, and code without its hash, are refused by name."""
        made = RunConfig(
            partition=build(PartitionConfig, data.get("partition", {})),
            train=build(TrainConfig, data.get("train", {})),
            method=data.get("method", "attn"),
            params=dict(data.get("params", {})),
            seed=int(data.get("seed", 0)),
            attack=build(AttackConfig, data.get("attack", {})),
            attack_params=dict(data.get("attack_params", {})),
            defence=build(DefenceConfig, data.get("defence", {})),
            defence_params=dict(data.get("defence_params", {})),
        )
        for name in made.names().values():
            catalogue.require_hash(name)
        return made

    def names(self) -> dict[str, str]:
        """By kind of the catalogue: the names in this configuration, without empty ones."""
        found = {
            "method": self.method,
            "model": self.train.model,
            "dataset": self.partition.dataset,
            "scheme": self.partition.scheme,
            "attack": self.attack.kind,
            "defence": self.defence.defence,
        }
        return {kind: name for kind, name in found.items() if name}

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal for equal experiments."""
        hashed = {**self.to_dict(), "partition": _hashed(self.partition), "train": _hashed(self.train)}
        return hashlib.sha256(canonical_json(hashed).encode()).hexdigest()


def _hashed(config: Any) -> dict[str, Any]:
    """The settings that enter the hash: all but those that came later and stand at their default."""
    late = {f.name for f in fields(config) if f.metadata.get("later") and getattr(config, f.name) == f.default}
    return {name: value for name, value in asdict(config).items() if name not in late}


def as_stored(config: Any) -> dict[str, Any]:
    """A configuration as plain data, without sparse settings at their default."""
    left = {f.name for f in fields(config) if f.metadata.get("sparse") and getattr(config, f.name) == f.default}
    return {name: value for name, value in asdict(config).items() if name not in left}


def stored_partition(values: Mapping[str, Any]) -> PartitionConfig:
    """The configuration of a stored partition; refuses code without its hash, which fltk never stores."""
    made: PartitionConfig = build(PartitionConfig, values)
    catalogue.require_hash(made.dataset)
    catalogue.require_hash(made.scheme)
    return made


def build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a config class from plain data; refuses what the class does not know, by name."""
    known = {f.name for f in fields(cls)}
    for key in values:
        if key not in known:
            raise unknown("setting", key, known, cls.__name__)
    return cls(**values)


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal data give equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
