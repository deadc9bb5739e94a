"""What pmflow costs before the first result: whole programs, against the same by hand (see `floors`).

    python benchmarks/startup.py                  # everything: some minutes
    python benchmarks/startup.py import first     # two sections
    python benchmarks/startup.py --quick --json   # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. A whole program is timed from outside, the start of Python included. Of the first
and the second run in one program that program says itself how long they took; its first begins with the imports, and
its second finds them done, and threads and workers there, by hand as in pmflow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import floors
import workers
from attrs import evolve, frozen
from floors import Samples
from rows import MILLI, Goal, Row, main, program, program_row


@frozen
class Effort:
    """How much is measured."""

    programs: int
    runs: int


FULL = Effort(40, 20)
QUICK = Effort(2, 2)


# Programs: each defines what gives one result

COROUTINE_BY_HAND = """
import asyncio

async def one():
    return 1

def result():
    return asyncio.run(one())
"""

CALL_BY_HAND = """
def one():
    return 1

def result():
    return one()
"""

THREAD_BY_HAND = """
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor()

def one():
    return 1

def result():
    return pool.submit(one).result()
"""

WORKER_BY_HAND = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

pool = ProcessPoolExecutor(1, get_context("fork"))

def one():
    return 1

def result():
    return pool.submit(one).result()
"""

WITH_PMFLOW = """
from pmflow import process, run

@process(type={kind!r})
{definition} one():
    return 1

def result():
    return run(one).value
"""

PROGRAMS: dict[str, tuple[str, str]] = {
    "coroutine": (COROUTINE_BY_HAND, WITH_PMFLOW.format(kind="async", definition="async def")),
    "plain function on the loop": (CALL_BY_HAND, WITH_PMFLOW.format(kind="async", definition="def")),
    "thread": (THREAD_BY_HAND, WITH_PMFLOW.format(kind="thread", definition="def")),
    "worker": (WORKER_BY_HAND, WITH_PMFLOW.format(kind="process", definition="def")),
}
"""By strategy: `asyncio.run`, a call, a pool of threads, a pool of one forked worker; and pmflow."""

PRINTED = "\nprint(result())\n"

TIMED = """
from time import perf_counter
begin = perf_counter()
{code}
values = [result()]
first = perf_counter() - begin
begin = perf_counter()
values.append(result())
second = perf_counter() - begin
assert values == [1, 1]
import json
print(json.dumps([first, second]))
"""


# Sections


def imports(effort: Effort) -> Iterator[Row]:
    """`import pmflow`, against the imports of what it stands on."""
    yield program_row("import pmflow", (floors.HAND_IMPORT, "import pmflow"), effort.programs, Goal(1))
    yield program_row("import pmflow, against bare Python", ("pass", "import pmflow"), effort.programs)


def first(effort: Effort) -> Iterator[Row]:
    """A program that prints one result, by strategy.

    The first three are held against programs that import less than pmflow stands on: they have no goal.
    """
    goals = {"worker": Goal(1.1)}
    for name, (by_hand, ours) in PROGRAMS.items():
        codes = by_hand + PRINTED, ours + PRINTED
        yield program_row(f"first result, {name}", codes, effort.programs, goals.get(name), "1\n")


def hello(effort: Effort) -> Iterator[Row]:
    """Three processes in threads, whole program, against the same by hand; and three in workers."""
    for name, by_hand, goal in (
        ("hello world, three threads", floors.HAND_HELLO, Goal(1.1)),
        ("hello world, against a bare thread pool", floors.POOL_HELLO, None),
    ):
        yield program_row(name, (by_hand, floors.PMFLOW_HELLO), effort.programs, goal, "hello world\n")
    yield from workers.hello(evolve(workers.FULL, programs=effort.programs))


def warm(effort: Effort) -> Iterator[Row]:
    """The first run in a program, imports included, and the second, by strategy."""
    for name, codes in PROGRAMS.items():
        cold, again = first_and_second(codes, effort.runs)
        note = f"pmflow's first : second {median(cold[1]) / median(again[1]):.3g}"
        yield Row(f"first run in a program, {name}", "ms", cold, None, note)
        yield Row(f"second run in a program, {name}", "ms", again)


def first_and_second(codes: Sequence[str], programs: int) -> tuple[Samples, Samples]:
    """Return the samples of the first runs of programs, and of the second ones; one program of each does not count."""
    sides = list(range(len(codes)))
    found: dict[int, list[Sequence[float]]] = {side: [] for side in sides}
    for _ in range(programs + 1):
        for side in sides:
            found[side].append(json.loads(program(TIMED.format(code=codes[side])).stdout))
        sides.reverse()
    cold, again = ([[times[run] * MILLI for times in found[side][1:]] for side in sorted(found)] for run in range(2))
    return (cold[0], cold[1]), (again[0], again[1])


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "import": imports,
    "first": first,
    "hello": hello,
    "warm": warm,
}


if __name__ == "__main__":
    main("What pmflow costs before the first result, against the same by hand.", SECTIONS, QUICK, FULL)
