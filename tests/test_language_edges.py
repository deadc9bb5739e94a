"""Edges of what a graph can say: outputs, conditions, candidates, fallbacks, and outcomes as parameters."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import numpy as np
import pytest

import pmflow
from pmflow import BaseProcess, Graph, ProcessConfig, ProcessState, command, process
from pmflow.errors import ConfigurationError, CycleError
from pmflow.executors.pools import thread_pool

if TYPE_CHECKING:
    from decimal import Decimal

    from pmflow import ProcessResult

TYPES = ("async", "thread", "process")
every_type = pytest.mark.parametrize("kind", TYPES)


def fails(_: Any = None) -> Any:
    """Fail."""
    raise OSError("no route")


# Outcomes as parameters


def test_outcomes_are_known_by_what_is_written() -> None:
    """Where no name of the annotation is known when the program runs, as those imported for type checkers only."""

    def plain(x: ProcessResult) -> str:
        return type(x).__name__

    def of_one(x: ProcessResult[Decimal] | None) -> str:
        return plain(x)  # type: ignore[arg-type]

    def first_none(x: None | ProcessResult[Decimal]) -> str:  # noqa: RUF036 - the same
        return plain(x)  # type: ignore[arg-type]

    def optional(x: Optional[ProcessResult[Decimal]]) -> str:  # noqa: UP045 - as some write it
        return plain(x)  # type: ignore[arg-type]

    def union(x: Union[pmflow.ProcessResult[Decimal], Decimal, None] = None) -> str:  # noqa: UP007 - the same
        return plain(x)  # type: ignore[arg-type]

    def noted(x: Annotated[ProcessResult[Decimal | None], "note"]) -> str:
        return plain(x)

    def quoted(x: "ProcessResult[int | Decimal]") -> str:  # noqa: UP037 - the same
        return plain(x)

    def several(x: list[ProcessResult[Decimal]] | None) -> str:
        return plain(x)  # type: ignore[arg-type]

    def another(x: dict[str, ProcessResult[Decimal]]) -> str:
        return plain(x)  # type: ignore[arg-type]

    functions = (plain, of_one, first_none, optional, union, noted, quoted, several, another)
    found = pmflow.run(
        [process(fails, id="x"), *map(process, functions)], on_error="return", fail_fast=False, targets=None
    )
    kinds = {function.__name__: found[function.__name__].state for function in functions}
    assert kinds == dict.fromkeys(kinds, ProcessState.COMPLETED) | {"another": ProcessState.SKIPPED}
    assert (found["plain"].data, found["several"].data) == (found["of_one"].data, "list")


def test_outcomes_are_known_behind_a_note() -> None:
    """Also where all names are known."""

    def noted(x: Annotated[pmflow.ProcessResult[Any], "note"]) -> bool:
        return x.success

    def forward(x: Optional["pmflow.ProcessResult[Any]"]) -> bool:  # noqa: UP037, UP045 - as some write it
        return x is not None and x.success

    noted.__annotations__["x"] = Annotated[pmflow.ProcessResult[Any], "note"]
    forward.__annotations__["x"] = Optional["pmflow.ProcessResult[Any]"]
    for function in (noted, forward):
        run = pmflow.run([process(function), process(fails, id="x")], on_error="return")
        assert run[function.__name__].data is False


# Outputs


@every_type
def test_outputs_of_generators(kind: Any) -> None:
    """What it yields are its elements: of a plain one, an asynchronous one, and one that a coroutine returns."""

    def plain() -> Iterator[int]:
        yield from (1, 2)

    async def asynchronous() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def returned() -> Iterator[int]:
        return iter((1, 2))

    for function in (plain, asynchronous, returned):
        run = pmflow.run(process(function, id="pair", type=kind, outputs=("a", "b")))
        assert (run["pair"].data, run["a"].data, run["b"].data) == ([1, 2], 1, 2)


@every_type
def test_rules_see_what_the_process_gives(kind: Any) -> None:
    """The list, and no generator that they would exhaust."""

    async def asynchronous() -> AsyncIterator[int]:
        yield 1
        yield 2

    rule = [lambda value: value == [1, 2]]
    assert pmflow.run(process(asynchronous, type=kind, validation_rules=rule)).value == [1, 2]


def test_outputs_of_a_method() -> None:
    """The method of one object is one process, each time it is asked for."""

    class Data:
        @process(outputs=("a", "b"))
        def split(self) -> Any:
            return 1, 2

    data = Data()
    assert list(Graph([data.split, data.split])) == ["split", "a", "b"]
    with pytest.raises(pmflow.DuplicateProcessError):
        Graph([data.split, Data().split])


def test_outputs_that_have_no_place() -> None:
    """Refused where they are written: the name of the process itself, and those of a class-based process."""
    with pytest.raises(ConfigurationError, match="'split' has an output of its own name"):
        process(fails, id="split", outputs=("split", "b"))

    class Pair(BaseProcess[Any]):
        def process(self, input_data: Any) -> Any:
            return input_data

    with pytest.raises(ConfigurationError, match="'pair': outputs are elements of what a function returns"):
        Pair(ProcessConfig(process_id="pair", outputs=("a", "b")))


def test_an_output_that_its_own_process_asks_for() -> None:
    """The remedy names the output: the parameter is none that anybody has written."""
    pair = process(lambda data: (data, 1), id="pair", outputs=("data", "b"))
    with pytest.raises(CycleError, match="pair -> data -> pair; rename the output 'data' of 'pair'"):
        Graph([pair])


@pytest.mark.parametrize("setting", ["outputs", "validation_rules"])
@pytest.mark.parametrize("value", [3, None])
def test_what_is_no_list_of_names_or_rules(setting: str, value: Any) -> None:
    """Refused as a setting, and not with the words of Python."""
    with pytest.raises(ConfigurationError, match=f"{setting} must be .*{value}"):
        process(fails, **{setting: value})


# Conditions


def test_a_condition_may_bring_values_of_its_own() -> None:
    """As defaults, which is how a lambda keeps what a loop variable was."""
    several = [process(lambda n: n, id=f"p{k}", when=lambda n, k=k: n > k) for k in range(3)]
    assert pmflow.run(several, inputs={"n": 1}).data == {"p0": 1}


def test_a_condition_is_asked_by_names() -> None:
    """One that cannot be is refused at decoration."""

    def positive(n: int, /) -> bool:
        return n > 0

    with pytest.raises(ConfigurationError, match="'it': its condition takes 'n' by position only"):
        process(lambda n: n, id="it", when=positive)


def test_leaving_the_program_is_a_failure() -> None:
    """Of the process whose condition or fallback does it, and not the end of the run."""

    def leave(*_: Any) -> Any:
        sys.exit(3)

    several = [
        process(lambda: 1, id="asked", when=leave),
        process(lambda n: n, id="each", map_over={"n": "ns"}, when=leave),
        process(fails, id="stands_in", fallback=leave),
        process(lambda: 1, id="other"),
    ]
    run = pmflow.run(several, inputs={"ns": [1]}, on_error="return")
    assert run["other"].data == 1
    assert [run[name].error_message for name in ("asked", "each_0", "stands_in")] == [
        f"'{name}' raised SystemExit: 3" for name in ("asked", "each_0", "stands_in")
    ]


def test_an_array_stands_in() -> None:
    """Nobody asks whether it equals another one, also where a process is compared: the method of one object."""

    class Data:
        @process(fallback=np.arange(3))
        def load(self) -> Any:
            raise OSError

    data = Data()
    assert pmflow.run(Graph([data.load, data.load])).value.tolist() == [0, 1, 2]


# Candidates


@every_type
def test_a_map_with_a_failure_hands_over_to_the_next_candidate(kind: Any) -> None:
    """Whatever becomes of the run: it is handled, and the list is not taken with a hole; unless it may have holes."""
    chosen = process(lambda x: x, id="chosen", type=kind, dependencies={"x": ("each", "last")})
    each = process(lambda n: 6 // n, id="each", type=kind, map_over={"n": "ns"})
    for required, expected in ((True, "last"), (False, [6, 3])):
        several = [chosen, each.options(required=required), process(lambda: "last", id="last")]
        run = pmflow.run(several, inputs={"ns": [1, 0, 2]})
        assert (run["chosen"].data, run.success) == (expected, True)
    run = pmflow.run([chosen, each, process(lambda: "last", id="last")], inputs={"ns": [1, 2]})
    assert run["chosen"].data == [6, 3]


def test_what_stands_behind_an_override_does_not_run() -> None:
    """It has a value, as an input has."""
    ran: list[int] = []
    chosen = process(lambda x: x, id="chosen", dependencies={"x": ("tuned", "plain")})
    graph = Graph([chosen, process(fails, id="tuned"), process(lambda: ran.append(1), id="plain")])
    assert pmflow.run(graph, targets="chosen", overrides={"tuned": 5}).value == 5
    assert ran == []
    plan = str(graph.plan(targets="chosen", overrides={"tuned": 5}))
    assert "x = override 'tuned'\n" in plan
    assert "plain  not needed for the targets" in plan


def test_an_explanation_says_candidates() -> None:
    """Those that are asked, in their order; behind an input or an override none is."""
    chosen = process(lambda x: x, id="chosen", dependencies={"x": ("first", "second")})
    graph = Graph([chosen, process(fails, id="first"), process(fails, id="second")])
    found = graph.explain("chosen").parameters
    assert [(each.source, each.kind, each.or_else) for each in found] == [
        ("first", "process", True),
        ("second", "process", False),
    ]
    assert str(found[0]).endswith("as dependencies= says; if it has no value, the next")
    found = graph.explain("chosen", overrides={"first": 1}).parameters
    assert [(each.source, each.kind, each.or_else) for each in found] == [("first", "override", False)]


# Commands


def test_the_id_of_a_command_is_the_whole_name() -> None:
    """And not what stands behind a brace in it."""
    with pytest.raises(ConfigurationError, match="cannot be the name of a parameter"):
        command(["x{{y"])


def test_a_mapped_command_is_not_begun_a_thousand_times_at_once() -> None:
    """As often as functions in threads, or as its limit says; a machine has cores for so many, and descriptors."""
    echo = command(["echo", "{n}"], map_over={"n": "ns"})
    assert echo.config.limit == thread_pool().size
    assert [echo.options(limit=limit).config.limit for limit in (100, None)] == [100, None]
    assert command(["echo", "{n}"], limit=3).config.limit == 3
    assert "limit" not in str(Graph([command(["true"])]).plan())  # it is called once
    assert len(pmflow.run(echo, inputs={"ns": range(20)}).value) == 20
