"""Parsl: apps that take the futures of other apps, in its thread pool or its `HighThroughputExecutor`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.providers import LocalProvider

from adapters import Adapter, Inputs, Prepare, Step, arguments

if TYPE_CHECKING:
    from worker_floors import Work

HELLO = """
import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.providers import LocalProvider

@parsl.python_app
def first():
    return "hello"

@parsl.python_app
def second():
    return "world"

@parsl.python_app
def both(first, second):
    return f"{first} {second}"

with parsl.load(Config([EXECUTOR], strategy="none", initialize_logging=False)):
    print(both(first(), second()).result())
"""


def executor(kind: str, many: int) -> Any:
    """Return what runs apps; a worker has the next calls beside the one it runs, as is advised for short ones."""
    if kind == "thread":
        return ThreadPoolExecutor(max_threads=many)
    return HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=many,
        prefetch_capacity=8 * many,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )


@contextmanager
def pool(kind: str, many: int) -> Generator[Prepare]:
    """Have Parsl loaded."""
    settings = Config([executor(kind, many)], strategy="none", initialize_logging=False, usage_tracking=0)
    with parsl.load(settings):

        def prepare(work: Work, inputs: Inputs) -> Step:
            apps = {call: parsl.python_app(call) for call in work.calls.values()}

            def step() -> dict[str, Any]:
                started: dict[str, Any] = {}
                for name, needs in work.shape.items():
                    started[name] = apps[work.calls[name]](*arguments(inputs, started, needs))
                return {name: started[name].result() for name in work.expected}

            return step

        yield prepare


WORKERS = 'HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=2, provider=LocalProvider(init_blocks=1))'
ADAPTER = Adapter(
    "import parsl",
    {"thread": partial(pool, "thread"), "worker": partial(pool, "worker")},
    {
        "thread": HELLO.replace("EXECUTOR", "ThreadPoolExecutor(max_threads=2)"),
        "worker": HELLO.replace("EXECUTOR", WORKERS),
    },
)
