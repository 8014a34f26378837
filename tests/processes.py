"""Starting `fltk` as a process of its own, for every test file that does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

PERSONAL = ("FLTK_", "_FLTK_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")  # of whoever runs the tests
ROOT = Path(__file__).resolve().parent.parent


class RunCli(Protocol):
    """`fltk ARGS` as a process of its own in an empty folder, its output captured as text."""

    def __call__(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]: ...


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without FLTK_DATA, and with the checkout importable."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PERSONAL)}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, **(extra or {})}
