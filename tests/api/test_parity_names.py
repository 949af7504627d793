"""Every public name of upstream's 0.25 packages is here (A.1). ``DIFFERENT`` is on purpose."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any

import iii  # type: ignore[import-untyped]
import iii_helpers
import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

ROOT = "iii"

OURS = {
    ROOT: "iii_anyio",
    "iii.channel": "iii_anyio.channel",
    "iii.engine": "iii_anyio.engine",
    "iii.errors": "iii_anyio.errors",
    "iii.filter": "iii_anyio.filter",
    "iii.helpers": "iii_anyio.helpers",
    "iii.internal": "iii_anyio.internal",
    "iii.process_marker": "iii_anyio.process_marker",
    "iii.protocol": "iii_anyio.protocol",
    "iii.runtime": "iii_anyio.runtime",
    "iii.state": "iii_anyio.state",
    "iii.stream": "iii_anyio.stream",
    "iii.trigger": "iii_anyio.trigger",
    "iii.utils": "iii_anyio.utils",
    "iii_helpers.http": "iii_anyio.http",
    "iii_helpers.observability": "iii_anyio.observability",
    "iii_helpers.queue": "iii_anyio.queue",
    "iii_helpers.stream": "iii_anyio.stream",
    "iii_helpers.worker_connection_manager": "iii_anyio.worker_connection_manager",
}
"""Upstream's module and ours."""

INTERNAL = {
    "iii.channels": "iii.channel shows what is public",
    "iii.format_utils": "iii.utils shows it all",
    "iii.iii": "register_worker and TriggerAction are at the root, III is client.III",
    "iii.iii_constants": "options, handles and constants, public in other modules",
    "iii.iii_types": "wire models; iii.protocol shows what is public",
    "iii.invocation_context": "InvocationContext and current_invocation are public at the root",
    "iii.observable": "observe's engine room; Observer is public at the root",
    "iii.observe_types": "public at the root",
    "iii.observe_wire": "observe's engine room",
    "iii.observer_handle": "ObserverHandle is public at the root",
    "iii.otel_worker_gauges": "nothing calls it, and it fails when called (A.18)",
    "iii.reporter": "observe's engine room",
    "iii.triggers": "iii.trigger and iii.runtime show it all",
    "iii.types": "public at the root, in iii.internal and iii.helpers",
    "iii.worker_metrics": "nothing calls it (A.18)",
    "iii_helpers.observability.baggage_span_processor": "iii_helpers.observability shows it",
    "iii_helpers.observability.http_instrumentation": "iii_helpers.observability shows it",
    "iii_helpers.observability.logger": "iii_helpers.observability shows it",
    "iii_helpers.observability.payload": "iii_helpers.observability shows it",
    "iii_helpers.observability.reconnection": "iii_helpers.observability shows it",
    "iii_helpers.observability.span_ops": "iii_helpers.observability shows it",
    "iii_helpers.observability.telemetry": "iii_helpers.observability shows what is public",
    "iii_helpers.observability.telemetry_exporters": "the exporters' side of it",
    "iii_helpers.observability.telemetry_types": "iii_helpers.observability shows it",
}
"""Importable, but no documented module (tier T of A.1)."""

ELSEWHERE = {"MiddlewareFunctionInput": "iii_anyio.worker_connection_manager"}
"""Where ours is compared while the module that has upstream's name is without it."""

UNSET = "what was not set would wipe what the worker sent (RB-20)"

DIFFERENT: dict[str, dict[str, str]] = {
    "StateUpdateResult": {"+errors": "the engine sends it (ST-8), upstream drops it"},
    "StreamChangeEventDetail": {
        "+event": "messages of stream::send reach stream triggers (SR-13)",
        "data": "a message has no data of its own (SR-8)",
    },
    "OnFunctionRegistrationResult": {"dump": UNSET},
    "OnTriggerRegistrationResult": {"dump": UNSET},
    "OnTriggerTypeRegistrationResult": {"dump": UNSET},
}
"""Model → field (``+`` for one that upstream has not), or ``dump`` of what was set only, → why."""

ANY_JSON = "metadata and payloads are any JSON, and a hook that fails denies in silence"
CONTEXT: dict[str, Any] = {"context": {}}

