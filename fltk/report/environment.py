"""Software, hardware and the state of the working tree; runs under the same conditions share a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fltk.registry import RunRow
from fltk.registry.capture import DIFF_LIMIT
from fltk.registry.changes import ABSENT, facts
from fltk.report.content import Content, Section, told_runs
from fltk.report.markup import folded, joined, table, words

Facts = dict[str, str]
PACKAGE = "package "


def section(content: Content) -> Section:
    """What differs between the runs stands first, then the rest; packages are folded away."""
    around = content.store.environments(run.id for run in content.runs)
    groups: dict[tuple[tuple[str, str], ...], list[RunRow]] = {}
    for run in content.runs:
        groups.setdefault(tuple(_facts(around.get(run.id, {}), run.git).items()), []).append(run)
    columns = [(told_runs(runs), dict(found)) for found, runs in groups.items()]

    keys = _sorted_out(columns)
    parts: list[Markup] = []
    if keys.differing:
        parts.append(_table("What differs between the runs", keys.differing, columns))
    title = "The same for all runs" if keys.differing else "Environment and code"
    parts.append(_table(title, keys.alike, columns[:1], keys.differing))
    if keys.packages:
        packages = _table("Installed packages", keys.packages, columns[:1], keys.differing)
        parts.append(folded(f"{len(keys.packages)} packages", packages))
    return Section("environment", "Environment and code", joined(parts))


@dataclass(frozen=True)
class _Keys:
    """The names of all facts: those that differ between runs, and of the others the packages apart from the rest."""

    differing: list[str]
    alike: list[str]
    packages: list[str]


def _sorted_out(columns: Sequence[tuple[str, Facts]]) -> _Keys:
    """The facts of all groups of runs, each once, in the order in which they come."""
    keys: dict[str, None] = {}
    for _, found in columns:
        keys |= dict.fromkeys(found)

    sorted_out = _Keys([], [], [])
    for key in keys:
        values = {found.get(key, ABSENT) for _, found in columns}
        if len(values) > 1:
            sorted_out.differing.append(key)
        elif key.startswith(PACKAGE):
            sorted_out.packages.append(key)
        else:
            sorted_out.alike.append(key)
    return sorted_out


def _facts(environment: dict[str, Any], git: dict[str, Any]) -> Facts:
    """Circumstances by name; of the working tree also what cannot change a result."""
    found = facts(environment, git)
    tree: Facts = {}
    if git.get("present"):
        tree["git branch"] = str(git.get("branch") or ABSENT)
        tree["working tree"] = "changed" if git.get("dirty") else "clean"
        if size := git.get("diff_size"):
            kept = "stored" if size <= DIFF_LIMIT else "too long to be stored"
            tree["changes to the commit"] = f"{size:,} bytes, {kept}"
        if git.get("untracked"):
            tree["untracked Python files"] = str(len(git["untracked"]))
        tree["git commit"] = str(git.get("commit") or ABSENT)
    elif git.get("reason"):
        tree["git"] = str(git["reason"])
    return found | tree


def _table(
    title: str, keys: Sequence[str], columns: Sequence[tuple[str, Facts]], differing: Sequence[str] = ()
) -> Markup:
    """Facts x groups of runs; a single column needs no names of runs where all are meant."""
    named = ["all" if differing else runs for runs, _ in columns]
    rows = [[key.removeprefix(PACKAGE), *(_known(found.get(key)) for _, found in columns)] for key in keys]
    return table(title, words("What", *named), rows)


def _known(value: str | None) -> str | None:
    return None if value == ABSENT else value
