"""A look before running: what a plan says will run and will not, and where a process's parameters come from."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

from typing import Any

import pytest
from hypothesis import given, strategies as st

import pmflow
from pmflow import (
    BaseProcess,
    Explanation,
    Graph,
    ParameterOrigin,
    Plan,
    ProcessConfig,
    ProcessId,
    ProcessResult,
    process,
)
from pmflow.engine.outline import by_urgency
from pmflow.errors import ConfigurationError, InputError, MissingDependencyError


class Collect(BaseProcess):
    """A class process."""

    def __init__(self, process_id: str, *dependencies: str) -> None:
        super().__init__(ProcessConfig(process_id=process_id, dependencies=dependencies))

    def process(self, input_data: Any) -> Any:
        return input_data


def never(**_: Any) -> Any:
    """Nothing of this file runs, but where it says so."""
    raise AssertionError("it ran")


def unit(name: str, *needed: str, **settings: Any) -> Any:
    """Return a process that depends on others."""
    return process(never, id=name, dependencies={other: other for other in needed}, **settings)


def place(of: Any) -> str:
    """Return where a function is written."""
    return f"{__file__}:{of.__wrapped__.__code__.co_firstlineno}"


@process(type="async", timeout=5, retries=3, map_over={"url": "urls"}, required=False)
async def page(url: str) -> str:
    return url


@process(type="process", timeout=0.5, retries=1, crash_retries=2)
def words(page: list[str], stop: tuple[str, ...] = ()) -> list[str]:
    return [*page, *stop]


@process(map_over="page", type="async")
def size(page: str) -> int:
    return len(page)


@process(dependencies={"pages": page}, after="clean", crash_retries=1)
def report(words: list[str], pages: list[ProcessResult[str]], size: list[int], top: int = 10) -> None: ...


clean = unit("clean", type="async")
other = unit("other")
GRAPH = Graph([report, words, size, page, clean, other, Collect("end", "report"), Collect("start")])


# The plan


def test_the_text_of_a_plan() -> None:
    """It says what runs, the most urgent first, how, what each takes of whom, what is given, and what does not run."""
    lists = "pages = list of the results of 'page', size = list of 'size'"
    takes = f"words = 'words', {lists}, after 'clean', top = input 'top'"
    plan = GRAPH.plan(targets=["end", "start"], inputs={"urls": ["a"], "top": 1})
    assert str(plan).splitlines() == [
        "7 processes for 'end', 'start', the most urgent first",
        "  page    async          timeout 5 s, 3 retries, not required     url = each of input 'urls'",
        "  size    async, inline                                           page = each of 'page'",
        "  clean   async, inline",
        "  words   process        timeout 0.5 s, 1 retry, 2 crash retries  page = list of 'page'",
        f"  report  thread         1 crash retry                            {takes}",
        "  start   async, inline",
        "  end     async, inline                                           result of 'report'",
        "given: input 'top', input 'urls'",
        "not run:",
        "  other  not needed for the targets",
    ]
    assert repr(plan) == "<Plan of 7 processes for end, start>"


def test_what_is_overridden() -> None:
    """A process that a value stands for does not run, nor what only it needs; one in whose place another runs does."""
    another = process(lambda: (), id="another")
    replaced = f"override 'page' (another process: {place(another)})"
    stop = unit("stop", "letters")
    graph = Graph([*GRAPH.processes.values(), stop, unit("letters", "alphabet"), unit("alphabet")])
    plan = graph.plan(targets="words", inputs={"start": 1}, overrides={stop: (), "page": another, "other": 1})
    assert str(plan).splitlines() == [
        "2 processes for 'words', the most urgent first",
        "  page   thread",
        "  words  process  timeout 0.5 s, 1 retry, 2 crash retries  page = 'page', stop = override 'stop'",
        f"given: input 'start' (of no use here), override 'stop', override 'other', {replaced}",
        "not run:",
        "  stop      overridden",
        "  other     overridden",
        "  letters   needed by what is overridden only",
        "  alphabet  needed by what is overridden only",
        "  report    not needed for the targets",
        "  size      not needed for the targets",
        "  clean     not needed for the targets",
        "  end       not needed for the targets",
        "  start     not needed for the targets",
    ]


def test_one_strategy_for_all() -> None:
    """`type` is in the place of every process's own."""
    plan = Graph([unit("a", type="process"), unit("b", "a")]).plan(type="async")
    assert str(plan).splitlines()[1:] == ["  a  async, inline", "  b  async, inline  a = 'a'"]


