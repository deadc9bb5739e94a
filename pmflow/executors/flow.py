"""How many elements a call may yield before it has to wait for those who take them."""

from __future__ import annotations

import threading
from collections.abc import Callable

ENDLESS = 1 << 62
"""More elements than anybody yields."""


class Flow:
    """What a run grants to a call that yields, and the call takes, element by element; from any two threads.

    Args:
        count: how many elements it may yield to begin with.

    Attributes:
        begun: whether the run has had its first element.
        closed: whether the call has been given up: nobody takes what it yields.

    >>> flow, told = Flow(1), []
    >>> flow.take(), flow.take(), flow.take_notice(lambda: told.append("go on"))
    (True, False, False)
    >>> flow.grant(1)
    >>> told, flow.take()
    (['go on'], True)
    """

    __slots__ = ("_left", "_lock", "_wake", "begun", "closed")

    def __init__(self, count: int) -> None:
        self.begun = False
        self.closed = False
        self._left = count
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None

    def take(self) -> bool:
        """Take the right to yield one element; False if there is none."""
        with self._lock:
            if not self._left:
                return False
            self._left -= 1
            return True

    def take_notice(self, wake: Callable[[], None]) -> bool:
        """Ask to be told of the next grant; True if there is no need to wait for it.

        Args:
            wake: called, once, when there is something to take or the call has been given up; by who says so.
        """
        with self._lock:
            if self._left or self.closed:
                return True
            self._wake = wake
            return False

    def take_all(self) -> int:
        """Take all there is, for somebody else to count."""
        with self._lock:
            count, self._left = self._left, 0
            return count

    def grant(self, count: int) -> None:
        """Grant so many elements more."""
        with self._lock:
            self._left += count
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def close(self) -> None:
        """Say that nobody takes what is yielded any more."""
        with self._lock:
            self.closed = True
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()
