"""Telemetry on its way to an engine: over `/otel`, into the embedded engine's store, to its end (§15, A.17, A.18)."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import anyio
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, Logger, OtelConfig, ReconnectionConfig, get_context, open_worker
from iii_anyio._wire.listen import Accepted
from iii_anyio.devengine import open_engine
from iii_anyio.errors import LinkClosed
from iii_anyio.observability import LogHandler, flush_otel, with_span
from tests.api.recorder import Recorder, decode, traced_workers
from tests.wire.servers import serving

pytestmark = pytest.mark.anyio

GAUGES = {
    "iii.worker.cpu.percent",
    "iii.worker.cpu.user_micros",
    "iii.worker.cpu.system_micros",
    "iii.worker.memory.rss",
    "iii.worker.memory.vms",
    "iii.worker.memory.heap_used",
    "iii.worker.memory.heap_total",
    "iii.worker.memory.external",
    "iii.worker.uptime_seconds",
    "iii.worker.event_loop.lag_ms",
    "iii.worker.invocations.in_flight",
    "iii.worker.queue.depth",
    "iii.worker.calls.in_flight",
    "iii.worker.calls.queued",
    "iii.worker.reconnects",
    "iii.worker.telemetry.dropped",
}


class OtelServer:
    """Accepts `/otel` and keeps the frames; every other path is refused, as by an engine that is not there."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.texts: list[bytes] = []
        self.handshakes: list[Any] = []
        self.arrived = anyio.Event()
        self.cut_next = False

    async def handle(self, accepted: Accepted) -> None:
        if accepted.path != "/otel":
            await accepted.reject(404, "not here\n")
            return
        self.handshakes.append(accepted)
        wire = await accepted.accept()
        while True:
            try:
                received = await wire.receive_typed()
            except LinkClosed:
                return
            for is_text, message in received:
                (self.texts if is_text else self.frames).append(message)
            if received:
                self.arrived.set()
                if self.cut_next:
                    self.cut_next = False
                    await wire.abort()
                    return


async def test_frames_go_as_binary_messages_to_otel_with_the_workers_headers_and_again_after_a_cut() -> None:
    """§15; P-02, P-57; A-46: the headers come with every connection."""
    server = OtelServer()
    delays = ReconnectionConfig(initial_delay_ms=1, max_delay_ms=5)
    config = OtelConfig(metrics_enabled=False, reconnection_config=delays)
    with fail_after(20):
        async with serving(server.handle) as port:
            options = InitOptions(otel=config, headers={"X-Key": "k"}, connect_timeout=2)
            async with open_worker(f"ws://127.0.0.1:{port}/?tenant=a", options):
                server.cut_next = True
                await with_span("one", _nothing)
                await server.arrived.wait()
                server.arrived = anyio.Event()
                await with_span("two", _nothing)
                await server.arrived.wait()
    assert {span["name"] for span in decode(server.frames, b"OTLP")} == {"one", "two"}
    assert server.texts == []
    assert [(accepted.query, accepted.headers["x-key"]) for accepted in server.handshakes] == [("tenant=a", "k")] * 2


async def _nothing(_: Any) -> None:
    pass


async def test_headers_of_its_own_replace_the_workers_and_another_engine_may_be_told() -> None:
    """A.3: ``{}`` counts as given."""
    server = OtelServer()
    with fail_after(20):
        async with serving(server.handle) as port, open_engine(port=None, http_port=None, stream_port=None) as engine:
            config = OtelConfig(engine_ws_url=f"ws://127.0.0.1:{port}", engine_ws_headers={}, metrics_enabled=False)
            options = InitOptions(otel=config, headers={"X-Key": "k"})
            async with open_worker(connector=engine.connector(), options=options):
                await with_span("one", _nothing)
    assert [span["name"] for span in decode(server.frames, b"OTLP")] == ["one"]
    assert "x-key" not in server.handshakes[0].headers


async def test_a_trace_and_its_logs_are_in_the_engines_store_after_a_flush() -> None:
    with fail_after(20):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            options = InitOptions(otel={"service_name": "shop", "metrics_enabled": False})
            async with open_worker(engine.url, options) as iii:

                @iii.function("f")
                async def f(_: Any) -> None:
                    Logger().info("in f", {"n": 1})
                    get_context().logger.warn("by context")

                await iii.wait_ready()
                await iii.trigger_async("f", dispatch="remote")
                await flush_otel()
                query = {"service_name": "shop", "search_all_spans": True}
                rows: list[Any] = []
                while len(rows) < 2:  # sent is not yet stored
                    rows = (await iii.trigger_async("engine::traces::list", query))["spans"]
                logs = (await iii.trigger_async("engine::logs::list", {}))["logs"]
    called, served = (next(row for row in rows if row["name"] == name) for name in ("trigger f", "execute f"))
    assert served["parent_span_id"] == called["span_id"]
    assert served["status"] == "ok"
    bodies = {log["body"]: log for log in logs if log["service_name"] == "shop"}
    assert set(bodies) == {"in f", "by context"}
    assert bodies["in f"]["attributes"] == {"service.name": "", "log.data": {"n": 1}}
    assert bodies["by context"]["attributes"]["service.name"] == "f"
    assert {log["span_id"] for log in bodies.values()} == {served["span_id"]}
    assert bodies["by context"]["severity_text"] == "WARN"


