"""The benchmark of strategies has a row for each, a picture and a paragraph; how fast they are, it says itself."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pmflow

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

KINDS = ("waiting", "python", "zlib", "hashlib", "numpy", "tiny", "array")
WITH_COROUTINES = ("waiting", "tiny")
STRATEGIES = ("async", "inline", "thread", "process")
AT_ONCE = (1, 8)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """What the benchmark prints, from one run of all of it on small numbers."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "strategies.py"), "--quick", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture
def strategies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, which finds the ones beside it as it does as a program."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("strategies")


def cell(kind: str, strategy: str, concurrency: int, speed_up: float, seconds: float = 0.001) -> dict[str, Any]:
    """Facts as the benchmark prints them, of speeds that are made up."""
    about = {"kind": kind, "title": kind, "strategy": strategy, "concurrency": concurrency, "cores": 2}
    return {**about, "seconds": seconds, "speed_up": [speed_up] * 3, "pmflow": [seconds * 1e6 / speed_up]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_measured_with_every_strategy(rows: list[dict[str, Any]], kind: str) -> None:
    """Each cell has samples of a plain loop and of pmflow, and the speed-up between them."""
    cells = [row for row in rows if row.get("kind") == kind]
    strategies = [name for name in STRATEGIES if name != "async" or kind in WITH_COROUTINES]
    assert [(row["concurrency"], row["strategy"]) for row in cells] == [
        (count, name) for count in AT_ONCE for name in strategies
    ]
    for row in cells:
        middle, least, most = row["speed_up"]
        assert 0 < least <= middle <= most
        assert len(row["floor"]) == len(row["pmflow"]) > 0
        assert row["seconds"] == min(row["floor"]) / 1e6
        assert row["goal"] is None


@pytest.mark.slow
def test_a_worker_is_held_against_inline(rows: list[dict[str, Any]]) -> None:
    """There is a cell for each duration of a call."""
    cells = [row for row in rows if row.get("kind") == "worth"]
    assert [(row["seconds"], row["strategy"]) for row in cells] == [
        (seconds, "process") for seconds in (50e-6, 1e-3, 5e-3)
    ]


@pytest.mark.slow
def test_the_picture(strategies: Any, rows: list[dict[str, Any]]) -> None:
    """A panel for each kind and one for durations, each named; drawn of the rows alone."""
    pytest.importorskip("matplotlib")
    figure = strategies.draw(rows)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("waiting for a server\n(")
    assert len(titles) == len(KINDS) + 1
    assert len({line.get_linestyle() for line in figure.axes[0].get_lines() if line.get_marker() in "os^D"}) == 4
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    assert b"<svg" in drawn.getvalue()


@pytest.mark.slow
def test_the_paragraph_names_a_strategy_for_each_kind(strategies: Any, rows: list[dict[str, Any]]) -> None:
    """It is made of the rows: what each kind is, and a strategy for it."""
    paragraph = strategies.summary(rows)
    assert "\n" not in paragraph
    verdicts = paragraph.split(": ", 1)[1].split(";")
    assert len(verdicts) == len(KINDS)
    for verdict in verdicts:
        assert any(f"`{name}`" in verdict for name in STRATEGIES)


def test_the_paragraph_says_what_was_measured(strategies: Any) -> None:
    """The fastest at the most calls at once, those that are as good, what is left, and where a worker begins to pay."""
    rows = [
        *(cell("waiting", "async", 8, 1.0), cell("waiting", "async", 64, 40.0), cell("waiting", "thread", 64, 5.0)),
        *(cell("hashing", "thread", 8, 1.8), cell("hashing", "process", 8, 1.9), cell("hashing", "inline", 8, 1.0)),
        *(cell("nothing", "inline", 8, 0.01, 1e-7), cell("nothing", "thread", 8, 0.001, 1e-7)),
        *(cell("worth", "process", 16, 0.5, 1e-5), cell("worth", "process", 16, 2.0, 1e-3)),
        {"name": "a worker pays from", "ratio": 1.0},
    ]
    assert strategies.summary(rows) == (
        "On 2 cores, against a plain loop that makes the same calls: "
        "waiting (1 ms a call, 64 at once): `async`, 40 times as fast (others: `thread` 5); "
        "hashing (1 ms a call, 8 at once): `process` or `thread`, 1.9 times as fast (others: `inline` 1); "
        "nothing (100 ns a call, 8 at once): nothing is faster than the loop, `inline` comes nearest "
        "(0.01 times as fast, 10 us a call). "
        "A pure-Python call is faster in a worker than inline from 100 us on, with 16 at once. "
        '`inline` is a plain function of type `"async"`.'
    )


@pytest.mark.parametrize(
    ("speed_ups", "seconds"),
    [((0.5, 2), 1e-3), ((0.5, 0.9), None), ((1.5, 2), 1e-4), ((2, 0.5, 2), 1e-3**0.5 * 1e-2**0.5), ((2, 0.5), None)],
)
def test_where_a_worker_begins_to_pay(strategies: Any, speed_ups: tuple[float, ...], seconds: float | None) -> None:
    """Where the speed-up passes 1 for the last time; the shortest where it always does; nowhere where it ends below."""
    durations = (1e-4, 1e-2) if len(speed_ups) == 2 else (1e-4, 1e-3, 1e-2)
    found = strategies.crossing(list(zip(durations, speed_ups, strict=True)))
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_each_repetition_crosses_for_itself(strategies: Any) -> None:
    """Repetitions are told apart: one in which there is no speed-up in the end has no duration."""
    shorter, longer = ([1.0, 1.0], [2.0, 2.0]), ([4.0, 1.0], [2.0, 2.0])
    assert strategies.crossings((1e-4, 1e-2), [shorter, longer]) == [pytest.approx(1e-3), None]


def test_the_last_row_is_where_both_cross(strategies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With speeds that are made up: by hand a worker pays from 3.2 ms on, with pmflow from 0.1 ms."""
    by_hand, ours = [([1.0], [4.0]), ([1.0], [2.0]), ([2.0], [1.0])], [([1.0], [2.0]), ([2.0], [1.0]), ([2.0], [1.0])]
    samples = iter([each for pair in zip(by_hand, ours, strict=True) for each in pair])
    monkeypatch.setattr(strategies.floors, "in_turn", lambda *_, **__: next(samples))
    monkeypatch.setattr(strategies.worker_floors, "warm", nullcontext)
    monkeypatch.setattr(strategies, "warm", lambda: None)
    *cells, row = strategies.worth(strategies.Effort(1, 1, (1e-5, 1e-3, 1e-2)))
    assert [cell.seconds for cell in cells] == [1e-5, 1e-3, 1e-2]
    assert row.samples == ([pytest.approx(10**3.5)], [pytest.approx(100)])


def test_the_server_ends_with_the_benchmark(strategies: Any) -> None:
    """It answers plain functions and coroutine functions, and is gone afterwards."""
    with strategies.kinds.server() as port:
        assert strategies.kinds.answered(port, 0.001) == 0.001
        assert asyncio.run(strategies.kinds.answered_later(port, 0.001)) == 0.001
    with pytest.raises(ConnectionRefusedError):
        strategies.kinds.answered(port, 0.001)
