"""What the program, its workers and its warden say to one another: frames of plain values, and descriptors beside them.

The program imports this file as part of the package, the others load it by its path: standard library only.

A *frame* is a mark, a number of descriptors, a length, and that many bytes of `marshal`: the two sides are one
interpreter, and no code of the user's runs when a frame is read. Values of the user's are within it as they are, if
they are plain, or as a `Parcel` that is not opened; the descriptors of its files go with the frame.

Down go setups and chains, up comes one reply per link as soon as it exists: the kernel's buffer is the batch, and it
outlives the worker. Links are numbered from 1 in the order in which they are sent to a worker.

Each worker has a *status page*, shared with the program: the number of the link that it runs, written before the link
is opened, and when that was. So the program knows what a death has cost, and what has not begun.

A *block* is many links of one function, with numbers next to one another. To send each of their replies for itself
would cost more than they do, so a worker writes them into the page, where they outlive it too, and sends them together.
"""

from __future__ import annotations

import array
import marshal
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from time import perf_counter

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

MARK = b"pmfl"
HEADER = struct.Struct("<4sIQ")
CHUNK = 1 << 16
AT_ONCE = 200
"""Descriptors that go with one message of the kernel's, which takes 253."""

PLAIN_MARSHAL = 2
"""A version of `marshal` that does not look for things that occur twice."""

# What goes down
SETUP, CHAINS, GRANT = "setup", "chains", "grant"

# What comes up
(
    READY,
    BEGAN,
    LOGGED,
    PROGRESSED,
    YIELDED,
    SKIPPED,
    VALUES,
    VALUE,
    HANDED_ON,
    ERROR,
    UNSENDABLE,
    UNREADABLE,
    UNKNOWN,
) = range(13)
"""Those from `VALUE` on are the end of a link; after those up to `HANDED_ON` its chain goes on. `SKIPPED` of a link of
a block is that of all that follow in it; `VALUES` are of several of its links."""

LOADING = 60.0
"""Seconds in which a function is loaded, with what its module imports, before its call begins to be charged for it."""

# What may be asked of a link
OBSERVED, HAND_ON, STREAM = 1, 2, 4

GRANTED = 8
"""One element that it may yield to begin with: so many of these are added to what is asked of it."""

BLOCK = 5
"""Fields of a block in a frame: its first number, function, what its links share, columns, and what it says of itself;
a link has more."""


class TruncatedError(OSError):
    """Descriptors were lost on the way: the receiver had no room for them."""


def framed(message: Any, count: int = 0) -> bytes:
    """Return a message as it is sent, with the number of descriptors that go with it."""
    body = marshal.dumps(message, PLAIN_MARSHAL)
    return HEADER.pack(MARK, count, len(body)) + body


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, Any]]:
    """Return descriptors in the form that `socket.sendmsg` takes."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def receive(connection: socket.socket, size: int = CHUNK) -> tuple[bytes, list[int]]:
    """Return bytes, and the descriptors that came with them, closed on exec.

    `socket.recv_fds` ignores the flag that closes them on exec (Python 3.10 to 3.13).

    Raises:
        TruncatedError: there was no room for all descriptors.
    """
    data, ancillary, flags, _ = connection.recvmsg(size, ROOM, _CLOSED_ON_EXEC)
    if not ancillary and not flags & _TRUNCATED:
        return data, []
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if flags & _TRUNCATED:
        for descriptor in found:
            os.close(descriptor)
        raise TruncatedError("descriptors were lost on the way: too many are open here")
    if not _CLOSED_ON_EXEC:
        for descriptor in found:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - as Python has it
    return data, list(found)


ROOM = socket.CMSG_SPACE(AT_ONCE * array.array("i").itemsize)
_CLOSED_ON_EXEC, _TRUNCATED = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0)), int(socket.MSG_CTRUNC)


class Frames:
    """Cuts a stream of bytes into messages; descriptors go with the frame that they came with."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = HEADER.size
        self._descriptors: deque[int] = deque()
        self.error: Exception | None = None

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> list[tuple[Any, Sequence[int]]]:
        """Take bytes and descriptors; return the messages that are complete, each with its descriptors.

        What is no frame ends it: then ``error`` says so, and nothing more is understood.
        """
        found: list[tuple[Any, Sequence[int]]] = []
        self._descriptors.extend(descriptors)
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted or self.error is not None:
            return found
        stream = b"".join(self._parts) if len(self._parts) > 1 else data
        at, end = 0, len(stream)
        self._wanted = HEADER.size
        while end - at >= HEADER.size:
            mark, count, length = HEADER.unpack_from(stream, at)
            if mark != MARK:
                self.error = ValueError(f"a frame begins with {MARK!r}, and this is {stream[at : at + 16]!r}")
                break
            stop = at + HEADER.size + length
            if stop > end:
                self._wanted = stop - at
                break
            message = marshal.loads(stream[at + HEADER.size : stop])  # noqa: S302 - of this program, or its own workers
            found.append((message, [self._descriptors.popleft() for _ in range(count)] if count else ()))
            at = stop
        self._parts = [stream[at:]] if at < end else []
        self._size = end - at
        return found


