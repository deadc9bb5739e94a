"""`Limit` and `Rate`: how many calls may run at once, or begin within some seconds; shared by processes, and by runs.

`Cores` is the one limit that nobody has to declare: as many as the program may use.

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
        """Return the seconds until it is worth asking again."""
        raise NotImplementedError


class _Places(_Line):
    """Places that are taken one at a time."""

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

    def _took(self) -> None:
        raise NotImplementedError


class Limit(_Places):
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


class Rate(_Places):
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


class Cores(_Line):
    """The cores of the program, for calls that use several and for what runs in workers beside them.

    A call takes its cores with `take`. Calls of one core may be many and short, so a run counts them in bulk: it says
    how many it has (`report`), and asks how many more there may be (`room`). Both stand in one line, so that neither
    keeps the other from running.

    Args:
        most: how many there are. A call that wants more than that has them when nobody else has any.

    >>> class Somebody:
    ...     def freed(self): print("there may be room")
    >>> cores, one, other = Cores(4), Somebody(), Somebody()
    >>> cores.take(one, 3), cores.take(other, 2)
    (True, False)
    >>> cores.give_back(3)
    there may be room
    >>> cores.take(other, 2), cores.room(one, 10)
    (True, 2)
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._taken = 0
        self._ones: dict[Waiting, int] = {}

    def take(self, who: Waiting, count: int, *, anyway: bool = False) -> bool:
        """Take cores for one call, if there are as many and nobody was first, or anyway."""
        with self._lock:
            line, used = self._line, self._used()
            fits = (not line or line[0] is who) and (not used or used + count <= self.most)
            if not fits and not anyway:
                if who not in line:
                    line.append(who)
                return False
            if who in line:
                line.remove(who)
            self._taken += count
        self._tell()
        return True

    def give_back(self, count: int) -> None:
        """Note that a call has ended, or has not begun."""
        with self._lock:
            self._taken -= count
        self._tell()

    def report(self, who: Waiting, count: int) -> None:
        """Note how many calls of one core somebody has."""
        with self._lock:
            fewer = count < self._ones.get(who, 0)
            self._ones[who] = count
            if not count:
                del self._ones[who]
        if fewer:
            self._tell()

    def room(self, who: Waiting, wanted: int, *, anyway: bool = False) -> int:
        """Return how many more calls of one core somebody may have now, and note that it has them."""
        with self._lock:
            line = self._line
            if not line and not self._taken:
                granted = wanted  # nobody minds if they wait in the workers
            else:
                first = not line or line[0] is who
                granted = max(min(wanted, self.most - self._used()) if first else 0, int(anyway))
            if granted:
                self._ones[who] = self._ones.get(who, 0) + granted
                if who in line:
                    line.remove(who)
            elif who not in line:
                line.append(who)
        if granted:
            self._tell()
        return granted

    def _used(self) -> int:
        """Return how many are used: there are no more workers than cores, whatever waits in them."""
        return self._taken + min(sum(self._ones.values()), self.most)

    def _delay(self) -> float:
        return 0.0 if self._used() < self.most else inf


def limit_of(value: Any) -> Limit | Rate:
    """Return a limit for a number, or the limit itself."""
    return value if isinstance(value, (Limit, Rate)) else Limit(_whole("a limit", value))
