"""The types keep their word: strict checkers accept the files called right, and refuse the marked lines of the others.

A line that both must refuse ends in ``# error``; one that only one refuses names it: ``# error: mypy``.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pmflow

if TYPE_CHECKING:
    from collections.abc import Callable

PLACE = str(Path(pmflow.__file__).parents[1])
FILES = sorted((Path(__file__).parent / "typing").glob("*.py"))
MARK = re.compile(r"# error(?:: (?P<checker>\w+))?$")

Found = dict[str, dict[int, list[str]]]
"""Name of a file, to the number of a line, to what was said about it."""


def by_line(diagnostics: list[tuple[str, int, str]]) -> Found:
    """Sort what a checker said."""
    found: Found = {file.name: {} for file in FILES}
    for path, line, message in diagnostics:
        found.setdefault(Path(path).name, {}).setdefault(line, []).append(message)
    return found


def checked(*command: str, cwd: Path) -> str:
    """Run a checker as a module of this Python; 1 is how it says that it found something."""
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={
            **os.environ,
            "MYPYPATH": "" if "site-packages" in PLACE else PLACE,
        },  # mypy looks there, and nowhere twice
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode in {0, 1}, ended.stdout + ended.stderr
    return ended.stdout


def mypy(cwd: Path) -> Found:
    """Ask mypy, as strict as a user can make it, without this project's own settings."""
    options = ("--strict", "--config-file=", "--cache-dir=cache", "--follow-imports=silent", "--output=json")
    lines = checked("mypy", *options, *map(str, FILES), cwd=cwd).splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return by_line([(each["file"], each["line"], each["message"]) for each in told if each["severity"] == "error"])


def basedpyright(cwd: Path) -> Found:
    """Ask basedpyright, strict, without this project's own settings."""
    settings = {"typeCheckingMode": "strict", "include": [str(FILES[0].parent)], "extraPaths": [PLACE]}
    (cwd / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    output = checked("basedpyright", "--outputjson", "--pythonpath", sys.executable, cwd=cwd)
    told = json.loads(output)["generalDiagnostics"]
    return by_line([(each["file"], each["range"]["start"]["line"] + 1, each["message"]) for each in told])


CHECKERS = {"mypy": mypy, "basedpyright": basedpyright}


def marked(file: Path, checker: str) -> set[int]:
    """The lines that a checker must refuse."""
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
    marks = [(number, mark) for number, line in lines if (mark := MARK.search(line))]
    return {number for number, mark in marks if mark["checker"] in {None, checker}}


@pytest.fixture(scope="module", params=CHECKERS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Found]:
    """What a checker says about all of the files: asked once."""
    checker: Callable[[Path], Found] = CHECKERS[request.param]
    return request.param, checker(tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_checker_refuses_the_marked_lines_and_no_other(found: tuple[str, Found], file: Path) -> None:
    """Wrong calls, values and settings are found where they are written; what is right passes under ``strict``."""
    checker, said = found
    assert set(said[file.name]) == marked(file, checker), said[file.name]


@pytest.mark.parametrize("file", [file for file in FILES if file.stem.startswith("right")], ids=lambda file: file.stem)
def test_what_is_right_has_no_mark_and_runs(file: Path, tmp_path: Path) -> None:
    """What the checkers accept is no fiction: the program runs, without a warning."""
    assert marked(file, "mypy") | marked(file, "basedpyright") == set()
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PLACE},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
