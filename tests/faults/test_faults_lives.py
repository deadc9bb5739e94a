"""W19 to W23: runs within runs, workers that are killed, slow to start, orphaned, or warm when their code changes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from harness import case
from inside import CORES, alive, descendants, eventually
from programs import Program, slow_start, starting, warden

import pmflow
from pmflow import ProcessTimeoutError, WorkerCrashedError, process

PATIENCE = 20.0
WORKERS = min(2, CORES)


def square(n: int) -> int:
    return n * n


# Runs within runs


def nested(turn: int, strategies: list[str], root: int) -> list[int]:
    """How many processes each of the innermost calls sees below the program."""
    if not strategies:
        return [sum(state != "Z" for state in descendants(root).values())]
    kind, *rest = strategies
    function: Any = nested_async if kind == "coroutine" else nested
    strategy: Any = "async" if kind in ("coroutine", "inline") else kind
    call = process(function, id="call", type=strategy, map_over={"turn": "turns"})
    given = {"turns": range(3), "strategies": rest, "root": root}
    run = pmflow.run(call, inputs=given, max_threads=2, max_processes=2, timeout=PATIENCE)
    return [count for counts in run.value for count in counts]


async def nested_async(turn: int, strategies: list[str], root: int) -> list[int]:
    return nested(turn, strategies, root)


@case(
    limit=60,
    strategies=(
        "process process process",
        "thread thread process",
        "coroutine coroutine process",
        "inline inline process",
        "coroutine thread process",
        "process thread process",
        "process coroutine process",
        "thread process inline",
    ),
)
def test_w19_runs_three_deep_in_one_another(strategies: str) -> None:
    """A run within a run within a run works from every strategy, and does not multiply the workers."""
    kinds = strategies.split()
    counts = nested(0, kinds, os.getpid())
    assert len(counts) == 3**3
    levels = kinds.count("process")
    wardens = 1 + 2 * (levels - 1)  # at most one for each worker that has a run in it
    assert max(counts) <= 2 * levels + wardens, counts
    assert nested(0, kinds, os.getpid())
    assert sum(state != "Z" for state in descendants().values()) <= 2 * levels + wardens


# Kills


def strike(what: str, workers: list[int]) -> list[int]:
    """Kill that; what must be gone then."""
    struck = {"a worker": workers[:1], "all workers": workers}.get(what) or [warden()]
    gone = [*struck, *(descendants() if what == "the warden" else ())]
    for pid in struck:
        os.kill(pid, signal.SIGKILL)
    return gone


@case(limit=60, what=("a worker", "all workers", "the warden"))
def test_w20_what_is_killed_while_idle_costs_no_call(what: str) -> None:
    """Ten times between two runs, known to be dead or just struck: every call has its result at its first attempt."""
    mapped = process(square, type="process", map_over={"n": "numbers"})
    for turn in range(10):
        run = pmflow.run(mapped, inputs={"numbers": range(6)}, max_processes=2, timeout=PATIENCE)
        assert run.value == [n * n for n in range(6)]
        results = [run[f"square_{n}"] for n in range(6)]
        assert {result.attempts for result in results} == {1}
        gone = strike(what, sorted({int(result.worker or 0) for result in results}))
        # The kernel strikes the workers when the warden has ended: before that they are well, and may begin a call.
        wait_for = gone if turn % 2 else gone[:1] if what == "the warden" else []
        assert eventually(lambda pids=wait_for: not any(map(alive, pids)))  # type: ignore[misc]


def held(n: int) -> int:
    """Say who has begun what, and wait until it may end."""
    Path(f"begins-{os.getpid()}-{n}").touch()
    assert eventually(Path("release").exists, PATIENCE)
    return n * n


def began() -> dict[int, int]:
    """Call to worker."""
    names = [path.name.split("-") for path in Path().glob("begins-*")]
    return {int(n): int(pid) for _, pid, n in names}


@case(limit=60, what=("a worker", "all workers", "the warden"))
def test_w20_what_is_killed_while_running_costs_the_calls_that_had_begun(what: str) -> None:
    """Calls that a killed worker was running have crashed; those that waited, or ran elsewhere, know nothing of it."""
    lost: set[int] = set()

    @process
    def strikes() -> None:
        assert eventually(lambda: len(began()) == WORKERS, PATIENCE)
        begun = began()
        gone = strike(what, sorted(begun.values()))
        lost.update(n for n, worker in begun.items() if worker in gone)
        assert eventually(lambda: not any(map(alive, gone)))
        Path("release").touch()

    mapped = process(held, type="process", map_over={"n": "numbers"})
    run = pmflow.run(
        [strikes, mapped], inputs={"numbers": range(10)}, max_processes=2, on_error="return", timeout=PATIENCE
    )
    assert run["strikes"].success, run["strikes"].traceback
    results = {n: run[f"held_{n}"] for n in range(10)}
    assert len(lost) == (1 if what == "a worker" else WORKERS)
    assert {n: result.data for n, result in results.items() if result.success} == {
        n: n * n for n in range(10) if n not in lost
    }
    for n in lost:
        error: Any = results[n].exception
        assert type(error) is WorkerCrashedError
        assert (error.process_id, error.attempt) == (f"held_{n}", 1)
        assert error.signal == "SIGKILL" or what == "the warden"
    assert {result.attempts for result in results.values()} == {1}
    assert pmflow.run(mapped, inputs={"numbers": range(10)}).success


# A slow start


def hangs() -> None:
    threading.Event().wait()


@case()
def test_w21_the_start_of_a_worker_is_charged_to_no_call() -> None:
    """A worker that takes 2 s to start costs the run that time, and no call its timeout of 0.5 s."""
    os.environ.update(slow_start(2.0))
    quick = process(square, type="process", timeout=0.5, map_over={"n": "numbers"})
    run = pmflow.run(quick, inputs={"numbers": range(8)})
    assert starting(), "nothing was slow"
    assert run.value == [n * n for n in range(8)]
    assert run.execution_time >= 2.0
    assert all(run[f"square_{n}"].execution_time < 0.5 for n in range(8))
    run = pmflow.run([process(hangs, type="process", timeout=0.5), quick], inputs={"numbers": [3]}, on_error="return")
    assert type(run["hangs"].exception) is ProcessTimeoutError
    assert 0.5 <= run["hangs"].execution_time < 2.0
    assert run[quick].data == [9]


# Orphans

FORKING = """
import ctypes, os, threading, time
import pmflow
from pmflow import process

