"""Blocks: many elements of a map sent to a worker as one thing, each with an outcome of its own all the same."""

from __future__ import annotations

import os
import queue
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import pytest

import pmflow
from pmflow import ProcessState, process
from pmflow.engine.frontier import Frontier
from pmflow.errors import ProcessError, TransferError, WorkerCrashedError
from pmflow.executors.base import Block, Call, Errand, Logged, Part, Progressed, Sealed, Split, Stopped
from pmflow.executors.workers import WorkerPool
from pmflow.outcomes import Success, opened

SOON = 20.0


class Elements:
    """A port: the outcomes of a block's elements by index, however often it is split."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.outcomes: dict[int, Any] = {}
        self.meanwhile: list[tuple[int, Any]] = []
        self.blocks: list[Block] = []
        self.stopped: list[Block] = []

    def deliver(self, call: Any, outcome: Any) -> None:
        """Keep an outcome."""
        self.arrived.put((call, outcome))

    def take(self) -> None:
        """Wait for the next thing that is said, and note it."""
        call, outcome = self.arrived.get(timeout=SOON)
        if isinstance(outcome, Errand):
            outcome.run()
        elif isinstance(outcome, Split):
            self.blocks.append(outcome.rest)
        elif isinstance(outcome, Stopped):
            self.stopped.append(call)
        else:
            assert isinstance(outcome, Part)
            assert call in self.blocks
            for index, each in enumerate(outcome.outcomes, outcome.start):
                if isinstance(each, (Logged, Progressed)):
                    self.meanwhile.append((index, each))
                else:
                    assert index not in self.outcomes
                    self.outcomes[index] = each.open() if isinstance(each, Sealed) else each

    def values(self, count: int) -> list[Any]:
        """Wait for the outcomes of so many elements; return their values, or exceptions."""
        while len(self.outcomes) < count:
            self.take()
        return [value_of(self.outcomes[index]) for index in sorted(self.outcomes)]


def value_of(outcome: Any) -> Any:
    return opened(outcome.value) if isinstance(outcome, Success) else getattr(outcome, "exception", outcome)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Two workers, ended after the tests."""
    pool = WorkerPool(2)
    yield pool
    pool.close()


@pytest.fixture
def one_worker() -> Iterator[WorkerPool]:
    """A pool in which nobody else can take anything."""
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.fixture
def port() -> Elements:
    return Elements()


def send(pool: WorkerPool, port: Elements, function: Callable[..., Any], *, shared: Any = None, **columns: Any) -> Any:
    """Send a block; return its session."""
    block = Block("each", range(len(next(iter(columns.values())))), function, shared or {}, columns)
    port.blocks.append(block)
    session = pool.open(port)
    session.submit([block])
    return closing(session)


def double(x: Any) -> Any:
    return x * 2


def test_every_element_has_an_outcome_in_its_place(pool: WorkerPool, port: Elements) -> None:
    """A block of plain values: one outcome for each, with its times and who ran it."""
    with send(pool, port, double, x=list(range(500))):
        assert port.values(500) == [2 * n for n in range(500)]
    ends = [port.outcomes[n] for n in range(500)]
    assert all(each.started <= each.ended for each in ends)
    assert {each.worker for each in ends} <= {worker.pid for worker in pool._workers.values()}
    assert all(each.usage[0] >= 0 and each.usage[1] > 0 for each in ends)


def test_what_elements_take_and_return_may_be_anything(pool: WorkerPool, port: Elements) -> None:
    """Lists, texts and large values go in and out of a block; each element has its own copy of what it takes."""
    shared: list[int] = []
    values = [[1], "a" * 100_000, b"x" * 100_000, {"k": (1, 2)}, None, 1.5, "é" * 20_000]

    def look(x: Any, into: list[int]) -> Any:
        into.append(1)
        return x, len(into)

    with send(pool, port, look, shared={"into": shared}, x=values):
        assert port.values(len(values)) == [(each, 1) for each in values]
    assert shared == []


def test_large_plain_values_come_back_one_by_one(pool: WorkerPool, port: Elements) -> None:
    """What has no room among the replies that are kept is sent for itself, in its turn."""
    sizes = [10, 60_000, 60_000, 20, 65_536, 30]
    with send(pool, port, lambda n: "ü" * n, n=sizes):
        assert port.values(6) == ["ü" * n for n in sizes]


def test_an_element_that_raises_is_one_failure(pool: WorkerPool, port: Elements) -> None:
    """The others have their values; the failure has its exception, and the line of the user's."""

    def invert(x: int) -> float:
        return 1 / x

    with send(pool, port, invert, x=[1, 2, 0, 4]):
        found = port.values(4)
    assert found[:2] + found[3:] == [1.0, 0.5, 0.25]
    assert isinstance(found[2], ZeroDivisionError)
    assert "return 1 / x" in port.outcomes[2].traceback


