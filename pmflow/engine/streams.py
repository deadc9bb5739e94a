"""Streams: what processes yield goes to the maps over it while it comes.

A process that a map goes over may turn out to yield its elements: nobody knows before it has been called. So every such
process begins with a `Flow`, which lets it yield as many elements as its consumers are to have ahead, and the maps over
it are opened without waiting for its end. Whatever else it returns is gone over when it has ended.

- *Ahead* are the elements that some map has not ended with: the maps over the stream, and those over these, element by
  element. They are at most twice as many as those maps can work on at once; each that ends lets another one come.
- A map that waits for the end of some stream, be it this one or another, holds up nobody until it is open, nor does a
  map that goes over such a one: else each of two could wait for the other. Nor does a producer wait that holds a limit,
  or cores, which others may need to go on.
- A value is let go once all maps over the stream have ended with it, unless somebody wants the list of all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pmflow.engine.attempt import why
from pmflow.engine.plan import WORKER
from pmflow.engine.sequences import same_length, sequence
from pmflow.executors.flow import ENDLESS, Flow
from pmflow.graph import AFTER, EACH
from pmflow.limits import Limit
from pmflow.outcomes import RELEASED, Cancelled, Handle, Handles, Mapped, Outcome, Skipped, Success, opened

if TYPE_CHECKING:
    from pmflow.engine.frontier import Frontier
    from pmflow.engine.plan import Node, Plan
    from pmflow.executors.base import Call, Session


class Known(Protocol):
    """What has ended so far, and what is gone over."""

    outcomes: dict[str, Outcome]
    elements: dict[str, list[Any]]
    sequences: dict[str, dict[str, list[Any]]]


class Stream:
    """What one process has yielded.

    Attributes:
        node: the process.
        call: its attempt, since its first element.
        values: its elements, in order; RELEASED where nobody wants them any more.
        count: how many they are.
        granted: how many there may be by now.
        ahead: how many of them may wait for maps to end with them.
        pipeline: the maps over it and over these.
        related: the same with all that they go over, each after what it goes over itself.
        kept: whether somebody wants the list of all.
        opens: whether a value that a worker has yielded is wanted in this program.
        whole: whether it has yielded nothing, but returned all at once.
    """

    __slots__ = ("ahead", "call", "count", "granted", "kept", "node", "opens", "pipeline", "related", "values", "whole")

    def __init__(self, node: Node, plan: Plan) -> None:
        self.node = node
        self.call: Call | None = None
        self.values: list[Any] = []
        self.count = self.granted = self.ahead = 0
        self.whole = False
        self.pipeline: Collection[str] = ()
        self.related: Sequence[str] = ()
        readers = [plan.nodes[name] for name in node.consumers if wants(plan.nodes[name], node.id)]
        self.kept = (
            plan.keep_all or node.id in plan.asked or any(node.id not in plan.fed.get(each.id, ()) for each in readers)
        )
        self.opens = any(WORKER not in each.lane or each.settings.when is not None for each in readers)


class Streams:
    """Those of one run.

    Args:
        plan: what is run.
        frontier: what is ready.
        known: what has ended.
    """

    def __init__(self, plan: Plan, frontier: Frontier, known: Known) -> None:
        self._plan = plan
        self._frontier = frontier
        self._known = known
        self._streams: dict[str, Stream] = {}
        self._behind: dict[str, list[Stream]] = {}
        self._changed: dict[str, Stream] = {}
        self._waiting: dict[str, bool] = {}

    def _stream(self, name: str) -> Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(self._plan.nodes[name], self._plan)
        return stream

    # The maps

    def fed(self, name: str) -> dict[str, list[Any]]:
        """Return the lists that grow, of those that a map goes over, by source."""
        streams = map(self._stream, self._plan.fed.get(name, ()))
        return {stream.node.id: stream.values for stream in streams if not stream.whole}

    def count(self, name: str) -> int:
        """Return how many elements a process has yielded."""
        return self._stream(name).count

    def ended(self, name: str, indices: Iterable[int]) -> None:
        """Note that elements of a map have ended."""
        for stream in self._behind.get(name, ()):
            self._changed[stream.node.id] = stream
            if not stream.kept and name in self._plan.streams[stream.node.id]:
                self._let_go(stream, indices)

    def gone(self, name: str) -> None:
        """Note that a map has ended as a whole."""
        for source in self._plan.fed.get(name, ()):
            stream = self._stream(source)
            if source in self._known.outcomes and not self._live(stream):
                stream.values.clear()
            elif not stream.kept:
                self._let_go(stream, range(stream.count))
        for stream in self._behind.get(name, ()):
            self._changed[stream.node.id] = stream

    def _let_go(self, stream: Stream, indices: Iterable[int]) -> None:
        """Let go of the values that all maps over a stream have ended with."""
        live = self._live(stream)
        for index in indices:
            ends = [self._known.elements.get(name, ())[index : index + 1] for name in live]
            if index < len(stream.values) and all(end and end[0] is not None for end in ends):
                stream.values[index] = RELEASED

    def _live(self, stream: Stream) -> list[str]:
        """Return the maps over a stream that have not ended as a whole."""
        return [name for name in self._plan.streams[stream.node.id] if name not in self._known.outcomes]

    # The process

    def flow(self, node: Node, sessions: Mapping[str, Session]) -> Flow:
        """Return what an attempt at a process may yield to begin with."""
        stream = self._stream(node.id)
        stream.ahead = self._ahead(node, sessions)
        stream.granted = stream.ahead
        return Flow(stream.granted)

    def _ahead(self, node: Node, sessions: Mapping[str, Session]) -> int:
        """Return twice the number of elements that the maps behind a process can work on at once."""
        if isinstance(node.settings.limit, (str, Limit)):
            return ENDLESS
        if self._plan.counts_cores and (node.settings.cpus > 1 or WORKER in node.lane):
            return ENDLESS
        room: dict[str, int] = {}
        for name in self._pipeline(node.id):
            other = self._plan.nodes[name]
            slots, limit = sessions[other.lane].slots, other.settings.limit
            most = limit if isinstance(limit, int) else limit.most if isinstance(limit, Limit) else slots
            strategy = other.lane.partition(" ")[0]
            room[strategy] = min(slots, room.get(strategy, 0) + most)
        return 2 * sum(room.values())

    def _pipeline(self, name: str) -> dict[str, None]:
        """Return the maps that go along with a stream, element by element."""
        found: dict[str, None] = {}
        waiting = [name]
        while waiting:
            for follower in self._frontier.followers(waiting.pop()):
                if follower not in found:
                    found[follower] = None
                    waiting.append(follower)
        return found

    def take(self, call: Call, value: Any) -> list[str]:
        """Take what a process has yielded; return the maps that are complete, as they cannot go on.

        Raises:
            ProcessError: a worker has yielded it, and it cannot be unpickled here.
        """
        stream = self._stream(call.key)
        if stream.call is None:
            stream.call = call
            self._survey(stream)
        value = opened(value) if stream.opens else value
        stream.values.append(value if stream.kept or self._live(stream) else RELEASED)
        stream.count += 1
        self._changed[call.key] = stream
        return self._frontier.supply(call.key, 1)

    def _survey(self, stream: Stream) -> None:
        """See who goes along with a stream, now that it is one."""
        stream.pipeline = self._pipeline(stream.node.id)
        for name in stream.pipeline:
            self._behind.setdefault(name, []).append(stream)
        related: set[str] = set()
        waiting = list(stream.pipeline)
        while waiting:
            name = waiting.pop()
            if name not in related:
                related.add(name)
                waiting += self._sources(name)
        stream.related = [name for name in self._plan.nodes if name in related]

    def _sources(self, name: str) -> tuple[str, ...]:
        """Return what a map goes over, element by element; of a process that yields, nothing."""
        return *self._plan.aligned.get(name, ()), *self._plan.fed.get(name, ())

    def _waits(self, name: str) -> bool:
        """Whether a map cannot be opened, or a process begin, before some stream has ended."""
        known = self._waiting.get(name)
        if known is None:
            plan, seen = self._plan, set[str]()
            waiting = list(plan.waits_for(plan.nodes[name]))
            while waiting and not known:
                source = waiting.pop()
                known = source in plan.streams
                if source not in seen:
                    seen.add(source)
                    waiting += [each for _, each, _ in plan.nodes[source].edges]
            known = self._waiting[name] = bool(known)
        return known

    def _is_late(self, name: str) -> bool:
        """Whether a map is not open, or a process has not yielded, and cannot before some stream has ended."""
        begun = self.count(name) if name in self._plan.streams else name in self._known.elements
        return not begun and self._waits(name)

    def grant(self, sessions: Mapping[str, Session]) -> None:
        """Let processes yield as many more elements as have been ended with."""
        changed, self._changed = self._changed, {}
        for name, stream in changed.items():
            if stream.call is not None and name not in self._known.outcomes:
                more = self._allowed(stream) - stream.granted
                if more > 0:
                    stream.granted += more
                    sessions[stream.node.lane].grant(stream.call, more)

    def _allowed(self, stream: Stream) -> int:
        """Return how many elements there may be by now."""
        least = ENDLESS - stream.ahead
        late: set[str] = set()
        for name in stream.related:
            if name in self._known.outcomes:
                continue
            if self._is_late(name) or not late.isdisjoint(self._sources(name)):
                late.add(name)
            elif name in stream.pipeline:
                least = min(least, self._frontier.ended(name))
        return least + stream.ahead

    # Its end

    def end(self, node: Node, outcome: Outcome) -> tuple[list[str], dict[str, Exception]]:
        """Take the end of a process: give it the value that it has, and the maps over it the rest of their elements.

        Returns:
            The maps that are complete, and those that cannot go over what it returned, each with the error.
        """
        stream = self._stream(node.id)
        refused: dict[str, Exception] = {}
        count = 0
        if type(outcome) is Success:
            if stream.count or outcome.value is RELEASED:
                outcome.value = _whole(stream)
                if not self._live(stream):
                    stream.values.clear()
            else:
                stream.whole = True
                count, refused = self._go_over(node.id, outcome.value)
        elif not stream.count or type(outcome) is Cancelled:
            return [], {}
        complete = self._frontier.supply(node.id, count)
        complete += [name for name in self._frontier.seal(node.id) if name != node.id]
        return complete, refused

    def _go_over(self, source: str, value: Any) -> tuple[int, dict[str, Exception]]:
        """Have the maps that are open go over a value that is there as a whole; return its length, if it has one."""
        refused: dict[str, Exception] = {}
        values: list[Any] | None = None
        for name in self._plan.streams[source]:
            sequences = self._known.sequences.get(name)
            try:
                values = sequence(name, source, value) if values is None else values
                if sequences is None:
                    continue
                own = sources_of(self._plan.nodes[name])
                sequences.update({parameter: values for parameter, each in own.items() if each == source})
                growing = self.fed(name)
                lengths = {each: len(found) for each, found in sequences.items() if own.get(each) not in growing}
                same_length(name, lengths | {source: len(values)})
            except Exception as error:  # noqa: BLE001 - an iterable may raise anything
                if sequences is not None:
                    refused[name] = error
                    self._frontier.bound(name, 0)
        return len(values or ()), refused


def _whole(stream: Stream) -> Any:
    """Return the list of all that was yielded, if somebody wants it."""
    if not stream.kept:
        return RELEASED
    values = list(stream.values)
    return Handles(values) if any(isinstance(value, Handle) for value in values) else values


def wants(consumer: Node, source: str) -> bool:
    """Whether a process wants the value of another, and not only its good end."""
    return any(each == source and kind not in (AFTER, EACH + AFTER) for _, each, kind in consumer.edges)


def has_yielded(call: Call) -> bool:
    """Whether a call has yielded something that its run has had."""
    return call.flow is not None and call.flow.begun


def sources_of(node: Node) -> dict[str, str]:
    """Return what a map goes over, of processes: parameter to source."""
    return {parameter: source for parameter, source, kind in node.edges if kind >= EACH}


def cut_short(plan: Plan, outcomes: Mapping[str, Outcome], name: str, now: float) -> Skipped | Cancelled | None:
    """Say why a map has not all the elements that it should have had; None if it has."""
    for source in (*plan.fed.get(name, ()), *plan.aligned[name]):
        outcome = outcomes[source]
        if type(outcome) is Mapped:
            if outcome.end is not None:
                return outcome.end
        elif type(outcome) is Cancelled:
            return Cancelled(None, now)
        elif type(outcome) is not Success:
            failed, reason = why(source, outcome)
            return Skipped(reason, now, failed=failed)
    return None
