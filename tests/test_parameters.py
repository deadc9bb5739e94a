"""Where a parameter gets its value: what `dependencies` says, overrides, inputs, processes, defaults.

`test_parameters_lookup.py` holds where processes are found, and what is said where they are not.
"""

import functools
import operator
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import pmflow
from pmflow import BaseProcess, Graph, ProcessConfig, ProcessId, ProcessState, Run, process
from pmflow.errors import (
    ConfigurationError,
    GraphError,
    InputError,
    MissingDependencyError,
    ValueReleasedError,
)

GENEROUS = 20.0

every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])


class Collect(BaseProcess):
    """A class process: its data is the data of all it depends on, or its input."""

    def __init__(self, process_id: str, **settings: Any) -> None:
        super().__init__(ProcessConfig(process_id=process_id, **settings))

    def process(self, input_data: Any) -> Any:
        if isinstance(input_data, dict) and self.config.dependencies:
            return {name: result.data for name, result in input_data.items()}
        return input_data


@process
def page(url: str) -> str:
    return f"text of {url}"


@process
def words(page: str) -> list[str]:
    return page.split()


@process
def report(words: list[str], top: int = 10) -> list[str]:
    return words[:top]


def data(run: Run[Any]) -> dict[str, Any]:
    """Return the data of every process, by id."""
    return {name: run[name].data for name in run}


# The five places


def test_a_process_of_that_name() -> None:
    """A parameter takes the result of the process of its name."""
    run = pmflow.run(report, inputs={"url": "a"})
    assert data(run) == {"page": "text of a", "words": ["text", "of", "a"], "report": ["text", "of", "a"]}
    assert run.value == ["text", "of", "a"]


def test_a_default_is_the_last_resort() -> None:
    """An input comes before a default; without one the default stands."""
    assert pmflow.run(report, inputs={"url": "a", "top": 2}).value == ["text", "of"]
    assert pmflow.run(report, inputs={"url": "a"}).value == ["text", "of", "a"]


def test_a_process_comes_before_a_default() -> None:
    """A process of a parameter's name comes before its default."""

    @process
    def top() -> int:
        return 1

    assert pmflow.run([report, top], inputs={"url": "a"}, targets=report).value == ["text"]


def test_dependencies_say_it_first() -> None:
    """What `dependencies` says comes before everything, whatever the parameter's own name means elsewhere."""

    @process
    def left() -> str:
        return "left"

    @process
    def right() -> str:
        return "right"

    @process(dependencies={"left": "right", "here": "place"})
    def both(left: str, here: str) -> tuple[str, str]:
        return left, here

    assert pmflow.run([both, left], inputs={"place": "there"})[both].data == ("right", "there")


@pytest.mark.parametrize("name", ["text", ProcessId("text"), "process"], ids=["string", "id", "process"])
def test_dependencies_take_any_id(name: Any) -> None:
    """A dependency is named by a string, a ProcessId or the process itself."""

    @process
    def text() -> str:
        return "a b"

    other = text if name == "process" else name

    @process(dependencies={"given": other})
    def size(given: str) -> int:
        return len(given)

    assert pmflow.run([size, text], targets=size).value == 3
    assert pmflow.run(size).value == 3


def test_after_passes_nothing() -> None:
    """What `after` names, one id or several, must have ended; nothing is passed."""
    order: list[str] = []

    @process
    def first() -> None:
        order.append("first")

    @process
    def second() -> None:
        order.append("second")

    @process(after=first)
    def third() -> None:
        order.append("third")

    @process(after=[ProcessId("third"), "second"])
    def last() -> None:
        order.append("last")

    pmflow.run([last, third, second, first])
    assert order.index("first") < order.index("third")
    assert order[-1] == "last"
    assert sorted(order) == ["first", "last", "second", "third"]


def test_a_bare_string_is_one_id() -> None:
    """`after="first"` names one process, never five letters."""
    order: list[str] = []

    @process
    def first() -> None:
        order.append("first")

    @process(after="first")
    def last() -> None:
        order.append("last")

    pmflow.run([last, first])
    assert order == ["first", "last"]


