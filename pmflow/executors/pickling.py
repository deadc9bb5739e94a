"""Pickling for another process: functions by reference where that finds them, else by value; exceptions whole.

The program imports this file as part of the package, workers load it by its path: standard library only, and
cloudpickle where something cannot go by reference.

A function goes by reference if its module can be imported by its name and is not ``__main__``: module, qualified name
and a digest of its code. A worker that cannot import it, or finds other code (a reloaded module), asks for it by value.
"""

from __future__ import annotations

import _thread
import collections
import pickle
import sys
import types
import zlib
from collections.abc import Iterator
from functools import partial

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

ALIAS = "_pmflow_pickling"
"""What workers call this file: what is pickled by reference to it is found on both sides under that name."""

_by_value = _thread.allocate_lock()


def pickler_by_value(module: types.ModuleType) -> Any:
    """Return a class of picklers that send the functions and classes of a module by value."""
    import cloudpickle

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = _dispatch_table()

        def dump(self, thing: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - its name
            with _by_value:  # cloudpickle's registry is the program's
                cloudpickle.register_pickle_by_value(module)
                try:
                    super().dump(thing)
                finally:
                    cloudpickle.unregister_pickle_by_value(module)

    return ByValue


class Returning(pickle.Unpickler):
    """Unpickles what comes back from a worker: a class that came from here, and comes back by value, is the one it was.

    cloudpickle finds such a class by the number it gave it, but then sets each of its attributes again, to what came
    back: its methods would be replaced by copies that see other globals.
    """

    def __init__(self, file: Any, **settings: Any) -> None:
        super().__init__(file, **settings)
        self._known: list[type] = []

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names."""
        found = super().find_class(module, name)
        if module != "cloudpickle.cloudpickle":
            return found
        if name in ("_make_skeleton_class", "_make_skeleton_enum"):
            return partial(self._class, found)
        if name == "_class_setstate":
            return partial(self._set_state, found)
        return found

    def _set_state(self, set_state: Any, kind: type, state: Any) -> Any:
        return kind if any(kind is known for known in self._known) else set_state(kind, state)

    def _class(self, make: Any, *args: Any) -> type:
        from cloudpickle import cloudpickle

        known: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])  # noqa: SLF001 - it has no other door
        if known is None:
            return make(*args)  # type: ignore[no-any-return]
        self._known.append(known)
        return known


def pickler() -> Any:
    """Return the pickler that sends functions by reference with a digest; made when cloudpickle is first needed."""
    global _Pickler  # noqa: PLW0603 - a class that cannot be written before its base is imported
    if _Pickler is None:
        from io import TextIOWrapper

        import cloudpickle

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            dispatch_table = _dispatch_table()

            def reducer_override(self, thing: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - its name
                if isinstance(thing, TextIOWrapper) and thing not in (sys.stdout, sys.stderr, sys.stdin):
                    raise TypeError("cannot pickle an open file")  # cloudpickle would read it, and send what is in it
                if isinstance(thing, types.FunctionType):
                    where = reference(thing)
                    if where is not None:
                        return load_function, where
                return super().reducer_override(thing)

        _Pickler = Pickler
    return _Pickler


_Pickler: Any = None


def _dispatch_table() -> Any:
    import cloudpickle

    table: Any = cloudpickle.Pickler.dispatch_table
    return table.new_child({types.CodeType: _reduce_code})


def _reduce_code(code: types.CodeType) -> Any:
    """Reduce code so that it keeps the name of its file, without which a traceback cannot show the user's line.

    cloudpickle 3.1.3 calls the file of all code that it sends ``<dynamic-code>``.
    """
    import cloudpickle

    table: Any = cloudpickle.Pickler.dispatch_table
    make, parts = table[types.CodeType](code)
    return load_code, (code.co_filename, make, parts)


def load_code(filename: str, make: Any, parts: tuple[Any, ...]) -> types.CodeType:
    """Return code that was written in a file of this name; what unpickling it calls."""
    code: types.CodeType = make(*parts)
    return code.replace(co_filename=filename)


_AS_THEY_ARE = ("__main__", ALIAS, "cloudpickle.cloudpickle")
"""Modules whose functions cloudpickle sends: by value those of the first, by its own reference those of the others."""


def reference(function: types.FunctionType) -> tuple[str, str, int] | None:
    """Return module, qualified name and digest of a function that another process can import; else None."""
    name = function.__module__
    module = sys.modules.get(name)
    if name in _AS_THEY_ARE or module is None or not _importable(module):
        return None
    found = _attribute(module, function.__qualname__)
    if found is not function and _unwrapped(found) is not function:
        return None
    return name, function.__qualname__, digest_of(function)


def _importable(module: types.ModuleType) -> bool:
    if getattr(module, "__file__", None) is not None:
        return True
    return getattr(getattr(module, "__spec__", None), "origin", None) in ("built-in", "frozen")


def _attribute(module: Any, qualname: str) -> Any:
    for name in qualname.split("."):
        module = getattr(module, name, None)
    return module


def _unwrapped(found: Any) -> Any:
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found


class NotHereError(Exception):
    """A function cannot be imported here, or has other code here."""


def load_function(module: str, qualname: str, expected: int) -> Any:
    """Return a function by reference; what unpickling one calls.

    Raises:
        NotHereError: it is not here, or not the same.
    """
    import importlib

    try:
        found = _attribute(importlib.import_module(module), qualname)
    except Exception as error:
        raise NotHereError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    for candidate in (found, _unwrapped(found)):
        if isinstance(candidate, types.FunctionType) and digest_of(candidate) == expected:
            return candidate
    raise NotHereError(f"{module}.{qualname} is not what it is in the program")


class Parts(collections.namedtuple("Parts", "kind args state")):  # noqa: PYI024  # pyright: ignore[reportUntypedNamedTuple] - that of `typing` takes 4 ms
    """An exception in parts, for one whose class cannot be called with its ``args`` (what unpickling does)."""

    __slots__ = ()


def put_together(thing: Any) -> Any:
    """Return an exception that came in parts; anything else as it is."""
    if not isinstance(thing, Parts):
        return thing
    exception = thing.kind.__new__(thing.kind, *thing.args)
    exception.args = thing.args
    exception.__dict__.update(thing.state)
    str(exception)
    return exception


def digest_of(function: types.FunctionType) -> int:
    """Return a number that changes with the code of a function, and with those of its defaults that are plain."""
    defaults = (function.__defaults__, sorted((function.__kwdefaults__ or {}).items()))
    plain = repr(defaults) if all(type(value) in _PLAIN for value in _flat(defaults)) else ""
    return zlib.crc32(plain.encode("utf-8", "replace"), digest(function.__code__))


_PLAIN = {bool, int, float, complex, str, bytes, type(None)}


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def digest(code: types.CodeType) -> int:
    """Return a number that changes with what a function does (not with where it is written)."""
    value = zlib.crc32(code.co_code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            value = zlib.crc32(digest(constant).to_bytes(4, "little"), value)
        elif not isinstance(constant, frozenset):  # whose order differs between processes
            value = zlib.crc32(repr(constant).encode("utf-8", "replace"), value)
    return zlib.crc32(repr((code.co_names, code.co_varnames)).encode(), value)


def _share(names: str) -> None:
    """Have things pickled by reference to the alias; a program within a worker has those of the worker."""
    here = sys.modules[__name__]
    shared = sys.modules.setdefault(ALIAS, here)
    for name in names.split():
        thing = getattr(shared, name)
        thing.__module__ = ALIAS
        setattr(here, name, thing)


_share("load_function load_code NotHereError Parts")
