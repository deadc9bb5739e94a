"""One worker, as its pool sees it: its channel, its status page, what it has been sent, and what its replies mean.

Nothing here runs code of the user's on the thread that reads the replies: values stay parcels, exceptions are opened by
the run that they belong to (`Sealed`).
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pmflow.context import UNBOUNDED
from pmflow.errors import ProcessError, TransferError, WorkerCrashedError, text_of
from pmflow.executors import pickling, wire
from pmflow.executors.base import Block, Call, Sealed
from pmflow.executors.parcels import File, Parcel, above_standard, anonymous_file
from pmflow.executors.platform import describe_exit
from pmflow.outcomes import RELEASED, Failure, Handle, Success

if TYPE_CHECKING:
    from pmflow.executors.sessions import Function, WorkerSession

OVERHEAD = 5e-6
"""Seconds that a call costs in a worker beside its function."""


WITHIN = 3e-6
"""Seconds that a call within a block costs there beside its function."""

SEEN = 0.0005
"""Seconds after which what a processor has written is seen by all others, by three orders of magnitude."""


LATE = 0.001
"""Seconds by which a call may be longer than expected before what waits behind it is called back."""


class RemoteTracebackError(Exception):
    """The traceback of an exception as it was in the worker; the cause of the exception that arrives here."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class Held(Handle):
    """What a worker returned: a parcel, opened when somebody in this program asks for the value."""

    __slots__ = ("_label", "_value", "maker", "parcel")

    def __init__(self, parcel: Parcel, label: str, maker: str) -> None:
        if parcel.is_scarce():
            parcel = parcel.in_memory()
        self.parcel = parcel
        self.maker = maker
        self._label = label
        self._value: Any = RELEASED

    def open(self) -> Any:
        """Return the value, to everybody the same.

        Raises:
            TransferError: it cannot be unpickled here.
        """
        if self._value is RELEASED:
            try:
                self._value = self.parcel.open(pickling.Returning)
            except BaseException as error:
                raise TransferError(
                    f"what '{self._label}' returned cannot be unpickled here: {type(error).__name__}: {text_of(error)}",
                    process_id=self._label,
                ) from error
        return self._value


NO_NAMES: Mapping[str, Any] = {}


