"""`Plan`: a graph cut down to its targets, with inputs bound and priorities computed.

A plan is immutable and may be run any number of times, from any thread.

- *Priority*: the longest remaining path goes first (counted in processes), as in the critical-path method. The
  elements of maps that are aligned with one another share the priority of the first of them, and among equals the one
  furthest along goes first, so that a pipeline of 10,000 elements holds a handful of values and not 10,000.
- *Chains*: processes of one strategy, each of which has the one before as its only unfinished dependency and is its
  only consumer, become ready as one unit, named after the first. An executor runs them without coming back in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from pmflow.base import BaseProcess
from pmflow.config import ProcessType, cross, id_text, id_texts, process_type
from pmflow.decorator import FunctionProcess, names_asked
from pmflow.engine.frontier import Frontier, Place, Priority
from pmflow.errors import ConfigurationError, InputError, MissingDependencyError, did_you_mean, nearest
from pmflow.graph import (
    AFTER,
    DEFAULT,
    EACH,
    OR_ELSE,
    OR_ELSE_RESULT,
    RESULT,
    VALUE,
    Edge,
    Graph,
    forgives,
    settings_of,
    uncollected,
)
from pmflow.outputs import is_inserted, is_output
from pmflow.parts import inside

__all__ = ["Plan"]

# Lanes: where a unit is taken from, and so what is bounded together. The strategy, but on the loop in two: what awaits
# and what does not. Elements of maps in lanes of their own where fewer of them are to be begun at once: on the loop
# because what they await is seldom there a million times, in a pipeline of maps because its later stages go first.
TASK, INLINE, THREAD, WORKER = "task", "inline", "thread", "worker"
ELEMENT, STAGE = " element", " stage"
LANES = (TASK, TASK + ELEMENT, THREAD, THREAD + STAGE, WORKER, WORKER + STAGE, INLINE, INLINE + STAGE)

SOME = 32
"""Elements of a pipeline that are begun at once; as many values are alive, and as many are handed over in a burst."""

LONGEST_CHAIN = 1_000
"""Links that are handed to an executor at once, so that a chain of a million holds a thousand calls."""

PLANS_KEPT = 16
"""Plans that a graph remembers: a program that runs it again and again with other values plans it once."""


class Node:
    """A process of a plan.

    Attributes:
        id: its name.
        process: the declaration.
        lane: where it is taken from.
        asked: the parameters that its condition names; None: all, or it has none.
        edges: what it needs of other processes of the plan.
        consumers: the ids of those that need it.
        required: whether its failure fails the run.
        handled: whether it would, if not all who depend on it handled that.
        next: the next link of its chain.
        unit: what the frontier calls its chain.
        priority: smaller goes first; a chain has that of its first link, until another chain is more urgent.
        mapped: whether it is called once per element.
        opens: whether what a worker returned is needed in this program.
        hands_on: whether nobody but the next link of its chain, if that, can ever ask for its value.
    """

    __slots__ = (
        "asked",
        "consumers",
        "edges",
        "handled",
        "hands_on",
        "id",
        "lane",
        "mapped",
        "next",
        "opens",
        "priority",
        "process",
        "required",
        "settings",
        "unit",
    )

    def __init__(self, name: str, process: BaseProcess[Any], lane: str) -> None:
        self.id = name
        self.process = process
        self.settings = settings_of(process)
        self.lane = lane
        self.edges: tuple[Edge, ...] = ()
        self.consumers: Sequence[str] = ()
        self.required = True
        self.next: Node | None = None
        self.unit = name
        self.priority: Priority = 0
        self.asked: tuple[str, ...] | None = None
        self.mapped = self.opens = self.hands_on = self.handled = False

    @property
    def strategy(self) -> ProcessType:
        """How it is executed."""
        return _STRATEGIES[self.lane]

    @property
    def is_limited(self) -> bool:
        """Whether its calls have to wait for a limit."""
        return has_limit(self.settings)


def has_limit(settings: Any) -> bool:
    """Whether such calls have to wait for a limit: one of its own says nothing of what is called once."""
    limit = settings.limit
    return limit is not None and (settings.map_over is not None or not isinstance(limit, int))


_STRATEGIES = {
    lane: ProcessType.THREAD if THREAD in lane else ProcessType.PROCESS if WORKER in lane else ProcessType.ASYNC
    for lane in LANES
}


class Plan:
    """What will run. Made by `Graph.plan`; ``print(plan)`` shows it.

    Attributes:
        nodes: id to `Node`, each after those it depends on.
        targets: the ids asked for, in order.
        asked: the same as a set.
        given: id to value, of overridden processes: they do not run.
        bound: id to parameter to value, of inputs.
        keep_all: whether every value is kept.
        conditional: whether any process has a condition.
        gates: id to where it is taken from, of those that have a limit, or several cores.
        counts_cores: whether any process uses several cores, so that those of the others count.
        in_blocks: mapped ids of whose elements nobody has to hear before many of them have ended.
        aligned: mapped id to the mapped ids it goes along with, element by element.
        fed: mapped id to the other ids that it goes over, of processes that may yield what they give.
        streams: id of such a process to the ids of the maps over it.
        inputs: the names of the inputs.
        replaced: ids of processes in whose place others run.
        processes: id to process, of the whole graph.

    >>> from pmflow import process
    >>> page = process(lambda url: url.upper(), id="page")
    >>> words = process(lambda page: page.split(), id="words")
    >>> other = process(lambda: 1, id="other")
    >>> plan = Graph([page, words, other]).plan(inputs={"url": "a b"}, targets="words")
    >>> list(plan.nodes)
    ['page', 'words']
    """

    __slots__ = (
        "_asks",
        "_beginning",
        "aligned",
        "asked",
        "bound",
        "conditional",
        "counts_cores",
        "fed",
        "gates",
        "given",
        "in_blocks",
        "inputs",
        "keep_all",
        "nodes",
        "processes",
        "replaced",
        "streams",
        "targets",
    )

    def __init__(
        self,
        nodes: dict[str, Node],
        targets: tuple[str, ...],
        given: dict[str, Any],
        planner: _Planner,
        *,
        keep_all: bool,
    ) -> None:
        self.nodes = nodes
        self.targets = targets
        self.asked = frozenset(targets)
        self.given = given
        self.keep_all = keep_all
        self.conditional = any(node.settings.when is not None for node in nodes.values())
        self.bound: dict[str, dict[str, Any]] = {}
        self.inputs: frozenset[str] = frozenset()
        self.replaced: tuple[str, ...] = ()
        self.processes: Mapping[str, BaseProcess[Any]] = {}
        self._asks = planner.asks
        self.aligned = {
            name: tuple(
                dict.fromkeys(
                    source
                    for _, source, kind in node.edges
                    if kind >= EACH and nodes[source].mapped and source not in given
                )
            )
            for name, node in nodes.items()
            if node.mapped and type(node.settings.map_over) is not cross
        }
        self.fed = {name: found for name in self.aligned if (found := self._fed_by(nodes[name]))}
        self.streams: dict[str, tuple[str, ...]] = {}
        for name, sources in self.fed.items():
            for source in sources:
                self.streams[source] = (*self.streams.get(source, ()), name)
        self.aligned.update((name, ()) for name, node in nodes.items() if node.mapped and name not in self.aligned)
        self.counts_cores = planner.counts_cores
        gated = planner.gated()
        _contract(self, gated)
        _separate(self)
        counted = [node for node in nodes.values() if id(node.settings) in gated] if gated else []
        self.gates = {
            node.id: gate_of(node) for node in counted if node.id not in given
        }  # what does not run needs none
        _settle_values(self)
        _prioritise(self)
        blocks = () if self.counts_cores else self.aligned  # where cores count, each call takes its own
        self.in_blocks = frozenset(name for name in blocks if _is_for_blocks(nodes[name]))
        self._beginning = self._frontier()

    def _fed_by(self, node: Node) -> tuple[str, ...]:
        """Return what a map goes over while it comes: processes that it needs for nothing but that."""
        whole = {source for _, source, kind in node.edges if kind < EACH}
        return tuple(
            dict.fromkeys(
                source
                for _, source, kind in node.edges
                if kind >= EACH and source not in whole and source not in self.given and not self.nodes[source].mapped
            )
        )

    def filled(self, inputs: Mapping[str, Any]) -> Plan:
        """Return this plan with the values of inputs.

        Raises:
            InputError: one of them is to be mapped over, and cannot be.
        """
        if not self._asks:
            return self
        plan = Plan.__new__(Plan)
        for name in Plan.__slots__:
            setattr(plan, name, getattr(self, name))
        plan.bound = {
            name: {parameter: inputs.get(source) for parameter, source in asks} for name, asks in self._asks.items()
        }
        for name in self.aligned:
            for parameter, source in self._asks.get(name, ()):
                if parameter in self.nodes[name].settings.map_over:
                    check_sequence(name, source, inputs[source])
        return plan

    @classmethod
    def of(  # noqa: PLR0913 - named arguments, those of `run`
        cls,
        graph: Graph,
        *,
        inputs: Mapping[str, Any] | None = None,
        overrides: Mapping[Any, Any] | None = None,
        targets: Any = None,
        keep: str | None = None,
        type: Any = None,
        explain: Callable[[BaseProcess[Any], str], str] | None = None,
    ) -> Plan:
        """Plan a run of a graph.

        Args:
            graph: the graph.
            inputs: name to value.
            overrides: id to a value, or to a process that takes its place.
            targets: one id or several; only they and their ancestors run. By default what nothing depends on.
            keep: ``"all"`` or ``"targets"``: whose data stays; by default all, or targets where they are given.
            type: a strategy in place of every process's own.
            explain: says what a missing name is where the caller looked, or ``""``.

        Raises:
            MissingDependencyError: a parameter that nothing provides.
            InputError: an input, override or target that does not fit the graph.
            ConfigurationError: an argument that cannot work.
        """
        type = None if type is None else process_type(type)
        if keep not in (None, "all", "targets"):
            raise ConfigurationError(f"keep must be 'all' or 'targets', not {keep!r}", setting="keep")
        chosen = None if targets is None else tuple(dict.fromkeys(id_texts(targets)))
        inputs = {str(name): value for name, value in (inputs or {}).items()}
        if overrides:
            keep = keep or ("all" if chosen is None else "targets")
            asked = graph.targets if chosen is None else chosen  # what only an overridden process needs is none
            graph, given = overridden(graph, overrides)
            changed = cls._made(graph, inputs, given, asked, keep, type, explain)
            changed.replaced = tuple(name for name in map(id_text, overrides) if name not in given)
            return changed.filled(inputs)
        key = (frozenset(inputs), chosen, keep, type)
        plan = graph.plans.get(key)
        if plan is None:
            if len(graph.plans) >= PLANS_KEPT:
                graph.plans.clear()
            plan = graph.plans[key] = cls._made(graph, inputs, {}, chosen, keep, type, explain)
        return plan.filled(inputs)

    @classmethod
    def _made(  # noqa: PLR0913, PLR0917 - a step of `of`, with its arguments
        cls,
        graph: Graph,
        inputs: Mapping[str, Any],
        given: dict[str, Any],
        targets: tuple[str, ...] | None,
        keep: str | None,
        type: ProcessType | None,
        explain: Callable[[BaseProcess[Any], str], str] | None,
    ) -> Plan:
        for name in targets or ():
            if name not in graph.processes:
                raise unknown("a target", name, graph)
        asked = graph.targets if targets is None else targets
        needed = graph.processes.keys() if targets is None else _ancestors(graph, asked, given, inputs)
        keep_all = (keep or ("all" if targets is None else "targets")) == "all"
        planner = _Planner(graph, inputs, given, needed, type, explain)
        with uncollected(len(needed)):
            nodes = {name: planner.node(name) for name in graph.order if name in needed}
            check_inputs(graph, inputs)
            _connect(nodes, graph.consumers)
            plan = cls(nodes, asked, given, planner, keep_all=keep_all)
        plan.inputs, plan.processes = frozenset(inputs), graph.processes
        return plan

    def frontier(self) -> Frontier:
        """Return the frontier of a run that begins."""
        return self._beginning.begin()

    def _frontier(self) -> Frontier:
        nodes, given, gates = self.nodes, self.given, self.gates

        def place(name: str) -> Place:
            node = nodes[name]
            return gates.get(name, node.lane) if gates else node.lane, node.priority

        dependencies: dict[str, Iterable[str]] = {}
        lenient: dict[str, set[str]] = {}
        for name, node in nodes.items():
            edges = node.edges
            if node.unit is not name or name in given:
                continue
            if not edges:
                dependencies[name] = ()
                continue
            if len(edges) == 1 and not node.mapped and not given:
                dependencies[name] = (nodes[edges[0][1]].unit,)
            else:
                dependencies[name] = [nodes[source].unit for source in self.waits_for(node)]
            chosen = {parameter for parameter, _, kind in edges if kind in (OR_ELSE, OR_ELSE_RESULT)}
            for parameter, source, kind in edges:
                if (kind >= RESULT and forgives(kind)) or parameter in chosen:  # of the last candidate, too
                    lenient.setdefault(name, set()).add(nodes[source].unit)
        return Frontier.prepared(
            dependencies,
            lenient=lenient,
            mapped={
                **dict.fromkeys(self.streams, ()),
                **{n: (*each, *self.fed.get(n, ())) for n, each in self.aligned.items() if n not in given},
            },
            place=place,
        )

    def waits_for(self, node: Node) -> Iterable[str]:
        """Return the processes that must have ended before a node can begin."""
        edges, given = node.edges, self.given
        if not node.mapped and not given:
            return {source for _, source, _ in edges}
        along = (*self.aligned.get(node.id, ()), *self.fed.get(node.id, ()))
        return {source for _, source, _ in edges if source not in given and source not in along}

    def asks(self, name: str) -> list[tuple[str, str]]:
        """Return the parameters of a process that inputs feed, and the names of those."""
        return [each for each in self._asks.get(name, ()) if each[1] in self.inputs]

    def __len__(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        """Say what will run, the most urgent first, and what of the graph will not, and why: of each the first 100."""
        from pmflow.engine.outline import outline

        return "\n".join(outline(self))

    def __repr__(self) -> str:
        return f"<Plan of {len(self):,} processes for {', '.join(self.targets[:10])}>"


# Planning


def overridden(graph: Graph, overrides: Mapping[Any, Any]) -> tuple[Graph, dict[str, Any]]:
    """Return the graph with processes in place of processes, and the values that stand for others."""
    values: dict[str, Any] = {}
    processes: dict[str, BaseProcess[Any]] = {}
    for key, value in overrides.items():
        name = id_text(key)
        if name not in graph.processes:
            raise unknown("an override", name, graph)
        if isinstance(value, BaseProcess):
            processes[name] = value
        else:
            values[name] = value
    return (graph.replaced(processes) if processes else graph), values


def unknown(what: str, name: str, graph: Graph) -> InputError:
    """Return the error for a name that no process has, given as a target or the like."""
    suggestion = nearest(name, graph.processes)
    return InputError(
        f"no process is called {name!r}, which is given as {what}{did_you_mean(suggestion)}",
        name=name,
        suggestion=suggestion,
    )


def check_inputs(graph: Graph, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that nothing asks for."""
    if not inputs:
        return
    asked = {source for edges in graph.edges.values() for _, source, _ in edges}
    for name in inputs:
        process = graph.processes.get(name)
        if isinstance(process, FunctionProcess):
            raise InputError(
                f"{name!r} is a process, so it is no input; to run without it, write overrides={{{name!r}: value}}",
                name=name,
            )
        if process is not None and graph.edges[name]:
            raise InputError(
                f"'{name}' receives the results of {', '.join(source for _, source, _ in graph.edges[name])}, "
                f"so it takes no input; to run without it, write overrides={{{name!r}: value}}",
                name=name,
            )
        if process is None and name not in asked:
            known = {source for source in asked if source not in graph.processes}
            suggestion = nearest(name, known)
            raise InputError(
                f"no process asks for the input {name!r}{did_you_mean(suggestion)}", name=name, suggestion=suggestion
            )


