"""S13 and S14: runs in unusual places, and threads that nobody can stop."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import anyio
import anyio.lowlevel
from harness import case, run_program
from inside import alive, eventually, raises

import pmflow
from pmflow import ProcessState, ProcessTimeoutError, RunTimeoutError, process

PATIENCE = 20.0


def mixed(strategy: str = "process") -> Any:
    """A process with one of each strategy behind it."""

    @process
    async def one(n: int) -> int:
        await anyio.lowlevel.checkpoint()
        return n

    @process
    def two(one: int) -> int:
        return one + 1

    @process(type=strategy)
    def three(two: int) -> int:
        return two + 1

    @process(type="async")
    def four(three: int, one: int) -> list[int]:
        return [one, three]

    return pmflow.Graph([one, two, three, four])


@case(library=("asyncio", "trio"))
def test_s13_a_run_inside_a_running_loop(library: str) -> None:
    """`run` works where a loop runs, a dozen times over, in tasks side by side too; the loop runs on afterwards."""

    async def one_of_them(n: int) -> None:
        assert pmflow.run(mixed(), inputs={"n": n}).data["four"] == [n, n + 2]
        await anyio.lowlevel.checkpoint()
        assert (await pmflow.arun(mixed(), inputs={"n": n})).data["four"] == [n, n + 2]

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(12):
                tasks.start_soon(one_of_them, n)

    anyio.run(main, backend=library)


@case()
def test_s13_runs_from_eight_threads_at_once() -> None:
    """Eight threads run graphs at the same moment, again and again: each has its own right result."""
    together, found = threading.Barrier(8), {}

    def work(number: int) -> None:
        together.wait(PATIENCE)
        for turn in range(10):
            n = number * 100 + turn
            found[n] = pmflow.run(mixed(), inputs={"n": n}, timeout=PATIENCE).data["four"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert found == {n: [n, n + 2] for number in range(8) for n in range(number * 100, number * 100 + 10)}


@case(stderr=r"(.*DeprecationWarning.*fork.*)?")
def test_s13_a_run_in_a_forked_child() -> None:
    """A forked child has pools of its own; the parent's workers are left alone, and so are its runs."""
    where = process(lambda n: os.getpid(), id="where", type="process", map_over={"n": "numbers"})
    before = set(pmflow.run(where, inputs={"numbers": range(8)}).value)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert pmflow.run(mixed(), inputs={"n": 1}, timeout=PATIENCE).data == {"four": [1, 3]}
            assert not set(pmflow.run(where, inputs={"numbers": range(8)}).value) & before
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert pmflow.run(mixed(), inputs={"n": 2}, timeout=PATIENCE).data == {"four": [2, 4]}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(alive(worker) for worker in before)


@case()
def test_s13_a_child_forked_while_a_run_is_under_way() -> None:
    """A fork in the middle of a run: the child may run graphs, and the parent's run ends as if nothing had been."""
    graph = mixed()

    @process
    def forks() -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if pmflow.run(graph, inputs={"n": 5}, timeout=PATIENCE).data == {"four": [5, 7]} else 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    square = process(lambda n: n * n, id="square", type="process", map_over={"n": "numbers"})
    run = pmflow.run([forks, square], inputs={"numbers": range(20)}, timeout=PATIENCE)
    assert run.data == {"forks": 0, "square": [n * n for n in range(20)]}


AT_EXIT = """
import atexit, threading
import pmflow

def last():
    for strategy in ("async", "thread", "process"):
        try:
            print(pmflow.run(pmflow.process(lambda: 1, id="one", type=strategy)).value)
        except pmflow.ShutdownError as error:
            print("shutting down:", "\\n" not in str(error))

{register}
pmflow.run(pmflow.process(lambda: 1, id="one", type="process"))
"""


def test_s13_a_run_at_the_interpreters_exit() -> None:
    """A run that an exit handler begins works or is refused in one sentence; it never hangs."""
    for register in ("atexit.register(last)", "threading._register_atexit(last)"):
        finished = run_program([sys.executable, "-c", AT_EXIT.format(register=register)])
        lines = finished.stdout.splitlines()
        assert len(lines) == 3
        assert set(lines) <= {"1", "shutting down: True"}


BACKGROUND = """
import threading, pmflow

def endless():
    while True:
        try:
            pmflow.run([pmflow.process(lambda n: n, id="n", map_over={"n": "numbers"}),
                        pmflow.process(lambda: 1, id="one", type="process")], inputs={"numbers": range(100)})
        except pmflow.ShutdownError:
            return
        ready.set()

ready = threading.Event()
threading.Thread(target=endless, daemon=True).start()
ready.wait(20)
print("end")
"""


def test_s13_the_program_ends_in_the_middle_of_a_daemons_run() -> None:
    """A daemon thread that runs graphs does not keep the program from ending, and leaves no worker."""
    assert run_program([sys.executable, "-c", BACKGROUND]).stdout == "end\n"


@case()
def test_s14_a_thread_past_its_timeout_costs_the_run_nothing() -> None:
    """The run goes on in time, what hangs is named, and its late result changes nothing."""
    release, ended = threading.Event(), threading.Event()

    @process(timeout=0.3)
    def stuck(n: int) -> str:
        if n:
            return "well"
        release.wait(PATIENCE)
        ended.set()
        return "late"

    stuck_map = process(stuck, id="stuck", map_over={"n": "numbers"}, timeout=0.3)
    run = pmflow.run(stuck_map, inputs={"numbers": [0, 1, 2, 0, 3]}, max_threads=1, on_error="return")
    assert [run[f"stuck_{n}"].success for n in range(5)] == [False, True, True, False, True]
    assert type(run["stuck_0"].exception) is ProcessTimeoutError
    assert (run["stuck_0"].stopped, run["stuck_1"].stopped) == (False, True)
    assert run.execution_time < 0.6 + 2
    release.set()
    assert ended.wait(PATIENCE)
    assert run["stuck_0"].state is ProcessState.FAILED
    assert eventually(lambda: pmflow.run(process(lambda: 1, id="one")).value == 1)


@case()
def test_s14_a_run_timeout_leaves_a_thread_behind() -> None:
    """The run's own timeout does not wait for a thread either: it is CANCELLED, and known not to have stopped."""

    @process
    def stuck() -> None:
        threading.Event().wait()

    @process(type="process")
    def computes() -> None:
        threading.Event().wait()

    with raises(RunTimeoutError, "0.5 s") as caught:
        pmflow.run([stuck, computes], timeout=0.5)
    run = caught.error.run
    assert {name: (result.state, result.stopped) for name, result in run.items()} == {
        "stuck": (ProcessState.CANCELLED, False),
        "computes": (ProcessState.CANCELLED, True),
    }


def test_s14_the_exit_waits_for_no_thread() -> None:
    """The interpreter ends at once, with its own exit code, although threads and their runs hang for ever."""
    text = """
import sys, threading, pmflow
hang = threading.Event().wait
run = pmflow.run(pmflow.process(lambda n: hang(), id="stuck", timeout=0.2, map_over={"n": "numbers"}),
                 inputs={"numbers": range(3)}, on_error="return", max_threads=3)
nested = pmflow.process(lambda: pmflow.run(pmflow.process(lambda: hang(), id="inner")), id="outer", timeout=0.2)
pmflow.run(nested, on_error="return")
print(len(run["stuck"].error), file=sys.stdout)
sys.exit(7)
"""
    assert run_program([sys.executable, "-c", text], returncode=7).seconds < PATIENCE
