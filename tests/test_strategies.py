"""The three strategies in one graph: overlap, no barrier, timeouts, retries, contexts, nesting, and Ctrl-C.

Who waits for whom is forced: a branch goes on when a file or an event of another branch is there, so an order that the
product does not promise cannot pass, and one that it does promise cannot hang.
"""

import asyncio
import contextlib
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

import pmflow
from pmflow import ProcessError, ProcessState, ProcessTimeoutError, RetryStrategy, WorkflowError, process

ROOT = Path(__file__).parent.parent
LIMIT = 20.0
"""Seconds after which what a test waits for counts as missing."""

DONE, FAILED, CANCELLED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.CANCELLED

STRATEGIES = ["coroutine", "inline", "thread", "process"]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
STOPPABLE = ["coroutine", "thread", "process"]


def made(strategy: str, function: Callable[..., Any], **settings: Any) -> Any:
    """Return a process of a plain function; ``coroutine`` makes a coroutine function of it."""
    if strategy == "coroutine":
        return process(awaiting(function), **settings)
    return process(function, type="async" if strategy == "inline" else strategy, **settings)


def awaiting(function: Callable[..., Any]) -> Any:
    """Return the same as a coroutine function, with the same parameters."""
    import functools

    @functools.wraps(function)
    async def called(*args: Any, **kwargs: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    return called


def wait_for(*paths: Path) -> None:
    """Return when the files are there: the one kind of event that every strategy can see."""
    deadline = time.monotonic() + LIMIT
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody made {[path.name for path in paths if not path.exists()]}")
        time.sleep(0.002)


async def wait_for_async(*paths: Path) -> None:
    """The same on a loop."""
    with anyio.fail_after(LIMIT):
        while not all(path.exists() for path in paths):  # noqa: ASYNC110 - another process makes them
            await anyio.sleep(0.002)


def alive(pid: int) -> bool:
    """Whether a process of the system runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


# Overlap


@process
async def waits_async(folder: Path) -> str:
    """Say that it is here, and wait for the two others."""
    (folder / "async").touch()
    await wait_for_async(folder / "thread", folder / "process")
    return "async"


@process
def waits_in_a_thread(folder: Path) -> str:
    """Say that it is here, and wait for the two others."""
    (folder / "thread").touch()
    wait_for(folder / "async", folder / "process")
    return "thread"


@process(type="process")
def waits_in_a_worker(folder: Path) -> str:
    """Say that it is here, and wait for the two others."""
    (folder / "process").touch()
    wait_for(folder / "async", folder / "thread")
    return "process"


@process
def met(waits_async: str, waits_in_a_thread: str, waits_in_a_worker: str) -> list[str]:
    """Return what the three returned."""
    return [waits_async, waits_in_a_thread, waits_in_a_worker]


MET = ["async", "thread", "process"]


def test_the_three_strategies_overlap(tmp_path: Path) -> None:
    """An async, a thread and a process branch of one graph run at the same time."""
    assert pmflow.run(met, inputs={"folder": tmp_path}).value == MET


async def test_the_three_strategies_overlap_on_a_running_loop(tmp_path: Path) -> None:
    """They do so on asyncio and on trio, and the loop goes on with the caller's other tasks."""
    passes = 0

    async def other() -> None:
        nonlocal passes
        while True:
            await anyio.lowlevel.checkpoint()
            passes += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        run = await pmflow.arun(met, inputs={"folder": tmp_path})
        tasks.cancel_scope.cancel()
    assert run.value == MET
    assert passes > 3


async def test_the_three_strategies_overlap_in_a_run_under_a_running_loop(tmp_path: Path) -> None:
    """`run` works where a loop is already running: it blocks its caller, and the branches overlap all the same."""
    assert pmflow.run(met, inputs={"folder": tmp_path}).value == MET


def test_the_three_strategies_overlap_in_a_script(tmp_path: Path) -> None:
    """They do so in a script without a guard."""
    assert script(
        f"""
        import pathlib, time
        import anyio, pmflow
        from pmflow import process

        folder = pathlib.Path({str(tmp_path)!r})

        def met(name):
            (folder / name).touch()
            return len(list(folder.glob("branch-*"))) == 3

        @process
        async def one():
            while not met("branch-1"):
                await anyio.sleep(0.002)

        @process
        def two():
            while not met("branch-2"):
                time.sleep(0.002)

        @process(type="process")
        def three():
            while not met("branch-3"):
                time.sleep(0.002)

        print(pmflow.run([one, two, three], timeout=20).success)
        """
    ) == ["True"]


# No barrier


@pytest.mark.parametrize("fast", STRATEGIES)
@pytest.mark.parametrize("slow", STOPPABLE)
def test_a_slow_root_waits_for_the_grandchild_of_a_fast_one(slow: str, fast: str, tmp_path: Path) -> None:
    """There are no layers: what a root waits for may be the work of another root's grandchild."""

    def wait() -> str:
        wait_for(tmp_path / "grandchild")
        return "waited"

    async def wait_async() -> str:
        await wait_for_async(tmp_path / "grandchild")
        return "waited"

    slow_root = process(
        wait_async if slow == "coroutine" else wait, id="slow", type="async" if slow == "coroutine" else slow
    )
    root = made(fast, lambda: 1, id="root")
    child = made(fast, lambda root: root + 1, id="child")
    grandchild = made(fast, lambda child: (tmp_path / "grandchild").touch(), id="grandchild")
    end = process(lambda slow, grandchild: slow, id="end")
    run = pmflow.run([end, slow_root, root, child, grandchild])
    assert run["end"].data == "waited"
    assert [name for name in run if name != "slow"] == ["root", "child", "grandchild", "end"]


async def test_no_barrier_with_events_of_the_loop() -> None:
    """The same with an event of the loop itself, so with nothing that could be polled."""
    reached = anyio.Event()

    @process
    async def slow() -> None:
        await reached.wait()

    @process
    async def fast() -> int:
        return 1

    @process(type="thread")
    def child(fast: int) -> int:
        return fast + 1

    @process(type="async")
    def grandchild(child: int) -> None:
        reached.set()

    with anyio.fail_after(LIMIT):
        run = await pmflow.arun([slow, grandchild])
    assert list(run) == ["fast", "child", "grandchild", "slow"]


# Timeouts: what of the work is ended, and when its slot is free


@pytest.mark.virtual_time
async def test_a_coroutine_past_its_timeout_is_cancelled_at_its_next_await() -> None:
    """At its deadline a coroutine is cancelled; it has ended before its result is known, and its slot is free."""
    log = []

    @process(timeout=5)
    async def hangs() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append(("cancelled", trio.current_time() - began))

    @process
    async def after(hangs: pmflow.ProcessResult[None]) -> None:
        log.append(("after", trio.current_time() - began))

    @process
    async def other() -> int:
        await anyio.sleep(7)
        return 1

    began = trio.current_time()
    run = await pmflow.arun([after, other], on_error="return")
    assert log == [("cancelled", 5), ("after", 5)]
    assert trio.current_time() - began == 7
    result = run[hangs]
    assert (result.state, result.attempts, result.stopped, result.error_type) == (
        FAILED,
        1,
        True,
        "ProcessTimeoutError",
    )
    assert isinstance(result.exception, TimeoutError)
    assert isinstance(result.exception, ProcessError)
    assert run[other].data == 1


async def test_a_coroutine_that_swallows_its_cancellation_is_cancelled_again() -> None:
    """A cancellation is repeated until the task has ended: swallowing one helps nobody."""
    swallowed = []

    @process(timeout=0.05)
    async def stubborn() -> None:
        for _ in range(2):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as error:
                swallowed.append(type(error).__name__)
        await anyio.sleep_forever()

    with anyio.fail_after(LIMIT):
        run = await pmflow.arun(stubborn, on_error="return")
    assert run[stubborn].error_type == "ProcessTimeoutError"
    assert run[stubborn].stopped
    assert len(swallowed) == 2


@pytest.mark.parametrize("strategy", STOPPABLE)
def test_a_timeout_error_of_the_function_is_its_own(strategy: str) -> None:
    """A `TimeoutError` that user code raises is never mistaken for pmflow's."""

    def impatient() -> None:
        raise TimeoutError("the server did not answer")

    result = pmflow.run(made(strategy, impatient, timeout=60, id="impatient"), on_error="return")["impatient"]
    assert (type(result.exception), result.error) == (TimeoutError, "the server did not answer")


def test_a_plain_function_on_the_loop_takes_no_timeout() -> None:
    """Nothing can stop it, so a timeout is refused where it is written, and where `type=` would lead to it."""
    with pytest.raises(pmflow.ConfigurationError, match="timeout"):
        process(lambda: 1, id="inline", type="async", timeout=1)


def test_a_thread_past_its_timeout_holds_up_nothing() -> None:
    """The run goes on without it, in a fresh thread; its result is dropped, and says that the work may still go on."""
    release, ended = threading.Event(), threading.Event()

    def hangs() -> str:
        release.wait(LIMIT)
        ended.set()
        return "late"

    stuck = process(hangs, id="stuck", timeout=0.1)
    other = process(
        lambda stuck: threading.current_thread().name, id="other", dependencies={"stuck": stuck}, after="free"
    )
    free = process(threading.current_thread, id="free", after=())
    try:
        run = pmflow.run([stuck, free, other], on_error="return", max_threads=1)
        assert not ended.is_set()
        stuck_result = run["stuck"]
        assert (stuck_result.state, stuck_result.stopped, stuck_result.success) == (FAILED, False, False)
        assert type(stuck_result.exception) is ProcessTimeoutError
        assert "cannot be stopped" in str(stuck_result.exception)
        assert run["free"].success
        assert run["other"].state is ProcessState.SKIPPED
    finally:
        release.set()
    assert ended.wait(LIMIT)
    again = pmflow.run(process(lambda: 2, id="again"), max_threads=1)
    assert again.value == 2
    assert run["stuck"].state is FAILED


def test_a_thread_past_its_timeout_does_not_hold_up_the_exit() -> None:
    """The interpreter ends although a thread hangs for ever."""
    assert script(
        """
        import threading, pmflow
        stuck = pmflow.process(threading.Event().wait, id="stuck", timeout=0.1)
        run = pmflow.run(stuck, on_error="return")
        print(run["stuck"].error_type, run["stuck"].stopped)
        """
    ) == ["ProcessTimeoutError False"]


@process(type="process", timeout=1.0)
def hangs_in_a_worker(folder: Path) -> None:
    """Start a child, note both process numbers, and hang."""
    child = subprocess.Popen(["sleep", "1000"])  # noqa: S607
    (folder / "new").write_text(f"{os.getpid()} {child.pid}")
    (folder / "new").rename(folder / "pids")
    time.sleep(1000)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_past_its_timeout_is_killed_and_replaced(tmp_path: Path) -> None:
    """The worker is gone when the result is there, with what it started; another serves the next call."""
    pid = process(os.getpid, id="pid", type="process", after="hangs_in_a_worker")
    late = process(lambda hangs_in_a_worker: None, id="late")
    spare = process(os.getpid, id="spare", type="process")
    run = pmflow.run([hangs_in_a_worker, late, spare], inputs={"folder": tmp_path}, on_error="return", max_processes=1)
    worker, child = map(int, (tmp_path / "pids").read_text().split())
    assert not alive(worker)
    assert eventually(lambda: not alive(child))
    result = run["hangs_in_a_worker"]
    assert (type(result.exception), result.stopped, result.attempts) == (ProcessTimeoutError, True, 1)
    assert run["late"].state is ProcessState.SKIPPED
    assert run["spare"].success
    assert pmflow.run(pid.options(after=()), max_processes=1).value != worker


def eventually(condition: Callable[[], object]) -> bool:
    """Whether something that announces itself by nothing comes true in time."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("strategy", ["thread", "process"])
def test_waiting_for_a_slot_is_not_charged(strategy: str, tmp_path: Path) -> None:
    """A timeout counts from where the attempt begins, not from where it was queued."""

    def holds() -> None:
        time.sleep(0.8)

    first = process(holds, id="first", type=strategy)
    second = process(lambda: 2, id="second", type=strategy, timeout=0.5)
    behind = process(lambda first: 3, id="behind")  # makes the first more urgent
    run = pmflow.run([second, first, behind], max_threads=1, max_processes=1)
    assert run["second"].data == 2


@pytest.mark.parametrize("strategy", STOPPABLE)
def test_a_timeout_in_the_middle_of_a_chain_is_its_own_links(strategy: str) -> None:
    """Each link of a chain has its own timeout: those before keep their results, those behind are skipped."""

    def hangs(one: int) -> None:
        time.sleep(1.5)

    async def hangs_async(one: int) -> None:
        await anyio.sleep_forever()

    one = made(strategy, lambda: 1, id="one", timeout=60)
    if strategy == "coroutine":
        two: Any = process(hangs_async, id="two", timeout=0.2)
    else:
        two = made(strategy, hangs, id="two", timeout=0.2)
    three = made(strategy, lambda two: 3, id="three", timeout=60)
    run = pmflow.run([one, two, three], on_error="return")
    assert run["one"].data == 1
    assert run["two"].error_type == "ProcessTimeoutError"
    assert run["three"].state is ProcessState.SKIPPED


# Retries


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("retries", "delays"),
    [
        (2, [1, 2]),
        (RetryStrategy(max_retries=4), [1, 2, 4, 8]),
        (RetryStrategy(max_retries=3, delay_seconds=5, backoff_factor=1), [5, 5, 5]),
        (RetryStrategy(max_retries=5, delay_seconds=1, backoff_factor=10, max_delay_seconds=30), [1, 10, 30, 30, 30]),
        (RetryStrategy(max_retries=2, delay_seconds=0), [0, 0]),
        (0, []),
    ],
)
async def test_retries_wait_longer_and_longer(retries: Any, delays: list[float]) -> None:
    """After attempt n the next waits delay * factor ** (n - 1) seconds, at most the longest delay."""
    moments = []

    @process(retries=retries)
    async def flaky() -> None:
        moments.append(trio.current_time())
        raise OSError(f"attempt {len(moments)}")

    run = await pmflow.arun(flaky, on_error="return")
    assert [after - before for before, after in pairwise(moments)] == pytest.approx(delays)
    result = run[flaky]
    assert (result.state, result.attempts, result.error) == (FAILED, len(delays) + 1, f"attempt {len(delays) + 1}")


@pytest.mark.virtual_time
async def test_jitter_adds_a_share_of_the_delay() -> None:
    """Jitter lengthens a delay by a random share: never shortens it, never beyond its fraction."""
    moments = []

    @process(retries=RetryStrategy(max_retries=20, delay_seconds=8, backoff_factor=1, jitter=0.5))
    async def flaky() -> None:
        moments.append(trio.current_time())
        raise OSError

    await pmflow.arun(flaky, on_error="return")
    delays = [after - before for before, after in pairwise(moments)]
    assert len(delays) == 20
    assert all(8 <= delay <= 12.0001 for delay in delays)
    assert len({round(delay, 6) for delay in delays}) > 10


@every_strategy
def test_a_retry_may_succeed(strategy: str, tmp_path: Path) -> None:
    """An exception is tried again, by every strategy; the result counts the attempts and dependants see the value."""

    def flaky() -> int:
        attempts = len(list(tmp_path.iterdir()))
        (tmp_path / str(attempts)).touch()
        if attempts < 2:
            raise OSError(attempts)
        return attempts

    once_more = RetryStrategy(max_retries=5, delay_seconds=0.001)
    run = pmflow.run(
        [made(strategy, flaky, id="flaky", retries=once_more), made(strategy, lambda flaky: flaky + 1, id="next")]
    )
    assert (run["flaky"].data, run["flaky"].attempts, run["next"].data, run["next"].attempts) == (2, 3, 3, 1)
    assert run["flaky"].metadata.retries == 2


@every_strategy
def test_only_what_retry_on_names_is_tried_again(strategy: str, tmp_path: Path) -> None:
    """`retry_on` chooses by exception type; everything else fails at once."""

    def flaky() -> None:
        attempt = len(list(tmp_path.iterdir()))
        (tmp_path / str(attempt)).touch()
        raise ConnectionError if attempt == 0 else ValueError

    retries = RetryStrategy(max_retries=9, delay_seconds=0.001, retry_on=(OSError,))
    result = pmflow.run(made(strategy, flaky, id="flaky", retries=retries), on_error="return")["flaky"]
    assert (result.error_type, result.attempts) == ("ValueError", 2)


@pytest.mark.parametrize("strategy", ["thread", "process"])
def test_waiting_for_a_retry_holds_no_slot(strategy: str, tmp_path: Path) -> None:
    """While a process waits for its next attempt, its thread or worker serves another."""

    def flaky() -> str:
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise OSError
        return "other was here" if (tmp_path / "other").exists() else "nobody was here"

    def other() -> None:
        wait_for(tmp_path / "failed")
        (tmp_path / "other").touch()

    retries = RetryStrategy(max_retries=1, delay_seconds=1.0)
    first = process(flaky, id="flaky", type=strategy, retries=retries)
    behind = process(lambda flaky: flaky, id="behind")  # makes the first more urgent
    run = pmflow.run([behind, first, process(other, type=strategy)], max_threads=1, max_processes=1)
    assert run["behind"].data == "other was here"


async def test_a_timeout_is_tried_again_after_the_old_attempt_is_dead() -> None:
    """A coroutine's attempts never overlap: the one that timed out has ended before the next begins."""
    log: list[str] = []

    @process(timeout=0.1, retries=RetryStrategy(max_retries=2, delay_seconds=0))
    async def slow() -> int:
        attempt = len([line for line in log if line.startswith("begin")])
        log.append(f"begin {attempt}")
        try:
            if attempt < 2:
                await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            log.append(f"end {attempt}")
        return attempt

    result = (await pmflow.arun(slow))[slow]
    assert log == ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]
    assert (result.data, result.attempts, result.stopped) == (2, 3, True)


