"""`map_over`: one call per element, element by element, without a barrier."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest

import pmflow
from pmflow import Graph, ProcessId, ProcessResult, ProcessState, RetryStrategy, Run, process
from pmflow.errors import GraphError, MissingDependencyError, ProcessError, ProcessTimeoutError, ValueReleasedError

GENEROUS = 20.0
DONE, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED

every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])
on_the_loop_or_in_threads = pytest.mark.parametrize("kind", ["async", "thread"])
at_once = RetryStrategy(max_retries=1, delay_seconds=0)


def double(number: int) -> int:
    """Return twice the number."""
    return number * 2


def total(page: list[int]) -> int:
    """Return the sum of the pages."""
    return sum(page)


def elements(run: Run[Any], name: str) -> list[ProcessState]:
    """Return the states of the elements of a mapped process."""
    states: list[ProcessState] = []
    while f"{name}_{len(states)}" in run:
        states.append(run[f"{name}_{len(states)}"].state)
    return states


def page_failing_at(*failing: int, **settings: Any) -> Any:
    """Return a mapped process some of whose elements fail."""

    def page(number: int) -> int:
        if number in failing:
            raise ValueError(f"no page {number}")
        return number * 10

    return process(page, map_over={"number": "numbers"}, **settings)


# What comes out


@every_type
def test_a_map_collects_in_order(kind: str) -> None:
    """One call per element; the result, and what a plain consumer receives, is the list of results in order."""
    page = process(double, id="page", type=kind, map_over={"number": "numbers"})
    run = pmflow.run([process(total, type=kind), page], inputs={"numbers": [3, 1, 2]})
    assert run.data == {"total": 12, "page": [6, 2, 4]}


@pytest.mark.anyio
async def test_order_does_not_depend_on_who_ends_first() -> None:
    """Results are in the order of the elements, also where the last element ends first."""
    ended = [anyio.Event() for _ in range(4)]
    order: list[int] = []

    @process(map_over={"number": "numbers"})
    async def page(number: int) -> int:
        if number < 3:
            await ended[number + 1].wait()
        order.append(number)
        ended[number].set()
        return number * 10

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(page, inputs={"numbers": range(4)})
    assert order == [3, 2, 1, 0]
    assert run.value == [0, 10, 20, 30]


@every_type
def test_an_empty_list_maps_to_an_empty_list(kind: str) -> None:
    """An empty list maps to an empty list, through maps over maps down to a plain consumer."""
    page = process(double, id="page", type=kind, map_over={"number": "numbers"})
    words = process(double, id="words", type=kind, map_over={"number": "page"})
    count = process(len, id="count", type=kind, dependencies={"obj": "words"})
    run = pmflow.run([count, words, page], inputs={"numbers": []})
    assert run.data == {"count": 0, "words": [], "page": []}
    assert [(name, run[name].state) for name in run] == [("page", DONE), ("words", DONE), ("count", DONE)]
    assert elements(run, "page") == []


def test_map_over_a_bare_name() -> None:
    """`map_over="page"` is short for `{"page": "page"}`."""

    @process
    def page() -> list[int]:
        return [1, 2]

    @process(map_over="page")
    def size(page: int) -> int:
        return page + 1

    assert pmflow.run(size).value == [2, 3]


@pytest.mark.parametrize(
    "numbers",
    [[1, 2], (1, 2), range(1, 3), {1: "a", 2: "b"}.keys(), {1, 2}, iter([1, 2]), (n for n in (1, 2))],
    ids=["list", "tuple", "range", "keys", "set", "iterator", "generator"],
)
def test_what_can_be_mapped_over(numbers: Any) -> None:
    """An input of any iterable type is mapped over, element by element."""
    page = process(double, id="page", map_over={"number": "numbers"})
    assert pmflow.run(page, inputs={"numbers": numbers}).value == [2, 4]


def test_a_map_over_what_a_generator_yields() -> None:
    """A process that returns an iterator is a source like a list."""

    @process
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    page = process(double, id="page", map_over={"number": "numbers"})
    assert pmflow.run([page, numbers], targets="page").value == [2, 4, 6]


def test_elements_may_be_anything() -> None:
    """An element is passed as the object that it is, None, strings and lists too."""
    given: list[Any] = [None, "text", [1, 2], object()]
    same = process(lambda each: each, id="same", map_over={"each": "given"})
    again = process(lambda same: same, id="again", map_over="same")
    run = pmflow.run([same, again], inputs={"given": given})
    assert run.data == {"same": given, "again": given}


@every_type
def test_the_other_parameters_are_shared(kind: str) -> None:
    """What is not mapped over, an input, a process, a default, is passed to every element."""

    def page(number: int, factor: int, offset: int, last: int = 1000) -> int:
        return number * factor + offset + last

    mapped = process(page, type=kind, map_over={"number": "numbers"})
    offset = process(lambda: 100, id="offset")
    assert pmflow.run([mapped, offset], inputs={"numbers": [1, 2], "factor": 10}, targets=mapped).value == [1110, 1120]


def test_a_map_waits_for_after() -> None:
    """What `after` names has ended before the first element begins."""
    order: list[str] = []
    first = process(lambda: order.append("first"), id="first")
    page = process(lambda number: order.append("page"), id="page", map_over={"number": "numbers"}, after="first")
    pmflow.run([page, first], inputs={"numbers": [1, 2]})
    assert order == ["first", "page", "page"]


@every_type
def test_positional_only_parameters_are_mapped_over(kind: str) -> None:
    """A positional-only parameter may be the one that is mapped over."""

    def power(base: int, exponent: int = 2, /) -> int:
        return int(base**exponent)

    mapped = process(power, type=kind, map_over={"exponent": "exponents"})
    assert pmflow.run(mapped, inputs={"base": 2, "exponents": [1, 2, 3]}).value == [2, 4, 8]


def test_an_overridden_map_is_a_list() -> None:
    """A value that stands for a mapped process is its list: to maps over it and to plain consumers."""
    page = page_failing_at(0)
    words = process(lambda page: page + 1, id="words", map_over="page")
    run = pmflow.run([process(total), words, page], overrides={"page": [1, 2]}, targets=["total", "words"])
    assert run.data == {"total": 3, "words": [2, 3]}


# Element by element


@pytest.mark.anyio
async def test_maps_over_maps_have_no_barrier() -> None:
    """Element 3 of the second map starts when element 3 of the first ends, although all others still wait for it."""
    second_began = anyio.Event()

    @process(map_over={"number": "numbers"})
    async def first(number: int) -> int:
        if number != 3:
            await second_began.wait()
        return number * 10

    @process(map_over="first")
    async def second(first: int) -> int:
        if first == 30:
            second_began.set()
        return first + 1

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(second, inputs={"numbers": range(5)})
    assert run.value == [1, 11, 21, 31, 41]


def test_maps_over_maps_have_no_barrier_in_threads() -> None:
    """The same in threads: with a barrier the others would never end."""
    second_began = threading.Event()

    @process(map_over={"number": "numbers"})
    def first(number: int) -> int:
        if number != 3:
            assert second_began.wait(GENEROUS)
        return number * 10

    @process(map_over="first")
    def second(first: int) -> int:
        if first == 30:
            second_began.set()
        return first + 1

    assert pmflow.run(second, inputs={"numbers": range(5)}).value == [1, 11, 21, 31, 41]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the elements meet at a named pipe")
def test_maps_over_maps_have_no_barrier_in_workers(tmp_path: Path) -> None:
    """The same in workers: element 0 of the first map waits for element 1 of the second."""
    meeting = tmp_path / "meeting"
    os.mkfifo(meeting)

    @process(type="process", timeout=GENEROUS, map_over={"number": "numbers"})
    def first(number: int) -> str:
        return meeting.read_text() if number == 0 else "the second"

    @process(type="process", timeout=GENEROUS, map_over="first")
    def second(first: str) -> str:
        if first == "the second":
            meeting.write_text("the first")
        return first

    assert pmflow.run(second, inputs={"numbers": [0, 1]}).value == ["the first", "the second"]


@pytest.mark.anyio
async def test_maps_over_maps_across_strategies() -> None:
    """A pipeline of maps on the loop and in threads has no barrier either."""
    last_began = anyio.Event()
    release = threading.Event()

    @process(map_over={"number": "numbers"})
    async def fetched(number: int) -> int:
        if number:
            await last_began.wait()
        return number

    @process(map_over="fetched")
    def parsed(fetched: int) -> int:
        if fetched:
            assert release.wait(GENEROUS)
        return fetched + 1

    @process(map_over="parsed")
    async def stored(parsed: int) -> int:
        if parsed == 1:
            last_began.set()
            release.set()
        return parsed * 10

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(stored, inputs={"numbers": range(4)})
    assert run.value == [10, 20, 30, 40]


@every_type
def test_maps_three_deep(kind: str) -> None:
    """Maps over maps over maps go element by element, and each is collected."""
    settings: dict[str, Any] = {"type": kind}
    one = process(lambda number: number + 1, id="one", map_over={"number": "numbers"}, **settings)
    two = process(lambda one: one * 10, id="two", map_over="one", **settings)
    three = process(lambda two: two + 5, id="three", map_over="two", **settings)
    run = pmflow.run([one, two, three], inputs={"numbers": range(3)})
    assert run.data == {"one": [1, 2, 3], "two": [10, 20, 30], "three": [15, 25, 35]}
    assert [run[f"three_{index}"].data for index in range(3)] == [15, 25, 35]


@pytest.mark.anyio
async def test_maps_three_deep_have_no_barrier() -> None:
    """The last element is through all three before the first one is through one."""
    through = anyio.Event()

    @process(map_over={"number": "numbers"})
    async def one(number: int) -> int:
        if number == 0:
            await through.wait()
        return number

    @process(map_over="one")
    async def two(one: int) -> int:
        return one

    @process(map_over="two")
    async def three(two: int) -> int:
        if two == 9:
            through.set()
        return two

    with anyio.fail_after(GENEROUS):
        assert (await pmflow.arun(three, inputs={"numbers": range(10)})).value == list(range(10))


@pytest.mark.anyio
async def test_a_map_whose_other_dependency_is_late() -> None:
    """Elements whose source ended before the rest was there begin as soon as it is."""
    pages_ended = anyio.Event()

    @process(map_over={"number": "numbers"})
    async def page(number: int) -> int:
        if number == 2:
            pages_ended.set()
        return number

    @process
    async def factor() -> int:
        await pages_ended.wait()
        return 10

    @process(map_over="page")
    async def words(page: int, factor: int) -> int:
        return page * factor

    with anyio.fail_after(GENEROUS):
        assert (await pmflow.arun(words, inputs={"numbers": range(3)})).value == [0, 10, 20]


# Several sources


@every_type
def test_several_sources_zip(kind: str) -> None:
    """Several mapped parameters go together, element by element: inputs, lists and maps in any mixture."""

    def pair(left: int, right: int, third: int) -> tuple[int, int, int]:
        return left, right, third

    left = process(double, id="left", type=kind, map_over={"number": "numbers"})
    right = process(lambda: [5, 6], id="right")
    paired = process(pair, type=kind, map_over={"left": "left", "right": "right", "third": "numbers"})
    assert pmflow.run([paired, left, right], inputs={"numbers": [1, 2]}, targets=paired).value == [(2, 5, 1), (4, 6, 2)]


@pytest.mark.anyio
async def test_maps_of_one_origin_pair_by_index() -> None:
    """Where several maps are zipped, an element begins when its own sources have ended, in whatever order."""
    began = anyio.Event()

    @process(map_over={"number": "numbers"})
    async def left(number: int) -> int:
        if number == 0:
            await began.wait()
        return number

    @process(map_over={"number": "numbers"})
    async def right(number: int) -> int:
        if number == 1:
            await began.wait()
        return number * 10

    @process(map_over={"left": "left", "right": "right"})
    async def pair(left: int, right: int) -> tuple[int, int]:
        if left == 2:
            began.set()
        return left, right

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(pair, inputs={"numbers": range(3)})
    assert run.value == [(0, 0), (1, 10), (2, 20)]


@on_the_loop_or_in_threads
def test_one_map_as_two_sources(kind: str) -> None:
    """A mapped process may be the source of two parameters: each element is called once, with the same value twice."""
    called: list[int] = []

    def square(left: int, right: int) -> int:
        called.append(left)
        return left * right

    page = process(double, id="page", type=kind, map_over={"number": "numbers"})
    squares = process(square, type=kind, map_over={"left": "page", "right": "page"})
    assert pmflow.run([squares, page], inputs={"numbers": [1, 2, 3]}, targets=squares).value == [4, 16, 36]
    assert sorted(called) == [2, 4, 6]


def test_one_list_as_two_sources() -> None:
    """The same of a list."""
    square = process(lambda x, y: x * y, id="square", map_over={"x": "numbers", "y": "numbers"})
    assert pmflow.run(square, inputs={"numbers": [1, 2, 3]}).value == [1, 4, 9]


UNEQUAL: dict[str, tuple[dict[str, Any], list[str]]] = {
    "inputs": ({"left": [1, 2], "right": [1, 2, 3]}, ["left", "right"]),
    "an empty one": ({"left": [], "right": [1]}, ["left", "right"]),
    "maps": ({"a": [1, 2], "b": [1, 2, 3]}, ["left", "right"]),
    "a map and a shorter list": ({"a": [1, 2, 3], "right": [1, 2]}, ["left", "right"]),
    "a map and a longer list": ({"a": [1, 2], "right": [1, 2, 3]}, ["left", "right"]),
    "an empty map and a list": ({"a": [], "right": [1]}, ["left", "right"]),
}


@pytest.mark.parametrize(("inputs", "named"), UNEQUAL.values(), ids=UNEQUAL.keys())
def test_sources_of_different_lengths(inputs: dict[str, Any], named: list[str]) -> None:
    """Sources of different lengths fail the mapped process, naming them and their lengths; it is not shortened."""
    sources = []
    if "a" in inputs:
        sources.append(process(lambda a: a, id="left", map_over="a"))
    if "b" in inputs:
        sources.append(process(lambda b: b, id="right", map_over="b"))
    pair = process(lambda left, right: (left, right), id="pair", map_over={"left": "left", "right": "right"})
    run = pmflow.run([pair, *sources], inputs=inputs, on_error="return")
    result = run["pair"]
    assert (result.state, run.success) == (FAILED, False)
    assert isinstance(result.exception, ProcessError)
    assert result.error is not None
    lengths = sorted(len(value) for value in inputs.values())
    assert all(repr(name) in result.error for name in ["pair", *named]), result.error
    assert all(f"has {length}" in result.error for length in lengths), result.error
    with pytest.raises(ProcessError, match="different lengths"):
        result.unwrap()


def test_different_lengths_skip_the_consumer() -> None:
    """A mapped process that failed as a whole is a failure to what depends on it."""
    pair = process(lambda x, y: (x, y), id="pair", map_over={"x": "xs", "y": "ys"})
    count = process(len, id="count", dependencies={"obj": "pair"})
    next_ = process(lambda pair: pair, id="next", map_over="pair")
    run = pmflow.run([pair, count, next_], inputs={"xs": [1], "ys": [1, 2]}, on_error="return")
    assert {name: run[name].state for name in run} == {"pair": FAILED, "count": SKIPPED, "next": SKIPPED}
    assert "different lengths" in (run["count"].reason or "")
    assert "different lengths" in (run["next"].reason or "")


def test_unequal_and_empty_skips_the_maps_behind() -> None:
    """The same where the shorter of the two is an empty map: what maps over the failed one has no elements to run."""
    left = process(lambda a: a, id="left", map_over="a")
    pair = process(lambda left, right: left, id="pair", map_over={"left": "left", "right": "right"})
    next_ = process(lambda pair: pair, id="next", map_over="pair")
    run = pmflow.run([left, pair, next_], inputs={"a": [], "right": [1]}, on_error="return")
    assert {name: run[name].state for name in run} == {"left": DONE, "pair": FAILED, "next": SKIPPED}


# What is refused


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://a", "str"),
        (b"ab", "bytes"),
        (bytearray(b"ab"), "bytearray"),
        ({"a": 1}, "dict"),
        (5, "int"),
        (None, "None"),
    ],
    ids=["str", "bytes", "bytearray", "dict", "int", "None"],
)
def test_what_cannot_be_mapped_over(source: Any, said: str) -> None:
    """A string, bytes, a mapping or no iterable at all is refused: the message says what it is, and of whom."""
    pages = process(lambda: source, id="urls")
    page = process(lambda url: url, id="page", map_over={"url": "urls"})
    run = pmflow.run([page, pages], on_error="return")
    result = run["page"]
    assert (result.state, result.error_type, elements(run, "page")) == (FAILED, "ProcessError", [])
    assert result.error is not None
    assert all(word in result.error for word in ("'page'", "'urls'", said)), result.error


@pytest.mark.parametrize(
    ("source", "remedy"), [("http://a", "[urls]"), ({"a": 1}, "urls.items()")], ids=["str", "dict"]
)
def test_the_remedy_for_a_string(source: Any, remedy: str) -> None:
    """The message about a string or a mapping says what to write instead."""
    page = process(lambda url: url, id="page", map_over={"url": "urls"})
    with pytest.raises(pmflow.PmflowError) as caught:
        pmflow.run(page, inputs={"urls": source})
    assert remedy in str(caught.value)


@pytest.mark.anyio
async def test_an_input_that_cannot_be_mapped_over_is_refused_before_anything_runs() -> None:
    """An input is known beforehand: what cannot be mapped over is refused like every bad input, and nothing runs."""
    ran: list[int] = []
    other = process(lambda: ran.append(1), id="other", type="async")
    page = process(lambda url: url, id="page", map_over={"url": "urls"})
    with anyio.fail_after(GENEROUS), pytest.raises(GraphError, match=r"'page'.*'urls'.*str"):
        await pmflow.arun([other, page], inputs={"urls": "http://a"})
    assert ran == []


@pytest.mark.anyio
async def test_a_map_that_cannot_begin_stops_the_run() -> None:
    """A mapped process that fails before its first element stops the run like every failure; nothing hangs."""
    page = process(lambda url: url, id="page", map_over={"url": "urls"})
    urls = process(lambda: "http://a", id="urls", type="async")
    waiting = process(anyio.sleep_forever, id="waiting")
    behind = process(lambda waiting: waiting, id="behind")
    with anyio.fail_after(GENEROUS), pytest.raises(pmflow.WorkflowError, match="'page'") as caught:
        await pmflow.arun([page, urls, waiting, behind])
    run = caught.value.run
    assert run is not None
    assert {name: run[name].state for name in run} == {
        "urls": DONE,
        "page": FAILED,
        "waiting": ProcessState.CANCELLED,
        "behind": ProcessState.CANCELLED,
    }


def test_a_source_that_raises_while_it_is_read() -> None:
    """A source whose iteration raises fails the mapped process with that exception; the rest of the run is not lost."""

    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    other = process(lambda: "done", id="other", type="async")
    page = process(double, id="page", map_over={"number": "numbers"})
    run = pmflow.run([other, page], inputs={"numbers": numbers()}, on_error="return")
    assert {name: (run[name].state, run[name].error) for name in run} == {
        "other": (DONE, None),
        "page": (FAILED, "no more"),
    }
    assert type(run["page"].exception) is ValueError


@pytest.mark.parametrize("digits", ["0", "3", "12"])
def test_an_id_that_an_element_would_have(digits: str) -> None:
    """A process whose id ends in `_<digits>` beside a mapped process of that base is refused, naming both."""
    page = process(double, id="page", map_over={"number": "numbers"})
    other = process(lambda: 1, id=f"page_{digits}")
    for give in (Graph, pmflow.run):
        with pytest.raises(GraphError, match=rf"'page_{digits}'.*'page'") as caught:
            give([page, other])
        assert caught.value.process_id == f"page_{digits}"


@pytest.mark.parametrize("name", ["page_x", "pages_1", "page_", "page_1_x", "page1"])
def test_an_id_that_no_element_would_have(name: str) -> None:
    """Other ids that begin like a mapped process's are none of its elements'."""
    page = process(double, id="page", map_over={"number": "numbers"})
    other = process(lambda: 1, id=name)
    assert pmflow.run([page, other], inputs={"numbers": [4]}).data == {"page": [8], name: 1}


def test_digits_beside_a_process_that_is_not_mapped() -> None:
    """An id may end in digits beside a process that is not mapped."""
    assert pmflow.run([process(lambda: 1, id="page"), process(lambda: 2, id="page_1")]).data == {"page": 1, "page_1": 2}


def test_a_missing_source() -> None:
    """A source that nothing provides is refused before anything runs, also where the parameter has a default."""

    @process(map_over={"number": "numbers"})
    def page(number: int = 1) -> int:
        return number

    with pytest.raises(MissingDependencyError, match=r"'page' needs 'numbers'") as caught:
        pmflow.run(page)
    assert (caught.value.process_id, caught.value.parameter) == ("page", "number")


# Elements are processes of their own


def test_elements_have_results_of_their_own() -> None:
    """`run["page_3"]` is one element's result, by string or `ProcessId`; a mapped process is there once."""
    page = process(double, id="page", map_over={"number": "numbers"})
    run = pmflow.run(page, inputs={"numbers": range(4)})
    assert list(run) == ["page"]
    assert len(run) == 1
    one = run["page_3"]
    assert (str(one.process_id), one.success, one.data, one.state, one.attempts) == ("page_3", True, 6, DONE, 1)
    assert run[ProcessId("page", 3)].data == 6
    assert run[ProcessId("page")].data == run[page].data == [0, 2, 4, 6]
    assert all(key in run for key in ("page", "page_0", "page_3", ProcessId("page", 3), page))
    assert not any(
        key in run for key in ("page_4", "page_-1", "page_", "page_x", "page_03", "page_٣", ProcessId("page", 4))
    )
    with pytest.raises(KeyError, match="page_4"):
        run["page_4"]


