"""What must not be seen: tokens and payloads are in no log, no repr and no error; tokens go to the engine only."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import anyio
import pytest
from anyio import fail_after
from anyio.abc import SocketStream
from pydantic import BaseModel

from iii_anyio import ConnectError, InitOptions, InvocationError, ReconnectionConfig, open_worker
from iii_anyio.testing import FaultProxy
from tests.api.workers import two_workers
from tests.reliability.links import linked
from tests.wire.servers import raw_serving, read_head

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-t0k3n"
ONCE = ReconnectionConfig(initial_delay_ms=1, max_retries=1)

ANSWERS = {
    "401": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\n\r\n",
    "nothing": b"",
    "garbage": b"\x00\x01\x02",
}


class Order(BaseModel):
    item: int


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_token_is_in_no_log_and_no_error_and_follows_no_redirect(
    answer: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("III_TOKEN", SECRET)
    heads: list[str] = []
    seen = ""
    elsewhere: list[bytes] = []

    async def other_host(stream: SocketStream) -> None:
        elsewhere.append(await stream.receive())

    with fail_after(10):
        async with raw_serving(other_host) as other_port:

            async def engine(stream: SocketStream) -> None:
                heads.append(await read_head(stream))
                said = ANSWERS[answer]
                await stream.send(said % other_port if b"%d" in said else said)

            async with raw_serving(engine) as port:
                options = InitOptions("w", reconnection_config=ONCE, handle_signals=False, headers={"X-Key": SECRET})
                url = f"ws://user:{SECRET}@127.0.0.1:{port}/?token={SECRET}"
                with pytest.raises(ConnectError) as caught:
                    async with open_worker(url, options) as iii:
                        seen = repr(iii) + repr(options) + repr(iii.open_channel)
                        await anyio.sleep_forever()
    assert f"Bearer {SECRET}" in heads[0] or "Basic" in heads[0]
    assert elsewhere == []
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text
    assert SECRET not in text
    assert SECRET not in seen


async def test_payloads_and_results_are_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with two_workers(shutdown_timeout=0.05) as (caller, callee):

        async def order(payload: Order) -> int:
            return payload.item

        async def leak(payload: dict[str, Any]) -> Any:
            return {"result": payload["item"]}

        async def forbidden(payload: dict[str, Any]) -> int:
            return payload["item"]

        callee.register_function("order", order)
        callee.register_function("hang", lambda _: anyio.sleep_forever(), execution="async", concurrency=1)
        callee.register_function("leak", leak)
        callee.register_function("forbidden", forbidden)
        await callee.wait_ready()
        await caller.wait_ready()
        assert await caller.trigger_async("leak", {"item": SECRET}, metadata={"key": SECRET}) == {"result": SECRET}
        errors: list[InvocationError] = []
        for function_id in ("order", "forbidden", "missing"):
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async(function_id, {"item": SECRET})
            errors.append(caught.value)
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async("hang", {"item": SECRET}, timeout_ms=10)
        errors.append(caught.value)
        assert [error.code for error in errors] == [
            "invalid_payload",
            "invalid_result",
            "function_not_found",
            "TIMEOUT",
        ]
        for error in errors:
            assert SECRET not in f"{error!s} {error!r} {error.stacktrace}"
        assert SECRET not in repr((caller, callee))
    assert SECRET not in caplog.text


async def test_a_lost_link_logs_no_payload_of_what_went_down_with_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with linked("socket") as there:
        assert isinstance(there.faults, FaultProxy)
        before = there.iii.worker_id
        there.faults.cut_frame()
        with pytest.raises(InvocationError) as caught:
            await there.iii.trigger_async("other::echo", {"card": SECRET})
        await there.back(before)
        assert SECRET not in f"{caught.value!s} {caught.value!r}"
    assert SECRET not in caplog.text
