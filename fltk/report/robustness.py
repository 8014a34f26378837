"""What attackers did to the benign clients of each run."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from fltk.evaluation.robustness import summary
from fltk.objectives import headline
from fltk.registry import RunRow
from fltk.report.content import Content, Section, run_link
from fltk.report.markup import joined, number, numbers, paragraph, table, words

LEGEND = (
    "Headline measure on test data of benign clients after the last round, compared with the same clients of the "
    "unattacked baseline: the same run without attackers and defence. The attacker weight is the mean over the "
    "attacked rounds, as a multiple of a fair share. A backdoor succeeds where it fools benign clients' models. "
    "Accuracies and their drops are in percent, errors in the unit of the target."
)
HEADS = (
    *words("Run", "Method", "Attack", "Defence"),
    *numbers(
        "Seed", "Attackers", "Accuracy (%)", "Unattacked baseline (%)", "Drop (points)", "Worst decile, drop (points)"
    ),
    *numbers("Attacker weight", "Backdoor success (%)"),
)


def section(content: Content) -> Section | None:
    """A table of the attacked or defended runs; None where there is none."""
    found = [run for run in content.runs if {"attack", "defence"} & set(run.config)]
    rows = [
        _row(run, summary(run, content.store))
        for run in found
        if f"personal_test_{headline(run.last).key}" in content.store.client_keys(run.id)
    ]
    if not rows:
        return None
    heads = HEADS
    if not all(headline(run.last).fraction for run in found):
        plain = numbers("Personal", "Unattacked baseline", "Drop", "Worst decile, drop")
        heads = (*HEADS[:6], *plain, *HEADS[10:])
    return Section("robustness", "Attacks", joined([paragraph(LEGEND), table("Runs under attack", heads, rows)]))


def _row(run: RunRow, found: dict[str, Any]) -> list[object]:
    measure = headline(run.last)
    return [
        run_link(run.id, run.label),
        run.method,
        found["attack"],
        found["defence"],
        run.seed,
        f"{found['malicious']} of {found['clients']}",
        *(number(found[key], percent=measure.fraction) for key in (measure.key, "clean", "drop", "drop_worst10")),
        number(found["mal_weight_ratio"], digits=2),
        _percent(found["asr"]),
    ]


def _percent(value: float | None) -> Markup:
    return number(value, percent=True)
