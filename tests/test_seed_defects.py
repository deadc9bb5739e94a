"""The seed's defects, one test per row of the table: pmflow keeps the contract, not the bugs."""

import threading
import warnings
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
    process,
)

GENEROUS = 20.0

every_strategy = pytest.mark.parametrize("strategy", list(ProcessType), ids=lambda strategy: strategy.value)


class Echo(BaseProcess):
    """Returns what it is given."""

    def __init__(self, process_id: str, strategy: ProcessType = ProcessType.ASYNC, **settings: Any) -> None:
        super().__init__(ProcessConfig(process_id=process_id, process_type=strategy, **settings))

    def process(self, input_data: Any) -> Any:
        return input_data


class Broken(Echo):
    """Fails."""

    def process(self, input_data: Any) -> Any:
        raise KeyError("no such page")


class Wait(Echo):
    """Waits for an event, after which it sets another."""

    def __init__(self, process_id: str, awaited: Any = None, announced: Any = None) -> None:
        super().__init__(process_id)
        self.awaited, self.announced = awaited, announced

    async def process(self, input_data: Any) -> Any:
        if self.awaited is not None:
            await self.awaited.wait()
        if self.announced is not None:
            self.announced.set()
        return self.config.process_id


@pytest.mark.anyio
@every_strategy
async def test_execute_works_for_every_strategy(strategy: ProcessType) -> None:
    """The seed's `execute` awaits a plain value and finds no pools; here it returns a result, attached or not."""
    echo = Echo("echo", strategy)
    assert (await echo.execute(5)).unwrap() == 5
    echo.register_to(Workflow())
    assert (await echo.execute(5)).unwrap() == 5


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", [ProcessType.THREAD, ProcessType.PROCESS], ids=["thread", "process"])
async def test_timeout_and_retries_off_the_loop(strategy: ProcessType, tmp_path: Path) -> None:
    """The seed's THREAD and PROCESS ignore `timeout`, nothing uses RetryStrategy; here both hold, and together."""

    class Late(Echo):
        """Hangs the first time."""

        def process(self, input_data: Any) -> Any:
            first, gate = Path(input_data, "first"), Path(input_data, "gate")
            if first.exists():
                return "second attempt"
            first.touch()
            pause = threading.Event()
            while not gate.exists():
                pause.wait(0.01)
            return "first attempt"

    late = Late("late", strategy, timeout=1.0, retry_strategy=RetryStrategy(max_retries=1, delay_seconds=0))
    with anyio.fail_after(GENEROUS):
        result = await late.run(str(tmp_path))
    (tmp_path / "gate").touch()
    assert (result.unwrap(), result.attempts) == ("second attempt", 2)


@pytest.mark.anyio
@every_strategy
async def test_run_returns_the_failure_and_unwrap_raises_it(strategy: ProcessType) -> None:
    """`run` returns the failure; `result.unwrap()` raises ProcessError from the original."""
    result = await Broken("broken", strategy).run(None)
    assert (result.success, result.state, result.error_type) == (False, ProcessState.FAILED, "KeyError")
    with pytest.raises(ProcessError, match="broken") as caught:
        result.unwrap()
    assert type(caught.value.__cause__) is KeyError
    assert caught.value.__cause__.args == ("no such page",)
    assert (caught.value.process_id, caught.value.attempt) == ("broken", 1)


@pytest.mark.anyio
async def test_there_is_no_barrier() -> None:
    """Ready nodes are not gathered in layers: a slow root waits for a fast branch's grandchild, and both end."""
    grandchild = anyio.Event()
    with Workflow() as workflow, anyio.fail_after(GENEROUS):
        Wait("slow", awaited=grandchild).register_to(workflow)
        Wait("fast").register_to(workflow)
        Wait("child").register_to(workflow, dependencies=["fast"])
        Wait("grandchild", announced=grandchild).register_to(workflow, dependencies=["child"])
        results = await workflow.execute()
    assert [str(name) for name in results] == ["fast", "child", "grandchild", "slow"]
    assert all(result.success for result in results.values())


@pytest.mark.anyio
async def test_a_failed_dependency_skips_its_dependants() -> None:
    """No 'Workflow deadlock detected': dependants are SKIPPED, with the reason; everything else is run."""
    with Workflow() as workflow:
        Broken("broken").register_to(workflow)
        Echo("child").register_to(workflow, dependencies=["broken"])
        Echo("grandchild").register_to(workflow, dependencies=["child"])
        Echo("other").register_to(workflow)
        results = await workflow.execute({"other": 5})
    assert {name: result.state for name, result in results.items()} == {
        "broken": ProcessState.FAILED,
        "child": ProcessState.SKIPPED,
        "grandchild": ProcessState.SKIPPED,
        "other": ProcessState.COMPLETED,
    }
    for name in ("child", "grandchild"):
        result = results[name]
        assert (result.success, result.data, result.exception) == (False, None, None)
        assert "broken" in result.reason
        assert "deadlock" not in result.reason
        with pytest.raises(ProcessError, match=name):
            result.unwrap()


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["node", "config"])
async def test_a_dependency_that_is_not_required(place: str) -> None:
    """`required=False`: the dependant of a failed process runs, and sees that there is no value."""

    class Heir(Echo):
        def process(self, input_data: Any) -> Any:
            try:
                return self.get_process_result(input_data, ProcessId("broken"))
            except ValueError:
                return self.get_process_result(input_data, ProcessId("other"))

    with Workflow() as workflow:
        Broken("broken", required=place != "config").register_to(workflow, required=place != "node")
        Echo("other").register_to(workflow)
        Heir("heir").register_to(workflow, dependencies=["broken", "other"])
        results = await workflow.execute({"other": 5})
    assert (results["broken"].state, results["heir"].unwrap()) == (ProcessState.FAILED, 5)


@pytest.mark.anyio
@every_strategy
async def test_standalone_use_says_nothing(
    strategy: ProcessType, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A process without a workflow is normal: nothing is printed, warned of or logged, not even for a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (await Echo("echo", strategy).run(5)).unwrap() == 5
        assert (await Echo("echo", strategy).execute(5)).unwrap() == 5
        assert not (await Broken("broken", strategy).run(5)).success
    assert tuple(capfd.readouterr()) == ("", "")
    assert [record for record in caplog.records if record.name.startswith("pmflow")] == []


@pytest.mark.parametrize(
    "kind",
    [ProcessConfig, ProcessMetadata, ProcessResult, RetryStrategy, WorkflowNode],
    ids=lambda kind: kind.__name__,
)
def test_models_are_attrs_classes(kind: type) -> None:
    """No pydantic: the models are attrs classes (their validation is in `test_seed_model.py`)."""
    assert attrs.has(kind)


def test_no_state_of_a_process_is_shared_between_runs() -> None:
    """One process runs in several programs' threads at once: nothing of a run is kept in it."""
    meet = threading.Barrier(4)

    @process
    def number(given: int) -> int:
        meet.wait(GENEROUS)
        return given

    values: dict[int, int] = {}
    threads = [
        threading.Thread(
            target=lambda given=given: values.update({given: pmflow.run(number, inputs={"given": given}).value})
        )
        for given in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GENEROUS)
    assert values == {0: 0, 1: 1, 2: 2, 3: 3}
