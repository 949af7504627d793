"""The built-in `iii-observability` as its users see it: frames over sockets, functions, triggers, configuration."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group, fail_after, sleep, wait_all_tasks_blocked
from anyio.abc import TaskStatus

from iii_anyio import InitOptions, InvocationError, Worker, get_context, open_worker
from iii_anyio._wire.connect import websocket_connector
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine._listeners import Listener, Rbac
from iii_anyio.devengine._telemetry import trace_of
from iii_anyio.devengine.builtins.observability import read_options
from iii_anyio.errors import LinkClosed
from tests.devengine.test_telemetry import TRACE, logs_frame, metrics_frame, span, spans_frame
from tests.heard import Heard

pytestmark = pytest.mark.anyio

NAME = "iii-observability"
OTHER_TRACE = "1" * 32
YEAR = 365 * 86_400
TRACEPARENT = f"00-{TRACE}-{'a' * 16}-01"


@asynccontextmanager
async def working(
    config: dict[str, Any] | None = None, *, seconds: float = 20, **options: Any
) -> AsyncGenerator[tuple[Engine, Worker]]:
    """An engine without sockets unless told otherwise, and a worker of it."""
    options = {"port": None, "http_port": None, "stream_port": None} | options
    with fail_after(seconds):
        async with (
            open_engine(workers={NAME: config} if config is not None else None, **options) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="w")) as iii,
        ):
            yield engine, iii


async def bind(iii: Worker, type_id: str, seen: Heard, config: Any = None, **more: Any) -> None:
    iii.register_function(f"on-{type_id}", seen.hear)
    iii.register_trigger(type_id, f"on-{type_id}", config or {}, **more)
    await iii.wait_ready()


def levelled(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"severityNumber": number, "severityText": text, "body": {"stringValue": text}, **more}


# -- sockets ---------------------------------------------------------------------------------------------------------


async def test_frames_on_the_otel_socket_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """OB-1, OB-2, §15: no worker, no event; text, other binary and broken frames are passed over."""
    async with working(port=0) as (engine, iii):
        logs, workers = Heard(), Heard()
        await bind(iii, "log", logs)
        await bind(iii, "engine::workers-available", workers)
        before = engine.connections
        async with websocket_connector(f"{engine.url}/otel?token=x")() as wire:
            await wire.send([b'{"type":"ping"}', b"OTLP{}"])
            broken = b"OTLP{\xff"
            await wire.send_binary([b"what", broken, spans_frame(span()), logs_frame(levelled(9, "INFO"))])
            assert (await logs.take())["body"] == "INFO"
            listed = await iii.trigger_async("engine::traces::list", {})
            assert [row["span_id"] for row in listed["spans"]] == ["s1"]
            assert engine.connections == before
            assert "telemetry of an exporter at 127.0.0.1: left out" in caplog.text
        await wait_all_tasks_blocked()
        while workers.has_more:  # this worker's own wait_ready()
            assert (await workers.take())["event"] == "worker_metadata_updated"


async def test_the_otel_socket_answers_pings_and_is_closed_with_the_engine() -> None:
    """§15, P-104."""
    with fail_after(10):
        closed: list[int] = []

        async def export(url: str, *, task_status: TaskStatus[None]) -> None:
            async with websocket_connector(f"{url}/otel")() as wire:
                await wire.ping(b"here")
                while not wire.pongs:
                    await wire.receive()
                task_status.started()
                with pytest.raises(LinkClosed) as end:
                    await wire.receive()
                closed.append(end.value.code)

        async with create_task_group() as tasks, working(port=0) as (engine, _):
            await tasks.start(export, engine.url)
        assert closed == [1001]


async def test_frames_on_the_main_socket_are_kept_before_the_next_message_is_read() -> None:
    """OB-1, P-105: also before the worker has named its namespace."""
    async with working(port=0) as (engine, _), websocket_connector(engine.url)() as wire:
        await wire.send_binary([spans_frame(span()), metrics_frame({"name": "m", "gauge": {}}), b'{"type":"ping"}'])
        call = {"type": "invokefunction", "function_id": "engine::traces::list", "data": {}}
        await wire.send([json.dumps(call | {"invocation_id": "6f9619ff-8b86-4011-b42d-00c04fc964ff"}).encode()])
        received: list[dict[str, Any]] = []
        while len(received) < 3:
            received += [json.loads(text) for text in await wire.receive()]
        assert [message["type"] for message in received] == ["workerregistered", "pong", "invocationresult"]
        assert received[2]["result"]["total"] == 1


async def test_who_may_not_connect_may_not_export() -> None:
    """OB-2: the listener's auth function is asked."""

    def auth(data: Any) -> dict[str, Any]:
        if data["headers"].get("x-key") != "right":
            raise InvocationError("NO", "who are you?")
        return {}

    async with working(port=0, listeners=[Listener(rbac=Rbac(auth_function_id="auth"))]) as (engine, iii):
        iii.register_function("auth", auth)
        logs = Heard()
        await bind(iii, "log", logs)
        frame = logs_frame(levelled(9, "INFO"))
        async with websocket_connector(f"{engine.url}/otel", headers={"x-key": "wrong"})() as wire:
            (text,) = await wire.receive()
            assert json.loads(text)["type"] == "error"
            with pytest.raises(LinkClosed):
                await wire.receive()
        async with websocket_connector(f"{engine.url}/otel", headers={"x-key": "right"})() as wire:
            await wire.send_binary([frame])
            assert (await logs.take())["body"] == "INFO"
        await wait_all_tasks_blocked()
        assert not logs.has_more


