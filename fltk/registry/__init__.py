"""The registry: every run its settings, numbers, maps and weights, in a database and a folder beside it.

with Store("results.db") as store:
    run = store.find_run("latest")
    rounds, accuracy = store.scalars(run.id)["test/accuracy"]
"""

from fltk.registry.rows import (
    AttemptRow,
    CheckpointRow,
    EvaluationRow,
    MapBlob,
    PartitionRow,
    RunRow,
    StoredMap,
)
from fltk.registry.store import Store

__all__ = [
    "AttemptRow",
    "CheckpointRow",
    "EvaluationRow",
    "MapBlob",
    "PartitionRow",
    "RunRow",
    "Store",
    "StoredMap",
]
