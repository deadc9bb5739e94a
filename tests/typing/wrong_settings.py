"""Wrong: each line marked `error` is refused, by both checkers or by the one it names; no other line is."""

import pmflow
from pmflow import BaseProcess, ProcessConfig, RetryStrategy, Workflow, command, process


def half(number: int) -> float:
    """Not decorated."""
    return number / 2


@process(retires=3)  # error
def misspelt() -> None:
    """A setting that does not exist."""


@process(timeout="5")  # error
def mistyped() -> None:
    """A setting of another type."""


@process(map_over=3, timeout=5)  # error
def mismapped(number: int) -> int:
    """A map over a number."""
    return number


@process(dependencies=["number"])  # error
def misnamed(number: int) -> int:
    """Names where a mapping is wanted."""
    return number


def settings() -> None:
    """The settings of the other spellings are checked as well."""
    process(half, retires=3)  # error
    process(half, retries="3")  # error
    process(half, required="no")  # error
    process(half, type=3)  # error
    process(half, id=3)  # error
    process(half, cpus="2")  # error
    process.defaults(timout=3)  # error
    good = process(half, retries=3)
    good.options(timout=1)  # error
    good.options(timeout="1")  # error
    good.id = "other"  # error


def commands() -> None:
    """Those of a command too, and its arguments."""
    command(["echo", 3])  # error
    command(b"echo")  # error
    command(["echo"], check=True)  # error
    command(["echo"], ok_codes=1)  # error
    command(["echo"], env={"A": 1})  # error
    command(["echo"], stdin=3)  # error
    command(["echo"], retires=3)  # error
    command(["echo"], timeout="3")  # error
    command(["echo"], returns="a", text=False)  # error
    number: int = pmflow.run(command(["echo"])).value  # error
    text: str = pmflow.run(command(["echo"], text=False)).value  # error
    command(["echo"]).options(timout=number or text)  # error


def arguments() -> None:
    """So are the arguments of a run."""
    good = process(half)
    pmflow.run(good, input={"number": 1})  # error
    pmflow.run(good, inputs=["number"])  # error
    pmflow.run(good, on_error="ignore")  # error
    pmflow.run(good, keep="some")  # error
    pmflow.run(good, targets=3)  # error
    pmflow.run(good, timeout="5")  # error
    pmflow.run(good, max_threads="2")  # error
    pmflow.run(good, {"number": 1})  # error
    pmflow.arun(good, input={"number": 1})  # error
    pmflow.run(good, hooks=[1])  # error


def classes() -> None:
    """So are those of the class-based style."""
    config = ProcessConfig(process_id="a", timout=3)  # error
    ProcessConfig(timeout="5")  # error
    config.timeout = 3  # error
    RetryStrategy(max_retry=3)  # error
    RetryStrategy(3, 1.0, 2.0, 10.0)  # error
    Workflow(threads=2)  # error
    BaseProcess("a")  # error
    BaseProcess(config).register_to("flow")  # error
