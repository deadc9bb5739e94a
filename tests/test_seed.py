"""The seed, walked section by section: one test for each documented sentence.

`test_seed_model.py` holds the rest of the object model, `test_seed_defects.py` what pmflow does better.
"""

import os
import threading
from abc import ABC
from datetime import datetime
from typing import Any

import pytest

import pmflow
from pmflow import (
    BaseProcess,
    ProcessConfig,
    ProcessId,
    ProcessMetadata,
    ProcessResult,
    ProcessState,
    ProcessType,
    Workflow,
    WorkflowNode,
    WorkflowPoolManager,
)

every_strategy = pytest.mark.parametrize("strategy", list(ProcessType), ids=lambda strategy: strategy.value)

SEED_NAMES = [
    "BaseProcess",
    "ProcessConfig",
    "ProcessError",
    "ProcessId",
    "ProcessMetadata",
    "ProcessResult",
    "ProcessState",
    "ProcessType",
    "RetryStrategy",
    "Workflow",
    "WorkflowNode",
    "WorkflowPoolManager",
    "create_workflow",
]


class Double(BaseProcess):
    """The first way to subclass: a plain `process`."""

    def __init__(self, strategy: ProcessType = ProcessType.ASYNC, process_id: str = "double") -> None:
        super().__init__(ProcessConfig(process_type=strategy, process_id=process_id))

    def process(self, input_data: Any) -> Any:
        return input_data * 2


class DoubleLater(Double):
    """The first way to subclass: an async `process`."""

    async def process(self, input_data: Any) -> Any:
        return input_data * 2


class DoubleExecute(Double):
    """The second way to subclass, the seed's class example: `execute`."""

    async def execute(self, input_data: Any) -> Any:
        return input_data * 2


def local_double() -> type[Double]:
    """The first way, as a class that no other program can import."""

    class LocalDouble(Double):
        def process(self, input_data: Any) -> Any:
            return input_data * factor

    factor = 2
    return LocalDouble


def local_double_later() -> type[Double]:
    """The first way, async, as a class that no other program can import."""

    class LocalDoubleLater(Double):
        async def process(self, input_data: Any) -> Any:
            return input_data * factor

    factor = 2
    return LocalDoubleLater


def local_double_execute() -> type[Double]:
    """The second way, as a class that no other program can import."""

    class LocalDoubleExecute(Double):
        async def execute(self, input_data: Any) -> Any:
            return input_data * factor

    factor = 2
    return LocalDoubleExecute


every_way = pytest.mark.parametrize(
    "way",
    [Double, DoubleLater, DoubleExecute, local_double(), local_double_later(), local_double_execute()],
    ids=lambda way: way.__name__,
)


class Where(Double):
    """Says where it was run."""

    def process(self, input_data: Any) -> Any:
        return os.getpid(), threading.get_ident()


class Broken(Double):
    """Fails."""

    def process(self, input_data: Any) -> Any:
        raise ValueError("no such page")


def result_of(data: Any, **changes: Any) -> ProcessResult:
    """Return a result as the seed writes one."""
    moment = datetime(2024, 5, 1, 12, 0, 0)
    facts = {"success": True, "data": data, "execution_time": 0.5, "start_time": moment, "end_time": moment}
    return ProcessResult(**(facts | changes))


# BaseProcess


@pytest.mark.parametrize("name", SEED_NAMES)
def test_every_name_is_importable(name: str) -> None:
    """Every class the seed names can be imported from pmflow."""
    assert name in pmflow.__all__
    assert getattr(pmflow, name).__name__ == name


def test_base_process_is_abstract() -> None:
    """'Bases: ABC.'"""
    assert issubclass(BaseProcess, ABC)


def test_a_process_is_made_from_its_config() -> None:
    """'BaseProcess(config: ProcessConfig)'; `config`: 'configuration settings for the process'."""
    config = ProcessConfig(process_type=ProcessType.THREAD, process_id="my_process", timeout=5)
    assert BaseProcess(config).config is config
    assert BaseProcess(config=config).config is config


