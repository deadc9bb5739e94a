"""The common oracle: ten calls, call 3 carries a fault; the other nine are right and the pool goes on."""

from __future__ import annotations

import threading
from typing import Any

import anyio
from harness import case
from inside import ten

from pmflow import ProcessTimeoutError

TYPES = {"async": "async", "inline": "async", "thread": "thread", "process": "process"}


class Broken(Exception):
    """A user's own exception."""


def raising(n: int) -> int:
    if n == 3:
        raise Broken(f"call {n}")
    return n * n


async def raising_async(n: int) -> int:
    await anyio.lowlevel.checkpoint()
    return raising(n)


@case(strategy=tuple(TYPES))
def test_a_raising_call_costs_itself_only(strategy: str) -> None:
    """An exception is the failure of its own call, as raised; no worker is lost to it."""
    call: Any = raising_async if strategy == "async" else raising
    result = ten(call, type=TYPES[strategy], fails_with=Broken)
    assert str(result.exception) == "call 3"
    assert "Broken: call 3" in result.traceback
    assert "in raising" in result.traceback


RELEASE = threading.Event()


async def hanging_async(n: int) -> int:
    if n == 3:
        await anyio.sleep_forever()
    return n * n


def hanging(n: int) -> int:
    if n == 3:
        RELEASE.wait(60)
    return n * n


@case(strategy=("async", "thread", "process"))
def test_a_call_that_times_out_costs_itself_only(strategy: str) -> None:
    """A call past its timeout is the failure of its own call; `stopped` says what became of the work."""
    call: Any = hanging_async if strategy == "async" else hanging
    # What a new worker imports for its first call counts as that call's time, and a machine may be busy.
    lost, timeout = (1, 1.0) if strategy == "process" else (0, 0.3)
    result = ten(call, type=strategy, timeout=timeout, fails_with=ProcessTimeoutError, lost_workers=lost, extra=timeout)
    assert isinstance(result.exception, TimeoutError)
    assert result.stopped is (strategy != "thread")
    RELEASE.set()
