"""Proves that the public names and signatures are those written down, and that each has a docstring."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

from sphinx.pycode import ModuleAnalyzer

from tests.public_api import MODULES, SNAPSHOT, describe


def test_the_public_api_is_the_one_written_down() -> None:
    assert describe() == SNAPSHOT.read_text(), "`python -m tests.public_api` writes the new one down"


def test_every_public_name_and_member_has_a_docstring() -> None:
    assert [name for module in MODULES for name in undocumented(module)] == []


def undocumented(package: str) -> Iterator[str]:
    module = import_module(package)
    if not module.__doc__:
        yield package
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type):
            if not vars(value).get("__doc__"):
                yield f"{package}.{name}"
            for member in public_members(value):
                # An override counts as documented if what it overrides is, as in the reference.
                if not inspect.getdoc(getattr(value, member)):
                    yield f"{package}.{name}.{member}"
        elif inspect.isfunction(value):
            if not value.__doc__:
                yield f"{package}.{name}"
        elif not name.startswith("__") and name not in documented_constants(package):
            yield f"{package}.{name}"


def public_members(value: type) -> Iterator[str]:
    """The methods and properties of a class and of its bases in this package."""
    kinds = (staticmethod, classmethod, property, functools.cached_property)
    for base in value.__mro__:
        if base.__module__.startswith("actorchat"):
            for name, member in vars(base).items():
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds)):
                    yield name


@functools.cache
def documented_constants(package: str) -> frozenset[str]:
    """The constants and type aliases that `package` imports and whose assignment is followed by a docstring."""
    found = set()
    for statement in ast.parse(ModuleAnalyzer.for_module(package).code).body:
        if isinstance(statement, ast.ImportFrom) and statement.module is not None:
            home = ModuleAnalyzer.for_module(statement.module)
            home.analyze()
            found |= {alias.name for alias in statement.names if ("", alias.name) in home.attr_docs}
    return frozenset(found)


def test_the_actor_core_imports_nothing_but_trio_attrs_and_outcome() -> None:
    program = """
import sys
import trio, attrs, outcome
before = set(sys.modules)
import actorchat.actors
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["actorchat"]
