"""The command ``pmflow``: a thin layer over the functions of the same names.

Standard output is for the answer alone; what the user's functions print, in workers too, goes to standard error.

Exit codes: 0 it is done, 1 a process failed, 2 it cannot be done as asked, 130 it was interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pmflow.base import BaseProcess
from pmflow.comparison import Comparison, compare
from pmflow.errors import PmflowError, RunTimeoutError, WorkflowError, did_you_mean, nearest
from pmflow.graph import Graph
from pmflow.workflow import Workflow

if TYPE_CHECKING:
    import types

if TYPE_CHECKING or find_spec("typer") is not None:  # else `main` says which extra has it
    import typer

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    if find_spec("typer") is None:
        sys.stderr.write('pmflow: the command needs typer, which is not installed: pip install ".[cli]"\n')
        sys.exit(USAGE)
    app()(prog_name="pmflow")


def app() -> typer.Typer:
    """Return the application, with its commands."""
    made = typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    made.callback()(_pmflow)
    made.command("compare")(_compare)
    return made


# The commands: their docstrings are what --help says


def _pmflow() -> None:
    """Plain functions in, a running graph out."""


def _compare(  # noqa: PLR0913, PLR0917 - an option each
    file: Annotated[
        str,
        typer.Argument(metavar="FILE.py[:NAME]", help="what to run; NAME: a process, Graph or Workflow of the file"),
    ],
    given: Annotated[
        list[str], typer.Option("--input", metavar="NAME=VALUE", help="an input: JSON, or else a text; repeatable")
    ] = [],  # noqa: B006 - nobody writes to it
    target: Annotated[list[str], typer.Option(help="run only this process, and what it needs; repeatable")] = [],  # noqa: B006
    repeat: Annotated[int, typer.Option(min=1, help="measured runs of each strategy")] = 3,
    max_threads: Annotated[int | None, typer.Option(min=1, help="at most so many threads at once")] = None,
    max_processes: Annotated[int | None, typer.Option(min=1, help="at most so many workers at once")] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds for each run")] = None,
    save: Annotated[Path | None, typer.Option(metavar="PLOT.svg", help="draw the comparison into a file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with every sample")] = False,  # noqa: FBT002
) -> None:
    """Run a file's graph under each strategy, and say which suits each of its processes."""
    with _exit_codes():
        inputs = dict(map(_input, given))
        with _answer_alone():
            comparison = compare(
                _loaded(file),
                inputs=inputs,
                targets=target or None,
                timeout=timeout,
                max_threads=max_threads,
                max_processes=max_processes,
                repeat=repeat,
            )
        typer.echo(json.dumps(comparison.to_dict(), indent=2) if as_json else str(comparison))
        if save is not None:
            _draw(comparison, save)


def _draw(comparison: Comparison, path: Path) -> None:
    try:
        comparison.save(path)
    except (ModuleNotFoundError, OSError, ValueError) as error:  # no matplotlib, no such folder, no such format
        raise _UsageError(f"the plot cannot be saved: {error}") from error


# What they share


class _UsageError(Exception):
    """It cannot be done as asked; the text says what to ask instead."""


@contextmanager
def _exit_codes() -> Generator[None]:
    """Turn errors into a line, and the code that the command exits with."""
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (WorkflowError, RunTimeoutError) as error:
        _say(str(error))
        raise typer.Exit(FAILED) from None
    except (_UsageError, PmflowError) as error:
        _say(str(error))
        raise typer.Exit(USAGE) from None


def _say(text: str) -> None:
    typer.echo(f"pmflow: {text}", err=True)


@contextmanager
def _answer_alone() -> Generator[None]:
    """Have what is printed meanwhile, by workers too, go to standard error."""
    sys.stdout.flush()
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(answer, 1)
        os.close(answer)


def _input(text: str) -> tuple[str, Any]:
    """Return name and value of ``NAME=VALUE``.

    >>> _input("n=3"), _input("urls=[1, 2]"), _input("url=http://127.0.0.1/?a=b")
    (('n', 3), ('urls', [1, 2]), ('url', 'http://127.0.0.1/?a=b'))
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise _UsageError(f"an input is a name and a value, not {text!r}; write --input name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# The user's file


def _loaded(text: str) -> Any:
    """Return what ``FILE.py[:NAME]`` means: the module, or what it calls so."""
    path, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    file = Path(path or name)
    if not file.is_file():
        raise _UsageError(
            f"there is no file {str(file)!r}; give the path of a Python file, and what of it: FILE.py:NAME"
        )
    module = _module(file.resolve())
    return _named(module, name) if path and name else module


def _named(module: types.ModuleType, name: str) -> Any:
    """Return what a module calls so, or the process of that id."""
    runnable = {key: value for key, value in vars(module).items() if isinstance(value, (BaseProcess, Graph, Workflow))}
    ids = {value.id: value for value in runnable.values() if isinstance(value, BaseProcess)}
    known = {**ids, **runnable}
    if name in known:
        return known[name]
    what = f"a {type(vars(module)[name]).__name__}" if name in vars(module) else "nothing"
    raise _UsageError(
        f"{name!r} is {what} in {module.__file__}, no process, Graph or Workflow{did_you_mean(nearest(name, known))}"
    )


def _module(file: Path) -> types.ModuleType:
    """Load a file as the module of its name, with its folder on the search path, as if it were imported there.

    So a worker finds it too. Of a name that is taken, or has a dot in it, workers get functions by value, and cannot
    get objects of its classes.
    """
    sys.argv[:] = [str(file)]
    sys.path.insert(0, str(file.parent))
    name = file.stem if "." not in file.stem and file.stem not in sys.modules else f"{file.stem}.py"
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise _UsageError(f"{file} is no Python file: its name has to end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit:
        raise _UsageError(
            f'{file} ends the program while it is loaded; move what it does under if __name__ == "__main__":'
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever the user's file raises
        _say(f"{file} cannot be loaded:\n{''.join(_told(error, str(file)))}".rstrip())
        raise typer.Exit(USAGE) from None
    return module


def _told(error: Exception, file: str) -> Iterable[str]:
    """Return the lines of a traceback from the user's file on."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != file:
        frame = frame.tb_next
    return traceback.format_exception(type(error), error, frame)
