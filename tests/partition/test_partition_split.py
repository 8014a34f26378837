"""Cutting parts off: sizes, proportions, and no shared measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fltk.data.dataset import stream
from fltk.partition import split

SHARES = st.floats(0, 0.95)


def runs(lengths: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and sessions of runs given as (session, label, length), in time order."""
    labels = np.concatenate([np.full(n, label) for _, label, n in lengths])
    sessions = np.concatenate([np.full(n, session) for session, _, n in lengths])
    return labels.astype(np.int64), sessions.astype(np.int64)


@given(y=st.lists(st.integers(0, 4), min_size=1, max_size=60), share=SHARES, seed=st.integers(0, 99))
def test_a_stratified_cut_is_proportional_and_leaves_something(y: list[int], share: float, seed: int) -> None:
    labels = np.array(y)
    indices = np.flatnonzero(np.arange(len(y)) % 3 < 2)
    left, cut = split.stratified(indices, labels, share, stream(seed, "t"))
    np.testing.assert_array_equal(np.sort(np.r_[left, cut]), indices)
    assert (np.diff(left) > 0).all() and (np.diff(cut) > 0).all() and len(left) >= 1
    n = len(indices)
    assert len(cut) == (min(max(1, int(n * share + 0.5)), n - 1) if share else 0)
    ideal = np.bincount(labels[indices], minlength=5) * len(cut) / n
    assert (np.abs(np.bincount(labels[cut], minlength=5) - ideal) < 1).all()


def test_matched_test_sets_follow_the_training_proportions() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1200)
    train = [np.sort(p) for p in np.split(rng.permutation(1000), [500, 600])]
    official = np.arange(1000, 1200)
    test = split.matched(train, official, labels, stream(0, "t"))
    np.testing.assert_array_equal(np.sort(np.concatenate(test)), official)
    for part, mine in zip(train, test, strict=True):
        ideal = (
            np.bincount(labels[part], minlength=4)
            * np.bincount(labels[official], minlength=4)
            / np.bincount(labels[:1000], minlength=4)
        )
        assert (np.abs(np.bincount(labels[mine], minlength=4) - ideal) < 1).all()


def test_matching_leaves_out_classes_that_nobody_trains_on() -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 2])
    test = split.matched([np.array([0, 1]), np.array([2, 3])], np.array([4, 5, 6]), labels, stream(0, "t"))
    assert np.concatenate(test).tolist() == [4]


@given(
    lengths=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(1, 15)), min_size=1, max_size=12),
    test_share=SHARES,
    val_share=SHARES,
)
def test_tails_never_touch_what_is_left(
    lengths: list[tuple[int, int, int]], test_share: float, val_share: float
) -> None:
    labels, session = runs(sorted(lengths, key=lambda run: run[0]))
    indices = np.arange(len(labels))
    left, test = split.tails(indices, labels, session, test_share)
    train, val = split.tails(left, labels, session, val_share)
    place = np.full(len(labels), -1)
    for kind, part in enumerate((train, val, test)):
        assert (place[part] == -1).all() and (np.diff(part) > 0).all()
        place[part] = kind
    assert len(train) > 0
    neighbours = (labels[1:] == labels[:-1]) & (session[1:] == session[:-1])
    kept = neighbours & (place[1:] >= 0) & (place[:-1] >= 0)
    assert (place[1:][kept] == place[:-1][kept]).all()


def test_tails_are_ends_of_runs_of_the_right_size() -> None:
    labels, session = runs([(0, 0, 20), (0, 1, 20), (1, 1, 20)])
    left, cut = split.tails(np.arange(60), labels, session, 0.25)
    assert cut.tolist() == [*range(15, 20), *range(35, 40), *range(55, 60)]
    assert set(range(60)) - set(left) - set(cut) == {14, 34, 54}


@pytest.mark.parametrize(
    ("lengths", "share", "sessions"),
    [
        ([50, 50], 0.25, {1}),
        ([60, 25, 15], 0.25, {1}),
        ([60, 25, 15], 0.4, {1, 2}),
        ([60, 25, 15], 0.9, {0, 1}),
        ([10, 10, 10, 10], 0.25, {3}),
        ([10] * 20, 0.25, {15, 16, 17, 18, 19}),
    ],
)
def test_whole_recordings_come_as_close_as_they_can(lengths: list[int], share: float, sessions: set[int]) -> None:
    labels, session = runs([(i, 0, n) for i, n in enumerate(lengths)])
    left, cut = split.recordings(np.arange(len(labels)), labels, session, share)
    assert set(session[cut]) == sessions and not sessions & set(session[left])
    assert len(left) + len(cut) == len(labels)


def test_one_recording_gives_its_tails() -> None:
    labels, session = runs([(0, 0, 20), (0, 1, 20)])
    left, cut = split.recordings(np.arange(40), labels, session, 0.25)
    assert cut.tolist() == [*range(15, 20), *range(35, 40)] and len(left) == 28


def test_no_share_cuts_nothing() -> None:
    labels, session = runs([(0, 0, 20), (1, 1, 20)])
    for cut in (split.tails, split.recordings):
        left, off = cut(np.arange(40), labels, session, 0.0)
        assert len(left) == 40 and len(off) == 0
