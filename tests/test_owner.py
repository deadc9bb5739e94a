"""Who hears the workers, as a unit: a step that takes notes, and socket pairs in place of workers."""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pmflow.executors.owner import AWAY, Owner

SOON = 20.0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
NEVER = None, 0.0
"""What a step returns that does not want to be called again."""

Ready = list[tuple[Any, int]]


class Steps:
    """A step: notes who had something to say and in which thread it was called, and ends as told."""

    def __init__(self, *ends: Callable[[], tuple[float | None, float]]) -> None:
        self.called: queue.Queue[tuple[Ready, int]] = queue.Queue()
        self.ends = list(ends)

    def __call__(self, ready: Ready) -> tuple[float | None, float]:
        end = self.ends.pop(0) if self.ends else lambda: NEVER
        self.called.put((ready, threading.get_ident()))
        return end()

    def one(self) -> tuple[Ready, int]:
        """Wait for the next call of it."""
        return self.called.get(timeout=SOON)

    def until(self, ready: Ready) -> int:
        """Wait for a call with these; the thread it was called in."""
        while True:
            found, thread = self.one()
            if found == ready:
                return thread

    def none(self) -> bool:
        """Whether it has not been called any more."""
        return self.called.empty()


class Owners:
    """Makes owners, and closes them after the test."""

    def __init__(self) -> None:
        self.made: list[Owner] = []

    def __call__(self, step: Any, *, started: bool = True) -> Owner:
        owner = Owner(step)
        if started:
            owner.start()
            self.made.append(owner)
        return owner


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end of a worker's channel, and the worker's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def owners(channel: tuple[socket.socket, socket.socket]) -> Iterator[Owners]:
    """Where owners come from; they are closed before the channel is."""
    found = Owners()
    yield found
    for owner in found.made:
        owner.close(SOON)


@pytest.fixture
def alone() -> Iterator[tuple[Owner, Steps]]:
    """An owner whose thread was never started: nobody but the leader listens; it has heard that it leads."""
    steps = Steps()
    owner = Owner(steps)
    assert owner.lead()
    owner.attend(SOON)
    assert steps.one() == ([], threading.get_ident())
    yield owner, steps
    owner.let_go()


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/dev/fd"))


# The owner


def test_wake_has_the_step_called_in_the_owners_thread(owners: Owners) -> None:
    """Though nobody has anything to say; before it has been started, too."""
    steps = Steps()
    owner = owners(steps, started=False)
    owner.wake()
    assert steps.none()
    owner.start()
    owners.made.append(owner)
    first, second = steps.one(), owner.wake() or steps.one()
    assert first == second == ([], owner._thread.ident)
    assert owner._thread.daemon


def test_the_step_hears_who_speaks_and_who_takes_more(
    owners: Owners, channel: tuple[socket.socket, socket.socket]
) -> None:
    """Once for each that does, until nobody listens to it any more."""
    ours, theirs = channel
    who = object()
    heard = Steps()

    def step(ready: Ready) -> tuple[float | None, float]:
        for _, events in ready:
            if events & READ:
                ours.recv(100)
            if events & WRITE:
                owner.watch(ours, who)
        # A selector that is modified while somebody waits for it may say first that one is ready for nothing.
        return NEVER if any(not events for _, events in ready) else heard(ready)

    owner = owners(step)
    owner.watch(ours, who)
    theirs.send(b"one")
    assert heard.one()[0] == [(who, READ)]
    owner.watch(ours, who, writable=True)
    assert heard.one()[0] == [(who, WRITE)]
    theirs.send(b"two")
    assert heard.one()[0] == [(who, READ)]
    owner.unwatch(ours)
    theirs.send(b"three")
    owner.wake()
    assert heard.one()[0] == []
    assert heard.none()


def test_a_step_is_called_again_when_it_wants_to_be(owners: Owners) -> None:
    """Whoever speaks; and no more, once it does not."""
    steps = Steps(lambda: (0.001, 0.0), lambda: (0.001, 0.0))
    owner = owners(steps)
    owner.wake()
    assert [steps.one()[0] for _ in range(3)] == [[]] * 3
    assert steps.none()