@process(type="process")
def computes(n):
    if n:
        os.write(1, b"computes\\n")
        time.sleep(1000)
    return n

assert pmflow.run(computes, inputs={"n": 0}).value == 0
if BUSY:
    threading.Thread(target=pmflow.run, args=[computes], kwargs={"inputs": {"n": 1}}, daemon=True).start()
else:
    os.write(1, b"computes\\n")
time.sleep(0.1)
child = FORK()
if child == 0:
    while True:
        time.sleep(1000)
os.write(1, f"child {child}\\n".encode())
time.sleep(1000)
"""
FORKS = {"os.fork": "os.fork", "libc's fork": "ctypes.PyDLL(None).fork"}  # Python's own handlers do not see the latter


@case(fork=tuple(FORKS), busy=(True, False))
def test_w22_a_forked_child_keeps_no_worker_alive(fork: str, busy: bool) -> None:
    """When the program is killed its workers end, although a child that it had forked holds all that it had open."""
    text = FORKING.replace("FORK", FORKS[fork]).replace("BUSY", str(busy))
    with Program(text) as program:
        program.until("computes", "child")
        child = next(int(line.split()[1]) for line in program.lines if line.startswith("child"))
        ours = set(descendants(program.pid)) - {child}
        assert ours
        os.kill(program.pid, signal.SIGKILL)
        assert program.ends(5.0) == -signal.SIGKILL
        try:
            assert eventually(lambda: not any(map(alive, ours)), 2.0), descendants(os.getppid())
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


# New code

FLOW = """
import tools
from pmflow import process

def rate():
    return {rate}

@process(type="process")
def price(n):
    return n * {price}

@process(type="process")
def helped(n):
    return n * rate()

@process(type="process")
def helped_from_elsewhere(n):
    return n * tools.rate()

@process(type="process")
def applied(n, function):
    return n * function()
"""
TOOLS = """
def rate():
    return {rate}
"""


def written(module: str, text: str) -> Any:
    """A module of that text; loaded anew if it was loaded before."""
    Path(f"{module}.py").write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    known = sys.modules.get(module)
    return importlib.reload(known) if known else importlib.import_module(module)


def values_of(flow: Any, tools: Any) -> dict[str, int]:
    """What each way to the code of a module comes to, in one worker."""
    steps = [flow.price, flow.helped, flow.helped_from_elsewhere]
    steps += [flow.applied.options(id=f"applied_{name}", dependencies={"function": name}) for name in ("near", "far")]
    functions = {"near": flow.rate, "far": tools.rate}
    return pmflow.run(steps, inputs={"n": 1, **functions}, max_processes=1).data


@case()
def test_w23_a_reloaded_module_runs_its_new_code() -> None:
    """Warm workers run the code that the program has: of a function, of a helper beside it, of a callback."""
    tools = written("tools", TOOLS.format(rate=2))
    for step, (rate, price) in enumerate([(3, 5), (30, 5), (30, 55), (3, 5)]):
        flow = written("flow", FLOW.format(rate=rate, price=price))
        expected = {"price": price, "helped": rate, "helped_from_elsewhere": 2, "applied_near": rate, "applied_far": 2}
        assert values_of(flow, tools) == expected, step


@case()
def test_w23_a_reloaded_module_beside_that_of_the_function() -> None:
    """The new code of another module runs too, although the function that calls it has not changed."""
    tools = written("tools", TOOLS.format(rate=2))
    flow = written("flow", FLOW.format(rate=3, price=5))
    for step, rate in enumerate((2, 20, 200, 2)):
        tools = written("tools", TOOLS.format(rate=rate))
        expected = {"price": 5, "helped": 3, "helped_from_elsewhere": rate, "applied_near": 3, "applied_far": rate}
        assert values_of(flow, tools) == expected, step


@case()
def test_w23_a_changed_file_that_was_not_reloaded_changes_nothing() -> None:
    """Workers that start later run the code that the program has, and not what its file has become."""
    tools = written("tools", TOOLS.format(rate=2))
    flow = written("flow", FLOW.format(rate=3, price=5))
    Path("flow.py").write_text(FLOW.format(rate=30, price=555), encoding="utf-8")
    assert pmflow.run(flow.price, inputs={"n": 1}, max_processes=1).value == 5
    assert tools.rate() == 2
