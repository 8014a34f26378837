"""The own step: what its candidates are, who votes when, what the votes choose, and that nothing is fed back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SIZES, federation, job, models, play, staffed

from fltk import engine, methods
from fltk.engine.base import Bench, Job
from fltk.evaluation.deploy import OWN, DeployTask, deploy_client
from fltk.evaluation.join import JoinTask, Tuning, join_client
from fltk.partition.federation import Federation, Split
from fltk.rounds.loop import rounds, score
from fltk.train import own_step
from fltk.train.own_step import BYTES, CANDIDATES, Candidate, Votes
from fltk.train.prior import in_bias, log_prior

N = len(SIZES)
KINDS = len(CANDIDATES)


def voting(method: str = "fedavg", params: dict[str, Any] | None = None, **settings: Any) -> Job:
    return job(method, params, **{"rounds": 7, "own_step": "vote", "eval_every": 1, **settings})


def without_validation(clients: Federation) -> Federation:
    empty = [replace(c, val=Split(c.val.x[:0], c.val.y[:0])) for c in clients.clients]
    clients.clients = tuple(empty)
    return clients


def cast(votes: dict[int, list[tuple[float, float]]], round: int = 0, before: Votes | None = None) -> Votes:
    """Votes in which client -> (accuracy, loss) of the first candidates; the others are hopeless."""
    ballots = {}
    for client, scores in votes.items():
        full = [*scores, *[(0.0, 9.0)] * (KINDS - len(scores))]
        ballots[client] = torch.tensor(full, dtype=torch.float64).t()
    return (before or Votes.none_yet(N)).counted(ballots, round)


# Candidates


def test_candidates_as_their_equations() -> None:
    made = voting()
    bench = Bench(made)
    client, trainer, task = bench.client(1), bench.trainer.at(3, 1), made.task()
    pooled = task.label_counts.sum(0)
    offset = in_bias(task.layout, log_prior(task.label_counts[1:2], pooled)[0].float())
    u = task.w0
    torch.testing.assert_close(own_step.label_offset(client, pooled, trainer), offset)
    found = own_step.adapted(u, offset, client, trainer, CANDIDATES)
    for candidate, model in zip(CANDIDATES, found, strict=True):
        start = u + offset if candidate.prior else u
        tuned = start
        if candidate.kind == "head10":
            tuned = bench.trainer.at(3, 1).sgd(start, client.train, epochs=10, only="head")
        torch.testing.assert_close(model, start + candidate.w * (tuned - start))
    assert [c.name for c in CANDIDATES] == [
        *("mixed", "head10", "head10-w0.75", "head10-w0.5"),
        *("mixed-prior", "head10-prior", "head10-prior-w0.75", "head10-prior-w0.5"),
    ]


def test_weight_decay_does_not_wear_the_prior_down() -> None:
    """With a rate of decay alone and no data gradient in the bias, tuning would shrink it."""
    made = voting(weight_decay=0.5)
    bench = Bench(made)
    client, trainer, pooled = bench.client(0), bench.trainer.at(0, 0), bench.pooled
    offset = own_step.label_offset(client, pooled, trainer)
    plain, prior = own_step.adapted(
        bench.task.w0, offset, client, trainer, [Candidate("head10"), Candidate("head10", prior=True)]
    )
    away = bench.trainer.at(0, 0).sgd(bench.task.w0 + offset, client.train, epochs=10, only="head")
    kept = float((prior - plain) @ offset)
    assert kept > float((away - plain) @ offset)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_grad": 0.05},
        {"client_opt": "adam"},
        {"client_opt": "adamw"},
        {"client_opt": "adamw", "clip_grad": 0.05},
    ],
)
def test_tuning_with_the_prior_is_training_with_the_prior_in_the_logits(settings: dict[str, Any]) -> None:
    """Against torch's optimisers: decay and clipping act on the weights and gradients without the prior."""
    made = voting(weight_decay=0.5, lr=0.01, **settings)
    bench = Bench(made)
    client, trainer, task = bench.client(1), bench.trainer.at(0, 1), made.task()
    offset = own_step.label_offset(client, bench.pooled, trainer)
    (got,) = own_step.adapted(task.w0, offset, client, trainer, [Candidate("head10", prior=True)])

    model, flat = made.network().to_empty(device="cpu"), task.w0.clone()
    head = task.layout.bind(model, flat)[-2:]
    logits = offset[-len(bench.pooled) :]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    steps: Any = kinds[made.train.client_opt](head, lr=made.train.lr, weight_decay=0.5)
    for batch in bench.trainer.at(0, 1).batches(client.train, trainer.steps(len(client.train), 10.0)):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(model(batch.x) + logits, batch.y).backward()
        if made.train.clip_grad:
            torch.nn.utils.clip_grad_norm_(head, made.train.clip_grad)
        steps.step()
    torch.testing.assert_close(got, flat.detach() + offset, rtol=0, atol=2e-5)


