"""Dask on one machine: its threaded and its multiprocessing scheduler, given whole graphs ("custom graphs")."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask.multiprocessing
import dask.threaded
import worker_floors
from worker_floors import Work

from adapters import Adapter, Inputs, Prepare, Step, chunk, layers

HELLO = """
from dask import delayed

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

if __name__ == "__main__":
    print(delayed(both)(delayed(first)(), delayed(second)()).compute(scheduler=SCHEDULER, num_workers=2))
"""


def graph_of(work: Work, inputs: Inputs) -> dict[str, Any]:
    """Return a graph as Dask writes it: name to a tuple of a function and what it is called with."""
    return {name: (work.calls[name], *inputs.values(), *needs) for name, needs in work.shape.items()}


def prepared(get: Callable[..., Any], work: Work, inputs: Inputs) -> Step:
    """Return what runs a graph."""
    graph, wanted = graph_of(work, inputs), list(work.expected)
    return lambda: dict(zip(wanted, get(graph, wanted), strict=True))


def in_chunks(get: Callable[..., Any], many: int, work: Work, inputs: Inputs) -> Step:
    """Return what runs a graph, so many calls to a worker at a time as suits its widest layer."""
    widest = max(map(len, layers(work.shape)))
    return prepared(partial(get, chunksize=chunk(widest, many)), work, inputs)


@contextmanager
def threads(many: int) -> Generator[Prepare]:
    """Have a thread pool."""
    with ThreadPoolExecutor(many) as pool:
        yield partial(prepared, partial(dask.threaded.get, pool=pool))


@contextmanager
def workers(many: int) -> Generator[Prepare]:
    """Have warm workers; chains are fused."""
    with worker_floors.warm(many) as pool:
        yield partial(in_chunks, partial(dask.multiprocessing.get, pool=pool), many)


SCHEDULERS = {"thread": "threads", "worker": "processes"}
ADAPTER = Adapter(
    "import dask.threaded, dask.multiprocessing",
    {"thread": threads, "worker": workers},
    {kind: HELLO.replace("SCHEDULER", repr(name)) for kind, name in SCHEDULERS.items()},
)
