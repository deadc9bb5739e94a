"""What was wrong with the workers once: each case has shown a defect, and shows that it has not come back."""

from __future__ import annotations

import enum
import logging
import os
import random
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from harness import case
from inside import CORES, alive, eventually, note, noted, raises, ten

import pmflow
from pmflow import Graph, PerformanceWarning, ProcessError, ProcessTimeoutError, ShutdownError, process
from pmflow.context import carry
from pmflow.executors import warden, workers

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

MEGABYTE = 1 << 20
PATIENCE = 20.0
SOON = 3.0
WORKERS = min(2, CORES)


def same(n: Any) -> Any:
    return n


def call(function: Callable[..., Any], id: str, **dependencies: str) -> Any:
    """A call in a worker, whose parameters come from what is named."""
    return process(function, id=id, type="process", dependencies=dependencies)


def healthy() -> None:
    """A run of many works, whatever has been before."""
    each = process(same, id="each", type="process", map_over={"n": "numbers"})
    assert pmflow.run(each, inputs={"numbers": range(20)}, timeout=PATIENCE).value == list(range(20))


# Values


def zeros() -> bytearray:
    return bytearray(2 * MEGABYTE)


def first_byte(data: bytearray, after: Any = None) -> int:
    return data[0]


def change(data: bytearray, after: Any = None) -> bytearray:
    data[0] = 7
    return data


@case(maker=("process", "thread", "async"), changer=("thread", "async"))
def test_what_has_been_changed_in_place_is_sent_as_it_is_now(maker: str, changer: str) -> None:
    """A large buffer that a worker has had before, and the program has changed since, is not sent as it was."""
    made = process(zeros, id="made", type=maker)
    before = call(first_byte, "before", data="made")
    changed = process(change, id="changed", type=changer, dependencies={"data": "made", "after": "before"})
    later = call(first_byte, "later", data="changed")
    run = pmflow.run([made, before, changed, later], keep="all", timeout=PATIENCE)
    assert (run["before"].data, run["later"].data) == (0, 7)


def meets_its_partner(number: int, data: bytearray) -> int:
    """Wait until the other worker has a call too."""
    Path(f"call-{number}").touch()
    partner = Path(f"call-{number ^ (WORKERS - 1)}")
    assert eventually(partner.exists, PATIENCE), f"{partner} has not begun"
    return len(data)


@case(size=(8, 40), warm=(True, False), limit=60)
def test_large_arguments_do_not_keep_a_worker_waiting(size: int, warm: bool) -> None:
    """Calls with large arguments, each its own, are under way in both workers at once; whether these are up or not."""
    if warm:
        numbers = {"numbers": list(range(100, 100 + WORKERS)), "data": b""}
        both = process(meets_its_partner, id="both", type="process", map_over={"number": "numbers"})
        assert pmflow.run(both, inputs=numbers).success
    ids = range(2 * WORKERS)
    calls = [call(meets_its_partner, f"p{n}", number=f"number{n}", data=f"data{n}") for n in ids]
    inputs: dict[str, Any] = {f"number{n}": n for n in ids}
    inputs |= {f"data{n}": bytearray(size * MEGABYTE) for n in ids}
    run = pmflow.run(Graph(calls), inputs=inputs, max_processes=WORKERS)
    assert [run[f"p{n}"].data for n in ids] == [size * MEGABYTE] * len(ids)
    assert len({result.worker for result in run.values()}) == WORKERS


class Broken(warden.Direct):
    """Cannot start a worker, as long as it is broken."""

    broken = True

    def fork(self, name: str, channel: int, page: int) -> None:
        if self.broken:
            raise OSError("no more processes")
        super().fork(name, channel, page)


def length(data: bytearray) -> int:
    return len(data)


