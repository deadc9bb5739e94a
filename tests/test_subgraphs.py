"""Graphs as processes of other graphs, mapped or not; graphs combined with ``|``; the graph of a module."""

# pyright: reportUnknownLambdaType=false
# ruff: noqa: PLW0108 - the parameters of a lambda have names, which is what they are here for

import inspect
import pickle
import re
import threading
import types
import zlib
from typing import Any

import anyio.lowlevel
import cloudpickle
import pytest
from hypothesis import given, strategies as st

import pmflow
from pmflow import (
    BaseProcess,
    FunctionProcess,
    Graph,
    ProcessConfig,
    ProcessResult,
    ProcessState,
    ProcessType,
    SubgraphProcess,
    cross,
    process,
)
from pmflow.errors import (
    ConfigurationError,
    CycleError,
    DuplicateProcessError,
    GraphError,
    InputError,
    MissingDependencyError,
    TypeMismatchError,
)

TYPES = ("async", "thread", "process")
every_type = pytest.mark.parametrize("kind", TYPES)
COMPLETED, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED


def waited(event: threading.Event) -> bool:
    """Wait for what another process does; that it never comes is a failure, and no endless test."""
    assert event.wait(30)
    return True


def states(run: Any) -> dict[str, ProcessState]:
    """How each process ended."""
    return {name: result.state for name, result in run.items()}


def data(run: Any) -> dict[str, Any]:
    """What each process gave."""
    return {name: result.data for name, result in run.items()}


def training(kind: Any = "thread") -> Graph:
    """Clean rows, a model of them, its score."""
    return Graph(
        [
            process(lambda rows: sorted(rows), id="clean", type=kind),
            process(lambda clean, degree=1: (clean, degree), id="fit", type=kind),
            process(lambda fit, clean: len(clean) * fit[1], id="score", type=kind),
        ]
    )


# As a process


@every_type
def test_a_sub_graph_is_a_process_that_others_depend_on(kind: Any) -> None:
    """Its id is a parameter with the target's value, its processes have ids of their own, and each has a result."""
    train = training(kind).as_process(id="train")
    report = process(lambda train: f"score {train}", id="report", type=kind)
    run = pmflow.run(Graph([train, report]), inputs={"rows": [3, 1, 2], "degree": 2})
    assert data(run) == {
        "train.clean": [1, 2, 3],
        "train.fit": ([1, 2, 3], 2),
        "train.score": 6,
        "train": 6,
        "report": "score 6",
    }
    assert (run.value, run[train].data, run["train.fit"].process_id) == ("score 6", 6, "train.fit")


def test_a_parameter_is_fed_by_a_process_an_input_or_its_default() -> None:
    """What nobody inside makes is asked for outside, by its name."""
    graph = training()
    outer = process(lambda: [2, 1], id="rows")
    fed_by_process = pmflow.run(Graph([graph.as_process(id="train"), outer]))
    assert fed_by_process.value == 2
    assert pmflow.run(Graph([graph.as_process(id="train"), outer]), inputs={"degree": 5}).value == 10
    with pytest.raises(MissingDependencyError, match="'train.clean' needs 'rows', which no process produces"):
        pmflow.run(Graph([graph.as_process(id="train")]))


def test_dependencies_and_inputs_say_what_feeds_a_parameter() -> None:
    """By the names inside; what has a fixed value asks for nothing."""
    train = training().as_process(id="train", dependencies={"rows": "table"}, inputs={"degree": 3})
    table = process(lambda: [2, 1], id="table")
    run = pmflow.run(Graph([train, table]))
    assert (run.value, run["train.degree"].data) == (6, 3)
    by_process = training().as_process(id="train", dependencies={"rows": table})
    assert pmflow.run(Graph([by_process, table])).value == 2


def test_candidates_feed_a_parameter() -> None:
    """A tuple takes the first that has a value, as everywhere."""
    tuned = process(lambda: [1, 2, 3], id="tuned", when=lambda: False)
    plain = process(lambda: [1], id="plain")
    train = training().as_process(id="train", dependencies={"rows": ("tuned", "plain")})
    assert pmflow.run(Graph([train, tuned, plain]), targets=train).value == 1
    inner = process(lambda a: a, id="inner", dependencies={"a": ("x", "y")})
    chosen = Graph([inner]).as_process(id="s", dependencies={"x": ("tuned", "plain"), "y": "plain"})
    assert pmflow.run(Graph([chosen, tuned, plain]), targets=chosen).value == [1]


def test_options_make_a_changed_copy() -> None:
    """With all its parts anew; the original stays as it is."""
    one = training().as_process(id="one", inputs={"degree": 1}, targets="score")
    two = one.options(id="two", inputs={"degree": 2}, after=one)
    each = two.options(map_over={"rows": "tables"})
    run = pmflow.run(Graph([one, each]), inputs={"rows": [1, 2], "tables": [[1], [1, 2]]})
    assert (run[one].data, run[each].data, run["two.fit_0"].data) == (2, [2, 4], ([1], 2))
    with pytest.raises(ConfigurationError, match="the sub-graph 'one' has no setting 'timeout'"):
        one.options(timeout=1)  # type: ignore[call-overload]


def test_one_graph_used_twice() -> None:
    """Each use has its own processes and parameters."""
    graph = training()
    one = graph.as_process(id="one", inputs={"degree": 1})
    two = graph.as_process(id="two", inputs={"degree": 2})
    best = process(lambda one, two: max(one, two), id="best")
    run = pmflow.run(Graph([one, two, best]), inputs={"rows": [1, 2]})
    assert (run["one"].data, run["two"].data, run.value) == (2, 4, 4)


