"""``iii-anyio doctor``: each thing that can be wrong, and what it says to do."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from iii_anyio import IIIClient
from iii_anyio.cli import _checks as checks
from iii_anyio.devengine import open_engine
from tests.cli.running import CLOSED, cli, cli_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iii_anyio.devengine import Engine


def diagnosis(url: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the last check."""
    done = cli("doctor", "--url", url, "--json")
    report = json.loads(done.stdout)
    assert report["ok"] == (done.exit_code == 0)
    return done.exit_code, report["checks"][-1]


@contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that is no engine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join(30)


def answering(text: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.settimeout(30)
        if connection.recv(4096):
            connection.sendall(text)

    return behave


def silent(connection: socket.socket) -> None:
    connection.settimeout(30)
    while connection.recv(4096):
        pass


def test_an_engine_that_works_is_0_with_its_round_trip_version_and_features(
    server: Engine, worker: IIIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("III_URL", f"{server.url}/?token=s3cret")
    monkeypatch.setenv("III_TOKEN", "t0ken")
    monkeypatch.setenv("III_WORKER_NAME", "kitchen")
    report = cli_json("doctor")
    found = {check["name"]: check for check in report["checks"]}
    assert report["ok"]
    assert found["address"]["source"] == "III_URL"
    assert found["round trip"]["median_ms"] > 0
    assert "observe.v1" in found["features"]["features"]
    assert "iii-state" in found["parts"]["parts"]
    assert found["engine"]["version"]
    assert found["worker name"]["status"] == "warning"
    done = cli("doctor")
    assert "A worker can connect and work." in done.stdout
    for secret in ("s3cret", "t0ken"):
        assert secret not in done.output + json.dumps(report)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "localhost:49134", "ws://127.0.0.1:port", "ws://", "ws://[::1"])
def test_an_address_that_is_none_is_2(url: str) -> None:
    code, check = diagnosis(url)
    assert (code, check["name"], check["status"]) == (2, "address", "failed")
    assert "ws://127.0.0.1:49134" in check["advice"]


def test_a_port_where_nobody_listens_is_3_and_says_how_to_start_an_engine() -> None:
    code, check = diagnosis(CLOSED)
    assert (code, check["name"], check["detail"]) == (3, "TCP", "connection refused")
    assert "iii-anyio dev" in check["advice"]


def test_a_name_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(host: str, *_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", unknown)
    code, check = diagnosis("ws://engine.exmaple:49134")
    assert (code, check["name"]) == (3, "name")
    assert "'engine.exmaple' is unknown" in check["detail"]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "nothing at this path"),
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "check III_TOKEN"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak WebSocket"),
        (b"", ""),
    ],
)
def test_a_server_that_is_no_engine_fails_the_handshake(answer: bytes, detail: str) -> None:
    with peer(answering(answer)) as place:
        code, check = diagnosis(f"ws://{place}")
    assert (code, check["name"]) == (3, "handshake")
    assert detail in check["detail"]


def test_a_server_that_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CONNECT_TIMEOUT", 1.0)
    with peer(silent) as place:
        code, check = diagnosis(f"ws://{place}")
        assert (code, check["name"]) == (3, "handshake")
        assert "1 s" in check["detail"]
        code, check = diagnosis(f"wss://{place}")
        assert (code, check["name"]) == (3, "TLS")
        assert "1 s" in check["detail"]


def test_tls_to_a_plain_engine_is_told(server: Engine) -> None:
    code, check = diagnosis(server.url.replace("ws://", "wss://"))
    assert (code, check["name"]) == (3, "TLS")
    assert "ws://" in check["advice"]


def test_credentials_that_the_listener_refuses_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """§5.7."""
    monkeypatch.setenv("III_TOKEN", "wr0ng")
    listener = {"name": "iii-worker-manager", "config": {"port": 0, "rbac": {"auth_function_id": "nobody::auth"}}}
    opened = open_engine(config={"workers": [listener]}, port=0, http_port=None, stream_port=None)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as engine:
        code, check = diagnosis(engine.url)
        trigger = cli("trigger", "x", "--url", engine.url)
    assert (code, check["name"]) == (3, "credentials")
    assert "III_TOKEN" in check["advice"]
    assert "wr0ng" not in json.dumps(check)
    assert trigger.exit_code == 3
    assert "wr0ng" not in trigger.output


def test_a_token_in_plain_text_to_another_machine_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setenv("III_TOKEN", "t0ken")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(anyio, "connect_tcp", refused)
    done = cli("doctor", "--url", "ws://192.0.2.1:49134")
    assert done.exit_code == 3
    assert "unencrypted" in done.stdout
    assert "t0ken" not in done.output


def test_a_proxy_from_the_environment_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with peer(answering(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")) as place:
        for name in ("ws_proxy", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://ada:pa55@{place}")
        done = cli("doctor", "--url", "ws://192.0.2.1:49134")
    assert done.exit_code == 3
    assert f"http://{place}" in done.stdout
    assert "502" in done.stdout
    assert "pa55" not in done.output
