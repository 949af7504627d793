"""What importing the package leaves to the first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

BUILT = """
import sys, iii_anyio
from pydantic import BaseModel

def under(kind):
    for known in kind.__subclasses__():
        yield known
        yield from under(known)

print("pydantic.plugin._loader" in sys.modules)
print(*{known.__name__ for known in under(BaseModel) if known.__module__.startswith("iii_anyio.")
        and known.__pydantic_complete__})
"""


def run(program: str) -> list[str]:
    """The lines that a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_importing_builds_no_model_but_the_one_for_which_pydantic_reads_files() -> None:
    """Models are built when first used, which takes no file then: megabytes and a tenth of the time to import."""
    has_looked_for_plugins, built = run(BUILT)
    assert (has_looked_for_plugins, built) == ("True", "StreamChannelRef")


def test_importing_leaves_what_few_workers_need() -> None:
    rarely_needed = {"tomllib", "anyio.to_process", "iii_anyio._runtime.processes", "iii_anyio._wire.connect", "httpx"}
    assert not rarely_needed & set(run("import sys, iii_anyio; print(*sys.modules, sep='\\n')"))
