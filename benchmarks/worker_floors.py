"""The floors of worker processes: what a careful programmer writes with `concurrent.futures` and `graphlib`.

Everything that runs in a worker is a function of a module, so that it goes there by reference, by hand as in pmflow.
Of several ways to drive a pool the fastest found is here: each completion submits what has become ready itself, on the
pool's own thread (65 us a process in layers, against 90 with one queue of finished names, and 100 with
`concurrent.futures.wait`). Its workers are forked, which is the fastest start there is, and stay. No floor takes the
time of its calls: that would cost it 10 us each.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from graphlib import TopologicalSorter
from queue import SimpleQueue
from threading import RLock
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import floors
from attrs import field, frozen
from floors import Functions, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Calls = Mapping[str, Callable[..., Any]]
"""Each process by its name, to what it calls: with the inputs of the run, then with what it needs."""

MEGABYTE = 1_000_000


# What is run


@frozen
class Work:
    """What needs what, what each process calls, and which values have to come out."""

    shape: Shape
    calls: Calls
    expected: Mapping[str, Any]

    @classmethod
    def of(cls, shape: Shape, functions: Functions, expected: Mapping[str, Any]) -> Work:
        """Have each process call the function that takes as many values as it needs."""
        return cls(shape, {name: functions[len(needs)] for name, needs in shape.items()}, expected)


# What is run: nothing


def pair(a: int, b: int) -> int:  # noqa: ARG001 - two edges
    """Need two."""
    return a


PLAIN: Functions = {**floors.PLAIN, 2: pair}


# What is run: so many steps of a loop


def compute(iterations: int) -> float:
    """Keep a core busy."""
    value = 0.0
    for _ in range(iterations):
        value = value * 0.5 + 1.0
    return value


def kernel(iterations: int) -> int:
    """Compute, in the first row; say which it is."""
    compute(iterations)
    return 0


def kernel_after_one(iterations: int, a: int) -> int:
    """Compute, in a row of one; say in which row."""
    compute(iterations)
    return a + 1


def kernel_after_two(iterations: int, a: int, b: int) -> int:
    """Compute, at an edge; say in which row."""
    compute(iterations)
    return max(a, b) + 1


def kernel_after_three(iterations: int, a: int, b: int, c: int) -> int:
    """Compute, in the middle; say in which row."""
    compute(iterations)
    return max(a, b, c) + 1


KERNELS: Functions = {0: kernel, 1: kernel_after_one, 2: kernel_after_two, 3: kernel_after_three}


def calibrated(pool: Executor, workers: int, iterations: int = 400_000) -> float:
    """Return the seconds of one iteration of `compute`, with every worker busy: the least of three."""
    return min(
        floors.seconds_of(lambda: list(pool.map(compute, [iterations] * workers))) / iterations for _ in range(3)
    )


# What is run: something large


def made(elements: int) -> Array:
    """Make an array; every page of it is written."""
    import numpy as np

    return np.ones(elements)


def changed(elements: int, a: Array) -> Array:
    """Change an array in place, and hand it on."""
    a[elements // 2] += 1
    return a


def taken(elements: int, a: Array) -> float:
    """Take one number out of an array."""
    return float(a[elements // 2])


STAGED = Work(
    floors.chain(4), dict(zip(floors.chain(4), (made, changed, changed, taken), strict=True)), expected={"n3": 3.0}
)
"""One stage makes it, two change it, the last returns a number of it."""

CONSUMERS = [f"taken{index}" for index in range(8)]
FANNED = Work.of(
    {"made": (), **dict.fromkeys(CONSUMERS, ("made",))}, {0: made, 1: taken}, dict.fromkeys(CONSUMERS, 1.0)
)
"""One makes it, eight take the same number out of it."""


# Pools


@contextmanager
def warm(workers: int) -> Generator[ProcessPoolExecutor]:
    """Have a pool whose workers have all begun."""
    with forked(workers) as pool:
        while len(set(pool.map(_place, [0.01] * workers))) < workers:
            pass
        yield pool


def forked(workers: int) -> ProcessPoolExecutor:
    """Return a pool of forked workers."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))


def _place(seconds: float) -> int:
    """Hold up a worker until the others have begun, and return its pid."""
    sleep(seconds)
    return os.getpid()


