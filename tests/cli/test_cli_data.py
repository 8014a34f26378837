"""`fltk data`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from processes import RunCli

from fltk.names import DATASETS


def test_data_lists_every_data_set(run_cli: RunCli) -> None:
    done = run_cli("data", "--json")
    assert done.returncode == 0 and done.stderr == ""
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert set(rows) == set(DATASETS)
    assert rows["digits"]["present"] is True and rows["digits"]["shape"] == [1, 8, 8]
    assert rows["mnist"]["present"] is False and rows["mnist"]["get"]
    table = run_cli("data").stdout.splitlines()
    assert table[0].startswith("name") and len(table) == len(DATASETS) + 2
    assert table[-1].startswith("folder: ") and table[-1].endswith("/.cache/fltk")


def test_data_looks_where_it_is_told(run_cli: RunCli, data_dir: Path) -> None:
    by_option = run_cli("data", "--data-dir", str(data_dir), "--format", "csv")
    by_variable = run_cli("data", "--format", "csv", env={"FLTK_DATA": str(data_dir)})
    assert by_option.returncode == 0 and by_option.stdout == by_variable.stdout
    assert sum(row["present"] == "true" for row in csv.DictReader(io.StringIO(by_option.stdout))) > 1
