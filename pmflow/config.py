"""What a process was told to do: frozen settings, validated where they are written.

Knows nothing of graphs or of how anything runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from attrs import Attribute, field, frozen

from pmflow.errors import ConfigurationError
from pmflow.limits import Limit, Rate, limit_of

__all__ = ["ProcessConfig", "ProcessId", "ProcessType", "RetryStrategy", "cross"]


class ProcessId(NamedTuple):
    """The name of a process, with an index for one element of a mapped process.

    >>> str(ProcessId("page")), str(ProcessId("page", 3))
    ('page', 'page_3')
    """

    base_name: str
    index: int | None = None  # type: ignore[assignment]  # the seed's word, although tuples have a method of that name

    def __str__(self) -> str:
        """Return the form used as a key: ``base_name`` or ``base_name_index``."""
        return self.base_name if self.index is None else f"{self.base_name}_{self.index}"


class ProcessType(Enum):
    """How a process is executed: on the event loop, in a thread, or in a worker process.

    >>> ProcessType("thread") is ProcessType.THREAD
    True
    """

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


def _seconds(value: Any, *, zero: bool) -> bool:
    """Whether ``value`` is a finite number of seconds: positive, or also 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and (value >= 0 if zero else value > 0)


def check_timeout(value: Any, culprit: str) -> None:
    """Refuse what is no positive, finite number of seconds (None is no timeout).

    Raises:
        ConfigurationError: naming ``culprit``.
    """
    if value is not None and not _seconds(value, zero=False):
        raise ConfigurationError(
            f"{culprit}: timeout must be a positive, finite number of seconds, not {value!r}; leave it out for none",
            setting="timeout",
        )


def check_names(value: Any, name: str) -> None:
    """Refuse what does not map names to values (None maps none).

    Raises:
        ConfigurationError: naming the argument.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{name} must map names to values, not {value!r:.100}; write {name}={{'name': value}}", setting=name
        )


def _non_negative_seconds(_strategy: RetryStrategy, attribute: Attribute[Any], value: Any) -> None:
    if value is None and attribute.default is None:
        return
    if not _seconds(value, zero=True):
        raise ConfigurationError(
            f"RetryStrategy: {attribute.name} must be a finite number of seconds, 0 or more, not {value!r}",
            setting=attribute.name,
        )


def _whole_number(_strategy: RetryStrategy, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(
            f"RetryStrategy: {attribute.name} must be a whole number, 0 or more, not {value!r}", setting=attribute.name
        )


def _share(_strategy: RetryStrategy, attribute: Attribute[Any], value: Any) -> None:
    if not _seconds(value, zero=True) or value > 1:
        raise ConfigurationError(
            f"RetryStrategy: {attribute.name} must be from 0 to 1, not {value!r}", setting=attribute.name
        )


def _exception_types(value: Any) -> tuple[type[BaseException], ...]:
    types = value if isinstance(value, tuple) else (value,)
    if not types or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        raise ConfigurationError(
            f"RetryStrategy: retry_on must be subclasses of Exception, not {value!r}; write retry_on=(OSError,)",
            setting="retry_on",
        )
    return types


@frozen
class RetryStrategy:
    """Whether, and after how long, a failed attempt is tried again.

    Attempt ``n`` is followed by the next after ``delay_seconds * backoff_factor ** (n - 1)`` seconds (exponential
    backoff), at most ``max_delay_seconds``. ``jitter`` adds a random share of up to that fraction of the delay.

    Attributes:
        max_retries: further attempts after the first.
        delay_seconds: before the first retry.
        backoff_factor: by which each further delay grows.
        max_delay_seconds: the longest delay; None for no bound.
        jitter: 0 (none) to 1 (up to twice the delay).
        retry_on: exception types worth another attempt.

    >>> strategy = RetryStrategy(max_retries=3, delay_seconds=0.5)
    >>> [strategy.delay(attempt) for attempt in (1, 2, 3)]
    [0.5, 1.0, 2.0]
    """

    max_retries: int = field(default=3, validator=_whole_number)
    delay_seconds: float = field(default=1.0, validator=_non_negative_seconds)
    backoff_factor: float = field(default=2.0, validator=_non_negative_seconds)
    max_delay_seconds: float | None = field(default=None, validator=_non_negative_seconds, kw_only=True)
    jitter: float = field(default=0.0, validator=_share, kw_only=True)
    retry_on: tuple[type[BaseException], ...] = field(default=(Exception,), converter=_exception_types, kw_only=True)

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after this attempt (1, 2, ...)."""
        try:
            delay = self.delay_seconds * self.backoff_factor ** (attempt - 1)
        except OverflowError:
            delay = math.inf
        if self.max_delay_seconds is not None:
            delay = min(delay, self.max_delay_seconds)
        if self.jitter:
            from random import random

            delay *= 1 + self.jitter * random()  # noqa: S311 - spreads load, protects nothing
        return delay

    def allows(self, attempt: int, exception: BaseException) -> bool:
        """Say whether another attempt follows this one (1, 2, ...), which failed with ``exception``."""
        return attempt <= self.max_retries and isinstance(exception, self.retry_on)


