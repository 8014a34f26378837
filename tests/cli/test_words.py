"""The words of help texts, column heads and documentation: those of the field, the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

import click
import pytest
from calls import ROOT

from fltk.attacks import attack_class
from fltk.cli.main import COMMANDS, cli
from fltk.cli.output import Column
from fltk.config import AttackConfig, DefenceConfig, JoinConfig, PartitionConfig, TrainConfig
from fltk.defences import defence_class
from fltk.hyper import hypers
from fltk.methods import method_class
from fltk.names import ATTACKS, DEFENCES, METHODS

# Words that readers stumbled over, each with what is said instead.
AVOIDED = {
    r"\bnobody\b": "no client",
    r"\bbehind\b": "after",
    r"\banew\b": "again",
    r"\bbeside\b": "next to, compared with",
    r"\bwhom\b": "which clients",
    r"\bcomes? to\b": "is",
    r"\bat hand\b": "available",
    r"\btwins?\b": "unattacked baseline",
    r"\bdeal(t|s)?\b": "partition",
    r"\bwronged\b": "benign rejected",
    r"\bharmed\b": "worse than local",
    r"\btravels?\b": "is shared",
    r"\bplay(s|ed)?\b": "run",
    r"\bmixed rows?\b": "per-client averages",
}


def commands(item: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """A command and its members."""
    yield path, item
    if isinstance(item, click.Group):
        for name, member in item.commands.items():
            yield from commands(member, f"{path} {name}")


def helps() -> Iterator[tuple[str, str]]:
    """Every text that --help can show, with the place where it stands."""
    for name, entry in COMMANDS.items():
        yield f"fltk --help, {name}", entry.help
        found = cli.get_command(click.Context(cli), name)
        assert found is not None
        for path, item in commands(found, f"fltk {name}"):
            yield path, item.help or ""
            for param in item.params:
                yield f"{path} {param.name}", getattr(param, "help", None) or ""
    for config in (PartitionConfig, TrainConfig, JoinConfig, AttackConfig, DefenceConfig):
        for field in config.__dataclass_fields__.values():
            yield f"{config.__name__}.{field.name}", str(field.metadata.get("help", ""))
    for names, find in ((METHODS, method_class), (ATTACKS, attack_class), (DEFENCES, defence_class)):
        for name in names:
            for parameter in hypers(find(name)):
                yield f"{name} {parameter.name}", parameter.help


def heads() -> Iterator[tuple[str, str]]:
    """Every column head of the command line."""
    for entry in COMMANDS.values():
        module = import_module(entry.target.partition(":")[0])
        for name, value in vars(module).items():
            columns = value if isinstance(value, list | tuple) else ()
            for column in columns:
                if isinstance(column, Column):
                    yield f"{module.__name__}.{name}", column.heading


@pytest.mark.parametrize("avoided", AVOIDED)
def test_help_and_heads_use_the_fields_words(avoided: str) -> None:
    texts = [*helps(), *heads()]
    assert len(texts) > 300
    found = [(place, text) for place, text in texts if re.search(avoided, text, re.IGNORECASE)]
    assert not found, f"say {AVOIDED[avoided]!r}: {found}"


@pytest.mark.parametrize("page", ["README.md", "docs/robustness.md", "docs/glossary.md", "docs/migration.md"])
def test_pages_use_them_too(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for avoided in (r"\bnobody\b", r"\banew\b", r"\bbehind two\b", r"\bclean twins?\b", r"\bwhom a method\b"):
        assert not re.search(avoided, text, re.IGNORECASE), avoided


def test_the_glossary_explains_the_words_of_the_tables() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").casefold()
    terms = (
        "map,deployed,own step,worst decile,unattacked baseline,newcomer,registry,natural,attacker recall,cell,digest"
    )
    for term in terms.split(","):
        assert f"**{term}" in text, term


def options() -> set[str]:
    """All options of all commands."""
    found: set[str] = set()
    for name in COMMANDS:
        item = cli.get_command(click.Context(cli), name)
        assert item is not None
        for _, command in commands(item, name):
            for param in command.params:
                found |= {*param.opts, *param.secondary_opts}
    return found


def test_the_migration_guide_names_options_that_there_are() -> None:
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    ours: list[str] = []
    for line in text.splitlines():
        cells = line.split("|")
        ours += re.findall(r"--[a-z][a-z-]+", "|".join(cells[2:])) if line.startswith("|") else []
    assert len(ours) > 40
    assert set(ours) <= options()
    members = {match[1] for match in re.finditer(r"`fltk ([a-z-]+)", text)}
    assert members <= set(COMMANDS)
