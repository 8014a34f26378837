"""What is recorded of the circumstances of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fltk
from fltk.registry import capture


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=trunk"]
    done = subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that holds what stands for fltk's package."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(tmp_path, "init")
    monkeypatch.setattr(capture, "PACKAGE", tmp_path)
    (tmp_path / "__init__.py").write_text("")
    git(tmp_path, "add", "__init__.py")
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    return tmp_path


def test_the_environment_is_plain_data_and_repeats() -> None:
    first = capture.environment()
    assert first == capture.environment() == json.loads(json.dumps(first))
    assert first["packages"]["sqlalchemy"] and first["cpu"] and first["cores"] >= 1
    assert first["python"].split()[1] == sys.version.split()[0]


def test_torch_is_asked_only_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    assert "config" in capture.environment()["torch"]
    monkeypatch.delitem(sys.modules, "torch")
    assert capture.environment()["torch"] == {"version": torch.__version__}


def test_a_clean_tree(repository: Path) -> None:
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    state = capture.git_state(repository / ".git" / "..")
    assert state["folder"] == {"present": True, "same": True} and state["version"] == fltk.__version__
    assert state["commit"] == git(repository, "rev-parse", "HEAD") and state["branch"] == "trunk"
    assert state["present"] and not state["dirty"] and state["untracked"] == {} and "diff_size" not in state
    assert state["fltk_sha256"] == capture.package_digest()


def test_changes_are_recorded_so_that_they_can_be_applied(repository: Path) -> None:
    (repository / "data.bin").write_bytes(bytes(range(256)))
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    git(repository, "checkout", "--detach")
    (repository / "a.py").write_text("a = 2\n")
    (repository / "data.bin").write_bytes(bytes(reversed(range(256))))
    for name in ("ignored.py", "new ü.py", "note.txt"):
        (repository / name).write_text("new")
    (repository / "sub").mkdir()
    state = capture.git_state(repository / "sub")
    assert state["dirty"] and state["branch"] is None
    assert list(state["untracked"]) == ["new ü.py"]
    assert state["diff_size"] == len(state["diff"])
    git(repository, "checkout", ".")
    (repository / "patch").write_bytes(state["diff"])
    git(repository, "apply", "patch")
    assert (repository / "a.py").read_text() == "a = 2\n"
    assert (repository / "data.bin").read_bytes() == bytes(reversed(range(256)))


def test_a_long_diff_is_only_described(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    (repository / "a.py").write_text("a = 2\n" * 100)
    monkeypatch.setattr(capture, "DIFF_LIMIT", 100)
    state = capture.git_state(repository)
    assert "diff" not in state and state["diff_size"] > 100 and len(state["diff_hash"]) == 64


def test_a_repository_without_commits(repository: Path) -> None:
    state = capture.git_state(repository)
    assert state["present"] and state["commit"] is None and state["branch"] == "trunk" and state["dirty"]
    assert list(state["untracked"]) == ["a.py"]


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(capture, "PACKAGE", tmp_path)
    state, why = capture.git_state(tmp_path), capture.unclean(tmp_path)
    absent = ("not a git repository", "git is not installed or cannot be started here")
    assert not state["present"] and state["reason"] in absent and state["folder"]["reason"] in absent
    assert why is not None and "fltk's code: " in why and "the current folder: " in why


def test_the_code_is_that_of_fltk_and_the_folder_comes_second(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("experiments")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    git(folder, "init")
    (folder / "grid.toml").write_text("seed = 0\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "a grid")
    clean = capture.git_state(folder)
    assert clean["commit"] == git(repository, "rev-parse", "HEAD") and not clean["dirty"]
    assert clean["folder"]["commit"] == git(folder, "rev-parse", "HEAD") and not clean["folder"]["dirty"]
    assert capture.unclean(folder) is None
    (folder / "grid.toml").write_text("seed = 1\n")
    changed = capture.git_state(folder)
    assert not changed["dirty"] and changed["folder"]["dirty"] and "diff" not in changed | changed["folder"]
    why = capture.unclean(folder)
    assert why is not None and str(folder) in why and "the current folder" in why
    (repository / "a.py").write_text("a = 2\n")
    why = capture.unclean(folder)
    assert why is not None and str(repository) in why and "fltk's code" in why


def test_a_virtual_environment_in_a_repository_is_no_checkout_of_fltk(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = repository / "venv" / "fltk"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(capture, "PACKAGE", installed)
    git(repository, "add", "a.py", ".gitignore")
    git(repository, "commit", "-m", "first")
    state = capture.git_state(repository)
    assert not state["present"] and "installed package" in state["reason"] and state["folder"]["commit"]


def test_no_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository / "nowhere"))
    state = capture.git_state(repository)
    assert not state["present"] and "not installed" in state["reason"] and len(state["fltk_sha256"]) == 64


def test_a_git_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "git"
    fake.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("fltk.registry.git.GIT_SECONDS", 0.2)
    monkeypatch.setattr(capture, "PACKAGE", tmp_path)
    assert capture.git_state(tmp_path)["reason"] == "git took too long"


@pytest.mark.parametrize("name", ["evil", "e=v.il"])
@pytest.mark.parametrize("inside", ["repository", "submodule"])
def test_a_repository_cannot_start_programs(repository: Path, name: str, inside: str) -> None:
    """Its filters, its monitor and its hooks; the state is that of the files as they lie there."""
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    hostile = repository
    if inside == "submodule":
        hostile = repository / "sub"
        hostile.mkdir()
        git(hostile, "init")
        (hostile / "b.py").write_text("b = 1\n")
        git(hostile, "add", ".")
        git(hostile, "commit", "-m", "inner")
        git(repository, "-c", "advice.addEmbeddedRepo=false", "add", "sub")
        git(repository, "commit", "-m", "with a submodule")

    started = repository.parent / f"{repository.name}-{inside}"
    (hostile / ".git" / "info").mkdir(exist_ok=True)
    (hostile / ".git" / "info" / "attributes").write_text(f"*.py filter={name}\n")
    for file in hostile.glob("*.py"):
        file.write_text(file.read_text().replace("1", "2"))  # of equal size, so that git has to look into it
    with (hostile / ".git" / "config").open("a") as config:
        for key in ("clean", "smudge", "process"):
            config.write(f'[filter "{name}"]\n{key} = touch {started}; cat\nrequired = true\n')
        config.write(f'[core]\nfsmonitor = "touch {started}; false"\n[diff]\nexternal = "touch {started}"\n')

    state = capture.git_state(repository)
    assert not started.exists()
    assert state["present"] and state["dirty"]
    assert b"+a = 2" in state["diff"] or inside == "submodule"
    assert capture.unclean(repository) is not None and not started.exists()


def test_filters_of_the_user_stay(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of Git LFS, without which a clean tree would look changed; the repository cannot replace them."""
    own = repository.parent / f"{repository.name}.gitconfig"
    own.write_text('[filter "upper"]\nclean = tr a-z A-Z\nrequired = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    (repository / ".gitattributes").write_text("note.txt filter=upper\n")
    (repository / "note.txt").write_text("text\n")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    assert git(repository, "show", "HEAD:note.txt") == "TEXT"

    started = repository.parent / f"{repository.name}-started"
    with (repository / ".git" / "config").open("a") as config:
        config.write(f'[filter "upper"]\nclean = touch {started}; cat\n')
    (repository / "note.txt").write_text("tExt\n")  # the same to the filter
    state = capture.git_state(repository)
    assert not state["dirty"] and not started.exists()


def test_links_are_not_read(repository: Path) -> None:
    """An untracked file may be a link to what never ends."""
    (repository / "link.py").symlink_to(repository / "a.py")
    assert list(capture.git_state(repository)["untracked"]) == ["a.py"]
