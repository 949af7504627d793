"""Metrics of a worker: its gauges tell what it is at, and the application's own go the same way (A.18, §15)."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, to_thread, wait_all_tasks_blocked
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from iii_anyio import HeartbeatOptions, InitOptions, Limits, OtelConfig, ReconnectionConfig, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.observability import WorkerMetricsCollector
from tests.api.recorder import Recorder
from tests.proxy import open_tcp_proxy

pytestmark = pytest.mark.anyio


async def figures(reader: InMemoryMetricReader) -> dict[str, Any]:
    """What the worker's gauges say now, by the end of their names. They read files, so it takes a thread."""
    data = await to_thread.run_sync(reader.get_metrics_data)
    if data is None:
        return {}
    metrics = [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
    found: dict[str, Any] = {}
    for metric in metrics:
        points: Any = metric.data.data_points
        found[metric.name.removeprefix("iii.worker.")] = points[0].value
    return found


async def test_gauges_tell_what_runs_and_what_waits() -> None:
    near, far = InMemoryMetricReader(), InMemoryMetricReader()
    with fail_after(10):
        async with (
            open_engine(port=None, http_port=None, stream_port=None) as engine,
            open_worker(
                connector=Recorder(engine.connector()),
                options=InitOptions(worker_name="caller", otel=OtelConfig(metric_readers=[near])),
            ) as caller,
            open_worker(
                connector=Recorder(engine.connector()),
                options=InitOptions(
                    worker_name="callee",
                    otel=OtelConfig(metric_readers=[far]),
                    limits=Limits(max_concurrency=1),
                ),
            ) as callee,
        ):
            go = anyio.Event()

            @callee.function("f")
            async def f(_: Any) -> None:
                await go.wait()

            await callee.wait_ready()
            theirs: dict[str, Any] = {}
            ours: dict[str, Any] = {}
            async with create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(caller.trigger_async, "f")
                await wait_all_tasks_blocked()
                theirs, ours = await figures(far), await figures(near)
                go.set()
            after = await figures(far)
    assert (theirs["invocations.in_flight"], theirs["queue.depth"], theirs["calls.in_flight"]) == (1, 2, 0)
    assert (ours["invocations.in_flight"], ours["calls.in_flight"], ours["calls.queued"]) == (0, 3, 0)
    assert (after["invocations.in_flight"], after["queue.depth"]) == (0, 0)
    assert theirs["event_loop.lag_ms"] >= 0
    assert theirs["telemetry.dropped"] == theirs["reconnects"] == 0
    assert "rtt_ms" not in theirs  # nobody has measured it


async def test_gauges_tell_of_the_connection() -> None:
    """What a ping took, once one has been answered, and how often the connection was made again."""
    reader = InMemoryMetricReader()
    options = InitOptions(
        otel=OtelConfig(metric_readers=[reader]),
        heartbeat=HeartbeatOptions(interval=0.01),
        reconnection_config=ReconnectionConfig(initial_delay_ms=1, max_delay_ms=5),
    )
    with fail_after(20):
        async with (
            open_engine(port=0, http_port=None, stream_port=None) as engine,
            open_tcp_proxy("127.0.0.1", int(engine.url.rpartition(":")[2].rstrip("/"))) as proxy,
            open_worker(proxy.url, options) as iii,
        ):
            await iii.wait_ready()
            proxy.cut()
            found: dict[str, Any] = {"reconnects": 0}
            while not found["reconnects"] or "rtt_ms" not in found:
                found = await figures(reader)
    assert found["rtt_ms"] >= 0  # the clock of uvloop goes by milliseconds


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_environment_turns_metrics_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """C.4: the Node SDK's variable."""
    monkeypatch.setenv("OTEL_METRICS_ENABLED", "false")
    with fail_after(10):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            recorder = Recorder(engine.connector())
            async with open_worker(connector=recorder, options=InitOptions(otel=True)) as iii:
                iii.register_function("f", lambda _: None)
                await iii.wait_ready()
                await iii.trigger_async("f")
    assert recorder.metrics == []
    assert recorder.spans


OWN = """
import sys, anyio
from opentelemetry import metrics
from iii_anyio import InitOptions, OtelConfig, open_worker
async def main():
    async with open_worker(sys.argv[1], InitOptions(otel=OtelConfig(service_name="own", set_global=True))):
        meter = metrics.get_meter("shop")
        meter.create_counter("sold", "1", "Items").add(3, {"item": "tea"})
        meter.create_up_down_counter("open").add(-2)
        histogram = meter.create_histogram("price", explicit_bucket_boundaries_advisory=[1, 10])
        for price in (0.5, 5, 50):
            histogram.record(price)
anyio.run(main)
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_applications_own_metrics_reach_the_engine() -> None:
    """Counters, up-down counters and histograms, of whoever asks OpenTelemetry for a meter. In a process of its own."""
    with fail_after(40):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            assert engine.url
            done = await anyio.run_process(
                [sys.executable, "-W", "ignore", "-c", OWN, engine.url], stderr=subprocess.STDOUT, check=False
            )
            assert (done.returncode, done.stdout.decode()) == (0, "")
            async with open_worker(connector=engine.connector(), options=InitOptions(otel=False)) as iii:
                listed = (await iii.trigger_async("engine::metrics::list", {}))["sdk_metrics"]
    found = {metric["name"]: metric for metric in listed if metric["service_name"] == "own"}
    assert {name: found[name]["metric_type"] for name in ("sold", "open", "price")} == {
        "sold": "counter",
        "open": "updowncounter",
        "price": "histogram",
    }
    (sold,), (left,), (price,) = (found[name]["data_points"] for name in ("sold", "open", "price"))
    assert (sold["value"], sold["attributes"], left["value"]) == (3, [["item", "tea"]], -2)
    assert (price["count"], price["sum"], price["min"], price["max"]) == (3, 55.5, 0.5, 50)
    assert (price["bucket_counts"], price["explicit_bounds"]) == ([1, 1, 1], [1, 10])


def test_where_there_is_no_proc_memory_is_what_the_system_says_it_was_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A-44."""
    resource: Any = pytest.importorskip("resource")
    monkeypatch.setattr(sys, "platform", "darwin")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes there
    found = WorkerMetricsCollector().collect()
    assert found.memory_rss >= peak
    assert found.memory_vms == 0
    monkeypatch.setattr(sys, "platform", "freebsd")
    assert WorkerMetricsCollector().collect().memory_rss >= peak * 1024
