"""pmflow and other libraries on the same cases, each through one short adapter (see `adapters`; extra "bench-peers").

    python benchmarks/peers.py                     # everything that is installed: hours
    python benchmarks/peers.py makespan            # one section
    python benchmarks/peers.py --quick --json      # tiny sizes, which say nothing about speed; for machines

Everything is a time, so that less is better. Each number comes from a fresh program, since some libraries start
services and all of them leave threads behind: it opens its pool, runs the graph once unseen, then again and again.
Rounds go over all who take part, each time from the other end, so that noise hits all alike; a program counts with its
median, and the table has the median, least and most of the programs. What is made ahead of a run is not on the clock,
except that "by hand" the graph is taken in anew each time (3 us a process). What comes out is compared with what has
to come out: who returns something else has no time. A dash has its reason beside it. Granularity is measured at fixed
durations of the kernel, as the search for METG(50 %) takes the slowest hours: it is the duration of a task at which
efficiency is 50 %.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from adapters import CannotError
from adapters.cases import CASES, Case, Effort
from adapters.programs import TooLongError, fresh
from attrs import Factory, frozen
from rows import Line, main, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL = Effort(1_000, 100, (1e-4, 1e-3, 1e-2), 64, 0.05, repetitions=5, rounds=5, limit=90)
QUICK = Effort(100, 5, (1e-3,), 8, 0.002, repetitions=1, rounds=1, limit=60)

FLOOR, OURS = "by hand", "pmflow"

PEERS = {
    FLOOR: ("by_hand", "concurrent.futures"),
    OURS: ("with_pmflow", "pmflow"),
    "joblib": ("with_joblib", "joblib"),
    "loky": ("with_loky", "loky"),
    "mpire": ("with_mpire", "mpire"),
    "Pebble": ("with_pebble", "pebble"),
    "Dask": ("with_dask", "dask"),
    "distributed": ("with_distributed", "distributed"),
    "pipefunc": ("with_pipefunc", "pipefunc"),
    "Hamilton": ("with_hamilton", "hamilton"),
    "Ray": ("with_ray", "ray"),
    "Parsl": ("with_parsl", "parsl"),
    "redun": ("with_redun", "redun"),
    "Prefect": ("with_prefect", "prefect"),
}
"""Who takes part: the adapter, and what has to be installed."""


# Lines


@frozen
class Standing:
    """How long one of them takes for a case, or why it has no time."""

    head: ClassVar[tuple[str, ...]] = ("case", "unit", "who", "median", "spread", "times pmflow", "note")

    name: str
    unit: str
    who: str
    samples: Sequence[float]
    ours: float
    note: str

    @property
    def met(self) -> bool | None:
        """It has no goal of its own."""
        return None

    @property
    def median(self) -> float | None:
        """The median of the programs; None without one."""
        return median(self.samples) if self.samples else None

    @property
    def times(self) -> float | None:
        """How many times as long as pmflow it takes; None where it takes none."""
        return self.median / self.ours if self.median is not None and self.ours > 0 else None

    def cells(self) -> tuple[str, ...]:
        """Return the line as texts."""
        middle, times = ("-" if value is None else number(value) for value in (self.median, self.times))
        spread = f"{number(min(self.samples))} to {number(max(self.samples))}" if self.samples else "-"
        return self.name, self.unit, self.who, middle, spread, times, self.note

    def facts(self) -> dict[str, Any]:
        """Return the line as JSON has it."""
        measured = {"samples": list(self.samples), "median": self.median, "times_pmflow": self.times}
        return {"name": self.name, "unit": self.unit, "who": self.who, **measured, "note": self.note}


@frozen
class Place:
    """Who is first in a case, the floor aside, and in which place pmflow is."""

    head: ClassVar[tuple[str, ...]] = ("case", "first", "pmflow's place", "the next best or better", "")

    name: str
    medians: Mapping[str, float]
    ranked: Sequence[str] = Factory(lambda self: sorted(self.medians, key=self.medians.__getitem__), takes_self=True)

    @property
    def place(self) -> int:
        """The place of pmflow, from 1."""
        return self.ranked.index(OURS) + 1

    @property
    def met(self) -> bool | None:
        """Whether pmflow is first; None if nobody else has a time."""
        return self.place == 1 if len(self.ranked) > 1 else None

    @property
    def rival(self) -> str:
        """The first of the others, with its time as times pmflow's."""
        others = [who for who in self.ranked if who != OURS]
        return f"{others[0]} {number(self.medians[others[0]] / self.medians[OURS])} x" if others else "-"

    def cells(self) -> tuple[str, ...]:
        """Return the line as texts."""
        verdict = {None: "", True: "ok", False: "missed"}[self.met]
        return self.name, self.ranked[0], f"{self.place} of {len(self.ranked)}", self.rival, verdict

    def facts(self) -> dict[str, Any]:
        """Return the line as JSON has it."""
        return {"name": self.name, "ranked": list(self.ranked), "place": self.place, "met": self.met}


# Measuring


@frozen
class Outcome:
    """What the programs of one of them have come to: samples, and the reason why there are none, or no more."""

    samples: tuple[float, ...] = ()
    reason: str = ""


