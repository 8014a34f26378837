"""FedAvg, fine-tuned by each client before use: the strongest cheap baseline, in every honest table.

Y. Jiang, J. Konecny, K. Rush, S. Kannan. "Improving Federated Learning Personalization via Model Agnostic
Meta Learning." 2019. arXiv:1909.12488. T. Yu, E. Bagdasaryan, V. Shmatikov. "Salvaging Federated Learning by
Local Adaptation." 2020. arXiv:2002.04758

    w    as in FedAvg
    v_i <- SGD(F_i restricted to `finetune`, w)     after the rounds, never fed back

Differs from the papers: nothing; 10 head epochs with the base frozen by default, or one epoch of the whole
model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.method import Method
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class FedAvgFT(Method):
    """FedAvg with a local step at evaluation time."""

    title: ClassVar[str] = "FedAvg, fine-tuned by each client before use"
    printed: ClassVar[str] = "tuned"

    finetune: str = hyper("head", "what is fine-tuned", choices=("head", "all", "none"))
    ft_epochs: float | None = hyper(None, "fine-tuning epochs (default: 10 for head, 1 for all)", low=0)
    ft_lr: float | None = hyper(None, "fine-tuning rate (default: the local rate)", low=0)

    def personalise(self, w: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
        if self.finetune == "none":
            return w
        epochs = (10.0 if self.finetune == "head" else 1.0) if self.ft_epochs is None else self.ft_epochs
        return trainer.sgd(w, client.train, epochs=epochs, lr=self.ft_lr, only=self.finetune)
