"""The floors: what a careful programmer writes by hand, with the standard library alone.

Each floor runs the same functions over the same shape as pmflow does, and records the value of each call and when it
began and ended. Of several ways to write one, the fastest found is here: tasks that await the tasks they need (3.1 us,
against 4.3 with counters of what is missing), and one queue of finished names instead of `concurrent.futures.wait`
(7 us, against 11).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from queue import SimpleQueue
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Executor

Shape = Mapping[str, Sequence[str]]
"""What each process needs: name to names, every name after those it needs."""

Functions = Mapping[int, Callable[..., Any]]
"""How many dependencies, to the function that takes so many."""

Record = tuple[Any, float, float]
"""The value of a call, when it began, and when it ended."""

Samples = tuple[list[float], list[float]]
"""Of the floor, and of pmflow: the first of each were taken one after the other, and so on."""

PARAMETERS = ("a", "b", "c")


# Shapes


def wide(size: int) -> Shape:
    """No process needs another."""
    return {f"n{index}": () for index in range(size)}


def chain(size: int) -> Shape:
    """Each process needs the one before."""
    return {f"n{index}": (f"n{index - 1}",) if index else () for index in range(size)}


def layered(size: int, width: int = 50) -> Shape:
    """Layers of ``width``, in which each process needs three of the layer before."""
    return {
        f"n{index}": tuple(f"n{index - index % width - width + (index + step) % width}" for step in range(3))
        if index >= width
        else ()
        for index in range(size)
    }


SHAPES: dict[str, Callable[[int], Shape]] = {"wide": wide, "chain": chain, "layered": layered}


# What is run: nothing, with as many parameters as are needed


def source() -> int:
    """Need nothing."""
    return 1


def link(a: int) -> int:
    """Need one."""
    return a


def join(a: int, b: int, c: int) -> int:  # noqa: ARG001 - three edges
    """Need three."""
    return a


async def source_later() -> int:
    """Need nothing."""
    return 1


async def link_later(a: int) -> int:
    """Need one."""
    return a


async def join_later(a: int, b: int, c: int) -> int:  # noqa: ARG001 - three edges
    """Need three."""
    return a


PLAIN: Functions = {0: source, 1: link, 3: join}
COROUTINES: Functions = {0: source_later, 1: link_later, 3: join_later}


# Floors


def tasks(shape: Shape) -> dict[str, Record]:
    """Run coroutines as raw asyncio tasks, each of which awaits the tasks it needs."""
    return asyncio.run(_tasks(shape))


async def _tasks(shape: Shape) -> dict[str, Record]:
    started: dict[str, asyncio.Task[Record]] = {}

    async def attempt(needs: Sequence[str]) -> Record:
        arguments = [(await started[need])[0] for need in needs]
        begin = perf_counter()
        value = await COROUTINES[len(needs)](*arguments)
        return value, begin, perf_counter()

    create = asyncio.get_running_loop().create_task
    for name, needs in shape.items():
        started[name] = create(attempt(needs))
    return {name: await task for name, task in started.items()}


def calls(shape: Shape) -> dict[str, Record]:
    """Call plain functions, one after another."""
    records: dict[str, Record] = {}
    for name, needs in shape.items():
        arguments = [records[need][0] for need in needs]
        begin = perf_counter()
        value = PLAIN[len(needs)](*arguments)
        records[name] = value, begin, perf_counter()
    return records


def pooled(
    shape: Shape,
    order: TopologicalSorter[str],
    pool: Executor,
    functions: Functions,
) -> dict[str, Record]:
    """Run plain functions in a thread pool, driven by graphlib: each as soon as what it needs is there.

    Args:
        shape: what needs what.
        order: a fresh sorter of it.
        pool: a pool that has its threads.
        functions: how many dependencies, to what is called.
    """
    records: dict[str, Record] = {}
    finished: SimpleQueue[str] = SimpleQueue()

    def attempt(name: str, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        begin = perf_counter()
        try:
            value = function(*arguments)
        except Exception as error:  # noqa: BLE001 - a failure is recorded as a value is
            value = error
        records[name] = value, begin, perf_counter()
        finished.put(name)

    order.prepare()
    while order.is_active():
        for name in order.get_ready():
            needs = shape[name]
            pool.submit(attempt, name, functions[len(needs)], [records[need][0] for need in needs])
        ended = [finished.get()]
        while not finished.empty():
            ended.append(finished.get())
        order.done(*ended)
    return records


def prepared(shape: Shape) -> TopologicalSorter[str]:
    """Take a graph in, and check it for cycles."""
    order = TopologicalSorter(shape)
    order.prepare()
    return order


# How long they take, and what is held against them


def seconds_of(step: Callable[[], object]) -> float:
    """Return how long a step takes."""
    start = perf_counter()
    step()
    return perf_counter() - start


def in_turn(floor: Callable[[], float], ours: Callable[[], float], repetitions: int, per_second: float) -> Samples:
    """Take samples of both in turn, each going first every other time, after one of each that does not count.

    Args:
        floor: does it by hand, and returns the seconds it took.
        ours: does it with pmflow, and returns the seconds it took.
        repetitions: how often.
        per_second: the row's units in a second.
    """
    samples: Samples = [], []
    sides = [(floor, samples[0]), (ours, samples[1])]
    for measure, _ in sides:
        measure()
    gc.collect()
    gc.freeze()
    for _ in range(repetitions):
        for measure, taken in sides:
            gc.collect()
            taken.append(measure() * per_second)
        sides.reverse()
    gc.unfreeze()
    return samples


def timed(records_of: Callable[[Shape], dict[str, Record]], shape: Shape) -> float:
    """Return the seconds in which a floor runs a shape and its timings are read."""
    start = perf_counter()
    records = records_of(shape)
    spent = sum(ended - began for _, began, ended in records.values())
    seconds = perf_counter() - start
    assert len(records) == len(shape)
    assert spent >= 0
    return seconds


def timed_pool(pool: Executor, functions: Functions, shape: Shape) -> float:
    """Return the seconds of a thread pool driven by graphlib; its graph is taken in before, as pmflow's is."""
    order = TopologicalSorter(shape)
    return timed(lambda shape: pooled(shape, order, pool, functions), shape)


