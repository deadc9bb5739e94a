"""The rest of the seed's object model: workflows, nodes, pools, metadata, results, settings."""

import json
import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import pmflow
from pmflow import (
    BaseProcess,
    ProcessConfig,
    ProcessError,
    ProcessId,
    ProcessMetadata,
    ProcessResult,
    ProcessState,
    ProcessType,
    RetryStrategy,
    Workflow,
    WorkflowNode,
    WorkflowPoolManager,
    create_workflow,
    process,
)
from pmflow.config import NOTHING
from pmflow.errors import (
    ConfigurationError,
    CycleError,
    DuplicateProcessError,
    MissingDependencyError,
    ProcessTimeoutError,
    ValidationError,
)

GENEROUS = 20.0

every_strategy = pytest.mark.parametrize("strategy", list(ProcessType), ids=lambda strategy: strategy.value)


class Call(BaseProcess):
    """A class process whose `process` is the given function; settings as in ProcessConfig."""

    def __init__(self, process_id: str, function: Any = None, /, **settings: Any) -> None:
        super().__init__(ProcessConfig(process_id=process_id, **settings))
        self.function = function

    def process(self, input_data: Any) -> Any:
        return self.function(input_data) if self.function else input_data


def fail(_input_data: Any) -> Any:
    """Fail."""
    raise ValueError("no such page")


def states(results: Any) -> dict[str, ProcessState]:
    """Return the state of each result."""
    return {str(name): result.state for name, result in results.items()}


# ProcessState, ProcessType, ProcessConfig, ProcessMetadata, ProcessResult, RetryStrategy


def test_states() -> None:
    """The states of a process."""
    names = ["WAITING", "RUNNING", "RETRYING", "COMPLETED", "FAILED", "SKIPPED", "CANCELLED"]
    assert [state.name for state in ProcessState] == names


def test_types() -> None:
    """The strategies, each with the word that `@process` takes."""
    assert {kind.name: kind.value for kind in ProcessType} == {
        "ASYNC": "async",
        "THREAD": "thread",
        "PROCESS": "process",
    }


def test_config_fields() -> None:
    """A config has these fields and defaults."""
    config = attrs.asdict(ProcessConfig(process_id="page"), recurse=False)
    assert config == {
        "process_id": "page",
        "process_type": ProcessType.ASYNC,
        "timeout": None,
        "retry_strategy": None,
        "crash_retries": 0,
        "fail_fast": None,
        "dependencies": (),
        "after": (),
        "map_over": None,
        "required": True,
        "outputs": (),
        "fallback": NOTHING,
        "limit": None,
        "cpus": 1,
        "when": None,
        "validation_rules": (),
    }


def test_config_generates_an_id() -> None:
    """`process_id` is generated when absent, a new one each time."""
    ids = {str(ProcessConfig().process_id) for _ in range(100)}
    assert len(ids) == 100
    assert "" not in ids


def test_config_is_frozen() -> None:
    """A declaration is data: it cannot be changed, so processes may share it."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ProcessConfig(process_id="page").timeout = 5  # type: ignore[misc]


def test_metadata_fields() -> None:
    """Metadata has these fields and defaults; `retry_count` is another name of `retries`."""
    metadata = ProcessMetadata(process_id="page", state=ProcessState.WAITING)
    fields = ["process_id", "state", "retries", "progress", "start_time", "end_time", "last_error", "result"]
    values = {name: getattr(metadata, name) for name in fields}
    defaults = {"retries": 0, "progress": 0, "start_time": None, "end_time": None, "last_error": None, "result": None}
    assert values == {"process_id": "page", "state": ProcessState.WAITING, **defaults}
    assert ProcessMetadata(process_id="page", retries=2).retry_count == 2


@pytest.mark.anyio
async def test_metadata_after_a_workflow() -> None:
    """`Workflow.execute` sets the metadata of its processes: state, retries, progress, times, error, result."""
    attempts = []

    def second_time(_input_data: Any) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return "done"

    page = Call("page", second_time, retry_strategy=RetryStrategy(max_retries=2, delay_seconds=0))
    broken = Call("broken", fail)
    with Workflow() as workflow:
        page.register_to(workflow)
        broken.register_to(workflow)
        results = await workflow.execute()
    good = page.metadata
    assert (good.state, good.retries, good.retry_count, good.progress) == (ProcessState.COMPLETED, 1, 1, 100)
    assert (good.start_time, good.end_time) == (results["page"].start_time, results["page"].end_time)
    assert good.result in ("done", results["page"])
    assert (broken.metadata.state, broken.metadata.retries) == (ProcessState.FAILED, 0)
    assert "no such page" in str(broken.metadata.last_error)


def test_a_run_writes_to_no_process() -> None:
    """The state of `pmflow.run` is in its results: only `Workflow.execute` sets a process's own metadata."""
    page = Call("page")
    run = pmflow.run(page, inputs={"page": 1})
    assert run[page].metadata.state is ProcessState.COMPLETED
    assert page.metadata.state is ProcessState.WAITING
    assert page._workflow is None


