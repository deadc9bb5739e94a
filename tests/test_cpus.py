"""How many cores the calls use that run at once: no more than there are."""

# ruff: noqa: PLW0108 - the parameters of a lambda have names, which is what they are here for

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import pmflow
from pmflow import BaseProcess, Graph, Limit, ProcessConfig, ProcessType, RetryStrategy, process
from pmflow.errors import ConfigurationError
from pmflow.executors import pools
from pmflow.executors.numeric import NUMERIC
from pmflow.limits import Cores

SOON = 20.0


class Somebody:
    """Counts how often it is told."""

    def __init__(self) -> None:
        self.told = 0

    def freed(self) -> None:
        """Hear that it is worth asking again."""
        self.told += 1


class Meter:
    """How many cores the calls use that are under way, and the most that there were; waits until several are."""

    def __init__(self, expected: int = 1) -> None:
        self.now = self.most = 0
        self._expected = threading.Barrier(expected)
        self._lock = threading.Lock()

    def use(self, count: int, value: Any = None) -> Any:
        """Use cores."""
        with self._lock:
            self.now += count
            self.most = max(self.most, self.now)
        self._expected.wait(SOON)
        with self._lock:
            self.now -= count
        return value


class Watched(Cores):
    """Notes how many cores there are in use, at most, while a call has several."""

    worst = 0

    def report(self, who: Any, count: int) -> None:
        """Take how many calls of one core somebody has, as a run says it whenever it has begun some."""
        super().report(who, count)
        if self._taken:
            self.worst = max(self.worst, self._taken + sum(self._ones.values()))


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """A program of four cores; in the end nobody has any of them, or waits for one."""
    cores = Watched(4)
    monkeypatch.setattr(pools, "_cores", [cores])
    yield cores
    assert (cores._taken, cores._ones, list(cores._line)) == (0, {}, [])


def overlaps(run: pmflow.Run[Any], one: str, others: list[str]) -> list[str]:
    """Return which calls were under way together with one."""
    span = run[one]
    return [name for name in others if run[name].start_time < span.end_time and span.start_time < run[name].end_time]


# The account


def test_cores_are_taken_and_given_back() -> None:
    """Who is refused is told when somebody gives back, and has them then."""
    cores, one, other = Cores(4), Somebody(), Somebody()
    assert [cores.take(one, 3), cores.take(other, 2), other.told] == [True, False, 0]
    cores.give_back(3)
    assert [other.told, cores.take(other, 2), cores.take(one, 2), cores.take(one, 1)] == [1, True, True, False]


def test_more_than_there_are_is_taken_alone() -> None:
    """It waits until nobody has any, and nobody gets any beside it."""
    cores, one, other = Cores(4), Somebody(), Somebody()
    assert [cores.take(one, 1), cores.take(other, 9)] == [True, False]
    cores.give_back(1)
    assert [cores.take(other, 9), cores.take(one, 1), cores.room(one, 1)] == [True, False, 0]


def test_a_stream_of_small_ones_lets_a_large_one_pass() -> None:
    """Whoever was refused comes next: cores that get free meanwhile are kept for it."""
    cores, stream, large = Cores(4), Somebody(), Somebody()
    assert [cores.take(stream, 2), cores.take(stream, 2), cores.take(large, 3)] == [True, True, False]
    cores.give_back(2)
    assert [cores.take(stream, 2), cores.take(large, 3)] == [False, False]
    cores.give_back(2)
    assert [cores.take(stream, 2), cores.take(large, 3), cores.take(stream, 1)] == [False, True, True]


def test_calls_of_one_core_in_bulk() -> None:
    """As many as they like while nobody minds; then they drain, and take turns with those that use several."""
    cores, small, large = Cores(4), Somebody(), Somebody()
    assert [cores.room(small, 100), cores.take(large, 2), cores.room(small, 100)] == [100, False, 0]
    cores.report(small, 3)
    assert [large.told, cores.take(large, 2)] == [1, False]
    cores.report(small, 2)
    assert [cores.take(large, 2), cores.take(large, 2), cores.room(small, 100)] == [True, False, 0]
    cores.report(small, 0)
    assert [cores.room(small, 100), cores.take(large, 2)] == [2, False]  # these were refused first
    cores.report(small, 0)
    assert [cores.room(small, 100), cores.take(large, 2), cores.room(small, 100)] == [0, True, 0]


def test_who_does_not_want_any_more_holds_up_nobody() -> None:
    """The next in line is told."""
    cores, one, other, third = Cores(4), Somebody(), Somebody(), Somebody()
    assert [cores.take(one, 3), cores.take(other, 3), cores.take(third, 1)] == [True, False, False]
    cores.forget(other)
    assert [third.told, cores.take(third, 1)] == [1, True]


