"""The bubble chart of a partition."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.collections import PathCollection

from fltk.errors import FltkError
from fltk.plots.partition import PartitionTable, partition_bubbles
from fltk.plots.save import save_figure

NAMES = ("zero", "one", "two", "three")


def some_counts(n: int = 10) -> npt.NDArray[Any]:
    counts = np.random.default_rng(0).integers(0, 30, (n, 4))
    counts[counts < 10] = 0
    return counts


def test_rows_are_the_drawn_bubbles() -> None:
    counts = some_counts()
    figure, rows = partition_bubbles(PartitionTable(counts, NAMES, newcomers=2, groups=np.arange(10) % 3))
    bubbles = figure.axes[0].collections[0]
    assert isinstance(bubbles, PathCollection)
    places = np.asarray(bubbles.get_offsets())
    assert places.tolist() == [[row["position"], row["class"]] for row in rows]
    samples = np.array([row["samples"] for row in rows])
    assert np.allclose(np.asarray(bubbles.get_sizes()) / samples, bubbles.get_sizes()[0] / samples[0])
    for row in rows:
        assert row["samples"] == counts[row["client"], row["class"]] > 0
        assert row["label"] == NAMES[row["class"]]
        assert row["group"] == row["client"] % 3
    assert len(rows) == np.count_nonzero(counts)


def test_groups_stand_together_and_newcomers_last() -> None:
    table = PartitionTable(np.ones((10, 4), dtype=int), NAMES, newcomers=3, groups=np.arange(10) % 3)
    figure, rows = partition_bubbles(table)
    assert list(dict.fromkeys(row["client"] for row in rows)) == [0, 3, 6, 1, 4, 2, 5, 9, 7, 8]
    assert [row["newcomer"] for row in rows] == [row["client"] >= 7 for row in rows]
    notes = [text.get_text() for text in figure.axes[0].texts]
    assert notes == ["group 0", "group 1", "group 2", "newcomers"]
    lines = [float(np.asarray(line.get_xdata())[0]) for line in figure.axes[0].get_lines()]
    assert lines == [2.5, 4.5, 6.5]


def test_ids_are_shown_as_given() -> None:
    counts = np.array([[1, 0, 0, 0], [0, 5, 0, 0]])
    figure, rows = partition_bubbles(PartitionTable(counts, NAMES, ids=np.array([40, 70])))
    assert [row["client"] for row in rows] == [40, 70]
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["40", "70"]


@pytest.mark.parametrize(("n", "classes"), [(1, 1), (4, 10), (24, 62), (120, 100)])
def test_any_size_fits_the_page(tmp_path: Path, n: int, classes: int) -> None:
    counts = np.random.default_rng(1).integers(1, 9, (n, classes))
    names = tuple(str(k) for k in range(classes))
    figure, _ = partition_bubbles(PartitionTable(counts, names, newcomers=n // 5, groups=np.arange(n) % 4))
    save_figure(figure, tmp_path / "partition.png")
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.x1 <= 3.36 and box.y1 <= figure.get_size_inches()[1] + 0.01


def test_an_empty_partition_is_told() -> None:
    with pytest.raises(FltkError, match="no training samples"):
        partition_bubbles(PartitionTable(np.zeros((3, 4), dtype=int), NAMES))


def test_no_bubble_vanishes_or_is_cut() -> None:
    counts = np.ones((120, 10), int)
    counts[0, 0], counts[119, 9] = 5000, 5000
    figure, _ = partition_bubbles(PartitionTable(counts, tuple("0123456789")))
    figure.canvas.draw()
    ax = figure.axes[0]
    bubbles = ax.collections[0]
    assert bubbles.get_sizes().min() >= 0.8
    radius = bubbles.get_sizes().max() ** 0.5 / 2 * figure.dpi / 72
    first, last = ax.transData.transform([(0, 0), (119, 9)])
    box = ax.get_window_extent()
    assert first[0] - radius >= box.x0 and last[0] + radius <= box.x1


def test_client_numbers_stay_apart_beside_long_label_names() -> None:
    counts = np.ones((40, 2), int)
    figure, _ = partition_bubbles(PartitionTable(counts, ("walking_upstairs", "a_label_with_a_long_name")))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels() if text.get_text()]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