def test_several_targets_give_a_dictionary() -> None:
    """Of their ids, as they are inside; by default they are what nothing inside depends on."""
    graph = training()
    train = graph.as_process(id="train", targets=["score", "fit"])
    assert pmflow.run(train, inputs={"rows": [1]}).value == {"score": 1, "fit": ([1], 1)}
    other = process(lambda clean: clean[0], id="first")
    both = (graph | Graph([other])).as_process(id="both")
    assert pmflow.run(both, inputs={"rows": [5]}).value == {"score": 1, "first": 5}


def test_only_what_the_targets_need_is_inside() -> None:
    """The rest is no process of the outer graph, and what it asks for is no parameter."""
    clean = training().as_process(id="part", targets="clean")
    assert [part.id for part in clean.parts] == ["part", "part.clean"]
    with pytest.raises(
        ConfigurationError, match="the sub-graph 'part' has no parameter 'degree', which its inputs names"
    ):
        training().as_process(id="part", targets="clean", inputs={"degree": 1})


def test_every_kind_of_setting_survives() -> None:
    """Outputs, conditions, fallbacks, maps, results as parameters, positional-only parameters, validation rules."""

    def halves(rows: list[int], /) -> tuple[int, int]:
        return rows[0], rows[1]

    def total(first: int, low: ProcessResult[Any], high: list[ProcessResult[Any]], **more: Any) -> Any:
        return first, low.state, [each.data for each in high], more

    inner = Graph(
        [
            process(halves, id="halves", outputs=("first", "second"), validation_rules=lambda value: len(value) == 2),
            process(lambda first: first, id="low", when=lambda first: first < 0),
            process(lambda n: n * 10, id="high", map_over={"n": "rows"}, retries=1),
            process(lambda x, y: (x, y), id="pairs", map_over=cross(x="rows", y="high")),
            process(lambda low: low, id="risky", required=False, fallback=7),
            process(total, id="total", dependencies={"extra": "second"}, after="risky"),
        ]
    )
    run = pmflow.run(inner.as_process(id="s", targets=["total", "pairs"]), inputs={"rows": [1, 2]})
    assert run["s"].data == {
        "total": (1, SKIPPED, [10, 20], {"extra": 2}),
        "pairs": [(1, 10), (1, 20), (2, 10), (2, 20)],
    }
    assert (run["s.first"].data, run["s.high_1"].data, run["s.halves"].data) == (1, 20, (1, 2))


def test_sub_graphs_within_sub_graphs() -> None:
    """Ids tell the way in; parameters that nobody feeds are asked for outside, as far as it takes."""
    inner = training().as_process(id="a", inputs={"degree": 2})
    middle = Graph([inner, process(lambda a, rows: (a, rows), id="b")])
    outer = middle.as_process(id="o", dependencies={"rows": "table"})
    run = pmflow.run(Graph([outer, process(lambda: [3, 1], id="table")]))
    assert run.value == (4, [3, 1])
    assert set(run) == {"table", "o.a.degree", "o.a.clean", "o.a.fit", "o.a.score", "o.a", "o.b", "o"}


class Adds(BaseProcess[Any]):
    """Adds what it depends on."""

    def process(self, input_data: Any) -> Any:
        """Read the results by the ids that it was written with."""
        return self.get_process_result(input_data, "fit")[1] + self.get_process_result(input_data, "offset")


class Waits(BaseProcess[Any]):
    """The same, as the seed writes it."""

    async def execute(self, input_data: Any) -> Any:
        """Read the results."""
        await anyio.lowlevel.checkpoint()
        return sorted(input_data), self.get_process_result(input_data, "adds")


def test_candidates_for_a_list_of_results_are_refused() -> None:
    """As they are where a process is written."""
    with pytest.raises(ConfigurationError, match="'s.b': 'a' takes a list of results, and cannot have candidates"):
        Graph([process(listed, id="b")]).as_process(id="s", dependencies={"a": ("x", "y")})


@pytest.mark.parametrize("kind", list(ProcessType))
def test_class_based_processes_read_results_by_the_ids_they_know(kind: ProcessType) -> None:
    """A class is written once, and used inside and outside of sub-graphs."""
    adds = Adds(ProcessConfig(process_id="adds", process_type=kind, dependencies=["fit", "offset"]))
    waits = Waits(ProcessConfig(process_id="waits", process_type=kind, dependencies=["adds"], after=["fit"]))
    graph = Graph([*training().processes.values(), adds, waits])
    train = graph.as_process(id="train", targets="waits", inputs={"offset": 10})
    assert pmflow.run(train, inputs={"rows": [1], "degree": 3}).value == (["adds"], 13)
    outer = graph.as_process(id="train", targets="waits", dependencies={"offset": "base"})
    run = pmflow.run(Graph([outer, process(lambda: 5, id="base")]), inputs={"rows": [1]}, targets="train")
    assert run.value == (["adds"], 6)


def test_a_class_based_process_without_dependencies_takes_its_input_by_its_new_id() -> None:
    """Inputs have the ids of the outer graph."""

    class Double(BaseProcess[Any]):
        def process(self, input_data: Any) -> Any:
            return input_data * 2

    double = Graph([Double(ProcessConfig(process_id="double", process_type=ProcessType.THREAD))])
    assert pmflow.run(double.as_process(id="s"), inputs={"s.double": 21}).value == 42


