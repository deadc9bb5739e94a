"""`compare`: every strategy runs the same graph, results are held against one another, and what suits is said."""

import html
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmflow
from pmflow import Graph, ProcessConfig, ProcessType, Workflow, compare, process
from pmflow.comparison import Comparison, ComparisonRow, Suggestion
from pmflow.comparison.agreement import same
from pmflow.comparison.suggestions import Facts, Times, suggestion

ASYNC, THREAD, PROCESS = ProcessType.ASYNC, ProcessType.THREAD, ProcessType.PROCESS
UNIFORM = ["as decorated", "async", "thread", "process"]


def row_of(comparison: Comparison, strategy: str) -> ComparisonRow:
    (found,) = [row for row in comparison.rows if row.strategy == strategy]
    return found


# The runs


def test_every_strategy_has_a_row_with_numbers_and_the_same_results() -> None:
    """A graph that every strategy can run has a row for each, measured as often as asked for, and they agree."""

    @process
    def numbers(n: int) -> list[int]:
        return list(range(n))

    @process(map_over={"number": "numbers"}, type="process")
    async def square(number: int) -> int:
        return number * number

    @process
    def total(square: list[int]) -> int:
        return sum(square)

    comparison = compare(total, inputs={"n": 4}, repeat=2)
    assert [row.strategy for row in comparison.rows][:4] == UNIFORM
    for row in comparison.rows:
        assert (row.reason, row.different, row.unchecked) == (None, (), ())
        assert len(row.seconds) == (4 if row.strategy == "as decorated" and len(comparison.rows) == 5 else 2)
        assert row.least is not None
        assert row.median is not None
        assert 0 < row.least <= row.median
        assert row.cpu_time is not None
        assert row.cpu_time > 0
        assert row.overhead is not None
        assert row.overhead > 0
    assert row_of(comparison, "as decorated").speed_up == 1
    assert set(comparison.suggested) == {"numbers", "square", "total"}


def test_where_the_processes_run(tmp_path: Path) -> None:
    """The strategies really are what they are called: the loop's thread, another one, another program."""
    seen: list[str] = []
    program = os.getpid()

    def where() -> None:
        place = "loop" if threading.current_thread() is threading.main_thread() else "thread"
        if os.getpid() == program:
            seen.append(place)
        else:
            (tmp_path / "worker").touch()

    comparison = compare(process(where, id="where"), repeat=1)
    assert seen[:2] == ["thread", "loop"]  # as decorated, async
    assert (tmp_path / "worker").exists()
    assert comparison.suggested["where"] in set(ProcessType)


