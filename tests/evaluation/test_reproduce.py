"""The largest difference between the numbers of two rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fltk.evaluation.reproduce import gap, numbers_of

VALUES = st.lists(st.floats(width=32), min_size=1, max_size=5)


@given(st.floats(), VALUES)
def test_equal_numbers_have_no_gap(scalar: float, values: list[float]) -> None:
    """Whatever they are: NaN equals NaN, infinity equals itself."""
    numbers = numbers_of({"a": scalar}, {"b": np.array(values, np.float32)})
    assert gap(numbers, numbers_of({"a": scalar}, {"b": np.array(values, np.float32)})) is None


def test_the_largest_gap_is_named_with_its_client() -> None:
    then = numbers_of({"loss": 1.0}, {"acc": np.array([0.5, 0.25, math.nan], np.float32)})
    now = numbers_of({"loss": 1.125}, {"acc": np.array([0.5, 0.5, math.nan], np.float32)})
    found = gap(then, now)
    assert found is not None and (found.size, found.key, found.client) == (0.25, "acc", 1)
    assert str(found) == "0.25 in acc of client 1"


def test_large_values_differ_relatively_and_small_ones_absolutely() -> None:
    for then, now, size in ((1000.0, 1001.0, 0.001), (0.001, 0.002, 0.001), (-8.0, 8.0, 2.0)):
        found = gap(numbers_of({"a": then}, {}), numbers_of({"a": now}, {}))
        assert found is not None and found.size == pytest.approx(size) and found.client is None


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_any_more_is_infinitely_far(now: float) -> None:
    for then, other in ((0.5, now), (now, 0.5)):
        found = gap(numbers_of({"a": then}, {}), numbers_of({"a": other}, {}))
        assert found is not None and found.size == math.inf


def test_other_numbers_of_clients_are_infinitely_far() -> None:
    found = gap(numbers_of({}, {"a": np.zeros(3)}), numbers_of({}, {"a": np.zeros(4)}))
    assert found is not None and found.size == math.inf


def test_measured_times_and_numbers_of_one_side_do_not_count() -> None:
    then = numbers_of({"seconds": 1.0, "seconds_train": 1.0, "a": 1.0, "old": 1.0}, {})
    now = numbers_of({"seconds": 2.0, "seconds_train": 3.0, "a": 1.0, "new": 1.0}, {})
    assert gap(then, now) is None and set(then) ^ set(now) == {"old", "new"}
