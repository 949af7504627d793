"""What the recorded clients did, done by workers of this package: the same functions, triggers and calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from anyio import create_task_group

from iii_anyio import (
    HttpInvocationConfig,
    InitOptions,
    InvocationError,
    InvocationTimeoutError,
    ReconnectionConfig,
    RegistrationRejectedError,
    State,
    Stream,
    TelemetryOptions,
    TriggerAction,
    TriggerRegistrationError,
    Worker,
    open_worker,
)
from iii_anyio.helpers import create_channel_async
from iii_anyio.trigger import TriggerConfig, TriggerHandler
from tests.conformance.playing import Tap, external, request
from tests.conformance.recordings import load, requests
from tests.heard import Heard

__all__ = ("SCENARIOS",)


def worker(tap: Tap, conn: int, name: str, namespace: str | None = None) -> AbstractAsyncContextManager[Worker]:
    options = InitOptions(
        worker_name=name,
        namespace=namespace,
        handle_signals=False,
        telemetry=TelemetryOptions(language="C", project_name="rec"),
        reconnection_config=ReconnectionConfig(initial_delay_ms=1, max_delay_ms=1),
    )
    return open_worker(options=options, connector=tap.connector(conn))


async def fails(iii: Worker, code: str, function_id: str, payload: Any = None, **more: Any) -> None:
    with pytest.raises(InvocationError) as caught:
        await iii.trigger_async(function_id, payload, **more)
    assert caught.value.code == code


async def invoke(tap: Tap) -> None:
    added, release = anyio.Event(), anyio.Event()

    async def add(data: Any) -> Any:
        added.set()
        return {"sum": data["a"] + data["b"]}

    async def boom(_data: Any) -> Any:
        raise ValueError("no good")

    async def none(_data: Any) -> Any:
        pass

    async def meta(_data: Any, metadata: Any) -> Any:
        return {"got": metadata}

    async def slow(_data: Any) -> Any:
        await release.wait()
        return "late"

    async with worker(tap, 2, "rec-caller") as caller:
        async with worker(tap, 1, "rec-callee") as callee:
            await callee.wait_ready()
            await caller.wait_ready()
            handlers: dict[str, Any] = {"add": add, "boom": boom, "none": none, "meta": meta, "slow": slow}
            for name, handler in handlers.items():
                callee.register_function(f"rec::{name}", handler, description=name, metadata={"k": name})
            await callee.wait_ready()
            both = {"a": 1, "b": 2}
            assert await caller.trigger_async("rec::add", both) == {"sum": 3}
            await fails(caller, "invocation_failed", "rec::boom", {})
            assert await caller.trigger_async("rec::none", {}) is None
            assert await caller.trigger_async("rec::meta", {}, metadata={"x": 1}) == {"got": {"x": 1}}
            await fails(caller, "function_not_found", "rec::missing", {})
            with pytest.raises(InvocationTimeoutError):
                await caller.trigger_async("rec::slow", {}, timeout_ms=20)
            added = anyio.Event()
            assert await caller.trigger_async("rec::add", both, action=TriggerAction.Void()) is None
            await fails(caller, "enqueue_error", "rec::add", both, action=TriggerAction.Enqueue(queue="q1"))
            await added.wait()
            release.set()
            for kind in ("functions", "workers", "triggers"):
                await caller.trigger_async(f"engine::{kind}::list", {})
            for payload in (None, [1, 2], "str"):
                await fails(caller, "invocation_failed", "rec::add", payload)
        await fails(caller, "function_not_found", "rec::add", both)


async def http(tap: Tap) -> None:
    async def h(req: Any) -> Any:
        body = {"id": req["path_params"].get("id"), "q": req["query_params"], "b": req["body"]}
        return {"status_code": 201, "body": body, "headers": {"x-a": "1"}}

    async def bad(_req: Any) -> Any:
        raise RuntimeError("kaput")

    async def cond(req: Any) -> Any:
        return "x-ok" in req["headers"]

    async def mw(data: Any) -> Any:
        if "x-mw" in data["request"]["headers"]:
            return {"action": "continue"}
        return {"action": "respond", "response": {"status_code": 418, "body": {"no": True}}}

    async with worker(tap, 1, "rec-http") as iii:
        await iii.wait_ready()
        for name, handler in {"h": h, "bad": bad, "cond": cond, "mw": mw}.items():
            iii.register_function(f"rec::http::{name}", handler)
        configs: list[tuple[str, dict[str, Any]]] = [
            ("h", {"api_path": "rec/:id", "http_method": "POST"}),
            ("bad", {"api_path": "recbad", "http_method": "GET"}),
            ("h", {"api_path": "reccond/:id", "http_method": "GET", "condition_function_id": "rec::http::cond"}),
            ("h", {"api_path": "recmw/:id", "http_method": "GET", "middleware_function_ids": ["rec::http::mw"]}),
            ("h", {"api_path": "rec/:id", "http_method": "POST"}),
        ]
        for name, config in configs:
            iii.register_trigger("http", f"rec::http::{name}", config)
        iii.register_trigger("nosuchtype", "rec::http::h", {})
        await iii.wait_ready()
        statuses = [(await request(tap.engine, text)).split()[1] for text in requests(load("http"))]
        assert statuses == [b"201", b"201", b"201", b"500", b"422", b"201", b"418", b"201"]


async def namespace(tap: Tap) -> None:
    async with worker(tap, 1, "rec-ns", "blue") as blue, worker(tap, 2, "rec-ns2") as plain:
        await blue.wait_ready()
        await plain.wait_ready()
        blue.register_function("rec::ns", lambda _data: "blue")
        await blue.wait_ready()
        await fails(plain, "function_not_found", "rec::ns", {})
        assert await plain.trigger_async("rec::ns", {}, namespace="blue") == "blue"
        assert await blue.trigger_async("rec::ns", {}, dispatch="remote") == "blue"
        key = {"scope": "a", "key": "b"}
        await fails(blue, "function_not_found", "state::get", key)
        assert await blue.trigger_async("state::get", key, namespace="default") is None


async def conflict(tap: Tap) -> None:
    async with worker(tap, 1, "rec-same") as first:
        await first.wait_ready()
        with pytest.raises(RegistrationRejectedError):
            async with worker(tap, 2, "rec-same") as second:
                await second.wait_ready()
        async with worker(tap, 3, "rec-other") as other:
            await other.wait_ready()
            first.register_function("rec::dup", lambda _data: 1)
            await first.wait_ready()
            other.register_function("rec::dup", lambda _data: 3)
            with pytest.raises(RegistrationRejectedError):
                await other.wait_ready()


class _Accepting(TriggerHandler[Any]):
    """Tells when it was asked."""

    def __init__(self) -> None:
        self.bound, self.unbound = anyio.Event(), anyio.Event()

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        self.bound.set()

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        self.unbound.set()


class _Refusing(_Accepting):
    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        self.bound.set()
        raise ValueError("cannot bind")


async def trigger_type(tap: Tap) -> None:
    async with worker(tap, 1, "rec-tt") as provider:
        await provider.wait_ready()
        good, bad = _Accepting(), _Refusing()
        ref = provider.register_trigger_type("rec-custom", "d", good)
        provider.register_trigger_type("rec-bad", "d", bad)
        async with worker(tap, 2, "rec-tt2") as registrant:
            await registrant.wait_ready()
            registrant.register_function("rec::tt", lambda _data: None)
            trigger = registrant.register_trigger("rec-custom", "rec::tt", {"a": 1}, {"m": 1})
            await good.bound.wait()
            registrant.register_trigger("rec-bad", "rec::tt", {})
            await bad.bound.wait()
            trigger.unregister()
            await good.unbound.wait()
        ref.unregister()


async def reconnect(tap: Tap) -> None:
    async with worker(tap, 1, "rec-rc") as iii:
        await iii.wait_ready()
        iii.register_function("rec::rc", lambda _data: 1)
        iii.register_trigger("http", "rec::rc", {"api_path": "recrc", "http_method": "GET"})
        await iii.wait_ready()
        lost = anyio.Event()
        iii.add_connection_state_listener(lambda state: lost.set() if state == "disconnected" else None)
        await tap.wires[1].abort()
        await lost.wait()
        assert await iii.trigger_async("rec::rc", {}, dispatch="remote") == 1


async def otel(tap: Tap) -> None:
    async with worker(tap, 1, "rec-otel") as iii:
        await iii.wait_ready()
        iii.register_function("rec::o", lambda _data: 1)
        assert await iii.trigger_async("rec::o", {}, dispatch="remote") == 1


async def state_stream(tap: Tap) -> None:
    events = Heard()
    async with worker(tap, 1, "rec-state") as iii:
        await iii.wait_ready()
        iii.register_function("rec::ev", events.hear)
        iii.register_trigger("state", "rec::ev", {"scope": "rec"})
        iii.register_trigger("stream", "rec::ev", {"stream_name": "recs"})
        await iii.wait_ready()
        state = State(iii)
        await state.set_async("rec", "k", {"n": 1})
        assert await state.get_async("rec", "k") == {"n": 1}
        assert await state.get_async("rec", "none") is None
        ops: list[Any] = [
            {"type": "increment", "path": "n", "by": 2},
            {"type": "set", "path": "s", "value": "x"},
            {"type": "append", "path": "l", "value": 1},
            {"type": "merge", "path": "", "value": {"m": 1}},
        ]
        await state.update_async("rec", "k", ops)
        await state.list_async("rec")
        await state.list_groups_async()
        for _ in range(2):
            await state.delete_async("rec", "k")
        stream = Stream(iii, "recs")
        await stream.set_async("g", "i", {"n": 1})
        await stream.get_async("g", "i")
        await stream.list_async("g")
        await stream.update_async("g", "i", [{"type": "increment", "path": "n", "by": 1}])
        await stream.list_groups_async()
        await iii.trigger_async("stream::list_all", {})
        await stream.send_async("g", "note", {"a": 1})
        await stream.delete_async("g", "i")
        await fails(iii, "deserialization_error", "stream::get", {"stream_name": "recs"})
        for _ in range(8):
            await events.take()


async def pubsub_cron(tap: Tap) -> None:
    ticks, topic = Heard(), Heard()
    async with worker(tap, 1, "rec-ps") as iii:
        await iii.wait_ready()
        iii.register_function("rec::sub", topic.hear)
        iii.register_function("rec::tick", ticks.hear)
        subscription = iii.register_trigger("subscribe", "rec::sub", {"topic": "rec.t"})
        cron = iii.register_trigger("cron", "rec::tick", {"expression": "*/1 * * * * *"})
        refused = iii.register_trigger("cron", "rec::tick", {"expression": "nonsense"})
        with pytest.raises(TriggerRegistrationError, match="Invalid cron expression 'nonsense'") as caught:
            await iii.wait_ready()
        assert caught.value.trigger_id == refused.id
        await ticks.take()
        await ticks.take()
        await iii.trigger_async("publish", {"topic": "rec.t", "data": {"x": 1}})
        await fails(iii, "function_not_found", "iii::publish", {"topic": "rec.t", "data": {"x": 1}})
        assert await topic.take() == {"x": 1}
        await ticks.take()
        cron.unregister()
        subscription.unregister()


async def http_function(tap: Tap) -> None:
    async with external() as url, worker(tap, 1, "rec-hf") as iii:
        await iii.wait_ready()
        function = iii.register_function("rec::ext", HttpInvocationConfig(url=url, method="POST"))
        await iii.wait_ready()
        assert (await iii.trigger_async("rec::ext", {"v": 1}))["got"]["v"] == 1
        function.unregister()
        await fails(iii, "function_not_found", "rec::ext", {"v": 1})


async def channels(tap: Tap) -> None:
    async def consume(data: Any) -> Any:
        return {"n": len(await data["reader"].read_all())}

    async with worker(tap, 1, "rec-ch") as reading, worker(tap, 2, "rec-ch2") as writing:
        await reading.wait_ready()
        await writing.wait_ready()
        reading.register_function("rec::consume", consume)
        await reading.wait_ready()
        channel = await create_channel_async(writing)
        answers: list[Any] = []

        async def ask() -> None:
            payload = {"reader": channel.reader_ref.model_dump(mode="json")}
            answers.append(await writing.trigger_async("rec::consume", payload))

        async with create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()  # the reader was there first
            await channel.writer.write(b"hello " * 10)
            await channel.writer.send_message_async("note")
            await channel.writer.close_async()
        assert answers == [{"n": 60}]


SCENARIOS: dict[str, Callable[[Tap], Awaitable[None]]] = {
    "invoke": invoke,
    "http": http,
    "namespace": namespace,
    "conflict": conflict,
    "trigger-type": trigger_type,
    "reconnect": reconnect,
    "otel": otel,
    "state-stream": state_stream,
    "pubsub-cron": pubsub_cron,
    "http-function": http_function,
    "channels": channels,
}
