"""The official Node SDK, for the tests with programs of Node.

``python -m tests.nodejs`` installs it where they look for it, as ``make test`` does first: several tests need it, in
processes of their own, and none of them should wait for a registry.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples/node"
INTEROP = ROOT / "tests/interop/node"


class NodeMissingError(Exception):
    """There is no Node.js here, or npm cannot get at the SDK; the text says which."""


def node_with(folder: Path) -> str:
    """The path of ``node``, with what the ``package.json`` of this folder wants installed beside it.

    Raises:
        NodeMissingError: See there.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NodeMissingError("needs node and npm: install Node.js 20 or newer")
    stamp = folder / "node_modules" / ".installed"
    wanted = (folder / "package.json").read_text()
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)  # another test process may be about it
        if not stamp.exists() or stamp.read_text() != wanted:
            _install(npm, folder)
            stamp.write_text(wanted)
    finally:
        os.close(opened)
    return node


def node_or_skip(folder: Path) -> str:
    """The same for a test, which is skipped where it cannot be had."""
    try:
        return node_with(folder)
    except NodeMissingError as exc:
        pytest.skip(str(exc))


def _install(npm: str, folder: Path) -> None:
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as exc:
        raise NodeMissingError(str(exc)) from None
    if done.returncode:
        raise NodeMissingError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    try:
        for place in (EXAMPLES, INTEROP):
            node_with(place)
    except NodeMissingError as missing:
        print(f"the tests with Node.js are left out: {missing}", file=sys.stderr)
