"""Few combinations of three kinds of options in which every pair still occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Triple = tuple[str, str, str]


def pairwise(symbols: Sequence[str], rows: Sequence[str], columns: Sequence[str]) -> list[Triple]:
    """(symbol, row, column) for every cell of a table whose cells are filled as in a Latin square.

    Any two values of different kinds are together in some triple, given at least as many rows and columns as symbols.
    """
    found = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            symbol = symbols[(i + j) % len(symbols)]
            found.append((symbol, row, column))
    return found


def members_in_turn(triples: Sequence[Triple], members: Mapping[str, Sequence[str]]) -> list[Triple]:
    """The triples with a member in the place of the family that each begins with; members take turns."""
    turns = dict.fromkeys(members, 0)
    found = []
    for family, row, column in triples:
        names = members[family]
        found.append((names[turns[family] % len(names)], row, column))
        turns[family] += 1
    return found
