"""W14 to W17: what workers send, what they send it beside, and what their calls leave changed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from harness import case, run_program
from inside import alive, eventually, raises, ten
from programs import size

import pmflow
from pmflow import WorkerCrashedError, WorkflowError, process

MEGABYTE = 1_000_000
BLOCK = bytes(range(256)) * (MEGABYTE // 256) + b"odd"  # no page is like the next

# Sizes


def large(blocks: int) -> bytes:
    return BLOCK * blocks


def large_among_others(blocks: int) -> dict[str, Any]:
    return {"name": "large", "parts": [large(blocks), None]}


def is_large(data: bytes, blocks: int) -> bool:
    """Whether it is the right one; without another of its size."""
    size = len(BLOCK)
    return len(data) == blocks * size and all(data[n * size : (n + 1) * size] == BLOCK for n in range(blocks))


def affordable(megabytes: int) -> int:
    """The worker's, what is on the way and the program's are there at once; 1 GB where there is no room for it."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    available = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable:"))
    return megabytes if available * 1024 >= 4 * megabytes * MEGABYTE else min(megabytes, 1_000)


@case()
def test_w14_an_empty_result() -> None:
    """Nothing is a result too, whatever its type."""
    nothing: list[Any] = [b"", "", None, [], {}, 0, bytearray()]
    same = process(lambda n: n, id="same", type="process", map_over={"n": "values"})
    values = pmflow.run(same, inputs={"values": nothing}).value
    assert values == nothing
    assert list(map(type, values)) == list(map(type, nothing))


@case(slow=True, limit=120, what=("bytes", "bytes among others", "more bytes than 2 GiB"))
def test_w14_a_large_result_costs_the_program_its_size(what: str) -> None:
    """A large result arrives whole, and the program never holds more than 1.2 times its size of it."""
    blocks = affordable(2_500 if "GiB" in what else 300)
    function: Any = large_among_others if "among" in what else large
    assert pmflow.run(process(abs, id="warm", type="process"), inputs={"x": -1}).value == 1
    before = size("self", "VmHWM")
    value = pmflow.run(process(function, type="process"), inputs={"blocks": blocks}).value
    assert size("self", "VmHWM") - before <= 1.2 * blocks * len(BLOCK)
    assert is_large(value["parts"][0] if isinstance(value, dict) else value, blocks)


@case(limit=60)
def test_w14_a_large_result_that_only_a_worker_needs_is_never_in_the_program() -> None:
    """What one worker hands to another passes through the program unopened."""
    blocks = 300
    here = process(large, type="process")
    right = [
        process(is_large, id=f"right_{n}x", type="process", dependencies={"data": "large"}) for n in range(2)
    ]  # two: one alone may run where its value is
    assert pmflow.run(process(abs, id="warm", type="process"), inputs={"x": -1}).value == 1
    before = size("self", "VmHWM")
    run = pmflow.run([here, *right], targets=right, inputs={"blocks": blocks})
    assert run.data == {"right_0x": True, "right_1x": True}
    assert size("self", "VmHWM") - before <= 0.2 * blocks * len(BLOCK)


def successor(n: int) -> int:
    return n + 1


@case(slow=True, limit=150)
def test_w14_a_million_small_results() -> None:
    """A million calls have a million right results, in order."""
    many = process(successor, type="process", map_over={"n": "numbers"})
    run = pmflow.run(many, inputs={"numbers": range(1_000_000)})
    assert run.success
    assert sum(run.value) == sum(range(1, 1_000_001))
    assert run.value[::99_991] == list(range(1, 1_000_001))[::99_991]


# Deaths on the way


class Deadly:
    """Kills whoever pickles it."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def large_and_deadly(n: int) -> Any:
    return [BLOCK * 200, Deadly()] if n == 3 else n * n


@case(limit=60)
def test_w15_a_worker_that_dies_while_it_pickles_200_mb() -> None:
    """A result of which the half exists is none: its call has failed, and no other."""
    result = ten(large_and_deadly, type="process", fails_with=WorkerCrashedError, lost_workers=1, extra=1.0)
    assert result.exception.signal == "SIGKILL"
    assert result.exception.process_id == "call_3"


def killed_after(delay: float) -> Any:
    data = BLOCK * 200
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return data


@case(limit=60)
def test_w15_a_worker_that_is_killed_while_it_sends_200_mb() -> None:
    """Whenever a worker dies, its result is there as a whole or its call has crashed; nothing waits for the rest."""
    sends = process(killed_after, id="sends", type="process")
    crashed = []
    for delay in (0.0, 0.02, 0.04, 0.08, 0.16):
        run = pmflow.run(sends, inputs={"delay": delay}, on_error="return")
        result = run["sends"]
        if result.success:
            assert is_large(result.data, 200)
        else:
            assert type(result.exception) is WorkerCrashedError
            assert result.exception.signal == "SIGKILL"
            crashed.append(delay)
        assert result.worker
        assert eventually(lambda pid=int(result.worker): not alive(pid))  # type: ignore[misc]
        assert pmflow.run(process(successor, type="process"), inputs={"n": 1}).value == 2
    assert 0.0 in crashed


# Output

NOISE = """
import os, pickle, struct, subprocess, sys
import pmflow
from pmflow import process

