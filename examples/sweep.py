"""A parameter sweep: how many counters does a shop need, and would steadier service do instead?

    python examples/sweep.py [--customers 20000] [--patience 1.0] [--plot waits.svg]

A queue is simulated for every combination of three parameters: how many customers come, how many counters are open,
and how much the time at a counter varies. Where it varies as chance does, the mean wait has a formula, Erlang's, that
the simulation is held against.

What it shows:

- ``map_over=cross(...)``: a call for each combination, in the order of `itertools.product`, in worker processes;
- several reduces of one map: a table, an answer and a drawing, each of which has all results;
- ``when``: there is no drawing where no file is named; what did not run has its reason;
- values in, values out: each combination has a random generator of its own, so the results do not depend on the order.

From a program of your own, the module is the graph, and its inputs are the axes:

    pmflow.run(sweep, inputs={"rates": [2.0], "counters": [3], "variations": [0.0, 1.0], "customers": 10_000})
"""

from __future__ import annotations

import argparse
import heapq
import math
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING, TypedDict

import pmflow
from pmflow import cross, process

if TYPE_CHECKING:
    from collections.abc import Iterator

MEAN_SERVICE = 1.0
"""Minutes at a counter, in the mean."""


class Cell(TypedDict):
    """What one simulation says: plain data, with the parameters, which a reduce wants to know."""

    rate: float
    count: int
    variation: float
    wait: float
    late: float


@process(type="process", map_over=cross(rate="rates", count="counters", variation="variations"))
def cell(rate: float, count: int, variation: float, customers: int, patience: float = 1.0) -> Cell:
    """Simulate one shop: in a worker process. ``wait`` is the mean, ``late`` the share of those who wait too long.

    Customers come at random, ``rate`` a minute, and take the counter that is free first. A service takes a fixed share
    of its time, and the rest is exponential: ``variation`` is 0 for a machine, and 1 for anything.
    """
    random = Random(f"{rate} {count} {variation}")  # noqa: S311 - a simulation
    free = [0.0] * count  # when each counter is free again: a heap
    now = total = 0.0
    late = 0
    for _ in range(customers):
        now += random.expovariate(rate)
        wait = max(0.0, free[0] - now)
        total += wait
        late += wait > patience
        service = MEAN_SERVICE * (1 - variation + variation * random.expovariate(1.0))
        heapq.heapreplace(free, now + wait + service)
    return {"rate": rate, "count": count, "variation": variation, "wait": total / customers, "late": late / customers}


def erlang(rate: float, count: int) -> float:
    """Return the mean wait where variation is 1; infinite where more come than can be served.

    A. K. Erlang, 1917: the chance to wait (Erlang C) over the rate at which the queue gets shorter.
    """
    load = rate * MEAN_SERVICE
    if load >= count:
        return math.inf
    all_busy = load**count / math.factorial(count) * count / (count - load)
    chance = all_busy / (sum(load**n / math.factorial(n) for n in range(count)) + all_busy)
    return chance * MEAN_SERVICE / (count - load)


@process
def table(cell: list[Cell]) -> str:
    """Reduce to a table of the mean waits: a row for each rate and variation, and one for what the formula says."""
    counters = sorted({each["count"] for each in cell})
    lines = ["rate  variation" + "".join(f"{number:>9}" for number in counters)]
    for (rate, variation), shops in by_shop(cell):
        lines.append(f"{rate:4}  {variation:9}" + "".join(f"{each['wait']:9.2f}" for each in shops))
        if variation == 1:
            lines.append(f"{rate:4}    formula" + "".join(f"{erlang(rate, number):9.2f}" for number in counters))
    return "\n".join(lines)


@process
def answer(cell: list[Cell], tolerated: float = 0.05) -> list[str]:
    """Reduce to what was asked: the fewest counters at which few wait too long, for each rate and variation."""
    lines: list[str] = []
    for (rate, variation), shops in by_shop(cell):
        enough = next((str(each["count"]) for each in shops if each["late"] <= tolerated), "more than were tried")
        lines.append(f"{rate} customers a minute, variation {variation}: {enough}")
    return lines


def by_shop(cells: list[Cell]) -> Iterator[tuple[tuple[float, float], list[Cell]]]:
    """Yield each rate and variation with its cells, the fewest counters first."""
    for key, group in groupby(
        sorted(cells, key=lambda each: (each["rate"], each["variation"], each["count"])),
        key=lambda each: (each["rate"], each["variation"]),
    ):
        yield key, list(group)


def wanted(plot: str) -> bool:
    """Say whether there is a file to draw to."""
    return plot != ""


@process(when=wanted)
def drawing(cell: list[Cell], plot: str = "") -> str:
    """Reduce to a drawing: a panel for each variation, a line for each number of counters; gives the file."""
    from matplotlib.figure import Figure  # without pyplot: nothing global, in a thread of any program

    variations = sorted({each["variation"] for each in cell})
    figure = Figure(figsize=(4.5 * len(variations), 4), layout="constrained")
    panels = figure.subplots(1, len(variations), sharey=True, squeeze=False)[0]
    for variation, panel in zip(variations, panels, strict=True):
        for number in sorted({each["count"] for each in cell}):
            line = [each for each in cell if (each["count"], each["variation"]) == (number, variation)]
            panel.plot([each["rate"] for each in line], [each["wait"] for each in line], "o-", label=f"{number} open")
        panel.set(title=f"variation {variation}", xlabel="customers a minute", ylabel="mean wait, minutes")
        panel.set_yscale("log")
        panel.grid(visible=True, alpha=0.3)
    panels[0].legend()
    figure.savefig(plot)
    return plot


def main() -> None:
    """Run the sweep, and print what it found."""
    parser = argparse.ArgumentParser(description="How many counters does a shop need?")
    parser.add_argument("--customers", type=int, default=20_000, help="of each simulation")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5, 2.0, 2.5, 3.0], help="customers a minute")
    parser.add_argument("--counters", type=int, nargs="+", default=[2, 3, 4, 5, 6], help="how many are open")
    parser.add_argument("--variations", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="of a service, 0 to 1")
    parser.add_argument("--patience", type=float, default=1.0, help="minutes after which a wait is too long")
    parser.add_argument("--plot", default="", help="a file for the drawing: .svg, .png or .pdf; needs matplotlib")
    run = pmflow.run([table, answer, drawing], inputs=vars(parser.parse_args()))
    print(f"The mean wait in minutes, by the number of counters:\n\n{run[table].data}")
    print("\nCounters at which at most 1 in 20 waits too long:", *run[answer].data, sep="\n  ")
    print(f"\nDrawing: {run[drawing].data or run[drawing].reason}")


if __name__ == "__main__":
    main()
