"""The scheduler: one run, from its first ready process to its last outcome.

It lives in one task of one event loop, and takes *turns*. In a turn it

1. takes the outcomes that executors have delivered (`deliver`, from any thread, wakes the loop once per burst),
2. fires the timers that are due: timeouts, retries, the run's own timeout,
3. hands over what has become ready, as many as each executor wants to hold.

Where a process stands:

    waiting (frontier) -> submitted (`_running`) -> ended (`outcomes`, `elements`)
                               |     ^
                               v     |
                            retrying (`_retrying`)

A call that exceeds its timeout is given up: its executor is told to stop it, and says by a `Stopped` when that is done.
Only then is its process tried again or ended, so an old attempt is dead before the next begins, except in a thread.
When the run is stopped, everything submitted is given up, and what remains is CANCELLED, or SKIPPED.

Invariant: every planned process ends in exactly one outcome. A call counts only while it is the one in `_running`:
whatever else it delivers is late, and is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from heapq import heapify, heappop, heappush
from math import inf
from threading import get_ident
from time import perf_counter
from typing import Any

from pmflow.config import NOTHING, cross
from pmflow.context import HERE
from pmflow.decorator import FunctionProcess
from pmflow.engine.attempt import (
    EMPTY,
    NONE,
    arguments,
    as_failure,
    bind,
    bind_element,
    feed,
    function_of,
    holds,
    timed_out,
    unwrapped,
    why,
)
from pmflow.engine.gates import Gate, Gates
from pmflow.engine.loops import Loop
from pmflow.engine.plan import ELEMENT, INLINE, LANES, SOME, STAGE, TASK, WORKER, Node, Plan, wanted
from pmflow.engine.sequences import crossed, same_length, sequence, unequal
from pmflow.engine.streams import Streams, cut_short, has_yielded, sources_of
from pmflow.errors import ProcessError, WorkerCrashedError
from pmflow.executors.base import (
    Began,
    Block,
    BlockSession,
    Call,
    Errand,
    Logged,
    Part,
    Progressed,
    Sealed,
    Session,
    Split,
    Stopped,
    Yielded,
)
from pmflow.graph import AFTER, EACH, forgives, takes_result
from pmflow.limits import Cores, Limit, Rate
from pmflow.outcomes import (
    RELEASED,
    Cancelled,
    Failure,
    Handle,
    Mapped,
    Note,
    Outcome,
    ProcessState,
    Skipped,
    Substitute,
    Success,
)
from pmflow.results import Clock, ProcessResult, result_of

AGAIN = 0.25
"""Seconds until a cancellation that a task has swallowed is repeated."""

STARTS = 1_000
"""How many calls are handed to a lane in a turn, so that the loop gets its passes."""

BLOCKS = 8
"""How many blocks are begun for each slot: one that runs, one that waits there, and more for those who are quick."""

Key = Any
"""The id of a process, ``(id, index)`` for an element, or ``(id, range)`` for a block of them."""

Emit = Callable[..., None]


class Scheduler:
    """One run of a plan.

    Args:
        plan: what to run.
        fail_fast: whether the failure of a required process stops the run.
        timeout: seconds for the whole run.
        emit: told of everything that happens: ``emit(kind, process_id, state, moment, attempt, result)``; of progress
            also how far (0 to 100), and with which message.
        limits: name to limit, of those that processes name.
        cores: those of the program, for processes that use several.
        inside: whether a process waits for this run.

    Attributes:
        outcomes: id to outcome, in order of completion.
        elements: mapped id to the outcomes of its elements.
        sequences: mapped id to parameter to the list it goes over.
        stopped_by: None, or why the run was stopped: ``"failure"``, ``"timeout"``, ``"interrupt"``, ``"cancellation"``.
    """

    def __init__(  # noqa: PLR0913 - named arguments, what the runner knows of a run
        self,
        plan: Plan,
        *,
        fail_fast: bool,
        timeout: float | None = None,
        emit: Emit | None = None,
        limits: Mapping[str, Limit | Rate] = EMPTY,
        cores: Cores,
        inside: bool = False,
    ) -> None:
        self.plan = plan
        self.bound = plan.bound
        self.outcomes: dict[str, Outcome] = {}
        self.elements: dict[str, list[Any]] = {}
        self.sequences: dict[str, dict[str, list[Any]]] = {}
        self.stopped_by: str | None = None
        self.clock = Clock(perf_counter())
        self._fail_fast = fail_fast
        self._timeout = timeout
        self._until = inf
        self._emit = emit
        self._frontier = plan.frontier()
        self._context = copy_context()
        if HERE.get() is not None:
            self._context.run(HERE.set, None)  # what this run is within, its calls are not
        self._mailbox: deque[tuple[Call, Any]] = deque()
        self._armed = False
        self._more = False
        self._interrupted = False
        self._closed = False
        self._running: dict[Key, Call] = {}
        self._retrying: dict[Key, Call] = {}
        self._timed_out: set[Key] = set()
        self._overlapped: set[Key] = set()
        self._shared: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, Callable[..., Any]] = {}
        self._read: dict[int, tuple[Any, list[Any]]] = {}
        self._short: set[str] = set()
        self._timers: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._held: dict[str, int] = dict.fromkeys(LANES, 0)
        self._batches: dict[str, list[Call]] = {lane: [] for lane in LANES}
        self._ends: deque[tuple[Node, Key, Outcome]] = deque()
        self._uses = {} if plan.keep_all else {name: wanted(plan.nodes, node) for name, node in plan.nodes.items()}
        self._gates = Gates(plan, limits, cores, self, inside=inside) if plan.gates else None
        self._in_blocks = plan.in_blocks if emit is None else frozenset[str]()  # who listens hears of each element
        self._asks_at = inf
        self._streams = Streams(plan, self._frontier, self) if plan.streams else None
        self.loop: Loop
        self._sessions: Mapping[str, Session]

    # The door

    async def run(self, loop: Loop, open_sessions: Callable[[Scheduler], Mapping[str, Session]]) -> None:
        """Run to the end: afterwards every process of the plan has its outcome.

        Args:
            loop: the running event loop.
            open_sessions: returns a session per lane.

        Raises:
            BaseException: the cancellation that ended the run; everything that could be stopped has been.
        """
        self.loop = loop
        self._thread = get_ident()
        async with loop:
            self._sessions = sessions = open_sessions(self)
            if self._in_blocks and not isinstance(sessions[WORKER], BlockSession):
                self._in_blocks = frozenset()
            try:
                if self._timeout is not None:
                    self._until = perf_counter() + self._timeout
                    self._set_timer(self._timeout, self._run_timed_out, None)
                self._start()
                while self._turn():
                    await loop.wait(self._next_deadline())
            except BaseException:
                self._stop("cancellation")
                while self._turn():
                    await loop.wait_shielded(self._next_deadline())
                raise
            finally:
                self._closed = True
                if self._gates is not None:
                    self._gates.close(self)
                    self._gates = None
                for session in sessions.values():
                    session.close()
                # They know this run, and it them: its values are to go with the last reference, not as garbage.
                self._sessions = {}
                self._timers.clear()
                self._mailbox.clear()
                self._shared.clear()

    def deliver(self, call: Call, outcome: Any) -> None:
        """Take an outcome from an executor; from any thread."""
        if self._closed:
            return
        self._mailbox.append((call, outcome))
        if not self._armed:
            self._armed = True
            if get_ident() == self._thread:
                self.loop.wake()
            else:
                self.loop.wake_threadsafe()

    def interrupt(self) -> None:
        """Stop the run; from any thread or a signal handler."""
        self._interrupted = True
        loop = getattr(self, "loop", None)
        if loop is not None and not self._closed:
            loop.wake_threadsafe()

    def freed(self) -> None:
        """Hear that a limit lets somebody begin; from any thread."""
        if self._closed:
            return
        if get_ident() == self._thread:
            self.loop.wake()
        else:
            self.loop.wake_threadsafe()

    # Turns

    def _start(self) -> None:
        """Record what is given; a list in the place of a mapped process stands for its elements."""
        now = perf_counter()
        for name, value in self.plan.given.items():
            node = self.plan.nodes.get(name)
            if node is None:
                continue
            if node.mapped and isinstance(value, (list, tuple)):
                self.elements[name] = [Success(each, now, now, _GIVEN) for each in value]
                self.outcomes[name] = Mapped(self.elements[name], now, attempts=0)
            else:
                self.outcomes[name] = Success(value, now, now, _GIVEN)

    def _turn(self) -> bool:
        """Do everything that can be done now; False at the end of the run."""
        self._armed = False
        mailbox = self._mailbox
        while mailbox:
            self._settle(*mailbox.popleft())
        if self._interrupted and self.stopped_by is None:
            self._stop("interrupt")
        if self.stopped_by is None and len(self.outcomes) == len(self.plan.nodes):
            return False
        self._fire_timers()
        if self.stopped_by is None:
            while self._hand_over():
                continue
        if self.stopped_by is None:
            if self._streams is not None:
                self._streams.grant(self._sessions)
            return len(self.outcomes) < len(self.plan.nodes)
        if self._running:
            return True
        self._give_up_the_rest()
        return False

    def _hand_over(self) -> bool:
        """Submit what is ready; True if there may be more at once."""
        self._more = False
        if self._gates is not None:
            self._admit(self._gates)
        for lane, session in self._sessions.items():
            units = self._take(lane, session)
            for unit in units:
                if type(unit) is tuple:
                    self._begin_element(*unit)
                else:
                    self._begin(self.plan.nodes[unit])
            if self._ends:
                self._record_ends()
                self._more = True
            if self.stopped_by is not None:
                return False
            batch = self._batches[lane]
            if batch:
                self._batches[lane] = []
                session.submit(batch)
            if len(units) == STARTS:
                self.loop.wake()
        if self._gates is not None:
            self._gates.report(self._held[WORKER] + self._held[WORKER + STAGE])
        return self._more

    def _take(self, lane: str, session: Session) -> Sequence[Any]:
        """Take what is ready in a lane, as much as there is room for."""
        room = min(session.window - self._held[lane], STARTS)
        if STAGE in lane:
            room = 0 if self._runs_ahead(lane) else min(room, self._some() - self._held[lane])
        if self._gates is not None and room > 0 and WORKER in lane and self._frontier.next(lane) is not None:
            room = self._gates.room(room)
        if lane is WORKER and self._in_blocks:
            return self._take_blocks(session, room)  # type: ignore[arg-type]  # see `run`
        return self._frontier.take_ready(lane, room) if room > 0 else ()

    def _take_blocks(self, session: BlockSession, room: int) -> Sequence[Any]:
        """Take what is ready for workers; of short calls many at a time, of unknown ones a few, to know them."""
        unit = self._frontier.next(WORKER)
        if unit is None:
            return ()
        if type(unit) is tuple and unit[0] in self._in_blocks:
            grain = self._grain(session, unit[0])
            if grain != 1:
                room = min(room, BLOCKS * session.slots - self._held[WORKER])
                self._more |= grain == 0 and room > 0  # to send it may be enough: other runs have had it
        if room <= 0:
            return ()
        return self._frontier.take_ready(WORKER, room, lambda name: self._grain(session, name) or 1)

    def _grain(self, session: BlockSession, name: str) -> int:
        node = self.plan.nodes[name]
        return session.grain(self._function(node)) if name in self._in_blocks else 1

    def _admit(self, gates: Gates) -> None:
        """Begin what its limit lets begin: retries first, then what is ready."""
        gates.report(self._held[WORKER] + self._held[WORKER + STAGE])
        for gate in gates.in_turn():
            while self._has_room(gate):
                key = gate.retries[0] if gate.retries else self._frontier.next(gate.name)
                if key is None:
                    break
                if type(key) is str and not gate.retries and self.plan.nodes[key].mapped:
                    self._begin_unit(*self._frontier.take_ready(gate.name, 1))  # its elements are what is limited
                    continue
                delay = gate.take(self)
                if delay:
                    self._ask_again(delay)
                    break
                gates.has_had_its_turn(gate)
                self._begin_at(gate)
                if key not in self._running:  # it has ended without a call
                    gate.undo()
                elif type(gate.limit) is Rate:
                    gate.awaited = call = self._running[key]
                    call.observed = True
        gates.forget_idle(self, self._frontier, self._has_room)

    def _has_room(self, gate: Gate) -> bool:
        """Whether what waits at a gate may be handed over, as far as its executor and its own calls are concerned."""
        return gate.awaited is None and self._held[gate.lane] < self._sessions[gate.lane].window

    def _begin_at(self, gate: Gate) -> None:
        """Begin what is next at a gate: an attempt that waits there, or what is ready."""
        if gate.retries:
            self._try_again(self._retrying.pop(gate.retries.popleft()))
            return
        unit = self._frontier.take_ready(gate.name, 1)[0]
        self._begin_unit(unit)
        call = self._running.get(unit)
        if call is not None:
            call.function = gate.widened(call.function)

    def _begin_unit(self, unit: Any) -> None:
        if type(unit) is tuple:
            self._begin_element(*unit)
        else:
            self._begin(self.plan.nodes[unit])

    def _ask_again(self, delay: float) -> None:
        """Have a turn after so many seconds, if there is none before; of those that are awaited the first will do."""
        moment = self.loop.now() + delay
        if moment < self._asks_at:
            self._asks_at = moment
            self._set_timer(delay, self._asked, moment)

    def _asked(self, moment: float) -> None:
        if moment == self._asks_at:
            self._asks_at = inf

    def _some(self) -> int:
        """Return how many elements of a pipeline are begun at once: what its narrowest lane can take."""
        return min([SOME, *(session.window for lane, session in self._sessions.items() if STAGE in lane)])

    def _runs_ahead(self, lane: str) -> bool:
        """Whether elements of a pipeline that are further along wait in another lane: then nothing new is begun."""
        mine = self._frontier.first(lane)
        if mine is None:
            return False
        others = [self._frontier.first(other) for other in self._sessions if STAGE in other and other != lane]
        return any(theirs is not None and theirs[0] < mine[0] and theirs[1] >= SOME // 4 for theirs in others)

    # Beginnings

    def _begin(self, node: Node) -> None:
        """Submit a process with the rest of its chain, or end it."""
        if node.mapped:
            self._open(node)
            return
        if not node.edges and node.id not in self.bound and not self.plan.conditional:
            args, kwargs = NONE, EMPTY
        else:
            values = bind(node, self, 0.0)
            if type(values) is Skipped:
                values.ended = perf_counter()
                self._ends.append((node, node.id, values))
                return
            if self.plan.conditional and self._is_out(node, node.id, values):
                return
            args, kwargs = arguments(node, values)  # type: ignore[arg-type]  # faster than isinstance
        call = self._call(node, node.id, node.id, args, kwargs)
        if node.next is not None:
            self._link(node.next, call)
        self._submit(node, call)

    def _link(self, link: Node | None, last: Call) -> None:
        """Append the links that follow to a chain."""
        while link is not None:
            values = bind(link, self, 0.0, skip=link.edges[0][1])
            args, kwargs = arguments(link, values)  # type: ignore[arg-type]  # nothing to skip it for
            last.then = self._call(link, link.id, link.id, args, kwargs)
            last = last.then
            last.feed = feed(link)
            link = link.next

    def _function(self, node: Node) -> Callable[..., Any]:
        settings = node.settings
        return self._checked(node) if settings.validation_rules or settings.outputs else node.process.entry

    def _call(self, node: Node, key: Key, label: str, args: Any, kwargs: Any) -> Call:
        settings = node.settings
        call = Call(key, label, self._function(node), args, kwargs, None, node.priority, self._context)
        if settings.timeout is not None or self._until != inf:
            call.bounds = (inf if settings.timeout is None else settings.timeout, self._until)
        if self._emit is not None:
            call.observed = True
        else:
            call.hand_on = node.hands_on
        if self._streams is not None and node.id in self.plan.streams:
            call.flow = self._streams.flow(node, self._sessions)
        return call

    def _checked(self, node: Node) -> Callable[..., Any]:
        """Return what an executor calls of a process with validation rules: one object, that is pickled once."""
        known = self._entries.get(node.id)
        if known is None:
            known = self._entries[node.id] = function_of(node)
        return known

    def _submit(self, node: Node, call: Call) -> None:
        lane = node.lane
        self._held[lane] += 1
        self._running[call.key] = call
        self._batches[lane].append(call)
        if node.settings.timeout is not None:
            self._watch(node, call)

    def _open(self, node: Node) -> None:
        """Let the elements of a mapped process begin, or end it."""
        name = node.id
        if name in self.outcomes:  # what it goes over has ended without any
            return
        fed: Mapping[str, list[Any]] = EMPTY if self._streams is None else self._streams.fed(name)
        shared = bind(node, self, perf_counter())
        if isinstance(shared, Skipped):
            self._ends.append((node, name, shared))
            return
        try:
            sequences = self._gone_over(node, shared, fed)
        except Exception as error:  # noqa: BLE001 - an iterable may raise anything
            self._fail(node, name, error)
            return
        if isinstance(sequences, Skipped):
            self._ends.append((node, name, sequences))
            return
        lengths = [len(each) for each in sequences.values()]
        self._more = True
        self._shared[name] = shared
        self.sequences[name] = sequences
        sequences.update((each, fed[source]) for each, source in sources_of(node).items() if source in fed)
        self.elements[name] = []
        along = self.plan.aligned[name] or name in self.plan.fed
        if along and lengths:
            self._frontier.bound(name, min(lengths))
        complete = self._frontier.open(name)
        if not along:
            self._frontier.expand(name, lengths[0])
            complete = self._frontier.seal(name)
        self._complete(complete)

    def _gone_over(
        self, node: Node, shared: dict[str, Any], fed: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]] | Skipped:
        """Take what a map goes over, as far as it is there, out of its parameters and of what it depends on."""
        aligned, mapped = self.plan.aligned[node.id], node.settings.map_over
        sequences: dict[str, list[Any]] = {}
        for parameter in [name for name in mapped if name in shared]:
            sequences[parameter] = self._sequence(node.id, mapped[parameter], shared.pop(parameter))
        for parameter, source, kind in node.edges:
            if kind >= EACH and source not in aligned and source not in fed:
                found = self._elements_of(node.id, source, kind)
                if isinstance(found, Skipped):
                    return found
                sequences[parameter] = found
        if type(mapped) is cross:
            sequences = crossed(sequences, mapped)
        same_length(node.id, {name: len(each) for name, each in sequences.items()})
        return sequences

    def _elements_of(self, name: str, source: str, kind: int) -> list[Any] | Skipped:
        """Return what a map goes over of a process that it does not go along with, or why it cannot."""
        outcome = self.outcomes[source]
        if takes_result(kind) and isinstance(outcome, Mapped):
            return [self.result(source, index) for index in range(len(self.elements[source]))]
        failed, reason = why(source, outcome)
        if reason:
            return Skipped(reason, perf_counter(), failed=failed)
        return self._sequence(name, source, outcome.value)  # type: ignore[union-attr]

    def _sequence(self, name: str, source: str, value: Any) -> list[Any]:
        """Return what a map goes over as a list; an iterator can only be read once, and serves all maps over it."""
        if not hasattr(value, "__next__"):
            return sequence(name, source, value)
        known = self._read.get(id(value))
        if known is None:
            known = self._read[id(value)] = (value, sequence(name, source, value))
        return known[1]

    def _begin_block(self, name: str, elements: range) -> None:
        node = self.plan.nodes[name]
        columns = {parameter: each[elements.start : elements.stop] for parameter, each in self.sequences[name].items()}
        function, shared = self._function(node), self._shared[name]
        block = Block(name, elements, function, shared, columns, node.priority, self._context)
        timeout = node.settings.timeout
        if timeout is not None or self._until != inf:
            block.bounds = (inf if timeout is None else timeout, self._until)
        self._submit(node, block)

    def _begin_element(self, name: str, index: int | range) -> None:
        if type(index) is range:
            self._begin_block(name, index)
            return
        node = self.plan.nodes[name]
        key = (name, index)
        values = bind_element(node, index, self._shared[name], self, 0.0)
        if isinstance(values, Skipped):
            values.ended = perf_counter()
            self._ends.append((node, key, values))
            return
        if self.plan.conditional and self._is_out(node, key, values):
            return
        args, kwargs = arguments(node, values)
        self._submit(node, self._call(node, key, f"{name}_{index}", args, kwargs))

    def _is_out(self, node: Node, key: Key, values: Any) -> bool:
        """Ask the condition of a process; if it says no, or raises, that is its end."""
        try:
            if holds(node, values):
                return False
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a condition is the user's
            self._fail(node, key, error)
            return True
        condition = getattr(node.settings.when, "__name__", None) or repr(node.settings.when)
        self._ends.append((node, key, Skipped(f"its condition ({condition}) says no", perf_counter(), failed=False)))
        return True

    def _fail(self, node: Node, key: Key, error: BaseException) -> None:
        """End what could not begin."""
        now = perf_counter()
        failure = as_failure(key if type(key) is str else f"{key[0]}_{key[1]}", Failure(error, now, now))
        failure.required = node.required
        self._ends.append((node, key, failure))

    # Ends

    def _settle(self, call: Call, outcome: Any) -> None:  # noqa: C901, PLR0912, PLR0915 - the path of every process: calls cost
        """Take what an executor has delivered."""
        key = call.key
        running = self._running
        if running.get(key) is not call:
            return
        node = self.plan.nodes[key if type(key) is str else key[0]]
        kind = type(outcome)
        if kind in _MEANWHILE:
            self._take_meanwhile(call, outcome)
            return
        if type(call) is Block:
            self._settle_block(node, call, outcome)
            return
        if kind is Sealed:
            outcome = outcome.open()
            kind = type(outcome)
        elif node.opens and kind is Success and isinstance(outcome.value, Handle):
            outcome = self._opened(node, call, outcome)
            kind = type(outcome)
        del running[key]
        if self._gates is not None:
            self._gates.give_back(node.id, call)
        if has_yielded(call):
            self._held[node.lane] += 1  # it has held no place since its first element
        if node.settings.timeout is not None:
            self._forget_timers()
        if kind is Success:
            then = call.then
            if then is None:
                self._held[node.lane] -= 1
            else:
                running[then.key] = then
                follower = node.next
                if follower is not None and follower.settings.timeout is not None:
                    self._watch(follower, then)
                if self.stopped_by is not None:
                    self._sessions[node.lane].stop(then)
            if self._timed_out and key in self._timed_out:
                if node.lane in _ON_LOOP:  # it has swallowed its cancellation, and ended when it liked
                    self._not_well(node, call, Stopped(outcome.ended, ended=True))
                    return
                self._timed_out.discard(key)
            if call.attempt > 1:
                outcome.note = (call.attempt, outcome.worker, key not in self._overlapped, *outcome.note[3:])
            if type(node.process) is not FunctionProcess:
                outcome = unwrapped(outcome)
            if type(outcome) is Success:
                if isinstance(key, tuple):
                    self._record_element(node, key, outcome)
                else:
                    self._record(node, outcome)
                if self._ends:
                    self._record_ends()
                return
        else:
            self._held[node.lane] -= 1
        self._not_well(node, call, outcome)

    def _settle_block(self, node: Node, block: Block, outcome: Part | Split | Stopped) -> None:
        """Take what has come of a block's elements."""
        if isinstance(outcome, Part):
            if outcome.plain:
                block.at = outcome.start + len(outcome.outcomes)
                self._leave_behind(node, block)
                self._record_elements(node, outcome.start, outcome.outcomes)
                return
            for index, each in enumerate(outcome.outcomes, outcome.start):
                self._settle_single(node, block, index, each)
        elif isinstance(outcome, Split):
            rest = outcome.rest
            block.end = rest.start
            self._running[rest.key] = rest
            self._held[node.lane] += 1
            self._leave_behind(node, block)
            if self.stopped_by is not None:
                self._give_up(node, rest)
            elif node.settings.timeout is not None:
                self._watch(node, rest)
        else:  # what has not been done of it is done one by one: together it cannot be
            undone = range(block.at, block.end)
            block.at = block.end
            self._leave_behind(node, block)
            for index in undone if self.stopped_by is None else ():
                self._begin_element(node.id, index)

    def _leave_behind(self, node: Node, block: Block) -> None:
        """Forget a block that has no elements left."""
        if block.at >= block.end and self._running.pop(block.key, None) is not None:
            self._held[node.lane] -= 1
            if node.settings.timeout is not None:
                self._forget_timers()

    def _settle_single(self, node: Node, block: Block, index: int, outcome: Any) -> None:
        """Take what has come of one element, as if it had been sent for itself."""
        call = block.single(index)
        if type(outcome) in _MEANWHILE:
            self._take_meanwhile(call, outcome)
            return
        block.at = index + 1
        self._leave_behind(node, block)
        if type(outcome) is Stopped and self.stopped_by is None:
            self._timed_out.add(call.key)
        self._running[call.key] = call
        self._held[node.lane] += 1
        self._settle(call, outcome)

    def _record_elements(self, node: Node, start: int, outcomes: list[Any]) -> None:
        """Record elements next to one another that have ended well."""
        name = node.id
        elements, stop = self.elements[name], start + len(outcomes)
        if stop > len(elements):
            elements.extend([None] * (stop - len(elements)))
        elements[start:stop] = outcomes
        if self._uses and not self._uses[name] and name not in self.plan.asked:
            for outcome in outcomes:
                outcome.value = RELEASED
        if self._streams is not None:
            self._streams.ended(name, range(start, stop))
        if self._frontier.succeed_all(name, range(start, stop)):
            self._complete([name])
            self._record_ends()

    def _take_meanwhile(self, call: Call, outcome: Began | Logged | Errand | Progressed | Yielded) -> None:
        """Take what an executor has delivered of a call that goes on."""
        if isinstance(outcome, Began):
            if self._gates is not None:
                self._gates.began(self._node(call.key).id, call)
            self._tell("process_started", call.label, ProcessState.RUNNING, call.started, call.attempt)
        elif isinstance(outcome, Logged):
            log(call, outcome.fields)
        elif isinstance(outcome, Errand):
            outcome.run()
        elif isinstance(outcome, Yielded):
            self._take_element(call, outcome)
        elif not call.stopped and (news := outcome.read()) is not None:
            fraction, message, moment = news
            outcome.reached = round(100 * fraction, 6)  # 29, and not 28.999999999999996
            call.report = outcome
            if self._emit is not None:
                facts = call.label, ProcessState.RUNNING, moment, call.attempt, None
                self._emit("process_progress", *facts, outcome.reached, message)

    def _take_element(self, call: Call, outcome: Yielded) -> None:
        """Take what a call has yielded. From its first element on it holds no place that its consumers might need."""
        streams, flow, lane = self._streams, call.flow, self._node(call.key).lane
        if streams is None or flow is None or self.stopped_by is not None or call.key in self._timed_out:
            return
        if not flow.begun:
            flow.begun = True
            self._held[lane] -= 1
        try:
            self._complete(streams.take(call, outcome.value))
        except ProcessError as error:
            self._settle(call, Failure(error, call.started, perf_counter()))
            self._sessions[lane].stop(call)
        self._record_ends()

    def _opened(self, node: Node, call: Call, outcome: Success) -> Success | Failure:
        """Open what a worker returned; if that fails, so has the process, and what follows it is given up."""
        try:
            outcome.value = outcome.value.open()
        except ProcessError as error:
            if call.then is not None:
                self._sessions[node.lane].stop(call.then)
            return Failure(error, outcome.started, outcome.ended, note=outcome.note)
        return outcome

    def _not_well(self, node: Node, call: Call, outcome: Failure | Stopped) -> None:
        """Try again what failed or was given up, or end it."""
        key = call.key
        if isinstance(outcome, Stopped):
            if not outcome.ended:
                self._overlapped.add(key)
            if key not in self._timed_out and self.stopped_by is None:
                self._begin(node)  # the link before was given up in the moment in which it ended well
                return
            if key not in self._timed_out:
                stopped = key not in self._overlapped
                began = call.started or None
                attempts = call.attempt if began else call.attempt - 1
                end = Cancelled(
                    began,
                    outcome.at,
                    attempts=attempts,
                    stopped=stopped,
                    worker=outcome.worker,
                    progress=call.progress,
                )
                self._ends.append((node, key, end))
                self._record_ends()
                return
            error = timed_out(call.label, node.settings.timeout, call.attempt, ended=outcome.ended)
            outcome = Failure(error, call.started or outcome.at, outcome.at, worker=outcome.worker)
        if node.lane in _ON_LOOP:
            if isinstance(outcome.exception, KeyboardInterrupt):
                self._stop("interrupt")
                end = Cancelled(outcome.started, outcome.ended, attempts=call.attempt, progress=call.progress)
                self._ends.append((node, key, end))
                self._record_ends()
                return
            if key in self._timed_out:  # what it raised when it was cancelled
                error = timed_out(call.label, node.settings.timeout, call.attempt, ended=True)
                error.__cause__ = outcome.exception
                outcome = Failure(error, outcome.started, outcome.ended)
        self._timed_out.discard(key)
        failure = as_failure(call.label, outcome)
        failure.attempts, failure.progress = call.attempt, call.progress
        failure.required = node.required
        failure.stopped = key not in self._overlapped
        delay = self._delay(node, call, failure.exception)
        if delay is not None and self.stopped_by is None:
            self._retrying[key] = call
            if self._emit is not None:
                result = self._result_of(call.label, node, failure)
                self._tell("process_retrying", call.label, ProcessState.RETRYING, failure.ended, call.attempt, result)
            self._set_timer(delay, self._retry, key)
            return
        self._ends.append((node, key, self._stand_in(node, call, failure)))
        self._record_ends()

    def _stand_in(self, node: Node, call: Call, failure: Failure) -> Failure | Success:
        """Return the end of a process whose last attempt has failed: its fallback, if it has one."""
        fallback = node.settings.fallback
        if fallback is NOTHING or self.stopped_by is not None or has_yielded(call):
            return failure
        try:
            value = fallback(failure.exception) if callable(fallback) else fallback
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a fallback is the user's
            error.__context__ = failure.exception
            failure.exception = error
            failure.traceback = None
            return as_failure(call.label, failure)
        note = Substitute((failure.attempts, failure.worker, failure.stopped, *(failure.usage or ())))
        note.exception, note.traceback = failure.exception, failure.traceback
        return Success(value, failure.started, failure.ended, note)

    @staticmethod
    def _delay(node: Node, call: Call, exception: BaseException) -> float | None:
        """Return after how many seconds a failed attempt is followed by another; None if it is not.

        The death of a worker is counted apart: it says nothing of the function, and may have been its doing. What a
        call has yielded cannot be taken back, so there is no other after it.
        """
        if has_yielded(call):
            return None
        if type(exception) is WorkerCrashedError:
            call.crashes += 1
            return 0.0 if call.crashes <= node.settings.crash_retries else None
        attempt = call.attempt - call.crashes
        retry = node.settings.retry_strategy
        return retry.delay(attempt) if retry is not None and retry.allows(attempt, exception) else None

    def _record_ends(self) -> None:
        """Record what has ended, and everything that ends with it."""
        ends = self._ends
        while ends:
            node, key, outcome = ends.popleft()
            if type(key) is tuple:
                self._record_element(node, key, outcome)
            elif key not in self.outcomes:
                self._record(node, outcome)
            if type(outcome) is Failure and self._stops(node, outcome):
                self._stop("failure")

    def _stops(self, node: Node, outcome: Failure) -> bool:
        own = node.settings.fail_fast
        return outcome.required and self.stopped_by is None and (self._fail_fast if own is None else own)

    def _record(self, node: Node, outcome: Outcome) -> None:  # noqa: C901, PLR0912 - the same
        name = node.id
        if type(outcome) is Mapped:
            outcome = self._whole(node, outcome)
        elif self._streams is not None and name in self.plan.streams:
            self._end_stream(self._streams, node, outcome)
        self.outcomes[name] = outcome
        if self._streams is not None and node.mapped:
            self._streams.gone(name)
        if self._emit is not None:
            self._tell_end(name, node, outcome)
        if type(outcome) is Success:
            if self._uses:
                self._release(node)
        elif type(outcome) is Mapped and self._uses and outcome.state is ProcessState.COMPLETED:
            self._release(node)
        following = node.next
        if following is not None:
            # A link that did not succeed has ended its chain in the executor.
            if (type(outcome) is not Success or type(outcome.note) is Substitute) and self.stopped_by is None:
                self._begin(following)
            return
        if self._has_no_elements(node, outcome):
            self._cut(name, outcome)
        if self._short:
            self._end_short(node.consumers)
        if type(outcome) is Success or not why(name, outcome)[0]:
            self._frontier.succeed(node.unit)
            return
        for dropped in self._frontier.fail(node.unit):
            self._skip(dropped, outcome, name)

    def _end_stream(self, streams: Streams, node: Node, outcome: Outcome) -> None:
        """Let the maps over what a process has yielded, or returned, know that this is all."""
        complete, refused = streams.end(node, outcome)
        for name, error in refused.items():
            self._fail(self.plan.nodes[name], name, error)
        self._complete(complete)

    def _has_no_elements(self, node: Node, outcome: Outcome) -> bool:
        """Whether what goes over a process, element by element, will never have anything to go over."""
        if node.mapped:
            return type(outcome) is not Mapped and not self.elements.get(node.id)
        if self._streams is None or node.id not in self.plan.streams or type(outcome) in (Success, Cancelled):
            return False
        return not self._streams.count(node.id)

    def _cut(self, name: str, outcome: Outcome) -> None:
        """End what goes over a process that has no elements: for a failure at once, else when the worst is known."""
        if not why(name, outcome)[0]:
            self._short.update(self._frontier.followers(name))
            return
        for follower in self._frontier.cut(name):
            self._skip(follower, outcome, name)

    def _end_short(self, names: Iterable[str]) -> None:
        """End those that have nothing to go over, if all that they need has ended: the worst of it decides."""
        for name in [name for name in names if name in self._short]:
            node = self.plan.nodes[name]
            if all(source in self.outcomes for _, source, _ in node.edges):
                self._short.discard(name)
                now = perf_counter()
                shared = bind(node, self, now)
                ends = [shared] if isinstance(shared, Skipped) else []
                ends += [_given_no_elements(source, self.outcomes[source], now) for source in sources_of(node).values()]
                self._ends.append((node, name, max(ends, key=lambda end: (end.failed, end.reason != ""))))

    def _whole(self, node: Node, outcome: Mapped) -> Outcome:
        """Return the end of a map: what it goes over may have ended before all was there."""
        end = cut_short(self.plan, self.outcomes, node.id, outcome.ended)
        elements = self.elements[node.id]
        if end is None:
            return outcome
        return Mapped(elements, outcome.ended, end, handled=node.handled) if elements else end

    def _skip(self, name: str, outcome: Outcome, source: str) -> None:
        failed, reason = why(source, outcome)
        self._ends.append((self.plan.nodes[name], name, Skipped(reason, perf_counter(), failed=failed)))

    def _record_element(self, node: Node, key: tuple[str, int], outcome: Outcome) -> None:
        name, index = key
        elements = self.elements[name]
        if index >= len(elements):
            elements.extend([None] * (index + 1 - len(elements)))
        elements[index] = outcome
        if self._emit is not None:
            self._tell_end(f"{name}_{index}", node, outcome)
        if self._uses and type(outcome) is Success:
            self._release_elements(node, index)
            if not self._uses[name] and name not in self.plan.asked:
                outcome.value = RELEASED
        if self._streams is not None:
            self._streams.ended(name, (index,))
        if self._frontier.succeed(key):
            self._complete([name])

    def _complete(self, names: Iterable[str]) -> None:
        """End mapped processes all of whose elements have ended."""
        for name in names:
            node = self.plan.nodes[name]
            lengths = self._lengths(name)
            self.sequences[name] = {}
            self._shared[name] = {}
            if len(set(lengths.values())) > 1:
                self._fail(node, name, unequal(name, lengths, self._growing(name)))
                continue
            self._ends.append((node, name, Mapped(self.elements[name], perf_counter(), handled=node.handled)))

    def _lengths(self, name: str) -> dict[str, int]:
        """Return the lengths of what a map goes over, by source or parameter."""
        along = (*self.plan.aligned[name], *self.plan.fed.get(name, ()))
        lengths = {source: self._frontier.size(source) for source in along}
        sources = sources_of(self.plan.nodes[name])
        others = {each: len(found) for each, found in self.sequences[name].items() if sources.get(each) not in along}
        return lengths | others

    def _growing(self, name: str) -> list[str]:
        """Return those of what a map goes over that may have more elements than are known."""
        along = (*self.plan.aligned[name], *self.plan.fed.get(name, ()))
        return [source for source in along if not self._frontier.is_sealed(source)]

    # What is kept

    def _release(self, node: Node) -> None:
        """Let go of values all of whose consumers have completed."""
        uses = self._uses
        targets = self.plan.asked
        own = self.outcomes[node.id]
        if not uses[node.id] and type(own) is Success and node.id not in targets:
            own.value = RELEASED
        for source in {source for _, source, kind in node.edges if kind not in (AFTER, EACH + AFTER)}:
            uses[source] -= 1
            if not uses[source] and source not in targets:
                outcome = self.outcomes.get(source)
                if type(outcome) is Success:
                    outcome.value = RELEASED
                for element in self.elements.get(source, ()):
                    if type(element) is Success:
                        element.value = RELEASED

    def _release_elements(self, node: Node, index: int) -> None:
        """Let go of the elements that only this one, and its like in other maps, had use for."""
        for source in self.plan.aligned[node.id]:
            consumers = self.plan.nodes[source].consumers
            if source in self.plan.asked or any(source not in self.plan.aligned.get(name, ()) for name in consumers):
                continue
            ends = [self.elements.get(name, ())[index : index + 1] for name in consumers]
            outcome = self.elements[source][index]
            if type(outcome) is Success and all(end and type(end[0]) is Success for end in ends):
                outcome.value = RELEASED

    # Stopping

    def _stop(self, reason: str) -> None:
        """Give up everything that has been begun, and begin nothing more."""
        if self.stopped_by is not None:
            return
        self.stopped_by = reason
        for batch in self._batches.values():  # not handed over yet
            for call in batch:
                del self._running[call.key]
            batch.clear()
        now = perf_counter()
        for key, call in self._retrying.items():
            node = self._node(key)
            stopped = key not in self._overlapped
            self._ends.append((node, key, Cancelled(call.started, now, attempts=call.attempt, stopped=stopped)))
        self._retrying.clear()
        for key, call in list(self._running.items()):
            self._give_up(self._node(key), call)

    def _give_up(self, node: Node, call: Call) -> None:
        session = self._sessions[node.lane]
        session.stop(call)
        if not session.queues or call.handle is not None:
            self._set_timer(AGAIN, self._give_up_again, call)

    def _give_up_again(self, call: Call) -> None:
        if self._running.get(call.key) is call and self._node(call.key).lane in _ON_LOOP:
            self._give_up(self._node(call.key), call)

    def _give_up_the_rest(self) -> None:
        """End what had not begun when the run was stopped: SKIPPED below a failure, else CANCELLED."""
        self._record_ends()
        now = perf_counter()
        for name, node in self.plan.nodes.items():
            if name in self.outcomes:
                continue
            if name in self.elements:
                self._give_up_elements(node, now)
                continue
            end = _given_up(
                [(source, self.outcomes[source]) for _, source, kind in node.edges if not forgives(kind)], now
            )
            self.outcomes[name] = end
            if self._emit is not None:
                self._tell_end(name, node, end)

    def _give_up_elements(self, node: Node, now: float) -> None:
        name = node.id
        elements = self.elements[name]
        if not self._frontier.size(name):
            along = (*self.plan.aligned[name], *self.plan.fed.get(name, ()))
            sources = [(source, self.outcomes[source]) for source in along]
            self.outcomes[name] = end = _given_up(sources, now)
            if self._emit is not None:
                self._tell_end(name, node, end)
            return
        elements.extend([None] * (self._frontier.size(name) - len(elements)))
        for index, element in enumerate(elements):
            if element is None:
                sources = [
                    (f"{source}_{index}", self.elements[source][index])
                    for _, source, kind in node.edges
                    if kind >= EACH and source in self.plan.aligned[name] and not forgives(kind)
                ]
                elements[index] = ended = _given_up(sources, now)
                if self._emit is not None:
                    self._tell_end(f"{name}_{index}", node, ended)
        self.outcomes[name] = mapped = Mapped(elements, now, cut_short(self.plan, self.outcomes, name, now))
        if self._emit is not None:
            self._tell_end(name, node, mapped)

    def _run_timed_out(self, _: None) -> None:
        self._stop("timeout")

    # Timers

    def _set_timer(self, delay: float, function: Callable[[Any], None], argument: Any) -> None:
        self._number += 1
        heappush(self._timers, (self.loop.now() + delay, self._number, function, argument))

    def _next_deadline(self) -> float:
        return self._timers[0][0] if self._timers else inf

    def _fire_timers(self) -> None:
        timers = self._timers
        if not timers:
            return
        now = self.loop.now()
        while timers and timers[0][0] <= now:
            _, _, function, argument = heappop(timers)
            function(argument)

    def _watch(self, node: Node, call: Call) -> None:
        self._set_timer(node.settings.timeout, self._check_timeout, call)

    def _check_timeout(self, call: Call) -> None:
        """Give up a call that has run for its timeout; one that waited in a queue for a while has time left."""
        if self._running.get(call.key) is not call or call.key in self._timed_out or self.stopped_by is not None:
            return
        node = self._node(call.key)
        timeout = node.settings.timeout
        session = self._sessions[node.lane]
        if session.queues:
            began = session.began(call)
            left = min(timeout, timeout - (perf_counter() - began)) if began else timeout  # it may be about to begin
            if type(call) is Block and left <= 0:
                session.expire(call, began)  # type: ignore[attr-defined]  # it takes blocks
                left = timeout  # the others go on
            if left > 0:
                self._set_timer(left, self._check_timeout, call)
                return
        self._timed_out.add(call.key)
        self._give_up(node, call)

    def _forget_timers(self) -> None:
        """Drop the timers of calls that have ended, once they are most of them: they hold the calls' arguments."""
        if len(self._timers) < 2 * len(self._running) + (1_000 if self._streams is None else 10):
            return
        running = self._running
        self._timers = [
            timer for timer in self._timers if not isinstance(timer[3], Call) or running.get(timer[3].key) is timer[3]
        ]
        heapify(self._timers)

    def _retry(self, key: Key) -> None:
        """Make the next attempt, or have it wait for its limit."""
        if key not in self._retrying or (self._gates is not None and self._gates.queue(self._node(key).id, key)):
            return
        self._try_again(self._retrying.pop(key))

    def _try_again(self, call: Call) -> None:
        """Make the next attempt, with the rest of the chain."""
        key = call.key
        node = self._node(key)
        args, kwargs = call.args, call.kwargs
        if call.feed is not None:  # the executor had its value from the link before
            args, kwargs = arguments(node, bind(node, self, 0.0))  # type: ignore[arg-type]  # nothing to skip it for
        again = Call(key, call.label, call.function, args, kwargs, None, call.priority, self._context)
        if node.next is not None and call.then is not None:
            self._link(node.next, again)  # of fresh calls: an abandoned thread may still hold the others
        again.attempt = call.attempt + 1
        again.crashes = call.crashes
        again.bounds = call.bounds
        again.observed = call.observed
        again.hand_on = call.hand_on
        if self._streams is not None and call.flow is not None:
            again.flow = self._streams.flow(node, self._sessions)
        self._submit(node, again)

    def _node(self, key: Key) -> Node:
        return self.plan.nodes[key if type(key) is str else key[0]]

    # Telling

    def result(self, name: str, index: int | None = None) -> ProcessResult[Any]:
        """Return the result of a process that has ended, or of an element."""
        outcome = self.outcomes[name] if index is None else self.elements[name][index]
        label = name if index is None else f"{name}_{index}"
        return self._result_of(label, self.plan.nodes[name], outcome)

    def _result_of(self, label: str, node: Node, outcome: Outcome) -> ProcessResult[Any]:
        result = result_of(label, outcome, node.strategy, self.clock)
        if self._uses:
            _ = result._data  # noqa: SLF001 - it is read now, for it may be released
        return result

    def _tell(
        self, kind: str, label: str, state: ProcessState, moment: float, attempt: int, result: Any = None
    ) -> None:
        if self._emit is not None:
            self._emit(kind, label, state, moment, attempt, result)

    def _tell_end(self, label: str, node: Node, outcome: Outcome) -> None:
        result = self._result_of(label, node, outcome)
        self._tell("process_ended", label, result.state, outcome.ended, result.attempts, result)


