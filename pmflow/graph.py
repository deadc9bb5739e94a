"""`Graph`: processes, and the edges that their parameter names draw between them; checked, immutable.

An edge is ``(parameter, source, kind)``. A graph knows which processes want what; which names are inputs is only known
when it is planned.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from graphlib import CycleError as PathFound, TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

from pmflow.base import BaseProcess
from pmflow.config import check_names
from pmflow.decorator import DEFAULT, RESULT, RESULT_LIST, VALUE, Edge, FunctionProcess
from pmflow.errors import CycleError, DuplicateProcessError, GraphError, TypeMismatchError
from pmflow.outputs import is_output, with_outputs
from pmflow.parts import Renamed, inside
from pmflow.subgraphs import SubgraphProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, ModuleType
    from typing import Literal

    from typing_extensions import Unpack

    from pmflow.config import ProcessId, ProcessType
    from pmflow.decorator import Reference
    from pmflow.engine.explanation import Explanation
    from pmflow.engine.plan import Plan
    from pmflow.hints import Mismatch
    from pmflow.subgraphs import MappedSubgraphSettings, SubgraphSettings

__all__ = [
    "AFTER",
    "DEFAULT",
    "EACH",
    "OR_ELSE",
    "OR_ELSE_RESULT",
    "RESULT",
    "RESULTS",
    "RESULT_LIST",
    "VALUE",
    "Edge",
    "Graph",
]

# Further kinds of edges (the others are a parameter's own). A process needs of its source:
RESULTS = 4  # of a class-based process: its ProcessResult among the `input_data`
AFTER = 5  # only its good end
OR_ELSE = 6  # its value; if it has none, the next edge of the same parameter is asked
OR_ELSE_RESULT = 7  # its ProcessResult, if it has a value; the same
EACH = 8  # added to a parameter's kind: of each element of its value


def takes_result(kind: int) -> bool:
    """Whether an edge passes on the result itself, whatever it is."""
    return kind & ~EACH in (RESULT, RESULT_LIST)


_planner: list[Callable[..., Plan]] = []
_explainer: list[Callable[..., Explanation]] = []


def install_planner(planner: Callable[..., Plan], explainer: Callable[..., Explanation]) -> None:
    """Say what plans and explains a graph, which is below what does."""
    _planner[:] = [planner]
    _explainer[:] = [explainer]


_finder: list[Callable[[ModuleType, FrameType], Graph]] = []


def install_finder(finder: Callable[[ModuleType, FrameType], Graph]) -> None:
    """Say what finds the processes of a module, which is above too."""
    _finder[:] = [finder]


def forgives(kind: int) -> bool:
    """Whether a failure is handled at this edge: it passes on the result, or another candidate is asked."""
    return takes_result(kind) or kind in (OR_ELSE, OR_ELSE_RESULT)


class Graph:
    """Processes and what each of them needs. Closed: what is not in it is an input.

    Args:
        processes: the processes, in any order.

    Attributes:
        processes: id to process.

    Raises:
        DuplicateProcessError: two processes of one id.
        CycleError: processes that wait for one another.
        GraphError: what is no process; an id that an element of a mapped process would have too.
        TypeMismatchError: annotations on both ends of an edge do not agree; found where beartype is installed (the
            extra ``typecheck``), and only where nothing speaks for them (see `pmflow.hints`).

    >>> from pmflow import process
    >>> page = process(lambda url: url.upper(), id="page")
    >>> words = process(lambda page: page.split(), id="words")
    >>> graph = Graph([words, page])
    >>> graph.dependencies
    {'words': ('page',), 'page': ()}
    >>> graph.targets
    ('words',)
    """

    __slots__ = ("_consumers", "_edges", "_more", "_optional", "_order", "plans", "processes")

    processes: Mapping[str, BaseProcess[Any]]

    def __init__(self, processes: Iterable[BaseProcess[Any]]) -> None:
        self._build(_by_id(processes), {}, frozenset())

    @classmethod
    def declared(
        cls, processes: Iterable[BaseProcess[Any]], dependencies: Mapping[str, Sequence[str]], optional: Iterable[str]
    ) -> Graph:
        """Return a graph whose processes have further dependencies, and some of which are not required.

        Args:
            processes: the processes.
            dependencies: id to the ids that it depends on besides what its parameters say.
            optional: ids of those that are not required.
        """
        self = cls.__new__(cls)
        self._build(_by_id(processes), dependencies, frozenset(optional))
        return self

    @classmethod
    def from_module(cls, module: ModuleType) -> Graph:
        """Return the processes of a module, and what they need: a closed graph of all that ``run(module)`` finds.

        Args:
            module: the module.

        Raises:
            GraphError: it is no module, or has no processes; whatever else `Graph` raises.

        >>> import types
        >>> from pmflow import process
        >>> module = types.ModuleType("steps")
        >>> module.page = process(lambda url: url.upper(), id="page")
        >>> module.words = process(lambda page: page.split(), id="words")
        >>> Graph.from_module(module)
        <Graph of 2 processes: page, words>
        """
        return _finder[0](module, sys._getframe(1))  # noqa: SLF001 - `run` looks where it is called, too

    def __or__(self, other: Graph) -> Graph:
        """Return a graph of the processes of both; what was an input of the one may now be a process of the other.

        Raises:
            DuplicateProcessError: two processes of one id; one that is in both is fine.
            GraphError: whatever else `Graph` raises.

        >>> from pmflow import process
        >>> page = process(lambda url: url.upper(), id="page")
        >>> words = process(lambda page: page.split(), id="words")
        >>> (Graph([page]) | Graph([words])).dependencies
        {'page': (), 'words': ('page',)}
        """
        if not isinstance(other, Graph):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is checked
            return NotImplemented
        more = {name: (*sources, *other._more.get(name, ())) for name, sources in self._more.items()}
        graph = Graph.__new__(Graph)
        graph._build(
            _by_id([*self.processes.values(), *other.processes.values()]),
            {**other._more, **more},
            self._optional | other._optional,
        )
        return graph

    @overload
    def as_process(
        self, *, id: str | ProcessId, **settings: Unpack[MappedSubgraphSettings]
    ) -> SubgraphProcess[list[Any]]: ...
    @overload
    def as_process(self, *, id: str | ProcessId, **settings: Unpack[SubgraphSettings]) -> SubgraphProcess[Any]: ...
    def as_process(self, *, id: str | ProcessId, **settings: Any) -> Any:  # noqa: D417 - each setting by its name
        """Return this graph as a process of other graphs.

        Where those are built, its processes become theirs: ``fit`` is ``train.fit`` in a sub-graph ``train``, its key
        in runs, plans, targets and overrides. Each runs as soon as its own inputs exist; nothing waits for the
        sub-graph as a whole. What would be inputs of this graph are the parameters of the sub-graph. Each is fed by
        what ``dependencies`` or ``map_over`` says, or has its value in ``inputs``; else it is fed by the process or
        the input of its name, else those inside that ask for it keep their defaults.

        A failure inside fails the run, and what depends on the sub-graph is SKIPPED, as if it depended on the target
        itself; where all that depends on it takes its `ProcessResult`, it is handled. Strategies, limits and the like
        are those of the processes inside.

        Args:
            id: its id, which comes before those of its processes.
            dependencies: parameter to what feeds it, or a tuple of candidates.
            inputs: parameter to value.
            targets: of one target the value is that of the sub-graph; several give a dictionary of their ids, as they
                are in this graph, and their values. By default what nothing depends on. Only what they need is inside.
            map_over: parameter to source, or ``cross(...)``: once per element, for all inside that depends on it; the
                value is a list. Element by element: ``train.fit_3`` begins when what it needs of element 3 exists.
                Where a value is missing that all elements need, they are SKIPPED as a whole, with all that goes along.
            after: ids that must have ended well before any of its processes begins.
            required: False: all inside is not required, so a failure gives no value.

        Raises:
            ConfigurationError: a setting that cannot work.
            InputError: a target that does not exist.

        >>> import pmflow
        >>> from pmflow import process
        >>> model = process(lambda rows, degree=1: (len(rows), degree), id="model")
        >>> score = process(lambda model: sum(model), id="score")
        >>> graph = Graph([model, score])
        >>> train = graph.as_process(id="train", dependencies={"rows": "table"}, inputs={"degree": 2})
        >>> report = process(lambda train: f"score {train}", id="report")
        >>> run = pmflow.run([report, train], targets=report, inputs={"table": "abc"}, keep="all")
        >>> run.value, run["train.model"].data
        ('score 5', (3, 2))
        >>> each = graph.as_process(id="each", map_over={"degree": "degrees"})
        >>> pmflow.run(each, inputs={"rows": "abc", "degrees": [1, 2, 3]}).value
        [4, 5, 6]
        """
        frame = sys._getframe(1)  # noqa: SLF001 - the place in which it is written is where its parameters are looked for
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        return SubgraphProcess(self, {"id": id, **settings}, place, frame.f_globals)

    def _build(
        self, processes: dict[str, BaseProcess[Any]], more: Mapping[str, Sequence[str]], optional: frozenset[str]
    ) -> None:
        self.processes = MappingProxyType(processes)
        self.plans: dict[Any, Any] = {}
        self._more = more
        self._optional = optional
        with uncollected(len(processes)):
            self._edges = {name: edges_of(process, more.get(name, ())) for name, process in processes.items()}
            self._refuse_clashes()
            self._consumers: dict[str, list[str]] = {}
            self._order = self._sorted()
        self._refuse_mismatches()

    def _refuse_clashes(self) -> None:
        mapped = {name for name in self.processes if settings_of(self.processes[name]).map_over}
        if not mapped:
            return
        for name in self.processes:
            base, _, digits = name.rpartition("_")
            if base in mapped and re.fullmatch(r"\d+", digits):
                raise GraphError(
                    f"'{name}' is what element {int(digits)} of the mapped process '{base}' is called; "
                    f"give one of them another id",
                    process_id=name,
                )

    def _sorted(self) -> list[str]:
        """Return the ids, each after those it depends on (Kahn's algorithm, 1962)."""
        missing: dict[str, int] = {}
        dependants = self._consumers
        order: list[str] = []
        edges = self._edges
        for name, each in edges.items():
            count = 0
            for _, source, _ in each:
                if source in edges:
                    count += 1
                    known = dependants.get(source)
                    if known is None:
                        dependants[source] = [name]
                    else:
                        known.append(name)
            if count:
                missing[name] = count
            else:
                order.append(name)
        for name in order:  # grows as it is walked
            for dependant in dependants.get(name, ()):
                missing[dependant] -= 1
                if not missing[dependant]:
                    order.append(dependant)
        if len(order) < len(edges):
            done = set(order)
            left = dict.fromkeys(name for name in edges if name not in done)
            self._refuse_cycle({name: [source for _, source, _ in edges[name] if source in left] for name in left})
        return order

    def _refuse_cycle(self, rest: Mapping[str, Iterable[str]]) -> None:
        cycle: list[str] = []
        try:
            TopologicalSorter(rest).prepare()
        except PathFound as found:
            cycle += found.args[1]
        shown = [*cycle[:10], "...", *cycle[-3:]] if len(cycle) > 20 else cycle  # noqa: PLR2004 - what a reader follows
        last = cycle[1]
        via = next((parameter for parameter, source, _ in self._edges[last] if source == cycle[0]), "")
        if is_output(self.processes[last]):
            remedy = f"rename the output '{last}' of '{cycle[0]}'"
        elif via:
            remedy = f"rename the parameter {via!r} of '{last}'"
        else:
            remedy = f"take '{cycle[0]}' out of what '{last}' depends on"
        raise CycleError(
            f"processes form a cycle: {' -> '.join(shown)}; {remedy}, or feed it from elsewhere with dependencies=",
            cycle=tuple(cycle),
            process_id=last,
        )

    def _refuse_mismatches(self) -> None:
        """Compare what functions say that they return with what those say that they take."""
        processes = self.processes
        for name, edges in self._edges.items():
            process = processes[name]
            if type(process) is not FunctionProcess or process._function.hints is None:  # noqa: SLF001 - for every edge
                continue
            for parameter, source, kind in edges:
                other = processes.get(source)
                if type(other) is not FunctionProcess or kind & ~EACH > DEFAULT:
                    continue
                made = other._function.hints  # noqa: SLF001
                if made is None:
                    continue
                mapped, each = other._settings.map_over is not None, kind >= EACH  # noqa: SLF001
                found = process._function.hints.mismatch(made, parameter, mapped=mapped, each=each)  # noqa: SLF001
                if found is not None:
                    raise _mismatch(found, process, parameter, other, each=each and not mapped)

    @property
    def dependencies(self) -> dict[str, tuple[str, ...]]:
        """Id to the ids of the processes it depends on."""
        known = self._edges
        return {
            name: tuple(dict.fromkeys(source for _, source, _ in edges if source in known))
            for name, edges in known.items()
        }

    @property
    def targets(self) -> tuple[str, ...]:
        """The ids of the processes that nothing depends on."""
        used = {source for edges in self._edges.values() for _, source, _ in edges}
        return tuple(name for name in self._edges if name not in used)

    # A look before running

    def plan(
        self,
        *,
        targets: Reference | Iterable[Reference] | None = None,
        inputs: Mapping[str, Any] | None = None,
        overrides: Mapping[Any, Any] | None = None,
        keep: Literal["all", "targets"] | None = None,
        type: str | ProcessType | None = None,
    ) -> Plan:
        """Return what `run` would do with this graph; nothing runs. Its text says it: print it.

        Args:
            targets: one id or several; only they and their ancestors run. By default what nothing depends on.
            inputs: name to value.
            overrides: id to a value, or to a process that takes its place.
            keep: ``"all"`` or ``"targets"``: whose data stays.
            type: a strategy in place of every process's own.

        Raises:
            GraphError: the graph cannot run so.
            ConfigurationError: an argument that cannot work.

        >>> from pmflow import process
        >>> page = process(lambda url: url.upper(), id="page", map_over={"url": "urls"}, timeout=5)
        >>> words = process(lambda page: page[0].split(), id="words")
        >>> other = process(lambda: 1, id="other")
        >>> print(Graph([page, words, other]).plan(targets="words", inputs={"urls": ["a", "b"]}))
        2 processes for 'words', the most urgent first
          page   thread  timeout 5 s  url = each of input 'urls'
          words  thread               page = list of 'page'
        given: input 'urls'
        not run:
          other  not needed for the targets
        """
        check_names(inputs, "inputs")
        check_names(overrides, "overrides")
        return _planner[0](self, targets=targets, inputs=inputs, overrides=overrides, keep=keep, type=type)

    def explain(
        self,
        process: Reference,
        *,
        inputs: Mapping[str, Any] | None = None,
        overrides: Mapping[Any, Any] | None = None,
    ) -> Explanation:
        """Return where each parameter of a process gets its value. Its text says it: print it.

        Args:
            process: the process, or its id.
            inputs: name to value, as `run` is to take them; without, what is no process is an input to be given.
            overrides: id to a value, or to a process that takes its place.

        Raises:
            InputError: there is no such process; an input or override that does not fit the graph.

        >>> from pmflow import process
        >>> page = process(lambda url: url.upper(), id="page", type="async")
        >>> words = process(lambda page, at=" ", top=None: page.split(at), id="words", dependencies={"top": "tops"})
        >>> print(Graph([page, words]).explain(words, inputs={"tops": 10}))
        'words' (...) takes
          page  from process 'page' (...)
          at    its default
          top   from input 'tops', as dependencies= says
        """
        check_names(inputs, "inputs")
        check_names(overrides, "overrides")
        return _explainer[0](self, process, inputs=inputs, overrides=overrides)

    # For the planner

    def replaced(self, processes: Mapping[str, BaseProcess[Any]]) -> Graph:
        """Return this graph with other processes in the place of some."""
        graph = Graph.__new__(Graph)
        graph._build({**self.processes, **_in_place(self, processes)}, self._more, self._optional)  # noqa: SLF001 - one of its own kind
        return graph

    @property
    def edges(self) -> Mapping[str, tuple[Edge, ...]]:
        """Id to what it wants: parameter, source (a process or an input), kind."""
        return self._edges

    @property
    def order(self) -> list[str]:
        """The ids, each after those it depends on."""
        return self._order

    @property
    def consumers(self) -> Mapping[str, list[str]]:
        """Id to the ids of those that need it, once per edge."""
        return self._consumers

    def required(self, name: str) -> bool:
        """Whether the failure of a process fails the run."""
        return name not in self._optional and settings_of(self.processes[name]).required

    def __iter__(self) -> Iterator[str]:
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.processes)

    def __repr__(self) -> str:
        shown = ", ".join(list(self.processes)[:10])
        return f"<Graph of {len(self):,} processes: {shown}{', ...' if len(self) > 10 else ''}>"  # noqa: PLR2004


