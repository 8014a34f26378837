"""Client optimisers and clipping against torch's own, losses that methods bring, and Mixup."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import federation, job, models, play

from fltk import engine
from fltk.engine.base import Bench
from fltk.errors import UsageError
from fltk.rounds import loop
from fltk.train.augment import Mixup, parse
from fltk.train.losses import cross_entropy

STEPS = 12
# Each step rounds a few float32 operations; Adam divides by small roots, which magnifies that.
TOLERANCE = 2e-5


def reference(made: Any, optimiser: str, **settings: Any) -> Tensor:
    """Client 1's model after torch's optimiser on the same batches, from theta^0."""
    bench = Bench(made)
    client, trainer = bench.client(1), bench.trainer.at(0, 1)
    model, task = made.network().to_empty(device="cpu"), made.task()
    flat = task.w0.clone()
    parameters = task.layout.bind(model, flat)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser]
    steps = kind(parameters, lr=made.train.lr, **settings)
    for batch in trainer.batches(client.train):
        steps.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        if made.train.clip_grad:
            torch.nn.utils.clip_grad_norm_(parameters, made.train.clip_grad)
        steps.step()
    return flat.detach()


@pytest.mark.parametrize("step", ["fast", "autograd", "vmap"])
@pytest.mark.parametrize(
    ("settings", "optimiser", "torchs"),
    [
        ({"client_opt": "adam"}, "adam", {}),
        ({"client_opt": "adam", "weight_decay": 0.1}, "adam", {"weight_decay": 0.1}),
        ({"client_opt": "adamw", "weight_decay": 0.1}, "adamw", {"weight_decay": 0.1}),
        ({"client_opt": "adam", "adam_beta1": 0.5, "adam_eps": 1e-3}, "adam", {"betas": (0.5, 0.999), "eps": 1e-3}),
        ({"clip_grad": 0.05}, "sgd", {}),
        ({"clip_grad": 0.3, "momentum": 0.9, "weight_decay": 0.1}, "sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ({"client_opt": "adam", "clip_grad": 0.05}, "adam", {}),
    ],
)
def test_local_training_is_torchs(step: str, settings: dict[str, Any], optimiser: str, torchs: dict[str, Any]) -> None:
    made = job("fedavg", lr=0.01, epochs=3.0, step=step, **settings)
    bench = Bench(made)
    got = bench.trainer.at(0, 1).sgd(made.task().w0, bench.client(1).train)
    torch.testing.assert_close(got, reference(made, optimiser, **torchs), rtol=0, atol=TOLERANCE)
    assert not torch.equal(got, made.task().w0)


def test_the_gradient_is_cut_after_the_pull_is_added() -> None:
    made = job("fedprox", {"mu": 1e4}, lr=0.1, clip_grad=0.01)
    bench = Bench(made)
    start = made.task().w0
    far = start + 1.0
    moved = bench.trainer.at(0, 1).sgd(start, bench.client(1).train, epochs=1.0, pull=(far, 1e4)) - start
    steps = bench.trainer.steps(len(bench.client(1).train))
    assert float(moved.norm()) <= steps * 0.1 * 0.01 * 1.001


@pytest.mark.parametrize("method", ["fedavg", "ditto", "attn", "moon", "fedrep", "fedala"])
@pytest.mark.parametrize("settings", [{"client_opt": "adam"}, {"clip_grad": 0.5}, {"augment": "mixup:0.4"}])
def test_every_method_takes_them_and_resumes(method: str, settings: dict[str, Any]) -> None:
    made = job(method, rounds=3, **settings)
    whole = play(made)
    rest = play(made, resume=(1, whole[0].state))
    assert [done.digest for done in whole[1:]] == [done.digest for done in rest]
    assert whole[-1].digest != play(job(method, rounds=3))[-1].digest
    assert torch.isfinite(models(made, whole[-1].state)).all()


def test_a_loss_of_a_methods_own_gives_the_numbers_of_the_built_in_one() -> None:
    for step in ("fast", "autograd", "vmap"):
        bench = Bench(job("fedavg", step=step))
        data, start = bench.client(1).train, bench.job.task().w0
        plain = bench.trainer.at(0, 1).sgd(start, data)
        own = bench.trainer.at(0, 1).sgd(start, data, loss=cross_entropy)
        torch.testing.assert_close(own, plain, rtol=0, atol=2e-6)


def test_running_statistics_follow_under_a_loss_of_a_methods_own() -> None:
    bench = Bench(job("fedavg", data=federation(shape=(1, 8, 8)), model="cnn-bn"))
    data, task = bench.client(1).train, bench.job.task()
    plain = bench.trainer.at(0, 1).sgd(task.w0, data)
    own = bench.trainer.at(0, 1).sgd(task.w0, data, loss=cross_entropy)
    torch.testing.assert_close(own, plain, rtol=0, atol=1e-5)
    assert not torch.equal(own[task.layout.trainable :], task.w0[task.layout.trainable :])


def test_moon_without_its_term_is_fedavg_and_begins_with_log_2() -> None:
    plain, none = job("fedavg"), job("moon", {"mu": 0.0})
    assert torch.equal(play(none)[-1].state.server["w"], play(plain)[-1].state.server["w"])
    with_term = job("moon", {"mu": 2.0}, rounds=1, steps=1)
    bare = job("fedavg", rounds=1, steps=1)
    more, loss = play(with_term)[0], play(bare)[0]
    torch.testing.assert_close(more.scalars["train_loss"] - loss.scalars["train_loss"], 2 * 0.693147, rtol=0, atol=1e-4)
    torch.testing.assert_close(more.state.server["w"], loss.state.server["w"], rtol=0, atol=2e-6)


def test_moons_stack_is_moon_one_by_one() -> None:
    alone, stacked = (play(job("moon", rounds=3, step=step))[-1].state for step in ("autograd", "vmap"))
    torch.testing.assert_close(alone.server["w"], stacked.server["w"], rtol=0, atol=1e-5)


def test_mixup_mixes_inputs_and_targets_alike() -> None:
    mixup = Mixup(0.4, seed=3)
    x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    steps = mixup.steps()
    share, rng = next(steps)
    again = next(Mixup(0.4, seed=3).steps())
    assert again[0] == share
    partner = torch.from_numpy(again[1].permutation(6))
    mixed, targets = mixup.mixed(x, y, 3, (share, rng))
    torch.testing.assert_close(mixed, share * x + (1 - share) * x[partner])
    torch.testing.assert_close(targets, share * F.one_hot(y, 3) + (1 - share) * F.one_hot(y[partner], 3))
    shares = [next(steps)[0] for _ in range(200)]
    assert all(0 <= s <= 1 for s in shares)
    assert any(a != b for a, b in pairwise(shares))


@pytest.mark.parametrize("text", ["mixup", "mixup:0", "mixup:x", "flip:1", "mixup:nan"])
def test_no_augmentation_is_refused_by_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--augment takes mixup:ALPHA"):
        parse(text)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"adam_beta1": 0.5}, "--adam-beta1 needs --client-opt"),
        ({"client_opt": "adam", "momentum": 0.9}, "--momentum is for --client-opt sgd"),
        ({"client_opt": "rmsprop"}, "--client-opt"),
        ({"clip_grad": -1.0}, "--clip-grad"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        job("fedavg", **settings)


@pytest.mark.parametrize("method", ["apfl", "perfedavg", "pfedme"])
def test_methods_that_go_from_batch_to_batch_refuse_augmentation(method: str) -> None:
    with pytest.raises(UsageError, match=r"--augment mixup:0\.2 does not go with this --method"):
        play(job(method, augment="mixup:0.2"))


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("settings", [{"augment": "mixup:0.4"}, {"client_opt": "adamw", "weight_decay": 0.01}])
def test_worker_processes_change_no_bit(settings: dict[str, Any]) -> None:
    made = job("moon", rounds=3, **settings)
    pool = engine.make("process:2", made)
    try:
        parallel = [done.digest for done in loop.rounds(made, pool)]
    finally:
        pool.close()
    assert parallel == [done.digest for done in play(made)]


def test_scaffold_wants_plain_steps() -> None:
    with pytest.raises(UsageError, match="--method scaffold assumes plain SGD"):
        play(job("scaffold", client_opt="adam"))
