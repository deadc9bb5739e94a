"""loky is an executor: a wide map goes through `map` in chunks, a graph is driven as by hand."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import loky
from worker_floors import ByHand, Work

from adapters import Adapter, Inputs, Prepare, Step, chunk, numbered, only_call

HELLO = """
from loky import get_reusable_executor

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

pool = get_reusable_executor(max_workers=2)
words = pool.submit(first), pool.submit(second)
print(pool.submit(both, *[word.result() for word in words]).result())
"""


@contextmanager
def workers(many: int) -> Generator[Prepare]:
    """Have the reusable executor, which is not to shrink while it is idle."""
    pool = loky.get_reusable_executor(max_workers=many, timeout=None)

    def prepare(work: Work, inputs: Inputs) -> Step:
        call = only_call(work)
        if call is None:
            side = ByHand(work, pool, keep=len(work.expected) == len(work.shape))
            return lambda: side.run(inputs)[1]
        one, size = partial(numbered, call, tuple(inputs.values())), len(work.shape)
        return lambda: dict(zip(work.shape, pool.map(one, range(size), chunksize=chunk(size, many)), strict=True))

    yield prepare
    pool.shutdown()


ADAPTER = Adapter("import loky", {"worker": workers}, {"worker": HELLO}, {"thread": "no threads"})
