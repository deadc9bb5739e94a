"""X6: what stands in a command is nobody's to interpret; a command that is given up is gone, with what it started."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from harness import case
from inside import alive, descendants, descriptors, eventually, gone, noted, raises
from programs import Program
from test_faults_signals import AT_ONCE, interrupted

import pmflow
from pmflow import CommandError, ConfigurationError, ProcessTimeoutError, WorkflowError, command, process
from pmflow.executors.children import TAIL

STRATEGIES = ("async", "thread", "process")
NASTY = [
    "$(touch hacked)",
    "`touch hacked`",
    "; touch hacked",
    "&& touch hacked",
    "| touch hacked",
    "> hacked",
    "a\ntouch hacked\n",
    "'; touch hacked; '",
    '"; touch hacked; "',
    "$HOME ~ * ? [a-z] {a,b} !! \\ \t",
    "{a} {{a}} {0} %s %(a)s",
    "",
    " ",
    "-n",
    "\udcff",
]
PRINTS = [sys.executable, "-c", "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"]


@case(strategy=STRATEGIES)
def test_x6_no_shell_reads_what_stands_in_a_command(strategy: str) -> None:
    """Metacharacters in arguments, alone, in the middle of others, in a list and in the environment, are characters."""
    made = command([*PRINTS, "{a}", "-{a}-", "{all}"], id="made", text=False, type=strategy)
    environment = command(["printenv", "A"], env={"A": "<{a}>"}, text=False, type=strategy)
    reads = command(["cat"], stdin="<{a}>", text=False, type=strategy)
    for nasty in NASTY:
        run = pmflow.run([made, environment, reads], inputs={"a": nasty, "all": NASTY})
        parts = [nasty, f"-{nasty}-", *NASTY]
        assert run["made"].data == b"\0".join(map(os.fsencode, parts))
        assert run["printenv"].data == os.fsencode(f"<{nasty}>\n")
        assert run["cat"].data == os.fsencode(f"<{nasty}>")
    assert not os.path.exists("hacked")
    with raises(ConfigurationError, "no shell"):
        command("echo {a}; touch hacked")  # type: ignore[call-overload]


TALKS = """
import sys, threading
def says(stream):
    for _ in range(128):
        stream.write(b"x" * 65536)
    stream.flush()
threads = [threading.Thread(target=says, args=(each.buffer,)) for each in (sys.stdout, sys.stderr)]
for each in threads: each.start()
for each in threads: each.join()
sys.exit(len(sys.stdin.buffer.read()) != 8 << 20)
"""


@case(strategy=STRATEGIES)
def test_x6_no_pipe_fills_up(strategy: str) -> None:
    """8 MB to stdout and to stderr at once, while 8 MB are to be read from stdin; of stderr only the end is kept."""
    made = command(
        [sys.executable, "-c", "{program}"], id="made", stdin="{text}", text=False, type=strategy, timeout=20
    )
    inputs = {"program": TALKS, "text": b"y" * (8 << 20)}
    assert pmflow.run(made, inputs=inputs).value == b"x" * (8 << 20)
    inputs["text"] = b"y"
    with raises(WorkflowError, "ended with exit code 1") as caught:
        pmflow.run(made, inputs=inputs)
    (error,) = caught.error.exceptions
    assert (type(error), error.stderr) == (CommandError, "x" * TAIL)
    assert len(str(error)) < 2_000


FAMILY = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchildren = "import os, signal, subprocess, sys; child = subprocess.Popen(['sleep', '47']); "
grandchildren += "print(os.getpid(), child.pid, flush=True); signal.pause()"
for way in ({}, {"preexec_fn": os.setpgrp}, {"start_new_session": True}):
    child = subprocess.Popen([sys.executable, "-c", grandchildren], stdout=subprocess.PIPE, text=True, **way)
    with open("pids", "a") as file:
        file.write(child.stdout.readline().replace(" ", "\\n"))
with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
signal.pause()
"""
MEMBERS = 7


