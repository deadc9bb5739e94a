"""How small tasks may be, METG(50 %), against a pool of the standard library driven by graphlib (see `worker_floors`).

    python benchmarks/granularity.py                  # everything: some minutes
    python benchmarks/granularity.py threads          # one section
    python benchmarks/granularity.py --quick --json   # tiny sizes, which say nothing about speed; for machines

METG(50 %) is the minimum effective task granularity of Task Bench (Slaughter et al., SC20): the duration of a task
(wall time x slots / tasks) at which half of the time goes into what the tasks are for. Efficiency is the time that the
kernels take when nothing else goes on (calibrated before each search), divided by slots and wall time. In the paper the
kernel's iterations are halved from large to small and the crossing is interpolated; here it is bisected. The rows are
fewer than the paper's 1,000, which changes the start's share only. As in the paper a graph is as wide as there are
slots; a second row has eight tasks a slot, so that there is something to do while messages travel. `patterns` has the
four patterns.

Workers compute in a loop; a slot is a core. Threads cannot compute in parallel under the GIL, so they sleep; a slot is
a thread. There are twice as many as cores, as waiting takes none, but no more than pmflow's pool has. Linux may wake a
sleeper 50 us late, to wake several at once; the program that measures asks for none of that (`PR_SET_TIMERSLACK` in
prctl(2)), and is one of its own, so that nothing else is measured with such threads. How late it still is, about 15 us,
counts as sleep; tasks shorter than that cannot be had, so twice of it is the least that is seen.

Where a task is the only one that needs another, as in ``no_comm``, pmflow lets it run on in the same worker or thread:
a column is then one message. That is what a user gets, so it counts; it says little about handing on.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from math import sqrt
from statistics import median
from time import sleep
from typing import TYPE_CHECKING, Any

import floors
import worker_floors
from attrs import astuple, frozen
from floors import Functions, Samples
from patterns import PATTERNS, Side, WithPmflow, depths, timed
from rows import MICRO, Goal, Row, main, program
from worker_floors import ByHand, Work

from pmflow.executors.platform import cores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORES = cores()
"""How many workers there are on both sides."""

THREADS = min(2 * CORES, CORES + 4, 32)
"""How many threads there are on both sides."""

SHORTEST, LONGEST = 1e-6, 20e-3
"""The seconds of a kernel between which half of the time goes into it."""


@frozen
class Effort:
    """How much is measured; of the precision, how far apart the last two kernels of a search are."""

    steps: int
    searches: int
    runs: int
    precision: float = 1.05


FULL = Effort(100, 5, 3)
QUICK = Effort(40, 1, 1, 4.0)


# Searching


@frozen
class Kernel:
    """What a task does, calibrated: it takes ``least + unit * amount`` seconds when nothing else goes on.

    Args:
        parameter: the input that holds the amount.
        unit: seconds.
        least: seconds.
    """

    parameter: str
    unit: float
    least: float = 0

    def amount(self, seconds: float) -> int:
        """Return the amount that takes so many seconds, or 0 if they are fewer than the least."""
        return max(0, round((seconds - self.least) / self.unit))


@frozen
class Search:
    """Looks for the duration of a task at which half of the time goes into its kernel."""

    side: Side
    slots: int
    effort: Effort
    calibrated: Callable[[], Kernel]

    def __call__(self) -> float:
        """Return that duration in seconds: half of it is the kernel."""
        kernel = self.calibrated()
        shortest, longest = max(SHORTEST, kernel.least), LONGEST
        while longest / shortest > self.effort.precision:
            middle = sqrt(shortest * longest)
            if self.efficiency(kernel, kernel.amount(middle)) < 0.5:  # noqa: PLR2004 - the half
                shortest = middle
            else:
                longest = middle
        return 2 * sqrt(shortest * longest)

    def efficiency(self, kernel: Kernel, amount: int) -> float:
        """Return which part of the wall time, the least of some runs, the kernels would take if all slots were busy."""
        seconds = min(timed(self.side, {kernel.parameter: amount}) for _ in range(self.effort.runs))
        return (kernel.least + kernel.unit * amount) * len(self.side.work.shape) / self.slots / seconds


@frozen
class Case:
    """One pattern, so wide that there are so many tasks for each slot."""

    pattern: str
    each: int
    slots: int
    steps: int

    @property
    def name(self) -> str:
        """The case in words; what a slot is follows."""
        return f"METG(50 %), {self.pattern}, {'one task' if self.each == 1 else 'eight tasks'} a"

    @property
    def note(self) -> str:
        """How large it is, and what has to be known of it."""
        return f"{self.each * self.slots} wide, {self.steps} steps{NOTES.get(self.pattern, '')}"

    def samples(
        self,
        kernels: Functions,
        calibrated: Callable[[], Kernel],
        sides: Sequence[Callable[[Work], Side]],
        effort: Effort,
    ) -> Samples:
        """Search on both sides in turn; return the microseconds."""
        shape = PATTERNS[self.pattern](self.each * self.slots, self.steps)
        work = Work.of(shape, kernels, depths(shape))
        floor, ours = (Search(side(work), self.slots, effort, calibrated) for side in sides)
        return floors.in_turn(floor, ours, effort.searches, MICRO)


NOTES = {
    "tree": "; the right half of a full row has no dependants",
    "no_comm": "; with pmflow a column may stay where it has begun",
}


def cases(patterns: Iterable[str], slots: int, steps: int) -> Iterator[Case]:
    """Return the cases of some patterns: one task a slot, and a quarter of the steps with eight."""
    for pattern in patterns:
        yield Case(pattern, 1, slots, steps)
        yield Case(pattern, 8, slots, max(2, steps // 4))


# Workers


def workers(effort: Effort) -> Iterator[Row]:
    """METG(50 %) of every pattern, in workers that compute."""
    return worker_rows(PATTERNS, effort)


def worker_rows(patterns: Iterable[str], effort: Effort) -> Iterator[Row]:
    """METG(50 %) of some patterns, in workers that compute."""
    with worker_floors.warm(CORES) as pool:
        calibrated = partial(calibrated_loop, pool)
        sides: Sequence[Callable[[Work], Side]] = (partial(ByHand, pool=pool), WithPmflow)
        for case in cases(patterns, CORES, effort.steps):
            samples = case.samples(worker_floors.KERNELS, calibrated, sides, effort)
            goal = Goal(0.15) if (case.pattern, case.each) == ("stencil_1d", 1) else None
            yield Row(f"{case.name} core", "us", samples, goal, case.note)


def calibrated_loop(pool: Executor) -> Kernel:
    """Measure an iteration, with every core busy."""
    return Kernel("iterations", worker_floors.calibrated(pool, CORES))


# Threads


def nap(nanoseconds: int) -> int:
    """Sleep, in the first row; say which it is."""
    sleep(nanoseconds / 1e9)
    return 0


def nap_after_one(nanoseconds: int, a: int) -> int:
    """Sleep, after one; say in which row."""
    sleep(nanoseconds / 1e9)
    return a + 1


def nap_after_two(nanoseconds: int, a: int, b: int) -> int:
    """Sleep, after two; say in which row."""
    sleep(nanoseconds / 1e9)
    return max(a, b) + 1


def nap_after_three(nanoseconds: int, a: int, b: int, c: int) -> int:
    """Sleep, after three; say in which row."""
    sleep(nanoseconds / 1e9)
    return max(a, b, c) + 1


NAPS: Functions = {0: nap, 1: nap_after_one, 2: nap_after_two, 3: nap_after_three}


def threads(effort: Effort) -> Iterator[Row]:
    """METG(50 %) of every pattern, in threads that sleep; each in a fresh program."""
    for case in cases(PATTERNS, THREADS, effort.steps):
        arguments = (*astuple(case), *astuple(effort))
        floor, ours = json.loads(program(f"import granularity; granularity.report_threads(*{arguments!r})").stdout)
        goal = Goal(0.5) if (case.pattern, case.each) == ("stencil_1d", 1) else None
        yield Row(f"{case.name} thread", "us", (floor, ours), goal, case.note)


def report_threads(pattern: str, each: int, slots: int, steps: int, *effort: Any) -> None:
    """Print the microseconds of both sides as JSON; in a fresh program, whose threads all have a precise timer."""
    wake_at_once()
    ours = partial(WithPmflow, kind="thread", max_threads=slots)
    with ThreadPoolExecutor(slots) as pool:
        sides: Sequence[Callable[[Work], Side]] = (partial(ByHand, pool=pool), ours)
        print(json.dumps(Case(pattern, each, slots, steps).samples(NAPS, calibrated_nap, sides, Effort(*effort))))


PR_SET_TIMERSLACK = 29


def wake_at_once() -> None:
    """Have this thread, and those that it and they will start, woken when it is time; as well as the system can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(1))


def calibrated_nap(nanoseconds: int = 100_000, naps: int = 100) -> Kernel:
    """Measure how late a sleeper wakes when nothing else goes on: the median of some."""
    late = median(floors.seconds_of(partial(nap, nanoseconds)) for _ in range(naps)) - nanoseconds / 1e9
    return Kernel("nanoseconds", 1e-9, max(0.0, late))


# The picture


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how long a task has to be, by hand and with pmflow; a line joins the two."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    floor, ours = ([min(row[side]) for row in rows] for side in ("floor", "pmflow"))
    axes.hlines(places, floor, ours, color="grey", linewidth=1)
    axes.plot(floor, places, "o", color="black", markerfacecolor="white", label="by hand")
    axes.plot(ours, places, "o", color="#1b6ca8", label="pmflow")
    axes.set_yticks(places, [row["name"].partition(", ")[2] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("METG(50 %), microseconds: how long a task has to be for half of the time to go into it")
    axes.legend()
    return figure


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {"workers": workers, "threads": threads}


if __name__ == "__main__":
    main("How small tasks may be, against hand-written floors.", SECTIONS, QUICK, FULL)
