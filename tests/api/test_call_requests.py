"""Every spelling of a call and of a trigger comes out as one shape (A.4, B.8)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import iii.iii_types  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from iii_anyio._protocol.codec import to_json
from iii_anyio._protocol.messages import ABSENT
from iii_anyio._requests import CallRequest, normalise_call, normalise_trigger, normalise_trigger_type
from iii_anyio.functions import python_type_to_format
from iii_anyio.trigger import (
    RegisterTriggerInput,
    RegisterTriggerTypeInput,
    TriggerAction,
    TriggerRequest,
)
from tests.naming import shown


class Order(BaseModel):
    customer_name: str = Field(alias="customerName")


ORDER = Order(customerName="Ada")


# -- calls: the three forms ------------------------------------------------------------------------------------------

FULL = CallRequest("f", {"a": 1}, {"type": "enqueue", "queue": "q"}, 1.5, {"m": 1}, "ns", "remote")
OPTIONS: dict[str, Any] = {
    "action": {"type": "enqueue", "queue": "q"},
    "timeout_ms": 1500,
    "metadata": {"m": 1},
    "namespace": "ns",
    "dispatch": "remote",
}
REQUEST: dict[str, Any] = {"function_id": "f", "payload": {"a": 1}, **OPTIONS}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: normalise_call(REQUEST), id="dict"),
        pytest.param(lambda: normalise_call(request=REQUEST), id="dict by keyword"),
        pytest.param(lambda: normalise_call(MappingProxyType(REQUEST)), id="mapping"),
        pytest.param(lambda: normalise_call(TriggerRequest(**REQUEST)), id="model"),
        pytest.param(lambda: normalise_call(iii.iii_types.TriggerRequest(**REQUEST)), id="upstream's model"),
        pytest.param(lambda: normalise_call("f", {"a": 1}, **OPTIONS), id="arguments"),
        pytest.param(lambda: normalise_call(**REQUEST), id="keywords"),
        pytest.param(lambda: normalise_call("f", payload={"a": 1}, **OPTIONS), id="payload by keyword"),
    ],
)
def test_every_form_of_a_full_call_is_the_same_call(call: Any) -> None:
    assert call() == FULL


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: normalise_call({"function_id": "f"}), id="dict"),
        pytest.param(lambda: normalise_call(dict.fromkeys(REQUEST) | {"function_id": "f"}), id="dict of nulls"),
        pytest.param(lambda: normalise_call(TriggerRequest(function_id="f")), id="model"),
        pytest.param(lambda: normalise_call("f"), id="argument"),
        pytest.param(lambda: normalise_call(function_id="f"), id="keyword"),
        pytest.param(lambda: normalise_call("f", None, metadata=None, action=None), id="nulls"),
    ],
)
def test_what_is_not_given_is_absent_and_the_payload_is_null(call: Any) -> None:
    assert call() == CallRequest("f", None, None, None, ABSENT, None, "auto")


def test_keys_that_are_not_known_are_ignored() -> None:
    assert normalise_call({"function_id": "f", "retries": 3}) == CallRequest("f")


@pytest.mark.parametrize(
    "call",
    [
        lambda: normalise_call({"function_id": "f"}, {"a": 1}),
        lambda: normalise_call({"function_id": "f"}, None),
        lambda: normalise_call({"function_id": "f"}, timeout_ms=5),
        lambda: normalise_call({"function_id": "f"}, function_id="f"),
        lambda: normalise_call(TriggerRequest(function_id="f"), namespace="ns"),
        lambda: normalise_call("f", function_id="f"),
    ],
)
def test_both_forms_at_once_are_a_type_error(call: Any) -> None:
    with pytest.raises(TypeError, match=r"not as both|twice"):
        call()


def test_no_third_positional_argument() -> None:
    """B.8: up to 0.8 it was a timeout in seconds."""
    with pytest.raises(TypeError, match="positional"):
        normalise_call("f", {}, 30.0)


@pytest.mark.parametrize("request_", [["f"], 5, None, b"f", lambda: None])
def test_other_requests_are_a_type_error(request_: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(request_).__name__}"):
        normalise_call(request_)


# -- calls: their parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda: normalise_call({}), lambda: normalise_call({"payload": 1}), normalise_call])
def test_a_call_without_function_id_is_a_key_error(call: Any) -> None:
    with pytest.raises(KeyError, match="function_id"):
        call()


@pytest.mark.parametrize("function_id", [None, 5, b"f", ["f"]])
def test_a_function_id_that_is_no_string_is_a_type_error(function_id: object) -> None:
    with pytest.raises(TypeError, match=f"function_id must be str, got {type(function_id).__name__}"):
        normalise_call({"function_id": function_id})


@pytest.mark.parametrize("function_id", ["", "  "])
def test_a_blank_function_id_is_a_value_error(function_id: str) -> None:
    """§4.2: SDKs refuse them."""
    with pytest.raises(ValueError, match="function_id"):
        normalise_call(function_id)


@pytest.mark.parametrize("namespace", ["", " ", "\t"])
def test_a_blank_namespace_is_a_value_error_that_names_the_field(namespace: str) -> None:
    """A-21."""
    with pytest.raises(ValueError, match=r"TriggerRequest\.namespace"):
        normalise_call({"function_id": "f", "namespace": namespace})
    with pytest.raises(ValueError, match=r"TriggerRequest\.namespace"):
        normalise_call(TriggerRequest(function_id="f", namespace=namespace))


def test_a_namespace_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"TriggerRequest\.namespace"):
        normalise_call({"function_id": "f", "namespace": 5})


@pytest.mark.parametrize(("timeout_ms", "seconds"), [(None, None), (0, None), (0.0, None), (1, 0.001), (2500.0, 2.5)])
def test_a_timeout_becomes_seconds_and_zero_is_the_default(timeout_ms: float | None, seconds: float | None) -> None:
    """A.25, 14: documented, so kept."""
    assert normalise_call("f", timeout_ms=timeout_ms).timeout == seconds


@pytest.mark.parametrize("timeout_ms", [-1, -0.5, float("inf"), float("nan")])
def test_a_timeout_that_is_no_duration_is_a_value_error(timeout_ms: float) -> None:
    with pytest.raises(ValueError, match="timeout_ms"):
        normalise_call("f", timeout_ms=timeout_ms)


@pytest.mark.parametrize("timeout_ms", [True, False, "500", [500], 1j])
def test_a_timeout_that_is_no_number_is_a_type_error(timeout_ms: object) -> None:
    with pytest.raises(TypeError, match="timeout_ms"):
        normalise_call({"function_id": "f", "timeout_ms": timeout_ms})


@pytest.mark.parametrize(("dispatch", "expected"), [(None, "auto"), ("auto", "auto"), ("remote", "remote")])
def test_dispatch_is_auto_or_remote(dispatch: object, expected: str) -> None:
    assert normalise_call("f", dispatch=dispatch).dispatch == expected


@pytest.mark.parametrize("dispatch", ["local", "", 1, True, ["auto"]])
def test_another_dispatch_is_a_value_error(dispatch: object) -> None:
    with pytest.raises(ValueError, match="dispatch must be 'auto' or 'remote'"):
        normalise_call("f", dispatch=dispatch)


@pytest.mark.parametrize(
    ("action", "wire"),
    [
        (TriggerAction.Void(), {"type": "void"}),
        (TriggerAction.Enqueue(queue="q"), {"type": "enqueue", "queue": "q"}),
        (iii.TriggerAction.Void(), {"type": "void"}),
        (iii.TriggerAction.Enqueue(queue="q"), {"type": "enqueue", "queue": "q"}),
        ({"type": "void"}, {"type": "void"}),
        ({"type": "enqueue", "queue": "q", "priority": 1}, {"type": "enqueue", "queue": "q"}),
    ],
    ids=shown,
)
@pytest.mark.parametrize("dispatch", [None, "remote"])
def test_an_action_becomes_what_the_wire_has(action: object, wire: dict[str, str], dispatch: str | None) -> None:
    assert normalise_call("f", action=action, dispatch=dispatch).action == wire


def test_an_enqueue_without_queue_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="queue"):
        normalise_call("f", action={"type": "enqueue"})


def test_a_queue_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="queue must be str, got int"):
        normalise_call("f", action={"type": "enqueue", "queue": 5})


@pytest.mark.parametrize("action", [{}, {"type": "later"}, {"queue": "q"}, {"type": None}, ORDER])
def test_an_unknown_action_is_a_value_error_that_says_what_there_is(action: object) -> None:
    """A.25, 14: upstream runs it as a plain call."""
    with pytest.raises(ValueError, match=r"TriggerAction\.Enqueue\(queue=\.\.\.\) or TriggerAction\.Void\(\)"):
        normalise_call({"function_id": "f", "action": action})


@pytest.mark.parametrize("action", ["void", 5, TriggerAction])
def test_what_is_no_action_is_a_type_error(action: object) -> None:
    with pytest.raises(TypeError, match=r"TriggerAction\.Void\(\)"):
        normalise_call("f", action=action)


@pytest.mark.parametrize("payload", [ORDER, {"order": ORDER}, [ORDER]], ids=["model", "in a dict", "in a list"])
def test_a_model_in_the_payload_is_sent_by_alias_in_every_form(payload: Any) -> None:
    """A.25, 13: upstream's ``TriggerRequest`` dumps it by field name."""
    sent = {
        to_json(normalise_call(request).payload)
        for request in ({"function_id": "f", "payload": payload}, TriggerRequest(function_id="f", payload=payload))
    } | {to_json(normalise_call("f", payload).payload)}
    assert len(sent) == 1
    assert b'"customerName":"Ada"' in sent.pop()


