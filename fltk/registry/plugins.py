"""The user's own code as it is stored with a run: where it lay, its hash, and its source.

It is stored in the run's record of the code, beside the state of git, and sealed with it. It is text: nothing here, and
nothing that reads runs, ever runs it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fltk import catalogue
from fltk.config import RunConfig
from fltk.errors import FltkError
from fltk.own_code import Code
from fltk.registry.rows import RunRow

KEY = "own_code"  # in a run's git state
FIRST = ("method", "model", "attack", "defence")  # named outside the partition, whose names its data and scheme settle


def with_hashes(config: RunConfig) -> RunConfig:
    """The configuration with the hash of its source behind every name of own code, as it is stored."""
    named = config.names()
    stored = {kind: catalogue.pinned(kind, named[kind]) for kind in named if kind in FIRST}
    partition = config.partition
    if not partition.from_pfllib:  # else data and scheme are those of another program
        partition = replace(partition, scheme=catalogue.pinned("scheme", partition.scheme))
    return replace(
        config,
        partition=partition,
        method=stored["method"],
        train=replace(config.train, model=stored.get("model", "")),
        attack=replace(config.attack, kind=stored.get("attack", "")),
        defence=replace(config.defence, defence=stored.get("defence", "")),
    )


def code_record(config: RunConfig) -> dict[str, list[dict[str, str]]]:
    """What a run stores of the code that its configuration names; nothing where all of it is built in."""
    records = []
    for kind, name in config.names().items():
        if not catalogue.split(name)[1]:
            continue
        code = catalogue.resolve(kind, name).code
        if code is not None:
            records.append(
                {
                    "kind": kind,
                    "name": name,
                    "path": code.path,
                    "module": code.module,
                    "sha256": code.sha256,
                    "source": _text(code.source),
                }
            )
    return {KEY: records} if records else {}


def _text(source: bytes) -> str:
    """Source as it can stand in JSON: as it is, or in base64 where it is no UTF-8."""
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(source).decode()


def records(run: RunRow) -> list[Mapping[str, Any]]:
    """The stored records of a run's own code."""
    found = run.git.get(KEY, [])
    return [record for record in found if isinstance(record, Mapping)] if isinstance(found, list) else []


def stored_code(run: RunRow) -> list[Code]:
    """The sources of a run; FltkError for a record that cannot be read."""
    codes = []
    for record in records(run):
        try:
            source = str(record["source"])
            content = base64.b64decode(source[7:]) if source.startswith("base64:") else source.encode()
            codes.append(Code(str(record["path"]), str(record["sha256"]), content, str(record["module"])))
        except (KeyError, ValueError) as error:
            raise FltkError(f"{run.label}: its stored code is damaged ({error})") from None
    return codes