def test_a_late_attempt_does_not_begin_what_follows_twice() -> None:
    """A thread that was given up ends late: what follows it in the graph runs once, after the attempt that counts."""
    release, late, slow_once = threading.Event(), threading.Event(), threading.Event()
    begun: list[int] = []

    def slow() -> int:
        if not slow_once.is_set():
            slow_once.set()
            release.wait(LIMIT)
            late.set()
            return 1
        return 2

    def follows(slow: int) -> int:
        begun.append(slow)
        release.set()  # only now may the first attempt end
        late.wait(LIMIT)
        time.sleep(0.2)  # what the first attempt's thread still does announces itself by nothing
        return slow

    first = process(slow, timeout=0.1, retries=RetryStrategy(max_retries=1, delay_seconds=0))
    run = pmflow.run([first, process(follows)])
    assert begun == [2]
    assert (run["follows"].data, run["follows"].attempts, run["slow"].stopped) == (2, 1, False)


# Context variables

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture
def tenant_set() -> Iterator[None]:
    """Set the variable for one test."""
    token = tenant.set("caller")
    yield
    tenant.reset(token)


def renames() -> str:
    """Return the variable, and set it for itself."""
    before = tenant.get()
    tenant.set("renamed")
    return before


@pytest.mark.usefixtures("tenant_set")
@pytest.mark.parametrize("strategy", ["coroutine", "inline", "thread"])
def test_every_call_has_a_copy_of_the_callers_context(strategy: str) -> None:
    """A call sees the caller's context variables; what it sets is seen by nobody else, in a chain or beside it."""
    wide = [made(strategy, renames, id=f"wide{n}") for n in range(5)]
    chain = [made(strategy, renames, id=f"link{n}", after=f"link{n - 1}" if n else ()) for n in range(5)]
    fed = [made(strategy, renames, id="first"), made(strategy, lambda first: (first, renames()), id="second")]
    mapped = made(strategy, lambda n: renames(), id="mapped", map_over={"n": "numbers"})
    run = pmflow.run([*wide, *chain, *fed, mapped], inputs={"numbers": [1, 2, 3]})
    assert {run[each.id].data for each in [*wide, *chain]} == {"caller"}
    assert run["second"].data == ("caller", "caller")
    assert run["mapped"].data == ["caller"] * 3
    assert tenant.get() == "caller"


