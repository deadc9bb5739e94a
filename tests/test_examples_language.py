"""The examples of what a graph says: each started as a reader would, and taken as a module, for its whole result."""

import gzip
import hashlib
import importlib
import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from test_examples import EXAMPLES, printed

import pmflow
from pmflow import process


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example that the test names, as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(request.param)


# The scraper

SCRAPED = """\
7 of 10 books

   price  copies  title
    7.00       0  Walden
    8.50       2  Emma
    6.20       4  Dracula
   14.00       1  Ulysses
    5.40       ?  Candide
    9.90       1  Faust
    6.75       3  Persuasion

Missing: 4
/book/4, page_4, 1 x: OSError('404 Not Found')
/book/5, stock_5, 2 x: BusyError('500 Internal Server Error')
/book/6, page_6, 3 x: ProcessTimeoutError("'page_6' took longer than its timeout of 1.5 s; its thread cannot be \
stopped: it may still be running, and its result is dropped")
/book/7, book_7, 1 x: ValueError('the page has no price')
"""


def test_scraper(tmp_path: Path) -> None:
    """What can be had is had, after retries too; the report says what is missing, why, and after how many attempts."""
    assert printed("scraper.py", "--per-second", 100, cwd=tmp_path) == SCRAPED


@pytest.mark.parametrize("example", ["scraper"], indirect=True)
def test_scraper_without_its_shop(example: ModuleType) -> None:
    """With other processes in place of those that fetch, the graph of the module reads what is at hand."""
    pages = {
        "/1": "<h1 class='title'>One</h1><b class='price'>1.5</b><a href='/stock/9'>In stock?</a>",
        "/2": "<h1 class='title'>Two</h1>",
    }
    at_hand = process(lambda link: pages[link], id="at_hand", map_over={"link": "links"})
    counted = process(lambda book: len(book["title"]), id="counted", map_over="book")
    run = pmflow.run(
        example,
        overrides={"links": list(pages), "page": at_hand, "stock": counted},
        limits={"shop": 1},
    )
    assert run.value == (
        "1 of 2 books\n\n   price  copies  title\n    1.50       3  One\n\n"
        "Missing: 1\n/2, book_1, 1 x: ValueError('the page has no price')"
    )
    assert run["book_0"].data == {"title": "One", "price": 1.5, "stock": "/stock/9"}


# The sweep

SWEPT = """\
The mean wait in minutes, by the number of counters:

rate  variation        1        2
 0.5        0.0     0.43     0.04
 0.5        1.0     1.17     0.08
 0.5    formula     1.00     0.07
 1.5        0.0   350.82     0.81
 1.5        1.0   305.61     1.33
 1.5    formula      inf     1.29

Counters at which at most 1 in 20 waits too long:
  0.5 customers a minute, variation 0.0: 2
  0.5 customers a minute, variation 1.0: 2
  1.5 customers a minute, variation 0.0: more than were tried
  1.5 customers a minute, variation 1.0: more than were tried

Drawing: waits.svg
"""


def test_sweep(tmp_path: Path) -> None:
    """Every combination is simulated, tabled, answered for and drawn; the numbers do not depend on who was first."""
    importlib.import_module("matplotlib.font_manager")  # makes its cache, of which it would speak on stderr
    axes = ("--rates", 0.5, 1.5, "--counters", 1, 2, "--variations", 0, 1)
    assert printed("sweep.py", *axes, "--customers", 2000, "--plot", "waits.svg", cwd=tmp_path) == SWEPT
    drawn = (tmp_path / "waits.svg").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- (variation .*|\d open) -->", drawn)) == {
        "variation 0.0",
        "variation 1.0",
        "1 open",
        "2 open",
    }


@pytest.mark.parametrize("example", ["sweep"], indirect=True)
def test_sweep_is_what_the_formula_says(example: ModuleType) -> None:
    """Where service is exponential, the simulated wait is near Erlang's; without a file nothing is drawn."""
    assert [example.erlang(0.5, 1), round(example.erlang(1.5, 2), 6)] == [1.0, 1.285714]  # M/M/1, M/M/2: textbooks
    axes = {"rates": [0.5, 2.5], "counters": [1, 3], "variations": [1.0]}
    run = pmflow.run(example, inputs={**axes, "customers": 60_000})
    cells = [(each["rate"], each["count"], each["wait"]) for each in run["cell"].data]
    assert [cell[:2] for cell in cells] == [(0.5, 1), (0.5, 3), (2.5, 1), (2.5, 3)]
    assert [cells[0][2], cells[3][2]] == pytest.approx([1.0, example.erlang(2.5, 3)], rel=0.1)
    assert (list(run.data), run["drawing"].reason) == (["table", "answer"], "its condition (wanted) says no")


