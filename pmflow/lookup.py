"""Where processes are found: among those given, in the module of the one that asks, in the scope that calls.

And what is said of a name that is none.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

from pmflow.base import BaseProcess
from pmflow.config import id_text
from pmflow.decorator import FunctionProcess
from pmflow.errors import DuplicateProcessError, GraphError
from pmflow.graph import EACH, Graph, edges_of, install_finder, location, settings_of
from pmflow.parts import Renamed
from pmflow.subgraphs import SubgraphProcess

COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


def caller() -> types.FrameType:
    """Return the frame that called the public function; a comprehension counts as its function."""
    return _outside_comprehensions(sys._getframe(2))  # noqa: SLF001 - the scope of a call is what this library has to know


def _outside_comprehensions(frame: types.FrameType) -> types.FrameType:
    while frame.f_code.co_name in COMPREHENSIONS and frame.f_back is not None:
        frame = frame.f_back
    return frame


Explain = Callable[[BaseProcess[Any], str], str]


@runtime_checkable
class Closed(Protocol):
    """What has a graph of its own, and bounds: a `Workflow`."""

    max_threads: int | None
    max_processes: int | None

    @property
    def graph(self) -> Graph:
        """What it runs."""
        ...


def gathered(
    processes: Any, frame: types.FrameType | None, overrides: Mapping[Any, Any]
) -> tuple[Graph, tuple[str, ...] | None, Explain | None]:
    """Return the graph, the ids of its targets if they are said, and what explains a missing name."""
    if isinstance(processes, Graph):
        return processes, None, None
    if isinstance(processes, Closed):
        return processes.graph, None, None
    scopes: list[Mapping[str, Any]] = [] if frame is None else [frame.f_locals, frame.f_globals]
    if isinstance(processes, types.ModuleType):
        return _of_module(processes, overrides, scopes), None, _Explanation([vars(processes), *scopes])
    if isinstance(processes, BaseProcess):
        processes = (processes,)
    elif isinstance(processes, (str, bytes)) or not isinstance(processes, Iterable):
        remedy = "; decorate it with @process" if callable(processes) else ""
        raise GraphError(f"run() takes processes, a module, a Graph or a Workflow, not {_what(processes)}{remedy}")
    given = list(processes)
    for each in given:
        if not isinstance(each, BaseProcess):
            raise GraphError(f"run() takes processes, and {_what(each)} is none; decorate it with @process")
    graph = Graph(_Search(given, overrides, scopes).found.values())
    return graph, tuple(dict.fromkeys(each.id for each in given)), _Explanation(scopes)


def _of_module(module: types.ModuleType, overrides: Mapping[Any, Any], scopes: list[Mapping[str, Any]]) -> Graph:
    found = _Scope(vars(module)).all()
    if not found:
        raise GraphError(f"the module {module.__name__!r} has no processes; decorate its functions with @process")
    return Graph(_Search(found, overrides, scopes).found.values())


def _from_module(module: Any, frame: types.FrameType) -> Graph:
    if not isinstance(module, types.ModuleType):
        raise GraphError(f"Graph.from_module() takes a module, not {_what(module)}; for processes, write Graph([...])")
    frame = _outside_comprehensions(frame)
    return _of_module(module, {}, [frame.f_locals, frame.f_globals])


install_finder(_from_module)


def _what(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, BaseProcess):
        return f"the class '{value.__qualname__}', of which one has to be made, {value.__name__}(...),"
    name = getattr(value, "__qualname__", None)
    return f"the {'class' if isinstance(value, type) else 'function'} '{name}'" if name else f"{value!r:.100}"


class _Scope:
    """The processes of a namespace, by id."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._found: dict[str, list[tuple[str, BaseProcess[Any]]]] = {}
        for name, value in list(names.items()):
            if isinstance(value, BaseProcess):
                for key in produced(value):
                    self._found.setdefault(key, []).append((name, value))

    def get(self, key: str) -> BaseProcess[Any] | None:
        """Return the process of an id; of several the one whose variable is called so."""
        found = self._found.get(key)
        if found is None:
            return None
        chosen = [process for name, process in found if name == key] or [process for _, process in found]
        different = list({id(process): process for process in chosen}.values())
        if len(different) > 1:
            places = (location(different[0]), location(different[1]))
            raise DuplicateProcessError(
                f"two processes have the id '{key}': {places[0]} and {places[1]}; give one of them another id",
                process_id=key,
                places=places,
            )
        return different[0]

    def all(self) -> list[BaseProcess[Any]]:
        """Return every process once."""
        found = [process for key in self._found if (process := self.get(key)) is not None]
        return list({id(process): process for process in found}.values())


