"""Every callable of upstream's 0.25 packages takes here what it takes there (A.1, tiers R and S, and the client).

Of each public function, and each public method and constructor of each public class: the same parameters by name and
by position, with the same defaults; ours may take more. What differs on purpose is in ``DIFFERENT``, with its reason;
``docs/migration.md`` has the counts.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from tests.api.test_parity_names import DIFFERENT as DIFFERENT_MODELS
from tests.api.test_parity_names import MODELS, OURS, TAKEN, public_names

MIGRATION = Path(__file__).parents[2] / "docs" / "migration.md"

MORE = {
    "iii.iii.III": "iii_anyio.client.III",
    "iii.iii.resolve_engine_url": "iii_anyio.client.resolve_engine_url",
}
"""Of tier T (A.1): what the issue asks for beside the public names. Upstream's and ours."""

ONLY_MADE_HERE = "programs are given it, and do not make it"

DIFFERENT: dict[str, tuple[set[str], str]] = {
    "iii.Observer.__init__": (
        {"filter_: name", "info: name", "owner: name", "revision: name", "owning: required", "record: required",
         "watched: required"},
        ONLY_MADE_HERE,
    ),
    "iii.ObserverHandle.__init__": (
        {"message: name", "observer_id: name", "on_dispose: name", "schedule: name", "sdk_thread: name",
         "observation: required", "observing: required"},
        ONLY_MADE_HERE,
    ),
    "iii.filter.FilterError.invalid": ({"missing"}, "a helper of compile_filter; FilterError itself is the same"),
}  # fmt: skip
"""Callable of upstream's → how ours differs, why."""


class Compared(NamedTuple):
    """One callable of both sides."""

    name: str
    ours: Callable[..., Any] | None
    theirs: Callable[..., Any]
    is_method: bool


def methods(cls: type) -> Iterator[str]:
    """Names of what a class can be asked to do, its constructor first."""
    plain = (
        not issubclass(cls, BaseModel | Enum)
        and not typing.is_typeddict(cls)
        and not getattr(cls, "_is_protocol", False)
    )
    if plain and inspect.getattr_static(cls, "__init__") is not object.__init__:
        yield "__init__"
    for name in dir(cls):
        owners = [base for base in cls.__mro__ if name in vars(base) and base.__module__.startswith("iii")]
        if not name.startswith("_") and owners and inspect.isroutine(getattr(cls, name)):
            yield name


def compared() -> list[Compared]:
    found: dict[int, tuple[str, Any, Any]] = {}
    pairs: list[tuple[str, Any, ModuleType, str]] = [
        (f"{theirs}.{name}", getattr(importlib.import_module(ours), name, None), importlib.import_module(theirs), name)
        for theirs, ours in OURS.items()
        for name in public_names(importlib.import_module(theirs))
    ]
    for theirs, ours in MORE.items():
        there, _, name = theirs.rpartition(".")
        here, _, ours_name = ours.rpartition(".")
        pairs.append((theirs, getattr(importlib.import_module(here), ours_name), importlib.import_module(there), name))
    for dotted, mine, module, name in pairs:
        value = getattr(module, name)
        if callable(value) and mine is not None and getattr(value, "__module__", "").startswith("iii"):
            found.setdefault(id(value), (dotted, mine, value))
    result: list[Compared] = []
    for dotted, mine, value in found.values():
        if not inspect.isclass(value):
            result.append(Compared(dotted, mine, value, is_method=False))
            continue
        for name in methods(value):
            is_method = not isinstance(inspect.getattr_static(value, name), staticmethod | classmethod)
            result.append(Compared(f"{dotted}.{name}", getattr(mine, name, None), getattr(value, name), is_method))
    return result


def differences(entry: Compared) -> set[str]:
    """How ours does not take what theirs takes; of several overloads the one that comes closest counts."""
    if entry.ours is None:
        return {"missing"}
    shapes = typing.get_overloads(entry.ours) or [entry.ours]
    found = [_differences(shape, entry.theirs, entry.is_method) for shape in shapes]
    closest = min(found, key=len)
    if inspect.iscoroutinefunction(entry.ours) != inspect.iscoroutinefunction(entry.theirs):
        closest |= {"awaited"}
    return closest


