"""`run` and `arun`: the only place that finds processes, picks executors and hooks, and turns failures into errors."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import evolve, frozen

from pmflow.base import BaseProcess, install_launcher
from pmflow.config import check_names, check_timeout
from pmflow.context import is_inside
from pmflow.decorator import FunctionProcess
from pmflow.engine.explanation import Explanation
from pmflow.engine.loops import Loop, NoLoop, current_loop, drive
from pmflow.engine.plan import INLINE, LANES, STAGE, TASK, THREAD, WORKER, Plan
from pmflow.engine.scheduler import Scheduler
from pmflow.errors import (
    ConfigurationError,
    RunTimeoutError,
    ShutdownError,
    WorkflowError,
    did_you_mean,
    nearest,
    text_of,
)
from pmflow.events import Announcer, Event
from pmflow.executors.base import Session
from pmflow.executors.inline import A_PASS, Inline, Tasks, in_user_code
from pmflow.executors.pools import check_slots, program_cores, thread_pool, worker_pool
from pmflow.executors.threads import place_lent
from pmflow.executors.values import in_loop_of_its_own
from pmflow.graph import Graph, install_planner, location
from pmflow.limits import Limit, Rate, limit_of
from pmflow.lookup import Closed, caller, gathered
from pmflow.outcomes import Failure
from pmflow.results import SHOWN, ProcessResult, Run
from pmflow.subgraphs import SubgraphProcess

if TYPE_CHECKING:
    from traceback import FrameSummary
    from typing import Literal, TypedDict

    from typing_extensions import Unpack

    from pmflow.config import ProcessType
    from pmflow.decorator import Reference
    from pmflow.workflow import Workflow

    class Arguments(TypedDict, total=False):
        """What `run` and `arun` take besides the processes."""

        inputs: Mapping[str, Any] | None
        overrides: Mapping[Any, Any] | None
        targets: Reference | Iterable[Reference] | None
        keep: Literal["all", "targets"] | None
        type: str | ProcessType | None
        on_error: Literal["raise", "return"]
        fail_fast: bool | None
        timeout: float | None
        max_threads: int | None
        max_processes: int | None
        limits: Mapping[str, int | Limit | Rate] | None
        hooks: Iterable[Callable[[Event], object]]


__all__ = ["arun", "run"]

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds after a Ctrl-C in which another one changes nothing."""

Processes = Iterable[BaseProcess[Any]] | types.ModuleType | Graph


@overload
def run(process: BaseProcess[T], /, **arguments: Unpack[Arguments]) -> Run[T]: ...
@overload
def run(processes: Processes | Workflow, /, **arguments: Unpack[Arguments]) -> Run[Any]: ...
def run(processes: Any, /, **arguments: Any) -> Run[Any]:  # noqa: D417 - each argument by its name
    """Run processes, and all they need, as soon as each can run; wait for the end.

    What they need is found by id: among those given, then in the module of the process that asks, then in the scope
    that calls ``run``. A `Graph` or a `Workflow` is closed: nothing is looked up. Works where an event loop is running
    too: it then runs in a thread of its own, and this one waits.

    Args:
        processes: one process or several (they are the targets), a module, a `Graph` or a `Workflow`.
        inputs: name to value, from outside the graph.
        overrides: id to a value, or to another process: instead of running this one.
        targets: one id or several; only they and their ancestors run.
        keep: ``"all"`` or ``"targets"``: whose data stays; by default all, or targets where they are given.
        type: a strategy (``"async"``, ``"thread"``, ``"process"``) in place of every process's own.
        on_error: ``"raise"`` a `WorkflowError` when a required process failed, or ``"return"`` the run all the same.
        fail_fast: stop at the first failure of a required process; by default where the run raises.
        timeout: seconds for the whole run.
        max_threads: at most so many threads at once.
        max_processes: at most so many workers at once.
        limits: name to a number, a `Limit` or a `Rate`, for processes whose ``limit`` is a name.
        hooks: callables that receive every `Event`, on a thread of their own.

    Returns:
        The outcome, a result per process.

    Raises:
        GraphError: the graph cannot run; nothing has run.
        ConfigurationError: an argument that cannot work; nothing has run.
        WorkflowError: required processes failed; ``.run`` holds everything that did finish.
        RunTimeoutError: the timeout passed; the same.
        KeyboardInterrupt: Ctrl-C; the same.
        ShutdownError: the interpreter is shutting down.

    >>> from pmflow import process
    >>> @process
    ... def page(url): return f"text of {url}"
    >>> @process
    ... def words(page): return page.split()
    >>> run(words, inputs={"url": "a"}).value
    ['text', 'of', 'a']
    """
    execution = _Execution(_Request.of(processes, caller(), arguments))
    execution.run_here()
    run = execution.result()
    error = execution.error(run)
    if error is not None:
        raise error  # here: whoever reads the traceback is a frame away
    return run