def noted(folder: str, n: int) -> None:
    """Note that an element has begun; a program may do so many times."""
    with open(Path(folder) / str(n), "a") as file:
        file.write(".")


def times(folder: Path) -> dict[int, int]:
    return {int(file.name): len(file.read_text()) for file in folder.iterdir()}


def test_a_crash_costs_the_element_that_was_running(pool: WorkerPool, port: Elements, tmp_path: Path) -> None:
    """What the worker had done is not lost and not done again; what it had not begun is done elsewhere, once."""

    def fall(n: int, folder: str) -> int:
        noted(folder, n)
        if n == 50:
            os._exit(3)
        return n

    with send(pool, port, fall, shared={"folder": str(tmp_path)}, n=list(range(200))):
        found = port.values(200)
    assert [each for each in found if each != 50 and not isinstance(each, Exception)] == [
        n for n in range(200) if n != 50
    ]
    error = found[50]
    assert isinstance(error, WorkerCrashedError)
    assert (error.process_id, error.exit_code) == ("each_50", 3)
    assert times(tmp_path) == dict.fromkeys(range(200), 1)


def test_a_kill_in_the_middle_loses_nothing_and_repeats_nothing(
    one_worker: WorkerPool, port: Elements, tmp_path: Path
) -> None:
    """A worker killed from outside between two elements: what it had kept of the block is read from its page."""

    def wait(n: int, folder: str) -> int:
        noted(folder, n)
        if n == 20:
            Path(folder, "1000").touch()
            while True:
                signal.pause()
        return n

    with send(one_worker, port, wait, shared={"folder": str(tmp_path)}, n=list(range(40))):
        while not (tmp_path / "1000").exists():
            threading.Event().wait(0.001)
        (running,) = one_worker._workers.values()
        os.kill(int(running.pid), signal.SIGKILL)
        found = port.values(40)
    assert isinstance(found[20], WorkerCrashedError)
    assert found[:20] + found[21:] == [n for n in range(40) if n != 20]
    assert {n: count for n, count in times(tmp_path).items() if n < 1000} == dict.fromkeys(range(40), 1)


def test_nothing_waits_behind_a_long_element(pool: WorkerPool, port: Elements, tmp_path: Path) -> None:
    """The end of a block goes to another worker while one element takes long: here it waits for the last of them."""

    def meet(n: int, folder: str) -> int:
        if n == 199:
            Path(folder, "last").touch()
        while n == 10 and not Path(folder, "last").exists():
            threading.Event().wait(0.001)
        return n

    with send(pool, port, double, x=[1] * 50):  # both workers are there, and know how long a call takes
        port.values(50)
    port = Elements()
    with send(pool, port, meet, shared={"folder": str(tmp_path)}, n=list(range(200))):
        assert port.values(200) == list(range(200))
    assert len(port.blocks) > 1


def test_a_long_last_element_is_not_looked_at_all_the_time(
    one_worker: WorkerPool, port: Elements, tmp_path: Path
) -> None:
    """What a worker has done of a block, and keeps, does not wait: there is nothing to call back."""

    def stay(n: int, folder: str) -> int:
        while n == 3 and not Path(folder, "go").exists():
            Path(folder, "there").touch()
            threading.Event().wait(0.001)
        return n

    with send(one_worker, port, double, x=[1]):
        port.values(1)
    port = Elements()
    with send(one_worker, port, stay, shared={"folder": str(tmp_path)}, n=list(range(4))):
        while not (tmp_path / "there").exists():
            threading.Event().wait(0.001)
        until = perf_counter() + SOON
        while any(worker.has_waiting() for worker in one_worker._workers.values()):  # what was sent is on its way
            assert perf_counter() < until
            threading.Event().wait(0.001)
        (tmp_path / "go").touch()
        assert port.values(4) == list(range(4))


def test_a_block_that_is_stopped_ends(one_worker: WorkerPool, port: Elements, tmp_path: Path) -> None:
    """The element that runs is killed and said to be Stopped, what had ended counts, and nothing more begins."""

    def stay(n: int, folder: str) -> int:
        if n == 5:
            Path(folder, "there").touch()
            while True:
                signal.pause()
        return n

    with send(one_worker, port, stay, shared={"folder": str(tmp_path)}, n=list(range(50))) as session:
        while not (tmp_path / "there").exists():
            threading.Event().wait(0.001)
        given_up: list[Block] = []
        while len(port.outcomes) < 6:
            for block in port.blocks:
                if block not in given_up:  # what had been called back meanwhile is a block of its own
                    given_up.append(block)
                    session.stop(block)
            port.take()
    ended = {index: each.value for index, each in port.outcomes.items() if isinstance(each, Success)}
    assert ended == {n: n for n in range(5)}
    assert list(port.outcomes)[5:] == [5]
    assert isinstance(port.outcomes[5], Stopped)
    assert port.outcomes[5].ended


