"""`compare`: knows in which order what is measured, and makes the table and the suggestions of the samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pmflow.base import BaseProcess
from pmflow.comparison.measuring import DECORATED, UNIFORM, Case, Samples, median
from pmflow.comparison.suggestions import suggestion
from pmflow.comparison.table import Comparison, ComparisonRow
from pmflow.decorator import FunctionProcess
from pmflow.executors.pools import check_slots
from pmflow.lookup import caller
from pmflow.outputs import is_inserted

if TYPE_CHECKING:
    from pmflow.decorator import Reference
    from pmflow.runner import Processes
    from pmflow.workflow import Workflow

SUGGESTED = "as suggested"


def compare(  # noqa: PLR0913 - those of `run` that matter here
    processes: Processes | BaseProcess[Any] | Workflow,
    /,
    *,
    inputs: Mapping[str, Any] | None = None,
    overrides: Mapping[Any, Any] | None = None,
    targets: Reference | Iterable[Reference] | None = None,
    timeout: float | None = None,
    max_threads: int | None = None,
    max_processes: int | None = None,
    repeat: int = 3,
) -> Comparison:
    """Run processes, and all they need, under each strategy in turn, and say which suits each of them.

    The graph is found once, as `run` finds it, and run as decorated, with everything on the event loop, in threads, and
    in workers; at last with what the measurement suggests for each process, if that is something else than it has. One
    run of each comes first and is not measured: it starts the workers. Then the strategies take turns, each round in
    another order. A strategy that cannot run the graph is a row with the reason in the place of its numbers.

    The functions really run, ``4 * (1 + repeat)`` times and more: what they do to the world is done as often. Plain
    functions that wait for one another never end where all run inline on the loop, and no timeout can stop them there.

    Args:
        processes: one process or several (they are the targets), a module, a `Graph` or a `Workflow`.
        inputs: name to value; no iterators, which the first run would exhaust.
        overrides: id to a value, no iterator either, or to another process.
        targets: one id or several; only they and their ancestors run.
        timeout: seconds for each run.
        max_threads: at most so many threads at once.
        max_processes: at most so many workers at once.
        repeat: runs of each strategy that are measured.

    Returns:
        What was measured, and what it suggests.

    Raises:
        GraphError: the graph cannot run; nothing has run.
        ConfigurationError: an argument that cannot work; nothing has run.
        WorkflowError: a required process fails as decorated.
        RunTimeoutError: as decorated it takes longer than the timeout.

    >>> from pmflow import process
    >>> @process
    ... def words(text): return text.split()
    >>> comparison = compare(words, inputs={"text": "a b"}, repeat=1)
    >>> comparison.suggested["words"]
    <ProcessType.ASYNC: 'async'>
    >>> [row.strategy for row in comparison.rows]
    ['as decorated', 'async', 'thread', 'process', 'as suggested']
    """
    check_slots(repeat, "repeat")
    options = {"timeout": timeout, "max_threads": max_threads, "max_processes": max_processes}
    case = Case.of(processes, caller(), {"inputs": inputs, "overrides": overrides, "targets": targets, **options})
    samples = Samples(case.measured(DECORATED).data)
    samples.take(dict.fromkeys((DECORATED, *UNIFORM), case), range(repeat))
    suggestions = {
        name: suggestion(samples.facts(name, process))
        for name, process in case.graph.processes.items()
        if isinstance(process, FunctionProcess) and not is_inserted(process) and samples.ran(name)
    }
    if any(each.changes for each in suggestions.values()):
        samples.take({DECORATED: case, SUGGESTED: case.changed(suggestions)}, range(repeat, 2 * repeat))
    return Comparison(rows=tuple(_row(samples, strategy) for strategy in samples.taken), suggestions=suggestions)


def _row(samples: Samples, strategy: str) -> ComparisonRow:
    """Return the row of a strategy: of its numbers, or of the reason why there are none."""
    taken, decorated, verdicts = samples.taken[strategy], samples.taken[DECORATED], samples.verdicts[strategy]
    each = taken.values()
    reason = next((sample.reason for sample in each if sample.reason), None)
    if reason is not None:
        return ComparisonRow(strategy=strategy, reason=reason)
    return ComparisonRow(
        strategy=strategy,
        seconds=tuple(sample.seconds for sample in each),
        speed_up=median(decorated[number].seconds / sample.seconds for number, sample in taken.items()),
        cpu_time=median(sample.cpu_time for sample in each),
        peak_memory=max((sample.memory for sample in each if sample.memory is not None), default=None),
        overhead=median(sample.overhead for sample in each),
        different=tuple(target for target, verdict in verdicts.items() if verdict is False),
        unchecked=tuple(target for target, verdict in verdicts.items() if verdict is None),
    )
