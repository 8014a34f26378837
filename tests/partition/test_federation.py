"""Views, transforms and pickling of federations."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from fltk.config import PartitionConfig
from fltk.data import Dataset, create
from fltk.errors import FltkError
from fltk.partition import from_arrays, make, to_arrays
from fltk.partition.federation import Federation, build


def toy(n: int = 400, *, official: bool = True) -> Dataset:
    """Every sample is told by its first pixel."""
    rng = np.random.default_rng(0)
    x = rng.random((n, 1, 4, 4)).astype(np.float32)
    x[:, 0, 0, 0] = np.arange(n)
    is_test = np.arange(n) >= 300 if official else None
    y = rng.permutation(n).astype(np.int64) % 5
    return create("toy", x, y, tuple("abcde"), is_test=is_test)


def federation(data: Dataset, **settings: object) -> tuple[Federation, PartitionConfig]:
    config = PartitionConfig(**{"clients": 6, "newcomers": 2, "alpha": 1.0, "min_size": 4, **settings})
    return build(data, make(data, config)), config


def everyone(f: Federation):
    return (*f.clients, *f.newcomers)


def test_splits_are_views_of_one_copy_of_the_used_samples() -> None:
    data = toy()
    f, _ = federation(data)
    assert f.x.shape == (400, 1, 4, 4) and sorted(f.x[:, 0, 0, 0].tolist()) == list(range(400))
    assert [c.id for c in everyone(f)] == list(range(8)) and len(f.newcomers) == 2
    for client in everyone(f):
        for split in (client.train, client.val, client.test):
            assert split.x.untyped_storage().data_ptr() == f.x.untyped_storage().data_ptr()
            assert split.x.is_contiguous() and len(split) == len(split.x) == len(split.y)
            positions = split.x[:, 0, 0, 0].long().numpy()
            np.testing.assert_array_equal(split.x.numpy(), data.x[positions])
            np.testing.assert_array_equal(split.y.numpy(), data.y[positions])


def test_facts_of_a_federation() -> None:
    data = toy()
    config = PartitionConfig(clients=6, newcomers=2, alpha=1.0, min_size=4)
    p = make(data, config)
    f = build(data, p)
    assert f.n_classes == 5 and f.shape == (1, 4, 4) and f.groups is None and f.fingerprint == p.fingerprint
    assert f.names[:2] == ("client 0", "client 1") and f.classes == tuple("abcde")
    np.testing.assert_array_equal(f.label_counts[3], np.bincount(data.y[p.train[3]], minlength=5))


def test_the_global_test_set_is_stored_once() -> None:
    data = toy()
    f, _ = federation(data, test_split="global")
    assert len(f.x) == 400
    assert len({c.test.x.data_ptr() for c in everyone(f)}) == 1 and len(f.clients[0].test) == 100


def test_the_global_test_set_is_stored_once_for_each_rotation() -> None:
    data = toy()
    f, _ = federation(data, test_split="global", scheme="rotated", groups=4)
    assert len(f.x) == 300 + 4 * 100
    plain = data.x[data.is_test]
    for client in everyone(f):
        np.testing.assert_array_equal(np.rot90(plain, client.id % 4, (-2, -1)), client.test.x.numpy())


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rotations_are_undone_by_rotating_back(groups: int) -> None:
    data = toy()
    plain = {row[0, 0, 0]: row for row in data.x}
    f, _ = federation(data, scheme="rotated", groups=groups)
    assert f.groups is not None and f.groups.tolist() == [i % groups for i in range(8)]
    for client in everyone(f):
        turns = client.id % groups * 4 // groups
        for split in (client.train, client.val, client.test):
            for image in torch.rot90(split.x, -turns, (-2, -1)).numpy():
                np.testing.assert_array_equal(image, plain[image[0, 0, 0]])


def test_label_permutations_hold_in_every_split_and_are_bijective() -> None:
    data = toy()
    f, config = federation(data, scheme="permuted-labels", groups=3)
    maps = make(data, config).transform["labels"]
    assert maps[0] == maps[3] == list(range(5))
    for client in everyone(f):
        for split in (client.train, client.val, client.test):
            positions = split.x[:, 0, 0, 0].long().numpy()
            inverse = np.argsort(maps[client.id])
            np.testing.assert_array_equal(inverse[split.y.numpy()], data.y[positions])
        counts = np.bincount(client.train.y.numpy(), minlength=5)
        np.testing.assert_array_equal(f.label_counts[client.id], counts)


def test_one_group_changes_nothing() -> None:
    data = toy()
    permuted, _ = federation(data, scheme="permuted-labels", groups=1)
    rotated, _ = federation(data, scheme="rotated", groups=1)
    iid, _ = federation(data, scheme="iid")
    for other in (permuted, rotated):
        assert torch.equal(other.x, iid.x) and torch.equal(other.y, iid.y)


def test_pickling_rebuilds_the_views() -> None:
    f, _ = federation(toy(), scheme="rotated", groups=2, test_split="global")
    back = pickle.loads(pickle.dumps(f))
    assert torch.equal(back.x, f.x) and torch.equal(back.groups, f.groups) and back.names == f.names
    for mine, other in zip(everyone(f), everyone(back), strict=True):
        assert torch.equal(mine.test.x, other.test.x) and torch.equal(mine.train.y, other.train.y)
        assert other.train.x.untyped_storage().data_ptr() == back.x.untyped_storage().data_ptr()


def _mark(f: Federation, done) -> None:
    f.clients[1].train.y[0] = 99
    done.put(f.x.is_shared() and f.y.is_shared())


def test_processes_see_the_same_memory() -> None:
    f, _ = federation(toy())
    f.share_memory()
    context = mp.get_context("spawn")
    done = context.Queue()
    process = context.Process(target=_mark, args=(f, done))
    process.start()
    assert done.get(timeout=60)
    process.join(60)
    assert f.clients[1].train.y[0] == 99


def test_a_stored_partition_builds_the_same_federation() -> None:
    data = toy()
    config = PartitionConfig(clients=6, newcomers=2, scheme="rotated", groups=2, test_split="global")
    p = make(data, config)
    a, b = build(data, p), build(data, from_arrays(config, to_arrays(p)))
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def test_other_data_are_refused() -> None:
    data = toy()
    p = make(data, PartitionConfig(clients=6, newcomers=2, alpha=1.0))
    with pytest.raises(FltkError, match="--dataset"):
        build(toy(official=False), p)
    outside = replace(p, train=(np.array([400]), *p.train[1:]))
    with pytest.raises(FltkError, match="outside"):
        build(data, outside)


def test_natural_clients_are_called_by_their_owners() -> None:
    plain = toy(official=False)
    owner = np.arange(400, dtype=np.int64) % 10
    names = tuple(f"w{i}" for i in range(10))
    data = create("toy", plain.x, plain.y, plain.classes, owner=owner, owner_kind="writer", owner_names=names)
    f, _ = federation(data, scheme="natural")
    for client in everyone(f):
        positions = client.test.x[:, 0, 0, 0].long().numpy()
        assert {names[i] for i in owner[positions]} == {f.names[client.id]}