TAKEN: list[tuple[str, dict[str, Any], bool, str]] = [
    ("UpdateSet", {"type": "merge", "path": "a", "value": 1}, False, "operations are told apart by type (A.25, 20)"),
    ("UpdateMerge", {"type": "set", "value": {}}, False, "operations are told apart by type (A.25, 20)"),
    ("UpdateIncrement", {"path": "n", "by": 1.5}, False, "the engine fails the whole call (UO-3)"),
    ("UpdateDecrement", {"path": "n", "by": 1.5}, False, "the engine fails the whole call (UO-3)"),
    ("StreamUpdateInput", {**dict.fromkeys(("stream_name", "group_id", "item_id"), "x"), "ops": [{"path": "a"}]},
     False, "an operation without type is none (UO-4)"),
    ("StreamChangeEventDetail", {"type": "event", "event": {"type": "t", "data": 1}}, True, "stream::send (SR-13)"),
    ("OnFunctionRegistrationInput", {"function_id": "f", "metadata": [1], **CONTEXT}, True, ANY_JSON),
    ("OnTriggerRegistrationInput",
     {**dict.fromkeys(("trigger_id", "trigger_type", "function_id"), "x"), "metadata": "m", **CONTEXT}, True, ANY_JSON),
    ("OnTriggerTypeRegistrationInput", {"trigger_type_id": "t", "description": "d", "context": None}, True, ANY_JSON),
    ("MiddlewareFunctionInput", {"function_id": "f", "payload": [1], **CONTEXT}, True, ANY_JSON),
    ("TriggerConfig", {"id": "t", "function_id": "f", "config": None, "metadata": [1]}, True, ANY_JSON),
]  # fmt: skip
"""Model, input, whether it is ours that takes it and upstream's that refuses or the other way round, why."""

SAMPLES: dict[str, Any] = {
    "action": {"type": "enqueue", "queue": "q"},
    "allow_function_registration": False,
    "allow_trigger_type_registration": True,
    "allowed_functions": ["a"],
    "allowed_trigger_types": ["http"],
    "auth": {"type": "bearer", "token_key": "T"},
    "body": [{"name": "x", "type": "string"}],
    "by": 2,
    "config": {"api_path": "x"},
    "connected_at_ms": 1,
    "context": {"user": "u"},
    "data": {"a": None},
    "direction": "read",
    "dispatch": "remote",
    "errors": [{"op_index": 0, "code": "c", "message": "m"}],
    "event": {"type": "create", "data": {"a": 1}},
    "event_type": "state:created",
    "forbidden_functions": ["b"],
    "headers": {"a": "b"},
    "invocation": {"url": "https://example.com"},
    "items": {"name": "x", "type": "string"},
    "metadata": {"m": 1},
    "method": "PUT",
    "namespaces": {"orders": ["svc::*"]},
    "observe": {"delivery": "owner"},
    "op_index": 1,
    "ops": [{"type": "set", "path": "a", "value": 1}],
    "path_params": {"id": "1"},
    "payload": {"p": 1},
    "query_params": {"q": ["1"]},
    "request_format": {"type": "object"},
    "required": True,
    "response_format": {"type": "object"},
    "statusCode": 201,
    "timeout_ms": 5,
    "timestamp": 1760000000000,
    "unauthorized": True,
}
"""By field; any other is given its own name."""


def public_names(module: ModuleType) -> list[str]:
    """What a module lists, else what it defines."""
    listed: Iterable[str] | None = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, typing.TypeVar)
        and getattr(value, "__module__", None) == module.__name__
    )


