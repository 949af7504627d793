"""The card for coding assistants names what exists. Its programs run in test_snippets.py."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

CARD = (Path(__file__).parents[2] / "docs/skill/SKILL.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(iii_anyio[.\w]*)` \| (.*) \|$", CARD, re.MULTILINE)


def test_every_export_that_the_card_names_is_public() -> None:
    assert len(ROWS) > 5
    missing = [
        f"{module}.{name}"
        for module, names in ROWS
        for name in re.findall(r"`(\w+)`", names)
        if name not in import_module(module).__all__
    ]
    assert missing == []


def test_the_card_teaches_no_name_that_does_not_exist() -> None:
    imported = re.findall(r"^from (iii_anyio[.\w]*) import (.+)$", CARD, re.MULTILINE)
    assert imported
    named = {(module, name) for module, names in ROWS for name in re.findall(r"`(\w+)`", names)}
    assert {(module, name) for module, names in imported for name in names.split(", ")} <= named


def test_the_card_has_its_parts_and_is_short() -> None:
    headings = re.findall(r"^## (.+)$", CARD, re.MULTILINE)
    assert {"Install", "Key exports", "Notes", "Boundaries"} <= set(headings)
    assert CARD.startswith("---\nname: iii-anyio\ndescription: ")
    assert CARD.count("\n") < 200
