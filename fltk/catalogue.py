"""What a name stands for: something built in, an installed package's entry point, or code of the user's own.

    attn               built in
    mine               entry point `mine` of the group fltk.methods, in an installed package
    my.py:Mine         a class of a file (my.py where the file has one)
    package.module:Mine   a class of an importable module

In stored configurations all but the built-in ones end in @ and 12 digits of the SHA-256 of their source. So the hash of
a configuration covers the code, workers find it, and a name can be read without it: nothing is imported to print it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from fltk import ledger, own_code
from fltk.errors import ChangedFiles, UsageError, unknown
from fltk.names import ATTACKS, DATASETS, DEFENCES, METHODS, MODELS, SCHEMES, canonical, fold
from fltk.own_code import Code


@dataclass(frozen=True)
class Kind:
    """A kind of things that have names.

    built_in: name -> "module:Name", or an empty text where another module makes them.  base: the class that own ones
    derive from, as "module:Class"; empty for any function or class.  usual: the name that is taken from a file of
    several.
    """

    word: str
    option: str
    group: str
    built_in: Mapping[str, str]
    base: str = ""
    usual: str = ""


KINDS = {
    "method": Kind("method", "--method", "fltk.methods", METHODS, base="fltk.protocol.method:Method"),
    "model": Kind("model", "--model", "fltk.models", dict.fromkeys(MODELS, ""), usual="Net"),
    "dataset": Kind("dataset", "--dataset", "fltk.datasets", dict.fromkeys(DATASETS, ""), usual="load"),
    "attack": Kind("attack", "--kind", "fltk.attacks", ATTACKS, base="fltk.attacks.base:Attack"),
    "defence": Kind("defence", "--defence", "fltk.defences", DEFENCES, base="fltk.defences.base:Defence"),
    "scheme": Kind("scheme", "--scheme", "fltk.schemes", dict.fromkeys(SCHEMES, ""), usual="scheme"),
}
_STORED = re.compile(rf"(?P<name>.+)@(?P<hash>[0-9a-f]{{{ledger.SHORT}}})")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Found:
    """What a name stands for. `name` is how configurations store it; `code` is None for what is built in."""

    name: str
    value: Any
    code: Code | None


def split(name: str) -> tuple[str, str]:
    """A stored name as (name, hash); the hash is empty for a name as it is typed."""
    match = _STORED.fullmatch(name)
    return (match["name"], match["hash"]) if match else (name, "")


def is_own(name: str) -> bool:
    """Whether a name means code by file or module, or is stored with its hash; nothing is looked up."""
    bare, short = split(name)
    return bool(short) or bare.endswith(".py") or (":" in bare and not bare.startswith("own:"))


def require_hash(name: str) -> None:
    """UsageError for code that a registry names without its hash: it would pass for code that the user has named."""
    if is_own(name) and not split(name)[1]:
        raise UsageError(f"the stored configuration names the code {name!r} without its hash, so that it is not run")


def spelled(kind: str, name: str, option: str = "") -> str:
    """The name as configurations have it, whatever its case; UsageError for one that stands for nothing.

    Own code is neither read nor run, so that a stored configuration can always be read.
    """
    told = KINDS[kind]
    if is_own(name):
        return name
    there = names(kind)
    found = canonical(name, there)
    if found not in there:
        raise unknown(told.word, name, there, option or told.option)
    return found


def names(kind: str) -> list[str]:
    """The built-in names, then those of installed packages. UsageError for a name that exists twice."""
    return [*KINDS[kind].built_in, *_installed(kind)]


@lru_cache(maxsize=len(KINDS))
def _installed(kind: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point of installed packages."""
    told = KINDS[kind]
    owners = {fold(name): f"fltk itself ({name})" for name in told.built_in}
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=told.group), key=lambda one: (one.name, one.value)):
        package = entry.dist.name if entry.dist is not None else "an unknown package"
        owner = f"{package} ({entry.name} = {entry.value})"
        if fold(entry.name) in owners:
            first = owners[fold(entry.name)]
            raise UsageError(
                f"{told.option}: the {told.word} {entry.name!r} exists twice, in {first} and in {owner}; uninstall "
                "one, or name yours as module:Name"
            )
        owners[fold(entry.name)] = owner
        found[entry.name] = entry
    return found


def find(kind: str, name: str, option: str = "") -> Any:
    """The class or function that a name stands for; imported, or its file run, when it is asked for.

    UsageError, naming `option`, where there is none, and for code of a stored run that may not be run here.
    """
    return resolve(kind, name, option).value


def pinned(kind: str, name: str) -> str:
    """The name as it is stored: with the hash of the source, unless it is built in."""
    return resolve(kind, name).name


def resolve(kind: str, name: str, option: str = "") -> Found:
    """A name with all that is known of it."""
    told = KINDS[kind]
    option = option or told.option
    bare, short = split(name)
    if not is_own(bare):
        return _listed(kind, bare, short, option)

    if short:
        value, code = _stored(told, bare, short, option)
        return Found(name, value, code)
    value, code, attribute = _named(told, bare, option)
    place = code.module or Path(code.path).name
    return Found(f"{place}:{attribute}@{code.short}", value, code)


