"""Calls and invocations as spans (A.10, A.17, §7.6): one client span a call, one server span an invocation."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, from_thread, to_thread
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from iii_anyio import InitOptions, InvocationError, OtelConfig, RetryPolicy, TriggerAction, get_context, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.observability import (
    current_span_id,
    current_trace_id,
    flush_otel,
    get_all_baggage,
    set_baggage_entry,
    with_span,
)
from tests.api import crunching
from tests.api.recorder import Recorder, traced_workers
from tests.heard import Heard

pytestmark = pytest.mark.anyio

SERVER, CLIENT, PRODUCER = 2, 3, 4
"""Kinds as OTLP numbers them (Appendix B)."""


def remote_span() -> NonRecordingSpan:
    return NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))


async def test_a_call_is_one_client_span_and_one_server_span_in_one_trace() -> None:
    """A.10; defect 5: each worker has its own spans; defect 7: kinds as OTLP has them."""
    async with traced_workers() as (caller, near, callee, far):

        @callee.function("f")
        async def f(data: Any) -> Any:
            return [current_trace_id(), current_span_id(), data["n"]]

        await callee.wait_ready()
        trace_id, span_id, n = await caller.trigger_async("f", {"n": 1})
    (client,), (server,) = near.spans, far.spans
    assert (client["name"], client["kind"], client["status"]["code"]) == ("trigger f", CLIENT, 1)
    assert (server["name"], server["kind"], server["status"]["code"]) == ("execute f", SERVER, 1)
    assert "parentSpanId" not in client
    assert server["parentSpanId"] == client["spanId"]
    assert (trace_id, span_id, n) == (server["traceId"], server["spanId"], 1)
    assert client["traceId"] == server["traceId"]
    assert int(client["startTimeUnixNano"]) <= int(server["startTimeUnixNano"])
    assert client["attributes"] == {"rpc.system.name": "iii", "rpc.method": "f", "faas.invoked_name": "f"}
    assert {"rpc.system.name": "iii", "rpc.method": "f", "faas.trigger": "other"}.items() <= server[
        "attributes"
    ].items()
    assert server["attributes"]["faas.invocation_id"]
    assert server["scope"]["name"] == "iii-python-sdk"


async def test_nested_calls_in_tasks_threads_and_own_spans_are_children_of_the_handler() -> None:
    async with traced_workers() as (caller, near, callee, far):
        callee.register_function("leaf", lambda _: current_trace_id())

        @callee.function("root")
        async def root(_: Any) -> Any:
            async with create_task_group() as tasks:
                tasks.start_soon(callee.trigger_async, "leaf", {"by": "task"})
            await with_span("own", lambda _: callee.trigger_async("leaf", {"by": "span"}))
            return await callee.trigger_async("sync")

        @callee.function("sync")
        def sync(_: Any) -> Any:
            return [callee.trigger("leaf", {"by": "thread"}), current_trace_id()]

        await callee.wait_ready()
        ids = await caller.trigger_async("root")
    spans = {span["spanId"]: span for span in [*near.spans, *far.spans]}

    def way(span: dict[str, Any]) -> list[str]:
        parent = spans.get(span.get("parentSpanId", ""))
        return [*(way(parent) if parent else []), span["name"]]

    ways = sorted(way(span) for span in spans.values() if span["name"] == "execute leaf")
    start = ["trigger root", "execute root"]
    assert ways == [
        [*start, "own", "trigger leaf", "execute leaf"],
        [*start, "trigger leaf", "execute leaf"],
        [*start, "trigger sync", "execute sync", "trigger leaf", "execute leaf"],
    ]
    assert {span["traceId"] for span in spans.values()} == set(ids)


async def test_a_call_within_the_process_has_the_same_two_spans() -> None:
    """§17: local dispatch."""
    async with traced_workers() as (_, near, callee, far):
        callee.register_function("f", lambda _: current_span_id())
        await callee.wait_ready()
        span_id = await callee.trigger_async("f")
    client, server = sorted(far.spans, key=lambda span: span["kind"], reverse=True)
    assert (client["name"], server["name"]) == ("trigger f", "execute f")
    assert server["parentSpanId"] == client["spanId"]
    assert server["spanId"] == span_id
    assert near.spans == []


async def test_a_handler_in_a_process_has_the_trace_of_its_invocation() -> None:
    async with traced_workers() as (caller, _, callee, far):
        callee.register_function("traced", crunching.traced, execution="process")
        await callee.wait_ready()
        token = context.attach(set_baggage_entry("tenant", "a"))
        try:
            found = await caller.trigger_async("traced")
        finally:
            context.detach(token)
    server = far.span("execute traced")
    assert found["ids"] == [server["traceId"], server["spanId"]]
    assert found["baggage"]["tenant"] == "a"


async def test_contexts_do_not_leak_between_handlers_nor_out_of_calls() -> None:
    """A handler without a caller's trace begins one; it is not the trace that its worker was opened in."""
    opened_in = trace.set_span_in_context(remote_span())
    token = context.attach(opened_in)
    try:
        async with traced_workers() as (caller, _, callee, far):
            context.attach(context.Context())
            here, go = anyio.Event(), anyio.Event()

            @callee.function("f")
            async def f(data: Any) -> Any:
                before = current_trace_id()
                if data["wait"]:
                    here.set()
                    await go.wait()
                await callee.trigger_async("g")
                return [before, current_trace_id()]

            callee.register_function("g", lambda _: None)
            await callee.wait_ready()
            found: list[Any] = []

            async def call(wait: bool) -> None:
                found.append(await caller.trigger_async("f", {"wait": wait}))
                assert current_trace_id() is None

            async with create_task_group() as tasks:
                tasks.start_soon(call, True)
                await here.wait()
                await call(False)
                go.set()
    finally:
        context.detach(token)
    assert [before == after for before, after in found] == [True, True]
    assert len({before for before, _ in found}) == 2
    assert f"{0xABC:032x}" not in {span["traceId"] for span in far.spans}


