"""Who learns from whom: the collaboration maps, and what they say in numbers."""

from __future__ import annotations

from markupsafe import Markup

from fltk.evaluation.comparison_table import Entry
from fltk.evaluation.maps import MAPS, of_maps
from fltk.plots.attention_maps import attention_maps
from fltk.plots.map_data import spread_rounds
from fltk.plots.stored import map_panels
from fltk.registry import Store
from fltk.report.content import Content, Section, run_link
from fltk.report.figures import image, row
from fltk.report.markup import joined, number, numbers, paragraph, table, words

MOST = 30  # figures; the maps of the others are in the registry

TITLES = {
    "map_self": "Own weight",
    "map_entropy": "Row entropy",
    "map_group_share": "Share within groups",
    "map_group_auc": "Group AUC",
    "map_alignment": "Label correlation",
    "map_neighbours": "Neighbours' similarity",
}


def section(content: Content) -> Section | None:
    """Maps of every method in each setting, of its lowest seed; None where no run has one."""
    there = [entry for entry in content.first_seeds(content.trained) if _has_maps(content.store, entry)]
    if not there:
        return None
    shown = there[:MOST]
    parts = [_numbers(content.store, there), row(*(_figure(content.store, entry) for entry in shown))]
    if len(there) > MOST:
        parts.append(paragraph(f"{MOST} of {len(there)} maps are drawn."))
    return Section("maps", "Collaboration maps", joined(parts))


def _has_maps(store: Store, entry: Entry) -> bool:
    """A map needs two clients, and a stored partition that says what is known of them."""
    run = entry.run
    return run.partition_id is not None and run.config["partition"]["clients"] > 1 and bool(store.map_rounds(run.id))


def _numbers(store: Store, entries: list[Entry]) -> Markup:
    """One line for each run."""
    runs = [entry.run for entry in entries]
    found = {name: of_maps(store, runs, name) for name in MAPS}
    kept = [name for name in MAPS if any(value is not None and value == value for value in found[name].values())]
    heads = [*words("Method", "Setting", "Run"), *numbers(*(TITLES[name] for name in kept))]
    rows = [
        [e.method, e.setting, run_link(e.run.id), *(number(found[name][e.run.id], digits=3) for name in kept)]
        for e in entries
    ]
    told = "; ".join(f"{TITLES[name]}: {MAPS[name].removeprefix('last map, ')}" for name in kept)
    return joined([table("What the last maps say", heads, rows), paragraph(told + ".")])


def _figure(store: Store, entry: Entry) -> Markup:
    rounds = spread_rounds(store.map_rounds(entry.run.id))
    panels, clients = map_panels(store, entry.run, rounds, "whole")
    figure, _ = attention_maps(panels, clients, seed=entry.run.seed)
    who = f"{entry.method}, {entry.setting}, run{entry.run.id}"
    fits = ", ".join(f"round {p.round} {p.alignment:.2f}" for p in panels if p.alignment == p.alignment)
    alt = f"Collaboration maps of {who}, next to the similarity of labels." + (f" Correlation: {fits}." if fits else "")
    return image(figure, alt, f"{who}: rows receive, columns contribute.")
