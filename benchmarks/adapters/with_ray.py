"""Ray on one machine: a remote call for each process, references hand values on; a wide map is cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import ray
import worker_floors
from worker_floors import Work

from adapters import Adapter, Inputs, Prepare, Step, arguments, chunk, only_call

HELLO = """
import ray

@ray.remote
def first():
    return "hello"

@ray.remote
def second():
    return "world"

@ray.remote
def both(first, second):
    return f"{first} {second}"

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get(both.remote(first.remote(), second.remote())))
"""


def batch(call: Callable[..., Any], inputs: tuple[Any, ...], many: int) -> list[Any]:
    """Make some calls of a wide map."""
    return [call(*inputs) for _ in range(many)]


def changed(elements: int, a: Any) -> Any:
    """Change a copy: what comes out of Ray's store cannot be written to."""
    return worker_floors.changed(elements, a.copy())


@contextmanager
def workers(many: int) -> Generator[Prepare]:
    """Have Ray, as far as it is on this machine, with so many workers."""
    ray.init(num_cpus=many, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    batches = ray.remote(batch)

    def prepare(work: Work, inputs: Inputs) -> Step:
        call, size = only_call(work), len(work.shape)
        if call is not None:
            starts = range(0, size, chunk(size, many))
            sizes = [min(starts.step, size - start) for start in starts]

            def mapped() -> dict[str, Any]:
                parts = ray.get([batches.remote(call, tuple(inputs.values()), each) for each in sizes])
                return dict(zip(work.shape, [value for part in parts for value in part], strict=True))

            return mapped
        remotes = {each: ray.remote(changed if each is worker_floors.changed else each) for each in work.calls.values()}

        def step() -> dict[str, Any]:
            started: dict[str, Any] = {}
            for name, needs in work.shape.items():
                started[name] = remotes[work.calls[name]].remote(*arguments(inputs, started, needs))
            return dict(zip(work.expected, ray.get([started[name] for name in work.expected]), strict=True))

        return step

    yield prepare
    ray.shutdown()


ADAPTER = Adapter("import ray", {"worker": workers}, {"worker": HELLO}, {"thread": "no threads"})
