"""The benchmark of granularity: its patterns are those of Task Bench, and every row is measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pmflow

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the benchmarks can be imported by their names alone, as they import one another."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Every row, from one run on tiny sizes."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "granularity.py"), "--quick", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout))


def places(shape: dict[str, tuple[str, ...]]) -> list[list[list[int]]]:
    """Return a graph as rows of the places that each task needs, having checked that these are in the row before."""
    found: list[list[list[int]]] = []
    for name, needs in shape.items():
        row, place = (int(part) for part in name.removeprefix("step").split("at"))
        if place == 0:
            found.append([])
        assert (row, place) == (len(found) - 1, len(found[-1]))
        pairs = [tuple(int(part) for part in need.removeprefix("step").split("at")) for need in needs]
        assert {before for before, _ in pairs} <= {row - 1}
        found[-1].append([place for _, place in pairs])
    return found


@pytest.mark.usefixtures("found")
def test_stencil() -> None:
    """Left, middle and right of the row before; nobody beyond an edge."""
    from patterns import stencil

    assert places(stencil(3, 3)) == [
        [[], [], []],
        [[0, 1], [0, 1, 2], [1, 2]],
        [[0, 1], [0, 1, 2], [1, 2]],
    ]
    assert places(stencil(2, 2)) == [[[], []], [[0, 1], [0, 1]]]


@pytest.mark.usefixtures("found")
def test_fft() -> None:
    """Strides of 1, 2, and 1 again, as two rounds reach all four places."""
    from patterns import fft

    assert places(fft(4, 4)) == [
        [[], [], [], []],
        [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]],
        [[0, 2], [1, 3], [0, 2], [1, 3]],
        [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]],
    ]


@pytest.mark.usefixtures("found")
def test_fft_of_a_width_that_is_no_power_of_two() -> None:
    """Six places take three rounds, the last with strides of 4."""
    from patterns import fft

    assert places(fft(6, 4))[3] == [[0, 4], [1, 5], [2], [3], [0, 4], [1, 5]]


@pytest.mark.usefixtures("found")
def test_fft_of_one() -> None:
    """One place is a chain."""
    from patterns import fft

    assert places(fft(1, 3)) == [[[]], [[0]], [[0]]]


@pytest.mark.usefixtures("found")
def test_tree() -> None:
    """Rows grow to the width; then the left half of each has two dependants, and the right half none."""
    from patterns import tree

    assert places(tree(4, 4)) == [
        [[]],
        [[0], [0]],
        [[0], [0], [1], [1]],
        [[0], [0], [1], [1]],
    ]
    assert places(tree(3, 3)) == [[[]], [[0], [0]], [[0], [0], [1]]]


@pytest.mark.usefixtures("found")
def test_no_comm() -> None:
    """Each place is a chain of its own."""
    from patterns import no_comm

    assert places(no_comm(2, 3)) == [[[], []], [[0], [1]], [[0], [1]]]


@pytest.mark.usefixtures("found")
def test_depths() -> None:
    """What comes out of a task is the number of its row."""
    from patterns import depths, tree

    assert depths(tree(2, 3)) == {"step0at0": 0, "step1at0": 1, "step1at1": 1, "step2at0": 2, "step2at1": 2}


@pytest.mark.usefixtures("found")
def test_a_search_finds_the_duration_at_which_half_is_overhead() -> None:
    """A side that spends 300 us on each task besides its kernel reaches one half with tasks of 600 us."""
    from granularity import Effort, Kernel, Search
    from worker_floors import Work

    class Slow:
        work = Work({"a": (), "b": ()}, {}, {})

        def run(self, inputs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
            return 2 * (300e-6 + 10e-6 + inputs["amount"] * 1e-8), {}

    search = Search(Slow(), 1, Effort(1, 1, 1, 1.01), lambda: Kernel("amount", 1e-8, 10e-6))
    assert search() == pytest.approx(600e-6, rel=0.02)


GOALS = {
    "METG(50 %), stencil_1d, one task a core": "<= 0.15 x",
    "METG(50 %), stencil_1d, one task a thread": "<= 0.5 x",
}


@pytest.mark.slow
def test_every_pattern_is_measured(rows: list[dict[str, Any]]) -> None:
    """In workers and in threads, with one task a slot and with eight; one of each has a goal."""
    names = [
        f"METG(50 %), {pattern}, {tasks} a {slot}"
        for slot in ("core", "thread")
        for pattern in ("stencil_1d", "fft", "tree", "no_comm")
        for tasks in ("one task", "eight tasks")
    ]
    assert {row["name"]: row["goal"] for row in rows} == {name: GOALS.get(name) for name in names}
    for row in rows:
        assert len(row["floor"]) == len(row["pmflow"]) > 0
        assert min(row["floor"] + row["pmflow"]) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("found")
def test_the_picture(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A place for each row, and two marks."""
    pytest.importorskip("matplotlib")
    from granularity import draw

    figure = draw(rows)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [row["name"].partition(", ")[2] for row in rows]
    assert [len(line.get_xdata()) for line in axes.lines] == [len(rows), len(rows)]
    figure.savefig(tmp_path / "granularity.svg")
    assert "</svg>" in (tmp_path / "granularity.svg").read_text(encoding="utf-8")
