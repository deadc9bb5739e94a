"""Generators: what a process yields is mapped over while it comes, and it waits while its consumers are behind."""

# pyright: reportUnknownLambdaType=false
# The parameters of a lambda have names, which is what they are here for, and no types.

import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import Self

import pmflow
from pmflow import Graph, Limit, ProcessState, Rate, RetryStrategy, Run, cross, process
from pmflow.errors import ProcessError, ProcessTimeoutError, ValueReleasedError, WorkerCrashedError, WorkflowError

GENEROUS = 20.0
DONE, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED
CANCELLED = ProcessState.CANCELLED


def up_to(count: int) -> Iterator[int]:
    """A generator function."""
    yield from range(count)


async def up_to_async(count: int) -> AsyncIterator[int]:
    """An asynchronous generator function."""
    for number in range(count):
        await anyio.lowlevel.checkpoint()
        yield number


async def up_to_later(count: int) -> Iterator[int]:
    """A coroutine function that returns an iterator."""
    await anyio.lowlevel.checkpoint()
    return iter(range(count))


def up_to_mapped(count: int) -> Iterator[int]:
    """A plain function that returns an iterator."""
    return map(int, range(count))


def up_to_awaited(count: int) -> AsyncIterator[int]:
    """A plain function that returns an asynchronous generator."""
    return up_to_async(count)


def half(count: int) -> Iterator[int]:
    """A generator that raises on its way."""
    yield from range(count)
    raise ValueError("no more")


async def half_async(count: int) -> AsyncIterator[int]:
    """The same, asynchronous."""
    for number in range(count):
        yield number
    raise ValueError("no more")


def double(number: int) -> int:
    """Return twice the number."""
    return number * 2


async def double_async(number: int) -> int:
    """The same, later."""
    await anyio.lowlevel.checkpoint()
    return number * 2


PRODUCERS: dict[str, tuple[Callable[..., Any], str]] = {
    "inline": (up_to, "async"),
    "async generator": (up_to_async, "async"),
    "coroutine": (up_to_later, "async"),
    "plain function": (up_to_awaited, "async"),
    "thread": (up_to, "thread"),
    "async generator in a thread": (up_to_async, "thread"),
    "coroutine in a thread": (up_to_later, "thread"),
    "iterator": (up_to_mapped, "thread"),
    "worker": (up_to, "process"),
    "async generator in a worker": (up_to_async, "process"),
    "coroutine in a worker": (up_to_later, "process"),
}
CONSUMERS: dict[str, tuple[Callable[..., Any], str]] = {
    "inline": (double, "async"),
    "task": (double_async, "async"),
    "thread": (double, "thread"),
    "worker": (double, "process"),
}
every_producer = pytest.mark.parametrize("producer", PRODUCERS)
every_consumer = pytest.mark.parametrize("consumer", CONSUMERS)
every_type = pytest.mark.parametrize("kind", ["async", "thread", "process"])


def numbers_of(producer: str, **settings: Any) -> Any:
    """Return a process that yields numbers."""
    function, kind = PRODUCERS[producer]
    return process(function, id="numbers", type=kind, **settings)


def doubled_of(consumer: str, **settings: Any) -> Any:
    """Return a map over them."""
    function, kind = CONSUMERS[consumer]
    return process(function, id="doubled", type=kind, map_over={"number": "numbers"}, **settings)


def total(doubled: list[int]) -> int:
    """Return the sum."""
    return sum(doubled)


def ran(processes: list[Any], **arguments: Any) -> Run[Any]:
    """Run a graph of these; its targets are those that nothing depends on."""
    return pmflow.run(Graph(processes), **arguments)


def elements(run: Run[Any], name: str) -> list[ProcessState]:
    """Return the states of the elements of a mapped process."""
    states: list[ProcessState] = []
    while f"{name}_{len(states)}" in run:
        states.append(run[f"{name}_{len(states)}"].state)
    return states


async def there(path: Path) -> None:
    """Wait for a file: the event that every strategy can give."""
    with anyio.fail_after(GENEROUS):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await anyio.sleep(0.002)


def wait_for(path: Path) -> None:
    """The same, in a thread or a worker."""
    deadline = time.monotonic() + GENEROUS
    while not path.exists():
        assert time.monotonic() < deadline, f"nobody has made {path.name}"
        time.sleep(0.002)


# What comes out


@every_producer
@every_consumer
def test_a_map_over_what_is_yielded(producer: str, consumer: str) -> None:
    """Whoever yields and whoever takes: each element is mapped, in order; the producer's data is a list."""
    run = ran(
        [process(total), doubled_of(consumer), numbers_of(producer)], inputs={"count": 25}, targets=["total", "numbers"]
    )
    assert run.data == {"total": 600, "numbers": list(range(25))}
    assert elements(run, "doubled") == [DONE] * 25
    assert list(run) == ["numbers", "doubled", "total"]


@pytest.mark.anyio
@pytest.mark.parametrize("producer", ["inline", "async generator", "coroutine", "thread", "worker"])
async def test_in_a_running_loop(producer: str) -> None:
    """The same on asyncio and on trio."""
    with anyio.fail_after(GENEROUS):
        run = await pmflow.arun(Graph([doubled_of("task"), numbers_of(producer)]), inputs={"count": 10})
    assert run.data == {"doubled": list(range(0, 20, 2))}


