"""What pmflow costs per process: each strategy against its floors, measured in turn in the same run (see `floors`).

    python benchmarks/overhead.py                    # everything: some minutes
    python benchmarks/overhead.py threads build      # two sections
    python benchmarks/overhead.py --quick --json     # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. A run's time includes reading the timing of every result. Before each repetition
the garbage of the one before is collected; collection stays on while the clock runs, for both, and neither pays for
what was alive before.

In workers the clock includes planning, which the rows of `workers` leave out. A `ProcessPoolExecutor` takes functions
of a module only. For lambdas and closures a careful programmer pickles each once with cloudpickle, sends the bytes with
every call, and has each worker keep what it made of them; that is the floor. Who does neither pays for it with every
call: a row without a goal says how much.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import anyio
import cloudpickle
import floors
import worker_floors
from attrs import Factory, evolve, field, frozen
from floors import Functions, Record, Shape
from rows import MICRO, Goal, Row, main, number
from worker_floors import ByHand, Work

import pmflow
from pmflow.executors.platform import cores


@frozen
class Effort:
    """How much is measured."""

    sizes: Sequence[int]
    worker_sizes: Sequence[int]
    repetitions: int


FULL = Effort((1_000, 10_000), (1_000,), 11)
QUICK = Effort((100, 200), (100,), 2)


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
        assert all(result.data == 1 for result in run.values())
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


# Runs: on the loop, in threads, in workers


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
    """Coroutines on the loop, against raw asyncio tasks, and against raw anyio tasks."""
    goals = {"wide": Goal(1.5), "layered": Goal(1.5)}
    ours = ON_THE_LOOP["coroutine"]
    yield from run_rows("coroutine", effort, partial(floors.timed, floors.tasks), ours, goals)
    goals = dict.fromkeys(floors.SHAPES, Goal(1))
    yield from run_rows("coroutine against anyio tasks", effort, partial(floors.timed, anyio_tasks), ours, goals)


def inline(effort: Effort) -> Iterator[Row]:
    """Plain functions on the loop, against calling them."""
    goals = dict.fromkeys(floors.SHAPES, Goal(5, "us"))
    ours = ON_THE_LOOP["plain function"]
    return run_rows("plain function on the loop", effort, partial(floors.timed, floors.calls), ours, goals)


def threads(effort: Effort) -> Iterator[Row]:
    """Plain functions in threads, against a thread pool driven by graphlib."""
    with ThreadPoolExecutor() as pool:
        floor = partial(floors.timed_pool, pool, floors.PLAIN)
        yield from run_rows("thread", effort, floor, (floors.PLAIN, "thread"), THREAD_GOALS)


def workers(effort: Effort) -> Iterator[Row]:
    """Functions of a module, and closures, in workers; against a process pool."""
    effort = evolve(effort, sizes=effort.worker_sizes)
    made = closures()
    once = {count: PickledOnce(function) for count, function in made.items()}
    always = {count: Pickled(function) for count, function in made.items()}
    with worker_floors.warm(cores()) as pool:
        for label, by_hand, functions, goals in (
            ("worker, module's functions", floors.PLAIN, floors.PLAIN, WORKER_GOALS),
            ("worker, closures", once, made, WORKER_GOALS),
            ("worker, closures pickled at every call", always, made, {}),
        ):
            floor = partial(pool_seconds, pool, by_hand)
            yield from run_rows(label, effort, floor, (functions, "process"), goals)


ON_THE_LOOP: dict[str, tuple[Functions, str]] = {
    "coroutine": (floors.COROUTINES, "async"),
    "plain function": (floors.PLAIN, "async"),
}
THREAD_GOALS = {"wide": Goal(0.3), "layered": Goal(0.45), "chain": Goal(0.15)}
WORKER_GOALS = {"wide": Goal(0.07), "layered": Goal(0.13), "chain": Goal(0.04)}


# Floors that are needed here only


def anyio_tasks(shape: Shape) -> dict[str, Record]:
    """Run coroutines as raw anyio tasks, each of which starts those that waited for it alone.

    That is faster than to start all at once and have each await an event of every task it needs: 17 us against 19
    (wide) and 16 against 27 (chain, layered).
    """
    return anyio.run(_anyio_tasks, shape)


async def _anyio_tasks(shape: Shape) -> dict[str, Record]:
    records: dict[str, Record] = {}
    missing = {name: len(needs) for name, needs in shape.items()}
    dependants: dict[str, list[str]] = {}

    async def attempt(name: str, needs: Sequence[str]) -> None:
        arguments = [records[need][0] for need in needs]
        begin = perf_counter()
        value = await floors.COROUTINES[len(needs)](*arguments)
        records[name] = value, begin, perf_counter()
        for dependant in dependants.get(name, ()):
            missing[dependant] -= 1
            if not missing[dependant]:
                group.start_soon(attempt, dependant, shape[dependant])

    async with anyio.create_task_group() as group:
        for name, needs in shape.items():
            for need in needs:
                dependants.setdefault(need, []).append(name)
        for name, needs in shape.items():
            if not needs:
                group.start_soon(attempt, name, needs)
    return records


def pool_seconds(pool: Executor, functions: Functions, shape: Shape) -> float:
    """Return the seconds of a process pool; its graph is taken in before, as pmflow's is."""
    expected = dict.fromkeys(shape, 1)
    seconds, values = ByHand(Work.of(shape, functions, expected), pool).run({})
    assert values == expected
    return seconds


