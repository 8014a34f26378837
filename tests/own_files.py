"""Files of a user's own, for the tests: real tables and images, and plug-ins."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

MINE = '''"""Mine: FedAvg that shrinks each upload towards what came down.

Somebody. "A note." 2026.

    w_i <- down + shrink (w_i - down)
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from fltk.hyper import hyper
from fltk.methods.fedavg import FedAvg


@dataclass(frozen=True)
class Mine(FedAvg):
    title: ClassVar[str] = "uploads shrunk towards the server model"

    shrink: float = hyper(0.5, "share of the local update that is sent", low=0.0, high=1.0)

    def local_update(self, down, client, trainer):
        upload = super().local_update(down, client, trainer)
        return replace(upload, w=down.w + self.shrink * (upload.w - down.w))


class Net(nn.Sequential):
    def __init__(self, shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.Tanh(), nn.Linear(8, outputs))
'''


def plugin(folder: Path, text: str = MINE, name: str = "my.py") -> Path:
    """A plug-in file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def wine(path: Path) -> Path:
    """scikit-learn's wine table as csv, with a column of cellars as clients and one of regions as groups."""
    from sklearn.datasets import load_wine

    bunch = load_wine()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*bunch.feature_names, "kind", "cellar", "region"])
        for row, (values, target) in enumerate(zip(bunch.data, bunch.target, strict=True)):
            cellar = row % 6
            writer.writerow(
                [*values, bunch.target_names[target], f"cellar {cellar}", "north" if cellar < 3 else "south"]
            )
    return path


def breast_cancer() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    """scikit-learn's breast cancer table: (569, 30) features, labels 0 and 1, names of the features."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return bunch.data, bunch.target, [str(name) for name in bunch.feature_names]


def digits_as_pngs(folder: Path, *, clients: int = 0, size: int = 200) -> Path:
    """scikit-learn's digits as PNG files, CLASS/k.png or CLIENT/CLASS/k.png."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for k in range(size):
        pixels = np.round(bunch.images[k] * 255 / 16).astype(np.uint8)
        part = folder / f"site {k % clients}" if clients else folder
        place = part / str(bunch.target[k])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{k:04}.png")
    return folder
