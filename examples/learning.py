"""Machine learning: digits are told apart by a model whose parameters are chosen by cross-validation.

    python examples/learning.py [--folds 5] [--strengths 0.1 1 10 100] [--widths 0.0003 0.001 0.003]

The images are those that scikit-learn ships: nothing is downloaded. What is held out at the start is seen once, by the
model that was chosen. Needs scikit-learn (the extra ``examples``).

What it shows:

- ``outputs=("train", "test")``: a function that returns two things, each of which is an input of its own to others;
- ``map_over=cross(fold="folds", ...)``: every fold with every parameter, a fit each, in worker processes; the folds
  are a list that only the run knows, the parameters are inputs of the run, and the training data goes to all of them;
- a reduce of the map, the ranking; its best goes to a worker once more, to be fitted on all training data;
- arrays, named tuples and models as values: what a worker can unpickle can be a parameter.

From a program of your own, the module is the graph:

    pmflow.run(learning, inputs={"strengths": [1, 10], "widths": [0.001]})
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.svm import SVC

import pmflow
from pmflow import cross, process


class Samples(NamedTuple):
    """Images as rows of numbers, and the digits that they show."""

    images: Any
    digits: Any


class Score(NamedTuple):
    """How much of a fold was right, and with which parameters."""

    strength: float
    width: float
    right: float


class Ranked(NamedTuple):
    """A pair of parameters, and how much of the folds was right in the mean."""

    strength: float
    width: float
    right: float
    spread: float


@process(outputs=("train", "test"))
def split(held_out: float = 0.2) -> tuple[Samples, Samples]:
    """Load the images, and hold some of each digit out."""
    images, digits = load_digits(return_X_y=True)
    parts = train_test_split(images, digits, test_size=held_out, stratify=digits, random_state=0)
    return Samples(parts[0], parts[2]), Samples(parts[1], parts[3])


@process
def folds(train: Samples, number: int = 5) -> list[tuple[Any, Any]]:
    """Divide the training data: of each fold the rows to fit, and the rows to score."""
    return list(StratifiedKFold(number).split(*train))


@process(type="process", map_over=cross(fold="folds", strength="strengths", width="widths"), timeout=60)
def score(fold: tuple[Any, Any], strength: float, width: float, train: Samples) -> Score:
    """Fit one fold with one pair of parameters, and score it: in a worker process."""
    fit, rest = fold
    model = SVC().set_params(C=strength, gamma=width).fit(train.images[fit], train.digits[fit])
    return Score(strength, width, float(model.score(train.images[rest], train.digits[rest])))


@process
def ranking(score: list[Score]) -> list[Ranked]:
    """Order the parameters by how much was right in the mean of the folds, the best first."""
    found = defaultdict[tuple[float, float], list[float]](list)
    for each in score:
        found[each.strength, each.width].append(each.right)
    ranked = [Ranked(*parameters, mean(rights), stdev(rights)) for parameters, rights in found.items()]
    return sorted(ranked, key=lambda each: -each.right)


@process(type="process", timeout=60)
def model(ranking: list[Ranked], train: Samples) -> SVC:
    """Fit the best parameters again, on all training data."""
    return SVC().set_params(C=ranking[0].strength, gamma=ranking[0].width).fit(*train)


@process
def answers(model: SVC, test: Samples) -> list[int]:
    """Let the model see what was held out."""
    return [int(digit) for digit in model.predict(test.images)]


@process
def report(ranking: list[Ranked], train: Samples, test: Samples, answers: list[int]) -> str:
    """Say what was chosen, and what it is worth."""
    lines = [f"{len(train.digits)} images to learn from, {len(test.digits)} held out", "", "strength   width  right"]
    lines += [f"{each.strength:8g} {each.width:7g}  {each.right:.1%} +- {each.spread:.1%}" for each in ranking]
    right = int(np.count_nonzero(test.digits == answers))
    lines += ["", f"Chosen: strength {ranking[0].strength:g}, width {ranking[0].width:g}"]
    lines += [f"Of what was held out {right} of {len(answers)} are right: {right / len(answers):.1%}"]
    wrong = Counter((int(digit), answer) for digit, answer in zip(test.digits, answers, strict=True) if digit != answer)
    lines += [f"  {digit} taken for {answer}: {number}" for (digit, answer), number in sorted(wrong.items())]
    return "\n".join(lines)


def main() -> None:
    """Learn, and print what it is worth."""
    parser = argparse.ArgumentParser(description="Tell digits apart.")
    parser.add_argument("--folds", type=int, default=5, dest="number", help="of the cross-validation")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the images that is held out")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 1, 10, 100], help="C of the SVC")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.0003, 0.001, 0.003], help="gamma of the SVC")
    print(pmflow.run(report, inputs=vars(parser.parse_args())).value)


if __name__ == "__main__":
    main()