def _retry_strategy(value: Any) -> RetryStrategy | None:
    """``retries=2`` is short for ``RetryStrategy(max_retries=2)``; 0 is none."""
    if value is None or isinstance(value, RetryStrategy):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(
            f"retries must be a whole number, 0 or more, or a RetryStrategy, not {value!r}", setting="retries"
        )
    return RetryStrategy(max_retries=value) if value else None


def process_type(value: Any) -> ProcessType:
    """Return the strategy that a word or a `ProcessType` names.

    Raises:
        ConfigurationError: it names none.
    """
    try:
        return ProcessType(value)
    except ValueError:
        words = ", ".join(repr(kind.value) for kind in ProcessType)
        raise ConfigurationError(
            f"type must be one of {words}, or a ProcessType, not {value!r}", setting="type"
        ) from None


def id_text(reference: Any) -> str:
    """Return the key of what names a process: a string, a `ProcessId`, or the process itself.

    Raises:
        ConfigurationError: it names none.
    """
    if type(reference) is str:
        return reference
    if isinstance(reference, (str, ProcessId)):
        return str(reference)
    key = getattr(reference, "id", None)
    if type(key) is str:
        return key
    raise ConfigurationError(f"a process is named by a string, a ProcessId or itself, not by {reference!r}")


def id_texts(references: Any) -> tuple[str, ...]:
    """Return the keys of one reference or several; a bare string is one id."""
    if isinstance(references, (str, ProcessId)) or not isinstance(references, Iterable):
        references = (references,)
    return tuple(id_text(reference) for reference in references)


def source_texts(source: Any) -> str | tuple[str, ...]:
    """Return the key of a source; of a tuple of candidates the keys, if they are several."""
    if not isinstance(source, (tuple, list)) or isinstance(source, ProcessId):
        return id_text(source)
    candidates = id_texts(source)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ConfigurationError("a parameter needs one candidate at least, and these are none: ()")
    return candidates


def _source_map(value: Any) -> Mapping[str, str | tuple[str, ...]]:
    return {parameter: source_texts(source) for parameter, source in value.items()}


def _dependencies(value: Any) -> tuple[str, ...] | Mapping[str, str | tuple[str, ...]]:
    return _source_map(value) if isinstance(value, Mapping) else id_texts(value)


def _map_over(value: Any) -> Mapping[str, str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return {value: value}
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(
            f'map_over must name a parameter and its source, not {value!r}; write map_over={{"page": "pages"}}',
            setting="map_over",
        )
    if isinstance(value, cross):
        return value
    return {parameter: id_text(source) for parameter, source in value.items()}


class cross(Mapping[str, str]):  # noqa: N801 - written like a function: map_over=cross(x="xs", y="ys")
    """For ``map_over``: every element of one source with every element of the others, the last changing fastest.

    Elements are in the order of `itertools.product`.

    Args:
        **sources: parameter to source, a string, a `ProcessId` or the process itself.

    >>> import pmflow
    >>> area = pmflow.process(lambda x, y: x * y, id="area", map_over=cross(x="xs", y="ys"))
    >>> pmflow.run(area, inputs={"xs": [1, 2], "ys": [3, 4]}).value
    [3, 4, 6, 8]
    """

    def __init__(self, **sources: Any) -> None:
        if not sources:
            raise ConfigurationError(
                'cross() takes parameters and their sources: cross(x="xs", y="ys")', setting="map_over"
            )
        self._sources = {parameter: id_text(source) for parameter, source in sources.items()}

    def __getitem__(self, parameter: str) -> str:
        return self._sources[parameter]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, cross) and self._sources == other._sources

    def __hash__(self) -> int:
        return hash(tuple(self._sources.items()))

    def __repr__(self) -> str:
        return f"cross({', '.join(f'{name}={source!r}' for name, source in self._sources.items())})"


def _rules(value: Any) -> tuple[Callable[[Any], Any], ...]:
    rules = tuple(value) if isinstance(value, Iterable) and not callable(value) else (value,)
    for rule in rules:
        if not callable(rule):
            raise ConfigurationError(
                f"validation_rules must be callables that take the result, not {rule!r}", setting="validation_rules"
            )
    return rules


class Nothing(Enum):
    """What a setting is that was not given, where None is a value as good as others."""

    NOTHING = "nothing"

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING = Nothing.NOTHING


def _outputs(value: Any) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"outputs must be names, and not {name!r}", setting="outputs")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"outputs must have different names, and not {names}", setting="outputs")
    return names


