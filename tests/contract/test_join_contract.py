"""Every method takes in clients that nobody has seen, by pure functions of its state, and goes on with them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attacked import defended
from toys import fingerprint, models, play, server, staffed

from fltk import engine, methods, partition
from fltk.config import PartitionConfig
from fltk.data import load
from fltk.engine.base import Bench, Job
from fltk.engine.serial import Serial
from fltk.evaluation.join import Newcomer, Tuning, few_shots, join_all
from fltk.partition.federation import Federation, build
from fltk.protocol.messages import Joined
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.rounds import loop, pipeline
from fltk.rounds.cohort import Cohort
from fltk.sweep.assault import refusal

MakeJob = Callable[..., Job]
N, M = 8, 2


@pytest.fixture(scope="module")
def guests() -> Federation:
    """Eight clients and two newcomers, in four groups of permuted labels."""
    config = PartitionConfig(
        dataset="digits", subset=660, public=60, scheme="permuted-labels", groups=4, clients=N, newcomers=M
    )
    dataset = load("digits", None, subset=config.subset)
    return build(dataset, partition.make(dataset, config))


@pytest.fixture
def trained(name: str, make_job: MakeJob, guests: Federation) -> tuple[Job, State]:
    """A job of every method and its state after three rounds in which not everybody took part."""
    job = make_job(name, guests, rounds=3, participation=0.75)
    return job, play(job)[-1].state


def join(job: Job, state: State, bench: Bench | None = None) -> list[Joined]:
    """All newcomers, one after another."""
    bench = bench or Bench(job)
    method, task = job.method, job.task()
    return [method.join(state, bench.client(i), bench.trainer.at(0, i), task) for i in range(N, N + M)]


def everything(joined: Joined) -> dict[str, Any]:
    tensors = {"arrival": joined.arrival, "model": joined.model, **{f"own.{k}": v for k, v in joined.own.items()}}
    tensors |= {} if joined.row is None else {"row": joined.row}
    return {"bits": fingerprint(tensors), "rest": (joined.self_weight, joined.down, joined.up, joined.note)}


def test_a_newcomer_gets_whole_finite_models_and_a_row_on_the_simplex(trained: tuple[Job, State]) -> None:
    job, state = trained
    size = job.task().layout.size
    for joined in join(job, state):
        for w in (joined.arrival, joined.model):
            assert w.shape == (size,) and w.dtype == torch.float32 and torch.isfinite(w).all()
        assert joined.down >= 0 and joined.up >= 0 and "\n" not in joined.note
        assert 0 <= joined.self_weight <= 1
        if joined.row is not None:
            assert joined.row.shape == (N,) and joined.row.dtype == torch.float64
            assert (joined.row >= 0).all()
            assert float(joined.row.sum()) == pytest.approx(1, abs=1e-9)


def test_joining_is_pure_and_repeatable(trained: tuple[Job, State]) -> None:
    job, state = trained
    before = fingerprint(state.tensors())
    w0 = job.task().w0
    bench = Bench(job)
    once = [everything(one) for one in join(job, state, bench)]
    assert once == [everything(one) for one in join(job, state, bench)]
    assert once == [everything(one) for one in join(job, state)]
    assert before == fingerprint(state.tensors())
    assert torch.equal(w0, bench.task.w0)


def test_who_arrives_first_changes_nothing(trained: tuple[Job, State]) -> None:
    job, state = trained
    bench, task = Bench(job), job.task()
    back = [job.method.join(state, bench.client(i), bench.trainer.at(0, i), task) for i in (N + 1, N)]
    assert [everything(one) for one in back[::-1]] == [everything(one) for one in join(job, state)]


def test_joining_before_anybody_has_trained_is_finite(name: str, make_job: MakeJob, guests: Federation) -> None:
    job = make_job(name, guests)
    for joined in join(job, job.method.init(job.task())):
        assert torch.isfinite(joined.arrival).all() and torch.isfinite(joined.model).all()
        assert joined.row is None or (joined.row >= 0).all()


def test_the_arrival_model_uses_none_of_the_newcomers_data(trained: tuple[Job, State]) -> None:
    """Two newcomers of one group have the same arrival; a newcomer's images do not matter to it."""
    job, state = trained
    bench, task = Bench(job), job.task()
    client = bench.client(N)
    dark = replace(client, train=replace(client.train, x=torch.zeros_like(client.train.x)))
    arrivals = [job.method.join(state, c, bench.trainer.at(0, N), task).arrival for c in (client, dark)]
    assert torch.equal(*arrivals)


