"""What runs of one graph cost: knows how to run it again and again by a strategy, and what can be read off a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from pmflow.base import BaseProcess
from pmflow.comparison.agreement import same
from pmflow.comparison.suggestions import Facts, Suggestion, Times, duration
from pmflow.config import ProcessType, id_text
from pmflow.decorator import FunctionProcess
from pmflow.engine.plan import is_coroutine
from pmflow.errors import ConfigurationError, ProcessError, text_of
from pmflow.graph import Graph, settings_of
from pmflow.lookup import gathered
from pmflow.outcomes import Failure, Outcome, Success
from pmflow.results import Run
from pmflow.runner import _Request, run

if TYPE_CHECKING:
    import types

DECORATED = "as decorated"
UNIFORM = {kind.value: kind for kind in ProcessType}
"""The strategies that all processes run by, whatever each was decorated with."""


# One run


@frozen(kw_only=True)
class Sample:
    """What one run gave.

    Attributes:
        seconds: until the targets' data was in this program.
        cpu_time: seconds of the cores, of this program and of the calls in workers.
        memory: bytes that it took at most; None where the system does not say.
        overhead: seconds in which no process of the graph was running, by the number of their calls.
        times: id and strategy of each process that had a result; without overhead, which is known of runs alone.
        failures: id to how it failed.
        data: target id to data.
        reason: why the strategy cannot run the graph.
    """

    seconds: float
    cpu_time: float
    memory: int | None
    overhead: float
    times: Mapping[tuple[str, ProcessType], Times]
    failures: Mapping[str, str]
    data: Mapping[str, Any]
    reason: str | None


@frozen
class Case:
    """A closed graph, and how it is run."""

    graph: Graph
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, processes: Any, frame: types.FrameType, arguments: Mapping[str, Any]) -> Case:
        """Find what is to run, as `run` does, and refuse what `run` would refuse, and what can be run only once."""
        processes = list(processes) if isinstance(processes, Iterator) else processes
        request = _Request.of(processes, frame, arguments)
        overrides = {id_text(key): value for key, value in (arguments["overrides"] or {}).items()}
        _check_lasting("inputs", arguments["inputs"] or {})
        _check_lasting("overrides", overrides)
        graph, chosen, _ = gathered(processes, frame, overrides)
        others = {name: each for name, each in overrides.items() if isinstance(each, BaseProcess)}
        plan = request.plan
        options = {
            "inputs": arguments["inputs"],
            "overrides": plan.given,
            "targets": chosen if arguments["targets"] is None else plan.targets,
            "keep": "all" if plan.keep_all else "targets",
            "timeout": request.timeout,
            "max_threads": request.max_threads,
            "max_processes": request.max_processes,
        }
        return cls(graph.replaced(others) if others else graph, options)

    def changed(self, suggestions: Mapping[str, Suggestion]) -> Case:
        """Return the same with copies of processes in place of those that another strategy suits."""
        copies = {
            name: process.options(type=each.type)
            for name, each in suggestions.items()
            if each.changes and isinstance(process := self.graph.processes[name], FunctionProcess)
        }
        return Case(self.graph.replaced(copies), self.arguments)

    def measured(self, strategy: str) -> Sample:
        """Run once; what is measured ends when the data of the targets is in this program."""
        import gc

        gc.collect()  # what an earlier run has left is not charged to this one
        decorated = strategy == DECORATED  # then a failure is raised: there is nothing to compare with
        before = _most_memory(anew=True)
        cpu, started = process_time(), perf_counter()
        ended = run(
            self.graph, type=UNIFORM.get(strategy), on_error="raise" if decorated else "return", **self.arguments
        )
        data, reason = (ended.data, None) if decorated else _data(ended)
        seconds, cpu = perf_counter() - started, process_time() - cpu
        after = _most_memory()
        given = self.arguments["overrides"]
        ran = [each for each in ended._each() if each[1] not in given]  # noqa: SLF001 - elements too
        calls = [outcome for _, _, outcome in ran if isinstance(outcome, (Success, Failure))]
        return Sample(
            seconds=seconds,
            cpu_time=cpu + sum(call.usage[0] for call in calls if call.usage),
            memory=None if before is None or after is None else after - before + _peaks(calls),
            overhead=max(0.0, seconds - _covered(calls)) / max(1, len(calls)),
            times=_times(ended, ran, self.arguments["max_processes"]),
            failures={base: _said(each.exception) for _, base, each in ran if isinstance(each, Failure)},
            data=data,
            reason=reason,
        )


def _check_lasting(setting: str, values: Mapping[str, Any]) -> None:
    """Refuse what the first run would leave empty for the others."""
    for name, value in values.items():
        if isinstance(value, (Iterator, AsyncIterator)):
            raise ConfigurationError(
                f"{setting}[{name!r}] is an iterator, which the first run exhausts; pass a list of what it gives",
                setting=setting,
            )


def _data(ended: Run[Any]) -> tuple[dict[str, Any], str | None]:
    """Return the data of the targets, or why there is none."""
    for name, _, outcome in ended._each():  # noqa: SLF001 - elements too
        if type(outcome) is Failure and outcome.required:
            return {}, f"'{name}': {_said(outcome.exception)}"
    if not ended.success:
        return {}, f"it took longer than its timeout, and was stopped after {duration(ended.execution_time)}"
    try:
        return ended.data, None
    except ProcessError as error:
        return {}, _said(error)


def _said(exception: BaseException) -> str:
    """Return the type of an exception and the beginning of its text, in one line."""
    from textwrap import shorten

    return shorten(f"{type(exception).__name__}: {text_of(exception)}", 200, placeholder=" ...")


# Times and memory


def median(values: Iterable[float]) -> float:
    """Return the median; `import pmflow` does not load what works it out."""
    import statistics

    return statistics.median(values)


def _times(
    ended: Run[Any], ran: Iterable[tuple[str, str, Outcome]], workers: int | None
) -> dict[tuple[str, ProcessType], Times]:
    from pmflow.executors.platform import cores

    workers = workers or cores()
    calls: dict[str, list[Success]] = {}
    for _, base, outcome in ran:
        if isinstance(outcome, Success):
            calls.setdefault(base, []).append(outcome)
    found: dict[tuple[str, ProcessType], Times] = {}
    for name, each in calls.items():
        kind = ended._strategy(name)  # noqa: SLF001 - a result of each would be made to ask it
        lengths = [call.ended - call.started for call in each]
        used = [call.usage[0] for call in each if call.usage]
        busy = min(1.0, sum(used) / max(sum(lengths), 1e-9)) if len(used) == len(each) else None
        # What a process waits for differs between strategies, and is not its own: gaps between its calls do not count,
        # nor does it that others occupied the workers.
        span = sum(lengths) / min(len(each), workers) if kind is ProcessType.PROCESS else _covered(each)
        found[name, kind] = Times(call=median(lengths), span=span, busy=busy)
    return found


def _covered(calls: Iterable[Success | Failure]) -> float:
    """Return the seconds in which at least one call was running."""
    total, until = 0.0, 0.0
    for started, ended in sorted((call.started, call.ended) for call in calls):
        total += max(0.0, ended - max(started, until))
        until = max(until, ended)
    return total


def _peaks(calls: Iterable[Success | Failure]) -> int:
    """Return the most bytes that each worker held during one of its calls, added up."""
    found: dict[str | None, int] = {}
    for call in calls:
        if call.usage:
            found[call.worker] = max(found.get(call.worker, 0), call.usage[1])
    return sum(found.values())


def _most_memory(*, anew: bool = False) -> int | None:
    """Return the most bytes that this program has held, since this was last asked anew; None: nobody says."""
    from pathlib import Path

    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux, or not allowed
        return None
    return None


# Many runs


class Samples:
    """What many runs gave, each held against the first.

    Args:
        expected: target id to the data that all should give.

    Attributes:
        taken: strategy to number of the round to sample: so neighbours in time can be compared.
        verdicts: strategy to target to whether its data was always equal to what was expected; None: nobody can say.
    """

    def __init__(self, expected: Mapping[str, Any]) -> None:
        self.taken: dict[str, dict[int, Sample]] = {}
        self.verdicts: dict[str, dict[str, bool | None]] = {}
        self._expected = expected

    def take(self, cases: Mapping[str, Case], rounds: Sequence[int]) -> None:
        """Run each case once unmeasured and then once a round, every time in another order.

        Args:
            cases: strategy to what it runs.
            rounds: their numbers.
        """
        for strategy, case in cases.items():
            if strategy != DECORATED:  # which has run: what it gave is what is expected
                self._judge(strategy, case.measured(strategy))
        order = list(cases)
        for number in rounds:
            first = number % len(order)
            for strategy in order[first:] + order[:first]:
                sample = cases[strategy].measured(strategy)
                self._judge(strategy, sample)
                self.taken.setdefault(strategy, {})[number] = evolve(sample, data={})

    def _judge(self, strategy: str, sample: Sample) -> None:
        """Remember of each target the worst that was found: that it differs, that it cannot be compared."""
        verdicts = self.verdicts.setdefault(strategy, {})
        expected, found = self._expected, sample.data
        for target in () if sample.reason else {**expected, **found}:
            both = target in expected and target in found  # one that is not required may have no value
            verdict = both and same(expected[target], found[target])
            before = verdicts.get(target, True)
            verdicts[target] = False if False in (before, verdict) else before and verdict

    def ran(self, name: str) -> bool:
        """Whether a process had a result as decorated."""
        return any(name == each for sample in self._of(DECORATED) for each, _ in sample.times)

    def facts(self, name: str, process: FunctionProcess[..., Any, Any]) -> Facts:
        """Return what is known of a process."""
        settings = settings_of(process)
        decorated, timeout = process.strategy, settings.timeout is not None
        refused = [sample.failures[name] for sample in self._of(ProcessType.PROCESS.value) if name in sample.failures]
        return Facts(
            decorated=decorated,
            times={kind: times for kind in ProcessType if (times := self._times(name, kind)) is not None},
            coroutine=is_coroutine(process),
            timeout=timeout,
            guarded=decorated is ProcessType.PROCESS and (timeout or settings.crash_retries > 0),
            cores=median(sample.cpu_time / sample.seconds for sample in self._of(ProcessType.THREAD.value)),
            refused=refused[0] if refused else None,
        )

    def _times(self, name: str, kind: ProcessType) -> Times | None:
        """Return the times by a strategy: where all ran by it or as decorated, whichever was faster.

        What others do at the same time makes a difference: a coroutine waits for what runs inline on its loop.
        """
        found: list[Times] = []
        for strategy in (kind.value, DECORATED):
            each = [sample.times[name, kind] for sample in self._of(strategy) if (name, kind) in sample.times]
            if each:
                busy = [times.busy for times in each if times.busy is not None]
                found.append(
                    Times(
                        call=median(times.call for times in each),
                        span=median(times.span for times in each),
                        busy=max(busy, default=None),  # other programs can only lower it
                        overhead=median(sample.overhead for sample in self._of(strategy)),
                    )
                )
        return min(found, key=lambda times: times.cost, default=None)

    def _of(self, strategy: str) -> Iterable[Sample]:
        return self.taken[strategy].values()
