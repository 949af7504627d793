"""Telemetry beside what else a program has: its own OpenTelemetry, its own exporters, samplers, structlog."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import anyio
import pytest
import structlog
from anyio import fail_after
from opentelemetry import context, trace
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from iii_anyio import InitOptions, Logger, OtelConfig, TriggerAction, get_context, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.observability import add_log_context, current_span_is_recording, flush_otel, set_baggage_entry, with_span
from tests.api.recorder import Recorder, traced_workers
from tests.heard import Heard
from tests.otlp_receiver import otlp_receiver

pytestmark = pytest.mark.anyio

PLAIN_OTLP = """
import sys, anyio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from iii_anyio import open_worker
url, otlp = sys.argv[1:]
provider = TracerProvider(resource=Resource.create({"service.name": "plain"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{otlp}/v1/traces")))
trace.set_tracer_provider(provider)
async def main():
    async with open_worker(url) as iii:
        iii.register_function("f", lambda data: data)
        await iii.wait_ready()
        with trace.get_tracer("mine").start_as_current_span("mine"):
            await iii.trigger_async("f", 1, dispatch="remote")
anyio.run(main)
provider.shutdown()
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_provider_of_the_application_gets_the_spans_and_plain_otlp_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Telemetry of ours is off. In a process of its own: a provider is set once."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with fail_after(40), otlp_receiver() as otlp:
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            assert engine.url
            command = [sys.executable, "-W", "ignore", "-c", PLAIN_OTLP, engine.url, otlp.url]
            done = await anyio.run_process(command, stderr=subprocess.STDOUT, check=False)
            assert (done.returncode, done.stdout.decode()) == (0, "")
            async with open_worker(connector=engine.connector(), options=InitOptions(otel=False)) as iii:
                at_engine = await iii.trigger_async("engine::traces::list", {"search_all_spans": True})
    spans = {span.name: span for _, span in otlp.records("/v1/traces")}
    assert set(spans) == {"mine", "trigger f", "execute f"}
    assert spans["trigger f"].parent_span_id == spans["mine"].span_id
    assert spans["execute f"].parent_span_id == spans["trigger f"].span_id
    assert {resource["service.name"] for resource, _ in otlp.records("/v1/traces")} == {"plain"}
    assert at_engine["spans"] == []


async def test_the_applications_processors_are_flushed_with_the_rest_and_before_a_worker_has_ended() -> None:
    """Batches of theirs wait for seconds; nothing else would tell them that it is time."""
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    slow = 3_600_000
    config = OtelConfig(
        metrics_enabled=False,
        span_processors=[BatchSpanProcessor(spans, schedule_delay_millis=slow)],
        log_processors=[BatchLogRecordProcessor(logs, schedule_delay_millis=slow)],
    )
    with fail_after(20):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            recorder = Recorder(engine.connector())
            async with open_worker(connector=recorder, options=InitOptions(otel=config)) as iii:

                @iii.function("f")
                async def f(_: Any) -> None:
                    Logger().info("in f")

                await iii.wait_ready()
                await iii.trigger_async("f")
                await flush_otel()
                flushed = {span.name for span in spans.get_finished_spans()}
                assert [data.log_record.body for data in logs.get_finished_logs()] == ["in f"]
                await with_span("last", _nothing)
    assert flushed == {"trigger f", "execute f"}
    assert {span.name for span in spans.get_finished_spans()} == flushed | {"last"}
    assert {span["name"] for span in recorder.spans} == flushed | {"last"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_an_exporter_of_the_application_that_hangs_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()

    class Hanging(SpanProcessor):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            assert timeout_millis <= 50
            return go.wait(20)

    config = OtelConfig(metrics_enabled=False, span_processors=[Hanging()], shutdown_timeout=0.05)
    with fail_after(20):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            recorder = Recorder(engine.connector())
            async with open_worker(connector=recorder, options=InitOptions(otel=config)):
                await with_span("s", _nothing)
        go.set()
    assert "the application's own exporters have not delivered everything within 0.05 s" in caplog.text
    assert recorder.span("s")


async def _nothing(_: Any) -> None:
    pass


async def test_a_trace_that_is_not_sampled_stays_so_and_goes_on() -> None:
    """§7.6: its flag is passed on, and nobody records or exports anything of it."""
    unsampled = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(0)))
    async with traced_workers() as (caller, near, callee, far):

        @callee.function("f")
        async def f(_: Any) -> Any:
            return [get_context().trace, current_span_is_recording(), await callee.trigger_async("g")]

        callee.register_function("g", lambda _: get_context().trace)
        await callee.wait_ready()
        token = context.attach(trace.set_span_in_context(unsampled))
        try:
            first, is_recording, second = await caller.trigger_async("f")
        finally:
            context.detach(token)
    assert near.spans == far.spans == []
    assert not is_recording
    assert {found[:36] + found[-3:] for found in (first, second)} == {f"00-{0xABC:032x}--00"}


async def test_an_invocation_nobody_waits_for_is_a_span_with_its_outcome() -> None:
    """No answer goes out; its span ends all the same."""
    async with traced_workers() as (caller, near, callee, far):
        heard = Heard()

        @callee.function("f")
        async def f(data: Any) -> None:
            await heard.hear(data)
            raise ValueError("oops")

        await callee.wait_ready()
        await caller.trigger_async("f", {"n": 1}, action=TriggerAction.Void())
        assert (await heard.take())["n"] == 1
    server = far.span("execute f")
    assert server["parentSpanId"] == near.span("trigger f")["spanId"]
    assert (server["status"]["code"], server["attributes"]["error.type"]) == (2, "ValueError")


async def test_every_processor_sees_the_baggage_that_ours_wrote() -> None:
    """A.17: upstream's processor comes first."""
    seen: list[dict[str, Any]] = []

    class Looking(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            seen.append(dict(span.attributes or {}))

    config = OtelConfig(metrics_enabled=False, span_processors=[Looking()])
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None, stream_port=None) as engine,
            open_worker(connector=Recorder(engine.connector()), options=InitOptions(otel=config)),
        ):
            token = context.attach(set_baggage_entry("tenant", "a"))
            try:
                await with_span("s", _nothing)
            finally:
                context.detach(token)
    assert seen == [{"tenant": "a"}]


async def test_structlog_says_what_it_was_logged_in() -> None:
    """The processor as the page has it, with structlog itself."""
    events: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        events.append(dict(event))
        raise structlog.DropEvent

    log: Any = structlog.wrap_logger(None, processors=[add_log_context, keep])
    async with traced_workers() as (caller, _, callee, far):

        @callee.function("f")
        def f(_: Any) -> None:
            log.info("in f", n=1)

        await callee.wait_ready()
        await caller.trigger_async("f")
        log.info("outside")
    server = far.span("execute f")
    assert events == [
        {
            "event": "in f",
            "n": 1,
            "trace_id": server["traceId"],
            "span_id": server["spanId"],
            "function_id": "f",
            "invocation_id": server["attributes"]["faas.invocation_id"],
        },
        {"event": "outside"},
    ]