LINES, LINE = 8192, 1023

def imitations():
    frames = []
    for message in ((1, b"wrong", 0.0, 0.0, ""), [(b"token", None, b"", None)], {"value": "wrong"}, ("READY",), "no"):
        body = pickle.dumps(message, 5)
        frames += [body, b"pmfl" + struct.pack("<Q", len(body)) + body]
        frames += [struct.pack(form, len(body)) + body for form in ("<I", ">I", "<Q", ">Q")]
    return b"".join(frames) * 10

CHILD = "import sys; [stream.write((letter * 1023 + '\\\\n') * 8192) for stream, letter in "
CHILD += "((sys.stdout, 'c'), (sys.stderr, 'd'))]"

@process(type="process", timeout=60)
def loud():
    sys.stdout.write(("a" * LINE + "\\n") * LINES)
    sys.stderr.write(("b" * LINE + "\\n") * LINES)
    subprocess.run([sys.executable, "-c", CHILD], check=True)
    for descriptor in (1, 2):
        os.write(descriptor, imitations() + b"\\n")
    return imitations()

@process(type="process", timeout=60)
def reads():
    return sys.stdin.read()

@process(type="process", map_over={"n": "numbers"})
def square(n):
    return n * n

run = pmflow.run([loud, reads, square], inputs={"numbers": range(100)})
assert run["loud"].data == imitations()
assert run["reads"].data == ""
assert run["square"].data == [n * n for n in range(100)]
assert pmflow.run(square, inputs={"numbers": [7]}).value == [49]
print("right")
"""


def test_w16_output_and_what_looks_like_our_messages() -> None:
    """Output of any size, a child program's too, goes where the program's own goes, and is never taken for a result."""
    finished = run_program([sys.executable, "noise.py"], files={"noise.py": NOISE}, limit=60, stderr=".*")
    assert finished.stdout.endswith("right\n")
    written = (finished.stdout, "a"), (finished.stderr, "b"), (finished.stdout, "c"), (finished.stderr, "d")
    for text, letter in written:
        assert text.count(letter * 1023 + "\n") == 8192, letter
    assert "Traceback" not in finished.stderr


# Surroundings

TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def surroundings(turn: int) -> dict[str, Any]:
    """All that the next call gets back."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "worker": os.getpid(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "environment of children": sorted(subprocess.check_output(["/usr/bin/env", "-0"]).split(b"\0")),
        "umask": umask,
        "handlers": [str(signal.getsignal(number)) for number in SIGNALS],
        "timers": [signal.getitimer(timer) for timer in TIMERS],
    }


def spoils(how: str) -> int:
    """Changes all that can be changed."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # and is gone
    os.environ["NEW"] = "new"
    os.environ["PATH"] = os.environ["PATH"] + ":/nowhere"
    del os.environ["TO_BE_REMOVED"]
    os.umask(0o007)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for timer in TIMERS:
        signal.setitimer(timer, 60)
    sys.path.insert(0, "/of/a/call")  # these two are not promised to be restored
    sys.setrecursionlimit(12_345)
    if how == "raises":
        raise LookupError
    return os.getpid()


@case(how=("returns", "raises"))
def test_w17_what_a_call_changes_is_restored_for_the_next(how: str) -> None:
    """The next call in a worker finds folder, environment, umask, handlers and timers as they were."""
    os.environ["TO_BE_REMOVED"] = "not yet"

    def of(function: Any) -> Any:
        return pmflow.run(process(function, id="one", type="process"), inputs={"turn": 0}, max_processes=1).value

    before = of(surroundings)
    spoiling = process(spoils, type="process")
    if how == "raises":
        with raises(WorkflowError, "LookupError"):
            pmflow.run(spoiling, inputs={"how": how}, max_processes=1)
    else:
        assert pmflow.run(spoiling, inputs={"how": how}, max_processes=1).value == before["worker"]
    after = of(surroundings)
    assert {name: after[name] for name in after if after[name] != before[name]} == {}


def sets_an_alarm(turn: int) -> int:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    return os.getpid()


def outlasts_it(turn: int) -> int:
    time.sleep(0.5)
    return os.getpid()


@case()
def test_w17_an_alarm_of_one_call_does_not_strike_the_next() -> None:
    """A timer that a call leaves running is stopped with it."""
    first = process(sets_an_alarm, id="first", type="process")
    second = process(outlasts_it, id="second", type="process", after="first")
    run = pmflow.run([first, second], inputs={"turn": 0}, max_processes=1)
    assert run["first"].data == run["second"].data


def sees(turn: int) -> tuple[str | None, bytes | None]:
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return os.environ.get("OF_A_LINK"), getenv(b"OF_A_LINK")


def leaves(turn: int) -> int:
    os.environ["OF_A_LINK"] = "left"
    return turn


@case()
def test_w17_the_links_of_a_chain_are_calls_of_their_own() -> None:
    """A call that follows another in one worker, on its result, starts from the same surroundings all the same."""
    first = process(leaves, id="first", type="process")
    second = process(sees, id="second", type="process", dependencies={"turn": "first"})
    assert pmflow.run([first, second], targets="second", inputs={"turn": 0}).value == (None, None)
