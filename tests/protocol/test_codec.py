"""Messages on the wire (protocol §4, §5): what is written, what is read, what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iii_anyio._protocol.codec import canonical_uuid, decode, encode, encode_call, is_error_body, is_uuid
from iii_anyio._protocol.messages import (
    ABSENT,
    ErrorMessage,
    FunctionRegistered,
    InvocationResult,
    InvocationsObserved,
    InvokeFunction,
    LocalInvocationStats,
    Message,
    Observe,
    ObserverAck,
    ObserverAdded,
    ObserveResult,
    ObserverRemoved,
    ObserverStateChanged,
    Ping,
    Pong,
    Reattach,
    RegisterFunction,
    RegisterService,
    RegisterTrigger,
    RegisterTriggerType,
    RegistrationRejected,
    TriggerRegistrationResult,
    Unknown,
    Unobserve,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
    WorkerRegistered,
)
from iii_anyio.errors import MAX_MESSAGE_BYTES, DecodeError, EncodeError, PayloadTooLargeError

UUID = "9f3c1a52-0b6e-4c39-8a5f-2f6f7f0f9a11"
FAILURE = {"code": "invocation_failed", "message": "out of stock"}

# ---------------------------------------------------------------- every message there is

text = st.text(max_size=12)


def objects_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(text, values, max_size=4)


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
anything = st.recursive(scalars | text, lambda inner: st.lists(inner, max_size=4) | objects_of(inner), max_leaves=12)


objects = objects_of(anything)
maybe_text = st.none() | text
maybe_object = st.none() | objects
maybe_anything = st.just(ABSENT) | anything
extra = st.none() | st.dictionaries(text.map("x-".__add__), anything, min_size=1, max_size=3)
errors = st.fixed_dictionaries({"code": text, "message": text}, optional={"stacktrace": text, "hint": anything})
actions = st.just({"type": "void"}) | text.map(lambda queue: {"type": "enqueue", "queue": queue})
auths = (
    text.map(lambda key: {"type": "hmac", "secret_key": key})
    | text.map(lambda key: {"type": "bearer", "token_key": key})
    | text.map(lambda key: {"type": "api_key", "header": "x-key", "value_key": key})
)
http_functions = st.fixed_dictionaries(
    {"url": text},
    optional={
        "method": st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
        "timeout_ms": st.none() | st.integers(0, 2**32),
        "headers": st.dictionaries(text, text, max_size=3),
        "auth": st.none() | auths,
    },
)
counts = st.integers(0, 2**32)
maybe_count = st.none() | counts
object_lists = st.lists(objects, max_size=2)
ends = st.fixed_dictionaries({"function_id": text}, optional={"namespace": maybe_text, "args": objects})
results: st.SearchStrategy[Message] = st.one_of(
    st.builds(InvocationResult, text, text, maybe_anything, st.just(ABSENT), maybe_text, maybe_text, extra),
    st.builds(InvocationResult, text, text, st.just(ABSENT), errors, maybe_text, maybe_text, extra),
)

MESSAGES: dict[type[Any], st.SearchStrategy[Any]] = {
    WorkerRegistered: st.builds(WorkerRegistered, text, maybe_text, st.none() | st.lists(text, max_size=3), extra),
    RegistrationRejected: st.builds(RegistrationRejected, text, maybe_text, maybe_text, maybe_text, maybe_text, extra),
    ErrorMessage: st.builds(ErrorMessage, errors, extra),
    Reattach: st.builds(Reattach, text, maybe_text, extra),
    RegisterFunction: st.builds(
        RegisterFunction,
        text,
        maybe_text,
        maybe_anything,
        maybe_anything,
        maybe_anything,
        st.none() | http_functions,
        maybe_object,
        extra,
    ),
    UnregisterFunction: st.builds(UnregisterFunction, text, extra),
    RegisterTriggerType: st.builds(RegisterTriggerType, text, text, maybe_anything, maybe_anything, maybe_text, extra),
    UnregisterTriggerType: st.builds(UnregisterTriggerType, text, maybe_text, extra),
    RegisterTrigger: st.builds(
        RegisterTrigger, text, text, text, anything, maybe_anything, maybe_text, maybe_text, extra
    ),
    UnregisterTrigger: st.builds(UnregisterTrigger, text, maybe_text, extra),
    TriggerRegistrationResult: st.builds(
        TriggerRegistrationResult, text, maybe_text, maybe_text, st.just(ABSENT) | errors, extra
    ),
    RegisterService: st.builds(RegisterService, text, maybe_text, maybe_text, maybe_text, extra),
    InvokeFunction: st.builds(
        InvokeFunction,
        text,
        anything,
        maybe_text,
        maybe_anything,
        maybe_text,
        maybe_text,
        st.none() | actions,
        maybe_text,
        maybe_object,
        st.none() | st.integers(0, 8),
        maybe_object,
        extra,
    ),
    InvocationResult: results,
    FunctionRegistered: st.builds(FunctionRegistered, text, maybe_text, counts, st.booleans(), object_lists, extra),
    ObserverAdded: st.builds(ObserverAdded, text, objects, maybe_text, counts, extra),
    ObserverRemoved: st.builds(ObserverRemoved, text, text, maybe_text, counts, extra),
    ObserverAck: st.builds(ObserverAck, text, text, maybe_text, counts, st.just(ABSENT) | errors, extra),
    Observe: st.builds(Observe, text, ends, ends, anything, maybe_count, maybe_count, maybe_count, extra),
    Unobserve: st.builds(Unobserve, text, extra),
    ObserveResult: st.builds(ObserveResult, text, text, st.none() | st.lists(text, max_size=2), maybe_object, extra),
    ObserverStateChanged: st.builds(ObserverStateChanged, text, text, counts, maybe_object, extra),
    InvocationsObserved: st.builds(InvocationsObserved, object_lists, extra),
    LocalInvocationStats: st.builds(LocalInvocationStats, counts, object_lists, object_lists, extra),
    Ping: st.builds(Ping, extra),
    Pong: st.builds(Pong, extra),
    Unknown: st.builds(
        Unknown,
        text.map("observe-".__add__),
        objects.map(lambda fields: {name: value for name, value in fields.items() if name != "type"}),
    ),
}

# The least that each message has on the wire.
LEAST: dict[str, dict[str, Any]] = {
    "workerregistered": {"worker_id": "w"},
    "registrationrejected": {"code": "C"},
    "error": {"error": FAILURE},
    "reattach": {"previous_worker_id": "w"},
    "registerfunction": {"id": "f"},
    "unregisterfunction": {"id": "f"},
    "registertriggertype": {"id": "t", "description": ""},
    "unregistertriggertype": {"id": "t"},
    "registertrigger": {"id": "b", "trigger_type": "t", "function_id": "f", "config": None},
    "unregistertrigger": {"id": "b"},
    "triggerregistrationresult": {"id": "b"},
    "registerservice": {"id": "s"},
    "invokefunction": {"function_id": "f", "data": None},
    "invocationresult": {"invocation_id": UUID, "function_id": "f"},
    "functionregistered": {"id": "f"},
    "observeradded": {"function_id": "f", "observer": {"id": "o"}},
    "observerremoved": {"function_id": "f", "id": "o"},
    "observerack": {"function_id": "f", "id": "o"},
    "observe": {"id": "o", "source": {"function_id": "f"}, "target": {"function_id": "t"}},
    "unobserve": {"id": "o"},
    "observeresult": {"id": "o", "state": "pending"},
    "observerstatechanged": {"id": "o", "state": "active"},
    "invocationsobserved": {"items": []},
    "localinvocationstats": {"window_ms": 10000, "functions": [], "dropped_reports": []},
    "ping": {},
    "pong": {},
}
CLASSES: dict[str, Any] = {cls.type: cls for cls in get_args(Message) if cls is not Unknown}

TEXTS = {
    "workerregistered": ["reattach_token"],
    "registrationrejected": ["namespace", "worker_name", "function_id", "owner_worker_id"],
    "reattach": ["reattach_token"],
    "registerfunction": ["description"],
    "registertriggertype": ["namespace"],
    "unregistertriggertype": ["namespace"],
    "registertrigger": ["namespace", "trigger_namespace"],
    "unregistertrigger": ["trigger_type"],
    "triggerregistrationresult": ["trigger_type", "function_id"],
    "registerservice": ["description", "parent_service_id"],
    "invokefunction": ["invocation_id", "traceparent", "baggage", "namespace"],
    "invocationresult": ["traceparent", "baggage"],
    "functionregistered": ["namespace"],
    "observeradded": ["namespace"],
    "observerremoved": ["namespace"],
    "observerack": ["namespace"],
}
OPTIONAL_TEXTS = [(kind, name) for kind, names in TEXTS.items() for name in names]
VALUES = [
    ("registerfunction", "request_format"),
    ("registerfunction", "response_format"),
    ("registerfunction", "metadata"),
    ("registertriggertype", "trigger_request_format"),
    ("registertriggertype", "call_request_format"),
    ("registertrigger", "metadata"),
    ("invokefunction", "metadata"),
    ("invocationresult", "result"),
]
OTHERS = [
    ("workerregistered", "features"),
    ("registerfunction", "invocation"),
    ("registerfunction", "observe"),
    ("invokefunction", "action"),
    ("invokefunction", "caller"),
    ("invokefunction", "observe_depth"),
    ("invokefunction", "activation"),
    ("functionregistered", "revision"),
    ("functionregistered", "local_dispatch"),
    ("functionregistered", "observers"),
    ("observeradded", "revision"),
    ("observerack", "error"),
    ("observe", "metadata"),
    ("observe", "max_fires"),
    ("observeresult", "warnings"),
    ("observeresult", "error"),
    ("observerstatechanged", "fires"),
    ("observerstatechanged", "reason"),
]
REQUIRED_TEXTS = [(kind, name) for kind, fields in LEAST.items() for name in fields if isinstance(fields[name], str)]


def wire(kind: str, **fields: Any) -> bytes:
    """A message of the least fields and these, as a peer would send it."""
    return json.dumps({"type": kind, **LEAST[kind], **fields}).encode()


def on_the_wire(message: Any) -> dict[str, Any]:
    """What §4.1 says must be written of a message."""
    if isinstance(message, Unknown):
        return {"type": message.type, **message.fields}
    fields = {"type": message.type}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if field.name != "extra" and value is not ABSENT and (value is not None or field.default is not None):
            fields[field.name] = value
    return fields | (message.extra or {})


# ---------------------------------------------------------------- there and back


def test_every_message_is_tried_here() -> None:
    assert set(MESSAGES) == set(get_args(Message))
    assert set(LEAST) == set(CLASSES)


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_a_message_arrives_as_it_was_sent(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[cls])
    encoded = encode(message)
    assert decode(encoded) == message
    assert decode(bytearray(encoded)) == decode(memoryview(encoded)) == message
    # Read by another library, written in the order of the class (§4).
    assert list(json.loads(encoded).items()) == list(on_the_wire(message).items())


@pytest.mark.parametrize("data", [None, {"a": [None, 1.5, "ü"]}, "text", []], ids=["null", "object", "text", "list"])
def test_a_plain_call_is_written_like_the_message(data: Any) -> None:
    invocation_id = "6f9619ff-8b86-4011-b42d-00cf4fc964ff"
    assert encode_call("f", data, invocation_id) == encode(InvokeFunction("f", data, invocation_id))


@pytest.mark.parametrize(
    ("data", "error"),
    [(float("nan"), EncodeError), ("x" * MAX_MESSAGE_BYTES, PayloadTooLargeError)],
    ids=["nan", "size"],
)
def test_a_plain_call_is_refused_like_the_message(data: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as by_call:
        encode_call("f", data, "6f9619ff-8b86-4011-b42d-00cf4fc964ff")
    with pytest.raises(error) as by_message:
        encode(InvokeFunction("f", data, "6f9619ff-8b86-4011-b42d-00cf4fc964ff"))
    assert str(by_call.value) == str(by_message.value)


def test_text_is_compact_and_not_escaped() -> None:
    message = InvokeFunction("größe::messen", {"a": [1, "漢"]}, UUID, extra={"later": 1})
    assert encode(message).decode() == (
        '{"type":"invokefunction","function_id":"größe::messen","data":{"a":[1,"漢"]},'
        f'"invocation_id":"{UUID}","later":1}}'
    )


def test_escaped_text_and_any_order_of_keys_are_read() -> None:
    assert decode(b' {"data" : 1,\n"function_id":"gr\\u00f6\\u00dfe" ,"type":"invokefunction"} ') == InvokeFunction(
        "größe", 1
    )


# ---------------------------------------------------------------- absent is not null (§4.1)


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (InvokeFunction("f", None), b'{"type":"invokefunction","function_id":"f","data":null}'),  # P-27
        (
            InvokeFunction("f", 1, metadata=None),
            b'{"type":"invokefunction","function_id":"f","data":1,"metadata":null}',
        ),
        (
            RegisterTrigger("b", "t", "f", None),  # P-46
            b'{"type":"registertrigger","id":"b","trigger_type":"t","function_id":"f","config":null}',
        ),
        (
            InvocationResult("i", "f", None),  # P-42
            b'{"type":"invocationresult","invocation_id":"i","function_id":"f","result":null}',
        ),
        # As the engine relays a null result (§5.4).
        (InvocationResult("i", "f"), b'{"type":"invocationresult","invocation_id":"i","function_id":"f"}'),
        (RegisterService("s"), b'{"type":"registerservice","id":"s"}'),
        (Ping(), b'{"type":"ping"}'),
    ],
)
def test_null_is_written_where_it_is_a_value_and_nowhere_else(message: Message, encoded: bytes) -> None:
    assert encode(message) == encoded


@pytest.mark.parametrize(("kind", "name"), [*OPTIONAL_TEXTS, *OTHERS])
def test_null_means_absent_for_a_field_of_a_fixed_type(kind: str, name: str) -> None:
    assert decode(wire(kind, **{name: None})) == decode(wire(kind)) == CLASSES[kind](**LEAST[kind])


@pytest.mark.parametrize(("kind", "name"), VALUES)
def test_null_stays_null_where_any_json_may_stand(kind: str, name: str) -> None:
    assert getattr(decode(wire(kind, **{name: None})), name) is None
    assert getattr(decode(wire(kind)), name) is ABSENT


def test_null_is_refused_as_the_name_of_a_service() -> None:
    with pytest.raises(DecodeError, match="registerservice: name must be a string"):
        decode(wire("registerservice", name=None))
    assert decode(wire("registerservice", name="s")) == RegisterService("s", "s")


@pytest.mark.parametrize("name", ["headers", "method"])
def test_null_is_refused_in_an_http_function(name: str) -> None:
    with pytest.raises(DecodeError, match="invocation must be an HTTP function"):
        decode(wire("registerfunction", invocation={"url": "http://h", name: None}))


# ---------------------------------------------------------------- missing fields, fields of a wrong type


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, fields in LEAST.items() for name in fields])
def test_a_required_field_must_be_there(kind: str, name: str) -> None:
    fields = {key: value for key, value in LEAST[kind].items() if key != name}
    with pytest.raises(DecodeError, match=f"{kind}: {name} is missing"):
        decode(json.dumps({"type": kind, **fields}).encode())


@pytest.mark.parametrize(("kind", "name"), REQUIRED_TEXTS)
@pytest.mark.parametrize("value", [None, 1, True, ["f"], {}])
def test_a_required_string_must_be_a_string(kind: str, name: str, value: object) -> None:
    with pytest.raises(DecodeError, match=f"{kind}: {name} must be a string"):
        decode(wire(kind, **{name: value}))
    with pytest.raises(EncodeError, match=f"{kind}: {name} must be a string"):
        encode(CLASSES[kind](**(LEAST[kind] | {name: value})))


@pytest.mark.parametrize(("kind", "name"), [*OPTIONAL_TEXTS, ("registerservice", "name")])
@pytest.mark.parametrize("value", [0, False, 1.5, [], {}])
def test_an_optional_string_must_be_a_string(kind: str, name: str, value: object) -> None:
    with pytest.raises(DecodeError, match=f"{kind}: {name} must be a string"):
        decode(wire(kind, **{name: value}))
    with pytest.raises(EncodeError, match=f"{kind}: {name} must be a string"):
        encode(CLASSES[kind](**LEAST[kind], **{name: value}))


WRONG: list[tuple[str, str, Any]] = [
    ("workerregistered", "features", "observe.v1"),
    ("workerregistered", "features", ["observe.v1", 1]),
    ("registerfunction", "observe", True),
    ("registerfunction", "invocation", "http://h"),
    ("registerfunction", "invocation", {}),
    ("registerfunction", "invocation", {"url": 1}),
    ("registerfunction", "invocation", {"url": "u", "method": "HEAD"}),
    ("registerfunction", "invocation", {"url": "u", "method": ["GET"]}),
    ("registerfunction", "invocation", {"url": "u", "headers": ["a: b"]}),
    ("registerfunction", "invocation", {"url": "u", "headers": {"a": 1}}),
    ("registerfunction", "invocation", {"url": "u", "timeout_ms": -1}),
    ("registerfunction", "invocation", {"url": "u", "timeout_ms": "5"}),
    ("registerfunction", "invocation", {"url": "u", "auth": "token"}),
    ("registerfunction", "invocation", {"url": "u", "auth": {"type": "basic"}}),
    ("registerfunction", "invocation", {"url": "u", "auth": {"type": ["bearer"]}}),
    ("registerfunction", "invocation", {"url": "u", "auth": {"type": "bearer", "token_key": None}}),
    ("registerfunction", "invocation", {"url": "u", "auth": {"type": "api_key", "header": "h"}}),
    # §5.3: void, enqueue with a queue, nothing else.
    ("invokefunction", "action", "void"),
    ("invokefunction", "action", {}),
    ("invokefunction", "action", {"type": "Void"}),
    ("invokefunction", "action", {"type": "enqueue"}),
    ("invokefunction", "action", {"type": "enqueue", "queue": None}),
    ("invokefunction", "caller", "f"),
    ("invokefunction", "observe_depth", "1"),
    ("invokefunction", "observe_depth", True),
    ("invokefunction", "observe_depth", -1),
    ("invokefunction", "observe_depth", 1.0),
    ("invokefunction", "activation", []),
    # §16
    ("functionregistered", "revision", -1),
    ("functionregistered", "local_dispatch", 1),
    ("functionregistered", "observers", {}),
    ("functionregistered", "observers", ["o1"]),
    ("observeradded", "observer", None),
    ("observeradded", "observer", "o1"),
    ("observerack", "error", {"code": "C"}),
    ("observe", "source", {}),
    ("observe", "source", "f"),
    ("observe", "source", {"function_id": "f", "namespace": 1}),
    ("observe", "target", {"function_id": None}),
    ("observe", "max_fires", "1"),
    ("observeresult", "warnings", "w"),
    ("observerstatechanged", "reason", "gone"),
    ("invocationsobserved", "items", None),
    ("invocationsobserved", "items", [1]),
    ("localinvocationstats", "window_ms", None),
    ("localinvocationstats", "functions", {}),
    # §4.4
    ("error", "error", None),
    ("error", "error", {}),
    ("error", "error", "no token"),
    ("triggerregistrationresult", "error", "path taken"),
    ("triggerregistrationresult", "error", {"code": "C"}),
    ("triggerregistrationresult", "error", {"code": "C", "message": None}),
    ("triggerregistrationresult", "error", FAILURE | {"stacktrace": ["line"]}),
]


@pytest.mark.parametrize(("kind", "name", "value"), WRONG)
def test_a_field_of_a_wrong_type_is_refused(kind: str, name: str, value: object) -> None:
    with pytest.raises(DecodeError, match=f"{kind}: {name} must be "):
        decode(wire(kind, **{name: value}))
    with pytest.raises(EncodeError, match=f"{kind}: {name} must be "):
        encode(CLASSES[kind](**(LEAST[kind] | {name: value})))


@pytest.mark.parametrize(
    "message", [InvokeFunction("f", ABSENT), RegisterTrigger("b", "t", "f", ABSENT)], ids=["data", "config"]
)
def test_a_required_value_must_be_given(message: Message) -> None:
    with pytest.raises(EncodeError, match=r"^\w+: (data|config) is missing"):
        encode(message)


def test_a_string_may_be_of_a_subclass() -> None:
    class Name(str):
        __slots__ = ()

    assert encode(InvokeFunction(Name("f"), 1, Name(UUID))) == encode(InvokeFunction("f", 1, UUID))
    assert encode(InvocationResult(Name(UUID), "f")) == encode(InvocationResult(UUID, "f"))


# ---------------------------------------------------------------- results


def test_an_error_is_written_without_the_result() -> None:
    encoded = json.loads(encode(InvocationResult(UUID, "f", {"id": 7}, FAILURE)))
    assert encoded == {"type": "invocationresult", "invocation_id": UUID, "function_id": "f", "error": FAILURE}


def test_an_error_wins_over_a_result_of_the_peer() -> None:
    assert decode(wire("invocationresult", result=1, error=FAILURE)) == InvocationResult(UUID, "f", error=FAILURE)


@pytest.mark.parametrize("error", [None, {}, ""])
def test_an_empty_error_is_success(error: object) -> None:
    # §5.4
    assert decode(wire("invocationresult", result=1, error=error)) == InvocationResult(UUID, "f", 1)
    assert encode(InvocationResult(UUID, "f", 1, error)) == encode(InvocationResult(UUID, "f", 1))
    assert decode(wire("triggerregistrationresult", error=error)) == TriggerRegistrationResult("b")
    assert encode(TriggerRegistrationResult("b", error=error)) == encode(TriggerRegistrationResult("b"))


@pytest.mark.parametrize("error", ["boom", 7, ["boom"], {"code": 1, "message": "m"}, {"message": "m"}])
def test_a_malformed_error_ends_its_call_but_is_not_sent(error: object) -> None:
    # P-31 as the caller; the engine would drop the frame (§4.4), so we do not send one.
    assert decode(wire("invocationresult", error=error)) == InvocationResult(UUID, "f", error=error)
    with pytest.raises(EncodeError, match='invocationresult: error must be an object with the strings "code"'):
        encode(InvocationResult(UUID, "f", error=error))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (FAILURE, True),
        (FAILURE | {"stacktrace": None}, True),
        (FAILURE | {"stacktrace": "Traceback", "more": 1}, True),
        (FAILURE | {"stacktrace": 1}, False),
        ({"code": "C"}, False),
        ({"code": 1, "message": "m"}, False),
        ({}, False),
        ("C: m", False),
        (None, False),
    ],
)
def test_an_error_body_has_a_code_and_a_message(value: object, expected: bool) -> None:
    assert is_error_body(value) is expected


# ---------------------------------------------------------------- what this version does not know


def test_a_message_of_unknown_type_is_kept_whole() -> None:
    # P-10
    encoded = b'{"type":"later","id":"o","source":{"function_id":"f"},"extra":null}'
    message = decode(encoded)
    assert message == Unknown("later", {"id": "o", "source": {"function_id": "f"}, "extra": None})
    assert encode(message) == encoded


def test_the_type_of_an_unknown_message_is_written_once() -> None:
    assert encode(Unknown("later", {"id": "o", "type": "other"})) == b'{"type":"later","id":"o"}'


@pytest.mark.parametrize("kind", LEAST)
def test_unknown_fields_are_carried(kind: str) -> None:
    message = decode(wire(kind, priority=3, hints=None))
    assert message == CLASSES[kind](**LEAST[kind], extra={"priority": 3, "hints": None})
    assert json.loads(encode(message)).items() >= json.loads(wire(kind, priority=3, hints=None)).items()


def test_a_field_of_the_message_wins_over_an_extra_one() -> None:
    message = InvokeFunction("f", 1, namespace="orders", extra={"namespace": "n", "data": 2, "type": "t"})
    assert decode(encode(message)) == InvokeFunction("f", 1, namespace="orders")


# ---------------------------------------------------------------- what cannot be sent


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (InvokeFunction("f", float("nan")), "data is nan"),
        (InvokeFunction("f", {"items": [0, 1, {"price": float("inf")}]}), r"data.items\[2\].price is inf"),
        (InvokeFunction("f", None, metadata={"score": float("-inf")}), "metadata.score is -inf"),
        (InvokeFunction("f", None, caller={"x": float("nan")}), "caller.x is nan"),
        (InvokeFunction("f", None, extra={"x": float("nan")}), "x is nan"),
        (InvocationResult("i", "f", (1, float("nan"))), r"result\[1\] is nan"),
        (InvocationResult("i", "f", None, FAILURE | {"x": float("nan")}), "error.x is nan"),
        (RegisterFunction("f", metadata={"null": float("nan")}), "metadata.null is nan"),
        (Unknown("observe", {"x": float("nan")}), "x is nan"),
        (InvokeFunction("f", "\ud800"), "data holds a lone surrogate"),
        (InvokeFunction("f", {"\udfff": 1}), "a key of data holds a lone surrogate"),
        (InvokeFunction("\ud800", 1), "function_id holds a lone surrogate"),
        (InvokeFunction("f", {"x": object()}), "data.x is of type object"),
    ],
)
def test_what_the_engine_cannot_read_is_refused_by_name(message: Message, where: str) -> None:
    # G-2: it would drop the frame, and the call would never end.
    with pytest.raises(EncodeError, match=f"^{where}"):
        encode(message)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("message", [InvokeFunction("f", nested(126)), InvocationResult("i", "f", nested(126))])
def test_126_arrays_pass_in_either_direction(message: Message) -> None:
    # §4: 127 levels, the message included.
    assert decode(encode(message)) == message


@pytest.mark.parametrize("levels", [127, 128, 200, 1000, 5000])
def test_127_arrays_are_refused_in_either_direction(levels: int) -> None:
    with pytest.raises(EncodeError, match="is nested too deep"):
        encode(InvokeFunction("f", nested(levels)))
    deep = b"[" * levels + b"]" * levels
    with pytest.raises(DecodeError):
        decode(b'{"type":"invokefunction","function_id":"f","data":' + deep + b"}")


def test_a_message_of_64_mib_is_sent_and_read() -> None:
    around = len(encode(InvokeFunction("f", "", UUID)))
    message = InvokeFunction("f", "x" * (MAX_MESSAGE_BYTES - around), UUID)
    encoded = encode(message)
    assert len(encoded) == MAX_MESSAGE_BYTES
    assert decode(encoded) == message


@pytest.mark.parametrize("letter", ["x", "é"])
def test_one_byte_more_is_refused_with_the_ids_of_the_call(letter: str) -> None:
    # P-06: bytes of UTF-8, envelope included.
    around = len(encode(InvokeFunction("f", "", UUID)))
    data = letter * ((MAX_MESSAGE_BYTES - around) // len(letter.encode()) + 1)
    size = around + len(data.encode())
    with pytest.raises(PayloadTooLargeError, match=f"is {size} bytes; limit is 67108864 bytes") as caught:
        encode(InvokeFunction("f", data, UUID))
    assert (caught.value.code, caught.value.function_id, caught.value.invocation_id) == ("payload_too_large", "f", UUID)


def test_messages_without_a_call_have_the_same_limit() -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        encode(RegisterFunction("f", "x" * MAX_MESSAGE_BYTES))
    assert caught.value.invocation_id is None


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b" \n",
        b"null",
        b"[]",
        b'"ping"',
        b"{}",
        b'{"type":null}',
        b'{"type":["ping"]}',
        b'{"type":"ping"',
        b'{"type":"ping"}{}',
        b"{'type':'ping'}",
        b'\xef\xbb\xbf{"type":"ping"}',
        b'{"type":"ping","x":"\xff"}',
        b'{"type":"ping","x":"\\ud800"}',
        b'{"type":"ping","x":NaN}',
        b'{"type":"ping","x":-Infinity}',
        b'{"type":"ping","x":1e999}',
        b'{"type":"ping","x":' + b"9" * 400 + b"}",
    ],
)
def test_what_is_no_message_is_refused(encoded: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(encoded)


def decoded(encoded: bytes) -> Message | None:
    try:
        return decode(encoded)
    except DecodeError:
        return None


@given(st.binary(max_size=200))
@example(b'{"type":"ping"}' + b"\x00")
def test_arbitrary_bytes_raise_nothing_but_a_decode_error(encoded: bytes) -> None:
    message = decoded(encoded)
    assert message is None or isinstance(message, get_args(Message))


@given(anything)
def test_arbitrary_json_raises_nothing_but_a_decode_error(value: object) -> None:
    message = decoded(json.dumps(value).encode())
    assert message is None or isinstance(message, Unknown)


names = sorted({field.name for cls in CLASSES.values() for field in dataclasses.fields(cls)})


@given(
    st.sampled_from(sorted(LEAST)),
    st.dictionaries(st.sampled_from(names), anything | errors | actions | http_functions, max_size=6),
)
def test_a_message_with_arbitrary_fields_is_refused_or_comes_back_the_same(kind: str, fields: dict[str, Any]) -> None:
    message = decoded(wire(kind, **fields))
    if isinstance(message, InvocationResult) and message.error and not is_error_body(message.error):
        return  # read, but never written
    if message is not None:
        assert isinstance(message, CLASSES[kind])
        assert decode(encode(message)) == message


@given(st.binary(min_size=1, max_size=3), st.integers(0, 10_000), st.sampled_from(sorted(LEAST)))
def test_a_damaged_message_raises_nothing_but_a_decode_error(noise: bytes, at: int, kind: str) -> None:
    encoded = wire(kind, extra={"a": [1.5, "é", None]})
    at %= len(encoded)
    decoded(encoded[:at] + noise + encoded[at + len(noise) :])
    decoded(encoded[:at])


# ---------------------------------------------------------------- invocation ids (§4.2)


@pytest.mark.parametrize("form", [UUID, UUID.upper(), UUID.replace("-", ""), UUID.replace("-", "").upper()])
def test_a_uuid_has_one_canonical_form(form: str) -> None:
    # G-19: the engine echoes ids in it.
    assert is_uuid(form)
    assert canonical_uuid(form) == UUID


@pytest.mark.parametrize(
    "form",
    [
        "",
        "call-1",
        UUID[:-1],
        UUID + "0",
        UUID + "\n",
        UUID.replace("-", "", 1),
        UUID.replace("9", "g"),
        "\uff19" + UUID[1:],
    ],
)
def test_what_is_no_uuid_is_refused(form: str) -> None:
    assert not is_uuid(form)
    with pytest.raises(DecodeError):
        canonical_uuid(form)