def test_result_fields() -> None:
    """A result is made as in the seed; its error fields are None by default."""
    moment = datetime(2024, 5, 1, tzinfo=timezone.utc)
    result = ProcessResult(success=True, data=[1], execution_time=0.5, start_time=moment, end_time=moment)
    names = ["success", "data", "execution_time", "start_time", "end_time", "error", "error_type", "error_message"]
    assert [getattr(result, name) for name in names] == [True, [1], 0.5, moment, moment, None, None, None]
    assert result.unwrap() == [1]


def test_unwrap_of_a_failure_made_by_hand() -> None:
    """A result without success raises ProcessError, with the error's text, even where no exception is known."""
    moment = datetime(2024, 5, 1, tzinfo=timezone.utc)
    facts = {"execution_time": 0.5, "start_time": moment, "end_time": moment}
    result = ProcessResult(success=False, data=None, error="no such page", error_type="ValueError", **facts)
    with pytest.raises(ProcessError, match="no such page"):
        result.unwrap()


def test_retry_strategy_fields() -> None:
    """Three retries, after 1, 2 and 4 seconds, for any exception, unless it is said otherwise."""
    assert attrs.asdict(RetryStrategy()) == {
        "max_retries": 3,
        "delay_seconds": 1.0,
        "backoff_factor": 2.0,
        "max_delay_seconds": None,
        "jitter": 0.0,
        "retry_on": (Exception,),
    }


@pytest.mark.anyio
async def test_retry_on_names_the_exceptions_worth_it() -> None:
    """An exception that `retry_on` does not name is not tried again."""
    page = Call("page", fail, retry_strategy=RetryStrategy(max_retries=3, delay_seconds=0, retry_on=(OSError,)))
    result = await page.run(None)
    assert (result.state, result.attempts) == (ProcessState.FAILED, 1)


# validation_rules


def short(text: str) -> bool:
    """Return whether it is short."""
    return len(text) < 5


def not_empty(text: str) -> None:
    """Raise when it is empty; returning None is fine."""
    if not text:
        raise LookupError("nothing there")


@pytest.mark.anyio
@every_strategy
async def test_validation_rules_accept(strategy: ProcessType) -> None:
    """A result that every rule accepts (None is no refusal) is the result."""
    page = Call("page", process_type=strategy, validation_rules=[short, not_empty])
    assert (await page.run("text")).unwrap() == "text"


@pytest.mark.anyio
@every_strategy
async def test_a_validation_rule_that_returns_false(strategy: ProcessType) -> None:
    """A rule that returns False fails the attempt: ValidationError names the process and the rule."""
    page = Call("page", process_type=strategy, validation_rules=[short])
    result = await page.run("a long text")
    assert (result.state, result.data, result.error_type) == (ProcessState.FAILED, None, "ValidationError")
    assert isinstance(result.exception, ValidationError)
    assert "page" in str(result.error)
    assert "short" in str(result.error)


