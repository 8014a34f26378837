"""Loading, subsets, fingerprints, and what a description says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fltk.data import describe, load
from fltk.data.dataset import create, digest, stream
from fltk.data.domains import enlarge
from fltk.data.subset import stratified
from fltk.names import DATASETS


def test_digits_come_without_a_folder() -> None:
    data = load("digits", None)
    assert data.x.shape == (1797, 1, 8, 8) and data.x.dtype == np.float32
    assert abs(data.x.mean()) < 1e-3 and abs(data.x.std() - 1) < 1e-3  # by the constants of the table
    assert data.is_test is None and data.owner is None and data.session is None


def test_every_named_data_set_is_described(tmp_path: Path) -> None:
    rows = describe(tmp_path)
    assert [row.name for row in rows] == list(DATASETS)
    assert {row.name for row in rows if row.present} == {"digits", "diabetes"}
    assert all(row.licence and row.get and row.samples > 0 for row in rows)


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Digits").mkdir()
    (tmp_path / "Digits/usps.npz").touch()
    monkeypatch.setenv("FLTK_DATA", str(tmp_path))
    assert {row.name for row in describe(None) if row.present} == {"digits", "diabetes", "usps"}
    assert {row.name for row in describe(tmp_path / "Digits") if row.present} == {"digits", "diabetes"}


def test_nothing_heavy_is_imported_for_a_description() -> None:
    code = "import sys, fltk.data, fltk.partition; fltk.data.describe(None); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"'torch'", "'torchvision'", "'sklearn'", "'PIL'"} & set(done.stdout.strip("[]\n").split(", "))


def test_a_subset_is_stratified_seeded_and_part_of_the_whole() -> None:
    whole, part = load("digits", None), load("digits", None, subset=500, seed=3)
    assert len(part) == 500
    ideal = np.bincount(whole.y) * 500 / len(whole)
    assert np.abs(np.bincount(part.y) - ideal).max() < 1
    rows = {row.tobytes() for row in whole.x}
    assert all(row.tobytes() in rows for row in part.x)
    assert part.fingerprint == load("digits", None, subset=500, seed=3).fingerprint
    assert part.fingerprint != load("digits", None, subset=500, seed=4).fingerprint
    assert load("digits", None, subset=5000).fingerprint == whole.fingerprint


@given(
    keys=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=80),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 100),
)
def test_systematic_sampling_is_proportional_at_every_level(
    keys: list[tuple[int, int]], share: float, seed: int
) -> None:
    owner, label = (np.array(key, np.int64) for key in zip(*keys, strict=True))
    size = max(1, int(share * len(keys)))
    kept = stratified(size, [owner, label], stream(seed, "test"))
    assert len(kept) == size == len(set(kept.tolist())) and (np.diff(kept) > 0).all()
    for group in (owner, owner * 10 + label):
        names, counts = np.unique(group, return_counts=True)
        got = np.array([(group[kept] == name).sum() for name in names])
        assert (np.abs(got - counts * size / len(keys)) < 1 + 1e-9).all()


def test_a_fingerprint_ignores_memory_layout_and_byte_order() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    known = digest({"x": x})
    assert digest({"x": np.asfortranarray(x)}) == known == digest({"x": x.astype(">f4")})
    assert len({known, digest({"x": x.reshape(4, 3)}), digest({"y": x}), digest({"x": None})}) == 4
    # Computed once with hashlib alone: sha256(b"y:<i8:(3,);" + bytes of 0, 1, 2 as little-endian int64).
    assert digest({"y": np.arange(3)}) == "a80c0dcfaae0962488a73b5a9cd42f75e2d2035495a937f942f68ad358f180f5"


@pytest.mark.parametrize("change", ["x", "y", "is_test", "owner", "session"])
def test_every_array_counts_in_the_fingerprint(change: str) -> None:
    arrays = {
        "x": np.zeros((4, 1, 2, 2), np.float32),
        "y": np.zeros(4, np.int64),
        "is_test": np.zeros(4, np.bool_),
        "owner": np.zeros(4, np.int64),
        "session": np.zeros(4, np.int64),
    }
    before = make(arrays)
    arrays[change] = arrays[change].copy()
    arrays[change].flat[0] = 1
    assert make(arrays) != before


def make(arrays: dict[str, np.ndarray]) -> str:
    return create("toy", classes=("a", "b"), **arrays).fingerprint


def test_streams_of_different_purposes_are_independent() -> None:
    draws = {name: stream(0, name).random(4).tobytes() for name in ("a", "b", "a/0")}
    assert len(set(draws.values())) == 3 and draws["a"] == stream(0, "a").random(4).tobytes()
    assert stream(0, "a", 1).random() != stream(0, "a", 2).random()


def test_enlarging_keeps_constants_lines_and_range() -> None:
    flat = np.full((2, 8, 8), 0.25, np.float32)
    np.testing.assert_allclose(enlarge(flat, 28), 0.25)
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32), (1, 16, 16))
    wide = enlarge(ramp, 28)
    np.testing.assert_allclose(wide[0, 0], np.clip((np.arange(28) + 0.5) * 16 / 28 - 0.5, 0, 15), atol=1e-5)
    noise = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    assert enlarge(noise, 28).min() >= noise.min() - 1e-6 and enlarge(noise, 28).max() <= noise.max() + 1e-6
