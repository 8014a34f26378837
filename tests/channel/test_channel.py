"""Channel filters: what is sent, what is kept, and how many bytes that is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from toys import federation, job, play, random

from fltk import channel
from fltk.channel import Packed
from fltk.channel.grad_drop import GradDrop
from fltk.channel.qsgd import BUCKET, QSGD, rounded_to
from fltk.errors import UsageError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_dropped_entries_wait_in_the_residual_bit_for_bit() -> None:
    filters, update, residual = channel.parse("grad-drop:0.1"), random(1000), random(1000, seed=1)
    packed, left = filters.send(update, residual, generator())
    assert left is not None
    assert torch.equal(packed.values + left, update + residual)
    assert not ((packed.values != 0) & (left != 0)).any()
    assert float(left.abs().max()) <= float(packed.values[packed.values != 0].abs().min())


@pytest.mark.parametrize(("rate", "size", "count"), [(0.01, 1000, 10), (0.29, 100, 29), (0.001, 100, 1), (0.5, 7, 3)])
def test_as_many_entries_are_sent_as_the_rate_says(rate: float, size: int, count: int) -> None:
    packed = GradDrop(rate).pack(Packed(torch.ones(size)), generator())
    assert packed.places is not None
    assert packed.places.tolist() == list(range(count))  # ties go to the lower index
    assert packed.nbytes == 8 * count


def test_quantised_values_are_right_in_the_mean_and_within_the_papers_variance() -> None:
    values, levels, draws = random(BUCKET), 7, 400
    found = torch.stack([rounded_to(values, levels, generator(k)) for k in range(draws)]).double()
    variance = float((found - values).square().sum(1).mean())
    d, length = len(values), float(values.double().norm())
    assert variance <= min(d / levels**2, math.sqrt(d) / levels) * length**2
    step = length / levels
    chance = values.double().abs() / step % 1
    deviation = step * (chance * (1 - chance) / draws).sqrt()
    assert ((found.mean(0) - values).abs() <= 6 * deviation + 1e-6).all()


def test_quantised_bytes_and_zeros() -> None:
    values = torch.cat([torch.zeros(BUCKET), random(88)])
    packed = QSGD(4).pack(Packed(values), generator())
    assert packed.nbytes == math.ceil(600 * 4 / 8) + 2 * 4
    assert not packed.values[:BUCKET].any()
    both, _ = channel.parse("grad-drop:0.05,qsgd:8").send(values, torch.zeros(600), generator())
    assert both.nbytes == 30 * 8 // 8 + 30 * 4 + 4
    assert int(both.values.count_nonzero()) <= 30


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "ditto", "attn", "fedper", "ifca"])
def test_a_channel_that_sends_everything_is_no_channel(method: str) -> None:
    plain = [done.digest for done in play(job(method))]
    assert [done.digest for done in play(job(method, channel="grad-drop:1,qsgd:32"))] == plain


@pytest.mark.parametrize("method", ["fedavg", "attn", "ditto", "apfl"])
def test_bytes_are_those_of_the_filtered_updates(method: str) -> None:
    plain, sparse = play(job(method))[-1], play(job(method, channel="grad-drop:0.25"))[-1]
    size = job(method).task().layout.trainable
    saved = 4 * size - 8 * (size // 4)
    assert plain.scalars["bytes_up"] - sparse.scalars["bytes_up"] == saved * plain.scalars["participants"]
    assert plain.scalars["bytes_down"] == sparse.scalars["bytes_down"]


def test_running_statistics_travel_as_they_are() -> None:
    made = job("fedavg", data=federation(shape=(1, 8, 8)), model="cnn-bn", channel="grad-drop:0.01", rounds=1)
    done, layout = play(made)[0], made.task().layout
    buffers = layout.size - layout.trainable
    sent = 8 * int(0.01 * layout.trainable) + 4 * buffers
    assert done.scalars["bytes_up"] == sent * done.scalars["participants"]
    assert not torch.equal(done.state.server["w"][layout.trainable :], made.task().w0[layout.trainable :])


def test_residuals_are_kept_over_rounds_and_resumed() -> None:
    made = job("fedavg", channel="grad-drop:0.1", rounds=4, participation=0.5)
    whole = play(made)
    rest = play(made, resume=(2, whole[1].state))
    assert [done.digest for done in whole[2:]] == [done.digest for done in rest]
    residual = whole[0].state.server["channel.w"]
    absent = (whole[0].state.last < 0).nonzero().flatten()
    assert not residual[absent].any()
    assert residual.any(1).sum() == len(residual) - len(absent)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("grad-drop", "must lie in"),
        ("grad-drop:0", "must lie in"),
        ("grad-drop:nan", "must lie in"),
        ("qsgd:1", "bits an entry"),
        ("qsgd:x", "bits an entry"),
        ("zip:9", "there is no filter 'zip'"),
        ("grad-drop:0.1,", "there is no filter ''"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_line(text: str, found: str) -> None:
    with pytest.raises(UsageError, match=f"^--channel.*{found}") as error:
        channel.parse(text)
    assert "\n" not in str(error.value)


def test_a_method_that_sends_no_model_has_no_channel() -> None:
    with pytest.raises(UsageError, match="--channel qsgd:8 does not go with this --method"):
        play(job("local", channel="qsgd:8"))


def test_an_attack_is_sent_through_the_channel() -> None:
    from attacked import attacked

    made = attacked(job("fedavg", channel="grad-drop:0.1", rounds=1), "random-model", malicious=(1,))
    done, free = play(made)[0], play(replace(made, campaign=None))[0]
    assert done.scalars["bytes_up"] == free.scalars["bytes_up"]
    residual = done.state.server["channel.w"]
    assert torch.equal(residual[0], free.state.server["channel.w"][0])
    assert not torch.equal(residual[1], free.state.server["channel.w"][1])
