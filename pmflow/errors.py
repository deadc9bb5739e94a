"""Every exception of pmflow, and the sentences they say.

Knows nothing of the rest of the package. An error names the situation, the culprit and the remedy; the facts behind
the sentence are attributes, so that a program can act on them. All of them can be pickled.

>>> error = MissingDependencyError("'report' needs 'totl'", process_id="report", parameter="totl", suggestion="total")
>>> error.suggestion
'total'
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Self

    from pmflow.results import Run

__all__ = [
    "CommandError",
    "ConfigurationError",
    "CycleError",
    "DuplicateProcessError",
    "GraphError",
    "InputError",
    "MissingDependencyError",
    "NoCurrentProcessError",
    "NoValueError",
    "PerformanceWarning",
    "PmflowError",
    "ProcessCancelledError",
    "ProcessError",
    "ProcessTimeoutError",
    "RunTimeoutError",
    "ShutdownError",
    "ThreadsExhaustedError",
    "TransferError",
    "TypeMismatchError",
    "ValidationError",
    "ValueReleasedError",
    "WorkerCrashedError",
    "WorkflowError",
    "did_you_mean",
    "nearest",
    "text_of",
]


class PmflowError(Exception):
    """The root of every error that pmflow raises.

    Args:
        message: the whole sentence.
        **facts: what it is about; each becomes an attribute.
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ConfigurationError(PmflowError, ValueError):
    """A setting that cannot work; raised where it is written, before anything runs."""

    process_id: str | None = None
    setting: str | None = None


class GraphError(PmflowError, ValueError):
    """A graph, or a call of ``run``, that is refused before anything runs."""

    process_id: str | None = None


class CycleError(GraphError):
    """Processes that wait for one another."""

    cycle: tuple[str, ...] = ()


class MissingDependencyError(GraphError):
    """A parameter, or an ``after``, that nothing provides."""

    parameter: str | None = None
    suggestion: str | None = None


class DuplicateProcessError(GraphError):
    """Two processes of one id."""

    places: tuple[str, str] = ("", "")


class TypeMismatchError(GraphError):
    """A parameter is annotated as one thing, and the function that feeds it as giving another.

    The types are texts, the places those of the parameter's function and of the other one. Needs beartype, to be found.

    >>> import pmflow
    >>> @pmflow.process
    ... def page() -> str: ...
    >>> @pmflow.process
    ... def half(page: float) -> float: ...
    >>> try:
    ...     pmflow.Graph([page, half])
    ... except pmflow.TypeMismatchError as error:
    ...     error.wanted, error.made
    ('float', 'str')
    """

    parameter: str | None = None
    source: str | None = None
    wanted: str = ""
    made: str = ""
    places: tuple[str, str] = ("", "")


class InputError(GraphError):
    """An input, override or target that does not fit the graph."""

    name: str | None = None
    suggestion: str | None = None


class ProcessError(PmflowError):
    """The failure of one process. The original exception, where there is one, is its ``__cause__``."""

    process_id: str | None = None
    attempt: int | None = None


class ProcessTimeoutError(ProcessError, TimeoutError):
    """An attempt that took longer than its ``timeout`` (seconds)."""

    timeout: float | None = None


class ProcessCancelledError(ProcessError):
    """The attempt was given up (its timeout, or a stop of its run): what `Current.check_cancelled` raises to end it."""


class WorkerCrashedError(ProcessError):
    """The worker died under the call; ``exit_code`` or ``signal`` says how."""

    exit_code: int | None = None
    signal: str | None = None
    elapsed: float | None = None


class ThreadsExhaustedError(ProcessError):
    """Too many threads are still held by calls that were given up and cannot be stopped."""


class TransferError(ProcessError):
    """Something that cannot travel to a worker or back from it."""

    parameter: str | None = None
    type_name: str | None = None


class CommandError(ProcessError):
    """A command that could not be started, or did not end well.

    ``command`` is its argument list, ``code`` its exit code (or ``signal`` the name of the signal that ended it), and
    ``stderr`` the end of what it wrote there. ``parameter`` is the one whose value cannot stand in a command.
    """

    command: Sequence[str] = ()
    code: int | None = None
    signal: str | None = None
    stderr: str = ""
    parameter: str | None = None


class ValidationError(ProcessError):
    """A result that one of the process's ``validation_rules`` refused."""

    rule: str | None = None


class ValueReleasedError(PmflowError):
    """The data of a result that was not kept."""

    process_id: str | None = None


class NoValueError(PmflowError):
    """``run.value`` of a run that has no value, or several."""


class NoCurrentProcessError(PmflowError, LookupError):
    """``current`` was called where no process is running."""


class PerformanceWarning(UserWarning):
    """Something works, and is much slower than it need be; the text names the remedy."""


class ShutdownError(PmflowError, RuntimeError):
    """``run`` was called while the interpreter is shutting down."""


class RunTimeoutError(PmflowError, TimeoutError):
    """The whole run took longer than its ``timeout`` (seconds); ``run`` holds what had finished."""

    timeout: float | None = None
    run: Run[Any] | None = None


class WorkflowError(PmflowError, ExceptionGroup[Exception]):
    """Required processes failed. A group of the original exceptions; ``run`` holds everything that did finish.

    Each exception carries a note naming process and attempt, so ``except*`` sees the originals:

    >>> import pmflow
    >>> @pmflow.process
    ... def broken():
    ...     raise ValueError("no such page")
    >>> try:
    ...     pmflow.run(broken)
    ... except pmflow.WorkflowError as error:
    ...     error.exceptions[0]
    ValueError('no such page')
    """

    run: Run[Any] | None = None

    def __new__(cls, message: str, exceptions: Sequence[Exception], **_facts: Any) -> Self:
        """Make the group; facts are set by ``__init__``."""
        return super().__new__(cls, message, list(exceptions))

    def __init__(self, message: str, exceptions: Sequence[Exception], **facts: Any) -> None:
        ExceptionGroup.__init__(self, message, list(exceptions))
        self.__dict__.update(facts)

    def derive(self, excs: Sequence[Exception], /) -> WorkflowError:  # type: ignore[override]
        """Return a group of some of the exceptions, with the same run (what ``except*`` and ``split`` use)."""
        return WorkflowError(self.message, excs, run=self.run)


def text_of(exception: BaseException) -> str:
    """Return the text of an exception; of one whose own text raises, that it has none.

    >>> text_of(ValueError("no such page"))
    'no such page'
    """
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return f"<{type(exception).__name__} whose text cannot be made>"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None; also the one that a sub-graph has made of it.

    >>> nearest("totl", ["total", "page"]), nearest("fit", ["train.fit"])
    ('total', 'train.fit')
    """
    from difflib import get_close_matches

    names = list(known)
    matches = get_close_matches(name, names, n=1)
    return matches[0] if matches else next((each for each in names if each.endswith(f".{name}")), None)


def did_you_mean(suggestion: str | None) -> str:
    """Return the end of a sentence: ``"; did you mean 'total'?"``, or nothing."""
    return f"; did you mean {suggestion!r}?" if suggestion else ""
