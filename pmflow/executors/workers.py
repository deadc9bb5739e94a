"""Worker processes: started by a command of ours, fed through socket pairs, killed when they are to stop.

One daemon thread, the *owner*, has all the workers and all their channels; runs talk to it through a queue of commands
and one wake-up a burst, so no run can block another. A worker has one chain in flight. It is started when there is work
for it, stays warm between runs, and a call is only sent to a worker that has said that it is ready, so starting one is
charged to nobody.

    idle --(chain sent)--> busy --(last reply)--> idle
                             |
                             +--(stop, death)--> killed with its process group, and replaced when there is work

A worker that dies costs the link it was running. First its replies are read, for what it has written before its death
counts; then the link whose turn it was is charged, and no other.
"""

from __future__ import annotations

import atexit
import os
import pickle
import selectors
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from time import perf_counter
from typing import Any

from pmflow.errors import ConfigurationError, ShutdownError, TransferError, WorkerCrashedError
from pmflow.executors import wire
from pmflow.executors.base import BEGAN, Call, Port, PriorityQueue, Stopped
from pmflow.executors.channel import MAIN, Worker, crashed, how, outcome_of, search_path, started
from pmflow.executors.platform import interpreter_flags, kill_group
from pmflow.outcomes import Failure

FUNCTIONS_KEPT = 1_000
"""Functions that a worker holds at most before it is told to forget them all."""

CLOSING = 5.0
"""Seconds that the owner gets to close."""

MOST_FALSE_STARTS = 3
"""Workers that died before they were ready, in a row, until it is given up."""

CHUNK = 65_536

_starting = threading.Lock()
"""Held while descriptors are made for a worker, and during a fork: a child must know of all those it has to close."""

_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_all() -> None:
    """In a forked child: the workers are the parent's."""
    _starting.release()
    for pool in list(_pools):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_forget_all)