@pytest.mark.parametrize("strategy", ["coroutine", "inline", "thread"])
async def test_every_call_has_a_copy_of_the_context_of_arun(strategy: str) -> None:
    """The same on a running loop: the context is the one in which `arun` was awaited."""
    tenant.set("task")
    first, second = made(strategy, renames, id="first"), made(strategy, lambda first: (first, renames()), id="second")
    run = await pmflow.arun([first, second])
    assert run["second"].data == ("task", "task")
    assert tenant.get() == "task"


@pytest.mark.parametrize("strategy", ["coroutine", "inline", "thread"])
def test_every_attempt_has_a_fresh_copy_of_the_context(strategy: str) -> None:
    """A retry does not see what the attempt before it has set."""
    seen = []

    def flaky() -> None:
        seen.append(renames())
        if len(seen) < 3:
            raise OSError

    token = tenant.set("caller")
    try:
        pmflow.run(made(strategy, flaky, id="flaky", retries=RetryStrategy(max_retries=3, delay_seconds=0)))
    finally:
        tenant.reset(token)
    assert seen == ["caller"] * 3


# Nested runs

leaf = process(lambda n: n * 10, id="leaf")


@pytest.mark.parametrize("inner", STRATEGIES)
@pytest.mark.parametrize("outer", ["arun", *STRATEGIES])
def test_a_process_may_run_another_graph(outer: str, inner: str) -> None:
    """`pmflow.run` works within every strategy, and `arun` within a coroutine, for graphs of every strategy."""
    inside = made(inner, lambda n: n * 10, id="leaf")

    def nests(n: int) -> Any:
        return pmflow.run(inside, inputs={"n": n}).value

    async def awaits(n: int) -> Any:
        return (await pmflow.arun(inside, inputs={"n": n})).value

    nesting = process(awaits, id="nesting") if outer == "arun" else made(outer, nests, id="nesting")
    assert pmflow.run(nesting, inputs={"n": 4}, timeout=60).value == 40