def test_the_parts_are_found_where_processes_are() -> None:
    """In the scope that calls, by the id of the sub-graph and by those inside; what it needs is found as well."""
    rows = process(lambda: [1, 2], id="rows")
    train = training().as_process(id="train")
    by_id = process(lambda train: train, id="by_id")
    by_part = process(lambda model: model, id="by_part", dependencies={"model": "train.fit"})
    assert (rows.id, train.id) == ("rows", "train")
    assert pmflow.run(by_id).value == 2
    assert pmflow.run(by_part).value == ([1, 2], 1)
    assert pmflow.run(by_part, overrides={"train.clean": [7]}).value == ([7], 1)


@pytest.mark.anyio
async def test_a_sub_graph_on_its_own() -> None:
    """As every process, it can be run with what it takes."""
    train = training().as_process(id="train", dependencies={"rows": "table"}, after="other", inputs={"degree": 4})
    result = await train.run({"rows": [1, 2]})
    assert (result.process_id, result.data, train.metadata.state) == ("train", 8, COMPLETED)
    each = training().as_process(id="each", map_over={"degree": "degrees"})
    assert (await each.run({"rows": [1, 2], "degree": 3})).unwrap() == 6


# No barrier


def test_a_process_inside_begins_when_its_own_inputs_exist() -> None:
    """What feeds one parameter waits for a process inside that does not need it: a nested run could not begin."""
    prepared, consumed = threading.Event(), threading.Event()
    inner = Graph(
        [
            process(lambda: prepared.set(), id="prepare"),
            process(lambda rows, prepare: rows, id="use"),
            process(lambda use: waited(consumed), id="late"),
        ]
    )
    rows = process(lambda: [1] if waited(prepared) else [], id="rows")
    eager = process(lambda rows: consumed.set(), id="eager", dependencies={"rows": "s.use"})
    s = inner.as_process(id="s", targets=["use", "late"])
    run = pmflow.run(Graph([s, rows, eager]))
    assert run["s"].data == {"use": [1], "late": True}


def test_elements_go_along_without_a_barrier() -> None:
    """Element 1 of the first process waits for element 0 of the last one, outside of the sub-graph."""
    ended = threading.Event()
    inner = Graph(
        [
            process(lambda n: n if not n or waited(ended) else None, id="first"),
            process(lambda first: first + 1, id="second"),
        ]
    )
    each = inner.as_process(id="each", map_over={"n": "ns"})
    last = process(lambda value: (ended.set(), value)[1], id="last", map_over={"value": "each"})
    run = pmflow.run(Graph([each, last]), inputs={"ns": range(3)})
    assert (run.value, run["each_1"].data, run["each.first_2"].data) == ([1, 2, 3], 2, 2)


# Failures


def failing(**settings: Any) -> Graph:
    """A graph whose first process fails."""
    return Graph(
        [
            process(lambda rows: 1 / 0, id="load", **settings),
            process(lambda load: load, id="fit"),
        ]
    )


def test_a_failure_inside_names_the_process_inside() -> None:
    """The sub-graph and what depends on it are SKIPPED, for a failure, and the reason says of which process."""
    s = failing().as_process(id="s")
    then = process(lambda s=None: s, id="then")
    run = pmflow.run(Graph([s, then]), inputs={"rows": 1}, on_error="return")
    assert states(run) == {"s.load": FAILED, "s.fit": SKIPPED, "s": SKIPPED, "then": SKIPPED}
    reason = "'s.load' failed (ZeroDivisionError: division by zero)"
    assert {run["s.fit"].reason, run["s"].reason, run["then"].reason} == {reason}
    assert (list(run.failures), run.success) == (["s.load"], False)
    with pytest.raises(pmflow.WorkflowError, match="'s.load' failed"):
        pmflow.run(Graph([s, then]), inputs={"rows": 1})


def test_a_sub_graph_that_is_not_required_gives_no_value() -> None:
    """Nothing inside fails the run; parameters keep their defaults."""
    s = failing().as_process(id="s", required=False)
    then = process(lambda s="none": s, id="then")
    run = pmflow.run(Graph([s, then]), inputs={"rows": 1})
    assert (run.value, run.success) == ("none", True)
    assert states(run) == {"s.load": FAILED, "s.fit": SKIPPED, "s": SKIPPED, "then": COMPLETED}
    within = Graph([s, then]).as_process(id="outer")
    assert pmflow.run(within, inputs={"rows": 1}).value == "none"


def test_who_takes_the_result_of_a_sub_graph_handles_what_fails_inside() -> None:
    """Also what fails before the target, and within sub-graphs of the sub-graph; not where others need it."""

    def takes(s: ProcessResult[Any]) -> str | None:
        return s.reason

    s = failing().as_process(id="s")
    then = process(takes, id="then")
    reason = "'s.load' failed (ZeroDivisionError: division by zero)"
    run = pmflow.run(Graph([s, then]), inputs={"rows": 1})
    assert (run.value, run.success) == (reason, True)
    nested = Graph([failing().as_process(id="inner")]).as_process(id="s")
    assert pmflow.run(Graph([nested, then]), inputs={"rows": 1}).value == reason.replace("s.load", "s.inner.load")
    other = process(lambda load: load, id="other", dependencies={"load": "s.load"})
    assert not pmflow.run(Graph([s, then, other]), inputs={"rows": 1}, on_error="return").success
    for source in ("s", "s.fit"):
        second = process(lambda model: model, id="second", dependencies={"model": source})
        run = pmflow.run(Graph([s, then, second]), inputs={"rows": 1}, on_error="return")
        assert (run.success, list(run.failures)) == (False, ["s.load"])


