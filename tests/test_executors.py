"""The executor contract: one suite, run over every adapter. A new adapter adds one line to `ADAPTERS`."""

import asyncio
import contextlib
import contextvars
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest

from pmflow.engine.loops import Loop, current_loop
from pmflow.executors.base import BEGAN, Call, Errand, Sealed, Session, Stopped
from pmflow.executors.inline import Inline, Tasks
from pmflow.executors.threads import ThreadPool
from pmflow.executors.workers import WorkerPool
from pmflow.outcomes import Failure, Success, opened as value_of

LIMIT = 10.0
"""Seconds after which an outcome counts as missing."""


class Adapter(NamedTuple):
    """One executor.

    Attributes:
        make: makes it, of a size, for a loop; the loop is only needed by those that live on it.
        strategy: what kind of function it runs.
        pooled: it has slots and a queue; what it does not run yet waits by priority.
    """

    make: Callable[[Loop, int], Any]
    strategy: str
    pooled: bool


ADAPTERS = {
    "Tasks": Adapter(lambda loop, size: Tasks(loop), "coroutine", pooled=False),
    "Inline": Adapter(lambda loop, size: Inline(loop), "inline", pooled=False),
    "ThreadPool": Adapter(lambda loop, size: ThreadPool(size), "thread", pooled=True),
    "WorkerPool": Adapter(lambda loop, size: WorkerPool(size), "process", pooled=True),
}
POOLS = [name for name, adapter in ADAPTERS.items() if adapter.pooled]

every_adapter = pytest.mark.parametrize("name", ADAPTERS)
every_pool = pytest.mark.parametrize("name", POOLS)


