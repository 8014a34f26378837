"""From configuration to partition: every sample once, stable fingerprints, refusals, storage."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fltk.config import PartitionConfig
from fltk.data import Dataset, create, load
from fltk.errors import FltkError, UsageError
from fltk.names import SCHEMES
from fltk.partition import Partition, from_arrays, make, to_arrays

N, N_TEST = 700, 100
DEALT = [scheme for scheme in SCHEMES if scheme != "natural"]


def toy(**extra: object) -> Dataset:
    """700 samples of ten classes, the last hundred the official test set."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.permutation(np.arange(n) % 10) for n in (N - N_TEST, N_TEST)]).astype(np.int64)
    settings = {"is_test": np.arange(N) >= N - N_TEST, **extra}
    x = rng.random((N, 1, 2, 2)).astype(np.float32)
    return create("toy", x, y, tuple("0123456789"), **settings)


def owned(kind: str, n_owners: int, *, session: bool = False) -> Dataset:
    owner = np.arange(N, dtype=np.int64) * n_owners // N
    names = tuple(f"{kind} {n_owners - i:02d}" for i in range(n_owners))
    recording = owner * 2 + (np.arange(N) % (N // n_owners) > N // n_owners // 2) if session else None
    return toy(is_test=None, owner=owner, owner_kind=kind, owner_names=names, session=recording)


def config(**settings: object) -> PartitionConfig:
    return PartitionConfig(**{"clients": 6, "newcomers": 2, "alpha": 1.0, "min_size": 5, "groups": 2, **settings})


TOY = toy()


def check(p: Partition, data: Dataset) -> None:
    """Sorted, disjoint within and across clients, never an empty training part."""
    shared = all(part is p.test[0] for part in p.test)
    parts = [*p.train, *p.val, *(p.test[:1] if shared else p.test)]
    joined = np.concatenate(parts)
    assert len(np.unique(joined)) == len(joined) and joined.min() >= 0 and joined.max() < len(data)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert min(len(part) for part in p.train) >= 1


@pytest.mark.parametrize("test_split", ["local", "match", "global"])
@pytest.mark.parametrize("scheme", DEALT)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**40), test_share=st.floats(0, 0.6), val_share=st.floats(0, 0.6))
def test_every_sample_is_in_exactly_one_place(
    scheme: str, test_split: str, seed: int, test_share: float, val_share: float
) -> None:
    c = config(
        scheme=scheme, test_split=test_split, partition_seed=seed, test_share=test_share, val_share=val_share,
        classes_per_client=5,
    )  # fmt: skip
    p = make(TOY, c)
    check(p, TOY)
    assert p.n_clients == 8 and p.n_newcomers == 2
    assert p.config == replace(c, dataset="own:toy")
    tests = p.test[:1] if test_split == "global" else p.test
    assert sum(len(part) for part in (*p.train, *p.val, *tests)) == N
    if test_split != "local":
        assert np.concatenate(p.train + p.val).max() < N - N_TEST <= min(part.min() for part in tests if len(part))
    if test_split == "global":
        assert all(part is p.test[0] for part in p.test)
    assert make(TOY, c).fingerprint == p.fingerprint


@pytest.mark.skipif(not np.__version__.startswith("2."), reason="NumPy's streams are promised within a version only")
def test_known_fingerprints() -> None:
    """Recorded when this was written: equal on every machine, and a change breaks stored experiments."""
    y = np.arange(600, dtype=np.int64) % 10
    x = np.arange(600, dtype=np.float32).reshape(600, 1, 1, 1)
    data = create("toy", x, y, tuple("0123456789"))
    got = {scheme: make(data, config(scheme=scheme)).fingerprint[:12] for scheme in ("iid", "dirichlet", "shards")}
    assert data.fingerprint[:12] == "47a289524061"
    assert got == {"iid": "a35a226503e6", "dirichlet": "2d468ea19692", "shards": "485f06e548ec"}


