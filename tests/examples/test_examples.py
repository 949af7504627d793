"""Every example runs by its one command, with an engine of its own, and says what it is there to show."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from websockets.sync.client import connect

from iii_anyio.devengine import open_engine
from tests import nodejs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOT_PROGRAMS = {"shop.py", "where.py"}
ELSEWHERE = {"demo.py", "dev.py"}
"""tests/api/test_command_line.py has them."""

# Lines of the output, in this order; others may be between them.
SHOWS = {
    "channel_progress.py": ["film: 8388608 bytes arrived, intact: True"],
    "cpu_processes.py": [
        "meanwhile: pong",
        "78498 primes below 1000000, counted elsewhere",
        "148933 primes below 2000000, counted elsewhere",
    ],
    "cron.py": ["tick 1: due", "tick 2: due", "seconds between them: "],
    "http_middleware.py": [
        "log: GET /health -> 200",
        '200 "well"',
        "401 ",
        '201 {"for":"Ada","item":"tea"}',
        "400 ",
        "201 ",
        "log: POST /orders -> 429",
        "429 ",
    ],
    "orders.py": [
        '201 {"number":1,"total":9.0}',
        "stub: Receipt(number=2, total=13.5)",
        "jobs: confirmed [1, 2]",
        "closed",
    ],
    "queue_pipeline.py": [
        "charge A-2: attempt 2, the card is refused",
        "dead: A-2, because card_refused: card 4000 is refused",
        "redriven: 1",
        "order A-2: shipped",
        "dead letters left: 0",
    ],
    "reactive_state.py": ["tea is low (2), ordering ten", "in the end: count=12 sold=2"],
    "starlette_app.py": ['200 {"greeting":"Hello, Ada!","visits":1', '200 {"greeting":"Hello, Bob!","visits":2'],
    "sync_script.py": ["20 °C = 68.0 °F", "refused: invalid_payload", "stored: celsius=20.0"],
    "triggers.py": [
        "configuration configuration:registered",
        "cron          tick",
        "functions     functions_changed",
        "http          GET for Ada",
        "log           an error",
        "queue         {'to': 'Ada'}",
        "state         light is on",
        "stream        create in lobby",
        "subscribe     it rains",
        "trace         new spans",
        "workers       worker_",
    ],
    "trio_app.py": [
        "measured: ['19 degrees', '20 degrees', '21 degrees']",
        "gave up: True",
        "and so did the worker: TIMEOUT",
        "the handler that never ends is cancelled with its worker",
    ],
}


class Done(NamedTuple):
    """What became of a program."""

    code: int
    output: str


def run(name: str, **environment: str) -> Done:
    env = {key: value for key, value in os.environ.items() if not key.startswith("III_")}
    process = subprocess.run(
        [sys.executable, "-X", "utf8", f"examples/{name}"], cwd=ROOT, env={**env, **environment}, text=True,
        encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100, check=False,
    )  # fmt: skip
    return Done(process.returncode, process.stdout)


def check(name: str, done: Done) -> None:
    assert done.code == 0, done.output
    assert "did not fire" not in done.output
    rest = done.output
    for line in SHOWS[name]:
        _, is_there, rest = rest.partition(line)
        assert is_there, f"{line!r} is missing, or comes too early, in the output of {name}:\n{done.output}"


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Done]]]:
    """The examples that this session asks for, a few at a time."""
    items: list[Any] = request.session.items
    wanted = [item.callspec.params["name"] for item in items if item.path == Path(__file__) and _takes_runs(item)]
    with ThreadPoolExecutor(3) as pool:
        yield {name: pool.submit(run, name) for name in wanted}


def _takes_runs(item: Any) -> bool:
    return "runs" in getattr(item, "fixturenames", ())


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_an_example_runs_by_its_one_command(name: str, runs: dict[str, Future[Done]]) -> None:
    check(name, runs[name].result())


@pytest.mark.parametrize("name", ["http_middleware.py", "queue_pipeline.py", "sync_script.py"])
def test_an_example_uses_the_engine_that_is_there(name: str) -> None:
    opened = open_engine(port=0, http_port=0, stream_port=0)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as engine:
        check(name, run(name, III_URL=engine.url, III_HTTP_URL=engine.http_url, III_STREAM_URL=engine.stream_url))


def test_the_chat_page_asks_and_is_answered_bit_by_bit() -> None:
    command = [sys.executable, "-u", "examples/chat.py"]
    # With stderr: a warning before the address would fail this, too.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with httpx.Client(trust_env=False, timeout=30) as client:
                page = client.get(url)
                assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
                [stream_url] = re.findall(r'new WebSocket\("(ws://127\.0\.0\.1:\d+)"\)', page.text)
                with client.stream("POST", url, json={"text": "good morning"}) as answer:
                    pieces = list(answer.iter_text())
            assert "".join(pieces) == "You said 'good morning'. That has 2 words. "
            assert len(pieces) > 1
            with connect(stream_url, proxy=None) as stream:  # as another window does
                place = {"subscriptionId": "1", "streamName": "chat", "groupId": "lobby"}
                stream.send(json.dumps({"type": "join", "data": place}))
                synchronised = json.loads(stream.recv(timeout=30))["event"]
            assert synchronised["type"] == "sync"
            assert [message["who"] for message in synchronised["data"]] == ["you", "iii"]
        finally:
            process.terminate()
        assert process.wait(timeout=50) == 0


def test_workers_in_node_and_python_and_a_page_call_each_other() -> None:
    """With the page's part played by a WebSocket; tests/browser/test_mixed.py has a browser."""
    nodejs.node_or_skip(nodejs.EXAMPLES)
    command = [sys.executable, "-u", "examples/mixed.py"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            receipt, workers, url = (process.stdout.readline().strip() for _ in range(3))
            assert receipt == "a receipt of Node: tea: 5.40 €"
            assert workers == "workers: ['node-prices (node)', 'python-tax (python)']"
            page = httpx.get(url, trust_env=False, timeout=30)
            [worker_url] = re.findall(r'new WebSocket\("(ws://127\.0\.0\.1:\d+/?)"\)', page.text)
            with connect(worker_url, proxy=None) as socket:
                call = {"type": "invokefunction", "invocation_id": str(uuid4()), "function_id": "node::receipt"}
                socket.send(json.dumps(call | {"data": {"sku": "coffee"}}))
                while (answer := json.loads(socket.recv(timeout=30)))["type"] != "invocationresult":
                    pass
            assert answer["result"] == "coffee: 8.70 €"
        finally:
            process.terminate()
        assert process.wait(timeout=50) == 0


def test_every_example_is_tested_and_tells_its_command() -> None:
    every = {path.name for path in EXAMPLES.glob("*.py")}
    assert set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8"))) == every - {"dev.py"}
    programs = every - NOT_PROGRAMS - ELSEWHERE
    assert programs == SHOWS.keys() | {"chat.py", "mixed.py"}
    for name in programs:
        text = (EXAMPLES / name).read_text("utf-8")
        assert f"python examples/{name}" in (ast.get_docstring(ast.parse(text)) or "")
        assert text.count("\n") <= 140, f"{name} is too long to be an example"
