"""mpire has maps and single calls: a wide map goes through `map` in its own chunks, a graph is driven as by hand."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import mpire
from attrs import frozen
from worker_floors import ByHand, Work

from adapters import Adapter, Inputs, Prepare, Step, numbered, only_call
from adapters.by_hand import driven

HELLO = """
from mpire import WorkerPool

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

with WorkerPool(2, start_method=METHOD, keep_alive=True) as pool:
    words = pool.apply_async(first), pool.apply_async(second)
    print(pool.apply(both, [word.get() for word in words]))
"""


@frozen
class Calls:
    """Makes single calls in a pool of mpire, each with a future that its callback fulfils."""

    pool: Any

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a call."""
        future: Future[Any] = Future()
        self.pool.apply_async(call, arguments, callback=future.set_result, error_callback=future.set_exception)
        return future


@contextmanager
def pool(method: str, many: int) -> Generator[Prepare]:
    """Have a pool that is kept alive from one map to the next."""
    with mpire.WorkerPool(many, start_method=method, keep_alive=True) as kept:
        calls: Any = Calls(kept)  # an executor as far as it is used

        def prepare(work: Work, inputs: Inputs) -> Step:
            call = only_call(work)
            if call is not None:
                one = partial(numbered, call, tuple(inputs.values()))
                return lambda: dict(zip(work.shape, kept.map(one, range(len(work.shape))), strict=True))
            if method == "threading":
                return partial(driven, calls.submit, work, inputs)
            side = ByHand(work, calls, keep=len(work.expected) == len(work.shape))
            return lambda: side.run(inputs)[1]

        yield prepare


METHODS = {"thread": "threading", "worker": "fork"}
ADAPTER = Adapter(
    "import mpire",
    {kind: partial(pool, method) for kind, method in METHODS.items()},
    {kind: HELLO.replace("METHOD", repr(method)) for kind, method in METHODS.items()},
)