class Port:
    """A run, as an executor sees it: it remembers what it was told."""

    def __init__(self, loop: Loop) -> None:
        self.told: list[tuple[Call, Any]] = []
        self.begun: list[tuple[Any, bool]] = []
        self._loop = loop

    def deliver(self, call: Call, outcome: Any) -> None:
        """Take an outcome."""
        if isinstance(outcome, Errand):
            outcome.run()
            return
        if isinstance(outcome, Sealed):
            outcome = outcome.open()
        if isinstance(outcome, Success):
            outcome.value = value_of(outcome.value)
        if outcome is BEGAN:
            self.begun.append((call.key, call.started > 0))
        self.told.append((call, outcome))
        self._loop.wake_threadsafe()

    def outcomes(self, *calls: Call) -> list[Any]:
        """Return what was delivered for these calls, in order; without calls for all."""
        return [outcome for call, outcome in self.told if not calls or call in calls]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that deliveries bring about has come true."""
        deadline = self._loop.now() + LIMIT
        while not condition():
            assert self._loop.now() < deadline, self.told
            await self._loop.wait(deadline)

    async def outcome(self, call: Call) -> Any:
        """Return the one outcome of a call."""
        await self.until(lambda: self.outcomes(call))
        (outcome,) = self.outcomes(call)
        return outcome

    async def values(self, calls: list[Call]) -> list[Any]:
        """Return the values of calls that all succeed, and check that each was delivered once."""
        await self.until(lambda: len(self.told) >= len(calls))
        assert Counter(call.key for call, _ in self.told) == Counter(call.key for call in calls)
        found = {call.key: outcome for call, outcome in self.told}
        assert {type(outcome) for outcome in found.values()} <= {Success}, found
        return [found[call.key].value for call in calls]


_warm: list[WorkerPool] = []


@contextlib.asynccontextmanager
async def executor_of(name: str, loop: Loop, size: int = 2) -> AsyncIterator[Any]:
    """Make an executor. Of worker pools one stays warm for all the tests, until one fails with it."""
    if name != "WorkerPool" or size != 2:
        executor = ADAPTERS[name].make(loop, size)
        yield executor
        if isinstance(executor, WorkerPool):
            executor.close()
        return
    executor = _warm.pop() if _warm else WorkerPool(size)
    yield executor
    _warm.append(executor)


@contextlib.asynccontextmanager
async def opened(name: str, slots: int | None = None) -> AsyncIterator[tuple[Port, Session]]:
    """Open a session of an executor of size 2, or of so many slots."""
    async with current_loop() as loop, executor_of(name, loop) as executor:
        port = Port(loop)
        session = executor.open(port, slots)
        yield port, session
        session.close()


def call(function: Callable[..., Any], *args: Any, key: Any = "call", **settings: Any) -> Call:
    """Return a call; `label` is its key."""
    return Call(key, str(key), function, args, **settings)


def chain(*links: Call) -> Call:
    """Make a chain of calls."""
    for link, then in pairwise(links):
        link.then = then
    return links[0]


# What the calls do. Workers import this module, so all of it goes by reference.


def square(n: int) -> int:
    """Return the square."""
    return n * n


def minus(a: int, b: int) -> int:
    """Return the difference."""
    return a - b


def touch(folder: Path, name: str, value: Any = None) -> Any:
    """Leave a trace."""
    (folder / name).touch()
    return value


def names(folder: Path) -> set[str]:
    """Return the traces that were left."""
    return {path.name for path in folder.iterdir()}


def broken(text: str = "broken") -> None:
    """Raise."""
    raise ValueError(text)


def raises(kind: type[BaseException]) -> None:
    """Raise something."""
    raise kind


def hold(folder: Path, name: str = "held") -> str:
    """Say that it runs, and end when somebody releases it."""
    (folder / name).write_text(str(os.getpid()))
    deadline = time.monotonic() + LIMIT
    while not (folder / "release").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    (folder / f"{name} ended").touch()
    return name


async def hold_async(folder: Path, name: str = "held") -> str:
    """The same on a loop; it tells when it is cancelled."""
    (folder / name).touch()
    try:
        while not (folder / "release").exists():  # noqa: ASYNC110 - the same for all adapters
            await anyio.sleep(0.002)
    except BaseException:
        (folder / "cancelled").touch()
        raise
    return name


def hold_later(folder: Path, name: str = "held") -> Awaitable[str]:
    """A plain function that returns something to await."""
    return hold_async(folder, name)


def holding(name: str) -> Any:
    """Return the function that holds a slot of this adapter."""
    return {"coroutine": hold_async, "inline": hold_later}.get(ADAPTERS[name].strategy, hold)


async def there(path: Path) -> None:
    """Wait for a file: the event that every adapter can give."""
    with anyio.fail_after(LIMIT):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await anyio.sleep(0.002)


# One call


@every_adapter
async def test_a_call_ends_in_one_success(name: str) -> None:
    """One call, one outcome: its value, and when it began and ended."""
    async with opened(name) as (port, session):
        before = time.perf_counter()
        one = call(minus, 5, kwargs={"b": 3})
        session.submit([one])
        outcome = await port.outcome(one)
        assert (type(outcome), outcome.value) == (Success, 2)
        assert before <= outcome.started <= outcome.ended <= time.perf_counter()
        assert before <= one.started <= outcome.ended


@every_adapter
async def test_a_session_says_how_much_it_wants(name: str) -> None:
    """The run asks how many calls to submit, and whether one may wait before it begins."""
    async with opened(name) as (_, session):
        assert session.window >= 1
        assert isinstance(session.queues, bool)
        session.submit([])


@every_adapter
@pytest.mark.parametrize(
    "kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError]
)
async def test_whatever_a_function_raises_is_its_failure(name: str, kind: type[BaseException]) -> None:
    """A function's exception is its outcome, whatever its type; the executor goes on."""
    async with opened(name) as (port, session):
        bad, good = call(raises, kind, key="bad"), call(square, 3, key="good")
        session.submit([bad, good])
        failure = await port.outcome(bad)
        assert (type(failure), type(failure.exception)) == (Failure, kind)
        assert failure.started <= failure.ended
        assert (await port.outcome(good)).value == 9


@every_adapter
async def test_a_traceback_begins_with_the_users_function(name: str) -> None:
    """The frames of the executor are left out of it."""
    async with opened(name) as (port, session):
        bad = call(broken)
        session.submit([bad])
        failure = await port.outcome(bad)
        if failure.traceback is None:
            assert failure.exception.__traceback__.tb_frame.f_code is broken.__code__
        else:
            assert "in broken" in failure.traceback
            assert "pmflow" + os.sep + "executors" not in failure.traceback