async def test_the_last_spans_logs_and_metrics_are_delivered_when_a_worker_ends() -> None:
    """Defect 6: upstream closes the socket first."""
    with fail_after(20):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            config = OtelConfig(service_name="last", spans_flush_interval_ms=60_000)
            async with open_worker(engine.url, InitOptions(otel=config)) as iii:
                iii.register_function("f", lambda _: Logger().info("last words"))
                await iii.wait_ready()
                await iii.trigger_async("f")
            async with open_worker(connector=engine.connector()) as reader:
                rows: list[Any] = []
                while len(rows) < 2:
                    query = {"service_name": "last", "search_all_spans": True}
                    rows = (await reader.trigger_async("engine::traces::list", query))["spans"]
                logs = (await reader.trigger_async("engine::logs::list", {}))["logs"]
                metrics = (await reader.trigger_async("engine::metrics::list", {}))["sdk_metrics"]
    assert "last words" in {log["body"] for log in logs}
    assert {metric["name"] for metric in metrics} >= GAUGES


async def test_the_engine_shows_the_gauges_as_the_workers_latest_metrics() -> None:
    """Defect 9; §15."""
    with fail_after(20):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            options = InitOptions(worker_name="measured", otel=OtelConfig(metrics_export_interval_ms=10))
            async with open_worker(engine.url, options) as iii:
                await iii.wait_ready()
                metrics: Any = None
                while not metrics:
                    found = await iii.trigger_async("engine::workers::info", {"name": "measured"})
                    metrics = found["worker"].get("latest_metrics")
    assert metrics["memory_rss"] > 1_000_000


async def test_gauges_are_of_this_worker_and_can_be_left_out() -> None:
    for is_on in (True, False):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            recorder = Recorder(engine.connector())
            options = InitOptions(worker_name="w", otel=OtelConfig(), enable_metrics_reporting=is_on)
            with fail_after(20):
                async with open_worker(connector=recorder, options=options) as iii:
                    await iii.wait_ready()
                    await flush_otel()
                    worker_id = iii.worker_id
        found = {metric["name"]: metric for metric in recorder.metrics}
        assert set(found) == (GAUGES if is_on else set())
        if is_on:
            point = found["iii.worker.memory.rss"]["gauge"]["dataPoints"][0]
            assert {"key": "worker.id", "value": {"stringValue": worker_id}} in point["attributes"]
            assert int(point["asInt"]) > 1_000_000


# -- logs ------------------------------------------------------------------------------------------------------------


async def test_with_logs_off_the_logger_writes_to_pythons_logging(caplog: pytest.LogCaptureFixture) -> None:
    """Defect 22: upstream loses them."""
    async with traced_workers(OtelConfig(logs_enabled=False, metrics_enabled=False)) as (caller, _, callee, far):
        callee.register_function("f", lambda _: Logger(service_name="s").error("still here"))
        await callee.wait_ready()
        await caller.trigger_async("f")
    assert "[s] still here" in caplog.text
    assert far.logs == []


async def test_pythons_logging_goes_along_with_what_it_was_logged_in() -> None:
    """A stdlib handler: trace, function and invocation, exceptions, and data of whatever kind."""
    log = logging.getLogger("shop.orders")
    handler = LogHandler()
    log.addHandler(handler)
    try:
        async with traced_workers() as (caller, near, callee, far):

            @callee.function("f")
            def f(_: Any) -> Any:
                log.warning("from %s", "f", extra={"data": {"when": object(), "n": [1, None]}})
                try:
                    raise ValueError("oops")
                except ValueError:
                    log.exception("failed")
                return None

            await callee.wait_ready()
            await caller.trigger_async("f")
            log.error("outside: of two workers, which?")
    finally:
        log.removeHandler(handler)
    first, second = far.logs
    server = far.span("execute f")
    for record in (first, second):
        assert (record["traceId"], record["spanId"]) == (server["traceId"], server["spanId"])
        assert record["attributes"]["iii.function.id"] == "f"
        assert record["attributes"]["faas.invocation_id"] == server["attributes"]["faas.invocation_id"]
        assert record["scope"]["name"] == "shop.orders"
    assert (first["body"]["stringValue"], first["severityNumber"], first["severityText"]) == ("from f", 13, "WARN")
    assert first["attributes"]["log.data"]["n"] == [1, None]
    assert second["attributes"]["exception.type"] == "ValueError"
    assert "oops" in second["attributes"]["exception.stacktrace"]
    assert near.logs == []


