"""The worker's own program: forked by the warden, or started by its path where there is none.

It imports nothing of pmflow's package and nothing of the user's until a call needs it, and never the program's
``__main__``. It reads chains, runs them link by link, and writes a reply per link as soon as there is one. What a call
changed of the process as such (see `restoring`) is put back before the next.
"""

from __future__ import annotations

import sys

if sys.path[:1] == [__file__.rpartition("/")[0]]:
    del sys.path[0]  # this folder: its platform.py is not the one that others want to import

import _thread
import importlib.util
import marshal
import os
import resource
import signal
import socket
import types
from collections import deque
from contextvars import Context
from math import inf
from time import perf_counter

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any

TRACEBACK_LIMIT = 50_000
MARKER = "PMFLOW_WORKER"
"""Names the worker in the environment of what it starts."""


def load(file: str) -> Any:
    """Import a file beside this one, without its package."""
    name = f"_pmflow_{file}"
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{file}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


parcels = load("parcels")
pickling = load("pickling")
restoring = load("restoring")
throttle = load("throttle")
values = load("values")
wire = load("wire")

FINAL, PLAIN = values.FINAL, parcels.PLAIN
_WELL = (wire.VALUE, wire.HANDED_ON)
_FOR_OTHERS = (wire.SKIPPED, wire.UNKNOWN)

_USUAL = ("", None, 1, inf, inf)
"""What a link says of itself, where it does not say it: name, index, attempt, and its bounds."""

QUICK = 5e-5
"""Seconds below which the system is not asked what a call has cost."""

TOGETHER = 0.001
"""Seconds for which the replies of a block's links are kept, to be sent together."""


