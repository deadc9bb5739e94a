"""What calls know of where they are: of which process, and which context variables go to worker processes with them.

Nearly no call asks which it is, so for most nothing is done beforehand: what makes one call after another, on a thread
of its own meanwhile, is that thread's *place*, and knows which it is at. Tasks take turns on a thread: each finds
itself in the context variable `HERE`. What others are told, once they have asked, is kept there too, and goes where
their context goes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from math import inf
from time import perf_counter
from typing import Any, Protocol, TypeVar

from attrs import field, frozen

from pmflow.errors import ConfigurationError, NoCurrentProcessError, ProcessCancelledError

__all__ = ["Current", "carry", "current"]

T = TypeVar("T")

# Running processes

UNBOUNDED = inf, inf
"""Of a call: for how many seconds it may run, and until when (`time.perf_counter()`) its run may."""


@frozen(eq=False)
class Current:
    """What a running process knows of itself; `current` returns it. It can be handed to any thread.

    Attributes:
        id: its key in the run; of an element of a mapped process such as ``"page_3"``.
        index: that of an element of a mapped process; else None.
        attempt: which attempt this is (1, 2, ...).
        deadline: when this attempt is given up, for its own timeout or that of the run, as a moment of
            `time.perf_counter`; None without a timeout.

    >>> import pmflow
    >>> @pmflow.process(timeout=60)
    ... def page():
    ...     here = pmflow.current()
    ...     return here.id, here.index, here.attempt, 59 < here.remaining() < 60
    >>> pmflow.run(page).value
    ('page', None, 1, True)
    """

    id: str
    index: int | None
    attempt: int
    deadline: float | None
    _is_given_up: Callable[[], bool] = field(repr=False)
    _tell: Callable[[float, str], object] = field(repr=False)

    @classmethod
    def of(  # noqa: PLR0913, PLR0917 - what two kinds of executors know, of which neither knows the other
        cls,
        id: str,
        index: int | None,
        attempt: int,
        started: float,
        bounds: tuple[float, float],
        is_given_up: Callable[[], bool],
        tell: Callable[[float, str], object],
    ) -> Current:
        """Return that of a call; for executors."""
        deadline = min(started + bounds[0], bounds[1])
        return cls(id, index, attempt, None if deadline == inf else deadline, is_given_up, tell)

    def remaining(self) -> float | None:
        """Return how many seconds this attempt has left, 0 if it is over; None without a timeout."""
        return None if self.deadline is None else max(0.0, self.deadline - perf_counter())

    def check_cancelled(self) -> None:
        """End this attempt if it has been given up.

        Nothing can end a thread from outside: one that works for long is to call this between its steps. A coroutine
        is cancelled at its next await and a worker is killed, so there it does no harm, and is rarely needed.

        Raises:
            ProcessCancelledError: its timeout has passed, or its run was stopped. Let it pass: whatever the function
                returns or raises after that is dropped.

        >>> import pmflow
        >>> @pmflow.process
        ... def total(numbers):
        ...     here, found = pmflow.current(), 0
        ...     for number in numbers:
        ...         here.check_cancelled()
        ...         found += number
        ...     return found
        >>> pmflow.run(total, inputs={"numbers": [1, 2]}).value
        3
        """
        if self._is_given_up():
            raise ProcessCancelledError(
                f"'{self.id}', attempt {self.attempt}, has been given up (its timeout has passed, or its run was "
                f"stopped), and ends here; what it returns or raises is dropped",
                process_id=self.id,
                attempt=self.attempt,
            )

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far this process has got.

        Hooks are told by an `Event` of kind ``"process_progress"``, and the ``progress`` of a `ProcessMetadata` says it
        (0 to 100). Say it as often as you like: what nobody has heard when there is something newer is dropped, but not
        the last before the process ends. Of a worker process one is heard in 0.05 s, of what holds up an event loop
        only the last; from an attempt that has been given up none is.

        Args:
            fraction: what part is done, from 0 to 1.
            message: what it is at.

        Raises:
            ConfigurationError: no number from 0 to 1, or a message that is no text.

        >>> import pmflow
        >>> told = []
        >>> @pmflow.process
        ... def page():
        ...     pmflow.current().progress(0.5, "half of it")
        >>> run = pmflow.run(page, hooks=[told.append])
        >>> [(event.progress, event.message) for event in told if event.kind == "process_progress"]
        [(50.0, 'half of it')]
        """
        is_number = hasattr(fraction, "__float__") and not isinstance(fraction, bool)
        if not is_number or not 0 <= float(fraction) <= 1:
            raise ConfigurationError(
                f"'{self.id}': progress is a number from 0 to 1, not {fraction!r}; divide what is done by the whole",
                process_id=self.id,
                setting="progress",
            )
        if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is checked
            raise ConfigurationError(
                f"'{self.id}': the message of progress is a text, not {message!r}; use str()",
                process_id=self.id,
                setting="progress",
            )
        self._tell(float(fraction), str.__str__(message))  # of no other class: it may go to another process


