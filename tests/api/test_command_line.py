"""``python -m iii_anyio dev`` as a person or a script starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from iii_anyio import InitOptions, register_worker

DEV = [sys.executable, "-m", "iii_anyio", "dev"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_says_where_it_listens_serves_and_ends_with_0(backend: str, number: signal.Signals, tmp_path: Path) -> None:
    command = [*DEV, "--port", "0", "--http-port", "0", "--backend", backend, "--data", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        assert engine.stderr is not None
        url = engine.stdout.readline().split()[1]
        http_url = engine.stdout.readline().split()[1]
        try:
            with register_worker(url, InitOptions(worker_name="w")) as iii:
                iii.register_function("hello", lambda _: {"status_code": 200, "body": "hello"})
                iii.register_trigger("http", "hello", {"api_path": "hello"})
                iii.wait_ready(30)
                assert httpx.get(f"{http_url}/hello", trust_env=False, timeout=30).json() == "hello"
        finally:
            engine.send_signal(number)
        assert engine.wait(30) == 0
        assert engine.stderr.read() == ""


def test_a_host_that_others_reach_needs_a_word() -> None:
    done = subprocess.run([*DEV, "--host", "0.0.0.0"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "--allow-remote" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named_and_wrong_arguments_are_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*DEV, "--port", port], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, f"port {port}" in done.stderr) == (1, True)
    wrong = subprocess.run([*DEV, "--port", "70000"], capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, "70000" in wrong.stderr) == (2, True)


DEMO_WITH_ANOTHER_EXPECTATION = """
import sys
sys.path.insert(0, "examples")
import demo
demo.EXCHANGES = (demo.Exchange("prices", "GET", "/prices", 200, {"tea": 99}),)
sys.exit(demo.main())
"""


def test_the_demo_succeeds_and_says_so_when_something_differs() -> None:
    root = Path(__file__).parents[2]
    good = subprocess.run(
        [sys.executable, "examples/demo.py"], cwd=root, env={**os.environ}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (good.returncode, good.stderr) == (0, "")
    assert "All 16 answers are as expected." in good.stdout
    bad = subprocess.run(
        [sys.executable, "-c", DEMO_WITH_ANOTHER_EXPECTATION], cwd=root, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert bad.returncode == 1
    assert "prices: expected 200 with {'tea': 99}" in bad.stderr
