"""redun: lazy expressions of tasks, run by a scheduler with a store in memory, which is not asked for older results."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import redun
from redun.config import Config
from worker_floors import FANNED, KERNELS, PLAIN, STAGED, Work

from adapters import Adapter, Inputs, Prepare, Step, arguments

HELLO = """
from redun import Scheduler, task

redun_namespace = "hello"

@task(executor=EXECUTOR)
def first():
    return "hello"

@task(executor=EXECUTOR)
def second():
    return "world"

@task(executor=EXECUTOR)
def both(first, second):
    return f"{first} {second}"

if __name__ == "__main__":
    print(Scheduler().run(both(first(), second())))
"""

EXECUTORS = {"thread": "default", "worker": "process"}


def task_of(call: Callable[..., Any]) -> Any:
    """Make a function a task, which a worker finds in this module."""
    name = f"{call.__module__}_{call.__name__}".replace(".", "_")
    return redun.task(name=name, namespace="peers", load_module="adapters.with_redun")(call)


TASKS = {
    call: task_of(call)
    for call in chain(PLAIN.values(), KERNELS.values(), STAGED.calls.values(), FANNED.calls.values())
}
"""What is known in workers as well."""


@contextmanager
def pool(kind: str, many: int) -> Generator[Prepare]:
    """Have a scheduler."""
    local = {"type": "local", "max_workers": str(many)}
    settings = {"executors.default": {**local, "mode": "thread"}, "executors.process": {**local, "mode": "process"}}
    scheduler = redun.Scheduler(config=Config(settings))
    scheduler.load()

    def prepare(work: Work, inputs: Inputs) -> Step:
        tasks = {
            call: (TASKS.get(call) or task_of(call)).options(executor=EXECUTORS[kind]) for call in work.calls.values()
        }

        def step() -> dict[str, Any]:
            lazy: dict[str, Any] = {}
            for name, needs in work.shape.items():
                lazy[name] = tasks[work.calls[name]](*arguments(inputs, lazy, needs))
            values: dict[str, Any] = scheduler.run({name: lazy[name] for name in work.expected}, cache=False)
            return values

        return step

    yield prepare


ADAPTER = Adapter(
    "import redun",
    {kind: partial(pool, kind) for kind in EXECUTORS},
    {kind: HELLO.replace("EXECUTOR", repr(name)) for kind, name in EXECUTORS.items()},
)
