"""Verification: every kind of damage is found, with the runs that it affects, and nothing is repaired."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from stored import verified

from fltk.errors import FltkError
from fltk.registry import Store
from fltk.registry.verify import Problem, Verified


def look(lab: Path, *runs: int) -> Verified:
    """Verify, and see that nothing was changed by it."""
    before = {path: path.read_bytes() for path in sorted(lab.parent.rglob("*")) if path.is_file()}
    with Store(lab, readonly=True) as store:
        found = verified(store, *runs)
    assert {path: path.read_bytes() for path in sorted(lab.parent.rglob("*")) if path.is_file()} == before
    return found


def found(lab: Path, *runs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(problem.what, problem.runs) for problem in look(lab, *runs).problems]


@contextmanager
def sql(lab: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(lab)) as connection:
        yield connection
        connection.commit()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def artifacts(lab: Path, kind: str) -> list[Path]:
    with sql(lab) as connection:
        hashes = [row[0] for row in connection.execute(f"SELECT sha256 FROM artifact WHERE kind = '{kind}'")]
    return [lab.with_name("lab.artifacts") / sha256[:2] / sha256 for sha256 in sorted(hashes)]


def test_a_sound_registry(lab: Path) -> None:
    done = look(lab)
    assert done.problems == [] and (done.runs, done.rounds, done.files) == (4, 18, 6)
    assert done.size == sum(path.stat().st_size for path in _files(lab))
    assert done.sealed_late == 4 and done.sealed_at is not None, "it was made by an fltk without seals"
    assert done.mark == look(lab).mark and len(str(done.mark)) == 64
    assert look(lab, 2).files == 3, "its checkpoint, and the partition and the diff that all share"


def test_a_database_without_its_folder_is_incomplete_and_not_damaged(lab: Path) -> None:
    shutil.rmtree(lab.with_name("lab.artifacts"))
    done = look(lab)
    (problem,) = done.problems
    assert done.verdict == "incomplete" and not done.sound
    assert "came without its folder" in problem.told and "6 files" in problem.told
    with Store(lab, readonly=True) as store, pytest.raises(FltkError, match="came without its folder"):
        store.partition_arrays(1)
    with sql(lab) as connection:
        connection.execute("UPDATE run SET config = '{' WHERE id = 1")
    assert look(lab).verdict == "damaged"


def test_a_file_written_into_the_missing_folder_leaves_it_incomplete(lab: Path) -> None:
    """As a run that is trained into a database that came without its files."""
    (kept, *_) = artifacts(lab, "partition")
    content = kept.read_bytes()
    shutil.rmtree(lab.with_name("lab.artifacts"))
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)
    done = look(lab)
    assert done.verdict == "incomplete" and len(done.problems) == 5 and done.files == 1

    flip(kept, len(content) // 2)
    assert look(lab).verdict == "damaged"


def _files(lab: Path) -> list[Path]:
    return [path for path in lab.with_name("lab.artifacts").rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", ["checkpoint", "partition", "diff"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_file_names_its_runs(lab: Path, kind: str, damage: str) -> None:
    path = artifacts(lab, kind)[0]
    if damage == "flip":
        flip(path, path.stat().st_size // 2)
    elif damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    with sql(lab) as connection:
        users = {
            "checkpoint": "SELECT DISTINCT run_id FROM checkpoint WHERE sha256 = ?",
            "partition": "SELECT r.id FROM run r JOIN partition p ON p.id = r.partition_id WHERE p.sha256 = ?",
            "diff": "SELECT id FROM run WHERE diff_sha256 = ?",
        }[kind]
        runs = tuple(row[0] for row in connection.execute(f"{users} ORDER BY 1", (path.name,)))
    (problem,) = look(lab).problems
    assert (problem.what, problem.runs, problem.harmless) == ("artifact", runs, False) and runs
    assert str(path) in problem.told and ("is missing" if damage == "delete" else "is damaged") in problem.told
    others = {1, 2, 3, 4} - set(runs)
    for number in others:
        assert look(lab, number).sound, "the others are sound"


@pytest.mark.slow
def test_every_byte_of_a_checkpoint_counts(lab: Path) -> None:
    path = artifacts(lab, "checkpoint")[0]
    for position in range(0, path.stat().st_size, 97):
        flip(path, position)
        assert not look(lab).sound
        flip(path, position)
    assert look(lab).problems == []


def test_files_that_belong_to_nothing_are_harmless(lab: Path) -> None:
    folder = lab.with_name("lab.artifacts")
    (folder / "notes.txt").write_text("mine")
    orphan = folder / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    known = artifacts(lab, "diff")[0]
    (orphan.parent / known.name).write_bytes(known.read_bytes())
    done = look(lab)
    assert done.sound and [problem.what for problem in done.problems] == ["file"] * 3
    assert all(problem.harmless and problem.runs == () for problem in done.problems)
    assert look(lab, 1).problems == []


DAMAGE: list[tuple[str, tuple[str, tuple[int, ...]], str]] = [
    (
        "UPDATE run SET config = replace(config, '\"rounds\":11', '\"rounds\":12') WHERE id = 1",
        ("run", (1,)),
        "its hash",
    ),
    ("UPDATE run SET config = substr(config, 2) WHERE id = 2", ("run", (2,)), "damaged"),
    ("UPDATE run SET git = '{' WHERE id = 2", ("run", (2,)), "damaged"),
    ("UPDATE run SET rounds_done = 99 WHERE id = 3", ("run", (3,)), "99 rounds were counted"),
    ("DELETE FROM round WHERE run_id = 3 AND round = 3", ("run", (3,)), "last one stored is 2"),
    ("UPDATE scalar SET value = NULL WHERE run_id = 1 AND round = 2 AND kind = 0", ("run", (1,)), "in round 2"),
    ("UPDATE scalar SET kind = 9 WHERE run_id = 2", ("run", (2,)), "is damaged"),
    ("UPDATE client_vector SET data = x'000000' WHERE run_id = 1 AND round = 3", ("run", (1,)), "in round 3"),
    ("UPDATE map SET data = x'00' WHERE run_id = 4", ("run", (4,)), "map of run4"),
    ("UPDATE map SET shape = '[1,' WHERE run_id = 4", ("run", (4,)), "damaged"),
    ("UPDATE evaluation SET data = x'00'", ("run", (2,)), "damaged"),
    ("UPDATE evaluation SET summary = 'x'", ("run", (2,)), "damaged"),
    ("UPDATE environment SET content = content || ' ' WHERE id = 1", ("environment", (1, 2, 3)), "hash"),
    ("UPDATE partition SET fingerprint = 'f'", ("partition", (1, 2, 3, 4)), "fingerprint"),
    ("UPDATE partition SET data_fingerprint = 'f'", ("partition", (1, 2, 3, 4)), "fingerprint"),
    (
        "UPDATE round SET digest = 'f' WHERE run_id = 1 AND round = 10",
        ("checkpoint", (1,)),
        "round 10 has other weights",
    ),
    ("UPDATE artifact SET size = size + 1 WHERE kind = 'diff'", ("artifact", (1, 2, 3)), "bytes"),
    ("UPDATE checkpoint SET round = 2 WHERE run_id = 3", ("checkpoint", (3,)), "round 2 has other weights"),
    ("UPDATE checkpoint SET round = 7 WHERE run_id = 3", ("checkpoint", (3,)), "round was not recorded"),
    ("DELETE FROM environment WHERE id = 1", ("database", ()), "refers to no row of environment"),
]


@pytest.mark.parametrize(("statement", "expected", "told"), DAMAGE, ids=[case[0][:60] for case in DAMAGE])
def test_a_value_that_does_not_fit_names_its_runs(
    lab: Path, statement: str, expected: tuple[str, tuple[int, ...]], told: str
) -> None:
    with sql(lab) as connection:
        assert connection.execute(statement).rowcount > 0
    done = look(lab)
    wanted = [problem for problem in done.problems if (problem.what, problem.runs) == expected]
    assert wanted and not done.sound, done.problems
    assert any(told in problem.told for problem in wanted) and all("\n" not in p.told for p in done.problems)


@pytest.mark.parametrize("table", ["client_vector", "scalar", "map"])
def test_an_overwritten_page_names_the_runs_it_took(lab: Path, table: str) -> None:
    with sql(lab) as connection:
        pages = connection.execute(f"SELECT pageno FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf'").fetchall()
    with lab.open("r+b") as file:
        file.seek((pages[0][0] - 1) * 4096)
        file.write(b"\xa5" * 4096)
    problems = look(lab).problems
    assert any(problem.what == "database" for problem in problems)
    assert any(problem.what == "run" and problem.runs for problem in problems)
    with Store(lab, readonly=True) as store:
        assert len(store.runs()) == 4 and store.latest_checkpoint(1)[0] == 11, "everything else can be read"


@pytest.mark.parametrize("size", [100, 4096, 20_000, 100_000])
def test_a_truncated_database_is_told_in_one_line(lab: Path, size: int) -> None:
    os.truncate(lab, size)
    try:
        with Store(lab, readonly=True) as store:
            problems = verified(store).problems
    except FltkError as error:
        problems = [Problem("database", (), str(error))]
    assert problems and any("damaged" in problem.told or "malformed" in problem.told for problem in problems)
    assert all("\n" not in problem.told for problem in problems)


def test_removed_runs_are_verified_with_all(lab: Path) -> None:
    with Store(lab) as store:
        store.remove_runs([2])
    with sql(lab) as connection:
        connection.execute("UPDATE scalar SET kind = 9 WHERE run_id = 2")
    assert set(found(lab)) == {("run", (2,))}