def test_the_payload_is_the_callers_own_object() -> None:
    assert normalise_call(TriggerRequest(function_id="f", payload=ORDER)).payload is ORDER
    assert normalise_call({"function_id": "f", "payload": REQUEST}).payload is REQUEST


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(payload=json, metadata=json, timeout_ms=st.none() | st.integers(0, 10**9), namespace=st.none() | st.just("ns"))
def test_a_dict_a_model_and_arguments_agree(
    payload: Any, metadata: Any, timeout_ms: int | None, namespace: str | None
) -> None:
    options: dict[str, Any] = {"timeout_ms": timeout_ms, "metadata": metadata, "namespace": namespace}
    request: dict[str, Any] = {"function_id": "f", "payload": payload, **options}
    call = normalise_call(request)
    assert call == normalise_call(TriggerRequest(**request)) == normalise_call("f", payload, **options)
    assert (call.metadata is ABSENT) == (metadata is None)


# -- triggers --------------------------------------------------------------------------------------------------------

HTTP = RegisterTriggerInput(
    type="http",
    function_id="f",
    config={"api_path": "x"},
    metadata={"m": 1},
    namespace="ns",
    trigger_namespace="default",
)


@pytest.mark.parametrize(
    "trigger",
    [
        pytest.param(lambda: normalise_trigger(HTTP), id="model"),
        pytest.param(lambda: normalise_trigger(HTTP.model_dump()), id="dict"),
        pytest.param(lambda: normalise_trigger(trigger=HTTP.model_dump()), id="dict by keyword"),
        pytest.param(lambda: normalise_trigger(MappingProxyType(HTTP.model_dump())), id="mapping"),
        pytest.param(
            lambda: normalise_trigger(iii.iii_types.RegisterTriggerInput(**HTTP.model_dump())), id="upstream's model"
        ),
        pytest.param(
            lambda: normalise_trigger(
                "http", "f", {"api_path": "x"}, {"m": 1}, namespace="ns", trigger_namespace="default"
            ),
            id="arguments",
        ),
        pytest.param(lambda: normalise_trigger(**HTTP.model_dump()), id="keywords"),
    ],
)
def test_every_form_of_a_trigger_is_the_same_trigger(trigger: Any) -> None:
    assert trigger() == HTTP


