"""Parcels: values on their way between processes, pickled once, carried without being opened, opened where needed.

The program imports this file as part of the package, workers load it by its path: standard library only.

A parcel is a pickle (protocol 5) and the large buffers in it, out of band. What is smaller than `LARGE` is in the
parcel itself, and travels within a frame. The rest is in one anonymous file (a sealed `memfd`, which has no name in any
file system), and travels as a descriptor: nobody copies it again.

    +--------------------------+---------+----------+---------+----------+
    | pickle (if it is large)  | padding | buffer 0 | padding | buffer 1 |
    +--------------------------+---------+----------+---------+----------+

A consumer maps the buffers copy-on-write: no copy, and yet each consumer's own. A file is never written to again: the
pages that a private mapping has not touched would show the new bytes. A large pickle is read from the descriptor, for
read from a mapping it would be in memory twice. The memory is given back when the last one lets go of the descriptor.
"""

from __future__ import annotations

import _thread
import copyreg
import errno
import io
import mmap
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

ALIAS = "_pmflow_parcels"
"""What workers call this file: what is pickled by reference to it is found on both sides under that name."""

LARGE = 1 << 16
"""Bytes from which on a buffer, or a pickle, goes into a file: through sockets 1 MB takes 26 ms to eight consumers, in
a file 2.8 ms."""

HEAVY = 1 << 20
"""Bytes from which on that is so even where descriptors are scarce; a smaller buffer is read, and not mapped."""

