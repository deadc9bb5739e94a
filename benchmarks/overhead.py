"""What pmflow costs: each operation against its floor, measured in turn in the same run (see `floors`).

    python benchmarks/overhead.py                    # everything: some minutes
    python benchmarks/overhead.py threads import     # two sections
    python benchmarks/overhead.py --quick --json     # tiny sizes, which say nothing about speed; for machines

Every row gives the least of several repetitions and, in brackets, their median; the ratio is that of the least, in
brackets the median of the ratios of neighbours in time. Compare rows of one run only: machines are noisy. A run's time
includes reading the timing of every result. Before each repetition the garbage of the one before is collected;
collection stays on while the clock runs, for both, and neither pays for what was alive before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import floors
from attrs import field, frozen
from floors import Functions, Samples, Shape

import pmflow

MICRO, MILLI = 1e6, 1e3


@frozen
class Effort:
    """How much is measured."""

    sizes: Sequence[int]
    scales: Sequence[int]
    repetitions: int
    scale_repetitions: Sequence[int]
    programs: int
    sleep: float


FULL = Effort((1_000, 10_000), (100_000, 1_000_000), 11, (3, 2), 40, 0.05)
QUICK = Effort((100, 200), (1_000, 2_000), 2, (1, 1), 2, 0.002)


@frozen
class Goal:
    """The most that is good: times the floor, or in the row's own unit."""

    most: float
    unit: str = "x"

    @property
    def text(self) -> str:
        """The goal in words."""
        return f"<= {self.most:g} {self.unit}"


Facts = dict[str, Any]
"""What a fresh program reports of itself."""


