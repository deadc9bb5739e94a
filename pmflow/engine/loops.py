"""The seam to asyncio and trio: what the scheduler needs of an event loop, and anyio has no cheap word for.

A native task costs a fifth of a task of anyio's, and a wait that any thread can end costs a future. Whatever a task
awaits (anyio, asyncio, trio) works in it as in any other.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from math import inf
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    import trio
    from typing_extensions import Self

Work = Callable[[Any], Coroutine[Any, Any, None]]


class Loop(Protocol):
    """An event loop, as the scheduler sees it. An async context manager, in which tasks live."""

    def now(self) -> float:
        """Return the loop's own time (virtual in some tests)."""
        ...

    async def wait(self, deadline: float) -> None:
        """Wait until `wake` was called, or the deadline has passed."""

    async def wait_shielded(self, deadline: float) -> None:
        """The same, in spite of a cancellation that is already under way."""

    def wake(self) -> None:
        """End the wait; from the loop's own thread."""

    def wake_threadsafe(self) -> None:
        """End the wait, from any thread or a signal handler."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function in the next pass."""

    def spawn(self, work: Work, argument: Any, name: str) -> Any:
        """Begin a task; returns what `cancel` takes. The work raises nothing but a cancellation."""

    def cancel(self, task: Any) -> None:
        """Cancel a task at its next await."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_error: object) -> bool | None: ...


class AsyncioLoop:
    """asyncio, in the running loop."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._cancelled = asyncio.CancelledError
        self._task = asyncio.Task
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self._context = copy_context()
        self.now = self._loop.time

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def wait(self, deadline: float) -> None:
        if self._woken:
            # A pass for the tasks and for a cancellation, also when there is always something to do.
            self._loop.call_soon(self.wake)
        self._woken = False
        waiter = self._waiter = self._loop.create_future()
        timer = None if deadline == inf else self._loop.call_at(deadline, self.wake)
        try:
            await waiter
        finally:
            self._waiter = None
            self._woken = False
            if timer is not None:
                timer.cancel()

    async def wait_shielded(self, deadline: float) -> None:
        try:
            await self.wait(deadline)
        except self._cancelled:
            return

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is None:
            self._woken = True
        elif not waiter.done():
            waiter.set_result(None)

    def wake_threadsafe(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.wake, context=self._context)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def call_soon(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)

    if sys.version_info >= (3, 12):

        def spawn(self, work: Work, argument: Any, name: str) -> asyncio.Task[None]:
            # Eager: runs at once up to its first real await, which many never reach.
            return self._task(work(argument), loop=self._loop, name=name, context=copy_context(), eager_start=True)

    else:

        def spawn(self, work: Work, argument: Any, name: str) -> asyncio.Task[None]:
            return self._task(work(argument), loop=self._loop, name=name)

    def cancel(self, task: asyncio.Task[None]) -> None:
        task.cancel()


class TrioLoop:
    """trio, in the running loop: a nursery, and a cancel scope per task."""

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery
        self.now = trio.current_time

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:  # noqa: PYI036 - handed on
        try:
            return await self._manager.__aexit__(*error)
        except BaseException as group:
            # The nursery is nobody's business: what was raised in it alone leaves it alone.
            inner: tuple[BaseException, ...] = getattr(group, "exceptions", ())
            if len(inner) != 1:
                raise
            raise inner[0] from inner[0].__cause__

    async def wait(self, deadline: float) -> None:
        with self._trio.CancelScope(deadline=deadline):
            await self._event.wait()
        self._event = self._trio.Event()

    async def wait_shielded(self, deadline: float) -> None:
        with self._trio.CancelScope(deadline=deadline, shield=True):
            await self._event.wait()
        self._event = self._trio.Event()

    def wake(self) -> None:
        self._event.set()

    def wake_threadsafe(self) -> None:
        try:
            self._token.run_sync_soon(self.wake)
        except self._trio.RunFinishedError:
            return

    def call_soon(self, function: Callable[[], None]) -> None:
        self._token.run_sync_soon(function)

    def spawn(self, work: Work, argument: Any, name: str) -> trio.CancelScope:
        scope = self._trio.CancelScope(shield=True)  # only `cancel` ends it: a run that is cancelled says so itself
        self._nursery.start_soon(self._run, scope, work, argument, name=name)
        return scope

    @staticmethod
    async def _run(scope: trio.CancelScope, work: Work, argument: Any) -> None:
        with scope:
            await work(argument)

    def cancel(self, task: trio.CancelScope) -> None:
        task.cancel()


