"""The console's server and the page's worker, without a browser; tests/browser looks at the page itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, InvocationError, open_worker
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine._console import ConsoleApp, browser_url, read_files
from iii_anyio.testing import FaultProxy

pytestmark = pytest.mark.anyio

NODE = shutil.which("node")
SCRIPT = Path(__file__).with_name("console_wire.mjs")


def console_engine(*, stream_port: int | None = None, console_port: int = 0) -> Engine:
    return open_engine(port=0, http_port=None, stream_port=stream_port, console_port=console_port)


async def get(app: ConsoleApp, path: str = "/", host: str = "127.0.0.1:3113", method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
        return await client.request(method, path, headers={"host": host})


@pytest.fixture
def app() -> ConsoleApp:
    return ConsoleApp(read_files(), {"url": "ws://127.0.0.1:1", "stream_url": "ws://127.0.0.1:2"})


async def test_the_page_and_its_files_are_served_with_their_types(app: ConsoleApp) -> None:
    page = await get(app)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert (await get(app, "/index.html")).text == page.text
    assert (await get(app, "/console.js")).headers["content-type"] == "text/javascript; charset=utf-8"
    assert (await get(app, "/style.css")).headers["content-type"] == "text/css; charset=utf-8"
    assert (await get(app, "/icon.svg")).headers["content-type"] == "image/svg+xml"


def test_every_file_that_the_page_names_is_there_and_none_is_elsewhere() -> None:
    pages = {name: body.decode() for name, body in read_files().items()}
    code = {name: text for name, text in pages.items() if name != "icon.svg"}  # names its XML namespace
    assert not [found for text in code.values() for found in re.findall(r"""["'(](?:https?:)?//[^"'\s)]+""", text)]
    modules = {name for text in code.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    linked = set(re.findall(r'(?:href|src)="([^"#]+)"', pages["index.html"]))
    assert modules
    assert linked
    assert modules | linked <= pages.keys()


async def test_the_policy_allows_own_scripts_and_the_engine_and_nothing_else(app: ConsoleApp) -> None:
    for path in ("/", "/console.js", "/engine.json", "/nowhere"):
        response = await get(app, path)
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["connect-src"] == "'self' ws://127.0.0.1:1 ws://127.0.0.1:2"
        assert policy["frame-ancestors"] == "'none'"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["127.0.0.1:3113", "127.0.0.1", "localhost:3113", "LOCALHOST", "[::1]:3113", "[::1]"])
async def test_names_of_this_machine_are_answered(app: ConsoleApp, host: str) -> None:
    assert (await get(app, host=host)).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3113", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "10.0.0.1:3113"],
)
async def test_another_name_for_this_machine_is_refused(app: ConsoleApp, host: str) -> None:
    """DNS rebinding: the browser of a page elsewhere comes with that page's name."""
    for path in ("/", "/engine.json"):
        assert (await get(app, path, host=host)).status_code == 403


async def test_other_paths_and_methods_are_refused(app: ConsoleApp) -> None:
    assert (await get(app, "/../_console.py")).status_code == 404
    assert (await get(app, "/%2e%2e/_console.py")).status_code == 404
    refused = await get(app, method="POST")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD"


def test_urls_are_those_that_a_browser_of_this_machine_reaches() -> None:
    assert browser_url("ws://0.0.0.0:49134") == "ws://127.0.0.1:49134"
    assert browser_url("ws://[::1]:49134") == "ws://localhost:49134"
    assert browser_url("ws://127.0.0.1:49134") == "ws://127.0.0.1:49134"
    assert browser_url("") == ""


async def test_the_engine_serves_the_console_and_says_where_to_connect() -> None:
    with fail_after(50):
        async with console_engine(stream_port=0) as engine, httpx.AsyncClient() as client:
            assert engine.console_url.startswith("http://127.0.0.1:")
            facts = (await client.get(f"{engine.console_url}/engine.json")).json()
            assert (facts["url"], facts["stream_url"], facts["http_url"]) == (engine.url, engine.stream_url, "")
            head = await client.head(engine.console_url)
            assert head.status_code == 200
            assert not head.content
            assert int(head.headers["content-length"]) > 100


async def test_there_is_no_console_unless_it_is_asked_for() -> None:
    with fail_after(50):
        async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as iii:
            assert engine.console_url == ""
            with pytest.raises(InvocationError, match="function_not_found"):
                await iii.trigger_async({"function_id": "iii-console::state_entries", "payload": {"scope": "s"}})


async def test_a_console_without_a_port_for_workers_is_an_error() -> None:
    with fail_after(50), pytest.raises(ValueError, match="needs a port for workers"):
        async with open_engine(port=None, console_port=0):
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    with fail_after(50):
        async with console_engine() as engine:
            port = int(engine.console_url.rpartition(":")[2])
            with pytest.raises(OSError, match=f"console_port {port}"):
                async with console_engine(console_port=port):
                    pass


