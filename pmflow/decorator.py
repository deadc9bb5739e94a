"""`@process`, and what it makes of a function: `FunctionProcess`.

What is known of a function (its parameters and what they want) is read once, in a `_Function`; `options()` makes a copy
that shares it, so a graph of a million processes of one function costs a million small objects and nothing more.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ForwardRef,
    Generic,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
)

from attrs import evolve, fields

from pmflow.base import BaseProcess
from pmflow.config import ProcessConfig, ProcessId, ProcessType, RetryStrategy, source_texts
from pmflow.errors import ConfigurationError, did_you_mean, nearest
from pmflow.hints import Hints
from pmflow.limits import Limit, Rate
from pmflow.results import ProcessMetadata, ProcessResult

if TYPE_CHECKING:
    from typing_extensions import Required, Self, Unpack

    from pmflow.workflow import Workflow

__all__ = ["FunctionProcess", "Settings", "process"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
T = TypeVar("T")

Reference = str | ProcessId | BaseProcess[Any]
"""What names a process."""


class Settings(TypedDict, total=False):
    """What `@process` takes (see `ProcessConfig`)."""

    id: str | ProcessId
    type: str | ProcessType
    timeout: float | None
    retries: int | RetryStrategy | None
    crash_retries: int
    dependencies: Mapping[str, Reference | tuple[Reference, ...]]
    after: Any
    outputs: str | Sequence[str]
    required: bool
    fallback: Any
    limit: int | str | Limit | Rate | None
    cpus: int
    when: Callable[..., Any] | None
    fail_fast: bool | None
    validation_rules: Any


if TYPE_CHECKING:

    class MapSettings(Settings, total=False):
        """The settings of a mapped process, whose result is a list."""

        map_over: Required[str | Mapping[str, Any]]


_FIELDS = {"id": "process_id", "type": "process_type", "retries": "retry_strategy"}
_KNOWN = (*Settings.__annotations__, "map_over")


def _config_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Translate settings of ``@process`` to the fields of `ProcessConfig`, checking each."""
    for name in settings:
        if name not in _KNOWN:
            hint = did_you_mean(nearest(name, _KNOWN))
            raise ConfigurationError(f"@process has no setting {name!r}{hint}", setting=name)
    fields = {_FIELDS.get(name, name): value for name, value in settings.items()}
    if "dependencies" in fields and not isinstance(fields["dependencies"], Mapping):
        raise ConfigurationError(
            'dependencies of a function map its parameters to what feeds them; write dependencies={"page": "source"}, '
            "or after=[...] for processes that must only have ended",
            setting="dependencies",
        )
    ProcessConfig(**fields)
    return fields


# What is known of a function


# What a parameter wants of its source:
VALUE = 0  # its value
DEFAULT = 1  # its value, or the parameter keeps its default
RESULT = 2  # its ProcessResult, whatever it is
RESULT_LIST = 3  # of a mapped source: the ProcessResult of each element

Edge = tuple[str, str, int]
"""Parameter, source, kind."""


