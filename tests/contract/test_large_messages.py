"""Messages of many megabytes, in both directions."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import create_task_group

from iii_anyio import InvocationError, PayloadTooLargeError
from tests.contract.targets import Target

pytestmark = pytest.mark.anyio

MIB = 1_048_576
# No multiple of a fragment's size, so that cuts fall into characters of two and of four bytes.
TEXT_17_MIB = "aé😀" * (17 * MIB // 7)
LIMIT = 64 * MIB


async def test_17_mib_pass_in_both_directions(target: Target) -> None:
    """P-04, P-05, P-102, §3.3: over 16 MiB a message is cut into fragments, at characters."""
    async with target.open(seconds=50) as engine, engine.workers("callee", "caller") as (callee, caller):
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        assert await caller.trigger_async(engine.id("echo"), [TEXT_17_MIB]) == [TEXT_17_MIB]


async def test_small_messages_are_not_lost_beside_large_ones(target: Target) -> None:
    """P-08, §3.3: nor cut into them."""
    async with target.open(seconds=50) as engine, engine.workers("callee", "caller") as (callee, caller):
        callee.register_function(engine.id("length"), len)
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        answers: list[Any] = []

        async def call(function: str, payload: Any) -> None:
            answers.append(await caller.trigger_async(engine.id(function), payload))

        async with create_task_group() as tasks:
            for number in range(20):
                if number % 10 == 5:
                    tasks.start_soon(call, "length", TEXT_17_MIB)
                tasks.start_soon(call, "echo", f"small {number}")
        assert sorted(map(str, answers)) == sorted([f"small {n}" for n in range(20)] + [str(len(TEXT_17_MIB))] * 2)


async def test_over_64_mib_are_refused_at_their_sender_and_the_connection_stays(target: Target) -> None:
    """P-06, P-07, §3.3: a payload at its caller, a result at its callee."""
    async with target.open(seconds=50) as engine, engine.workers("callee", "caller") as (callee, caller):
        text = "a" * (LIMIT + 1)
        callee.register_function(engine.id("big"), lambda _data: text)
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        await caller.wait_ready()
        ids = (callee.worker_id, caller.worker_id)
        with pytest.raises(PayloadTooLargeError) as refused:
            await caller.trigger_async(engine.id("echo"), text)
        assert refused.value.code == "payload_too_large"
        assert f"limit is {LIMIT} bytes" in refused.value.message
        with pytest.raises(InvocationError) as answered:
            await caller.trigger_async(engine.id("big"), {})
        assert answered.value.code == "payload_too_large"
        assert await caller.trigger_async(engine.id("echo"), 1) == 1
        assert (callee.worker_id, caller.worker_id) == ids


async def test_a_caller_that_gives_up_on_a_large_message_leaves_the_connection_usable(target: Target) -> None:
    """P-08: before the first fragment it is not sent, after the first it is sent to its end."""
    async with target.open(seconds=50) as engine, engine.workers("callee", "caller") as (callee, caller):
        callee.register_function(engine.id("length"), len)
        await callee.wait_ready()
        await caller.wait_ready()
        identity = caller.worker_id
        async with create_task_group() as tasks:
            tasks.start_soon(caller.trigger_async, {"function_id": engine.id("length"), "payload": TEXT_17_MIB})
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert await caller.trigger_async(engine.id("length"), "abc") == 3
        assert caller.worker_id == identity
