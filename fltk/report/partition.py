"""The data: who holds what, and how skewed that is."""

from __future__ import annotations

from markupsafe import Markup

from fltk.evaluation.comparison_table import written
from fltk.plots.partition import partition_bubbles
from fltk.plots.stored import partition_table
from fltk.registry import PartitionRow
from fltk.report.content import Content, Section, linked_runs
from fltk.report.figures import image, row
from fltk.report.markup import joined, literal, number, numbers, paragraph, table, words

MOST = 12  # figures
SKEW = {"label-emd": "Label distance", "classes": "Classes a client", "size-cv": "Size variation"}


def section(content: Content) -> Section | None:
    """A line for each partition and a figure of each setting's first; None where no run has a stored one."""
    ids = sorted({run.partition_id for run in content.runs if run.partition_id is not None})
    found = [content.store.find_partition(number) for number in ids]
    if not found:
        return None
    sizes = numbers("Seed", "Clients", "Newcomers", "Training", "Validation", "Test", *SKEW.values())
    heads = [*words("Partition", "Data", "Scheme"), *sizes, *words("Runs", "Fingerprint")]
    first = {e.run.partition_id for of in (content.trained, content.joins) for e in content.first_seeds(of)}
    shown = [part for part in found if part.id in first][:MOST]
    parts = [table("Partitions", heads, [_line(content, part) for part in found])]
    parts.append(row(*(_figure(part) for part in shown if part.summary.get("label_counts"))))
    if len(shown) < len(found):
        told = f"{len(shown)} of {len(found)} partitions are drawn."
        parts.append(paragraph(told))
    return Section("partition", "Partition", joined(parts))


def _line(content: Content, part: PartitionRow) -> list[object]:
    summary, config = part.summary, part.config
    sizes = summary.get("sizes", {})
    scheme = str(config.get("scheme", ""))
    skewed = "dirichlet" in scheme or scheme == "quantity"
    runs = [run for run in content.runs if run.partition_id == part.id]
    return [
        f"part{part.id}" + (f" ({part.name})" if part.name else ""),
        config.get("dataset"),
        f"{scheme} {written(config['alpha'])}" if skewed else scheme,
        config.get("partition_seed"),
        summary.get("clients"),
        summary.get("newcomers"),
        *(sum(sizes[name]) if name in sizes else None for name in ("train", "val", "test")),
        *(number(summary.get("skew", {}).get(name), digits=3) for name in SKEW),
        linked_runs(runs),
        literal(part.fingerprint[:12]),
    ]


def _figure(part: PartitionRow) -> Markup:
    figure, _ = partition_bubbles(partition_table(part.summary), seed=part.config.get("partition_seed"))
    counts = part.summary["label_counts"]
    held = [sum(1 for count in row if count) for row in counts]
    alt = f"Labels of part{part.id}: {len(counts)} clients hold {min(held)} to {max(held)} of {len(counts[0])} labels."
    return image(figure, alt, f"part{part.id}: training samples by client and label.")
