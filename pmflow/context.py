"""What calls know of where they come from: which context variables go to worker processes with them."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any, TypeVar

from pmflow.errors import ConfigurationError

__all__ = ["carry"]

T = TypeVar("T")

CARRIED: list[tuple[ContextVar[Any], dict[str, Any]]] = []
"""The variables that go along, each with the names of the module that has it."""


def carry(variable: ContextVar[T]) -> ContextVar[T]:
    """Let the value of a context variable go to worker processes with each call, and return the variable.

    The variable has to be a global of an importable module, which calls this: a worker finds it there. Its values have
    to be picklable. Tasks and threads see all context variables, with or without this.

    Args:
        variable: the variable.

    Raises:
        ConfigurationError: it is no context variable.

    >>> request = carry(ContextVar("request", default="none"))
    >>> request.get()
    'none'
    """
    if not isinstance(variable, ContextVar):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is checked
        raise ConfigurationError(f"carry() takes a ContextVar, not {variable!r}")
    CARRIED.append((variable, sys._getframe(1).f_globals))  # noqa: SLF001 - it has no other door
    return variable
