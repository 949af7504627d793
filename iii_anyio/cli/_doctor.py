"""``doctor``: why can I not connect? Below: ``_checks``."""

from __future__ import annotations

from typing import Final

import typer

from ._checks import Check, examine
from ._connection import Json, Url  # noqa: TC001 - typer reads the annotations
from ._console import Output, execute

__all__ = ("doctor",)

_STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(*, url: Url = None, json: Json = False) -> None:
    """Find out why there is no connection: check each step, and say what to do about the first that fails.

    Exit code 0 when a worker could work, 2 for a wrong address, 3 without a connection.
    """

    async def command(output: Output) -> None:
        def tell(check: Check) -> None:
            output.marked(f"{check.status:<8}", _STYLES[check.status], f" {check.name:<12} {check.detail}")
            if check.advice:
                output.line(f"{'':<22}{check.advice}", "yellow")

        checks = await examine(url, tell)
        failed = next((check for check in checks if check.status == "failed"), None)
        verdict = "A worker can connect and work." if failed is None else f"No connection: {failed.name} failed."
        if json:
            rows = [
                {"name": check.name, "status": check.status, "detail": check.detail, "advice": check.advice or None}
                | check.facts
                for check in checks
            ]
            output.document({"ok": failed is None, "verdict": verdict, "checks": rows})
        else:
            output.line(f"\n{verdict}", "bold green" if failed is None else "bold red")
        if failed is not None:
            raise typer.Exit(failed.exit_code)

    execute(command, as_json=json)