def test_elements_of_a_sub_graph_fail_one_by_one() -> None:
    """By the truth table, in their places."""

    def takes(s: list[ProcessResult[Any]]) -> list[Any]:
        return [each.data if each.success else each.reason for each in s]

    inner = Graph([process(lambda n: 1 // n, id="load"), process(lambda load: load + 1, id="fit")])
    s = inner.as_process(id="s", map_over={"n": "ns"})
    inputs = {"ns": [1, 0, 2]}
    reason = "'s.load_1' failed (ZeroDivisionError: integer division or modulo by zero)"
    run = pmflow.run(Graph([s, process(takes, id="then")]), inputs=inputs)
    assert (run.value, run["s_1"].state) == ([2, reason, 1], SKIPPED)
    run = pmflow.run(inner.as_process(id="s", map_over={"n": "ns"}, required=False), inputs=inputs)
    assert (run.value, run["s_0"].data, run["s_2"].data) == ([2, 1], 2, 1)
    run = pmflow.run(s, inputs=inputs, on_error="return")
    assert (run["s"].state, run["s_2"].data, list(run.failures)) == (SKIPPED, 1, ["s.load_1"])


def test_after_lets_nothing_inside_begin_before() -> None:
    """Processes without inputs too; where that fails, nothing inside runs."""
    order: list[str] = []
    inner = Graph(
        [process(lambda: order.append("inside"), id="a"), process(lambda n=2: order.append("inside"), id="b")]
    )
    s = inner.as_process(id="s", after="migrate", targets=["a", "b"])
    migrate = process(lambda: order.append("migrate"), id="migrate")
    pmflow.run(Graph([s, migrate]))
    assert order == ["migrate", "inside", "inside"]
    fails = process(lambda: 1 / 0, id="migrate")
    run = pmflow.run(Graph([s, fails]), on_error="return")
    assert states(run) == {"migrate": FAILED, "s.a": SKIPPED, "s.b": SKIPPED, "s": SKIPPED}


# Runs


def test_overrides_of_what_is_inside_and_of_the_whole() -> None:
    """By the new ids; where a value or a process stands for the whole, nothing inside runs."""
    s = training().as_process(id="s")
    then = process(lambda s: s + 1, id="then")
    graph = Graph([s, then])
    run = pmflow.run(graph, overrides={"s.fit": ("model", 5), "s.clean": [1, 2]})
    assert (run.value, run["s.fit"].attempts) == (11, 0)
    assert data(pmflow.run(graph, overrides={s: 10})) == {"s": 10, "then": 11}
    assert data(pmflow.run(graph, overrides={"s": process(lambda: 20, id="other")})) == {"s": 20, "then": 21}
    assert data(pmflow.run(then, overrides={"s": 10})) == {"s": 10, "then": 11}


def test_another_sub_graph_can_stand_for_one() -> None:
    """With all that is inside, of the same names or of others; not of those of the rest."""
    then = process(lambda s: s, id="then")
    graph = Graph([training().as_process(id="s"), then, process(lambda: 1, id="x.a")])
    other = Graph([process(lambda rows: [*rows, 0], id="clean"), process(lambda clean: len(clean), id="size")])
    run = pmflow.run(graph, overrides={"s": other.as_process(id="s")}, inputs={"rows": [1]}, targets="then", keep="all")
    assert data(run) == {"s.clean": [1, 0], "s.size": 2, "s": 2, "then": 2}
    run = pmflow.run(graph, overrides={"s": other.as_process(id="y")}, inputs={"rows": [1]}, targets="then", keep="all")
    assert data(run) == {"y.clean": [1, 0], "y.size": 2, "s": 2, "then": 2}
    clashing = Graph([process(lambda: 1, id="a")]).as_process(id="x")
    with pytest.raises(DuplicateProcessError, match="two processes have the id 'x.a'"):
        pmflow.run(graph, overrides={"s": clashing})


def test_targets_and_what_is_kept() -> None:
    """A process inside can be a target: then only what it needs runs."""
    s = training().as_process(id="s")
    run = pmflow.run(Graph([s]), targets="s.fit", inputs={"rows": [1]})
    assert (run.value, list(run)) == (([1], 1), ["s.clean", "s.fit"])
    with pytest.raises(pmflow.ValueReleasedError):
        _ = run["s.clean"].data
    kept = pmflow.run(Graph([s]), targets=["s.fit", s], inputs={"rows": [1]}, keep="all")
    assert (kept["s.clean"].data, kept.data) == ([1], {"s.fit": ([1], 1), "s": 1})


def test_the_key_of_a_process_inside_is_its_new_id() -> None:
    """The process itself is another one's copy; who asks by its own id is told which there is."""
    clean = process(lambda rows: rows, id="clean")
    run = pmflow.run(Graph([clean]).as_process(id="train"), inputs={"rows": 1})
    with pytest.raises(KeyError, match=r"no process 'clean' in this run; did you mean 'train\.clean'"):
        _ = run[clean]
    assert run["train.clean"].data == 1


def test_a_look_before_running() -> None:
    """A plan and an explanation show what is inside like everything else."""
    s = training().as_process(id="s", inputs={"degree": 2}, dependencies={"rows": "table"})
    graph = Graph([s, process(lambda: [1], id="table"), process(lambda s: s, id="then")])
    assert str(graph.plan()).splitlines() == [
        "7 processes for 'then', the most urgent first",
        "  table     thread",
        "  s.degree  async, inline",
        "  s.clean   thread         rows = 'table'",
        "  s.fit     thread         clean = 's.clean', degree = 's.degree'",
        "  s.score   thread         fit = 's.fit', clean = 's.clean'",
        "  s         async, inline  score = 's.score'",
        "  then      thread         s = 's'",
    ]
    found = {
        (name, each.parameter): (each.source, each.kind, each.named_by)
        for name in graph
        for each in graph.explain(name).parameters
    }
    assert found == {
        ("s", "score"): ("s.score", "process", "parameter"),
        ("s.clean", "rows"): ("table", "process", "dependencies"),
        ("s.fit", "clean"): ("s.clean", "process", "parameter"),
        ("s.fit", "degree"): ("s.degree", "process", "parameter"),
        ("s.score", "fit"): ("s.fit", "process", "parameter"),
        ("s.score", "clean"): ("s.clean", "process", "parameter"),
        ("then", "s"): ("s", "process", "parameter"),
    }
    assert graph.explain("s").place == repr(s)
    assert __file__ in repr(s)


def test_a_strategy_for_all_leaves_what_is_inserted_inline() -> None:
    """What only hands on a value is sent nowhere, whatever the run says."""
    s = training().as_process(id="s", inputs={"degree": 2})
    run = pmflow.run(s, inputs={"rows": [1]}, type="process")
    strategies = {name: result.strategy for name, result in run.items()}
    inside, inserted = ProcessType.PROCESS, ProcessType.ASYNC
    assert strategies == {
        "s.clean": inside, "s.fit": inside, "s.score": inside, "s": inserted, "s.degree": inserted,
    }  # fmt: skip


def test_a_comparison_suggests_nothing_for_what_is_inserted() -> None:
    """It is about the user's functions."""
    comparison = pmflow.compare(training().as_process(id="s", inputs={"degree": 2}), inputs={"rows": [1]}, repeat=1)
    assert set(comparison.suggested) == {"s.clean", "s.fit", "s.score"}


def test_a_process_knows_that_it_is_inside() -> None:
    """Its id, as it knows it, is the one of the run."""
    inner = Graph([process(lambda n: (pmflow.current().id, n), id="a")])
    run = pmflow.run(inner.as_process(id="s", map_over={"n": "ns"}), inputs={"ns": [7]})
    assert run.value == [("s.a_0", 7)]


def test_types_are_checked_across_the_border() -> None:
    """An edge into a sub-graph is like any other."""
    pytest.importorskip("beartype")

    def rows() -> str:
        return ""

    def clean(rows: int) -> int:
        return rows

    with pytest.raises(TypeMismatchError, match=r"'s\.clean' takes 'rows' as int, and 'rows' gives str"):
        Graph([Graph([process(clean)]).as_process(id="s"), process(rows)])


def test_it_travels() -> None:
    """To a worker that runs it there, too."""
    s = training().as_process(id="s")
    copy = pickle.loads(cloudpickle.dumps(s))  # noqa: S301 - its own bytes
    assert pmflow.run(copy, inputs={"rows": [1, 2]}).value == 2
    nested = process(lambda: pmflow.run(s, inputs={"rows": [1, 2, 3]}).value, id="nested", type="process")
    assert pmflow.run(nested).value == 3


# Maps


@every_type
def test_a_mapped_sub_graph_runs_once_per_element(kind: Any) -> None:
    """What depends on what is mapped over does; the rest runs once; the value is the list."""
    each = training(kind).as_process(id="each", map_over={"degree": "degrees"})
    run = pmflow.run(each, inputs={"rows": [2, 1], "degrees": [1, 2, 3]})
    assert data(run) == {
        "each.clean": [1, 2],
        "each.degree": [1, 2, 3],
        "each.fit": [([1, 2], 1), ([1, 2], 2), ([1, 2], 3)],
        "each.score": [2, 4, 6],
        "each": [2, 4, 6],
    }
    assert (run["each_2"].data, run["each.fit_2"].data) == (6, ([1, 2], 3))


def pairs(**settings: Any) -> SubgraphProcess[Any]:
    """A sub-graph with two branches that meet."""
    inner = Graph(
        [
            process(lambda x: x * 10, id="left"),
            process(lambda y: y + 1, id="right"),
            process(lambda left, right: left + right, id="both"),
        ]
    )
    return inner.as_process(id="s", **settings)


def test_several_mapped_parameters_zip_or_cross() -> None:
    """Elements pair by index in both branches; of every combination in the order of itertools.product."""
    inputs = {"xs": [1, 2], "ys": [3, 4]}
    zipped = pmflow.run(pairs(map_over={"x": "xs", "y": "ys"}), inputs=inputs)
    assert (zipped.value, zipped["s.left"].data) == ([14, 25], [10, 20])
    crossed = pmflow.run(pairs(map_over=cross(x="xs", y="ys")), inputs=inputs)
    assert (crossed.value, crossed["s.right"].data) == ([14, 15, 24, 25], [4, 5, 4, 5])
    assert pmflow.run(pairs(map_over="x"), inputs={"x": [1, 2], "y": 0}).value == [11, 21]
    run = pmflow.run(pairs(map_over={"x": "xs", "y": "ys"}), inputs={"xs": [1], "ys": [1, 2]}, on_error="return")
    assert "sequences of different lengths: 'x' has 1, 'y' has 2" in str(run["s.x"].exception)
    assert run["s"].state is SKIPPED


def test_a_map_over_a_map_outside_goes_along_with_it() -> None:
    """Element by element, with no list in between."""
    source = process(lambda n: n, id="source", map_over={"n": "ns"}, when=lambda n: n != 1)
    s = pairs(map_over={"x": source}, inputs={"y": 0})
    run = pmflow.run(Graph([source, s]), inputs={"ns": range(3)})
    assert (run.value, run["s_0"].data, run["s_1"].state, run["s_2"].data) == ([1, 21], 1, SKIPPED, 21)
    given = pmflow.run(Graph([source, s]), inputs={"ns": range(3)}, overrides={"s.x": [5]})
    assert given.value == [51]


def test_an_iterator_feeds_all_that_is_mapped_over_it() -> None:
    """It is read once; no element makes no call."""
    assert pmflow.run(pairs(map_over={"x": "xs"}), inputs={"xs": iter([1, 2]), "y": 0}).value == [11, 21]
    assert pmflow.run(pairs(map_over={"x": "xs"}), inputs={"xs": [], "y": 0}).value == []


def test_several_targets_of_a_mapped_sub_graph() -> None:
    """One dictionary for each element, also of a target that is the same for all."""
    run = pmflow.run(pairs(map_over={"x": "xs"}, targets=["both", "right"]), inputs={"xs": [1, 2], "y": 0})
    assert run.value == [{"both": 11, "right": 1}, {"both": 21, "right": 1}]


def test_outputs_sub_graphs_and_results_inside_a_mapped_one() -> None:
    """Each element has its own."""

    def states_of(a: ProcessResult[Any]) -> Any:
        return a.state

    inner = Graph(
        [
            process(lambda n: (n, -n), id="split", outputs=("a", "b")),
            process(states_of, id="state"),
            pairs(dependencies={"x": "a"}, inputs={"y": 1}),
            process(lambda xs: len(xs), id="size", dependencies={"xs": "all"}),
            process(lambda m: m, id="all", map_over={"m": "ms"}),
        ]
    )
    targets = ["b", "state", "s", "size"]
    run = pmflow.run(
        inner.as_process(id="each", map_over={"n": "ns"}, targets=targets), inputs={"ns": [1, 2], "ms": []}
    )
    assert run.value == [
        {"b": -1, "state": COMPLETED, "s": 12, "size": 0},
        {"b": -2, "state": COMPLETED, "s": 22, "size": 0},
    ]
    assert run["each.s.left_1"].data == 20


def test_a_mapped_sub_graph_inside_of_one_that_is_not() -> None:
    """It is a map like any other there."""
    middle = Graph([pairs(map_over={"x": "xs"}), process(lambda s: sum(s), id="total")])
    outer = middle.as_process(id="o", dependencies={"xs": "numbers"}, inputs={"y": 0})
    run = pmflow.run(outer, inputs={"numbers": [1, 2]})
    assert (run.value, run["o.s"].data, run["o.s.left_1"].data) == (32, [11, 21], 20)


def listed(a: list[ProcessResult[Any]]) -> Any:
    """Take a list of results."""
    return a


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([process(lambda m, a: m, id="b", map_over={"m": "ms"})], "'b' inside it depends on .* and is mapped itself"),
        ([process(lambda m: m, id="b", map_over={"m": "a"})], "'b' inside it .* and is mapped itself"),
        ([process(lambda m: m, id="b", dependencies={"m": ("a", "z")})], "'b' inside it .* has candidates"),
        ([process(listed, id="b")], "'b' inside it .* takes a list of results"),
        ([process(lambda n: n, id="b", after="a")], "'b' inside it .* waits with after="),
        ([Adds(ProcessConfig(process_id="b", dependencies=["a"]))], "'b' inside it .* is class-based"),
        ([process(lambda: 1, id="b", after="a")], "no target of the sub-graph 's' depends on what it maps over"),
    ],
)
def test_what_cannot_be_there_for_each_element_is_refused(others: list[Any], reason: str) -> None:
    """When the sub-graph is made, with the name of the process inside."""
    graph = Graph([process(lambda n: n, id="a"), *others])
    with pytest.raises(ConfigurationError, match=reason):
        graph.as_process(id="s", map_over={"n": "ns"}, targets="b")


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dependencies": {"degre": "x"}}, "has no parameter 'degre', .* did you mean 'degree'"),
        ({"inputs": {"q": 1}}, "has no parameter 'q', which its inputs names; there is 'rows', 'degree'"),
        ({"map_over": {"fit": "x"}}, r"has a process 'fit' inside, .* run with overrides=\{'s.fit': \.\.\.\}"),
        ({"map_over": {"rows": "x"}, "inputs": {"rows": 1}}, "both inputs and map_over name the parameter 'rows'"),
        ({"dependencies": ["rows"]}, "dependencies must map names to values"),
        ({"inputs": ["rows"]}, "inputs must map names to values"),
        ({"inputs": {"rows": iter([1])}}, "a list_iterator as the fixed value of 'rows', which is good for one run"),
        ({"dependencies": {"rows": "s"}}, "has a parameter 'rows', which would be fed by itself"),
        ({"map_over": {"rows": "s"}}, "has a parameter 'rows', which would be fed by itself"),
        ({"id": "rows"}, "has a parameter 'rows', which would be fed by itself"),
        ({"targets": []}, "has no target, so it has no value"),
        ({"required": 1}, "required must be True or False"),
        ({"when": lambda rows: rows}, r"has no setting 'when': .* with \.options\(when=\.\.\.\)"),
        ({"limit": 2}, "has no setting 'limit': it is one of single processes"),
        ({"target": "fit"}, "has no setting 'target'; did you mean 'targets'"),
        ({"id": ""}, "process_id must be a string"),
    ],
)  # fmt: skip
def test_what_a_sub_graph_cannot_be_is_refused_where_it_is_made(settings: dict[str, Any], message: str) -> None:
    """With the setting, and what to do."""
    with pytest.raises(ConfigurationError, match=message):
        training().as_process(**{"id": "s", **settings})


