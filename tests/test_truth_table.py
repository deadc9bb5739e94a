"""The truth table: what the end of an upstream process means for each kind of dependant.

| the upstream ended with | `x` | `x=default` | `x: ProcessResult` | `after` |
|---|---|---|---|---|
| a value | value | value | result | runs |
| no value | SKIPPED (no value) | default | result | runs |
| a failure | SKIPPED (failed) | SKIPPED (failed) | result | SKIPPED (failed) |

Of several parameters the worst row wins. `test_maps.py` holds the same element by element.
"""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import operator
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import pmflow
from pmflow import BaseProcess, ProcessConfig, ProcessResult, ProcessState, Run, process

GENEROUS = 20.0
DONE, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED


def fail() -> Any:
    """Fail."""
    raise ValueError("no such page")


class Class(BaseProcess):
    """A class process that calls what it is given."""

    def __init__(self, process_id: str, function: Callable[[Any], Any], **settings: Any) -> None:
        super().__init__(ProcessConfig(process_id=process_id, **settings))
        self.function = function

    def process(self, input_data: Any) -> Any:
        """Return what the function returns."""
        return self.function(input_data)


# The upstream `x`, in every way to end with a value, with none, or with a failure.

VALUE: dict[str, Callable[[], list[Any]]] = {
    "completed": lambda: [process(lambda: 5, id="x")],
    "inline": lambda: [process(lambda: 5, id="x", type="async")],
    "class": lambda: [Class("x", lambda _: 5)],
}
NO_VALUE: dict[str, Callable[[], list[Any]]] = {
    "not required": lambda: [process(fail, id="x", required=False)],
    "inline": lambda: [process(fail, id="x", type="async", required=False)],
    "class": lambda: [Class("x", lambda _: fail(), required=False)],
    "timed out": lambda: [process(anyio.sleep_forever, id="x", timeout=0.01, required=False)],
    "skipped": lambda: [process(fail, id="w", required=False), process(lambda w: w, id="x")],
    "skipped twice": lambda: [
        process(fail, id="v", required=False),
        process(lambda v: v, id="w"),
        process(lambda w: w, id="x"),
    ],
    "skipped inline": lambda: [process(fail, id="w", required=False), process(lambda w: w, id="x", type="async")],
}
FAILURE: dict[str, Callable[[], list[Any]]] = {
    "failed": lambda: [process(fail, id="x")],
    "inline": lambda: [process(fail, id="x", type="async")],
    "class": lambda: [Class("x", lambda _: fail())],
    "timed out": lambda: [process(anyio.sleep_forever, id="x", timeout=0.01)],
    "skipped": lambda: [process(fail, id="w"), process(lambda w: w, id="x")],
    "skipped with a default": lambda: [process(fail, id="w"), process(lambda w=1: w, id="x")],
    "skipped though not required": lambda: [process(fail, id="w"), process(lambda w: w, id="x", required=False)],
    "class skipped": lambda: [process(fail, id="w"), Class("x", lambda _: 5, dependencies=["w"])],
    "after a failure": lambda: [process(fail, id="w"), process(lambda: 5, id="x", after="w")],
}

every_value = pytest.mark.parametrize("upstream", VALUE.values(), ids=VALUE.keys())
every_no_value = pytest.mark.parametrize("upstream", NO_VALUE.values(), ids=NO_VALUE.keys())
every_failure = pytest.mark.parametrize("upstream", FAILURE.values(), ids=FAILURE.keys())
every_type = pytest.mark.parametrize("kind", ["async", "thread", "coroutine"])


def plain(x: Any) -> Any:
    """Want a value."""
    return x


def default(x: Any = "default") -> Any:
    """Want a value, or keep the default."""
    return x


def outcome(x: ProcessResult[Any]) -> Any:
    """Want the outcome itself."""
    return x.success, x.state


def follows() -> Any:
    """Want a good end."""
    return "ran"


def of_type(function: Callable[..., Any], kind: str) -> Any:
    """Return the dependant `y`, of a strategy."""
    settings: dict[str, Any] = {"after": "x"} if function is follows else {}
    if kind != "coroutine":
        return process(function, id="y", type=kind, **settings)
    return process(LATER[function], id="y", **settings)


