"""What the examples with Node need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def official_sdk_or_skip() -> None:
    """Have the official SDK in examples/node, as ``examples/mixed.py`` does it; skip the test without Node."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    if not (EXAMPLES / "node/node_modules/iii-sdk").exists():
        install = [npm, "install", "--no-audit", "--no-fund", "--prefix", "node"]
        done = subprocess.run(install, cwd=EXAMPLES, capture_output=True, text=True, timeout=50, check=False)
        if done.returncode != 0:
            pytest.skip("npm cannot install the official SDK")