class Place(Protocol):
    """What makes one call after another on a thread."""

    def current(self) -> Current | None:
        """Return what the call that is made just now knows of itself; None if there is none."""


class Tasks(Protocol):
    """What makes calls in tasks."""

    def current(self, call: Any, /) -> Current:
        """Return what a call that is under way knows of itself."""
        ...


class Places(threading.local):
    """The place of each thread: the innermost of those that make a call there."""

    place: Place | None = None


PLACES = Places()

HERE: ContextVar[Current | tuple[Any, Any, Tasks] | None] = ContextVar("pmflow_here", default=None)
"""Of a task: the call, what it was fed, and who makes it; else of a call that has asked what that was told."""


def current() -> Current:
    """Return what the running process knows of itself.

    It is that of the function that calls this, in nested runs of the innermost one, and of the tasks that it starts. A
    thread that it starts has no process: hand it what this returns. Once the function has called this, it is also known
    in threads that have a copy of its context, as those of `asyncio.to_thread` and `anyio.to_thread` do.

    Raises:
        NoCurrentProcessError: no process is running here.

    >>> import pmflow
    >>> @pmflow.process(type="async", map_over="number")
    ... def double(number):
    ...     return pmflow.current().index, number * 2
    >>> pmflow.run(double, inputs={"number": [5, 6]}).value
    [(0, 10), (1, 12)]
    """
    here = HERE.get()
    if isinstance(here, Current):
        return here
    if here is not None:
        call, _, tasks = here
        return tasks.current(call)
    found: Place | None = PLACES.place or getattr(sys, "_pmflow_worker", None)
    here = None if found is None else found.current()
    if here is None:
        raise NoCurrentProcessError(
            "no process is running here, so current() has nothing to tell; call it in a function that pmflow.run has "
            "started, and hand what it returns to threads that the function starts itself"
        )
    HERE.set(here)
    return here


def is_inside() -> bool:
    """Whether a process is running here, so that a run which begins here is within another."""
    found: Place | None = PLACES.place or getattr(sys, "_pmflow_worker", None)
    return HERE.get() is not None or (found is not None and found.current() is not None)


# Context variables

CARRIED: list[tuple[ContextVar[Any], dict[str, Any]]] = []
"""The variables that go along, each with the names of the module that has it."""


def carry(variable: ContextVar[T]) -> ContextVar[T]:
    """Let the value of a context variable go to worker processes with each call, and return the variable.

    The variable has to be a global of an importable module, which calls this: a worker finds it there. Its values have
    to be picklable. Tasks and threads see all context variables, with or without this.

    Args:
        variable: the variable.

    Raises:
        ConfigurationError: it is no context variable.

    >>> request = carry(ContextVar("request", default="none"))
    >>> request.get()
    'none'
    """
    if not isinstance(variable, ContextVar):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is checked
        raise ConfigurationError(f"carry() takes a ContextVar, not {variable!r}")
    CARRIED.append((variable, sys._getframe(1).f_globals))  # noqa: SLF001 - it has no other door
    return variable
