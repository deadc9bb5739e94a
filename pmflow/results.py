"""What a run ends in: the state and the result of every process, and `Run`, which holds them.

The engine records one small *outcome* per process (`Success`, `Failure`, `Skipped`, `Cancelled`, `Mapped`): when
things happened, as `time.perf_counter()` floats, and what came of them. `Run` makes a `ProcessResult` of an outcome
when somebody asks for it, so a run of a million processes does not pay for a million results that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, overload

from attrs import Attribute, Factory, define, field, fields

from pmflow.config import ProcessId, ProcessType, id_text
from pmflow.errors import (
    ConfigurationError,
    NoValueError,
    ProcessError,
    ValueReleasedError,
    did_you_mean,
    nearest,
    text_of,
)
from pmflow.outcomes import (
    RELEASED,
    Cancelled,
    Failure,
    Handle,
    Handles,
    Mapped,
    Outcome,
    ProcessState,
    Skipped,
    Substitute,
    Success,
    began,
    state_of,
    traceback_text,
    travels,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from pmflow.base import BaseProcess

    T = TypeVar("T", default=Any)
    S = TypeVar("S")
else:
    from typing import TypeVar

    T = TypeVar("T")
    S = TypeVar("S")

__all__ = ["ProcessMetadata", "ProcessResult", "ProcessState", "Run"]

SHOWN = 20
"""How many processes a `repr` or a message lists before it counts the rest."""


# Results


def _fraction(_metadata: Any, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:  # noqa: PLR2004
        raise ConfigurationError(
            f"{attribute.name} must be a number from 0 to 100, not {value!r}", setting=attribute.name
        )


def _a_state(_metadata: Any, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, ProcessState):
        raise ConfigurationError(f"{attribute.name} must be a ProcessState, not {value!r}", setting=attribute.name)


@define
class ProcessMetadata:
    """What is known of a process's last execution.

    Attributes:
        process_id: its key.
        state: where it stands.
        retries: attempts after the first.
        progress: 0 to 100.
        start_time: when it began.
        end_time: when it ended.
        last_error: the text of its error.
        result: what it returned.

    >>> ProcessMetadata("page").state
    <ProcessState.WAITING: 'waiting'>
    """

    process_id: str | ProcessId
    state: ProcessState = field(default=ProcessState.WAITING, validator=_a_state)
    retries: int = 0
    progress: float = field(default=0, validator=_fraction)
    start_time: datetime | None = None
    end_time: datetime | None = None
    last_error: str | None = None
    result: Any = None

    @property
    def retry_count(self) -> int:
        """The same as ``retries``."""
        return self.retries


def _state_of_result(result: ProcessResult[Any]) -> ProcessState:
    return ProcessState.COMPLETED if result.success else ProcessState.FAILED


def _progress_of_result(result: ProcessResult[Any]) -> float:
    return 100 if result.success else 0


@define(eq=False)
class ProcessResult(Generic[T]):
    """How one process ended.

    Attributes:
        success: whether it returned a value.
        data: that value; reading it raises `ValueReleasedError` if it was not kept.
        execution_time: seconds, of the last attempt.
        start_time: when the last attempt began (aware).
        end_time: when it ended (aware).
        error: the text of the exception; also of one that its fallback stands in for.
        error_type: the name of its type.
        error_message: the same text as ``error``.
        process_id: which process.
        state: COMPLETED, FAILED, SKIPPED or CANCELLED.
        exception: the exception itself.
        traceback: its traceback as text, with the part from a worker.
        attempts: how often it was started.
        stopped: False if work that was given up may still be running (a thread).
        reason: why it was skipped; what its fallback stands in for; of a map, how many of its elements have no value,
            or a fallback.
        strategy: where it ran.
        worker: the name of the thread, or the process number of the worker, that ran it.
        cpu_time: seconds that the last attempt took of the cores, in a worker.
        peak_memory: the most memory that the worker held during it, in bytes.
        fallback: whether the data is the fallback of a process whose last attempt failed: it is a success, and
            ``exception``, ``error`` and ``traceback`` tell of that failure.
        progress: 0 to 100: 100 of a success, else what the last attempt had said (`Current.progress`).

    >>> now = datetime.now(timezone.utc)
    >>> ProcessResult(success=True, data=3, execution_time=0.5, start_time=now, end_time=now).unwrap()
    3
    """

    success: bool
    _data: Any = field(alias="data")
    execution_time: float
    start_time: datetime
    end_time: datetime
    error: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    process_id: str | ProcessId | None = None
    state: ProcessState = field(default=Factory(_state_of_result, takes_self=True), validator=_a_state)
    exception: BaseException | None = None
    traceback: str | None = None
    attempts: int = 1
    stopped: bool = True
    reason: str | None = None
    strategy: ProcessType | None = None
    worker: str | None = None
    cpu_time: float | None = None
    peak_memory: int | None = None
    fallback: bool = False
    progress: float = field(default=Factory(_progress_of_result, takes_self=True), validator=_fraction)

    @property
    def data(self) -> T:
        """What the process returned.

        Raises:
            ValueReleasedError: it was not kept.
            TransferError: a worker returned it, nobody has needed it here before, and it cannot be unpickled.
        """
        if isinstance(self._data, Handle):
            object.__setattr__(self, "_data", self._data.open())
        if self._data is RELEASED:
            raise ValueReleasedError(
                f"the data of '{self.process_id}' was released once its dependants had it; "
                f'name it in targets=, or run with keep="all"',
                process_id=str(self.process_id),
            )
        return self._data  # type: ignore[no-any-return]

    @property
    def metadata(self) -> ProcessMetadata:
        """The same facts in the shape of a process's own ``metadata``."""
        return ProcessMetadata(
            process_id=self.process_id or "",
            state=self.state,
            retries=max(0, self.attempts - 1),
            progress=self.progress,
            start_time=self.start_time,
            end_time=self.end_time,
            last_error=self.error,
            result=self._known_data(),
        )

    def _known_data(self) -> Any:
        try:
            return self.data
        except (ProcessError, ValueReleasedError):
            return None

    def unwrap(self) -> T:
        """Return the data of a success.

        Raises:
            ProcessError: it did not succeed; ``__cause__`` is the original exception.
            ValueReleasedError: the data was not kept.
        """
        if self.success:
            return self.data
        if isinstance(self.exception, ProcessError):
            raise self.exception
        name = f"process '{self.process_id}'" if self.process_id else "the process"
        detail = (
            f"{self.error_type}: {self.error}" if self.error_type else self.error or self.reason or "it has no value"
        )
        message = f"{name} {self.state.value}: {detail}"
        raise ProcessError(message, process_id=str(self.process_id), attempt=self.attempts) from self.exception

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the data, in types that JSON has."""
        return {
            "process_id": None if self.process_id is None else str(self.process_id),
            "state": self.state.value,
            "success": self.success,
            "strategy": self.strategy.value if self.strategy else None,
            "start_time": self.start_time.isoformat(),
            "end_time": self.end_time.isoformat(),
            "execution_time": self.execution_time,
            "attempts": self.attempts,
            "worker": self.worker,
            "cpu_time": self.cpu_time,
            "peak_memory": self.peak_memory,
            "progress": self.progress,
            "stopped": self.stopped,
            "error_type": self.error_type,
            "error": self.error,
            "traceback": self.traceback,
            "reason": self.reason,
            "fallback": self.fallback,
        }

    def __repr__(self) -> str:
        detail = f", {_shortened(self._detail())}" if self._detail() else ""
        return f"<ProcessResult '{self.process_id}' {self.state.value} in {self.execution_time:.3g} s{detail}>"

    def _detail(self) -> str:
        """Say why it ended so."""
        return self.reason or (f"{self.error_type}: {self.error}" if self.error_type else self.error or "")

    def __getstate__(self) -> dict[str, Any]:
        """Travel without an exception that cannot; its type, text and traceback stay."""
        state = {name: getattr(self, name) for name in _RESULT_FIELDS}
        if self.exception is not None and not travels(self.exception):
            state["exception"] = ProcessError(f"{self.error_type}: {self.error}", process_id=str(self.process_id))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


_RESULT_FIELDS = [attribute.name for attribute in fields(ProcessResult)]


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[:length] + " ..."


class Clock:
    """Turns `time.perf_counter()` floats into aware datetimes: one reading of both clocks, at the run's start."""

    def __init__(self, moment: float) -> None:
        self.moment = moment
        self.date = datetime.now(timezone.utc)

    def __call__(self, moment: float) -> datetime:
        return self.date + timedelta(seconds=moment - self.moment)