@pytest.mark.anyio
@every_strategy
async def test_a_validation_rule_that_raises(strategy: ProcessType) -> None:
    """A rule that raises fails the attempt, and its reason is not lost."""
    page = Call("page", process_type=strategy, validation_rules=[not_empty])
    result = await page.run("")
    assert result.state is ProcessState.FAILED
    assert "nothing there" in result.traceback


@pytest.mark.anyio
async def test_a_refused_result_is_tried_again() -> None:
    """A refused result is a failed attempt, so it is retried."""
    answers = iter(["a long text", "text"])
    strategy = RetryStrategy(max_retries=1, delay_seconds=0)
    page = Call("page", lambda _: next(answers), validation_rules=[short], retry_strategy=strategy)
    result = await page.run(None)
    assert (result.unwrap(), result.attempts) == ("text", 2)


# fail_fast


@pytest.mark.anyio
async def test_fail_fast_of_one_process_stops_a_workflow() -> None:
    """`fail_fast=True` overrides the run's: the failure of this process stops everything else."""

    class Endless(Call):
        async def process(self, input_data: Any) -> Any:
            await anyio.sleep_forever()

    with Workflow() as workflow:
        Endless("endless").register_to(workflow)
        Call("broken", fail, fail_fast=True).register_to(workflow)
        Call("next").register_to(workflow, dependencies=["endless"])
        Call("heir").register_to(workflow, dependencies=["broken"])
        with anyio.fail_after(GENEROUS):
            results = await workflow.execute()
    assert states(results) == {
        "endless": ProcessState.CANCELLED,
        "broken": ProcessState.FAILED,
        "next": ProcessState.CANCELLED,
        "heir": ProcessState.SKIPPED,
    }


def test_fail_fast_false_lets_the_others_finish() -> None:
    """`fail_fast=False` overrides the run's: a run that raises finishes the other work first."""
    failed = threading.Event()

    def note(event: pmflow.Event) -> None:
        if event.kind == "process_ended" and event.process_id == "broken":
            failed.set()

    @process(fail_fast=False)
    def broken() -> None:
        raise ValueError("no such page")

    @process
    def other() -> bool:
        return failed.wait(GENEROUS)

    @process
    def heir(other: bool) -> bool:
        return other

    with pytest.raises(pmflow.WorkflowError) as caught:
        pmflow.run([broken, heir], hooks=[note])
    assert caught.value.run is not None
    assert {name: result.data for name, result in caught.value.run.items()} == {
        "broken": None,
        "other": True,
        "heir": True,
    }


# Workflow


def test_workflow_arguments() -> None:
    """`Workflow(max_processes=None, max_threads=None, process_id=None)`: an id of its own is made when absent."""
    assert Workflow(2, 4, "nightly").process_id == "nightly"
    assert Workflow(max_processes=2, max_threads=4, process_id="nightly").process_id == "nightly"
    assert Workflow().process_id != Workflow().process_id


def test_workflow_starts_empty() -> None:
    """`nodes`, `results` and `execution_graph` are empty; `pool_manager` is the program's."""
    workflow = Workflow()
    assert (dict(workflow.nodes), dict(workflow.results), workflow.execution_graph) == ({}, {}, {})
    assert workflow.pool_manager is WorkflowPoolManager.get_instance()


def test_create_workflow() -> None:
    """`create_workflow(...)` takes what Workflow takes."""
    workflow = create_workflow(max_processes=2, max_threads=4, process_id="nightly")
    assert isinstance(workflow, Workflow)
    assert workflow.process_id == "nightly"
    with create_workflow() as other:
        assert isinstance(other, Workflow)


def test_add_node() -> None:
    """`add_node(node)` files the node under its process's id, in order."""
    workflow = Workflow()
    page, words = WorkflowNode(Call("page")), WorkflowNode(Call("words"), dependencies=["page"])
    workflow.add_node(page)
    workflow.add_node(words)
    assert list(workflow.nodes.items()) == [("page", page), ("words", words)]
    assert workflow.execution_graph == {"page": [], "words": ["page"]}