@every_producer
def test_nothing_is_yielded(producer: str) -> None:
    """An iterator without elements maps to an empty list."""
    run = ran([process(total), doubled_of("thread"), numbers_of(producer)], inputs={"count": 0})
    assert run.value == 0
    assert (run["numbers"].data, run["doubled"].data) == ([], [])


@pytest.mark.parametrize("producer", ["inline", "thread", "worker"])
@every_type
def test_a_list_for_others(producer: str, kind: str) -> None:
    """A plain parameter beside the map receives the list of all that was yielded, and so do the results."""
    plain = process(sum, id="plain", type=kind, dependencies={"iterable": "numbers"})
    given = [plain, doubled_of("thread"), numbers_of(producer)]
    assert ran(given, inputs={"count": 30}).data == {"plain": 435, "doubled": list(range(0, 60, 2))}
    kept = ran(given, inputs={"count": 30}, targets=["plain", "doubled"])
    assert kept["plain"].data == 435


@pytest.mark.parametrize("producer", ["inline", "thread", "worker"])
@pytest.mark.parametrize("consumer", ["inline", "worker"])
def test_large_elements(producer: str, consumer: str, tmp_path: Path) -> None:
    """Elements of any size and type travel as results do."""

    def texts() -> Iterator[Any]:
        yield "x" * 3_000_000
        yield {"a": b"y" * 200_000}
        yield None

    _, kind = PRODUCERS[producer]
    texts_ = process(texts, type=kind)
    same = process(lambda each: each, id="same", type=CONSUMERS[consumer][1], map_over={"each": "texts"})
    expected = ["x" * 3_000_000, {"a": b"y" * 200_000}, None]
    run = ran([same, texts_])
    assert (run.value, run["texts"].data) == (expected, expected)


# While it comes


def noting(consumer: str, mapped: threading.Event) -> Any:
    """A map over `numbers` that says when it has had an element."""

    def note(number: int) -> int:
        mapped.set()
        return number

    async def note_async(number: int) -> int:
        return note(number)

    function = note_async if consumer == "task" else note
    return process(function, id="seen", type=CONSUMERS[consumer][1], map_over={"number": "numbers"})


@pytest.mark.parametrize("consumer", ["inline", "task", "thread"])
def test_consumers_run_while_a_thread_yields(consumer: str) -> None:
    """The second element is yielded once the first has been mapped: with a list in between it could not end."""
    mapped = threading.Event()

    @process(type="thread")
    def numbers() -> Iterator[int]:
        yield 0
        assert mapped.wait(GENEROUS)
        yield 1

    assert ran([noting(consumer, mapped), numbers]).value == [0, 1]


@pytest.mark.anyio
@pytest.mark.parametrize("consumer", ["inline", "task", "thread"])
async def test_consumers_run_while_an_async_generator_yields(consumer: str) -> None:
    """The same on the loop, asyncio's and trio's."""
    mapped = threading.Event()

    @process
    async def numbers() -> AsyncIterator[int]:
        yield 0
        with anyio.fail_after(GENEROUS):
            while not mapped.is_set():  # noqa: ASYNC110 - set by a thread too
                await anyio.sleep(0.001)
        yield 1

    assert (await pmflow.arun(Graph([noting(consumer, mapped), numbers]))).value == [0, 1]


def yield_when(folder: Path) -> Iterator[int]:
    """Yield the second element once somebody has had the first."""
    yield 0
    wait_for(folder / "0")
    yield 1


def touch(folder: Path, number: int) -> int:
    """Leave a trace."""
    (folder / str(number)).touch()
    return number


@pytest.mark.parametrize(("consumer", "workers"), [("inline", 1), ("thread", 1), ("worker", 2)])
def test_consumers_run_while_a_worker_yields(consumer: str, workers: int, tmp_path: Path) -> None:
    """The same from a worker; what takes its elements needs another one."""
    numbers = process(yield_when, id="numbers", type="process")
    seen = process(touch, id="seen", type=CONSUMERS[consumer][1], map_over={"number": "numbers"})
    run = ran([seen, numbers], inputs={"folder": tmp_path}, max_processes=workers)
    assert run.value == [0, 1]


def test_a_plain_generator_on_the_loop_takes_turns() -> None:
    """A generator on the loop is at most its buffer ahead: its consumers have their turn in between."""
    order: list[str] = []

    @process(type="async")
    def numbers() -> Iterator[int]:
        for number in range(6):
            order.append(f"yield {number}")
            yield number

    @process(type="async", map_over={"number": "numbers"})
    def seen(number: int) -> None:
        order.append(f"take {number}")

    ran([seen, numbers])
    assert order.index("take 0") < order.index("yield 3")
    assert sorted(order) == [*(f"take {n}" for n in range(6)), *(f"yield {n}" for n in range(6))]


# The buffer


class Piece:
    """An object that counts how many of its kind are alive."""

    alive: ClassVar[int] = 0
    most: ClassVar[int] = 0
    made: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __new__(cls, *_number: int) -> Self:
        """Count, also when it is unpickled."""
        with cls.lock:
            Piece.made += 1
            Piece.alive += 1
            Piece.most = max(Piece.most, Piece.alive)
        return super().__new__(cls)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        with self.lock:
            Piece.alive -= 1


