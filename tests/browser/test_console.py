"""The console in a real Chromium: what it shows is true, changes by itself, fits a phone, needs no mouse.

Without a Chromium these tests are skipped; ``make browser`` brings one where it can.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, InvocationError, TriggerAction, open_worker

from .chromium import expect, find_chromium, open_chromium, open_shop

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

    from iii_anyio import Worker

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: make browser, or CHROMIUM=/path/to/it"),
    # Playwright's own, at its end.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
VIEWS = ("Workers", "Functions", "Triggers", "Traces", "Logs", "State", "Streams", "Queues")
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Playwright runs on asyncio only; the engine is tested on every loop elsewhere."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    assert CHROMIUM is not None
    # The loop's own thread for name look-ups lasts as long as the loop, which all tests here share.
    await asyncio.get_running_loop().run_in_executor(None, int)
    async with open_chromium(CHROMIUM) as browser:
        yield browser


class Console(NamedTuple):
    """Opens pages that may not report errors: neither an exception nor a breach of their policy."""

    chromium: Browser
    heard: list[str]

    async def page(self, size: dict[str, int] | None = None) -> Page:
        page = await self.chromium.new_page(viewport=size or DESKTOP)  # type: ignore[arg-type]  # a TypedDict of it
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.heard.append(str(error)))
        page.on("console", lambda message: self.heard.append(message.text) if message.type == "error" else None)
        return page

    @asynccontextmanager
    async def open(
        self, view: str = "", size: dict[str, int] | None = None, *, polls: bool = True
    ) -> AsyncIterator[tuple[Page, Worker]]:
        """The shop of ``chromium.py``, and the page that looks at it; it may be kept from asking by the clock."""
        with fail_after(50):
            async with open_shop() as (engine, iii):
                page = await self.page(size)
                if not polls:
                    await page.add_init_script("window.setInterval = () => 0")
                await page.goto(f"{engine.console_url}/#/{view}")
                await page.get_by_role("status").get_by_text("connected to").wait_for()
                yield page, iii
                await page.close()


@pytest.fixture
def console(chromium: Browser) -> Iterator[Console]:
    opened = Console(chromium, [])
    yield opened
    assert opened.heard == []


async def call(iii: Worker, function_id: str, **payload: Any) -> Any:
    return await iii.trigger_async({"function_id": function_id, "payload": payload})


async def show(page: Page, place: str) -> None:
    """Go there, and wait until the page has read what it shows."""
    await page.evaluate("(place) => { location.hash = '#/' + place; }", place)
    await expect(page.locator(f"main[data-place='{place}']")).to_be_visible()


async def test_every_view_is_reached_by_its_tab(console: Console) -> None:
    async with console.open() as (page, _):
        for name in VIEWS:
            await page.get_by_role("navigation").get_by_role("link", name=name).click()
            await page.get_by_role("heading", name=re.compile(rf"^{name}")).first.wait_for()
            assert await page.title() == f"{name} · iii console"
            assert await page.get_by_role("alert").filter(visible=True).count() == 0


async def test_workers_come_and_go_by_themselves(console: Console) -> None:
    async with console.open("workers", polls=False) as (page, iii):
        rows = page.locator(".list a.row")
        await rows.filter(has_text="Sells tea").wait_for()
        listed = (await call(iii, "engine::workers::list"))["workers"]
        assert sorted(await page.locator(".list .main").all_inner_texts()) == sorted(row["name"] for row in listed)
        engine_url = await page.evaluate("fetch('engine.json').then((answer) => answer.json()).then(({url}) => url)")
        late = rows.filter(has_text="latecomer")
        async with open_worker(engine_url, InitOptions(worker_name="latecomer")) as other:
            await other.wait_ready()
            await late.wait_for()
        await late.wait_for(state="detached")


async def test_details_that_change_keep_the_focus(console: Console) -> None:
    async with console.open("workers/shop/default", polls=False) as (page, iii):
        chosen = page.locator(".detail").get_by_role("link", name="shop::price")
        await chosen.focus()
        iii.register_function("shop::zest", lambda _: None)
        await page.locator(".detail").get_by_role("link", name="shop::zest").wait_for()
        await expect(chosen).to_be_focused()


async def test_a_call_is_given_up_when_the_page_was_told_to(console: Console) -> None:
    async with console.open("functions/shop%3A%3Await/default") as (page, iii):
        is_over = anyio.Event()

        async def wait(_: Any) -> None:
            await is_over.wait()

        iii.register_function("shop::wait", wait)
        await page.get_by_label("Seconds to wait").fill("0.05")
        await page.get_by_role("button", name="Invoke").click()
        await page.get_by_role("alert").get_by_text("TIMEOUT").wait_for()
        await page.get_by_label("Seconds to wait").fill("soon")
        await page.get_by_role("button", name="Invoke").click()
        await page.get_by_role("alert").get_by_text("a number between").wait_for()
        is_over.set()


async def test_a_function_is_called_by_the_form_of_its_schema(console: Console) -> None:
    async with console.open("functions/shop%3A%3Acreate/default") as (page, _):
        await page.get_by_label("customer").fill("Ada")
        await page.get_by_label("sku").fill("tea")
        await page.get_by_label("quantity").fill("three")
        await page.get_by_role("button", name="Invoke").click()
        await page.get_by_text("three is no number").wait_for()
        await page.get_by_label("quantity").fill("3")
        await page.get_by_label("shipping").select_option("express")
        await page.get_by_role("button", name="Invoke").click()
        result = page.get_by_role("region", name="Result")
        await result.wait_for()
        assert await page.evaluate("JSON.parse(document.querySelector('.output .json').textContent)") == {
            "customer": "Ada",
            "total": 13.5,
        }
        # What was called is what its trace shows.
        await page.get_by_role("link", name="its trace").click()
        await page.locator(".waterfall .main", has_text="execute shop::price").wait_for()


async def test_the_same_as_json_and_what_fails_says_why(console: Console) -> None:
    async with console.open("functions/shop%3A%3Acreate/default") as (page, _):
        await page.get_by_role("button", name="JSON").click()
        payload = page.get_by_label("Payload as JSON")
        await payload.fill("{")
        await payload.press("Control+Enter")
        await page.get_by_text("no JSON:").wait_for()
        await payload.fill('{"customer": 1}')
        await payload.press("Control+Enter")
        await page.get_by_role("alert").get_by_text("invalid_payload").wait_for()


async def test_text_from_workers_is_never_markup(console: Console) -> None:
    markup = "<img src=x onerror=document.title='owned'>"
    async with console.open("functions") as (page, iii):
        iii.register_function(f"shop::{markup}", lambda _: markup, description=markup)
        await iii.wait_ready()
        await call(iii, "state::set", scope=markup, key=markup, value=markup)
        await page.locator(".list a.row", has_text=markup).click()
        await page.get_by_role("heading", name=markup).wait_for()
        await page.get_by_role("button", name="Invoke").click()
        await page.get_by_role("region", name="Result").get_by_text(markup).wait_for()
        await page.get_by_role("navigation").get_by_role("link", name="State").click()
        await page.locator(".list a.row", has_text=markup).click()
        await page.locator(".detail").get_by_role("link", name=markup).click()
        await page.get_by_label("Value as JSON").wait_for()
        assert await page.locator("img").count() == 0
        assert "owned" not in await page.title()


async def test_traces_appear_as_they_happen(console: Console) -> None:
    async with console.open("traces", polls=False) as (page, iii):
        rows = page.locator(".list a.row", has_text="shop::create")
        await rows.nth(0).wait_for()
        assert await rows.count() == 1
        await call(iii, "shop::create", customer="Eve", line={"sku": "jam"})
        await rows.nth(1).wait_for()
        await rows.first.click()
        span = page.locator("details.span", has_text="execute shop::create")
        await span.locator("summary").click()
        await span.get_by_role("region", name="iii.invocation.input").get_by_text("Eve").wait_for()
        with pytest.raises(InvocationError):
            await call(iii, "shop::print")
        await page.get_by_label("Status").select_option("error")
        await page.locator(".list a.row", has_text="shop::print").first.wait_for()
        await rows.first.wait_for(state="detached")


async def test_logs_appear_as_they_are_written_and_are_filtered(console: Console) -> None:
    async with console.open("logs", polls=False) as (page, iii):
        await page.get_by_text("looking up tea").wait_for()
        await call(iii, "engine::log::warn", message="low on tea", data={"left": 2})
        await page.get_by_text("low on tea").click()
        await page.get_by_role("region", name="Attributes").filter(has_text='"left": 2').wait_for()
        await page.get_by_label("Level").select_option("17")
        await page.get_by_text("the printer is on fire").wait_for()
        await page.get_by_text("low on tea").wait_for(state="detached")


async def test_state_is_edited_and_shows_what_others_write(console: Console) -> None:
    """An edit begun is not overwritten, but the one who types is told; numbers keep all their digits."""
    large = 2**60 + 1
    async with console.open("state/in/customers", polls=False) as (page, iii):
        await page.get_by_role("link", name="ada").click()
        field = page.get_by_label("Value as JSON")
        await expect(field).to_have_value(re.compile("3"))
        await call(iii, "state::set", scope="customers", key="ada", value={"orders": large})
        await expect(field).to_have_value(re.compile(str(large)))
        await field.press("Control+Enter")
        await page.get_by_text("saved", exact=True).wait_for()
        assert await call(iii, "state::get", scope="customers", key="ada") == {"orders": large}
        await field.fill('{"orders": 5}')
        await call(iii, "state::set", scope="customers", key="ada", value={"orders": 6})
        await page.get_by_text("Changed meanwhile").wait_for()
        assert await field.input_value() == '{"orders": 5}'
        await field.press("Control+Enter")
        await page.get_by_text("saved", exact=True).wait_for()
        assert await call(iii, "state::get", scope="customers", key="ada") == {"orders": 5}
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Delete").click()
        await page.get_by_role("link", name="grace").wait_for()
        assert await call(iii, "state::get", scope="customers", key="ada") is None


async def test_a_new_value_is_stored(console: Console) -> None:
    async with console.open("state") as (page, iii):
        await page.get_by_role("link", name="New value").click()
        await page.get_by_label("Scope", exact=True).fill("a/b c")
        await page.get_by_label("Key", exact=True).fill("ü%2F")
        await page.get_by_label("Value as JSON").fill("[1]")
        await page.get_by_role("button", name="Save").click()
        await page.get_by_role("heading", name="ü%2F").wait_for()
        assert await call(iii, "state::get", scope="a/b c", key="ü%2F") == [1]


async def test_a_stream_is_shown_as_it_changes(console: Console) -> None:
    place = {"stream_name": "kitchen", "group_id": "today"}
    async with console.open("streams/kitchen/today", polls=False) as (page, iii):
        await page.locator(".items").get_by_text("A-1").wait_for()
        await page.locator(".detail .badge.connected").wait_for()
        await call(iii, "stream::set", **place, item_id="A-2", data={"state": "cooking"})
        await page.locator(".items code").get_by_text("cooking").wait_for()
        await call(iii, "stream::delete", **place, item_id="A-2")
        await expect(page.locator(".items details")).to_have_count(1)
        await call(iii, "stream::send", **place, type="bell", data={"rings": 2})
        kinds = page.locator(".events .badge")
        await kinds.get_by_text("bell").wait_for()
        assert await kinds.all_inner_texts() == ["bell", "delete", "create"]


async def test_dead_letters_are_redriven_and_discarded(console: Console) -> None:
    async with console.open("queues/prints") as (page, iii):
        dead = page.get_by_role("article")
        await dead.get_by_text("the printer has no paper").wait_for()
        page.once("dialog", lambda dialog: dialog.accept())
        await dead.get_by_role("button", name="Discard").click()
        await page.get_by_text("None: no message").wait_for()
        for _ in range(2):
            await iii.trigger_async(
                {"function_id": "shop::print", "payload": {}, "action": TriggerAction.Enqueue(queue="prints")}
            )
        await expect(dead).to_have_count(2)
        await page.locator(".list a.row", has_text="2 dead").wait_for()
        await call(iii, "state::set", scope="printer", key="paper", value=True)
        await dead.first.get_by_role("button", name="Redrive").click()
        await expect(dead).to_have_count(1)
        await page.get_by_role("button", name="Redrive all").click()
        await page.get_by_text("None: no message").wait_for()
        assert await call(iii, "engine::queue::dlq_messages", topic="prints") == []


async def test_a_lost_connection_is_told_and_mended(console: Console) -> None:
    """What is shown meanwhile is marked as out of date."""
    with fail_after(50):
        page = await console.page()
        status = page.get_by_role("status")
        async with open_shop() as (engine, _):
            port = int(engine.url.rpartition(":")[2])
            await page.goto(f"{engine.console_url}/#/workers")
            await status.get_by_text("connected to").wait_for()
            await page.locator(".list a.row", has_text="Sells tea").wait_for()
        await status.get_by_text("connection lost").wait_for()
        await expect(page.locator("body")).to_have_class("stale")
        async with open_shop(port=port, console_port=None):
            await status.get_by_text("connected to").wait_for(timeout=20_000)
            await expect(page.locator("body")).to_have_class("")
            await page.locator(".list a.row", has_text="Sells tea").wait_for()
            await page.close()
    # The browser itself reports each try that nobody answers.
    assert [text for text in console.heard if "WebSocket connection" not in text] == []
    console.heard.clear()


async def test_every_view_fits_a_phone(console: Console) -> None:
    places = (
        "workers", "workers/shop/default", "functions", "functions/shop%3A%3Acreate/default", "triggers", "traces",
        "logs", "state/in/customers", "state/in/customers/ada", "streams/kitchen/today", "queues", "queues/prints",
    )  # fmt: skip
    async with console.open(size=PHONE) as (page, _):
        for place in places:
            await show(page, place)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
            narrow = await page.evaluate(
                """[...document.querySelectorAll('main button, main input, main select, main a.row')]
                     .filter((each) => each.checkVisibility() && each.type !== 'checkbox')
                     .map((each) => [each.getBoundingClientRect(), each.outerHTML])
                     .filter(([place]) => place.height < 24 || place.right > innerWidth)"""
            )
            assert narrow == [], place
        # The list and what was chosen take turns.
        await page.evaluate("location.hash = '#/workers'")
        await page.locator(".list a.row", has_text="Sells tea").click()
        await page.get_by_role("heading", name="shop").wait_for()
        assert not await page.locator(".list").is_visible()
        await page.get_by_role("link", name="← Workers").click()
        await page.locator(".list a.row").first.wait_for()


async def test_everything_is_done_with_the_keyboard(console: Console) -> None:
    async with console.open("workers") as (page, _):
        focused = "document.activeElement.textContent || document.activeElement.type"
        await page.keyboard.press("Tab")
        assert await page.evaluate(focused) == "Skip to the content"
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        await page.keyboard.press("?")
        await page.get_by_role("dialog").wait_for()
        await page.keyboard.press("Escape")
        await page.get_by_role("dialog").wait_for(state="hidden")
        await page.keyboard.press("2")
        await page.locator(".list a.row").first.wait_for()
        await page.keyboard.press("/")
        assert await page.evaluate("document.activeElement.type") == "search"
        await page.keyboard.type("shop::pr")
        await expect(page.locator(".list a.row")).to_have_count(2)
        await page.keyboard.press("ArrowDown")
        assert "shop::price" in await page.evaluate(focused)
        await page.keyboard.press("ArrowDown")
        assert "shop::print" in await page.evaluate(focused)
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="shop::price").wait_for()
        await page.get_by_label("Payload as JSON").focus()
        await page.keyboard.press("Control+A")
        await page.keyboard.type('"tea"')
        await page.keyboard.press("Control+Enter")
        await page.get_by_role("region", name="Result").get_by_text("4.5").wait_for()
        await page.keyboard.press("Escape")  # out of the field
        await page.keyboard.press("Escape")  # out of the details
        assert "shop::price" in await page.evaluate(focused)
        assert await page.evaluate("location.hash") == "#/functions"


async def test_every_control_has_a_name(console: Console) -> None:
    async with console.open() as (page, _):
        for place in (
            "functions/shop%3A%3Acreate/default",
            "traces",
            "logs",
            "state/in/customers/ada",
            "queues/prints",
        ):
            await show(page, place)
            nameless = await page.evaluate(
                """[...document.querySelectorAll('a, button, input, select, textarea, summary')]
                     .filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))
                     .map((each) => each.outerHTML)"""
            )
            assert nameless == [], place


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_is_readable_in_both_schemes(console: Console, scheme: str) -> None:
    """Contrast of 4.5 to 1 and more, of all text that is shown."""
    measure = """() => {
      const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
      const rgba = (color) => { context.clearRect(0, 0, 1, 1); context.fillStyle = color; context.fillRect(0, 0, 1, 1);
        return context.getImageData(0, 0, 1, 1).data; };
      const light = (color) => { const [r, g, b] = [...rgba(color)].map((v) => v / 255)
        .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; };
      const back = (node) => { for (; node; node = node.parentElement) {
        const color = getComputedStyle(node).backgroundColor;
        if (rgba(color)[3] > 250) return color; }
        return 'white'; };
      return [...document.querySelectorAll('body *')].filter((each) => each.checkVisibility() &&
        [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((each) => {
          const [a, b] = [light(getComputedStyle(each).color), light(back(each))];
          return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), each.outerHTML]; })
        .filter(([ratio]) => ratio < 4.5); }"""
    async with console.open() as (page, _):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two
        for place in ("queues/prints", "functions/shop%3A%3Acreate/default", "traces", "logs"):
            await show(page, place)
            assert await page.evaluate(measure) == [], place
