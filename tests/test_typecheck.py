"""Edges with annotations on both ends: what is refused when a graph is built, and what is never held against one."""

# pyright: reportUnknownLambdaType=false
# What is annotated here is annotated by the tests, with what each of them is about.

import asyncio
import collections
import contextlib
import functools
import io
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import types
from collections import abc
from collections.abc import Callable, Iterator
from typing import (
    IO,
    Annotated,
    Any,
    Dict,
    Generic,
    List,
    Literal,
    NamedTuple,
    NewType,
    NoReturn,
    Optional,
    Protocol,
    Sequence,
    TextIO,
    Tuple,
    TypedDict,
    TypeVar,
    Union,
)

import numpy as np
import numpy.typing as npt
import pytest

import pmflow
from pmflow import BaseProcess, Graph, GraphError, ProcessConfig, ProcessResult, TypeMismatchError, process
from pmflow.hints import Hints

T = TypeVar("T")
UserId = NewType("UserId", int)
AdminId = NewType("AdminId", UserId)


class Shape(Protocol):
    """A protocol."""

    def area(self) -> float: ...


class Square:
    """Has the protocol's shape."""

    def area(self) -> float:
        return 1.0


class Row(TypedDict):
    """A typed dictionary."""

    name: str


class Pair(NamedTuple):
    """A named tuple."""

    first: int
    second: str


class Box(Generic[T]):
    """A generic class of one's own."""


