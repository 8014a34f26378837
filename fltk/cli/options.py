"""Options built from the config dataclasses, `--config`, `--set`, and where each value came from.

Precedence: flag, then environment, then file, then default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click
from click.core import ParameterSource

from fltk import catalogue, ledger, own_data
from fltk.bounded import read_toml
from fltk.cli.command import Option
from fltk.cli.context import Settings
from fltk.config import IMPORT_SETTLES, PartitionConfig, TrainConfig, ignored
from fltk.errors import UsageError, hint, unknown
from fltk.names import canonical

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")

TABLES: Mapping[str, type] = {"partition": PartitionConfig, "train": TrainConfig}
TOP_LEVEL: Mapping[str, type] = {"method": str, "seed": int}
SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "env",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
    ParameterSource.PROMPT: "flag",
}
FILE_PARAMS = "fltk.file_params"  # the context's place for the file's [params]
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


class Names(click.Choice[str]):
    """A choice, in any case, whose error says what was close. An empty name may be a default but is not shown."""

    def __init__(self, names: Iterable[str], kind: str = "") -> None:
        """`kind`: of the catalogue, if names of installed packages and own code are admissible, too."""
        self.kind = kind
        given = tuple(names)
        super().__init__([name for name in given if name])
        self.allows_empty = "" in given

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself, or a usage error with the nearest ones."""
        names = [str(name) for name in self.choices]
        found = canonical(str(value), names)
        if found in names or (value == "" and self.allows_empty):
            return found
        if self.kind and self._is_own(found):
            return found
        if self.kind and found in catalogue.names(self.kind):
            return found
        self.fail(f"there is no {value!r}; {hint(str(value), names)}", param, ctx)

    def _is_own(self, name: str) -> bool:
        """Whether a name means code or data of the user's own."""
        return catalogue.is_own(name) or (self.kind == "dataset" and own_data.is_data(name))


def options_from(cls: type, *, section: str = "", leave_out: Iterable[str] = (), default: str = "") -> Callable[[F], F]:
    """One option for each field of a config dataclass but those in `leave_out`, with its help, default and choices.

    The heading in `--help` is `section`, or the class name without Config. `default` says there what holds where an
    option is not given, if that is not the field's default. Ranges are checked by the class itself, when `config_from`
    builds it.
    """
    title = section or cls.__name__.removesuffix("Config")
    hints = get_type_hints(cls)
    left = frozenset(leave_out)

    def decorate(function: F) -> F:
        for item in reversed([item for item in fields(cls) if item.name not in left]):
            function = _option(item, hints[item.name], title, default)(function)
        return function

    return decorate


def _option(item: Field[Any], kind: type, section: str, default: str) -> Callable[[F], F]:
    """The click option of one field: underscore becomes hyphen, a bool becomes a pair of flags."""
    if kind not in KINDS or item.default is MISSING:
        raise TypeError(f"no option can be made of field {item.name!r}: {kind}")
    name = item.name.replace("_", "-")
    declaration = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
    choices, text = item.metadata.get("choices"), item.metadata.get("help")
    return click.option(
        declaration,
        item.name,
        cls=Option,
        section=section,
        type=Names(choices, item.metadata.get("kind", "")) if choices else kind,
        default=item.default,
        show_default=item.default != "" and not default,
        help=f"{text} [default: {default}]" if default else text,
    )


def config_from(cls: type[C], params: Mapping[str, Any]) -> C:
    """An instance of a config dataclass from the command's parameters; the class refuses what is wrong."""
    known: tuple[Field[Any], ...] = fields(cls)  # type: ignore[arg-type]  # typeshed has no bound for this
    return cls(**{item.name: params[item.name] for item in known})


def partition_config(ctx: click.Context, params: Mapping[str, Any]) -> PartitionConfig:
    """The partition's configuration; an imported federation keeps all its clients unless newcomers were asked for.

    A table with a column of clients is partitioned by it unless another scheme is asked for.

    UsageError for a flag that the imported folder settles. Other settings that do not apply are told.
    """
    config = config_from(PartitionConfig, params)
    by_client = config.client or ledger.data_names().get(config.dataset, {}).get("client")
    if by_client and _source(ctx, "scheme") == "default":
        config = replace(config, scheme="natural")
    tell_idle(ctx, config)
    if config.from_pfllib and _source(ctx, "newcomers") == "default":
        return replace(config, newcomers=0)
    return config