def test_failed_elements() -> None:
    """A failed element fails its process and no other element; the data are the values of those that have one."""
    run = pmflow.run(page_failing_at(1), inputs={"numbers": range(3)}, on_error="return")
    assert elements(run, "page") == [DONE, FAILED, DONE]
    assert (run["page"].state, run["page"].success, run["page"].data) == (FAILED, False, [0, 20])
    assert list(run.failures) == ["page_1"]
    assert (run["page_1"].error_type, run["page_1"].error) == ("ValueError", "no page 1")
    assert not run.success


def test_failed_elements_are_raised() -> None:
    """`run` raises the original exceptions of all failed elements, each named."""
    with pytest.raises(pmflow.WorkflowError) as caught:
        pmflow.run(page_failing_at(0, 2), inputs={"numbers": range(4)}, fail_fast=False)
    error = caught.value
    assert sorted(str(each) for each in error.exceptions) == ["no page 0", "no page 2"]
    assert {note for each in error.exceptions for note in getattr(each, "__notes__", [])} == {
        "in process 'page_0', attempt 1",
        "in process 'page_2', attempt 1",
    }
    assert "'page_0'" in str(error)
    assert "'page_2'" in str(error)
    assert error.run is not None
    assert [error.run[f"page_{index}"].success for index in range(4)] == [False, True, False, True]


