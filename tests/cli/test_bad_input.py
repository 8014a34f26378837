"""Whatever is wrong, a user gets one line and an exit code, and nothing is left half-written."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from calls import TINY, done, fltk, played

from fltk.registry import Store

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]
KEYED = ("--method", "fedprox")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one finished run, run1 on part1, named `first`."""
    db = tmp_path_factory.mktemp("shelf") / "r.db"
    done(db, "train", *TINY, "--name", "first", "--method", "fedavg")
    return db


def state(db: Path) -> list[tuple[int, str]]:
    """Number and status of every run."""
    with Store(db, readonly=True) as store:
        return [(row.id, row.status) for row in store.runs()]


TRAIN = [
    ("--method nope", 2, "unknown method 'nope'"),
    ("--method fedagv", 2, "did you mean fedavg"),
    ("--method fedavg,nope", 2, "unknown method 'nope'"),
    ("--dataset nope", 2, "'nope'"),
    ("--model nope", 2, "'nope'"),
    ("--scheme dirichle", 2, "did you mean dirichlet"),
    ("--frobnicate 1", 2, "--frobnicate"),
    ("--method fedprox --set nu=1", 2, "did you mean mu"),
    ("--method fedprox --set mu=-1", 2, "from 0"),
    ("--method fedprox --set mu=abc", 2, "a number"),
    ("--method fedprox --set mu=nan", 2, "mu=nan"),
    ("--method ifca --set clusters=0", 2, "from 1"),
    ("--method ifca --set clusters=2.5", 2, "a whole number"),
    ("--method fedavg --set x=1", 2, "has no hyper-parameters"),
    ("--set step=1.01", 2, "from 0 to 1"),
    ("--set head=none", 2, "shared, local"),
    ("--set mu", 2, "KEY=VALUE"),
    ("--method fedprox --set mu=1e400", 2, "too large"),
    ("--method fedprox --set mu=1e300", 2, "up to 3.4"),
    ("--method fedprox --set mu=inf", 2, "up to 3.4"),
    ("--method ifca --set clusters=99999999999999999999999", 2, "clusters="),
    ("--method ifca --set clusters=2000000000", 2, "up to 1000000000"),
    ("--steps 99999999999999999999999", 2, "--steps"),
    ("--rounds 1000000001", 2, "--rounds must be at most 1000000000"),
    ("--clients 99999999999999999999999", 2, "--clients"),
    ("--subset 99999999999999999999999", 2, "--subset"),
    ("--partition-seed 9223372036854775808", 2, "--partition-seed"),
    ("--seed " + "9" * 5000, 2, "--seed"),
    ("--engine process:99999999999999999999", 2, "--engine"),
    ("--alpha 0", 2, "--alpha"),
    ("--alpha -1", 2, "--alpha"),
    ("--alpha nan", 2, "--alpha"),
    ("--alpha inf", 2, "--alpha"),
    ("--clients 0", 2, "--clients"),
    ("--clients 2000", 2, "lower one of them"),
    ("--clients 100000000 --scheme iid", 2, "lower one of them"),
    ("--clients 300 --newcomers 0", 2, "--min-size"),
    ("--clients x", 2, "--clients"),
    ("--newcomers -1", 2, "--newcomers"),
    ("--dataset mnist --data-dir /nonexistent", 1, "--data-dir"),
    ("--dataset hapt --scheme natural --data-dir /nonexistent", 1, "HAPT"),
    ("--rounds 0", 2, "--rounds"),
    ("--rounds 1.5", 2, "--rounds"),
    ("--batch-size 0", 2, "--batch-size"),
    ("--eval-every 0", 2, "--eval-every"),
    ("--participation 0", 2, "--participation"),
    ("--participation 1.1", 2, "--participation"),
    ("--participation nan", 2, "--participation"),
    ("--epochs 0", 2, "--epochs"),
    ("--lr nan", 2, "--lr"),
    ("--lr -1", 2, "--lr"),
    ("--lr 1e308", 2, "--lr must be at most 3.4"),
    ("--lr-decay 1e308", 2, "--lr-decay must be at most"),
    ("--epochs 1e308", 2, "--epochs must be at most"),
    ("--momentum 1", 2, "--momentum"),
    ("--weight-decay -1", 2, "--weight-decay"),
    ("--weight-decay 1e308", 2, "--weight-decay must be at most 3.4"),
    ("--weight-decay inf", 2, "--weight-decay must be at most"),
    ("--val-share 1", 2, "--val-share"),
    ("--test-share -0.1", 2, "--test-share"),
    ("--seed x", 2, "--seed"),
    ("--seed ²", 2, "--seed"),
    ("--seed -1", 2, "--seed"),
    ("--seed 0,", 2, "--seed"),
    (f"--seed {2**63}", 2, "--seed"),
    ("--engine foo", 2, "--engine takes auto, serial or process:N"),
    ("--engine process", 2, "--engine takes"),
    ("--engine process:0", 2, "--engine takes"),
    ("--engine process:²", 2, "--engine takes"),
    ("--engine serial:2", 2, "--engine takes"),
    ("--device banana", 2, "--device takes"),
    ("--device cuda:x", 2, "--device takes"),
    ("--device cuda:99", 2, "--device cuda:99"),
    ("--method oracle", 2, "known groups"),
    ("--model cnn", 2, "--model cnn"),
    ("--model cnn1d", 2, "--model cnn1d"),
    ("--method scaffold --momentum 0.9", 2, "plain SGD"),
    ("--method scaffold --weight-decay 0.1", 2, "plain SGD"),
    ("--hidden a,b", 2, "--hidden"),
    ("--hidden 0", 2, "--hidden"),
    ("--hidden 4294967296", 2, "--hidden: a layer has at most 10000000 units"),
    ("--hidden 99999999999999999999999", 2, "--hidden: a layer has at most"),
    ("--scheme natural", 2, "no natural clients"),
    ("--scheme rotated --groups 3", 2, "--groups 3"),
    ("--scheme pathological --classes-per-client 11", 2, "--classes-per-client 11"),
    ("--scheme shards --shards-per-client 1000", 2, "--shards-per-client"),
    ("--test-split match", 2, "no official test set"),
    ("--from-pfllib /nonexistent", 2, "--from-pfllib"),
    ("--name 7", 2, "--name"),
    ("--name first", 2, "taken by run1"),
    ("--name two --seed 0,1", 2, "--name"),
    ("--keep-checkpoints 0", 2, "--keep-checkpoints"),
    ("--partition part9", 2, "no partition 'part9'"),
    ("--config /nonexistent.toml", 2, "/nonexistent.toml"),
]


