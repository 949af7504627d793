"""``logs``: what workers and the engine wrote. Below: ``_connection``, ``_watching``."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import typer

from ..triggers import LogTrigger
from ._connection import Json, Url, connected, following
from ._console import Output, execute
from ._watching import events

__all__ = ("logs",)

Level: TypeAlias = Literal["trace", "debug", "info", "warn", "error", "fatal"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
SEVERITIES: Final = dict(zip(LEVELS, (1, 5, 9, 13, 17, 21), strict=True))
"""The least OpenTelemetry severity number of each."""
STYLES: Final = {"WARN": "yellow", "ERROR": "red", "FATAL": "bold red", "DEBUG": "dim", "TRACE": "dim"}

Record: TypeAlias = dict[str, Any]


def logs(
    *,
    url: Url = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones, until Ctrl-C.")] = False,
    level: Annotated[Level, typer.Option(help="At least this severe.")] = "info",
    limit: Annotated[int, typer.Option("--limit", "-l", min=0, help="The newest of those that are kept.")] = 50,
    service: Annotated[str | None, typer.Option(help="Only of this service.", show_default=False)] = None,
    trace: Annotated[str | None, typer.Option(help="Only of this trace id.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Print log records, the oldest first. With --json one record a line."""

    def is_wanted(record: Record) -> bool:
        return (
            record.get("severity_number", 0) >= SEVERITIES[level]
            and (service is None or record.get("service_name") == service)
            and (trace is None or record.get("trace_id") == trace)
        )

    async def command(output: Output) -> None:
        request = {"severity_min": SEVERITIES[level]} | ({} if trace is None else {"trace_id": trace})
        if service is None:  # the engine does not filter by service, so it must not count either
            request["limit"] = limit
        async with AsyncExitStack() as stack:
            # OB-19: wherever the trigger is registered, its function is looked for in this namespace.
            opened = following(url, "logs", namespace="default") if follow else connected(url, "logs")
            iii = await stack.enter_async_context(opened)
            fresh = None
            if follow:
                # Before the list is read, so that none is missed between; those in both are dropped below.
                # One trigger a level (OB-16): records below the level do not even travel.
                wanted = [LogTrigger(level=name) for name in LEVELS[LEVELS.index(level) :]]
                fresh = await stack.enter_async_context(events(iii, wanted))
            answer: dict[str, Any] = await iii.trigger_async("engine::logs::list", request)
            kept = [record for record in answer["logs"] if is_wanted(record)][:limit]
            for record in reversed(kept):
                _show(output, record)
            if fresh is None:
                if not kept:
                    output.note("No logs.")
                return
            output.note("Following; Ctrl-C ends it.")
            known = {_identity(record) for record in answer["logs"]}
            async for record in fresh:
                if is_wanted(record) and _identity(record) not in known:
                    _show(output, record)

    execute(command, as_json=json)


def _identity(record: Record) -> Hashable:
    names = ("timestamp_unix_nano", "observed_timestamp_unix_nano", "severity_number", "service_name", "span_id")
    return (*(record.get(name) for name in names), str(record.get("body")))


def _show(output: Output, record: Record) -> None:
    if output.as_json:
        output.document(record)
        return
    text = str(record.get("severity_text") or "")
    when = datetime.fromtimestamp(record.get("timestamp_unix_nano", 0) / 1e9, UTC).astimezone()
    line = f"{when:%H:%M:%S.%f}"[:-3] + f" {text:5} {record.get('service_name')}: {record.get('body')}"
    output.pair(line, record.get("attributes") or None, STYLES.get(text, ""))
