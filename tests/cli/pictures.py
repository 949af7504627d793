"""Make the pictures of docs/cli.md from a real run: ``python -m tests.cli.pictures``.

A new project is served by ``iii-anyio dev`` on the usual ports, the commands run in a terminal of their own, and rich
draws what they printed.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from .running import Running

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
COLUMNS: Final = 100
# Without the font that rich would fetch from elsewhere.
FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)

PICTURES: Final = {
    "help": ["--help"],
    "trigger": ["trigger shop::greet name=Ada", "trigger shop::greet nome=Ada"],
    "list": ["list functions --prefix shop", "list workers --search shop"],
    "describe": ["describe shop::greet"],
    "doctor": ["doctor"],
}


def in_terminal(arguments: Sequence[str], **environment: str) -> str:
    """What the command prints, with its colours, to a terminal of ``COLUMNS``."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if not name.startswith("III_") and name != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(COLUMNS), "LINES": "50", **environment}
    with subprocess.Popen([sys.executable, "-m", "iii_anyio", *arguments], env=env, stdout=theirs, stderr=theirs):
        os.close(theirs)
        printed = bytearray()
        while True:
            try:
                some = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not some:
                break
            printed += some
    os.close(ours)
    # `python -m iii_anyio` calls itself so in its help.
    return printed.decode().replace("\r\n", "\n").replace("python -m iii_anyio", "iii-anyio")


def picture(name: str, commands: Sequence[str], **environment: str) -> str:
    """An SVG of a terminal in which the commands were typed."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    with console.file:
        for command in commands:
            console.print(Text.assemble(("$ ", "green"), (f"iii-anyio {command}", "bold")))
            console.print(Text.from_ansi(in_terminal(command.split(), **environment)))
        return console.export_svg(title="iii-anyio", code_format=FORMAT, unique_id=f"cli-{name}")


def main() -> None:
    with TemporaryDirectory() as folder:
        in_terminal(["new", "shop", folder])
        with Running("dev", "app", "--json", cwd=Path(folder), III_WORKER_NAME="shop") as dev:
            listening = json.loads(dev.until('"listening"'))
            dev.until('"serving"')
            if not listening["urls"][0].endswith(":49134"):
                sys.exit("something else listens on port 49134")
            for name, commands in PICTURES.items():
                (FOLDER / f"cli-{name}.svg").write_text(picture(name, commands), "utf-8")
            dev.send(signal.SIGINT)
            dev.ended()


if __name__ == "__main__":
    main()
