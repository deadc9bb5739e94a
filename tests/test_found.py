"""What users of the language have found: each a promise of its own, broken once."""

# pyright: reportUnknownLambdaType=false
# ruff: noqa: PLW0108 - the parameters of a lambda have names, which is what they are here for

import json
import pickle
import types
from typing import Any

import pytest

import pmflow
from pmflow import command, process
from pmflow.errors import ConfigurationError, MissingDependencyError, WorkflowError

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
    run = pmflow.run([twice, whole, after], inputs={"xs": [0, 1, 0]}, on_error="return")
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
    """Where a variable of the module that is run has the name, the error says which process it holds, and what to do."""
    module: Any = types.ModuleType("m")
    module.origin = command(["cat", "{path}"], id="other")
    module.two = process(function, id="two", **settings)
    with pytest.raises(MissingDependencyError) as caught:
        pmflow.run(module, inputs={"path": "/etc/hostname"})
    assert str(caught.value).partition("; ")[2] == f"the variable 'origin' is the process 'other': {remedy}'origin'"
