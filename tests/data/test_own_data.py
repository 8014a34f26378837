"""Tables and folders of images of the user's own, written from real data; and what is refused of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_files import breast_cancer, digits_as_pngs, wine

from fltk import ledger, own_data, partition
from fltk.config import PartitionConfig, stored_partition
from fltk.data import own_sets
from fltk.data.dataset import Dataset
from fltk.errors import ChangedFiles, FltkError, UsageError
from fltk.experiment import Place, deal, foresee
from fltk.partition.federation import build


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and settings of a user who has used no data yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("fltk.ledger._seen", {})
    return tmp_path


def loaded(path: Path | str, **columns: str) -> Dataset:
    """The data set of a path."""
    return own_sets.load(PartitionConfig(dataset=str(path), **columns), Path("nowhere"))


def refused(path: Path | str, **columns: str) -> str:
    """The one line about data that cannot be used."""
    with pytest.raises(FltkError) as caught:
        loaded(path, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Tables


def test_wine_as_csv_is_the_table_of_scikit_learn(home: Path) -> None:
    from sklearn.datasets import load_wine

    bunch = load_wine()
    found = loaded(wine(home / "wine.csv"), label="kind", client="cellar", group="region")
    assert found.classes == tuple(sorted(bunch.target_names)) and found.shape == (13,)
    np.testing.assert_array_equal(found.x, bunch.data.astype(np.float32))
    assert [found.classes[k] for k in found.y] == [bunch.target_names[k] for k in bunch.target]
    assert found.owner_names == tuple(f"cellar {k}" for k in range(6)) and found.raw
    assert found.name.startswith("wine.csv#") and found.group is not None


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".safetensors"])
def test_breast_cancer_is_the_same_in_every_format(home: Path, suffix: str) -> None:
    data, target, names = breast_cancer()
    path = home / f"cancer{suffix}"
    columns = {name: data[:, k].astype(np.float32) for k, name in enumerate(names)}
    label = "benign"
    if suffix == ".csv":
        rows = [",".join([*names, label])]
        rows += [
            ",".join([*(repr(float(v)) for v in row), str(t)]) for row, t in zip(data.astype("f4"), target, strict=True)
        ]
        written(path, "\n".join(rows) + "\n")
    elif suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({**columns, label: target}), path)
    elif suffix == ".npz":
        np.savez(path, x=data.astype(np.float32), y=target)
        label = ""
    else:
        from safetensors.numpy import save_file

        save_file({"x": data.astype(np.float32), "y": target}, path)
        label = ""
    found = loaded(path, label=label)
    np.testing.assert_array_equal(found.x, data.astype(np.float32))
    np.testing.assert_array_equal(found.y, target)
    assert found.classes == ("0", "1")


def test_a_column_of_texts_becomes_one_feature_for_each_of_them(home: Path) -> None:
    found = loaded(written(home / "t.csv", "colour,size,kind\nred,1,a\nblue,2,b\nred,3,a\n"), label="kind")
    np.testing.assert_array_equal(found.x, np.float32([[0, 1, 1], [1, 0, 2], [0, 1, 3]]))


def test_samples_are_standardised_by_the_training_data_of_the_clients_alone(home: Path) -> None:
    config = PartitionConfig(
        dataset=str(wine(home / "wine.csv")), label="kind", client="cellar", scheme="natural", clients=4, newcomers=2
    )
    dataset, made = deal(config, Place())
    trained = dataset.x[np.concatenate(made.train[:4])].astype(np.float64)
    assert made.scaling is not None
    np.testing.assert_allclose(made.scaling.mean, trained.mean(0), rtol=1e-6)
    np.testing.assert_allclose(made.scaling.deviation, trained.std(0), rtol=1e-6)

    federation = build(dataset, made)
    together = np.concatenate([client.train.x.numpy() for client in federation.clients])
    np.testing.assert_allclose(together.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(together.std(0), 1, atol=1e-4)

    again = partition.from_arrays(made.config, partition.to_arrays(made))
    assert again.fingerprint == made.fingerprint and again.scaling is not None
    other = replace(made, scaling=partition.record.Scaling(made.scaling.mean + 1, made.scaling.deviation))
    with pytest.raises(FltkError, match="damaged"):
        partition.from_arrays(made.config, partition.to_arrays(other))


def test_clients_and_groups_of_the_columns_are_those_of_the_partition(home: Path) -> None:
    path = wine(home / "wine.csv")
    config = PartitionConfig(
        dataset=str(path), label="kind", client="cellar", group="region", scheme="natural", clients=6, newcomers=0
    )
    dataset, made = deal(config, Place())
    names = build(dataset, made).names
    assert sorted(names) == [f"cellar {k}" for k in range(6)] and made.group is not None
    assert {name: int(g) for name, g in zip(names, made.group, strict=True)} == {
        f"cellar {k}": 0 if k < 3 else 1 for k in range(6)
    }
    with pytest.raises(UsageError, match="--group: samples of client 0 lie in 3 groups"):
        deal(replace(config, client="region", group="cellar", clients=2), Place())
    groups_only = replace(config, client="", clients=4)
    assert deal(groups_only, Place())[1].group.tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]


def test_a_split_that_the_table_states_is_kept(home: Path) -> None:
    rows = ["a,kind,split"]
    rows += [f"{k},{k % 2},{('train', 'train', 'val', 'test')[k // 2 % 4]}" for k in range(160)]
    path = written(home / "t.csv", "\n".join(rows) + "\n")
    config = PartitionConfig(dataset=str(path), label="kind", scheme="iid", clients=3, newcomers=0)
    dataset, made = deal(config, Place())
    for parts, number in ((made.train, 0), (made.val, 1), (made.test, 2)):
        assert dataset.split is not None and all((dataset.split[part] == number).all() for part in parts)
        assert all(len(part) for part in parts)


def test_the_configuration_names_data_by_their_content(home: Path) -> None:
    from fltk.config import RunConfig

    path = wine(home / "wine.csv")
    config = RunConfig(PartitionConfig(dataset="wine.csv", label="kind"))
    here = foresee(config, Place())
    moved = home / "elsewhere"
    moved.mkdir()
    path.rename(moved / "wine.csv")
    there = foresee(RunConfig(PartitionConfig(dataset=str(moved / "wine.csv"), label="kind")), Place())
    assert here.digest() == there.digest()
    (moved / "wine.csv").write_text((moved / "wine.csv").read_text().replace("north", "nord"))
    changed = foresee(RunConfig(PartitionConfig(dataset=str(moved / "wine.csv"), label="kind")), Place())
    assert changed.digest() != here.digest()


def test_stored_data_are_found_by_their_hash_and_a_change_is_noticed(home: Path) -> None:
    path = wine(home / "wine.csv")
    stored = loaded(path, label="kind").name
    again = PartitionConfig(dataset=stored, label="kind")
    assert own_sets.load(again, home / "none").name == stored
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(ChangedFiles, match=r"wine\.csv changed since"):
        own_sets.load(again, home / "none")


def test_stored_data_are_looked_for_in_the_folder_of_data_sets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = loaded(wine(home / "wine.csv"), label="kind").name
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "other"))
    monkeypatch.setattr("fltk.ledger._seen", {})
    config = PartitionConfig(dataset=stored, label="kind")
    assert own_sets.load(config, home).name == stored
    with pytest.raises(UsageError, match="have not been used here"):
        own_sets.load(config, home / "config")


@pytest.mark.parametrize("name", ["../wine.csv", "/etc/passwd", "..", "a/../../wine.csv"])
def test_a_stored_name_is_never_a_path(home: Path, name: str) -> None:
    """A stranger's registry could name any file."""
    inner = home / "data"
    inner.mkdir()
    wine(home / "wine.csv")
    short = own_data.locate(str(home / "wine.csv"), inner).sha256[:12]
    ledger._seen.clear()
    (home / "config" / "fltk" / "known").unlink()
    with pytest.raises(UsageError, match="have not been used here"):
        own_sets.load(stored_partition({"dataset": f"{name}#{short}", "label": "kind"}), inner)


