"""The kinds of work people have, each as functions that go to workers by reference: what `strategies` runs.

As a program, this file is the server that is waited for: it listens on the loopback interface only, prints its port,
and ends when its standard input does, which is when the benchmark ends, whatever ends it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from time import sleep
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

HOST = "127.0.0.1"

BACKLOG = 1_024
"""How many connections may wait to be taken: one that finds no room is tried again after a second."""

TEXT = Random(0).randbytes(500_000).hex().encode()  # noqa: S311 - the same on every machine, and no secret
"""A megabyte that can be compressed to half."""


@frozen
class Kind:
    """A kind of work.

    Args:
        name: in one word.
        title: in plain words.
        call: what a call does, as a loop by hand calls it.
        steps: the same as a chain: the first takes the inputs, each other one, as ``a``, what the one before returned.
        coroutines: the same as coroutine functions, where the kind has them.
        inputs: of a call.
        at_once: numbers of calls that are independent of one another.
    """

    name: str
    title: str
    call: Callable[..., Any]
    steps: Sequence[Callable[..., Any]]
    coroutines: Sequence[Callable[..., Coroutine[Any, Any, Any]]]
    inputs: Mapping[str, Any]
    at_once: Sequence[int]


# Waiting for a server


async def serve() -> None:
    """Answer everybody who says for how many seconds, after so many seconds."""
    listening = await asyncio.start_server(_answer, HOST, 0, backlog=BACKLOG)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    listening.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    seconds = await reader.readline()
    await asyncio.sleep(float(seconds))
    writer.write(seconds)
    writer.close()
    await writer.wait_closed()


@contextmanager
def server() -> Generator[int]:
    """Have a server in a program of its own; give its port. Ctrl-C does not reach it: the end of its input ends it."""
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        yield int(program.stdout.readline())


def answered(port: int, seconds: float) -> float:
    """Ask the server, wait for its answer, and return it."""
    with socket.create_connection((HOST, port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(f"{seconds}\n".encode())
        return float(answers.readline())


async def answered_later(port: int, seconds: float) -> float:
    """Ask the server, wait for its answer, and return it."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"{seconds}\n".encode())
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return float(answer)


# Computing


def computed(iterations: int) -> int:
    """Keep a core busy, in Python alone."""
    value = 0
    for number in range(iterations):
        value += number * number % 7
    return value


def compressed(times: int) -> int:
    """Compress a tenth of the text so many times; return how small it gets."""
    part = memoryview(TEXT)[: len(TEXT) // 10]
    return sum(len(zlib.compress(part)) for _ in range(times))


def hashed(times: int) -> str:
    """Hash the text so many times over, a megabyte at a time."""
    digest = hashlib.sha256()
    for _ in range(times):
        digest.update(TEXT)
    return digest.hexdigest()


def sorted_numbers(elements: int) -> float:
    """Draw so many numbers, sort them, and return the middle one."""
    import numpy as np

    numbers = np.random.default_rng(0).random(elements)
    numbers.sort()
    return float(numbers[elements // 2])


# Next to nothing, and something large


def tiny() -> int:
    """Do nothing."""
    return 1


async def tiny_later() -> int:
    """Do nothing."""
    return 1


def made(elements: int) -> Array:
    """Make an array; every page of it is written."""
    import numpy as np

    return np.ones(elements)


def changed(a: Array) -> Array:
    """Change all of an array in place, and hand it on."""
    a *= 3
    return a


def reduced(a: Array) -> float:
    """Make one number of an array."""
    return float(a.sum())


def made_changed_reduced(elements: int) -> float:
    """Do all three."""
    return reduced(changed(made(elements)))


# The list of them

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "waiting",
            "waiting for a server",
            answered,
            [answered],
            [answered_later],
            {"seconds": 0.01},
            (1, 8, 64, 256),
        ),
        Kind("python", "computing in pure Python", computed, [computed], [], {"iterations": 80_000}, (1, 8, 64)),
        Kind("zlib", "compressing with zlib", compressed, [compressed], [], {"times": 2}, (1, 8, 64)),
        Kind("hashlib", "hashing with hashlib", hashed, [hashed], [], {"times": 8}, (1, 8, 64)),
        Kind("numpy", "sorting with numpy", sorted_numbers, [sorted_numbers], [], {"elements": 100_000}, (1, 8, 64)),
        Kind("tiny", "doing nothing", tiny, [tiny], [tiny_later], {}, (1, 8, 64, 256, 1_024)),
        Kind(
            "array",
            "making, changing and reducing an array of 8 MB",
            made_changed_reduced,
            [made, changed, reduced],
            [],
            {"elements": 1_000_000},
            (1, 8, 32),
        ),
    )
}


# Before the clock starts


def begun(seconds: float) -> tuple[int, int]:
    """Import what calls import, hold this place until the others have begun, and return which it is."""
    import numpy as np

    assert np.ones(1).sum() == 1
    sleep(seconds)
    return os.getpid(), threading.get_ident()


if __name__ == "__main__":
    asyncio.run(serve())
