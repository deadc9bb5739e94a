"""Commands: programs of the system as processes, without a shell."""

import asyncio
import gc
import importlib
import inspect
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import pmflow
from pmflow import (
    CommandError,
    ConfigurationError,
    MissingDependencyError,
    ProcessType,
    RetryStrategy,
    command,
    process,
)
from pmflow.executors import children, platform, threads

LIMIT = 20.0
"""Seconds after which what a test waits for counts as missing."""

EVERY_STRATEGY = [kind.value for kind in ProcessType]
PYTHON = sys.executable
ALL_BYTES = bytes(range(1, 256))


def value(made: Any, **inputs: Any) -> Any:
    """Run one command; what it gives."""
    return pmflow.run(made, inputs=inputs).value


def error(made: Any, **inputs: Any) -> Any:
    """Run one command that fails; its exception."""
    return pmflow.run(made, inputs=inputs, on_error="return")[made].exception


def alive(pid: int) -> bool:
    """Whether a process of the system runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descriptors() -> set[str]:
    """What this program has open, but for what it looks with, and for what other tests have left as garbage."""
    gc.collect()
    return {f"{name} {os.path.realpath(f'/proc/self/fd/{name}')}" for name in os.listdir("/proc/self/fd")}


def gone(pid: int) -> bool:
    """Whether a process of the system does not exist any more; a zombie does."""
    return not Path(f"/proc/{pid}").exists()


def said(path: Path) -> list[str]:
    """What others have written to a file."""
    return path.read_text().splitlines() if path.exists() else []


async def lines(path: Path, count: int = 1) -> list[str]:
    """Wait until a file that another process writes has so many lines; they are the event."""
    with anyio.fail_after(LIMIT):
        while len(said(path)) < count:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.002)
    return said(path)


def until(path: Path, count: int = 1) -> None:
    """The same in a thread."""
    deadline = time.monotonic() + LIMIT
    while len(said(path)) < count:
        assert time.monotonic() < deadline, said(path)
        time.sleep(0.002)


async def ended(*pids: int) -> bool:
    """Wait until none of these runs any more."""
    with anyio.fail_after(LIMIT):
        while any(map(alive, pids)):  # noqa: ASYNC110 - what was killed by its number tells nobody
            await anyio.sleep(0.002)
    return True


# What is written


def test_the_placeholders_are_the_parameters() -> None:
    """In order of appearance, each once: of the arguments, of cwd, env, stdin and returns."""
    made = command(
        ["cp", "{b}", "{a}-{b}"], cwd="{folder}", env={"LANG": "{lang}"}, stdin="{text}{a}", returns="{folder}/{name}"
    )
    assert list(inspect.signature(made).parameters) == ["b", "a", "folder", "lang", "text", "name"]
    assert (made.id, made.strategy) == ("cp", ProcessType.ASYNC)
    assert made.__doc__ == "Run the command: cp {b} {a}-{b}."
    assert made.__name__ == "cp"


def test_the_id_is_the_name_of_the_program() -> None:
    """Its base name where that can be a parameter; else one has to be given."""
    assert command(["/usr/bin/ffmpeg"]).id == command([Path("bin") / "ffmpeg"]).id == "ffmpeg"
    assert command(["apt-get"], id="install").id == "install"
    for program in ("apt-get", "python3.11", "import", "{tool}", "bin/"):
        with pytest.raises(ConfigurationError, match="id=") as caught:
            command([program])
        assert caught.value.setting == "id"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "doubled"),
        ("{a.b}", "'{a}'"),
        ("{a[0]}", "'{a}'"),
        ("{a:>5}", "'{a}'"),
        ("{a!r}", "'{a}'"),
        ("{0}", "'{name}'"),
        ("{ a }", "'{name}'"),
        ("{class}", "'{name}'"),
        ("{print $1}", "doubled"),
        ("{a", "doubled"),
        ("}", "doubled"),
        (3, "int"),
        (None, "NoneType"),
        (b"a", "bytes"),
        (["a"], "list"),
    ],
)
def test_what_is_no_template_is_refused(text: Any, words: str) -> None:
    """A placeholder is a name and nothing else, and a template a text; refused where it is written, wherever it is."""
    for wrong in ({"arguments": ["echo", text]}, {"env": {"A": text}}, {"cwd": text}, {"returns": text}):
        if text is not None or wrong.keys() & {"arguments", "env"}:  # no cwd is none
            with pytest.raises(ConfigurationError) as caught:
                command(**{"arguments": ["echo"], **wrong})  # type: ignore[call-overload]
            assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ("ffmpeg -i {source}", {}, ["no shell", "list"]),
        (b"ffmpeg", {}, ["no shell"]),
        (Path("ffmpeg"), {}, ["no shell"]),
        ([], {}, ["the program first"]),
        (3, {}, ["the program first"]),
        (["echo"], {"ok_code": 1}, ["no setting 'ok_code'", "'ok_codes'"]),
        (["echo"], {"retires": 1}, ["no setting 'retires'", "'retries'"]),
        (["echo"], {"shell": True}, ["no setting 'shell'"]),
        (["echo"], {"ok_codes": 1}, ["ok_codes=(0, 1)"]),
        (["echo"], {"ok_codes": ()}, ["ok_codes=(0, 1)"]),
        (["echo"], {"ok_codes": "01"}, ["ok_codes=(0, 1)"]),
        (["echo"], {"ok_codes": (-9,)}, ["ok_codes=(0, 1)"]),
        (["echo"], {"ok_codes": (True,)}, ["ok_codes=(0, 1)"]),
        (["echo"], {"env": ["A=1"]}, ["env maps"]),
        (["echo"], {"env": {"A=B": "1"}}, ["'A=B'"]),
        (["echo"], {"returns": "{a}", "text": False}, ["returns="]),
        (["echo"], {"stdin": Path("a")}, ["no file", "stdin='{text}'"]),
        (["echo"], {"timeout": -1}, ["timeout"]),
        (["echo"], {"id": 3}, ["id"]),
        (["echo", "{source}"], {"map_over": "sauce"}, ["'source'"]),
    ],
)
def test_what_cannot_be_a_command_is_refused(arguments: Any, settings: dict[str, Any], words: list[str]) -> None:
    """Before anything runs, with what to write instead."""
    with pytest.raises(ConfigurationError) as caught:
        command(arguments, **settings)
    assert [word for word in words if word not in str(caught.value)] == []


def test_what_feeds_a_command_is_found_in_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a function; and it travels by reference, so that only its name does."""
    (tmp_path / "commands_of_a_test.py").write_text(
        "import pmflow\n"
        "echo = pmflow.command(['echo', '-n', '{word}'])\n"
        "other = pmflow.command(['echo', '{word}'], id='again')\n"
        "word = pmflow.process(lambda: 'a', id='word')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("commands_of_a_test")
    try:
        assert pmflow.run(module.echo).value == "a"
        assert pickle.loads(pickle.dumps(module.echo)) is module.echo  # noqa: S301 - it is our own
        assert len(pickle.dumps(module.echo)) < 100
        assert value(pickle.loads(pickle.dumps(module.other)), word="b") == "b\n"  # noqa: S301 - it is our own
        with pytest.raises(pmflow.DuplicateProcessError, match=r"commands_of_a_test\.py:2"):
            pmflow.Graph([module.echo, module.echo.options(timeout=1)])
    finally:
        del sys.modules["commands_of_a_test"]


def test_a_missing_parameter_is_refused_before_it_runs() -> None:
    """Like that of a function."""
    with pytest.raises(MissingDependencyError, match="'echo' needs 'wrod'"):
        pmflow.run([command(["echo", "{wrod}"]), process(lambda: "a", id="word")])


class Tools:
    """Has a command among its attributes."""

    echo = command(["echo", "-n", "{word}"])


async def test_calling_it_runs_it() -> None:
    """With its parameters by position or by name; a wrong call is refused like that of a function."""
    echo = command(["echo", "-n", "{self}", "{b}"])
    assert await echo("a", b="b") == "a b"
    assert await Tools().echo("a") == "a"
    for wrong in ({"c": 1}, {}):
        with pytest.raises(TypeError):
            await echo(**wrong)


# What it is given


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_values_are_put_in_as_they_are(strategy: str) -> None:
    """Text, numbers, paths and bytes; a list that is a whole argument becomes several, or none; braces are doubled."""
    made = command(["printf", "%s|", "{list}", "x{n}{path}", "{{n}}", "{none}", "{bytes}"], type=strategy)
    given = {"list": ["a b", 2, Path("c"), b"d"], "n": 1.5, "path": Path("e/f"), "none": (), "bytes": "ä".encode()}
    assert value(made, **given) == "a b|2|c|d|x1.5e/f|{n}|ä|"


def test_bytes_that_are_no_text_arrive() -> None:
    """In an argument, in the environment and on stdin."""
    made = command(
        [PYTHON, "-c", "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1] + os.environ['A']))", "{a}"],
        id="made",
        env={"A": "{a}"},
        text=False,
    )
    assert value(made, a=ALL_BYTES) == ALL_BYTES * 2
    assert value(command(["cat"], stdin="{a}", text=False), a=ALL_BYTES) == ALL_BYTES


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
@pytest.mark.parametrize(
    ("given", "words", "parameter"),
    [
        (None, "'a' is None", "a"),
        (["b"], "'a' is a list", "a"),
        (("b",), "'a' is a tuple", "a"),
    ],
)
def test_values_that_cannot_stand_there_are_refused(strategy: str, given: Any, words: str, parameter: str) -> None:
    """The failure names the parameter; nothing is started."""
    for template in ({"arguments": ["echo", "x{a}"]}, {"cwd": "{a}"}, {"env": {"A": "{a}"}}, {"returns": "{a}"}):
        failed = error(command(**{"arguments": ["echo"], **template}, type=strategy), a=given)  # type: ignore[call-overload]
        assert (type(failed), failed.parameter) == (CommandError, parameter)
        assert words in str(failed)


def test_elements_that_cannot_stand_there_are_refused() -> None:
    """With their place."""
    for wrong, place in ((["a", None], "a[1]"), ([["b"]], "a[0]")):
        assert error(command(["echo", "{a}"]), a=wrong).parameter == place
    assert "null byte" in str(error(command(["echo", "{a}"]), a="\0"))
    assert "surrogates not allowed" in str(error(command(["cat"], stdin="{a}"), a="\ud800"))
    assert "surrogates not allowed" in str(error(command(["echo", "{a}"]), a="\ud800"))
    assert "argument list is empty" in str(error(command(["{a}"], id="a_command"), a=[]))


def test_where_it_runs_and_what_it_reads(tmp_path: Path) -> None:
    """`cwd`, `env`, which is added to the environment, and `stdin`: text, bytes, a template, or nothing."""
    assert value(command(["pwd"], cwd=tmp_path)) == f"{tmp_path}\n"
    assert value(command(["pwd"], cwd="{folder}"), folder=tmp_path) == f"{tmp_path}\n"
    shown = command(["sh", "-c", 'printf %s "$A$HOME"'], id="shown", env={"A": "{a}-"})
    assert value(shown, a="1") == f"1-{os.environ['HOME']}"
    assert value(command(["cat"])) == ""
    assert value(command(["cat"], stdin="")) == ""
    assert value(command(["cat"], stdin="ä")) == "ä"
    assert value(command(["cat"], stdin=b"{a}")) == "{a}"
    assert value(command(["cat"], stdin="<{a}{b}>"), a=3, b=b"4") == "<34>"


def test_it_need_not_read_what_it_is_told() -> None:
    """A program that stops reading has its reasons: that is no failure."""
    assert value(command(["head", "-c", "3"], stdin="{text}"), text="abc" * 1_000_000) == "abc"
    assert value(command(["true"], stdin="{text}"), text="abc" * 1_000_000) == ""


# What it gives


def test_the_value_is_the_output_or_what_is_said() -> None:
    """As text in UTF-8, as bytes, or a template of the parameters, filled."""
    assert value(command(["printf", "a\\r\\nb\\n"])) == "a\r\nb\n"
    assert value(command(["printf", "\\377"], text=False)) == b"\xff"
    assert value(command(["echo", "{a}"], returns="{folder}/{a}.png"), a=1, folder=Path("b")) == "b/1.png"


def test_output_that_is_no_text_fails_and_says_what_to_do() -> None:
    """It names the option."""
    failed = error(command(["printf", "\\377"]))
    assert (type(failed), failed.code, list(failed.command)) == (CommandError, 0, ["printf", "\\377"])
    assert "text=False" in str(failed)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_a_bad_end_says_how(strategy: str) -> None:
    """Exit code or signal, argument list and the end of stderr; the error can be pickled, and comes from a worker."""
    failed = error(command(["sh", "-c", "echo out; echo no {what} >&2; exit 3"], id="a", type=strategy), what="page")
    again = pickle.loads(pickle.dumps(failed))  # noqa: S301 - it is our own
    for each in (failed, again):
        assert (type(each), str(each)) == (CommandError, "sh ended with exit code 3: no page")
        assert (each.code, each.signal, each.stderr) == (3, None, "no page\n")
        assert list(each.command) == ["sh", "-c", "echo out; echo no page >&2; exit 3"]
    failed = error(command(["sh", "-c", "kill -SEGV $$"], id="b", type=strategy))
    assert (str(failed), failed.code, failed.signal, failed.stderr) == ("sh was ended by SIGSEGV", None, "SIGSEGV", "")


def test_other_exit_codes_may_be_good() -> None:
    """`ok_codes` says which; a signal never is."""
    grep = command(["grep", "b"], stdin="{text}", ok_codes=(0, 1))
    assert [value(grep, text=text) for text in ("a\nb\n", "a\n")] == ["b\n", ""]
    assert error(command(["false"], ok_codes=[0, 2])).code == 1
    assert error(command(["true"], ok_codes={1})).code == 0
    assert error(command(["sh", "-c", "kill $$"], id="a", ok_codes=range(256))).signal == "SIGTERM"


def test_of_stderr_the_end_is_kept() -> None:
    """However much it was: 16 kB, and 1,000 characters of it in the message."""
    failed = error(command(["sh", "-c", "seq 100000 >&2; exit 1"], id="a"))
    everything = "".join(f"{n}\n" for n in range(1, 100_001))
    assert failed.stderr == everything[-children.TAIL :]
    assert str(failed) == f"sh ended with exit code 1: ... {everything.strip()[-1000:]}"


def test_a_program_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    """Not on PATH, not at its path, not to be executed, not interpreted, or without the folder to run in."""
    (tmp_path / "plain").write_text("")
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    why = {
        "ffmepg": "the program 'ffmepg' was not found on PATH; install it, or give its path",
        "./ffmepg": "the program './ffmepg' was not found, or what is to interpret it",
        f"{script}": f"the program '{script}' was not found, or what is to interpret it",
        f"{tmp_path / 'plain'}": f"'{tmp_path / 'plain'}' was not started: [Errno 13] Permission denied: ",
    }
    for program, words in why.items():
        failed = error(command([program, "{a}"], id="a_command"), a="b")
        assert (type(failed), list(failed.command), failed.code) == (CommandError, [program, "b"], None)
        assert str(failed).startswith(words)
    failed = error(command(["true"], cwd=tmp_path / "none"))
    assert str(failed).startswith(f"'true' was not started: its folder '{tmp_path / 'none'}' cannot be used")
    assert error(command(["ffmepg"], env={"PATH": "/"})).command == ["ffmepg"]


# As a process


def test_a_command_has_all_the_settings_of_a_process(tmp_path: Path) -> None:
    """Retries, maps, dependencies, after, rules, required and fallbacks of its consumers: those of any function."""
    once = command(
        ["sh", "-c", "test -e done || {{ touch done; exit 1; }}"],
        cwd="{folder}",
        id="once",
        retries=RetryStrategy(max_retries=1, delay_seconds=0),
    )
    echo = command(["echo", "-n", "{word}"], map_over={"word": "words"}, after=[once])
    joined = command(["printf", "%s,", "{parts}"], dependencies={"parts": echo}, validation_rules=str.isascii)
    broken = command(["false"], required=False)

    @process
    def report(printf: str, false: str = "none") -> str:
        return printf + false

    run = pmflow.run(
        [report, joined, echo, once, broken], inputs={"folder": tmp_path, "words": ["a", "b"]}, targets=report
    )
    assert run.value == "a,b,none"
    assert run["once"].attempts == 2


# Its end


STUBBORN = """
import os, signal, subprocess, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
ways = [{}, {"preexec_fn": os.setpgrp}, {"start_new_session": True}]
children = [subprocess.Popen(["sleep", "47"], **way) for way in ways]
orphan = subprocess.run(["sh", "-c", "sleep 47 > /dev/null 2>&1 & echo $!"], stdout=-1, preexec_fn=os.setpgrp)
pids = [os.getpid(), int(orphan.stdout), *(child.pid for child in children)]
CLOSED
with open(sys.argv[1], "a") as file:
    file.write("".join(f"{pid}\\n" for pid in pids))
signal.pause()
"""
TALKING, SILENT = (
    STUBBORN.replace("CLOSED", ""),
    STUBBORN.replace("CLOSED", "os.close(1); os.close(2)").replace("**way)", "stdout=-3, stderr=-3, **way)"),
)
"""It has children in its group, in other groups and in other sessions; and keeps its pipes open, or not."""

stubborn = pytest.mark.parametrize("program", [TALKING, SILENT], ids=["talking", "silent"])


@stubborn
async def test_a_cancelled_command_is_gone_with_its_children(program: str, tmp_path: Path) -> None:
    """Wherever the cancellation strikes: it is killed with what is in its session and below it, reaped, and closed."""
    before = descriptors()
    made = command([PYTHON, "-c", "{program}", "{file}"], id="made")
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(made, program, tmp_path / "pids")
            pids = [int(line) for line in await lines(tmp_path / "pids", 5)]
            assert all(map(alive, pids))
            group.cancel_scope.cancel()
    assert gone(pids[0])  # not even a zombie
    assert await ended(*pids)
    assert descriptors() == before


@stubborn
async def test_systems_without_pidfds(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a thread waits for the end; the promises are the same."""

    def refused(_pid: int) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "pidfd_open", refused)
    await test_a_cancelled_command_is_gone_with_its_children(program, tmp_path)
    assert await command(["echo", "-n", "{a}"])("b") == "b"


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancellations_of_asyncio_that_do_not_end(tmp_path: Path) -> None:
    """There, a task is cancelled as often as it is told, shields or not: it is reaped nevertheless."""
    made = command([PYTHON, "-c", "{program}", "{file}"], id="made")
    task = asyncio.ensure_future(made(TALKING, tmp_path / "pids"))
    pids = [int(line) for line in await lines(tmp_path / "pids", 5)]
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert gone(pids[0])
    assert await ended(*pids)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_command_whose_loop_is_no_more(tmp_path: Path) -> None:
    """Its coroutine is closed: it is killed and reaped in the same breath."""
    coroutine = command([PYTHON, "-c", "{program}", "{file}"], id="made")(TALKING, tmp_path / "pids")
    coroutine.send(None)
    pids = [int(line) for line in await lines(tmp_path / "pids", 5)]
    coroutine.close()
    assert gone(pids[0])
    assert await ended(*pids)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
async def test_the_failure_of_a_run_ends_its_commands(strategy: str, tmp_path: Path) -> None:
    """By every strategy: that of a thread too, although the thread cannot be stopped."""

    @process(type="thread")
    def witness(file: Path) -> None:
        until(file, 5)
        raise ValueError("enough")

    made = command([PYTHON, "-c", "{program}", "{file}"], id="made", type=strategy)
    run = await pmflow.arun(
        [made, witness], inputs={"program": TALKING, "file": tmp_path / "pids"}, on_error="return", fail_fast=True
    )
    assert run["made"].state is pmflow.ProcessState.CANCELLED
    assert await ended(*map(int, await lines(tmp_path / "pids", 5)))


async def test_a_thread_that_was_given_up_before_its_command_began(tmp_path: Path) -> None:
    """The command is killed as soon as it has a number; and one in a thread that nobody has given up is not."""
    child = children.Child(["sleep", "47"], folder=None, environment=None, told=None, heard=True)
    child.end()
    assert (await child.run()).returncode == -signal.SIGKILL
    ends: list[str] = []

    def given_up() -> list[str]:
        with threads.ended_by(lambda: ends.append("first")):
            (tmp_path / "here").write_text("here\n")
            until(tmp_path / "stopped")
        with threads.ended_by(lambda: ends.append("second")):
            (tmp_path / "gone").write_text("gone\n")
        return ends

    async def fails() -> None:
        await lines(tmp_path / "here")
        raise ValueError("enough")

    run = await pmflow.arun([process(given_up, type="thread"), process(fails)], on_error="return", fail_fast=True)
    assert run["given_up"].stopped is False
    (tmp_path / "stopped").write_text("stopped\n")
    await lines(tmp_path / "gone")
    assert ends == ["first", "second"]


def test_ctrl_c_waits_until_a_child_is_known() -> None:
    """One that comes while it is being started strikes right behind: the child is not lost."""
    begun: list[str] = []
    with pytest.raises(KeyboardInterrupt), children.interrupts_held():
        signal.raise_signal(signal.SIGINT)
        begun.append("went on")
    assert begun == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_nothing_to_other_threads() -> None:
    """There, and where Python handles no Ctrl-C, nothing has to wait."""
    found: list[Any] = []

    def look() -> None:
        with children.interrupts_held():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(LIMIT)
    assert found == [signal.default_int_handler]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with children.interrupts_held():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_many_at_once_leave_nothing() -> None:
    """A hundred commands, each with its own answer; no descriptor, child or thread is left."""
    before = descriptors()
    echo = command(["sh", "-c", "read n; echo $((n * n))"], stdin="{n}\n", id="square", map_over={"n": "numbers"})
    run = await pmflow.arun(echo, inputs={"numbers": range(100)})
    assert run.value == [f"{n * n}\n" for n in range(100)]
    assert descriptors() == before


def test_what_is_no_process_any_more_is_nothing_to_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a system without /proc."""
    gone = 2**22 + 1  # beyond the highest number there is
    platform.kill_session(gone)
    monkeypatch.setattr(platform.os, "listdir", _no_folder)
    platform.kill_session(gone)


def _no_folder(path: str) -> list[str]:
    raise FileNotFoundError(path)
