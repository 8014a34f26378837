"""The best trial of each method in each setting, chosen on validation data.

A trial is a configuration without its seeds. The trials of a method in a setting have the same data and the same budget
(rounds, epochs, batch size, participation), and differ in optimiser (learning rate, ...) and hyper-parameters. The one
with the best mean on validation data over the seeds counts; test data decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from fltk.config import canonical_json
from fltk.errors import FltkError
from fltk.evaluation.comparison_table import (
    Arrangement,
    Configuration,
    Facts,
    arrange,
    by_value,
    configurations,
    differing_keys,
    labelled,
    short,
    taken_apart,
)
from fltk.objectives import Measure, headline
from fltk.registry import RunRow

CHOICES = ("val",)

Seeds = tuple[int, ...]
Place = tuple[str, str]  # method and setting, as a table calls them


@dataclass(frozen=True)
class Trial:
    """One configuration and its finished runs by seeds, the latest of each."""

    config: Configuration
    runs: Mapping[Seeds, RunRow]

    @property
    def value(self) -> float:
        """Mean of the headline measure on validation data over the seeds; NaN where a run has none."""
        return fmean(map(_validated, self.runs.values()))

    @property
    def measure(self) -> Measure:
        """The headline of its runs."""
        return headline(next(iter(self.runs.values())).last)

    @property
    def merit(self) -> float:
        """Larger for a better trial."""
        return self.measure.gain(self.value, 0.0)

    @property
    def chosen(self) -> Facts:
        """What may differ between the trials of a contest: train.lr, params.mu."""
        return self.config.optimiser | {f"params.{key}": value for key, value in self.config.params.items()}


@dataclass(frozen=True)
class Choice:
    """The best trial of a method in a setting: its runs, how many trials there were, and what was tuned."""

    trial: Trial
    trials: int
    tuned: tuple[str, ...]  # the settings in which the trials differ: train.lr, params.mu

    @property
    def told(self) -> str:
        """The values that were chosen: lr=0.05 mu=0.1. Empty for a single trial."""
        return " ".join(labelled(self.trial.chosen, self.tuned))


@dataclass(frozen=True)
class Tuning:
    """The choices of all methods in all settings, and what a reader should know of trials that took no part."""

    choices: tuple[Choice, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[RunRow]:
        """The runs of the best trials, oldest first."""
        found = [run for choice in self.choices for run in choice.trial.runs.values()]
        return sorted(found, key=lambda run: run.id)

    @cached_property
    def by_run(self) -> Mapping[int, Choice]:
        """The choice that each run belongs to."""
        return {run.id: choice for choice in self.choices for run in choice.trial.runs.values()}

    @property
    def caption(self) -> str:
        """How the runs were chosen, as a sentence for a caption."""
        counts = sorted({choice.trials for choice in self.choices})
        many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        tuned = dict.fromkeys(short(key) for choice in self.choices for key in choice.tuned)
        what = f"Tuned ({', '.join(tuned)})" if tuned else "Not tuned"
        titles = dict.fromkeys(choice.trial.measure.title for choice in self.choices)
        how = f"by validation {' or '.join(titles)}, mean over seeds"
        return f"{what}: the best of {many} trial{'s' if many != '1' else ''} for each method and setting, {how}."


def contest_of(config: Mapping[str, Any], kind: str = "train") -> str:
    """What trials share that compete with each other: method, data and budget of a stored configuration."""
    return _contest(taken_apart(config, kind))


def best_trials(runs: Iterable[RunRow]) -> Tuning:
    """The best trial of each method in each setting among finished runs.

    A trial takes part with a validation value of every run, and if no other trial of its contest has more seeds; of
    equally good ones the first counts. FltkError where no run has one.
    """
    done = sorted((run for run in runs if run.status == "done"), key=lambda run: run.id)
    if not any(math.isfinite(_validated(run)) for run in done):
        raise FltkError("--best-on val: no finished run has values on validation data; train with --val-share above 0")

    choices: list[Choice] = []
    notes: list[str] = []
    for trials in _contests(done):
        able = _able(trials)
        if len(able) < len(trials):
            notes.append(_left_out(trials, able))
        if able:
            best = max(able, key=lambda trial: trial.merit)
            tuned = differing_keys([trial.chosen for trial in trials])
            choices.append(Choice(best, len(trials), tuple(tuned)))
    return Tuning(tuple(choices), tuple(notes))


def arrange_best(tuning: Tuning) -> Arrangement:
    """The runs of the best trials as a table of methods x settings; its notes tell what was chosen."""
    arranged = arrange(tuning.runs, tuned=True)
    notes = [tuning.caption, *_trial_notes(arranged, tuning), *_choice_notes(arranged, tuning), *tuning.notes]
    return replace(arranged, notes=(*notes, *arranged.notes))


def choices_by_place(arranged: Arrangement, tuning: Tuning) -> dict[Place, Choice]:
    """The choice of each cell of a table."""
    return {(entry.method, entry.setting): tuning.by_run[entry.run.id] for entry in arranged.entries}


def _validated(run: RunRow) -> float:
    """The headline measure on validation data in the last round; NaN where there is none."""
    return run.last.get(f"personal_val_{headline(run.last).key}", math.nan)


def _contest(config: Configuration) -> str:
    return canonical_json([config.method, config.base, config.budget])


def _contests(done: Sequence[RunRow]) -> list[list[Trial]]:
    """The trials that compete with each other, in the order of their first runs."""
    keyed, configs = configurations(done)
    runs: dict[str, dict[Seeds, RunRow]] = {}
    for run, key, seeds in keyed:
        runs.setdefault(key, {})[seeds] = run

    found: dict[str, dict[str, Trial]] = {}
    for key, config in configs.items():
        # Evaluations every other round make another configuration, but no other trial: the later runs count.
        trial = Trial(config, runs[key])
        same = found.setdefault(_contest(config), {})
        name = canonical_json(trial.chosen)
        if name in same:
            trial = Trial(config, {**same[name].runs, **trial.runs})
        same[name] = trial
    return [list(trials.values()) for trials in found.values()]


def _able(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that can be compared: as many seeds as any, all of them with a validation value."""
    known = [trial for trial in trials if math.isfinite(trial.value)]
    most = max((len(trial.runs) for trial in known), default=0)
    return [trial for trial in known if len(trial.runs) == most]