def test_rounds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round begins with another strategy, so that none is always the first."""
    kinds: list[Any] = []

    def noted(*args: Any, **arguments: Any) -> Any:
        kinds.append(arguments["type"])
        return pmflow.run(*args, **arguments)

    monkeypatch.setattr("pmflow.comparison.measuring.run", noted)
    compare(process(lambda: 1, id="one", type="async"), repeat=2)
    assert kinds == [None, ASYNC, THREAD, PROCESS, None, ASYNC, THREAD, PROCESS, ASYNC, THREAD, PROCESS, None]


def test_processes_are_found_where_compare_is_called() -> None:
    """As with `run`: closures and local processes, a module, a graph, a workflow, and several processes."""
    factor = 3

    @process
    def base(n: int) -> int:
        return n * factor

    @process
    def top(base: int) -> int:
        return base + 1

    assert row_of(compare(top, inputs={"n": 2}, repeat=1), "process").reason is None
    assert set(compare(iter([top, base]), inputs={"n": 2}, repeat=1).suggested) == {"base", "top"}
    assert set(compare(Graph([top, base]), inputs={"n": 2}, targets="base", repeat=1).suggested) == {"base"}
    assert set(compare(Graph([top, base]), inputs={"n": 2}, targets=iter(["base"]), repeat=1).suggested) == {"base"}
    workflow = Workflow(max_threads=1)
    base.register_to(workflow)
    assert set(compare(workflow, inputs={"n": 2}, repeat=1).suggested) == {"base"}


def test_overrides_stay() -> None:
    """A value stands for a process in every run; a process in the place of another is compared instead of it."""

    @process
    def base() -> int:
        raise AssertionError("it is overridden")

    @process
    def top(base: int) -> int:
        return base + 1

    by_value = compare(top, overrides={base: 1}, repeat=1)
    assert set(by_value.suggested) == {"top"}
    by_process = compare(top, overrides={"base": process(lambda: 2, id="two")}, repeat=1)
    assert set(by_process.suggested) == {"base", "top"}
    assert [row.reason for row in by_process.rows] == [None] * len(by_process.rows)


class Doubled(pmflow.BaseProcess[int]):
    """Twice the result of 'base'."""

    def process(self, input_data: Any) -> int:
        return 2 * self.get_process_result(input_data, "base")


def test_class_based_processes_take_part_and_stay_as_they_are() -> None:
    """They run under every strategy; nothing is suggested for them."""
    base = process(lambda: 2, id="base")
    doubled = Doubled(ProcessConfig(process_id="doubled", dependencies=["base"], process_type=THREAD))
    comparison = compare(Graph([base, doubled]), repeat=1)
    assert [row.reason for row in comparison.rows] == [None] * len(comparison.rows)
    assert set(comparison.suggested) == {"base"}


# What does not work


def test_what_a_strategy_cannot_run_is_a_row_with_the_reason() -> None:
    """A lock cannot travel: there is no number for workers, but a reason; and the process is not sent to one."""

    @process
    def lock() -> Any:
        return threading.Lock()

    @process
    def used(lock: Any) -> bool:
        return lock.locked()

    comparison = compare(used, repeat=1)
    row = row_of(comparison, "process")
    assert (row.seconds, row.speed_up, row.cpu_time, row.overhead) == ((), None, None, None)
    assert row.reason is not None
    assert row.reason.startswith("'lock': TransferError: ")
    assert [each.reason for each in comparison.rows if each is not row] == [None] * (len(comparison.rows) - 1)
    assert PROCESS not in comparison.suggested.values()
    assert row.reason[:40] in str(comparison)


def test_a_suggestion_that_cannot_be_run_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only as decorated a failure is raised: what is suggested is one more strategy that may not work."""

    @process
    def tiny() -> int:
        return 1

    @process(id="tiny")
    def broken() -> int:
        raise ValueError("not here")

    def as_decorated_only(graph: Graph, **arguments: Any) -> Any:
        suggested = graph.processes["tiny"] is not tiny
        return pmflow.run(graph.replaced({"tiny": broken}) if suggested else graph, **arguments)

    monkeypatch.setattr("pmflow.comparison.measuring.run", as_decorated_only)
    assert row_of(compare(tiny, repeat=1), "as suggested").reason == "'tiny': ValueError: not here"


def test_as_decorated_it_has_to_work() -> None:
    """Where the graph fails as it is, there is nothing to compare with: the failure is raised."""

    @process
    def broken() -> None:
        raise ValueError("no such page")

    with pytest.raises(pmflow.WorkflowError, match="no such page"):
        compare(broken, repeat=1)


def test_a_run_that_takes_too_long_is_a_row_with_the_reason() -> None:
    """The timeout is for each run: a strategy that would not come to an end is one that cannot run the graph."""
    program = os.getpid()

    @process
    def wait() -> None:
        if os.getpid() != program:
            threading.Event().wait()

    reason = row_of(compare(wait, repeat=1, timeout=1), "process").reason
    assert reason is not None
    assert "longer than its timeout" in reason


def test_nothing_runs_that_cannot_run() -> None:
    """What `run` refuses is refused, before anything runs; so are a number that is none, and an exhaustible input."""
    ran: list[int] = []
    note = process(lambda values: ran.append(values) or 1, id="note")
    with pytest.raises(pmflow.MissingDependencyError):
        compare(note)
    with pytest.raises(pmflow.InputError, match="no process asks for the input 'value'"):
        compare(note, inputs={"value": 1, "values": 1})
    with pytest.raises(pmflow.ConfigurationError, match="overrides must map"):
        compare(note, overrides=[1])  # type: ignore[arg-type]
    with pytest.raises(pmflow.ConfigurationError, match="repeat must be a whole number"):
        compare(note, inputs={"values": 1}, repeat=0)
    for exhaustible in ({"inputs": {"values": iter([1])}}, {"inputs": {"values": 1}, "overrides": {note: iter([1])}}):
        with pytest.raises(pmflow.ConfigurationError, match="is an iterator, which the first run exhausts"):
            compare(note, **exhaustible)
    assert ran == []


# Whether results agree


def test_results_that_differ_are_marked() -> None:
    """A function whose result depends on where it runs: the row says so, and a sentence."""
    program = os.getpid()

    @process
    def here() -> bool:
        return os.getpid() == program

    comparison = compare(here, repeat=1)
    assert row_of(comparison, "process").different == ("here",)
    assert row_of(comparison, "thread").different == ()
    assert "The results of 'here' differ between as decorated and process" in str(comparison).replace("\n", " ")


