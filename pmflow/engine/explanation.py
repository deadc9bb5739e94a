"""`Explanation`: where each parameter of a process gets its value, by the rules of planning, in their order.

1. what ``dependencies`` (or ``map_over``) says is its source, else what is called like the parameter; of that name
2. an override, 3. an input, 4. a process; 5. the parameter's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from attrs import frozen

from pmflow.config import id_text
from pmflow.decorator import FunctionProcess
from pmflow.engine.outline import ROWS, table
from pmflow.engine.plan import check_inputs, has_default, overridden, reached, unknown
from pmflow.errors import did_you_mean, nearest
from pmflow.graph import AFTER, EACH, OR_ELSE, OR_ELSE_RESULT, RESULTS, Graph, location

if TYPE_CHECKING:
    from typing import Literal

    from pmflow.base import BaseProcess
    from pmflow.graph import Edge

    Kind = Literal["override", "input", "process", "default", "open", "missing"]
    NamedBy = Literal["parameter", "dependencies", "map_over", "after"]

__all__ = ["Explanation", "ParameterOrigin"]


@frozen(kw_only=True)
class ParameterOrigin:
    """Where one parameter gets its value.

    Attributes:
        parameter: its name; ``""`` for ``after``, and for what a class-based process receives.
        source: the name that is looked for.
        named_by: what says so: the ``parameter`` itself, ``dependencies``, ``map_over`` or ``after``.
        kind: what is found of that name: an ``override``, an ``input`` or a ``process``; or the parameter keeps its
            ``default``; or nothing is: where no inputs were given to explain, it is ``open``, an input that a run
            needs, else it is ``missing``.
        place: file and line of the process, where a process gives the value.
        suggestion: where it is open or missing, the name most like it.
        or_else: whether it is a candidate: if it has no value, the next origin of the same parameter is asked.

    >>> print(ParameterOrigin(parameter="top", source="totl", named_by="dependencies", kind="missing"))
    missing: no process and no input is called 'totl', as dependencies= says
    """

    parameter: str
    source: str
    named_by: NamedBy
    kind: Kind
    place: str | None = None
    suggestion: str | None = None
    or_else: bool = False

    def __str__(self) -> str:
        if self.kind == "default":
            return "its default"
        each = "each element of " if self.named_by == "map_over" else ""
        if self.kind == "missing":
            text = f"missing: no process and no input is called '{self.source}'"
        else:
            found = f"input '{self.source}', to be given" if self.kind == "open" else f"{self.kind} '{self.source}'"
            text = f"{'waits for' if self.named_by == 'after' else 'from'} {each}{found}"
        if self.place is not None:
            text += f" ({self.place})"
        if self.named_by != "parameter":
            text += f", as {self.named_by}= says"
        if self.or_else:
            text += "; if it has no value, the next"
        return text + did_you_mean(self.suggestion)


@frozen(kw_only=True)
class Explanation:
    """Where the parameters of a process get their values. Made by `Graph.explain`; ``print(explanation)`` shows it.

    Attributes:
        process_id: the process.
        place: file and line where it is written.
        overridden: whether a value stands for it: then it does not run, and asks for nothing.
        parameters: one origin per parameter, in the order of the parameters, then those of ``after``.

    >>> from pmflow import Graph, process
    >>> page = process(lambda url: url.upper(), id="page")
    >>> explanation = Graph([page]).explain("page", inputs={"url": "a"})
    >>> [(each.parameter, each.kind) for each in explanation.parameters]
    [('url', 'input')]
    """

    process_id: str
    place: str
    overridden: bool
    parameters: tuple[ParameterOrigin, ...]

    @classmethod
    def of(
        cls,
        graph: Graph,
        process: Any,
        *,
        inputs: Mapping[str, Any] | None = None,
        overrides: Mapping[Any, Any] | None = None,
    ) -> Explanation:
        """Explain a process of a graph; see `Graph.explain`."""
        name = id_text(process)
        if name not in graph.processes:
            raise unknown("the process to explain", name, graph)
        names = {str(each): None for each in (inputs or {})}
        graph, given = overridden(graph, overrides or {})
        check_inputs(graph, names)
        found = graph.processes[name]
        absent: Kind = "open" if inputs is None else "missing"
        origins = _Origins(graph, names, {id_text(each) for each in (overrides or {})}, given, absent)
        return cls(
            process_id=name,
            place=location(found),
            overridden=name in given,
            parameters=() if name in given else tuple(origins.of(name, found)),
        )

    def __str__(self) -> str:
        head = f"'{self.process_id}' ({self.place})"
        if self.overridden:
            return f"{head} is overridden by a value: it does not run"
        if not self.parameters:
            return f"{head} takes nothing"
        rows = ((each.parameter or each.source, str(each)) for each in islice(self.parameters, ROWS))
        return "\n".join([f"{head} takes", *table(rows, len(self.parameters))])


@frozen
class _Origins:
    """Finds the origins of parameters in a graph with inputs and overrides; ``absent`` is what none gives."""

    graph: Graph
    inputs: Mapping[str, Any]
    overrides: set[str]
    values: Mapping[str, Any]
    absent: Kind

    def of(self, name: str, process: BaseProcess[Any]) -> list[ParameterOrigin]:
        edges = reached(self.graph.edges[name], self.inputs, self.values, self.graph)
        origins = [self.origin(process, edge) for edge in edges]
        if not edges and not isinstance(process, FunctionProcess) and name in self.inputs:
            origins.append(ParameterOrigin(parameter="", source=name, named_by="parameter", kind="input"))
        return origins

    def origin(self, process: BaseProcess[Any], edge: Edge) -> ParameterOrigin:
        parameter, source, wanted = edge
        kind = self.kind(process, edge)
        made = self.graph.processes.get(source) if source not in self.values else None
        return ParameterOrigin(
            parameter=parameter,
            source=source,
            named_by=_named_by(process, edge),
            kind=kind,
            place=location(made) if made is not None else None,
            suggestion=self.nearest(process, source) if kind in ("open", "missing") else None,
            or_else=made is not None and wanted in (OR_ELSE, OR_ELSE_RESULT),
        )

    def nearest(self, process: BaseProcess[Any], source: str) -> str | None:
        return nearest(source, (name for name in (*self.graph.processes, *self.inputs) if name != process.id))

    def kind(self, process: BaseProcess[Any], edge: Edge) -> Kind:
        _, source, _ = edge
        if source in self.overrides:
            return "override"
        if source in self.graph.processes:
            return "process"
        if source in self.inputs:
            return "input"
        if has_default(process, edge):
            return "default"
        return "missing" if _named_by(process, edge) == "after" else self.absent


def _named_by(process: BaseProcess[Any], edge: Edge) -> NamedBy:
    parameter, source, kind = edge
    if kind & ~EACH == AFTER:
        return "after"
    if kind >= EACH:
        return "map_over"
    if kind == RESULTS:
        return "dependencies"
    around, _, name = source.rpartition(".")  # inside a sub-graph, names are those of others inside
    own = name == parameter and (not around or f"{process.id}.".startswith(f"{around}."))
    return "parameter" if own or parameter == source else "dependencies"