@contextmanager
def uncollected(count: int) -> Generator[None]:
    """While very many objects are made, all of which stay, let nobody look for garbage among them, again and again.

    Args:
        count: of processes; where they are few, nothing changes.
    """
    import gc

    if count < MANY or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


MANY = 10_000
"""Processes from which on the search for garbage takes a third of the time that it takes to plan them."""


def settings_of(process: BaseProcess[Any]) -> Any:
    """Return the settings that copies of a function process share, or the config: all but id and dependencies."""
    return process._settings if type(process) is FunctionProcess else process.config  # noqa: SLF001 - one for many


def edges_of(process: BaseProcess[Any], more: Sequence[str] = ()) -> tuple[Edge, ...]:
    """Return what a process wants, from its parameters and its settings."""
    settings = settings_of(process)
    if isinstance(process, FunctionProcess):
        edges = _edges_of_function(process)
        if not settings.after and not more:
            return edges if type(edges) is tuple else tuple(edges)
    else:
        names = settings.dependencies
        edges = [
            ("", source, RESULTS)
            for source in dict.fromkeys([*(names.values() if isinstance(names, dict) else names), *more])
        ]
    if settings.after or more:
        chosen = {parameter for parameter, _, kind in edges if kind in (OR_ELSE, OR_ELSE_RESULT)}
        sources = {
            source
            for parameter, source, kind in edges
            if kind >= EACH or not (parameter in chosen or forgives(kind))  # these run where `after` may say no
        }
        edges = [
            *edges,
            *(("", source, AFTER) for source in dict.fromkeys([*settings.after, *more]) if source not in sources),
        ]
    return tuple(edges)