# -- log -------------------------------------------------------------------------------------------------------------


async def test_log_fires_for_every_log_that_is_kept() -> None:
    """OB-8, OB-17, OB-19, §5.3: with all twelve keys, metadata, in the binding's namespace."""
    async with working() as (engine, iii):
        seen, other = Heard(), Heard()
        await bind(iii, "log", seen, metadata={"m": 1})
        options = InitOptions(worker_name="blue", namespace="blue")
        async with open_worker(connector=engine.connector(), options=options) as blue:
            blue.register_function("f", other.hear)
            blue.register_trigger("log", "f", None, namespace="blue")
            await blue.wait_ready()
            request = {"message": "\x1b[1mhi", "data": {"n": 1}, "trace_id": TRACE, "service_name": "s"}
            assert await iii.trigger_async("engine::log::warn", request) is None
            log = await seen.take()
            assert seen.metadata == [{"m": 1}]
            assert await other.take() == log
        assert log.pop("timestamp_unix_nano") == log.pop("observed_timestamp_unix_nano") > 10**18
        assert log.pop("instrumentation_scope_version")
        assert log == {
            "severity_number": 13, "severity_text": "WARN", "body": "hi", "attributes": {"n": 1}, "trace_id": TRACE,
            "span_id": None, "resource": {"service.name": "s"}, "service_name": "s",
            "instrumentation_scope_name": "iii",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "expected"), [("all", "DEBUG INFO Warn"), ("WARN", "Warn"), ("info", "INFO"), ("loud", "")]
)
async def test_a_level_is_matched_exactly(level: str, expected: str) -> None:
    """OB-16."""
    async with working() as (engine, iii):
        seen, last = Heard(), Heard()
        await bind(iii, "log", seen, {"level": level})
        iii.register_function("last", last.hear)
        iii.register_trigger("log", "last", {"level": "last"})
        await iii.wait_ready()
        frame = logs_frame(levelled(5, "DEBUG"), levelled(9, "INFO"), levelled(13, "Warn"), levelled(1, "LAST"))
        await send(engine, frame)
        await last.take()
        await wait_all_tasks_blocked()
        assert [(await seen.take())["body"] for _ in expected.split()] == expected.split()
        assert not seen.has_more or (await seen.take())["body"] == "LAST"


