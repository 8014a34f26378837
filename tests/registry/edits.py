"""Deliberate edits of a registry, and flips of bits in its file: `fltk verify` has to tell each that changes a value.

An edit is what somebody would do to a file with SQL to make results look better, or by accident; a flip is what a
failing disk does.
"""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
from stored import verified

from fltk.cli.main import run as fltk
from fltk.errors import FltkError
from fltk.registry import Store

TINY = ("--subset", "300", "--clients", "4", "--newcomers", "1", "--rounds", "6", "--engine", "serial")
Edit = tuple[str, ...]  # SQL statements

_IDENTITY = zlib.compress(np.eye(4, dtype="<f4").tobytes()).hex()
_COPY_RUN = """INSERT INTO run (uuid, kind, method, dataset, config, config_hash, origin, partition_id,
    data_fingerprint, environment_id, git, seed, status, note, created, finished, rounds_done, last, contents, seal)
    SELECT 'f' || substr(uuid, 2), kind, method, dataset, config, config_hash, origin, partition_id,
    data_fingerprint, environment_id, git, seed, status, note, created, finished, rounds_done, last, contents, seal
    FROM run WHERE id = 2"""
_LOSE_RUN = tuple(
    f"DELETE FROM {table} WHERE run_id = 3" for table in ("attempt", "checkpoint", "evaluation", "tag", "round")
)


def _swap(table: str, column: str, first: str, second: str) -> Edit:
    """Exchange a column of two rows."""
    return (
        f"CREATE TEMP TABLE a AS SELECT {column} v FROM {table} WHERE {first}",
        f"CREATE TEMP TABLE b AS SELECT {column} v FROM {table} WHERE {second}",
        f"UPDATE {table} SET {column} = (SELECT v FROM b) WHERE {first}",
        f"UPDATE {table} SET {column} = (SELECT v FROM a) WHERE {second}",
    )


EDITS: dict[str, Edit] = {
    "a round is deleted from the middle": ("DELETE FROM round WHERE run_id = 1 AND round = 3",),
    "the last round is deleted": (
        "DELETE FROM round WHERE run_id = 1 AND round = 6",
        "UPDATE run SET rounds_done = 5 WHERE id = 1",
    ),
    "a round is added": (
        "INSERT INTO round (run_id, round, digest, recorded) VALUES (1, 7, 'd', 0)",
        "UPDATE run SET rounds_done = 7 WHERE id = 1",
    ),
    "a scalar is improved": (
        "UPDATE scalar SET value = .99 WHERE run_id = 1 AND round = 6 AND key = 'personal_test_acc'",
    ),
    "all scalars are improved": ("UPDATE scalar SET value = .99 WHERE key = 'personal_test_acc'",),
    "a scalar is renamed": (
        "UPDATE scalar SET key = 'test' WHERE run_id = 1 AND round = 2 AND key = 'personal_test_acc'",
    ),
    "a scalar is deleted": ("DELETE FROM scalar WHERE run_id = 2 AND round = 2 AND key = 'personal_test_acc'",),
    "a scalar is added": ("INSERT INTO scalar VALUES (1, 1, 'extra', 1.0, 0)",),
    "vectors are zeroed": ("UPDATE client_vector SET data = zeroblob(length(data)) WHERE key = 'personal_test_acc'",),
    "vectors of two rounds are exchanged": _swap(
        "client_vector",
        "data",
        "run_id = 1 AND round = 1 AND key = 'personal_test_acc'",
        "run_id = 1 AND round = 6 AND key = 'personal_test_acc'",
    ),
    "vectors of two runs are exchanged": _swap(
        "client_vector",
        "data",
        "run_id = 1 AND round = 6 AND key = 'personal_test_acc'",
        "run_id = 2 AND round = 6 AND key = 'personal_test_acc'",
    ),
    "maps of two rounds are exchanged": _swap("map", "data", "run_id = 1 AND round = 1", "run_id = 1 AND round = 6"),
    "a map becomes the identity": (f"UPDATE map SET data = x'{_IDENTITY}' WHERE run_id = 1 AND round = 6",),
    "the clients of a map are renamed": ("UPDATE map SET ids = '[9,8,7,6]' WHERE run_id = 1 AND round = 6",),
    "two runs exchange their rounds": (
        "UPDATE round SET run_id = 99 WHERE run_id = 1",
        "UPDATE scalar SET run_id = 99 WHERE run_id = 1",
        "UPDATE round SET run_id = 1 WHERE run_id = 2",
        "UPDATE scalar SET run_id = 1 WHERE run_id = 2",
        "UPDATE round SET run_id = 2 WHERE run_id = 99",
        "UPDATE scalar SET run_id = 2 WHERE run_id = 99",
    ),
    "a view is replaced": (
        "DROP VIEW v_metrics",
        "CREATE VIEW v_metrics AS SELECT run_id AS run, round, key, .99 AS value FROM scalar",
    ),
    "a view is dropped": ("DROP VIEW v_tags",),
    "a trigger is made": ("CREATE TRIGGER better AFTER INSERT ON scalar BEGIN UPDATE scalar SET value = .99; END",),
    "an index is dropped": ("DROP INDEX ix_run_config_hash",),
    "a run is lost": (*_LOSE_RUN, "DELETE FROM run WHERE id = 3"),
    "a run is copied": (_COPY_RUN,),
    "a digest is changed": ("UPDATE round SET digest = 'd' WHERE run_id = 3 AND round = 2",),
    "a seed is changed": ("UPDATE run SET seed = 7 WHERE id = 2",),
    "a status is changed": ("UPDATE run SET status = 'failed' WHERE id = 2",),
    "a method is changed": ("UPDATE run SET method = 'fedavg' WHERE id = 1",),
    "the last values are changed": ("UPDATE run SET last = replace(last, '0.', '0.9') WHERE id = 1",),
    "a note is changed": ("UPDATE run SET note = 'the worst one' WHERE id = 2",),
    "attempts are deleted": ("DELETE FROM attempt WHERE run_id = 1",),
    "an attempt hides what it was allowed": ("UPDATE attempt SET changes = NULL, host = 'x' WHERE run_id = 2",),
    "a checkpoint is deleted": ("DELETE FROM checkpoint WHERE run_id = 3",),
    "a partition's summary is changed": ("UPDATE partition SET summary = replace(summary, '4', '5')",),
    "a partition is renamed": ("UPDATE partition SET name = 'other'",),
    "an evaluation is changed": ("UPDATE evaluation SET summary = replace(summary, '0.5', '0.9') WHERE id = 1",),
    "an evaluation is deleted": ("DELETE FROM evaluation WHERE id = 2",),
    "two evaluations change their order": (
        "UPDATE evaluation SET id = 99 WHERE id = 1",
        "UPDATE evaluation SET id = 1 WHERE id = 2",
        "UPDATE evaluation SET id = 2 WHERE id = 99",
    ),
    "a tag is changed": ("UPDATE tag SET value = 'neurips'",),
    "a tag is added": ("INSERT INTO tag (run_id, key, value) VALUES (2, 'paper', 'icml')",),
    "an environment is dated back": ("UPDATE environment SET created = 0",),
    "an artifact is dated back": ("UPDATE artifact SET created = 0",),
    "the ledger is deleted": ("DELETE FROM ledger",),
    "numbers of runs would be used twice": ("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'run'",),
    "a seal is deleted": ("UPDATE round SET seal = NULL WHERE run_id = 1 AND round = 1",),
}


