"""`fltk attacks` and `fltk defences`."""

from __future__ import annotations

from typing import Any

import click

from fltk import catalogue
from fltk.cli.command import command
from fltk.cli.methods import explain
from fltk.cli.output import Column, emit, output_options

ATTACK_COLUMNS = [
    Column("attack"),
    Column("summary"),
    Column("touches", "manipulates"),
    Column("knows"),
    Column("hyper_parameters", "parameters"),
]
DEFENCE_COLUMNS = [
    Column("defence"),
    Column("summary"),
    Column("one", "global model"),
    Column("clusters", "cluster models"),
    Column("mixed", "per-client averages"),
    Column("weights"),
    Column("condition"),
    Column("hyper_parameters", "parameters"),
]
FORMS = {"screen": "filter updates", "combine": "replace the average"}  # in tables; json keeps the names of the code


@command("attacks", examples=("fltk attacks", "fltk attacks alie", "fltk attacks --format json"))
@click.argument("name", required=False)
@output_options
def attacks(name: str | None, format: str) -> None:
    """List the attacks, or explain one.

    With a NAME: its citation, its equations, what differs from the paper, and its parameters (set with
    `fltk attack --set-attack KEY=VALUE`). An attack manipulates the data of malicious clients, their training, or their
    uploads; some know the benign clients' updates of the round, or the server's rule.
    """
    if name is not None:
        explain("attack", name, "--set-attack", format)
        return
    emit([_attack(kind) for kind in catalogue.names("attack")], ATTACK_COLUMNS, format)


def _attack(name: str) -> dict[str, Any]:
    from fltk.attacks import attack_class
    from fltk.hyper import hypers

    cls = attack_class(name)
    touched = [word for word, there in (("data", cls.on_data), ("upload", cls.on_upload)) if there]
    return {
        "attack": name,
        "summary": cls.title,
        "touches": ", ".join(touched),
        "knows": ", ".join(sorted(cls.knows)) or None,
        "colludes": cls.colludes,
        "hyper_parameters": [h.name for h in hypers(cls)] or None,
    }


@command("defences", examples=("fltk defences", "fltk defences multi-krum", "fltk defences --format json"))
@click.argument("name", required=False)
@output_options
def defences(name: str | None, format: str) -> None:
    """List the defences, or explain one.

    With a NAME: its citation, its equations, what differs from the paper, and its parameters (set with
    `fltk attack --set-defence KEY=VALUE`). A defence filters updates (it rejects or reweights uploads once a round),
    replaces the average, or both; the list says which, for methods with one global model, with cluster models, and with
    an average of its own for each client.
    """
    if name is not None:
        explain("defence", name, "--set-defence", format)
        return
    rows = [_defence(kind) for kind in catalogue.names("defence")]
    if format in ("table", "latex"):
        rows = [_in_words(row) for row in rows]
    emit(rows, DEFENCE_COLUMNS, format)


def _in_words(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what a defence does to each kind of method written out."""
    shown = dict(row)
    for kind in ("one", "clusters", "mixed"):
        for form, words in FORMS.items():
            shown[kind] = shown[kind].replace(form, words)
    return shown


def _defence(name: str) -> dict[str, Any]:
    from fltk.defences import defence_class
    from fltk.hyper import hypers
    from fltk.protocol.averaging import KINDS

    cls = defence_class(name)
    return {
        "defence": name,
        "summary": cls.title,
        **{kind: ", ".join(sorted(cls.forms.get(kind, ()), reverse=True)) or "no" for kind in KINDS},
        "weights": "method's" if cls.weighted else "equal",
        "condition": cls.condition,
        "hyper_parameters": [h.name for h in hypers(cls)] or None,
    }
