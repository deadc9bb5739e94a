"""`Limit` and `Rate`: how many calls may run at once, or begin within some seconds; shared by processes, and by runs.

Whoever is refused stands in a line, and is told when it is its turn: runs that share a limit take turns.

Knows nothing of graphs, nor of how anything runs: those who take are told through `freed`, from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from math import inf
from time import monotonic
from typing import Any, Protocol

from pmflow.errors import ConfigurationError

__all__ = ["Limit", "Rate"]


class Waiting(Protocol):
    """Who stands in line."""

    def freed(self) -> None:
        """Hear that it is worth asking again; from any thread."""


def _whole(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{what} must be a whole number, 1 or more, not {value!r}", setting="limit")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
        raise ConfigurationError(f"a rate is per a positive number of seconds, not {value!r}", setting="limit")
    return value


class _Line:
    """A lock, and those who wait, the first of whom comes next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[Waiting] = deque()

    def take(self, who: Waiting) -> float:
        """Take a place: 0.0 if there is one, else the seconds until it is worth asking again, or infinity."""
        with self._lock:
            line = self._line
            delay = inf if line and line[0] is not who else self._delay()
            if delay:
                if who not in line:
                    line.append(who)
                return delay
            if line:
                line.popleft()
            self._took()
        self._tell()
        return 0.0

    def forget(self, who: Waiting) -> None:
        """Take out of the line who does not want a place any more."""
        with self._lock:
            if who not in self._line:
                return
            self._line.remove(who)
        self._tell()

    def _tell(self) -> None:
        """Tell the first in line, if there may be a place."""
        with self._lock:
            first = self._line[0] if self._line and self._delay() < inf else None
        if first is not None:
            first.freed()

    def _delay(self) -> float:
        raise NotImplementedError

    def _took(self) -> None:
        raise NotImplementedError


class Limit(_Line):
    """At most so many calls at once, of all processes and all runs that have this object.

    A call in a thread that is given up, which nothing can stop, gives its place back although it may go on for a while.

    Args:
        most: how many.

    Raises:
        ConfigurationError: a number that cannot work.

    >>> import pmflow
    >>> database = Limit(2)
    >>> read = pmflow.process(lambda n: n + 1, id="read", map_over={"n": "ns"}, limit=database)
    >>> pmflow.run(read, inputs={"ns": [1, 2, 3]}).value
    [2, 3, 4]
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = _whole("a limit", most)
        self._taken = 0

    def give_back(self) -> None:
        """Note that a call has ended."""
        with self._lock:
            self._taken -= 1
        self._tell()

    undo = give_back

    def began(self) -> None:
        """Note that a call has begun, which makes no difference."""

    def _delay(self) -> float:
        return 0.0 if self._taken < self.most else inf

    def _took(self) -> None:
        self._taken += 1

    def __repr__(self) -> str:
        return f"Limit({self.most})"

    def __reduce__(self) -> Any:
        """Travel as a limit of the same number: what bounds calls in another process is another one."""
        return Limit, (self.most,)


class Rate(_Line):
    """At most so many calls that begin within some seconds, of all processes and all runs that have this object.

    It is their beginning that counts: what waits for a thread or a worker has not begun.

    Args:
        most: how many.
        per: seconds.

    Raises:
        ConfigurationError: numbers that cannot work.

    >>> Rate(10, per=1.0)
    Rate(10, per=1.0)
    """

    def __init__(self, most: int, per: float = 1.0) -> None:
        super().__init__()
        self.most = _whole("a rate", most)
        self.per = _seconds(per)
        self._begun: deque[float] = deque(maxlen=most)

    def give_back(self) -> None:
        """Note that a call has ended, which makes no difference."""

    def began(self) -> None:
        """Note that the call that was to begin last has begun now, and not when it was handed over."""
        with self._lock:
            if self._begun:  # it has not waited for longer than the period
                self._begun.pop()
            self._begun.append(monotonic())

    def undo(self) -> None:
        """Note that the call that was to begin last has not."""
        with self._lock:
            self._begun.pop()
        self._tell()

    def _delay(self) -> float:
        if len(self._begun) < self.most:
            return 0.0
        return max(0.0, self._begun[0] + self.per - monotonic())

    def _took(self) -> None:
        self._begun.append(monotonic())

    def __repr__(self) -> str:
        return f"Rate({self.most}, per={self.per})"

    def __reduce__(self) -> Any:
        """Travel as a rate of the same numbers."""
        return Rate, (self.most, self.per)


def limit_of(value: Any) -> Limit | Rate:
    """Return a limit for a number, or the limit itself."""
    return value if isinstance(value, (Limit, Rate)) else Limit(_whole("a limit", value))
