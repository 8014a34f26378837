"""`fltk train`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk import catalogue
from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.options import (
    config_from,
    config_option,
    method_params,
    options_from,
    origins,
    partition_config,
    set_option,
)
from fltk.cli.output import Column, emit, output_options
from fltk.cli.profile import heard, new_profile, profile_option, watch_of, with_profile
from fltk.cli.progress import RunProgress
from fltk.cli.scored import measures_of, scored
from fltk.config import SEEDS, PartitionConfig, RunConfig, TrainConfig
from fltk.errors import UsageError
from fltk.fields import whole
from fltk.objectives import headline

if TYPE_CHECKING:
    from fltk.experiment import Place, Prepared
    from fltk.registry import PartitionRow, RunRow, Store

COLUMNS = [
    Column("run"),
    Column("method"),
    Column("seed"),
    Column("partition"),
    Column("rounds"),
    Column("model"),
    Column("personal_test_acc", "personal acc", 4, "max"),
    Column("global_test_acc", "global acc", 4, "max"),
    Column("personal_val_acc", "val acc", 4),
    Column("seconds", "s/round", 3),
    Column("status"),
]

keep_option = click.option(
    "--keep-checkpoints",
    default=2,
    type=click.IntRange(min=1),  # a run without one could not be continued
    cls=Option,
    section="Run",
    help="number of checkpoints to keep",
)

trust_option = click.option(
    "--trust-stored-code",
    is_flag=True,
    cls=Option,
    section="Work",
    help="run the own code that is stored with a run of the registry; read it first, it can do anything",
)

clean_option = click.option(
    "--require-clean",
    is_flag=True,
    cls=Option,
    section="Run",
    help="refuse to start if fltk's own repository or that of the current folder has uncommitted changes, or if "
    "there is none",
)


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where and how work is done: options that change no bit of a result."""
    for option in (
        click.option(
            "--engine",
            default="auto",
            cls=Option,
            section="Work",
            metavar="auto|serial|process:N",
            help="train clients in this process, in N worker processes, or choose the number of workers automatically; "
            "results are bit-identical",
        ),
        click.option(
            "--device",
            default="cpu",
            cls=Option,
            section="Work",
            metavar="cpu|cuda",
            help="device on which clients train",
        ),
        click.option(
            "--download",
            is_flag=True,
            cls=Option,
            section="Work",
            help="download a missing data set (torchvision)",
        ),
    ):
        function = option(function)
    return function


@command(
    "train",
    examples=(
        "fltk train --method attn --alpha 0.1",
        "fltk train --method fedavg,ditto,attn --seed 0,1,2 --dataset mnist --scheme rotated --subset 4000",
        "fltk train --skip-done --method local,fedavg --seed 0,1,2",
    ),
)
@click.option("--method", default="attn", cls=Option, section="Run", help="method, or several separated by commas")
@set_option
@click.option("--seed", default="0", cls=Option, section="Run", help="root seed, or several separated by commas")
@click.option("--name", cls=Option, section="Run", help="a unique name for the run")
@click.option(
    "--partition",
    "stored",
    metavar="PARTITION",
    cls=Option,
    section="Run",
    help="use a stored partition (part3, see fltk partition list)",
)
@click.option(
    "--skip-done",
    is_flag=True,
    cls=Option,
    section="Run",
    help="skip finished runs with the same configuration",
)
@clean_option
@keep_option
@config_option
@options_from(PartitionConfig, section="Data and partition")
@options_from(TrainConfig, section="Training")
@place_options
@profile_option
@output_options
@click.pass_context
def train(ctx: click.Context, /, format: str, **params: Any) -> None:
    """Train a federation.

    Every run is stored in the registry, with its configuration, its partition, its environment and a checkpoint every
    ten rounds. Several methods or seeds make several runs on the same data. The partition's seed follows --seed unless
    --partition-seed is given. The column `model` says what the personal accuracy is of: models as the server mixes them
    (mixed), tuned by each client before use (tuned), or kept by each client (personal).
    """
    from fltk.experiment import Place
    from fltk.registry import Store

    settings = ctx.obj
    _refuse_ignored(ctx, params)
    refuse_unclean(params)
    place = Place(
        settings.data_dir,
        params["download"],
        params["engine"],
        params["device"],
        params["keep_checkpoints"],
    )
    configs = list(_configs(ctx, params))
    with Store(settings.db, create=True) as store:
        store.require_writable()
        rows = _Trainer(store, place, settings, params, origins(ctx)).play(configs)
        columns = shown_columns(store.find_run(row["run"]) for row in rows)
    emit(rows, columns, format)


def _refuse_ignored(ctx: click.Context, params: dict[str, Any]) -> None:
    """A flag that --partition would overrule is an error and not silently without effect."""
    if not params["stored"]:
        return
    given = {
        param.name: param.opts[0]
        for param in ctx.command.params
        if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    }
    for name, flag in given.items():
        if name in PartitionConfig.__dataclass_fields__:
            raise UsageError(f"{flag} cannot be combined with --partition, which determines it; leave one of them out")


def refuse_unclean(params: dict[str, Any]) -> None:
    """UsageError where --require-clean is given and git could not bring back fltk's code or the current folder."""
    from fltk.registry.capture import unclean

    why = unclean() if params["require_clean"] else None
    if why:
        raise UsageError(f"--require-clean: {why}; commit, stash or ignore what has changed")