@every_type
def test_elements_are_retried_on_their_own(kind: str, tmp_path: Path) -> None:
    """Retries are counted per element."""

    def page(number: int) -> int:
        once = tmp_path / str(number)
        if number == 1 and not once.exists():
            once.touch()
            raise OSError("try again")
        return number

    mapped = process(page, type=kind, map_over={"number": "numbers"}, retries=at_once)
    run = pmflow.run(mapped, inputs={"numbers": range(3)})
    assert run.value == [0, 1, 2]
    assert [run[f"page_{index}"].attempts for index in range(3)] == [1, 2, 1]


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_elements_time_out_on_their_own() -> None:
    """A timeout is that of one element; the others are not touched."""

    @process(map_over={"number": "numbers"}, timeout=5)
    async def page(number: int) -> int:
        await anyio.sleep(number)
        return number

    run = await pmflow.arun(page, inputs={"numbers": [1, 60, 4]}, on_error="return")
    assert elements(run, "page") == [DONE, FAILED, DONE]
    assert type(run["page_1"].exception) is ProcessTimeoutError
    assert run["page_1"].exception.process_id == "page_1"
    assert run["page"].data == [1, 4]


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_an_element_that_waits_for_its_retry_holds_up_nobody() -> None:
    """While an element waits for its retry, the others go on, through the maps behind them too."""
    moments: dict[int, float] = {}
    start = anyio.current_time()

    @process(map_over={"number": "numbers"}, retries=RetryStrategy(max_retries=1, delay_seconds=100))
    async def page(number: int) -> int:
        if number == 0 and anyio.current_time() == start:
            raise OSError("try again")
        return number

    @process(map_over="page")
    async def words(page: int) -> int:
        moments[page] = anyio.current_time() - start
        return page

    await pmflow.arun(words, inputs={"numbers": range(3)})
    assert moments == {0: pytest.approx(100), 1: pytest.approx(0), 2: pytest.approx(0)}


