"""Worker processes: the pool, and who of its workers runs what.

Two kinds of threads meet here, under one lock. A run's own thread encodes what it submits, gives it to workers that can
take it, and sends it, without waiting for anybody. The *owner* (see `owner`) hears the workers and their keeper (the
warden): it takes replies, sends what runs have queued, and notices deaths. Nothing is called under the lock that waits,
or that is the user's: what takes such code is handed to the run (`Sealed`, `Errand`, handles).

A worker's life:

    forked --(ready)--> free --(chains of a run)--> busy --(last reply)--> free
                         |                           |
                         +---------(stop, death)-----+--> ended, and replaced when there is work

A worker has chains of one run at a time, as many ahead as make a millisecond of work, one after the other. What waits
behind a call that is late, or that is long while somebody is free, is called back (`Worker.call_back`): the worker's
status page says which of it had not begun.

Invariant: a chain is in the queue of its run (``worker`` of its item is None), or in ``sent`` of one worker, or its
outcome has been told.

A worker that dies costs the link it was running. First its replies are read, for what it has written before its death
counts; then its page is; the link on it is charged, and no other. Everything else that it had goes back to the queue.
"""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

from pmflow.errors import ConfigurationError, ShutdownError, TransferError, WorkerCrashedError
from pmflow.executors import blocks, pickling, wire
from pmflow.executors.base import (
    BEGAN,
    Block,
    Call,
    Delivered,
    Errand,
    Logged,
    Part,
    Port,
    Progressed,
    Split,
    Stopped,
    Yielded,
)
from pmflow.executors.batches import AHEAD, Batch, links_of
from pmflow.executors.channel import LATE, OVERHEAD, Held, Item, Worker, crashed, how, outcome_of
from pmflow.executors.owner import Owner
from pmflow.executors.parcels import LARGE, File, Parcel
from pmflow.executors.platform import starved
from pmflow.executors.sessions import MOST, Pace, WorkerSession
from pmflow.executors.surroundings import Modules, Surroundings, carried
from pmflow.executors.warden import GoneError, Keeper, command, keeper
from pmflow.outcomes import RELEASED, Failure, Success

FUNCTIONS_KEPT = 1_000
"""Functions that a worker holds at most before it is told to forget them all."""

TICK = LATE
"""Seconds between two looks at what waits behind a call that is late."""

NAP = 0.0002
"""Seconds for which the owner lets replies gather, while all workers have more to do than that."""

LOOK = 0.25
"""Seconds between two looks, as long as there are runs: none of them has to say when it ends."""

MANY = 8
"""Replies for which it is worth to wait until they have gathered."""

QUIET = 0.05
"""Seconds without a run after which what workers have left behind is killed."""

WRITABLE = selectors.EVENT_WRITE

CLOSING = 5.0
"""Seconds that the owner gets to close."""

MOST_FALSE_STARTS = 3
"""Workers that died before they were ready, in a row, until it is given up."""

