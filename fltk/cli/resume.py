"""`fltk resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.output import emit, output_options
from fltk.cli.profile import heard, new_profile, profile_option, watch_of, with_profile
from fltk.cli.progress import RunProgress
from fltk.cli.train import finished, keep_option, place_options, shown, shown_columns, trust_option
from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.bench.profile import Profile
    from fltk.experiment import Place
    from fltk.registry import RunRow, Store
    from fltk.resume import Resumed


@command(
    "resume",
    examples=("fltk resume run42", "fltk resume latest --engine process:2", "fltk resume run42 --from-round 20"),
)
@click.argument("run")
@click.option(
    "--from-round",
    type=int,
    cls=Option,
    section="Run",
    help="continue from the stored checkpoint of this round (0: the start); later rounds are replaced one by one",
)
@click.option(
    "--allow-changed",
    is_flag=True,
    cls=Option,
    section="Run",
    help="continue although code or environment have changed since the run began, and record what differs",
)
@keep_option
@place_options
@trust_option
@profile_option
@output_options
@click.pass_context
def resume(
    ctx: click.Context, /, run: str, from_round: int | None, allow_changed: bool, format: str, **params: Any
) -> None:
    """Continue a stopped or killed run.

    The run continues from its last checkpoint with its own settings, and its results are bit-identical to those of an
    uninterrupted run. That needs the code and the libraries that it was started with, so others are refused. With
    --from-round the last rounds of a complete run are retrained, for instance when its last checkpoint was lost.
    """
    from fltk.experiment import Place
    from fltk.registry import Store

    settings: Settings = ctx.obj
    with Store(settings.db) as store:
        store.require_writable()
        found = _named(store, run)
        device = params["device"]
        if ctx.get_parameter_source("device") is ParameterSource.DEFAULT:
            device = store.environment(found.id).get("device", device)
        place = Place(
            settings.data_dir,
            params["download"],
            params["engine"],
            device,
            params["keep_checkpoints"],
            trust_stored_code=params["trust_stored_code"],
        )
        profile = new_profile(params["profile"])
        done = _resume(store, found, place, settings, from_round, allow_changed, profile)
        _tell(found, done, settings)
        row = with_profile(finished(store, found.id, settings), profile, settings)
        columns = shown_columns([store.find_run(found.id)])
    emit([row], columns, format)


def _named(store: Store, ref: str) -> RunRow:
    """The run that is meant; newcomers join in one go, and a run of theirs that was stopped leads nowhere."""
    if ref != "latest" and (row := store.find_run(ref)).kind == "join":
        raise UsageError(
            f"{row.label} is a join run of run{row.parent}, which cannot be continued: run "
            f"`fltk join-new-client run{row.parent}` again; `fltk runs rm run{row.id}` removes this one"
        )
    return store.find_run(ref, "train")


def _resume(
    store: Store,
    run: RunRow,
    place: Place,
    settings: Settings,
    from_round: int | None,
    allow_changed: bool,
    profile: Profile | None,
) -> Resumed:
    from fltk.resume import resume as go_on

    with RunProgress(settings, run.method) as bar:
        bar.start(run.config["train"]["rounds"], run.rounds_done if from_round is None else from_round)
        return go_on(
            run,
            store,
            place,
            heard(profile, lambda done: bar.update(done.round, shown(done.scalars))),
            from_round=from_round,
            allow_changed=allow_changed,
            watch=watch_of(profile),
        )


def _tell(run: RunRow, done: Resumed, settings: Settings) -> None:
    """What of the run is not as it would have been without the interruption."""
    for change in done.changes:
        settings.say(f"{run.label}: continued after round {done.round} with another {change}")
    if done.differs is not None:
        settings.say(f"{run.label}: from round {done.differs} on, the results differ from the stored ones")
