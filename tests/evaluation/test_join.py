"""What newcomers get, step by step: the guard, equal budgets, few shots, and the tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import dealt, job, play

from fltk import partition
from fltk.config import JoinConfig, PartitionConfig
from fltk.data import create
from fltk.engine.base import Bench, Job
from fltk.engine.serial import Serial
from fltk.errors import UsageError
from fltk.evaluation import join
from fltk.evaluation.join import JoinTask, Newcomer, Tuning, join_all, join_client
from fltk.partition.federation import Federation, build
from fltk.protocol.state import State

N = 4


@pytest.fixture(scope="module")
def guests() -> Federation:
    """Four clients and three newcomers of Gaussian classes; the second one's validation labels are wrong, the last one
    has none.
    """
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 400)
    x = (generator.normal(size=(3, 1, 4, 4))[y] + 0.7 * generator.normal(size=(400, 1, 4, 4))).astype(np.float32)
    parts = np.split(np.arange(350), 7)
    y[parts[5][24:34]] = (y[parts[5][24:34]] + 1) % 3
    data = create("digits", x, y.astype(np.int64), ("a", "b", "c"))
    cuts = [np.split(part, [24, 34]) for part in parts]
    cuts[6] = [cuts[6][0], cuts[6][1][:0], cuts[6][2]]
    train, val, test = zip(*cuts, strict=True)
    config = PartitionConfig(clients=N, newcomers=3)
    made = partition.create(
        config, data.fingerprint, (train, val, test), group=np.array([0, 1, 0, 1, 0, 1, 0]), n_newcomers=3
    )
    return build(data, made)


@pytest.fixture(scope="module")
def trained(guests: Federation) -> tuple[Job, State]:
    made = job("fedavg", data=guests, rounds=3)
    return made, play(made)[-1].state


def one(
    made: Job, state: State, client: int, tuning: Tuning, shots: int = 0, fedavg: torch.Tensor | None = None
) -> Newcomer:
    return join_client(Bench(made), JoinTask(client, shots, state, tuning, fedavg))


def test_fewer_epochs_are_the_beginning_of_more(trained: tuple[Job, State]) -> None:
    made, state = trained
    w = state.server["w"]
    short, long = (one(made, state, N, Tuning("all", epochs, 0.1), fedavg=w) for epochs in (2, 5))
    for step, path in short.curves.items():
        assert path == long.curves[step][:3], step


@pytest.mark.parametrize("part", ["head", "all"])
def test_fine_tuning_is_kept_only_where_the_validation_loss_fell(trained: tuple[Job, State], part: str) -> None:
    made, state = trained
    for client, fell in ((N, True), (N + 1, False)):
        got = one(made, state, client, Tuning(part, 3, 0.3))
        path = got.curves["tuned"]
        assert (path[-1][0].loss < path[0][0].loss) is fell
        assert got.kept["tuned"] is fell
        assert got.scores["tuned"] == path[-1 if fell else 0]
        assert path[0] == got.scores["joined"]
        assert path[-1][1] != path[0][1]


def test_without_validation_data_nothing_is_kept(trained: tuple[Job, State]) -> None:
    made, state = trained
    got = one(made, state, N + 2, Tuning("all", 3, 0.1))
    assert got.kept == {"tuned": False} and got.scores["tuned"][1] == got.scores["joined"][1]
    assert got.curves["tuned"][-1][1] != got.curves["tuned"][0][1]


def test_without_fine_tuning_fedavg_is_shown_as_it_is(trained: tuple[Job, State]) -> None:
    made, state = trained
    w = state.server["w"]
    got = one(made, state, N, Tuning("none", 3, 0.1), fedavg=w)
    assert "tuned" not in got.scores and got.scores["fedavg_ft"] == got.scores["joined"]
    assert not got.kept and got.curves.keys() == {"scratch"}


def test_fedavg_beside_fedavg_is_itself(trained: tuple[Job, State]) -> None:
    made, state = trained
    got = one(made, state, N, Tuning("head", 3, 0.1), fedavg=state.server["w"])
    assert got.join_epochs == 0
    assert got.scores["fedavg_ft"] == got.scores["tuned"] and got.curves["fedavg_ft"] == got.curves["tuned"]


@pytest.mark.parametrize(("method", "epochs"), [("fedper", 10), ("ditto", 1), ("fedamp", 1), ("ifca", 0), ("local", 3)])
def test_references_make_as_many_steps_as_joining(guests: Federation, method: str, epochs: int) -> None:
    """Their curves begin where the method's begins: behind the same number of epochs."""
    made = job(method, data=guests, rounds=3)
    state = play(made)[-1].state
    tuning = Tuning("all", 2, 0.1)
    w = Bench(made).task.fresh("test", 0)
    got = one(made, state, N, tuning, fedavg=w)
    assert got.join_epochs == epochs
    fedavg = job("fedavg", data=guests, rounds=3)
    start = fedavg.method.init(fedavg.task())
    longer = one(fedavg, start, N, replace(tuning, epochs=epochs + 2), fedavg=w)
    for step in ("scratch", "fedavg_ft"):
        assert got.curves[step] == longer.curves[step][epochs:], step
    assert got.scores["scratch"] == longer.scores["scratch"]