def measures(found: Sequence[Sequence[Newcomer]]) -> list[Any]:
    """All numbers, comparable."""
    flat = [one for line in found for one in line]
    return [(n.samples, n.scores, n.curves, n.kept, n.join_epochs, everything(n.joined)) for n in flat]


@pytest.mark.usefixtures("forked_workers")
def test_worker_processes_change_no_bit_of_joining(trained: tuple[Job, State]) -> None:
    job, state = trained
    pool = engine.make("process:2", job)
    ids, shots, tuning = range(N, N + M), (2, 0), Tuning("head", 2, 0.1)
    fedavg = job.task().w0
    try:
        staffed(pool)
        parallel = join_all(pool, state, job.federation, ids, shots, tuning, fedavg=fedavg, keep=True)
    finally:
        pool.close()
    serial = join_all(Serial(job), state, job.federation, ids, shots, tuning, fedavg=fedavg, keep=True)
    assert measures(parallel) == measures(serial)
    for few, all_ in zip(*serial, strict=True):
        assert few.samples < all_.samples
        assert few.scores.keys() == {"arrival", "joined", "tuned", "scratch", "fedavg_ft"}
        assert all(len(path) == 3 for path in few.curves.values())


def admitted(job: Job, state: State) -> tuple[Job, Task, State, list[Joined]]:
    """The larger federation, and the state with which it goes on."""
    joined = join(job, state)
    grown = replace(job, federation=job.federation.grown(job.federation.newcomers))
    task = grown.task()
    return grown, task, job.method.add_clients(state, joined, task), joined


def test_those_who_were_there_keep_everything_when_others_enter(trained: tuple[Job, State]) -> None:
    job, state = trained
    before = fingerprint(state.tensors())
    grown, task, larger, _ = admitted(job, state)
    assert fingerprint(state.tensors()) == before
    assert task.n_clients == N + M
    assert torch.equal(larger.last[:N], state.last)
    assert (larger.last[N:] < 0).all()
    for key, rows in larger.client.items():
        assert len(rows) == N + M, key
        assert torch.equal(rows[:N], state.client[key]), key
    expected = models(job, state)
    now = torch.stack(grown.method.personal_model(larger, range(N + M), task))
    torch.testing.assert_close(now[:N], expected, rtol=0, atol=1e-6)
    assert torch.isfinite(now).all()


def test_newcomers_enter_with_the_model_that_they_joined_with(trained: tuple[Job, State]) -> None:
    job, state = trained
    grown, _, larger, joined = admitted(job, state)
    have_what_they_joined_with(grown, larger, joined)


def have_what_they_joined_with(grown: Job, larger: State, joined: Sequence[Joined]) -> None:
    bench = Bench(grown)
    for i, one in enumerate(joined, start=N):
        [w] = grown.method.personal_model(larger, [i], bench.task)
        w = grown.method.personalise(w, bench.client(i), bench.trainer.at(0, i))
        torch.testing.assert_close(w, one.model, rtol=0, atol=1e-6)


def test_the_shapes_are_those_of_a_federation_that_always_had_them(name: str, trained: tuple[Job, State]) -> None:
    """So that whatever the method does with its state, it finds what it would have made itself."""
    job, state = trained
    grown, _, larger, _ = admitted(job, state)
    always = play(replace(grown, train=replace(grown.train, participation=1.0)))[-1].state
    mine, theirs = larger.tensors(), always.tensors()
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert mine[key].dtype == theirs[key].dtype, key
        if name != "cfl":  # which has as many models as it has come to
            assert mine[key].shape == theirs[key].shape, key


def test_the_rounds_go_on_with_the_newcomers(trained: tuple[Job, State]) -> None:
    job, state = trained
    grown, task, larger, _ = admitted(job, state)
    longer = replace(grown, train=replace(grown.train, rounds=6, participation=0.8))
    done = list(loop.rounds(longer, Serial(longer), resume=(3, larger), task=task))
    assert [r.round for r in done] == [4, 5, 6]
    last = done[-1]
    assert len(last.clients["personal_test_acc"]) == N + M
    assert np.isfinite(last.clients["personal_test_acc"]).all()
    assert torch.isfinite(models(longer, last.state)).all()
    assert last.map is not None
    whole = last.map.whole()
    assert whole.shape == (N + M, N + M)
    torch.testing.assert_close(whole.sum(1), torch.ones(N + M, dtype=whole.dtype), rtol=0, atol=1e-6)
    again = list(loop.rounds(longer, Serial(longer), resume=(3, larger), task=task))
    assert [r.digest for r in done] == [r.digest for r in again]


