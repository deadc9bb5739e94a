"""What travels between processes, and in what: parcels, frames, status pages and picklers, each as a unit."""

from __future__ import annotations

import array
import errno
import gc
import io
import mmap
import os
import pickle
import re
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from pmflow.executors import parcels, pickling, wire
from pmflow.executors.parcels import LARGE, File, Parcel, above_standard, anonymous_file, pack, pack_data

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1 << 20


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """Every test closes what it has opened: parcels with their last reference, without the collector."""
    gc.collect()
    before = descriptors()
    yield
    assert descriptors() == before


def packed(thing: Any, reducers: Any = None) -> Parcel:
    """Return a value as it is packed for a worker."""
    return pack_data(thing, pickling.pickler, reducers)


def sent(parcel: Parcel) -> Parcel:
    """Return a parcel after a journey through a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        files: list[File] = []
        data = wire.framed(parcel.packed(files), len(files))
        thread = threading.Thread(target=_send, args=(ours, data, [file.fd for file in files]))
        thread.start()
        ((message, numbers),) = received(theirs, 1)
        thread.join()
    return Parcel.unpacked(message, [File(number) for number in numbers])


def _send(connection: socket.socket, data: bytes, numbers: list[int]) -> None:
    done = connection.sendmsg([data], wire.rights(numbers))
    connection.sendall(data[done:])


def received(connection: socket.socket, count: int, size: int = wire.CHUNK) -> list[tuple[Any, list[int]]]:
    """Return so many messages, read in pieces of a size."""
    frames, found = wire.Frames(), []
    while len(found) < count:
        found += cut(frames, *wire.receive(connection, size))
    return found


def cut(frames: wire.Frames, data: bytes, numbers: Sequence[int] = ()) -> list[tuple[Any, list[int]]]:
    """Return the messages that are complete with these bytes."""
    return [(message, list(own)) for message, own in frames.feed(data, numbers)]


def program(code: str) -> str:
    """Run a program of its own, without its standard input, and return what it prints."""
    prelude = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Round trips


def nested() -> dict[str, Any]:
    """Return arrays within mappings: large, small, of every order, and one that occurs twice."""
    large = np.arange(300_000, dtype=np.float64)
    return {
        "large": large,
        "again": large,
        "in": {"order": np.asfortranarray(np.ones((1_000, 200))), "text": np.array(["a", "bc"]), "none": np.zeros(0)},
        "list": [np.arange(3), np.arange(400_000)[::2], b"x"],
    }


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, arrays with their types and orders."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and np.array_equal(left, right)
    return type(left) is type(right) and bool(left == right)


VALUES: list[Any] = [
    None,
    [1, "two", {3: (4.0, b"5")}],
    b"",
    b"x" * (LARGE - 100),
    b"x" * (LARGE + 1),
    np.arange(LARGE - 1, dtype=np.int8),  # the largest that stays within the pickle
    np.arange(LARGE, dtype=np.int8),
    np.arange(LARGE // 8, dtype=np.int64)[::-1][:100],
    bytearray(b"y" * 3 * MEGABYTE),
    "ä€" * MEGABYTE,
    list(range(500_000)),
    np.arange(5),
    np.arange(2 * MEGABYTE, dtype=np.int8),
    np.random.default_rng(1).random((300, 700)),
    nested(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_out_as_it_went_in(value: Any) -> None:
    """At home, after a journey through a socket, and held in memory; by both picklers."""
    for parcel in (packed(value), pack(value, pickling.pickler())):
        assert same(parcel.open(), value)
        assert same(parcel.open(pickling.Returning), value)
        assert same(sent(parcel).open(), value)
        assert same(parcel.in_memory().open(), value)
        assert same(sent(parcel.in_memory()).open(), value)


def test_what_is_small_is_in_the_parcel_itself() -> None:
    """No file is made for it, and none is sent."""
    parcel = packed([1, np.arange(10)])
    files: list[File] = []
    assert (parcel.file, list(parcel.spans), list(parcel.attached)) == (None, [], [])
    assert parcel.size == len(parcel.stream or b"")
    assert (parcel.packed(files), files) == ([parcel.stream], [])
    assert parcel.in_memory() is parcel


def test_large_buffers_are_out_of_band_and_aligned() -> None:
    """The pickle itself stays small; each large buffer begins at a page, what occurs twice is there once."""
    first, second = np.arange(200_000), np.arange(150_001, dtype=np.float64)
    parcel = packed({"first": first, "again": first, "second": second, "small": np.arange(3)})
    assert parcel.file is not None
    assert parcel.stream is not None
    assert len(parcel.stream) < 2_000
    offset = -(-first.nbytes // parcels.PAGE) * parcels.PAGE
    assert list(parcel.spans) == [(0, first.nbytes), (offset, second.nbytes)]
    assert parcel.size == len(parcel.stream) + first.nbytes + second.nbytes
    opened = parcel.open()
    assert opened["first"] is opened["again"]


def test_a_large_pickle_is_at_the_beginning_of_the_file() -> None:
    """With the buffers behind it."""
    numbers, values = list(range(400_000)), np.arange(200_000)
    parcel = packed([numbers, values])
    assert (parcel.stream, parcel.length > MEGABYTE, len(parcel.spans)) == (None, True, 1)
    offset = -(-parcel.length // parcels.PAGE) * parcels.PAGE
    assert (parcel.spans[0], parcel.size) == ((offset, values.nbytes), parcel.length + values.nbytes)
    assert same(parcel.open(), [numbers, values])


def test_a_buffer_that_is_not_in_one_piece_stays_in_the_pickle() -> None:
    """Every second row of an array is packed as it is."""
    value = np.arange(4 * MEGABYTE, dtype=np.int8).reshape(2, -1)[:, ::2]
    assert np.array_equal(packed(value).open(), value)
    with pytest.raises(pickle.PicklingError, match="contiguous"):
        packed(pickle.PickleBuffer(memoryview(bytes(4 * MEGABYTE))[::2]))


def test_what_could_not_be_written_to_cannot_be_afterwards() -> None:
    """An array over bytes stays read-only, another stays writable."""
    value = [np.frombuffer(bytes(2 * MEGABYTE), dtype=np.int64), np.zeros(300_000)]
    assert [each.flags.writeable for each in packed(value).open()] == [False, True]


# Everybody's own


def test_consumers_do_not_see_one_another_write() -> None:
    """Opened twice, written to in one: the other, and whoever opens it later, has what was packed."""
    value = {"a": np.zeros(500_000), "b": bytearray(2 * MEGABYTE)}
    parcel = packed(value)
    first, second = parcel.open(), parcel.open()
    first["a"][:] = 1
    first["b"][:3] = b"new"
    later = parcel.open()
    assert (first["a"].sum(), bytes(first["b"][:3])) == (500_000, b"new")
    for other in (second, later, value):
        assert (other["a"].sum(), bytes(other["b"][:3])) == (0, bytes(3))


def test_what_was_packed_is_not_what_becomes_of_it() -> None:
    """A value that is changed after it was packed has not changed in the parcel."""
    value = np.zeros(500_000)
    parcel = packed(value)
    value[:] = 7
    assert parcel.open().sum() == 0


def test_a_file_cannot_be_written_to_again() -> None:
    """It is sealed: neither its bytes nor its length change, by whatever way."""
    parcel = packed(np.zeros(500_000))
    assert parcel.file is not None
    fd, size = parcel.file.fd, os.fstat(parcel.file.fd).st_size
    ways: list[Callable[[], Any]] = [
        lambda: os.write(fd, b"x"),
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 0),
        lambda: os.ftruncate(fd, size + 1),
        lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    ]
    for way in ways:
        with pytest.raises(PermissionError):
            way()
    assert os.fstat(fd).st_size == size
    assert os.get_inheritable(fd) is False


def test_a_value_outlives_its_parcel() -> None:
    """What was opened keeps the memory, until it goes itself."""
    before = descriptors()
    value = packed(np.arange(500_000)).open()
    assert int(value[-1]) == 499_999
    del value
    assert descriptors() == before


def test_a_parcel_is_opened_where_descriptors_are_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its buffers are read, not mapped: no descriptor stays with the value, and it is the consumer's own."""
    monkeypatch.setattr(parcels, "most_descriptors", lambda: 4)
    parcel = packed(np.arange(500_000))
    before = descriptors()
    first, second = parcel.open(), parcel.open()
    first[0] = 9
    assert (int(second[0]), descriptors()) == (0, before)


