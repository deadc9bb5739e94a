"""What users of the language have found: each a promise of its own, broken once."""

# pyright: reportUnknownLambdaType=false

import json
import pickle
import types
from typing import Any

import pytest

import pmflow
from pmflow import ProcessResult, command, cross, process
from pmflow.errors import ConfigurationError, MissingDependencyError, ValueReleasedError, WorkflowError

every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])

# The user's own line, whoever ran it


def first(free: list[int]) -> int:
    """Look into a list."""
    return free[0] + 1


def decode(text: str) -> Any:
    """Fail in the standard library, called from here."""
    return json.loads(text)


def caused(text: str) -> Any:
    """Fail because of another failure, which is raised elsewhere."""
    try:
        return decode(text)
    except ValueError as error:
        raise OSError("no text") from error


def quoting(text: str) -> None:
    """Fail with a message that quotes a traceback."""
    quoted = f'Traceback (most recent call last):\n  File "{text}", line 7, in there\n    lost\nOSError: {text}'
    raise OSError(quoted)


def grouped(text: str) -> None:
    """Fail with several exceptions at once, as a run does."""
    pmflow.run(process(lambda: decode(text), id="inner"))


def line_of(function: Any, number: int, text: str) -> list[str]:
    """Return what an error says of a line of a function, the first of whose code is number 0."""
    return [
        f"    {__file__}:{function.__code__.co_firstlineno + number}, in {function.__name__}",
        f"      {text}",
    ]


@every_type
@pytest.mark.parametrize(
    ("function", "argument", "number", "text"),
    [
        (first, [], 2, "return free[0] + 1"),
        (decode, "no", 2, "return json.loads(text)"),
        (caused, "no", 5, 'raise OSError("no text") from error'),
        (quoting, "elsewhere.py", 3, "raise OSError(quoted)"),
        (grouped, "no", 2, 'pmflow.run(process(lambda: decode(text), id="inner"))'),
    ],
    ids=["own", "library", "cause", "quoted", "group"],
)
def test_an_error_shows_the_users_line(kind: Any, function: Any, argument: Any, number: int, text: str) -> None:
    """File, line and code, from a worker as from a thread: where the user's code was, not the library it called."""
    parameter = function.__code__.co_varnames[0]
    with pytest.raises(WorkflowError) as caught:
        pmflow.run(process(function, id="it", type=kind), inputs={parameter: argument})
    lines = caught.value.message.splitlines()
    assert lines[-3:-1] == line_of(function, number, text)


# What does not run


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_overridden_needs_no_limit(mapped: bool) -> None:
    """The limit that an overridden process names need not be given to the run; that of one that runs still has to."""
    settings: Any = {"map_over": "u"} if mapped else {}
    lim = process(lambda u: u, id="lim", limit="shop", **settings)
    use = process(lambda lim: lim, id="use", limit=1)
    assert pmflow.run([use, lim], targets="use", overrides={"lim": 3}).value == 3
    with pytest.raises(ConfigurationError, match="'lim' has the limit 'shop'"):
        pmflow.run([use, lim], targets="use", inputs={"u": []})


# What a result says without being asked


def test_a_map_says_which_of_its_elements_have_no_value() -> None:
    """Its result counts them, in the text of the run too: a map of which an element may fail is COMPLETED without."""
    inverse = process(lambda x: 1 / x, id="inverse", map_over={"x": "xs"}, required=False)
    twice = process(lambda inverse: 2 * inverse, id="twice", map_over="inverse")
    whole = process(lambda x: x, id="whole", map_over={"x": "xs"})
    strict = process(lambda x: 1 / x, id="strict", map_over={"x": "xs"})
    after = process(lambda strict: strict, id="after", map_over="strict")
    run = pmflow.run([twice, inverse, whole, after, strict], inputs={"xs": [0, 1, 0]}, on_error="return")
    assert {name: (result.state.value, result.reason) for name, result in run.items()} == {
        "inverse": ("completed", "of 3 elements 2 failed"),
        "twice": ("completed", "of 3 elements 2 skipped"),
        "whole": ("completed", None),
        "strict": ("failed", "of 3 elements 2 failed"),
        "after": ("skipped", "of 3 elements 2 skipped"),
    }
    for shown in (repr(run), run._repr_html_(), run.to_json()):
        assert [shown.count(f"of 3 elements 2 {what}") for what in ("failed", "skipped")] == [2, 2]
    empty = pmflow.run(whole, inputs={"xs": []})
    assert empty["whole"].reason is None


