"""One command for all benchmarks: what it leaves behind, what guards hold on to, where a profile says the time goes."""

import contextlib
import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from attrs import fields_dict, frozen

import pmflow

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = str(ROOT / "benchmarks")

sys.path.insert(0, BENCHMARKS)  # they import one another by their names
import guards  # noqa: E402
from guards import Guard, holds, quieter  # noqa: E402
from results import Results  # noqa: E402
from rows import Goal, Row, by_head, table  # noqa: E402

sys.path.remove(BENCHMARKS)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m benchmarks`` as a reader would, from the checkout."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def row(name: str, floor: float, ours: float, goal: Goal | None = None) -> Row:
    return Row(name, "us", ([floor, 2 * floor], [ours, 2 * ours]), goal)  # of each the second is twice the first


ROWS = [row("one", 2.0, 1.0, Goal(0.4)), row("a | b", 1.0, 3.0, Goal(5, "us"))]


# What a section leaves behind


def test_a_section_leaves_its_rows_a_table_and_a_picture(tmp_path: Path) -> None:
    """JSON lines with the surroundings first, Markdown with its command, and an SVG drawn from the same facts."""
    lines, markdown, picture = Results("made up", ROWS, summary=lambda rows: f"{len(rows)} rows.").write(
        tmp_path / "new"
    )
    first, *others = map(json.loads, lines.read_text().splitlines())
    assert (first["section"], first["quick"]) == ("made up", False)
    assert {"date", "machine", "versions"} <= first.keys()
    assert {"Python", "anyio", "attrs"} <= first["versions"].keys()
    assert others == [each.facts() for each in ROWS]
    text = markdown.read_text()
    assert "| one | us | 3 (2-4) | 1.5 (1-2) | 0.5 (0.5) | <= 0.4 x | missed |  |" in text
    assert "a \\| b" in text
    assert text.endswith("2 rows.\n\n`python -m benchmarks made up`\n")
    assert "<svg" in picture.read_text()


def test_tiny_sizes_are_said_to_be_tiny(tmp_path: Path) -> None:
    """Nobody takes the numbers of a quick run for a measurement."""
    _, markdown, _ = Results("quick", ROWS, quick=True).write(tmp_path)
    assert "say nothing about speed" in markdown.read_text()


def test_lines_with_other_columns_have_a_table_of_their_own() -> None:
    """In the order in which they first come."""

    @frozen
    class Other:
        head = ("what", "how much")
        name = "other"
        met = None

        def cells(self) -> tuple[str, ...]:
            return "other", "5"

        def facts(self) -> dict[str, Any]:
            return {"name": "other"}

    lines: list[Any] = [ROWS[0], Other(), ROWS[1]]
    assert [(len(head), [each.name for each in rows]) for head, rows in by_head(lines)] == [
        (8, ["one", "a | b"]),
        (2, ["other"]),
    ]
    assert table(lines).split("\n\n")[1].split() == ["what", "how", "much", "other", "5"]


# The command


def test_the_command_measures_a_part_and_writes_it(tmp_path: Path) -> None:
    """One part of one section, into the folder that is named."""
    ended = command("--quick", "--results", str(tmp_path), "overhead.build")
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"overhead.build.{end}" for end in ("jsonl", "md", "svg")}
    assert "Graph(processes), layered, 100" in ended.stdout


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("overhed", "no section 'overhed'; there are overhead, workers, strategies"),
        ("overhead.biuld", "no part 'biuld' in overhead; there are coroutines"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_measured(word: str, said: str) -> None:
    """With the names of what there is."""
    ended = command(word)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


@pytest.mark.parametrize("strategy", ["async", "inline", "thread", "process"])
def test_a_profile_says_where_the_time_goes(strategy: str) -> None:
    """By file and by function of pmflow, for each strategy."""
    ended = command("profile", "overhead", "--strategy", strategy, "--size", "200", "--seconds", "0.3")
    assert ended.returncode == 0, ended.stderr
    assert f"200 processes, {strategy}, wide" in ended.stdout
    assert "| engine/scheduler.py |" in ended.stdout
    assert "| engine/scheduler.py Scheduler." in ended.stdout or sys.version_info < (
        3,
        11,
    )  # which knows no class there


# Guards


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the rows of a made-up benchmark come to, one run after another: times the floor."""
    comes_to: list[float] = []

    @frozen
    class Effort:
        times: int

    def part(effort: Effort) -> Iterator[Row]:
        assert effort.times == 3
        value = comes_to.pop(0)
        yield row("ratio", 1.0, value)
        yield row("own", 1.0, value, Goal(9, "us"))

    module = types.ModuleType("made_up")
    vars(module).update(SECTIONS={"part": part}, FULL=Effort(100))
    monkeypatch.setitem(sys.modules, "made_up", module)
    return comes_to


def guard(**most: float) -> Guard:
    return Guard("made_up", "part", most, {"times": 3})


@pytest.mark.parametrize(
    ("runs", "waits", "result", "said"),
    [
        ([1.0], 0, True, "made_up.part: holds\n"),
        ([5.0, 1.0], 1, True, "made_up.part: holds, at the second time\n"),
        ([5.0, 4.0], 1, False, "made_up.part: DOES NOT HOLD, twice\nratio: 4, at most 2\n"),
    ],
)
def test_a_guard_is_asked_twice(measured: list[float], runs: list[float], waits: int, result: bool, said: str) -> None:
    """What is over its limit is measured once more, after a quieter moment has come; then it fails, with both runs."""
    measured += runs
    waited: list[int] = []
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert holds(guard(ratio=2.0), lambda: waited.append(1)) is result
    assert (len(waited), measured) == (waits, [])
    assert told.getvalue().startswith(said)
    assert told.getvalue().count("operation") == len(runs)


def test_a_guard_judges_a_row_by_what_its_goal_is_in(measured: list[float]) -> None:
    """Times the floor, or our own least where the goal is in the unit of the row."""
    measured += [3.0, 3.0]
    assert guard(ratio=3.0, own=4.5).over(guard().measure()) == []
    assert guard(ratio=2.9, own=4.4).over(guard().measure()) == ["ratio: 3, at most 2.9", "own: 4.5, at most 4.4"]


def test_a_guard_of_a_row_that_is_not_there_is_an_error(measured: list[float]) -> None:
    """It would hold nothing."""
    measured.append(1.0)
    with pytest.raises(LookupError, match="made_up.part has no row 'gone'; there are ratio, own"):
        guard(gone=1.0).over(guard().measure())


def test_a_quieter_moment_is_waited_for() -> None:
    """Until others leave the cores alone, or the patience is at its end."""
    busy = [0.9, 0.5, 0.1]
    quieter(lambda: busy.pop(0))
    assert busy == []
    asked: list[int] = []
    quieter(lambda: float(asked.append(1) is None), patience=0.0)
    assert len(asked) == 1


def test_every_guard_names_a_part_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And changes nothing of its effort but what that has."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for each in guards.GUARDS:
        module = import_module(each.module)
        assert each.part in module.SECTIONS
        assert each.effort.keys() <= fields_dict(type(module.FULL)).keys()
        assert each.most