@pytest.mark.anyio
async def test_add_node_of_a_known_id() -> None:
    """Two processes of one id are refused."""
    workflow = Workflow()
    workflow.add_node(WorkflowNode(Call("page")))
    with pytest.raises(DuplicateProcessError, match="page"):
        workflow.add_node(WorkflowNode(Call("page")))


@pytest.mark.anyio
@every_strategy
async def test_execute_passes_results_on(strategy: ProcessType) -> None:
    """`execute` returns id -> ProcessResult; a dependant gets `str(ProcessId)` -> ProcessResult of its dependencies."""

    class Sum(Call):
        def process(self, input_data: Any) -> Any:
            assert all(isinstance(result, ProcessResult) for result in input_data.values())
            return {name: self.get_process_result(input_data, ProcessId(name)) for name in sorted(input_data)}

    with Workflow() as workflow:
        Call("left", process_type=strategy).register_to(workflow)
        Call("right", process_type=strategy).register_to(workflow)
        Sum("sum", process_type=strategy).register_to(workflow, dependencies=["left", ProcessId("right")])
        results = await workflow.execute({"left": 1, "right": 2})
        assert {name: result.unwrap() for name, result in results.items()} == {
            "left": 1,
            "right": 2,
            "sum": {"left": 1, "right": 2},
        }
        assert dict(workflow.results) == dict(results)


@pytest.mark.anyio
async def test_dependencies_of_the_config() -> None:
    """A class process may name its dependencies in its config as well."""

    class Length(Call):
        def process(self, input_data: Any) -> Any:
            return len(self.get_process_result(input_data, ProcessId("page")))

    with Workflow() as workflow:
        Length("length", dependencies=["page"]).register_to(workflow)
        Call("page").register_to(workflow)
        results = await workflow.execute({"page": "text"})
    assert results["length"].data == 4


@pytest.mark.anyio
async def test_execute_twice() -> None:
    """A workflow can be executed again; `results` and metadata are those of the last time."""
    page = Call("page")
    with Workflow() as workflow:
        page.register_to(workflow)
        first = await workflow.execute({"page": 1})
        second = await workflow.execute({"page": 2})
        assert (first["page"].data, second["page"].data, workflow.results["page"].data) == (1, 2, 2)


@pytest.mark.anyio
async def test_an_empty_workflow() -> None:
    """Nothing to do is done at once."""
    assert dict(await Workflow().execute()) == {}


@pytest.mark.anyio
@every_strategy
async def test_a_process_without_initial_data(strategy: ProcessType) -> None:
    """`initial_data` is optional: a process without dependencies then gets None."""
    with Workflow() as workflow:
        Call("page", process_type=strategy).register_to(workflow)
        results = await workflow.execute()
    assert (results["page"].success, results["page"].data) == (True, None)


@pytest.mark.anyio
async def test_execute_never_raises_for_a_process() -> None:
    """A failed process is a result, not an exception."""
    with Workflow() as workflow:
        Call("broken", fail).register_to(workflow)
        Call("page").register_to(workflow)
        results = await workflow.execute({"page": 1})
    assert states(results) == {"broken": ProcessState.FAILED, "page": ProcessState.COMPLETED}


@pytest.mark.anyio
async def test_a_workflow_that_cannot_run_is_refused() -> None:
    """A missing dependency and a cycle are refused before anything runs."""
    ran: list[Any] = []
    with pytest.raises(MissingDependencyError, match="pgae.*page"):
        workflow = Workflow()
        Call("page", ran.append).register_to(workflow)
        Call("words").register_to(workflow, dependencies=["pgae"])
        await workflow.execute()
    with pytest.raises(CycleError) as caught:
        workflow = Workflow()
        Call("page", ran.append).register_to(workflow)
        Call("left").register_to(workflow, dependencies=["right"])
        Call("right").register_to(workflow, dependencies=["left"])
        await workflow.execute()
    assert set(caught.value.cycle) == {"left", "right"}
    assert ran == []