def test_a_ballot_holds_the_scores_on_validation_data() -> None:
    bench = Bench(voting())
    client, trainer = bench.client(2), bench.trainer.at(1, 2)
    got = own_step.ballot(bench.task.w0, client, trainer, bench.pooled)
    assert got is not None
    offset = own_step.label_offset(client, bench.pooled, trainer)
    for k, model in enumerate(own_step.adapted(bench.task.w0, offset, client, trainer, CANDIDATES)):
        found = trainer.score(model, client.val)
        assert got[:, k].tolist() == [found.accuracy, found.loss]


def test_tuning_that_diverges_gets_the_worst_vote_and_is_not_used() -> None:
    bench = Bench(voting())
    client, trainer = bench.client(2), bench.trainer.at(1, 2)
    broken = torch.full_like(bench.task.w0, 3e38)
    got = own_step.ballot(broken, client, trainer, bench.pooled)
    assert got is not None
    assert got[:, 1].tolist() == [0, own_step.MOST_LOSS]
    assert own_step.used(broken, 1, client, trainer, bench.pooled) is broken


# Who votes, and what is chosen


def test_who_is_asked_for_a_vote() -> None:
    last = torch.tensor([3, -1, 3, 0])
    voted = torch.tensor([3, -1, -1, 2])
    votes = replace(Votes.none_yet(N), voted=voted)
    ids = [0, 1, 2, 3]
    assert votes.due(ids, last, 3) == [2]  # 1 has not taken part yet, 2 has never voted
    assert votes.due(ids, last, 4) == [0, 2, 3]  # every fifth round
    assert votes.due(ids, last, 8) == [2, 3]  # 3 has not voted for more than five rounds
    assert votes.due([0, 1], last, 8) == []


def test_accuracy_decides_and_among_the_near_best_the_loss() -> None:
    assert Votes.none_yet(N).choice() == 0
    assert cast({0: [(0.5, 1.0), (0.8, 2.0)]}).choice() == 1
    assert cast({0: [(0.8, 0.4), (0.8, 0.3)]}).choice() == 1
    assert cast({0: [(0.795, 0.2), (0.8, 0.3)]}).choice() == 0  # within .01 of the best
    assert cast({0: [(0.78, 0.2), (0.8, 0.3)]}).choice() == 1


def test_votes_decay_and_old_ones_weigh_less() -> None:
    first = cast({0: [(1.0, 1.0), (0.0, 1.0)]})
    second = cast({0: [(0.0, 1.0), (1.0, 1.0)]}, 1, first)
    assert second.sums[0, :, 0].tolist() == pytest.approx([0.8, 1.8, 1.8])
    assert second.choice() == 1  # .8 against 1
    late = cast({1: [(0.0, 1.0), (0.7, 1.0)]}, 9, cast({0: [(1.0, 1.0), (0.0, 1.0)]}))
    assert late.choice() == 1  # .8 ** 9 for client 0
    assert cast({1: [(0.0, 1.0), (0.7, 1.0)], 0: [(1.0, 1.0), (0.0, 1.0)]}).choice() == 0


def test_values_out_of_range_are_cut_and_broken_votes_are_left_out() -> None:
    votes = Votes.none_yet(2).counted(
        {0: torch.full((2, KINDS), 1e9, dtype=torch.float64), 1: torch.full((2, KINDS), math.nan, dtype=torch.float64)},
        4,
    )
    assert votes.sums[0, :, 0].tolist() == [1, own_step.MOST_LOSS, 1]
    assert votes.voted.tolist() == [4, -1]
    assert not votes.sums[1].any()


def test_newcomers_have_not_voted() -> None:
    grown = cast({0: [(0.5, 1.0)]}, 3).enlarged(N + 2)
    assert grown.voted.tolist() == [3, -1, -1, -1, -1, -1]
    assert grown.sums.shape == (N + 2, 3, KINDS)


# In a run


@pytest.mark.parametrize("method", ["fedavg", "ditto", "fedper", "ifca", "scaffold", "fedrep"])
def test_the_own_step_is_never_fed_back(method: str) -> None:
    plain, voted = play(job(method, rounds=7)), play(voting(method))
    for a, b in zip(plain, voted, strict=True):
        left = {k: v for k, v in b.state.tensors().items() if own_step.PREFIX not in k}
        assert left.keys() == a.state.tensors().keys()
        for name, tensor in a.state.tensors().items():
            assert torch.equal(tensor, left[name]), name


