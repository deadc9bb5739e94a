"""`Workflow` and `WorkflowNode`: the imperative face over `Graph`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attrs import Attribute, define, field

from pmflow.base import BaseProcess
from pmflow.config import ProcessId, id_text, id_texts
from pmflow.errors import ConfigurationError, DuplicateProcessError
from pmflow.executors.pools import WorkflowPoolManager, check_slots
from pmflow.graph import Graph, edges_of, location
from pmflow.outcomes import ProcessState
from pmflow.results import ProcessMetadata, ProcessResult
from pmflow.runner import execute_workflow
from pmflow.subgraphs import SubgraphProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

__all__ = ["Workflow", "WorkflowNode", "WorkflowPoolManager", "create_workflow"]


def _a_process(_node: WorkflowNode, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, BaseProcess):
        raise ConfigurationError(f"{attribute.name} must be a process, not {value!r}", setting=attribute.name)
    if isinstance(value, SubgraphProcess):
        raise ConfigurationError(
            f"a Workflow takes single processes, and '{value.id}' is a sub-graph; run it in a Graph, or with run()",
            process_id=value.id,
            setting=attribute.name,
        )


def _listed(value: Any) -> list[str | ProcessId]:
    several = isinstance(value, Iterable) and not isinstance(value, (str, ProcessId))
    return [each if isinstance(each, ProcessId) else id_text(each) for each in (value if several else (value,))]


@define
class WorkflowNode:
    """A process and its place in a `Workflow`.

    Attributes:
        process: the process.
        dependencies: ids of the processes it depends on.
        required: False: its failure gives no value instead of failing what depends on it.

    >>> from pmflow import process
    >>> node = WorkflowNode(process(lambda page: page, id="words"), dependencies=["page"])
    >>> node.validate_dependencies(["other"]), node.can_execute({"page"})
    (['page'], True)
    """

    process: BaseProcess[Any] = field(validator=_a_process)
    dependencies: list[str | ProcessId] = field(factory=list, converter=_listed)
    required: bool = True

    def validate_dependencies(self, available: Collection[Any]) -> list[str]:
        """Return the dependencies that are missing.

        Args:
            available: the ids that there are.
        """
        known = set(map(str, available))
        return [name for name in map(id_text, self.dependencies) if name not in known]

    def can_execute(self, completed: Collection[Any]) -> bool:
        """Say whether every dependency is among the completed ones.

        Args:
            completed: the ids of what has completed.
        """
        return not self.validate_dependencies(completed)


class Workflow:
    """A graph that is built node by node, and executed as often as wanted.

    Args:
        max_processes: at most so many workers at once.
        max_threads: at most so many threads at once.
        process_id: the name of this workflow; generated when absent.

    Attributes:
        process_id: its name.
        pool_manager: the program's pools.

    Raises:
        ConfigurationError: a number that is none.

    >>> import anyio
    >>> from pmflow import process
    >>> with Workflow() as workflow:
    ...     page = process(lambda url: url.upper(), id="page").register_to(workflow)
    ...     results = anyio.run(workflow.execute, {"url": "a"})
    >>> results["page"].data
    'A'
    """

    def __init__(
        self, max_processes: int | None = None, max_threads: int | None = None, process_id: str | None = None
    ) -> None:
        check_slots(max_processes, "max_processes")
        check_slots(max_threads, "max_threads")
        self.max_processes = max_processes
        self.max_threads = max_threads
        self.process_id = process_id or f"workflow-{os.urandom(4).hex()}"
        self.pool_manager = WorkflowPoolManager.get_instance()
        self._nodes: dict[str, WorkflowNode] = {}
        self._results: dict[str, ProcessResult[Any]] = {}

    @property
    def nodes(self) -> Mapping[str, WorkflowNode]:
        """Id to node, in the order they were added."""
        return MappingProxyType(self._nodes)

    @property
    def results(self) -> Mapping[str, ProcessResult[Any]]:
        """Id to result, of the last execution."""
        return MappingProxyType(self._results)

    def add_node(self, node: WorkflowNode) -> None:
        """Add a node.

        Raises:
            DuplicateProcessError: there is a process of that id.
        """
        known = self._nodes.get(node.process.id)
        if known is not None:
            places = (location(known.process), location(node.process))
            raise DuplicateProcessError(
                f"the workflow has a process '{node.process.id}' already: {places[0]} and {places[1]}; "
                f"give one of them another id",
                process_id=node.process.id,
                places=places,
            )
        self._nodes[node.process.id] = node
        node.process.set_workflow(self)

    def register(self, process: BaseProcess[Any], dependencies: Any, *, required: bool) -> None:
        """Add a process as a node; what `BaseProcess.register_to` calls."""
        self.add_node(WorkflowNode(process, dependencies, required))

    @property
    def execution_graph(self) -> dict[str, list[str]]:
        """Id to the ids it depends on."""
        named = {name: id_texts(node.dependencies) for name, node in self._nodes.items()}
        return {
            name: list(
                dict.fromkeys(
                    source
                    for _, source, _ in edges_of(node.process, named[name])
                    if source in self._nodes or source in named[name]
                )
            )
            for name, node in self._nodes.items()
        }

    @property
    def graph(self) -> Graph:
        """The nodes as a `Graph`.

        Raises:
            CycleError: nodes that wait for one another.
        """
        return Graph.declared(
            [node.process for node in self._nodes.values()],
            {name: id_texts(node.dependencies) for name, node in self._nodes.items()},
            [name for name, node in self._nodes.items() if not node.required],
        )

    async def execute(self, initial_data: Mapping[str, Any] | None = None) -> dict[str, ProcessResult[Any]]:
        """Run everything, as soon as each process can run.

        Args:
            initial_data: inputs by name; of a class-based process without dependencies by its id.

        Returns:
            Id to result. A process that fails is a result like any other.

        Raises:
            GraphError: the graph cannot run; nothing has run.
        """
        self._results = {}
        for node in self._nodes.values():
            node.process.metadata = ProcessMetadata(node.process.id)
        try:
            run = await execute_workflow(self, initial_data, self._note)
        except BaseException:
            for node in self._nodes.values():
                if node.process.metadata.state is not ProcessState.WAITING:
                    node.process.metadata.state = ProcessState.CANCELLED
            raise
        self._results = dict(run)
        for name, result in self._results.items():
            self._nodes[name].process.metadata = result.metadata
        return dict(self._results)

    def _note(
        self,
        kind: str,
        label: str,
        state: ProcessState,
        _moment: float,
        attempt: int,
        _result: Any,
        progress: float = 0,
        _message: str = "",
    ) -> None:
        node = self._nodes.get(label)
        if node is not None and kind != "process_ended":
            node.process.metadata.state = state
            node.process.metadata.retries = attempt - (kind != "process_retrying")
            node.process.metadata.progress = progress

    def to_json(self) -> str:
        """Return the graph and, once it was executed, the results, as JSON: what happened, without the data."""
        import json

        graph = self.execution_graph
        nodes = {
            name: {
                "strategy": node.process.strategy.value,
                "dependencies": graph[name],
                "required": node.required,
            }
            for name, node in self._nodes.items()
        }
        results = {name: result.to_dict() for name, result in self._results.items()}
        return json.dumps({"process_id": self.process_id, "nodes": nodes, "results": results}, indent=2)

    def shutdown(self) -> None:
        """Let go of the pools; the program's own stay warm for others."""
        self.pool_manager.cleanup_pools(self.process_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<Workflow '{self.process_id}' of {len(self._nodes)} processes>"


def create_workflow(
    max_processes: int | None = None, max_threads: int | None = None, process_id: str | None = None
) -> Workflow:
    """Return a new `Workflow`; takes what it takes.

    >>> create_workflow(process_id="nightly").process_id
    'nightly'
    """
    return Workflow(max_processes, max_threads, process_id)
