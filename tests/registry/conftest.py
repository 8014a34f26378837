"""Shared pieces of the registry's tests."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stored import copy_stored

from fltk.config import RunConfig, canonical_json
from fltk.registry import Store
from fltk.registry.schema import HEAD_REVISION

CONFIG: dict[str, Any] = RunConfig(params={"heads": 2, "alpha": 7.0}, seed=1).to_dict()


@pytest.fixture
def config() -> dict[str, Any]:
    """A fresh copy that a test may change."""
    return copy.deepcopy(CONFIG)


@pytest.fixture
def begin() -> Callable[..., int]:
    """Make a run in a store, with everything that the test does not care about filled in."""

    def make(store: Store, **changes: Any) -> int:
        config = changes.pop("config", CONFIG)
        fixed = {
            "data_fingerprint": "d" * 64,
            "environment": {"python": "3"},
            "git": {"present": False},
            "seed": 1,
        }
        config_hash = hashlib.sha256(canonical_json(config).encode()).hexdigest()
        return store.begin_run(config, config_hash, **{**fixed, **changes})

    return make


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    with Store(database, create=True) as opened:
        yield opened


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A registry that was worked with: four runs, one of them made of run1 and never finished, all kinds of values."""
    path = copy_stored("schema-0001", tmp_path / "lab.db")
    Store(path).close()
    path.with_name(f"lab.db.before-{HEAD_REVISION}").unlink()
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB, on which `remount,size=` makes room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that an ordinary user may enter and read; the test runs as that user when started by root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() != 0:
            yield folder
            return
        os.seteuid(65534)
        try:
            if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
                pytest.skip("the folder for temporary files is closed to other users")
            yield folder
        finally:
            os.seteuid(0)