@pytest.mark.parametrize("strategy", ["inline", "thread", "coroutine"])
def test_three_deep_with_one_thread(strategy: str) -> None:
    """Runs within runs within runs end, also where each may use one thread only: a host lends its place."""

    def deeper(depth: int) -> Any:
        if depth == 0:
            return process(lambda: 1, id="bottom")
        below = deeper(depth - 1)

        def level() -> int:
            run = pmflow.run([below, process(lambda: 1, id="beside")], max_threads=1)
            return int(sum(run.data.values()))

        return made(strategy, level, id=f"level{depth}")

    assert pmflow.run(deeper(3), max_threads=1, timeout=60).value == 4


def test_more_nested_runs_than_threads() -> None:
    """A hundred threads that each run a graph of threads: the pool cannot be used up by those that wait."""

    def nests(n: int) -> int:
        return int(pmflow.run(leaf, inputs={"n": n}).value)

    mapped = process(nests, id="nests", map_over={"n": "numbers"})
    assert pmflow.run(mapped, inputs={"numbers": range(100)}, timeout=60).value == [n * 10 for n in range(100)]


def test_three_deep_in_workers() -> None:
    """A worker may run a graph of its own, whose workers may do so too."""

    def deeper(depth: int) -> Any:
        if depth == 0:
            return process(lambda: [os.getpid()], id="bottom", type="process")
        below = deeper(depth - 1)

        def level() -> list[int]:
            return [os.getpid(), *pmflow.run(below).value]

        return process(level, id=f"level{depth}", type="process")

    pids = pmflow.run(deeper(2), timeout=60).value
    assert len(set(pids)) == 3
    assert os.getpid() not in pids