def test_a_target_that_is_not_there_is_refused() -> None:
    """With the nearest name."""
    with pytest.raises(InputError, match="given as a target of the sub-graph 's'; did you mean 'score'"):
        training().as_process(id="s", targets="scor")
    with pytest.raises(ConfigurationError, match="the sub-graph 's' has no target"):
        Graph([]).as_process(id="s")


def test_what_depends_on_itself_through_a_sub_graph_is_a_cycle() -> None:
    """The way through it is shown."""
    rows = process(lambda s: s, id="rows")
    with pytest.raises(CycleError, match=r"s\.score -> s") as caught:
        Graph([training().as_process(id="s"), rows])
    assert {"s", "rows", "s.clean"} <= set(caught.value.cycle)


def test_candidates_for_what_takes_one_source_are_refused() -> None:
    """A map, and a class-based process."""
    mapped = Graph([process(lambda n: n, id="a", map_over={"n": "ns"})])
    classes = Graph([Adds(ProcessConfig(process_id="a", dependencies=["ns"]))])
    for graph in (mapped, classes):
        with pytest.raises(ConfigurationError, match="has candidates for 'ns', and 'a' inside it takes one source"):
            graph.as_process(id="s", dependencies={"ns": ("x", "y")})


def test_two_sub_graphs_of_one_id_are_refused() -> None:
    """With both places; so is a process that is called like one inside."""
    graph = training()
    with pytest.raises(DuplicateProcessError, match="two processes have the id 's'") as caught:
        Graph([graph.as_process(id="s"), graph.as_process(id="s")])
    assert all(__file__ in place for place in caught.value.places)
    with pytest.raises(DuplicateProcessError, match="two processes have the id 's.fit'"):
        Graph([graph.as_process(id="s"), process(lambda: 1, id="s.fit")])


