"""Graphs that several benchmarks run: the patterns of Task Bench, something handed on, and how pmflow runs them.

The patterns are those of Task Bench (Slaughter et al., "Task Bench: A Parameterized Benchmark for Evaluating Parallel
Runtime Performance", SC20), as ``TaskGraph::dependencies``, ``width_at_timestep`` and ``dependence_set_at_timestep``
have them in core/core.cc of https://github.com/StanfordLegion/task-bench: rows of tasks, each of which needs tasks of
the row before. A place that is not in that row is left out. (A pattern without any dependency is its ``trivial``.)

How a graph is run by hand stands in `floors` and `worker_floors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any, Protocol

import floors
from attrs import Factory, field, frozen
from floors import Shape
from worker_floors import Work, changed, made, taken

import pmflow

# The patterns of Task Bench


def stencil(width: int, steps: int) -> Shape:
    """Each needs its neighbours of the row before, left, middle and right: ``stencil_1d``.

    Who stands at an edge has no neighbour beyond it. Of width 2 it is two chains, each link of which needs both links
    of the step before.
    """
    return in_rows([width] * steps, lambda _, place: (place - 1, place, place + 1))


def fft(width: int, steps: int) -> Shape:
    """Each needs itself and two others, ``2 ** k`` to the left and to the right: butterflies, ``fft``.

    From row to row k grows by one, until all places have met, and then begins again at 0.
    """
    rounds = max(1, (width - 1).bit_length())
    strides = [2 ** ((step - 1) % rounds) for step in range(steps)]
    return in_rows([width] * steps, lambda step, place: (place - strides[step], place, place + strides[step]))


def tree(width: int, steps: int) -> Shape:
    """One begins, and each row is twice as wide as the one before, up to the width: ``tree``.

    Place ``p`` needs ``p // 2``: in a row that is full the left half has two dependants each, the right half none.
    """
    return in_rows([min(width, 2**step) for step in range(steps)], lambda _, place: (place // 2,))


def no_comm(width: int, steps: int) -> Shape:
    """Each needs the one at its own place: as many chains as the rows are wide, ``no_comm``."""
    return in_rows([width] * steps, lambda _, place: (place,))


PATTERNS: dict[str, Callable[[int, int], Shape]] = {
    "stencil_1d": stencil,
    "fft": fft,
    "tree": tree,
    "no_comm": no_comm,
}


def in_rows(widths: Sequence[int], needed: Callable[[int, int], Iterable[int]]) -> Shape:
    """Return a graph of rows.

    Args:
        widths: how many tasks each row has.
        needed: which places of the row before a task needs, by its own row and place.
    """
    return {
        f"step{step}at{place}": tuple(
            f"step{step - 1}at{other}" for other in needed(step, place) if step and 0 <= other < widths[step - 1]
        )
        for step, width in enumerate(widths)
        for place in range(width)
    }


def depths(shape: Shape) -> dict[str, int]:
    """Return in which row each stands: 0 for who needs nothing, else one more than the deepest it needs."""
    found: dict[str, int] = {}
    for name, needs in shape.items():
        found[name] = 1 + max((found[need] for need in needs), default=-1)
    return found


# Something handed on, beside the arrays of `worker_floors`


def frame_made(elements: int) -> Any:
    """Make a data frame of so many rows, with eight columns of numbers."""
    np, pandas = import_module("numpy"), import_module("pandas")
    return pandas.DataFrame(np.ones((elements, 8)), columns=list("abcdefgh"), copy=False)


def frame_changed(elements: int, a: Any) -> Any:
    """Change a data frame in place, and hand it on."""
    a.iat[elements // 2, 0] += 1
    return a


def frame_taken(elements: int, a: Any) -> float:
    """Take one number out of a data frame."""
    return float(a.iat[elements // 2, 0])


def bytes_made(elements: int) -> bytes:
    """Make bytes."""
    return b"\1" * elements


def bytes_looked_at(elements: int, a: bytes) -> bytes:
    """Hand bytes on, which nobody can change."""
    assert len(a) == elements
    return a


def byte_taken(elements: int, a: bytes) -> int:
    """Take one byte out of many."""
    return a[elements // 2]


def dictionary_made(elements: int) -> dict[str, Any]:
    """Make a dictionary of so many records, each a dictionary with another one in it."""
    return {
        f"record {index}": {
            "number": 1,
            "place": {"x": index + 0.25, "y": index + 0.5},
            "tags": [f"tag {index}", index],
        }
        for index in range(elements)
    }


def dictionary_changed(elements: int, a: dict[str, Any]) -> dict[str, Any]:
    """Change a record in place, and hand all of them on."""
    a[f"record {elements // 2}"]["number"] += 1
    return a


def dictionary_taken(elements: int, a: dict[str, Any]) -> int:
    """Take one number out of one record."""
    return int(a[f"record {elements // 2}"]["number"])


COUNTED = {1: "one consumer", 2: "two consumers", 4: "four consumers", 8: "eight consumers"}
"""Names of numbers of consumers."""


@frozen
class Kind:
    """A kind of value that is handed on.

    Args:
        name: what it is called.
        element: how many bytes of its pickle one element takes: a number, a row, a record.
        functions: which make it, change it or hand it on, and take a number out of it.
        staged: the number that has to come out of four stages; out of the first one comes 1.
    """

    name: str
    element: int
    functions: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
    staged: float = 3

    def inputs(self, size: int) -> dict[str, Any]:
        """Return the inputs for a value of so many bytes, or little less."""
        return {"elements": max(1, size // self.element)}

    def through_stages(self) -> Work:
        """Return four stages: one makes it, two change it, the last returns a number of it."""
        first, middle, last = self.functions
        shape = floors.chain(4)
        return Work(shape, dict(zip(shape, (first, middle, middle, last), strict=True)), {"n3": self.staged})

    def to_consumers(self, consumers: int) -> Work:
        """Return one that makes it, and so many that take the same number out of it."""
        first, _, last = self.functions
        names = [f"taken{index}" for index in range(consumers)]
        return Work.of({"made": (), **dict.fromkeys(names, ("made",))}, {0: first, 1: last}, dict.fromkeys(names, 1))


ARRAY = Kind("array", 8, (made, changed, taken))
FRAME = Kind("data frame", 64, (frame_made, frame_changed, frame_taken))
BYTES = Kind("bytes", 1, (bytes_made, bytes_looked_at, byte_taken), staged=1)
DICTIONARY = Kind("nested dictionary", 73, (dictionary_made, dictionary_changed, dictionary_taken))


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


def graph_of(work: Work, kind: str = "process") -> pmflow.Graph:
    """Make a graph as a program does: one process per function, and copies under other names."""
    patterns = {call: pmflow.process(call, type=kind) for call in work.calls.values()}
    wanted: dict[str, dict[str, str]] = {
        name: dict(zip(floors.PARAMETERS, needs, strict=False)) for name, needs in work.shape.items()
    }
    return pmflow.Graph([patterns[work.calls[name]].options(id=name, dependencies=wanted[name]) for name in wanted])


@frozen
class WithPmflow:
    """Runs a graph in pmflow's workers, or threads; the first run of it is the one that plans.

    Args:
        work: what is run.
        keep: whether all values are kept, or only those of the targets.
        kind: the type of its processes.
        max_threads: at most so many threads at once.
    """

    work: Work
    keep: bool = True
    kind: str = "process"
    max_threads: int | None = None
    graph: pmflow.Graph = field(default=Factory(lambda self: graph_of(self.work, self.kind), takes_self=True))

    def run(self, inputs: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
        """Return the seconds of a run, and the values that were kept."""
        run_it = partial(pmflow.run, self.graph, inputs=inputs, max_threads=self.max_threads)
        start = perf_counter()
        run = run_it(keep="all" if self.keep else "targets")
        seconds = perf_counter() - start
        assert len(run) == len(self.work.shape)
        assert all(result.success and result.execution_time >= 0 for result in run.values())
        return seconds, {name: run[name].data for name in run} if self.keep else run.data


def timed(side: Side, inputs: Mapping[str, Any]) -> float:
    """Return the seconds of a run, from which the values have to come out that are expected."""
    seconds, values = side.run(inputs)
    assert {name: values[name] for name in side.work.expected} == side.work.expected
    return seconds
