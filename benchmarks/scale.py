"""How pmflow's costs grow: a million processes in one graph, and a thousand runs at once (see `floors`).

    python benchmarks/scale.py                  # everything: some minutes
    python benchmarks/scale.py pools runs       # two sections
    python benchmarks/scale.py --quick --json   # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. Very many processes are run in a fresh program each time, by hand (raw asyncio
tasks) and with pmflow in turn. The clock runs from the first declaration to the end of the run: what a user pays.
A graph keeps its plan, so that planning it first and running it then costs no more than running it, and the last column
can tell the four phases apart. A graph that takes a moment only is made and run anew some times, and the quickest
counts: a large one, too, runs for the most part in an interpreter that is warm.

Bytes are those by which the program has grown at its largest, with everything alive: processes, graph, plan, results.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import floors
import worker_floors
from attrs import frozen
from floors import Functions, Samples, Shape
from overhead import ON_THE_LOOP, THREAD_GOALS, WORKER_GOALS, TimedRun, declared, pool_seconds
from rows import MICRO, Facts, Goal, Row, main, number, program

import pmflow
from pmflow.engine.plan import Plan
from pmflow.executors.platform import cores


@frozen
class Effort:
    """How much is measured."""

    sizes: Sequence[int]
    size_repetitions: Sequence[int]
    pool_size: int
    pool_repetitions: int
    concurrent: Sequence[int]
    run_repetitions: int


FULL = Effort((1_000, 100_000, 1_000_000), (5, 2, 1), 100_000, 3, (1, 10, 100, 1_000), 7)
QUICK = Effort((1_000, 2_000), (1, 1), 1_000, 1, (1, 10), 2)


# Very many processes


def scale(effort: Effort) -> Iterator[Row]:
    """Declare, build, plan and run very many processes on the loop, each time in a fresh program."""
    for name in floors.SHAPES:
        sides = ("floor", *ON_THE_LOOP)
        found = {
            size: [{side: _scaled(side, name, size) for side in sides} for _ in range(repetitions)]
            for size, repetitions in zip(effort.sizes, effort.size_repetitions, strict=True)
        }
        for kind in ON_THE_LOOP:
            yield from scale_rows(f"{kind}s on the loop, {name}", kind, found)


def scale_rows(label: str, kind: str, found: Mapping[int, Sequence[Mapping[str, Facts]]]) -> Iterator[Row]:
    """Compare with the floor at each size, and the growth with the floor's growth.

    Args:
        label: what the names of the rows begin with.
        kind: the side to be held against the floor.
        found: size to what the programs of all sides reported, again and again.
    """
    each: dict[int, Samples] = {}
    for size, times in found.items():
        pairs = [(facts["floor"], facts[kind]) for facts in times]
        each[size] = _per(pairs, "seconds", MICRO / size)
        phases = min((ours for _, ours in pairs), key=lambda facts: facts["seconds"])["phases"]
        note = ", ".join(f"{phase} {number(seconds * MICRO / size)}" for phase, seconds in phases.items())
        yield Row(f"{label}, {size:,}", "us", each[size], Goal(15, "us"), note)
        yield Row(f"{label}, {size:,}, memory", "bytes", _per(pairs, "bytes", 1 / size), Goal(1_000, "bytes"))
    fewest, *fewer, most = each
    for size in (fewest, *fewer):
        name = "fewest" if size == fewest else f"{size:,}"
        floor, ours = ([min(more) / min(less)] for less, more in zip(each[size], each[most], strict=True))
        note = f"time each, {most:,} : {size:,}; more memory is slower memory, for both"
        yield Row(f"{label}, most : {name}", "x", (floor, ours), Goal(1.25), note)


def _per(pairs: Sequence[tuple[Facts, Facts]], what: str, per: float) -> Samples:
    return [floor[what] * per for floor, _ in pairs], [ours[what] * per for _, ours in pairs]


def _scaled(side: str, shape: str, size: int) -> Facts:
    ended = program(f"import scale; scale.report_scaled({side!r}, {shape!r}, {size})")
    return dict(json.loads(ended.stdout))


WARM_AFTER = 10_000
"""So many processes make an interpreter warm."""


def report_scaled(side: str, shape_name: str, size: int) -> None:
    """Print, as JSON, the seconds of each phase, and the bytes by which this program has grown at its largest."""
    shape = floors.SHAPES[shape_name](size)
    phases_of = timed_floor if side == "floor" else partial(timed_phases, ON_THE_LOOP[side])
    phases_of(floors.wide(10))  # what is imported when it is first needed is there before
    before = _memory("VmRSS")
    rounds = [phases_of(shape)]
    grown = _memory("VmHWM") - before
    rounds += [phases_of(shape) for _ in range(WARM_AFTER // size)]
    phases = min(rounds, key=lambda phases: sum(phases.values()))
    print(json.dumps({"phases": phases, "seconds": sum(phases.values()), "bytes": grown}))


def timed_floor(shape: Shape) -> dict[str, float]:
    """Return the seconds of raw asyncio tasks."""
    start = perf_counter()
    records = floors.tasks(shape)
    seconds = perf_counter() - start
    assert len(records) == len(shape)
    return {"run": seconds}


def timed_phases(what: tuple[Functions, str], shape: Shape) -> dict[str, float]:
    """Return the seconds of each phase of pmflow."""
    moments = [perf_counter()]
    processes = declared(shape, *what)
    moments.append(perf_counter())
    graph = pmflow.Graph(processes)
    moments.append(perf_counter())
    Plan.of(graph, keep="all")  # as `run` plans it
    moments.append(perf_counter())
    run = pmflow.run(graph)
    moments.append(perf_counter())
    assert len(graph.plans) == 1, "the run has planned once more"
    assert len(run) == len(shape)
    assert run.success
    seconds = [ended - began for began, ended in pairwise(moments)]
    return dict(zip(("declare", "build", "plan", "run"), seconds, strict=True))


def _memory(name: str) -> int:
    """Return what Linux knows of this program: what it occupies (VmRSS), or the most it ever has (VmHWM), in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


