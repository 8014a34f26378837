"""`--head-mix classes`: rows of the output layer are averaged by who has seen the class, whatever the method."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import aggregated, dealt, federation, final, job, made_up, random

from fltk.config import PartitionConfig, RunConfig, TrainConfig, canonical_json
from fltk.data import create
from fltk.engine.base import Job
from fltk.errors import UsageError
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.names import METHODS
from fltk.partition.federation import Federation
from fltk.protocol.averaging import average, weighted_sum
from fltk.protocol.class_head import ClassHead, class_columns
from fltk.protocol.mixing import mix
from fltk.protocol.server import Server

N, C = 4, 4
LAYOUT = job("fedavg").task().layout
COUNTS = torch.tensor([[9, 1, 0, 2], [0, 20, 3, 0], [1, 1, 1, 5], [0, 0, 17, 0]])
TABLES = st.lists(st.lists(st.integers(0, 99), min_size=C, max_size=C), min_size=N, max_size=N)


def head_of(counts: Tensor = COUNTS, nu: float = 1.0) -> ClassHead:
    found = ClassHead.of(LAYOUT, "all", counts, nu)
    assert found is not None
    return found


def map_of(seed: int = 0) -> Tensor:
    return torch.softmax(random(N, N, seed=seed).double(), 1)


def balanced() -> Federation:
    """Clients of different sizes whose classes have equal shares."""
    y = np.arange(160) % C
    x = random(C, 1, 4, 4)[y] + random(160, 1, 4, 4, seed=1)
    data = create("digits", x.numpy(), y, tuple("abcd"))
    edges = [0, 28, 68, 100, 148]
    cuts = [np.split(np.arange(a, b), [b - a - 8, b - a - 4]) for a, b in pairwise(edges)]
    return dealt(data, cuts, groups=(0, 1, 0, 1), public=np.arange(150, 160))


@given(TABLES, st.floats(0.01, 10), st.integers(0, 99))
def test_class_weights_are_on_the_simplex(table: list[list[int]], nu: float, seed: int) -> None:
    counts = torch.tensor(table) + torch.eye(N, C, dtype=torch.int64)  # nobody is without samples
    got = head_of(counts, nu).weights(map_of(seed)[0], range(N))
    assert float(got.min()) >= 0
    torch.testing.assert_close(got.sum(1), torch.ones(C).double(), rtol=0, atol=1e-12)


@given(st.integers(0, 99), st.booleans())
def test_equal_shares_or_infinite_nu_give_the_plain_weights(seed: int, equal: bool) -> None:
    counts = torch.tensor([[1, 2, 3, 4]]) * torch.tensor([[1], [7], [2], [30]]) if equal else COUNTS
    got = head_of(counts, 1.0 if equal else 1e9).weights(map_of(seed)[1], range(N))
    torch.testing.assert_close(got, map_of(seed)[1].expand(C, -1), rtol=0, atol=1e-5)


def test_one_average_as_loops() -> None:
    """Of the clients 0, 2 and 3, as with partial participation; all other columns are the plain average's."""
    rows, ids, p = list(random(3, LAYOUT.size)), [0, 2, 3], torch.tensor([0.2, 0.5, 0.3]).double()
    got, plain = average(rows, p, ids, head_of()), weighted_sum(rows, p)
    columns = class_columns(LAYOUT, "all")
    assert columns is not None
    for c in range(C):
        raw = [float(p[k]) * (int(COUNTS[j, c]) / int(COUNTS[j].sum()) + 1 / C) for k, j in enumerate(ids)]
        for q in columns[c].tolist():
            expected = sum(raw[k] * float(rows[k][q]) for k in range(3)) / sum(raw)
            assert float(got[q]) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(LAYOUT.take(got, "base"), LAYOUT.take(plain, "base"))
    assert not torch.equal(LAYOUT.take(got, "head"), LAYOUT.take(plain, "head"))


def test_a_map_is_one_average_per_row() -> None:
    rows, a = random(N, LAYOUT.size), map_of()
    got = mix(a, rows, head_of())
    for i in range(N):
        torch.testing.assert_close(got[i], average(list(rows), a[i], range(N), head_of()), rtol=0, atol=1e-6)


def test_equal_rows_are_one_average_and_a_one_hot_row_is_that_model_bit_for_bit() -> None:
    rows, p = random(N, LAYOUT.size), torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    expected = average([rows[0], rows[2], rows[3]], p[[0, 2, 3]], [0, 2, 3], head_of())
    assert torch.equal(mix(p.expand(N, -1), rows, head_of()), expected.expand(N, -1))
    order = torch.tensor([3, 1, 1, 0])
    assert torch.equal(mix(torch.eye(N, dtype=torch.float64)[order], rows, head_of()), rows[order])