def test_config_holds_strategy_id_and_timeout() -> None:
    """'process_type: execution strategy; process_id: unique identifier; timeout: optional duration in seconds.'"""
    config = ProcessConfig(process_type=ProcessType.THREAD, process_id="my_process", timeout=5)
    assert (config.process_type, config.process_id, config.timeout) == (ProcessType.THREAD, "my_process", 5)
    assert ProcessConfig().timeout is None


def test_metadata_starts_waiting() -> None:
    """`metadata`: 'runtime metadata and state tracking', at first WAITING."""
    process = Double(process_id="my_process")
    assert isinstance(process.metadata, ProcessMetadata)
    assert (process.metadata.process_id, process.metadata.state) == ("my_process", ProcessState.WAITING)


def test_a_process_belongs_to_no_workflow_at_first() -> None:
    """`_workflow`: 'reference to parent workflow'."""
    assert Double()._workflow is None


@pytest.mark.anyio
async def test_the_class_example() -> None:
    """The seed's own example: a THREAD process that overrides `execute`."""

    class MyProcess(BaseProcess):
        def __init__(self):  # type: ignore[no-untyped-def]
            super().__init__(ProcessConfig(process_type=ProcessType.THREAD, process_id="my_process"))

        async def execute(self, input_data: dict[str, Any]) -> dict[str, Any]:
            return {name: value + 1 for name, value in input_data.items()}

    assert await MyProcess().execute({"a": 1}) == {"a": 2}
    assert (await MyProcess().run({"a": 1})).data == {"a": 2}
    with Workflow() as workflow:
        MyProcess().register_to(workflow)
        results = await workflow.execute({"my_process": {"a": 1}})
    assert results["my_process"].data == {"a": 2}


@pytest.mark.anyio
@every_strategy
@every_way
async def test_both_ways_to_subclass_standalone(way: type[Double], strategy: ProcessType) -> None:
    """`process` (plain or async) or `execute` may be overridden, for every strategy, without a workflow."""
    assert (await way(strategy).run(21)).unwrap() == 42


@pytest.mark.anyio
@every_strategy
@every_way
async def test_both_ways_to_subclass_in_a_workflow(way: type[Double], strategy: ProcessType) -> None:
    """`process` (plain or async) or `execute` may be overridden, for every strategy, in a workflow."""
    with Workflow() as workflow:
        way(strategy).register_to(workflow)
        results = await workflow.execute({"double": 21})
    assert {name: result.unwrap() for name, result in results.items()} == {"double": 42}


@every_strategy
@every_way
def test_both_ways_to_subclass_in_a_run(way: type[Double], strategy: ProcessType) -> None:
    """`process` (plain or async) or `execute` may be overridden, for every strategy, in `pmflow.run`."""
    assert pmflow.run(way(strategy), inputs={"double": 21}).value == 42


# execute


@pytest.mark.anyio
@every_strategy
async def test_execute_returns_a_process_result(strategy: ProcessType) -> None:
    """'ProcessResult containing the execution result and metadata.'"""
    result = await Double(strategy).execute(21)
    assert isinstance(result, ProcessResult)
    assert (result.success, result.data, result.state) == (True, 42, ProcessState.COMPLETED)
    assert isinstance(result.metadata, ProcessMetadata)
    assert (str(result.metadata.process_id), result.metadata.state) == ("double", ProcessState.COMPLETED)


def places(strategy: ProcessType, where: tuple[int, int]) -> tuple[bool, bool]:
    """Return whether it ran in this program, and in this thread."""
    process, thread = where
    return process == os.getpid(), process == os.getpid() and thread == threading.get_ident()


@pytest.mark.anyio
@pytest.mark.parametrize("door", ["execute", "run"])
@pytest.mark.parametrize(
    ("strategy", "here"),
    [(ProcessType.ASYNC, (True, True)), (ProcessType.THREAD, (True, False)), (ProcessType.PROCESS, (False, False))],
    ids=lambda value: getattr(value, "value", ""),
)
async def test_the_strategy_says_where(strategy: ProcessType, here: tuple[bool, bool], door: str) -> None:
    """'Execute the process using the appropriate execution strategy': the loop's thread, another one, a worker."""
    result = await getattr(Where(strategy), door)(None)
    assert places(strategy, result.unwrap()) == here


