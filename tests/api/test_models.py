"""HTTP, queue, function and trigger models; A.15 and A.5 say what their fields are, upstream's models are the judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import iii.iii_types  # type: ignore[import-untyped]
import iii.triggers  # type: ignore[import-untyped]
import iii_helpers.http
import iii_helpers.queue
import pytest
from pydantic import BaseModel, ValidationError

from iii_anyio import http as models
from iii_anyio.functions import FunctionRef, RegisterFunctionFormat, RegisterFunctionInput
from iii_anyio.http import (
    ApiRequest,
    ApiResponse,
    HttpAuthApiKey,
    HttpAuthBearer,
    HttpAuthHmac,
    HttpInvocationConfig,
    HttpRequest,
    HttpResponse,
    as_invocation,
)
from iii_anyio.queue import EnqueueResult
from iii_anyio.trigger import (
    RegisterTriggerInput,
    RegisterTriggerTypeInput,
    Trigger,
    TriggerAction,
    TriggerActionEnqueue,
    TriggerActionVoid,
    TriggerConfig,
    TriggerHandler,
    TriggerRequest,
    TriggerTypeRef,
)

ENGINE_REQUEST: dict[str, Any] = {
    "path_params": {"id": "a%20b"},
    "query_params": {"q": "2"},
    "headers": {"host": "127.0.0.1:3111"},
    "path": "/e/:id/x",
    "method": "POST",
    "body": {"qty": 1},
    "trigger": {"type": "http", "path": "/e/:id/x", "method": "POST"},
    "request_body": {"channel_id": "c", "access_key": "k", "direction": "read"},
    "response": {"channel_id": "d", "access_key": "k", "direction": "write"},
}
"""The nine keys of H-18."""


class Order(BaseModel):
    qty: int


# -- the shapes are upstream's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "upstreams"),
    [
        (HttpAuthHmac, iii_helpers.http.HttpAuthHmac),
        (HttpAuthBearer, iii_helpers.http.HttpAuthBearer),
        (HttpAuthApiKey, iii_helpers.http.HttpAuthApiKey),
        (HttpInvocationConfig, iii_helpers.http.HttpInvocationConfig),
        (HttpRequest, iii_helpers.http.HttpRequest),
        (HttpResponse, iii_helpers.http.HttpResponse),
        (EnqueueResult, iii_helpers.queue.EnqueueResult),
        (RegisterFunctionFormat, iii.iii_types.RegisterFunctionFormat),
        (RegisterFunctionInput, iii.iii_types.RegisterFunctionInput),
        (RegisterTriggerInput, iii.iii_types.RegisterTriggerInput),
        (RegisterTriggerTypeInput, iii.iii_types.RegisterTriggerTypeInput),
        (TriggerActionEnqueue, iii.iii_types.TriggerActionEnqueue),
        (TriggerActionVoid, iii.iii_types.TriggerActionVoid),
        (TriggerRequest, iii.iii_types.TriggerRequest),
        (TriggerConfig, iii.triggers.TriggerConfig),
    ],
    ids=lambda cls: cls.__module__.partition(".")[0] + "." + cls.__name__,
)
def test_fields_required_fields_and_defaults_are_upstreams(ours: type[BaseModel], upstreams: type[BaseModel]) -> None:
    def facts(model: type[BaseModel]) -> dict[str, Any]:
        return {
            name: (field.is_required(), None if field.is_required() else field.get_default(call_default_factory=True))
            for name, field in model.model_fields.items()
        }

    assert facts(ours) == facts(upstreams)


def test_http_methods_are_upstreams_and_those_of_the_engines_router() -> None:
    """C.1 and §2.2: a route may have HEAD and OPTIONS too."""
    upstreams = iii_helpers.http.HttpMethod.__args__  # type: ignore[attr-defined]
    assert set(models.HttpMethod.__args__) == {*upstreams, "HEAD", "OPTIONS"}  # type: ignore[attr-defined]


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_request_reads_like_the_dict_that_upstream_hands_over() -> None:
    request = ApiRequest(**ENGINE_REQUEST)
    assert {key: request[key] for key in ENGINE_REQUEST} == ENGINE_REQUEST
    assert dict(request) == {**request} == ENGINE_REQUEST
    assert set(request) == set(request.keys()) == set(ENGINE_REQUEST)
    assert len(request) == len(ENGINE_REQUEST)
    assert sorted(map(str, request.values())) == sorted(map(str, ENGINE_REQUEST.values()))
    assert dict(request.items()) == ENGINE_REQUEST
    assert request.get("path") == "/e/:id/x"
    assert request.get("cookies") is None
    assert request.get("cookies", {}) == {}
    assert "body" in request
    assert "trigger" in request
    assert "cookies" not in request
    with pytest.raises(KeyError, match="cookies"):
        request["cookies"]


def test_a_request_is_a_mapping_for_isinstance_and_match() -> None:
    request: object = HttpRequest[Order].model_validate(ENGINE_REQUEST)
    assert isinstance(request, Mapping)
    match request:
        case {"body": Order(qty=qty), "path_params": {"id": id}}:
            assert (qty, id) == (1, "a%20b")
        case _:
            pytest.fail("no mapping")


def test_a_request_is_made_again_from_itself() -> None:
    """Upstream's idiom in every handler: ``HttpRequest(**data)``."""
    given = ApiRequest.model_validate(ENGINE_REQUEST)
    assert HttpRequest(**given) == given
    assert HttpRequest[Order](**given).body == Order(qty=1)


