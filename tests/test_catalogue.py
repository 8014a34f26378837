"""What names stand for: built in, installed packages, files and modules; and that a name has one meaning."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_files import MINE, plugin

from fltk import catalogue, ledger, own_code
from fltk.config import PartitionConfig, RunConfig, TrainConfig
from fltk.errors import ChangedFiles, UsageError
from fltk.names import METHODS
from fltk.registry.method_code import method_digest

Install = Callable[[str, str, str], None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder of a user who has run no code yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    new_process(monkeypatch)
    return tmp_path


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on as in a process that has loaded nothing."""
    monkeypatch.setattr("fltk.own_code._loaded", {})
    monkeypatch.setattr("fltk.own_code._admitted", {})
    monkeypatch.setattr("fltk.ledger._seen", {})


@pytest.fixture
def install(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install(package, group, line): an installed package with one entry point, whose code is MINE."""
    site = home / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    catalogue._installed.cache_clear()

    def make(package: str, group: str, line: str) -> None:
        (site / f"{package}.py").write_text(MINE, encoding="utf-8")
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n", encoding="utf-8")
        catalogue._installed.cache_clear()

    yield make
    catalogue._installed.cache_clear()


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_every_built_in_name_is_found_and_stored_as_it_is(kind: str) -> None:
    for name in catalogue.KINDS[kind].built_in:
        assert catalogue.pinned(kind, name) == name
        assert catalogue.spelled(kind, name.upper().replace("-", "_")) == name


def test_an_unknown_name_says_what_was_close() -> None:
    with pytest.raises(UsageError, match="did you mean fedavg"):
        catalogue.find("method", "fedavgg")


def test_the_hash_of_a_configuration_covers_own_code_and_leaves_built_in_ones_as_they_were(home: Path) -> None:
    plugin(home)
    name = catalogue.pinned("method", "my.py:Mine")
    assert catalogue.split(name) == ("my.py:Mine", own_code.of_file(home / "my.py", "").sha256[:12])
    plugin(home, MINE + "#\n")
    assert catalogue.pinned("method", "my.py:Mine") != name
    assert RunConfig(method="fedavg").digest() != RunConfig(method=name).digest()
    assert "label" not in RunConfig().to_dict()["partition"]


def test_an_entry_point_is_a_name_like_a_built_in_one(install: Install) -> None:
    install("packaged", "fltk.methods", "minimal = packaged:Mine")
    assert catalogue.names("method") == [*METHODS, "minimal"]
    assert RunConfig(method="Minimal").method == "minimal"
    stored = catalogue.pinned("method", "minimal")
    assert stored.startswith("minimal@") and catalogue.find("method", stored).__name__ == "Mine"
    assert method_digest(stored) == stored.rpartition("@")[2]


def test_an_entry_point_whose_source_has_changed_is_another_one(install: Install) -> None:
    install("changed_one", "fltk.methods", "minimal = changed_one:Mine")
    with pytest.raises(ChangedFiles, match="has changed since"):
        catalogue.find("method", "minimal@000000000000")


@pytest.mark.parametrize("name", ["fedavg", "Fed-Avg"])
def test_a_name_of_a_package_that_is_built_in_is_an_error_that_names_both(install: Install, name: str) -> None:
    install("clashing", "fltk.methods", f"{name} = clashing:Mine")
    with pytest.raises(UsageError, match=r"exists twice, in fltk itself \(fedavg\) and in clashing"):
        catalogue.find("method", "fedavg")


def test_a_name_of_two_packages_is_an_error_that_names_both(install: Install) -> None:
    install("first_one", "fltk.methods", "minimal = first_one:Mine")
    install("second_one", "fltk.methods", "minimal = second_one:Mine")
    with pytest.raises(UsageError, match=r"in first_one \(.*\) and in second_one"):
        catalogue.names("method")


def test_a_class_of_an_importable_module(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(home, name="importable_mine.py")
    monkeypatch.syspath_prepend(str(home))
    stored = catalogue.pinned("method", "importable_mine:Mine")
    assert stored.startswith("importable_mine:Mine@")
    new_process(monkeypatch)
    assert catalogue.find("method", stored).__name__ == "Mine"


def test_a_stored_module_name_is_imported_only_if_it_is_the_file_that_the_user_has_run(home: Path) -> None:
    plugin(home)
    short = catalogue.pinned("method", "my.py:Mine")[-12:]
    with pytest.raises(UsageError, match="is not the module antigravity"):
        catalogue.find("method", f"antigravity:Mine@{short}")


def test_a_stored_name_of_somebody_else_is_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(home)
    stored = catalogue.pinned("method", "my.py:Mine")
    new_process(monkeypatch)
    assert catalogue.find("method", stored).__name__ == "Mine", "the same user, in a new process"
    new_process(monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "other"))
    assert catalogue.known("method", stored) is None
    with pytest.raises(UsageError, match="you have not run this code here"):
        catalogue.find("method", stored)
    assert RunConfig.from_dict({"method": stored}).method == stored, "it can be read"


@pytest.mark.parametrize(
    "config",
    [
        {"method": "my.py:Mine"},
        {"train": {"model": "my.py:Net"}},
        {"partition": {"dataset": "my.py:load"}},
        {"partition": {"scheme": "my.py:deal"}},
        {"attack": {"kind": "my.py:Attack"}},
        {"defence": {"defence": "os:system"}},
    ],
)
def test_a_stored_configuration_without_the_hash_of_its_code_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="without its hash"):
        RunConfig.from_dict(config)


def test_a_folder_that_cannot_be_written_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    plugin(home)
    stored = catalogue.pinned("method", "my.py:Mine")
    assert catalogue.find("method", stored).__name__ == "Mine"


def test_a_record_with_other_lines_is_read_as_far_as_it_makes_sense(home: Path) -> None:
    plugin(home)
    catalogue.find("method", "my.py:Mine")
    path = home / "config" / "fltk" / "known"
    path.write_bytes(b"\xff\x00nonsense\ncode\tshort\t/x\n" + path.read_bytes() + b"data\t")
    sha256 = own_code.of_file(home / "my.py", "").sha256
    ledger._seen.clear()
    assert ledger.places(ledger.CODE, sha256[:12]) == [(sha256, str(home / "my.py"))]


def test_own_code_arrives_in_a_process_that_is_started_for_work(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By unpickling: the file itself may be gone by then."""
    plugin(home)
    made = catalogue.find("method", "my.py:Mine")(shrink=0.3)
    message = pickle.dumps((own_code.Carried(), made))
    (home / "my.py").unlink()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(shrink_of, (message,)) == 0.3


def shrink_of(message: bytes) -> float:
    """In the other process."""
    found: float = pickle.loads(message)[1].shrink
    return found


def test_names_of_own_code_are_taken_by_every_configuration(home: Path) -> None:
    assert TrainConfig(model="my.py:Net").model == "my.py:Net"
    assert PartitionConfig(dataset="my.py:load", scheme="my.py:deal").scheme == "my.py:deal"
    with pytest.raises(UsageError, match="--dataset"):
        PartitionConfig(dataset="mnits")