def _edges_of_function(process: FunctionProcess[Any, Any, Any]) -> Sequence[Edge]:
    function = process._function  # noqa: SLF001 - read here for every process of a graph
    sources = process._sources  # noqa: SLF001
    mapped = process._settings.map_over  # noqa: SLF001
    if mapped is None and not sources:
        return function.wants
    if mapped is None and len(sources) == len(function.wants) == 1:
        ((name, source),) = sources
        if name == function.wants[0][0] and type(source) is str:
            return ((name, source, function.wants[0][2]),)
    return _edges(function, sources, mapped or {})


def _edges(function: Any, sources: Iterable[tuple[str, Any]], mapped: Mapping[str, str]) -> list[Edge]:
    given = dict(sources)
    edges: list[Edge] = []
    for name, _, kind in function.wants:
        if name in mapped:
            edges.append((name, mapped[name], EACH + kind))
        else:
            edges += _candidates(name, given.pop(name, name), kind)
    for name, source in given.items():
        edges += _candidates(name, source, VALUE)
    edges += [(name, source, EACH) for name, source in mapped.items() if name not in function.places]
    return edges


def _mismatch(
    found: Mismatch,
    process: FunctionProcess[Any, Any, Any],
    parameter: str,
    other: FunctionProcess[Any, Any, Any],
    *,
    each: bool,
) -> TypeMismatchError:
    gives = f"the elements of '{other.id}' are" if each else f"'{other.id}' gives"
    return TypeMismatchError(
        f"'{process.id}' takes {parameter!r} as {found.wanted}, and {gives} {found.made}: see {_written(process)} and "
        f"{_written(other)}; correct the annotation that is wrong (Any fits everything), or feed the parameter from "
        f"elsewhere with dependencies=",
        process_id=process.id,
        parameter=parameter,
        source=other.id,
        wanted=found.wanted,
        made=found.made,
        places=(location(process), location(other)),
    )