@pytest.mark.parametrize(
    ("text", "label", "told"),
    [
        ("a,b\n1,2\n2,3\n", "", "name the column of labels with --label; there are a, b"),
        ("a,b\n1,2\n2,3\n", "c", "--label 'c': there is no such column; there are a, b"),
        ("a,b\n1,2\nnan,3\n", "b", "row 2: column 'a' has no value"),
        ("a,b\n1,2\n,3\n", "b", "row 2: column 'a' has no value"),
        ("a,b\n1,\n2,3\n", "b", "row 1: column 'b' has no value"),
        ("a,b\n1,2\ninf,3\n", "b", "row 2: column 'a' has a value that is no finite number"),
        ("a,b\n1,2\n2\n", "b", "row 2 has 1 entries, and the header has 2"),
        ("a,a\n1,2\n", "a", "two columns are called 'a'"),
        ("a,b\n", "b", "the table is empty"),
        ("", "b", "the first line must name every column"),
        ("a,b\n1,2\n2,2\n", "b", "all samples have the same label 2"),
        ("a,b\n1,0.5\n2,1.5\n", "b", "sample 1 has the label 0.5: classes are whole numbers or texts"),
        ("b\n1\n2\n", "b", "no column is left for features"),
        ("a,b,split\n1,0,train\n2,1,dev\n", "b", "the column split says train, val or test, not 'dev'"),
        ("a,b\n" + "".join(f"t{k},{k % 2}\n" for k in range(60)), "b", "column 'a' has 60 different texts"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_line(home: Path, text: str, label: str, told: str) -> None:
    assert told in refused(written(home / "t.csv", text), label=label)


def test_a_csv_that_is_no_text(home: Path) -> None:
    (home / "t.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert "t.csv" in refused(home / "t.csv", label="y")


def test_a_file_larger_than_what_is_admitted_is_not_read(home: Path) -> None:
    path = home / "huge.csv"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole: it takes no room
    assert "more than the 1,073,741,824 that are admitted" in refused(path, label="y")


def test_archives_are_never_unpickled(home: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (home / "executed",)

    np.savez(home / "t.npz", x=np.array([Evil()], dtype=object), y=np.array([0]))
    assert "t.npz" in refused(home / "t.npz") and not (home / "executed").exists()


def test_an_archive_that_unpacks_to_more_than_is_admitted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(home / "t.npz", x=np.zeros((4000, 10), np.float32), y=np.arange(4000) % 2)
    monkeypatch.setattr("fltk.bounded.ARRAYS", 100_000)
    assert "unpacked it takes" in refused(home / "t.npz")


def test_arrays_that_do_not_fit_together(home: Path) -> None:
    np.savez(home / "t.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 0]))
    assert "differ in length" in refused(home / "t.npz")


def test_without_pyarrow_a_parquet_file_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(home / "t.parquet", "PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'fltk[parquet]'" in refused(home / "t.parquet", label="y")


def test_a_damaged_parquet_file(home: Path) -> None:
    pytest.importorskip("pyarrow")
    written(home / "t.parquet", "PAR1 and nothing else")
    assert "cannot be read" in refused(home / "t.parquet", label="y")


# Folders of images


def test_digits_as_a_folder_of_pngs_are_the_digits(home: Path) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    found = loaded(digits_as_pngs(home / "scans"))
    assert found.classes == tuple("0123456789") and found.shape == (1, 8, 8) and len(found) == 200
    order = sorted(range(200), key=lambda k: (str(bunch.target[k]), k))
    np.testing.assert_array_equal(found.y, bunch.target[order])
    np.testing.assert_allclose(found.x[:, 0], np.round(bunch.images[order] * 255 / 16) / 255, atol=1e-6)


def test_folders_of_clients_and_of_splits(home: Path) -> None:
    digits_as_pngs(home / "sites" / "train", clients=3, size=150)
    digits_as_pngs(home / "sites" / "test", clients=3, size=90)
    config = PartitionConfig(dataset=str(home / "sites"), scheme="natural", clients=3, newcomers=0)
    dataset, made = deal(config, Place())
    assert dataset.owner_names == ("site 0", "site 1", "site 2") and dataset.is_test is not None
    assert int(dataset.is_test.sum()) == 90
    assert all(dataset.is_test[part].all() for part in made.test)
    assert not any(dataset.is_test[part].any() for part in (*made.train, *made.val))


def test_what_is_wrong_with_a_folder_of_images_is_one_line(home: Path) -> None:
    from PIL import Image

    folder = digits_as_pngs(home / "scans", size=30)
    (home / "nothing").mkdir()
    assert "the folder holds no images" in refused(home / "nothing")
    (folder / "empty").mkdir()
    assert "the folder empty holds no images" in refused(folder)
    (folder / "empty").rmdir()

    odd = folder / "3" / "z.png"
    Image.new("L", (9, 8)).save(odd)
    assert "z.png is 9x8 with 1 channel, and 0/0000.png is 8x8 with 1 channel" in refused(folder)
    Image.new("RGB", (8, 8)).save(odd)
    assert "z.png is 8x8 with 3 channels" in refused(folder)
    Image.new("RGBA", (8, 8)).save(odd)
    assert "has the mode RGBA" in refused(folder)
    odd.write_bytes(b"no image")
    assert "z.png" in refused(folder)
    odd.unlink()

    Image.new("L", (8, 8)).save(folder / "stray.png")
    assert "stray.png lies in no folder of a class" in refused(folder)
    (folder / "stray.png").unlink()
    assert "--label does not go with a folder" in refused(folder, label="y")


def test_links_in_a_folder_of_images_are_not_followed(home: Path) -> None:
    folder = digits_as_pngs(home / "scans", size=30)
    before = loaded(folder)
    (folder / "0" / "link.png").symlink_to("/etc/passwd")
    (folder / "round").symlink_to(folder)
    assert loaded(folder).fingerprint == before.fingerprint


# Names of the user's


def test_a_name_stands_for_a_path_and_its_columns(home: Path) -> None:
    own_sets.add("cellars", wine(home / "wine.csv"), label="kind", client="cellar")
    config = own_sets.settled(PartitionConfig(dataset="cellars"))
    assert (config.label, config.client) == ("kind", "cellar")
    assert own_sets.load(config, home).name.startswith("cellars#")
    with pytest.raises(UsageError, match="mnist is a data set of its own already"):
        own_sets.add("MNIST", home / "wine.csv", label="kind")
    with pytest.raises(UsageError, match="NAME"):
        own_sets.add("../x", home / "wine.csv", label="kind")
    with pytest.raises(UsageError, match="no such column"):
        own_sets.add("other", home / "wine.csv", label="none")
    assert ledger.data_names().keys() == {"cellars"}
