"""Deployment: candidates with prior and interpolation, the vote over them, and that training never hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import dealt, federation, fingerprint, job, play, random

from fltk.data import create
from fltk.engine.base import Bench, Job
from fltk.engine.serial import Serial
from fltk.errors import UsageError
from fltk.evaluation.deploy import KINDS, Deployment, DeployTask, Vector, choose, deploy_client
from fltk.evaluation.evaluate import Evaluation, evaluate
from fltk.names import METHODS
from fltk.protocol.state import State
from fltk.rounds import loop
from fltk.train.losses import Batch, Given, Net
from fltk.train.own_step import Candidate, between
from fltk.train.prior import in_bias, log_prior
from fltk.train.trainer import Trainer

ALL = Deployment("vote", "auto", "auto")
PLAIN = Deployment()


def scored(made: Job, state: State, deploy: Deployment) -> Evaluation:
    return evaluate(made, made.task(), Serial(made), made.train.rounds, state, deploy)


def names(found: Sequence[Candidate]) -> list[str]:
    return [c.name for c in found]


# What is tried


def test_the_plain_deployment_has_the_five_kinds() -> None:
    assert names(PLAIN.candidates()) == list(KINDS) == ["mixed", "ft1", "ft5", "head10", "own"]


def test_all_options_make_one_candidate_each() -> None:
    found = names(ALL.candidates())
    assert len(found) == len(set(found)) == 2 * (1 + 3 * 4) + 1
    assert (
        found[:4] == list(KINDS[:4])
        and found[-1] == "own"
        and {"mixed-prior", "ft5-w0.25", "head10-prior-w0.75"} <= set(found)
    )
    assert names(Deployment(prior="1", w="0.5").candidates()) == [
        "mixed-prior",
        "ft1-prior-w0.5",
        "ft5-prior-w0.5",
        "head10-prior-w0.5",
        "own",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("votes",), "--deploy: .*did you mean vote"),
        (("vote", "2"), "--deploy-prior: .*0, 1, auto"),
        (("vote", "0", "2"), "--deploy-w: "),
    ],
)
def test_an_unknown_deployment_is_refused_by_name(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Deployment(*arguments)


def test_evaluations_without_an_own_candidate_are_of_another_deployment() -> None:
    assert not PLAIN.made({"deploy": "vote", "rows": []}) and PLAIN.made({**PLAIN.asked(), "rows": []})
    assert not ALL.made({"deploy": "vote"}) and not PLAIN.made(ALL.asked()) and not PLAIN.made({"deploy": "ft1"})


# What a candidate is


def test_without_prior_and_interpolation_it_is_tuning_and_nothing_else() -> None:
    """Invariant: beta = 0 and w = 1 give the plain deployment bit for bit, also among all candidates."""
    made = job("fedavg")
    state = play(made)[-1].state
    many, few = scored(made, state, ALL), scored(made, state, PLAIN)
    trainer, w = Bench(made).trainer, state.server["w"]
    work = {"mixed": (0, "all"), "ft1": (1, "all"), "ft5": (5, "all"), "head10": (10, "head")}
    for kind, (epochs, part) in work.items():
        for i, client in enumerate(made.federation.clients):
            tuned = trainer.at(1, i).sgd(w, client.train, epochs=epochs, only=part)
            for split in ("val", "test"):
                expected = trainer.score(tuned, getattr(client, split))
                for found in (many.clients, few.clients):
                    assert found[f"{kind}_{split}_loss"][i] == expected.loss
                    assert found[f"{kind}_{split}_acc"][i] == expected.accuracy


def test_the_ends_of_the_interpolation_are_the_models() -> None:
    u, tuned = random(301), random(301, seed=1)
    assert between(u, tuned, 1) is tuned and between(u, tuned, 0) is u
    torch.testing.assert_close(between(u, tuned, 0.25), u + 0.25 * (tuned - u))


@pytest.mark.parametrize("extra", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
@pytest.mark.parametrize(("kind", "epochs", "part"), [("ft1", 1, "all"), ("ft5", 5, "all"), ("head10", 10, "head")])
def test_the_prior_in_the_bias_is_the_offset_in_loss_and_logits(
    kind: str, epochs: float, part: str, extra: dict[str, float]
) -> None:
    """u~ trained on cross-entropy of f + offset, and then f + offset scored at u + w (u~ - u), without the bias."""
    made = job("fedavg", lr=0.05, **extra)
    task, bench, u = made.task(), Bench(made), random(made.task().layout.size) / 3
    offsets = log_prior(task.label_counts, task.label_counts.sum(0)).float()

    def shifted(net: Net, w: Tensor, batch: Batch, _: Given) -> Tensor:
        return F.cross_entropy(net(w, batch.x) + offsets[client.id], batch.y, reduction="none")

    for client in made.federation.clients:
        options = (Candidate(kind, True), Candidate(kind, True, 0.5))
        got = deploy_client(bench, DeployTask(1, client.id, u, options, 0))
        tuned = bench.trainer.at(1, client.id).sgd(u, client.train, epochs=epochs, only=part, loss=shifted)
        for c in options:
            flat = between(u, tuned, c.w).clone()
            net = Net(made.network().to_empty(device="cpu").eval(), task.layout)
            val = client.val
            losses = shifted(net, flat, Batch(val.x, val.y, torch.arange(len(val))), {})
            assert got[c.name][0].loss == pytest.approx(losses.mean().item(), rel=1e-4)


def test_a_client_with_the_pooled_shares_predicts_as_before() -> None:
    """Invariant: equal shares give an offset of 0 and the same scores."""
    y = np.arange(96) % 4
    data = create("digits", random(96, 1, 4, 4).numpy(), y, tuple("abcd"))
    cuts = [np.split(np.arange(a, a + 48), [n, n + 8]) for a, n in ((0, 24), (48, 36))]
    made = job("fedavg", data=dealt(data, cuts))
    found = scored(made, play(made)[-1].state, Deployment(prior="auto")).clients
    for kind in KINDS[:-1]:
        assert np.array_equal(found[f"{kind}_test_acc"], found[f"{kind}-prior_test_acc"])
        assert found[f"{kind}-prior_test_loss"] == pytest.approx(found[f"{kind}_test_loss"], abs=1e-5)


def test_a_kind_is_tuned_once_whatever_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("fedavg")
    bench, calls, sgd = Bench(made), [], Trainer.sgd

    def counted(self: Trainer, *args: object, **kwargs: object) -> Tensor:
        calls.append(kwargs["epochs"])
        return sgd(self, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Trainer, "sgd", counted)
    deploy_client(bench, DeployTask(0, 0, made.task().w0, tuple(ALL.candidates()), 0))
    assert calls == [1, 5, 10] * 2
    calls.clear()
    deploy_client(bench, DeployTask(0, 0, made.task().w0, tuple(Deployment(w="auto").candidates()), 0))
    assert calls == [1, 5, 10]


def test_the_prior_reaches_the_bias_of_the_own_client_only() -> None:
    """With a model that knows nothing, the prior alone predicts each client's most frequent class."""
    made = job("fedavg")
    task, bench = made.task(), Bench(made)
    state = made.method.init(replace(task, w0=torch.zeros_like(task.w0)))
    found = scored(made, state, Deployment(prior="1")).clients["mixed-prior_val_acc"]
    for i, client in enumerate(made.federation.clients):
        common = int(task.label_counts[i].double().div(task.label_counts.sum(0) + 1).argmax())
        assert found[i] == pytest.approx(float((client.val.y == common).double().mean()))
    offset = log_prior(task.label_counts, task.label_counts.sum(0))[0].float()
    row = in_bias(task.layout, offset)
    assert int((row != 0).sum()) == 4 and torch.equal(row[row != 0], offset)
    assert bench.trainer.layout == task.layout


