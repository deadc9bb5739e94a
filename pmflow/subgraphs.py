"""A graph as a process of another one: `SubgraphProcess`, and what it is made of.

Nothing runs inside anything. Where a graph is built, a sub-graph is replaced by its *parts*, processes like all others,
so that what runs graphs knows nothing of sub-graphs, and what plans them only that a failure inside can be handled by
who takes the result of the whole. The parts of ``train`` are

- ``train``, the *join*: it hands on the values of the targets;
- ``train.fit``, for each process inside: a copy that asks for others inside by their names in the outer graph;
- ``train.depth``, for each parameter that has a fixed value, or is mapped over: what gives the value, or each element.

Of a mapped sub-graph, the parts that depend on a parameter it maps over are mapped themselves, each over those before,
so that they go along element by element. The others run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from attrs import evolve

from pmflow.base import BaseProcess, T
from pmflow.config import ProcessConfig, check_names, id_texts
from pmflow.decorator import Settings
from pmflow.errors import ConfigurationError, InputError, did_you_mean, nearest
from pmflow.parts import Inside

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict

    from typing_extensions import Required, Self, Unpack

    from pmflow.config import ProcessId
    from pmflow.decorator import Reference
    from pmflow.graph import Graph

    class SubgraphSettings(TypedDict, total=False):
        """What `Graph.as_process` takes besides the id."""

        dependencies: Mapping[str, Reference | tuple[Reference, ...]] | None
        inputs: Mapping[str, Any] | None
        targets: Reference | Iterable[Reference] | None
        after: Reference | Iterable[Reference]
        required: bool

    class MappedSubgraphSettings(SubgraphSettings, total=False):
        """The settings of a mapped sub-graph, whose result is a list."""

        map_over: Required[str | Mapping[str, Any]]


__all__ = ["SubgraphProcess"]

_DEFAULTS: dict[str, Any] = {
    "dependencies": None,
    "inputs": None,
    "targets": None,
    "map_over": None,
    "after": (),
    "required": True,
}


class SubgraphProcess(BaseProcess[T]):
    """A graph that is a process of another one. Made by `Graph.as_process`.

    Attributes:
        parts: the processes that stand for it in a graph: the one that has its id, and what is inside.
        scope: the names of the module in which it is made.

    >>> from pmflow import Graph, process
    >>> table = process(lambda rows: sorted(rows), id="table")
    >>> best = process(lambda table: table[-1], id="best")
    >>> [part.id for part in Graph([table, best]).as_process(id="top").parts]
    ['top', 'top.table', 'top.best']
    """

    def __init__(self, graph: Graph, settings: Mapping[str, Any], place: str, scope: Mapping[str, Any]) -> None:
        name = str(settings["id"])
        _refuse_others(name, settings)
        settings = {**_DEFAULTS, **settings}
        for setting in ("dependencies", "inputs"):
            check_names(settings[setting], f"sub-graph '{name}': {setting}")
        declared = ProcessConfig(
            process_id=settings["id"],
            dependencies=settings["dependencies"] or {},
            map_over=settings["map_over"],
            after=settings["after"],
            required=settings["required"],
        )
        super().__init__(evolve(declared, dependencies=(), map_over=None))
        self.scope = scope
        self._graph = graph
        self._settings = settings
        self._place = place
        targets = _targets(graph, name, settings["targets"])
        self.parts = Inside(graph, declared, settings["inputs"] or {}, targets).parts(repr(self))

    @property
    def entry(self) -> Callable[..., Any]:
        """What makes its value of those of its targets."""
        return self.parts[0].entry

    @overload
    def options(
        self, *, id: str | ProcessId = ..., **settings: Unpack[MappedSubgraphSettings]
    ) -> SubgraphProcess[list[Any]]: ...
    @overload
    def options(self, *, id: str | ProcessId = ..., **settings: Unpack[SubgraphSettings]) -> Self: ...
    def options(self, **settings: Any) -> Any:
        """Return a copy with other settings; the original stays as it is.

        Args:
            **settings: what `Graph.as_process` takes.

        Raises:
            ConfigurationError: a setting that cannot work.
            InputError: a target that does not exist.

        >>> from pmflow import Graph, process
        >>> train = Graph([process(lambda rows: len(rows), id="fit")]).as_process(id="train")
        >>> [part.id for part in train.options(id="again", inputs={"rows": "abc"}).parts]
        ['again', 'again.rows', 'again.fit']
        """
        return type(self)(self._graph, {**self._settings, **settings}, self._place, self.scope)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the module in which it is made."""
        return {**super().__getstate__(), "scope": {}}

    def __repr__(self) -> str:
        return f"<sub-graph '{self.id}' at {self._place}>"


def _refuse_others(name: str, settings: Mapping[str, Any]) -> None:
    known = ("id", *_DEFAULTS)
    for setting in settings:
        if setting not in known:
            remedy = did_you_mean(nearest(setting, known))
            if setting in Settings.__annotations__:
                remedy = f": it is one of single processes; give it to those inside, with .options({setting}=...)"
            raise ConfigurationError(
                f"the sub-graph '{name}' has no setting {setting!r}{remedy}", process_id=name, setting=setting
            )


def _targets(graph: Graph, name: str, targets: Any) -> tuple[str, ...]:
    chosen = graph.targets if targets is None else tuple(dict.fromkeys(id_texts(targets)))
    for each in chosen:
        if each not in graph.processes:
            suggestion = nearest(each, graph.processes)
            raise InputError(
                f"no process is called {each!r}, which is given as a target of the sub-graph '{name}'"
                f"{did_you_mean(suggestion)}",
                name=each,
                suggestion=suggestion,
            )
    if not chosen:
        raise ConfigurationError(
            f"the sub-graph '{name}' has no target, so it has no value; name one, or leave targets= out, of a graph "
            f"that has processes",
            process_id=name,
            setting="targets",
        )
    return chosen