# Kinds of parameters


@every_type
def test_positional_only_parameters(kind: str) -> None:
    """Positional-only parameters are passed by position, also after one that keeps its default."""

    def place(first: int, second: int = 2, /, third: int = 3, *, fourth: int = 4) -> list[int]:
        return [first, second, third, fourth]

    placed = process(place, type=kind)
    assert pmflow.run(placed, inputs={"first": 1, "fourth": 40}).value == [1, 2, 3, 40]
    assert pmflow.run(placed, inputs={"first": 1, "second": 20}).value == [1, 20, 3, 4]


def test_star_args_are_refused() -> None:
    """`*args` has no names to wire: it is refused at decoration, naming the process and the parameter."""
    with pytest.raises(ConfigurationError, match=r"total.*\*numbers"):

        @process
        def total(*numbers: int) -> int:
            return sum(numbers)


@every_type
def test_keyword_arguments_receive_what_dependencies_name(kind: str) -> None:
    """`**kwargs` receives what `dependencies` names beyond the parameters, and nothing else."""

    def gather(page: str, **more: Any) -> dict[str, Any]:
        return {"page": page, **more}

    gathered = process(gather, type=kind, dependencies={"left": "x", "right": "words"})
    run = pmflow.run([gathered, page, words], inputs={"url": "a", "x": 1}, targets="gather")
    assert run.value == {"page": "text of a", "left": 1, "right": ["text", "of", "a"]}
    lone = process(gather, id="lone")
    assert pmflow.run([lone, page], inputs={"url": "a"}, targets="lone").value == {"page": "text of a"}


def test_dependencies_name_parameters() -> None:
    """`dependencies` of a name that is no parameter is refused at decoration, with the nearest one."""
    with pytest.raises(ConfigurationError, match=r"size.*'txet'.*did you mean 'text'"):

        @process(dependencies={"txet": "page"})
        def size(text: str) -> int:
            return len(text)


def test_map_over_names_parameters() -> None:
    """`map_over` of a name that is no parameter is refused at decoration, with the nearest one."""
    with pytest.raises(ConfigurationError, match=r"size.*'txet'.*did you mean 'text'"):

        @process(map_over={"txet": "pages"})
        def size(text: str) -> int:
            return len(text)


# Inputs


def test_any_value_is_an_input() -> None:
    """An input is passed as the object that it is, to every process that asks; None and exceptions are values too."""
    given = object()
    error = ValueError("no failure, a value")

    @process
    def left(x: object, y: object, z: object) -> tuple[object, object, object]:
        return x, y, z

    @process
    def right(x: object) -> object:
        return x

    run = pmflow.run([left, right], inputs={"x": given, "y": None, "z": error})
    assert run.data == {"left": (given, None, error), "right": given}


def test_inputs_of_class_processes() -> None:
    """For a class process without dependencies, `inputs[id]` is its `input_data`."""
    run = pmflow.run([Collect("left"), Collect("right")], inputs={"left": [1], "right": {"a": 2}})
    assert run.data == {"left": [1], "right": {"a": 2}}


def test_an_unknown_input_is_an_error() -> None:
    """An input that no process asks for is refused, with the nearest name."""
    with pytest.raises(InputError, match=r"'ulr'.*did you mean 'url'") as caught:
        pmflow.run(report, inputs={"url": "a", "ulr": "b"})
    assert (caught.value.name, caught.value.suggestion) == ("ulr", "url")


def test_an_input_of_the_whole_graph_is_known() -> None:
    """An input that only a process outside of the targets' ancestors asks for is no error."""

    @process
    def other(place: str) -> str:
        return place

    assert pmflow.run([page, other], inputs={"url": "a", "place": "b"}, targets=page).value == "text of a"


def test_an_input_named_like_a_process() -> None:
    """An input named like a function process is refused and pointed to `overrides`."""
    for given in (report, [report, page]):
        with pytest.raises(InputError, match=r"'page'.*overrides"):
            pmflow.run(given, inputs={"url": "a", "page": "text"})


# Overrides


