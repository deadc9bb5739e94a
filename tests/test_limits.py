"""How many calls run at once, or begin within some seconds: of a process, of several, of several runs."""

# ruff: noqa: PLW0108 - the parameters of a lambda have names, which is what they are here for

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import anyio
import pytest

import pmflow
from pmflow import Graph, Limit, ProcessState, Rate, RetryStrategy, process
from pmflow.errors import ConfigurationError

SOON = 20.0
TYPES = ("async", "thread", "process")


class Gauge:
    """Counts calls that are under way, and waits until as many are as are expected."""

    def __init__(self, expected: int = 1) -> None:
        self.now = self.most = 0
        self._expected = threading.Barrier(expected)
        self._lock = threading.Lock()

    def __call__(self, value: Any = None) -> Any:
        """Be one of them."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self._expected.wait(SOON)
        with self._lock:
            self.now -= 1
        return value


def gauged(gauge: Gauge, **settings: Any) -> Any:
    return process(lambda n: gauge(n), map_over={"n": "ns"}, **settings)


@pytest.mark.parametrize("limit", [2, Limit(2)])
def test_as_many_calls_at_once_as_the_limit_says(limit: Any) -> None:
    """No fewer, for two wait for each other, and no more."""
    gauge = Gauge(2)
    run = pmflow.run(gauged(gauge, id="it", limit=limit), inputs={"ns": range(20)}, max_threads=6)
    assert (run.value, gauge.most) == (list(range(20)), 2)


@pytest.mark.parametrize("kind", TYPES)
def test_a_limit_of_one_in_every_strategy(kind: Any) -> None:
    """One after another, the elements in their order."""
    it = process(lambda n: n * 2, id="it", type=kind, map_over={"n": "ns"}, limit=1)
    total = process(lambda it: sum(it), id="total", type=kind, limit=1)
    run = pmflow.run([it, total], inputs={"ns": range(50)})
    assert run["total"].data == 2450
    spans = [(run[f"it_{n}"].start_time, run[f"it_{n}"].end_time) for n in range(50)]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_limit_of_coroutines(library: str) -> None:
    """Three wait at once, and never a fourth."""
    state = {"now": 0, "most": 0}

    async def wait(n: int) -> int:
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        state["now"] -= 1
        return n

    async def main() -> Any:
        return await pmflow.arun(process(wait, id="it", map_over={"n": "ns"}, limit=3), inputs={"ns": range(30)})

    assert anyio.run(main, backend=library).value == list(range(30))
    assert state == {"now": 0, "most": 3}


def test_processes_that_share_a_limit() -> None:
    """Across strategies: of the three at most one runs at a time."""
    shared, order = Limit(1), []
    lock = threading.Lock()

    def note(name: str) -> str:
        assert lock.acquire(blocking=False)
        order.append(name)
        lock.release()
        return name

    several = [
        process(lambda: note("a"), id="a", type="thread", limit=shared),
        process(lambda: note("b"), id="b", type="async", limit=shared),
        process(lambda: "c", id="c", type="process", limit=shared),
        *(process(lambda name=f"d{n}": note(name), id=f"d{n}", limit=shared) for n in range(20)),
    ]
    run = pmflow.run(several)
    assert run.success
    assert len(order) == 22


def test_runs_that_share_a_limit() -> None:
    """Four runs at once, two calls at most; each gets its turn."""
    gauge, limit = Gauge(2), Limit(2)
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(pmflow.run, gauged(gauge, id="it", limit=limit), inputs={"ns": range(10)}) for _ in range(4)
        ]
        assert [each.result(SOON).value for each in runs] == [list(range(10))] * 4
    assert gauge.most == 2


def test_a_named_limit() -> None:
    """The run says what it is; a name that it does not know is refused with the nearest, before anything runs."""
    gauge = Gauge(1)
    it = gauged(gauge, id="it", limit="db")
    assert pmflow.run(it, inputs={"ns": range(5)}, limits={"db": 1}).value == list(range(5))
    assert pmflow.run(it, inputs={"ns": range(5)}, limits={"db": Limit(1), "other": 3}).value == list(range(5))
    assert gauge.most == 1
    with pytest.raises(ConfigurationError, match="'it' has the limit 'db', which the run does not know.*'dbs'"):
        pmflow.run(it, inputs={"ns": range(5)}, limits={"dbs": 1})


def test_a_place_is_free_while_a_retry_waits() -> None:
    """The others go on; the retry gets a place again, and only then begins."""
    went: list[str] = []

    def flaky() -> str:
        went.append("flaky")
        if went.count("flaky") < 3:
            raise OSError
        return "done"

    delayed = RetryStrategy(max_retries=2, delay_seconds=0.01)
    limit = Limit(1)
    first = process(flaky, id="first", limit=limit, retries=delayed)
    other = process(lambda n: went.append(str(n)), id="other", map_over={"n": "ns"}, limit=limit)
    run = pmflow.run([first, other], inputs={"ns": range(5)})
    assert (run["first"].data, run["first"].attempts) == ("done", 3)
    assert sorted(went) == [*"01234", "flaky", "flaky", "flaky"]
    assert pmflow.run(process(lambda: 1, id="it", limit=limit), timeout=SOON).value == 1  # nothing is still taken


@pytest.mark.parametrize("ending", ["failure", "timeout", "skip", "condition"])
def test_every_end_gives_the_place_back(ending: str) -> None:
    """A failure that stops the run, its timeout, a dependency that failed, a condition: the next run begins."""
    limit = Limit(1)
    gate = threading.Event()
    ends: dict[str, Callable[[], Any]] = {
        "failure": lambda: pmflow.run(
            [process(lambda: 1 / 0, id="a", limit=limit), process(lambda a: a, id="b", limit=limit)], on_error="return"
        ),
        "timeout": lambda: pmflow.run(
            [process(lambda: gate.wait(SOON), id="a", limit=limit), process(lambda: 2, id="b", limit=limit)],
            timeout=0.05,
            on_error="return",
        ),
        "skip": lambda: pmflow.run(
            [process(lambda: 1 / 0, id="a"), process(lambda a: a, id="b", limit=limit)], on_error="return"
        ),
        "condition": lambda: pmflow.run(
            process(lambda n: n, id="a", limit=limit, map_over={"n": "ns"}, when=lambda n: n > 5),
            inputs={"ns": range(9)},
        ),
    }
    run = ends[ending]()
    assert len(run) in (1, 2)
    assert pmflow.run(process(lambda: 1, id="it", limit=limit), timeout=SOON).value == 1
    gate.set()


def test_a_rate() -> None:
    """Four calls, two in each period: the third begins a period after the first."""
    it = process(lambda n: n, id="it", map_over={"n": "ns"}, limit=Rate(2, per=0.1))
    run = pmflow.run(it, inputs={"ns": range(5)})
    starts = [run[f"it_{n}"].start_time for n in range(5)]
    gaps = [(later - earlier).total_seconds() for earlier, later in zip(starts, starts[2:], strict=False)]
    assert run.value == list(range(5))
    assert min(gaps) >= 0.09


def test_a_rate_of_conditions_that_say_no() -> None:
    """What does not run does not count."""
    it = process(lambda n: n, id="it", map_over={"n": "ns"}, limit=Rate(1, per=1000.0), when=lambda n: n == 7)
    assert pmflow.run(it, inputs={"ns": range(8)}, timeout=SOON).value == [7]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "", [2]])
def test_what_cannot_be_a_limit(limit: Any) -> None:
    """Refused at decoration."""
    with pytest.raises(ConfigurationError, match="a limit must be a whole number, 1 or more"):
        process(lambda: 1, id="it", limit=limit)


def test_what_cannot_be_a_rate() -> None:
    """Refused where it is written; limits and rates travel as what they say."""
    with pytest.raises(ConfigurationError, match="a rate must be a whole number"):
        Rate(0)
    with pytest.raises(ConfigurationError, match="per a positive number of seconds"):
        Rate(1, per=0)
    assert [repr(pickle.loads(pickle.dumps(each))) for each in (Limit(3), Rate(2, per=0.5))] == [  # noqa: S301
        "Limit(3)",
        "Rate(2, per=0.5)",
    ]


def test_a_plan_says_limits() -> None:
    """With the other settings, where something has to wait for them."""
    mapped = process(lambda n: n, id="a", limit=2, map_over={"n": "ns"})
    once = process(lambda: 1, id="once", limit=4)
    plan = str(Graph([mapped, process(lambda a: a, id="b", limit=Limit(3)), once]).plan(inputs={"ns": []}))
    assert ["limit 2" in plan, "limit Limit(3)" in plan, "limit 4" in plan] == [True, True, False]
    assert pmflow.run(Graph([process(lambda: 1, id="a", limit=1)]))["a"].state is ProcessState.COMPLETED
