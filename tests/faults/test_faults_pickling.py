"""W9 to W13: arguments, results and exceptions that cannot travel, or do harm where they arrive."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import case
from inside import eventually, note, noted, raises, ten

import pmflow
from pmflow import (
    ProcessState,
    RetryStrategy,
    TransferError,
    WorkerCrashedError,
    WorkflowError,
    process,
)


def square(n: int) -> int:
    return n * n


def short(type_name: str | None) -> str | None:
    """The name of a type without its module."""
    return type_name and type_name.rpartition(".")[2]


# Arguments that cannot be sent


def open_file(mode: str) -> Any:
    return open("file", mode, encoding=None if "b" in mode else "utf-8")


ARGUMENTS: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "generator": lambda: (n for n in range(3)),
    "file that is written": lambda: open_file("w"),
    "file that is read": lambda: (note("file", "a line"), open_file("r"))[1],
    "binary file": lambda: (note("file", "a line"), open_file("rb"))[1],
}


@case(what=tuple(ARGUMENTS))
def test_w9_an_argument_that_cannot_be_pickled_is_refused(what: str) -> None:
    """Before it is sent, with the names of process, parameter and type; a copy of an open file is no open file."""
    argument = ARGUMENTS[what]()
    result = ten(square, type="process", instead=argument, fails_with=TransferError)
    error = result.exception
    assert (error.process_id, error.parameter, short(error.type_name)) == ("call_3", "n", type(argument).__name__)
    for word in ("'call_3'", "'n'", error.type_name):
        assert word in str(error)
    assert (result.worker, result.attempts) == (None, 1)
    if hasattr(argument, "close"):
        argument.close()


def takes(first: int, *, options: Any = None) -> None:
    note("ran", first)


@case()
def test_w9_the_parameter_is_named_however_it_is_passed() -> None:
    """By keyword, and deep within what is passed: `run` raises it like any failure, and the function is not called."""
    taking = process(takes, type="process")
    for options, kind in ((threading.Lock(), "lock"), ({"a": [threading.Lock()]}, "dict")):
        with raises(WorkflowError, "'takes'", "'options'", "lock") as caught:
            pmflow.run(taking, inputs={"first": 1, "options": options})
        (error,) = caught.error.exceptions
        assert type(error) is TransferError
        assert (error.process_id, error.parameter) == ("takes", "options")
        assert short(error.type_name) in (kind, "lock")
    assert not noted("ran")
    assert pmflow.run(taking, inputs={"first": 1, "options": 2}).success


# Results that cannot be sent


class Refusing:
    """Raises what would end a program, to whoever pickles it."""

    def __reduce__(self) -> Any:
        raise SystemExit("not me")


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


RESULTS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "lock": (threading.Lock, ("lock",)),
    "lock within": (lambda: {"a": [threading.Lock()]}, ("dict", "lock")),
    "refusing": (Refusing, ("Refusing",)),
    "nested": (lambda: nested(50_000), ("list",)),
}


def returns(what: str, n: int) -> Any:
    return n * n if n != 3 else RESULTS[what][0]()


@case(what=tuple(RESULTS))
def test_w10_a_result_that_cannot_be_pickled_fails_its_process(what: str) -> None:
    """The failure names process and type; the worker is kept."""
    error = ten(partial(returns, what), type="process", fails_with=TransferError).exception
    assert error.process_id == "call_3"
    assert short(error.type_name) in RESULTS[what][1]
    for word in ("'call_3'", error.type_name):
        assert word in str(error)


# Exceptions


class Locked(Exception):
    """Cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class TwoArguments(Exception):
    """Can be pickled, and not be unpickled."""

    def __init__(self, what: str, page: int) -> None:
        super().__init__(f"{what} {page}")


class KeywordOnly(Exception):
    """The same."""

    def __init__(self, *, page: int) -> None:
        super().__init__(f"no page {page}")


class Elsewhere(Exception):
    """Can be unpickled anywhere but in the program that has this pid."""

    def __init__(self, program: int) -> None:
        if os.getpid() == program:
            raise RuntimeError("not in the program")
        super().__init__(program)

    def __str__(self) -> str:
        return "no page 3"


def made(kind: str, program: int) -> Exception:
    class Local(Exception):
        """Its class is nowhere to be found by name."""

    return {
        "Locked": lambda: Locked("no page 3"),
        "TwoArguments": lambda: TwoArguments("no page", 3),
        "KeywordOnly": lambda: KeywordOnly(page=3),
        "Elsewhere": lambda: Elsewhere(program),
        "Local": lambda: Local("no page 3"),
    }[kind]()


def fails(kind: str, program: int, n: int) -> int:
    if n == 3:
        try:
            {}["the cause"]
        except KeyError as cause:
            error = made(kind, program)
            error.__notes__ = ["see page 7"]  # type: ignore[attr-defined,unused-ignore]  # `add_note` is newer
            raise error from cause
    return n * n


