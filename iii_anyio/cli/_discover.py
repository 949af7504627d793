"""``list`` and ``describe``: what the engine knows. Below: ``_connection``, ``_samples``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._protocol.codec import to_json
from ..engine import EngineFunctions
from ..errors import InvocationError
from ._calls import FunctionId, Namespace, near_ids
from ._connection import Json, Url, connected
from ._console import Output, execute, moment
from ._errors import CommandError, ExitCode
from ._samples import sample

if TYPE_CHECKING:
    from ..worker import Worker

__all__ = ("describe", "lists")

lists = typer.Typer(no_args_is_help=True, help="List functions, workers, triggers or trigger types.")

Search = Annotated[str | None, typer.Option(help="Only what has this text in id or description.", show_default=False)]
All = Annotated[bool, typer.Option("--all", "-a", help="With what the engine and workers hide as internal.")]


@lists.command()
def functions(
    *,
    url: Url = None,
    search: Search = None,
    prefix: Annotated[str | None, typer.Option(help="Only ids that begin so.", show_default=False)] = None,
    worker: Annotated[str | None, typer.Option(help="Only those of this worker.", show_default=False)] = None,
    everything: All = False,
    json: Json = False,
) -> None:
    """List the functions that may be called."""

    async def command(output: Output) -> None:
        async with connected(url, "list") as iii:
            found = await iii.list_functions_async(
                search=search, prefix=prefix, worker=worker, include_internal=everything
            )
        output.table(_rows(found), ("function_id", "namespace", "worker_name", "description"), empty="No functions.")

    execute(command, as_json=json)


@lists.command()
def workers(
    *,
    url: Url = None,
    search: Annotated[str | None, typer.Option(help="Only names with this text.", show_default=False)] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Only of this runtime: python, node, rust, engine, ...", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List connected workers and the engine's own parts; not this command itself."""

    async def command(output: Output) -> None:
        async with connected(url, "list") as iii:
            found = await iii.list_workers_async(search=search, runtime=runtime)
            rows = [row for row in _rows(found) if row.get("id") != iii.worker_id]
        for row in rows:
            if not json:
                row["since"] = moment(row.get("connected_at_ms"))
        columns = ("name", "namespace", "status", "runtime", "version", "function_count", "active_invocations", "since")
        output.table(rows, columns, empty="No workers.")

    execute(command, as_json=json)


@lists.command()
def triggers(*, url: Url = None, everything: All = False, json: Json = False) -> None:
    """List registered triggers. One whose type nobody provides waits, and is in no list."""

    async def command(output: Output) -> None:
        async with connected(url, "list") as iii:
            found = await iii.list_triggers_async(everything)
        output.table(_rows(found), ("trigger_type", "function_id", "config", "worker_name"), empty="No triggers.")

    execute(command, as_json=json)


@lists.command("trigger-types")
def trigger_types(*, url: Url = None, everything: All = False, json: Json = False) -> None:
    """List the types that triggers can have."""

    async def command(output: Output) -> None:
        async with connected(url, "list") as iii:
            found = await iii.list_trigger_types_async(everything)
        output.table(_rows(found), ("id", "namespace", "worker_name", "description"), empty="No trigger types.")

    execute(command, as_json=json)


def _rows(found: list[Any]) -> list[dict[str, Any]]:
    return [row.model_dump(exclude_unset=True) for row in found]


# -- describe --------------------------------------------------------------------------------------------------------


def describe(function_id: FunctionId, *, url: Url = None, namespace: Namespace = None, json: Json = False) -> None:
    """Show a function: who serves it, what it takes and returns, what triggers it, and an example call."""

    async def command(output: Output) -> None:
        async with connected(url, "describe") as iii:
            request = {"function_id": function_id} | ({"namespace": namespace} if namespace else {})
            try:
                info: dict[str, Any] = await iii.trigger_async(EngineFunctions.INFO_FUNCTIONS, request)
            except InvocationError as exc:
                if exc.code != "NOT_FOUND":  # E-15, E-16
                    raise
                near = await near_ids(iii, function_id)
                meant = f"Did you mean {' or '.join(near)}? " if near else ""
                advice = f"{meant}`iii-anyio list functions` shows what there is; --namespace chooses one of several."
                raise CommandError(ExitCode.FAILED, exc.message, advice, error_code=exc.code) from exc
            info |= {"worker": await _worker(iii, info), "example": _example(info)}
        _show(output, info)

    execute(command, as_json=json)


async def _worker(iii: Worker, info: dict[str, Any]) -> dict[str, Any] | None:
    """Who serves the function: a row of ``workers::info``. The name is a guess for nameless connections (E-5)."""
    request = {"name": info.get("worker_name"), "namespace": info.get("namespace")}
    try:
        answer: Any = await iii.trigger_async(EngineFunctions.INFO_WORKERS, request)
    except InvocationError:
        return None
    found: dict[str, Any] | None = answer.get("worker")
    return found


def _example(info: dict[str, Any]) -> dict[str, Any]:
    payload = sample(info.get("request_schema"))
    function_id, namespace = info["function_id"], info.get("namespace")
    elsewhere = namespace not in (None, "default")
    shell = ["iii-anyio", "trigger", function_id, to_json(payload).decode()]
    if elsewhere:
        shell += ["--namespace", str(namespace)]
    place = f", namespace={namespace!r}" if elsewhere else ""
    return {
        "payload": payload,
        "shell": shlex.join(shell),
        "python": f"await iii.trigger_async({function_id!r}, {payload!r}{place})",
    }


def _show(output: Output, info: dict[str, Any]) -> None:
    if output.as_json:
        output.document(info)
        return
    worker: dict[str, Any] = info["worker"] or {}
    about = [worker.get("runtime"), worker.get("version"), worker.get("ip_address")]
    if worker.get("pid") is not None:
        about.append(f"pid {worker['pid']}")
    details = ", ".join(str(fact) for fact in about if fact)
    output.line(info["function_id"], "bold cyan")
    output.facts(
        [
            ("description", info.get("description")),
            ("namespace", info.get("namespace")),
            ("served by", f"{info.get('worker_name')}" + (f" ({details})" if details else "")),
            ("metadata", info.get("metadata")),
        ]
    )
    triggers = info.get("registered_triggers")
    if triggers:
        output.line("\nTriggers", "bold")
        output.table(triggers, ("trigger_type", "config", "id"), empty="")
    for title, key in (("Takes", "request_schema"), ("Returns", "response_schema")):
        output.line(f"\n{title}", "bold")
        if info.get(key) is None:
            output.line("anything: its worker published no schema", "dim")
        else:
            output.document(info[key])
    output.line("\nExample", "bold")
    output.line(info["example"]["shell"])
    output.line(info["example"]["python"])
