"""Folders of data as other programs write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def folder_of_pfllib(folder: Path, flip: bool = False) -> Path:
    """Three small clients as PFLlib stores them; `flip` turns one bit of one pixel."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("test", 12)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i in range(3):
            x, y = rng.random((n, 1, 4, 4)).astype(np.float32), np.arange(n) % 3
            if flip and (part, i) == ("test", 2):
                x.view(np.uint8)[5, 0, 1, 2] ^= 1
            with (folder / part / f"{i}.npz").open("wb") as file:
                np.savez_compressed(file, data={"x": x, "y": y})
    (folder / "config.json").write_text(json.dumps({"num_clients": 3}))
    return folder
