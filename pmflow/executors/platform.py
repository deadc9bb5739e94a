"""All differences between systems."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import lru_cache
from math import ceil
from pathlib import Path

from pmflow.executors.numeric import NUMERIC, has_decided

GROUPS = Path("/sys/fs/cgroup")


@lru_cache(maxsize=1)
def cores() -> int:
    """Return how many cores this program may use: by its affinity, and by the limits of its control groups."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _group_limit()
    return max(1, available if limit is None else min(available, ceil(limit)))


def _group_limit() -> float | None:
    """Return the tightest CPU limit of the control groups of this program, in cores (Linux; None: no limit)."""
    try:
        memberships = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            limits += _limits(GROUPS, path, _limit_v2)
        elif "cpu" in controllers.split(","):
            limits += _limits(GROUPS / "cpu", path, _limit_v1)
    return min(limits, default=None)


def _limits(root: Path, path: str, read: object) -> list[float]:
    """Return the limits of a group and of those it is in."""
    folders = [root / path.lstrip("/"), *(root / path.lstrip("/")).parents]
    found = [read(folder) for folder in folders if root in (folder, *folder.parents)]  # type: ignore[operator]
    return [limit for limit in found if limit is not None]


def _limit_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _limit_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period


def numeric_threads(workers: int) -> dict[str, str]:
    """Return the environment in which the numeric libraries of so many workers share the cores, and not fight for them.

    A program that has set ``OMP_NUM_THREADS`` has the last word: the libraries look there in the second place.
    """
    return {} if has_decided() else dict.fromkeys(NUMERIC, str(max(1, cores() // workers)))


def starved() -> int:
    """Return how many programs the system has ended for want of memory so far (Linux; elsewhere 0)."""
    try:
        counters = Path("/proc/vmstat").read_text(encoding="ascii").split()
        return int(counters[counters.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0


def in_worker() -> bool:
    """Whether this program is a worker of another."""
    return hasattr(sys, "_pmflow_worker")


def kill_group(leader: int) -> None:
    """End a worker, and everything in its process group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # all of it has ended; macOS says of a group of zombies that it is not ours


def kill_session(leader: int) -> None:
    """End a process that leads a session, with all that is in the session or below the process (see `_family`).

    As long as nobody has waited for the leader, its number is nobody else's.
    """
    killed: set[int] = set()
    while found := _family(leader) - killed:  # again: what was being forked meanwhile
        kill_group(leader)
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):  # it has ended, or has become another user's
                os.kill(pid, signal.SIGKILL)
        killed |= found


def _family(leader: int) -> set[int]:
    """Return a process, what is below it, and what is in its session (Linux; elsewhere only itself)."""
    below = [leader]
    for pid in below:
        below += _children(pid)
    return {*below, *(pid for pid in map(int, filter(str.isdigit, _names("/proc"))) if _session(pid) == leader)}


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in _names(f"/proc/{pid}/task"):
        with suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are what is needed, of all processes
    except OSError:
        return []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def describe_exit(code: int) -> tuple[int | None, str | None]:
    """Return the exit code, or the name of the signal, of a process that has ended."""
    if code >= 0:
        return code, None
    try:
        return None, signal.Signals(-code).name
    except ValueError:
        return None, f"signal {-code}"


def interpreter_flags() -> list[str]:
    """Return the flags with which this interpreter was started, as far as they concern a worker."""
    flags = sys.flags
    found = ["-X", f"utf8={flags.utf8_mode}"]
    if flags.isolated:
        found.append("-I")
    else:
        found += ["-E"] * flags.ignore_environment + ["-s"] * flags.no_user_site
    found += ["-" + "O" * flags.optimize] if flags.optimize else []
    found += ["-B"] if sys.dont_write_bytecode else []
    found += ["-" + "b" * flags.bytes_warning] if flags.bytes_warning else []
    found += [part for name in ("dev", "faulthandler") if name in sys._xoptions for part in ("-X", name)]  # noqa: SLF001
    for option in sys.warnoptions:
        found += ["-W", option]
    return found
