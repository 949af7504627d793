"""The pages do what they say.

Every ``python`` block of README.md and docs/ compiles; top-level ``await`` is fine, ``...`` stands for what is left
out. Words after ``python`` make it more than a fragment, a complete program that is run as a file of its own:

=============  ========================================================================================
``run``        It ends by itself, with exit status 0.
``serve``      It runs until stopped: after its first line on stdout it gets SIGTERM, and must then exit with 0.
``engine``     With one of the others: a fresh embedded engine listens, ``III_URL`` and ``III_HTTP_URL`` name it.
=============  ========================================================================================

For instance ```` ```python run engine ````. Sites show it as plain Python. A ``title="app.py"`` is for readers.
Every ``make`` line of a ``bash`` block of README.md names a target of the Makefile.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from anyio.from_thread import start_blocking_portal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MARKS = {"run", "serve", "engine"}
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block of a page."""

    where: str
    language: str
    marks: frozenset[str]
    code: str


def blocks(text: str, name: str) -> Iterator[Block]:
    for match in FENCE.finditer(text):
        indent, info, code = match.groups()
        language, *marks = re.sub(r' title="[^"]*"', "", info).split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        yield Block(f"{name}:{line}", language, frozenset(marks), code)


PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]
BLOCKS = [block for page in PAGES for block in blocks(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def commands(block: Block) -> list[str]:
    """Targets that the ``make`` lines of a block call."""
    found = re.findall(r"^(?:\$ )?make +(.*)$", block.code, re.MULTILINE)
    return [word for line in found for word in line.partition("#")[0].split() if "=" not in word]


@contextmanager
def engine_if(wanted: bool) -> Iterator[dict[str, str]]:
    """With an embedded engine on free ports, the environment that leads there."""
    if not wanted:
        yield {}
        return
    devengine: Any = import_module("iii_anyio.devengine")
    opened = devengine.open_engine(port=0, http_port=0, stream_port=0)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as engine:
        yield {"III_URL": engine.url, "III_HTTP_URL": engine.http_url}


def run(block: Block, folder: Path) -> None:
    program, errors = folder / "snippet.py", folder / "stderr"
    program.write_text(block.code, "utf-8")
    with engine_if("engine" in block.marks) as address, errors.open("w") as stderr:
        environment = {**os.environ, **address, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [sys.executable, program], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process:
            assert process.stdout is not None
            output = ""
            try:
                if "serve" in block.marks:
                    output = process.stdout.readline()
                    process.terminate()
                output += process.communicate(timeout=60)[0]
            finally:
                process.kill()
    output += errors.read_text("utf-8")
    assert process.returncode == 0, f"{block.where} exited with {process.returncode}:\n{output}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_a_python_block_compiles_and_its_marks_are_known(block: Block) -> None:
    compile(block.code, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert block.marks <= MARKS
    assert block.marks != {"engine"}


@pytest.mark.parametrize("block", [block for block in PYTHON if block.marks], ids=lambda block: block.where)
def test_a_runnable_block_runs(block: Block, tmp_path: Path) -> None:
    run(block, tmp_path)


def test_every_make_command_of_the_readme_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert "test" in targets
    called = [name for block in BLOCKS if block.where.startswith("README.md:") for name in commands(block)]
    assert [name for name in called if name not in targets] == []


def test_blocks_and_commands_are_found_in_a_page() -> None:
    page = "# T\n```python run engine\nx = 1\n```\n- item\n  ```bash\n  $ make demo ARGS=x  # try\n  make test\n  ```\n"
    first, second = blocks(page, "page.md")
    assert first == Block("page.md:2", "python", frozenset({"run", "engine"}), "x = 1\n")
    assert second.where == "page.md:6"
    assert commands(second) == ["demo", "test"]


def test_a_program_that_fails_is_reported_with_its_output(tmp_path: Path) -> None:
    program = "import sys\nprint('hello')\nprint('oops', file=sys.stderr)\nsys.exit(3)"
    with pytest.raises(AssertionError, match=r"(?s)page.md:1 exited with 3.*hello.*oops"):
        run(Block("page.md:1", "python", frozenset({"run"}), program), tmp_path)


def test_a_program_that_serves_is_asked_to_stop(tmp_path: Path) -> None:
    waits = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit({}))\nprint('up')\nsignal.pause()"
    run(Block("good", "python", frozenset({"serve"}), waits.format(0)), tmp_path)
    with pytest.raises(AssertionError, match="bad exited with 4"):
        run(Block("bad", "python", frozenset({"serve"}), waits.format(4)), tmp_path)
