"""What a running process knows of itself, and says of itself: `current`, from every strategy.

Who waits for whom is forced: a process says the next thing when a hook has heard the one before, by a queue or, from a
worker, by a named pipe.
"""

import asyncio
import contextvars
import functools
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import pmflow
from pmflow import (
    BaseProcess,
    ConfigurationError,
    Current,
    Event,
    NoCurrentProcessError,
    ProcessCancelledError,
    ProcessConfig,
    ProcessState,
    ProcessTimeoutError,
    RetryStrategy,
    Workflow,
    process,
)
from pmflow.context import UNBOUNDED
from pmflow.executors.base import Progressed
from pmflow.executors.throttle import EVERY, Throttle, in_a_thread

GENEROUS = 20.0
RUNNING, DONE, FAILED, CANCELLED = (
    ProcessState.RUNNING,
    ProcessState.COMPLETED,
    ProcessState.FAILED,
    ProcessState.CANCELLED,
)
STRATEGIES = {
    "coroutine": "async",
    "inline": "async",
    "thread": "thread",
    "worker": "process",
    "coroutine on a thread": "thread",
    "coroutine in a worker": "process",
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
AT_ONCE = RetryStrategy(max_retries=2, delay_seconds=0)


def made(strategy: str, function: Callable[..., Any], **settings: Any) -> Any:
    """Return a process of a plain function, which may be made a coroutine function."""
    if strategy.startswith("coroutine"):
        function = awaiting(function)
    return process(function, type=STRATEGIES[strategy], **settings)


def awaiting(function: Callable[..., Any]) -> Any:
    """Return the same as a coroutine function, with the same parameters."""

    @functools.wraps(function)
    async def called(*args: Any, **kwargs: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    return called


def facts() -> tuple[str, int | None, int, float | None, float | None]:
    """Return all that is known here."""
    here = pmflow.current()
    here.check_cancelled()
    return here.id, here.index, here.attempt, here.deadline, here.remaining()


def error_here() -> str:
    """Return the error of asking here."""
    with pytest.raises(NoCurrentProcessError) as caught:
        pmflow.current()
    return str(caught.value)


NOWHERE = (
    "no process is running here, so current() has nothing to tell; call it in a function that pmflow.run has started, "
    "and hand what it returns to threads that the function starts itself"
)


class Hook:
    """Remembers the events of progress, and tells of each."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.kinds: list[str] = []
        self.heard: SimpleQueue[float] = SimpleQueue()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.kinds.append(event.kind)
        if event.kind == "process_progress":
            assert event.progress is not None
            self.events.append(event)
            self.heard.put(event.progress)

    @property
    def told(self) -> list[tuple[str | None, int | None, float | None, str | None]]:
        """What was told: of which process, in which attempt, how far, at what."""
        return [(event.process_id, event.attempt, event.progress, event.message) for event in self.events]


# What it knows


@every_strategy
def test_what_a_process_knows_of_itself(strategy: str) -> None:
    """Its id, no index, its attempt, and no deadline where there is no timeout."""
    assert pmflow.run(made(strategy, facts, id="page")).value == ("page", None, 1, None, None)


@pytest.mark.anyio
@every_strategy
async def test_the_same_on_a_running_loop(strategy: str) -> None:
    """On asyncio and on trio."""
    run = await pmflow.arun(made(strategy, facts, id="page"))
    assert run.value == ("page", None, 1, None, None)


@every_strategy
def test_links_of_a_chain_know_themselves(strategy: str) -> None:
    """Each process that runs on where the one before it ran is itself."""
    first = made(strategy, facts, id="first")
    second = made(strategy, lambda first: (first[0], pmflow.current().id), id="second")
    third = made(strategy, lambda second: (*second, pmflow.current().id), id="third")
    assert pmflow.run([first, second, third], targets="third").value == ("first", "second", "third")


@pytest.mark.parametrize("strategy", ["coroutine", "inline", "thread"])
def test_a_long_chain_of_those_who_ask(strategy: str) -> None:
    """To ask costs a chain nothing of what makes it one: it goes on in its task, however long it is."""
    links = [made(strategy, facts, id=f"link{n}", after=f"link{n - 1}" if n else ()) for n in range(3_000)]
    run = pmflow.run(links, targets="link2999")
    assert run.value == ("link2999", None, 1, None, None)


@every_strategy
def test_elements_know_their_index(strategy: str) -> None:
    """An element of a mapped process has the key of its result as its id, and its index."""
    page = made(strategy, lambda url: (url, *facts()[:3]), id="page", map_over={"url": "urls"})
    run = pmflow.run(page, inputs={"urls": ["a", "b", "c"]})
    assert run.value == [("a", "page_0", 0, 1), ("b", "page_1", 1, 1), ("c", "page_2", 2, 1)]
    assert [run[each[1]].data for each in run.value] == run.value


@every_strategy
def test_each_attempt_knows_which_it_is(strategy: str) -> None:
    """The first is 1; of elements too."""

    def flaky(n: int) -> tuple[int, int | None, int]:
        here = pmflow.current()
        if here.attempt <= n:
            raise OSError("again")
        return n, here.index, here.attempt

    run = pmflow.run(made(strategy, flaky, id="flaky", map_over="n", retries=AT_ONCE), inputs={"n": [0, 1, 2]})
    assert run.value == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]


@pytest.mark.parametrize("strategy", [strategy for strategy in STRATEGIES if strategy != "inline"])
def test_the_deadline_is_that_of_the_attempt(strategy: str) -> None:
    """With a timeout there is a moment, of this clock, until which the attempt has time: from when it began."""

    def asks() -> tuple[float, float, float, float]:
        here = pmflow.current()
        deadline, left = here.deadline, here.remaining()
        assert deadline is not None
        assert left is not None
        return before, deadline, left, perf_counter()

    before = perf_counter()
    before, deadline, left, after = pmflow.run(made(strategy, asks, id="page", timeout=60)).value
    assert before + 60 <= deadline <= after + 60
    assert 60 - (after - before) <= left <= 60


@every_strategy
def test_the_deadline_of_the_run_counts_too(strategy: str) -> None:
    """A run that has less time than the process has is what there is; an attempt that follows has as much of it."""

    def asks() -> float | None:
        here = pmflow.current()
        if here.attempt == 1:
            raise OSError("again")
        return here.deadline

    settings = {} if strategy == "inline" else {"timeout": 60}
    before = perf_counter()
    run = pmflow.run(made(strategy, asks, id="page", retries=AT_ONCE, **settings), timeout=30)
    assert before + 30 <= run.value <= perf_counter() + 30


def test_nothing_remains_of_an_attempt_that_is_over() -> None:
    """What remains is never less than 0."""
    over = Current.of("page", None, 1, perf_counter() - 2, (1.0, UNBOUNDED[1]), lambda: True, print)
    assert over.remaining() == 0


def test_class_based_processes_know_themselves() -> None:
    """A process that is a class knows what a function knows; run on its own too."""

    class Page(BaseProcess[Any]):
        def process(self, input_data: Any) -> Any:
            return facts()

    page = Page(ProcessConfig(process_id="page"))
    assert pmflow.run(page, inputs={"page": 1}).value == ("page", None, 1, None, None)
    assert anyio.run(page.run, 1).data == ("page", None, 1, None, None)


@pytest.mark.parametrize("strategy", ["inline", "thread", "worker"])
def test_an_iterator_is_consumed_within_its_process(strategy: str) -> None:
    """What a generator function asks while it is consumed is asked by its process."""

    def pages() -> Iterator[str]:
        yield pmflow.current().id
        yield pmflow.current().id

    assert pmflow.run(made(strategy, pages, id="pages")).value == ["pages", "pages"]


def test_what_a_plain_function_returned_to_be_awaited_is_within_its_process() -> None:
    """It knows its attempt and its deadline as well."""

    async def later(attempt: int) -> Any:
        await anyio.lowlevel.checkpoint()
        here = pmflow.current()
        here.progress(0.5)
        if attempt == 1:
            raise OSError("again")
        return here.id, here.attempt, here.deadline is not None

    hook = Hook()
    page = made("inline", lambda: later(pmflow.current().attempt), id="page", retries=AT_ONCE)
    assert pmflow.run(page, timeout=60, hooks=[hook]).value == ("page", 2, True)
    assert hook.told == [("page", 1, 50, ""), ("page", 2, 50, "")]


# Where it is known


def test_outside_of_a_process_there_is_none() -> None:
    """Nor after a run; the error says what to do."""
    assert error_here() == NOWHERE
    pmflow.run(made("inline", facts, id="page"))
    assert error_here() == NOWHERE


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_thread_that_a_function_starts(kind: str) -> None:
    """It has no process of its own; with the context, or what `current` returned, it has that of the function."""

    def starts() -> list[Any]:
        here = pmflow.current()
        found: list[Any] = []

        def plain() -> None:
            try:
                pmflow.current()
            except pmflow.NoCurrentProcessError as error:
                found.append(str(error))

        context = contextvars.copy_context()
        for function in (plain, lambda: context.run(lambda: found.append(pmflow.current().id)), lambda: told(here)):
            thread = threading.Thread(target=function)
            thread.start()
            thread.join()
        return found

    def told(here: Current) -> None:
        here.check_cancelled()
        here.progress(0.5, here.id)

    hook = Hook()
    assert pmflow.run(made(kind, starts, id="page"), hooks=[hook]).value == [NOWHERE, "page"]
    assert hook.told == [("page", 1, 50, "page")]


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
def test_tasks_and_threads_of_a_coroutine(kind: str) -> None:
    """Tasks that a coroutine starts are within its process, and once it has asked also the threads that it awaits."""

    async def page() -> list[str]:
        found: list[str] = []

        async def child() -> None:
            await anyio.lowlevel.checkpoint()
            found.append(pmflow.current().id)

        async with anyio.create_task_group() as group:
            group.start_soon(child)
        found.append(pmflow.current().id)
        found.append(await anyio.to_thread.run_sync(lambda: pmflow.current().id))
        found.append(await asyncio.to_thread(lambda: pmflow.current().id))
        return found

    assert pmflow.run(process(page, type=kind)).value == ["page"] * 4


@pytest.mark.anyio
async def test_tasks_side_by_side_are_not_mistaken_for_one_another() -> None:
    """Processes that take turns on the loop, and their tasks, are each themselves."""
    many = [made("coroutine", lambda: "", id=f"p{n}") for n in range(20)]

    async def page(n: int) -> tuple[str, str]:
        found: list[str] = []

        async def child() -> None:
            await anyio.lowlevel.checkpoint()
            found.append(pmflow.current().id)

        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.lowlevel.checkpoint()
            found.append(pmflow.current().id)
        return found[0], found[1]

    run = await pmflow.arun([*many, process(page, map_over={"n": "numbers"})], inputs={"numbers": range(20)})
    assert run["page"].data == [(f"page_{n}", f"page_{n}") for n in range(20)]


@pytest.mark.parametrize("inner", ["coroutine", "inline", "thread"])
@every_strategy
def test_nested_runs(strategy: str, inner: str) -> None:
    """The innermost process counts; after a nested run the outer one is current again."""
    kind = STRATEGIES[inner]

    async def awaited() -> str:
        return pmflow.current().id

    def plain() -> str:
        return pmflow.current().id

    function = awaited if inner == "coroutine" else plain

    def outer() -> list[str]:
        found = [pmflow.current().id]
        found.append(pmflow.run(process(function, id="inner", type=kind)).value)
        return [*found, pmflow.current().id]

    assert pmflow.run(made(strategy, outer, id="outer")).value == ["outer", "inner", "outer"]


def test_a_nested_run_in_a_worker() -> None:
    """A worker's process is the innermost one too, and progress is told to the run that it is of."""
    hooks = Hook(), Hook()

    def inner() -> str:
        pmflow.current().progress(0.25)
        return pmflow.current().id

    def outer() -> list[str]:
        found = pmflow.run(process(inner, type="process"), hooks=[hooks[0]]).value
        pmflow.current().progress(0.75)
        return [found, pmflow.current().id]

    assert pmflow.run(process(outer), hooks=[hooks[1]]).value == ["inner", "outer"]
    assert [hook.told for hook in hooks] == [[("inner", 1, 25, "")], [("outer", 1, 75, "")]]


@pytest.mark.anyio
async def test_a_nested_arun() -> None:
    """The same on the loop that the outer process is on."""

    async def inner() -> str:
        return pmflow.current().id

    async def outer() -> list[str]:
        found = [pmflow.current().id, (await pmflow.arun([process(inner), made("inline", facts, id="other")])).data]
        return [*found, pmflow.current().id]

    run = await pmflow.arun(process(outer))
    assert run.value == ["outer", {"inner": "inner", "other": ("other", None, 1, None, None)}, "outer"]


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("strategy", ["coroutine", "inline", "thread"])
def test_what_a_process_was_given_goes_with_its_end(strategy: str, *, asks: bool) -> None:
    """That a call is known where it runs keeps nothing of it: values go with the last reference, not as garbage."""

    class Page:
        pass

    pages: list[weakref.ref[Page]] = []

    def page() -> Page:
        made = Page()
        pages.append(weakref.ref(made))
        return made

    def words(page: Page) -> int:
        return pmflow.current().attempt if asks else 1

    def count(words: int, page: Page) -> int:
        return words

    gc.collect()
    gc.disable()
    try:
        processes = [made(strategy, function, id=function.__name__) for function in (page, words, count)]
        run = pmflow.run(processes, targets="count")
        assert (run.value, [page() for page in pages]) == (1, [None])
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_function_that_is_finished_later_sees_the_callers_context(kind: str) -> None:
    """A coroutine function or a generator function sees the context variables of the caller, on a thread too."""

    async def awaited() -> str:
        await anyio.lowlevel.checkpoint()
        return tenant.get()

    def consumed() -> Iterator[str]:
        yield tenant.get()

    async def main() -> Any:
        tenant.set("of a task")
        return (await pmflow.arun([process(awaited, type=kind), process(consumed, type=kind)])).data

    token = tenant.set("caller")
    try:
        run = pmflow.run([process(awaited, type=kind), process(consumed, type=kind)])
    finally:
        tenant.reset(token)
    assert run.data == {"awaited": "caller", "consumed": ["caller"]}
    for backend in ("asyncio", "trio"):
        assert anyio.run(main, backend=backend) == {"awaited": "of a task", "consumed": ["of a task"]}


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


# Given up


class Cooperative:
    """Works until it is told that it has been given up."""

    def __init__(self) -> None:
        self.began, self.given_up = threading.Event(), threading.Event()
        self.error: ProcessCancelledError | None = None
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        """Begin; go on when it has been given up, and see it."""
        here = pmflow.current()
        here.check_cancelled()
        self.thread = threading.current_thread()
        self.began.set()
        assert self.given_up.wait(GENEROUS)
        try:
            here.check_cancelled()
        except ProcessCancelledError as error:
            self.error = error
            raise
        return "nobody stopped it"

    def ended(self) -> tuple[str, str | None, int | None]:
        """Let it go on, wait for the end of its thread, and return what it was told."""
        self.given_up.set()
        assert self.thread is not None
        self.thread.join(GENEROUS)
        assert not self.thread.is_alive()
        assert self.error is not None
        return str(self.error), self.error.process_id, self.error.attempt


GIVEN_UP = (
    "'work', attempt 1, has been given up (its timeout has passed, or its run was stopped), and ends here; "
    "what it returns or raises is dropped"
)


def test_a_thread_ends_itself_after_its_timeout() -> None:
    """A thread that nobody can stop learns that it is not waited for any more, and its place ends with it."""
    work = Cooperative()
    run = pmflow.run(process(work, id="work", timeout=0.05), on_error="return")
    assert (type(run["work"].exception), run["work"].stopped) == (ProcessTimeoutError, False)
    assert work.ended() == (GIVEN_UP, "work", 1)


def test_a_thread_ends_itself_when_its_run_is_stopped() -> None:
    """By another process's failure, or by anything else."""
    work = Cooperative()

    def breaks() -> None:
        assert work.began.wait(GENEROUS)
        raise ValueError("stop")

    with pytest.raises(pmflow.WorkflowError) as caught:
        pmflow.run([process(work, id="work"), process(breaks)])
    run = caught.value.run
    assert run is not None
    assert run["work"].state is CANCELLED
    assert work.ended() == (GIVEN_UP, "work", 1)


@pytest.mark.anyio
async def test_a_thread_that_a_coroutine_awaits_ends_itself() -> None:
    """A thread of its own, which a cancelled coroutine waits for, can look too; the coroutine has been stopped then."""
    never = threading.Event()

    def work() -> None:
        here = pmflow.current()
        while not never.wait(0.005):
            here.check_cancelled()

    async def page() -> None:
        await anyio.to_thread.run_sync(work)

    async def other() -> None:
        await anyio.to_thread.run_sync(work)

    run = await pmflow.arun(process(page, timeout=0.05), on_error="return")
    assert (type(run["page"].exception), run["page"].stopped) == (ProcessTimeoutError, True)
    run = await pmflow.arun(process(other), on_error="return", timeout=0.05)
    assert (run["other"].state, run["other"].stopped) == (CANCELLED, True)


@pytest.mark.anyio
async def test_a_coroutine_that_is_cancelled_may_look() -> None:
    """Where it is told in words what it has been told by its cancellation, it counts as stopped, not as failed."""
    began = anyio.Event()

    async def page() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            pmflow.current().check_cancelled()

    async def breaks() -> None:
        await began.wait()
        raise ValueError("stop")

    with pytest.raises(pmflow.WorkflowError) as caught:
        await pmflow.arun([process(page), process(breaks)])
    run = caught.value.run
    assert run is not None
    assert (run["page"].state, run["breaks"].state) == (CANCELLED, FAILED)


# Progress


@pytest.mark.parametrize("strategy", ["coroutine", "thread", "coroutine on a thread"])
def test_progress_is_told_while_a_process_runs(strategy: str) -> None:
    """Hooks hear each thing that a process says before it says the next."""
    hook = Hook()

    async def waits() -> None:
        for done in (1, 2, 3):
            pmflow.current().progress(done / 4, f"step {done}")
            assert await anyio.to_thread.run_sync(hook.heard.get) == done * 25

    def plain() -> None:
        for done in (1, 2, 3):
            pmflow.current().progress(done / 4, f"step {done}")
            assert hook.heard.get(timeout=GENEROUS) == done * 25

    function = waits if strategy.startswith("coroutine") else plain
    run = pmflow.run(process(function, id="page", type=STRATEGIES[strategy]), hooks=[hook])
    assert hook.told == [("page", 1, 25, "step 1"), ("page", 1, 50, "step 2"), ("page", 1, 75, "step 3")]
    assert {(event.state, event.result, event.run_id) for event in hook.events} == {(RUNNING, None, run.run_id)}
    times = [run["page"].start_time, *(event.time for event in hook.events), run["page"].end_time]
    assert times == sorted(times)
    kinds = ["run_started", "process_started", *["process_progress"] * 3, "process_ended", "run_ended"]
    assert hook.kinds == kinds


@pytest.mark.anyio
async def test_progress_on_a_running_loop() -> None:
    """The same on asyncio and on trio, from tasks and from a thread."""
    hook = Hook()

    def hears(expected: float) -> None:
        assert hook.heard.get(timeout=GENEROUS) == expected

    async def page() -> None:
        pmflow.current().progress(0.25)
        await anyio.to_thread.run_sync(hears, 25)

    def words(page: None) -> None:
        pmflow.current().progress(0.5)
        hears(50)

    await pmflow.arun([process(page), process(words)], hooks=[hook])
    assert hook.told == [("page", 1, 25, ""), ("words", 1, 50, "")]


@pytest.mark.parametrize("kind", ["process", "async"])
def test_progress_is_told_while_a_worker_runs(kind: str, tmp_path: Path) -> None:
    """The same from a worker: what it says sooner than it may say it is said when it may, though nobody asks again."""
    pipes = [str(tmp_path / name) for name in "abc"]
    for pipe in pipes:
        os.mkfifo(pipe)

    def answers(event: Event) -> None:
        hook(event)
        if event.kind == "process_progress":
            with open(pipes[len(hook.events) - 1], "w", encoding="utf-8") as pipe:
                pipe.write(str(event.progress))

    def page() -> list[str]:
        found: list[str] = []
        for done, name in enumerate(pipes, start=1):
            pmflow.current().progress(done / 4, f"step {done}")
            with open(name, encoding="utf-8") as pipe:
                found.append(pipe.read())
        return found

    async def awaited() -> list[str]:
        await anyio.lowlevel.checkpoint()
        return page()

    hook = Hook()
    function = awaited if kind == "async" else page
    run = pmflow.run(process(function, id="page", type="process"), hooks=[answers])
    assert run.value == ["25.0", "50.0", "75.0"]
    assert hook.told == [("page", 1, 25, "step 1"), ("page", 1, 50, "step 2"), ("page", 1, 75, "step 3")]
    times = [run["page"].start_time, *(event.time for event in hook.events), run["page"].end_time]
    assert times == sorted(times)
    assert hook.kinds == ["run_started", "process_started", *["process_progress"] * 3, "process_ended", "run_ended"]


@every_strategy
def test_of_much_progress_some_is_told_and_the_last_is(strategy: str) -> None:
    """Whatever a process says in one go, hooks hear some of it, in order, the last always, between start and end."""

    def page() -> None:
        here = pmflow.current()
        for done in range(1, 1_001):
            here.progress(done / 1_000, f"row {done}")

    hook = Hook()
    pmflow.run(made(strategy, page, id="page"), hooks=[hook])
    rows = [round(event.progress * 10) for event in hook.events if event.progress is not None]
    assert rows[-1] == 1_000
    assert rows == sorted(set(rows))
    assert [event.message for event in hook.events] == [f"row {row}" for row in rows]
    kinds = ["run_started", "process_started", *["process_progress"] * len(rows), "process_ended", "run_ended"]
    assert hook.kinds == kinds


@every_strategy
def test_progress_of_elements_and_chains(strategy: str) -> None:
    """Each element and each link says its own."""
    page = made(strategy, lambda n: pmflow.current().progress(n / 4), id="page", map_over={"n": "numbers"})
    first = made(strategy, lambda: pmflow.current().progress(0.1), id="first")
    second = made(strategy, lambda first: pmflow.current().progress(0.2), id="second")
    hook = Hook()
    pmflow.run([page, first, second], inputs={"numbers": [1, 2, 3]}, hooks=[hook])
    expected = {("first", 10), ("second", 20), ("page_0", 25), ("page_1", 50), ("page_2", 75)}
    assert {(event.process_id, event.progress) for event in hook.events} == expected
    assert len(hook.events) == 5


@every_strategy
def test_progress_that_nobody_hears(strategy: str) -> None:
    """Without hooks it costs little, and harms nothing."""
    assert pmflow.run(made(strategy, lambda: pmflow.current().progress(1), id="page")).value is None


@pytest.mark.parametrize("wrong", [-0.1, 1.001, 40, float("nan"), float("inf"), True, "0.4", None, 1j])
def test_progress_that_is_none_is_refused(wrong: Any) -> None:
    """What is no number from 0 to 1 is refused; percent, most likely, with the remedy."""
    told: list[Any] = []
    here = Current.of("page", None, 1, 0.0, UNBOUNDED, lambda: False, lambda *news: told.append(news))
    with pytest.raises(ConfigurationError) as caught:
        here.progress(wrong)
    error = f"'page': progress is a number from 0 to 1, not {wrong!r}; divide what is done by the whole"
    assert (str(caught.value), caught.value.process_id, caught.value.setting) == (error, "page", "progress")
    with pytest.raises(ConfigurationError, match="'page': the message of progress is a text, not 3; use str()"):
        here.progress(0.5, 3)  # type: ignore[arg-type]
    assert told == []


def test_numbers_and_texts_of_other_classes_are_taken() -> None:
    """Whole numbers, and what can be made a float: they become plain ones, which go everywhere."""

    class Half:
        def __float__(self) -> float:
            return 0.5

    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    told: list[tuple[float, str]] = []
    here = Current.of("page", None, 1, 0.0, UNBOUNDED, lambda: False, lambda *news: told.append(news))
    for number in (0, Half(), 1):
        here.progress(number, Text("row"))  # type: ignore[arg-type]
    assert told == [(0.0, "row"), (0.5, "row"), (1.0, "row")]
    assert {(type(number), type(text)) for number, text in told} == {(float, str)}


def test_progress_of_an_attempt_that_was_given_up_is_dropped() -> None:
    """A thread that goes on after its timeout says nothing any more of the process, which is at its next attempt."""
    hook = Hook()
    went_on, said = threading.Event(), threading.Event()

    def page() -> str:
        here = pmflow.current()
        if here.attempt == 1:
            assert went_on.wait(GENEROUS)
            here.progress(0.9)
            said.set()
            return "late"
        went_on.set()
        assert said.wait(GENEROUS)
        here.progress(0.1)
        return "done"

    retries = RetryStrategy(max_retries=1, delay_seconds=0)
    slow = process(page, id="page", timeout=1, retries=retries)
    assert pmflow.run(slow, hooks=[hook]).value == "done"
    assert hook.told == [("page", 2, 10, "")]


def left_behind() -> str:
    """Leave a thread behind that says, when it is let go, how far this process is."""
    here = pmflow.current()
    go = threading.Event()

    def late() -> None:
        go.wait()
        here.progress(0.9, "late")

    thread = threading.Thread(target=late)
    thread.start()
    sys.left_behind = go, thread  # type: ignore[attr-defined]
    return here.id


@pytest.mark.parametrize("strategy", ["coroutine", "inline", "thread", "worker"])
def test_progress_after_the_end_is_dropped(strategy: str) -> None:
    """What a thread that was left behind says of a process that has ended is said to nobody, and harms nothing."""

    def lets_go(first: str) -> tuple[str, str]:
        go, thread = sys.left_behind  # type: ignore[attr-defined]
        go.set()
        thread.join()
        pmflow.current().progress(0.1, "in time")
        return first, pmflow.current().id

    hook = Hook()
    first = made(strategy, left_behind, id="first")
    second = made(strategy, lets_go, id="second")
    run = pmflow.run([first, second], targets="second", max_processes=1, hooks=[hook])
    assert run.value == ("first", "second")
    assert hook.told == [("second", 1, 10, "in time")]


# Metadata


@every_strategy
def test_how_far_it_got(strategy: str) -> None:
    """A result says 100 where it is a success, else what the last attempt has said; so do its metadata."""

    def page(attempts: int) -> None:
        here = pmflow.current()
        if here.attempt == 1:
            here.progress(0.9)
        if here.attempt == attempts:
            here.progress(0.29)
            raise ValueError("no such page")
        if attempts:
            raise OSError("again")

    pages = made(strategy, page, id="page", map_over="attempts", retries=AT_ONCE)
    run = pmflow.run(pages, inputs={"attempts": [0, 1, 3, 9]}, on_error="return")
    results = [run[f"page_{n}"] for n in range(4)]
    assert [(each.state, each.progress) for each in results] == [(DONE, 100), (FAILED, 0), (FAILED, 29), (FAILED, 0)]
    assert [each.metadata.progress for each in results] == [100, 0, 29, 0]
    assert [each.to_dict()["progress"] for each in results] == [100, 0, 29, 0]


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
def test_how_far_it_got_before_it_was_given_up(kind: str) -> None:
    """The same where it was stopped: by its timeout, or with its run."""
    hook = Hook()

    async def awaits() -> None:
        pmflow.current().progress(0.5)
        await anyio.sleep_forever()

    def blocks() -> None:
        here = pmflow.current()
        here.progress(0.5)
        for _ in range(1_000):
            time.sleep(0.02)
            here.check_cancelled()

    def breaks() -> None:
        assert hook.heard.get(timeout=GENEROUS) == 50
        raise ValueError("stop")

    page = process(awaits if kind == "async" else blocks, id="page", type=kind)
    run = pmflow.run(page.options(timeout=1), on_error="return")
    assert (type(run["page"].exception), run["page"].metadata.progress) == (ProcessTimeoutError, 50)
    run = pmflow.run([page, process(breaks)], on_error="return", fail_fast=True, hooks=[hook])
    assert (run["page"].state, run["page"].metadata.progress) == (CANCELLED, 50)


def test_how_far_it_got_before_its_worker_died() -> None:
    """What was said before is known after."""

    def page() -> None:
        pmflow.current().progress(0.5)
        os._exit(1)

    run = pmflow.run(process(page, type="process"), on_error="return")
    assert (type(run["page"].exception), run["page"].progress) == (pmflow.WorkerCrashedError, 50)


def test_what_did_not_run_has_got_nowhere() -> None:
    """What was skipped is at 0, like a result that somebody makes of a failure."""
    broken = process(lambda: 1 // 0, id="broken", type="async")
    run = pmflow.run([broken, process(lambda broken: broken, id="heir")], on_error="return")
    assert [run[name].metadata.progress for name in ("broken", "heir")] == [0, 0]


async def until(process: Any, progress: float, retries: int = 0) -> None:
    """Return when the metadata of a process say so."""
    with anyio.fail_after(GENEROUS):
        while (process.metadata.progress, process.metadata.retries) != (progress, retries):
            await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_a_workflow_shows_it_while_it_runs() -> None:
    """`Workflow.execute` sets the metadata of its processes: how far they are, while they run; 100 at the end."""
    seen = [threading.Event(), threading.Event()]

    async def on_the_loop() -> None:
        pmflow.current().progress(0.4)
        await until(nodes[0], 40)

    def on_a_thread() -> None:
        here = pmflow.current()
        here.progress(0.6)
        assert seen[here.attempt - 1].wait(GENEROUS)
        if here.attempt == 1:
            raise OSError("again")

    async def looks() -> None:
        await until(nodes[1], 60)
        seen[0].set()
        await until(nodes[1], 60, retries=1)
        seen[1].set()

    nodes = [process(on_the_loop), process(on_a_thread, retries=AT_ONCE), process(looks)]
    with Workflow() as workflow:
        for node in nodes:
            node.register_to(workflow)
        results = await workflow.execute()
    assert [(node.metadata.state, node.metadata.progress) for node in nodes] == [(DONE, 100)] * 3
    assert [result.metadata.progress for result in results.values()] == [100] * 3


@pytest.mark.anyio
async def test_a_new_attempt_begins_at_nothing() -> None:
    """The metadata of a process that is tried again say 0 until it says something."""

    async def page() -> None:
        here = pmflow.current()
        if here.attempt == 1:
            here.progress(0.8)
            await until(node, 80)
            raise OSError("again")
        await until(node, 0, retries=1)

    node = process(page, retries=AT_ONCE)
    with Workflow() as workflow:
        node.register_to(workflow)
        await workflow.execute()
    assert (node.metadata.state, node.metadata.progress, node.metadata.retries) == (DONE, 100, 1)


@pytest.mark.anyio
async def test_a_process_on_its_own_shows_it_while_it_runs() -> None:
    """So does a process that is run without a workflow."""

    async def page() -> None:
        pmflow.current().progress(0.3)
        await until(alone, 30)

    alone = process(page)
    result = await alone.run({})
    assert result.unwrap() is None
    assert alone.metadata.progress == 100


# How it travels


def test_what_nobody_has_seen_is_replaced() -> None:
    """One message is under way at a time; read, it is the newest, once; what comes after that is another message."""
    report = Progressed()
    assert [report.renew((done, "", 0.0)) for done in (0.1, 0.2, 0.3)] == [True, False, False]
    assert [report.read(), report.read()] == [(0.3, "", 0.0), None]
    assert report.renew((0.4, "", 0.0))
    assert report.read() == (0.4, "", 0.0)


class Fake:
    """A clock, and who calls later, and what was sent."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.sent: list[Any] = []
        self.throttle = Throttle(self.send, lambda: self.now, lambda after, call: self.due.append((after, call)))

    def send(self, message: Any) -> None:
        """Take a message."""
        if message == "broken":
            raise BrokenPipeError
        self.sent.append(message)

    def pass_time(self) -> None:
        """Let the time come of what is due."""
        ((after, call),) = self.due
        self.due.clear()
        self.now += after
        call()


def test_a_throttle_sends_the_first_at_once_and_the_newest_later() -> None:
    """Of many messages the first goes at once, then the newest whenever it is time; the last of all in any case."""
    fake = Fake()
    for message in ("a", "b", "c"):
        fake.throttle.take(message)
    assert (fake.sent, fake.throttle.waiting) == (["a"], "c")
    assert [after for after, _ in fake.due] == [pytest.approx(EVERY)]
    fake.pass_time()
    assert (fake.sent, fake.throttle.waiting, fake.due) == (["a", "c"], None, [])
    fake.throttle.take("d")
    assert fake.sent == ["a", "c"]
    fake.pass_time()
    assert fake.sent == ["a", "c", "d"]
    fake.now += EVERY
    fake.throttle.take("e")
    assert (fake.sent, fake.due) == (["a", "c", "d", "e"], [])


def test_a_throttle_is_flushed() -> None:
    """What waits is sent before its time, once; whoever comes for it then finds nothing."""
    fake = Fake()
    fake.throttle.take("a")
    fake.throttle.take("b")
    fake.throttle.flush()
    fake.throttle.flush()
    assert fake.sent == ["a", "b"]
    fake.pass_time()
    assert (fake.sent, fake.throttle.waiting) == (["a", "b"], None)


def test_a_throttle_whose_messages_nobody_takes() -> None:
    """Its thread says nothing of it: the program has gone."""
    fake = Fake()
    fake.throttle.take("a")
    fake.throttle.take("broken")
    fake.pass_time()
    assert fake.sent == ["a"]


def test_later_is_on_another_thread() -> None:
    """What is to be done later is done, by a thread that was not there before."""
    done: SimpleQueue[int] = SimpleQueue()
    in_a_thread(0.0, lambda: done.put(threading.get_ident()))
    assert done.get(timeout=GENEROUS) != threading.get_ident()
