"""One attempt at a process: what it is called with, and what its end means.

`bind` is the truth table of the design: what the end of a dependency means for each kind of edge. The worst decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pmflow.decorator import FunctionProcess
from pmflow.engine.plan import Node
from pmflow.errors import ProcessError, ProcessTimeoutError, ValidationError, text_of
from pmflow.graph import (
    AFTER,
    DEFAULT,
    EACH,
    OR_ELSE,
    OR_ELSE_RESULT,
    RESULT,
    RESULT_LIST,
    RESULTS,
    VALUE,
    takes_result,
)
from pmflow.outcomes import Failure, Mapped, Outcome, Skipped, Success, opened
from pmflow.outputs import Arity
from pmflow.results import ProcessResult

Arguments = tuple[Sequence[Any], Mapping[str, Any]]

NONE: Sequence[Any] = ()
EMPTY: Mapping[str, Any] = {}


class Known(Protocol):
    """What has ended so far."""

    bound: dict[str, dict[str, Any]]
    outcomes: dict[str, Outcome]
    elements: dict[str, list[Any]]
    sequences: dict[str, dict[str, list[Any]]]

    def result(self, name: str, index: int | None = None) -> ProcessResult[Any]:
        """Return the result of a process, or of an element."""
        ...


def bind(node: Node, known: Known, now: float, *, skip: str | None = None) -> dict[str, Any] | Skipped:
    """Return the parameters of a process by name, of an element those that all elements share; or why it cannot run.

    Args:
        node: the process.
        known: what has ended.
        now: the time, should it be skipped.
        skip: a source to leave out: the link before, whose value the executor passes on.
    """
    values: dict[str, Any] = dict(known.bound.get(node.id, EMPTY))
    refused: Skipped | None = None
    outcomes = known.outcomes
    chosen: set[str] | None = None
    for parameter, source, kind in node.edges:
        if kind >= EACH or source == skip or (chosen is not None and parameter in chosen):
            continue
        outcome = outcomes[source]
        if kind >= OR_ELSE:
            if not why(source, outcome)[1] and not (type(outcome) is Mapped and outcome.lacks):
                values[parameter] = known.result(source) if kind == OR_ELSE_RESULT else outcome.value  # type: ignore[union-attr]
                chosen = {*(chosen or ()), parameter}
            continue
        if type(outcome) is Success and kind <= DEFAULT:
            values[parameter] = outcome.value
            continue
        found = _value(source, kind, outcome, known)
        if isinstance(found, Skipped):
            if refused is None or found.failed > refused.failed:
                refused = found
                refused.ended = now
        elif found is not _ABSENT and kind == RESULTS:
            values[source] = found
        elif found is not _ABSENT:
            values[parameter] = found
    return values if refused is None else refused


def bind_element(
    node: Node, index: int, shared: Mapping[str, Any], known: Known, now: float
) -> dict[str, Any] | Skipped:
    """Return the parameters of one element by name, or why it cannot run."""
    values = dict(shared)
    refused: Skipped | None = None
    for parameter, sequence in known.sequences[node.id].items():
        values[parameter] = sequence[index]
    for parameter, source, kind in node.edges:
        if kind < EACH or parameter in values:
            continue
        outcome = known.elements[source][index]
        if type(outcome) is Success and kind - EACH <= DEFAULT:
            values[parameter] = outcome.value
            continue
        found = (
            known.result(source, index)
            if takes_result(kind)
            else _value(f"{source}_{index}", kind - EACH, outcome, known)
        )
        if isinstance(found, Skipped):
            if refused is None or found.failed > refused.failed:
                refused = found
                refused.ended = now
        elif found is not _ABSENT:
            values[parameter] = found
    return values if refused is None else refused


_ABSENT = object()


def _value(source: str, kind: int, outcome: Outcome, known: Known) -> Any:  # noqa: PLR0911 - a table
    """Return what an edge passes on, `_ABSENT` for nothing, or a `Skipped`."""
    if kind == RESULT:
        return known.result(source)
    if kind == RESULT_LIST:
        elements = known.elements[source] if isinstance(outcome, Mapped) else None  # else it has ended as a whole
        return [known.result(source)] if elements is None else [known.result(source, i) for i in range(len(elements))]
    failed, reason = why(source, outcome)
    if failed:
        return Skipped(reason, 0.0, failed=True)
    if kind == RESULTS:
        return _ABSENT if isinstance(outcome, Skipped) else known.result(source)
    if kind == AFTER:
        return _ABSENT
    if reason:
        return _ABSENT if kind == DEFAULT else Skipped(reason, 0.0, failed=False)
    return outcome.value  # type: ignore[union-attr]


def why(source: str, outcome: Outcome) -> tuple[bool, str]:
    """Say whether an end counts as a failure for what depends on it, and why it has no value (``""``: it has one)."""
    if isinstance(outcome, Failure):
        error = f"{type(outcome.exception).__name__}: {text_of(outcome.exception)}"
        return outcome.required, f"'{source}' failed ({_short(error)})"
    if isinstance(outcome, Skipped):
        return outcome.failed, outcome.reason
    if isinstance(outcome, Mapped) and (outcome.failed or outcome.reason is not None):
        return outcome.failed, outcome.reason or f"elements of '{source}' failed"
    if isinstance(outcome, (Success, Mapped)):
        return False, ""
    return False, f"'{source}' was cancelled"


def _short(text: str, length: int = 200) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= length else text[:length] + " ..."


def arguments(node: Node, values: dict[str, Any]) -> Arguments:
    """Return parameters by name as what the function is called with."""
    process = node.process
    if type(process) is FunctionProcess:
        positional = process._function.positional  # noqa: SLF001 - once per call
        if not positional:
            return NONE, values or EMPTY
        return _by_position(positional, values), values
    if "" in values:
        return (values[""],), EMPTY
    return (values,), EMPTY


def _by_position(positional: Sequence[tuple[str, Any]], values: dict[str, Any]) -> list[Any]:
    """Take the positional-only parameters out of the values; one that is left out before another keeps its default."""
    last = max((place for place, (name, _) in enumerate(positional) if name in values), default=-1)
    return [values.pop(name, default) for name, default in positional[: last + 1]]


def holds(node: Node, values: dict[str, Any]) -> bool:
    """Ask the condition of a process, if it has one, with the parameters that it names.

    Raises:
        Exception: whatever it raises.
    """
    condition = node.settings.when
    if condition is None:
        return True
    process = node.process
    if type(process) is not FunctionProcess:
        args, kwargs = arguments(node, values)
        return bool(condition(*args, **kwargs))
    asked = process._function.asked_by(node.asked, values)  # noqa: SLF001 - where the defaults are known
    return bool(condition(**{name: opened(value) for name, value in asked.items()}))


def feed(node: Node) -> str | int | None:
    """Say where a link takes the value of the link before: a parameter, a position, or nowhere."""
    parameter, _, kind = node.edges[0]
    if kind not in (VALUE, DEFAULT):
        return None
    positional: Sequence[tuple[str, Any]] = node.process._function.positional  # type: ignore[attr-defined]  # noqa: SLF001
    return next((place for place, (name, _) in enumerate(positional) if name == parameter), parameter)


# Validation


class Checked:
    """A function whose result must please some rules, wherever it is run."""

    __slots__ = ("function", "label", "rules")

    def __init__(self, function: Callable[..., Any], rules: Sequence[Callable[[Any], Any]], label: str) -> None:
        self.function = function
        self.rules = rules
        self.label = label

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, and every rule on what it returns."""
        from pmflow.executors.values import is_final

        value = self.function(*args, **kwargs)
        if not is_final(value):
            if not hasattr(value, "__next__"):
                return self._later(value)
            value = list(value)
        self._check(value)
        return value

    async def _later(self, value: Any) -> Any:
        from pmflow.executors.values import awaited

        value = await awaited(value)
        self._check(value)
        return value

    def _check(self, value: Any) -> None:
        for rule in self.rules:
            name = getattr(rule, "__name__", None) or repr(rule)
            try:
                accepted = rule(value)
            except Exception as error:
                raise ValidationError(
                    f"'{self.label}': its result was refused by {name}: {type(error).__name__}: {error}",
                    process_id=self.label,
                    rule=name,
                ) from error
            if accepted is False:
                raise ValidationError(
                    f"'{self.label}': its result was refused by {name}", process_id=self.label, rule=name
                )