@overload
def arun(process: BaseProcess[T], /, **arguments: Unpack[Arguments]) -> Awaitable[Run[T]]: ...
@overload
def arun(processes: Processes | Workflow, /, **arguments: Unpack[Arguments]) -> Awaitable[Run[Any]]: ...
def arun(processes: Any, /, **arguments: Any) -> Awaitable[Run[Any]]:
    """Run processes in the running event loop, asyncio's or trio's.

    Takes what `run` takes, and looks processes up where it is called. Cancelling it stops the run; it then waits until
    everything that can be stopped has ended.

    >>> import anyio
    >>> from pmflow import process
    >>> one = process(lambda: 1, id="one")
    >>> async def main():
    ...     return (await arun(one)).value
    >>> anyio.run(main)
    1
    """
    return _arun(_Request.of(processes, caller(), arguments))


# What is asked for


@frozen(kw_only=True)
class _Request:
    """One run that was asked for, checked, and planned."""

    plan: Plan
    on_error: str
    fail_fast: bool
    timeout: float | None
    max_threads: int | None
    max_processes: int | None
    limits: Mapping[str, Limit | Rate]
    hooks: tuple[Callable[[Event], object], ...]
    listener: Callable[..., None] | None = None

    @classmethod
    def of(cls, processes: Any, frame: types.FrameType | None, arguments: Mapping[str, Any]) -> _Request:
        options = {**_DEFAULTS, **arguments}
        unknown = next((name for name in arguments if name not in _DEFAULTS), None)
        if unknown is not None:
            raise TypeError(f"run() has no argument {unknown!r}{did_you_mean(nearest(unknown, _DEFAULTS))}")
        for bound in ("max_threads", "max_processes") if isinstance(processes, Closed) else ():
            options[bound] = getattr(processes, bound) if options[bound] is None else options[bound]
        planning = {name: options.pop(name) for name in ("inputs", "overrides", "targets", "keep", "type")}
        _check(options, planning)
        if options["fail_fast"] is None:
            options["fail_fast"] = options["on_error"] == "raise"
        options["hooks"] = tuple(options["hooks"])
        for hook in options["hooks"]:
            if not callable(hook):
                raise ConfigurationError(f"hooks must be callables that take an Event, not {hook!r}", setting="hooks")
        graph, chosen, explain = gathered(processes, frame, planning["overrides"] or {})
        if planning["targets"] is None:
            planning["targets"] = chosen
            planning["keep"] = planning["keep"] or "all"
        options["limits"] = {str(name): limit_of(limit) for name, limit in (options["limits"] or {}).items()}
        plan = Plan.of(graph, **planning, explain=explain)
        _check_limits(plan, options["limits"])
        return cls(plan=plan, **options)


_DEFAULTS: dict[str, Any] = {
    "inputs": None,
    "overrides": None,
    "targets": None,
    "keep": None,
    "type": None,
    "on_error": "raise",
    "fail_fast": None,
    "timeout": None,
    "max_threads": None,
    "max_processes": None,
    "limits": None,
    "hooks": (),
}


def _check_limits(plan: Plan, limits: Mapping[str, Any]) -> None:
    """Refuse a limit that nobody has declared."""
    for name in plan.gates:
        limit = plan.nodes[name].settings.limit
        if isinstance(limit, str) and limit not in limits:
            raise ConfigurationError(
                f"'{name}' has the limit {limit!r}, which the run does not know; write run(..., "
                f"limits={{{limit!r}: 4}}){did_you_mean(nearest(limit, limits))}",
                process_id=name,
                setting="limits",
            )