@pytest.fixture
def pieces() -> Iterator[type[Piece]]:
    """Count pieces from 0."""
    gc.collect()
    Piece.alive = Piece.most = Piece.made = 0
    yield Piece
    gc.collect()


def pieces_yielded(count: int) -> Iterator[Piece]:
    """Yield pieces, and hold none."""
    for number in range(count):
        yield Piece(number)


async def pieces_yielded_async(count: int) -> AsyncIterator[Piece]:
    """The same, asynchronous."""
    for number in range(count):
        yield Piece(number)


def as_it_is(piece: Piece) -> Piece:
    """Return what was given."""
    return piece


async def as_it_is_async(piece: Piece) -> Piece:
    """The same, later."""
    await anyio.lowlevel.checkpoint()
    return piece


@pytest.mark.parametrize(
    ("producer", "first", "second"),
    [
        ((pieces_yielded, "async"), (as_it_is, "async"), (as_it_is, "async")),
        ((pieces_yielded_async, "async"), (as_it_is_async, "async"), (as_it_is_async, "async")),
        ((pieces_yielded_async, "async"), (as_it_is, "thread"), (as_it_is_async, "async")),
        ((pieces_yielded, "thread"), (as_it_is, "thread"), (as_it_is, "thread")),
        ((pieces_yielded, "thread"), (as_it_is_async, "async"), (as_it_is, "thread")),
        ((pieces_yielded_async, "thread"), (as_it_is, "async"), (as_it_is, "thread")),
    ],
    ids=["inline", "tasks", "mixed", "threads", "thread to task", "async generator in a thread"],
)
def test_ten_thousand_elements_through_two_processes(
    pieces: type[Piece], producer: Any, first: Any, second: Any
) -> None:
    """Of 10,000 elements no more are alive than the buffer, and the first result is there before the last element.

    Beside the buffer each of four threads may still be about to let go of what it has just handed over.
    """
    made_at_first: list[int] = []

    def number_of(piece: Piece) -> int:
        made_at_first.append(pieces.made)
        return piece.number

    source = process(producer[0], id="source", type=producer[1])
    one = process(first[0], id="one", type=first[1], map_over={"piece": "source"}, limit=4)
    two = process(second[0], id="two", type=second[1], map_over={"piece": "one"}, limit=4)
    three = process(number_of, id="three", type="async", map_over={"piece": "two"})
    reduced = process(sum, id="reduced", type="async", dependencies={"iterable": "three"})
    run = ran(
        [reduced, three, two, one, source], inputs={"count": 10_000}, targets=reduced, keep="targets", max_threads=4
    )
    assert run.value == sum(range(10_000))
    assert pieces.most <= 2 * (4 + 4 + 1) + 4
    assert made_at_first[0] <= 2 * (4 + 4 + 1)
    with pytest.raises(ValueReleasedError):
        _ = run["source"].data


def test_pieces_for_workers(pieces: type[Piece]) -> None:
    """The same where what takes them is in workers."""
    source = process(pieces_yielded, id="source", type="thread")
    number = process(lambda piece: piece.number, id="number", type="process", map_over={"piece": "source"})
    reduced = process(sum, id="reduced", type="async", dependencies={"iterable": "number"})
    run = ran([reduced, number, source], inputs={"count": 500}, targets=reduced, keep="targets", max_processes=2)
    assert run.value == sum(range(500))
    assert pieces.most <= 4


def count_up(folder: Path, count: int) -> Iterator[int]:
    """Yield numbers, and say how far it is."""
    for number in range(count):
        (folder / "made").write_text(str(number + 1))
        yield number


@pytest.mark.parametrize("consumer", ["inline", "thread", "worker"])
def test_a_worker_waits_too(consumer: str, tmp_path: Path) -> None:
    """A generator in a worker is at most its buffer ahead of those that take its elements."""

    def ahead(folder: Path, number: int) -> int:
        return int((folder / "made").read_text() or 0) - number

    numbers = process(count_up, id="numbers", type="process")
    seen = process(ahead, id="seen", type=CONSUMERS[consumer][1], map_over={"number": "numbers"}, limit=1)
    run = ran([seen, numbers], inputs={"folder": tmp_path, "count": 40})
    assert max(run.value) <= 2


@pytest.mark.parametrize(("limit", "most"), [(1, 2), (3, 6), (Limit(2), 4), (Rate(1_000, per=0.001), 12)])
def test_twice_their_slots(limit: Any, most: int) -> None:
    """It is ahead of its consumers by twice as many elements as they can work on at once."""
    made, ended = [0], [0]
    ahead: list[int] = []

    @process(type="thread")
    def numbers() -> Iterator[int]:
        for number in range(60):
            made[0] += 1
            ahead.append(made[0] - ended[0])
            yield number

    @process(type="async", map_over={"number": "numbers"})
    def noted(number: int) -> int:
        return number

    @process(type="thread", map_over={"number": "noted"}, limit=limit)
    def seen(number: int) -> None:
        ended[0] += 1

    ran([seen, noted, numbers], max_threads=6)
    assert max(ahead) <= most + 2