@pytest.mark.parametrize("change", [{"partition_seed": 1}, {"newcomers": 1, "clients": 7}, {"val_share": 0.3}])
def test_what_changes_the_partition_changes_the_fingerprint(change: dict[str, object]) -> None:
    assert make(TOY, config(scheme="iid", **change)).fingerprint != make(TOY, config(scheme="iid")).fingerprint


def test_the_fingerprint_covers_groups_and_transforms() -> None:
    marks = {
        make(TOY, config(scheme=scheme, groups=groups)).fingerprint
        for scheme in ("rotated", "permuted-labels")
        for groups in (1, 2, 4)
    }
    assert len(marks) == 6


def test_cutting_and_dealing_use_streams_of_their_own() -> None:
    a, b = make(TOY, config(val_share=0.1)), make(TOY, config(val_share=0.5))
    for mine, other in zip(a.test, b.test, strict=True):
        np.testing.assert_array_equal(mine, other)
    c = make(TOY, config(val_share=0.1, test_share=0.5))
    for i in range(8):
        whole = [np.sort(np.concatenate([p.train[i], p.val[i], p.test[i]])) for p in (a, c)]
        np.testing.assert_array_equal(*whole)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_continue_into_the_newcomers(groups: int) -> None:
    for scheme in ("rotated", "permuted-labels"):
        p = make(TOY, config(scheme=scheme, groups=groups, newcomers=4))
        assert p.group is not None and p.group.tolist() == [i % groups for i in range(10)]
        sizes = np.bincount(p.group)
        assert sizes.max() - sizes.min() <= 1
    turns = make(TOY, config(scheme="rotated", groups=groups)).transform["quarter_turns"]
    assert turns == [i % groups * 4 // groups for i in range(8)]


@pytest.mark.parametrize("scheme", DEALT)
@pytest.mark.parametrize("test_split", ["local", "global"])
def test_storage_round_trip_without_pickle(scheme: str, test_split: str) -> None:
    c = config(scheme=scheme, test_split=test_split, classes_per_client=4)
    p = make(TOY, c)
    file = io.BytesIO()
    np.savez_compressed(file, **to_arrays(p))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = from_arrays(c, dict(arrays))
    assert back.fingerprint == p.fingerprint and back.transform == p.transform and back.attempts == p.attempts
    assert back.n_newcomers == 2 and back.data_fingerprint == TOY.fingerprint
    for name in ("train", "val", "test"):
        for mine, other in zip(getattr(p, name), getattr(back, name), strict=True):
            np.testing.assert_array_equal(mine, other)
    assert all(part is back.test[0] for part in back.test) == (test_split == "global")


def test_a_damaged_store_is_refused() -> None:
    c = config()
    arrays = to_arrays(make(TOY, c))
    with pytest.raises(FltkError, match="damaged"):
        from_arrays(c, {**arrays, "train": arrays["train"] + 1})
    with pytest.raises(FltkError, match="damaged"):
        from_arrays(c, {key: value for key, value in arrays.items() if key != "val"})


def test_owners_are_drawn_by_seed_and_stay_whole() -> None:
    data = owned("writer", 20)
    assert data.owner is not None
    chosen = []
    for seed in (0, 1):
        p = make(data, config(scheme="natural", partition_seed=seed))
        check(p, data)
        owners = [data.owner[np.concatenate(three)] for three in zip(p.train, p.val, p.test, strict=True)]
        assert all(len(set(owner)) == 1 and len(owner) == 35 for owner in owners)
        chosen.append([int(owner[0]) for owner in owners])
        assert len(set(chosen[-1])) == 8 and p.group is None
    assert chosen[0] != chosen[1]


def test_owner_order_does_not_depend_on_numbering() -> None:
    """The draw goes by sorted names, so renumbering the owners moves nothing."""
    data = owned("writer", 20)
    assert data.owner is not None
    flipped = create(
        "toy",
        data.x,
        data.y,
        data.classes,
        owner=19 - data.owner,
        owner_kind="writer",
        owner_names=data.owner_names[::-1],
    )
    a, b = (make(d, config(scheme="natural")) for d in (data, flipped))
    for mine, other in zip(a.train, b.train, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_domains_are_dealt_round_robin() -> None:
    data = owned("domain", 4)
    assert data.owner is not None
    p = make(data, config(scheme="natural"))
    check(p, data)
    assert p.group is not None and p.group.tolist() == [i % 4 for i in range(8)]
    for client, three in enumerate(zip(p.train, p.val, p.test, strict=True)):
        samples = np.concatenate(three)
        assert set(data.owner[samples]) == {client % 4} and len(samples) in (87, 88)


def test_recordings_need_natural_clients_and_are_kept_apart() -> None:
    data = owned("person", 10, session=True)
    assert data.session is not None
    p = make(data, config(scheme="natural"))
    check(p, data)
    for train, test in zip(p.train, p.test, strict=True):
        assert not set(data.session[train]) & set(data.session[test])
    with pytest.raises(UsageError, match="--scheme"):
        make(data, config(scheme="iid"))


REFUSED = {
    "no owners": (TOY, {"scheme": "natural"}, "--scheme"),
    "no official split": (owned("writer", 20), {"test_split": "match"}, "--test-split"),
    "no official split, global": (owned("writer", 20), {"test_split": "global"}, "--test-split"),
    "too few owners": (owned("writer", 7), {"scheme": "natural"}, "--clients"),
    "owners too small": (owned("writer", 20), {"scheme": "natural", "min_size": 36}, "--min-size"),
    "domains too small": (owned("domain", 4), {"scheme": "natural", "min_size": 100}, "--min-size"),
    "three rotations": (TOY, {"scheme": "rotated", "groups": 3}, "--groups"),
    "more groups than clients": (TOY, {"scheme": "permuted-labels", "groups": 7}, "--groups"),
    "min size": (TOY, {"min_size": 90}, "--min-size"),
    "rotating series": (
        create("series", np.zeros((90, 2, 4), np.float32), np.arange(90) % 2, ("a", "b")),
        {"scheme": "rotated"},
        "--scheme",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_impossible_is_refused_by_option(case: str) -> None:
    data, settings_, option = REFUSED[case]
    with pytest.raises(UsageError, match=option) as caught:
        make(data, config(**settings_))
    assert "\n" not in str(caught.value)


def test_a_partition_does_not_depend_on_pixels_but_says_whose_it_is() -> None:
    other = create("toy", TOY.x + 1, TOY.y, TOY.classes, is_test=TOY.is_test)
    a, b = make(TOY, config()), make(other, config())
    assert all(np.array_equal(x, z) for x, z in zip(a.train, b.train, strict=True))
    assert a.fingerprint != b.fingerprint and b.data_fingerprint == other.fingerprint


def test_dealing_leaves_the_global_generator_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tobytes()
    make(TOY, replace(config(), scheme="pathological"))
    assert np.random.get_state()[1].tobytes() == before


@pytest.mark.parametrize("subset", [0, 300])
@pytest.mark.parametrize("scheme", ["dirichlet-capped", "extended-dirichlet", "quantity"])
def test_what_a_refusal_advises_works(scheme: str, subset: int) -> None:
    """The defaults are too skewed for a small data set, and each scheme needs another alpha."""
    asked = PartitionConfig(scheme=scheme, subset=subset)
    digits = load("digits", None, subset=subset)
    with pytest.raises(UsageError, match="1000 draws") as caught:
        make(digits, asked)
    told = str(caught.value)
    assert ("raise --subset" in told) is (subset > 0)
    ways = re.findall(r"(raise it|--min-size) to ([0-9.]+)", told)
    assert ways
    for way, value in ways:
        better = replace(asked, alpha=float(value)) if way == "raise it" else replace(asked, min_size=int(value))
        assert make(digits, better).fingerprint
