"""The table of statements, its page and the tests that cite them agree."""

from __future__ import annotations

import re

from tests.requirements import REQUIREMENTS
from tests.statements import DIFFERENT, LEFT_OUT, PAGE, SECTIONS, STATEMENTS, WORDS, citations, page


def test_every_held_statement_is_cited_by_a_test() -> None:
    cited = citations()
    assert [id for id, statement in STATEMENTS.items() if statement.state == "held" and id not in cited] == []


def test_no_test_cites_a_statement_that_does_not_exist() -> None:
    prefixes = {prefix for prefix, *_ in SECTIONS}
    unknown = {
        id: tests
        for id, tests in citations().items()
        if id.partition("-")[0] in prefixes and id not in STATEMENTS and id not in REQUIREMENTS and not _is_client(id)
    }
    assert unknown == {}


def _is_client(id: str) -> bool:
    """The first hundred of the protocol's checklist are for workers."""
    return re.fullmatch(r"P-\d{1,2}", id) is not None


def test_every_word_and_reason_is_of_a_statement_and_told_once() -> None:
    assert sorted((WORDS.keys() | DIFFERENT.keys() | LEFT_OUT.keys()) - STATEMENTS.keys()) == []
    assert sorted(DIFFERENT.keys() & LEFT_OUT.keys()) == []
    assert sorted(WORDS.keys() & REQUIREMENTS.keys()) == []


def test_the_page_is_what_the_table_makes() -> None:
    """Otherwise: python -m tests.statements."""
    assert PAGE.read_text("utf-8") == page()