def _check(options: Mapping[str, Any], planning: Mapping[str, Any]) -> None:
    for name in ("inputs", "overrides"):
        check_names(planning[name], name)
    check_names(options["limits"], "limits")
    if options["on_error"] not in ("raise", "return"):
        raise ConfigurationError(
            f"on_error must be 'raise' or 'return', not {options['on_error']!r}", setting="on_error"
        )
    if options["fail_fast"] not in (None, True, False):
        raise ConfigurationError(f"fail_fast must be True or False, not {options['fail_fast']!r}", setting="fail_fast")
    check_timeout(options["timeout"], "run")
    check_slots(options["max_threads"], "max_threads")
    check_slots(options["max_processes"], "max_processes")
    hooks = options["hooks"]
    if not isinstance(hooks, Iterable):
        remedy = "write hooks=[hook]" if callable(hooks) else "write hooks=[print]"
        raise ConfigurationError(f"hooks must be a list of callables, not {hooks!r}; {remedy}", setting="hooks")


# Running


_WITHOUT_LOOP = [lane + stage for lane in (INLINE, THREAD, WORKER) for stage in ("", STAGE)]


async def _arun(request: _Request) -> Run[Any]:
    execution = _Execution(request)
    await execution.run()
    run = execution.result()
    error = execution.error(run)
    if error is not None:
        raise error
    return run


