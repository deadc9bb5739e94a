"""Which strategy for which work: each kind of work (see `kinds`), by strategy, and by how much there is of it at once.

    python benchmarks/strategies.py                 # everything: some minutes
    python benchmarks/strategies.py waiting worth   # two sections
    python benchmarks/strategies.py --quick --json  # small numbers, which say nothing about speed; for machines

How rows are to be read says `rows`. The floor is a plain loop that makes the same calls one after another, so a ratio
below 1 is a speed-up. The strategies are ``async`` (a coroutine function, where the kind has one), ``inline`` (a plain
function of type ``"async"``), ``thread`` and ``process`` (a worker); all calls of a row are independent of one another.
A run includes planning a new graph, which was made before the clock starts; threads and workers are warm. Values are
kept for targets only, as is advised for large ones: an array is made, changed and reduced in one place.

`worth` asks from what duration on a pure-Python call is faster in a worker than inline. Its last row is that
duration, interpolated between those measured; by hand it is that of a warm `ProcessPoolExecutor` against a plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import ceil, exp, log
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import floors
import kinds
import worker_floors
from attrs import frozen
from floors import Samples
from kinds import Kind
from rows import MICRO, MILLI, Line, Row, main, number

import pmflow
from pmflow.executors.platform import cores

Facts = Mapping[str, Any]

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORES = cores()
"""How many workers there are."""

STRATEGIES = {"async": "async", "inline": "async", "thread": "thread", "process": "process"}
"""Each strategy, to the type of its processes."""

ALIKE = 1.1
"""What is less than this apart counts as equally fast."""


@frozen
class Effort:
    """How much is measured."""

    most_at_once: int
    repetitions: int
    durations: Sequence[float]


FULL = Effort(1_024, 5, (10e-6, 30e-6, 100e-6, 300e-6, 1e-3, 3e-3, 10e-3, 30e-3, 100e-3))
QUICK = Effort(8, 1, (50e-6, 1e-3, 5e-3))


# Lines


@frozen
class Cell:
    """A row, with what it is about, so that a picture and a paragraph can be made of it.

    Args:
        kind: of the work.
        title: the kind in plain words.
        strategy: with which pmflow runs it.
        concurrency: how many calls are independent of one another.
        seconds: of one call, by itself.
        row: per call, the time of the floor and of pmflow.
    """

    head: ClassVar[tuple[str, ...]] = Row.head

    kind: str
    title: str
    strategy: str
    concurrency: int
    seconds: float
    row: Row

    @property
    def name(self) -> str:
        """What was measured."""
        return self.row.name

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None, as there is none."""
        return self.row.met

    def cells(self) -> tuple[str, ...]:
        """Return the line as texts."""
        return self.row.cells()

    def facts(self) -> dict[str, Any]:
        """Return the line as JSON has it; the speed-up is the median over neighbours in time, then least and most."""
        about = {"kind": self.kind, "title": self.title, "strategy": self.strategy, "concurrency": self.concurrency}
        return {**about, "seconds": self.seconds, "cores": CORES, "speed_up": self.speed_up, **self.row.facts()}

    @property
    def speed_up(self) -> tuple[float, float, float]:
        """How many times as fast as the floor: the median over neighbours in time, the least and the most."""
        each = [floor / ours for floor, ours in zip(*self.row.samples, strict=True)]
        return median(each), min(each), max(each)


# Measuring


