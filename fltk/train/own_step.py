"""The own step: what a client does with its personal model before it uses it, chosen by a vote of the federation.

fltk's own rule. Its ingredients are published: tuning the last layer over a frozen base (arXiv:2002.04758), and the
label prior in the logits (`fltk.train.prior`, as in logit adjustment, arXiv:2007.07314). Eight candidates make the
used model from the personal model u_i that a method leaves to client i:

    mixed                u_i                                          as it is
    mixed-prior          u_i + o_i                                    o_i: the client's label prior in the output bias
    head10[-prior]-wW    s + W (tuned(s) - s),  W in {1, .75, .5}     s = u_i or u_i + o_i; tuned: 10 epochs of the head

In a voting round, participants score all eight on their validation data and send accuracy and loss of each (64 bytes).
Votes are cast in every fifth round, in a client's second round, and when its last vote is older than five rounds. The
server keeps each client's votes in sums that decay by .8 a vote. The federation's mean weighs a client by .8 to the
number of rounds since its last vote. Chosen is the candidate with the lowest mean loss among those whose mean accuracy
is within .01 of the best. Without a vote it is `mixed`. The used model is never fed back: the next start is u_i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.errors import Diverged
from fltk.partition.federation import ClientData
from fltk.train.losses import Batch, Given, Net
from fltk.train.prior import in_bias, log_prior
from fltk.train.trainer import Trainer

WORK = {"ft1": (1.0, "all"), "ft5": (5.0, "all"), "head10": (10.0, "head")}  # epochs, and the part that is tuned

EVERY = 5  # rounds between two votes of a client
MEMORY = 0.8  # weight of a vote at the client's next vote; also of a client's votes after one more round
MARGIN = 0.01  # candidates whose mean accuracy is this close to the best are told apart by their loss
MOST_LOSS = 5.0  # a larger loss is counted as this one: a client has few validation samples
BYTES = 64  # of a vote: accuracy and loss of eight candidates in float32

PREFIX = "own-step."  # of the votes' names in `State.server`


@dataclass(frozen=True)
class Candidate:
    """One way to use a personal model: a kind of tuning, with or without the label prior, a share `w` of the way."""

    kind: str
    prior: bool = False
    w: float = 1.0

    @property
    def name(self) -> str:
        prior = "-prior" if self.prior else ""
        share = f"-w{self.w:g}" if self.w != 1 else ""
        return self.kind + prior + share


CANDIDATES = (  # a vote names them by their place; first all without the prior, then all with it
    Candidate("mixed"),
    Candidate("head10"),
    Candidate("head10", w=0.75),
    Candidate("head10", w=0.5),
    Candidate("mixed", prior=True),
    Candidate("head10", prior=True),
    Candidate("head10", prior=True, w=0.75),
    Candidate("head10", prior=True, w=0.5),
)


def label_offset(client: ClientData, pooled: Tensor, trainer: Trainer) -> Tensor:
    """o_i (P,): the label prior of a client's training data in the output bias. pooled: (C,) samples of all clients."""
    counts = torch.bincount(client.train.y, minlength=len(pooled))
    return in_bias(trainer.layout, log_prior(counts[None], pooled)[0].float())


def adapted(
    u: Tensor, offset: Tensor, client: ClientData, trainer: Trainer, candidates: Sequence[Candidate]
) -> list[Tensor]:
    """The models (P,) that candidates make of a personal model; equal tuning is done once. Raises Diverged."""
    tuned: dict[tuple[str, bool], Tensor] = {}
    models = []
    for candidate in candidates:
        start = u + offset if candidate.prior else u
        if candidate.kind not in WORK:
            models.append(start)
            continue

        key = candidate.kind, candidate.prior
        if key not in tuned:
            prior = offset if candidate.prior else None
            tuned[key] = _tuned(u, prior, client, trainer, WORK[candidate.kind])
        models.append(between(start, tuned[key], candidate.w))
    return models


def _tuned(u: Tensor, prior: Tensor | None, client: ClientData, trainer: Trainer, work: tuple[float, str]) -> Tensor:
    """`u` (P,) with the prior in its bias, after some epochs on a part. Weight decay does not wear the prior down."""
    epochs, part = work
    config = trainer.config
    if prior is None:
        return trainer.sgd(u, client.train, epochs=epochs, only=part)

    decay = config.weight_decay
    if decay and (config.client_opt == "adamw" or config.clip_grad):
        # AdamW's decay is no part of the gradient, and clipping scales a drift: here the prior stays in the loss
        given = {"prior": prior}
        return trainer.sgd(u, client.train, epochs=epochs, only=part, loss=_with_prior, given=given) + prior
    drift = -decay * prior if decay else None
    return trainer.sgd(u + prior, client.train, epochs=epochs, only=part, drift=drift)