# Maps: one function for every element of a list


def elements(effort: Effort) -> Iterator[Row]:
    """Elements of a map in workers, a result for each, against the standard pool's map in chunks: values alone."""
    each = pmflow.process(one_of, type="process", id="each", map_over={"n": "ns"})
    with worker_floors.warm(cores()) as pool:
        for size in effort.sizes:
            chunk = max(1, size // (4 * cores()))
            floor = partial(seconds_to, partial(pool.map, one_of, range(size), chunksize=chunk), size)
            ours = partial(seconds_to, partial(every_result, each, size), size)
            ours()  # from then on it is known how long a call takes
            samples = floors.in_turn(floor, ours, effort.repetitions, MICRO / size)
            yield Row(f"worker, elements of a map, {size:,}", "us", samples, Goal(2, "us"), f"chunks of {chunk:,}")


def one_of(n: int) -> int:
    """Return what it is given."""
    return n


def every_result(process: pmflow.BaseProcess[Any], size: int) -> list[Any]:
    """Run a map; return the data of every element, each of which has succeeded."""
    run = pmflow.run(process, inputs={"ns": range(size)})
    assert run.success
    return run[process].data  # type: ignore[no-any-return]


def seconds_to(make: Callable[[], Any], size: int) -> float:
    """Return the seconds it takes to have all numbers below a size."""
    gc.collect()
    start = perf_counter()
    made = list(make())
    seconds = perf_counter() - start
    assert made == list(range(size))
    return seconds


# Functions that no module knows by name


def closures() -> Functions:
    """Return functions that are made at run time, and need what is around them."""
    one = 1

    def source() -> int:
        return one

    def link(a: int) -> int:
        return a * one

    def join(a: int, b: int, c: int) -> int:
        return a * b * c * one

    return {0: source, 1: link, 3: join}


@frozen
class Pickled:
    """A function that goes to a process pool by value: it is pickled for every call, and unpickled there."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Call it, where it has not been sent anywhere."""
        return self.function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (cloudpickle.dumps(self.function),)


@frozen
class PickledOnce(Pickled):
    """A function that goes to a process pool by value: it is pickled once, and unpickled once in each worker."""

    payload: bytes = field(init=False, default=Factory(lambda self: cloudpickle.dumps(self.function), takes_self=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickled, (self.payload,)


@lru_cache
def unpickled(payload: bytes) -> Callable[..., Any]:
    """Return the function of some bytes; the same one the next time."""
    return cloudpickle.loads(payload)  # type: ignore[no-any-return]


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


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "coroutines": coroutines,
    "inline": inline,
    "threads": threads,
    "workers": workers,
    "elements": elements,
    "build": build,
}


if __name__ == "__main__":
    main("What pmflow costs per process, against hand-written floors.", SECTIONS, QUICK, FULL)
