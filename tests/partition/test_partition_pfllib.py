"""PFLlib folders: read with care, nothing executed, every fault one line."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from fltk.config import PartitionConfig
from fltk.errors import FltkError, UsageError
from fltk.partition import pfllib

SIZES = ((12, 4), (20, 7), (8, 3))


def save(path: Path, content: object) -> None:
    """As PFLlib writes a client."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, data=content)


def client(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.random((n, 1, 3, 3)).astype(np.float32), "y": rng.integers(0, 3, n)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, sizes in enumerate(SIZES):
        for seed, (kind, n) in enumerate(zip(("train", "test"), sizes, strict=True)):
            save(tmp_path / kind / f"{i}.npz", client(n, 10 * i + seed))
    (tmp_path / "config.json").write_text(json.dumps({"num_clients": 3}))
    return tmp_path


def test_the_folder_becomes_a_data_set_and_its_partition(folder: Path) -> None:
    data, p = pfllib.load(folder)
    assert data.x.shape == (54, 1, 3, 3) and data.x.dtype == np.float32 and data.y.dtype == np.int64
    assert p.n_newcomers == 0 and p.config.clients == 3 and p.data_fingerprint == data.fingerprint
    for i, (n_train, n_test) in enumerate(SIZES):
        rest = np.sort(np.concatenate([p.train[i], p.val[i]]))
        np.testing.assert_array_equal(data.x[rest], client(n_train, 10 * i)["x"])
        np.testing.assert_array_equal(data.y[p.test[i]], client(n_test, 10 * i + 1)["y"])
        assert len(p.val[i]) == int(n_train * 0.2 + 0.5)
    joined = np.concatenate([*p.train, *p.val, *p.test])
    assert len(joined) == len(set(joined.tolist())) == 54
    assert pfllib.load(folder)[1].fingerprint == p.fingerprint


def test_newcomers_are_the_last_clients(folder: Path) -> None:
    _, p = pfllib.load(folder, PartitionConfig(newcomers=1, val_share=0.0))
    assert p.n_newcomers == 1 and p.config.clients == 2 and sum(len(part) for part in p.val) == 0
    with pytest.raises(UsageError, match="--newcomers"):
        pfllib.load(folder, PartitionConfig(newcomers=3))


def test_arrays_in_other_orders_and_types_are_read(folder: Path) -> None:
    content = client(12, 0)
    odd = {"x": np.asfortranarray(content["x"].astype(">f8")), "y": content["y"].astype(np.uint8)}
    save(folder / "train/0.npz", odd)
    x, y = pfllib.read_client(folder / "train/0.npz")
    np.testing.assert_array_equal(x, content["x"])
    np.testing.assert_array_equal(y, content["y"])


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("inside", [True, False])
def test_code_in_a_file_is_not_run(folder: Path, tmp_path: Path, inside: bool) -> None:
    evil = Evil(tmp_path / "owned")
    save(folder / "train/1.npz", {**client(5, 0), "z": evil} if inside else np.array(evil, dtype=object))
    fails(folder, "train/1.npz")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"x": np.zeros((3, 2), np.float32)},
        {"x": np.zeros((3, 2), np.float32), "y": np.zeros(2, np.int64)},
        {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.float32)},
        {"x": np.zeros((3, 2), np.int64), "y": np.zeros(3, np.int64)},
        {"x": np.zeros((3, 2), np.float32), "y": np.array([0, 1, -1])},
        {"x": np.array([{}, {}, {}], dtype=object), "y": np.zeros(3, np.int64)},
        {"x": [[1.0], [2.0]], "y": [0, 1]},
        [1, 2],
        np.zeros(3),
    ],
    ids=range(9),
)
def test_other_content_is_refused(folder: Path, content: object) -> None:
    save(folder / "test/2.npz", content)
    fails(folder, "test/2.npz")


@pytest.mark.parametrize("keep", [0, 10, 200, -50])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "train/2.npz"
    path.write_bytes(path.read_bytes()[:keep])
    fails(folder, "train/2.npz")


def test_flipped_bytes_never_give_anything_but_one_line(folder: Path) -> None:
    """The pickle itself is damaged, under an intact checksum."""
    path = folder / "train/0.npz"
    with zipfile.ZipFile(path) as archive:
        good = archive.read("data.npy")
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.integers(0, 420)] = rng.integers(0, 256)
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data.npy", bytes(bad))
        path.write_bytes(buffer.getvalue())
        try:
            pfllib.read_client(path)
        except FltkError as error:
            assert "train/0.npz" in str(error) and "\n" not in str(error)


def test_missing_files_are_told(folder: Path, tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "not a PFLlib")
    (folder / "test/1.npz").unlink()
    fails(folder, "missing")


def test_a_config_that_speaks_of_other_clients_is_told(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"num_clients": 4}))
    fails(folder, "config.json")
    (folder / "config.json").write_text("{")
    fails(folder, "config.json")


def test_clients_of_different_shapes_are_told(folder: Path) -> None:
    save(folder / "test/0.npz", {"x": np.zeros((3, 1, 2, 2), np.float32), "y": np.zeros(3, np.int64)})
    fails(folder, "shape")


@pytest.mark.parametrize("text", ["[" * 5000, "[3]", "9" * 5000, " " * 2_000_000])
def test_a_hostile_config_is_told(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    fails(folder, "config.json")


def test_samples_that_do_not_fit_into_memory_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pfllib, "memory", lambda: 1000)
    monkeypatch.setattr(pfllib, "read_client", lambda path: pytest.fail("read"))
    fails(folder, "this machine has 0.0 GB")


def test_a_label_that_is_no_class_is_told(folder: Path) -> None:
    """There would be as many classes as it says."""
    save(folder / "test/1.npz", {"x": np.zeros((2, 1, 4, 4), np.float32), "y": np.array([0, 2**62])})
    fails(folder, "test/1.npz")


def test_a_pickle_that_speaks_of_much_memory_gets_none(folder: Path) -> None:
    """The reader in C makes room for as many remembered objects as the largest number says."""
    path = folder / "train/0.npz"
    with zipfile.ZipFile(path) as archive:
        good = archive.read("data.npy")
    start = good.index(pickle.PROTO)
    hostile = good[:start] + pickle.PROTO + b"\x04N" + pickle.LONG_BINPUT + struct.pack("<I", 2**31) + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", hostile)
    tracemalloc.start()
    try:
        fails(folder, "train/0.npz")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def fails(folder: Path, needle: str) -> None:
    with pytest.raises(FltkError) as caught:
        pfllib.load(folder)
    assert needle in str(caught.value) and "\n" not in str(caught.value)


def test_the_published_mnist_partition(data_dir: Path) -> None:
    folder = data_dir / "PFLlib-MNIST"
    if not folder.is_dir():
        pytest.skip("PFLlib-MNIST is not under FLTK_DATA")
    x, y = pfllib.read_client(folder / "train/16.npz")
    assert x.shape[1:] == (1, 28, 28) and -1 <= x.min() < x.max() <= 1 and len(set(y.tolist())) == 1
    sizes = [len(pfllib.read_client(folder / "test" / f"{i}.npz")[1]) for i in range(20)]
    assert sum(sizes) == 17508
