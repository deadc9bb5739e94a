"""The floor: the standard library's pools, driven by graphlib; a process starts as soon as what it needs is there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

import floors
import worker_floors
from worker_floors import ByHand, Work

from adapters import Adapter, Inputs, Prepare, Step, Values, arguments

Submit = Callable[..., "Future[Any]"]


def driven(submit: Submit, work: Work, inputs: Inputs) -> Values:
    """Run a graph through one queue of what has ended, the fastest way found for threads."""
    values: dict[str, Any] = {}
    ended: SimpleQueue[tuple[str, Future[Any]]] = SimpleQueue()
    order = floors.prepared(work.shape)
    while order.is_active():
        for name in order.get_ready():
            future = submit(work.calls[name], *arguments(inputs, values, work.shape[name]))
            future.add_done_callback(partial(_put, ended, name))
        name, future = ended.get()
        values[name] = future.result()
        order.done(name)
    return values


def _put(ended: SimpleQueue[tuple[str, Future[Any]]], name: str, future: Future[Any]) -> None:
    ended.put((name, future))


@contextmanager
def threads(many: int) -> Generator[Prepare]:
    """Have a thread pool."""
    with ThreadPoolExecutor(many) as pool:
        yield lambda work, inputs: partial(driven, pool.submit, work, inputs)


@contextmanager
def workers(many: int) -> Generator[Prepare]:
    """Have a pool of worker processes, whose completions start what has become ready."""
    with worker_floors.warm(many) as pool:

        def prepare(work: Work, inputs: Inputs) -> Step:
            side = ByHand(work, pool, keep=len(work.expected) == len(work.shape))
            return lambda: side.run(inputs)[1]

        yield prepare


ADAPTER = Adapter(
    floors.HAND_IMPORT,
    {"thread": threads, "worker": workers},
    {"thread": floors.POOL_HELLO, "worker": worker_floors.POOL_HELLO},
)