@case()
def test_workers_that_cannot_be_started_fail_every_call() -> None:
    """Those too whose large arguments have not been encoded by then; and once they can be, all is well."""
    workers.keeper = lambda size, lost=(): Broken(size)  # type: ignore[misc, assignment]
    calls = [call(length, f"p{n}", data=f"data{n}") for n in range(8)]
    inputs = {f"data{n}": bytearray(20 * MEGABYTE) for n in range(8)}
    run = pmflow.run(Graph(calls), inputs=inputs, on_error="return")
    assert [result.error_type for result in run.values()] == ["WorkerCrashedError"] * 8
    for n in range(8):
        assert run[f"p{n}"].error.startswith(f"'p{n}' was not started: 3 workers in a row ended at once")
    Broken.broken = False
    run = pmflow.run(Graph(calls), inputs=inputs, timeout=PATIENCE)
    assert [run[f"p{n}"].data for n in range(8)] == [20 * MEGABYTE] * 8


# Who is charged


def wrapped(n: int) -> list[int]:
    if n >= 300:
        time.sleep(0.05)  # unexpectedly: what waits behind it is called back
    return [n]


def unwrapped(x: list[Any]) -> Any:
    return x[0]


@case()
def test_no_link_is_charged_for_a_death_although_none_has_died() -> None:
    """A chain that hands its values on is called back as a whole, or runs as a whole."""
    count = 340
    links = [call(wrapped, f"a{n}", n=f"n{n}") for n in range(count)]
    links += [call(unwrapped, f"b{n}", x=f"a{n}") for n in range(count)]
    inputs = {f"n{n}": n for n in range(count)}
    targets = [f"b{n}" for n in range(count)]
    for _ in range(3):
        run = pmflow.run(Graph(links), inputs=inputs, targets=targets, keep="targets", on_error="return")
        assert {str(key): result.error for key, result in run.items() if not result.success} == {}
        assert run.data == {f"b{n}": n for n in range(count)}


def takes(seconds: float) -> list[float]:
    time.sleep(seconds)
    return [seconds]


@case(limit=60)
def test_s7_a_timeout_as_a_call_ends_costs_nobody_a_crash() -> None:
    """In a chain that hands on, the call is either in time, and so is its follower, or late, and that never began."""
    timeout, size = 0.03, 6
    delays = random.Random(0)  # noqa: S311 - no secret
    links: list[Any] = []
    for n in range(size):
        first = process(takes, id=f"a{n}", type="process", timeout=timeout, dependencies={"seconds": f"seconds{n}"})
        links += [first, call(unwrapped, f"b{n}", x=f"a{n}")]
    targets = [f"b{n}" for n in range(size)]
    ends: set[tuple[Any, ...]] = set()
    for _ in range(40):
        inputs = {f"seconds{n}": timeout - delays.uniform(-0.0002, 0.0012) for n in range(size)}
        run = pmflow.run(Graph(links), inputs=inputs, targets=targets, keep="targets", on_error="return")
        for n in range(size):
            a, b = run[f"a{n}"], run[f"b{n}"]
            ends.add((a.state.name, a.error_type, b.state.name, b.error_type))
            assert not b.success or b.data == inputs[f"seconds{n}"]
    late = ("FAILED", ProcessTimeoutError.__name__, "SKIPPED", None)
    assert ends <= {("COMPLETED", None, "COMPLETED", None), late}


def writes_where_it_should_not(n: int) -> int:
    if n == 60:
        for descriptor in range(3, 30):
            try:
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    os.write(descriptor, b"garbage garbage garbage garbage")
            except OSError:
                pass
    if n > 60:
        time.sleep(0.003)  # unexpectedly
    return n


@case()
def test_who_writes_to_the_channel_is_charged_and_nobody_else() -> None:
    """Whatever waits behind it in the worker runs elsewhere."""
    count = 120
    calls = [call(writes_where_it_should_not, f"p{n}", n=f"n{n}") for n in range(count)]
    for _ in range(3):
        run = pmflow.run(Graph(calls), inputs={f"n{n}": n for n in range(count)}, on_error="return")
        failed = {str(key): result.error_type for key, result in run.items() if not result.success}
        assert failed == {"p60": "WorkerCrashedError"}
        assert "no reply" in run["p60"].error
        assert [run[f"p{n}"].data for n in range(count) if n != 60] == [n for n in range(count) if n != 60]