def reached(edges: Sequence[Edge], inputs: Collection[str], given: Collection[str], graph: Graph) -> Sequence[Edge]:
    """Return edges without the candidates behind an input, or an overridden process, which always have a value."""
    if not (inputs or given) or all(kind not in (OR_ELSE, OR_ELSE_RESULT) for _, _, kind in edges):
        return edges
    found: list[Edge] = []
    settled: set[str] = set()
    for edge in edges:
        parameter, source, kind = edge
        if parameter in settled:
            continue
        found.append(edge)
        has_a_value = source in given or (source in inputs and source not in graph.processes)
        if kind in (OR_ELSE, OR_ELSE_RESULT) and has_a_value:
            settled.add(parameter)
    return found


def _ancestors(graph: Graph, targets: Iterable[str], given: Mapping[str, Any], inputs: Collection[str]) -> set[str]:
    needed: set[str] = set()
    waiting = list(targets)
    processes = graph.processes
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        needed.update(output for output in settings_of(processes[name]).outputs if output in processes)
        if name not in given:
            edges = reached(graph.edges[name], inputs, given, graph)
            waiting += [source for _, source, _ in edges if source in processes]
    return needed


class _Planner:
    """Makes nodes: binds inputs, picks lanes, refuses what is missing."""

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Any],
        given: Mapping[str, Any],
        needed: Collection[str],
        type: Any,
        explain: Callable[[BaseProcess[Any], str], str] | None,
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.given = given
        self.needed = needed
        self.type = type
        self.explain = explain
        self.lanes: dict[Any, str] = {}
        self.counts_cores = False
        self.one_by_one: set[int] = set()
        self.tried_again: set[int] = set()
        self.asks: dict[str, list[tuple[str, str]]] = {}

    def node(self, name: str) -> Node:
        process = self.graph.processes[name]
        node = Node(name, process, self.lane(process))
        settings = node.settings
        if type(process) is not FunctionProcess:
            self.note(settings, node.lane)
        node.required = settings.required and self.graph.required(name)
        node.mapped = settings.map_over is not None
        if settings.when is not None and type(process) is FunctionProcess:
            node.asked = names_asked(settings.when)
        if name in self.given:
            return node
        if node.lane is INLINE and self.type is None and settings.timeout is not None:
            raise ConfigurationError(
                f"'{name}' is of type async, and its method is a plain one: it runs inline on the loop, where "
                f"a timeout can stop nothing; use ProcessType.THREAD or PROCESS, or make the method async",
                process_id=name,
                setting="timeout",
            )
        edges = self.graph.edges[name]
        needed = self.needed
        for _, source, _ in edges:
            if source not in needed:
                edges = self.bound(node, edges)
                break
        node.edges = edges
        if not edges and not isinstance(process, FunctionProcess):
            self.asks[name] = [("", name)]
        return node

    def lane(self, process: BaseProcess[Any]) -> str:
        if type(process) is not FunctionProcess:
            return self._lane(process)
        key = id(process._settings), process._function.coroutine  # noqa: SLF001 - once per function, not per process
        known = self.lanes.get(key)
        if known is None:
            known = self.lanes[key] = self._lane(process)
            self.note(process._settings, known)  # noqa: SLF001 - the same
        return known

    def gated(self) -> Collection[int]:
        """Return the ids of the settings of processes that begin one by one."""
        return self.one_by_one | self.tried_again if self.counts_cores else self.one_by_one

    def note(self, settings: Any, lane: str) -> None:
        """Note who has a limit, or several cores; where cores count, retries in workers wait for theirs as well."""
        self.counts_cores |= settings.cpus > 1
        if settings.cpus > 1 or has_limit(settings):
            self.one_by_one.add(id(settings))
        elif lane is WORKER and (settings.retry_strategy is not None or settings.crash_retries):
            self.tried_again.add(id(settings))

    def _lane(self, process: BaseProcess[Any]) -> str:
        strategy = process.strategy if self.type is None or is_inserted(process) else self.type
        if strategy is ProcessType.THREAD:
            return THREAD
        if strategy is ProcessType.PROCESS:
            return WORKER
        return TASK if is_coroutine(process) else INLINE

    def bound(self, node: Node, edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
        """Return the edges to other processes; inputs become given values, defaults are left out."""
        kept = []
        asks = []
        for edge in reached(edges, self.inputs, self.given, self.graph):
            parameter, source, _ = edge
            if source in self.inputs and source not in self.graph.processes:
                asks.append((parameter or source, source))
            elif source in self.needed:
                kept.append(edge)
            elif not has_default(node.process, edge):
                raise self.missing(node, parameter, source)
        if asks:
            self.asks[node.id] = asks
        return tuple(kept)

    def missing(self, node: Node, parameter: str, source: str) -> MissingDependencyError:
        known = {name: None for name in (*self.graph.processes, *self.inputs) if name != node.id}
        suggestion = nearest(source, known)
        asks = f"{source!r}" if parameter in ("", source) else f"{source!r} for its parameter {parameter!r}"
        explained = self.explain(node.process, source) if self.explain else ""
        asked = {name for edges in self.graph.edges.values() for _, name, _ in edges}
        unused = [repr(name) for name in self.inputs if name not in asked and name not in self.graph.processes]
        if unused:
            explained += f"; nothing asks for the input {', '.join(unused[:10])}"
        if not explained and suggestion is None and known:
            explained = f"; there {'are' if len(known) > 1 else 'is'} {', '.join(map(repr, list(known)[:10]))}"
        return MissingDependencyError(
            f"'{node.id}' needs {asks}, which no process produces and no input provides"
            f"{explained}{did_you_mean(suggestion)}",
            process_id=node.id,
            parameter=parameter or source,
            suggestion=suggestion,
        )


def has_default(process: BaseProcess[Any], edge: Edge) -> bool:
    """Whether a parameter may keep its default; one that `dependencies` or `map_over` names may not."""
    parameter, source, kind = edge
    if kind >= EACH or parameter != source:
        return False
    return isinstance(process, FunctionProcess) and parameter in process._function.optional  # noqa: SLF001


def check_sequence(name: str, source: str, value: Any) -> None:
    """Refuse what a map is not to go over.

    Raises:
        InputError: it is a string, bytes or a mapping, or nothing to go over.
    """
    kind = type(value).__name__
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        remedy = f"list({source}.items())" if isinstance(value, Mapping) else f"[{source}]"
        raise InputError(
            f"'{name}' maps over {source!r}, which is of type {kind}: its elements are seldom what is meant; "
            f"give a list instead, such as {remedy}",
            name=source,
            process_id=name,
        )
    if not hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
        raise InputError(
            f"'{name}' maps over {source!r}, which is of type {kind}: give a list, or another iterable",
            name=source,
            process_id=name,
        )


def is_coroutine(process: BaseProcess[Any]) -> bool:
    """Whether calling the process gives a coroutine."""
    if isinstance(process, FunctionProcess):
        return process._function.coroutine  # noqa: SLF001
    from inspect import iscoroutinefunction

    return iscoroutinefunction(process.entry)


def _connect(nodes: dict[str, Node], consumers: Mapping[str, list[str]]) -> None:
    """Fill in who consumes what, and whose failures every consumer handles."""
    for source, names in consumers.items():
        node = nodes.get(source)
        if node is None:
            continue
        if len(names) > 1:
            node.consumers = [name for name in dict.fromkeys(names) if name in nodes and nodes[name].edges]
        elif names[0] in nodes and nodes[names[0]].edges:
            node.consumers = names
    for node in nodes.values():
        for _, source, kind in node.edges:
            if kind >= RESULT and forgives(kind):
                _excuse(nodes, source)


def _excuse(nodes: Mapping[str, Node], source: str) -> None:
    """Let a failure that every consumer handles not fail the run; that of a sub-graph is any that ends there only."""
    while is_output(nodes[source].process) and nodes[source].edges:
        source = nodes[source].edges[0][1]  # it is the failure of that one which is handled
    if nodes[source].required and _handled(nodes, source):
        nodes[source].required, nodes[source].handled = False, True
    if nodes[source].required:
        return
    handled = {source}
    for name in reversed(inside(nodes[source].process)):  # consumers first
        node = nodes.get(name)
        if node is not None and (not node.consumers or _handled(nodes, name, handled)):
            handled.add(name)
            node.required, node.handled = False, node.handled or node.required


def _handled(nodes: Mapping[str, Node], source: str, others: Collection[str] = ()) -> bool:
    """Whether every consumer handles its failure: takes the result itself, has another candidate, or is among others.

    An output only hands on: what consumes it has to.
    """
    asked = [
        (name, kind)
        for name in nodes[source].consumers
        for _, wanted, kind in nodes[name].edges
        if wanted == source  # none of those behind an input
    ]
    return bool(asked) and all(
        forgives(kind) or name in others or (is_output(nodes[name].process) and _handled(nodes, name))
        for name, kind in asked
    )


def _contract(plan: Plan, gated: Collection[int]) -> None:
    """Join the links of chains."""
    nodes, given = plan.nodes, plan.given
    length: dict[str, int] = {}
    for name, node in nodes.items():
        edges = node.edges
        if len(edges) != 1 or node.mapped:
            continue
        _, source, kind = edges[0]
        before = nodes[source]
        if before.lane is not node.lane or len(before.consumers) != 1:
            continue
        if type(before.process) is not FunctionProcess or node.settings.when is not None:
            continue  # what its `execute` returns may be a result, to be opened; it may not have to run at all
        if gated and (id(node.settings) in gated or id(before.settings) in gated):
            continue  # each begins when its limit lets it
        if kind not in (VALUE, DEFAULT, AFTER) or before.mapped or source in given or name in given:
            continue
        links = length.get(before.unit, 1)
        if links < LONGEST_CHAIN:
            before.next = node
            node.unit = before.unit
            length[before.unit] = links + 1


def _is_for_blocks(node: Node) -> bool:
    """Whether elements of a map can be sent to workers many at a time: nothing is said of each but its function."""
    settings = node.settings
    plain = settings.limit is None and settings.when is None
    if not plain or node.lane is not WORKER or node.hands_on or type(node.process) is not FunctionProcess:
        return False
    return not node.process._function.positional  # noqa: SLF001 - they are passed by name


def _separate(plan: Plan) -> None:
    """Put the elements of maps into lanes of their own."""
    stages = {source for sources in plan.aligned.values() for source in sources}
    stages |= {name for name, sources in plan.aligned.items() if sources}
    for name in plan.aligned:
        node = plan.nodes[name]
        if node.lane is TASK:
            node.lane = LANES[1]
        elif name in stages:
            node.lane = LANES[LANES.index(node.lane) + 1]


def gate_of(node: Node) -> str:
    """Return from where what begins one by one is taken: the same for all in one lane that have the same limit."""
    limit, cpus = node.settings.limit, node.settings.cpus
    whose = f"process {node.id}" if isinstance(limit, int) else f"name {limit}" if isinstance(limit, str) else id(limit)
    return f"{node.lane}, limit of {'nobody' if limit is None else whose}, {cpus} cores"


def _settle_values(plan: Plan) -> None:
    """Say which values of workers have to come into this program, and which nobody can ever ask for."""
    nodes, targets = plan.nodes, plan.asked
    for name, node in nodes.items():
        asked = name in targets
        if WORKER not in node.lane:
            node.hands_on = not asked and not plan.keep_all and not wanted(nodes, node)
            continue
        node.opens = (
            asked
            or type(node.process) is not FunctionProcess  # it may be a result, to be opened
            or any(_opens(plan, node, nodes[consumer]) for consumer in node.consumers)
        )
        if asked or plan.keep_all:
            continue
        after = node.next
        if after is not None and after.edges[0][2] != AFTER:
            node.hands_on = after.settings.retry_strategy is None and not after.settings.crash_retries
        elif not wanted(nodes, node):
            node.hands_on, node.opens = True, False


def wanted(nodes: Mapping[str, Node], node: Node) -> int:
    """Return how many consumers want the value of a process, and not only its good end."""
    return sum(
        any(source == node.id and kind not in (AFTER, EACH + AFTER) for _, source, kind in nodes[name].edges)
        for name in node.consumers
    )


def _opens(plan: Plan, node: Node, consumer: Node) -> bool:
    """Whether a consumer needs the value itself: where it runs, to decide whether, or to know how often."""
    if WORKER not in consumer.lane or consumer.settings.when is not None:
        return True
    return any(
        source == node.id and kind >= EACH and source not in plan.aligned.get(consumer.id, ())
        for _, source, kind in consumer.edges
    )


def _prioritise(plan: Plan) -> None:
    """Give every node the length of the longest path from it on; between two lengths there is room for stages."""
    nodes = plan.nodes
    stages = len(plan.aligned) + 1
    path: dict[str, int] = {}
    for name in reversed(nodes):
        node = nodes[name]
        longest = 0
        for consumer in node.consumers:
            longest = max(longest, path[consumer])
        path[name] = longest + 1
        node.priority = -(longest + 1) * stages
    for name, sources in plan.aligned.items():  # in topological order: a source before what is aligned with it
        before = [*sources, *(source for source in plan.fed.get(name, ()) if _is_generator(nodes[source].process))]
        if before:
            nodes[name].priority = min(nodes[source].priority for source in before) - 1


def _is_generator(process: BaseProcess[Any]) -> bool:
    """Whether calling the process surely gives a generator: what it yields is to be consumed first."""
    return isinstance(process, FunctionProcess) and process._function.generator  # noqa: SLF001