def test_the_bound_of_descriptors_is_the_systems() -> None:
    """As many as this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert parcels.most_descriptors() == (sys.maxsize if soft == resource.RLIM_INFINITY else soft)


# In memory


def test_a_parcel_in_memory_has_no_descriptor() -> None:
    """It has one for the time of an opening, or of a journey, and can be opened again and again."""
    value = {"pickle": list(range(400_000)), "array": np.arange(200_000)}
    parcel = packed(value)
    before = descriptors()
    loose = parcel.in_memory()
    assert (loose.file, loose.size, loose.in_memory() is loose) == (None, parcel.size, True)
    del parcel
    assert descriptors() == before - 1
    assert same(loose.open(), value)
    files: list[File] = []
    loose.packed(files)
    assert (len(files), descriptors()) == (1, before)
    files.clear()
    assert descriptors() == before - 1


# Attached


class Elsewhere:
    """Stands for a value that is a parcel already."""

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel


def attach(inner: list[Parcel], thing: Elsewhere) -> Any:
    """Attach it, unopened."""
    inner.append(thing.parcel)
    return parcels.attached, (len(inner) - 1,)


class Trap:
    """Cannot be unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise LookupError("opened")

    def __getstate__(self) -> Any:
        return {"a": 1}


@pytest.mark.parametrize("pack_it", [packed, lambda value, reducers: pack(value, pickling.pickler(), reducers)])
def test_what_is_attached_is_opened_with_the_parcel(pack_it: Callable[..., Parcel]) -> None:
    """Small and large ones, and those attached to these, in their places; after a journey too."""
    small, large = packed("small"), packed(np.arange(300_000))
    middle = packed(["middle", Elsewhere(large)], {Elsewhere: attach})
    outer = pack_it([Elsewhere(small), {"m": Elsewhere(middle)}, Elsewhere(small), 4], {Elsewhere: attach})
    expected = ["small", {"m": ["middle", np.arange(300_000)]}, "small", 4]
    assert list(outer.attached) == [small, middle, small]
    for each in (outer, sent(outer), outer.in_memory()):
        assert same(each.open(), expected)
        assert same(each.open(pickling.Returning), expected)


