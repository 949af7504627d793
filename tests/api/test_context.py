"""``get_context`` in and outside of handlers (skill card; api B.3)."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread

from iii_anyio import Context, Logger, TriggerAction, get_context, open_worker, with_context
from iii_anyio._runtime.context import Invocation, current
from iii_anyio.devengine import open_engine

pytestmark = pytest.mark.anyio


async def test_a_handler_sees_its_invocation_in_tasks_and_threads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):

            @iii.function("who")
            async def who(_: Any) -> list[Any]:
                context = get_context()
                context.logger.info("asked", {"n": 1})
                in_thread = await to_thread.run_sync(get_context)
                return [context.function_id, context.metadata, in_thread.invocation_id == context.invocation_id]

            await iii.wait_ready()
            assert await iii.trigger_async("who", {}, metadata={"tenant": "a"}) == ["who", {"tenant": "a"}, True]
            assert await iii.trigger_async("who", {}) == ["who", None, True]
    record = next(record for record in caplog.records if record.name == "iii.logger")
    assert record.getMessage() == "[who] asked"
    assert vars(record)["data"] == {"n": 1}


async def test_a_job_of_a_queue_sees_its_message_and_attempt() -> None:
    seen: list[tuple[int | None, str | None]] = []
    done = anyio.Event()
    with fail_after(20):
        async with (
            open_engine(
                port=None, http_port=None, workers={"iii-queue": {"queue_configs": {"jobs": {"backoff_ms": 1}}}}
            ) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):

            @iii.function("job")
            async def job(_: Any) -> None:
                context = get_context()
                seen.append((context.attempt, context.message_id))
                if context.attempt == 1:
                    raise RuntimeError("once more")
                done.set()

            await iii.wait_ready()
            receipt = await iii.trigger_async("job", {}, action=TriggerAction.Enqueue(queue="jobs"))
            await done.wait()
    assert seen == [(1, receipt["messageReceiptId"]), (2, receipt["messageReceiptId"])]


@pytest.mark.parametrize("baggage", ["", "iii.queue.attempt", "iii.queue.attempt=", "iii.queue.attempt=-1,=,;"])
async def test_baggage_that_is_no_job_s_says_nothing(baggage: str) -> None:
    token = current.set(Invocation(None, "f", None, None, None, baggage))
    try:
        assert (get_context().attempt, get_context().message_id) == (None, None)
    finally:
        current.reset(token)


async def test_outside_a_handler_there_is_a_working_logger_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    context = get_context()
    context.logger.warn("hello")  # noqa: G010 - upstream's name, not logging's
    assert "hello" in caplog.text
    assert (context.function_id, context.invocation_id, context.trace, context.metadata) == (None, None, None, None)


async def test_with_context_holds_for_what_is_awaited_and_no_longer() -> None:
    mine = Context(Logger(service_name="mine"), function_id="f")

    async def inner(context: Context) -> bool:
        await anyio.lowlevel.checkpoint()
        return context is mine and get_context() is mine

    assert await with_context(inner, mine)
    assert get_context().function_id is None
