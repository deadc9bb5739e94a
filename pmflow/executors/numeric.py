"""How many threads the numeric libraries of a worker may start: as many as its call has cores, so that none fight."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

NUMERIC = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables in which numeric libraries look for how many threads they may start."""


def has_decided() -> bool:
    """Whether this program has said how many threads, in ``OMP_NUM_THREADS``: then it has the last word."""
    return NUMERIC[0] in os.environ


class Widened:
    """A function of several cores, as it is called in a worker.

    Libraries read the environment when they are loaded. Those that are loaded already are told by ``threadpoolctl``,
    where that is installed, and told again at the end of the call.
    """

    __slots__ = ("cpus", "function")

    def __init__(self, function: Callable[..., Any], cpus: int) -> None:
        self.function = function
        self.cpus = cpus

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; what it returns to be awaited or consumed is, with as many threads."""
        from pmflow.executors.values import finished, is_final

        with _threads(self.cpus):
            value = self.function(*args, **kwargs)
            return value if is_final(value) else finished(value)


@contextmanager
def _threads(count: int) -> Generator[None]:
    before = os.environ.get(NUMERIC[0])
    for name in NUMERIC:
        if os.environ.get(name) == before:  # else the program has said it
            os.environ[name] = str(count)  # the worker puts back, after the call, what was there
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(count):
        yield
    if before is not None:
        threadpool_limits(int(before))  # of what the call has loaded, too
