"""What an attack did to a run: its benign clients, against the same clients of its clean twin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fltk import metrics
from fltk.config import RunConfig
from fltk.objectives import Measure, headline
from fltk.registry import RunRow, Store

FLAGS = ("attack_knows_benign", "attack_knows_defence", "attack_colludes")
ROUNDS = ("mal_weight", "mal_weight_ratio", "rejected_tpr", "rejected_fpr", "rejected_precision", "dropped")
Array = np.ndarray[Any, Any]


def attackers(config: Mapping[str, Any], n: int) -> tuple[int, ...]:
    """The malicious clients among the n of a stored configuration, ascending; none without an attack."""
    if not config.get("attack"):  # nor does it matter then whether this version knows the method
        return ()
    from fltk.experiment import campaign_of  # it draws them with torch, which reading other runs does without

    found = campaign_of(RunConfig.from_dict(config), n)
    return () if found is None else found.malicious


def summary(run: RunRow, store: Store) -> dict[str, Any]:
    """The result of one run under attack, or under a defence alone, at its last evaluated round.

    acc (or the key of another headline measure), worst10: of personal models over benign clients and over the worst
    tenth of them.  clean, clean_worst10: the same of the same clients in the run without attackers and defence (None
    while that is not finished).  drop is how much worse acc is than clean.  global_acc, global_drop: of the one global
    model, where there is one.  asr: success of a backdoor on benign clients' personal models.  attackers_acc: of
    malicious clients on clean data.  `FLAGS`: what attackers knew, and whether they sent one vector (None where it was
    not stored).  Of the measures of every round (`ROUNDS`) the mean over the attacked rounds, without those in which a
    measure has no value.
    """
    config = RunConfig.from_dict(run.config)
    measure = headline(run.last)
    own = _last(store, run, f"personal_test_{measure.key}")
    bad = np.isin(np.arange(len(own)), attackers(run.config, len(own)))
    row: dict[str, Any] = {
        "run": run.id,
        "twin": run.parent,
        "method": run.method,
        "seed": run.seed,
        "attack": config.attack.kind or None,
        "defence": config.defence.defence or None,
        "malicious": int(bad.sum()),
        "clients": len(own),
        "rounds": run.rounds_done,
        "measure": measure.key,
        "dataset": run.dataset,
        measure.key: _value(metrics.acc_mean(own[~bad])),
        "worst10": _value(metrics.acc_worst10(own[~bad], measure)),
        f"attackers_{measure.key}": _value(metrics.acc_mean(own[bad])),
        "asr": run.last.get("asr"),
    }
    clean = {} if run.parent is None else _twin(store, run, bad, measure)
    row |= {key: clean.get(key) for key in ("clean", "clean_worst10", "clean_global")}
    row["drop"] = _lost(measure, row["clean"], row[measure.key])
    row["drop_worst10"] = _lost(measure, row["clean_worst10"], row["worst10"])
    of_global = f"global_{measure.key}"
    row[of_global] = _of_global(store, run, bad, measure)
    row["global_drop"] = _lost(measure, row["clean_global"], row[of_global])
    row |= {key: None if key not in run.last else bool(run.last[key]) for key in FLAGS}
    return row | {key: _mean_over(store, run, key, config) for key in ROUNDS}


def _last(store: Store, run: RunRow, key: str) -> Array:
    """(N,) the last stored values of a per-client measure."""
    values: Array = store.client_values(run.id, key)[1][-1]
    return values


def _twin(store: Store, run: RunRow, bad: Array, measure: Measure) -> dict[str, float | None]:
    """The benign clients in the run without attackers, at its end."""
    twin = store.find_run(f"run{run.parent}")
    key = f"personal_test_{measure.key}"
    if twin.status != "done" or key not in store.client_keys(twin.id):
        return {}
    own = _last(store, twin, key)[~bad]
    return {
        "clean": _value(metrics.acc_mean(own)),
        "clean_worst10": _value(metrics.acc_worst10(own, measure)),
        "clean_global": _of_global(store, twin, bad, measure),
    }


def _of_global(store: Store, run: RunRow, bad: Array, measure: Measure) -> float | None:
    key = f"global_test_{measure.key}"
    if key not in store.client_keys(run.id):
        return None
    return _value(metrics.acc_mean(_last(store, run, key)[~bad]))


def _mean_over(store: Store, run: RunRow, key: str, config: RunConfig) -> float | None:
    """The mean of a scalar over the attacked rounds in which it has a value."""
    if key not in store.scalar_keys(run.id):
        return None
    rounds, values = store.scalars(run.id, key)[key]
    stop = config.attack.attack_stop or math.inf
    values = values[(rounds >= config.attack.attack_start) & (rounds < stop) & np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _lost(measure: Measure, clean: float | None, attacked: float | None) -> float | None:
    """How much worse the attacked value is."""
    return None if clean is None or attacked is None else measure.gain(clean, attacked)


def _value(number: float) -> float | None:
    return number if math.isfinite(number) else None
