"""One request through everything: HTTP, a worker of ours, the Node SDK, a sync handler of ours, the engine's state.

Its spans are one tree, told twice: by the engine, which collects them from `/otel`, and by an OTLP receiver.
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after
from anyio.streams.text import TextReceiveStream
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from iii_anyio import InitOptions, OtelConfig, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.observability import Logger, set_baggage_entry
from tests import nodejs
from tests.heard import Heard
from tests.otlp_receiver import attributes, otlp_receiver

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(240),  # npm may have to fetch the Node SDK first
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]

LIMIT = 60
SERVER, CLIENT = 2, 3

TREE: tuple[str, ...] = (
    "POST /orders",  # the engine's own, of its HTTP trigger
    "execute shop::order",
    "trigger prices::gross",
    "execute prices::gross",  # by the Node SDK, which has no span of its own for its calls
    "execute tax::add",
    "trigger state::set",
    "call state::set",  # the engine's own, of a function of its own
)
"""From the root to the leaf; each is the parent of the next."""


OURS = {
    "execute shop::order": SERVER,
    "trigger prices::gross": CLIENT,
    "execute tax::add": SERVER,
    "trigger state::set": CLIENT,
}


@pytest.fixture(scope="module")
def node_program() -> list[str]:
    return [nodejs.node_or_skip(nodejs.INTEROP), str(nodejs.INTEROP / "traced.mjs")]


def flat(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parents before their children."""
    return [one for node in nodes for one in (node, *flat(node["children"]))]


def telemetry(service: str, otlp_url: str) -> OtelConfig:
    """To the engine by itself, and to an OTLP receiver as everybody has it."""
    return OtelConfig(
        service_name=service,
        span_processors=[BatchSpanProcessor(OTLPSpanExporter(f"{otlp_url}/v1/traces"))],
        log_processors=[BatchLogRecordProcessor(OTLPLogExporter(f"{otlp_url}/v1/logs"))],
        metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter(f"{otlp_url}/v1/metrics"))],
        shutdown_timeout=LIMIT,
    )


async def test_a_request_through_python_node_and_python_is_one_tree_at_the_engine_and_over_otlp(
    node_program: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """§5.3, §7.6, §15, A.10: every parent is right, across processes, languages, a thread and the engine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    with otlp_receiver() as otlp, fail_after(LIMIT):
        async with (
            open_engine(port=0, http_port=0, stream_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions("reader", otel=False)) as reader,
            await anyio.open_process([*node_program, engine.url], stderr=None, cwd=tmp_path) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            heard = Heard()
            reader.register_function("on-trace", heard.hear)
            reader.register_trigger("trace", "on-trace", {})
            await reader.wait_ready()
            said = ""
            async for text in TextReceiveStream(process.stdout):
                said += text
                if "\n" in said:
                    break
            assert said == "ready\n"
            async with (
                open_worker(engine.url, InitOptions("shop", otel=telemetry("shop", otlp.url))) as shop,
                open_worker(engine.url, InitOptions("tax", otel=telemetry("tax", otlp.url))) as tax,
            ):

                @shop.function("shop::order")
                async def order(request: dict[str, Any]) -> Any:
                    context.attach(set_baggage_entry("tenant", "blue"))  # until the handler ends
                    price = await shop.trigger_async("prices::gross", request["body"])
                    return {"status_code": 201, "body": price}

                @tax.function("tax::add")
                def add(price: dict[str, Any]) -> Any:
                    gross = price["net"] * 2
                    Logger().info("taxed", {"item": price["item"]})
                    tax.trigger("state::set", {"scope": "prices", "key": price["item"], "value": gross})
                    return gross

                shop.register_trigger("http", "shop::order", {"api_path": "/orders", "http_method": "POST"})
                await shop.wait_ready()
                await tax.wait_ready()
                async with httpx.AsyncClient(base_url=engine.http_url, timeout=LIMIT) as client:
                    response = await client.post("/orders", json={"item": "tea", "net": 4})
                assert (response.status_code, response.json()) == (201, {"gross": 8, "by": "node"})
                assert await reader.trigger_async("state::get", {"scope": "prices", "key": "tea"}) == 8
            # Both have ended, and Node goes on: whatever is still on its way makes the engine tell of this trace again.
            roots: list[dict[str, Any]] = []
            while len(flat(roots)) < len(TREE):
                for trace_id in (await heard.take())["trace_ids"]:
                    found = (await reader.trigger_async("engine::traces::tree", {"trace_id": trace_id}))["roots"]
                    if TREE[0] in {span["name"] for span in flat(found)}:
                        roots = found
            logs = (await reader.trigger_async("engine::logs::list", {"trace_id": roots[0]["trace_id"]}))["logs"]
            await process.stdin.aclose()
            assert await process.wait() == 0

    # What the engine collected.
    collected = flat(roots)
    assert [span["name"] for span in collected] == list(TREE)
    at_engine = dict(zip(TREE, collected, strict=True))
    parents = [None, *(span["span_id"] for span in collected[:-1])]
    assert [span["parent_span_id"] for span in collected] == parents
    assert len({span["trace_id"] for span in collected}) == 1
    assert [span["service_name"] for span in collected[1:6]] == ["shop", "shop", "prices", "tax", "tax"]
    assert {span["status"] for span in collected} == {"ok"}
    assert [["tenant", "blue"] in span["attributes"] for span in collected[1:6]] == [False, True, True, True, True]

    # What left through OTLP: of the same spans those that are ours, the same in all that counts.
    exported = {span.name: (resource, span) for resource, span in otlp.records("/v1/traces")}
    assert len(otlp.records("/v1/traces")) == len(exported) == len(OURS)
    for name, kind in OURS.items():
        resource, span = exported[name]
        ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
        assert ids == tuple(at_engine[name][key] for key in ("trace_id", "span_id", "parent_span_id"))
        assert resource["service.name"] == at_engine[name]["service_name"]
        assert (span.kind, span.status.code) == (kind, 1)
        assert span.start_time_unix_nano == at_engine[name]["start_time_unix_nano"]
    assert attributes(exported["execute shop::order"][1].attributes)["faas.trigger"] == "http"
    events = [event.name for event in exported["execute tax::add"][1].events]
    assert events == ["iii.invocation.input", "iii.invocation.output"]

    # And the log of the sync handler, here and there, and figures of both workers.
    (at_home,) = [log for log in logs if log["body"] == "taxed"]
    ((resource, log),) = otlp.records("/v1/logs")
    assert (log.body.string_value, resource["service.name"]) == ("taxed", at_home["service_name"] or "")
    handler = at_engine["execute tax::add"]
    assert (log.trace_id.hex(), log.span_id.hex()) == (handler["trace_id"], handler["span_id"])
    assert (at_home["trace_id"], at_home["span_id"]) == (handler["trace_id"], handler["span_id"])
    lags = {
        resource["service.name"]
        for resource, metric in otlp.records("/v1/metrics")
        if metric.name == "iii.worker.event_loop.lag_ms"
    }
    assert lags == {"shop", "tax"}
