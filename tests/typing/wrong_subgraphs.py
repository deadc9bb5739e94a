"""Wrong: each line marked `error` is refused, by both checkers or by the one it names; no other line is."""

from pmflow import Graph, process


@process
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


GRAPH = Graph([words])


def sub_graphs() -> None:
    """What a graph of graphs does not take."""
    GRAPH.as_process()  # error
    GRAPH.as_process("sub")  # error
    GRAPH.as_process(id=1)  # error
    GRAPH.as_process(id="sub", dependencies=["text"])  # error
    GRAPH.as_process(id="sub", inputs=["text"])  # error
    GRAPH.as_process(id="sub", target="words")  # error
    GRAPH.as_process(id="sub", timeout=1)  # error
    GRAPH.as_process(id="sub", map_over=1)  # error


def changed() -> None:
    """What a copy does not take."""
    sub = GRAPH.as_process(id="sub")
    sub.options("other")  # error
    sub.options(id=1)  # error
    sub.options(retries=1)  # error


def graphs() -> None:
    """What is combined with a graph is a graph, and what has processes is a module."""
    GRAPH | words  # error
    Graph.from_module("module")  # error