class _Lazy(ProcessResult[Any]):
    """A `ProcessResult` whose fields are worked out when they are read: most of a large run's never are."""

    __slots__ = ("_origin",)

    _origin: tuple[str, Outcome, ProcessType, Clock]

    @property
    def execution_time(self) -> float:  # type: ignore[override]
        """Seconds, of the last attempt."""
        outcome = self._origin[1]
        return outcome.ended - began(outcome)

    def __getattr__(self, name: str) -> Any:
        derive = _DERIVED.get(name)
        if derive is None:
            raise AttributeError(f"'ProcessResult' object has no attribute {name!r}")
        value = derive(*self._origin)
        object.__setattr__(self, name, value)  # attrs would validate it
        return value

    def __reduce__(self) -> Any:
        return ProcessResult.__new__, (ProcessResult,), self.__getstate__()


def result_of(key: str, outcome: Outcome, strategy: ProcessType, clock: Clock) -> ProcessResult[Any]:
    """Return the result of an outcome."""
    result = _Lazy.__new__(_Lazy)
    object.__setattr__(result, "_origin", (key, outcome, strategy, clock))
    return result


def _value(_key: str, outcome: Outcome, _strategy: ProcessType, _clock: Clock) -> Any:
    value = getattr(outcome, "value", None)
    if (
        type(outcome) is Mapped
        and type(value) is list
        and any(issubclass(each, Handle) for each in set(map(type, value)))
    ):
        return Handles(value)
    return value


