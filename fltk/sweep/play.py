"""Playing cells: one after another in this process, or several at once in processes of their own.

A cell that fails is told and left; the others go on. Every worker opens the registry itself. The row of a run is the
claim on its cell: of several sweeps one gets it, and when its process is gone, another one takes the run over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fltk import experiment
from fltk.config import PartitionConfig
from fltk.errors import FltkError
from fltk.evaluation.deploy import Deployment
from fltk.evaluation.stored import evaluate_run
from fltk.experiment import Place, Prepared
from fltk.own_code import blame
from fltk.registry import RunRow, Store
from fltk.registry.attempts import Claimed
from fltk.resume import Changed, resume
from fltk.rounds.loop import RoundDone
from fltk.sweep.cells import Cell
from fltk.sweep.state import DONE, FAILED, RUNNING, best_run, finished_otherwise, run_of

STARTED = "started"
ROUND = "round"
NOTE = "note"
EVALUATING = "evaluating"
EVALUATED = "evaluated"
UNDECIDED = "there are no validation data, so that no deployment was chosen"
TAG = "sweep"


@dataclass(frozen=True)
class Event:
    """News of a cell, by its digest: started, round, note, done, running (elsewhere), evaluating, evaluated or
    failed.
    """

    digest: str
    kind: str
    run: int | None = None
    round: int = 0
    message: str = ""


Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Errand:
    """What a worker is asked: play a cell, or evaluate its finished run (`deploy`).

    again: also play it where it is finished, but with other code of its method.
    """

    cell: Cell
    deploy: Deployment | None = None
    again: bool = False


@dataclass
class Player:
    """Plays errands in one process; keeps the last federation, since cells on the same data come together."""

    store: Store
    place: Place
    name: str
    tell: Tell
    dealt: PartitionConfig | None = None
    prepared: Prepared | None = None
    noted: dict[int, set[str]] = field(default_factory=dict)  # what was told of each run, so that it is told once

    def __call__(self, errand: Errand) -> None:
        """Play or evaluate; whatever goes wrong becomes an event, but for a signal."""
        digest = errand.cell.digest
        try:
            if errand.deploy is None:
                self._play(errand.cell, errand.again)
            else:
                self._evaluate(errand.cell, errand.deploy)
        except Claimed as claimed:  # another sweep was faster
            run = self.store.find_run(claimed.run)
            self.tell(Event(digest, DONE if run.status == DONE else RUNNING, run.id, run.rounds_done))
        except FltkError as error:
            self.tell(Event(digest, FAILED, message=str(error)))
        except Exception as error:  # a bug in one method must not cost the others their night
            told = blame(error) or f"internal error: {type(error).__name__}: {error}"
            self.tell(Event(digest, FAILED, message=str(told)))

    def _play(self, cell: Cell, again: bool) -> None:
        run = run_of(self.store, cell)
        if again and run is not None and finished_otherwise(run):
            run = self._begun_since(cell, run)
        if run is not None and run.status in (DONE, RUNNING):
            self.tell(Event(cell.digest, run.status, run.id))
            return
        number = self._train(cell) if run is None or not self._resume(cell, run) else run.id
        self.tell(Event(cell.digest, DONE, number))

    def _begun_since(self, cell: Cell, finished: RunRow) -> RunRow | None:
        """The latest unfinished run of a cell that began after a finished one."""
        later = [run for run in self.store.runs(config_hash=cell.digest) if run.id > finished.id and run.status != DONE]
        return later[-1] if later else None

    def _resume(self, cell: Cell, run: RunRow) -> bool:
        """Continue an unfinished run; False when the code changed since, so that it has to be started anew."""
        place = replace(self.place, device=self.store.environment(run.id).get("device", self.place.device))
        self.tell(Event(cell.digest, STARTED, run.id, run.rounds_done))
        try:
            resume(run, self.store, place, lambda done: self._told(cell, run.id, done))
        except Changed:
            return False
        return True

    def _train(self, cell: Cell) -> int:
        if self.prepared is None or self.dealt != cell.config.partition:
            self.prepared, self.dealt = None, cell.config.partition
            self.prepared = experiment.prepare(cell.config.partition, self.place, self.store)
        twin = best_run(self.store.runs(config_hash=cell.twin)) if cell.twin else None
        if cell.twin and twin is None:
            raise FltkError("the same run without attackers has failed, and there is nothing to compare with")
        numbers: list[int] = []

        def started(run: int) -> None:
            numbers.append(run)
            if self.name:
                self.store.set_tag(run, TAG, self.name)
            self.tell(Event(cell.digest, STARTED, run))

        return experiment.train(
            cell.config,
            self.prepared,
            self.store,
            self.place,
            origin=cell.origin(),
            on_round=lambda done: self._told(cell, numbers[0], done),
            started=started,
            twin=None if twin is None else twin.id,
            claim=True,
        )

    def _told(self, cell: Cell, run: int, done: RoundDone) -> None:
        for text in done.notes:
            if text not in self.noted.setdefault(run, set()):
                self.noted[run].add(text)
                self.tell(Event(cell.digest, NOTE, run, done.round, text))
        self.tell(Event(cell.digest, ROUND, run, done.round))

    def _evaluate(self, cell: Cell, deploy: Deployment) -> None:
        run = run_of(self.store, cell)
        if run is not None and needs_evaluation(self.store, run, deploy):
            self.tell(Event(cell.digest, EVALUATING, run.id, run.rounds_done))
            if evaluate_run(self.store, run, self.place, deploy, once=True).undecided:
                self.tell(Event(cell.digest, NOTE, run.id, run.rounds_done, UNDECIDED))
            self.tell(Event(cell.digest, EVALUATED, run.id))


def needs_evaluation(store: Store, run: RunRow, deploy: Deployment) -> bool:
    """Whether a finished run has no stored evaluation of its last round with this deployment."""
    if run.status != DONE:
        return False
    return not any(e.round == run.rounds_done and deploy.made(e.summary) for e in store.evaluations(run.id))


def play(errands: Sequence[Errand], store: Store, place: Place, name: str, tell: Tell) -> None:
    """Play errands one after another in this process."""
    player = Player(store, place, name, tell)
    for errand in errands:
        player(errand)
