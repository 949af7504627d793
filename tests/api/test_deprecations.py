"""What upstream 0.25 has deprecated warns where upstream does, in its words, and nowhere else (A.23, A-26)."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import iii_anyio
from iii_anyio import App, RegisterTriggerInput, RegisterTriggerTypeInput, Worker
from iii_anyio.runtime import TriggerTypeRef
from iii_anyio.trigger import Trigger, TriggerConfig, TriggerHandler
from iii_anyio.triggers import CronTrigger
from tests.api.scripted import ScriptedEngine, native

pytestmark = pytest.mark.anyio

GUIDE = "https://iii.dev/docs/upgrading/from-0-24-x"
TRIGGER = (
    "register_trigger is deprecated and will be removed in a future release. Use "
    f"iii.observe(source, target) instead. Migration guide: {GUIDE}"
)
TYPE = (
    "register_trigger_type is deprecated and will be removed in a future release. Register a function with an observe "
    f"descriptor (register_function(id, handler, observe=ObserveHooks(...))) instead. Migration guide: {GUIDE}"
)
NO_TYPE = (
    "unregister_trigger_type is deprecated and will be removed in a future release. Trigger types are replaced by "
    f"functions with an observe descriptor. Migration guide: {GUIDE}"
)
FUNCTION = (
    "TriggerTypeRef.register_function is deprecated and will be removed in a future release. Use "
    f"iii.register_function and iii.observe(source, target) instead. Migration guide: {GUIDE}"
)


class Handler(TriggerHandler[Any]):
    async def register_trigger(self, config: TriggerConfig[Any]) -> None: ...

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None: ...


TRIGGER_FIELDS: dict[str, Any] = {"type": "cron", "function_id": "f", "config": {"expression": "@daily"}}
TYPE_FIELDS: dict[str, Any] = {"id": "own", "description": "d"}


def ref(iii: Worker) -> TriggerTypeRef[Any, Any]:
    return TriggerTypeRef(iii, "own")


@asynccontextmanager
async def worker() -> AsyncGenerator[tuple[ScriptedEngine, Worker]]:
    engine = ScriptedEngine()
    async with native(engine) as iii:
        await iii.wait_ready()
        yield engine, iii


UPSTREAMS: list[tuple[str, Callable[[Worker], object], str, str]] = [
    ("trigger dict", lambda iii: iii.register_trigger(TRIGGER_FIELDS), TRIGGER, "registertrigger"),
    ("trigger keyword", lambda iii: iii.register_trigger(trigger=TRIGGER_FIELDS), TRIGGER, "registertrigger"),
    ("trigger model", lambda iii: iii.register_trigger(RegisterTriggerInput(**TRIGGER_FIELDS)), TRIGGER,
     "registertrigger"),
    ("ref's trigger", lambda iii: ref(iii).register_trigger("f", {}), TRIGGER, "registertrigger"),
    ("ref's function", lambda iii: ref(iii).register_function("f", str), FUNCTION, "registerfunction"),
    ("ref's function and trigger", lambda iii: ref(iii).register_function("f", str, config={}), FUNCTION,
     "registertrigger"),
    ("type dict", lambda iii: iii.register_trigger_type(TYPE_FIELDS, Handler()), TYPE, "registertriggertype"),
    ("type keywords", lambda iii: iii.register_trigger_type(trigger_type=TYPE_FIELDS, handler=Handler()), TYPE,
     "registertriggertype"),
    ("type model", lambda iii: iii.register_trigger_type(RegisterTriggerTypeInput(**TYPE_FIELDS), Handler()), TYPE,
     "registertriggertype"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text", "sent"), [entry[1:] for entry in UPSTREAMS], ids=[e[0] for e in UPSTREAMS])
async def test_upstreams_spelling_warns_once_at_the_callers_line_and_works(
    call: Callable[[Worker], object], text: str, sent: str
) -> None:
    async with worker() as (engine, iii):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(iii)
        [warning] = caught
        assert warning.category is DeprecationWarning
        assert str(warning.message) == text
        assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno)
        await engine.wait(sent)


@pytest.mark.parametrize("given", [TYPE_FIELDS, RegisterTriggerTypeInput(**TYPE_FIELDS)], ids=["dict", "model"])
async def test_upstreams_spelling_of_taking_a_type_back_warns_and_works(given: Any) -> None:
    async with worker() as (engine, iii):
        iii.register_trigger_type("own", "d", Handler())
        with pytest.warns(DeprecationWarning, match="unregister_trigger_type") as caught:
            iii.unregister_trigger_type(given)
        assert [(str(warning.message), warning.filename) for warning in caught] == [(NO_TYPE, __file__)]
        await engine.wait("unregistertriggertype", id="own")


async def test_our_own_spellings_do_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    """Any warning fails the test. Nothing is logged either, which upstream does once per process."""
    async with worker() as (engine, iii):
        iii.register_trigger("cron", "f", {"expression": "@daily"})
        iii.register_trigger(type="cron", function_id="f", config={"expression": "@daily"})
        iii.register_trigger(CronTrigger(expression="@daily"), "f")
        iii.register_trigger_type("own", "d", Handler(), trigger_request_format=CronTrigger, call_request_format={})
        handle = iii.register_trigger_type(id="other", description="d", handler=Handler())
        handle.unregister()
        iii.unregister_trigger_type("own")
        iii.on_functions_available(print)
        iii.cron("@hourly")(_tick)
        app = App("shop")
        app.http("GET", "/x")(_tick)
        async with app.attach(iii):
            await iii.wait_ready()
        kept = engine.got("registertriggertype", id="own")[0]
        assert (kept["trigger_request_format"]["properties"].keys(), kept["call_request_format"]) == (
            {"expression", "condition_function_id"},
            {},
        )
    assert [record for record in caplog.records if "deprecated" in record.getMessage()] == []


def _tick() -> None: ...


@pytest.mark.parametrize(
    "value",
    [
        Worker.register_trigger,
        Worker.register_trigger_type,
        Worker.unregister_trigger_type,
        TriggerTypeRef,
        TriggerTypeRef.register_trigger,
        TriggerTypeRef.register_function,
        Trigger,
        TriggerConfig,
        TriggerHandler,
    ],
)
def test_what_upstream_marks_as_deprecated_is_marked(value: Any) -> None:
    assert ".. deprecated:: 0.25.0" in (value.__doc__ or "")


def test_the_stream_interface_warns_too() -> None:
    """Texts and lines are in test_helpers.py and test_stream_models.py."""
    with pytest.warns(FutureWarning, match="IStream is deprecated"):
        type("Own", (iii_anyio.IStream,), {})