class Odd(type):
    """Has its own idea of what is an instance, as the array types of some libraries have."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class Array(metaclass=Odd):
    """Only an annotation."""


def source_of(annotation: Any, **settings: Any) -> Any:
    """Return the process 'made', which says that it returns this."""

    def made() -> Any: ...

    made.__annotations__ = {"return": annotation}
    return process(made, **settings)


def sink_of(annotation: Any, **settings: Any) -> Any:
    """Return the process 'taken', whose parameter 'made' is annotated so."""

    def taken(made: Any) -> Any: ...

    taken.__annotations__ = {"made": annotation}
    return process(taken, **settings)


def mapped_source(annotation: Any) -> Any:
    """Return the process 'made', called once per number."""

    def made(number: int) -> Any: ...

    made.__annotations__ = {"number": int, "return": annotation}
    return process(made, map_over={"number": "numbers"})


def refused(*processes: Any) -> tuple[str, str] | None:
    """Return which types a graph is refused for, wanted and made; None if it is not."""
    try:
        Graph(processes)
    except TypeMismatchError as error:
        return error.wanted, error.made
    return None


AGREE = [
    (int, int),
    (bool, int),
    (int, object),
    (int, float),
    (int, complex),
    (float, complex),
    (list[int], list[float]),
    (dict[str, int], abc.Mapping[str, complex]),
    (int, Optional[float]),
    (int, Any),
    (Any, int),
    (dict[str, Any], dict[str, int]),
    (list, list[int]),
    (list[int], list),
    (List[int], list[int]),
    (List, Sequence[int]),
    (Dict[str, int], dict[str, int]),
    (str, Sequence[str]),
    (str, abc.Iterable[str]),
    (list[str], list[Sequence[str]]),
    (range, abc.Sequence[int]),
    (collections.defaultdict, dict[str, int]),
    (collections.Counter[str], abc.Mapping[str, int]),
    (dict[str, int], abc.Iterable[str]),
    (tuple[int, int], Sequence[int]),
    (tuple[int, int], tuple[float, ...]),
    (tuple[int, ...], tuple[int, int]),
    (Tuple[int, str], tuple[int, str]),
    (Pair, tuple[int, str]),
    (None, None),
    (None, Optional[int]),
    (Union[int, None], Optional[int]),
    (Union[int, str], Union[str, int, bytes]),
    (Literal[1, 2], int),
    (Literal["a"], Sequence[str]),
    (Literal["a"], Literal["a", "b"]),
    (bool, bool),
    (Annotated[int, "note"], int),
    (int, Annotated[int, "note"]),
    (UserId, int),
    (AdminId, UserId),
    (UserId, float),
    (type[bool], type[int]),
    (type[int], type),
    (type[int], abc.Callable[..., Any]),
    (abc.Callable[[int], str], abc.Callable[[str], int]),
    (pathlib.Path, os.PathLike[str]),
    (pathlib.Path, Union[str, pathlib.PurePath]),
    (io.TextIOWrapper, TextIO),
    (io.TextIOWrapper, IO[str]),
    (Square, Shape),
    (int, Shape),
    (Shape, Square),
    (Row, dict[str, Any]),
    (Row, abc.Mapping[str, object]),
    (dict[str, str], Row),
    (Box[int], Box[str]),
    (Box, Box[int]),
    (T, int),
    (list[int], list[T]),
    (NoReturn, int),
    (np.ndarray, npt.NDArray[np.float64]),
    (npt.NDArray[np.int64], np.ndarray),
    (npt.NDArray[np.int64], npt.NDArray[np.float64]),
    (npt.NDArray[np.int64], npt.ArrayLike),
    (np.ndarray, Array),
    (np.float64, float),
    (abc.Generator[int, None, None], list[int]),
    (abc.Iterator[int], list[int]),
    (abc.Iterator[int], abc.Iterator[int]),
    (abc.Iterable[int], list[int]),
    (abc.AsyncIterator[int], list[float]),
    (abc.Awaitable[int], int),
    (abc.Coroutine[Any, Any, abc.Awaitable[int]], int),
    (asyncio.Future[int], int),
    (Union[int, asyncio.Future[int]], int),
    (map, list[int]),
    ("Nowhere", int),
    (int, "Nowhere"),
    (int, "not an annotation"),
    (int, 5),
    ("list['int']", list[int]),
    ("int", "float"),
]


@pytest.mark.parametrize(("made", "wanted"), AGREE, ids=str)
def test_what_agrees(made: Any, wanted: Any) -> None:
    """What fits, may fit, or cannot be judged, is let through."""
    assert refused(source_of(made), sink_of(wanted)) is None


DIFFER = [
    (str, int),
    (float, int),
    (complex, float),
    (object, int),
    (None, int),
    (Optional[int], int),
    (Union[int, str], Union[int, bytes]),
    (list[str], list[int]),
    (List[str], "list[int]"),
    (list[int], int),
    (list[int], tuple[int, ...]),
    (dict[str, int], dict[str, str]),
    (dict[str, list[str]], abc.Mapping[str, list[int]]),
    (dict[str, int], list[str]),
    (list[Any], dict[str, int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int]),
    (tuple[int, ...], Sequence[str]),
    (abc.Iterator[str], list[int]),
    (abc.Awaitable[str], int),
    (abc.AsyncIterator[str], list[int]),
    (set[int], frozenset[int]),
    (list[int], abc.Hashable),
    (str, Literal["a", "b"]),
    (Literal["c"], Literal["a", "b"]),
    (int, UserId),
    (pathlib.PurePath, pathlib.Path),
    (Row, int),
    (Box[int], Square),
    (type[str], int),
    (Annotated[str, "note"], "Optional[float]"),
    ("str", "int"),
]


@pytest.mark.parametrize(("made", "wanted"), DIFFER, ids=str)
def test_what_does_not_agree(made: Any, wanted: Any) -> None:
    """What does not fit is refused when the graph is built."""
    assert refused(source_of(made), sink_of(wanted)) is not None


def test_the_error_says_who_what_and_where() -> None:
    """It names both functions, both types, both files and lines, and the remedy; it can be pickled."""
    source, sink = source_of(list[str], id="fetch"), sink_of("list[int]", dependencies={"made": "fetch"})
    with pytest.raises(TypeMismatchError) as caught:
        Graph([sink, source])
    here = (f"{__file__}:{function.__wrapped__.__code__.co_firstlineno}" for function in (sink, source))
    places = tuple(here)
    message = (
        f"'taken' takes 'made' as list[int], and 'fetch' gives list[str]: see the function taken in {places[0]} and "
        f"the function made in {places[1]}; correct the annotation that is wrong (Any fits everything), or feed the "
        f"parameter from elsewhere with dependencies="
    )
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # noqa: S301 - its own
        assert isinstance(error, GraphError)
        assert str(error) == message
        assert vars(error) == {
            "process_id": "taken",
            "parameter": "made",
            "source": "fetch",
            "wanted": "list[int]",
            "made": "list[str]",
            "places": places,
        }


# Maps


def test_a_map_takes_elements() -> None:
    """A mapped process takes an element of what it goes over; where that has no known elements, anything."""
    each = {"map_over": "made"}
    assert refused(source_of(list[int]), sink_of(float, **each)) is None
    assert refused(source_of(tuple[int, str]), sink_of(Union[int, str], **each)) is None
    assert refused(source_of(abc.Iterator[int]), sink_of(int, **each)) is None
    assert refused(source_of(npt.NDArray[np.float64]), sink_of(str, **each)) is None
    assert refused(source_of(Optional[list[int]]), sink_of(str, **each)) is None
    assert refused(source_of(list), sink_of(str, **each)) is None
    assert refused(source_of(list[int]), sink_of(str, **each)) == ("str", "int")
    assert refused(source_of(tuple[int, str]), sink_of(int, **each)) is not None
    assert refused(source_of(abc.Iterator[int]), sink_of(str, **each)) == ("str", "int")
    with pytest.raises(TypeMismatchError, match="'taken' takes 'made' as str, and the elements of 'made' are int"):
        Graph([source_of(list[int]), sink_of(str, **each)])


def test_a_map_gives_a_list() -> None:
    """What takes a mapped process's name takes the list of what its calls return; mapped over it, what one returns."""
    mapped = mapped_source(int)
    assert refused(mapped, sink_of(list[float])) is None
    assert refused(mapped, sink_of(list[str])) == ("list[str]", "list[int]")
    assert refused(mapped, sink_of(int)) == ("int", "list[int]")
    assert refused(mapped, sink_of(int, map_over="made")) is None
    assert refused(mapped, sink_of(list[int], map_over="made")) == ("list[int]", "int")
    assert refused(mapped_source(abc.Iterator[int]), sink_of(list[list[int]])) is None


