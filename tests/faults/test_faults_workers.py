"""W1 to W6: workers that die, that cannot be asked to stop, and that meet what would end a program."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from functools import partial
from typing import Any

from harness import case
from inside import Oracle, alive, eventually, gone, note, noted, raises, ten

import pmflow
from pmflow import (
    ProcessError,
    ProcessResult,
    ProcessTimeoutError,
    RetryStrategy,
    WorkerCrashedError,
    WorkflowError,
    process,
)

# Deaths


def assert_crashed(result: Any, *, exit_code: int | None = None, by: str | None = None) -> None:
    """The failure of call 3 has all the facts, and says them."""
    error = result.exception
    assert (error.process_id, error.attempt, error.exit_code, error.signal) == ("call_3", 1, exit_code, by)
    assert 0 <= error.elapsed < 20
    assert "'call_3'" in str(error)
    assert (by or f"exit code {exit_code}") in str(error)
    assert (result.attempts, result.stopped) == (1, True)
    assert [result.worker] == noted("worker")
    assert gone(int(result.worker))


def exits(code: int, n: int) -> int:
    if n == 3:
        note("worker", os.getpid())
        os._exit(code)
    return n * n


@case(code=(0, 3))
def test_w1_a_worker_that_exits_costs_the_call_it_ran(code: int) -> None:
    """`os._exit` in a worker fails the call that did it, and no other; an exit without a result is no success."""
    result = ten(partial(exits, code), type="process", fails_with=WorkerCrashedError, lost_workers=1)
    assert_crashed(result, exit_code=code)


def dies(by: str, n: int) -> int:
    if n == 3:
        note("worker", os.getpid())
        if by == "SIGSEGV":
            ctypes.string_at(0)
        if by == "SIGABRT":
            os.abort()
        os.kill(os.getpid(), getattr(signal, by))
    return n * n


@case(by=("SIGKILL",))
def test_w2_a_worker_that_is_killed_costs_the_call_it_ran(by: str) -> None:
    """A kill from outside, as the system does it for want of memory: one failure, which names the signal."""
    assert_crashed(ten(partial(dies, by), type="process", fails_with=WorkerCrashedError, lost_workers=1), by=by)


@case(by=("SIGSEGV", "SIGABRT"), stderr=r"(Fatal Python error: .*)?")
def test_w2_a_worker_that_crashes_in_c_costs_the_call_it_ran(by: str) -> None:
    """C code that touches what is not there, or gives up: one failure, which names the signal."""
    assert_crashed(ten(partial(dies, by), type="process", fails_with=WorkerCrashedError, lost_workers=1), by=by)


CRASH, RAISE, RETURN = "xr."
PLANS: dict[str, tuple[int, int, type[Exception] | None]] = {
    CRASH: (3, 0, WorkerCrashedError),
    CRASH + RETURN: (0, 1, None),
    CRASH + CRASH + CRASH: (0, 2, WorkerCrashedError),
    RAISE: (0, 3, OSError),
    CRASH + RAISE + RETURN: (1, 1, None),
    RAISE + CRASH + RETURN: (1, 1, None),
    CRASH + RAISE + CRASH: (1, 1, WorkerCrashedError),
    RAISE + CRASH + RAISE: (1, 1, OSError),
}
"""What each attempt does: how many retries and crash_retries there are for it, and what it ends with."""


def follows(plan: str) -> str:
    step = plan[len(noted(f"plan {plan}"))]
    note(f"plan {plan}", step)
    if step == CRASH:
        os._exit(1)
    if step == RAISE:
        raise OSError("no route")
    return plan


@case()
def test_w2_crash_retries_are_counted_apart() -> None:
    """A crash uses up none of the `retries` and is covered by none of them; `attempts` counts all, events tell all."""
    for plan, (retries, crash_retries, error) in PLANS.items():
        follower = process(
            partial(follows, plan),
            id="follows",
            type="process",
            retries=RetryStrategy(retries, delay_seconds=0.01),
            crash_retries=crash_retries,
        )
        events: list[Any] = []
        result = pmflow.run(follower, on_error="return", hooks=[events.append])["follows"]
        assert "".join(noted(f"plan {plan}")) == plan
        assert (result.attempts, result.success) == (len(plan), error is None), plan
        assert error is None or type(result.exception) is error, plan
        assert error is not WorkerCrashedError or result.exception.attempt == len(plan), plan
        told = [(event.attempt, event.result.error_type) for event in events if event.kind == "process_retrying"]
        names = {CRASH: "WorkerCrashedError", RAISE: "OSError"}
        assert told == [(number, names[step]) for number, step in enumerate(plan[:-1], 1)], plan


# Workers that cannot be asked to stop


def holds_the_gil(n: int) -> int:
    if n == 3:
        note("worker", os.getpid())
        ctypes.PyDLL(None).sleep(600)
    return n * n


SLEEP = ["sleep", "47"]


def is_deaf(n: int) -> int:
    if n == 3:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        child = subprocess.Popen(SLEEP)
        note("children", child.pid)
        note("worker", os.getpid())
        while True:
            pass
    return n * n


UNSTOPPABLE = {"w3": holds_the_gil, "w4": is_deaf}


def assert_timed_out(result: Any) -> None:
    """In time: the promise is a quarter of a second; the rest is for a machine that does other things too."""
    assert (type(result.exception), result.exception.timeout) == (ProcessTimeoutError, 1)
    assert result.exception.process_id == str(result.process_id)
    assert 1 <= result.execution_time < 2
    assert result.stopped is True
    assert [result.worker] == noted("worker")


@case(fault=tuple(UNSTOPPABLE))
def test_w3_w4_a_worker_that_cannot_be_asked_is_killed_in_time(fault: str) -> None:
    """C code that holds the GIL, and a loop that ignores all signals, cost themselves only, and end at the timeout."""
    result = ten(
        UNSTOPPABLE[fault], type="process", timeout=1, fails_with=ProcessTimeoutError, lost_workers=1, extra=1.0
    )
    assert gone(int(noted("worker")[0]))
    assert_timed_out(result)


@case(fault=tuple(UNSTOPPABLE))
def test_w3_w4_there_is_no_worker_any_more_when_the_result_is_there(fault: str) -> None:
    """Who takes the timeout as an argument, in the same run, finds neither the worker nor its children."""

    def witness(call: ProcessResult) -> tuple[bool, bool]:
        children = [int(pid) for pid in noted("children")]
        assert (fault == "w4") == bool(children)
        return gone(int(noted("worker")[0])), eventually(lambda: not any(map(alive, children)), 1)

    Oracle({"type": "process"}).workers()  # warm
    call = process(UNSTOPPABLE[fault], id="call", type="process", timeout=1)
    run = pmflow.run([call, process(witness)], inputs={"n": 3}, on_error="return")
    assert run["witness"].data == (True, True)
    assert_timed_out(run["call"])


# What is raised


def exhausts_memory(n: int) -> int:
    return n * n if n != 3 else len([n] * (1 << 60))


def recurs(n: int) -> int:
    return n * n if n != 3 else recurs(n) + 1


def goes_down(n: int) -> int:
    return n * n if n != 3 else takes_one_of_many_steps_down_the_left_stairs_to_the_cellar(700)


def takes_one_of_many_steps_down_the_left_stairs_to_the_cellar(steps: int) -> int:
    if not steps:
        raise ValueError("at the bottom")
    return 1 + takes_one_of_many_steps_down_the_right_stairs_to_the_cellar(steps=steps - 1)


def takes_one_of_many_steps_down_the_right_stairs_to_the_cellar(steps: int) -> int:
    return 1 + takes_one_of_many_steps_down_the_left_stairs_to_the_cellar(steps=steps - 1)


ORDINARY = {"MemoryError": exhausts_memory, "RecursionError": recurs, "ValueError": goes_down}


@case(kind=tuple(ORDINARY))
def test_w5_errors_of_want_and_long_tracebacks_are_ordinary_failures(kind: str) -> None:
    """MemoryError, RecursionError and 100 kB of traceback cost one call and no worker; the text has some 50 kB."""
    function = ORDINARY[kind]
    errors = {"MemoryError": MemoryError, "RecursionError": RecursionError, "ValueError": ValueError}
    result = ten(function, type="process", fails_with=errors[kind])
    assert len(result.traceback) < 51_000
    assert f"in {function.__name__}" in result.traceback
    assert result.traceback.rstrip().splitlines()[-1].startswith(kind)
    if kind == "ValueError":
        assert result.error == "at the bottom"
        assert len(result.traceback) > 45_000
        try:
            function(3)
        except ValueError:
            assert len(traceback.format_exc()) > 100_000


def leaves_by(way: str, n: int) -> int:
    if n == 3:
        if way == "sys.exit":
            sys.exit(3)
        raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[way](3)
    return n * n


async def leaves_async_by(way: str, n: int) -> int:
    return leaves_by(way, n)


LEAVING = {"sys.exit": SystemExit, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}


@case(way=tuple(LEAVING), coroutine=(False, True))
def test_w6_what_would_end_a_program_ends_one_call(way: str, coroutine: bool) -> None:
    """SystemExit and KeyboardInterrupt are the failure of the process that raised them; the worker is kept."""
    function: Any = leaves_async_by if coroutine else leaves_by
    result = ten(partial(function, way), type="process", fails_with=ProcessError)
    assert type(result.exception.__cause__) is LEAVING[way]
    assert result.exception.__cause__.args == (3,)
    assert LEAVING[way].__name__ in result.error
    assert "in leaves_by" in result.traceback


@case(way=tuple(LEAVING))
def test_w6_it_is_never_raised_in_the_callers_program(way: str) -> None:
    """`run` raises what it raises for any failure, and the next run uses the same worker."""
    here = process(os.getpid, id="here", type="process")
    worker = pmflow.run(here).value
    with raises(WorkflowError, "'leaves'", LEAVING[way].__name__) as caught:
        pmflow.run(process(partial(leaves_by, way, 3), id="leaves", type="process"))
    (error,) = caught.error.exceptions
    assert type(error.__cause__) is LEAVING[way]
    with raises(ProcessError, "'leaves'"):
        caught.error.run["leaves"].unwrap()
    assert caught.error.run["leaves"].worker == str(worker)
    assert pmflow.run(here).value == worker