def tell_idle(ctx: click.Context, config: PartitionConfig) -> None:
    """Settings of a partition that were given and do not apply: refused or told, but never silently without effect."""
    idle, why = ignored(config.scheme), f"--scheme {config.scheme}"
    if config.from_pfllib:
        idle, why = IMPORT_SETTLES, "--from-pfllib, whose folder settles it"

    notes = []
    for param in ctx.command.params:
        if param.name not in idle:
            continue
        source = _source(ctx, param.name)
        if source == "flag" and config.from_pfllib:
            raise UsageError(f"{param.opts[0]} does not go with {why}; leave it out")
        if source != "default":
            notes.append(f"{param.opts[0]} does not apply to {why}")
    if isinstance(ctx.obj, Settings):
        ctx.obj.notes(notes)


def config_option(function: F) -> F:
    """Add `--config exp.toml`, whose values stand in for defaults."""
    return click.option(
        "--config",
        "config",
        cls=Option,
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        show_default=False,
        callback=_load_config,
        help="TOML file with the tables [partition], [train], [params] and the keys method and seed",
    )(function)


def set_option(function: F) -> F:
    """Add `--set key=value` for the method's own parameters; read them with `method_params`."""
    return click.option(
        "--set",
        "set",
        cls=Option,
        metavar="KEY=VALUE",
        multiple=True,
        help="a parameter of the method, repeatable (fltk methods NAME lists them)",
    )(function)


def parse_set(items: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """`["mu=0.1", "top-k=3"]` as `{"mu": 0.1, "top_k": 3}`; the last of equal keys wins."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(f"{option} takes KEY=VALUE, such as mu=0.1, not {item!r}")
        values[name] = literal(text.strip())
    return values


def literal(text: str) -> int | float | bool | str:
    """A value as written: 3 is an int, 3.0 and 1e-3 are floats, true and false bools, the rest is text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text
    if math.isinf(number) and "inf" not in text.lower():
        raise UsageError(f"{text} is too large a number")
    return number


def method_params(ctx: click.Context) -> dict[str, Any]:
    """The method's parameters: those of the file, overridden by `--set`."""
    return {**ctx.meta.get(FILE_PARAMS, {}), **parse_set(ctx.params.get("set", ()))}


def origins(ctx: click.Context) -> dict[str, str]:
    """Where each setting came from: `{"train.lr": "flag", "seed": "default", "params.mu": "file", ...}`.

    The values are flag, env, file and default; keys are those of `RunConfig.to_dict`, joined by a dot.
    """
    found: dict[str, str] = {}
    for table, cls in TABLES.items():
        for item in fields(cls):
            if item.name in ctx.params:
                found[f"{table}.{item.name}"] = _source(ctx, item.name)
    for name in TOP_LEVEL:
        if name in ctx.params:
            found[name] = _source(ctx, name)
    found |= {f"params.{name}": "file" for name in ctx.meta.get(FILE_PARAMS, {})}
    found |= {f"params.{name}": _source(ctx, "set") for name in parse_set(ctx.params.get("set", ()))}
    return found


def _source(ctx: click.Context, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return SOURCES[source] if source is not None else "default"


def _load_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Runs before the other options are read, so that they find the file's values as their defaults."""
    if path is None:
        return
    values, params = read_config(path)
    ctx.default_map = {**(ctx.default_map or {}), **values}
    ctx.meta[FILE_PARAMS] = params


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An experiment file as (option values by parameter name, parameters of the method).

    Keys may be written with hyphens or underscores. Raises `UsageError` naming the file and the wrong key.
    """
    data = read_toml(path, f"--config {path}")
    values: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for key, value in data.items():
        if key in TABLES:
            values |= _checked(_table(path, key, value), get_type_hints(TABLES[key]), f"{path} [{key}]")
        elif key == "params":
            params = {name.replace("-", "_"): item for name, item in _table(path, key, value).items()}
        else:
            values |= _checked({key: value}, {**TOP_LEVEL, **dict.fromkeys(TABLES), "params": None}, str(path))
    return values, params


def _table(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {key} must be a table, [{key}]")
    return value


def _checked(table: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table's values by field name. click would turn 1.5 rounds into 1; here that is an error."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in kinds:
            raise unknown("setting", key, kinds, where)
        if name in values:
            raise UsageError(f"{where}: {name} is given twice")
        if kinds[name] is float and type(value) is int:
            value = float(value)
        if type(value) is not kinds[name]:
            raise UsageError(f"{where}: {key} must be {KINDS[kinds[name]]}, not {value!r}")
        values[name] = value
    return values
