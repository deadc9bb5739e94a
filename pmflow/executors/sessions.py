"""One run's use of the workers: what is pickled for them, in the run's own thread.

Code of the user's (what `pickle` calls) runs where the run does: a slow one holds up its run, and nobody else. What is
large is pickled once and kept for a while, so that one array for a hundred calls is in memory once; and no more is
encoded ahead than `AHEAD` bytes.
"""

from __future__ import annotations

import inspect
import itertools
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
from pmflow.executors.base import Call, Delivered, Port, PriorityQueue, Stopped
from pmflow.executors.channel import Held, Item, Worker, is_large
from pmflow.executors.parcels import Parcel, attached, is_plain
from pmflow.outcomes import Failure

if TYPE_CHECKING:
    from pmflow.executors.surroundings import Surroundings
    from pmflow.executors.workers import WorkerPool

AHEAD = 32 << 20
"""Bytes of arguments that are encoded before a worker has taken them."""

KEPT = 16 << 20
"""Bytes of large arguments that are kept, to be sent again; the last one is, whatever its size."""

IN_FLIGHT = 8 << 20
"""Bytes that calls take or return, for as many of which calls are begun ahead."""

MOST = 2_000
"""Calls that are begun ahead at most."""

_tokens = itertools.count()


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

    @property
    def behind(self) -> bool:
        """Whether there is something to encode, and room for it."""
        return bool(self.raw) and self._waiting <= AHEAD

    def submit(self, chains: Sequence[Call]) -> None:
        """Take chains.

        Raises:
            ShutdownError: the program is ending.
        """
        self.raw.extend(chains)
        encoded: list[Call] = []
        refused: list[tuple[Call, Delivered]] = []
        raw = self.raw
        while raw and self._waiting <= AHEAD:
            try:
                call = raw.popleft()
            except IndexError:  # it has just been stopped
                break
            error = self.encode(call)
            if error is None:
                encoded.append(call)
            else:
                now = perf_counter()
                refused.append((call, Failure(error, now, now)))
        for call, outcome in refused:
            self.port.deliver(call, outcome)
        try:
            self._pool.enqueue(self, encoded)
        except ShutdownError:
            for call in encoded:
                self.port.deliver(call, Stopped(perf_counter(), ended=True))
            raise

    def began(self, call: Call) -> float:
        """Return when a call began, by the status page of its worker."""
        item: Item | None = call.handle
        worker = None if item is None else item.worker
        if item is not None and worker is not None and worker.page.running == item.number:
            return worker.page.started
        return call.started

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
        self._pool.leave(self)

    def remember(self, value: Any, handle: Any) -> None:
        """Note that a value was opened in the program: should it be sent to a worker, its parcel is there."""
        if is_large(handle.parcel):
            self._keep(value, handle.parcel)

    def weigh(self, size: int) -> None:
        """Note how many bytes a call takes or returns: where it is much, fewer are begun ahead."""
        self._weight += (size - self._weight) / 8
        self.window = max(2 * self.slots, min(MOST, int(IN_FLIGHT / (self._weight + 1))))

    def taken(self, item: Item) -> None:
        """Note that a worker has been sent a link."""
        self._waiting -= item.size
        item.size = 0

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
            self._context = call.context
            self.carried = self._pool.carried(call.context)
        item = Item(call, function)
        if call.args:
            item.args = [
                value if is_plain(value) else self._parcel(item, place, value) for place, value in enumerate(call.args)
            ]
        if call.kwargs:
            item.kwargs = {
                name: value if is_plain(value) else self._parcel(item, name, value)
                for name, value in call.kwargs.items()
            }
        return item

    def _parcel(self, item: Item, parameter: int | str, value: Any) -> Parcel:
        """Return an argument as a parcel."""
        item.parcels = True
        if type(value) is Held:
            item.near |= is_large(value.parcel)
            return value.parcel
        known = self._large.get(id(value))
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
        if is_large(parcel):
            item.size += parcel.size
            self.weigh(parcel.size)
            self._keep(value, parcel)
        return parcel

    def _keep(self, value: Any, parcel: Parcel) -> None:
        """Remember the parcel of a large value for a while."""
        large = self._large
        large[id(value)] = value, parcel
        total = sum(each.size for _, each in large.values())
        while total > KEPT and len(large) > 1:
            total -= large.pop(next(iter(large)))[1].size

    def by_value(self, item: Item, reason: str) -> TransferError | None:
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
        if parcel.file is None:
            token = blake2b(parcel.stream or b"", digest_size=16).digest()
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