def test_validation_rules_are_asked_per_element() -> None:
    """Validation rules see one element's result."""
    page = process(double, id="page", map_over={"number": "numbers"}, validation_rules=[lambda data: data < 4])
    run = pmflow.run(page, inputs={"numbers": [1, 2, 3]}, on_error="return")
    assert elements(run, "page") == [DONE, FAILED, FAILED]
    assert {each.error_type for each in run.failures.values()} == {"ValidationError"}


# The truth table, element by element


def test_a_failure_goes_down_its_own_line() -> None:
    """Element by element: what depends on the failed element is SKIPPED, what depends on others runs."""
    words = process(lambda page: page + 1, id="words", map_over="page")
    chars = process(lambda words: words + 1, id="chars", map_over="words")
    run = pmflow.run([page_failing_at(1), words, chars], inputs={"numbers": range(3)}, on_error="return")
    assert elements(run, "words") == elements(run, "chars") == [DONE, SKIPPED, DONE]
    assert (run["words"].state, run["chars"].state) == (SKIPPED, SKIPPED)
    assert "'page_1' failed (ValueError: no page 1)" in (run["words_1"].reason or "")
    assert "no page 1" in (run["chars_1"].reason or "")
    assert [run["chars_0"].data, run["chars_2"].data] == [2, 22]


