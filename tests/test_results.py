"""What comes out: `Run` and `ProcessResult`, failures as errors, and how a stop shows."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import html.parser
import json
import math
import pickle
import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import pmflow
from pmflow import (
    BaseProcess,
    ProcessConfig,
    ProcessId,
    ProcessResult,
    ProcessState,
    ProcessType,
    RetryStrategy,
    Run,
    process,
)
from pmflow.errors import (
    NoValueError,
    ProcessError,
    ProcessTimeoutError,
    RunTimeoutError,
    ValueReleasedError,
    WorkflowError,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

GENEROUS = 20.0
DONE, FAILED, SKIPPED, CANCELLED = (
    ProcessState.COMPLETED,
    ProcessState.FAILED,
    ProcessState.SKIPPED,
    ProcessState.CANCELLED,
)
NOW = datetime.now(timezone.utc)

every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])


@process
def page(url: str) -> str:
    """Return the text of a page."""
    return f"text of {url}"


@process
def words(page: str) -> list[str]:
    """Return the words of a page."""
    return page.split()


@process
def broken(url: str) -> str:
    """Fail."""
    raise ValueError(f"no page {url}")


@process
def heir(broken: str) -> str:
    """Need what failed."""
    return broken


@process(required=False)
def optional(url: str) -> str:
    """Fail, and fail no run."""
    raise KeyError(url)


@process
def lacking(optional: str) -> str:
    """Need what has no value."""
    return optional


def lost() -> None:
    """Fail in another way."""
    raise KeyError("lost")


def states(run: Run[Any]) -> dict[str, ProcessState]:
    """Return how every process ended."""
    return {name: run[name].state for name in run}


def returned(*given: Any, **settings: Any) -> Run[Any]:
    """Run, and return the run whatever came of it."""
    settings = {"inputs": {"url": "a"}, "on_error": "return", **settings}
    return pmflow.run(given, **settings)


# Run as a mapping


def test_a_run_is_a_mapping() -> None:
    """A run maps ids to results, in order of completion."""
    run = pmflow.run(words, inputs={"url": "a"})
    assert isinstance(run, Mapping)
    assert list(run) == list(run.keys()) == ["page", "words"]
    assert [result.data for result in run.values()] == ["text of a", ["text", "of", "a"]]
    assert [(name, result.success) for name, result in run.items()] == [("page", True), ("words", True)]
    assert len(run) == 2
    assert run.get("nobody") is None


@pytest.mark.parametrize(
    "key", ["page", ProcessId("page"), page, page.options(timeout=5)], ids=["text", "id", "process", "copy"]
)
def test_keys_of_a_run(key: Any) -> None:
    """A key is a string, a `ProcessId` or the process itself; the result is the same object each time."""
    run = pmflow.run(words, inputs={"url": "a"})
    assert key in run
    assert run[key] is run["page"]


@pytest.mark.parametrize("key", ["pgae", ProcessId("page", 0), "page_0", broken], ids=str)
def test_unknown_keys_of_a_run(key: Any) -> None:
    """A key that is no process of the run is a KeyError, with the nearest."""
    run = pmflow.run(words, inputs={"url": "a"})
    assert key not in run
    with pytest.raises(KeyError):
        run[key]
    with pytest.raises(KeyError, match="did you mean 'page'"):
        run["pgae"]
    strange: list[Any] = [5, None]
    assert not any(key in run for key in strange)


@pytest.mark.anyio
async def test_the_order_of_completion() -> None:
    """A run is in the order in which processes ended, not in that of their declaration."""
    events = {name: anyio.Event() for name in "abc"}

    async def wait(name: str, following: str | None) -> str:
        if following is not None:
            await events[following].wait()
        events[name].set()
        return name

    def waiting(name: str, following: str | None) -> Any:
        async def call() -> str:
            return await wait(name, following)

        return process(call, id=name)

    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun([waiting("a", "b"), waiting("b", "c"), waiting("c", None)])
    assert list(run) == ["c", "b", "a"]
    assert list(run.data) == ["a", "b", "c"]
    assert run["c"].end_time <= run["b"].end_time <= run["a"].end_time


# What came of it


def test_the_value_of_one_target() -> None:
    """`value` is the one target's data; `data` maps each target to its own; both say nothing of others."""
    run = pmflow.run(words, inputs={"url": "a"})
    assert (run.value, run.data, run.success, run.failures, run.skipped) == (
        ["text", "of", "a"],
        {"words": ["text", "of", "a"]},
        True,
        {},
        {},
    )


