"""What worker processes cost: each operation against a `ProcessPoolExecutor` driven by graphlib (see `worker_floors`).

    python benchmarks/workers.py                   # everything: some minutes
    python benchmarks/workers.py noop granularity  # two sections
    python benchmarks/workers.py --quick --json    # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. The clock runs while a graph runs, and no longer: both sides have taken it in and
pmflow has planned it before, the workers are warm, and what came out is looked at afterwards. What the first run of a
new graph takes, its planning included, stands in the last column.

Granularity is METG(50 %), the minimum effective task granularity of Task Bench (Slaughter et al., SC20): the duration
of a task (wall time x cores / tasks) at which half of the time goes into computing. Efficiency is the time that the
kernels take when they have all cores to themselves (calibrated before each search), divided by the wall time. As in the
paper the graph is as wide as there are cores, and the kernel's iterations are varied; there they are halved from large
to small and the crossing is interpolated, here it is bisected. The rows are fewer than the paper's 1,000, which changes
the start's share only. A second row has eight tasks a core, so that there is something to do while messages travel.

Memory is the most that the program and all its descendants occupy at one time while it runs the stages for a second,
less what they occupy before, with warm workers; in a fresh program for each side (see `peak_memory`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from math import sqrt
from time import perf_counter
from typing import Any, Protocol

import floors
import peak_memory
import worker_floors
from attrs import Factory, field, frozen
from rows import MICRO, MILLI, Facts, Goal, Row, main, number, program, program_row
from worker_floors import FANNED, MEGABYTE, STAGED, ByHand, Work

import pmflow
from pmflow.executors.platform import cores

CORES = cores()
"""How many workers there are on both sides."""


@frozen
class Effort:
    """How much is measured."""

    size: int
    links: int
    repetitions: int
    steps: int
    searches: int
    runs: int
    megabytes: Sequence[int]
    large_repetitions: Sequence[int]
    memories: int
    programs: int
    kills: int
    pages: int
    mixtures: int


FULL = Effort(1_000, 250, 9, 100, 5, 3, (64, 256), (5, 2), 2, 25, 25, 200, 7)
QUICK = Effort(100, 25, 2, 10, 1, 1, (8, 16), (1, 1), 1, 2, 2, 10, 2)

WAIT, PARSE = 0.02, 0.005


# Sides


class Side(Protocol):
    """Runs something, by hand or with pmflow."""

    @property
    def work(self) -> Work:
        """What it runs."""
        ...

    def run(self, inputs: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
        """Return the seconds of a run, and the values that are there afterwards, by name."""
        ...


def graph_of(work: Work) -> pmflow.Graph:
    """Make a graph as a program does: one process per function, and copies under other names."""
    patterns = {call: pmflow.process(call, type="process") for call in work.calls.values()}
    wanted: dict[str, dict[str, str]] = {
        name: dict(zip(floors.PARAMETERS, needs, strict=False)) for name, needs in work.shape.items()
    }
    return pmflow.Graph([patterns[work.calls[name]].options(id=name, dependencies=wanted[name]) for name in wanted])


@frozen
class WithPmflow:
    """Runs a graph in pmflow's workers; the first run of it is the one that plans.

    Args:
        work: what is run.
        keep: whether all values are kept, or only those of the targets.
    """

    work: Work
    keep: bool = True
    graph: pmflow.Graph = field(default=Factory(lambda self: graph_of(self.work), takes_self=True))

    def run(self, inputs: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
        """Return the seconds of a run, and the values that were kept."""
        start = perf_counter()
        run = pmflow.run(self.graph, inputs=inputs, keep="all" if self.keep else "targets")
        seconds = perf_counter() - start
        assert len(run) == len(self.work.shape)
        assert all(result.success and result.execution_time >= 0 for result in run.values())
        return seconds, {name: run[name].data for name in run} if self.keep else run.data


def timed(side: Side, inputs: Mapping[str, Any]) -> float:
    """Return the seconds of a run, from which the values have to come out that are expected."""
    seconds, values = side.run(inputs)
    assert {name: values[name] for name in side.work.expected} == side.work.expected
    return seconds


# Processes that do nothing


@frozen
class Rerun:
    """Runs a graph that has been planned; remembers how long the first run of a new one takes."""

    side: WithPmflow
    firsts: list[float] = field(factory=list)

    def __call__(self) -> float:
        """Return the seconds of the run of the graph that has been planned."""
        seconds = timed(self.side, {})
        self.firsts.append(timed(WithPmflow(self.side.work), {}))
        return seconds


def noop(effort: Effort) -> Iterator[Row]:
    """Plain functions that do nothing: apart from one another, in layers, in a chain, in chains that cross."""
    size, links = effort.size, effort.links
    shapes = {
        f"wide, {size:,}": (floors.wide(size), Goal(0.07)),
        f"layered, {size:,}": (floors.layered(size), Goal(0.13)),
        f"chain, {size:,}": (floors.chain(size), Goal(0.04)),
        f"two chains that cross at every link, 2 x {links:,}": (worker_floors.stencil(2, links), Goal(0.4)),
    }
    with worker_floors.warm(CORES) as pool:
        for name, (shape, goal) in shapes.items():
            work = Work.of(shape, worker_floors.PLAIN, dict.fromkeys(shape, 1))
            by_hand, ours = partial(timed, ByHand(work, pool), {}), Rerun(WithPmflow(work))
            samples = floors.in_turn(by_hand, ours, effort.repetitions, MICRO / len(shape))
            note = f"first run of a new graph {number(min(ours.firsts) * MICRO / len(shape))}"
            yield Row(f"worker, {name}", "us", samples, goal, note)


# Granularity

SHORTEST, LONGEST = 1e-6, 20e-3
"""The seconds of a kernel between which half of the time goes into computing."""

PRECISION = 1.05
"""How far apart the last two kernels of a search are."""


@frozen
class Search:
    """Looks for the duration of a task at which half of the time goes into computing."""

    side: Side
    runs: int
    calibrated: Callable[[], float]

    def __call__(self) -> float:
        """Return that duration in seconds: half of it is the kernel."""
        iteration = self.calibrated()
        shortest, longest = SHORTEST, LONGEST
        while longest / shortest > PRECISION:
            middle = sqrt(shortest * longest)
            if self.efficiency(round(middle / iteration), iteration) < 0.5:  # noqa: PLR2004 - the half
                shortest = middle
            else:
                longest = middle
        return 2 * sqrt(shortest * longest)

    def efficiency(self, iterations: int, iteration: float) -> float:
        """Return which part of the wall time, the least of some runs, the kernels would take with all cores."""
        seconds = min(timed(self.side, {"iterations": iterations}) for _ in range(self.runs))
        return iterations * iteration * len(self.side.work.shape) / CORES / seconds


def granularity(effort: Effort) -> Iterator[Row]:
    """METG(50 %) of stencil_1d."""
    with worker_floors.warm(CORES) as pool:
        calibrated = partial(worker_floors.calibrated, pool, CORES)
        for width, steps, name, goal in (
            (CORES, effort.steps, "one task a core", Goal(0.15)),
            (8 * CORES, max(2, effort.steps // 4), "eight tasks a core", None),
        ):
            shape = worker_floors.stencil(width, steps)
            rows = {task: index // width for index, task in enumerate(shape)}
            work = Work.of(shape, worker_floors.KERNELS, rows)
            sides: tuple[Side, Side] = ByHand(work, pool), WithPmflow(work)
            floor, ours = (Search(side, effort.runs, calibrated) for side in sides)
            samples = floors.in_turn(floor, ours, effort.searches, MICRO)
            note = f"{width} wide, {steps} steps"
            yield Row(f"METG(50 %), stencil_1d, {name}", "us", samples, goal, note)


# Something large


def large(effort: Effort) -> Iterator[Row]:
    """An array through four stages, and one to eight consumers; of the values only the targets' are kept."""
    repetitions = dict(zip(effort.megabytes, effort.large_repetitions, strict=True))
    smallest = effort.megabytes[0]
    with worker_floors.warm(CORES) as pool:
        staged = ByHand(STAGED, pool, keep=False), WithPmflow(STAGED, keep=False)
        for megabytes, times in repetitions.items():
            name = f"array through four stages, {megabytes} MB"
            yield large_row(name, staged, (megabytes, 3, times), Goal(1 / 30))
        fanned = ByHand(FANNED, pool, keep=False), WithPmflow(FANNED, keep=False)
        name = f"array to eight consumers, {smallest} MB"
        yield large_row(name, fanned, (smallest, 8, repetitions[smallest]), Goal(1 / 50))


