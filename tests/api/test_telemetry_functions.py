"""The functions of `iii_helpers.observability` (A.17), as upstream's own tests have them (A-38 to A-46)."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from iii_anyio import InitOptions, OtelConfig, observability, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.observability import (
    REDACTED_PLACEHOLDER,
    BaggageSpanProcessor,
    LogContextFilter,
    Logger,
    WorkerMetricsCollector,
    add_log_context,
    current_span_id,
    current_span_is_recording,
    current_trace_id,
    execute_traced_request,
    extract_baggage,
    extract_context,
    extract_traceparent,
    get_all_baggage,
    get_baggage_entry,
    get_logger,
    inject_baggage,
    inject_traceparent,
    log_context,
    record_span_event,
    redact,
    redact_and_truncate,
    register_worker_gauges,
    remove_baggage_entry,
    resolve_max_bytes_from_env,
    set_baggage_entry,
    set_current_span_attribute,
    set_current_span_error,
    stop_worker_gauges,
    with_span,
)
from iii_anyio.observability._config import resolve_int, telemetry_url
from tests.api.recorder import Recorder, traced_workers

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MARKER = '..."[TRUNCATED]"'


@contextmanager
def attached(found: context.Context) -> Generator[None]:
    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


# -- payloads (A-38) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["password", "API_KEY", "apikey", "x-api-key", "clientSecretclient_secret", "Authorization", "auth_token", "token",
     "my_token", "my-token", "Bearer", "private_key", "aws_credentials", "refresh_token"],
)  # fmt: skip
def test_the_value_of_a_sensitive_key_is_redacted_whatever_it_is(key: str) -> None:
    assert redact({key: {"a": 1}, "n": 1}) == {key: REDACTED_PLACEHOLDER, "n": 1}


def test_redaction_goes_into_lists_and_tuples_and_copies() -> None:
    given = {"a": [{"secret": 1}, ({"password": 2}, 3)], "tokens": 4, "tokenize": 5}
    assert redact(given) == {
        "a": [{"secret": "[REDACTED]"}, ({"password": "[REDACTED]"}, 3)],
        "tokens": 4,
        "tokenize": 5,
    }
    assert given["a"][0] == {"secret": 1}  # type: ignore[index]
    assert [redact(value) for value in ("password", 1, None)] == ["password", 1, None]


def test_what_contains_itself_or_cannot_be_written_does_no_harm() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert redact_and_truncate(endless)[0].startswith("[[")

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    assert redact_and_truncate({"a": Unprintable()}) == ("null", False)
    assert redact_and_truncate({1: {2}}) == ('{"1": "{2}"}', False)


def test_json_is_cut_at_a_character_and_never_longer_than_asked_for() -> None:
    text = "ä" * 50
    for limit in range(1, 110):
        cut, is_cut = redact_and_truncate(text, limit)
        assert len(cut.encode()) <= limit
        assert is_cut == (limit < 102)
        if is_cut and limit > len(MARKER):
            assert cut.endswith(MARKER)
    assert redact_and_truncate({"password": "x" * 1000}, 100) == ('{"password": "[REDACTED]"}', False)
    for unlimited in (None, 0, -1):
        assert redact_and_truncate(text, unlimited) == (json.dumps(text, ensure_ascii=False), False)


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("unlimited", None),
        ("ten", None),
        ("0", None),
        ("-5", None),
        (" 12 ", 12),
    ],
)
def test_the_limit_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str | None, limit: int | None
) -> None:
    monkeypatch.delenv("III_TRACE_PAYLOAD_MAX_BYTES", raising=False)
    if value is not None:
        monkeypatch.setenv("III_TRACE_PAYLOAD_MAX_BYTES", value)
    assert resolve_max_bytes_from_env() == limit


# -- the running span (A-39) -----------------------------------------------------------------------------------------


@pytest.fixture
def exported() -> Generator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BaggageSpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_span_functions_act_on_the_running_span(exported: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    provider, exporter = exported
    with provider.get_tracer("t").start_as_current_span("s") as span:
        assert current_span_is_recording()
        record_span_event("e", {"n": 1})
        record_span_event("bare")
        set_current_span_attribute("k", "v")
        set_current_span_error("bad")
        ids = span.get_span_context()
        assert (current_trace_id(), current_span_id()) == (f"{ids.trace_id:032x}", f"{ids.span_id:016x}")
        assert inject_traceparent() == f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
    (found,) = exporter.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in found.events] == [("e", {"n": 1}), ("bare", {})]
    assert dict(found.attributes or {}) == {"k": "v"}
    assert (found.status.status_code, found.status.description) == (StatusCode.ERROR, "bad")


def test_span_functions_do_nothing_without_a_span() -> None:
    assert not current_span_is_recording()
    record_span_event("e")
    set_current_span_attribute("k", 1)
    set_current_span_error("bad")
    assert [current_trace_id(), current_span_id(), inject_traceparent(), inject_baggage()] == [None] * 4
    assert log_context() == {}


def test_headers_in_and_out() -> None:
    with attached(extract_traceparent(TRACEPARENT)):
        assert inject_traceparent() == TRACEPARENT
        assert current_trace_id() == TRACEPARENT[3:35]
    with attached(extract_baggage("a=1,b=x%20y")):
        assert get_all_baggage() == {"a": "1", "b": "x y"}
        assert extract_baggage(inject_baggage() or "") == context.get_current()
    with attached(extract_context(TRACEPARENT, "a=1")):
        assert (inject_traceparent(), get_baggage_entry("a")) == (TRACEPARENT, "1")
        with attached(remove_baggage_entry("a")):
            assert get_baggage_entry("a") is None
        set_baggage_entry("b", "2")  # is not attached
        assert get_baggage_entry("b") is None
    assert trace.get_current_span(extract_traceparent("nonsense")).get_span_context().is_valid is False


def test_every_baggage_entry_becomes_an_attribute(exported: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """A-40."""
    provider, exporter = exported
    with attached(extract_baggage("a=1,iii.function.id=f")):
        provider.get_tracer("t").start_span("with").end()
    provider.get_tracer("t").start_span("without").end()
    found = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    assert found == {"with": {"a": "1", "iii.function.id": "f"}, "without": {}}


def test_the_config_has_upstreams_defaults() -> None:
    """A-41."""
    config = OtelConfig()
    assert (config.enabled, config.fetch_instrumentation_enabled, config.metrics_enabled) == (None, True, True)
    assert (config.metrics_export_interval_ms, config.logs_batch_size, config.engine_ws_headers) == (60_000, None, None)
    assert not hasattr(config, "otlp_endpoint")
    assert observability.ReconnectionConfig().max_retries == -1


@pytest.mark.parametrize(
    ("given", "variable", "found"),
    [(None, None, 100), (7, None, 7), (None, "20", 20), (7, "20", 7), (None, "many", 100), (None, "-1", 100)],
)
def test_numbers_come_from_the_config_else_the_environment_else_a_default(
    monkeypatch: pytest.MonkeyPatch, given: int | None, variable: str | None, found: int
) -> None:
    """A-42, A.22."""
    monkeypatch.delenv("OTEL_LOGS_FLUSH_INTERVAL_MS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OTEL_LOGS_FLUSH_INTERVAL_MS", variable)
    assert resolve_int(given, "OTEL_LOGS_FLUSH_INTERVAL_MS", 100) == found


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("ws://h:1", "ws://h:1/otel"),
        ("wss://h/base/?a=1#f", "wss://h/base/otel?a=1#f"),
        ("ws://h/otel/", "ws://h/otel"),
    ],
)
def test_the_telemetry_socket_is_below_the_engines_path(address: str, url: str) -> None:
    """Protocol §2.1."""
    assert telemetry_url(address) == url


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_resource_says_whose_telemetry_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A.17: config, else environment, else default."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "by environment")
    monkeypatch.setenv("SERVICE_VERSION", "1.2")
    monkeypatch.setenv("SERVICE_NAMESPACE", "shop")
    monkeypatch.setenv("SERVICE_INSTANCE_ID", "i-1")
    resources: list[dict[str, Any]] = []
    for config in ({"service_name": "by config", "service_version": "9"}, {}):
        async with one_worker(**config) as recorder:
            await with_span("s", lambda _: anyio.lowlevel.checkpoint())
        resources.append(recorder.span("s")["resource"])
    assert [resource["service.name"] for resource in resources] == ["by config", "by environment"]
    assert [resource["service.version"] for resource in resources] == ["9", "1.2"]
    assert resources[0]["service.namespace"] == "shop"
    assert resources[0]["service.instance.id"] == "i-1"
    assert resources[0]["telemetry.sdk.language"] == "python"
    assert resources[0]["telemetry.sdk.name"] == "iii-python-sdk"
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    async with one_worker() as recorder:
        await with_span("s", lambda _: anyio.lowlevel.checkpoint())
    assert recorder.span("s")["resource"]["service.name"] == "iii-python-sdk"


# -- spans of one's own ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def one_worker(**config: Any) -> AsyncGenerator[Recorder]:
    async with open_engine(port=None, http_port=None, stream_port=None) as engine:
        recorder = Recorder(engine.connector())
        otel = OtelConfig(metrics_enabled=False, **config)
        with anyio.fail_after(20):
            async with open_worker(connector=recorder, options=InitOptions(otel=otel)):
                yield recorder


@pytest.mark.anyio
async def test_with_span_has_the_outcome_of_what_it_runs() -> None:
    async with one_worker() as recorder:

        async def good(span: Any) -> str:
            span.set_attribute("k", 1)
            return current_span_id() or ""

        async def bad(_: Any) -> None:
            raise ValueError("oops")

        span_id = await with_span("good", good, kind=trace.SpanKind.CLIENT, traceparent=TRACEPARENT)
        with pytest.raises(ValueError, match="oops"):
            await with_span("bad", bad)
        with anyio.move_on_after(0.01):
            await with_span("cancelled", lambda _: anyio.sleep_forever())
        assert current_span_id() is None
    found = recorder.span("good")
    assert (found["spanId"], found["kind"], found["attributes"]) == (span_id, 3, {"k": 1})
    assert (found["traceId"], found["parentSpanId"]) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert [recorder.span(name)["status"]["code"] for name in ("good", "bad", "cancelled")] == [1, 2, 2]
    assert [event["name"] for event in recorder.span("bad")["events"]] == ["exception"]


@pytest.mark.anyio
async def test_without_telemetry_with_span_gives_a_span_that_nobody_sees() -> None:
    async def body(span: Any) -> bool:
        span.set_attribute("k", 1)
        span.add_event("e")
        return bool(span.is_recording())

    assert await with_span("s", body) is False
    assert get_logger() is None


# -- logging ---------------------------------------------------------------------------------------------------------


def test_without_telemetry_the_logger_writes_to_pythons_logging(caplog: pytest.LogCaptureFixture) -> None:
    """A-45."""
    caplog.set_level(logging.DEBUG, "iii.logger")
    logger = Logger(service_name="svc")
    for level in ("debug", "info", "warn", "error"):
        getattr(logger, level)("message", {"n": level})
    Logger().info("bare")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        *((name, "[svc] message") for name in ("DEBUG", "INFO", "WARNING", "ERROR")),
        ("INFO", "[] bare"),
    ]
    assert vars(caplog.records[0])["data"] == {"n": "debug"}


@pytest.mark.anyio
async def test_the_logger_writes_records_with_its_ids_else_those_of_the_span() -> None:
    async with one_worker() as recorder:
        Logger(service_name="s").error("outside", {"n": 1})

        async def inside(_: Any) -> None:
            Logger().debug("inside")
            Logger(trace_id="a" * 32, span_id="b" * 16).info("given")
            Logger(trace_id="not hex").info("wrong")

        await with_span("s", inside)
        logger = get_logger()
        assert logger is not None
    logs = {record["body"]["stringValue"]: record for record in recorder.logs}
    span = recorder.span("s")
    assert "traceId" not in logs["outside"]
    assert logs["outside"]["attributes"] == {"service.name": "s", "log.data": {"n": 1}}
    assert [logs[name]["severityNumber"] for name in ("outside", "inside", "given")] == [17, 5, 9]
    assert (logs["inside"]["traceId"], logs["inside"]["spanId"]) == (span["traceId"], span["spanId"])
    assert (logs["given"]["traceId"], logs["given"]["spanId"]) == ("a" * 32, "b" * 16)
    assert "traceId" not in logs["wrong"]
    assert logs["outside"]["scope"] == {"name": "iii.logger", "version": ""}


@pytest.mark.anyio
async def test_formats_and_structlog_can_name_what_is_served() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "m", None, None)
    async with traced_workers() as (caller, _, callee, far):

        @callee.function("f")
        async def f(_: Any) -> Any:
            assert LogContextFilter().filter(record)
            return [log_context(), add_log_context(None, "info", {"event": "e", "trace_id": "mine"})]

        await callee.wait_ready()
        found, event = await caller.trigger_async("f")
    server = far.span("execute f")
    invocation_id = server["attributes"]["faas.invocation_id"]
    expected = {"function_id": "f", "invocation_id": invocation_id, "span_id": server["spanId"]}
    assert found == expected | {"trace_id": server["traceId"]}
    assert event == expected | {"trace_id": "mine", "event": "e"}
    assert {name: vars(record)[name] for name in found} == found
    other = logging.LogRecord("x", logging.INFO, __file__, 1, "m", None, None)
    LogContextFilter().filter(other)
    assert vars(other)["function_id"] == ""


# -- HTTP clients (A-46) ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_traced_request_is_a_client_span_and_carries_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        if request.url.path == "/lost":
            raise httpx.ConnectError("no way", request=request)
        return httpx.Response(404 if request.url.path == "/no" else 200, json={"a": 1})

    monkeypatch.setenv("OTEL_FETCH_IGNORE_URLS", "ignored, ,other.example")
    async with one_worker() as recorder, httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        for path in ("/yes?q=1", "/no", "/ignored"):
            request = client.build_request("POST", f"https://user:pw@shop.example:8443{path}", json={"n": 1})
            await execute_traced_request(client, request)
        with pytest.raises(httpx.ConnectError):
            await execute_traced_request(client, client.build_request("GET", "http://shop.example/lost"))
    assert [span["name"] for span in recorder.spans] == ["POST /yes", "POST /no", "GET /lost"]
    yes, no, lost = recorder.spans
    assert yes["kind"] == 3
    assert yes["attributes"] == {
        "http.request.method": "POST",
        "url.full": "https://shop.example:8443/yes?q=1",
        "server.address": "shop.example",
        "server.port": 8443,
        "url.scheme": "https",
        "network.protocol.name": "http",
        "url.path": "/yes",
        "url.query": "q=1",
        "http.request.header.content-type": "application/json",
        "http.request.header.accept": "*/*",
        "http.request.body.size": 7,
        "http.response.status_code": 200,
        "http.response.body.size": 7,
        "http.response.header.content-type": "application/json",
    }
    assert (no["status"]["code"], no["attributes"]["error.type"]) == (2, "404")
    assert (lost["status"]["code"], lost["attributes"]["error.type"]) == (2, "ConnectError")
    assert seen[0]["traceparent"][36:52] == yes["spanId"]
    assert "traceparent" not in seen[2]


@contextmanager
def http_server(seen: list[dict[str, str]]) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(500 if self.path == "/bad" else 200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_urllib_is_traced_while_some_worker_wants_it() -> None:
    """A-42."""
    original = urllib.request.OpenerDirector.open
    seen: list[dict[str, str]] = []

    def fetch(url: str) -> None:
        with urllib.request.urlopen(url) as response:
            assert response.read() == b"ok"

    with http_server(seen) as url:
        async with one_worker(fetch_instrumentation_enabled=False):
            assert urllib.request.OpenerDirector.open is original
        async with one_worker() as recorder:
            assert urllib.request.OpenerDirector.open is not original
            async with one_worker():
                pass
            await to_thread.run_sync(fetch, f"{url}/a?b")
            with pytest.raises(urllib.error.HTTPError) as caught:
                await to_thread.run_sync(fetch, f"{url}/bad")
            caught.value.close()
        assert urllib.request.OpenerDirector.open is original
        await to_thread.run_sync(fetch, url)
    assert [span["name"] for span in recorder.spans] == ["GET /a", "GET /bad"]
    good, bad = recorder.spans
    assert (good["attributes"]["http.response.status_code"], good["status"]["code"]) == (200, 1)
    assert (bad["attributes"]["http.response.status_code"], bad["status"]["code"]) == (500, 2)
    assert [headers.get("traceparent", "")[36:52] for headers in seen] == [good["spanId"], bad["spanId"], ""]


# -- gauges (A-44) ---------------------------------------------------------------------------------------------------


def test_the_collector_looks_at_this_process_and_keeps_what_it_found_for_half_a_second() -> None:
    collector = WorkerMetricsCollector()
    first = collector.collect_cached()
    assert collector.collect_cached() is first
    assert first.memory_rss > 1_000_000
    assert first.memory_vms >= first.memory_rss or first.memory_vms == 0
    assert 0 <= first.cpu_percent <= 100
    assert first.cpu_user_micros > 0
    assert first.runtime == "python"
    assert collector.collect() is not first


def test_gauges_are_registered_once_and_stop() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)

    def names() -> list[tuple[str, dict[str, Any]]]:
        data = reader.get_metrics_data()
        if data is None:
            return []
        metrics = [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
        return [(metric.name, dict(point.attributes or {})) for metric in metrics for point in metric.data.data_points]

    try:
        register_worker_gauges(provider.get_meter("m"), "id-1", "w")
        register_worker_gauges(provider.get_meter("m"), "id-2")
        found = names()
        assert len(found) == 9
        assert all(attributes == {"worker.id": "id-1", "worker.name": "w"} for _, attributes in found)
        stop_worker_gauges()
        assert names() == []
    finally:
        stop_worker_gauges()
        provider.shutdown()


# -- the whole process -----------------------------------------------------------------------------------------------

GLOBAL = """
import sys, threading, anyio, urllib.request
from opentelemetry import trace
from iii_anyio import InitOptions, open_worker
from iii_anyio.observability import (
    Logger, OtelConfig, flush_otel, init_otel, shutdown_otel, shutdown_otel_async, with_span, current_trace_id
)
url = sys.argv[1]
shutdown_otel()                                  # without init: nothing
init_otel(OtelConfig(enabled=False))
assert urllib.request.OpenerDirector.open.__module__ == "urllib.request"
config = OtelConfig(service_name="whole", engine_ws_url=url, spans_flush_interval_ms=60_000)
init_otel(config)
init_otel(OtelConfig(service_name="second"))     # no-op
early = trace.get_tracer("mine")
async def main():
    await with_span("by with_span", nothing)
    Logger().info("global log")
    with early.start_as_current_span("by api"):
        pass
    await flush_otel()
    async with open_worker(url, InitOptions(worker_name="of the process")) as iii:
        iii.register_function("f", lambda _: None)
        await iii.wait_ready()
        await iii.trigger_async("f")
    await shutdown_otel_async()
    await with_span("nobody sees", nothing)
    init_otel(config)
    with early.start_as_current_span("again"):
        pass
