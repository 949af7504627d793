"""Each promise of ``docs/reliability.md`` names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
TEST = re.compile(r"`([a-z_/]+\.py)::(test_\w+)`")


def test_every_promise_names_a_test_and_every_test_exists() -> None:
    page = PAGE.read_text("utf-8")
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("| promise |")]
    rows = [row for table in tables for row in table[2:]]
    assert len(rows) > 30
    assert [row for row in rows if not TEST.search(row)] == []
    named = set(TEST.findall(page))
    missing: list[tuple[str, str]] = []
    for file, name in sorted(named):
        path = ROOT / "tests" / file
        tree = ast.parse(path.read_text("utf-8")) if path.exists() else ast.Module([], [])
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        if name not in functions:
            missing.append((file, name))
    assert missing == []