def test_override_by_a_value() -> None:
    """An overridden process does not run, nor what only it needs; its result is the value."""
    run = pmflow.run(report, overrides={"page": "b c"})
    assert data(run) == {"page": "b c", "words": ["b", "c"], "report": ["b", "c"]}
    assert (run["page"].state, run["page"].success) == (ProcessState.COMPLETED, True)


@pytest.mark.parametrize("key", ["page", ProcessId("page"), page], ids=["string", "id", "process"])
def test_override_takes_any_id(key: Any) -> None:
    """An override names its process by a string, a ProcessId or the process itself."""
    assert pmflow.run(report, overrides={key: "b c"}).value == ["b", "c"]


def test_override_by_none() -> None:
    """None is a value to override with."""

    @process
    def is_none(page: object) -> bool:
        return page is None

    assert pmflow.run(is_none, overrides={"page": None}).value is True


def test_override_by_a_process() -> None:
    """Another process takes the overridden one's place, with dependencies of its own."""

    @process
    def saved(path: str) -> str:
        return f"saved {path}"

    run = pmflow.run(report, overrides={"page": saved}, inputs={"path": "p"})
    assert run.value == ["saved", "p"]
    assert run["page"].data == "saved p"


def test_override_of_a_target() -> None:
    """A target may be overridden itself: nothing runs."""
    assert pmflow.run(report, overrides={report: ["done"]}).value == ["done"]


def test_override_of_a_class_process() -> None:
    """A class process may be overridden like any other."""
    heir = Collect("heir", dependencies=["page"])
    assert pmflow.run([Collect("page"), heir], overrides={"page": 5}, targets="heir").value == {"page": 5}


def test_an_unknown_override_is_an_error() -> None:
    """An override of no process is refused, with the nearest name."""
    with pytest.raises(InputError, match=r"'wrods'.*did you mean 'words'"):
        pmflow.run(report, inputs={"url": "a"}, overrides={"wrods": []})


# Targets


@pytest.mark.parametrize(
    "targets",
    ["words", ["words"], ProcessId("words"), words, [words]],
    ids=["string", "list", "id", "process", "processes"],
)
def test_only_the_ancestors_of_targets_run(targets: Any) -> None:
    """`targets`, one id or several in any spelling: only they and their ancestors run."""
    run = pmflow.run([report, words, page], inputs={"url": "a"}, targets=targets)
    assert list(run) == ["page", "words"]
    assert run.data == {"words": ["text", "of", "a"]}


def test_processes_given_are_targets() -> None:
    """Without `targets`, the processes given to `run` are the targets, also where one needs another."""
    run = pmflow.run([words, page], inputs={"url": "a"})
    assert run.data == {"words": ["text", "of", "a"], "page": "text of a"}


def test_targets_of_a_graph() -> None:
    """Without `targets`, the targets of a graph are the processes nothing depends on."""
    graph = Graph([page, words, report, Collect("other")])
    assert sorted(str(name) for name in graph.targets) == ["other", "report"]
    assert set(pmflow.run(graph, inputs={"url": "a", "other": 1}).data) == {"other", "report"}


def test_an_unknown_target_is_an_error() -> None:
    """A target that is no process is refused, with the nearest name."""
    with pytest.raises(InputError, match=r"'reprot'.*did you mean 'report'"):
        pmflow.run([report, words, page], inputs={"url": "a"}, targets="reprot")


# What is kept


def test_everything_is_kept_by_default() -> None:
    """Without `targets`, every process's data stays."""
    run = pmflow.run(report, inputs={"url": "a"})
    assert run[page].data == "text of a"


@pytest.mark.parametrize("settings", [{"targets": "report"}, {"keep": "targets"}], ids=["targets", "keep"])
def test_what_is_no_target_is_released(settings: dict[str, str]) -> None:
    """With `targets=`, or `keep="targets"`, the data of others is released; the error names the remedy."""
    run = pmflow.run(report, inputs={"url": "a"}, **settings)
    assert run.value == ["text", "of", "a"]
    with pytest.raises(ValueReleasedError, match=r'page.*keep="all"') as caught:
        _ = run[page].data
    assert caught.value.process_id == "page"
    assert (run[page].success, run[page].state) == (True, ProcessState.COMPLETED)
    with pytest.raises(ValueReleasedError):
        run[page].unwrap()