def test_one_failure_fails_the_list() -> None:
    """One required failure among the elements is a failure to a plain consumer, with a default too."""
    plain = process(total, id="plain", dependencies={"page": "page"})
    default = process(lambda page=(): sum(page), id="default")
    run = pmflow.run([page_failing_at(1), plain, default], inputs={"numbers": range(3)}, on_error="return")
    assert (run["plain"].state, run["default"].state) == (SKIPPED, SKIPPED)


def test_no_value_is_left_out_of_the_list() -> None:
    """With `required=False`, a failed element has no value: it is left out of the list, and the run succeeds."""
    page = page_failing_at(1, required=False)
    words = process(lambda page: page + 1, id="words", map_over="page")
    run = pmflow.run([process(total), words, page], inputs={"numbers": range(3)})
    assert run.success
    assert run.data == {"total": 20, "words": [1, 21], "page": [0, 20]}
    assert elements(run, "page") == [DONE, FAILED, DONE]
    assert elements(run, "words") == [DONE, SKIPPED, DONE]
    assert {name: run[name].state for name in run} == {"page": DONE, "words": DONE, "total": DONE}


def test_a_default_for_an_element_without_value() -> None:
    """An element whose source has no value keeps its default, and its index; below a required failure it is SKIPPED."""
    words = process(lambda page=-1: page, id="words", map_over="page")
    run = pmflow.run([page_failing_at(1, required=False), words], inputs={"numbers": range(3)}, targets=words)
    assert run.value == [0, -1, 20]
    run = pmflow.run([page_failing_at(1), words], inputs={"numbers": range(3)}, targets=words, on_error="return")
    assert elements(run, "words") == [DONE, SKIPPED, DONE]


