"""Two wires in one process keep the contract of a wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anyio import CancelScope, Event, create_task_group, fail_after, wait_all_tasks_blocked

from iii_anyio._wire.direct import DirectWire, direct_pair
from iii_anyio.errors import LinkClosed

if TYPE_CHECKING:
    from iii_anyio.abc import Wire

pytestmark = pytest.mark.anyio


async def assert_closed(wire: DirectWire, code: int) -> None:
    for attempt in (wire.receive(), wire.send([b"x"]), wire.ping(b"")):
        with pytest.raises(LinkClosed) as caught:
            await attempt
        assert caught.value.code == code


async def test_it_is_a_wire() -> None:
    wire: Wire = direct_pair()[0]
    assert wire.pongs == []
    assert repr(wire) == "<DirectWire open>"


async def test_messages_arrive_in_order_in_both_directions() -> None:
    near, far = direct_pair()
    with fail_after(20):
        await near.send([b"1", b"2"])
        await near.send([b"3"])
        await far.send([b"a"])
        assert await far.receive() == [b"1", b"2", b"3"]
        assert await near.receive() == [b"a"]


async def test_a_reader_waits_for_the_next_message() -> None:
    near, far = direct_pair()
    received: list[bytes] = []

    async def read() -> None:
        received.extend(await far.receive())

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read)
            await wait_all_tasks_blocked()
            await near.send([b"m"])
    assert received == [b"m"]


async def test_a_sender_waits_while_the_inbox_is_full() -> None:
    near, far = direct_pair(buffer=2)
    batch = [b"%d" % number for number in range(5)]
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(near.send, batch)
            await wait_all_tasks_blocked()
            assert await far.receive() == batch[:2]
            await wait_all_tasks_blocked()
            assert await far.receive() == batch[2:4]
            assert await far.receive() == batch[4:]


async def test_several_senders_may_wait() -> None:
    near, far = direct_pair(buffer=1)
    received: list[bytes] = []
    with fail_after(20):
        async with create_task_group() as tasks:
            for name in (b"1", b"2", b"3"):
                tasks.start_soon(near.send, [name])
            await wait_all_tasks_blocked()
            while len(received) < 3:
                received += await far.receive()
    assert sorted(received) == [b"1", b"2", b"3"]


async def test_a_cancelled_sender_leaves_the_wire_usable() -> None:
    near, far = direct_pair(buffer=1)
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(near.send, [b"1", b"never"])
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        with CancelScope() as scope:
            scope.cancel()
            await near.send([b"never"])
        assert await far.receive() == [b"1"]
        await near.send([b"2"])
        assert await far.receive() == [b"2"]


async def test_a_ping_is_answered_at_once_and_its_pong_wakes_the_reader() -> None:
    near, _ = direct_pair()
    received: list[list[bytes]] = []

    async def read() -> None:
        received.append(await near.receive())

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read)
            await wait_all_tasks_blocked()
            await near.ping(b"1")
    assert received == [[]]
    assert near.pongs == [b"1"]


async def test_pongs_nobody_looks_at_do_not_pile_up() -> None:
    near, _ = direct_pair()
    with fail_after(20):
        for number in range(100):
            await near.ping(b"%d" % number)
    assert len(near.pongs) == 64
    assert near.pongs[-1] == b"99"


async def test_the_peer_receives_what_was_sent_before_it_sees_the_close() -> None:
    near, far = direct_pair()
    with fail_after(20):
        await near.send([b"last"])
        await near.aclose(1001, "bye")
        await near.aclose(1011)
        await assert_closed(near, 1001)
        assert await far.receive() == [b"last"]
        await assert_closed(far, 1001)
        await far.aclose(1000)
        await assert_closed(far, 1001)
    assert repr(near) == repr(far) == "<DirectWire closed 1001>"


async def test_closing_wakes_everybody_who_waits() -> None:
    near, far = direct_pair(buffer=1)
    codes: list[int] = []

    async def fail(wire: DirectWire, *, by_sending: bool) -> None:
        with pytest.raises(LinkClosed) as caught:
            await (wire.send([b"1", b"2"]) if by_sending else wire.receive())
        codes.append(caught.value.code)

    async def receive(wire: DirectWire) -> None:
        await fail(wire, by_sending=False)

    async def send(wire: DirectWire) -> None:
        await fail(wire, by_sending=True)

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(receive, near)
            tasks.start_soon(send, near)
            await wait_all_tasks_blocked()
            await far.aclose(4000)
    assert codes == [4000, 4000]


async def test_aborting_loses_what_is_on_its_way() -> None:
    near, far = direct_pair()
    with fail_after(20):
        await near.send([b"lost"])
        await near.abort()
        await near.abort()
        await assert_closed(far, 1006)
        await assert_closed(near, 1006)


async def test_aborting_after_closing_changes_nothing() -> None:
    near, far = direct_pair()
    with fail_after(20):
        await near.send([b"kept"])
        await near.aclose()
        await near.abort()
        assert await far.receive() == [b"kept"]
        await assert_closed(far, 1000)


async def test_a_reader_that_always_finds_something_lets_others_run() -> None:
    near, far = direct_pair()
    has_run = Event()

    async def run() -> None:
        has_run.set()

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(run)
            while not has_run.is_set():
                await near.send([b"m"])
                await far.receive()
