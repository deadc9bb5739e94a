"""The worker's own program, started by its path: ``python worker_main.py DESCRIPTOR LIFELINE``.

It imports nothing of pmflow and nothing of the user's until a call needs it, and never the program's ``__main__``. It
reads a chain, runs it link by link, and writes a reply per link as soon as there is one. The lifeline is a pipe that
nobody writes to: it ends with the program, and the worker with it.
"""

from __future__ import annotations

import sys

if sys.path[:1] == [__file__.rpartition("/")[0]]:
    del sys.path[0]  # this folder: its platform.py is not the one that others want to import

import _thread
import importlib.util
import os
import pickle
import signal
import socket
import types
from time import perf_counter
from typing import Any

TRACEBACK_LIMIT = 50_000
CHUNK = 65_536
PID = os.getpid()


def _load(alias: str, file: str) -> Any:
    """Import a file beside this one, without its package."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), file)
    spec = importlib.util.spec_from_file_location(alias, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = sys.modules[alias] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wire = _load("_pmflow_wire", "wire.py")
values = _load("_pmflow_values", "values.py")


def main(descriptor: int, lifeline: int) -> None:
    """Serve the program until it is gone."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - as Python has it
    os.set_inheritable(lifeline, False)  # noqa: FBT003
    connection = socket.socket(fileno=descriptor)
    _end_with_the_program(lifeline)
    # A child that a function forks is no worker: it must not speak for one, nor keep its channel open.
    os.register_at_fork(after_in_child=connection.close)
    os.register_at_fork(after_in_child=lambda: os.close(lifeline))
    # What cloudpickle defines as part of `__main__` is the program's; nothing of this file may be mistaken for it.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys._pmflow_worker = True  # type: ignore[attr-defined]  # noqa: SLF001 - `platform.in_worker` looks for it
    frames = wire.Frames()
    functions: dict[bytes, Any] = {}
    while data := connection.recv(CHUNK):
        _serve(frames, data, functions, connection)


def _serve(frames: Any, data: bytes, functions: dict[bytes, Any], connection: socket.socket) -> None:
    """Do what has been asked for; a function of its own, so that nothing of it is held while there is nothing to do."""
    for body in frames.feed(data):
        message = pickle.loads(body)
        if isinstance(message, tuple):
            sys.path[:] = wire.Setup(*message).path
            functions.clear()
            connection.sendall(wire.frame(wire.Reply(wire.READY)))
        else:
            _run_chain([wire.Link(*link) for link in message], functions, connection)


def _end_with_the_program(lifeline: int) -> None:
    """Have this process group killed when the program is gone.

    On Linux by the kernel itself: the end of the pipe is an event of its descriptor, whose owner is the group and whose
    signal is SIGKILL. That works while C code holds the GIL, where a thread of ours would wait for its turn.
    """
    try:
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -PID)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
    except (AttributeError, OSError):
        _thread.start_new_thread(_wait_for_the_end, (lifeline,))


def _wait_for_the_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(PID, signal.SIGKILL)


def _run_chain(links: list[Any], functions: dict[bytes, Any], connection: socket.socket) -> None:
    _remember(links, functions)
    value: Any = None
    for link in links:
        reply, value = _run_link(link, value, functions)
        if os.getpid() != PID:
            os._exit(0)  # the function has forked, and returned in both
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue  # closed, or replaced by something that cannot
        connection.sendall(wire.frame(reply))
        if reply.kind != wire.VALUE:
            return


def _run_link(link: Any, value: Any, functions: dict[bytes, Any]) -> tuple[Any, Any]:
    started = perf_counter()
    try:
        try:
            function = _function(link, functions)
        except wire.NotHereError as error:
            return wire.Reply(wire.UNKNOWN, text=str(error)), None
        args, kwargs = pickle.loads(link.arguments)
    except wire.NotHereError as error:
        return wire.Reply(wire.UNKNOWN, text=str(error)), None
    except BaseException as error:
        return _error(wire.UNREADABLE, error, started, perf_counter()), None
    started = perf_counter()
    try:
        if isinstance(link.feed, str):
            kwargs = {**kwargs, link.feed: value}
        elif link.feed is not None:
            args = (*args[: link.feed], value, *args[link.feed :])
        value = values.finished(function(*args, **kwargs))
    except BaseException as error:
        return _error(wire.ERROR, error, started, perf_counter()), None
    ended = perf_counter()
    try:
        payload = wire.dumps_quickly(value)
    except BaseException as error:
        text = f"{_kind(value)}\n{type(error).__name__}: {error}"
        return wire.Reply(wire.UNSENDABLE, b"", started, ended, text), None
    return wire.Reply(wire.VALUE, payload, started, ended), value


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _remember(links: list[Any], functions: dict[bytes, Any]) -> None:
    """Keep the pickles of functions; a chain may end before it comes to them, and they are not sent again."""
    for link in links:
        if link.function is not None:
            functions[link.token] = link.function


def _function(link: Any, functions: dict[bytes, Any]) -> Any:
    known = functions[link.token]
    if isinstance(known, bytes):
        try:
            known = functions[link.token] = pickle.loads(known)
        except (ImportError, AttributeError) as error:
            raise wire.NotHereError(f"{type(error).__name__}: {error}") from error
    return known


def _error(kind: int, error: BaseException, started: float, ended: float) -> Any:
    """Return an exception as a reply: itself if it survives the journey, and its traceback as text."""
    import traceback

    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename in (__file__, values.__file__):
        frame = frame.tb_next
    error = error.with_traceback(frame)
    text = "".join(traceback.format_exception(type(error), error, frame))
    if len(text) > TRACEBACK_LIMIT:
        half = TRACEBACK_LIMIT // 2
        text = f"{text[:half]}\n... {len(text) - TRACEBACK_LIMIT} characters left out ...\n{text[-half:]}"
    description = (type(error).__name__, str(error), getattr(error, "__notes__", []))
    payload = (
        _travelled(error, lambda: error)
        or _travelled(error, lambda: wire.Parts(type(error), error.args, error.__dict__))
        or pickle.dumps(description, 5)
    )
    return wire.Reply(kind, payload, started, ended, text)


def _travelled(error: BaseException, thing: Any) -> bytes | None:
    """Return the pickle of what a function returns, if the exception comes out of it again, and says the same."""
    try:
        payload: bytes = wire.dumps_quickly(thing())
        copy = wire.put_together(pickle.loads(payload))
        same = type(copy) is type(error) and str(copy) == str(error)
    except BaseException:
        return None
    return payload if same else None


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except (ConnectionError, KeyboardInterrupt):
        pass
    except BaseException as defect:  # of ours: say so before the end
        sys.excepthook(type(defect), defect, defect.__traceback__)
    finally:
        if os.getpid() == PID:
            os.killpg(PID, signal.SIGKILL)  # what it started ends with it
        os._exit(0)