def test_none_is_a_value() -> None:
    """A target that returned None has the value None."""
    run = pmflow.run(process(lambda: None, id="nothing"))
    assert (run.value, run.data) == (None, {"nothing": None})


def test_no_value_of_several_targets() -> None:
    """`value` of several targets raises, and says what to read instead."""
    run = pmflow.run([page, words], inputs={"url": "a"})
    with pytest.raises(NoValueError, match=r"2 targets.*run\.data"):
        _ = run.value


def test_no_value_without_targets() -> None:
    """`value` of an empty run raises."""
    with pytest.raises(NoValueError, match="no target"):
        _ = pmflow.run([]).value


def test_no_value_of_a_failure() -> None:
    """`value` of a target that failed raises its error: a ProcessError from the original."""
    run = returned(broken)
    with pytest.raises(ProcessError, match=r"'broken' failed: ValueError: no page a") as caught:
        _ = run.value
    assert caught.value.__cause__ is run["broken"].exception
    assert (caught.value.process_id, caught.value.attempt) == ("broken", 1)


def test_no_value_of_what_was_skipped() -> None:
    """`value` of a target that was SKIPPED says why, and comes from the failure."""
    run = returned(heir)
    with pytest.raises(NoValueError, match=r"'heir' has no value.*'broken' failed.*no page a") as caught:
        _ = run.value
    assert caught.value.__cause__ is run["broken"].exception
    run = returned(lacking)
    with pytest.raises(NoValueError, match=r"'lacking' has no value.*'optional' failed"):
        _ = run.value


def test_no_value_of_what_was_cancelled() -> None:
    """`value` of a target that was CANCELLED says that the run was stopped."""
    endless = process(anyio.sleep_forever, id="endless")
    run = pmflow.run(endless, timeout=0.01, on_error="return")
    with pytest.raises(NoValueError, match=r"'endless' has no value.*stopped"):
        _ = run.value


def test_no_value_of_an_optional_failure() -> None:
    """`value` of a target that is not required, and failed, raises its error though the run succeeded."""
    run = returned(optional)
    assert run.success
    with pytest.raises(ProcessError, match="'optional' failed: KeyError") as caught:
        _ = run.value
    assert type(caught.value.__cause__) is KeyError


def test_data_of_targets_that_succeeded() -> None:
    """`data` holds the targets that have a value, in the order asked for."""
    run = returned(heir, words, optional, page)
    assert run.data == {"words": ["text", "of", "a"], "page": "text of a"}
    assert list(run.data) == ["words", "page"]


def test_failures_and_skipped() -> None:
    """`failures` and `skipped` map ids to results; who is not required is among them, and fails nothing."""
    run = returned(heir, lacking, words)
    assert {name: result.error for name, result in run.failures.items()} == {"broken": "no page a", "optional": "'a'"}
    assert {name: result.reason for name, result in run.skipped.items()} == {
        "heir": "'broken' failed (ValueError: no page a)",
        "lacking": "'optional' failed (KeyError: 'a')",
    }
    assert run.failures["broken"] is run["broken"]
    assert not run.success
    assert returned(lacking, words).success


def test_times_of_a_run() -> None:
    """Seconds are seconds, datetimes are aware, and everything lies within the run."""
    before = datetime.now(timezone.utc)
    run = pmflow.run(words, inputs={"url": "a"})
    after = datetime.now(timezone.utc)
    slack = timedelta(milliseconds=50)  # one clock is read for dates, another for durations
    assert 0 < run.execution_time <= (after - before + slack).total_seconds()
    for result in run.values():
        assert before - slack <= result.start_time <= result.end_time <= after + slack
        assert result.start_time.tzinfo is not None
        assert result.execution_time == pytest.approx((result.end_time - result.start_time).total_seconds(), abs=1e-5)
        assert 0 <= result.execution_time <= run.execution_time
    assert run["page"].end_time <= run["words"].start_time


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_the_time_is_that_of_the_last_attempt() -> None:
    """`attempts` counts starts; `start_time` is that of the last."""
    starts: list[datetime] = []

    @process(retries=RetryStrategy(max_retries=2, delay_seconds=5))
    async def page() -> int:
        starts.append(datetime.now(timezone.utc))
        await anyio.sleep(1)
        if len(starts) < 3:
            raise OSError("again")
        return len(starts)

    result = (await pmflow.arun(page))["page"]
    assert (result.attempts, result.data, result.metadata.retries) == (3, 3, 2)
    assert result.start_time >= starts[1]


