"""The shape of the repository: imports point down, the door is narrow, nothing is left lying about."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pmflow

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"CHANGELOG.md", "LICENSE", "README.md", "benchmarks", "examples", "pmflow", "pyproject.toml", "tests"}
HIDDEN = {".ci", ".gitignore", ".noxfile.py"}

# What `import pmflow` may load of the standard library beyond what its dependencies load anyway.
LIGHT = {
    "_contextvars",
    "_datetime",
    "_heapq",
    "_queue",
    "contextvars",
    "datetime",
    "graphlib",
    "heapq",
    "math",
    "queue",
    "signal",
}


def texts() -> Iterator[tuple[str, str]]:
    """Every file of the repository that is text: its path and its content."""
    for entry in sorted(TOP_LEVEL | HIDDEN):
        for path in [ROOT / entry, *sorted((ROOT / entry).rglob("*"))]:
            if path.is_file() and "__pycache__" not in path.parts:
                try:
                    yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue


def lines_with(pattern: str) -> list[str]:
    """Where a pattern occurs in the repository, as ``file:line: text``."""
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(pattern, line)
    ]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds the pmflow of this checkout."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def modules_loaded_by(statement: str, *, after: str) -> set[str]:
    """The modules that a statement loads in an interpreter that has run another one before."""
    ended = python(f"import sys\n{after}\nbefore = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)")
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_imports_point_down() -> None:
    """Each module imports from the layers below it only; pyproject.toml says which they are."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    ended = python(code)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_all_names_exist_and_no_public_name_is_missing() -> None:
    """``pmflow.__all__`` is true: each name once, each there, and none left out."""
    public = {
        name for name, value in vars(pmflow).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(pmflow.__all__) == sorted(public)


def test_the_door_is_narrow() -> None:
    """``pmflow/__init__.py`` holds a docstring, imports and ``__all__``, nothing else."""
    docstring, *body = ast.parse((ROOT / "pmflow/__init__.py").read_text(encoding="utf-8")).body
    *imports, names = body
    assert isinstance(docstring, ast.Expr)
    assert {type(statement) for statement in imports} == {ast.ImportFrom}
    assert isinstance(names, ast.Assign)
    assert ast.unparse(names.targets[0]) == "__all__"


def test_import_loads_nothing_heavy() -> None:
    """``import pmflow`` loads anyio, attrs, cloudpickle and no more: no event loop, no ssl, no multiprocessing."""
    backport = ", exceptiongroup" if sys.version_info < (3, 11) else ""
    extra = modules_loaded_by("import pmflow", after=f"import anyio, attrs, cloudpickle{backport}")
    assert {name for name in extra if name.partition(".")[0] != "pmflow"} - LIGHT == set()


def test_the_top_level_holds_what_readers_came_for() -> None:
    """The top level is as designed: everything else is a dot-file, or has a folder to be in."""
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert visible - {"PKG-INFO", "dist"} == TOP_LEVEL  # a source distribution adds the one, a build the other


def test_nothing_is_left_to_do_later() -> None:
    """What is unfinished is an issue, never a comment."""
    assert lines_with(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b") == []


def test_no_path_of_the_machine_it_was_written_on() -> None:
    """No file names a place that exists on one machine only."""
    assert lines_with(r"(?<![\w.~})])/(?:home|root|Users|work|workspace|mnt)/") == []


def test_nobody_is_sent_to_the_wrong_package() -> None:
    """The name on the public index is another project's: everything installs from the checkout."""
    assert lines_with(r"""pip3? install (?:-\S+ )*["']?pmflow""") == []
