"""Right: the seed's own style, as its documentation writes it, and typed where somebody wants more."""

from typing import Any

import anyio
from typing_extensions import assert_type

import pmflow
from pmflow import (
    BaseProcess,
    ProcessConfig,
    ProcessResult,
    ProcessState,
    ProcessType,
    RetryStrategy,
    Workflow,
    WorkflowNode,
    create_workflow,
    process,
)


class MyProcess(BaseProcess):
    """The seed's example: `execute`."""

    def __init__(self) -> None:
        super().__init__(ProcessConfig(process_type=ProcessType.THREAD, process_id="my_process"))

    async def execute(self, input_data: dict[str, Any]) -> dict[str, Any]:
        """Implement process logic here."""
        return {"processed": input_data}


class Double(BaseProcess):
    """`process`, plain; it knows its input."""

    def process(self, input_data: int) -> int:
        """Double it."""
        return input_data * 2


class Later(BaseProcess):
    """`process`, async; it reads the result of a dependency."""

    async def process(self, input_data: dict[str, ProcessResult]) -> int:
        """Read the dependency by its id."""
        found: int = self.get_process_result(input_data, pmflow.ProcessId("double"))
        return found + 1


class Typed(BaseProcess[int]):
    """A class that says what its result holds."""

    def process(self, input_data: Any) -> int:
        """Return a number."""
        return len(str(input_data))


def test_on_its_own() -> None:
    """A process runs without a workflow; the result of a class that does not say what it holds is of any type."""

    async def main() -> None:
        result = await MyProcess().run({"a": 1})
        assert_type(result, ProcessResult[Any])
        assert_type(result.success, bool)
        assert_type(result.error, str | None)
        assert_type(MyProcess().metadata.state, ProcessState)
        assert_type(await Typed(ProcessConfig(process_id="typed")).run("abc"), ProcessResult[int])

    anyio.run(main)


def test_in_a_workflow() -> None:
    """`register_to` returns the process itself; `execute` a mapping of ids to results."""

    async def main() -> None:
        with Workflow(max_processes=2, max_threads=4, process_id="flow") as workflow:
            double = Double(
                ProcessConfig(
                    process_id="double",
                    process_type=ProcessType.THREAD,
                    timeout=5,
                    retry_strategy=RetryStrategy(max_retries=1),
                )
            )
            assert_type(double.register_to(workflow), Double)
            Later(ProcessConfig(process_id="later")).register_to(workflow, dependencies=["double"], required=False)
            workflow.add_node(WorkflowNode(process=MyProcess(), dependencies=[pmflow.ProcessId("later")]))
            results = await workflow.execute({"double": 21})
            assert_type(results["later"], ProcessResult[Any])
            assert_type(workflow.to_json(), str)

    anyio.run(main)
    create_workflow(max_threads=2).shutdown()


def test_with_functions() -> None:
    """Class and function processes mix; a typed class types the run."""

    @process
    def total(typed: ProcessResult[int]) -> int:
        return typed.unwrap() + 1

    typed = Typed(ProcessConfig(process_id="typed"))
    assert_type(pmflow.run(typed, inputs={"typed": "abc"}).value, int)
    assert_type(pmflow.run([total, typed], inputs={"typed": "abc"}, targets=total, keep="all")[typed].data, int)
    assert_type(pmflow.run(Double(ProcessConfig(process_id="double")), inputs={"double": 1}).value, Any)


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
