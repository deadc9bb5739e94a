"""Every example is a program that a reader can start: it ends well, without a warning, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pmflow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TESTED = {"census.py", "class_processes.py", "quickstart.py", "worker_processes.py"}
TESTED |= {"documents.py", "learning.py", "scraper.py", "sweep.py"}  # in test_examples_language.py


def printed(example: str, *arguments: object, cwd: Path) -> str:
    """What an example prints, started as a reader would; with nothing on stderr, and every warning an error."""
    path = os.pathsep.join([str(Path(pmflow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_every_example_is_tested() -> None:
    """An example that nothing runs would rot."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_quickstart(tmp_path: Path) -> None:
    """A page is fetched on the loop, counted in a worker and reported in a thread, in that order."""
    assert printed("quickstart.py", cwd=tmp_path).splitlines() == [
        "the 6, waits 3, for 3",
        "page: completed, async, 1 attempt",
        "words: completed, process, 1 attempt",
        "report: completed, thread, 1 attempt",
    ]


def test_class_processes(tmp_path: Path) -> None:
    """Processes as classes run in a workflow, and one of them on its own, where its failure is a result."""
    *compressions, best, alone = printed("class_processes.py", cwd=tmp_path).splitlines()
    found = [re.fullmatch(r"(\w+): completed, (\d+)% of the size", line) for line in compressions]
    shares = {match[1]: int(match[2]) for match in found if match}
    assert list(shares) == ["zlib", "bz2", "lzma"]
    name = best.removeprefix("the best: ")
    assert shares[name] == min(shares.values())
    assert alone == "alone: success=False, FileNotFoundError after 3 attempts"


def test_worker_processes(tmp_path: Path) -> None:
    """A crash is tried again, a log record arrives, the folder is put back, and large values do not come in."""
    warning, measured, size, peak = printed("worker_processes.py", cwd=tmp_path).splitlines()
    assert warning == "WARNING of untidy, attempt 1: a child is left behind"
    assert measured == "measured 42 in attempt 2"
    assert size == "4,000,000 bytes; back in the program's folder: True"
    found = re.fullmatch(r"the worker that made them held at most (\d+) MB", peak)
    assert found is not None
    assert int(found[1]) >= 4


COMPARED = re.compile(
    r"One after the other (?P<loop>[\d.]+) s; with pmflow \(workers: (?P<workers>\d+)\) (?P<run>[\d.]+) s: "
    r"(?P<difference>[\d.]+) s (?P<verdict>saved|lost: too little to share, or no free core) "
    r"\((?P<ratio>[\d.]+) x as fast\)\."
)


def compared(line: str) -> dict[str, str]:
    """The figures of the last line of the census, which have to agree with each other."""
    match = COMPARED.fullmatch(line)
    assert match, line
    loop, run, difference, ratio = (float(match[name]) for name in ("loop", "run", "difference", "ratio"))
    assert abs(difference - abs(loop - run)) < 0.02
    assert match["verdict"].startswith("saved" if loop > run else "lost") or difference == 0
    assert abs(ratio * run - loop) < 0.02 + 0.01 * (ratio + run)
    return match.groupdict()


SHAPES = """\
import os
import package.helpers
from package import helpers as also, missing


def simple():
    return 1


def branches(items, flag):
    for item in items:
        if item and flag or None:
            continue
        elif flag:
            break
    try:
        return [x for x in items if x]
    except ValueError:
        return (lambda y: 1 if y else 0) if flag else None


class Kind:
    def method(self):
        def inner(x):
            while x:
                x -= 1
        return inner
"""

CENSUS = """\
4 modules, 29 lines, 4 functions

The largest modules, in lines:
      27  shapes
       2  package.helpers
       0  empty
       0  package

The most complex functions, in branches:
      10  shapes:10 branches
       2  shapes:24 inner
       1  shapes:23 method
       1  shapes:6 simple

The hubs of imports, in modules that import them:
       2  os
       1  package
       1  package.helpers

1 left out:
  measures_0: SyntaxError: invalid syntax (broken, line 1)
"""


def test_census_of_a_known_directory(tmp_path: Path) -> None:
    """The census counts right, names what it left out, and says what pmflow saved or lost."""
    sources = {
        "broken.py": "x = = 1\n",
        "empty.py": "",
        "package/__init__.py": "",
        "package/helpers.py": "import os.path\nimport os\n",
        "package/data.txt": "not Python",
        "shapes.py": SHAPES,
        "tests/test_left_out.py": "import unittest\n",
    }
    for name, text in sources.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    counted, _, comparison = printed("census.py", tmp_path / "library", cwd=tmp_path).rstrip().rpartition("\n\n")
    assert counted + "\n" == CENSUS
    assert int(compared(comparison)["workers"]) >= 1


def test_census_of_a_package_names_its_modules_as_they_are_imported(tmp_path: Path) -> None:
    """A directory that is a package itself is counted under its name, so that its own imports are found."""
    package = tmp_path / "outer"
    package.mkdir()
    (package / "__init__.py").write_text("from outer.inner import x\n", encoding="utf-8")
    (package / "inner.py").write_text("x = 1\n", encoding="utf-8")
    assert "       1  outer.inner\n" in printed("census.py", package, cwd=tmp_path)


def test_census_of_nothing(tmp_path: Path) -> None:
    """A directory without source files is counted too."""
    assert printed("census.py", tmp_path, cwd=tmp_path).startswith("0 modules, 0 lines, 0 functions\n")


def test_census_of_this_python(tmp_path: Path) -> None:
    """Without a directory it counts the standard library of the Python that runs it: the README's first command."""
    lines = printed("census.py", cwd=tmp_path).splitlines()
    modules, functions = re.findall(r"[\d,]+(?= modules| functions)", lines[0])
    assert int(modules.replace(",", "")) > 400
    assert int(functions.replace(",", "")) > 10_000
    assert lines[lines.index("The hubs of imports, in modules that import them:") + 1].split()[1] == "sys"
    compared(lines[-1])
