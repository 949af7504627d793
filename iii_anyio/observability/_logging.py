"""Python's logging, and structlog, with what the running code serves: trace, span, function and invocation id."""

from __future__ import annotations

import logging
import traceback
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from .._runtime.context import running_invocation
from ._spans import current_span_id, current_trace_id
from ._state import current_pipeline

__all__ = ("LogContextFilter", "LogHandler", "add_log_context", "log_context")

_is_emitting: Final[ContextVar[bool]] = ContextVar("iii_anyio_log_handler", default=False)
_IDS: Final = ("trace_id", "span_id", "function_id", "invocation_id")
_OWN: Final = ("iii_anyio.telemetry", "iii_anyio.devengine.log", "opentelemetry")
"""Who logs about telemetry, or prints what has come of it in the same process, is not to make more of it."""


def log_context() -> dict[str, str]:
    """Return those of ``trace_id``, ``span_id``, ``function_id`` and ``invocation_id`` that there are here and now."""
    invocation = running_invocation()
    found = {
        "trace_id": current_trace_id(),
        "span_id": current_span_id(),
        "function_id": None if invocation is None else invocation.function_id,
        "invocation_id": None if invocation is None else invocation.invocation_id,
    }
    return {name: value for name, value in found.items() if value}


def add_log_context(_logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor for structlog: adds ``log_context()`` to an event, beside what it has already."""
    for name, value in log_context().items():
        event_dict.setdefault(name, value)
    return event_dict


class LogContextFilter(logging.Filter):
    """Gives records ``trace_id``, ``span_id``, ``function_id`` and ``invocation_id``, so that formats can name them.

    ``""`` for what there is not. On a handler it sees every record; on a logger only that logger's own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        found = log_context()
        for name in _IDS:
            if getattr(record, name, None) is None:
                setattr(record, name, found.get(name, ""))
        return True


class LogHandler(logging.Handler):
    """Sends records of Python's logging along with a worker's telemetry, as its ``Logger`` does.

    ``logging.getLogger().addHandler(LogHandler())``. A record goes to the worker whose handler logs it; with what is
    logged elsewhere it is as with ``Logger``. Without telemetry it goes nowhere.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        if record.name.startswith(_OWN) or _is_emitting.get():
            return
        pipeline = current_pipeline()
        if pipeline is None:
            return
        token = _is_emitting.set(True)
        try:
            given = vars(record)
            attributes: dict[str, Any] = {
                "code.file.path": record.pathname,
                "code.function.name": record.funcName,
                "code.line.number": record.lineno,
                "thread.name": record.threadName or "",
            }
            context = log_context()
            for name, key in (("function_id", "iii.function.id"), ("invocation_id", "faas.invocation_id")):
                if name in context:
                    attributes[key] = context[name]
            if given.get("data") is not None:
                attributes["log.data"] = given["data"]
            if record.exc_info and record.exc_info[0] is not None:
                attributes["exception.type"] = record.exc_info[0].__name__
                attributes["exception.message"] = str(record.exc_info[1])
                attributes["exception.stacktrace"] = "".join(traceback.format_exception(*record.exc_info))
            pipeline.emit(
                record.name,
                record.levelno,
                record.getMessage() if self.formatter is None else self.format(record),
                attributes,
                trace_id=given.get("trace_id") or context.get("trace_id"),
                span_id=given.get("span_id") or context.get("span_id"),
                timestamp=int(record.created * 1e9),
            )
        except Exception:  # noqa: BLE001 - as every handler of logging's
            self.handleError(record)
        finally:
            _is_emitting.reset(token)
