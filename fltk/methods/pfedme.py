"""pFedMe: personal models in the Moreau envelope of the global one.

C. T. Dinh, N. H. Tran, T. D. Nguyen. "Personalized Federated Learning with Moreau Envelopes." NeurIPS 2020.
arXiv:2006.08848

    theta_i, w_i <- w
    (for every batch)  theta_i <- theta_i - eta_p (grad F_i(theta_i; batch) + lam (theta_i - w_i))       K times
                       w_i     <- w_i - eta lam (w_i - theta_i)
    (server)           w       <- (1 - beta) w + beta sum_{i in S} p_i w_i

The personal model is theta_i behind the last inner loop, and never leaves the client.

Differs from the paper: clients weigh by samples; the batches are those of the run's local work, and its rate is eta.
The authors' code trains clients that are not sampled as well, adds a weight decay to the inner steps, and reports w_i
where it says theta_i; here, none of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import stepped
from fltk.protocol.map import spread
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class PFedMe(Method):
    """A global model of what personal models are drawn to."""

    title: ClassVar[str] = "personal models near a global one that follows them"
    cannot: ClassVar[Mapping[str, str]] = {"augment": "its rule goes from batch to batch, as they are"}
    printed: ClassVar[str] = "personal"
    map_kind: ClassVar[str] = "direction"  # of the model that personal ones are drawn to
    additive: ClassVar[bool] = True

    lam: float = hyper(15.0, "strength of the pull between personal and local model", low=1e-12)
    inner_steps: int = hyper(5, "steps K of the personal model on each batch", low=0)
    personal_lr: float = hyper(0.09, "rate eta_p of the personal model", low=0)
    beta: float = hyper(1.0, "server step", low=0)

    @property
    def server_step(self) -> float:  # type: ignore[override]  # depends on a parameter, as SCAFFOLD's
        return self.beta

    def check(self, task: Task) -> None:
        if self.personal_lr * self.lam >= 2:
            raise UsageError(
                f"--set personal_lr={self.personal_lr:g} lam={self.lam:g}: a pull of {self.personal_lr * self.lam:g} a "
                "step throws personal models away from their target; keep personal_lr times lam below 2"
            )
        if not task.plain_sgd:
            raise UsageError(
                "--method pfedme assumes plain SGD: leave out --momentum, --weight-decay, --clip-grad, --client-opt"
            )

    def init(self, task: Task) -> State:
        return replace(super().init(task), client={"theta": task.w0.repeat(task.n_clients, 1)})

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        w, theta = self._both(down.w, trainer.lr * self.lam, client, trainer)
        return Upload(w, own={"theta": theta})

    def _both(self, w: Tensor, reach: float, client: ClientData, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """w_i, which goes so far to theta_i behind every batch, and theta_i."""
        theta = w
        for batch in trainer.batches(client.train):
            theta = trainer.sgd(theta, batch, epochs=self.inner_steps, lr=self.personal_lr, pull=(w, self.lam))
            w = stepped(w, theta, reach, trainer.layout.trainable)
        return w, theta

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        ids, w = [u.client for u in uploads], state.server["w"]
        mean, p = server.average([u.w for u in uploads], server.weights(ids), ids, w)
        w = stepped(w, mean, self.beta, server.task.layout.trainable)
        return self.next_state(state, uploads, server, {"w": w, "p": spread(p, uploads, server.task)})

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [state.client["theta"][i] for i in ids]

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer's personal model, with the global one held where it is."""
        joined = super().join(state, client, trainer, task)
        _, theta = self._both(joined.arrival, 0.0, client, trainer)
        return replace(joined, model=theta, own={"theta": theta})
