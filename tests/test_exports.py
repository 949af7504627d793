"""What is public: the names that a module without underscore lists in its tuple ``__all__``, and no others.

A name without underscore that is not listed is shared inside the package: another module imports it. A name that
nobody else uses is listed or gets an underscore. The built-ins of the development engine are workers, no API.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import typing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = Path(__file__).parents[1] / "iii_anyio"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT = PACKAGE / "__init__.py"
PUBLIC = [
    path
    for path in FILES
    if not any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(PACKAGE).parts)
    and "builtins" not in path.parts
]


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def defined(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines itself, type variables aside."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "TypeVarTuple"))):
                pass
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                pass


@cache
def imports(path: Path) -> list[tuple[str, str]]:
    """Last part of a module's name, and a name that is imported from it."""
    return [
        (node.module.rpartition(".")[2], alias.name)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]


def unlisted(source: str, listed: Iterable[str], shared: Iterable[str]) -> set[str]:
    names = {name for name in defined(ast.parse(source)) if not name.startswith("_") and name != "logger"}
    return names - set(listed) - set(shared)


@pytest.mark.parametrize("path", PUBLIC, ids=dotted)
def test_a_public_module_lists_exactly_what_is_public(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    listed = getattr(module, "__all__", None)
    assert isinstance(listed, tuple), "a public module has a tuple __all__"
    assert len(set(listed)) == len(listed)
    assert not [name for name in listed if not hasattr(module, name)]

    others = [other for other in FILES if other not in {path, ROOT}]
    shared = [name for other in others for origin, name in imports(other) if origin == path.stem]
    missing = unlisted(path.read_text("utf-8"), listed, shared)
    assert not missing, "list these in __all__, or give them an underscore"

    exported = [name for origin, name in imports(ROOT) if origin == path.stem]
    missing = set(exported) - set(listed)
    assert not missing, "the root exports these: they are public here too"


def test_a_public_name_that_is_neither_listed_nor_shared_is_found() -> None:
    source = "T = TypeVar('T')\n_x = 1\nlogger = 0\nA: int = 1\nB = 2\ndef f(): ...\nasync def g(): ...\nclass C: ..."
    assert unlisted(source, ("A",), ["B"]) == {"f", "g", "C"}


def test_classes_and_functions_of_the_root_say_that_they_are_of_the_root() -> None:
    """Not models nor typed dicts: pydantic looks up their late annotations in the module they name."""
    root = importlib.import_module("iii_anyio")
    elsewhere = {
        name: value.__module__
        for name in root.__all__
        if (inspect.isfunction(value := getattr(root, name)) or inspect.isclass(value))
        and not (inspect.isclass(value) and issubclass(value, BaseModel))
        and not typing.is_typeddict(value)
        and value.__module__ != "iii_anyio"
    }
    assert elsewhere == {}
