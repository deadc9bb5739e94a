"""A graph as a process of another one: `SubgraphProcess`, and what it is made of.

Nothing runs inside anything. Where a graph is built, a sub-graph is replaced by its *parts*, processes like all others,
so that what plans and runs graphs needs to know nothing of sub-graphs. The parts of ``train`` are

- ``train``, the *join*: it hands on the values of the targets;
- ``train.fit``, for each process inside: a copy that asks for others inside by their names in the outer graph;
- ``train.depth``, for each parameter that has a fixed value, or is mapped over: what gives the value, or each element.

Of a mapped sub-graph, the parts that depend on a parameter it maps over are mapped themselves, each over those before,
so that they go along element by element. The others run once.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, overload

from attrs import evolve

from pmflow.base import BaseProcess, T
from pmflow.config import ProcessConfig, ProcessType, check_names, cross, id_texts
from pmflow.decorator import RESULT_LIST, FunctionProcess, Settings
from pmflow.errors import ConfigurationError, InputError, did_you_mean, nearest
from pmflow.outputs import Inserted, is_output

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

Sources = str | tuple[str, ...]
"""What feeds a parameter: a name, or candidates."""

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
        self.parts = _Inside(graph, declared, settings["inputs"] or {}, targets).parts(repr(self))

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


# What is inserted


class _Part(Inserted):
    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __repr__(self) -> str:
        return self._place  # where others say file and line


class Join(_Part):
    """What the id of a sub-graph is the process of: it hands on the value of the target, or several by their ids."""

    __slots__ = ("inside", "targets")

    def __init__(self, targets: tuple[str, ...], inside: tuple[str, ...], place: str) -> None:
        super().__init__(place)
        self.targets = targets
        self.inside = inside

    def __call__(self, /, **values: Any) -> Any:
        """Return the value of the one target, or a dictionary of all."""
        return values[self.targets[0]] if len(self.targets) == 1 else {name: values[name] for name in self.targets}


class Fixed(_Part):
    """What a parameter with a fixed value is the process of."""

    __slots__ = ("_value",)

    def __init__(self, value: Any, place: str) -> None:
        super().__init__(place)
        self._value = value

    def __call__(self) -> Any:
        """Return the value."""
        return self._value


class Element(_Part):
    """What a parameter that is mapped over is the process of: of the elements that go together it takes one."""

    __slots__ = ("_parameter",)

    def __init__(self, parameter: str, place: str) -> None:
        super().__init__(place)
        self._parameter = parameter

    def __call__(self, /, **values: Any) -> Any:
        """Return the element."""
        return values[self._parameter]


def inside(process: BaseProcess[Any]) -> list[str]:
    """Return the ids of what is inside the sub-graph whose id a process has; none of any other process."""
    join: Any = process.entry if type(process) is FunctionProcess else None
    return [f"{process.id}.{name}" for name in join.inside] if type(join) is Join else []


class Renamed(BaseProcess[Any]):
    """A class-based process inside of a sub-graph: it finds what it depends on by the ids that it knows."""

    def __init__(self, original: BaseProcess[Any], config: ProcessConfig, known: Mapping[str, str]) -> None:
        super().__init__(config)
        self.original = original
        self._known = known

    @property
    def entry(self) -> Callable[..., Any]:
        """What an executor calls."""
        return self._awaited if iscoroutinefunction(self.original.entry) else self._called

    def _called(self, input_data: Any) -> Any:
        return self.original.entry(self._translated(input_data))

    async def _awaited(self, input_data: Any) -> Any:
        return await self.original.entry(self._translated(input_data))

    def _translated(self, input_data: Any) -> Any:
        if not self._known:
            return input_data
        return {self._known.get(name, name): result for name, result in input_data.items()}


# The parts


class _Inside:
    """Makes the parts of a sub-graph.

    Args:
        graph: the graph.
        declared: what is said of the sub-graph: id, dependencies, map_over, after, required.
        inputs: parameter to fixed value.
        targets: the ids of the targets.
    """

    def __init__(
        self, graph: Graph, declared: ProcessConfig, inputs: Mapping[str, Any], targets: tuple[str, ...]
    ) -> None:
        self.graph = graph
        self.declared = declared
        self.id = str(declared.process_id)
        self.inputs = inputs
        self.targets = targets
        self.dependencies: Mapping[str, Sources] = declared.dependencies  # type: ignore[assignment]  # given as one
        self.map_over: Mapping[str, str] = declared.map_over or {}
        self.names = self._ancestors()
        edges = [edge for name in self.names for edge in graph.edges[name]]
        self.parameters = dict.fromkeys(source for _, source, _ in edges if source not in graph.processes)
        self._check()
        self.mapped = self._mapped()

    def _ancestors(self) -> dict[str, None]:
        """Return the targets and all they need, each after what it needs."""
        needed: set[str] = set()
        waiting = [*self.targets]
        while waiting:
            name = waiting.pop()
            if name not in needed and name in self.graph.processes:
                needed.add(name)
                waiting += [source for _, source, _ in self.graph.edges[name]]
        return {name: None for name in self.graph.order if name in needed}

    def _mapped(self) -> set[str]:
        """Return the parameters that are mapped over, and the processes that depend on them."""
        found = set(self.map_over)
        for name in self.names:
            function = isinstance(self.graph.processes[name], FunctionProcess)
            for parameter, source, _ in self.graph.edges[name]:
                if source in found and (parameter or not function):  # else it only has to have ended before
                    found.add(name)
        if found and not found.intersection(self.targets):
            raise self._refused(
                "map_over", f"no target of the sub-graph '{self.id}' depends on what it maps over; name one that does"
            )
        return found

    def parts(self, place: str) -> tuple[BaseProcess[Any], ...]:
        """Return the parts: the join, what feeds parameters, and the copies.

        Args:
            place: where the sub-graph is made, as a text.
        """
        processes = self.graph.processes
        return (
            self._join(place),
            *(self._inserted(Fixed(value, place), self._inner(name)) for name, value in self.inputs.items()),
            *(
                self._inserted(Element(name, place), self._inner(name), map_over=self.map_over)
                for name in self.map_over
            ),
            *(self._copy(name, processes[name]) for name in self.names if not is_output(processes[name])),
        )

    def _join(self, place: str) -> FunctionProcess[Any, Any, Any]:
        join = Join(self.targets, (*self.inputs, *self.map_over, *self.names), place)
        sources = {target: self._inner(target) for target in self.targets}
        mapped = {target: sources.pop(target) for target in self.targets if target in self.mapped}
        return self._inserted(join, self.id, dependencies=sources, map_over=mapped or None)

    def _inserted(self, function: Any, name: str, **fields: Any) -> FunctionProcess[Any, Any, Any]:
        fields |= {"process_id": name, "process_type": ProcessType.ASYNC, "required": self.declared.required}
        return FunctionProcess(function, fields)

    def _inner(self, name: str) -> str:
        return f"{self.id}.{name}"

    # Copies

    def _copy(self, name: str, process: BaseProcess[Any]) -> BaseProcess[Any]:
        if not isinstance(process, FunctionProcess):
            return self._renamed(name, process)
        settings = process._settings  # noqa: SLF001 - one of the places that know the inside
        asked = _asked(process)
        changes: dict[str, Any] = {"id": self._inner(name)}
        if name in self.mapped:
            self._refuse_unmappable(name, process, asked)
            each = {parameter: source for parameter, source in asked.items() if source in self.mapped}
            changes["map_over"] = {parameter: self._outer(source) for parameter, source in each.items()}
            asked = {parameter: source for parameter, source in asked.items() if parameter not in each}
        elif settings.map_over:
            own = {parameter: self._one(name, source) for parameter, source in settings.map_over.items()}
            changes["map_over"] = cross(**own) if isinstance(settings.map_over, cross) else own
        sources = {parameter: self._outer(source) for parameter, source in asked.items()}
        changes["dependencies"] = {
            parameter: source
            for parameter, source in sources.items()
            if (asked[parameter], source) != (parameter, parameter)
        }
        process._function.check_candidates(changes["id"], sources)  # noqa: SLF001
        after = [source for parameter, source, _ in self.graph.edges[name] if not parameter]
        if after or settings.after or self.declared.after:
            changes["after"] = self._all(after)
        if settings.outputs:
            changes["outputs"] = tuple(map(self._inner, settings.outputs))
        if settings.required and not self._required(name):
            changes["required"] = False
        return process.options(**changes)

    def _renamed(self, name: str, process: BaseProcess[Any]) -> BaseProcess[Any]:
        """Return a class-based process that depends on others by their new ids."""
        settings = process.config
        if name in self.mapped:
            raise self._refused(
                "map_over",
                f"the sub-graph '{self.id}' cannot be mapped: '{name}' inside it depends on what is mapped over, and "
                f"is class-based, so it has no parameters; make a process of a function",
            )
        listed = settings.dependencies
        named = set(listed.values() if isinstance(listed, Mapping) else listed)
        sources = [source for _, source, _ in self.graph.edges[name]]
        after = [source for source in sources if source in settings.after and source not in named]
        known = {self._one(name, source): source for source in sources if source not in after}
        config = evolve(
            settings,
            process_id=self._inner(name),
            dependencies=tuple(known),
            after=self._all(after),
            required=self._required(name),
        )
        return Renamed(process, config, known)

    def _required(self, name: str) -> bool:
        return self.declared.required and self.graph.required(name)

    def _outer(self, source: Sources) -> Sources:
        """Return what feeds a parameter, by the names of the outer graph."""
        if isinstance(source, str):
            if source in self.names or source in self.inputs or source in self.map_over:
                return self._inner(source)
            return self.dependencies.get(source, source)
        return tuple(name for each in source for name in id_texts(self._outer(each)))

    def _one(self, name: str, source: str) -> str:
        """The same, of what cannot have candidates."""
        found = self._outer(source)
        if isinstance(found, str):
            return found
        raise self._refused(
            "dependencies",
            f"the sub-graph '{self.id}' has candidates for {source!r}, and '{name}' inside it takes one source, not "
            f"the first that has a value; name one",
        )

    def _all(self, sources: Iterable[str]) -> tuple[str, ...]:
        """Return what has to have ended before a process inside begins."""
        return (*id_texts(self._outer(tuple(sources))), *self.declared.after)

    # Refusals

    def _check(self) -> None:
        """Refuse names that are no parameters, or are fed twice, and what would feed itself."""
        fed: dict[str, str] = {}
        for setting, names in (
            ("dependencies", self.dependencies),
            ("inputs", self.inputs),
            ("map_over", self.map_over),
        ):
            for name in names:
                if name not in self.parameters:
                    raise self._unknown(setting, name)
                if name in fed:
                    raise self._refused(
                        setting,
                        f"the sub-graph '{self.id}': both {fed[name]} and {setting} name the parameter {name!r}; leave "
                        f"one of them out",
                    )
                fed[name] = setting
        for name, value in self.inputs.items():
            if isinstance(value, (Awaitable, AsyncIterator, Iterator)) and not isinstance(value, io.IOBase):
                raise self._refused(
                    "inputs",
                    f"the sub-graph '{self.id}' has a {type(value).__name__} as the fixed value of {name!r}, which is "
                    f"good for one run only; give what it gives, such as a list, or make it an input of the run",
                )
        sources = {**dict.fromkeys(self.inputs, ()), **self.dependencies, **self.map_over}
        for name in self.parameters:
            if self.id in id_texts(sources.get(name, name)):
                raise self._refused(
                    "id",
                    f"the sub-graph '{self.id}' has a parameter {name!r}, which would be fed by itself; give it "
                    f'another id, or feed that from elsewhere with dependencies={{{name!r}: "other"}}',
                )

    def _unknown(self, setting: str, name: str) -> ConfigurationError:
        if name in self.graph.processes:
            return self._refused(
                setting,
                f"the sub-graph '{self.id}' has a process {name!r} inside, so that is no parameter which its {setting} "
                f"could name; leave the process out of the graph, or run with overrides={{'{self._inner(name)}': ...}}",
            )
        there = ", ".join(map(repr, list(self.parameters)[:10])) or "none"
        return self._refused(
            setting,
            f"the sub-graph '{self.id}' has no parameter {name!r}, which its {setting} names"
            f"{did_you_mean(nearest(name, self.parameters)) or f'; there is {there}'}",
        )

    def _refuse_unmappable(
        self, name: str, process: FunctionProcess[Any, Any, Any], asked: Mapping[str, Sources]
    ) -> None:
        """Refuse a process of which there cannot be one for each element."""
        mapped = self.mapped
        results = {parameter for parameter, _, kind in process._function.wants if kind == RESULT_LIST}  # noqa: SLF001
        if process._settings.map_over:  # noqa: SLF001
            reason = "is mapped itself"
        elif any(not mapped.isdisjoint(source) for source in asked.values() if not isinstance(source, str)):
            reason = "has candidates for a parameter, one of which is mapped over"
        elif any(asked.get(parameter) in mapped for parameter in results):
            reason = "takes a list of results"
        elif any(source in mapped for parameter, source, _ in self.graph.edges[name] if not parameter):
            reason = "waits with after= for what is mapped over"
        else:
            return
        raise self._refused(
            "map_over",
            f"the sub-graph '{self.id}' cannot be mapped: '{name}' inside it depends on what is mapped over, and "
            f"{reason}, so there cannot be one of it for each element; let it be outside",
        )

    def _refused(self, setting: str, message: str) -> ConfigurationError:
        return ConfigurationError(message, process_id=self.id, setting=setting)


def _asked(process: FunctionProcess[Any, Any, Any]) -> dict[str, Sources]:
    """Return parameter to source, of those that are not mapped over."""
    named = dict(process._sources)  # noqa: SLF001 - one of the places that know the inside
    mapped = process._settings.map_over or {}  # noqa: SLF001
    parameters = dict.fromkeys([*(name for name, _, _ in process._function.wants), *named])  # noqa: SLF001
    return {name: named.get(name, name) for name in parameters if name not in mapped}
