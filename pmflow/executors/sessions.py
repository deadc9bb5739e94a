"""One run's use of the workers: what is pickled for them, in the run's own thread.

Code of the user's (what `pickle` calls) runs where the run does: a slow one holds up its run, and nobody else. What is
large is pickled once for all calls that are submitted together (bytes and texts, which nobody can change, for longer),
so that one array for a hundred calls is in memory once; and no more is encoded ahead than `AHEAD` bytes.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pmflow.errors import PerformanceWarning, ShutdownError, TransferError
from pmflow.executors import parcels, pickling
from pmflow.executors.base import Block, Call, Port, PriorityQueue, Stopped
from pmflow.executors.channel import WITHIN, Held, Item, Worker
from pmflow.executors.parcels import LARGE, SIMPLE, Parcel, attached, is_plain
from pmflow.outcomes import Failure

if TYPE_CHECKING:
    from pmflow.executors.surroundings import Surroundings
    from pmflow.executors.workers import WorkerPool

AHEAD = 32 << 20
"""Bytes of arguments that are encoded before a worker has taken them."""

KEPT = 16 << 20
"""Bytes of large arguments that are kept, to be sent again; the last one is, whatever its size."""

HEAVY = 1 << 20
"""Bytes of a function from which on its user is told, and it is sent anew in each run: to compare it takes long."""

IN_FLIGHT = 8 << 20
"""Bytes that calls take or return, for as many of which calls are begun ahead."""

MOST = 2_000
"""Calls that are begun ahead at most."""

TOGETHER = 0.001
"""Seconds of work that make a block."""

LIGHT = 1_000
"""Bytes that calls take or return, up to which they are put into blocks."""

HEAVY_BLOCK = 1 << 20
"""Bytes of large values from which on the elements of a block go one by one: only so many are encoded ahead."""

_tokens = itertools.count()


class HeavyError(Exception):
    """Elements are too large for one block, as far as it has been encoded."""


class Pace:
    """How long a function takes, in seconds; None as long as nobody knows. Quick to believe that it is fast."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def note(self, seconds: float) -> None:
        """Take a measurement."""
        known = self.seconds
        if known is None:
            self.seconds = seconds
        else:
            self.seconds = known + (seconds - known) * (0.5 if seconds < known else 0.25)


class Function:
    """A function as it is sent: once to each worker, under a token that stands for its pickle."""

    __slots__ = ("by_value", "function", "pace", "parcel", "token")

    def __init__(
        self, function: Callable[..., Any], parcel: Parcel, pace: Pace, token: bytes, *, by_value: bool
    ) -> None:
        self.function = function
        self.parcel = parcel
        self.pace = pace
        self.token = token
        self.by_value = by_value