def test_a_source_without_value() -> None:
    """A list that has no value maps to none: the mapped process is SKIPPED, its parameter's default notwithstanding."""

    @process(required=False)
    def numbers() -> list[int]:
        raise ValueError("no numbers")

    page = process(lambda number: number, id="page", map_over={"number": "numbers"})
    words = process(lambda page: page, id="words", map_over="page")
    count = process(lambda page=(): len(page), id="count")
    run = pmflow.run([numbers, page, words, count])
    assert {name: run[name].state for name in run} == {
        "numbers": FAILED,
        "page": SKIPPED,
        "words": SKIPPED,
        "count": DONE,
    }
    assert (run.success, run["count"].data, elements(run, "page")) == (True, 0, [])
    assert "no numbers" in (run["words"].reason or "")


def test_a_source_that_failed() -> None:
    """A list that failed skips the mapped process, the maps over it, and what they feed, as failed."""

    @process
    def numbers() -> list[int]:
        raise ValueError("no numbers")

    page = process(lambda number: number, id="page", map_over={"number": "numbers"})
    words = process(lambda page: page, id="words", map_over="page")
    count = process(lambda words=(): len(words), id="count")
    run = pmflow.run([numbers, page, words, count], on_error="return")
    assert {name: run[name].state for name in run} == {
        "numbers": FAILED,
        "page": SKIPPED,
        "words": SKIPPED,
        "count": SKIPPED,
    }


