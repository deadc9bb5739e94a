"""Wrong: each line marked `error` is refused, by both checkers or by the one it names; no other line is."""

import pmflow
from pmflow import Graph, ProcessResult, Run, process


@process
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


@process(timeout=5)
async def page(url: str, depth: int = 1) -> str:
    """A coroutine function."""
    return f"{url} {depth}"


@process(map_over="url")
def size(url: str) -> int:
    """A plain function, mapped."""
    return len(url)


def use(*_: object) -> None:
    """Read values that are there only to be wrong."""


def calls() -> None:
    """A call of a decorated function is checked as one of the function."""
    words(1)  # error
    words()  # error
    words("a", "b")  # error
    words(txt="a")  # error
    size(["a"])  # error
    words.options(timeout=1)(1)  # error
    number: int = words("a")  # error
    use(number)


async def awaited_calls() -> None:
    """So is one of a coroutine function, and what it returns has to be awaited."""
    await page(1)  # error
    await page("a", deep=2)  # error
    text: str = page("a")  # error
    use(text)


def values() -> None:
    """The value of a run is what the target's function returns."""
    text: str = pmflow.run(words).value  # error
    number: int = pmflow.run(page).value  # error
    single: int = pmflow.run(size).value  # error
    run: Run[str] = pmflow.run(words)  # error
    use(text, number, single, run)


def results() -> None:
    """The result of a process holds what its function returns; what came of a run cannot be set."""
    run = pmflow.run(page)
    text: str = run[words].data  # error
    single: ProcessResult[int] = run[size]  # error
    run.value = "a"  # error
    run["page"] = run[page]  # error
    run[1]  # error
    use(text, single, run.vlaue)  # error


async def awaited_values() -> None:
    """What is awaited is typed too, and must be awaited."""
    run = await pmflow.arun(page)
    number: int = run.value  # error
    use(number, pmflow.arun(page).value)  # error


def what_can_be_run() -> None:
    """What is no process, no graph and no workflow cannot be run."""
    pmflow.run(1)  # error
    pmflow.run([1])  # error
    pmflow.run(len)  # error
    Graph([len])  # error
    Graph(words)  # error
    process(1)  # error


def what_a_process_says_of_itself() -> None:
    """How far it is is a number, with a text; what it knows is read only."""
    here = pmflow.current()
    here.progress("half")  # error
    here.progress(0.5, 1)  # error
    here.attempt = 2  # error
    use(here.deadline + 1)  # error
    pmflow.current("page")  # error
