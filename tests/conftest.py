"""Shared fixtures. Environment variables are set before a test imports torch, which reads them once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import forked
from hypothesis import settings
from processes import PERSONAL, RunCli, clean_environment

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
for name in [name for name in os.environ if name.startswith(PERSONAL) and name != "FLTK_DATA"]:
    del os.environ[name]

# A shell that starts the suite in the background has Ctrl-C ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared, slow machine must not fail a test, and a test must not pass today and fail tomorrow.
settings.register_profile("fltk", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fltk")


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The folder of the user's settings, where fltk records own code and data, is one of the tests."""
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    yield
    del os.environ["XDG_CONFIG_HOME"]
    if before is not None:
        os.environ["XDG_CONFIG_HOME"] = before


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets."""
    folder = os.environ.get("FLTK_DATA")
    if not folder:
        pytest.skip("FLTK_DATA is not set: no folder with real data sets")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.skip(f"FLTK_DATA: {path} is no folder")
    return path


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes of an engine and of a sweep are forked; that they can be spawned is tested with the engine."""
    monkeypatch.setattr("fltk.engine.process.mp", SimpleNamespace(get_context=forked))
    monkeypatch.setattr("fltk.sweep.workers.get_context", forked)


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """See `RunCli`; `env` is added to a clean environment."""

    def run(
        *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fltk", *args],
            cwd=cwd or tmp_path,
            env=clean_environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