def _loop_is_running() -> bool:
    """Whether an event loop is running in this thread; context variables may come from a thread where one is."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    # Another thread may be importing them just now: what is not there yet does not run here.
    running = getattr(asyncio, "_get_running_loop", None)
    if running is not None and running() is not None:
        return True
    in_trio = getattr(getattr(trio, "lowlevel", None), "in_trio_run", None)
    return in_trio is not None and in_trio()


_exiting: list[bool] = []
atexit.register(_exiting.append, True)  # noqa: FBT003 - any entry will do


class _Execution:
    """One run of a request."""

    def __init__(self, request: _Request) -> None:
        if _exiting or sys.is_finalizing():
            raise ShutdownError("the interpreter is shutting down, so no run can begin; run it before the program ends")
        self.request = request
        self.run_id = os.urandom(6).hex()
        self._started = perf_counter()
        self._ended = 0.0
        self.scheduler: Scheduler
        self._interrupted = False
        self._leading: Any = None
        self._inside = bool(request.plan.gates) and is_inside()

    async def run(self, loop: Loop | None = None) -> None:
        """Run in the running event loop, or in another."""
        request = self.request
        announcer = None
        if request.hooks:
            announcer = Announcer(request.hooks, self.run_id)
        scheduler = Scheduler(
            request.plan,
            fail_fast=request.fail_fast,
            timeout=request.timeout,
            emit=self._emitter(announcer),
            limits=request.limits,
            cores=program_cores(),
            inside=self._inside,
        )
        self.scheduler = scheduler
        if self._interrupted:
            scheduler.interrupt()
        if announcer is not None:
            announcer.announce("run_started", scheduler.clock.date)
        try:
            loop = loop or current_loop()
            await scheduler.run(loop, self._open_sessions)
        finally:
            self._ended = perf_counter()
            if self._leading is not None:
                self._leading.leave()
            if announcer is not None:
                announcer.announce("run_ended", scheduler.clock(self._ended))
                await _closed(announcer, loop)

    def _emitter(self, announcer: Any) -> Callable[..., None] | None:
        listener = self.request.listener
        if announcer is None:
            return listener

        def emit(  # noqa: PLR0913, PLR0917 - the fields of an event
            kind: str,
            label: str,
            state: Any,
            moment: float,
            attempt: int,
            result: Any,
            progress: float | None = None,
            message: str | None = None,
        ) -> None:
            if listener is not None:
                listener(kind, label, state, moment, attempt, result, progress, message)
            facts = {"process_id": label, "state": state, "attempt": attempt, "result": result}
            announcer.announce(kind, self.scheduler.clock(moment), **facts, progress=progress, message=message)

        return emit

    def _open_sessions(self, scheduler: Scheduler) -> dict[str, Session]:
        request = self.request
        lanes = {node.lane for node in request.plan.nodes.values()}
        tasks, inline = Tasks(scheduler.loop), Inline(scheduler.loop)
        opened: dict[str, Session] = {}
        for lane in LANES:
            if lane not in lanes:
                continue
            strategy = lane.partition(" ")[0]
            if strategy in opened and strategy != TASK:  # a stage of a pipeline shares the slots of its strategy
                opened[lane] = opened[strategy]
            elif strategy == TASK:
                opened[lane] = tasks.open(scheduler, A_PASS if lane != TASK else None)
            elif strategy == INLINE:
                opened[lane] = inline.open(scheduler)
            elif strategy == THREAD:
                opened[lane] = thread_pool().open(scheduler, request.max_threads)
            else:
                opened[lane] = worker_pool().open(scheduler, request.max_processes)
        if isinstance(scheduler.loop, NoLoop) and all(WORKER in lane for lane in lanes):
            # It waits for workers alone: it may as well hear them itself.
            scheduler.loop.listener = self._leading = worker_pool().lead()
        return opened

    def run_here(self) -> None:
        """Run in this thread, or, where an event loop is running in it, in another."""
        with place_lent(), self.interruptible():
            if all(node.lane in _WITHOUT_LOOP for node in self.request.plan.nodes.values()):
                drive(self.run(NoLoop()))
            elif not _loop_is_running():
                _with_anyio(self.run)
            else:
                self.run_in_thread()

    def run_in_thread(self) -> None:
        """Run in an event loop of its own, in a thread of its own; wait for it."""
        failed: list[BaseException] = []
        ended = threading.Event()

        def main() -> None:
            try:
                _with_anyio(self.run)
            except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
                failed.append(error)
            finally:
                ended.set()

        thread = threading.Thread(
            target=partial(copy_context().run, main), name=f"pmflow-run-{self.run_id}", daemon=True
        )
        thread.start()
        while not ended.is_set():
            try:
                ended.wait()
            except KeyboardInterrupt:
                self.interrupt()
        thread.join()
        if failed:
            raise failed[0]

    # Ctrl-C

    def interrupt(self) -> None:
        """Stop the run; from a signal handler."""
        self._interrupted = True
        scheduler: Scheduler | None = getattr(self, "scheduler", None)
        if scheduler is not None:
            scheduler.interrupt()

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """Let Ctrl-C stop the run instead of falling into the middle of it.

        Impatience changes nothing: what can be stopped is stopped at once, and nothing else is waited for. One that
        comes `PATIENCE` after the first falls where it falls.
        """
        before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
        if not _is_the_usual(before):
            yield
            return

        first: list[float] = []

        def handle(number: int, frame: Any) -> None:
            first.append(perf_counter())
            self.interrupt()
            if in_user_code(frame) or first[-1] - first[0] > PATIENCE:
                signal.default_int_handler(number, frame)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # The end

    def error(self, run: Run[Any]) -> BaseException | None:
        """Return what the run is to raise; None if it is to be returned."""
        scheduler, request = self.scheduler, self.request
        if scheduler.stopped_by == "interrupt":
            interrupt = KeyboardInterrupt()
            interrupt.run = run  # type: ignore[attr-defined]
            return interrupt
        if request.on_error == "return":
            return None
        if scheduler.stopped_by == "timeout":
            return RunTimeoutError(
                f"the run took longer than its timeout of {request.timeout:g} s; what had finished is in .run",
                timeout=request.timeout,
                run=run,
            )
        nodes = request.plan.nodes
        failed = [
            (name, nodes[base].process, each)
            for name, base, each in run._each(Failure)  # noqa: SLF001 - elements too
            if type(each) is Failure and each.required
        ]
        return _workflow_error(run, failed) if failed else None

    def result(self) -> Run[Any]:
        """Return the run."""
        plan, scheduler = self.request.plan, self.scheduler
        nodes = plan.nodes
        return Run(
            run_id=self.run_id,
            targets=plan.targets,
            outcomes=scheduler.outcomes,
            elements=scheduler.elements,
            strategy=lambda name: nodes[name].strategy,
            clock=scheduler.clock,
            execution_time=self._ended - self._started,
        )


async def _closed(announcer: Announcer, loop: Loop | None) -> None:
    """Wait for the hooks, without holding up the loop."""
    if isinstance(loop, NoLoop):
        announcer.close()
        return
    from anyio import CancelScope, to_thread

    with CancelScope(shield=True):
        await to_thread.run_sync(announcer.close)


def _is_the_usual(handler: Any) -> bool:
    """Whether a SIGINT handler is Python's own, or the one of an event loop: not one that a user has chosen."""
    inner = handler.func if isinstance(handler, partial) else handler
    module = getattr(inner, "__module__", None) or ""
    return inner is signal.default_int_handler or module.partition(".")[0] in ("anyio", "asyncio", "trio")


