"""S15: random graphs that use the whole language end as a plain evaluator says, whatever the schedule."""

from __future__ import annotations

from collections.abc import Sequence

from harness import case
from hypothesis import HealthCheck, Phase, given, settings
from random_graphs import Drawn, compare, graphs

WITHOUT_WORKERS = ("inline", "coroutine", "thread")
WITH_WORKERS = (*WITHOUT_WORKERS, "worker", "worker", "command")


def check(strategies: Sequence[str], examples: int, *, shrink: bool = False) -> None:
    """Compare as many graphs; one that ends otherwise is shown, with what gives the same one again.

    To make it smaller takes minutes, more than an everyday test has.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
    )
    @given(graphs(tuple(strategies)))
    def compared(drawn: Drawn) -> None:
        compare(drawn)

    compared()


@case(limit=120)
def test_s15_the_whole_language() -> None:
    """Outputs, conditions, fallbacks, candidates, results, maps, limits, cores, overrides and targets, together."""
    check(WITHOUT_WORKERS, 200)


@case(limit=120)
def test_s15_the_whole_language_in_workers_too() -> None:
    """The same with processes in workers, and with commands."""
    check(WITH_WORKERS, 30)


@case(limit=1800, slow=True)
def test_s15_many_graphs() -> None:
    """The same of thousands."""
    check(WITHOUT_WORKERS, 5_000, shrink=True)


@case(limit=1800, slow=True)
def test_s15_many_graphs_in_workers_too() -> None:
    """The same of hundreds."""
    check(WITH_WORKERS, 500, shrink=True)