# Functions of every kind


def test_coroutine_functions_give_what_they_return() -> None:
    """An `async def` gives its awaited value; an asynchronous generator the list of what it yields."""

    @process(id="made")
    async def awaited() -> int:
        return 1

    @process(id="made")
    async def yielded() -> abc.AsyncIterator[int]:
        yield 1

    assert refused(awaited, sink_of(int)) is None
    assert refused(awaited, sink_of(str)) == ("str", "int")
    assert refused(yielded, sink_of(list[int])) is None
    assert refused(yielded, sink_of(list[str])) == ("list[str]", "list[int]")


def test_partials_and_methods() -> None:
    """A partial and a bound method have their function's annotations."""

    class Counter:
        def count(self, made: int, step: int = 1) -> int:
            return made + step

    method = process(Counter().count)
    assert refused(source_of(str), method) == ("int", "str")
    assert refused(source_of(str), process(functools.partial(Counter.count, Counter(), step=2))) == ("int", "str")
    assert refused(source_of(int), method, sink_of(str, id="end", dependencies={"made": "count"})) == ("str", "int")


def test_a_default_of_none_takes_none() -> None:
    """`made: int = None` is written for what may be None; another default says nothing of the value."""

    @process(id="taken")
    def none(made: int = None) -> None: ...  # type: ignore[assignment]  # as it was once written

    @process(id="taken")
    def zero(made: int = 0) -> None: ...

    assert refused(source_of(Optional[int]), none) is None
    assert refused(source_of(str), none) is not None
    assert refused(source_of(int), zero) is None
    assert refused(source_of(Optional[int]), zero) is not None


def test_what_takes_results_or_nothing_is_not_compared() -> None:
    """A parameter that takes the result itself, one of `**others`, and `after` have no value to compare."""

    def result(made: ProcessResult[str]) -> None: ...
    def results(made: list[ProcessResult[str]]) -> None: ...
    def others(**others: int) -> None: ...
    def nothing(other: int = 0) -> None: ...

    assert refused(source_of(int), process(result)) is None
    assert refused(mapped_source(int), process(results)) is None
    assert refused(mapped_source(int), process(result, map_over="made")) is None
    assert refused(source_of(str), process(others, dependencies={"made": "made"})) is None
    assert refused(source_of(str), process(nothing, after="made")) is None


def test_classes_and_wrapped_functions_promise_nothing() -> None:
    """Class-based processes, classes, callable objects, and what a decorator has wrapped are not compared."""

    class Old(BaseProcess):
        def process(self, input_data: str) -> int: ...

    class Made:
        def __init__(self) -> None: ...

    class Call:
        def __call__(self) -> str: ...

    @process
    @contextlib.contextmanager
    def made() -> Iterator[int]:
        yield 1

    assert refused(source_of(int), Old(ProcessConfig(process_id="old", dependencies=["made"]))) is None
    assert refused(Old(ProcessConfig(process_id="made")), sink_of(str)) is None
    assert refused(process(Made, id="made"), sink_of(Made)) is None
    assert refused(process(Call(), id="made"), sink_of(int)) is None
    assert refused(made, sink_of(contextlib.AbstractContextManager[int])) is None