# What cannot be sent


@case()
def test_a_warning_that_is_an_error_is_the_failure_of_its_call() -> None:
    """Not of the run, which does not hang."""
    table = bytearray(3 * MEGABYTE)
    large = process(lambda: len(table), id="large", type="process")
    small = process(lambda: 1, id="small", type="process")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = pmflow.run([large, small], on_error="return")
    assert type(run["large"].exception) is PerformanceWarning
    assert "'table' (3.1 MB)" in run["large"].error
    assert run["small"].data == 1
    healthy()


VARIABLE: ContextVar[Any] = ContextVar("VARIABLE", default=None)


def variable() -> Any:
    return VARIABLE.get()


@case()
def test_a_carried_variable_that_cannot_be_pickled_is_the_failure_of_the_call() -> None:
    """Of each that would have to have it: none runs without."""
    carry(VARIABLE)
    calls = [process(variable, id=f"p{n}", type="process") for n in range(3)]
    VARIABLE.set(threading.Lock())
    run = pmflow.run(calls, on_error="return")
    found = {each.id: run[each.id].error or f"has run, with {run[each.id].data}" for each in calls}
    assert all("cannot pickle '_thread.lock' object" in str(error) for error in found.values()), found
    VARIABLE.set("well")
    assert pmflow.run(calls, timeout=PATIENCE).data == dict.fromkeys(["p0", "p1", "p2"], "well")


@case()
def test_a_path_object_in_the_search_path() -> None:
    """A run begins, though `sys.path` holds what Python itself leaves out."""
    sys.path.append(Path("/nowhere"))  # type: ignore[arg-type]
    paths = process(lambda: sys.path, id="paths", type="process")
    found = pmflow.run(paths, timeout=PATIENCE).value
    assert [path for path in found if path != "/nowhere"] == [path or os.getcwd() for path in sys.path[:-1]]


class Level(enum.IntEnum):
    """Levels of a user's own."""

    NOTICE = 25


@case()
def test_a_log_level_that_is_of_a_class_of_its_own() -> None:
    """It is a number in the worker."""
    logging.getLogger("some.where").setLevel(Level.NOTICE)
    logging.getLogger().setLevel(Level.NOTICE)
    levels = process(
        lambda: [logging.getLogger(name).getEffectiveLevel() for name in ("", "some", "some.where")],
        id="levels",
        type="process",
    )
    assert pmflow.run(levels, timeout=PATIENCE).value == [25, 25, 25]


# Code of the user's, in the program

GUARD = threading.Lock()
ASKED = threading.Event()


class Guarded:
    """Cannot be pickled as long as somebody holds the lock."""

    def __getstate__(self) -> dict[str, Any]:
        ASKED.set()
        with GUARD:
            return {}


def with_guarded(n: int, guarded: Guarded) -> int:
    return n


@case()
def test_who_holds_what_pickling_waits_for_can_run_a_graph() -> None:
    """While the argument of another run waits for that lock: the pool is nobody's alone."""
    ready = threading.Event()

    def holds() -> None:
        with GUARD:
            ready.set()
            assert ASKED.wait(PATIENCE)
            healthy()
            ended.append(True)

    ended: list[bool] = []
    healthy()
    thread = threading.Thread(target=holds)
    thread.start()
    assert ready.wait(PATIENCE)
    run = pmflow.run(call(with_guarded, "it", n="n", guarded="guarded"), inputs={"n": 3, "guarded": Guarded()})
    assert (run.value, ended) == (3, [True])
    thread.join(PATIENCE)


def late(n: int) -> int:
    if n >= 300:
        time.sleep(0.02)  # unexpectedly: what waits behind it is called back
    return n


