"""The warden's own program (Linux): forks workers, ends them with all they have started, and ends with the program.

Started by its path, with a channel to the program and the program's pidfd. It has one thread, the standard library,
cloudpickle, and nothing of the user's: a fork of it is a clean interpreter in some milliseconds.

It is the subreaper of all that its workers start: whoever loses their parent becomes a child of the warden, and cannot
hide. What it does:

- *fork*: a worker, in a session of its own, that dies when the warden does (PDEATHSIG);
- *kill*: a worker with its tree. When a worker has ended, however it did, what is left of its tree, of its session, or
  carries its mark in its environment, is killed, and the program is told;
- *quiet*: no run is active, so whatever else has become its child (it left both the tree and the session) is killed;
- at the end of the channel, or when the pidfd says that the program has ended (a child that the program has forked may
  still hold the other end of the channel), everything is killed until there are no children left.
"""

from __future__ import annotations

import sys

if sys.path[:1] == [__file__.rpartition("/")[0]]:
    del sys.path[0]  # this folder: its platform.py is not the one that others want to import

import ctypes
import gc
import importlib.util
import os
import select
import signal
import socket
from contextlib import suppress

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_spec = importlib.util.spec_from_file_location("_pmflow_worker_main", __file__.replace("warden_main", "worker_main"))
worker_main: Any = importlib.util.module_from_spec(_spec)  # type: ignore[arg-type]  # the file is beside this one
_spec.loader.exec_module(worker_main)  # type: ignore[union-attr]
wire = worker_main.wire

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Warden:
    """Looks after the workers of one program.

    ``workers`` maps the pid of each worker that lives to its name, ``doomed`` the names of those to what they had
    started when they were killed.
    """

    def __init__(self, channel: int, program: int) -> None:
        self.pid = os.getpid()
        self.channel = socket.socket(fileno=channel)
        self.program = program
        self.workers: dict[int, str] = {}
        self.doomed: dict[str, set[int]] = {}
        self.frames = wire.Frames()
        self.ear, self.mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
        """Look after them until the program has ended."""
        self.say("up")
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self.mouth, warn_on_full_buffer=False)
        poll = select.poll()
        for descriptor in filter(lambda each: each >= 0, (self.channel.fileno(), self.program, self.ear)):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(None if self.program >= 0 else 500)}
            if self.program in ready:
                return
            if self.ear in ready:
                with suppress(BlockingIOError):
                    os.read(self.ear, 4096)
                self.reap()
            if self.channel.fileno() in ready and not self.hear():
                return

    def hear(self) -> bool:
        """Do what the program has asked for; False when it has gone."""
        data, descriptors = wire.receive(self.channel)
        for (what, *arguments), numbers in self.frames.feed(data, descriptors):
            getattr(self, what)(*arguments, *numbers)
        return bool(data)

    def say(self, *message: Any) -> None:
        """Tell the program."""
        self.channel.sendall(wire.framed(message))

    # What the program asks for

    def fork(self, name: str, channel: int, page: int) -> None:
        """Fork a worker."""
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("the warden has more than one thread, so it cannot fork")
        pid = os.fork()
        if not pid:
            try:
                self.become_worker(name, channel, page)
            finally:
                os._exit(0)
        self.workers[pid] = name
        os.close(channel)
        os.close(page)

    def become_worker(self, name: str, channel: int, page: int) -> None:
        """Serve as a worker; in the child."""
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.pid:
            return
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.channel.close()
        for descriptor in (self.program, self.ear, self.mouth):
            if descriptor >= 0:
                os.close(descriptor)
        worker_main.serve(socket.socket(fileno=channel), page, name)

    def kill(self, name: str) -> None:
        """Kill a worker with all that it has started; that it has ended is said when it has."""
        pid = next((pid for pid, other in self.workers.items() if other == name), None)
        if pid is None or name in self.doomed:
            return
        self.doomed[name] = tree = set(descendants(pid))
        for each in (pid, *tree):
            _kill(each)

    def quiet(self, before: int) -> None:
        """Kill what belongs to no worker, and began before a moment (in clock ticks since the system's start)."""
        for child in children(self.pid):
            if child not in self.workers and _began(child) < before:
                for each in (child, *descendants(child)):
                    _kill(each)

    def clear(self, names: list[str]) -> None:
        """Kill what the workers of a warden before this one have left."""
        marks = [_mark(name) for name in names]
        for each in filter(str.isdigit, os.listdir("/proc")):
            if any(mark in _read(f"/proc/{each}/environ") for mark in marks):
                _kill(int(each))

    # Ends

    def reap(self) -> None:
        """Take note of all who have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            name = self.workers.pop(pid, None)
            if name is not None:
                self.sweep(pid, name, self.doomed.pop(name, set()))
                self.say("ended", name, os.waitstatus_to_exitcode(status))

    def sweep(self, session: int, name: str, tree: set[int]) -> None:
        """Kill what a worker that has ended has left: all of it that lives is below a child of the warden by now."""
        mark = _mark(name)
        for child in children(self.pid):
            if child in self.workers:
                continue
            if child in tree or _session(child) == session or mark in _read(f"/proc/{child}/environ"):
                for each in (child, *descendants(child)):
                    _kill(each)

    def end_all(self) -> None:
        """Kill everything below, until there is nothing."""
        while True:
            for child in children(self.pid):
                _kill(child)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def _ignore(_number: int, _frame: object) -> None:
    """Take a signal whose news comes by the wakeup descriptor."""


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found if found or _KERNEL_LISTS else [each for each in map(int, _pids()) if _field(each, 1) == pid]


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    found = [pid]
    for each in found:
        found += children(each)
    return found[1:]


_KERNEL_LISTS = os.path.exists("/proc/self/task/self/children") or os.path.exists(
    f"/proc/self/task/{os.getpid()}/children"
)


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _field(pid: int, place: int) -> int:
    """Return a number from what the kernel says of a process, counted from its state; -1 if it has gone."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[place]) if fields else -1


def _session(pid: int) -> int:
    return _field(pid, 3)


def _began(pid: int) -> int:
    return _field(pid, 19)


def _mark(name: str) -> bytes:
    return f"{worker_main.MARKER}={name}\0".encode()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main(channel: int, program: int) -> None:
    """Be the warden of a program."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for descriptor in (1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY)
    os.closerange(max(channel, program) + 1, os.sysconf("SC_OPEN_MAX"))
    for descriptor in filter(lambda each: each >= 0, (channel, program)):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - as Python has it
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with suppress(ImportError):
        __import__("cloudpickle")  # most functions need it, and no call is to be charged for that
    gc.collect()
    gc.freeze()
    warden = Warden(channel, program)
    try:
        warden.serve()
    except ConnectionError:
        pass
    finally:
        if os.getpid() == warden.pid:
            warden.end_all()
            warden.channel.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