class Item:
    """A link of a chain, as its pool knows it: ``call.handle``.

    Attributes:
        args: plain values, and parcels if it has ``parcels``; so ``kwargs``.
        near: it is to run where its large arguments were made.
        size: bytes that were encoded for it, and no worker has taken.
        number: that of the link in its ``worker``, while it is there; of a block that of the first without a reply.
        last: the number of the last link of its chain, or block, there.
        at: of a block, the element that ``number`` stands for; ``stop``: the one before which it ends.
        late: of a block, the number of the link that has been given up alone.
        columns: of a block, parameter to the values of its elements, as ``args``.
        cost: the seconds it is expected to take, with the rest of its chain; None if nobody knows.
        left: how many elements it may yield in its worker; None if it yields none. At 0 it waits.
        owed: how many it may yield once there is a place for it to go on.
        unsent: the link behind it, which could not be encoded, and why.
        yields: its run has had something of what it yields: it cannot run again.
    """

    __slots__ = (
        "args",
        "at",
        "call",
        "columns",
        "cost",
        "function",
        "kwargs",
        "last",
        "late",
        "left",
        "near",
        "number",
        "owed",
        "parcels",
        "size",
        "stop",
        "unsent",
        "worker",
        "yields",
    )

    def __init__(self, call: Call, function: Function) -> None:
        self.call = call
        self.function = function
        self.args: Sequence[Any] = ()
        self.kwargs: Mapping[str, Any] = NO_NAMES
        self.size = 0
        self.parcels = self.near = self.yields = False
        self.number = self.last = self.at = self.stop = self.late = self.owed = 0
        self.columns: Mapping[str, Sequence[Any]] = NO_NAMES
        self.left: int | None = None
        self.cost: float | None = None
        self.worker: Worker | None = None
        self.unsent: tuple[Call, TransferError] | None = None

    def estimate(self) -> float | None:
        """Return what the chain from here on is expected to take, in seconds; None if nobody knows."""
        call: Call | None = self.call
        if call.then is None:  # type: ignore[union-attr]  # nearly all are
            pace = self.function.pace.seconds
            if type(call) is Block:
                return None if pace is None else (self.stop - self.at) * (pace + WITHIN)
            return None if pace is None or call.flow is not None else pace + OVERHEAD  # type: ignore[union-attr]
        total = 0.0
        while call is not None and call.handle is not None:
            pace = call.handle.function.pace.seconds
            if pace is None or call.flow is not None:  # it may wait for those that wait behind it
                return None
            total += pace + OVERHEAD
            call = call.then
        return total

    @property
    def waits(self) -> bool:
        """Whether some of it waits behind what its worker runs, and may begin elsewhere."""
        return type(self.call) is Block and self.number < self.last

    def covers(self, number: int) -> bool:
        """Whether a link is this one, or one of its block."""
        return self.number == number or (type(self.call) is Block and self.number <= number <= self.last)

    def packed_block(self, number: int, index: int, files: list[File]) -> tuple[Any, ...]:
        """Return a block as a frame holds it: what has had no reply."""
        block: Block = self.call  # type: ignore[assignment]
        some = slice(self.at - block.start, self.stop - block.start)
        columns = {name: column[some] for name, column in self.columns.items()}
        kwargs = self.kwargs
        if self.parcels:
            columns = {name: [_packed(each, files) for each in column] for name, column in columns.items()}
            kwargs = {name: _packed(each, files) for name, each in kwargs.items()}
        bounds = () if block.bounds is UNBOUNDED else block.bounds
        return number, index, kwargs, columns, (block.name, self.at, *bounds)

    def packed(self, number: int, index: int, files: list[File]) -> tuple[Any, ...]:
        """Return it as a frame holds it."""
        call = self.call
        args, kwargs = self.args, self.kwargs
        if self.parcels:
            args = [_packed(each, files) for each in args]
            kwargs = {name: _packed(each, files) for name, each in kwargs.items()}
        flags = (wire.OBSERVED if call.observed else 0) | (wire.HAND_ON if call.hand_on else 0)
        if call.flow is not None:
            self.left = (self.left or 0) + call.flow.take_all()
            flags += wire.STREAM + wire.GRANTED * self.left
        about: Any = call.label
        if call.bounds is not UNBOUNDED or call.attempt > 1:
            about = about, call.key[1] if type(call.key) is tuple else None, call.attempt, *call.bounds
        elif type(call.key) is tuple:
            about = about, call.key[1]
        return number, index, args, kwargs, call.feed, flags, about


def _packed(value: Any, files: list[File]) -> Any:
    return value.packed(files) if isinstance(value, Parcel) else value


