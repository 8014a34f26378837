"""The trials of a search, as a table and as a figure: how good each is, the best so far, and which setting mattered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import epilog
from fltk.cli.context import Settings
from fltk.cli.figures import figure_name, figure_options, write_figure
from fltk.cli.output import Column, emit
from fltk.cli.runs import short_names
from fltk.errors import FltkError, UsageError

if TYPE_CHECKING:
    from fltk.plots.search import SearchPanel
    from fltk.sweep.grid import Plan
    from fltk.sweep.search import Study, Trial

HEAD = [Column("search"), Column("trial")]
TAIL = [Column("val", "val acc", 4, "max"), Column("best", "best so far", 4)]


def trial_line(study: Study, trial: Trial) -> str:
    """What is said of a trial that is over: its number, its values, and the best so far."""
    drawn = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.params.items())
    how = "failed" if trial.value is None else f"val {trial.value:.4f}"
    best = "" if study.best is None else f"; best {study.best.value:.4f} in trial {study.best.number}"
    return f"{study.label}: trial {trial.number} ({study.over} of {study.asked}): {drawn}: {how}{best}"


def emit_trials(plan: Plan, settings: Settings, format: str) -> None:
    """All trials of a search as a table; which settings mattered, and where the trials are kept, on stderr."""
    found = studies_of(plan, settings)
    keys = list(dict.fromkeys(key for study in found for trial in study.trials for key in trial.params))
    drawn = [Column(key, name) for key, name in short_names(keys).items()]
    emit([row for study in found for row in _rows(study)], [*HEAD, *drawn, *TAIL], format)
    for study in found:
        if study.importance:
            told = ", ".join(f"{key.rpartition('.')[2]} {share:.0%}" for key, share in study.importance.items())
            settings.say(f"{study.label}: share of the differences that each setting explains: {told}")
    settings.say(f"optuna-dashboard {found[0].storage} shows these trials")


def studies_of(plan: Plan, settings: Settings) -> list[Study]:
    """The studies of a search that has begun; UsageError for a file that searches for nothing."""
    from fltk.registry import Store
    from fltk.sweep.search import studies

    if not plan.trials:
        raise UsageError(f"{plan.path} is no search: it has no [search] with trials = 20, for example")
    with Store(settings.db, readonly=True) as store:
        found = studies(plan, store)
    if not any(study.trials for study in found):
        raise FltkError(f"{plan.path} has no trial yet; fltk sweep {plan.path} begins with them")
    return found


def _rows(study: Study) -> list[dict[str, Any]]:
    rows, best = [], None
    for trial in study.trials:
        if trial.value is not None:
            best = trial.value if best is None else max(best, trial.value)
        rows.append({"search": study.label, "trial": trial.number, **trial.params, "val": trial.value, "best": best})
    return rows


@click.command("search", epilog=epilog("fltk plot search search.toml", "fltk plot search search.toml -o search.pdf"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@figure_options
@click.pass_obj
def search_figure(settings: Settings, file: Path, output: Path | None, data: Path | None, width: str | None) -> None:
    """Trials of a search: their validation accuracy, the best so far, and which setting mattered.

    FILE is the file of a sweep with [search]. One row of panels for each method, and for each of its settings. What
    mattered is the share of the differences between trials that each setting explains (fANOVA), from four trials on.
    """
    from fltk.plots.search import search_panels
    from fltk.plots.style import COLUMN
    from fltk.sweep.grid import read

    plan = read(file)
    panels = [_panel(study) for study in studies_of(plan, settings) if study.done]
    if not panels:
        raise FltkError(f"{file}: no trial is finished yet")
    write_figure(
        lambda w: search_panels(panels, width=w or COLUMN), figure_name("search", [], plan.name), output, data, width
    )


def _panel(study: Study) -> SearchPanel:
    from fltk.plots.search import SearchPanel

    done = study.done
    numbers, values = [trial.number for trial in done], [float(trial.value or 0.0) for trial in done]
    importance = {key.rpartition(".")[2]: share for key, share in study.importance.items()}
    return SearchPanel(study.label, tuple(numbers), tuple(values), importance)