def test_what_is_attached_is_not_opened_to_be_packed() -> None:
    """Neither when it is attached nor on the way; what its own code raises is raised where it is opened."""
    parcel = packed([Elsewhere(packed(Trap()))], {Elsewhere: attach})
    there = sent(parcel)
    for _ in range(2):
        with pytest.raises(LookupError, match="opened"):
            there.open()
    assert packed([Elsewhere(packed(5))], {Elsewhere: attach}).open() == [5]


def test_threads_open_parcels_at_once() -> None:
    """What is attached to the one is not what is attached to the other, though both are half open."""
    meeting = threading.Barrier(2, timeout=20)
    found: dict[str, Any] = {}

    def open_one(name: str) -> None:
        parcel = packed([Elsewhere(packed(Meeting())), Elsewhere(packed(name))], {Elsewhere: attach})
        found[name] = parcel.open()[1]

    Meeting.barrier = meeting
    threads = [threading.Thread(target=open_one, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"one": "one", "two": "two"}


class Meeting:
    """Waits for another while it is unpickled."""

    barrier: threading.Barrier

    def __getstate__(self) -> Any:
        return {"a": 1}

    def __setstate__(self, state: Any) -> None:
        self.barrier.wait()


# On the wire


def test_a_file_of_several_parcels_is_sent_once() -> None:
    """Each says which of the files is its own."""
    one, two = packed(np.arange(200_000)), packed(np.arange(300_000))
    both = packed([Elsewhere(one), Elsewhere(two), Elsewhere(one)], {Elsewhere: attach})
    files: list[File] = []
    lists = [each.packed(files) for each in (two, both, one)]
    assert files == [two.file, one.file]
    back = [Parcel.unpacked(each, files) for each in lists]
    assert [each.file for each in back] == [two.file, None, one.file]
    assert [each.file for each in back[1].attached] == [one.file, two.file, one.file]
    assert same(back[1].open(), [np.arange(200_000), np.arange(300_000), np.arange(200_000)])


def test_what_is_packed_is_plain() -> None:
    """A frame can hold it, and it is the same when it comes out of it."""
    parcel = packed({"pickle": "x" * 2 * MEGABYTE, "array": np.arange(300_000), "held": Elsewhere(packed(1))}, {
        Elsewhere: attach,
    })  # fmt: skip
    files: list[File] = []
    message = parcel.packed(files)
    ((found, numbers),) = cut(wire.Frames(), wire.framed(message, 1), [files[0].fd])
    assert (found, numbers) == (
        [None, 0, parcel.length, list(parcel.spans), [[parcel.attached[0].stream]]],
        [files[0].fd],
    )


def test_an_opening_that_fails_closes_what_it_has_opened() -> None:
    """A file that is shorter than it was is an error, not a wrong value."""
    with pytest.raises(LookupError, match="opened"):
        packed([np.arange(300_000), Trap()]).open()
    file = anonymous_file()
    parcels.write_all(file.fd, b"short")
    with pytest.raises(EOFError, match="shorter than it was"):
        parcels.read_into(file.fd, memoryview(bytearray(10)), 0)
    view = bytearray(3)
    parcels.read_into(file.fd, memoryview(view), 2)
    assert bytes(view) == b"ort"


@pytest.mark.parametrize(
    ("value", "plain"),
    [(None, True), (True, True), (10**30, True), (1.5, True), (1j, True), ("x" * parcels.SHORT, True), (b"x", True),
     ("x" * (parcels.SHORT + 1), False), (bytes(parcels.SHORT + 1), False), ([], False), ((), False),
     (np.float64(1), False), (bytearray(), False)],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_plain_values_need_no_parcel(value: Any, plain: bool) -> None:
    """Those of built-in types, as long as they are short; an instance of a subclass is something else."""
    assert parcels.is_plain(value) is plain


# The sink


def test_a_pickle_is_in_memory_as_long_as_it_is_small() -> None:
    """Up to one byte less than `LARGE`; parts are joined, and found in."""
    sink = parcels._Sink()
    for part in (b"one", memoryview(b"two"), bytearray(b"three"), bytes(LARGE - 12)):
        assert sink.write(part) == len(part)
    assert (sink.file, sink.size, sink.contains(b"three"), sink.contains(b"four")) == (None, LARGE - 1, True, False)
    assert sink.ended() == (b"onetwothree" + bytes(LARGE - 12), None, LARGE - 1)


def test_a_large_pickle_spills_into_a_file() -> None:
    """From the part on that makes it large; those before it are in the file as well, in their order."""
    sink = parcels._Sink()
    parts = [b"head", bytes(LARGE - 8), b"more", b"tail"]
    for part in parts:
        assert sink.write(part) == len(part)
    stream, file, length = sink.ended()
    assert (stream, length, sink.parts) == (None, LARGE + 4, [])
    assert file is not None
    assert os.pread(file.fd, length + 1, 0) == b"".join(parts)
    assert [sink.contains(text) for text in (b"head", b"moretail", b"absent")] == [True, True, False]


def test_no_more_than_the_pickle_is_read_from_the_file() -> None:
    """Buffers behind it are not taken for a part of it."""
    file = anonymous_file()
    parcels.write_all(file.fd, b"pickle-and-buffers")
    with io.BufferedReader(parcels._Reader(file, 6)) as reader:
        assert (reader.read(), reader.read()) == (b"pickle", b"")


# Descriptors


def test_a_descriptor_above_the_standard_ones_stays() -> None:
    """It is returned as it is."""
    fd = os.open(os.devnull, os.O_RDONLY)
    assert above_standard(fd) == fd
    os.close(fd)


def test_the_standard_descriptors_are_the_users() -> None:
    """Where they are closed, what is opened in their place is moved, closed on exec, and leaves nothing behind."""
    printed = program("""
        import os
        from pmflow.executors.parcels import above_standard, anonymous_file
        os.close(0)
        made = os.open(os.devnull, os.O_RDONLY)
        moved = above_standard(made)
        file = anonymous_file()
        left = [fd for fd in os.listdir("/proc/self/fd") if fd == "0" and os.path.exists("/proc/self/fd/0")]
        taken = os.open(os.devnull, os.O_RDONLY)
        print(made, moved > 2, os.get_inheritable(moved), file.fd > 2, taken)
    """)
    assert printed == "0 True False True 0"


# Frames

MESSAGES = [("ready", 1), [1, [2.5, b"x" * 70_000], None], {"a": ("ä", 1 << 80)}, (), "end"]
COUNTS = [0, 2, 0, 1, 3]


def stream_of() -> tuple[bytes, list[int]]:
    """Return all the messages as a stream, with numbers in place of descriptors."""
    frames = [wire.framed(message, count) for message, count in zip(MESSAGES, COUNTS, strict=True)]
    return b"".join(frames), list(range(100, 100 + sum(COUNTS)))


EXPECTED = [(MESSAGES[0], []), (MESSAGES[1], [100, 101]), (MESSAGES[2], []), (MESSAGES[3], [102]),
            (MESSAGES[4], [103, 104, 105])]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 15, 16, 17, 1_000, 1 << 20])