def test_nothing_to_run() -> None:
    """A plan of nothing has a text too; so has one all of whose targets are given."""
    assert str(Graph([]).plan()) == "0 processes for nothing, the most urgent first"
    assert str(Graph([unit("a")]).plan(overrides={"a": 1})).splitlines() == [
        "0 processes for 'a', the most urgent first",
        "given: override 'a'",
        "not run:",
        "  a  overridden",
    ]


def test_no_value_is_shown() -> None:
    """Names are shown, values never."""
    graph = Graph([unit("a"), process(lambda a, secret: (a, secret), id="b")])
    plan = graph.plan(inputs={"secret": "xyzzy"}, overrides={"a": "xyzzy"})
    assert "xyzzy" not in f"{plan}{plan!r}"
    assert "xyzzy" not in f"{graph.explain('b', inputs={'secret': 'xyzzy'}, overrides={'a': 'xyzzy'})!r}"


def test_nothing_runs_and_the_plan_is_what_run_would_do() -> None:
    """The plan runs nothing; a run ends with a result for each process that it names, and its overrides."""
    graph = Graph([process(lambda: 1, id="a"), process(lambda a: a, id="b"), process(lambda b, c: b + c, id="d")])
    plan = graph.plan(inputs={"c": 1}, targets="d", overrides={"a": 5})
    run = pmflow.run(graph, inputs={"c": 1}, targets="d", overrides={"a": 5})
    assert set(plan.nodes) == set(run) == {"a", "b", "d"}
    assert run.value == 6
    assert isinstance(plan, Plan)


@given(st.lists(st.lists(st.integers(0, 20), max_size=4), min_size=1, max_size=20), st.sets(st.integers(0, 19)))
def test_the_order_is_that_of_priority(needs: list[list[int]], overridden: set[int]) -> None:
    """Each process stands after those it needs, and is the most urgent of those that could have run in its place."""
    graph = Graph(
        unit(f"p{number}", *{f"p{other}" for other in needed if other < number}) for number, needed in enumerate(needs)
    )
    plan = graph.plan(overrides={f"p{number}": 1 for number in overridden if number < len(needs)})
    waiting = {name: node for name, node in plan.nodes.items() if name not in plan.given}
    for node in by_urgency(plan):
        ready = [each for each in waiting.values() if not any(source in waiting for _, source, _ in each.edges)]
        assert waiting.pop(node.id) in ready
        assert node.priority == min(each.priority for each in ready)
    assert waiting == {}


def test_a_large_plan_has_a_small_text() -> None:
    """Of 100,000 processes the first 100 are shown, of those that run and of those that do not; nothing recurses."""
    count = 100_000
    link = process(lambda x: x, id="link")
    links = [link.options(id=f"p{n}", dependencies={"x": f"p{n - 1}"}) for n in range(1, count)]
    graph = Graph([link.options(id="p0", dependencies={"x": "start"}), *links])
    whole = str(graph.plan(inputs={"start": 1})).splitlines()
    assert (len(whole), whole[0], whole[100:]) == (
        103,
        "100,000 processes for 'p99999', the most urgent first",
        ["  p99  thread  x = 'p98'", "  ... and 99,900 more", "given: input 'start'"],
    )
    part = str(graph.plan(inputs={"start": 1}, targets="p0")).splitlines()
    assert (len(part), part[-1]) == (105, "  ... and 99,899 more")


def test_a_wide_process_has_a_short_row() -> None:
    """Of many dependencies, targets and inputs the first few are named, the others counted."""
    sources = [unit(f"s{n}") for n in range(1_000)]
    both = Graph([*sources, unit("all", *(each.id for each in sources))]).plan()
    assert str(both).splitlines()[100] == "  s99  thread"
    alone = Graph([unit("all", *(f"s{n}" for n in range(1_000)))]).plan(inputs={f"s{n}": n for n in range(1_000)})
    needs = ", ".join(f"s{n} = input 's{n}'" for n in range(5))
    assert str(alone).splitlines()[1:] == [
        f"  all  thread  {needs} and 995 more",
        "given: input 's0', input 's1', input 's10', input 's100', input 's101' and 995 more",
    ]
    assert str(Graph(sources).plan()).splitlines()[0] == (
        "1,000 processes for 's0', 's1', 's2', 's3', 's4' and 995 more, the most urgent first"
    )


def test_a_plan_refuses_what_run_refuses() -> None:
    """What cannot run is refused as by `run`, before anything is said of it."""
    with pytest.raises(MissingDependencyError, match="'page' needs 'urls'"):
        GRAPH.plan()
    with pytest.raises(InputError, match="'repotr'.*did you mean 'report'"):
        GRAPH.plan(targets="repotr")
    with pytest.raises(InputError, match="'ulrs'.*did you mean 'urls'"):
        GRAPH.plan(inputs={"urls": [], "ulrs": []})
    with pytest.raises(ConfigurationError, match="inputs must map names"):
        GRAPH.plan(inputs=["urls"])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="keep must be"):
        GRAPH.plan(inputs={"urls": []}, keep="some")  # type: ignore[arg-type]