def modules_of(package: ModuleType) -> Iterator[str]:
    """Dotted names of all modules of a package that have no leading underscore."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not any(part.startswith("_") for part in info.name.split(".")) and "filter." not in info.name:
            yield info.name


def pairs(kind: type) -> list[Any]:
    """Each class of a kind that both sides have, once, ours first."""
    seen: set[int] = set()
    found: list[Any] = []
    for theirs_name, ours_name in OURS.items():
        theirs, ours = importlib.import_module(theirs_name), importlib.import_module(ours_name)
        for name in public_names(theirs):
            here = ours if hasattr(ours, name) else importlib.import_module(ELSEWHERE.get(name, OURS[ROOT]))
            cls, mine = getattr(theirs, name), getattr(here, name, None)
            if isinstance(cls, type) and issubclass(cls, kind) and mine is not None and id(cls) not in seen:
                seen.add(id(cls))
                found.append(pytest.param(mine, cls, id=name))
    return found


MODELS = pairs(BaseModel)


# -- names -----------------------------------------------------------------------------------------------------------


def test_each_module_of_upstream_is_in_one_table() -> None:
    there = [ROOT, *modules_of(iii), *modules_of(iii_helpers)]
    tables = [*OURS, *INTERNAL]
    assert sorted(tables) == sorted(there)


@pytest.mark.parametrize("theirs", OURS)
def test_each_public_name_is_here(theirs: str) -> None:
    ours = importlib.import_module(OURS[theirs])
    wanted = public_names(importlib.import_module(theirs))
    assert wanted
    assert {name for name in wanted if name not in ours.__all__} == set()
    assert all(hasattr(ours, name) for name in wanted)


def test_the_root_lacks_what_upstreams_tests_forbid_there() -> None:
    """B.9."""
    root = importlib.import_module("iii_anyio")
    forbidden = (
        "FunctionRef TriggerTypeRef Channel ChannelReader ChannelWriter StreamChannelRef Trigger TriggerConfig "
        "TriggerHandler RegisterFunctionInput IIIInvocationError HttpRequest HttpResponse"
    )
    assert [name for name in forbidden.split() if hasattr(root, name)] == []
    assert not set(root.__all__) & {"extract_channel_refs", "is_channel_ref", "ChannelDirection", "ChannelItem"}


# -- models ----------------------------------------------------------------------------------------------------------


def facts(model: type[BaseModel]) -> dict[str, Any]:
    return {
        name: (
            field.is_required(),
            field.serialization_alias,
            PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True),
        )
        for name, field in model.model_fields.items()
    }


@pytest.mark.parametrize(("ours", "theirs"), MODELS)
def test_a_model_has_the_fields_of_upstreams(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    """Names, which are required, aliases, defaults."""
    excused = DIFFERENT.get(theirs.__name__, {})
    mine, wanted = facts(ours), facts(theirs)
    # Upstream repeats some field's own name as its alias.
    wanted = {
        name: (need, None if alias == name else alias, default) for name, (need, alias, default) in wanted.items()
    }
    more = {name for name in mine if name not in wanted}
    assert {f"+{name}" for name in more} == {name for name in excused if name.startswith("+")}
    for name, fact in wanted.items():
        assert (mine[name] != fact) == (name in excused), name
    assert [name for name in mine if name in wanted] == list(wanted)


@pytest.mark.parametrize(("ours", "theirs"), MODELS)
@pytest.mark.parametrize("extent", ["every field", "required fields"])
def test_a_model_dumps_what_upstreams_dumps(ours: type[BaseModel], theirs: type[BaseModel], extent: str) -> None:
    fields = {
        field.alias or name: SAMPLES.get(field.alias or name, name)
        for name, field in theirs.model_fields.items()
        if extent == "every field" or field.is_required()
    }
    # Constants, and values whose type depends on the model.
    for name in ("type", "message_type"):
        if name in theirs.model_fields and not theirs.model_fields[name].is_required():
            fields.pop(theirs.model_fields[name].alias or name, None)
    if theirs.__name__ == "StreamChangeEvent":
        fields["type"] = "stream"
    if theirs.__name__ == "StreamChangeEventDetail":
        fields["type"] = "update"
    mine, wanted = ours.model_validate(fields), theirs.model_validate(fields)
    excused = DIFFERENT.get(theirs.__name__, {})
    for by_alias in (False, True):
        dumped, expected = (made.model_dump(mode="json", by_alias=by_alias) for made in (mine, wanted))
        dumped = {name: value for name, value in dumped.items() if f"+{name}" not in excused}
        if "dump" in excused:
            expected = {name: value for name, value in expected.items() if name in fields}
        assert dumped == expected


@pytest.mark.parametrize(("name", "given", "is_ours", "reason"), TAKEN)
def test_what_only_one_side_takes_is_on_purpose(name: str, given: dict[str, Any], is_ours: bool, reason: str) -> None:
    [(ours, theirs)] = [param.values for param in MODELS if param.id == name]
    assert reason
    taker, refuser = (ours, theirs) if is_ours else (theirs, ours)
    taker.model_validate(given)
    with pytest.raises(ValidationError):
        refuser.model_validate(given)


def test_differences_are_of_models_that_are_compared() -> None:
    assert set(DIFFERENT) | {name for name, *_ in TAKEN} <= {param.id for param in MODELS}


# -- other classes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), pairs(Enum))
def test_an_enum_has_the_members_of_upstreams(ours: type[Enum], theirs: type[Enum]) -> None:
    assert {member.name: member.value for member in ours} == {member.name: member.value for member in theirs}


@pytest.mark.parametrize(
    ("ours", "theirs"), [param for param in pairs(object) if dataclasses.is_dataclass(param.values[1])]
)
def test_a_dataclass_begins_with_the_fields_of_upstreams(ours: type, theirs: type) -> None:
    """In order: they are given by position too. Private ones are not compared."""

    def fields(cls: Any) -> list[tuple[str, Any]]:
        return [(field.name, field.default) for field in dataclasses.fields(cls) if not field.name.startswith("_")]

    wanted = fields(theirs)
    assert fields(ours)[: len(wanted)] == wanted


@pytest.mark.parametrize(
    "name",
    [
        "iii.protocol.FEATURE_OBSERVE_V1",
        "iii.protocol.FEATURE_LOCAL_DISPATCH_V1",
        "iii.protocol.FEATURE_LARGE_MESSAGES_V1",
        "iii.protocol.SDK_FEATURES",
        "iii.DEFAULT_ENGINE_URL",
    ],
)
def test_a_constant_has_the_value_of_upstreams(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    theirs, ours = importlib.import_module(module), importlib.import_module(OURS[module])
    assert getattr(ours, attribute) == getattr(theirs, attribute)
