"""Dask's distributed scheduler on one machine; a wide map goes through `Client.map` in its batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from distributed import Client, LocalCluster

from adapters import Adapter, Inputs, Prepare, Step, chunk, numbered, only_call

if TYPE_CHECKING:
    from worker_floors import Work

HELLO = """
from dask import delayed
from distributed import Client

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

if __name__ == "__main__":
    with Client(WORKERS, dashboard_address=None):
        print(delayed(both)(delayed(first)(), delayed(second)()).compute())
"""


def computed(client: Any, runs: Iterator[int], work: Work, inputs: Inputs) -> dict[str, Any]:
    """Run a graph under new names: values that are known by their names are not computed again."""
    run = next(runs)
    graph: dict[str, Any] = {
        f"{name}-{run}": (work.calls[name], *inputs.values(), *[f"{need}-{run}" for need in needs])
        for name, needs in work.shape.items()
    }
    return dict(zip(work.expected, client.get(graph, [f"{name}-{run}" for name in work.expected]), strict=True))


CLUSTERS = {
    "thread": "processes=False, n_workers=1, threads_per_worker=2",
    "worker": "processes=True, n_workers=2, threads_per_worker=1",
}


@contextmanager
def pool(kind: str, many: int) -> Generator[Prepare]:
    """Have a cluster of one worker with threads, or of workers with one thread each."""
    size: dict[str, Any] = {"n_workers": many, "threads_per_worker": 1, "processes": True}
    if kind == "thread":
        size = {"n_workers": 1, "threads_per_worker": many, "processes": False}
    with LocalCluster(**size, dashboard_address=None) as cluster, Client(cluster) as client:
        runs = count()

        def prepare(work: Work, inputs: Inputs) -> Step:
            call, length = only_call(work), len(work.shape)
            if call is None:
                return partial(computed, client, runs, work, inputs)
            one = partial(numbered, call, tuple(inputs.values()))
            mapped = partial(client.map, one, range(length), pure=False, batch_size=chunk(length, many))
            return lambda: dict(zip(work.shape, client.gather(mapped()), strict=True))

        yield prepare


ADAPTER = Adapter(
    "import distributed",
    {kind: partial(pool, kind) for kind in CLUSTERS},
    {kind: HELLO.replace("WORKERS", size) for kind, size in CLUSTERS.items()},
)
