"""What follows until Ctrl-C: ``state watch``, ``stream watch`` and ``logs --follow``, all on one engine."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from iii_anyio import IIIClient, State, Stream
from tests.cli.running import CLOSED, Running, cli

if TYPE_CHECKING:
    from iii_anyio.devengine import Engine


def test_changes_messages_and_logs_come_out_in_order_until_a_signal(server: Engine, worker: IIIClient) -> None:
    def log(level: str, message: str) -> None:
        worker.trigger(f"engine::log::{level}", {"message": message, "service_name": "shop"})

    log("warn", "before")
    with (
        Running("state", "watch", "users", III_URL=server.url, III_NAMESPACE="elsewhere") as state,
        Running("stream", "watch", "chat", "room", "--json", III_URL=server.url) as stream,
        Running("logs", "--follow", "--level", "warn", III_URL=server.url, III_NAMESPACE="elsewhere") as logs,
    ):
        for running in (state, stream):
            running.until("Watching")
        logs.until("before")
        logs.until("Following")
        State(worker).set("users", "ada", {"age": 36})
        State(worker).set("others", "bob", 1)
        State(worker).delete("users", "ada")
        assert state.until("ada").split() == ["created", "users", "ada", '{"age":36}']
        assert state.until("ada").split() == ["deleted", "users", "ada", '{"age":36}']
        Stream(worker, "chat").set("room", "m1", "hi")
        Stream(worker, "chat").send("room", "typing", {"who": "ada"})
        assert json.loads(stream.until("create"))["id"] == "m1"
        assert json.loads(stream.until("typing"))["event"]["event"]["data"] == {"who": "ada"}
        log("info", "too little")
        log("error", "after")
        assert "ERROR" in logs.until("shop: after")
        for running, number in ((state, signal.SIGINT), (stream, signal.SIGTERM), (logs, signal.SIGINT)):
            running.send(number)
            assert running.ended() == 0
        assert logs.output.count("before") == 1
        assert "too little" not in logs.output
        assert "others" not in state.output


def test_an_engine_that_is_not_there_is_3_at_once() -> None:
    """A watch bridges interruptions, but an address that is wrong never gets better."""
    for words in (["logs", "-f"], ["state", "watch"], ["stream", "watch", "chat"]):
        assert cli(*words, "--url", CLOSED).exit_code == 3
