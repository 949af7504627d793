"""The command line as tests use it: in this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from typer.testing import CliRunner, Result

from iii_anyio.cli._commands import app

if TYPE_CHECKING:
    from pathlib import Path

CLOSED = "ws://127.0.0.1:1"
"""Where nobody listens."""
PATIENCE = 30.0
"""Seconds that starting or ending a process may take on a busy machine."""


def cli(*arguments: str, stdin: str | None = None) -> Result:
    """Run a command in this process; a defect of ours raises here."""
    return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)


def cli_json(*arguments: str, stdin: str | None = None) -> Any:
    """What a command that succeeds prints with --json."""
    done = cli(*arguments, "--json", stdin=stdin)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


class Running:
    """A command as a process; its output comes line by line, stdout and stderr together."""

    def __init__(self, *arguments: str, cwd: Path | None = None, **environment: str) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "iii_anyio", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def until(self, text: str) -> str:
        """Wait for a line with this text, and return it."""
        while True:
            try:
                line = self._new.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"no {text!r} in time, but:\n" + "\n".join(self.lines)) from None
            if line is None:
                raise AssertionError(
                    f"ended with {self.process.wait(PATIENCE)} without {text!r}:\n" + "\n".join(self.lines)
                )
            self.lines.append(line)
            if text in line:
                return line

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end, and return the exit code."""
        code = self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        while (line := self._new.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return code

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