def family(strategy: str, **settings: Any) -> Any:
    """A command with children and grandchildren, in its group, in others, and in other sessions."""
    return command(
        [sys.executable, "-c", FAMILY.replace("{", "{{").replace("}", "}}")], id="family", type=strategy, **settings
    )


def all_gone() -> bool:
    pids = [int(pid) for pid in noted("pids")]
    return len(pids) == MEMBERS and not any(map(alive, pids)) and gone(pids[-1])


@case(strategy=STRATEGIES)
def test_x6_a_timeout_ends_children_and_grandchildren(strategy: str) -> None:
    """Also those that ignore signals, or are in another group or session; what comes next runs."""
    pmflow.run(command(["true"], type=strategy))  # warm
    before = descriptors()
    run = pmflow.run(family(strategy, timeout=2.0), on_error="return")
    assert type(run["family"].exception) is ProcessTimeoutError
    assert eventually(all_gone, AT_ONCE), noted("pids")
    assert pmflow.run(command(["echo", "-n", "on"], type=strategy)).value == "on"
    assert strategy != "async" or descriptors() == before


@case(strategy=STRATEGIES)
def test_x6_a_failure_of_the_run_ends_commands(strategy: str) -> None:
    """Fail-fast kills what runs, with all that it has started."""

    def fails() -> None:
        assert eventually(lambda: len(noted("pids")) == MEMBERS, 20.0)
        raise ValueError("enough")

    with raises(WorkflowError, "enough"):
        pmflow.run([family(strategy), process(fails)])
    assert eventually(all_gone, AT_ONCE), noted("pids")


PROGRAM = """
import pmflow

runs = pmflow.command(
    ["sh", "-c", "(trap '' INT TERM; echo grandchild > /dev/stderr; sleep 47) & echo child > /dev/stderr; sleep 47"],
    id="runs", type=STRATEGY, map_over={"n": "numbers"}, stdin="{n}", limit=None,
)
print("begins", flush=True)
pmflow.run(runs, inputs={"numbers": range(NUMBER)})
print("went on", flush=True)
"""


def program(strategy: str, number: int) -> Program:
    return Program(PROGRAM.replace("STRATEGY", repr(strategy)).replace("NUMBER", str(number)))


def sleeps(under: int) -> list[int]:
    """The children of commands, below a program: each command has two."""
    return [pid for pid in descendants(under) if command_line(pid) == b"sleep\x0047\x00"]


def command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


@case(strategy=STRATEGIES, how=("group", "parent"))
def test_x6_an_interrupt_while_commands_run(strategy: str, how: str) -> None:
    """Ctrl-C ends the program at once, with KeyboardInterrupt, and leaves no command and nothing that one started."""
    with program(strategy, 2) as running:
        assert eventually(lambda: len(sleeps(running.pid)) == 4, 20.0)
        interrupted(running, how)


@case(limit=60.0)
def test_x6_an_interrupt_while_commands_start() -> None:
    """Wherever Ctrl-C strikes while one command after another is being started, no child is lost."""
    for some in (1, 2, 5, 10, 20, 40):
        with program("async", 60) as running:
            assert eventually(lambda: len(sleeps(running.pid)) >= some, 20.0)  # noqa: B023 - called here
            interrupted(running, "parent")


@case(number=("SIGTERM", "SIGKILL"))
def test_x6_a_killed_program_leaves_no_command_of_a_worker(number: str) -> None:
    """However the program ends, commands of type process end with it, as all that workers have started."""
    with program("process", 2) as running:
        assert eventually(lambda: len(sleeps(running.pid)) == 4, 20.0)
        everything = descendants(running.pid)
        os.kill(running.pid, signal.Signals[number])
        assert running.ends(5.0) == -signal.Signals[number]
        assert eventually(lambda: not any(map(alive, everything)), AT_ONCE)