def test_the_buffer_is_used() -> None:
    """A generator does run ahead, as far as its buffer goes, while nobody has ended."""
    made: list[int] = []
    full = threading.Event()

    @process(type="thread")
    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            if len(made) == 4:
                full.set()
            yield number

    @process(type="thread", map_over={"number": "numbers"}, limit=2)
    def seen(number: int) -> None:
        assert full.wait(GENEROUS)

    assert ran([seen, numbers], max_threads=3).success


# The program always advances


@pytest.mark.parametrize("producer", ["inline", "async generator", "thread", "async generator in a thread", "worker"])
@every_consumer
def test_one_slot_of_each(producer: str, consumer: str) -> None:
    """With one thread, one worker and one element at a time, a generator that waits lends its slot to who takes."""
    given = [process(total, type="thread"), doubled_of(consumer, limit=1), numbers_of(producer)]
    run = ran(given, inputs={"count": 12}, max_threads=1, max_processes=1)
    assert run.value == 132


def test_never_more_threads_than_are_allowed() -> None:
    """A generator that goes on waits for a slot like everybody else."""
    lock, running, most = threading.Lock(), [0], [0]

    def enter() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])

    def leave() -> None:
        with lock:
            running[0] -= 1

    @process(type="thread")
    def numbers() -> Iterator[int]:
        for number in range(40):
            enter()
            time.sleep(0)
            leave()
            yield number

    @process(type="thread", map_over={"number": "numbers"})
    def seen(number: int) -> None:
        enter()
        time.sleep(0)
        leave()

    ran([seen, numbers], max_threads=1)
    assert most == [1]


def pid_of(number: int) -> tuple[int, int]:
    """Return where it runs."""
    return number, os.getpid()


def pids(count: int) -> Iterator[int]:
    """Yield where it runs."""
    for _ in range(count):
        yield os.getpid()


def test_a_generator_in_the_only_worker() -> None:
    """While a generator waits in the only worker, another one runs what takes its elements."""
    source = process(pids, id="source", type="process")
    seen = process(pid_of, id="seen", type="process", map_over={"number": "source"})
    found = ran([seen, source], inputs={"count": 9}, max_processes=1).value
    assert len({made for made, _ in found}) == 1
    assert {made for made, _ in found}.isdisjoint({taken for _, taken in found})


def test_two_generators_that_are_zipped_share_a_thread() -> None:
    """Two generators of which neither can go on without the other take turns in one thread."""
    left = process(lambda: iter(range(30)), id="left", type="thread")
    right = process(lambda: (n * 10 for n in range(30)), id="right", type="thread")
    both = process(lambda a, b: a + b, id="both", type="thread", map_over={"a": "left", "b": "right"})
    assert ran([both, left, right], max_threads=1).value == [n * 11 for n in range(30)]


@pytest.mark.parametrize("producer", ["inline", "async generator", "thread", "worker"])
def test_a_map_that_needs_the_whole_too(producer: str) -> None:
    """A map that waits for the end of what it goes over does not keep it from ending."""
    mean = process(lambda numbers: sum(numbers) / len(numbers), id="mean", type="async")
    above = process(lambda number, mean: number > mean, id="above", type="async", map_over={"number": "numbers"})
    run = ran([above, mean, numbers_of(producer)], inputs={"count": 40})
    assert run.value == [number > 19.5 for number in range(40)]


def test_a_map_over_it_and_all_of_it() -> None:
    """The same where the map itself takes the list."""
    share = process(
        lambda number, everything: number / sum(everything),
        id="share",
        type="async",
        map_over={"number": "numbers"},
        dependencies={"everything": "numbers"},
    )
    assert ran([share, numbers_of("thread")], inputs={"count": 5}).value == [n / 10 for n in range(5)]


def test_two_generators_each_of_whose_maps_waits_for_the_other() -> None:
    """Maps that wait for the end of another stream hold up nobody: neither generator waits for ever."""
    left = process(lambda: iter(range(50)), id="left", type="thread")
    right = process(lambda: iter(range(50)), id="right", type="thread")
    one = process(lambda x, right: x + len(right), id="one", type="async", map_over={"x": "left"})
    two = process(lambda y, left: y + len(left), id="two", type="async", map_over={"y": "right"})
    run = ran([one, two, left, right], max_threads=1)
    assert run.data == {"one": list(range(50, 100)), "two": list(range(50, 100))}


def test_a_map_that_goes_over_one_that_waits() -> None:
    """Nor does a map hold up a generator that also goes over what waits for the end of another one."""
    left = process(lambda: iter(range(50)), id="left", type="thread")
    right = process(lambda: iter(range(50)), id="right", type="async")
    both = process(lambda x, y: x + y, id="both", type="async", map_over={"x": "left", "y": "right"})
    whole = process(sum, id="whole", type="async", dependencies={"iterable": "both"})
    late = process(lambda x, whole: x + whole, id="late", type="async", map_over={"x": "left"})
    later = process(lambda y, late: y + late, id="later", type="async", map_over={"y": "right", "late": "late"})
    run = ran([later, late, whole, both, left, right], max_threads=1)
    assert run.value == [2 * number + 2_450 for number in range(50)]


def test_a_generator_that_waits_for_another() -> None:
    """Nor one that is zipped with a generator which begins when the other has ended."""
    left = process(lambda: iter(range(50)), id="left", type="thread")
    right = process(lambda left: (number for number in left), id="right", type="thread")
    both = process(lambda x, y: x + y, id="both", type="async", map_over={"x": "left", "y": "right"})
    assert ran([both, left, right], max_threads=1).value == [2 * number for number in range(50)]