_starting = threading.Lock()
"""Held while descriptors are made, and during a fork: a child must know of all those it has to close."""

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
        self._paces: dict[bytes, Pace] = {}
        self._modules = Modules()
        self._set_up()
        _pools.add(self)

    def _set_up(self) -> None:
        self.lock = threading.Lock()
        self._owner: Owner | None = None
        self._keeper: Keeper | None = None
        self._workers: dict[str, Worker] = {}
        self._sessions: set[WorkerSession] = set()
        self._turns: deque[WorkerSession] = deque()
        self._resuming: deque[Item] = deque()  # those that may yield more, and wait for a place
        self._told: deque[tuple[Port, Call, Delivered]] = deque()
        self._telling = threading.RLock()
        self._surroundings: Surroundings | None = None
        self._lost: list[str] = []
        self._false_starts = 0
        self._starved = 0
        self._count = 0
        self._quiet_at: float | None = None

    def forget(self) -> None:
        """Let go of everything, in a forked child: the workers are the parent's."""
        workers, held, owner = self._workers, self._keeper, self._owner
        self._set_up()
        for worker in workers.values():
            worker.let_go()
        if held is not None:
            held.forget()
        if owner is not None:
            owner.let_go()

    def open(self, port: Port, slots: int | None = None) -> WorkerSession:
        """Begin a run."""
        now = Surroundings.now(self.size)
        with self.lock:
            if not self._over:
                self._begin()
        with _starting:  # a child that is forked while a module is imported can never import it
            pickling.pickler()
        with self.lock:
            if self._surroundings is None or self._surroundings != now:
                self._surroundings = now
            if self._modules.reloaded():
                for worker in list(self._workers.values()):
                    worker.stale = True
                    self._retire(worker)
            session = WorkerSession(self, port, min(slots or self.size, self.size), self._surroundings)
            self._sessions.add(session)
            self._quiet_at = None
            self._false_starts = 0  # whatever was in their way may be gone
        return session

    def leave(self, session: WorkerSession) -> None:
        """End a run."""
        with self.lock:
            self._sessions.discard(session)
            for worker in list(self._workers.values()):
                if worker.last is session:
                    worker.last = None
                    worker.stale |= worker.page.has_children
                    self._retire(worker)
            self._retire_surplus()
            if self._sessions or self._owner is None:
                return
            self._quiet_at = perf_counter() + QUIET  # seen at the next look, for there has been a run

    def pace(self, token: bytes) -> Pace:
        """Return how long a function takes, as far as it is known from this run or from others."""
        if len(self._paces) > FUNCTIONS_KEPT:
            self._paces.clear()
        return self._paces.setdefault(token, Pace())

    carried = staticmethod(carried)

    # From a run's thread

    def enqueue(self, session: WorkerSession, chains: Sequence[Call]) -> None:
        """Queue the chains of a run, and hand out what can be.

        Raises:
            ShutdownError: the program is ending.
        """
        if not chains:
            return
        if self._over:
            raise ShutdownError("the interpreter is shutting down, so no worker can be started")
        with self.lock:
            self._begin()
            if not session.queue:
                self._turns.append(session)
            session.queue.push(chains)
            if self._hand_out():
                self._hearing.expect()
            self._hearing.notice()
        self._tell()

    def grant(self, call: Call, count: int) -> None:
        """Let a call yield so many more elements; one that waits for that goes on when there is a place for it."""
        with self.lock:
            item: Item | None = call.handle
            worker = None if item is None else item.worker
            if item is None or worker is None:
                if call.flow is not None:
                    call.flow.grant(count)
            elif item.left:
                self._let_yield(worker, item, count)
            else:
                if not item.owed:
                    self._resuming.append(item)
                item.owed += count
                if self._hand_out():
                    self._hearing.expect()
                self._hearing.notice()
        self._tell()

    def stop(self, session: WorkerSession, call: Call) -> None:
        """Give up a call; what has arrived counts."""
        with self.lock:
            item: Item | None = call.handle
            worker = None if item is None else item.worker
            if item is None:
                if not call.stopped and not call.started:  # else it has ended: its outcome is on its way
                    self._stopped(session, call)
            elif worker is None:
                call.stopped = True  # should it be on its way back to the queue
                if session.queue.remove(call):
                    self._taken_out(session, item)
                    self._stopped(session, call)
            else:
                self._listen(worker)
                if item.worker is worker and not call.stopped:
                    self._stop_sent(worker, item)
                self._hand_out()
        self._tell()

    def expire(self, block: Block, began: float) -> None:
        """Give up the call of a block that began then, if it still runs; what has arrived counts."""
        with self.lock:
            item: Item | None = block.handle
            worker = None if item is None else item.worker
            if item is not None and worker is not None:
                self._listen(worker)
                running = worker.page.running  # a link says first when it begins, and then which it is
                same = worker.page.started == began
                if same and item.worker is worker and item.covers(running) and not worker.ending:
                    item.late = running
                    worker.killed_for = block.single(item.at + running - item.number)
                    self._kill(worker)
        self._tell()

    def _kill(self, worker: Worker) -> None:
        """Have a worker killed; nothing more begins there."""
        worker.page.skip(worker.page.running + 1, 1 << 62)
        worker.ending = True
        if self._keeper is not None:
            self._keeper.kill(worker.name)

    def _stop_sent(self, worker: Worker, item: Item) -> None:
        """Give up a call that a worker has: kill the worker if it has begun, else call it back.

        A worker that has not even passed what was called back before gets no time to run, and is killed too.
        """
        call = item.call
        call.stopped = True
        if worker.ending:
            return  # its end says what becomes of it
        running = worker.page.running
        if running < item.number and worker.call_back(item.number):
            worker.stopping = True  # it may have begun in this moment
            self._hearing.expect()
            return
        if running >= item.number:
            call.started = worker.page.since
        worker.killed_for = call
        self._kill(worker)

    def _stopped(self, session: WorkerSession, call: Call, worker: Worker | None = None) -> None:
        call.stopped, call.handle = True, None
        begun = worker.pid if worker is not None and call.started else None
        self._told.append((session.port, call, Stopped(perf_counter(), ended=True, worker=begun)))

    @staticmethod
    def _taken_out(session: WorkerSession, item: Item) -> None:
        """Note that a chain waits no more, for no worker will have it."""
        for link in links_of(item):
            session.taken(link)

    def _tell(self) -> None:
        """Deliver outcomes, in order, and without the pool's lock: a port may do as it likes."""
        told = self._told
        while told:
            with self._telling:
                while told:
                    port, call, outcome = told.popleft()
                    port.deliver(call, outcome)

    # Handing out

    def _hand_out(self) -> bool:
        """Give chains to workers, from the runs in turn, and send them; True if some wait in a worker."""
        if self._resuming:
            self._resume()
        turns = self._turns
        filled: dict[Worker, Batch] = {}
        idle = 0
        while turns and idle < len(turns):
            session = turns[0]
            idle = 0 if self._give(session, filled) else idle + 1
            if session.queue:
                turns.rotate(-1)
            else:
                turns.popleft()
        waits = False
        for worker, batch in filled.items():
            waits |= worker.has_waiting()
            session = batch.session
            if session.is_behind():  # the run's thread may be waiting for room; it is told in the name of a call it has
                with suppress(IndexError):
                    self._told.append((session.port, session.raw[0], Errand(session.catch_up)))
            if not worker.send(batch.message(), batch.files) and worker.watched:
                self._hearing.watch(worker.connection, worker, writable=True)
        if turns:
            self._start_workers()
        return waits

    def _resume(self) -> None:
        """Let calls yield more for which there is a place."""
        for _ in range(len(self._resuming)):
            item = self._resuming.popleft()
            worker = item.worker
            session = None if worker is None or worker.ending else worker.session
            if worker is None or session is None:
                continue
            if session.busy() < session.slots and self._busy() < self.size:
                count, item.owed = item.owed, 0
                self._let_yield(worker, item, count)
            else:
                self._resuming.append(item)

    def _let_yield(self, worker: Worker, item: Item, count: int) -> None:
        item.left = (item.left or 0) + count
        if not worker.send((wire.GRANT, item.number, count), []) and worker.watched:
            self._hearing.watch(worker.connection, worker, writable=True)

    def _busy(self) -> int:
        """Return how many workers work for anybody."""
        return sum(worker.session is not None and not worker.waits for worker in self._workers.values())

    def _give(self, session: WorkerSession, filled: dict[Worker, Batch]) -> bool:
        """Give the chains of a run to workers, round by round, so that all get the first ones; False if none can."""
        queue = session.queue
        batches = deque(filled.get(worker) or Batch(worker, session) for worker in self._workers_for(session))
        given = False
        while queue and batches:
            item: Item = queue.peek().handle
            cost = item.estimate()
            batch = self._nearest(batches, item) if item.near else batches[0]
            if not batch.takes(cost):
                batches.remove(batch)
                continue
            if len(batches) > 1 and batches[0] is batch:
                batches.rotate(-1)
            queue.pop()
            given = True
            worker = batch.worker
            if worker.session is None:
                self._join(worker, session)
            try:
                batch.add(item, cost)
            except OSError as error:
                self._refuse(session, item, error)
                self._freed(worker)
            else:
                filled[worker] = batch
        return given

    def _refuse(self, session: WorkerSession, item: Item, error: OSError) -> None:
        """End a call for which there are no descriptors."""
        call = item.call
        self._taken_out(session, item)
        if type(call) is Block:
            self._stopped(session, call)
            return
        call.handle = None
        refused = TransferError(
            f"'{call.label}' cannot receive its arguments in a worker process: {error}; allow more open files "
            f"(ulimit -n), or pass fewer large values at once",
            process_id=call.label,
        )
        now = perf_counter()
        self._told.append((session.port, call, Failure(refused, now, now)))

    def _workers_for(self, session: WorkerSession) -> deque[Worker]:
        """Return the workers that can take chains of a run: free ones, and its own unless others wait."""
        room = session.slots - session.busy()
        if len(self._workers) > self.size:  # one more for each that has waited
            room = min(room, self.size - self._busy())
        free = [worker for worker in self._workers.values() if worker.is_free()] if room > 0 else []
        if len(free) > 1:
            free.sort(key=_last_used, reverse=True)
            if len(self._turns) > 1:
                room = min(room, -(-len(free) // len(self._turns)))
        found = deque(free[:room])
        others_wait = any(other.queue and not other.workers for other in self._turns if other is not session)
        if not others_wait and not self._resuming:
            found += sorted((worker for worker in session.workers if worker.has_room(AHEAD / 2)), key=_ahead)
        return found

    @staticmethod
    def _nearest(batches: deque[Batch], item: Item) -> Batch:
        """Return the worker's that has made most of what a chain needs, if it is much; else of the one in turn."""
        sizes: dict[str, int] = {}
        for value in (*item.call.args, *item.call.kwargs.values()):
            if type(value) is Held:
                sizes[value.maker] = sizes.get(value.maker, 0) + value.parcel.size
        best = max(batches, key=lambda batch: sizes.get(batch.worker.pid, 0))
        return best if sizes.get(best.worker.pid, 0) >= LARGE else batches[0]

    @staticmethod
    def _join(worker: Worker, session: WorkerSession) -> None:
        """Have a worker take chains of a run from now on."""
        worker.session = worker.last = session
        session.workers.add(worker)
        if worker.surroundings is not session.surroundings or len(worker.functions) >= FUNCTIONS_KEPT:
            worker.surroundings = session.surroundings
            worker.functions.clear()
            worker.send((wire.SETUP, *session.surroundings.message()), [])

    # What workers say

    def _listen(self, worker: Worker) -> None:
        """Take what a worker has said."""
        try:
            for message, descriptors in worker.receive():
                kind = message[1]
                if kind == wire.VALUES:
                    self._take_values(worker, *message[2:])
                    continue
                if not descriptors and kind == wire.VALUE and self._take_value(worker, message):
                    continue
                self._take(worker, message, [File(each) for each in descriptors])
            if worker.frames.error is not None:
                self._misunderstand(worker, worker.frames.error)
        except Exception as error:
            self._misunderstand(worker, error)
        if worker.closed and worker.watched:
            self._unwatch(worker)
            worker.ending = True
            if worker.code is not None:
                self._bury(worker)
            elif self._keeper is not None:
                self._keeper.kill(worker.name)  # it has ended, or only closed its channel

    def _unwatch(self, worker: Worker) -> None:
        if worker.watched:
            worker.watched = False
            self._hearing.unwatch(worker.connection)

    def _misunderstand(self, worker: Worker, error: Exception) -> None:
        """End a worker on whose channel something else has written; the link it was running is charged."""
        if worker.closed:
            return
        session, worker.closed = worker.session, True
        if session is None or not worker.sent:
            return
        item = worker.sent[0]
        call = item.call
        if type(call) is Block:
            self._salvage(worker)
            if not worker.sent:
                return
            item = worker.sent[0]
            call = item.call.single(item.at) if type(item.call) is Block else item.call
        worker.killed_for = call
        reason = (
            f"its reply could not be received ({error})"
            if isinstance(error, OSError)
            else f"what came from it is no reply ({error}); its function may have written to a descriptor of others"
        )
        failed = WorkerCrashedError(
            f"the worker that ran '{call.label}' was ended: {reason}",
            process_id=call.label,
            attempt=call.attempt,
            elapsed=perf_counter() - worker.page.since,
        )
        failure = Failure(failed, worker.page.since, perf_counter(), worker=worker.pid)
        if type(item.call) is Block:
            self._told.append((session.port, item.call, Part(item.at, [failure])))
            self._advance(worker, session, item, 1)
            return
        worker.done()
        call.handle = None
        self._told.append((session.port, call, failure))

    def _take_value(self, worker: Worker, message: Any) -> bool:
        """Take the plain value of a call that is a chain of its own; False if it is anything else.

        It says what `_take` says, of nearly all calls, and in half the time.
        """
        number, _, value, started, ended, cpu, peak = message
        sent, session = worker.sent, worker.session
        if session is None or not sent or type(value) is list:
            return False
        item = sent[0]
        call = item.call
        if item.number != number or type(call) is Block or call.then is not None or session.window != MOST:
            return False
        worker.done()
        call.handle = None  # they know one another: the arguments are to go with the last reference, not as garbage
        call.started = started
        item.function.pace.note(ended - started)
        self._told.append((session.port, call, Success(value, started, ended, (1, worker.pid, True, cpu, peak))))
        if not sent:
            self._freed(worker)
        return True

    def _take(self, worker: Worker, message: Any, files: list[File]) -> None:
        """Take one message."""
        number, kind = message[0], message[1]
        session, sent = worker.session, worker.sent
        head = sent[0] if sent else None
        if session is not None and head is not None and type(head.call) is Block and head.covers(number):
            self._take_of_block(worker, session, head, message, files)
        elif session is not None and head is not None and head.number == number:
            if kind >= wire.VALUE:
                self._take_reply(worker, session, message, files)
            elif kind == wire.SKIPPED:
                self._give_back(worker, [head])
            else:
                self._take_meanwhile(worker, session, message, files)
        elif kind == wire.READY:
            worker.ready, worker.pid = True, str(message[2])
            self._false_starts = 0
        elif kind == wire.SKIPPED:
            self._give_back(worker, [item for item in sent if item.number == number])
        elif kind not in (wire.LOGGED, wire.PROGRESSED):  # which may come from a thread that a call has left behind
            raise ValueError(f"a reply to link {number}, which it has not been sent")

    # Blocks

    def _take_values(self, worker: Worker, count: int, data: bytes, memory: int) -> None:
        """Take the plain values of elements of the block that a worker runs; those that are known are left out."""
        session, sent = worker.session, worker.sent
        if session is None or not sent or type(sent[0].call) is not Block:
            return
        item = sent[0]
        outcomes, mean = blocks.successes(wire.listed(count, data), item.number, worker.pid, memory)
        if outcomes:
            item.function.pace.note(mean)
            self._told.append((session.port, item.call, Part(item.at, outcomes, plain=True)))
            self._advance(worker, session, item, len(outcomes))

    def _take_of_block(
        self, worker: Worker, session: WorkerSession, item: Item, message: Any, files: list[File]
    ) -> None:
        """Take a message on one element of a block."""
        number, kind = message[0], message[1]
        block: Block = item.call  # type: ignore[assignment]  # that is why it is taken here
        index = item.at + number - item.number
        if kind == wire.SKIPPED:
            self._give_back_rest(worker, item, number)
        elif kind == wire.LOGGED:
            self._told.append((session.port, block, Part(index, [Logged(message[2])])))
        elif kind == wire.PROGRESSED:
            self._told.append((session.port, block, Part(index, [Progressed(message[2:])])))
        elif kind == wire.UNKNOWN:
            worker.done()
            self._again_by_value(worker, session, item, message, files)
        else:
            call = block.single(index)
            outcome = outcome_of(call, message, files, worker)
            call.started = message[3]
            item.function.pace.note(message[4] - call.started)
            if isinstance(outcome, Success) and type(outcome.value) is Held:
                session.weigh(outcome.value.parcel.size)
            self._told.append((session.port, block, Part(index, [outcome])))
            self._advance(worker, session, item, 1)

    def _advance(self, worker: Worker, session: WorkerSession, item: Item, count: int) -> None:
        """Note that elements of the block that a worker runs have had their outcomes."""
        item.at += count
        item.number += count
        if item.number <= item.last:
            return
        worker.done()
        item.call.handle = None
        if item.call.stopped:
            self._stopped(session, item.call)  # what had been called back of it
        self._freed(worker)

    def _give_back_rest(self, worker: Worker, item: Item, number: int) -> None:
        """Take the end of a block away from a worker, which has not begun it."""
        session = worker.session
        if session is None or number > item.last:
            return
        if number <= item.number:
            self._give_back(worker, [item])
            return
        if not item.call.stopped:
            rest, its_item = blocks.rest(item, number)
            self._told.append((session.port, item.call, Split(rest)))
            self._queue_again(session, its_item, None)
        item.stop = item.at + number - item.number
        item.last = number - 1

    def _salvage(self, worker: Worker) -> None:
        """Take what a worker that has died had done, and not sent."""
        with suppress(Exception):  # it may have written there what it should not
            self._take_values(worker, *worker.page.left(), worker.page.resting)

    def _bury_block(self, worker: Worker, session: WorkerSession, item: Item, code: int, *, spared: bool) -> None:
        """Charge the element that a worker was running when it died; the others go elsewhere."""
        block: Block = item.call  # type: ignore[assignment]  # that is why it is buried here
        running, late = worker.page.running, item.late
        item.late = 0
        if item.number <= running and (block.stopped or late == running or not spared):
            call = block.single(item.at)
            if block.stopped or late == running:
                call.started = worker.page.since
                end: Delivered = Stopped(perf_counter(), ended=True, worker=worker.pid)
            else:
                end = self._crash(worker, call, code)
            self._told.append((session.port, block, Part(item.at, [end])))
            item.at += 1
        if block.stopped:
            self._stopped(session, block)
        elif item.at < item.stop:
            self._queue_again(session, item, None)

    # Replies

    def _take_meanwhile(self, worker: Worker, session: WorkerSession, message: Any, files: list[File]) -> None:
        """Take what the link that a worker runs has to say while it goes on."""
        item, kind, value = worker.sent[0], message[1], message[2]
        news: Delivered = BEGAN
        if kind == wire.BEGAN:
            item.call.started = value
        elif kind == wire.LOGGED:
            news = Logged(value)
        elif kind == wire.PROGRESSED:
            news = Progressed(message[2:])
        else:
            if type(value) is list:
                value = Held(Parcel.unpacked(value, files), item.call.label, worker.pid)
                session.weigh(value.parcel.size)
            item.left = (item.left or 0) - 1
            item.yields = True
            news = Yielded(value)
        self._told.append((session.port, item.call, news))

    def _take_reply(self, worker: Worker, session: WorkerSession, message: Any, files: list[File]) -> None:
        """Take the end of the link that a worker was running."""
        kind = message[1]
        item = worker.done()
        call = item.call
        if kind == wire.UNKNOWN:
            self._again_by_value(worker, session, item, message, files)
            return
        if worker.killed_for is call and kind == wire.HANDED_ON and call.then is not None:
            self._stopped(session, call, worker)  # it has ended in that moment, but its value dies with the worker
            return
        told = self._told
        call.handle = None  # they know one another: the arguments are to go with the last reference, not as garbage
        outcome = outcome_of(call, message, files, worker)
        call.started = started = message[3]
        item.function.pace.note(message[4] - started)
        told.append((session.port, call, outcome))
        if kind <= wire.HANDED_ON:
            if item.unsent is not None:
                link, error = item.unsent
                now = perf_counter()
                told.append((session.port, link, Failure(error, now, now)))
            elif type(outcome.value) is Held:  # type: ignore[union-attr]  # a success
                session.weigh(outcome.value.parcel.size)  # type: ignore[union-attr]
            elif session.window < MOST:
                session.weigh(0)
            if item.unsent is None and call.then is not None:
                worker.go_on(item, call.then.handle)
                worker.value = outcome.value  # type: ignore[union-attr]  # a success
        if not worker.sent:
            self._freed(worker)

    def _freed(self, worker: Worker) -> None:
        """Note that a worker may have nothing more to do."""
        if worker.sent:
            return
        worker.value = worker.recall = None
        if worker.session is not None:
            worker.session.workers.discard(worker)
            worker.session = None
        self._retire(worker)

    def _retire(self, worker: Worker) -> None:
        """Have a worker replaced that has nothing to do, and is not as a worker should be."""
        if worker.stale and worker.session is None and not worker.ending:
            worker.ending = True
            if self._keeper is not None:
                self._keeper.kill(worker.name)

    def _retire_surplus(self) -> None:
        """End as many workers that have nothing to do as there were more of them while others waited."""
        surplus = sum(not worker.ending for worker in self._workers.values()) - self.size
        for worker in list(self._workers.values()) if surplus > 0 else ():
            if surplus > 0 and worker.session is None and not worker.ending:
                worker.stale = True
                self._retire(worker)
                surplus -= 1

    def _again_by_value(
        self, worker: Worker, session: WorkerSession, item: Item, message: Any, files: list[File]
    ) -> None:
        """Queue a chain again from a link on whose function the worker does not have, or has with other code."""
        call = item.call
        value = message[2]
        worker.value = Held(Parcel.unpacked(value, files), call.label, worker.pid) if type(value) is list else value
        session.fed(item, worker.value)
        for link in links_of(item):
            link.worker = None
        self._told.append((session.port, call, Errand(partial(session.again_by_value, item, message[7]))))
        self._freed(worker)

    def _queue_again(self, session: WorkerSession, item: Item, value: Any) -> None:
        """Queue a chain from a link on that has not begun; ``value`` is that of the link before it."""
        call = item.call
        session.fed(item, value)
        for link in links_of(item):
            link.worker = None
        call.started = 0.0
        item.late = 0
        if not session.queue:
            self._turns.append(session)
        session.queue.push_back(call)

    def _give_back(self, worker: Worker, items: Sequence[Item]) -> None:
        """Take chains away from a worker that it has not begun."""
        session = worker.session
        if session is None:
            return
        for item in reversed(items):
            worker.sent.remove(item)
            worker.load -= item.cost or 0.0
            call = item.call
            if call.stopped:
                self._stopped(session, call)
            elif call.feed is not None and worker.value is RELEASED:
                self._charge(worker, session, call, worker.code or -9)
            else:
                self._queue_again(session, item, worker.value)
        self._freed(worker)

    # Calling back

    def _look(self) -> float | None:
        """Call back what waits for longer than it should; return in how many seconds to look again."""
        workers = self._workers.values()
        if not any(worker.has_waiting() or worker.recall is not None or worker.stopping for worker in workers):
            return None
        now = perf_counter()
        again = inf
        free = any(worker.is_free() for worker in workers) and not self._turns
        for worker in list(workers):
            if worker.ending or not worker.sent:
                worker.stopping = False
                continue
            if worker.recall is not None:
                first, moment = worker.recall
                if now >= moment:
                    self._recall(worker, first)
                again = min(again, TICK / 2)
            elif worker.stopping:
                given_up = next((item for item in worker.sent if item.call.stopped), None)
                worker.stopping = given_up is not None
                if given_up is not None:
                    self._stop_sent(worker, given_up)
                again = min(again, TICK / 2)
            elif worker.has_waiting():
                left = worker.expected_to_end() - now
                session = worker.session
                if left < -TICK or (left > TICK and free and session and len(session.workers) < session.slots):
                    worker.call_back(worker.page.running + 1 if worker.sent[0].waits else worker.sent[1].number)
                    left = TICK / 2
                again = min(again, max(left, 0) + TICK)
        return None if again == inf else again

    def _recall(self, worker: Worker, first: int) -> None:
        """Take away from a worker what was called back and has not begun."""
        worker.recall = None
        first = max(first, worker.page.running + 1)
        head = worker.sent[0]
        self._give_back(worker, [each for each in worker.sent if each.number >= first])
        if worker.sent and worker.sent[0] is head and head.waits:
            self._give_back_rest(worker, head, first)

    # Hearing

    def _begin(self) -> None:
        """Have an owner, and a keeper, which takes its time to come up."""
        if self._owner is None:
            self._start()
        if self._keeper is None:
            with suppress(OSError), _starting:  # it is tried again when there is work, and then the error counts
                self._keep()

    def _keep(self) -> Keeper:
        self._keeper = kept = keeper(self.size, self._lost)
        self._lost = []
        self._hearing.watch(kept, kept)
        return kept

    def _start(self) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("type='process' needs a system with Unix sockets; use type='thread' on Windows")
        with _starting:  # a child that is forked meanwhile would not know what it has to close
            owner = Owner(self._step, lambda: bool(self._sessions))
            self._owner = owner
        try:
            owner.start()
        except RuntimeError as error:
            self._owner = None
            owner.let_go()
            raise ShutdownError(f"no thread could be started to look after workers: {error}") from error
        self._starved = starved()
        atexit.register(self._end_of_program)

    def _step(self, ready: list[tuple[Any, int]]) -> tuple[float | None, float]:
        """Attend to who has something to say, and to what no event tells of; what `Owner` calls."""
        with self.lock:
            for who, events in ready:
                self._safely(partial(self._attend, who, events))
            self._safely(self._hand_out)
            again = self._safely(self._tick)
            nap = self._nap()
        self._tell()
        return again, nap

    def _nap(self) -> float:
        """Return for how long nobody will be missed: while all have many short calls to do, replies gather meanwhile.

        To be woken by each of them would cost more than the calls do, on both sides.
        """
        least = inf
        for worker in self._workers.values():
            if worker.ending:
                return 0.0
            if worker.sent:
                least = min(least, worker.load)
                pace = worker.sent[0].function.pace.seconds
                if pace is None or worker.load < MANY * (pace + OVERHEAD):
                    return 0.0
        return min(NAP, least / 2) if NAP / 2 <= least < inf else 0.0

    @staticmethod
    def _safely(step: Any) -> Any:
        """Take a step; a defect in one costs that one, and not every run of the program."""
        try:
            return step()
        except Exception:
            import logging

            logging.getLogger("pmflow").exception("a step of the worker pool failed")
            return TICK

    def _attend(self, who: Worker | Keeper, events: int) -> None:
        """Attend to whoever has something to say."""
        if isinstance(who, Worker):
            if events & WRITABLE and who.flush() and who.watched:
                self._hearing.watch(who.connection, who)
            if events & ~WRITABLE:
                self._listen(who)
        elif who is self._keeper:
            self._hear(who)

    @property
    def _hearing(self) -> Owner:
        """The owner; there is one as long as there are workers."""
        if self._owner is None:
            raise RuntimeError("the pool has not been started")
        return self._owner

    def lead(self) -> Owner | None:
        """Have the calling thread hear the workers, while it waits; None if another does, or there are other runs."""
        with self.lock:
            alone = len(self._sessions) <= 1
            return self._owner if self._owner is not None and alone and self._owner.lead() else None

    def _tick(self) -> float | None:
        """Look after what no event tells of; return when to do so again."""
        again = self._look()
        if self._turns and again is not None:
            self._hand_out()
        if self._sessions:
            again = LOOK if again is None else min(again, LOOK)
        if self._quiet_at is None:
            return again
        left = self._quiet_at - perf_counter()
        if left > 0:
            return left if again is None else min(again, left)
        self._quiet_at = None
        if self._keeper is not None and not self._sessions:
            for worker in list(self._workers.values()):
                worker.stale |= worker.page.has_children
                self._retire(worker)
            self._keeper.quiet()
        return again

    # Lives and deaths

    def _start_workers(self) -> None:
        """Start workers for what is queued, as many as there may be."""
        wanted = sum(min(len(each.queue), each.slots - each.busy()) for each in self._turns)
        starting = sum(not worker.ready for worker in self._workers.values())
        if self._false_starts >= MOST_FALSE_STARTS and self._workers:
            return  # those there are do the work
        places = self.size - sum(not worker.waits for worker in self._workers.values())
        for _ in range(min(wanted - starting, places)):
            if not self._start_worker():
                return

    def _start_worker(self) -> bool:
        """Start a worker; False if that has been given up."""
        while True:
            try:
                with _starting:
                    kept = self._keeper or self._keep()
                    self._count += 1
                    worker = Worker(f"{os.getpid()}-{self._count}-{os.urandom(4).hex()}")
                    try:
                        kept.fork(worker.name, worker.theirs, worker.file.fd)  # type: ignore[arg-type, union-attr]  # new
                    except OSError:
                        worker.let_go()
                        raise
            except OSError as error:
                if self._false_start(str(error)):
                    return False
            else:
                worker.handed_over()
                self._workers[worker.name] = worker
                self._hearing.watch(worker.connection, worker)
                worker.watched = True
                return True

    def _hear(self, who: Keeper) -> None:
        """Take what the keeper says: who has ended; or that it has itself, and with it all workers."""
        gone = False
        try:
            ended = who.heard()
        except GoneError:
            gone = True
            self._hearing.unwatch(who)
            who.close(gone=True)
            self._keeper = None
            self._lost = list(self._workers)
            ended = [(name, -9) for name in self._lost]
        for name, code in ended:
            worker = self._workers.get(name)
            if worker is not None:
                worker.code = code
                worker.ending = True
                self._listen(worker)
                if gone and not worker.closed:
                    continue  # it is about to die with the warden, and its channel will say so
                self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Charge the link that a worker was running when it died; what it had not begun goes elsewhere."""
        if self._workers.pop(worker.name, None) is None:
            return
        self._unwatch(worker)
        worker.let_go()
        self._salvage(worker)
        session, code = worker.session, worker.code or 0
        if session is not None:
            session.workers.discard(worker)
            running = worker.page.running
            # Killed for a call that had ended by then, or had not begun: what it had begun is to run again.
            killed_for = worker.killed_for
            spared = killed_for is not None and all(
                each.call is not killed_for or each.number > running for each in worker.sent
            )
            for item in reversed(worker.sent):
                item.worker, call = None, item.call
                lost = item.yields or (call.feed is not None and worker.value is RELEASED)
                if type(call) is Block:
                    self._bury_block(worker, session, item, code, spared=spared)
                elif call.stopped:
                    self._stopped(session, call, worker)
                elif (item.number <= running and not spared) or lost:
                    self._charge(worker, session, call, code)
                else:
                    self._queue_again(session, item, worker.value)
        worker.session = worker.value = None
        worker.sent.clear()
        if not worker.ready:
            self._false_start(how(code))
        elif self._turns:
            self._start_workers()

    def _charge(self, worker: Worker, session: WorkerSession, call: Call, code: int) -> None:
        call.handle = None
        self._told.append((session.port, call, self._crash(worker, call, code)))

    def _crash(self, worker: Worker, call: Call, code: int) -> Failure:
        """Return the end of a call whose worker has died."""
        now = perf_counter()
        started = worker.page.since
        before, self._starved = self._starved, starved() if code == -9 else self._starved  # noqa: PLR2004 - SIGKILL
        error = crashed(call, code, now - started, starved=self._starved > before)
        return Failure(error, started, now, worker=worker.pid)

    def _false_start(self, how: str) -> bool:
        """Count a worker that did not come up; give up, and say so, after some in a row with no other at work."""
        self._false_starts += 1
        if self._false_starts < MOST_FALSE_STARTS:
            return False
        if any(worker.ready for worker in self._workers.values()):
            return True
        self._false_starts = 0
        now = perf_counter()
        line = " ".join(command("warden_main.py"))
        for session in self._turns:
            while session.queue:
                call = session.queue.pop()
                self._taken_out(session, call.handle)
                if type(call) is Block:
                    self._stopped(session, call)
                    continue
                error = WorkerCrashedError(
                    f"'{call.label}' was not started: {MOST_FALSE_STARTS} workers in a row ended at once "
                    f"({how}); see what this command says: {line}",
                    process_id=call.label,
                )
                self._told.append((session.port, call, Failure(error, now, now)))
        self._turns.clear()
        return True

    # The end

    def close(self) -> None:
        """End all workers, with everything they have started; calls under way are `Stopped`.

        Used again, the pool begins anew.
        """
        owner = self._owner
        if owner is None:
            return
        if self.lock.acquire(timeout=CLOSING):
            try:
                for session in self._turns:
                    while session.queue:
                        self._stopped(session, session.queue.pop())
                for worker in self._workers.values():
                    for item in worker.sent if worker.session is not None else ():
                        self._stopped(worker.session, item.call)  # type: ignore[arg-type]  # it was just looked at
            finally:
                self.lock.release()
            self._tell()
        owner.close(CLOSING)
        workers, held = self._workers, self._keeper
        if held is not None:
            held.close()
        for worker in workers.values():
            worker.let_go()
        atexit.unregister(self._end_of_program)
        self._set_up()

    def _end_of_program(self) -> None:
        self._over = True  # a daemon thread may still ask for more
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending already, and says nothing more
        self.close()


def _ahead(worker: Worker) -> float:
    return worker.ahead


def _last_used(worker: Worker) -> float:
    return worker.page.started
