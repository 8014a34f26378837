"""The data sets a user can name: one table of what they are, how to load them and how to get them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fltk.data import domains, loaders, targets, text
from fltk.data.dataset import Dataset, Floats, create, stream
from fltk.data.files import reading
from fltk.data.loaders import DIGITS, LETTERS, Raw, Request, idx_files
from fltk.data.subset import stratified
from fltk.errors import FltkError, unknown
from fltk.objectives import CLASSIFICATION, NextToken, Objective
from fltk.objectives.base import headline_of

CACHE = "~/.cache/fltk"
CLOTHES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
BALANCED = (*DIGITS, *LETTERS, *"abdefghnqrt")  # EMNIST: small letters that look unlike their capital
EMNIST = "emnist-balanced-"
CIFAR10_FILES = tuple(f"cifar-10-batches-py/{part}" for part in ("data_batch_1", "test_batch", "batches.meta"))
CIFAR100_FILES = tuple(f"cifar-100-python/{part}" for part in ("train", "test", "meta"))
DOMAIN_FILES = (*idx_files(domains.MNIST), loaders.USPS_FILE, domains.MNISTM_FILE)
FETCH = "--download fetches it"

# Mean and standard deviation of the training pixels per channel, in 0..1, by which images are standardised. Constants
# and not statistics of what was loaded: a subset, or a client that has few samples, must see the same numbers. It
# matters: FedAvg's mlp on rotated MNIST reaches 0.77, and 0.64 with pixels in -1..1 (mean of two seeds).
PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fmnist": ((0.2860,), (0.3530,)),
    "kmnist": ((0.1918,), (0.3483,)),
    "emnist": ((0.1751,), (0.3332,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "usps": ((0.2545,), (0.3846,)),
    "femnist": ((0.9635,), (0.1594,)),
    "digit-domains": ((0.2888,), (0.3300,)),
    "cifar10-jpeg": ((0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606)),
}


@dataclass(frozen=True)
class Source:
    """A row of the table."""

    loader: Callable[[Request], Raw]
    files: tuple[tuple[str, ...], ...]  # alternatives; all files of one of them make the data set present
    samples: int
    shape: tuple[int, ...]
    classes: int
    natural: str
    licence: str
    get: str
    objective: Objective = CLASSIFICATION

    def request(self, name: str, root: Path, *, download: bool = False, seed: int = 0) -> Request:
        return Request(name, root, download, seed, self.files, self.get)


@dataclass(frozen=True)
class SourceInfo:
    """What can be said about a data set without loading it."""

    name: str
    present: bool
    samples: int
    shape: tuple[int, ...]  # of one sample
    classes: int
    natural: str  # natural clients, e.g. "360 writers", or ""
    licence: str
    get: str


SOURCES: dict[str, Source] = {
    "digits": Source(loaders.digits, ((),), 1797, (1, 8, 8), 10, "", "CC BY 4.0 (UCI)", "comes with scikit-learn"),
    "mnist": Source(
        loaders.idx(domains.MNIST, DIGITS),
        (idx_files(domains.MNIST),),
        *(70000, (1, 28, 28), 10, "", "CC BY-SA 3.0", FETCH),
    ),
    "fmnist": Source(
        loaders.idx("FashionMNIST/raw", CLOTHES),
        (idx_files("FashionMNIST/raw"),),
        *(70000, (1, 28, 28), 10, "", "MIT", FETCH),
    ),
    "kmnist": Source(
        loaders.idx("KMNIST/raw", KANA),
        (idx_files("KMNIST/raw"),),
        *(70000, (1, 28, 28), 10, "", "CC BY-SA 4.0", FETCH),
    ),
    "emnist": Source(
        loaders.idx("EMNIST/raw", BALANCED, EMNIST),
        (idx_files("EMNIST/raw", EMNIST),),
        *(131600, (1, 28, 28), 47, "", "public domain (NIST)", f"balanced split; {FETCH}"),
    ),
    "cifar10": Source(
        loaders.torchvision_images,
        (CIFAR10_FILES,),
        *(60000, (3, 32, 32), 10, "", "none stated; cite Krizhevsky 2009", FETCH),
    ),
    "cifar100": Source(
        loaders.torchvision_images,
        (CIFAR100_FILES,),
        *(60000, (3, 32, 32), 100, "", "none stated; cite Krizhevsky 2009", FETCH),
    ),
    "svhn": Source(
        loaders.torchvision_images,
        (("train_32x32.mat", "test_32x32.mat"),),
        *(99289, (3, 32, 32), 10, "", "non-commercial use", FETCH),
    ),
    "usps": Source(
        loaders.usps,
        (loaders.USPS_TORCHVISION, (loaders.USPS_FILE,)),
        *(
            9298,
            (1, 16, 16),
            10,
            "",
            "none stated; cite Hull 1994",
            f"{FETCH}, or put {loaders.USPS_FILE} there",
        ),
    ),
    "femnist": Source(
        loaders.femnist,
        ((loaders.FEMNIST_FILE,),),
        *(80184, (1, 28, 28), 62, "360 writers", "public domain (NIST SD 19)"),
        f"needs {loaders.FEMNIST_FILE} with the arrays x, y, writer, writer_ids",
    ),
    "hapt": Source(
        loaders.hapt,
        ((loaders.HAPT_FILE,),),
        *(10411, (6, 128), 6, "30 people", "CC BY 4.0 (UCI)"),
        f"needs {loaders.HAPT_FILE} with the arrays x, y, subject, experiment, classes",
    ),
    "digit-domains": Source(
        domains.digit_domains,
        (DOMAIN_FILES,),
        *(7188, (1, 28, 28), 10, "4 domains", "as its parts; MNIST-M: non-commercial research"),
        f"needs mnist, and {loaders.USPS_FILE} and {domains.MNISTM_FILE} with x_*, y_* for train and test",
    ),
    "cifar10-jpeg": Source(
        loaders.cifar10_jpeg,
        ((loaders.JPEG_FILE,),),
        *(60000, (3, 32, 32), 10, "", "none stated; cite Krizhevsky 2009"),
        f"needs {loaders.JPEG_FILE}: recompressed images, not the original pixels",
    ),
    "shakespeare": Source(
        text.shakespeare,
        ((text.SHAKESPEARE_FILE,),),
        *(306336, (text.WINDOW,), len(text.VOCABULARY), "506 roles", "public domain (Moby Shakespeare)"),
        f"needs {text.SHAKESPEARE_FILE}: speeches by role; next character",
        objective=NextToken(),
    ),
    "diabetes": Source(
        targets.diabetes,
        ((),),
        *(442, (10,), targets.RANGES, "", "none stated; cite Efron et al. 2004"),
        "comes with scikit-learn; regression",
        objective=targets.DIABETES,
    ),
}


def load(name: str, data_dir: Path | None, *, download: bool = False, subset: int = 0, seed: int = 0) -> Dataset:
    """The named data set, or `subset` samples of it, stratified by owner, official split and label.

    `seed` decides the subset. `data_dir` None means the folder in the environment variable FLTK_DATA, else
    ~/.cache/fltk. Raises FltkError when the data are absent or damaged, UsageError for an unknown name.
    """
    if name not in SOURCES:
        raise unknown("dataset", name, SOURCES, "--dataset")
    root = folder(data_dir)
    with reading(f"--dataset {name} under {root}"):
        raw = SOURCES[name].loader(SOURCES[name].request(name, root, download=download, seed=seed))
        if raw.y.ndim != 1 or len(raw.y) == 0 or raw.y.min() < 0 or raw.y.max() >= len(raw.classes):
            raise FltkError(f"--dataset {name}: the labels under {root} are not all in 0..{len(raw.classes) - 1}")
        return _materialise(name, raw, subset, seed)


def _materialise(name: str, raw: Raw, subset: int, seed: int) -> Dataset:
    keep = np.arange(len(raw.y), dtype=np.int64)
    if 0 < subset < len(raw.y):
        keys = [key.astype(np.int64) for key in (raw.owner, raw.is_test, raw.y) if key is not None]
        keep = stratified(subset, keys, stream(seed, "data/subset"))
    return create(
        name,
        standardised(name, raw.take(keep)),
        raw.y[keep],
        raw.classes,
        is_test=None if raw.is_test is None else raw.is_test[keep],
        owner=None if raw.owner is None else raw.owner[keep],
        owner_kind=raw.owner_kind,
        owner_names=raw.owner_names,
        session=None if raw.session is None else raw.session[keep],
        objective=raw.objective,
        targets=None if raw.targets is None else raw.targets[keep],
    )


def standardised(name: str, x: Floats) -> Floats:
    """Images (n, C, H, W) in 0..1 with the data set's mean taken off and divided by its deviation, in place.

    Time series keep their physical units.
    """
    if name in PIXELS:
        for channel, (mean, deviation) in enumerate(zip(*PIXELS[name], strict=True)):
            x[:, channel] -= np.float32(mean)
            x[:, channel] /= np.float32(deviation)
    return x


def describe(data_dir: Path | None) -> list[SourceInfo]:
    """All data sets in the order of the table; looks at file names only."""
    root = folder(data_dir)
    return [
        SourceInfo(name, s.request(name, root).present, s.samples, s.shape, s.classes, s.natural, s.licence, s.get)
        for name, s in SOURCES.items()
    ]


def unit_of(name: str) -> str:
    """The unit of a data set's target, as far as it is known."""
    source = SOURCES.get(name)
    return "of the target" if source is None else headline_of(source.objective).unit


def folder(data_dir: Path | None) -> Path:
    """Where data sets lie: the folder that is given, else FLTK_DATA, else CACHE."""
    return Path(data_dir or os.environ.get("FLTK_DATA") or CACHE).expanduser()