@pytest.mark.anyio
async def test_workflow_to_json() -> None:
    """`to_json()` is JSON that names every process and holds no value, before and after it has run."""
    with Workflow(process_id="nightly") as workflow:
        Call("page").register_to(workflow)
        Call("words", lambda data: data["page"].data).register_to(workflow, dependencies=["page"])
        before = workflow.to_json()
        await workflow.execute({"page": "the-secret"})
        after = workflow.to_json()
    for text in (before, after):
        assert isinstance(json.loads(text), dict)
        assert "the-secret" not in text
        assert [name in text for name in ("page", "words")] == [True, True]


@pytest.mark.anyio
async def test_workflow_is_a_context_manager() -> None:
    """`with Workflow() as workflow` ends in `shutdown()`, which may be called again; other workflows still run."""
    with Workflow() as workflow:
        Call("page", process_type=ProcessType.PROCESS).register_to(workflow)
        assert (await workflow.execute({"page": 1}))["page"].data == 1
    workflow.shutdown()
    with Workflow() as other:
        Call("page", process_type=ProcessType.PROCESS).register_to(other)
        assert (await other.execute({"page": 2}))["page"].data == 2


@pytest.mark.anyio
async def test_max_threads() -> None:
    """At most `max_threads` of a workflow's thread processes run at once, and that many do."""
    pair, lock = threading.Barrier(2), threading.Lock()
    running = [0, 0]

    def meet(_input_data: Any) -> None:
        with lock:
            running[0] += 1
            running[1] = max(running)
        pair.wait(GENEROUS)
        with lock:
            running[0] -= 1

    with Workflow(max_threads=2) as workflow:
        for number in range(6):
            Call(f"page{number}", meet, process_type=ProcessType.THREAD).register_to(workflow)
        results = await workflow.execute()
    assert set(states(results).values()) == {ProcessState.COMPLETED}
    assert running == [0, 2]


@pytest.mark.anyio
async def test_function_and_class_processes_mix() -> None:
    """Function processes and class processes feed one another in one workflow, on all strategies."""

    @process(type="async")
    async def page(url: str) -> str:
        return f"{url}: a b c"

    class Words(BaseProcess):
        def __init__(self) -> None:
            super().__init__(ProcessConfig(process_id="words", process_type=ProcessType.PROCESS))

        def process(self, input_data: Any) -> Any:
            return self.get_process_result(input_data, ProcessId("page")).split()

    @process
    def report(words: list[str], top: int = 2) -> list[str]:
        return words[:top]

    with Workflow() as workflow:
        page.register_to(workflow)
        Words().register_to(workflow, dependencies=["page"])
        workflow.add_node(WorkflowNode(report))
        results = await workflow.execute({"url": "here"})
        assert workflow.execution_graph == {"page": [], "words": ["page"], "report": ["words"]}
    assert {name: result.unwrap() for name, result in results.items()} == {
        "page": "here: a b c",
        "words": ["here:", "a", "b", "c"],
        "report": ["here:", "a"],
    }


@pytest.mark.anyio
async def test_a_function_process_keeps_the_order_a_node_asks_for() -> None:
    """A dependency that a function takes no parameter for is one that must have ended well first."""
    order: list[str] = []

    @process
    def first() -> None:
        order.append("first")

    @process
    def second() -> None:
        order.append("second")

    with Workflow() as workflow:
        second.register_to(workflow, dependencies=["first"])
        first.register_to(workflow)
        await workflow.execute()
    assert order == ["first", "second"]


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", ["async", "thread", "process"])
async def test_a_function_process_standalone(strategy: str) -> None:
    """`await function_process.run({"parameter": value})`; the same through `execute`."""

    def join(left: str, right: str = "b") -> str:
        return left + right

    joined = process(join, type=strategy)
    assert (await joined.run({"left": "a"})).unwrap() == "ab"
    assert (await joined.execute({"left": "a", "right": "c"})).unwrap() == "ac"


