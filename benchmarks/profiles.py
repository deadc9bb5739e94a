"""Where the microseconds of a run go: its thread is looked at a thousand times a second, and what it is at is counted.

    python -m benchmarks profile overhead --strategy thread
    python -m benchmarks profile overhead --strategy process --shape layered --size 10000

What is looked at is the thread that calls `run`: without coroutines the scheduler runs in it, with worker processes
alone it also speaks to the workers. Short calls are not slowed by being looked at, as they are by `cProfile`. Time
that this thread waits (for other threads, for workers) is that of the function which waits.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import FrameType

import floors
from attrs import Factory, field, frozen
from overhead import declared
from results import grid
from rows import MICRO, number
from worker_floors import PLAIN

import pmflow

STRATEGIES = {
    "async": (floors.COROUTINES, "async"),
    "inline": (PLAIN, "async"),
    "thread": (PLAIN, "thread"),
    "process": (PLAIN, "process"),
}

EVERY = 0.001
"""Seconds from one look to the next."""

PACKAGE = str(Path(pmflow.__file__).parent) + os.sep
SHOWN = 20


@frozen
class Looks:
    """What a thread was at: how often a function was the innermost of pmflow's, and how often it was on the stack."""

    own: Counter[str] = field(init=False, default=Factory(Counter))
    within: Counter[str] = field(init=False, default=Factory(Counter))
    _busy: Lock = field(init=False, default=Factory(Lock))

    def look(self, _signal: int, frame: FrameType | None) -> None:
        """Count one look; what a signal calls, and what is left out where the one before takes long."""
        if not self._busy.acquire(blocking=False):
            return
        names = list(_names(frame))
        self.own[names[0] if names else ELSEWHERE] += 1
        self.within.update(set(names))
        self._busy.release()

    @contextmanager
    def looking(self) -> Generator[None]:
        """Look at the main thread while this lasts."""
        before = signal.signal(signal.SIGALRM, self.look)
        signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


ELSEWHERE = "(not in pmflow)"


def _names(frame: FrameType | None) -> Iterator[str]:
    """Return the functions of pmflow on a stack, the innermost first, as ``engine/plan.py Plan.of``."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            yield f"{code.co_filename[len(PACKAGE) :]} {getattr(code, 'co_qualname', code.co_name)}"
        frame = frame.f_back


def overhead(strategy: str, shape: str, size: int, seconds: float) -> str:
    """Run processes that do nothing again and again, and say what the time went to, per process.

    Args:
        strategy: one of `STRATEGIES`.
        shape: one of `floors.SHAPES`.
        size: how many processes the graph has.
        seconds: for how long.
    """
    functions, kind = STRATEGIES[strategy]
    graph = pmflow.Graph(declared(floors.SHAPES[shape](size), functions, kind))
    pmflow.run(graph)
    looks, took, end = Looks(), list[float](), perf_counter() + seconds
    with looks.looking():
        while perf_counter() < end:
            took.append(floors.seconds_of(lambda: pmflow.run(graph)))
    each = sum(took) / len(took) / size * MICRO
    total = looks.own.total()
    head = f"{size:,} processes, {strategy}, {shape}: {number(each)} us each, {len(took)} runs, {total:,} looks"
    files = Counter[str]()
    for name, count in looks.own.items():
        files["" if name is ELSEWHERE else name.partition(" ")[0]] += count
    by_file = [(name or ELSEWHERE, *_share(count, total, each)) for name, count in files.most_common()]
    by_function = [
        (name, *_share(count, total, each), number(looks.within[name] / total * each))
        for name, count in looks.own.most_common(SHOWN)
    ]
    tables = (
        grid(("file", "share", "us"), by_file),
        grid(("function", "share", "us", "us with what it calls"), by_function),
    )
    return "\n\n".join([head, *tables])


def _share(count: int, total: int, each: float) -> tuple[str, str]:
    return f"{count / total:.0%}", number(count / total * each)


PROFILES: dict[str, Callable[[str, str, int, float], str]] = {"overhead": overhead}


def main(words: Sequence[str]) -> int:
    """Print the profile that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile", description="Where the microseconds go.")
    parser.add_argument("section", choices=PROFILES)
    parser.add_argument("--strategy", choices=STRATEGIES, default="thread")
    parser.add_argument("--shape", choices=floors.SHAPES, default="wide")
    parser.add_argument("--size", type=int, default=1_000, help="processes in the graph; default: 1,000")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to look; default: 5")
    arguments = parser.parse_args(words)
    print(PROFILES[arguments.section](arguments.strategy, arguments.shape, arguments.size, arguments.seconds))
    return 0
