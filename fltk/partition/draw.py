"""From a configuration to a partition: pick the scheme, deal, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fltk import catalogue
from fltk.config import PartitionConfig
from fltk.data.dataset import Dataset, Ints, stream
from fltk.data.own import named
from fltk.errors import UsageError
from fltk.partition import schemes, split
from fltk.partition.record import Partition, Scaling, create
from fltk.partition.schemes import Deal

Rng = np.random.Generator
VAL, TEST = 1, 2  # in `Dataset.split`


def make(dataset: Dataset, config: PartitionConfig) -> Partition:
    """The partition that `config` describes; equal arguments give equal partitions, to the bit.

    The partition's configuration names the data set as what it is, whatever `config` calls it.

    Each purpose (scheme, test cut, validation cut, label permutations) has its own random stream, and each
    client its own for the cuts. Raises UsageError, naming the option, when the data do not allow what is
    asked for.
    """
    config = replace(config, dataset=named(dataset), scheme=catalogue.pinned("scheme", config.scheme))
    _check(dataset, config)
    try:
        return _made(dataset, config)
    except schemes.TooFew as error:
        partly = 0 < config.subset == len(dataset)  # else all samples are in use
        raise UsageError(f"{error}, or raise --subset" if partly else str(error)) from None


def _made(dataset: Dataset, config: PartitionConfig) -> Partition:
    pool = np.arange(len(dataset), dtype=np.int64)
    if config.test_split != "local":
        pool = np.flatnonzero(~_official(dataset, config)).astype(np.int64)
    pool, public = _public(dataset, pool, config)
    if config.clients + config.newcomers > len(pool):
        raise schemes.TooFew(
            f"--clients {config.clients} and --newcomers {config.newcomers}: {len(pool)} samples are too few; "
            f"lower one of them"
        )
    group, transform = _groups(dataset, config)
    if config.scheme == "natural":
        parts, group = _natural(dataset, pool, config)
        dealt = Deal(parts)
    else:
        dealt = _deal(dataset.y[pool], config, stream(config.partition_seed, "partition/scheme"))
        dealt = Deal([pool[part] for part in dealt.parts], dealt.attempts)
    if dataset.group is not None and config.scheme == "natural":
        group = _known_groups(dataset, dealt.parts)
    train, test = _cut_test(dataset, dealt.parts, config)
    train, val = _cut_val(dataset, train, config)
    return create(
        config,
        dataset.fingerprint,
        (train, val, test),
        group=group,
        transform=transform,
        attempts=dealt.attempts,
        n_newcomers=config.newcomers,
        public=public,
        scaling=_scaling(dataset, train[: config.clients]) if dataset.raw else None,
    )


def _public(dataset: Dataset, pool: Ints, config: PartitionConfig) -> tuple[Ints, Ints | None]:
    """The pool without the public samples, and these, both ascending; drawn before any client is dealt anything."""
    if not config.public:
        return pool, None
    if dataset.session is not None:
        raise UsageError(f"--public: windows of {dataset.name} overlap and would leak; leave it out")
    if config.public >= len(pool):
        raise schemes.TooFew(f"--public {config.public}: there are {len(pool)} samples; lower it")
    order = stream(config.partition_seed, "partition/public").permutation(len(pool))
    chosen = np.sort(order[: config.public])
    left = np.setdiff1d(np.arange(len(pool)), chosen)
    return pool[left], pool[chosen]


def _scaling(dataset: Dataset, train: Sequence[Ints]) -> Scaling:
    """Mean and deviation over the training samples of the clients, not of newcomers; computed in float64."""
    samples = dataset.x[np.sort(np.concatenate(train))].astype(np.float64)
    axes = tuple(axis for axis in range(samples.ndim) if axis != 1)
    deviation = samples.std(axis=axes)
    deviation[deviation == 0] = 1  # a constant feature stays 0
    return Scaling(samples.mean(axis=axes).astype(np.float32), deviation.astype(np.float32))


def _known_groups(dataset: Dataset, parts: Sequence[Ints]) -> Ints:
    """(N_all,) the group of each client, in which all its samples have to be."""
    assert dataset.group is not None
    groups = [np.unique(dataset.group[part]) for part in parts]
    for client, found in enumerate(groups):
        if len(found) != 1:
            raise UsageError(f"--group: samples of client {client} lie in {len(found)} groups; a client has one")
    return np.concatenate(groups).astype(np.int64)


def _check(dataset: Dataset, config: PartitionConfig) -> None:
    if dataset.session is not None and config.scheme != "natural":
        raise UsageError(
            f"--scheme {config.scheme}: windows of {dataset.name} overlap and would leak between clients; "
            f"use --scheme natural"
        )
    if config.test_split != "local":
        _official(dataset, config)


def _official(dataset: Dataset, config: PartitionConfig) -> np.typing.NDArray[np.bool_]:
    """(n,) membership of the official test set, which has to exist."""
    if dataset.is_test is None or dataset.is_test.all() or not dataset.is_test.any():
        raise UsageError(f"--test-split {config.test_split}: {dataset.name} has no official test set; use local")
    return dataset.is_test


def _deal(labels: Ints, config: PartitionConfig, rng: Rng) -> Deal:
    n, least = config.clients + config.newcomers, config.min_size
    match config.scheme:
        case "dirichlet":
            return schemes.dirichlet(labels, n, rng, alpha=config.alpha, min_size=least, balance=config.balance)
        case "dirichlet-capped":
            return schemes.dirichlet_capped(
                labels, n, rng, alpha=config.alpha, min_size=least, test_share=config.test_share
            )
        case "extended-dirichlet":
            return schemes.extended_dirichlet(
                labels,
                n,
                rng,
                classes_per_client=config.classes_per_client,
                alpha=config.alpha,
                min_size=least,
                balance=config.balance,
            )
        case "pathological":
            k = config.classes_per_client
            return schemes.pathological(labels, n, rng, classes_per_client=k, min_size=least)
        case "shards":
            s = config.shards_per_client
            return schemes.shards(labels, n, rng, shards_per_client=s, min_size=least)
        case "quantity":
            return schemes.quantity(labels, n, rng, alpha=config.alpha, min_size=least)
    if catalogue.split(config.scheme)[1]:
        return Deal(_own_parts(labels, n, rng, config))
    return schemes.iid(labels, n, rng, min_size=least)  # iid, rotated, permuted-labels


def _own_parts(labels: Ints, n: int, rng: Rng, config: PartitionConfig) -> list[Ints]:
    """The parts of a scheme of the user's own: NAME(labels, n, rng) gives n lists of positions in `labels`."""
    shown = catalogue.split(config.scheme)[0]
    dealt = catalogue.find("scheme", config.scheme)(labels.copy(), n, rng)
    parts = [np.unique(np.asarray(part, np.int64)) for part in dealt]
    together = np.concatenate(parts) if parts else labels[:0]
    if len(parts) != n or len(np.unique(together)) != len(together):
        raise UsageError(f"--scheme {shown}: it must give {n} lists of positions without a position in two of them")
    if len(together) and not 0 <= together.min() <= together.max() < len(labels):
        raise UsageError(f"--scheme {shown}: positions must lie in 0..{len(labels) - 1}")
    smallest = min(len(part) for part in parts)
    if smallest < config.min_size:
        raise schemes.TooFew(f"--scheme {shown}: a client has {smallest} samples; lower --min-size or --clients")
    return parts


