"""Right: what a graph says before it runs is typed."""

from typing_extensions import assert_type

from pmflow import Explanation, Graph, ParameterOrigin, Plan, ProcessId, process


@process
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


GRAPH = Graph([words])


def test_a_plan() -> None:
    """It takes what `run` takes of what is planned."""
    plan = GRAPH.plan(targets=words, inputs={"text": "a"}, overrides=None, keep="targets", type="async")
    assert_type(plan, Plan)
    assert_type(GRAPH.plan(targets=["words", words, ProcessId("words")], overrides={words: ["a"]}), Plan)
    assert_type(str(plan), str)


def test_an_explanation() -> None:
    """It has an origin per parameter."""
    explanation = GRAPH.explain(words, inputs={"text": "a"}, overrides={})
    assert_type(explanation, Explanation)
    assert_type(explanation.parameters, tuple[ParameterOrigin, ...])
    assert_type(explanation.parameters[0].place, str | None)
    assert explanation.parameters[0].kind == "input"


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
