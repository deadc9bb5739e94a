"""What is said too often is said less often: the newest, and the last of all.

The workers load this file by its path: it imports the standard library only, and little of it.
"""

from __future__ import annotations

import _thread
from time import perf_counter, sleep

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EVERY = 0.05
"""Seconds from one message to the next: what people see as movement."""


def in_a_thread(seconds: float, function: Callable[[], None]) -> None:
    """Call a function after a while, on a thread that there is for as long only."""

    def wait() -> None:
        sleep(seconds)
        function()

    _thread.start_new_thread(wait, ())


class Throttle:
    """Sends messages, one in `EVERY` seconds. What comes sooner waits, and is replaced by what is newer.

    Args:
        send: sends a message; may raise OSError if nobody hears it any more.
        clock: tells the time.
        later: calls a function after so many seconds, from any thread.

    Attributes:
        waiting: the message that waits.
    """

    def __init__(
        self,
        send: Callable[[Any], None],
        clock: Callable[[], float] = perf_counter,
        later: Callable[[float, Callable[[], None]], None] = in_a_thread,
    ) -> None:
        self.waiting: Any = None
        self._send = send
        self._clock = clock
        self._later = later
        self._lock = _thread.allocate_lock()
        self._next = -EVERY
        self._expected = False

    def take(self, message: Any) -> None:
        """Send a message now, or when it is time; from any thread."""
        with self._lock:
            self.waiting = message
            left = self._next - self._clock()
            if left <= 0:
                self._send_now()
            elif not self._expected:
                self._expected = True
                self._later(left, self._send_late)

    def flush(self) -> None:
        """Send what waits, without waiting."""
        with self._lock:
            self._send_now()

    def _send_late(self) -> None:
        try:
            with self._lock:
                self._expected = False
                self._send_now()
        except OSError:
            return  # the program has gone, and this process goes with it

    def _send_now(self) -> None:
        if self.waiting is not None:
            self._next = self._clock() + EVERY
            self._send(self.waiting)
            self.waiting = None  # not before: whoever has nothing to flush goes on, and says something else
