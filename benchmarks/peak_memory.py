"""How much memory a program takes together with everything it has started, seen from outside (Linux)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep

from rows import HERE, surroundings

BETWEEN = 0.002
"""Seconds from one sample to the next, beside those that it takes."""

PROC = Path("/proc")


def growth(code: str) -> float:
    """Return the bytes by which a fresh program has grown at its largest, from where it waits on.

    Args:
        code: prints a line, waits for one, and then does what is to be measured.
    """
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        env=surroundings(),
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline()
        before = most = occupied(running.pid)
        running.stdin.write("\n")
        running.stdin.flush()
        while running.poll() is None:
            most = max(most, occupied(running.pid))
            sleep(BETWEEN)
    assert running.returncode == 0
    return most - before


def occupied(pid: int) -> int:
    """Return what a program and its descendants occupy now, in bytes.

    The sum of their proportional set sizes: a page that two of them share counts once. What lies in shared memory
    counts once too, whether somebody has mapped it or not.
    """
    own = shared = 0
    files: dict[tuple[int, int], int] = {}
    for each in family(pid):
        with suppress(OSError):  # it has ended
            sizes = dict(_sizes((PROC / str(each) / "smaps_rollup").read_text(encoding="ascii")))
            own += sizes["Pss_Anon"] + sizes["Pss_File"]
            shared += sizes["Pss_Shmem"]
            files.update(_in_memory(PROC / str(each) / "fd"))
    return own + max(shared, sum(files.values()))


def family(pid: int) -> Iterable[int]:
    """Return the pids of a program and of all its descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    found = {pid}
    before = 0
    while len(found) > before:
        before = len(found)
        found.update(child for child, parent in parents.items() if parent in found)
    return found


def _sizes(rollup: str) -> Iterator[tuple[str, int]]:
    """Read lines such as ``Pss:  488 kB``."""
    for line in rollup.splitlines()[1:]:
        name, value, _ = line.split()
        yield name.rstrip(":"), int(value) * 1024


def _in_memory(descriptors: Path) -> Iterator[tuple[tuple[int, int], int]]:
    """Return the files without a place on a disk that a program has open: which they are, and their bytes."""
    for descriptor in descriptors.iterdir():
        with suppress(OSError):
            if os.readlink(descriptor).startswith(("/memfd:", "/dev/shm/")):  # noqa: S108, PTH115 - looked at only
                facts = descriptor.stat()
                yield (facts.st_dev, facts.st_ino), facts.st_blocks * 512