@pytest.mark.parametrize(("text", "code", "part"), TRAIN, ids=[case[0] for case in TRAIN])
def test_what_training_refuses(shelf: Path, text: str, code: int, part: str) -> None:
    """Without -q: not even the announcement of a run may come before the refusal."""
    words = text.split()
    given = {word for word in words if word.startswith("--")}
    small = (
        [] if "--partition" in given else [w for k in range(0, 8, 2) if TINY[k] not in given for w in TINY[k : k + 2]]
    )
    before = state(shelf)
    called = fltk(shelf, "train", *small, *words, quiet=False)
    assert called.code == code and part in called.line
    assert state(shelf) == before


@pytest.mark.parametrize(
    "args",
    [
        ("train", "--engine", "foo"),
        ("train", "--device", "x"),
        ("train", "--name", "7"),
        ("train", "--name", "first"),
        ("attack", "--kind", "sign-flip", "--engine", "foo"),
        ("sweep", "{grid}", "--engine", "foo"),
        ("sweep", "{grid}", "--device", "x"),
    ],
    ids=" ".join,
)
def test_what_is_refused_stores_no_partition(shelf: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text('method = "local"\nseed = 5\n[train]\nrounds = 1\n')
    command, *rest = (word.format(grid=grid) for word in args)
    new = () if command == "sweep" else ("--partition-seed", "5", *TINY)
    assert fltk(shelf, command, *rest, *new).code == 2
    with Store(shelf, readonly=True) as store:
        assert len(store.partitions()) == 1


def test_a_stored_partition_settles_its_options(shelf: Path) -> None:
    line = fltk(shelf, "train", "--partition", "part1", "--alpha", "3").line
    assert "--alpha cannot be combined with --partition" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("engine", ["serial", "process:2"])
def test_no_gpu(shelf: Path, engine: str) -> None:
    before = state(shelf)
    called = fltk(shelf, "train", *TINY, "--device", "cuda", "--engine", engine, quiet=False)
    assert "torch sees no CUDA device" in called.line
    assert state(shelf) == before


OTHERS = [
    ("evaluate run9", "no run 'run9'"),
    ("evaluate", "RUN"),
    ("evaluate first --deploy nope", "'nope'"),
    ("evaluate first --round 1", "no checkpoint of round 1"),
    ("evaluate first --engine x", "--engine takes"),
    ("evaluate first --device x", "--device takes"),
    ("runs nope", "no run 'nope'"),
    ("runs --where frob<1", "no run has a setting 'frob'"),
    ("runs --where alpha<<1", "--where takes"),
    ("runs --status nope", "--status"),
    ("runs --method nope", "unknown method 'nope'"),
    ("runs --method fedagv", "did you mean fedavg"),
    ("runs --dataset nope", "unknown data set 'nope'"),
    ("runs run1 --by-seed", "--by-seed"),
    ("methods nope", "unknown method"),
    ("plot nope", "no such command 'nope'"),
    ("plot curves run9 -o {tmp}/a.png", "no run"),
    ("plot curves run1 --key nope -o {tmp}/a.png", "no values named 'nope'"),
    ("plot curves run1 -o {tmp}/a.gif", "must end in"),
    ("plot curves run1 -o {tmp}/none/a.png", "does not exist"),
    ("plot curves run1 -o {tmp}", "directory"),
    ("plot curves run1 -o {tmp}/a.png --data {tmp}/a.txt", "must end in .csv"),
    ("plot curves run1 -o {tmp}/a.png --data {tmp}/none/a.csv", "does not exist"),
    ("plot clients run1 --key nope -o {tmp}/a.png", "no values named 'nope'"),
    ("plot attention-maps run1 --rounds 7 -o {tmp}/a.png", "no map of round 7"),
    ("plot attention-maps run1 --rounds x -o {tmp}/a.png", "--rounds"),
    ("plot attention-maps run1 --rounds 99999999999999999999999 -o {tmp}/a.png", "--rounds takes whole numbers"),
    ("evaluate first --round 99999999999999999999999", "no checkpoint of round 9999999999999999999"),
    ("join-new-client first --lr 1e308", "--lr must be at most"),
    ("attack --run first --kind sign-flip --attack-size 1e308", "--attack-size must be at most"),
    ("attack --run first --kind sign-flip --attack-size 1e23", "--attack-size must be at most"),
    ("plot attention-maps run1 --layer nope -o {tmp}/a.png", "--layer"),
    ("plot partition part9 -o {tmp}/a.png", "no partition"),
    ("partition frob", "no such command 'frob'"),
    ("partition --alpha 0", "--alpha"),
    ("partition make --clients 2000", "too few"),
    ("partition make --dataset mnist --data-dir /nonexistent", "--data-dir"),
    ("partition show part9", "no partition 'part9'"),
    ("partition export part9 -o {tmp}/a.npz", "no partition"),
    ("partition export part1 -o {tmp}/a.txt", "--output"),
    ("partition export part1 -o {tmp}/none/a.npz", "does not exist"),
    ("partition export part1 -o {tmp}", "directory"),
    ("nope", "no such command 'nope'"),
]


@pytest.mark.parametrize(("text", "part"), OTHERS, ids=[case[0] for case in OTHERS])
def test_what_other_commands_refuse(shelf: Path, tmp_path: Path, text: str, part: str) -> None:
    called = fltk(shelf, *text.format(tmp=tmp_path).split())
    assert part in called.line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (("train", "--partition"), "--partition"),
        (("train", "--from-pfllib"), "--from-pfllib"),
        (("train", "--hidden"), "--hidden"),
        (("train", "--model"), "--model"),
        (("train", "--seed"), "--seed"),
        (("attack", "--kind", "sign-flip", "--attackers"), "--attackers"),
        (("attack", "--kind", "sign-flip", "--seed"), "--seed"),
        (("compare", "--method"), "--method"),
        (("compare", "--status"), "--status"),
        (("compare", "--kind"), "--kind"),
        (("runs", "--where", "alpha<1", "--where"), "--where"),
        (("plot", "curves", "run1", "-o"), "--output"),
        (("partition", "--name"), "--name"),
    ],
)
@pytest.mark.parametrize("value", ["", " ", ","])
def test_an_empty_value_is_no_default(shelf: Path, args: tuple[str, ...], option: str, value: str) -> None:
    """Such as an unset variable of the shell."""
    before = state(shelf)
    called = fltk(shelf, *args, value)
    assert called.code == 2 and f"{option} must not be empty" in called.line
    assert state(shelf) == before


