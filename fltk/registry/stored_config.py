"""Whether a stored configuration has the form that everything which reads runs relies on.

A configuration can be valid JSON and still lack a key, or have a text where a number belongs. Such a run is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fltk.config import AttackConfig, DefenceConfig, PartitionConfig, TrainConfig
from fltk.registry.rows import MEASURED

NUMBER = (int, float)


@dataclass(frozen=True)
class _Setting:
    """A key of a table, the types that its value may have, and whether it has to be there."""

    key: str
    types: tuple[type, ...]
    required: bool = True


def _settings_of(cls: type[Any]) -> tuple[_Setting, ...]:
    """The fields of a dataclass of settings; those that came later may be absent."""
    found = []
    for item in fields(cls):
        plain = type(item.default)
        types = NUMBER if plain is float else (plain,)
        found.append(_Setting(item.name, types, not item.metadata.get("later", False)))
    return tuple(found)


_RUN = (
    _Setting("method", (str,)),
    _Setting("seed", (int,)),
    _Setting("params", (dict,)),
    _Setting("partition", (dict,)),
    _Setting("train", (dict,)),
    _Setting("attack", (dict,), required=False),
    _Setting("attack_params", (dict,), required=False),
    _Setting("defence", (dict,), required=False),
    _Setting("defence_params", (dict,), required=False),
    _Setting("join", (dict,), required=False),
)
_TABLES = {
    "partition": _settings_of(PartitionConfig),
    "train": _settings_of(TrainConfig),
    "attack": _settings_of(AttackConfig),
    "defence": _settings_of(DefenceConfig),
    "join": (
        _Setting("finetune", (str,)),
        _Setting("epochs", (int,)),
        _Setting("lr", NUMBER),
        _Setting("shots", (list,)),
        _Setting("newcomers", (list,)),
        _Setting("round", (int,)),
        _Setting("train_on", (bool,)),
    ),
}
# A measurement has no partition of its own: only what lists of runs show.
_MEASURED = {
    "partition": (_Setting("dataset", (str,)), _Setting("scheme", (str,)), _Setting("partition_seed", (int,))),
    "train": (_Setting("model", (str,)), _Setting("rounds", (int,))),
}


def check_config(config: Mapping[str, Any], kind: str) -> None:
    """ValueError, which names the first setting, where a configuration lacks one or has a value of another type."""
    for told in _faults(config, kind):
        raise ValueError(f"in its configuration, {told}")


def _faults(config: Mapping[str, Any], kind: str) -> Iterator[str]:
    """A line for each setting that is not as it has to be."""
    yield from _faults_of(config, _RUN, "")

    tables = _MEASURED if kind == MEASURED else _TABLES
    for name, settings in tables.items():
        if name in config:
            yield from _faults_of(config[name], settings, f"{name}.")


def _faults_of(values: Mapping[str, Any], settings: tuple[_Setting, ...], prefix: str) -> Iterator[str]:
    for setting in settings:
        if setting.key not in values:
            if setting.required:
                yield f"{prefix}{setting.key} is missing"
        elif not isinstance(values[setting.key], setting.types):
            expected = " or ".join(kind.__name__ for kind in setting.types)
            yield f"{prefix}{setting.key} is {values[setting.key]!r:.40} in place of {expected}"
