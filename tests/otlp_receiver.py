"""An OTLP receiver for tests: takes what OpenTelemetry's exporters post as protobuf, and keeps it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any, Final

__all__ = ("OtlpReceiver", "attributes", "otlp_receiver")

SIGNALS: Final = {
    # path: request of this module and name, and what is in it
    "/v1/traces": ("trace", "ExportTraceServiceRequest", ("resource_spans", "scope_spans", "spans")),
    "/v1/logs": ("logs", "ExportLogsServiceRequest", ("resource_logs", "scope_logs", "log_records")),
    "/v1/metrics": ("metrics", "ExportMetricsServiceRequest", ("resource_metrics", "scope_metrics", "metrics")),
}


def attributes(entries: Any) -> dict[str, Any]:
    """Key and value as Python has them; of a list or map the protobuf message."""
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value") or "string_value") for entry in entries}


class OtlpReceiver:
    """What has come so far: pairs of the resource's attributes and the record, by path.

    Attributes:
        url: Where it listens, without the path.
    """

    def __init__(self) -> None:
        self.url = ""
        self._lock = threading.Lock()
        self._records: dict[str, list[tuple[dict[str, Any], Any]]] = {path: [] for path in SIGNALS}

    def take(self, path: str, body: bytes) -> None:
        """Read one request; raises when it is none."""
        service, name, (of_resources, of_scopes, records) = SIGNALS[path]
        module: Any = import_module(f"opentelemetry.proto.collector.{service}.v1.{service}_service_pb2")
        request = getattr(module, name).FromString(body)
        found = [
            (attributes(of_resource.resource.attributes), record)
            for of_resource in getattr(request, of_resources)
            for of_scope in getattr(of_resource, of_scopes)
            for record in getattr(of_scope, records)
        ]
        with self._lock:
            self._records[path] += found

    def records(self, path: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes of its resource, and the record, for each."""
        with self._lock:
            return list(self._records[path])


@contextmanager
def otlp_receiver() -> Generator[OtlpReceiver]:
    """Listen, in a thread, until the end."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                receiver.take(self.path, body)
            except Exception as exc:  # noqa: BLE001 - the exporter is told, and logs it
                self.send_error(400, repr(exc))
                return
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
