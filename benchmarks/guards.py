"""What must not get slower: rows of the benchmarks, each with the most that it may take.

    python benchmarks/guards.py     # some minutes; exit code 1 if one does not hold

A limit is about twice what was measured when it was set: what is slower by less is noise on a shared machine. A part of
which a row is over its limit is measured once more, when the machine is quieter; if it is over again it fails, and both
runs are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

from attrs import evolve, frozen
from rows import Line, Row, number, table

PATIENCE = 60.0
"""Seconds that are waited for a quieter moment."""

QUIET = 0.2
"""The part of all cores that others may keep busy in a quiet moment."""


@frozen
class Guard:
    """A part of a benchmark, and the limits of its rows.

    Args:
        module: the benchmark.
        part: of it.
        most: row to the most that is right: times its floor where the row has a goal of that kind or none, else in the
            row's own unit.
        effort: what is changed of the benchmark's full effort.
    """

    module: str
    part: str
    most: Mapping[str, float]
    effort: Mapping[str, Any]

    def measure(self) -> dict[str, Line]:
        """Return the rows of the part by name."""
        module = import_module(self.module)
        return {row.name: row for row in module.SECTIONS[self.part](evolve(module.FULL, **self.effort))}

    def over(self, rows: Mapping[str, Line]) -> list[str]:
        """Return, in words, the rows that are over their limits.

        Raises:
            LookupError: a row is not there: the guard would hold nothing.
        """
        missing = [name for name in self.most if name not in rows]
        if missing:
            raise LookupError(f"{self.module}.{self.part} has no row {missing[0]!r}; there are {', '.join(rows)}")
        found = {name: taken(rows[name]) for name in self.most}
        return [
            f"{name}: {number(found[name])}, at most {number(most)}"
            for name, most in self.most.items()
            if found[name] > most
        ]


def taken(row: Any) -> float:
    """Return what a row is judged by: the ratio to its floor, or our own median where the goal is in its unit."""
    assert isinstance(row, Row)
    own = row.goal is not None and row.goal.unit != "x"
    return median(row.samples[1]) if own else row.ratio


def holds(guard: Guard, wait: Callable[[], object]) -> bool:
    """Measure what a guard is about, a second time if need be; say what came out, and return whether it holds.

    Args:
        guard: what is held to its limits.
        wait: returns when the machine is quieter.
    """
    name = f"{guard.module}.{guard.part}"
    first = guard.measure()
    if not guard.over(first):
        print(f"{name}: holds\n{table(list(first.values()))}\n", flush=True)
        return True
    wait()
    again = guard.measure()
    over = guard.over(again)
    runs = f"{table(list(first.values()))}\n{table(list(again.values()))}\n"
    if not over:
        print(f"{name}: holds, at the second time\n{runs}", flush=True)
        return True
    print(f"{name}: DOES NOT HOLD, twice\n" + "\n".join(over) + f"\n{runs}", flush=True)
    return False


def quieter(busy: Callable[[], float], patience: float = PATIENCE) -> None:
    """Wait until others leave the cores alone, or for as long as the patience lasts.

    Args:
        busy: takes a moment, and returns which part of all cores was busy in it.
        patience: seconds.
    """
    end = monotonic() + patience
    while busy() > QUIET and monotonic() < end:
        continue


def busy_part(seconds: float = 1.0) -> float:
    """Return which part of all cores is busy during some seconds in which this program sleeps; 0 if none can tell."""
    before = _ticks()
    sleep(seconds)
    after = _ticks()
    if not before or before == after:
        return 0.0
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return 1 - (spent[3] + spent[4]) / sum(spent)


def _ticks() -> list[int]:
    """Return what Linux counts for all cores: user, nice, system, idle, waiting and the rest."""
    try:
        return [int(each) for each in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    except OSError:  # not Linux
        return []


GUARDS = (
    # The engine
    Guard(
        "overhead",
        "coroutines",
        {"coroutine, wide, 1,000": 5.5, "coroutine, chain, 1,000": 4.5, "coroutine, layered, 1,000": 7},
        {"sizes": (1_000,), "repetitions": 7},
    ),
    Guard(
        "overhead",
        "inline",
        {f"plain function on the loop, {shape}, 1,000": most for shape, most in {"wide": 12, "layered": 19}.items()},
        {"sizes": (1_000,), "repetitions": 7},
    ),
    Guard(
        "overhead",
        "threads",
        {"thread, wide, 1,000": 2, "thread, chain, 1,000": 0.7, "thread, layered, 1,000": 3},
        {"sizes": (1_000,), "repetitions": 7},
    ),
    Guard("overhead", "build", {"Graph(processes), layered, 1,000": 8}, {"sizes": (1_000,), "repetitions": 7}),
    Guard(
        "scale",
        "scale",
        {
            "plain functions on the loop, wide, 100,000": 25,
            "plain functions on the loop, wide, 100,000, memory": 800,
            "coroutines on the loop, chain, 100,000": 40,
            "coroutines on the loop, chain, 100,000, memory": 1_100,
            "plain functions on the loop, layered, 100,000": 60,
            "plain functions on the loop, layered, 100,000, memory": 1_900,
        },
        {"sizes": (1_000, 100_000), "size_repetitions": (3, 1)},
    ),
    Guard("makespan", "barrier", {"where a barrier hurts, 4 threads": 1.1}, {"repetitions": 3}),
    Guard("makespan", "arrival", {"where first come, first served hurts": 1.1}, {"repetitions": 2}),
    Guard(
        "makespan",
        "unbalanced",
        {
            "one giant, many small, its tail declared last, 3 threads": 1.15,
            "one chain more than slots, 2 threads": 1.15,
            "one giant, many small, its tail declared last, 2 workers": 1.2,
        },
        {"repetitions": 1},
    ),
    Guard("startup", "import", {"import pmflow": 1.4}, {"programs": 15}),
    Guard("startup", "hello", {"hello world, three threads": 2, "hello world, three workers": 5}, {"programs": 15}),
    # Workers
    Guard("overhead", "elements", {"worker, elements of a map, 10,000": 7}, {"sizes": (10_000,), "repetitions": 7}),
    Guard(
        "workers",
        "noop",
        {
            "worker, wide, 1,000": 0.4,
            "worker, layered, 1,000": 0.6,
            "worker, chain, 1,000": 0.35,
            "worker, two chains that cross at every link, 2 x 250": 2.2,
        },
        {"repetitions": 5},
    ),
    Guard(
        "workers",
        "large",
        {"array through four stages, 64 MB": 0.03, "array to eight consumers, 64 MB": 0.06},
        {"megabytes": (64,), "large_repetitions": (3,)},
    ),
    Guard("workers", "killed", {"worker killed to replacement ready": 20}, {"kills": 10}),
    Guard("workers", "mixed", {"200 waits of 20 ms, 200 parses of 5 ms, one total": 1.5}, {"mixtures": 3}),
)


if __name__ == "__main__":
    held = [holds(guard, lambda: quieter(busy_part)) for guard in GUARDS]
    sys.exit(0 if all(held) else 1)