def test_runs_have_names_of_their_own() -> None:
    """Every run has an id of its own."""
    assert len({pmflow.run(page, inputs={"url": "a"}).run_id for _ in range(10)}) == 10


# Run as text


SECRET = "the user's own data"


def test_json_holds_no_values() -> None:
    """`to_json` says what happened, without the data; `to_dict` is the same as Python."""

    @process
    def secret(given: str) -> list[str]:
        return [given] * 3

    each = process(lambda text: text, id="each", map_over={"text": "secret"})
    run = pmflow.run([secret, each, heir, lacking], inputs={"given": SECRET, "url": "a"}, on_error="return")
    text = run.to_json()
    facts = json.loads(text)
    assert facts == run.to_dict()
    assert SECRET not in text
    assert (facts["run_id"], facts["success"], facts["targets"]) == (
        run.run_id,
        False,
        ["secret", "each", "heir", "lacking"],
    )
    assert datetime.fromisoformat(facts["start_time"]).tzinfo is not None
    assert facts["execution_time"] == run.execution_time
    by_id = {one["process_id"]: one for one in facts["processes"]}
    assert list(by_id) == list(run)
    assert {name: one["state"] for name, one in by_id.items()} == {
        name: state.value for name, state in states(run).items()
    }
    assert (by_id["broken"]["error_type"], by_id["broken"]["error"]) == ("ValueError", "no page a")
    assert by_id["heir"]["reason"] == "'broken' failed (ValueError: no page a)"
    assert [one["process_id"] for one in by_id["each"]["elements"]] == ["each_0", "each_1", "each_2"]
    assert not any("data" in one for one in facts["processes"])


def test_json_of_what_has_no_json() -> None:
    """Values, exceptions and settings that have no JSON do not matter to `to_json`; neither does NaN."""

    class OddError(Exception):
        def __init__(self) -> None:
            super().__init__(object(), b"\xff", math.nan)

    def odd() -> Any:
        raise OddError

    run = returned(process(odd), process(lambda: {object(): math.nan}, id="value"), inputs={})
    assert json.loads(run.to_json())["success"] is False


def test_a_result_as_a_dict() -> None:
    """`ProcessResult.to_dict` holds no data either, in types that JSON has."""
    facts = pmflow.run(page, inputs={"url": SECRET})["page"].to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["process_id"], facts["state"], facts["success"], facts["attempts"]) == ("page", "completed", True, 1)
    assert SECRET not in json.dumps(facts)


def test_the_repr_is_readable_and_holds_no_values() -> None:
    """The repr says how many ended how, and lists them; values are not shown."""
    run = returned(heir, words, inputs={"url": SECRET})
    shown = repr(run)
    assert run.run_id in shown
    assert "2 completed" in shown
    assert "1 failed" in shown
    assert "1 skipped" in shown
    assert all(f"'{name}'" in shown for name in run)
    assert "text of" not in shown
    assert repr(run["page"]) in shown


def test_the_repr_is_bounded() -> None:
    """A run of 10,000 processes, or one with an endless error, has a short repr."""
    run = pmflow.run([process(lambda: 1, id=f"p{n}", type="async") for n in range(10_000)])
    assert "10,000 completed" in repr(run)
    assert "9,980 more" in repr(run)
    assert len(repr(run)) < 5_000
    assert len(run._repr_html_()) < 10_000

    def loud() -> None:
        raise ValueError("x" * 1_000_000)

    run = returned(process(loud), process(lambda loud: loud, id="quiet"), inputs={})
    assert len(repr(run)) < 2_000
    assert len(run._repr_html_()) < 5_000


class Cells(html.parser.HTMLParser):
    """Reads the cells of a table, and notes its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note a tag."""
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)


def test_the_html_repr_is_escaped() -> None:
    """Ids and messages are shown as text in a notebook, never as markup."""
    evil = "<script>alert('&')</script>"

    def fail() -> None:
        raise ValueError(evil)

    run = returned(process(fail, id=evil), process(lambda: 1, id="<b>good</b>"), inputs={})
    cells = Cells()
    cells.feed(run._repr_html_())
    assert cells.tags == {"table", "caption", "thead", "tr", "th", "tbody", "td"}
    assert {evil, "<b>good</b>", f"ValueError: {evil}", "failed", "completed", "thread"} <= set(cells.texts)