def test_a_stream_is_cut_into_messages(size: int) -> None:
    """In pieces of any size, down to single bytes; each message has the descriptors that came with it."""
    data, numbers = stream_of()
    frames, found = wire.Frames(), []
    for at in range(0, len(data), size):
        found += cut(frames, data[at : at + size], numbers if at == 0 else ())
    assert found == EXPECTED
    assert (cut(frames, wire.framed("again")), frames.error) == ([("again", [])], None)


def test_a_message_is_there_with_its_last_byte() -> None:
    """Not before, and at once then; an empty piece changes nothing."""
    data = wire.framed(("a", b"body"), 1)
    frames = wire.Frames()
    assert [cut(frames, data[at : at + 1]) for at in range(len(data) - 1)] == [[]] * (len(data) - 1)
    assert cut(frames, b"", [7]) == []
    assert cut(frames, data[-1:]) == [(("a", b"body"), [7])]


@pytest.mark.parametrize("size", [1, wire.CHUNK])
def test_descriptors_go_with_their_frames(size: int) -> None:
    """Over a socket, read byte by byte or in one piece: each frame's are its own files, in order."""
    files = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for count in COUNTS:
            own = [anonymous_file() for _ in range(count)]
            for place, file in enumerate(own):
                parcels.write_all(file.fd, f"{len(files)}-{place}".encode())
            files.append(own)
        thread = threading.Thread(
            target=lambda: [
                _send(ours, wire.framed(message, len(own)), [file.fd for file in own])
                for message, own in zip(MESSAGES, files, strict=True)
            ]
        )
        thread.start()
        got = received(theirs, len(MESSAGES), size)
        thread.join()
    found = [(message, [File(number) for number in numbers]) for message, numbers in got]
    assert [message for message, _ in found] == MESSAGES
    texts = [[os.pread(file.fd, 9, 0).decode() for file in each] for _, each in found]
    assert texts == [[], ["1-0", "1-1"], [], ["3-0"], ["4-0", "4-1", "4-2"]]
    assert {os.get_inheritable(file.fd) for _, each in found for file in each} == {False}


