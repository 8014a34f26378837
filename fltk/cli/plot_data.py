"""What figures of runs need to know about them, read from the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.plots.attention_maps import Clients, MapPanel
    from fltk.registry import RunRow, Store
    from fltk.registry.rows import StoredMap


def rounds_of(text: str | None) -> list[int] | None:
    """Round numbers of --rounds."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--rounds takes whole numbers separated by commas, not {text!r}") from None


def summary_of(store: Store, run: RunRow) -> dict[str, Any]:
    """What is stored of the run's partition."""
    if run.partition_id is None:
        raise UsageError(f"{run.label} has no stored partition")
    return store.find_partition(run.partition_id).summary


def groups_of(summary: dict[str, Any], count: int) -> Any:
    """The known groups of the first `count` clients, (count,); None where the partition has none."""
    import numpy as np

    return None if summary["groups"] is None else np.array(summary["groups"])[:count]


def map_panels(store: Store, run: RunRow, rounds: Sequence[int], layer: str) -> tuple[list[MapPanel], Clients]:
    """The run's maps of these rounds and parts (by name, separated by commas, or all), and what is known of clients."""
    import numpy as np

    from fltk.evaluation.maps import size_prior
    from fltk.evaluation.metrics import attention_alignment, label_similarity
    from fltk.plots.attention_maps import Clients, MapPanel

    stored = store.maps(run.id, rounds)
    if not stored:
        raise UsageError(f"{run.label} has no maps yet: it has finished no round")
    summary = summary_of(store, run)
    counts = np.array(summary["label_counts"])[: summary["clients"]]
    if len(counts) < 2:
        raise UsageError(f"{run.label} has a single client: there is nobody to learn from and no map to draw")
    similarity = label_similarity(counts)
    panels = []
    for part in _parts(run, stored[0], layer):
        for m in stored:
            weights = m.array[m.slices.index(part)]
            fit = attention_alignment(weights, similarity, prior=size_prior(run, counts))
            panels.append(MapPanel(m.round, weights, fit.spearman, fit.p_value, "" if part == "whole" else part))
    return panels, Clients(similarity=similarity, groups=groups_of(summary, len(counts)))


def _parts(run: RunRow, stored: StoredMap, layer: str) -> list[str]:
    """The parts of the model that --layer names."""
    if layer == "all":
        return [name for name in stored.slices if name != "whole"] or ["whole"]
    names = [name.strip() for name in layer.split(",")]
    for name in names:
        if name not in stored.slices:
            raise UsageError(f"--layer: {run.label} has maps of {', '.join(stored.slices)}, not of {name!r}")
    return names


def named(key: str) -> str:
    """`personal_test_acc` as a person would say it."""
    return key.replace("_acc", "_accuracy").replace("_", " ")


def labels_of(runs: Sequence[RunRow], each: bool = False) -> dict[int, str]:
    """Names of the lines: the method, and what else tells runs apart (the run number only where each is a line)."""
    from fltk.cli.runs import _params

    def label(run: RunRow, *, long: bool) -> str:
        partition = run.config["partition"]
        parts = [run.method, *(f"{k}={v}" for k, v in _params(run).items())]
        if len({str({**r.config["partition"], "partition_seed": 0}) for r in runs}) > 1:
            scheme = partition["scheme"]
            parts.append(
                f"{partition['dataset']} {scheme}" + (f" {partition['alpha']:g}" if "dirichlet" in scheme else "")
            )
        return " ".join(parts) + (f" (run{run.id})" if long else "")

    short = {run.id: label(run, long=False) for run in runs}
    twice = {text for text in short.values() if list(short.values()).count(text) > 1}
    return {run.id: label(run, long=each and short[run.id] in twice) for run in runs}
