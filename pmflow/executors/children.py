"""A child process: what it is told, what it says, and its end, with that of all it has started.

One wait serves all of its pipes: a selector is itself something an event loop can wait for. So there are two places
where a cancellation strikes, that wait and the one for its end, on whatever loop, and the start is none of them: it is
one call. A child that has been started is always waited for, and only after nothing can end it any more: until then
its number names nobody else.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, NamedTuple

from anyio import CancelScope, get_cancelled_exc_class, to_thread, wait_readable

from pmflow.executors.inline import OURS
from pmflow.executors.platform import kill_session
from pmflow.executors.threads import ended_by

PIECE = 1 << 16
"""How many bytes are read or written at once: what a pipe holds."""

TAIL = 1 << 14
"""How many bytes of stderr are kept: its end says what went wrong, and still fits into an exception from a worker."""


class Ended(NamedTuple):
    """How a child has ended: its return code as `subprocess` has it, its output, and the end of its stderr."""

    returncode: int
    output: bytes
    stderr: bytes


class Child:
    """A child process, in a session of its own.

    Args:
        arguments: its argument list; no shell reads it.
        folder: where it runs; None: where this program does.
        environment: its environment; None: this program's.
        told: what it reads from stdin; None: nothing.
        heard: whether its output is kept.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: str | None,
        environment: Mapping[str, str] | None,
        told: bytes | None,
        heard: bool,
    ) -> None:
        self._arguments = arguments
        self._folder = folder
        self._environment = environment
        self._pipes = (DEVNULL if told is None else PIPE, PIPE if heard else DEVNULL, PIPE)
        self._rest = memoryview(told or b"")
        self._output: list[bytes] = []
        self._stderr = bytearray()
        self._process: Popen[bytes] | None = None
        self._pidfd = -1
        self._given_up = False
        self._selector = selectors.DefaultSelector()

    async def run(self) -> Ended:
        """Start it, talk with it, and wait for its end; if that is cancelled, it ends with all it has started.

        Raises:
            OSError: it could not be started.
            ValueError: it could not be started, as an argument is none that the system can hand over.
        """
        try:
            with ended_by(self.end):
                process = self._start()
                while self._selector.get_map():
                    await wait_readable(self._selector.fileno())
                    for key, _ in self._selector.select(0):
                        key.data()
                await self._until_ended()
            return Ended(process.wait(), b"".join(self._output), bytes(self._stderr))
        except GeneratorExit:  # its loop is no more: nothing can be awaited
            self.end()
            if self._process is not None:
                self._process.wait()
            raise
        except BaseException:
            self.end()
            await self._reaped()
            raise
        finally:
            self._close()

    def end(self) -> None:
        """Kill it, with all that it has started; from any thread."""
        self._given_up = True
        if self._process is not None and self._process.returncode is None:
            kill_session(self._process.pid)

    # Its start

    def _start(self) -> Popen[bytes]:
        with interrupts_held():
            process = self._process = self._popen()
        if self._given_up:
            self.end()
        with suppress(AttributeError, OSError):  # not Linux, an old one, or one that allows none
            self._pidfd = os.pidfd_open(process.pid)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE, partial(self._tell, process.stdin))
        for pipe, keep in ((process.stdout, self._output.append), (process.stderr, self._keep_end)):
            if pipe is not None:
                self._selector.register(pipe, selectors.EVENT_READ, partial(self._hear, pipe, keep))
        return process

    def _popen(self) -> Popen[bytes]:
        stdin, stdout, stderr = self._pipes
        return Popen(  # noqa: S603 - what it runs is what the author of the command has written, and no shell
            self._arguments,
            bufsize=0,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,
        )

    # The conversation

    def _tell(self, pipe: IO[bytes]) -> None:
        """Write what there is room for."""
        try:
            self._rest = self._rest[os.write(pipe.fileno(), self._rest[:PIECE]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no further, which is its own business
            self._rest = self._rest[:0]
        if not self._rest:
            self._hang_up(pipe)

    def _hear(self, pipe: IO[bytes], keep: Callable[[bytes], object]) -> None:
        """Read what is there."""
        data = os.read(pipe.fileno(), PIECE)
        if data:
            keep(data)
        else:
            self._hang_up(pipe)

    def _keep_end(self, data: bytes) -> None:
        self._stderr += data
        del self._stderr[:-TAIL]

    def _hang_up(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        pipe.close()

    # Its end

    async def _until_ended(self) -> None:
        """Wait until it has ended; where that can be seen from outside, it is not reaped yet."""
        if self._pidfd >= 0:
            await wait_readable(self._pidfd)
        elif self._process is not None:
            await to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    async def _reaped(self) -> None:
        """Reap what has been killed, whatever is cancelled meanwhile (asyncio cancels tasks behind every shield)."""
        with CancelScope(shield=True):
            while self._process is not None and self._process.poll() is None:
                with suppress(get_cancelled_exc_class()):
                    await self._until_ended()

    def _close(self) -> None:
        self._selector.close()
        process = self._process
        for pipe in () if process is None else (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)


OURS.add(Child.run.__code__)


@contextmanager
def interrupts_held() -> Generator[None]:
    """Let Ctrl-C wait until the end of this: raised within `Popen`, it would lose a child that has just begun."""
    here = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if here else None
    if not callable(handler):  # nothing is raised here: Python's handlers run in the main thread
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(held[0], sys._getframe())  # noqa: SLF001 - the place where it strikes