def _written(process: FunctionProcess[Any, Any, Any]) -> str:
    return f"the function {process._function.name} in {location(process)}"  # noqa: SLF001


def _candidates(parameter: str, source: Any, kind: int) -> Iterator[Edge]:
    """Return an edge to each candidate for a parameter, of which there is one as a rule."""
    if type(source) is tuple:
        *others, source = source
        for other in others:
            yield parameter, other, OR_ELSE_RESULT if kind == RESULT else OR_ELSE
    yield parameter, source, kind


def _by_id(processes: Iterable[BaseProcess[Any]]) -> dict[str, BaseProcess[Any]]:
    found: dict[str, BaseProcess[Any]] = {}
    for process in with_outputs(_in_parts(processes)):
        if not isinstance(process, BaseProcess):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is checked
            raise GraphError(f"a graph is made of processes, and {process!r} is none; decorate it with @process")
        known = found.setdefault(process.id, process)
        if known is not process and not _same(known, process):
            raise _duplicate(known, process)
    return found


def _duplicate(one: BaseProcess[Any], other: BaseProcess[Any]) -> DuplicateProcessError:
    places = (location(one), location(other))
    return DuplicateProcessError(
        f"two processes have the id '{other.id}': {places[0]} and {places[1]}; give one of them another id",
        process_id=other.id,
        places=places,
    )


