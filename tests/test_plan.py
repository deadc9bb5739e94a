"""The graph and the plan: edges, checks, what is cut, what goes first, and what is run as one chain."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import gc
import pickle
from itertools import pairwise
from typing import Any

import attrs
import pytest

import pmflow
from pmflow import BaseProcess, Graph, Plan, ProcessConfig, ProcessResult, ProcessType, process
from pmflow.errors import (
    ConfigurationError,
    CycleError,
    DuplicateProcessError,
    GraphError,
    InputError,
    MissingDependencyError,
)
from pmflow.graph import MANY, uncollected


class Class(BaseProcess):
    """A class process."""

    def __init__(self, process_id: str, **settings: Any) -> None:
        super().__init__(ProcessConfig(process_id=process_id, **settings))

    def process(self, input_data: Any) -> Any:
        """Return what it receives."""
        return input_data


def unit(name: str, *needed: str, **settings: Any) -> Any:
    """Return a process that depends on others; it is a plain function of type async unless `settings` say what else."""
    settings = {"type": "async", **settings}
    if not needed:
        return process(lambda: name, id=name, **settings)
    if len(needed) == 1:
        return process(lambda x: (name, x), id=name, dependencies={"x": needed[0]}, **settings)
    return process(lambda **x: (name, x), id=name, dependencies={other: other for other in needed}, **settings)


def chains(plan: Plan) -> list[list[str]]:
    """Return the chains of a plan, each as the ids of its links."""
    found = []
    for name, node in plan.nodes.items():
        if node.unit == name:
            links = [name]
            while node.next is not None:
                node = node.next  # noqa: PLW2901 - the next link
                links.append(node.id)
            found.append(links)
    return found


def order(graph: Graph, **settings: Any) -> list[str]:
    """Return in which order a plan's units are taken, one after another."""
    frontier = Plan.of(graph, **settings).frontier()
    taken = []
    while ready := frontier.take_ready("inline", 1):
        taken += ready
        frontier.succeed(ready[0])
    return taken


# The graph


def test_a_graph_knows_its_edges() -> None:
    """`dependencies` maps each id to the ids it depends on: by parameter, `dependencies`, `after`; inputs are none."""
    page = process(lambda url: url, id="page")
    words = process(lambda page, stop=(): (page, stop), id="words")
    stop = process(lambda: (), id="stop")
    report = process(lambda text, top: text, id="report", dependencies={"text": "words"}, after=["page", "stop"])
    other = Class("other", dependencies=["report", "stop"])
    graph = Graph([other, report, words, stop, page])
    assert graph.dependencies == {
        "other": ("report", "stop"),
        "report": ("words", "page", "stop"),
        "words": ("page", "stop"),
        "stop": (),
        "page": (),
    }
    assert graph.targets == ("other",)
    assert set(graph.processes) == {"page", "words", "stop", "report", "other"}
    assert graph.processes["report"] is report


def test_a_dependency_is_named_once() -> None:
    """Two parameters fed by one process, and an `after` of it, are one dependency."""
    both = process(lambda x, y: (x, y), id="both", dependencies={"x": "a", "y": "a"}, after="a")
    graph = Graph([both, unit("a")])
    assert graph.dependencies == {"both": ("a",), "a": ()}
    assert pmflow.run(graph).value == ("a", "a")


def test_a_graph_of_maps() -> None:
    """The source of a map is a dependency."""
    page = process(lambda url: url, id="page", map_over={"url": "urls"})
    words = process(lambda page: page, id="words", map_over="page")
    assert Graph([page, words]).dependencies == {"page": (), "words": ("page",)}


def test_a_graph_is_immutable() -> None:
    """Neither its processes nor what it says of them can change it."""
    graph = Graph([unit("a"), unit("b", "a")])
    with pytest.raises(TypeError):
        graph.processes["c"] = unit("c")  # type: ignore[index]
    graph.dependencies["b"] = ()
    assert graph.dependencies == {"a": (), "b": ("a",)}
    with pytest.raises(AttributeError):
        graph.other = 1  # type: ignore[attr-defined]


