"""torchvision's sets as arrays, from small files in torchvision's own formats."""

from __future__ import annotations

import bz2
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from fltk.data import Dataset, load, vision
from fltk.data.sources import PIXELS
from fltk.errors import FltkError


def write_usps(root: Path) -> None:
    for name, n in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        rows = [f"{i % 10 + 1} " + " ".join(f"{j + 1}:{-1 if j else 1}" for j in range(256)) for i in range(n)]
        (root / name).write_bytes(bz2.compress("\n".join(rows).encode()))


def pixels(data: Dataset) -> np.ndarray[Any, Any]:
    """The samples in 0..1 again, by the constants of the table."""
    mean, deviation = (np.array(v)[:, None, None] for v in PIXELS[data.name])
    return data.x.astype(np.float64) * deviation + mean


def test_usps_is_read_from_torchvisions_files(tmp_path: Path) -> None:
    write_usps(tmp_path)
    data = load("usps", tmp_path)
    assert data.x.shape == (30, 1, 16, 16) and data.is_test is not None and data.is_test.sum() == 10
    np.testing.assert_allclose(pixels(data)[0, 0, 0, :2], [1, 0], atol=1e-6)
    assert data.y.tolist() == [*range(10), *range(10), *range(10)]


def test_cifar10_is_read_in_channel_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = vision._datasets().CIFAR10
    folder = tmp_path / cls.base_folder
    folder.mkdir()
    sums = {}
    for i, (name, _) in enumerate([*cls.train_list, *cls.test_list]):
        x = np.zeros((2, 3, 32, 32), np.uint8)
        x[:, 0] = 255
        x[:, 2] = i
        (folder / name).write_bytes(pickle.dumps({"data": x.reshape(2, -1), "labels": [i, i + 1]}))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    sums["batches.meta"] = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(cls, "train_list", [(name, sums[name]) for name, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [(name, sums[name]) for name, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums["batches.meta"]})
    data = load("cifar10", tmp_path)
    assert data.x.shape == (12, 3, 32, 32) and data.y.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    np.testing.assert_allclose(pixels(data)[:, 0], 1, atol=1e-6)
    np.testing.assert_allclose(pixels(data)[:, 1], 0, atol=1e-6)
    assert data.is_test is not None and data.is_test.tolist() == [False] * 10 + [True] * 2


def test_svhn_is_read_in_channel_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = vision._datasets().SVHN
    sums = {}
    for split, n in (("train", 11), ("test", 3)):
        x = np.zeros((32, 32, 3, n), np.uint8)
        x[1, 2, 1] = 255
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": x, "y": np.arange(1, n + 1, dtype=np.uint8)[:, None] % 10 + 1})
        sums[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(cls, "split_list", sums)
    data = load("svhn", tmp_path)
    assert data.x.shape == (14, 3, 32, 32) and data.is_test is not None and data.is_test.sum() == 3
    np.testing.assert_allclose(pixels(data)[:, 1, 1, 2], 1, atol=1e-6)
    assert abs(pixels(data).sum() - 14) < 0.01
    assert data.y[8] == 0, "SVHN calls the digit zero 10"


def test_damaged_torchvision_files_are_one_line(tmp_path: Path) -> None:
    write_usps(tmp_path)
    (tmp_path / "usps.bz2").write_bytes(b"no bz2")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(b"nonsense")
    for name in ("usps", "cifar10"):
        with pytest.raises(FltkError) as caught:
            load(name, tmp_path)
        assert f"--dataset {name}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(vision._datasets(), "MNIST", refuse)
    with pytest.raises(FltkError, match=r"--dataset mnist.*no route to host"):
        load("mnist", tmp_path / "new", download=True)
