"""pipefunc: a `Pipeline` of renamed functions, started eagerly; a wide map is a mapspec, in chunks of its choice."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import floors
import pipefunc
import worker_floors
from worker_floors import Work

from adapters import Adapter, Inputs, Prepare, Step, only_call

HELLO = """
from concurrent.futures import POOL
from pipefunc import Pipeline, pipefunc

@pipefunc("first_word")
def first():
    return "hello"

@pipefunc("second_word")
def second():
    return "world"

@pipefunc("sentence")
def both(first_word, second_word):
    return f"{first_word} {second_word}"

if __name__ == "__main__":
    with POOL(2) as pool:
        print(Pipeline([first, second, both]).map({}, executor=pool, storage="dict")["sentence"].output)
"""


def prepared(pool: Executor, work: Work, inputs: Inputs) -> Step:
    """Return what runs a graph, which is built before."""
    options: dict[str, Any] = {"executor": pool, "storage": "dict", "scheduling_strategy": "eager"}
    call = only_call(work)
    if call is not None:
        repeated = partial(call, *inputs.values())

        def value(number: int) -> Any:  # noqa: ARG001 - a map is over something
            return repeated()

        mapped = pipefunc.Pipeline([pipefunc.PipeFunc(value, "value", mapspec="number[i] -> value[i]")])
        numbers = {"number": list(range(len(work.shape)))}
        return lambda: dict(zip(work.shape, mapped.map(numbers, **options)["value"].output, strict=True))
    steps = [
        pipefunc.PipeFunc(work.calls[name], name, renames=dict(zip(floors.PARAMETERS, needs, strict=False)))
        for name, needs in work.shape.items()
    ]
    pipeline = pipefunc.Pipeline(steps)

    def step() -> dict[str, Any]:
        results = pipeline.map(dict(inputs), **options)
        return {name: results[name].output for name in work.expected}

    return step


@contextmanager
def threads(many: int) -> Generator[Prepare]:
    """Have a thread pool."""
    with ThreadPoolExecutor(many) as pool:
        yield partial(prepared, pool)


@contextmanager
def workers(many: int) -> Generator[Prepare]:
    """Have warm workers."""
    with worker_floors.warm(many) as pool:
        yield partial(prepared, pool)


POOLS = {"thread": "ThreadPoolExecutor", "worker": "ProcessPoolExecutor"}
ADAPTER = Adapter(
    "import pipefunc",
    {"thread": threads, "worker": workers},
    {kind: HELLO.replace("POOL", name) for kind, name in POOLS.items()},
)
