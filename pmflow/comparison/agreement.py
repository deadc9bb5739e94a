"""Whether two results agree: knows containers, NaN, arrays and data frames, and what cannot be compared."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def same(one: Any, other: Any) -> bool | None:
    """Return whether two results are equal; None if there is nothing to compare them by.

    One NaN is equal to another, in lists, tuples, dictionaries and arrays too.

    >>> same([1, float("nan")], [1, float("nan")]), same({"a": 1}, {"a": 2}), same(object(), object())
    (True, False, None)
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(one, other)]
    unsure = False
    while waiting:
        one, other = waiting.pop()
        if one is other or (id(one), id(other)) in seen:
            continue
        if type(one) is type(other) and isinstance(one, (list, tuple, dict)):
            seen.add((id(one), id(other)))  # one that holds itself is seen again
            parts = _parts(one, other)
            if parts is None:
                return False
            waiting += parts
        else:
            equal = _equal(one, other)
            if equal is False:
                return False
            unsure = unsure or equal is None
    return None if unsure else True


def _parts(one: Any, other: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return what two containers of one type hold in the same places; None if they have not the same places."""
    if isinstance(one, dict):
        return [(one[key], other[key]) for key in one] if one.keys() == other.keys() else None
    return zip(one, other, strict=True) if len(one) == len(other) else None


def _equal(one: Any, other: Any) -> bool | None:
    numpy = sys.modules.get("numpy")
    try:
        if numpy is not None and isinstance(one, numpy.ndarray) and isinstance(other, numpy.ndarray):
            alike = (one.shape, one.dtype) == (other.shape, other.dtype)
            return alike and bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - NaN
        if callable(getattr(one, "equals", None)):  # a data frame: == compares its cells
            return bool(one.equals(other))
        if one == other:
            return True
        equality: Any = type(one).__eq__
        if equality is object.__eq__:  # a copy is never equal to what it was made of
            return None
        return bool(one != one and other != other)  # noqa: PLR0124 - NaN
    except Exception:  # noqa: BLE001 - the user's classes may raise anything
        return None