def test_training_from_scratch_has_the_rate_of_the_run(trained: tuple[Job, State]) -> None:
    """Whatever newcomers fine-tune with, and however far the schedule of the run has come."""
    made, state = trained
    slow, fast = (one(made, state, N, Tuning("head", 2, lr)) for lr in (1e-6, 0.5))
    assert slow.curves["scratch"] == fast.curves["scratch"]
    cosine = replace(made, train=replace(made.train, lr_schedule="cosine"))
    assert one(cosine, state, N, Tuning("head", 2, 0.1)).curves["scratch"] == slow.curves["scratch"]


def test_models_come_back_only_where_they_are_wanted(trained: tuple[Job, State], guests: Federation) -> None:
    made, state = trained
    for keep, size in ((False, 0), (True, made.task().layout.size)):
        [[got]] = join_all(Serial(made), state, guests, [N], [0], Tuning("head", 1, 0.1), keep=keep)
        assert len(got.joined.model) == size


def test_the_arrays_and_rows_are_those_of_the_newcomers(trained: tuple[Job, State], guests: Federation) -> None:
    made, state = trained
    ids, shots, tuning = [N, N + 2], (2, 0), Tuning("head", 3, 0.1)
    found = join_all(Serial(made), state, guests, ids, shots, tuning)
    size = made.task().layout.size
    table = join.arrays(found, ids, 3, size)
    assert table["newcomers"].tolist() == ids and table["row"].shape == (2, 2, N)
    assert table["curve_tuned_test_acc"].shape == (2, 2, 4)
    assert np.isnan(table["curve_fedavg_ft_test_acc"]).all() and np.isnan(table["fedavg_ft_test_acc"]).all()
    for k, m in np.ndindex(2, 2):
        assert table["joined_test_acc"][k, m] == found[k][m].scores["joined"][1].accuracy
        assert table["samples"][k, m] == found[k][m].samples
        np.testing.assert_array_equal(table["row"][k, m], state.server["p"].numpy())
    assert math.isnan(table["joined_val_acc"][0, 1])
    rows = join.table_of(table, shots, np.array([16.0, 16.0]), 0.9, size)
    assert [(r["shots"], r["step"]) for r in rows] == [
        (s, step) for s in ("2", "all") for step in ("arrival", "joined", "tuned", "scratch")
    ]
    for row in rows:
        k = 0 if row["shots"] == "2" else 1
        assert row["acc_mean"] == pytest.approx(table[f"{row['step']}_test_acc"][k].mean())
        assert row["participation_gap"] == pytest.approx(0.9 - row["acc_mean"])
        assert row["bytes_down"] == (0 if row["step"] == "scratch" else 4 * size) and row["bytes_up"] == 0
        assert (row["kept"] is None) == (row["step"] != "tuned")
    assert rows[2]["kept"] == int(table["tuned_kept"][0].sum())
    assert rows[3]["gain_vs_local"] == 0 and rows[3]["harmed"] == 0