def test_a_trigger_needs_no_more_than_type_and_function() -> None:
    expected = RegisterTriggerInput(type="cron", function_id="f")
    assert normalise_trigger("cron", "f") == normalise_trigger({"type": "cron", "function_id": "f", "x": 1}) == expected


@pytest.mark.parametrize(
    "trigger",
    [
        lambda: normalise_trigger(HTTP, "f"),
        lambda: normalise_trigger({"type": "http", "function_id": "f"}, config={}),
        lambda: normalise_trigger(HTTP, namespace="ns"),
        lambda: normalise_trigger(HTTP, metadata=None),
        lambda: normalise_trigger({"function_id": "f"}, type="http"),
        lambda: normalise_trigger("http", "f", type="http"),
        lambda: normalise_trigger("http"),
        normalise_trigger,
        lambda: normalise_trigger(5),
    ],
)
def test_mixed_and_incomplete_forms_of_a_trigger_are_a_type_error(trigger: Any) -> None:
    with pytest.raises(TypeError):
        trigger()


@pytest.mark.parametrize("trigger", [{}, {"type": "http"}, {"function_id": "f"}, {"type": 5, "function_id": "f"}])
def test_a_trigger_without_its_fields_is_a_validation_error(trigger: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        normalise_trigger(trigger)


def test_a_blank_namespace_of_a_trigger_is_a_value_error_that_names_the_field() -> None:
    """A-21. The provider's namespace passes untouched (A.4)."""
    with pytest.raises(ValueError, match=r"RegisterTriggerInput\.namespace"):
        normalise_trigger("http", "f", namespace=" ")
    assert normalise_trigger("http", "f", trigger_namespace="").trigger_namespace == ""


def test_a_config_model_becomes_json_by_alias_and_the_request_is_left_alone() -> None:
    """A.6: upstream's typed handle sends field names, which no provider reads."""
    given = RegisterTriggerInput(type="orders", function_id="f", config=ORDER)
    for form in (given, {"type": "orders", "function_id": "f", "config": ORDER}):
        assert normalise_trigger(form).config == {"customerName": "Ada"}
    assert normalise_trigger("orders", "f", ORDER).config == {"customerName": "Ada"}
    assert given.config is ORDER


# -- trigger types ---------------------------------------------------------------------------------------------------


def test_every_form_of_a_trigger_type_is_the_same_type() -> None:
    expected = RegisterTriggerTypeInput(id="webhook", description="A hook")
    fields = expected.model_dump()
    forms = [expected, fields, iii.iii_types.RegisterTriggerTypeInput(**fields)]
    handler = object()
    assert all(normalise_trigger_type(form, handler) == (expected, handler) for form in forms)
    assert normalise_trigger_type("webhook", "A hook", handler) == (expected, handler)
    assert normalise_trigger_type(**fields, handler=handler) == (expected, handler)


def test_types_given_as_formats_become_schemas_and_the_rest_passes() -> None:
    """A.4."""
    given = RegisterTriggerTypeInput(
        id="w", description="", trigger_request_format=Order, call_request_format={"type": "object"}
    )
    wanted, _ = normalise_trigger_type(given, None)
    assert wanted.trigger_request_format == python_type_to_format(Order)
    assert wanted.call_request_format == {"type": "object"}
    assert given.trigger_request_format is Order
    wanted, _ = normalise_trigger_type("w", "", None, call_request_format=list[int])
    assert wanted.call_request_format == python_type_to_format(list[int])


@pytest.mark.parametrize(
    "arguments", [("w",), ("w", "", None, None), (5, None), ({"id": "w", "description": ""}, "x", None), ({},), ()]
)
def test_mixed_and_incomplete_forms_of_a_trigger_type_are_a_type_error(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        normalise_trigger_type(*arguments)
    with pytest.raises(TypeError, match="cofig"):
        normalise_trigger_type("w", "", None, cofig=1)


def test_a_trigger_type_without_description_is_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="description"):
        normalise_trigger_type({"id": "w"}, None)