def test_an_empty_graph() -> None:
    """A graph of nothing is a graph, and runs."""
    graph = Graph([])
    assert (graph.dependencies, graph.targets, len(graph)) == ({}, (), 0)
    assert dict(pmflow.run(graph)) == {}


def test_a_graph_takes_any_iterable() -> None:
    """Processes come in any order, from a generator too."""
    graph = Graph(unit(f"p{n}") for n in range(3))
    assert (list(graph), len(graph)) == (["p0", "p1", "p2"], 3)


def test_the_repr_of_a_graph_is_bounded() -> None:
    """It says how many processes there are, and names some."""
    assert repr(Graph([unit("a"), unit("b")])) == "<Graph of 2 processes: a, b>"
    shown = repr(Graph(unit(f"p{n}") for n in range(5_000)))
    assert "5,000" in shown
    assert len(shown) < 200


@pytest.mark.parametrize(
    ("links", "cycle"),
    [
        ({"a": ("a",)}, {"a"}),
        ({"a": ("b",), "b": ("a",)}, {"a", "b"}),
        ({"a": ("c",), "b": ("a",), "c": ("b",), "d": ("a",), "e": ()}, {"a", "b", "c"}),
    ],
    ids=["itself", "two", "three, and others"],
)
def test_a_cycle(links: dict[str, tuple[str, ...]], cycle: set[str]) -> None:
    """Processes that wait for one another are refused: the error has the path, and the message a remedy."""
    with pytest.raises(CycleError, match=r"form a cycle: .* -> .*;.*dependencies=") as caught:
        Graph([unit(name, *needed) for name, needed in links.items()])
    path = caught.value.cycle
    assert (path[0], set(path)) == (path[-1], cycle)
    assert all(before in links[after] or after in links[before] for before, after in pairwise(path))
    assert isinstance(caught.value, GraphError)


def test_the_remedy_for_a_cycle() -> None:
    """The message names the parameter to rename, or, for `after`, the process to take out."""
    a = process(lambda b: b, id="a")
    b = process(lambda a: a, id="b")
    with pytest.raises(CycleError, match=r"rename the parameter '(a|b)' of '(b|a)'"):
        Graph([a, b])
    with pytest.raises(CycleError, match=r"take 'd' out of what 'c' depends on|take 'c' out of what 'd' depends on"):
        Graph([unit("c", after="d"), unit("d", after="c")])


def test_a_cycle_through_after_and_maps() -> None:
    """`after`, maps and class processes close a cycle like parameters do."""
    with pytest.raises(CycleError):
        Graph([unit("a", after="b"), unit("b", "a")])
    with pytest.raises(CycleError):
        Graph([process(lambda x: x, id="a", map_over={"x": "b"}), process(lambda x: x, id="b", map_over={"x": "a"})])
    with pytest.raises(CycleError):
        Graph([Class("a", dependencies=["b"]), Class("b", dependencies=["a"])])


def test_a_long_cycle_is_shown_bounded() -> None:
    """A cycle of 10,000 processes is found without recursion; its message is bounded, its path whole."""
    count = 10_000
    with pytest.raises(CycleError) as caught:
        Graph(unit(f"p{n}", f"p{(n + 1) % count}") for n in range(count))
    assert len(caught.value.cycle) == count + 1
    assert len(str(caught.value)) < 1_000


def test_two_processes_of_one_id() -> None:
    """Two processes of one id are refused, with both places."""
    with pytest.raises(DuplicateProcessError, match="'a'") as caught:
        Graph([process(lambda: 1, id="a"), process(lambda: 2, id="a")])
    assert caught.value.process_id == "a"
    assert all(__file__ in place for place in caught.value.places)