async def nothing(span): pass
anyio.run(main)
# no shutdown: the end of the program delivers the rest
"""


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_init_otel_is_for_the_whole_process_and_can_be_begun_again() -> None:
    """A.17; once, no-op, shutdown, and nothing is lost at exit. In a process of its own, for it is of the process."""
    expected = {"by with_span", "by api", "trigger f", "execute f", "again"}
    with anyio.fail_after(50):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            assert engine.url
            done = await anyio.run_process(
                [sys.executable, "-W", "ignore", "-c", GLOBAL, engine.url], stderr=subprocess.STDOUT, check=False
            )
            assert (done.returncode, done.stdout.decode()) == (0, "")
            async with open_worker(connector=engine.connector(), options=InitOptions(otel=False)) as iii:
                query = {"service_name": "whole", "search_all_spans": True}
                spans: list[Any] = []
                while len(spans) < len(expected):  # sent is not yet stored
                    spans = (await iii.trigger_async("engine::traces::list", query))["spans"]
                logs = (await iii.trigger_async("engine::logs::list", {}))["logs"]
    assert {span["name"] for span in spans} == expected
    assert "global log" in {log["body"] for log in logs}


SET_GLOBAL = """
import sys, anyio
from opentelemetry import trace
from iii_anyio import InitOptions, OtelConfig, open_worker
async def main():
    for name in ("one", "two"):
        config = OtelConfig(service_name=name, set_global=True, metrics_enabled=False)
        async with open_worker(sys.argv[1], InitOptions(worker_name=name, otel=config)) as iii:
            with trace.get_tracer("mine").start_as_current_span(f"api {name}"):
                pass
            await iii.wait_ready()
    with trace.get_tracer("mine").start_as_current_span("late"):
        pass
anyio.run(main)
"""


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_workers_providers_can_be_those_of_the_process_for_as_long_as_it_lives() -> None:
    with anyio.fail_after(50):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            assert engine.url
            done = await anyio.run_process(
                [sys.executable, "-W", "ignore", "-c", SET_GLOBAL, engine.url], stderr=subprocess.STDOUT, check=False
            )
            assert (done.returncode, done.stdout.decode()) == (0, "")
            async with open_worker(connector=engine.connector(), options=InitOptions(otel=False)) as iii:
                spans: list[Any] = []
                while len(spans) < 2:  # sent is not yet stored
                    spans = (await iii.trigger_async("engine::traces::list", {"search_all_spans": True}))["spans"]
    assert {(span["service_name"], span["name"]) for span in spans} == {("one", "api one"), ("two", "api two")}
