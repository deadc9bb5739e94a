"""What comes of a comparison: knows the numbers of each strategy, what follows from them, and how both are shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from attrs import asdict, frozen

from pmflow.comparison.suggestions import FASTER, Suggestion, duration, scaled
from pmflow.config import ProcessType
from pmflow.results import SHOWN

HEAD = ("strategy", "median", "least", "spread", "speed-up", "cpu", "memory", "overhead", "results")

WIDTH = 100
"""Columns of the text."""


@frozen(kw_only=True)
class ComparisonRow:
    """What was measured of one strategy, or why nothing was.

    Attributes:
        strategy: ``as decorated``, ``async``, ``thread``, ``process`` or ``as suggested``.
        seconds: of each run, until the targets' data was in this program.
        speed_up: the median of (seconds as decorated / seconds) of neighbours in time.
        cpu_time: seconds of the cores, of one run (the median): of all threads of the program, and of the calls in
            workers. Of what a worker does around a call, and of what calls start, it knows nothing.
        peak_memory: bytes (the most of all runs): by how much the program grew at most, and for each worker the most
            it held during a call, added up. That is an upper bound: workers count with what they share, and need not
            have held the most at one moment. None where the system does not say (Linux does).
        overhead: seconds of a run in which no process of the graph was running, by the number of their calls (the
            median). What goes on while others run costs nothing, and is not in it.
        different: targets whose data is not equal to what the first run as decorated gave.
        unchecked: targets whose data cannot be compared.
        reason: why the strategy cannot run; then there are no numbers.
        head: the titles of ``cells``.
    """

    strategy: str
    seconds: tuple[float, ...] = ()
    speed_up: float | None = None
    cpu_time: float | None = None
    peak_memory: int | None = None
    overhead: float | None = None
    different: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    reason: str | None = None

    head: ClassVar[tuple[str, ...]] = HEAD

    @property
    def median(self) -> float | None:
        """The median of the seconds."""
        from statistics import median

        return median(self.seconds) if self.seconds else None

    @property
    def least(self) -> float | None:
        """The least of the seconds."""
        return min(self.seconds, default=None)

    @property
    def spread(self) -> float | None:
        """From the least to the most of the seconds, as a share of their median."""
        median = self.median
        return (max(self.seconds) - min(self.seconds)) / median if median else None

    def cells(self) -> tuple[str, ...]:
        """Return the row as texts, one per title of ``head``; or the strategy, and the reason why it cannot run."""
        if self.reason is not None:
            return self.strategy, self.reason
        numbers: tuple[tuple[float | None, Callable[[float], str]], ...] = (
            (self.median, duration),
            (self.least, duration),
            (self.spread, "{:.0%}".format),
            (self.speed_up, "{:.2f} x".format),
            (self.cpu_time, duration),
            (self.peak_memory, _size),
            (self.overhead, duration),
        )
        texts = ("-" if value is None else text(value) for value, text in numbers)
        return (self.strategy, *texts, "differ" if self.different else "unchecked" if self.unchecked else "agree")

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        return {**asdict(self), "median": self.median, "least": self.least, "spread": self.spread}


@frozen(kw_only=True, repr=False)
class Comparison:
    """One graph under every strategy. Made by `compare`; its text is a table, and what follows from it.

    Results that are not equal are no error, as there are functions of the time and of chance: the row says which they
    are, the table ``differ``, and a sentence under it what that means.

    Attributes:
        rows: what was measured of each strategy, the first as decorated.
        suggestions: process id to what suits it: of all functions that ran. Class-based processes stay as they are.

    >>> one = Suggestion(type=ProcessType.ASYNC, decorated=ProcessType.THREAD, reason="a call takes 1 us")
    >>> rows = (ComparisonRow(strategy="as decorated", seconds=(0.25, 0.5), speed_up=1.0),)
    >>> comparison = Comparison(rows=rows, suggestions={"one": one})
    >>> comparison.suggested, comparison.fastest.median
    ({'one': <ProcessType.ASYNC: 'async'>}, 0.375)
    >>> print(comparison)
    strategy      median   least  spread  speed-up  cpu  memory  overhead  results
    as decorated  375 ms  250 ms     67%    1.00 x    -       -         -  agree
    <BLANKLINE>
    Nothing was clearly faster than as decorated.
    Suggested:
      one: async, instead of thread: a call takes 1 us
    """

    rows: tuple[ComparisonRow, ...]
    suggestions: Mapping[str, Suggestion]

    @property
    def suggested(self) -> dict[str, ProcessType]:
        """Process id to the strategy that suits it: ``words.options(type=comparison.suggested["words"])``."""
        return {name: each.type for name, each in self.suggestions.items()}

    @property
    def fastest(self) -> ComparisonRow:
        """The row of the greatest speed-up."""
        return max(self.rows, key=lambda row: row.speed_up or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "fastest": self.fastest.strategy,
            "suggested": {
                name: {"type": each.type.value, "decorated": each.decorated.value, "reason": each.reason}
                for name, each in self.suggestions.items()
            },
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Draw the seconds of every strategy, and save the picture.

        Args:
            path: of the file; its suffix says the format (``.svg``, ``.png``, ``.pdf``).

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: a format that matplotlib does not know.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                'a comparison is drawn by matplotlib, which is not installed: pip install ".[report]"',
                name=missing.name,
            ) from missing
        figure = Figure(figsize=(8, 1 + 0.5 * len(self.rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(self.rows):
            median, least, most = row.median or 0.0, row.least or 0.0, max(row.seconds, default=0.0)
            color = "tab:green" if row is self.fastest else "tab:blue"
            axes.barh(place, median, xerr=[[median - least], [most - median]], color=color, capsize=3)
            axes.text(most, place, "could not run" if row.reason else f"  {row.speed_up or 0:.2f} x", va="center")
        axes.set_yticks(range(len(self.rows)), [row.strategy for row in self.rows])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("seconds (median, and from least to most); speed-up against as decorated")
        figure.savefig(os.fspath(path))

    # As text

    def __repr__(self) -> str:
        return "\n".join([*_columns(self.rows), "", *self._sentences()])

    def _sentences(self) -> Iterator[str]:
        from textwrap import wrap

        yield from (line for sentence in self._findings() for line in wrap(sentence, WIDTH))
        if self.suggestions:
            yield "Suggested:"
        changes_first = sorted(self.suggestions.items(), key=lambda each: not each[1].changes)
        for name, each in islice(changes_first, SHOWN):
            yield from wrap(f"{name}: {each}", WIDTH, initial_indent="  ", subsequent_indent="    ")
        if len(changes_first) > SHOWN:
            yield f"  ... and {len(changes_first) - SHOWN:,} more"

    def _findings(self) -> Iterator[str]:
        fastest, first = self.fastest, self.rows[0]
        speed_up = fastest.speed_up or 1.0
        if 1 / speed_up > FASTER:
            yield f"Nothing was clearly faster than {first.strategy}."
        else:
            yield f"The fastest was {fastest.strategy}: {speed_up:.2f} x {first.strategy}."
        if first.different:
            yield (
                f"The results of {_listed(first.different)} differ from one run to the next, even {first.strategy}: "
                "of them the comparison proves nothing."
            )
        for row in self.rows:
            wrong = [name for name in row.different if name not in first.different]
            if wrong:
                both = f"{first.strategy} and {row.strategy}"
                yield f"The results of {_listed(wrong)} differ between {both}: find out why."
        unchecked = dict.fromkeys(name for row in self.rows for name in row.unchecked)
        if unchecked:
            yield f"The results of {_listed(list(unchecked))} have nothing to compare them by: they were not checked."

    def _repr_html_(self) -> str:
        import html

        def line(cells: Sequence[str], tag: str) -> str:
            wide = f" colspan='{len(HEAD) - 1}'" if len(cells) < len(HEAD) else ""
            first, *others = (html.escape(cell) for cell in cells)
            return f"<tr><{tag}>{first}</{tag}>" + "".join(f"<{tag}{wide}>{each}</{tag}>" for each in others) + "</tr>"

        body = "".join(line(row.cells(), "td") for row in self.rows)
        text = html.escape("\n".join(self._sentences()))
        return f"<table><thead>{line(HEAD, 'th')}</thead><tbody>{body}</tbody></table><pre>{text}</pre>"


def _columns(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    from textwrap import shorten

    lines = [HEAD, *(row.cells() for row in rows)]
    whole = [line for line in lines if len(line) == len(HEAD)]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    margin = max(len(line[0]) for line in lines)
    for first, *others in lines:
        start = first.ljust(margin)
        if len(others) == 1:  # the reason why there are no numbers
            yield f"{start}  {shorten(others[0], WIDTH - margin - 2, placeholder=' ...')}"
        else:
            numbers = (cell.rjust(width) for cell, width in zip(others[:-1], widths[1:-1], strict=True))
            yield "  ".join([start, *numbers, others[-1]])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def _size(size: float) -> str:
    return scaled(size, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))
