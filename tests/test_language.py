"""What a graph can say of one process: outputs, conditions, fallbacks, candidates, and maps over every combination."""

# pyright: reportUnknownLambdaType=false
# ruff: noqa: PLW0108 - the parameters of a lambda have names, which is what they are here for

import asyncio
import os
import pickle
import threading
from itertools import product
from typing import Any

import numpy as np
import pytest

import pmflow
from pmflow import Graph, ProcessResult, ProcessState, cross, process
from pmflow.errors import (
    ConfigurationError,
    DuplicateProcessError,
    MissingDependencyError,
    ProcessTimeoutError,
    ValidationError,
    WorkerCrashedError,
)

TYPES = ("async", "thread", "process")
every_type = pytest.mark.parametrize("kind", TYPES)
COMPLETED, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED


def fails() -> Any:
    """Fail."""
    raise OSError("no route")


def states(run: Any) -> dict[str, ProcessState]:
    """How each process ended."""
    return {name: result.state for name, result in run.items()}


# Fallbacks


@every_type
@pytest.mark.parametrize("fallback", ["a value", lambda error: f"{type(error).__name__}: {error}", None, [1]])
def test_a_fallback_stands_in_after_the_last_attempt(kind: Any, fallback: Any) -> None:
    """The process is COMPLETED, its result says so and why; what depends on it gets the value, chained or not."""
    rates = process(fails, id="rates", type=kind, retries=1, fallback=fallback)
    after = process(lambda rates: (rates, "seen"), id="after", type=kind)
    run = pmflow.run([after, rates])
    value = fallback(OSError("no route")) if callable(fallback) else fallback
    result = run["rates"]
    assert run["after"].data == (value, "seen")
    assert (result.success, result.state, result.data) == (True, COMPLETED, value)
    assert (result.fallback, result.attempts, str(result.exception)) == (True, 2, "no route")
    assert (run["after"].fallback, run["after"].exception) == (False, None)
    assert result.to_dict()["fallback"] is True
    assert run.success
    copy = pickle.loads(pickle.dumps(run))  # noqa: S301 - its own bytes
    assert (copy["rates"].fallback, copy["rates"].data, str(copy["rates"].exception)) == (True, value, "no route")


def test_a_fallback_for_a_timeout_and_for_a_crash() -> None:
    """Whatever ended the last attempt; the function receives that exception."""
    late = process(
        lambda: threading.Event().wait(30), id="late", type="process", timeout=0.05, fallback=lambda error: type(error)
    )
    dead = process(lambda: os._exit(3), id="dead", type="process", fallback=lambda error: type(error))
    assert pmflow.run([late, dead]).data == {"late": ProcessTimeoutError, "dead": WorkerCrashedError}


def test_a_fallback_that_fails_is_the_failure() -> None:
    """With what it was to stand in for as its context."""
    run = pmflow.run(process(fails, id="it", fallback=lambda _: 1 / 0), on_error="return")
    error = run["it"].exception
    assert (type(error), str(error.__context__), run["it"].fallback) == (ZeroDivisionError, "no route", False)


def test_elements_fall_back_one_by_one() -> None:
    """Each for itself, in its place."""
    it = process(lambda n: n if n % 2 else fails(), id="it", map_over={"n": "ns"}, fallback=lambda _: -1)
    run = pmflow.run(it, inputs={"ns": range(4)})
    assert run.value == [-1, 1, -1, 3]
    assert [run[f"it_{index}"].fallback for index in range(4)] == [True, False, True, False]


def test_no_fallback_for_what_a_stop_ended() -> None:
    """A run that stops at its first failure keeps that failure."""
    run = pmflow.run(
        [process(fails, id="first"), process(lambda first: first, id="then", fallback=1)], on_error="return"
    )
    assert states(run) == {"first": FAILED, "then": SKIPPED}


@pytest.mark.parametrize("setting", ["fallback", "when"])
def test_what_would_have_to_be_awaited_is_refused(setting: str) -> None:
    """At decoration, with the name of the process."""

    async def later(_: Any = None) -> None:
        await asyncio.sleep(0)

    with pytest.raises(ConfigurationError, match=f"process 'it': {setting} must be a plain function, not a coroutine"):
        process(fails, id="it", **{setting: later})


