"""What can be run, where processes are found, and what is said where they are not."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import importlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import pmflow
from pmflow import BaseProcess, Graph, ProcessConfig, Workflow, process
from pmflow.errors import DuplicateProcessError, GraphError, MissingDependencyError, PmflowError

ran: list[str] = []


@process
def page(url: str) -> str:
    """Return the text of a page, of this module."""
    return f"text of {url}"


@process
def words(page: str) -> list[str]:
    """Return the words of a page."""
    return page.split()


def undecorated(url: str) -> str:
    """Return something; it is no process."""
    return url


@process
def asks_for_undecorated(undecorated: str) -> str:
    """Ask for a function that is no process."""
    ran.append("asks_for_undecorated")
    return undecorated


Module = Callable[..., types.ModuleType]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Return a function that makes an importable module of source code."""
    made: list[str] = []

    def make(name: str, source: str) -> types.ModuleType:
        made.append(name)
        (tmp_path / f"{name}.py").write_text(f"from pmflow import process\n{source}")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    for name in made:
        sys.modules.pop(name, None)


# What can be run


def test_one_process() -> None:
    """`run` takes one process: it is the target, and what it needs is found."""
    assert pmflow.run(words, inputs={"url": "a"}).value == ["text", "of", "a"]


@pytest.mark.parametrize("collect", [list, tuple, set, iter], ids=["list", "tuple", "set", "iterator"])
def test_several_processes(collect: Callable[[Any], Any]) -> None:
    """`run` takes any iterable of processes: they are the targets."""
    run = pmflow.run(collect([words, page]), inputs={"url": "a"})
    assert run.data == {"words": ["text", "of", "a"], "page": "text of a"}


def test_a_generator_of_processes() -> None:
    """A generator of processes is read once."""
    run = pmflow.run(process(lambda n=n: n, id=f"p{n}") for n in range(3))
    assert run.data == {"p0": 0, "p1": 1, "p2": 2}


def test_the_same_process_twice() -> None:
    """A process that is given twice runs once."""
    assert pmflow.run([page, page], inputs={"url": "a"}).data == {"page": "text of a"}


def test_no_process_at_all() -> None:
    """Nothing to run is nothing: an empty run."""
    run = pmflow.run([])
    assert (dict(run), run.data, run.success) == ({}, {}, True)


def test_a_module(module: Module) -> None:
    """`run` takes a module: all of its processes are run; its targets are those that nothing depends on."""
    pipeline = module(
        "pipeline",
        "@process\ndef page(url): return f'text of {url}'\n"
        "@process\ndef words(page): return page.split()\n"
        "@process\ndef count(page): return len(page)\n"
        "def helper(): raise AssertionError('no process')\n",
    )
    run = pmflow.run(pipeline, inputs={"url": "a"})
    assert run.data == {"words": ["text", "of", "a"], "count": 9}
    assert sorted(run) == ["count", "page", "words"]
    assert run[pipeline.page].data == "text of a"


def test_a_module_with_targets(module: Module) -> None:
    """`targets` cuts a module like every graph."""
    pipeline = module(
        "pipeline", "@process\ndef one(): return 1\n@process\ndef two(one): return 2\n@process\ndef three(): return 3\n"
    )
    assert list(pmflow.run(pipeline, targets="two")) == ["one", "two"]


def test_a_module_that_imports_a_process(module: Module) -> None:
    """A process that a module imports is one of its processes."""
    module("source", "@process\ndef page(url): return f'text of {url}'\n")
    user = module("user", "from source import page\n@process\ndef size(page): return len(page)\n")
    assert pmflow.run(user, inputs={"url": "a"}).data == {"size": 9}


def test_a_module_whose_process_has_several_names(module: Module) -> None:
    """A process that a module calls by several names is one process."""
    pipeline = module("pipeline", "@process\ndef one(): return 1\nother = one\n")
    assert pmflow.run(pipeline).data == {"one": 1}


def test_a_module_without_processes() -> None:
    """A module without processes is refused, naming it and the remedy."""
    with pytest.raises(GraphError, match=r"'re' has no processes.*@process"):
        pmflow.run(re)


def test_a_module_with_two_processes_of_one_id(module: Module) -> None:
    """Two processes of one id in a module are refused, with both places."""
    pipeline = module("pipeline", "a = process(lambda: 1, id='one')\nb = process(lambda: 2, id='one')\n")
    with pytest.raises(DuplicateProcessError, match=r"pipeline\.py:2.*pipeline\.py:3"):
        pmflow.run(pipeline)


