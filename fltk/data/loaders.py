"""One small loader per data set.

A loader reads labels and origins at once and hands back `take`, which makes float32 samples of the chosen
positions only, so that a subset is cut before anything is decoded or converted.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fltk.data import vision
from fltk.data.dataset import Bools, Floats, Ints
from fltk.data.files import Bytes, find, read_idx, read_npz, reading
from fltk.errors import FltkError
from fltk.objectives import CLASSIFICATION, Objective

DIGITS = tuple(str(digit) for digit in range(10))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IDX_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
USPS_TORCHVISION = ("usps.bz2", "usps.t.bz2")
USPS_FILE = "Digits/usps.npz"
FEMNIST_FILE = "FEMNIST/femnist_360writers.npz"
HAPT_FILE = "HAPT/hapt_windows.npz"
JPEG_FILE = "CIFAR10-jpeg/cifar10_jpeg_q75.npz"

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Request:
    """What a loader is given."""

    name: str
    root: Path
    download: bool
    seed: int
    files: tuple[tuple[str, ...], ...]  # alternatives; all files of one of them make the data set present
    get: str  # how a user gets the data, for the error when they are absent

    @property
    def present(self) -> bool:
        return any(all(find(self.root / file) for file in files) for files in self.files)

    def absent(self) -> FltkError:
        return FltkError(
            f"--dataset {self.name}: not found under {self.root}; set --data-dir or FLTK_DATA ({self.get})"
        )

    def file(self, relative: str) -> Path:
        """Path of a file that has to be there."""
        path = self.root / relative
        if not path.is_file():
            raise self.absent()
        return path


@dataclass(frozen=True)
class Raw:
    """What a loader gives: everything but the samples, and a way to make those of sorted positions."""

    y: Ints  # (n,)
    classes: tuple[str, ...]
    take: Callable[[Ints], Floats]
    is_test: Bools | None = None
    owner: Ints | None = None
    owner_kind: str | None = None
    owner_names: tuple[str, ...] = ()
    session: Ints | None = None
    objective: Objective = CLASSIFICATION
    targets: Floats | None = None


def scaled(pixels: Bytes) -> Floats:
    """0..255 -> 0..1 with one float copy; in-place steps round the same way on every machine."""
    x = pixels.astype(np.float32)
    x /= 255
    return x


def _grey(pixels: Bytes) -> Callable[[Ints], Floats]:
    return lambda keep: scaled(pixels[keep])[:, None]


def _colour(pixels: Bytes) -> Callable[[Ints], Floats]:
    """(n, H, W, 3) -> (n, 3, H, W)."""
    return lambda keep: scaled(np.ascontiguousarray(pixels[keep].transpose(0, 3, 1, 2)))


def _train_then_test(n_train: int, n: int) -> Bools:
    return np.arange(n) >= n_train


def _same_length(path: Path, *arrays: Array) -> None:
    with reading(path):
        if len({len(array) for array in arrays}) != 1:
            raise ValueError("samples and labels differ in number")


def digits(request: Request) -> Raw:
    """Real 8x8 scans that come with scikit-learn; no official split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images, np.float32)  # (1797, 8, 8), 0..16

    def take(keep: Ints) -> Floats:
        return (images[keep] / np.float32(16))[:, None]

    return Raw(np.asarray(bunch.target, np.int64), DIGITS, take)


def idx(folder: str, classes: tuple[str, ...], prefix: str = "") -> Callable[[Request], Raw]:
    """MNIST and its kin, in torchvision's folder layout, plain or gzipped; read as they lie."""

    def read(request: Request) -> Raw:
        if request.download and not request.present:
            vision.download_idx(request.name, request.root)
        images, labels = [], []
        for part in ("train", "test" if prefix else "t10k"):
            paths = [find(request.root / folder / f"{prefix}{part}-{kind}") for kind in IDX_KINDS]
            if paths[0] is None or paths[1] is None:
                raise request.absent()
            images.append(read_idx(paths[0]))
            labels.append(read_idx(paths[1]))
            _same_length(paths[0], images[-1], labels[-1])
            with reading(paths[0]):
                if images[-1].ndim != 3:
                    raise ValueError("not a file of images")
        pixels = np.concatenate(images)
        if prefix:  # EMNIST stores its images transposed
            pixels = pixels.transpose(0, 2, 1)
        is_test = _train_then_test(len(images[0]), len(pixels))
        return Raw(np.concatenate(labels).astype(np.int64), classes, _grey(pixels), is_test)

    return read


def idx_files(folder: str, prefix: str = "") -> tuple[str, ...]:
    """The four files that `idx` reads, without the .gz they may end in."""
    parts = ("train", "test" if prefix else "t10k")
    return tuple(f"{folder}/{prefix}{part}-{kind}" for part in parts for kind in IDX_KINDS)


