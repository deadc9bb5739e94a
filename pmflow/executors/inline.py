"""On the loop: coroutines as native tasks, plain functions one after another between two passes of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from types import CodeType, FrameType
from typing import Any, Protocol

from pmflow.context import HERE, PLACES, Current
from pmflow.errors import ProcessCancelledError
from pmflow.executors.base import BEGAN, Call, Port, Stopped, Yielded, current_of
from pmflow.executors.flow import Flow
from pmflow.executors.values import FINAL, awaited, is_final, pass_on, without_our_frames
from pmflow.outcomes import RELEASED, Failure, Success

A_PASS = 1_000
"""How many calls are begun before the loop gets another pass."""

A_WHILE = 0.005
"""Seconds after which plain functions let the loop have a pass: a stop, a timer and Ctrl-C are seen in between."""


ENDED = object()
"""The handle of a call whose task has ended: its context knows the call, which is to go with the last reference."""


class Spawner(Protocol):
    """What of an event loop is needed here."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function in the next pass."""

    def spawn(self, work: Callable[[Any], Coroutine[Any, Any, None]], argument: Any, name: str) -> Any:
        """Begin a task."""

    def cancel(self, task: Any) -> None:
        """Cancel a task."""


Chain = tuple[Call, Any, "TaskSession"]
"""What a task is to run: a call with those that follow it, what it is fed, and the session."""


class Tasks:
    """An executor: each call is a task of the running loop."""

    def __init__(self, loop: Spawner) -> None:
        self._loop = loop

    def open(self, port: Port, slots: int | None = None) -> TaskSession:
        """Begin a run."""
        return TaskSession(self._loop, port, slots or 1 << 62)


class TaskSession:
    """One run's tasks."""

    queues = False

    def __init__(self, loop: Spawner, port: Port, window: int) -> None:
        self.window = self.slots = window
        self._loop = loop
        self._port = port

    def submit(self, chains: Sequence[Call]) -> None:
        """Begin a task for each; a chain runs on in its task."""
        for call in chains:
            if call.then is None:
                task = self._loop.spawn(self._run, (call, None, self), call.label)
                if call.handle is not ENDED:  # it may have been run at once
                    call.handle = task
            else:
                self.begin(call, None)

    @staticmethod
    def grant(call: Call, count: int) -> None:
        """Let a call yield so many more elements."""
        grant(call, count)

    def stop(self, call: Call) -> None:
        """Cancel a task; where it is swallowed, it may be said again."""
        begun = call.started
        if (not begun and call.stopped) or call.handle is ENDED:
            return
        call.stopped = True
        if begun:
            task = call.handle
            self._loop.cancel(task.native if isinstance(task, _Task) else task)
        else:  # asyncio would end a task that has not begun without a word to it
            self._port.deliver(call, Stopped(perf_counter(), ended=True))

    @staticmethod
    def began(call: Call) -> float:
        """Return when a call began."""
        return call.started

    def close(self) -> None:
        """Nothing is left: every task has ended."""

    def current(self, call: Call) -> Current:
        """Return what a call that is under way knows of itself."""
        return current_of(call, self._port.deliver)

    async def _run(self, chain: Chain) -> None:
        if chain[0].stopped:
            return
        call, value, _ = chain
        deliver = self._port.deliver
        while True:
            HERE.set(chain)
            before = None if call.then is None else copy_context()
            call.started = started = perf_counter()
            if call.observed:
                deliver(call, BEGAN)
            args, kwargs = (call.args, call.kwargs) if call.feed is None else call.arguments(value)
            try:
                value = call.function(*args, **kwargs)
                if hasattr(value, "__await__"):
                    value = await value
                if type(value) not in FINAL and not is_final(value):
                    value = await (awaited(value) if call.flow is None else self._passed_on(call, call.flow, value))
            except BaseException as error:
                call.handle = ENDED
                deliver(call, _end_of(call, error, started))
                cancelled = call.stopped or type(error).__module__.partition(".")[0] == "trio"
                if cancelled and not isinstance(error, Exception):
                    raise  # its scope must see it
                return
            outcome = Success(value, started, perf_counter())
            then = call.then
            call.handle = ENDED
            if then is None:
                deliver(call, outcome)
                return
            # Each call has a context, and a state of cancellation, of its own: where this one has changed its task's,
            # the rest of the chain gets another task.
            same = not call.stopped and before is not None and _unchanged(before)
            deliver(call, outcome)
            if not same:
                self.begin(then, value)  # which may run it at once: what is delivered stays in order
                return
            call = then
            chain = call, value, self

    async def _passed_on(self, call: Call, flow: Flow, value: Any) -> Any:
        """Deliver what an iterator yields, as it is granted; return what anything else stands for."""
        while hasattr(value, "__await__"):
            value = await value
            if is_final(value):
                return value

        async def wait() -> bool:
            await granted(flow)
            return True

        def tell(element: Any) -> None:
            self._port.deliver(call, Yielded(element))

        await pass_on(value, wait, tell)
        return RELEASED

    def begin(self, call: Call, value: Any) -> None:
        """Run a chain, or the rest of one, in a task of its own, in the context of the run."""
        task = _Task()
        link: Call | None = call
        while link is not None:  # before the task begins: it may run far at once, and begin another itself
            link.handle = task
            link = link.then
        context = copy_context() if call.context is None else call.context.copy()
        task.native = context.run(self._loop.spawn, self._run, (call, value, self), call.label)


