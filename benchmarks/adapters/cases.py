"""The cases that every library is given; each measures one library, in the program it is called in."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from time import perf_counter, sleep
from typing import Any, Protocol

import floors
import patterns
import worker_floors
from attrs import frozen
from rows import MICRO, MILLI, number
from worker_floors import FANNED, KERNELS, MEGABYTE, STAGED, Work

from adapters import Adapter, Inputs, Step
from adapters.programs import fresh
from pmflow.executors.platform import cores

CORES = cores()
"""How many threads and workers everybody has."""


@frozen
class Effort:
    """How much is measured: of what, how often in a program, in how many rounds, and the seconds a program has."""

    size: int
    steps: int
    kernels: tuple[float, ...]
    megabytes: int
    sleep: float
    repetitions: int
    rounds: int
    limit: float


class Case(Protocol):
    """Something that every library is to do."""

    @property
    def name(self) -> str:
        """What it is."""
        ...

    @property
    def unit(self) -> str:
        """What its samples are in."""
        ...

    def measure(self, adapter: str, effort: Effort) -> list[float]:
        """Return some samples of a library, whose adapter is loaded here."""
        ...

    def remark(self, value: float) -> str:
        """Say in other words what a sample means."""
        ...


def adapter_of(module: str) -> Adapter:
    """Load an adapter, and with it the library."""
    found: Adapter = import_module(f"adapters.{module}").ADAPTER
    return found


# Graphs


def _no_remark(_value: float) -> str:
    return ""


@frozen
class GraphCase:
    """Runs a graph in threads or workers.

    Args:
        name: of the case.
        unit: what a run takes, or one process of it.
        kind: "thread" or "worker".
        work: what is run.
        per_second: the units in a second of a run.
        inputs: returns what every function receives, before the library is loaded.
        words: says in other words what a sample means.
        many: how many threads or workers there are.
        before: what is run once before, on something small, to have all workers import what they need.
    """

    name: str
    unit: str
    kind: str
    work: Work
    per_second: float
    inputs: Callable[[], Inputs] = dict
    words: Callable[[float], str] = _no_remark
    many: int = CORES
    before: Sequence[Work] = ()

    def measure(self, adapter: str, effort: Effort) -> list[float]:
        """Return the time of each of some runs, of one at least."""
        inputs = self.inputs()
        with adapter_of(adapter).pool(self.kind)(self.many) as prepare:
            for work in self.before:
                checked(prepare(work, {"elements": 8}), work)
            step = prepare(self.work, inputs)
            seconds = repeated(partial(checked, step, self.work), effort)
        return [each * self.per_second for each in seconds]

    def remark(self, value: float) -> str:
        """Say in other words what a sample means."""
        return self.words(value)


def repeated(measure: Callable[[], float], effort: Effort) -> list[float]:
    """Return some samples, one at least, after one that does not count: the slow have fewer, and end in time."""
    samples: list[float] = []
    measure()
    end = perf_counter() + effort.limit / 4
    while not samples or (len(samples) < effort.repetitions and perf_counter() < end):
        gc.collect()
        samples.append(measure())
    return samples


def checked(step: Step, work: Work) -> float:
    """Return the seconds of a run, from which the values have to come out that are expected."""
    start = perf_counter()
    values = step()
    seconds = perf_counter() - start
    wrong = [name for name, value in work.expected.items() if name not in values or values[name] != value]
    assert not wrong, f"{len(wrong)} wrong values, that of {wrong[0]} among them"
    return seconds


def overhead(effort: Effort) -> Iterator[Case]:
    """Functions that do nothing."""
    for kind in ("thread", "worker"):
        for name, make in floors.SHAPES.items():
            shape = make(effort.size)
            work = Work.of(shape, floors.PLAIN, dict.fromkeys(shape, 1))
            yield GraphCase(f"no-op {kind}s, {name}, {effort.size:,}", "us", kind, work, MICRO / effort.size)


def granularity(effort: Effort) -> Iterator[Case]:
    """Kernels of some durations in the pattern stencil_1d, one a core: wall time x cores / tasks."""
    shape = patterns.stencil(CORES, effort.steps)
    work = Work.of(shape, KERNELS, {task: index // CORES for index, task in enumerate(shape)})
    per_second = MICRO * CORES / len(shape)
    for seconds in effort.kernels:
        name = f"stencil_1d in workers, kernels of {seconds * MILLI:g} ms"
        yield GraphCase(name, "us", "worker", work, per_second, kernels_of(seconds), efficiency_of(seconds))


def kernels_of(seconds: float) -> Callable[[], Inputs]:
    """Return what finds out how many iterations take so long on this machine, now, with all cores busy."""

    def iterations() -> Inputs:
        with worker_floors.warm(CORES) as pool:
            return {"iterations": max(1, round(seconds / worker_floors.calibrated(pool, CORES)))}

    return iterations


def efficiency_of(seconds: float) -> Callable[[float], str]:
    """Return what says which part of a task's time its kernel is."""
    return lambda value: f"efficiency {seconds * MICRO / value:.1%}"


