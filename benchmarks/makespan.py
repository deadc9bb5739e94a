"""How well pmflow packs unbalanced graphs into a few threads or workers, against what cannot be beaten.

    python benchmarks/makespan.py                     # everything: some minutes
    python benchmarks/makespan.py arrival random      # two sections
    python benchmarks/makespan.py --quick --json      # tiny sizes, which say nothing about speed; for machines

How rows are to be read says `rows`. Every process sleeps so many ticks, each so long that what a scheduler costs itself
hardly counts: what is left is the order in which it begins things. No order takes less than the longest path, nor less
than all the work divided by the slots; the larger of both is the floor of all rows but those of random durations. Each
time a new graph is run. The last column has what a pool driven by graphlib needs, which serves in order of arrival.

Random durations are held against a list schedule, simulated, which begins the process with the longest path before it
whenever a slot is free (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, has the bounds of any such). It
knows all durations; pmflow counts processes instead, and how far that alone takes it is simulated too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from math import fsum
from random import Random
from time import perf_counter, sleep

import floors
import worker_floors
from attrs import evolve, field, frozen
from floors import Shape
from overhead import TimedRun
from rows import Goal, Row, main
from worker_floors import ByHand, Work

import pmflow
from pmflow.executors.platform import cores


@frozen
class Effort:
    """How much is measured."""

    link: float
    tick: float
    repetitions: int
    seeds: Sequence[int]
    seed_tick: float
    seed_repetitions: int


FULL = Effort(0.05, 0.02, 5, range(10), 0.01, 3)
QUICK = Effort(0.002, 0.001, 2, range(2), 0.001, 1)

Ticks = Mapping[str, int]
"""How long each process sleeps."""


# What cannot be beaten, and what can be done


def paths(shape: Shape, ticks: Ticks) -> dict[str, int]:
    """Return how long the longest path is from each process on, itself included."""
    longest = dict.fromkeys(shape, 0)
    for name in reversed([*shape]):
        longest[name] += ticks[name]
        for need in shape[name]:
            longest[need] = max(longest[need], longest[name])
    return longest


def lower_bound(shape: Shape, ticks: Ticks, slots: int) -> float:
    """Return what no schedule can beat: the longest path, or all the work divided by the slots."""
    return max(*paths(shape, ticks).values(), sum(ticks.values()) / slots)


def list_schedule(shape: Shape, ticks: Ticks, slots: int, urgency: Mapping[str, int]) -> int:
    """Return the ticks after which all has ended, if a free slot always begins the most urgent that is ready.

    Args:
        shape: what needs what.
        ticks: how long each takes.
        slots: how many run at once.
        urgency: by name, more is sooner; among equals who was ready first, then who was declared first.
    """
    dependants = dependants_of(shape)
    missing = {name: len(needs) for name, needs in shape.items()}
    places = {name: place for place, name in enumerate(shape)}
    ready = sorted((-urgency[name], 0, places[name], name) for name, count in missing.items() if not count)
    running: list[tuple[int, str]] = []
    now = 0
    while ready or running:
        while ready and len(running) < slots:
            name = heappop(ready)[-1]
            heappush(running, (now + ticks[name], name))
        now = running[0][0]
        while running and running[0][0] == now:
            for name in dependants[heappop(running)[1]]:
                missing[name] -= 1
                if not missing[name]:
                    heappush(ready, (-urgency[name], now, places[name], name))
    return now


def dependants_of(shape: Shape) -> dict[str, list[str]]:
    """Return what needs each process."""
    dependants: dict[str, list[str]] = {name: [] for name in shape}
    for name, needs in shape.items():
        for need in needs:
            dependants[need].append(name)
    return dependants


def layer_by_layer(shape: Shape, ticks: Ticks, slots: int) -> int:
    """Return the ticks after which all has ended, if each layer is begun when the one before has ended."""
    depth: dict[str, int] = {}
    layers: dict[int, dict[str, Sequence[str]]] = {}
    for name, needs in shape.items():
        depth[name] = 1 + max((depth[need] for need in needs), default=0)
        layers.setdefault(depth[name], {})[name] = ()
    return sum(list_schedule(layer, ticks, slots, dict.fromkeys(layer, 0)) for layer in layers.values())


# Graphs


@frozen
class Case:
    """A graph whose processes sleep, and how many may at once."""

    name: str
    shape: Shape
    ticks: Ticks
    slots: int

    @property
    def bound(self) -> float:
        """The ticks that no schedule can beat."""
        return lower_bound(self.shape, self.ticks, self.slots)

    @property
    def known(self) -> int:
        """The ticks of a list schedule that knows how long everything takes."""
        return list_schedule(self.shape, self.ticks, self.slots, paths(self.shape, self.ticks))

    @property
    def counted(self) -> int:
        """The ticks of a list schedule that knows how many processes are still to come."""
        return list_schedule(self.shape, self.ticks, self.slots, paths(self.shape, dict.fromkeys(self.shape, 1)))


def staggered(branches: int = 4, layers: int = 8, long: int = 5) -> Case:
    """Branches in step, of which in each layer another one is slow: who waits for a layer waits for the slow one.

    With a slot for each branch none ever has to wait. In a program that waits for layers every layer is as slow as its
    slowest. All links need the first process too, so that no branch is one piece of work.
    """
    shape: dict[str, Sequence[str]] = {"begin": ()}
    ticks = {"begin": 1, "end": 1}
    for layer in range(layers):
        for branch in range(branches):
            name = f"layer{layer}branch{branch}"
            shape[name] = ("begin", f"layer{layer - 1}branch{branch}") if layer else ("begin",)
            ticks[name] = long if layer % branches == branch else 1
    shape["end"] = tuple(f"layer{layers - 1}branch{branch}" for branch in range(branches))
    return Case("where a barrier hurts", shape, ticks, branches)


def giant(slots: int, *, tail: bool, length: int = 21) -> Case:
    """One process as long as all the work of every other slot, declared after all of that.

    Args:
        slots: how many run at once.
        tail: whether the last tick of it is another process, which needs it: that is what tells it from the others.
        length: its ticks.
    """
    small = [f"small{index}" for index in range((slots - 1) * length)]
    shape: dict[str, Sequence[str]] = {**dict.fromkeys(small, ()), "giant": ()}
    ticks = {**dict.fromkeys(small, 1), "giant": length}
    if tail:
        shape["tail"] = ("giant",)
        ticks.update(giant=length - 1, tail=1)
    return Case(f"one giant, many small, {'its tail' if tail else 'it'} declared last", shape, ticks, slots)


def long_tail(slots: int = 4, size: int = 240, longest: int = 8) -> Case:
    """Independent processes, a few long and most short, by a power law; in no order."""
    lengths = [max(1, round(longest / rank**0.7)) for rank in range(1, size + 1)]
    Random(1).shuffle(lengths)  # noqa: S311 - the same each time, and no secret
    names = floors.wide(size)
    return Case("long tail, in no order", names, dict(zip(names, lengths, strict=True)), slots)


def tree(slots: int = 2, depth: int = 4) -> Case:
    """A tree of forks whose leaves take the longer the further left they are, and that joins as it has forked."""
    shape: dict[str, Sequence[str]] = {}
    ticks: dict[str, int] = {}
    levels = [[format(number, f"0{level}b") if level else "" for number in range(2**level)] for level in range(depth)]
    for path in (path for level in levels for path in level):
        shape[f"fork{path}"] = (f"fork{path[:-1]}",) if path else ()
        ticks[f"fork{path}"] = ticks[f"join{path}"] = 1
    for path in levels[-1]:
        for side in "01":
            shape[f"join{path}{side}"] = (f"fork{path}",)
            ticks[f"join{path}{side}"] = 2 + 4 * f"{path}{side}".count("0")
    for path in (path for level in reversed(levels) for path in level):
        shape[f"join{path}"] = (f"join{path}0", f"join{path}1")
    return Case("fork and join, skewed", shape, ticks, slots)


def chains(slots: int = 2, links: int = 10) -> Case:
    """One chain more than there are slots: at the optimum they take turns, so that none is left for the end."""
    shape = {
        f"chain{number}link{link}": (f"chain{number}link{link - 1}",) if link else ()
        for number in range(slots + 1)
        for link in range(links)
    }
    return Case("one chain more than slots", shape, dict.fromkeys(shape, 1), slots)


def random_layers(seed: int) -> Case:
    """Six layers of eight, each process of which needs three of the layer before; their durations are drawn."""
    shape = floors.layered(48, 8)
    draw = Random(seed)  # noqa: S311 - the same each time, and no secret
    return Case(f"random layers, seed {seed}", shape, {name: draw.randint(1, 9) for name in shape}, 2 + seed % 3)


# What is run


def nap(ticks: int, tick: float) -> int:
    """Sleep."""
    sleep(ticks * tick)
    return ticks


def nap_after(ticks: int, tick: float, *_needed: int) -> int:
    """Sleep after others; for the pool, where each is given what it needs."""
    return nap(ticks, tick)


@frozen
class Naps:
    """Runs a case with pmflow, and by hand, in threads or in workers.

    Args:
        case: what is run.
        tick: the seconds of a tick.
        kind: ``"thread"`` or ``"process"``.
    """

    case: Case
    tick: float
    kind: str = "thread"
    by_hand: list[float] = field(factory=list)
    """The seconds by hand, as often as that has been run."""

    def floor(self, pool: Executor) -> float:
        """Return the seconds of a pool, driven by graphlib."""
        case = self.case
        calls = {name: partial(nap_after, ticks, self.tick) for name, ticks in case.ticks.items()}
        seconds, values = ByHand(Work(case.shape, calls, case.ticks), pool).run({})
        assert values == case.ticks
        self.by_hand.append(seconds)
        return seconds

    def ours(self) -> float:
        """Return the seconds of the first run of a new graph."""
        graph = pmflow.Graph(
            [
                pmflow.process(partial(nap, self.case.ticks[name], self.tick), id=name, type=self.kind, after=needs)
                for name, needs in self.case.shape.items()
            ]
        )
        start = perf_counter()
        run = pmflow.run(graph, max_threads=self.case.slots, max_processes=self.case.slots)
        seconds = perf_counter() - start
        assert {name: result.data for name, result in run.items()} == self.case.ticks
        return seconds

    def samples(self, repetitions: int) -> list[float]:
        """Return the seconds of pmflow, in turn with those by hand."""
        with _pool(self.kind, self.case.slots) as pool:
            return floors.in_turn(partial(self.floor, pool), self.ours, repetitions, 1)[1]

    def row(self, repetitions: int, goal: Goal | None) -> Row:
        """Measure against what cannot be beaten."""
        case = self.case
        ours = self.samples(repetitions)
        best = case.bound * self.tick
        note = (
            f"by hand: {min(self.by_hand) / best:.3f} x; simulated, durations known {case.known / case.bound:.3f} x, "
            f"counted {case.counted / case.bound:.3f} x"
        )
        where = "threads" if self.kind == "thread" else "workers"
        return Row(f"{case.name}, {case.slots} {where}", "s", ([best] * len(ours), ours), goal, note)


@contextmanager
def _pool(kind: str, slots: int) -> Generator[Executor]:
    with ThreadPoolExecutor(slots) if kind == "thread" else worker_floors.warm(slots) as pool:
        yield pool


# Sections


def arrival(effort: Effort) -> Iterator[Row]:
    """The graph that first come, first served hurts, on two threads, against the optimum."""
    shape, functions = floors.hurting(), floors.sleeper(effort.link)
    run = TimedRun(shape, functions, "thread", floors.THREADS)
    with ThreadPoolExecutor(floors.THREADS) as pool:
        floor = partial(floors.timed_pool, pool, functions, shape)
        by_hand, ours = floors.in_turn(floor, run, effort.repetitions, 1)
    best = floors.optimum(effort.link)
    note = f"first come, first served, by hand: {min(by_hand) / best:.3f} x"
    yield Row("where first come, first served hurts", "s", ([best] * len(ours), ours), Goal(1.03), note)


def barrier(effort: Effort) -> Iterator[Row]:
    """The graph that a barrier hurts."""
    case = staggered()
    row = Naps(case, effort.tick).row(effort.repetitions, Goal(1.01))
    waiting = layer_by_layer(case.shape, case.ticks, case.slots) / case.bound
    yield evolve(row, note=f"{row.note}, layer by layer {waiting:.3f} x")


def unbalanced(effort: Effort) -> Iterator[Row]:
    """Graphs whose processes are of very different length, in threads, and two of them in workers."""
    for case in (long_tail(), giant(3, tail=True), tree(), chains()):
        yield Naps(case, effort.tick).row(effort.repetitions, Goal(1.05))
    # Nothing in the graph says which of them is the giant: no goal.
    yield Naps(giant(3, tail=False), effort.tick).row(effort.repetitions, None)
    yield Naps(giant(cores(), tail=True), effort.tick, "process").row(effort.repetitions, Goal(1.05))
    if cores() > 1:  # a worker runs a chain to its end
        yield Naps(chains(), effort.tick, "process").row(effort.repetitions, Goal(1.05))


def random(effort: Effort) -> Iterator[Row]:
    """Layers of random durations, against list schedules that know them; each, and all together."""
    totals: list[tuple[float, list[float]]] = []
    for seed in effort.seeds:
        case = random_layers(seed)
        naps = Naps(case, effort.seed_tick)
        ours, known = naps.samples(effort.seed_repetitions), case.known * effort.seed_tick
        totals.append((known, ours))
        note = (
            f"by hand: {min(naps.by_hand) / known:.3f} x; simulated, counted {case.counted / case.known:.3f} x; "
            f"the bound {case.bound / case.known:.3f} x"
        )
        yield Row(f"{case.name}, {case.slots} threads", "s", ([known] * len(ours), ours), Goal(1.05), note)
    ours = [fsum(each) for each in zip(*(ours for _, ours in totals), strict=True)]
    known = fsum(known for known, _ in totals)
    yield Row("random layers, all seeds", "s", ([known] * len(ours), ours), Goal(1.05))


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "barrier": barrier,
    "arrival": arrival,
    "unbalanced": unbalanced,
    "random": random,
}


if __name__ == "__main__":
    main("How well unbalanced graphs are packed, against what cannot be beaten.", SECTIONS, QUICK, FULL)
