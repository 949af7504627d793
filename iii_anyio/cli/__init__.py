"""The command line, ``iii-anyio``: an engine, workers, calls, and a look at what runs.

This module needs nothing but the core, so that it can say what is missing; ``_commands`` puts the rest together with
typer. Each command is a module of its own, and imports what it needs when it runs.
"""

from __future__ import annotations

import sys

__all__ = ("main",)

_WITHOUT_EXTRA = (
    "iii-anyio needs the extra 'cli': pip install 'iii-anyio[cli]' ({} is not installed). "
    "Only `dev` and --version work without it."
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status; see ``ExitCode``.

    Args:
        arguments: Without the program's name; default ``sys.argv[1:]``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from ._commands import app
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in {"rich", "typer"}:
            raise
        return _without_extra(arguments, missing)

    try:
        app(arguments, prog_name="iii-anyio")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return 0


def _without_extra(arguments: list[str], missing: str) -> int:
    """``dev`` by argparse, with the same options."""
    if arguments[:1] == ["dev"]:
        from ._dev import main as dev

        return dev(arguments[1:])
    if arguments == ["--version"]:
        from .._version import __version__

        print(__version__)  # noqa: T201 - a command line talks
        return 0
    print(_WITHOUT_EXTRA.format(missing), file=sys.stderr)  # noqa: T201 - see above
    return 2