def test_keep_all_with_targets() -> None:
    """`keep="all"` keeps everything, also where `targets` are given."""
    run = pmflow.run([report, words, page], inputs={"url": "a"}, targets=report, keep="all")
    assert run[page].data == "text of a"


def test_a_value_is_kept_until_its_dependants_have_completed() -> None:
    """A value that a failed process needed stays, so that it can be tried again."""

    @process
    def broken(page: str) -> str:
        raise ValueError(page)

    run = pmflow.run([broken, page], inputs={"url": "a"}, targets=broken, on_error="return")
    assert run[page].data == "text of a"


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": "some"},
        {"on_error": "ignore"},
        {"type": "quantum"},
        {"timeout": 0},
        {"max_threads": 0},
        {"max_processes": True},
    ],
    ids=str,
)
def test_impossible_arguments_of_run(settings: dict[str, Any]) -> None:
    """An impossible argument of `run` is refused before anything runs."""
    ran: list[int] = []

    @process
    def note() -> None:
        ran.append(1)

    with pytest.raises((ConfigurationError, GraphError), match=next(iter(settings))):
        pmflow.run(note, **settings)
    assert ran == []


# What stops a run


@process
def broken() -> None:
    raise ValueError("no such page")


def test_on_error_return() -> None:
    """`on_error="return"` returns the run, whose independent work is done all the same."""
    run = pmflow.run([broken, words], inputs={"url": "a"}, on_error="return")
    assert not run.success
    assert data(run) == {"broken": None, "page": "text of a", "words": ["text", "of", "a"]}
    assert list(run.failures) == ["broken"]


def test_on_error_raise() -> None:
    """By default a failure of a required process is raised: the originals, and all that was finished."""
    with pytest.raises(pmflow.WorkflowError, match="broken") as caught:
        pmflow.run([words, broken], inputs={"url": "a"}, fail_fast=False)
    error = caught.value
    assert [(type(one), one.args) for one in error.exceptions] == [(ValueError, ("no such page",))]
    assert 'raise ValueError("no such page")' in str(error)
    assert error.run is not None
    assert error.run["words"].data == ["text", "of", "a"]
    notes = getattr(error.exceptions[0], "__notes__", [])
    assert len(notes) == 1
    assert "broken" in notes[0]
    assert "attempt 1" in notes[0]


@pytest.mark.parametrize(
    ("settings", "stopped"),
    [
        ({}, True),
        ({"fail_fast": False}, False),
        ({"on_error": "return"}, False),
        ({"on_error": "return", "fail_fast": True}, True),
    ],
    ids=["raise", "raise-slow", "return", "return-fast"],
)
def test_fail_fast(settings: dict[str, Any], *, stopped: bool) -> None:
    """`fail_fast` stops at the first failure: by default where the run raises, not where it returns."""
    failed = threading.Event()

    def note(event: pmflow.Event) -> None:
        if (event.kind, event.process_id) == ("process_ended", "broken"):
            failed.set()

    @process
    async def other() -> str:
        with anyio.fail_after(GENEROUS):
            while not failed.is_set():
                await anyio.lowlevel.checkpoint()
            for _ in range(100 if stopped else 0):  # one of these is where it is stopped
                await anyio.lowlevel.checkpoint()
        return "done"

    @process
    def heir(other: str) -> str:
        return other

    try:
        run: Run[Any] | None = pmflow.run([broken, heir], hooks=[note], **settings)
    except pmflow.WorkflowError as error:
        run = error.run
    assert run is not None
    end = ProcessState.CANCELLED if stopped else ProcessState.COMPLETED
    assert {name: run[name].state for name in run} == {"broken": ProcessState.FAILED, "other": end, "heir": end}