async def test_the_keys_of_state_and_the_ids_of_items_are_told() -> None:
    """ST-5: ``state::list`` and ``stream::list`` give values only."""
    with fail_after(50):
        async with console_engine() as engine, open_worker(connector=engine.connector()) as iii:

            async def call(function_id: str, **payload: Any) -> Any:
                return await iii.trigger_async({"function_id": function_id, "payload": payload})

            await call("state::set", scope="s", key="k", value={"n": 1})
            assert await call("iii-console::state_entries", scope="s") == {
                "entries": [{"key": "k", "value": {"n": 1}}],
                "total": 1,
            }
            assert await call("iii-console::state_entries", scope="none") == {"entries": [], "total": 0}
            # Names that would run into each other if they were joined by a character.
            for group, item in (("g", "1"), ('g","x', "2"), ("g2", "3")):
                await call("stream::set", stream_name="s", group_id=group, item_id=item, data=item)
            for group, item in (("g", "1"), ('g","x', "2")):
                found = await call("iii-console::stream_entries", stream_name="s", group_id=group)
                assert found == {"entries": [{"key": item, "value": item}], "total": 1}
            assert await call("state::list_groups") == {"groups": ["s"]}  # looking makes no scope
            with pytest.raises(InvocationError, match="scope"):
                await call("iii-console::state_entries")


async def test_an_answer_holds_so_many_entries_and_says_how_many_there_are() -> None:
    with fail_after(50):
        async with console_engine() as engine, open_worker(connector=engine.connector()) as iii:

            async def put(scope: str, key: str, value: str) -> None:
                payload = {"scope": scope, "key": key, "value": value}
                await iii.trigger_async({"function_id": "state::set", "payload": payload})

            for number in range(1003):
                await put("many", str(number), "")
            for number in range(3):
                await put("large", str(number), "x" * 3_000_000)
            for scope, shown, total in (("many", 1000, 1003), ("large", 2, 3)):
                found = await iii.trigger_async(
                    {"function_id": "iii-console::state_entries", "payload": {"scope": scope}}
                )
                assert (len(found["entries"]), found["total"]) == (shown, total)


async def test_the_functions_of_the_console_are_internal() -> None:
    with fail_after(50):
        async with console_engine() as engine, open_worker(connector=engine.connector()) as iii:
            listed = await iii.trigger_async({"function_id": "engine::functions::list", "payload": {}})
            assert not [row for row in listed["functions"] if row["worker_name"] == "iii-console"]


# -- the page's worker -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules where node takes them for such."""
    if NODE is None:
        pytest.skip("needs node")
    if subprocess.run(
        [NODE, "--experimental-websocket", "-e", "WebSocket"], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs a node that has WebSocket: 20.10 or newer")
    folder = tmp_path_factory.mktemp("console")
    for name, body in read_files().items():
        (folder / name).write_bytes(body)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    return folder


async def page(modules: Path, url: str, scenario: str) -> Any:
    command = [NODE or "", "--no-warnings", "--experimental-websocket", str(SCRIPT), str(modules), url, scenario]
    done = await anyio.run_process(command, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def test_the_page_calls_and_is_called(modules: Path) -> None:
    """Protocol §5 to §7: registration, results, errors, void calls, a trigger that fires a function of the page."""
    with fail_after(50):
        async with console_engine() as engine:
            answers = await page(modules, engine.url, "calls")
    assert answers["early"]["code"] == "NOT_CONNECTED"
    assert answers["double"] == {"value": 42}
    assert answers["fail"] == {"code": "invocation_failed", "message": "no"}
    assert answers["missing"]["code"] == "function_not_found"
    assert answers["nothing"] == answers["void"] == {"value": None}
    assert answers["traceparent"].count("-") == 3
    assert answers["heard"] == [["state:created", "k"]]
    assert answers["closed"] == "closed"


async def test_the_page_connects_again_and_registers_again(modules: Path) -> None:
    """Protocol §6.5: with its reattach token, so that its name is not taken by itself."""
    with fail_after(50):
        async with (
            console_engine() as engine,
            FaultProxy(engine.url) as proxy,
            open_worker(connector=engine.connector()) as iii,
        ):

            async def cut(_: Any) -> None:
                proxy.reset()

            iii.register_function("cut", cut)
            await iii.wait_ready()
            answers = await page(modules, proxy.url, "reconnects")
    assert answers["lost"]["code"] == "CONNECTION_LOST"
    assert answers["again"] == {"value": 8}
    assert answers["isNew"]


async def test_the_page_gives_up_when_the_engine_refuses_it(modules: Path) -> None:
    """Protocol §5.6: ``WORKER_NAMESPACE_CONFLICT`` is fatal."""
    with fail_after(50):
        async with (
            console_engine() as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="page")),
        ):
            answers = await page(modules, engine.url, "refused")
    assert "WORKER_NAMESPACE_CONFLICT" in answers["problem"]
