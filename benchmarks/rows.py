"""What the benchmarks share: rows with their goals, the table, fresh programs, and the command line.

Every row gives the median of several repetitions and, in brackets, the least and the most of them. The ratio is the
median of the ratios of neighbours in time, in brackets that of the least. Compare rows of one run only: machines are
noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Protocol, TypeVar

import floors
from attrs import frozen
from floors import Samples

import pmflow

MICRO, MILLI = 1e6, 1e3

Facts = dict[str, Any]
"""What a fresh program reports of itself."""

HERE = Path(__file__).resolve().parent
"""Where fresh programs run: one that is given as text looks for modules in its working directory first."""

E = TypeVar("E")
"""How much is measured: what the sections of one benchmark take."""


@frozen
class Goal:
    """The most that is good: times the floor, or in the row's own unit."""

    most: float
    unit: str = "x"

    @property
    def text(self) -> str:
        """The goal in words."""
        return f"<= {self.most:.4g} {self.unit}"


class Line(Protocol):
    """A line of a table."""

    head: ClassVar[tuple[str, ...]]
    """The names of the columns."""

    @property
    def name(self) -> str:
        """What was measured."""
        ...

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        ...

    def cells(self) -> tuple[str, ...]:
        """Return the line as texts, one per column."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return the line as JSON has it."""
        ...


@frozen
class Row:
    """One operation: its samples, those of its floor taken in turn with them, and the goal."""

    head: ClassVar[tuple[str, ...]] = ("operation", "unit", "floor", "pmflow", "ratio", "goal", "", "of which")

    name: str
    unit: str
    samples: Samples
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """The median ratio of two neighbours in time."""
        return median(ours / floor for floor, ours in zip(*self.samples, strict=True))

    @property
    def least_ratio(self) -> float:
        """The least of ours to the least of the floor."""
        floor, ours = self.samples
        return min(ours) / min(floor)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return (self.ratio if self.goal.unit == "x" else median(self.samples[1])) <= self.goal.most

    def cells(self) -> tuple[str, ...]:
        """Return the row as texts."""
        floor, ours = (f"{number(median(side))} ({number(min(side))}-{number(max(side))})" for side in self.samples)
        verdict = {None: "", True: "ok", False: "missed"}[self.met]
        ratio = f"{self.ratio:.3g} ({self.least_ratio:.3g})"
        return self.name, self.unit, floor, ours, ratio, self.goal.text if self.goal else "", verdict, self.note

    def facts(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        floor, ours = self.samples
        measured = {"floor": floor, "pmflow": ours, "ratio": self.ratio, "least_ratio": self.least_ratio}
        judged = {"goal": self.goal.text if self.goal else None, "met": self.met, "note": self.note}
        return {"name": self.name, "unit": self.unit, **measured, **judged}


def number(value: float) -> str:
    """Return a number with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits either way


def table(rows: Sequence[Line]) -> str:
    """Lay rows out in columns; those with other columns in a table of their own."""
    return "\n\n".join(_columns([head, *(row.cells() for row in rows)]) for head, rows in by_head(rows))


def by_head(rows: Sequence[Line]) -> list[tuple[tuple[str, ...], list[Line]]]:
    """Return rows by the names of their columns, in the order in which these first come."""
    found: dict[tuple[str, ...], list[Line]] = {}
    for row in rows:
        found.setdefault(row.head, []).append(row)
    return list(found.items())


def _columns(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


# Whole programs


def program(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this pmflow and these files, and keeps what it compiles."""
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], env=surroundings(), cwd=HERE, capture_output=True, text=True, check=True
    )


def surroundings() -> dict[str, str]:
    """Return the environment of a fresh program."""
    path = [str(Path(pmflow.__file__).resolve().parents[1]), str(HERE)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": ""}


def program_row(name: str, codes: tuple[str, str], programs: int, goal: Goal | None = None, prints: str = "") -> Row:
    """Measure whole programs, the start of Python included.

    Args:
        name: of the row.
        codes: of the program by hand, and of the one with pmflow.
        programs: how often each is run.
        goal: of the row.
        prints: what both print.
    """
    floor, ours = (partial(floors.seconds_of, partial(_checked, code, prints)) for code in codes)
    return Row(name, "ms", floors.in_turn(floor, ours, programs, MILLI), goal)


def _checked(code: str, prints: str) -> None:
    assert program(code).stdout == prints


# The command line


def main(description: str, sections: Mapping[str, Callable[[E], Iterator[Line]]], quick: E, full: E) -> None:
    """Measure the sections asked for, and print the table.

    Args:
        description: what the benchmark is for.
        sections: name to what measures it.
        quick: how much is measured with ``--quick``.
        full: how much is measured without.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(sections)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, not how fast it is")
    parser.add_argument("--json", action="store_true", help="print JSON, with every sample, instead of the table")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in sections]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(sections)}")
    rows: list[Line] = []
    for name in arguments.sections or sections:
        for row in sections[name](quick if arguments.quick else full):
            print(f"{name}: {row.name}", file=sys.stderr)
            rows.append(row)
    print(json.dumps([row.facts() for row in rows], indent=2) if arguments.json else table(rows))
    if arguments.check and any(row.met is False for row in rows):
        sys.exit(1)