PAGE = mmap.ALLOCATIONGRANULARITY

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types whose values need no parcel: a frame can hold them as they are."""

SIMPLE = PLAIN - {str, bytes}
"""Those of them whose values are always short."""

SHORT = 1 << 16
"""Characters of a text, or bytes, up to which that is true of them."""


def is_plain(value: Any) -> bool:
    """Whether a frame can hold a value as it is."""
    kind = type(value)
    return kind in PLAIN and (kind not in (str, bytes) or len(value) <= SHORT)


class File:
    """An anonymous file, closed with the last reference to it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def anonymous_file() -> File:
    """Return a new file that has no name, on a descriptor above the standard ones, closed on exec."""
    try:
        fd = os.memfd_create("pmflow", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except AttributeError:  # not Linux
        import tempfile

        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    return File(above_standard(fd))


def above_standard(fd: int) -> int:
    """Return a descriptor, moved if it is one of the standard three, which are the user's."""
    if fd > 2:  # noqa: PLR2004 - stderr
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _seal(fd: int) -> None:
    import fcntl

    if not hasattr(fcntl, "F_ADD_SEALS"):
        return
    size = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, size | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # The kernel itself still holds a page, on a busy machine. This seal does not wait for it, and nobody else has
        # the file yet.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, size | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)


F_SEAL_FUTURE_WRITE = 0x10
"""Of Linux 5.1: no more writing and no more writable mapping; `fcntl` of Python 3.10 to 3.12 does not know it."""


def write_all(fd: int, data: Any) -> None:
    """Write bytes, however often that takes: a single write ends at 2 GB."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(fd, left) :]


class Parcel:
    """A pickled value.

    Attributes:
        stream: the pickle; None if it is at the beginning of the file.
        file: where the large parts are; None if there are none.
        length: bytes of the pickle.
        spans: offset and length of each buffer in the file.
        attached: parcels that are part of the value, and were not opened for it.
    """

    __slots__ = ("attached", "file", "length", "spans", "stream")

    def __init__(
        self,
        stream: bytes | None,
        file: File | None = None,
        length: int = 0,
        spans: Sequence[tuple[int, int]] = (),
        attached: Sequence[Parcel] = (),
    ) -> None:
        self.stream = stream
        self.file = file
        self.length = length
        self.spans = spans
        self.attached = attached

    @property
    def size(self) -> int:
        """Bytes that it holds, without what is attached."""
        return (self.length if self.stream is None else len(self.stream)) + sum(length for _, length in self.spans)

    def open(self, unpickler: Any = None) -> Any:
        """Return the value: each time another one.

        Args:
            unpickler: a class to read the pickle with, where classes that cloudpickle sent are in it.

        Raises:
            Exception: whatever the value's own code raises.
        """
        if self.file is None and not self.attached:
            return _loads(self.stream, (), unpickler)
        return self._open(unpickler)

    def _open(self, unpickler: Any) -> Any:
        buffers = [self._buffer(offset, length) for offset, length in self.spans]
        outer = getattr(_opening, "now", None)
        _opening.now = self.attached, unpickler
        try:
            if self.stream is not None:
                return _loads(self.stream, buffers, unpickler)
            return (unpickler or pickle.Unpickler)(self._reader(), buffers=buffers).load()
        finally:
            _opening.now = outer

    def _reader(self) -> Any:
        return io.BufferedReader(_Reader(self.file, self.length), 1 << 16)

    def _buffer(self, offset: int, length: int) -> memoryview:
        """Map a buffer copy-on-write; read a small one, and any where descriptors are scarce: a mapping keeps one."""
        fd = self.file.fd  # type: ignore[union-attr]  # where there are spans there is a file
        if length >= HEAVY and fd < most_descriptors() // 2:
            try:
                mapped = mmap.mmap(fd, length, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
            except OSError:
                pass  # there are none left
            else:
                return memoryview(mapped)
        data = bytearray(length)
        read_into(fd, memoryview(data), offset)
        return memoryview(data)

    def in_memory(self) -> Parcel:
        """Return it with its contents as bytes: for a program that holds too many descriptors."""
        if self.file is None:
            return self
        content = bytearray(max([self.length, *(offset + length for offset, length in self.spans)]))
        read_into(self.file.fd, memoryview(content), 0)
        return _Loose(self.stream, self.length, self.spans, self.attached, bytes(content))

    def is_scarce(self) -> bool:
        """Whether its descriptor is one of so many that it should be held in memory, and not keep it."""
        return self.file is not None and _scarce(self.file, self.size)

    # On the wire: what `marshal` knows, and the descriptors beside it

    def packed(self, files: list[File]) -> list[Any]:
        """Return it as a frame holds it; append its files to those that go with the frame."""
        if self.file is None and not self.attached:
            return [self.stream]
        place = -1
        if self.file is not None:
            place = next((n for n, file in enumerate(files) if file is self.file), len(files))
            if place == len(files):
                files.append(self.file)
        attached = [each.packed(files) for each in self.attached]
        return [self.stream, place, self.length, list(self.spans), attached]

    @classmethod
    def unpacked(cls, packed: list[Any], files: Sequence[File]) -> Parcel:
        """Return what `packed` has made a list of."""
        if len(packed) == 1:
            return cls(packed[0])
        stream, place, length, spans, attached = packed
        inner = [cls.unpacked(each, files) for each in attached]
        if type(place) is bytes:
            return _Loose(stream, length, spans, inner, place)
        return cls(stream, files[place] if place >= 0 else None, length, spans, inner)


class _Loose(Parcel):
    """A parcel with what would be in its file as bytes. A heavy one gets a file, for a while, when opened or sent."""

    __slots__ = ("_content",)

    def __init__(
        self,
        stream: bytes | None,
        length: int,
        spans: Sequence[tuple[int, int]],
        attached: Sequence[Parcel],
        content: bytes,
    ) -> None:
        super().__init__(stream, None, length, spans, attached)
        self._content = content

    def _with_file(self) -> Parcel:
        file = anonymous_file()
        write_all(file.fd, self._content)
        _seal(file.fd)
        return Parcel(self.stream, file, self.length, self.spans, self.attached)

    def open(self, unpickler: Any = None) -> Any:
        return self._with_file().open(unpickler) if len(self._content) >= HEAVY else self._open(unpickler)

    def _reader(self) -> Any:
        return io.BytesIO(self._content[: self.length])

    def _buffer(self, offset: int, length: int) -> memoryview:
        return memoryview(bytearray(memoryview(self._content)[offset : offset + length]))

    def packed(self, files: list[File]) -> list[Any]:
        if len(self._content) >= HEAVY:
            return self._with_file().packed(files)
        attached = [each.packed(files) for each in self.attached]
        return [self.stream, self._content, self.length, list(self.spans), attached]


_opening = _thread._local()  # noqa: SLF001 - that of `threading`, without importing it
"""What is attached to the parcel that this thread is opening."""


def attached(place: int) -> Any:
    """Return the value of an attached parcel; what unpickling calls."""
    parcels, unpickler = _opening.now
    return parcels[place].open(unpickler)


attached.__module__ = ALIAS
_shared = sys.modules.setdefault(ALIAS, sys.modules[__name__])
attached, _opening = _shared.attached, _shared._opening  # noqa: SLF001 - a program within a worker has the worker's


def _loads(stream: Any, buffers: Sequence[Any], unpickler: Any) -> Any:
    if unpickler is None or b"_make_skeleton_" not in stream:
        return pickle.loads(stream, buffers=buffers)
    return unpickler(io.BytesIO(stream), buffers=buffers).load()


class _Reader(io.RawIOBase):
    """Reads the beginning of a file at a place of its own: other processes have the same file."""

    def __init__(self, file: File | None, length: int) -> None:
        self._fd = file.fd  # type: ignore[union-attr]  # a pickle that is not in the parcel is in its file
        self._at = 0
        self._length = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: self._length - self._at]
        read = os.preadv(self._fd, [view], self._at) if view else 0
        self._at += read
        return read


def read_into(fd: int, view: memoryview, offset: int) -> None:
    """Fill a view from a place in a file."""
    while view:
        read = os.preadv(fd, [view], offset)
        if not read:
            raise EOFError("a parcel is shorter than it was")
        view, offset = view[read:], offset + read


def most_descriptors() -> int:
    """Return how many descriptors this program may have open."""
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _scarce(file: File, size: int) -> bool:
    """Whether so many descriptors are open (the lowest free one is given out) that this one is to be spared."""
    return file.fd > most_descriptors() // (2 if size >= HEAVY else 4)


# Making them


def pack_data(thing: Any, otherwise: Callable[[], Any], reducers: Mapping[type, Any] | None = None) -> Parcel:
    """Return a value as a parcel: by plain pickle, or, where that cannot do it, as `otherwise` can.

    What plain pickle refers to as part of ``__main__`` is not found there in another process.

    Args:
        thing: the value.
        otherwise: returns a class of picklers.
        reducers: type to what reduces its instances, beyond what pickle knows.

    Raises:
        Exception: it cannot be pickled.
    """
    try:
        sink, parcel = _pickled(thing, pickle.Pickler, reducers)
        if not sink.contains(b"__main__"):
            return parcel()
    except Exception:  # noqa: S110 - of whatever kind: the other way says it better
        pass
    return pack(thing, otherwise(), reducers)


def pack(thing: Any, pickler: Any, reducers: Mapping[type, Any] | None = None) -> Parcel:
    """Return what a class of picklers makes of something, as a parcel.

    Raises:
        Exception: it cannot be pickled.
    """
    return _pickled(thing, pickler, reducers)[1]()


def _pickled(thing: Any, pickler: Any, reducers: Mapping[type, Any] | None) -> tuple[_Sink, Callable[[], Parcel]]:
    sink = _Sink()
    buffers: list[memoryview] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < LARGE or (raw.nbytes < HEAVY and not sink.affords_a_file(raw.nbytes)):
            return True
        buffers.append(raw)
        return False

    inner: list[Parcel] = []
    table: dict[type, Any] = {}
    if reducers is not None:
        table = {
            **getattr(pickler, "dispatch_table", copyreg.dispatch_table),
            **{kind: partial(reduce, inner) for kind, reduce in reducers.items()},
        }
        if pickler is not pickle.Pickler:  # a class of Python's own: it has its table from the class
            pickler = type("Attaching", (pickler,), {"dispatch_table": table})
    made = pickler(sink, 5, buffer_callback=stays)
    if reducers is not None and pickler is pickle.Pickler:
        made.dispatch_table = table
    made.dump(thing)
    table.clear()  # a class is garbage, and garbage holds what it knows until it is collected
    return sink, lambda: _assembled(sink, buffers, inner)


def _assembled(sink: _Sink, buffers: Sequence[memoryview], inner: Sequence[Parcel]) -> Parcel:
    """Return the parcel of a pickle and its buffers."""
    stream, file, length = sink.ended()
    if buffers and file is None:
        file = sink.spare or anonymous_file()
    spans = []
    at = length if stream is None else 0
    for raw in buffers:
        at += -at % PAGE
        os.lseek(file.fd, at, os.SEEK_SET)  # type: ignore[union-attr]  # where there are buffers there is a file
        write_all(file.fd, raw)  # type: ignore[union-attr]
        spans.append((at, raw.nbytes))
        at += raw.nbytes
    if file is not None:
        _seal(file.fd)
    return Parcel(stream, file, length, spans, inner)


class _Sink:
    """Takes a pickle: in memory as long as it is small, then in a file."""

    __slots__ = ("file", "parts", "size", "spare")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.file: File | None = None
        self.spare: File | None = None

    def affords_a_file(self, size: int) -> bool:
        """Whether there is a file for so many bytes: one for the whole parcel, unless descriptors are scarce."""
        if self.spare is None:
            try:
                file = anonymous_file()
            except OSError:
                if size >= HEAVY:
                    raise
                return False
            if size < HEAVY and _scarce(file, size):
                return False
            self.spare = file
        return True

    def write(self, data: Any) -> int:
        """Take a part."""
        if isinstance(data, pickle.PickleBuffer):  # a buffer that stays within, and is not small
            data = data.raw()
        length = len(data)
        self.size += length
        if self.file is None:
            if self.size >= LARGE and self.affords_a_file(self.size):
                self.file = self.spare
            if self.file is None:
                self.parts.append(bytes(data))
                return length
            for part in self.parts:
                write_all(self.file.fd, part)
            self.parts = []
        write_all(self.file.fd, data)
        return length

    def ended(self) -> tuple[bytes | None, File | None, int]:
        """Return the pickle, or the file that it is in and its length."""
        if self.file is not None:
            return None, self.file, self.size
        return (self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)), None, self.size

    def contains(self, text: bytes) -> bool:
        """Whether the pickle has some bytes in it."""
        if self.file is None:
            return any(text in part for part in self.parts)
        with mmap.mmap(self.file.fd, self.size, prot=mmap.PROT_READ) as content:
            return content.find(text) >= 0
