"""The gates of a run: one for all processes of a lane that have the same limit, which are taken from there.

Knows which limit is whose, how often this run has taken it, and which retries wait for it; begins nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pmflow.limits import Limit, Rate, Waiting, limit_of

if TYPE_CHECKING:
    from pmflow.engine.frontier import Frontier
    from pmflow.engine.plan import Plan
    from pmflow.executors.base import Call


class Gate:
    """What waits for one limit in one lane.

    Attributes:
        name: what the frontier calls it.
        lane: where its calls run.
        retries: keys of processes whose next attempt waits.
        awaited: the call of a rate that has its place, and has not begun: the next one comes after it.
    """

    def __init__(self, name: str, lane: str, limit: Limit | Rate) -> None:
        self.name = name
        self.lane = lane
        self.limit = limit
        self.retries: deque[Any] = deque()
        self.awaited: Call | None = None
        self.taken = 0

    def take(self, who: Waiting) -> float:
        """Take a place: 0.0 if there is one, else in how many seconds to ask again (infinity: one is told)."""
        delay = self.limit.take(who)
        if not delay:
            self.taken += 1
        return delay

    def give_back(self) -> None:
        """Note that a call has ended."""
        self.taken -= 1
        self.limit.give_back()

    def undo(self) -> None:
        """Note that what was to begin has not."""
        self.taken -= 1
        self.limit.undo()


class Gates:
    """Those of one run.

    Args:
        plan: what is run.
        limits: name to limit, of those that processes name.
    """

    def __init__(self, plan: Plan, limits: Mapping[str, Limit | Rate]) -> None:
        self._of: dict[str, Gate] = {}
        self._gates: dict[str, Gate] = {}
        for name, gate in plan.gates.items():
            node = plan.nodes[name]
            if gate not in self._gates:
                limit = node.settings.limit
                self._gates[gate] = Gate(gate, node.lane, limits[limit] if type(limit) is str else limit_of(limit))
            self._of[name] = self._gates[gate]
        self._turns = deque(self._gates.values())

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
            gate.limit.began()

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

    def forget_idle(self, who: Waiting, frontier: Frontier, has_room: Callable[[Gate], bool]) -> None:
        """Leave the lines in which nothing of this run waits, or may begin, so that it holds up no other run."""
        wanted = {
            id(gate.limit)
            for gate in self._turns
            if (gate.retries or frontier.next(gate.name) is not None) and has_room(gate)
        }
        for gate in self._turns:
            if id(gate.limit) not in wanted:
                gate.limit.forget(who)

    def close(self, who: Waiting) -> None:
        """Give back what is taken, and leave all lines: the run has ended."""
        for gate in self._turns:
            while gate.taken:
                gate.give_back()
            gate.limit.forget(who)
