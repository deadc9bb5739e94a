"""The comparison with other libraries runs where none of them is installed, and takes no time from who is wrong."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pmflow

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

CASES = [
    *[f"no-op {kind}s, {shape}, 100" for kind in ("thread", "worker") for shape in ("wide", "chain", "layered")],
    "stencil_1d in workers, kernels of 1 ms",
    "array of 8 MB through four stages",
    "array of 8 MB to eight consumers",
    "where first come, first served hurts",
    "where a barrier hurts",
    "import, over bare Python",
    "hello world, three threads, whole program",
    "hello world, three workers, whole program",
]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Every row of one run on tiny sizes, in which no library but pmflow is looked for."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), str(BENCHMARKS)])
    code = (
        "import sys, peers, rows\n"
        "names = ('by hand', 'pmflow')\n"
        "peers.PEERS.update({who: (each[0], 'not_there') for who, each in peers.PEERS.items() if who not in names})\n"
        "sys.argv = ['peers.py', '--quick', '--json']\n"
        "rows.main('', peers.SECTIONS, peers.QUICK, peers.FULL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which its neighbours find by its bare name; it is forgotten afterwards, and they are."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers

    yield peers
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_each_case_is_measured_with_pmflow_and_by_hand(rows: list[dict[str, Any]], case: str) -> None:
    """Both have a time; nothing is said of how long."""
    found = {row["who"]: row for row in rows if row["name"] == case and "who" in row}
    for who in ("by hand", "pmflow"):
        assert len(found[who]["samples"]) == 1
        assert found[who]["median"] > 0
    assert found["pmflow"]["times_pmflow"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_who_is_not_installed_is_a_dash_with_its_reason(rows: list[dict[str, Any]], case: str) -> None:
    """A library that is missing is in the table all the same."""
    missing = [row for row in rows if row["name"] == case and row.get("who") not in {"by hand", "pmflow", None}]
    assert len(missing) == 12
    for row in missing:
        assert (row["median"], row["times_pmflow"]) == (None, None)
        assert row["note"] == 'not installed (extra "bench-peers")'


@pytest.mark.slow
def test_there_is_no_other_case(rows: list[dict[str, Any]]) -> None:
    """Each has a line for everybody, and one for the places."""
    assert list(dict.fromkeys(row["name"] for row in rows)) == CASES
    assert [row["place"] for row in rows if "place" in row] == [1] * len(CASES)


def reported(peers: Any, capsys: pytest.CaptureFixture[str], adapter: Any) -> dict[str, Any]:
    """Measure an adapter here, as a fresh program would."""
    module: Any = ModuleType("adapters.with_planted")
    module.ADAPTER = adapter
    sys.modules[module.__name__] = module
    peers.PEERS["planted"] = ("with_planted", "sys")
    try:
        peers.report("planted", "no-op threads, wide, 100", peers.QUICK)
    finally:
        del sys.modules[module.__name__]
    facts: dict[str, Any] = json.loads(capsys.readouterr().out.removeprefix(peers.MARK))
    return facts


def planted(peers: Any, value: int) -> Any:
    """Make an adapter that has one value for everything."""

    @contextmanager
    def pool(many: int) -> Any:
        yield lambda work, inputs: lambda: dict.fromkeys(work.shape, value)

    return sys.modules["adapters"].Adapter("", {"thread": pool}, {})


def test_a_wrong_value_has_no_time(peers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes out is compared with what has to come out."""
    facts = reported(peers, capsys, planted(peers, 2))
    assert facts == {"samples": [], "reason": "AssertionError: 100 wrong values, that of n0 among them"}
    assert len(reported(peers, capsys, planted(peers, 1))["samples"]) == 1


def test_what_cannot_be_done_has_its_reason(peers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A library without threads says so."""
    adapter = sys.modules["adapters"].Adapter("", {}, {}, {"thread": "no threads"})
    assert reported(peers, capsys, adapter) == {"samples": [], "reason": "no threads"}


def test_a_program_that_takes_too_long_is_ended(peers: Any, tmp_path: Path) -> None:
    """With it, what it has started, even in a session of its own."""
    programs, said = sys.modules["adapters.programs"], tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
        f"pathlib.Path({str(said)!r}).write_text(str(subprocess.Popen(sleeper, start_new_session=True).pid))\n"
        "time.sleep(300)"
    )
    with pytest.raises(programs.TooLongError, match="over 3 s"):
        programs.fresh(code, 3)
    with pytest.raises(ProcessLookupError):
        for _ in range(1_000):  # until whoever adopted it has seen it end
            os.kill(int(said.read_text()), 0)
            time.sleep(0.01)


def test_a_program_that_fails_says_why(peers: Any) -> None:
    """The last that it had to say is the reason."""
    with pytest.raises(ChildProcessError, match="ValueError: no"):
        sys.modules["adapters.programs"].fresh("raise ValueError('no')", 60)


STANDINGS = [
    {"name": "first", "unit": "us", "who": "by hand", "median": 1.0},
    {"name": "first", "unit": "us", "who": "pmflow", "median": 2.0},
    {"name": "first", "unit": "us", "who": "joblib", "median": 4.0},
    {"name": "first", "unit": "us", "who": "Ray", "median": None},
    {"name": "second", "unit": "ms", "who": "pmflow", "median": 3.0},
    {"name": "second", "unit": "ms", "who": "loky", "median": 2.0},
    {"name": "second", "unit": "ms", "who": "joblib", "median": 1.0},
    {"name": "second", "ranked": ["joblib", "loky", "pmflow"], "place": 3, "met": False},
]


def test_the_summary_names_each_case_in_which_pmflow_is_behind(peers: Any) -> None:
    """With who is ahead of it, and how many times; the floor is no library."""
    assert peers.summary(STANDINGS) == (
        "Against 2 other libraries pmflow is first in 1 of 2 cases. Ahead of it, in: second (joblib 3 x, loky 1.5 x)."
    )
    assert peers.summary(STANDINGS[:4]) == "Against 1 other library pmflow is first in 1 of 1 cases."
    assert peers.summary(STANDINGS[:2]) == "Nobody else is installed: there is nothing to compare."


def test_the_picture_has_a_panel_for_each_case(peers: Any) -> None:
    """The fastest is on top."""
    pytest.importorskip("matplotlib")
    panels = [axes for axes in peers.draw(STANDINGS).axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["first", "second"]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == ["joblib", "loky", "pmflow"]