def test_a_graph_is_closed() -> None:
    """`Graph([...])` is closed: nothing is looked up, neither in a module nor where it is run."""
    assert pmflow.run(Graph([words, page]), inputs={"url": "a"}).value == ["text", "of", "a"]
    assert pmflow.run(Graph([words]), inputs={"page": "b c"}).value == ["b", "c"]
    with pytest.raises(MissingDependencyError, match=r"'words' needs 'page'") as caught:
        pmflow.run(Graph([words]))
    assert (caught.value.process_id, caught.value.parameter) == ("words", "page")


def test_a_workflow_is_closed() -> None:
    """A `Workflow` is closed too."""
    page = process(lambda: "b c", id="page")
    workflow = Workflow()
    process(lambda page: page.split(), id="words").register_to(workflow)
    with pytest.raises(MissingDependencyError, match=r"'words' needs 'page'"):
        pmflow.run(workflow)
    page.register_to(workflow)
    assert pmflow.run(workflow).value == ["b", "c"]


@pytest.mark.parametrize("what", [undecorated, len, 5, "words", None, BaseProcess, object()], ids=repr)
@pytest.mark.parametrize("several", [False, True], ids=["alone", "in a list"])
def test_what_is_no_process(what: Any, *, several: bool) -> None:
    """What cannot be run is refused by one exception of ours, which says what it is."""
    with pytest.raises(GraphError) as caught:
        pmflow.run([page, what] if several else what)
    assert str(getattr(what, "__name__", what)) in str(caught.value)


@pytest.mark.parametrize("several", [False, True], ids=["alone", "in a list"])
def test_an_undecorated_function_is_told_to_be_decorated(*, several: bool) -> None:
    """An undecorated function given to `run` is named, with the remedy."""
    with pytest.raises(GraphError, match=r"'undecorated'.*@process"):
        pmflow.run([page, undecorated] if several else undecorated)  # type: ignore[list-item, arg-type]


def test_an_unknown_argument() -> None:
    """An argument that `run` does not have is a TypeError, with the nearest."""
    with pytest.raises(TypeError, match=r"'input'.*did you mean 'inputs'"):
        pmflow.run(page, input={"url": "a"})  # type: ignore[call-overload]


# Where processes are found


def test_the_module_of_the_one_that_asks(module: Module) -> None:
    """What a process needs is found in its own module, wherever `run` is called."""
    pipeline = module(
        "pipeline", "@process\ndef page(url): return f'its own {url}'\n@process\ndef words(page): return page.split()\n"
    )
    page = process(lambda url: "the caller's", id="page")
    assert pmflow.run(pipeline.words, inputs={"url": "a"}).value == ["its", "own", "a"]
    assert page("a") == "the caller's"


def test_those_given_come_first(module: Module) -> None:
    """Processes given come before those of the module."""
    pipeline = module(
        "pipeline", "@process\ndef page(url): return f'its own {url}'\n@process\ndef words(page): return page.split()\n"
    )
    given = process(lambda url: f"given {url}", id="page")
    assert pmflow.run([pipeline.words, given], inputs={"url": "a"}, targets="words").value == ["given", "a"]


def test_local_functions_are_found() -> None:
    """Processes that are local to the caller are found, at any depth."""

    @process
    def size(text: str) -> int:
        return len(text)

    @process
    def text(url: str) -> str:
        return f"local {url}"

    @process
    def report(size: int, page: str) -> tuple[int, str]:
        return size, page

    assert pmflow.run(report, inputs={"url": "a"}).value == (7, "text of a")
    assert text("b") == "local b"


def test_a_process_under_another_name() -> None:
    """What is looked for is the id: the variable may be called anything."""
    anything = process(lambda: "x", id="text")
    size = process(lambda text: len(text), id="size")  # noqa: PLW0108 - its parameter is what is looked up
    assert pmflow.run(size).value == 1
    assert anything() == "x"


def test_a_variable_called_like_another_process() -> None:
    """Of several processes of one id in a scope, the variable called so is the one."""
    text = process(lambda: "the one", id="text")
    fast = text.options(timeout=5)
    size = process(lambda text: text, id="size")
    assert pmflow.run(size).value == "the one"
    assert fast.id == "text"


def test_two_of_one_id_in_a_scope() -> None:
    """Two processes of one id, neither of which is called so, are refused, with both places."""
    left = process(lambda: 1, id="text")
    right = process(lambda: 2, id="text")
    size = process(lambda text: text, id="size")
    with pytest.raises(DuplicateProcessError, match="'text'") as caught:
        pmflow.run(size)
    assert caught.value.process_id == "text"
    lines = {process_.__wrapped__.__code__.co_firstlineno for process_ in (left, right)}
    assert {place.rpartition(":")[2] for place in caught.value.places} == {str(line) for line in lines}
    assert all(__file__ in place for place in caught.value.places)


