"""What of the program its workers are to be like: search path, folder, environment, log levels, context variables.

A run's workers are as the program is when the run begins. Nothing is looked at for each call: that is 50 us a run.
"""

from __future__ import annotations

import os
import sys
from contextvars import Context
from typing import Any

from attrs import frozen

from pmflow.context import CARRIED
from pmflow.errors import TransferError
from pmflow.executors import parcels, pickling
from pmflow.executors.parcels import Parcel
from pmflow.executors.platform import numeric_threads


@frozen
class Surroundings:
    """What a program is like at one moment."""

    path: list[str]
    folder: str
    environment: dict[bytes, bytes]
    levels: dict[str, int]

    @classmethod
    def now(cls, workers: int) -> Surroundings:
        """Return those of this program, for a pool of so many workers."""
        here = folder()
        threads = {os.fsencode(name): os.fsencode(value) for name, value in numeric_threads(workers).items()}
        return cls([str(path) or here for path in sys.path], here, {**threads, **os.environb}, _levels())

    def message(self) -> tuple[Any, ...]:
        """Return them as a worker takes them."""
        return self.path, self.folder, self.environment, self.levels


def folder() -> str:
    """Return the program's working directory."""
    try:
        return os.getcwd()  # noqa: PTH109 - every run asks
    except FileNotFoundError:  # it was removed
        return os.sep


def _levels() -> dict[str, int]:
    """Return the levels of the loggers that have one; the root's under ``""``."""
    logging = sys.modules.get("logging")
    manager = getattr(getattr(logging, "root", None), "manager", None)
    if logging is None or manager is None:  # or another thread is importing it just now
        return {}
    loggers = {name: int(each.level) for name, each in list(manager.loggerDict.items()) if getattr(each, "level", 0)}
    return {"": int(logging.root.level), **loggers}


class Modules:
    """Notices that a module was reloaded: workers have the old one."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}

    def reloaded(self) -> bool:
        """Whether one was, since this was asked last; each loading of a module gives it a new spec."""
        known = self._specs
        found = False
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__dict__", {}).get("__spec__")  # whatever may be there, and no code of its own
            if known.setdefault(name, spec) is not spec:
                known[name] = spec
                found = True
        return found


# Context variables


def carried(context: Context) -> Parcel | None:
    """Return the values that a context has of the variables to be carried; None if it has none.

    Raises:
        TransferError: one of them cannot be pickled.
    """
    found = []
    for variable, scope in CARRIED:
        name = next((name for name, value in scope.items() if value is variable), None)
        module = scope.get("__name__")
        if variable in context and name is not None and module != "__main__":
            found.append((module, name, context[variable]))
    if not found:
        return None
    try:
        return parcels.pack_data(found, pickling.pickler)
    except Exception as error:
        names = ", ".join(f"{name!r} of {module}" for module, name, _ in found)
        raise TransferError(
            f"a context variable that is to be carried has a value that cannot be pickled ({type(error).__name__}: "
            f"{error}); look at {names}"
        ) from error


NOTHING_CARRIED = parcels.pack_data([], pickling.pickler)