# The explanation


def test_where_every_parameter_comes_from() -> None:
    """An explanation has an origin per parameter, and per process that is only waited for."""
    explanation = GRAPH.explain("report", inputs={"urls": []}, overrides={"words": ["a"]})
    assert explanation == Explanation(
        process_id="report",
        place=place(report),
        overridden=False,
        parameters=(
            ParameterOrigin(parameter="words", source="words", named_by="parameter", kind="override"),
            ParameterOrigin(
                parameter="pages", source="page", named_by="dependencies", kind="process", place=place(page)
            ),
            ParameterOrigin(parameter="size", source="size", named_by="parameter", kind="process", place=place(size)),
            ParameterOrigin(parameter="top", source="top", named_by="parameter", kind="default"),
            ParameterOrigin(parameter="", source="clean", named_by="after", kind="process", place=place(clean)),
        ),
    )
    assert str(explanation).splitlines() == [
        f"'report' ({place(report)}) takes",
        "  words  from override 'words'",
        f"  pages  from process 'page' ({place(page)}), as dependencies= says",
        f"  size   from process 'size' ({place(size)})",
        "  top    its default",
        f"  clean  waits for process 'clean' ({place(clean)}), as after= says",
    ]


def test_an_override_goes_before_a_process_and_an_input_before_a_default() -> None:
    """The order is that of the rules: `dependencies` names the source; override, input, process, default."""
    another = process(lambda: (), id="another")

    def kinds(**given: Any) -> list[str]:
        return [each.kind for each in GRAPH.explain(words, **given).parameters]

    assert kinds() == ["process", "default"]
    assert kinds(inputs={"stop": ()}) == ["process", "input"]
    assert kinds(inputs={"stop": ()}, overrides={page: []}) == ["override", "input"]
    replaced = GRAPH.explain("words", overrides={"page": another}).parameters[0]
    assert (replaced.kind, replaced.place) == ("override", place(another))


def test_what_is_missing() -> None:
    """What nothing gives is missing, with the nearest name of a process or an input."""
    graph = Graph([page, words, process(lambda wrods, totl: 0, id="end"), process(lambda x: x, id="x2")])
    explanation = graph.explain("end", inputs={"urls": []})
    assert [(each.kind, each.suggestion) for each in explanation.parameters] == [
        ("missing", "words"),
        ("missing", None),
    ]
    assert str(explanation).splitlines()[1] == (
        "  wrods  missing: no process and no input is called 'wrods'; did you mean 'words'?"
    )
    assert str(GRAPH.explain("page", inputs={"top": 1})).splitlines()[1] == (
        "  url  missing: no process and no input is called 'urls', as map_over= says"
    )


def test_what_is_still_to_be_given() -> None:
    """Where no inputs are given to explain, nothing is missing: it says what a run needs, and the nearest name."""
    graph = Graph([page, words, process(lambda wrods, total: 0, id="end", after="start")])
    end = graph.explain("end")
    assert [(each.kind, each.suggestion) for each in end.parameters] == [
        ("open", "words"),
        ("open", None),
        ("missing", None),
    ]
    assert str(end).splitlines()[1:] == [
        "  wrods  from input 'wrods', to be given; did you mean 'words'?",
        "  total  from input 'total', to be given",
        "  start  missing: no process and no input is called 'start', as after= says",
    ]
    assert str(graph.explain("page")).splitlines()[1:] == [
        "  url  from each element of input 'urls', to be given, as map_over= says"
    ]
    assert [each.kind for each in graph.explain("page", inputs={}).parameters] == ["missing"]


def test_a_plan_says_what_is_taken_of_a_map() -> None:
    """Its values or its results, as a list or one by one; the same of what is no map."""
    several = {"one": process(lambda n: n, id="one", map_over={"n": "ns"}), "two": process(lambda: 1, id="two")}

    def lists(one: list[ProcessResult], two: list[ProcessResult]) -> None: ...

    def single(one: ProcessResult, two: ProcessResult) -> None: ...

    def values(one: Any, two: Any) -> None: ...

    mapped: dict[str, Any] = {"map_over": {"one": "one", "two": "two"}}
    users = [process(each) for each in (lists, single, values)]
    users += [process(single, id="singles", **mapped), process(values, id="each", **mapped), Collect("all", *several)]
    text = str(Graph([*several.values(), *users]).plan(inputs={"ns": []}))
    rows = {line.split()[0]: " ".join(line.split()[1:]).removeprefix("thread ") for line in text.splitlines()[1:]}
    assert {each.id: rows[each.id] for each in users} == {
        "lists": "one = list of the results of 'one', two = list of the result of 'two'",
        "single": "one = result of 'one', two = result of 'two'",
        "values": "one = list of 'one', two = 'two'",
        "singles": "one = each of the results of 'one', two = each of 'two'",
        "each": "one = each of 'one', two = each of 'two'",
        "all": "async, inline result of 'one', result of 'two'",
    }


