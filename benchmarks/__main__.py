"""All benchmarks in one command; each is a module beside this one, and a program of its own too.

    python -m benchmarks                               # everything but the peers: about half an hour
    python -m benchmarks overhead startup.hello        # one section, and a part of one
    python -m benchmarks --quick --results /tmp/tried  # tiny sizes, which say nothing about speed
    python -m benchmarks peers                         # against other libraries (extra "bench-peers")
    python -m benchmarks profile overhead --strategy thread

Each section leaves ``<section>.jsonl`` (the surroundings, then every row with its samples), ``.md`` and ``.svg``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the modules import one another by their names alone

import profiles
from results import FOLDER, Results
from rows import Line, table

EVERYDAY = ("overhead", "workers", "strategies", "granularity", "data", "scale", "makespan", "startup")
"""What is measured where nothing else is said."""

ON_DEMAND = ("peers",)


def main(words: Sequence[str]) -> int:
    """Measure what is asked for; return 1 where a goal is missed and that was asked for too, else 0."""
    if words[:1] == ["profile"]:
        return profiles.main(words[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What pmflow costs, against floors.")
    known = ", ".join([*EVERYDAY, *ON_DEMAND])
    parser.add_argument("sections", nargs="*", metavar="SECTION[.PART]", help=f"{known}; default: all but the last")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, not how fast it is")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="where results are written")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args(words)
    asked = [word.partition(".")[::2] for word in arguments.sections or EVERYDAY]
    for section, part in asked:
        if section not in (*EVERYDAY, *ON_DEMAND):
            parser.error(f"no section {section!r}; there are {known} (and profile)")
        parts = import_module(section).SECTIONS
        if part and part not in parts:
            parser.error(f"no part {part!r} in {section}; there are {', '.join(parts)}")
    met = [measured(section, part, arguments) for section, part in asked]
    return int(arguments.check and not all(met))


def measured(section: str, part: str, arguments: argparse.Namespace) -> bool:
    """Measure a section, or a part of it, and leave its results; return whether no goal is missed."""
    module = import_module(section)
    rows = list(_rows(module, part, module.QUICK if arguments.quick else module.FULL))
    draw, summary = getattr(module, "draw", None), getattr(module, "summary", None)
    whole = not part
    name = section if whole else f"{section}.{part}"
    results = Results(name, rows, arguments.quick, draw if whole else None, summary if whole else None)
    print(f"\n{name}\n\n{table(rows)}")
    for path in results.write(arguments.results):
        print(f"written: {path}")
    return not any(row.met is False for row in rows)


def _rows(module: Any, part: str, effort: Any) -> Iterator[Line]:
    for name, measure in module.SECTIONS.items():
        if part in ("", name):
            for row in measure(effort):
                print(f"{module.__name__}.{name}: {row.name}", file=sys.stderr)
                yield row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