def test_a_fallback_says_what_it_stands_in_for() -> None:
    """The process is COMPLETED; its result says so, and tells of the failure all that it would have told of it."""
    settings: Any = {"fallback": 7}
    for kind in ("thread", "process"):
        failed = pmflow.run(process(first, id="fb", type=kind), inputs={"free": []}, on_error="return")["fb"]
        run = pmflow.run(process(first, id="fb", type=kind, **settings), inputs={"free": []})
        result = run["fb"]
        assert (result.success, result.state.value, result.data) == (True, "completed", 7)
        assert result.reason == "its fallback stands in for IndexError: list index out of range"
        for shown in (repr(run), run._repr_html_(), run.to_json()):
            assert shown.count("its fallback stands in for IndexError") == 1
        for each in (result, pickle.loads(pickle.dumps(run))["fb"]):  # noqa: S301 - its own bytes
            assert (each.error, each.error_type, each.error_message) == (failed.error, "IndexError", failed.error)
            assert (each.metadata.last_error, each.reason) == (failed.error, result.reason)
        assert str(result.traceback).replace(", line ", "") == str(failed.traceback).replace(", line ", "")
        assert "return free[0] + 1" in (result.traceback or "")


def test_a_map_says_which_of_its_elements_fell_back() -> None:
    """Among those that have a value of their own, too."""
    inverse = process(lambda x: 1 / x, id="inverse", map_over={"x": "xs"}, fallback=0)
    run = pmflow.run(inverse, inputs={"xs": [0, 1, 0]})
    assert (run.value, run["inverse"].reason) == ([0, 1, 0], "of 3 elements 2 fell back")
    assert run["inverse_0"].reason == "its fallback stands in for ZeroDivisionError: division by zero"


# What is missing


@pytest.mark.parametrize(
    ("function", "settings", "remedy"),
    [
        (lambda origin: origin, {}, "ask for it by that id, with dependencies={'origin': 'other'}, or give it id="),
        (lambda x: x, {"dependencies": {"x": "origin"}}, "ask for it by that id, or give it id="),
        (lambda origin: origin, {"map_over": "origin"}, "ask for it by that id, or give it id="),
        (lambda: None, {"after": "origin"}, "ask for it by that id, or give it id="),
    ],
    ids=["parameter", "dependencies", "map_over", "after"],
)
def test_a_process_under_another_id_is_named(function: Any, settings: Any, remedy: str) -> None:
    """Where a variable of the module that is run has the name, the error says which process it holds, and a remedy."""
    module: Any = types.ModuleType("m")
    module.origin = command(["cat", "{path}"], id="other")
    module.two = process(function, id="two", **settings)
    with pytest.raises(MissingDependencyError) as caught:
        pmflow.run(module, inputs={"path": "/etc/hostname"})
    assert str(caught.value).partition("; ")[2] == f"the variable 'origin' is the process 'other': {remedy}'origin'"


# A list in the place of a map


def mapped_page(**settings: Any) -> Any:
    """Return a mapped process that never runs."""
    return process(lambda u: 1 / 0, id="page", map_over={"u": "us"}, **settings)


