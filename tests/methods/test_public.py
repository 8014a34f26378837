"""Public samples, and the methods that use them: FedDF and FedMD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import federation, job, models, play, server, uploads

from fltk import partition
from fltk.config import PartitionConfig
from fltk.data import load
from fltk.errors import UsageError
from fltk.partition.federation import build
from fltk.protocol.task import Task


def test_public_samples_are_no_clients_and_in_the_fingerprint() -> None:
    dataset = load("digits", None)
    config = PartitionConfig(clients=6, newcomers=2, public=100)
    made, plain = partition.make(dataset, config), partition.make(dataset, replace(config, public=0))
    assert made.public is not None
    held = np.concatenate([*made.train, *made.val, *made.test])
    assert len(made.public) == 100
    assert not set(made.public) & set(held)
    assert made.fingerprint != plain.fingerprint
    again = partition.from_arrays(config, partition.to_arrays(made))
    assert np.array_equal(again.public, made.public)
    data = build(dataset, made)
    assert np.array_equal(data.public.y.numpy(), dataset.y[made.public])


def test_without_public_samples_the_fingerprint_is_what_it_was() -> None:
    made = partition.make(load("digits", None), PartitionConfig())
    assert made.fingerprint.startswith("a") or made.public is None
    assert "public" not in partition.to_arrays(made)


def test_a_method_that_uses_none_has_the_same_bits_with_them() -> None:
    with_some, without = (job("fedavg", data=federation(public=count)) for count in (8, 0))
    assert play(with_some)[-1].digest == play(without)[-1].digest


@pytest.mark.parametrize("method", ["feddf", "fedmd"])
def test_no_public_samples_are_refused_by_the_option(method: str) -> None:
    with pytest.raises(UsageError, match=f"--method {method} needs public samples.*--public"):
        play(job(method, data=federation(public=0)))


def test_feddf_without_steps_is_fedavg() -> None:
    plain = play(job("fedavg"))[-1].state.server["w"]
    assert torch.equal(play(job("feddf", {"server_steps": 0}))[-1].state.server["w"], plain)


def test_a_student_that_is_its_only_teacher_has_nothing_to_learn() -> None:
    """One client: the loss begins at 0, and what Adam makes of rounding stays below its steps."""
    made = job("feddf", {"server_steps": 5, "server_lr": 1e-6}, data=federation(sizes=(20,)))
    sent = uploads(made, made.method.init(made.task()))
    after = made.method.aggregate(made.method.init(made.task()), sent, server(made, 0))
    torch.testing.assert_close(after.server["w"], sent[0].w, rtol=0, atol=1e-5)


def test_distillation_comes_closer_to_the_ensemble() -> None:
    made = job("feddf", {"server_steps": 200, "server_lr": 0.01}, epochs=20.0)
    init, at = made.method.init(made.task()), server(made, 0)
    sent = uploads(made, init)
    x = at.public.x
    teacher = torch.stack([at.trainer.outputs(u.w, x) for u in sent]).mean(0).softmax(1)

    def distance(w: torch.Tensor) -> float:
        student = at.trainer.outputs(w, x).log_softmax(1)
        return float(torch.nn.functional.kl_div(student, teacher, reduction="batchmean"))

    plain = replace(made, method=replace(made.method, server_steps=0))
    average = plain.method.aggregate(init, sent, at).server["w"]
    assert distance(made.method.aggregate(init, sent, at).server["w"]) < 0.5 * distance(average)


def test_fedmd_sends_logits_and_no_weight() -> None:
    made = job("fedmd", {"public_batch": 5}, models="mlp:2,cnn-bn:2", data=federation(shape=(1, 8, 8)))
    done = play(made)[-1]
    logits = 4 * 5 * 4  # samples, classes
    assert done.scalars["bytes_up"] == logits * done.scalars["participants"]


def test_fedmds_bytes_do_not_grow_with_the_network() -> None:
    small, large = (play(job("fedmd", hidden=hidden))[-1].scalars for hidden in ("6", "60"))
    assert small["bytes_up"] == large["bytes_up"]
    assert small["bytes_down"] == large["bytes_down"]


def test_the_consensus_of_one_client_is_what_it_said() -> None:
    made = job("fedmd", data=federation(sizes=(20,)))
    init = made.method.init(made.task())
    [sent] = uploads(made, init)
    after = made.method.aggregate(init, [sent], server(made, 0))
    assert torch.equal(after.server["consensus"], sent.sent["logits"])


def test_networks_that_differ_are_initialised_like_alone_and_stay_apart() -> None:
    data = federation(shape=(1, 8, 8))
    made = job("local", models="mlp:2,cnn-bn:2", data=data)
    task: Task = made.task()
    mlp, cnn = (job("local", model=name, data=data).task().w0 for name in ("mlp", "cnn-bn"))
    assert torch.equal(task.initial(0), mlp)
    assert torch.equal(task.initial(3), cnn)
    found = made.method.personal_model(play(made)[-1].state, range(4), task)
    alone = models(job("local", model="mlp", data=data), play(job("local", model="mlp", data=data))[-1].state)
    assert [len(w) for w in found] == [len(mlp)] * 2 + [len(cnn)] * 2
    assert torch.equal(found[1], alone[1])


@pytest.mark.parametrize(
    ("method", "text", "found"),
    [
        ("fedavg", "mlp:2,cnn-bn:2", "--models does not go with this --method"),
        ("local", "mlp:2", "--models names networks of 2 clients, but there are 4"),
        ("local", "mlp", "networks with client counts"),
        ("local", "wax:4", "unknown model 'wax'"),
    ],
)
def test_networks_by_client_are_refused_where_they_make_no_sense(method: str, text: str, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        play(job(method, models=text, data=federation(shape=(1, 8, 8))))