def test_fewer_shots_are_a_part_of_more(guests: Federation, make_job: MakeJob) -> None:
    streams = make_job("fedavg", guests).streams()
    client = guests.newcomers[1]
    previous: set[bytes] = set()
    for shots in (1, 2, 4, 1000):
        few = few_shots(client, shots, streams)
        held = torch.bincount(client.train.y, minlength=10)
        assert torch.equal(torch.bincount(few.train.y, minlength=10), held.clamp_max(shots))
        now = {x.numpy().tobytes() for x in few.train.x}
        assert previous <= now
        assert (few.val, few.test, few.id) == (client.val, client.test, client.id)
        previous = now
    assert torch.equal(few.train.x, client.train.x)
    assert few_shots(client, 0, streams) is client


# Under a defence

DEFENDED = {"foolsgold": {}, "centered-clip": {"momentum": 0.9}, "fltrust": {}, "multi-krum": {}, "norm-clip": {}}
CLUSTERED = {name: methods.create(name, {"warmup": 2, "k": 2}) for name in ("cluster-kmeans", "cluster-gmm")}


@pytest.mark.parametrize("rule", DEFENDED)
def test_newcomers_enter_a_defended_run_trusted_and_unknown(
    name: str, rule: str, make_job: MakeJob, guests: Federation
) -> None:
    if refusal(name, rule):
        pytest.skip(str(refusal(name, rule)))
    job = make_job(name, guests, rounds=4, participation=0.75)
    job = defended(replace(job, method=CLUSTERED.get(name, job.method)), rule, DEFENDED[rule], share=0.2)
    state = play(job)[-1].state
    grown, task, larger, joined = admitted(job, state)
    have_what_they_joined_with(grown, larger, joined)
    records = {"defence.trust": 1.0, "defence.rows": torch.nan, "defence.screen:history": 0, "defence.screen:means": 0}
    for key, before in state.server.items():
        if key.startswith("defence."):
            now = larger.server[key]
            assert torch.equal(now[:N].nan_to_num(), before[:N].nan_to_num()), key
            assert now.shape == (N + M if key in records else len(before), *before.shape[1:]), key
            if key in records:
                blank = torch.full_like(now[N:], records[key])
                torch.testing.assert_close(now[N:], blank, rtol=0, atol=0, equal_nan=True)
    longer = replace(grown, train=replace(grown.train, rounds=6))
    done = list(loop.rounds(longer, Serial(longer), resume=(4, larger), task=task))
    assert [r.round for r in done] == [5, 6]
    assert torch.isfinite(models(longer, done[-1].state)).all()
    assert all(len(values) == N + M for values in done[-1].clients.values())


def test_the_root_set_stays_when_those_enter_from_whom_it_was_drawn(make_job: MakeJob, guests: Federation) -> None:
    job = defended(make_job("fedavg", guests), "fltrust")
    root = Bench(job).root
    assert len(root) == min(100, sum(len(client.train) for client in guests.newcomers))
    few = few_shots(guests.newcomers[1], 2, job.streams())
    for entered in ([few], [few, guests.newcomers[0]]):
        grown = replace(job, federation=pickle.loads(pickle.dumps(guests.grown(entered))))
        assert torch.equal(Bench(grown).root.x, root.x)
        assert torch.equal(Bench(grown).root.y, root.y)


def test_others_listen_to_newcomers_who_have_not_been_judged_yet(make_job: MakeJob, guests: Federation) -> None:
    """A newcomer that has trained to join is in the bank before its first round, and trusted like anybody."""
    trained = replace(make_job("attn", guests, rounds=2), method=methods.create("attn", {"token": "model"}))
    job = defended(trained, "multi-krum", share=0.0)
    grown, task, larger, _ = admitted(job, play(job)[-1].state)
    ids = range(N)
    sent = Cohort.of(grown.method, task, larger, ids, 2).trained(Serial(grown))[0]
    downs = grown.method.downlink(larger, ids, task)
    faced = pipeline.face(grown, Serial(grown), larger, downs, sent, server(grown, 2))
    after = grown.method.aggregate(larger, faced.uploads, faced.server)
    free = grown.method.aggregate(larger, faced.uploads, replace(faced.server, watch=None))
    assert torch.equal(after.server["map"], free.server["map"])
    assert float(after.server["map"][:N, N:].sum()) > 0
