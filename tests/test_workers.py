"""The executor of worker processes: real workers, real kills, and a port that keeps what it is told."""

from __future__ import annotations

import ctypes
import functools
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pmflow.errors import ProcessError, TransferError, WorkerCrashedError
from pmflow.executors.base import Began, Call, Errand, Logged, Sealed, Stopped
from pmflow.executors.channel import Worker
from pmflow.executors.platform import cores, describe_exit, in_worker, interpreter_flags
from pmflow.executors.workers import WorkerPool
from pmflow.outcomes import Failure, Success, opened

ROOT = Path(__file__).resolve().parents[1]
SOON = 20.0
MEGABYTE = 1 << 20


class Inbox:
    """A port: keeps outcomes by the call's key, in order of arrival."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[tuple[Call, Any]] = queue.Queue()

    def deliver(self, call: Call, outcome: Any) -> None:
        """Keep an outcome."""
        if not isinstance(outcome, Logged):
            self.arrived.put((call, outcome))

    def take(self, count: int = 1) -> list[tuple[Any, Any]]:
        """Wait for outcomes."""
        got = []
        while len(got) < count:
            call, outcome = self.arrived.get(timeout=SOON)
            if isinstance(outcome, Errand):
                outcome.run()
            else:
                got.append((call.key, unsealed(outcome)))
        return got

    def one(self) -> Any:
        """Wait for one outcome."""
        return self.take()[0][1]


def unsealed(outcome: Any) -> Any:
    """Open an outcome, and its value, as a run does in a thread of its own."""
    if isinstance(outcome, Sealed):
        outcome = outcome.open()
    if isinstance(outcome, Success):
        try:
            outcome.value = opened(outcome.value)
        except ProcessError as failed:
            return Failure(failed, outcome.started, outcome.ended)
    return outcome


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Two workers, ended after the test."""
    pool = WorkerPool(2)
    yield pool
    pool.close()


@pytest.fixture
def port() -> Inbox:
    """Where outcomes go."""
    return Inbox()


def call(function: Callable[..., Any], *args: Any, key: Any = "f", **kwargs: Any) -> Call:
    """A chain of one link."""
    return Call(key, str(key), function, args, kwargs)


def chain(*calls: Call, feed: str | int = 0) -> Call:
    """Links that feed each other."""
    for before, after in pairwise(calls):
        before.then = after
        after.feed = feed
    return calls[0]


