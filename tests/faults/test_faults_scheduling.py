"""S5, S6, S7, S9 and S10: sizes, hooks, timeouts at the worst moment, retries, and cancellation."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from harness import case
from inside import MAX_WORKERS, Held, alive, descendants, eventually

import pmflow
from pmflow import Graph, ProcessState, ProcessTimeoutError, RetryStrategy, process

DONE, FAILED, SKIPPED, CANCELLED = (
    ProcessState.COMPLETED,
    ProcessState.FAILED,
    ProcessState.SKIPPED,
    ProcessState.CANCELLED,
)
MANY = 100_000


# Sizes


def zero() -> int:
    return 0


def successor(before: int) -> int:
    return before + 1


def failing() -> int:
    raise ValueError


async def zero_async() -> int:
    return 0


async def successor_async(before: int) -> int:
    return before + 1


def chain_of(size: int, first: Any, link: Any) -> Graph:
    """Each process needs the one before."""
    links = [link.options(id=f"p{i}", dependencies={"before": f"p{i - 1}"}) for i in range(1, size)]
    return Graph([first.options(id="p0"), *links])


@case(limit=60, strategy=("inline", "coroutine", "thread"))
def test_s5_a_chain_of_100_000(strategy: str) -> None:
    """A chain of 100,000 is an ordinary graph: it runs, and its `Run` can be read, shown and pickled."""
    if strategy == "coroutine":
        graph = chain_of(MANY, process(zero_async), process(successor_async))
    else:
        kind: Any = "async" if strategy == "inline" else strategy
        graph = chain_of(MANY, process(zero, type=kind), process(successor, type=kind))
    run = pmflow.run(graph)
    assert run.value == MANY - 1
    assert len(run) == MANY
    assert run["p77777"].data == 77_777
    assert len(repr(run)) < 10_000
    assert len(repr(graph)) < 10_000
    if strategy == "inline":
        assert pickle.loads(pickle.dumps(run[f"p{MANY - 1}"])).data == MANY - 1  # noqa: S301 - our own
    del run
    gc.collect()  # frees it without recursion


@case(limit=60)
def test_s5_a_failure_at_the_head_of_a_chain_of_100_000() -> None:
    """All that follows is SKIPPED, each with a reason of one line, and stopping costs no more than running."""
    graph = chain_of(MANY, process(failing, type="async"), process(successor, type="async"))
    for fail_fast in (False, True):
        run = pmflow.run(graph, on_error="return", fail_fast=fail_fast)
        assert len(run) == MANY
        assert run["p0"].state is FAILED
        last = run[f"p{MANY - 1}"]
        assert last.state is SKIPPED
        assert len(last.reason or "") < 200
        assert len(run.skipped) == MANY - 1
        assert len(repr(run)) < 10_000


@case(limit=60)
def test_s5_100_000_wide_and_one_process_with_100_000_dependencies() -> None:
    """A fan-out of 100,000 and the fan-in behind it: each is run, and the last one last."""
    one = process(successor, type="async", dependencies={"before": "root"})
    wide = [one.options(id=f"w{i}") for i in range(MANY)]
    last = process(lambda: "last", id="last", type="async", after=[each.id for each in wide])
    graph = Graph([process(zero, id="root", type="async"), *wide, last])
    run = pmflow.run(graph)
    assert run.value == "last"
    assert run["last"].success
    assert list(run)[-1] == "last"
    assert len(run) == MANY + 2
    assert len(graph.dependencies["last"]) == MANY
    assert {run[f"w{i}"].data for i in range(0, MANY, 1_000)} == {1}


@case(limit=60)
def test_s5_cancelling_100_000() -> None:
    """A run of 100,000 that is stopped in the middle ends all of them, one result each."""

    async def endless() -> int:
        await anyio.sleep_forever()
        return 0

    graph = chain_of(MANY, process(endless), process(successor_async))
    run = pmflow.run(graph, timeout=0.1, on_error="return")
    assert {result.state for result in run.values()} == {CANCELLED}
    assert len(run) == MANY


@case(limit=60)
def test_s5_a_map_over_100_000() -> None:
    """A map of 100,000 elements, and a map over that: all of them, in order."""
    twice = process(lambda n: 2 * n, id="twice", type="async", map_over={"n": "numbers"})
    more = process(lambda twice: twice + 1, id="more", type="async", map_over="twice")
    total = process(sum, id="total", type="async", dependencies={"iterable": "more"})
    run = pmflow.run([total, twice, more], inputs={"numbers": range(MANY)})
    assert run["total"].data == MANY * MANY
    assert run["more_99999"].data == 2 * MANY - 1


# Hooks


class Log(logging.Handler):
    """What pmflow has logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logger = logging.getLogger("pmflow")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


STEPS = [process(zero, id="first"), process(lambda first: first + 1, id="second")]


