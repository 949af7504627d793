"""``queue``: queues and topics, and the messages that nobody could handle. Below: ``_connection``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ._connection import Json, Url, connected
from ._console import Output, execute

__all__ = ("queue",)

queue = typer.Typer(no_args_is_help=True, help="Look at queues, and redrive what failed.")

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="A named queue, or else a topic.", show_default=False)]


@queue.command("list")
def list_queues(*, url: Url = None, json: Json = False) -> None:
    """List named queues and topics with subscribers, how much waits in them, and how much failed."""

    async def command(output: Output) -> None:
        async with connected(url, "queue") as iii:
            rows: list[dict[str, Any]] = await iii.trigger_async("engine::queue::list_topics", {})
            for row in rows:
                row |= await iii.trigger_async("engine::queue::topic_stats", {"topic": row["name"]})
        rows.sort(key=lambda row: row["name"])
        output.table(rows, ("name", "depth", "consumer_count", "dlq_depth", "config"), empty="No queues.")

    execute(command, as_json=json)


@queue.command()
def dead(
    name: Name,
    *,
    url: Url = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out this many of the newest.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    json: Json = False,
) -> None:
    """List the messages that used up their attempts, newest first."""

    async def command(output: Output) -> None:
        request = {"topic": name, "offset": offset, "limit": limit}
        async with connected(url, "queue") as iii:
            rows: list[dict[str, Any]] = await iii.trigger_async("engine::queue::dlq_messages", request)
        if not json:
            for row in rows:
                row["failed_at"] = datetime.fromtimestamp(row["failed_at"], UTC)  # seconds
        output.table(rows, ("id", "failed_at", "retries", "payload", "error"), empty=f"No dead messages in {name}.")

    execute(command, as_json=json)


@queue.command()
def redrive(
    name: Name,
    message_id: Annotated[
        str | None, typer.Argument(help="Only this message; by default all.", show_default=False)
    ] = None,
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """Put dead messages back, with all their attempts."""
    _move(name, message_id, "iii::queue::redrive" if message_id is None else "iii::queue::redrive_message", url, json)


@queue.command()
def discard(
    name: Name,
    message_id: Annotated[str, typer.Argument(help="Which message.", show_default=False)],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """Delete a dead message for good."""
    _move(name, message_id, "iii::queue::discard_message", url, json)


def _move(name: str, message_id: str | None, function_id: str, url: str | None, as_json: bool) -> None:
    async def command(output: Output) -> None:
        request = {"queue": name} | ({} if message_id is None else {"message_id": message_id})
        async with connected(url, "queue") as iii:
            result: dict[str, Any] = await iii.trigger_async(function_id, request, namespace="default")
        if as_json:
            output.document(result)
        else:
            done = "discarded" if function_id.endswith("discard_message") else "redriven"
            output.line(f"{result['redriven']} {done}")

    execute(command, as_json=as_json)
