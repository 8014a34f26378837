"""The combinations that are tested by default: every pair occurs, and every method."""

from __future__ import annotations

from cover import members_in_turn, pairwise


def test_all_pairs_of_values_occur_together() -> None:
    symbols, rows, columns = "abc", "1234", "uvwxy"
    found = pairwise(symbols, rows, columns)
    assert len(found) == len(rows) * len(columns)
    assert {(row, column) for _, row, column in found} == {(row, column) for row in rows for column in columns}
    assert {(symbol, row) for symbol, row, _ in found} == {(symbol, row) for symbol in symbols for row in rows}
    assert {(symbol, column) for symbol, _, column in found} == {(s, c) for s in symbols for c in columns}


def test_members_of_a_family_take_turns() -> None:
    triples = [("old", "1", "x"), ("new", "1", "y"), ("old", "2", "y"), ("old", "3", "z")]
    found = members_in_turn(triples, {"old": ["ann", "bob"], "new": ["eve"]})
    assert found == [("ann", "1", "x"), ("eve", "1", "y"), ("bob", "2", "y"), ("ann", "3", "z")]
