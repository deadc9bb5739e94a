"""The reference is in the docstrings: every public name has one, and their examples run."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pmflow

MODULES = [
    "pmflow",
    *(
        found.name
        for found in pkgutil.walk_packages(pmflow.__path__, "pmflow.")
        if found.name.rpartition(".")[2] not in {"__main__", "worker_main"}  # programs: importing them runs them
    ),
]


def public_members(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A public object and, if it is a class, the public methods and properties it defines itself."""
    yield name, value
    if inspect.isclass(value):
        for member, definition in vars(value).items():
            if not member.startswith("_") and isinstance(definition, (classmethod, property, staticmethod)):
                yield f"{name}.{member}", definition
            elif not member.startswith("_") and inspect.isfunction(definition):
                yield f"{name}.{member}", getattr(value, member)


def has_docstring(name: str, value: object) -> bool:
    """Whether somebody wrote a docstring: a class's own, not its parent's, and not a named tuple's signature."""
    text = value.__dict__.get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    return text is not None and not text.startswith(f"{name}(")


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of every docstring gives what it says."""
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


@pytest.mark.parametrize("name", pmflow.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    """Public classes, functions, methods and properties are documented where they are defined."""
    members = public_members(name, getattr(pmflow, name))
    assert [path for path, value in members if not has_docstring(path, value)] == []
