"""One adapter per library: how it runs a graph, in the way its own documentation recommends.

An adapter is a module with an `ADAPTER`. Its pools are opened once, and stay warm; for each graph it prepares whatever
can be made ahead of a run; what it returns then runs the graph, again and again, and nothing else is on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen
from worker_floors import Work

if TYPE_CHECKING:
    from floors import Shape

Inputs = Mapping[str, Any]
"""What every function of a graph receives before what it needs, by name."""

Values = Mapping[str, Any]
"""What came out, by the names of the processes."""

Step = Callable[[], Values]
"""Runs a graph, and returns at least the values that the work expects."""

Prepare = Callable[[Work, Inputs], Step]
"""Makes whatever can be made of a graph before it is run."""

Pool = Callable[[int], AbstractContextManager[Prepare]]
"""Starts so many threads or workers."""

T = TypeVar("T")

CHUNKS = 4
"""Into how many chunks a wide map is cut for each worker, where the library leaves that to its user."""


class CannotError(Exception):
    """The library has no way to do this; the message is the reason."""


@frozen
class Adapter:
    """A library.

    Args:
        imports: what a program that uses it imports.
        pools: how it runs graphs, by "thread" and "worker".
        hellos: a whole program of three functions, by "thread" and "worker"; it prints "hello world".
        cannot: why it does not run graphs so, by "thread" and "worker".
    """

    imports: str
    pools: Mapping[str, Pool]
    hellos: Mapping[str, str]
    cannot: Mapping[str, str] = field(factory=dict)

    def pool(self, kind: str) -> Pool:
        """Return how it runs graphs in threads or workers."""
        return self._of(self.pools, kind)

    def hello(self, kind: str) -> str:
        """Return the whole program, in threads or workers."""
        return self._of(self.hellos, kind)

    def _of(self, found: Mapping[str, T], kind: str) -> T:
        if kind not in found:
            raise CannotError(self.cannot[kind])
        return found[kind]


def layers(shape: Shape) -> list[tuple[str, ...]]:
    """Cut a graph into layers, for libraries that only have maps: each layer needs the ones before."""
    order = TopologicalSorter(shape)
    order.prepare()
    found: list[tuple[str, ...]] = []
    while order.is_active():
        found.append(order.get_ready())
        order.done(*found[-1])
    return found


def only_call(work: Work) -> Callable[..., Any] | None:
    """Return the one function that is called again and again, if no process needs another; else None."""
    calls = list(work.calls.values())
    apart = not any(work.shape.values()) and all(call is calls[0] for call in calls)
    return calls[0] if apart else None


def chunk(size: int, workers: int) -> int:
    """Return how many calls of a wide map go to a worker at a time."""
    return max(1, size // (CHUNKS * workers))


def arguments(inputs: Inputs, values: Values, needs: Sequence[str]) -> list[Any]:
    """Return what a function is called with."""
    return [*inputs.values(), *[values[need] for need in needs]]


def numbered(call: Callable[..., Any], inputs: tuple[Any, ...], _number: int) -> Any:
    """Make one call of a wide map: maps want something to map over, and these functions need nothing."""
    return call(*inputs)
