"""``run``: serve an app, in this process or in children. Below: ``_serving``, ``_processes``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Any

import typer

from ._connection import Url  # noqa: TC001 - typer reads the annotations
from ._console import Output, reported
from ._serving import Backend, Settings, serve_here

__all__ = ("run",)


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:OBJECT]",
            help="An App (default: app), a function that returns one, def register(iii), or async def main(iii).",
            show_default=False,
        ),
    ],
    *,
    url: Url = None,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Of the worker; {n} is the process's number.", show_default=False),
    ] = None,
    backend: Annotated[Backend, typer.Option(help="What the event loop runs on.")] = "asyncio",
    reload: Annotated[bool, typer.Option("--reload", "-r", help="Start again when Python files change.")] = False,
    reload_dir: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="What to watch; default: --app-dir.", show_default=False),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, max=256, help="How many, each a worker.")] = 1,
    app_dir: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Where the module is; default: here.", show_default=False),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that a child may take to drain before it is killed.")
    ] = 30.0,
    json: Annotated[bool, typer.Option("--json", help="For machines: events as JSON lines on stdout.")] = False,
) -> None:
    """Serve an app until Ctrl-C or SIGTERM; then drain. A second signal does not wait.

    A process that crashes is started again, after 0.5 s and then longer and longer; one that ends with code 0 is not.
    """
    from ._processes import watched

    folder = str(app_dir or ".")
    settings = Settings(
        target=target,
        app_dir=folder,
        url=url,
        namespace=namespace,
        backend=backend,
        as_json=json,
        processes=processes,
    )
    if not reload and processes == 1:
        code = serve_here(settings)
    else:
        with reported(Output(as_json=json)):
            children = [replace(settings, number=number) for number in range(processes)]
            changes = watched([str(path) for path in reload_dir or ()] or [folder]) if reload else None
            code = _supervised(children, changes, patience)
    if code:
        raise typer.Exit(code)


def _supervised(
    settings: list[Settings], changes: Callable[[], AsyncIterator[set[Any]]] | None, patience: float
) -> int:
    import anyio

    from ._processes import Keeper, child_of
    from ._serving import say

    children = [child_of(one) for one in settings]
    keeper = Keeper(children, tell=partial(say, as_json=settings[0].as_json), changes=changes, patience=patience)
    return anyio.run(keeper.run)
