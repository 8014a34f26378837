"""Errors that a user can act on. Everything else is a bug and keeps its traceback out of the terminal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from fltk.names import ATTACKS, DEFENCES, METHODS, SYNONYMS, canonical, fold


class FltkError(Exception):
    """An expected failure, told in one line that names what to change. Exit code 1."""

    exit_code = 1


class DamagedRun(FltkError):
    """What is stored of a run cannot be read. `run` is its number, by which it can be removed."""

    def __init__(self, run: int, reason: str) -> None:
        super().__init__(
            f"run{run} is damaged: {reason}; `fltk verify run{run}` tells more, `fltk runs rm run{run}` removes it"
        )
        self.run = run


class UsageError(FltkError):
    """The command line or configuration asks for something impossible. Exit code 2."""

    exit_code = 2


class Mismatch(FltkError):
    """What is found is not what was stored. Exit code 3."""

    exit_code = 3


class ChangedFiles(FltkError):
    """Files are not those that a run or partition was made from."""


class Diverged(FltkError):
    """Local training left the finite numbers."""


def unknown(kind: str, name: str, known: Iterable[str], option: str) -> UsageError:
    """The error for a mistyped name: says what was close, or what there is."""
    names = sorted(known)
    return UsageError(f"{option}: unknown {kind} {name!r}; {_elsewhere(kind, name) or hint(name, names)}")


def hint(name: str, names: Sequence[str], synonyms: Mapping[str, str] = SYNONYMS) -> str:
    """`did you mean ditto?`, or what there is."""
    close = nearest(name, names, synonyms)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


def nearest(name: str, names: Sequence[str], synonyms: Mapping[str, str] = SYNONYMS) -> list[str]:
    """Up to three names that may be meant: another word for one, then similar ones, then those that begin alike."""
    wanted = fold(name)
    if synonyms.get(wanted) in names:
        return [synonyms[wanted]]

    folded = {fold(known): known for known in names}
    close = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.6)
    if not close and wanted:
        close = [known for known in folded if known.startswith(wanted)][:3]
    if not close:
        close = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)
    return [folded[key] for key in close]


def _elsewhere(kind: str, name: str) -> str:
    """Where a name belongs that is none of this kind: a defence is no method."""
    options = {"method": METHODS, "defence": DEFENCES, "attack": ATTACKS}
    flags = {"method": "--method", "defence": "fltk attack --defence", "attack": "fltk attack --kind"}
    if kind not in options:
        return ""
    for other, known in options.items():
        found = canonical(name, known)
        if other != kind and found in known:
            article = "an" if other == "attack" else "a"
            return f"{found} is {article} {other}: {flags[other]} {found}"
    return ""
