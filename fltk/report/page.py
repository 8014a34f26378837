"""The page: sections, contents, and a style that fits phones and dark rooms. One file, no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from fltk import __version__
from fltk.registry import RunRow, Store
from fltk.report import (
    clients,
    commands,
    comparison,
    configuration,
    curves,
    environment,
    maps,
    newcomers,
    overview,
    partition,
    robustness,
)
from fltk.report.content import Content, Section, gather
from fltk.report.markup import Safe, element, joined, paragraph

PARTS = (
    comparison,
    curves,
    clients,
    robustness,
    newcomers,
    maps,
    partition,
    overview,
    configuration,
    environment,
    commands,
)
# The browser itself refuses to load anything, whatever a run may be called.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report(store: Store, runs: Sequence[RunRow], title: str | None = None, *, best_on: str | None = None) -> str:
    """The HTML of a report on these runs; equal registries give equal pages. FltkError without a run.

    best_on: "val" reports on the best trial of each method in each setting.
    """
    content = gather(store, runs, title, best_on=best_on)
    return page(content, [made for part in PARTS if (made := part.section(content)) is not None])


def page(content: Content, sections: Sequence[Section]) -> str:
    """The whole document."""
    style = Safe(files("fltk.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"fltk {__version__}"),
        element("title", f"fltk report: {content.title}"),
        element("style", style),
    )
    body = element(
        "body",
        element("a", "Skip to the results", href="#results", class_="skip"),
        element("header", element("h1", content.title), paragraph(_told(content)), _contents(sections)),
        element("main", *(_section(section) for section in sections), id="results"),
        element("footer", f"Made by fltk {__version__} from a registry of runs. Every number stands there."),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _told(content: Content) -> str:
    """What is compared, in one sentence."""
    seeds = {entry.run.seed for entry in content.trained.entries}
    counts = (
        (len(content.runs), "run"),
        (len(content.trained.methods), "method"),
        (len(content.trained.settings), "setting"),
        (len(seeds), "seed"),
    )
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count) + "."


def _contents(sections: Sequence[Section]) -> Safe:
    links = [element("li", element("a", section.title, href=f"#{section.anchor}")) for section in sections]
    return element("nav", element("ul", *links), aria_label="Contents")


def _section(section: Section) -> Safe:
    return joined(["\n", element("section", element("h2", section.title), section.body, id=section.anchor)])
