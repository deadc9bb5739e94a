"""`command`: a program of the system as a process, without a shell.

A command is an argument list of templates, whose placeholders are its parameters. What stands behind it is an object
that is called like a coroutine function: waiting for a child needs no thread.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Collection, Coroutine, Mapping, Sequence
from keyword import iskeyword
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, overload

from pmflow.decorator import FunctionProcess, Settings, process
from pmflow.errors import CommandError, ConfigurationError, did_you_mean, nearest
from pmflow.templates import Template, Text

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pmflow.decorator import MapSettings
    from pmflow.executors.children import Ended

__all__ = ["command"]

HIGHEST_CODE = 255


@overload
def command(
    arguments: Sequence[Text],
    *,
    returns: Text | None = None,
    text: Literal[True] = True,
    ok_codes: Collection[int] = (0,),
    cwd: Text | None = None,
    env: Mapping[str, Text] | None = None,
    stdin: str | bytes | None = None,
    **settings: Unpack[MapSettings],
) -> FunctionProcess[..., Coroutine[Any, Any, str], list[str]]: ...
@overload
def command(
    arguments: Sequence[Text],
    *,
    returns: Text | None = None,
    text: Literal[True] = True,
    ok_codes: Collection[int] = (0,),
    cwd: Text | None = None,
    env: Mapping[str, Text] | None = None,
    stdin: str | bytes | None = None,
    **settings: Unpack[Settings],
) -> FunctionProcess[..., Coroutine[Any, Any, str], str]: ...
@overload
def command(
    arguments: Sequence[Text],
    *,
    text: Literal[False],
    ok_codes: Collection[int] = (0,),
    cwd: Text | None = None,
    env: Mapping[str, Text] | None = None,
    stdin: str | bytes | None = None,
    **settings: Unpack[MapSettings],
) -> FunctionProcess[..., Coroutine[Any, Any, bytes], list[bytes]]: ...
@overload
def command(
    arguments: Sequence[Text],
    *,
    text: Literal[False],
    ok_codes: Collection[int] = (0,),
    cwd: Text | None = None,
    env: Mapping[str, Text] | None = None,
    stdin: str | bytes | None = None,
    **settings: Unpack[Settings],
) -> FunctionProcess[..., Coroutine[Any, Any, bytes], bytes]: ...
def command(  # noqa: PLR0913 - what `subprocess.run` takes, as far as it is of use here
    arguments: Sequence[Text],
    *,
    returns: Text | None = None,
    text: bool = True,
    ok_codes: Collection[int] = (0,),
    cwd: Text | None = None,
    env: Mapping[str, Text] | None = None,
    stdin: str | bytes | None = None,
    **settings: Any,
) -> FunctionProcess[..., Any, Any]:
    r"""Make a process of a program and its arguments; its value is what the program writes to its output.

    Arguments, ``returns``, ``cwd``, the values of ``env`` and ``stdin`` are templates: each ``{name}`` in them is a
    parameter of the process, ``{{`` and ``}}`` are braces. Values are put in as ``str()`` gives them, paths and bytes
    as they are. A list for a placeholder that is a whole argument becomes as many arguments. There is no shell: nothing
    in a value has a meaning.

    A timeout, a cancellation and the failure of the run kill the program at once (SIGKILL), with all it has started in
    its session and below it. It runs in a session of its own, so Ctrl-C reaches it through pmflow only. Where it must
    also end when this program is itself killed, make it ``type="process"``: nothing outlives a worker. What it has
    left running when it ends by itself is left alone; the command ends when nothing holds its output any more.

    The process fails with `CommandError` where the program cannot be started or ends badly.

    Args:
        arguments: the program and its arguments. Without a slash, the program is looked for on ``PATH``.
        returns: the value, in place of the output, which is then dropped: ``"{target}"``, say.
        text: whether the output is text, in UTF-8; False: bytes.
        ok_codes: exit codes that are no failure.
        cwd: the folder in which it runs.
        env: variables that are added to the environment.
        stdin: what it reads; text, which is sent in UTF-8, or bytes, which are no template. Without it, it reads
            nothing.
        **settings: those of `process`. The id is the name of the program, if it can be a parameter's. Mapped, a
            command runs as often at once as a function in threads does, unless ``limit`` says otherwise.

    Raises:
        ConfigurationError: what cannot be a command, or a setting that cannot work.

    >>> import pmflow
    >>> sort = command(["sort", "{options}", "-"], stdin="{text}")
    >>> pmflow.run(sort, inputs={"options": ["-r", "-n"], "text": "9\n10\n"}).value
    '10\n9\n'
    >>> fail = command(["sh", "-c", "echo no such page >&2; exit 3"], id="fail")
    >>> pmflow.run(fail, on_error="return")["fail"].error_message
    'sh ended with exit code 3: no such page'
    """
    _check_settings(settings)
    templates = _arguments(arguments)
    if returns is not None and not text:
        raise ConfigurationError(
            "command: text=False is about the output, and returns= gives text in its place; leave one of them out",
            setting="text",
        )
    function = Command(
        arguments=templates,
        returns=None if returns is None else Template.of(returns, "returns"),
        text=text,
        ok_codes=_codes(ok_codes),
        cwd=None if cwd is None else Template.of(cwd, "cwd"),
        env=_environment(env),
        stdin=_stdin(stdin),
        name=str(settings["id"]) if "id" in settings else _default_id(templates[0]),
        caller=sys._getframe(1),  # noqa: SLF001 - the module it is written in is where its parameters are looked for
    )
    made: Any = staticmethod(function)  # also in a class: a command is no method
    from pmflow.executors.pools import thread_slots

    settings.setdefault("limit", thread_slots())
    return process(made, **settings)


# What was written


def _check_settings(settings: Mapping[str, Any]) -> None:
    known = (*Settings.__annotations__, "map_over")
    for name in settings:
        if name not in known:
            hint = did_you_mean(nearest(name, (*known, "returns", "text", "ok_codes", "cwd", "env", "stdin")))
            raise ConfigurationError(f"command has no setting {name!r}{hint}", setting=name)


def _arguments(arguments: Any) -> tuple[Template, ...]:
    if isinstance(arguments, (str, bytes, os.PathLike)):
        raise ConfigurationError(
            f"command takes a list of arguments, not {arguments!r}: there is no shell to take it apart; "
            f'write command(["program", "argument", "{{parameter}}"])'
        )
    if not isinstance(arguments, Sequence) or not arguments:
        raise ConfigurationError(f"command takes a list of arguments, the program first, not {arguments!r}")
    return tuple(Template.of(each, f"the argument {each!r:.60}") for each in arguments)


def _environment(env: Any) -> tuple[tuple[str, Template], ...]:
    if env is None:
        return ()
    if not isinstance(env, Mapping):
        raise ConfigurationError(f"command: env maps names of variables to texts, and is not {env!r}", setting="env")
    for name in env:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigurationError(f"command: {name!r} in env is no name of a variable", setting="env")
    return tuple((name, Template.of(value, f"{name!r} in env")) for name, value in env.items())


def _stdin(stdin: Any) -> Template | bytes | None:
    if isinstance(stdin, os.PathLike):
        raise ConfigurationError(
            f"command: stdin is what the program reads, and no file, as {stdin!r} is; give that as an argument, or "
            f"read it in a process, and write stdin='{{text}}'",
            setting="stdin",
        )
    return stdin if isinstance(stdin, bytes) or stdin is None else Template.of(stdin, "stdin")


def _codes(codes: Any) -> frozenset[int]:
    found: list[Any] = list(codes) if isinstance(codes, Collection) and not isinstance(codes, (str, bytes)) else []
    if not found or not all(type(code) is int and 0 <= code <= HIGHEST_CODE for code in found):
        raise ConfigurationError(
            f"command: ok_codes must be exit codes, 0 to {HIGHEST_CODE}, not {codes!r}; write ok_codes=(0, 1)",
            setting="ok_codes",
        )
    return frozenset(found)


def _default_id(program: Template) -> str:
    name = os.path.basename("".join(text for text, _ in program.parts))  # noqa: PTH119 - of a text
    if any(program.names()) or not name.isidentifier() or iskeyword(name):
        raise ConfigurationError(
            f"command: the name of the program {program.text!r} cannot be the name of a parameter, so it is no id; "
            f"give one: id=...",
            setting="id",
        )
    return name


# The function


class Command:
    """What the process of a command calls: a coroutine function, in the shape of an object that can be pickled.

    Its name, module, docstring and signature are where those of a function are.
    """

    def __init__(  # noqa: PLR0913 - what `command` takes
        self,
        *,
        arguments: tuple[Template, ...],
        returns: Template | None,
        text: bool,
        ok_codes: frozenset[int],
        cwd: Template | None,
        env: tuple[tuple[str, Template], ...],
        stdin: Template | bytes | None,
        name: str,
        caller: FrameType,
    ) -> None:
        self._arguments = arguments
        self._returns = returns
        self._text = text
        self._ok_codes = ok_codes
        self._cwd = cwd
        self._env = env
        self._stdin = stdin
        self._place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        self.__name__ = self.__qualname__ = name
        self.__globals__ = caller.f_globals
        self.__module__ = str(caller.f_globals.get("__name__", "__main__"))
        self.__doc__ = f"Run the command: {' '.join(each.text for each in arguments)}."
        self.__signature__ = self._signature()

    def _signature(self) -> inspect.Signature:
        """Return its placeholders in order of appearance, as parameters."""
        others = (self._cwd, *(each for _, each in self._env), self._stdin, self._returns)
        templates = (*self._arguments, *(each for each in others if isinstance(each, Template)))
        names = dict.fromkeys(name for each in templates for name in each.names())
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        return inspect.Signature(parameters, return_annotation=str if self._text else bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the module it is written in."""
        return {name: value for name, value in vars(self).items() if name != "__globals__"}

    def __repr__(self) -> str:
        return f"<command '{self.__name__}' at {self._place}>"

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the program and return the value.

        Raises:
            CommandError: a value that cannot stand in it, a program that cannot be started, or one that ends badly.
        """
        values = self.__signature__.bind(*args, **kwargs).arguments
        arguments = [each for template in self._arguments for each in template.expanded(values)]
        returns = None if self._returns is None else self._returns.filled(values)
        ended = await self._ended(arguments, values)
        self._check(arguments, ended.returncode, ended.stderr)
        if returns is not None:
            return returns
        return _decoded(arguments, ended) if self._text else ended.output

    async def _ended(self, arguments: list[str], values: Mapping[str, Any]) -> Ended:
        from pmflow.executors.children import Child

        folder = None if self._cwd is None else self._cwd.filled(values)
        environment = {name: template.filled(values) for name, template in self._env}
        try:
            stdin = self._stdin.encoded(values) if isinstance(self._stdin, Template) else self._stdin
            if not arguments:
                raise ValueError("its argument list is empty")  # noqa: TRY301 - one of several reasons
            return await Child(
                arguments,
                folder=folder,
                environment={**os.environ, **environment} if environment else None,
                told=stdin,
                heard=self._returns is None,
            ).run()
        except (OSError, ValueError) as error:
            raise CommandError(_why_not_started(error, arguments, folder), command=arguments) from error

    def _check(self, arguments: list[str], returncode: int, stderr: bytes) -> None:
        from pmflow.executors.platform import describe_exit

        code, by = describe_exit(returncode)
        if code in self._ok_codes:
            return
        said = stderr.decode("utf-8", "replace")
        raise CommandError(
            f"{_program(arguments)} {f'ended with exit code {code}' if by is None else f'was ended by {by}'}"
            f"{_shown(said)}",
            command=arguments,
            code=code,
            signal=by,
            stderr=said,
        )


def _program(arguments: list[str]) -> str:
    return os.path.basename(arguments[0])  # noqa: PTH119 - of a text


SHOWN = 1_000
"""How many characters of stderr a message has."""


def _shown(stderr: str) -> str:
    stderr = stderr.strip()
    return (f": {stderr}" if len(stderr) <= SHOWN else f": ... {stderr[-SHOWN:]}") if stderr else ""


def _why_not_started(error: Exception, arguments: list[str], folder: str | None) -> str:
    if not arguments:
        return f"a command was not started: {error}"
    program = arguments[0]
    if isinstance(error, FileNotFoundError) and error.filename != folder:
        if os.path.dirname(program):  # noqa: PTH120 - of a text
            return f"the program {program!r} was not found, or what is to interpret it"
        return f"the program {program!r} was not found on PATH; install it, or give its path"
    if isinstance(error, OSError) and folder is not None and error.filename == folder:
        return f"{program!r} was not started: its folder {folder!r} cannot be used ({error.strerror})"
    return f"{program!r} was not started: {error}"


def _decoded(arguments: list[str], ended: Ended) -> str:
    try:
        return ended.output.decode()
    except UnicodeDecodeError as error:
        raise CommandError(
            f"the output of {_program(arguments)} is no text in UTF-8 ({error}); text=False gives it as bytes",
            command=arguments,
            code=ended.returncode,
        ) from None