def _in_parts(processes: Iterable[BaseProcess[Any]]) -> Iterator[BaseProcess[Any]]:
    """Give processes, and in the place of sub-graphs what they are made of."""
    for process in processes:
        if type(process) is SubgraphProcess:
            yield from process.parts
        else:
            yield process


def _in_place(graph: Graph, processes: Mapping[str, BaseProcess[Any]]) -> dict[str, BaseProcess[Any]]:
    """Return processes that take the places of others; of a sub-graph its parts, which may be called like theirs."""
    found: dict[str, BaseProcess[Any]] = {}
    for name, process in processes.items():
        if type(process) is not SubgraphProcess:
            found[name] = process
            continue
        place, *parts = with_outputs(process.parts)
        found[name] = place
        replaced = {name, *inside(graph.processes[name])}
        for part in parts:
            if part.id in graph.processes and part.id not in replaced:
                raise _duplicate(graph.processes[part.id], part)
            found[part.id] = part
    return found


def _same(one: BaseProcess[Any], other: BaseProcess[Any]) -> bool:
    """Whether two are the same process: the method of one object is bound anew each time it is asked for."""
    if not isinstance(one, FunctionProcess) or not isinstance(other, FunctionProcess):
        return False
    return bool(one.__wrapped__ == other.__wrapped__) and one.config == other.config


def location(process: BaseProcess[Any]) -> str:
    """Return the file and the line where a process is written."""
    if is_output(process):
        return location(process.__wrapped__.producer)  # type: ignore[attr-defined]
    if isinstance(process, Renamed):
        return location(process.original)
    if isinstance(process, FunctionProcess):
        return process._function.location  # noqa: SLF001
    entry = getattr(process.entry, "__func__", None)
    code = getattr(entry, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(process)
