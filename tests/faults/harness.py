"""The harness of the fault campaign.

A case is one function in a test module:

    @case(strategy=("thread", "process"))
    def test_a_raising_call_costs_itself_only(strategy):
        \"\"\"The promise, in one sentence.\"\"\"
        ...

For pytest that is one test per value of each keyword. The body runs elsewhere: a program of its own imports the same
module and calls the function (inside, `case` hands back the function as it is), under a `supervisor` that ends it
at the limit, with the stacks of all threads of all its processes, and that reports what it left behind. A case fails if
it raises, hangs, writes to stderr, or leaves a process, thread, descriptor, temporary file or shared memory.

Test modules must not import pytest: the program of the case would load it too.

Where the way a program is started is itself the case, `run_program([...])` runs a command line under the same rules.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

HERE = Path(__file__).parent
TAG = "PMFLOW_FAULT_CASE"
_numbers = itertools.count()

F = TypeVar("F", bound=Callable[..., object])


class Finished(NamedTuple):
    """What a program did."""

    returncode: int | None
    stdout: str
    stderr: str
    seconds: float


def case(
    *, limit: float = 30.0, grace: float = 2.0, stderr: str = "", slow: bool = False, **each: Sequence[Any]
) -> Callable[[F], F]:
    """Make a test of a function that runs in a program of its own.

    Args:
        limit: Seconds until the program counts as hanging.
        grace: Seconds that its other processes have to go away once the program has ended.
        stderr: A regular expression that must match all of what it writes to stderr.
        slow: Whether it is left out of the everyday suite (`pytest -m slow` runs it).
        each: Arguments of the function; the test is repeated for every value (JSON types).
    """

    def decorate(function: F) -> F:
        if TAG in os.environ:
            return function
        argv = [sys.executable, "-m", "inside", Path(inspect.getfile(function)).stem, function.__name__]

        def test(**arguments: Any) -> None:
            run_program([*argv, json.dumps(arguments)], limit=limit, grace=grace, stderr=stderr)

        return _as_test(test, function, each, slow=slow)  # type: ignore[return-value]

    return decorate


def run_program(
    argv: Sequence[str],
    *,
    limit: float = 30.0,
    grace: float = 2.0,
    stderr: str = "",
    returncode: int = 0,
    input: str = "",  # noqa: A002 - named like the argument of `subprocess.run`
    files: dict[str, str] | None = None,
    folder: str = "work",
) -> Finished:
    """Run a command line as a case, in a folder of its own that holds `files`; fails as `case` does."""
    home = Path(tempfile.mkdtemp(prefix="pmflow-fault-"))
    try:
        work, temporary = home / folder, home / "tmp"
        temporary.mkdir()
        work.mkdir()
        for name, text in (files or {}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text, encoding="utf-8")
        report = _supervise(argv, work=work, temporary=temporary, limit=limit, grace=grace, input=input)
        left = [path.name for path in temporary.iterdir()]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    _judge(report, left, returncode=returncode, stderr=stderr, limit=limit)
    return Finished(report["returncode"], report["stdout"], report["stderr"], report["seconds"])


def _supervise(argv: Sequence[str], *, work: Path, temporary: Path, limit: float, **spec: Any) -> dict[str, Any]:
    tag = f"{os.getpid()}-{next(_numbers)}"
    spec |= {"argv": list(argv), "cwd": str(work), "limit": limit, "tag": f"{TAG}={tag}"}
    spec["env"] = {**os.environ, **_environment(temporary), TAG: tag}
    supervisor = subprocess.run(
        [sys.executable, "-I", "-S", str(HERE / "supervisor.py")],
        input=json.dumps(spec),
        stdout=subprocess.PIPE,
        text=True,
        timeout=limit + spec["grace"] + 30,
        check=True,
    )
    report: dict[str, Any] = json.loads(supervisor.stdout)
    return report


def _environment(temporary: Path) -> dict[str, str]:
    paths = [str(HERE), str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONWARNINGS": "default::ResourceWarning",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
    }


def _judge(report: dict[str, Any], left: list[str], *, returncode: int, stderr: str, limit: float) -> None:
    output = f"\n--- stdout\n{report['stdout']}\n--- stderr\n{report['stderr']}"
    assert not report["hung"], f"no end after {limit} s{output}"
    assert report["returncode"] == returncode, f"exit code {report['returncode']}{output}"
    assert not report["left"], f"processes left behind: {report['left']}{output}"
    assert not report["shared"], f"shared memory left behind: {report['shared']}{output}"
    assert not left, f"temporary files left behind: {left}{output}"
    assert re.fullmatch(stderr, report["stderr"], re.DOTALL), f"stderr is not {stderr!r}{output}"


def _as_test(
    test: Callable[..., None], function: Callable[..., object], each: dict[str, Sequence[Any]], *, slow: bool
) -> object:
    import pytest

    test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in each]
    test.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    for name, values in each.items():
        test = pytest.mark.parametrize(name, values)(test)
    return pytest.mark.faults(pytest.mark.slow(test) if slow else test)
