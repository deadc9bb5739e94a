"""Hooks: who is told what, in which order, and that they cannot hurt."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest

import pmflow
from pmflow import Event, ProcessState, RetryStrategy, process
from pmflow.errors import ConfigurationError

GENEROUS = 20.0
RUNNING, RETRYING, DONE, FAILED, SKIPPED, CANCELLED = (
    ProcessState.RUNNING,
    ProcessState.RETRYING,
    ProcessState.COMPLETED,
    ProcessState.FAILED,
    ProcessState.SKIPPED,
    ProcessState.CANCELLED,
)

every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])


def told(events: list[Event]) -> list[tuple[str, str | None, ProcessState | None, int | None]]:
    """Return what events say but for times and results."""
    return [(event.kind, event.process_id, event.state, event.attempt) for event in events]


class Fails:
    """Fails so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self) -> str:
        """Fail, or return."""
        if self.times:
            self.times -= 1
            raise OSError("again")
        return "done"


# What is told


@every_type
def test_the_life_of_a_process(kind: str) -> None:
    """A hook is told of the run's start, of each process's start and end, and of the run's end, in order."""
    events: list[Event] = []
    one = process(lambda: 1, id="one", type=kind)
    two = process(lambda one: one + 1, id="two", type=kind)
    run = pmflow.run([one, two], hooks=[events.append])
    assert told(events) == [
        ("run_started", None, None, None),
        ("process_started", "one", RUNNING, 1),
        ("process_ended", "one", DONE, 1),
        ("process_started", "two", RUNNING, 1),
        ("process_ended", "two", DONE, 1),
        ("run_ended", None, None, None),
    ]
    assert {event.run_id for event in events} == {run.run_id}
    ends = [event.result for event in events if event.kind == "process_ended"]
    assert [(str(end.process_id), end.data) for end in ends if end is not None] == [("one", 1), ("two", 2)]
    assert [event.result for event in events if event.kind != "process_ended"] == [None] * 4


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_retry_is_told(kind: str) -> None:
    """Each attempt starts; one that will be tried again says how it failed, and the last how it ended."""
    events: list[Event] = []
    again = RetryStrategy(max_retries=3, delay_seconds=0)
    pmflow.run(process(Fails(2), id="one", type=kind, retries=again), hooks=[events.append])
    assert told(events) == [
        ("run_started", None, None, None),
        ("process_started", "one", RUNNING, 1),
        ("process_retrying", "one", RETRYING, 1),
        ("process_started", "one", RUNNING, 2),
        ("process_retrying", "one", RETRYING, 2),
        ("process_started", "one", RUNNING, 3),
        ("process_ended", "one", DONE, 3),
        ("run_ended", None, None, None),
    ]
    failed = [event.result for event in events if event.kind == "process_retrying"]
    assert [(each.error, each.error_type) for each in failed if each is not None] == [("again", "OSError")] * 2


def test_failures_and_what_they_skip_are_told() -> None:
    """What failed ends FAILED, what was never started ends SKIPPED, without a start."""
    events: list[Event] = []
    broken = process(Fails(1), id="broken")
    heir = process(lambda broken: broken, id="heir")
    pmflow.run([broken, heir], on_error="return", hooks=[events.append])
    assert told(events) == [
        ("run_started", None, None, None),
        ("process_started", "broken", RUNNING, 1),
        ("process_ended", "broken", FAILED, 1),
        ("process_ended", "heir", SKIPPED, 0),
        ("run_ended", None, None, None),
    ]
    last = events[3].result
    assert last is not None
    assert last.reason == "'broken' failed (OSError: again)"


@pytest.mark.anyio
async def test_a_stop_is_told() -> None:
    """What a stop cancels ends CANCELLED, whether it had started or not; every process ends once."""
    events: list[Event] = []
    began = anyio.Event()

    async def endless() -> None:
        began.set()
        await anyio.sleep_forever()

    async def failing() -> None:
        await began.wait()
        raise ValueError("stop")

    given = [process(endless), process(failing), process(lambda endless: endless, id="behind")]
    with anyio.fail_after(GENEROUS), pytest.raises(pmflow.WorkflowError):
        await pmflow.arun(given, hooks=[events.append])
    ends = {event.process_id: event.state for event in events if event.kind == "process_ended"}
    assert ends == {"failing": FAILED, "endless": CANCELLED, "behind": CANCELLED}
    assert [event.kind for event in events].count("process_ended") == 3
    assert (events[0].kind, events[-1].kind) == ("run_started", "run_ended")