async def test_what_an_engine_of_the_same_process_prints_is_not_sent_to_it_again() -> None:
    """The embedded engine prints each log record that it stores, with Python's logging."""
    handler = LogHandler(logging.INFO)
    logging.getLogger().addHandler(handler)
    before = logging.getLogger("iii_anyio.devengine.log").level
    logging.getLogger("iii_anyio.devengine.log").setLevel(logging.INFO)
    try:
        with fail_after(20):
            async with open_engine(port=0, http_port=None, stream_port=None) as engine:
                config = OtelConfig(service_name="shop", metrics_enabled=False)
                async with open_worker(engine.url, InitOptions(otel=config)) as iii:
                    await iii.wait_ready()
                    logging.getLogger("shop").error("once")
                    found: Any = {"logs": []}
                    while not found["logs"]:  # sent is not yet stored
                        await flush_otel()
                        found = await iii.trigger_async("engine::logs::list", {})
                    for _ in range(3):
                        await flush_otel()
                        found = await iii.trigger_async("engine::logs::list", {})
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("iii_anyio.devengine.log").setLevel(before)
    assert [log["body"] for log in found["logs"]].count("once") == 1
    assert not [log for log in found["logs"] if log["instrumentation_scope_name"] == "iii_anyio.devengine.log"]


async def test_texts_that_utf8_cannot_carry_do_not_lose_a_record() -> None:
    async with traced_workers() as (caller, _, callee, far):
        callee.register_function("f", lambda _: Logger().info("bad \ud800", {"\udfff": float("nan"), "big": 2**70}))
        await callee.wait_ready()
        await caller.trigger_async("f")
    (record,) = far.logs
    assert record["body"]["stringValue"] == "bad ?"
    assert record["attributes"]["log.data"] == {"?": "nan", "big": str(2**70)}


# -- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"service": "x"}, "OtelConfig has no field service; there are enabled, "),
        (3, "otel is an OtelConfig, a dict of its fields or a bool, not int"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_wrong_config_is_refused_at_once(given: Any, message: str) -> None:
    """Defect 4: upstream's worker never connects."""
    with pytest.raises(TypeError, match=message):
        async with open_worker("ws://127.0.0.1:1", InitOptions(otel=given)):
            pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_upstreams_own_config_is_taken_as_ours() -> None:
    from iii_helpers.observability import OtelConfig as Theirs

    with fail_after(20):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            recorder = Recorder(engine.connector())
            theirs: Any = Theirs(service_name="theirs", metrics_enabled=False)
            options = InitOptions(otel=theirs)
            async with open_worker(connector=recorder, options=options):
                await with_span("s", _nothing)
    assert recorder.span("s")["resource"]["service.name"] == "theirs"


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_environment_turns_telemetry_on_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A.17: ``OTEL_ENABLED`` counts while the config says nothing."""
    cases: list[tuple[str, Any, bool]] = [
        ("true", None, True),
        ("off", OtelConfig(metrics_enabled=False), False),
        ("0", True, True),
        ("", None, False),
        ("1", False, False),
    ]
    for value, otel, is_on in cases:
        monkeypatch.setenv("OTEL_ENABLED", value)
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            recorder = Recorder(engine.connector())
            with fail_after(20):
                async with open_worker(connector=recorder, options=InitOptions(otel=otel)) as iii:
                    iii.register_function("f", lambda _: None)
                    await iii.wait_ready()
                    await iii.trigger_async("f")
        assert bool(recorder.spans) == is_on, (value, otel)


async def test_an_engine_that_refuses_telemetry_is_a_warning_and_the_worker_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse(accepted: Accepted) -> None:
        await accepted.reject(403, "no\n")

    with fail_after(20):
        async with serving(refuse) as port, open_engine(port=None, http_port=None, stream_port=None) as engine:
            config = OtelConfig(engine_ws_url=f"ws://127.0.0.1:{port}", metrics_enabled=False, shutdown_timeout=0.1)
            async with open_worker(connector=engine.connector(), options=InitOptions(otel=config)) as iii:
                iii.register_function("f", lambda _: 1)
                await iii.wait_ready()
                assert await iii.trigger_async("f") == 1
    assert "telemetry is not delivered" in caplog.text
    assert "records of telemetry were not delivered" in caplog.text


WITHOUT_SDK = """
import sys, importlib.abc
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import anyio
from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.observability import Logger, OtelConfig
assert not [name for name in sys.modules if name.startswith("opentelemetry")], "imported late"
from iii_anyio.observability import with_span, current_trace_id
async def main():
    async with open_engine(port=None, http_port=None, stream_port=None) as engine:
        async with open_worker(connector=engine.connector()) as iii:
            iii.register_function("f", lambda _: current_trace_id())
            await iii.wait_ready()
            async def body(span): return await iii.trigger_async("f", dispatch="remote")
            print(await with_span("s", body))
        try:
            async with open_worker(connector=engine.connector(), options=InitOptions(otel=True)): pass
        except ImportError as exc:
            print(exc)
anyio.run(main)
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_without_the_extra_all_works_but_telemetry_whose_error_names_it() -> None:
    done = await anyio.run_process([sys.executable, "-c", WITHOUT_SDK], stderr=subprocess.STDOUT, check=False)
    lines = done.stdout.decode().splitlines()
    assert lines == ["None", "this needs OpenTelemetry's SDK: install it with  pip install 'iii-anyio[otel]'"]