def test_what_is_expected_during_a_step_is_for_the_next(owners: Owners) -> None:
    """What the step that is about to end returns does not hide it: it knows nothing of it yet."""
    inside, go = threading.Event(), threading.Event()

    def second() -> tuple[float | None, float]:
        inside.set()
        assert go.wait(SOON)
        return NEVER

    steps = Steps(lambda: (0.001, 0.0), second)
    owner = owners(steps)
    owner.wake()
    assert inside.wait(SOON)
    assert [steps.one()[0] for _ in range(2)] == [[]] * 2
    owner.expect()
    go.set()
    assert steps.one() == ([], owner._thread.ident)


def test_what_is_expected_from_many_threads_at_once_is_not_lost(owners: Owners) -> None:
    """Each time there is a step that begins afterwards."""
    done, begun = [0] * 4, threading.Condition()

    def step(ready: Ready) -> tuple[float | None, float]:
        with begun:
            done[:] = wanted
            begun.notify_all()
        return NEVER

    wanted = [0] * 4
    owner = owners(step)

    def expects(number: int) -> None:
        for turn in range(1, 200):
            wanted[number] = turn
            owner.expect()
            with begun:
                assert begun.wait_for(lambda turn=turn: done[number] >= turn, SOON)
        ended.append(number)

    ended: list[int] = []
    threads = [threading.Thread(target=expects, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [0, 1, 2, 3]


# The leader


def test_one_leads_at_a_time(owners: Owners) -> None:
    """Until it leaves; nobody does once all is closed."""
    owner = owners(Steps())
    assert [owner.lead(), owner.lead()] == [True, False]
    owner.leave()
    assert [owner.lead(), owner.lead()] == [True, False]
    owner.leave()
    owner.close(SOON)
    assert not owner.lead()


def test_the_leader_hears_in_its_own_thread(
    alone: tuple[Owner, Steps], channel: tuple[socket.socket, socket.socket]
) -> None:
    """For others too: whatever channel it is; and for no longer than it wants to."""
    (owner, steps), (ours, theirs) = alone, channel
    owner.watch(ours, "who")
    owner.attend(0)
    assert steps.one() == ([], threading.get_ident())
    theirs.send(b"something")
    owner.attend(SOON)
    assert steps.one() == ([("who", READ)], threading.get_ident())
    assert steps.none()


def test_the_leader_is_woken(alone: tuple[Owner, Steps]) -> None:
    """By `wake` from any thread, and by `expect`: it does not wait for what has already come."""
    owner, steps = alone
    for wakes in (owner.wake, owner.expect):
        thread = threading.Thread(target=wakes)
        thread.start()
        owner.attend(SOON * 10)
        thread.join()
        assert steps.one() == ([], threading.get_ident())


def test_the_leader_need_not_wake_itself(alone: tuple[Owner, Steps]) -> None:
    """What it expects before it waits, or in its own step, has the step called again, though nobody speaks."""
    owner, steps = alone
    owner.expect()
    owner.attend(None)
    assert steps.one()[0] == []

    def expects() -> tuple[float | None, float]:
        owner.expect()
        return NEVER

    steps.ends = [expects]
    owner.attend(0)
    owner.attend(None)
    assert [steps.one()[0] for _ in range(2)] == [[]] * 2
    assert steps.none()


def test_the_leader_calls_the_step_again_in_time(alone: tuple[Owner, Steps]) -> None:
    """When the last step wanted that, whoever called it, though the leader would wait for longer."""
    owner, steps = alone
    steps.ends = [lambda: (0.001, 0.0)]
    owner.attend(0)
    owner.attend(None)
    assert [steps.one() for _ in range(2)] == [([], threading.get_ident())] * 2


def test_the_owner_helps_out_while_the_leader_is_away(
    owners: Owners, channel: tuple[socket.socket, socket.socket]
) -> None:
    """As often as there is something to hear; the leader takes over again when it is back."""
    (ours, theirs), heard = channel, Steps()

    def step(ready: Ready) -> tuple[float | None, float]:
        if ready:
            ours.recv(100)
        return heard(ready)

    owner = owners(step)
    owner.watch(ours, "who")
    assert owner.lead()
    for _ in range(3):
        theirs.send(b"something")
        assert heard.until([("who", READ)]) == owner._thread.ident
    owner.attend(0)
    while heard.one()[1] != threading.get_ident():
        pass
    owner.leave()


def test_the_owner_does_not_wait_each_time_the_leader_is_away(
    owners: Owners, channel: tuple[socket.socket, socket.socket]
) -> None:
    """Once it helps out, it listens as if nobody led: 200 replies do not take 200 times as long as it stands by."""
    (ours, theirs), heard = channel, Steps()

    def step(ready: Ready) -> tuple[float | None, float]:
        if ready:
            ours.recv(1)
        return heard(ready)

    owner = owners(step)
    owner.watch(ours, "who")
    assert owner.lead()
    theirs.send(b"1")
    heard.until([("who", READ)])
    late = threading.Event()
    timer = threading.Timer(200 * AWAY / 2, late.set)
    timer.start()
    for _ in range(200):
        theirs.send(b"1")
        heard.until([("who", READ)])
    timer.cancel()
    assert not late.is_set()
    owner.leave()


def test_the_owner_listens_again_when_the_leader_has_left(
    owners: Owners, channel: tuple[socket.socket, socket.socket]
) -> None:
    """Whatever has come meanwhile is heard."""
    (ours, theirs), heard = channel, Steps()

    def step(ready: Ready) -> tuple[float | None, float]:
        if ready:
            ours.recv(100)
        return heard(ready)

    owner = owners(step)
    owner.watch(ours, "who")
    for _ in range(50):
        assert owner.lead()
        owner.attend(0)
        theirs.send(b"something")
        owner.leave()
        assert heard.until([("who", READ)]) == owner._thread.ident


def test_a_leader_and_the_owner_lose_nothing_between_them(
    owners: Owners, channel: tuple[socket.socket, socket.socket]
) -> None:
    """Whoever listens at the moment: each message is heard once, and while the leader waits for it."""
    ours, theirs = channel
    heard: list[bytes] = []

    def step(ready: Ready) -> tuple[float | None, float]:
        if ready:
            heard.append(ours.recv(1))
        return NEVER

    owner = owners(step)
    owner.watch(ours, "who")
    for turn in range(100):
        assert owner.lead()
        theirs.send(bytes([turn]))
        while len(heard) <= turn:
            owner.attend(SOON)
        owner.leave()
    assert heard == [bytes([turn]) for turn in range(100)]


# The end


def test_close_ends_the_thread_and_leaves_no_descriptor(channel: tuple[socket.socket, socket.socket]) -> None:
    """Whether it listens or stands by; the channels stay open; what comes too late does nothing."""
    before = descriptors()
    for led in (False, True):
        steps = Steps()
        owner = Owner(steps)
        owner.start()
        owner.watch(channel[0], "who")
        assert not led or owner.lead()
        owner.close(SOON)
        assert not owner._thread.is_alive()
        assert descriptors() == before
        while not steps.none():
            steps.one()
        owner.wake()
        owner.expect()
        owner.attend(None)
        owner.leave()
        assert steps.none()
    channel[1].send(b"still there")
    assert channel[0].recv(100) == b"still there"


def test_close_lets_a_leader_go_that_waits() -> None:
    """It returns from where it waits, without an error, whenever it is closed."""
    for _ in range(100):
        owner = Owner(Steps())
        owner.start()
        leads = threading.Event()
        raised: list[BaseException] = []

        def lead(owner: Owner = owner, leads: Any = leads, raised: Any = raised) -> None:
            assert owner.lead()
            leads.set()
            try:
                while not owner._closed:
                    owner.attend(None)
                owner.leave()
            except BaseException as error:  # noqa: BLE001 - whatever it is
                raised.append(error)

        thread = threading.Thread(target=lead, daemon=True)
        thread.start()
        assert leads.wait(SOON)
        owner.close(SOON)
        thread.join(SOON)
        assert not thread.is_alive()
        assert raised == []