# ProcessResult


def test_a_success() -> None:
    """All facts of a success."""
    run = pmflow.run(page, inputs={"url": "a"})
    result = run[page]
    assert (result.success, result.data, result.unwrap(), result.state) == (True, "text of a", "text of a", DONE)
    assert (result.error, result.error_type, result.error_message, result.exception, result.traceback) == (None,) * 5
    assert (str(result.process_id), result.attempts, result.stopped, result.reason) == ("page", 1, True, None)
    assert result.strategy is ProcessType.THREAD
    assert result.worker is not None
    assert (result.metadata.state, result.metadata.progress, result.metadata.result) == (DONE, 100, "text of a")


@every_type
def test_a_failure(kind: str) -> None:
    """All facts of a failure: the original exception, and a traceback that names the user's line."""

    def fail(number: int) -> float:
        return number / 0  # the line that fails

    run = pmflow.run(process(fail, type=kind), inputs={"number": 1}, on_error="return")
    result = run["fail"]
    assert (result.success, result.data, result.state) == (False, None, FAILED)
    assert (result.error_type, result.error, result.error_message) == ("ZeroDivisionError", *["division by zero"] * 2)
    assert type(result.exception) is ZeroDivisionError
    assert result.traceback is not None
    assert "ZeroDivisionError: division by zero" in result.traceback
    assert "number / 0  # the line that fails" in result.traceback
    assert __file__ in result.traceback
    assert (result.metadata.state, result.metadata.last_error) == (FAILED, "division by zero")
    with pytest.raises(ProcessError, match="'fail' failed: ZeroDivisionError: division by zero") as caught:
        result.unwrap()
    assert caught.value.__cause__ is result.exception


def test_what_was_skipped() -> None:
    """All facts of a process that was skipped: no error of its own, but a reason; unwrap says it."""
    result = returned(heir)["heir"]
    assert (result.success, result.data, result.state, result.attempts) == (False, None, SKIPPED, 0)
    assert (result.error, result.exception, result.traceback) == (None, None, None)
    assert result.reason == "'broken' failed (ValueError: no page a)"
    assert (result.execution_time, result.start_time) == (0, result.end_time)
    with pytest.raises(ProcessError, match=r"'heir' skipped.*'broken' failed"):
        result.unwrap()


def test_unwrap_of_an_error_of_ours() -> None:
    """A failure that is a ProcessError is raised as it is."""
    slow = process(anyio.sleep_forever, id="slow", timeout=0.01)
    result = returned(slow, inputs={})["slow"]
    with pytest.raises(ProcessTimeoutError) as caught:
        result.unwrap()
    assert caught.value is result.exception
    assert (caught.value.process_id, caught.value.timeout, caught.value.attempt) == ("slow", 0.01, 1)
    assert isinstance(caught.value, TimeoutError)


def test_a_timeout_of_the_users_own_is_not_ours() -> None:
    """A TimeoutError that user code raises is no ProcessTimeoutError."""

    def own() -> None:
        raise TimeoutError("my own")

    result = returned(process(own, timeout=GENEROUS), inputs={})["own"]
    assert type(result.exception) is TimeoutError


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_what_is_no_exception_is_a_failure_of_its_process(error: BaseException) -> None:
    """SystemExit and KeyboardInterrupt of a function in a thread are that process's failure; the run goes on."""

    def leave() -> None:
        raise error

    run = returned(process(leave), words)
    assert states(run) == {"leave": FAILED, "page": DONE, "words": DONE}
    assert type(run["leave"].exception) is ProcessError
    assert run["leave"].exception.__cause__ is error


def test_results_travel() -> None:
    """A result can be pickled, with its data, its exception and its traceback."""
    run = returned(heir, words)
    for result in run.values():
        copy = pickle.loads(pickle.dumps(result))  # noqa: S301 - its own bytes
        assert type(copy) is ProcessResult
        assert copy.to_dict() == result.to_dict()
        assert (copy.data, copy.traceback, repr(copy.exception)) == (
            result.data,
            result.traceback,
            repr(result.exception),
        )