def test_a_timeout_of_the_whole_run() -> None:
    """`timeout` stops the run; what had finished is in the error's `.run`."""

    @process
    async def endless() -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError) as caught:
        pmflow.run([endless, words], inputs={"url": "a"}, timeout=0.5)
    run = getattr(caught.value, "run", None)
    assert run is not None
    assert (run["words"].data, run["endless"].state) == (["text", "of", "a"], ProcessState.CANCELLED)


# type


def test_type_async_runs_in_the_callers_own_thread() -> None:
    """Under `type="async"` a graph of plain functions runs in the caller's own thread."""

    @process(type="process")
    def left() -> int:
        return threading.get_ident()

    @process
    def right(left: int) -> tuple[int, int]:
        return left, threading.get_ident()

    own = threading.get_ident()
    assert pmflow.run(right, type="async").value == (own, own)
    assert pmflow.run(right, type=pmflow.ProcessType.ASYNC).value == (own, own)


def test_type_overrides_every_strategy() -> None:
    """`type` overrides the strategy of each process, and the results say so."""
    run = pmflow.run(report, inputs={"url": "a"}, type="process")
    assert {name: run[name].strategy for name in run} == dict.fromkeys(run, pmflow.ProcessType.PROCESS)
    assert run.value == ["text", "of", "a"]


# What plain functions may return


