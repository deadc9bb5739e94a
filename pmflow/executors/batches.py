"""What is about to be sent to one worker: as much as it is to have ahead, in one frame."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Any

from pmflow.executors import wire
from pmflow.executors.base import Block, Call
from pmflow.executors.channel import Item, Worker
from pmflow.executors.surroundings import NOTHING_CARRIED

if TYPE_CHECKING:
    from pmflow.executors.parcels import File
    from pmflow.executors.sessions import WorkerSession

AHEAD = 0.001
"""Seconds of work that wait in a worker behind what it runs."""

LONG = 0.01
"""Seconds from which on a call waits with its run, where it may still be overtaken, and not in a worker."""

MOST_AT_ONCE = 250
"""Chains in one frame."""

MOST_FILES = 64
"""Descriptors in one frame: the kernel bounds how many are under way."""


class Batch:
    """What is about to be sent to one worker; ``room`` is for how many seconds of work there is some."""

    def __init__(self, worker: Worker, session: WorkerSession) -> None:
        self.worker = worker
        self.files: list[File] = []
        self.room = AHEAD - worker.ahead
        self._idle = not worker.sent
        self._may_be_long = len(worker.sent) <= 1
        self.session = session
        self._functions: dict[int, Any] = {}
        self._chains: list[Any] = []

    def takes(self, cost: float | None) -> bool:
        """Whether a chain is to wait in the worker, rather than with its run."""
        if self._idle:
            return True
        if cost is None or len(self._chains) >= MOST_AT_ONCE or len(self.files) >= MOST_FILES:
            return False
        return cost <= self.room or (self._may_be_long and cost <= LONG)

    def add(self, item: Item, cost: float | None) -> None:
        """Add a chain.

        Raises:
            OSError: there are no descriptors for what is large in it; it has not been added.
        """
        if type(item.call) is Block:
            self._chains.append(self._block(item))
        elif item.call.then is None:
            self._chains.append(self._link(item))
            item.last = item.number
        else:
            links = list(links_of(item))
            try:
                self._chains.append([self._link(each) for each in links])
            except OSError:
                for each in links:
                    each.worker = None
                raise
            for each in links:
                each.last = self.worker.number
        self.worker.note(item, cost)
        if self._idle:  # it is the one that runs: nothing waits yet, if it is known how long it takes
            self._idle = False
            self.room = AHEAD if cost is not None else -inf
            self._may_be_long = cost is not None
        else:
            self._may_be_long = False
            self.room -= cost or 0.0

    def _block(self, item: Item) -> tuple[Any, ...]:
        number = self.worker.number + 1
        packed = item.packed_block(number, self._index(item), self.files)
        item.last = number + item.stop - item.at - 1
        self._given(item, number, item.last)
        return packed

    def _link(self, item: Item) -> tuple[Any, ...]:
        number = self.worker.number + 1
        link = item.packed(number, self._index(item), self.files)
        self._given(item, number, number)
        return link

    def _index(self, item: Item) -> int:
        """Return what the worker knows the function by; it is sent along if that is new."""
        known, function = self.worker.functions, item.function
        index = known.get(function.token)
        if index is None:
            packed = function.parcel.packed(self.files)
            index = known[function.token] = len(known)
            self._functions[index] = packed
        return index

    def _given(self, item: Item, number: int, last: int) -> None:
        item.number, self.worker.number = number, last
        item.worker = self.worker
        if item.size:
            self.session.taken(item)

    def message(self) -> tuple[Any, ...]:
        """Return it as a worker takes it."""
        worker, session = self.worker, self.session
        context = None
        if worker.carried is not session.carried:
            worker.carried = session.carried
            context = (session.carried or NOTHING_CARRIED).packed(self.files)
        return wire.CHAINS, self._functions, context, self._chains


def links_of(item: Item) -> Iterable[Item]:
    """Return the links of a chain that are encoded, from one on."""
    call: Call | None = item.call
    while call is not None and call.handle is not None:
        yield call.handle
        if call.handle.unsent is not None:
            return
        call = call.then