def _failure(outcome: Outcome) -> Failure | Substitute | None:
    """Return what tells of its failure, be it one that a fallback stands in for."""
    if type(outcome) is Success:
        return outcome.note if type(outcome.note) is Substitute else None
    return outcome if type(outcome) is Failure else None


def _error(key: str, outcome: Outcome, _strategy: ProcessType, _clock: Clock) -> str | None:
    failure = _failure(outcome)
    if failure is not None:
        return text_of(failure.exception)
    if isinstance(outcome, Mapped) and outcome.state is not ProcessState.COMPLETED:
        return outcome.reason or f"elements of '{key}' {outcome.state.value}"
    return None


def _reason(_key: str, outcome: Outcome, _strategy: ProcessType, _clock: Clock) -> str | None:
    if isinstance(outcome, Skipped):
        return outcome.reason
    if isinstance(outcome, Mapped):
        return outcome.reason or outcome.shortfall
    failure = _failure(outcome)
    if type(failure) is not Substitute:
        return None
    return f"its fallback stands in for {type(failure.exception).__name__}: {text_of(failure.exception)}"


def _traceback(_key: str, outcome: Outcome, _strategy: ProcessType, _clock: Clock) -> str | None:
    failure = _failure(outcome)
    return None if failure is None else failure.traceback or traceback_text(failure.exception)


def _progress(_key: str, outcome: Outcome, _strategy: ProcessType, _clock: Clock) -> float:
    return 100 if state_of(outcome) is ProcessState.COMPLETED else getattr(outcome, "progress", 0)


