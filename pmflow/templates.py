"""Templates of what stands in a command: texts with placeholders, which are names of parameters and nothing more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from string import Formatter
from typing import Any

from attrs import frozen

from pmflow.errors import CommandError, ConfigurationError

Text = str | os.PathLike[str]
"""What a template is written as."""


@frozen
class Template:
    """A text with placeholders.

    Attributes:
        text: as it was written.
        where: what it is, for those who read an error.
        parts: texts, each with the placeholder behind it, or None.

    >>> files = Template.of("{files}", "an argument")
    >>> list(files.names()), files.expanded({"files": ["a", "b"]})
    (['files'], ['a', 'b'])
    """

    text: str
    where: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, written: Any, where: str) -> Template:
        """Read a template.

        Raises:
            ConfigurationError: it is none.
        """
        text = os.fspath(written) if isinstance(written, os.PathLike) else written
        if not isinstance(text, str):
            raise ConfigurationError(
                f"command: {where} is no text but a {type(text).__name__}; write a string, or a placeholder for it"
            )
        parts: list[tuple[str, str | None]] = []
        try:
            for before, name, form, conversion in Formatter().parse(text):
                if name is not None and (form or conversion or not name.isidentifier() or iskeyword(name)):
                    raise _not_a_parameter(where, name)
                parts.append((before, name))
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(
                f"command: {where} is no template: {error}; a brace that is meant is doubled: '{{{{' or '}}}}'"
            ) from None
        return cls(text, where, tuple(parts) or (("", None),))

    def names(self) -> Iterator[str]:
        """Return its placeholders."""
        return (name for _, name in self.parts if name is not None)

    def filled(self, values: Mapping[str, Any]) -> str:
        """Return the text with these values in it.

        Raises:
            CommandError: one of them cannot stand there.
        """
        found = [
            before + ("" if name is None else _as_text(values[name], name, self.where)) for before, name in self.parts
        ]
        return "".join(found)

    def expanded(self, values: Mapping[str, Any]) -> list[str]:
        """Return the arguments: several where a list stands for the whole of it."""
        ((before, name), *more) = self.parts
        value = values[name] if name is not None and not before and not more else None
        if not isinstance(value, (list, tuple)):
            return [self.filled(values)]
        return [_as_text(each, f"{name}[{place}]", self.where) for place, each in enumerate(value)]

    def encoded(self, values: Mapping[str, Any]) -> bytes:
        """Return it as bytes, with those among the values as they are."""
        found: list[bytes] = []
        for before, name in self.parts:
            found.append(_encoded(before))
            value = b"" if name is None else values[name]
            raw = isinstance(value, (bytes, bytearray, memoryview))
            found.append(bytes(value) if raw else _encoded(_as_text(value, str(name), self.where)))
        return b"".join(found)


def _not_a_parameter(where: str, name: str) -> ConfigurationError:
    simple = name.partition(".")[0].partition("[")[0]
    remedy = f"{{{simple}}}" if simple.isidentifier() and not iskeyword(simple) else "{name}"
    return ConfigurationError(
        f"command: a placeholder is the name of a parameter and nothing more, and {where} has one of {name!r:.60}; "
        f"write '{remedy}', and have what is to stand there made by a process; a brace that is meant is doubled: "
        f"'{{{{' or '}}}}'"
    )


def _as_text(value: Any, name: str, where: str) -> str:
    """Return a value as it stands in a command."""
    if value is None:
        raise CommandError(f"{name!r} is None, which has no place in {where}", parameter=name)
    if isinstance(value, (list, tuple)):
        raise CommandError(
            f"{name!r} is a {type(value).__name__}, which has no place in {where}: it becomes several arguments only "
            f"where its placeholder is a whole argument; otherwise join it before",
            parameter=name,
        )
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return os.fsdecode(bytes(value)) if isinstance(value, (bytes, bytearray, memoryview)) else str(value)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # which is how names of files have their bytes in them