class Worker:
    """A worker, as its pool sees it.

    Attributes:
        sent: the chains it has not replied to the end of, each by the link whose turn it is; the first is what it runs.
        value: what the link before that one returned.
        load: the seconds that all of it is expected to take.
        number: of the last link that it was sent.
        session: the run that it works for; ``last``: that it worked for last.
        recall: the first number that is called back, and when it will be known which of them had not begun.
        stopping: some of what it was sent has been given up, and has not ended yet.
        ending: it is to be killed; ``killed_for`` which call; ``code`` how it has ended.
        stale: it is not to be used again.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - as Python has it
        self.connection = socket.socket(fileno=above_standard(ours.detach()))
        self.theirs: int | None = above_standard(theirs.detach())
        self.file: File | None = anonymous_file()
        os.ftruncate(self.file.fd, wire.Page.SIZE)
        self.page = wire.Page(self.file.fd)
        self.frames = wire.Frames()
        self.pid = ""
        self.ready = self.stopping = self.ending = self.closed = self.stale = self.watched = False
        self.code: int | None = None
        self.killed_for: Call | None = None
        self.sent: deque[Item] = deque()
        self.load = 0.0
        self.number = 0
        self.value: Any = None
        self.recall: tuple[int, float] | None = None
        self.skipped_to = 0
        self.session: WorkerSession | None = None
        self.last: WorkerSession | None = None
        self.functions: dict[bytes, int] = {}
        self.surroundings: Any = None
        self.carried: Any = None
        self.waiting: deque[tuple[memoryview, list[File]]] = deque()

    def is_free(self) -> bool:
        """Whether it can take chains of any run."""
        return self.ready and self.session is None and not self.ending

    @property
    def waits(self) -> bool:
        """Whether what it runs waits until more of what it yields is wanted."""
        return bool(self.sent) and self.sent[0].left == 0

    @property
    def ahead(self) -> float:
        """Seconds of work that wait behind what it runs; infinite where nobody knows."""
        if not self.sent:
            return 0.0
        if self.sent[0].cost is None:
            return float("inf")
        return self.load - self.sent[0].cost

    def has_waiting(self) -> bool:
        """Whether something waits behind what it runs."""
        if len(self.sent) != 1:
            return bool(self.sent)
        head = self.sent[0]
        return head.waits and self.page.running < head.last  # what it has done of a block, and not sent, does not wait

    def has_room(self, ahead: float) -> bool:
        """Whether it can take more chains of its run, so that it does not run out of them."""
        if self.ending or self.stale or self.waiting or self.recall is not None or self.ahead >= ahead:
            return False
        return not self.sent or self.expected_to_end() > perf_counter() - LATE

    def expected_to_end(self) -> float:
        """Return when what it runs is expected to end (`time.perf_counter()`)."""
        head, running = self.sent[0], self.page.running
        if head.waits and running > head.number:
            pace = head.function.pace.seconds or 0.0
            return self.page.since + (head.last - running + 1) * (pace + WITHIN)
        started = self.page.since if running == head.number else perf_counter()
        return started + (head.cost or 0.0)

    def note(self, item: Item, cost: float | None) -> None:
        """Note that a chain has been sent."""
        item.cost = cost
        self.load += cost or 0.0
        self.sent.append(item)

    def done(self) -> Item:
        """Take the link it was running off its list."""
        item = self.sent.popleft()
        self.load = self.load - (item.cost or 0.0) if self.sent else 0.0
        item.worker = None
        return item

    def go_on(self, item: Item, follower: Item) -> None:
        """Note that a chain goes on with its next link."""
        pace = item.function.pace.seconds
        cost = item.cost
        follower.cost = None if cost is None or pace is None else max(OVERHEAD, cost - pace - OVERHEAD)
        self.load += follower.cost or 0.0
        self.sent.appendleft(follower)

    def call_back(self, first: int) -> bool:
        """Have links from a number on not begin, with all that follow; which had begun is known a moment later.

        The page holds one range of such links. As long as the worker has not passed the one of before, it has to be
        within the new one; and the chain that runs must not. Where both cannot be, nothing is called back: False.
        """
        head = self.sent[0]
        if self.page.running + 1 < self.skipped_to:
            if head.number >= self.skipped_to:
                return False
            first = min(first, self.page.running + 1 if head.waits else head.last + 1)
        self.skipped_to = self.number + 1
        self.page.skip(first, self.skipped_to)
        self.recall = first, perf_counter() + SEEN
        return True

    # The channel

    def send(self, message: Any, files: list[File]) -> bool:
        """Send a message, now or when the worker takes it; False if some of it waits."""
        self.waiting.append((memoryview(wire.framed(message, len(files))), files))
        return self.flush()

    def flush(self) -> bool:
        """Send what waits, as far as it goes; False if some still does."""
        waiting = self.waiting
        try:
            while waiting:
                data, files = waiting[0]
                some = files[: wire.AT_ONCE]
                if some:
                    # Descriptors go with a byte of their frame, before the last of which they all have to be there.
                    part = data[: 1 if len(files) > wire.AT_ONCE else None]
                    sent = self.connection.sendmsg([part], wire.rights([file.fd for file in some]))
                else:
                    sent = self.connection.send(data)
                waiting[0] = data[sent:], files[len(some) :]
                if sent == len(data):
                    waiting.popleft()
        except BlockingIOError:
            return False
        except OSError:
            waiting.clear()  # it is dead, which is heard elsewhere
        return True

    def receive(self) -> list[tuple[Any, Sequence[int]]]:
        """Return the messages that have come; sets ``closed`` at their end.

        What cannot be received (there was no room for a descriptor) or understood ends it with ``frames.error``.
        """
        found: list[tuple[Any, Sequence[int]]] = []
        while not self.closed:
            try:
                data, descriptors = wire.receive(self.connection)
            except BlockingIOError:
                break
            except ConnectionError:
                data, descriptors = b"", []
            except OSError as error:
                self.frames.error = error
                break
            if not data:
                self.closed = True
                break
            found += self.frames.feed(data, descriptors)
            if len(data) < wire.CHUNK or self.frames.error is not None:
                break
        return found

    def handed_over(self) -> None:
        """Close what the worker has by now."""
        if self.theirs is not None:
            os.close(self.theirs)
        self.theirs = self.file = None

    def let_go(self) -> None:
        """Close this program's copies of what connects it with the worker."""
        self.handed_over()
        self.connection.close()


