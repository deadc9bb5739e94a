"""What a call may change of its worker, and the next does not find changed: folder, environment, umask, signals, timer.

Workers load this file by its path: standard library only. To look at all of it after every call costs 2 us, which is
more than a short call does. So the functions that change it say that they have been called; what C code changes behind
their backs is put back when the worker has done all that it was sent.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # its functions make no enumerations, which cost more than they
import os
import signal
import sys
from functools import wraps

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

_NAMES = """
SIGHUP SIGINT SIGQUIT SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGTERM SIGCHLD SIGCONT SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU
SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGABRT SIGSEGV SIGFPE
"""
SIGNALS = [int(getattr(signal, name)) for name in _NAMES.split() if hasattr(signal, name)]
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

CHANGING = {
    "posix": ("chdir", "fchdir", "umask"),
    "os": ("chdir", "fchdir", "umask"),
    "_signal": ("signal", "setitimer", "alarm"),
    "signal": ("setitimer", "alarm"),
}
"""The functions that change what is put back; `signal.signal` calls `_signal.signal`."""


class Watched(dict):  # type: ignore[type-arg]  # there is no Any here
    """What `os.environ` keeps its values in; knows whether any has been written."""

    changed = False

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self.changed = True
        super().__delitem__(key)


class Surroundings:
    """Folder, environment, umask, signal handlers and timers of this process, as calls find them.

    Args:
        marks: variables that the environment always has.
    """

    def __init__(self, marks: dict[str, str]) -> None:
        self._marks = {os.fsencode(name): os.fsencode(value) for name, value in marks.items()}
        self._data = Watched(vars(os.environ)["_data"])
        vars(os.environ)["_data"] = vars(os.environb)["_data"] = self._data
        self._known: dict[Any, Any] = {}
        self._folder = -1
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._handlers = self._current()
        self._touched = False
        self._chdir, self._set_mask = os.fchdir, os.umask
        self._alarm, self._set_timer, self._set_handler = _signal.alarm, _signal.setitimer, _signal.signal
        self.become(os.curdir, dict(os.environb))
        for module, names in CHANGING.items():
            for name in names:
                self._watch(sys.modules[module], name)

    def _watch(self, module: Any, name: str) -> None:
        original = getattr(module, name)

        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._touched = True
            return original(*args, **kwargs)

        setattr(module, name, call)

    def become(self, folder: str, environment: dict[bytes, bytes]) -> None:
        """Be as the program is."""
        try:
            os.chdir(folder)
            opened = os.open(os.curdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            pass  # it was removed: calls stay where they were
        else:
            if self._folder >= 0:
                os.close(self._folder)
            self._folder = opened
        self._set({**environment, **self._marks})
        self._known = dict(self._data)
        self._data.changed = False

    def restore(self, *, thoroughly: bool) -> None:
        """Undo what a call has changed.

        Args:
            thoroughly: also what no function of Python's has changed.
        """
        if self._data.changed:
            self._set({os.fsencode(key): os.fsencode(value) for key, value in self._known.items()})
            self._data.changed = False
        if not self._touched and not thoroughly:
            return
        self._touched = False
        if self._folder >= 0:
            self._chdir(self._folder)
        self._set_mask(self._umask)
        self._alarm(0)  # the same timer as ITIMER_REAL, in half the time
        current = self._current()
        if current != self._handlers:
            for timer in TIMERS:  # whoever sets one of the others has a handler for it: without, it kills
                self._set_timer(timer, 0)
            for number, now, before in zip(SIGNALS, current, self._handlers, strict=True):
                if now != before and before is not None:
                    self._set_handler(number, before)

    def _current(self) -> list[Any]:
        return list(map(_signal.getsignal, SIGNALS))

    def _set(self, environment: dict[bytes, bytes]) -> None:
        now = dict(os.environb)
        for key in now.keys() - environment.keys():
            del os.environb[key]
        for key, value in environment.items():
            if now.get(key) != value:
                os.environb[key] = value