async def test_baggage_goes_along_and_is_on_the_spans() -> None:
    """§7.6 in and out; A-40."""
    async with traced_workers() as (caller, near, callee, far):

        @callee.function("f")
        async def f(_: Any) -> Any:
            return [get_all_baggage(), await callee.trigger_async("g")]

        callee.register_function("g", lambda _: get_all_baggage())
        await callee.wait_ready()
        token = context.attach(set_baggage_entry("tenant", "a b"))
        try:
            first, second = await caller.trigger_async("f")
        finally:
            context.detach(token)
    assert first["tenant"] == second["tenant"] == "a b"
    spans = [*near.spans, *far.spans]
    assert len(spans) == 4
    assert {span["attributes"]["tenant"] for span in spans} == {"a b"}


# -- outcomes --------------------------------------------------------------------------------------------------------


async def test_errors_are_on_both_spans_with_their_code() -> None:
    async with traced_workers() as (caller, near, callee, far):

        @callee.function("refuses")
        async def refuses(_: Any) -> None:
            raise InvocationError("no_stock", "sold out")

        @callee.function("breaks")
        async def breaks(_: Any) -> None:
            raise ValueError("oops")

        @callee.function("unsendable")
        async def unsendable(_: Any) -> Any:
            return object()

        await callee.wait_ready()
        for function_id in ("refuses", "breaks", "unsendable", "nobody"):
            with pytest.raises(InvocationError):
                await caller.trigger_async(function_id)
    of_calls = {span["name"]: span["attributes"]["error.type"] for span in near.spans}
    assert of_calls == {
        "trigger refuses": "no_stock",
        "trigger breaks": "invocation_failed",
        "trigger unsendable": "invocation_failed",
        "trigger nobody": "function_not_found",
    }
    assert {span["status"]["code"] for span in [*near.spans, *far.spans]} == {2}
    breaks_span = far.span("execute breaks")
    assert breaks_span["attributes"]["error.type"] == "ValueError"
    assert breaks_span["status"]["message"] == "oops"
    names = [event["name"] for event in breaks_span["events"]]
    assert names == ["iii.invocation.input", "iii.invocation.output", "exception"]
    output = breaks_span["events"][1]["attributes"]
    assert output == {"iii.payload.json": '{"error": "oops"}', "iii.payload.truncated": False, "iii.payload.ok": False}
    assert len(far.spans) == 3