@frozen
class Calls:
    """So many calls of a kind, and the value of each."""

    kind: Kind
    inputs: Mapping[str, Any]
    count: int
    expected: Any

    def by_hand(self) -> float:
        """Return the seconds of a plain loop."""
        call = partial(self.kind.call, **self.inputs)
        return self.timed(lambda: [call() for _ in range(self.count)])

    def pooled(self, pool: Executor) -> float:
        """Return the seconds of a pool."""
        submit = partial(pool.submit, self.kind.call, **self.inputs)
        return self.timed(lambda: [each.result() for each in [submit() for _ in range(self.count)]])

    def with_pmflow(self, strategy: str) -> float:
        """Return the seconds of the run of a new graph, in which its values are read."""
        graph = self.graph(strategy)
        return self.timed(lambda: list(pmflow.run(graph, inputs=self.inputs, keep="targets").data.values()))

    def timed(self, run: Callable[[], list[Any]]) -> float:
        """Return how long it takes to have the values, which have to be right."""
        start = perf_counter()
        values = run()
        seconds = perf_counter() - start
        assert values == [self.expected] * self.count
        return seconds

    def graph(self, strategy: str) -> pmflow.Graph:
        """Make a graph as a program does: one process per function, and copies under other names."""
        functions = self.kind.coroutines if strategy == "async" else self.kind.steps
        patterns = [pmflow.process(function, type=STRATEGIES[strategy]) for function in functions]
        return pmflow.Graph(
            [
                pattern.options(id=f"{call}.{step}", dependencies={"a": f"{call}.{step - 1}"} if step else {})
                for call in range(self.count)
                for step, pattern in enumerate(patterns)
            ]
        )


def warm() -> None:
    """Have all threads and workers, with what the calls import."""
    threads, workers = (
        pmflow.Graph([pmflow.process(kinds.begun, id=f"begun{place}", type=kind) for place in range(count)])
        for kind, count in (("thread", 64), ("process", CORES))
    )
    pmflow.run(threads, inputs={"seconds": 0.002})
    while len(set(pmflow.run(workers, inputs={"seconds": 0.02}).data.values())) < CORES:
        pass


def by_strategy(kind: Kind, effort: Effort, **more: Any) -> Iterator[Line]:
    """Measure one kind with every strategy it has, at every concurrency; ``more`` are inputs known only now."""
    warm()
    inputs = {**kind.inputs, **more}
    expected = kind.call(**inputs)
    for count in kind.at_once:
        calls = Calls(kind, inputs, count, expected)
        for strategy in STRATEGIES if count <= effort.most_at_once else ():
            if strategy == "async" and not kind.coroutines:
                continue
            ours = partial(calls.with_pmflow, strategy)
            samples = floors.in_turn(calls.by_hand, ours, effort.repetitions, MICRO / count)
            row = Row(f"{kind.name}, {strategy}, {count:,} at once", "us", samples)
            yield Cell(kind.name, kind.title, strategy, count, min(samples[0]) / MICRO, row)


def waiting(effort: Effort) -> Iterator[Line]:
    """Waiting for a server of our own."""
    with kinds.server() as port:
        yield from by_strategy(kinds.KINDS["waiting"], effort, port=port)


# From what duration on a worker pays


def worth(effort: Effort) -> Iterator[Line]:
    """Pure-Python calls of various durations, in a worker against inline."""
    warm()
    kind, count = kinds.KINDS["python"], 8 * CORES
    each = partial(floors.in_turn, repetitions=effort.repetitions, per_second=MICRO / count)
    iteration = min(floors.seconds_of(partial(kind.call, CALIBRATING)) for _ in range(3)) / CALIBRATING
    measured: list[tuple[Samples, Samples]] = []
    with worker_floors.warm(CORES) as pool:
        for seconds in effort.durations:
            iterations = max(1, round(seconds / iteration))
            calls = Calls(kind, {"iterations": iterations}, count, kind.call(iterations))
            inline, worker = (partial(calls.with_pmflow, strategy) for strategy in ("inline", "process"))
            measured.append((each(calls.by_hand, partial(calls.pooled, pool)), each(inline, worker)))
            row = Row(f"worth, calls of {lasting(seconds)}, worker against inline", "us", measured[-1][1])
            yield Cell("worth", WORTH, "process", count, seconds, row)
    by_hand, ours = (crossings(effort.durations, side) for side in zip(*measured, strict=True))
    pairs = [(hand, our) for hand, our in zip(by_hand, ours, strict=True) if hand is not None and our is not None]
    if pairs:
        samples = [hand * MICRO for hand, _ in pairs], [our * MICRO for _, our in pairs]
        yield Row(f"a worker pays from calls of, {count} at once", "us", samples, note="floor: a process pool")


