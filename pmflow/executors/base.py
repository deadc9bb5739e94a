"""The executor port: chains in, outcomes out, stop.

An `Executor` opens a `Session` for each run. The run submits *chains*: a `Call`, whose ``then`` may be a further call
of the same strategy that needs the value of the one before (its ``feed`` names the parameter), and so on. The session
runs the links one after another and delivers one outcome per link to the run's `Port`, from whatever thread it is in:

- `Success` or `Failure`, with the time the link began and ended, or `Stopped` where the work was given up. The value of
  a success may be a handle; an outcome that takes code of the user's to make is `Sealed`, and opened by the run;
- the chain ends at the first link that does not succeed: the links after it are never started, and no outcome is
  delivered for them;
- where a link has a ``flow`` and returns an iterator, its elements are delivered as they come (`Yielded`), as many as
  the run has granted; its success then has no value (RELEASED);
- `Session.stop(call)` gives up a link: a `Stopped` follows soon, at once where the work cannot be ended
  (``ended=False``). Whatever the link still delivers after that is late, and the run ignores it; a link that ends in
  the moment it is stopped may deliver its `Success` first, and that counts.

An executor knows nothing of graphs, retries or timeouts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from heapq import heapify, heappop, heappush
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, Union, runtime_checkable

from pmflow.context import UNBOUNDED, Current
from pmflow.executors.flow import Flow

if TYPE_CHECKING:
    from pmflow.outcomes import Failure, Success

Priority = int
"""Smaller goes first."""


class Call:
    """One link of a chain: a function and its arguments.

    Attributes:
        key: what the run knows it by: an id, or ``(id, index)`` of an element; opaque to the executor.
        label: the process's name, for messages (``"page"``, ``"page_3"``).
        function: what to call.
        args: its positional arguments.
        kwargs: its keyword arguments.
        feed: where the value of the link before goes: a parameter's name, or a position (an int: the value is inserted
            there); None for the first link.
        then: the next link.
        priority: smaller goes first.
        context: the context variables it sees; the executor copies them for the call.
        attempt: which attempt this is (1, 2, ...).
        crashes: how many of those before have ended with the death of their worker.
        bounds: for how many seconds it may run, and until when (`time.perf_counter()`) its run may; for those who ask.
        observed: somebody wants to know when it begins: then `BEGAN` is delivered, after ``started`` was set.
        hand_on: nobody but the next link can ever ask for its value, so it need not leave the worker.
        started: `time.perf_counter()` when it began; 0.0 while it waits, and as long as the executor has not looked
            (see `Session.began`).
        handle: the executor's own note of where it runs.
        stopped: set by `Session.stop`; looked at between links.
        report: the last that it has said of how far it is.
        flow: how many elements it may yield, if the run takes them as they come; None if an iterator is to be a list.
    """

    __slots__ = (
        "args",
        "attempt",
        "bounds",
        "context",
        "crashes",
        "feed",
        "flow",
        "function",
        "hand_on",
        "handle",
        "key",
        "kwargs",
        "label",
        "observed",
        "priority",
        "report",
        "started",
        "stopped",
        "then",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - one per process: a record, made in one place
        self,
        key: Any,
        label: str,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = {},
        feed: str | int | None = None,
        priority: Priority = 0,
        context: Context | None = None,
    ) -> None:
        self.key = key
        self.label = label
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.feed = feed
        self.then: Call | None = None
        self.priority = priority
        self.context = context
        self.attempt = 1
        self.crashes = 0
        self.bounds = UNBOUNDED
        self.observed = False
        self.hand_on = False
        self.started = 0.0
        self.handle: Any = None
        self.stopped = False
        self.report: Progressed | None = None
        self.flow: Flow | None = None

    @property
    def progress(self) -> float:
        """How far it has got, as far as its run knows: 0 to 100."""
        return 0.0 if self.report is None else self.report.reached

    def arguments(self, value: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments with the value of the link before in its place."""
        feed = self.feed
        if feed is None:
            return self.args, self.kwargs
        if isinstance(feed, str):
            return self.args, {**self.kwargs, feed: value}
        return (*self.args[:feed], value, *self.args[feed:]), self.kwargs


