"""Imports point one way. Read from the source with ast, so that imports inside functions count as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fltk
from fltk.names import METHODS

PACKAGE = Path(fltk.__file__).parent

# Highest first: every folder, and every module beside them, in the order of the imports. One line is one layer; what
# stands in one line does not import each other. An import points to its own folder or to a lower line.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"report"},
    {"plots"},
    {"export"},
    {"sweep", "bench"},
    {"evaluation"},
    {"resume"},
    {"experiment"},  # one run from configuration to registry
    {"rounds"},  # a round, readable in one sitting
    {"engine"},  # how many clients at once, and where
    {"methods", "attacks"},
    {"defences", "channel"},
    {"protocol"},  # what methods and rounds say to each other
    {"attention"},
    {"clustering"},
    {"train"},
    {"models", "metrics"},
    {"partition"},
    {"data"},
    {"memory"},
    {"registry"},
    {"objectives"},  # what a data set asks models to learn; without torch
    {"config"},
    {"fields"},
    {"hyper"},
    {"catalogue"},  # what a name stands for
    {"own_code", "own_data"},
    {"ledger"},
    {"bounded", "files", "lifeline", "signals"},
    {"errors"},
    {"names"},
)
RANK = {name: rank for rank, names in enumerate(reversed(LAYERS)) for name in names}
MOST_LOADED = 12  # modules of fltk, packages aside, that importing a simple method loads; the number may only fall
# What only one part of fltk may know.
LOWEST = (
    *("bounded", "catalogue", "config", "errors", "fields", "files", "hyper"),
    *("ledger", "lifeline", "names", "own_code", "own_data", "signals"),
)
OWNERS = {"jinja2": {"report"}, "click": {"cli"}, "rich": {"cli"}, "sqlalchemy": {"registry"}, "alembic": {"registry"}}


@dataclass(frozen=True)
class Import:
    """`target` is a dotted module; `at_import` is false inside functions and TYPE_CHECKING blocks."""

    target: str
    line: int
    at_import: bool


def _targets(node: ast.AST, package: str) -> list[str]:
    """The modules that a statement imports; `from fltk import x` counts as fltk.x where that is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, *([node.module] if node.module else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return []


def _walk(node: ast.AST, package: str, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, package):
            yield Import(target, getattr(child, "lineno", 0), at_import)
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from _walk(child, package, at_import and not lazy)


def module_name(path: Path) -> str:
    """fltk/data/sources.py as fltk.data.sources."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[Import]:
    """Everything that a file imports, wherever it stands."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), package, True))


def sources(*parts: str) -> list[Path]:
    """The package's source files; with `parts`, those of these modules or packages of fltk."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [file for file in files if not parts or part_of(module_name(file)) in parts]


def part_of(module: str) -> str:
    """The second name of fltk.part.module; empty for fltk itself."""
    return (module.split(".") + [""])[1]


FILES = [pytest.param(file, id=module_name(file)) for file in sources() if module_name(file) != "fltk"]


@pytest.mark.parametrize("file", FILES)
def test_every_module_has_a_layer_and_imports_downwards(file: Path) -> None:
    own = part_of(module_name(file))
    assert own in RANK, f"fltk.{own} is in no layer: add it to LAYERS"
    for found in imports(file):
        other = other_part(found, own)
        if other:
            assert RANK[other] < RANK[own], f"{file}:{found.line}: {own} may not import {found.target}"


def other_part(found: Import, own: str) -> str:
    """The folder or module of fltk that an import reaches out to; empty inside `own` and for other libraries."""
    inside = found.target.split(".")[0] == "fltk"
    other = part_of(found.target) if inside else ""
    return other if other in RANK and other != own else ""


def test_no_folder_imports_itself_by_way_of_others() -> None:
    """Read from the imports alone, so that it holds for any order of LAYERS."""
    reached: dict[str, set[str]] = {}
    for file in sources():
        own = part_of(module_name(file))
        others = {other_part(found, own) for found in imports(file)}
        reached.setdefault(own, set()).update(others - {""})
    assert list(TopologicalSorter(reached).static_order())  # raises CycleError with the folders of a cycle


def test_a_simple_method_loads_few_modules() -> None:
    """In a fresh process, so that only what the import itself needs is there."""
    program = (
        "import sys, fltk.methods.fedavg\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('fltk.') and not hasattr(module, '__path__'):\n"
        "        print(name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert "fltk.methods.fedavg" in loaded
    assert len(loaded) <= MOST_LOADED, loaded


def test_the_lowest_layer_uses_the_standard_library_alone() -> None:
    for file in sources(*LOWEST):
        tops = {found.target.split(".")[0] for found in imports(file)}
        assert tops <= {"fltk", *sys.stdlib_module_names}, file


def test_methods_know_no_other_method_no_engine_and_no_defence() -> None:
    """What methods share stands in modules that are no method: the protocol and common mathematics."""
    methods = {target.partition(":")[0] for target in METHODS.values()}
    for file in sources("methods"):
        for found in imports(file):
            where = f"{file}:{found.line}: a method may not import {found.target}"
            assert found.target not in methods - {module_name(file)}, where
            assert part_of(found.target) not in ("engine", "attacks", "defences", "rounds"), where


@pytest.mark.parametrize("library", OWNERS)
def test_terminal_and_sql_stay_where_they_belong(library: str) -> None:
    for file in sources():
        if part_of(module_name(file)) in OWNERS[library]:
            continue
        for found in imports(file):
            assert found.target.split(".")[0] != library, f"{file}:{found.line}: {library} is not for this layer"


def test_the_registry_and_the_command_line_load_without_heavy_libraries() -> None:
    heavy = {"torch", "torchvision", "sklearn", "scipy", "matplotlib"}
    for file in sources("registry", "cli"):
        tops = {found.target.split(".")[0] for found in imports(file) if found.at_import}
        assert not tops & heavy, f"{file} imports {tops & heavy} when it is loaded"


def test_the_reader_sees_upward_imports() -> None:
    """The check itself: relative, nested and renamed imports are found."""
    text = "from . import base\nfrom ..cli import main\ndef f():\n    import fltk.experiment as r\n"
    found = list(_walk(ast.parse(text), "fltk.methods", True))
    assert [(item.target, item.at_import) for item in found] == [
        ("fltk.methods", True),
        ("fltk.methods.base", True),
        ("fltk.cli", True),
        ("fltk.cli.main", True),
        ("fltk.experiment", False),
    ]
