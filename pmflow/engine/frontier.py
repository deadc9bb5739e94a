"""The frontier of a run: what is ready, what still waits, and for how many.

Pure: names, counts and priorities; no clock, no I/O, nothing of processes. A *unit* is what becomes ready as a whole;
it has a name, and a lane it will be taken from. Its life:

    waiting --(last dependency succeeded)--> ready --(take_ready)--> taken --(succeed or fail)--> ended
       |
       +--(a strict dependency failed)--> dropped, which `fail` reports; the caller fails it in turn

A *mapped* unit becomes ready when its plain dependencies have ended; the caller then says with `expand` how many
elements it has (again and again while more become known) and with `seal` that there are no more. Element ``i`` of
``"page"`` is the unit ``("page", i)``, taken and ended like any other. A mapped unit may be *aligned* with others: then
it grows with them, element for element, without being expanded by the caller. When the last element of a sealed unit
has ended, `succeed` says so, and the caller ends the unit itself. What a unit yields while it runs is the same again,
under its own name: elements that nobody takes, for they are there as soon as they are known (`supply`).

Invariant: every unit is taken or dropped at most once, and once all that were taken have ended, all have been.

>>> frontier = Frontier.of({"a": (), "b": ("a",)})
>>> frontier.take_ready()
['a']
>>> frontier.succeed("a")
False
>>> frontier.take_ready()
['b']
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import heappop, heappush
from typing import Any

Name = str
Unit = Any
"""A name, or ``(name, index)`` for an element."""

Priority = int
"""Smaller goes first."""

Place = tuple[str, Priority]
"""A lane, and the priority in it."""

ENDLESS = 1 << 62


def _anywhere(_name: Name) -> Place:
    return "", 0


class _Lane:
    """The ready units of one lane, by priority, first come first served among equals."""

    __slots__ = ("buckets", "heap")

    def __init__(self) -> None:
        self.buckets: dict[Priority, deque[Any]] = {}
        self.heap: list[Priority] = []

    def bucket(self, priority: Priority) -> deque[Any]:
        """Return where units of a priority are put."""
        bucket = self.buckets.get(priority)
        if bucket is None:
            bucket = self.buckets[priority] = deque()
            heappush(self.heap, priority)
        return bucket

    def take(self, limit: int, grain: Callable[[Name], int] | None = None) -> list[Unit]:
        """Remove and return the first ones; of maps that have a ``grain`` (more than 1), so many elements as one."""
        taken: list[Unit] = []
        heap = self.heap
        while heap and limit > len(taken):
            bucket = self.buckets[heap[0]]
            while bucket and limit > len(taken):
                entry = bucket[0]
                if type(entry) is _Span:
                    name, start, room = entry.name, entry.start, limit - len(taken)
                    size = 1 if grain is None else grain(name)
                    stop = min(entry.stop, start + room * size)
                    if size == 1:
                        taken += [(name, index) for index in range(start, stop)]
                    else:
                        taken += [(name, range(at, min(at + size, stop))) for at in range(start, stop, size)]
                    entry.start = stop
                    if stop < entry.stop:
                        break
                else:
                    taken.append(entry)
                bucket.popleft()
            if not bucket:
                del self.buckets[heappop(heap)]
        return taken


class _Span:
    """Elements ``start`` to ``stop - 1`` of a mapped unit, all ready: a million of them cost one object."""

    __slots__ = ("name", "start", "stop")

    def __init__(self, name: Name, start: int, stop: int) -> None:
        self.name = name
        self.start = start
        self.stop = stop


class _Map:
    """What is known of a mapped unit.

    ``sources`` are the mapped units it is aligned with, ``followers`` those aligned with it; ``ended[i]`` is 1 once
    element ``i`` has ended; ``open`` says that its plain dependencies have ended, so that its elements may be ready;
    ``most`` is how many it can have at most, where it also goes over something else.
    """

    __slots__ = ("ended", "ended_count", "followers", "most", "open", "sealed", "size", "sources")

    def __init__(self, sources: tuple[Name, ...]) -> None:
        self.sources = sources
        self.followers: list[Name] = []
        self.open = False
        self.sealed = False
        self.size = 0
        self.ended = bytearray()
        self.ended_count = 0
        self.most = ENDLESS


class Frontier:
    """See the module. Made by `Frontier.of`, or by `Frontier.prepared` and `begin`."""

    def __init__(self) -> None:
        self._dependants: dict[Name, list[Name]] = {}
        self._missing: dict[Name, int] = {}
        self._roots: list[Name] = []
        self._lenient: Mapping[Name, Collection[Name]] = {}
        self._place: Callable[[Name], Place] = _anywhere
        self._lanes: dict[str, _Lane] = {}
        self._maps: dict[Name, _Map] = {}

    @classmethod
    def of(cls, dependencies: Mapping[Name, Iterable[Name]], **facts: Any) -> Frontier:
        """Return the frontier of a graph that begins; takes what `prepared` takes."""
        return cls.prepared(dependencies, **facts).begin()

    @classmethod
    def prepared(
        cls,
        dependencies: Mapping[Name, Iterable[Name]],
        *,
        lenient: Mapping[Name, Collection[Name]] | None = None,
        mapped: Mapping[Name, tuple[Name, ...]] | None = None,
        place: Callable[[Name], Place] = _anywhere,
    ) -> Frontier:
        """Return the frontier of a graph that has not begun: `begin` makes as many that have as there are runs.

        Args:
            dependencies: unit to the units it waits for; those it is aligned with not among them.
            lenient: unit to those of its dependencies whose failure does not concern it.
            mapped: mapped unit to those it is aligned with.
            place: the lane a unit will be taken from, and its priority in it; smaller goes first.
        """
        self = cls()
        self._lenient = lenient or {}
        self._place = place
        for name, sources in (mapped or {}).items():
            self._maps[name] = _Map(tuple(sources))
        for name, each in self._maps.items():
            for source in each.sources:
                self._maps[source].followers.append(name)
        dependants, missing, roots = self._dependants, self._missing, self._roots
        for name, needed in dependencies.items():
            count = 0
            for source in needed:
                count += 1
                known = dependants.get(source)
                if known is None:
                    dependants[source] = [name]
                else:
                    known.append(name)
            if count:
                missing[name] = count
            else:
                roots.append(name)
        return self

    def begin(self) -> Frontier:
        """Return a copy in which what depends on nothing is ready; this one stays as it is, to be begun again."""
        copy = Frontier()
        copy._dependants = self._dependants  # never written to
        copy._missing = dict(self._missing)
        copy._lenient = self._lenient
        copy._place = self._place
        for name, each in self._maps.items():
            copy._maps[name] = other = _Map(each.sources)
            other.followers = each.followers
        for name in self._roots:
            copy._make_ready(name)
        return copy

    def take_ready(
        self, lane: str = "", limit: int = 1 << 62, grain: Callable[[Name], int] | None = None
    ) -> list[Unit]:
        """Remove and return up to ``limit`` ready units of a lane, most urgent first.

        Args:
            lane: which.
            limit: how many.
            grain: says of a mapped unit how many of its elements are taken as one, ``("page", range(0, 100))``.
        """
        found = self._lanes.get(lane)
        return found.take(limit, grain) if found is not None and found.heap else []

    def first(self, lane: str) -> tuple[Priority, int] | None:
        """Return the priority of the most urgent units of a lane, and how many they are; None if nothing is ready."""
        found = self._lanes.get(lane)
        return (found.heap[0], len(found.buckets[found.heap[0]])) if found is not None and found.heap else None

    def next(self, lane: str) -> Unit | None:
        """Return the unit of a lane that would be taken next; None if nothing is ready."""
        found = self._lanes.get(lane)
        if found is None or not found.heap:
            return None
        entry = found.buckets[found.heap[0]][0]
        return (entry.name, entry.start) if type(entry) is _Span else entry

    def succeed(self, unit: Unit) -> bool:
        """Note that a unit has ended well; True if it was the last element of its mapped unit."""
        if type(unit) is tuple:
            return self._end_element(*unit)
        missing = self._missing
        for name in self._dependants.get(unit, ()):
            left = missing.get(name)
            if left is None:
                continue  # dropped
            if left == 1:
                del missing[name]
                self._make_ready(name)
            else:
                missing[name] = left - 1
        return False

    def fail(self, unit: Name) -> list[Name]:
        """Note that a unit has failed; return the units this drops, each of which the caller fails in turn."""
        dropped = []
        missing, lenient = self._missing, self._lenient
        for name in self._dependants.get(unit, ()):
            left = missing.get(name)
            if left is None:
                continue
            if unit not in lenient.get(name, ()):
                del missing[name]
                dropped.append(name)
            elif left == 1:
                del missing[name]
                self._make_ready(name)
            else:
                missing[name] = left - 1
        return dropped

    # Mapped units

    def expand(self, name: Name, count: int) -> None:
        """Add ``count`` elements to a mapped unit."""
        grown = [name]
        while grown:
            name = grown.pop()
            each = self._maps[name]
            size = self._common_size(each) if each.sources else each.size + count
            if size == each.size or not each.open:
                continue
            start, each.size = each.size, size
            each.ended.extend(bytes(size - start))
            self._make_elements_ready(name, each, start)
            grown += each.followers

    def supply(self, name: Name, count: int) -> list[Name]:
        """Add elements to a unit that need not be taken, as they are there already; return followers like `seal`."""
        each = self._maps[name]
        each.open = True
        each.size += count
        each.ended.extend(b"\1" * count)
        each.ended_count += count
        for follower in each.followers:
            self.expand(follower, 0)
        return self._seal_those(each.followers)

    def _seal_those(self, names: Iterable[Name]) -> list[Name]:
        """Seal units that will have no more elements, with what goes over them; return like `seal`."""
        complete = []
        names = list(names)
        while names:
            name = names.pop()
            if self._may_seal(name):
                complete += self.seal(name)
            else:
                names += self._maps[name].followers
        return complete

    def bound(self, name: Name, most: int) -> None:
        """Say that an aligned unit can have so many elements at most; those that it has stay."""
        self._maps[name].most = max(most, self._maps[name].size)

    def _common_size(self, each: _Map) -> int:
        return min([each.most, *(self._maps[source].size for source in each.sources)])

    def seal(self, name: Name) -> list[Name]:
        """Say that a mapped unit has all of its elements; return it and its followers, as far as they are complete."""
        complete = []
        names = [name]
        while names:
            name = names.pop()
            self._maps[name].sealed = True
            if self.complete(name):
                complete.append(name)
            names += [follower for follower in self._maps[name].followers if self._may_seal(follower)]
        return complete

    def _may_seal(self, name: Name) -> bool:
        """Whether it will have no more elements: all sources have ended, or one has while another has more."""
        each = self._maps[name]
        if not each.open or each.sealed:
            return False
        sources = [self._maps[source] for source in each.sources]
        if all(source.sealed for source in sources):
            return True
        least = min([each.most, *(source.size for source in sources if source.sealed)])
        return max(source.size for source in sources) > least

    def complete(self, name: Name) -> bool:
        """Whether a mapped unit has all of its elements, and they have all ended."""
        each = self._maps[name]
        return each.sealed and each.ended_count == each.size

    def open(self, name: Name) -> list[Name]:
        """Let the elements of a mapped unit be ready; an aligned one grows with its sources. Returns like `seal`."""
        each = self._maps[name]
        each.open = True
        if not each.sources:
            return []
        self.expand(name, 0)
        return self._seal_those([name])

    def cut(self, name: Name) -> list[Name]:
        """Give up a mapped unit that will never have elements; return its followers, given up without waiting."""
        followers = self._maps[name].followers
        for follower in followers:
            self._missing.pop(follower, None)
        return followers

    def size(self, name: Name) -> int:
        """Return how many elements a mapped unit has so far."""
        return self._maps[name].size

    def ended(self, name: Name) -> int:
        """Return how many elements of a mapped unit have ended."""
        return self._maps[name].ended_count

    def is_sealed(self, name: Name) -> bool:
        """Whether a mapped unit has all of its elements."""
        return self._maps[name].sealed

    def followers(self, name: Name) -> list[Name]:
        """Return the mapped units that are aligned with a unit."""
        return self._maps[name].followers

    def _make_elements_ready(self, name: Name, each: _Map, start: int) -> None:
        place, priority = self._place(name)
        lane = self._lanes.setdefault(place, _Lane())
        if all(self._maps[source].ended_count == self._maps[source].size for source in each.sources):
            lane.bucket(priority).append(_Span(name, start, each.size))
            return
        sources = [self._maps[source].ended for source in each.sources]
        for index in range(start, each.size):
            if all(ended[index] for ended in sources):
                lane.bucket(priority).append((name, index))

    def _end_element(self, name: Name, index: int) -> bool:
        each = self._maps[name]
        each.ended[index] = 1
        each.ended_count += 1
        for follower in each.followers:
            other = self._maps[follower]
            if index < other.size and all(self._maps[source].ended[index] for source in other.sources):
                place, priority = self._place(follower)
                self._lanes.setdefault(place, _Lane()).bucket(priority).append((follower, index))
        return self.complete(name)

    def succeed_all(self, name: Name, elements: range) -> bool:
        """Note that elements next to one another have ended, of a unit that none follows; True if all have by now."""
        each = self._maps[name]
        each.ended[elements.start : elements.stop] = b"\x01" * len(elements)
        each.ended_count += len(elements)
        return self.complete(name)

    def _make_ready(self, name: Name) -> None:
        place, priority = self._place(name)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane()
        bucket = lane.buckets.get(priority)
        if bucket is None:
            bucket = lane.bucket(priority)
        bucket.append(name)