def section(name: str, effort: Effort) -> Iterator[Line]:
    """Measure every case of a section."""
    for case in CASES[name](effort):
        outcomes = in_rounds(case, effort)
        ours = median(outcomes[OURS].samples)
        for who, outcome in outcomes.items():
            note = outcome.reason or case.remark(median(outcome.samples))
            yield Standing(case.name, case.unit, who, outcome.samples, ours, note)
        ranked = {who: median(each.samples) for who, each in outcomes.items() if each.samples and who != FLOOR}
        yield Place(case.name, ranked)


def in_rounds(case: Case, effort: Effort) -> dict[str, Outcome]:
    """Measure a case with everybody, round by round; who has failed once is not asked again."""
    outcomes = dict.fromkeys(PEERS, Outcome())
    order = list(PEERS)
    for _ in range(effort.rounds):
        for who in order:
            before = outcomes[who]
            if before.reason:
                continue
            now = asked(who, case.name, effort)
            outcomes[who] = Outcome(before.samples + now.samples, now.reason)
        order.reverse()
    for who in (FLOOR, OURS):
        assert not outcomes[who].reason, f"{who}, {case.name}: {outcomes[who].reason}"
    return outcomes


def asked(who: str, name: str, effort: Effort) -> Outcome:
    """Measure one case with one of them, in a fresh program."""
    if find_spec(PEERS[who][1]) is None:
        return Outcome(reason='not installed (extra "bench-peers")')
    try:
        printed = fresh(PROGRAM.format(who=who, name=name, effort=effort), effort.limit)
    except (TooLongError, ChildProcessError) as error:
        return Outcome(reason=str(error)[:LONGEST])
    for line in printed.splitlines():
        if line.startswith(MARK):
            facts = json.loads(line[len(MARK) :])
            return Outcome(reason=facts["reason"]) if facts["reason"] else Outcome((median(facts["samples"]),))
    return Outcome(reason="its program ended early")


PROGRAM = """
if __name__ == "__main__":
    import peers

    peers.report({who!r}, {name!r}, peers.{effort!r})
"""
"""What measures one case; the guard is for workers that import it again."""

MARK = "peers measured: "
"""Before what a fresh program reports, which libraries may add to."""

LONGEST = 100
"""How much of a library's own words is shown."""


def report(who: str, name: str, effort: Effort) -> None:
    """Print the samples of one case as JSON, or why there are none; in a fresh program."""
    found = {case.name: case for cases in CASES.values() for case in cases(effort)}
    samples: list[float] = []
    reason = ""
    try:
        samples = found[name].measure(PEERS[who][0], effort)
    except (CannotError, TooLongError, ChildProcessError) as error:
        reason = str(error)[:LONGEST]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is why there is no time
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
    print(MARK + json.dumps({"samples": samples, "reason": reason}), flush=True)


# What it comes to


def by_case(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the medians of those who have one, by case and by who it is."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("median") is not None:
            found.setdefault(row["name"], {})[row["who"]] = row["median"]
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say in how many cases pmflow is first, and in each of the others who is ahead of it, and how far."""
    cases = by_case(rows)
    behind: list[str] = []
    for name, medians in cases.items():
        ahead = {who: medians[OURS] / value for who, value in medians.items() if value < medians[OURS] and who != FLOOR}
        if ahead:
            named = ", ".join(f"{who} {number(times)} x" for who, times in sorted(ahead.items(), key=lambda it: -it[1]))
            behind.append(f"{name} ({named})")
    others = {row["who"] for row in rows if row.get("median") is not None} - {FLOOR, OURS}
    if not others:
        return "Nobody else is installed: there is nothing to compare."
    libraries = f"{len(others)} other {'library' if len(others) == 1 else 'libraries'}"
    first = f"Against {libraries} pmflow is first in {len(cases) - len(behind)} of {len(cases)} cases."
    return f"{first} Ahead of it, in: {'; '.join(behind)}." if behind else first


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw a panel for each case: how long everybody takes, the fastest on top."""
    from matplotlib.figure import Figure

    cases = by_case(rows)
    units = {row["name"]: row["unit"] for row in rows if "unit" in row}
    columns = 3
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(5 * columns, 0.6 + 3 * lines), layout="constrained")
    panels = figure.subplots(max(1, lines), columns, squeeze=False).flat
    for (name, medians), axes in zip(cases.items(), panels, strict=False):
        ranked = sorted(medians, key=medians.__getitem__)
        colours = [{OURS: "#1b6ca8", FLOOR: "#444444"}.get(who, "#b8c4ce") for who in ranked]
        axes.barh(ranked, [medians[who] for who in ranked], color=colours)
        axes.set(title=name, xlabel=units[name], xscale="log")
        axes.invert_yaxis()
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle("Time, less is better, on a scale of powers of ten; pmflow in blue, by hand in black")
    return figure


# The program

SECTIONS: dict[str, Callable[[Effort], Iterator[Line]]] = {name: partial(section, name) for name in CASES}


if __name__ == "__main__":
    main("pmflow and other libraries on the same cases.", SECTIONS, QUICK, FULL)
