"""The functions of ``iii-observability``: logs, traces, metrics, health, and the diagnostic ones (§5.2, P-131).

They are in the router's table, for they exist whatever the configuration says (OB-20), answer at once, and take part
in no trace. Below: ``_telemetry``, ``_trace_queries``. Above: ``_router``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvocationError
from ._builtin import OBSERVABILITY, Builtin, Input
from ._telemetry import trace_of
from ._trace_queries import MS, group_spans, list_spans, span_tree

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._otlp import Record
    from ._router import Router
    from ._telemetry import Telemetry

__all__ = ("observability_builtins",)

SEVERITIES: Final = {
    "trace": (1, "TRACE"),
    "debug": (5, "DEBUG"),
    "info": (9, "INFO"),
    "warn": (13, "WARN"),
    "error": (17, "ERROR"),
}
"""By level: OpenTelemetry's number and text (OB-8)."""
MAX_NS: Final = 2**64 - 1
LOG_FILTERS: Final = (
    "trace_id", "span_id", "severity_min", "severity_text", "start_time", "end_time", "offset", "limit",
)  # fmt: skip


def observability_builtins(router: Router) -> list[Builtin]:
    """The functions, ready for the router's table."""
    telemetry = router.telemetry

    def builtin(
        function_id: str, function: Callable[[Telemetry, dict[str, Any]], object], description: str, fields: Input
    ) -> Builtin:
        return Builtin(
            f"engine::{function_id}",
            lambda _session, data: function(telemetry, data),
            fields,
            description,
            OBSERVABILITY,
        )

    def health(_telemetry: Telemetry, _data: dict[str, Any]) -> object:
        return _health(router)

    return [
        *(_log_function(router, level) for level in SEVERITIES),
        builtin("baggage::get", _baggage_get, "Read a baggage entry (diagnostic)", Input(key="string!")),
        builtin(
            "baggage::set",
            _baggage_set,
            "Set a baggage entry (diagnostic, changes nothing)",
            Input(key="string!", value="string!"),
        ),
        builtin("baggage::get_all", _baggage_get_all, "Read all baggage (diagnostic)", Input()),
        builtin(
            "traces::list",
            _traces_list,
            "List spans, by default the roots of traces",
            Input(
                trace_id="string",
                trace_ids="strings",
                service_name="string",
                name="string",
                status="string",
                min_duration_ms="number",
                max_duration_ms="number",
                start_time="unsigned",
                end_time="unsigned",
                attributes="pairs",
                exclude_attributes="pairs",
                include_internal="boolean",
                search_all_spans="boolean",
                sort_by="string",
                sort_order="string",
                offset="unsigned",
                limit="unsigned",
            ),
        ),
        builtin("traces::tree", _traces_tree, "Show the spans of a trace as a tree", Input(trace_id="string!")),
        builtin(
            "traces::group_by",
            _traces_group_by,
            "Group spans by the values of an attribute",
            Input(
                attribute="string!",
                since_ms="unsigned",
                limit="unsigned",
                include_internal="boolean",
                label_attribute="string",
            ),
        ),
        builtin("traces::clear", _traces_clear, "Forget all spans", Input()),
        builtin(
            "logs::list",
            _logs_list,
            "List logs, the newest first",
            Input(
                trace_id="string",
                span_id="string",
                severity_min="unsigned",
                severity_text="string",
                start_time="unsigned",
                end_time="unsigned",
                offset="unsigned",
                limit="unsigned",
            ),
        ),
        builtin("logs::clear", _logs_clear, "Forget all logs", Input()),
        builtin(
            "metrics::list",
            _metrics_list,
            "Show the engine's metrics, and list those of workers",
            Input(start_time="unsigned", end_time="unsigned", metric_name="string", aggregate_interval="unsigned"),
        ),
        builtin(
            "rollups::list",
            _rollups_list,
            "List rollups of metrics (this engine makes none)",
            Input(start_time="unsigned", end_time="unsigned", level="unsigned", metric_name="string"),
        ),
        builtin("sampling::rules", _sampling_rules, "Show the configured sampling", Input()),
        builtin("health::check", health, "Show whether observability works", Input()),
        builtin("alerts::list", _alerts_list, "List alerts (this engine has none)", Input()),
        builtin("alerts::evaluate", _alerts_evaluate, "Evaluate alerts (this engine has none)", Input()),
    ]


# -- logs --------------------------------------------------------------------------------------------------------


