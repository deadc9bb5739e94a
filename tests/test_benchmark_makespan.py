"""The arithmetic of the makespan benchmark: what no schedule beats, what a list schedule needs, what the graphs are."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def makespan() -> Iterator[ModuleType]:
    """The benchmark as a module; its neighbours are imported by their bare names, and forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("makespan")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
                del sys.modules[name]


DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
LENGTHS = {"a": 1, "b": 5, "c": 2, "d": 3}


def urgent(shape: dict[str, Any], *names: str) -> dict[str, int]:
    """The urgency of processes, those named first; the others are all the same."""
    return {name: len(names) - names.index(name) if name in names else 0 for name in shape}


def test_the_longest_path_from_each_process_on(makespan: ModuleType) -> None:
    """A process's own time counts, and of what needs it the longest."""
    assert makespan.paths(DIAMOND, LENGTHS) == {"a": 9, "b": 8, "c": 5, "d": 3}
    assert makespan.paths({"a": (), "b": ()}, {"a": 2, "b": 7}) == {"a": 2, "b": 7}


@pytest.mark.parametrize(("slots", "bound"), [(1, 11), (2, 9), (100, 9)])
def test_the_bound_is_the_longest_path_or_all_the_work(makespan: ModuleType, slots: int, bound: float) -> None:
    """One slot has all the work to do; with many, the longest path remains."""
    assert makespan.lower_bound(DIAMOND, LENGTHS, slots) == bound


def test_the_bound_may_lie_between_two_ticks(makespan: ModuleType) -> None:
    """Work is divided by the slots as a number is."""
    assert makespan.lower_bound({"a": (), "b": (), "c": ()}, {"a": 1, "b": 1, "c": 1}, 2) == 1.5


@pytest.mark.parametrize(("slots", "ticks"), [(1, 11), (2, 9), (3, 9)])
def test_a_list_schedule_waits_for_what_is_needed(makespan: ModuleType, slots: int, ticks: int) -> None:
    """Whatever the slots, no process begins before all it needs have ended."""
    assert makespan.list_schedule(DIAMOND, LENGTHS, slots, urgent(DIAMOND)) == ticks


def test_a_list_schedule_begins_the_most_urgent(makespan: ModuleType) -> None:
    """The long one last costs its whole length; first, nothing."""
    shape: dict[str, Any] = {"a": (), "b": (), "long": ()}
    lengths = {"a": 2, "b": 2, "long": 4}
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape)) == 6
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape, "long")) == 4


def test_a_list_schedule_sees_all_that_ends_at_once(makespan: ModuleType) -> None:
    """Two end together, and what the later declared one lets begin is the most urgent: it gets the free slot."""
    shape: dict[str, Any] = {"a": (), "b": (), "after a": ("a",), "also after a": ("a",), "after b": ("b",)}
    lengths = {"a": 1, "b": 1, "after a": 1, "also after a": 1, "after b": 2}
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape, "after b")) == 3
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape, "after a", "also after a")) == 4


def test_among_equals_who_was_ready_first_goes_first(makespan: ModuleType) -> None:
    """At 1 the slot of `a` is free: `early` has been ready from the start, `late` is declared before it."""
    shape: dict[str, Any] = {"a": (), "late": ("a",), "b": (), "early": (), "end": ("early",)}
    lengths = {"a": 1, "late": 1, "b": 2, "early": 1, "end": 5}
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape)) == 7
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape, "late")) == 8


def test_who_waits_for_layers_takes_the_slowest_of_each(makespan: ModuleType) -> None:
    """One and five at once, then five and one: ten ticks where six would do."""
    shape = {"a": (), "b": (), "after a": ("a",), "after b": ("b",)}
    lengths = {"a": 1, "b": 5, "after a": 5, "after b": 1}
    assert makespan.layer_by_layer(shape, lengths, 2) == 10
    assert makespan.list_schedule(shape, lengths, 2, urgent(shape)) == 6


def fcfs(makespan: ModuleType, case: Any) -> int:
    """The ticks of a case if it is served in order of arrival."""
    return int(makespan.list_schedule(case.shape, case.ticks, case.slots, urgent(case.shape)))


def figures(makespan: ModuleType, case: Any) -> dict[str, float]:
    """What can be known of a case without running it."""
    layers = makespan.layer_by_layer(case.shape, case.ticks, case.slots)
    arrival = fcfs(makespan, case)
    return {"bound": case.bound, "known": case.known, "counted": case.counted, "arrival": arrival, "layers": layers}


def test_the_graph_that_a_barrier_hurts(makespan: ModuleType) -> None:
    """The optimum is what is claimed, for anyone without a barrier; with one it is 2.3 times that."""
    expected = {"bound": 18, "known": 18, "counted": 18, "arrival": 18, "layers": 42}
    assert figures(makespan, makespan.staggered()) == expected


@pytest.mark.parametrize("slots", [2, 3, 8])
def test_the_giant(makespan: ModuleType, slots: int) -> None:
    """The optimum is the giant, and counting finds it only where something depends on it."""
    seen, unseen = makespan.giant(slots, tail=True), makespan.giant(slots, tail=False)
    assert [(case.bound, case.known) for case in (seen, unseen)] == [(21, 21), (21, 21)]
    assert seen.counted == 21
    assert unseen.counted == fcfs(makespan, unseen) == fcfs(makespan, seen) > 30


def test_the_other_unbalanced_graphs(makespan: ModuleType) -> None:
    """Each can be run within 1.02 of its bound by someone who only counts; else its goal would mean nothing."""
    assert figures(makespan, makespan.long_tail()) == {
        "bound": 65.75,
        "known": 66,
        "counted": 66,
        "arrival": 66,
        "layers": 66,
    }
    assert figures(makespan, makespan.tree()) == {
        "bound": 95,
        "known": 96,
        "counted": 96,
        "arrival": 96,
        "layers": 96,
    }
    assert figures(makespan, makespan.chains()) == {
        "bound": 15,
        "known": 15,
        "counted": 15,
        "arrival": 15,
        "layers": 20,
    }


@pytest.mark.parametrize("seed", range(10))
def test_random_layers_are_the_same_each_time(makespan: ModuleType, seed: int) -> None:
    """A seed is one graph; no schedule of it is shorter than the bound, and counting comes within the goal."""
    case = makespan.random_layers(seed)
    assert case == makespan.random_layers(seed)
    assert (len(case.shape), case.slots) == (48, 2 + seed % 3)
    assert case.bound <= min(case.known, case.counted)
    assert case.counted <= 1.05 * case.known


def test_every_need_is_declared_before(makespan: ModuleType) -> None:
    """What the shapes promise to those who walk them backwards."""
    cases = (makespan.staggered(), makespan.giant(3, tail=True), makespan.long_tail(), makespan.tree())
    for case in (*cases, makespan.chains(), makespan.random_layers(0)):
        places = {name: place for place, name in enumerate(case.shape)}
        assert all(places[need] < places[name] for name, needs in case.shape.items() for need in needs)
        assert case.ticks.keys() == case.shape.keys()
