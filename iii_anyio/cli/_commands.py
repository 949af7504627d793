"""The commands, put together. Below: a module for each. Above: ``main``."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from ._bench import bench
from ._calls import trigger
from ._dev import typer_command
from ._discover import describe, lists
from ._doctor import doctor
from ._logs import logs
from ._project import new
from ._queue import queue
from ._run import run
from ._state import state
from ._stream import stream

__all__ = ("app",)

app = typer.Typer(
    name="iii-anyio",
    no_args_is_help=True,
    # A traceback with the values of variables would show tokens.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 no connection to the engine.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def about(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Engines, workers and calls of iii, from a shell."""


_START = "Start"
_USE = "Use"
_LOOK = "Look"

app.command("dev", rich_help_panel=_START)(typer_command())
app.command("new", rich_help_panel=_START)(new)
app.command("run", rich_help_panel=_START)(run)
app.command("trigger", rich_help_panel=_USE)(trigger)
app.add_typer(state, name="state", rich_help_panel=_USE)
app.add_typer(stream, name="stream", rich_help_panel=_USE)
app.add_typer(queue, name="queue", rich_help_panel=_USE)
app.add_typer(lists, name="list", rich_help_panel=_LOOK)
app.command("describe", rich_help_panel=_LOOK)(describe)
app.command("logs", rich_help_panel=_LOOK)(logs)
app.command("doctor", rich_help_panel=_LOOK)(doctor)
app.command("bench", rich_help_panel=_LOOK)(bench)