def test_what_is_no_process() -> None:
    """What is no process is refused, with the remedy."""
    with pytest.raises(GraphError, match="@process"):
        Graph([len])  # type: ignore[list-item]


def test_a_missing_name_is_refused_by_the_plan() -> None:
    """Only a plan knows the inputs: a graph with a missing name can be made, and is refused when it is planned."""
    graph = Graph([unit("a", "nowhere")])
    assert graph.dependencies == {"a": ()}
    with pytest.raises(MissingDependencyError, match="'nowhere'"):
        Plan.of(graph)
    assert list(Plan.of(graph, inputs={"nowhere": 1}).nodes) == ["a"]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"targets": "nobody"}, InputError),
        ({"inputs": {"nobody": 1}}, InputError),
        ({"overrides": {"nobody": 1}}, InputError),
    ],
    ids=["targets", "inputs", "overrides"],
)
def test_what_does_not_fit_is_refused_by_the_plan(settings: dict[str, Any], error: type[GraphError]) -> None:
    """`plan` refuses targets, inputs and overrides that no process of the graph has to do with."""
    with pytest.raises(error, match="'nobody'"):
        Plan.of(Graph([unit("a")]), **settings)


# What is planned


def test_a_plan_is_cut_to_its_targets() -> None:
    """Only the targets and their ancestors are planned, each after those it depends on."""
    graph = Graph([unit("d", "b", "c"), unit("e", "c"), unit("c", "a"), unit("b", "a"), unit("a"), unit("f")])
    assert list(Plan.of(graph, targets="e").nodes) == ["a", "c", "e"]
    nodes = list(Plan.of(graph, targets=["d", "e"]).nodes)
    assert sorted(nodes) == ["a", "b", "c", "d", "e"]
    assert all(nodes.index(before) < nodes.index(after) for before, after in map(tuple, ["ab", "ac", "bd", "cd", "ce"]))
    assert sorted(Plan.of(graph).nodes) == ["a", "b", "c", "d", "e", "f"]
    assert (Plan.of(graph).targets, Plan.of(graph, targets="c").targets) == (("d", "e", "f"), ("c",))


def test_an_override_cuts_what_only_it_needs() -> None:
    """What an overridden process needed, and nobody else, is not planned."""
    graph = Graph([unit("c", "b"), unit("b", "a"), unit("a")])
    run = pmflow.run(graph, overrides={"b": 5}, targets="c")
    assert run.value == ("c", 5)
    assert "a" not in run


def test_a_plan_can_be_made_and_run_again_and_again() -> None:
    """A graph is planned and run as often as one likes, with other inputs, and nothing is carried over."""
    graph = Graph([unit("b", "a"), process(lambda x: x, id="a")])
    for value in (1, 2, 1):
        assert pmflow.run(graph, inputs={"x": value}).value == ("b", value)
    assert pmflow.run(graph, overrides={"a": 3}).value == ("b", 3)
    assert pmflow.run(graph, inputs={"x": 4}, type="thread")["b"].strategy is ProcessType.THREAD
    assert pmflow.run(graph, inputs={"x": 4})["b"].strategy is ProcessType.ASYNC
    assert pmflow.run(graph, inputs={"x": 5}, targets="a").data == {"a": 5}
    with pytest.raises(MissingDependencyError):
        pmflow.run(graph)
    with pytest.raises(InputError):
        pmflow.run(graph, inputs={"x": 1, "y": 2})


def test_plans_of_one_graph_do_not_share_inputs() -> None:
    """Two plans of one graph with other inputs keep their own, in whatever order they are made and read."""
    graph = Graph([process(lambda x: x, id="a")])
    plans = [Plan.of(graph, inputs={"x": value}) for value in (1, 2, 3)]
    assert [plan.bound for plan in plans] == [{"a": {"x": 1}}, {"a": {"x": 2}}, {"a": {"x": 3}}]