# Under a running loop


async def test_run_under_a_running_loop() -> None:
    """`run` blocks its caller where a loop runs, and gives the same result as `arun`."""
    one, two = process(anyio.lowlevel.checkpoint, id="one"), process(lambda one: threading.get_ident(), id="two")
    run = pmflow.run([one, two])
    assert run.success
    assert run["two"].data != threading.get_ident()
    assert (await pmflow.arun([one, two])).success


def test_the_library_of_a_nested_loop_is_its_own() -> None:
    """What runs below a trio program in a loop of its own finds that loop, not trio."""

    async def main() -> Any:
        return pmflow.run(process(asyncio.sleep, id="sleep"), inputs={"delay": 0, "result": "asyncio"}).value

    assert trio.run(main) == "asyncio"


async def test_type_async_stays_in_the_callers_thread() -> None:
    """Under `type="async"` a graph of plain functions runs where `run` is called, so that a breakpoint works."""
    here = process(threading.current_thread, id="here")
    there = process(lambda here: (here, threading.current_thread()), id="there", type="process")
    mine = threading.current_thread()
    assert pmflow.run([here, there], type="async").data == {"here": mine, "there": (mine, mine)}
    assert (await pmflow.arun([here, there], type="async")).data == {"here": mine, "there": (mine, mine)}


