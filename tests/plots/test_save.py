"""Files of figures and of their data."""

from __future__ import annotations

import csv
import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from processes import clean_environment

from fltk.errors import FltkError, UsageError
from fltk.plots.curves import Curve, accuracy_curves
from fltk.plots.save import check_data_path, check_figure_path, save_data, save_figure

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def a_figure() -> Figure:
    rounds = np.arange(1, 6)
    figure, _ = accuracy_curves([Curve("attn", rounds, rounds / 10), Curve("local", rounds, rounds / 12)])
    return figure


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_format_follows_the_suffix_and_bytes_repeat(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    save_figure(a_figure(), first)
    save_figure(a_figure(), second)
    assert first.read_bytes().startswith(MAGIC[suffix.lower()])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [first.name, second.name]


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_bytes_repeat_in_another_process_and_time_zone(tmp_path: Path, suffix: str) -> None:
    here, there = tmp_path / f"here.{suffix}", tmp_path / f"there.{suffix}"
    save_figure(a_figure(), here)
    code = (
        "import sys; import numpy as np; from pathlib import Path; from fltk.plots.save import save_figure;"
        "from fltk.plots.curves import Curve, accuracy_curves; r = np.arange(1, 6);"
        "figure, _ = accuracy_curves([Curve('attn', r, r / 10), Curve('local', r, r / 12)]);"
        "save_figure(figure, Path(sys.argv[1]))"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, "-c", code, str(there)], check=True, env=environment)
    assert here.read_bytes() == there.read_bytes()


def test_a_users_matplotlib_settings_take_no_part_and_survive(tmp_path: Path) -> None:
    save_figure(a_figure(), tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):
        save_figure(a_figure(), tmp_path / "b.svg")
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_png_has_300_dots_an_inch(tmp_path: Path) -> None:
    figure = a_figure()
    save_figure(figure, tmp_path / "a.png")
    width = int.from_bytes((tmp_path / "a.png").read_bytes()[16:20], "big")
    assert width == round(300 * figure.get_size_inches()[0])


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.pdf.gz"])
def test_unknown_format_names_the_option_and_the_formats(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--output: .*\.png, \.svg, \.pdf"):
        save_figure(a_figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_unusable_places_are_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder.pdf").mkdir()
    with pytest.raises(FltkError, match=r"--output: the folder .*missing.* does not exist"):
        check_figure_path(tmp_path / "missing" / "a.pdf")
    with pytest.raises(FltkError, match=r"--output: .* is a folder"):
        check_figure_path(tmp_path / "folder.pdf")
    with pytest.raises(UsageError, match=r"--data: 'a\.txt' must end in \.csv"):
        check_data_path(tmp_path / "a.txt")
    with pytest.raises(FltkError, match="--output: cannot write"):
        save_figure(a_figure(), tmp_path / ("a" * 300 + ".png"))


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FltkError, match=r"--output: cannot write .*No space left"):
        save_figure(a_figure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_without_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(FltkError, match=r"--data: cannot write .*Permission denied"):
        save_data([{"a": 1}], tmp_path / "a.csv")


def test_data_reads_back_exactly(tmp_path: Path) -> None:
    rows = [{"label": 'a, "b" é', "value": 0.1 + 0.2}, {"label": "c", "value": math.nan, "extra": None}]
    save_data(rows, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        back = list(csv.DictReader(file))
    assert back[0] == {"label": 'a, "b" é', "value": repr(0.1 + 0.2), "extra": ""}
    assert back[1] == {"label": "c", "value": "", "extra": ""}
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


def test_a_home_that_cannot_be_written_is_no_matter() -> None:
    """matplotlib would tell of its cache in lines of its own."""
    shown = subprocess.run(
        [sys.executable, "-c", "import fltk.plots.save"],
        env=clean_environment({"MPLCONFIGDIR": "/proc/none"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (shown.stdout, shown.stderr) == ("", "")