def test_a_run_within_another_gets_one_through() -> None:
    """Whoever waits for it has the cores, and does not use them."""
    cores, outer, inner = Cores(4), Somebody(), Somebody()
    assert [cores.take(outer, 4), cores.take(inner, 4), cores.take(inner, 4, anyway=True)] == [True, False, True]
    assert [cores.room(inner, 5), cores.room(inner, 5, anyway=True)] == [0, 1]


# Runs


@pytest.mark.parametrize("kind", ["thread", "async"])
@pytest.mark.usefixtures("four")
def test_no_more_at_once_than_there_are(kind: Any) -> None:
    """Two calls of two cores, and never a third: in threads, and of coroutines that say that they compute."""
    meter = Meter(2)

    async def later(n: int) -> int:
        return await anyio.to_thread.run_sync(meter.use, 2, n)

    function: Any = later if kind == "async" else lambda n: meter.use(2, n)
    it = process(function, id="it", map_over={"n": "ns"}, cpus=2)
    assert pmflow.run(it, inputs={"ns": range(10)}).value == list(range(10))
    assert meter.most == 4


@pytest.mark.usefixtures("four")
def test_different_numbers() -> None:
    """Whatever fits is begun; the sum is never more than there are."""
    meter = Meter()
    several = [process(lambda n=n: meter.use(n), id=f"p{n}x{i}", cpus=n) for n in (2, 3, 4) for i in range(8)]
    assert pmflow.run(several, timeout=SOON).success
    assert meter.most <= 4


@pytest.mark.usefixtures("four")
def test_more_than_the_machine_has() -> None:
    """Such a call runs, and while it does no other that uses several."""
    meter = Meter()
    wide = process(lambda n: meter.use(100), id="wide", cpus=100, map_over={"n": "ns"})
    other = process(lambda n: meter.use(2), id="other", cpus=2, map_over={"n": "ns"})
    assert pmflow.run([wide, other], inputs={"ns": range(5)}, timeout=SOON).success
    assert meter.most == 100


@pytest.mark.usefixtures("four")
def test_what_says_nothing_uses_none() -> None:
    """Threads and coroutines wait, as a rule: they run beside a call that has all cores."""
    met = threading.Barrier(3)

    async def waits() -> int:
        return await anyio.to_thread.run_sync(met.wait, SOON)

    several = [
        process(lambda: met.wait(SOON), id="wide", cpus=4),
        process(lambda: met.wait(SOON), id="thread"),
        process(waits),
    ]
    assert pmflow.run(several).success


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("settings", [{}, {"retries": 1}, {"limit": 2}], ids=str)
def test_calls_in_workers_count(kind: Any, settings: Any, four: Watched) -> None:
    """What uses all cores runs beside no worker call; what uses some, beside as many as there are cores left."""
    wide = process(lambda n: n, id="wide", type=kind, cpus=4, map_over={"n": "ns"})
    half = process(lambda n: n, id="half", type=kind, cpus=3, map_over={"n": "ns"})
    small = process(lambda m: m * 2, id="small", type="process", map_over={"m": "ms"}, **settings)
    run = pmflow.run([wide, half, small], inputs={"ns": range(4), "ms": range(300)}, max_processes=2, timeout=SOON)
    assert (run["wide"].data, run["small"].data) == ([0, 1, 2, 3], [m * 2 for m in range(300)])
    assert four.worst <= 4
    names = [f"small_{m}" for m in range(300)]
    assert [overlaps(run, f"wide_{n}", names) for n in range(4)] == [[]] * 4
    for n in range(4):
        beside = overlaps(run, f"half_{n}", names)
        assert all(not overlaps(run, name, [other for other in beside if other != name]) for name in beside)


def until(path: str) -> bool:
    """Wait until a file is there."""
    end = time.monotonic() + SOON
    while not os.path.exists(path):
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.usefixtures("four")
def test_worker_calls_do_not_keep_a_wide_one_from_running(tmp_path: Path) -> None:
    """The last of many worker calls waits for it."""
    path = str(tmp_path / "begun")
    small = process(lambda m, path: m < 499 or until(path), id="small", type="process", map_over={"m": "ms"})
    first = process(lambda: None, id="first")
    wide = process(lambda first: Path(path).touch(), id="wide", cpus=4)
    run = pmflow.run([small, first, wide], inputs={"ms": range(500), "path": path})
    assert (all(run["small"].data), run["wide"].success) == (True, True)


@pytest.mark.usefixtures("four")
def test_wide_calls_do_not_keep_worker_calls_from_running(tmp_path: Path) -> None:
    """The last of many wide calls waits for one of them."""
    path = str(tmp_path / "begun")
    wide = process(lambda n, path: n < 49 or until(path), id="wide", cpus=4, map_over={"n": "ns"})
    first = process(lambda: None, id="first")
    small = process(lambda first, path: Path(path).touch(), id="small", type="process")
    run = pmflow.run([wide, first, small], inputs={"ns": range(50), "path": path})
    assert (all(run["wide"].data), run["small"].success) == (True, True)