# Many processes in threads and workers


def pools(effort: Effort) -> Iterator[Row]:
    """Many processes in threads and in workers; the goals are those of `overhead`, for a hundredth of them."""
    with ThreadPoolExecutor() as threads:
        floor = partial(floors.timed_pool, threads, floors.PLAIN)
        yield from pool_rows("thread", effort, floor, THREAD_GOALS)
    with worker_floors.warm(cores()) as processes:
        floor = partial(pool_seconds, processes, floors.PLAIN)
        yield from pool_rows("process", effort, floor, WORKER_GOALS)


MOST_BY_HAND = 10_000
"""A pool's time each does not depend on how many there are: 100,000 in a process pool would take a minute."""


def pool_rows(kind: str, effort: Effort, floor: Callable[[Shape], float], goals: Mapping[str, Goal]) -> Iterator[Row]:
    """Measure one strategy: the time each of many, against the floor's time each of fewer."""
    size, fewer = effort.pool_size, min(effort.pool_size, MOST_BY_HAND)
    for name in ("wide", "layered"):
        small, run = floors.SHAPES[name](fewer), TimedRun(floors.SHAPES[name](size), floors.PLAIN, kind)
        sides = (lambda small=small: floor(small) / fewer), (lambda run=run: run() / size)
        samples = floors.in_turn(*sides, effort.pool_repetitions, MICRO)
        note = f"floor: of {fewer:,}; {run.note(MICRO / size)}"
        yield Row(f"{'worker' if kind == 'process' else kind}, {name}, {size:,}", "us", samples, goals[name], note)


# Many runs at once


def runs(effort: Effort) -> Iterator[Row]:
    """Many runs of a small graph at once in one event loop; the time of each."""
    with ThreadPoolExecutor() as pool:
        for name, (functions, kind), call in (
            ("coroutines", ON_THE_LOOP["coroutine"], called),
            ("threads", (floors.PLAIN, "thread"), partial(called_in, pool)),
        ):
            graph = pmflow.Graph(declared(SMALL, functions, kind))
            for count in effort.concurrent:
                sides = partial(by_hand, functions, call), partial(with_pmflow, graph)
                floor, ours = (partial(at_once, one_run, count) for one_run in sides)
                samples = floors.in_turn(floor, ours, effort.run_repetitions, MICRO / count)
                yield Row(f"run of {len(SMALL)} {name}, {count:,} at once", "us", samples, None)


SMALL = floors.layered(10, 5)
"""Five processes, and five more each of which needs three of them."""


def at_once(one_run: Callable[[], Awaitable[None]], count: int) -> float:
    """Return the seconds of many runs at once, without those of starting an event loop."""

    async def timed() -> float:
        start = perf_counter()
        await asyncio.gather(*[one_run() for _ in range(count)])
        return perf_counter() - start

    return asyncio.run(timed())


async def with_pmflow(graph: pmflow.Graph) -> None:
    """Run a graph."""
    run = await pmflow.arun(graph)
    assert len(run) == len(SMALL)
    assert run.success


async def by_hand(functions: Functions, call: Callable[..., Awaitable[Any]]) -> None:
    """Run the same as raw asyncio tasks, each of which awaits those it needs; record values and times as `floors` do.

    Args:
        functions: how many dependencies, to what is called.
        call: awaits a function with its arguments, wherever it runs.
    """
    started: dict[str, asyncio.Task[floors.Record]] = {}

    async def attempt(needs: Sequence[str]) -> floors.Record:
        arguments = [(await started[need])[0] for need in needs]
        begin = perf_counter()
        value = await call(functions[len(needs)], *arguments)
        return value, begin, perf_counter()

    for name, needs in SMALL.items():
        started[name] = asyncio.create_task(attempt(needs))
    records = {name: await task for name, task in started.items()}
    assert all(value == 1 for value, _, _ in records.values())


def called(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Awaitable[Any]:
    """Call a coroutine function."""
    return function(*arguments)


def called_in(pool: Executor, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
    """Call a plain function in a thread of a pool."""
    return asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {"scale": scale, "pools": pools, "runs": runs}


if __name__ == "__main__":
    main("How pmflow's costs grow, against hand-written floors.", SECTIONS, QUICK, FULL)