@pytest.mark.anyio
@every_strategy
async def test_execute_of_an_attached_process(strategy: ProcessType) -> None:
    """'Uses the parent workflow's pool manager if the process is attached to a workflow.'"""
    with Workflow() as workflow:
        process = Double(strategy).register_to(workflow)
        assert process._workflow is workflow
        assert (await process.execute(21)).unwrap() == 42


# get_process_result


def test_get_process_result_extracts_the_data() -> None:
    """'The data from the specified process result', by id or its text."""
    input_data = {"page": result_of("text"), "page_3": result_of("third")}
    assert BaseProcess.get_process_result(input_data, ProcessId("page")) == "text"
    assert BaseProcess.get_process_result(input_data, ProcessId("page", 3)) == "third"
    assert Double().get_process_result(input_data, ProcessId("page")) == "text"


def test_get_process_result_of_an_unknown_process() -> None:
    """'ValueError: if the process result is not found': it names the process."""
    with pytest.raises(ValueError, match=r"page_3.* not found in input data"):
        BaseProcess.get_process_result({"page": result_of("text")}, ProcessId("page", 3))


def test_get_process_result_of_a_failed_process() -> None:
    """'ValueError: ... or invalid': a result without success."""
    failed = result_of(None, success=False, error="no such page", error_type="ValueError")
    with pytest.raises(ValueError, match=r"page.* did not complete successfully"):
        BaseProcess.get_process_result({"page": failed}, ProcessId("page"))


def test_get_process_result_of_something_else() -> None:
    """'ValueError: ... or invalid': no ProcessResult at all; it names the process and the type."""
    with pytest.raises(ValueError, match=r"[Ee]xpected .*ProcessResult.* page.*int"):
        BaseProcess.get_process_result({"page": 5}, ProcessId("page"))


# process


def test_process_is_to_be_overridden() -> None:
    """'Main processing logic to be implemented by subclasses.'"""
    with pytest.raises(NotImplementedError, match=r"process\(\)"):
        BaseProcess(ProcessConfig(process_id="empty")).process(None)


def test_process_is_a_plain_method() -> None:
    """'It contains just the core processing logic': called directly it is just the method."""
    assert Double().process(21) == 42


@pytest.mark.anyio
async def test_a_subclass_without_logic_fails_when_run() -> None:
    """A class that overrides neither `process` nor `execute` ends in a failure that says so."""
    result = await BaseProcess(ProcessConfig(process_id="empty")).run(None)
    assert (result.success, result.error_type) == (False, "NotImplementedError")


# register_to


def test_register_to_adds_a_node() -> None:
    """'Register this process as a WorkflowNode to the given workflow', required unless it is said otherwise."""
    workflow = Workflow()
    process = Double()
    process.register_to(workflow)
    assert list(workflow.nodes) == ["double"]
    node = workflow.nodes["double"]
    assert isinstance(node, WorkflowNode)
    assert (node.process, list(node.dependencies), node.required) == (process, [], True)


def test_register_to_takes_dependencies_and_required() -> None:
    """'Optional list of process IDs that this process depends on', as strings or ProcessIds."""
    workflow = Workflow()
    Double(process_id="page").register_to(workflow)
    Double(process_id="link_3").register_to(workflow)
    Double(process_id="report").register_to(workflow, dependencies=["page", ProcessId("link", 3)], required=False)
    node = workflow.nodes["report"]
    assert ([str(name) for name in node.dependencies], node.required) == (["page", "link_3"], False)
    assert workflow.execution_graph == {"page": [], "link_3": [], "report": ["page", "link_3"]}


def test_register_to_chains() -> None:
    """'Reference for method chaining': it returns the process."""
    workflow = Workflow()
    process = Double()
    assert process.register_to(workflow) is process
    assert Double(process_id="other").register_to(workflow, dependencies=["double"])._workflow is workflow


# run


@pytest.mark.anyio
@every_strategy
async def test_run_packages_the_result(strategy: ProcessType) -> None:
    """'Result packaging': success, data, no error."""
    result = await Double(strategy).run(21)
    facts = (result.success, result.data, result.error, result.error_type, result.error_message)
    assert facts == (True, 42, None, None, None)
    assert result.strategy is strategy


