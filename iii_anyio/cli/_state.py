"""``state``: read, write and watch the values that workers share. Below: ``iii_anyio.state``, ``_watching``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..state import State
from ..triggers import StateTrigger
from ._connection import Json, Url, connected, json_argument
from ._console import Output, execute, reported
from ._watching import show_events

__all__ = ("state",)

state = typer.Typer(no_args_is_help=True, help="Read, write and watch state.")

Scope = Annotated[str, typer.Argument(help="Groups keys.", show_default=False)]
Key = Annotated[str, typer.Argument(help="Of the value.", show_default=False)]
Value = Annotated[str, typer.Argument(metavar="JSON|@FILE|-", help="The new value.", show_default=False)]


@state.command("get")
def get_value(scope: Scope, key: Key, *, url: Url = None, json: Json = False) -> None:
    """Print a value; null when there is none."""

    async def command(output: Output) -> None:
        async with connected(url, "state") as iii:
            value = await State(iii).get_async(scope, key)
        output.document(value)

    execute(command, as_json=json)


@state.command("set")
def set_value(scope: Scope, key: Key, value: Value, *, url: Url = None, json: Json = False) -> None:
    """Store a value; prints the old one and the new one."""
    with reported(Output(as_json=json)):
        wanted = json_argument(value)

    async def command(output: Output) -> None:
        async with connected(url, "state") as iii:
            result = await State(iii).set_async(scope, key, wanted)
        output.document(result.model_dump())

    execute(command, as_json=json)


@state.command("delete")
def delete_value(scope: Scope, key: Key, *, url: Url = None, json: Json = False) -> None:
    """Delete a value; prints what it was. One that is not there is no error."""

    async def command(output: Output) -> None:
        async with connected(url, "state") as iii:
            value = await State(iii).delete_async(scope, key)
        output.document(value)

    execute(command, as_json=json)


@state.command("list")
def list_values(
    scope: Annotated[str | None, typer.Argument(help="Without it, the scopes are listed.", show_default=False)] = None,
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """List the values of a scope, which the engine gives without their keys, or the scopes."""

    async def command(output: Output) -> None:
        async with connected(url, "state") as iii:
            if scope is not None:
                output.document(await State(iii).list_async(scope))
                return
            scopes = await State(iii).list_groups_async()
        if json:
            output.document(scopes)
        else:
            output.table([{"scope": name} for name in scopes], ("scope",), empty="No scopes.")

    execute(command, as_json=json)


@state.command()
def watch(
    scope: Annotated[str | None, typer.Argument(help="Only this scope.", show_default=False)] = None,
    key: Annotated[str | None, typer.Argument(help="Only this key.", show_default=False)] = None,
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """Print changes as they happen, until Ctrl-C. With --json one event a line."""

    async def command(output: Output) -> None:
        await show_events(output, url, "state-watch", StateTrigger(scope=scope, key=key), _show)

    execute(command, as_json=json)


def _show(output: Output, change: dict[str, Any]) -> None:
    if output.as_json:
        output.document(change)
        return
    what = str(change.get("event_type")).removeprefix("state:")
    place = f"{change.get('scope')} {change.get('key')}"
    output.pair(f"{what:8} {place}", change.get("old_value") if what == "deleted" else change.get("new_value"))
