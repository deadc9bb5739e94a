"""What a function returns is not always what a process returns: awaitables are awaited, iterators become lists.

The workers load this file by its path: it imports the standard library only, and little of it.
"""

from __future__ import annotations

import io
import os
import sys
import types
from collections.abc import AsyncIterator, Iterator

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

FINAL: set[type] = {type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset}
"""Types of values that are neither awaitable nor an iterator; grows as types are met."""

_FINAL_KEPT = 1_000
"""A class defined within a function is a new type with every call: the set must not grow for ever."""


def is_final(value: Any) -> bool:
    """Whether the value is the result as it is: neither awaitable nor an iterator (a file is no iterator here)."""
    kind = type(value)
    if kind in FINAL:
        return True
    if _is_awaitable(value):
        return False
    if hasattr(kind, "__next__") and not isinstance(value, io.IOBase) and iter(value) is value:
        return False
    if isinstance(value, AsyncIterator) and value.__aiter__() is value:
        return False
    if len(FINAL) < _FINAL_KEPT:
        FINAL.add(kind)
    return True


def finished(value: Any) -> Any:
    """Return what a function's return value stands for, in a thread of its own: awaited, or as a list."""
    if is_final(value):
        return value
    if isinstance(value, Iterator):
        return list(value)
    return in_loop_of_its_own(awaited, value)


def in_loop_of_its_own(function: Any, *args: Any) -> Any:
    """Run a coroutine function in an event loop of its own; changes the context.

    A context that was copied where an event library runs names that library, and anyio would refuse to run another.
    """
    import anyio

    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set(None)
    return anyio.run(function, *args)


async def awaited(value: Any) -> Any:
    """Return what a function's return value stands for: awaited, or as a list."""
    if hasattr(value, "__anext__"):
        return [each async for each in value]
    if _is_awaitable(value):
        value = await value
        return value if is_final(value) else await awaited(value)
    return list(value)


_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def without_our_frames(exception: BaseException) -> BaseException:
    """Cut pmflow's own frames off the start of the traceback: it begins with the user's function."""
    traceback = exception.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        traceback = traceback.tb_next
    return exception.with_traceback(traceback or exception.__traceback__)


def _is_awaitable(value: Any) -> bool:
    if hasattr(type(value), "__await__"):
        return True
    return isinstance(value, types.GeneratorType) and bool(value.gi_code.co_flags & _ITERABLE_COROUTINE)


_ITERABLE_COROUTINE = 0x100
"""Of a generator that `types.coroutine` has made awaitable."""
