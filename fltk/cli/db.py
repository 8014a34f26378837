"""`fltk db`: the registry as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, epilog, group
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options

if TYPE_CHECKING:
    from fltk.registry.cleanup import Garbage
    from fltk.registry.merge import Merged

FACTS = [Column("key"), Column("value")]
MERGED = [Column("there"), Column("here"), Column("name"), Column("method"), Column("state"), Column("note")]
GARBAGE = [Column("what"), Column("name"), Column("bytes"), Column("state")]


@group("db", examples=("fltk db info", "fltk db merge laptop/results.db", "fltk db gc"))
def db() -> None:
    """Merge, back up, upgrade, clean and describe the registry."""


@db.command("info", epilog=epilog("fltk db info", "fltk db info --db old.db --json"))
@output_options
@click.pass_obj
def info(settings: Settings, /, format: str) -> None:
    """Say what the registry is, what it holds and how large it is.

    Nothing is changed; a database of an older fltk is not upgraded.
    """
    from fltk.registry.info import info as look

    found = look(settings.db)
    facts: dict[str, Any] = {
        "database": found.shown,
        "software": found.software,
        "schema": found.state,
        "network file system": found.network,
        "bytes": found.size,
        "unused bytes": found.unused,
        "runs": found.counts["run"] - found.removed,
        "removed runs": found.removed,
        **{f"{name}s": number for name, number in found.counts.items() if name != "run"},
        "artifact folder": str(found.artifacts),
        "artifact bytes": found.artifact_size,
    }
    emit([{"key": key, "value": value} for key, value in facts.items()], FACTS, format)


@db.command("upgrade", epilog=epilog("fltk db upgrade", "fltk db upgrade --db postgresql+psycopg://lab/runs"))
@output_options
@click.pass_obj
def upgrade(settings: Settings, /, format: str) -> None:
    """Bring the database of an older fltk to the newest schema.

    A file is first copied to a backup next to it. Opening a file upgrades it, too; only a server's database, which
    others use too, has to be upgraded here (save it with pg_dump first).
    """
    from fltk.registry.database import upgrade_database

    done = upgrade_database(settings.db)
    facts = {"before": done.before, "after": done.after, "previous state": None if done.backup is None else done.backup}
    emit([{"key": key, "value": value} for key, value in facts.items()], FACTS, format)


@db.command(
    "merge", epilog=epilog("fltk db merge laptop/results.db", "fltk db merge --db lab.db alice.db bob.db carol.db")
)
@click.argument("other", nargs=-1, required=True, metavar="OTHER...")
@output_options
@click.pass_obj
def merge(settings: Settings, /, other: tuple[str, ...], format: str) -> int:
    """Take over the runs of other registries.

    Partitions and files come with them. A run is known by its UUID: merging again adds only what is new, such as the
    later rounds of a run that was not finished. Run numbers and names that are taken here change, and the table tells
    how. The other registries are only read. States: new; extended (it was here and got what was missing); present
    (nothing was missing); different (it went on differently here and there; kept as it is here); refused (damaged
    there, or made of such a run, and not taken; the exit code is then 1).
    """
    from fltk.registry import Store
    from fltk.registry.merge import REFUSED
    from fltk.registry.merge import merge as take_over

    rows: list[dict[str, Any]] = []
    for place in other:  # the other one is opened first: a mistyped name must not leave a new registry here
        with Store(place, readonly=True, upgrade=False) as source, Store(settings.db, create=True) as store:
            rows += [_merged(entry, source.shown) for entry in take_over(store, source)]
    emit(rows, [*([Column("from")] if len(other) > 1 else []), *MERGED], format)
    refused = [row for row in rows if row["state"] == REFUSED]
    return 1 if refused else 0


def _merged(entry: Merged, shown: str) -> dict[str, Any]:
    return {
        "from": shown,
        "there": f"run{entry.there}",
        "here": None if entry.here is None else f"run{entry.here}",
        "name": entry.name,
        "method": entry.method,
        "state": entry.state,
        "note": "; ".join(entry.notes) or None,
    }


@db.command(
    "backup",
    epilog=epilog("fltk db backup results-2026-12-01.db", "fltk db backup /media/disk/results.db"),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_options
@click.pass_obj
def backup(settings: Settings, /, file: Path, format: str) -> None:
    """Copy the registry to FILE, with its folder of files, while runs go on.

    Copying results.db by hand while it is in use loses the newest rounds: they are in results.db-wal until the last
    process closes the registry. A server's database is saved with pg_dump.
    """
    from fltk.registry.backup import backup as copy

    done = copy(settings.db, file)
    facts = {"database": str(done.database), "artifact folder": str(done.artifacts)}
    counts = {"files": done.files, "bytes": done.size, "missing files": done.missing}
    emit([{"key": key, "value": value} for key, value in {**facts, **counts}.items()], FACTS, format)


@db.command("gc", epilog=epilog("fltk db gc", "fltk db gc --yes"))
@click.option(
    "--yes", is_flag=True, cls=Option, section="Deletion", help="delete; without it, list what would be deleted"
)
@output_options
@click.pass_obj
def gc(settings: Settings, /, yes: bool, format: str) -> None:
    """Delete for good what was removed.

    That is removed runs, and artifact files that no run and no partition needs. Without --yes nothing is deleted: the
    table says what would go. What a kept run refers to stays, also a removed run that a kept one was made of. Other
    processes may work with the registry meanwhile.
    """
    from fltk.registry import Store

    with Store(settings.db, readonly=not yes) as store:
        found = store.collect_garbage() if yes else store.garbage()
    counts = {"deleted": yes, "runs": len(found.runs), "files": len(found.files), "bytes": found.size}
    emit(
        _garbage(found, "deleted" if yes else "would go"),
        GARBAGE,
        format,
        extra=counts if format in ("table", "json") else None,
    )
    if not yes and (found.runs or found.files):
        settings.say("nothing was deleted; `fltk db gc --yes` does it")


def _garbage(found: Garbage, state: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"what": row.label, "name": row.method, "state": state} for row in found.runs]
    rows += [{"what": held.run.label, "name": held.run.method, "state": f"stays: {held.reason}"} for held in found.held]
    rows += [{"what": "file", "name": path.name, "bytes": size, "state": state} for path, size in found.files.items()]
    return rows