def test_as_many_descriptors_as_go_at_once_are_taken() -> None:
    """The receiver has room for all of them."""
    file = anonymous_file()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _send(ours, wire.framed("many", wire.AT_ONCE), [file.fd] * wire.AT_ONCE)
        ((message, numbers),) = received(theirs, 1)
    copies = [File(number) for number in numbers]
    assert (message, len(copies)) == ("many", wire.AT_ONCE)
    assert {os.fstat(each.fd).st_ino for each in copies} == {os.fstat(file.fd).st_ino}


@pytest.mark.parametrize("size", [1, 10, 1_000])
@pytest.mark.parametrize("before", [[], ["well"]])
def test_a_stream_that_is_no_frame_is_an_error(before: list[str], size: int) -> None:
    """It is said as soon as it shows; the messages before it are told, and nothing after it is."""
    frames, found = wire.Frames(), []
    data = b"".join(map(wire.framed, before)) + b"a print of the user's" + wire.framed("never")
    for at in range(0, len(data), size):
        found += cut(frames, data[at : at + size])
    assert found == [(message, []) for message in before]
    assert type(frames.error) is ValueError
    assert re.match("a frame begins with b'pmfl', and this is b'a print of the u", str(frames.error))
    assert cut(frames, wire.framed("never")) == []