class Page:
    """A worker's status page: what it runs, what it is not to begin, and what it has not sent yet.

    ``skip`` is a pair of numbers: links from the first on and before the second are not to begin. The worker writes
    what it begins before it reads that; the program writes that, waits until what the worker had written can be seen,
    and reads what it has begun. So of each link one of the two knows that it is not for the other.
    """

    _KEPT = mmap.PAGESIZE
    ROOM = 1 << 16
    """Bytes for what is kept."""

    SIZE = _KEPT + ROOM

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, self.SIZE)
        self._numbers = memoryview(self._map).cast("q")
        self._times = memoryview(self._map).cast("d")
        self._count = self._end = 0

    def begin(self, number: int, *, loads: bool = False) -> bool:
        """Say that a link begins; False if it is not to.

        Args:
            number: of the link.
            loads: whether its function has to be loaded: until `begun` says that this is done, its time stands still.
        """
        numbers = self._numbers
        self._times[1] = perf_counter() + LOADING if loads else perf_counter()
        numbers[0] = number
        return not numbers[2] <= number < numbers[3]

    def begun(self) -> None:
        """Say that the time of the link begins now."""
        self._times[1] = perf_counter()

    @property
    def running(self) -> int:
        """The number of the link that has begun last; 0 before the first."""
        return self._numbers[0]

    @property
    def started(self) -> float:
        """From when on its time counts (`time.perf_counter()`, which all processes of a machine share)."""
        return self._times[1]

    @property
    def since(self) -> float:
        """Since when it has been busy with it."""
        started = self._times[1]
        return started if started <= perf_counter() else started - LOADING

    def skip(self, first: int, end: int) -> None:
        """Have links not begin; never, meanwhile, does one begin that was among them and still is."""
        numbers = self._numbers
        if first > numbers[2] or end < numbers[3]:
            numbers[2] = 1 << 62
        numbers[3] = end
        numbers[2] = first

    @property
    def has_children(self) -> bool:
        """Whether the worker had children when it last looked: after the last link that it was sent."""
        return bool(self._numbers[4])

    @has_children.setter
    def has_children(self, value: bool) -> None:
        self._numbers[4] = value

    @property
    def resting(self) -> int:
        """Bytes that the worker holds between calls."""
        return self._numbers[7]

    @resting.setter
    def resting(self, value: int) -> None:
        self._numbers[7] = value

    def keep(self, data: bytes) -> bool:
        """Keep the marshalled reply of the link that runs; False if there is no room."""
        at = self._KEPT + self._end
        end = self._end + len(data)
        if end > self.ROOM:
            return False
        self._map[at : at + len(data)] = data
        self._end = end
        self._count += 1
        numbers = self._numbers
        numbers[6] = end
        numbers[5] = self._count  # last: what is counted is there
        return True

    def taken(self) -> tuple[int, bytes]:
        """Return how many replies are kept, and all of them, to be sent; they are kept no more once they are."""
        return self._count, self._map[self._KEPT : self._KEPT + self._end]

    def clear(self) -> None:
        """Keep nothing any more; in the worker."""
        self._numbers[5] = self._count = self._end = 0

    def left(self) -> tuple[int, bytes]:
        """Return how many replies a worker that has died had not sent, or not cleared, and all of them."""
        numbers = self._numbers
        return numbers[5], self._map[self._KEPT : self._KEPT + numbers[6]]


def listed(count: int, data: bytes) -> list[Any]:
    """Return things that were marshalled one by one, and put next to one another."""
    return marshal.loads(b"[" + count.to_bytes(4, "little") + data)  # type: ignore[no-any-return]  # noqa: S302 - its own
