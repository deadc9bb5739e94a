"""The parts of a sub-graph: what stands for it in a graph. Made once, when the sub-graph is.

Everything is said by ids, edges and settings of copies; of how anything runs, nothing is known here.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from attrs import evolve

from pmflow.base import BaseProcess
from pmflow.config import ProcessConfig, ProcessType, cross, id_texts
from pmflow.decorator import RESULT_LIST, FunctionProcess
from pmflow.errors import ConfigurationError, did_you_mean, nearest
from pmflow.outputs import Inserted, is_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmflow.graph import Graph

Sources = str | tuple[str, ...]
"""What feeds a parameter: a name, or candidates."""

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


class Inside:
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
