"""What attackers did to the benign clients of each run."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from fltk.evaluation.robustness import ACC, summary
from fltk.registry import RunRow
from fltk.report.content import Content, Section, run_link
from fltk.report.markup import joined, number, numbers, paragraph, table, words

LEGEND = (
    "Personal test accuracy of benign clients after the last round, compared with the same clients of the "
    "unattacked baseline: the same run without attackers and defence. The attacker weight is the mean over the "
    "attacked rounds, as a multiple of a fair share. A backdoor succeeds where it fools benign clients' models."
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
    rows = [_row(run, summary(run, content.store)) for run in found if ACC in content.store.client_keys(run.id)]
    if not rows:
        return None
    return Section("robustness", "Attacks", joined([paragraph(LEGEND), table("Runs under attack", HEADS, rows)]))


def _row(run: RunRow, found: dict[str, Any]) -> list[object]:
    return [
        run_link(run.id, run.label),
        run.method,
        found["attack"],
        found["defence"],
        run.seed,
        f"{found['malicious']} of {found['clients']}",
        *(_percent(found[key]) for key in ("acc", "clean", "drop", "drop_worst10")),
        number(found["mal_weight_ratio"], digits=2),
        _percent(found["asr"]),
    ]


def _percent(value: float | None) -> Markup:
    return number(value, percent=True)
