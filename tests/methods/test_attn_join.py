"""attn takes in clients that nobody has seen: by their birth token, their update, their loss or their class table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from attacked import attacked, defended
from torch import Tensor
from toys import SIZES, aggregated, federation, final, made_up, model_attn, models, play, uploads

from fltk.attention import Options
from fltk.attention.bank import columns
from fltk.attention.newcomer import Others, mean_row, newcomer_row
from fltk.attention.prototypes import TAU, class_table, evidence, newcomer_by_evidence, sent_counts
from fltk.attention.tokens import cosines, unit
from fltk.engine.base import Bench, Job
from fltk.memory.products import gram
from fltk.methods.heads import with_offset
from fltk.partition.federation import Split
from fltk.protocol.messages import Joined
from fltk.protocol.state import State

N = len(SIZES)
TASK = model_attn().task()
LAYOUT, P = TASK.layout, TASK.layout.size
NEW = federation((11,), seed=40).clients[0]  # a client of other data
Params = Mapping[str, Any]


def trained(params: Params, **settings: Any) -> tuple[Job, State]:
    """After three rounds; newcomers keep the rows that they are placed with unless `join_fit` is given."""
    made = model_attn({"join_fit": 0, **params}, **{"rounds": 3, **settings})
    return made, play(made)[-1].state


def join(made: Job, state: State) -> Joined:
    bench = Bench(made)
    return made.method.join(state, NEW, bench.trainer.at(0, N), TASK)


def first_training(made: Job, start: Tensor) -> Tensor:
    return Bench(made).trainer.at(0, N).sgd(start, NEW.train)


EVERYBODY = Others(TASK.n, torch.ones(N, dtype=torch.bool))


def blended(weights: Tensor, rows: Tensor) -> Tensor:
    return (weights @ rows.double()).float()


@pytest.mark.parametrize("params", [{"lone": 0}, {"lone": 100}], ids=str)
def test_a_newcomer_gets_its_row_of_everybodys_next_models(params: Params) -> None:
    made, state = trained(params)
    got, bank = join(made, state), state.client["bank"]
    w = first_training(made, TASK.w0)
    z = unit(torch.cat([state.client["birth"], (w - TASK.w0)[None]]).double())  # P < r: nothing is projected
    row = newcomer_row(z @ z.t(), EVERYBODY, Options(lone=params["lone"]))
    mean = mean_row(EVERYBODY)
    torch.testing.assert_close(got.arrival, blended(mean, bank), rtol=0, atol=1e-6)
    assert got.row is not None
    if params["lone"]:
        assert got.note == "lone: takes the mean"
        torch.testing.assert_close(got.model, got.arrival)
    else:
        assert not got.note
        torch.testing.assert_close(got.row, row.weights @ state.server["map"], rtol=0, atol=1e-6)
        torch.testing.assert_close(got.model, blended(row.weights, models(made, state)), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.model, blended(got.row, bank), rtol=0, atol=1e-6)
    assert (got.down, got.up) == (2 * 4 * P, 4 * P)


@pytest.mark.parametrize("params", [{}, {"scope": "layer", "r": 20}, {"mu": 0.5}, {"head": "local"}], ids=str)
def test_a_twin_of_a_client_has_its_birth_token_and_no_gap_to_it(params: Params) -> None:
    """With the data and the first random stream of client k, and so with its first upload."""
    made = model_attn(params, rounds=1)
    sent = uploads(made, made.method.init(TASK))
    state, bench = aggregated(made, sent), Bench(made)
    for k in range(N):
        got = made.method.join(state, bench.client(k), bench.trainer.at(0, k), TASK)
        assert torch.equal(got.own["bank"], sent[k].w)
        assert torch.equal(got.own["birth"], state.client["birth"][k])
    lone = {**params, "tau": 1e-3, "lone": 0, "gamma": 0}
    sharp = model_attn(lone, rounds=1)
    state = aggregated(sharp, uploads(sharp, sharp.method.init(TASK)))
    for k in range(N):
        got = sharp.method.join(state, bench.client(k), bench.trainer.at(0, k), TASK)
        torch.testing.assert_close(got.own["rows"], sharp.method.maps(state)[:, k], rtol=0, atol=1e-3)  # type: ignore[attr-defined]


def test_the_update_from_the_mean_is_compared_with_displacements_from_it() -> None:
    made, state = trained({"join_token": "update", "lone": 0})
    got, bank = join(made, state), state.client["bank"]
    w = first_training(made, got.arrival)
    s = cosines(gram(torch.cat([bank, w[None]]), got.arrival))
    row = newcomer_row(s, EVERYBODY, Options(lone=0)).weights
    torch.testing.assert_close(got.model, blended(row, models(made, state)), rtol=0, atol=1e-6)
    assert "birth" not in state.client
    assert "bank" not in got.own
    assert (got.down, got.up) == (2 * 4 * P, 4 * P)


def test_the_lowest_loss_takes_the_best_of_all_models() -> None:
    made, state = trained({"join_token": "loss", "tau": 0.01, "lone": 0})
    got, trainer = join(made, state), Bench(made).trainer
    losses = [trainer.score(w, NEW.train).loss for w in models(made, state)]
    torch.testing.assert_close(got.model, models(made, state)[losses.index(min(losses))], rtol=0, atol=1e-6)
    distinct = len(torch.unique(state.server["map"], dim=0))
    assert (got.down, got.up) == (distinct * 4 * P, 0)


def test_a_table_needs_no_training() -> None:
    made, state = trained({"token": "prototypes", "lone": 0})
    got, trainer = join(made, state), Bench(made).trainer
    steps = trainer.taken
    table = class_table(trainer.features(TASK.w0, NEW.train), NEW.train.y, 4)
    counts = torch.cat([TASK.label_counts, NEW.train.y.bincount(minlength=4)[None]])
    found = evidence(torch.cat([state.client["table"], table[None]]), sent_counts(counts))
    row = newcomer_by_evidence(found, EVERYBODY, Options(lone=0, tau=TAU)).weights
    torch.testing.assert_close(got.model, blended(row, models(made, state)), rtol=0, atol=1e-6)
    assert torch.equal(got.own["table"], table)
    assert got.up == 4 * 4 * (6 + 2)  # 4 classes: mean of 6 features, scatter and count
    assert trainer.taken == steps


def test_clients_that_never_took_part_say_nothing_of_a_newcomer() -> None:
    """Their tables are empty, though the task knows their label counts."""
    made, _ = trained({"token": "prototypes"})
    some = aggregated(made, [u for u in uploads(made, made.method.init(TASK)) if u.client in (0, 2)])
    got = join(made, some)
    assert got.row is not None
    assert set(got.row.nonzero().flatten().tolist()) <= {0, 2}


def test_a_second_head_is_trained_on_arrival() -> None:
    made, state = trained({"head": "both"})
    got, shared = join(made, state), join(*trained({}))
    assert torch.equal(got.arrival, shared.arrival)
    assert got.own["offset"].any()
    torch.testing.assert_close(got.model, with_offset(shared.model, got.own["offset"], LAYOUT))


def test_a_private_head_is_that_of_the_first_training() -> None:
    made, state = trained({"head": "local"})
    got = join(made, state)
    w = first_training(made, TASK.w0)
    assert torch.equal(LAYOUT.take(got.model, "head"), LAYOUT.take(w, "head"))
    assert torch.equal(LAYOUT.take(got.arrival, "head"), LAYOUT.take(TASK.w0, "head"))
    width = LAYOUT.width("base")
    assert (got.down, got.up) == (4 * P + 4 * width, 4 * width)


def test_one_row_per_layer_and_their_mean_by_width() -> None:
    made, state = trained({"scope": "layer"})
    got = join(made, state)
    rows, expected = got.own["rows"], torch.zeros(N, dtype=torch.float64)
    for row, layer in zip(rows, LAYOUT.layers, strict=True):
        expected += LAYOUT.width(layer) / P * row
        torch.testing.assert_close(
            LAYOUT.take(got.model, layer), blended(row, LAYOUT.take(state.client["bank"], layer)), rtol=0, atol=1e-6
        )
    torch.testing.assert_close(got.row, expected)


FITS = [{}, {"scope": "layer"}, {"head": "local"}, {"token": "prototypes"}, {"join_token": "update"}]


@pytest.mark.parametrize("params", FITS, ids=str)
def test_a_fitted_row_lowers_the_newcomers_losses_and_still_mixes_the_others(params: Params) -> None:
    client, (made, state) = replace(NEW, val=NEW.train), trained({**params, "join_fit": 12})
    bench, method = Bench(made), made.method
    got = method.join(state, client, bench.trainer.at(0, N), TASK)
    placed = join(*trained(params))
    assert bench.trainer.score(got.model, NEW.train).loss < bench.trainer.score(placed.model, NEW.train).loss
    rows = got.own["rows"]
    assert bool((rows >= 0).all())
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows), dtype=torch.float64))
    inside = LAYOUT.take(got.model, method.columns.travels)
    for row, cut in zip(rows, method.parts(TASK).values(), strict=True):  # type: ignore[attr-defined]
        expected = blended(row, columns(state.client["bank"], cut))
        torch.testing.assert_close(columns(inside, cut), expected, rtol=0, atol=1e-6)
    assert torch.equal(got.arrival, placed.arrival)
    width = 4 * LAYOUT.width(method.columns.travels)
    assert got.down - placed.down == 12 * width
    assert 0 < got.up - placed.up <= 12 * width


def test_a_fit_counts_as_epochs_for_those_it_is_compared_with() -> None:
    made, state = trained({"join_fit": 5})
    bench = Bench(made)
    made.method.join(state, NEW, bench.trainer.at(0, N), TASK)
    assert bench.trainer.taken == 6 * bench.trainer.steps(len(NEW.train), 1)


def test_a_fit_that_does_not_help_on_validation_data_is_not_kept() -> None:
    """Here with validation labels that contradict the training labels, and without any validation data."""
    made, state = trained({"join_fit": 12})
    placed, method = join(*trained({})), made.method
    wrong = replace(NEW, val=Split(NEW.train.x, (NEW.train.y + 1) % 4))
    empty = replace(NEW, val=Split(NEW.val.x[:0], NEW.val.y[:0]))
    for client in (wrong, empty):
        got = method.join(state, client, Bench(made).trainer.at(0, N), TASK)
        assert torch.equal(got.model, placed.model)
        assert torch.equal(got.own["rows"], placed.own["rows"])


def test_an_infinite_width_hands_out_fedavgs_model_bit_for_bit() -> None:
    made, state = trained({"tau": "inf", "join_fit": 12})
    got = join(made, state)
    average = final("fedavg", rounds=3)[0]
    assert torch.equal(got.model, average)
    assert torch.equal(got.arrival, average)
    assert torch.equal(got.row, TASK.weights(range(N)))
    assert (got.down, got.up) == (4 * P, 0)


@pytest.mark.parametrize("params", [{"tau": "inf"}, {"warmup": 9}], ids=str)
@pytest.mark.parametrize("bad", [0, 1])
def test_a_mean_for_newcomers_exempts_nobody_from_trust(params: Params, bad: int) -> None:
    """p_j t_j / sum of p t; row `bad` of the map alone lets client `bad` in."""
    made = model_attn(params, data=federation([12, 9, 15, 8, 11, 20]), rounds=2)
    made = defended(attacked(made, "sign-flip", {"lam": 4}, malicious=(bad,)), "multi-krum", share=0.2)
    state, task = play(made)[-1].state, made.task()
    trust = state.server["defence.trust"]
    assert trust[bad] == 0 and state.server["map"][bad, bad] > 0
    mass = task.n.double() * trust
    got = made.method.join(state, NEW, Bench(made).trainer.at(0, 6), task)
    assert got.row is not None
    torch.testing.assert_close(got.row, mass / mass.sum())
    torch.testing.assert_close(got.model, blended(mass / mass.sum(), state.client["bank"]), rtol=0, atol=1e-6)


def test_a_mean_for_newcomers_is_that_of_the_last_rounds_participants() -> None:
    made = defended(model_attn({"tau": "inf"}, rounds=2), "multi-krum", share=0.0)
    last = play(made)[-1].state
    trust = torch.tensor([0, 0.5, 1, 1], dtype=torch.float64)
    server = {**last.server, "stored": torch.tensor([1, 1, 0, 1]), "defence.trust": trust}
    got = join(made, replace(last, server=server))
    mass = TASK.n.double() * trust * torch.tensor([1, 1, 0, 1])
    torch.testing.assert_close(got.row, mass / mass.sum())
    nobody = {**server, "defence.trust": torch.zeros(N, dtype=torch.float64)}
    assert torch.equal(join(made, replace(last, server=nobody)).model, TASK.w0)


def test_before_anybody_has_a_model_there_is_the_common_start() -> None:
    made = model_attn()
    got = join(made, made.method.init(TASK))
    assert torch.equal(got.model, TASK.w0)
    assert got.row is None
    assert got.note


def test_only_those_in_the_bank_are_attended_to() -> None:
    made = model_attn({"max_age": 2})
    state = aggregated(
        made, made_up(made, TASK.w0 + 0.1 * torch.randn(N, P, generator=torch.Generator().manual_seed(1)))
    )
    for t in range(1, 4):
        state = aggregated(made, uploads(made, state, (0, 1, 2), t), round=t, state=state)
    got = join(made, state)
    mean = TASK.n.double() * torch.tensor([1, 1, 1, 0])
    torch.testing.assert_close(got.arrival, blended(mean / mean.sum(), state.client["bank"]), rtol=0, atol=1e-6)


def test_a_newcomer_enters_with_its_model_and_its_first_upload() -> None:
    made, state = trained({})
    bench = Bench(made)
    got = made.method.join(state, bench.client(1), bench.trainer.at(0, N), TASK)
    larger = model_attn(data=federation((*SIZES, 11)))
    task = larger.task()
    grown = larger.method.add_clients(state, [got], task)
    [w] = larger.method.personal_model(grown, [N], task)
    torch.testing.assert_close(w, got.model, rtol=0, atol=1e-6)
    assert torch.equal(grown.client["bank"][N], got.own["bank"])
    assert torch.equal(grown.client["birth"][N], got.own["birth"])
    assert torch.equal(
        larger.method.personal_model(grown, [0], task)[0], made.method.personal_model(state, [0], TASK)[0]
    )
    later = aggregated(larger, uploads(larger, grown, (0, 1), 3), round=3, state=grown, n=task.n)
    assert float(later.server["map"][0, N]) > 0  # those who were there may now learn from it
    assert torch.equal(later.client["birth"][N], got.own["birth"])