async def plain_later(x: Any) -> Any:
    """Want a value."""
    await anyio.lowlevel.checkpoint()
    return plain(x)


async def default_later(x: Any = "default") -> Any:
    """Want a value, or keep the default."""
    await anyio.lowlevel.checkpoint()
    return default(x)


async def outcome_later(x: ProcessResult[Any]) -> Any:
    """Want the outcome itself."""
    await anyio.lowlevel.checkpoint()
    return outcome(x)


async def follows_later() -> Any:
    """Want a good end."""
    await anyio.lowlevel.checkpoint()
    return follows()


LATER: dict[Callable[..., Any], Callable[..., Any]] = {
    plain: plain_later,
    default: default_later,
    outcome: outcome_later,
    follows: follows_later,
}


def end(run: Run[Any], name: str = "y") -> tuple[ProcessState, Any]:
    """Return how a process ended."""
    return run[name].state, run[name].data


def ended(upstream: Callable[[], list[Any]], dependant: Callable[..., Any], kind: str) -> Run[Any]:
    """Run the upstream and one dependant."""
    return pmflow.run([*upstream(), of_type(dependant, kind)], on_error="return")


# The first row: a value


@every_value
@every_type
@pytest.mark.parametrize(
    ("dependant", "data"),
    [(plain, 5), (default, 5), (outcome, (True, DONE)), (follows, "ran")],
    ids=["x", "x=default", "x: ProcessResult", "after"],
)
def test_a_value(upstream: Callable[[], list[Any]], dependant: Callable[..., Any], data: Any, kind: str) -> None:
    """A value is passed; a result as the result; `after` runs."""
    run = ended(upstream, dependant, kind)
    assert (end(run), run.success, run["y"].reason) == ((DONE, data), True, None)


@every_type
@pytest.mark.parametrize(
    ("dependant", "data"),
    [(plain, 7), (default, 7), (outcome, (True, DONE)), (follows, "ran")],
    ids=["x", "x=default", "x: ProcessResult", "after"],
)
def test_an_override(dependant: Callable[..., Any], data: Any, kind: str) -> None:
    """A process that is overridden by a value has one, though it would have failed."""
    run = pmflow.run([process(fail, id="x"), of_type(dependant, kind)], overrides={"x": 7}, targets="y")
    assert (end(run), run.success) == ((DONE, data), True)


@pytest.mark.parametrize("value", [None, False, 0, [], ""], ids=repr)
def test_a_value_that_is_false(value: Any) -> None:
    """A value that is empty, or None, is a value."""
    run = pmflow.run([process(lambda: value, id="x"), process(default, id="y")])
    assert end(run) == (DONE, value)


# The second row: no value


@every_no_value
@every_type
def test_no_value_for_a_plain_parameter(upstream: Callable[[], list[Any]], kind: str) -> None:
    """What needs a value that there is none of is SKIPPED; the run does not fail for it."""
    run = ended(upstream, plain, kind)
    assert (end(run), run.success) == ((SKIPPED, None), True)
    assert run["y"].reason
    assert "y" in run.skipped


@every_no_value
@every_type
@pytest.mark.parametrize(("dependant", "data"), [(default, "default"), (follows, "ran")], ids=["x=default", "after"])
def test_no_value(upstream: Callable[[], list[Any]], dependant: Callable[..., Any], data: Any, kind: str) -> None:
    """Without a value a parameter keeps its default, and `after` runs."""
    run = ended(upstream, dependant, kind)
    assert (end(run), run.success) == ((DONE, data), True)


@every_no_value
@every_type
def test_no_value_as_a_result(upstream: Callable[[], list[Any]], kind: str) -> None:
    """A parameter annotated `ProcessResult` receives the outcome, whatever it is."""
    run = ended(upstream, outcome, kind)
    assert (end(run), run.success) == ((DONE, (False, run["x"].state)), True)
    assert run["x"].state in (FAILED, SKIPPED)


# The third row: a failure


@every_failure
@every_type
@pytest.mark.parametrize("dependant", [plain, default, follows], ids=["x", "x=default", "after"])
def test_a_failure(upstream: Callable[[], list[Any]], dependant: Callable[..., Any], kind: str) -> None:
    """What needs what has failed is SKIPPED, with a default too, and says whose failure it was."""
    run = ended(upstream, dependant, kind)
    assert (end(run), run.success) == ((SKIPPED, None), False)
    assert any(f"'{name}' failed" in (run["y"].reason or "") for name in run.failures)