def _end_of(call: Call, error: BaseException, started: float) -> Stopped | Failure:
    """Return what an exception is for the call: that of its cancellation, or whatever the function raises."""
    if call.stopped and (isinstance(error, ProcessCancelledError) or not isinstance(error, Exception)):
        return Stopped(perf_counter(), ended=True)
    return Failure(without_our_frames(error), started, perf_counter())


def _unchanged(before: Context) -> bool:
    """Whether the context is what it was: the same values, not equal ones, which only their classes could tell."""
    now = copy_context()
    return len(now) == len(before) and all(now.get(name, before) is value for name, value in before.items())


def grant(call: Call, count: int) -> None:
    """Let a call in this program yield so many more elements."""
    if call.flow is not None:
        call.flow.grant(count)


async def granted(flow: Flow) -> None:
    """Wait until a call may yield another element; others get their turn meanwhile."""
    from anyio import Event
    from anyio.lowlevel import checkpoint, current_token

    if flow.take():
        await checkpoint()
        return
    loop: Any = current_token().native_token
    soon = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
    while not flow.take():
        event = Event()
        if not flow.take_notice(partial(soon, event.set)):
            await event.wait()


class _Task:
    """A task that the links of a chain share."""

    __slots__ = ("native",)

    def __init__(self) -> None:
        self.native: Any = None


class Inline:
    """An executor: each call is made by the loop itself."""

    def __init__(self, loop: Spawner) -> None:
        self._loop = loop

    def open(self, port: Port, slots: int | None = None) -> InlineSession:  # noqa: ARG002 - one at a time anyway
        """Begin a run."""
        return InlineSession(self._loop, port)


