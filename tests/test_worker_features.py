"""What a user has of worker processes: crash retries, what calls cost, logs, context, surroundings, large values."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import anyio.lowlevel
import numpy as np
import pytest

import pmflow
from pmflow import ConfigurationError, PerformanceWarning, TransferError, WorkerCrashedError, process
from pmflow.context import CARRIED
from pmflow.executors import pools
from pmflow.executors.platform import NUMERIC, cores
from pmflow.executors.workers import WorkerPool

SOON = 20.0
MEGABYTE = 1 << 20


def _pool(size: int, patch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    pool = WorkerPool(size)
    patch.setattr(pools, "_workers", [pool])
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def _alone() -> Iterator[WorkerPool]:
    """One worker, warm from test to test."""
    with pytest.MonkeyPatch.context() as patch:
        yield from _pool(1, patch)


@pytest.fixture
def one_worker(_alone: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    """Runs of the test have one worker, and always the same."""
    monkeypatch.setattr(pools, "_workers", [_alone])
    return _alone


@pytest.fixture
def fresh_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """Runs of the test have one worker, which has seen no other test."""
    yield from _pool(1, monkeypatch)


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """Runs of the test have two workers."""
    yield from _pool(2, monkeypatch)


def in_worker(function: Callable[..., Any], *, id: str = "it", **settings: Any) -> Any:
    """Return a process that calls a function in a worker."""
    return process(function, id=id, type="process", **settings)


def called(function: Callable[..., Any], **inputs: Any) -> Any:
    """Return what a function returns in a worker."""
    return pmflow.run(in_worker(function), inputs=inputs).value


def again(retries: int) -> pmflow.RetryStrategy:
    """Return a strategy of so many retries, at once."""
    return pmflow.RetryStrategy(max_retries=retries, delay_seconds=0)


def times(folder: str) -> int:
    """Return how often this was called for a folder, this time included; across workers."""
    for number in itertools.count(1):
        try:
            os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return number
    raise AssertionError


# Crash retries


def by_plan(folder: str, plan: list[str]) -> int:
    """End as planned for this attempt: "crash", "raise" or "well"."""
    number = times(folder)
    what = plan[number - 1]
    if what == "crash":
        os._exit(5)
    if what == "raise":
        raise LookupError(f"attempt {number}")
    return number


def planned(tmp_path: Path, plan: str, **settings: Any) -> pmflow.ProcessResult[Any]:
    """Return the result of a process whose attempts end as planned."""
    it = in_worker(by_plan, **settings)
    run = pmflow.run(it, inputs={"folder": str(tmp_path), "plan": plan.split()}, on_error="return")
    result = run["it"]
    assert len(list(tmp_path.iterdir())) == result.attempts
    return result


@pytest.mark.parametrize(
    ("plan", "retries", "crash_retries"),
    [
        ("well", 0, 0),
        ("crash well", 0, 1),
        ("crash crash crash well", 0, 3),
        ("raise well", 1, 0),
        ("crash raise well", 1, 1),
        ("raise crash well", 1, 1),
        ("raise crash raise crash well", 2, 2),
    ],
)
def test_crashes_and_failures_are_counted_apart(tmp_path: Path, plan: str, retries: int, crash_retries: int) -> None:
    """As many further attempts after each as there may be after it; all of them count as attempts."""
    result = planned(tmp_path, plan, retries=again(retries), crash_retries=crash_retries)
    assert (result.success, result.data, result.attempts) == (True, len(plan.split()), len(plan.split()))


@pytest.mark.parametrize(
    ("plan", "retries", "crash_retries", "attempts", "error"),
    [
        ("crash well", 0, 0, 1, WorkerCrashedError),
        ("crash well", 5, 0, 1, WorkerCrashedError),
        ("crash crash well", 5, 1, 2, WorkerCrashedError),
        ("raise well", 0, 5, 1, LookupError),
        ("raise crash raise well", 1, 5, 3, LookupError),
        ("crash raise crash well", 5, 1, 3, WorkerCrashedError),
    ],
)
def test_neither_kind_of_retry_is_spent_on_the_other(
    tmp_path: Path, plan: str, retries: int, crash_retries: int, attempts: int, error: type[Exception]
) -> None:
    """A crash is no failure to be retried, and the other way round."""
    result = planned(tmp_path, plan, retries=again(retries), crash_retries=crash_retries)
    assert (result.success, result.attempts, type(result.exception)) == (False, attempts, error)
    if isinstance(result.exception, WorkerCrashedError):
        assert (result.exception.process_id, result.exception.attempt, result.exception.exit_code) == (
            "it",
            attempts,
            5,
        )


def test_an_exception_that_only_says_so_is_no_crash(tmp_path: Path) -> None:
    """What `retry_on` names has nothing to do with crashes."""
    strategy = pmflow.RetryStrategy(max_retries=3, retry_on=(WorkerCrashedError,))
    assert planned(tmp_path, "crash well", retries=strategy).attempts == 1


@pytest.mark.parametrize("wrong", [-1, True, False, "2", 1.0, None])
def test_a_number_of_crash_retries_that_is_none_is_refused(wrong: Any) -> None:
    """Where it is written: naming process and setting."""
    with pytest.raises(ConfigurationError, match="crash_retries must be a whole number, 0 or more") as caught:
        process(by_plan, id="it", crash_retries=wrong)
    assert caught.value.setting == "crash_retries"
    with pytest.raises(ConfigurationError, match="process 'mine': crash_retries"):
        pmflow.ProcessConfig(process_id="mine", crash_retries=wrong)


def test_crash_retries_are_a_setting_like_others(tmp_path: Path) -> None:
    """They can be defaults, and changed in a copy."""
    patient = process.defaults(crash_retries=1, type="process")
    it = patient(by_plan, id="it")
    assert (it.config.crash_retries, it.options(crash_retries=0).config.crash_retries) == (1, 0)
    assert pmflow.run(it, inputs={"folder": str(tmp_path), "plan": ["crash", "well"]}).value == 2


# What a call costs


def busy(seconds: float) -> float:
    """Use the processor for a while."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass
    return seconds


