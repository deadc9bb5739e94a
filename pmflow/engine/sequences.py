"""What maps go over: lists, of one length."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pmflow.engine.plan import check_sequence
from pmflow.errors import InputError, ProcessError


def sequence(name: str, source: str, value: Any) -> list[Any]:
    """Return what a map goes over as a list.

    Raises:
        ProcessError: it is a string, bytes or a mapping, or nothing to go over.
    """
    try:
        check_sequence(name, source, value)
    except InputError as error:
        raise ProcessError(str(error), process_id=name) from None
    return list(value)


def crossed(sequences: Mapping[str, list[Any]], order: Iterable[str]) -> dict[str, list[Any]]:
    """Return sequences of one length, which go over every combination: the last in the order changes fastest.

    >>> crossed({"x": [1, 2], "y": ["a", "b"]}, ["x", "y"])
    {'x': [1, 1, 2, 2], 'y': ['a', 'b', 'a', 'b']}
    """
    from itertools import product

    names = list(order)
    columns = list(zip(*product(*(sequences[name] for name in names)), strict=True)) or [()] * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def same_length(name: str, lengths: Mapping[str, int]) -> None:
    """Refuse sequences of different lengths.

    Raises:
        ProcessError: naming them.
    """
    if len(set(lengths.values())) > 1:
        raise unequal(name, lengths)


def unequal(name: str, lengths: Mapping[str, int], growing: Collection[str] = ()) -> ProcessError:
    """Return the error of a map over sequences of different lengths, of which some may have still more."""
    found = ", ".join(
        f"{source!r} has {length:,}{' or more' if source in growing else ''}" for source, length in lengths.items()
    )
    return ProcessError(f"'{name}' maps over sequences of different lengths: {found}", process_id=name)
