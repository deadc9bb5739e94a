"""Runs one fault case and tells what it left behind; started by file path, imports the standard library only.

The harness cannot look after a case itself: pytest has children of its own, and whoever adopts orphans must reap
whatever comes. So each case gets a parent that does nothing else: it is a subreaper, so that every process that loses
its parent (a daemonised grandchild too) becomes its child and nothing can hide; it reaps; it enforces the limit.

In: a JSON object on stdin (`argv`, `env`, `cwd`, `input`, `limit`, `grace`, `tag`). Out: one on stdout.

At the limit every process of the case gets SIGABRT first: `PYTHONFAULTHANDLER` makes each Python among them write the
stacks of all its threads to stderr, whoever holds the GIL. Then all are killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def main() -> None:
    spec = json.load(sys.stdin)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests were started in the background
    _own_shared_memory()
    shared_before = _shared_memory()
    started = time.monotonic()
    case = Case(spec)
    hung = not case.wait_for_main(started + spec["limit"])
    if hung:
        case.ask_for_stacks()
    seconds = time.monotonic() - started
    left = case.wait_for_rest(time.monotonic() + spec["grace"])
    case.kill_all()
    shared = sorted(_shared_memory() - shared_before)
    report = {"hung": hung, "returncode": case.returncode, "seconds": seconds, "left": left, "shared": shared}
    json.dump({**report, **case.output()}, sys.stdout)


class Case:
    """The case's first process and everything that descends from it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.tag = spec["tag"].encode()
        self.returncode: int | None = None
        self._files = {name: os.path.join(spec["cwd"], "..", name) for name in ("stdin", "stdout", "stderr")}
        with open(self._files["stdin"], "w", encoding="utf-8") as file:
            file.write(spec["input"])
        with open(self._files["stdin"]) as stdin, open(self._files["stdout"], "wb") as out:
            with open(self._files["stderr"], "wb") as err:
                self._main = subprocess.Popen(
                    spec["argv"],
                    env=spec["env"],
                    cwd=spec["cwd"],
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        # Only now: the mask would be inherited.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

    def wait_for_main(self, deadline: float) -> bool:
        while self._reap() is None and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, min(0.1, max(0.0, deadline - time.monotonic())))
        return self._reap() is not None

    def wait_for_rest(self, deadline: float) -> list[str]:
        """What is still alive at the deadline; returns as soon as nothing is."""
        while True:
            self._reap()
            left = self._alive()
            if not left or time.monotonic() >= deadline:
                return [_describe(pid) for pid in left]
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)

    def ask_for_stacks(self) -> None:
        for pid in self._alive():
            _kill(pid, signal.SIGABRT)
            time.sleep(0.2)  # one after the other, so that the stacks do not mix

    def kill_all(self) -> None:
        while left := self._alive():
            for pid in left:
                _kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)
            self._reap()

    def output(self) -> dict[str, str]:
        texts = {}
        for name in ("stdout", "stderr"):
            with open(self._files[name], encoding="utf-8", errors="backslashreplace") as file:
                texts[name] = file.read()
        return texts

    def _reap(self) -> int | None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._main.pid:
                self.returncode = self._main.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _alive(self) -> list[int]:
        """Every process that descends from us or carries the tag (zombies have no environment left)."""
        parents = {int(name): _stat(name) for name in os.listdir("/proc") if name.isdigit()}
        ours = {os.getpid()}
        growing = True
        while growing:
            more = {pid for pid, (_, parent) in parents.items() if parent in ours} - ours
            ours |= more
            growing = bool(more)
        ours.discard(os.getpid())
        tagged = {pid for pid in parents if self.tag in _read(f"/proc/{pid}/environ")}
        return sorted(pid for pid in (ours | tagged) if parents[pid][0] not in "ZX")


def _stat(pid: int | str) -> tuple[str, int]:
    """State and parent."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[1])) if fields else ("X", 0)


def _describe(pid: int) -> str:
    command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")
    return f"{pid} {_stat(pid)[0]} {command}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _own_shared_memory() -> None:
    """Give this process and the case a ``/dev/shm`` that no other program writes to, where the system allows it."""
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, None)


def _shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


if __name__ == "__main__":
    main()