def test_a_workflow_takes_none() -> None:
    """It is made of single nodes; the error says where a sub-graph goes."""
    with (
        pmflow.Workflow() as workflow,
        pytest.raises(ConfigurationError, match="'s' is a sub-graph; run it in a Graph"),
    ):
        training().as_process(id="s").register_to(workflow)


def test_the_graph_of_a_workflow_can_be_a_sub_graph() -> None:
    """With what its nodes say."""
    order: list[str] = []
    with pmflow.Workflow() as workflow:
        process(lambda: order.append("a"), id="a").register_to(workflow)
        process(lambda: order.append("b"), id="b").register_to(workflow, ["a"])
        process(lambda: 1 / 0, id="c").register_to(workflow, ["b"], required=False)
    run = pmflow.run(workflow.graph.as_process(id="w"))
    assert (order, run.success) == (["a", "b"], True)
    assert states(run) == {"w.a": COMPLETED, "w.b": COMPLETED, "w.c": FAILED, "w": SKIPPED}


# Graphs combined


def test_what_was_an_input_of_one_graph_may_be_a_process_of_the_other() -> None:
    """In either direction; the edges are those of all processes together."""
    page = process(lambda url: url.upper(), id="page")
    words = process(lambda page: page.split(), id="words")
    url = process(lambda words=(): "a b", id="url")
    one, two = Graph([words]), Graph([page])
    assert (one | two).dependencies == {"words": ("page",), "page": ()}
    assert pmflow.run(two | one, inputs={"url": "a b"}).value == ["A", "B"]
    assert (one.dependencies, one.targets) == ({"words": ()}, ("words",))
    with pytest.raises(CycleError):
        _ = one | two | Graph([url])


