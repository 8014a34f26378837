"""One run from configuration to registry: partition, train, restore.

The command line parses and prints; this module is what it calls, and what a Python user calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fltk import attacks, channel, defences, methods, partition
from fltk import engine as engines
from fltk.attacks.campaign import Campaign, choose
from fltk.config import PartitionConfig, RunConfig, TrainConfig, as_stored, stored_partition
from fltk.data import load, own_sets
from fltk.data.dataset import Dataset
from fltk.data.own import given, named, subset_of
from fltk.data.sources import SOURCES, folder
from fltk.engine.base import Engine, Job, Protection, check_device, default_model
from fltk.errors import ChangedFiles, FltkError, UsageError
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.names import OWN
from fltk.objectives import CLASSIFICATION, Objective
from fltk.own_code import admit
from fltk.partition import Partition, pfllib
from fltk.partition.federation import Federation
from fltk.partition.federation import build as build_federation
from fltk.partition.summary import partition_summary
from fltk.protocol.map import Map
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.registry import MapBlob, PartitionRow, RunRow, Store
from fltk.registry.capture import environment, git_state
from fltk.registry.changes import Change
from fltk.registry.heartbeat import beating
from fltk.registry.method_code import KEY as METHOD_CODE
from fltk.registry.method_code import method_digest
from fltk.registry.plugins import code_record, stored_code, with_hashes
from fltk.registry.rows import TRAINED
from fltk.rounds import checks, loop
from fltk.train import augment, streams
from fltk.train.backend import chosen
from fltk.train.streams import Streams

CHECKPOINT_EVERY = 10
KEEP = 2
MAP_CLIENTS = 100  # above so many clients a map is stored every tenth round only

OnRound = Callable[[loop.RoundDone], None]
Watch = Callable[[str], AbstractContextManager[object]]  # measures a part of a round by name


def unwatched(part: str) -> AbstractContextManager[object]:
    """Nobody measures."""
    return nullcontext()


@dataclass(frozen=True)
class Place:
    """Where things are and how work is done; nothing here changes a bit of a result.

    own: data sets of the user's own (`fltk.data.own`), which configurations call own:NAME.
    trust_stored_code: run the source that a run of the registry has stored, if its file is not here.
    UsageError for an engine or a device that there is not, before anything is loaded or stored.
    """

    data_dir: Path | None = None
    download: bool = False
    engine: str = "serial"
    device: str = "cpu"
    keep_checkpoints: int = KEEP
    own: tuple[Dataset, ...] = ()
    trust_stored_code: bool = False

    def __post_init__(self) -> None:
        engines.read_spec(self.engine)
        check_device(self.device)


@dataclass(frozen=True)
class Prepared:
    """A federation in memory and its partition in the registry."""

    federation: Federation
    data_fingerprint: str
    partition_id: int
    config: PartitionConfig


def save_partition(store: Store, dataset: Dataset, made: Partition, name: str | None = None) -> int:
    """The number of the partition in the registry; the same partition is stored once.

    UsageError for a partition whose configuration calls the data something else than they are.
    """
    if made.config.dataset != named(dataset):
        raise UsageError(
            f"the partition says dataset {made.config.dataset!r}, but its samples are {named(dataset)!r}: give its "
            f"configuration dataset={named(dataset)!r}"
        )
    return store.save_partition(
        config=as_stored(made.config),
        arrays=partition.to_arrays(made),
        fingerprint=made.fingerprint,
        data_fingerprint=made.data_fingerprint,
        summary=partition_summary(dataset, made),
        name=name,
    )


def prepare(config: PartitionConfig, place: Place, store: Store, stored: PartitionRow | None = None) -> Prepared:
    """Load the data, deal them to clients (or take the stored partition) and register the partition."""
    if stored is None:
        dataset, made = deal(config, place)
        number = save_partition(store, dataset, made)
        return Prepared(build_federation(dataset, made), dataset.fingerprint, number, made.config)
    dataset = dataset_of(config, place)
    if stored.data_fingerprint != dataset.fingerprint:
        found = config.from_pfllib or f"--dataset {config.dataset}"
        raise ChangedFiles(
            f"the data of {found} changed since part{stored.id} was created (fingerprint "
            f"{stored.data_fingerprint[:12]} != {dataset.fingerprint[:12]}); use the same files"
        )
    try:
        made = partition.from_arrays(config, store.partition_arrays(stored.id))
    except FltkError as error:
        made = _again(stored, config, dataset, store, error)
    return Prepared(build_federation(dataset, made), dataset.fingerprint, stored.id, made.config)


def _again(
    stored: PartitionRow, config: PartitionConfig, dataset: Dataset, store: Store, error: FltkError
) -> Partition:
    """A partition whose file is lost or damaged, dealt anew if that gives the same; its file is written again."""
    made = None if config.from_pfllib else partition.make(dataset, config)
    if made is None or made.fingerprint != stored.fingerprint:
        raise error
    if not store.readonly:
        with suppress(FltkError):  # what has to be done can be done without it
            store.mend_partition(stored.id, partition.to_arrays(made))
    return made


def dealt_again(stored: PartitionRow, store: Store, place: Place, error: FltkError) -> partition.Arrays:
    """The arrays of a partition whose file cannot be read; raises `error`, which says so, where nothing helps."""
    config = stored_partition(stored.config)
    try:
        return partition.to_arrays(_again(stored, config, dataset_of(config, place), store, error))
    except FltkError:
        raise error from None


def deal(config: PartitionConfig, place: Place) -> tuple[Dataset, Partition]:
    """The data and their partition, from a source by name or from a folder that PFLlib wrote."""
    if config.from_pfllib:
        return pfllib.load(Path(config.from_pfllib), config)
    config = own_sets.settled(config)
    dataset = dataset_of(config, place)
    return dataset, partition.make(dataset, config)


def dataset_of(config: PartitionConfig, place: Place) -> Dataset:
    """The data alone. UsageError for own data that `place` does not have."""
    if config.from_pfllib:
        return pfllib.load(Path(config.from_pfllib), config)[0]
    if config.dataset.startswith(OWN):
        return subset_of(given(config.dataset, place.own), config.subset, config.partition_seed)
    if config.dataset not in SOURCES:
        whole = own_sets.load(own_sets.settled(config), folder(place.data_dir))
        return subset_of(whole, config.subset, config.partition_seed)
    return load(
        config.dataset, place.data_dir, download=place.download, subset=config.subset, seed=config.partition_seed
    )


def resolve(config: RunConfig, prepared: Prepared, device: str = "cpu") -> RunConfig:
    """The configuration with every default written out, as it is stored and hashed."""
    federation = prepared.federation
    return _resolved(config, prepared.config, federation.shape, device, federation.objective)


def foresee(config: RunConfig, place: Place) -> RunConfig:
    """What `resolve` comes to, without dealing the data; only a federation of another program has to be read."""
    if config.partition.from_pfllib:
        return _resolved(config, *_imported(config.partition), place.device)
    if config.partition.dataset.startswith(OWN):
        own = given(config.partition.dataset, place.own)
        return _resolved(config, config.partition, own.shape, place.device, own.objective)
    if config.partition.dataset not in SOURCES:
        settled = own_sets.settled(config.partition)
        found = own_sets.load(settled, folder(place.data_dir))
        dealt = replace(settled, dataset=found.name)
        return _resolved(config, dealt, found.shape, place.device, found.objective)
    source = SOURCES[config.partition.dataset]
    return _resolved(config, config.partition, source.shape, place.device, source.objective)


@lru_cache(maxsize=4)
def _imported(config: PartitionConfig) -> tuple[PartitionConfig, tuple[int, ...]]:
    """The settled partition and the samples' shape of a federation of another program."""
    dataset, made = pfllib.load(Path(config.from_pfllib), config)
    return made.config, dataset.shape