def test_type_overrides_every_strategy() -> None:
    """`type` replaces the strategy of every process of the run, and of no other run."""
    pid = process(os.getpid, id="pid")
    assert pmflow.run(pid, type="process").value != os.getpid()
    assert pmflow.run(pid).value == os.getpid()
    assert pmflow.run(pid, type="process")["pid"].strategy is pmflow.ProcessType.PROCESS
    assert pmflow.run(process(os.getpid, id="pid", type="process"), type="thread").value == os.getpid()


# SystemExit and KeyboardInterrupt


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("strategy", ["thread", "process"])
def test_exits_of_a_function_elsewhere_are_its_failure(strategy: str, kind: type[BaseException]) -> None:
    """A function that exits, in a thread or a worker, has failed: nothing else ends, and the cause is kept."""

    def exits() -> None:
        raise kind("3")

    run = pmflow.run([process(exits, type=strategy), process(lambda: 1, id="other", type=strategy)], on_error="return")
    result = run["exits"]
    assert (result.state, type(result.exception)) == (FAILED, ProcessError)
    assert isinstance(result.exception, Exception)
    assert type(result.exception.__cause__) is kind
    assert kind.__name__ in str(result.error)
    assert run["other"].data == 1
    with pytest.raises(WorkflowError) as caught:
        pmflow.run(process(exits, type=strategy))
    assert [type(error) for error in caught.value.exceptions] == [ProcessError]