def test_what_is_in_both_graphs_is_there_once() -> None:
    """Processes, with their outputs, and sub-graphs; two of one id are refused with both places."""
    split = process(lambda rows: (rows[0], rows[1:]), id="split", outputs=("head", "tail"))
    s = training().as_process(id="s", dependencies={"rows": "tail"})
    combined = Graph([split, s]) | Graph([process(lambda head, s: (head, s), id="end"), s, split])
    assert pmflow.run(combined, inputs={"rows": [9, 1, 2]}).value == (9, 2)
    assert len(combined) == 8
    other = process(lambda: 1, id="split")
    with pytest.raises(DuplicateProcessError, match="two processes have the id 'split'") as caught:
        _ = combined | Graph([other])
    assert all(__file__ in place for place in caught.value.places)
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = combined | other  # type: ignore[operator]


def test_what_workflows_say_of_their_nodes_is_combined() -> None:
    """Further dependencies, and what is not required."""
    with pmflow.Workflow() as one, pmflow.Workflow() as two:
        a = process(lambda: 1 / 0, id="a").register_to(one, required=False)
        process(lambda: 2, id="b").register_to(one, ["a"])
        process(lambda: 3, id="c").register_to(two, ["d"])
        process(lambda: 4, id="d").register_to(two)
    combined = one.graph | two.graph
    assert combined.dependencies == {"a": (), "b": ("a",), "c": ("d",), "d": ()}
    assert (combined.required(a.id), combined.required("b"), pmflow.run(combined).success) == (False, True, True)


# Modules


def module_of(**processes: Any) -> types.ModuleType:
    """A module with these variables."""
    module = types.ModuleType("steps")
    vars(module).update(processes)
    return module


def test_the_graph_of_a_module_is_what_a_run_of_it_takes() -> None:
    """All its processes, sub-graphs among them, and what they need of where it is asked for."""
    needed = process(lambda: [1, 2], id="needed")
    page = process(lambda needed: needed, id="page")
    s = training().as_process(id="s", dependencies={"rows": "page"})
    module = module_of(page=page, again=page, s=s, number=3)
    graph = Graph.from_module(module)
    assert set(graph) == {"page", "s", "s.clean", "s.fit", "s.score", needed.id}
    assert data(pmflow.run(graph)) == data(pmflow.run(module))
    assert [set(each) for each in [Graph.from_module(module) for _ in range(2)]] == [set(graph)] * 2
    whole = graph.as_process(id="all")
    assert pmflow.run(whole).value == 2


