"""A census of Python source: the largest modules, the most complex functions, the hubs of imports.

    python examples/census.py [directory]

Without a directory it counts the standard library of the Python that runs it. Directories are listed on the event loop,
files are read in threads and measured in worker processes; each file goes its own way, so that the first ones are
measured while others are still to be read. At the end the same functions are called one after the other, and the time
is compared.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import sys
import sysconfig
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

import pmflow
from pmflow import process

LEFT_OUT = {"__pycache__", "idle_test", "site-packages", "test", "tests"}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)


class Measures(TypedDict):
    """What one module says of itself: plain data, which travels from a worker at the least cost."""

    module: str
    lines: int
    complexity: dict[str, int]
    imports: list[str]


@process
async def paths(directory: Path) -> list[tuple[str, Path]]:
    """List the source files below a directory, with their modules' names: on the event loop, one directory a turn."""
    root = directory
    while (root / "__init__.py").exists():
        root = root.parent
    found: list[tuple[str, Path]] = []
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix == ".py":
                parts = path.relative_to(root).with_suffix("").parts
                found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
        await asyncio.sleep(0)
    return found


@process(map_over={"path": "paths"}, required=False)
def source(path: tuple[str, Path]) -> tuple[str, bytes]:
    """Read one file: in a thread, since it waits for the disk."""
    module, file = path
    return module, file.read_bytes()


@process(type="process", map_over="source", required=False, timeout=60)
def measures(source: tuple[str, bytes]) -> Measures:
    """Parse and measure one module: in a worker process, since it computes; what does not parse has no measures."""
    module, code = source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about what it parses
        tree = ast.parse(code, filename=module)
    found, imported = {}, set[str]()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[f"{module}:{node.lineno} {node.name}"] = complexity(node)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {"module": module, "lines": code.count(b"\n"), "complexity": found, "imports": sorted(imported)}


def complexity(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return McCabe's cyclomatic complexity: 1, and 1 for each branch; what is defined inside counts for itself.

    T. J. McCabe, A Complexity Measure, IEEE Transactions on Software Engineering SE-2 (1976), with the branches that
    expressions make.
    """
    count, waiting = 1, list[ast.AST](function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, SCOPES):
            continue
        if isinstance(node, BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        if isinstance(node, ast.comprehension):
            count += len(node.ifs)
        waiting.extend(ast.iter_child_nodes(node))
    return count


@process
def table(measures: list[Measures], top: int = 8) -> str:
    """Fold all measures into what is printed."""
    complexities = Counter[str]()
    importers = Counter[str]()
    modules = {each["module"] for each in measures}
    for each in measures:
        complexities.update(each["complexity"])
        importers.update({known(name, modules) for name in each["imports"]})
    largest = {each["module"]: each["lines"] for each in measures}
    return "\n\n".join(
        [
            f"{len(measures):,} modules, {sum(largest.values()):,} lines, {len(complexities):,} functions",
            section("The largest modules, in lines", largest, top),
            section("The most complex functions, in branches", complexities, top),
            section("The hubs of imports, in modules that import them", importers, top),
        ]
    )


def known(name: str, modules: set[str]) -> str:
    """Return the module that an imported name belongs to: the longest known one, else the first part of the name."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        if (module := ".".join(parts[:length])) in modules:
            return module
    return parts[0]


def section(title: str, numbers: dict[str, int], top: int) -> str:
    """Return the highest numbers below a title; equal ones by name."""
    rows = sorted(numbers.items(), key=lambda row: (-row[1], row[0]))[:top]
    return "\n".join([f"{title}:", *(f"{number:8,}  {name}" for name, number in rows)])


def one_by_one(directory: Path) -> str:
    """Call the same functions one after the other; what a file raises leaves that file out, as in the run."""
    found: list[Measures] = []
    for path in asyncio.run(paths(directory)):
        with contextlib.suppress(Exception):
            found.append(measures(source(path)))
    return table(found)


def left_out(run: pmflow.Run[Any]) -> str:
    """Say which files could not be read or parsed."""
    failures = [f"  {name}: {result.error_type}: {result.error}" for name, result in run.failures.items()]
    return "\n".join([f"\n\n{len(failures)} left out:", *failures[:8]]) if failures else ""


def compared(run_seconds: float, seconds: float, workers: int) -> str:
    """Say in words what pmflow saved, or cost."""
    saved = seconds - run_seconds
    verdict = f"{saved:.2f} s saved" if saved >= 0 else f"{-saved:.2f} s lost: too little to share, or no free core"
    return (
        f"\nOne after the other {seconds:.2f} s; with pmflow (workers: {workers}) {run_seconds:.2f} s: "
        f"{verdict} ({seconds / run_seconds:.2f} x as fast)."
    )


def main(directory: Path) -> None:
    """Count, print, and compare. The run goes first: it finds the files as cold as they are, and starts its workers."""
    started = time.perf_counter()
    run = pmflow.run(table, inputs={"directory": directory})
    run_seconds = time.perf_counter() - started
    print(run.value + left_out(run))

    started = time.perf_counter()
    text = one_by_one(directory)
    seconds = time.perf_counter() - started
    if text != run.value:
        sys.exit("One after the other, the functions count something else: did a file change meanwhile?")
    workers = {run[f"measures_{index}"].worker for index in range(len(run[paths].data or ()))}
    print(compared(run_seconds, seconds, len(workers - {None})))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")).resolve())