def test_elements_are_told_by_their_keys() -> None:
    """Each element of a mapped process starts and ends by its key; the process itself ends after the last of them."""
    events: list[Event] = []
    page = process(lambda number: 1 // number, id="page", type="async", map_over={"number": "numbers"})
    pmflow.run(page, inputs={"numbers": [1, 0, 2]}, on_error="return", hooks=[events.append])
    ends = [(event.process_id, event.state) for event in events if event.kind == "process_ended"]
    assert ends == [("page_0", DONE), ("page_1", FAILED), ("page_2", DONE), ("page", FAILED)]
    starts = [event.process_id for event in events if event.kind == "process_started"]
    assert starts == ["page_0", "page_1", "page_2"]


def test_overrides_are_not_told() -> None:
    """A process that is overridden by a value does not run: there is nothing to tell."""
    events: list[Event] = []
    one = process(lambda: 1, id="one")
    two = process(lambda one: one, id="two")
    pmflow.run([one, two], overrides={"one": 5}, targets="two", hooks=[events.append])
    assert {event.process_id for event in events} == {None, "two"}


def test_times_of_events() -> None:
    """Events carry their own times, aware and in order: when it happened, not when it was told."""
    events: list[Event] = []
    before = datetime.now(timezone.utc)
    run = pmflow.run(process(lambda: 1, id="one"), hooks=[events.append])
    times = [event.time for event in events]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)
    assert (times[0] - before).total_seconds() > -0.05
    assert (times[1], times[2]) == (run["one"].start_time, run["one"].end_time)


def test_an_event_is_frozen() -> None:
    """One hook cannot change what the next one is told."""
    events: list[Event] = []
    pmflow.run(process(lambda: 1, id="one"), hooks=[events.append])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        events[0].kind = "run_ended"  # type: ignore[misc]


def test_a_run_of_nothing_is_told() -> None:
    """An empty run starts and ends."""
    events: list[Event] = []
    pmflow.run([], hooks=[events.append])
    assert [event.kind for event in events] == ["run_started", "run_ended"]


def test_a_refused_graph_is_not_told() -> None:
    """Where nothing runs, nobody is told anything."""
    events: list[Event] = []
    with pytest.raises(pmflow.GraphError):
        pmflow.run(process(lambda nowhere: nowhere, id="one"), hooks=[events.append])
    assert events == []


# How it is told


def test_hooks_are_called_in_order_on_one_thread_of_their_own() -> None:
    """Hooks are called one after another, in order, on a thread that is neither the caller's nor a process's."""
    calls: list[tuple[str, str, int]] = []
    own: list[int] = [threading.get_ident()]

    def hook(name: str) -> Callable[[Event], None]:
        return lambda event: calls.append((name, event.kind, threading.get_ident()))

    pmflow.run(process(lambda: own.append(threading.get_ident()), id="one"), hooks=(hook("a"), hook("b")))
    kinds = ["run_started", "process_started", "process_ended", "run_ended"]
    assert [(name, kind) for name, kind, _ in calls] == [(name, kind) for kind in kinds for name in "ab"]
    threads = {thread for _, _, thread in calls}
    assert len(threads) == 1
    assert not threads & set(own)


def test_all_events_have_been_told_when_the_run_is_over() -> None:
    """A quick hook has been told everything when `run` returns, of many processes too."""
    events: list[Event] = []
    pmflow.run([process(lambda: 1, id=f"p{n}", type="async") for n in range(2_000)], hooks=[events.append])
    assert len(events) == 2 + 2 * 2_000
    started = {event.process_id: index for index, event in enumerate(events) if event.kind == "process_started"}
    ended = {event.process_id: index for index, event in enumerate(events) if event.kind == "process_ended"}
    assert started.keys() == ended.keys() == {f"p{n}" for n in range(2_000)}
    assert all(started[name] < ended[name] for name in started)


@pytest.mark.anyio
async def test_hooks_of_arun() -> None:
    """`arun` tells hooks the same, on every loop."""
    events: list[Event] = []

    async def one() -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    await pmflow.arun(process(one), hooks=[events.append])
    assert [event.kind for event in events] == ["run_started", "process_started", "process_ended", "run_ended"]


def test_a_process_does_not_wait_for_a_hook() -> None:
    """What a hook is told of goes on meanwhile: a hook that waits for the run's last process sees it happen."""
    last_ran = threading.Event()
    seen: list[bool] = []

    def hook(event: Event) -> None:
        if event.kind == "run_started":
            seen.append(last_ran.wait(GENEROUS))

    one = process(lambda: 1, id="one")
    last = process(lambda one: last_ran.set(), id="last")
    pmflow.run([one, last], hooks=[hook])
    assert seen == [True]


# They cannot hurt