class Server:
    """Serves one program over one channel."""

    def __init__(self, connection: socket.socket, page: Any, name: str) -> None:
        self._connection = connection
        self._page = page
        self._surroundings = restoring.Surroundings({MARKER: name})
        self._functions: dict[int, Any] = {}
        self._frames = wire.Frames()
        self._heard: deque[tuple[Any, list[Any]]] = deque()
        self._left = 0
        self._context = Context()
        self._uncarried: BaseException | None = None
        self._lock = _thread.allocate_lock()
        self._throttle = throttle.Throttle(self._send)
        self._throttled = 0
        self._log = Log(self)
        self._number = 0
        self._since_sent = 0.0
        self._about: Any = ""
        self._thread = _thread.get_ident()
        self._cpu = self._since = 0.0
        self._memory = self._resting = 0
        self._pid = os.getpid()
        try:
            self._peak = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:  # not Linux: the peak is that of all calls so far
            self._peak = -1
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """Say nothing any more: a child that a function forks is no worker, and must not keep its channel open."""
        self._pid = 0
        self._connection.close()

    def serve(self) -> None:
        """Serve until the program has gone."""
        self._send((0, wire.READY, self._pid))
        while self._hear():
            while self._heard:
                self._do(*self._heard.popleft())

    def _hear(self) -> bool:
        """Hear what is asked for; False if nobody can ask any more."""
        data, descriptors = wire.receive(self._connection)
        for message, numbers in self._frames.feed(data, descriptors):
            if message[0] != wire.GRANT:
                self._heard.append((message, [parcels.File(number) for number in numbers]))
            elif message[1] == self._number:
                self._left += message[2]
        return bool(data)

    def _do(self, message: Any, files: list[Any]) -> None:
        """Do what has been asked for; a function of its own, so that nothing of it is held while there is nothing."""
        if message[0] == wire.SETUP:
            self._set_up(*message[1:])
        else:
            _, functions, context, chains = message
            self._run(functions, context, chains, files)

    def _set_up(self, path: list[str], folder: str, environment: dict[bytes, bytes], levels: dict[str, int]) -> None:
        sys.path[:] = path
        self._functions.clear()
        self._surroundings.become(folder, environment)
        self._log.set_levels(levels)

    def _run(self, functions: dict[int, Any], context: Any, chains: list[Any], files: list[Any]) -> None:
        for index, packed in functions.items():
            self._functions[index] = parcels.Parcel.unpacked(packed, files)
        if context is not None:
            self._uncarried = None
            try:
                self._context = carried(parcels.Parcel.unpacked(context, files))
            except BaseException as error:
                self._uncarried = error
        self._measure(perf_counter())
        last = chains[-1]
        for chain in chains:
            if type(chain) is list:
                self._run_chain(chain, files, last=chain is last)
            elif len(chain) == wire.BLOCK:
                self._run_block(chain, files, last=chain is last)
            else:
                self._run_link(chain, None, files, last=chain is last)

    def _run_chain(self, links: list[Any], files: list[Any], *, last: bool) -> None:
        value: Any = None
        end = links[-1]
        for link in links:
            kind, value = self._run_link(link, value, files, last=last and link is end)
            if kind not in _WELL:
                self._page.has_children = has_children()
                return

    def _run_block(self, block: Any, files: list[Any], *, last: bool) -> None:
        """Run the links of a block, one after the other."""
        number, index, kwargs, columns, about = block
        name, first, *bounds = about
        self._since_sent = perf_counter()
        packed = list in {type(each) for column in (kwargs.values(), *columns.values()) for each in column}
        for place, values_of_one in enumerate(zip(*columns.values())):  # noqa: B905 - they are of one length
            given = dict(zip(columns, values_of_one))  # noqa: B905
            if kwargs:
                given.update(kwargs)
            if type(self._functions[index]) is parcels.Parcel or self._uncarried is not None:
                usual = f"{name}_{first + place}", first + place, 1, *bounds
                kind, _ = self._run_link((number + place, index, (), given, None, 0, usual), None, files, last=last)
                if kind in _FOR_OTHERS:
                    return  # the program has been told, and has the rest for somebody else
                continue
            self._about = [name, first - number, *bounds]
            if not self._run_one(number + place, self._functions[index], given, files, packed=packed):
                break
        if last:
            self._surroundings.restore(thoroughly=True)
            self._page.has_children = has_children()
        self._send_kept()

    def _run_one(self, number: int, function: Any, given: dict[str, Any], files: list[Any], *, packed: bool) -> bool:
        """Run a link of a block, and keep its reply if it is a usual one; False if it has not begun."""
        self._number = number
        page = self._page
        if not page.begin(number):
            self._send_kept()
            self._send((number, wire.SKIPPED))
            return False
        sent: list[Any] = []
        started = ended = 0.0
        value = reply = None
        try:
            if packed:
                given = {
                    name: self._opened(each, files) if type(each) is list else each for name, each in given.items()
                }
            started = perf_counter()
            context = self._context.copy()
            value = context.run(function, **given)
            if type(value) not in FINAL:
                value = context.run(values.finished, value)
            ended = perf_counter()
            if ended - started >= QUICK or not parcels.is_plain(value):
                reply = self._reply_with(number, value, sent, started, ended)
        except BaseException as error:
            reply = self._reply_of(number, error, None, sent, started or None)
        self._tidy_up(last=False)
        if reply is None and page.keep(marshal.dumps((number, value, started, ended), wire.PLAIN_MARSHAL)):
            if ended - self._since_sent > TOGETHER:
                self._send_kept()
            return True
        self._send_kept()
        self._send(reply or self._reply_with(number, value, sent, started, ended), sent)
        return True

    def _send_kept(self) -> None:
        """Send the replies that are kept."""
        count, data = self._page.taken()
        if count:
            self._send((0, wire.VALUES, count, data, self._resting))
            self._page.clear()
        self._since_sent = perf_counter()

    def _tidy_up(self, *, last: bool) -> None:
        """Have this process be as it was before the call; before anybody hears of its end."""
        if self._pid == 0:
            os._exit(0)  # the function has forked, and returned in both
        self._surroundings.restore(thoroughly=last)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or replaced by something that cannot
        if self._throttle.waiting is not None:
            self._throttle.flush()

    def _run_link(  # noqa: C901, PLR0912, PLR0915 - the path of every call: calls cost
        self, link: Any, value: Any, files: list[Any], *, last: bool
    ) -> tuple[int, Any]:
        """Run a link and reply; return the kind of the reply, and the value."""
        number, index, args, kwargs, feed, flags, self._about = link
        self._number = number
        loads = type(self._functions[index]) is parcels.Parcel
        if not self._page.begin(number, loads=loads):
            if last:
                self._page.has_children = has_children()
            self._send((number, wire.SKIPPED))
            return wire.SKIPPED, None
        if flags & wire.OBSERVED:
            self._send((number, wire.BEGAN, perf_counter()))
        sent: list[Any] = []
        called = False
        started = perf_counter()
        try:
            if self._uncarried is not None:
                raise self._uncarried  # noqa: TRY301 - as if the call had found it
            function = self._function(index) if loads else self._functions[index]
            if args:
                args = [self._opened(each, files) if type(each) is list else each for each in args]
            if kwargs:
                kwargs = {
                    name: self._opened(each, files) if type(each) is list else each for name, each in kwargs.items()
                }
            if feed is not None:
                args, kwargs = _fed(args, kwargs, feed, value)
            if loads:
                self._measure(perf_counter())  # what it took to load is not the call's
                self._page.begun()
            called = True
            started = perf_counter()
            context = self._context.copy()
            value = context.run(function, *args, **kwargs)
            if type(value) not in FINAL:
                if flags & wire.STREAM:
                    self._left = flags // wire.GRANTED
                    value = context.run(values.passed_on, value, self)
                else:
                    value = context.run(values.finished, value)
            ended = perf_counter()
            if value is values.PASSED_ON or (flags & wire.HAND_ON and not parcels.is_plain(value)):
                reply = (number, wire.HANDED_ON, None, started, ended, *self._usage(started, ended))
            else:
                reply = self._reply_with(number, value, sent, started, ended)
        except BaseException as error:
            reply = self._reply_of(number, error, value, sent, started if called else None)
        self._tidy_up(last=last)
        if last:
            self._page.has_children = has_children()
        self._send(reply, sent)
        return reply[1], value

    def _reply_with(self, number: int, value: Any, sent: list[Any], started: float, ended: float) -> tuple[Any, ...]:
        """Return the reply of a link that has returned a value."""
        usage = self._usage(started, ended)
        if parcels.is_plain(value):
            return (number, wire.VALUE, value, started, ended, *usage)
        try:
            return (number, wire.VALUE, self._packed(value, sent), started, ended, *usage)
        except BaseException as error:
            return (number, wire.UNSENDABLE, None, started, ended, *usage, _why_unsendable(value, error))

    # What is yielded goes here (see `values.Sink`)

    def wait(self) -> bool:
        """Wait until another element is wanted."""
        while not self.take():
            if not self._hear():
                raise ConnectionError("the program has gone")
        return True

    def take(self) -> bool:
        """Whether another element is wanted now."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def tell(self, element: Any) -> None:
        """Send an element."""
        files: list[Any] = []
        if not parcels.is_plain(element):
            try:
                element = self._packed(element, files)
            except BaseException as error:
                raise UnsendableError(_why_unsendable(element, error)) from error
        self._send((self._number, wire.YIELDED, element), files)

    def _reply_of(
        self, number: int, error: BaseException, value: Any, sent: list[Any], started: float | None
    ) -> tuple[Any, ...]:
        """Return the reply of a link that has raised, whatever the exception does when it is looked at."""
        try:
            return self._failed(number, error, value, sent, started)
        except BaseException as another:
            now = perf_counter()
            name = type(error).__name__
            text = f"{name}, of which nothing can be told: {type(another).__name__} when it was looked at"
            return (number, wire.ERROR, None, started or now, now, 0.0, self._memory, text, (name, text, []))

    def _failed(
        self, number: int, error: BaseException, value: Any, sent: list[Any], started: float | None
    ) -> tuple[Any, ...]:
        """Return the reply of a link that has raised, in its function or, without ``started``, before."""
        now = perf_counter()
        if started is not None and isinstance(error, UnsendableError):
            return (number, wire.UNSENDABLE, None, started, now, *self._usage(started, now), str(error))
        if started is not None:
            return self._error(number, wire.ERROR, error, started, now)
        if isinstance(error, pickling.NotHereError):
            try:
                return (number, wire.UNKNOWN, self._packed(value, sent), now, now, 0.0, 0, str(error))
            except Exception as another:
                error = pickling.NotHereError(f"{error}; and what it is to be given cannot be sent back: {another}")
        return self._error(number, wire.UNREADABLE, error, now, now)

    @staticmethod
    def _opened(packed: list[Any], files: list[Any]) -> Any:
        return parcels.Parcel.unpacked(packed, files).open()

    @staticmethod
    def _packed(value: Any, files: list[Any]) -> Any:
        return parcels.pack_data(value, pickling.pickler).packed(files)

    def _function(self, index: int) -> Any:
        known = self._functions[index]
        if type(known) is parcels.Parcel:
            try:
                known = self._functions[index] = known.open()
            except (ImportError, AttributeError) as error:
                raise pickling.NotHereError(f"{type(error).__name__}: {error}") from error
        return known

    def _usage(self, started: float, ended: float) -> tuple[float, int]:
        """Return the seconds that a call has taken of the cores, and the most memory, in bytes.

        To ask the system costs as much as a quick call: one that waits for nobody has taken as long as it took. What
        the worker itself has done since the system was asked last is left out: it waits for nobody either.
        """
        if ended - started < QUICK:
            return ended - started, self._resting
        cpu, since = self._cpu, self._since
        self._measure(ended)
        return max(0.0, self._cpu - cpu - (started - since)), self._memory

    def _measure(self, now: float) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu, self._since = used.ru_utime + used.ru_stime, now
        self._memory = self._resting = used.ru_maxrss * _MAXRSS_UNIT
        if self._peak >= 0:
            os.pwrite(self._peak, b"5", 0)  # the kernel's mark of the most memory begins anew, at what there is
            self._resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
        self._page.resting = self._resting

    def _error(self, number: int, kind: int, error: BaseException, started: float, ended: float) -> tuple[Any, ...]:
        """Return an exception as a reply: itself if it survives the journey, and its traceback as text."""
        import traceback

        cpu, peak = self._usage(started, ended)
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename in _OURS:
            frame = frame.tb_next
        error = error.with_traceback(frame)
        text = "".join(traceback.format_exception(type(error), error, frame))
        if len(text) > TRACEBACK_LIMIT:
            half = TRACEBACK_LIMIT // 2
            text = f"{text[:half]}\n... {len(text) - TRACEBACK_LIMIT} characters left out ...\n{text[-half:]}"
        found = getattr(error, "__notes__", None)
        notes = [_text(note) for note in found] if isinstance(found, (list, tuple)) else []
        payload = _travelled(error, lambda: error) or _travelled(
            error, lambda: pickling.Parts(type(error), error.args, error.__dict__)
        )
        description = (type(error).__name__, _text(error), notes)
        return (number, kind, payload, started, ended, cpu, peak, text, description)

    def _send(self, message: tuple[Any, ...], files: list[Any] = []) -> None:  # noqa: B006 - never changed
        data = wire.framed(message, len(files))
        with self._lock:
            if files:
                sent = self._connection.sendmsg([data], wire.rights([file.fd for file in files]))
                data = data[sent:]
            self._connection.sendall(data)

    def log(self, record: dict[str, Any]) -> None:
        """Send a log record; from any thread."""
        if self._pid:
            self._send((self._number, wire.LOGGED, record))

    def current(self) -> Any:
        """Return what the link that runs knows of itself, as a `Current`; None in other threads."""
        from pmflow.context import Current  # it is here already: whoever asks has it from there

        if _thread.get_ident() != self._thread:
            return None
        about: Any = self._about
        number, started = self._number, self._page.started
        if type(about) is list:  # of a block
            name, offset, *bounds = about
            about = f"{name}_{number + offset}", number + offset, 1, *bounds
        about = about if type(about) is tuple else (about,)
        label, index, attempt, *bounds = about + _USUAL[len(about) :]
        if self._throttled != number:
            self._throttled, self._throttle = number, throttle.Throttle(self._send)
        own = self._throttle

        def tell(fraction: float, message: str) -> None:
            if self._pid and self._number == number:
                own.take((number, wire.PROGRESSED, fraction, message, perf_counter()))

        return Current.of(label, index, attempt, started, tuple(bounds), lambda: False, tell)


def _fed(args: Any, kwargs: Any, feed: str | int, value: Any) -> tuple[Any, Any]:
    """Return arguments with the value of the link before in its place."""
    if isinstance(feed, str):
        return args, {**kwargs, feed: value}
    return (*args[:feed], value, *args[feed:]), kwargs


_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_OURS = (__file__, values.__file__, parcels.__file__)


def has_children() -> bool:
    """Whether this process has children, without taking the end of any away from who waits for it."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def carried(parcel: Any) -> Context:
    """Return a context in which variables have the values that they have in the program."""
    context = Context()
    for module, name, value in parcel.open():
        variable = getattr(importlib.import_module(module), name)
        context.run(variable.set, value)
    return context