def _listed(kind: str, name: str, short: str, option: str) -> Found:
    """What is built in, or offered by an installed package."""
    told = KINDS[kind]
    if short and name not in _installed(kind):
        raise UsageError(f"{option} {name}: no installed package offers this {told.word}; install the one that does")
    found = spelled(kind, name, option)
    if found in told.built_in:
        return Found(found, _built_in(told, found), None)
    return _entry(kind, found, short, option)


def known(kind: str, name: str) -> Any | None:
    """The same if that runs no code of the user's that has not run in this process yet; else None.

    For whatever reads stored runs: lists, tables, figures and reports.
    """
    bare, short = split(name)
    if not short:
        there = canonical(name, names(kind))
        return find(kind, there) if there in names(kind) else None
    if bare in _installed(kind) or own_code.is_loaded(short):
        try:
            return find(kind, name)
        except UsageError:
            return None
    return None


def _built_in(told: Kind, name: str) -> Any:
    """The class; None for what another module makes."""
    target = told.built_in[name]
    if not target:
        return None
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _entry(kind: str, name: str, short: str, option: str) -> Found:
    """What an installed package offers by that name. ChangedFiles where a run knows it with another source."""
    told, entry = KINDS[kind], _installed(kind)[name]
    module, code = own_code.imported(entry.module, option)
    if short and code.short != short:
        raise ChangedFiles(
            f"{option} {name}: {code.path} has changed since (SHA-256 {short} then, {code.short} now); install the "
            "version of then"
        )
    value, _ = _member(told, module, entry.attr or "", f"{option} {name}")
    return Found(f"{name}@{code.short}", value, code)


def _named(told: Kind, name: str, option: str) -> tuple[Any, Code, str]:
    """Code that the user names: it is run, and remembered as theirs."""
    place, attribute = _parts(name)
    if place.endswith(".py"):
        code = own_code.of_file(Path(place).expanduser(), option)
        module = own_code.module_of(code, option)
    elif _MODULE.fullmatch(place):
        module, code = own_code.imported(place, option)
    else:
        raise UsageError(f"{option} {name}: own code is named as file.py:Name or module:Name")
    value, attribute = _member(told, module, attribute, f"{option} {name}")
    ledger.remember(ledger.CODE, code.sha256, code.path)
    return value, code, attribute


def _stored(told: Kind, bare: str, short: str, option: str) -> tuple[Any, Code]:
    """Code that a stored configuration names: run only if it is the user's own, or trusted."""
    code = own_code.trusted(short, bare, option)
    place, attribute = _parts(bare)
    if not place.endswith(".py"):
        tail = Path(code.path).with_suffix("").as_posix().removesuffix("/__init__")
        if not tail.endswith("/" + place.replace(".", "/")):
            raise UsageError(f"{option} {bare}@{short}: {code.path} is not the module {place}")
        code = replace(code, module=place)
    value, _ = _member(told, own_code.module_of(code, option), attribute, f"{option} {bare}")
    return value, code


def _parts(name: str) -> tuple[str, str]:
    """my.py:Mine as (my.py, Mine); the second is empty where only a file is named."""
    if name.endswith(".py"):
        return name, ""
    place, _, attribute = name.rpartition(":")
    return place, attribute


def _member(told: Kind, module: ModuleType, attribute: str, where: str) -> tuple[Any, str]:
    """The class or function of that name, or the only one of its kind in the module, and its name."""
    base = _built_in(Kind("", "", "", {"": told.base}), "") if told.base else None
    if attribute:
        if not hasattr(module, attribute):
            there = ", ".join(_candidates(module, base)) or "nothing of this kind"
            raise UsageError(f"{where}: {module.__file__} has no {attribute!r}; it has {there}")
    else:
        attribute = _only(told, module, base, where)
    value = getattr(module, attribute)
    _check(told, value, base, where, attribute)
    return value, attribute


def _only(told: Kind, module: ModuleType, base: Any, where: str) -> str:
    """The name that is meant where only a file was named."""
    there = list(_candidates(module, base))
    if told.usual in there:
        return told.usual
    if len(there) != 1:
        listed = ", ".join(there) or "none"
        raise UsageError(f"{where}: name one {told.word} of the file, as in FILE.py:NAME; it has {listed}")
    return there[0]


def _candidates(module: ModuleType, base: Any) -> Iterator[str]:
    """The public classes (below `base`) or functions that a module defines itself."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__ or not callable(value):
            continue
        if base is None or (inspect.isclass(value) and issubclass(value, base)):
            yield name


def _check(told: Kind, value: Any, base: Any, where: str, attribute: str) -> None:
    """UsageError for what cannot be used as this kind."""
    if base is None:
        if not callable(value):
            raise UsageError(f"{where}: {attribute} is no function or class")
        return
    if not inspect.isclass(value) or not issubclass(value, base):
        raise UsageError(f"{where}: {attribute} must be a class that derives from {base.__module__}.{base.__name__}")
    annotated = [str(annotation) for annotation in inspect.get_annotations(value).values()]
    settings = [text for text in annotated if "ClassVar" not in text]
    if settings and "__dataclass_fields__" not in vars(value):
        raise UsageError(
            f"{where}: put @dataclass(frozen=True) above class {attribute}; without it fltk does not see its settings"
        )