def test_what_ends_says_so() -> None:
    """After the last byte there is nothing, and no descriptor."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"last")
        ours.close()
        assert [wire.receive(theirs) for _ in range(2)] == [(b"last", []), (b"", [])]
    assert wire.rights([]) == []
    assert wire.rights([5]) == [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [5]))]


def test_descriptors_that_were_lost_are_an_error() -> None:
    """Where there is no room for all of them: those that came are closed, and what follows is received."""
    printed = program("""
        import os, resource, socket
        from pmflow.executors import wire
        ours, theirs = socket.socketpair()
        sent = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
        ours.sendmsg([b"x"], wire.rights(sent))
        ours.sendall(b"y")
        before = len(os.listdir("/proc/self/fd"))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
        try:
            wire.receive(theirs)
        except wire.TruncatedError as error:
            print(isinstance(error, OSError), error)
        print(len(os.listdir("/proc/self/fd")) - before, wire.receive(theirs))
    """)
    assert printed.splitlines() == [
        "True descriptors were lost on the way: too many are open here",
        "0 (b'y', [])",
    ]


def test_descriptors_that_were_received_end_with_an_exec() -> None:
    """A program that is started meanwhile does not have them."""
    printed = program("""
        import os, socket, subprocess, sys
        from pmflow.executors import wire
        ours, theirs = socket.socketpair()
        secret = os.memfd_create("secret")
        ours.sendmsg([b"x"], wire.rights([secret]))
        os.close(secret)
        data, numbers = wire.receive(theirs)
        code = "import os, sys; print([fd for fd in os.listdir('/proc/self/fd') if fd in sys.argv[1:]])"
        names = [os.readlink(f"/proc/self/fd/{number}") for number in numbers]
        print(data, names, flush=True)
        subprocess.run([sys.executable, "-c", code, *map(str, numbers)], close_fds=False, check=True)
    """)
    assert printed.splitlines() == ["b'x' ['/memfd:secret (deleted)']", "[]"]


# The status page


def pages() -> tuple[wire.Page, wire.Page]:
    """Return one page, as the program sees it and as the worker does."""
    file = anonymous_file()
    os.ftruncate(file.fd, wire.Page.SIZE)
    return wire.Page(file.fd), wire.Page(file.fd)


def test_a_page_says_what_runs_and_since_when() -> None:
    """What the worker begins is seen by the program, with the moment."""
    ours, theirs = pages()
    assert (ours.running, ours.started, ours.has_children) == (0, 0.0, False)
    before = wire.perf_counter()
    assert theirs.begin(1) is True
    first = ours.started
    assert (ours.running, before <= first <= wire.perf_counter()) == (1, True)
    assert theirs.begin(2) is True
    assert (ours.running, ours.started >= first) == (2, True)
    theirs.has_children = True
    assert ours.has_children is True
    theirs.has_children = False
    assert (ours.has_children, ours.running) == (False, 2)


def test_links_that_were_called_back_do_not_begin() -> None:
    """From the first on and before the end; the last call counts, and what does not begin is seen all the same."""
    ours, theirs = pages()
    ours.skip(3, 6)
    assert [theirs.begin(number) for number in range(1, 8)] == [True, True, False, False, False, True, True]
    ours.skip(9, 10)
    assert [theirs.begin(number) for number in (8, 9, 10)] == [True, False, True]
    ours.skip(11, 1 << 62)
    assert [theirs.begin(number) for number in (11, 1_000_000)] == [False, False]
    assert ours.running == 1_000_000
    ours.skip(0, 0)
    assert theirs.begin(5) is True


# The pickler


def test_an_open_file_is_refused(tmp_path: Path) -> None:
    """A text file is not sent as its contents: that is an error, wherever in a value it is."""
    (tmp_path / "notes.txt").write_text("text")
    for mode in ("r", "w"):
        with (tmp_path / "notes.txt").open(mode) as file, pytest.raises(Exception, match="cannot pickle"):
            packed({"file": [file]})
    with (tmp_path / "notes.txt").open("r") as file:
        with pytest.raises(TypeError, match="cannot pickle an open file"):
            pack(lambda: [line for line in file], pickling.pickler())  # noqa: C416
        assert file.closed is False


def test_the_standard_streams_are_those_of_where_they_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that has kept ``sys.stdout`` writes to that of the process it is in."""
    files = [(tmp_path / str(n)).open("w+") for n in range(4)]
    with files[0], files[1], files[2], files[3], monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", files[0])
        patch.setattr(sys, "stderr", files[1])
        parcel = pack([sys.stdout, sys.stderr], pickling.pickler())
        patch.setattr(sys, "stdout", files[2])
        patch.setattr(sys, "stderr", files[3])
        assert parcel.open() == files[2:]