def test_a_plan_says_how_much_it_is() -> None:
    """Its length is the number of processes."""
    plan = Plan.of(Graph([unit("a"), unit("b", "a"), unit("c")]), targets="b")
    assert (len(plan), repr(plan)) == (2, "<Plan of 2 processes for b>")


def test_an_impossible_keep() -> None:
    """`keep` is one of two words."""
    with pytest.raises(ConfigurationError, match="'some'") as caught:
        Plan.of(Graph([unit("a")]), keep="some")
    assert caught.value.setting == "keep"


# What goes first


def test_the_longest_remaining_path_goes_first() -> None:
    """Of what is ready, what has the longest path behind it goes first; among equals whoever was ready first."""
    graph = Graph(
        [
            unit("short"),
            unit("middle"),
            unit("long"),
            unit("m2", "middle", "short"),
            unit("l2", "long", "short"),
            unit("l3", "l2", "short"),
            unit("l4", "l3", "short"),
        ]
    )
    assert order(graph) == ["short", "long", "l2", "middle", "l3", "m2", "l4"]
    assert order(graph, targets="m2") == ["short", "middle", "m2"]


def test_priorities_count_the_longest_path() -> None:
    """The priority of a process is the longest path from it on, not the number of its dependants."""
    wide = [unit("wide"), *(unit(f"leaf{n}", "wide") for n in range(10))]
    deep = [unit("deep"), unit("d2", "deep"), unit("side", "deep"), unit("d3", "d2"), unit("side2", "d2")]
    nodes = Plan.of(Graph([*wide, *deep])).nodes
    assert nodes["deep"].priority < nodes["wide"].priority
    assert nodes["deep"].priority < nodes["d2"].priority
    assert nodes["d2"].priority == nodes["wide"].priority
    assert nodes["leaf0"].priority == nodes["side"].priority


def test_paths_are_counted_to_the_targets_only() -> None:
    """What is cut gives nobody priority."""
    graph = Graph([unit("a"), unit("b"), unit("b2", "b"), unit("b3", "b2"), unit("a2", "a"), unit("z", "a", "b")])
    nodes = Plan.of(graph, targets="z").nodes
    assert nodes["a"].priority == nodes["b"].priority


def test_a_pipeline_goes_furthest_first() -> None:
    """Stages of aligned maps share the urgency of the first; among them the one furthest along goes first."""

    def stage(name: str, source: str) -> Any:
        return process(lambda x: x, id=name, type="async", map_over={"x": source})

    one, two, three = stage("one", "numbers"), stage("two", "one"), stage("three", "two")
    behind = [unit("tail", "one"), unit("tail2", "tail"), unit("tail3", "tail2")]
    nodes = Plan.of(Graph([one, two, three, *behind]), inputs={"numbers": []}).nodes
    assert nodes["three"].priority < nodes["two"].priority < nodes["one"].priority < nodes["tail"].priority
    plan = Plan.of(Graph([one, two, three, unit("longer"), unit("l2", "longer", "three")]), inputs={"numbers": []})
    assert plan.aligned == {"one": (), "two": ("one",), "three": ("two",)}


def test_stages_never_overtake_a_longer_path() -> None:
    """However many stages a pipeline has, a path that is longer than its first stage's goes before them."""
    stages = [process(lambda x: x, id="s0", type="async", map_over={"x": "numbers"})]
    stages += [process(lambda x: x, id=f"s{n}", type="async", map_over={"x": f"s{n - 1}"}) for n in range(1, 30)]
    line = [unit("l0"), *(unit(f"l{n}", f"l{n - 1}", "l0") for n in range(1, 40))]
    nodes = Plan.of(Graph([*stages, *line]), inputs={"numbers": []}).nodes
    assert nodes["l0"].priority < min(nodes[f"s{n}"].priority for n in range(30))


