"""Promises that every method keeps, on real digits. A new method is tested here by standing in `fltk.names.METHODS`."""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import dealt, fingerprint, models, play, rows, server, staffed, uploads

from fltk import engine, methods
from fltk.data import load
from fltk.engine.base import Bench, Job, Reduce, Take, Work
from fltk.engine.serial import Serial
from fltk.engine.work import TrainTask, train_client
from fltk.errors import UsageError
from fltk.memory import shared
from fltk.names import METHODS
from fltk.partition.federation import Federation
from fltk.protocol.map import Map
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.rounds import loop

MakeJob = Callable[..., Job]


def digests(done: Sequence[loop.RoundDone]) -> list[str]:
    return [r.digest for r in done]


class Backwards:
    """An engine whose clients finish in the reverse order, but whose results come in the order of the tasks."""

    def __init__(self, job: Job):
        self._bench = Bench(job)

    def map(self, work: Work, tasks: Sequence[Any], sizes: Sequence[int], take: Take | None = None) -> list[Any]:
        found = [(k, work(self._bench, tasks[k])) for k in reversed(range(len(tasks)))]
        return [result if take is None else take(k, result) for k, result in found][::-1]

    def fold(
        self, work: Work, reduce: Reduce, parts: Sequence[Sequence[Any]], sizes: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        return ((k, reduce(self.map(work, part, []))) for k, part in reversed(list(enumerate(parts))))

    ready = True

    def close(self) -> None:
        """Nothing to end."""


def several_exchanges(method: Method) -> bool:
    """Whether a round of the method has more than one exchange."""
    return type(method).participants is not Method.participants


def test_the_same_seed_gives_the_same_digests_and_another_seed_does_not(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    once = digests(play(job))
    assert once == digests(play(make_job(name)))
    assert once != digests(play(replace(job, seed=4)))
    assert len(set(once)) == len(once)


@pytest.mark.usefixtures("forked_workers")
def test_worker_processes_change_no_bit(name: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither do the rows that they share with the driver, here also such small ones."""
    job = make_job(name, eval_every=1, rounds=3, participation=0.75)
    serial = play(job)
    for limit in ("LEAST", "PAGE"):
        monkeypatch.setattr(shared, limit, 1)
    pool = engine.make("process:2", job)
    try:
        staffed(pool)
        parallel = list(loop.rounds(job, pool))
    finally:
        pool.close()
    assert digests(parallel) == digests(serial) == digests(play(job))
    for a, b in zip(parallel, serial, strict=True):
        for key in b.clients:
            np.testing.assert_array_equal(a.clients[key], b.clients[key], err_msg=key)


def test_the_order_in_which_clients_finish_changes_no_bit(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    assert digests(list(loop.rounds(job, Backwards(job)))) == digests(play(job))


def test_evaluation_changes_no_bit(name: str, make_job: MakeJob) -> None:
    often, seldom = play(make_job(name, rounds=3, eval_every=1)), play(make_job(name, rounds=3, eval_every=100))
    assert digests(often) == digests(seldom)
    assert "personal_val_acc" in often[0].scalars
    assert "personal_val_acc" not in seldom[0].scalars


def test_a_run_leaves_the_global_random_state_alone(name: str, make_job: MakeJob) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    play(make_job(name, participation=0.5, eval_every=1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_aggregate_leaves_its_input_alone(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    task = job.task()
    state = play(job)[-1].state
    sent = uploads(job, state, ids=(1, 2, 5), round=2)
    held = {f"{k}.{u.client}": t for u in sent for k, t in {"w": u.w, **u.sent, **u.own}.items()}
    before = fingerprint(state.tensors()), fingerprint(held), fingerprint({"w0": task.w0, "n": task.n})
    job.method.aggregate(state, sent, server(job, 2))
    assert before == (fingerprint(state.tensors()), fingerprint(held), fingerprint({"w0": task.w0, "n": task.n}))


def test_client_work_leaves_its_input_alone(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    state, task, bench = play(job)[-1].state, job.task(), Bench(job)
    client = bench.client(1)

    def mark(down: Down) -> str:
        data = {f"{part}.{k}": getattr(getattr(client, part), k) for part in ("train", "val", "test") for k in "xy"}
        return fingerprint({"w": down.w, **down.server, **{f"own.{k}": v for k, v in down.own.items()}, **data})

    down = job.method.downlink(state, [1], task)[0].whole(task, job.method.columns)
    before = mark(down)
    job.method.local_update(down, client, bench.trainer.at(2, 1))
    assert before == mark(down)
    w = job.method.personal_model(state, [1], task)[0]
    copy = w.clone()
    job.method.personalise(w, client, bench.trainer.at(2, 1))
    assert torch.equal(w, copy)


def test_client_work_depends_on_its_own_task_alone(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    state = play(job)[-1].state
    alone = uploads(job, state, ids=(3,), round=2)[0]
    among = uploads(job, state, ids=(0, 1, 3, 7), round=2)[2]
    assert among.client == alone.client == 3
    assert torch.equal(alone.w, among.w)
    for mine, other in ((alone.sent, among.sent), (alone.own, among.own)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[k], other[k]) for k in mine)


def test_half_of_the_clients_train_and_the_others_keep_their_rows(name: str, make_job: MakeJob) -> None:
    job = make_job(name, rounds=3, participation=0.5)
    task = job.task()
    before = job.method.init(task)
    for done in play(job):
        present = loop.sample(task, job.train, job.streams(), done.round - 1)
        assert len(present) == 4
        if several_exchanges(job.method):  # which choose among the clients themselves
            present = torch.nonzero(done.state.last == done.round - 1).flatten().tolist()
        absent = [i for i in range(task.n_clients) if i not in present]
        assert done.state.client.keys() == before.client.keys()
        for key, now in done.state.client.items():
            if not several_exchanges(job.method) or key in ("w", "private"):
                assert torch.equal(now[absent], before.client[key][absent]), key
        assert (done.state.last[present] == done.round - 1).all()
        assert torch.equal(done.state.last[absent], before.last[absent])
        assert torch.isfinite(models(job, done.state)).all()
        before = done.state


def test_a_resumed_run_is_the_run(name: str, make_job: MakeJob) -> None:
    whole = play(make_job(name, rounds=4, participation=0.75))
    half = whole[1]
    stored = {key: tensor.clone() for key, tensor in half.state.tensors().items()}
    rest = play(make_job(name, rounds=4, participation=0.75), resume=(2, State.from_tensors(stored)))
    assert digests(whole)[2:] == digests(rest)
    assert [r.round for r in rest] == [3, 4]


def test_maps_are_row_stochastic(name: str, make_job: MakeJob) -> None:
    job = make_job(name, rounds=3, participation=0.5)
    task = job.task()
    assert job.method.mixing(job.method.init(task), task) is None
    for done in play(job):
        assert done.map is not None
        assert sum(task.layout.width(part) for part in done.map.slices) == task.layout.size
        for m in (*done.map.slices.values(), done.map.whole()):
            assert m.shape == (task.n_clients, task.n_clients)
            assert (m >= 0).all()
            torch.testing.assert_close(m.double().sum(1), torch.ones(len(m), dtype=torch.float64), rtol=0, atol=1e-6)


def starts_of(made: Map, trained: Tensor) -> Tensor:
    """What a map says everybody starts from: slice by slice, map @ columns of the trained models (N, P)."""
    expected = torch.zeros_like(trained)
    for part, m in made.slices.items():
        for a, b in made.layout.ranges(part):
            expected[:, a:b] = (m.double() @ trained[:, a:b].double()).float()
    return expected


def test_an_exact_map_times_the_uploads_is_what_everybody_starts_from(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    task = job.task()
    state, everyone = job.method.init(task), range(task.n_clients)
    for t in range(3):
        sent = uploads(job, state, round=t)
        state = job.method.aggregate(state, sent, server(job, t))
        made = job.method.mixing(state, task)
        if made is None and several_exchanges(job.method):
            continue
        assert made is not None
        if made.kind != "exact":
            assert made.kind in ("direction", "pull", "proxy")
            continue
        expected = starts_of(made, rows(job, sent))
        torch.testing.assert_close(models(job, state), expected, rtol=0, atol=1e-6)
        if name != "ifca":  # its clients choose their start among several models themselves
            downs = job.method.downlink(state, everyone, task)
            starts = torch.stack([d.whole(task, job.method.columns).w for d in downs])
            torch.testing.assert_close(starts, expected, rtol=0, atol=1e-6)


def test_private_columns_do_not_travel(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    layout = job.task().layout
    for u in uploads(job, job.method.init(job.task())):
        assert u.w.numel() == layout.width(job.method.columns.travels) or not u.model
        sent = sum(t.numel() * t.element_size() for t in u.sent.values())
        assert u.nbytes == 4 * u.w.numel() + sent


def test_one_client(name: str, make_job: MakeJob, hermit: Federation) -> None:
    job = make_job(name, hermit, eval_every=1)
    done = play(job)[-1]
    assert np.isfinite(done.scalars["personal_test_acc"])
    assert torch.isfinite(models(job, done.state)).all()
    assert done.map is not None
    torch.testing.assert_close(done.map.whole(), torch.ones(1, 1, dtype=torch.float64))


def test_two_clients_with_the_same_data(name: str, make_job: MakeJob) -> None:
    data = load("digits", None, subset=100)
    cuts = [np.split(np.arange(80), [50, 65])] * 2
    twins = dealt(data, cuts, groups=(0, 0), public=np.arange(80, 100))
    done = play(make_job(name, twins, rounds=3, eval_every=1))[-1]
    assert all(torch.isfinite(t).all() for t in done.state.tensors().values())
    assert np.isfinite(done.scalars["personal_test_loss"])


def test_relabelling_the_clients_relabels_the_result(name: str, make_job: MakeJob) -> None:
    job = make_job(name)
    task = job.task()
    if several_exchanges(job.method):
        pytest.skip("several exchanges a round: no one of them is the method")
    task = replace(task, n=torch.arange(20, 20 + 3 * task.n_clients, 3))  # unequal, so that weights move as well
    new = torch.tensor([3, 7, 0, 2, 6, 1, 5, 4])  # client i becomes client new[i]
    old = torch.argsort(new)
    groups = None if task.groups is None else task.groups[old]
    moved_task = replace(task, n=task.n[old], label_counts=task.label_counts[old], groups=groups)
    state, moved = job.method.init(task), job.method.init(moved_task)
    sent = uploads(job, state)
    for t in range(2):
        again = [replace(u, w=u.w + 0.01 * t * torch.sin(torch.arange(u.w.numel()) * (u.client + 1.0))) for u in sent]
        renamed = sorted((replace(u, client=int(new[u.client])) for u in again), key=lambda u: u.client)
        state = job.method.aggregate(state, again, replace(server(job, t), task=task))
        moved = job.method.aggregate(moved, renamed, replace(server(job, t), task=moved_task))
    everyone = range(task.n_clients)
    before = torch.stack(job.method.personal_model(state, everyone, task))
    after = torch.stack(job.method.personal_model(moved, everyone, moved_task))
    torch.testing.assert_close(after[new], before, rtol=1e-5, atol=1e-6)
    a, b = job.method.mixing(state, task), job.method.mixing(moved, moved_task)
    assert a is not None
    assert b is not None
    torch.testing.assert_close(b.whole()[new][:, new], a.whole(), rtol=1e-5, atol=1e-6)


def test_uploads_reach_the_server_in_client_order_and_cut(name: str, make_job: MakeJob) -> None:
    job = make_job(name, participation=0.5)
    seen: list[list[int]] = []
    cls = type(job.method)

    class Watching(cls):  # type: ignore[misc,valid-type]  # a class chosen at run time
        def aggregate(self, state: State, sent: Sequence[Upload], server: Server) -> State:
            seen.append([u.client for u in sent])
            return super().aggregate(state, sent, server)

    watching = Watching(**{f.name: getattr(job.method, f.name) for f in fields(job.method)})
    play(replace(job, method=watching))
    assert len(seen) >= 2
    assert all(ids == sorted(set(ids)) for ids in seen)
    if not several_exchanges(job.method):  # one exchange a round, with those that were sampled
        assert [len(ids) for ids in seen] == [4, 4]


def test_a_name_leads_to_a_documented_class(name: str) -> None:
    cls = methods.method_class(name)
    assert issubclass(cls, Method)
    assert is_dataclass(cls)
    assert cls.title
    for h in methods.hypers(cls):
        assert h.help, h.name
        assert h.kind in ("int", "float", "str", "float | None"), h.name
    doc = importlib.import_module(METHODS[name].partition(":")[0]).__doc__ or ""
    if "No paper" not in doc and "fltk's own" not in doc:
        assert re.search(r"arXiv:\d{4}\.\d{5}|PMLR \d+", doc)
        assert re.search(r"\b(19|20)\d\d\b", doc)
        assert re.search(r"^Differs from", doc, re.MULTILINE)


def test_unknown_hyper_parameters_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=r"--set.*no_such_thing"):
        methods.create(name, {"no_such_thing": 1})


def test_values_out_of_range_are_refused_by_name(name: str) -> None:
    for h in methods.hypers(methods.method_class(name)):
        bad: list[object] = ["nonsense"]
        if not h.choices:
            bad += [float("nan"), "nan"]
        if h.kind == "int":
            bad += ["2.5", 2.5]
        if h.low is not None:
            bad += [h.low - 1, str(h.low - 1)]
        if h.high is not None:
            bad += [h.high + 1]
        for value in bad:
            with pytest.raises(UsageError, match=f"--set {h.name}="):
                methods.create(name, {h.name: value})


def made_with(name: str, option: str, value: object) -> Method:
    """A method with one option; where its defaults rule that out, with the settings that the option needs."""
    try:
        return methods.create(name, {option: value})
    except UsageError:
        return methods.create(name, {**NEEDED[name], option: value})


NEEDED = {"attn": {"token": "model"}}


def test_values_on_the_bounds_run(name: str, make_job: MakeJob) -> None:
    for h in methods.hypers(methods.method_class(name)):
        ends = h.choices or tuple(v for v in (h.low, h.high) if v is not None)
        for value in ends:
            value = int(value) if h.kind == "int" else value
            job = replace(make_job(name), method=made_with(name, h.name, value))
            done = play(job)[-1]
            assert torch.isfinite(models(job, done.state)).all(), (h.name, value)
            assert done.map is not None
            assert torch.isfinite(done.map.whole()).all(), (h.name, value)


def test_text_and_defaults_become_values(name: str) -> None:
    cls = methods.method_class(name)
    resolved = methods.resolved(cls())
    assert methods.create(name, {k: str(v) for k, v in resolved.items()}) == cls()
    assert methods.create(name, resolved) == cls()


def test_a_client_without_work_to_do_does_not_end_the_round(name: str, make_job: MakeJob) -> None:
    """`train_client` reports a mean loss even where the method's own parameter leaves nothing to train."""
    job = make_job(name)
    task = job.task()
    bench = Serial(job)
    downs = job.method.downlink(job.method.init(task), [0], task)
    [(upload, loss)] = bench.map(train_client, [TrainTask(0, 0, downs[0])], [1])
    assert upload.client == 0
    assert loss > 0 or not upload.model  # or it was only asked for something