class _Search:
    """Finds what processes need: among those given, in the module of the one that asks, in the caller's scope."""

    def __init__(
        self, given: list[BaseProcess[Any]], overrides: Mapping[Any, Any], scopes: list[Mapping[str, Any]]
    ) -> None:
        self._scopes: dict[int, _Scope] = {}
        self._outer = scopes
        self.found: dict[int, BaseProcess[Any]] = {id(process): process for process in given}
        names = {key: process for process in given for key in produced(process)}
        chosen = set(names)  # what is given is what is meant, whatever modules have
        replaced = {id_text(key): value for key, value in overrides.items()}
        waiting = [_in_place(process, replaced) for process in given]
        while waiting:
            process = waiting.pop()
            if not isinstance(process, BaseProcess):
                continue  # a value stands for it
            for source in _sources(process, replaced):
                if source in chosen:
                    continue
                needed = self._look_up(process, source)
                if needed is None:
                    continue
                self.found[id(needed)] = needed  # two of one id are refused by the graph
                if source not in names:
                    names.update(dict.fromkeys(produced(needed), needed))
                    waiting.append(_in_place(needed, replaced))

    def _look_up(self, process: BaseProcess[Any], name: str) -> BaseProcess[Any] | None:
        for names in (module_of(process), *self._outer):
            scope = self._scopes.get(id(names))
            if scope is None:
                scope = self._scopes[id(names)] = _Scope(names)
            found = scope.get(name)
            if found is not None:
                return found
        return None


def produced(process: BaseProcess[Any]) -> Iterable[str]:
    """Return the names under which others find a process: its id, those of its outputs, and of what is inside it."""
    if isinstance(process, SubgraphProcess):
        return [name for part in process.parts for name in produced(part)]
    return process.id, *settings_of(process).outputs


def _in_place(process: BaseProcess[Any], replaced: Mapping[str, Any]) -> Any:
    """Return what runs in the place of a process; in that of a sub-graph, others can for each of its parts."""
    return process if isinstance(process, SubgraphProcess) else replaced.get(process.id, process)


def _sources(process: BaseProcess[Any], replaced: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of what a process needs; of a sub-graph, what those inside need of others."""
    if not isinstance(process, SubgraphProcess):
        return [source for _, source, _ in edges_of(process)]
    own = set(produced(process))
    parts = [replaced.get(part.id, part) for part in process.parts]
    asked = [source for part in parts if isinstance(part, BaseProcess) for source in _sources(part, {})]
    return [source for source in asked if source not in own]


def module_of(process: BaseProcess[Any]) -> Mapping[str, Any]:
    """Return the names of the module in which a process is written."""
    if isinstance(process, FunctionProcess):
        return process._function.scope  # noqa: SLF001 - one of the places that know the inside
    if isinstance(process, SubgraphProcess):
        return process.scope
    if isinstance(process, Renamed):
        return module_of(process.original)
    entry = getattr(process.entry, "__func__", process.entry)
    return getattr(entry, "__globals__", {})


@frozen
class _Explanation:
    """Says of a name that no process has what it is where it was looked for."""

    scopes: list[Mapping[str, Any]]

    def __call__(self, process: BaseProcess[Any], name: str) -> str:
        if isinstance(process, FunctionProcess) and name in ("self", "cls"):
            owner = process._function.owner  # noqa: SLF001
            if owner is not None or "." in getattr(process, "__qualname__", ""):
                method = getattr(process, "__name__", name)
                return (
                    f": it is a method, decorated inside its class, and nobody says of which object; "
                    f"run the process of an object: {owner or 'TheClass'}(...).{method}"
                )
        for names in (module_of(process), *self.scopes):
            if name in names:
                return f"; {_not_a_process(process, name, names[name])}"
        return "; it was looked for among the processes given, in their modules and where run() is called"


def _not_a_process(process: BaseProcess[Any], name: str, value: Any) -> str:
    if isinstance(value, BaseProcess):
        plain = any(edge[:2] == (name, name) and edge[2] < EACH for edge in edges_of(process))
        how = f", with dependencies={{{name!r}: {value.id!r}}}" if plain else ""
        return f"the variable {name!r} is the process '{value.id}': ask for it by that id{how}, or give it id={name!r}"
    if isinstance(value, types.FunctionType):
        return f"the function {name!r} is no process: decorate it with @process"
    if callable(value):
        return f"{name!r} is no process but a {type(value).__name__}: make one of it with process({name})"
    return (
        f"the variable {name!r} is no process but a value of type {type(value).__name__}: if it was one, run its "
        f"definition again; if it is an input, pass inputs={{{name!r}: {name}}}"
    )
