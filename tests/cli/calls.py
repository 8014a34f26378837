"""Calling `fltk` from tests: in this process where that is enough, as a process of its own where it can be killed."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fltk.cli.main import run
from fltk.registry import Store

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--subset", "300", "--clients", "4", "--newcomers", "1", "--rounds", "2")
HELD = """
import os, runpy, signal, sys
from fltk.registry import Store

record = Store.record_round


def held(store, run, round, *more):
    if round == {round}:
        os.kill(os.getpid(), signal.SIGSTOP)
    record(store, run, round, *more)


Store.record_round = held
runpy.run_module("fltk", run_name="__main__", alter_sys=True)
"""
PATIENCE = 120.0  # seconds; only a hanging program needs them
TIMES = ("seconds", "seconds_train", "seconds_aggregate", "seconds_eval")


@dataclass(frozen=True)
class Called:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr of a refused command: exit code 1 or 2, no traceback, no bug."""
        assert self.code in (1, 2), self
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        assert "Traceback" not in self.err and "internal error" not in self.err and self.out == "", self
        return self.err


def fltk(db: Path | str, *args: str, quiet: bool = True) -> Called:
    """`fltk ARGS` in this process; -q leaves only errors on stderr."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = run(["--db", str(db), *(["-q"] if quiet else []), *args])
    finally:
        torch.set_num_threads(threads)
    return Called(code, out.getvalue(), err.getvalue())


def done(db: Path | str, *args: str) -> str:
    """The output of a command that has to succeed without a word on stderr."""
    called = fltk(db, *args)
    assert (called.code, called.err) == (0, ""), called
    return called.out


def start(
    db: Path, *args: str, env: Mapping[str, str] | None = None, nohup: bool = False, hold: int = 0
) -> subprocess.Popen[str]:
    """`fltk ARGS` as a process with a process group of its own, as a shell starts it.

    nohup: deaf to the end of its terminal. Else it is not, even where these tests are.
    hold: the process stops itself before it stores this round of its run; `wait_until_held` returns then.
    """
    program = ["-c", HELD.format(round=hold)] if hold else ["-m", "fltk"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLTK_")}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)  # a child inherits it
    try:
        return subprocess.Popen(
            [sys.executable, *program, "--db", str(db), *args],
            env={**kept, "PYTHONPATH": path, **(env or {})},
            cwd=db.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_for(process: subprocess.Popen[str], text: str) -> list[str]:
    """Lines of stderr up to the one that holds `text`."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} never came: {''.join(lines)}")


def wait_until_held(process: subprocess.Popen[str]) -> None:
    """Returns when the process has stopped itself (`hold`)."""
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert found is not None and found.si_code == os.CLD_STOPPED, "the process ended before the round came"


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of this process alone, as the kernel does when memory is short."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"


def descendants(pid: int) -> list[int]:
    """All living processes below this one (Linux)."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(text) for text in (task / "children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def wait_until_gone(pids: list[int]) -> None:
    """Returns when none of the processes lives; one that only waits to be collected does not."""
    end = time.monotonic() + PATIENCE
    left = pids
    while left:
        assert time.monotonic() < end, f"still alive: {left}"
        time.sleep(0.05)
        left = [pid for pid in left if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def played(store: Store, run: int) -> dict[str, Any]:
    """All numbers of a run that do not depend on the clock, comparable with ==."""
    scalars = {key: (r.tolist(), v.tobytes()) for key, (r, v) in store.scalars(run).items() if key not in TIMES}
    clients = {key: store.client_values(run, key)[1].tobytes() for key in store.client_keys(run)}
    maps = [(m.round, m.kind, m.slices, m.array.tobytes()) for m in store.maps(run)]
    return {"digests": store.digests(run), "scalars": scalars, "clients": clients, "maps": maps}


def kept(store: Store, run: int) -> dict[str, Any]:
    """Everything stored about a run; reading a checkpoint also checks its hash."""
    weights = [store.load_checkpoint(run, c.round)[2] for c in store.checkpoints(run)]
    row = store.find_run(run)
    return played(store, run) | {
        "row": (row.status, row.config, row.rounds_done, row.last, row.finished),
        "checkpoints": [(c.round, c.sha256) for c in store.checkpoints(run)],
        "weights": weights,
    }


def lines_told(err: str) -> list[str]:
    """Lines of stderr that are neither the announcement nor the progress of a run."""
    shown = re.compile(r"run\d+: |\S+( seed \d+)?: round \d+/\d+ ")
    return [line for line in err.splitlines() if not shown.match(line)]