def test_what_is_no_module_of_processes_is_refused() -> None:
    """With what it is."""
    with pytest.raises(GraphError, match="the module 'steps' has no processes"):
        Graph.from_module(module_of(number=3))
    with pytest.raises(GraphError, match=r"from_module\(\) takes a module, not \[1\]; for processes, write Graph"):
        Graph.from_module([1])  # type: ignore[arg-type]
    with pytest.raises(DuplicateProcessError, match="two processes have the id 'a'"):
        Graph.from_module(module_of(x=process(lambda: 1, id="a"), y=process(lambda: 2, id="a")))


def test_what_only_an_overridden_process_needs_does_not_run_where_a_process_stands_for_it() -> None:
    """Without targets as with them."""
    load = process(lambda: 1, id="load")
    fit = process(lambda load: load, id="fit")
    end = process(lambda fit: fit, id="end")
    other = process(lambda: 2, id="other")
    assert data(pmflow.run(Graph([load, fit, end]), overrides={"fit": other})) == {"fit": 2, "end": 2}


# Random graphs: a sub-graph gives what a run of its graph gives


def told(values: dict[str, Any]) -> int:
    """A number that depends on all values, and of a result on its state."""
    seen = {name: each.state.value if isinstance(each, ProcessResult) else each for name, each in values.items()}
    return zlib.crc32(repr(sorted(seen.items())).encode())


class Step:
    """A function with parameters of these names; one that may fail does so for half of all values."""

    def __init__(self, name: str, parameters: list[inspect.Parameter], *, may_fail: bool) -> None:
        self.__name__ = name
        self.__signature__ = inspect.Signature(parameters)
        self.may_fail = may_fail

    def __call__(self, **values: Any) -> int:
        """Return a number, or fail."""
        if self.may_fail and told(values) % 2:
            raise ValueError(self.__name__)
        return told(values) % 1_000


PARAMETERS: list[dict[str, Any]] = [{}, {"default": "none"}, {"annotation": ProcessResult}]
"""What wants a value, a value or else a default, and a result."""


@st.composite
def steps(draw: Any, *, after: bool) -> tuple[Graph, list[str]]:
    """A graph whose inputs are x and y, and targets."""
    processes: list[FunctionProcess[..., Any, Any]] = []
    for number in range(draw(st.integers(1, 6))):
        names = draw(st.sets(st.sampled_from(["x", "y", *(each.id for each in processes)])))
        parameters = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, **draw(st.sampled_from(PARAMETERS[: 2 if name in "xy" else 3]))
            )
            for name in sorted(names)
        ]
        options: Any = draw(
            st.sampled_from([{}, {}, {"required": False}, {"fallback": 5}, {"when": lambda **values: told(values) % 3}])
        )
        if after and processes and draw(st.booleans()):
            options = {**options, "after": draw(st.sampled_from(processes))}
        step = Step(f"p{number}", parameters, may_fail=draw(st.integers(0, 2)) == 0)
        processes.append(process(step, id=step.__name__, type="async", **options))
    ids = [each.id for each in processes]
    return Graph(processes), draw(st.lists(st.sampled_from(ids), min_size=1, max_size=3, unique=True))


def asked(graph: Graph, **inputs: Any) -> dict[str, Any]:
    """Those inputs that a graph asks for."""
    sources = {source for edges in graph.edges.values() for _, source, _ in edges}
    return {name: value for name, value in inputs.items() if name in sources}


def facts(result: ProcessResult[Any]) -> Any:
    """What a process came to, wherever it is."""
    reason = None if result.reason is None else re.sub(r"s\.(p\d)(_\d)?", r"\1", result.reason)
    return result.state, result.data if result.success else None, reason


@given(steps(after=True))
def test_what_is_inside_ends_as_in_a_run_of_the_graph(drawn: tuple[Graph, list[str]]) -> None:
    """Each process with the same state, data and reason; the sub-graph has the values of the targets, if all have."""
    graph, targets = drawn
    options: Any = {"inputs": asked(graph, x=1, y=2), "on_error": "return", "fail_fast": False, "keep": "all"}
    flat = pmflow.run(graph, targets=targets, **options)
    outer = Graph([graph.as_process(id="s", targets=targets)])
    run = pmflow.run(outer, **{**options, "inputs": asked(outer, x=1, y=2)})
    assert {name: facts(run[f"s.{name}"]) for name in flat} == {name: facts(flat[name]) for name in flat}
    values = {name: flat[name].data for name in targets if flat[name].success}
    assert run["s"].success == (len(values) == len(targets))
    if run["s"].success:
        assert run["s"].data == (values if len(targets) > 1 else values[targets[0]])


@given(steps(after=False))
def test_each_element_ends_as_in_a_run_of_the_graph(drawn: tuple[Graph, list[str]]) -> None:
    """Of what depends on what is mapped over; but what needs a value all share, which is missing, has no elements."""
    graph, targets = drawn
    try:
        s = graph.as_process(id="s", targets=targets, map_over={"x": "xs"})
    except ConfigurationError:
        return  # nothing that the targets need asks for it
    outer = Graph([s])
    options: Any = {"on_error": "return", "fail_fast": False, "keep": "all"}
    run = pmflow.run(outer, inputs=asked(outer, xs=[1, 2, 3], y=2), **options)
    mapped = {part.id for part in s.parts if part.config.map_over}
    for index in range(3):
        flat = pmflow.run(graph, targets=targets, inputs=asked(graph, x=index + 1, y=2), **options)
        for name, result in flat.items():
            key = f"s.{name}_{index}" if f"s.{name}_{index}" in run else f"s.{name}"
            if key in mapped:
                assert run[key].state is SKIPPED
            else:
                assert (key, facts(run[key])) == (key, facts(result))