@pytest.mark.parametrize("pages", [["a", "b"], ("a", "b")], ids=["list", "tuple"])
def test_a_list_stands_for_the_elements_of_a_map(pages: Any) -> None:
    """Each has its place and its result, as if it had run; nothing was started for it."""

    def results(page: list[ProcessResult]) -> Any:
        return [(each.process_id, each.data) for each in page]

    run = pmflow.run([process(results), mapped_page()], targets="results", overrides={"page": pages}, keep="all")
    assert run.value == [("page_0", "a"), ("page_1", "b")]
    assert (run["page"].data, run["page_1"].data, "page_2" in run) == (["a", "b"], "b", False)
    assert [(run[name].attempts, run[name].success) for name in ("page", "page_0")] == [(0, True)] * 2
    assert len(run.to_dict()["processes"][0]["elements"]) == 2
    released = pmflow.run([process(results), mapped_page()], targets="results", overrides={"page": pages})
    assert released.value == run.value
    for name in ("page", "page_1"):
        with pytest.raises(ValueReleasedError):
            _ = released[name].data
    assert pages[1] == "b"


def test_maps_go_along_with_a_list_in_the_place_of_a_map() -> None:
    """Its elements pair by index with those of maps over it, also after dropped ones, as values and as results."""
    size = process(lambda page: 6 // page, id="size", map_over="page", required=False)

    def pair(page: int, size: ProcessResult) -> Any:
        return page, size.success

    def both(page: list[ProcessResult], size: list[ProcessResult]) -> Any:
        return [(one.data, other.success) for one, other in zip(page, size, strict=True)]

    def named(page: ProcessResult, size: int) -> Any:
        return page.process_id, size

    over: Any = {"map_over": {"page": "page", "size": "size"}}
    users = [process(both), process(pair, **over), process(named, **over)]
    run = pmflow.run([*users, size, mapped_page()], targets=["pair", "both", "named"], overrides={"page": [3, 0, 2]})
    assert run.data == {
        "both": [(3, True), (0, False), (2, True)],
        "pair": [(3, True), (0, False), (2, True)],
        "named": [("page_0", 2), ("page_2", 3)],
    }


@pytest.mark.parametrize("value", [{"a": 1}, "ab", None, 3])
def test_another_value_in_the_place_of_a_map_stays_as_it_is(value: Any) -> None:
    """What is no list has no elements."""
    run = pmflow.run([process(lambda page: page, id="it"), mapped_page()], targets="it", overrides={"page": value})
    assert (run.value, "page_0" in run) == (value, False)


def test_no_elements_in_the_place_of_a_map() -> None:
    """An empty list is a map of nothing."""
    size = process(lambda page: page, id="size", map_over="page")
    run = pmflow.run([size, mapped_page()], targets="size", overrides={"page": []})
    assert (run.value, run["page"].state.value) == ([], "completed")


def test_outputs_of_a_list_in_the_place_of_a_map() -> None:
    """Each is a map over the tuples that are given; one of them alone may be given too."""
    page = mapped_page(outputs=("low", "high"))
    use = process(lambda low, high: (low, high), id="use")
    assert pmflow.run([use, page], targets="use", overrides={"page": [(1, 2), (3, 4)]}).value == ([1, 3], [2, 4])
    only = process(lambda low: low, id="only", map_over="low")
    assert pmflow.run([only, page], targets="only", overrides={"low": [5, 6]}).value == [5, 6]


def test_a_cross_over_a_map_takes_results() -> None:
    """Where the parameter is annotated so, of elements that have failed too: their failure is handled."""

    def cell(x: int, inverse: ProcessResult) -> Any:
        return x, inverse.success

    inverse = process(lambda y: 1 / y, id="inverse", map_over={"y": "ys"})
    cells = process(cell, map_over=cross(x="xs", inverse="inverse"))
    run = pmflow.run([cells, inverse], targets="cell", inputs={"xs": [1, 2], "ys": [0, 1]})
    assert run.value == [(1, False), (1, True), (2, False), (2, True)]
