"""Blocks, as the pool sees them: many elements of a map in one item, which advances with their replies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import sub
from typing import TYPE_CHECKING, Any

from pmflow.executors.channel import Item
from pmflow.outcomes import Success

if TYPE_CHECKING:
    from pmflow.executors.base import Block


def successes(
    replies: Sequence[tuple[int, Any, float, float]], first: int, worker: str, memory: int
) -> tuple[Any, float]:
    """Return plain replies, which follow one another, as outcomes, and how many seconds they took on average.

    Args:
        replies: the number of a link, what it returned, when it began, and when it ended.
        first: the number from which on they are news.
        worker: who ran them.
        memory: what it held at most, in bytes; 0 if that is not known.
    """
    known = first - replies[0][0] if replies else 0
    if not 0 <= known < len(replies):  # what was before them may be lost: then nobody can tell how they go on
        return [], 0.0
    _, returned, began, ended = zip(*replies[known:], strict=True)
    took = list(map(sub, ended, began))
    notes = zip(repeat(1), repeat(worker), repeat(True), took, repeat(memory))  # noqa: FBT003 - as notes are
    return list(map(Success, returned, began, ended, notes)), sum(took) / len(took)


def rest(item: Item, number: int) -> tuple[Block, Item]:
    """Return the end of a block, from a link on, as one of its own, with its item; the other still is the whole."""
    block: Block = item.call  # type: ignore[assignment]  # nothing else has a rest
    start = item.at + number - item.number
    part = block.part(start, item.stop)
    other = Item(part, item.function)
    other.kwargs, other.parcels = item.kwargs, item.parcels
    other.columns = {
        name: column[start - block.start : item.stop - block.start] for name, column in item.columns.items()
    }
    other.at, other.stop = start, item.stop
    part.handle = other
    return part, other
