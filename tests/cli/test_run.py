"""``iii-anyio run``: what it serves, how it ends, reloading and several processes."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from iii_anyio import IIIClient, InitOptions, register_worker
from iii_anyio.cli._serving import Settings, serve_here
from tests.cli.running import CLOSED, PATIENCE, Running, cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

    from iii_anyio.devengine import Engine

TERM, INT = signal.SIGTERM, signal.SIGINT

SHOP = """
import os
from contextlib import asynccontextmanager
from iii_anyio import App, Worker

@asynccontextmanager
async def lifespan():
    try:
        yield
    finally:
        print("cleaned up", flush=True)

app = App("shop", lifespan=lifespan)

@app.function()
async def slow(data, iii: Worker):
    return await iii.trigger_async("gate", {}, namespace="default")

@app.function()
async def crash(data):
    os._exit(7)

@app.function()
def who(data):
    return os.environ.get("III_PROCESS")

def make():
    return app

def number():
    return 1

def register(iii):
    iii.register_function("registered", lambda _: "sync")

async def serves(iii):
    iii.register_function("served", lambda _: "async")
    await iii.wait_ready()
    print("up", flush=True)
    await iii.serve()
    print("down", flush=True)

async def asks(iii):
    print("got", await iii.trigger_async("gate", {}), flush=True)

async def sleeps(iii):
    import anyio
    print("asleep", flush=True)
    await anyio.sleep_forever()

async def breaks(iii):
    raise ValueError("broken program")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    (tmp_path / "broken.py").write_text("import nothing_like_this\n", "utf-8")
    (tmp_path / "raises.py").write_text("1 / 0\n", "utf-8")
    return tmp_path


class Gate:
    """The function ``gate`` waits until it is opened."""

    def __init__(self, iii: IIIClient) -> None:
        self.iii = iii
        self.entered, self.opened = threading.Event(), threading.Event()
        iii.register_function("gate", self._wait)
        iii.wait_ready(PATIENCE)

    def _wait(self, _: Any) -> str:
        self.entered.set()
        self.opened.wait(PATIENCE)
        return "through"


@pytest.fixture
def gate(server: Engine) -> Iterator[Gate]:
    with register_worker(server.url, InitOptions(worker_name="gate", handle_signals=False)) as iii:
        found = Gate(iii)
        yield found
        found.opened.set()


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_signal_lets_running_handlers_finish_and_ends_with_0(
    backend: str, server: Engine, gate: Gate, folder: Path
) -> None:
    with (
        Running("run", "shop", "--backend", backend, cwd=folder, III_URL=server.url) as running,
        ThreadPoolExecutor() as threads,
    ):
        running.until("Serving app shop, 3 functions")
        answer = threads.submit(gate.iii.trigger, "shop::slow", {})
        assert gate.entered.wait(PATIENCE)
        running.send(TERM)
        running.until("Draining")
        gate.opened.set()
        assert answer.result(PATIENCE) == "through"
        assert running.ended() == 0
        assert running.lines[-1] == "cleaned up"


def test_a_second_signal_does_not_wait_and_is_the_exit_code(server: Engine, gate: Gate, folder: Path) -> None:
    with Running("run", "shop:app", "--url", server.url, cwd=folder) as running:
        running.until("Serving")
        gate.iii.trigger({"function_id": "shop::slow", "payload": {}, "action": {"type": "void"}})
        assert gate.entered.wait(PATIENCE)
        running.send(INT)
        running.until("Draining")
        running.send(TERM)
        assert running.ended() == 128 + TERM
        assert "cleaned up" in running.lines


@pytest.mark.parametrize(("program", "up"), [("serves", "up"), ("sleeps", "asleep")])
def test_an_async_program_is_ended_by_a_signal(program: str, up: str, server: Engine, folder: Path) -> None:
    with Running("run", f"shop:{program}", cwd=folder, III_URL=server.url) as running:
        running.until(up)
        running.send(INT)
        assert running.ended() == 0
        assert ("down" in running.lines) == (program == "serves")