def test_a_block_that_waits_is_taken_out_at_once(one_worker: WorkerPool, port: Elements) -> None:
    """Stopped before a worker has had it, all of it is given back, and none has begun."""
    with send(one_worker, port, double, x=[1, 2, 3]) as session:
        session.stop(port.blocks[0])
        port.take()
    assert port.stopped == port.blocks
    assert port.outcomes == {}


def test_what_cannot_be_sent_is_given_back(pool: WorkerPool, port: Elements) -> None:
    """A value that cannot be pickled: the run has the whole block back, to try its elements one by one."""
    with send(pool, port, double, x=[1, threading.Lock(), 3]):
        port.take()
    assert port.stopped == port.blocks
    assert port.outcomes == {}


def test_replies_behind_some_that_are_lost_are_no_others(
    one_worker: WorkerPool, port: Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker has kept since its channel was spoiled is never taken for the elements before."""

    def spoil(n: int, folder: str) -> Any:
        import sys

        if n == 3 and not Path(folder, "spoiled").exists():
            Path(folder, "spoiled").touch()
            os.write(sys._pmflow_worker._connection.fileno(), b"junk")  # type: ignore[attr-defined]
            return [n]  # what was kept is sent before it, and lost
        while n == 9 and not Path(folder, "seen").exists():
            Path(folder, "there").touch()
            threading.Event().wait(0.001)
        return n

    with send(one_worker, port, double, x=[1]):  # the worker is there
        port.values(1)
    port = Elements()
    monkeypatch.setattr(one_worker, "_look", lambda: None)  # nothing is called back
    with send(one_worker, port, spoil, shared={"folder": str(tmp_path)}, n=list(range(12))):
        with one_worker.lock:  # the worker is heard when it has kept more
            while not (tmp_path / "there").exists():
                threading.Event().wait(0.001)
        (tmp_path / "seen").touch()
        found = port.values(12)
    crashed = [n for n, each in enumerate(found) if isinstance(each, WorkerCrashedError)]
    assert len(crashed) == 1
    assert crashed[0] <= 3
    assert all(found[n] == n for n in range(12) if n not in crashed)


def test_what_is_large_does_not_go_in_blocks(pool: WorkerPool, port: Elements) -> None:
    """How large elements are is known when they are encoded: the run has the block back, to send them one by one."""
    with send(pool, port, len, obj=[b""] * 10 + [bytes(400_000 + n) for n in range(10)]):
        port.take()
    assert port.stopped == port.blocks
    assert port.outcomes == {}


def test_a_timeout_that_came_too_late_is_forgotten(
    port: Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that ends in the moment in which it is given up has ended; who falls later, elsewhere, has crashed."""

    def fall(n: int, folder: str) -> int:
        while n == 2 and not Path(folder, "go").exists():
            Path(folder, "there").touch()
            threading.Event().wait(0.001)
        if n == 5:  # the third link in its worker, as the other was
            os._exit(3)
        return n

    fresh = WorkerPool(2)
    monkeypatch.setattr(fresh, "_look", lambda: None)  # nothing is called back
    with closing(fresh), send(fresh, port, fall, shared={"folder": str(tmp_path)}, n=list(range(10))) as session:
        while not (tmp_path / "there").exists():
            threading.Event().wait(0.001)
        monkeypatch.setattr(fresh._keeper, "kill", lambda name: None)  # which takes its time
        session.expire(port.blocks[0], session.began(port.blocks[0]))
        (tmp_path / "go").touch()
        found = port.values(10)
    assert isinstance(found[5], WorkerCrashedError)
    assert found[:5] + found[6:] == [n for n in range(10) if n != 5]


class Unreadable:
    """What can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_function_that_cannot_be_read_fails_every_element(pool: WorkerPool, port: Elements) -> None:
    """Each element says so: none waits for a worker that has been through with all of them."""
    kept = Unreadable()

    def use(n: int) -> Any:
        return n, kept

    with send(pool, port, use, n=list(range(10))):
        found = port.values(10)
    assert {type(each) for each in found} == {TransferError}
    assert [each.process_id for each in found] == [f"each_{n}" for n in range(10)]


def test_a_function_that_forks_is_answered_once(pool: WorkerPool, port: Elements) -> None:
    """The child that a function leaves running in its own code ends when it comes back from it."""

    def fork(n: int) -> int:
        if n == 3:
            os.fork()
        return n

    with send(pool, port, fork, n=list(range(10))):
        assert port.values(10) == list(range(10))


def test_every_element_finds_the_worker_as_the_first_did(pool: WorkerPool, port: Elements) -> None:
    """Folder, environment, umask, signal handlers and alarms are put back between the elements of a block."""

    def change(n: int) -> tuple[str, str | None, int, bool, float]:
        before = os.umask(0)
        found = (
            os.getcwd(),
            os.environ.get("PMFLOW_TEST"),
            before,
            signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
            signal.getitimer(signal.ITIMER_REAL)[0],
        )
        os.chdir("/")
        os.environ["PMFLOW_TEST"] = str(n)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.alarm(100)
        return found

    with send(pool, port, change, n=list(range(20))):
        found = port.values(20)
    assert set(found) == {found[0]}
    assert found[0][1::2] == (None, True)
    assert found[0][4] == 0


def log_and_tell(n: int) -> tuple[str, int | None, int]:
    import logging

    own = pmflow.current()
    own.progress(0.5, f"at {n}")
    logging.getLogger("blocks").warning("element %d", n)
    return str(own.id), own.index, own.attempt


def test_an_element_knows_and_tells_which_it_is(pool: WorkerPool, port: Elements) -> None:
    """What it asks of itself, logs, and says of its progress is under its own name."""
    with send(pool, port, log_and_tell, n=list(range(5))):
        assert port.values(5) == [(f"each_{n}", n, 1) for n in range(5)]
    logged = [(index, each.fields["msg"]) for index, each in port.meanwhile if isinstance(each, Logged)]
    assert sorted(logged) == [(n, f"element {n}") for n in range(5)]
    told = [(index, each.read()[1]) for index, each in port.meanwhile if isinstance(each, Progressed)]
    assert told
    assert all(message == f"at {index}" for index, message in told)


# As runs use them


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[type]:
    """How many blocks, and how many single calls, go to workers."""
    from pmflow.executors.sessions import WorkerSession

    counted: Counter[type] = Counter()
    submit = WorkerSession.submit

    def counting(self: WorkerSession, chains: Any) -> None:
        counted.update(type(each) for each in chains)
        submit(self, chains)

    monkeypatch.setattr(WorkerSession, "submit", counting)
    return counted


def test_a_map_of_quick_elements_goes_in_blocks(sent: Counter[type]) -> None:
    """A few go one by one, until it is known how long they take; then a thousand calls are a few things to send."""
    each = process(double, type="process", id="each", map_over={"x": "xs"})
    run = pmflow.run(each, inputs={"xs": list(range(3_000))})
    assert run.value == [2 * n for n in range(3_000)]
    assert sent[Block] > 0
    assert sent[Call] < 1_000
    assert run["each_2999"].data == 5998
    assert run["each_2999"].worker is not None


def test_who_listens_hears_of_every_element(sent: Counter[type]) -> None:
    """With hooks nothing goes in blocks: each element is said to begin and to end when it does."""
    heard: list[Any] = []
    each = process(double, type="process", id="each", map_over={"x": "xs"})
    pmflow.run(each, inputs={"xs": list(range(100))}, hooks=[heard.append])
    assert sent[Block] == 0
    assert sum(event.kind == "process_ended" for event in heard) == 101


def test_elements_of_a_block_fail_retry_and_fall_back_alone(tmp_path: Path) -> None:
    """Retries, crash_retries and fallbacks are each element's own, whether it was in a block or not."""

    def unsteady(n: int) -> int:
        noted(str(tmp_path), n)
        first = len((tmp_path / str(n)).read_text()) == 1
        if n % 100 == 50 and first:
            raise OSError(n)
        if n % 100 == 60 and first:
            os._exit(1)
        if n == 499:
            raise ValueError(n)
        return n

    each = process(
        unsteady, type="process", id="each", map_over={"n": "ns"}, retries=1, crash_retries=1, fallback=lambda _: -1
    )
    run = pmflow.run(each, inputs={"ns": list(range(500))})
    assert run.value == [*range(499), -1]
    assert {n for n in range(500) if run[f"each_{n}"].attempts == 2} == {
        *range(50, 500, 100),
        *range(60, 500, 100),
        499,
    }
    assert times(tmp_path) == {n: run[f"each_{n}"].attempts for n in range(500)}


def test_an_element_that_takes_too_long_costs_itself(tmp_path: Path) -> None:
    """Each element of a block has a clock of its own: what is late is killed, and tried again; all others run once."""

    def hang(n: int) -> int:
        noted(str(tmp_path), n)
        while n in (300, 400) and (n == 400 or len((tmp_path / str(n)).read_text()) == 1):
            signal.pause()
        return n

    each = process(hang, type="process", id="each", map_over={"n": "ns"}, timeout=0.7, retries=1)
    run = pmflow.run(each, inputs={"ns": list(range(500))}, on_error="return")
    assert {name: type(run[name].exception) for name in run.failures} == {"each_400": pmflow.ProcessTimeoutError}
    assert run["each_400"].execution_time >= 0.7
    assert [run[f"each_{n}"].data for n in range(500) if n != 400] == [n for n in range(500) if n != 400]
    assert times(tmp_path) == {n: 2 if n in (300, 400) else 1 for n in range(500)}
    assert {n for n in range(500) if run[f"each_{n}"].attempts == 2} == {300, 400}


def test_what_a_failed_element_stops() -> None:
    """fail_fast: what had ended counts, the failure is FAILED, and the rest is CANCELLED."""

    def break_at(n: int) -> int:
        if n == 700:
            raise ValueError(n)
        return n

    each = process(break_at, type="process", id="each", map_over={"n": "ns"})
    run = pmflow.run(each, inputs={"ns": list(range(50_000))}, on_error="return", fail_fast=True)
    states = Counter(run[f"each_{n}"].state for n in range(50_000))
    assert run["each_700"].state is ProcessState.FAILED
    assert states[ProcessState.FAILED] == 1
    assert states[ProcessState.CANCELLED] > 0
    assert sum(states.values()) == 50_000


def test_one_that_cannot_be_sent_costs_itself() -> None:
    """A block that cannot be pickled is taken apart: the element says why, the others have their values."""
    values: list[Any] = list(range(1_000))
    values[900] = threading.Lock()
    each = process(lambda x: 1, type="process", id="each", map_over={"x": "xs"})
    run = pmflow.run(each, inputs={"xs": values}, on_error="return")
    assert list(run.failures) == ["each_900"]
    assert "lock" in (run["each_900"].error or "")
    assert run["each"].error is not None
    assert isinstance(run["each_900"].exception, ProcessError)


def test_values_that_nobody_has_asked_for_are_released(sent: Counter[type]) -> None:
    """Under keep="targets" the elements of a map go with what has consumed them."""
    each = process(double, type="process", id="each", map_over={"x": "xs"})
    total = process(sum, id="total", dependencies={"iterable": "each"})
    run = pmflow.run([each, total], inputs={"xs": list(range(2_000))}, targets="total")
    assert run.value == 2 * sum(range(2_000))
    assert sent[Block] > 0
    with pytest.raises(pmflow.ValueReleasedError):
        _ = run["each_1999"].data


class Watched:
    """What is a number in a worker, and known here as long as anybody holds it."""

    alive: ClassVar[weakref.WeakSet[Watched]] = weakref.WeakSet()

    def __init__(self, n: int) -> None:
        self.n = n
        self.alive.add(self)

    def __reduce__(self) -> Any:
        return int, (self.n,)


def test_what_is_watched_for_its_timeout_is_let_go_when_it_has_ended() -> None:
    """What a process yields goes with the elements that it was for, and not when their timeouts would have come."""
    most = 0

    def give() -> Iterator[Watched]:
        nonlocal most
        for n in range(500):
            yield Watched(n)
            most = max(most, len(Watched.alive))

    source = process(give, id="source", type="thread")
    each = process(double, type="process", id="each", map_over={"x": "source"}, timeout=60)
    total = process(sum, id="total", dependencies={"iterable": "each"})
    assert pmflow.run([source, each, total], targets="total").value == 2 * sum(range(500))
    assert most < 250


# What the frontier does for them


def test_a_frontier_gives_elements_together() -> None:
    """With a grain, ready elements of a map are taken as ranges, and those of others one by one."""
    frontier = Frontier.of({"map": (), "other": ()}, mapped={"map": ()})
    assert frontier.take_ready() == ["map", "other"]
    frontier.open("map")
    frontier.expand("map", 7)
    assert frontier.seal("map") == []
    assert frontier.take_ready(limit=2, grain=lambda _: 3) == [("map", range(3)), ("map", range(3, 6))]
    assert frontier.take_ready(limit=2, grain=lambda _: 3) == [("map", range(6, 7))]
    assert not frontier.succeed_all("map", range(6))
    assert frontier.succeed(("map", 6))