def test_a_rule_that_gives_a_row_back_does_not_get_it_changed() -> None:
    def rule(given: Sequence[Tensor], _: Tensor) -> Tensor:
        return given[1 if len(given[0]) == LAYOUT.size else 0]

    rows = list(random(3, LAYOUT.size))
    kept = rows[1].clone()
    p = torch.full((3,), 1 / 3)
    got = head_of().average(rule(rows, p), rows, p, [0, 1, 2], rule)
    assert torch.equal(rows[1], kept)
    assert torch.equal(got, LAYOUT.put(rows[1], "head", LAYOUT.take(rows[0], "head")))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8-bn"])
def test_the_columns_are_the_rows_of_the_last_layer(name: str) -> None:
    model = zoo.make(name, (1, 28, 28), 5).to_empty(device="cpu")
    layout, flat = Layout.of(model), random(Layout.of(model).size)
    layout.bind(model, flat)
    last = model.get_submodule(layout.weighted_layers[-1])
    expected = torch.cat([last.weight.detach(), last.bias.detach()[:, None]], 1)
    for part in ("all", "top:2", "head"):
        columns = class_columns(layout, part)
        assert columns is not None
        assert torch.equal(layout.take(flat, part)[columns], expected)
    assert class_columns(layout, "base") is None and class_columns(layout, "none") is None


def test_control_variates_are_not_weighted_by_class() -> None:
    rows = random(N, LAYOUT.size)
    states = []
    for head_mix in ("rows", "classes"):
        made = job("scaffold", head_mix=head_mix)
        sent = made_up(made, rows, c=random(N, LAYOUT.trainable, seed=1))
        for k, u in enumerate(sent):
            u.sent["dc"] = random(N, LAYOUT.trainable, seed=2)[k]  # type: ignore[index]  # a dict behind a Mapping
        states.append(aggregated(made, sent).server)
    assert torch.equal(states[0]["c"], states[1]["c"])
    assert not torch.equal(states[0]["w"], states[1]["w"])


@pytest.mark.parametrize(
    ("name", "params"), [("fedper", {}), ("fedper", {"head_layers": 2}), ("local", {}), ("attn", {"head": "local"})]
)
def test_a_private_head_is_left_alone(name: str, params: dict[str, object]) -> None:
    assert torch.equal(final(name, params, head_mix="classes"), final(name, params))


def test_attention_of_infinite_width_is_fedavg_bit_for_bit() -> None:
    got = final("attn", {"tau": "inf"}, head_mix="classes")
    assert torch.equal(got, final("fedavg", head_mix="classes"))
    assert not torch.equal(got, final("fedavg"))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_clients_with_equal_class_shares_have_no_use_for_it(name: str) -> None:
    """Every method, and with partial participation; under skew those with a shared head differ (see above)."""
    data = balanced()
    for participation in (1.0, 0.5):
        settings = {"data": data, "participation": participation, "rounds": 3}
        got, plain = (final(name, head_mix=kind, **settings) for kind in ("classes", "rows"))
        torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-5)


def test_under_label_skew_it_matters_also_for_methods_that_mix() -> None:
    for name in ("fedavg", "ditto", "fedamp", "heurfedamp", "ifca", "oracle", "attn"):
        assert not torch.equal(final(name, head_mix="classes", rounds=3), final(name, rounds=3)), name


def test_the_context_averages_with_the_head_of_the_task() -> None:
    made: Job = job("fedavg", head_mix="classes", data=federation(groups=(0, 1, 0, 1)))
    task, rows = made.task(), list(random(2, LAYOUT.size))
    p = task.weights([1, 3])
    assert task.class_head is not None
    got, used = Server(0, task).average(rows, p, [1, 3], rows[0])
    assert torch.equal(got, average(rows, p, [1, 3], task.class_head))
    assert used is p


def test_averages_of_some_clients_know_whose_rows_they_are() -> None:
    """With partial participation, and within the clusters of methods that keep several models."""
    rows = random(N, LAYOUT.size)
    fedavg, oracle = (job(name, head_mix="classes") for name in ("fedavg", "oracle"))
    task = fedavg.task()
    expected = [average([rows[i], rows[i + 2]], task.weights([i, i + 2]), [i, i + 2], task.class_head) for i in (0, 1)]
    assert torch.equal(aggregated(fedavg, made_up(fedavg, rows)[1::2]).server["w"], expected[1])
    assert torch.equal(aggregated(oracle, made_up(oracle, rows)).server["models"], torch.stack(expected))


def test_runs_from_before_the_option_keep_their_hash() -> None:
    config = RunConfig(method="fedavg")
    before = config.to_dict()
    for cls, part in ((PartitionConfig, before["partition"]), (TrainConfig, before["train"])):
        for f in fields(cls):
            if f.metadata.get("later"):
                part.pop(f.name, None)  # some are stored only where they are set
    assert "head_mix" not in before["train"]
    assert RunConfig.from_dict(before) == config
    assert config.digest() == hashlib.sha256(canonical_json(before).encode()).hexdigest()
    other = RunConfig(train=TrainConfig(head_mix="classes"), method="fedavg")
    assert other.digest() != config.digest() and asdict(config.train)["head_mix"] == "rows"
    with pytest.raises(UsageError, match=r"--head-mix: unknown head mix 'class'.*classes"):
        TrainConfig(head_mix="class")
