"""Models of access rules (A.16, §6 of the engine's behaviour): what a hook leaves out must stay as it was."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from iii_anyio._protocol.codec import from_json, to_json
from iii_anyio.trigger import TriggerActionEnqueue, TriggerActionVoid
from iii_anyio.worker_connection_manager import (
    AuthInput,
    AuthResult,
    MiddlewareFunctionInput,
    OnFunctionRegistrationInput,
    OnFunctionRegistrationResult,
    OnTriggerRegistrationInput,
    OnTriggerRegistrationResult,
    OnTriggerTypeRegistrationInput,
    OnTriggerTypeRegistrationResult,
)

RESULTS = [OnFunctionRegistrationResult, OnTriggerRegistrationResult, OnTriggerTypeRegistrationResult]


def test_an_auth_result_dumps_every_default_as_the_engine_has_it() -> None:
    """RB-7; null is a failure for lists, maps and flags."""
    assert AuthResult().model_dump() == {
        "namespaces": {},
        "allowed_functions": [],
        "forbidden_functions": [],
        "allowed_trigger_types": None,
        "allow_trigger_type_registration": False,
        "allow_function_registration": True,
        "function_registration_prefix": None,
        "context": {},
    }
    assert AuthResult().context is not AuthResult().context


@pytest.mark.parametrize("cls", RESULTS)
def test_a_hook_that_changes_nothing_answers_an_empty_object(cls: type[BaseModel]) -> None:
    """RB-21; RB-20: a dumped null would wipe metadata or config."""
    assert cls().model_dump() == cls().model_dump(by_alias=True) == {}
    assert to_json(cls()) == b"{}"
    assert from_json(to_json({"nested": [cls()]})) == {"nested": [{}]}


@pytest.mark.parametrize("cls", RESULTS)
def test_a_hook_that_sets_a_field_answers_that_field(cls: type[BaseModel]) -> None:
    for name in cls.model_fields:
        assert cls.model_validate({name: "x"}).model_dump() == {name: "x"}
        assert cls.model_validate({name: None}).model_dump() == {name: None}, "a null that was meant"


def test_a_field_that_is_set_later_is_answered() -> None:
    result = OnTriggerRegistrationResult(function_id="a")
    result.config = {"api_path": "x"}
    assert result.model_dump() == {"function_id": "a", "config": {"api_path": "x"}}


@pytest.mark.parametrize("cls", RESULTS)
def test_the_schema_of_a_result_names_its_fields(cls: type[BaseModel]) -> None:
    for mode in ("validation", "serialization"):
        assert set(cls.model_json_schema(mode=mode)["properties"]) == set(cls.model_fields)


@pytest.mark.parametrize(
    ("cls", "payload"),
    [
        (AuthInput, {"headers": {"x-token": "t"}, "query_params": {"a": ["1", "2"]}, "ip_address": "127.0.0.1"}),
        (
            OnFunctionRegistrationInput,
            {"function_id": "f", "description": None, "metadata": [1], "namespace": "default", "context": {"u": 1}},
        ),
        (
            OnTriggerRegistrationInput,
            {
                "trigger_id": "t",
                "trigger_type": "http",
                "function_id": "f",
                "config": {"api_path": "x"},
                "metadata": "any",
                "namespace": "orders",
                "context": None,
            },
        ),
        (OnTriggerTypeRegistrationInput, {"trigger_type_id": "webhook", "description": "d", "context": {}}),
        (
            MiddlewareFunctionInput,
            {"function_id": "f", "payload": [1, 2], "action": None, "context": {}, "namespace": "default"},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_the_engine_sends_is_read_by_attribute_and_by_key(cls: Any, payload: dict[str, Any]) -> None:
    """RB-9, RB-19, RB-25. Metadata and payloads are any JSON: a refusal here would be a silent denial."""
    given = cls.model_validate(payload)
    assert given.model_dump() == payload
    assert dict(given) == {name: getattr(given, name) for name in payload}
    assert cls(**given) == given


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (None, None),
        ({"type": "void"}, TriggerActionVoid()),
        ({"type": "enqueue", "queue": "q"}, TriggerActionEnqueue(queue="q")),
    ],
)
def test_a_middleware_sees_how_the_function_was_called(action: object, expected: object) -> None:
    """RB-25."""
    call = MiddlewareFunctionInput.model_validate(
        {"function_id": "f", "payload": {}, "action": action, "context": {}, "namespace": "default"}
    )
    assert call.action == expected


def test_hooks_get_the_default_namespace_when_none_is_named() -> None:
    assert OnFunctionRegistrationInput(function_id="f", context={}).namespace == "default"
    assert MiddlewareFunctionInput(function_id="f", payload={}, context={}).namespace is None
