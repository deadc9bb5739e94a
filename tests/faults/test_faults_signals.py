"""S11 and S12: Ctrl-C ends a program at once and cleanly; however else it ends, nothing that it started lives on."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from harness import case
from inside import alive, descendants, eventually
from programs import Program, slow_start, starting

import pmflow

PACKAGE = str(Path(pmflow.__file__).parent) + os.sep
AT_ONCE = 2.5  # half a second, on a machine that has nothing else to do

PROGRAM = """
import os, time
import anyio
import pmflow
from pmflow import process

@process(type="process", map_over={"n": "numbers"})
def computes(n):
    os.write(1, b"computes\\n")
    time.sleep(1000)

@process
def blocks():
    os.write(1, b"blocks\\n")
    time.sleep(1000)

@process
async def waits():
    os.write(1, b"waits\\n")
    await anyio.sleep_forever()

@process
async def runs():
    pmflow.run([computes, blocks, waits], inputs={"numbers": range(3)})

os.write(1, b"begins\\n")
PROCESSES
os.write(1, b"went on\\n")
"""
GRAPHS = {
    "workers": 'pmflow.run(computes, inputs={"numbers": range(3)})',
    "threads": 'pmflow.run([computes, blocks], inputs={"numbers": range(3)})',
    "everything": 'pmflow.run([computes, blocks, waits], inputs={"numbers": range(3)})',
    "in a loop": "anyio.run(runs)",
}
STEPS = {
    "workers": ["computes"],
    "threads": ["computes", "blocks"],
    "everything": ["computes", "blocks", "waits"],
    "in a loop": ["computes", "blocks", "waits"],
}


def interrupted(program: Program, how: str) -> None:
    """Interrupt it, once or twice; it must end by that, at once, in few words, with all that it started."""
    ours = descendants(program.pid)
    kill = os.killpg if "group" in how else os.kill
    began = time.monotonic()
    kill(program.pid, signal.SIGINT)
    if "twice" in how:
        time.sleep(float(how.rpartition(" ")[2]))
        kill(program.pid, signal.SIGINT)
    ended = program.ends(2 * AT_ONCE)
    seconds = time.monotonic() - began
    assert ended == -signal.SIGINT, (ended, program.stderr())
    assert seconds < AT_ONCE, seconds
    assert is_short(program.stderr(), once="twice" not in how), program.stderr()
    assert eventually(lambda: not any(map(alive, ours)), 2.0), ours


def is_short(stderr: str, *, once: bool) -> bool:
    """Whether it is one KeyboardInterrupt of at most ten lines.

    A second interrupt may strike the interpreter while it writes these, or later: what it says of that is not ours.
    From 3.13 on it may then write them once more, from the beginning.
    """
    before, *blocks = re.split(r"^(?=Traceback|Exception ignored|Fatal)", stderr, flags=re.MULTILINE)
    told = [block for block in blocks if PACKAGE in block]
    if once:
        return not before and blocks == told and is_one(told) and stderr.endswith("\nKeyboardInterrupt\n")
    return len(told) <= 2 and all(is_one([block]) for block in told)


def is_one(blocks: list[str]) -> bool:
    """Whether there is only one, and a short one; what it tells of the user's own event loop does not count."""
    lines = [line for line in blocks[0].splitlines() if line.startswith(("Traceback", "  ", "KeyboardInterrupt"))]
    last = max((number for number, line in enumerate(lines) if "program.py" in line), default=0)
    return len(blocks) == 1 and 1 + len(lines[last:]) <= 10


@case(graph=tuple(GRAPHS), how=("group", "parent"))
def test_s11_an_interrupt_while_everything_runs(graph: str, how: str) -> None:
    """Ctrl-C, for the whole group or for the program only, ends it with KeyboardInterrupt, and all that it started."""
    with Program(PROGRAM.replace("PROCESSES", GRAPHS[graph])) as program:
        program.until(*STEPS[graph])
        interrupted(program, how)


@case(graph=("workers", "everything"), how=("group twice", "parent twice"))
def test_s11_a_second_interrupt(graph: str, how: str) -> None:
    """A second Ctrl-C, whatever the first has come to by then, hurries or changes nothing."""
    for seconds in (0.0, 0.001, 0.003, 0.01, 0.05, 0.2):
        with Program(PROGRAM.replace("PROCESSES", GRAPHS[graph])) as program:
            program.until(*STEPS[graph])
            interrupted(program, f"{how} {seconds}")


@case(graph=("workers", "everything"), how=("group", "parent", "group twice 0.1"))
def test_s11_an_interrupt_while_workers_start(graph: str, how: str) -> None:
    """Ctrl-C does not wait for a worker that is only starting, and leaves none that comes up later."""
    with Program(PROGRAM.replace("PROCESSES", GRAPHS[graph]), slow_start(10.0)) as program:
        program.until("begins", *STEPS[graph][1:])
        assert eventually(starting, 10.0)
        interrupted(program, how)


FAMILY = """
import os, subprocess, time
import pmflow
from pmflow import process

@process(type="process", map_over={"n": "numbers"})
def computes(n):
    child = subprocess.Popen(["sleep", "1000"])
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sh", ["sh", "-c", "echo grandchild $$; exec sleep 1000"])
        os._exit(0)
    os.waitpid(between, 0)
    os.write(1, f"child {child.pid}\\n".encode())
    time.sleep(1000)

pmflow.run(computes, inputs={"numbers": range(3)})
"""


@case(number=("SIGTERM", "SIGHUP", "SIGKILL"))
def test_s12_a_program_that_is_killed_leaves_nothing(number: str) -> None:
    """A signal for the program alone ends its workers, their children, and what has left their session and family."""
    with Program(FAMILY) as program:
        program.until("child", "grandchild")
        families = [int(line.split()[1]) for line in program.lines]
        assert all(map(alive, families))
        everything = {*descendants(program.pid), *families}
        os.kill(program.pid, signal.Signals[number])
        assert program.ends(5.0) == -signal.Signals[number]
        assert eventually(lambda: not any(map(alive, everything)), 2.0), [pid for pid in everything if alive(pid)]
