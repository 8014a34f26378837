"""Code of the user's own: one file as a module, known by the SHA-256 of its source.

A file is run when the user names it. A stored run names it with its hash, as in my.py:Mine@3f2a9c01b7de; then it is run
only if this user has run the same source before (`fltk.ledger`), or has said that stored code is to be trusted.
Processes that are started for work get the source itself, so that an edited file changes no run that is going on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fltk import ledger
from fltk.bounded import read_bytes
from fltk.errors import ChangedFiles, FltkError, UsageError


@dataclass(frozen=True)
class Code:
    """The source of a plug-in. `module` is the importable module that it is; empty for a file."""

    path: str
    sha256: str
    source: bytes
    module: str = ""

    @property
    def short(self) -> str:
        """The part of the hash that stands in stored names."""
        return self.sha256[: ledger.SHORT]


@dataclass(frozen=True)
class _Loaded:
    code: Code
    module: ModuleType


_loaded: dict[str, _Loaded] = {}  # by SHA-256
_admitted: dict[str, Code] = {}  # by SHA-256: may run, and has not yet


def of_file(path: Path, option: str) -> Code:
    """The source of a file, which is not run. UsageError that begins with `option` where it cannot be read."""
    source = read_bytes(path, f"{option} {path}")
    return Code(str(path.resolve()), hashlib.sha256(source).hexdigest(), source)


def of_module(module: ModuleType, option: str) -> Code:
    """The source of an imported module."""
    path = getattr(module, "__file__", None)
    if not path or not path.endswith(".py"):
        raise UsageError(f"{option} {module.__name__}: the module has no source file, by which runs could know it")
    code = of_file(Path(path), option)
    return Code(code.path, code.sha256, code.source, module.__name__)


def imported(name: str, option: str) -> tuple[ModuleType, Code]:
    """A module by its dotted name, and its source."""
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise blame(error) or UsageError(f"{option} {name}: cannot be imported: {_said(error)}") from None
    code = of_module(module, option)
    _loaded.setdefault(code.sha256, _Loaded(code, module))
    return module, code


def module_of(code: Code, option: str) -> ModuleType:
    """The module of a source, run once in a process. UsageError naming file and line for whatever is wrong in it."""
    if code.sha256 in _loaded:
        return _loaded[code.sha256].module
    if code.module:
        return imported(code.module, option)[0]

    name = f"fltk_own_{Path(code.path).stem}_{code.short}"
    module = ModuleType(name)
    module.__file__ = code.path
    sys.modules[name] = module  # dataclasses and pickle look it up there
    _loaded[code.sha256] = _Loaded(code, module)
    try:
        exec(compile(code.source, code.path, "exec"), vars(module))
    except SyntaxError as error:
        _forget(code, name)
        raise UsageError(f"{option} {code.path}: line {error.lineno}: {_said(error)}") from None
    except Exception as error:
        told = blame(error)
        _forget(code, name)
        raise UsageError(f"{option} {told or _said(error)}") from None
    return module


def _forget(code: Code, name: str) -> None:
    del _loaded[code.sha256]
    del sys.modules[name]


def _said(error: BaseException) -> str:
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def trusted(short: str, shown: str, option: str) -> Code:
    """The source that a stored name means, if it may be run; nothing is run here.

    ChangedFiles where the user's file holds another source by now, UsageError where the user has never run it.
    """
    for table in (_loaded, _admitted):
        for sha256, entry in table.items():
            if sha256.startswith(short):
                return entry.code if isinstance(entry, _Loaded) else entry

    changed = ""
    for sha256, path in ledger.places(ledger.CODE, short):
        try:
            code = of_file(Path(path), option)
        except UsageError:
            changed = changed or f"{path} is gone"
            continue
        if code.sha256 == sha256:
            return code
        changed = changed or f"{path} has changed since (SHA-256 {short} then, {code.short} now)"
    if changed:
        raise ChangedFiles(
            f"{option} {shown}@{short}: {changed}; put the file back, or use the source that is stored with the run "
            "by --trust-stored-code"
        )
    raise UsageError(
        f"{option} {shown}@{short}: you have not run this code here, and code of a registry is not run by itself; read "
        "it, and name its file once (fltk methods FILE.py) or give --trust-stored-code"
    )


def is_loaded(short: str) -> bool:
    """Whether a source has been run in this process."""
    return any(sha256.startswith(short) for sha256 in _loaded)


def admit(codes: Iterable[Code]) -> None:
    """Let these sources run in this process when they are asked for."""
    for code in codes:
        if hashlib.sha256(code.source).hexdigest() != code.sha256:
            raise FltkError(f"{code.path}: the stored source does not have its hash {code.sha256[:12]}; it is damaged")
        _admitted[code.sha256] = code


class Carried:
    """The sources that this process has run, for another process: unpickling it runs them there."""

    def __init__(self, codes: tuple[Code, ...] | None = None) -> None:
        self.codes = tuple(entry.code for entry in _loaded.values()) if codes is None else codes

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.codes,)


def _arrive(codes: tuple[Code, ...]) -> Carried:
    """Runs the files, so that what is unpickled next finds their classes. Modules are imported by pickle itself."""
    admit(codes)
    for code in codes:
        if not code.module:
            module_of(code, "--engine")
    return Carried(codes)


def blame(error: BaseException) -> FltkError | None:
    """The line of the user's code in which an exception was raised, as an error; None where it was not in theirs."""
    files = {entry.code.path for entry in _loaded.values()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            return FltkError(f"{frame.filename}: line {frame.lineno}: {_said(error)}")
    return None
