"""The gates of a run: one for all processes of a lane that have the same limit, which are taken from there.

Knows which limit is whose, how often this run has taken it, and which retries wait for it; begins nothing.

Where a process of a run uses several cores, what that run has in workers is counted too: the processes at gates one by
one, all others in bulk. As long as nobody waits for cores, the latter go to the workers ahead of time, as many as have
ended in a moment before (`AHEAD`): so little is in the way of a call that wants several, and short ones stay fast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pmflow.engine.plan import WORKER
from pmflow.executors.numeric import Widened, has_decided
from pmflow.limits import Cores, Limit, Rate, Waiting, limit_of

if TYPE_CHECKING:
    from pmflow.engine.frontier import Frontier
    from pmflow.engine.plan import Plan
    from pmflow.executors.base import Call

AHEAD = 0.02
"""Seconds: for how long, about, a call that uses several cores waits for short calls that are in its way."""


class Gate:
    """What waits for one limit in one lane.

    Attributes:
        name: what the frontier calls it.
        lane: where its calls run.
        limit: the limit; None for none.
        cpus: how many cores each call takes; 0 for none that are counted.
        retries: keys of processes whose next attempt waits.
        awaited: the call of a rate that has its place, and has not begun: the next one comes after it.
        taken: how many calls have begun, and not ended.
    """

    def __init__(self, name: str, lane: str, limit: Limit | Rate | None, cpus: int, gates: Gates) -> None:
        self.name = name
        self.lane = lane
        self.limit = limit
        self.cpus = cpus
        self.retries: deque[Any] = deque()
        self.awaited: Call | None = None
        self.taken = 0
        self._gates = gates
        self._widens = cpus > 1 and WORKER in lane and not has_decided()
        self._widened: dict[int, Widened] = {}

    def take(self, who: Waiting) -> float:
        """Take a place: 0.0 if there is one, else in how many seconds to ask again (infinity: one is told)."""
        delay = 0.0 if self.limit is None else self.limit.take(who)
        if not delay and self.cpus and not self._gates.take_cores(self):
            if self.limit is not None:
                self.limit.undo()
            return inf
        if not delay:
            self.taken += 1
        return delay

    def began(self) -> None:
        """Note that the call that was to begin last has begun."""
        if self.limit is not None:
            self.limit.began()

    def give_back(self) -> None:
        """Note that a call has ended."""
        self._leave()
        if self.limit is not None:
            self.limit.give_back()

    def undo(self) -> None:
        """Note that what was to begin has not."""
        self._leave()
        if self.limit is not None:
            self.limit.undo()

    def widened(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called in place of a function: in a worker its numeric libraries use all of its cores."""
        if not self._widens:
            return function
        known = self._widened.get(id(function))
        if known is None:
            known = self._widened[id(function)] = Widened(function, self.cpus)
        return known

    def _leave(self) -> None:
        self.taken -= 1
        if self.cpus:
            self._gates.cores.give_back(self.cpus)

    def freed(self) -> None:
        """Hear that there may be cores; from any thread."""
        self._gates.who.freed()


class Gates:
    """Those of one run.

    Args:
        plan: what is run.
        limits: name to limit, of those that processes name.
        cores: those of the program.
        who: the run.
        inside: whether the run is within another: then it gets one call through, in place of the one that waits for it.
    """

    def __init__(
        self, plan: Plan, limits: Mapping[str, Limit | Rate], cores: Cores, who: Waiting, *, inside: bool
    ) -> None:
        self.cores = cores
        self.who = who
        self._inside = inside
        self._counts = plan.counts_cores
        self._of: dict[str, Gate] = {}
        self._gates: dict[str, Gate] = {}
        for name, gate in plan.gates.items():
            node = plan.nodes[name]
            if gate not in self._gates:
                limit, cpus = node.settings.limit, node.settings.cpus
                bound = None if limit is None else limits[limit] if type(limit) is str else limit_of(limit)
                counted = cpus > 1 or (self._counts and WORKER in node.lane)
                self._gates[gate] = Gate(gate, node.lane, bound, cpus if counted else 0, self)
            self._of[name] = self._gates[gate]
        self._turns = deque(self._gates.values())
        self._at_workers = [gate for gate in self._turns if WORKER in gate.lane]
        self._ones = self._ended = self._ahead = 0
        self._since = perf_counter()

    def in_turn(self) -> Iterable[Gate]:
        """Return all of them: first those whose turn is longest ago."""
        return tuple(self._turns)

    def has_had_its_turn(self, gate: Gate) -> None:
        """Let the others go first from now on."""
        self._turns.remove(gate)
        self._turns.append(gate)

    def began(self, name: str, call: Call) -> None:
        """Note that a call of a process has begun."""
        gate = self._of.get(name)
        if gate is not None and gate.awaited is call:
            gate.awaited = None
            gate.began()

    def give_back(self, name: str, call: Call) -> None:
        """Note that a call of a process has ended."""
        gate = self._of.get(name)
        if gate is not None:
            if gate.awaited is call:
                gate.awaited = None
            gate.give_back()

    def queue(self, name: str, key: Any) -> bool:
        """Have the next attempt of a process wait, if it has a limit."""
        gate = self._of.get(name)
        if gate is not None:
            gate.retries.append(key)
        return gate is not None

    # Cores

    def take_cores(self, gate: Gate) -> bool:
        """Take the cores of a call."""
        return self.cores.take(gate, gate.cpus, anyway=self._has_nothing())

    def report(self, held: int) -> None:
        """Take how many chains workers hold of this run."""
        if not self._counts:
            return
        ones = held - sum(gate.taken for gate in self._at_workers)
        self._ended += max(0, self._ones - ones)
        self._ones = ones
        elapsed = perf_counter() - self._since
        if elapsed > AHEAD:
            self._ahead, self._ended = int(self._ended * AHEAD / elapsed), 0
            self._since += elapsed
        self.cores.report(self.who, ones)

    def room(self, wanted: int) -> int:
        """Return how many more calls of one core may go to workers now, of as many as there is room for."""
        if not self._counts:
            return wanted
        wanted = min(wanted, self.cores.most + self._ahead - self._ones)
        granted = self.cores.room(self.who, wanted, anyway=self._has_nothing()) if wanted > 0 else 0
        self._ones += granted
        return granted

    def _has_nothing(self) -> bool:
        """Whether a run within another has no cores at all: what waits for it may have those that there are."""
        return self._inside and not self._ones and not any(gate.taken for gate in self._turns if gate.cpus)

    # Lines

    def forget_idle(self, who: Waiting, frontier: Frontier, has_room: Callable[[Gate], bool]) -> None:
        """Leave the lines in which nothing of this run waits, or may begin, so that it holds up no other run."""
        waiting = [
            gate for gate in self._turns if (gate.retries or frontier.next(gate.name) is not None) and has_room(gate)
        ]
        wanted = {id(gate.limit) for gate in waiting}
        for gate in self._turns:
            if gate.limit is not None and id(gate.limit) not in wanted:
                gate.limit.forget(who)
            if gate.cpus and gate not in waiting:
                self.cores.forget(gate)

    def close(self, who: Waiting) -> None:
        """Give back what is taken, and leave all lines: the run has ended."""
        for gate in self._turns:
            while gate.taken:
                gate.give_back()
            if gate.limit is not None:
                gate.limit.forget(who)
            self.cores.forget(gate)
        self.cores.forget(who)
        self.cores.report(who, 0)
        for known in (self._of, self._gates, self._turns, self._at_workers):  # they know this, and it the run
            known.clear()