def function_of(node: Node) -> Callable[..., Any]:
    """Return what an executor calls."""
    entry = node.process.entry
    rules = node.settings.validation_rules
    if node.settings.outputs:
        rules = (Arity(node.settings.outputs), *rules)
    return Checked(entry, rules, node.id) if rules else entry


# Ends


def unwrapped(outcome: Success) -> Success | Failure:
    """Take the outcome out of a `ProcessResult` that an overridden ``execute`` returned."""
    result = outcome.value
    if not isinstance(result, ProcessResult):
        return outcome
    if result.success:
        outcome.value = result.data
        return outcome
    exception = result.exception or ProcessError(result.error or result.reason or "execute returned a failure")
    return Failure(exception, outcome.started, outcome.ended, traceback=result.traceback, worker=outcome.worker)


def as_failure(label: str, failure: Failure) -> Failure:
    """Turn what is no `Exception` (SystemExit, KeyboardInterrupt, a cancellation of its own) into one that is."""
    exception = failure.exception
    if not isinstance(exception, Exception):
        error = ProcessError(f"'{label}' raised {type(exception).__name__}: {text_of(exception)}", process_id=label)
        error.__cause__ = exception
        failure.exception = error.with_traceback(exception.__traceback__)
    return failure


def timed_out(label: str, timeout: float, attempt: int, *, ended: bool) -> ProcessTimeoutError:
    """Return the error of an attempt that took too long."""
    rest = (
        "it was stopped"
        if ended
        else "its thread cannot be stopped: it may still be running, and its result is dropped"
    )
    return ProcessTimeoutError(
        f"'{label}' took longer than its timeout of {timeout:g} s; {rest}",
        process_id=label,
        timeout=timeout,
        attempt=attempt,
    )
