"""On the loop: coroutines as native tasks, plain functions one after another between two passes of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from time import perf_counter
from typing import Any, Protocol

from pmflow.executors.base import BEGAN, Call, Port, Stopped
from pmflow.executors.values import FINAL, awaited, is_final, without_our_frames
from pmflow.results import Failure, Success

A_PASS = 1_000
"""How many calls are begun before the loop gets another pass."""


class Spawner(Protocol):
    """What of an event loop is needed here."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function in the next pass."""

    def spawn(self, work: Callable[[Any], Coroutine[Any, Any, None]], argument: Any, name: str) -> Any:
        """Begin a task."""

    def cancel(self, task: Any) -> None:
        """Cancel a task."""


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
        self.window = window
        self._loop = loop
        self._port = port

    def submit(self, chains: Sequence[Call]) -> None:
        """Begin a task for each; a chain runs on in its task."""
        for call in chains:
            self._spawned(call, self._loop.spawn(self._run, (call, None), call.label))

    def stop(self, call: Call) -> None:
        """Cancel a task; where it is swallowed, it may be said again."""
        call.stopped = True
        self._loop.cancel(call.handle)

    def close(self) -> None:
        """Nothing is left: every task has ended."""

    async def _run(self, chain: tuple[Call, Any]) -> None:  # noqa: C901 - the path of every coroutine: calls cost
        call, value = chain
        deliver = self._port.deliver
        context = copy_context()
        while True:
            call.started = started = perf_counter()
            if call.observed:
                deliver(call, BEGAN)
            args, kwargs = (call.args, call.kwargs) if call.feed is None else call.arguments(value)
            try:
                value = call.function(*args, **kwargs)
                if hasattr(value, "__await__"):
                    value = await value
                if type(value) not in FINAL and not is_final(value):
                    value = await awaited(value)
            except Exception as error:  # noqa: BLE001 - whatever the function raises is its outcome
                deliver(call, Failure(without_our_frames(error), started, perf_counter()))
                return
            except BaseException as error:
                if call.stopped:
                    deliver(call, Stopped(perf_counter(), ended=True))
                    raise
                deliver(call, Failure(without_our_frames(error), started, perf_counter()))
                if type(error).__module__.partition(".")[0] == "trio":
                    raise  # its scope must see it
                return
            outcome = Success(value, started, perf_counter())
            then = call.then
            if then is None:
                deliver(call, outcome)
                return
            # Each call has a context, and a state of cancellation, of its own: where this one has changed its task's,
            # the rest of the chain gets another task.
            same = not call.stopped and copy_context() == context
            if not same:
                self._again(then, value)
            deliver(call, outcome)
            if not same:
                return
            call = then

    def _again(self, call: Call, value: Any) -> None:
        """Run the rest of a chain in another task."""
        spawn = self._loop.spawn
        context = copy_context() if call.context is None else call.context.copy()
        self._spawned(call, context.run(spawn, self._run, (call, value), call.label))

    @staticmethod
    def _spawned(call: Call | None, task: Any) -> None:
        while call is not None:
            call.handle = task
            call = call.then


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
    queues = True

    def __init__(self, loop: Spawner, port: Port) -> None:
        self._loop = loop
        self._port = port
        self._queue: deque[tuple[Call, Any]] = deque()
        self._scheduled = False
        self._tasks = TaskSession(loop, port, 1 << 62)

    def submit(self, chains: Sequence[Call]) -> None:
        """Make the calls soon."""
        self._queue.extend([(call, None) for call in chains])
        if not self._scheduled and self._queue:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def stop(self, call: Call) -> None:
        """Take a call out of the queue, or cancel what it returned to be awaited."""
        call.stopped = True
        if call.handle is not None:
            self._tasks.stop(call)
            return
        for place, (queued, _) in enumerate(self._queue):
            if queued is call:
                del self._queue[place]
                self._port.deliver(call, Stopped(perf_counter(), ended=True))
                return

    def close(self) -> None:
        """Nothing is left."""

    def _drain(self) -> None:
        self._scheduled = False
        queue = self._queue
        for _ in range(A_PASS):
            if not queue:
                return
            call, value = queue.popleft()
            self._make(call, value, copy_context() if call.context is None else call.context.copy())
        if queue:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _make(self, call: Call, value: Any, context: Context) -> None:
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
                    return
                value = context.run(list, value)
        except BaseException as error:  # noqa: BLE001 - whatever the function raises is its outcome
            deliver(call, Failure(without_our_frames(error), started, perf_counter()))
            return
        then = call.then
        deliver(call, Success(value, started, perf_counter()))
        if then is not None:
            self._queue.appendleft((then, value))

    def _finish_in_task(self, call: Call, value: Any) -> None:
        """Await what a plain function returned, in a task; the rest of the chain follows in it."""
        rest = Call(call.key, call.label, awaited, (value,))
        rest.then = call.then
        relay = _Relay(self._port, call, rest)
        call.handle = self._loop.spawn(TaskSession(self._loop, relay, 1)._run, (rest, None), call.label)  # noqa: SLF001 - same file
        rest.handle = call.handle


class _Relay:
    """Delivers what became of a stand-in in the name of the call itself."""

    def __init__(self, port: Port, call: Call, stand_in: Call) -> None:
        self._port = port
        self._call = call
        self._stand_in = stand_in

    def deliver(self, call: Call, outcome: Any) -> None:
        """Take an outcome."""
        if call is self._stand_in:
            outcome = (
                Stopped(perf_counter(), ended=True) if self._call.stopped and type(outcome) is Failure else outcome
            )
            self._port.deliver(self._call, outcome)
        else:
            self._port.deliver(call, outcome)