def _with_prior(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
    """Cross-entropy (n,) of the model with the prior in its bias."""
    return F.cross_entropy(net(w + given["prior"], batch.x), batch.y, reduction="none")


def between(start: Tensor, tuned: Tensor, w: float) -> Tensor:
    """start + w (tuned - start), (P,); its ends are the models themselves."""
    if w in (0, 1):
        return tuned if w else start
    return torch.lerp(start, tuned, w)


def used(u: Tensor, choice: int, client: ClientData, trainer: Trainer, pooled: Tensor) -> Tensor:
    """The model (P,) that a client uses under the federation's choice; u itself where tuning diverges."""
    if choice == 0:
        return u
    offset = label_offset(client, pooled, trainer)
    try:
        return adapted(u, offset, client, trainer, [CANDIDATES[choice]])[0]
    except Diverged:
        return u


def ballot(u: Tensor, client: ClientData, trainer: Trainer, pooled: Tensor) -> Tensor | None:
    """A client's vote (2, 8) float64: validation accuracies and losses of the candidates. None without such data."""
    if not len(client.val):
        return None
    offset = label_offset(client, pooled, trainer)
    votes = torch.zeros(2, len(CANDIDATES), dtype=torch.float64)
    votes[1] = MOST_LOSS

    half = len(CANDIDATES) // 2
    for numbers in (range(half), range(half, len(CANDIDATES))):
        try:
            models = adapted(u, offset, client, trainer, [CANDIDATES[k] for k in numbers])
        except Diverged:  # these candidates keep the worst vote
            continue
        for k, model in zip(numbers, models, strict=True):
            found = trainer.score(model, client.val)
            votes[0, k], votes[1, k] = found.accuracy, found.loss
    return votes


@dataclass(frozen=True)
class Votes:
    """What the server keeps of all votes, N clients."""

    sums: Tensor  # (N, 3, 8) float64: decayed sums of accuracies, of losses, and of ones
    voted: Tensor  # (N,) int64, the round of the last vote, -1 for never

    @staticmethod
    def none_yet(n: int) -> Votes:
        return Votes(torch.zeros(n, 3, len(CANDIDATES), dtype=torch.float64), torch.full((n,), -1))

    @staticmethod
    def of(server: Mapping[str, Tensor]) -> Votes | None:
        """The votes in a state's server tensors; None where the run has no vote."""
        if PREFIX + "sums" not in server:
            return None
        return Votes(server[PREFIX + "sums"], server[PREFIX + "voted"])

    def tensors(self) -> dict[str, Tensor]:
        """By their names in `State.server`."""
        return {PREFIX + "sums": self.sums, PREFIX + "voted": self.voted}

    def due(self, ids: Sequence[int], last: Tensor, round: int) -> list[int]:
        """The participants that are asked to vote in a round. last: (N,) the last rounds of participation before it."""
        regular = round % EVERY == EVERY - 1
        asked = []
        for i in ids:
            voted = int(self.voted[i])
            overdue = voted < 0 or round - voted > EVERY
            if int(last[i]) >= 0 and (regular or overdue):  # before its first round a client has theta^0 to vote on
                asked.append(i)
        return asked

    def counted(self, ballots: Mapping[int, Tensor], round: int) -> Votes:
        """The votes with those of a round, by client; a vote with a value that is not finite is left out."""
        sums, voted = self.sums.clone(), self.voted.clone()
        for i in sorted(ballots):
            accuracy, loss = ballots[i]
            if not bool(torch.isfinite(ballots[i]).all()):
                continue
            vote = torch.stack([accuracy.clamp(0, 1), loss.clamp(0, MOST_LOSS), torch.ones_like(loss)])
            sums[i] = MEMORY * sums[i] + vote
            voted[i] = round
        return Votes(sums, voted)

    def choice(self) -> int:
        """The number of the chosen candidate, 0 (mixed) before any vote."""
        voters = self.voted >= 0
        if not bool(voters.any()):
            return 0
        age = (self.voted.max() - self.voted[voters]).double()
        weight = MEMORY**age / (MEMORY**age).sum()

        means = self.sums[voters, :2] / self.sums[voters, 2:]  # (voters, 2, 8)
        accuracy, loss = torch.einsum("k,kab->ab", weight, means)
        near_best = accuracy >= accuracy.max() - MARGIN
        return int(loss.masked_fill(~near_best, math.inf).argmin())

    def enlarged(self, total: int) -> Votes:
        """With clients that have joined, who have not voted."""
        more = Votes.none_yet(total - len(self.voted))
        return Votes(torch.cat([self.sums, more.sums]), torch.cat([self.voted, more.voted]))


def choice_of(server: Mapping[str, Tensor]) -> int:
    """The chosen candidate in a state's server tensors, 0 where the run has no vote."""
    votes = Votes.of(server)
    return 0 if votes is None else votes.choice()
