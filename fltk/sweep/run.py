"""A whole sweep: what is missing is played, what is unfinished goes on, what is done stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fltk.errors import UsageError
from fltk.evaluation.deploy import Deployment
from fltk.experiment import Place
from fltk.registry import Store
from fltk.sweep.cells import Cell, cells
from fltk.sweep.grid import Plan
from fltk.sweep.play import Errand, Event, Tell, needs_evaluation
from fltk.sweep.state import CHANGED, DONE, FAILED, RUNNING, CellState, states
from fltk.sweep.workers import send

if TYPE_CHECKING:
    from fltk.sweep.search import Study, Trial

Announce = Callable[[Sequence[CellState]], None]
OnTrial = Callable[["Study", "Trial"], None]


@dataclass(frozen=True)
class Outcome:
    """The cells after a sweep, and why some failed (by digest): in training, or in the evaluation of a finished run."""

    cells: tuple[CellState, ...]
    failures: dict[str, str]


def deployment(plan: Plan) -> Deployment | None:
    """What [evaluate] asks for; UsageError for what there is not."""
    asked = plan.deploy
    if asked is None:
        return None
    default = Deployment().asked()
    try:
        return Deployment(*({**default, **asked}[key] for key in ("deploy", "deploy_prior", "deploy_w")))
    except UsageError as error:
        raise UsageError(f"{plan.path} [evaluate]: {error}") from None


def known(plan: Plan, place: Place, store: Store | None) -> list[Cell]:
    """The cells that are known without playing; a search knows those of the trials that it has begun."""
    found = cells(plan, place)
    if plan.trials and store is not None:
        from fltk.sweep.search import begun

        found += begun(plan, place, store)
    return found


def expected(plan: Plan, place: Place) -> int:
    """How many cells a sweep comes to; of a search an upper bound, since trials may meet in a cell."""
    count = len(cells(plan, place))
    if plan.trials:
        from fltk.sweep.search import asked

        count += asked(plan)
    return count


def run(
    plan: Plan,
    db: str,
    place: Place,
    *,
    jobs: int = 1,
    rerun_changed: bool = False,
    tell: Tell = lambda event: None,
    announce: Announce = lambda found: None,
    on_trial: OnTrial = lambda study, trial: None,
) -> Outcome:
    """Play a sweep into the registry `db`, `jobs` cells at once. `announce` is told of cells before they are played.

    on_trial: is told of each trial of a search when it is over.
    rerun_changed: cells that were finished with other code of their method are played again.
    UsageError for a file that cannot be played at all; a cell that fails is an entry of the outcome.
    """
    if rerun_changed and plan.trials:
        raise UsageError(f"--rerun-changed: {plan.path} is a search, whose values rest on the old code; use a new file")
    stays = (DONE, RUNNING) if rerun_changed else (DONE, CHANGED, RUNNING)
    deploy = deployment(plan)
    failures: dict[str, str] = {}

    def hear(event: Event) -> None:
        if event.kind == FAILED:
            failures[event.digest] = event.message
        tell(event)

    with Store(db, create=True) as store:

        def play_all(found: Sequence[Cell]) -> None:
            now = states(store, found)
            announce(now)
            left = [state.cell for state in now if state.state not in stays]
            errands = [Errand(cell, again=rerun_changed) for cell in left]
            send(errands, store, db, place, plan.name, jobs, hear)

        found = cells(plan, place)
        if found:
            play_all(found)
        if plan.trials:
            from fltk.sweep.search import begun, search

            announce(states(store, begun(plan, place, store)))
            found += search(plan, place, store, jobs, play_all, on_trial)
        if deploy is not None:
            # After the last cell: the scores of `local` on the same data stand in the evaluation of the others.
            errands = _evaluations(store, states(store, found), deploy)
            send(errands, store, db, place, plan.name, jobs, hear)
        return Outcome(tuple(states(store, found, failures)), failures)


def _evaluations(store: Store, found: Sequence[CellState], deploy: Deployment) -> list[Errand]:
    """An errand for each cell whose run lacks this evaluation."""
    errands = []
    for state in found:
        if state.run is not None and needs_evaluation(store, state.run, deploy):
            errands.append(Errand(state.cell, deploy))
    return errands
