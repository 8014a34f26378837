"""Tables of docs/robustness.md from the registry that experiments/robustness.sh fills, as markdown.

    python experiments/robustness_table.py robustness.db

Cells are means over seeds, ± the sample standard deviation, with the number of seeds in brackets where it is not three.
Drops are in points of accuracy of benign clients' own models against the same clients of the unattacked baseline. A
share is the weight that benign clients give to an attacker, 1 being that of an average client, as a mean over the
rounds; with a defence, of what it leaves.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fltk.errors import FltkError
from fltk.evaluation.robustness import summary
from fltk.registry import Store

UNATTACKED = "no attack"
KINDS = (UNATTACKED, "random-model", "sign-flip", "alie", "ipm", "min-max", "label-flip", "badnets")
SCHEMES = {"dirichlet": "Dirichlet 0.1", "rotated": "rotated groups"}
ROWS = ("local", "fedavg", "fedavg + trimmed-mean", "fedavg + multi-krum", "fedper", "ditto", "fedamp", "ifca", "attn")
SEEDS = 3
Cells = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]


def read(db: str) -> Cells:
    """(scheme, method with its defence, attack) -> what `fltk attack` reports of each seed."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    with Store(db, readonly=True) as store:
        for run in store.runs(status="done"):
            if run.kind == "attack":
                told = summary(run, store)
                row = f"{run.method} + {told['defence']}" if told["defence"] else run.method
                kind = told["attack"] if told["malicious"] else UNATTACKED
                found.setdefault((run.config["partition"]["scheme"], row, kind), []).append(told)
    return found


def shown(values: Iterable[float | None], form: Callable[[float], str]) -> str:
    """Mean ± deviation of a cell."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = form(statistics.mean(known))
    if len(known) > 1:
        text += f" ± {form(statistics.stdev(known))}"
    return text if len(known) == SEEDS else f"{text} ({len(known)})"


def points(value: float) -> str:
    """A difference of accuracies in points, without a negative zero."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def share(value: float) -> str:
    """Two digits, without the leading zero."""
    return f"{value:.2f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2f}"


def clean(cells: Cells, scheme: str, row: str) -> str:
    """Accuracy of the benign clients in the unattacked baselines."""
    known = next((cells[scheme, row, kind] for kind in KINDS[1:] if (scheme, row, kind) in cells), ())
    return shown((told["clean"] for told in known), lambda value: f"{value:.3f}".removeprefix("0"))


def table(cells: Cells, scheme: str, key: str, kinds: Sequence[str], form: Callable[[float], str]) -> str:
    """Methods x attacks, of the methods that have any value."""
    first = ("unattacked",) if key == "drop" else ()
    lines = ["| | " + " | ".join((*first, *kinds)) + " |", "|---" * (len(kinds) + len(first) + 1) + "|"]
    for row in ROWS:
        own = [shown((told[key] for told in cells.get((scheme, row, kind), ())), form) for kind in kinds]
        if any(own):
            name, _, defence = row.partition(" + ")
            own = [clean(cells, scheme, row), *own] if first else own
            lines.append(f"| `{name}`{f' + {defence}' if defence else ''} | " + " | ".join(own) + " |")
    return "\n".join(lines)


TABLES: Mapping[str, tuple[Sequence[str], Callable[[float], str]]] = {
    "drop": (KINDS, points),
    "mal_weight_ratio": (KINDS[1:], share),
    "asr": (KINDS[-1:], share),
    "drop_worst10": (KINDS, points),
    "rejected_tpr": (KINDS, share),
    "rejected_fpr": (KINDS, share),
}


def main(db: str) -> None:
    cells = read(db)
    for scheme, name in SCHEMES.items():
        for key, (kinds, form) in TABLES.items():
            print(f"\n## {name}: {key}\n\n{table(cells, scheme, key, kinds, form)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tables of docs/robustness.md from a registry, as markdown.")
    parser.add_argument("db", help="the registry that experiments/robustness.sh fills")
    try:
        main(parser.parse_args().db)
    except FltkError as error:
        parser.error(str(error))
