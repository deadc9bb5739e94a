"""What worker processes cost: each operation against a `ProcessPoolExecutor` driven by graphlib (see `worker_floors`).

    python benchmarks/workers.py                   # everything: some minutes
    python benchmarks/workers.py noop granularity  # two sections
    python benchmarks/workers.py --quick --json    # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. The clock runs while a graph runs, and no longer: both sides have taken it in and
pmflow has planned it before, the workers are warm, and what came out is looked at afterwards. What the first run of a
new graph takes, its planning included, stands in the last column.

Granularity, what it is and how it is found, is explained in `granularity`, which has more patterns, and threads.

Memory is the most that the program and all its descendants occupy at one time while it runs the stages for a second,
less what they occupy before, with warm workers; in a fresh program for each side (see `peak_memory`).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import Any

import floors
import granularity
import peak_memory
import worker_floors
from attrs import field, frozen
from granularity import worker_rows
from patterns import Side, WithPmflow, stencil, timed
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
        f"two chains that cross at every link, 2 x {links:,}": (stencil(2, links), Goal(0.4)),
    }
    with worker_floors.warm(CORES) as pool:
        for name, (shape, goal) in shapes.items():
            work = Work.of(shape, worker_floors.PLAIN, dict.fromkeys(shape, 1))
            by_hand, ours = partial(timed, ByHand(work, pool), {}), Rerun(WithPmflow(work))
            samples = floors.in_turn(by_hand, ours, effort.repetitions, MICRO / len(shape))
            note = f"first run of a new graph {number(min(ours.firsts) * MICRO / len(shape))}"
            yield Row(f"worker, {name}", "us", samples, goal, note)


# Granularity


def granularity_of_stencil(effort: Effort) -> Iterator[Row]:
    """METG(50 %) of stencil_1d; `granularity` has the other patterns, and threads."""
    return worker_rows(("stencil_1d",), granularity.Effort(effort.steps, effort.searches, effort.runs))


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
    codes = [
        f"import data; data.run_again({side!r}, 'chain', {megabytes * MEGABYTE})" for side in ("by hand", "pmflow")
    ]
    floor, ours = (partial(peak_memory.growth, code) for code in codes)
    samples = floors.in_turn(floor, ours, effort.memories, 1 / MEGABYTE)
    yield Row(f"array through four stages, {megabytes} MB, peak memory", "MB", samples, Goal(0.4))


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
    "granularity": granularity_of_stencil,
    "large": large,
    "memory": memory,
    "hello": hello,
    "killed": killed,
    "mixed": mixed,
}


if __name__ == "__main__":
    main("What worker processes cost, against hand-written floors.", SECTIONS, QUICK, FULL)