# Conditions


@every_type
@pytest.mark.parametrize(("n", "expected"), [(1, None), (5, 50)])
def test_a_condition_is_asked_with_the_parameters(kind: Any, n: int, expected: int | None) -> None:
    """With values from elsewhere, from inputs and from defaults; where it says no there is no value, and no failure."""
    asked: list[tuple[int, int]] = []
    source = process(lambda n: n, id="source", type=kind)
    it = process(
        lambda source, factor=10: source * factor,
        id="it",
        type=kind,
        when=lambda source, factor: asked.append((source, factor)) or source > 2,
    )
    run = pmflow.run([it, source, process(lambda it=None: it, id="after")], inputs={"n": n})
    assert (run.success, run["after"].data, asked) == (True, expected, [(n, 10)])
    assert run["it"].state is (COMPLETED if expected else SKIPPED)
    assert run["it"].reason == (None if expected else "its condition (<lambda>) says no")


def test_what_needs_a_value_that_a_condition_withheld_is_skipped() -> None:
    """For that reason, and the run has not failed."""
    run = pmflow.run([process(lambda: 1, id="it", when=lambda: False), process(lambda it: it, id="after")])
    assert (run.success, states(run)) == (True, {"it": SKIPPED, "after": SKIPPED})
    assert run["after"].reason == "its condition (<lambda>) says no"


def test_a_condition_that_raises_is_the_failure_of_its_process() -> None:
    """A fallback is for attempts, and there was none."""
    run = pmflow.run(process(lambda n: n, id="it", when=lambda n: 1 / n), inputs={"n": 0}, on_error="return")
    assert (run["it"].state, run["it"].error_type) == (FAILED, "ZeroDivisionError")


@every_type
def test_elements_are_asked_one_by_one(kind: Any) -> None:
    """Each with its own values; those that do not run leave a gap in the list, and keep their places."""
    big = process(lambda n: n * 10, id="big", type=kind, map_over={"n": "ns"}, when=lambda n: n % 2)
    run = pmflow.run([big, process(lambda big: sum(big), id="total")], inputs={"ns": range(6)})
    assert (run["big"].data, run["total"].data) == ([10, 30, 50], 90)
    assert [run[f"big_{index}"].state for index in range(4)] == [SKIPPED, COMPLETED, SKIPPED, COMPLETED]


def test_a_condition_names_parameters() -> None:
    """Of its function; another name is refused with the nearest."""
    with pytest.raises(ConfigurationError, match="no parameter 'pages', which its when names; did you mean 'page'"):
        process(lambda page: page, id="it", when=lambda pages: pages)
    every = process(lambda a, b=2: (a, b), id="it", when=lambda **all_of_them: all_of_them == {"a": 1})
    assert pmflow.run(every, inputs={"a": 1}).value == (1, 2)


# Candidates

ENDS: dict[str, dict[str, Any]] = {
    "value": {"function": lambda: "first"},
    "none": {"function": lambda: "first", "when": lambda: False},
    "optional": {"function": fails, "required": False},
    "failure": {"function": fails},
    "fallback": {"function": fails, "fallback": "first"},
}


def ended(name: str, end: str) -> Any:
    """Return a process that ends so."""
    settings = dict(ENDS[end])
    return process(settings.pop("function"), id=name, **settings)


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_the_first_candidate_that_has_a_value_is_taken(first: str, second: str) -> None:
    """One that has none, or has failed, hands over to the next; the last one counts as if it were alone."""
    chosen = process(lambda x: x, id="chosen", dependencies={"x": ("one", "two")})
    alone = process(lambda x: x, id="chosen", dependencies={"x": "two"})
    run = pmflow.run([chosen, ended("one", first), ended("two", second)], on_error="return", fail_fast=False)
    if first in ("value", "fallback"):
        assert run["chosen"].data == "first"
    else:
        expected = pmflow.run([alone, ended("two", second)], on_error="return", fail_fast=False)["chosen"]
        assert (run["chosen"].state, run["chosen"].reason) == (expected.state, expected.reason)
    # A failure that has another candidate is handled; the last one has none.
    assert run.success is (second != "failure")