def _configs(ctx: click.Context, params: dict[str, Any]) -> Iterator[RunConfig]:
    """One configuration per seed and method, methods of one seed after another so that data are dealt once.

    A name or seed that is given twice counts once: the second run would be the first.
    """
    partition, train = partition_config(ctx, params), config_from(TrainConfig, params)
    seeds = dict.fromkeys(_seed(text) for text in params["seed"].split(","))
    names = dict.fromkeys(catalogue.spelled("method", name.strip()) for name in params["method"].split(","))
    if params["name"] and len(seeds) * len(names) > 1:
        raise UsageError("--name names one run, but several methods or seeds make several")
    given = origins(ctx).get("partition.partition_seed") != "default"
    for seed in seeds:
        own = partition if given else replace(partition, partition_seed=seed)
        for name in names:
            yield RunConfig(own, train, name, method_params(ctx), seed)


def _seed(text: str) -> int:
    number = whole(text)
    if number is None or number >= SEEDS:
        raise UsageError(f"--seed takes whole numbers from 0 to 2^63 - 1, separated by commas, not {text!r}")
    return number


@dataclass
class _Trainer:
    """Plays configurations one after another; keeps the last federation, since methods of one seed share it."""

    store: Store
    place: Place
    settings: Settings
    params: dict[str, Any]
    origin: dict[str, str]
    prepared: Prepared | None = None
    dealt: PartitionConfig | None = None

    def play(self, configs: list[RunConfig]) -> list[dict[str, Any]]:
        from fltk import methods

        for config in configs:  # a typo in the last method must not cost the first one's hours
            methods.create(config.method, config.params)
        if self.params["name"]:
            self.store.require_free_name(self.params["name"])
        stored = self.store.find_partition(self.params["stored"]) if self.params["stored"] else None
        return [self._one(config, stored) for config in configs]

    def _one(self, config: RunConfig, stored: PartitionRow | None) -> dict[str, Any]:
        from fltk import experiment
        from fltk.config import stored_partition

        profile = new_profile(self.params["profile"])
        if stored is not None:
            config = replace(config, partition=stored_partition(stored.config))
        if self.prepared is None or self.dealt != config.partition:
            self.prepared, self.dealt = None, config.partition
            self.prepared = experiment.prepare(config.partition, self.place, self.store, stored)
            for note in lacking(self.prepared):
                self.settings.say(f"part{self.prepared.partition_id}: {note}")
        done = self._done(experiment.resolve(config, self.prepared, self.place.device).digest())
        if done is not None and self.params["skip_done"]:
            return row_of(done)
        with RunProgress(self.settings, f"{config.method} seed {config.seed}") as bar:
            bar.start(config.train.rounds)
            number = experiment.train(
                config,
                self.prepared,
                self.store,
                self.place,
                name=self.params["name"],
                origin=self.origin,
                on_round=heard(profile, lambda done: bar.update(done.round, shown(done.scalars))),
                watch=watch_of(profile),
                started=lambda run: self.settings.say(
                    f"run{run}: {config.method} on part{self.prepared.partition_id}" if self.prepared else f"run{run}"
                ),
            )
        return with_profile(finished(self.store, number, self.settings), profile, self.settings)

    def _done(self, digest: str) -> RunRow | None:
        """The latest finished run of a configuration, which is told."""
        from fltk.registry.method_code import has_other_code

        found = [run for run in self.store.runs(config_hash=digest, status="done") if run.kind == "train"]
        if not found:
            return None
        run, skipped = found[-1], self.params["skip_done"]
        told = f"{run.label} is finished with the same configuration"
        if has_other_code(run):
            told += f", done with other code of {run.method}"
            told += "; leave out --skip-done to train it again" if skipped else "; training it again"
        elif skipped:
            told += ": skipped"
        else:
            told += f" (fltk runs run{run.id} shows it); training it again, which --skip-done would skip"
        self.settings.say(told)
        return run


def lacking(prepared: Prepared) -> list[str]:
    """What to know of a partition without test or validation data."""
    clients, notes = prepared.federation.clients, []
    if not any(len(client.test) for client in clients):
        notes.append("no client has test data, so nothing is known on test data; raise --test-share")
    if not any(len(client.val) for client in clients):
        notes.append("no client has validation data, so no round or deployment can be selected; raise --val-share")
    return notes


def finished(store: Store, number: int, settings: Settings) -> dict[str, Any]:
    """The run's row, read back from the registry, and a word when its map has collapsed."""
    from fltk.methods import method_class
    from fltk.metrics import collapse
    from fltk.protocol.averaging import ONE

    run = store.find_run(number)
    rounds = store.map_rounds(run.id)
    if rounds and method_class(run.method).averages != ONE:  # one model for all clients is no collapse
        said = collapse(store.maps(run.id, [rounds[-1]])[0].array[0])
        if said:
            settings.say(f"{run.label}: {said}")
    return row_of(run)


def shown_columns(runs: Iterable[RunRow]) -> list[Column]:
    """The columns of `row_of` for runs of these measures."""
    return scored(COLUMNS, measures_of(runs))


def row_of(run: RunRow) -> dict[str, Any]:
    return {
        "run": f"run{run.id}",
        "method": run.method,
        "seed": run.seed,
        "partition": None if run.partition_id is None else f"part{run.partition_id}",
        "rounds": run.rounds_done,
        "model": printed_model(run),
        "status": run.status,
        **{c.key: run.last.get(c.key) for c in shown_columns([run]) if c.digits is not None},
    }


def printed_model(run: RunRow) -> str | None:
    """What the personal numbers are of, in a word: mixed, tuned or personal; None for a method that is not known."""
    if run.last.get("own_step"):
        return "tuned"
    found = catalogue.known("method", run.method)
    return None if found is None else str(found.printed)


def shown(scalars: dict[str, float]) -> dict[str, float]:
    """What a progress line tells."""
    key = headline(scalars).key
    names = {"train_loss": "loss", f"personal_val_{key}": "val", f"personal_test_{key}": "test"}
    return {label: scalars[key] for key, label in names.items() if key in scalars}
