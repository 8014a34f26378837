"""Every defence aggregates a hundred uploads of a model of 600,000 parameters within its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import clean_environment

from fltk.names import DEFENCES

SCRIPT = Path(__file__).parents[2] / "experiments" / "defence_cost.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_a_hundred_uploads_fit_into_one_and_a_half_gibibytes(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", name, "--format", "json"],
        env=clean_environment(None),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    (told,) = json.loads(done.stdout)
    assert told["defence"] == name
    assert told["inputs_gib"] < told["peak_gib"] < 1.5