async def send(engine: Engine, frame: bytes) -> None:
    """Send a telemetry frame as a worker of its own, and wait until it is read."""
    async with engine.connector()() as wire:
        await wire.send([frame, b'{"type":"ping"}'])
        while not any(b'"pong"' in text for text in await wire.receive()):
            pass


@pytest.mark.parametrize("config", [{"level": 7}, [], "info"])
async def test_a_level_that_is_no_text_is_refused(config: Any) -> None:
    """T-2, E-45."""
    async with working() as (_, iii):
        iii.register_function("f", lambda _: None)
        request = {"trigger_type": "log", "function_id": "f", "config": config}
        with pytest.raises(InvocationError, match="trigger's config must be") as refused:
            await iii.trigger_async("engine::register_trigger", request)
        assert refused.value.code == "trigger_registration_failed"


@pytest.mark.parametrize("strict", [False, True])
async def test_a_handler_that_logs_does_not_fire_itself(strict: bool) -> None:
    """OB-17 but for `strict_upstream`: not by a call, and not by a frame that carries the trace of its call."""
    async with working(strict_upstream=strict) as (engine, iii):
        seen: list[str] = []
        done = anyio.Event()

        async def handle(log: dict[str, Any]) -> None:
            seen.append(log["body"])
            if log["body"] == "outer":
                await iii.trigger_async("engine::log::info", {"message": "by call"})
                await send(engine, logs_frame(levelled(9, "by frame", traceId=trace_of(get_context().trace))))
                await iii.trigger_async("engine::log::info", {"message": "end", "trace_id": OTHER_TRACE})
            if log["body"] == "end":
                done.set()

        iii.register_function("f", handle)
        trigger = iii.register_trigger("log", "f", {})
        await iii.wait_ready()
        await iii.trigger_async("engine::log::info", {"message": "outer"})
        await done.wait()
        assert seen == (["outer", "by call", "by frame", "end"] if strict else ["outer", "end"])
        logs = (await iii.trigger_async("engine::logs::list", {}))["logs"]
        assert [log["body"] for log in reversed(logs)][:2] == ["outer", "by call"]
        trigger.unregister()
        await wait_all_tasks_blocked()
        await iii.trigger_async("engine::log::info", {"message": "nobody hears"})
        await wait_all_tasks_blocked()
        assert "nobody hears" not in seen


# -- trace -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_trace_tells_the_traces_of_300_ms_at_once() -> None:
    """OB-18: sorted, each once; snapshots, the engine's own and the handler's spans are left out."""
    async with working(seconds=YEAR) as (engine, iii):
        seen, some = Heard(), Heard()
        await bind(iii, "trace", seen, metadata=7)
        iii.register_function("some", some.hear)
        iii.register_trigger("trace", "some", {"service_name": "OTHER", "status": "Error"})
        await iii.wait_ready()
        await send(
            engine,
            spans_frame(
                span("1", traceId="c"), span("2", traceId="a"), span("3", traceId="a", parentSpanId="2"),
                span("4", traceId="no1", endTimeUnixNano=0), span("5", traceId="no2", name="execute on-trace"),
                span("6", traceId="no3", name="call engine::logs::list"),
                span("7", traceId="no4", attributes=[{"key": "function_id", "value": {"stringValue": "engine::x"}}]),
            ),
        )  # fmt: skip
        await sleep(0.2)
        await send(engine, spans_frame(span("8", traceId="b", status={"code": 2}), service="other"))
        await sleep(0.05)
        assert not seen.has_more
        assert await seen.take() == {"trace_ids": ["a", "b", "c"]}
        assert seen.metadata == [7]
        assert await some.take() == {"trace_ids": ["b"]}
        await sleep(1)
        assert not seen.has_more
        assert not some.has_more


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_spans_that_a_handler_of_a_trigger_makes_fire_nothing() -> None:
    """OB-18: whatever they are called; recognised by the trace that its call began."""
    async with working(seconds=YEAR) as (engine, iii):
        seen: list[Any] = []

        async def handle(data: Any) -> None:
            seen.append(data)
            await send(engine, spans_frame(span("inner", traceId=trace_of(get_context().trace), parentSpanId="x")))

        iii.register_function("f", handle)
        iii.register_trigger("trace", "f", {})
        await iii.wait_ready()
        await send(engine, spans_frame(span()))
        await sleep(5)
        assert seen == [{"trace_ids": [TRACE]}]
        assert (await iii.trigger_async("engine::traces::list", {}))["total"] == 2


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_too_old_logs_are_swept_away() -> None:
    """OB-15."""
    async with working({"logs_retention_seconds": 1}, seconds=YEAR) as (engine, iii):
        await iii.trigger_async("engine::log::info", {"message": "m"})
        telemetry = engine._router.telemetry  # the clock of records is the system's, that of tasks the test's
        later = telemetry.now_ns() + 2 * 10**9
        telemetry.now_ns = lambda: later
        await sleep(61)
        assert (await iii.trigger_async("engine::logs::list", {}))["total"] == 0