def test_maps_are_explained() -> None:
    """A mapped parameter gets each element of its source."""
    assert str(GRAPH.explain("page", inputs={"urls": []})).splitlines()[1:] == [
        "  url  from each element of input 'urls', as map_over= says"
    ]
    (origin,) = GRAPH.explain(size).parameters
    assert (origin.named_by, origin.kind) == ("map_over", "process")


def test_class_based_processes_are_explained() -> None:
    """They receive the results of their dependencies, or the input of their name."""
    assert str(GRAPH.explain("end")).splitlines()[1:] == [
        f"  report  from process 'report' ({place(report)}), as dependencies= says"
    ]
    assert str(GRAPH.explain("start", inputs={"start": 1})).splitlines()[1:] == ["  start  from input 'start'"]
    assert str(GRAPH.explain("start")).endswith("takes nothing")


def test_what_is_overridden_takes_nothing() -> None:
    """A process that a value stands for asks for nothing; one in whose place another runs is explained as that one."""
    explanation = GRAPH.explain("report", overrides={"report": 1})
    assert (explanation.overridden, explanation.parameters) == (True, ())
    assert str(explanation) == f"'report' ({place(report)}) is overridden by a value: it does not run"
    another = process(lambda page: page, id="another")
    replaced = GRAPH.explain("report", overrides={"report": another})
    assert (replaced.place, [each.source for each in replaced.parameters]) == (place(another), ["page"])


@pytest.mark.parametrize("key", ["report", ProcessId("report"), report], ids=["text", "id", "process"])
def test_a_process_is_named_in_any_way(key: Any) -> None:
    """An id, a `ProcessId` or the process itself will do."""
    assert GRAPH.explain(key).process_id == "report"


def test_an_explanation_of_nothing_is_refused() -> None:
    """An unknown id, override or input is refused, with the nearest."""
    with pytest.raises(InputError, match="no process is called 'repotr'.*did you mean 'report'"):
        GRAPH.explain("repotr")
    with pytest.raises(InputError, match="'wrods'.*override.*did you mean 'words'"):
        GRAPH.explain("report", overrides={"wrods": 1})
    with pytest.raises(InputError, match="'ulrs'.*did you mean 'urls'"):
        GRAPH.explain("report", inputs={"ulrs": 1})
    with pytest.raises(ConfigurationError, match="overrides must map names"):
        GRAPH.explain("report", overrides="words")  # type: ignore[arg-type]


def test_a_long_explanation_is_bounded() -> None:
    """A process of 10,000 parameters is explained in 101 lines and a count; its fields have them all."""
    graph = Graph([unit("all", *(f"s{n}" for n in range(10_000))), *(unit(f"s{n}") for n in range(10_000))])
    explanation = graph.explain("all")
    lines = str(explanation).splitlines()
    assert (len(explanation.parameters), len(lines), lines[-1]) == (10_000, 102, "  ... and 9,900 more")


def test_a_plan_says_conditions_fallbacks_candidates_and_outputs() -> None:
    """Each where it is: with the settings of a process, and with what it needs."""
    pair = process(lambda: (1, 2), id="pair", outputs=("a", "b"), fallback=(0, 0))
    tuned = process(lambda a: a, id="tuned", when=lambda a: a > 1)
    it = process(lambda model: model, id="it", dependencies={"model": ("tuned", "b")})
    text = str(Graph([pair, tuned, it]).plan())
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines()[1:]}
    assert rows["pair"] == "pair thread fallback"
    assert rows["a"] == "a async, inline value = 'pair'"
    assert rows["tuned"] == "tuned thread on a condition, not required a = 'a'"
    assert rows["it"] == "it thread model = 'tuned' if it has a value, else, model = 'b'"
    explained = Graph([pair, tuned, it]).explain("it").parameters
    assert [(each.parameter, each.source, each.kind) for each in explained] == [
        ("model", "tuned", "process"),
        ("model", "b", "process"),
    ]