def plain(n: int, factor: int = 2) -> int:
    """A function of a module."""
    return n * factor


def test_a_function_of_a_module_goes_by_reference() -> None:
    """Module, name and a digest: nothing of its code."""
    stream = pack(plain, pickling.pickler()).stream or b""
    assert len(stream) < 200
    assert Parcel(stream).open() is plain
    assert pickling.reference(plain) == (__name__, "plain", pickling.digest_of(plain))


def test_a_function_that_is_nobodys_attribute_goes_by_value() -> None:
    """A lambda, a closure and one that another has replaced have no reference."""
    copy = types.FunctionType(plain.__code__, globals(), "plain", plain.__defaults__)
    assert [pickling.reference(each) for each in (lambda: 1, copy)] == [None, None]
    offset = 5
    opened = pack(lambda n: n + offset, pickling.pickler()).open()
    assert opened(1) == 6


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("no_such_module", "f", 0), "no_such_module cannot be imported: ModuleNotFoundError"),
        ((__name__, "absent", 0), "absent is not what it is in the program"),
        ((__name__, "plain", 1), "plain is not what it is in the program"),
        ((__name__, "LARGE", 0), "LARGE is not what it is in the program"),
    ],
)
def test_a_function_that_is_not_the_same_is_not_taken_for_it(where: tuple[str, str, int], message: str) -> None:
    """One that cannot be imported, is not there, or has other code."""
    with pytest.raises(pickling.NotHereError, match=message):
        pickling.load_function(*where)


