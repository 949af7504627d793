from __future__ import annotations

import pytest

from iii_anyio._protocol.registry import Registration, Registry
from iii_anyio.errors import RegistrationRejectedError, TriggerRegistrationError


def registration(id: str) -> Registration:
    return Registration(id, f"register {id}".encode(), f"unregister {id}".encode())


def test_everything_is_replayed_as_types_then_functions_then_triggers() -> None:
    """P-13, whatever order it was registered in."""
    registry = Registry()
    trigger, function, other, kind = map(registration, ("trigger", "b", "a", "type"))
    registry.triggers["trigger"] = trigger
    registry.add_function(function)
    registry.add_function(other)
    registry.trigger_types["type"] = kind
    assert list(registry.replay()) == [kind, function, other, trigger]


def test_the_registry_may_change_while_it_is_replayed() -> None:
    """Any thread may register or withdraw meanwhile."""
    registry = Registry()
    first, second, late = map(registration, ("first", "second", "late"))
    registry.add_function(first)
    registry.add_function(second)
    replay = registry.replay()
    assert next(replay) is first
    del registry.functions["second"]
    registry.add_function(late)
    registry.triggers["late"] = late
    assert list(replay) == [second, late]


def test_a_function_id_that_is_taken_is_refused_and_the_first_one_stays() -> None:
    """P-20."""
    registry = Registry()
    first = registration("greet")
    registry.add_function(first)
    with pytest.raises(ValueError, match="function id 'greet' already registered"):
        registry.add_function(registration("greet"))
    assert list(registry.replay()) == [first]


def test_a_function_id_is_free_again_once_it_was_withdrawn() -> None:
    registry = Registry()
    registry.add_function(registration("greet"))
    del registry.functions["greet"]
    second = registration("greet")
    registry.add_function(second)
    assert list(registry.replay()) == [second]


def test_a_function_and_a_trigger_type_may_have_the_same_id() -> None:
    registry = Registry()
    function, kind = registration("http"), registration("http")
    registry.add_function(function)
    registry.trigger_types["http"] = kind
    assert list(registry.replay()) == [kind, function]


def test_refusals_are_listed_in_the_order_of_the_replay() -> None:
    registry = Registry()
    served, refused, trigger = map(registration, ("served", "refused", "trigger"))
    registry.triggers["trigger"] = trigger
    registry.add_function(served)
    registry.add_function(refused)
    assert registry.refusals() == []
    trigger.refusal = TriggerRegistrationError("taken", "path taken", "trigger")
    refused.refusal = RegistrationRejectedError("FUNCTION_NAMESPACE_CONFLICT", function_id="refused")
    assert registry.refusals() == [refused.refusal, trigger.refusal]


def test_a_new_registration_was_sent_on_no_link_and_carries_what_the_runtime_runs() -> None:
    handler = object()
    entry = Registration("greet", b"register", b"unregister", handler)
    assert (entry.id, entry.register, entry.unregister, entry.target) == ("greet", b"register", b"unregister", handler)
    assert entry.link == 0
    assert entry.refusal is None
    assert registration("other").target is None


def test_what_is_current_is_the_registration_its_successor_or_nothing() -> None:
    registry = Registry()
    first, second = registration("greet"), registration("greet")
    assert registry.current(first) is None
    registry.add_function(first)
    assert registry.current(first) is first
    registry.functions["greet"] = second
    assert registry.current(first) is second


def test_the_same_id_in_another_kind_is_no_successor() -> None:
    registry = Registry()
    function = Registration("http", b"register", b"unregister function")
    registry.trigger_types["http"] = Registration("http", b"register", b"unregister type")
    assert registry.current(function) is None
    registry.add_function(function)
    assert registry.current(function) is function
