"""``stream``: read, write and watch the items of streams. Below: ``iii_anyio.stream``, ``_watching``.

Watching goes through a ``stream`` trigger and not through the engine's port for subscribers, so it needs no other
address and no other access than every command.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..stream import Stream
from ..triggers import StreamTrigger
from ._connection import Json, Url, connected, json_argument
from ._console import Output, execute, reported
from ._errors import usage_errors
from ._watching import show_events

__all__ = ("stream",)

stream = typer.Typer(no_args_is_help=True, help="Read, write and watch streams.")

Name = Annotated[str, typer.Argument(metavar="STREAM", help="Its name.", show_default=False)]
Group = Annotated[str, typer.Argument(help="Of the items.", show_default=False)]
Item = Annotated[str, typer.Argument(help="Its id.", show_default=False)]
Data = Annotated[str, typer.Argument(metavar="JSON|@FILE|-", help="The data.", show_default=False)]


@stream.command("get")
def get_item(name: Name, group: Group, item: Item, *, url: Url = None, json: Json = False) -> None:
    """Print an item; null when there is none."""

    async def command(output: Output) -> None:
        async with connected(url, "stream") as iii:
            value = await Stream(iii, name).get_async(group, item)
        output.document(value)

    execute(command, as_json=json)


@stream.command("set")
def set_item(name: Name, group: Group, item: Item, data: Data, *, url: Url = None, json: Json = False) -> None:
    """Store an item; prints the old one and the new one."""
    with reported(Output(as_json=json)):
        wanted = json_argument(data)

    async def command(output: Output) -> None:
        async with connected(url, "stream") as iii:
            result = await Stream(iii, name).set_async(group, item, wanted)
        output.document(result.model_dump())

    execute(command, as_json=json)


@stream.command("delete")
def delete_item(name: Name, group: Group, item: Item, *, url: Url = None, json: Json = False) -> None:
    """Delete an item; prints what it was."""

    async def command(output: Output) -> None:
        async with connected(url, "stream") as iii:
            value = await Stream(iii, name).delete_async(group, item)
        output.document(value)

    execute(command, as_json=json)


@stream.command("list")
def list_items(
    name: Name,
    group: Annotated[str | None, typer.Argument(help="Without it, the groups are listed.", show_default=False)] = None,
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """List the items of a group, which the engine gives without their ids, or the groups."""

    async def command(output: Output) -> None:
        async with connected(url, "stream") as iii:
            if group is not None:
                output.document(await Stream(iii, name).list_async(group))
                return
            groups = sorted(await Stream(iii, name).list_groups_async())
        if json:
            output.document(groups)
        else:
            output.table([{"group": found} for found in groups], ("group",), empty="No groups.")

    execute(command, as_json=json)


@stream.command("send")
def send_message(
    name: Name,
    group: Group,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="Of the message.", show_default=False)],
    data: Data,
    *,
    url: Url = None,
    item: Annotated[str | None, typer.Option(help="Only to those who watch this item.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Send a message to who watches a group; nothing is stored."""
    with reported(Output(as_json=json)):
        wanted = json_argument(data)

    async def command(output: Output) -> None:
        async with connected(url, "stream") as iii:
            await Stream(iii, name).send_async(group, kind, wanted, item_id=item)
        output.note("Sent.")

    execute(command, as_json=json)


@stream.command()
def watch(
    name: Name,
    group: Annotated[str | None, typer.Argument(help="Only this group.", show_default=False)] = None,
    item: Annotated[str | None, typer.Argument(help="Only this item.", show_default=False)] = None,
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """Print changes and messages as they happen, until Ctrl-C. With --json one event a line."""
    with reported(Output(as_json=json)), usage_errors():
        wanted = StreamTrigger(stream_name=name, group_id=group, item_id=item)

    async def command(output: Output) -> None:
        await show_events(output, url, "stream-watch", wanted, _show)

    execute(command, as_json=json)


def _show(output: Output, change: dict[str, Any]) -> None:
    if output.as_json:
        output.document(change)
        return
    event: dict[str, Any] = change.get("event") or {}
    message: Any = event.get("event")
    place = " ".join(str(part) for part in (change.get("groupId"), change.get("id")) if part is not None)
    kind = event.get("type")
    if message:
        place += f" {message.get('type')}"
    output.pair(f"{kind!s:8} {place}", message.get("data") if message else event.get("data"))