def test_a_result_travels_without_an_exception_that_cannot() -> None:
    """An exception that cannot be pickled stays behind: its type, text and traceback travel."""

    class LocalError(Exception):
        def __init__(self, lock: Any) -> None:
            super().__init__("no lock")
            self.lock = lock

    def fail() -> None:
        raise LocalError(threading.Lock())

    result = returned(process(fail), inputs={})["fail"]
    copy = pickle.loads(pickle.dumps(result))  # noqa: S301 - its own bytes
    assert (copy.error_type, copy.error, copy.traceback) == ("LocalError", "no lock", result.traceback)
    assert type(copy.exception) is ProcessError
    assert "LocalError: no lock" in str(copy.exception)
    assert type(result.exception) is LocalError


def test_a_released_result_travels_and_stays_released() -> None:
    """A result whose data was released is still that when it has travelled."""
    result = pmflow.run(words, inputs={"url": "a"}, targets="words")["page"]
    copy = pickle.loads(pickle.dumps(result))  # noqa: S301 - its own bytes
    for one in (result, copy):
        with pytest.raises(ValueReleasedError, match="'page'"):
            _ = one.data
        with pytest.raises(ValueReleasedError):
            one.unwrap()
        assert one.metadata.result is None
        assert "released" in repr(one) or "completed" in repr(one)


def test_a_result_made_by_hand() -> None:
    """The seed's class methods make results themselves: the state follows from success."""
    good = ProcessResult(success=True, data=5, execution_time=0.5, start_time=NOW, end_time=NOW)
    bad: ProcessResult[Any] = ProcessResult(
        success=False, data=None, execution_time=0.5, start_time=NOW, end_time=NOW, error="no luck"
    )
    assert (good.state, good.unwrap(), bad.state) == (DONE, 5, FAILED)
    with pytest.raises(ProcessError, match="no luck"):
        bad.unwrap()


# WorkflowError


def test_the_error_lists_what_failed() -> None:
    """The message names every failed process, with the user's own line, and where the rest is."""
    with pytest.raises(WorkflowError) as caught:
        pmflow.run([broken, optional, process(lost, id="other")], inputs={"url": "a"}, fail_fast=False)
    error = caught.value
    message = error.message
    assert message.splitlines()[0] == "2 of 3 processes failed"
    assert "'broken' (attempt 1): ValueError: no page a" in message
    assert "'other' (attempt 1): KeyError: 'lost'" in message
    assert 'raise ValueError(f"no page {url}")' in message
    assert f"{__file__}:{broken.__wrapped__.__code__.co_firstlineno + 3}" in message
    assert "'optional'" not in message
    assert ".run" in message
    assert {type(each) for each in error.exceptions} == {ValueError, KeyError}
    assert error.run is not None
    assert states(error.run) == {"broken": FAILED, "optional": FAILED, "other": FAILED}


def test_the_exceptions_are_the_originals() -> None:
    """The group holds the very exceptions, each with a note naming process and attempt."""
    own = ValueError("my own")

    def fail() -> None:
        raise own

    with pytest.raises(WorkflowError) as caught:
        pmflow.run(process(fail, retries=RetryStrategy(max_retries=2, delay_seconds=0)))
    assert caught.value.exceptions == (own,)
    assert getattr(own, "__notes__", None) == ["in process 'fail', attempt 3"]
    assert caught.value.run is not None
    assert caught.value.run["fail"].exception is own


def test_a_message_of_many_failures_is_bounded() -> None:
    """A message lists some of a thousand failures and counts the rest; the group has all."""

    def fail(number: int) -> None:
        raise ValueError("x" * 1_000 + str(number))

    with pytest.raises(WorkflowError) as caught:
        pmflow.run(
            process(fail, type="async", map_over={"number": "numbers"}),
            inputs={"numbers": range(1_000)},
            fail_fast=False,
        )
    assert len(caught.value.exceptions) == 1_000
    assert "980 more" in caught.value.message
    assert len(caught.value.message) < 100_000


def test_one_exception_of_several_processes() -> None:
    """An exception object that several processes raise has a note for each."""
    own = ValueError("shared")

    def fail() -> None:
        raise own

    with pytest.raises(WorkflowError) as caught:
        pmflow.run([process(fail, id="a"), process(fail, id="b")], fail_fast=False)
    assert caught.value.exceptions == (own, own)
    assert sorted(getattr(own, "__notes__", [])) == ["in process 'a', attempt 1", "in process 'b', attempt 1"]


