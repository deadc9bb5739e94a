"""S1 to S4 and S8: what is refused, before anything runs, and what the refusal says."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import case
from inside import raises

import pmflow
from pmflow import (
    ConfigurationError,
    CycleError,
    DuplicateProcessError,
    Graph,
    GraphError,
    InputError,
    MissingDependencyError,
    process,
)


def link(previous: int) -> int:
    raise AssertionError("a refused graph must not run")


def ring(size: int) -> list[Any]:
    """p0 needs the last one, every other its predecessor."""
    any_link, names = process(link), [f"p{i}" for i in range(size)]
    return [any_link.options(id=name, dependencies={"previous": names[i - 1]}) for i, name in enumerate(names)]


@case(size=(1, 2, 3))
def test_s1_a_cycle_is_refused_and_its_path_named(size: int) -> None:
    """A cycle, a self-dependency included, is refused before anything runs; the message walks around it."""
    with raises(CycleError, " -> ") as caught:
        pmflow.run(Graph(ring(size)))
    path = str(caught.error)
    assert {str(name) for name in caught.error.cycle} == {f"p{i}" for i in range(size)}
    assert all(any(f"{a} -> {b}" in path for b in _ring_names(size)) for a in _ring_names(size)), path
    assert isinstance(caught.error, GraphError)
    assert isinstance(caught.error, ValueError)


def _ring_names(size: int) -> list[str]:
    return [f"p{i}" for i in range(size)]


@case()
def test_s1_a_cycle_of_100_000_is_refused_without_recursion() -> None:
    """The longest cycle is refused like the shortest: whole in `cycle`, shortened to something readable in the text."""
    with raises(CycleError, " -> ", "p1") as caught:
        pmflow.run(Graph(ring(100_000)))
    assert len({str(name) for name in caught.error.cycle}) == 100_000
    assert len(str(caught.error)) < 10_000
    assert len(repr(caught.error)) < 10_000_000


@case()
def test_s1_cycles_by_after_and_by_map_are_cycles_too() -> None:
    """Every kind of edge closes a cycle."""

    @process(after=["second"])
    def first() -> None: ...

    @process
    def second(first: None) -> None: ...

    @process(map_over={"item": "items"})
    def item(item: int) -> int:
        return item

    @process
    def items(item: list[int]) -> list[int]:
        return item

    for processes in ([first, second], [item, items]):
        with raises(CycleError, " -> "):
            pmflow.run(Graph(processes))


@case()
def test_s1_a_function_whose_parameter_has_its_own_name_depends_on_itself() -> None:
    """A self-dependency by parameter name is a cycle of one, unless the parameter is fed from elsewhere."""

    @process
    def total(total: int) -> int:
        return total + 1

    with raises(CycleError, "total -> total"):
        pmflow.run(total)
    assert pmflow.run(total.options(dependencies={"total": "start"}), inputs={"start": 1}).value == 2


@case()
def test_s2_a_typo_is_named_with_the_nearest_name() -> None:
    """A parameter that nothing provides is refused: process, parameter, and the name that was probably meant."""
    started = []

    @process
    def total() -> int:
        started.append("total")
        return 1

    @process
    def report(totl: int, total: int) -> int:
        return totl + total

    with raises(MissingDependencyError, "'report'", "'totl'", "did you mean 'total'?") as caught:
        pmflow.run(report)
    error = caught.error
    assert (str(error.process_id), error.parameter, error.suggestion) == ("report", "totl", "total")
    with raises(MissingDependencyError, "'report'", "'totl'", "'top'"):
        pmflow.run(Graph([report, total]), inputs={"top": 3})
    assert started == []


@case()
def test_s2_a_missing_name_without_a_near_one_is_named_alone() -> None:
    """Where nothing is near, nothing is guessed."""

    @process
    def report(xyzzy: int) -> int:
        return xyzzy

    with raises(MissingDependencyError, "'report'", "'xyzzy'") as caught:
        pmflow.run(report)
    assert caught.error.suggestion is None
    assert "did you mean" not in str(caught.error)


@case()
def test_s2_after_dependencies_and_map_over_name_what_they_miss() -> None:
    """A name that is written out is missed as clearly as a parameter's."""

    @process
    def page() -> list[int]:
        return [1]

    def report(x: int = 1) -> int:
        return x

    for settings in ({"after": ["pag"]}, {"dependencies": {"x": "pag"}}, {"map_over": {"x": "pag"}}):
        with raises(MissingDependencyError, "'report'", "'pag'", "did you mean 'page'?"):
            pmflow.run(Graph([page, process(report, **settings)]))  # type: ignore[call-overload]


@case()
def test_s2_unknown_inputs_overrides_and_targets_are_refused() -> None:
    """A name given to `run` that means nothing there is an error, with the nearest that would."""

    @process
    def page(url: str) -> str:
        raise AssertionError(url)

    for mistake in (
        {"inputs": {"url": "x", "ulr": "y"}},
        {"inputs": {"url": "x"}, "overrides": {"pag": 1}},
        {"inputs": {"url": "x"}, "targets": ["pag"]},
        {"inputs": {"url": "x", "page": 3}},
    ):
        with raises(InputError):
            pmflow.run(Graph([page]), **mistake)  # type: ignore[call-overload]
    with raises(InputError, "ulr", "url"):
        pmflow.run(page, inputs={"url": "x", "ulr": "y"})
    with raises(InputError, "page", "overrides"):
        pmflow.run(page, inputs={"url": "x", "page": "y"})


