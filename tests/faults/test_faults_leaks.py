"""L1 to L3, X3 and X4: what a thousand runs leave behind, what a large one holds, and what others can reach."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from harness import case
from inside import CORES, Held, descendants, eventually
from programs import size

import pmflow
from pmflow import ProcessState, process

MEGABYTE = 1 << 20
A_HANDFUL = 200 * MEGABYTE
PATIENCE = 20.0
WORKERS = min(2, CORES)


# What many runs leave behind


class Leaks:
    """What has come to be held since it was made, by this program and by those below it that live on."""

    def __init__(self) -> None:
        self.held = Held.now()
        self.memory = resident()

    def none(self) -> bool:
        return Held.now().within(self.held) and self.growth() <= 5 * MEGABYTE

    def growth(self) -> int:
        now = resident()
        return sum(now[pid] - self.memory[pid] for pid in now.keys() & self.memory.keys())

    def __repr__(self) -> str:
        return f"{self.held} -> {Held.now()}, {self.growth() / MEGABYTE:.1f} MB more"


def resident() -> dict[int, int]:
    """Process to its memory; what the allocator of this one keeps in reserve has been given back before."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)  # glibc has it
    trim(0)
    return {pid: size(pid, "VmRSS") for pid in (os.getpid(), *descendants())}


def meets(n: int, folder: str) -> int:
    """Wait until as many workers have come as there are."""
    (Path(folder) / f"meets-{n}").touch()
    assert eventually(lambda: len(list(Path(folder).glob("meets-*"))) >= WORKERS, PATIENCE)
    return n


def warm() -> None:
    """Start all workers and threads that a run of two each may have."""
    together = threading.Barrier(2)
    worker = process(meets, type="process", map_over={"n": "numbers"})
    thread = process(lambda n: together.wait(PATIENCE), id="thread", map_over={"n": "numbers"})
    inputs = {"numbers": range(2), "folder": os.getcwd()}
    pmflow.run([worker, thread], inputs=inputs, max_processes=2, max_threads=2)


@process
async def waits(n: int) -> int:
    await anyio.lowlevel.checkpoint()
    return n


@process(type="async")
def inline(waits: int) -> int:
    return waits + 1


@process
def blocks(inline: int) -> bytes:
    return bytes([inline % 256]) * 60_000


@process(type="process")
def makes(blocks: bytes) -> bytes:
    return blocks * 20


@process(type="process")
def weighs(makes: bytes) -> int:
    return len(makes)


@process
def ends(makes: bytes, weighs: int, waits: int) -> tuple[int, int, int]:
    return makes[-1], weighs, waits


@case(slow=True, limit=90)
def test_l1_a_thousand_runs_leave_nothing_behind() -> None:
    """Descriptors, threads and processes are as many after 1000 runs of every strategy, and memory is as it was."""

    def go(turns: int) -> None:
        for turn in range(turns):
            run = pmflow.run(ends, inputs={"n": turn}, max_processes=2, max_threads=2)
            assert run.value == ((turn + 1) % 256, 1_200_000, turn)

    warm()
    go(50)
    leaks = Leaks()
    go(1000)
    assert eventually(leaks.none, 3), leaks


# Runs that end badly


@process(type="process")
def computes() -> None:
    time.sleep(1000)


@process
async def sleeps() -> None:
    await anyio.sleep_forever()


@process
def raises() -> None:
    raise OSError("raises")


def failing_runs(turns: int) -> None:
    steps = [raises, *(raises.options(id=f"raises in {kind}", type=kind) for kind in ("async", "process"))]
    for _ in range(turns):
        run = pmflow.run([*steps, ends.options(after=raises)], inputs={"n": 1}, on_error="return", max_processes=2)
        assert len(run.failures) == 3
        assert run["ends"].state is ProcessState.SKIPPED


