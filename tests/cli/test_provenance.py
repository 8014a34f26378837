"""Where data come from is stored as it is: own data under their own name, and no setting without effect unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calls import TINY, done, fltk
from folders import folder_of_pfllib

from fltk import partition
from fltk.config import PartitionConfig, RunConfig, TrainConfig
from fltk.data import Dataset, create, own
from fltk.errors import UsageError
from fltk.experiment import Place, Prepared, prepare, restore, save_partition, train
from fltk.partition.federation import build
from fltk.registry import Store
from fltk.resume import resume

SHAPE = (240, 1, 4, 4)


def hospital(name: str = "hospital", seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return own(name, rng.random(SHAPE), np.arange(SHAPE[0]) % 3, owner=np.arange(SHAPE[0]) // 60, owner_names="abcd")


def config(**changes: object) -> RunConfig:
    part = PartitionConfig(**{"dataset": "own:hospital", "clients": 3, "newcomers": 1, "scheme": "iid", **changes})
    return RunConfig(part, TrainConfig(rounds=2, hidden="8"), "local")


def test_own_data_are_stored_under_their_name_with_their_fingerprint(tmp_path: Path) -> None:
    data, db = hospital(), tmp_path / "r.db"
    place = Place(own=(data,))
    with Store(db, create=True) as store:
        number = train(config(), prepare(config().partition, place, store), store, place)
        run = store.find_run(number)
        stored = store.find_partition("part1")
        assert (run.dataset, run.config["partition"]["dataset"]) == ("own:hospital", "own:hospital")
        assert run.data_fingerprint == stored.data_fingerprint == data.fingerprint
        resume(run, store, place, from_round=0)
        with pytest.raises(UsageError, match="given from Python"):
            restore(run, store, Place())
        with pytest.raises(Exception, match="changed since"):
            restore(run, store, Place(own=(hospital(seed=1),)))
    assert "own:hospital" in done(db, "runs") and "own:hospital iid" in done(db, "compare")
    assert "own:hospital was given from Python" in fltk(db, "evaluate", "run1").line
    done(db, "report", "run1", "-o", str(tmp_path / "a.html"))
    assert "fltk train --method" not in (tmp_path / "a.html").read_text(), "no command line can make this run"


def test_own_data_know_natural_clients_and_subsets(tmp_path: Path) -> None:
    place = Place(own=(hospital(),))
    with Store(tmp_path / "r.db", create=True) as store:
        natural = prepare(config(scheme="natural").partition, place, store)
        assert [len(c.train) + len(c.val) + len(c.test) for c in natural.federation.clients] == [60] * 3
        small = prepare(config(subset=120).partition, place, store)
    assert small.data_fingerprint != natural.data_fingerprint


def test_own_data_are_never_called_digits(tmp_path: Path) -> None:
    """A configuration says digits unless told; what is stored says what the samples are."""
    data = create("mine", np.zeros(SHAPE, np.float32), np.arange(SHAPE[0]) % 3, ("a", "b", "c"))
    asked = PartitionConfig(clients=3, newcomers=0, scheme="iid")
    made = partition.make(data, asked)
    assert asked.dataset == "digits" and made.config.dataset == "own:mine"
    by_hand = partition.create(asked, data.fingerprint, (made.train, made.val, made.test))
    with Store(tmp_path / "r.db", create=True) as store:
        with pytest.raises(UsageError, match=r"says dataset 'digits', but its samples are 'own:mine'"):
            save_partition(store, data, by_hand)
        number = save_partition(store, data, made)
        prepared = Prepared(build(data, made), data.fingerprint, number, made.config)
        run = train(RunConfig(asked, TrainConfig(rounds=1, hidden="8"), "local"), prepared, store, Place())
        assert store.find_run(run).dataset == "own:mine"


@pytest.mark.parametrize(
    ("name", "x", "y", "part"),
    [
        ("a b", np.zeros(SHAPE), np.zeros(240, int), "a name consists of"),
        ("a", np.zeros((240, 16)), np.zeros(240, int), "x must be"),
        ("a", np.zeros(SHAPE), np.zeros(239, int), "one integer class label per sample"),
        ("a", np.zeros(SHAPE), np.zeros(240), "one integer class label per sample"),
    ],
)
def test_arrays_that_do_not_fit(name: str, x: np.ndarray, y: np.ndarray, part: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=part):
        own(name, x, y)


def test_no_command_line_has_own_data(tmp_path: Path) -> None:
    db, grid = tmp_path / "r.db", tmp_path / "grid.toml"
    grid.write_text('method = "local"\n[partition]\ndataset = "own:hospital"\n', encoding="utf-8")
    assert "own:hospital was given from Python" in fltk(db, "sweep", str(grid), "--dry-run").line
    assert "there is no 'own:hospital'" in fltk(db, "train", "--dataset", "own:hospital").line


@pytest.mark.parametrize(
    "flag", ["--dataset mnist", "--scheme iid", "--alpha 0.5", "--clients 3", "--subset 9", "--test-split match"]
)
@pytest.mark.parametrize("command", [("train",), ("partition", "make")])
def test_what_an_imported_folder_settles_is_refused(tmp_path: Path, command: tuple[str, ...], flag: str) -> None:
    folder = folder_of_pfllib(tmp_path / "data")
    called = fltk(tmp_path / "r.db", *command, "--from-pfllib", str(folder), *flag.split())
    assert called.line == (
        f"fltk: error: {flag.split()[0]} does not go with --from-pfllib, whose folder settles it; leave it out\n"
    )
    assert not (tmp_path / "r.db").exists()


def test_what_a_file_says_beside_an_imported_folder_is_told(tmp_path: Path) -> None:
    db, file = tmp_path / "r.db", tmp_path / "exp.toml"
    folder = folder_of_pfllib(tmp_path / "data")
    file.write_text("[partition]\nalpha = 0.5\nval_share = 0.3\n", encoding="utf-8")
    given = ("--config", str(file), "--from-pfllib", str(folder))
    called = fltk(db, "train", "--method", "local", *given, "--rounds", "1", "--hidden", "8", quiet=False)
    assert called.code == 0
    assert "note: --alpha does not apply to --from-pfllib, whose folder settles it\n" in called.err
    assert called.err.count("does not apply") == 1


def test_a_sweep_over_what_an_imported_folder_settles_is_refused(tmp_path: Path) -> None:
    folder, grid = folder_of_pfllib(tmp_path / "data"), tmp_path / "grid.toml"
    grid.write_text(f'method = "local"\n[partition]\nfrom_pfllib = "{folder}"\nalpha = [0.1, 1.0]\n', encoding="utf-8")
    assert "alpha does not go with from_pfllib" in fltk(tmp_path / "r.db", "sweep", str(grid), "--dry-run").line


def test_the_report_gives_the_command_of_an_imported_folder(tmp_path: Path) -> None:
    db, folder = tmp_path / "r.db", folder_of_pfllib(tmp_path / "data")
    done(db, "train", "--method", "local", "--from-pfllib", str(folder), "--rounds", "1", "--hidden", "8")
    done(db, "report", "run1", "-o", str(tmp_path / "a.html"))
    text = (tmp_path / "a.html").read_text()
    (line,) = [line for line in text.splitlines() if "fltk train --method local" in line]
    words = line.partition("fltk train")[2].partition("<")[0].split()
    assert "--scheme" not in words and "--clients" not in words
    again = json.loads(done(db, "train", "--skip-done", *words, "--json"))["rows"]
    assert [row["run"] for row in again] == ["run1"]


def test_a_setting_that_the_scheme_does_not_read_is_told(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    command = ("train", "--method", "local", *TINY, "--scheme", "iid")
    assert "does not apply" not in fltk(db, *command, quiet=False).err
    called = fltk(db, *command, "--alpha", "0.5", quiet=False)
    assert called.code == 0 and "note: --alpha does not apply to --scheme iid\n" in called.err
    assert "does not apply" not in fltk(db, "train", "--method", "local", *TINY, "--alpha", "0.5", quiet=False).err