@pytest.mark.usefixtures("four")
def test_runs_at_once_share_the_cores() -> None:
    """Three runs: the sum of all is what counts."""
    meter = Meter()
    it = process(lambda n: meter.use(3, n), id="it", map_over={"n": "ns"}, cpus=3)
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(pmflow.run, it, inputs={"ns": range(10)}) for _ in range(3)]
        assert [each.result(SOON).value for each in runs] == [list(range(10))] * 3
    assert meter.most == 3


@pytest.mark.parametrize("kind", ["thread", "async"])
@pytest.mark.parametrize("inner", ["thread", "process"])
@pytest.mark.usefixtures("four")
def test_a_run_within_a_call_that_has_all_cores(kind: Any, inner: Any) -> None:
    """It goes on, one call after another, three deep."""
    meter = Meter()
    innermost = process(lambda n: n + 1, id="innermost", type=inner, cpus=4, map_over={"n": "ns"})
    small = process(lambda n: n, id="small", type="process", map_over={"n": "ns"})

    def middle() -> Any:
        run = pmflow.run([innermost, small], inputs={"ns": range(3)})
        return meter.use(4, run["innermost"].data + run["small"].data)

    outer = process(lambda: pmflow.run(process(middle, cpus=4)).value, id="outer", type=kind, cpus=4)
    assert pmflow.run(outer, timeout=SOON).value == [1, 2, 3, 0, 1, 2]


@pytest.mark.usefixtures("four")
def test_an_async_run_within_a_call_that_has_all_cores() -> None:
    """The same of `arun`."""
    inner = process(lambda n: n + 1, id="inner", cpus=4, map_over={"n": "ns"})

    async def outer() -> Any:
        return (await pmflow.arun(inner, inputs={"ns": range(3)})).value

    assert pmflow.run(process(outer, cpus=4), timeout=SOON).value == [1, 2, 3]


def test_a_run_within_a_worker() -> None:
    """A worker is one core: what uses more runs alone there."""

    def outer() -> Any:
        return pmflow.run(
            process(lambda n: n + 1, id="inner", cpus=4, map_over={"n": "ns"}), inputs={"ns": [1, 2]}
        ).data

    assert pmflow.run(process(outer, type="process", cpus=2), timeout=SOON).value == {"inner": [2, 3]}


@pytest.mark.usefixtures("four")
def test_cores_are_free_while_a_retry_waits() -> None:
    """Others go on; the retry waits for its cores again."""
    went: list[str] = []

    def flaky() -> str:
        went.append("flaky")
        if went.count("flaky") < 3:
            raise OSError
        return "done"

    delayed = RetryStrategy(max_retries=2, delay_seconds=0.01)
    first = process(flaky, cpus=4, retries=delayed)
    other = process(lambda n: went.append(str(n)), id="other", map_over={"n": "ns"}, cpus=3)
    run = pmflow.run([first, other], inputs={"ns": range(5)})
    assert (run["flaky"].data, run["flaky"].attempts) == ("done", 3)
    assert sorted(went) == [*"01234", "flaky", "flaky", "flaky"]


@pytest.mark.parametrize("ending", ["failure", "timeout", "condition", "crash"])
def test_every_end_gives_cores_back(ending: str, four: Cores) -> None:
    """A failure that stops the run, its timeout, a condition, a dead worker: in the end nobody has any."""
    gate = threading.Event()
    small = process(lambda n: n, id="small", type="process", map_over={"n": "ns"})
    bodies: dict[str, Any] = {
        "failure": lambda n: 1 // n,
        "timeout": lambda n: gate.wait(SOON),
        "condition": lambda n: n,
        "crash": lambda n: os._exit(n),
    }
    kind: Any = "process" if ending == "crash" else "thread"
    settings: dict[str, Any] = {"when": lambda n: n > 5} if ending == "condition" else {}
    it = process(bodies[ending], id="it", type=kind, map_over={"n": "ns"}, cpus=3, **settings)
    limits = {"timeout": 0.05} if ending == "timeout" else {}
    run = pmflow.run([it, small], inputs={"ns": range(9)}, on_error="return", fail_fast=True, **limits)
    gate.set()
    assert set(run) == {"it", "small"}
    assert four.take(Somebody(), 4)
    four.give_back(4)


def numbers() -> Iterator[int]:
    """Yield more than anybody is to have ahead."""
    yield from range(500)


