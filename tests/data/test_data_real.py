"""The real data sets, where FLTK_DATA points at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fltk.config import PartitionConfig
from fltk.data import Dataset, describe, load
from fltk.partition import Partition, make

REAL = ("mnist", "fmnist", "usps", "femnist", "hapt", "digit-domains", "cifar10-jpeg")


def have(name: str, data_dir: Path, subset: int = 0) -> Dataset:
    if not {row.name: row.present for row in describe(data_dir)}[name]:
        pytest.skip(f"{name} is not under FLTK_DATA")
    return load(name, data_dir, subset=subset)


@pytest.mark.parametrize("name", REAL)
def test_a_real_subset_is_what_the_table_says(data_dir: Path, name: str) -> None:
    data = have(name, data_dir, subset=600)
    row = next(row for row in describe(data_dir) if row.name == name)
    assert len(data) == 600 and data.shape == row.shape and data.n_classes == row.classes
    assert data.x.dtype == np.float32 and data.x.flags.c_contiguous and np.isfinite(data.x).all()
    if name != "hapt":
        channels = data.x.reshape(len(data.x), data.shape[0], -1)
        assert np.abs(channels.mean((0, 2), dtype=np.float64)).max() < 0.1  # standardised by constants, and a subset
        assert np.abs(channels.std((0, 2), dtype=np.float64) - 1).max() < 0.1
    assert (data.owner_kind is not None) == bool(row.natural)


@pytest.mark.parametrize("name", ["usps", "hapt", "digit-domains"])
def test_a_whole_set_has_the_size_that_the_table_says(data_dir: Path, name: str) -> None:
    data = have(name, data_dir)
    assert len(data) == next(row.samples for row in describe(data_dir) if row.name == name)


def test_a_subset_of_real_data_keeps_the_official_split_and_labels(data_dir: Path) -> None:
    data = have("mnist", data_dir, subset=700)
    assert data.is_test is not None and data.is_test.sum() == 100
    assert np.bincount(data.y[~data.is_test]).min() > 0 and len(np.bincount(data.y)) == 10


def test_digit_domains_have_equal_sizes(data_dir: Path) -> None:
    data = have("digit-domains", data_dir)
    assert data.owner is not None and np.bincount(data.owner).tolist() == [1797] * 4


@pytest.mark.parametrize(("test_share", "val_share"), [(0.25, 0.2), (0.0, 0.2), (0.1, 0.4)])
def test_no_two_parts_of_hapt_hold_the_same_measurements(data_dir: Path, test_share: float, val_share: float) -> None:
    data = have("hapt", data_dir)
    config = PartitionConfig(
        dataset="hapt", scheme="natural", clients=26, newcomers=4, test_share=test_share, val_share=val_share
    )
    p = make(data, config)
    place = np.full(len(data), -1)
    for client in range(30):
        for kind, parts in enumerate((p.train, p.val, p.test)):
            place[parts[client]] = 3 * client + kind
    # A window shares its second half with the window that follows it in the same run.
    overlap = (data.x[:-1, :, 64:] == data.x[1:, :, :64]).all((1, 2))
    assert overlap.sum() > 9000
    kept = overlap & (place[:-1] >= 0) & (place[1:] >= 0)
    assert (place[:-1][kept] == place[1:][kept]).all()
    assert min(len(part) for part in p.train) > 0 and (place == -1).mean() < 0.2


def test_hapt_is_tested_on_whole_recordings(data_dir: Path) -> None:
    data = have("hapt", data_dir)
    assert data.owner is not None and data.session is not None
    p = make(data, PartitionConfig(dataset="hapt", scheme="natural", clients=20, newcomers=4))
    for test, train in zip(p.test, p.train, strict=True):
        sessions = np.unique(data.session[np.flatnonzero(data.owner == data.owner[train[0]])])
        if len(sessions) > 1:
            assert not set(data.session[test]) & set(data.session[train])
            assert len(test) == np.isin(data.session, np.unique(data.session[test])).sum()


def test_femnist_clients_are_whole_writers(data_dir: Path) -> None:
    data = have("femnist", data_dir, subset=20000)
    p: Partition = make(data, PartitionConfig(dataset="femnist", scheme="natural", clients=50, newcomers=5))
    assert data.owner is not None
    owners = [data.owner[np.concatenate(parts)] for parts in zip(p.train, p.val, p.test, strict=True)]
    assert all(len(set(owner)) == 1 for owner in owners) and len({owner[0] for owner in owners}) == 55
    assert all(len(owner) == (data.owner == owner[0]).sum() for owner in owners)
