"""The benchmark of data: what is handed on is what it is said to be, and every row is measured."""

import json
import os
import pickle
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
def rows() -> dict[str, dict[str, Any]]:
    """Every row by name, from one run on tiny sizes."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "data.py"), "--quick", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return {row["name"]: row for row in json.loads(ended.stdout)}


ROWS = {
    "array through four stages, 1 kB": None,
    "array to eight consumers, 1 kB": None,
    "array through four stages, 4 MB": "<= 0.03333 x",
    "array to eight consumers, 4 MB": "<= 0.02 x",
    "array through four stages, 8 MB": None,
    "array to eight consumers, 8 MB": None,
    "array to one consumer, 4 MB": None,
    "array to two consumers, 4 MB": None,
    "array to four consumers, 4 MB": None,
    "array to one consumer, 8 MB": None,
    "array through four stages in threads, 1 kB": None,
    "bytes through four stages, 1 kB": None,
    "bytes through four stages, 1 MB": None,
    "bytes to eight consumers, 1 kB": None,
    "bytes to eight consumers, 1 MB": None,
    "nested dictionary through four stages, 1 kB": None,
    "nested dictionary through four stages, 100 kB": None,
    "nested dictionary to eight consumers, 1 kB": None,
    "nested dictionary to eight consumers, 100 kB": None,
    "array through four stages, 4 MB, peak memory": "<= 0.4 x",
    "array to eight consumers, 4 MB, peak memory": None,
}

FRAMES = {
    "data frame through four stages, 1 kB": None,
    "data frame through four stages, 1 MB": None,
    "data frame to eight consumers, 1 kB": None,
    "data frame to eight consumers, 1 MB": None,
}


@pytest.mark.slow
def test_every_row_is_measured(rows: dict[str, dict[str, Any]]) -> None:
    """Each has samples of its floor and of pmflow, and its goal; without pandas a line stands for its rows."""
    left_out = rows.pop("data frames", None)
    assert {name: row["goal"] for name, row in rows.items()} == (ROWS if left_out else ROWS | FRAMES)
    for row in rows.values():
        assert len(row["floor"]) == len(row["pmflow"]) > 0
        assert min(row["floor"] + row["pmflow"]) > 0


@pytest.mark.slow
def test_a_row_says_what_is_handed_on(rows: dict[str, dict[str, Any]]) -> None:
    """Its kind, its bytes, on which way and how often."""
    row = rows["array to two consumers, 4 MB"]
    facts = {name: row[name] for name in ("kind", "through", "bytes", "handed")}
    assert facts == {"kind": "array", "through": "fan-out", "bytes": 4_000_000, "handed": 2}


@pytest.mark.usefixtures("found")
def test_the_graphs() -> None:
    """Of arrays they are those that `workers` runs."""
    from patterns import ARRAY
    from worker_floors import FANNED, STAGED

    assert ARRAY.through_stages() == STAGED
    assert ARRAY.to_consumers(8) == FANNED
    assert ARRAY.inputs(64) == {"elements": 8}


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("name", ["ARRAY", "FRAME", "BYTES", "DICTIONARY"])
def test_a_value_is_as_large_as_it_is_said_to_be(name: str) -> None:
    """A megabyte is one, pickled, and the number that comes out of four stages is the one expected."""
    if name == "FRAME":
        pytest.importorskip("pandas")
    import patterns

    kind = getattr(patterns, name)
    first, middle, last = kind.functions
    elements = kind.inputs(1_000_000)["elements"]
    value = first(elements)
    assert len(pickle.dumps(value, 5)) == pytest.approx(1_000_000, rel=0.05)
    assert last(elements, value) == 1
    assert last(elements, middle(elements, middle(elements, value))) == kind.staged


@pytest.mark.usefixtures("found")
def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of data frames are left out, and a line says why."""
    from data import QUICK, frames

    monkeypatch.setitem(sys.modules, "pandas", None)
    (line,) = frames(QUICK)
    assert line.facts()["name"] == "data frames"
    assert "pandas" in line.facts()["left_out"]
    assert len(line.cells()) == len(line.head)
    assert line.met is None


@pytest.mark.usefixtures("found")
def test_the_larger_the_fewer() -> None:
    """Repetitions fall with the size, and there is always one."""
    from data import FULL

    sizes = [1_000, 4_000_000, 16_000_000, 64_000_000, 256_000_000, 1_000_000_000]
    assert [FULL.repetitions(size) for size in sizes] == [15, 15, 8, 4, 2, 1]


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("size", "words"), [(8, "8 bytes"), (1_000, "1 kB"), (32_000, "32 kB"), (64_000_000, "64 MB"), (10**9, "1 GB")]
)
def test_sizes_in_words(size: int, words: str) -> None:
    """Decimal units."""
    from data import words_of

    assert words_of(size) == words


@pytest.mark.slow
@pytest.mark.usefixtures("found")
def test_the_picture(rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """A panel for each way; each kind has a full line for pmflow and a dashed one, with hollow marks, for the floor."""
    pytest.importorskip("matplotlib")
    from data import draw

    figure = draw(list(rows.values()))
    assert [axes.get_title() for axes in figure.axes] == ["through four stages", "to eight consumers"]
    for axes in figure.axes:
        looks = {line.get_label(): (line.get_linestyle(), line.get_markerfacecolor()) for line in axes.lines}
        assert looks["array, pmflow"][0] == "-"
        assert looks["array, by hand"] == ("--", "white")
        assert len(axes.lines[0].get_xdata()) == 3
    figure.savefig(tmp_path / "data.svg")
    assert "</svg>" in (tmp_path / "data.svg").read_text(encoding="utf-8")
