"""The README keeps its word: every Python block runs as a script of its own, and prints what it says it prints."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pmflow

README = Path(__file__).resolve().parents[1] / "README.md"
PRINTED = re.compile(r"^ *print\(.*\) +# (?P<text>.+)$", re.MULTILINE)
FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, int, str]]:
    """The fenced blocks: language, the number of their first line, and text."""
    text = README.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        yield block["language"].strip(), text.count("\n", 0, block.start("code")) + 1, block["code"]


def scripts() -> list[str]:
    """The Python blocks as programs; one that begins with ``# continues`` belongs to the program before it.

    Blank lines keep every line at its number in the README, so that a traceback points there.
    """
    programs: list[str] = []
    for language, line, code in blocks():
        if language != "python":
            continue
        before = programs.pop() if code.startswith("# continues") else ""
        programs.append(before.ljust(len(before) + line - 1 - before.count("\n"), "\n") + code)
    return programs


def first_line(script: str) -> str:
    """The name of a program in the test's report."""
    return f"line-{len(script) - len(script.lstrip()) + 1}"


def test_every_block_says_what_it_is() -> None:
    """No block escapes: Python runs here, the commands in .ci/run, and text is no code."""
    assert {language for language, _, _ in blocks()} <= {"python", "sh", "text"}


def test_it_is_short() -> None:
    """A front door of 400 lines at most."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_three_commands_stand_once() -> None:
    """One command shows pmflow at work, one tests it, and .ci/run takes both from here; one measures it."""
    assert [code for language, _, code in blocks() if language == "sh"] == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/python examples/census.py\n",
        'python3 -m venv .venv && .venv/bin/pip install -q ".[test]" && .venv/bin/python -m pytest\n',
        'python3 -m venv .venv && .venv/bin/pip install -q ".[bench]" && .venv/bin/python -m benchmarks overhead\n',
    ]


def test_it_installs_from_the_checkout() -> None:
    """The name on the public index is someone else's: the page never tells to install that."""
    assert not re.search(r"pip3? install .*pmflow", README.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere() -> None:
    """Every relative link is a file of the repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not (README.parent / link).exists()] == []


@pytest.mark.parametrize("script", [pytest.param(script, id=first_line(script)) for script in scripts()])
def test_the_python_blocks_run(script: str, tmp_path: Path) -> None:
    """Each block is a program that a reader could save and start: it ends well, quietly, and prints its comments."""
    program = tmp_path / "readme.py"
    program.write_text(script, encoding="utf-8")
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == PRINTED.findall(script)