async def test_spans_end_when_callers_and_handlers_are_cancelled_or_time_out() -> None:
    async with traced_workers(shutdown_timeout=0) as (caller, near, callee, far):
        heard = Heard()

        @callee.function("waits")
        async def waits(n: Any) -> None:
            await heard.hear(n)
            await anyio.sleep_forever()

        await callee.wait_ready()
        async with create_task_group() as tasks:
            tasks.start_soon(caller.trigger_async, "waits", 1)
            assert await heard.take() == 1
            tasks.cancel_scope.cancel()
        with pytest.raises(InvocationError):
            await caller.trigger_async("waits", 2, timeout_ms=10)
        assert await heard.take() == 2
        await to_thread.run_sync(_ignore_errors, caller)
        assert await heard.take() == 3
    assert sorted(span["attributes"]["error.type"] for span in near.spans) == ["TIMEOUT", "TIMEOUT", "cancelled"]
    assert [span["attributes"]["error.type"] for span in far.spans] == ["cancelled"] * 3


def _ignore_errors(caller: Any) -> None:
    with pytest.raises(InvocationError):
        caller.trigger("waits", 3, timeout_ms=10)


async def test_each_attempt_of_a_repeated_call_is_a_span() -> None:
    async with traced_workers() as (caller, near, callee, _):
        failures = [InvocationError("worker_overloaded", "later")]

        @callee.function("flaky")
        async def flaky(_: Any) -> str:
            if failures:
                raise failures.pop()
            return "done"

        await callee.wait_ready()
        assert await caller.trigger_async("flaky", retry=RetryPolicy(initial_delay=0)) == "done"
    assert [span["status"]["code"] for span in near.spans] == [2, 1]


async def test_void_and_enqueued_calls_say_what_they_are() -> None:
    async with traced_workers() as (caller, near, callee, _):
        callee.register_function("f", lambda _: None)
        await callee.wait_ready()
        await caller.trigger_async("f", action=TriggerAction.Void())
        caller.trigger_void("f")
        await caller.trigger_async("f", action=TriggerAction.Enqueue(queue="default"))
    void, also_void, enqueued = near.spans
    assert (void["kind"], void["attributes"]["iii.action"]) == (CLIENT, "void")
    assert (also_void["kind"], also_void["attributes"]["iii.action"]) == (CLIENT, "void")
    assert enqueued["kind"] == PRODUCER
    assert enqueued["attributes"]["messaging.destination.name"] == "default"
    assert enqueued["attributes"]["messaging.operation.type"] == "send"


# -- payloads --------------------------------------------------------------------------------------------------------


async def test_payloads_are_events_without_their_secrets() -> None:
    """A.10: as upstream's."""
    async with traced_workers() as (caller, _, callee, far):
        callee.register_function("f", lambda data: {"token": data["password"], "ok": True})
        await callee.wait_ready()
        await caller.trigger_async("f", {"password": "s3cret", "n": [1, {"api_key": "k"}]})
    given, returned = far.span("execute f")["events"]
    assert given["name"] == "iii.invocation.input"
    payload = json.loads(given["attributes"]["iii.payload.json"])
    assert payload.pop("_caller_worker_id")
    assert payload == {"password": "[REDACTED]", "n": [1, {"api_key": "[REDACTED]"}]}
    assert returned["name"] == "iii.invocation.output"
    assert returned["attributes"] == {
        "iii.payload.json": '{"token": "[REDACTED]", "ok": true}',
        "iii.payload.truncated": False,
        "iii.payload.ok": True,
    }
    assert b"s3cret" not in b"".join(far.frames)


