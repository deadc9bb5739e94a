"""Programs that a case starts in order to hurt them, and what can be seen of a process from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from inside import descendants


class Program:
    """A program that a case starts as a session of its own, in order to hurt it. Every line it prints is an event."""

    def __init__(self, text: str, environment: dict[str, str] | None = None) -> None:
        Path("program.py").write_text(text, encoding="utf-8")
        with open("stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "program.py"],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.lines: list[str] = []

    def __enter__(self) -> Program:  # noqa: PYI034 - nobody needs a subclass
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()  # without reading on: what it has left behind may hold it open

    def until(self, *words: str) -> None:
        """Wait until it has printed lines that begin with each of the words."""
        assert self._process.stdout is not None
        while not {word for line in self.lines for word in line.split()[:1]}.issuperset(words):
            line = self._process.stdout.readline()
            assert line, (self.lines, self.stderr())
            self.lines.append(line)

    def ends(self, seconds: float) -> int:
        """Wait for its end; how it ended. If it has not ended in time, the stacks of its threads are the failure."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            raise AssertionError(f"no end after {seconds} s\n{self.stderr()}") from None

    @staticmethod
    def stderr() -> str:
        return Path("stderr").read_text(encoding="utf-8")


SLOW = """
import os, time

with open("/proc/self/cmdline", "rb") as file:
    ours = b"/pmflow/executors/" in file.read()
if ours:
    open(f"{folder}/starting-{{os.getpid()}}", "w").close()
    time.sleep({seconds})
"""


def slow_start(seconds: float) -> dict[str, str]:
    """An environment where whatever pmflow starts leaves a file `starting-PID`, and then sleeps before it does more."""
    folder = Path("slow")
    folder.mkdir()
    text = SLOW.format(folder=Path.cwd(), seconds=seconds)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder.resolve()), os.environ["PYTHONPATH"]])}


def starting() -> list[Path]:
    """What has begun to start, slowly."""
    return sorted(Path().glob("starting-*"))


def warden() -> int:
    """The one child of this program, from which all workers descend."""
    (child,) = [pid for pid in descendants() if parent(pid) == os.getpid()]
    assert b"warden_main.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    return child


def parent(pid: int) -> int:
    return status(pid, "PPid")


def size(pid: int | str, name: str) -> int:
    """What a process takes by `/proc/PID/status`, in bytes; 0 once it has ended."""
    return 1024 * status(pid, name)


def status(pid: int | str, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)