def log(call: Call, fields: dict[str, Any]) -> None:
    """Log here what a worker has logged, with the names of the process and of its attempt."""
    import logging

    record = logging.makeLogRecord({**fields, "process_id": call.label, "attempt": call.attempt})
    logger = logging.getLogger(record.name)
    try:
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # noqa: BLE001 - a filter of the user's; in the worker it would have cost the call, not the run
        logging.lastResort.handle(record)  # type: ignore[union-attr]  # there always is one


_GIVEN: Note = (0, None, True)
"""The note of a value that an override gives: nothing was started for it."""

_MEANWHILE = {Began, Logged, Errand, Progressed, Yielded}
"""What is no end of a call."""

_ON_LOOP = (TASK, TASK + ELEMENT, INLINE, INLINE + STAGE)


def _given_no_elements(source: str, outcome: Outcome, now: float) -> Skipped:
    """Return why there is nothing to go over, as far as it is for one source, which others may outdo."""
    failed, reason = (False, "") if isinstance(outcome, (Mapped, Success)) else why(source, outcome)
    return Skipped(reason, now, failed=failed)


def _given_up(sources: Iterable[tuple[str, Outcome]], now: float) -> Skipped | Cancelled:
    """Return the end of what had not begun when the run was stopped."""
    for source, outcome in sources:
        failed, reason = why(source, outcome)
        if failed:
            return Skipped(reason, now, failed=True)
    return Cancelled(None, now)
