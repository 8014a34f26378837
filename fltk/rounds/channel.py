"""A round's uploads on their way through the channel: what arrives, how many bytes that is, and what was not sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fltk.channel import Channel
from fltk.engine.base import Job
from fltk.protocol.messages import Down, Upload
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.rounds.terms import parameters_of

RESIDUAL = "channel."  # (N, d) by model: what clients have not sent yet
MODEL = "w"  # the model that every client sends


@dataclass(frozen=True)
class Arrived:
    """The uploads as they arrive, and what is remembered of what did not."""

    uploads: list[Upload]
    residuals: Mapping[str, Tensor]


def through(
    job: Job, task: Task, state: State, downs: Mapping[int, Down], uploads: Sequence[Upload], round: int
) -> Arrived:
    """Every model that clients send, filtered: the one of all, and further ones where methods have some."""
    channel = job.channel
    known = {name: tensor for name, tensor in state.server.items() if name.startswith(RESIDUAL)}
    if channel is None or channel.lossless:
        return Arrived(list(uploads), known)

    sender = _Sender(job, channel, round, parameters_of(job, task), task.n_clients, known)
    arrived = []
    references = job.method.references(state, [downs[u.client] for u in uploads], uploads, task)
    for upload, reference in zip(uploads, references, strict=True):
        sent = sender.filtered(upload, MODEL, reference)
        for name, source in job.method.also_sent.items():
            start = downs[upload.client].server.get(source)
            if name in upload.sent and start is not None:
                sent = sender.filtered(sent, name, start)
        arrived.append(sent)
    return Arrived(arrived, sender.residuals)


class _Sender:
    """Sends models through the channel, and keeps what every client has not sent."""

    def __init__(
        self, job: Job, channel: Channel, round: int, parameters: int, n: int, known: Mapping[str, Tensor]
    ) -> None:
        """parameters: the trainable columns, which come first; the buffers after them travel as they are."""
        self._streams, self._channel, self._round = job.streams(), channel, round
        self._d, self._n = parameters, n
        self.residuals = {name: tensor.clone() for name, tensor in known.items()}

    def filtered(self, upload: Upload, name: str, reference: Tensor) -> Upload:
        """The upload with one of its models as it arrives, and with the bytes that it takes."""
        d = self._d
        row = upload.w if name == MODEL else upload.sent[name]
        kept = self._residual(name) if self._channel.remembers else None
        before = None if kept is None else kept[upload.client]

        generator = self._streams.generator(f"channel/{name}", self._round, upload.client)
        packed, left = self._channel.send(row[:d] - reference[:d], before, generator)
        if kept is not None and left is not None:
            kept[upload.client] = left

        new = torch.cat([reference[:d] + packed.values, row[d:]])
        nbytes = upload.nbytes - 4 * d + packed.nbytes
        if name == MODEL:
            return replace(upload, w=new, nbytes=nbytes)
        return replace(upload, sent={**upload.sent, name: new}, nbytes=nbytes)

    def _residual(self, name: str) -> Tensor:
        """(N, d) what clients have not sent of a model, zero at first."""
        key = f"{RESIDUAL}{name}"
        if key not in self.residuals:
            self.residuals[key] = torch.zeros(self._n, self._d)
        return self.residuals[key]