def test_a_map_that_cannot_begin_and_is_not_required() -> None:
    """A refused source of a mapped process that is not required gives no value, and the run succeeds."""
    page = process(lambda url: url, id="page", map_over={"url": "urls"}, required=False)
    count = process(lambda page=(): len(page), id="count")
    run = pmflow.run([page, count, process(lambda: "http://a", id="urls")])
    assert (run.success, run["page"].state, run["count"].data) == (True, FAILED, 0)


@pytest.mark.anyio
async def test_unequal_elements_of_a_map_that_is_not_required() -> None:
    """The same of a map whose sources turn out to differ in length."""
    left = process(lambda a: a, id="left", map_over="a")
    pair = process(lambda left, right: left, id="pair", map_over={"left": "left", "right": "right"}, required=False)
    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun([left, pair], inputs={"a": [1, 2, 3], "right": [1]})
    assert (run.success, run["pair"].state) == (True, FAILED)


def test_a_process_result_parameter_over_a_map() -> None:
    """A mapped parameter annotated `ProcessResult` receives each element's outcome, whatever it is: it is handled."""

    @process(map_over="page")
    def words(page: ProcessResult[int]) -> Any:
        return page.data if page.success else str(page.process_id), page.state

    run = pmflow.run([page_failing_at(1), words], inputs={"numbers": range(3)})
    assert run.success
    assert run["words"].data == [(0, DONE), ("page_1", FAILED), (20, DONE)]


def test_a_list_of_process_results_keeps_every_place() -> None:
    """`list[ProcessResult]` over a map receives all outcomes, in their places."""

    @process
    def report(page: list[ProcessResult[int]]) -> list[Any]:
        return [(str(each.process_id), each.success, each.error) for each in page]

    run = pmflow.run([page_failing_at(1), report], inputs={"numbers": range(3)}, targets=report)
    assert run.success
    assert run.value == [("page_0", True, None), ("page_1", False, "no page 1"), ("page_2", True, None)]


def test_a_handled_failure_and_one_who_does_not_handle_it() -> None:
    """A failure that only some dependants take as `ProcessResult` is none the less one."""

    @process
    def report(page: list[ProcessResult[int]]) -> int:
        return len(page)

    run = pmflow.run([page_failing_at(1), report, process(total)], inputs={"numbers": range(3)}, on_error="return")
    assert (run.success, run["report"].data, run["total"].state) == (False, 3, SKIPPED)


# Stopping


@pytest.mark.anyio
async def test_a_stop_reaches_the_elements() -> None:
    """At the first failure the run stops: elements that ended stay, the others are CANCELLED or, below it, SKIPPED."""
    ended = anyio.Event()

    @process(map_over={"number": "numbers"})
    async def page(number: int) -> int:
        if number == 0:
            ended.set()
        elif number == 1:
            await ended.wait()
            await anyio.lowlevel.checkpoint()
            raise ValueError("no page 1")
        else:
            await anyio.sleep_forever()
        return number

    @process(map_over="page")
    async def words(page: int) -> int:
        await anyio.sleep_forever()
        return page

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(
            [page, words, process(total)], inputs={"numbers": range(3)}, on_error="return", fail_fast=True
        )
    cancelled = ProcessState.CANCELLED
    assert elements(run, "page") == [DONE, FAILED, cancelled]
    assert elements(run, "words") == [cancelled, SKIPPED, cancelled]
    assert list(run.failures) == ["page_1"]
    assert (run["page"].state, run["total"].state) == (FAILED, SKIPPED)