def _a_plain_callable(config: ProcessConfig, attribute: Attribute[Any], value: Any) -> None:
    from inspect import iscoroutinefunction

    if value is None:
        return
    if not callable(value) or iscoroutinefunction(value):
        what = "a coroutine function, which nobody would await" if callable(value) else repr(value)
        raise ConfigurationError(
            f"process '{config.process_id}': {attribute.name} must be a plain function, not {what}",
            process_id=str(config.process_id),
            setting=attribute.name,
        )


def _limit(value: Any) -> str | Limit | Rate | int | None:
    if value is None or (isinstance(value, str) and value):
        return value
    limit_of(value)
    return value  # type: ignore[no-any-return]  # a number, which each process has for itself, or a limit


def _a_fallback(config: ProcessConfig, attribute: Attribute[Any], value: Any) -> None:
    if callable(value):
        _a_plain_callable(config, attribute, value)


def _checked_id(value: Any) -> str | ProcessId:
    if isinstance(value, (str, ProcessId)) and str(value):
        return value
    raise ConfigurationError(f"process_id must be a string or a ProcessId, and not empty, not {value!r}", setting="id")


def _a_timeout(config: ProcessConfig, _attribute: Attribute[Any], value: Any) -> None:
    check_timeout(value, f"process '{config.process_id}'")


def _a_number(config: ProcessConfig, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(
            f"process '{config.process_id}': {attribute.name} must be a whole number, 0 or more, not {value!r}",
            process_id=str(config.process_id),
            setting=attribute.name,
        )


def _a_count(config: ProcessConfig, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"process '{config.process_id}': {attribute.name} must be a whole number, 1 or more, not {value!r}",
            process_id=str(config.process_id),
            setting=attribute.name,
        )


def _a_flag(config: ProcessConfig, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool) and not (value is None and attribute.default is None):
        raise ConfigurationError(
            f"process '{config.process_id}': {attribute.name} must be True or False, not {value!r}",
            process_id=str(config.process_id),
            setting=attribute.name,
        )


@frozen
class ProcessConfig:
    """The settings of one process.

    Attributes:
        process_id: a string or a `ProcessId`; generated when absent.
        process_type: the strategy.
        timeout: seconds for one attempt.
        retry_strategy: a `RetryStrategy`, or a number of retries.
        crash_retries: further attempts after a worker died under the call; counted apart from other retries.
        fail_fast: overrides the run's, for a failure of this process.
        dependencies: ids that a class-based process receives the results of; for a function, parameter to source.
        after: ids that must have ended well first; nothing is passed.
        map_over: parameter to source; the process runs once per element.
        outputs: names for the elements of a returned tuple; each is a process of its own to all others.
        required: False: its failure gives no value instead of failing the run.
        fallback: what stands in after the last attempt: a value, or a function of the exception.
        limit: at most so many calls of it at once; or a `Limit` or `Rate`, or the name of one that the run is given.
        cpus: how many cores one call uses: calls that use several, and what runs in workers beside them, never have
            more than there are; one that uses more than that runs alone.
        when: a predicate on parameters of the function, asked when it could run; False: it has no value.
        validation_rules: called on the result, where it was made; one that raises or returns False fails the attempt.

    Raises:
        ConfigurationError: a setting that cannot work.

    >>> ProcessConfig(process_id="parse", process_type=ProcessType.THREAD, timeout=5).timeout
    5
    """

    process_id: str | ProcessId = field(factory=lambda: f"process-{os.urandom(4).hex()}", converter=_checked_id)
    process_type: ProcessType = field(default=ProcessType.ASYNC, converter=process_type)
    timeout: float | None = field(default=None, validator=_a_timeout)
    retry_strategy: RetryStrategy | None = field(default=None, converter=_retry_strategy)
    crash_retries: int = field(default=0, validator=_a_number)
    fail_fast: bool | None = field(default=None, validator=_a_flag)
    dependencies: tuple[str, ...] | Mapping[str, str | tuple[str, ...]] = field(default=(), converter=_dependencies)
    after: tuple[str, ...] = field(default=(), converter=id_texts)
    map_over: Mapping[str, str] | None = field(default=None, converter=_map_over)
    outputs: tuple[str, ...] = field(default=(), converter=_outputs)
    required: bool = field(default=True, validator=_a_flag)
    fallback: Any = field(default=NOTHING, validator=_a_fallback, eq=id)  # what == gives of arrays is no yes or no
    limit: int | str | Limit | Rate | None = field(default=None, converter=_limit)
    cpus: int = field(default=1, validator=_a_count)
    when: Callable[..., Any] | None = field(default=None, validator=_a_plain_callable)
    validation_rules: tuple[Callable[[Any], Any], ...] = field(default=(), converter=_rules)