def test_extra_keys_are_attributes_too() -> None:
    request = ApiRequest.model_validate(ENGINE_REQUEST)
    assert request.path == "/e/:id/x"  # type: ignore[attr-defined]
    assert request.response["direction"] == "write"  # type: ignore[attr-defined]


def test_a_body_is_validated_as_the_parameter_says() -> None:
    request = ApiRequest[Order].model_validate(ENGINE_REQUEST)
    assert request.body == Order(qty=1)
    assert request.path_params == {"id": "a%20b"}
    with pytest.raises(ValidationError, match=r"body\.qty"):
        ApiRequest[Order].model_validate({"body": {"qty": "many"}})


@pytest.mark.parametrize("data", [{}, {"body": None}], ids=["absent", "null"])
def test_a_body_that_was_no_json_is_refused_where_one_is_declared(data: dict[str, Any]) -> None:
    """H-24: the engine then sends null."""
    assert ApiRequest.model_validate(data).body is None
    assert ApiRequest[Order | None].model_validate(data).body is None
    with pytest.raises(ValidationError, match="body"):
        ApiRequest[Order].model_validate(data)


def test_requests_take_both_spellings_and_dump_snake_case() -> None:
    """B.10: ``pathParams`` and ``queryParams`` up to 0.8.3."""
    snake = ApiRequest(path_params={"id": "1"}, query_params={"q": ["a", "b"]})
    camel = ApiRequest.model_validate({"pathParams": {"id": "1"}, "queryParams": {"q": ["a", "b"]}})
    assert camel == snake
    assert camel.model_dump(by_alias=True) == {
        "path_params": {"id": "1"},
        "query_params": {"q": ["a", "b"]},
        "body": None,
        "headers": {},
        "method": "GET",
    }


# -- responses -------------------------------------------------------------------------------------------------------


def test_responses_take_both_spellings_and_dump_the_alias() -> None:
    assert ApiResponse(status_code=201, body={"a": 1}) == ApiResponse(statusCode=201, body={"a": 1})
    response = ApiResponse[Order](statusCode=201, body=Order(qty=2))
    assert response.model_dump(by_alias=True) == {"statusCode": 201, "body": {"qty": 2}, "headers": {}}
    assert response.model_dump() == {"status_code": 201, "body": {"qty": 2}, "headers": {}}


def test_a_response_needs_a_status() -> None:
    with pytest.raises(ValidationError, match="statusCode"):
        ApiResponse.model_validate({"body": 1})


def test_the_parameter_of_a_response_does_not_restrict_error_bodies() -> None:
    """A.15: upstream's ``HttpResponse[T]`` has ``body: Any``."""
    assert ApiResponse[Order](status_code=404, body={"error": "unknown"}).body == {"error": "unknown"}


def test_a_response_reads_like_the_dict_the_engine_gets() -> None:
    response = ApiResponse(status_code=201, body=[1])
    assert dict(response) == {"status_code": 201, "body": [1], "headers": {}}


def test_the_old_names_are_the_same_classes() -> None:
    assert ApiRequest is HttpRequest
    assert ApiResponse is HttpResponse


# -- HTTP functions --------------------------------------------------------------------------------------------------


def test_what_is_not_set_does_not_reach_the_wire() -> None:
    """§4.1: the engine drops a registration whose ``invocation.headers`` is null."""
    config = HttpInvocationConfig(url="https://example.com/fn", headers=None)
    assert as_invocation(config) == {"url": "https://example.com/fn", "method": "POST"}


@pytest.mark.parametrize("package", [models, iii_helpers.http], ids=["ours", "upstreams"])
def test_a_whole_invocation_reaches_the_wire(package: Any) -> None:
    config = package.HttpInvocationConfig(
        url="https://example.com/fn",
        method="PUT",
        timeout_ms=5000,
        headers={"x-a": "b"},
        auth=package.HttpAuthApiKey(header="X-Key", value_key="MY_KEY"),
    )
    assert as_invocation(config) == {
        "url": "https://example.com/fn",
        "method": "PUT",
        "timeout_ms": 5000,
        "headers": {"x-a": "b"},
        "auth": {"type": "api_key", "header": "X-Key", "value_key": "MY_KEY"},
    }