@frozen
class Row:
    """One operation: its samples, those of its floor taken in turn with them, and the goal."""

    name: str
    unit: str
    samples: Samples
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """The least of ours to the least of the floor."""
        floor, ours = self.samples
        return min(ours) / min(floor)

    @property
    def paired(self) -> float:
        """The median ratio of two neighbours in time."""
        return median(ours / floor for floor, ours in zip(*self.samples, strict=True))

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return (self.ratio if self.goal.unit == "x" else min(self.samples[1])) <= self.goal.most

    def cells(self) -> tuple[str, ...]:
        """Return the row as texts."""
        floor, ours = (f"{_number(min(side))} ({_number(median(side))})" for side in self.samples)
        verdict = {None: "", True: "ok", False: "missed"}[self.met]
        ratio = f"{self.ratio:.3g} ({self.paired:.3g})"
        return self.name, self.unit, floor, ours, ratio, self.goal.text if self.goal else "", verdict, self.note

    def facts(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        floor, ours = self.samples
        measured = {"floor": floor, "pmflow": ours, "ratio": self.ratio, "paired_ratio": self.paired}
        judged = {"goal": self.goal.text if self.goal else None, "met": self.met, "note": self.note}
        return {"name": self.name, "unit": self.unit, **measured, **judged}


HEAD = ("operation", "unit", "floor", "pmflow", "ratio", "goal", "", "of which")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits either way


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out in columns."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


# Measuring


@frozen
class TimedRun:
    """Runs a shape and reads its timings; remembers how long either took.

    The graph is a new one each time, made before the clock starts: a graph that has run before has been planned.
    """

    shape: Shape
    functions: Functions
    kind: str
    max_threads: int | None = None
    parts: list[tuple[float, float, float]] = field(factory=list, init=False)

    def __call__(self) -> float:
        """Return the seconds of both."""
        graph = pmflow.Graph(declared(self.shape, self.functions, self.kind))
        gc.collect()
        start = perf_counter()
        run = pmflow.run(graph, max_threads=self.max_threads)
        ended = perf_counter()
        spent = sum(result.execution_time for result in run.values())
        read = perf_counter()
        assert len(run) == len(self.shape)
        assert spent >= 0
        again = floors.seconds_of(partial(pmflow.run, graph, max_threads=self.max_threads))
        self.parts.append((ended - start, read - ended, again))
        return read - start

    def note(self, per_second: float) -> str:
        """Say how much of it is the run, how much the reading, and how long a further run of the same graph takes."""
        run, read, again = (min(seconds) * per_second for seconds in zip(*self.parts, strict=True))
        return f"run {_number(run)}, reading {_number(read)}; run again {_number(again)}"


def declared(shape: Shape, functions: Functions, kind: str) -> list[pmflow.BaseProcess[Any]]:
    """Make the processes of a shape as a program does: one per function, and copies under other names."""
    patterns = {count: pmflow.process(function, type=kind) for count, function in functions.items()}
    return [
        patterns[len(needs)].options(id=name, dependencies=dict(zip(floors.PARAMETERS, needs, strict=False)))
        for name, needs in shape.items()
    ]


# Runs: on the loop, in threads


def run_rows(
    label: str, effort: Effort, floor: Callable[[Shape], float], ours: tuple[Functions, str], goals: Mapping[str, Goal]
) -> Iterator[Row]:
    """Measure one strategy, on every shape and size."""
    for size in effort.sizes:
        for name, make in floors.SHAPES.items():
            shape = make(size)
            run = TimedRun(shape, *ours)
            samples = floors.in_turn(partial(floor, shape), run, effort.repetitions, MICRO / size)
            yield Row(f"{label}, {name}, {size:,}", "us", samples, goals.get(name), run.note(MICRO / size))


def coroutines(effort: Effort) -> Iterator[Row]:
    """Coroutines on the loop, against raw asyncio tasks."""
    goals = {"wide": Goal(1.5), "layered": Goal(1.5)}
    return run_rows("coroutine", effort, partial(floors.timed, floors.tasks), ON_THE_LOOP["coroutine"], goals)


def inline(effort: Effort) -> Iterator[Row]:
    """Plain functions on the loop, against calling them."""
    goals = dict.fromkeys(floors.SHAPES, Goal(5, "us"))
    ours = ON_THE_LOOP["plain function"]
    return run_rows("plain function on the loop", effort, partial(floors.timed, floors.calls), ours, goals)


def threads(effort: Effort) -> Iterator[Row]:
    """Plain functions in threads, against a thread pool driven by graphlib."""
    goals = {"wide": Goal(0.3), "layered": Goal(0.45), "chain": Goal(0.15)}
    with ThreadPoolExecutor() as pool:
        floor = partial(floors.timed_pool, pool, floors.PLAIN)
        yield from run_rows("thread", effort, floor, (floors.PLAIN, "thread"), goals)


ON_THE_LOOP: dict[str, tuple[Functions, str]] = {
    "coroutine": (floors.COROUTINES, "async"),
    "plain function": (floors.PLAIN, "async"),
}


# What comes before a run


def build(effort: Effort) -> Iterator[Row]:
    """Declare processes, make a graph of them, plan its run; against graphlib, which takes a graph in and checks it."""
    for size in effort.sizes:
        shape = floors.layered(size)
        by_hand = partial(floors.seconds_of, partial(floors.prepared, shape))
        for place, (name, goal) in enumerate(BUILD.items()):
            samples = floors.in_turn(by_hand, partial(timed_build, shape, place), effort.repetitions, MICRO / size)
            yield Row(f"{name}, layered, {size:,}", "us", samples, goal)


BUILD = {"process.options(id=, dependencies=)": None, "Graph(processes)": Goal(10, "us"), "Plan.of(graph)": None}


def timed_build(shape: Shape, place: int) -> float:
    """Return the seconds of one step of `BUILD`; what it starts from is new, so nothing of it is known already."""
    made: Any = shape
    start = 0.0
    for step in (partial(declared, functions=floors.PLAIN, kind="thread"), pmflow.Graph, pmflow.Plan.of)[: place + 1]:
        gc.collect()
        start = perf_counter()
        made = step(made)
    return perf_counter() - start


# Very many


def scale(effort: Effort) -> Iterator[Row]:
    """Declare, build, plan and run very many processes on the loop, each time in a fresh program."""
    for kind in ON_THE_LOOP:
        for name in ("wide", "chain"):
            growth: list[Samples] = []
            for size, repetitions in zip(effort.scales, effort.scale_repetitions, strict=True):
                pairs = [(_scaled("floor", name, size), _scaled(kind, name, size)) for _ in range(repetitions)]
                seconds, memory = _each(pairs, "seconds", MICRO / size), _each(pairs, "bytes", 1 / size)
                phases = min((ours for _, ours in pairs), key=lambda facts: facts["seconds"])["phases"]
                note = ", ".join(f"{phase} {_number(each * MICRO / size)}" for phase, each in phases.items())
                label = f"{kind}s on the loop, {name}, {size:,}"
                yield Row(label, "us", seconds, Goal(15, "us"), note)
                yield Row(f"{label}, memory", "bytes", memory, Goal(1_000, "bytes"))
                growth.append(seconds)
            floor, ours = ([min(more) / min(fewer)] for fewer, more in zip(*growth, strict=True))
            label, note = f"{kind}s on the loop, {name}, most : fewest", "more memory is slower memory, for both"
            yield Row(label, "x", (floor, ours), Goal(1.25), note)


def _each(pairs: Sequence[tuple[Facts, Facts]], what: str, per: float) -> Samples:
    return [floor[what] * per for floor, _ in pairs], [ours[what] * per for _, ours in pairs]


def _scaled(kind: str, shape: str, size: int) -> Facts:
    ended = program(f"import overhead; overhead.report_scaled({kind!r}, {shape!r}, {size})")
    return dict(json.loads(ended.stdout))


def report_scaled(kind: str, shape_name: str, size: int) -> None:
    """Print, as JSON, the seconds of each phase, and the bytes by which this program has grown at its largest."""
    shape = floors.SHAPES[shape_name](size)
    few = floors.wide(10)  # what is imported when it is first needed is there before
    if kind == "floor":
        floors.tasks(few)
        before = _memory("VmRSS")
        phases = {"run": floors.seconds_of(lambda: floors.tasks(shape))}
    else:
        pmflow.run(pmflow.Graph(declared(few, *ON_THE_LOOP[kind])))
        before = _memory("VmRSS")
        start = perf_counter()
        processes = declared(shape, *ON_THE_LOOP[kind])
        made = perf_counter()
        graph = pmflow.Graph(processes)
        built = perf_counter()
        run = pmflow.run(graph)
        ended = perf_counter()
        assert len(run) == size
        phases = {"declare": made - start, "build": built - made, "plan and run": ended - built}
    grown = _memory("VmHWM") - before
    print(json.dumps({"phases": phases, "seconds": sum(phases.values()), "bytes": grown}))


def _memory(name: str) -> int:
    """Return what Linux knows of this program: what it occupies (VmRSS), or the most it ever has (VmHWM), in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


# What goes first


def order(effort: Effort) -> Iterator[Row]:
    """The graph that first come, first served hurts, on two threads, against the optimum."""
    shape, functions = floors.hurting(), floors.sleeper(effort.sleep)
    run = TimedRun(shape, functions, "thread", floors.THREADS)
    with ThreadPoolExecutor(floors.THREADS) as pool:
        by_hand, ours = floors.in_turn(
            partial(floors.timed_pool, pool, functions, shape), run, max(2, effort.repetitions // 2), 1
        )
    best = floors.optimum(effort.sleep)
    note = f"first come, first served, by hand: {min(by_hand) / best:.3f} x"
    yield Row("where first come, first served hurts", "s", ([best] * len(ours), ours), Goal(1.03), note)


# Whole programs


def program(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this pmflow and this file, and keeps what it compiles."""
    path = [str(Path(pmflow.__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


def program_row(name: str, by_hand: str, with_pmflow: str, effort: Effort, goal: Goal | None = None) -> Row:
    """Measure whole programs, the start of Python included."""
    sides = [partial(floors.seconds_of, partial(program, code)) for code in (by_hand, with_pmflow)]
    return Row(name, "ms", floors.in_turn(sides[0], sides[1], effort.programs, MILLI), goal)


def imports(effort: Effort) -> Iterator[Row]:
    """`import pmflow`, against the imports of what it stands on."""
    yield program_row("import pmflow", floors.HAND_IMPORT, "import pmflow", effort, Goal(1))
    yield program_row("import pmflow, against bare Python", "pass", "import pmflow", effort)


def hello(effort: Effort) -> Iterator[Row]:
    """Three processes in threads, whole program, against the same by hand."""
    yield program_row("hello world, three threads", floors.HAND_HELLO, floors.PMFLOW_HELLO, effort, Goal(1.1))
    yield program_row("hello world, against a bare thread pool", floors.POOL_HELLO, floors.PMFLOW_HELLO, effort)


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "coroutines": coroutines,
    "inline": inline,
    "threads": threads,
    "build": build,
    "scale": scale,
    "order": order,
    "import": imports,
    "hello": hello,
}


def main() -> None:
    """Measure the sections asked for, and print the table."""
    parser = argparse.ArgumentParser(description="What pmflow costs, against hand-written floors.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, not how fast it is")
    parser.add_argument("--json", action="store_true", help="print JSON, with every sample, instead of the table")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    rows: list[Row] = []
    for name in arguments.sections or SECTIONS:
        for row in SECTIONS[name](QUICK if arguments.quick else FULL):
            print(f"{name}: {row.name}", file=sys.stderr)
            rows.append(row)
    print(json.dumps([row.facts() for row in rows], indent=2) if arguments.json else table(rows))
    if arguments.check and any(row.met is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
