"""pmflow: a process per function, copies of it under other names; of large values only the targets' are kept."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import floors
import worker_floors
from patterns import graph_of
from worker_floors import Work

import pmflow
from adapters import Adapter, Inputs, Prepare, Step

LIMITS = {"thread": "max_threads", "process": "max_processes"}


@contextmanager
def pool(kind: str, many: int) -> Generator[Prepare]:
    """Run everything in threads or in worker processes; they are there from the first run on, and stay."""
    limit: dict[str, Any] = {LIMITS[kind]: many}

    def prepare(work: Work, inputs: Inputs) -> Step:
        graph = graph_of(work, kind)
        keep: Literal["all", "targets"] = "all" if len(work.expected) == len(work.shape) else "targets"

        def step() -> dict[str, Any]:
            run = pmflow.run(graph, inputs=inputs, keep=keep, **limit)
            return {name: run[name].data for name in work.expected}

        return step

    yield prepare


ADAPTER = Adapter(
    "import pmflow",
    {"thread": partial(pool, "thread"), "worker": partial(pool, "process")},
    {"thread": floors.PMFLOW_HELLO, "worker": worker_floors.PMFLOW_HELLO},
)