@case(kind=("ValueError", "SystemExit", "KeyboardInterrupt"))
def test_s6_a_hook_that_raises_is_logged_once_and_hurts_nobody(kind: str) -> None:
    """A hook that raises or exits is logged once and not called again; the run and the other hooks go on."""
    log, calls = Log(), []
    seen: list[Any] = []

    def bad(event: Any) -> None:
        calls.append(event)
        raise {"ValueError": ValueError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]("bad")

    run = pmflow.run(STEPS, hooks=[bad, seen.append])
    assert run.data == {"first": 0, "second": 1}
    assert len(calls) == 1
    assert len(log.lines) == 1, log.lines
    assert "bad" in log.lines[0]
    kinds = [(event.kind, event.process_id) for event in seen]
    assert sorted(kinds) == [
        ("process_ended", "first"),
        ("process_ended", "second"),
        ("process_started", "first"),
        ("process_started", "second"),
        ("run_ended", None),
        ("run_started", None),
    ]
    assert (kinds[0][0], kinds[-1][0]) == ("run_started", "run_ended")


@case()
def test_s6_a_hook_that_blocks_does_not_slow_the_run() -> None:
    """The run goes on beside a slow hook, and waits for it for at most a second at its end."""
    release = threading.Event()
    began = time.perf_counter()
    run = pmflow.run(STEPS, hooks=[lambda event: release.wait(10)])
    seconds = time.perf_counter() - began
    release.set()
    assert run.data == {"first": 0, "second": 1}
    assert run.execution_time < 1
    assert seconds < 3


@case(library=("asyncio", "trio"))
def test_s6_a_slow_hook_does_not_block_the_loop(library: str) -> None:
    """Waiting for hooks at the end of an `arun` leaves the loop to the others."""
    release, passes = threading.Event(), [0]

    async def other() -> None:
        while True:
            await anyio.sleep(0.01)
            passes[0] += 1

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await pmflow.arun(STEPS, hooks=[lambda event: release.wait(10)])
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=library)
    release.set()
    assert passes[0] > 20


@case()
def test_s6_a_hook_may_run_a_graph() -> None:
    """A hook that calls `run` works, and its run has no hooks unless it says so."""
    values = []
    run = pmflow.run(STEPS, hooks=[lambda event: values.append(pmflow.run(process(zero, id="inner")).value)])
    assert run.success
    assert values == [0] * 6


# A timeout at the moment of completion


def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


