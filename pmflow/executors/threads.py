"""Threads of our own: daemons, so that a call nobody can stop does not hold up the interpreter's exit.

One pool serves the whole program. A thread takes a chain and runs it to its end, unless after a link that took long
another call is more urgent; then it takes the next, from the runs in turn, and parks when there is none. Threads are
woken one after another: whoever takes a chain while more are waiting wakes the next thread, and a wake-up is under way
at most once, so that a thousand short calls cost one or two wake-ups and not a thousand (each costs as much as ten
short calls).

A call that is given up cannot be stopped: it is *abandoned*. Its thread goes on with it and ends afterwards; its place
is taken by another thread. At 64 abandoned ones, calls fail at once. A thread whose call runs another graph and waits
for it lends its place for as long, so that nested runs cannot use up the pool. So does one whose generator waits until
more of its elements are wanted: its place goes to those who take them, and it goes on when there is one again.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from time import perf_counter
from typing import Any

from pmflow.context import PLACES, Current
from pmflow.errors import ShutdownError, ThreadsExhaustedError
from pmflow.executors.base import BEGAN, Call, Port, PriorityQueue, Stopped, Yielded, current_of
from pmflow.executors.flow import Flow
from pmflow.executors.values import FINAL, PASSED_ON, Sink, finished, is_final, passed_on, without_our_frames
from pmflow.outcomes import RELEASED, Failure, Success

MOST_ABANDONED = 64
"""Threads held by calls that were given up; beyond, every further one would be likely to hang too."""

TURN = 0.001
"""Seconds: a link that took longer is followed by what is most urgent, and not by the rest of its chain."""

_here = threading.local()


class ThreadPool:
    """An executor. Its threads are started when there is work, and stay.

    Args:
        size: how many calls may run at once.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._set_up()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._set_up)  # a forked child has none of the threads

    def _set_up(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.abandoned = 0
        self.living = 0
        self.lent = 0
        self._idle: list[_Thread] = []
        self._returning: deque[_Thread] = deque()  # those that want back the place that they have lent
        self._waking = False
        self._turns: deque[ThreadSession] = deque()  # the runs with calls waiting
        self._count = 0

    def open(self, port: Port, slots: int | None = None) -> ThreadSession:
        """Begin a run."""
        return ThreadSession(self, port, min(slots or self.size, self.size))

    # With the lock held

    def wake(self) -> None:
        """Wake a thread, or start one, if that helps.

        Raises:
            RuntimeError: the system gives no thread, and there is none.
        """
        if self._waking or not self._turns or self.running >= self.size:
            return
        if self._idle:
            self._waking = True
            self._idle.pop().parked.release()
            return
        if self.living - self.abandoned - self.lent >= self.size:
            return  # one of them is about to come for it
        self._waking = True
        self._count += 1
        try:
            _Thread(self, f"pmflow-thread-{self._count}").start()
        except RuntimeError:
            self._waking = False
            if not self.living:
                raise
        else:
            self.living += 1

    def take(self, thread: _Thread) -> Call | None:
        """Give a thread its next chain, from the runs in turn."""
        turns = self._turns
        for _ in range(len(turns) if self.running < self.size else 0):
            session = turns[0]
            if session.running >= session.slots:
                turns.rotate(-1)
                continue
            call = session.queue.pop()
            session.rests.discard(call)
            if session.queue:
                turns.rotate(-1)
            else:
                turns.popleft()
            session.running += 1
            self.running += 1
            thread.session = session
            thread.call = call
            call.handle = thread
            return call
        return None

    def enqueue(self, session: ThreadSession, chains: Sequence[Call]) -> None:
        """Queue the chains of a run."""
        if not session.queue and chains:
            self._turns.append(session)
        session.queue.push(chains)
        self.wake()

    def dequeue(self, session: ThreadSession, call: Call) -> bool:
        """Take a call out of the queue; False if it is not there."""
        found = session.queue.remove(call)
        session.rests.discard(call)
        if found and not session.queue:
            self._turns.remove(session)
        return found

    def started(self) -> None:
        """Note that the thread that was woken is here."""
        self._waking = False

    def release(self, thread: _Thread) -> None:
        """Note that a thread has no chain any more."""
        if thread.abandoned:
            self.abandoned -= 1
        elif thread.session is not None:
            thread.session.running -= 1
            self.running -= 1
            self.give_places()
        thread.session = thread.call = None

    def lend(self, thread: _Thread) -> bool:
        """Let another thread take the place of one that waits; False if another has it already."""
        if thread.abandoned or thread.lent or thread.session is None:
            return False
        thread.lent = True
        self.lent += 1
        thread.session.running -= 1
        self.running -= 1
        self.give_places()
        self.wake()
        return True

    def take_back(self, thread: _Thread) -> None:
        """Count a thread again that has lent its place."""
        thread.lent = False
        self.lent -= 1
        if not thread.abandoned and thread.session is not None:
            thread.session.running += 1
            self.running += 1

    def ask_back(self, thread: _Thread) -> None:
        """Have a thread released that waits until it has its place again."""
        self._returning.append(thread)
        self.give_places()

    def give_places(self) -> None:
        """Release those that can have their place again, or need none any more."""
        for thread in tuple(self._returning):
            session = thread.session
            if thread.abandoned or (
                session is not None and self.running < self.size and session.running < session.slots
            ):
                self._returning.remove(thread)
                self.take_back(thread)
                thread.parked.release()

    def park(self, thread: _Thread) -> None:
        """Note that a thread waits; the last one to come is the first to go."""
        self._idle.append(thread)


class ThreadSession:
    """One run's use of the pool."""

    queues = True
    window = 2_000

    def __init__(self, pool: ThreadPool, port: Port, slots: int) -> None:
        self.queue = PriorityQueue()
        self.rests: set[Call] = set()  # of chains that have given way, each with the value of the link before
        self.running = 0
        self.slots = slots
        self.port = port
        self._pool = pool

    def submit(self, chains: Sequence[Call]) -> None:
        """Queue chains."""
        pool = self._pool
        refused: Sequence[Call] = ()
        reason = _HELD
        with pool.lock:
            if pool.abandoned >= MOST_ABANDONED:
                refused = chains
            else:
                try:
                    pool.enqueue(self, chains)
                except RuntimeError as error:
                    refused, reason = self._drain(), f"no thread could be started ({error}); use fewer at once"
        now = perf_counter()
        if refused and "shutdown" in reason:
            for call in refused:
                self.port.deliver(call, Stopped(now, ended=True))
            raise ShutdownError(f"the interpreter is shutting down: {reason}")
        for call in refused:
            self.port.deliver(call, Failure(_exhausted(call, reason), now, now))

    @staticmethod
    def grant(call: Call, count: int) -> None:
        """Let a call yield so many more elements."""
        if call.flow is not None:
            call.flow.grant(count)

    def stop(self, call: Call) -> None:
        """Take a call out of the queue, or abandon it."""
        pool = self._pool
        drained: list[Call] = []
        with pool.lock:
            thread: _Thread | None = call.handle
            if thread is not None and (thread.call is not call or thread.abandoned):
                return  # it has just ended: its outcome is on its way
            if thread is None and not pool.dequeue(self, call):
                return  # it was refused, or stopped before: the same
            call.stopped = True
            if thread is not None:
                thread.abandoned = True
                if not thread.lent:
                    self.running -= 1
                    pool.running -= 1
                pool.abandoned += 1
                for end in thread.ends:
                    end()
                pool.give_places()
                if pool.abandoned >= MOST_ABANDONED:
                    drained = self._drain()
                pool.wake()
        self.port.deliver(call, Stopped(perf_counter(), ended=thread is None))
        now = perf_counter()
        for queued in drained:
            self.port.deliver(queued, Failure(_exhausted(queued, _HELD), now, now))

    def _drain(self) -> list[Call]:
        drained = [self.queue.pop() for _ in range(len(self.queue) - 1)]
        if self.queue:
            last = self.queue.peek()
            drained.append(last)
            self._pool.dequeue(self, last)
        return drained

    @staticmethod
    def began(call: Call) -> float:
        """Return when a call began."""
        return call.started

    def close(self) -> None:
        """Nothing is left: every call has had its outcome."""


_HELD = (
    f"{MOST_ABANDONED} threads are held by calls that took longer than their timeout and cannot be stopped; "
    f"use type='process' for functions that may hang"
)


def _exhausted(call: Call, reason: str) -> ThreadsExhaustedError:
    return ThreadsExhaustedError(f"'{call.label}' was not started: {reason}", process_id=call.label)


class _Thread(threading.Thread):
    """One thread of the pool."""

    def __init__(self, pool: ThreadPool, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.pool = pool
        self.parked = threading.Lock()
        self.parked.acquire()
        self.session: ThreadSession | None = None
        self.call: Call | None = None
        self.abandoned = False
        self.lent = False
        self.note = (1, name, True)
        self.ends: list[Callable[[], None]] = []

    def run(self) -> None:
        """Take chains until this thread is abandoned."""
        pool, lock = self.pool, self.pool.lock
        call: Call | None
        _here.thread = PLACES.place = self
        with lock:
            pool.started()
        while True:
            with lock:
                pool.release(self)
                if self.abandoned:
                    pool.living -= 1
                    return
                call = pool.take(self)
                if call is None:
                    pool.park(self)
                else:
                    pool.wake()
            if call is None:
                self.parked.acquire()
                with lock:
                    pool.started()
            else:
                self._chain(call)
                del call  # an idle thread holds nobody's arguments

    def current(self) -> Current | None:
        """Return what the call that runs here knows of itself."""
        call, session = self.call, self.session
        return None if call is None or session is None else current_of(call, session.port.deliver)

    def _chain(self, call: Call) -> None:
        deliver = self.session.port.deliver  # type: ignore[union-attr]  # it was taken from one
        note = self.note
        value: Any = None
        while True:
            call.started = started = perf_counter()
            if call.observed:
                deliver(call, BEGAN)
            args, kwargs = (call.args, call.kwargs) if call.feed is None else call.arguments(value)
            try:
                context = copy_context() if call.context is None else call.context.copy()
                value = context.run(call.function, *args, **kwargs)
                if type(value) not in FINAL and not is_final(value):
                    value = context.run(finished, value) if call.flow is None else self._passed_on(context, call, value)
            except BaseException as error:  # noqa: BLE001 - whatever the function raises is its outcome
                failure = Failure(without_our_frames(error), started, perf_counter(), worker=self.name)
                if self._goes_on(None):
                    deliver(call, failure)
                return
            outcome = Success(RELEASED if call.hand_on else value, started, perf_counter(), note)
            then = call.then
            if not self._goes_on(then):
                return
            deliver(call, outcome)
            if then is None or (outcome.ended - started > TURN and self._gives_way(then, value)):
                return
            call = then

    def _passed_on(self, context: Context, call: Call, value: Any) -> Any:
        """Deliver what an iterator yields, as it is granted; return what anything else stands for."""
        flow: Flow = call.flow  # type: ignore[assignment]  # it has one
        sink = _Granted(self, call, flow)
        with ended_by(flow.close):
            value = context.run(passed_on, value, sink)
        return RELEASED if value is PASSED_ON else value

    def pause(self, flow: Flow) -> None:
        """Wait until a call may yield more, or has been given up; another thread has its place meanwhile."""
        pool = self.pool
        with pool.lock:
            lends = pool.lend(self)
        if not flow.take_notice(self.parked.release):
            self.parked.acquire()
        if lends:
            with pool.lock:
                pool.ask_back(self)
            self.parked.acquire()

    def _gives_way(self, then: Call, value: Any) -> bool:
        """Queue the rest of the chain, with the value it is fed, if a call that waits there is more urgent.

        Two rests wait for each slot at most: each holds a value, and of a thousand chains a thousand would be alive.
        """
        with self.pool.lock:
            if self.abandoned:
                return True
            session: ThreadSession = self.session  # type: ignore[assignment]  # it has one while it runs a chain
            queue, rests = session.queue, session.rests
            if not queue or queue.peek().priority >= then.priority:
                return False
            if len(rests) >= 2 * session.slots and queue.peek() not in rests:
                return False
            if then.feed is not None:
                then.args, then.kwargs = then.arguments(value)
                then.feed = None
            then.handle = self.call = None
            rests.add(then)
            queue.push([then])
            return True

    def _goes_on(self, then: Call | None) -> bool:
        """Go on to the next link, or to the chain's end; False if the call was abandoned before it ended."""
        with self.pool.lock:
            if self.abandoned:
                return False
            self.call = then
            if then is not None:
                then.handle = self
            return True


class _Granted(Sink):
    """Where the elements of a call in a thread go, as many as are granted."""

    def __init__(self, thread: _Thread, call: Call, flow: Flow) -> None:
        self._thread = thread
        self._call = call
        self._flow = flow
        self._deliver = thread.session.port.deliver  # type: ignore[union-attr]  # the call was taken from one

    def wait(self) -> bool:
        """Wait until the next one is wanted; False if the call has been given up."""
        while not self.take():
            if self._flow.closed:
                return False
            self._thread.pause(self._flow)
        return True

    def take(self) -> bool:
        """Whether the next one is wanted now."""
        return not self._flow.closed and self._flow.take()

    def tell(self, element: Any) -> None:
        """Deliver an element."""
        self._deliver(self._call, Yielded(element))


@contextmanager
def ended_by(end: Callable[[], None]) -> Generator[None]:
    """Have what the calling thread waits for ended by a function, should the call in this thread be given up.

    The function is called by another thread, with the lock of the pool: it is not called any more once this is left.
    """
    thread: _Thread | None = getattr(_here, "thread", None)
    if thread is None:
        yield
        return
    with thread.pool.lock:
        thread.ends.append(end)
        if thread.abandoned:
            end()
    try:
        yield
    finally:
        with thread.pool.lock:
            thread.ends.remove(end)


@contextmanager
def place_lent() -> Generator[None]:
    """While the calling thread waits for a run of its own, let another thread of the pool take its place."""
    thread: _Thread | None = getattr(_here, "thread", None)
    if thread is None or thread.session is None:
        yield
        return
    pool = thread.pool
    with pool.lock:
        lends = pool.lend(thread)
    try:
        yield
    finally:
        if lends:
            with pool.lock:
                pool.take_back(thread)