def _log_function(router: Router, level: str) -> Builtin:
    def log(session: EngineSession, data: dict[str, Any]) -> None:
        running = router.invocations.running
        router.telemetry.log(
            SEVERITIES[level],
            data["message"],
            data.get("data"),
            trace_id=data.get("trace_id"),
            span_id=data.get("span_id"),
            service_name=data.get("service_name"),
            sender=session.identity.name or "unknown",
            worker_id=session.worker_id,
            call_trace_id=trace_of(running.traceparent) if running is not None else None,
        )

    return Builtin(
        f"engine::log::{level}",
        log,
        Input(message="string!", data="any", trace_id="string", span_id="string", service_name="string"),
        f"Log a message at level {level}",
        OBSERVABILITY,
    )


def _logs_list(telemetry: Telemetry, data: dict[str, Any]) -> object:
    """OB-12; the engine's own lines are not among them."""
    now_ms = telemetry.now_ns() // MS
    if not telemetry.keeps_logs:
        return {"logs": [], "total": 0, "timestamp": now_ms}
    query = {name: data.get(name) for name in LOG_FILTERS}
    rows = [log for log in telemetry.logs if _is_log_wanted(log, query)]
    rows.sort(key=lambda log: log["timestamp_unix_nano"])
    rows.reverse()
    offset = query["offset"] or 0
    end = None if query["limit"] is None else offset + query["limit"]
    return {"logs": rows[offset:end], "total": len(rows), "query": query, "timestamp": now_ms}


def _is_log_wanted(log: Record, query: dict[str, Any]) -> bool:
    text, start, end = query["severity_text"], query["start_time"], query["end_time"]
    return (
        query["trace_id"] in (None, log["trace_id"])
        and query["span_id"] in (None, log["span_id"])
        and log["severity_number"] >= (query["severity_min"] or 0)
        and (text is None or log["severity_text"].lower() == text.lower())
        and (start is None or log["timestamp_unix_nano"] >= start * MS)
        and (end is None or log["timestamp_unix_nano"] <= end * MS)
    )


def _logs_clear(telemetry: Telemetry, _data: dict[str, Any]) -> object:
    if not telemetry.keeps_logs:
        return {"success": True, "message": "logs are not kept: there is nothing to clear"}
    telemetry.logs.clear()
    return {"success": True}


# -- traces ------------------------------------------------------------------------------------------------------


def _traces_list(telemetry: Telemetry, data: dict[str, Any]) -> object:
    _check_spans_kept(telemetry)
    return {**list_spans(telemetry.spans, data), "storage": _storage(telemetry)}


def _traces_tree(telemetry: Telemetry, data: dict[str, Any]) -> object:
    _check_spans_kept(telemetry)
    return {"roots": span_tree(telemetry.spans, data["trace_id"]), "storage": _storage(telemetry)}


def _traces_group_by(telemetry: Telemetry, data: dict[str, Any]) -> object:
    _check_spans_kept(telemetry)
    return {"groups": group_spans(telemetry.spans, data), "storage": _storage(telemetry)}


def _traces_clear(telemetry: Telemetry, _data: dict[str, Any]) -> object:
    _check_spans_kept(telemetry)
    telemetry.spans.clear()
    return {"success": True}


def _check_spans_kept(telemetry: Telemetry) -> None:
    """OB-10."""
    if not telemetry.options.enabled:
        raise InvocationError(
            "memory_exporter_not_enabled", "spans are not kept: iii-observability is configured with enabled: false"
        )


def _storage(telemetry: Telemetry) -> dict[str, Any]:
    dropped = telemetry.spans.dropped
    return {
        "archive": "disabled",
        "completeness": "partial" if dropped else "complete",
        "known_dropped_spans": dropped,
        "physical_bytes": 0,
        "max_disk_bytes": 0,
        "last_error": None,
    }


# -- metrics -----------------------------------------------------------------------------------------------------


