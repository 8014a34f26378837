"""What is given away: the wheel, installed without the checkout and run from another folder, and the sources."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from processes import ROOT, clean_environment

import fltk

PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def checked(*command: str | Path, cwd: Path) -> str:
    """The output of a command that has to succeed, without the checkout on its path."""
    env = {key: value for key, value in clean_environment().items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment_with(wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel, whose needs come from the present one and not from the network.

    The present environment may have the checkout installed: the wheel's own folder comes first on the path.
    """
    venv.create(folder, with_pip=False)
    here, there = sysconfig.get_path("purelib"), sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    Path(there, "dependencies.pth").write_text(f"{here}\n{sysconfig.get_path('platlib')}\n")
    python = folder / "bin" / "python"
    checked(
        sys.executable,
        "-m",
        "pip",
        f"--python={python}",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )
    return python.parent


def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not run from a checkout")
    checked(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("fltk-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    source = {f"fltk/{path.relative_to(ROOT / 'fltk')}" for path in (ROOT / "fltk").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("fltk/")} == {
        name for name in source if "__pycache__" not in name
    }, "everything of the package is in the wheel, and nothing else"
    assert "fltk/py.typed" in names and any(name.startswith("fltk/registry/migrations/") for name in names)

    bin = environment_with(wheel, tmp_path / "env")
    away = tmp_path / "away"
    away.mkdir()
    where = checked(bin / "python", "-c", "import fltk; print(fltk.__file__)", cwd=away)
    assert Path(where.strip()).is_relative_to(tmp_path / "env")
    assert checked(bin / "fltk", "--version", cwd=away) == f"fltk {fltk.__version__}\n"
    assert "attn" in checked(bin / "fltk", "methods", cwd=away)
    tiny = ("--rounds", "1", "--clients", "4", "--newcomers", "0", "--hidden", "8", "--min-size", "5")
    checked(bin / "fltk", "train", *tiny, "--db", "tiny.db", cwd=away)
    assert (away / "tiny.db").exists()


def test_the_sources_hold_what_the_pages_point_to(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not run from a checkout")
    checked(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (sources,) = tmp_path.glob("fltk-*.tar.gz")
    with tarfile.open(sources) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "Makefile", "pyproject.toml", "results.db.example", "fltk/py.typed"}
    for folder, ending in (("docs", "md"), ("experiments", "*"), ("tests", "py")):
        wanted |= {f"{folder}/{path.name}" for path in (ROOT / folder).glob(f"*.{ending}")}
    shown = re.findall(r"\]\(\.{0,2}/?(plots/[\w-]+\.png)\)", "".join(p.read_text() for p in PAGES))
    assert shown and names >= wanted | set(shown)
    assert not any(name.startswith("plots/demo-") for name in names)


@pytest.mark.parametrize("script", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.name)
def test_experiments_explain_themselves(script: Path, tmp_path: Path) -> None:
    """--help starts nothing, and makes no file of that name."""
    command = [sys.executable, str(script), "--help"]
    env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.startswith("usage: ") and not list(tmp_path.iterdir())
