"""Map controls against their definitions, and in runs."""

from __future__ import annotations

import pytest
import torch
from toys import federation, job, models, play

from fltk.errors import UsageError
from fltk.protocol.map_control import MapControl

N = 6
KNOWN = torch.tensor([0, 2, 3, 5])


def control(kind: str) -> MapControl:
    return MapControl(kind, lambda client: torch.Generator().manual_seed(client))


def some_map() -> torch.Tensor:
    a = torch.zeros(N, N, dtype=torch.float64)
    a[KNOWN[:, None], KNOWN] = torch.rand(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return a / a.sum(1, keepdim=True).clamp_min(1e-300)


@pytest.mark.parametrize("kind", ["shuffle", "uniform", "identity", "random"])
def test_rows_stay_on_the_simplex_of_the_clients_that_are_known(kind: str) -> None:
    a = some_map()
    out = control(kind).controlled(a, KNOWN, torch.ones(N))
    torch.testing.assert_close(out[KNOWN].sum(1), torch.ones(4, dtype=torch.float64))
    assert not out[:, [1, 4]].any()
    assert torch.equal(out[[1, 4]], a[[1, 4]])
    assert torch.equal(out, control(kind).controlled(a, KNOWN, torch.ones(N)))


def test_a_shuffled_row_keeps_its_own_weight_and_deals_out_the_others() -> None:
    a = some_map()
    out = control("shuffle").controlled(a, KNOWN, torch.ones(N))
    assert torch.equal(out.diagonal(), a.diagonal())
    for i in KNOWN.tolist():
        others = [j for j in KNOWN.tolist() if j != i]
        assert sorted(out[i, others].tolist()) == sorted(a[i, others].tolist())
    assert not torch.equal(out, a)


def test_uniform_is_fedavgs_row() -> None:
    samples = torch.tensor([1, 9, 2, 3, 9, 4])
    out = control("uniform").controlled(some_map(), KNOWN, samples)
    expected = torch.tensor([0.1, 0, 0.2, 0.3, 0, 0.4], dtype=torch.float64)
    for i in KNOWN.tolist():
        torch.testing.assert_close(out[i], expected)


def test_uniform_and_identity_in_a_run() -> None:
    uniform, plain = job("attn", map_control="uniform", rounds=3), job("fedavg", rounds=3)
    mixed = models(uniform, play(uniform)[-1].state)
    torch.testing.assert_close(mixed, models(plain, play(plain)[-1].state), rtol=0, atol=1e-5)

    alone = play(job("attn", map_control="identity", rounds=3))[-1]
    assert alone.map is not None
    assert torch.equal(alone.map.whole(), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("method", ["attn", "fedamp", "heurfedamp"])
@pytest.mark.parametrize("kind", ["shuffle", "random"])
def test_a_control_changes_the_run_and_resumes(method: str, kind: str) -> None:
    data = federation(sizes=(12, 23, 8, 17, 20, 9), groups=(0, 1, 0, 1, 0, 1))
    made = job(method, data=data, map_control=kind, rounds=3)
    whole = play(made)
    assert whole[-1].digest != play(job(method, data=data, rounds=3))[-1].digest
    rest = play(made, resume=(1, whole[0].state))
    assert [done.digest for done in whole[1:]] == [done.digest for done in rest]


@pytest.mark.parametrize("method", ["fedavg", "ifca", "local", "ditto"])
def test_methods_without_a_map_of_mixtures_refuse_it(method: str) -> None:
    with pytest.raises(UsageError, match="--map-control shuffle does not go with this --method"):
        play(job(method, map_control="shuffle"))
