"""Hamilton: `parameterize` makes the nodes, `FutureAdapter` runs them in threads; only its maps go to workers."""

# pyright: reportUnknownParameterType=false
# Hamilton reads annotations, so its own types have to stand in them.

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import floors
from hamilton import ad_hoc_utils, driver
from hamilton.execution import executors
from hamilton.function_modifiers import parameterize, source
from hamilton.htypes import Collect, Parallelizable  # noqa: TC002 - Hamilton evaluates annotations
from hamilton.plugins.h_threadpool import FutureAdapter

from adapters import Adapter, CannotError, Inputs, Prepare, Step, only_call

if TYPE_CHECKING:
    from worker_floors import Work

HELLO = """
from hamilton import ad_hoc_utils, driver
from hamilton.plugins.h_threadpool import FutureAdapter

def first() -> str:
    return "hello"

def second() -> str:
    return "world"

def both(first: str, second: str) -> str:
    return f"{first} {second}"

module = ad_hoc_utils.create_temporary_module(first, second, both)
print(driver.Builder().with_modules(module).with_adapters(FutureAdapter(2)).build().execute(["both"])["both"])
"""


@contextmanager
def threads(many: int) -> Generator[Prepare]:
    """Have an adapter with its thread pool."""
    futures = FutureAdapter(many)

    def prepare(work: Work, inputs: Inputs) -> Step:
        module = ad_hoc_utils.create_temporary_module(*[nodes(work, call) for call in set(work.calls.values())])
        built = driver.Builder().with_modules(module).with_adapters(futures).build()
        return partial(built.execute, list(work.expected), inputs=dict(inputs))

    yield prepare
    futures.executor.shutdown()


def nodes(work: Work, call: Callable[..., Any]) -> Any:
    """Make one function the node of every name that calls it."""
    named: dict[str, Any] = {
        name: {parameter: source(need) for parameter, need in zip(floors.PARAMETERS, needs, strict=False)}
        for name, needs in work.shape.items()
        if work.calls[name] is call
    }
    return parameterize(**named)(call)


def number(size: int) -> Parallelizable[int]:
    """Begin a map."""
    yield from range(size)


def value(number: int, call: Any) -> int:  # noqa: ARG001 - a map is over something
    """Make one call of a map."""
    found: int = call()
    return found


def everything(value: Collect[int]) -> list[int]:
    """End a map."""
    return list(value)


@contextmanager
def workers(many: int) -> Generator[Prepare]:
    """Have workers for maps; each run starts its own."""

    def prepare(work: Work, inputs: Inputs) -> Step:
        call = only_call(work)
        if call is None or inputs:
            raise CannotError("workers are for maps, not for graphs")
        built = (
            driver.Builder()
            .with_modules(ad_hoc_utils.create_temporary_module(number, value, everything))
            .enable_dynamic_execution(allow_experimental_mode=True)
            .with_remote_executor(executors.MultiProcessingExecutor(max_tasks=many))
            .build()
        )
        given = {"size": len(work.shape), "call": call}
        return lambda: dict(zip(work.shape, built.execute(["everything"], inputs=given)["everything"], strict=True))

    yield prepare


ADAPTER = Adapter(
    "from hamilton import driver",
    {"thread": threads, "worker": workers},
    {"thread": HELLO},
    {"worker": "workers are for maps, not for graphs"},
)
