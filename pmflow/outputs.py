"""The outputs of a process: names for the elements of the tuple that it returns, each a process to all others.

Knows what takes an element out of a tuple, and nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pmflow.base import BaseProcess
from pmflow.config import ProcessType
from pmflow.decorator import FunctionProcess


class Arity:
    """A rule: a result has one element for each output."""

    __slots__ = ("outputs",)

    def __init__(self, outputs: Sequence[str]) -> None:
        self.outputs = outputs

    def __call__(self, value: Any) -> None:
        """Refuse another number of elements, or what has none."""
        names = ", ".join(self.outputs)
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"it has the outputs {names}, and returned a {type(value).__name__}, not a tuple of them")
        if len(value) != len(self.outputs):
            raise ValueError(f"it has {len(self.outputs)} outputs ({names}), and returned {len(value)}")

    def __repr__(self) -> str:
        return "outputs"


class Inserted:
    """What stands between the user's processes, and only hands on. It runs inline, whatever else is said."""

    __slots__ = ()


class Output(Inserted):
    """What an output is a process of: it takes one element of what another process returned."""

    def __init__(self, producer: BaseProcess[Any], index: int) -> None:
        self.producer = producer
        self.index = index
        self._rule = Arity(producer.config.outputs)

    def __call__(self, value: Any) -> Any:
        """Return the element."""
        self._rule(value)
        return value[self.index]

    def __eq__(self, other: object) -> bool:
        """Whether it is the same: the process of a bound method is made anew each time it is asked for."""
        if not isinstance(other, Output) or self.index != other.index:
            return False
        mine, theirs = self.producer, other.producer
        return mine is theirs or (mine.entry == theirs.entry and mine.config == theirs.config)

    def __hash__(self) -> int:
        return hash((self.producer.id, self.index))


def is_output(process: BaseProcess[Any]) -> bool:
    """Whether a process only takes an element of what another one returned."""
    return type(process) is FunctionProcess and type(process.__wrapped__) is Output


def is_inserted(process: BaseProcess[Any]) -> bool:
    """Whether a process only hands on what others made."""
    return type(process) is FunctionProcess and isinstance(process.__wrapped__, Inserted)


def with_outputs(processes: Iterable[BaseProcess[Any]]) -> Iterator[BaseProcess[Any]]:
    """Return processes, each followed by its outputs, which are processes to all others."""
    for process in processes:
        yield process
        if type(process) is not FunctionProcess or not process._settings.outputs:  # noqa: SLF001 - for every process
            continue
        settings = process._settings  # noqa: SLF001
        source = "map_over" if settings.map_over else "dependencies"
        for index, name in enumerate(settings.outputs):
            fields = {"process_type": ProcessType.ASYNC, "process_id": name, source: {"value": process.id}}
            yield FunctionProcess(Output(process, index), fields)