def make(path: Path) -> Path:
    """Three trained runs of six rounds with all kinds of values, as this fltk stores them."""
    # the map of displacements differs from round to round
    assert fltk(["--db", str(path), "-q", "train", *TINY, "--method", "attn", "--set", "token=model"]) == 0
    assert fltk(["--db", str(path), "-q", "train", *TINY, "--method", "local,fedavg"]) == 0
    with Store(path) as store:
        store.set_note(2, "the best one")
        store.set_tag(1, "paper", "icml")
        for deploy in ("vote", "full"):
            rows = [{"model": "deployed", "acc_mean": 0.5}]
            store.save_evaluation(2, 6, {"deploy": deploy, "rows": rows}, {"acc": np.arange(4) / 4})
    return path


def told(path: Path) -> list[str]:
    """What `fltk verify` says of a registry."""
    try:
        with Store(path, readonly=True) as store:
            return [problem.told for problem in verified(store).problems if not problem.harmless]
    except FltkError as error:
        return [str(error)]


def edit(path: Path, statements: Edit) -> None:
    """Change the file as another program would."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def values(path: Path) -> list[object] | None:
    """Everything that the file holds, by its tables; None where it cannot be read."""
    found: list[object] = []
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.text_factory = bytes
            master = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
            found.append(master)
            for kind, name, *_ in master:
                if kind == b"table":
                    found.append(sorted(map(repr, connection.execute(f'SELECT * FROM "{name.decode()}"'))))
    except (sqlite3.Error, UnicodeDecodeError, OverflowError):
        return None
    return found


def flip(data: bytes, random: Random) -> bytes:
    """The same bytes with one bit changed."""
    position, bit = random.randrange(len(data)), random.randrange(8)
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def unseen_flips(path: Path, count: int, seed: int) -> tuple[int, list[int]]:
    """Flip bits until `count` of them changed a value; returns how many were tried, and those that were not told."""
    random, sound, before = Random(seed), path.read_bytes(), values(path)
    changed, tried, unseen = 0, 0, []
    while changed < count:
        tried += 1
        path.write_bytes(flip(sound, random))
        if values(path) == before:
            continue
        changed += 1
        if not told(path):
            unseen.append(tried)
    path.write_bytes(sound)
    return tried, unseen
