"""Who hears the workers: a daemon thread of the pool, or a run's own thread, while that has nothing else to do.

To hand a reply from one thread to another costs more than the reply itself. So a run that waits for workers alone may
*lead*: it listens to all channels of the pool while it waits, for others too. One run leads at a time. The owner
stands by meanwhile, and helps out when the leader has been away for long.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter, sleep
from typing import Any

from pmflow.executors.parcels import above_standard

AWAY = 0.02
"""Seconds after which somebody else listens for a leader that is busy."""

Step = Callable[[list[tuple[Any, int]]], tuple[float | None, float]]
"""Attends to who has something to say (and what can be done to it); returns in how many seconds it wants to be called
again whoever speaks, and for how many nobody will miss it."""


class Owner:
    """Listens, and calls a step of its pool's.

    Args:
        step: what is called.
        busy: whether there is a run under way.
    """

    def __init__(self, step: Step, busy: Callable[[], bool] = lambda: True) -> None:
        self._step = step
        self._busy = busy
        self._selector = selectors.DefaultSelector()
        ear, mouth = socket.socketpair()
        self._ear = socket.socket(fileno=above_standard(ear.detach()))
        self._mouth = socket.socket(fileno=above_standard(mouth.detach()))
        self._ear.setblocking(False)  # noqa: FBT003 - as Python has it
        self._mouth.setblocking(False)  # noqa: FBT003
        self._selector.register(self._ear, selectors.EVENT_READ, None)
        self._listening = threading.Lock()
        self._bell = threading.Event()
        self._leader: int | None = None
        self._standing_by = False
        self._heard_at = 0.0
        self._again: float | None = None
        self._expected = False
        self._wanted = False
        self._nap = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._own, name="pmflow-workers", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def watch(self, channel: Any, who: Any, *, writable: bool = False) -> None:
        """Listen to a channel; ``writable``: also for that it takes more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        if channel.fileno() in self._selector.get_map():
            self._selector.modify(channel, events, who)
        else:
            self._selector.register(channel, events, who)

    def unwatch(self, channel: Any) -> None:
        """Listen to a channel no more."""
        self._selector.unregister(channel)

    def wake(self) -> None:
        """Have the step called soon, by whoever listens."""
        with suppress(BlockingIOError, OSError):  # it will find what is there already; or it has been closed
            self._mouth.send(b"!")

    def expect(self) -> None:
        """Have the step called again though nobody speaks: something waits in a worker."""
        if not self._expected:
            self._expected = True
            if self._leader != threading.get_ident():
                self.wake()

    def notice(self) -> None:
        """Have somebody listen, although the last leader has only just left."""
        if self._standing_by and self._leader is None:
            self._bell.set()

    # Listening

    def _listen(self, limit: float | None) -> None:
        """Wait for somebody to speak, and call the step."""
        again, nap = self._again, self._nap
        if nap:
            sleep(nap)
        if self._expected:
            again = 0.0
        if again is not None:
            limit = again if limit is None else min(again, limit)
        found = self._selector.select(limit)
        ready = [(key.data, events) for key, events in found if key.data is not None]
        if len(ready) < len(found):
            with suppress(BlockingIOError):
                self._ear.recv(4096)
        del found
        self._expected = False  # before the step: what is expected from then on is for the next one
        self._again, self._nap = self._step(ready)
        self._heard_at = perf_counter()

    def _own(self) -> None:
        while not self._closed:
            self._standing_by = False
            if not self._is_led():
                with self._listening:
                    if not self._is_led():  # still
                        self._listen(None)
                continue
            self._standing_by = True
            self._bell.wait(AWAY)  # also when nobody leads any more: the next run may be about to
            self._bell.clear()
            if perf_counter() - self._heard_at > AWAY and self._listening.acquire(blocking=False):
                try:
                    while self._is_led() and not self._wanted and not self._closed:
                        self._listen(None)
                finally:
                    self._listening.release()

    # Leading

    def _is_led(self) -> bool:
        return self._leader is not None

    def lead(self) -> bool:
        """Have the calling thread listen from now on, by `attend`; False if another leads."""
        if self._leader is not None or self._closed:
            return False
        self._leader = threading.get_ident()
        if not self._standing_by:
            self.wake()  # it listens, and is to let this thread do it
        return True

    def attend(self, limit: float | None) -> None:
        """Listen once, for so many seconds at most; by the leader."""
        if not self._listening.acquire(blocking=False):  # the owner has helped out
            self._wanted = True
            self.wake()
            self._listening.acquire()
            self._wanted = False
        try:
            if self._closed:
                sleep(AWAY)  # the outcomes are on their way
            else:
                self._listen(limit)
        finally:
            self._listening.release()

    def leave(self) -> None:
        """Lead no more."""
        self._leader = None
        if self._busy():
            self._bell.set()

    def close(self, seconds: float) -> None:
        """End, and wait for that; the channels stay the caller's."""
        self._closed = True
        self._bell.set()
        until = perf_counter() + seconds
        while not self._listening.acquire(timeout=0.01):  # whoever listens is to notice, and may listen once more
            self.wake()
            if perf_counter() > until:
                return
        self._listening.release()
        self.wake()
        self._thread.join(seconds)
        self.let_go()

    def let_go(self) -> None:
        """Close what it listens with."""
        self._selector.close()
        self._ear.close()
        self._mouth.close()