def test_candidates_of_a_result() -> None:
    """The first that has a value, as a result; the last, whatever it is."""

    def look(x: ProcessResult) -> Any:
        return x.process_id, x.success

    for end, expected in (("value", ("one", True)), ("failure", ("two", False))):
        chosen = process(look, dependencies={"x": ("one", "two")})
        run = pmflow.run([chosen, ended("one", end), ended("two", "failure")], on_error="return", fail_fast=False)
        assert (run["look"].data, run.success) == (expected, True)


def test_an_input_among_the_candidates() -> None:
    """It has a value: what stands behind it does not even run, what stands before it goes first."""
    tuned, other = process(lambda: "tuned", id="tuned"), process(lambda: "other", id="other")
    first = process(lambda model: model, id="it", dependencies={"model": ("given", "tuned")})
    run = pmflow.run(Graph([first, tuned]), inputs={"given": "input"}, targets="it")
    assert (run.value, list(run)) == ("input", ["it"])
    last = process(lambda model: model, id="it", dependencies={"model": ("tuned", "given")})
    assert pmflow.run(Graph([last, tuned, other]), inputs={"given": "input"}, targets="it").value == "tuned"


def test_candidates_that_are_not_there() -> None:
    """Each has to be a process or an input; a typing error is none that is left out."""
    it = process(lambda x: x, id="it", dependencies={"x": ("tunned", "tuned")})
    with pytest.raises(MissingDependencyError, match="'tunned' for its parameter 'x'.*did you mean 'tuned'"):
        pmflow.run([it, process(lambda: 1, id="tuned")])
    with pytest.raises(ConfigurationError, match="takes a list of results"):

        @process(dependencies={"x": ("a", "b")})
        def several(x: list[ProcessResult]) -> None: ...


# Outputs


@every_type
def test_outputs_are_processes_to_all_others(kind: Any) -> None:
    """Each a parameter, a key, a target."""

    @process(type=kind, outputs=("train", "test"))
    def split(data: list[int]) -> Any:
        return data[:2], data[2:]

    fit = process(lambda train: sum(train), id="fit", type=kind)
    score = process(lambda fit, test: fit * len(test), id="score", type=kind)
    run = pmflow.run([score, fit, split], inputs={"data": [1, 2, 3, 4, 5]})
    assert (run["score"].data, run["train"].data, run["test"].data) == (9, [1, 2], [3, 4, 5])
    assert pmflow.run(Graph([split]), inputs={"data": [1, 2, 3]}, targets=["test"]).value == [3]
    assert list(pmflow.run(split, inputs={"data": []}).data) == ["split"]


def test_outputs_are_found_where_run_is_called() -> None:
    """By their names, as processes are."""

    @process(outputs=["low", "high"])
    def bounds() -> Any:
        return 1, 9

    @process
    def middle(low: int, high: int) -> float:
        return (low + high) / 2

    assert pmflow.run(middle).value == 5
    assert isinstance(bounds, pmflow.FunctionProcess)


def test_an_output_can_be_overridden() -> None:
    """Alone, and then its producer is only run if another one is needed; or all of them with the producer."""
    ran: list[int] = []
    pair = process(lambda: ran.append(1) or (1, 2), id="pair", outputs=("a", "b"))
    graph = Graph([pair, process(lambda a: a * 10, id="ten")])
    assert pmflow.run(graph, targets="ten", overrides={"a": 7}).value == 70
    assert ran == []
    assert pmflow.run(graph, targets="ten", overrides={"pair": (3, 4)}).value == 30
    assert pmflow.run(graph, targets="ten", overrides={"pair": process(lambda: (5, 6), id="pair")}).value == 50


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1, 2, 3), "it has 2 outputs (a, b), and returned 3"),
        ((), "it has 2 outputs (a, b), and returned 0"),
        (5, "it has the outputs a, b, and returned a int, not a tuple of them"),
    ],
)
@every_type
def test_another_number_of_elements_is_a_failure(kind: Any, value: Any, said: str) -> None:
    """Of the process, naming both counts; its outputs are skipped."""
    run = pmflow.run(process(lambda: value, id="pair", outputs=("a", "b"), type=kind), on_error="return")
    assert states(run) == {"pair": FAILED, "a": SKIPPED, "b": SKIPPED}
    assert type(run["pair"].exception) is ValidationError
    assert said in str(run["pair"].error)


