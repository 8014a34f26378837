"""Models of a stored run as safetensors files that load into the torch module.

A file holds one model: tensors with the names of the module's `state_dict`, and metadata that say which run, round and
client they come from and which module takes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fltk import engine as engines
from fltk.engine.base import Bench, Job
from fltk.errors import Diverged, FltkError, UsageError
from fltk.evaluation.replay import Recovered, state_of
from fltk.experiment import Place, job_of, restore
from fltk.files import check_path, replacing
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.protocol.state import State
from fltk.registry import RunRow, Store
from fltk.train import own_step

SUFFIX = ".safetensors"
KEY = "fltk"  # of the metadata: one entry, since the format keeps several in no fixed order
GLOBAL = "global"


@dataclass(frozen=True)
class Origin:
    """What the metadata of a file say.

    round: finished rounds.  client: its number, or `global` for the one server model.  shape: of a sample.
    hidden: layer sizes of an mlp.
    """

    run: str
    uuid: str
    method: str
    round: int
    client: int | str
    dataset: str
    model: str
    shape: tuple[int, ...]
    classes: int
    hidden: tuple[int, ...]

    def module(self) -> nn.Module:
        """The network without weights, on torch's meta device."""
        return zoo.make(self.model, self.shape, self.classes, self.hidden)


@dataclass(frozen=True)
class PersonalTask:
    """Ask for the model that a client uses after `round` finished rounds."""

    client: int
    round: int
    model: Tensor  # (P,) before the method's own personalisation step
    choice: int = 0  # the own step that the federation has chosen


def personalised(bench: Bench, task: PersonalTask) -> Tensor:
    """The model (P,) whose accuracy is recorded as `personal` in that round."""
    client = bench.client(task.client)
    trainer = bench.trainer.at(task.round - 1, task.client)
    model = task.model
    try:
        model = bench.method.personalise(model, client, trainer)
    except Diverged:
        if not bench.attacked:
            raise
    return own_step.used(model, task.choice, client, trainer, bench.pooled)


def export_weights(
    store: Store, run: RunRow, path: Path, place: Place, *, client: int | None = None, round: int | None = None
) -> Origin:
    """Write one model of a run: the global model, or the personal model of `client`.

    round: a stored checkpoint; None: the last one. UsageError where the method has no global model, or where no client
    has that number.
    """
    check_path(path, (SUFFIX,))
    config, prepared = restore(run, store, place)
    job = job_of(config, prepared.federation, place.device)
    found = state_of(run, store, job, place, round)
    flat = _global(run, job, found.state) if client is None else _personal(run, job, found, client)

    origin = _origin(run, job, config.partition.dataset, client, found.round)
    metadata = {KEY: json.dumps(asdict(origin), sort_keys=True)}
    written = save(state_dict(job.network(), flat), metadata)
    with replacing(path) as file:
        file.write(written)
    return origin


def _origin(run: RunRow, job: Job, dataset: str, client: int | None, round: int) -> Origin:
    """What the metadata say."""
    return Origin(
        run=f"run{run.id}",
        uuid=run.uuid,
        method=run.method,
        round=round,
        client=GLOBAL if client is None else client,
        dataset=dataset,
        model=job.train.model,
        shape=tuple(job.federation.shape),
        classes=job.federation.n_classes,
        hidden=job.train.hidden_sizes(),
    )


def _global(run: RunRow, job: Job, state: State) -> Tensor:
    """The one server model (P,)."""
    model = job.method.global_model(state, job.task())
    if model is None:
        last = len(job.federation.clients) - 1
        raise UsageError(f"--what weights: {run.method} has no global model; choose a client with --client 0 to {last}")
    return model


def _personal(run: RunRow, job: Job, found: Recovered, client: int) -> Tensor:
    """The model (P,) of one client."""
    count = len(job.federation.clients)
    if not 0 <= client < count:
        raise UsageError(f"--client {client}: {run.label} has clients 0 to {count - 1}")
    (model,) = job.method.personal_model(found.state, [client], job.task())
    engine = engines.make("serial", job)
    try:
        task = PersonalTask(client, found.round, model, own_step.choice_of(found.state.server))
        (flat,) = engine.map(personalised, [task], [1])
    finally:
        engine.close()
    assert isinstance(flat, Tensor)
    return flat


def state_dict(module: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """A flat model (P,) under the names, and in the shapes, of the module's `state_dict`.

    Integer buffers, which only count batches, are not part of a flat model: they are zero.
    """
    entries = {entry.name: entry for entry in Layout.of(module).entries}
    tensors: dict[str, Tensor] = {}
    for name, meta in module.state_dict().items():
        if name in entries:
            tensors[name] = entries[name].view(flat.detach().cpu()).contiguous().clone()
        else:
            tensors[name] = torch.zeros(meta.shape, dtype=meta.dtype)
    return tensors


def read_origin(path: Path) -> Origin:
    """The metadata of a file; FltkError where fltk did not write it."""
    return _read(path)[0]


def load_model(path: Path) -> nn.Module:
    """The torch module with the weights of a file, in evaluation mode. FltkError where fltk did not write it."""
    origin, tensors = _read(path)
    module = origin.module()
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def _read(path: Path) -> tuple[Origin, Mapping[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            for name in file.keys():  # noqa: SIM118  # not a mapping
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise FltkError(f"{path} cannot be read as weights: {error}") from None
    if text is None:
        raise FltkError(f"{path} was not written by `fltk export --what weights`: its metadata name no run")
    known = json.loads(text)
    return Origin(**{**known, "shape": tuple(known["shape"]), "hidden": tuple(known["hidden"])}), tensors