# What is one chain


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
def test_a_line_is_one_chain(kind: str) -> None:
    """Processes of one strategy, each the only consumer of the one before, become ready as one unit."""
    graph = Graph([unit("a", type=kind), unit("b", "a", type=kind), unit("c", "b", type=kind)])
    assert chains(Plan.of(graph)) == [["a", "b", "c"]]
    run = pmflow.run(graph)
    assert run.value == ("c", ("b", "a"))
    assert [run[name].attempts for name in "abc"] == [1, 1, 1]
    assert all(run[before].end_time <= run[after].start_time for before, after in ("ab", "bc"))


def test_a_link_that_comes_after() -> None:
    """`after` alone makes a link too: nothing is passed."""
    graph = Graph([unit("a"), process(lambda: "b", id="b", type="async", after="a"), unit("c", "b")])
    assert chains(Plan.of(graph)) == [["a", "b", "c"]]
    assert pmflow.run(graph).value == ("c", "b")


def test_a_link_with_a_default() -> None:
    """A parameter with a default is fed like any other, positional-only too; inputs are bound beforehand."""

    def second(first: Any = "default", /, other: Any = None) -> Any:
        return first, other

    graph = Graph([unit("first"), process(second, id="second", type="async")])
    assert chains(Plan.of(graph)) == [["first", "second"]]
    assert pmflow.run(graph, inputs={"other": 5}).value == ("first", 5)


def test_two_consumers_end_a_chain() -> None:
    """Who has two consumers ends a chain; who has two dependencies begins one."""
    graph = Graph([unit("a"), unit("b", "a"), unit("c", "b"), unit("d", "b"), unit("e", "c", "d"), unit("f", "e")])
    assert chains(Plan.of(graph)) == [["a", "b"], ["c"], ["d"], ["e", "f"]]


def test_strategies_are_not_mixed_in_a_chain() -> None:
    """A change of strategy ends a chain; `type=` of the run makes one of it."""
    graph = Graph(
        [unit("a"), unit("b", "a", type="thread"), unit("c", "b", type="thread"), unit("d", "c", type="process")]
    )
    assert chains(Plan.of(graph)) == [["a"], ["b", "c"], ["d"]]
    assert chains(Plan.of(graph, type="thread")) == [["a", "b", "c", "d"]]


def test_coroutines_and_plain_functions_are_not_mixed_in_a_chain() -> None:
    """On the loop, what awaits and what does not go different ways."""

    async def b(a: Any) -> Any:
        return a

    graph = Graph([unit("a"), process(b), unit("c", "b")])
    assert chains(Plan.of(graph)) == [["a"], ["b"], ["c"]]


def test_maps_are_in_no_chain() -> None:
    """A mapped process is no link, neither before nor after."""
    page = process(lambda a: a, id="page", type="async", map_over="a")
    graph = Graph([unit("a"), page, unit("b", "page")])
    assert chains(Plan.of(graph)) == [["a"], ["page"], ["b"]]


def test_results_are_in_no_chain() -> None:
    """Who wants the `ProcessResult` itself, or is a class process, waits for it outside of a chain."""

    @process(type="async")
    def b(a: ProcessResult[Any]) -> Any:
        return a.data

    assert chains(Plan.of(Graph([unit("a"), b]))) == [["a"], ["b"]]
    assert chains(Plan.of(Graph([unit("a"), Class("b", dependencies=["a"])]))) == [["a"], ["b"]]
    assert pmflow.run(Graph([unit("a"), b])).value == "a"


def test_overrides_are_in_no_chain() -> None:
    """A value that stands for a process is there from the start: its consumer begins a chain."""
    graph = Graph([unit("a"), unit("b", "a"), unit("c", "b"), unit("d", "c")])
    plan = Plan.of(graph, overrides={"b": 5})
    assert ["c", "d"] in chains(plan)
    assert pmflow.run(graph, overrides={"b": 5}).value == ("d", ("c", 5))


def test_a_chain_within_targets() -> None:
    """What is cut consumes nothing: a chain goes on where the other consumer is not planned."""
    graph = Graph([unit("a"), unit("b", "a"), unit("c", "a"), unit("d", "b")])
    assert chains(Plan.of(graph)) == [["a"], ["b", "d"], ["c"]]
    assert chains(Plan.of(graph, targets="d")) == [["a", "b", "d"]]