class WorkerSession:
    """One run's use of the pool.

    ``queue`` holds the chains that a worker can take, ``raw`` those that are not encoded yet, ``workers`` those that
    have some of it.
    """

    queues = True

    def __init__(self, pool: WorkerPool, port: Port, slots: int, surroundings: Surroundings) -> None:
        self.window = MOST
        self.queue = PriorityQueue()
        self.raw: deque[Call] = deque()
        self.workers: set[Worker] = set()
        self.streams = False  # whether any call may yield
        self.slots = slots
        self.port = port
        self.surroundings = surroundings
        self.carried: Parcel | None = None
        self._context: Any = None
        self._pool = pool
        self._waiting = 0
        self._weight = 0.0
        self._functions: dict[int, Function] = {}
        self._large: dict[int, tuple[Any, Parcel]] = {}
        self._burst: dict[int, tuple[Any, Parcel]] = {}

    def is_behind(self) -> bool:
        """Whether there is something to encode, and room for it."""
        return bool(self.raw) and self._waiting <= AHEAD

    def catch_up(self) -> None:
        """Encode what there is room for by now; in the run's own thread."""
        self.submit(())

    def submit(self, chains: Sequence[Call]) -> None:
        """Take chains.

        Raises:
            ShutdownError: the program is ending.
        """
        self.raw.extend(chains)
        self._burst.clear()  # whoever has made them may have changed them since
        while self.is_behind():  # workers may take at once what has been encoded, and leave room for more
            encoded = self._encoded()
            try:
                self._pool.enqueue(self, encoded)
            except ShutdownError:
                for call in encoded:
                    self.port.deliver(call, Stopped(perf_counter(), ended=True))
                raise
        self._burst.clear()

    def grain(self, function: Callable[..., Any]) -> int:
        """Return how many calls of a function make a block; 0 as long as nobody knows how long it takes."""
        known = self._functions.get(id(function))
        pace = None if known is None else known.pace.seconds
        if pace is None:
            return 0
        return max(1, int(TOGETHER / (pace + WITHIN))) if self._weight < LIGHT else 1

    def _encoded(self) -> list[Call]:
        """Take chains that are not encoded, as many as there is room for, and encode them; refuse those that cannot."""
        encoded: list[Call] = []
        while self.is_behind():
            call = self.raw.popleft()
            error: Exception | None
            try:
                error = self.encode(call)
            except Exception as raised:  # a warning that is an error, a variable that cannot be carried
                error = raised
            if error is None:
                encoded.append(call)
            else:
                self.refuse(call, error)
        return encoded

    def refuse(self, call: Call, error: Exception) -> None:
        """End a call that cannot be sent; of a block the run tries one by one."""
        call.stopped = True
        now = perf_counter()
        self.port.deliver(call, Stopped(now, ended=True) if type(call) is Block else Failure(error, now, now))

    def busy(self) -> int:
        """Return how many workers work for this run; those that wait with what they yield do not."""
        return sum(not worker.waits for worker in self.workers) if self.streams else len(self.workers)

    def grant(self, call: Call, count: int) -> None:
        """Let a call yield so many more elements."""
        self._pool.grant(call, count)

    def began(self, call: Call) -> float:
        """Return when a call began, by the status page of its worker."""
        item: Item | None = call.handle
        worker = None if item is None else item.worker
        if item is not None and worker is not None and item.covers(worker.page.running):
            return worker.page.started
        return call.started

    def expire(self, block: Block, began: float) -> None:
        """Have the worker killed in which a call of a block still runs that began then."""
        self._pool.expire(block, began)

    def stop(self, call: Call) -> None:
        """Take a call out of the queue, call it back, or have its worker killed."""
        with suppress(ValueError):
            self.raw.remove(call)
            call.stopped = True
            self.port.deliver(call, Stopped(perf_counter(), ended=True))
            return
        self._pool.stop(self, call)

    def close(self) -> None:
        """Forget the run's functions and arguments."""
        self._functions.clear()
        self._large.clear()
        self._burst.clear()
        self._pool.leave(self)

    def weigh(self, size: int) -> None:
        """Note how many bytes a call takes or returns: where it is much, fewer are begun ahead."""
        self._weight += (size - self._weight) / 8
        self.window = max(2 * self.slots, min(MOST, int(IN_FLIGHT / (self._weight + 1))))

    def taken(self, item: Item) -> None:
        """Note that a link waits no more."""
        self._waiting -= item.size
        item.size = 0

    def fed(self, item: Item, value: Any) -> None:
        """Give a link, which is to be sent again, the value of the link before it."""
        call = item.call
        feed = call.feed
        if feed is None:
            return
        call.args, call.kwargs = call.arguments(value)
        call.feed = None
        if type(value) is Held:
            item.parcels, value = True, value.parcel
        if isinstance(feed, str):
            item.kwargs = {**item.kwargs, feed: value}
        else:
            item.args = [*item.args[:feed], value, *item.args[feed:]]

    def again_by_value(self, item: Item, reason: str) -> None:
        """Send a chain once more, its first function by value; in the run's own thread."""
        error = None if item.call.stopped else self._by_value(item, reason)
        if item.call.stopped:
            self.port.deliver(item.call, Stopped(perf_counter(), ended=True))
        elif error is None:
            self._pool.enqueue(self, [item.call])
        else:
            self.refuse(item.call, error)

    # Encoding

    def encode(self, call: Call) -> TransferError | None:
        """Encode a chain; return the error of its first link, while that of a later one waits behind those before."""
        link: Call | None = call
        before: Item | None = None
        while link is not None:
            try:
                link.handle = item = self._item(link)
            except TransferError as error:
                if before is None:
                    return error
                before.unsent = link, error
                return None
            self._waiting += item.size
            before, link = item, link.then
        return None

    def _item(self, call: Call) -> Item:
        function = self._functions.get(id(call.function)) or self._pickled(call, by_value=False)
        if call.context is not None and call.context is not self._context:
            self.carried = self._pool.carried(call.context)
            self._context = call.context
        item = Item(call, function)
        self.streams |= call.flow is not None
        if call.args:
            item.args = [
                value if is_plain(value) else self._parcel(item, place, value) for place, value in enumerate(call.args)
            ]
        if call.kwargs:
            item.kwargs = {
                name: value if is_plain(value) else self._parcel(item, name, value)
                for name, value in call.kwargs.items()
            }
        if type(call) is Block:
            item.at, item.stop = call.start, call.stop
            item.columns = {name: self._column(item, name, column) for name, column in call.columns.items()}
        return item

    def _column(self, item: Item, parameter: str, column: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a parameter as they are sent.

        Raises:
            HeavyError: they are too large to be sent together.
        """
        if SIMPLE.issuperset(map(type, column)):
            return column
        found: list[Any] = []
        size = 0
        for value in column:
            each = value if is_plain(value) else self._parcel(item, parameter, value)
            found.append(each)
            size += each.size if type(each) is Parcel and each.size >= LARGE else 0
            if size > HEAVY_BLOCK and len(column) > 1:
                raise HeavyError
        return found

    def _parcel(self, item: Item, parameter: int | str, value: Any) -> Parcel:
        """Return an argument as a parcel."""
        item.parcels = True
        if type(value) is Held:
            item.near |= value.parcel.size >= LARGE
            return value.parcel
        known = self._large.get(id(value)) or self._burst.get(id(value))
        if known is not None:
            return known[1]
        call = item.call
        try:
            parcel = parcels.pack_data(value, pickling.pickler, _HANDLES)
        except BaseException as error:
            name, kind = _parameter(call, parameter), _type_name(value)
            raise TransferError(
                f"'{call.label}' cannot receive {name!r} in a worker process: {kind} cannot be pickled "
                f"({type(error).__name__}: {error}); pass what it takes to make one, or use type='thread'",
                process_id=call.label,
                parameter=name,
                type_name=kind,
            ) from error
        if parcel.size >= LARGE:
            item.size += parcel.size
            self.weigh(parcel.size)
            if type(value) in (bytes, str):
                self._keep(value, parcel)
            else:  # it may be changed in place
                self._burst[id(value)] = value, parcel
        return parcel

    def _keep(self, value: Any, parcel: Parcel) -> None:
        """Remember the parcel of a large value for a while."""
        large = self._large
        large[id(value)] = value, parcel
        total = sum(each.size for _, each in large.values())
        while total > KEPT and len(large) > 1:
            total -= large.pop(next(iter(large)))[1].size

    def _by_value(self, item: Item, reason: str) -> TransferError | None:
        """Have the function of a call sent by value from now on; return the error if that is of no use either."""
        call = item.call
        if item.function.by_value:
            return TransferError(f"'{call.label}' cannot run in a worker: {reason}", process_id=call.label)
        known = self._functions[id(call.function)]
        try:
            item.function = known if known.by_value else self._pickled(call, by_value=True)
        except TransferError as error:
            return error
        return None

    def _pickled(self, call: Call, *, by_value: bool) -> Function:
        """Pickle a function, once per run: a closure may change between runs."""
        function = call.function
        module = _module_of(function) if by_value else None
        try:
            parcel = parcels.pack(function, pickling.pickler() if module is None else pickling.pickler_by_value(module))
        except BaseException as error:
            raise TransferError(
                f"'{call.label}' cannot go to a worker process: {type(error).__name__}: {error}; "
                f"keep what cannot be pickled out of what its function remembers, or use type='thread'",
                process_id=call.label,
                type_name=type(function).__name__,
            ) from error
        if parcel.size < HEAVY:
            token = _digest(parcel)
        else:
            token = next(_tokens).to_bytes(16, "little")
            _warn_of(call, parcel)
        known = Function(function, parcel, self._pool.pace(token), token, by_value=by_value)
        self._functions[id(function)] = known
        return known


def _reduce_held(inner: list[Parcel], held: Held) -> Any:
    """Attach the parcel of a result to that of the argument which it is in, unopened."""
    inner.append(held.parcel)
    return attached, (len(inner) - 1,)


_HANDLES: dict[type, Any] = {Held: _reduce_held}


def _digest(parcel: Parcel) -> bytes:
    """Return what stands for a pickle: the same for the same one."""
    digest = blake2b(parcel.stream or b"", digest_size=16)
    if parcel.file is not None:
        content = bytearray(os.fstat(parcel.file.fd).st_size)
        parcels.read_into(parcel.file.fd, memoryview(content), 0)
        digest.update(content)
    return digest.digest()


def _warn_of(call: Call, parcel: Parcel) -> None:
    """Say which variable makes a function so large."""
    function = inspect.unwrap(getattr(call.function, "func", call.function))
    sizes: list[tuple[int, str]] = []
    with suppress(Exception):
        found = inspect.getclosurevars(function)
        for name, value in {**found.globals, **found.nonlocals}.items():
            with suppress(Exception):
                sizes.append((parcels.pack_data(value, pickling.pickler).size, name))
    size, name = max(sizes, default=(0, ""))
    what = f"its variable {name!r} ({size / 1e6:,.1f} MB)" if size else "what it remembers"
    warnings.warn(
        f"'{call.label}' takes {what} along to every worker: its function is {parcel.size / 1e6:,.1f} MB; "
        f"pass it as an argument, or put both into a module",
        PerformanceWarning,
        stacklevel=2,
    )


def _parameter(call: Call, parameter: int | str) -> str:
    if isinstance(parameter, str):
        return parameter
    try:
        return list(inspect.signature(call.function).parameters)[parameter]
    except (TypeError, ValueError, IndexError):
        return f"argument {parameter}"


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _module_of(function: Any) -> Any:
    """Return the module of a function, of what a partial calls, or of the class of an object."""
    function = getattr(function, "func", function)
    function = getattr(function, "__func__", function)
    name = getattr(function, "__module__", None) or type(function).__module__
    return sys.modules.get(name)
