"""fedavg-ft: a local step at evaluation time that is never fed back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import SIZES, federation, final, job, models, play

from fltk.engine.base import Bench


def personal(params: dict[str, object], **settings: object) -> tuple[Tensor, Tensor, Bench]:
    """The global model, client 0's fine-tuned one, and the bench."""
    made = job("fedavg-ft", params, **settings)
    state = play(made)[-1].state
    bench = Bench(made)
    w = models(made, state)[0]
    return w, made.method.personalise(w, bench.client(0), bench.trainer.at(1, 0)), bench


@pytest.mark.parametrize("params", [{"ft_epochs": 0}, {"finetune": "none"}, {"ft_lr": 0}])
def test_no_fine_tuning_is_fedavg(params: dict[str, object]) -> None:
    before, after, _ = personal(params)
    assert torch.equal(before, after)
    assert torch.equal(before, final("fedavg")[0])


def test_fine_tuning_changes_no_trajectory() -> None:
    plain = [r.digest for r in play(job("fedavg", rounds=3))]
    tuned = [r.digest for r in play(job("fedavg-ft", {"finetune": "all"}, rounds=3, eval_every=1))]
    assert plain == tuned


def test_fine_tuning_the_head_leaves_the_base_alone_with_its_running_statistics() -> None:
    data = federation(SIZES, (1, 8, 8))
    before, after, bench = personal({}, data=data, model="resnet8-bn", rounds=1)
    layout = bench.trainer.layout
    assert torch.equal(layout.take(before, "base"), layout.take(after, "base"))
    assert not torch.equal(layout.take(before, "head"), layout.take(after, "head"))


def test_the_defaults_are_ten_epochs_of_the_head_or_one_of_all() -> None:
    for finetune, epochs in (("head", 10.0), ("all", 1.0)):
        before, after, bench = personal({"finetune": finetune})
        trainer = bench.trainer.at(1, 0)
        expected = trainer.sgd(before, bench.client(0).train, epochs=epochs, only=finetune)
        assert torch.equal(after, expected)
    slow = personal({"ft_lr": 1e-3})[1]
    assert float((slow - before).norm()) < float((personal({})[1] - before).norm())


def test_the_scores_are_of_the_fine_tuned_model() -> None:
    tuned = play(job("fedavg-ft", {"finetune": "all", "ft_epochs": 5}, eval_every=1))[-1]
    assert tuned.scalars["personal_val_loss"] != tuned.scalars["global_val_loss"]