def test_except_star_sees_the_originals() -> None:
    """A WorkflowError is an exception group: splitting it, as `except*` does, keeps type, run and message."""
    with pytest.raises(WorkflowError) as caught:
        pmflow.run([broken, process(lost, id="other")], inputs={"url": "a"}, fail_fast=False)
    error = caught.value
    assert isinstance(error, BaseExceptionGroup)
    matched, rest = error.split(ValueError)
    assert isinstance(matched, WorkflowError)
    assert isinstance(rest, WorkflowError)
    assert [type(each) for each in matched.exceptions] == [ValueError]
    assert [type(each) for each in rest.exceptions] == [KeyError]
    assert matched.run is rest.run is error.run


@pytest.mark.skipif(sys.version_info < (3, 11), reason="except* is new in Python 3.11")
def test_except_star() -> None:
    """`except*` catches the user's own exception types out of a run."""
    namespace: dict[str, Any] = {"pmflow": pmflow, "broken": broken, "caught": []}
    source = (
        "try:\n    pmflow.run(broken, inputs={'url': 'a'})\n"
        "except* ValueError as group:\n    caught.append([str(each) for each in group.exceptions])\n"
    )
    exec(source, namespace)  # noqa: S102 - a syntax that Python 3.10 cannot read
    assert namespace["caught"] == [["no page a"]]


def test_the_error_shows_where_user_code_raised() -> None:
    """Python's own rendering of the error has the user's frames and the note."""
    import traceback

    with pytest.raises(WorkflowError) as caught:
        pmflow.run(broken, inputs={"url": "a"})
    text = "".join(traceback.format_exception(caught.value))
    assert 'raise ValueError(f"no page {url}")' in text
    assert "in process 'broken', attempt 1" in text


def test_a_class_process_that_returns_a_failed_result() -> None:
    """A failed `ProcessResult` that an overridden `execute` returns is a failure of the run."""

    class Failing(BaseProcess):
        async def execute(self, input_data: Any) -> ProcessResult[Any]:
            return ProcessResult(
                success=False, data=None, execution_time=0, start_time=NOW, end_time=NOW, error="no luck"
            )

    with pytest.raises(WorkflowError, match="no luck") as caught:
        pmflow.run(Failing(ProcessConfig(process_id="failing")))
    assert [type(each) for each in caught.value.exceptions] == [ProcessError]


# A stop


@pytest.mark.anyio
async def test_a_stop_cancels_or_skips() -> None:
    """After a failure: what ran is CANCELLED, what waited is too, or SKIPPED where it has a failed ancestor."""
    began, ended = anyio.Event(), anyio.Event()

    async def endless() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def failing() -> None:
        await began.wait()
        raise ValueError("stop")

    given: list[Any] = [
        process(lambda: 1, id="early"),
        process(endless, id="running"),
        process(failing, id="failing", after="early"),
        process(lambda running: running, id="behind"),
        process(lambda failing: failing, id="below"),
        process(lambda below: below, id="further"),
        process(lambda below, behind: below, id="both"),
    ]
    with anyio.fail_after(GENEROUS), pytest.raises(WorkflowError) as caught:
        await pmflow.arun(given)
    run = caught.value.run
    assert run is not None
    assert ended.is_set()
    assert states(run) == {
        "early": DONE,
        "failing": FAILED,
        "running": CANCELLED,
        "behind": CANCELLED,
        "below": SKIPPED,
        "further": SKIPPED,
        "both": SKIPPED,
    }
    assert [str(each) for each in caught.value.exceptions] == ["stop"]
    running = run["running"]
    assert (running.attempts, running.stopped, running.success, running.error) == (1, True, False, None)
    assert (run["behind"].attempts, run["behind"].execution_time) == (0, 0)
    assert "'failing' failed" in (run["both"].reason or "")


@pytest.mark.anyio
async def test_a_thread_that_is_given_up_is_not_waited_for() -> None:
    """After a failure a thread cannot be stopped: its process is CANCELLED, and `stopped` is False."""
    began, release = threading.Event(), threading.Event()

    def stuck() -> None:
        began.set()
        release.wait(GENEROUS)

    async def failing() -> None:
        while not began.is_set():
            await anyio.lowlevel.checkpoint()
        raise ValueError("stop")

    try:
        with anyio.fail_after(GENEROUS):
            run = await pmflow.arun([process(stuck), process(failing)], on_error="return", fail_fast=True)
    finally:
        release.set()
    assert states(run) == {"failing": FAILED, "stuck": CANCELLED}
    assert run["stuck"].stopped is False