# What replies mean


def outcome_of(call: Call, message: Any, files: list[File], worker: Worker) -> Success | Sealed:
    """Return a reply as an outcome; what takes code of the user's to make is sealed."""
    kind, value = message[1], message[2]
    note = (1, worker.pid, True, message[5], message[6])
    if kind == wire.VALUE:
        if type(value) is list:
            value = Held(Parcel.unpacked(value, files), call.label, worker.pid)
        return Success(value, message[3], message[4], note)
    if kind == wire.HANDED_ON:
        return Success(RELEASED, message[3], message[4], note)
    return Sealed(partial(_failure, call, kind, value, message[3], message[4], note, message[7:]))


def _failure(  # noqa: PLR0913, PLR0917 - a reply, in its parts
    call: Call, kind: int, payload: Any, started: float, ended: float, note: Any, rest: list[Any]
) -> Failure:
    text = rest[0]
    if kind == wire.UNSENDABLE:
        type_name, _, reason = text.partition("\n")
        error: BaseException = TransferError(
            f"what '{call.label}' returned cannot leave its worker process: {type_name} cannot be pickled ({reason}); "
            f"return plain data, or use type='thread'",
            process_id=call.label,
            type_name=type_name,
        )
        return Failure(error, started, ended, note=note)
    error = _exception(call, payload, text, rest[1])
    if kind == wire.UNREADABLE:
        cause = error
        error = TransferError(
            f"the function or the arguments of '{call.label}' cannot be unpickled in a worker process: "
            f"{type(cause).__name__}: {text_of(cause)}",
            process_id=call.label,
        )
        error.__cause__ = cause
    return Failure(error, started, ended, traceback=text, note=note)


def _exception(call: Call, payload: Any, text: str, description: tuple[str, str, list[str]]) -> Any:
    """Return the exception itself, or one that tells of it where it did not survive the journey."""
    found: Any = None
    if payload is not None:
        with suppress(BaseException):  # its class may be the user's, and is another here
            found = pickling.put_together(Parcel.unpacked(payload, ()).open(pickling.Returning))
    if not isinstance(found, BaseException):
        name, message, notes = description
        found = ProcessError(f"{name}: {message}", process_id=call.label, type_name=name)
        found.__dict__["__notes__"] = list(notes)
    if found.__cause__ is None:
        with suppress(Exception):  # a class of the user's may refuse
            found.__cause__ = RemoteTracebackError(text)
    return found


def crashed(call: Call, code: int, elapsed: float, *, starved: bool) -> WorkerCrashedError:
    """Return the error of a call whose worker has died.

    Args:
        call: the call.
        code: how the worker ended.
        elapsed: seconds since the call began.
        starved: the system has ended programs for want of memory meanwhile.
    """
    exit_code, signal_name = describe_exit(code)
    hint = {
        "SIGKILL": "the system has ended programs for want of memory meanwhile, so this was probably one of them"
        if starved
        else "somebody killed it",
        "SIGSEGV": "C code touched memory that is not its own",
        "SIGABRT": "C code gave up",
    }.get(signal_name or "", "os._exit, or C code, ended it")
    return WorkerCrashedError(
        f"the worker that ran '{call.label}' died after {elapsed:.3g} s: {how(code)} ({hint}); only this call is lost; "
        f"crash_retries=1 would try it again",
        process_id=call.label,
        attempt=call.attempt,
        exit_code=exit_code,
        signal=signal_name,
        elapsed=elapsed,
    )


def how(code: int) -> str:
    """Return how a process ended, in words."""
    exit_code, signal_name = describe_exit(code)
    return signal_name or f"exit code {exit_code}"
