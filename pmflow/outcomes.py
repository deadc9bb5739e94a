"""Outcomes: what the engine records of each process, small and plain.

Times are `time.perf_counter()` floats. Somebody who asks gets a `ProcessResult` made of one (see `results`).
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from operator import attrgetter
from typing import Any

from pmflow.errors import ProcessError, text_of


class ProcessState(Enum):
    """Where a process stands. Every process of a run ends in one of the last four."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


# Outcomes


class Released:
    """Stands where a value was that is not kept."""

    def __reduce__(self) -> str:
        return "RELEASED"


RELEASED = Released()


class Handle:
    """A result by reference, opened only where its value is needed."""

    __slots__ = ()

    def open(self) -> Any:
        """Return the value.

        Raises:
            ProcessError: it cannot be had here.
        """
        raise NotImplementedError

    def __reduce__(self) -> Any:
        """Travel as the value itself."""
        return opened, (self.open(),)


class Handles(Handle):
    """Values and handles of values, as one list."""

    __slots__ = ("_values",)

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def open(self) -> list[Any]:
        """Return the values."""
        return [opened(each) for each in self._values]


def opened(value: Any) -> Any:
    """Return a value, opened if it is a handle.

    Raises:
        ProcessError: it cannot be had here.
    """
    return value.open() if isinstance(value, Handle) else value


Note = tuple[int, str | None, bool] | tuple[int, str | None, bool, float, int]
"""How many attempts it took, who ran it, whether all have ended; of a worker also seconds of the cores, and bytes."""

FIRST: Note = (1, None, True)


class Substitute(tuple[Any, ...]):  # noqa: SLOT001 - a tuple can have no slots
    """The note of a value that stands in for that of a call that failed.

    ``exception`` is its failure; ``traceback`` a text where that was raised elsewhere.
    """

    exception: BaseException
    traceback: str | None

    def __reduce__(self) -> Any:
        """Travel without an exception that cannot; its type and text stay."""
        exception, traceback = self.exception, self.traceback
        if not travels(exception):
            traceback = traceback or traceback_text(exception)
            exception = ProcessError(f"{type(exception).__name__}: {text_of(exception)}")
        return Substitute, (tuple(self),), {"exception": exception, "traceback": traceback}


class Success:
    """The call returned ``value``, or a handle of it; ``note``: see `Note`."""

    __slots__ = ("ended", "note", "started", "value")

    def __init__(self, value: Any, started: float, ended: float, note: Note = FIRST) -> None:
        self.value = value
        self.started = started
        self.ended = ended
        self.note = note

    @property
    def attempts(self) -> int:
        """How often it was started."""
        return self.note[0]

    @property
    def worker(self) -> str | None:
        """Who ran it."""
        return self.note[1]

    @property
    def stopped(self) -> bool:
        """False if an earlier attempt was given up and may still be running."""
        return self.note[2]

    @property
    def usage(self) -> tuple[float, int] | None:
        """Seconds of the cores, and the most bytes, that it took in a worker."""
        return self.note[3:] or None


class Failure:
    """The call raised, was refused, timed out, or its worker died.

    ``traceback`` is a text where the exception was raised elsewhere; ``stopped`` says whether work that was given up
    has really ended; ``required`` whether it fails the run; ``progress`` how far it has said it had got.
    """

    __slots__ = (
        "attempts",
        "ended",
        "exception",
        "progress",
        "required",
        "started",
        "stopped",
        "traceback",
        "usage",
        "worker",
    )

    def __init__(
        self,
        exception: BaseException,
        started: float,
        ended: float,
        *,
        traceback: str | None = None,
        worker: str | None = None,
        note: Note | None = None,
    ) -> None:
        self.exception = exception
        self.started = started
        self.ended = ended
        self.attempts = 1
        self.worker = worker if note is None else note[1]
        self.usage: tuple[float, int] | None = (note and note[3:]) or None
        self.traceback = traceback
        self.stopped = True
        self.required = True
        self.progress = 0.0

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """Travel without an exception that cannot; its type and text stay."""
        state = {name: getattr(self, name) for name in self.__slots__}
        if not travels(self.exception):
            state["traceback"] = self.traceback or traceback_text(self.exception)
            state["exception"] = ProcessError(f"{type(self.exception).__name__}: {text_of(self.exception)}")
        return None, state


class Skipped:
    """It could not run: ``failed`` if something it needs failed, else because that has no value."""

    __slots__ = ("ended", "failed", "reason")

    def __init__(self, reason: str, ended: float, *, failed: bool) -> None:
        self.reason = reason
        self.ended = ended
        self.failed = failed


