"""Processes of tests, forked from one server that has imported torch and fltk: they work after milliseconds."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext

# What worker processes and runs need; "pytest", because a child imports its parent's main module.
PRELOAD = [
    "pytest",
    "fltk.engine.process",
    "fltk.engine.work",
    "fltk.methods.attn",
    "fltk.cli.train",
    "fltk.cli.resume",
    "fltk.experiment",
    "sklearn.datasets",
    "alembic.command",
]


def forked(start_method: str = "spawn") -> BaseContext:
    """A context whose server is started once per test process; `start_method` is what a program would ask for."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context(start_method)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context
