"""The frontier: names, counts and priorities, as plain functions."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have no types.

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from pmflow.engine.frontier import Frontier

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def in_order(priority: Mapping[str, int]) -> Callable[[str], tuple[str, int]]:
    """Return the place of units of one lane."""
    return lambda name: ("", priority[name])


# What is ready


def test_the_first_ones_are_ready_at_once() -> None:
    """Units without dependencies are ready, in the order given; taking removes them."""
    frontier = Frontier.of({"a": (), "b": (), "c": ("a",)})
    assert frontier.take_ready() == ["a", "b"]
    assert frontier.take_ready() == []


def test_a_unit_is_ready_when_its_last_dependency_has_ended() -> None:
    """Not before, and only once."""
    frontier = Frontier.of(DIAMOND)
    assert frontier.take_ready() == ["a"]
    assert frontier.succeed("a") is False
    assert frontier.take_ready() == ["b", "c"]
    frontier.succeed("c")
    assert frontier.take_ready() == []
    frontier.succeed("b")
    assert frontier.take_ready() == ["d"]
    frontier.succeed("d")
    assert frontier.take_ready() == []


def test_there_are_no_generations() -> None:
    """A unit does not wait for what it does not depend on."""
    frontier = Frontier.of({"slow": (), "fast": (), "child": ("fast",), "grandchild": ("child",)})
    assert frontier.take_ready() == ["slow", "fast"]
    frontier.succeed("fast")
    assert frontier.take_ready() == ["child"]
    frontier.succeed("child")
    assert frontier.take_ready() == ["grandchild"]


def test_an_empty_frontier() -> None:
    """Nothing is ready where there is nothing."""
    assert Frontier.of({}).take_ready() == []


def test_dependencies_in_any_order() -> None:
    """A unit may be given before those it depends on."""
    frontier = Frontier.of({"b": ("a",), "a": ()})
    assert frontier.take_ready() == ["a"]
    frontier.succeed("a")
    assert frontier.take_ready() == ["b"]


def test_a_long_chain() -> None:
    """A chain of 100,000 units is an ordinary graph: nothing is recursive."""
    length = 100_000
    chain: dict[str, tuple[str, ...]] = {"0": ()} | {str(n): (str(n - 1),) for n in range(1, length)}
    frontier = Frontier.of(chain)
    taken = []
    while ready := frontier.take_ready():
        taken += ready
        frontier.succeed(ready[0])
    assert taken == [str(n) for n in range(length)]


def test_a_frontier_begins_again_and_again() -> None:
    """`begin` gives a copy; what happens to it is nothing to the next, with maps too."""
    beginning = Frontier.prepared({"a": (), "b": ("a",), "m": (), "n": ()}, mapped={"m": (), "n": ("m",)})
    for end in ("succeed", "fail", "succeed"):
        frontier = beginning.begin()
        assert (frontier.size("m"), frontier.size("n")) == (0, 0)
        assert frontier.take_ready() == ["a", "m", "n"]
        for name in ("m", "n"):
            frontier.open(name)
        frontier.expand("m", 1)
        frontier.seal("m")
        assert getattr(frontier, end)("a") == (["b"] if end == "fail" else False)
        assert frontier.take_ready() == [("m", 0)] + ["b"] * (end == "succeed")
        assert frontier.succeed(("m", 0)) is True
        assert frontier.take_ready() == [("n", 0)]
    assert beginning.take_ready() == []


# What fails


def test_a_failure_drops_its_dependants() -> None:
    """`fail` returns the units it drops, which never become ready; the caller fails them in turn."""
    frontier = Frontier.of(DIAMOND)
    frontier.take_ready()
    frontier.succeed("a")
    frontier.take_ready()
    assert frontier.fail("b") == ["d"]
    assert frontier.fail("d") == []
    frontier.succeed("c")
    assert frontier.take_ready() == []


def test_a_unit_is_dropped_once() -> None:
    """The second failure above a unit drops it no more."""
    frontier = Frontier.of(DIAMOND)
    frontier.take_ready()
    frontier.succeed("a")
    frontier.take_ready()
    assert frontier.fail("b") == ["d"]
    assert frontier.fail("c") == []


def test_a_failure_does_not_reach_a_grandchild_by_itself() -> None:
    """Only direct dependants are dropped."""
    frontier = Frontier.of({"a": (), "b": ("a",), "c": ("b",)})
    frontier.take_ready()
    assert frontier.fail("a") == ["b"]
    assert frontier.fail("b") == ["c"]


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_lenient_dependency(failing: str) -> None:
    """A failure that does not concern a unit counts as an end; one that does drops it."""
    frontier = Frontier.of({"a": (), "b": (), "c": ("a", "b")}, lenient={"c": {"a"}})
    frontier.take_ready()
    assert frontier.fail(failing) == (["c"] if failing == "b" else [])
    frontier.succeed("b" if failing == "a" else "a")
    assert frontier.take_ready() == (["c"] if failing == "a" else [])


def test_everything_lenient_fails() -> None:
    """A unit all of whose lenient dependencies failed is ready once."""
    frontier = Frontier.of({"a": (), "b": (), "c": ("a", "b")}, lenient={"c": ("a", "b")})
    frontier.take_ready()
    assert frontier.fail("a") == []
    assert frontier.take_ready() == []
    assert frontier.fail("b") == []
    assert frontier.take_ready() == ["c"]


# In which order


def test_priorities() -> None:
    """Smaller goes first; among equals whoever was ready first."""
    priority = {"a": 10, "b": 1, "c": 10, "d": 0, "e": -30}
    frontier = Frontier.of(dict.fromkeys(priority, ()), place=in_order(priority))
    assert frontier.take_ready() == ["e", "d", "b", "a", "c"]


def test_what_becomes_ready_later_may_go_first() -> None:
    """Priority decides among what is ready now, in whatever order it became so."""
    priority = {"late": 0, "early": 1, "first": 0}
    frontier = Frontier.of({"first": (), "early": (), "late": ("first",)}, place=in_order(priority))
    assert frontier.take_ready(limit=1) == ["first"]
    frontier.succeed("first")
    assert frontier.take_ready() == ["late", "early"]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 10])
def test_the_limit(limit: int) -> None:
    """`take_ready` takes at most so many, the most urgent, and leaves the others."""
    frontier = Frontier.of(dict.fromkeys("abc", ()))
    assert frontier.take_ready(limit=limit) == list("abc")[:limit]
    assert frontier.take_ready() == list("abc")[limit:]


def test_lanes() -> None:
    """A unit is taken from its own lane, and from no other."""
    lane = {"a": "left", "b": "right", "c": "left"}
    frontier = Frontier.of({"a": (), "b": (), "c": ("b",)}, place=lambda name: (lane[name], 0))
    assert frontier.take_ready() == []
    assert frontier.take_ready("nowhere") == []
    assert frontier.take_ready("right") == ["b"]
    frontier.succeed("b")
    assert frontier.take_ready("right") == []
    assert frontier.take_ready("left") == ["a", "c"]


# Maps


def mapped(
    dependencies: Mapping[str, tuple[str, ...]], maps: Mapping[str, tuple[str, ...]], **settings: Any
) -> Frontier:
    """Return a frontier of mapped units all of which are open."""
    frontier = Frontier.of(dependencies, mapped=maps, **settings)
    for name in frontier.take_ready():
        frontier.open(name)
    return frontier


def test_a_map_is_taken_first_and_then_its_elements() -> None:
    """A mapped unit is ready when its plain dependencies have ended; its elements once it is expanded, in order."""
    frontier = Frontier.of({"a": (), "m": ("a",)}, mapped={"m": ()})
    assert frontier.take_ready() == ["a"]
    frontier.succeed("a")
    assert frontier.take_ready() == ["m"]
    assert frontier.open("m") == []
    frontier.expand("m", 3)
    assert frontier.size("m") == 3
    assert frontier.take_ready(limit=2) == [("m", 0), ("m", 1)]
    assert frontier.take_ready() == [("m", 2)]
    assert frontier.take_ready() == []


def test_the_last_element_says_so() -> None:
    """`succeed` is true of the last element of a sealed map, in whatever order they end; the caller ends the map."""
    frontier = mapped({"m": (), "b": ("m",)}, {"m": ()})
    frontier.expand("m", 3)
    assert frontier.seal("m") == []
    frontier.take_ready()
    assert [frontier.succeed(("m", index)) for index in (2, 0, 1)] == [False, False, True]
    assert frontier.complete("m")
    assert frontier.take_ready() == []
    frontier.succeed("m")
    assert frontier.take_ready() == ["b"]


def test_expand_again_and_again() -> None:
    """A map grows while more elements become known; it is complete when it is sealed and they have all ended."""
    frontier = mapped({"m": ()}, {"m": ()})
    frontier.expand("m", 2)
    assert frontier.take_ready() == [("m", 0), ("m", 1)]
    assert [frontier.succeed(("m", index)) for index in (0, 1)] == [False, False]
    assert not frontier.complete("m")
    frontier.expand("m", 1)
    assert frontier.take_ready() == [("m", 2)]
    frontier.expand("m", 0)
    assert (frontier.size("m"), frontier.take_ready()) == (3, [])
    assert frontier.seal("m") == []
    assert frontier.succeed(("m", 2)) is True


def test_a_seal_after_the_last_end() -> None:
    """A map whose elements have all ended is complete by its seal."""
    frontier = mapped({"m": ()}, {"m": ()})
    frontier.expand("m", 1)
    frontier.take_ready()
    assert frontier.succeed(("m", 0)) is False
    assert frontier.seal("m") == ["m"]


def test_an_empty_map_is_complete_by_its_seal() -> None:
    """A map without elements is complete at once, and all that are aligned with it."""
    frontier = mapped({"m": (), "n": (), "o": ()}, {"m": (), "n": ("m",), "o": ("n",)})
    frontier.expand("m", 0)
    assert frontier.seal("m") == ["m", "n", "o"]
    assert frontier.take_ready() == []


def test_aligned_maps_go_element_by_element() -> None:
    """An element of a follower is ready when that of its source has ended, whatever the others do."""
    frontier = mapped({"m": (), "n": (), "o": ()}, {"m": (), "n": ("m",), "o": ("n",)})
    frontier.expand("m", 4)
    assert (frontier.size("m"), frontier.size("n"), frontier.size("o")) == (4, 4, 4)
    assert frontier.seal("m") == []
    assert frontier.take_ready() == [("m", 0), ("m", 1), ("m", 2), ("m", 3)]
    frontier.succeed(("m", 3))
    assert frontier.take_ready() == [("n", 3)]
    frontier.succeed(("n", 3))
    assert frontier.take_ready() == [("o", 3)]
    assert frontier.succeed(("o", 3)) is False
    frontier.succeed(("m", 0))
    assert frontier.take_ready() == [("n", 0)]


def test_a_follower_that_opens_late() -> None:
    """What ended before a follower opened is ready for it at once, in order; what ends later as it ends."""
    frontier = Frontier.of({"a": (), "m": (), "n": ("a",)}, mapped={"m": (), "n": ("m",)})
    assert frontier.take_ready() == ["a", "m"]
    frontier.open("m")
    frontier.expand("m", 3)
    frontier.take_ready()
    frontier.succeed(("m", 2))
    frontier.succeed(("m", 0))
    assert (frontier.seal("m"), frontier.take_ready()) == ([], [])
    frontier.succeed("a")
    assert frontier.take_ready() == ["n"]
    assert frontier.open("n") == []
    assert frontier.take_ready() == [("n", 0), ("n", 2)]
    assert frontier.succeed(("m", 1)) is True
    assert frontier.take_ready() == [("n", 1)]
    assert [frontier.succeed(("n", index)) for index in range(3)] == [False, False, True]


def test_a_follower_of_a_complete_map() -> None:
    """A follower that opens after its source has ended grows at once; of an empty source it is complete by opening."""
    for count in (0, 2):
        frontier = Frontier.of({"a": (), "m": (), "n": ("a",)}, mapped={"m": (), "n": ("m",)})
        frontier.take_ready()
        frontier.open("m")
        frontier.expand("m", count)
        frontier.seal("m")
        for unit in frontier.take_ready():
            frontier.succeed(unit)
        frontier.succeed("a")
        assert frontier.take_ready() == ["n"]
        assert frontier.open("n") == (["n"] if count == 0 else [])
        assert frontier.take_ready() == [("n", index) for index in range(count)]


def test_a_map_aligned_with_two() -> None:
    """An element waits for the same element of both; there are as many as both have."""
    frontier = mapped({"l": (), "r": (), "p": ()}, {"l": (), "r": (), "p": ("l", "r")})
    frontier.expand("l", 3)
    assert frontier.size("p") == 0
    frontier.expand("r", 2)
    assert frontier.size("p") == 2
    assert len(frontier.take_ready()) == 5
    for index in range(3):
        frontier.succeed(("l", index))
    assert frontier.take_ready() == []
    frontier.succeed(("r", 1))
    assert frontier.take_ready() == [("p", 1)]
    assert frontier.seal("l") == ["l"]
    assert frontier.succeed(("p", 1)) is False
    assert frontier.seal("r") == []
    frontier.succeed(("r", 0))
    assert frontier.take_ready() == [("p", 0)]
    assert frontier.succeed(("p", 0)) is True


def test_two_followers() -> None:
    """Every follower gets every element."""
    frontier = mapped({"m": (), "n": (), "o": ()}, {"m": (), "n": ("m",), "o": ("m",)})
    frontier.expand("m", 1)
    frontier.take_ready()
    frontier.succeed(("m", 0))
    assert sorted(frontier.take_ready()) == [("n", 0), ("o", 0)]


def test_what_waits_for_a_map_waits_for_its_end() -> None:
    """A plain unit below a map does not begin with its last element, but by that of the map; or is dropped."""
    for end in ("succeed", "fail"):
        frontier = mapped({"m": (), "b": ("m",)}, {"m": ()})
        frontier.expand("m", 1)
        frontier.seal("m")
        frontier.take_ready()
        frontier.succeed(("m", 0))
        assert frontier.take_ready() == []
        assert (frontier.fail("m") if end == "fail" else frontier.succeed("m")) == (["b"] if end == "fail" else False)
        assert frontier.take_ready() == (["b"] if end == "succeed" else [])


def test_priority_of_elements() -> None:
    """Among elements the unit's priority decides: who is further along goes first, in the middle of a span too."""
    priority = {"m": 0, "n": -1}
    frontier = mapped({"m": (), "n": ()}, {"m": (), "n": ("m",)}, place=in_order(priority))
    frontier.expand("m", 5)
    assert frontier.take_ready(limit=2) == [("m", 0), ("m", 1)]
    frontier.succeed(("m", 1))
    assert frontier.take_ready(limit=2) == [("n", 1), ("m", 2)]
    frontier.succeed(("m", 0))
    frontier.succeed(("m", 2))
    assert frontier.take_ready() == [("n", 0), ("n", 2), ("m", 3), ("m", 4)]