# Notes


def _left_out(trials: Sequence[Trial], able: Sequence[Trial]) -> str:
    """Trials that could not be chosen, and why."""
    lacking = len(trials) - len(able)
    where = " ".join(str(trials[0].config.base.get(f"partition.{key}", "")) for key in ("dataset", "scheme"))
    why = "without a validation value or with fewer seeds than the others"
    return f"{trials[0].config.method} on {where}: {lacking} of {len(trials)} trials take no part, {why}"


def _trial_notes(arranged: Arrangement, tuning: Tuning) -> list[str]:
    """The settings in which methods had different numbers of trials: a budget as well."""
    found: dict[str, list[str]] = {}
    places = choices_by_place(arranged, tuning)
    for setting in arranged.settings:
        names: dict[str, set[str]] = {}
        for (method, where), choice in places.items():
            if where == setting:
                names.setdefault(str(choice.trials), set()).add(method)
        if len(names) > 1:
            found.setdefault(by_value(names), []).append(setting)
    return [f"unequal budgets in {', '.join(settings)}: trials {told}" for told, settings in found.items()]


def _choice_notes(arranged: Arrangement, tuning: Tuning) -> list[str]:
    """Which values were chosen for each method, and where."""
    chosen: dict[str, dict[str, list[str]]] = {}
    for (method, setting), choice in choices_by_place(arranged, tuning).items():
        if choice.tuned:
            chosen.setdefault(method, {}).setdefault(choice.told, []).append(setting)

    # Methods that made the same choices share a line.
    sharing: dict[str, list[str]] = {}
    for method in arranged.methods:
        values = chosen.get(method, {})
        told = "; ".join(f"{value} ({', '.join(settings)})" for value, settings in values.items())
        if len(values) == 1:
            told = next(iter(values))
        if told:
            sharing.setdefault(told, []).append(method)
    return [f"{', '.join(methods)} tuned: {told}" for told, methods in sharing.items()]