# Who decides


def values(**found: Sequence[float]) -> dict[str, Vector]:
    return {name.replace("_", "-"): np.array(column, np.float64) for name, column in found.items()}


def test_the_vote_leaves_the_first_candidate_only_for_a_gain_above_the_margin() -> None:
    options = (Candidate("mixed"), Candidate("ft1"), Candidate("mixed", True))
    loss = values(mixed=[1, 1], ft1=[1, 1], mixed_prior=[1, 1])
    for gain, expected in ((0.009, "mixed"), (0.011, "mixed-prior")):
        acc = values(mixed=[0.5, 0.7], ft1=[0.5, 0.7], mixed_prior=[0.5 + 2 * gain, 0.7])
        assert choose(options, acc, loss, "vote") == [expected] * 2
    acc = values(mixed=[0.5, 0.5], ft1=[0.8, 0.8], mixed_prior=[0.8, 0.8])
    assert choose(options, acc, loss, "vote") == ["ft1"] * 2  # a tie goes to the simpler one


def test_a_fixed_kind_restricts_the_vote_to_it() -> None:
    options = [c for c in ALL.candidates() if c.w in (1, 0.5)]
    acc = {c.name: np.array([0.9 if c.kind == "mixed" else 0.8 if c.name == "ft5-w0.5" else 0.6]) for c in options}
    assert choose(options, acc, acc, "ft5") == ["ft5-w0.5"]
    assert choose(options, acc, acc, "ft1") == ["ft1"]
    assert choose(options, acc, acc, "vote") == ["mixed"]