def run(pool: WorkerPool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The outcome of one call."""
    port = Inbox()
    session = pool.open(port)
    session.submit([call(function, *args, **kwargs)])
    outcome = port.one()
    session.close()
    return outcome


def value(pool: WorkerPool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What one call returns."""
    outcome = run(pool, function, *args, **kwargs)
    assert isinstance(outcome, Success), outcome.exception
    return outcome.value


def error(pool: WorkerPool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What one call raises."""
    outcome = run(pool, function, *args, **kwargs)
    assert isinstance(outcome, Failure), outcome
    return outcome.exception


def until(condition: Callable[[], object]) -> bool:
    """For what happens in another process: whether it comes true."""
    deadline = time.monotonic() + SOON
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def script(tmp_path: Path, code: str, *options: str, **files: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, without a guard, that has ``pool``, ``run``, ``value`` and ``error``."""
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    prelude = (
        f"import sys; sys.path.insert(1, {str(ROOT)!r}); sys.path.insert(2, {str(Path(__file__).parent)!r})\n"
        "from test_workers import *\nfrom test_workers import run, value, error\npool = WorkerPool(1)\n"
    )
    path = tmp_path / "program.py"
    path.write_text(prelude + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, *options, str(path)], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# What workers do


def double(n: int) -> int:
    """Return twice."""
    return n * 2


def where(*_: Any) -> int:
    """Return the worker's pid."""
    return os.getpid()


def boom(*_: Any) -> None:
    """Raise."""
    raise LookupError("no such page")


def wait_for(path: str, pids: str | None = None) -> int:
    """Write the pid, wait for a file."""
    if pids is not None:
        temporary = Path(f"{pids}.part")
        temporary.write_text(str(os.getpid()))
        temporary.rename(pids)
    while not os.path.exists(path):
        time.sleep(0.002)
    return os.getpid()


def crash(code: int) -> None:
    """End the worker."""
    os._exit(code)


def kill_me(number: int) -> None:
    """End the worker by a signal."""
    os.kill(os.getpid(), number)


# Calls and chains


def test_a_call_runs_in_another_process_and_says_when(pool: WorkerPool, port: Inbox) -> None:
    """The value comes back with the times of the call itself and the name of its worker."""
    before = time.perf_counter()
    session = pool.open(port)
    session.submit([call(double, 21)])
    outcome = port.one()
    assert (outcome.value, session.window, session.queues) == (42, 2_000, True)
    assert before < outcome.started <= outcome.ended < time.perf_counter()
    assert outcome.worker
    assert value(pool, where) != os.getpid()


def test_workers_stay_warm_and_the_last_one_is_taken_first(pool: WorkerPool) -> None:
    """Runs one after another use one worker: the idle one is reused, no second is started."""
    assert len({value(pool, where) for _ in range(10)}) == 1


def test_start_up_is_not_charged_to_a_call(pool: WorkerPool, port: Inbox) -> None:
    """``started`` is 0.0 until the call is sent to a worker that is ready; BEGAN is delivered after it was set."""
    first = call(abs, 1)
    first.observed = True
    pool.open(port).submit([first])
    (_, began), (_, outcome) = port.take(2)
    assert isinstance(began, Began)
    assert 0.0 < first.started <= outcome.started
    assert outcome.ended - first.started < 0.5


def test_links_run_in_order_in_one_worker_and_each_has_its_outcome(pool: WorkerPool, port: Inbox) -> None:
    """A link gets the value of the one before, by position or by name."""
    session = pool.open(port)
    links = [call(double, 1, key="a"), call(double, key="b"), call(pow, 3, key="c"), call(where, key="d")]
    session.submit([chain(*links)])
    outcomes = port.take(4)
    assert [key for key, _ in outcomes] == ["a", "b", "c", "d"]
    assert [outcome.value for _, outcome in outcomes[:3]] == [2, 4, 4**3]
    named = chain(call(double, 1, key="a"), call(double, key="b"), feed="n")
    session.submit([named])
    assert [outcome.value for _, outcome in port.take(2)] == [2, 4]


@pytest.mark.parametrize("bad", [boom, threading.Lock])
def test_a_chain_ends_at_the_link_that_does_not_succeed(pool: WorkerPool, port: Inbox, bad: Any) -> None:
    """After an exception, or a value that cannot travel, no further link is started and none is heard of."""
    session = pool.open(port)
    second = Call("b", "b", bad)
    session.submit([_unfed(call(double, 1, key="a"), second, call(where, key="c"))])
    assert [(key, type(outcome)) for key, outcome in port.take(2)] == [("a", Success), ("b", Failure)]
    session.submit([call(double, 2, key="after")])
    assert port.take()[0][0] == "after"


def _unfed(*calls: Call) -> Call:
    for before, after in pairwise(calls):
        before.then = after
    return calls[0]


def test_a_link_whose_arguments_cannot_travel_fails_after_the_links_before_it(pool: WorkerPool, port: Inbox) -> None:
    """The links before it run; it fails itself, once; the worker goes on."""
    session = pool.open(port)
    session.submit([_unfed(call(double, 1, key="a"), call(where, threading.Lock(), key="b"), call(where, key="c"))])
    (_, first), (key, second) = port.take(2)
    assert (first.value, key, type(second.exception)) == (2, "b", TransferError)
    session.submit([call(double, 2, key="after")])
    assert port.take()[0][0] == "after"


def iter_nothing() -> Iterator[int]:
    """Yield nothing."""
    yield from ()


class Opaque:
    """Cannot be unpickled in the process that has the marker."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() == state["pid"]:
            raise RuntimeError("not in this program")


def test_a_value_that_cannot_be_opened_here_is_the_failure_of_its_process_only(pool: WorkerPool, port: Inbox) -> None:
    """Between workers it is not opened: what follows it runs as ever."""
    session = pool.open(port)
    session.submit([_unfed(call(Opaque, os.getpid(), key="a"), call(where, key="b")), call(double, 4, key="c")])
    got = dict(port.take(3))
    assert type(got["a"].exception) is TransferError
    assert "not in this program" in str(got["a"].exception)
    assert (type(got["b"].value), got["c"].value) == (int, 8)
    for n in range(3):
        session.submit([call(double, n, key=n)])
        assert port.take()[0][0] == n


def test_priorities_and_slots(pool: WorkerPool, port: Inbox, tmp_path: Path) -> None:
    """A session runs at most ``slots`` at once, the smallest priority first."""
    session = pool.open(port, 1)
    go, begun = tmp_path / "go", tmp_path / "begun"
    session.submit([call(wait_for, str(go), str(begun), key="first")])
    assert until(begun.exists)
    late, early = (Call(key, key, where, priority=rank) for key, rank in (("late", 1), ("early", -5)))
    session.submit([late, early])
    go.touch()
    assert [key for key, _ in port.take(3)] == ["first", "early", "late"]


def test_runs_are_served_in_turn(port: Inbox) -> None:
    """A run of many calls does not hold up another."""
    pool = WorkerPool(1)
    try:
        many, few = pool.open(port), pool.open(port)
        many.submit([call(double, n, key=n) for n in range(200)])
        few.submit([call(double, n, key=f"few_{n}") for n in range(3)])
        order = [key for key, _ in port.take(203)]
        assert max(order.index(f"few_{n}") for n in range(3)) < 100
    finally:
        pool.close()


def test_coroutines_are_awaited_and_iterators_become_lists(pool: WorkerPool) -> None:
    """What a function returns is finished in the worker."""
    assert value(pool, coroutine, 4) == 8
    assert value(pool, generator, 3) == [0, 1, 2]
    assert value(pool, asynchronous, 3) == [0, 1, 2]


async def coroutine(n: int) -> int:
    """Return twice."""
    return n * 2


def generator(n: int) -> Iterator[int]:
    """Yield."""
    yield from range(n)


async def asynchronous(n: int) -> Any:
    """Yield."""
    for each in range(n):
        yield each


# Stopping


def test_a_queued_call_that_is_stopped_never_runs(port: Inbox, tmp_path: Path) -> None:
    """It is removed, and says so; a second stop says nothing."""
    pool = WorkerPool(1)
    try:
        session = pool.open(port)
        blocked, queued = call(wait_for, str(tmp_path / "go"), key="a"), call(Path.touch, tmp_path / "ran", key="b")
        session.submit([blocked, queued])
        session.stop(queued)
        session.stop(queued)
        key, outcome = port.take()[0]
        assert (key, type(outcome), outcome.ended) == ("b", Stopped, True)
        (tmp_path / "go").touch()
        assert port.take()[0][0] == "a"
        session.submit([call(double, 1, key="c")])
        assert port.take()[0][0] == "c"
        assert not (tmp_path / "ran").exists()
    finally:
        pool.close()


def test_a_stop_that_comes_after_a_refusal_hurts_nobody(pool: WorkerPool, port: Inbox) -> None:
    """The call has had its outcome; the pool goes on."""
    session = pool.open(port)
    refused = call(double, threading.Lock())
    session.submit([refused])
    assert type(port.one()) is Failure
    session.stop(refused)
    session.submit([call(double, 2, key="after")])
    assert port.take()[0][1].value == 4


def family(path: str) -> None:
    """Start a child, and hang with it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(f"{path}.part").write_text(f"{os.getpid()} {child.pid}")
    os.rename(f"{path}.part", path)
    time.sleep(600)


def test_a_running_call_is_killed_with_its_children(pool: WorkerPool, port: Inbox, tmp_path: Path) -> None:
    """When `Stopped` says ended, the worker is gone and no zombie is left; its children die with its group."""
    session = pool.open(port)
    hanging = call(family, str(tmp_path / "pids"))
    session.submit([hanging])
    assert until((tmp_path / "pids").exists)
    worker, child = map(int, (tmp_path / "pids").read_text().split())
    session.stop(hanging)
    outcome = port.one()
    assert (type(outcome), outcome.ended) == (Stopped, True)
    assert not Path(f"/proc/{worker}").exists()
    assert until(lambda: not alive(child))
    assert value(pool, double, 2) == 4


def hold_the_gil(path: str) -> None:
    """Hang in C."""
    Path(path).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


def test_c_code_that_holds_the_gil_is_stopped_too(pool: WorkerPool, port: Inbox, tmp_path: Path) -> None:
    """The worker is killed from outside."""
    session = pool.open(port)
    hanging = call(hold_the_gil, str(tmp_path / "pid"))
    session.submit([hanging])
    assert until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    session.stop(hanging)
    assert port.one().ended is True


def test_a_call_that_has_ended_when_it_is_stopped_keeps_its_result(pool: WorkerPool, port: Inbox) -> None:
    """At every moment a stop comes, there is exactly one outcome, and the pool goes on."""
    session = pool.open(port)
    for n in range(100):
        each = call(double, n, key=n)
        session.submit([each])
        deadline = time.perf_counter() + (n % 10) * 0.00003
        while time.perf_counter() < deadline:
            pass
        session.stop(each)
        assert port.take()[0][0] == n
    session.submit([call(double, 5, key="last")])
    assert port.take()[0][0] == "last"


# Deaths


@pytest.mark.parametrize(("function", "argument", "exit_code", "name"), [
    (crash, 0, 0, None), (crash, 3, 3, None),
    (kill_me, signal.SIGKILL, None, "SIGKILL"), (kill_me, signal.SIGSEGV, None, "SIGSEGV"),
])  # fmt: skip
def test_a_crash_costs_one_call(
    pool: WorkerPool, port: Inbox, function: Any, argument: int, exit_code: int | None, name: str | None
) -> None:
    """The failure says which process, how the worker ended, and after how long; nine others are right."""
    calls = [call(double, n, key=n) for n in range(10)]
    calls[3] = call(function, argument, key="victim")
    pool.open(port).submit(calls)
    got = dict(port.take(10))
    failed = got.pop("victim").exception
    assert {key: outcome.value for key, outcome in got.items()} == {n: n * 2 for n in range(10) if n != 3}
    assert (type(failed), failed.process_id, failed.exit_code, failed.signal) == (
        WorkerCrashedError,
        "victim",
        exit_code,
        name,
    )
    assert 0 <= failed.elapsed < SOON
    assert "victim" in str(failed)
    assert (name or f"exit code {exit_code}") in str(failed)


def test_replies_that_arrived_before_a_death_count(pool: WorkerPool, port: Inbox) -> None:
    """Of a chain, the link that was running is lost, and no other."""
    pool.open(port).submit([_unfed(call(double, 1, key="a"), call(crash, 7, key="b"), call(where, key="c"))])
    (_, first), (key, second) = port.take(2)
    assert (first.value, key, second.exception.exit_code) == (2, "b", 7)


def test_an_idle_worker_that_was_killed_costs_nobody(pool: WorkerPool) -> None:
    """Twenty times: kill it, and call at once."""
    for n in range(20):
        os.kill(value(pool, where), signal.SIGKILL)
        assert value(pool, double, n) == 2 * n


def test_the_children_of_a_dead_worker_die(pool: WorkerPool, tmp_path: Path) -> None:
    """Its process group is ended with it."""
    assert type(error(pool, orphan, str(tmp_path / "pid"))) is WorkerCrashedError
    assert until(lambda: not alive(int((tmp_path / "pid").read_text())))


def orphan(path: str) -> None:
    """Leave a child behind."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(child.pid))
    os._exit(1)


def close_everything() -> None:
    """Close what is not ours, and go on."""
    os.closerange(3, 1_000)
    time.sleep(600)


def test_a_worker_that_closes_its_channel_counts_as_dead(pool: WorkerPool) -> None:
    """It is ended, and the call is lost; it does not hang."""
    assert type(error(pool, close_everything)) is WorkerCrashedError
    assert value(pool, double, 1) == 2


def fork_and_return() -> str:
    """Return twice, once in each process."""
    return "child" if os.fork() == 0 else "parent"


def test_a_function_that_forks_and_returns_twice_has_one_result(pool: WorkerPool, port: Inbox) -> None:
    """The child is no worker: what it returns goes nowhere."""
    session = pool.open(port)
    for n in range(5):
        session.submit([call(fork_and_return, key=n)])
        key, outcome = port.take()[0]
        assert key == n
        assert getattr(outcome, "value", None) == "parent", outcome
    time.sleep(0.05)
    assert port.arrived.empty()


def test_workers_that_cannot_start_fail_the_calls(tmp_path: Path) -> None:
    """After three in a row, with the command in the message; and nothing loops for ever."""
    script(
        tmp_path,
        """
        sys.executable = "/bin/false"
        failed = error(pool, double, 1)
        assert type(failed) is WorkerCrashedError and "/bin/false" in str(failed), failed
        sys.executable = "/no/such/python"
        failed = error(pool, double, 1)
        assert type(failed) is WorkerCrashedError and "/no/such/python" in str(failed), failed
        """,
    )


@pytest.mark.parametrize("gil", [False, True])
def test_workers_die_with_the_program(tmp_path: Path, gil: bool) -> None:
    """Kill -9 of the program ends workers that are busy, also in C code, and what they have started."""
    code = f"""
    function = {"hold_the_gil" if gil else "family"}
    pool.open(Inbox()).submit([call(function, {str(tmp_path / "pids")!r})])
    path = Path({str(tmp_path / "pids")!r})
    until(lambda: path.exists() and path.read_text())
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(AssertionError):
        script(tmp_path, code)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    try:
        assert until(lambda: not any(map(alive, pids)))
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


def test_workers_die_though_a_forked_child_lives_on(tmp_path: Path) -> None:
    """A fork of the program keeps nothing of the workers open."""
    code = f"""
    import os, signal, time
    pid = value(pool, where)
    child = os.fork()
    if child == 0:
        time.sleep(600)
    Path({str(tmp_path / "pids")!r}).write_text(f"{{pid}} {{child}}")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(AssertionError):
        _detached(tmp_path, code)
    worker, child = map(int, (tmp_path / "pids").read_text().split())
    try:
        assert alive(child)
        assert until(lambda: not alive(worker))
    finally:
        os.kill(child, signal.SIGKILL)


def _detached(tmp_path: Path, code: str) -> None:
    try:
        script(tmp_path, code.replace("child == 0:", "child == 0:\n        os.close(1); os.close(2)"))
    except subprocess.TimeoutExpired as hung:
        raise AssertionError from hung


def test_a_forked_program_has_a_pool_of_its_own(tmp_path: Path) -> None:
    """The child forgets workers and channels without ending them, and can have workers itself."""
    script(
        tmp_path,
        """
        import os
        mine = value(pool, where)
        child = os.fork()
        if child == 0:
            its = value(pool, where)
            os._exit(0 if its != mine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert value(pool, where) == mine
        """,
        "-Werror",
    )


def test_nothing_is_left_of_a_pool_that_was_closed(port: Inbox) -> None:
    """No process, no zombie, no descriptor, no thread; calls in flight are told."""
    value_of = WorkerPool(1)
    value(value_of, double, 1)
    value_of.close()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        pool = WorkerPool(2)
        pid = value(pool, where)
        pool.close()
        assert not Path(f"/proc/{pid}").exists()
    assert until(lambda: threading.active_count() <= threads)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_stops_and_crashes_leak_nothing(pool: WorkerPool, port: Inbox, tmp_path: Path) -> None:
    """Neither descriptors nor zombies."""
    value(pool, double, 1)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(5):
        error(pool, crash, 1)
        hanging = call(wait_for, str(tmp_path / "never"), str(tmp_path / f"pid{n}"))
        session = pool.open(port)
        session.submit([hanging])
        assert until((tmp_path / f"pid{n}").exists)
        session.stop(hanging)
        assert port.one().ended
    value(pool, double, 1)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not [pid for pid in _children() if not alive(pid)]


def _children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def test_a_closed_pool_tells_the_calls_in_flight(port: Inbox, tmp_path: Path) -> None:
    """Nobody waits for ever."""
    pool = WorkerPool(1)
    pool.open(port).submit(
        [call(wait_for, str(tmp_path / "never"), str(tmp_path / "pid"), key="a"), call(where, key="b")]
    )
    assert until((tmp_path / "pid").exists)
    pool.close()
    assert sorted(key for key, _ in port.take(2)) == ["a", "b"]


# What travels


def test_big_values_travel_both_ways_at_once(pool: WorkerPool, port: Inbox) -> None:
    """64 MB there and back, in both workers, while small calls wait: no deadlock."""
    data = bytes(64 * MEGABYTE)
    session = pool.open(port)
    session.submit([call(bytes, data, key=n) for n in range(4)])
    for _ in range(4):
        assert len(port.one().value) == len(data)


def shout(size: int) -> int:
    """Write a lot."""
    sys.stdout.write("x" * size)
    sys.stderr.write("end\n")
    return size


def test_what_workers_print_is_the_programs_output(tmp_path: Path) -> None:
    """8 MB of it disturb nothing, and all of it arrives, in a pipe too."""
    done = script(tmp_path, f"assert value(pool, shout, {8 * MEGABYTE}) == {8 * MEGABYTE}")
    assert done.stdout.count("x") == 8 * MEGABYTE
    assert done.stderr.strip() == "end"


@pytest.mark.parametrize("type_name", ["_thread.lock", "generator"])
def test_an_argument_that_cannot_travel_is_refused(pool: WorkerPool, type_name: str) -> None:
    """Before dispatch, naming process, parameter and type."""
    bad: Any = threading.Lock() if type_name == "_thread.lock" else iter_nothing()
    failed = error(pool, double, n=bad)
    assert (type(failed), failed.process_id, failed.parameter, failed.type_name) == (TransferError, "f", "n", type_name)
    assert "'f' cannot receive 'n' in a worker process" in str(failed)
    assert "type='thread'" in str(failed)


def test_a_positional_argument_is_named_by_its_parameter(pool: WorkerPool) -> None:
    """What the engine passes by position has a name too."""
    assert error(pool, double, threading.Lock()).parameter == "n"


def test_a_result_that_cannot_travel_is_a_failure_and_the_worker_stays(pool: WorkerPool) -> None:
    """It names process and type."""
    pid = value(pool, where)
    failed = error(pool, threading.Lock)
    assert (type(failed), failed.process_id, failed.type_name) == (TransferError, "f", "_thread.lock")
    assert value(pool, where) == pid


class DieOnArrival:
    """Kills whoever unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


def test_an_argument_that_kills_the_worker_is_one_failure(pool: WorkerPool) -> None:
    """It is not sent again and again."""
    assert error(pool, double, DieOnArrival()).exit_code == 9
    assert value(pool, double, 1) == 2


# Functions


def outer(n: int) -> Callable[[int], int]:
    """Return a closure."""
    return lambda m: m + n


class Machine:
    """Has a method."""

    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, m: int) -> int:
        """Add."""
        return self.n + m

    def __call__(self, m: int) -> int:
        return self.n * m


@pytest.mark.parametrize(("function", "expected"), [
    (lambda m: m + 1, 4), (outer(5), 8), (functools.partial(double), 6), (functools.partial(outer(1)), 4),
    (functools.partial(functools.partial(pow, 2)), 8), (Machine(4).add, 7), (Machine(4), 12), (str, "3"),
    (functools.partial(Machine(4).add), 7), (abs, 3),
])  # fmt: skip
def test_any_callable_can_be_sent(pool: WorkerPool, function: Any, expected: Any) -> None:
    """Lambdas, closures, partials, bound methods, objects, classes and builtins."""
    assert value(pool, function, 3) == expected


def test_a_closure_that_has_changed_is_sent_again_with_the_next_run(pool: WorkerPool) -> None:
    """The new value counts."""
    step = 1

    def add(n: int) -> int:
        return n + step

    assert value(pool, add, 1) == 2
    step = 10
    assert value(pool, add, 1) == 11


def test_more_functions_than_a_worker_keeps(pool: WorkerPool, port: Inbox) -> None:
    """1,500 closures, twice over, are each the right one."""
    session = pool.open(port)
    closures = [outer(n) for n in range(1_500)]
    for _ in range(2):
        session.submit([call(each, 1, key=n) for n, each in enumerate(closures)])
        assert {key: outcome.value for key, outcome in port.take(1_500)} == {n: n + 1 for n in range(1_500)}


def test_a_reloaded_module_runs_its_new_code(tmp_path: Path) -> None:
    """A worker that has the old one gets the function by value; in the middle of a chain too."""
    script(
        tmp_path,
        """
        import importlib, os, side, functools
        assert value(pool, side.f, 1) == 2
        assert value(pool, functools.partial(side.f), 1) == 2
        Path("side.py").write_text("def f(n):\\n    return n + 100\\n")
        importlib.invalidate_caches()
        os.utime("side.py", (1, 1))
        importlib.reload(side)
        assert value(pool, side.f, 1) == 101
        assert value(pool, functools.partial(side.f), 1) == 101
        port = Inbox()
        pool.open(port).submit([chain(call(double, 1, key="a"), call(side.f, key="b"), call(double, key="c"))])
        assert [outcome.value for _, outcome in port.take(3)] == [2, 102, 204]
        """,
        side="def f(n):\n    return n + 1\n",
    )


def test_a_module_that_only_the_program_has_goes_by_value(tmp_path: Path) -> None:
    """Made at run time, or from a file that is nowhere on the path."""
    script(
        tmp_path,
        """
        import importlib.util, types
        made = sys.modules["made"] = types.ModuleType("made")
        exec("HIDDEN = 7\\ndef f(n):\\n    return n + HIDDEN", made.__dict__)
        assert value(pool, made.f, 1) == 8
        Path("folder").mkdir()
        Path("folder/far.py").write_text("ONE = 1\\ndef help(n):\\n    return n + ONE\\ndef f(n):\\n    return help(n)")
        spec = importlib.util.spec_from_file_location("far", "folder/far.py")
        far = sys.modules["far"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(far)
        assert value(pool, far.f, 1) == 2
        assert "return n + ONE" in run(pool, far.f, "1").traceback
        port = Inbox()
        pool.open(port).submit([call(far.f, n, key=n) for n in range(20)])
        assert {key: outcome.value for key, outcome in port.take(20)} == {n: n + 1 for n in range(20)}
        """,
    )


def test_a_chain_that_needs_a_function_by_value_begins_again_where_it_stopped(tmp_path: Path) -> None:
    """Every link runs once, gets its feed, and what follows it runs as well."""
    script(
        tmp_path,
        """
        import importlib.util
        Path("folder").mkdir()
        Path("folder/far.py").write_text("def f(n):\\n    return n + 1")
        spec = importlib.util.spec_from_file_location("far", "folder/far.py")
        far = sys.modules["far"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(far)
        port = Inbox()
        session = pool.open(port)
        links = [call(double, 1, key="a"), call(far.f, key="b"), call(far.f, key="c"), call(double, key="d")]
        session.submit([chain(*links)])
        assert [(key, outcome.value) for key, outcome in port.take(4)] == [("a", 2), ("b", 3), ("c", 4), ("d", 8)]
        assert value(pool, double, 1) == 2
        """,
    )


def test_a_changed_search_path_goes_with_the_next_call(tmp_path: Path) -> None:
    """A warm worker finds what the program finds."""
    script(
        tmp_path,
        """
        pid = value(pool, where)
        Path("more").mkdir()
        Path("more/extra.py").write_text("import os\\ndef f():\\n    return __name__, os.getpid()")
        sys.path.append(str(Path("more").resolve()))
        import extra
        assert value(pool, extra.f) == ("extra", pid)
        """,
    )


def test_the_programs_main_is_never_imported(tmp_path: Path) -> None:
    """No guard is needed; what it defines goes by value and comes back as what it is."""
    script(
        tmp_path,
        """
        import dataclasses, enum
        print("once")
        COUNT = 0
        @dataclasses.dataclass
        class Point:
            x: int
            def bump(self):
                global COUNT
                COUNT += 1
        class Colour(enum.Enum):
            RED = 1
        class Broken(Exception):
            pass
        def move(point):
            return Point(point.x + 1)
        def fail(message):
            raise Broken(message)
        got = value(pool, move, Point(1))
        assert type(got) is Point and got == Point(2)
        got.bump(); Point(1).bump()
        assert COUNT == 2, "methods of the program's class were replaced"
        assert value(pool, lambda: [Colour.RED])[0] is Colour.RED
        failed = error(pool, fail, "no")
        assert type(failed) is Broken and failed.args == ("no",), repr(failed)
        def local():
            class Inner:
                pass
            return Inner
        Inner = local()
        assert type(value(pool, lambda: Inner())) is Inner
        """,
    )
    done = script(tmp_path, "print('once'); assert value(pool, lambda: 1) == 1")
    assert done.stdout == "once\n"


def test_names_of_the_programs_main_and_of_the_worker_do_not_mix(tmp_path: Path) -> None:
    """A class that is called like something in the worker's own program is still the user's; so is a module."""
    script(
        tmp_path,
        """
        import wire
        class Unsendable(Exception):
            pass
        def fail():
            raise Unsendable("mine")
        assert type(error(pool, fail)) is Unsendable
        assert value(pool, wire.f) == "the user's"
        """,
        wire='def f():\n    return "the user\'s"\n',
        platform_="",
    )


def loaded() -> list[str]:
    """Return what a worker has imported."""
    return sorted({name.partition(".")[0] for name in sys.modules})


def test_a_worker_imports_only_what_it_needs(tmp_path: Path) -> None:
    """Neither pmflow nor its dependencies until a function wants them; cloudpickle is the warden's."""
    script(
        tmp_path,
        """
        import light
        got = set(value(pool, light.loaded))
        assert not got & {"pmflow", "anyio", "attr", "attrs", "asyncio"}, got
        """,
        light="import sys\ndef loaded():\n    return sorted({name.partition('.')[0] for name in sys.modules})\n",
    )


# Exceptions


class TwoArguments(Exception):
    """Cannot be unpickled."""

    def __init__(self, page: str, line: int) -> None:
        super().__init__(f"{page}:{line}")


def raise_two() -> None:
    """Raise."""
    raise TwoArguments("a", 3)


def with_cause() -> None:
    """Raise from another."""
    try:
        boom()
    except LookupError as error:
        raise ValueError("outer") from error


def with_note() -> None:
    """Raise with a note."""
    error = ValueError("noted")
    error.__notes__ = ["see page 3"]  # type: ignore[attr-defined,unused-ignore]
    raise error


def with_lock() -> None:
    """Raise what cannot be pickled."""
    raise ValueError("locked", threading.Lock())


def test_an_exception_comes_back_as_it_was(pool: WorkerPool) -> None:
    """Type, message, and the traceback of the worker, also when it is raised here."""
    outcome = run(pool, boom)
    failed = outcome.exception
    assert (type(failed), failed.args) == (LookupError, ("no such page",))
    assert "in boom" in outcome.traceback
    assert "worker_main" not in outcome.traceback
    assert outcome.traceback.rstrip().endswith("LookupError: no such page")
    assert "in boom" in str(failed.__cause__)


def test_causes_and_notes_survive(pool: WorkerPool) -> None:
    """The cause in the text, the notes with the exception."""
    assert "LookupError: no such page" in run(pool, with_cause).traceback
    assert error(pool, with_note).__notes__ == ["see page 3"]


def test_an_exception_that_cannot_travel_is_told_of(pool: WorkerPool) -> None:
    """Type and message survive in any case, the worker too."""
    pid = value(pool, where)
    failed = error(pool, raise_two)
    assert "TwoArguments" in f"{type(failed).__name__} {failed}"
    assert "a:3" in str(failed)
    failed = error(pool, with_lock)
    assert isinstance(failed, ProcessError)
    assert (failed.type_name, "locked" in str(failed)) == ("ValueError", True)  # type: ignore[attr-defined]
    assert value(pool, where) == pid


class Reworded(Exception):
    """Unpickles well, and says something else."""

    def __init__(self, page: str) -> None:
        super().__init__(f"no page {page}")


def reworded() -> None:
    """Raise."""
    raise Reworded("a")


def test_the_message_of_an_exception_is_not_changed_by_the_journey(pool: WorkerPool) -> None:
    """Unpickling calls the class with ``args``: where that gives another message, it is put right."""
    assert "no page a" in str(error(pool, reworded))
    assert "no page no page" not in str(error(pool, reworded))


def raises(kind: type[BaseException]) -> None:
    """Raise."""
    raise kind("here")


def deep(n: int = 0) -> int:
    """Recur for ever."""
    return deep(n + 1)


def long_text() -> None:
    """Raise with a lot of text."""
    raise ValueError("x" * 1_000_000)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_any_exception_is_a_failure_and_the_worker_stays(pool: WorkerPool, kind: type[BaseException]) -> None:
    """What would end a program ends one call."""
    pid = value(pool, where)
    assert type(error(pool, raises, kind)) is kind
    assert value(pool, where) == pid


def test_recursion_and_long_texts_are_bounded(pool: WorkerPool) -> None:
    """The traceback's text has at most some 50 kB."""
    pid = value(pool, where)
    assert type(error(pool, deep)) is RecursionError
    assert len(run(pool, long_text).traceback) < 51_000
    assert value(pool, where) == pid


# The platform


def test_cores_is_a_number_this_program_may_use() -> None:
    """By affinity, at least one."""
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
    assert not in_worker()


def test_a_worker_knows_that_it_is_one(pool: WorkerPool) -> None:
    """For the size of pools in it."""
    assert value(pool, in_worker) is True


def test_ends_are_described() -> None:
    """By exit code or signal."""
    assert (describe_exit(3), describe_exit(-9), describe_exit(-200)) == (
        (3, None),
        (None, "SIGKILL"),
        (None, "signal 200"),
    )


def flags() -> list[Any]:
    """Return how this interpreter was started."""
    return [list(sys.flags), sys.warnoptions, sys._xoptions.get("dev")]


@pytest.mark.parametrize(
    "options", [["-O"], ["-Wignore::UserWarning"], ["-X", "utf8"], ["-X", "dev"], ["-E", "-s"], ["-OO"], ["-bb"]]
)
def test_a_worker_is_started_as_the_program_was(tmp_path: Path, options: list[str]) -> None:
    """With the same flags."""
    script(tmp_path, "got, mine = value(pool, flags), flags()\nassert got == mine, (got, mine)", *options)


def test_flags_of_this_program_can_be_given() -> None:
    """They are options that Python takes."""
    subprocess.run([sys.executable, *interpreter_flags(), "-c", ""], check=True)


# Calls that are given up before they begin


def held_up(session: Any, port: Inbox) -> int:
    """The pid of the only worker, which gets no time to run any more."""
    session.submit([call(where, key="pid")])
    pid = port.one().value
    os.kill(pid, signal.SIGSTOP)
    assert until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    return int(pid)


def test_calls_that_a_worker_never_comes_to_can_be_stopped(port: Inbox) -> None:
    """One after another, although it has not seen that the first was called back."""
    with closing(WorkerPool(1)) as pool:
        session = pool.open(port)
        held_up(session, port)
        for key in ("first", "second", "third"):
            given_up = call(time.sleep, 1000, key=key)
            session.submit([given_up])
            session.stop(given_up)
            assert [(name, type(outcome)) for name, outcome in port.take()] == [(key, Stopped)]
        session.submit([call(double, 4, key="after")])
        assert [(name, outcome.value) for name, outcome in port.take()] == [("after", 8)]


def test_a_call_that_begins_in_the_moment_it_is_called_back_is_stopped(
    port: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen as one that had not begun: its worker is killed all the same."""
    with closing(WorkerPool(1)) as pool:
        session = pool.open(port)
        pid = held_up(session, port)
        given_up = call(time.sleep, 1000, key="given up")
        session.submit([given_up])
        original = Worker.call_back

        def call_back(worker: Worker, first: int) -> bool:
            os.kill(pid, signal.SIGCONT)
            assert until(lambda: worker.page.running >= first)
            return original(worker, first)

        monkeypatch.setattr(Worker, "call_back", call_back)
        session.stop(given_up)
        assert [(name, type(outcome)) for name, outcome in port.take()] == [("given up", Stopped)]
        assert until(lambda: not alive(pid))


# What is to be opened before a call begins


def test_what_a_module_takes_to_be_imported_is_charged_to_no_call(port: Inbox, tmp_path: Path) -> None:
    """As long as its function loads, the time of a call stands still: a timeout is for the call."""
    script(
        tmp_path,
        """
        import slow
        Path("hold").touch()
        port = Inbox()
        session = pool.open(port)
        held = call(slow.f, 1)
        session.submit([held])
        assert until(lambda: Path("begun").exists())
        assert session.began(held) > time.perf_counter() + 30
        Path("hold").unlink()
        outcome = port.one()
        assert outcome.value == 2
        assert outcome.started <= time.perf_counter()
        """,
        slow="""
        import time
        from pathlib import Path
        from pmflow.executors.platform import in_worker
        if in_worker():
            Path("begun").touch()
            while Path("hold").exists():
                time.sleep(0.005)
        def f(n):
            return n + 1
        """,
    )


# Few descriptors


def test_a_program_of_few_descriptors_takes_and_gives_many_large_values(tmp_path: Path) -> None:
    """Results, arguments and closures of 70 kB, more than there may be open files; in pieces too."""
    script(
        tmp_path,
        """
        import pmflow, resource
        import numpy as np
        from pmflow import process
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        made = process(lambda n: bytes([n % 255]) * 70_000, id="made", type="process", map_over={"n": "ns"})
        arrays = process(lambda n: np.full(9_000, n), id="arrays", type="process", map_over={"n": "ns"})
        def total(made, arrays):
            return len(b"".join(made)) + sum(int(each[0]) for each in arrays)
        total = process(total, type="process")
        run = pmflow.run([made, arrays, total], inputs={"ns": range(600)})
        assert run["total"].data == 600 * 70_000 + sum(range(600))
        size = process(lambda each: len(each), id="size", type="process", map_over={"each": "values"})
        assert pmflow.run(size, inputs={"values": [bytearray(70_000) for _ in range(600)]}).value == [70_000] * 600
        texts = [f"{n:05}" * 14_000 for n in range(400)]
        closures = [process(lambda text=text: len(text), id=f"c{n}", type="process") for n, text in enumerate(texts)]
        run = pmflow.run(closures)
        assert [run[each].data for each in closures] == [70_000] * 400
        both = process(lambda n: [np.full(9_000, n + k) for k in range(300)], id="both", type="process")
        opened = pmflow.run(both, inputs={"n": 1}).value
        assert [int(each[0]) for each in opened] == list(range(1, 301))
        assert len(os.listdir("/proc/self/fd")) < 128
        """,
    )


def test_functions_of_some_size_are_told_apart(pool: WorkerPool) -> None:
    """Two closures that differ in 100 kB are two functions, in one warm worker and in one run after another."""

    def closure(text: str) -> Callable[[], str]:
        return lambda: text[:1] + text[-1:]

    texts = ["a" * 100_000 + end for end in "xyz"]
    assert [value(pool, closure(text)) for text in texts * 2] == ["ax", "ay", "az"] * 2


class FullError(Exception):
    """It has much to say."""


def overflow(size: int) -> None:
    """Raise it."""
    raise FullError("x" * size, list(range(9)))


def test_an_exception_of_some_size_arrives_as_itself(pool: WorkerPool) -> None:
    """With everything that is in it."""
    raised = error(pool, overflow, 200_000)
    assert (type(raised), raised.args) == (FullError, ("x" * 200_000, list(range(9))))