def _natural(dataset: Dataset, pool: Ints, config: PartitionConfig) -> tuple[list[Ints], Ints | None]:
    """One client per owner, drawn by seed from the sorted names; domains are dealt round robin instead."""
    if dataset.owner is None:
        raise UsageError(f"--scheme natural: {dataset.name} has no natural clients; choose another --scheme")
    owner, names = dataset.owner[pool], dataset.owner_names
    rng = stream(config.partition_seed, "partition/scheme")
    n = config.clients + config.newcomers
    held = {name: pool[owner == i] for i, name in enumerate(names)}
    large = [name for name in sorted(held) if len(held[name]) >= config.min_size]
    if dataset.owner_kind == "domain":
        return _domains([held[name] for name in names], n, config.min_size, rng)
    if len(large) < n:
        raise UsageError(
            f"--clients {config.clients} and --newcomers {config.newcomers}: {dataset.name} has {len(large)} "
            f"{dataset.owner_kind}s with at least {config.min_size} samples; lower one of them or --min-size"
        )
    return [held[large[i]] for i in rng.permutation(len(large))[:n]], None


def _domains(held: list[Ints], n: int, min_size: int, rng: Rng) -> tuple[list[Ints], Ints]:
    """Client i belongs to domain i mod D and gets an equal, random part of it."""
    group = np.arange(n, dtype=np.int64) % len(held)
    parts: list[Ints] = [held[0][:0]] * n
    for domain, samples in enumerate(held):
        mine = np.flatnonzero(group == domain)
        if len(mine):
            dealt = schemes.iid(samples, len(mine), rng, min_size=min_size)
            for client, part in zip(mine, dealt.parts, strict=True):
                parts[client] = samples[part]
    return parts, group