def cancelled_runs(turns: int) -> None:
    @process
    async def stops() -> None:
        await anyio.sleep(0.01)
        raise OSError

    for _ in range(turns):
        run = pmflow.run([computes, sleeps, stops], on_error="return", fail_fast=True, max_processes=2)
        assert {name: result.state.value for name, result in run.items()} == {
            "computes": "cancelled",
            "sleeps": "cancelled",
            "stops": "failed",
        }


def timed_out_runs(turns: int) -> None:
    steps = [computes.options(timeout=0.01), sleeps.options(timeout=0.01)]
    for turn in range(turns):
        if turn % 2:
            run = pmflow.run(steps, on_error="return", max_processes=2)
            assert {result.error_type for result in run.values()} == {"ProcessTimeoutError"}
        else:
            run = pmflow.run([computes, sleeps], timeout=0.01, on_error="return", max_processes=2)
            assert {result.state for result in run.values()} == {ProcessState.CANCELLED}


ENDINGS = {"failing": failing_runs, "cancelled": cancelled_runs, "timed out": timed_out_runs}


@case(slow=True, limit=90, ending=tuple(ENDINGS))
def test_l2_runs_that_end_badly_leave_nothing_behind(ending: str) -> None:
    """200 runs that fail, are stopped, or run out of time leave as little behind as those that succeed."""
    warm()
    ENDINGS[ending](20)
    warm()
    leaks = Leaks()
    ENDINGS[ending](200)
    assert eventually(leaks.none, 3), leaks


# Values that nobody needs any more


class Peak(threading.Thread):
    """How much more memory the program, what is below it, and what is on its way between them take than at first.

    Interrupts the program once that is too much: there may be 10 GB to come.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = taken()
        self.most = 0
        self._over = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        assert self.most <= A_HANDFUL, f"{self.most / MEGABYTE:.0f} MB"

    def run(self) -> None:
        while not self._over.wait(0.02) and self.most <= A_HANDFUL:
            self.most = max(self.most, taken() - self.first)
        if self.most > A_HANDFUL:
            os.kill(os.getpid(), signal.SIGINT)


def taken() -> int:
    pids = (os.getpid(), *descendants())
    memory = sum(size(pid, "RssAnon") for pid in pids)  # shared memory is in none of it, and counted once
    files = {found.st_ino: found.st_blocks * 512 for pid in pids for found in memory_files(pid)}
    return memory + sum(files.values())


def memory_files(pid: int) -> Iterator[os.stat_result]:
    """Of the files that have no name and are in memory."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # it has ended
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith("/memfd:"):
                    yield os.stat(f"{folder}/{name}")


def made(n: int) -> bytes:
    return bytes([n % 255 + 1]) * MEGABYTE


def weight(made: bytes) -> int:
    return len(made) + made[-1]


MANY = 10_000


@case(slow=True, limit=120, strategy=("async", "thread", "process"))
def test_l3_results_that_nobody_takes_are_freed_at_once(strategy: Any) -> None:
    """Of 10,000 results of 1 MB that nobody takes, none is kept: a handful is alive at a time."""
    makes = process(made, type=strategy, map_over={"n": "numbers"})
    ended = process(lambda: "ended", id="ended", type="async", after="made")
    pmflow.run([ended, makes], targets="ended", keep="targets", inputs={"numbers": range(100)})
    with Peak():
        run = pmflow.run([ended, makes], targets="ended", keep="targets", inputs={"numbers": range(MANY)})
    assert run.value == "ended"
    assert run[f"made_{MANY - 1}"].success


@case(slow=True, limit=120, strategies=("thread thread", "process process", "process thread", "thread process"))
def test_l3_a_map_over_a_map_holds_a_handful_of_values(strategies: str) -> None:
    """In a two-stage map of 10,000 each value of 1 MB goes as soon as its one consumer has it."""
    first, second = strategies.split()
    many = MANY if first == second else MANY // 5
    makes = process(made, type=first, map_over={"n": "numbers"})  # type: ignore[call-overload]
    weighs = process(weight, type=second, map_over="made")  # type: ignore[call-overload]
    graph = [makes, weighs, process(sum, id="total", type="async", dependencies={"iterable": "weight"})]
    pmflow.run(graph, targets="total", keep="targets", inputs={"numbers": range(100)})
    with Peak():
        run = pmflow.run(graph, targets="total", keep="targets", inputs={"numbers": range(many)})
    assert run.value == sum(MEGABYTE + n % 255 + 1 for n in range(many))