@case()
def test_who_holds_what_pickling_waits_for_can_run_a_graph_while_calls_are_called_back() -> None:
    """To send a call again takes no code of the user's."""
    count = 400
    links = [call(late, f"a{n}", n=f"n{n}") for n in range(count)]
    links += [call(with_guarded, f"b{n}", n=f"a{n}", guarded="guarded") for n in range(count)]
    inputs: dict[str, Any] = {f"n{n}": n for n in range(count)}
    other = call(same, "other", n="n")
    stop = threading.Event()
    found: list[int] = []

    def runs() -> None:
        while not stop.wait(0.001):  # a lock is not fair: who takes it again at once leaves it to nobody
            with GUARD:
                found.append(pmflow.run(other, inputs={"n": 1}, timeout=PATIENCE).value)

    thread = threading.Thread(target=runs)
    thread.start()
    try:
        for _ in range(3):
            run = pmflow.run(Graph(links), inputs={**inputs, "guarded": Guarded()}, keep="all", timeout=PATIENCE)
            assert [run[f"b{n}"].data for n in range(count)] == list(range(count))
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert found == [1] * len(found)


INSIDE, RELEASE = threading.Event(), threading.Event()


def opened_slowly() -> str:
    INSIDE.set()
    return "opened" if RELEASE.wait(PATIENCE) else "nobody came"


class Slow:
    """Is opened only when it is said to be."""

    def __reduce__(self) -> Any:
        return opened_slowly, ()


def slow(n: int) -> Slow:
    return Slow()


def ladder(rungs: int) -> Graph:
    """Two chains, of which each waits for the other at each step: no two calls are sent at once."""
    links = []
    for n in range(rungs):
        for side, other in ("pq", "qp"):
            source = f"{side}{n - 1}" if n else "n"
            after = [f"{other}{n - 1}"] if n else []
            each = process(same, id=f"{side}{n}", type="process", dependencies={"n": source}, after=after)
            links.append(each)
    return Graph(links)


@case()
def test_a_run_beside_one_that_is_busy_is_not_slowed() -> None:
    """A run whose thread is in code of the user's listens to no worker; somebody else does, and without delay."""
    graph = ladder(100)
    assert pmflow.run(graph, inputs={"n": 1}).data == {"p99": 1, "q99": 1}  # warm
    values: list[Any] = []
    steps = [call(same, "first", n="n"), call(slow, "slow", n="first")]
    busy = threading.Thread(target=lambda: values.append(pmflow.run(steps, targets="slow", inputs={"n": 1}).value))
    busy.start()
    try:
        assert INSIDE.wait(PATIENCE)
        run = pmflow.run(graph, inputs={"n": 2}, timeout=PATIENCE)
        assert run.data == {"p99": 2, "q99": 2}
        assert values == []
        assert run.execution_time < 1.0
    finally:
        RELEASE.set()
        busy.join(PATIENCE)
    assert values == ["opened"]