def _groups(dataset: Dataset, config: PartitionConfig) -> tuple[Ints | None, dict[str, Any]]:
    """Known groups, client i in group i mod m, and what each group does to its data."""
    if config.scheme not in ("rotated", "permuted-labels"):
        return None, {}
    m, n = config.groups, config.clients + config.newcomers
    if m > config.clients:
        raise UsageError(f"--groups {m}: more groups than clients; lower it or raise --clients")
    group = np.arange(n, dtype=np.int64) % m
    if config.scheme == "permuted-labels" and dataset.targets is not None:
        raise UsageError(f"--scheme permuted-labels: {dataset.name} has numbers to predict and no labels; use iid")
    if config.scheme == "rotated":
        return group, {"kind": "rotate", "quarter_turns": _quarter_turns(dataset, m, group)}
    labels = label_permutations(m, dataset.n_classes, stream(config.partition_seed, "partition/labels"))
    return group, {"kind": "permute", "labels": labels[group].tolist()}


def _quarter_turns(dataset: Dataset, m: int, group: Ints) -> list[int]:
    """Group g of m turns by 360 g / m degrees; only quarter turns lose nothing."""
    if m not in (1, 2, 4):
        raise UsageError(f"--groups {m}: scheme rotated turns by 360/groups degrees without loss; use 1, 2 or 4")
    if len(dataset.shape) != 3 or dataset.shape[1] != dataset.shape[2]:
        raise UsageError(f"--scheme rotated: {dataset.name} does not consist of square images")
    turns: list[int] = (group * 4 // m).tolist()
    return turns


def label_permutations(m: int, n_classes: int, rng: Rng) -> Ints:
    """(m, C) permutations, the first the identity; any two of them differ on every label.

    Cyclic shifts in a random order of the labels, by different random steps.
    """
    if m > n_classes:
        raise UsageError(f"--groups {m}: {n_classes} classes allow {n_classes} groups that agree on no label; lower it")
    order = rng.permutation(n_classes)
    steps = np.concatenate([[0], 1 + rng.permutation(n_classes - 1)[: m - 1]])
    permutations = np.empty((m, n_classes), np.int64)
    for group, step in enumerate(steps):
        permutations[group, order] = np.roll(order, -step)
    return permutations


def _cut_test(dataset: Dataset, parts: list[Ints], config: PartitionConfig) -> tuple[list[Ints], Sequence[Ints]]:
    seed = config.partition_seed
    if dataset.split is not None and config.test_split == "local" and (dataset.split == TEST).any():
        left, cut = zip(*(_as_given(part, dataset.split, TEST) for part in parts), strict=True)
        return list(left), list(cut)
    if config.test_split == "global":
        official = np.flatnonzero(_official(dataset, config)).astype(np.int64)
        return parts, [official] * len(parts)
    if config.test_split == "match":
        official = np.flatnonzero(_official(dataset, config)).astype(np.int64)
        return parts, split.matched(parts, official, dataset.y, stream(seed, "partition/test"))
    if dataset.session is not None:
        cuts = [split.recordings(p, dataset.y, dataset.session, config.test_share) for p in parts]
    else:
        cuts = [
            split.stratified(p, dataset.y, config.test_share, stream(seed, "partition/test", client))
            for client, p in enumerate(parts)
        ]
    return [left for left, _ in cuts], [cut for _, cut in cuts]


def _as_given(part: Ints, split: Ints, which: int) -> tuple[Ints, Ints]:
    """The samples of a client without those of one split of the data, and these."""
    chosen = split[part] == which
    return part[~chosen], part[chosen]


def _cut_val(dataset: Dataset, parts: list[Ints], config: PartitionConfig) -> tuple[list[Ints], list[Ints]]:
    if dataset.split is not None and (dataset.split == VAL).any():
        left, cut = zip(*(_as_given(part, dataset.split, VAL) for part in parts), strict=True)
        return list(left), list(cut)
    if dataset.session is not None and dataset.objective.tokens:  # the next token is no activity that lasts
        cuts = [split.recordings(p, dataset.y, dataset.session, config.val_share) for p in parts]
    elif dataset.session is not None:
        cuts = [split.tails(p, dataset.y, dataset.session, config.val_share) for p in parts]
    else:
        cuts = [
            split.stratified(p, dataset.y, config.val_share, stream(config.partition_seed, "partition/val", client))
            for client, p in enumerate(parts)
        ]
    return [left for left, _ in cuts], [cut for _, cut in cuts]
