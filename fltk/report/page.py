"""The page: sections, contents, and a style that fits phones and dark rooms. One file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from markupsafe import Markup

from fltk import __version__
from fltk.errors import DamagedRun
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
from fltk.report.markup import source, templates

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
# What the browser may load: nothing from elsewhere, whatever a run may be called, and this one script.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'"


def report(
    store: Store,
    runs: Sequence[RunRow],
    title: str | None = None,
    *,
    best_on: str | None = None,
    damaged: Sequence[DamagedRun] = (),
) -> str:
    """The HTML of a report on these runs; equal registries give equal pages. FltkError without a run.

    best_on: "val" reports on the best trial of each method in each setting.
    damaged: runs that were asked for and cannot be read, which the page names.

    A run whose values turn out to be damaged is named and left out. DamagedRun where no other run is left.
    """
    left_out = list(damaged)
    while True:
        content = gather(store, runs, title, best_on=best_on, damaged=left_out)
        try:
            return page(content, _sections(content))
        except DamagedRun as error:
            # The values of a run are read where a section needs them, so that the page is made again without it.
            concerned = [run for run in content.runs if error.run in (run.id, run.parent)]
            if len(concerned) in (0, len(content.runs)):
                raise
            store.leave_out(error)
            left_out.append(error)


def _sections(content: Content) -> list[Section]:
    sections: list[Section] = []
    for part in PARTS:
        made = part.section(content)
        if made is not None:
            sections.append(made)
    return sections


def page(content: Content, sections: Sequence[Section]) -> str:
    """The whole document."""
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = templates().get_template("page.html")
    return template.render(
        policy=POLICY.format(digest),
        version=__version__,
        title=content.title,
        summary=_told(content),
        style=Markup(source("page.css")),
        script=Markup(script),
        sections=sections,
    )


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