@pytest.mark.parametrize("strategy", ["coroutine", "inline"])
def test_system_exit_on_the_loop_is_its_failure_too(strategy: str) -> None:
    """SystemExit raised by a function is that function's failure on the loop as well."""

    def exits() -> None:
        sys.exit(3)

    run = pmflow.run([made(strategy, exits, id="exits"), made(strategy, lambda: 1, id="other")], on_error="return")
    assert type(run["exits"].exception) is ProcessError
    assert type(run["exits"].exception.__cause__) is SystemExit
    assert run["other"].data == 1


@pytest.mark.parametrize("strategy", ["coroutine", "inline"])
def test_keyboard_interrupt_in_the_main_thread_is_ctrl_c(strategy: str) -> None:
    """KeyboardInterrupt in the main thread is always Ctrl-C: the run stops, and what had finished is in `.run`."""

    def interrupted(first: int) -> None:
        raise KeyboardInterrupt

    first = made(strategy, lambda: 1, id="first")
    after = made(strategy, lambda interrupted: 1, id="after")
    with pytest.raises(KeyboardInterrupt) as caught:
        pmflow.run([first, made(strategy, interrupted, id="interrupted"), after], on_error="return")
    run = caught.value.run  # type: ignore[attr-defined]
    states = {name: result.state for name, result in run.items()}
    assert states == {"first": DONE, "interrupted": CANCELLED, "after": CANCELLED}


# Ctrl-C


