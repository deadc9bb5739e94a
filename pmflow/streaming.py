"""`stream`: the results of a run as they end, for a loop, plain or asynchronous.

A plain loop waits in its own thread while the run has another one. An asynchronous loop has the run beside it, as a
task of the same event loop, so that what is bound to that loop can be an input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from attrs import evolve

from pmflow.errors import ConfigurationError, NoValueError
from pmflow.executors.threads import place_lent
from pmflow.lookup import caller
from pmflow.outcomes import Mapped
from pmflow.results import ProcessResult, Run
from pmflow.runner import _Execution, _Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pmflow.base import BaseProcess
    from pmflow.runner import Arguments, Processes
    from pmflow.workflow import Workflow

__all__ = ["ResultStream", "stream"]

T = TypeVar("T")


@overload
def stream(process: BaseProcess[T], /, **arguments: Unpack[Arguments]) -> ResultStream[T]: ...
@overload
def stream(processes: Processes | Workflow, /, **arguments: Unpack[Arguments]) -> ResultStream[Any]: ...
def stream(processes: Any, /, **arguments: Any) -> ResultStream[Any]:
    """Run processes, and loop over their results as they end: ``for`` and ``async for``.

    Takes what `run` takes, and looks processes up where it is called. The run begins with the loop. All that ends is
    there, in the order in which it ends, whatever its state, with its ``data`` even where that is not kept: processes,
    and the elements of mapped ones (``"page_3"``). A mapped process itself is left out, for its elements have been
    there, unless it has none, or has not all that it should have.

    Leaving the loop early stops the run. ``for`` waits until what can be stopped has ended; ``async for`` cannot, and
    `ResultStream.aclose` does. Where `run` would raise, the loop does at its end, when all results have been there.
    Results of a loop that is slower than the run wait in memory.

    Raises:
        GraphError: the graph cannot run; nothing has run.
        ConfigurationError: an argument that cannot work; nothing has run.

    >>> from pmflow import process
    >>> page = process(lambda url: f"text of {url}", id="page", type="async", map_over={"url": "urls"})
    >>> count = process(len, id="count", type="async", dependencies={"obj": "page"})
    >>> for result in stream([count, page], inputs={"urls": ["a", "b"]}):
    ...     print(result.process_id, result.data)
    page_0 text of a
    page_1 text of b
    count 2
    """
    return ResultStream(_Request.of(processes, caller(), arguments))


class ResultStream(Generic[T]):
    """The results of a run as they end, to be looped over once; `stream` returns it.

    >>> import pmflow
    >>> results = stream(pmflow.process(lambda: 1, id="one"))
    >>> [result.data for result in results]
    [1]
    >>> results.run.value
    1
    """

    def __init__(self, request: _Request) -> None:
        self._results = _Results()
        self._request: _Request | None = evolve(request, listener=self._results.take)
        self._execution: _Execution | None = None
        self._thread: Thread | None = None
        self._run: Run[Any] | None = None

    @property
    def run(self) -> Run[T]:
        """The outcome of the run, once it has ended.

        Raises:
            NoValueError: it has not.
        """
        if self._run is None:
            if self._execution is None or not self._results.ended:
                raise NoValueError(
                    "the run has not ended, so there is no outcome of it yet; loop over its results first, or close it"
                )
            self._run = self._execution.result()
        return self._run

    def _begun(self) -> _Execution:
        request, self._request = self._request, None
        if request is None:
            raise ConfigurationError("the results of a run can be looped over once; call pmflow.stream() again")
        self._execution = self._results.execution = _Execution(request)
        return self._execution

    def _error(self, execution: _Execution) -> BaseException | None:
        """Return what the loop is to raise at its end."""
        return self._results.failure or execution.error(self.run)

    # A plain loop

    def __iter__(self) -> Iterator[ProcessResult[Any]]:
        execution, results = self._begun(), self._results
        context = copy_context()
        name = f"pmflow-run-{execution.run_id}"
        self._thread = Thread(target=context.run, args=(results.fill, execution), name=name, daemon=True)
        self._thread.start()
        interrupt: KeyboardInterrupt | None = None
        try:
            while (result := results.wait()) is not None:
                yield result
        except KeyboardInterrupt as pressed:
            interrupt = pressed
        finally:
            self.close()
        error = self._error(execution) or interrupt
        if error is not None:
            raise error

    def close(self) -> None:
        """Stop the run of a plain loop, if it has not ended, and wait until what can be stopped has."""
        while self._thread is not None and self._thread.is_alive():
            try:
                if self._execution is not None and not self._results.ended:
                    self._execution.interrupt()
                with place_lent():
                    self._thread.join()
            except KeyboardInterrupt:  # impatience changes nothing: all is being stopped
                continue

    # An asynchronous loop

    def __aiter__(self) -> AsyncIterator[ProcessResult[Any]]:
        return _AsyncLoop(self, self._begun(), self._results)

    async def aclose(self) -> None:
        """Stop the run of an asynchronous loop, if it has not ended, and wait until what can be stopped has.

        >>> import anyio, pmflow
        >>> one, forever = pmflow.process(lambda: 1, id="one"), pmflow.process(anyio.sleep_forever, id="forever")
        >>> async def main():
        ...     results = stream([one, forever])
        ...     async for result in results:
        ...         break
        ...     await results.aclose()
        ...     return {name: result.state.value for name, result in results.run.items()}
        >>> anyio.run(main)
        {'one': 'completed', 'forever': 'cancelled'}
        """
        if self._execution is not None and self._results.begun:
            await self._results.stopped(self._execution)


class _Results:
    """Results on their way from a run to a loop."""

    def __init__(self) -> None:
        self.execution: _Execution | None = None
        self.begun = False
        self.ended = False
        self.failure: BaseException | None = None
        self._queue: SimpleQueue[ProcessResult[Any] | None] = SimpleQueue()
        self._waiting: deque[Any] = deque()

    def take(self, kind: str, label: str, *facts: Any) -> None:
        """Hear what happens in the run, in its thread."""
        if kind == "process_ended" and not self._has_been_there(label):
            self._put(facts[3])

    def _has_been_there(self, label: str) -> bool:
        """Whether it is a mapped process of which the elements say all."""
        if self.execution is None:
            return False
        scheduler = self.execution.scheduler
        outcome = scheduler.outcomes.get(label)
        return type(outcome) is Mapped and outcome.end is None and bool(scheduler.elements.get(label))

    def _put(self, result: ProcessResult[Any] | None) -> None:
        self._queue.put(result)
        while self._waiting:
            self._waiting.popleft().set()

    def _end(self) -> None:
        self.execution, self.ended = None, True  # they know one another
        self._put(None)

    # In threads

    def fill(self, execution: _Execution) -> None:
        """Run, in this thread."""
        self.begun = True
        try:
            execution.run_here()
        except BaseException as error:  # noqa: BLE001 - raised again by the loop
            self.failure = error
        finally:
            self._end()

    def wait(self) -> ProcessResult[Any] | None:
        """Return the next result; None if the run has ended."""
        with place_lent():
            return self._queue.get()

    # In one event loop

    async def fill_here(self, execution: _Execution) -> None:
        """Run, in this task."""
        self.begun = True
        try:
            await execution.run()
        except BaseException as error:
            self.failure = error
            if not isinstance(error, Exception):
                raise  # the event loop is ending
        finally:
            self._end()

    async def wait_here(self) -> ProcessResult[Any] | None:
        """Return the next result; None if the run has ended."""
        from anyio import Event
        from anyio.lowlevel import checkpoint

        await checkpoint()
        while self._queue.empty():
            event = Event()
            self._waiting.append(event)
            await event.wait()
        return self._queue.get()

    async def stopped(self, execution: _Execution) -> None:
        """Stop the run, and wait for that in spite of a cancellation that is already under way."""
        from anyio import CancelScope, Event

        if not self.ended:
            execution.interrupt()
        with CancelScope(shield=True):
            while not self.ended:
                event = Event()
                self._waiting.append(event)
                await event.wait()


class _AsyncLoop:
    """What ``async for`` holds; when it lets go of it, the run is stopped."""

    def __init__(self, stream: ResultStream[Any], execution: _Execution, results: _Results) -> None:
        self._stream = stream
        self._execution = execution
        self._results = results
        self._task: Any = None
        self._over = False

    def __aiter__(self) -> _AsyncLoop:
        return self

    async def __anext__(self) -> ProcessResult[Any]:
        if self._over:
            raise StopAsyncIteration
        if self._task is None:
            self._task = _spawned(self._results, self._execution)
        try:
            result = await self._results.wait_here()
        except BaseException:
            self._over = True
            await self._results.stopped(self._execution)
            raise
        if result is not None:
            return result
        self._over = True
        error = self._stream._error(self._execution)  # noqa: SLF001 - one of its own file
        if error is not None:
            raise error
        raise StopAsyncIteration

    def __del__(self) -> None:
        """Stop a run that nobody loops over any more."""
        if self._task is not None and not self._results.ended:
            self._execution.interrupt()


def _spawned(results: _Results, execution: _Execution) -> Any:
    """Begin a run beside the running task; return what is to be held as long as it runs."""
    from anyio.lowlevel import current_token

    loop: Any = current_token().native_token
    if hasattr(loop, "create_task"):
        return loop.create_task(results.fill_here(execution), name=f"pmflow-run-{execution.run_id}")
    from trio.lowlevel import spawn_system_task

    return spawn_system_task(results.fill_here, execution, context=copy_context())
