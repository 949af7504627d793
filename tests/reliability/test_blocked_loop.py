"""A handler that keeps the event loop from its turns: the link lives through it, and the log says what happened.

The engine runs in a thread of its own, or it would stand still together with its worker.
"""

from __future__ import annotations

import select
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import fail_after
from anyio.from_thread import BlockingPortal, start_blocking_portal

from iii_anyio import (
    ConnectionLostError,
    HealthOptions,
    HeartbeatOptions,
    InitOptions,
    Worker,
    open_worker,
)
from iii_anyio.devengine import open_engine
from iii_anyio.testing import FaultProxy
from tests.reliability.links import FAST, until

pytestmark = pytest.mark.anyio

SCALED = HeartbeatOptions(interval=0.1, pong_timeout=0.4, idle_timeout=0.6)
BLOCKED = 1.0
"""Seconds: longer than everything the heartbeat waits for."""


def keep_from_its_turn(seconds: float) -> None:
    select.select([], [], [], seconds)  # time.sleep() raises on the loops of these tests


@asynccontextmanager
async def beside(**options: Any) -> AsyncGenerator[tuple[Worker, FaultProxy, BlockingPortal]]:
    """A worker in this loop; proxy and engine in another thread's."""
    with start_blocking_portal() as portal:
        engine_opened = open_engine(port=0, http_port=None, stream_port=None)
        with (
            portal.wrap_async_context_manager(engine_opened) as engine,
            portal.wrap_async_context_manager(FaultProxy(engine.url)) as proxy,
        ):
            async with AsyncExitStack() as stack:
                made = InitOptions("blocked", handle_signals=False, reconnection_config=FAST, **options)
                iii = await stack.enter_async_context(open_worker(proxy.url, made))

                async def block(seconds: float) -> str:
                    keep_from_its_turn(seconds)
                    return "done"

                iii.register_function("block", block)
                await iii.wait_ready()
                with fail_after(50):
                    yield iii, proxy, portal


async def test_a_loop_that_was_blocked_beyond_every_deadline_keeps_its_link_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with beside(heartbeat=SCALED) as (iii, proxy, _):
        for n in range(3):
            assert await iii.trigger_async("block", BLOCKED, dispatch="remote") == "done"
            await anyio.sleep(0.02 * n)  # so that once a ping is under way, and once none
        assert proxy.accepted == 1
    said = [record.getMessage() for record in caplog.records if "was blocked for" in record.getMessage()]
    assert said
    assert "blocked_after" in said[0]


async def test_a_link_that_is_half_open_is_noticed_after_a_blocked_loop_too() -> None:
    async with beside(heartbeat=SCALED) as (iii, proxy, portal):
        portal.call(proxy.black_hole)
        keep_from_its_turn(BLOCKED)
        with pytest.raises(ConnectionLostError):
            await iii.trigger_async("engine::functions::list", {})
        await until(iii, lambda state: state == "connected")
        assert await iii.trigger_async("block", 0, dispatch="remote") == "done"


async def test_with_a_watch_the_log_shows_the_line_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    async with beside(health=HealthOptions(blocked_after=0.05)) as (iii, proxy, _):
        assert await iii.trigger_async("block", BLOCKED, dispatch="remote") == "done"
        assert proxy.accepted == 1
    assert "the event loop has been blocked for 0.05 s by" in caplog.text
    assert "keep_from_its_turn" in caplog.text