class WorkerPool:
    """An executor. Its workers are started when there is work, and stay.

    Args:
        size: how many workers there are at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._over = False
        self._set_up()
        _pools.add(self)

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._commands: deque[Callable[[], None]] = deque()
        self._armed = False
        self._thread: threading.Thread | None = None
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._turns: deque[WorkerSession] = deque()
        self._false_starts = 0
        self._closed = False

    def forget(self) -> None:
        """Let go of everything, in a forked child: the workers are the parent's."""
        workers, thread = self._workers, self._thread
        self._set_up()
        for worker in workers:
            worker.let_go()
            worker.process.returncode = 0  # not this program's to wait for
        if thread is not None:
            self._close_channels()

    def _close_channels(self) -> None:
        self._selector.close()
        self._ear.close()
        self._mouth.close()

    def open(self, port: Port, slots: int | None = None) -> WorkerSession:
        """Begin a run."""
        return WorkerSession(self, port, min(slots or self.size, self.size))

    def close(self) -> None:
        """End all workers, with everything in their process groups; calls under way are `Stopped`.

        Used again, the pool begins anew.
        """
        thread = self._thread
        if thread is None:
            return
        self.command(self._close)
        thread.join(CLOSING)
        if thread.is_alive():  # it is in some value's own unpickling, say
            for worker in list(self._workers):
                kill_group(worker.process.pid)
            return
        atexit.unregister(self._end_of_program)
        self._close_channels()
        self._set_up()

    def _end_of_program(self) -> None:
        self._over = True  # a daemon thread may still ask for more
        self.close()

    def _close(self) -> None:
        self._closed = True
        calls = [(session, session.queue.pop()) for session in self._turns for _ in range(len(session.queue))]
        for worker in list(self._workers):
            if worker.session is not None and worker.links and not worker.dropping:
                calls.append((worker.session, worker.links[0]))
            self._end(worker)
        for session, call in calls:
            session.port.deliver(call, Stopped(perf_counter(), ended=True))

    def command(self, function: Callable[[], None]) -> None:
        """Have the owner call a function.

        Raises:
            ShutdownError: the program is ending.
        """
        if self._over and function != self._close:
            raise ShutdownError("the interpreter is shutting down, so no worker can be started")
        self._commands.append(function)
        if self._armed:
            return
        with self._lock:
            if self._thread is None:
                self._start()
            if not self._armed:
                self._armed = True
                self._mouth.send(b"!")

    def _start(self) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("type='process' needs a system with Unix sockets; use type='thread' on Windows")
        with _starting:  # a child that is forked meanwhile would not know what it has to close
            self._selector = selectors.DefaultSelector()
            self._ear, self._mouth = socket.socketpair()
            self._ear.setblocking(False)  # noqa: FBT003 - as Python has it
            self._selector.register(self._ear, selectors.EVENT_READ, None)
            self._thread = threading.Thread(target=self._own, name="pmflow-workers", daemon=True)
        atexit.register(self._end_of_program)
        self._thread.start()

    # The owner thread

    def _own(self) -> None:
        while not self._closed:
            for key, events in self._selector.select():
                worker: Worker | None = key.data
                if worker is None:
                    self._ear.recv(4096)
                    self._armed = False  # after it was emptied: whoever arms it now is heard
                elif worker in self._workers:
                    if events & selectors.EVENT_WRITE:
                        worker.flush()
                    if events & selectors.EVENT_READ:
                        self._read(worker)
            while self._commands:
                self._safely(self._commands.popleft())
            self._safely(self._hand_out)

    @staticmethod
    def _safely(step: Callable[[], None]) -> None:
        """Take a step; a defect in one costs that one, and not every run of the program."""
        try:
            step()
        except Exception:
            import logging

            logging.getLogger("pmflow").exception("a step of the worker pool failed")

    def enqueue(self, session: WorkerSession, chains: Sequence[Call]) -> None:
        """Queue the chains of a run."""
        if session not in self._turns:
            self._turns.append(session)
        session.queue.push(chains)

    def stop(self, session: WorkerSession, call: Call) -> None:
        """Take a call out of the queue, or kill the worker that runs it."""
        worker: Worker | None = call.handle
        if worker is None:
            if not session.queue.remove(call):
                return  # it has just been refused, or stopped: its outcome is on its way
            call.stopped = True
            session.port.deliver(call, Stopped(perf_counter(), ended=True))
            return
        if call.stopped or worker not in self._workers:
            return
        self._read(worker)  # what has arrived counts
        if worker in self._workers and worker.links and worker.links[0] is call:
            call.stopped = True
            self._end(worker)
            session.port.deliver(call, Stopped(perf_counter(), ended=True))

    def _hand_out(self) -> None:
        """Give chains to workers, from the runs in turn."""
        while self._idle and (session := self._next()) is not None:
            self._assign(self._idle.pop(), session, session.queue.pop())
        wanted = sum(min(len(each.queue), each.slots - each.running) for each in self._turns)
        starting = sum(not worker.ready for worker in self._workers)
        if self._false_starts >= MOST_FALSE_STARTS and self._workers:
            return  # those there are do the work
        for _ in range(min(wanted - starting, self.size - len(self._workers))):
            if not self._start_worker():
                return

    def _next(self) -> WorkerSession | None:
        """Return the run whose turn it is, of those that may have a further call running."""
        turns = self._turns
        for _ in range(len(turns)):
            session = turns.popleft()
            if session.queue:
                turns.append(session)
                if session.running < session.slots:
                    return session
        return None

    def _assign(self, worker: Worker, session: WorkerSession, call: Call) -> None:
        if worker.path != search_path() or len(worker.known) >= FUNCTIONS_KEPT:
            worker.set_up()
        links = []
        link: Call | None = call
        while link is not None:
            try:
                links.append(self._encoded(worker, session, link))
            except TransferError as refused:
                worker.unsent = (link, refused)
                break
            worker.links.append(link)
            link.handle = worker
            link = link.then
        if not links:
            _, error = worker.unsent  # type: ignore[misc]  # it was the first
            worker.unsent = None
            self._idle.append(worker)
            now = perf_counter()
            session.port.deliver(call, Failure(error, now, now))
            return
        session.running += 1
        worker.session = session
        worker.begin()
        worker.send(wire.frame(links))

    def _encoded(self, worker: Worker, session: WorkerSession, call: Call) -> wire.Link:
        token, payload = session.function(call)
        arguments = session.arguments(call)  # refused before anything is noted as sent
        sent = None
        if token not in worker.known:
            worker.known.add(token)
            sent = payload
        worker.tokens.append(token)
        return wire.Link(token, sent, arguments, call.feed)

    # What workers say

    def _read(self, worker: Worker) -> None:
        while True:
            try:
                data = worker.connection.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError:  # reset: it has ended without having read all
                worker.unread = True
                data = b""
            if not data:
                self._bury(worker)
                return
            try:
                for body in worker.frames.feed(data):
                    self._take(worker, wire.Reply(*pickle.loads(body)))
            except Exception as error:
                self._misunderstand(worker, error)
                return
            if len(data) < CHUNK:
                return

    def _misunderstand(self, worker: Worker, error: Exception) -> None:
        """End a worker on whose channel something else has written; the link it was running is charged."""
        session, links = worker.session, list(worker.links)
        self._end(worker)
        if session is not None and links:
            failed = WorkerCrashedError(
                f"the worker that ran '{links[0].label}' was ended: what came from it is no reply ({error}); "
                f"its function may have written to a descriptor that it did not open",
                process_id=links[0].label,
                elapsed=perf_counter() - links[0].started,
            )
            session.port.deliver(links[0], Failure(failed, links[0].started, perf_counter(), worker=worker.name))

    def _take(self, worker: Worker, reply: wire.Reply) -> None:
        if reply.kind == wire.READY:
            if not worker.ready:
                worker.ready = True
                self._false_starts = 0
                self._idle.append(worker)
            return
        session, call = worker.for_session(), worker.links.popleft()
        worker.replied = True
        token = worker.tokens.popleft()
        if reply.kind == wire.UNKNOWN:
            self._again_by_value(worker, call, token, reply)
            return
        outcome = outcome_of(call, reply, worker)
        if worker.dropping:
            pass
        elif isinstance(outcome, Failure):
            session.port.deliver(call, outcome)
            worker.dropping = (
                bool(worker.links) and reply.kind == wire.VALUE
            )  # it cannot be opened here: the worker goes on
        else:
            if worker.links:
                worker.begin(deliver=False)
            session.port.deliver(call, outcome)
            if worker.links and worker.links[0].observed:
                session.port.deliver(worker.links[0], BEGAN)
        if not worker.links or (isinstance(outcome, Failure) and not worker.dropping):
            self._free(worker)

    def _free(self, worker: Worker) -> None:
        """Note that a worker's chain has ended."""
        session, unsent = worker.for_session(), worker.unsent
        worker.clear()
        session.running -= 1
        self._idle.append(worker)
        if unsent is not None and not unsent[0].stopped:
            now = perf_counter()
            session.port.deliver(unsent[0], Failure(unsent[1], now, now))

    def _again_by_value(self, worker: Worker, call: Call, token: bytes, reply: wire.Reply) -> None:
        """Send a chain again from a link on whose function the worker does not have, or has with other code."""
        session = worker.for_session()
        links = [call, *worker.links]
        worker.known.clear()
        before = worker.value
        worker.clear()
        session.running -= 1
        self._idle.append(worker)
        if session.is_by_value(call) and token == session.function(call)[0]:
            now = perf_counter()
            error = TransferError(f"'{call.label}' cannot run in a worker: {reply.text}", process_id=call.label)
            session.port.deliver(call, Failure(error, now, now))
            return
        if not session.is_by_value(call):
            session.send_by_value(call)
        if call.feed is not None:
            call.args, call.kwargs = call.arguments(before)
            call.feed = None
        for link in links:
            link.handle = None
        call.started = 0.0
        self.enqueue(session, [call])

    # Lives and deaths

    def _start_worker(self) -> bool:
        """Start a worker; False if that has been given up."""
        while True:
            try:
                with _starting:
                    worker = Worker(*started(), self._selector)
                    self._workers.add(worker)
            except OSError as error:
                if self._false_start(str(error)):
                    return False
            else:
                worker.set_up()
                return True

    def _end(self, worker: Worker) -> None:
        """Kill a worker with its process group, and forget it."""
        kill_group(worker.process.pid)
        worker.process.wait()
        worker.close()
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.session is not None:
            worker.session.running -= 1

    def _bury(self, worker: Worker) -> None:
        """Charge the link that a worker was running when it died."""
        if worker not in self._workers:
            return
        session, links, untouched = worker.session, list(worker.links), worker.untouched
        self._end(worker)  # one that is ending keeps its exit code; one that has only closed its channel is killed
        code = worker.process.returncode
        if not worker.ready:
            self._false_start(how(code))
        elif session is None or not links or worker.dropping:
            return
        elif untouched:
            for link in links:
                link.handle, link.started = None, 0.0
            self.enqueue(session, links[:1])
        else:
            session.port.deliver(
                links[0], Failure(crashed(links[0], code), links[0].started, perf_counter(), worker=worker.name)
            )

    def _false_start(self, how: str) -> bool:
        """Count a worker that did not come up; give up, and say so, after some in a row with no other at work."""
        self._false_starts += 1
        if self._false_starts < MOST_FALSE_STARTS or any(worker.ready for worker in self._workers):
            return self._false_starts >= MOST_FALSE_STARTS
        self._give_up(how)
        return True

    def _give_up(self, how: str) -> None:
        self._false_starts = 0
        now = perf_counter()
        command = " ".join([sys.executable, *interpreter_flags(), MAIN])
        for session in self._turns:
            while session.queue:
                call = session.queue.pop()
                error = WorkerCrashedError(
                    f"'{call.label}' was not started: {MOST_FALSE_STARTS} workers in a row ended at once "
                    f"({how}); see what this command says: {command}",
                    process_id=call.label,
                )
                session.port.deliver(call, Failure(error, now, now))
        self._turns.clear()


