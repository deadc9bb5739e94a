"""`pmflow.stream`: the results of a run as they end, for a plain and for an asynchronous loop."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import pmflow
from pmflow import Graph, ProcessState, process
from pmflow.errors import ConfigurationError, GraphError, NoValueError, RunTimeoutError, WorkflowError

GENEROUS = 20.0
CANCELLED, DONE, FAILED, SKIPPED = (
    ProcessState.CANCELLED,
    ProcessState.COMPLETED,
    ProcessState.FAILED,
    ProcessState.SKIPPED,
)
every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])


def double(number: int) -> int:
    """Return twice the number."""
    return number * 2


def total(doubled: list[int]) -> int:
    """Return the sum."""
    return sum(doubled)


def numbers_doubled(kind: str) -> list[Any]:
    """Return a map, and what takes its list."""
    doubled = process(double, id="doubled", type=kind, map_over={"number": "numbers"})
    return [process(total, type=kind), doubled]


async def collected(*arguments: Any, **settings: Any) -> list[tuple[str, Any]]:
    """Loop over results, asynchronously."""
    return [(str(result.process_id), result.data) async for result in pmflow.stream(*arguments, **settings)]


# What is there


@every_type
def test_results_as_they_end(kind: str) -> None:
    """Each result is there once, with its data: elements by themselves, then what depends on them."""
    results = pmflow.stream(numbers_doubled(kind), inputs={"numbers": [1, 2, 3]})
    found = [(str(result.process_id), result.data) for result in results]
    assert sorted(found[:3]) == [("doubled_0", 2), ("doubled_1", 4), ("doubled_2", 6)]
    assert found[3:] == [("total", 12)]
    assert results.run.data == {"total": 12, "doubled": [2, 4, 6]}


@pytest.mark.anyio
@every_type
async def test_results_as_they_end_asynchronously(kind: str) -> None:
    """The same on asyncio and on trio."""
    with anyio.fail_after(GENEROUS):
        found = await collected(numbers_doubled(kind), inputs={"numbers": [1, 2, 3]})
    assert sorted(found[:3]) == [("doubled_0", 2), ("doubled_1", 4), ("doubled_2", 6)]
    assert found[3:] == [("total", 12)]


def test_a_result_is_there_before_the_run_has_ended() -> None:
    """The loop has a result while others are still to come."""
    go_on = threading.Event()
    first = process(lambda: 1, id="first", type="thread")
    second = process(lambda first: go_on.wait(GENEROUS), id="second", type="thread")
    for result in pmflow.stream([first, second]):
        if result.process_id == "first":
            go_on.set()
        assert result.data


@pytest.mark.anyio
async def test_a_result_is_there_before_the_run_has_ended_asynchronously() -> None:
    """The same in an asynchronous loop, whose run is in the same event loop: they share its objects."""
    go_on = anyio.Event()
    first = process(lambda: 1, id="first", type="async")

    @process
    async def second(event: anyio.Event) -> int:
        await event.wait()
        return 2

    found: list[Any] = []
    with anyio.fail_after(GENEROUS):
        async for result in pmflow.stream([first, second], inputs={"event": go_on}):
            found.append(result.data)
            go_on.set()
    assert found == [1, 2]


def test_data_that_is_not_kept() -> None:
    """The data of a result is there in the loop, also where the run lets go of it."""
    given = [*numbers_doubled("async"), process(lambda: [1, 2], id="numbers", type="async")]
    results = pmflow.stream(given, targets="total", keep="targets")
    assert [result.data for result in results] == [[1, 2], 2, 4, 6]
    assert results.run.data == {"total": 6}
    with pytest.raises(pmflow.ValueReleasedError):
        _ = results.run["numbers"].data


def test_maps_without_all_elements() -> None:
    """A mapped process is there as a whole where its elements do not say all: it has none, or was cut short."""

    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    given = numbers_doubled("async")
    empty = {str(result.process_id): result.state for result in pmflow.stream(given, inputs={"numbers": []})}
    assert empty == {"doubled": DONE, "total": DONE}
    results = pmflow.stream([*given, process(numbers)], on_error="return")
    assert {str(result.process_id): result.state for result in results} == {
        "numbers": FAILED,
        "doubled_0": DONE,
        "doubled": SKIPPED,
        "total": SKIPPED,
    }


def test_elements_of_a_generator() -> None:
    """What is made of a generator's elements is there while it yields."""
    seen = threading.Event()

    @process(type="thread")
    def numbers() -> Iterator[int]:
        yield 0
        assert seen.wait(GENEROUS)
        yield 1

    doubled = process(double, id="doubled", type="thread", map_over={"number": "numbers"})
    found: list[str] = []
    for result in pmflow.stream([doubled, numbers]):
        found.append(str(result.process_id))
        seen.set()
    assert found[0] == "doubled_0"
    assert sorted(found) == ["doubled_0", "doubled_1", "numbers"]