@pytest.mark.anyio
async def test_what_waits_for_its_retry_is_cancelled() -> None:
    """A process that waits for its retry when the run is stopped is CANCELLED: it has not failed for good."""
    retrying = threading.Event()

    def note(event: pmflow.Event) -> None:
        if event.kind == "process_retrying":
            retrying.set()

    def again() -> None:
        raise OSError("again")

    async def failing() -> None:
        while not retrying.is_set():
            await anyio.lowlevel.checkpoint()
        raise ValueError("stop")

    patient = process(again, retries=RetryStrategy(max_retries=1, delay_seconds=1_000))
    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun([patient, process(failing)], on_error="return", fail_fast=True, hooks=[note])
    assert states(run) == {"failing": FAILED, "again": CANCELLED}
    assert run["again"].attempts == 1


@pytest.mark.parametrize("own", [True, False], ids=["of the process", "not of the process"])
def test_fail_fast_of_a_process_comes_first(*, own: bool) -> None:
    """A process's own `fail_fast` overrides the run's, for its failure."""
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ZeroDivisionError

    failing = process(fail, id="failing", type="async", fail_fast=own)
    after = process(lambda: failed.wait(20), id="after", type="thread")
    late = process(lambda after: after, id="late", type="async")
    run = pmflow.run([failing, after, late], on_error="return", fail_fast=not own)
    assert run["failing"].state is FAILED
    assert run["late"].state is (CANCELLED if own else DONE)


# The timeout of a run


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_the_timeout_of_a_run_raises() -> None:
    """RunTimeoutError: a TimeoutError with the run; what had finished is there, the rest is CANCELLED."""
    endless = process(anyio.sleep_forever, id="endless")
    begun = anyio.current_time()

    async def quick() -> str:
        await anyio.sleep(5)
        return "done"

    with pytest.raises(RunTimeoutError, match=r"timeout of 10 s.*\.run") as caught:
        await pmflow.arun([endless, process(quick), process(lambda endless: 1, id="behind")], timeout=10)
    assert anyio.current_time() - begun == pytest.approx(10)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.timeout, error.run is not None) == (10, True)
    assert error.run is not None
    assert states(error.run) == {"quick": DONE, "endless": CANCELLED, "behind": CANCELLED}
    assert (error.run["quick"].data, error.run.success) == ("done", False)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_the_timeout_of_a_run_returns() -> None:
    """With `on_error="return"` the run is returned; it has not succeeded."""
    endless = process(anyio.sleep_forever, id="endless")
    run = await pmflow.arun(endless, timeout=10, on_error="return")
    assert (states(run), run.success, run.failures) == ({"endless": CANCELLED}, False, {})
    assert run["endless"].stopped


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_run_that_is_quicker_than_its_timeout() -> None:
    """A timeout that does not pass costs nothing: the run ends when its work does."""
    begun = anyio.current_time()

    async def quick() -> str:
        await anyio.sleep(5)
        return "done"

    run = await pmflow.arun(process(quick), timeout=1_000)
    assert run.value == "done"
    assert anyio.current_time() - begun == pytest.approx(5)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_timeout_of_a_process_is_not_that_of_the_run() -> None:
    """The timeout of one process is its failure, though the run has a timeout too."""
    endless = process(anyio.sleep_forever, id="endless", timeout=3)
    with pytest.raises(WorkflowError) as caught:
        await pmflow.arun(endless, timeout=10)
    assert [type(each) for each in caught.value.exceptions] == [ProcessTimeoutError]


def test_the_timeout_of_a_run_does_not_wait_for_threads() -> None:
    """A run whose timeout passes does not wait for a thread; it says that the thread may still be running."""
    release = threading.Event()
    stuck = process(lambda: release.wait(GENEROUS), id="stuck")
    try:
        with pytest.raises(RunTimeoutError) as caught:
            pmflow.run(stuck, timeout=0.05)
    finally:
        release.set()
    assert caught.value.run is not None
    assert (caught.value.run["stuck"].state, caught.value.run["stuck"].stopped) == (CANCELLED, False)


def test_errors_travel() -> None:
    """The errors of a run can be pickled: without the run, with the originals that can."""
    with pytest.raises(WorkflowError) as caught:
        pmflow.run(broken, inputs={"url": "a"})
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - its own bytes
    assert (type(copy), copy.message, [repr(each) for each in copy.exceptions]) == (
        WorkflowError,
        caught.value.message,
        ["ValueError('no page a')"],
    )
