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

    # Another thread may be importing it just now: then no context names a library yet.
    library = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if library is not None:
        library.set(None)
    return anyio.run(function, *args)


PASSED_ON = object()
"""What stands for an iterator whose elements have been passed on."""


class Sink:
    """Where the elements of an iterator go, one by one."""

    def wait(self) -> bool:
        """Wait until the next one is wanted; False if none is any more."""
        raise NotImplementedError

    def take(self) -> bool:
        """Whether the next one is wanted now; if so, it is to be told."""
        raise NotImplementedError

    def tell(self, element: Any) -> None:
        """Take an element."""
        raise NotImplementedError


def passed_on(value: Any, sink: Sink) -> Any:
    """Pass on the elements of an iterator, in a thread of its own; return what anything else stands for.

    Returns:
        `PASSED_ON`, or what `finished` returns of what is no iterator.
    """
    if is_final(value):
        return value
    if isinstance(value, Iterator):
        _pass_on(value, sink)
        return PASSED_ON
    return in_loop_of_its_own(passed_on_from_loop, value, sink)


def _pass_on(iterator: Iterator[Any], sink: Sink) -> None:
    try:
        while sink.wait():
            element = next(iterator, PASSED_ON)
            if element is PASSED_ON:
                return
            sink.tell(element)
            del element  # whoever has it now says how long it lives
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


async def passed_on_from_loop(value: Any, sink: Sink) -> Any:
    """The same of what a function returned that is awaited or iterated in an event loop of its own."""
    if _is_awaitable(value):
        value = await value
        return value if is_final(value) else await passed_on_from_loop(value, sink)
    if not hasattr(value, "__anext__"):
        _pass_on(value, sink)
        return PASSED_ON

    from anyio.to_thread import run_sync

    async def wait() -> bool:
        return sink.take() or await run_sync(sink.wait)

    await pass_on(value, wait, sink.tell)
    return PASSED_ON


async def pass_on(iterator: Any, wait: Any, tell: Any) -> None:
    """Tell the elements of an iterator, asynchronous or not, each when ``await wait()`` says that it is wanted."""
    is_async = hasattr(iterator, "__anext__")
    try:
        while await wait():
            try:
                element = await iterator.__anext__() if is_async else next(iterator)
            except (StopAsyncIteration, StopIteration):
                return
            tell(element)
            del element
    finally:
        close = getattr(iterator, "aclose" if is_async else "close", None)
        if close is not None:
            closing = close()
            if is_async:
                await closing


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
