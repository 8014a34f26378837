"""Workers that are still importing end with a driver that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import clean_environment

# What the worker does is in a module whose import takes minutes in the worker, and none in the driver.
WORK = """
import os, time

if "SLOW" in os.environ:
    print(os.getpid(), flush=True)
    time.sleep(600)


def work():
    pass
"""
DRIVER = """
import os, time
from multiprocessing import get_context
from fltk.lifeline import Lifeline, serve


if __name__ == "__main__":
    import slow_work

    os.environ["SLOW"] = "1"
    get_context("spawn").Process(target=serve, args=(Lifeline(), slow_work.work)).start()
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "getppid") or sys.platform == "win32", reason="needs processes with parents")
def test_a_worker_that_imports_ends_with_a_killed_driver(tmp_path: Path) -> None:
    (tmp_path / "slow_work.py").write_text(WORK)
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=clean_environment(), cwd=tmp_path
    )
    assert driver.stdout is not None

    worker = int(driver.stdout.readline())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    ends = time.monotonic() + 60
    while time.monotonic() < ends and _lives(worker):
        time.sleep(0.05)
    assert not _lives(worker)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
