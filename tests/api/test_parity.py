"""The two faces offer the same methods with the same signatures; what waits is awaited here and blocks there."""

from __future__ import annotations

import inspect
import typing

import pytest

from iii_anyio import IIIClient, Worker

LIFETIME = {"serve", "wait_ready"}
"""Coroutines of the native face that block on the portal face."""


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_both_faces_have_the_same_public_members() -> None:
    assert public(Worker) == public(IIIClient)


@pytest.mark.parametrize("name", sorted(public(Worker)))
def test_a_member_has_the_same_signature_on_both_faces(name: str) -> None:
    native, portal = getattr(Worker, name), getattr(IIIClient, name)
    if isinstance(native, property):
        assert isinstance(portal, property)
        return
    ours, theirs = inspect.signature(native), inspect.signature(portal)
    # A thread that waits cannot be cancelled from outside, so the portal's wait takes a timeout.
    extra = set(theirs.parameters) - set(ours.parameters)
    assert extra <= ({"timeout"} if name == "wait_ready" else set())
    assert [p for p in theirs.parameters.values() if p.name not in extra] == list(ours.parameters.values())
    assert inspect.iscoroutinefunction(native) == (name in LIFETIME or name.endswith("_async"))
    assert inspect.iscoroutinefunction(portal) == name.endswith("_async")


@pytest.mark.parametrize("name", sorted(public(Worker)))
def test_every_public_method_says_what_it_does(name: str) -> None:
    for cls in (Worker, IIIClient):
        assert inspect.getdoc(getattr(cls, name)), f"{cls.__name__}.{name}"


def test_the_names_of_upstream_are_there() -> None:
    """A.4: the members that programs written for iii-sdk use."""
    from iii.iii import III  # type: ignore[import-untyped]

    ours = public(IIIClient)
    later = {"connect_async"}
    theirs = {name for name in dir(III) if not name.startswith("_")} - later
    assert theirs <= ours


def test_annotations_of_the_public_methods_resolve() -> None:
    for name in public(Worker):
        member = getattr(Worker, name)
        if callable(member):
            typing.get_type_hints(member)