# -- functions -------------------------------------------------------------------------------------------------------


async def test_logs_are_listed_by_these_filters() -> None:
    """OB-12."""
    async with working() as (engine, iii):
        await send(
            engine,
            logs_frame(
                levelled(5, "DEBUG", timeUnixNano=1_000_000, traceId="t", spanId="s"),
                levelled(13, "WARN", timeUnixNano=3_000_000, traceId="t"),
                levelled(9, "INFO", timeUnixNano=2_000_000),
            ),
        )
        unset = dict.fromkeys(
            ("trace_id", "span_id", "severity_min", "severity_text", "start_time", "end_time", "offset", "limit")
        )
        for query, expected in (
            ({}, ["WARN", "INFO", "DEBUG"]),
            ({"trace_id": "t"}, ["WARN", "DEBUG"]),
            ({"span_id": "s"}, ["DEBUG"]),
            ({"severity_min": 9}, ["WARN", "INFO"]),
            ({"severity_text": "warn"}, ["WARN"]),
            ({"start_time": 2, "end_time": 2}, ["INFO"]),
        ):
            answer = await iii.trigger_async("engine::logs::list", query)
            assert [log["body"] for log in answer["logs"]] == expected
            assert answer["total"] == len(expected)
            assert answer["query"] == unset | query
            assert answer["timestamp"] > 10**12
        answer = await iii.trigger_async("engine::logs::list", {"offset": 1, "limit": 1})
        assert ([log["body"] for log in answer["logs"]], answer["total"]) == (["INFO"], 3)
        assert await iii.trigger_async("engine::logs::clear", {}) == {"success": True}
        assert (await iii.trigger_async("engine::logs::list", {}))["logs"] == []


async def test_traces_are_shown_grouped_and_cleared() -> None:
    """§5.2, OB-11."""
    async with working() as (engine, iii):
        attributes = [{"key": "k", "value": {"stringValue": "v"}}]
        await send(engine, spans_frame(span("a", attributes=attributes), span("b", parentSpanId="a")))
        storage = {
            "archive": "disabled", "completeness": "complete", "known_dropped_spans": 0, "physical_bytes": 0,
            "max_disk_bytes": 0, "last_error": None,
        }  # fmt: skip
        tree = await iii.trigger_async("engine::traces::tree", {"trace_id": TRACE})
        assert tree["storage"] == storage
        assert [child["span_id"] for child in tree["roots"][0]["children"]] == ["b"]
        listed = await iii.trigger_async("engine::traces::list", {"attributes": [["k", "v"]]})
        assert {key: listed[key] for key in ("total", "offset", "limit", "storage")} == {
            "total": 1, "offset": 0, "limit": 100, "storage": storage,
        }  # fmt: skip
        groups = await iii.trigger_async("engine::traces::group_by", {"attribute": "k"})
        assert [(group["value"], group["trace_ids"]) for group in groups["groups"]] == [("v", [TRACE])]
        assert await iii.trigger_async("engine::traces::clear", {}) == {"success": True}
        assert (await iii.trigger_async("engine::traces::tree", {"trace_id": TRACE}))["roots"] == []