def large_row(name: str, sides: tuple[Side, Side], much: tuple[int, int, int], goal: Goal) -> Row:
    """Measure how long an array takes, and say how much that is in a second.

    Args:
        name: of the row.
        sides: by hand, and with pmflow.
        much: the megabytes of the array, how often it is handed on, and how often all that is done.
        goal: of the row.
    """
    megabytes, handed, repetitions = much
    floor, ours = (partial(timed, side, array_of(megabytes)) for side in sides)
    samples = floors.in_turn(floor, ours, repetitions, MILLI)
    by_hand, with_pmflow = (number(megabytes * handed / min(side) * MILLI) for side in samples)
    return Row(name, "ms", samples, goal, f"MB/s by hand {by_hand}, with pmflow {with_pmflow}")


def array_of(megabytes: int) -> dict[str, Any]:
    """Return the inputs for an array of so many megabytes."""
    return {"elements": megabytes * MEGABYTE // 8}


def memory(effort: Effort) -> Iterator[Row]:
    """The most memory that the four stages take."""
    megabytes = effort.megabytes[0]
    codes = [f"import workers; workers.run_stages({side!r}, {megabytes})" for side in ("by hand", "pmflow")]
    floor, ours = (partial(peak_memory.growth, code) for code in codes)
    samples = floors.in_turn(floor, ours, effort.memories, 1 / MEGABYTE)
    yield Row(f"array through four stages, {megabytes} MB, peak memory", "MB", samples, Goal(0.4))


def run_stages(side_name: str, megabytes: int, seconds: float = 1.0) -> None:
    """Have warm workers, wait for a line, and run the four stages again and again for some seconds."""
    with ExitStack() as stack:
        side_of: Callable[[Work], Side] = partial(WithPmflow, keep=False)
        if side_name == "by hand":
            side_of = partial(ByHand, pool=stack.enter_context(worker_floors.warm(CORES)), keep=False)
        side = side_of(STAGED)
        for each in (side_of(FANNED), side):  # eight consumers at once make every worker import numpy
            timed(each, {"elements": 8})
        print("ready", flush=True)
        sys.stdin.readline()
        end = perf_counter() + seconds
        while perf_counter() < end:
            timed(side, array_of(megabytes))


# Whole programs


def hello(effort: Effort) -> Iterator[Row]:
    """Three processes in workers, whole program, against the same by hand."""
    codes = worker_floors.POOL_HELLO, worker_floors.PMFLOW_HELLO
    yield program_row("hello world, three workers", codes, effort.programs, Goal(1.1), "hello world\n")


# A worker that is killed


def killed(effort: Effort) -> Iterator[Row]:
    """From the death of the only worker, while it is idle, to the end of the next call."""
    facts: Facts = json.loads(program(f"import workers; workers.report_killed({effort.kills})").stdout)
    note = f"calls lost with their worker {facts['lost']} of {effort.kills + 1}"
    yield Row("worker killed to replacement ready", "ms", (facts["floor"], facts["pmflow"]), Goal(20, "ms"), note)


def report_killed(kills: int) -> None:
    """Print the milliseconds of both sides as JSON; in a fresh program, whose only worker it is."""
    ours = Killed()
    with closing(worker_floors.Killed()) as by_hand:
        floor, pmflows = floors.in_turn(by_hand, ours, kills, MILLI)
    print(json.dumps({"floor": floor, "pmflow": pmflows, "lost": sum(ours.lost)}))


@frozen
class Killed:
    """Kills pmflow's only worker; remembers how many calls were lost with it before one was made by a fresh one."""

    graph: pmflow.Graph = field(factory=lambda: pmflow.Graph([pmflow.process(os.getpid, id="pid", type="process")]))
    lost: list[int] = field(factory=list)
    known: set[int] = field(factory=set)

    def __call__(self) -> float:
        """Return the seconds from the death of an idle worker to the end of the next call."""
        run = partial(pmflow.run, self.graph, max_processes=1, on_error="return")
        pid = run().value
        start = perf_counter()
        os.kill(pid, signal.SIGKILL)
        attempts = [run()]
        while not attempts[-1].success:
            assert len(attempts) < MOST_LOST
            attempts.append(run())
        seconds = perf_counter() - start
        self.known.add(pid)
        assert attempts[-1].value not in self.known
        self.lost.append(len(attempts) - 1)
        return seconds


MOST_LOST = 10


# Waiting and computing mixed


def mixed(effort: Effort) -> Iterator[Row]:
    """Pages that are waited for, each parsed in a worker when it is there, and all taken together."""
    graph = pmflow.Graph(
        [
            pmflow.process(worker_floors.waited, id="page", map_over={"number": "numbers"}),
            pmflow.process(worker_floors.parsed, type="process", map_over="page"),
            pmflow.process(worker_floors.total, type="async"),
        ]
    )
    pages = effort.pages
    with worker_floors.warm(CORES) as pool:
        iterations = round(PARSE / worker_floors.calibrated(pool, CORES))
        inputs = {"numbers": range(pages), "wait": WAIT, "iterations": iterations}
        floor = partial(worker_floors.mixed, pool, pages, WAIT, iterations)
        samples = floors.in_turn(floor, partial(timed_mixed, graph, inputs), effort.mixtures, MILLI)
    name = f"{pages} waits of {WAIT * MILLI:g} ms, {pages} parses of {PARSE * MILLI:g} ms, one total"
    note = f"the parses alone, on {CORES} cores, {number(pages * PARSE / CORES * MILLI)}"
    yield Row(name, "ms", samples, Goal(1.03), note)


def timed_mixed(graph: pmflow.Graph, inputs: Mapping[str, Any]) -> float:
    """Return the seconds of a run."""
    start = perf_counter()
    run = pmflow.run(graph, inputs=inputs)
    seconds = perf_counter() - start
    assert run.value == worker_floors.total(range(1, len(inputs["numbers"]) + 1))
    return seconds


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "noop": noop,
    "granularity": granularity,
    "large": large,
    "memory": memory,
    "hello": hello,
    "killed": killed,
    "mixed": mixed,
}


if __name__ == "__main__":
    main("What worker processes cost, against hand-written floors.", SECTIONS, QUICK, FULL)
