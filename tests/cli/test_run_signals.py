"""SIGTERM and Ctrl-C for ``run`` with its children: the first drains, the second forces, and nothing else is said.

Without children: ``test_run``. In scripts and in programs of one's own: ``tests/api/test_lifecycle.py``.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from iii_anyio import InitOptions, InvocationError, register_worker
from tests.cli.running import PATIENCE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iii_anyio.devengine import Engine

SHOP = """
from iii_anyio import App, Worker

app = App("shop")

@app.function()
async def slow(data, iii: Worker):
    return await iii.trigger_async("gate", {}, namespace="default")
"""

BACKENDS = pytest.mark.parametrize(
    ("backend", "number"), [("asyncio", signal.SIGTERM), ("trio", signal.SIGINT)], ids=["asyncio", "trio"]
)
KEEPING = pytest.mark.parametrize(
    ("options", "children"),
    [(["--reload"], 1), (["--processes", "2", "--namespace", "part-{n}"], 2)],
    ids=["reload", "processes"],
)


class Gate:
    """A worker whose function ``gate`` waits until it is opened, and that calls what is run."""

    def __init__(self, url: str) -> None:
        self.iii = register_worker(url, InitOptions("gate", handle_signals=False))
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        self.iii.register_function("gate", self._wait)
        self.iii.wait_ready(PATIENCE)

    def _wait(self, _: Any) -> str:
        self.entered.release()
        self.opened.wait(PATIENCE)
        return "through"

    def call(self, namespace: str) -> Any:
        """What a call of ``slow`` comes to: its result or the code of its error."""
        try:
            return self.iii.trigger("shop::slow", {}, namespace=namespace)
        except InvocationError as exc:
            return exc.code


@pytest.fixture
def gate(server: Engine) -> Iterator[Gate]:
    made = Gate(server.url)
    yield made
    made.opened.set()
    made.iii.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    return tmp_path


def namespaces(children: int) -> list[str]:
    return ["default"] if children == 1 else [f"part-{n}" for n in range(children)]


@contextmanager
def serving(
    options: list[str], children: int, backend: str, server: Engine, gate: Gate, folder: Path
) -> Iterator[tuple[Running, list[Future[Any]]]]:
    """``run`` with so many children, a call in a handler of each, and what the calls will come to."""
    arguments = ["run", "shop", "--backend", backend, *options]
    with Running(*arguments, cwd=folder, III_URL=server.url) as running, ThreadPoolExecutor() as threads:
        for _ in range(children):
            running.until("Serving")
        answers = [threads.submit(gate.call, namespace) for namespace in namespaces(children)]
        for _ in answers:
            assert gate.entered.acquire(timeout=PATIENCE)
        yield running, answers


def noise(running: Running) -> list[str]:
    """What is said once the drain has begun, and is not that."""
    (first, *_) = [n for n, line in enumerate(running.lines) if "Draining" in line]
    return [line for line in running.lines[first:] if "Draining" not in line]


@BACKENDS
@KEEPING
def test_one_signal_lets_the_handlers_of_every_child_finish(
    number: signal.Signals, options: list[str], children: int, backend: str, server: Engine, gate: Gate, folder: Path
) -> None:
    with serving(options, children, backend, server, gate, folder) as (running, answers):
        running.send(number)
        for _ in range(children):
            running.until("Draining")
        gate.opened.set()
        assert [answer.result(PATIENCE) for answer in answers] == ["through"] * children
        assert running.ended() == 0
        assert noise(running) == []


@BACKENDS
@KEEPING
def test_a_second_signal_does_not_wait_for_handlers(
    number: signal.Signals, options: list[str], children: int, backend: str, server: Engine, gate: Gate, folder: Path
) -> None:
    """Those that could not finish are named in the log, and their callers are told."""
    with serving(options, children, backend, server, gate, folder) as (running, answers):
        running.send(signal.SIGTERM)
        for _ in range(children):
            running.until("Draining")
        running.send(number)
        assert running.ended() == 128 + number
        assert {answer.result(PATIENCE) for answer in answers} <= {"invocation_cancelled", "invocation_stopped"}
        assert "Traceback" not in running.output