def test_a_digest_changes_with_what_a_function_does() -> None:
    """With its code, what it refers to, and its plain defaults; not with where it is written."""

    def variants(source: str, *, lines: int = 0) -> int:
        scope: dict[str, Any] = {}
        exec("\n" * lines + textwrap.dedent(source), scope)  # noqa: S102 - the code of this test
        return pickling.digest_of(scope["f"])

    one = variants("def f(n, k=1):\n    return n + k")
    assert variants("def f(n, k=1):\n    return n + k", lines=50) == one
    others = [
        variants("def f(n, k=2):\n    return n + k"),
        variants("def f(n, *, k=1):\n    return n + k"),
        variants("def f(n, k=1):\n    return n - k"),
        variants("def f(n, k=1):\n    return n + j"),
        variants("def f(n, k=1):\n    return n + 5"),
        variants("def f(n, k=1):\n    return [n + 6 for _ in n]"),
        variants("def f(n, k=1):\n    return [n + 7 for _ in n]"),
    ]
    assert len({one, *others}) == 1 + len(others)
    sets = [variants("def f(n):\n    return n in {'a', 'b', 'c'}") for _ in range(2)]
    assert sets[0] == sets[1]


class Awkward(Exception):
    """Cannot be made with its ``args``."""

    def __init__(self, page: str, line: int) -> None:
        super().__init__(f"{page}:{line}")
        self.line = line


def test_an_exception_that_cannot_be_made_again_travels_in_parts() -> None:
    """Class, ``args`` and attributes; anything else is what it is."""
    error = Awkward("a", 3)
    parts = packed(pickling.Parts(type(error), error.args, error.__dict__)).open()
    found = pickling.put_together(parts)
    assert (type(found), found.args, found.__dict__) == (Awkward, ("a:3",), {"line": 3})
    assert pickling.put_together(error) is error


def test_a_class_that_comes_back_by_value_is_the_one_it_was() -> None:
    """Its methods are not replaced by copies that see other globals."""

    class Local:
        count = 0

        def bump(self) -> int:
            Local.count += 1
            return Local.count

    method = Local.bump
    parcel = pack([Local(), Local], pickling.pickler())
    instance, kind = parcel.open(pickling.Returning)
    assert (kind, type(instance), Local.bump, instance.bump()) == (Local, Local, method, 1)


def test_a_module_is_sent_by_value_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions and what they refer to; afterwards it goes by reference as before."""
    module = types.ModuleType("made_for_this")
    exec("TEN = 10\ndef f(n):\n    return n + TEN", module.__dict__)  # noqa: S102 - the code of this test
    monkeypatch.setitem(sys.modules, "made_for_this", module)
    parcel = pack(module.f, pickling.pickler_by_value(module))
    monkeypatch.delitem(sys.modules, "made_for_this")
    assert parcel.open()(1) == 11
    import cloudpickle

    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_what_cannot_be_pickled_says_so() -> None:
    """By the way that says it better; and the pickler works on."""
    with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object"):
        packed([threading.Lock()])
    assert packed([1]).open() == [1]


class Refusing:
    """Refuses to be pickled."""

    def __reduce__(self) -> NoReturn:
        raise KeyError("mine")


def test_what_a_value_raises_while_it_is_pickled_is_raised() -> None:
    """As it is, and what had been written by then is closed."""
    with pytest.raises(KeyError, match="mine"):
        packed([bytes(2 * MEGABYTE), np.arange(300_000), Refusing()])


def test_a_page_that_the_kernel_holds_keeps_nobody_from_sealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file is said to be busy another seal is taken, which forbids the same from then on."""
    import fcntl

    original = fcntl.fcntl

    def busy(fd: int, command: int, argument: int = 0) -> Any:
        if command == fcntl.F_ADD_SEALS and argument & fcntl.F_SEAL_WRITE:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return original(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", busy)
    parcel = packed(b"x" * 2 * MEGABYTE)
    assert parcel.file is not None
    with pytest.raises(PermissionError):
        os.pwrite(parcel.file.fd, b"y", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(parcel.file.fd, 10)
    assert parcel.open() == b"x" * 2 * MEGABYTE
