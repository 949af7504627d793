"""What the site makes of the pages, as far as that can be seen without it; ``make docs`` is strict about links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.site import on_page_markdown

DOCS = Path(__file__).parents[2] / "docs"
PLAIN = re.compile(r'[\w.+-]*(?: title="[^"]*")?')
"""What the highlighter takes after the fence."""


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_block_of_a_page_begins_in_a_way_that_the_site_understands(page: Path) -> None:
    shown = on_page_markdown(page.read_text("utf-8"))
    beginnings = re.findall(r"^ *```(.*)$", shown, re.MULTILINE)
    assert [words for words in beginnings if not PLAIN.fullmatch(words)] == []


def test_the_marks_of_a_block_go_and_its_title_stays() -> None:
    page = '```python run engine title="app.py"\nrun engine\n```\n  ```python serve\n'
    assert on_page_markdown(page) == '```python title="app.py"\nrun engine\n```\n  ```python\n'