def test_infinite_width_with_a_vote_is_fedavg_with_a_vote() -> None:
    ours, fedavg = play(voting("attn", {"tau": "inf"})), play(voting())
    for a, b in zip(ours, fedavg, strict=True):
        assert a.scalars["own_step"] == b.scalars["own_step"]
        assert torch.equal(*(torch.from_numpy(r.clients["personal_test_acc"]) for r in (a, b)))
        assert torch.equal(*(Votes.of(r.state.server).sums for r in (a, b)))  # type: ignore[union-attr]


def test_what_is_evaluated_is_the_chosen_step_of_the_personal_model() -> None:
    made = voting()
    task, done = made.task(), play(made)[-1]
    votes = Votes.of(done.state.server)
    assert votes is not None
    forced = votes.counted({i: scores_for(5) for i in range(N)}, 7)
    state = replace(done.state, server={**done.state.server, **forced.tensors()})
    assert forced.choice() == 5
    pool = engine.make("serial", made)
    found = score(made.method, pool, task, state, 6)
    bench = Bench(made)
    for i in range(N):
        trainer = bench.trainer.at(6, i)
        model = own_step.used(models(made, state)[i], 5, bench.client(i), trainer, bench.pooled)
        assert found[i].test == trainer.score(model, bench.client(i).test)
    deployed = deploy_client(bench, DeployTask(6, 2, models(made, state)[2], (Candidate("mixed"), OWN), 5))
    assert deployed["own"][1] == found[2].test
    assert deployed["mixed"][1] != found[2].test


def scores_for(k: int) -> Tensor:
    """A vote for candidate k."""
    vote = torch.zeros(2, KINDS, dtype=torch.float64)
    vote[0, k] = 1
    return vote


@pytest.mark.parametrize("method", ["fedavg", "attn"])
def test_without_validation_data_no_client_votes(method: str) -> None:
    made = voting(method, data=without_validation(federation()))
    for done in play(made):
        assert done.scalars["own_step"] == 0
        assert done.scalars["ballots"] == 0


def test_bytes_are_those_of_models_tables_and_votes() -> None:
    made = voting("attn", participation=0.75, rounds=9)
    layout, seen = made.task().layout, set()
    voted = 0
    for done in play(made):
        taking_part = set((done.state.last == done.round - 1).nonzero().flatten().tolist())
        tables = 4 * 4 * (6 + 2) * len(taking_part - seen)
        seen |= taking_part
        ballots = done.scalars["ballots"]
        assert done.scalars["bytes_up"] == 4 * layout.size * len(taking_part) + tables + BYTES * ballots
        assert done.scalars["bytes_down"] == 4 * layout.size * len(taking_part)
        voted += int(ballots)
    assert voted > N
    assert BYTES == 4 * 2 * KINDS


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("method", ["fedavg", "ditto", "attn"])
def test_engines_and_resumed_runs_have_the_same_bits(method: str) -> None:
    made = voting(method, participation=0.75)
    serial = play(made)
    pool = engine.make("process:2", made)
    try:
        staffed(pool)
        parallel = list(rounds(made, pool))
    finally:
        pool.close()
    resumed = play(made, resume=(3, serial[2].state))
    assert [r.digest for r in parallel] == [r.digest for r in serial]
    assert [r.digest for r in resumed] == [r.digest for r in serial[3:]]


def test_a_newcomer_keeps_the_federations_step_only_where_its_validation_loss_falls() -> None:
    made = voting()
    state = play(made)[-1].state
    new = federation((11,), seed=40).clients[0]
    votes = Votes.none_yet(N).counted({i: scores_for(1) for i in range(N)}, 3)
    state = replace(state, server={**state.server, **votes.tensors()})
    good, wrong = replace(new, val=new.train), replace(new, val=Split(new.train.x, (new.train.y + 1) % 4))
    for client, tuned in ((good, True), (wrong, False)):
        made.federation.newcomers = (replace(client, id=N),)
        bench = Bench(made)
        got = join_client(bench, JoinTask(N, 0, state, Tuning("none", 1, 0.1), None))
        model = state.server["w"]
        if tuned:
            model = own_step.used(model, 1, bench.client(N), bench.trainer.at(0, N), bench.pooled)
        assert got.scores["joined"][0] == bench.trainer.score(model, client.val)


def test_a_method_says_what_its_personal_model_is() -> None:
    words = {name: methods.method_class(name).printed for name in ("fedavg", "fedavg-ft", "ditto", "attn", "local")}
    assert words == {"fedavg": "mixed", "fedavg-ft": "tuned", "ditto": "personal", "attn": "mixed", "local": "personal"}
