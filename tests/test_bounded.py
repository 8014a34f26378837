"""Settings are read from files and pipes with a limit: nothing endless, nothing deep, nothing silent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fltk import bounded
from fltk.bounded import read_text, read_toml
from fltk.cli.options import read_config
from fltk.errors import UsageError
from fltk.sweep.grid import read

READERS: list[Callable[[Path], object]] = [read_config, read]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = " + "{b=" * 5000, "nested too deeply"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = 1\n" * 200_000, "longer than 1,048,576 bytes"),
        ("a = \x00", "not valid TOML"),
    ],
)
def test_hostile_files_of_settings(tmp_path: Path, reader: Callable[[Path], object], text: str, part: str) -> None:
    path = tmp_path / "exp.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=part) as caught:
        reader(path)
    assert "exp.toml" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
@pytest.mark.parametrize("reader", READERS)
def test_a_device_that_never_ends(reader: Callable[[Path], object]) -> None:
    with pytest.raises(UsageError, match="/dev/zero: longer than"):
        reader(Path("/dev/zero"))


def test_an_empty_device_a_folder_and_a_name_that_is_none(tmp_path: Path) -> None:
    assert read_toml(Path(os.devnull), "x") == {}
    with pytest.raises(UsageError, match="x: Is a directory"):
        read_text(tmp_path, "x")
    with pytest.raises(UsageError, match="x: "):
        read_text(Path("a\0b"), "x")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def written(path: Path, parts: list[bytes]) -> threading.Thread:
    """A writer at the other end of a pipe, which may be left by its reader."""

    def write() -> None:
        try:
            with path.open("wb", buffering=0) as file:
                for part in parts:
                    file.write(part)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_settings_may_come_through_a_pipe(pipe: Path) -> None:
    """As from `<(...)` of a shell, whole however many pieces they come in."""
    writer = written(pipe, [b"seed = 7\n", b"# " + b"x" * 100_000 + b"\n", b"method = 'local'\n"])
    assert read_toml(pipe, "x") == {"seed": 7, "method": "local"}
    writer.join()


def test_a_pipe_that_never_ends(pipe: Path) -> None:
    writer = written(pipe, [b"x" * 100_000] * 50)
    with pytest.raises(UsageError, match="longer than"):
        read_text(pipe, "x")
    writer.join()


def test_a_pipe_to_which_nothing_is_written(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "PATIENCE", 0.01)
    with pytest.raises(UsageError, match="x: nothing came through this pipe"):
        read_text(pipe, "x")
