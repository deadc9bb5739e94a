"""Threads of our own: what is abandoned, what is lent, who is served next, and what an idle thread holds."""

import gc
import os
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import pmflow
from pmflow import ThreadsExhaustedError, process
from pmflow.executors import pools, threads
from pmflow.executors.base import Call, Stopped
from pmflow.executors.threads import ThreadPool, ThreadSession
from pmflow.outcomes import Failure, Success

LIMIT = 20.0
"""Seconds after which what a test waits for counts as missing."""


class Port:
    """A run, as the pool sees it."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[Call, Any]] = queue.Queue()

    def deliver(self, call: Call, outcome: Any) -> None:
        """Take an outcome."""
        self.told.put((call, outcome))

    def next(self) -> tuple[Any, Any]:
        """Return the key of a call and its outcome: the next that is delivered."""
        call, outcome = self.told.get(timeout=LIMIT)
        return call.key, outcome


class Gate:
    """A function that says that it runs, and does so until it is opened."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.thread: threading.Thread

    def __call__(self) -> None:
        """Wait in front of the gate."""
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.opened.wait(LIMIT)


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    """Gates that are opened at the end, so that no thread outlives its test for long."""
    made = [Gate() for _ in range(8)]
    yield made
    for gate in made:
        gate.opened.set()


def call(function: Any, key: Any = "call", *args: Any, **settings: Any) -> Call:
    """Return a call."""
    return Call(key, str(key), function, args, **settings)


def occupy(session: ThreadSession, gate: Gate, key: Any = "held") -> Call:
    """Have a thread wait in front of a gate."""
    held = call(gate, key)
    session.submit([held])
    assert gate.begun.wait(LIMIT)
    return held


# Abandoned threads


def test_an_abandoned_thread_is_replaced_and_ends_afterwards(gates: list[Gate]) -> None:
    """A call that is given up costs a thread, not a place: another takes it, and the first ends with its call."""
    pool, port = ThreadPool(1), Port()
    session = pool.open(port)
    held = occupy(session, gates[0])
    session.stop(held)
    key, outcome = port.next()
    assert (key, type(outcome), outcome.ended, pool.abandoned) == ("held", Stopped, False, 1)
    session.submit([call(threading.current_thread, "next")])
    _, outcome = port.next()
    assert outcome.value is not gates[0].thread
    assert gates[0].thread.is_alive()
    gates[0].opened.set()
    gates[0].thread.join(LIMIT)
    assert not gates[0].thread.is_alive()
    assert eventually(lambda: (pool.abandoned, pool.running, session.running) == (0, 0, 0))


def test_what_follows_an_abandoned_link_never_begins(gates: list[Gate]) -> None:
    """The rest of a chain whose link was given up is not run when that ends at last, and nothing is said of it."""
    pool, port = ThreadPool(1), Port()
    session = pool.open(port)
    begun = threading.Event()
    held = call(gates[0], "held")
    held.then = call(begun.set, "then")
    session.submit([held])
    assert gates[0].begun.wait(LIMIT)
    session.stop(held)
    gates[0].opened.set()
    gates[0].thread.join(LIMIT)
    assert not begun.is_set()
    assert port.next()[0] == "held"
    assert {call.key for call, _ in port.told.queue} <= {"held"}  # late, for the run to ignore