def test_names_of_type_checkers_only() -> None:
    """Annotations that are texts are read where they were written; what is not there at run time is not compared."""
    module = types.ModuleType("written")
    text = """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from pmflow import process
        if TYPE_CHECKING:
            from somewhere import Table
        @process
        def made() -> list[str]: ...
        @process
        def table(made: list[str]) -> Table: ...
        @process
        def rows(table: int, made: Table) -> None: ...
        @process
        def wrong(made: list[int]) -> None: ...
    """
    exec(textwrap.dedent(text), vars(module))  # noqa: S102 - a module of its own
    assert refused(module.made, module.table, module.rows) is None
    assert refused(module.made, module.wrong) == ("list[int]", "list[str]")


def test_a_class_that_was_defined_anew() -> None:
    """In a notebook a cell is run again: its class is another one of the same name, and what used it goes on."""

    def defined() -> Any:
        class Page: ...

        return Page

    def new_id() -> Any:
        return NewType("PageId", int)

    before, after = defined(), defined()
    assert refused(source_of(after), sink_of(before)) is None
    assert refused(source_of(list[type("Sub", (after,), {})]), sink_of(list[before])) is None
    assert refused(source_of(new_id()), sink_of(new_id())) is None
    assert refused(source_of(after), sink_of(Square)) is not None


def test_an_annotation_that_raises() -> None:
    """Whatever an annotation does when it is looked at, the graph is built."""

    class Broken:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]  # equal to nothing

    assert refused(source_of(Broken()), sink_of(int)) is None
    assert refused(source_of("1 / 0"), sink_of(int)) is None


# Where graphs come from


def test_every_graph_is_checked() -> None:
    """What `run` gathers, what a process of `overrides` becomes part of, and a workflow are graphs too."""
    source, sink = source_of(str), sink_of(int)
    with pytest.raises(TypeMismatchError):
        pmflow.run([source, sink])
    with pytest.raises(TypeMismatchError):
        pmflow.run([source_of(int), sink], overrides={"made": source})
    with pytest.raises(TypeMismatchError):
        Graph([source_of(int), sink]).plan(overrides={"made": source})
    workflow = pmflow.Workflow()
    for each in (source, sink):
        each.register_to(workflow)
    with pytest.raises(TypeMismatchError):
        assert workflow.graph


def test_copies_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many copies of two functions a graph has, and however often it is built, they are compared once."""
    compared: list[Any] = []
    original: Callable[..., Any] = Hints._compared

    def counted(*args: Any, **kwargs: Any) -> Any:
        compared.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(Hints, "_compared", counted)
    source, sink = source_of(int), sink_of(int)
    copies = [
        each
        for number in range(1_000)
        for each in (
            source.options(id=f"s{number}"),
            sink.options(id=f"t{number}", dependencies={"made": f"s{number}"}),
        )
    ]
    Graph(copies)
    Graph(copies)
    assert len(compared) == 1


def test_what_a_function_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is fed by new ones again and again does not remember them all."""
    monkeypatch.setattr("pmflow.hints.KEPT", 10)
    sink = sink_of(int)
    for _ in range(100):
        Graph([source_of(int), sink])
    assert len(sink._function.hints._agreed) <= 10


# Without beartype

PROGRAM = """
import sys
{before}
from pmflow import Graph, TypeMismatchError, process

@process
def made() -> {made}: ...

@process
def taken(made: {wanted}): ...

@process
def more(taken, bare: int): ...

assert "beartype" not in sys.modules or sys.modules["beartype"] is None
try:
    Graph([made, taken, more])
except TypeMismatchError:
    print("refused", end=" ")
print(sys.modules.get("beartype") is not None)
"""


@pytest.mark.parametrize(
    ("made", "wanted", "before", "said"),
    [
        ("list[bool]", "list[float]", "", "False"),
        ("int", "str", "", "refused True"),
        ("int", "str", "sys.modules['beartype'] = None", "False"),
    ],
    ids=["agree", "differ", "not installed"],
)
def test_beartype_is_asked_last(made: str, wanted: str, before: str, said: str) -> None:
    """It is imported for the edge that would be refused, and for no other; where it is missing nothing is refused."""
    program = PROGRAM.format(made=made, wanted=wanted, before=before)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, said, "")
