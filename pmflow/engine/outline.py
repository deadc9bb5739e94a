"""The text of a plan: what will run, the most urgent first, and what of the graph will not, and why.

Names and settings only, never a value. Bounded, however large the plan is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

from pmflow.config import NOTHING, ProcessType
from pmflow.graph import (
    AFTER,
    EACH,
    OR_ELSE,
    OR_ELSE_RESULT,
    RESULT,
    RESULT_LIST,
    RESULTS,
    edges_of,
    location,
    takes_result,
)

if TYPE_CHECKING:
    from pmflow.engine.frontier import Priority
    from pmflow.engine.plan import Node, Plan
    from pmflow.graph import Edge

ROWS = 100
"""Rows of a table that are shown."""

NAMES = 5
"""What is listed in one cell or one sentence, before the rest is counted."""


def outline(plan: Plan) -> Iterator[str]:
    """Return the lines."""
    running = len(plan) - sum(name in plan.nodes for name in plan.given)
    targets = listed([f"'{name}'" for name in plan.targets])
    yield f"{running:,} process{'' if running == 1 else 'es'} for {targets or 'nothing'}, the most urgent first"
    yield from table((_cells(plan, node) for node in islice(by_urgency(plan), ROWS)), running)
    given = listed([*_given(plan)])
    if given:
        yield f"given: {given}"
    reasons = left_out(plan)
    if reasons:
        yield "not run:"
        yield from table(islice(reasons.items(), ROWS), len(reasons))


def listed(texts: Sequence[str]) -> str:
    """Return a few texts, and how many more there are."""
    more = f" and {len(texts) - NAMES:,} more" if len(texts) > NAMES else ""
    return ", ".join(texts[:NAMES]) + more


def table(rows: Iterable[Sequence[str]], count: int) -> Iterator[str]:
    """Return the lines of a table without a head, and how many of its ``count`` rows are left out."""
    shown = [*rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip()
    if count > len(shown):
        yield f"  ... and {count - len(shown):,} more"


def by_urgency(plan: Plan) -> Iterator[Node]:
    """Give what will run as if it ran one after another: of what is ready the most urgent, among equals the first."""
    nodes, given = plan.nodes, plan.given
    missing: dict[str, int] = {}
    ready: list[tuple[Priority, int, str]] = []
    for name, node in nodes.items():
        missing[name] = len({source for _, source, _ in node.edges if source not in given})
        if not missing[name] and name not in given:
            ready.append((node.priority, len(ready), name))
    became = len(ready)
    heapify(ready)
    while ready:
        node = nodes[heappop(ready)[2]]
        yield node
        for name in node.consumers:
            missing[name] -= 1
            if not missing[name]:
                heappush(ready, (nodes[name].priority, became, name))
                became += 1


def _cells(plan: Plan, node: Node) -> tuple[str, ...]:
    strategy = node.strategy.value
    if node.strategy is ProcessType.ASYNC and node.lane.startswith("inline"):
        strategy = "async, inline"
    return node.id, strategy, ", ".join(_settings(node)), listed([*_needs(plan, node)])


def _settings(node: Node) -> Iterator[str]:
    """Give what was said of failures and of time."""
    settings = node.settings
    if settings.timeout is not None:
        yield f"timeout {settings.timeout:g} s"
    retries = 0 if settings.retry_strategy is None else settings.retry_strategy.max_retries
    for count, what in ((retries, "retr"), (settings.crash_retries, "crash retr")):
        if count:
            yield f"{count:,} {what}{'y' if count == 1 else 'ies'}"
    if node.is_limited:
        yield f"limit {settings.limit}"
    if settings.cpus > 1:
        yield f"{settings.cpus:,} cores"
    if settings.when is not None:
        yield "on a condition"
    if settings.fallback is not NOTHING:
        yield "fallback"
    if not node.required:
        yield "not required"


def _needs(plan: Plan, node: Node) -> Iterator[str]:
    """Give what a process takes, and of whom."""
    for edge in node.edges:
        yield _need(plan, edge)
    mapped = node.settings.map_over or {}
    for parameter, source in plan.asks(node.id):
        name = f"input '{source}'"
        yield name if not parameter else f"{parameter} = {'each of ' if parameter in mapped else ''}{name}"


def _need(plan: Plan, edge: Edge) -> str:
    parameter, name, kind = edge
    given, mapped = name in plan.given, plan.nodes[name].mapped
    source = f"override '{name}'" if given else f"'{name}'"
    if kind & ~EACH == AFTER:
        return f"after {source}"
    if kind >= EACH:
        source = f"each of {'the results of ' if mapped and takes_result(kind) else ''}{source}"
    elif kind == RESULT_LIST:
        source = f"list of the result{'s' if mapped else ''} of {source}"
    elif kind in (RESULT, RESULTS, OR_ELSE_RESULT):
        source = f"result of {source}"
    elif mapped and not given:
        source = f"list of {source}"
    if kind in (OR_ELSE, OR_ELSE_RESULT) and not given:
        source = f"{source} if it has a value, else"
    return f"{parameter} = {source}" if parameter else source


def _given(plan: Plan) -> Iterator[str]:
    """Give what comes from outside the graph."""
    asked = {source for name in plan.nodes for _, source in plan.asks(name)}
    for name in sorted(plan.inputs):
        yield f"input '{name}'{'' if name in asked else ' (of no use here)'}"
    for name in plan.given:
        yield f"override '{name}'"
    for name in plan.replaced:
        yield f"override '{name}' (another process: {location(plan.processes[name])})"


def left_out(plan: Plan) -> dict[str, str]:
    """Return the ids of what will not run, and the reason."""
    nodes, processes = plan.nodes, plan.processes
    reasons = dict.fromkeys(plan.given, "overridden")
    waiting = [name for name in plan.given if name in nodes]
    while waiting:
        for _, source, _ in edges_of(processes[waiting.pop()]):
            if source in processes and source not in nodes and source not in reasons:
                reasons[source] = "needed by what is overridden only"
                waiting.append(source)
    for name in processes:
        if name not in nodes:
            reasons.setdefault(name, "not needed for the targets")
    return reasons
