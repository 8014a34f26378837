"""Client work in lockstep: written for one client, trained in stacks.

Each piece of work runs in a lane of its own, a greenlet: an ordinary call that can be held in the middle. When a lane
comes to a local SGD or to an evaluation it asks for it and is held; when all lanes are held or done, what they ask for
is done together and the lanes go on. Methods know nothing of this, and since every client gets the bits that it would
get alone, neither do results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from greenlet import greenlet

from fltk.engine.base import Bench, Reduce, Work
from fltk.train.backend import Answer, Backend, Request


def work_through(bench: Bench, work: Work, tasks: Sequence[Any]) -> Iterator[Any]:
    """The results of all tasks in order; a task that fails has its exception as result.

    What is asked for together, is played together: as many tasks at a time as the bench's backend stacks.
    """
    together = bench.backend.together
    for start in range(0, len(tasks), together):
        yield from _lockstep(bench, work, tasks[start : start + together])


def fold_through(bench: Bench, work: Work, reduce: Reduce, parts: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """What `reduce` makes of the results of every part; of a part in which a task fails its exception."""
    results = work_through(bench, work, [task for part in parts for task in part])
    for part in parts:
        some = list(islice(results, len(part)))
        failed = [result for result in some if isinstance(result, Exception)]
        yield failed[0] if failed else reduce(some)


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
        """Runs a lane, at the bench's place for it, until its next request or its end."""
        bench.trainer = trainers[k]
        return lanes[k].throw(found) if isinstance(found, Exception) else lanes[k].switch(found)

    lanes = [greenlet(run, hub) for _ in tasks]
    requests: list[Request] = [go_on(k, k) for k in range(len(lanes))]
    while held := [k for k, lane in enumerate(lanes) if not lane.dead]:
        answers = _answered([trainers[k].backend for k in held], [requests[k] for k in held])
        for k, found in zip(held, answers, strict=True):
            requests[k] = go_on(k, found)
    return results


def _answered(backends: Sequence[Backend], requests: Sequence[Request]) -> Sequence[Answer | Exception]:
    """What comes of the requests, each at its backend; an error is that of all requests to a backend."""
    answers: list[Answer | Exception] = [[]] * len(requests)
    for backend in dict.fromkeys(backends):
        mine = [k for k, other in enumerate(backends) if other is backend]
        found: Sequence[Answer | Exception]
        try:
            found = backend.answer([requests[k] for k in mine])
        except Exception as error:
            found = [error] * len(mine)
        for k, answer in zip(mine, found, strict=True):
            answers[k] = answer
    return answers
