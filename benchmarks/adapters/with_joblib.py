"""joblib has no graphs: a `Parallel` call for each layer, in one reused pool, in batches of the size it finds best."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import joblib

from adapters import Adapter, Inputs, Prepare, Step, arguments, layers

if TYPE_CHECKING:
    from worker_floors import Work

HELLO = """
from joblib import Parallel, delayed

def first():
    return "hello"

def second():
    return "world"

def both(first, second):
    return f"{first} {second}"

with Parallel(2, backend=BACKEND) as parallel:
    words = parallel([delayed(first)(), delayed(second)()])
    print(*parallel([delayed(both)(*words)]))
"""


@contextmanager
def pool(backend: str, many: int) -> Generator[Prepare]:
    """Have a pool; a large array goes through a mapped file, copied on write since one stage changes it."""
    with joblib.Parallel(many, backend=backend, batch_size="auto", mmap_mode="c") as parallel:

        def prepare(work: Work, inputs: Inputs) -> Step:
            found = layers(work.shape)
            calls = {name: joblib.delayed(call) for name, call in work.calls.items()}

            def step() -> dict[str, Any]:
                values: dict[str, Any] = {}
                for layer in found:
                    wanted = [calls[name](*arguments(inputs, values, work.shape[name])) for name in layer]
                    values.update(zip(layer, parallel(wanted), strict=True))
                return values

            return step

        yield prepare


ADAPTER = Adapter(
    "import joblib",
    {"thread": partial(pool, "threading"), "worker": partial(pool, "loky")},
    {kind: HELLO.replace("BACKEND", repr(name)) for kind, name in {"thread": "threading", "worker": "loky"}.items()},
)