async def sleeps_async(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


@case(limit=60, strategy=("coroutine", "thread", "process"))
def test_s7_a_timeout_exactly_at_completion(strategy: str) -> None:
    """A call ends well or times out, never both and never neither; no innocent call fails, and no worker leaks."""
    timeout = {"coroutine": 0.02, "thread": 0.01, "process": 0.05}[strategy]
    count = {"coroutine": 1_000, "thread": 1_000, "process": 60}[strategy]
    function: Any = sleeps_async if strategy == "coroutine" else sleeps
    kind: Any = "async" if strategy == "coroutine" else strategy
    seconds = [timeout * (1 + (n % 21 - 10) / 500) for n in range(count)]  # from 2 % too early to 2 % too late
    edge = process(function, id="edge", type=kind, timeout=timeout, map_over={"seconds": "moments"})
    innocent = process(successor, type=kind, map_over={"before": "numbers"})
    held = Held.now()
    events = []
    run = pmflow.run(
        [edge, innocent],
        inputs={"moments": seconds, "numbers": range(count)},
        on_error="return",
        hooks=[lambda event: events.append(event.process_id) if event.kind == "process_ended" else None],
    )
    assert run["successor"].data == [n + 1 for n in range(count)]
    results = [run[f"edge_{n}"] for n in range(count)]
    good = {n: result.data for n, result in enumerate(results) if result.success}
    assert good == {n: seconds[n] for n in good}
    bad = [result for result in results if not result.success]
    assert {type(result.exception) for result in bad} <= {ProcessTimeoutError}
    assert len(events) == len(set(events)) == 2 * count + 2
    assert sum(state != "Z" for state in descendants().values()) <= MAX_WORKERS + 1
    if strategy == "thread":
        assert eventually(lambda: threading.active_count() <= held.threads + 32)


# Retries with timeouts


def log_line(folder: str, line: str) -> None:
    with open(Path(folder) / "log", "a", encoding="utf-8") as file:
        file.write(line + "\n")


def attempt_of(folder: str) -> int:
    path = Path(folder) / "log"
    return path.read_text(encoding="utf-8").count("begin") + 1 if path.exists() else 1


def act(folder: str) -> str:
    """Hang at first, raise the second time, succeed the third."""
    attempt = attempt_of(folder)
    log_line(folder, f"begin {attempt} {os.getpid()}")
    if attempt == 1:
        time.sleep(1.5)
        log_line(folder, "end 1 at last")
    if attempt == 2:
        raise ConnectionError("second")
    return "third"


async def act_async(folder: str) -> str:
    attempt = attempt_of(folder)
    log_line(folder, f"begin {attempt} {os.getpid()}")
    try:
        if attempt == 1:
            await anyio.sleep_forever()
        if attempt == 2:
            raise ConnectionError("second")
    finally:
        log_line(folder, f"end {attempt}")
    return "third"


@case(strategy=("coroutine", "thread", "process"))
def test_s9_an_attempt_that_times_out_one_that_raises_and_one_that_succeeds(strategy: str) -> None:
    """Each attempt is told of; a coroutine's or a worker's is dead before the next, a thread's may overlap it."""
    function: Any = act_async if strategy == "coroutine" else act
    kind: Any = "async" if strategy == "coroutine" else strategy
    flaky = process(function, id="flaky", type=kind, timeout=0.3, retries=RetryStrategy(5, delay_seconds=0.01))
    events: list[Any] = []
    run = pmflow.run([flaky, process(lambda flaky: flaky, id="next")], inputs={"folder": "."}, hooks=[events.append])
    result = run["flaky"]
    assert (result.data, result.attempts, result.state, run["next"].data) == ("third", 3, DONE, "third")
    assert result.stopped is (strategy != "thread")
    told = [
        (event.kind, event.attempt, event.result and event.result.error_type)
        for event in events
        if event.process_id == "flaky"
    ]
    assert told == [
        ("process_started", 1, None),
        ("process_retrying", 1, "ProcessTimeoutError"),
        ("process_started", 2, None),
        ("process_retrying", 2, "ConnectionError"),
        ("process_started", 3, None),
        ("process_ended", 3, None),
    ]
    lines = Path("log").read_text(encoding="utf-8").splitlines()
    if strategy == "coroutine":
        assert [line.split()[:2] for line in lines] == [[w, str(n)] for n in (1, 2, 3) for w in ("begin", "end")]
    else:
        assert [line.split()[:2] for line in lines if "begin" in line] == [["begin", str(n)] for n in (1, 2, 3)]
    if strategy == "process":
        workers = [int(line.split()[2]) for line in lines]
        assert workers[0] not in workers[1:]
        assert not alive(workers[0])
        assert not any("at last" in line for line in lines)
    if strategy == "thread":
        assert eventually(lambda: "at last" in Path("log").read_text(encoding="utf-8"))
        assert (run["flaky"].data, run["flaky"].attempts) == ("third", 3)


# Cancellation from outside


def in_a_worker(one: int) -> None:
    Path(f"worker-{os.getpid()}").touch()
    time.sleep(1000)


def workers_seen() -> int:
    return len(list(Path().glob("worker-*")))


def cancelled_graph(release: threading.Event) -> Graph:
    @process
    async def one() -> int:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return 1

    @process(type="async")
    def two(one: int) -> int:
        return one + 1

    @process
    async def three(two: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()

    @process
    def hangs(one: int) -> None:
        release.wait(30)

    @process(timeout=60, retries=3)
    async def flaky(one: int) -> None:
        await anyio.lowlevel.checkpoint()
        raise OSError

    return Graph([one, two, three, hangs, flaky, process(in_a_worker, type="process")])


@case(limit=60, library=("asyncio", "trio"))
def test_s10_a_cancellation_at_every_await(library: str) -> None:
    """Wherever a cancellation from outside strikes, `arun` ends at once, with its workers, and awaits all it began."""

    async def cancelled_after(passes: int) -> float:
        release = threading.Event()
        before = workers_seen()
        ended = []
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def main() -> None:
                    try:
                        await pmflow.arun(cancelled_graph(release))
                    finally:
                        ended.append(time.perf_counter())

                tasks.start_soon(main)
                for _ in range(passes):
                    await anyio.lowlevel.checkpoint()
                while passes % 5 == 4 and workers_seen() == before:  # noqa: ASYNC110 - another process makes the file
                    await anyio.sleep(0.005)  # until everything runs
                cancelled = time.perf_counter()
                scope.cancel()
        release.set()
        assert scope.cancel_called
        return (ended[0] if ended else cancelled) - cancelled

    async def main() -> None:
        slowest = 0.0
        for passes in range(40):
            slowest = max(slowest, await cancelled_after(passes))
            gc.collect()
            pids = [int(path.name.partition("-")[2]) for path in sorted(Path().glob("worker-*"))]  # noqa: ASYNC240
            assert not any(alive(pid) for pid in pids), passes
        assert slowest < 1.0
        run = await pmflow.arun([process(zero), process(zero, id="worker", type="process")])
        assert run.success

    anyio.run(main, backend=library)
    assert workers_seen() >= 8


@case(library=("asyncio", "trio"))
def test_s10_a_deadline_of_the_caller(library: str) -> None:
    """A time limit around `arun` ends it like any other awaitable, and the caller's own error is what is raised."""

    async def main() -> None:
        release = threading.Event()
        try:
            with anyio.fail_after(0.2):
                await pmflow.arun(cancelled_graph(release))
        except TimeoutError as error:
            assert type(error) is TimeoutError
        else:
            raise AssertionError("it went on")
        finally:
            release.set()

    anyio.run(main, backend=library)
    assert sum(state != "Z" for state in descendants().values()) <= MAX_WORKERS + 1