def test_what_run_takes_a_workflow_too() -> None:
    """`pmflow.run(workflow)` runs its nodes; the required ones raise."""
    workflow = Workflow()
    Call("page").register_to(workflow)
    Call("words", lambda data: data["page"].data.split()).register_to(workflow, dependencies=["page"])
    assert pmflow.run(workflow, inputs={"page": "a b"}).value == ["a", "b"]


# WorkflowNode


def test_node_defaults() -> None:
    """`WorkflowNode(process, dependencies=[], required=True)`."""
    page = Call("page")
    node = WorkflowNode(page)
    assert (node.process, list(node.dependencies), node.required) == (page, [], True)
    node = WorkflowNode(process=page, dependencies=["a"], required=False)
    assert (node.process, list(node.dependencies), node.required) == (page, ["a"], False)


def test_validate_dependencies() -> None:
    """`validate_dependencies(available)` returns the missing ones."""
    node = WorkflowNode(Call("words"), dependencies=["page", ProcessId("link", 3)])
    assert node.validate_dependencies({"page", "link_3"}) == []
    assert node.validate_dependencies(["page"]) == ["link_3"]
    assert node.validate_dependencies([]) == ["page", "link_3"]


def test_can_execute() -> None:
    """`can_execute(completed)` says whether all of them are there."""
    node = WorkflowNode(Call("words"), dependencies=["page", ProcessId("link", 3)])
    assert [node.can_execute(done) for done in ({"page", "link_3", "other"}, {"page"}, set())] == [True, False, False]
    assert WorkflowNode(Call("page")).can_execute(set()) is True


# WorkflowPoolManager


def test_pool_manager_is_one() -> None:
    """`get_instance()` is the program's one manager."""
    assert isinstance(WorkflowPoolManager.get_instance(), WorkflowPoolManager)
    assert WorkflowPoolManager.get_instance() is WorkflowPoolManager.get_instance()


def test_pools_are_made_once() -> None:
    """`get_or_create_pools(id)` maps strategies to pools, the same ones until `cleanup_pools(id)`, for any id."""
    manager = WorkflowPoolManager.get_instance()
    pools = manager.get_or_create_pools("nightly", max_threads=2, max_processes=1)
    again = manager.get_or_create_pools("nightly")
    for strategy in (ProcessType.THREAD, ProcessType.PROCESS):
        assert pools[strategy] is again[strategy]
    manager.cleanup_pools("nightly")
    manager.cleanup_pools("nightly")
    assert set(manager.get_or_create_pools("nightly")) == set(pools)
    manager.cleanup_pools("nightly")


