"""The round loop: who takes part, what is told, and what a digest covers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import HELD_OUT, SIZES, federation, job, play

from fltk.errors import Diverged
from fltk.protocol.state import State
from fltk.rounds import loop
from fltk.train.scoring import Score
from fltk.train.streams import Streams


@given(st.integers(1, 40), st.floats(0.01, 1.0), st.integers(0, 50))
def test_participants_are_distinct_ascending_and_as_many_as_asked_for(n: int, share: float, round: int) -> None:
    made = job("fedavg", participation=share)
    task = replace(made.task(), n=torch.ones(n, dtype=torch.int64))
    ids = loop.sample(task, made.train, Streams(1), round)
    assert len(ids) == min(n, max(1, math.floor(share * n + 0.5)))
    assert ids == sorted(set(ids))
    assert all(0 <= i < n for i in ids)
    assert ids == loop.sample(task, made.train, Streams(1), round)


def test_everybody_is_drawn_about_equally_often() -> None:
    made = job("fedavg", participation=0.5)
    task = made.task()
    drawn = [i for t in range(400) for i in loop.sample(task, made.train, Streams(1), t)]
    counts = np.bincount(drawn, minlength=4)
    assert counts.sum() == 800
    assert np.abs(counts - 200).max() < 50  # five standard deviations of a binomial (400, 1/2)


def test_rounds_are_counted_from_one_and_the_last_one_is_evaluated() -> None:
    done = play(job("fedavg", rounds=5, eval_every=2))
    assert [r.round for r in done] == [1, 2, 3, 4, 5]
    assert ["personal_test_acc" in r.scalars for r in done] == [False, True, False, True, True]


def test_scalars_are_means_over_the_clients_that_have_a_value() -> None:
    done = play(job("fedavg", participation=0.5, eval_every=1))[-1]
    for key in ("personal_val_acc", "personal_test_loss", "global_test_acc", "train_loss"):
        assert done.scalars[key] == pytest.approx(float(np.nanmean(done.clients[key].astype(np.float64))), rel=1e-6)
        assert done.clients[key].shape == (len(SIZES),)
    assert int(np.isnan(done.clients["train_loss"]).sum()) == 2
    assert not np.isnan(done.clients["personal_test_acc"]).any()
    assert done.scalars["participants"] == 2


def test_bytes_are_counted_for_the_participants() -> None:
    made = job("fedper", participation=0.5)
    done = play(made)[-1]
    assert done.scalars["bytes_up"] == done.scalars["bytes_down"] == 2 * 4 * made.task().layout.width("base")


def test_methods_without_a_global_model_tell_no_global_score() -> None:
    assert not any(k.startswith("global_") for k in play(job("local", eval_every=1))[-1].scalars)
    assert "global_test_acc" in play(job("ditto", eval_every=1))[-1].scalars


def test_accuracies_are_shares_of_the_held_out_samples() -> None:
    done = play(job("fedavg", eval_every=1))[-1]
    assert all(float(a * HELD_OUT).is_integer() for a in done.clients["personal_test_acc"])


def test_clients_without_test_samples_have_no_value() -> None:
    made, empty = Score(0.5, {"acc": 0.75}, 4), Score(math.nan, {"acc": math.nan}, 0)
    scalars, vectors = loop.measured(
        [loop.ClientScores(made, made, None, None), loop.ClientScores(made, empty, None, None)]
    )
    assert scalars["personal_test_acc"] == 0.75
    assert np.isnan(vectors["personal_test_acc"][1])


def test_a_digest_covers_every_bit_name_type_and_shape() -> None:
    state = State({"w": torch.zeros(4)}, {"v": torch.zeros(2, 2)}, torch.tensor([-1, 0]))
    changed = [
        replace(state, server={"w": torch.tensor([0.0, 0, 0, 1e-45])}),
        replace(state, server={"u": torch.zeros(4)}),
        replace(state, server={"w": torch.zeros(4, dtype=torch.int32)}),
        replace(state, server={"w": torch.zeros(2, 2)}),
        replace(state, client={}),
        replace(state, client={"v": torch.zeros(2, 2), "z": torch.zeros(0)}),
        replace(state, last=torch.tensor([-1, 1])),
    ]
    marks = [loop.digest(s) for s in (state, *changed)]
    assert len(set(marks)) == len(marks)
    assert loop.digest(state) == loop.digest(State.from_tensors(state.tensors()))
    strided = replace(state, server={"w": torch.zeros(4, 2)[:, 0]})
    assert loop.digest(strided) == loop.digest(state)


def test_divergence_ends_a_run_in_one_line() -> None:
    with pytest.raises(Diverged, match=r"client \d, round 1") as caught:
        play(job("fedavg", lr=1e30, epochs=3.0))
    assert "\n" not in str(caught.value)


def test_training_learns_the_toy() -> None:
    done = play(job("fedavg", data=federation((60, 60, 60, 60)), rounds=10, lr=0.2))[-1]
    assert done.scalars["train_loss"] < 0.5 * math.log(4)
