"""What suits a process: knows what was measured of it, and nothing of how.

A call that is shorter than its hand-over runs inline, what waits runs where waiting costs least, and what computes
goes to a worker if it is faster there, the way there and back included. A difference that may be noise changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from pmflow.config import ProcessType

SHORT = 50e-6
"""Seconds of a call below which a hand-over to a thread or a worker costs more than the call."""

BUSY = 0.5
"""The share of its time from which on a call computes, and does not wait."""

FASTER = 0.9
"""What is faster takes at most this share of the time: less of a difference is noise."""

PARALLEL = 1.2
"""Cores that threads keep busy if they run in parallel: with the interpreter's lock held it is one."""

PLACES = {ProcessType.ASYNC: "on the loop", ProcessType.THREAD: "in threads", ProcessType.PROCESS: "in workers"}


@frozen(kw_only=True)
class Suggestion:
    """What suits one process.

    Attributes:
        type: the strategy.
        decorated: the strategy that it has.
        reason: why, in one sentence.
    """

    type: ProcessType
    decorated: ProcessType
    reason: str

    @property
    def changes(self) -> bool:
        """Whether it is another strategy than the process has."""
        return self.type is not self.decorated

    def __str__(self) -> str:
        change = f"instead of {self.decorated.value}" if self.changes else "as it is"
        return f"{self.type.value}, {change}: {self.reason}"


@frozen(kw_only=True)
class Times:
    """Of one process, run by one strategy.

    Attributes:
        call: seconds of one call.
        span: seconds in which at least one of its calls was running; in workers, that all of its calls take if every
            worker runs them.
        busy: the share of its time for which it used a core; known of workers only.
        overhead: seconds that a call costs besides.
    """

    call: float
    span: float
    busy: float | None = None
    overhead: float = 0.0

    @property
    def cost(self) -> float:
        """Seconds, the way there and back included."""
        return self.span + self.overhead


@frozen(kw_only=True)
class Facts:
    """What is known of one process when a strategy is to be chosen for it.

    Attributes:
        decorated: the strategy it has.
        times: strategy to what was measured, of those under which it ran.
        coroutine: whether it is a coroutine function.
        timeout: whether it has one: then it cannot run inline.
        guarded: whether it was put into a worker that can be killed, or may die.
        cores: how many cores the program kept busy while all ran in threads.
        refused: how it failed in a worker.
    """

    decorated: ProcessType
    times: Mapping[ProcessType, Times]
    coroutine: bool = False
    timeout: bool = False
    guarded: bool = False
    cores: float = 1.0
    refused: str | None = None


def suggestion(facts: Facts) -> Suggestion:
    """Return what suits a process of which this was measured.

    >>> thread, worker = Times(call=2.0, span=2.0), Times(call=1.0, span=1.0, busy=0.99)
    >>> times = {ProcessType.THREAD: thread, ProcessType.PROCESS: worker}
    >>> print(suggestion(Facts(decorated=ProcessType.THREAD, times=times)))
    process, instead of thread: it computes, and that takes 1.00 s in workers, 2.00 s in threads
    """
    kind, reason = _choice(facts)
    return Suggestion(type=kind, decorated=facts.decorated, reason=reason)


def _choice(facts: Facts) -> tuple[ProcessType, str]:
    home = ProcessType.ASYNC if facts.coroutine else ProcessType.THREAD
    worker = facts.times.get(ProcessType.PROCESS)
    if facts.guarded:
        return ProcessType.PROCESS, "for its timeout or its crashes it needs a worker, which can be killed"
    if home not in facts.times:
        return facts.decorated, f"it did not run {PLACES[home]}"
    call = min(each.call for each in facts.times.values())
    if call < SHORT and not facts.coroutine and not facts.timeout and ProcessType.ASYNC in facts.times:
        return ProcessType.ASYNC, f"a call takes {duration(call)}, less than it takes to hand it over"
    if worker is None or worker.busy is None:
        return home, f"it did not run in a worker: {facts.refused or 'what it needs could not'}"
    if worker.busy < BUSY:
        return home, f"it waits: it is busy for {worker.busy:.0%} of its time"
    return _choice_of_computing(facts, home, worker)


def _choice_of_computing(facts: Facts, home: ProcessType, worker: Times) -> tuple[ProcessType, str]:
    here = facts.times[home].cost
    thread = facts.times.get(ProcessType.THREAD)
    if thread is not None and thread.cost < FASTER * here:  # of a coroutine function
        home, here = ProcessType.THREAD, thread.cost
    there = f"{duration(worker.cost)} in workers, {duration(here)} {PLACES[home]}"
    if worker.cost < FASTER * here:
        return ProcessType.PROCESS, f"it computes, and that takes {there}"
    if facts.decorated is ProcessType.PROCESS and FASTER * worker.cost < here:
        return ProcessType.PROCESS, f"it computes, and that is no slower than elsewhere: {there}"
    if home is ProcessType.THREAD and facts.cores > PARALLEL:
        return home, f"it computes, and threads do so in parallel, on {facts.cores:.1f} cores: {there}"
    return home, f"it computes, and a worker is not faster: {there}"


# As text


def duration(seconds: float) -> str:
    """Return seconds as a text.

    >>> duration(75), duration(0.25), duration(3e-6)
    ('75.0 s', '250 ms', '3.00 us')
    """
    return scaled(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)))


def scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    """Return a number with three digits or more, in the unit that suits it.

    Args:
        value: the number.
        units: the name of each and what it is worth, the largest first.
    """
    unit, worth = next((each for each in units if value >= 0.9995 * each[1]), units[-1])
    value /= worth
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0  # noqa: PLR2004 - three of them
    return f"{value:,.{digits}f} {unit}"
