"""The program of one case: `python -m inside MODULE FUNCTION ARGUMENTS`; and what cases share.

While the program lives its pools may stay warm, within their bounds; what a run used may not stay. After its end
nothing may be left at all, which only the supervisor can see.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

CORES = len(os.sched_getaffinity(0))
MAX_WORKERS = max(2, CORES)
MAX_DESCENDANTS = MAX_WORKERS + 1  # the warden
MAX_THREADS = 32 + 64 + 8  # slots, abandoned ones, ours
MAX_DESCRIPTORS = 8 * MAX_WORKERS + 24


def main() -> None:
    module, function, arguments = sys.argv[1:]
    before = descriptors()
    getattr(importlib.import_module(module), function)(**json.loads(arguments))
    left: list[str] = []
    assert eventually(lambda: not left_over(before, left), 3), left


# --- what a program holds ---------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """How much of each kind this program holds; equal before and after means that nothing leaked."""

    descriptors: int
    threads: int
    descendants: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        return cls(len(descriptors()), threading.active_count(), len(descendants()))

    def within(self, other: Held) -> bool:
        return all(mine <= its for mine, its in zip(self, other, strict=True))


def left_over(before: dict[int, str], found: list[str]) -> list[str]:
    """Fill `found` with what must not be there even while pools are warm."""
    gc.collect()
    mine = threading.enumerate()
    new = {number: name for number, name in descriptors().items() if before.get(number) != name}
    children = descendants()
    found[:] = [f"thread {t}" for t in mine if not t.daemon and t is not threading.main_thread()]
    found += [f"descriptor {number} {name}" for number, name in new.items() if _is_file(name)]
    found += [f"zombie {pid}" for pid, state in children.items() if state == "Z"]
    counts = (len(mine), MAX_THREADS), (len(new), MAX_DESCRIPTORS), (len(children), MAX_DESCENDANTS)
    found += [f"{count} > {limit}: {mine} {new} {children}" for count, limit in counts if count > limit]
    return found


def descriptors() -> dict[int, str]:
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _is_file(name: str) -> bool:
    return name.startswith("/") and not name.startswith(("/dev/", "/memfd:", "/proc/"))


def descendants(of: int | None = None) -> dict[int, str]:
    """The state of every process below this one, or below another."""
    table = {int(name): _stat(name) for name in os.listdir("/proc") if name.isdigit()}
    found: dict[int, str] = {}
    parents = {os.getpid() if of is None else of}
    while parents:
        children = {pid: state for pid, (state, parent) in table.items() if parent in parents}
        found |= children
        parents = set(children)
    return found


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    return _stat(pid)[0] not in "ZX"


def gone(pid: int) -> bool:
    """Whether it does not exist any more; a zombie does."""
    return not os.path.exists(f"/proc/{pid}")


def _stat(pid: int | str) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return "X", 0
    return fields[0].decode(), int(fields[1])


# --- small tools ------------------------------------------------------------------------------------------------------


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """For what happens in another process and announces itself by nothing: whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def note(name: str, what: object) -> None:
    """Add a line to a file in the case's folder: what a worker has to say, whatever becomes of it."""
    with open(name, "a", encoding="utf-8") as file:
        file.write(f"{what}\n")


def noted(name: str) -> list[str]:
    """The lines of such a file."""
    return Path(name).read_text(encoding="utf-8").splitlines() if os.path.exists(name) else []


@contextlib.contextmanager
def raises(kind: type[BaseException], *words: str) -> Iterator[Caught]:
    """The block must raise exactly one exception of this kind, whose text has all the words."""
    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in {str(error)[:2000]!r}"
    else:
        raise AssertionError(f"did not raise {kind.__name__}")


class Caught:
    """Holds the exception once `raises` has seen it."""

    error: Any = None


# --- the common oracle ------------------------------------------------------------------------------------------------


def ten(
    call: Callable[[int], Any],
    *,
    fails_with: type[BaseException] | None,
    instead: Any = 3,
    lost_workers: int = 0,
    extra: float = 0.0,
    **settings: Any,
) -> Any:
    """Ten calls, two at a time; call 3 carries the fault, and costs only itself.

    Args:
        call: Returns `n * n`, for 3 the fault instead.
        fails_with: The type of call 3's exception, exactly; None where it is for the caller to look at.
        instead: What call 3 gets, where its argument is the fault.
        lost_workers: How many workers the fault may cost.
        extra: Seconds that the fault itself takes (a timeout).
        settings: For `@process`.

    Returns:
        The result of call 3.
    """
    process_of = Oracle(settings)
    process_of.run([0, 1, 2, 4] * 2)  # warm
    sound, before = process_of.run([0, 1, 2, 4, 5, 6, 7, 8, 9, 10], call), process_of.workers()
    held = Held.now()
    run = process_of.run([n if n != 3 else instead for n in range(10)], call)
    results = {n: run[f"call_{n}"] for n in range(10)}
    assert {n: result.data for n, result in results.items() if result.success} == {
        n: n * n for n in range(10) if n != 3
    }
    if fails_with is not None:
        assert type(results[3].exception) is fails_with, results[3]
        assert results[3].error_type == fails_with.__name__
    assert run.execution_time <= sound.execution_time + extra + 1.0
    after = process_of.workers()  # the same pool runs another graph
    assert len(after - before) <= lost_workers, (before, after)
    overhead = Held(0, 1 if results[3].stopped is False else 0, 0)  # an abandoned thread may live on
    limit = Held(*(a + b for a, b in zip(held, overhead, strict=True)))
    assert eventually(lambda: Held.now().within(limit)), (held, Held.now())
    return results[3]


class Oracle:
    """Runs one graph after another with the same settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def run(self, numbers: list[Any], call: Callable[[int], Any] = lambda n: n) -> Any:
        import pmflow

        if self.settings["type"] == "async" and not inspect.iscoroutinefunction(call):
            call = later(call)
        mapped = pmflow.process(call, id="call", map_over={"n": "numbers"}, **self.settings)
        return pmflow.run(mapped, inputs={"numbers": numbers}, max_threads=2, max_processes=2, on_error="return")

    def workers(self) -> set[int]:
        """The operating-system processes that run the calls of a healthy graph."""
        run = self.run(list(range(8)), where)
        assert run.success, run
        return set(run["call"].data)


def later(call: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same as a coroutine function, which may have a timeout on the loop."""

    async def called(n: int) -> Any:
        return call(n)

    return called


def where(n: int) -> int:
    time.sleep(0.01)  # one worker alone does not get through all of them
    return os.getpid()


if __name__ == "__main__":
    # Cases import this module by its name; it must not exist twice.
    importlib.import_module("inside").main()