def test_two_of_one_id_given() -> None:
    """Two processes of one id that are given are refused, with both places, before anything runs."""
    ran.clear()
    left = process(lambda: ran.append("left"), id="text")
    right = process(lambda: ran.append("right"), id="text")
    with pytest.raises(DuplicateProcessError, match="'text'") as caught:
        pmflow.run([left, right])
    assert (len(set(caught.value.places)), ran) == (2, [])


def test_two_modules_with_a_process_of_one_id(module: Module) -> None:
    """Two processes that each have one of the same id in their own modules are refused, with both places."""
    left = module("left", "@process\ndef text(): return 1\n@process\ndef size(text): return text\n")
    right = module("right", "@process\ndef text(): return 2\n@process\ndef length(text): return text\n")
    with pytest.raises(DuplicateProcessError, match=r"'text'") as caught:
        pmflow.run([left.size, right.length])
    assert sorted(Path(place.rpartition(":")[0]).name for place in caught.value.places) == ["left.py", "right.py"]


def test_a_comprehension_counts_as_its_function() -> None:
    """`run` in a comprehension, or in one within another, finds the function's local processes."""

    @process
    def text(url: str) -> str:
        return url * 2

    @process
    def size(text: str) -> int:
        return len(text)

    urls = ["a", "bc"]
    assert [pmflow.run(size, inputs={"url": url}).value for url in urls] == [2, 4]
    assert {pmflow.run(size, inputs={"url": url}).value for url in urls} == {2, 4}
    assert {url: pmflow.run(size, inputs={"url": url}).value for url in urls} == {"a": 2, "bc": 4}
    assert list(pmflow.run(size, inputs={"url": url}).value for url in urls) == [2, 4]  # noqa: C400 - that is the point
    assert [[pmflow.run(size, inputs={"url": url}).value for url in urls] for _ in range(2)] == [[2, 4], [2, 4]]
    assert text("b") == "bb"


def test_the_scope_of_a_class_body() -> None:
    """`run` in a class body finds the processes of that body."""

    class Report:
        @staticmethod
        def helper() -> None:
            """Do nothing."""

        text = process(lambda url: url * 3, id="text")
        value = pmflow.run(process(len, id="size", dependencies={"obj": "text"}), inputs={"url": "a"}).value

    assert Report.value == 3


def test_notebook_cells() -> None:
    """Cells that are executed one after another share a namespace: later ones find the processes of earlier ones."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [
        "import pmflow\nfrom pmflow import process",
        "@process\ndef text(url): return f'cell {url}'",
        "@process\ndef size(text): return len(text)",
        "first = pmflow.run(size, inputs={'url': 'a'}).value",
        "values = [pmflow.run(size, inputs={'url': url}).value for url in ('a', 'bc')]",
        "@process\ndef text(url): return 'new'",
        "second = pmflow.run(size, inputs={'url': 'a'}).value",
    ]
    for cell in cells:
        exec(compile(cell, "<cell>", "exec"), namespace)  # noqa: S102 - what a notebook does
    assert (namespace["first"], namespace["values"], namespace["second"]) == (6, [6, 7], 3)


def test_a_helper_that_runs_what_it_is_given() -> None:
    """A function that takes a process and runs it does not see its caller's locals, but the process's module."""

    def helper(process: BaseProcess[Any]) -> Any:
        return pmflow.run(process, inputs={"url": "a"}).value

    hidden = process(lambda url: url, id="hidden")
    user = process(lambda hidden: hidden, id="user")
    assert helper(words) == ["text", "of", "a"]
    with pytest.raises(MissingDependencyError, match="'hidden'"):
        helper(user)
    assert hidden("b") == "b"


@pytest.mark.anyio
async def test_arun_remembers_where_it_was_called() -> None:
    """`arun` looks processes up where it is called, not where it is awaited."""

    def begin() -> Any:
        text = process(lambda url: url * 2, id="text")
        size = process(lambda text: len(text) + 0, id="size")
        assert text("a") == "aa"
        return pmflow.arun(size, inputs={"url": "a"})

    awaitable = begin()
    await anyio.lowlevel.checkpoint()
    assert (await awaitable).value == 2


@pytest.mark.anyio
async def test_arun_finds_local_coroutines() -> None:
    """`arun` in a coroutine finds the processes that are local to it, in a comprehension too."""

    @process
    async def text(url: str) -> str:
        await anyio.lowlevel.checkpoint()
        return url * 2

    size = process(lambda text: len(text) + 0, id="size")
    assert (await pmflow.arun(size, inputs={"url": "a"})).value == 2
    assert [(await pmflow.arun(size, inputs={"url": url})).value for url in ("a", "bc")] == [2, 4]
    assert await text("a") == "aa"


@pytest.mark.anyio
async def test_arun_refuses_before_it_is_awaited() -> None:
    """`arun` refuses a graph where it is called: there is nothing to await."""
    with pytest.raises(MissingDependencyError, match="'url'"):
        _ = pmflow.arun(words)
    await anyio.lowlevel.checkpoint()


def test_a_class_process_is_found() -> None:
    """A class process finds what it depends on in the caller's scope too, by id."""

    class Size(BaseProcess):
        def process(self, input_data: Any) -> Any:
            return len(self.get_process_result(input_data, "text"))

    named_otherwise = process(lambda: "abc", id="text")
    assert pmflow.run(Size(ProcessConfig(process_id="size", dependencies=["text"]))).value == 3
    assert named_otherwise() == "abc"


