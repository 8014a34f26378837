"""Which runs a command is about: named one by one, or by the filters of `fltk runs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fltk import catalogue, own_data
from fltk.cli.command import Option
from fltk.errors import FltkError, UsageError, unknown
from fltk.names import IMPORTED, KINDS, canonical

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store

F = TypeVar("F", bound=Callable[..., Any])

ALL = "all"
FILTERS = ("method", "dataset", "status", "tag", "where", "kind")


best_on_option = click.option(
    "--best-on",
    type=click.Choice(["val"]),
    cls=Option,
    section="Filter",
    help="only the best trial of each method in each setting, by mean validation accuracy over the seeds: what differs "
    "in learning rate, momentum and hyper-parameters competes; rounds, epochs, batch size and participation do not",
)


def filter_options(kind: str, status: str) -> Callable[[F], F]:
    """Add RUN... and the filters; empty defaults mean all. The command receives `run` and the names in FILTERS."""

    def decorate(function: F) -> F:
        for option in reversed(_options(kind, status)):
            function = option(function)
        return click.argument("run", nargs=-1)(function)

    return decorate


def _options(kind: str, status: str) -> list[Callable[[F], F]]:
    def make(name: str, text: str, default: str | None = None, **more: Any) -> Callable[[F], F]:
        shown = f"{text} [default: {default or 'all'}]" if name in ("--kind", "--status") else text
        return click.option(name, cls=Option, section="Filter", show_default=False, help=shown, **more)

    return [
        make("--method", "only runs of this method, or of several separated by commas"),
        make("--dataset", "only runs on this data set, or on several separated by commas"),
        make("--status", "done, running, interrupted, failed, stale or all", status),
        make("--tag", "only runs with this tag", metavar="KEY[=VALUE]"),
        make(
            "--where",
            "condition on the configuration such as alpha<0.5, repeatable",
            multiple=True,
            metavar="CONDITION",
        ),
        make("--kind", f"{', '.join(KINDS)} or all", kind),
    ]


def select_runs(
    store: Store, refs: Sequence[str], filters: dict[str, Any], to: str, *, kind: str = ALL, status: str = ALL
) -> list[RunRow]:
    """The named runs, each once, or all that fulfil the filters; `kind` and `status` are the filters' defaults.

    FltkError where there are none; `to` says in it what they were wanted for, such as compare.
    """
    if refs:
        given = [name for name in FILTERS if filters[name]]
        if given:
            raise UsageError(f"--{given[0]} does not go with named runs; leave one of them out")
        return list({run.id: run for run in store.find_runs(refs)}.values())
    kind, status = check_kind(filters["kind"] or kind), filters["status"] or status
    found = store.runs(status=None if status == ALL else status, tag=filters["tag"], where=filters["where"])
    chosen = named(found, filters["method"], filters["dataset"], kind)
    if not chosen:
        what = " ".join(word for word in ("finished" if status == "done" else status, kind) if word != ALL)
        raise FltkError(
            f"no run to {to}: no {what + ' ' if what else ''}run fulfils the filters; loosen them, name runs, "
            f"or make some with {KINDS.get(kind, 'fltk train')}"
        )
    return chosen


def runs_to_draw(
    store: Store, refs: Sequence[str], filters: dict[str, Any], best_on: str | None
) -> tuple[list[RunRow], Sequence[str]]:
    """The runs of a figure that compares finished training runs, and notes on how they were chosen.

    Runs that are named are drawn as they are, also unfinished ones. UsageError where neither a run nor a filter is
    given: a figure of all runs of a registry would be a mistake.
    """
    from fltk.evaluation.tuning import arrange_best, best_trials

    if not (refs or best_on or any(filters[name] for name in FILTERS)):
        raise UsageError(
            "name runs such as run1 run2, or choose them with --best-on val, --method, --tag, --where, ..."
        )
    found = select_runs(store, refs, filters, "draw", kind="train", status="done")
    if best_on is None:
        return found, ()
    tuning = best_trials(found)
    return tuning.runs, arrange_best(tuning).notes


def named(found: Sequence[RunRow], method: str | None, dataset: str | None, kind: str) -> list[RunRow]:
    """The runs with one of the methods, on one of the data sets, of the kind; UsageError for a name that is none."""
    methods = _names(method, "method", (*catalogue.names("method"), *(run.method for run in found)))
    datasets = _names(dataset, "dataset", (*catalogue.names("dataset"), IMPORTED, *(run.dataset for run in found)))
    chosen = []
    for run in found:
        fits = not methods or run.method in methods
        fits &= not datasets or run.dataset in datasets
        fits &= kind in (ALL, run.kind)
        if fits:
            chosen.append(run)
    return chosen


def check_kind(kind: str) -> str:
    """The same; UsageError for what is no kind of run, also where the registry has none of a kind yet."""
    if kind not in (ALL, *KINDS):
        raise unknown("kind", kind, (ALL, *KINDS), "--kind")
    return kind


def _names(text: str | None, option: str, known: Iterable[str]) -> set[str]:
    """The names in a list separated by commas; UsageError for one that does not exist."""
    there = list(dict.fromkeys(known))
    chosen: set[str] = set()
    for word in (text or "").split(","):
        name = canonical(word.strip(), there)
        if not name:
            continue

        # Own code and data are stored with a hash: without it a name means all their versions.
        versions = [one for one in there if name in (one, catalogue.split(one)[0], own_data.split(one)[0])]
        if not versions:
            raise unknown("data set" if option == "dataset" else option, name, there, f"--{option}")
        chosen.update(versions)
    return chosen
