"""Scoring a run of the registry into the registry."""

from __future__ import annotations

from dataclasses import replace

from fltk import engine as engines
from fltk.evaluation.deploy import Deployment
from fltk.evaluation.evaluate import Evaluation, against_local, evaluate, round_choices
from fltk.evaluation.replay import state_of
from fltk.experiment import Place, job_of, restore
from fltk.registry import RunRow, Store


def evaluate_run(
    store: Store,
    run: RunRow,
    place: Place,
    deploy: Deployment,
    round: int | None = None,
    *,
    once: bool = False,
) -> Evaluation:
    """Score a run after `round` (a stored checkpoint; None: the last) on every client, and store what was found.

    once: add nothing where an evaluation of this deployment was stored in the meantime, such as by another sweep.
    """
    config, prepared = restore(run, store, place)
    job = job_of(config, prepared.federation, place.device)
    found = state_of(run, store, job, place, round)
    engine = engines.make(place.engine, job)
    try:
        done = evaluate(job, job.task(), engine, found.round, found.state, deploy)
    finally:
        engine.close()
    done = replace(done, rounds=round_choices(store, run, done.malicious))
    done = replace(done, rows=against_local(store, run, done))
    stored = deploy.made if once else None
    store.save_evaluation(run.id, found.round, done.summary(), done.clients, stored=stored)
    return done