class UnsendableError(Exception):
    """An element cannot leave this process."""


def _why_unsendable(value: Any, error: BaseException) -> str:
    return f"{_kind(value)}\n{type(error).__name__}: {error}"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(thing: Any) -> str:
    """Return the text of something, as a string of no other class, and not longer than a traceback may be."""
    try:
        return "".join(list(str(thing)[:TRACEBACK_LIMIT]))
    except Exception:
        return f"<{type(thing).__name__} whose text cannot be made>"


def _travelled(error: BaseException, thing: Any) -> Any:
    """Return the packed form of what a function returns, if the exception comes out of it again, and says the same."""
    try:
        parcel = parcels.pack_data(thing(), pickling.pickler)
        copy = pickling.put_together(parcel.open())
        same = type(copy) is type(error) and str(copy) == str(error)
    except BaseException:
        return None
    return parcel.in_memory().packed([]) if same and parcel.size < parcels.HEAVY else None


# What is logged


class Log:
    """Sends what is logged here to the program; stands by until somebody imports `logging`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._levels: dict[str, int] = {}
        self._logging: Any = None
        if "logging" in sys.modules:
            self._install(sys.modules["logging"])
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        """Find nothing, but see `logging` being imported."""
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_install(module: types.ModuleType) -> None:
            del loader.exec_module
            execute(module)
            self._install(module)

        loader.exec_module = execute_and_install
        return spec

    def _install(self, logging: Any) -> None:
        self._logging = logging
        server = self._server

        class Forward(logging.Handler):  # type: ignore[misc]
            def emit(self, record: Any) -> None:
                server.log(portable(record, logging))

        logging.getLogger().addHandler(Forward())
        self.set_levels(self._levels)

    def set_levels(self, levels: dict[str, int]) -> None:
        """Let through what the program would."""
        before, self._levels = self._levels, levels
        if self._logging is None:
            return
        for name, level in {**dict.fromkeys(before, 0), **levels}.items():
            self._logging.getLogger(name).setLevel(level)


def portable(record: Any, logging: Any) -> dict[str, Any]:
    """Return what can travel of a log record: its text is made, its exception is text."""
    fields = {name: each for name, each in record.__dict__.items() if type(each) in PLAIN}
    try:
        fields["msg"] = record.getMessage()
    except Exception as error:
        fields["msg"] = f"{record.msg!r} ({type(error).__name__}: {error})"
    fields["args"] = None
    if record.exc_info:
        fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
    return fields


# The program


def serve(connection: socket.socket, page: int, name: str) -> None:
    """Be a worker, until the program has gone."""
    # What cloudpickle defines as part of `__main__` is the program's; nothing of this file may be mistaken for it.
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        status = wire.Page(page)
        os.close(page)
        server = Server(connection, status, name)
        sys._pmflow_worker = server  # type: ignore[attr-defined]  # noqa: SLF001 - `platform` and `context` look for it
        server.serve()
    except (ConnectionError, KeyboardInterrupt):
        pass
    except BaseException as defect:  # of ours, or an end of descriptors: say so before the end
        sys.excepthook(type(defect), defect, defect.__traceback__)


def main(channel: int, page: int, lifeline: int) -> None:
    """Serve as a process that was started by the program itself, and end with it."""
    for descriptor in (channel, page, lifeline):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - as Python has it
    os.register_at_fork(after_in_child=lambda: os.close(lifeline))
    pid = os.getpid()
    _thread.start_new_thread(_wait_for_the_end, (lifeline, pid))
    try:
        serve(socket.socket(fileno=channel), page, f"{pid}-direct")
    finally:
        if os.getpid() == pid:
            os.killpg(pid, signal.SIGKILL)  # what it started ends with it
        os._exit(0)


def _wait_for_the_end(lifeline: int, pid: int) -> None:
    os.read(lifeline, 1)
    os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