class WorkerSession:
    """One run's use of the pool."""

    queues = True
    window = 2_000

    def __init__(self, pool: WorkerPool, port: Port, slots: int) -> None:
        self.queue = PriorityQueue()
        self.running = 0
        self.slots = slots
        self.port = port
        self._pool = pool
        self._functions: dict[int, tuple[Any, bytes, bytes, bool]] = {}

    def submit(self, chains: Sequence[Call]) -> None:
        """Queue chains."""
        try:
            self._pool.command(lambda: self._pool.enqueue(self, chains))
        except ShutdownError:
            for call in chains:
                self.port.deliver(call, Stopped(perf_counter(), ended=True))
            raise

    def stop(self, call: Call) -> None:
        """Take a call out of the queue, or kill the worker that runs it."""
        with suppress(ShutdownError):  # then everything is stopped anyway
            self._pool.command(lambda: self._pool.stop(self, call))

    def close(self) -> None:
        """Forget the run's functions."""
        self._functions.clear()

    # For the owner

    def function(self, call: Call) -> tuple[bytes, bytes]:
        """Return the token and the pickle of a call's function, made once per run: a closure may change between runs.

        Raises:
            TransferError: it cannot be pickled.
        """
        known = self._functions.get(id(call.function))
        if known is None:
            known = self._pickled(call, by_value=False)
        return known[1], known[2]

    def is_by_value(self, call: Call) -> bool:
        """Whether a call's function goes by value as a whole."""
        known = self._functions.get(id(call.function))
        return known is not None and known[3]

    def send_by_value(self, call: Call) -> None:
        """Send a call's function by value from now on."""
        self._pickled(call, by_value=True)

    def _pickled(self, call: Call, *, by_value: bool) -> tuple[Any, bytes, bytes, bool]:
        function = call.function
        try:
            payload = wire.dumps(function, value_of=_module_of(function) if by_value else None)
        except BaseException as error:
            raise TransferError(
                f"'{call.label}' cannot go to a worker process: {type(error).__name__}: {error}; "
                f"keep what cannot be pickled out of what its function remembers, or use type='thread'",
                process_id=call.label,
                type_name=type(function).__name__,
            ) from error
        token = blake2b(payload, digest_size=16).digest()
        known = self._functions[id(function)] = (function, token, payload, by_value)
        return known

    def arguments(self, call: Call) -> bytes:
        """Return the pickle of a call's arguments.

        Raises:
            TransferError: one of them cannot be pickled.
        """
        try:
            return wire.dumps_quickly((tuple(call.args), dict(call.kwargs)))
        except BaseException as error:
            name, value = _culprit(call)
            raise TransferError(
                f"'{call.label}' cannot receive {name!r} in a worker process: {_type_name(value)} cannot be pickled "
                f"({type(error).__name__}: {error}); pass what it takes to make one, or use type='thread'",
                process_id=call.label,
                parameter=name,
                type_name=_type_name(value),
            ) from error


def _culprit(call: Call) -> tuple[str, Any]:
    """Return the first argument that cannot be pickled, and its name."""
    import inspect

    try:
        names = list(inspect.signature(call.function).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {place}" for place in range(len(names), len(call.args))]
    named = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    for name, value in named.items():
        try:
            wire.dumps_quickly(value)
        except BaseException:
            return name, value
    return "its arguments", call.args


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _module_of(function: Any) -> Any:
    """Return the module of a function, of what a partial calls, or of the class of an object."""
    function = getattr(function, "func", function)
    function = getattr(function, "__func__", function)
    name = getattr(function, "__module__", None) or type(function).__module__
    return sys.modules.get(name)