def data(effort: Effort) -> Iterator[Case]:
    """An array through four stages in workers, and from one worker to eight calls."""
    megabytes = effort.megabytes
    for name, work, handed in (("through four stages", STAGED, 3), ("to eight consumers", FANNED, 8)):
        yield GraphCase(
            f"array of {megabytes} MB {name}",
            "ms",
            "worker",
            work,
            MILLI,
            partial(dict, elements=megabytes * MEGABYTE // 8),
            throughput_of(megabytes * handed),
            before=(FANNED,),
        )


def throughput_of(megabytes: int) -> Callable[[float], str]:
    """Return what says how much is handed on in a second."""
    return lambda value: f"{number(megabytes / value * MILLI)} MB/s"


def makespan(effort: Effort) -> Iterator[Case]:
    """Two graphs of sleeps on two threads, as times of the shortest that is possible."""
    best = floors.optimum(effort.sleep)
    for name, work, shortest in (
        ("where first come, first served hurts", hurting(), best),
        ("where a barrier hurts", in_turns(), best / 2),
    ):
        given: Callable[[], Inputs] = partial(dict, seconds=effort.sleep)
        yield GraphCase(name, "x optimum", "thread", work, 1 / shortest, given, many=floors.THREADS)


def nap(seconds: float) -> int:
    """Sleep, and need nothing."""
    sleep(seconds)
    return 1


def nap_after(seconds: float, a: int) -> int:
    """Sleep, and need one."""
    sleep(seconds)
    return a


def nothing(seconds: float) -> int:  # noqa: ARG001 - as those that sleep
    """Do nothing, and need nothing."""
    return 1


def nothing_after(seconds: float, a: int) -> int:  # noqa: ARG001 - as those that sleep
    """Do nothing, and need one."""
    return a


NAPS: floors.Functions = {0: nap, 1: nap_after}
NOTHING: floors.Functions = {0: nothing, 1: nothing_after}


def hurting() -> Work:
    """Return the graph of `floors` on which first come, first served hurts."""
    shape = floors.hurting()
    return Work.of(shape, NAPS, dict.fromkeys(shape, 1))


def in_turns() -> Work:
    """Return two chains; at each link one of them sleeps, and at the next the other.

    Alone, each chain sleeps at half of its links, and so do both side by side. Who waits for all of a layer before
    the next one sleeps at every link: twice the optimum.
    """
    names = [(chain, link) for link in range(floors.LINKS) for chain in (0, 1)]
    shape = {f"n{chain}at{link}": (f"n{chain}at{link - 1}",) if link else () for chain, link in names}
    calls = {f"n{chain}at{link}": (NAPS if link % 2 == chain else NOTHING)[min(link, 1)] for chain, link in names}
    return Work(shape, calls, dict.fromkeys(shape, 1))


# Whole programs

MINIMUM = 1e-6
"""The seconds of an import, where noise has made the program without it the slower one."""


@frozen
class ImportCase:
    """Imports a library in a fresh program, less what a program without it takes."""

    name: str = "import, over bare Python"
    unit: str = "ms"

    def measure(self, adapter: str, effort: Effort) -> list[float]:
        """Return the time of each of some imports; all files have been read before."""
        code = adapter_of(adapter).imports
        limit = effort.limit / 2
        seconds = repeated(lambda: program_time(code, "", limit) - program_time("pass", "", limit), effort)
        return [max(MINIMUM, each) * MILLI for each in seconds]

    def remark(self, value: float) -> str:  # noqa: ARG002 - it says all
        """Say nothing more."""
        return ""


@frozen
class HelloCase:
    """Runs three functions, as a whole program."""

    kind: str
    unit: str = "ms"

    @property
    def name(self) -> str:
        """What it is."""
        return f"hello world, three {self.kind}s, whole program"

    def measure(self, adapter: str, effort: Effort) -> list[float]:
        """Return the time of each of some programs; all files have been read before."""
        code = adapter_of(adapter).hello(self.kind)
        seconds = repeated(partial(program_time, code, "hello world\n", effort.limit / 2), effort)
        return [each * MILLI for each in seconds]

    def remark(self, value: float) -> str:  # noqa: ARG002 - it says all
        """Say nothing more."""
        return ""


def program_time(code: str, prints: str, limit: float) -> float:
    """Return the seconds of a whole program, which has to print what it should."""
    start = perf_counter()
    printed = fresh(code, limit)
    seconds = perf_counter() - start
    assert printed == prints, f"it printed {printed[:50]!r}"
    return seconds


def startup(effort: Effort) -> Iterator[Case]:  # noqa: ARG001 - a program is as large as it is
    """From nothing to a result."""
    yield ImportCase()
    yield HelloCase("thread")
    yield HelloCase("worker")


CASES: Mapping[str, Callable[[Effort], Iterator[Any]]] = {
    "overhead": overhead,
    "granularity": granularity,
    "data": data,
    "makespan": makespan,
    "startup": startup,
}
"""What there is, by section."""