def run_here(target: str, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Without a process, for what ends by itself."""
    with importing(monkeypatch):
        return cli("run", target, "--app-dir", str(folder), "--url", url)


@contextmanager
def importing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What serving in this process changes in it does not last."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        yield
    finally:
        sys.modules.pop("shop", None)
        logging.getLogger("httpx").setLevel(logging.NOTSET)


def test_an_async_program_that_returns_ends_the_command_and_says_how_to_serve_on(
    server: Engine, gate: Gate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.opened.set()
    done = run_here("shop:asks", folder, server.url, monkeypatch)
    assert (done.exit_code, done.stdout) == (0, "got through\n")
    assert "await iii.serve()" in done.stderr


def test_a_program_that_fails_is_1_with_its_traceback(
    server: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_here("shop:breaks", folder, server.url, monkeypatch)
    assert done.exit_code == 1
    assert "ValueError: broken program" in done.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1", "ws://ada:pa55@"])
def test_an_address_that_is_none_is_2(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_here("shop", folder, url, monkeypatch)
    assert done.exit_code == 2
    assert "not a WebSocket address" in done.stderr
    assert "Traceback" not in done.stderr
    assert "pa55" not in done.stderr


def test_a_worker_that_the_engine_refuses_is_3(
    server: Engine, gate: Gate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-35: the name is taken."""
    monkeypatch.setenv("III_WORKER_NAME", "gate")
    done = run_here("shop", folder, server.url, monkeypatch)
    assert done.exit_code == 3
    assert "WORKER_NAMESPACE_CONFLICT" in done.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:app", "there is no module 'nowhere'"),
        ("shop:nothing", "no 'nothing'"),
        ("shop:nothing", "shop:app"),
        ("shop.py", "shop:app"),
        ("./shop.py:app", "shop:app"),
        ("shop:SHOP", "has no"),
        ("shop:os", "not an App"),
        ("shop:number", "returned int"),
        ("shop:lifespan.__name__", "not an App"),
        ("broken", "No module named 'nothing_like_this'"),
        ("raises", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_served_is_2_and_says_what_can(
    target: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_here(target, folder, CLOSED, monkeypatch)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_function_that_is_refused_is_named_and_the_rest_is_served(server: Engine, gate: Gate, folder: Path) -> None:
    """P-18."""
    gate.iii.register_function("shop::who", lambda _: "mine")
    gate.iii.wait_ready(PATIENCE)
    with Running("run", "shop", cwd=folder, III_URL=server.url) as running:
        assert "shop::who" in running.until("Refused, the rest is served")
        running.until("Serving")
        running.send(TERM)
        assert running.ended() == 0


# -- children --------------------------------------------------------------------------------------------------------


def test_a_change_drains_the_old_process_and_starts_a_new_one(server: Engine, gate: Gate, folder: Path) -> None:
    module = folder / "shop.py"
    with Running("run", "shop:register", "--reload", cwd=folder, III_URL=server.url) as running:
        running.until("Serving shop:register")
        assert gate.iii.trigger("registered") == "sync"
        module.write_text("this is no Python", "utf-8")
        assert running.until("reloading").startswith("shop.py changed")
        running.until("Draining")
        running.until("SyntaxError")
        running.until("waiting for a change")
        module.write_text(SHOP.replace('"sync"', '"new"'), "utf-8")
        running.until("Serving")
        assert gate.iii.trigger("registered") == "new"
        running.send(INT)
        assert running.ended() == 0


def test_processes_are_numbered_restarted_after_a_crash_and_drained(server: Engine, gate: Gate, folder: Path) -> None:
    arguments = ["run", "shop", "--processes", "2", "--namespace", "part-{n}"]
    with Running(*arguments, cwd=folder, III_URL=server.url, III_WORKER_NAME="pair") as running:
        running.until("Serving")
        running.until("Serving")
        names = {row.name for row in gate.iii.list_workers() if row.runtime == "python"}
        assert {"pair:0", "pair:1"} <= names
        assert [gate.iii.trigger("shop::who", namespace=f"part-{n}") for n in (0, 1)] == ["0", "1"]
        gate.iii.trigger("shop::crash", {}, namespace="part-1", action={"type": "void"})
        assert "shop #1 ended with code 7; starting it again in 0.5 s" in running.until("starting it again")
        running.until("Serving")
        assert gate.iii.trigger("shop::who", namespace="part-1") == "1"
        gate.iii.trigger("shop::slow", {}, namespace="part-0", action={"type": "void"})
        assert gate.entered.wait(PATIENCE)
        running.send(TERM)
        running.until("Draining")
        running.send(TERM)
        assert running.ended() == 128 + TERM


def test_processes_that_would_export_the_same_functions_are_2_with_advice(
    server: Engine, gate: Gate, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """P-115: a function id has one live owner in a namespace; here the second of two children meets it."""
    gate.iii.register_function("shop::who", lambda _: "mine")
    gate.iii.wait_ready(PATIENCE)
    with importing(monkeypatch):
        settings = Settings(target="shop", app_dir=str(folder), url=server.url, number=1, processes=2)
        assert serve_here(settings) == 2
    said = capsys.readouterr().err
    assert "--namespace 'NAME-{n}'" in said
    assert "execution='process'" in said


def test_a_child_outlives_its_parent_only_to_drain(server: Engine, gate: Gate, folder: Path) -> None:
    with Running("run", "shop:register", "--reload", "--json", cwd=folder, III_URL=server.url) as running:
        event = json.loads(running.until('"serving"'))
        assert event["pid"] != running.process.pid
        assert (event["app"], event["namespace"]) == ("shop:register", "default")
        running.send(signal.SIGKILL)
        assert running.ended() == -signal.SIGKILL  # and the child has closed the pipe, so it has ended
        while "registered" in [row.function_id for row in gate.iii.list_functions()]:
            pass  # until the engine has seen it