def test_errors_are_json_where_results_would_be(shelf: Path) -> None:
    for args in (
        ("train", "--alpha", "0", "--json"),
        ("train", "--frob", "--json"),
        ("runs", "nope", "--format", "json"),
        ("evaluate", "nope", "--format", "jsonl"),
        ("partition", "show", "part9", "--json"),
    ):
        called = fltk(shelf, *args)
        told = json.loads(called.line)
        assert told["schema"] == 1 and told["error"]["exit_code"] == called.code == 2 and told["error"]["message"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("frob = 1", "'frob'"),
        ("[train]\nlrr = 1", "did you mean lr"),
        ("[train]\nrounds = 'x'", "rounds must be a whole number"),
        ("[params]\nnu = 1", "did you mean mu"),
        ("[partition]\nscheme = 'nope'", "nope"),
        ("[train", "not valid TOML"),
        ("\xff\xfe", "TOML"),
    ],
)
def test_a_wrong_experiment_file(shelf: Path, tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "exp.toml"
    path.write_bytes(text.encode("latin-1"))
    assert part in fltk(shelf, "train", *KEYED, *TINY, "--config", str(path)).line


def test_a_wrong_variable(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLTK_TRAIN_ROUNDS", "many")
    assert "--rounds" in fltk(shelf, "train", *TINY[:-2]).line


def idx(shape: tuple[int, ...], body: bytes) -> bytes:
    """An idx file of bytes."""
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + body


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte", b""),
        ("train-images-idx3-ubyte", b"no idx file at all"),
        ("train-images-idx3-ubyte", idx((4, 28, 28), b"short")),
        ("train-images-idx3-ubyte", idx((2**31, 2**31, 2**31), b"")),
        ("train-images-idx3-ubyte.gz", b"no gzip"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"x" * 900, mtime=0)[:-9]),
        ("train-labels-idx1-ubyte", idx((3,), b"abc")),
        ("train-labels-idx1-ubyte", idx((4,), b"\xff\xff\xff\xff")),
    ],
)
def test_a_corrupted_idx_file(tmp_path: Path, name: str, content: bytes) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx((4, 28, 28), bytes(4 * 784)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((4,), bytes(4)))
    (folder / name.removesuffix(".gz")).unlink()
    (folder / name).write_bytes(content)
    called = fltk(tmp_path / "r.db", "train", "--dataset", "mnist", "--data-dir", str(tmp_path))
    assert called.code == 1 and "MNIST" in called.line.upper()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut", None])
