"""A folder of images: CLASS/image, or CLIENT/CLASS/image, either below train, val and test folders or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fltk.bounded import ARRAYS
from fltk.data.files import reading
from fltk.errors import FltkError, UsageError
from fltk.own_data import images

SPLITS = ("train", "val", "test")
CHANNELS = {"L": 1, "RGB": 3}  # Pillow's modes that are read
FORMATS = ("PNG", "JPEG", "BMP", "PPM")


@dataclass(frozen=True)
class Images:
    """What a folder holds: `x` (n, C, H, W) in 0..1, and what the folders say of each image; None where they do not."""

    x: npt.NDArray[np.float32]
    labels: npt.NDArray[np.str_]
    clients: npt.NDArray[np.str_] | None
    split: npt.NDArray[np.str_] | None


def read(folder: Path, shown: str) -> Images:
    """All images below a folder, in the order of their names. UsageError naming what does not fit."""
    where = f"--dataset {shown}"
    files = images(folder)
    if not files:
        raise UsageError(f"{where}: the folder holds no images; it needs a folder for each class")
    _check_empty(folder, files, where)

    places = [name.split("/")[:-1] for name in files]
    split = None
    if all(place and place[0] in SPLITS for place in places):
        split = np.array([place[0] for place in places])
        places = [place[1:] for place in places]
    depth = len(places[0])
    for name, place in zip(files, places, strict=True):
        if len(place) != depth or depth not in (1, 2):
            raise UsageError(
                f"{where}: {name} lies in no folder of a class: all images are CLASS/image, or all CLIENT/CLASS/image"
            )
    labels = np.array([place[-1] for place in places])
    clients = np.array([place[0] for place in places]) if depth == 2 else None
    return Images(_decoded(folder, files, where), labels, clients, split)


def _check_empty(folder: Path, files: Sequence[str], where: str) -> None:
    """UsageError for a folder without images: a class that nobody has, or images of a format that is not read."""
    filled = {parent.as_posix() for name in files for parent in Path(name).parents}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink() and relative not in filled:
            raise UsageError(f"{where}: the folder {relative} holds no images (png, jpeg, bmp, ppm); remove it")


def _decoded(folder: Path, files: Sequence[str], where: str) -> npt.NDArray[np.float32]:
    """(n, C, H, W) in 0..1 of images that agree in size and channels."""
    first = _pixels(folder / files[0], files[0], where)
    if math.prod(first.shape) * len(files) > ARRAYS:
        raise UsageError(f"{where}: {len(files):,} images of {_size(first)} take more than {ARRAYS:,} bytes")
    x = np.empty((len(files), first.shape[2], *first.shape[:2]), np.float32)
    for place, name in enumerate(files):
        pixels = _pixels(folder / name, name, where)
        if pixels.shape != first.shape:
            raise UsageError(
                f"{where}: {name} is {_size(pixels)}, and {files[0]} is {_size(first)}: all images need the same size "
                "and channels"
            )
        x[place] = pixels.transpose(2, 0, 1)
    x /= 255
    return x


def _pixels(path: Path, name: str, where: str) -> npt.NDArray[np.uint8]:
    """(H, W, C) bytes of one image."""
    try:
        from PIL import Image
    except ImportError:
        raise FltkError(f"{where}: images are read by Pillow: install it (pip install pillow)") from None
    with reading(f"{where}: {name}"):
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.mode not in CHANNELS:
                    raise UsageError(f"{where}: {name} has the mode {image.mode}; save it as grey or RGB")
                if image.width * image.height * CHANNELS[image.mode] > ARRAYS:
                    raise UsageError(f"{where}: {name} is larger than {ARRAYS:,} bytes")
                pixels = np.asarray(image, np.uint8)
        except Image.DecompressionBombError as error:
            raise UsageError(f"{where}: {name}: {error}") from None
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _size(pixels: npt.NDArray[np.uint8]) -> str:
    height, width, channels = pixels.shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"