def idle(seconds: float) -> float:
    """Wait."""
    time.sleep(seconds)
    return seconds


def busy_and_fail(seconds: float) -> None:
    """Use the processor, and raise."""
    raise LookupError(busy(seconds))


def test_cpu_time_is_what_a_call_took_of_the_cores(one_worker: WorkerPool) -> None:
    """Of a busy one as long as it was busy, of one that waited next to nothing."""
    results = {f: pmflow.run(in_worker(f), inputs={"seconds": 0.05})["it"] for f in (busy, idle)}
    assert 0.02 < results[busy].cpu_time < 1.0
    assert 0.0 <= results[idle].cpu_time < 0.03
    assert results[idle].execution_time >= 0.05


def test_cpu_time_of_a_call_is_its_own(one_worker: WorkerPool) -> None:
    """What the calls before it took is not in it: of one run, and of one chain."""
    first = in_worker(busy, id="first", dependencies={"seconds": "long"})
    second = in_worker(lambda first: idle(0.05), id="second")
    third = in_worker(lambda second: abs(-1), id="third")
    run = pmflow.run([first, second, third], inputs={"long": 0.1})
    times_of = [run[name].cpu_time for name in ("first", "second", "third")]
    assert 0.05 < times_of[0] < 1.0
    assert all(0.0 <= each < 0.03 for each in times_of[1:]), times_of


def test_a_call_that_failed_has_cost_something_too(one_worker: WorkerPool) -> None:
    """Its cpu time is known, and its memory."""
    run = pmflow.run(in_worker(busy_and_fail), inputs={"seconds": 0.05}, on_error="return")
    assert type(run["it"].exception) is LookupError
    assert 0.02 < run["it"].cpu_time < 1.0
    assert run["it"].peak_memory > MEGABYTE


def touch(size: int) -> int:
    """Hold so many bytes for a moment."""
    data = bytearray(size)
    data[::4096] = b"x" * len(range(0, size, 4096))
    return len(data)


def peak(size: int) -> int:
    """Return the peak of a call that touches so many bytes."""
    result = pmflow.run(in_worker(touch), inputs={"size": size})["it"]
    assert result.data == size
    return int(result.peak_memory)


def test_peak_memory_is_that_of_the_call(one_worker: WorkerPool) -> None:
    """A large one has a high peak, whatever came before it; a small one that follows has none of it."""
    before, large, after = peak(1_000), peak(100 * MEGABYTE), peak(1_000)
    assert large - before > 90 * MEGABYTE
    assert large - after > 90 * MEGABYTE
    assert peak(50 * MEGABYTE) - after > 40 * MEGABYTE


def test_peak_memory_in_a_chain_is_that_of_each_link(one_worker: WorkerPool) -> None:
    """Links of one chain run one right after the other, and are told apart all the same."""
    links = [
        in_worker(lambda size: touch(1_000), id="first"),
        in_worker(lambda first: touch(100 * MEGABYTE), id="second"),
        in_worker(lambda second: touch(1_000), id="third"),
    ]
    run = pmflow.run(links, inputs={"size": 0})
    first, second, third = (run[name].peak_memory for name in ("first", "second", "third"))
    assert second - first > 90 * MEGABYTE
    assert second - third > 90 * MEGABYTE


async def awaiting() -> int:
    """A coroutine function."""
    await anyio.lowlevel.checkpoint()
    return 1