def test_two_parameters_of_one_source_are_no_link() -> None:
    """Who takes the one before twice is fed outside of a chain, and gets it twice."""
    both = process(lambda x, y: (x, y), id="both", type="async", dependencies={"x": "a", "y": "a"})
    graph = Graph([unit("a"), both])
    assert pmflow.run(graph).value == ("a", "a")
    assert chains(Plan.of(graph)) == [["a"], ["both"]]


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_long_line_is_cut_into_chains(kind: str) -> None:
    """A chain has at most 1,000 links, so that a line of many is handed over piece by piece; each keeps its result."""
    count = 2_500
    graph = Graph([unit("p0", type=kind), *(unit(f"p{n}", f"p{n - 1}", type=kind) for n in range(1, count))])
    assert [len(links) for links in chains(Plan.of(graph))] == [1_000, 1_000, 500]
    run = pmflow.run(graph, targets=f"p{count - 1}")
    assert list(run) == [f"p{n}" for n in range(count)]
    assert run.success


def test_links_have_settings_of_their_own() -> None:
    """Each link keeps its own retries: a failed one is tried again, and the chain goes on behind it."""
    calls: list[str] = []

    def b(a: str) -> str:
        calls.append("b")
        if calls.count("b") == 1:
            raise OSError("once")
        return a + "b"

    def a() -> str:
        calls.append("a")
        return "a"

    def c(b: str) -> str:
        calls.append("c")
        return b + "c"

    again = pmflow.RetryStrategy(max_retries=1, delay_seconds=0)
    for kind in ("async", "thread"):
        calls.clear()
        links: list[Any] = [process(a, type=kind), process(b, type=kind, retries=again), process(c, type=kind)]
        run = pmflow.run(links, targets="c", keep="all")
        assert (run.value, calls, run["b"].attempts) == ("abc", ["a", "b", "b", "c"], 2)


def test_a_declaration_is_not_written_to() -> None:
    """Planning and running change no process: a graph's processes compare equal to what they were."""
    page = unit("a", timeout=5, type="thread")
    before = attrs.asdict(page.config)
    pmflow.run(Graph([page]), type="async")
    assert attrs.asdict(page.config) == before


def test_errors_of_graphs_travel() -> None:
    """Every refusal can be pickled, with its facts."""
    for make in (
        lambda: Graph([unit("a", "a")]),
        lambda: Graph([unit("a"), unit("a")]),
        lambda: Plan.of(Graph([unit("a", "x")])),
        lambda: Plan.of(Graph([unit("a")]), targets="b"),
    ):
        with pytest.raises(GraphError) as caught:
            make()
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - its own bytes
        assert (type(copy), str(copy), copy.__dict__) == (type(caught.value), str(caught.value), caught.value.__dict__)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_again_after_a_large_graph(*, enabled: bool) -> None:
    """While a large one is made nobody looks for it; afterwards all is as it was, after an error too."""
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with uncollected(MANY - 1):
            assert gc.isenabled() is enabled
        with uncollected(MANY):
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        with pytest.raises(KeyError), uncollected(MANY):
            raise KeyError
        assert gc.isenabled() is enabled
        Plan.of(
            Graph([process(len, id=str(number), dependencies={"obj": "x"}) for number in range(MANY)]), inputs={"x": ()}
        )
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_what_only_an_overridden_process_needs_does_not_run() -> None:
    """With targets and without: a second try starts in the middle."""
    ran: list[str] = []
    first = process(lambda: ran.append("first"), id="first")
    graph = Graph([first, process(lambda first: first, id="second"), process(lambda second: second, id="third")])
    run = pmflow.run(graph, overrides={"second": 5})
    assert (run["third"].data, list(run), ran) == (5, ["second", "third"], [])