def test_a_map_that_is_opened_after_a_generator_without_elements() -> None:
    """A map that had to wait for something else goes over what was yielded, be it nothing."""
    slow = process(sum, id="slow", type="async", dependencies={"iterable": "numbers"})
    seen = process(lambda number, slow: number + slow, id="seen", type="async", map_over={"number": "numbers"})
    for count, expected in ((0, []), (3, [3, 4, 5])):
        run = ran([seen, slow, numbers_of("thread")], inputs={"count": count}, keep="targets")
        assert run.value == expected


def test_a_generator_and_its_consumers_share_a_limit() -> None:
    """A generator that holds a shared limit does not wait for those who need it."""
    one = Limit(1)
    for limit in (one, "db"):
        given = [doubled_of("thread", limit=limit), numbers_of("thread", limit=limit)]
        run = ran(given, inputs={"count": 30}, limits={"db": one})
        assert run.value == list(range(0, 60, 2))


def test_more_generators_than_a_session_holds() -> None:
    """Generators that have begun hold no place that their consumers need."""
    sources = [process(lambda: iter(range(12)), id=f"source{n}", type="process") for n in range(9)]
    maps = [process(lambda x: x, id=f"map{n}", type="process", map_over={"x": f"source{n}"}, limit=1) for n in range(9)]
    run = ran([*maps, *sources], max_processes=1)
    assert all(value == list(range(12)) for value in run.data.values())


def test_a_generator_that_runs_a_graph_of_its_own() -> None:
    """A generator in a thread may wait for a nested run between two elements."""

    @process(type="thread")
    def numbers() -> Iterator[int]:
        for number in range(6):
            inner = process(double, type="thread")
            yield pmflow.run(inner, inputs={"number": number}).value

    run = ran([doubled_of("thread"), numbers], max_threads=1)
    assert run.value == [n * 4 for n in range(6)]


# Failures


@pytest.mark.parametrize(
    ("function", "kind"),
    [(half, "async"), (half_async, "async"), (half, "thread"), (half_async, "thread"), (half, "process")],
)
def test_a_generator_that_raises(function: Any, kind: str) -> None:
    """What was yielded before has run and has results; whoever wants the list is skipped, as for every failure."""
    numbers = process(function, id="numbers", type=kind)
    plain = process(len, id="plain", dependencies={"obj": "numbers"})
    given = [process(total), plain, doubled_of("thread"), numbers]
    run = ran(given, inputs={"count": 3}, on_error="return")
    assert {name: run[name].state for name in run} == {
        "numbers": FAILED,
        "doubled": SKIPPED,
        "plain": SKIPPED,
        "total": SKIPPED,
    }
    assert (elements(run, "doubled"), [run[f"doubled_{n}"].data for n in range(3)]) == ([DONE] * 3, [0, 2, 4])
    assert run["numbers"].error == "no more"
    assert [run[name].reason for name in ("doubled", "total", "plain")] == [
        "'numbers' failed (ValueError: no more)"
    ] * 3
    assert list(run.failures) == ["numbers"]
    assert set(run.skipped) == {"doubled", "plain", "total"}


def test_a_generator_that_raises_raises() -> None:
    """The run raises the generator's own exception, with what did finish."""
    numbers = process(half, id="numbers")
    with pytest.raises(WorkflowError, match="'numbers' failed") as caught:
        ran([doubled_of("thread"), numbers], inputs={"count": 3}, fail_fast=False)
    assert [str(error) for error in caught.value.exceptions] == ["no more"]
    run = caught.value.run
    assert run is not None
    assert elements(run, "doubled") == [DONE] * 3


def test_a_generator_that_raises_and_is_not_required() -> None:
    """Without `required` there is no value: a default takes its place, the run is good."""
    numbers = process(half, id="numbers", required=False)

    @process
    def size(doubled: list[int] | None = None) -> int | None:
        return None if doubled is None else len(doubled)

    run = ran([size, doubled_of("thread"), numbers], inputs={"count": 3})
    assert (run.value, run.success, run["doubled"].state) == (None, True, SKIPPED)
    assert elements(run, "doubled") == [DONE] * 3


def test_maps_over_maps_are_cut_short_too() -> None:
    """What goes over a map that is cut short has run as far as that goes, and is cut short itself."""
    numbers = process(half, id="numbers")
    again = process(lambda doubled: doubled + 1, id="again", map_over="doubled")
    size = process(len, id="size", dependencies={"obj": "again"})
    run = ran([size, again, doubled_of("thread"), numbers], inputs={"count": 2}, on_error="return")
    assert (run["again"].state, [run["again_0"].data, run["again_1"].data]) == (SKIPPED, [1, 3])
    assert run["size"].reason == "'numbers' failed (ValueError: no more)"