def _resolved(
    config: RunConfig,
    dealt: PartitionConfig,
    shape: tuple[int, ...],
    device: str,
    objective: Objective = CLASSIFICATION,
) -> RunConfig:
    model = config.train.model or default_model(shape, objective.tokens)
    config = with_hashes(replace(config, partition=dealt, train=replace(config.train, model=model)))
    method = methods.create(config.method, config.params)
    zoo.check_tokens(model, objective.tokens)
    check_device(device)
    base = method.network(lambda: zoo.make(model, shape, 2, config.train.hidden_sizes()))  # any number of classes
    layout = Layout.of(base)
    check_texts(config.train, dealt)

    step = chosen(config.train.step, layout, device)
    own_step = own_step_of(config.train.own_step, method, objective)
    attack_params, defence_params = {}, {}
    if config.attack.kind:
        attack_params = methods.resolved(attacks.create(config.attack.kind, config.attack_params))
    if config.defence.defence:
        defence_params = methods.resolved(defences.create(config.defence.defence, config.defence_params))
    return replace(
        config,
        train=replace(config.train, step=step, own_step=own_step),
        params=methods.resolved(method),
        attack_params=attack_params,
        defence_params=defence_params,
    )


def check_texts(train: TrainConfig, dealt: PartitionConfig) -> None:
    """UsageError for a text among the settings that the part of fltk it is for cannot read."""
    train.network_names(dealt.clients)
    if train.channel:
        channel.parse(train.channel)
    if train.augment:
        augment.parse(train.augment)