def test_each_client_may_choose_by_its_own_loss() -> None:
    options = (Candidate("mixed"), Candidate("ft1", True), Candidate("ft5", False, 0.5))
    loss = {
        "mixed": np.array([1, 2, np.nan]),
        "ft1-prior": np.array([2, 1, np.nan]),
        "ft5-w0.5": np.array([3, 3, np.nan]),
    }
    assert choose(options, loss, loss, "client") == ["mixed", "ft1-prior", "mixed"]


def test_without_validation_data_the_first_one_stays() -> None:
    nothing = {c.name: np.full(2, np.nan) for c in ALL.candidates()}
    for mode, expected in (("vote", "mixed"), ("client", "mixed"), ("head10", "head10")):
        assert choose(ALL.candidates(), nothing, nothing, mode) == [expected] * 2
    assert (
        choose(Deployment(prior="1").candidates(), {"mixed-prior": np.full(2, np.nan)}, {}, "vote")
        == ["mixed-prior"] * 2
    )


# For every method, and never fed back


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_offered_the_same(name: str) -> None:
    made = job(name, data=federation(groups=(0, 1, 0, 1)))
    done = scored(made, play(made)[-1].state, ALL)
    (chosen,) = done.chosen
    for part in ("val_acc", "test_acc"):
        assert np.array_equal(done.clients[f"deployed_{part}"], done.clients[f"{chosen}_{part}"])
    for c in names(ALL.candidates()):
        for part in ("val_acc", "val_loss", "test_acc", "test_loss"):
            assert np.isfinite(done.clients[f"{c}_{part}"]).all()
    rows = {row["model"] for row in done.rows}
    assert {"deployed", "personal", *names(ALL.candidates())} <= rows
    assert done.summary() | ALL.asked() == done.summary()


@pytest.mark.parametrize("name", ["attn", "ditto", "fedper", "fedavg-ft"])
def test_training_never_hears_of_it(name: str) -> None:
    """Evaluating behind a round leaves the state alone, and the next rounds are those of a run without it."""
    made = job(name, rounds=4)
    plain = [done.digest for done in play(made)]
    engine, seen = Serial(made), []
    for done in loop.rounds(made, engine):
        before = fingerprint(done.state.tensors())
        evaluate(made, made.task(), engine, done.round, done.state, ALL)
        assert fingerprint(done.state.tensors()) == before
        seen.append(done.digest)
    assert seen == plain