def test_hooks_hear_too() -> None:
    """Hooks are told of everything, as in every run."""
    told: list[str] = []
    one = process(lambda: 1, id="one", type="async")
    assert [result.data for result in pmflow.stream(one, hooks=[lambda event: told.append(event.kind)])] == [1]
    assert told == ["run_started", "process_started", "process_ended", "run_ended"]


def test_it_finds_processes_where_it_is_called() -> None:
    """What a process needs is looked up in the scope that calls `stream`."""

    @process(type="async")
    def page() -> str:
        return "text"

    @process(type="async")
    def words(page: str) -> int:
        return len(page)

    assert page.id == "page"
    assert [result.data for result in pmflow.stream(words)] == ["text", 4]


def test_context_variables() -> None:
    """Processes see the context variables of the loop."""
    import contextvars

    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    assert [result.data for result in pmflow.stream(process(lambda: variable.get() + 1, id="one"))] == [8]


# Refusals


def test_what_cannot_run_is_refused_at_once() -> None:
    """A graph that cannot run is refused before the loop; arguments are those of `run`."""
    with pytest.raises(GraphError):
        pmflow.stream(process(lambda nowhere: nowhere, id="one"))
    with pytest.raises(TypeError, match="timeout"):
        pmflow.stream(process(lambda: 1, id="one"), timeot=1)  # type: ignore[call-overload]


def test_a_second_loop() -> None:
    """The results can be looped over once."""
    results = pmflow.stream(process(lambda: 1, id="one"))
    assert len(list(results)) == 1
    with pytest.raises(ConfigurationError, match="looped over once"):
        list(results)
    assert results.run.value == 1


def test_no_run_yet() -> None:
    """There is a run when it has ended, and not before."""
    results = pmflow.stream(process(lambda: 1, id="one"))
    with pytest.raises(NoValueError, match="has not ended"):
        _ = results.run


# Failures


def broken() -> None:
    """Raise."""
    raise ValueError("broken")


def test_failures_are_raised_at_the_end() -> None:
    """All results are there first, that of the failure too; then the loop raises what `run` raises."""
    given = [process(broken, type="async"), process(lambda broken: broken, id="after", type="async")]
    found: list[tuple[str, ProcessState]] = []
    results = pmflow.stream(given)
    with pytest.raises(WorkflowError, match="'broken' failed") as caught:
        found.extend((str(result.process_id), result.state) for result in results)
    assert found == [("broken", FAILED), ("after", SKIPPED)]
    assert caught.value.run is results.run
    assert [result.state for result in pmflow.stream(given, on_error="return")] == [FAILED, SKIPPED]


@pytest.mark.anyio
async def test_failures_are_raised_at_the_end_asynchronously() -> None:
    """The same in an asynchronous loop."""
    found: list[ProcessState] = []
    with pytest.raises(WorkflowError, match="'broken' failed"):
        async for result in pmflow.stream(process(broken, type="async")):
            found.append(result.state)  # noqa: PERF401 - what was there before it raised
    assert found == [FAILED]


@pytest.mark.anyio
async def test_a_timeout_of_the_run() -> None:
    """A run that takes too long raises at the end of the loop."""
    results = pmflow.stream(process(anyio.sleep_forever, id="forever"), timeout=0.01)
    states: list[ProcessState] = []
    with pytest.raises(RunTimeoutError):
        async for result in results:
            states.append(result.state)  # noqa: PERF401 - the same
    assert states == [CANCELLED]


