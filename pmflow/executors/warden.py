"""Who starts workers and ends them, as the program sees it: the warden, or, where there is none, the program itself.

Both keep the same promise: `fork` starts a worker on a channel and a page; `kill` ends it with all it has started; its
end, however it came, is told once, by `heard`. Workers have names of their own, which are never used again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pmflow.executors import wire
from pmflow.executors.parcels import above_standard
from pmflow.executors.platform import interpreter_flags, kill_group, numeric_threads

if TYPE_CHECKING:
    import subprocess

HERE = Path(__file__).parent
CHANNEL, PROGRAM = 3, 4
"""Descriptors of the warden's."""

ENOUGH = 5.0
"""Seconds that a warden gets to end everything."""


class GoneError(OSError):
    """The warden has ended."""


Ended = tuple[str, int]
"""A worker's name and its exit code (negative: the number of a signal)."""


class Keeper(Protocol):
    """Starts workers and ends them."""

    def fileno(self) -> int:
        """Return what is readable when there is something to hear."""
        ...

    def fork(self, name: str, channel: int, page: int) -> None:
        """Start a worker, on descriptors that stay the caller's.

        Raises:
            OSError: it cannot be started.
        """

    def kill(self, name: str) -> None:
        """End a worker, with all it has started."""

    def quiet(self) -> None:
        """End what workers have left behind: no run is active."""

    def heard(self) -> list[Ended]:
        """Return the workers that have ended since this was asked last.

        Raises:
            GoneError: the keeper has ended, and all workers with it.
        """
        ...

    def close(self, *, gone: bool = False) -> None:
        """End everything, and wait until that is done; ``gone``: it has ended itself."""

    def forget(self) -> None:
        """Let go, in a forked child: all of it is the parent's."""


def keeper(size: int, lost: Sequence[str] = ()) -> Keeper:
    """Return a new keeper for the workers of a pool of this size.

    Args:
        size: how many workers there are at most.
        lost: names of workers whose keeper has gone: what they have left is to be ended.

    Raises:
        OSError: it cannot be started.
    """
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        return Warden(size, lost)
    return Direct(size)


def command(main: str, *arguments: int) -> list[str]:
    """Return the command line that starts one of our own programs."""
    return [sys.executable or "python3", *interpreter_flags(), str(HERE / main), *map(str, arguments)]


def environment(size: int) -> dict[str, str]:
    """Return what the workers' libraries see when they are loaded."""
    return {**numeric_threads(size), **os.environ}


class Warden:
    """Talks to the warden, which it starts."""

    def __init__(self, size: int, lost: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair()
        self._channel = socket.socket(fileno=above_standard(ours.detach()))
        high = [fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 10), -1]
        theirs.close()
        try:
            with suppress(OSError):  # a sandbox without it: the end of the channel has to do
                pidfd = os.pidfd_open(os.getpid())
                high[1] = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, 10)
                os.close(pidfd)
            actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
            actions += [
                (os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, (CHANNEL, PROGRAM), strict=True) if fd >= 0
            ]
            argv = command("warden_main.py", CHANNEL, PROGRAM if high[1] >= 0 else -1)
            # Its own session at once: Ctrl-C goes to the program's, and the program tells the warden.
            self.pid = os.posix_spawn(argv[0], argv, environment(size), file_actions=actions, setsid=True)
        except BaseException:
            self._channel.close()
            raise
        finally:
            for descriptor in filter(lambda each: each >= 0, high):
                os.close(descriptor)
        self._frames = wire.Frames()
        self._is_up = False
        if lost:
            self._say("clear", list(lost))

    def fileno(self) -> int:
        """Return what is readable when there is something to hear."""
        return self._channel.fileno()

    def _say(self, *message: Any, descriptors: tuple[int, ...] = ()) -> None:
        data = wire.framed(message, len(descriptors))
        with suppress(ConnectionError):  # it has gone, which is heard
            sent = self._channel.sendmsg([data], wire.rights(descriptors))
            if sent < len(data):
                self._channel.sendall(data[sent:])

    def fork(self, name: str, channel: int, page: int) -> None:
        """Have a worker forked."""
        self._say("fork", name, descriptors=(channel, page))

    def kill(self, name: str) -> None:
        """Have a worker killed."""
        self._say("kill", name)

    def quiet(self) -> None:
        """Have strays killed that are older than two ticks of the system's clock: younger ones are a new run's."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
            self._say("quiet", int(ticks) - 2)

    def heard(self) -> list[Ended]:
        """Return the workers that have ended."""
        try:
            data, _ = wire.receive(self._channel)
        except ConnectionError:
            data = b""
        if not data:
            raise GoneError("the warden has ended")
        self._is_up = True
        return [(rest[0], rest[1]) for (what, *rest), _ in self._frames.feed(data) if what == "ended"]

    def close(self, *, gone: bool = False) -> None:
        """End it, and so everything."""
        self._channel.setblocking(False)  # noqa: FBT003 - as Python has it
        with suppress(OSError):
            self.heard()  # it may have come up meanwhile
        self._channel.close()
        if gone or not self._is_up:  # it would find that out once it has started; what it may have forked dies with it
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + ENOUGH
        while time.monotonic() < deadline:
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:  # somebody else has waited for it
                return
            time.sleep(0.001)

    def forget(self) -> None:
        """Let go, in a forked child."""
        self._channel.close()


class Direct:
    """Starts workers itself, and kills them with their process groups: where there is no warden."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._workers: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self._ended: list[Ended] = []
        self._ear, self._mouth = socket.socketpair()

    def fileno(self) -> int:
        """Return what is readable when there is something to hear."""
        return self._ear.fileno()

    def fork(self, name: str, channel: int, page: int) -> None:
        """Start a worker."""
        import subprocess

        end, lifeline = os.pipe()
        end, lifeline = above_standard(end), above_standard(lifeline)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own file
                command("worker_main.py", channel, page, end),
                stdin=subprocess.DEVNULL,
                pass_fds=[channel, page, end],
                env=environment(self._size),
                start_new_session=True,
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(end)
        self._workers[name] = process, lifeline

    def kill(self, name: str) -> None:
        """Kill a worker, and wait for it."""
        if name in self._workers:
            process, lifeline = self._workers.pop(name)
            kill_group(process.pid)
            self._ended.append((name, process.wait()))
            os.close(lifeline)
            self._mouth.send(b"!")

    def quiet(self) -> None:
        """Nothing can be done about what has left its process group."""

    def heard(self) -> list[Ended]:
        """Return the workers that have ended."""
        self._ear.recv(4096)
        ended, self._ended = self._ended, []
        return ended

    def close(self, *, gone: bool = False) -> None:  # noqa: ARG002 - it ends with the program
        """Kill them all."""
        for name in list(self._workers):
            self.kill(name)
        self.forget()

    def forget(self) -> None:
        """Let go, in a forked child."""
        for process, lifeline in self._workers.values():
            process.returncode = 0  # not this program's to wait for
            os.close(lifeline)
        self._ear.close()
        self._mouth.close()
