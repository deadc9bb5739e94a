"""Right: a decorated function keeps its signature, and what a run gives is typed."""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

import pmflow
from pmflow import Graph, ProcessId, ProcessResult, ProcessType, RetryStrategy, Run, command, process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@process
def words(text: str) -> list[str]:
    """A plain function, bare."""
    return text.split()


@process(type="async", timeout=5, retries=RetryStrategy(max_retries=3, delay_seconds=0.1), required=False)
async def page(url: str, depth: int = 1) -> str:
    """A coroutine function, with settings."""
    await asyncio.sleep(0)
    return f"{url} {depth}"


@process(map_over="url", cpus=2)
def size(url: str) -> int:
    """A plain function, mapped."""
    return len(url)


@process(map_over={"url": "urls"}, type=ProcessType.ASYNC, id=ProcessId("body"))
async def body(url: str) -> bytes:
    """A coroutine function, mapped, with settings."""
    return url.encode()


@process(dependencies={"text": page}, after=[words, "size"], id="count")
def count_text(text: str, size: list[int]) -> int:
    """Named by the process itself, and by its id."""
    return len(text) + len(size)


robust = process.defaults(timeout=5, retries=2)


@robust
def sure(text: str) -> str:
    """Decorated with other defaults."""
    return text


@robust(retries=0)
def once(text: str) -> str:
    """Decorated with other defaults, one of them changed again."""
    return text


def triple(number: int, factor: int) -> int:
    """Not decorated."""
    return number * factor


async def later(number: int) -> float:
    """Not decorated."""
    return number / 2


class Counter:
    """A class whose method becomes a process."""

    def add(self, number: int) -> int:
        """Add."""
        return number + 1


def test_a_call_is_the_functions_own() -> None:
    """Calling calls the function, with its parameters and its result."""
    assert_type(words("a b"), list[str])
    assert_type(sure(text="a"), str)
    assert_type(once("a"), str)
    assert_type(size("a"), int)
    called: Coroutine[Any, Any, str] = page("a", depth=2)
    assert_type(asyncio.run(called), str)
    plain: Callable[[str], list[str]] = words
    assert_type(plain("a"), list[str])


def test_the_value_of_a_run() -> None:
    """`run.value` is what the target's function returns: awaited, and as a list where it is mapped."""
    inputs = {"text": "a b"}
    assert_type(pmflow.run(words, inputs=inputs), Run[list[str]])
    assert_type(pmflow.run(words, inputs=inputs).value, list[str])
    assert_type(pmflow.run(page, inputs={"url": "a"}).value, str)
    assert_type(pmflow.run(size, inputs={"url": ["a", "b"]}).value, list[int])
    assert_type(pmflow.run(body, inputs={"urls": ["a", "b"]}).value, list[bytes])
    assert_type(pmflow.run(robust(sure.__wrapped__), inputs=inputs).value, str)


def test_processes_made_by_a_call() -> None:
    """`process(function, ...)` is typed as the decorator is; so is a copy with other settings."""
    tripled = process(triple, type="thread", id="tripled")
    assert_type(tripled(2, factor=3), int)
    assert_type(pmflow.run(tripled, inputs={"number": 2, "factor": 3}).value, int)
    assert_type(pmflow.run(process(later), inputs={"number": 2}).value, float)
    assert_type(pmflow.run(process(later, map_over="number"), inputs={"number": [2]}).value, list[float])
    assert_type(pmflow.run(process(partial(triple, factor=3), id="p"), inputs={"number": 2}).value, int)
    assert_type(pmflow.run(process(Counter().add), inputs={"number": 2}).value, int)
    assert_type(pmflow.run(tripled.options(timeout=5, id="t"), inputs={"number": 2, "factor": 3}).value, int)
    assert_type(asyncio.run(page.options(timeout=1)("a")), str)


def test_commands() -> None:
    """The value of a command is text, bytes where it says so, and a list where it is mapped; its settings are typed."""
    echo = command(["echo", "-n", "{word}"], timeout=5, retries=2, after=words, required=False)
    inputs = {"word": "a", "text": "b"}
    assert_type(pmflow.run([echo, words], inputs=inputs)[echo].data, str)
    assert_type(pmflow.run(command([Path("/bin/echo")], id="path", returns=Path("a")), keep="all").value, str)
    assert_type(pmflow.run(command(["cat"], text=False, stdin=b"a", ok_codes={0, 1})).value, bytes)
    settings = {"A": "{word}"}
    mapped = command(["printenv", "A"], env=settings, cwd=Path.cwd(), map_over={"word": "letters"})
    assert_type(pmflow.run(mapped, inputs={"letters": ["a", "b"]}).value, list[str])
    mapped_bytes = command(["cat"], stdin="{word}", text=False, map_over="word")
    assert_type(pmflow.run(mapped_bytes, inputs={"word": ["a"]}).value, list[bytes])
    assert_type(asyncio.run(echo("a")), str)


def test_the_result_of_a_process() -> None:
    """`run[process]` is typed by the process, whatever the run's target."""
    run = pmflow.run(count_text, inputs={"url": ["a"], "text": "b"}, overrides={"page": "c", size: [1]})
    assert_type(run, Run[int])
    assert_type(run[words], ProcessResult[list[str]])
    assert_type(run[words].data, list[str])
    assert_type(run[words].unwrap(), list[str])
    assert_type(run["words"], ProcessResult[Any])
    assert_type(run[ProcessId("words")], ProcessResult[Any])
    assert_type([result.execution_time for result in run.values()], list[float])


def test_several_targets() -> None:
    """Of several processes, a graph or a name nothing more is known than that they are processes."""
    inputs = {"text": "a b"}
    assert_type(pmflow.run([words, sure], inputs=inputs), Run[Any])
    assert_type(pmflow.run(Graph([words, sure]), inputs=inputs, targets="words"), Run[Any])
    assert_type(pmflow.run(Graph([words, sure]), inputs=inputs, targets=[words, "sure"]).data, dict[str, Any])


def test_under_a_running_loop() -> None:
    """`arun` gives what `run` gives, awaited."""

    async def main() -> str:
        run = await pmflow.arun(page, inputs={"url": "a"}, keep="targets", on_error="return", timeout=5)
        assert_type(run, Run[str])
        return run.value

    assert_type(asyncio.run(main()), str)


def test_what_a_process_knows_of_itself() -> None:
    """`current` gives a `Current`, with numbers that may be missing."""

    def knows() -> int:
        here = pmflow.current()
        assert_type(here, pmflow.Current)
        assert_type((here.id, here.index, here.attempt), tuple[str, "int | None", int])
        assert_type((here.deadline, here.remaining()), tuple["float | None", "float | None"])
        here.check_cancelled()
        here.progress(0.5)
        here.progress(1, "all of it")
        return here.attempt

    def hears(event: pmflow.Event) -> None:
        assert_type((event.progress, event.message), tuple["float | None", "str | None"])

    assert_type(pmflow.run(process(knows), hooks=[hears]).value, int)


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