_DERIVED: dict[str, Callable[[str, Outcome, ProcessType, Clock], Any]] = {
    "success": lambda _key, outcome, _strategy, _clock: state_of(outcome) is ProcessState.COMPLETED,
    "_data": _value,
    "start_time": lambda _key, outcome, _strategy, clock: clock(began(outcome)),
    "end_time": lambda _key, outcome, _strategy, clock: clock(outcome.ended),
    "error": _error,
    "error_type": lambda _key, outcome, _strategy, _clock: (
        None if (failure := _failure(outcome)) is None else type(failure.exception).__name__
    ),
    "error_message": _error,
    "process_id": lambda key, _outcome, _strategy, _clock: key,
    "state": lambda _key, outcome, _strategy, _clock: state_of(outcome),
    "exception": lambda _key, outcome, _strategy, _clock: getattr(_failure(outcome), "exception", None),
    "traceback": _traceback,
    "attempts": lambda _key, outcome, _strategy, _clock: getattr(outcome, "attempts", 0),
    "stopped": lambda _key, outcome, _strategy, _clock: getattr(outcome, "stopped", True),
    "reason": _reason,
    "strategy": lambda _key, _outcome, strategy, _clock: strategy,
    "worker": lambda _key, outcome, _strategy, _clock: getattr(outcome, "worker", None),
    "cpu_time": lambda _key, outcome, _strategy, _clock: (getattr(outcome, "usage", None) or (None, None))[0],
    "peak_memory": lambda _key, outcome, _strategy, _clock: (getattr(outcome, "usage", None) or (None, None))[1],
    "fallback": lambda _key, outcome, _strategy, _clock: type(_failure(outcome)) is Substitute,
    "progress": _progress,
}


_KINDS: tuple[type[Outcome], ...] = (Success, Failure, Skipped, Cancelled)