@every_type
def test_a_generator_that_raises_before_its_first_element(kind: str) -> None:
    """A failure before the first element skips the maps over it as a whole."""
    numbers = process(half, id="numbers", type=kind)
    given = [process(total), doubled_of("thread"), numbers]
    run = ran(given, inputs={"count": 0}, on_error="return")
    assert {name: run[name].state for name in run} == {"numbers": FAILED, "doubled": SKIPPED, "total": SKIPPED}
    assert elements(run, "doubled") == []


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_retries_before_the_first_element(kind: str) -> None:
    """An attempt that fails before its first element is followed by another; one that fails later is not."""
    attempts: list[int] = []
    at_once = RetryStrategy(max_retries=3, delay_seconds=0)

    @process(type=kind, retries=at_once)
    def numbers() -> Iterator[int]:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise ValueError("not yet")
        yield 1
        raise ValueError("no more")

    run = ran([doubled_of("thread"), numbers], on_error="return")
    assert (attempts, run["numbers"].attempts, run["numbers"].error) == ([0, 1, 2], 3, "no more")
    assert run["doubled_0"].data == 2


def test_a_fallback_stands_in_before_the_first_element() -> None:
    """A fallback is mapped over like every value; after the first element there is none."""
    for count, state, data in ((0, DONE, [14, 16]), (2, FAILED, None)):
        numbers = process(half, id="numbers", fallback=[7, 8])
        run = ran([doubled_of("thread"), numbers], inputs={"count": count}, on_error="return")
        assert run["numbers"].state is state
        assert (run["doubled"].data if run["doubled"].success else None) == data


def dies(count: int) -> Iterator[int]:
    """Yield, and take the worker along."""
    yield from range(count)
    os._exit(3)


def test_a_worker_that_dies_while_it_yields() -> None:
    """The death of a worker after the first element is the generator's failure; it is not tried again."""
    numbers = process(dies, id="numbers", type="process", crash_retries=2)
    run = ran([doubled_of("thread"), numbers], inputs={"count": 3}, on_error="return")
    assert type(run["numbers"].exception) is WorkerCrashedError
    assert (run["numbers"].attempts, elements(run, "doubled")) == (1, [DONE] * 3)


def unsendable() -> Iterator[Any]:
    """Yield something that cannot leave its worker."""
    yield 1
    yield threading.Lock()


def test_an_element_that_cannot_leave_its_worker() -> None:
    """An element that cannot be pickled fails the generator, naming its type."""
    numbers = process(unsendable, id="numbers", type="process")
    run = ran([process(repr, id="text", map_over={"obj": "numbers"}), numbers], on_error="return")
    assert "lock cannot be pickled" in (run["numbers"].error or "")
    assert run["text_0"].data == "1"


@pytest.mark.parametrize("producer", ["inline", "async generator", "thread", "worker"])
def test_consumers_that_fail_do_not_hold_it_up(producer: str) -> None:
    """Elements that fail count as taken; the generator goes on."""

    def broken(number: int) -> int:
        raise ValueError(number)

    seen = process(broken, id="seen", map_over={"number": "numbers"}, limit=1, required=False)
    run = ran([seen, numbers_of(producer)], inputs={"count": 40}, on_error="return")
    assert (run["numbers"].data, elements(run, "seen")) == (list(range(40)), [FAILED] * 40)


@pytest.mark.parametrize("producer", ["inline", "thread", "worker"])
def test_a_consumer_that_cannot_begin_does_not_hold_it_up(producer: str, pieces: type[Piece]) -> None:
    """A map that is skipped as a whole takes nothing, and holds nothing."""
    _, kind = PRODUCERS[producer]
    config = process(lambda: 1 / 0, id="config", type="async")
    source = process(pieces_yielded, id="source", type=kind)
    seen = process(lambda piece, config: piece, id="seen", map_over={"piece": "source"})
    run = ran([seen, config, source], inputs={"count": 200}, on_error="return", targets=["seen"], fail_fast=False)
    assert {name: run[name].state for name in run} == {"config": FAILED, "seen": SKIPPED, "source": DONE}
    gc.collect()
    assert pieces.alive == 0


# Unequal lengths


def test_a_generator_that_is_shorter_than_a_list() -> None:
    """Both lengths are named once they are known; nothing is shortened."""
    pair = process(lambda a, b: (a, b), id="pair", map_over={"a": "numbers", "b": "letters"})
    given = [pair, numbers_of("thread")]
    run = ran(given, inputs={"count": 2, "letters": "a b c".split()}, on_error="return")
    assert run["pair"].error == "'pair' maps over sequences of different lengths: 'numbers' has 2, 'b' has 3"


@pytest.mark.parametrize("producer", ["inline", "async generator", "thread", "worker"])
def test_a_generator_that_is_longer_than_a_list(producer: str) -> None:
    """It is refused as soon as there is one element too many: the generator may have no end."""
    pair = process(lambda a, b: (a, b), id="pair", map_over={"a": "numbers", "b": "letters"})
    given = [pair, numbers_of(producer)]
    run = ran(given, inputs={"count": 1_000_000, "letters": ["a"]}, on_error="return", fail_fast=True)
    assert run["numbers"].state is CANCELLED
    error = run["pair"].error or ""
    assert error.startswith("'pair' maps over sequences of different lengths: 'numbers' has ")
    assert error.endswith(" or more, 'b' has 1")