def test_who_weighs_most(guests: Federation) -> None:
    for method in ("local", "heurfedamp"):
        made = job(method, data=guests, rounds=2)
        state = play(made)[-1].state
        found = join_all(Serial(made), state, guests, [N, N + 1], [0], Tuning("none", 1, 0.1))
        table = join.arrays(found, [N, N + 1], 1, made.task().layout.size)
        for row, newcomer in zip(join.newcomer_rows(table, [0], ["x", "y"]), found[0], strict=True):
            weights = newcomer.joined.row
            assert row["top_client"] == (None if weights is None else int(weights.argmax()))
            assert row["top_weight"] == (None if weights is None else float(weights.max()))


def test_which_newcomers(guests: Federation) -> None:
    assert join.choose(guests, "run1", (), 1.0) == [4, 5, 6]
    assert join.choose(guests, "run1", (), 0.5) == [4, 5]
    assert join.choose(guests, "run1", (), 0.01) == [4]
    assert join.choose(guests, "run1", (6, 4, 6), 1.0) == [4, 6]
    for wanted, said in (((2,), "took part in training"), ((7,), "newcomers 4 to 6"), ((-1,), "no such client")):
        with pytest.raises(UsageError, match=said):
            join.choose(guests, "run1", wanted, 1.0)


def test_a_federation_without_newcomers_or_with_empty_ones() -> None:
    data = create("digits", np.zeros((8, 1, 2, 2), np.float32), np.zeros(8, np.int64), ("a", "b"))
    empty = np.arange(0)
    with pytest.raises(UsageError, match="--newcomers 4"):
        join.choose(dealt(data, [[np.arange(4), empty, empty]]), "run1", (), 1.0)
    made = partition.create(
        PartitionConfig(clients=1, newcomers=1),
        data.fingerprint,
        ([np.arange(4), empty], [empty, empty], [np.arange(4, 6), np.arange(6, 8)]),
        n_newcomers=1,
    )
    with pytest.raises(UsageError, match="newcomer 1 has no training sample"):
        join.choose(build(data, made), "run1", (), 1.0)


def test_more_shots_than_anybody_has(guests: Federation) -> None:
    counts = guests.label_counts[[4, 5]]
    most = int(counts.max())
    assert join.check_shots(guests, [4, 5], (0,)) == []
    [note] = join.check_shots(guests, [4, 5], (most, 0))
    assert note.startswith(f"{most} shots: ") and "of 2 newcomers" in note
    with pytest.raises(UsageError, match=f"--shots {most + 1}: no newcomer has more than {most}"):
        join.check_shots(guests, [4, 5], (1, most + 1))


@pytest.mark.parametrize(
    ("text", "counts"), [("all", (0,)), ("5", (5,)), ("20, 5,all,1", (1, 5, 20, 0)), ("5,5", (5,))]
)
def test_shots_are_ascending_and_all_is_last(text: str, counts: tuple[int, ...]) -> None:
    assert JoinConfig(shots=text).shot_counts() == counts


def test_who_enters_brings_the_chosen_samples_only(trained: tuple[Job, State], guests: Federation) -> None:
    made, _ = trained
    few = join.few_shots(guests.newcomers[1], 2, made.streams())
    grown = guests.grown([guests.newcomers[2], few])
    assert [c.id for c in grown.clients] == [0, 1, 2, 3, 4, 5] and not grown.newcomers
    for mine, theirs in zip(grown.clients, (*guests.clients, guests.newcomers[2], few), strict=True):
        for part in ("train", "val", "test"):
            for k in "xy":
                assert torch.equal(getattr(getattr(mine, part), k), getattr(getattr(theirs, part), k))
        assert mine.group == theirs.group
        assert grown.label_counts[mine.id].tolist() == torch.bincount(theirs.train.y, minlength=3).tolist()
    assert grown.names == ("client 0", "client 1", "client 2", "client 3", "client 6", "client 5")
    assert grown.groups is not None and grown.groups.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(guests.clients) == N and len(guests.newcomers) == 3
    assert guests.grown([guests.newcomers[0]]).x is guests.x
