"""Attention from file to file is attention in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import random

from fltk.attention import Options, attend, stream
from fltk.attention.stream import RowFile, attend_file, file_tokens, mix_file

K, P = 130, 700


@pytest.fixture
def models() -> Tensor:
    """Clients of ten kinds."""
    return random(1, P) + (random(10, P, seed=1)[torch.arange(K) % 10] + random(K, P, seed=2))


@pytest.fixture
def file(models: Tensor, tmp_path: Path) -> RowFile:
    models.numpy().tofile(tmp_path / "models.bin")
    return RowFile(tmp_path / "models.bin", K, P)


OPTIONS = [
    {},
    {"score": "relgap", "ceiling": 2, "bias": 0.3, "gamma": 0.5},
    {"score": "zscore", "lone": 0.9, "cap": 0.2},
    {"score": "raw", "self_weight": 0.4, "neighbours": 4, "hashes": 2, "r": 64},
]


@pytest.mark.parametrize("given", OPTIONS, ids=lambda given: given.get("score", "gap"))
def test_the_map_and_the_mix_are_those_of_memory(
    given: dict[str, Any], models: Tensor, file: RowFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BLOCK", 4 * K * 100)  # several blocks of columns, and of rows
    monkeypatch.setattr(stream, "TILE", 32)
    n, start = torch.arange(1.0, K + 1), random(P, seed=5)
    options = replace(Options(r=256, seed=3, round_seed=4), **given)
    found = attend_file(file, start, options, n)
    expected = attend(models, replace(options, sparse="lsh", proj="countsketch"), center=start, samples=n)
    torch.testing.assert_close(found.dense(), expected.map, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.ceiling, expected.ceiling)
    assert torch.equal(found.lone, expected.lone)
    mix_file(found, file, RowFile(tmp_path / "mixed.bin", K, P))
    mixed = RowFile(tmp_path / "mixed.bin", K, P).mapped()
    torch.testing.assert_close(mixed, (expected.map @ models.double()).float(), rtol=0, atol=1e-5)
    assert torch.equal(file.mapped(), models)


def test_every_pair_stands_in_one_bucket(file: RowFile) -> None:
    found = attend_file(file, torch.zeros(P))
    total = torch.zeros(K, K, dtype=torch.float64)
    for m, w in found.buckets:
        total[m[:, None], m] += w
    assert torch.equal(total, found.dense())


def test_blocks_of_rows_change_no_token(models: Tensor, file: RowFile, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file_tokens(file, torch.zeros(P), Options(r=50))
    monkeypatch.setattr(stream, "BLOCK", 1)
    assert torch.equal(file_tokens(file, torch.zeros(P), Options(r=50)), whole)
    assert whole.shape == (K, 50)


@pytest.mark.parametrize("refused", [{"sparse": "none"}, {"proj": "gaussian"}, {"hier": "kmeans"}])
def test_what_does_not_apply_to_files_is_refused(refused: dict[str, Any], file: RowFile) -> None:
    with pytest.raises(ValueError, match=next(iter(refused))):
        attend_file(file, torch.zeros(P), Options(**refused))
