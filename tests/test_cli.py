"""The command ``pmflow``: what it prints, where, and the code it exits with."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import pmflow

FILE = """
import os
from pmflow import BaseProcess, Graph, Workflow, process

assert __name__ == {name!r}, __name__
print("loaded", __name__)

class Kept:
    def __init__(self, value): self.value = value
    def __eq__(self, other): return isinstance(other, Kept) and other.value == self.value
    def __hash__(self): return 0

def helper(n):
    return Kept(n)

@process(type="process")
def wrapped(n):
    print("running")
    return helper(n)

@process
def opened(wrapped):
    return wrapped.value

@process
def broken():
    raise ValueError("no such page")

unwrap = opened
graph = Graph([wrapped, opened])
workflow = Workflow()
number = 3

if __name__ == "__main__":
    raise SystemExit("the file was run")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of processes."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "words.py").write_text(FILE.format(name="words"), encoding="utf-8")
    return tmp_path


def surroundings() -> dict[str, str]:
    """The environment in which this checkout's pmflow is found."""
    path = [str(Path(pmflow.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m pmflow``."""
    return subprocess.run(
        [sys.executable, "-m", "pmflow", *map(str, arguments)],
        cwd=cwd,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def compared(*arguments: object, cwd: Path) -> Any:
    ended = command("compare", *arguments, "--repeat", 1, "--json", cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refusal(*arguments: object, cwd: Path, code: int = 2) -> str:
    """What standard error says of a call that has no answer."""
    ended = command("compare", *arguments, cwd=cwd)
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    assert "Traceback" not in ended.stderr.partition("cannot be loaded")[0]
    return ended.stderr


def test_a_table_and_a_picture_from_any_folder(folder: Path) -> None:
    """The file is found from where one is; the answer alone is on standard output, what functions print is not."""
    ended = command(
        *("compare", "sub/words.py:graph", "--input", "n=3", "--repeat", 1, "--save", "plot.svg"), cwd=folder
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("strategy ")
    assert "Suggested:" in ended.stdout
    assert "running" not in ended.stdout
    assert "loaded words" in ended.stderr
    assert "running" in ended.stderr
    assert "<svg" in (folder / "plot.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["opened", "unwrap", "graph"])
def test_a_process_or_a_graph_of_a_file(folder: Path, name: str) -> None:
    """By its variable or its id; functions of the file, and the classes they use, work in workers."""
    facts = compared(f"words.py:{name}", "--input", "n=3", cwd=folder / "sub")
    assert [(row["reason"], row["different"], row["unchecked"]) for row in facts["rows"]] == [(None, [], [])] * len(
        facts["rows"]
    )
    assert set(facts["suggested"]) == {"wrapped", "opened"}


@pytest.mark.parametrize(("stem", "name"), [("two words", "two words"), ("v1.2", "v1.2.py"), ("json", "json.py")])
def test_a_file_whose_name_is_no_word(tmp_path: Path, stem: str, name: str) -> None:
    """With a space it is imported as it is; with a dot, or taken, its functions go to workers by value."""
    (tmp_path / f"{stem}.py").write_text(FILE.format(name=name), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    facts = compared(f"../{stem}.py:opened", "--input", "n=text", cwd=tmp_path / "elsewhere")
    assert [(row["reason"], row["different"]) for row in facts["rows"]] == [(None, [])] * len(facts["rows"])


def test_the_module_is_the_default_and_targets_can_be_chosen(folder: Path) -> None:
    """Without a name the whole file is meant; only a target's ancestors run."""
    facts = compared("sub/words.py", "--input", "n=3", "--target", "wrapped", cwd=folder)
    assert set(facts["suggested"]) == {"wrapped"}


def test_a_process_that_fails(folder: Path) -> None:
    """Code 1, and what failed."""
    assert "'broken' failed" in refusal("sub/words.py:broken", cwd=folder, code=1)


def test_what_cannot_be_done_as_asked(folder: Path) -> None:
    """Code 2, and what to ask instead: a missing file, a wrong name, input, target or number."""
    assert "there is no file 'none.py'" in refusal("none.py", cwd=folder)
    assert "did you mean 'opened'?" in refusal("sub/words.py:openned", cwd=folder)
    assert "'number' is a int" in refusal("sub/words.py:number", cwd=folder)
    assert "write --input name=value" in refusal("sub/words.py:opened", "--input", "n", cwd=folder)
    assert "'wrapped' needs 'n'" in refusal("sub/words.py:opened", cwd=folder)
    assert "did you mean 'n'?" in refusal("sub/words.py:opened", "--input", "nn=3", "--input", "n=1", cwd=folder)
    assert "did you mean 'opened'?" in refusal("sub/words.py", "--target", "openned", cwd=folder)
    assert "--repeat" in refusal("sub/words.py:opened", "--input", "n=3", "--repeat", 0, cwd=folder)


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    """Code 2, with the user's own lines; a file that ends the program says what to do about it."""
    (tmp_path / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n", encoding="utf-8")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    said = refusal("broken.py", cwd=tmp_path)
    assert "ZeroDivisionError" in said
    assert "line 3" in said
    assert "importlib" not in said
    assert 'under if __name__ == "__main__":' in refusal("ends.py", cwd=tmp_path)


def test_a_picture_that_cannot_be_saved_costs_no_answer(folder: Path) -> None:
    """The table is printed all the same; the code is 2."""
    ended = command(
        *("compare", "sub/words.py:opened", "--input", "n=3", "--repeat", 1, "--save", "plot.none"), cwd=folder
    )
    assert ended.returncode == 2
    assert ended.stdout.startswith("strategy ")
    assert "the plot cannot be saved" in ended.stderr


def test_without_typer_the_remedy_is_named(tmp_path: Path) -> None:
    """The command is an extra: one line says which."""
    code = "import sys; sys.modules['typer'] = None; from pmflow.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=surroundings(), capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == 'pmflow: the command needs typer, which is not installed: pip install ".[cli]"\n'


def test_the_commands_are_listed(tmp_path: Path) -> None:
    """``pmflow --help`` names them."""
    ended = command("--help", cwd=tmp_path)
    assert ended.returncode == 0
    assert "compare" in ended.stdout
    assert "Plain functions in" in ended.stdout


def test_ctrl_c(tmp_path: Path) -> None:
    """An interrupted comparison exits with 130, as shells expect."""
    (tmp_path / "waits.py").write_text(
        "import anyio, sys\nfrom pmflow import process\n"
        "@process\nasync def wait():\n"
        "    print('waiting', file=sys.stderr, flush=True)\n"
        "    await anyio.sleep_forever()\n",
        encoding="utf-8",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "pmflow", "compare", "waits.py"],
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        ends = threading.Timer(120, running.kill)
        ends.start()
        assert running.stderr is not None
        assert running.stderr.readline() == "waiting\n"
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate()
        ends.cancel()
    assert (running.returncode, stdout, stderr) == (130, "", "pmflow: interrupted\n")