def torchvision_images(request: Request) -> Raw:
    """CIFAR-10, CIFAR-100, SVHN, USPS as torchvision stores and checks them."""
    if not request.download and not request.present:
        raise request.absent()
    got = vision.fetch(request.name, request.root, download=request.download)
    take = _colour(got.x) if got.x.ndim == 4 else _grey(got.x)
    return Raw(got.y, got.classes, take, _train_then_test(got.n_train, len(got.y)))


def usps(request: Request) -> Raw:
    """16x16 grey: torchvision's files, which it rounds to bytes, or else Digits/usps.npz (float, 0..1)."""
    fetched = all((request.root / file).is_file() for file in USPS_TORCHVISION)
    if fetched or (request.download and not request.present):
        return torchvision_images(request)
    x, y, n_train = usps_npz(request)
    return Raw(y, DIGITS, lambda keep: x[keep][:, None], _train_then_test(n_train, len(y)))


def usps_npz(request: Request) -> tuple[Floats, Ints, int]:
    """Images (9298, 16, 16) in 0..1, labels, and how many of them are training images."""
    path = request.file(USPS_FILE)
    xs, ys = two_parts(path)
    return np.concatenate(xs).astype(np.float32), np.concatenate(ys).astype(np.int64), len(xs[0])


def two_parts(path: Path) -> tuple[list[Array], list[Array]]:
    """Images and labels of the training and the test part."""
    x_train, y_train, x_test, y_test = read_npz(path, "x_train", "y_train", "x_test", "y_test")
    _same_length(path, x_train, y_train)
    _same_length(path, x_test, y_test)
    return [x_train, x_test], [y_train, y_test]


def femnist(request: Request) -> Raw:
    """LEAF's 62 classes by writer. Ink is dark on white, the opposite of MNIST, and is left so."""
    path = request.file(FEMNIST_FILE)
    x, y, writer, names = read_npz(path, "x", "y", "writer", "writer_ids")
    _same_length(path, x, y, writer)
    classes = (*DIGITS, *LETTERS, *LETTERS.lower())
    owner = writer.astype(np.int64)
    take = _grey(x.astype(np.uint8, copy=False))
    return Raw(y.astype(np.int64), classes, take, None, owner, "writer", tuple(str(n) for n in names))


def hapt(request: Request) -> Raw:
    """Phone motion: six channels (g, rad/s) of 128 steps at 50 Hz; windows of a recording overlap by half."""
    path = request.file(HAPT_FILE)
    x, y, subject, experiment, classes = read_npz(path, "x", "y", "subject", "experiment", "classes")
    _same_length(path, x, y, subject, experiment)
    people, owner = np.unique(subject, return_inverse=True)
    _, session = np.unique(np.stack([subject, experiment]), axis=1, return_inverse=True)
    names = tuple(f"person {number:02d}" for number in people)

    def take(keep: Ints) -> Floats:
        return np.ascontiguousarray(x[keep].transpose(0, 2, 1), np.float32)

    return Raw(
        y.astype(np.int64),
        tuple(str(c) for c in classes),
        take,
        None,
        owner.reshape(-1).astype(np.int64),
        "person",
        names,
        session.reshape(-1).astype(np.int64),
    )


def cifar10_jpeg(request: Request) -> Raw:
    """CIFAR-10 after JPEG compression (quality 75): not the original pixels."""
    path = request.file(JPEG_FILE)
    parts = ("train", "test")
    keys = [f"{part}_{what}" for part in parts for what in ("bytes", "offset", "label")]
    header, classes, *rest = read_npz(path, "jpeg_header", "classes", *keys)
    start = header.tobytes()
    n_train = len(rest[2])
    y = np.concatenate([rest[2], rest[5]]).astype(np.int64)
    _same_length(path, y, np.concatenate([rest[1][1:], rest[4][1:]]))
    with reading(path):
        for offset in (rest[1], rest[4]):
            if offset.dtype.kind not in "iu" or (np.diff(offset.astype(np.int64)) < 0).any():
                raise ValueError("images overlap")

    def jpeg(position: int) -> bytes:
        data, offset, _ = rest[:3] if position < n_train else rest[3:]
        i = position if position < n_train else position - n_train
        return start + data[offset[i] : offset[i + 1]].tobytes()

    def take(keep: Ints) -> Floats:
        return scaled(np.ascontiguousarray(_decode([jpeg(i) for i in keep.tolist()], path).transpose(0, 3, 1, 2)))

    return Raw(y, tuple(str(c) for c in classes), take, _train_then_test(n_train, len(y)))


def _decode(jpegs: list[bytes], path: Path) -> Bytes:
    """JPEG files in memory -> (n, 32, 32, 3)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise FltkError("--dataset cifar10-jpeg: decoding needs pillow (pip install pillow)") from error
    pixels = np.empty((len(jpegs), 32, 32, 3), np.uint8)
    with reading(path):
        for i, data in enumerate(jpegs):
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
            if image.size != (32, 32):  # before it is decoded, which takes as much memory as it says
                raise ValueError(f"an image of {image.width} x {image.height} pixels")
            pixels[i] = np.asarray(image.convert("RGB"))
    return pixels
