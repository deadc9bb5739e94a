"""The benchmarks run, and measure what they are for; how fast pmflow is, a test cannot know on a shared machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import pmflow
from pmflow.executors.platform import cores

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark as a reader would."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """Every row that the benchmarks print, by name, from one run of each on tiny sizes."""
    found = {}
    for name in ("overhead.py", "scale.py", "makespan.py", "startup.py", "workers.py"):
        ended = benchmark(name, "--quick", "--json")
        assert ended.returncode == 0, ended.stderr
        found.update({row["name"]: row for row in json.loads(ended.stdout)})
    return found


SHAPES = ("wide", "chain", "layered")

GOALS = {
    **{f"coroutine against anyio tasks, {shape}, {size}": "<= 1 x" for shape in SHAPES for size in (100, 200)},
    **{
        f"worker, {functions}, {shape}, 100": f"<= {ratio} x"
        for functions in ("module's functions", "closures")
        for shape, ratio in {"wide": "0.07", "layered": "0.13", "chain": "0.04"}.items()
    },
    **{
        f"{kind}, {shape}, 1,000": f"<= {ratio} x"
        for kind, ratios in {
            "thread": {"wide": "0.3", "layered": "0.45"},
            "worker": {"wide": "0.07", "layered": "0.13"},
        }.items()
        for shape, ratio in ratios.items()
    },
    **{f"coroutine, {shape}, {size}": "<= 1.5 x" for shape in ("wide", "layered") for size in (100, 200)},
    **{f"plain function on the loop, {shape}, {size}": "<= 5 us" for shape in SHAPES for size in (100, 200)},
    **{
        f"thread, {shape}, {size}": f"<= {ratio} x"
        for shape, ratio in {"wide": "0.3", "layered": "0.45", "chain": "0.15"}.items()
        for size in (100, 200)
    },
    **{
        f"{kind} on the loop, {shape}, {size}{what}": goal
        for kind in ("coroutines", "plain functions")
        for shape in SHAPES
        for size in ("1,000", "2,000")
        for what, goal in {"": "<= 15 us", ", memory": "<= 1000 bytes"}.items()
    },
    **{
        f"{kind} on the loop, {shape}, most : fewest": "<= 1.25 x"
        for kind in ("coroutines", "plain functions")
        for shape in SHAPES
    },
    "Graph(processes), layered, 100": "<= 10 us",
    "where a barrier hurts, 4 threads": "<= 1.01 x",
    "where first come, first served hurts": "<= 1.03 x",
    "long tail, in no order, 4 threads": "<= 1.05 x",
    "one giant, many small, its tail declared last, 3 threads": "<= 1.05 x",
    "fork and join, skewed, 2 threads": "<= 1.05 x",
    "one chain more than slots, 2 threads": "<= 1.05 x",
    f"one giant, many small, its tail declared last, {cores()} workers": "<= 1.05 x",
    "random layers, seed 0, 2 threads": "<= 1.05 x",
    "random layers, seed 1, 3 threads": "<= 1.05 x",
    "random layers, all seeds": "<= 1.05 x",
    "import pmflow": "<= 1 x",
    "first result, worker": "<= 1.1 x",
    "hello world, three threads": "<= 1.1 x",
    "worker, wide, 100": "<= 0.07 x",
    "worker, layered, 100": "<= 0.13 x",
    "worker, chain, 100": "<= 0.04 x",
    "worker, two chains that cross at every link, 2 x 25": "<= 0.4 x",
    "METG(50 %), stencil_1d, one task a core": "<= 0.15 x",
    "array through four stages, 8 MB": "<= 0.03333 x",
    "array through four stages, 16 MB": "<= 0.03333 x",
    "array through four stages, 8 MB, peak memory": "<= 0.4 x",
    "array to eight consumers, 8 MB": "<= 0.02 x",
    "hello world, three workers": "<= 1.1 x",
    "worker killed to replacement ready": "<= 20 ms",
    "10 waits of 20 ms, 10 parses of 5 ms, one total": "<= 1.03 x",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOALS)
def test_every_operation_is_measured_against_its_goal(rows: dict[str, dict[str, Any]], name: str) -> None:
    """Each row has samples of its floor and of pmflow, and the ratio between them; nothing is said of how large."""
    row = rows[name]
    assert row["goal"] == GOALS[name]
    assert row["met"] in {True, False}
    assert len(row["floor"]) == len(row["pmflow"]) > 0
    assert min(row["floor"] + row["pmflow"]) > 0
    assert row["ratio"] == median(ours / floor for floor, ours in zip(row["floor"], row["pmflow"], strict=True))
    assert row["least_ratio"] == min(row["pmflow"]) / min(row["floor"])


UNJUDGED = [
    "worker, closures pickled at every call, wide, 100",
    *(f"run of 10 {what}, {count} at once" for what in ("coroutines", "threads") for count in (1, 10)),
    "one giant, many small, it declared last, 3 threads",
    *(
        f"{what}, {strategy}"
        for what in ("first run in a program", "second run in a program")
        for strategy in ("coroutine", "plain function on the loop", "thread", "worker")
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", UNJUDGED)
def test_some_operations_are_measured_without_a_goal(rows: dict[str, dict[str, Any]], name: str) -> None:
    """What nobody has set a goal for has samples all the same, and is neither good nor missed."""
    row = rows[name]
    assert (row["goal"], row["met"]) == (None, None)
    assert len(row["floor"]) == len(row["pmflow"]) > 0
    assert min(row["floor"] + row["pmflow"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_what_very_many_cost_is_told_apart(rows: dict[str, dict[str, Any]], shape: str) -> None:
    """The phases of a large graph are in the note, and add up to its time."""
    row = rows[f"coroutines on the loop, {shape}, 2,000"]
    phases = {phase: float(each) for phase, each in (part.split() for part in row["note"].split(", "))}
    assert list(phases) == ["declare", "build", "plan", "run"]
    assert sum(phases.values()) == pytest.approx(min(row["pmflow"]), rel=0.02)


def test_the_table_has_a_line_for_each_row() -> None:
    """One section at a time, as a table for people."""
    ended = benchmark("makespan.py", "--quick", "arrival")
    assert ended.returncode == 0, ended.stderr
    head, line = ended.stdout.splitlines()
    assert head.split() == ["operation", "unit", "floor", "pmflow", "ratio", "goal", "of", "which"]
    assert line.startswith("where first come, first served hurts")


def test_a_section_that_is_not_there() -> None:
    """A misspelt section is refused, with the names of those there are."""
    ended = benchmark("overhead.py", "thread")
    assert ended.returncode == 2
    assert "no section 'thread'; there are coroutines, inline, threads" in ended.stderr