def test_spans_share_a_lane_with_units() -> None:
    """Elements and units of equal priority come first come, first served, whatever the limits."""
    frontier = Frontier.of({"m": (), "a": (), "b": ("a",)}, mapped={"m": ()})
    assert frontier.take_ready() == ["m", "a"]
    frontier.open("m")
    frontier.expand("m", 3)
    frontier.succeed("a")
    frontier.expand("m", 2)
    elements = [("m", index) for index in range(5)]
    taken: list[Any] = []
    for limit in (1, 2, 2, 5):
        taken += frontier.take_ready(limit=limit)
    assert taken == [*elements[:3], "b", *elements[3:]]


def test_a_million_elements_cost_one_object() -> None:
    """A map of a million is expanded without a million objects: they are named when they are taken."""
    frontier = mapped({"m": ()}, {"m": ()})
    frontier.expand("m", 1_000_000)
    entries = [entry for lane in frontier._lanes.values() for bucket in lane.buckets.values() for entry in bucket]
    assert len(entries) == 1
    assert frontier.take_ready(limit=2) == [("m", 0), ("m", 1)]
    assert frontier.take_ready(limit=1) == [("m", 2)]


def test_cut() -> None:
    """A map that will never have elements is given up, and so are its followers: none of them becomes ready."""
    frontier = Frontier.of(
        {"a": (), "b": (), "m": ("a",), "n": ("b",), "o": ()}, mapped={"m": (), "n": ("m",), "o": ()}
    )
    assert frontier.take_ready() == ["a", "b", "o"]
    assert frontier.fail("a") == ["m"]
    assert frontier.cut("m") == ["n"]
    assert frontier.cut("n") == []
    frontier.succeed("b")
    assert frontier.take_ready() == []


