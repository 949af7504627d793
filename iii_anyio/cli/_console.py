"""What commands print: tables and colours for people, JSON for machines, errors with advice.

Results go to stdout, everything else to stderr. What comes from the engine is shown without control characters, so
that a log line cannot write to the terminal. Below: rich. Above: every command.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.json import JSON
from rich.table import Table
from rich.text import Text

from .._protocol.codec import to_json
from .._runtime.cleanup import unwrap_single
from ._errors import CommandError, explained

__all__ = ("Output", "execute", "moment", "printable", "reported")

_WIDE: Final = 240
"""Columns of a table that goes to a file or a pipe, where nobody sees it wrap."""
_CONTROL: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)
} | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)}

_QUOTED: Final = {code: f"\\u{code:04x}" for code in _CONTROL}
"""The same in the way of JSON."""


def printable(text: str) -> str:
    """The text with control characters, those of text direction included, written as escapes."""
    return text.translate(_CONTROL)


class Output:
    """Where one command writes."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json: bool = as_json
        # Made now and not at import: tests and shells exchange the streams.
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)

    # -- results -------------------------------------------------------------------------------------------------

    def line(self, text: str, style: str = "") -> None:
        """One line for people; nothing with ``--json``."""
        if not self.as_json:
            self._out.print(Text(printable(text), style=style), soft_wrap=True)
            self._out.file.flush()

    def marked(self, mark: str, style: str, text: str) -> None:
        """One line for people that begins with a coloured word."""
        if not self.as_json:
            self._out.print(Text.assemble((mark, style), printable(text)), soft_wrap=True)
            self._out.file.flush()

    def pair(self, text: str, value: Any, style: str = "") -> None:
        """One line for people: words, and a JSON value behind them unless it is None."""
        self.line(text if value is None else f"{text}  {to_json(value).decode()}", style)

    def document(self, value: Any) -> None:
        """A JSON value: indented and coloured for people, in one line for machines."""
        text = to_json(value).decode()
        if self.as_json:
            self._out.file.write(text + "\n")
        else:
            shown = JSON(text, indent=2).text
            if shown.plain.translate(_QUOTED) != shown.plain:  # legal in JSON, but not for a terminal
                shown = Text(shown.plain.translate(_QUOTED))
            self._out.print(shown, soft_wrap=True)
        self._out.file.flush()

    def table(self, rows: Sequence[dict[str, Any]], columns: Iterable[str], *, empty: str) -> None:
        """Rows for people, the whole dicts for machines.

        Args:
            rows: What is known of each thing.
            columns: The keys that people see; the heading is the key without underscores.
            empty: What is said instead of a table without rows.
        """
        if self.as_json:
            self.document(rows)
            return
        if not rows:
            self._err.print(Text(empty, style="dim"))
            return
        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        wanted = list(columns)
        for index, key in enumerate(wanted):
            table.add_column(key.replace("_", " "), style="cyan" if index == 0 else "", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_cell(row.get(key))) for key in wanted))
        self._out.print(table)

    def facts(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Names and values below each other, for people."""
        if self.as_json:
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in pairs:
            if value not in (None, "", [], {}):
                table.add_row(name, Text(_cell(value)))
        self._out.print(table)

    # -- everything else -----------------------------------------------------------------------------------------

    def note(self, text: str, style: str = "dim") -> None:
        """Something to know, on stderr."""
        self._err.print(Text(printable(text), style=style), soft_wrap=True)
        self._err.file.flush()

    @contextmanager
    def progress(self, text: str, total: float) -> Generator[Callable[[float], None]]:
        """A bar while the block runs, where somebody sees it; yields what takes how much is done."""
        if self.as_json or not self._err.is_terminal:
            yield lambda _: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self._err, transient=True) as bar:
            task = bar.add_task(printable(text), total=total)
            yield lambda done: bar.update(task, completed=min(done, total))

    def error(self, error: CommandError, *, verbose: bool = False) -> None:
        """Say what went wrong and what to do, on stderr."""
        if self.as_json:
            body = {"message": error.message, "advice": error.advice or None, "exit_code": int(error.code)}
            self._err.file.write(to_json({"error": body | error.facts}).decode() + "\n")
            self._err.file.flush()
            return
        self._err.print(Text.assemble(("Error: ", "bold red"), printable(error.message)), soft_wrap=True)
        if verbose and error.facts.get("stacktrace"):
            self._err.print(Text(printable(str(error.facts["stacktrace"])), style="dim"), soft_wrap=True)
        if error.advice:
            self._err.print(Text(error.advice, style="yellow"), soft_wrap=True)


def _console(file: Any) -> Console:
    console = Console(file=file, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case str():
            return printable(value)
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return str(value)
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case _:
            return printable(to_json(value).decode())


def moment(milliseconds: float | None) -> datetime | None:
    """Unix milliseconds as a table shows them."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


@contextmanager
def reported(output: Output, *, verbose: bool = False) -> Generator[None]:
    """Make a sentence and an exit code of what the block raises.

    Raises:
        typer.Exit: With the code.
    """
    try:
        with unwrap_single():
            yield
    except Exception as exc:
        error = explained(exc)
        if error is None:
            raise
        output.error(error, verbose=verbose)
        raise typer.Exit(error.code) from None


def execute(
    command: Callable[[Output], Awaitable[None]],
    *,
    as_json: bool = False,
    verbose: bool = False,
    backend: str = "asyncio",
) -> None:
    """Run the async body of a command, as ``reported``."""
    output = Output(as_json=as_json)
    with reported(output, verbose=verbose):
        anyio.run(command, output, backend=backend)
