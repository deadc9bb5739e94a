"""Wrong: each line marked `error` is refused, by both checkers or by the one it names; no other line is."""

import pmflow
from pmflow import process


@process
def words(text: str) -> list[str]:
    """A plain function."""
    return text.split()


def streams() -> None:
    """What a stream does not take."""
    pmflow.stream()  # error
    pmflow.stream("words")  # error
    pmflow.stream(words, timeot=1)  # error
    pmflow.stream(words, on_error="ignore")  # error
    for result in pmflow.stream(words, inputs={"text": "a"}):
        _ = result.dat  # error
