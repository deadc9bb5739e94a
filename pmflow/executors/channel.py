"""One worker, as the program sees it: its process, its channel, and what its replies and its death mean."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pmflow.errors import ProcessError, TransferError, WorkerCrashedError
from pmflow.executors import wire
from pmflow.executors.base import BEGAN, Call
from pmflow.executors.platform import describe_exit, interpreter_flags
from pmflow.outcomes import Failure, Success

if TYPE_CHECKING:
    from pmflow.executors.workers import WorkerSession

MAIN = str(Path(__file__).with_name("worker_main.py"))


class RemoteTracebackError(Exception):
    """The traceback of an exception as it was in the worker; the cause of the exception that arrives here."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class Worker:
    """A worker process, as its owner sees it.

    ``links`` are those of its chain that it has not replied to, the first the one it runs; ``unsent`` the one after
    them, which could not be pickled; ``dropping`` says that what it replies is no longer wanted; ``unread`` that it has
    ended without having read all that was sent.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
        lifeline: int,
        selector: selectors.BaseSelector,
    ) -> None:
        self.process = process
        self.connection = connection
        self.unread = self.replied = False
        self._lifeline = lifeline
        self._events = selectors.EVENT_READ
        self.name = str(process.pid)
        self.ready = False
        self.frames = wire.Frames()
        self.known: set[bytes] = set()
        self.path: list[str] = []
        self.links: deque[Call] = deque()
        self.tokens: deque[bytes] = deque()
        self.unsent: tuple[Call, TransferError] | None = None
        self.session: WorkerSession | None = None
        self.dropping = False
        self.value: Any = None
        self._selector = selector
        self._waiting: deque[memoryview] = deque()
        selector.register(connection, selectors.EVENT_READ, self)

    def for_session(self) -> WorkerSession:
        """Return the run whose chain it has."""
        if self.session is None:
            raise AssertionError(f"worker {self.name} has replied without having been asked")
        return self.session

    def set_up(self) -> None:
        """Tell it where modules are looked for; it forgets the functions that it has."""
        self.path = search_path()
        self.known.clear()
        self.send(wire.frame(wire.Setup(self.path)))

    def begin(self, *, deliver: bool = True) -> None:
        """Note that the first of its links begins."""
        call = self.links[0]
        call.started = perf_counter()
        if deliver and call.observed and self.session is not None:
            self.session.port.deliver(call, BEGAN)

    def clear(self) -> None:
        """Forget the chain."""
        self.links.clear()
        self.tokens.clear()
        self.unsent = self.session = self.value = None
        self.dropping = self.replied = False

    @property
    def untouched(self) -> bool:
        """Whether it has ended without having read its chain to the end, so that nothing of it can have begun.

        A socket whose other side ends with something unread is reset; one that was read to the end just ends.
        """
        return not self.replied and (self.unread or bool(self._waiting))

    def send(self, data: bytes) -> None:
        """Send bytes, now or when the worker takes them."""
        waits = bool(self._waiting)
        self._waiting.append(memoryview(data))
        if not waits:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        waiting = self._waiting
        try:
            while waiting:
                sent = self.connection.send(waiting[0])
                if sent < len(waiting[0]):
                    waiting[0] = waiting[0][sent:]
                else:
                    waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.unread = True
            waiting.clear()  # it is dead: reading says so too
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        if events != self._events:
            self._events = events
            self._selector.modify(self.connection, events, self)

    def close(self) -> None:
        """Let go of its channel, once it has ended."""
        self._selector.unregister(self.connection)
        self.let_go()

    def let_go(self) -> None:
        """Close this program's copies of what connects them; the worker notices when there are no others."""
        self.connection.close()
        os.close(self._lifeline)