def test_after_is_found() -> None:
    """What `after` names is found like a parameter; what nothing provides is refused."""
    order: list[str] = []
    first = process(lambda: order.append("first"), id="first")
    last = process(lambda: order.append("last"), id="last", after="first")
    pmflow.run(last)
    assert (order, first.id) == (["first", "last"], "first")
    with pytest.raises(MissingDependencyError, match="'lost' needs 'nowhere'"):
        pmflow.run(process(lambda: None, id="lost", after="nowhere"))


# What is said where they are not found


def test_a_name_that_is_nowhere() -> None:
    """The message names the process, the parameter, where it was looked for, and the nearest name."""
    report = process(lambda wrods: wrods, id="report")
    with pytest.raises(MissingDependencyError, match=r"'report' needs 'wrods'.*did you mean 'words'\?") as caught:
        pmflow.run([report, words], inputs={"url": "a"})
    assert (caught.value.process_id, caught.value.parameter, caught.value.suggestion) == ("report", "wrods", "words")
    assert "where run() is called" in str(caught.value)


def test_a_name_that_dependencies_say() -> None:
    """Where `dependencies` names it, the message says for which parameter."""
    report = process(lambda text: text, id="report", dependencies={"text": "nowhere"})
    with pytest.raises(MissingDependencyError, match=r"'report' needs 'nowhere' for its parameter 'text'"):
        pmflow.run(report)


def test_an_undecorated_function() -> None:
    """A parameter that names an undecorated function: the message says so, with the remedy; nothing runs."""
    ran.clear()
    with pytest.raises(MissingDependencyError, match=r"function 'undecorated' is no process.*@process") as caught:
        pmflow.run(asks_for_undecorated)
    assert (caught.value.process_id, caught.value.parameter) == ("asks_for_undecorated", "undecorated")
    assert ran == []


def test_an_undecorated_local_function() -> None:
    """The same of a function that is local to the caller."""

    def text() -> str:
        return "text"

    size = process(lambda text: text, id="size")
    with pytest.raises(MissingDependencyError, match=r"function 'text' is no process.*@process"):
        pmflow.run(size)
    assert text() == "text"


def test_an_undecorated_class_or_builtin() -> None:
    """A builtin function, a class or a lambda is a function too: it is to be decorated."""
    for text in (len, Path, lambda: 1):
        size = process(lambda text: text, id="size")
        with pytest.raises(MissingDependencyError, match=r"'text' is no process.*process"):
            pmflow.run(size)
        assert callable(text)


def test_a_rebound_notebook_variable() -> None:
    """A variable that was a process and is bound anew: the message says what it is now, and what to do."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [
        "import pmflow\nfrom pmflow import process",
        "@process\ndef words(): return ['a']",
        "@process\ndef size(words): return len(words)",
        "words = pmflow.run(words).value",
    ]
    for cell in cells:
        exec(compile(cell, "<cell>", "exec"), namespace)  # noqa: S102 - what a notebook does
    with pytest.raises(MissingDependencyError, match=r"variable 'words'.*list.*definition again.*inputs=") as caught:
        exec("pmflow.run(size)", namespace)  # noqa: S102 - what a notebook does
    assert caught.value.parameter == "words"


def test_a_variable_of_another_process() -> None:
    """A variable of that name which holds a process of another id: the message says by which id to ask."""
    text = process(lambda: 1, id="other")
    size = process(lambda text: text, id="size")
    with pytest.raises(MissingDependencyError, match=r"variable 'text' is the process 'other'"):
        pmflow.run(size)
    assert text() == 1


def test_an_input_that_was_forgotten() -> None:
    """A local variable of that name is no input by itself: the message says how to pass it."""
    url = "http://a"
    with pytest.raises(MissingDependencyError, match=r"inputs=\{'url': url\}"):
        pmflow.run(words)
    assert url == "http://a"


def test_the_value_is_not_shown() -> None:
    """Messages name types, never the user's data."""
    url = "secret"
    with pytest.raises(MissingDependencyError) as caught:
        pmflow.run(words)
    assert url not in str(caught.value)