async def later(n: int) -> int:
    """A coroutine function."""
    await anyio.lowlevel.checkpoint()
    return n


async def later_and_later(n: int) -> Any:
    """A coroutine that returns one."""
    await anyio.lowlevel.checkpoint()
    return later(n)


def counted(n: int) -> Iterator[int]:
    """A generator function."""
    yield from range(n)


async def counted_async(n: int) -> AsyncIterator[int]:
    """An asynchronous generator function."""
    for i in range(n):
        await anyio.lowlevel.checkpoint()
        yield i


def half(n: int) -> Iterator[int]:
    """A generator that raises on its way."""
    yield n
    raise ValueError(n)


async def half_async(n: int) -> AsyncIterator[int]:
    """The same, asynchronous."""
    yield n
    raise ValueError(n)


def same(value: Any) -> Any:
    """Return what it was given."""
    return value


@every_adapter
@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        (later, 3, 3),
        (later_and_later, 3, 3),
        (partial(later), 3, 3),
        (counted, 3, [0, 1, 2]),
        (counted_async, 3, [0, 1, 2]),
        (partial(map, square), [1, 2], [1, 4]),
        (range, 3, range(3)),
        (Path, "here", Path("here")),
        (list, (1, 2), [1, 2]),
    ],
)
async def test_awaitables_and_iterators_are_finished(name: str, function: Any, argument: Any, value: Any) -> None:
    """What a function returns to be awaited is awaited, an iterator becomes a list, all else stays what it is."""
    async with opened(name) as (port, session):
        links = [call(function, argument, key="one"), call(same, key="two", feed=0)]
        session.submit([chain(*links)])
        assert await port.values(links) == [value, value]


@every_adapter
@pytest.mark.parametrize("function", [half, half_async])
async def test_an_iterator_that_raises_is_a_failure(name: str, function: Any) -> None:
    """What is raised while it is finished is raised by the call."""
    async with opened(name) as (port, session):
        one = call(function, 3)
        session.submit([one])
        failure = await port.outcome(one)
        assert (type(failure), str(failure.exception)) == (Failure, "3")


# Chains


@every_adapter
async def test_a_chain_runs_in_order_and_delivers_every_link(name: str) -> None:
    """The links of a chain run one after another, each fed with the value before, each with an outcome of its own."""
    async with opened(name) as (port, session):
        links = [
            call(square, 3, key="start"),
            call(minus, key="by name", kwargs={"a": 10}, feed="b"),
            call(minus, 5, key="by position", feed=0),
            call(minus, 100, key="second position", feed=1),
            call(square, 7, key="not fed"),
        ]
        session.submit([chain(*links)])
        assert await port.values(links) == [9, 1, -4, 104, 49]
        assert [each.key for each, _ in port.told] == [each.key for each in links]
        outcomes = port.outcomes()
        assert all(first.ended <= second.started for first, second in pairwise(outcomes))


@every_adapter
async def test_a_chain_ends_at_the_first_link_that_fails(name: str, tmp_path: Path) -> None:
    """What follows a failed link is not started, and nothing is delivered for it."""
    async with opened(name) as (port, session):
        one, two, three = call(square, 2, key=1), call(broken, key=2), call(touch, tmp_path, "three", key=3)
        session.submit([chain(one, two, three)])
        last = call(square, 3, key="last")
        await port.outcome(two)
        session.submit([last])
        await port.outcome(last)
        assert [(each.key, type(outcome)) for each, outcome in port.told] == [
            (1, Success),
            (2, Failure),
            ("last", Success),
        ]
        assert names(tmp_path) == set()


@every_adapter
async def test_a_chain_is_submitted_again_from_where_it_failed(name: str, tmp_path: Path) -> None:
    """A retry is a new chain: of the link that failed, and those behind it."""
    async with opened(name) as (port, session):
        first = chain(call(fails_once, tmp_path, key=1), call(minus, 1, key=2, feed=0))
        session.submit([first])
        assert type(await port.outcome(first)) is Failure
        again = [call(fails_once, tmp_path, key=3), call(minus, 1, key=4, feed=0)]
        session.submit([chain(*again)])
        await port.outcome(again[1])
        assert [outcome.value for outcome in port.outcomes(*again)] == [7, 6]