def started() -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """Start a worker; return it with this program's ends of its channel and of its lifeline.

    Raises:
        OSError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    end, lifeline = os.pipe()
    theirs_there = _above_standard(theirs.detach())
    end = _above_standard(end)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own file
            [sys.executable, *interpreter_flags(), MAIN, str(theirs_there), str(end)],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs_there, end],
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        os.close(lifeline)
        raise
    finally:
        os.close(theirs_there)
        os.close(end)
    ours.setblocking(False)  # noqa: FBT003
    return process, ours, lifeline


def search_path() -> list[str]:
    """Return where the program looks for modules; ``""`` is its working directory now."""
    if "" not in sys.path:
        return list(sys.path)
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # it was removed
        here = os.sep
    return [path or here for path in sys.path]


def _above_standard(descriptor: int) -> int:
    """Return the descriptor, moved if it is one of the standard three, which are the user's."""
    if descriptor > 2:  # noqa: PLR2004 - stderr
        return descriptor
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def outcome_of(call: Call, reply: wire.Reply, worker: Worker) -> Success | Failure:
    """Return a reply as an outcome."""
    if reply.kind == wire.VALUE:
        try:
            value = worker.value = wire.loads(reply.payload)
        except BaseException as error:
            failed: ProcessError = TransferError(
                f"what '{call.label}' returned cannot be unpickled here: {type(error).__name__}: {error}",
                process_id=call.label,
            )
            failed.__cause__ = error
            return Failure(failed, reply.started, reply.ended, worker=worker.name)
        return Success(value, reply.started, reply.ended, (1, worker.name, True))
    if reply.kind == wire.UNSENDABLE:
        kind, _, reason = reply.text.partition("\n")
        failed = TransferError(
            f"what '{call.label}' returned cannot leave its worker process: {kind} cannot be pickled ({reason}); "
            f"return plain data, or use type='thread'",
            process_id=call.label,
            type_name=kind,
        )
        return Failure(failed, reply.started, reply.ended, worker=worker.name)
    exception = _exception(call, reply)
    if reply.kind == wire.UNREADABLE:
        failed = TransferError(
            f"the function or the arguments of '{call.label}' cannot be unpickled in a worker process: "
            f"{type(exception).__name__}: {exception}",
            process_id=call.label,
        )
        failed.__cause__ = exception
        exception = failed
    return Failure(exception, reply.started, reply.ended, traceback=reply.text, worker=worker.name)


def _exception(call: Call, reply: wire.Reply) -> Any:
    """Return the exception itself, or one that tells of it where it did not survive the journey."""
    try:
        found: Any = wire.put_together(wire.loads(reply.payload))
    except BaseException as error:
        found = (
            "Exception",
            f"{reply.text.strip().rpartition(chr(10))[2]} (here: {type(error).__name__}: {error})",
            [],
        )
    if not isinstance(found, BaseException):
        name, message, notes = found
        found = ProcessError(f"{name}: {message}", process_id=call.label, type_name=name)
        if isinstance(notes, (list, tuple)):
            found.__dict__["__notes__"] = [str(note) for note in notes]
    if found.__cause__ is None:
        with suppress(Exception):  # a class of the user's may refuse
            found.__cause__ = RemoteTracebackError(reply.text)
    return found


def crashed(call: Call, code: int) -> WorkerCrashedError:
    """Return the error of a call whose worker has died."""
    exit_code, signal_name = describe_exit(code)
    elapsed = perf_counter() - call.started
    hint = {
        "SIGKILL": "somebody killed it, often the system for want of memory",
        "SIGSEGV": "C code touched memory that is not its own",
        "SIGABRT": "C code gave up",
    }.get(signal_name or "", "os._exit, or C code, ended it")
    return WorkerCrashedError(
        f"the worker that ran '{call.label}' died after {elapsed:.3g} s: {how(code)} ({hint}); "
        f"only this call is lost, and it may be tried again",
        process_id=call.label,
        exit_code=exit_code,
        signal=signal_name,
        elapsed=elapsed,
    )


def how(code: int) -> str:
    """Return how a process ended, in words."""
    exit_code, signal_name = describe_exit(code)
    return signal_name or f"exit code {exit_code}"
