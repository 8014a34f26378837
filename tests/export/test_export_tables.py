"""Tables in every format read back as what was written."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fltk.errors import FltkError, UsageError
from fltk.export.latex import escape, float_table, tabular
from fltk.export.tables import Table, check_table_path, from_dicts, write_table
from fltk.files import replacing

COLUMNS = (("run", "int"), ("label", "text"), ("value", "float"))
ROWS = [
    (1, 'a, "b"\tü\nnew line', 0.1 + 0.2),
    (2, "", math.nan),
    (3, None, math.inf),
    (None, "plain", -1e-300),
]


def written(path: Path, table: Table | None = None) -> str:
    count = write_table(table or Table(COLUMNS, iter(ROWS)), path)
    assert table is not None or count == len(ROWS)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_separated_values(tmp_path: Path, suffix: str, delimiter: str) -> None:
    written(tmp_path / f"t{suffix}")
    with (tmp_path / f"t{suffix}").open(encoding="utf-8", newline="") as file:
        back = list(csv.reader(file, delimiter=delimiter))
    assert back[0] == ["run", "label", "value"]
    assert back[1] == ["1", ROWS[0][1], repr(0.1 + 0.2)]
    assert math.isnan(float(back[2][2])) and float(back[3][2]) == math.inf and back[3][1] == back[4][0] == ""


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_strict(tmp_path: Path) -> None:
    whole = strict(written(tmp_path / "t.json"))
    assert whole["schema"] == 1 and len(whole["rows"]) == 4
    assert whole["rows"][0] == {"run": 1, "label": ROWS[0][1], "value": 0.1 + 0.2}
    assert whole["rows"][1]["value"] is whole["rows"][2]["value"] is None
    lines = written(tmp_path / "t.jsonl").splitlines()
    assert [strict(line) for line in lines] == whole["rows"]


def test_no_rows(tmp_path: Path) -> None:
    empty = Table(COLUMNS, ())
    assert written(tmp_path / "t.csv", empty) == "run,label,value\n"
    assert strict(written(tmp_path / "t.json", empty))["rows"] == []
    assert written(tmp_path / "t.jsonl", empty) == ""


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra: pip install 'fltk[parquet]'")
    write_table(Table(COLUMNS, iter(ROWS)), tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "double"]
    assert str([tuple(row.values()) for row in table.to_pylist()]) == str(ROWS)
    write_table(Table(COLUMNS, ()), tmp_path / "t.parquet")
    assert parquet.read_table(tmp_path / "t.parquet").num_rows == 0


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"--output: \.parquet needs pyarrow: pip install 'fltk\[parquet\]'"):
        check_table_path(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([1, 2], "int", [1, 2]),
        ([1, 0.5], "float", [1.0, 0.5]),
        ([True, None], "bool", [True, None]),
        ([True, 1], "text", ["true", "1"]),
        (["a", 1], "text", ["a", "1"]),
        ([[1, 2], {"a": None}], "text", ["[1, 2]", '{"a": null}']),
        ([None, None], "text", [None, None]),
        ([2**70], "text", [str(2**70)]),
    ],
)
def test_the_kind_of_a_column_follows_from_its_values(values: list[Any], kind: str, read: list[Any]) -> None:
    table = from_dicts([{"x": value} for value in values])
    assert table.columns == (("x", kind),) and [row[0] for row in table.rows] == read


def test_rows_may_lack_columns() -> None:
    table = from_dicts([{"a": 1}, {"b": "x", "a": 2}])
    assert table.columns == (("a", "int"), ("b", "text")) and list(table.rows) == [(1, None), (2, "x")]


def test_wrong_names_are_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--output: 't\.xlsx' must end in \.csv, \.tsv, \.json, \.jsonl, \.parquet"):
        check_table_path(tmp_path / "t.xlsx")
    with pytest.raises(FltkError, match=r"--output: the folder .*missing.* does not exist"):
        check_table_path(tmp_path / "missing" / "t.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FltkError, match=r"--output: .* is a folder"):
        check_table_path(tmp_path / "folder.csv")
    assert check_table_path(tmp_path / "t.npz", also=(".npz",)) == ".npz"


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_a_full_disk_or_a_failing_source_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_text("old")

    def broken() -> Any:
        yield ROWS[0]
        raise FltkError("damaged")

    with pytest.raises(FltkError, match="damaged"):
        write_table(Table(COLUMNS, broken()), path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FltkError, match=r"--output: cannot write .*No space left"):
        write_table(Table(COLUMNS, iter(ROWS)), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    target, link = tmp_path / "shared" / "table.csv", tmp_path / "link.csv"
    for content in (None, b"old"):  # one that leads nowhere yet, and one that leads to a file
        if content is not None:
            target.write_bytes(content)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with replacing(link) as file:
            file.write(b"new")
        assert link.is_symlink() and target.read_bytes() == b"new" and not target.is_symlink()
    assert sorted(tmp_path.rglob("*.*")) == [link, target]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with replacing(pipe) as file:
        file.write(b"rows")
    reader.join()
    assert read == [b"rows"] and pipe.is_fifo()


def test_what_killed_exports_leave_is_removed(tmp_path: Path) -> None:
    """Unless it was written to in the last hour, and so may belong to a process at work."""
    left, fresh, other = (tmp_path / name for name in (".fltk-1.part", ".fltk-2.part", "mine.part"))
    for path in (left, fresh, other):
        path.write_bytes(b"half")
    for path in (left, other):
        os.utime(path, (0, 0))
    with replacing(tmp_path / "a.csv") as file:
        assert not left.exists()
        file.write(b"rows")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".fltk-2.part", "a.csv", "mine.part"]


def test_latex_prints_what_stands_there() -> None:
    assert escape(r"a_b & 5% ± {x} \ ~^ $ # < >") == (
        r"a\_b \& 5\% $\pm$ \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{} \$ \# "
        r"\textless{} \textgreater{}"
    )
    body = tabular("lr", ["a", "b"], [["1", "2"]])
    assert body == (
        "\\begin{tabular}{lr}\n\\toprule\na & b \\\\\n\\midrule\n1 & 2 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    assert float_table("What.", body).splitlines()[2] == r"\caption{What.}"
