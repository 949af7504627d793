"""What a worker tells of itself, kept for a test: telemetry frames of one worker, decoded."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio import fail_after

from iii_anyio import InitOptions, OtelConfig, Worker, open_worker
from iii_anyio.devengine import open_engine

__all__ = ("Recorder", "decode", "plain", "traced_workers")


def plain(value: dict[str, Any]) -> Any:
    """An OTLP value as a Python one."""
    match value:
        case {"kvlistValue": {"values": entries}}:
            return {entry["key"]: plain(entry["value"]) for entry in entries}
        case {"arrayValue": {"values": items}}:
            return [plain(item) for item in items]
        case _:
            return next(iter(value.values()), None)


def decode(frames: list[bytes], signal: bytes) -> list[dict[str, Any]]:
    """The records of one signal, with attributes as dicts, and their resource and scope."""
    lists = {
        b"OTLP": ("resourceSpans", "scopeSpans", "spans"),
        b"LOGS": ("resourceLogs", "scopeLogs", "logRecords"),
        b"MTRC": ("resourceMetrics", "scopeMetrics", "metrics"),
    }[signal]
    found: list[dict[str, Any]] = []
    for frame in frames:
        if frame[:4] != signal:
            continue
        for of_resource in json.loads(frame[4:])[lists[0]]:
            resource = plain({"kvlistValue": {"values": of_resource["resource"]["attributes"]}})
            for of_scope in of_resource[lists[1]]:
                for record in of_scope[lists[2]]:
                    for holder in (record, *record.get("events", ())):
                        entries = holder.get("attributes", [])
                        holder["attributes"] = plain({"kvlistValue": {"values": entries}})
                    found.append(record | {"resource": resource, "scope": of_scope["scope"]})
    return found


class Recorder:
    """Another connector, with its telemetry kept here and no longer given to the engine."""

    def __init__(self, connector: Any) -> None:
        self._connector = connector
        self.frames: list[bytes] = []

    def __call__(self) -> AbstractAsyncContextManager[Any]:
        return self._connector()

    def channel(self, channel_id: str, access_key: str, direction: str) -> AbstractAsyncContextManager[Any]:
        return self._connector.channel(channel_id, access_key, direction)

    def take_telemetry(self, frame: bytes) -> None:
        self.frames.append(frame)

    @property
    def spans(self) -> list[dict[str, Any]]:
        return decode(self.frames, b"OTLP")

    @property
    def logs(self) -> list[dict[str, Any]]:
        return decode(self.frames, b"LOGS")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return decode(self.frames, b"MTRC")

    def span(self, name: str) -> dict[str, Any]:
        """The only one of this name."""
        (found,) = [span for span in self.spans if span["name"] == name]
        return found


@asynccontextmanager
async def traced_workers(
    config: OtelConfig | None = None, **options: Any
) -> AsyncGenerator[tuple[Worker, Recorder, Worker, Recorder]]:
    """A caller and a callee, each with telemetry of its own; recorders are complete when their workers have ended."""
    with fail_after(20):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            near, far = Recorder(engine.connector()), Recorder(engine.connector())
            otel = config or OtelConfig(metrics_enabled=False)
            async with (
                open_worker(connector=near, options=InitOptions(worker_name="caller", otel=otel)) as caller,
                open_worker(connector=far, options=InitOptions(worker_name="callee", otel=otel, **options)) as callee,
            ):
                yield caller, near, callee, far
