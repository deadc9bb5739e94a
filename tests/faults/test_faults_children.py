"""W7 and W8: what a call has started, and left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from typing import Any

from harness import case, run_program
from inside import Oracle, alive, eventually, note, noted, ten

import pmflow
from pmflow import ProcessResult, ProcessTimeoutError, WorkerCrashedError, process

AT_ONCE, SOON = 1.0, 3.0
"""Seconds: for a signal that has been sent to do its work, on a busy machine; for what nobody is told of."""

SLEEP = ["sleep", "47"]
LEFT: list[subprocess.Popen[bytes]] = []
"""Children that nobody waits for: without a reference, `subprocess` would complain."""

WAYS: dict[str, dict[str, Any]] = {
    "child": {},
    "orphan": {},
    "orphan of its own group": {"preexec_fn": os.setpgrp},
    "orphan of its own session": {"start_new_session": True},
}
ESCAPED = "orphan of its own session"


def leave(way: str) -> int:
    """Start what outlives the call, as a child or as one whose parent has ended (double-forked)."""
    if way == "child":
        LEFT.append(subprocess.Popen(SLEEP))
        pid = LEFT[-1].pid
    else:
        command = ["sh", "-c", "sleep 47 > /dev/null & echo $!"]
        pid = int(subprocess.run(command, stdout=subprocess.PIPE, check=True, **WAYS[way]).stdout)
    note("children", pid)
    return pid


def ends(end: str) -> None:
    if end == "crashes":
        os._exit(1)
    if end == "times out":
        threading.Event().wait()


def leaves_all(end: str, n: int) -> int:
    if n == 3:
        note("worker", os.getpid())
        for way in WAYS:
            leave(way)
        ends(end)
    return n * n


ERRORS = {"times out": ProcessTimeoutError, "crashes": WorkerCrashedError}


@case(end=tuple(ERRORS))
def test_w7_what_a_worker_has_started_ends_with_it(end: str) -> None:
    """Nothing survives a worker that was stopped or died, and its end costs no innocent call."""
    ten(partial(leaves_all, end), type="process", timeout=1, fails_with=ERRORS[end], lost_workers=1, extra=1.0)
    children = [int(pid) for pid in noted("children")]
    assert len(children) == len(WAYS)
    assert eventually(lambda: not any(map(alive, children)), SOON)


@case()
def test_w7_what_a_call_has_left_ends_with_the_run() -> None:
    """All ten calls are right, one has left four children; they end, and so does the worker they had."""
    oracle = Oracle({"type": "process"})
    run = oracle.run(list(range(10)), partial(leaves_all, "returns"))
    assert run["call"].data == [n * n for n in range(10)]
    children = [int(pid) for pid in noted("children")]
    assert len(children) == len(WAYS)
    assert eventually(lambda: not any(map(alive, children)), SOON)
    assert not {int(pid) for pid in noted("worker")} & oracle.workers()


@case(way=tuple(WAYS), end=("returns", *ERRORS))
def test_w7_what_is_left_while_the_run_goes_on(way: str, end: str) -> None:
    """In the worker's session it ends with the worker, at once; else it lives as long as the run, and no longer."""

    def leaves() -> None:
        leave(way)
        ends(end)

    def witness(leaves: ProcessResult) -> bool:
        (child,) = map(int, noted("children"))
        if end == "returns":
            return alive(child)
        return way == ESCAPED or eventually(lambda: not alive(child), AT_ONCE)

    Oracle({"type": "process"}).workers()  # warm
    run = pmflow.run(
        [process(leaves, type="process", timeout=1 if end == "times out" else None), process(witness)],
        on_error="return",
    )
    assert type(run["leaves"].exception) is ERRORS.get(end, type(None))
    assert run["witness"].data is True
    (child,) = map(int, noted("children"))
    assert eventually(lambda: not alive(child), SOON)


@case()
def test_w7_what_is_left_while_other_runs_go_on() -> None:
    """A worker that has children is replaced at the end of its run; what has escaped ends when no run is active."""
    release, begun = threading.Event(), threading.Event()
    other = process(lambda: begun.set() or release.wait(20), id="other")
    runs = threading.Thread(target=pmflow.run, args=(other,))
    runs.start()
    assert begun.wait(20)
    try:
        leaves = process(lambda: (leave("child"), leave(ESCAPED)), id="leaves", type="process")
        child, escaped = pmflow.run(leaves).value
        assert eventually(lambda: not alive(child), SOON)
    finally:
        release.set()
        runs.join(20)
    assert eventually(lambda: not alive(escaped), SOON)


PROGRAM = """
import ctypes, os, signal, subprocess
import pmflow
from pmflow import process

@process(type="process")
def leaves():
    command = ["sh", "-c", "sleep 47 > /dev/null & echo $!"]
    return int(subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True).stdout)

def kills(leaves, program):
    print(leaves, flush=True)
    os.kill(program, signal.SIGKILL)
    ctypes.PyDLL(None).sleep(600)

"""
KILLS = {
    "in a run": 'pmflow.run(process(kills), inputs={"program": os.getpid()})',
    "by a worker that goes on": 'pmflow.run(process(kills, type="process"), inputs={"program": os.getpid()})',
    "after a run": "kills(pmflow.run(leaves).value, os.getpid())",
}


def test_w8_a_killed_program_leaves_nothing() -> None:
    """`kill -9` of the program ends its workers, and what these have started, wherever that has gone."""
    for text in KILLS.values():
        finished = run_program(
            [sys.executable, "program.py"], files={"program.py": PROGRAM + text}, returncode=-9, grace=1.0
        )
        assert int(finished.stdout) > 0
