"""Where the wall time of a run goes, round by round.

The loop times training, aggregation and evaluation itself (`seconds_*` of every round). What it does behind them is
the map and the digest; the latter is measured by doing it once more, after the run. The rest is watched from outside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fltk.rounds import loop

AIM = 0.1  # most of a round that anything but local training should take
PARTS = {
    "training": "local SGD, models sent and returned",
    "evaluation": "all clients scored",
    "aggregation": "next state and its map",
    "digest": "hash of all weights",
    "registry": "numbers and maps written",
    "checkpoints": "weights written",
    "display": "progress",
    "rest": "between rounds",
}


class Profile:
    """A stopwatch for one run: `watch` goes to `experiment.train` or `resume`, `add` hears of every round."""

    def __init__(self) -> None:
        self.made = time.perf_counter()
        self.began = self.ended = 0.0
        self.rounds = 0
        self.watched = dict.fromkeys(("round", "registry", "checkpoints", "display"), 0.0)
        self.told = dict.fromkeys(("seconds", "seconds_train", "seconds_aggregate", "seconds_eval"), 0.0)
        self.last: loop.RoundDone | None = None

    @contextmanager
    def watch(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to a part."""
        now = time.perf_counter()
        self.began = self.began or now
        try:
            yield
        finally:
            self.ended = time.perf_counter()
            self.watched[part] += self.ended - now

    def add(self, done: loop.RoundDone) -> None:
        """A round is over."""
        self.rounds += 1
        self.last = done
        for key in self.told:
            self.told[key] += done.scalars[key]

    def report(self) -> dict[str, Any]:
        """Rounds, the seconds before the first of them, the share that is not training, and a row for every part.

        The rounds are those of this process: of a resumed run the ones that it played.
        """
        whole, told = self.ended - self.began, self.told
        digest = self._digest() * self.rounds
        behind = self.watched["round"] - told["seconds"]  # the map and the digest
        seconds = {
            "training": told["seconds_train"],
            "evaluation": told["seconds_eval"],
            "aggregation": told["seconds_aggregate"] + max(0.0, behind - digest),
            "digest": min(digest, behind),
            "registry": self.watched["registry"],
            "checkpoints": self.watched["checkpoints"],
            "display": self.watched["display"],
            "rest": whole - sum(self.watched.values()),
        }
        rows = [
            {"part": part, "seconds": s, "a_round": s / self.rounds, "share": s / whole, "about": PARTS[part]}
            for part, s in seconds.items()
        ]
        return {
            "rounds": self.rounds,
            "seconds": whole,
            "before": self.began - self.made,
            "outside": 1 - seconds["training"] / whole,
            "parts": rows,
        }

    def _digest(self) -> float:
        """Seconds of hashing the last state."""
        if self.last is None:
            return 0.0
        began = time.perf_counter()
        loop.digest(self.last.state)
        return time.perf_counter() - began