class Block(Call):
    """Calls of one function for the elements ``start`` to ``stop - 1`` of a map: one thing to send.

    They are begun one after the other, and each has an outcome of its own, delivered for the block within a `Part`.
    An executor may hand a block's end to somebody else, who is then a block of his own (`Split`), and it may give all
    of it back that has had no outcome, with a `Stopped` for the block.

    Attributes:
        name: the map's.
        columns: parameter to the values of these elements; ``kwargs`` are what they share.
        at: the first of them that has had no outcome, by the run's own count; ``end``: the first that it has not got.
    """

    __slots__ = ("at", "columns", "end", "name", "singles", "start", "stop")

    def __init__(  # noqa: PLR0913, PLR0917 - a record, made in one place
        self,
        name: str,
        elements: range,
        function: Callable[..., Any],
        kwargs: Mapping[str, Any],
        columns: Mapping[str, Sequence[Any]],
        priority: Priority = 0,
        context: Context | None = None,
    ) -> None:
        super().__init__((name, elements), name, function, (), kwargs, None, priority, context)
        self.name = name
        self.columns = columns
        self.start, self.stop = elements.start, elements.stop
        self.at, self.end = self.start, self.stop
        self.singles: dict[int, Call] = {}

    def single(self, index: int) -> Call:
        """Return one of its calls, to everybody the same."""
        known = self.singles.get(index)
        if known is None:
            kwargs = {**self.kwargs, **{name: column[index - self.start] for name, column in self.columns.items()}}
            label = f"{self.name}_{index}"
            known = Call((self.name, index), label, self.function, (), kwargs, None, self.priority, self.context)
            known.bounds = self.bounds
            known = self.singles.setdefault(index, known)  # whoever came first, in whichever thread
        return known

    def part(self, start: int, stop: int) -> Block:
        """Return some of its calls as a block."""
        columns = {name: column[start - self.start : stop - self.start] for name, column in self.columns.items()}
        block = Block(self.name, range(start, stop), self.function, self.kwargs, columns, self.priority, self.context)
        block.bounds = self.bounds
        return block


class Part:
    """Outcomes of a block, from element ``start`` on; ``plain``: all are `Success`, and no value is a handle."""

    __slots__ = ("outcomes", "plain", "start")

    def __init__(self, start: int, outcomes: list[Any], *, plain: bool = False) -> None:
        self.start = start
        self.outcomes = outcomes
        self.plain = plain


class Split:
    """The end of a block goes elsewhere, as a block of its own: ``rest``."""

    __slots__ = ("rest",)

    def __init__(self, rest: Block) -> None:
        self.rest = rest


class Stopped:
    """A link was given up; ``ended`` says whether its work has really ended, ``worker`` who had begun it."""

    __slots__ = ("at", "ended", "worker")

    def __init__(self, at: float, *, ended: bool, worker: str | None = None) -> None:
        self.at = at
        self.ended = ended
        self.worker = worker


class Began:
    """A link began; its ``started`` says when."""


BEGAN = Began()


class Logged:
    """A link has logged something; ``fields`` are those of the record."""

    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields


class Progressed:
    """A link has got further: how far (0 to 1), what it is at, and when.

    A link in this program delivers the same one again and again, and not while it is under way: what nobody has seen is
    replaced by what is newer. ``reached`` is what the run has seen, from 0 to 100.
    """

    __slots__ = ("_newest", "_under_way", "reached")

    def __init__(self, *news: tuple[float, str, float]) -> None:
        self._newest = deque(news, maxlen=1)
        self._under_way = False
        self.reached = 0.0

    def renew(self, news: tuple[float, str, float]) -> bool:
        """Say something newer, from any thread; True if this is to be delivered."""
        self._newest.append(news)
        if self._under_way:
            return False
        self._under_way = True
        return True

    def read(self) -> tuple[float, str, float] | None:
        """Return the newest, in the run's own thread; None if it has been read."""
        self._under_way = False  # first: what comes from now on has to be delivered
        return self._newest.pop() if self._newest else None


class Yielded:
    """A link has yielded an element, or a handle of it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Sealed:
    """An outcome that takes code of the user's to make: it is opened in the run's own thread."""

    __slots__ = ("open",)

    def __init__(self, make: Callable[[], Success | Failure]) -> None:
        self.open = make


class Errand:
    """Something to be done in the run's own thread, for it takes code of the user's: call ``run``."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run