@pytest.mark.parametrize("wide", ["producer", "consumer", "both"])
@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.usefixtures("four")
def test_a_generator_keeps_no_cores_while_it_waits(wide: str, kind: Any) -> None:
    """What it yields is gone over by what needs the cores that it has: it does not wait for that."""
    n = process(numbers, id="n", type=kind, cpus=1 if wide == "consumer" else 4)
    double = process(lambda n: n * 2, id="double", type="process", map_over="n", cpus=1 if wide == "producer" else 4)
    run = pmflow.run([n, double], timeout=SOON)
    assert run["double"].data == [each * 2 for each in range(500)]


@pytest.mark.usefixtures("four")
def test_a_limit_and_cores() -> None:
    """Both hold."""
    meter, limit = Meter(), Limit(1)
    one = process(lambda n: meter.use(2, n), id="one", map_over={"n": "ns"}, cpus=2, limit=limit)
    other = process(lambda n: meter.use(3, n), id="other", map_over={"n": "ns"}, cpus=3, limit=limit)
    run = pmflow.run([one, other], inputs={"ns": range(9)}, timeout=SOON)
    assert (run["one"].data, run["other"].data, meter.most) == (list(range(9)), list(range(9)), 3)


class Wide(BaseProcess[int]):
    """A class process."""

    def process(self, input_data: Any) -> int:
        """Use the cores."""
        return int(input_data.use(3, 7))


@pytest.mark.usefixtures("four")
def test_class_processes() -> None:
    """They say it in their config."""
    meter = Meter()
    several = [Wide(ProcessConfig(process_id=f"w{n}", cpus=3, process_type=ProcessType.THREAD)) for n in range(5)]
    run = pmflow.run(several, inputs={each.id: meter for each in several})
    assert ([run[each.id].data for each in several], meter.most) == ([7] * 5, 3)


# What is said


@pytest.mark.parametrize("cpus", [0, -1, True, 1.5, "2", None], ids=repr)
def test_what_cannot_be_a_number_of_cores(cpus: Any) -> None:
    """Refused at decoration."""
    with pytest.raises(ConfigurationError, match="process 'it': cpus must be a whole number, 1 or more"):
        process(lambda: 1, id="it", cpus=cpus)


def test_options_and_plans() -> None:
    """A copy may use others; a plan says them where they are several."""
    it = process(lambda: 1, id="it", cpus=3)
    assert [it.options(cpus=2).config.cpus, it.options(id="other").config.cpus, it.config.cpus] == [2, 3, 3]
    plan = Graph([it, process(lambda it: it, id="next")]).plan()
    assert [line.split() for line in str(plan).splitlines()[1:]] == [
        ["it", "thread", "3", "cores"],
        ["next", "thread", "it", "=", "'it'"],
    ]


def test_a_graph_without_cores_is_planned_as_ever() -> None:
    """No gates, and chains stay chains."""
    one, two = process(lambda: 1, id="one", type="process"), process(lambda one: one, id="two", type="process")
    plan = Graph([one, two]).plan()
    assert (plan.gates, plan.counts_cores, plan.nodes["two"].unit) == ({}, False, "one")


# Numeric libraries


def variables() -> dict[str, str | None]:
    """Return what numeric libraries read when they are loaded."""
    return {name: os.environ.get(name) for name in NUMERIC}


def widths() -> set[int]:
    """Return how many threads loaded numeric libraries may start."""
    import numpy as np
    from threadpoolctl import threadpool_info

    assert np.ones(1).sum() == 1
    return {each["num_threads"] for each in threadpool_info()}


def test_numeric_libraries_have_the_cores_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, for what is loaded during the call; the next call finds what was there."""
    for name in NUMERIC:
        monkeypatch.delenv(name, raising=False)
    wide, small = process(variables, type="process", cpus=2), process(variables, id="small", type="process")
    assert pmflow.run(wide).value == dict.fromkeys(NUMERIC, "2")
    assert pmflow.run(small, max_processes=1).value == dict.fromkeys(NUMERIC, "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    assert pmflow.run(wide).value == {**dict.fromkeys(NUMERIC, "2"), "MKL_NUM_THREADS": "7"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert pmflow.run(wide).value == {**dict.fromkeys(NUMERIC), "MKL_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"}


def test_libraries_that_are_loaded_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `threadpoolctl` they are told, and told again after the call."""
    pytest.importorskip("threadpoolctl")
    for name in NUMERIC:
        monkeypatch.delenv(name, raising=False)
    first = process(widths, id="first", type="process")
    wide = process(widths, id="wide", type="process", cpus=2, after="first")
    last = process(widths, id="last", type="process", after="wide")
    run = pmflow.run([first, wide, last], max_processes=1)
    assert [run[name].data for name in ("first", "wide", "last")] == [{1}, {2}, {1}]
