"""The WebSocket cases of the Autobahn testsuite, run by kosoku, against both ends of this package's wire.

The subject is an echo: the listener that the engine's workers connect to, and the connector that workers use. kosoku
runs in a process of its own, ``kosoku_judge.py``, in an environment of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import anyio
from anyio import create_task_group
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

from iii_anyio._wire.connect import websocket_connector
from iii_anyio._wire.listen import Accepted, serve_websockets
from iii_anyio.abc import ChannelWire
from iii_anyio.errors import LinkClosed

__all__ = ("AUTOBAHN", "Side", "judge_autobahn")

Side: TypeAlias = Literal["server", "client"]
"""Which end is judged."""

AUTOBAHN: Final = "kosoku==0.1.0"
PROGRAM: Final = str(Path(__file__).with_name("kosoku_judge.py"))
COMPRESSION: Final = ("12.*", "13.*")
"""Cases of permessage-deflate, which neither end offers (P-101)."""

NON_STRICT: Final = {
    **dict.fromkeys(
        ("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"),
        "good messages in the same read as a broken frame are handed out, but the connection fails before an answer",
    ),
    **dict.fromkeys(
        ("6.4.1", "6.4.2", "6.4.3", "6.4.4"), "text is checked when its message is complete, not byte by byte"
    ),
}
"""What may be stricter, and why it is not. Each is allowed by RFC 6455."""


async def echo(wire: ChannelWire) -> None:
    try:
        while True:
            for is_text, message in await wire.receive_typed():
                await (wire.send([message]) if is_text else wire.send_binary([message]))
    except LinkClosed:
        pass


def judge_autobahn(python: str, side: Side) -> tuple[int, list[str], str]:
    """Run the cases: how many, what failed, and what else there is to say."""
    rows: list[dict[str, Any]] = anyio.run(_judge_server if side == "server" else _judge_client, python)
    failed = [
        f"{row['case']}: {row['behavior']}, close {row['close']}: {row['result']} {row['result_close']}"
        for row in rows
        if not is_passed(row)
    ]
    counts = Counter(row["behavior"].lower() for row in rows)
    return len(rows), failed, ", ".join(f"{count} {behavior}" for behavior, count in counts.most_common())


def is_passed(row: dict[str, Any]) -> bool:
    """Whether a case is as it should be, or as ``NON_STRICT`` explains."""
    behavior, close = row["behavior"], row["close"]
    is_explained = behavior == "NON-STRICT" and row["case"] in NON_STRICT
    return (is_explained or behavior in ("OK", "INFORMATIONAL")) and close in ("OK", "INFORMATIONAL")


async def _judge_server(python: str) -> list[dict[str, Any]]:
    async def handle(accepted: Accepted) -> None:
        await echo(await accepted.accept())

    (listener,) = (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)).listeners
    port = listener.extra(SocketAttribute.local_port)
    rows: list[dict[str, Any]] = []
    async with create_task_group() as tasks:
        tasks.start_soon(serve_websockets, listener, handle)
        command = [python, PROGRAM, "fuzzingclient", f"ws://127.0.0.1:{port}", *COMPRESSION]
        rows += json.loads((await anyio.run_process(command, stderr=None)).stdout)
        tasks.cancel_scope.cancel()
    return rows


async def _judge_client(python: str) -> list[dict[str, Any]]:
    command = [python, PROGRAM, "fuzzingserver", "", *COMPRESSION]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        stdout = BufferedByteReceiveStream(process.stdout)
        url = (await stdout.receive_until(b"\n", 1000)).decode()
        async with websocket_connector(f"{url}/getCaseCount")() as wire:
            count = int((await wire.receive())[0])
        for number in range(1, count + 1):
            async with websocket_connector(f"{url}/runCase?case={number}&agent=iii_anyio")() as wire:
                await echo(wire)
        async with websocket_connector(f"{url}/updateReports?agent=iii_anyio")() as wire:
            await echo(wire)
        return list(json.loads(await stdout.receive_until(b"\n", 100_000_000)))