def _metrics_list(telemetry: Telemetry, data: dict[str, Any]) -> object:
    """OB-14. Nothing is aggregated, so ``aggregated_metrics`` would always be empty and is left out."""
    start, end = _nanoseconds(data, "start_time"), _nanoseconds(data, "end_time")
    name = data.get("metric_name")
    calls = telemetry.calls
    durations = sorted(calls.durations_ms)
    answer: dict[str, Any] = {
        "engine_metrics": {
            "invocations": {
                "total": calls.success + calls.error + calls.deferred,
                "success": calls.success,
                "error": calls.error,
                "deferred": calls.deferred,
                "by_function": dict(calls.by_function),
            },
            "workers": {"spawns": calls.spawns, "deaths": calls.deaths, "active": calls.spawns - calls.deaths},
            "performance": {
                "avg_duration_ms": sum(durations) / len(durations) if durations else 0.0,
                **{f"p{share}_duration_ms": _percentile(durations, share) for share in (50, 95, 99)},
                "min_duration_ms": durations[0] if durations else 0.0,
                "max_duration_ms": durations[-1] if durations else 0.0,
            },
        },
        "sdk_metrics": [
            metric
            for metric in telemetry.metrics
            if name in (None, metric["name"])
            and (start is None or end is None or start <= metric["timestamp_unix_nano"] <= end)  # needs both
        ],
        "timestamp": telemetry.now_ns() // MS,
    }
    asked = ("start_time", "end_time", "aggregate_interval")
    if any(key in data for key in asked):
        answer["query"] = {key: data.get(key) for key in (*asked, "metric_name")}
    return answer


def _percentile(ordered: list[float], share: int) -> float:
    return ordered[min(len(ordered) * share // 100, len(ordered) - 1)] if ordered else 0.0


def _rollups_list(telemetry: Telemetry, data: dict[str, Any]) -> object:
    for key in ("start_time", "end_time"):
        _nanoseconds(data, key)
    level = data.get("level", 0)
    query = {key: data.get(key) for key in ("start_time", "end_time", "metric_name")} | {"level": level}
    now_ms = telemetry.now_ns() // MS
    return {"rollups": [], "histogram_rollups": [], "level": level, "query": query, "timestamp": now_ms}


def _nanoseconds(data: dict[str, Any], key: str) -> int | None:
    """A time of the input, given in milliseconds (OB-13)."""
    value: int | None = data.get(key)
    if value is None:
        return None
    if value * MS > MAX_NS:
        raise InvocationError("time_value_overflow", f"{key} {value} is no time in milliseconds: it is too large")
    return value * MS


# -- the rest ----------------------------------------------------------------------------------------------------


def _sampling_rules(telemetry: Telemetry, _data: dict[str, Any]) -> object:
    options = telemetry.options
    rules = [
        {"operation": rule.get("operation"), "service": rule.get("service"), "rate": rule.get("rate", 1.0)}
        for rule in options.sampling.get("rules") or ()
    ]
    return {
        "traces": {
            "default_ratio": options.sampling.get("default", options.sampling_ratio),
            "rules": rules,
            "parent_based": options.sampling.get("parent_based", True),
        },
        "logs": {"sampling_ratio": options.logs_sampling_ratio},
        "timestamp": telemetry.now_ns() // MS,
    }


def _health(router: Router) -> object:
    telemetry, options = router.telemetry, router.telemetry.options

    def component(is_on: bool, **details: Any) -> dict[str, Any]:
        return {"status": "healthy" if is_on else "disabled", "details": details if is_on else None}

    return {
        "status": "healthy",
        "components": {
            "otel": component(options.enabled, service_name=options.service_name, exporter="memory"),
            "metrics": component(options.enabled, stored_metrics=len(telemetry.metrics)),
            "logs": component(telemetry.keeps_logs, stored_logs=len(telemetry.logs)),
            "spans": component(options.enabled, stored_spans=len(telemetry.spans)),
        },
        "timestamp": telemetry.now_ns() // MS,
        "version": router.version,
    }


def _alerts_list(telemetry: Telemetry, _data: dict[str, Any]) -> object:
    return {"alerts": [], "rules": [], "firing_count": 0, "timestamp": telemetry.now_ns() // MS}


def _alerts_evaluate(telemetry: Telemetry, _data: dict[str, Any]) -> object:
    return {"evaluated": True, "triggered_alerts": [], "timestamp": telemetry.now_ns() // MS}


def _baggage_get(_telemetry: Telemetry, _data: dict[str, Any]) -> object:
    return {"value": None}


def _baggage_set(_telemetry: Telemetry, _data: dict[str, Any]) -> object:
    return {"success": True, "note": "baggage lives in the caller's own context; the engine keeps none (OB-9)"}


def _baggage_get_all(_telemetry: Telemetry, _data: dict[str, Any]) -> object:
    return {"baggage": {}}
