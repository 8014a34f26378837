"""What all methods are made of: sums, mixtures, maps, state."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import SIZES, federation, job, model_attn, play, random

from fltk import methods
from fltk.engine.base import Bench
from fltk.errors import UsageError
from fltk.memory import products
from fltk.protocol.averaging import weighted_sum
from fltk.protocol.map import Map, pull_strength, pulled_map, spread
from fltk.protocol.messages import Upload
from fltk.protocol.mixing import mix
from fltk.protocol.state import State


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12))
def test_the_mean_of_equal_rows_is_the_row_bit_for_bit(sizes: list[int]) -> None:
    w = random(257, seed=len(sizes)) * 10.0 ** torch.arange(-128, 129).div(8)
    n = torch.tensor(sizes, dtype=torch.float64)
    assert torch.equal(weighted_sum([w] * len(sizes), n / n.sum()), w)


def test_a_weighted_sum_as_loops() -> None:
    rows, weights = list(random(4, 7)), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = [sum(float(weights[k]) * float(rows[k][q]) for k in range(4)) for q in range(7)]
    torch.testing.assert_close(weighted_sum(rows, weights), torch.tensor(expected), rtol=0, atol=1e-7)


def test_a_mixture_as_loops_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, a = random(4, 37), torch.softmax(random(4, 4, seed=1).double(), 1)
    expected = [[sum(float(a[i, j] * rows[j, q]) for j in range(4)) for q in range(37)] for i in range(4)]
    for chunk in (1, 5, 37, 1000):
        monkeypatch.setattr(products, "MOST_COLUMNS", chunk)
        torch.testing.assert_close(mix(a, rows), torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clients", [5, 200])
def test_a_one_hot_row_returns_that_model_bit_for_bit(clients: int) -> None:
    """As a dense product and, with many clients, as a sparse one."""
    rows, order = random(clients, 301), torch.arange(clients)
    order[:5] = torch.tensor([3, 1, 1, 4, 0])
    assert torch.equal(mix(torch.eye(clients, dtype=torch.float64)[order], rows), rows[order])


def thinned(clients: int, filled: float) -> Tensor:
    """A map (N, N) with about a share of its entries, rows on the simplex."""
    a = random(clients, clients, seed=3).double().exp()
    a *= (torch.rand(clients, clients, generator=torch.Generator().manual_seed(4)) < filled) | torch.eye(clients).bool()
    return a / a.sum(1, keepdim=True)


@pytest.mark.parametrize("filled", [0.05, 0.5, 1.0])
def test_a_mixture_may_take_the_place_of_the_rows_and_some_of_it_have_the_bits_of_all(filled: float) -> None:
    rows, a = random(300, 401), thinned(300, filled)
    got = mix(a, rows)
    torch.testing.assert_close(got.double(), a @ rows.double(), rtol=0, atol=1e-6)
    for some in (slice(0, 128), slice(128, 384), slice(256, 384)):
        assert torch.equal(mix(a, rows, some=some), got[some])
    assert mix(a, rows, out=rows) is rows
    assert torch.equal(rows, got)


def test_equal_rows_of_a_map_give_the_weighted_sum_bit_for_bit() -> None:
    rows, p = random(4, 301), torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    rows[1] = math.nan  # has no weight, and must not be touched
    expected = weighted_sum([rows[0], rows[2], rows[3]], p[[0, 2, 3]])
    assert torch.equal(mix(p.expand(4, -1), rows), expected.expand(4, -1))


def test_weights_are_by_samples_or_equal_and_sum_to_one() -> None:
    task, uniform = job("fedavg").task(), job("fedavg", agg_weights="uniform").task()
    assert task.weights([0, 2]).tolist() == pytest.approx([SIZES[0] / 20, SIZES[2] / 20])
    assert uniform.weights([0, 2, 3]).tolist() == pytest.approx([1 / 3] * 3)


def test_spread_puts_weights_at_their_clients() -> None:
    task, w = job("fedavg").task(), torch.zeros(1)
    p = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert spread(p, [Upload(w, client=3), Upload(w, client=1)], task).tolist() == [0, 0.75, 0, 0.25]


def test_the_strength_of_a_pull_is_what_it_does_without_a_gradient() -> None:
    """w + s (u - w) after `steps` steps of w <- w - eta lam (w - u)."""
    bench = Bench(job("fedavg", lr=0.1))
    w, u = 3.0, -1.0
    for _ in range(bench.trainer.steps(23)):
        w -= 0.1 * 0.7 * (w - u)
    s = pull_strength(bench.trainer.at(0, 1), 23, 0.7)
    assert 3.0 + float(s) * (u - 3.0) == pytest.approx(w, abs=1e-12)
    assert float(pull_strength(bench.trainer, 23, 1e9)) == 1.0
    assert float(pull_strength(bench.trainer, 23, 0.7, epochs=0)) == 0.0


def test_a_pulled_map_stays_row_stochastic() -> None:
    target = torch.softmax(random(3, 3).double(), 1)
    s = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    got = pulled_map(s, target)
    assert torch.equal(got[0], torch.eye(3, dtype=torch.float64)[0])
    torch.testing.assert_close(got[1], 0.6 * torch.eye(3, dtype=torch.float64)[1] + 0.4 * target[1])
    assert torch.equal(got[2], target[2])


def test_the_whole_map_is_weighted_by_parameters() -> None:
    layout = job("fedper").task().layout
    base, head = torch.full((2, 2), 0.5), torch.eye(2)
    share = layout.width("base") / layout.size
    expected = share * base.double() + (1 - share) * head.double()
    torch.testing.assert_close(Map("exact", {"base": base, "head": head}, layout).whole(), expected)


def test_a_state_survives_its_flat_form() -> None:
    state = play(model_attn({"omega": 0.5, "head": "local"}))[-1].state
    again = State.from_tensors(state.tensors())
    assert again.server.keys() == state.server.keys()
    assert again.client.keys() == state.client.keys() >= {"bank", "update", "private"}
    assert all(torch.equal(again.tensors()[k], v) for k, v in state.tensors().items())


def test_a_client_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match=r"client 1 has no training sample.*--min-size"):
        play(job("fedavg", data=federation((5, 0, 5))))


def test_a_mistyped_method_is_met_with_its_neighbours() -> None:
    with pytest.raises(UsageError, match=r"--method.*'fedpor'.*fedper"):
        methods.create("fedpor", {})
    with pytest.raises(UsageError, match=r"--set.*'sigm'.*sigma"):
        methods.create("fedamp", {"sigm": 1})
    with pytest.raises(UsageError, match=r"--set.*no hyper-parameters"):
        methods.create("fedavg", {"mu": 1})


@pytest.mark.parametrize(
    ("name", "key", "text", "value"),
    [
        ("attn", "tau", "inf", math.inf),
        ("attn", "tau", "none", None),
        ("attn", "table_min", "3", 3),
        ("attn", "bias", "-1.5", -1.5),
        ("ditto", "personal_epochs", "default", None),
        ("fedamp", "scale", "none", "none"),
        ("fedavg-ft", "finetune", "none", "none"),
    ],
)
def test_text_becomes_a_value_of_the_right_kind(name: str, key: str, text: str, value: object) -> None:
    got = getattr(methods.create(name, {key: text}), key)
    assert got == value
    assert type(got) is type(value)