@every_failure
@every_type
def test_a_failure_as_a_result(upstream: Callable[[], list[Any]], kind: str) -> None:
    """A parameter annotated `ProcessResult` receives a failure too."""
    run = ended(upstream, outcome, kind)
    assert end(run) == (DONE, (False, run["x"].state))
    assert run["x"].state in (FAILED, SKIPPED)


def test_the_outcome_itself() -> None:
    """The result that a process receives is the one that the run holds: error, exception, attempts, reason."""
    held: list[ProcessResult[Any]] = []

    @process
    def y(x: ProcessResult[Any], w: ProcessResult[Any]) -> None:
        held.extend([x, w])

    run = pmflow.run([process(fail, id="w"), process(plain, id="x", dependencies={"x": "w"}), y], on_error="return")
    facts = operator.attrgetter(
        "success",
        "state",
        "error",
        "error_type",
        "exception",
        "attempts",
        "reason",
        "process_id",
        "start_time",
        "end_time",
    )
    assert [facts(each) for each in held] == [facts(run["x"]), facts(run["w"])]
    assert held[1].error == "no such page"


# Several parameters: the worst row wins

SOURCES: dict[str, Callable[[str], Any]] = {
    "value": lambda name: process(lambda: 5, id=name),
    "none": lambda name: process(fail, id=name, required=False),
    "failure": lambda name: process(fail, id=name),
}


def several() -> list[Any]:
    """Every pair of ends, and the worst of them."""
    rows = list(SOURCES)
    return [
        pytest.param(left, right, rows[max(rows.index(left), rows.index(right))], id=f"{left}-{right}")
        for left in rows
        for right in rows
    ]


