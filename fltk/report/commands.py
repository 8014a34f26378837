"""The commands that make the same runs again, as one types them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from fltk import catalogue
from fltk.config import IMPORT_SETTLES, AttackConfig, DefenceConfig, JoinConfig, PartitionConfig, RunConfig, TrainConfig
from fltk.evaluation.newcomers import KIND as JOIN
from fltk.names import OWN
from fltk.registry import EvaluationRow, RunRow
from fltk.registry.rows import TRAINED
from fltk.report.content import Content, Section
from fltk.report.markup import code, heading, joined, paragraph

ATTACK = "attack"
KNOWN = {"partition", "train", "method", "params", "seed"}  # what `fltk train` settles
DEPLOYED = ("deploy", "deploy_prior", "deploy_w")


def section(content: Content) -> Section:
    """Playing the runs again from the registry, and making them anew without it."""
    again = [f"fltk reproduce run{run.id}" for run in content.runs if run.kind in TRAINED and run.rounds_done]
    parts = []
    if again:
        told = "With the registry: re-run a stored run and compare it round by round, bit for bit."
        parts += [heading("From the registry"), paragraph(told), code("\n".join(again))]
    anew = [line for run in content.runs for line in _anew(content, run)]
    if anew:
        told = "Without it: what the configurations say, each with the partition's seed. Data sets that do not come "
        told += "with fltk are looked for in --data-dir or FLTK_DATA. Run numbers are those of this report."
        parts += [heading("From scratch"), paragraph(told), code("\n".join(anew))]
    return Section("commands", "Commands", joined(parts))


def _anew(content: Content, run: RunRow) -> list[str]:
    """The command of a run behind a comment with its number, and those of its evaluations."""
    make = {"train": training, ATTACK: attacking, JOIN: joining}.get(run.kind)
    line = None if make is None else make(content, run)
    if line is None:
        return []
    made = [] if run.kind == JOIN else [evaluating(run, e) for e in content.store.evaluations(run.id)]
    return [f"# run{run.id}", line, *dict.fromkeys(made)]


def training(content: Content, run: RunRow) -> str | None:
    """`fltk train` with every setting that is not the default; None where that cannot make this run."""
    if set(run.config) - KNOWN or not _is_known(run.method) or run.dataset.startswith(OWN):
        return None
    config = RunConfig.from_dict(run.config)
    words = ["fltk", "train", "--method", run.method, "--seed", str(run.seed)]
    asked = _asked(run.config["partition"])
    # Without --newcomers an imported federation has none, which is not the default of the others.
    always = ("partition_seed", "newcomers") if asked.get("from_pfllib") else ("partition_seed",)
    words += _options(PartitionConfig, asked, always=always)
    words += _options(TrainConfig, run.config["train"])
    return shlex.join(words + _set("--set", _chosen(config)))


def _is_known(method: str) -> bool:
    """Whether `--method` takes the name: own code is named with its hash, also where it has not run."""
    return bool(catalogue.split(method)[1]) or method in catalogue.names("method")


def _asked(partition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a partition that can be asked for: of an imported one those that its folder does not settle."""
    settled = IMPORT_SETTLES if partition.get("from_pfllib") else frozenset()
    return {key: value for key, value in partition.items() if key not in settled}


def _chosen(config: RunConfig) -> Mapping[str, Any]:
    """The hyper-parameters that are not the method's own defaults; all of a method whose code has not run here."""
    from fltk import methods

    if catalogue.known("method", config.method) is None:
        return config.params
    default = methods.resolved(methods.create(config.method, {}))
    return {key: value for key, value in config.params.items() if value != default.get(key)}


def attacking(content: Content, run: RunRow) -> str | None:
    """`fltk attack` on the run without attackers; None where there is none to name."""
    attack, defence = run.config.get("attack", {}), run.config.get("defence", {})
    if run.parent is None or not (attack or defence):
        return None
    words = ["fltk", "attack", "--run", f"run{run.parent}", "--kind", attack.get("kind", "none")]
    words += _options(AttackConfig, {**attack, "kind": ""}) + _set("--set-attack", run.config.get("attack_params", {}))
    if defence:
        words += ["--defence", defence["defence"], *_options(DefenceConfig, {**defence, "defence": ""})]
        words += _set("--set-defence", run.config.get("defence_params", {}))
    own, twin = (found.config["params"] for found in (run, content.store.find_run(run.parent)))
    kept = {key: own[key] for key in _on_guard(run.method) if key in own and own[key] == twin.get(key)}
    return shlex.join(words + _set("--set", kept))


def _on_guard(method: str) -> Iterable[str]:
    """The hyper-parameters that a method changes by itself where malicious clients are expected."""
    found = catalogue.known("method", method)
    return () if found is None else found.on_guard


def joining(content: Content, run: RunRow) -> str:
    """`fltk join-new-client` on the run that was joined."""
    asked = run.config[JOIN]
    at_round = asked["round"] if asked["train_on"] else 0
    given = {**asked, "shots": ",".join(map(str, asked["shots"])), "at_round": at_round}
    own = {item.name for item in fields(JoinConfig)}
    words = ["fltk", "join-new-client", f"run{run.parent}"]
    words += _options(JoinConfig, {key: value for key, value in given.items() if key in own})
    summary = {} if run.partition_id is None else content.store.find_partition(run.partition_id).summary
    if len(asked["newcomers"]) != summary.get("newcomers"):
        words += [word for number in asked["newcomers"] for word in ("--newcomer", str(number))]
    return shlex.join(words)


def evaluating(run: RunRow, found: EvaluationRow) -> str:
    """`fltk evaluate` as it was asked for."""
    words = ["fltk", "evaluate", f"run{run.id}"]
    for name in DEPLOYED:
        if name in found.summary:
            words += [f"--{name.replace('_', '-')}", str(found.summary[name])]
    if found.round != run.config["train"]["rounds"]:
        words += ["--round", str(found.round)]
    return shlex.join(words)


def _options(cls: type, values: Mapping[str, Any], always: Iterable[str] = ()) -> list[str]:
    """The options of a table of the configuration whose value is not the default."""
    words: list[str] = []
    for item in fields(cls):
        value = values.get(item.name, item.default)
        if value == item.default and item.name not in always:
            continue
        name = item.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", _written(value)]
    return words


def _set(option: str, values: Mapping[str, Any]) -> list[str]:
    """Hyper-parameters one by one."""
    return [word for key, value in values.items() for word in (option, f"{key}={_written(value)}")]


def _written(value: Any) -> str:
    """A value as it reads back the same."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
