"""What a function's annotations promise and ask for, and whether the two ends of an edge agree.

In doubt they agree: a graph that would run is not to be refused. So an edge is refused only if two readings say no, the
one in this file, which knows what pmflow does to values (awaits them, makes lists of iterators, maps), and beartype's
`is_subhint`. Where beartype is not installed nothing is refused; it is imported (0.1 s) when this file has said no.

What is never held against a graph: no annotation, `Any`, type variables, protocols, and whatever else is no class or
made of classes; names that cannot be resolved, as those imported under TYPE_CHECKING; functions that a decorator has
wrapped, for it may return something else; an `int` for a `float` (PEP 484); what user-defined generic classes are of.
"""

from __future__ import annotations

import collections
import types
from abc import ABCMeta
from collections import abc
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from inspect import Parameter, Signature, formatannotation
from io import IOBase
from typing import IO, Annotated, Any, Literal, NewType, Optional, Union, get_args, get_origin, is_typeddict

from attrs import frozen

__all__ = ["Hints", "Mismatch"]

KEPT = 1_000
"""What is remembered at most, of a kind: of processes that are made anew for every run there is no end."""


@frozen
class Mismatch:
    """Two types, as texts, that do not agree: what a parameter is to be, and what it would be given."""

    wanted: str
    made: str


class Hints:
    """The annotations of one function, read when they are needed. Made by `Hints.of`.

    >>> import inspect
    >>> def size(text: str) -> int: ...
    >>> def half(size: float) -> float: ...
    >>> one, other = (Hints.of(each, inspect.signature(each), globals()) for each in (size, half))
    >>> one.mismatch(other, "text")
    Mismatch(wanted='str', made='float')
    >>> other.mismatch(one, "size")  # None, as a whole number is a number
    """

    __slots__ = ("_agreed", "_made", "_optional", "_raw", "_returns", "_scope")

    def __init__(self, raw: dict[str, Any], returns: Any, optional: set[str], scope: dict[str, Any]) -> None:
        self._raw = raw
        self._returns = returns
        self._optional = optional
        self._scope = scope
        self._made: tuple[Any, ...] | None = None
        self._agreed: set[tuple[Hints, str, bool, bool]] = set()

    @classmethod
    def of(cls, function: Any, signature: Signature, scope: dict[str, Any]) -> Hints | None:
        """Return the hints of a function; None if it has none, or they may not be its own.

        Args:
            function: the function inside of partials and methods.
            signature: what is called.
            scope: the names that annotations are made of.
        """
        if type(function) is not types.FunctionType or hasattr(function, "__wrapped__"):
            return None
        raw: dict[str, Any] = {}
        optional: set[str] = set()
        for each in signature.parameters.values():
            if each.annotation is not Parameter.empty and each.kind is not Parameter.VAR_KEYWORD:
                raw[each.name] = each.annotation
                if each.default is None:
                    optional.add(each.name)
        returns = signature.return_annotation
        return cls(raw, returns, optional, scope) if raw or returns is not Signature.empty else None

    def mismatch(self, other: Hints, parameter: str, *, mapped: bool = False, each: bool = False) -> Mismatch | None:
        """Return what does not agree if a parameter of this function is fed by another one; None if they agree.

        Args:
            other: the hints of the function that feeds it.
            parameter: its name.
            mapped: whether that function is called once per element.
            each: whether this one is, and the parameter is one element.
        """
        key = (other, parameter, mapped, each)
        if key in self._agreed:
            return None
        if parameter in self._raw and other._returns is not Signature.empty:
            try:
                found = self._compared(other, parameter, mapped=mapped, each=each)
            except Exception:  # noqa: BLE001 - an annotation may be anything; what cannot be read is not checked
                found = None
            if found is not None:
                return found
        if len(self._agreed) >= KEPT:
            self._agreed.clear()
        self._agreed.add(key)
        return None

    def _compared(self, other: Hints, parameter: str, *, mapped: bool, each: bool) -> Mismatch | None:
        wanted = self._resolved(self._raw[parameter])
        if parameter in self._optional:  # `n: int = None`, as it was once written
            wanted = Optional[wanted]  # noqa: UP045 - of an annotation that may be no class
        if other._made is None:
            other._made = tuple(_values(other._resolved(other._returns)))
        made = other._made
        if mapped and not each:
            made = tuple(list[hint] for hint in made)  # type: ignore[valid-type]
        elif each and not mapped:
            made = tuple(_element(hint) for hint in made)
        if any(_agree(hint, wanted) for hint in made):
            return None
        is_subhint = _is_subhint()
        if any(is_subhint(hint, wanted) for hint in made):
            return None
        return Mismatch(formatannotation(wanted), formatannotation(made[-1]))

    def _resolved(self, annotation: Any) -> Any:
        """Return what an annotation means; an exception says that nobody can tell."""
        if isinstance(annotation, str):
            return eval(_compiled(annotation), self._scope)  # noqa: S307 - the program's own, as `get_type_hints` does
        return annotation


@lru_cache(maxsize=KEPT)
def _compiled(annotation: str) -> types.CodeType:
    """Return the code of an annotation: to compile it takes most of the time, and many are written alike."""
    return compile(annotation.strip(), "<annotation>", "eval", dont_inherit=True)


@cache
def _is_subhint() -> Callable[[Any, Any], bool]:
    """Return beartype's; without it, one to which everything agrees."""
    try:
        from beartype.door import is_subhint
    except ImportError:
        return lambda _made, _wanted: True
    return is_subhint


