"""Files that are missing, damaged or odd give one line that names them."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fltk import bounded
from fltk.data import load
from fltk.data.files import read_idx, read_npz
from fltk.errors import FltkError, UsageError


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, *, gz: bool, folder: str = "MNIST/raw", names: tuple[str, str] = ("train", "t10k")) -> None:
    """Thirty training and twenty test images whose first pixel is their position."""
    (root / folder).mkdir(parents=True)
    for part, n in zip(names, (30, 20), strict=True):
        x = np.zeros((n, 28, 28), np.uint8)
        x[:, 0, 1] = np.arange(n)
        y = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            data = idx_bytes(array)
            path = root / folder / f"{part}-{kind}-ubyte"
            if gz:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)


@pytest.mark.parametrize("gz", [False, True])
def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path, gz: bool) -> None:
    write_mnist(tmp_path, gz=gz)
    before = sorted(tmp_path.rglob("*"))
    data = load("mnist", tmp_path)
    assert data.x.shape == (50, 1, 28, 28) and data.x.dtype == np.float32 and data.y.dtype == np.int64
    assert data.is_test is not None and data.is_test.tolist() == [False] * 30 + [True] * 20
    np.testing.assert_allclose(data.x[:, 0, 0, 1], (np.r_[0:30, 0:20] / 255 - 0.1307) / 0.3081, atol=1e-5)
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be unpacked into the data folder"


def test_plain_and_gzipped_files_have_one_fingerprint(tmp_path: Path) -> None:
    write_mnist(tmp_path / "a", gz=False)
    write_mnist(tmp_path / "b", gz=True)
    assert load("mnist", tmp_path / "a").fingerprint == load("mnist", tmp_path / "b").fingerprint


def test_emnist_images_are_turned_upright(tmp_path: Path) -> None:
    names = ("emnist-balanced-train", "emnist-balanced-test")
    write_mnist(tmp_path, gz=False, folder="EMNIST/raw", names=names)
    data = load("emnist", tmp_path)
    assert len(data.classes) == 47
    np.testing.assert_allclose(data.x[:30, 0, 1, 0], (np.arange(30) / 255 - 0.1751) / 0.3332, atol=1e-5)


@pytest.mark.parametrize("keep", [0, 3, 10, 100, -1])
@pytest.mark.parametrize("gz", [False, True])
def test_a_truncated_idx_file_is_named(tmp_path: Path, gz: bool, keep: int) -> None:
    write_mnist(tmp_path, gz=gz)
    path = tmp_path / "MNIST/raw" / ("t10k-images-idx3-ubyte" + (".gz" if gz else ""))
    path.write_bytes(path.read_bytes()[:keep])
    one_line(path.name, "mnist", tmp_path)


def test_a_corrupted_gzip_file_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, gz=True)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    one_line(path.name, "mnist", tmp_path)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, gz=False)
    path = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.arange(29, dtype=np.uint8) % 10))
    one_line("train-images", "mnist", tmp_path)
    path.write_bytes(idx_bytes(np.full(30, 10, np.uint8)))
    one_line("labels", "mnist", tmp_path)
    path.write_bytes(idx_bytes(np.zeros((30, 1), np.uint8)))
    one_line("mnist", "mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn", "usps", "femnist", "hapt", "cifar10-jpeg"])
def test_an_absent_data_set_says_what_to_do(tmp_path: Path, name: str) -> None:
    error = one_line(name, name, tmp_path)
    assert "--data-dir" in error and "FLTK_DATA" in error and str(tmp_path) in error


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("femnist", "FEMNIST/femnist_360writers.npz"),
        ("hapt", "HAPT/hapt_windows.npz"),
        ("usps", "Digits/usps.npz"),
        ("cifar10-jpeg", "CIFAR10-jpeg/cifar10_jpeg_q75.npz"),
    ],
)
def test_a_damaged_npz_file_is_named(tmp_path: Path, name: str, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_bytes(b"")
    one_line(path.name, name, tmp_path)
    np.savez(path, other=np.zeros(3))
    one_line(path.name, name, tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    one_line(path.name, name, tmp_path)


def test_arrays_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "HAPT").mkdir()
    y = np.zeros(4, np.uint8)
    np.savez(
        tmp_path / "HAPT/hapt_windows.npz", x=np.zeros((4, 3)), y=y, subject=y, experiment=y, classes=np.array(["a"])
    )
    one_line("hapt", "hapt", tmp_path)


def test_npz_files_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FltkError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz", "x")


def test_idx_keeps_the_shape_of_its_header(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def test_an_unknown_name_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mnist"):
        load("mnits", tmp_path)


def one_line(needle: str, name: str, root: Path) -> str:
    with pytest.raises(FltkError) as caught:
        load(name, root)
    message = str(caught.value)
    assert needle in message and "\n" not in message
    return message


def test_a_gzip_file_that_unpacks_to_more_than_its_header_says_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((2, 28, 28), np.uint8)) + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(FltkError, match=r"bomb-ubyte.gz: .*its header says 1,568 bytes, and it holds more"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    path.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**22, 28, 28)))
    with pytest.raises(FltkError, match=r"more than the .* that are admitted"):
        read_idx(path)


def test_an_archive_that_unpacks_to_very_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(1 << 20, np.uint8), y=np.zeros(1 << 20, np.uint8))
    assert path.stat().st_size < 10_000
    assert len(read_npz(path, "x", "y")) == 2
    monkeypatch.setattr(bounded, "ARRAYS", (2 << 20) - 1)
    with pytest.raises(FltkError, match=r"bomb.npz: .*unpacked it takes 2,097,408 bytes, more than"):
        read_npz(path, "x")


def jpegs(root: Path, size: int, offset: list[int] | None = None) -> None:
    """Two images of `size` x `size` pixels as cifar10-jpeg has them, one to train and one to test."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "JPEG", quality=75)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    part = {"bytes": data[2:], "offset": np.array(offset or [0, len(data) - 2]), "label": np.zeros(1, np.uint8)}
    arrays = {f"{name}_{key}": value for name in ("train", "test") for key, value in part.items()}
    (root / "CIFAR10-jpeg").mkdir(exist_ok=True)
    np.savez(root / "CIFAR10-jpeg/cifar10_jpeg_q75.npz", jpeg_header=data[:2], classes=np.array(["a"]), **arrays)


def test_images_of_another_size_are_not_decoded(tmp_path: Path) -> None:
    jpegs(tmp_path, 32)
    assert len(load("cifar10-jpeg", tmp_path)) == 2
    jpegs(tmp_path, 512)
    with pytest.raises(FltkError, match="512 x 512 pixels"):
        load("cifar10-jpeg", tmp_path)


def test_images_that_overlap_are_refused(tmp_path: Path) -> None:
    """Every one of many images could be the whole file."""
    jpegs(tmp_path, 32, offset=[300, 0])
    with pytest.raises(FltkError, match="images overlap"):
        load("cifar10-jpeg", tmp_path)


def test_a_file_of_usps_that_unpacks_to_very_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision reads whatever lies there."""
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(b"1 1:0.5\n" * 1000))
    monkeypatch.setattr("fltk.data.vision.USPS_BYTES", 7999)
    with pytest.raises(FltkError, match=r"usps.bz2 unpacks to more than 7,999 bytes"):
        load("usps", tmp_path)
