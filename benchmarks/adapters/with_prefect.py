"""Prefect: tasks submitted in a flow, in its thread or process pool runner, with one server for the program."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from adapters import Adapter, Inputs, Prepare, Step, arguments

if TYPE_CHECKING:
    from worker_floors import Work

HELLO = """
from prefect import flow, task
from prefect.task_runners import RUNNER

@task
def first():
    return "hello"

@task
def second():
    return "world"

@task
def both(first, second):
    return f"{first} {second}"

@flow(task_runner=RUNNER(max_workers=2))
def hello():
    return both.submit(first.submit(), second.submit()).result()

if __name__ == "__main__":
    print(hello())
"""


@contextmanager
def pool(runner: Any, many: int) -> Generator[Prepare]:
    """Have a server, which its workers share; each flow starts a pool of its own."""

    def prepare(work: Work, inputs: Inputs) -> Step:
        tasks = {call: prefect.task(call, cache_policy=NO_CACHE) for call in work.calls.values()}

        def graph() -> dict[str, Any]:
            started: dict[str, Any] = {}
            for name, needs in work.shape.items():
                started[name] = tasks[work.calls[name]].submit(*arguments(inputs, started, needs))
            return {name: started[name].result() for name in work.expected}

        step: Step = prefect.flow(graph, task_runner=runner(max_workers=many), validate_parameters=False)
        return step

    with SubprocessASGIServer() as server, temporary_settings({PREFECT_API_URL: server.api_url}):
        yield prepare


RUNNERS = {"thread": ThreadPoolTaskRunner, "worker": ProcessPoolTaskRunner}
ADAPTER = Adapter(
    "import prefect",
    {kind: partial(pool, runner) for kind, runner in RUNNERS.items()},
    {kind: HELLO.replace("RUNNER", runner.__name__) for kind, runner in RUNNERS.items()},
)