@pytest.mark.parametrize("lengths", [(3, 5), (5, 3), (0, 40), (40, 0)])
@pytest.mark.parametrize("kind", ["async", "thread"])
def test_two_generators_of_different_lengths(lengths: tuple[int, int], kind: str) -> None:
    """Two generators are compared when one has ended and the other has more, or both have ended."""
    left = process(lambda: iter(range(lengths[0])), id="left", type=kind)
    right = process(lambda: iter(range(lengths[1])), id="right", type=kind)
    pair = process(lambda a, b: (a, b), id="pair", map_over={"a": "left", "b": "right"}, limit=1)
    run = ran([pair, left, right], on_error="return")
    assert run["pair"].state is FAILED
    assert isinstance(run["pair"].exception, ProcessError)
    assert "'left' has" in str(run["pair"].exception)
    assert f"has {min(lengths)}" in str(run["pair"].exception)
    assert (run["left"].state, run["right"].state) == (DONE, DONE)


@pytest.mark.parametrize("lengths", [(3, 40), (40, 3)])
def test_generators_of_different_lengths_behind_maps(lengths: tuple[int, int]) -> None:
    """The same where a map is between one of them and what goes over both."""
    left = process(lambda: iter(range(lengths[0])), id="left", type="thread")
    right = process(lambda: iter(range(lengths[1])), id="right", type="thread")
    one = process(lambda a: a, id="one", type="async", map_over={"a": "left"}, limit=1)
    pair = process(lambda one, b: (one, b), id="pair", type="async", map_over={"one": "one", "b": "right"}, limit=1)
    run = ran([pair, one, left, right], on_error="return")
    assert {name: run[name].state for name in run} == {"left": DONE, "right": DONE, "one": DONE, "pair": FAILED}


def test_a_generator_and_a_list_of_another_process() -> None:
    """A generator goes along with what other processes return, whole or element by element."""
    left = process(lambda: iter(range(4)), id="left")
    right = process(lambda: [10, 20, 30, 40], id="right", type="async")
    twice = process(lambda number: number * 2, id="twice", map_over={"number": "right"})
    both = process(lambda a, b, c: a + b + c, id="both", map_over={"a": "left", "b": "right", "c": "twice"})
    assert ran([both, twice, left, right]).value == [30, 61, 92, 123]


def test_a_cross_collects_first() -> None:
    """A map that crosses goes over a generator again and again, so that is a list first."""
    left = process(lambda: iter(range(2)), id="left")
    pair = process(lambda a, b: (a, b), id="pair", map_over=cross(a="left", b="letters"))
    run = ran([pair, left], inputs={"letters": ["x", "y"]})
    assert run.value == [(0, "x"), (0, "y"), (1, "x"), (1, "y")]


def test_what_is_no_sequence() -> None:
    """A text is refused when it is returned, though the map over it had been opened before."""
    numbers = process(lambda: "text", id="numbers", type="async")
    run = ran([doubled_of("thread"), numbers], on_error="return")
    assert (run["numbers"].state, run["doubled"].state) == (DONE, FAILED)
    assert "'doubled' maps over 'numbers', which is of type str" in (run["doubled"].error or "")


def test_a_generator_that_validates_is_a_list() -> None:
    """Rules are asked of the whole: what they judge is collected first, of an asynchronous generator too."""
    for producer in ("thread", "async generator"):
        long = numbers_of(producer, validation_rules=[lambda found: len(found) == 3])
        assert ran([doubled_of("thread"), long], inputs={"count": 3}).value == [0, 2, 4]


# Its end


@pytest.mark.anyio
async def test_a_stop_closes_an_async_generator() -> None:
    """A run that is cancelled closes what it iterates, while that waits for its consumers too."""
    closed: list[str] = []
    begun = anyio.Event()

    @process
    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.append("closed")

    @process(type="async", map_over={"number": "numbers"}, limit=1)
    async def seen(number: int) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:

        async def run() -> None:
            await pmflow.arun(Graph([seen, numbers]))

        group.start_soon(run)
        with anyio.fail_after(GENEROUS):
            await begun.wait()
        group.cancel_scope.cancel()
    assert closed == ["closed"]


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_timeout_spans_all_of_it() -> None:
    """The timeout of an asynchronous generator counts from its call to its end, also while it waits for others."""
    closed: list[str] = []

    @process(timeout=5)
    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.append("closed")

    @process(map_over={"number": "numbers"}, limit=1)
    async def seen(number: int) -> int:
        await anyio.sleep(1)
        return number

    run = await pmflow.arun(Graph([seen, numbers]), on_error="return")
    assert (type(run["numbers"].exception), closed) == (ProcessTimeoutError, ["closed"])
    assert run["seen"].state is SKIPPED
    states = elements(run, "seen")
    assert states == [DONE] * len(states)
    assert 5 <= len(states) <= 7


def stop_when_begun(numbers: Any, seen: Any) -> Run[Any]:
    """Run until an element fails, which stops the run."""
    with pytest.raises(WorkflowError) as caught:
        ran([seen, numbers])
    assert caught.value.run is not None
    return caught.value.run


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_stop_closes_a_generator(kind: str) -> None:
    """A generator is closed where it was iterated: on the loop at once, in its thread at its next element."""
    closed = threading.Event()
    where: list[int] = []

    @process(type=kind)
    def numbers() -> Iterator[int]:
        where.append(threading.get_ident())
        try:
            while True:
                yield 1
        finally:
            where.append(threading.get_ident())
            closed.set()

    run = stop_when_begun(numbers, process(lambda n: 1 / 0, id="seen", map_over={"n": "numbers"}, limit=1))
    assert closed.wait(GENEROUS)
    assert where[0] == where[1]
    assert run["numbers"].state is CANCELLED
    assert run["seen"].state is FAILED


