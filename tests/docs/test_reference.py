"""Every public object has a docstring in the form of the others, and a place in the reference that is made of them."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from ruamel.yaml import YAML

from iii_anyio import errors
from tests.test_exports import PACKAGE, dotted

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
COMMAND_LINE = ("iii_anyio.cli", "iii_anyio.__main__")
"""Its reference is cli.md, and ``--help``."""

MODULES = [
    name
    for path in sorted(PACKAGE.rglob("*.py"))
    for name in [dotted(path)]
    if not any(part.startswith("_") for part in name.split(".")) and "builtins" not in name
    if not name.startswith(COMMAND_LINE)
]
DIRECTIVES = [
    found
    for page in sorted(REFERENCE.glob("*.md"))
    for found in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
]
SECTIONS = {"Args", "Attributes", "Raises", "Returns", "Yields"}


def public(module: str) -> Iterator[tuple[str, Any]]:
    """Classes and functions that a module lists, with the methods and properties of the classes; ours only."""
    home = importlib.import_module(module)
    for name in home.__all__:
        value = getattr(home, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)) or not is_ours(value):
            continue
        yield f"{module}.{name}", value
        if not inspect.isclass(value):
            continue
        for member in dir(value):
            owners = [base for base in value.__mro__ if member in vars(base)]
            if member.startswith("_") or not owners or not is_ours(owners[0]):
                continue
            attribute = inspect.getattr_static(value, member)
            if isinstance(attribute, property | staticmethod | classmethod) or inspect.isfunction(attribute):
                yield f"{module}.{name}.{member}", getattr(value, member)


def is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("iii_anyio")


def sections(text: str) -> dict[str, list[str]]:
    """Names at the beginning of the entries of each section."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in inspect.cleandoc(text).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            section = line.rstrip(":")
            found[section] = []
        elif line and not line.startswith(" "):
            section = ""
        elif section and (match := re.match(r" {4}(\*{0,2}[\w.]+)(?: \([^)]*\))?:", line)):
            found[section].append(match[1])
    return found


PUBLIC = dict(entry for module in MODULES for entry in public(module))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    text = importlib.import_module(module).__doc__
    assert text
    assert text.partition("\n")[0].endswith((".", ":")), text.partition("\n")[0]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_object_has_a_docstring_in_the_form_of_the_others(name: str) -> None:
    value = PUBLIC[name]
    text = value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)
    assert text, "a docstring is missing"
    assert not text.startswith(f"{name.rpartition('.')[2]}("), "that is what @dataclass writes"
    summary = inspect.cleandoc(text).partition("\n\n")[0]
    assert summary.endswith((".", ":", "``")), f"the summary is a sentence: {summary!r}"
    entries = sections(text)
    if "Args" in entries and not inspect.isclass(value):
        parameters = inspect.signature(value).parameters
        assert [entry for entry in entries["Args"] if entry.lstrip("*") not in parameters] == []
    known = {*vars(builtins), *vars(anyio), *vars(errors), "ChannelClosedError", "FilterError", "ValidationError"}
    raised = {entry.rpartition(".")[2] for entry in entries.get("Raises", ())}
    assert raised - known == set()


@pytest.mark.parametrize("module", [module for module in MODULES if module != "iii_anyio"])
def test_a_public_module_is_in_the_reference(module: str) -> None:
    """As a whole, or name by name, or as one that shows what is defined elsewhere."""
    if module in DIRECTIVES or f"`{module}`" in (REFERENCE / "index.md").read_text("utf-8"):
        return
    home = importlib.import_module(module)
    shown = {name for name in home.__all__ if f"{module}.{name}" in DIRECTIVES}
    assert shown, "no page of docs/reference has it"
    documented = [getattr(home, name) for name in shown]
    assert [name for name in home.__all__ if getattr(home, name) not in documented] == []


def test_what_the_reference_shows_is_there_and_is_shown_once() -> None:
    assert len(set(DIRECTIVES)) == len(DIRECTIVES)
    for directive in DIRECTIVES:
        if directive not in MODULES:
            module, _, name = directive.rpartition(".")
            assert name in importlib.import_module(module).__all__


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for below in entry.values():
                yield from pages(below)
        else:
            for below in entry:
                yield from pages(below)

    listed = list(pages(YAML(typ="safe").load((ROOT / ".mkdocs.yml").read_text("utf-8"))["nav"]))
    there = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    wanted = {page for page in there if not page.startswith(("changes/", "skill/"))}
    assert sorted(wanted - set(listed)) == [], "add these to the navigation in .mkdocs.yml"
    assert sorted(set(listed) - wanted) == []


def test_a_docstring_without_form_is_found() -> None:
    """Of the check itself."""
    text = """Say.\n\nArgs:\n    a: One.\n        More: of it.\n    **b: Two.\n\nRaises:\n    ValueError: No.\n"""
    assert sections(text) == {"Args": ["a", "**b"], "Raises": ["ValueError"]}