def test_a_corrupted_npz_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "FEMNIST" / "femnist_360writers.npz"
    path.parent.mkdir()
    if content is None:  # a sound archive without the arrays
        import numpy as np

        np.savez(path, frob=np.zeros(3))
    else:
        path.write_bytes(content)
    called = fltk(
        tmp_path / "r.db", "train", "--dataset", "femnist", "--scheme", "natural", "--data-dir", str(tmp_path)
    )
    assert called.code == 1 and "femnist_360writers.npz" in called.line


def databases(folder: Path, sound: Path) -> dict[str, Path]:
    """Files that are no registry, by what is wrong with them."""
    made = {name: folder / f"{name}.db" for name in ("folder", "text", "cut", "foreign", "damaged")}
    made["folder"].mkdir()
    made["text"].write_text("these are notes\n" * 100)
    made["cut"].write_bytes(sound.read_bytes()[:5000])
    content = bytearray(sound.read_bytes())
    content[4096:] = b"\x5a" * len(content[4096:])
    made["damaged"].write_bytes(content)
    with sqlite3.connect(made["foreign"]) as connection:
        connection.execute("CREATE TABLE wine (year INTEGER)")
    connection.close()
    return made


@pytest.mark.parametrize("kind", ["folder", "text", "cut", "foreign", "damaged"])
def test_a_database_that_is_none(shelf: Path, tmp_path: Path, kind: str) -> None:
    path = databases(tmp_path, shelf)[kind]
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for args in (
        ("runs",),
        ("train", *TINY),
        ("resume", "run1"),
        ("evaluate", "run1"),
        ("partition", "list"),
        ("plot", "curves", "run1", "-o", str(tmp_path / "a.png")),
    ):
        called = fltk(path, *args)
        assert called.code == 1 and "--db" in called.line
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