class Listener(Protocol):
    """What a thread that waits can do meanwhile: listen to others, for itself and for others."""

    def attend(self, limit: float | None) -> None:
        """Listen once, for so many seconds at most."""

    def wake(self) -> None:
        """End the listening; from any thread or a signal handler."""


class NoLoop:
    """No event loop at all: for graphs without coroutines, in a thread that may block.

    Saves importing and starting one, and works below a running one. What a plain function returns to be awaited gets a
    loop and a thread of its own.
    """

    def __init__(self) -> None:
        self.now = monotonic
        self._soon: deque[Callable[[], None]] = deque()
        # A signal handler wakes it too: nothing with a lock that the thread it interrupts may hold.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self.listener: Listener | None = None
        self._listening = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def wait(self, deadline: float) -> None:
        soon = self._soon
        if soon:
            for _ in range(len(soon)):
                soon.popleft()()
            return
        if self.listener is not None:
            self._listen(self.listener, deadline)
        with suppress(Empty):
            left = 0.0 if self.listener is not None else inf if deadline == inf else max(0.0, deadline - monotonic())
            self._woken.get(timeout=None if left == inf else left)
            while True:
                self._woken.get_nowait()

    wait_shielded = wait

    def _listen(self, listener: Listener, deadline: float) -> None:
        """Do a listener's work until there is something to do here."""
        self._listening = True  # before it is looked whether there is something: whoever comes now ends the listening
        try:
            while self._woken.empty():
                left = deadline - monotonic()
                if left <= 0:
                    return
                listener.attend(None if left == inf else left)
        finally:
            self._listening = False

    def wake(self) -> None:
        self._woken.put(None)

    def wake_threadsafe(self) -> None:
        self._woken.put(None)
        if self._listening and self.listener is not None:
            self.listener.wake()

    def call_soon(self, function: Callable[[], None]) -> None:
        self._soon.append(function)

    def spawn(self, work: Work, argument: Any, name: str) -> _Aside:
        return _Aside(work, argument, name)

    def cancel(self, task: _Aside) -> None:
        task.cancel()


class _Aside:
    """What a plain function returned to be awaited, in an event loop and a thread of its own."""

    def __init__(self, work: Work, argument: Any, name: str) -> None:
        self._cancel: Callable[[], object] | None = None
        self._cancelled = False
        self._lock = Lock()
        context = copy_context()
        Thread(target=lambda: context.run(self._run, work, argument), name=f"pmflow-await-{name}", daemon=True).start()

    def _run(self, work: Work, argument: Any) -> None:
        import asyncio

        with suppress(asyncio.CancelledError):
            asyncio.run(self._main(work, argument))

    async def _main(self, work: Work, argument: Any) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        task = loop.create_task(work(argument))
        with self._lock:
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._cancelled:
                task.cancel()
        await task

    def cancel(self) -> None:
        """Cancel it at its next await; from any thread."""
        with self._lock:
            self._cancelled = True
            if self._cancel is not None:
                with suppress(RuntimeError):  # its loop has ended
                    self._cancel()


def drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that awaits nothing but a `NoLoop`."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("a coroutine without an event loop awaited something")


def current_loop() -> Loop:
    """Return the running event loop."""
    from anyio.lowlevel import current_token

    backend = type(current_token().native_token).__module__
    return TrioLoop() if backend.partition(".")[0] == "trio" else AsyncioLoop()