def test_a_timeout_closes_a_generator_in_its_thread() -> None:
    """A generator that waits for its consumers when its time is up ends in its thread."""
    closed, release = threading.Event(), threading.Event()

    @process(type="thread", timeout=0.05)
    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()
            release.set()

    @process(type="thread", map_over={"number": "numbers"}, limit=1)
    def seen(number: int) -> int:
        assert release.wait(GENEROUS)
        return number

    run = ran([seen, numbers], on_error="return")
    assert closed.is_set()
    assert type(run["numbers"].exception) is ProcessTimeoutError
    assert elements(run, "seen") == [DONE, DONE]


def endless() -> Iterator[int]:
    """Yield for ever."""
    while True:
        yield 1


def test_a_stop_kills_the_worker_of_a_generator() -> None:
    """A generator in a worker that waits for its consumers is ended with its worker."""
    numbers = process(endless, id="numbers", type="process")
    run = stop_when_begun(numbers, process(lambda n: 1 / 0, id="seen", map_over={"n": "numbers"}, limit=1))
    assert (run["numbers"].state, run["numbers"].stopped) == (CANCELLED, True)
    again = ran([doubled_of("worker"), numbers_of("worker")], inputs={"count": 5})
    assert again.value == [0, 2, 4, 6, 8]


def test_a_timeout_kills_the_worker_of_a_generator(tmp_path: Path) -> None:
    """The timeout of a generator in a worker counts while it waits."""

    def seen(number: int) -> int:
        wait_for(tmp_path / "ended")
        return number

    def hook(event: pmflow.Event) -> None:
        if event.kind == "process_ended" and event.process_id == "numbers":
            (tmp_path / "ended").touch()

    numbers = process(endless, id="numbers", type="process", timeout=0.2)
    run = ran([process(seen, map_over={"number": "numbers"}, limit=1), numbers], on_error="return", hooks=[hook])
    assert (type(run["numbers"].exception), run["numbers"].stopped) == (ProcessTimeoutError, True)
    assert elements(run, "seen") == [DONE, DONE]


def test_what_is_not_yielded_while_it_is_mapped() -> None:
    """An iterator that is an input, or that a class or an override gives, is gone over like a list."""
    given: list[Iterable[int]] = [iter([1, 2]), (n for n in (1, 2))]
    for numbers in given:
        assert pmflow.run(doubled_of("thread"), inputs={"numbers": numbers}).value == [2, 4]
    run = ran([doubled_of("thread"), numbers_of("thread")], overrides={"numbers": iter([3])})
    assert run.data["doubled"] == [6]


# The frontier


def test_what_is_supplied_is_there_at_once() -> None:
    """Elements that are supplied are not taken; what is aligned with them is, as they come."""
    from pmflow.engine.frontier import Frontier

    frontier = Frontier.of({"source": (), "map": ()}, mapped={"source": (), "map": ("source",)})
    assert frontier.take_ready() == ["source", "map"]
    assert frontier.open("map") == []
    assert frontier.supply("source", 2) == []
    assert frontier.take_ready() == [("map", 0), ("map", 1)]
    assert frontier.seal("source") == ["source"]
    assert (frontier.succeed(("map", 1)), frontier.succeed(("map", 0))) == (False, True)
    assert (frontier.ended("map"), frontier.is_sealed("map"), frontier.followers("source")) == (2, True, ["map"])


def test_one_that_has_ended_seals_what_has_more() -> None:
    """A unit that is aligned with two is complete when one has ended and the other has more."""
    from pmflow.engine.frontier import Frontier

    frontier = Frontier.of({"map": ()}, mapped={"a": (), "b": (), "map": ("a", "b")})
    frontier.open("map")
    frontier.supply("a", 1)
    frontier.supply("b", 1)
    assert frontier.take_ready() == ["map", ("map", 0)]
    assert frontier.succeed(("map", 0)) is False
    assert frontier.seal("a") == ["a"]
    assert frontier.supply("b", 1) == ["map"]


def test_what_goes_over_a_map_is_sealed_too() -> None:
    """The same of a unit that is aligned with one of them by way of another unit."""
    from pmflow.engine.frontier import Frontier

    aligned = {"a": (), "b": (), "left": ("a",), "pair": ("left", "b")}
    frontier = Frontier.of({"left": (), "pair": ()}, mapped=aligned)
    frontier.open("left")
    frontier.open("pair")
    frontier.supply("b", 0)
    assert frontier.seal("b") == ["b"]
    assert frontier.supply("a", 1) == ["pair"]


def test_a_bound() -> None:
    """A unit that also goes over something else grows no further than that, and is complete when there is more."""
    from pmflow.engine.frontier import Frontier

    frontier = Frontier.of({"map": ()}, mapped={"a": (), "map": ("a",)})
    frontier.bound("map", 1)
    frontier.open("map")
    assert frontier.supply("a", 1) == []
    assert frontier.take_ready() == ["map", ("map", 0)]
    assert frontier.supply("a", 1) == []
    assert frontier.take_ready() == []
    assert frontier.succeed(("map", 0)) is True