def fails_once(folder: Path) -> int:
    """Fail at first."""
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        raise OSError
    return 7


@every_adapter
async def test_a_long_chain_needs_no_recursion(name: str) -> None:
    """A chain may be longer than Python's stack is deep."""
    async with opened(name) as (port, session):
        length = sys.getrecursionlimit() * 2
        links = [call(minus, key=n, kwargs={"b": -1}, feed="a") for n in range(length)]
        links[0] = call(int, key=0)
        session.submit([chain(*links)])
        assert await port.values(links) == list(range(length))


# Stop


@every_adapter
async def test_a_queued_call_that_is_stopped_never_begins(name: str, tmp_path: Path) -> None:
    """`Stopped(ended=True)` for what has not begun: it does not run, and the calls beside it do."""
    async with opened(name, slots=1) as (port, session):
        held, queued, other = (
            call(holding(name), tmp_path, key=0),
            call(touch, tmp_path, "queued", key=1),
            call(square, 2),
        )
        if ADAPTERS[name].pooled:
            session.submit([held])
            await there(tmp_path / "held")
        session.submit([queued, other])
        if queued.started:
            pytest.skip("an eager task of asyncio begins at once")
        session.stop(queued)
        outcome = await port.outcome(queued)
        assert (type(outcome), outcome.ended) == (Stopped, True)
        touch(tmp_path, "release")
        await port.outcome(other)
        assert not (tmp_path / "queued").exists()
        assert port.outcomes(queued) == [outcome]


@every_adapter
async def test_a_running_call_that_is_stopped(name: str, tmp_path: Path) -> None:
    """A running call is ended where that is possible, and `Stopped` says whether; what follows it never begins."""
    async with opened(name, slots=1) as (port, session):
        held, then = call(holding(name), tmp_path, key="held"), call(touch, tmp_path, "then", key="then")
        session.submit([chain(held, then)])
        await there(tmp_path / "held")
        session.stop(held)
        outcome = await port.outcome(held)
        assert type(outcome) is Stopped
        assert outcome.ended is (name != "ThreadPool")
        if name == "WorkerPool":
            assert not alive(int((tmp_path / "held").read_text()))
        elif name != "ThreadPool":
            assert (tmp_path / "cancelled").exists()
        other = call(square, 3, key="other")  # the slot is free at once
        session.submit([other])
        assert (await port.outcome(other)).value == 9
        touch(tmp_path, "release")
        if name == "ThreadPool":
            await there(tmp_path / "held ended")
            await anyio.sleep(0.05)  # what its thread does then announces itself by nothing
        assert port.outcomes(then) == []
        assert not (tmp_path / "then").exists()