class Run(Mapping[str, ProcessResult[Any]], Generic[T]):
    """The outcome of a run: process id to `ProcessResult`, in order of completion.

    A mapped process is there once; ``run["page_3"]`` is one of its elements. A key is a string, a `ProcessId` or the
    process itself.

    Attributes:
        run_id: the name of this run.
        execution_time: seconds from its start to its end.

    >>> import pmflow
    >>> @pmflow.process
    ... def double(n):
    ...     return n * 2
    >>> run = pmflow.run(double, inputs={"n": 21})
    >>> run.value, run[double].state, list(run)
    (42, <ProcessState.COMPLETED: 'completed'>, ['double'])
    """

    def __init__(  # noqa: PLR0913 - made in one place, by the runner
        self,
        *,
        run_id: str,
        targets: tuple[str, ...],
        outcomes: dict[str, Outcome],
        elements: Mapping[str, list[Outcome]],
        strategy: Callable[[str], ProcessType],
        clock: Clock,
        execution_time: float,
    ) -> None:
        self.run_id = run_id
        self.execution_time = execution_time
        self._targets = targets
        self._outcomes = outcomes
        self._elements = elements
        self._strategy = strategy
        self._clock = clock
        self._results: dict[str, ProcessResult[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the plan."""
        strategies = {name: self._strategy(name) for name in self._outcomes}
        return {**self.__dict__, "_strategy": strategies.__getitem__, "_results": {}}

    # As a mapping

    @overload
    def __getitem__(self, key: BaseProcess[S]) -> ProcessResult[S]: ...
    @overload
    def __getitem__(self, key: str | ProcessId) -> ProcessResult[Any]: ...
    def __getitem__(self, key: Any) -> ProcessResult[Any]:
        """Return the result of a process, or of one element (``"page_3"``)."""
        name = key if type(key) is str else id_text(key)
        result = self._results.get(name)
        if result is None:
            base, outcome = self._find(name)
            result = self._results[name] = result_of(name, outcome, self._strategy(base), self._clock)
        return result

    def _find(self, name: str) -> tuple[str, Outcome]:
        outcome = self._outcomes.get(name)
        if outcome is not None:
            return name, outcome
        base, _, digits = name.rpartition("_")
        elements = self._elements.get(base)
        if elements is not None and digits.isdecimal() and int(digits) < len(elements) and str(int(digits)) == digits:
            return base, elements[int(digits)]
        raise KeyError(f"no process {name!r} in this run{did_you_mean(nearest(name, self._outcomes))}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __contains__(self, key: object) -> bool:
        try:
            self._find(id_text(key))
        except (KeyError, ConfigurationError):
            return False
        return True

    # What came of it

    @property
    def value(self) -> T:
        """The data of the one target.

        Raises:
            ProcessError: the target did not succeed; ``__cause__`` is the original exception.
            NoValueError: it has no value, or there are several targets, or none.
        """
        if len(self._targets) != 1:
            found = f"{len(self._targets)} targets" if self._targets else "no target"
            raise NoValueError(f"this run has {found}, so no single value; read run.data or run[id].data")
        target = self._targets[0]
        result = self[target]
        if result.state is ProcessState.SKIPPED:
            raise NoValueError(f"'{target}' has no value: {result.reason}") from self._cause()
        if result.state is ProcessState.CANCELLED:
            raise NoValueError(f"'{target}' has no value: the run was stopped before it ended") from self._cause()
        if result.exception is None and not result.success:
            raise NoValueError(f"'{target}' has no value: {result.error}") from self._cause()
        return result.unwrap()  # type: ignore[no-any-return]

    def _cause(self) -> BaseException | None:
        return next((each.exception for each in self.failures.values()), None)

    @property
    def data(self) -> dict[str, Any]:
        """Target id to data, of the targets that succeeded."""
        return {target: self[target].data for target in self._targets if self[target].success}

    @property
    def success(self) -> bool:
        """Whether no required process failed and none was cancelled."""
        return not any(
            type(each) is Cancelled or each.required  # type: ignore[union-attr]  # else it is a failure
            for _, _, each in self._each(Failure, Cancelled)
        )

    @property
    def failures(self) -> dict[str, ProcessResult[Any]]:
        """The results that FAILED, by id; of a mapped process its elements."""
        return {name: self[name] for name, _, _ in self._each(Failure)}

    @property
    def skipped(self) -> dict[str, ProcessResult[Any]]:
        """The results that were SKIPPED, by id."""
        return {name: self[name] for name, _, _ in self._each(Skipped)}

    def _each(self, *kinds: type[Outcome]) -> Iterator[tuple[str, str, Outcome]]:
        """Every process and element, or those that ended in one of some kinds: name, id of its process, outcome."""
        wanted = frozenset(kinds or _KINDS)
        for name, outcome in self._outcomes.items():
            if type(outcome) is not Mapped:
                if type(outcome) in wanted:
                    yield name, name, outcome
            elif not wanted.isdisjoint(map(type, self._elements[name])):  # of a million, it may be none
                for index, element in enumerate(self._elements[name]):
                    if type(element) in wanted:
                        yield f"{name}_{index}", name, element
            if type(outcome) is Mapped and outcome.end is not None and type(outcome.end) in wanted:
                yield name, name, outcome.end

    # As text

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the data, in types that JSON has; a mapped process lists its elements."""
        processes = []
        for name in self._outcomes:
            facts = self[name].to_dict()
            if type(self._outcomes[name]) is Mapped:
                facts["elements"] = [self[f"{name}_{index}"].to_dict() for index in range(len(self._elements[name]))]
            processes.append(facts)
        return {
            "run_id": self.run_id,
            "success": self.success,
            "start_time": self._clock.date.isoformat(),
            "execution_time": self.execution_time,
            "targets": list(self._targets),
            "processes": processes,
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON: what happened, without the data."""
        import json

        return json.dumps(self.to_dict(), indent=2)

    def _summary(self) -> str:
        counts: dict[str, int] = {}
        for name in self._outcomes:
            state = state_of(self._outcomes[name])
            counts[state.value] = counts.get(state.value, 0) + 1
        return ", ".join(f"{number:,} {state}" for state, number in counts.items()) or "empty"

    def __repr__(self) -> str:
        lines = [f"<Run {self.run_id}: {self._summary()} in {self.execution_time:.3g} s>"]
        lines += [f"  {self[name]!r}" for name in islice(self._outcomes, SHOWN)]
        if len(self) > SHOWN:
            lines.append(f"  ... and {len(self) - SHOWN:,} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        import html

        rows = "".join(self._html_row(self[name]) for name in islice(self._outcomes, SHOWN))
        if len(self) > SHOWN:
            rows += f"<tr><td colspan='5'>... and {len(self) - SHOWN:,} more</td></tr>"
        head = "".join(f"<th>{title}</th>" for title in ("process", "state", "strategy", "seconds", ""))
        caption = html.escape(f"{self._summary()} in {self.execution_time:.3g} s")
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    @staticmethod
    def _html_row(result: ProcessResult[Any]) -> str:
        import html

        cells = (
            str(result.process_id),
            result.state.value,
            result.strategy.value if result.strategy else "",
            f"{result.execution_time:.3g}",
            _shortened(result._detail()),  # noqa: SLF001 - the same as in its text
        )
        return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
