"""Every cell of the README's table of what a failure does, for single processes, elements of maps, and lists over maps.

What is expected is read from the README. How to end in every way that it names, and how to ask in every way that it
names, is here: a cause or a column that one of the two does not know fails `test_the_table_and_the_tests_agree`.
"""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import pmflow
from pmflow import ProcessResult, ProcessState, Run, cross, process

DONE, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED
README = Path(__file__).parent.parent / "README.md"
VALUE, NO_VALUE, FAILURE = ROWS = ("a value", "no value", "a failure")


def table() -> tuple[dict[str, list[str]], dict[tuple[str, str], str]]:
    """Return the causes of each row, and the text of each cell by row and column."""
    section = README.read_text(encoding="utf-8").split("## What a failure does\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    causes, cells = {}, {}
    for first, *others in rows:
        row, _, listed = first.partition(": ")
        causes[row.strip("*")] = listed.split(", ")
        cells |= {(row.strip("*"), column): cell for column, cell in zip(head[1:], others, strict=True)}
    return causes, cells


CAUSES, CELLS = table()


# The rows: how a process, or an element of one, ends. Each takes whether it is element 1 of three, the others of which
# have values, and returns the processes, the last of them the one that ends so; and the overrides.

Upstream = tuple[list[Any], dict[str, Any]]


def made(body: Callable[[], Any], name: str, *, each: bool, **settings: Any) -> Any:
    """Return a process, or one that is mapped and does so at its second element."""
    if each:
        return process(lambda n: body() if n == 1 else n, id=name, map_over={"n": "ns"}, **settings)
    return process(body, id=name, **settings)


def fail() -> Any:
    """Fail."""
    raise ValueError("no such page")


def hang(name: str, *, each: bool, **settings: Any) -> Any:
    """Return a process that is timed out."""

    async def sleep(n: int = 1) -> int:
        if n == 1:
            await anyio.sleep_forever()
        return n

    return process(sleep, id=name, timeout=0.01, **({"map_over": {"n": "ns"}} if each else {}), **settings)


def skipped(before: Any, name: str, *, each: bool) -> list[Any]:
    """Return a process that is skipped for another, and that one."""
    settings: dict[str, Any] = {"map_over": {"n": "w"}} if each else {"dependencies": {"n": "w"}}
    return [before, process(lambda n: n, id=name, **settings)]


WAYS: dict[str, dict[str, Callable[..., Upstream]]] = {
    VALUE: {
        "returned": lambda name, each: ([made(lambda: 1, name, each=each)], {}),
        "`fallback`": lambda name, each: ([made(fail, name, each=each, fallback=1)], {}),
        "override": lambda name, each: ([made(fail, name, each=each)], {name: [0, 1, 2] if each else 1}),
    },
    NO_VALUE: {
        "`when` said no": lambda name, each: (
            [
                process(lambda n: n, id=name, map_over={"n": "ns"}, when=lambda n: n != 1)
                if each
                else process(lambda: 1, id=name, when=lambda: False)
            ],
            {},
        ),
        "failed with `required=False`": lambda name, each: ([made(fail, name, each=each, required=False)], {}),
        "skipped for one of these": lambda name, each: (
            skipped(made(fail, "w", each=each, required=False), name, each=each),
            {},
        ),
    },
    FAILURE: {
        "failed": lambda name, each: ([made(fail, name, each=each)], {}),
        "timed out": lambda name, each: ([hang(name, each=each)], {}),
        "worker died": lambda name, each: ([made(lambda: os._exit(3), name, each=each, type="process")], {}),
        "skipped for one of these": lambda name, each: (skipped(made(fail, "w", each=each), name, each=each), {}),
    },
}
UPSTREAMS = [(row, cause) for row, ways in WAYS.items() for cause in ways]

# The columns: how a process asks for `x`, as one source of a parameter of its own.


def asks(column: str, parameter: str, source: str) -> tuple[str, dict[str, Any]]:
    """Return a parameter as it is written, and the settings that feed it."""
    sources: dict[str, Any] = {
        "`x`": source,
        "`x=1`": source,
        "`x: ProcessResult`": source,
        'candidates `("x", "y")`': (source, "y"),
    }
    if column == '`after="x"`':
        return "", {"after": [source]}
    written = {"`x=1`": "='default'", "`x: ProcessResult`": ": ProcessResult"}.get(column, "")
    return parameter + written, {"dependencies": {parameter: sources[column]}}


COLUMNS = list(dict.fromkeys(column for _, column in CELLS))
OF_ELEMENTS = ["`x`", "`x=1`", "`x: ProcessResult`"]
HANDLES = {"`x: ProcessResult`", 'candidates `("x", "y")`'}
SPARE = process(lambda: "spare", id="y")


def dependant(columns: dict[str, str], name: str = "z", **settings: Any) -> Any:
    """Return a process that asks for each source by a column, and returns what it receives."""
    written, feeds = [], {"dependencies": {}, "after": []}
    for number, (source, column) in enumerate(columns.items()):
        parameter, settings_of = asks(column, f"p{number}", source)
        written += [parameter] if parameter else []
        feeds["dependencies"] |= settings_of.get("dependencies", {})  # type: ignore[operator]
        feeds["after"] += settings_of.get("after", [])  # type: ignore[operator]
    written.sort(key=lambda parameter: "=" in parameter)
    return process(function(written), id=name, **feeds, **settings)


def function(parameters: list[str]) -> Any:
    """Return a function of these parameters, which returns them by name, a result as its state."""
    names: dict[str, Any] = {"ProcessResult": ProcessResult, "shown": shown}
    exec(f"def f({', '.join(parameters)}): return shown(locals())", names)  # noqa: S102 - the text is ours
    return names["f"]


def shown(values: dict[str, Any]) -> dict[str, Any]:
    """Show results as what they say."""
    return {name: each.state if isinstance(each, ProcessResult) else each for name, each in values.items()}


def expected(cells: dict[str, tuple[str, Any, ProcessState]]) -> tuple[ProcessState, Any, bool]:
    """Return how a process ends, what it received, and whether for a failure: the worst of its cells decides.

    Args:
        cells: parameter to what the table says of it, the value and the state of its source.
    """
    texts = {text for text, _, _ in cells.values()}
    if "skipped, as failed" in texts:
        return SKIPPED, None, True
    if "skipped" in texts:
        return SKIPPED, None, False
    means = {"the value": 1, "the default": "default", "`y`": "spare"}
    received = {
        name: state if text == "the result" else value if text == "the value" else means[text]
        for name, (text, value, state) in cells.items()
        if text != "runs"
    }
    return DONE, received, False


def of(row: str, column: str, parameter: str, result: ProcessResult[Any]) -> dict[str, tuple[str, Any, ProcessState]]:
    """Return a cell of the table as `expected` takes it."""
    return {parameter: (CELLS[row, column], result.data, result.state)}


def found(run: Run[Any], name: str) -> tuple[ProcessState, Any, bool]:
    """Return how a process has ended, as `expected` does: what is below it says whether that was a failure."""
    below = run[f"below_{name}"]
    return run[name].state, run[name].data, below.state is SKIPPED


def below(name: str) -> Any:
    """Return a process that keeps its default where the one before has no value, and is skipped for a failure."""
    return process(lambda n="default": n, id=f"below_{name}", dependencies={"n": name})


def test_the_table_and_the_tests_agree() -> None:
    """Every cause of every row of the README has its tests here, and nothing else; so has every column."""
    assert {row: list(ways) for row, ways in WAYS.items()} == CAUSES
    assert [asks(column, "p", "x") for column in COLUMNS] == [
        ("p", {"dependencies": {"p": "x"}}),
        ("p='default'", {"dependencies": {"p": "x"}}),
        ("p: ProcessResult", {"dependencies": {"p": "x"}}),
        ("p", {"dependencies": {"p": ("x", "y")}}),
        ("", {"after": ["x"]}),
    ]


# Single processes


@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_a_cell(row: str, cause: str, column: str, kind: Any) -> None:
    """The dependant ends as the table says; a failure that it takes, or has another candidate for, is handled."""
    upstream, overrides = WAYS[row][cause]("x", each=False)
    several = [*upstream, SPARE, dependant({"x": column}, type=kind), below("z")]
    run = pmflow.run(several, overrides=overrides, targets=["x", "z", "below_z"], keep="all", on_error="return")
    assert found(run, "z") == expected(of(row, column, "p0", run["x"]))
    handled = column in HANDLES and not cause.startswith("skipped")
    assert run.success is (row != FAILURE or handled)


@pytest.mark.parametrize("annotation", ["", ": ProcessResult"])
@pytest.mark.parametrize("before", ["no value", "a failure"])
@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_the_last_candidate(row: str, cause: str, before: str, annotation: str) -> None:
    """Behind another without a value, it counts as if it stood alone."""
    upstream, overrides = WAYS[row][cause]("x", each=False)
    first = process(fail, id="first", required=before == FAILURE)
    last = process(function([f"p0{annotation}"]), id="z", dependencies={"p0": ("first", "x")})
    several = [*upstream, first, last, below("z")]
    run = pmflow.run(several, overrides=overrides, targets=["x", "z", "below_z"], keep="all", on_error="return")
    column = "`x: ProcessResult`" if annotation else "`x`"
    assert found(run, "z") == expected(of(row, column, "p0", run["x"]))


@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_a_candidate_for_a_result(row: str, cause: str) -> None:
    """A parameter that takes the result takes that of the first candidate with a value."""
    upstream, overrides = WAYS[row][cause]("x", each=False)
    run = pmflow.run([*upstream, SPARE, chosen], overrides=overrides, targets=chosen, on_error="return")
    assert run[chosen].data == {"the value": "x", "`y`": "y"}[CELLS[row, 'candidates `("x", "y")`']]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_after_beside_another_column(row: str, column: str) -> None:
    """What asks for a source, and comes after it as well, goes by the worse of the two."""
    asked = dependant({"x": column}).options(after="x")
    several = [ENDS[row]("x"), SPARE, asked, below("z")]
    run = pmflow.run(several, targets=["x", "z", "below_z"], on_error="return")
    both = of(row, column, "p0", run["x"]) | of(row, '`after="x"`', "p1", run["x"])
    assert found(run, "z") == expected(both)


# Elements of maps


@process(id="all")
def every(x: list[ProcessResult[Any]]) -> list[ProcessState]:
    """Take the results of all elements."""
    return [each.state for each in x]


@process
def places(x: list[ProcessResult[Any]]) -> list[tuple[str, Any]]:
    """The same, and return what is where."""
    return [(each.process_id, each.data) for each in x]


@process(dependencies={"p0": ("x", "y")})
def chosen(p0: ProcessResult[Any]) -> str:
    """Take the result of a candidate."""
    return p0.process_id


def given(overrides: dict[str, Any], *targets: str) -> dict[str, Any]:
    """Return the arguments of a run over a map of three, or of one that is overridden."""
    asked: dict[str, Any] = {"overrides": overrides} if overrides else {"inputs": {"ns": range(3)}}
    return {**asked, "targets": [*targets], "keep": "all"} if targets else asked


@pytest.mark.parametrize("column", OF_ELEMENTS)
@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_an_element(row: str, cause: str, column: str) -> None:
    """The element of a map over the map goes by the same table, and the others go on."""
    upstream, overrides = WAYS[row][cause]("x", each=True)
    mapped = process(function([asks(column, "p0", "x")[0]]), id="z", map_over={"p0": "x"})
    last = process(lambda n="default": n, id="last", map_over={"n": "z"})
    run = pmflow.run([*upstream, mapped, last, every], **given(overrides), on_error="return")
    states = run["all"].data
    ends = [
        expected({"p0": (CELLS[kind, column], n, state)})
        for n, (kind, state) in enumerate(zip([VALUE, row, VALUE], states, strict=True))
    ]
    assert [(run[f"z_{n}"].state, run[f"z_{n}"].data) for n in range(3)] == [end[:2] for end in ends]
    assert [run[f"last_{n}"].state for n in range(3)] == [SKIPPED if failed else DONE for _, _, failed in ends]


@pytest.mark.parametrize("column", ["`x`", "`x: ProcessResult`"])
@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_an_element_of_a_cross(row: str, cause: str, column: str) -> None:
    """Where every element goes with every other, plain parameters go over the values, results over all places."""
    upstream, overrides = WAYS[row][cause]("x", each=True)
    z = process(function([asks(column, "p0", "x")[0], "other"]), id="z", map_over=cross(p0="x", other="others"))
    asked = given(overrides)
    asked["inputs"] = {**asked.get("inputs", {}), "others": ["a", "b"]}
    run = pmflow.run([*upstream, z, every], **asked, on_error="return")
    if column == "`x`" and row == FAILURE:
        assert run["z"].state is SKIPPED
        return
    places = [0, 2] if column == "`x`" and row == NO_VALUE else [0, 1, 2]
    received = [n if column == "`x`" else run["all"].data[n] for n in places]
    assert run["z"].data == [{"p0": each, "other": other} for each in received for other in "ab"]


# Lists over maps


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_a_list_over_a_map(row: str, cause: str, column: str) -> None:
    """It has the values, and leaves out what has none; one failure counts as a failure of the whole."""
    upstream, overrides = WAYS[row][cause]("x", each=True)
    run = pmflow.run(
        [*upstream, SPARE, dependant({"x": column}), below("z")], **given(overrides, "z", "below_z"), on_error="return"
    )
    whole = FAILURE if row == FAILURE else VALUE
    failed = DONE if column in HANDLES else FAILED  # a handled failure is as one that is not required
    state = {VALUE: DONE, FAILURE: SKIPPED if cause.startswith("skipped") else failed}[whole]
    values = [0, 2] if row == NO_VALUE else [0, 1, 2]
    assert found(run, "z") == expected({"p0": (CELLS[whole, column], values, state)})


@pytest.mark.parametrize(("row", "cause"), UPSTREAMS)
def test_a_list_of_results(row: str, cause: str) -> None:
    """It keeps every place."""
    upstream, overrides = WAYS[row][cause]("x", each=True)
    run = pmflow.run([*upstream, every, places], **given(overrides, "all", "places"), on_error="return")
    second = DONE if row == VALUE else SKIPPED if "said no" in cause or "skipped" in cause else FAILED
    assert run["all"].data == [DONE, second, DONE]
    assert run["places"].data == [("x_0", 0), ("x_1", 1 if row == VALUE else None), ("x_2", 2)]


# Several parameters: the worst row wins

ENDS: dict[str, Callable[[str], Any]] = {
    VALUE: lambda name: process(lambda: 1, id=name, type="async"),
    NO_VALUE: lambda name: process(fail, id=name, required=False, type="async"),
    FAILURE: lambda name: process(fail, id=name, type="async"),
}
PAIRS = list(itertools.product(ROWS, repeat=2))


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_the_worst_of_two(left: str, right: str) -> None:
    """Of all pairs of rows and all pairs of columns, whichever comes first."""
    for one, other in itertools.product(COLUMNS, repeat=2):
        several = [ENDS[left]("a"), ENDS[right]("b"), SPARE, dependant({"a": one, "b": other}), below("z")]
        run = pmflow.run(several, targets=["a", "b", "z", "below_z"], on_error="return")
        cells = of(left, one, "p0", run["a"]) | of(right, other, "p1", run["b"])
        assert found(run, "z") == expected(cells), (one, other)


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_the_worst_of_two_elements(left: str, right: str) -> None:
    """The same of an element of each of two maps."""
    bodies: dict[str, Any] = {VALUE: lambda n: n, NO_VALUE: lambda n: fail(), FAILURE: lambda n: fail()}
    sources = [
        process(bodies[row], id=name, map_over={"n": "ns"}, type="async", required=row != NO_VALUE)
        for name, row in (("a", left), ("b", right))
    ]
    for one, other in itertools.product(OF_ELEMENTS, repeat=2):
        parameters = sorted((asks(one, "p0", "a")[0], asks(other, "p1", "b")[0]), key=lambda each: "=" in each)
        mapped = process(function(parameters), id="z", map_over={"p0": "a", "p1": "b"})
        last = process(lambda n="default": n, id="last", map_over={"n": "z"})
        run = pmflow.run([*sources, mapped, last], inputs={"ns": [1]}, on_error="return")
        cells = of(left, one, "p0", run["a_0"]) | of(right, other, "p1", run["b_0"])
        end = run["z_0"].state, run["z_0"].data, run["last_0"].state is SKIPPED
        assert end == expected(cells), (one, other)


# Handled failures


@pytest.mark.parametrize("each", [False, True])
def test_a_failure_is_handled_if_all_handle_it(each: bool) -> None:
    """For one dependant and for two, of all pairs of columns: then the run succeeds, and is not stopped."""
    failing = made(fail, "x", each=each)
    for one, other in [*((column, None) for column in COLUMNS), *itertools.product(COLUMNS, repeat=2)]:
        dependants = [dependant({"x": column}, name) for column, name in ((one, "u"), (other, "v")) if column]
        asked = {"inputs": {"ns": range(3)}} if each else {}
        run = pmflow.run([failing, SPARE, *dependants], **asked, on_error="return", fail_fast=True)
        handled = {one, other} - {None} <= HANDLES
        assert run.success is handled, (one, other)
        assert {run[process.id].state for process in dependants} == {DONE} or not handled


def test_a_candidate_behind_an_input_handles_nothing() -> None:
    """It is never asked: an output that only it would take is nobody's."""
    x = process(fail, id="x", outputs=("a", "b"))
    z = process(function(["p0: ProcessResult", "p1"]), id="z", dependencies={"p0": "a", "p1": ("i", "b")})
    run = pmflow.run([x, z], inputs={"i": 1}, on_error="return")
    assert (run.success, run["z"].data) == (False, {"p0": SKIPPED, "p1": 1})


def test_after_a_candidate_behind_an_input() -> None:
    """It is waited for all the same."""
    z = process(function(["p0"]), id="z", dependencies={"p0": ("i", "x")}, after="x")
    run = pmflow.run([process(fail, id="x"), z], inputs={"i": 1}, on_error="return")
    assert (run["z"].state, run.success) == (SKIPPED, False)
