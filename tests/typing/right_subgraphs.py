"""Right: graphs of graphs are typed."""

import sys
from types import ModuleType
from typing import Any

from typing_extensions import assert_type

import pmflow
from pmflow import Graph, ProcessId, ProcessResult, SubgraphProcess, cross, process


@process
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


GRAPH = Graph([words])


def test_a_sub_graph() -> None:
    """It is a process; what it gives is known by those who made the graph."""
    sub = GRAPH.as_process(
        id="sub", dependencies={"text": ("page", words)}, targets=[words, "words"], after=ProcessId("x"), required=False
    )
    assert_type(sub, SubgraphProcess[Any])
    assert_type(GRAPH.as_process(id=ProcessId("sub"), inputs={"text": "a"}, targets=words), SubgraphProcess[Any])


def test_a_mapped_sub_graph() -> None:
    """It gives a list."""
    each = GRAPH.as_process(id="each", map_over={"text": "texts"})
    assert_type(each, SubgraphProcess[list[Any]])
    assert_type(GRAPH.as_process(id="each", map_over="text"), SubgraphProcess[list[Any]])
    assert_type(GRAPH.as_process(id="each", map_over=cross(text="texts")), SubgraphProcess[list[Any]])
    assert_type(GRAPH.as_process(id="sub").options(id="each", map_over="text"), SubgraphProcess[list[Any]])
    assert_type(each.options(id="again", required=False), SubgraphProcess[list[Any]])
    run = pmflow.run(each, inputs={"texts": ["a b"]})
    assert_type(run.value, list[Any])
    assert_type(run[each], ProcessResult[list[Any]])
    assert run.value == [["a", "b"]]


def test_graphs_of_graphs_and_of_modules() -> None:
    """They are graphs."""
    assert_type(GRAPH | Graph([words]), Graph)
    module: ModuleType = sys.modules[__name__]
    assert_type(Graph.from_module(module), Graph)


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