@pytest.mark.anyio
async def test_a_stop_before_a_map_has_elements() -> None:
    """Maps whose source had not ended when the run was stopped are CANCELLED, the maps over them too."""

    @process
    async def numbers() -> list[int]:
        await anyio.sleep_forever()
        return []

    page = process(lambda number: number, id="page", map_over={"number": "numbers"})
    words = process(lambda page: page, id="words", map_over="page")
    broken = process(lambda: 1 // 0, id="broken")
    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun([numbers, page, words, broken], on_error="return", fail_fast=True)
    cancelled = ProcessState.CANCELLED
    assert {name: run[name].state for name in run} == {
        "broken": FAILED,
        "numbers": cancelled,
        "page": cancelled,
        "words": cancelled,
    }


# How many at once, and how many are kept


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_async_elements_are_bounded() -> None:
    """At most 1,000 elements of a map on the loop are under way at once, and as many are."""
    running = peak = 0

    @process(map_over={"number": "numbers"})
    async def page(number: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await anyio.sleep(1)
        running -= 1
        return number

    run = await pmflow.arun(page, inputs={"numbers": range(2_500)})
    assert run.value == list(range(2_500))
    assert peak == 1_000


@pytest.mark.anyio
async def test_async_elements_are_bounded_on_every_loop() -> None:
    """The same where every element waits until nothing else moves."""
    began: list[int] = []
    release = anyio.Event()

    @process(map_over={"number": "numbers"})
    async def page(number: int) -> int:
        began.append(number)
        await release.wait()
        return number

    @process
    async def watch() -> int:
        while len(began) < 1_000:
            await anyio.lowlevel.checkpoint()
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        release.set()
        return len(began)

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun([page, watch], inputs={"numbers": range(1_100)})
    assert (run["watch"].data, run["page"].data) == (1_000, list(range(1_100)))


class Value:
    """Something that shows whether it is still held."""

    alive: ClassVar["weakref.WeakSet[Value]"] = weakref.WeakSet()
    peak = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Value.alive.add(self)
        Value.peak = max(Value.peak, len(Value.alive))


@pytest.fixture
def values() -> type[Value]:
    """The class of values, with nothing counted yet."""
    gc.collect()
    Value.alive.clear()
    Value.peak = 0
    return Value


def two_stages(kind: str) -> list[Any]:
    """Return a pipeline whose first stage makes values that the second turns into numbers."""
    make: Callable[..., Any] = process(Value, id="made", type=kind, map_over={"number": "numbers"})
    use: Callable[..., Any] = process(lambda made: made.number, id="used", type=kind, map_over="made")
    return [make, use]


@on_the_loop_or_in_threads
@pytest.mark.parametrize(
    "settings", [{"targets": "used"}, {"targets": "used", "keep": "targets"}], ids=["targets", "keep"]
)
def test_a_pipeline_holds_a_handful_of_values(kind: str, settings: dict[str, Any], values: type[Value]) -> None:
    """Where only targets are kept, a two-stage map of 10,000 holds a handful of values, not 10,000."""
    run = pmflow.run(two_stages(kind), inputs={"numbers": range(10_000)}, **settings)
    assert run.value == list(range(10_000))
    assert len(values.alive) == 0
    assert values.peak <= 100


def test_released_elements_say_so() -> None:
    """The data of a released element, and of its list, raises, naming the remedy."""
    page = process(double, id="page", map_over={"number": "numbers"})
    words = process(lambda page: page + 1, id="words", map_over="page")
    run = pmflow.run([page, words], inputs={"numbers": [1, 2]}, targets="words")
    assert run.value == [3, 5]
    assert [run["words_0"].data, run["words_1"].data] == [3, 5]
    for name in ("page", "page_0", "page_1"):
        with pytest.raises(ValueReleasedError, match=rf"'{name}'.*keep=\"all\""):
            _ = run[name].data
        assert run[name].success


@on_the_loop_or_in_threads
def test_everything_is_kept_by_default(kind: str, values: type[Value]) -> None:
    """Without `targets` every element's data stays."""
    run = pmflow.run(two_stages(kind), inputs={"numbers": range(100)})
    assert len(values.alive) == 100
    assert [run[f"made_{index}"].data.number for index in range(100)] == list(range(100))


def test_elements_that_others_need_are_kept_for_them(values: type[Value]) -> None:
    """An element is released once all that need it have it: a second map and a plain consumer get every value."""
    other = process(lambda made: -made.number, id="other", map_over="made")
    count = process(len, id="count", dependencies={"obj": "made"})
    run = pmflow.run(
        [*two_stages("thread"), other, count], inputs={"numbers": range(50)}, targets=["used", "other", "count"]
    )
    assert run.data == {"used": list(range(50)), "other": [-number for number in range(50)], "count": 50}
    assert len(values.alive) == 0


def test_an_element_is_kept_where_its_dependant_failed(values: type[Value]) -> None:
    """What a failed element needed stays, so that it can be tried again."""

    def use(made: Value) -> int:
        if made.number == 1:
            raise ValueError("no use")
        return made.number

    make = process(Value, id="made", map_over={"number": "numbers"})
    used = process(use, id="used", map_over={"made": "made"})
    run = pmflow.run([make, used], inputs={"numbers": range(3)}, targets="used", on_error="return")
    assert run["made_1"].data.number == 1
    assert [each.number for each in values.alive] == [1]
    with pytest.raises(ValueReleasedError):
        _ = run["made_0"].data


def test_a_map_that_is_a_target_is_kept() -> None:
    """A mapped target keeps its elements though a map over it has used them."""
    page = process(double, id="page", map_over={"number": "numbers"})
    words = process(lambda page: page + 1, id="words", map_over="page")
    run = pmflow.run([page, words], inputs={"numbers": [1, 2]}, targets=["page", "words"])
    assert run.data == {"page": [2, 4], "words": [3, 5]}
    assert run["page_1"].data == 4


def test_a_wide_map_runs_in_order_of_its_elements() -> None:
    """Elements are begun in order: on the loop without waiting in between, that is the order of the calls."""
    order: list[int] = []
    page = process(order.append, id="page", type="async", map_over={"object": "numbers"})
    pmflow.run(page, inputs={"numbers": range(5_000)})
    assert order == list(range(5_000))
