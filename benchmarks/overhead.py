"""What pmflow costs: each operation against its floor, measured in turn in the same run (see `floors`).

    python benchmarks/overhead.py                    # everything: some minutes
    python benchmarks/overhead.py threads import     # two sections
    python benchmarks/overhead.py --quick --json     # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. A run's time includes reading the timing of every result. Before each repetition
the garbage of the one before is collected; collection stays on while the clock runs, for both, and neither pays for
what was alive before.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import floors
from attrs import field, frozen
from floors import Functions, Samples, Shape
from rows import MICRO, Facts, Goal, Row, main, number, program, program_row

import pmflow


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
        return f"run {number(run)}, reading {number(read)}; run again {number(again)}"


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
                note = ", ".join(f"{phase} {number(each * MICRO / size)}" for phase, each in phases.items())
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


def imports(effort: Effort) -> Iterator[Row]:
    """`import pmflow`, against the imports of what it stands on."""
    yield program_row("import pmflow", (floors.HAND_IMPORT, "import pmflow"), effort.programs, Goal(1))
    yield program_row("import pmflow, against bare Python", ("pass", "import pmflow"), effort.programs)


def hello(effort: Effort) -> Iterator[Row]:
    """Three processes in threads, whole program, against the same by hand."""
    for name, by_hand, goal in (
        ("hello world, three threads", floors.HAND_HELLO, Goal(1.1)),
        ("hello world, against a bare thread pool", floors.POOL_HELLO, None),
    ):
        yield program_row(name, (by_hand, floors.PMFLOW_HELLO), effort.programs, goal, "hello world\n")


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


if __name__ == "__main__":
    main("What pmflow costs, against hand-written floors.", SECTIONS, QUICK, FULL)