# Leaving early


def endless(one: int) -> None:
    """Wait until this is given up."""
    here = pmflow.current()
    deadline = threading.Event()
    while not deadline.wait(0.001):
        here.check_cancelled()


def test_leaving_a_loop_stops_the_run() -> None:
    """`break` stops the run, and waits for that: afterwards its outcome is there."""
    forever = process(anyio.sleep_forever, id="forever")
    results = pmflow.stream([process(lambda: 1, id="one", type="async"), forever])
    for result in results:
        assert result.process_id == "one"
        break
    assert {name: result.state for name, result in results.run.items()} == {"one": DONE, "forever": CANCELLED}


def test_an_error_in_a_loop_stops_the_run() -> None:
    """What the body of the loop raises is raised, and the run is stopped."""
    results = pmflow.stream([process(lambda: 1, id="one"), process(endless)])
    with contextlib.closing(results), pytest.raises(ZeroDivisionError):
        for _ in results:
            raise ZeroDivisionError
    assert results.run["endless"].state is CANCELLED


@pytest.mark.anyio
async def test_leaving_an_asynchronous_loop_stops_the_run() -> None:
    """`break` stops the run; `aclose` waits for that."""
    ended: list[str] = []

    @process
    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("forever")

    results = pmflow.stream([process(lambda: 1, id="one", type="async"), forever])
    with anyio.fail_after(GENEROUS):
        async for result in results:
            assert result.process_id == "one"
            break
        await results.aclose()
    assert ended == ["forever"]
    assert results.run["forever"].state is CANCELLED


@pytest.mark.anyio
async def test_a_cancellation_stops_the_run() -> None:
    """A loop that is cancelled while it waits stops the run, and ends when that has ended."""
    ended: list[str] = []
    begun = anyio.Event()

    @process
    async def forever() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("forever")

    async def loop() -> None:
        async for _ in pmflow.stream(forever):
            raise AssertionError

    with anyio.fail_after(GENEROUS):
        async with anyio.create_task_group() as group:
            group.start_soon(loop)
            await begun.wait()
            group.cancel_scope.cancel()
    assert ended == ["forever"]


@pytest.mark.anyio
async def test_closing_what_has_not_begun() -> None:
    """A stream that nobody has looped over has nothing to close."""
    results = pmflow.stream(process(lambda: 1, id="one"))
    results.close()
    await results.aclose()
    assert len(list(results)) == 1


def test_nothing_is_left() -> None:
    """When the loop and its outcome are let go, so is everything in it, without a search for garbage."""

    class Value:
        """Something that can be watched."""

    results = pmflow.stream(process(Value, id="value", type="async"))
    watched = [weakref.ref(result.data) for result in results]
    assert watched[0]() is results.run.value
    gc.collect()
    gc.disable()
    try:
        del results
        assert [reference() for reference in watched] == [None]
    finally:
        gc.enable()


def test_a_stream_within_a_process() -> None:
    """A process may loop over a run of its own; its thread lends its place while it waits."""
    inner = process(double, id="doubled", type="thread", map_over={"number": "numbers"})

    @process(type="thread")
    def outer() -> list[int]:
        found = [result.data for result in pmflow.stream(inner, inputs={"numbers": [1, 2]}, max_threads=1)]
        return sorted(found)

    assert pmflow.run(Graph([outer]), max_threads=1).value == [2, 4]


INTERRUPTED = """
import os, signal, threading
import anyio, pmflow

one = pmflow.process(lambda: 1, id="one", type="async")
forever = pmflow.process(anyio.sleep_forever, id="forever")
try:
    for result in pmflow.stream([one, forever]):
        print(result.process_id, result.data, flush=True)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
except KeyboardInterrupt as interrupt:
    print({name: result.state.value for name, result in interrupt.run.items()})
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals")
def test_ctrl_c_while_a_loop_waits() -> None:
    """Ctrl-C stops the run, and what is raised has what had finished."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=GENEROUS, check=False
    )
    assert ended.stdout.splitlines() == ["one 1", "{'one': 'completed', 'forever': 'cancelled'}"]
