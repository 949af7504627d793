"""Decorators on a worker: what they register, what they bind, and what they refuse."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from anyio import Event, fail_after
from pydantic import BaseModel, ValidationError

from iii_anyio import ApiRequest, InitOptions, State, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.state import StateEventData
from iii_anyio.stream import StreamChangeEvent
from iii_anyio.trigger import TriggerConfig, TriggerHandler
from iii_anyio.triggers import (
    ConfigurationEvent,
    ConfigurationTrigger,
    CronEvent,
    CronTrigger,
    FunctionsAvailableEvent,
    HttpTrigger,
    LogEvent,
    LogTrigger,
    QueueConfig,
    QueueTrigger,
    StreamTrigger,
    SubscribeTrigger,
    TraceEvent,
    TypedTrigger,
    WorkersAvailableEvent,
)
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


class Provider(TriggerHandler[Any]):
    """Notes what is bound."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        self.bound[config.function_id] = (config.config, config.metadata, config.namespace)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None: ...


class Webhook(TypedTrigger):
    trigger_type = "acme::webhook"
    url: str
    secret: str | None = None


async def test_each_decorator_registers_its_function_and_binds_it_with_the_wires_keys() -> None:
    """H-5, C-2, Q-25, S-7, ST-12, SR-12; a provider in the worker's own namespace goes before the built-in (T-11)."""
    types = ("http", "cron", "durable:subscriber", "subscribe", "state", "stream", "acme::webhook")
    providers = {type_id: Provider() for type_id in types}
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(namespace="shop")) as iii,
        ):
            for type_id, provider in providers.items():
                iii.register_trigger_type(type_id, "fake", provider)

            @iii.http("POST", "/orders/:id", condition_function_id="may", middleware_function_ids=("log",))
            async def create(request: ApiRequest[Any]) -> None: ...

            @iii.cron("0 0 3 * * *", metadata={"why": "nightly"})
            async def clean_up(event: CronEvent) -> None: ...

            @iii.queue("mails", queue_config=QueueConfig(type="fifo", max_retries=5, backoff_delay_ms=500))
            def send(mail: dict[str, Any]) -> None: ...

            @iii.subscribe("news", function_id="shop::news", concurrency=2)
            async def hear(news: str) -> None: ...

            @iii.on_state("users", "u1")
            async def user_changed(event: StateEventData) -> None: ...

            @iii.on_stream("chat", item_id="m1")
            async def chat_changed(event: StreamChangeEvent) -> None: ...

            @iii.on_trigger(Webhook(url="https://example.com"))
            async def hook(data: Any) -> None: ...

            await iii.wait_ready()
            listed = {info.function_id for info in await iii.list_functions_async(worker=None)}

    ids = {"create", "clean_up", "send", "shop::news", "user_changed", "chat_changed", "hook"}
    assert ids <= listed
    bound = {key: value for provider in providers.values() for key, value in provider.bound.items()}
    assert bound == {
        "create": (
            {
                "api_path": "/orders/:id",
                "http_method": "POST",
                "condition_function_id": "may",
                "middleware_function_ids": ["log"],
            },
            None,
            "shop",
        ),
        "clean_up": ({"expression": "0 0 3 * * *"}, {"why": "nightly"}, "shop"),
        "send": (
            {"topic": "mails", "queue_config": {"type": "fifo", "maxRetries": 5, "backoffDelayMs": 500}},
            None,
            "shop",
        ),
        "shop::news": ({"topic": "news"}, None, "shop"),
        "user_changed": ({"scope": "users", "key": "u1"}, None, "shop"),
        "chat_changed": ({"stream_name": "chat", "item_id": "m1"}, None, "shop"),
        "hook": ({"url": "https://example.com"}, None, "shop"),
    }
    assert [type_id for type_id, provider in providers.items() if len(provider.bound) != 1] == []


async def test_one_function_may_have_several_triggers() -> None:
    provider = Provider()
    calls: list[Any] = []
    async with two_workers() as (caller, iii):
        iii.register_trigger_type("acme::webhook", "fake", provider)
        both = Event()

        @iii.on_trigger(Webhook(url="a"))
        @iii.subscribe("news")
        @iii.on_state("users")
        @iii.function("shop::changed", description="hears of changes")
        async def changed(data: Any) -> str:
            calls.append(data)
            if len(calls) == 2:
                both.set()
            return "heard"

        await iii.wait_ready()
        assert provider.bound == {"shop::changed": ({"url": "a"}, None, None)}
        [listed] = await caller.list_functions_async(prefix="shop::")
        assert (listed.function_id, listed.description) == ("shop::changed", "hears of changes")
        await caller.trigger_async("publish", {"topic": "news", "data": "hello"})
        await State(caller).set_async("users", "u1", 1)
        with fail_after(20):
            await both.wait()
        assert "hello" in calls
        assert await changed("direct") == "heard"  # still the function it was


async def test_a_typed_trigger_stands_for_type_and_config() -> None:
    provider = Provider()
    async with two_workers() as (_, iii):
        iii.register_trigger_type("acme::webhook", "fake", provider)
        iii.register_function("f", lambda data: data)
        iii.register_trigger(Webhook(url="a", secret="s"), "f", metadata={"m": 1})
        await iii.wait_ready()
        assert provider.bound == {"f": ({"url": "a", "secret": "s"}, {"m": 1}, None)}
        with pytest.raises(TypeError, match="a Webhook is a config already"):
            iii.register_trigger(Webhook(url="a"), "f", {"url": "b"})  # type: ignore[call-overload]


