"""What waits for a limit: it holds up nobody else, takes turns, and is told of what has really happened."""

import threading
from itertools import pairwise
from typing import Any

import anyio
import pytest

import pmflow
from pmflow import Graph, Limit, ProcessState, Rate, RetryStrategy, process
from pmflow.engine.scheduler import Scheduler

SOON = 20.0


def test_a_retry_that_waits_for_its_limit_has_not_begun() -> None:
    """If the run ends meanwhile, its process has had one attempt, and began when that did."""
    limit, gate = Limit(1), threading.Event()
    delayed = RetryStrategy(max_retries=1, delay_seconds=0.01)
    flaky = process(lambda: 1 / 0, id="flaky", limit=limit, retries=delayed)
    holds = process(lambda: gate.wait(SOON), id="holds", limit=limit)
    run = pmflow.run([flaky, holds], timeout=0.3, on_error="return")
    gate.set()
    result = run["flaky"]
    assert (result.state, result.attempts) == (ProcessState.CANCELLED, 1)
    assert result.execution_time <= run.execution_time


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_run_that_has_no_room_leaves_the_line(library: str) -> None:
    """One whose executor takes nothing more could not use the place: another run gets it."""

    async def main() -> Any:
        limit, held, full, release = Limit(1), anyio.Event(), anyio.Event(), anyio.Event()
        begun: list[int] = []

        async def fill(n: int) -> None:
            begun.append(n)
            if len(begun) == 1_000:
                full.set()
            await release.wait()

        async def late(m: int) -> int:
            return m

        async def hold(k: int) -> int:
            held.set()
            await full.wait()
            return k

        filling = [process(fill, map_over={"n": "ns"}), process(late, map_over={"m": "ms"}, limit=limit)]

        async def other() -> None:
            await held.wait()
            run = await pmflow.arun(filling, inputs={"ns": range(1_100), "ms": [7]})
            assert run["late"].data == [7]

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(other)
                run = await pmflow.arun(process(hold, map_over={"k": "ks"}, limit=limit), inputs={"ks": range(5)})
                release.set()
        return run.value

    assert anyio.run(main, backend=library) == list(range(5))


def test_a_rate_is_asked_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much else happens meanwhile: a timer is set for a moment, and not for each thing that happens."""
    timers: list[float] = []
    original = Scheduler._set_timer

    def counted(self: Scheduler, delay: float, function: Any, argument: Any) -> None:
        timers.append(delay)
        original(self, delay, function, argument)

    monkeypatch.setattr(Scheduler, "_set_timer", counted)
    rated = process(lambda n: n, id="rated", map_over={"n": "ns"}, limit=Rate(1, per=0.2))
    chatty = process(lambda m: m, id="chatty", map_over={"m": "ms"}, limit=1)  # each has a turn to itself
    run = pmflow.run([rated, chatty], inputs={"ns": range(2), "ms": range(300)})
    assert (run["rated"].data, len(run["chatty"].data)) == ([0, 1], 300)
    assert len(timers) < 20


def test_what_is_called_once_waits_for_no_limit_of_its_own() -> None:
    """So that very many of them cost nothing, and form chains as they do without one."""
    first = process(lambda n=0: n + 1, id="p0", type="async", limit=1)
    chain = [first, *(first.options(id=f"p{n}", dependencies={"n": f"p{n - 1}"}) for n in range(1, 100))]
    plan = Graph(chain).plan()
    assert (plan.gates, {node.unit for node in plan.nodes.values()}) == ({}, {"p0"})
    assert pmflow.run(Graph(chain), targets="p99").value == 100
    mapped = process(lambda n: n, id="it", map_over={"n": "ns"}, limit=1)
    assert list(Graph([mapped]).plan(inputs={"ns": []}).gates) == ["it"]


def test_processes_that_share_a_limit_take_turns() -> None:
    """Also if they are of different strategies."""
    limit, order = Limit(1), []

    async def later(n: int) -> None:
        order.append(f"b{n}")

    threads = process(lambda n: order.append(f"a{n}"), id="a", map_over={"n": "ns"}, limit=limit)
    pmflow.run([threads, process(later, id="b", map_over={"n": "ns"}, limit=limit)], inputs={"ns": range(20)})
    names = "".join(each[0] for each in order)
    assert len(order) == 40
    assert "aaa" not in names
    assert "bbb" not in names


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_rate_is_of_beginnings(kind: Any) -> None:
    """What has waited for a thread or a worker, while all were busy, does not begin all at once afterwards."""
    busy = process(lambda: threading.Event().wait(0.5), id="busy", type=kind)
    rated = process(lambda n: n, id="rated", type=kind, map_over={"n": "ns"}, limit=Rate(1, per=0.1))
    run = pmflow.run([busy, rated], inputs={"ns": range(4)}, max_threads=1, max_processes=1)
    starts = sorted(run[f"rated_{n}"].start_time for n in range(4))
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(starts)]
    assert min(gaps) >= 0.09
