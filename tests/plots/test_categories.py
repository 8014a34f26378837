"""Colours of clusters, groups and labels: all different, in a legend that can be read, and none for a tie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fltk.plots.categories import MOST, NONE, categories
from fltk.plots.embeddings import TIE, kind_of


@pytest.mark.parametrize("count", [1, 7, 8, 9, 13, 20, 21, 60])
def test_every_category_has_a_colour_of_its_own(count: int) -> None:
    found = categories(range(count))
    assert len(set(found.colors)) == len(found.colors) == count
    assert len(found.listed) == (count if count <= MOST else 6)
    assert found.listed[0] == 0 and found.listed[-1] == count - 1


def test_what_is_no_category_is_grey_and_takes_no_colour_away() -> None:
    found = categories([2, TIE, 5])
    assert found.values == (TIE, 2, 5) and found.color(TIE) == NONE
    assert (found.color(2), found.color(5)) == categories([2, 5]).colors


def test_a_client_with_several_most_frequent_labels_has_none() -> None:
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0], [0, 1, 4]])
    kind, title, names = kind_of(None, counts, ("cat", "dog", "cow"))
    assert kind.tolist() == [0, TIE, TIE, 2] and title == "most frequent label"
    assert names == {TIE: "tie", 0: "cat", 1: "dog", 2: "cow"}


def test_labels_have_names_or_numbers_and_never_both() -> None:
    _, _, names = kind_of(None, np.eye(2), ("sitting", "walking_upstairs_slowly"))
    assert names == {TIE: "tie"}


def test_the_first_colours_differ_in_lightness_too() -> None:
    """Areas have no marker: where colours of few categories look alike in hue, their lightness differs."""
    tones = sorted(_luminance(color) for color in categories(range(3)).colors)
    assert min(b - a for a, b in pairwise(tones)) > 0.08


def _luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))
