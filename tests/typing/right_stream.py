"""Right: the results of a run as they end are typed."""

from typing import Any

import anyio
from typing_extensions import assert_type

import pmflow
from pmflow import ProcessResult, ResultStream, Run, process


@process(type="async")
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


def test_a_plain_loop() -> None:
    """It takes what `run` takes; each result may be of any process, the outcome is that of the one."""
    results = pmflow.stream(words, inputs={"text": "a"}, on_error="return", keep="all", timeout=5)
    assert_type(results, ResultStream[list[str]])
    for result in results:
        assert_type(result.process_id, pmflow.ProcessId | str | None)
    assert_type(results.run, Run[list[str]])
    assert_type(pmflow.stream([words], inputs={"text": "a"}).close(), None)


async def test_an_asynchronous_loop() -> None:
    """The same."""
    results = pmflow.stream(words, inputs={"text": "a"})
    async for result in results:
        assert_type(result, ProcessResult[Any])
    await results.aclose()


if __name__ == "__main__":
    test_a_plain_loop()
    anyio.run(test_an_asynchronous_loop)
