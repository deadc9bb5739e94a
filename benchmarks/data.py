"""What handing data on costs, from 1 kB to 1 GB: through stages and to consumers, in time and in memory.

    python benchmarks/data.py                  # everything: some five minutes
    python benchmarks/data.py arrays memory    # two sections
    python benchmarks/data.py --quick --json   # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. A chain has four stages in workers: one makes the value, two change it in place and
hand it on (bytes are only handed on), one takes a number of it. A fan-out has one that makes the value and one to eight
consumers, each of which takes a number of it. Only the targets' values, the numbers, are kept (``keep="targets"``). The
floor is a `ProcessPoolExecutor` driven by graphlib (see `worker_floors`), which lets a value go when nobody needs it
any more. The last column counts each hand-over: a chain has three, a fan-out as many as consumers.

In threads both sides hand on references, so that nothing is copied and the making is all that takes time.

The larger a value, the fewer repetitions; from 256 MB on none is made that does not count, as the workers are warm from
the smaller ones by then. 1 GB goes to one consumer only, and dictionaries end at 10 MB: the floor would take minutes.
It also takes five times the memory of the value.

Memory is the most that the program and all its descendants occupy at one time while it runs a graph for a second, or
once, less what they occupy before, with warm workers; in a fresh program for each side (see `peak_memory`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from math import sqrt
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import floors
import peak_memory
import worker_floors
from attrs import frozen
from floors import Samples
from patterns import ARRAY, BYTES, COUNTED, DICTIONARY, FRAME, Kind, Side, WithPmflow, timed
from rows import MILLI, Goal, Line, Row, main, number
from worker_floors import MEGABYTE, ByHand, Work

from pmflow.executors.platform import cores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORES = cores()
"""How many workers, and threads, there are on both sides."""

KILOBYTE, GIGABYTE = 1_000, 1_000_000_000

LARGE = 256 * MEGABYTE
"""From here on every repetition counts."""


@frozen
class Effort:
    """How much is measured.

    Args:
        arrays: sizes of arrays, in bytes, rising.
        others: of data frames and bytes.
        dictionaries: of nested dictionaries.
        spread: of the array that goes to different numbers of consumers.
        threads: of arrays in threads.
        judged: of arrays for which there are goals.
        memories: of arrays whose memory is measured, and how often.
        most: how often what is small is repeated.
    """

    arrays: Sequence[int]
    others: Sequence[int]
    dictionaries: Sequence[int]
    spread: int
    threads: Sequence[int]
    judged: Sequence[int]
    memories: Mapping[int, int]
    most: int

    def repetitions(self, size: int) -> int:
        """Return how often a size is repeated: two times at 256 MB, half as often for four times as much."""
        return max(1, min(self.most, round(2 * sqrt(LARGE / size))))


FULL = Effort(
    arrays=(KILOBYTE, 32 * KILOBYTE, 256 * KILOBYTE, MEGABYTE, 16 * MEGABYTE, 64 * MEGABYTE, LARGE, GIGABYTE),
    others=(KILOBYTE, 32 * KILOBYTE, 256 * KILOBYTE, MEGABYTE, 16 * MEGABYTE, 64 * MEGABYTE),
    dictionaries=(KILOBYTE, 32 * KILOBYTE, 256 * KILOBYTE, MEGABYTE, 10 * MEGABYTE),
    spread=64 * MEGABYTE,
    threads=(KILOBYTE, 64 * MEGABYTE),
    judged=(64 * MEGABYTE, LARGE),
    memories={64 * MEGABYTE: 2, LARGE: 1},
    most=15,
)
QUICK = Effort(
    arrays=(KILOBYTE, 4 * MEGABYTE, 8 * MEGABYTE),
    others=(KILOBYTE, MEGABYTE),
    dictionaries=(KILOBYTE, 100 * KILOBYTE),
    spread=4 * MEGABYTE,
    threads=(KILOBYTE,),
    judged=(4 * MEGABYTE,),
    memories={4 * MEGABYTE: 1},
    most=1,
)

DICTIONARY_BYTE = 8
"""A byte of a dictionary takes as long as so many of an array, at least."""

CHAIN, FAN_OUT, THREADS = "chain", "fan-out", "chain in threads"


# Rows


@frozen
class Handed(Row):
    """A value of one kind and size that is handed on."""

    kind: str = ""
    through: str = CHAIN
    size: int = 0
    handed: int = 0

    def facts(self) -> dict[str, Any]:
        """Return the row as JSON has it, with what is handed on: bytes, and how often."""
        return {
            **Row.facts(self),
            "kind": self.kind,
            "through": self.through,
            "bytes": self.size,
            "handed": self.handed,
        }


@frozen
class LeftOut:
    """Rows that are not there."""

    head: ClassVar[tuple[str, ...]] = ("left out", "why")

    name: str
    why: str
    met: None = None

    def cells(self) -> tuple[str, ...]:
        """Return both."""
        return self.name, self.why

    def facts(self) -> dict[str, Any]:
        """Return both as JSON has them."""
        return {"name": self.name, "left_out": self.why}


@frozen
class Route:
    """A way on which values of one kind are handed on, by hand and with pmflow.

    Args:
        kind: of the values.
        through: what kind of way it is.
        words: says so in the names of rows.
        handed: how often a value is handed on.
        sides: by hand, and with pmflow.
    """

    kind: Kind
    through: str
    words: str
    handed: int
    sides: tuple[Side, Side]

    @classmethod
    def chain(cls, kind: Kind, pool: Executor) -> Route:
        """Through four stages, in workers."""
        work = kind.through_stages()
        return cls(kind, CHAIN, "through four stages", 3, in_workers(work, pool))

    @classmethod
    def fan_out(cls, kind: Kind, pool: Executor, consumers: int = 8) -> Route:
        """To some consumers, in workers."""
        work = kind.to_consumers(consumers)
        return cls(kind, FAN_OUT, f"to {COUNTED[consumers]}", consumers, in_workers(work, pool))

    def row(self, size: int, repetitions: int, goal: Goal | None = None) -> Handed:
        """Measure how long a value of so many bytes takes, and say how much that is in a second."""
        floor, ours = (partial(timed, side, self.kind.inputs(size)) for side in self.sides)
        samples = in_turn(floor, ours, repetitions, warm=size < LARGE)
        by_hand, with_pmflow = (number(size * self.handed / MEGABYTE / min(side) * MILLI) for side in samples)
        note = f"MB/s by hand {by_hand}, with pmflow {with_pmflow}"
        name = f"{self.kind.name} {self.words}, {words_of(size)}"
        return Handed(name, "ms", samples, goal, note, self.kind.name, self.through, size, self.handed)


def in_workers(work: Work, pool: Executor) -> tuple[Side, Side]:
    """Return who runs it in workers, by hand and with pmflow."""
    return ByHand(work, pool, keep=False), WithPmflow(work, keep=False)


def in_turn(floor: Callable[[], float], ours: Callable[[], float], repetitions: int, *, warm: bool) -> Samples:
    """Take samples in milliseconds; where nothing has to get warm, all of them count."""
    if warm:
        return floors.in_turn(floor, ours, repetitions, MILLI)
    pairs = [(floor() * MILLI, ours() * MILLI) for _ in range(repetitions)]
    return [by_hand for by_hand, _ in pairs], [with_pmflow for _, with_pmflow in pairs]


def words_of(size: int) -> str:
    """Return a number of bytes in words."""
    for unit, name in ((GIGABYTE, "GB"), (MEGABYTE, "MB"), (KILOBYTE, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} bytes"


# Sections


def arrays(effort: Effort) -> Iterator[Row]:
    """Arrays, which pickle can hand on without a copy: every size, one to eight consumers, and in threads."""
    with worker_floors.warm(CORES) as pool:
        chain, fan_out = Route.chain(ARRAY, pool), Route.fan_out(ARRAY, pool)
        for size in effort.arrays:
            judged = size in effort.judged
            yield chain.row(size, effort.repetitions(size), Goal(1 / 30) if judged else None)
            if size < GIGABYTE:
                yield fan_out.row(size, effort.repetitions(size), Goal(1 / 50) if judged else None)
        for consumers in (1, 2, 4):
            spread = Route.fan_out(ARRAY, pool, consumers)
            yield spread.row(effort.spread, effort.repetitions(effort.spread))
        largest = effort.arrays[-1]
        yield Route.fan_out(ARRAY, pool, 1).row(largest, effort.repetitions(largest))
    yield from in_threads(effort)


def in_threads(effort: Effort) -> Iterator[Row]:
    """Arrays in threads, by reference."""
    work = ARRAY.through_stages()
    with ThreadPoolExecutor(CORES) as pool:
        sides = ByHand(work, pool, keep=False), WithPmflow(work, keep=False, kind="thread", max_threads=CORES)
        route = Route(ARRAY, THREADS, "through four stages in threads", 3, sides)
        for size in effort.threads:
            yield route.row(size, effort.repetitions(size))


def frames(effort: Effort) -> Iterator[Line]:
    """Data frames of pandas, if it is there."""
    try:
        import_module("pandas")
    except ModuleNotFoundError as error:
        return iter([LeftOut("data frames", f'{error}; the extra "bench" has it')])
    return both_ways(FRAME, effort.others, effort.repetitions)


def many_bytes(effort: Effort) -> Iterator[Row]:
    """Bytes, which are pickled with a copy."""
    return both_ways(BYTES, effort.others, effort.repetitions)


def dictionaries(effort: Effort) -> Iterator[Row]:
    """Nested dictionaries, every object of which is pickled by itself."""
    return both_ways(DICTIONARY, effort.dictionaries, lambda size: effort.repetitions(DICTIONARY_BYTE * size))


def both_ways(kind: Kind, sizes: Sequence[int], repetitions: Callable[[int], int]) -> Iterator[Row]:
    """Hand values of one kind on, through four stages and to eight consumers."""
    with worker_floors.warm(CORES) as pool:
        for route in (Route.chain(kind, pool), Route.fan_out(kind, pool)):
            for size in sizes:
                yield route.row(size, repetitions(size))


# Memory


def memory(effort: Effort) -> Iterator[Row]:
    """The most memory that arrays take on their way; the goal is one for stages."""
    smallest = min(effort.memories)
    for size, programs in effort.memories.items():
        yield memory_row(CHAIN, size, programs, Goal(0.4))
    yield memory_row(FAN_OUT, smallest, effort.memories[smallest])


def memory_row(through: str, size: int, programs: int, goal: Goal | None = None) -> Row:
    """Measure how much a fresh program grows, on each side."""
    codes = (f"import data; data.run_again({side!r}, {through!r}, {size})" for side in ("by hand", "pmflow"))
    floor, ours = (partial(peak_memory.growth, code) for code in codes)
    pairs = [(floor() / MEGABYTE, ours() / MEGABYTE) for _ in range(programs)]
    samples = [by_hand for by_hand, _ in pairs], [with_pmflow for _, with_pmflow in pairs]
    words = {CHAIN: "through four stages", FAN_OUT: "to eight consumers"}[through]
    return Row(f"array {words}, {words_of(size)}, peak memory", "MB", samples, goal)


def run_again(side_name: str, through: str, size: int, seconds: float = 1.0) -> None:
    """Have warm workers, wait for a line, and hand an array on again and again for some seconds."""
    works = {CHAIN: ARRAY.through_stages(), FAN_OUT: ARRAY.to_consumers(8)}
    with ExitStack() as stack:
        side_of: Callable[[Work], Side] = partial(WithPmflow, keep=False)
        if side_name == "by hand":
            side_of = partial(ByHand, pool=stack.enter_context(worker_floors.warm(CORES)), keep=False)
        sides = {name: side_of(work) for name, work in works.items()}
        for each in (FAN_OUT, through):  # eight consumers at once make every worker import numpy
            timed(sides[each], ARRAY.inputs(64))
        print("ready", flush=True)
        sys.stdin.readline()
        end = perf_counter() + seconds
        while perf_counter() < end:
            timed(sides[through], ARRAY.inputs(size))


# The picture

LOOKS = {ARRAY.name: ("o", "#1b6ca8"), FRAME.name: ("s", "#b03a2e"), BYTES.name: ("^", "#2e7d32")}
LOOKS[DICTIONARY.name] = ("D", "#7b4fa3")


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how much is handed on in a second, by its size: with pmflow full marks and lines, by hand hollow, dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, through, title in zip(
        panels, (CHAIN, FAN_OUT), ("through four stages", "to eight consumers"), strict=True
    ):
        most = max((row["handed"] for row in rows if row.get("through") == through), default=0)
        shown = [row for row in rows if row.get("through") == through and row["handed"] == most]
        for kind in dict.fromkeys(row["kind"] for row in shown):
            draw_kind(axes, kind, [row for row in shown if row["kind"] == kind])
        axes.set(title=title, xscale="log", yscale="log", xlabel="bytes of the value", ylabel="MB/s handed on")
        axes.grid(visible=True, alpha=0.3)
    panels[0].legend()
    return figure


def draw_kind(axes: Axes, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the two lines of one kind."""
    mark, colour = LOOKS[kind]
    sizes = [row["bytes"] for row in rows]
    for side, words, style, fill in (("pmflow", "pmflow", "-", colour), ("floor", "by hand", "--", "white")):
        speeds = [row["bytes"] * row["handed"] / MEGABYTE / min(row[side]) * MILLI for row in rows]
        axes.plot(sizes, speeds, style, marker=mark, color=colour, markerfacecolor=fill, label=f"{kind}, {words}")


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Line]]] = {
    "arrays": arrays,
    "frames": frames,
    "bytes": many_bytes,
    "dictionaries": dictionaries,
    "memory": memory,
}


if __name__ == "__main__":
    main("What handing data on costs, against hand-written floors.", SECTIONS, QUICK, FULL)
