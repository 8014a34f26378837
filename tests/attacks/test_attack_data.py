"""Attacks on data: what changes, what does not, and that it is drawn once."""

from __future__ import annotations

import pytest
import torch
from attacked import attacked
from hypothesis import given
from hypothesis import strategies as st
from toys import federation, job, play, random, uploads

from fltk import attacks
from fltk.attacks.backdoor import Backdoor
from fltk.attacks.base import Samples
from fltk.engine.base import Bench
from fltk.errors import UsageError
from fltk.partition.federation import Split

SHAPE = (2, 10, 10)
CLASSES = 5
SAMPLES = Samples(CLASSES, torch.tensor([3.0, 4.0]))


def split(n: int = 40, seed: int = 0) -> Split:
    y = torch.randint(CLASSES, (n,), generator=torch.Generator().manual_seed(seed))
    return Split(random(n, *SHAPE, seed=seed).clamp(-2, 2), y)


def stream(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flipped(mode: str, data: Split, **more: object) -> torch.Tensor:
    made = attacks.create("label-flip", {"mode": mode, **more})
    got = made.poison_data(data, SAMPLES, stream(), 0)
    assert got.x is data.x
    assert ((got.y >= 0) & (got.y < CLASSES)).all()
    return got.y


def backdoor(kind: str, **params: object) -> Backdoor:
    made = attacks.create(kind, params)
    assert isinstance(made, Backdoor)
    return made


def test_flips_permute_labels_or_leave_none_in_place() -> None:
    data = split()
    reverse = flipped("reverse", data)
    assert torch.equal(flipped("reverse", Split(data.x, reverse)), data.y)
    y = data.y
    for _ in range(CLASSES):
        y = flipped("shift", Split(data.x, y))
    assert torch.equal(y, data.y)
    for mode in ("reverse", "shift"):
        counts = flipped(mode, data).bincount(minlength=CLASSES)
        assert torch.equal(counts.sort().values, data.y.bincount(minlength=CLASSES).sort().values)
    assert (flipped("random", data) != data.y).all()
    assert torch.equal(flipped("random", data), flipped("random", data))
    pair = flipped("pair", data, source=2, target=4)
    assert torch.equal(pair, torch.where(data.y == 2, 4, data.y))


@given(st.floats(0, 1), st.integers(1, 60))
def test_a_backdoor_poisons_its_share_of_the_samples_and_only_the_patch(ratio: float, n: int) -> None:
    data, made = split(n), backdoor("badnets", ratio=ratio, target=3)
    got = made.poison_data(data, SAMPLES, stream(), 0)
    at = made.chosen(data, stream())
    assert len(at) == int(ratio * n)
    patch = torch.zeros(10, 10, dtype=torch.bool)
    patch[6:9, 6:9] = True
    for i in range(n):
        if i in at.tolist():
            assert int(got.y[i]) == 3
            assert torch.equal(got.x[i][:, ~patch], data.x[i][:, ~patch])
            assert (got.x[i][0, patch] == 3).all()
            assert (got.x[i][1, patch] == 4).all()
        else:
            assert torch.equal(got.x[i], data.x[i])
            assert got.y[i] == data.y[i]


def test_a_trigger_set_twice_is_a_trigger_and_no_share_is_no_backdoor() -> None:
    for kind in ("badnets", "dba"):
        made, x = backdoor(kind), split().x
        once = made.trigger(x, SAMPLES)
        assert once is not None
        assert torch.equal(made.trigger(once, SAMPLES), once)
        assert not torch.equal(once, x)
    data = split()
    assert backdoor("badnets", ratio=0).poison_data(data, SAMPLES, stream(), 0) is data


def test_clean_labels_stay_and_only_the_target_class_is_patched() -> None:
    data, made = split(), backdoor("badnets", clean_label="yes", target=2)
    got = made.poison_data(data, SAMPLES, stream(), 0)
    assert torch.equal(got.y, data.y)
    changed = (got.x != data.x).flatten(1).any(1)
    assert int(changed.sum()) == int((data.y == 2).sum()) // 2
    assert (data.y[changed] == 2).all()


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_parts_of_a_distributed_trigger_make_the_whole_once(parts: int, shape: tuple[int, ...]) -> None:
    made = backdoor("dba", parts=parts)
    pieces = torch.stack([made.part(shape, rank) for rank in range(parts)])
    assert (pieces.sum(0) == made.pixels(shape)).all()
    assert pieces.flatten(1).any(1).all()
    assert torch.equal(made.part(shape, parts), made.part(shape, 0))


def test_the_trigger_of_the_publication() -> None:
    """Four bars: 1 x 4 at rows 0 and 3, columns 0-3 and 6-9 of MNIST; 1 x 6 at rows 0 and 4, 0-5 and 9-14 of CIFAR."""
    for shape, rows, columns in (
        ((1, 28, 28), (0, 3), (*range(4), *range(6, 10))),
        ((3, 32, 32), (0, 4), (*range(6), *range(9, 15))),
    ):
        expected = torch.zeros(shape[1:], dtype=torch.bool)
        for row in rows:
            expected[row, list(columns)] = True
        assert torch.equal(backdoor("dba").pixels(shape), expected)


@pytest.mark.parametrize(
    ("kind", "params", "shape", "said"),
    [
        ("badnets", {"size": 8}, (1, 8, 8), "--set-attack size=8.*larger than an image"),
        ("dba", {"width": 4}, (1, 8, 8), "--set-attack width=4.*larger than an image"),
        ("dba", {"parts": 9}, (1, 8, 8), "--set-attack parts=9"),
        ("badnets", {"target": 7}, (1, 8, 8), "--set-attack target=7"),
        ("scale", {}, (9, 128), "no images"),
        ("label-flip", {"mode": "pair", "source": 6}, (1, 8, 8), "--set-attack source=6"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_by_name(
    kind: str, params: dict[str, object], shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        attacks.create(kind, params).check(shape, CLASSES, 10, 2)


def test_malicious_clients_train_on_poisoned_data_in_attacked_rounds_only() -> None:
    made = attacked(job("fedavg", rounds=4), "label-flip", malicious=(1,), start=1, stop=3)
    bench = Bench(made)
    clean = made.federation.clients[1]
    for t, hit in enumerate((False, True, True, False)):
        data, _ = bench.training(1, t)
        assert (data.train.y is not clean.train.y) == hit
        assert data.test is clean.test
        assert bench.training(0, t)[0].train is made.federation.clients[0].train
    for part in ("train", "val"):
        assert torch.equal(getattr(bench.training(1, 1)[0], part).y, 3 - getattr(clean, part).y)
    assert bench.training(1, 1)[0] is bench.training(1, 2)[0]  # chosen once


def test_one_plain_step_up_is_one_step_down_turned_round() -> None:
    """Both modes of sign-flip are the same for a single step of SGD; with a pull they are not."""
    data = federation(groups=(0, 1, 0, 1))
    turned = play(attacked(job("fedavg", data=data, steps=1, rounds=1), "sign-flip"))[-1]
    climbed = play(attacked(job("fedavg", data=data, steps=1, rounds=1), "sign-flip", {"mode": "gradient"}))[-1]
    torch.testing.assert_close(climbed.state.server["w"], turned.state.server["w"], rtol=0, atol=1e-6)


def test_malicious_clients_train_by_settings_of_their_own() -> None:
    """A backdoor's epochs, rate and decay are those of a run with such settings, for attackers alone."""
    clean = job("fedavg", rounds=1)
    made = attacked(
        clean, "badnets", {"ratio": 0, "size": 1, "epochs": 3, "lr": 0.3, "weight_decay": 0.1}, malicious=(1,)
    )
    other = job("fedavg", rounds=1, epochs=3.0, lr=0.3, weight_decay=0.1)
    mine, theirs, plain = (uploads(one, one.method.init(one.task())) for one in (made, other, clean))
    assert torch.equal(mine[1].w, theirs[1].w)
    assert all(torch.equal(mine[k].w, plain[k].w) for k in (0, 2, 3))


def test_success_is_counted_on_triggered_images_of_other_classes() -> None:
    made = attacked(job("fedavg", rounds=1), "badnets", {"size": 2, "target": 2}, malicious=(1,))
    bench = Bench(made)
    for client in made.federation.clients:
        found = bench.triggered(client)
        if client.id == 1:
            assert found is None
            continue
        assert found is not None
        others = client.test.y != 2
        assert len(found) == int(others.sum())
        assert (found.y == 2).all()
        assert (found.x != client.test.x[others]).flatten(1).any(1).all()
    always = bench.job.task().w0.clone()
    bias = next(e for e in bench.job.task().layout.entries if e.name.endswith("bias") and e.size == 4)
    always[bias.start : bias.stop] = torch.tensor([0.0, 0.0, 1e6, 0.0])
    assert bench.trainer.score(always, bench.triggered(made.federation.clients[0])).accuracy == 1