Delivered = Union["Success", "Failure", Stopped, Began, Logged, Progressed, Yielded, Sealed, Errand, Part, Split]

Deliver = Callable[[Call, Delivered], object]


def current_of(call: Call, deliver: Deliver) -> Current:
    """Return what a running call in this program knows of itself."""
    index = call.key[1] if type(call.key) is tuple else None
    known = call.label, index, call.attempt, call.started, call.bounds
    return Current.of(*known, lambda: call.stopped, partial(_report, call, deliver))


def _report(call: Call, deliver: Deliver, fraction: float, message: str) -> None:
    report = call.report
    if report is None:
        report = call.report = Progressed()
    if not call.stopped and report.renew((fraction, message, perf_counter())):
        deliver(call, report)


class Port(Protocol):
    """A run, as an executor sees it."""

    def deliver(self, call: Call, outcome: Delivered) -> None:
        """Take an outcome; from any thread."""


class Session(Protocol):
    """One run's use of an executor."""

    window: int
    """How many calls the run should have submitted at most; more wait with the run, which knows their priorities."""

    slots: int
    """How many calls may run at once."""

    queues: bool
    """Whether a call may wait before it begins: then a timeout is charged from when it `began`."""

    def submit(self, chains: Sequence[Call]) -> None:
        """Take chains; never blocks."""

    def began(self, call: Call) -> float:
        """Return when a call began (`time.perf_counter()`); 0.0 while it waits."""
        ...

    def grant(self, call: Call, count: int) -> None:
        """Let a link yield so many more elements."""

    def stop(self, call: Call) -> None:
        """Give up a link: a queued one will not begin, a running one is ended where that is possible."""

    def close(self) -> None:
        """End the session; every link submitted has had its outcome."""


@runtime_checkable
class BlockSession(Session, Protocol):
    """One run's use of an executor that takes blocks, too."""

    slots: int
    """How many calls may run at once."""

    def grain(self, function: Callable[..., Any]) -> int:
        """Return how many calls of a function are to be one `Block`; 0 as long as that is not known."""
        ...

    def expire(self, block: Block, began: float) -> None:
        """Give up the call of a block that began then, if it still runs; a `Part` says that it is `Stopped`."""
        ...


class Executor(Protocol):
    """Something that runs calls."""

    def open(self, port: Port, slots: int | None = None) -> Session:
        """Begin a run, which may use at most ``slots`` at once."""
        ...


class PriorityQueue:
    """Calls by priority; first in, first out among equals. Not safe for threads.

    >>> queue = PriorityQueue()
    >>> queue.push([Call("a", "a", print), Call("b", "b", print, priority=-2)])
    >>> queue.pop().key, len(queue)
    ('b', 1)
    """

    __slots__ = ("_buckets", "_heap", "_size")

    def __init__(self) -> None:
        self._buckets: dict[Priority, deque[Call]] = {}
        self._heap: list[Priority] = []
        self._size = 0

    def push(self, calls: Sequence[Call]) -> None:
        """Add calls."""
        buckets = self._buckets
        for call in calls:
            bucket = buckets.get(call.priority)
            if bucket is None:
                bucket = buckets[call.priority] = deque()
                heappush(self._heap, call.priority)
            bucket.append(call)
        self._size += len(calls)

    def push_back(self, call: Call) -> None:
        """Add a call that has been here before, in front of its equals."""
        self.push([call])
        self._buckets[call.priority].rotate(1)

    def pop(self) -> Call:
        """Remove and return the first; IndexError if there is none."""
        bucket = self._buckets[self._heap[0]]
        call = bucket.popleft()
        if not bucket:
            del self._buckets[heappop(self._heap)]
        self._size -= 1
        return call

    def remove(self, call: Call) -> bool:
        """Take a call out; False if it is not there."""
        bucket = self._buckets.get(call.priority)
        if bucket is None or call not in bucket:
            return False
        bucket.remove(call)
        if not bucket:
            del self._buckets[call.priority]
            self._heap.remove(call.priority)
            heapify(self._heap)
        self._size -= 1
        return True

    def peek(self) -> Call:
        """Return the first; IndexError if there is none."""
        return self._buckets[self._heap[0]][0]

    def __len__(self) -> int:
        return self._size
