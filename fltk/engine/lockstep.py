"""Client work in lockstep: written for one client, trained in stacks.

Each piece of work runs in a lane of its own, a greenlet: an ordinary call that can be held in the middle. When a lane
comes to a local SGD it asks for it and is held; when all lanes are held or done, the orders are played together and
the lanes go on. Methods know nothing of this, and since a stack gives every client the bits that it would get alone,
neither do results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from greenlet import greenlet

from fltk.engine.base import Bench, Work
from fltk.train.order import Order, Trained


def work_through(bench: Bench, work: Work, tasks: Sequence[Any]) -> Iterator[Any]:
    """The results of all tasks in order; a task that fails has its exception as result.

    What is asked for together, is played together: as many tasks at a time as the bench's machine stacks.
    """
    together = bench.machine.together
    for start in range(0, len(tasks), together):
        yield from _lockstep(bench, work, tasks[start : start + together])


def succeeded(result: Any) -> Any:
    """The result of a task; raises where it is an exception."""
    if isinstance(result, Exception):
        raise result
    return result


def _lockstep(bench: Bench, work: Work, tasks: Sequence[Any]) -> list[Any]:
    """The results of some tasks, each in a lane of its own."""
    hub = greenlet.getcurrent()
    results: list[Any] = [None] * len(tasks)
    trainers = [bench.lane(hub.switch) for _ in tasks]

    def run(k: int) -> None:
        try:
            results[k] = work(bench, tasks[k])
        except Exception as error:
            results[k] = error

    def go_on(k: int, found: Any) -> Any:
        """Runs a lane, at the bench's place for it, until its next order or its end."""
        bench.trainer = trainers[k]
        return lanes[k].throw(found) if isinstance(found, Exception) else lanes[k].switch(found)

    lanes = [greenlet(run, hub) for _ in tasks]
    orders: list[Order] = [go_on(k, k) for k in range(len(lanes))]
    while held := [k for k, lane in enumerate(lanes) if not lane.dead]:
        for k, found in zip(held, _played(bench, [orders[k] for k in held]), strict=True):
            orders[k] = go_on(k, found)
    return results


def _played(bench: Bench, orders: Sequence[Order]) -> Sequence[Trained | Exception]:
    """What comes of the orders; an error is everybody's who is in work."""
    try:
        return bench.machine.play(orders)
    except Exception as error:
        return [error] * len(orders)