def _with_anyio(function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in an event loop of its own, in a copy of the caller's context."""
    copy_context().run(in_loop_of_its_own, function)


# Failures


def _workflow_error(run: Run[Any], failed: list[tuple[str, BaseProcess[Any], Failure]]) -> WorkflowError:
    lines = [f"{len(failed):,} of {len(run):,} processes failed" if len(failed) > 1 else f"'{failed[0][0]}' failed"]
    for name, process, failure in failed[:SHOWN]:
        exception = failure.exception
        lines.append(f"  '{name}' (attempt {failure.attempts}): {type(exception).__name__}: {text_of(exception)}")
        lines += [f"    {line}" for line in _users_line(failure) or [f"defined at {location(process)}"]]
    if len(failed) > SHOWN:
        lines.append(f"  ... and {len(failed) - SHOWN:,} more")
    lines.append("what did finish is in the .run of this error")
    for name, _, failure in failed:
        _add_note(failure.exception, f"in process '{name}', attempt {failure.attempts}")
    return WorkflowError("\n".join(lines), [failure.exception for _, _, failure in failed], run=run)  # type: ignore[misc]


def _users_line(failure: Failure) -> list[str]:
    """Return where the user's own code raised: file, line and text; nothing if it did not."""
    import traceback

    inside = __file__.rpartition(os.sep)[0] + os.sep
    for frames in (traceback.extract_tb(failure.exception.__traceback__), _frames_told(failure)):
        outside = [frame for frame in frames if not frame.filename.startswith(inside)]
        own = [frame for frame in outside if not _is_installed(frame.filename)] or outside
        if own:
            text = [f"  {own[-1].line}"] if own[-1].line else []
            return [f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}", *text]
    return []


_FRAME = re.compile(r'^(?:  \| )?  File "(.+)", line (\d+), in (.+)(?:\n(?:  \| )?    (.+))?', re.MULTILINE)
"""A frame of a traceback, of an exception group's too, and the first line of its code, if it has one."""


def _frames_told(failure: Failure) -> list[FrameSummary]:
    """Return the frames of a traceback that came as text: of the exception itself, not of those it comes from."""
    from traceback import FrameSummary

    text, exception = failure.traceback or "", failure.exception
    message = text_of(exception).partition("\n")[0]
    if message:  # what follows may be a traceback too: one that it quotes, those of a group
        text = text.rpartition(f"{type(exception).__name__}: {message}")[0] or text
    found = _FRAME.findall(text.rpartition("Traceback (most recent call last):\n")[2])
    return [FrameSummary(file, int(line), name, line=code.strip() or None) for file, line, name, code in found]


def _is_installed(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith(("<frozen ", os.__file__.rpartition(os.sep)[0]))


def _add_note(exception: BaseException, note: str) -> None:
    notes = getattr(exception, "__notes__", [])
    if note not in notes:
        vars(exception)["__notes__"] = [*notes, note]


# Processes on their own


async def execute_workflow(
    workflow: Workflow, inputs: Mapping[str, Any] | None, listener: Callable[..., None]
) -> Run[Any]:
    """Run a workflow; what `Workflow.execute` calls."""
    request = _Request.of(workflow, None, {"inputs": inputs, "on_error": "return"})
    return await _arun(evolve(request, listener=listener))


class _Alone(BaseProcess[Any]):
    """Stands for a class-based process that is run without its dependencies."""

    def __init__(self, process: BaseProcess[Any], function: Callable[..., Any]) -> None:
        super().__init__(evolve(process.config, dependencies=(), after=(), map_over=None))
        self._entry = function

    @property
    def entry(self) -> Callable[..., Any]:
        """What an executor calls."""
        return self._entry


async def _launch(process: BaseProcess[Any], function: Callable[..., Any], input_data: Any) -> ProcessResult[Any]:
    if isinstance(process, FunctionProcess):
        alone: BaseProcess[Any] = process.options(dependencies={}, after=(), map_over=None)  # type: ignore[call-overload]  # once again not mapped
        inputs = {} if input_data is None else input_data
    elif isinstance(process, SubgraphProcess):
        alone = process.options(dependencies=None, map_over=None, after=())  # type: ignore[call-overload]  # not mapped
        inputs = {} if input_data is None else input_data
    else:
        alone = _Alone(process, function)
        inputs = {alone.id: input_data}

    def note(kind: str, *facts: Any) -> None:
        if kind == "process_progress":
            process.metadata.progress = facts[5]

    request = _Request.of(Graph([alone]), None, {"inputs": inputs, "on_error": "return"})
    run = await _arun(evolve(request, listener=note))
    return run[alone.id]


install_launcher(_launch)
install_planner(Plan.of, Explanation.of)