async def test_decorators_refuse_what_would_not_work() -> None:
    async with two_workers() as (_, iii):
        with pytest.raises(TypeError, match=r"write @function\(\) with parentheses"):
            iii.function(print)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="has no name to make a function id of"):
            iii.cron("@hourly")(partial(print, "x"))
        with pytest.raises(TypeError, match="a trigger is a TypedTrigger"):
            iii.on_trigger("cron")  # type: ignore[arg-type]

        @iii.subscribe("news")
        async def news(data: Any) -> None: ...

        with pytest.raises(ValueError, match=r"@function\(...\) has to stand beneath"):
            iii.function("shop::news")(news)
        with pytest.raises(ValueError, match="its options belong there: concurrency"):
            iii.cron("@hourly", concurrency=1)(news)
        iii.function("one")(test_decorators_refuse_what_would_not_work)
        iii.function("two")(test_decorators_refuse_what_would_not_work)  # one handler, two functions


@pytest.mark.parametrize(
    ("trigger", "fields", "says"),
    [
        (CronTrigger, {"expression": "*/5 * * * *"}, r"begin with the seconds; '0 \*/5 \* \* \* \*' has six"),
        (HttpTrigger, {"api_path": "/x", "http_method": "TRACE"}, "http_method"),
        (HttpTrigger, {"api_path": "/x", "method": "GET"}, "method"),
        (QueueTrigger, {"topic": ""}, "topic"),
        (QueueConfig, {"max_retries": -1}, "max_retries"),
        (SubscribeTrigger, {"topic": ""}, "topic"),
        (StreamTrigger, {"stream_name": ""}, "stream_name"),
        (LogTrigger, {"level": "loud"}, "level"),
        (ConfigurationTrigger, {"event_types": ["configuration:gone"]}, "event_types"),
    ],
)
def test_a_config_that_the_engine_would_ignore_or_refuse_late_is_refused_at_once(
    trigger: type[BaseModel], fields: dict[str, Any], says: str
) -> None:
    """C-2, H-6, T-5, Q-25, S-7, SR-11, OB-16."""
    with pytest.raises(ValidationError, match=says):
        trigger(**fields)


SAMPLES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (
        CronEvent,
        {
            "trigger": "cron",
            "job_id": "t1",
            "scheduled_time": "2026-11-23T00:18:52+00:00",
            "actual_time": "2026-11-23T00:18:52.001377066+00:00",
        },
    ),
    (
        StateEventData,
        {
            "type": "state",
            "event_type": "state:created",
            "scope": "users",
            "key": "u1",
            "old_value": None,
            "new_value": {"n": 1},
        },
    ),
    (
        StreamChangeEvent,
        {
            "type": "stream",
            "timestamp": 1760000000000,
            "streamName": "chat",
            "groupId": "room1",
            "id": "m1",
            "event": {"type": "create", "data": {"t": "hi"}},
        },
    ),
    (
        ConfigurationEvent,
        {
            "type": "configuration",
            "event_type": "configuration:updated",
            "id": "my-svc",
            "name": "My",
            "description": "d",
            "schema": {},
            "old_value": {"port": 1},
            "new_value": {"port": 2},
        },
    ),
    (
        LogEvent,
        {
            "timestamp_unix_nano": 1,
            "observed_timestamp_unix_nano": 1,
            "severity_number": 9,
            "severity_text": "INFO",
            "body": "hi",
            "attributes": {"n": 1},
            "trace_id": None,
            "span_id": None,
            "resource": {"service.name": "svc"},
            "service_name": "svc",
            "instrumentation_scope_name": "iii",
            "instrumentation_scope_version": None,
        },
    ),
    (TraceEvent, {"trace_ids": ["a", "b"]}),
    (
        FunctionsAvailableEvent,
        {
            "event": "functions_changed",
            "functions": [{"function_id": "math::add", "namespace": "default", "worker_name": "m"}],
        },
    ),
    (WorkersAvailableEvent, {"event": "worker_connected", "worker_id": "w"}),
]


@pytest.mark.parametrize(("model", "sample"), SAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_an_event_takes_what_the_engine_sends_and_reads_like_it(model: type[BaseModel], sample: dict[str, Any]) -> None:
    """C-1, ST-10, SR-8, CF-7, §5.3, E-49, E-50."""
    event: Any = model.model_validate(sample)
    assert {*sample} <= {*event.keys()}
    for key in sample:
        assert event[key] is not None or sample[key] is None


async def test_an_option_of_the_function_passes_through() -> None:
    async with two_workers() as (caller, iii):

        @iii.subscribe("news", validate=False, execution="async")
        def raw(data: int) -> Any:
            return data

        await iii.wait_ready()
        assert await caller.trigger_async("raw", "no number") == "no number"


async def test_a_docstring_describes_the_function_unless_a_description_does() -> None:
    """Of decorated functions only: ``register_function`` sends what upstream's sends."""
    async with two_workers() as (caller, iii):

        @iii.function("told")
        async def told(_: Any) -> None:
            """Count the stars,
            all of them.

            Twice.
            """

        @iii.function("silent")
        async def silent(_: Any) -> None: ...

        @iii.function("given", description="Said by hand")
        async def given(_: Any) -> None:
            """Said in passing."""

        @iii.subscribe("stars", function_id="implied")
        async def implied(_: Any) -> None:
            """React."""

        iii.function("partial")(partial(told))
        iii.register_function("registered", told)
        await iii.wait_ready()
        listed = {function.function_id: function.description for function in await caller.list_functions_async()}
    wanted = ("told", "silent", "given", "implied", "partial", "registered")
    assert {name: listed[name] for name in wanted} == {
        "told": "Count the stars, all of them.",
        "silent": None,
        "given": "Said by hand",
        "implied": "React.",
        "partial": None,
        "registered": None,
    }
