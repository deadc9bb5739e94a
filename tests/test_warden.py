"""Who starts workers and ends them: one contract for both keepers, and what only the warden promises."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_workers import Inbox, alive, call, crash, double, error, kill_me, until, value, wait_for, where

from pmflow.errors import WorkerCrashedError
from pmflow.executors import parcels, pickling, wire
from pmflow.executors.parcels import File, Parcel, anonymous_file
from pmflow.executors.warden import Direct, GoneError, Keeper, Warden, keeper as keeper_of
from pmflow.executors.workers import WorkerPool
from pmflow.outcomes import Failure, Success

ROOT = Path(__file__).resolve().parents[1]
SOON = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

KEEPERS: dict[str, Callable[[int], Keeper]] = {"Warden": Warden, "Direct": Direct}


class Line:
    """A worker that was forked, from the other end of its channel: what a pool does, in few words."""

    opened: ClassVar[list[Line]] = []
    started: ClassVar[list[int]] = []

    def __init__(self, keeper: Keeper, name: str) -> None:
        self.opened.append(self)
        self.name = name
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(SOON)
        file = anonymous_file()
        os.ftruncate(file.fd, wire.Page.SIZE)
        self.page = wire.Page(file.fd)
        self.frames = wire.Frames()
        self.number = 0
        keeper.fork(name, theirs.fileno(), file.fd)
        theirs.close()

    def hear(self) -> tuple[Any, list[int]]:
        """Return the next message; nothing (None) at the end of the channel."""
        while True:
            try:
                data, numbers = wire.receive(self.connection)
            except ConnectionError:
                return None, []
            found = list(self.frames.feed(data, numbers))
            if found or not data:
                return found[0] if found else (None, [])

    def ready(self) -> int:
        """Wait until it says that it is ready; return its pid."""
        (number, kind, pid), _ = self.hear()
        assert (number, kind) == (0, wire.READY)
        return int(pid)

    def ask(self, function: Callable[..., Any], *args: Any) -> None:
        """Send a call."""
        self.number += 1
        functions = {self.number: parcels.pack(function, pickling.pickler()).packed([])}
        link = (self.number, self.number, args, {}, None, 0, "call")
        self.connection.sendall(wire.framed((wire.CHAINS, functions, None, [link])))

    def value(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a call returns."""
        self.ask(function, *args)
        message, numbers = self.hear()
        assert message[:2] == (self.number, wire.VALUE), message
        value = message[2]
        return Parcel.unpacked(value, [File(each) for each in numbers]).open() if type(value) is list else value

    def start(self, *, daemon: bool = False, env: str = "None") -> int:
        """Have it start a child, which hangs; return its pid. A daemon has left its session and its parent."""
        child = f"[{sys.executable!r}, '-c', 'import time; time.sleep(600)']"
        popen = "__import__('subprocess').Popen"
        code = f"import subprocess; print(subprocess.Popen({child}, stdout=-3, env={env}, start_new_session=True).pid)"
        through = f"int({popen}([{sys.executable!r}, '-c', {code!r}], stdout=-1).communicate()[0])"
        pid = self.value(eval, through if daemon else f"{popen}({child}).pid")
        self.started.append(pid)
        assert alive(pid)
        return int(pid)

    def is_at_its_end(self) -> bool:
        """Whether its channel has ended."""
        return self.hear() == (None, [])


def told(keeper: Keeper, count: int) -> list[tuple[str, int]]:
    """Wait until so many ends have been told; return all that were."""
    found: list[tuple[str, int]] = []
    while len(found) < count:
        ready, _, _ = select.select([keeper], [], [], SOON)
        assert ready, f"only {found} was told"
        found += keeper.heard()
    return found


@pytest.fixture(autouse=True)
def _no_line_stays_open() -> Iterator[None]:
    """Close the channels of a test's workers; end what they have started, should it live."""
    yield
    for pid in filter(alive, Line.started):
        os.kill(pid, signal.SIGKILL)
    Line.started.clear()
    while Line.opened:
        Line.opened.pop().connection.close()


