"""The pictures of docs/cli.md are drawn from what commands print."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli.pictures import FOLDER, PICTURES, picture

if TYPE_CHECKING:
    from iii_anyio import IIIClient
    from iii_anyio.devengine import Engine


def shown(svg: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", svg)).replace("\xa0", " ")


def test_a_picture_shows_what_was_typed_and_what_was_printed(server: Engine, worker: IIIClient) -> None:
    svg = picture("test", ["trigger test::echo tea=green", "trigger test::fails"], III_URL=server.url)
    text = shown(svg)
    assert "iii-anyio trigger test::echo tea=green" in text
    assert '"tea": "green"' in text
    assert "there is no tea" in text
    assert 'class="cli-test-' in svg  # colours, for it was a terminal
    assert "url(http" not in svg.replace('"', "")  # nothing is fetched from elsewhere


def test_every_picture_is_there_and_on_the_page() -> None:
    page = (Path(FOLDER).parent / "cli.md").read_text("utf-8")
    for name, commands in PICTURES.items():
        assert f"(pictures/cli-{name}.svg)" in page
        text = shown((FOLDER / f"cli-{name}.svg").read_text("utf-8"))
        for command in commands:
            assert f"iii-anyio {command}" in text