@pytest.fixture
def few_abandoned(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let so many threads be abandoned, and no more."""
    monkeypatch.setattr(threads, "MOST_ABANDONED", 2)
    return 2


def test_64_threads_may_be_abandoned() -> None:
    """The bound of the design."""
    assert threads.MOST_ABANDONED == 64


def test_with_too_many_abandoned_threads_calls_fail_at_once(gates: list[Gate], few_abandoned: int) -> None:
    """Beyond the bound every call fails at once, those that wait included, until abandoned ones have ended."""
    pool, port = ThreadPool(1), Port()
    session = pool.open(port)
    first = occupy(session, gates[0], "first")
    session.stop(first)
    assert port.next()[0] == "first"
    second = occupy(session, gates[1], "second")
    session.submit([call(print, "queued"), call(print, "queued too", priority=3)])
    session.stop(second)
    told = dict(port.next() for _ in range(3))
    assert type(told["second"]) is Stopped
    for key in ("queued", "queued too"):
        error = told[key].exception
        assert (type(told[key]), type(error)) == (Failure, ThreadsExhaustedError)
        assert key in str(error)
        assert "type='process'" in str(error)
    session.submit([call(print, "late")])
    assert type(port.next()[1].exception) is ThreadsExhaustedError
    gates[0].opened.set()
    gates[0].thread.join(LIMIT)
    session.submit([call(lambda: 3, "again")])
    while (last := port.next())[0] == "first":
        continue  # late, for the run to ignore
    assert (last[0], type(last[1]), last[1].value) == ("again", Success, 3)


def test_a_run_with_too_many_abandoned_threads_says_so(
    gates: list[Gate], few_abandoned: int, own_pool: ThreadPool
) -> None:
    """In a run they are failures of their processes, which name the remedy; processes of other strategies run on."""
    hanging = [process(gate, id=f"hangs{n}", timeout=0.05) for n, gate in enumerate(gates[:2])]
    pmflow.run(hanging, on_error="return")
    inline = process(lambda: 1, id="inline", type="async")
    run = pmflow.run([process(lambda: 1, id="plain"), inline], on_error="return")
    assert (run["plain"].error_type, run["inline"].data) == ("ThreadsExhaustedError", 1)
    assert isinstance(run["plain"].exception, pmflow.ProcessError)


@pytest.fixture
def own_pool(monkeypatch: pytest.MonkeyPatch) -> ThreadPool:
    """The program's pool, for one test: one of its own, of two threads."""
    pool = ThreadPool(2)
    monkeypatch.setattr(pools, "_threads", [pool])
    return pool


# Lent places


def test_a_thread_that_runs_a_graph_lends_its_place(own_pool: ThreadPool) -> None:
    """Every thread of the pool waits for a nested run, and the nested runs have threads all the same."""
    both = threading.Barrier(2)

    def nests(n: int) -> int:
        both.wait(LIMIT)  # the pool is full
        return int(pmflow.run(process(lambda n: n * n, id="leaf"), inputs={"n": n}).value)

    mapped = process(nests, map_over={"n": "numbers"})
    assert pmflow.run(mapped, inputs={"numbers": [2, 3]}, timeout=LIMIT).value == [4, 9]
    assert eventually(lambda: own_pool.running == 0)


def test_never_more_than_the_pool_run_at_once(own_pool: ThreadPool) -> None:
    """A host that waits counts for nothing; beside it no more calls run than the pool has places."""
    lock, running, most = threading.Lock(), [0], [0]

    def counts(m: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.005)
        with lock:
            running[0] -= 1
        return m

    def nests(n: int) -> int:
        inner = process(counts, map_over={"m": "ms"})
        return sum(pmflow.run(inner, inputs={"ms": range(5)}).value)

    mapped = process(nests, map_over={"n": "numbers"})
    assert pmflow.run(mapped, inputs={"numbers": range(4)}, timeout=60).value == [10] * 4
    assert 1 <= most[0] <= 2


def test_a_host_that_is_given_up_while_it_lends(own_pool: ThreadPool) -> None:
    """A nested run that takes too long is abandoned with its host; the places add up afterwards."""
    gate = Gate()

    def nests() -> None:
        pmflow.run(process(gate, id="inner"))

    run = pmflow.run(process(nests, timeout=0.2), on_error="return")
    assert run["nests"].error_type == "ProcessTimeoutError"
    assert gate.begun.wait(LIMIT)
    gate.opened.set()
    both = threading.Barrier(2)
    meets = process(lambda n: both.wait(LIMIT) >= 0, id="meets", map_over={"n": "numbers"})
    assert pmflow.run(meets, inputs={"numbers": [1, 2]}, timeout=LIMIT).value == [True, True]
    assert eventually(lambda: (own_pool.running, own_pool.abandoned) == (0, 0))


def eventually(condition: Any) -> bool:
    """Whether something that announces itself by nothing comes true in time."""
    for _ in range(2_000):
        if condition():
            return True
        threading.Event().wait(0.005)
    return False


# Turns


def test_runs_are_served_in_turn(gates: list[Gate]) -> None:
    """With one thread, of three runs each has one call made before any has its second."""
    pool, port = ThreadPool(1), Port()
    sessions = [pool.open(port) for _ in range(3)]
    occupy(sessions[0], gates[0])
    for number, session in enumerate(sessions):
        session.submit([call(int, (number, n)) for n in range(3)])
    gates[0].opened.set()
    order = [port.next()[0] for _ in range(10)][1:]
    assert [sorted(number for number, _ in order[start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3
    for number in range(3):
        assert [n for each, n in order if each == number] == [0, 1, 2]


def test_a_run_that_has_used_its_slots_is_passed_over(gates: list[Gate]) -> None:
    """A run with one slot leaves the other thread to the next run."""
    pool, port = ThreadPool(2), Port()
    narrow, wide = pool.open(port, 1), pool.open(port)
    occupy(narrow, gates[0])
    narrow.submit([call(int, "waits")])
    wide.submit([call(int, "runs")])
    assert port.next()[0] == "runs"
    assert port.told.empty()
    gates[0].opened.set()
    assert [port.next()[0], port.next()[0]] == ["held", "waits"]


# Idle threads


class Large:
    """An argument that somebody might hold on to."""


def test_an_idle_thread_holds_nobodys_arguments() -> None:
    """What a call was given, and what it returned or raised, is free once its outcome has been taken."""
    pool, port = ThreadPool(1), Port()
    session = pool.open(port)

    def refer(value: Large) -> list[Large]:
        return [value]

    def fail(value: Large) -> None:
        raise ValueError(value)

    for function in (refer, fail):
        value = Large()
        watch = weakref.ref(value)
        session.submit([call(function, "call", value)])
        port.next()
        del value
        assert eventually(lambda watch=watch: gc.collect() is None or watch() is None), function


def test_a_run_leaves_nothing_behind(own_pool: ThreadPool) -> None:
    """When its `Run` is gone, so are the arguments and values of a graph: warm threads and pools hold none."""
    made: list[weakref.ref[Large]] = []

    def make() -> Large:
        value = Large()
        made.append(weakref.ref(value))
        return value

    def use(make: Large) -> Large:
        return make

    def also(use: Large, make: Large) -> None:
        return None

    pmflow.run([process(make), process(use), process(also)])
    assert len(made) == 1
    assert eventually(lambda: gc.collect() is None or made[0]() is None)


def test_threads_are_reused(own_pool: ThreadPool) -> None:
    """A warm pool starts no more threads."""
    who = process(lambda n: threading.current_thread().name, id="who", map_over={"n": "numbers"})
    names: set[str] = set()
    for _ in range(50):
        names |= set(pmflow.run(who, inputs={"numbers": range(4)}).value)
    assert len(names) <= 2
    assert all(name.startswith("pmflow-thread-") for name in names)


def test_threads_are_daemons() -> None:
    """The interpreter's exit waits for none of them."""
    assert pmflow.run(process(lambda: threading.current_thread().daemon, id="daemon")).value


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """A child of a fork has none of the parent's threads, and runs graphs all the same; the parent's go on."""
    double = process(lambda n: n * 2, id="double", map_over={"n": "numbers"})
    assert pmflow.run(double, inputs={"numbers": [1, 2]}).value == [2, 4]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if pmflow.run(double, inputs={"numbers": [3, 4]}, timeout=LIMIT).value == [6, 8] else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert pmflow.run(double, inputs={"numbers": [5]}).value == [10]


# Chains that give way


def test_after_a_long_link_the_most_urgent_chain_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chains on one thread take turns, the longest rest first; each link has the value of the one before."""
    monkeypatch.setattr(threads, "TURN", -1.0)  # every link took long
    ran: list[str] = []

    def link(name: str, before: int) -> int:
        ran.append(name)
        return before + 1

    links = [
        process(lambda before=0, name=f"{chain}{place}": link(name, before), id=f"{chain}{place}").options(
            dependencies={"before": f"{chain}{place - 1}"} if place else {}
        )
        for chain in "abc"
        for place in range(3)
    ]
    run = pmflow.run(pmflow.Graph(links), max_threads=1)
    assert [name[1] for name in ran] == list("000111222")
    assert [run[f"{chain}2"].data for chain in "abc"] == [3, 3, 3]


def test_a_chain_that_gave_way_can_be_stopped(monkeypatch: pytest.MonkeyPatch, gates: list[Gate]) -> None:
    """What waits in the queue again has not begun: it ends at once, and says so."""
    monkeypatch.setattr(threads, "TURN", -1.0)
    session = ThreadPool(1).open(port := Port())
    first, rest = call(gates[0], "first", priority=-2), call(len, "rest", (), priority=-1)
    first.then = rest
    session.submit([first])
    assert gates[0].begun.wait(LIMIT)
    session.submit([call(gates[1], "urgent", priority=-3)])
    gates[0].opened.set()
    assert gates[1].begun.wait(LIMIT)
    session.stop(rest)
    assert [key for key, _ in (port.next(), port.next())] == ["first", "rest"]
    gates[1].opened.set()
    assert port.next()[0] == "urgent"
    assert port.told.empty()


def test_short_links_and_many_chains_do_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a short link its chain goes on; and of a hundred chains few wait with a value in their hands."""

    def levels(turn: float, chains: int) -> list[int]:
        monkeypatch.setattr(threads, "TURN", turn)
        ran: list[int] = []
        links = [
            process(lambda before=None, place=place: ran.append(place), id=f"{chain}_{place}").options(
                dependencies={"before": f"{chain}_{place - 1}"} if place else {}
            )
            for chain in range(chains)
            for place in range(2)
        ]
        pmflow.run(pmflow.Graph(links), max_threads=1)
        return ran

    assert levels(1000.0, 3) == [0, 1, 0, 1, 0, 1]
    ran = levels(-1.0, 100)
    assert max(ran[:end].count(0) - ran[:end].count(1) for end in range(201)) == 3