# What becomes of a returned value

_AWAITABLE = (abc.Awaitable, abc.Coroutine)
_ITERATED = (
    abc.Iterator,
    abc.Generator,
    abc.AsyncIterator,
    abc.AsyncGenerator,
    abc.Iterable,  # as a generator may be annotated
    abc.AsyncIterable,
)


def _values(hint: Any) -> Iterator[Any]:
    """Give the types that a process's value may be said to have: awaited, an iterator also as a list, the last."""
    while get_origin(hint) in _AWAITABLE:
        hint = get_args(hint)[-1]
    members = list(_members(hint))
    kinds = [_class(member) for member in members]
    if any(kind is not None and issubclass(kind, abc.Awaitable) for kind in kinds):
        yield Any
        return
    yield hint
    for member, kind in zip(members, kinds, strict=True):
        if kind in _ITERATED:
            yield list[(get_args(member) or (Any,))[0]]  # type: ignore[misc]
        elif kind is not None and issubclass(kind, (abc.Iterator, abc.AsyncIterator)) and not issubclass(kind, IOBase):
            yield list[Any]


def _element(hint: Any) -> Any:
    """Return the type of what a map goes over, one by one."""
    (member, *others) = _members(hint)
    args = get_args(member)
    if others or not args:
        return Any
    kind = _class(member)
    if kind is tuple:
        return Union[tuple(each for each in args if each is not ...)]  # noqa: UP007 - of any number
    return args[0] if kind in _OF_ONE else Any


# Whether two types agree

_OF_ONE = {
    list,
    set,
    frozenset,
    type,
    collections.deque,
    abc.Sequence,
    abc.MutableSequence,
    abc.Set,
    abc.MutableSet,
    abc.Collection,
    abc.Container,
    abc.Reversible,
    *_ITERATED,
}
_OF_TWO = {dict, collections.defaultdict, collections.OrderedDict, abc.Mapping, abc.MutableMapping}


def _members(hint: Any) -> Iterator[Any]:
    """Give the members of a union, or the type itself; without what was only noted of it."""
    origin = get_origin(hint)
    if type(hint).__name__ == "TypeAliasType":
        yield from _members(hint.__value__)
    elif origin is Annotated:
        yield from _members(get_args(hint)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield types.NoneType if hint is None else hint


def _class(hint: Any) -> type | None:
    """Return the class of a type's values; None if it has none, or one that has its own idea of its instances."""
    if is_typeddict(hint):
        return dict
    kind = get_origin(hint) or hint
    if not isinstance(kind, type) or kind is Any or getattr(kind, "_is_protocol", False) or issubclass(kind, IO):
        return None
    check: Any = type(kind).__instancecheck__
    usual = check is type.__instancecheck__ or issubclass(type(kind), ABCMeta)
    return kind if usual else None


def _agree(made: Any, wanted: Any) -> bool:
    """Whether every value of one type may be what another one asks for."""
    if made == wanted:
        return True
    choices = [*_members(wanted)]
    if float in choices or complex in choices:
        choices.append(int)
    if complex in choices:
        choices.append(float)
    return all(any(_fits(each, choice) for choice in choices) for each in _members(made))


def _fits(made: Any, wanted: Any) -> bool:
    """The same of types that are no unions."""
    if made == wanted:
        return True
    if isinstance(made, NewType) or isinstance(wanted, NewType):
        return _fits_new(made, wanted)
    if Literal in (get_origin(made), get_origin(wanted)):
        return _fits_literal(made, wanted)
    one, other = _class(made), _class(wanted)
    if one is None or other is None:
        return True
    if not issubclass(one, other):
        return _name(other) in map(_name, one.__mro__)
    return _arguments_agree(one, get_args(made), other, get_args(wanted))


def _name(defined: Any) -> tuple[str, str]:
    """Return the full name: a class that is defined anew, in a notebook or by a reload, is another one of that name."""
    return defined.__module__, defined.__qualname__


def _fits_new(made: Any, wanted: Any) -> bool:
    if isinstance(made, NewType):
        same = isinstance(wanted, NewType) and _name(made) == _name(wanted)
        return same or _agree(made.__supertype__, wanted)
    return _class(made) is None


def _fits_literal(made: Any, wanted: Any) -> bool:
    if get_origin(wanted) is Literal:
        return set(get_args(made)) <= set(get_args(wanted)) if get_origin(made) is Literal else _class(made) is None
    return all(_fits(type(value), wanted) for value in get_args(made))


def _arguments_agree(one: type, made: tuple[Any, ...], other: type, wanted: tuple[Any, ...]) -> bool:
    """Whether what containers are of agrees; of others nobody says which argument stands for what."""
    if not made or not wanted:
        return True
    if one is tuple and (other is tuple or other in _OF_ONE):
        return _tuples_agree(made, wanted if other is tuple else (wanted[0], ...))
    if other in _OF_ONE and (one in _OF_ONE or one in _OF_TWO):
        return _agree(made[0], wanted[0])
    if other in _OF_TWO and one in _OF_TWO:
        return all(map(_agree, made, wanted))
    return True


def _tuples_agree(made: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if ... not in made and ... not in wanted:
        return len(made) == len(wanted) and all(map(_agree, made, wanted))
    return all(_agree(one, each) for one in made if one is not ... for each in wanted if each is not ...)
