"""Every contract test says what it holds us to, and every requirement of the table has a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.requirements import REQUIREMENTS

ID = re.compile(r"\b[A-Z]{1,2}-\d+\b|§\d+(?:\.\d+)?")
HERE = Path(__file__)


def cited() -> dict[str, set[str]]:
    """Ids that the docstring of each test names."""
    tests: dict[str, set[str]] = {}
    for path in sorted(HERE.parent.glob("test_*.py")):
        if path == HERE:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                tests[f"{path.name}::{node.name}"] = set(ID.findall(ast.get_docstring(node) or ""))
    return tests


def test_every_contract_test_cites_a_requirement() -> None:
    tests = cited()
    assert len(tests) > 50
    assert [name for name, ids in tests.items() if not ids] == []


def test_every_cited_id_is_in_the_table_and_every_id_of_the_table_is_cited() -> None:
    ids = set().union(*cited().values())
    assert sorted(ids - REQUIREMENTS.keys()) == []
    assert sorted(REQUIREMENTS.keys() - ids) == []


def test_every_requirement_is_told_in_one_line() -> None:
    for behaviour, source in REQUIREMENTS.values():
        assert behaviour.strip() == behaviour != ""
        assert "\n" not in behaviour
        assert source