@pytest.mark.parametrize(
    ("variable", "value", "events"),
    [
        ("III_DISABLE_TRACE_PAYLOADS", "1", []),
        ("III_DISABLE_TRACE_PAYLOADS", "True", []),
        ("III_DISABLE_TRACE_PAYLOADS", "0", [False, False]),
        ("III_TRACE_PAYLOAD_MAX_BYTES", "20", [True, False]),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_environment_bounds_payloads_or_leaves_them_out(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, events: list[bool]
) -> None:
    monkeypatch.setenv(variable, value)
    async with traced_workers() as (caller, _, callee, far):
        callee.register_function("f", lambda _: None)
        await callee.wait_ready()
        await caller.trigger_async("f", "a payload of more than twenty bytes")
    found = [event["attributes"]["iii.payload.truncated"] for event in far.span("execute f")["events"]]
    assert found == events


# -- where callers are -----------------------------------------------------------------------------------------------


async def test_calls_from_threads_and_other_loops_belong_to_the_span_of_their_caller() -> None:
    async with traced_workers() as (caller, near, callee, _):
        callee.register_function("f", lambda _: None)
        await callee.wait_ready()

        async def elsewhere() -> None:
            await caller.trigger_async("f")

        async def inside(_: Any) -> None:
            await to_thread.run_sync(caller.trigger, "f")
            await to_thread.run_sync(anyio.run, elsewhere)

        def opened() -> None:
            from_thread.run(with_span, "mine", inside)

        token = context.attach(trace.set_span_in_context(remote_span()))
        try:
            await to_thread.run_sync(opened)
        finally:
            context.detach(token)
    spans = [span for span in near.spans if span["name"] == "trigger f"]
    assert len(spans) == 2
    assert {span["traceId"] for span in spans} == {f"{0xABC:032x}"}


async def test_without_a_provider_the_callers_span_is_passed_on_and_no_other_made() -> None:
    """§7.6. Telemetry is off: OpenTelemetry's API alone."""
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None, stream_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):

            @iii.function("f")
            async def f(_: Any) -> Any:
                return [get_context().trace, current_trace_id(), await iii.trigger_async("g", dispatch="remote")]

            iii.register_function("g", lambda _: get_context().trace)
            await iii.wait_ready()
            token = context.attach(trace.set_span_in_context(remote_span()))
            try:
                first, trace_id, second = await iii.trigger_async("f", dispatch="remote")
            finally:
                context.detach(token)
            assert first == second == f"00-{0xABC:032x}-{0xDEF:016x}-01"
            assert trace_id == f"{0xABC:032x}"
            assert await iii.trigger_async("g") is None


async def test_telemetry_that_is_off_makes_nothing() -> None:
    async with traced_workers(OtelConfig(enabled=False)) as (caller, near, callee, far):
        callee.register_function("f", lambda _: get_context().trace)
        await callee.wait_ready()
        token = context.attach(trace.set_span_in_context(remote_span()))
        try:
            assert await caller.trigger_async("f") is None
        finally:
            context.detach(token)
        await flush_otel()
    assert near.frames == far.frames == []


async def test_one_workers_end_does_not_end_anothers_telemetry() -> None:
    """Defect 5: upstream's is of the process, and any client's shutdown stops it for all."""
    with fail_after(20):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            first, second = Recorder(engine.connector()), Recorder(engine.connector())

            def options(name: str) -> InitOptions:
                return InitOptions(otel={"service_name": name, "metrics_enabled": False})

            async with open_worker(connector=second, options=options("two")) as two:
                async with open_worker(connector=first, options=options("one")) as one:
                    one.register_function("f", lambda _: None)
                    await one.wait_ready()
                    await two.trigger_async("f")
                two.register_function("g", lambda _: None)
                await two.wait_ready()
                await two.trigger_async("g")
    assert [span["name"] for span in first.spans] == ["execute f"]
    assert {span["name"] for span in second.spans} == {"trigger f", "trigger g", "execute g"}
    assert {span["resource"]["service.name"] for span in first.spans} == {"one"}
    assert {span["resource"]["service.name"] for span in second.spans} == {"two"}


async def test_a_processor_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry.sdk.trace import SpanProcessor

    class Broken(SpanProcessor):
        def on_start(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("broken")

        def on_end(self, span: Any) -> None:
            raise RuntimeError("broken")

    config = OtelConfig(metrics_enabled=False, span_processors=[Broken()])
    async with traced_workers(config) as (caller, _, callee, _far):
        callee.register_function("f", lambda _: 1)
        await callee.wait_ready()
        assert await caller.trigger_async("f") == 1
    assert "could not be traced" in caplog.text