@frozen
class ByHand:
    """Runs a graph in a pool; each process begins as soon as what it needs is there.

    Args:
        work: what is run.
        pool: where it is run.
        keep: whether all values are kept, or each until it has been handed to all who need it.
    """

    work: Work
    pool: Executor
    keep: bool = True

    def run(self, inputs: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
        """Return the seconds of a run, and the values by name; the graph is taken in before the clock starts."""
        needed = Counter(need for needs in self.work.shape.values() for need in needs)
        drive = _Drive(self, tuple(inputs.values()), floors.prepared(self.work.shape), needed)
        start = perf_counter()
        drive.run()
        return perf_counter() - start, drive.values


@frozen
class _Drive:
    """One run of a graph in a pool. Nothing in it refers to itself: what it has let go is gone."""

    of: ByHand
    inputs: tuple[Any, ...]
    order: TopologicalSorter[str]
    needed: Counter[str]
    values: dict[str, Any] = field(factory=dict)
    ended: SimpleQueue[BaseException | None] = field(factory=SimpleQueue)
    turn: RLock = field(factory=RLock)
    """Reentrant: a callback runs at once, in the thread that adds it, if its future has ended by then."""

    def run(self) -> None:
        """Run all of it."""
        with self.turn:
            self.start_ready()
        error = self.ended.get()
        if error is not None:
            raise error

    def start_ready(self) -> None:
        """Hand what can begin to the pool."""
        shape, calls, keep = self.of.work.shape, self.of.work.calls, self.of.keep
        for name in self.order.get_ready():
            needs = shape[name]
            future = self.of.pool.submit(calls[name], *self.inputs, *[self.values[need] for need in needs])
            if not keep:
                self.let_go(needs)
            future.add_done_callback(partial(self.finish, name))

    def let_go(self, needs: Sequence[str]) -> None:
        """Forget the values that nobody needs any more."""
        for need in needs:
            self.needed[need] -= 1
            if not self.needed[need]:
                del self.values[need]

    def finish(self, name: str, future: Future[Any]) -> None:
        """Take a value, and go on."""
        with self.turn:
            try:
                self.values[name] = future.result()
                self.order.done(name)
                if self.order.is_active():
                    self.start_ready()
                else:
                    self.ended.put(None)
            except BaseException as error:  # noqa: BLE001 - raised again where the graph is run
                self.ended.put(error)


# A worker that is killed


@frozen
class Killed:
    """Kills the only worker of a pool; a pool whose worker has died is of no more use, so a new one is made."""

    pools: list[ProcessPoolExecutor] = field(factory=lambda: [forked(1)])

    def __call__(self) -> float:
        """Return the seconds from the death of an idle worker to the end of the next call."""
        pid = self.pools[0].submit(os.getpid).result()
        start = perf_counter()
        os.kill(pid, signal.SIGKILL)
        fresh = pid
        while fresh == pid:
            try:
                fresh = self.pools[0].submit(os.getpid).result()
            except BrokenProcessPool:
                self.pools[0].shutdown()
                self.pools[0] = forked(1)
        return perf_counter() - start

    def close(self) -> None:
        """End the worker there is."""
        self.pools[0].shutdown()


# Waiting and computing mixed


async def waited(number: int, wait: float) -> int:
    """Wait, as for the network, and return what came."""
    await asyncio.sleep(wait)
    return number


def parsed(page: int, iterations: int) -> int:
    """Compute with what came."""
    compute(iterations)
    return page + 1


def total(parsed: Sequence[int]) -> int:
    """Take everything together."""
    return sum(parsed)


def mixed(pool: Executor, pages: int, wait: float, iterations: int) -> float:
    """Return the seconds of waiting for all pages at once, parsing each when it is there, and taking all together."""

    async def main() -> int:
        loop = asyncio.get_running_loop()

        async def one(number: int) -> int:
            return await loop.run_in_executor(pool, parsed, await waited(number, wait), iterations)

        return total(await asyncio.gather(*[one(number) for number in range(pages)]))

    start = perf_counter()
    value = asyncio.run(main())
    seconds = perf_counter() - start
    assert value == sum(range(1, pages + 1))
    return seconds


# Whole programs

POOL_HELLO = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

with ProcessPoolExecutor(2, get_context("fork")) as pool:
    words = pool.submit(first), pool.submit(second)
    print(pool.submit(both, *[word.result() for word in words]).result())
"""

PMFLOW_HELLO = """
from pmflow import process, run

@process(type="process")
def first():
    return "hello"

@process(type="process")
def second():
    return "world"

@process(type="process")
def both(first, second):
    return f"{first} {second}"

print(run(both).value)
"""