def test_a_value_that_one_strategy_alone_has_is_a_difference() -> None:
    """A process that is not required may fail quietly where it runs: that its value is missing is seen."""
    program = os.getpid()

    @process(required=False)
    def here() -> int:
        return 1 // (os.getpid() == program)

    row = row_of(compare(here, repeat=1), "process")
    assert (row.reason, row.different) == (None, ("here",))


def test_results_that_differ_from_run_to_run_prove_nothing() -> None:
    """Of a function of chance no strategy is accused."""
    numbers = iter(range(1_000_000))
    text = str(compare(process(lambda: next(numbers), id="chance"), repeat=1))
    assert "even as decorated" in text
    assert "find out why" not in text


class Opaque:
    """Has no equality of its own."""


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1.0, True),
        ([1, (2, {"a": 3})], [1, (2, {"a": 3})], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [1], False),
        ({"a": 1}, {"b": 1}, False),
        ((1,), [1], False),
        (float("nan"), float("nan"), True),
        ({"a": [float("nan")]}, {"a": [float("nan")]}, True),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([1, 2]), np.array([1, 2, 3]), False),
        (np.array([1], dtype="i4"), np.array([1], dtype="i8"), False),
        (np.array(["a", None], dtype=object), np.array(["a", None], dtype=object), True),
        (np.float64("nan"), np.float64("nan"), True),
        ([np.zeros(2)], [np.zeros(2)], True),
        ({1, 2}, {2, 1}, True),
        (Opaque(), Opaque(), None),
        ([Opaque(), 1], [Opaque(), 2], False),
        (len, len, True),
    ],
)
def test_what_counts_as_equal(one: Any, other: Any, expected: bool | None) -> None:
    """Values are equal as Python has it, NaN too and arrays; what only knows itself cannot be compared."""
    assert same(one, other) is expected


def test_a_value_that_holds_itself_can_be_compared() -> None:
    """A cycle is walked once."""
    one: list[Any] = [1]
    other: list[Any] = [1]
    one.append(one)
    other.append(other)
    assert same(one, other) is True


def test_what_cannot_be_compared_is_said_to_be_unchecked() -> None:
    """Objects without an equality are no disagreement."""
    comparison = compare(process(Opaque, id="opaque"), repeat=1)
    assert row_of(comparison, "thread").unchecked == ("opaque",)
    assert "were not checked" in str(comparison).replace("\n", " ")


# What suits


def times(call: float, *, busy: float | None = None, overhead: float = 0.0, calls: float = 1) -> Times:
    return Times(call=call, span=call * calls, busy=busy, overhead=overhead)


def chosen(decorated: ProcessType, known: dict[ProcessType, Times], **facts: Any) -> tuple[ProcessType, str]:
    found = suggestion(Facts(decorated=decorated, times=known, **facts))
    return found.type, found.reason


COMPUTES = {ASYNC: times(1.0), THREAD: times(2.0), PROCESS: times(1.0, busy=0.98)}
WAITS = {ASYNC: times(1.0), THREAD: times(1.0), PROCESS: times(1.0, busy=0.02)}
TINY = {ASYNC: times(3e-6), THREAD: times(4e-6, overhead=2e-5), PROCESS: times(5e-6, busy=0.9, overhead=1e-4)}


