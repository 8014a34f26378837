"""The source of a method as a hash, so that a finished run can be told from one that other code would make.

A method is its file and what that imports, directly or not, from the packages that hold methods' mathematics. The rest
of fltk (engine, training, data) is identified by `capture.core_digest`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from fltk import catalogue
from fltk.names import METHODS
from fltk.registry.capture import PACKAGE
from fltk.registry.rows import RunRow

KEY = "method_sha256"  # in a run's git state
FOLLOWED = (
    "fltk.methods",
    "fltk.protocol",
    "fltk.attention",
    "fltk.clustering",
)  # packages whose files are part of a method


def method_digest(method: str) -> str | None:
    """SHA-256 over the files of a method; of own code the hash in its name. None for a method that is not known."""
    if method in METHODS:
        return _digest(method, PACKAGE.parent)
    return catalogue.split(method)[1] or None


@lru_cache(maxsize=128)  # a process runs what it has imported, whatever becomes of the files
def _digest(method: str, root: Path) -> str:
    total = hashlib.sha256()
    for module, path in sorted(_files(METHODS[method].partition(":")[0], root).items()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{module}\0{content}\n".encode())
    return total.hexdigest()


def has_other_code(run: RunRow) -> bool:
    """Whether a run's method had another source than it has now; False where the run does not know its own."""
    stored = run.git.get(KEY)
    return stored is not None and stored != method_digest(run.method)


def code_of(run: RunRow) -> str:
    """What identifies the code of a run's method: its own hash, or that of fltk for a run from before there was one."""
    return str(run.git.get(KEY) or run.git.get("core_sha256") or "")


def _files(module: str, root: Path) -> dict[str, Path]:
    """The files of a module and of what it imports from FOLLOWED, by module name."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path(name, root)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += _imports(path)
    return found


def _path(module: str, root: Path) -> Path | None:
    """The file of a module or package; None where there is none, as for a class that is imported by its name."""
    stem = root.joinpath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(path: Path) -> Iterator[str]:
    """The modules of FOLLOWED that a file may import, wherever in it; names that are no module are sorted out later."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith(FOLLOWED):
                yield name