@pytest.mark.parametrize(
    ("function_id", "data", "code"),
    [
        ("engine::traces::list", {"sort_by": "size"}, "deserialization_error"),
        ("engine::traces::list", {"sort_order": "up"}, "deserialization_error"),
        ("engine::traces::list", {"attributes": [["k"]]}, "deserialization_error"),
        ("engine::traces::list", {"min_duration_ms": "1"}, "deserialization_error"),
        ("engine::traces::list", {"limit": -1}, "deserialization_error"),
        ("engine::traces::tree", {}, "deserialization_error"),
        ("engine::metrics::list", {"start_time": 2**60}, "time_value_overflow"),
        ("engine::rollups::list", {"end_time": 2**60}, "time_value_overflow"),
    ],
)
async def test_wrong_questions_are_refused(function_id: str, data: Any, code: str) -> None:
    """C-2, C-3, OB-13."""
    async with working() as (_, iii):
        with pytest.raises(InvocationError) as refused:
            await iii.trigger_async(function_id, data)
        assert refused.value.code == code


async def test_calls_and_workers_are_counted() -> None:
    """OB-14: a call that a worker executes is deferred, one that the engine executes succeeds or fails."""
    async with working() as (engine, iii):
        iii.register_function("f", lambda _: 1)
        await iii.wait_ready()
        before = (await iii.trigger_async("engine::metrics::list", {}))["engine_metrics"]["invocations"]
        for _ in range(3):
            await iii.trigger_async("f", {}, dispatch="remote")
        await iii.trigger_async("engine::functions::list", {})
        with pytest.raises(InvocationError):
            await iii.trigger_async("engine::functions::info", {"function_id": "nobody"})
        await send(engine, metrics_frame(*({"name": name, "gauge": {}} for name in ("m", "n"))))
        await anyio.wait_all_tasks_blocked()  # until that connection's end is noticed
        answer = await iii.trigger_async("engine::metrics::list", {"metric_name": "m"})
        after = answer["engine_metrics"]["invocations"]
        assert {key: after[key] - before[key] for key in ("total", "success", "error", "deferred")} == {
            "total": 5, "success": 1, "error": 1, "deferred": 3,
        }  # fmt: skip
        assert after["by_function"]["f"] == 3
        workers = answer["engine_metrics"]["workers"]
        assert workers == {"spawns": 2, "deaths": 1, "active": 1}
        performance = answer["engine_metrics"]["performance"]
        assert performance["max_duration_ms"] >= performance["p99_duration_ms"] >= performance["min_duration_ms"] > 0
        assert [metric["name"] for metric in answer["sdk_metrics"]] == ["m"]
        assert "query" not in answer
        answer = await iii.trigger_async("engine::metrics::list", {"start_time": 1, "end_time": 2})
        assert answer["sdk_metrics"] == []
        assert answer["query"]["start_time"] == 1
        answer = await iii.trigger_async("engine::metrics::list", {"start_time": 2**43})
        assert len(answer["sdk_metrics"]) == 2  # the range needs both times


async def test_a_workers_gauges_are_shown_with_it() -> None:
    """E-30, §15: for two minutes; what it did not send is left out."""
    async with working() as (engine, iii):
        await iii.wait_ready()
        points = [{"asInt": "5", "attributes": [{"key": "worker.id", "value": {"stringValue": iii.worker_id}}]}]
        half = [points[0] | {"asDouble": 0.5}]
        frame = metrics_frame(
            {"name": "iii.worker.memory.rss", "gauge": {"dataPoints": points}},
            {"name": "iii.worker.cpu.percent", "gauge": {"dataPoints": half}},
            {"name": "iii.worker.uptime_seconds", "gauge": {"dataPoints": [{"asInt": 1}]}},
        )
        await send(engine, frame)
        worker = (await iii.trigger_async("engine::workers::info", {"name": "w"}))["worker"]
        latest = worker["latest_metrics"]
        assert latest.pop("timestamp_ms") > 10**12
        assert latest == {"memory_rss": 5, "cpu_percent": 0.5, "runtime": "python"}
        telemetry = engine._router.telemetry
        later = telemetry.now_ns() + 121 * 10**9
        telemetry.now_ns = lambda: later
        assert "latest_metrics" not in (await iii.trigger_async("engine::workers::info", {"name": "w"}))["worker"]


