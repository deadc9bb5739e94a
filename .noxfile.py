"""The sessions of nox: ``nox -f .noxfile.py``, and one of them: ``nox -f .noxfile.py -s tests-3.12``.

nox looks for ``noxfile.py`` and knows no setting for another name; a dot-file keeps the top level to what readers
came for.
"""

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

nox.options.sessions = ["tests", "lint", "types"]
nox.options.download_python = "never"
# The suite runs on the Pythons that are here; nox would call a missing one an error wherever CI is set.
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite and the faults on the wheel: ``pytest`` alone leaves the checkout off the path."""
    session.install(".[test]")
    session.run("pytest", "-m", "not slow", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Run the fault campaign again and again: 20 times, or as often as is said, ``-- 3``."""
    session.install(".[test]")
    times, *options = session.posargs or ["20"]
    for _ in range(int(times)):
        session.run("pytest", "tests/faults", "tests/test_workers.py", "-m", "slow or not slow", "-q", "-x", *options)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and the direction of imports."""
    session.install(".[dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with both checkers."""
    session.install(".[dev]")
    session.run("mypy")
    session.run("basedpyright")
