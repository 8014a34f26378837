"""Checkpoints: weights come back bit for bit, old ones go, damage is noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fltk.errors import FltkError
from fltk.registry import Store

Begin = Callable[..., int]


def files(store: Store) -> set[str]:
    return {path.name for path in store.artifact_folder.rglob("*") if path.is_file()}


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}


def test_tensors_of_every_kind_come_back(store: Store, begin: Begin) -> None:
    run = begin(store)
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "view": base[1:],
        "transposed": base.t(),
        "shared": base,
        "shared-too": base,
        "empty": torch.zeros(0, 3),
        "empty-too": torch.zeros(0),
        "step": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "state": torch.arange(9, dtype=torch.uint8),
        "grad": torch.ones(2, requires_grad=True),
    }
    meta = {"method": "attn", "größe": "ü"}
    assert store.latest_checkpoint(run) is None
    store.add_checkpoint(run, 5, tensors, meta, keep=2)
    latest = store.latest_checkpoint(run)
    assert latest is not None
    number, found, described = latest
    assert number == 5 and described == meta and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert torch.equal(found[name].nan_to_num(), tensor.detach().nan_to_num()), name


def test_equal_checkpoints_have_equal_hashes(store: Store, begin: Begin) -> None:
    meta = {str(index): "x" for index in range(20)}
    first, second = begin(store), begin(store)
    assert store.add_checkpoint(first, 1, weights(0), meta, 2) == store.add_checkpoint(second, 1, weights(0), meta, 2)
    assert len(files(store)) == 1


def test_only_the_last_ones_are_kept(store: Store, begin: Begin) -> None:
    run = begin(store)
    hashes = [store.add_checkpoint(run, number, weights(number), {}, keep=2) for number in range(1, 6)]
    assert [row.round for row in store.checkpoints(run)] == [4, 5]
    assert files(store) == set(hashes[-2:])
    assert store.load_checkpoint(run, 4)[0] == 4
    with pytest.raises(FltkError, match="no checkpoint of round 1; kept: 4, 5"):
        store.load_checkpoint(run, 1)


def test_keep_zero_keeps_all(store: Store, begin: Begin) -> None:
    run = begin(store)
    for number in range(4):
        store.add_checkpoint(run, number, weights(number), {}, keep=0)
    assert len(store.checkpoints(run)) == len(files(store)) == 4


def test_a_shared_file_stays_while_a_row_needs_it(store: Store, begin: Begin) -> None:
    first, second = begin(store), begin(store)
    store.add_checkpoint(first, 1, weights(0), {}, keep=1)
    store.add_checkpoint(second, 1, weights(0), {}, keep=1)
    store.add_checkpoint(first, 2, weights(1), {}, keep=1)
    latest = store.latest_checkpoint(second)
    assert latest is not None and torch.equal(latest[1]["w"], weights(0)["w"])
    assert len(files(store)) == 2


def test_a_checkpoint_of_the_same_round_is_replaced(store: Store, begin: Begin) -> None:
    run = begin(store)
    for seed in (0, 1, 1):
        store.add_checkpoint(run, 1, weights(seed), {}, keep=2)
    assert len(store.checkpoints(run)) == len(files(store)) == 1
    latest = store.latest_checkpoint(run)
    assert latest is not None and torch.equal(latest[1]["w"], weights(1)["w"])


def test_after_resuming_from_an_early_round_the_new_one_is_the_latest(store: Store, begin: Begin) -> None:
    run = begin(store)
    for number in (5, 10, 6):
        store.add_checkpoint(run, number, weights(number), {}, keep=2)
    latest = store.latest_checkpoint(run)
    assert latest is not None and latest[0] == 6


@pytest.mark.parametrize("position", [0, 8, 40, -1])
def test_one_damaged_byte_is_noticed(store: Store, begin: Begin, position: int) -> None:
    run = begin(store)
    path = store._files.path(store.add_checkpoint(run, 1, weights(0), {}, keep=2))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(FltkError, match=f"{path} is damaged") as caught:
        store.latest_checkpoint(run)
    assert "\n" not in str(caught.value)


def test_a_truncated_and_a_missing_file_are_named(store: Store, begin: Begin) -> None:
    run = begin(store)
    path = store._files.path(store.add_checkpoint(run, 1, weights(0), {}, keep=2))
    os.truncate(path, 10)
    with pytest.raises(FltkError, match=f"{path} is damaged"):
        store.latest_checkpoint(run)
    path.unlink()
    with pytest.raises(FltkError, match=f"{path} is missing"):
        store.latest_checkpoint(run)
    store.add_checkpoint(run, 1, weights(0), {}, keep=2)  # storing the same content again repairs it
    assert store.latest_checkpoint(run) is not None


def test_a_crash_before_the_file_is_removed_leaves_only_an_orphan(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(store)
    store.add_checkpoint(run, 1, weights(0), {}, keep=1)

    def killed(hashes: set[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_remove_unreferenced", killed)
    with pytest.raises(KeyboardInterrupt):
        store.add_checkpoint(run, 2, weights(1), {}, keep=1)
    assert [row.round for row in store.checkpoints(run)] == [2]
    assert {row.sha256 for row in store.checkpoints(run)} < files(store)


def test_a_failed_row_leaves_no_row_without_file(store: Store, begin: Begin) -> None:
    begin(store)
    with pytest.raises(FltkError, match="no run 'run9'"):
        store.add_checkpoint(9, 1, weights(0), {}, keep=1)
    assert files(store) == set()


def test_an_artifact_folder_that_cannot_be_written_is_one_line(store: Store, begin: Begin) -> None:
    run = begin(store)
    store.artifact_folder.write_text("a file in the way")
    with pytest.raises(FltkError, match=f"cannot write to {store.artifact_folder}"):
        store.add_checkpoint(run, 1, weights(0), {}, keep=1)
    assert store.checkpoints(run) == []


def test_a_full_disk_is_one_line(store: Store, begin: Begin) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    run = begin(store)
    with (
        pytest.raises(FltkError, match="No space left"),
        store._files.stage(lambda path: Path("/dev/full").write_bytes(b"x" * 100_000)),
    ):
        pass
    assert store.checkpoints(run) == []


def test_leftovers_of_killed_processes_go_after_a_day(store: Store, begin: Begin) -> None:
    run = begin(store)
    store.add_checkpoint(run, 1, weights(0), {}, keep=1)
    staging = store.artifact_folder / "staging"
    old, new = staging / f"7-{'0' * 32}", staging / f"8-{'0' * 32}"
    old.write_text("half a file")
    new.write_text("half a file")
    past = time.time() - 25 * 3600
    os.utime(old, (past, past))
    store.add_checkpoint(run, 2, weights(1), {}, keep=1)
    assert list(staging.iterdir()) == [new]
