"""What a section leaves behind: its rows as JSON lines, as a table in Markdown, and as a picture."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen
from rows import Line, by_head

from pmflow.executors.platform import cores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent / "results"
"""Where results are written, where nothing else is said."""

PACKAGES = (
    *("pmflow", "anyio", "attrs", "cloudpickle", "numpy", "pandas"),
    *("dask", "distributed", "joblib", "loky", "mpire", "parsl", "pebble", "pipefunc", "prefect", "ray", "redun"),
    "sf-hamilton",
)
"""What the times depend on, as far as it is installed."""

Facts = Mapping[str, Any]


@frozen
class Results:
    """What one section has measured.

    Args:
        section: its name.
        rows: what it has measured.
        quick: whether the sizes were tiny, so that it says nothing about speed.
        draw: makes a picture of the facts of the rows; without one, `bars` does.
        summary: says in one paragraph what they come to.
    """

    section: str
    rows: Sequence[Line]
    quick: bool = False
    draw: Callable[[Sequence[Facts]], Any] | None = None
    summary: Callable[[Sequence[Facts]], str] | None = None

    def write(self, folder: Path) -> list[Path]:
        """Write ``<section>.jsonl``, ``.md`` and, where matplotlib is there, ``.svg``; return where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{self.section}.jsonl", folder / f"{self.section}.md"]
        written[0].write_text("".join(f"{json.dumps(line)}\n" for line in self.lines()), encoding="utf-8")
        written[1].write_text(self.markdown(), encoding="utf-8")
        try:
            figure = (self.draw or bars)([row.facts() for row in self.rows])
        except ModuleNotFoundError as error:
            print(f'no picture: {error}; the extra "bench" has what draws', file=sys.stderr)
            return written
        picture = folder / f"{self.section}.svg"
        figure.savefig(picture, metadata={"Date": None})
        return [*written, picture]

    def lines(self) -> Iterator[Facts]:
        """Return what stands in the lines of JSON: the surroundings, then each row."""
        yield {"section": self.section, "quick": self.quick, **surroundings()}
        for row in self.rows:
            yield row.facts()

    def markdown(self) -> str:
        """Return the rows as tables in Markdown, under a heading that says where and when."""
        facts = surroundings()
        versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        parts = [f"# {self.section}", f"{facts['date'][:10]}, {facts['machine']}. {versions}."]
        if self.quick:
            parts.append("Tiny sizes: these numbers say nothing about speed.")
        parts += [grid(head, [row.cells() for row in rows]) for head, rows in by_head(self.rows)]
        if self.summary is not None:
            parts.append(self.summary([row.facts() for row in self.rows]))
        return "\n\n".join([*parts, f"`python -m benchmarks {self.section}`"]) + "\n"


def surroundings() -> dict[str, Any]:
    """Return when and on what something is measured."""
    machine = f"{platform.system()} {platform.machine()}, {processor()}, {cores()} cores for this program"
    versions = {"Python": platform.python_version(), **dict(_versions())}
    return {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": machine, "versions": versions}


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    table = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)


OURS, GOAL = "#1b6ca8", "#b03a2e"


def bars(rows: Sequence[Facts]) -> Figure:
    """Draw how much of its floor each row takes, with the goal as a stroke."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if "ratio" in row]
    figure = Figure(figsize=(9, 1 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(places, [row["ratio"] for row in shown], color=OURS, height=0.6)
    for place, row in zip(places, shown, strict=True):
        goal = row.get("goal") or ""
        if goal.endswith(" x"):
            most = float(goal.split()[1])
            axes.plot([most, most], [place - 0.4, place + 0.4], color=GOAL, linewidth=2)
    axes.axvline(1, color="black", linewidth=1, linestyle="dotted")
    axes.set_yticks(places, [row["name"] for row in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("times the floor, which is 1 (less is faster); a stroke is the goal")
    return figure
