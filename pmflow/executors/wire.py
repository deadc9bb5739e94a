"""What the program and its workers say to one another, and how things travel.

The program imports this file as part of the package, a worker loads it by its path; both know it as `ALIAS`, so that
what is pickled by reference to it is found on both sides. It imports the standard library only; cloudpickle where
something cannot go by reference.

A *frame* is a mark, eight bytes of length and a pickle. Down go setups and chains, up comes one reply per link as soon
as it exists. Arguments and values are pickled on their own within a frame, so that what cannot be pickled or unpickled
is the failure of one link, and never of the conversation.

A function goes by reference if its module can be imported by its name and is not ``__main__``: module, qualified name
and a digest of its code. A worker that cannot import it, or finds other code (a reloaded module), asks for it by value.
"""

from __future__ import annotations

import pickle
import struct
import sys
import threading
import types
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

ALIAS = "_pmflow_wire"

MARK = b"pmfl"
HEADER = struct.Struct("<4sQ")

# Kinds of replies
READY, VALUE, ERROR, UNSENDABLE, UNREADABLE, UNKNOWN = range(6)


class Setup(NamedTuple):
    """Where modules are looked for: before the first call, and when that has changed. Functions are forgotten."""

    path: list[str]


class Link(NamedTuple):
    """One link of a chain: its function (sent once: by token afterwards), its arguments, who feeds it."""

    token: bytes
    function: bytes | None
    arguments: bytes
    feed: str | int | None


class Reply(NamedTuple):
    """What became of a link; times are those of `time.perf_counter()`, which all processes of a machine share."""

    kind: int
    payload: bytes = b""
    started: float = 0.0
    ended: float = 0.0
    text: str = ""


def frame(message: Any) -> bytes:
    """Return a message as it is sent."""
    body = pickle.dumps(tuple(message) if isinstance(message, (Setup, Reply)) else [tuple(link) for link in message], 5)
    return HEADER.pack(MARK, len(body)) + body


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = HEADER.size
        self._in_body = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; yield the body of each frame that is complete."""
        self._parts.append(data)
        self._size += len(data)
        while self._size >= self._wanted:
            stream = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
            head, rest = stream[: self._wanted], stream[self._wanted :]
            self._parts, self._size = [rest], len(rest)
            if self._in_body:
                self._wanted = HEADER.size
                yield head
            else:
                mark, self._wanted = HEADER.unpack(head)
                if mark != MARK:
                    raise ValueError(f"a frame begins with {MARK!r}, and this is {head!r}")
            self._in_body = not self._in_body


# Pickling

_by_value = threading.Lock()


def dumps(thing: Any, *, value_of: types.ModuleType | None = None) -> bytes:
    """Pickle something for another process: by reference where that will be found, else by value.

    Args:
        thing: anything.
        value_of: a module whose functions and classes go by value.
    """
    from io import BytesIO

    import cloudpickle

    buffer = BytesIO()
    if value_of is None:
        _pickler()(buffer, 5).dump(thing)
        return buffer.getvalue()
    with _by_value:  # cloudpickle's registry is the program's
        cloudpickle.register_pickle_by_value(value_of)
        try:
            cloudpickle.Pickler(buffer, 5).dump(thing)
        finally:
            cloudpickle.unregister_pickle_by_value(value_of)
    return buffer.getvalue()


def dumps_quickly(thing: Any) -> bytes:
    """Pickle data for another process; by cloudpickle only what has something of ``__main__`` in it, or cannot else."""
    try:
        data = pickle.dumps(thing, 5)
    except Exception:
        return dumps(thing)
    return dumps(thing) if b"__main__" in data else data


def loads(payload: bytes) -> Any:
    """Unpickle what comes back from a worker; a class that came from here, and comes back by value, is the one it was.

    cloudpickle finds such a class by the number it gave it, but then sets each of its attributes again, to what came
    back: its methods would be replaced by copies that see other globals.
    """
    if b"_make_skeleton_" not in payload:
        return pickle.loads(payload)
    from io import BytesIO

    return _Returning(BytesIO(payload)).load()


class _Returning(pickle.Unpickler):
    """Leaves the classes that are known here as they are."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
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


def _pickler() -> Any:
    """Return the pickler that sends functions by reference with a digest; made when cloudpickle is first needed."""
    global _Pickler  # noqa: PLW0603 - a class that cannot be written before its base is imported
    if _Pickler is None:
        import cloudpickle

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            def reducer_override(self, thing: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - its name
                if isinstance(thing, types.FunctionType):
                    where = reference(thing)
                    if where is not None:
                        return load_function, where
                return super().reducer_override(thing)

        _Pickler = Pickler
    return _Pickler


_Pickler: Any = None


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


class Parts(NamedTuple):
    """An exception in parts, for one whose class cannot be called with its ``args`` (what unpickling does)."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]


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


for _thing in (load_function, NotHereError, Parts):
    _thing.__module__ = ALIAS
sys.modules.setdefault(ALIAS, sys.modules[__name__])
