"""Pebble has maps and single calls: a wide map goes through `map` in chunks, a graph is driven as by hand."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import pebble
from attrs import frozen
from worker_floors import ByHand, Work

from adapters import Adapter, Inputs, Prepare, Step, chunk, numbered, only_call
from adapters.by_hand import driven

HELLO = """
from pebble import POOL

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

with POOL(max_workers=2) as pool:
    words = pool.schedule(first), pool.schedule(second)
    print(pool.schedule(both, [word.result() for word in words]).result())
"""


@frozen
class Calls:
    """Makes single calls in a pool of Pebble."""

    pool: Any

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a call."""
        future: Future[Any] = self.pool.schedule(call, arguments)
        return future


@contextmanager
def pool(kind: str, many: int) -> Generator[Prepare]:
    """Have a pool of threads, or of forked workers."""
    forked = pebble.ProcessPool(max_workers=many, context=multiprocessing.get_context("fork"))
    with pebble.ThreadPool(max_workers=many) if kind == "thread" else forked as kept:
        calls: Any = Calls(kept)  # an executor as far as it is used

        def prepare(work: Work, inputs: Inputs) -> Step:
            call, size = only_call(work), len(work.shape)
            if call is not None:
                one = partial(numbered, call, tuple(inputs.values()))
                mapped = partial(kept.map, one, range(size), chunksize=chunk(size, many))
                return lambda: dict(zip(work.shape, mapped().result(), strict=True))
            if kind == "thread":
                return partial(driven, calls.submit, work, inputs)
            side = ByHand(work, calls, keep=len(work.expected) == size)
            return lambda: side.run(inputs)[1]

        yield prepare


POOLS = {"thread": "ThreadPool", "worker": "ProcessPool"}
ADAPTER = Adapter(
    "import pebble",
    {kind: partial(pool, kind) for kind in POOLS},
    {kind: HELLO.replace("POOL", name) for kind, name in POOLS.items()},
)
