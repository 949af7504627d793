"""A hook of MkDocs, named in .mkdocs.yml: on the site a block is plain Python, whatever tests do with it."""

from __future__ import annotations

import re

MARKS = re.compile(r"^( *```python)(?: (?:run|serve|engine))+(?= |$)", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Leave out the marks: a block with words that its highlighter does not know is no block to it."""
    return MARKS.sub(r"\1", markdown)
