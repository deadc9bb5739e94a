"""Wrong: each line marked `error` is refused, by both checkers or by the one it names; no other line is."""

from pmflow import Graph, process


@process
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


GRAPH = Graph([words])


def looks() -> None:
    """What a plan and an explanation do not take."""
    GRAPH.plan("words")  # error
    GRAPH.plan(keep="some")  # error
    GRAPH.plan(inputs=["text"])  # error
    GRAPH.plan(target="words")  # error
    GRAPH.explain()  # error
    GRAPH.explain(1)  # error
    GRAPH.explain("words", inputs=1)  # error
