"""The page of examples/mixed.py in a real Chromium: it calls Node, which calls Python, which calls every open page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from tests import nodejs

from .chromium import expect, find_chromium, open_chromium

CHROMIUM = find_chromium()
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: make browser, or CHROMIUM=/path/to/it"),
    # Playwright's own, at its end.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": False}


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Process, str]]:
    """The example, and the address that it prints."""
    command = [sys.executable, "-u", "examples/mixed.py"]
    async with await anyio.open_process(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            said = ""
            async for text in TextReceiveStream(process.stdout):
                said += text
                if said.endswith("/receipts\n"):
                    break
            yield process, said.split()[-1]
        finally:
            if process.returncode is None:
                process.terminate()


async def test_a_click_goes_round_by_node_and_python_to_every_open_page() -> None:
    assert CHROMIUM is not None
    await to_thread.run_sync(nodejs.node_or_skip, nodejs.EXAMPLES)
    with fail_after(50):
        async with running() as (process, url), open_chromium(CHROMIUM) as chromium:
            heard: list[str] = []
            pages = [await chromium.new_page() for _ in range(2)]
            for page in pages:
                page.set_default_timeout(10_000)
                page.on("pageerror", lambda error: heard.append(str(error)))
                await page.goto(url)
                await expect(page.locator("#state")).to_have_text("connected")
            first, second = pages
            await first.get_by_role("button", name="Coffee").click()
            await expect(first.locator("#receipt")).to_have_text("coffee: 8.70 €")
            for page in pages:
                await expect(page.locator("#sold li")).to_have_text(["coffee for 8.70 €"])
            await second.get_by_role("button", name="Tea").click()
            await expect(first.locator("#sold li")).to_have_text(["coffee for 8.70 €", "tea for 5.40 €"])
            process.terminate()
            await expect(first.locator("#state")).to_have_text("not connected: reload the page")
            assert await process.wait() == 0
            assert heard == []