@every_type
def test_a_returned_awaitable_is_awaited(kind: str) -> None:
    """A plain function may return an awaitable: its result is the result."""

    async def later(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return number + 1

    def promise(number: int) -> Awaitable[int]:
        return later(number)

    assert pmflow.run(process(promise, type=kind), inputs={"number": 1}).value == 2


@every_type
def test_a_partial_of_a_coroutine_function_is_awaited(kind: str) -> None:
    """A partial of a coroutine function counts as what it is."""

    async def add(left: int, right: int) -> int:
        await anyio.lowlevel.checkpoint()
        return left + right

    assert pmflow.run(process(functools.partial(add, right=2), id="add", type=kind), inputs={"left": 1}).value == 3


@every_type
def test_a_returned_iterator_is_a_list(kind: str) -> None:
    """A plain function may return an iterator: plain parameters and targets get the list."""

    def letters(text: str) -> Iterator[str]:
        yield from text

    def upper(letters: list[str]) -> Iterator[str]:
        assert type(letters) is list
        return map(str.upper, letters)

    run = pmflow.run(
        [process(upper, type=kind), process(letters, type=kind)], inputs={"text": "ab"}, targets="upper", keep="all"
    )
    assert data(run) == {"letters": ["a", "b"], "upper": ["A", "B"]}


@every_type
def test_an_iterator_that_fails_is_a_failure(kind: str) -> None:
    """An exception while an iterator is consumed is the process's failure."""

    def letters() -> Iterator[str]:
        yield "a"
        raise ValueError("no more")

    run = pmflow.run(process(letters, type=kind), on_error="return")
    assert (run["letters"].state, run["letters"].error) == (ProcessState.FAILED, "no more")


# What can be a process


class Adder:
    """Something to make processes of."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def add(self, number: int) -> int:
        return number + self.amount

    def __call__(self, number: int) -> int:
        return number + self.amount


def closure(amount: int) -> Any:
    """Return a function that remembers."""

    def add(number: int) -> int:
        return number + amount

    return add


@every_type
@pytest.mark.parametrize(
    "function",
    [
        lambda number: number + 2,
        closure(2),
        functools.partial(operator.add, 2),
        Adder(2).add,
        Adder(2),
        functools.partial(Adder(2).add),
    ],
    ids=["lambda", "closure", "partial of a builtin", "bound method", "callable", "partial of a method"],
)
def test_callables_of_every_kind(function: Any, kind: str) -> None:
    """`process(function)` takes lambdas, closures, partials, methods, callables and builtins, on every strategy."""
    if getattr(function, "func", None) is operator.add:
        assert pmflow.run(process(function, id="two", type=kind), inputs={"b": 3}).value == 5
    else:
        assert pmflow.run(process(function, id="two", type=kind), inputs={"number": 3}).value == 5


@every_type
def test_a_builtin(kind: str) -> None:
    """A builtin's parameters are wired by their names."""
    assert pmflow.run(process(sorted, id="in_order", type=kind), inputs={"iterable": [3, 1, 2]}).value == [1, 2, 3]


def test_a_class_is_a_function_too() -> None:
    """A class is called like a function: its parameters are those of its construction."""
    assert pmflow.run(process(Adder), inputs={"amount": 2}).value.amount == 2


def test_calling_a_process_calls_the_function() -> None:
    """A process is still your function: calling it calls it, in any spelling of its arguments."""
    assert page("a") == "text of a"
    assert page(url="a") == "text of a"
    assert report(["a", "b"], top=1) == ["a"]
    with pytest.raises(ZeroDivisionError):
        process(lambda: 1 // 0)()


@pytest.mark.anyio
async def test_calling_a_coroutine_process_gives_a_coroutine() -> None:
    """Calling a decorated coroutine function gives a coroutine, to be awaited by the caller."""

    @process
    async def number() -> int:
        await anyio.lowlevel.checkpoint()
        return 5

    assert await number() == 5


def test_options_is_a_changed_copy() -> None:
    """`fetch.options(...)` is a changed copy; the original stays as it was."""

    @process(timeout=5, retries=2)
    def fetch(url: str) -> str:
        return f"text of {url}"

    fast = fetch.options(timeout=1, id="fast")
    assert (fetch.config.timeout, str(fetch.config.process_id)) == (5, "fetch")
    assert (fast.config.timeout, str(fast.config.process_id), fast.config.retry_strategy) == (
        1,
        "fast",
        fetch.config.retry_strategy,
    )
    assert fast("a") == "text of a"
    assert pmflow.run([fetch, fast], inputs={"url": "a"}).data == {"fetch": "text of a", "fast": "text of a"}


def test_defaults_is_a_decorator_with_other_defaults() -> None:
    """`process.defaults(...)` is a decorator with other defaults, in all of its spellings."""
    robust = process.defaults(retries=2, timeout=5)

    @robust
    def left() -> None: ...

    @robust(timeout=1)
    def right() -> None: ...

    third = robust(lambda: None, id="third")
    fourth = robust.defaults(timeout=7)(lambda: None, id="fourth")
    settings = [(str(one.config.process_id), one.config.timeout) for one in (left, right, third, fourth)]
    assert settings == [("left", 5), ("right", 1), ("third", 5), ("fourth", 7)]
    assert {one.config.retry_strategy for one in (left, right, third, fourth)} == {pmflow.RetryStrategy(max_retries=2)}
    assert process(lambda: None, id="other").config.timeout is None


def test_signature_and_docstring_survive() -> None:
    """A process has its function's name, docstring, module and signature."""
    import inspect

    def plain(url: str, top: int = 3) -> str:
        """Say so."""
        return url * top

    decorated = process(plain)
    assert inspect.signature(decorated) == inspect.signature(plain)
    assert (decorated.__name__, decorated.__doc__, decorated.__module__) == ("plain", "Say so.", __name__)
    assert decorated.__wrapped__ is plain


def test_function_and_class_processes_mix() -> None:
    """Function processes and class processes feed one another in one run."""
    size = process(lambda heir: len(heir["page"]), id="size")
    heir = Collect("heir", dependencies=["page"])
    run = pmflow.run([size, heir, page], inputs={"url": "a"}, targets=size, keep="all")
    assert data(run) == {"page": "text of a", "heir": {"page": "text of a"}, "size": 9}


def test_missing_parameters_are_refused_before_anything_runs() -> None:
    """A parameter that nothing provides is refused before anything runs, with the process and the nearest name."""
    ran: list[int] = []

    @process
    def first() -> None:
        ran.append(1)

    @process(after=first)
    def last(frist: int) -> None:
        ran.append(2)

    with pytest.raises(MissingDependencyError, match=r"'last'.*'frist'.*did you mean 'first'") as caught:
        pmflow.run([first, last])
    facts = (caught.value.process_id, caught.value.parameter, caught.value.suggestion)
    assert facts == ("last", "frist", "first")
    assert ran == []