@pytest.mark.parametrize(
    "value", [print, None, "https://example.com", {"url": "x"}, Order(qty=1), HttpInvocationConfig]
)
def test_other_values_are_no_invocation(value: object) -> None:
    assert as_invocation(value) is None


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "get"])
def test_methods_that_the_engine_drops_in_silence_are_refused_here(method: str) -> None:
    """§10."""
    with pytest.raises(ValidationError, match="method"):
        HttpInvocationConfig.model_validate({"url": "https://example.com", "method": method})


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"type": "hmac", "secret_key": "S"}, HttpAuthHmac(secret_key="S")),
        ({"type": "bearer", "token_key": "T"}, HttpAuthBearer(token_key="T")),
        ({"type": "api_key", "header": "X", "value_key": "V"}, HttpAuthApiKey(header="X", value_key="V")),
        ({"token_key": "T"}, HttpAuthBearer(token_key="T")),
    ],
)
def test_auth_is_recognised_from_a_dict(auth: dict[str, str], expected: BaseModel) -> None:
    assert HttpInvocationConfig.model_validate({"url": "https://example.com", "auth": auth}).auth == expected


# -- functions and triggers ------------------------------------------------------------------------------------------


def test_a_format_holds_formats() -> None:
    nested = RegisterFunctionFormat.model_validate(
        {
            "name": "o",
            "type": "object",
            "body": [{"name": "l", "type": "array", "items": {"name": "i", "type": "string"}}],
        }
    )
    assert nested.body is not None
    assert nested.body[0].items == RegisterFunctionFormat(name="i", type="string")


def test_a_function_ref_is_its_id_and_how_to_unregister() -> None:
    done: list[str] = []
    ref = FunctionRef("f", lambda: done.append("f"))
    ref.unregister()
    assert (ref.id, done) == ("f", ["f"])


def test_actions_dump_as_on_the_wire() -> None:
    """A-5."""
    assert TriggerAction.Enqueue(queue="jobs").model_dump() == {"type": "enqueue", "queue": "jobs"}
    assert TriggerAction.Void().model_dump() == {"type": "void"}


def test_a_trigger_is_unregistered_once() -> None:
    done: list[str] = []
    trigger = Trigger(lambda: done.append("t"), "t")
    assert (trigger.id, repr(trigger)) == ("t", "<Trigger t>")
    trigger.unregister()
    trigger.unregister()
    assert done == ["t"]
    assert repr(trigger) == "<Trigger t, unregistered>"


def test_a_trigger_whose_unregistration_failed_can_be_tried_again() -> None:
    answers = [None, RuntimeError("not now")]

    def unregister() -> None:
        answer = answers.pop()
        if answer is not None:
            raise answer

    trigger = Trigger(unregister)
    with pytest.raises(RuntimeError, match="not now"):
        trigger.unregister()
    trigger.unregister()
    assert answers == []


def test_a_trigger_handler_has_to_do_both() -> None:
    class Half(TriggerHandler[Order]):
        async def register_trigger(self, config: TriggerConfig[Order]) -> None: ...

    with pytest.raises(TypeError, match="unregister_trigger"):
        Half()  # type: ignore[abstract]


def test_a_binding_with_metadata_of_any_type_is_accepted() -> None:
    """A.6: upstream answers such a registration with an error, though the wire allows any JSON."""
    assert TriggerConfig[Order](id="t", function_id="f", config={}, metadata=[1]).metadata == [1]


class Registrar:
    """The part of a worker that a ``TriggerTypeRef`` uses."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def register_trigger(self, type: str, function_id: str, config: Any, metadata: Any, /) -> Trigger:
        self.seen.append((type, function_id, config, metadata))
        return Trigger(lambda: None, "t")

    def register_function(self, function_id: str, handler: Any, /, *, description: str | None = None) -> FunctionRef:
        self.seen.append((function_id, handler, description))
        return FunctionRef(function_id, lambda: None)

    def unregister_trigger_type(self, trigger_type: str, /) -> None:
        self.seen.append(trigger_type)


def test_a_trigger_type_ref_registers_for_its_type() -> None:
    """A.6; ``id``, ``unregister`` and ``config`` are of the other SDKs (C.1)."""
    worker = Registrar()
    ref = TriggerTypeRef[Order, dict[str, Any]](worker, "webhook")

    def handler(call: dict[str, Any]) -> None: ...

    with pytest.warns(DeprecationWarning, match=r"^register_trigger"):  # A.23
        assert ref.register_trigger("f", Order(qty=1), {"a": 1}).id == "t"
    with pytest.warns(DeprecationWarning, match=r"TriggerTypeRef\.register_function"):
        assert ref.register_function("g", handler, description="G").id == "g"
    with pytest.warns(DeprecationWarning, match=r"TriggerTypeRef\.register_function"):
        assert ref.register_function("h", handler, config=Order(qty=2)).id == "h"
    ref.unregister()
    assert (ref.id, repr(ref)) == ("webhook", "<TriggerTypeRef webhook>")
    assert worker.seen == [
        ("webhook", "f", Order(qty=1), {"a": 1}),
        ("g", handler, "G"),
        ("h", handler, None),
        ("webhook", "h", Order(qty=2), None),
        "webhook",
    ]