@pytest.mark.parametrize(
    "error", [ValueError("my own"), SystemExit(1), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
def test_a_hook_that_raises_is_logged_once_and_dropped(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged once and not called again; the run and the other hooks do not notice."""
    calls: list[str] = []
    events: list[Event] = []

    def bad(event: Event) -> None:
        calls.append(event.kind)
        if event.kind == "process_started":
            raise error

    with caplog.at_level(logging.DEBUG, logger="pmflow"):
        run = pmflow.run(process(lambda: 1, id="one"), hooks=[bad, events.append])
    assert run.value == 1
    assert calls == ["run_started", "process_started"]
    assert [event.kind for event in events] == ["run_started", "process_started", "process_ended", "run_ended"]
    assert [(record.name, record.levelname) for record in caplog.records] == [("pmflow", "ERROR")]
    message = caplog.records[0].getMessage()
    assert "process_started" in message
    assert run.run_id in message
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error


def test_one_hook_given_twice(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that is given twice is told twice; each is dropped for itself."""
    calls: list[str] = []

    def hook(event: Event) -> None:
        calls.append(event.kind)
        raise ValueError("my own")

    with caplog.at_level(logging.ERROR, logger="pmflow"):
        pmflow.run(process(lambda: 1, id="one"), hooks=[hook, hook])
    assert calls == ["run_started", "run_started"]
    assert len(caplog.records) == 2


def test_hooks_that_are_equal_are_dropped_by_identity(caplog: pytest.LogCaptureFixture) -> None:
    """Of two hooks that compare equal, the one that raised is dropped, not the other."""

    class Hook:
        def __init__(self, *, bad: bool) -> None:
            self.bad = bad
            self.calls: list[str] = []

        def __call__(self, event: Event) -> None:
            self.calls.append(event.kind)
            if self.bad:
                raise ValueError("my own")

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Hook)

        def __hash__(self) -> int:
            return 1

    good, bad = Hook(bad=False), Hook(bad=True)
    with caplog.at_level(logging.ERROR, logger="pmflow"):
        pmflow.run(process(lambda: 1, id="one"), hooks=[good, bad])
    assert (len(good.calls), bad.calls, len(caplog.records)) == (4, ["run_started"], 1)


def test_a_slow_hook_costs_at_most_a_second() -> None:
    """A hook that hangs is not waited for: the run ends while it still hangs, and it is told no more."""
    release, hangs = threading.Event(), threading.Event()
    calls: list[str] = []

    def hook(event: Event) -> None:
        calls.append(event.kind)
        hangs.set()
        release.wait(GENEROUS)

    try:
        run = pmflow.run(process(lambda: 1, id="one"), hooks=[hook])
        assert not release.is_set()
        assert hangs.is_set()
        assert calls == ["run_started"]
        assert run.value == 1
    finally:
        release.set()


def test_a_run_waits_a_second_for_its_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait at the end is bounded by a second, whatever is left to tell."""
    waits: list[float | None] = []
    join = threading.Thread.join

    def noted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name.startswith("pmflow-hooks"):
            waits.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", noted)
    pmflow.run(process(lambda: 1, id="one"), hooks=[lambda event: None])
    assert waits == [1.0]


@pytest.mark.anyio
async def test_a_slow_hook_does_not_hold_up_the_loop() -> None:
    """While `arun` waits for its hooks, the loop it runs in goes on."""
    other_ran = threading.Event()
    seen: list[bool] = []

    def hook(event: Event) -> None:
        if event.kind == "run_ended":
            seen.append(other_ran.wait(GENEROUS))

    ended = anyio.Event()

    async def other() -> None:
        await ended.wait()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        other_ran.set()

    async def one() -> None:
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await pmflow.arun(process(one), hooks=[hook])
        assert other_ran.is_set()
        assert seen == [True]


@pytest.mark.parametrize("hook", [5, "print", None], ids=repr)
def test_what_is_no_hook(hook: Any) -> None:
    """What cannot be called is refused before anything runs."""
    ran: list[int] = []
    with pytest.raises(ConfigurationError, match="hooks must be callables") as caught:
        pmflow.run(process(lambda: ran.append(1), id="one"), hooks=[hook])
    assert (caught.value.setting, ran) == ("hooks", [])


@pytest.mark.parametrize("hooks", [print, 5], ids=["a function", "a number"])
def test_hooks_that_are_no_list(hooks: Any) -> None:
    """One bare hook, or nothing to go over, is refused by an error of ours that says what to write."""
    with pytest.raises(ConfigurationError, match="hooks"):
        pmflow.run(process(lambda: 1, id="one"), hooks=hooks)
