"""Make the pictures of docs/console.md from a real run: ``python -m tests.browser.pictures``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio

from .chromium import expect, find_chromium, open_chromium, open_shop

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


async def main(path: str) -> None:
    async with open_shop() as (engine, iii), open_chromium(path) as browser:
        for customer in ("Grace", "Edsger", "Barbara"):
            order = {"customer": customer, "line": {"sku": "tea", "quantity": 2}}
            await iii.trigger_async({"function_id": "shop::create", "payload": order})

        async def picture(name: str, place: str, click: str | None = None, **context: Any) -> None:
            page = await browser.new_page(**context)
            await page.goto(f"{engine.console_url}/#/{place}")
            if click is not None:
                await page.locator(".list a.row", has_text=click).first.click()
                await page.locator(".detail h3").wait_for()
                await page.locator(".waterfall summary").nth(1).click()
            else:
                await expect(page.locator(f"main[data-place='{place}']")).to_be_visible()
            await page.screenshot(path=FOLDER / f"console-{name}.png")
            await page.close()

        wide: dict[str, Any] = {"viewport": {"width": 1000, "height": 620}}
        narrow: dict[str, Any] = {"viewport": {"width": 360, "height": 620}, "color_scheme": "dark"}
        await picture("traces", "traces", "shop::create", **wide)
        await picture("function", "functions/shop%3A%3Acreate/default", **narrow)


if __name__ == "__main__":
    found = find_chromium()
    sys.exit("needs a Chromium: make browser" if found is None else anyio.run(main, found))