def test_reading_commands_create_no_database(tmp_path: Path) -> None:
    none = tmp_path / "none.db"
    for args in (
        ("runs",),
        ("runs", "run1"),
        ("evaluate", "run1"),
        ("resume", "run1"),
        ("partition", "list"),
        ("partition", "show", "part1"),
        ("partition", "export", "part1", "-o", str(tmp_path / "a.npz")),
        ("plot", "attention-maps", "run1", "-o", str(tmp_path / "a.png")),
        ("plot", "curves", "run1", "-o", str(tmp_path / "a.png")),
        ("plot", "clients", "run1", "-o", str(tmp_path / "a.png")),
        ("plot", "partition", "run1", "-o", str(tmp_path / "a.png")),
    ):
        assert "no registry" in fltk(none, *args).line
        assert list(tmp_path.iterdir()) == []
    for path in ("/dev/full", "/dev/null", str(tmp_path / "none" / "r.db"), "", "mysql+nope://host/name"):
        assert "--db" in fltk(path, "train", *TINY).line
    assert list(tmp_path.iterdir()) == []


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Permissions do not bind root, which is who runs tests in a container."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_readonly_registry_can_be_read_and_not_written(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        db = folder / "r.db"
        db.write_bytes(shelf.read_bytes())
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))  # the other user has one of its own
        db.chmod(0o444)
        folder.chmod(0o555)
        before = db.read_bytes()
        try:
            with as_ordinary_user():
                if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
                    pytest.skip("the folder for temporary files is closed to other users")
                listed = fltk(db, "runs")
                refused = [
                    fltk(db, "train", *TINY),
                    fltk(db, "resume", "run1"),
                    fltk(db, "evaluate", "run1"),
                ]
                figure = fltk(db, "plot", "curves", "run1", "-o", str(folder / "a.png"))
                exported = fltk(db, "partition", "show", "part1")
        finally:
            folder.chmod(0o755)
        assert listed.code == exported.code == 0 and "fedavg" in listed.out
        assert [called.line for called in refused if "read-only" not in called.line] == []
        assert "--output: cannot write" in figure.line
        assert db.read_bytes() == before and [p.name for p in folder.iterdir()] == ["r.db"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_a_run_that_then_resumes(small_disk: Path, tmp_path: Path) -> None:
    db, long = small_disk / "r.db", (*TINY[:-1], "100", "--method", "ditto")
    called = fltk(db, "train", *long)
    assert called.code == 1 and ("disk is full" in called.line or "No space left" in called.line)
    room = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(room, check=True)
    with Store(db) as store:
        found = store.find_run("latest")
        assert found.status != "done" and found.rounds_done < 100
        digests = store.digests(found.id)
        assert list(digests) == list(range(1, found.rounds_done + 1))
    assert "being worked on" not in done(db, "resume", "latest")
    done(tmp_path / "r.db", "train", *long)
    with Store(db) as store, Store(tmp_path / "r.db") as other:
        assert played(store, found.id) == played(other, 1)


def test_figures_and_exports_on_a_full_disk(small_disk: Path, shelf: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(600 * 1024 - 8192))
    old = small_disk / "a.png"
    old.write_bytes(b"old")
    for args in (
        ("plot", "curves", "run1", "-o", str(old)),
        ("plot", "attention-maps", "run1", "-o", str(small_disk / "b.svg")),
    ):
        called = fltk(shelf, *args)
        assert called.code == 1 and "--output: cannot write" in called.line
    with (small_disk / "filler2").open("wb") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(2**16))
        file.flush()
    called = fltk(shelf, "partition", "export", "part1", "-o", str(small_disk / "p.json"))
    assert called.code == 1 and "--output: cannot write" in called.line
    assert {p.name for p in small_disk.iterdir()} == {"filler", "filler2", "a.png"} and old.read_bytes() == b"old"