def own_step_of(asked: str, method: Method, objective: Objective = CLASSIFICATION) -> str:
    """The own step as it is stored: what a method does anyway is `auto`, so that it has one name, and one hash.

    The vote is on class priors as well, so that there is none where the data have no classes.
    """
    if asked == "vote" and not objective.softmax:
        raise UsageError(f"--own-step vote tries class priors, and {objective.name} has no classes; use none")
    votes = method.votes and objective.softmax
    if asked == "vote" or (asked == "auto" and votes):
        return "vote"
    return "none" if method.votes else "auto"


def circumstances(device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Environment and git state of a run on `device` by this process, as they are stored with it."""
    return {**environment(), "streams": streams.VERSION, "device": device}, git_state()


def job_of(config: RunConfig, federation: Federation, device: str = "cpu") -> Job:
    """What engine and round loop need to play a run."""
    method, n = methods.create(config.method, config.params), len(federation.clients)
    campaign = campaign_of(config, n)
    return Job(federation, config.train, method, config.seed, device, campaign, protection_of(config, campaign, n))


def campaign_of(config: RunConfig, n: int) -> Campaign | None:
    """The attack of a run among n clients."""
    asked = config.attack
    if not asked.kind:
        return None
    streams = Streams(config.seed if asked.attack_seed < 0 else asked.attack_seed)
    return Campaign(
        attack=attacks.create(asked.kind, config.attack_params),
        malicious=choose(asked.malicious, asked.ids(), n, streams),
        start=asked.attack_start - 1,
        stop=asked.attack_stop - 1 if asked.attack_stop else math.inf,
        size=asked.attack_size,
        streams=streams,
    )


def protection_of(config: RunConfig, campaign: Campaign | None, n: int) -> Protection | None:
    """The defence of a run; by default it assumes the true share of malicious clients."""
    asked = config.defence
    if not asked.defence:
        return None
    share = asked.defence_fraction
    if share < 0:
        share = 0.2 if campaign is None else len(campaign.malicious) / n
    made = defences.create(asked.defence, config.defence_params)
    return Protection(asked.defence, made, share, asked.defence_weights, asked.root_samples)


def train(
    config: RunConfig,
    prepared: Prepared,
    store: Store,
    place: Place,
    *,
    name: str | None = None,
    origin: Mapping[str, str] | None = None,
    on_round: OnRound | None = None,
    started: Callable[[int], None] | None = None,
    twin: int | None = None,
    watch: Watch = unwatched,
    claim: bool = False,
) -> int:
    """Play a new run into the registry; returns its number. What is refused is refused before a row is written.

    claim: `fltk.registry.attempts.Claimed` where another process has begun the same run, or has finished it.
    twin: the number of the same run without attackers and defence; the new one is stored as its child, of kind attack.
    watch: measures where the time goes, such as `fltk.bench.profile.Profile.watch`.
    """
    config = resolve(config, prepared, place.device)
    job = job_of(config, prepared.federation, place.device)
    task = job.task()
    checks.check(job, task)
    engine = engines.make(place.engine, job)
    try:
        around, git = circumstances(place.device)
        run = store.begin_run(
            config.to_dict(),
            config.digest(),
            name=name,
            origin=origin,
            parent=twin,
            kind="train" if twin is None else "attack",
            partition_id=prepared.partition_id,
            data_fingerprint=prepared.data_fingerprint,
            environment=around,
            git={**git, METHOD_CODE: method_digest(config.method), **code_record(config)},
            seed=config.seed,
            claim=claim,
        )
        try:
            with beating(store, run):
                play(run, job, task, engine, store, place, on_round=on_round, started=started, watch=watch)
        except KeyboardInterrupt:
            if store.find_run(run).status == "running":  # not even its first attempt has begun
                store.finish(run, "interrupted", "stopped by a signal before its first round")
                raise KeyboardInterrupt(f"`fltk resume run{run}` starts with its first round") from None
            raise
    finally:
        engine.close()
    return run


def require_train(run: RunRow, what: str) -> None:
    """UsageError for a run that was not trained as a whole, with or without attackers."""
    if run.kind not in TRAINED:
        of = "" if run.parent is None else f" of run{run.parent}"
        raise UsageError(f"{what} takes runs of `fltk train`, but {run.label} is a {run.kind} run{of}")


def restore(run: RunRow, store: Store, place: Place) -> tuple[RunConfig, Prepared]:
    """The configuration and the federation of a stored run, checked against what was stored."""
    if place.trust_stored_code:
        admit(stored_code(run))
    config = RunConfig.from_dict(run.config)
    stored = None if run.partition_id is None else store.find_partition(run.partition_id)
    prepared = prepare(config.partition, place, store, stored)
    return config, prepared


def checkpoint(run: RunRow, store: Store, round: int | None = None) -> tuple[int, State]:
    """A stored state: the last one, or that of a round."""
    found = store.latest_checkpoint(run.id) if round is None else store.load_checkpoint(run.id, round)
    if found is None:
        raise FltkError(f"{run.label} has no checkpoint yet; continue it with `fltk resume run{run.id}`")
    return found[0], State.from_tensors(found[1])


def play(
    run: int,
    job: Job,
    task: Task,
    engine: Engine,
    store: Store,
    place: Place,
    *,
    behind: tuple[int, State] | None = None,
    on_round: OnRound | None = None,
    started: Callable[[int], None] | None = None,
    changed: Sequence[Change] = (),
    watch: Watch = unwatched,
) -> None:
    """The rounds of one attempt at a run, stored as they end; a stopped attempt leaves a checkpoint of its last round.

    A run that was done before and lost nothing stays so, with the checkpoint of its end as the newest one. `behind` is
    the stored state (finished rounds, state) to go on from, `changed` what of code and environment differs from the
    run's beginning and was allowed.
    """
    store.start_attempt(run, [(c.name, c.then, c.now) for c in changed])
    last: loop.RoundDone | None = None
    saved = behind[0] if behind else 0
    try:
        if started:
            started(run)
        for done in _watched(loop.rounds(job, engine, resume=behind, task=task), watch):
            try:
                with watch("registry"):
                    store.record_round(run, done.round, done.scalars, done.clients, map_blob(done, job), done.digest)
            except BaseException:
                done.withdraw()
                raise
            last = done  # only now: behind a checkpoint of an unrecorded round, the resumed run would have a gap
            if done.round % CHECKPOINT_EVERY == 0 or done.round == job.train.rounds:
                with watch("checkpoints"):
                    saved = _save(run, done, store, place)
            if on_round:
                with watch("display"):
                    on_round(done)
    except KeyboardInterrupt:
        played = last.round if last else saved
        if store.finish(run, "interrupted", f"stopped by a signal after round {played}"):
            raise KeyboardInterrupt(f"run{run} stays complete, as it was before") from None
        _save_behind(saved, run, last, store, place)
        left = f"run{run} has finished {played} of {job.train.rounds} rounds"
        raise KeyboardInterrupt(f"{left}; continue it with `fltk resume run{run}`") from None
    except Exception as error:
        with suppress(FltkError):  # a registry that cannot be written is the error itself; it is told once
            if not store.finish(run, "failed", " ".join(str(error).split())[:1000]):
                _save_behind(saved, run, last, store, place)
        raise
    store.finish(run, "done")


def _watched(rounds: Iterator[loop.RoundDone], watch: Watch) -> Iterator[loop.RoundDone]:
    """The rounds, each measured as it is played."""
    while True:
        with watch("round"):
            done = next(rounds, None)
        if done is None:
            return
        yield done


def _save_behind(saved: int, run: int, last: loop.RoundDone | None, store: Store, place: Place) -> None:
    """A checkpoint of the last round, unless there is none or it has one."""
    if last is not None and last.round > saved:
        _save(run, last, store, place)


def _save(run: int, done: loop.RoundDone, store: Store, place: Place) -> int:
    store.add_checkpoint(run, done.round, done.state.tensors(), {"digest": done.digest}, place.keep_checkpoints)
    return done.round


def map_blob(done: loop.RoundDone, job: Job) -> MapBlob | None:
    """The round's map as it is stored; with many clients only now and then."""
    if done.map is None:
        return None
    many = len(job.federation.clients) > MAP_CLIENTS
    if many and done.round % CHECKPOINT_EVERY and done.round != job.train.rounds:
        return None
    return blob_of(done.map)


def blob_of(found: Map) -> MapBlob:
    """The whole-model map first, then one matrix per slice where slices differ."""
    arrays, names = [found.whole()], ["whole"]
    if len(found.slices) > 1:
        names += list(found.slices)
        arrays += [m.double() for m in found.slices.values()]
    return MapBlob(found.kind, tuple(names), np.stack([a.numpy() for a in arrays]).astype(np.float32))