def test_pools_outlive_a_run() -> None:
    """Pools outlive a run and are shared: run after run uses the same workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    worker = process(os.getpid, type="process", id="worker")
    pids = {pmflow.run(worker).value for _ in range(cores + 3)}
    assert len(pids) <= cores
    assert os.getpid() not in pids


# Timeouts and retries of every strategy


class Slow(Call):
    """Never ends by itself: an awaitable, a thread or a worker that waits for a file."""

    def process(self, input_data: Any) -> Any:
        waiting = threading.Event()
        while not Path(input_data).exists():
            waiting.wait(0.01)

    @classmethod
    def of(cls, strategy: ProcessType, **settings: Any) -> "Slow":
        """Return one that its strategy can wait for."""
        return (SlowLater if strategy is ProcessType.ASYNC else cls)("slow", process_type=strategy, **settings)


class SlowLater(Slow):
    """The same on the loop."""

    async def process(self, input_data: Any) -> Any:
        await anyio.sleep_forever()


@pytest.mark.anyio
@every_strategy
async def test_timeout_is_honoured(strategy: ProcessType, tmp_path: Path) -> None:
    """Every strategy honours `timeout`; only a thread is said to be running still."""
    gate = tmp_path / "gate"
    with anyio.fail_after(GENEROUS):
        result = await Slow.of(strategy, timeout=0.2).run(str(gate))
    gate.touch()
    facts = (result.state, result.success, result.data, result.error_type, result.stopped)
    assert facts == (ProcessState.FAILED, False, None, "ProcessTimeoutError", strategy is not ProcessType.THREAD)
    assert isinstance(result.exception, ProcessTimeoutError)
    assert isinstance(result.exception, TimeoutError)
    assert result.execution_time >= 0.1  # on a busy loop its time runs a little before it does


@pytest.mark.anyio
@every_strategy
async def test_timeout_is_honoured_in_a_workflow(strategy: ProcessType, tmp_path: Path) -> None:
    """A timeout in a workflow ends that process; what does not depend on it goes on."""
    gate = tmp_path / "gate"
    with Workflow() as workflow, anyio.fail_after(GENEROUS):
        Slow.of(strategy, timeout=0.2).register_to(workflow)
        Call("heir").register_to(workflow, dependencies=["slow"])
        Call("other").register_to(workflow)
        results = await workflow.execute({"slow": str(gate), "other": 1})
    gate.touch()
    expected = {"slow": ProcessState.FAILED, "heir": ProcessState.SKIPPED, "other": ProcessState.COMPLETED}
    assert states(results) == expected
    assert "slow" in results["heir"].reason


class Counting(Call):
    """Notes every attempt in a file, and succeeds at the third."""

    def process(self, input_data: Any) -> Any:
        with Path(input_data).open("a+") as log:
            log.write("x")
            log.seek(0)
            attempts = len(log.read())
        if attempts < 3:
            raise ValueError(f"attempt {attempts}")
        return attempts


@pytest.mark.anyio
@every_strategy
async def test_retry_strategy_is_honoured(strategy: ProcessType, tmp_path: Path) -> None:
    """Every strategy honours `retry_strategy`: two failures, then the third attempt's value."""
    retry = RetryStrategy(max_retries=2, delay_seconds=0.001)
    result = await Counting("page", process_type=strategy, retry_strategy=retry).run(str(tmp_path / "log"))
    assert (result.unwrap(), result.attempts, result.metadata.retries) == (3, 3, 2)


@pytest.mark.anyio
@every_strategy
async def test_retries_are_counted(strategy: ProcessType, tmp_path: Path) -> None:
    """`max_retries` further attempts and no more; the last failure is the result's."""
    retry = RetryStrategy(max_retries=1, delay_seconds=0)
    result = await Counting("page", process_type=strategy, retry_strategy=retry).run(str(tmp_path / "log"))
    assert (result.state, result.error, result.attempts) == (ProcessState.FAILED, "attempt 2", 2)
    assert (tmp_path / "log").read_text() == "xx"


# Validation at construction


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ProcessConfig, {"timeout": 0}),
        (ProcessConfig, {"timeout": True}),
        (ProcessConfig, {"timeout": "5"}),
        (ProcessConfig, {"timeout": float("nan")}),
        (ProcessConfig, {"process_type": "quantum"}),
        (ProcessConfig, {"process_id": ""}),
        (ProcessConfig, {"process_id": 5}),
        (ProcessConfig, {"retry_strategy": -1}),
        (ProcessConfig, {"fail_fast": "yes"}),
        (ProcessConfig, {"required": None}),
        (ProcessConfig, {"validation_rules": [3]}),
        (ProcessConfig, {"map_over": 3}),
        (RetryStrategy, {"max_retries": -1}),
        (RetryStrategy, {"delay_seconds": -1}),
        (RetryStrategy, {"backoff_factor": float("inf")}),
        (RetryStrategy, {"max_delay_seconds": "5"}),
        (RetryStrategy, {"jitter": 2}),
        (RetryStrategy, {"retry_on": "ValueError"}),
        (ProcessMetadata, {"process_id": "page", "progress": 101}),
        (ProcessMetadata, {"process_id": "page", "state": "running"}),
        (Workflow, {"max_threads": 0}),
        (Workflow, {"max_processes": -1}),
        (WorkflowNode, {"process": "page"}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_impossible_settings_are_refused(kind: type, settings: dict[str, Any]) -> None:
    """Impossible settings are refused at construction."""
    with pytest.raises(ConfigurationError):
        kind(**settings)