def alive(pid: int) -> bool:
    """Whether a process of the system runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@every_adapter
async def test_a_later_link_that_is_stopped(name: str, tmp_path: Path) -> None:
    """The links before it have ended well, and have said so."""
    async with opened(name) as (port, session):
        one, held = call(square, 2, key="one"), call(holding(name), tmp_path, key="held")
        session.submit([chain(one, held)])
        await there(tmp_path / "held")
        session.stop(held)
        await port.outcome(held)
        assert [(each.key, type(outcome)) for each, outcome in port.told] == [("one", Success), ("held", Stopped)]
        touch(tmp_path, "release")


@every_adapter
async def test_stopping_twice_or_too_late_says_nothing_more(name: str, tmp_path: Path) -> None:
    """A stop is answered once; one that comes after the end is not answered at all."""
    async with opened(name) as (port, session):
        ended, held = call(square, 2, key="ended"), call(holding(name), tmp_path, key="held")
        session.submit([ended, held])
        await there(tmp_path / "held")
        await port.outcome(ended)
        session.stop(ended)
        session.stop(held)
        session.stop(held)
        last = call(square, 3, key="last")
        session.submit([last])
        await port.outcome(last)
        await port.outcome(held)
        await anyio.sleep(0.01)  # a second answer would announce itself by nothing
        assert [type(outcome) for outcome in port.outcomes(ended)] == [Success]
        assert [type(outcome) for outcome in port.outcomes(held)] == [Stopped]
        touch(tmp_path, "release")


@every_adapter
async def test_a_stop_at_the_moment_of_the_end_has_one_outcome(name: str) -> None:
    """Whichever comes first counts: a `Success` or a `Stopped`, and the executor survives a hundred of them."""
    async with opened(name) as (port, session):
        for n in range(100):
            one = call(square, n, key=n)
            session.submit([one])
            if n % 3:
                await anyio.lowlevel.checkpoint()
            session.stop(one)
            await port.until(partial(port.outcomes, one))
        last = call(square, 12, key="last")
        session.submit([last])
        assert (await port.outcome(last)).value == 144
        firsts = {each.key: outcome for each, outcome in reversed(port.told)}
        assert len(firsts) == 101
        assert {type(outcome) for outcome in firsts.values()} <= {Success, Stopped}


# Begin


@every_adapter
async def test_who_asks_is_told_when_a_call_begins(name: str, tmp_path: Path) -> None:
    """`BEGAN` comes for every observed link before its outcome, once its `started` is set; for others never."""
    async with opened(name, slots=1) as (port, session):
        links = [call(square, n, key=n) for n in range(4)]
        links[0].observed = links[2].observed = True
        session.submit([chain(*links)])
        await port.outcome(links[3])
        assert port.begun == [(0, True), (2, True)]
        told = [(each.key, outcome is BEGAN) for each, outcome in port.told]
        assert told == [(0, True), (0, False), (1, False), (2, True), (2, False), (3, False)]


@every_pool
async def test_a_queued_call_has_not_begun(name: str, tmp_path: Path) -> None:
    """While a call waits for a slot nothing is said of it, and its `started` is 0."""
    async with opened(name, slots=1) as (port, session):
        held, queued = call(hold, tmp_path, key="held"), call(square, 2, key="queued")
        held.observed = queued.observed = True
        session.submit([held, queued])
        await there(tmp_path / "held")
        await port.until(lambda: port.outcomes(held))
        assert (port.told, held.started > 0, queued.started) == ([(held, BEGAN)], True, 0.0)
        touch(tmp_path, "release")
        await port.until(lambda: len(port.told) == 4)
        assert [outcome is BEGAN for outcome in port.outcomes(queued)] == [True, False]


# Context

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


def paint(value: str) -> str:
    """Return the color, and set another."""
    before = color.get()
    color.set(value)
    return before


@pytest.mark.parametrize("name", ["Tasks", "Inline", "ThreadPool"])
async def test_calls_see_copies_of_the_context(name: str) -> None:
    """Each call, and each link of a chain, sees the context it was submitted with; what it sets is its own."""
    async with opened(name, slots=1) as (port, session):
        context = contextvars.copy_context()
        context.run(color.set, "blue")
        calls = [call(paint, "red", key=n, context=context) for n in range(4)]
        context.run(session.submit, [chain(*calls[:3]), calls[3]])
        assert await port.values(calls) == ["blue"] * 4
        assert context[color] == "blue"
        assert color.get() == "none"


# Slots and priorities


@every_pool
async def test_at_most_so_many_calls_run_at_once(name: str, tmp_path: Path) -> None:
    """A session uses its slots, all of them, and no more."""
    async with opened(name, slots=2) as (port, session):
        calls = [call(hold, tmp_path, f"held{n}", key=n) for n in range(6)]
        session.submit(calls)
        await there(tmp_path / "held0")
        with anyio.fail_after(LIMIT):
            while len(names(tmp_path)) < 2:  # noqa: ASYNC110 - other processes tell by files
                await anyio.sleep(0.002)
        assert len(names(tmp_path)) == 2
        touch(tmp_path, "release")
        await port.values(calls)
        moments = [(outcome.started, 1) for outcome in port.outcomes()] + [(o.ended, -1) for o in port.outcomes()]
        running = 0
        for _, change in sorted(moments):
            running += change
            assert running <= 2


@every_pool
async def test_what_is_most_urgent_goes_first(name: str, tmp_path: Path) -> None:
    """Of the calls that wait the one of the smallest priority begins; among equals the one that came first."""
    async with opened(name, slots=1) as (port, session):
        held = call(partial(hold, tmp_path), key="held")  # a function that no pool knows: nothing is sent behind it
        session.submit([held])
        await there(tmp_path / "held")
        waiting = [
            call(square, n, key=(priority, n), priority=priority) for n, priority in enumerate([0, -2, 5, -2, 0])
        ]
        session.submit(waiting)
        touch(tmp_path, "release")
        await port.values([held, *waiting])
        assert [each.key for each, _ in port.told[1:]] == [(-2, 1), (-2, 3), (0, 0), (0, 4), (5, 2)]


@every_pool
async def test_sessions_take_turns(name: str, tmp_path: Path) -> None:
    """A run with little to do does not wait for one with much: they are served in turn."""
    async with current_loop() as loop, executor_of(name, loop, 1) as executor:
        port = Port(loop)
        first, second = executor.open(port), executor.open(port)
        held = call(hold, tmp_path, key="held")
        many = [call(square, n, key=("much", n)) for n in range(6)]
        few = [call(square, n, key=("little", n), priority=9) for n in range(2)]
        first.submit([held])
        await there(tmp_path / "held")
        first.submit(many)
        second.submit(few)
        touch(tmp_path, "release")
        await port.values([held, *many, *few])
        order = [each.key for each, _ in port.told][1:]
        assert order.index(("little", 1)) < 4, order
        first.close()
        second.close()


@every_pool
async def test_slots_of_one_session_are_not_taken_from_another(name: str, tmp_path: Path) -> None:
    """A session whose slots are all in use leaves the rest of the pool to the others."""
    async with current_loop() as loop, executor_of(name, loop) as executor:
        port = Port(loop)
        narrow, wide = executor.open(port, 1), executor.open(port)
        held, queued, other = call(hold, tmp_path, key=0), call(square, 1, key=1), call(square, 2, key=2)
        narrow.submit([held, queued])
        await there(tmp_path / "held")
        wide.submit([other])
        assert (await port.outcome(other)).value == 4
        assert port.outcomes(queued) == []
        touch(tmp_path, "release")
        assert (await port.outcome(queued)).value == 1
        narrow.close()
        wide.close()


# Many


@every_adapter
async def test_thousands_of_calls_have_one_outcome_each(name: str) -> None:
    """Nothing is lost and nothing comes twice, however much comes at once."""
    async with opened(name) as (port, session):
        calls = [call(square, n, key=n) for n in range(3_000)]
        for start in range(0, len(calls), 500):
            session.submit(calls[start : start + 500])
        assert await port.values(calls) == [n * n for n in range(3_000)]


@every_adapter
async def test_one_after_another(name: str) -> None:
    """Calls that each wait for the end of the one before: no wake-up is lost."""
    async with opened(name) as (port, session):
        for n in range(300):
            one = call(square, n, key=n)
            session.submit([one])
            assert (await port.outcome(one)).value == n * n


@every_adapter
async def test_an_executor_outlives_its_sessions(name: str) -> None:
    """Closing a session leaves the executor ready for the next."""
    async with current_loop() as loop, executor_of(name, loop) as executor:
        for n in range(20):
            port = Port(loop)
            session = executor.open(port)
            one = call(square, n)
            session.submit([one])
            assert (await port.outcome(one)).value == n * n
            session.close()


async def cancels_itself() -> None:
    """Raise the cancellation of the loop, although nobody has cancelled it."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", ["Tasks", "Inline"])
async def test_a_cancellation_that_nobody_asked_for_is_a_failure(name: str, anyio_backend: str) -> None:
    """A function that raises CancelledError by itself has failed: it was not stopped."""
    async with opened(name) as (port, session):
        one = call(cancels_itself)
        session.submit([one])
        failure = await port.outcome(one)
        assert (type(failure), type(failure.exception)) == (Failure, asyncio.CancelledError)