# The documents


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are archived, checksummed and counted, whatever their names are; one that is not there stops nobody."""
    monkeypatch.setenv("LC_ALL", "C")
    texts = {
        "it's a; $(text).txt": "One two, two: THREE three three.\nA line with the Word.\n",
        "again/empty.txt": "",
        "empty.txt": "... 1 2 3 ...\n",
        "-n": "word word\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    names = [*texts, "missing.txt"]
    lines = printed("documents.py", "--into", "out", "--word", "word", "--", *names, cwd=tmp_path).splitlines()

    archives = [tmp_path / "out" / f"{index}-{Path(name).name}.gz" for index, name in enumerate(texts)]
    sizes = [(file.stat().st_size, len(text)) for file, text in zip(archives, texts.values(), strict=True)]
    packed = [f"{archive / max(size, 1):.0%}" for archive, size in sizes]
    assert lines[:8] == [
        "   bytes  archive   words  distinct  lines with the word  document",
        f"      55 {packed[0]:>8}      11         8                    1  it's a; $(text).txt",
        f"       0 {packed[1]:>8}       0         0                    0  empty.txt",
        f"      14 {packed[2]:>8}       0         0                    0  empty.txt",
        f"      10 {packed[3]:>8}       2         1                    1  -n",
        "  failed                                                 missing.txt",
        "",
        "Archives that are as they were written: 4",
    ]
    assert [re.sub(r": \w+: .*missing.txt.*: ", ": ", line) for line in lines[8:]] == [
        "",
        "Failed:",
        "  copy_4: cp ended with exit code 1: No such file or directory",
        "  mentions_4: grep ended with exit code 2: No such file or directory",
        "  plain_4: cat ended with exit code 1: No such file or directory",
    ]
    assert [gzip.decompress(file.read_bytes()).decode() for file in archives] == list(texts.values())
    sums = (tmp_path / "out" / "SHA256SUMS").read_text(encoding="utf-8")
    assert sums == "".join(f"{digest(file)}  {file.name}\n" for file in archives)


@pytest.mark.parametrize("example", ["documents"], indirect=True)
def test_documents_of_this_checkout(example: ModuleType, tmp_path: Path) -> None:
    """What it takes without documents is there, but for the one that shows what a failure is."""
    sources = [example.ROOT / text for text in example.TEXTS]
    run = pmflow.run(example, inputs={"sources": sources, "folder": tmp_path, "word": "process"})
    assert sorted(run.failures) == ["copy_3", "mentions_3", "plain_3"]
    assert run.value.endswith("\n\nArchives that are as they were written: 5")


@pytest.mark.parametrize("example", ["documents"], indirect=True)
def test_documents_that_are_all_missing(example: ModuleType, tmp_path: Path) -> None:
    """Nothing to archive is a report too."""
    run = pmflow.run(example, inputs={"sources": [tmp_path / "a"], "folder": tmp_path, "word": "x"})
    assert run.value == (
        "   bytes  archive   words  distinct  lines with the word  document\n"
        "  failed                                                 a\n\nArchives that are as they were written: 0"
    )


# The learning


needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed: it is in the extra 'test'"
)


def grid_search(held_out: float, folds: int, grid: dict[str, list[float]]) -> str:
    """What the example has to print, found by scikit-learn alone."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    train, test, known, asked = train_test_split(images, digits, test_size=held_out, stratify=digits, random_state=0)
    search = GridSearchCV(SVC(), grid, cv=folds).fit(train, known)
    found = search.cv_results_
    spread = found["std_test_score"] * (folds / (folds - 1)) ** 0.5  # of a sample
    rows = sorted(zip(found["params"], found["mean_test_score"], spread, strict=True), key=lambda row: -row[1])
    answers = search.predict(test)
    wrong = sorted((int(digit), int(answer)) for digit, answer in zip(asked, answers, strict=True) if digit != answer)
    right, best = len(asked) - len(wrong), search.best_params_
    return "\n".join(
        [
            f"{len(known)} images to learn from, {len(asked)} held out\n\nstrength   width  right",
            *(f"{params['C']:8g} {params['gamma']:7g}  {mean:.1%} +- {std:.1%}" for params, mean, std in rows),
            f"\nChosen: strength {best['C']:g}, width {best['gamma']:g}",
            f"Of what was held out {right} of {len(asked)} are right: {right / len(asked):.1%}",
            *(f"  {digit} taken for {answer}: {number}" for (digit, answer), number in Counter(wrong).items()),
            "",
        ]
    )


@needs_sklearn
def test_learning(tmp_path: Path) -> None:
    """Folds times parameters in workers find what scikit-learn's own grid search finds: scores, choice and answers."""
    grid = {"C": [0.1, 1.0, 10.0], "gamma": [0.001, 0.003]}
    arguments = ("--held-out", 0.6, "--folds", 3, "--strengths", *grid["C"], "--widths", *grid["gamma"])
    assert printed("learning.py", *arguments, cwd=tmp_path) == grid_search(0.6, 3, grid)


@needs_sklearn
@pytest.mark.parametrize("example", ["learning"], indirect=True)
def test_learning_as_a_module(example: ModuleType) -> None:
    """The module is the graph, in one's own thread too, and what its processes made is at hand."""
    inputs = {"strengths": [1.0], "widths": [0.001], "number": 2}
    run = pmflow.run(example, inputs=inputs, targets=["model", "ranking"], type="async")
    assert (run["model"].data.C, run["model"].data.gamma) == (1.0, 0.001)
    assert [each[:2] for each in run["ranking"].data] == [(1.0, 0.001)]