async def test_strict_upstream_calls_in_default_whatever_the_trigger_says() -> None:
    """OB-19."""
    async with working(strict_upstream=True) as (engine, iii):
        here, elsewhere = Heard(), Heard()
        iii.register_function("f", here.hear)
        await iii.wait_ready()
        options = InitOptions(worker_name="blue", namespace="blue")
        async with open_worker(connector=engine.connector(), options=options) as blue:
            blue.register_function("f", elsewhere.hear)
            blue.register_trigger("log", "f", {}, namespace="blue")
            await blue.wait_ready()
            await iii.trigger_async("engine::log::info", {"message": "m"})
            assert (await here.take())["body"] == "m"
            assert not elsewhere.has_more


async def test_what_this_engine_has_not_is_answered_in_shape() -> None:
    """§5.2, builtins §10."""
    sampling = {"default": 0.5, "rules": [{"operation": "x*", "rate": 0.1}]}
    async with working({"sampling": sampling, "logs_sampling_ratio": 7}) as (_, iii):
        answers = {
            name: await iii.trigger_async(f"engine::{name}", {})
            for name in ("rollups::list", "sampling::rules", "health::check", "alerts::list", "alerts::evaluate")
        }
        for answer in answers.values():
            assert answer.pop("timestamp") > 10**12
        assert answers["rollups::list"] == {
            "rollups": [], "histogram_rollups": [], "level": 0,
            "query": {"start_time": None, "end_time": None, "metric_name": None, "level": 0},
        }  # fmt: skip
        assert answers["sampling::rules"] == {
            "traces": {
                "default_ratio": 0.5, "parent_based": True,
                "rules": [{"operation": "x*", "service": None, "rate": 0.1}],
            },
            "logs": {"sampling_ratio": 1.0},
        }  # fmt: skip
        health = answers["health::check"]
        assert health["status"] == "healthy"
        assert {component["status"] for component in health["components"].values()} == {"healthy"}
        assert answers["alerts::list"] == {"alerts": [], "rules": [], "firing_count": 0}
        assert answers["alerts::evaluate"] == {"evaluated": True, "triggered_alerts": []}


# -- the engine's spans ----------------------------------------------------------------------------------------------


async def test_a_request_is_the_root_of_one_tree() -> None:
    """§5.3, §7.6: over HTTP, through two workers, to a function of the engine and one of a built-in worker."""
    async with working(http_port=0) as (engine, iii):

        async def first(_: Any) -> Any:
            return {"status_code": 201, "body": await iii.trigger_async("second", {})}

        async def second(_: Any) -> Any:
            await iii.trigger_async("engine::functions::list", {})
            await iii.trigger_async("publish", {"topic": "t", "data": 1})
            with pytest.raises(InvocationError):
                await iii.trigger_async("publish", {"data": 1})
            return get_context().trace

        iii.register_function("first", first)
        iii.register_function("second", second)
        iii.register_trigger("http", "first", {"api_path": "/x/:id", "http_method": "POST"})
        await iii.wait_ready()
        async with httpx.AsyncClient(base_url=engine.http_url) as client:
            response = await client.post("/x/1", json={}, headers={"traceparent": TRACEPARENT})
            untraced = await client.post("/x/1", json={}, headers={"traceparent": f"00-{TRACE}-{'a' * 16}-00"})
        assert (response.status_code, untraced.status_code) == (201, 201)
        (root,) = (await iii.trigger_async("engine::traces::tree", {"trace_id": TRACE}))["roots"]
        assert response.json() == f"00-{TRACE}-{root['span_id']}-01"
        assert (root["name"], root["parent_span_id"], root["status"]) == ("POST /x/:id", "a" * 16, "ok")
        assert ["http.response.status_code", "201"] in root["attributes"]
        assert [(child["name"], child["status"]) for child in root["children"]] == [
            ("call engine::functions::list", "ok"), ("call publish", "ok"), ("call publish", "error"),
        ]  # fmt: skip
        listed = await iii.trigger_async("engine::traces::list", {"search_all_spans": True})
        assert [row["name"] for row in listed["spans"]] == ["POST /x/:id", "call publish", "call publish"]