@pytest.fixture(params=KEEPERS)
def keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    """Each of the keepers, ended after the test."""
    keeper = KEEPERS[request.param](3)
    yield keeper
    keeper.close()


@pytest.fixture
def warden() -> Iterator[Warden]:
    """A warden, ended after the test."""
    warden = Warden(3)
    yield warden
    warden.close()


def gone(pid: int) -> bool:
    """Whether nothing is left of a process, no zombie either."""
    return not os.path.exists(f"/proc/{pid}")


# The contract


def test_a_forked_worker_says_that_it_is_ready_and_serves(keeper: Keeper) -> None:
    """On the channel and the page it was given; in a process, and a session, of its own."""
    line = Line(keeper, "one")
    pid = line.ready()
    assert line.value(os.getpid) == pid != os.getpid()
    assert line.value(os.getsid, 0) == pid
    assert line.value(abs, -3) == 3
    assert (line.page.running, line.page.started <= time.perf_counter()) == (3, True)


def test_a_worker_has_no_descriptor_but_its_own(keeper: Keeper) -> None:
    """Its channel and its page stay the caller's to close, and nothing else of the program's is open in it."""
    ours, theirs = socket.socketpair()
    secret, page = anonymous_file(), anonymous_file()
    os.ftruncate(page.fd, wire.Page.SIZE)
    os.set_inheritable(secret.fd, True)  # noqa: FBT003 - as Python has it
    keeper.fork("raw", theirs.fileno(), page.fd)
    assert [os.get_inheritable(theirs.fileno()), os.fstat(page.fd).st_size] == [False, wire.Page.SIZE]
    theirs.close()
    ours.close()
    pid = Line(keeper, "one").ready()
    held = {path.stat().st_ino for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert os.fstat(secret.fd).st_ino not in held
    assert os.fstat(page.fd).st_ino not in held


def test_a_kill_is_told_once_with_its_signal(keeper: Keeper) -> None:
    """However often it is asked for; a name that nobody has is nobody's end."""
    first, second = Line(keeper, "first"), Line(keeper, "second")
    pids = [first.ready(), second.ready()]
    for name in ("nobody", "first", "first"):
        keeper.kill(name)
    assert told(keeper, 1) == [("first", -signal.SIGKILL)]
    assert first.is_at_its_end()
    assert second.value(os.getpid) == pids[1]
    for name in ("first", "second", "nobody"):
        keeper.kill(name)
    assert told(keeper, 1) == [("second", -signal.SIGKILL)]
    assert [gone(pid) for pid in pids] == [True, True]


def test_a_worker_that_was_killed_before_it_was_ready_is_told_of(keeper: Keeper) -> None:
    """At once after the fork, too."""
    Line(keeper, "one")
    keeper.kill("one")
    assert told(keeper, 1) == [("one", -signal.SIGKILL)]


@pytest.mark.parametrize("code", [0, 7, 255])
def test_a_worker_that_exits_by_itself_keeps_its_code(keeper: Keeper, code: int) -> None:
    """It is told once, though it is killed as well when its channel has ended."""
    line = Line(keeper, "one")
    line.ready()
    line.ask(os._exit, code)
    assert line.is_at_its_end()
    keeper.kill("one")
    keeper.kill("one")
    assert told(keeper, 1) == [("one", code)]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_died_of_a_signal_keeps_that(keeper: Keeper, number: signal.Signals) -> None:
    """Of whichever, and told once."""
    line = Line(keeper, "one")
    pid = line.ready()
    os.kill(pid, number)
    assert line.is_at_its_end()
    keeper.kill("one")
    assert told(keeper, 1) == [("one", -number)]
    assert gone(pid)


def test_names_are_never_mixed_up(keeper: Keeper) -> None:
    """Ten workers that end in another order than they began, each in its own way; the others go on."""
    lines = {f"worker-{n}": Line(keeper, f"worker-{n}") for n in range(10)}
    pids = {name: line.ready() for name, line in lines.items()}
    assert len(set(pids.values())) == 10
    order = [f"worker-{n}" for n in (3, 9, 0, 7, 1, 5)]
    for code, name in enumerate(order, start=10):
        lines[name].ask(os._exit, code)
        assert lines[name].is_at_its_end()
        keeper.kill(name)
        assert told(keeper, 1) == [(name, code)]
    rest = {name: line for name, line in lines.items() if name not in order}
    assert {name: line.value(os.getpid) for name, line in rest.items()} == {name: pids[name] for name in rest}
    late = Line(keeper, "late")
    late.ready()
    for name in reversed(rest):
        keeper.kill(name)
    assert sorted(told(keeper, len(rest))) == [(name, -signal.SIGKILL) for name in sorted(rest)]
    assert late.value(abs, -1) == 1


def test_what_a_worker_has_started_dies_with_it(keeper: Keeper) -> None:
    """When it is killed, and when it has ended by itself."""
    for name in ("killed", "ended"):
        line = Line(keeper, name)
        line.ready()
        child = line.start()
        if name == "ended":
            line.ask(os._exit, 1)
            assert line.is_at_its_end()
        keeper.kill(name)
        assert told(keeper, 1) == [(name, 1 if name == "ended" else -signal.SIGKILL)]
        assert until(lambda child=child: not alive(child))


def test_while_it_is_quiet_workers_live(keeper: Keeper) -> None:
    """Only what belongs to nobody is ended then."""
    line = Line(keeper, "one")
    pid = line.ready()
    child = line.start()
    for _ in range(3):
        keeper.quiet()
    assert line.value(os.getpid) == pid
    assert alive(child)


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("kind", KEEPERS)
def test_close_leaves_no_process(kind: str, heard: bool) -> None:
    """No worker, busy or idle, nothing that one has started, no zombie, and no descriptor; whoever has listened."""
    before = len(os.listdir("/proc/self/fd"))
    keeper = KEEPERS[kind](3)
    lines = [Line(keeper, name) for name in ("idle", "busy", "parent")]
    pids = [line.ready() for line in lines]
    child = lines[2].start()
    lines[1].ask(time.sleep, 600)
    assert until(lambda: lines[1].page.running == 1)
    if heard:
        keeper.kill("idle")
        assert told(keeper, 1) == [("idle", -signal.SIGKILL)]
    keeper.close()
    assert until(lambda: not alive(child))
    assert [gone(pid) for pid in pids] == [True] * 3
    assert [line.is_at_its_end() for line in lines] == [True] * 3
    assert not isinstance(keeper, Warden) or gone(keeper.pid)
    while Line.opened:
        Line.opened.pop().connection.close()
    lines.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_keeper_that_was_never_asked_for_anything_closes(keeper: Keeper) -> None:
    """At once, before it can have come up."""
    other = KEEPERS[type(keeper).__name__](1)
    other.close()
    if isinstance(other, Warden):
        assert gone(other.pid)


def test_ctrl_c_is_the_programs(keeper: Keeper) -> None:
    """Workers are in no group that the terminal's signals go to."""
    line = Line(keeper, "one")
    pid = line.ready()
    assert os.getpgid(pid) == pid != os.getpgid(0)
    if isinstance(keeper, Warden):
        assert os.getpgid(keeper.pid) == keeper.pid


def test_folders_of_the_users_hide_nothing(keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `socket.py`, `platform.py` or `cloudpickle.py` where the program is, is not what a worker imports."""
    for name in ("socket", "platform", "cloudpickle", "mmap", "wire"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    other = KEEPERS[type(keeper).__name__](1)
    try:
        line = Line(other, "one")
        line.ready()
        assert line.value(abs, -1) == 1
        assert line.value(eval, "__import__('platform').__name__") == "platform"
    finally:
        other.close()


# A pool with each of them


@pytest.fixture(params=KEEPERS)
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """Two workers of each keeper, ended after the test."""
    kind = KEEPERS[request.param]
    monkeypatch.setattr("pmflow.executors.workers.keeper", lambda size, lost=(): kind(size))
    pool = WorkerPool(2)
    yield pool
    assert pool._keeper is None or type(pool._keeper) is kind
    pool.close()


def test_a_pool_runs_calls(pool: WorkerPool) -> None:
    """In workers that stay warm."""
    port = Inbox()
    session = pool.open(port)
    session.submit([call(double, n, key=n) for n in range(100)])
    assert {key: outcome.value for key, outcome in port.take(100)} == {n: 2 * n for n in range(100)}
    session.close()
    assert value(pool, where) == value(pool, where) != os.getpid()
    assert len(value(pool, bytes, 4 << 20)) == 4 << 20


@pytest.mark.parametrize(("function", "argument", "facts"), [
    (crash, 3, (3, None)), (crash, 0, (0, None)), (kill_me, signal.SIGKILL, (None, "SIGKILL")),
    (kill_me, signal.SIGSEGV, (None, "SIGSEGV")),
])  # fmt: skip
def test_a_pool_survives_a_crash(pool: WorkerPool, function: Any, argument: int, facts: tuple[Any, Any]) -> None:
    """One call is lost, with how its worker ended; nine others, and those that follow, are right."""
    port = Inbox()
    calls = [call(double, n, key=n) for n in range(10)]
    calls[4] = call(function, argument, key="victim")
    pool.open(port).submit(calls)
    got = dict(port.take(10))
    failed = got.pop("victim").exception
    assert (type(failed), failed.exit_code, failed.signal) == (WorkerCrashedError, *facts)
    assert {key: outcome.value for key, outcome in got.items()} == {n: 2 * n for n in range(10) if n != 4}
    assert value(pool, double, 1) == 2


def test_a_pool_survives_a_stop(pool: WorkerPool, tmp_path: Path) -> None:
    """The worker has ended when that is said, and another takes its place."""
    port = Inbox()
    session = pool.open(port)
    for n in range(3):
        hanging = call(wait_for, str(tmp_path / "never"), str(tmp_path / f"pid{n}"))
        session.submit([hanging])
        assert until((tmp_path / f"pid{n}").exists)
        session.stop(hanging)
        outcome = port.one()
        assert (type(outcome).__name__, outcome.ended) == ("Stopped", True)
        assert gone(int((tmp_path / f"pid{n}").read_text()))
    session.close()
    assert value(pool, double, 1) == 2


def test_a_pool_that_is_closed_leaves_no_process(pool: WorkerPool, tmp_path: Path) -> None:
    """And begins anew when it is used again."""
    port = Inbox()
    pool.open(port).submit([call(wait_for, str(tmp_path / "never"), str(tmp_path / "pid"))])
    assert until((tmp_path / "pid").exists)
    pool.close()
    assert type(port.one()).__name__ == "Stopped"
    assert gone(int((tmp_path / "pid").read_text()))
    assert value(pool, double, 1) == 2


@pytest.mark.parametrize("kind", KEEPERS)
def test_workers_die_with_the_program(tmp_path: Path, kind: str) -> None:
    """Kill -9 of the program ends idle workers, busy ones, and their children."""
    code = f"""
        import os, signal, sys, time
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        from test_warden import *
        keeper = {kind}(2)
        lines = [Line(keeper, str(n)) for n in range(3)]
        pids = [line.ready() for line in lines]
        pids.append(lines[0].start())
        lines[1].ask(time.sleep, 600)
        assert until(lambda: lines[1].page.running == 1)
        with open({str(tmp_path / "pids")!r}, "w") as file:
            print(*pids, file=file)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    try:
        assert len(pids) == 4
        assert until(lambda: not any(map(alive, pids)))
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


# The warden alone


def test_on_linux_the_keeper_is_the_warden() -> None:
    """Where the system has what it needs."""
    keeper = keeper_of(1)
    try:
        assert type(keeper) is Warden
    finally:
        keeper.close()


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def test_the_warden_has_one_thread(warden: Warden) -> None:
    """So it can fork: before the first worker, after many, and so have they."""
    pids = []
    for n in range(5):
        pids.append(Line(warden, str(n)).ready())
        assert threads(warden.pid) == 1
    assert [threads(pid) for pid in pids if not gone(pid)] == [1] * sum(not gone(pid) for pid in pids)


LOADED = "sorted(__import__('sys').modules)"


def test_the_warden_imports_nothing_of_the_programs(warden: Warden, tmp_path: Path) -> None:
    """What a fork of it has: the standard library, cloudpickle, and files of ours that are in no package."""
    bare = subprocess.run(
        [sys.executable, "-c", f"print(*{LOADED})"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    known = {*sys.stdlib_module_names, "cloudpickle", *bare.stdout.split()}
    lines = [Line(warden, str(n)) for n in range(3)]
    for line in lines:
        line.ready()
        names = {name.partition(".")[0] for name in line.value(eval, LOADED)}
        assert {name for name in names if name not in known and not name.startswith("_pmflow_")} == set()
    again = Line(warden, "again")
    again.ready()
    assert "cloudpickle" in again.value(eval, LOADED)


def test_the_warden_is_not_the_programs_main(warden: Warden) -> None:
    """What is pickled as part of ``__main__`` is not looked for in it, nor in files of ours."""
    line = Line(warden, "one")
    line.ready()
    assert line.value(eval, "sorted(vars(__import__('sys').modules['__main__']))") == sorted(vars(type(sys)("m")))


@pytest.mark.parametrize("how", ["closed", "shut down"])
def test_the_warden_dies_when_its_channel_ends(how: str) -> None:
    """With its workers, idle and busy, and what they have started: daemons too."""
    warden = Warden(2)
    lines = [Line(warden, name) for name in ("idle", "busy")]
    pids = [line.ready() for line in lines]
    pids += [lines[0].start(), lines[0].start(daemon=True, env="{}")]
    lines[1].ask(time.sleep, 600)
    assert until(lambda: lines[1].page.running == 1)
    if how == "closed":
        warden._channel.close()
    else:
        warden._channel.shutdown(socket.SHUT_WR)
    pid, status = ended(warden.pid)
    assert (pid, os.waitstatus_to_exitcode(status)) == (warden.pid, 0)
    assert [gone(pid) for pid in pids] == [True] * 4
    warden._channel.close()


def ended(pid: int) -> tuple[int, int]:
    """Wait for the end of a child."""
    found: list[tuple[int, int]] = []

    def look() -> bool:
        found.append(os.waitpid(pid, os.WNOHANG))
        return found[-1][0] == pid

    assert until(look)
    return found[-1]


def test_a_warden_that_has_gone_is_heard_of(warden: Warden) -> None:
    """All its workers have gone with it; whatever is asked of it then is no error."""
    lines = [Line(warden, name) for name in ("one", "two")]
    pids = [line.ready() for line in lines]
    child = lines[1].start()
    os.kill(warden.pid, signal.SIGKILL)
    assert [line.is_at_its_end() for line in lines] == [True, True]
    assert until(lambda: not any(map(alive, pids)))
    assert alive(child), "what workers had started is its successor's to clear"
    warden.kill("one")
    warden.quiet()
    with pytest.raises(GoneError, match="the warden has ended"):
        told(warden, 1)


def test_a_daemon_of_a_worker_dies_with_it(warden: Warden) -> None:
    """It has left the worker's session and its tree: what it has of it is its mark, or nothing."""
    line = Line(warden, "one")
    line.ready()
    marked = line.start(daemon=True)
    assert Path(f"/proc/{marked}/stat").read_text().rpartition(")")[2].split()[1] == str(warden.pid)
    warden.kill("one")
    assert told(warden, 1) == [("one", -signal.SIGKILL)]
    assert until(lambda: not alive(marked))


def test_a_stray_dies_when_it_is_quiet(warden: Warden) -> None:
    """A daemon without a mark is nobody's: it lives as long as a run may need it, and not longer."""
    line = Line(warden, "one")
    pid = line.ready()
    stray = line.start(daemon=True, env="{}")

    def quiet() -> bool:
        warden.quiet()
        return not alive(stray)

    assert until(quiet)
    assert line.value(os.getpid) == pid


def test_what_a_lost_warden_has_left_is_cleared() -> None:
    """Its successor ends what carries the mark of one of its workers, wherever that is, and nothing else."""
    code = [sys.executable, "-c", "import time; time.sleep(600)"]
    lost, other = (subprocess.Popen(code, env={**os.environ, "PMFLOW_WORKER": name}) for name in ("lost-1", "lost-11"))
    # The mark shows from the exec on.
    assert until(lambda: b"PMFLOW_WORKER=lost-1\0" in Path(f"/proc/{lost.pid}/environ").read_bytes())
    warden = Warden(1, ["lost-0", "lost-1"])
    try:
        assert lost.wait(SOON) == -signal.SIGKILL
        line = Line(warden, "one")
        line.ready()
        assert line.value(abs, -1) == 1
        assert other.poll() is None
    finally:
        warden.close()
        for each in (lost, other):
            with suppress(ProcessLookupError):
                each.kill()
            each.wait()


@pytest.fixture
def of_a_warden() -> Iterator[WorkerPool]:
    """A pool of two workers, ended after the test."""
    pool = WorkerPool(2)
    yield pool
    pool.close()


def pid_of_warden(pool: WorkerPool) -> int:
    """Return the pid of a pool's warden."""
    assert isinstance(pool._keeper, Warden)
    return pool._keeper.pid


def test_a_dead_warden_is_replaced(of_a_warden: WorkerPool) -> None:
    """While nothing runs nobody is the worse for it: ten times."""
    pool = of_a_warden
    seen = set()
    for n in range(10):
        assert value(pool, double, n) == 2 * n
        pid = pid_of_warden(pool)
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
        assert until(lambda pid=pid: not alive(pid))
    assert value(pool, double, 1) == 2
    assert len({*seen, pid_of_warden(pool)}) == 11
    assert until(lambda: all(map(gone, seen)))


def test_a_warden_that_dies_under_calls_costs_those_that_run(of_a_warden: WorkerPool, tmp_path: Path) -> None:
    """They are crashes of their workers; what is queued runs with the next warden, and nothing is left of them."""
    pool, port = of_a_warden, Inbox()
    session = pool.open(port)
    session.submit([call(wait_for, str(tmp_path / "never"), str(tmp_path / f"pid{n}"), key=f"lost{n}") for n in (0, 1)])
    assert until(lambda: all((tmp_path / f"pid{n}").exists() for n in (0, 1)))
    session.submit([call(double, n, key=n) for n in range(20)])
    first = pid_of_warden(pool)
    os.kill(first, signal.SIGKILL)
    got = dict(port.take(22))
    lost = [got.pop(f"lost{n}") for n in (0, 1)]
    assert [(type(each), type(each.exception), each.exception.signal) for each in lost] == [
        (Failure, WorkerCrashedError, "SIGKILL")
    ] * 2
    assert {key: (type(each), each.value) for key, each in got.items()} == {n: (Success, 2 * n) for n in range(20)}
    assert pid_of_warden(pool) != first
    pids = [int((tmp_path / f"pid{n}").read_text()) for n in (0, 1)]
    assert until(lambda: not any(map(alive, pids)))
    session.close()
    assert type(error(pool, crash, 1)) is WorkerCrashedError