@case()
def test_s3_both_definitions_of_a_duplicate_are_named() -> None:
    """Two processes of one id are refused with the file and line of both."""

    @process(id="page")
    def one() -> int:
        return 1

    @process(id="page")
    def two() -> int:
        return 2

    file = Path(__file__).name
    with raises(DuplicateProcessError, "'page'", file) as caught:
        pmflow.run([one, two])
    text = str(caught.error)
    assert text.count(file) == 2
    for function in (one, two):
        start = inspect.unwrap(function).__code__.co_firstlineno
        assert str(start) in text or str(start + 1) in text, (start, text)
    with raises(DuplicateProcessError, "'page'"):
        Graph([one, two])


@case()
def test_s3_an_element_like_name_beside_its_map_is_refused() -> None:
    """`page_3` beside a mapped `page` would be two processes of one id."""

    @process(map_over={"n": "numbers"})
    def page(n: int) -> int:
        return n

    @process
    def page_3() -> int:
        return 3

    with raises(GraphError, "page_3", "page"):
        pmflow.run([page, page_3], inputs={"numbers": [1]})


@case()
def test_s4_what_cannot_be_a_process_is_refused_in_one_sentence() -> None:
    """Not callable, `*args`: refused at decoration, naming what it is."""

    def greedy(*pages: str) -> None: ...

    for thing, word in ((3, "3"), ("page", "page"), (None, "None"), (greedy, "greedy"), (process, "")):
        with raises(ConfigurationError, word) as caught:
            process(thing)  # type: ignore[call-overload]
            process(id="other")(thing)  # type: ignore[call-overload]
        assert "\n" not in str(caught.error)
        assert len(str(caught.error)) < 400


@case()
def test_s4_unusual_callables_work_or_are_refused_in_one_sentence() -> None:
    """A class, a builtin with and without a signature, a generator function: each works, or says why not."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Point) and other.x == self.x

        __hash__ = None  # type: ignore[assignment]

    def count(x: int) -> Any:
        yield from range(x)

    def exact(x: int, /) -> int:
        return x

    expected: list[tuple[Callable[..., Any], Any, dict[str, Any]]] = [
        (Point, Point(3), {}),
        (count, [0, 1, 2], {}),
        (exact, 3, {}),
        (lambda x: x + 1, 4, {"id": "increment"}),
        (abs, 3, {"dependencies": {"x": "x"}}),
    ]
    for function, value, settings in expected:
        assert pmflow.run(process(function, **settings), inputs={"x": 3}).value == value

    for builtin in (vars, min, type, print):
        try:
            made = process(builtin)  # type: ignore[call-overload]
        except ConfigurationError as error:
            assert builtin.__name__ in str(error)
            assert "\n" not in str(error)
        else:
            assert made.config.process_id


BAD_TIMEOUTS: list[Any] = [0, 0.0, -1, -0.001, math.nan, math.inf, -math.inf, True, False, "5", b"5", [5], 1j, object()]


@case()
def test_s8_an_impossible_timeout_is_refused_at_decoration() -> None:
    """Zero, negative, NaN, infinite, a bool, a string: refused where they are written, by every spelling."""

    async def fetch() -> None: ...

    good = process(fetch, timeout=1)
    spellings: list[Callable[[Any], Any]] = [
        lambda timeout: process(timeout=timeout),
        lambda timeout: process(timeout=timeout)(fetch),
        lambda timeout: process(fetch, timeout=timeout),
        lambda timeout: process.defaults(timeout=timeout)(fetch),
        lambda timeout: good.options(timeout=timeout),
        lambda timeout: pmflow.ProcessConfig(timeout=timeout),
    ]
    accepted = []
    for timeout in BAD_TIMEOUTS:
        for number, spelling in enumerate(spellings):
            try:
                with raises(ConfigurationError, "timeout"):
                    spelling(timeout)
            except AssertionError as error:
                accepted.append((timeout, number, str(error)))
    assert accepted == []
    assert pmflow.run(good.options(timeout=None)).success
    assert pmflow.run(good.options(timeout=60)).success
    assert pmflow.run(process(fetch, timeout=0.5)).success


@case()
def test_s8_an_impossible_timeout_of_a_run_is_refused_before_anything_runs() -> None:
    """The run's own timeout has the same bounds."""
    started = []

    @process
    def step() -> None:
        started.append(1)

    for timeout in BAD_TIMEOUTS:
        with raises(ConfigurationError, "timeout"):
            pmflow.run(step, timeout=timeout)
    assert started == []


@case()
def test_s8_a_timeout_that_could_stop_nothing_is_refused() -> None:
    """A plain function on the loop cannot be stopped, so it takes no timeout: decoration says so."""

    def inline() -> None: ...

    with raises(ConfigurationError, "timeout", "inline"):
        process(inline, type="async", timeout=1)
    with raises(ConfigurationError, "timeout"):
        process(type="async", timeout=1)(inline)