def _differences(ours: Callable[..., Any], theirs: Callable[..., Any], is_method: bool) -> set[str]:
    mine, wanted = (list(inspect.signature(f).parameters.values())[is_method:] for f in (ours, theirs))
    mine, wanted = ([p for p in parameters if not p.name.startswith("_")] for parameters in (mine, wanted))
    by_name = {parameter.name: parameter for parameter in mine}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in mine)
    places = [p.name for p in mine if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    found: set[str] = set()
    for place, parameter in enumerate(wanted):
        here = by_name.get(parameter.name)
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            if not any(p.kind is parameter.kind for p in mine):
                found.add(str(parameter).partition(":")[0])
            continue
        if here is None or here.kind is here.POSITIONAL_ONLY:
            if not takes_any:
                found.add(f"{parameter.name}: name")
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY and places[place : place + 1] != [parameter.name]:
            found.add(f"{parameter.name}: place")
        is_optional = here.default is not here.empty
        means_nothing = type(parameter.default) is object and is_optional  # upstream's word for "not given"
        if parameter.default is parameter.empty or means_nothing:
            continue
        if not is_optional or here.default != parameter.default:
            found.add(f"{parameter.name}: default {here.default!r}")
    names = {parameter.name for parameter in wanted}
    for parameter in mine:
        is_variable = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        if parameter.name not in names and parameter.default is parameter.empty and not is_variable:
            found.add(f"{parameter.name}: required")
    return found


COMPARED = compared()


@pytest.mark.parametrize("entry", COMPARED, ids=lambda entry: entry.name)
def test_ours_takes_what_upstreams_takes(entry: Compared) -> None:
    assert differences(entry) == DIFFERENT.get(entry.name, (set(), ""))[0]


def test_differences_are_of_callables_that_are_compared() -> None:
    assert set(DIFFERENT) <= {entry.name for entry in COMPARED}
    assert all(reason for _, reason in DIFFERENT.values())


def test_a_call_shape_that_ours_does_not_take_is_found() -> None:
    def theirs(a: int, b: int = 1, *, c: int = 2) -> None: ...
    def same(a: int, b: int = 1, *, c: int = 2, d: int = 3) -> None: ...
    def other(b: int, a: int = 5, *, d: int) -> None: ...
    async def awaited(a: int, b: int = 1, *, c: int = 2) -> None: ...
    def anything(*args: Any, **kwargs: Any) -> None: ...

    def found(ours: Callable[..., Any]) -> set[str]:
        return differences(Compared("f", ours, theirs, is_method=False))

    assert found(same) == found(anything) == set()
    assert found(other) == {"a: place", "b: place", "b: default <class 'inspect._empty'>", "c: name", "d: required"}
    assert found(awaited) == {"awaited"}


def test_the_migration_page_has_the_counts() -> None:
    """So that it cannot rot."""
    names = sum(len(public_names(importlib.import_module(module))) for module in OURS)
    on_purpose = len(DIFFERENT) + len(DIFFERENT_MODELS) + len(TAKEN)
    page = " ".join(MIGRATION.read_text("utf-8").split())
    assert f"{names} names, {len(MODELS)} models and {len(COMPARED)} callables" in page
    assert f"{on_purpose} of them differ on purpose" in page


def test_each_difference_on_the_migration_page_names_a_test_that_there_is() -> None:
    rows = re.findall(r"^\| .+ \| `(tests/[\w/]+\.py)::(test_\w+)` \|$", MIGRATION.read_text("utf-8"), re.MULTILINE)
    table = MIGRATION.read_text("utf-8").partition("## What is different on purpose")[2].partition("\n## ")[0]
    assert len(rows) == len([line for line in table.splitlines() if line.startswith("| ")]) - 1 > 20
    files = {path: (MIGRATION.parents[1] / path).read_text("utf-8") for path, _ in rows}
    assert [(path, name) for path, name in rows if f"def {name}(" not in files[path]] == []
