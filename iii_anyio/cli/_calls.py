"""``trigger``: call a function once. Below: ``_connection``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import typer

from .._requests import normalise_call
from ..errors import DecodeError, InvocationError
from ._connection import Json, Url, connected, json_argument
from ._console import Output, execute, reported
from ._errors import CommandError, ExitCode, usage_errors

__all__ = ("FUNCTION_ID", "FunctionId", "Namespace", "near_ids", "trigger")

_PAIR: Final = re.compile(r"[A-Za-z_][\w.-]*=")
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Where the function lives.")]


def _function_ids(incomplete: str) -> list[str]:
    """What the shell completes; nothing when there is no engine."""
    import anyio

    async def ids() -> list[str]:
        async with connected(None, "completion") as iii:
            return [row.function_id for row in await iii.list_functions_async(prefix=incomplete)]

    async def briefly() -> list[str]:
        with anyio.move_on_after(2):
            return await ids()
        return []

    try:
        return anyio.run(briefly)
    except Exception:  # noqa: BLE001 - a traceback has no place in the middle of a command line
        return []


FUNCTION_ID: Final[Any] = typer.Argument(
    metavar="FUNCTION", help="Id of the function.", autocompletion=_function_ids, show_default=False
)
FunctionId = Annotated[str, FUNCTION_ID]


def trigger(
    function_id: FunctionId,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JSON|@FILE|-]",
            help="The payload; by default {}. Or any number of KEY=VALUE, which make an object.",
            show_default=False,
        ),
    ] = None,
    *,
    url: Url = None,
    namespace: Namespace = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the result.")] = 30.0,
    void: Annotated[bool, typer.Option("--void", help="Do not wait for a result.")] = False,
    queue: Annotated[str | None, typer.Option(help="Put the call into this named queue.", show_default=False)] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="Of the invocation: JSON, @FILE or -.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With a failed function's stack trace.")] = False,
    json: Json = False,
) -> None:
    """Call a function and print its result as JSON.

    A function that returns nothing prints nothing, but null with --json. Exit code 1 when the function fails.
    """

    async def call(output: Output) -> None:
        async with connected(url, "trigger") as iii:
            try:
                result = await iii.trigger_async(request)
            except InvocationError as exc:
                raise await _with_neighbours(iii, exc, function_id) from exc
        if json or result is not None:
            output.document(result)

    with reported(Output(as_json=json)), usage_errors():
        if void and queue is not None:
            raise CommandError(ExitCode.USAGE, "--void and --queue cannot be combined", "--queue does not wait either.")
        action: dict[str, Any] | None = {"type": "void"} if void else None
        if queue is not None:
            action = {"type": "enqueue", "queue": queue}
        request = {
            "function_id": function_id, "payload": read_payload(data or []), "action": action, "namespace": namespace,
            "timeout_ms": max(1, int(timeout * 1000)),
            "metadata": None if metadata is None else json_argument(metadata),
        }  # fmt: skip
        normalise_call(request)
    execute(call, as_json=json, verbose=verbose)


def read_payload(words: list[str]) -> Any:
    """One JSON value, or an object of ``key=value``; a value that is no JSON is a string (CL-3).

    Raises:
        CommandError: Neither.
    """
    if not words:
        return {}
    if len(words) == 1 and not _PAIR.match(words[0]):
        return json_argument(words[0])
    payload: dict[str, Any] = {}
    for word in words:
        if not _PAIR.match(word):
            advice = """Give one JSON value, as in '{"name": "Ada"}', or only pairs, as in name=Ada n=3."""
            raise CommandError(ExitCode.USAGE, f"{word!r} is not KEY=VALUE", advice)
        key, _, value = word.partition("=")
        payload[key] = _value(value)
    return payload


def _value(text: str) -> Any:
    from .._protocol.codec import from_json

    try:
        return from_json(text.encode("utf-8", "surrogateescape"))
    except DecodeError:
        return text


async def _with_neighbours(iii: Any, exc: InvocationError, function_id: str) -> Exception:
    """The error, with ids that look alike when it is that there is no such function."""
    from ._errors import explained

    error = explained(exc)
    if error is None or exc.code != "function_not_found":
        return exc
    near = await near_ids(iii, function_id)
    if near:
        error.advice = f"Did you mean {' or '.join(near)}? {error.advice}"
    return error


async def near_ids(iii: Any, function_id: str) -> list[str]:
    """At most three ids that could have been meant."""
    from difflib import get_close_matches

    try:
        rows = await iii.list_functions_async(include_internal=True)
    except InvocationError:  # not allowed to look: then there is nothing to say
        return []
    return get_close_matches(function_id, [row.function_id for row in rows], n=3, cutoff=0.75)
