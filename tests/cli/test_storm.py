"""kill -9 again and again at random moments: nothing stored is lost, and the resumed run has the undisturbed bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from calls import done
from storm import Storm, undisturbed

from fltk.registry import Store

ROUNDS = ("--rounds", "80")
SMALL = ("--subset", "300", "--clients", "4", "--newcomers", "1", "--participation", "0.5", *ROUNDS)


@pytest.mark.parametrize(
    ("kills", "engine"),
    [
        (2, "serial"),
        pytest.param(6, "serial", marks=pytest.mark.slow),
        pytest.param(200, "serial", marks=pytest.mark.slow),
        pytest.param(20, "process:2", marks=pytest.mark.slow),
    ],
)
def test_runs_killed_at_random_moments(tmp_path: Path, kills: int, engine: str) -> None:
    where = ("--engine", engine)
    train = ("train", "--method", "attn", *SMALL, *where)
    expected, seconds = undisturbed(tmp_path / "whole.db", *train)
    storm = Storm(tmp_path / "r.db", train, ("resume", "latest", *where), expected, seconds)
    storm.blow(kills)
    done(storm.db, "verify")
    with Store(storm.db, readonly=True) as store:
        rows = store.runs()
        assert {row.status for row in rows} == {"done"} and len(rows) == storm.finished
        attempts = sum(len(store.attempts(row.id)) for row in rows)
    print(
        f"{storm.killed} processes killed ({engine}), {storm.finished} runs finished in {attempts} attempts; "
        f"rounds stored at the kills: {sorted(storm.rounds)}"
    )
    done(storm.db, "db", "gc", "--yes")
    done(storm.db, "verify")