def test_evaluate_stores_before_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg-ft")
    command = importlib.import_module("fltk.cli.evaluate")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "emit", full)
    called = fltk(db, "evaluate", "run1")
    assert called.code == 1 and "No space left" in called.line
    with Store(db) as store:
        assert len(store.evaluations(1)) == 1


@pytest.mark.parametrize("engine", ["serial", pytest.param("process:2", marks=pytest.mark.slow)])
def test_a_diverging_run_stops_and_keeps_what_it_had(tmp_path: Path, run_cli: RunCli, engine: str) -> None:
    db = tmp_path / "r.db"
    growing = ("--lr-schedule", "exponential", "--lr-decay", "1e6", "--lr", "0.05")
    args = ("train", *TINY[:-1], "20", "--method", "fedprox", *growing, "--engine", engine)
    called = run_cli("--db", str(db), "-q", *args)
    assert called.returncode == 1 and called.stdout == "" and called.stderr.count("\n") == 1
    assert "loss is no longer finite" in called.stderr and "--lr" in called.stderr
    with Store(db) as store:
        row = store.find_run(1)
        kept = row.rounds_done
        assert row.status == "failed" and 1 <= kept < 20
        assert f"round {kept + 1}" in called.stderr and "client " in called.stderr and "client" in row.message
        assert list(store.digests(1)) == list(range(1, kept + 1))
        assert store.latest_checkpoint(1)[0] == kept
    assert "no longer finite" in fltk(db, "resume", "run1").line
    steep = ("train", *TINY, "--method", "fedavg", "--lr-schedule", "exponential", "--lr-decay", "3e38", "--lr", "12")
    assert "no longer finite; lower --lr (now 3.40282e+38) or" in fltk(db, *steep).line
    heavy = ("train", *TINY, "--method", "fedavg", "--weight-decay", "3e38")
    assert "lower --lr (now 0.05), --weight-decay (now 3e+38) or" in fltk(db, *heavy).line
    assert "no longer finite" in fltk(tmp_path / "b.db", "train", *TINY, "--method", "fedprox", "--lr", "1e6").line


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("train", *TINY, "--method", "oracle"), 2),
        (("train", "--dataset", "mnist", "--data-dir", "/nonexistent"), 1),
        (("runs", "--db", "none.db"), 1),
    ],
)
def test_the_same_in_a_process_of_its_own(run_cli: RunCli, args: tuple[str, ...], code: int) -> None:
    called = run_cli(*args)
    assert (called.returncode, called.stdout) == (code, "")
    assert called.stderr.startswith("fltk: error: ") and called.stderr.count("\n") == 1


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    """Two layers of which no machine could hold the weights between them."""
    called = fltk(tmp_path / "r.db", "train", *TINY, "--hidden", "10000000,10000000", "--method", "fedavg")
    assert called.code == 1 and called.line == "fltk: error: not enough memory: lower --hidden or --clients\n"


def test_a_map_of_one_client_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--subset", "100", "--clients", "1", "--newcomers", "0", "--rounds", "1")
    done(db, "evaluate", "run1")
    assert "a single client" in fltk(db, "plot", "attention-maps", "run1", "-o", str(tmp_path / "a.png")).line
