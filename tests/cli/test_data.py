"""``iii-anyio state``, ``stream``, ``queue`` and ``logs``, against an engine that has them and one that has not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from iii_anyio import IIIClient, InvocationError, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.testing import QueueDriver
from tests.cli.running import cli, cli_json

if TYPE_CHECKING:
    from iii_anyio.devengine import Engine


@pytest.fixture(autouse=True)
def at_server(server: Engine, worker: IIIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("III_URL", server.url)


def test_state_is_set_read_listed_and_deleted() -> None:
    assert cli_json("state", "set", "users", "ada", '{"age": 36}') == {"old_value": None, "new_value": {"age": 36}}
    assert cli_json("state", "get", "users", "ada") == {"age": 36}
    assert cli("state", "get", "users", "ada").stdout == '{\n  "age": 36\n}\n'
    assert cli_json("state", "get", "users", "nobody") is None
    assert cli_json("state", "list", "users") == [{"age": 36}]
    assert cli_json("state", "list") == ["users"]
    assert "users" in cli("state", "list").stdout
    assert cli_json("state", "delete", "users", "ada") == {"age": 36}
    assert cli_json("state", "list", "users") == []
    assert cli("state", "set", "users", "ada", "{").exit_code == 2


def test_items_of_streams_are_set_read_listed_sent_and_deleted() -> None:
    assert cli_json("stream", "set", "chat", "room", "m1", '"hi"')["new_value"] == "hi"
    assert cli_json("stream", "get", "chat", "room", "m1") == "hi"
    assert cli_json("stream", "list", "chat", "room") == ["hi"]
    assert cli_json("stream", "list", "chat") == ["room"]
    assert "room" in cli("stream", "list", "chat").stdout
    assert cli("stream", "send", "chat", "room", "typing", "{}").exit_code == 0
    assert cli_json("stream", "delete", "chat", "room", "m1") == "hi"
    assert cli_json("stream", "get", "chat", "room", "m1") is None


def test_dead_messages_are_listed_redriven_and_discarded(worker: IIIClient, server: Engine) -> None:
    """Q-37 to Q-41."""

    def spoiled(_: Any) -> None:
        raise InvocationError("spoiled", "no good")

    worker.register_function("test::spoiled", spoiled)
    config = {"topic": "mails", "queue_config": {"maxRetries": 1, "backoffDelayMs": 1}}
    worker.register_trigger("durable:subscriber", "test::spoiled", config)
    worker.wait_ready(30)

    async def drained() -> None:
        async with open_worker(server.url) as iii:
            await QueueDriver(iii).drain("mails")

    worker.trigger("iii::durable::publish", {"topic": "mails", "data": {"to": "ada"}})
    anyio.run(drained)
    rows = cli_json("queue", "dead", "mails")
    assert [row["payload"] for row in rows] == [{"to": "ada"}]
    assert "no good" in cli("queue", "dead", "mails").stdout
    assert {row["name"]: row["dlq_depth"] for row in cli_json("queue", "list")}["mails"] == 1
    assert cli("queue", "redrive", "mails").stdout == "1 redriven\n"
    anyio.run(drained)
    assert cli_json("queue", "discard", "mails", rows[0]["id"]) == {
        "queue": "mails", "message_id": rows[0]["id"], "redriven": 1,
    }  # fmt: skip
    assert cli("queue", "dead", "nothing").stderr == "No dead messages in nothing.\n"


def test_logs_are_listed_oldest_first_from_a_level_on(worker: IIIClient) -> None:
    for level, message in (("debug", "d"), ("info", "\x1b[31mi"), ("warn", "w"), ("error", "e")):
        request = {"message": message, "data": {"n": 1}, "service_name": "shop"}
        worker.trigger({"function_id": f"engine::log::{level}", "payload": request})
    lines = cli("logs", "--level", "warn").stdout.splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["WARN", "shop:", "w", '{"n":1}'],
        ["ERROR", "shop:", "e", '{"n":1}'],
    ]
    printed = cli("logs", "--json", "--limit", "3", "--level", "debug").stdout
    assert [json.loads(line)["severity_text"] for line in printed.splitlines()] == ["INFO", "WARN", "ERROR"]
    assert cli("logs", "--service", "bakery").stderr == "No logs.\n"
    assert len(cli("logs", "--service", "shop", "--limit", "1").stdout.splitlines()) == 1
    assert "\x1b" not in cli("logs").stdout
    wrong = cli("logs", "--level", "loud")
    assert (wrong.exit_code, "warn" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["state", "get", "a", "b"], "iii-state"),
        (["stream", "list", "a"], "iii-stream"),
        (["queue", "list"], "iii-queue"),
        (["queue", "redrive", "q"], "iii-queue"),
    ],
)
def test_an_engine_without_the_part_is_named(arguments: list[str], part: str) -> None:
    """EC-5: they exist only if listed."""
    opened = open_engine(config={"workers": []}, port=0, http_port=None, stream_port=None)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as engine:
        done = cli(*arguments, "--url", engine.url)
    assert done.exit_code == 1
    assert f"runs without {part}" in done.stderr
