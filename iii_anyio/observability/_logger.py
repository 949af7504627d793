"""Logging for handlers, in upstream's shape: to the engine where telemetry is on, else to Python's logging."""

from __future__ import annotations

import logging
from typing import Any, Final

from ._state import current_pipeline

__all__ = ("Logger",)

_logger: Final = logging.getLogger("iii.logger")


class Logger:
    """Writes a log record of telemetry, with the ids of the running span; without telemetry to ``iii.logger``.

    In Python's logging, ``data`` is in each record's attribute of that name.

    Args:
        trace_id: 32 hex digits that go with every record, as attribute ``trace_id``.
        service_name: Put before each message, in brackets. In a handler: the function's id.
        span_id: 16 hex digits that go with every record, as attribute ``span_id``.

    Upstream: iii_helpers.observability.Logger.
    """

    def __init__(
        self, trace_id: str | None = None, service_name: str | None = None, span_id: str | None = None
    ) -> None:
        self.trace_id = trace_id
        self.service_name = service_name
        self.span_id = span_id

    def __repr__(self) -> str:
        return f"Logger(service_name={self.service_name!r})"

    def debug(self, message: str, data: Any = None) -> None:
        """Log at DEBUG."""
        self._log(logging.DEBUG, message, data)

    def info(self, message: str, data: Any = None) -> None:
        """Log at INFO."""
        self._log(logging.INFO, message, data)

    def warn(self, message: str, data: Any = None) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, message, data)

    def error(self, message: str, data: Any = None) -> None:
        """Log at ERROR."""
        self._log(logging.ERROR, message, data)

    def _log(self, level: int, message: str, data: Any) -> None:
        pipeline = current_pipeline()
        if pipeline is not None:
            attributes: dict[str, Any] = {"service.name": self.service_name or ""}
            if data is not None:
                attributes["log.data"] = data
            if pipeline.emit(
                "iii.logger", level, str(message), attributes, trace_id=self.trace_id, span_id=self.span_id
            ):
                return
        extra = {"data": data, "trace_id": self.trace_id, "span_id": self.span_id, "service_name": self.service_name}
        _logger.log(level, "[%s] %s", self.service_name or "", message, extra=extra, stacklevel=3)