@case(kind=("Locked", "TwoArguments", "KeywordOnly", "Elsewhere", "Local"))
def test_w11_an_exception_that_cannot_travel_is_told_of(kind: str) -> None:
    """Type name, message, traceback, notes and cause survive, and so does the worker."""
    result = ten(partial(fails, kind, os.getpid()), type="process", fails_with=None)
    error = result.exception
    assert isinstance(error, Exception)
    assert kind in (result.error_type, short(getattr(error, "type_name", None)))
    assert "no page 3" in result.error
    assert "see page 7" in error.__notes__
    for words in ("in fails", f"{kind}: no page 3", "KeyError: 'the cause'"):
        assert words in result.traceback


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def fails_mutely(n: int) -> int:
    if n == 3:
        raise Mute
    return n * n


@case()
def test_w11_an_exception_whose_text_cannot_be_made_is_told_of() -> None:
    """Its type name and traceback survive, and so does the worker."""
    result = ten(fails_mutely, type="process", fails_with=None)
    assert "Mute" in (result.error_type, short(getattr(result.exception, "type_name", None)))
    assert "in fails_mutely" in result.traceback


# What cannot be unpickled where it arrives


class Sealed:
    """Can be opened anywhere but in the program that has this pid; tells of it when somebody tries."""

    def __init__(self, program: int, kind: str, n: int) -> None:
        self.program, self.kind, self.n = program, kind, n

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() == state["program"]:
            note("opened", state["n"])
            raise {"RuntimeError": RuntimeError, "SystemExit": SystemExit}[state["kind"]]("sealed")
        self.__dict__.update(state)


def seals(program: int, kind: str, n: int) -> Any:
    return n * n if n != 3 else Sealed(program, kind, n)


@case(kind=("RuntimeError", "SystemExit"))
def test_w12_a_result_that_cannot_be_unpickled_fails_its_process(kind: str) -> None:
    """Where the program needs it, as a target, it is the failure of the process that made it, and of no other."""
    result = ten(partial(seals, os.getpid(), kind), type="process", fails_with=TransferError)
    assert result.exception.process_id == "call_3"
    for word in ("'call_3'", kind, "sealed"):
        assert word in str(result.exception)


@case(strategy=("async", "thread"), kind=("RuntimeError", "SystemExit"))
def test_w12_the_program_is_a_consumer_too(strategy: str, kind: str) -> None:
    """Where a thread or the loop needs it, the process that made it has failed, and its consumer is skipped."""
    make = process(partial(seals, os.getpid(), kind, 3), id="make", type="process")
    take = process(lambda make: note("taken", make), id="take", type=strategy)
    beside = process(lambda: 1, id="beside", type="process")
    run = pmflow.run([make, take, beside], targets=["take", "beside"], on_error="return")
    states = {name: run[name].state for name in ("make", "take", "beside")}
    assert states == {
        "make": ProcessState.FAILED,
        "take": ProcessState.SKIPPED,
        "beside": ProcessState.COMPLETED,
    }
    assert type(run["make"].exception) is TransferError
    assert run["make"].exception.process_id == "make"
    assert "'make'" in str(run["make"].exception)
    assert not noted("taken")


@case(keep=("all", "targets"))
def test_w12_a_result_for_workers_only_is_never_opened_in_the_program(keep: str) -> None:
    """Two workers at once, of which one at least has not made it, receive what the program cannot open."""

    def meets(mine: str, other: str, make: Any) -> tuple[int, int]:
        note(mine, os.getpid())
        assert eventually(lambda: noted(other), 10)
        return make.n, os.getpid()

    make = process(partial(seals, os.getpid(), "RuntimeError", 3), id="make", type="process")
    first = process(lambda make: meets("one", "two", make), id="first", type="process")
    second = process(lambda make: meets("two", "one", make), id="second", type="process")
    run = pmflow.run([make, first, second], targets=["first", "second"], keep=keep, max_processes=2)
    (n, worker), (m, other) = run.data["first"], run.data["second"]
    assert (n, m) == (3, 3)
    assert worker != other
    assert run["make"].success
    assert not noted("opened")


class Deadly:
    """Ends whoever unpickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return arrive, (self.how,)


def arrive(how: str) -> None:
    note("arrivals", os.getpid())
    if how == "exits":
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)


ENDS = {"exits": (9, None), "is killed": (None, "SIGKILL")}


@case(how=tuple(ENDS))
def test_w13_an_argument_that_kills_its_worker_is_one_failure(how: str) -> None:
    """It is charged to the call that it was for, and not sent again: `retries` cover no crash."""
    retries = RetryStrategy(3, delay_seconds=0.01)
    result = ten(
        square, type="process", instead=Deadly(how), fails_with=WorkerCrashedError, lost_workers=1, retries=retries
    )
    error = result.exception
    assert (error.process_id, error.exit_code, error.signal) == ("call_3", *ENDS[how])
    assert [result.worker] == noted("arrivals")
    assert (result.attempts, error.attempt) == (1, 1)


@case()
def test_w13_it_is_sent_again_as_often_as_is_asked_for() -> None:
    """`crash_retries` cover it, each in a worker of its own."""
    result = ten(
        square, type="process", instead=Deadly("exits"), fails_with=WorkerCrashedError, lost_workers=3, crash_retries=2
    )
    assert (result.attempts, result.exception.attempt) == (3, 3)
    assert len(set(noted("arrivals"))) == len(noted("arrivals")) == 3