@pytest.mark.parametrize(
    ("decorated", "known", "facts", "expected", "reason"),
    [
        (THREAD, COMPUTES, {}, PROCESS, "it computes, and that takes 1.00 s in workers, 2.00 s in threads"),
        (PROCESS, WAITS, {}, THREAD, "it waits: it is busy for 2% of its time"),
        (ASYNC, WAITS, {}, THREAD, "it waits"),
        (ASYNC, WAITS, {"coroutine": True}, ASYNC, "it waits"),
        (ASYNC, COMPUTES, {"coroutine": True}, ASYNC, "a worker is not faster"),
        (ASYNC, {**COMPUTES, ASYNC: times(4.0)}, {"coroutine": True}, PROCESS, "it computes"),
        (THREAD, TINY, {}, ASYNC, "a call takes 3.00 us, less than it takes to hand it over"),
        (THREAD, TINY, {"timeout": True}, THREAD, "a worker is not faster"),
        (ASYNC, TINY, {"coroutine": True}, ASYNC, "a worker is not faster"),
        (THREAD, {**COMPUTES, THREAD: times(1.02)}, {"cores": 1.9}, THREAD, "threads do so in parallel, on 1.9 cores"),
        (THREAD, {**COMPUTES, THREAD: times(1.02)}, {}, THREAD, "a worker is not faster"),
        (PROCESS, {**COMPUTES, THREAD: times(1.02)}, {}, PROCESS, "no slower than elsewhere"),
        (PROCESS, TINY, {"guarded": True}, PROCESS, "it needs a worker, which can be killed"),
        (
            THREAD,
            {THREAD: times(1.0), PROCESS: times(0.5, busy=0.9, overhead=2.0)},
            {},
            THREAD,
            "it computes, and a worker is not faster: 2.50 s in workers, 1.00 s in threads",
        ),
        (
            THREAD,
            {THREAD: times(1.0)},
            {"refused": "TransferError: x"},
            THREAD,
            "not run in a worker: TransferError: x",
        ),
        (PROCESS, {PROCESS: times(1.0, busy=1.0)}, {}, PROCESS, "it did not run in threads"),
    ],
)
def test_what_is_suggested(
    decorated: ProcessType, known: dict[ProcessType, Times], facts: Any, expected: ProcessType, reason: str
) -> None:
    """What was measured of a process decides, the way there and back included; a change has to be worth it."""
    kind, said = chosen(decorated, known, **facts)
    assert kind is expected
    assert reason in said


def test_what_is_suggested_is_run() -> None:
    """If something else than as decorated is suggested, that is measured too, and the processes stay as they were."""

    @process(timeout=60)
    def guarded() -> int:
        return 1

    @process
    def tiny(guarded: int) -> int:
        return guarded

    comparison = compare(tiny, repeat=1)
    assert comparison.suggested["tiny"] is ASYNC
    assert comparison.suggested["guarded"] is not ASYNC  # inline nothing could stop it
    assert row_of(comparison, "as suggested").reason is None
    assert tiny.strategy is THREAD


# As text, as a picture


def made(names: int = 1, reason: str = "it waits") -> Comparison:
    rows = (
        ComparisonRow(strategy="as decorated", seconds=(2.0, 2.2), speed_up=1.0, cpu_time=1e-3, peak_memory=12_345_678),
        ComparisonRow(strategy="thread", seconds=(1.0, 1.1), speed_up=2.0, different=("<b>",), overhead=2e-6),
        ComparisonRow(strategy="process", reason=f"'<b>': TransferError: {'x' * 200}\nand more"),
    )
    suggestions = {f"<i>{number}": Suggestion(type=THREAD, decorated=PROCESS, reason=reason) for number in range(names)}
    return Comparison(rows=rows, suggestions=suggestions)


def test_the_table_fits_a_terminal() -> None:
    """At most 100 columns, whatever names and reasons there are; and not a line for each of a thousand processes."""
    lines = str(made(1_000, reason="it waits " * 40)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "  ... and 980 more"
    assert lines[0].split() == ["strategy", "median", "least", *"spread speed-up cpu memory overhead results".split()]
    assert lines[1].split() == "as decorated 2.10 s 2.00 s 10% 1.00 x 1.00 ms 12.3 MB - agree".split()
    assert lines[2].split() == "thread 1.05 s 1.00 s 10% 2.00 x - - 2.00 us differ".split()
    assert "The fastest was thread: 2.00 x as decorated." in lines


def test_the_table_of_a_notebook_escapes_everything() -> None:
    """Names and reasons are the user's: no markup of theirs gets through."""
    found = made()._repr_html_()
    assert "<b>" not in found
    assert "<i>" not in found
    assert html.escape("'<b>'") in found
    assert found.count("<tr>") == 4


def test_it_can_be_read_by_a_program() -> None:
    """Everything, as JSON has it."""
    facts = json.loads(json.dumps(made().to_dict()))
    assert facts["fastest"] == "thread"
    assert facts["suggested"] == {"<i>0": {"type": "thread", "decorated": "process", "reason": "it waits"}}
    assert facts["rows"][0]["seconds"] == [2.0, 2.2]
    assert (facts["rows"][0]["median"], facts["rows"][1]["different"]) == (2.1, ["<b>"])


def test_it_is_drawn(tmp_path: Path) -> None:
    """The picture's suffix says its format."""
    made().save(tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    made().save(str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What draws is an extra, and the error says which."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[report\]"'):
        made().save(tmp_path / "plot.svg")


def test_importing_pmflow_imports_neither_typer_nor_matplotlib() -> None:
    """Both are extras."""
    code = "import sys, pmflow; print({'typer', 'matplotlib', 'statistics'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "set()\n"