class _Function:
    """A function's own facts, shared by every process made of it."""

    __slots__ = (
        "coroutine",
        "function",
        "generator",
        "hints",
        "name",
        "optional",
        "owner",
        "places",
        "positional",
        "scope",
        "static",
        "variadic",
        "wants",
    )

    def __init__(self, function: Callable[..., Any]) -> None:
        self.static = isinstance(function, staticmethod)
        function = function.__func__ if isinstance(function, staticmethod) else function
        self.function = function
        self.name = _name(function)
        inner = _innermost(function)
        asynchronous = inspect.isasyncgenfunction(inner)
        self.generator = asynchronous or inspect.isgeneratorfunction(inner)
        self.coroutine = (
            asynchronous or inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)
        )
        self.scope: dict[str, Any] = getattr(inspect.unwrap(inner), "__globals__", {})
        self.owner: str | None = None
        self.variadic = False
        wants = []
        self.positional: list[tuple[str, Any]] = []
        signature = _signature(function, self.name)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise ConfigurationError(
                    f"'{self.name}' takes *{parameter.name}, which has no names to wire; "
                    f"give it one parameter that receives a list",
                    process_id=self.name,
                )
            if parameter.kind is parameter.VAR_KEYWORD:
                self.variadic = True
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                self.positional.append((parameter.name, parameter.default))
            kind = VALUE if parameter.default is parameter.empty else DEFAULT
            kind = _wanted_result(parameter.annotation, self.scope) or kind
            wants.append((parameter.name, parameter.name, kind))
        self.wants: tuple[Edge, ...] = tuple(wants)
        self.optional = frozenset(name for name, each in signature.parameters.items() if each.default is not each.empty)
        self.hints = Hints.of(inner, signature, self.scope)
        self.places = {parameter: place for place, (parameter, _, _) in enumerate(wants)}

    @property
    def location(self) -> str:
        """File and line, where Python knows them."""
        code = getattr(inspect.unwrap(_innermost(self.function)), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else f"{self.function!r}"

    def check(self, culprit: str, setting: str, names: Mapping[str, Any]) -> None:
        """Refuse names that are no parameters."""
        for name in names:
            if name not in self.places and not self.variadic:
                hint = did_you_mean(nearest(name, self.places))
                raise ConfigurationError(
                    f"'{culprit}' has no parameter {name!r}, which its {setting} names{hint}",
                    process_id=culprit,
                    setting=setting,
                )

    def asked_by(self, names: Iterable[str] | None, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that a condition names: from the values, or else the defaults of the function."""
        if names is None:
            return dict(values)
        found = {name: values[name] for name in names if name in values}
        left = [name for name in names if name not in found and name in self.optional]
        if left:
            own = _signature(self.function, self.name).parameters
            found.update((name, own[name].default) for name in left)
        return found

    def check_candidates(self, culprit: str, sources: Mapping[str, Any]) -> None:
        """Refuse candidates for a parameter that takes the results of all elements, of which there is one."""
        for parameter, _, kind in self.wants:
            if kind == RESULT_LIST and type(sources.get(parameter)) is tuple:
                raise ConfigurationError(
                    f"'{culprit}': {parameter!r} takes a list of results, and cannot have candidates; "
                    f"annotate it as ProcessResult, or name one source",
                    process_id=culprit,
                    setting="dependencies",
                )


def _named(condition: Callable[..., Any], culprit: str) -> dict[str, Any]:
    """Return the parameters of a condition that have to be those of its function: another one may keep its default."""
    asked = _signature(condition, f"the condition of {culprit}").parameters
    fixed = [name for name, each in asked.items() if each.kind is each.POSITIONAL_ONLY]
    if fixed:
        raise ConfigurationError(
            f"'{culprit}': its condition takes {fixed[0]!r} by position only, and is asked by names; take the / away",
            process_id=culprit,
            setting="when",
        )
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: each for name, each in asked.items() if each.kind not in variable and each.default is each.empty}


def names_asked(condition: Callable[..., Any]) -> tuple[str, ...] | None:
    """Return the names that a condition asks for; None: all there are."""
    asked = _signature(condition, "the condition").parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked):
        return None
    return tuple(parameter.name for parameter in asked)


def _innermost(function: Any) -> Any:
    while isinstance(function, (functools.partial, types.MethodType)):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    return function


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def _signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        raise ConfigurationError(
            f"'{name}' has no signature that Python can read, so its parameters are unknown; "
            f"wrap it in a lambda that names them: process(lambda x: {name}(x), id={name!r})",
            process_id=name,
        ) from None


def _wanted_result(annotation: Any, scope: dict[str, Any]) -> int:
    """Return RESULT for `ProcessResult`, RESULT_LIST for a list of them, else 0.

    Annotations are read one by one: one of them may name what is only imported under TYPE_CHECKING.
    """
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, scope)  # noqa: S307 - the program's own annotation, as `get_type_hints` does
        except Exception:  # noqa: BLE001 - a name under TYPE_CHECKING, a forward reference
            return _wanted_by_text(annotation)
        if isinstance(annotation, str):  # a text in the text
            return _wanted_result(annotation, scope)
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        return _wanted_result(get_args(annotation)[0], scope)
    if origin in (Union, types.UnionType):  # such as ProcessResult | None
        return max(_wanted_result(argument, scope) for argument in get_args(annotation))
    if origin is list:
        return RESULT_LIST if any(_wanted_result(argument, scope) for argument in get_args(annotation)) else 0
    return RESULT if isinstance(origin, type) and issubclass(origin, ProcessResult) else 0


def _wanted_by_text(annotation: str) -> int:
    """Say the same of an annotation with names that nobody knows here, by what is written."""
    import ast

    try:
        waiting: list[tuple[ast.expr, int]] = [(ast.parse(annotation.strip(), mode="eval").body, RESULT)]
    except SyntaxError:
        return 0
    while waiting:
        node, wanted = waiting.pop()
        container = node.value if isinstance(node, ast.Subscript) else node
        name = getattr(container, "attr", getattr(container, "id", None))
        if name == "ProcessResult":
            return wanted
        if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a text in the text
            return _wanted_by_text(node.value) and wanted
        if isinstance(node, ast.BinOp):
            waiting += [(node.left, wanted), (node.right, wanted)]
        elif isinstance(node, ast.Subscript):
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if name in ("Optional", "Union"):
                waiting += [(each, wanted) for each in inner]
            elif name in ("list", "List", "Annotated"):
                waiting.append((inner[0], wanted if name == "Annotated" else RESULT_LIST))
    return 0


# The process


class _Shown(str):
    """A text of the class in whose place its instances show their function's."""

    __slots__ = ()

    def __get__(self, instance: Any, _owner: Any = None) -> Any:
        if instance is None:
            return str(self)
        return getattr(instance.__wrapped__, "__doc__" if "\n" in self else "__module__", None)


class FunctionProcess(BaseProcess[T], Generic[P, C, T]):  # noqa: D101 - it has one
    __doc__ = _Shown(
        """A function that is a process. Calling it calls the function; made by `process`.

    Its name, docstring, signature and attributes are those of the function, which is ``__wrapped__``.

    >>> @process(timeout=5)
    ... def double(n: int) -> int:
    ...     return n * 2
    >>> double(21), double.id, double.config.timeout
    (42, 'double', 5)
    """
    )
    __module__ = _Shown(__name__)
    __slots__ = ("_function", "_id", "_settings", "_sources")

    _workflow: Workflow | None = None

    def __init__(self, function: Callable[..., Any], fields: Mapping[str, Any]) -> None:
        self._set_up(_Function(function), fields)

    def _set_up(self, facts: _Function, fields: Mapping[str, Any]) -> None:
        fields = {"process_id": facts.name, **fields}
        if "process_type" not in fields:
            fields["process_type"] = ProcessType.ASYNC if facts.coroutine else ProcessType.THREAD
        config = ProcessConfig(**fields)
        name = self._id = str(config.process_id)
        self._function = facts
        self._settings = config
        sources: dict[str, Any] = dict(config.dependencies)  # type: ignore[arg-type]  # a mapping: checked before
        facts.check(name, "dependencies", sources)
        facts.check(name, "map_over", config.map_over or {})
        if config.when is not None:
            facts.check(name, "when", _named(config.when, name))
        facts.check_candidates(name, sources)
        if name in config.outputs:
            raise ConfigurationError(
                f"'{name}' has an output of its own name: both would be called {name!r}; give one of them another name",
                process_id=name,
                setting="outputs",
            )
        self._sources = tuple(sources.items())
        both = [parameter for parameter, _ in self._sources if parameter in (config.map_over or {})]
        if both:
            raise ConfigurationError(
                f"'{name}': both dependencies and map_over name the parameter {both[0]!r}; leave one of them out",
                process_id=name,
                setting="map_over",
            )
        if config.timeout is not None and config.process_type is ProcessType.ASYNC and not facts.coroutine:
            raise ConfigurationError(
                f"'{name}' is a plain function of type async: it runs inline on the loop, where a timeout can stop "
                f"nothing; use type='thread' or type='process', or make it a coroutine function",
                process_id=name,
                setting="timeout",
            )

    # Still the function

    @property
    def __wrapped__(self) -> Callable[P, C]:
        """The function itself."""
        return self._function.function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function, here and now."""
        return self._function.function(*args, **kwargs)  # type: ignore[no-any-return]

    if not TYPE_CHECKING:  # to type checkers it would have every attribute, and match every protocol

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") and not name.startswith("__"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self._function.function, name)

    def __set_name__(self, owner: type, name: str) -> None:
        self._function.owner = owner.__name__

    def __get__(self, instance: Any, _owner: Any = None) -> FunctionProcess[..., C, T]:
        """On an instance of the class it was decorated in: the process of the bound method."""
        if instance is None or self._function.static:
            return self
        method = types.MethodType(self._function.function, instance)
        return FunctionProcess(method, _own_fields(self.config))

    # As a process

    @property
    def id(self) -> str:
        """The key of this process in graphs and runs."""
        return self._id

    @property
    def config(self) -> ProcessConfig:  # type: ignore[override]
        """Its settings."""
        settings = self._settings
        if settings.process_id == self._id and settings.dependencies == dict(self._sources):
            return settings
        return evolve(settings, process_id=self._id, dependencies=dict(self._sources))

    @property
    def metadata(self) -> ProcessMetadata:
        """Its state and last result, when it is run on its own or by `Workflow.execute`."""
        known: ProcessMetadata = vars(self).setdefault("_metadata", ProcessMetadata(self._id))
        return known

    @metadata.setter
    def metadata(self, metadata: ProcessMetadata) -> None:
        vars(self)["_metadata"] = metadata

    @property
    def strategy(self) -> ProcessType:
        """How it is executed."""
        return self._settings.process_type

    @property
    def entry(self) -> Callable[..., Any]:
        """What an executor calls."""
        return self._function.function

    def process(self, input_data: Mapping[str, Any]) -> Any:
        """Call the function with parameters from a mapping.

        Args:
            input_data: parameter to value.
        """
        return self._function.function(**input_data)

    @overload
    def options(self, **settings: Unpack[MapSettings]) -> FunctionProcess[P, C, list[Any]]: ...
    @overload
    def options(self, **settings: Unpack[Settings]) -> Self: ...
    def options(self, **settings: Any) -> Any:
        """Return a copy with other settings; the original stays as it is.

        Raises:
            ConfigurationError: a setting that cannot work.

        >>> @process(timeout=5)
        ... def fetch(url): ...
        >>> fetch.options(id="fast", timeout=1).config.timeout
        1
        """
        copy: FunctionProcess[P, C, Any] = FunctionProcess.__new__(FunctionProcess)
        cheap = settings.keys() <= _CHEAP and self._settings.map_over is None
        if cheap and type(settings.get("dependencies", {})) is dict:
            copy._function = function = self._function
            copy._settings = self._settings
            copy._id = self._id if "id" not in settings else _checked_id(settings["id"])
            copy._sources = self._sources
            if "dependencies" in settings:
                sources = settings["dependencies"]
                if not sources.keys() <= function.places.keys():
                    function.check(copy._id, "dependencies", sources)
                copy._sources = tuple([(name, source_texts(source)) for name, source in sources.items()])
            return copy
        fields = {**_own_fields(self.config), **_config_settings(settings)}
        copy._set_up(self._function, fields)
        return copy

    def __reduce__(self) -> Any:
        """Travel by reference where it is an attribute of an importable module, so that only its name travels."""
        function = self._function.function
        module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
        if module != "__main__" and _attribute(module, qualname) is self:
            return _attribute, (module, qualname)
        if module != "__main__" and getattr(_attribute(module, qualname), "__wrapped__", None) is function:
            return _copy, (module, qualname, _own_fields(self.config))
        return FunctionProcess, (function, _own_fields(self.config))


_CHEAP = {"id", "dependencies"}


def _checked_id(value: Any) -> str:
    if type(value) is str and value:
        return value
    return str(ProcessConfig(process_id=value).process_id)


def _own_fields(config: ProcessConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _CONFIG_FIELDS}


_CONFIG_FIELDS = [attribute.name for attribute in fields(ProcessConfig)]


def _attribute(module: str | None, qualname: str) -> Any:
    """Return what a module calls by this name, importing the module when it is unpickled elsewhere; None if nothing."""
    if module is None:
        return None
    found: Any = sys.modules.get(module)
    if found is None:
        import importlib

        found = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _copy(module: str, qualname: str, fields: Mapping[str, Any]) -> FunctionProcess[Any, Any, Any]:
    """Return a copy with other settings of what a module calls by this name."""
    return FunctionProcess(_attribute(module, qualname).__wrapped__, fields)


# The decorator


class _Decorator(Protocol):
    """What ``@process(...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> FunctionProcess[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> FunctionProcess[P, R, R]: ...


class _MapDecorator(Protocol):
    """What ``@process(map_over=...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> FunctionProcess[P, Coroutine[Any, Any, R], list[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> FunctionProcess[P, R, list[R]]: ...


class ProcessDecorator:
    """Make a process of a function: ``@process``, ``@process(...)``, ``process(function, ...)``.

    >>> @process(type="thread", timeout=5)
    ... def page(url: str) -> str:
    ...     return f"text of {url}"
    >>> shout = process(lambda page: page.upper(), id="shout")
    >>> import pmflow
    >>> pmflow.run([shout, page], inputs={"url": "a"}, targets=shout).value
    'TEXT OF A'
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    @overload
    def __call__(self, **settings: Unpack[MapSettings]) -> _MapDecorator: ...
    @overload
    def __call__(self, **settings: Unpack[Settings]) -> _Decorator: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, **settings: Unpack[MapSettings]
    ) -> FunctionProcess[P, Coroutine[Any, Any, R], list[R]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, **settings: Unpack[Settings]
    ) -> FunctionProcess[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(
        self, function: Callable[P, R], /, **settings: Unpack[MapSettings]
    ) -> FunctionProcess[P, R, list[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /, **settings: Unpack[Settings]) -> FunctionProcess[P, R, R]: ...
    def __call__(self, *function: Any, **settings: Any) -> Any:
        """Decorate a function, or return a decorator.

        Args:
            function: a function, coroutine function, lambda, closure, partial, bound method, callable or builtin.
            **settings: see `ProcessConfig`; ``id``, ``type`` and ``retries`` are its ``process_id``, ``process_type``
                and ``retry_strategy``. The type of what is written with ``async def`` is async, that of all else
                thread.

        Raises:
            ConfigurationError: what cannot be a process, or a setting that cannot work.
        """
        fields = {**self._fields, **_config_settings(settings)}
        if not function:
            return functools.partial(_decorate, fields)
        return _decorate(fields, *function)

    def defaults(self, **settings: Unpack[Settings]) -> ProcessDecorator:
        """Return a decorator with other defaults.

        >>> robust = process.defaults(retries=2, timeout=5)
        >>> robust(lambda: 1, id="one").config.timeout
        5
        """
        return ProcessDecorator({**self._fields, **_config_settings(settings)})


def _decorate(fields: Mapping[str, Any], function: Any) -> FunctionProcess[Any, Any, Any]:
    if isinstance(function, FunctionProcess):
        return FunctionProcess(function.__wrapped__, {**_own_fields(function.config), **fields})
    if isinstance(function, (BaseProcess, ProcessDecorator)):
        raise ConfigurationError(f"process() takes a function, and {function!r} is none: it is used as it is")
    if isinstance(function, classmethod):
        raise ConfigurationError(
            "a classmethod becomes callable with its class only; write @classmethod above @process, "
            "or make a process of the bound method: process(TheClass.method)"
        )
    if not callable(function):
        raise ConfigurationError(f"process() takes a function or another callable, not {function!r}")
    return FunctionProcess(function, fields)


process = ProcessDecorator({})
"""Make a process of a function; see `ProcessDecorator`."""
