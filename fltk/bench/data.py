"""The clients of a workload: MNIST where it is at hand, else the embedded digits, enlarged and repeated."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fltk import partition
from fltk.bench.workloads import DATASET
from fltk.config import PartitionConfig
from fltk.data import create, load
from fltk.data.dataset import Dataset
from fltk.data.sources import SOURCES, describe
from fltk.partition.federation import Federation, build

EMBEDDED = "digits"


def stands_in(data_dir: Path | None, download: bool) -> bool:
    """Whether the embedded digits have to do."""
    return not download and not any(source.name == DATASET and source.present for source in describe(data_dir))


@lru_cache(maxsize=1)
def federation(config: PartitionConfig, data_dir: Path | None, download: bool) -> Federation:
    """The clients; kept until others are asked for."""
    if stands_in(data_dir, download):
        config = replace(config, dataset=EMBEDDED)
        dataset = enlarged(config.subset)
    else:
        dataset = load(DATASET, data_dir, download=download, subset=config.subset)
    return build(dataset, partition.make(dataset, config))


def enlarged(samples: int) -> Dataset:
    """The embedded 8x8 digits in MNIST's shape, again and again until there are as many samples as asked for."""
    small = load(EMBEDDED, None)
    chosen = np.resize(np.arange(len(small)), samples)
    side = SOURCES[DATASET].shape[-1]
    large = F.interpolate(torch.from_numpy(small.x), size=(side, side), mode="bilinear")
    return create(EMBEDDED, large.numpy()[chosen], small.y[chosen], small.classes)