# Everything at once, for any graph


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Graphs of plain and mapped units, some of them aligned, with lenient dependencies, priorities and lanes."""
    size = draw(st.integers(0, 9))
    dependencies: dict[str, tuple[str, ...]] = {}
    lenient: dict[str, set[str]] = {}
    maps: dict[str, tuple[str, ...]] = {}
    for number in range(size):
        name = f"u{number}"
        before = list(dependencies)
        needed = draw(st.sets(st.sampled_from(before), max_size=3)) if before else set()
        if draw(st.booleans()):
            sources = draw(st.sets(st.sampled_from(list(maps)), max_size=2)) if maps else set()
            maps[name] = tuple(sorted(sources))
            needed -= sources
        dependencies[name] = tuple(sorted(needed))
        lenient[name] = {source for source in dependencies[name] if draw(st.booleans())}
    names = list(dependencies)
    return {
        "dependencies": dict(draw(st.permutations(list(dependencies.items())))),
        "lenient": lenient,
        "mapped": maps,
        "place": {name: (draw(st.sampled_from(["", "other"])), draw(st.integers(-1, 1))) for name in names},
    }


class Caller:
    """Drives a frontier as the scheduler does, and notes what happens to every unit."""

    def __init__(self, graph: dict[str, Any], draw: Callable[[Any], Any]) -> None:
        self.graph = graph
        self.draw = draw
        self.frontier = Frontier.of(
            graph["dependencies"],
            lenient=graph["lenient"],
            mapped=graph["mapped"],
            place=graph["place"].__getitem__,
        )
        self.begun: list[Any] = []
        self.running: list[Any] = []
        self.growing: list[str] = []
        self.fate: dict[str, str] = {}
        self.element_ends: set[tuple[str, int]] = set()

    def end(self, name: str, fate: str) -> None:
        """End a unit, and what it drops or cuts."""
        ends = [(name, fate)]
        while ends:
            name, fate = ends.pop()
            if name in self.fate:
                assert fate == "dropped"  # cut and dropped: whichever comes first
                continue
            self.fate[name] = fate
            if name in self.graph["mapped"] and fate != "succeeded" and not self.frontier.size(name):
                ends += [(follower, "dropped") for follower in self.frontier.cut(name)]
            if fate == "succeeded":
                self.frontier.succeed(name)
            else:
                ends += [(dropped, "dropped") for dropped in self.frontier.fail(name)]

    def lanes(self) -> list[str]:
        """Return the lanes in which something is ready."""
        return [name for name, lane in self.frontier._lanes.items() if lane.heap]

    def take(self) -> None:
        """Take what is ready in a lane, at most so many."""
        taken = self.frontier.take_ready(self.draw(st.sampled_from(self.lanes())), self.draw(st.integers(1, 4)))
        for unit in taken:
            self.check(unit)
            self.begun.append(unit)
            if isinstance(unit, str) and unit in self.graph["mapped"]:
                if unit not in self.fate:
                    self.open(unit)
            else:
                self.running.append(unit)

    def check(self, unit: Any) -> None:
        """A unit is taken once, and after all that it waits for."""
        assert unit not in self.begun
        name, index = unit if isinstance(unit, tuple) else (unit, None)
        assert self.fate.get(name) != "succeeded"
        if index is not None:
            assert all((source, index) in self.element_ends for source in self.graph["mapped"][name])
            return
        for source in self.graph["dependencies"][name]:
            allowed = ("succeeded", "failed", "dropped") if source in self.graph["lenient"][name] else ("succeeded",)
            assert name in self.fate or self.fate.get(source) in allowed

    def open(self, name: str) -> None:
        """Let a map begin; one that is not aligned is expanded by and by. It may also fail before it has elements."""
        sources = self.graph["mapped"][name]
        if not sources and self.draw(st.integers(0, 5)) == 0:
            self.end(name, "failed")
            return
        complete = self.frontier.open(name)
        if not sources:
            self.growing.append(name)
        self.complete(complete)

    def complete(self, names: list[str]) -> None:
        """End maps all of whose elements have ended."""
        for name in names:
            if name not in self.fate:  # else the one it is aligned with failed without elements
                self.end(name, self.draw(st.sampled_from(["succeeded", "succeeded", "failed"])))

    def grow(self) -> None:
        """Expand a map, or seal it."""
        name = self.draw(st.sampled_from(self.growing))
        if self.draw(st.booleans()):
            self.frontier.expand(name, self.draw(st.integers(0, 3)))
        else:
            self.growing.remove(name)
            self.complete(self.frontier.seal(name))

    def settle(self) -> None:
        """End one of those taken."""
        unit = self.running.pop(self.draw(st.integers(0, len(self.running) - 1)))
        if isinstance(unit, str):
            self.end(unit, self.draw(st.sampled_from(["succeeded", "succeeded", "failed"])))
            return
        assert unit not in self.element_ends
        self.element_ends.add(unit)
        if self.frontier.succeed(unit):
            self.complete([unit[0]])

    def run(self) -> None:
        """Do one thing after another, until nothing can be done."""
        while True:
            steps = (
                [self.take] * bool(self.lanes()) + [self.settle] * bool(self.running) + [self.grow] * bool(self.growing)
            )
            if not steps:
                return
            self.draw(st.sampled_from(steps))()


@given(graphs(), st.data())
def test_every_unit_is_taken_or_dropped_once_and_all_in_the_end(graph: dict[str, Any], data: st.DataObject) -> None:
    """Whatever ends how and when: no unit is taken twice, none too early, and in the end none is left."""
    caller = Caller(graph, data.draw)
    caller.run()
    assert caller.fate.keys() == graph["dependencies"].keys()
    for name, fate in caller.fate.items():
        elements = sorted(unit for unit in caller.begun if isinstance(unit, tuple) and unit[0] == name)
        assert (
            elements == [(name, index) for index in range(caller.frontier.size(name))]
            if name in graph["mapped"]
            else True
        )
        if fate != "dropped":
            assert name in caller.begun


@given(graphs(), st.data())
def test_without_failures_everything_is_taken(graph: dict[str, Any], data: st.DataObject) -> None:
    """Where nothing fails, everything runs, and a follower has as many elements as the shortest of its sources."""
    frontier = Frontier.of(
        graph["dependencies"],
        mapped=graph["mapped"],
        lenient=graph["lenient"],
        place=lambda name: ("", graph["place"][name][1]),
    )
    taken: list[Any] = []
    while ready := frontier.take_ready(limit=data.draw(st.integers(1, 3))):
        taken += ready
        for unit in ready:
            complete: list[str] = []
            if isinstance(unit, tuple):
                complete = [unit[0]] if frontier.succeed(unit) else []
            elif unit in graph["mapped"]:
                complete = frontier.open(unit)
                if not graph["mapped"][unit]:
                    frontier.expand(unit, data.draw(st.integers(0, 3)))
                    complete = frontier.seal(unit)
            else:
                frontier.succeed(unit)
            for name in complete:
                frontier.succeed(name)
    sizes = {name: frontier.size(name) for name in graph["mapped"]}
    expected = [*graph["dependencies"], *((name, index) for name, size in sizes.items() for index in range(size))]
    assert sorted(map(str, taken)) == sorted(map(str, expected))
    for name, sources in graph["mapped"].items():
        if sources:
            assert sizes[name] == min(sizes[source] for source in sources)


@given(st.lists(st.integers(-2, 2)), st.lists(st.integers(1, 4)))
@example([0, -1, 0], [2])
def test_any_priorities(priorities: list[int], limits: list[int]) -> None:
    """However much is taken at a time, the order is that of a stable sort by priority."""
    names = [f"u{number}" for number in range(len(priorities))]
    priority = dict(zip(names, priorities, strict=True))
    frontier = Frontier.of(dict.fromkeys(names, ()), place=in_order(priority))
    taken: list[str] = []
    for limit in limits:
        taken += frontier.take_ready(limit=limit)
    taken += frontier.take_ready()
    assert taken == sorted(names, key=priority.__getitem__)


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(1, 4)), st.permutations(range(10)))
def test_any_growth(growth: list[int], limits: list[int], order: list[int]) -> None:
    """However a map grows and is taken: its elements come in order, each once, and the last end completes it."""
    frontier = mapped({"m": ()}, {"m": ()})
    taken: list[Any] = []
    for count, limit in zip(growth, limits + [1] * len(growth), strict=False):
        frontier.expand("m", count)
        taken += frontier.take_ready(limit=limit)
    taken += frontier.take_ready()
    assert taken == [("m", index) for index in range(sum(growth))]
    assert frontier.seal("m") == ([] if taken else ["m"])
    shuffled = sorted(taken, key=lambda unit: (order[unit[1] % 10], unit))
    assert [frontier.succeed(unit) for unit in shuffled] == [unit is shuffled[-1] for unit in shuffled]