@pytest.mark.parametrize(
    ("function", "strategy"), [(abs, "thread"), (awaiting, "async"), (awaiting, "thread"), (abs, "async")]
)
def test_what_calls_cost_is_known_of_workers_only(function: Any, strategy: str) -> None:
    """Of threads and of the event loop it is None: they share a process."""
    it = process((lambda: abs(-1)) if function is abs else function, id="it", type=strategy)
    result = pmflow.run(it)["it"]
    assert (result.success, result.cpu_time, result.peak_memory) == (True, None, None)
    assert (result.to_dict()["cpu_time"], result.to_dict()["peak_memory"]) == (None, None)


def test_what_did_not_run_has_cost_nothing_that_is_known(tmp_path: Path) -> None:
    """A crash takes it along."""
    result = planned(tmp_path, "crash")
    assert (result.cpu_time, result.peak_memory) == (None, None)


# Logging


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.records.append(record)

    def texts(self) -> list[tuple[str, str, str]]:
        """Return logger, level and message of each."""
        return [(each.name, each.levelname, each.getMessage()) for each in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """What is logged in the program, from INFO on; all levels are as before afterwards."""
    root, handler = logging.getLogger(), Kept()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)
    for name in ("feature", "feature.quiet", "feature.loud"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def say(text: str) -> int:
    """Log."""
    logging.getLogger("feature").info("it says %s, %d times", text, 2, extra={"page": 3})
    return os.getpid()


def test_what_a_worker_logs_is_logged_in_the_program(one_worker: WorkerPool, kept: Kept) -> None:
    """With the process, the attempt and the worker that it is from; message and extra fields are as they were."""
    pid = called(say, text="hello")
    (record,) = kept.records
    facts = (record.name, record.levelno, record.getMessage(), record.process_id, record.attempt, record.process)
    assert facts == ("feature", logging.INFO, "it says hello, 2 times", "it", 1, pid)
    assert (record.page, record.funcName, record.threadName) == (3, "say", "MainThread")
    assert pid != os.getpid()
    assert Path(record.pathname).name == Path(__file__).name


def say_and_fail(folder: str) -> int:
    """Log, and fail at first."""
    number = times(folder)
    logging.getLogger("feature").warning("number %d", number)
    if number < 3:
        raise LookupError
    return number


def test_each_attempt_has_records_of_its_own(one_worker: WorkerPool, kept: Kept, tmp_path: Path) -> None:
    """They say which; elements of a map say which element they are."""
    it = in_worker(say_and_fail, retries=again(2))
    assert pmflow.run(it, inputs={"folder": str(tmp_path)}).value == 3
    assert [(each.getMessage(), each.attempt) for each in kept.records] == [(f"number {n}", n) for n in (1, 2, 3)]
    kept.records.clear()
    each = in_worker(say, id="each", map_over={"text": "texts"})
    assert len(pmflow.run(each, inputs={"texts": ["a", "b"]}).value) == 2
    found = {(each.process_id, each.getMessage()) for each in kept.records}
    assert found == {("each_0", "it says a, 2 times"), ("each_1", "it says b, 2 times")}


def levels() -> dict[str, list[int]]:
    """Log at every level to three loggers; return what each says it would do."""
    found = {}
    for name in ("feature", "feature.quiet", "feature.loud"):
        logger = logging.getLogger(name)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(level, "text")
        found[name] = [level for level in (10, 20, 30, 40) if logger.isEnabledFor(level)]
    return found


def expected(**enabled: list[int]) -> list[tuple[str, str, str]]:
    """Return the records that are expected, by logger."""
    return [
        (name, logging.getLevelName(level), "text")
        for name, which in zip(("feature", "feature.quiet", "feature.loud"), enabled.values(), strict=True)
        for level in which
    ]


def test_the_levels_are_the_programs(one_worker: WorkerPool, kept: Kept) -> None:
    """What it would not log is not even sent."""
    logging.getLogger("feature.quiet").setLevel(logging.ERROR)
    logging.getLogger("feature.loud").setLevel(logging.DEBUG)
    assert called(levels) == {"feature": [20, 30, 40], "feature.quiet": [40], "feature.loud": [10, 20, 30, 40]}
    assert kept.texts() == expected(feature=[20, 30, 40], quiet=[40], loud=[10, 20, 30, 40])


def test_levels_follow_from_run_to_run(fresh_worker: WorkerPool, kept: Kept) -> None:
    """In a warm worker: higher, lower, and those that a logger no longer has."""
    assert called(levels) == {"feature": [20, 30, 40], "feature.quiet": [20, 30, 40], "feature.loud": [20, 30, 40]}
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("feature.quiet").setLevel(logging.ERROR)
    logging.getLogger("feature.loud").setLevel(logging.DEBUG)
    assert called(levels) == {"feature": [30, 40], "feature.quiet": [40], "feature.loud": [10, 20, 30, 40]}
    logging.getLogger("feature.quiet").setLevel(logging.NOTSET)
    logging.getLogger("feature.loud").setLevel(logging.NOTSET)
    kept.records.clear()
    assert called(levels) == {"feature": [30, 40], "feature.quiet": [30, 40], "feature.loud": [30, 40]}
    assert kept.texts() == expected(feature=[30, 40], quiet=[30, 40], loud=[30, 40])


def no_such_page() -> NoReturn:
    """Raise."""
    raise LookupError("no such page")


def fail_and_say() -> None:
    """Log an exception."""
    try:
        no_such_page()
    except LookupError:
        logging.getLogger("feature").exception("it failed")


def test_an_exception_is_logged_with_its_traceback(one_worker: WorkerPool, kept: Kept) -> None:
    """As text, which every formatter prints."""
    called(fail_and_say)
    (record,) = kept.records
    text = logging.Formatter("%(levelname)s %(message)s").format(record)
    assert text.startswith("ERROR it failed\nTraceback (most recent call last):")
    assert text.endswith("LookupError: no such page")
    assert "in no_such_page" in text


class Unprintable:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def odd() -> int:
    """Log what is hard to send."""
    logger = logging.getLogger("feature")
    logger.info("a lock: %s", type(threading.Lock()).__name__, extra={"lock": threading.Lock(), "fine": 1})
    logger.info("broken %s")
    logger.info("unprintable %s", Unprintable())
    logger.info("large %s", "x" * 300_000)
    return 5


def test_records_that_are_hard_to_send_harm_nothing(one_worker: WorkerPool, kept: Kept) -> None:
    """What cannot travel is left out; a message that cannot be made says so; the call goes on."""
    assert called(odd) == 5
    texts = [text for _, _, text in kept.texts()]
    assert (texts[0], texts[1]) == ("a lock: lock", "broken %s")
    assert "RuntimeError: no text" in texts[2]
    assert texts[3] == "large " + "x" * 300_000
    assert (kept.records[0].fine, hasattr(kept.records[0], "lock")) == (1, False)


def in_threads() -> int:
    """Log from other threads."""
    threads = [
        threading.Thread(target=logging.getLogger("feature").info, args=("thread %d", n), name=f"thread-{n}")
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return os.getpid()


def test_background_threads_of_a_worker_log_as_well(one_worker: WorkerPool, kept: Kept) -> None:
    """Their records name thread, process and worker."""
    pid = called(in_threads)
    found = {(each.getMessage(), each.threadName, each.process_id, each.process) for each in kept.records}
    assert found == {(f"thread {n}", f"thread-{n}", "it", pid) for n in range(3)}
    assert len(kept.records) == 3


def test_records_come_before_the_outcome(one_worker: WorkerPool, kept: Kept) -> None:
    """All of them, in their order: whoever runs next finds them there; of a failure, too."""

    def count(many: Any) -> list[str]:
        return [record.getMessage() for record in kept.records]

    many, following = in_worker(say_many, id="many"), process(count, id="count", type="thread")
    assert pmflow.run([many, following], targets="count").value == [f"record {n}" for n in range(500)]
    kept.records.clear()

    def recover(result: Any) -> list[str]:
        return [record.getMessage() for record in kept.records]

    recover.__annotations__["result"] = pmflow.ProcessResult
    failing = in_worker(say_and_raise, id="result")
    run = pmflow.run([failing, process(recover, id="recover", type="thread")], on_error="return")
    assert run["recover"].data == ["last words"]


def say_many() -> None:
    """Log a lot."""
    for n in range(500):
        logging.getLogger("feature").info("record %d", n)


def say_and_raise() -> None:
    """Log, and raise."""
    logging.getLogger("feature").info("last words")
    raise LookupError


def test_what_was_logged_before_a_crash_is_not_lost(one_worker: WorkerPool, kept: Kept) -> None:
    """It was sent when it was logged."""
    run = pmflow.run(in_worker(say_and_crash), on_error="return")
    assert type(run["it"].exception) is WorkerCrashedError
    assert [text for _, _, text in kept.texts()] == ["last words"]


def say_and_crash() -> None:
    """Log, and die."""
    logging.getLogger("feature").info("last words")
    os._exit(1)


# Context variables

MODULE = """
    from contextvars import ContextVar
    import pmflow

    request = pmflow.carry(ContextVar("request", default="none"))
    unset = pmflow.carry(ContextVar("unset"))
    private = ContextVar("private", default="none")

    def read(): return request.get(), unset.get("unset"), private.get()
    def is_set():
        from contextvars import copy_context
        return sorted(variable.name for variable in copy_context() if variable in (request, unset, private))
    def change():
        request.set("changed")
        unset.set("changed")
        private.set("changed")
        return read()
    def after_change(changed): return read()
    def from_thread():
        return request.get()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of the user's, that has variables to carry; each test has one of its own."""
    name = f"variables_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    before = list(CARRIED)
    __import__(name)
    yield sys.modules[name]
    del sys.modules[name]
    CARRIED[:] = before


def within(value: Any, module: Any, function: Callable[[], Any]) -> Any:
    """Return what a function returns where ``request`` has a value."""

    def here() -> Any:
        module.request.set(value)
        return function()

    return copy_context().run(here)


def test_a_carried_variable_has_its_value_in_workers(one_worker: WorkerPool, module: Any) -> None:
    """That of the context that the run began in; others stay at home, and those that are not set are not."""
    assert called(module.read) == ("none", "unset", "none")
    assert called(module.is_set) == []

    def everything() -> Any:
        module.private.set("mine")
        return called(module.read), called(module.is_set)

    assert within("abc", module, everything) == (("abc", "unset", "none"), ["request"])


def test_the_next_run_sees_the_next_value(one_worker: WorkerPool, module: Any) -> None:
    """In the same warm worker: changed, of another kind, and not set any more."""
    seen = [within(value, module, lambda: called(module.read)[0]) for value in ("a", "b", ["c", 1], None, "a")]
    assert seen == ["a", "b", ["c", 1], None, "a"]
    assert called(module.read) == ("none", "unset", "none")


def test_every_process_of_a_run_has_the_same(two_workers: WorkerPool, module: Any) -> None:
    """In all workers; large values too."""
    it = process(lambda n, read=module.read: read()[0], id="it", type="process", map_over={"n": "numbers"})
    value = "x" * (2 * MEGABYTE)
    values = within(value, module, lambda: pmflow.run(it, inputs={"numbers": list(range(20))}).value)
    assert [each == value for each in values] == [True] * 20


def test_what_a_call_sets_is_its_own(one_worker: WorkerPool, module: Any) -> None:
    """Neither the next link of its chain sees it, nor the next run, nor the program."""
    changed, then = in_worker(module.change, id="changed"), in_worker(module.after_change, id="then")

    def both() -> Any:
        run = pmflow.run([changed, then])
        return run["changed"].data, run["then"].data, called(module.read), module.read()

    here = ("abc", "unset", "none")
    assert within("abc", module, both) == (("changed", "changed", "changed"), here, here, here)


@pytest.mark.parametrize("strategy", ["thread", "async"])
def test_tasks_and_threads_see_all_variables(module: Any, strategy: str) -> None:
    """With or without being carried."""

    def everything() -> Any:
        module.private.set("mine")
        return pmflow.run(process(module.read, id="it", type=strategy)).value

    assert within("abc", module, everything) == ("abc", "unset", "mine")


def test_a_value_that_cannot_be_pickled_is_refused(one_worker: WorkerPool, module: Any) -> None:
    """The process fails, naming the reason; the worker goes on."""

    def refused() -> Any:
        return pmflow.run(in_worker(module.read), on_error="return")["it"]

    result = within(threading.Lock(), module, refused)
    assert (result.success, type(result.exception)) == (False, TransferError)
    assert "'request'" in str(result.exception)
    assert within("fine", module, lambda: called(module.read)[0]) == "fine"


class AtHome:
    """Can be unpickled in the program only."""

    def __getstate__(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() != state["pid"]:
            raise RuntimeError("not in this process")


def test_a_value_that_cannot_be_unpickled_fails_what_needs_it(fresh_worker: WorkerPool, module: Any) -> None:
    """Those processes fail, with the reason; no worker is started again and again, and the next run is well."""

    def refused() -> Any:
        return pmflow.run(in_worker(module.read), on_error="return", timeout=SOON / 4)["it"]

    result = within(AtHome(), module, refused)
    assert (result.state, isinstance(result.exception, pmflow.ProcessError)) == (pmflow.ProcessState.FAILED, True)
    assert "not in this process" in str(result.exception)
    assert within("fine", module, lambda: called(module.read)[0]) == "fine"


def test_what_is_no_variable_cannot_be_carried() -> None:
    """That is refused at once."""
    before = list(CARRIED)
    with pytest.raises(ConfigurationError, match="carry\\(\\) takes a ContextVar, not 'request'"):
        pmflow.carry("request")  # type: ignore[type-var]
    assert before == CARRIED
    variable: ContextVar[int] = ContextVar("variable")
    try:
        assert pmflow.carry(variable) is variable
    finally:
        CARRIED[:] = before


# Large functions


def warned(it: Any) -> list[str]:
    """Run a process; return the warnings about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert pmflow.run(it).success
    assert {each.category for each in caught} <= {PerformanceWarning}
    return [str(each.message) for each in caught]


def test_a_function_that_takes_much_along_is_warned_of() -> None:
    """A lambda, a closure: with its name, that of the variable, and its size; the call succeeds."""
    table = os.urandom(2 * MEGABYTE)
    small = 5
    (message,) = warned(in_worker(lambda: len(table) + small, id="lookup"))
    assert message.startswith("'lookup' takes its variable 'table' (2.1 MB) along to every worker")
    assert "pass it as an argument" in message

    def closure() -> float:
        return float(matrix.sum()) + small

    matrix = np.ones(300_000)
    (message,) = warned(in_worker(closure, id="sum"))
    assert message.startswith("'sum' takes its variable 'matrix' (2.4 MB) along to every worker")


def test_a_function_that_takes_little_along_is_not_warned_of() -> None:
    """Nor is one whose large value is an argument, or part of its module."""
    some = os.urandom(100_000)
    assert warned(in_worker(lambda: len(some))) == []
    assert warned(in_worker(of_the_module)) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        it = in_worker(lambda data: len(data) + len(some))
        assert pmflow.run(it, inputs={"data": bytes(2 * MEGABYTE)}).value == 2 * MEGABYTE + 100_000


TABLE = bytes(2 * MEGABYTE)


def of_the_module() -> int:
    """Use what the module has."""
    return len(TABLE)


def test_a_warning_that_is_made_an_error_is_the_failure_of_its_process(two_workers: WorkerPool) -> None:
    """That process fails with it; those beside it, before and behind, run as ever."""
    table = os.urandom(2 * MEGABYTE)
    beside = [in_worker(lambda n=n: n, id=f"beside{n}") for n in range(4)]
    graph = [*beside[:2], in_worker(lambda: len(table), id="it"), *beside[2:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = pmflow.run(graph, on_error="return", timeout=SOON / 4)
    assert {each.id: run[each].success for each in beside} == {each.id: True for each in beside}
    assert type(run["it"].exception) is PerformanceWarning
    assert "'table' (2.1 MB)" in str(run["it"].exception)


# Surroundings


def surroundings(name: str) -> tuple[int, str | None, str, str | None]:
    """Return the worker's pid, a variable, its folder, and what a child sees of the variable."""
    with os.popen(f"echo ${name}") as answer:  # noqa: S605 - a name of this test
        return os.getpid(), os.environ.get(name), os.getcwd(), answer.read().strip() or None


def test_environment_and_folder_follow_the_program(
    one_worker: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From run to run, in a warm worker: set, changed, and removed; children of the worker see the same."""
    name = "PMFLOW_TEST_VARIABLE"
    first, here = tmp_path / "first", os.getcwd()
    first.mkdir()
    monkeypatch.delenv(name, raising=False)
    pid, *found = called(surroundings, name=name)
    assert found == [None, here, None]
    monkeypatch.setenv(name, "one")
    monkeypatch.chdir(first)
    assert called(surroundings, name=name) == (pid, "one", str(first), "one")
    monkeypatch.setenv(name, "zwei ä")
    monkeypatch.chdir(tmp_path)
    assert called(surroundings, name=name) == (pid, "zwei ä", str(tmp_path), "zwei ä")
    monkeypatch.delenv(name)
    monkeypatch.chdir(here)
    assert called(surroundings, name=name) == (pid, None, here, None)


def change_all(folder: str) -> int:
    """Change what a call finds."""
    os.environ["PMFLOW_TEST_VARIABLE"] = "changed"
    os.environ.pop("HOME", None)
    os.chdir(folder)
    os.umask(0)
    return os.getpid()


def look() -> tuple[int, str | None, str | None, str, int]:
    """Return what a call finds."""
    umask = os.umask(0)
    os.umask(umask)
    return os.getpid(), os.environ.get("PMFLOW_TEST_VARIABLE"), os.environ.get("HOME"), os.getcwd(), umask


def test_what_a_call_changes_of_its_surroundings_is_put_back(
    one_worker: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one finds those of the program; within a chain too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PMFLOW_TEST_VARIABLE", raising=False)
    before = called(look)
    changed = in_worker(change_all, id="changed")
    then = process(lambda changed: look(), id="then", type="process")
    run = pmflow.run([changed, then], inputs={"folder": str(tmp_path)})
    assert (run["changed"].data, run["then"].data, called(look)) == (before[0], before, before)
    assert before[1:4] == (None, str(tmp_path), os.getcwd())


def numeric() -> dict[str, str | None]:
    """Return how many threads numeric libraries may start."""
    return {name: os.environ.get(name) for name in NUMERIC}


@pytest.mark.parametrize("workers", [1, 2])
def test_numeric_libraries_share_the_cores(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker has its part of them; nothing changes in the program."""
    for name in NUMERIC:
        monkeypatch.delenv(name, raising=False)
    for _ in _pool(workers, monkeypatch):
        assert called(numeric) == dict.fromkeys(NUMERIC, str(max(1, cores() // workers)))
    assert numeric() == dict.fromkeys(NUMERIC)


def test_a_program_that_has_set_the_number_of_threads_has_the_last_word(
    one_worker: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In warm workers, too; what it has set of a single library stays in any case."""
    for name in NUMERIC:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert called(numeric) == {**dict.fromkeys(NUMERIC), "OMP_NUM_THREADS": "7"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert called(numeric) == {**dict.fromkeys(NUMERIC, str(cores())), "MKL_NUM_THREADS": "3"}


# Values that travel


class Counted:
    """Counts how often it is unpickled, and where."""

    opened: ClassVar[list[int]] = []

    def __init__(self, n: int) -> None:
        self.n = n

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.opened.append(os.getpid())
        self.n = state["n"]


@pytest.fixture
def opened() -> Iterator[list[int]]:
    """Where a `Counted` was unpickled, as the program knows it."""
    Counted.opened.clear()
    yield Counted.opened
    Counted.opened.clear()


def make(n: int) -> Counted:
    """Make one."""
    return Counted(n)


def more(made: Counted) -> Counted:
    """Make another."""
    return Counted(made.n + 1)


def shown(further: Counted, made: Counted) -> int:
    """Return a plain value of two."""
    return further.n * 100 + made.n


def counting() -> list[Any]:
    """Return processes of which the first feeds the second, and both the third."""
    return [in_worker(make, id="made"), in_worker(more, id="further"), in_worker(shown, id="shown")]


@pytest.mark.parametrize("keep", ["all", "targets"])
def test_what_only_feeds_workers_is_not_opened_in_the_program(
    two_workers: WorkerPool, opened: list[int], keep: Any
) -> None:
    """It is carried unopened; whoever reads ``.data`` has it opened then, once."""
    run = pmflow.run(counting(), inputs={"n": 4}, targets="shown", keep=keep)
    assert (run.value, opened) == (504, [])
    if keep == "all":
        assert [run["made"].data.n, run["made"].data.n, opened] == [4, 4, [os.getpid()]]
        assert run["made"].data is run["made"].data
        assert [run["further"].data.n, opened] == [5, [os.getpid()] * 2]


def test_a_target_is_opened_once(two_workers: WorkerPool, opened: list[int]) -> None:
    """However often it is read, and though it feeds workers as well."""
    run = pmflow.run(counting(), inputs={"n": 4}, targets=["made", "shown"])
    assert (run["made"].data.n, run["made"].data is run.data["made"], run["shown"].data) == (4, True, 504)
    assert opened == [os.getpid()]


def test_what_feeds_a_thread_is_opened_once(two_workers: WorkerPool, opened: list[int]) -> None:
    """Threads share it, as they share all values; workers have the parcel."""
    readers = [process(lambda made: (made, made.n), id=f"reader{n}", type="thread") for n in range(3)]
    run = pmflow.run([*counting(), *readers], inputs={"n": 4}, targets=["shown", *readers], keep="all")
    assert [run[each].data for each in readers] == [(run["made"].data, 4)] * 3
    assert (run["shown"].data, opened) == (504, [os.getpid()])


def test_elements_of_a_map_over_a_map_are_not_opened(two_workers: WorkerPool, opened: list[int]) -> None:
    """Element by element, from worker to worker; nor are they for a list of all of them."""
    made = in_worker(make, id="made", map_over={"n": "numbers"})
    further = process(more, id="further", type="process", map_over={"made": "made"})
    total = process(lambda further: sum(each.n for each in further), id="total", type="process")
    run = pmflow.run([made, further, total], inputs={"numbers": list(range(10))}, targets="total", keep="all")
    assert (run.value, opened) == (55, [])
    assert [each.n for each in run["made"].data] == list(range(10))
    assert opened == [os.getpid()] * 10


class Holder:
    """Knows which object it is."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.identity = (os.getpid(), id(self), id(data))


def identity(held: Holder) -> tuple[int, int, int]:
    """Return which object it is here."""
    return os.getpid(), id(held), id(held.data)


def stage_one(size: int) -> Holder:
    """Make something large."""
    return Holder(np.arange(size))


def stage_two(one: Holder) -> tuple[bool, Holder]:
    """Return whether it is the same, and another."""
    return one.identity == identity(one), Holder(one.data * 2)


def stage_three(two: tuple[bool, Holder]) -> list[Any]:
    """Return whether both were the same, and the sum."""
    return [two[0], two[1].identity == identity(two[1]), int(two[1].data.sum())]


def stages(**settings: Any) -> list[Any]:
    """Return a chain of three."""
    return [
        in_worker(stage_one, id="one"),
        in_worker(stage_two, id="two", **settings),
        in_worker(stage_three, id="three", **settings),
    ]


SIZE = 1_000_000
SUM = SIZE * (SIZE - 1)


def test_a_chain_hands_the_object_itself_on(one_worker: WorkerPool) -> None:
    """Where nobody else can ask for it: nothing is copied, and nothing is kept."""
    run = pmflow.run(stages(), inputs={"size": SIZE}, targets="three", keep="targets")
    assert run.value == [True, True, SUM]
    for name in ("one", "two"):
        with pytest.raises(pmflow.ValueReleasedError):
            _ = run[name].data


def test_everything_that_is_kept_is_there(one_worker: WorkerPool) -> None:
    """Each result of the same chain has its data."""
    run = pmflow.run(stages(), inputs={"size": SIZE}, keep="all")
    assert np.array_equal(run["one"].data.data, np.arange(SIZE))
    assert np.array_equal(run["two"].data[1].data, np.arange(SIZE) * 2)
    assert run["three"].data[2] == SUM


def test_a_target_within_a_chain_is_there(one_worker: WorkerPool) -> None:
    """It is not handed on in place of being sent."""
    run = pmflow.run(stages(), inputs={"size": SIZE}, targets=["one", "three"])
    assert np.array_equal(run["one"].data.data, np.arange(SIZE))
    assert run["three"].data[2] == SUM
    with pytest.raises(pmflow.ValueReleasedError):
        _ = run["two"].data


def original() -> dict[str, Any]:
    """Return something to be changed."""
    return {"small": [1, 2], "large": np.zeros(SIZE), "bytes": bytearray(2 * MEGABYTE)}


def mutate(source: dict[str, Any], folder: str, how: str) -> tuple[int, list[int], float, int]:
    """Say what was given, change it, and at first fail."""
    number = times(folder)
    seen = (number, list(source["small"]), float(source["large"].sum()), sum(source["bytes"][:3]))
    source["small"].append(number)
    source["large"][:] = number
    source["bytes"][:3] = b"abc"
    if number < 3:
        if how == "crash":
            os._exit(1)
        raise LookupError(number)
    return seen


@pytest.mark.parametrize("keep", ["all", "targets"])
@pytest.mark.parametrize("how", ["raise", "crash"])
def test_each_attempt_has_a_copy_of_its_own(one_worker: WorkerPool, tmp_path: Path, how: str, keep: Any) -> None:
    """What an attempt has changed and then failed, the next one finds as it was; so does who reads it."""
    settings = {"crash_retries": 2} if how == "crash" else {"retries": again(2)}
    chain = [in_worker(original, id="source"), in_worker(mutate, id="it", **settings)]
    run = pmflow.run(chain, inputs={"folder": str(tmp_path), "how": how}, targets="it", keep=keep)
    assert (run.value, run["it"].attempts) == ((3, [1, 2], 0.0, 0), 3)
    if keep == "all":
        data = run["source"].data
        assert (data["small"], data["large"].sum(), bytes(data["bytes"][:3])) == ([1, 2], 0.0, bytes(3))


def test_consumers_have_copies_of_their_own(two_workers: WorkerPool, tmp_path: Path) -> None:
    """What one changes no other sees, nor who reads it: of a result, and of an input."""
    (tmp_path / "1").touch()
    (tmp_path / "2").touch()
    names = [f"reader{n}" for n in range(4)]
    given = {"folder": str(tmp_path), "how": "raise"}
    for source in ("process", "input"):
        readers = [in_worker(mutate, id=name) for name in names]
        graph = [in_worker(original, id="source"), *readers] if source == "process" else readers
        inputs = given if source == "process" else {**given, "source": original()}
        run = pmflow.run(graph, inputs=inputs)
        assert [run[name].data[1:] for name in names] == [([1, 2], 0.0, 0)] * 4
        data = run["source"].data if source == "process" else inputs["source"]
        assert (data["small"], data["large"].sum(), bytes(data["bytes"][:3])) == ([1, 2], 0.0, bytes(3))


# How many workers at once


def exclusive(n: int, folder: str) -> tuple[int, float, float]:
    """Work where nobody else does at the time."""
    started = time.perf_counter()
    descriptor = os.open(os.path.join(folder, "here"), os.O_CREAT | os.O_EXCL)
    busy(0.004)
    os.close(descriptor)
    os.unlink(os.path.join(folder, "here"))
    return n, started, time.perf_counter()


def meet(mine: str, other: str, folder: str) -> str:
    """Wait for another."""
    Path(folder, mine).touch()
    deadline = time.monotonic() + SOON
    while not Path(folder, other).exists():
        assert time.monotonic() < deadline, "nobody came"
        time.sleep(0.002)
    return mine


def test_max_processes_bounds_the_workers_at_once(two_workers: WorkerPool, tmp_path: Path) -> None:
    """With 1 no two ever work at a time, though there are two; without it they do."""
    pair = [process(lambda f, a=a, b=b: meet(a, b, f), id=a, type="process") for a, b in ("xy", "yx")]
    assert pmflow.run(pair, inputs={"f": str(tmp_path)}).data == {"x": "x", "y": "y"}
    each = in_worker(exclusive, id="each", map_over={"n": "numbers"})
    others = [process(lambda folder, n=n: exclusive(n, folder), id=f"other{n}", type="process") for n in range(10)]
    inputs = {"numbers": list(range(20)), "folder": str(tmp_path)}
    run = pmflow.run([each, *others], inputs=inputs, max_processes=1)
    found = [*run["each"].data, *(run[other.id].data for other in others)]
    assert sorted(n for n, _, _ in found) == sorted([*range(20), *range(10)])
    spans = sorted((started, ended) for _, started, ended in found)
    assert [after[0] >= before[1] for before, after in pairwise(spans)] == [True] * 29