async def test_calls_without_a_trace_make_no_span() -> None:
    """§5.3."""
    async with working() as (_, iii):
        await iii.trigger_async("publish", {"topic": "t", "data": 1})
        assert (await iii.trigger_async("engine::traces::list", {"search_all_spans": True}))["total"] == 0


# -- configuration ---------------------------------------------------------------------------------------------------


async def test_without_observability_the_functions_remain_and_the_triggers_wait() -> None:
    """OB-3, OB-10, OB-20."""
    async with working({"enabled": False}) as (engine, iii):
        seen = Heard()
        await bind(iii, "log", seen)
        await send(engine, spans_frame(span()))
        await iii.trigger_async("engine::log::info", {"message": "m"})
        for name, data in (("list", {}), ("tree", {"trace_id": "t"}), ("group_by", {"attribute": "k"}), ("clear", {})):
            with pytest.raises(InvocationError) as refused:
                await iii.trigger_async(f"engine::traces::{name}", data)
            assert refused.value.code == "memory_exporter_not_enabled"
        answer = await iii.trigger_async("engine::logs::list", {})
        assert answer.keys() == {"logs", "total", "timestamp"}
        assert "message" in await iii.trigger_async("engine::logs::clear", {})
        health = await iii.trigger_async("engine::health::check", {})
        assert health["components"]["spans"] == {"status": "disabled", "details": None}
        types = (await iii.trigger_async("engine::triggers::list", {}))["triggers"]
        assert not {row["id"] for row in types} & {"log", "trace"}
        assert not seen.has_more


async def test_the_types_belong_to_the_worker() -> None:
    """E-6, §0."""
    async with working() as (_, iii):
        types = (await iii.trigger_async("engine::triggers::list", {}))["triggers"]
        assert {row["id"]: row["worker_name"] for row in types if row["id"] in ("log", "trace")} == {
            "log": NAME, "trace": NAME,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"enabled": "yes"}, "enabled must be true or false"),
        ({"exporter": "file"}, "exporter must be memory, otlp or both"),
        ({"logs_max_count": -1}, "logs_max_count must be an integer"),
        ({"sampling_ratio": "all"}, "sampling_ratio must be a number from 0 to 1"),
        ({"trace_storage": {"memory_max_bytes": 1.5}}, "trace_storage.memory_max_bytes must be an integer"),
        ({"alerts": 7}, "alerts must be a list"),
    ],
)
def test_a_wrong_configuration_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^iii-observability: {message}"):
        read_options(config)


def test_a_configuration_is_read_with_upstreams_keys(caplog: pytest.LogCaptureFixture) -> None:
    """§5.4: zero counts are the default, ratios are clamped; what has no effect is reported."""
    options = read_options(
        {
            "exporter": "both", "memory_max_spans": 0, "logs_max_count": 5, "sampling_ratio": 3, "level": "info",
            "trace_storage": {"memory_max_bytes": 1000, "directory": "x"}, "logs_sampling_ratio": -1, "what": 1,
            "metrics_retention_seconds": 60, "alerts": [{"name": "a"}],
        }
    )  # fmt: skip
    assert (options.memory_max_spans, options.logs_max_count, options.memory_max_bytes) == (100_000, 5, 1000)
    assert (options.sampling_ratio, options.logs_sampling_ratio, options.metrics_retention) == (1.0, 0.0, 60)
    for part in ("exporter both", "alerts have no effect", "unknown key 'what'"):
        assert part in caplog.text