CALIBRATING = 200_000
WORTH = "pure Python in a worker,\nagainst inline"


def crossings(durations: Sequence[float], measured: Sequence[Samples]) -> list[float | None]:
    """Return where each repetition crosses."""
    repetitions = zip(*(zip(*samples, strict=True) for samples in measured), strict=True)
    return [
        crossing([(seconds, floor / ours) for seconds, (floor, ours) in zip(durations, pairs, strict=True)])
        for pairs in repetitions
    ]


def crossing(points: Sequence[tuple[float, float]]) -> float | None:
    """Return from what duration on, in seconds, the speed-up is 1 or more, interpolated on logarithmic scales.

    The points are durations, from short to long, and their speed-ups. It is the shortest if there is a speed-up
    everywhere, and None if there is none at the longest.
    """
    if points[-1][1] < 1:
        return None
    for (shorter, slow), (longer, fast) in reversed(list(pairwise(points))):
        if slow < 1:
            return exp(log(shorter) + log(1 / slow) / log(fast / slow) * log(longer / shorter))
    return points[0][0]


# What it comes to


def by_kind(rows: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Return the facts of cells by the kind of work."""
    found: dict[str, list[Facts]] = {}
    for row in rows:
        if "kind" in row:
            found.setdefault(row["kind"], []).append(row)
    return found


def summary(rows: Sequence[Facts]) -> str:
    """Say in one paragraph which strategy is best for what, by how much, and from what duration on a worker pays."""
    found = by_kind(rows)
    durations = found.pop("worth", [])
    sentences: list[str] = []
    if found:
        there, verdicts = next(iter(found.values()))[0]["cores"], "; ".join(map(verdict, found.values()))
        sentences.append(f"On {there} cores, against a plain loop that makes the same calls: {verdicts}.")
    if durations:
        sentences.append(advice(durations))
    return " ".join([*sentences, '`inline` is a plain function of type `"async"`.']) if sentences else ""


def verdict(cells: Sequence[Facts]) -> str:
    """Say which strategies are best for a kind of work, at the highest concurrency that was measured."""
    most = max(cell["concurrency"] for cell in cells)
    ranked = sorted((cell for cell in cells if cell["concurrency"] == most), key=faster, reverse=True)
    best = faster(ranked[0])
    head = f"{ranked[0]['title']} ({lasting(ranked[0]['seconds'])} a call, {most:,} at once): "
    if best < ALIKE:
        nearest = f"{number(best)} times as fast, {lasting(min(ranked[0]['pmflow']) / MICRO)} a call"
        return f"{head}nothing is faster than the loop, `{ranked[0]['strategy']}` comes nearest ({nearest})"
    winners = [cell for cell in ranked if faster(cell) * ALIKE >= best]
    others = [f"`{cell['strategy']}` {number(faster(cell))}" for cell in ranked[len(winners) :]]
    names = " or ".join(f"`{cell['strategy']}`" for cell in winners)
    return f"{head}{names}, {number(best)} times as fast" + (f" (others: {', '.join(others)})" if others else "")


def faster(cell: Facts) -> float:
    """Return how many times as fast as its floor a cell is."""
    return float(cell["speed_up"][0])


def advice(cells: Sequence[Facts]) -> str:
    """Say from what duration on a call is faster in a worker than inline."""
    points = [(cell["seconds"], faster(cell)) for cell in cells]
    at_once, start = f"with {cells[0]['concurrency']} at once", crossing(points)
    if start is None:
        return f"No pure-Python call of up to {lasting(points[-1][0])} was faster in a worker than inline, {at_once}."
    most = "at most " if start == points[0][0] else ""
    return f"A pure-Python call is faster in a worker than inline from {most}{lasting(start)} on, {at_once}."


def lasting(seconds: float) -> str:
    """Return a duration in words."""
    units = {"s": 1, "ms": MILLI, "us": MICRO}
    unit = next((unit for unit, per in units.items() if seconds * per >= 1), "ns")
    return f"{number(seconds * units.get(unit, 1e9))} {unit}"


# As a picture

STYLES: dict[str, dict[str, Any]] = {
    "async": {"color": "#0072b2", "marker": "o", "linestyle": "solid"},
    "inline": {"color": "#555555", "marker": "s", "linestyle": "dashed"},
    "thread": {"color": "#009e73", "marker": "^", "linestyle": "dashdot"},
    "process": {"color": "#d55e00", "marker": "D", "linestyle": "dotted"},
}
"""Told apart by marker and dashes too."""

COLUMNS, SMALL, WIDE = 3, 9, 200


def draw(rows: Sequence[Facts]) -> Figure:
    """Draw a panel for each kind of work: how many times as fast as the loop, by how many calls there are at once."""
    from matplotlib.figure import Figure

    found = by_kind(rows)
    lines = ceil(len(found) / COLUMNS)
    figure = Figure(figsize=(10, 0.9 + 2.6 * lines), layout="constrained")
    handles: dict[str, Any] = {}
    for place, cells in enumerate(found.values(), start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        panel(axes, cells)
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.suptitle("How many times as fast as a plain loop (whiskers: slowest and fastest repetition)", fontsize=11)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
    return figure


def panel(axes: Axes, cells: Sequence[Facts]) -> None:
    """Draw a line for each strategy, by how many calls there are at once; of `worth`, by the duration of a call."""
    kind, title, count = (cells[0][about] for about in ("kind", "title", "concurrency"))
    across = "seconds" if kind == "worth" else "concurrency"
    for strategy in STRATEGIES:
        curve(axes, [cell for cell in cells if cell["strategy"] == strategy], across, strategy)
    scale(axes, cells)
    if kind == "worth":
        axes.set_title(title, fontsize=SMALL)
        axes.set_xlabel(f"duration of a call, {count:,} at once", fontsize=SMALL)
        ticks = {cell["seconds"]: lasting(cell["seconds"]) for cell in cells[::2]}
    else:
        axes.set_title(f"{title}\n({lasting(cells[-1]['seconds'])} a call)", fontsize=SMALL)
        axes.set_xlabel("calls at once", fontsize=SMALL)
        ticks = {cell["concurrency"]: f"{cell['concurrency']:,}" for cell in cells}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()


def curve(axes: Axes, line: Sequence[Facts], across: str, strategy: str) -> None:
    """Draw the speed-ups of a strategy, if it has any, with the least and the most as whiskers."""
    if line:
        middle, least, most = zip(*(cell["speed_up"] for cell in line), strict=True)
        below = [value - low for value, low in zip(middle, least, strict=True)]
        above = [high - value for value, high in zip(middle, most, strict=True)]
        looks: dict[str, Any] = {"capsize": 2, "markersize": 4, "linewidth": 1.2, **STYLES[strategy]}
        axes.errorbar([cell[across] for cell in line], middle, [below, above], label=strategy, **looks)


def scale(axes: Axes, cells: Sequence[Facts]) -> None:
    """Give a panel logarithmic scales that can be read, and a line where the floor is."""
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    least, most = (edge(1, *(cell["speed_up"][place] for cell in cells)) for edge, place in ((min, 1), (max, 2)))
    steps = (1,) if most / least > WIDE else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(-6, 4) for step in steps]
    shown = [tick for tick in ticks if least / 2 <= tick <= most * 2]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3)


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Line]]] = {
    "waiting": waiting,
    **{name: partial(by_strategy, kind) for name, kind in kinds.KINDS.items() if name != "waiting"},
    "worth": worth,
}


if __name__ == "__main__":
    main("Which strategy for which work, against a plain loop.", SECTIONS, QUICK, FULL)