# What others can reach


def sockets_of(pids: list[int]) -> dict[str, int]:
    """The number of every socket that one of the processes has open."""
    found = {}
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:"):
                    found[target.removeprefix("socket:[").removesuffix("]")] = pid
    return found


def unix_sockets() -> dict[str, tuple[bool, str]]:
    """Number to whether it listens, and its name."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]]
    return {row[6]: (bool(int(row[3], 16) & 0x10000), " ".join(row[7:])) for row in rows}


def reachable() -> list[str]:
    """Sockets of this program and of those below it that others could find: all but pairs without a name."""
    pairs = unix_sockets()
    found = sockets_of([os.getpid(), *(pid for pid, state in descendants().items() if state != "Z")])
    assert found, "no socket at all"
    return [f"{each} of {pid}: {pairs.get(each)}" for each, pid in found.items() if pairs.get(each) != (False, "")]


def remains(name: str) -> None:
    Path(name).touch()
    assert eventually(Path("release").exists, PATIENCE)


@case()
def test_x3_nothing_listens() -> None:
    """While work of every strategy runs, no process of the program has a socket that anybody could connect to."""

    @process
    async def waits() -> list[str]:
        await anyio.to_thread.run_sync(remains, "waits")
        return reachable()

    @process(type="async")
    def looks_inline() -> list[str]:
        return reachable()

    @process
    def looks() -> list[str]:
        assert eventually(lambda: Path("waits").exists() and Path("computing_0").exists(), PATIENCE)
        found = reachable()
        Path("release").touch()
        return found

    computing = process(remains, id="computing", type="process", map_over={"name": "names"})
    steps = [waits, looks_inline, looks, computing]
    run = pmflow.run(steps, inputs={"names": ["computing_0", "computing_1"]}, timeout=PATIENCE)
    assert [run[name].data for name in ("waits", "looks_inline", "looks")] == [[], [], []]
    with socket.create_server(("127.0.0.1", 0)):
        assert len(reachable()) == 1
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0pmflow-fault-case")
        assert len(reachable()) == 1
    assert reachable() == []


LISTING = """
import os
names = {int(name): name for name in os.listdir("/proc/self/fd")}
found = {}
for number in names:
    try:
        found[number] = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        pass  # the listing's own
print(sorted(found))
"""


def seen_by_a_child(data: bytes = b"") -> tuple[int, str]:
    """The descriptors that a child program finds open."""
    child = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LISTING], close_fds=False, stdout=subprocess.PIPE, text=True, check=True
    )
    return len(data), child.stdout


def dies(n: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@case()
def test_x4_a_child_program_sees_no_channel() -> None:
    """What the user's code starts, in the program or in a worker, inherits nothing of ours, whatever else goes on."""
    large = process(made, type="process", map_over={"n": "numbers"})
    inside = process(seen_by_a_child, id="inside", type="process", map_over={"data": "argument"})
    here = process(seen_by_a_child, id="here", map_over={"data": "argument"})
    dying = process(dies, type="process", map_over={"n": "numbers"}, required=False)
    run = pmflow.run(
        [large, dying, here, inside],
        inputs={"numbers": range(8), "argument": [made(n) for n in range(8)]},
        timeout=PATIENCE,
    )
    nothing = (MEGABYTE, "[0, 1, 2]\n")
    assert run["inside"].data == [nothing] * 8
    assert run["here"].data == [nothing] * 8
    assert seen_by_a_child() == (0, "[0, 1, 2]\n")
    assert run[large].data == [made(n) for n in range(8)]
    assert seen_by_a_child() == (0, "[0, 1, 2]\n")
