"""Methods x settings over seeds: means, paired differences against a reference, average ranks.

Two runs are paired when they share setting and seeds; their clients are paired when they also share the partition.
Seeds are the replicates of an experiment. Clients of one seed share models, so a test over clients is about these
federations and not about new ones, but it has pairs enough to tell methods apart where seeds are few.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fltk.errors import FltkError, UsageError, unknown
from fltk.evaluation import comparison_table, metric_values
from fltk.evaluation import statistics as stats
from fltk.evaluation.comparison_table import Entry
from fltk.evaluation.metric_values import Floats, Metric
from fltk.evaluation.tuning import Choice, Tuning, arrange_best, choices_by_place
from fltk.registry import RunRow, Store
from fltk.registry.method_code import code_of, has_other_code

ALL_SETTINGS = "all settings"
SEEDS, CLIENTS, SETTINGS = "seeds", "clients", "settings"
_SLACK = 1e-6  # relative: per-client values are stored as float32

Seeds = tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """The metric of one run."""

    entry: Entry
    value: float


@dataclass(frozen=True)
class Cell:
    """One method in one setting: sample mean and standard deviation over seeds, NaN where unknown.

    `planned` counts the seeds that any method has in this setting, `never` the runs that do not reach their target.
    """

    method: str
    setting: str
    scores: tuple[Score, ...]
    planned: int
    never: int = 0

    @cached_property
    def values(self) -> Floats:
        """(seeds,)."""
        return np.array([score.value for score in self.scores], np.float64)

    @cached_property
    def mean(self) -> float:
        """NaN for a missing cell."""
        return float(self.values.mean()) if self.scores else math.nan

    @property
    def known(self) -> bool:
        """Whether the cell can be ranked."""
        return bool(self.scores or self.never)

    @property
    def std(self) -> float:
        """NaN for fewer than two seeds."""
        return stats.sample_std(self.values)


@dataclass(frozen=True)
class Difference:
    """method - reference over pairs of one unit: BCa interval of the mean, Wilcoxon signed-rank test, Holm-adjusted.

    The adjustment is over the methods compared in one setting. `better` and `worse` count pairs, by the metric's
    direction. NaN where there are too few pairs.
    """

    setting: str
    method: str
    reference: str
    unit: str  # seeds | clients | settings
    pairs: int
    mean: float
    std: float
    interval: stats.Interval
    better: int
    worse: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """A table of cells, and all that is needed to test it.

    caption, choices: of methods that were tuned, how, and what was chosen for each (method, setting).
    """

    metric: Metric
    methods: tuple[str, ...]
    settings: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]  # (method, setting)
    notes: tuple[str, ...]
    caption: str = ""
    choices: Mapping[tuple[str, str], Choice] = field(default_factory=dict)

    @property
    def complete(self) -> list[str]:
        """The settings in which every method has a value."""
        return [s for s in self.settings if all(self.cells[m, s].known for m in self.methods)]

    def best(self, setting: str) -> list[str]:
        """The methods with the best mean; several where means are equal, none where no method has a value."""
        sign = 1 if self.metric.higher else -1
        means = {m: sign * self.cells[m, setting].mean for m in self.methods if self.cells[m, setting].scores}
        top = max(means.values(), default=math.nan)
        return [m for m, mean in means.items() if mean >= top - 1e-12 * abs(top)]

    def ranks(self) -> stats.Ranks | None:
        """Average ranks over the complete settings; None for fewer than two settings or methods."""
        chosen = self.complete
        if len(chosen) < 2 or len(self.methods) < 2:
            return None
        scores = [self._ranked(s) for s in chosen]
        return stats.rank_methods(self.methods, np.array(scores), higher=self.metric.higher)

    def _ranked(self, setting: str) -> list[float]:
        """What methods are ranked by: their means, and behind all of them the more runs never reach their target."""
        cells = [self.cells[m, setting] for m in self.methods]
        last = 1.0 + max((cell.mean for cell in cells if cell.scores), default=0.0)
        return [last * (1 + cell.never) if cell.never else cell.mean for cell in cells]

    @property
    def advice(self) -> list[str]:
        """What to type for ranks over more settings."""
        lacking = [m for m in self.methods if not all(self.cells[m, s].known for s in self.settings)]
        left_out = len(self.complete) < len(self.settings) > 1
        others = len(self.methods) - len(lacking) > 1
        return [f"--method without {', '.join(lacking)} ranks the others over more"] if left_out and others else []


def compare(
    store: Store, runs: Sequence[RunRow], metric: str | None = None, *, tuning: Tuning | None = None
) -> Comparison:
    """Arrange runs by method and setting and read the metric of each. FltkError when there is nothing to compare.

    tuning: what `best_trials` chose among the runs; then the best trial of each method in each setting is compared.
    """
    if not runs:
        raise FltkError("no run to compare: name runs or loosen the filters")
    arranged = comparison_table.arrange(runs) if tuning is None else arrange_best(tuning)
    reading = metric_values.read(store, [entry.run for entry in arranged.entries], metric)
    cells: dict[tuple[str, str], list[Score]] = {}
    planned: dict[str, set[Seeds]] = {}
    never = Counter((e.method, e.setting) for e in arranged.entries if e.run.id in reading.never)
    for entry in arranged.entries:
        planned.setdefault(entry.setting, set()).add(entry.seeds)
        if entry.run.id in reading.values:
            score = Score(entry, reading.values[entry.run.id])
            cells.setdefault((entry.method, entry.setting), []).append(score)
    table = {
        (m, s): Cell(
            m, s, tuple(sorted(cells.get((m, s), []), key=lambda x: x.entry.seeds)), len(planned[s]), never[m, s]
        )
        for m in arranged.methods
        for s in arranged.settings
    }
    notes = (
        *arranged.notes,
        *reading.notes,
        *_seed_notes(table),
        *_data_notes(arranged.entries),
        *code_notes([entry.run for entry in arranged.entries]),
    )
    caption = "" if tuning is None else tuning.caption
    choices = {} if tuning is None else choices_by_place(arranged, tuning)
    made = Comparison(reading.metric, arranged.methods, arranged.settings, table, notes, caption, choices)
    return replace(made, notes=(*notes, *_rank_notes(made)))


# Paired tests


@dataclass(frozen=True)
class Pairs:
    """Paired differences of two methods in one setting. `slack`: smaller differences are rounding."""

    unit: str
    values: Floats
    slack: float


@dataclass
class Pairing:
    """Pairs the runs of a comparison. Per-client values are read once, when they are first asked for."""

    store: Store
    comparison: Comparison
    _clients: dict[int, Floats] | None = field(default=None, init=False)

    def differences(self, reference: str) -> list[Difference]:
        """Every other method against the reference: by seed and by client in each setting, and over all settings.

        `reference` is a row's label, or a method that has one row. UsageError where there is none such.
        """
        table = self.comparison
        reference = self._row(reference)
        others = [m for m in table.methods if m != reference]
        found = []
        for setting in table.settings:
            for unit in (SEEDS, CLIENTS):
                pairs = {m: self._pairs(m, reference, setting, unit) for m in others}
                found += self._tested(pairs, setting, reference)
        if len(table.settings) > 1:
            found += self._tested({m: self._over_settings(m, reference) for m in others}, ALL_SETTINGS, reference)
        return found

    def ties(self, setting: str) -> list[str]:
        """The methods that are not significantly worse than the best (Wilcoxon, Holm over the others).

        Empty where the pairs are too few to show any difference; methods that share no pair with the best are left out.
        """
        best = self.comparison.best(setting)
        others = [m for m in self.comparison.methods if m not in best and self.comparison.cells[m, setting].scores]
        found = {m: self._pairs(m, best[0], setting, self.tie_unit) for m in others}
        able = {m: pairs for m, pairs in found.items() if stats.least_p(len(pairs.values)) < stats.ALPHA}
        p_values = stats.holm([stats.wilcoxon(pairs.values, pairs.slack) for pairs in able.values()])
        return [m for m, p in zip(able, p_values, strict=True) if p >= stats.ALPHA]

    @property
    def tie_unit(self) -> str:
        """What `ties` pairs: clients where the metric is their mean, otherwise seeds."""
        return CLIENTS if self.comparison.metric.per_client else SEEDS

    def _row(self, name: str) -> str:
        rows = self.comparison.methods
        of_method = sorted({c.method for c in self.comparison.cells.values() if _method(c) == name})
        if name in rows or len(of_method) == 1:
            return name if name in rows else of_method[0]
        if of_method:
            quoted = " or ".join(repr(label) for label in of_method)
            raise UsageError(f"--against: {name} has several rows here; name one: {quoted}")
        raise unknown("method", name, rows, "--against")

    def _pairs(self, method: str, reference: str, setting: str, unit: str) -> Pairs:
        """Differences method - reference over the seeds that both have, or over the clients of these seeds."""
        cells = self.comparison.cells
        theirs = {score.entry.seeds: score for score in cells[reference, setting].scores}
        both = [(s, theirs[s.entry.seeds]) for s in cells[method, setting].scores if s.entry.seeds in theirs]
        left: list[Any] = [s.value for s, _ in both]
        right: list[Any] = [s.value for _, s in both]
        if unit == CLIENTS:
            alike = [pair for pair in both if self._comparable(*pair)]
            left, right = ([self.clients[p[side].entry.run.id] for p in alike] for side in (0, 1))
        a, b = (np.concatenate([np.atleast_1d(v) for v in side]) if side else np.empty(0) for side in (left, right))
        known = np.isfinite(a) & np.isfinite(b)
        scale = float(np.abs(np.concatenate([a[known], b[known]])).max(initial=0.0))
        return Pairs(unit, (a - b)[known], _SLACK * scale)

    def _over_settings(self, method: str, reference: str) -> Pairs:
        """The mean difference of each setting that both have."""
        found = [self._pairs(method, reference, s, SEEDS) for s in self.comparison.settings]
        means = [float(pairs.values.mean()) for pairs in found if pairs.values.size]
        return Pairs(SETTINGS, np.array(means), max((pairs.slack for pairs in found), default=0.0))

    def _comparable(self, one: Score, other: Score) -> bool:
        """Whether client k of one run is client k of the other."""
        a, b = one.entry.run, other.entry.run
        if a.partition_id is None or a.partition_id != b.partition_id:
            return False
        return a.id in self.clients and b.id in self.clients and self.clients[a.id].size == self.clients[b.id].size

    @property
    def clients(self) -> dict[int, Floats]:
        """Per run: the values (N,) of its clients."""
        if self._clients is None:
            runs = [score.entry.run for cell in self.comparison.cells.values() for score in cell.scores]
            self._clients = metric_values.client_values(self.store, runs, self.comparison.metric)
        return self._clients

    def _tested(self, found: Mapping[str, Pairs], setting: str, reference: str) -> list[Difference]:
        tests = {m: stats.wilcoxon(pairs.values, pairs.slack) for m, pairs in found.items() if pairs.values.size}
        adjusted = dict(zip(tests, stats.holm(list(tests.values())), strict=True))
        sign = 1 if self.comparison.metric.higher else -1
        return [
            Difference(
                setting,
                method,
                reference,
                pairs.unit,
                pairs.values.size,
                float(pairs.values.mean()) if pairs.values.size else math.nan,
                stats.sample_std(pairs.values),
                stats.bootstrap_interval(pairs.values),
                int((sign * pairs.values > pairs.slack).sum()),
                int((sign * pairs.values < -pairs.slack).sum()),
                tests.get(method, math.nan),
                adjusted.get(method, math.nan),
            )
            for method, pairs in found.items()
        ]


def _method(cell: Cell) -> str | None:
    return cell.scores[0].entry.run.method if cell.scores else None


# Notes


def _seed_notes(cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    """Means over different seeds are no fair comparison; missing cells are seen without a note."""
    fewer: dict[str, list[str]] = {}
    for cell in cells.values():
        if 0 < len(cell.scores) < cell.planned:
            fewer.setdefault(cell.setting, []).append(f"{cell.method} {len(cell.scores)} of {cell.planned}")
    return [f"unequal seeds in {setting}: {', '.join(told)}" for setting, told in fewer.items()]


def _rank_notes(comparison: Comparison) -> list[str]:
    """Over how many settings ranks are taken, where these are not all."""
    ranked, several = len(comparison.complete), len(comparison.settings)
    if ranked == several or several < 2:
        return []
    need = "" if ranked > 1 else ", and average ranks need two"
    return [f"{ranked} of {several} settings have {comparison.metric.name} of all methods{need}"]


def _data_notes(entries: Iterable[Entry]) -> list[str]:
    """Runs of one setting and seeds that did not have the same clients."""
    groups: dict[tuple[str, Seeds], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.setting, entry.seeds), []).append(entry)
    notes = []
    for (setting, _), group in groups.items():
        if len({(e.run.partition_id, e.run.data_fingerprint) for e in group}) > 1:
            runs = comparison_table.listed([e.run for e in group])
            notes.append(f"different partitions or data under seed {group[0].run.seed} of {setting} ({runs})")
    return notes


def code_notes(runs: Sequence[RunRow]) -> list[str]:
    """Methods whose runs were not all made by one source, or by another than is installed."""
    by_method: dict[str, dict[str, list[RunRow]]] = {}
    for run in runs:
        by_method.setdefault(run.method, {}).setdefault(code_of(run), []).append(run)

    notes = []
    for method, by_code in by_method.items():
        if len(by_code) > 1:
            told = " against ".join(comparison_table.listed(own) for own in by_code.values())
            notes.append(f"mixed code of {method}: {told}")
    other = [run for run in runs if has_other_code(run)]
    if other:
        names = ", ".join(dict.fromkeys(run.method for run in other))
        notes.append(f"trained with other code of {names} than this fltk has: {comparison_table.listed(other)}")
    return notes
