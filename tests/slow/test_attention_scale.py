"""A round of attention over a thousand large models stays within its memory and near the exact map."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import clean_environment

SCRIPT = Path(__file__).parents[2] / "experiments" / "attention_scale.py"
K, P = 1000, 600_000


@pytest.mark.slow
def test_a_thousand_clients_from_file_to_file(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 3 * 4 * K * P:
        pytest.skip(f"needs {3 * 4 * K * P / 2**30:.0f} GiB of free disk")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--clients", str(K), "--parameters", str(P), "--folder", str(tmp_path)],
        env=clean_environment(None),
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["peak_gib"] < 3
    assert told["cosine_error_same_pairs"] < 0.001  # what the sketch of 1024 numbers costs
    assert told["token_cosine_rmse"] < 1.2 / 1024**0.5
    assert told["own_group_met"] > told["own_group_all"]  # hashing meets one's own kind
    assert not list(tmp_path.iterdir())  # the files are gone
