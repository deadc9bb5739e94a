"""Maps that go along with one that has ended as a whole: the worst of all that they need decides, in any order."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

from typing import Any

import anyio
import pytest

import pmflow
from pmflow import ProcessResult, ProcessState, process

DONE, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED
GENEROUS = 20.0


def fail() -> Any:
    """Fail."""
    raise ValueError("no such page")


@pytest.mark.parametrize("first", ["no value", "failure"])
@pytest.mark.parametrize("along", [False, True])
@pytest.mark.anyio
async def test_the_worst_decides_whichever_ends_first(first: str, *, along: bool) -> None:
    """Something it goes along with has no value, something else that it needs fails: it is skipped for the failure."""
    ended = {"no value": anyio.Event(), "failure": anyio.Event()}

    async def end(name: str) -> None:
        if name != first:
            await ended[first].wait()
            await anyio.wait_all_tasks_blocked()
        ended[name].set()
        raise ValueError(name)

    none = process(lambda: end("no value"), id="none", type="async", required=False)
    fails = process(lambda: end("failure"), id="fails", type="async")
    x = process(lambda n: n, id="x", map_over={"n": "none"})
    w = process(lambda n: n, id="w", map_over={"n": "fails"})
    y = process(
        lambda x, n, w=0: x,
        id="y",
        map_over={"x": "x", "n": "ns", **({"w": "w"} if along else {})},
        dependencies={} if along else {"w": "fails"},
    )
    z = process(lambda y, n: y, id="z", map_over={"y": "y", "n": "ns"})
    last = process(lambda: "ran", id="last", after="z")
    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun([none, fails, x, w, y, z, last], inputs={"ns": [1, 2]}, on_error="return")
    assert {name: run[name].state for name in ("x", "y", "z", "last")} == dict.fromkeys(
        ("x", "y", "z", "last"), SKIPPED
    )
    assert "'fails' failed" in (run["last"].reason or "")


def test_without_a_value_all_that_goes_along_has_none() -> None:
    """Nothing fails for it: lengths are not compared, a default is kept, and `after` runs."""
    none = process(fail, id="none", required=False)
    x = process(lambda n: n, id="x", map_over={"n": "none"})
    y = process(lambda x, n: x, id="y", map_over={"x": "x", "n": "ns"})
    z = process(lambda y, n: y, id="z", map_over={"y": "y", "n": "ns"})
    kept = process(lambda z="default": z, id="kept")
    last = process(lambda: "ran", id="last", after="z")

    @process
    def results(y: list[ProcessResult[Any]], z: list[ProcessResult[Any]]) -> list[ProcessState]:
        return [each.state for each in (*y, *z)]

    run = pmflow.run([none, x, y, z, kept, last, results], inputs={"ns": [1, 2]})
    assert {name: run[name].state for name in "xyz"} == dict.fromkeys("xyz", SKIPPED)
    assert (run.success, run["kept"].data, run["last"].data) == (True, "default", "ran")
    assert run["results"].data == [SKIPPED, SKIPPED]
    assert "'none' failed" in (run["z"].reason or "")