@pytest.mark.parametrize(("left", "right", "worst"), several())
@every_type
def test_the_worst_row_wins(left: str, right: str, worst: str, kind: str) -> None:
    """Of several parameters the worst row wins, whichever comes first or ends first."""
    if kind == "coroutine":

        async def y(a: Any, b: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            return a + b

        dependant: Any = process(y)
    else:
        dependant = process(operator.add, id="y", type=kind, dependencies={"a": "a", "b": "b"})
    after = process(lambda y: y, id="z", type="async")
    run = pmflow.run([SOURCES[left]("a"), SOURCES[right]("b"), dependant, after], on_error="return")
    assert end(run) == {"value": (DONE, 10), "none": (SKIPPED, None), "failure": (SKIPPED, None)}[worst]
    assert run.success is (worst != "failure")
    assert end(run, "z")[0] is (DONE if worst == "value" else SKIPPED)
    if worst == "failure":
        culprit = "a" if left == "failure" else "b"
        assert f"'{culprit}' failed" in (run["y"].reason or "")


@pytest.mark.parametrize("first", ["failure", "no value"])
@pytest.mark.anyio
async def test_the_worst_row_wins_in_any_order(first: str) -> None:
    """A dependant of both no value and a failure is skipped as failed, whichever ends first."""
    ended = {"failure": anyio.Event(), "no value": anyio.Event()}

    async def source(name: str) -> None:
        if name != first:
            await ended[first].wait()
            await anyio.lowlevel.checkpoint()
        ended[name].set()
        raise ValueError(name)

    async def failure() -> None:
        await source("failure")

    async def nothing() -> None:
        await source("no value")

    y = process(lambda a, b: None, id="y")
    z = process(lambda y="default": y, id="z")
    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(
            [process(failure, id="a"), process(nothing, id="b", required=False), y, z], on_error="return"
        )
    assert {name: run[name].state for name in "abyz"} == {"a": FAILED, "b": FAILED, "y": SKIPPED, "z": SKIPPED}
    assert "'a' failed" in (run["y"].reason or "")


def test_a_default_does_not_help_the_other_parameter() -> None:
    """A default stands in for its own parameter only."""
    y = process(lambda a=1, b=2, *, c: (a, b, c), id="y")
    run = pmflow.run([SOURCES["none"]("a"), SOURCES["value"]("b"), SOURCES["value"]("c"), y], targets="y")
    assert run.value == (1, 5, 5)
    run = pmflow.run([SOURCES["value"]("a"), SOURCES["value"]("b"), SOURCES["none"]("c"), y], targets="y")
    assert end(run) == (SKIPPED, None)


def test_a_result_does_not_shield_the_other_parameter() -> None:
    """A `ProcessResult` parameter takes a failure; a plain one beside it is skipped for another failure."""

    @process
    def y(a: ProcessResult[Any], b: Any) -> Any:
        return a.success, b

    run = pmflow.run([SOURCES["failure"]("a"), SOURCES["value"]("b"), y])
    assert (end(run), run.success) == ((DONE, (False, 5)), True)
    run = pmflow.run([SOURCES["failure"]("a"), SOURCES["failure"]("b"), y], on_error="return")
    assert (end(run), run.success) == ((SKIPPED, None), False)


def test_a_parameter_and_after() -> None:
    """`after` counts like a parameter: a failure there skips what has all of its values."""
    y = process(lambda a: a, id="y", after=["b"])
    for source, expected in (("value", (DONE, 5)), ("none", (DONE, 5)), ("failure", (SKIPPED, None))):
        run = pmflow.run([SOURCES["value"]("a"), SOURCES[source]("b"), y], on_error="return")
        assert end(run) == expected


# Handled failures


def test_a_failure_that_every_dependant_takes_is_handled() -> None:
    """A failure that all dependants take as `ProcessResult` counts as `required=False`: the run succeeds."""

    @process
    def left(x: ProcessResult[Any]) -> str | None:
        return x.error

    @process
    def right(x: "ProcessResult") -> str | None:
        return x.error_type

    run = pmflow.run([left, right, process(fail, id="x")])
    assert run.success
    assert (run["x"].state, run["left"].data, run["right"].data) == (FAILED, "no such page", "ValueError")
    assert list(run.failures) == ["x"]


def test_a_handled_failure_does_not_stop_the_run() -> None:
    """A handled failure is none to `fail_fast` either."""
    run = pmflow.run([process(fail, id="x"), process(outcome, id="y"), process(lambda: 1, id="other")], fail_fast=True)
    assert {name: run[name].state for name in run} == {"x": FAILED, "y": DONE, "other": DONE}


@pytest.mark.parametrize("dependant", [plain, default, follows], ids=["x", "x=default", "after"])
def test_a_failure_that_one_dependant_does_not_take(dependant: Callable[..., Any]) -> None:
    """A failure that one dependant does not take is a failure of the run; the one that takes it runs all the same."""
    run = pmflow.run(
        [process(fail, id="x"), process(outcome, id="handler"), of_type(dependant, "thread")], on_error="return"
    )
    assert {name: run[name].state for name in run} == {"x": FAILED, "handler": DONE, "y": SKIPPED}
    assert not run.success


def test_a_class_process_does_not_handle() -> None:
    """A class process that depends on it does not handle a failure, though it receives results."""
    run = pmflow.run(
        [process(fail, id="x"), process(outcome, id="handler"), Class("y", len, dependencies=["x"])], on_error="return"
    )
    assert ({name: run[name].state for name in run}, run.success) == (
        {"x": FAILED, "handler": DONE, "y": SKIPPED},
        False,
    )


def test_a_failure_that_nothing_depends_on() -> None:
    """A failure of a target that nobody takes fails the run."""
    with pytest.raises(pmflow.WorkflowError, match="no such page"):
        pmflow.run(process(fail, id="x"))


def test_who_handles_is_who_runs() -> None:
    """A dependant that is no ancestor of the targets handles nothing."""
    with pytest.raises(pmflow.WorkflowError, match="no such page"):
        pmflow.run([process(fail, id="x"), process(outcome, id="y")], targets="x")


def test_what_is_skipped_for_a_handled_failure() -> None:
    """A handled failure skips nobody below the one who took it."""
    run = pmflow.run([process(fail, id="x"), process(outcome, id="y"), process(lambda y: y, id="z")], targets="z")
    assert run.value == (False, FAILED)


def test_a_result_of_something_skipped_hides_no_failure() -> None:
    """Who takes the outcome of a process that was SKIPPED for a failure has not handled that failure."""
    run = pmflow.run([process(fail, id="w"), process(lambda w: w, id="x"), process(outcome, id="y")], on_error="return")
    assert {name: run[name].state for name in run} == {"w": FAILED, "x": SKIPPED, "y": DONE}
    assert not run.success


# Class processes


def names(input_data: dict[str, ProcessResult[Any]]) -> Any:
    """Return what a class process receives."""
    return {name: result.data for name, result in input_data.items()}


def test_a_class_process_receives_results() -> None:
    """A class process receives the results of all its dependencies."""
    run = pmflow.run([SOURCES["value"]("a"), SOURCES["value"]("b"), Class("y", names, dependencies=["a", "b"])])
    assert end(run) == (DONE, {"a": 5, "b": 5})


def test_a_class_process_without_a_value() -> None:
    """It is not skipped for want of a value: it receives the failed result of one that is not required."""
    seen = Class("y", lambda data: {name: each.state for name, each in data.items()}, dependencies=["a", "b"])
    run = pmflow.run([SOURCES["none"]("a"), SOURCES["value"]("b"), seen])
    assert end(run) == (DONE, {"a": FAILED, "b": DONE})


def test_a_class_process_whose_dependency_was_skipped_without_failure() -> None:
    """What was SKIPPED for want of a value is not among what it receives; what failed is."""
    run = pmflow.run([SOURCES["none"]("a"), process(lambda a: a, id="b"), Class("y", names, dependencies=["a", "b"])])
    assert end(run) == (DONE, {"a": None})


def test_a_class_process_below_a_failure() -> None:
    """It is SKIPPED by a failure of a required one."""
    run = pmflow.run(
        [SOURCES["failure"]("a"), SOURCES["value"]("b"), Class("y", names, dependencies=["a", "b"])], on_error="return"
    )
    assert (end(run), run.success) == ((SKIPPED, None), False)
    assert "'a' failed (ValueError: no such page)" in (run["y"].reason or "")


# `required` of the one that is skipped


@pytest.mark.parametrize("required", [True, False])
def test_a_skipped_process_fails_no_run(*, required: bool) -> None:
    """A run fails if and only if a required process FAILED: one that was SKIPPED for want of a value is no failure."""
    run = pmflow.run([SOURCES["none"]("x"), process(plain, id="y", required=required)])
    assert (run.success, run["y"].state) == (True, SKIPPED)


def test_required_false_stops_nothing() -> None:
    """A failure that is not required is no failure to `fail_fast`, nor to the run."""
    run = pmflow.run([SOURCES["none"]("x"), process(lambda: 1, id="other")], fail_fast=True)
    assert {name: run[name].state for name in run} == {"x": FAILED, "other": DONE}
    assert (run.success, list(run.failures)) == (True, ["x"])


# Along chains


@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("required", [True, False])
def test_a_failure_in_the_middle_of_a_chain(kind: str, *, required: bool) -> None:
    """A chain goes by the same table: links below the one that failed are SKIPPED, or keep their defaults."""
    settings: dict[str, Any] = {"type": kind}
    one = process(lambda: 1, id="one", **settings)
    two = process(lambda one: one // 0, id="two", required=required, **settings)
    three = process(lambda two="default": two, id="three", **settings)
    four = process(lambda three: three * 2, id="four", **settings)
    run = pmflow.run([one, two, three, four], on_error="return")
    expected: dict[str, tuple[ProcessState, Any]] = {"one": (DONE, 1), "two": (FAILED, None)}
    if required:
        expected |= {"three": (SKIPPED, None), "four": (SKIPPED, None)}
    else:
        expected |= {"three": (DONE, "default"), "four": (DONE, "defaultdefault")}
    assert ({name: end(run, name) for name in run}, run.success) == (expected, not required)


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_after_in_a_chain(kind: str) -> None:
    """A link that comes after another without its value runs after no value, and not after a failure."""
    for required in (True, False):
        one = process(fail, id="one", type=kind, required=required)
        two = process(lambda: "ran", id="two", type=kind, after="one")
        run = pmflow.run([one, two], on_error="return")
        assert end(run, "two") == ((SKIPPED, None) if required else (DONE, "ran"))