# The graph on which first come, first served hurts

THREADS = 2
LINKS = 20


def hurting() -> Shape:
    """Many independent sleeps, declared before one chain of sleeps that is as long as all of them together."""
    return {**{f"short{index}": () for index in range(LINKS)}, **chain(LINKS)}


def optimum(seconds: float) -> float:
    """Return the shortest time in which two threads can sleep all of `hurting`.

    One thread sleeps the chain, which nothing can shorten, 20 links one after another; the other, meanwhile, the 20
    independent sleeps. Who serves in order of arrival sleeps the independent ones in both threads first, for 10 sleeps,
    and then has the whole chain before it: 30 sleeps, 1.5 times the optimum.
    """
    return LINKS * seconds


def sleeper(seconds: float) -> Functions:
    """Return functions that sleep, by the number of their dependencies."""

    def short() -> int:
        sleep(seconds)
        return 1

    def long(a: int) -> int:
        sleep(seconds)
        return a

    return {0: short, 1: long}


# Whole programs

HAND_IMPORT = "import asyncio, anyio, attrs, cloudpickle"

HAND_HELLO = """
import asyncio

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    print(first, second)

async def main():
    first_word, second_word = await asyncio.gather(asyncio.to_thread(first), asyncio.to_thread(second))
    await asyncio.to_thread(both, first_word, second_word)

asyncio.run(main())
"""

POOL_HELLO = """
from concurrent.futures import ThreadPoolExecutor

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    print(first, second)

with ThreadPoolExecutor() as pool:
    words = pool.submit(first), pool.submit(second)
    pool.submit(both, *[word.result() for word in words]).result()
"""

PMFLOW_HELLO = """
from pmflow import process, run

@process
def first():
    return "hello"

@process
def second():
    return "world"

@process
def both(first, second):
    print(first, second)

run(both)
"""
