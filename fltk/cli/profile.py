"""`--profile`: where the time of a run went, as a table on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option
from fltk.cli.context import Settings

if TYPE_CHECKING:
    from fltk.bench.profile import Profile
    from fltk.experiment import OnRound, Watch
    from fltk.rounds.loop import RoundDone

profile_option = click.option(
    "--profile",
    is_flag=True,
    cls=Option,
    section="Output",
    help="print a time profile of the rounds on stderr; json has it under the key profile",
)


def new_profile(wanted: bool) -> Profile | None:
    """A stopwatch where one was asked for."""
    if not wanted:
        return None
    from fltk.bench.profile import Profile

    return Profile()


def watch_of(profile: Profile | None) -> Watch:
    """What measures the parts of a round."""
    from fltk.experiment import unwatched

    return profile.watch if profile else unwatched


def heard(profile: Profile | None, tell: OnRound) -> OnRound:
    """What hears of every round: `tell`, and the stopwatch where there is one."""

    def hear(done: RoundDone) -> None:
        tell(done)
        if profile:
            profile.add(done)

    return hear


def with_profile(row: dict[str, Any], profile: Profile | None, settings: Settings) -> dict[str, Any]:
    """A run's row, with its profile where there is one, which is told as well."""
    if profile is None:
        return row
    found = profile.report()
    if not settings.quiet:
        _tell(found, row["run"], settings)
    return {**row, "profile": found}


def _tell(found: dict[str, Any], label: str, settings: Settings) -> None:
    from rich import box
    from rich.table import Table

    from fltk.bench.profile import AIM

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("part", "seconds", "a round", "share", ""):
        table.add_column(heading, justify="left" if heading in ("part", "") else "right")
    for row in found["parts"]:
        cells = f"{row['seconds']:.3f}", f"{row['a_round']:.4f}", f"{row['share']:.1%}"
        table.add_row(row["part"], *cells, row["about"])
    table.add_section()
    table.add_row("all", f"{found['seconds']:.3f}", f"{found['seconds'] / found['rounds']:.4f}", "100.0%", "")
    settings.say(f"{label}: {found['rounds']} rounds, and {found['before']:.2f} s before the first")
    settings.console().print(table)
    verdict = "under" if found["outside"] < AIM else "not under"
    settings.say(f"{label}: {found['outside']:.1%} of the time is not training ({verdict} {AIM:.0%})")