@every_type
def test_outputs_of_a_map_are_maps(kind: Any) -> None:
    """Element by element; arrays too."""
    pair = process(lambda n: (n, np.full(3, n)), id="pair", type=kind, map_over={"n": "ns"}, outputs=("a", "b"))
    total = process(lambda b: int(b.sum()), id="total", map_over="b", type=kind)
    run = pmflow.run([total, pair], inputs={"ns": range(3)})
    assert (run["a"].data, run["total"].data, run["a_2"].data) == ([0, 1, 2], [0, 3, 6], 2)


def test_a_failure_that_is_handled_behind_an_output() -> None:
    """What takes the result of an output takes the failure of its process."""

    def look(a: ProcessResult) -> Any:
        return a.success, a.reason

    pair = process(fails, id="pair", outputs=("a", "b"))
    run = pmflow.run([process(look), pair], on_error="return", fail_fast=False)
    assert run["look"].data == (False, "'pair' failed (OSError: no route)")
    assert not run.success  # nobody takes the other one
    run = pmflow.run([process(look), process(fails, id="pair", outputs="a")], on_error="return", fail_fast=False)
    assert run.success


def test_outputs_that_cannot_be() -> None:
    """Two of one name, one of the name of another process, and what is no name."""
    with pytest.raises(ConfigurationError, match="outputs must have different names"):
        process(fails, outputs=("a", "a"))
    with pytest.raises(ConfigurationError, match="outputs must be names, and not 3"):
        process(fails, outputs=(3,))  # type: ignore[arg-type]
    with pytest.raises(DuplicateProcessError, match="two processes have the id 'a'"):
        Graph([process(fails, id="pair", outputs=("a", "b")), process(lambda: 1, id="a")])


# Maps over every combination


@every_type
def test_a_map_over_every_combination(kind: Any) -> None:
    """In the order of itertools.product; sources may be inputs, results, and maps."""
    doubled = process(lambda n: 2 * n, id="doubled", map_over={"n": "ns"}, type=kind)
    named = process(lambda: ["a", "b"], id="named", type=kind)
    it = process(lambda x, y, z, k=1: (x, y, z, k), id="it", type=kind, map_over=cross(x="doubled", y="named", z="zs"))
    count = process(lambda it: len(it), id="count")
    run = pmflow.run([it, count, doubled, named], inputs={"ns": range(2), "zs": (True, False)})
    assert run["it"].data == [(*each, 1) for each in product([0, 2], ["a", "b"], (True, False))]
    assert (run["count"].data, run["it_3"].data) == (8, (0, "b", False, 1))


def test_a_combination_with_nothing_is_nothing() -> None:
    """An empty source has no combinations; one that failed has none either."""
    it = process(lambda x, y: (x, y), id="it", map_over=cross(x="xs", y="ys"))
    assert pmflow.run(it, inputs={"xs": [1], "ys": []}).value == []
    run = pmflow.run([it, process(fails, id="xs")], inputs={"ys": [1]}, on_error="return")
    assert run["it"].state is SKIPPED


def test_several_reduces_from_one_map_over_combinations() -> None:
    """Each takes the list; a map over the map goes element by element."""
    it = process(lambda x, y: x * y, id="it", map_over=cross(x="xs", y="ys"))
    more = process(lambda it: it + 1, id="more", map_over="it")
    most, total = process(lambda it: max(it), id="most"), process(lambda more: sum(more), id="total")
    run = pmflow.run([it, more, most, total], inputs={"xs": [1, 2], "ys": [3, 4]})
    assert (run["most"].data, run["total"].data) == (8, 3 + 4 + 6 + 8 + 4)


def test_crosses_are_values() -> None:
    """Equal if they say the same, readable, and not empty."""
    assert cross(x="xs", y=process(fails, id="ys")) == cross(x="xs", y="ys") != cross(y="ys", x="zs")
    assert repr(cross(x="xs", y="ys")) == "cross(x='xs', y='ys')"
    assert len({cross(x="xs"), cross(x="xs")}) == 1
    with pytest.raises(ConfigurationError, match="takes parameters and their sources"):
        cross()
    with pytest.raises(ConfigurationError, match="no parameter 'z', which its map_over names"):
        process(lambda x: x, map_over=cross(x="xs", z="zs"))
