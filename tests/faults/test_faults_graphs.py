"""S15: random graphs end in the states that a plain evaluator works out, whatever the schedule."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import anyio.lowlevel
from harness import case
from hypothesis import HealthCheck, given, settings, strategies as st

import pmflow
from pmflow import Graph, ProcessResult, ProcessState, RetryStrategy, process

DONE, FAILED, SKIPPED, CANCELLED = (
    ProcessState.COMPLETED,
    ProcessState.FAILED,
    ProcessState.SKIPPED,
    ProcessState.CANCELLED,
)
KINDS = ("value", "default", "result", "after")


class Plan(NamedTuple):
    """One process of a random graph."""

    name: str
    needs: dict[str, str]
    failures: int
    retries: int
    required: bool
    strategy: str
    passes: int


@st.composite
def graphs(draw: st.DrawFn) -> list[Plan]:
    plans = []
    for number in range(draw(st.integers(1, 12))):
        earlier = draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        plans.append(
            Plan(
                name=f"p{number}x",
                needs={f"p{each}x": draw(st.sampled_from(KINDS)) for each in sorted(earlier)},
                failures=draw(st.sampled_from((0, 0, 1, 3))),
                retries=draw(st.integers(0, 3)),
                required=draw(st.booleans()),
                strategy=draw(st.sampled_from(("coroutine", "inline", "thread"))),
                passes=draw(st.integers(0, 3)),
            )
        )
    return draw(st.permutations(plans))


# The reference


def expected(plans: list[Plan]) -> tuple[dict[str, ProcessState], set[str]]:
    """The final state of every process if nothing stops the run, and those whose failure fails it."""
    waiting = {plan.name: plan for plan in plans}
    states: dict[str, ProcessState] = {}
    means: dict[str, str] = {}
    while waiting:
        ready = [plan for plan in waiting.values() if not waiting.keys() & plan.needs.keys()]
        for plan in ready:
            del waiting[plan.name]
            needs = [(means[name], kind) for name, kind in plan.needs.items() if kind != "result"]
            if any(end == "failure" for end, _ in needs):
                states[plan.name], means[plan.name] = SKIPPED, "failure"
            elif any(end == "nothing" and kind == "value" for end, kind in needs):
                states[plan.name], means[plan.name] = SKIPPED, "nothing"
            elif plan.failures > plan.retries:
                states[plan.name], means[plan.name] = FAILED, "failure" if counts(plan, plans) else "nothing"
            else:
                states[plan.name], means[plan.name] = DONE, "value"
    return states, {name for name, state in states.items() if state is FAILED and means[name] == "failure"}


def counts(plan: Plan, plans: list[Plan]) -> bool:
    """Whether its failure is one of the run: it is required, and not every dependant takes it as a result."""
    taken = [other.needs[plan.name] for other in plans if plan.name in other.needs]
    return plan.required and (not taken or any(kind != "result" for kind in taken))


# The real thing


class Realization:
    """The processes of a random graph, and what they did."""

    def __init__(self, plans: list[Plan]) -> None:
        self.plans = {plan.name: plan for plan in plans}
        self.attempts: Counter[str] = Counter()
        self.processes = [self.process(plan) for plan in plans]

    def attempt(self, name: str) -> str:
        self.attempts[name] += 1
        if self.attempts[name] <= self.plans[name].failures:
            raise OSError(name)
        return name

    def process(self, plan: Plan) -> Any:
        words = {"value": "", "default": "=None", "result": ": ProcessResult"}
        parameters = [name + words[kind] for name, kind in plan.needs.items() if kind != "after"]
        parameters.sort(key=lambda parameter: "=" in parameter)
        body = f"def {plan.name}({', '.join(parameters)}):\n    return attempt('{plan.name}')\n"
        if plan.strategy == "coroutine":
            body = "async " + body.replace("\n", f"\n    for _ in range({plan.passes}): await checkpoint()\n", 1)
        names: dict[str, Any] = {"attempt": self.attempt, "ProcessResult": ProcessResult}
        exec(body, names | {"checkpoint": anyio.lowlevel.checkpoint}, names)  # noqa: S102 - the text is ours
        return process(
            names[plan.name],
            type="thread" if plan.strategy == "thread" else "async",
            after=[name for name, kind in plan.needs.items() if kind == "after"],
            required=plan.required,
            retries=RetryStrategy(max_retries=plan.retries, delay_seconds=0),
        )


@case(limit=120)
def test_s15_random_graphs_end_as_a_plain_evaluator_says() -> None:
    """Every process ends in the state that the truth table gives it, after so many attempts as it needed."""

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(graphs(), st.integers(1, 3))
    def check(plans: list[Plan], threads: int) -> None:
        real = Realization(plans)
        states, failures = expected(plans)
        run = pmflow.run(Graph(real.processes), on_error="return", max_threads=threads)
        assert {name: result.state for name, result in run.items()} == states
        assert set(run.failures) >= failures
        assert run.success is (not failures)
        for plan in plans:
            made = min(plan.failures, plan.retries) + 1 if states[plan.name] in (DONE, FAILED) else 0
            assert real.attempts[plan.name] == made, plan
            if made:
                assert run[plan.name].attempts == made
        ends = list(run)
        ran = [plan for plan in plans if real.attempts[plan.name]]  # the others may end as soon as one failure is known
        assert all(ends.index(need) < ends.index(plan.name) for plan in ran for need in plan.needs)

    check()


@case(limit=120)
def test_s15_random_graphs_that_stop_at_the_first_failure() -> None:
    """A stop changes ends only to CANCELLED, or to SKIPPED below a failure; without a failure it changes nothing."""

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(graphs(), st.integers(1, 3))
    def check(plans: list[Plan], threads: int) -> None:
        real = Realization(plans)
        states, failures = expected(plans)
        run = pmflow.run(Graph(real.processes), on_error="return", fail_fast=True, max_threads=threads)
        found = {name: result.state for name, result in run.items()}
        if not failures:
            assert found == states
            return
        failed = {plan.name for plan in plans if found[plan.name] is FAILED and counts(plan, plans)}
        assert failed
        assert not run.success
        for plan in plans:
            state, below = found[plan.name], below_a_failure(plan, real.plans, failed)
            cut_short = FAILED if 0 < real.attempts[plan.name] <= plan.failures else CANCELLED  # with retries left
            assert state in {states[plan.name], cut_short, CANCELLED, SKIPPED if below else CANCELLED}, plan
            assert not (state is CANCELLED and below and not real.attempts[plan.name]), plan

    check()


def below_a_failure(plan: Plan, plans: dict[str, Plan], failed: set[str]) -> bool:
    """Whether a failure among what it needs, directly or not, keeps it from running."""
    waiting, met = [plan.name], set()
    while waiting:
        for need, kind in plans[waiting.pop()].needs.items():
            if kind != "result" and need not in met:
                met.add(need)
                waiting.append(need)
    return bool(met & failed)
