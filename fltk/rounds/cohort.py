"""The clients of a round at work: what goes to them, where what they make of it is put, and what the server gets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from fltk.engine.base import Engine
from fltk.engine.work import Part, TrainTask, Weighted, add_up, put, train_client, train_weighted, whole
from fltk.memory.shared import MOST, SHELF, written_anew
from fltk.memory.undo import Undo
from fltk.protocol.averaging import equal_weights, parts
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Sums
from fltk.protocol.state import State
from fltk.protocol.task import Task


@dataclass(frozen=True)
class Cohort:
    """The participants of a round, ascending, and what was sent down to each."""

    method: Method
    task: Task
    round: int
    ids: Sequence[int]
    downs: Sequence[Down]
    voted: Mapping[int, Tensor] = field(default_factory=dict)  # by client: the personal model that it votes on

    @staticmethod
    def of(method: Method, task: Task, state: State, ids: Sequence[int], round: int) -> Cohort:
        """Clients that train from what the method sends down in a state."""
        return Cohort(method, task, round, ids, method.downlink(state, ids, task))

    @property
    def bytes_down(self) -> int:
        """What was sent down to all of them, on the wire."""
        return sum(down.nbytes(self.task.layout, self.method.columns) for down in self.downs)

    def trained(self, engine: Engine, room: Tensor | None = None) -> tuple[list[Upload], list[float]]:
        """Their uploads and training losses, in client-id order.

        room: a matrix (K, P) for the uploads, if there is one. What was sent down may lie there.
        """
        matrices = self._matrices(self.downs[0].own)
        width = self.task.layout.width(self.method.columns.travels)
        matrices["w"] = SHELF.matrix(len(self.ids), width) if room is None else room
        tasks = self._tasks(matrices)

        def take(k: int, result: tuple[Upload, float]) -> tuple[Upload, float]:
            upload, loss = result
            rows = {name: matrix[k] for name, matrix in matrices.items()}
            rest = put(upload, {name: row for name, row in rows.items() if name not in tasks[k].into}, self.downs[k])
            return whole(_cloned(rest), rows), loss

        results = engine.map(train_client, tasks, [int(self.task.n[i]) for i in self.ids], take)
        return [upload for upload, _ in results], [loss for _, loss in results]

    def added_up(self, engine: Engine, state: State, undo: Undo) -> tuple[list[Upload], list[float], Sums]:
        """The same with uploads of which only their sums are left: they are added up where they come from.

        What clients keep goes to its place as it comes; where that is in `state` itself, `undo` can have it back.
        """
        weights = (equal_weights(len(self.ids)) if self.method.equal else self.task.weights(self.ids)).tolist()
        small = [name for name, rows in state.client.items() if rows.nbytes <= MOST]
        tasks = self._tasks(self._matrices(small))
        given = [Weighted(one, p) for one, p in zip(tasks, weights, strict=True)]
        cuts = parts(len(tasks))
        sizes = [int(self.task.n[list(self.ids[cut])].sum()) for cut in cuts]
        taken = _Taken(state.client, len(tasks), undo)
        for k, part in engine.fold(train_weighted, add_up, [given[cut] for cut in cuts], sizes):
            taken.take(k, part, tasks[cuts[k]])
        return taken.all()

    def _matrices(self, names: Collection[str]) -> dict[str, Tensor]:
        """Room for what the clients keep under these names: (K, size) each.

        As rows of one matrix they can become the next state's without being copied.
        """
        sizes = {name: len(row) for name, row in self.downs[0].own.items() if row.dim() == 1 and name in names}
        return {name: SHELF.matrix(len(self.ids), size) for name, size in sizes.items()}

    def _tasks(self, matrices: Mapping[str, Tensor]) -> list[TrainTask]:
        """Everybody's work, with the rows of those matrices that workers can reach."""
        reached = {name: matrix for name, matrix in matrices.items() if SHELF.place(matrix[0]) is not None}
        tasks = []
        for k, (client, down) in enumerate(zip(self.ids, self.downs, strict=True)):
            into = {name: matrix[k] for name, matrix in reached.items()}
            tasks.append(TrainTask(self.round, client, down, into, self.voted.get(client)))
        return tasks


def _cloned(upload: Upload) -> Upload:
    """An upload whose tensors are its own, but for the model, which has a place."""
    sent, own = ({name: tensor.clone() for name, tensor in some.items()} for some in (upload.sent, upload.own))
    ballot = None if upload.ballot is None else upload.ballot.clone()
    return replace(upload, sent=sent, own=own, ballot=ballot)


class _Taken:
    """What has come of a round so far, part by part, whatever order these come in."""

    def __init__(self, before: Mapping[str, Tensor], count: int, undo: Undo) -> None:
        """`count` clients come, and what they kept is `before`."""
        self._before, self._count, self._undo = before, count, undo
        self._parts: dict[int, Part] = {}
        self._early: dict[int, Mapping[str, Tensor]] = {}  # sums whose turn has not come
        self._turn = 0
        self._totals: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def take(self, k: int, part: Part, tasks: Sequence[TrainTask]) -> None:
        """Takes in part k, the work of `tasks`; its tensors may be gone afterwards."""
        for upload in part.uploads:
            for name, row in upload.own.items():
                self._keep(name, upload.client, row)
        uploads = []
        for task, upload in zip(tasks, part.uploads, strict=True):
            ballot = None if upload.ballot is None else upload.ballot.clone()
            uploads.append(whole(replace(upload, own={}, ballot=ballot), task.into))
        self._parts[k] = Part({}, uploads, part.losses)
        now = k == self._turn
        self._early[k] = part.totals if now else {name: total.clone() for name, total in part.totals.items()}
        while self._turn in self._early:
            for name, total in self._early.pop(self._turn).items():
                self._totals[name] = self._totals[name].add_(total) if self._turn else total.clone()
            self._turn += 1

    def all(self) -> tuple[list[Upload], list[float], Sums]:
        """Everything, in client-id order."""
        found = [self._parts[k] for k in sorted(self._parts)]
        uploads = [upload for part in found for upload in part.uploads]
        totals = {name: total.float() for name, total in self._totals.items()}
        return uploads, [loss for part in found for loss in part.losses], Sums(totals, self._kept)

    def _keep(self, name: str, client: int, row: Tensor) -> None:
        """A row to its place: in a copy of the clients' rows, or if these are very large where it was."""
        before = self._before[name]
        if name not in self._kept:
            in_place = before.nbytes > MOST and self._undo.room(before)
            self._kept[name] = before if in_place else written_anew(before, self._count)
        if self._kept[name] is before:
            self._undo.put(before, client, row)
        else:
            self._kept[name][client] = row