class Deaf(logging.Filter):
    """Raises at each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise ValueError("a bad filter")


def logs(n: int) -> int:
    logging.getLogger("deaf").warning("call %d", n)
    return n


@case(stderr=r"(call \d\n){3}")
def test_a_logging_filter_that_raises_does_not_end_the_run() -> None:
    """The record is printed as the last resort, and the call has its value."""
    logging.getLogger("deaf").addFilter(Deaf())
    each = process(logs, id="each", type="process", map_over={"n": "numbers"})
    assert pmflow.run(each, inputs={"numbers": range(3)}, timeout=PATIENCE).value == [0, 1, 2]
    healthy()


# Children and threads

SLEEP = ["sleep", "47"]
LEFT: list[subprocess.Popen[bytes]] = []
"""Children that nobody waits for: without a reference, `subprocess` would complain."""


def leaves_a_child(n: int) -> int:
    if n == 200:
        LEFT.append(subprocess.Popen(SLEEP))
        note("children", LEFT[-1].pid)
        time.sleep(0.1)  # unexpectedly: what waits behind it is called back
    return n


@case()
def test_a_child_of_the_last_call_ends_with_the_run() -> None:
    """Though what was to come after that call has been called back."""
    calls = [call(leaves_a_child, f"p{n}", n=f"n{n}") for n in range(205)]
    for turn in range(6):
        run = pmflow.run(Graph(calls), inputs={f"n{n}": n for n in range(205)}, timeout=PATIENCE)
        assert run.success
        children = [int(pid) for pid in noted("children")]
        assert len(children) == turn + 1
        assert eventually(lambda children=children: not any(map(alive, children)), SOON)


@case(before=(False, True))
def test_a_thread_that_cannot_be_started_is_one_clear_error(before: bool) -> None:
    """The run says so, whether it has begun or not, and the next one works."""
    start = threading.Thread.start

    def fails_once(self: threading.Thread) -> None:
        if self.name == "pmflow-workers":
            threading.Thread.start = start  # type: ignore[method-assign]
            raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = fails_once  # type: ignore[method-assign, assignment]

    @process
    async def one() -> int:
        return 1

    needs_one = process(lambda one: one + 1, id="two", type="process")
    alone = process(lambda: 2, id="two", type="process")
    graph = [one, needs_one] if before else [alone]
    with raises(ShutdownError, "no thread could be started to look after workers: can't start new thread") as caught:
        pmflow.run(graph, timeout=PATIENCE)
    assert type(caught.error) is ShutdownError
    assert "\n" not in str(caught.error)
    assert threading.Thread.start is start
    assert pmflow.run(graph, timeout=PATIENCE)["two"].data == 2
    healthy()


# Exceptions that are not as they should be


class Text(str):
    """A text of a class of its own."""

    __slots__ = ()


class OddTextError(Exception):
    """Has a text of another class than `str`."""

    def __str__(self) -> str:
        return Text("odd text")


class PlainError(Exception):
    """Is odd by what it holds."""


class TextlessError(Exception):
    """Raises when it is asked for its text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class CauselessError(Exception):
    """Raises when it is asked for its cause."""

    @property
    def __cause__(self) -> Any:
        raise ValueError("no cause")


def odd_text(n: int) -> int:
    if n == 3:
        raise OddTextError
    return n * n


def odd_notes(n: int) -> int:
    if n == 3:
        error = PlainError("plain")
        error.__notes__ = 5  # type: ignore[assignment]
        raise error
    return n * n


def odd_note(n: int) -> int:
    if n == 3:
        error = PlainError("plain")
        error.__notes__ = [5, Text("odd"), None]  # type: ignore[list-item]
        raise error
    return n * n


def textless_note(n: int) -> int:
    if n == 3:
        error = PlainError("plain")
        error.__notes__ = [TextlessError()]  # type: ignore[list-item]
        raise error
    return n * n


def no_text(n: int) -> int:
    if n == 3:
        raise TextlessError
    return n * n


def no_cause(n: int) -> int:
    if n == 3:
        raise CauselessError("causeless")
    return n * n


def a_group(n: int) -> int:
    if n == 3:
        raise ExceptionGroup("group", [OddTextError(), TextlessError()])
    return n * n


def long_text(n: int) -> int:
    if n == 3:
        raise PlainError("x" * 50_000_000)
    return n * n


ODD: dict[str, tuple[Any, type[BaseException] | None, str]] = {
    "text": (odd_text, OddTextError, "odd text"),
    "notes": (odd_notes, PlainError, "plain"),
    "note": (odd_note, PlainError, "plain"),
    "textless note": (textless_note, None, ""),
    "no text": (no_text, ProcessError, "TextlessError"),
    "no cause": (no_cause, ProcessError, "CauselessError"),
    "group": (a_group, ExceptionGroup, "group (2 sub-exceptions)"),
    "50 MB": (long_text, ProcessError, "PlainError: xxxx"),
}


@case(how=tuple(ODD))
def test_an_odd_exception_costs_its_own_call_only(how: str) -> None:
    """Whatever it does when it is looked at: no worker is lost to it, and its text is bounded."""
    function, kind, words = ODD[how]
    result = ten(function, type="process", fails_with=kind, extra=2.0)
    assert not result.success
    assert words in result.error
    assert len(result.error) < 51_000
    assert len(result.traceback) < 51_000