HANGS = {
    "thread": "@process\ndef hangs(first):\n    say()\n    threading.Event().wait()\n",
    "coroutine": "@process\nasync def hangs(first):\n    say()\n    await anyio.sleep_forever()\n",
    "process": '@process(type="process")\ndef hangs(first):\n    say()\n    time.sleep(1000)\n',
    "inline": '@process(type="async")\ndef hangs(first):\n    say()\n    time.sleep(1000)\n',
}
CALLS = {
    "script": "pmflow.run([hangs, last])",
    "asyncio": "asyncio.run(main())",
    "trio": "trio.run(main)",
}
INTERRUPTED = """
import asyncio, os, threading, time
import anyio, pmflow, trio
from pmflow import process

def say():
    os.write(1, b"running\\n")

@process
def first():
    return 1

{hangs}

@process
def last(hangs):
    return 3

async def main():
    pmflow.run([hangs, last])

try:
    {call}
except KeyboardInterrupt as interrupt:
    run = interrupt.run
    print(run["first"].data, run["hangs"].state.name, run["hangs"].stopped, run["last"].state.name)
    print(threading.current_thread() is threading.main_thread())
"""


@pytest.mark.parametrize("strategy", HANGS)
@pytest.mark.parametrize("where", CALLS)
def test_ctrl_c_stops_the_run_and_carries_it(where: str, strategy: str) -> None:
    """On Ctrl-C `run` stops what can be stopped and raises KeyboardInterrupt, whose `.run` holds what had finished."""
    text = INTERRUPTED.format(hangs=HANGS[strategy], call=CALLS[where])
    with program(text) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "running\n"
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=LIMIT)
    expected = [f"1 CANCELLED {strategy != 'thread'} CANCELLED", "True"]
    assert (out.splitlines(), err, running.returncode) == (expected, "", 0)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_ctrl_c_cancels_an_arun(library: str) -> None:
    """Where the loop is the user's own, Ctrl-C is the loop's affair: it cancels `arun`, and the program ends."""
    text = INTERRUPTED.format(hangs=HANGS["process"], call=CALLS[library]).replace("pmflow.run(", "await pmflow.arun(")
    text = text.rpartition("except KeyboardInterrupt")[0] + 'except KeyboardInterrupt:\n    print("interrupted")\n'
    with program(text) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "running\n"
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=LIMIT)
    assert (out, err, running.returncode) == ("interrupted\n", "", 0)


def test_a_handler_of_the_user_is_left_alone() -> None:
    """A program that handles SIGINT itself goes on doing so while a run is under way."""
    assert script(
        """
        import os, signal, pmflow
        signal.signal(signal.SIGINT, lambda *_: print("handled"))
        here = pmflow.process(lambda: os.kill(os.getpid(), signal.SIGINT), id="here", type="async")
        there = pmflow.process(lambda: os.kill(os.getpid(), signal.SIGINT), id="there")
        print(pmflow.run([here, there.options(after="here")]).success)
        """
    ) == ["handled", "handled", "True"]


def test_the_handler_is_put_back() -> None:
    """After a run, SIGINT means what it meant before."""
    before = signal.getsignal(signal.SIGINT)
    pmflow.run(leaf, inputs={"n": 1})
    with pytest.raises(WorkflowError):
        pmflow.run(process(lambda: 1 / 0, id="fails"))
    assert signal.getsignal(signal.SIGINT) is before


# Programs


def script(text: str) -> list[str]:
    """Run a program; return the lines it prints. It must end well, and say nothing else."""
    with program(textwrap.dedent(text)) as running:
        out, err = running.communicate(timeout=60)
    assert (err, running.returncode) == ("", 0), out
    return out.splitlines()


@contextlib.contextmanager
def program(text: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program text in a Python of its own, as a session of its own; it ends with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as running:
        try:
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_first_call_of_a_function_in_a_worker_times_out_like_any_other(name: str) -> None:
    """That its function has to be loaded first delays the moment from which on its time counts, and no more."""
    hangs = process(lambda: threading.Event().wait(30), id=name, type="process", timeout=0.05)
    started = time.monotonic()
    run = pmflow.run(hangs, on_error="return", max_processes=1)
    assert type(run[name].exception) is ProcessTimeoutError
    assert time.monotonic() - started < 20


def test_a_coroutine_in_a_thread_while_another_imports_what_names_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that says which library's loop runs may be half imported, by another thread, when a call begins."""
    monkeypatch.setitem(sys.modules, "sniffio", types.ModuleType("sniffio"))

    async def one() -> int:
        return 1

    assert pmflow.run(process(one, type="thread")).value == 1