class InlineSession:
    """One run's plain functions on the loop."""

    window = A_PASS
    slots = 1
    queues = True

    def __init__(self, loop: Spawner, port: Port) -> None:
        self._loop = loop
        self._port = port
        self._queue: deque[tuple[Call, Any]] = deque()
        self._call: Call | None = None
        self._scheduled = False
        self._tasks = TaskSession(loop, port, 1 << 62)

    def submit(self, chains: Sequence[Call]) -> None:
        """Make the calls soon."""
        self._queue.extend([(call, None) for call in chains])
        if not self._scheduled and self._queue:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    @staticmethod
    def grant(call: Call, count: int) -> None:
        """Let a call yield so many more elements."""
        grant(call, count)

    def stop(self, call: Call) -> None:
        """Take a call out of the queue, or end what it returned: cancel what is awaited, close what is iterated."""
        if isinstance(call.handle, _Relay):
            call.handle.stop()
            return
        if isinstance(call.handle, _Iteration):
            self._close(call, call.handle)
            return
        if call.handle is not None:  # behind one that returned something to be awaited, in its task
            self._tasks.stop(call)
            return
        for place, (queued, _) in enumerate(self._queue):
            if queued is call:
                call.stopped = True
                del self._queue[place]
                self._port.deliver(call, Stopped(perf_counter(), ended=True))
                return

    @staticmethod
    def began(call: Call) -> float:
        """Return when a call began."""
        return call.started

    def close(self) -> None:
        """Nothing is left."""

    def _drain(self) -> None:
        self._scheduled = False
        queue = self._queue
        before, PLACES.place = PLACES.place, self
        until = perf_counter() + A_WHILE
        try:
            for _ in range(A_PASS):
                if not queue:
                    return
                call, value = queue.popleft()
                self._call = call
                if type(value) is _Iteration:
                    well = self._iterate(call, value)
                else:
                    well = self._make(call, value, copy_context() if call.context is None else call.context.copy())
                if not well or call.started > until:
                    break
        finally:
            PLACES.place, self._call = before, None
        if queue:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def current(self) -> Current | None:
        """Return what the call that is made just now knows of itself."""
        return None if self._call is None else current_of(self._call, self._port.deliver)

    def _make(self, call: Call, value: Any, context: Context) -> bool:
        """Make a call; False if it did not go well, which may stop the run."""
        deliver = self._port.deliver
        call.started = started = perf_counter()
        if call.observed:
            deliver(call, BEGAN)
        args, kwargs = (call.args, call.kwargs) if call.feed is None else call.arguments(value)
        try:
            value = context.run(call.function, *args, **kwargs)
            if type(value) not in FINAL and not is_final(value):
                if hasattr(value, "__await__") or hasattr(value, "__anext__"):
                    self._finish_in_task(call, value)
                    return True
                if call.flow is not None:
                    call.handle = _Iteration(value, context)
                    return self._iterate(call, call.handle)
                value = context.run(list, value)
        except BaseException as error:  # noqa: BLE001 - whatever the function raises is its outcome
            deliver(call, Failure(without_our_frames(error), started, perf_counter()))
            return False
        then = call.then
        deliver(call, Success(value, started, perf_counter()))
        if then is not None:
            self._queue.appendleft((then, value))
        return True

    def _iterate(self, call: Call, iteration: _Iteration) -> bool:
        """Deliver the next element, if it is granted, and queue for the one after it; False if that did not go well."""
        flow: Flow = call.flow  # type: ignore[assignment]  # it has one
        if flow.take():
            try:
                element = iteration.context.run(next, iteration.iterator, ENDED)
            except BaseException as error:  # noqa: BLE001 - whatever the generator raises is its outcome
                self._port.deliver(call, Failure(without_our_frames(error), call.started, perf_counter()))
                return False
            if element is ENDED:
                self._port.deliver(call, Success(RELEASED, call.started, perf_counter()))
            else:
                self._port.deliver(call, Yielded(element))
                self._queue.append((call, iteration))
        elif flow.take_notice(partial(self._queue_again, call, iteration)):
            self._queue.append((call, iteration))
        return True

    def _queue_again(self, call: Call, iteration: _Iteration) -> None:
        self._queue.append((call, iteration))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _close(self, call: Call, iteration: _Iteration) -> None:
        """Close what is being iterated: it is between two elements now."""
        if call.stopped:
            return
        call.stopped = True
        with suppress(ValueError):
            self._queue.remove((call, iteration))
        outcome: Stopped | Failure = Stopped(perf_counter(), ended=True)
        try:
            iteration.context.run(getattr(iteration.iterator, "close", _nothing))
        except BaseException as error:  # noqa: BLE001 - the same
            outcome = Failure(without_our_frames(error), call.started, perf_counter())
        self._port.deliver(call, outcome)

    def _finish_in_task(self, call: Call, value: Any) -> None:
        """Await what a plain function returned, in a task; the rest of the chain follows in it."""
        rest = Call(call.key, call.label, _itself, (value,), context=call.context)
        rest.attempt, rest.bounds, rest.flow = call.attempt, call.bounds, call.flow
        rest.then = call.then
        call.handle = _Relay(self._port, call, rest)
        call.handle.begin(self._loop)


class _Iteration:
    """An iterator that a call has returned, and the context of the call."""

    __slots__ = ("context", "iterator")

    def __init__(self, iterator: Iterator[Any], context: Context) -> None:
        self.iterator = iterator
        self.context = context


def _itself(value: Any) -> Any:
    return value


def _nothing() -> None:
    return None


class _Relay:
    """Has a stand-in await what a call returned, and delivers what became of it in the name of the call."""

    def __init__(self, port: Port, call: Call, stand_in: Call) -> None:
        self._port = port
        self._call = call
        self._stand_in = stand_in

    def begin(self, loop: Spawner) -> None:
        """Begin its task."""
        self._session = TaskSession(loop, self, 1)
        self._session.begin(self._stand_in, None)

    def stop(self) -> None:
        """Cancel its task."""
        self._session.stop(self._stand_in)

    def deliver(self, call: Call, outcome: Any) -> None:
        """Take an outcome."""
        self._port.deliver(self._call if call is self._stand_in else call, outcome)


_STEPS = (TaskSession._run.__code__, InlineSession._make.__code__, InlineSession._iterate.__code__)  # noqa: SLF001 - same file
_PACKAGE = __file__.rpartition("executors")[0]

OURS: set[CodeType] = set()
"""Functions of ours that processes run: what these call in turn is no user's code either."""


def in_user_code(frame: FrameType | None) -> bool:
    """Say whether this frame is one of a user's function that runs on the loop (for a signal handler)."""
    if frame is None or frame.f_code.co_filename.startswith(_PACKAGE):
        return False
    while frame is not None and frame.f_code not in OURS:
        if frame.f_code in _STEPS:
            return True
        frame = frame.f_back
    return False