# Methods


class Site:
    """Methods that are decorated inside their class."""

    def __init__(self, text: str) -> None:
        self.content = text

    @process
    def text(self, url: str) -> str:
        """Return what the site says."""
        return f"{self.content} {url}"

    @process(type="async")
    def size(self, text: str) -> int:
        """Return the length."""
        return len(text) + len(self.content)

    @process
    async def shout(self, text: str) -> str:
        """Return it loudly."""
        await anyio.lowlevel.checkpoint()
        return text.upper()


def test_a_method_decorated_inside_its_class() -> None:
    """Run as it is, nobody says of which object: the message says that it is a method, and what to write."""
    with pytest.raises(MissingDependencyError, match=r"'text' needs 'self'.*method.*class.*\.text") as caught:
        pmflow.run(Site.text, inputs={"url": "a"})
    assert caught.value.parameter == "self"


def test_the_process_of_an_object() -> None:
    """`obj.method` is the process of that object's method: it runs, and calling it calls the method."""
    site, other = Site("hello"), Site("bye")
    assert pmflow.run(site.text, inputs={"url": "a"}).value == "hello a"
    assert pmflow.run(other.text, inputs={"url": "a"}).value == "bye a"
    assert site.text("b") == "hello b"
    assert site.text(url="b") == "hello b"
    assert Site.text(site, "b") == "hello b"


def test_methods_of_one_object_feed_each_other() -> None:
    """Several methods of one object are wired by their parameter names, on every strategy."""
    site = Site("hello")
    run = pmflow.run([site.size, site.shout, site.text], inputs={"url": "a"})
    assert run.data == {"size": 12, "shout": "HELLO A", "text": "hello a"}
    assert run[site.text].data == "hello a"


def test_a_method_given_twice() -> None:
    """`obj.method` is the same process however often it is written."""
    site = Site("hello")
    assert pmflow.run([site.text, site.text], inputs={"url": "a"}).data == {"text": "hello a"}


def test_a_bound_method_keeps_its_settings() -> None:
    """The settings of the decorator hold for the bound process."""
    bound = Site("hello").size
    assert (bound.id, bound.strategy) == ("size", pmflow.ProcessType.ASYNC)
    assert bound.options(id="other").id == "other"


def test_static_and_class_methods() -> None:
    """Static methods and class methods may be processes: they need no object."""

    class Tools:
        factor = 3

        @staticmethod
        @process
        def double(number: int) -> int:
            return number * 2

        @process
        @staticmethod
        def triple(number: int) -> int:
            return number * 3

        @classmethod
        def times(cls, number: int) -> int:
            return number * cls.factor

    assert pmflow.run(Tools.double, inputs={"number": 2}).value == 4
    assert pmflow.run(Tools.triple, inputs={"number": 2}).value == 6
    assert pmflow.run(process(Tools.times), inputs={"number": 2}).value == 6


# Every refusal is one of ours, and before anything runs


def refused() -> Iterator[Any]:
    """Graphs that cannot run, beside a process that could."""
    other = process(lambda: ran.append("other"), id="other")
    a = process(lambda b: b, id="a")
    b = process(lambda a: a, id="b")
    yield [other, process(lambda nowhere: nowhere, id="a")], {}
    yield [other, a, b], {}
    yield [other, process(lambda: 1, id="other")], {}
    yield [other], {"inputs": {"nobody": 1}}
    yield [other], {"overrides": {"nobody": 1}}
    yield [other], {"targets": "nobody"}
    yield [other, process(lambda n: n, id="m", map_over={"n": "nowhere"})], {}
    yield [other, process(lambda: 1, id="c", after="nowhere")], {}
    yield [other, undecorated], {}


@pytest.mark.parametrize(("given", "settings"), list(refused()))
def test_refusals(given: list[Any], settings: dict[str, Any]) -> None:
    """Bad input is refused by one exception of ours, before anything runs."""
    ran.clear()
    with pytest.raises(GraphError) as caught:
        pmflow.run(given, **settings)
    assert isinstance(caught.value, (PmflowError, ValueError))
    assert ran == []
