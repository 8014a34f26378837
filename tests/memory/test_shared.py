"""Matrices that processes share: who holds them, who reads and writes them, and that no bit depends on it."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import job, random, staffed

from fltk.engine.base import Bench
from fltk.engine.process import Pool
from fltk.engine.transport import pack, unpack
from fltk.errors import FltkError
from fltk.memory import shared
from fltk.memory.shared import SHELF, Shelf, renewed, rows_of, written_anew

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")


def test_a_matrix_is_held_by_its_views_and_then_given_out_again() -> None:
    shelf = Shelf()
    matrix = shelf.matrix(100, 5001)
    address, row = matrix.data_ptr(), matrix[7]
    assert matrix.shape == (100, 5001)
    assert all(r.data_ptr() % 64 == 0 and r.is_contiguous() for r in matrix)
    row.fill_(3)
    del matrix
    gc.collect()
    other = shelf.matrix(100, 5001)
    assert other.data_ptr() != address
    array = row.view(3, 1667).numpy()
    del row
    assert shelf.matrix(100, 5001).data_ptr() not in (address, other.data_ptr())
    assert (array == 3).all()
    del array
    again = {m.data_ptr() for m in [shelf.matrix(100, 5001) for _ in range(2)]}
    assert address in again
    assert len(shelf.blocks()) == 3


def test_free_blocks_make_way_for_those_of_another_size() -> None:
    shelf = Shelf()
    held = shelf.matrix(300, 2000)
    for _ in range(3):
        shelf.matrix(300, 3000)
    assert len(shelf.blocks()) == 2
    descriptors = [d for d, _ in shelf.blocks().values()]
    shelf.matrix(300, 4000)
    assert len(shelf.blocks()) == 2
    assert len(set(descriptors) & {d for d, _ in shelf.blocks().values()}) >= 1
    held.fill_(1)
    assert float(held.sum()) == 600_000


def test_what_is_small_or_very_large_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    for rows, width in ((1000, 10), (2, 2000), (0, 5000)):
        assert shelf.matrix(rows, width).shape == (rows, width)
    monkeypatch.setattr(shared, "MOST", 1 << 21)
    assert shelf.matrix(300, 2000).shape == (300, 2000)
    assert not shelf.blocks()
    monkeypatch.setattr(shared.SharedFile, "in_memory", lambda size: None)
    assert shelf.matrix(200, 2000).shape == (200, 2000)
    assert not shelf.blocks()


def test_only_what_lies_side_by_side_has_a_place() -> None:
    shelf = Shelf()
    matrix = shelf.matrix(200, 2001)
    assert shelf.place(matrix[3]) == shared.Place(1, 3 * 2016 * 4)
    assert shelf.place(matrix[3, 5:]) == shared.Place(1, (3 * 2016 + 5) * 4)
    assert shelf.place(matrix) is None
    assert shelf.place(matrix[:, 2]) is None
    assert shelf.place(torch.zeros(2001)) is None


def test_a_message_with_a_place_needs_the_shelf() -> None:
    matrix = SHELF.matrix(200, 2001)
    data = pack([matrix[4]], shelf=SHELF)
    assert len(data) < 500
    with pytest.raises(FltkError, match="without the shelf"):
        unpack(data)
    assert torch.equal(unpack(pack([matrix[4].fill_(2)]))[0], torch.full((2001,), 2.0))


@given(n=st.integers(1, 6), width=st.integers(1, 5), gap=st.integers(0, 3), data=st.data())
def test_rows_of_one_matrix_are_that_matrix(n: int, width: int, gap: int, data: st.DataObject) -> None:
    matrix = random(n, width + gap)[:, :width]
    found = rows_of(list(matrix))
    assert found is not None
    assert torch.equal(found, matrix)
    assert found.data_ptr() == matrix.data_ptr()
    order = data.draw(st.permutations(range(n)))
    other = rows_of([matrix[k] for k in order])
    assert (other is None) == (order != list(range(n)))
    if n > 1:
        assert rows_of([*matrix[:-1], matrix[-1].clone()]) is None
        assert rows_of([matrix[0]] * n) is None
        assert rows_of([*matrix[:-1], matrix[-1][:0]]) is None


def test_rows_that_overlap_are_no_matrix() -> None:
    row = random(10)
    assert rows_of([row[:4], row[2:6], row[4:8]]) is None
    assert rows_of([row[:6:2], row[1:7:2]]) is None
    assert rows_of([torch.zeros(()), torch.zeros(())]) is None


def test_renewed_rows_are_copied_only_where_some_stay() -> None:
    before, new = random(4, 3), random(4, 3, seed=1)
    whole = renewed(before, dict(enumerate(new)))
    assert whole.data_ptr() == new.data_ptr()
    some = renewed(before, {0: new[0], 2: new[2]})
    assert torch.equal(some, torch.stack([new[0], before[1], new[2], before[3]]))
    turned = renewed(before, {3: new[0], 2: new[1], 1: new[2], 0: new[3]})
    assert torch.equal(turned, new.flip(0))
    apart = renewed(before, {k: row.clone() for k, row in enumerate(new)})
    assert torch.equal(apart, new)
    assert renewed(before.double(), dict(enumerate(new))).dtype == torch.float64
    assert torch.equal(before, random(4, 3))
    assert torch.equal(written_anew(before, 3), before)


def twice(bench: Bench, task: Any) -> int:
    """Doubles a row into another one, and says who did."""
    row, into = task
    torch.mul(row, 2, out=into)
    return os.getpid()


def killed(bench: Bench, task: Any) -> int:
    """The same, but the first to come ends behind the writing."""
    row, into, mark = task
    torch.mul(row, 2, out=into)
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.fixture
def pool() -> Any:
    made = Pool(job("fedavg"), 2)
    staffed(made)
    yield made
    made.close()


def test_workers_read_and_write_rows_where_they_are(pool: Pool) -> None:
    for k in range(12):  # sizes change: blocks come and go
        rows = SHELF.matrix(40, 8000 + 1000 * (k % 3)).copy_(random(40, 8000 + 1000 * (k % 3), seed=k))
        into = SHELF.matrix(*rows.shape)
        assert os.getpid() not in pool.map(twice, list(zip(rows, into, strict=True)), [1] * 40)
        assert torch.equal(into, 2 * rows)
    assert len(SHELF.blocks()) <= 6


def test_rows_are_written_again_when_a_worker_ends(pool: Pool, tmp_path: Any) -> None:
    mark = str(tmp_path / "mark")
    rows = SHELF.matrix(40, 8000).copy_(random(40, 8000))
    into = SHELF.matrix(40, 8000)
    pool.map(killed, [(row, there, mark) for row, there in zip(rows, into.zero_(), strict=True)], [1] * 40)
    assert os.path.exists(mark)
    assert torch.equal(into, 2 * rows)


def test_rows_in_work_are_not_given_out_again(pool: Pool) -> None:
    rows = SHELF.matrix(40, 8000).fill_(1)
    for _ in range(5):
        some = SHELF.matrix(40, 8000).fill_(1)
        next(pool.fold(twice, sum, [[(row, row)] for row in some], [1] * 40))  # the others are not waited for
        address = some.data_ptr()
        del some
        gc.collect()
        fresh = SHELF.matrix(40, 8000).fill_(7)
        assert fresh.data_ptr() != address or not any(worker.flight for worker in pool._workers)
        pool.map(twice, [(row, row) for row in rows.fill_(1)], [1] * 40)
        assert torch.equal(fresh, torch.full((40, 8000), 7.0))
