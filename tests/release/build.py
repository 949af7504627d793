"""Build wheel and sdist, install the wheel into a fresh environment, and see whether it works there.

Run with ``make dist``. Arguments are interpreters to try it on, e.g. ``python3.11 python3.14``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
EXTRAS = "trio,otel,engine,cli"


class Built(NamedTuple):
    """The files of a release."""

    wheel: Path
    sdist: Path


def build(target: Path) -> Built:
    """Build both, the sdist first."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    [wheel], [sdist] = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, sdist)


def try_out(package: Path, interpreter: str) -> None:
    """Install it as a user would, and run the smoke test where the clone is not in sight."""
    with TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", f"{folder}/venv"], check=True)
        python = f"{folder}/venv/bin/python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{package}[{EXTRAS}]"], check=True)
        smoke = (ROOT / "tests/release/smoke.py").read_bytes()
        subprocess.run([python, "-I", "-W", "error", "-"], input=smoke, cwd=folder, check=True, timeout=120)


def main() -> None:
    """Build, and try the wheel on every interpreter and the sdist on the first."""
    target = ROOT / "dist"
    for old in (*target.glob("*.whl"), *target.glob("*.tar.gz")):
        old.unlink()
    built = build(target)
    interpreters = sys.argv[1:] or [sys.executable]
    for package, interpreter in [*((built.wheel, each) for each in interpreters), (built.sdist, interpreters[0])]:
        print(f"{package.relative_to(ROOT)} on {interpreter}", flush=True)
        try_out(package, interpreter)


if __name__ == "__main__":
    main()
