"""Software, hardware and the state of the working tree; runs under the same conditions share a column."""

from __future__ import annotations

from collections.abc import Sequence
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
    keys = list(dict.fromkeys(key for _, found in columns for key in found))
    packages = [key for key in keys if key.startswith(PACKAGE)]
    rest = [key for key in keys if key not in packages]
    differing = [key for key in keys if len({found.get(key, ABSENT) for _, found in columns}) > 1]
    parts: list[Markup] = []
    if differing:
        parts.append(_table("What differs between the runs", differing, columns))
    alike = [key for key in rest if key not in differing]
    title = "The same for all runs" if differing else "Environment and code"
    parts.append(_table(title, alike, columns[:1], differing))
    same = [key for key in packages if key not in differing]
    if same:
        parts.append(folded(f"{len(same)} packages", _table("Installed packages", same, columns[:1], differing)))
    return Section("environment", "Environment and code", joined(parts))


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