class Cancelled:
    """The run stopped before it had ended, or before it began (``started`` is None)."""

    __slots__ = ("attempts", "ended", "progress", "started", "stopped", "worker")

    def __init__(
        self,
        started: float | None,
        ended: float,
        *,
        attempts: int = 0,
        stopped: bool = True,
        worker: str | None = None,
        progress: float = 0.0,
    ) -> None:
        self.started = started
        self.ended = ended
        self.attempts = attempts
        self.stopped = stopped
        self.worker = worker
        self.progress = progress


_STARTED = attrgetter("started")


class Mapped:
    """All elements of a mapped process have ended.

    ``lacks`` says that elements of it have failed which are required, although all who depend on it handle that;
    ``failed`` whether it counts as a failure; ``end`` why there are not all elements that there should have been;
    ``attempts`` is 0 if they were given.
    """

    __slots__ = ("_elements", "attempts", "end", "ended", "failed", "lacks", "started", "state")

    def __init__(
        self,
        elements: list[Outcome],
        now: float,
        end: Skipped | Cancelled | None = None,
        *,
        handled: bool = False,
        attempts: int = 1,
    ) -> None:
        self._elements = elements
        self.attempts = attempts
        self.end = end
        self.ended = now
        if end is None and set(map(type, elements)) == {Success}:  # a million of them, it may be
            self.started = min(map(_STARTED, elements))
            self.state, self.lacks, self.failed = ProcessState.COMPLETED, False, False
            return
        self.lacks = handled and any(type(each) is Failure for each in elements)
        self.started = min((began(each) for each in elements), default=now)
        self.failed = True
        ends = elements if end is None else [*elements, end]
        if any(type(each) is Failure and each.required for each in ends):
            self.state = ProcessState.FAILED
            return
        if any(type(each) is Skipped and each.failed for each in ends):
            self.state = ProcessState.SKIPPED
            return
        self.failed = False
        if any(type(each) is Cancelled for each in ends):
            self.state = ProcessState.CANCELLED
        elif end is not None:
            self.state = ProcessState.SKIPPED
        else:
            self.state = ProcessState.COMPLETED

    @property
    def reason(self) -> str | None:
        """Why it is SKIPPED, if it is not for one of its elements."""
        return self.end.reason if type(self.end) is Skipped and self.state is ProcessState.SKIPPED else None

    @property
    def value(self) -> Any:
        """The values of the elements that have one, or their handles; RELEASED if any of them is."""
        values = [each.value for each in self._elements if type(each) is Success]
        return RELEASED if Released in set(map(type, values)) else values

    @property
    def shortfall(self) -> str | None:
        """How many elements have no value, or a fallback: ``"of 3 elements 1 failed"``; None if all have their own."""
        elements = self._elements
        if set(map(type, elements)) <= {Success} and Substitute not in set(map(type, map(_NOTE, elements))):
            return None  # as a rule, be it a million
        counts = Counter(map(_end_of, elements))
        found = ", ".join(f"{counts[end]:,} {end}" for end in _FALLEN_SHORT if counts[end])
        return f"of {len(elements):,} elements {found}"


Outcome = Success | Failure | Skipped | Cancelled | Mapped

_NOTE = attrgetter("note")
_FALLEN_SHORT = ("failed", "skipped", "cancelled", "fell back")


def _end_of(element: Outcome) -> str:
    stands_in = type(element) is Success and type(element.note) is Substitute
    return "fell back" if stands_in else state_of(element).value


def began(outcome: Outcome) -> float:
    """Return when it began, or when it was known that it would not."""
    if type(outcome) is Success:
        return outcome.started
    started = getattr(outcome, "started", None)
    return outcome.ended if started is None else started


def travels(exception: BaseException) -> bool:
    """Whether an exception can be pickled, and unpickled again."""
    import pickle

    try:
        pickle.loads(pickle.dumps(exception))  # noqa: S301 - its own bytes
    except Exception:  # noqa: BLE001 - whatever it raises, it does not travel
        return False
    return True


def traceback_text(exception: BaseException, limit: int = 50_000) -> str:
    """Return the traceback as Python prints it, its middle cut out beyond ``limit`` characters."""
    import traceback

    text = "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n... {len(text) - limit} characters left out ...\n{text[-limit // 2 :]}"


def state_of(outcome: Outcome) -> ProcessState:
    """Return the state that a process ended in."""
    if isinstance(outcome, Mapped):
        return outcome.state
    return _STATES[type(outcome)]


_STATES: dict[type, ProcessState] = {
    Success: ProcessState.COMPLETED,
    Failure: ProcessState.FAILED,
    Skipped: ProcessState.SKIPPED,
    Cancelled: ProcessState.CANCELLED,
}