@pytest.mark.anyio
@every_strategy
@pytest.mark.parametrize("kind", [Double, Broken])
async def test_run_tracks_time(kind: type[Double], strategy: ProcessType) -> None:
    """'execution_time: time taken in seconds', from `start_time` to `end_time`, also of a failure."""
    result = await kind(strategy).run(21)
    assert result.start_time.tzinfo is not None
    assert result.end_time.tzinfo is not None
    between = (result.end_time - result.start_time).total_seconds()
    assert result.execution_time >= 0
    assert result.execution_time == pytest.approx(between, abs=1e-3)


@pytest.mark.anyio
@every_strategy
@pytest.mark.parametrize(("kind", "state"), [(Double, ProcessState.COMPLETED), (Broken, ProcessState.FAILED)])
async def test_run_manages_the_state(kind: type[Double], state: ProcessState, strategy: ProcessType) -> None:
    """'Process state management': COMPLETED or FAILED in the end, in the result and in the process."""
    process = kind(strategy)
    result = await process.run(21)
    assert (result.state, result.metadata.state, process.metadata.state) == (state, state, state)


@pytest.mark.anyio
async def test_the_state_is_running_meanwhile() -> None:
    """'Process state management': RUNNING while it runs."""

    class Observer(Double):
        def process(self, input_data: Any) -> Any:
            return self.metadata.state

    assert (await Observer().run(None)).unwrap() is ProcessState.RUNNING


@pytest.mark.anyio
@every_strategy
async def test_run_reports_errors(strategy: ProcessType) -> None:
    """'Error handling': the failure is a result with the error's text and type."""
    result = await Broken(strategy).run(21)
    facts = (result.success, result.data, result.error, result.error_type, result.error_message)
    assert facts == (False, None, "no such page", "ValueError", "no such page")
    assert isinstance(result.exception, ValueError)
    assert "no such page" in result.traceback
    assert "in process" in result.traceback


# set_workflow


def test_set_workflow_sets_the_reference() -> None:
    """'Set reference to parent workflow for resource access.'"""
    workflow = Workflow()
    process = Double()
    assert process.set_workflow(workflow) is None
    assert process._workflow is workflow


def test_set_workflow_is_called_by_the_workflow() -> None:
    """'This method is called by the workflow when the process is added.'"""
    seen = []

    class Watched(Double):
        def set_workflow(self, workflow: Workflow) -> None:
            seen.append(workflow)
            super().set_workflow(workflow)

    workflow = Workflow()
    workflow.add_node(WorkflowNode(Watched()))
    assert seen == [workflow]


def test_the_workflow_gives_access_to_pools() -> None:
    """'The workflow reference provides access to shared resources like thread and process pools.'"""
    process = Double().register_to(Workflow())
    assert process._workflow.pool_manager is WorkflowPoolManager.get_instance()


# ProcessId


def test_process_id_is_a_named_tuple() -> None:
    """'Bases: NamedTuple. Structured process identifier.'"""
    assert issubclass(ProcessId, tuple)
    assert ProcessId._fields == ("base_name", "index")
    assert ProcessId("page") == ("page", None)
    assert ProcessId(base_name="page", index=3) == ("page", 3)


def test_process_id_as_text() -> None:
    """'Convert to string format used in workflow': `base_name`, or `base_name_index`."""
    texts = [str(ProcessId("page")), str(ProcessId("page", 0)), str(ProcessId("page", 3))]
    assert texts == ["page", "page_0", "page_3"]


@pytest.mark.anyio
async def test_a_process_id_names_a_process() -> None:
    """A process may be named by a ProcessId wherever a string will do."""

    class Third(BaseProcess):
        def __init__(self) -> None:
            super().__init__(ProcessConfig(process_id=ProcessId("page", 3)))

        def process(self, input_data: Any) -> Any:
            return input_data

    with Workflow() as workflow:
        Third().register_to(workflow)
        results = await workflow.execute({"page_3": "text"})
    assert results["page_3"].data == "text"
