"""Data channels as a client of the engine's socket sees them: raw WebSockets, and what the router is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from iii_anyio import InitOptions, InvocationError, Worker, open_worker
from iii_anyio._wire.connect import websocket_connector
from iii_anyio._wire.websocket import WebSocketWire
from iii_anyio.abc import ChannelWire
from iii_anyio.channel import build_channel_url
from iii_anyio.devengine import Engine, _channels, open_engine
from iii_anyio.devengine._channels import Channels
from iii_anyio.devengine._engine_functions import Channel
from iii_anyio.errors import ConnectError, LinkClosed
from tests.timing import until_still

pytestmark = pytest.mark.anyio

KEY = "the key"


class Made:
    """An engine with one channel."""

    def __init__(self, engine: Engine, iii: Worker, refs: dict[str, dict[str, str]]) -> None:
        self.engine = engine
        self.iii = iii
        self.refs = refs

    def url(self, direction: str) -> str:
        ref = self.refs["writer"]
        return build_channel_url(self.engine.url, ref["channel_id"], ref["access_key"], direction)

    @asynccontextmanager
    async def end(self, direction: str) -> AsyncGenerator[WebSocketWire]:
        async with websocket_connector(self.url(direction))() as wire:
            yield wire


@asynccontextmanager
async def made(buffer_size: Any = None, seconds: float = 20) -> AsyncGenerator[Made]:
    """The engine on a socket, and a channel of it, for a block that may take so long."""
    with fail_after(seconds):
        async with (
            open_engine(port=0, http_port=None) as engine,
            open_worker(engine.url, InitOptions(handle_signals=False)) as iii,
        ):
            yield Made(engine, iii, await iii.trigger_async("engine::channels::create", {"buffer_size": buffer_size}))


async def drained(wire: ChannelWire) -> tuple[list[tuple[bool, bytes]], int]:
    """Everything up to the end, and the code of the end."""
    items: list[tuple[bool, bytes]] = []
    try:
        while True:
            items += await wire.receive_typed()
    except LinkClosed as exc:
        return items, exc.code


# -- making and finding ----------------------------------------------------------------------------------------------


async def test_both_references_hold_the_same_id_and_key_and_the_buffer_is_clamped() -> None:
    """§12.1, E-39, P-133."""
    async with made() as channel:
        writer, reader = channel.refs["writer"], channel.refs["reader"]
        assert (writer.pop("direction"), reader.pop("direction")) == ("write", "read")
        assert writer == reader
        for size in (0, 1, 1024, 5000):
            await channel.iii.trigger_async("engine::channels::create", {"buffer_size": size})
        for wrong in (-1, "7", 1.5):
            with pytest.raises(InvocationError, match="deserialization_error"):
                await channel.iii.trigger_async("engine::channels::create", {"buffer_size": wrong})


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("key=", "key=x"), 404),
        (("/ws/channels/", "/ws/channels/0"), 404),
        (("key=", "kee="), 400),
        (("dir=", "dia="), 400),
        (("dir=read", "dir=both"), 400),
    ],
)
async def test_a_wrong_key_or_id_is_404_and_a_query_that_lacks_something_400(
    change: tuple[str, str], status: int
) -> None:
    """§12.2, E-40; and none of them takes the end."""
    async with made() as channel:
        with pytest.raises(ConnectError, match=f"answered {status} "):
            async with websocket_connector(channel.url("read").replace(*change))():
                pass
        async with channel.end("write") as writer:
            await writer.send([b"x"])
        async with channel.end("read") as reader:
            assert await drained(reader) == ([(True, b"x")], 1005)


async def test_an_end_can_be_taken_once_and_the_second_gets_a_close_frame_without_status() -> None:
    """§12.2, E-41."""
    async with made() as channel, channel.end("read") as reader, channel.end("write") as writer:
        for direction in ("read", "write"):
            async with channel.end(direction) as second:
                assert await drained(second) == ([], 1005)
        await writer.send([b"still open"])
        assert await reader.receive_typed() == [(True, b"still open")]


# -- data ------------------------------------------------------------------------------------------------------------

ITEMS = [(True, "ä".encode()), (False, b"\xff\x00"), (False, b""), (True, b""), (False, bytes(70_000)), (True, b"z")]


async def write(wire: ChannelWire, items: list[tuple[bool, bytes]]) -> None:
    for is_text, data in items:
        await (wire.send if is_text else wire.send_binary)([data])


async def test_kinds_order_and_empty_items_are_kept_and_the_end_is_a_close_without_status() -> None:
    """§12.3, §12.4, E-42, P-133."""
    async with made() as channel, channel.end("read") as reader:
        async with channel.end("write") as writer:
            await write(writer, ITEMS)
        assert await drained(reader) == (ITEMS, 1005)


async def test_a_late_reader_gets_what_a_writer_that_left_has_written() -> None:
    """§12.4."""
    async with made() as channel:
        async with channel.end("write") as writer:
            await write(writer, ITEMS)
        async with channel.end("read") as reader:
            assert await drained(reader) == (ITEMS, 1005)


async def test_a_writer_that_crashes_looks_like_one_that_closes() -> None:
    """§12.4, G-14."""
    async with made() as channel, channel.end("read") as reader:
        async with channel.end("write") as writer:
            await write(writer, ITEMS)
            await writer.abort()
        assert await drained(reader) == (ITEMS, 1005)


async def test_when_the_reader_leaves_its_writer_is_cut_and_the_channel_is_gone() -> None:
    """§12.4: upstream cuts at the next write."""
    async with made() as channel, channel.end("write") as writer:
        async with channel.end("read") as reader:
            await writer.send([b"1"])
            assert await reader.receive_typed() == [(True, b"1")]
            await reader.abort()
        assert await drained(writer) == ([], 1006)
        with pytest.raises(ConnectError, match="404"):
            async with channel.end("read"):
                pass


async def test_a_reader_s_pings_are_answered_even_while_nothing_is_written() -> None:
    """§12.5: upstream does not."""
    async with made() as channel, channel.end("read") as reader:
        await reader.ping(b"p")
        while not reader.pongs:
            await reader.receive_typed()
        assert reader.pongs == [b"p"]


async def test_text_that_is_not_utf_8_ends_the_writer_with_1007() -> None:
    """RFC 6455 8.1."""
    async with made() as channel, channel.end("read") as reader, channel.end("write") as writer:
        await writer.send([b"ok", b"\xff"])
        assert await drained(writer) == ([], 1007)
        assert await drained(reader) == ([(True, b"ok")], 1005)


async def test_the_writer_is_not_read_while_the_buffer_is_full_and_goes_on_when_the_reader_does() -> None:
    """§12.5, E-39, P-54: what the engine holds is bounded by the number of items."""
    size, count = 65_536, 600  # far more than sockets hold
    async with made(4, seconds=50) as channel, channel.end("write") as writer:
        written = 0

        async def fill() -> None:
            nonlocal written
            for number in range(count):
                await writer.send_binary([number.to_bytes(2, "big") * (size // 2)])
                written += 1
            await writer.aclose()

        async with create_task_group() as tasks:
            tasks.start_soon(fill)
            assert await until_still(lambda: written) < count
            async with channel.end("read") as reader:
                items, code = await drained(reader)
                assert code == 1005
                assert [int.from_bytes(data[:2], "big") for _, data in items] == list(range(count))


# -- the buffer ------------------------------------------------------------------------------------------------------


def one(buffer_size: int = 64) -> Channels:
    return Channels({"c": Channel("c", KEY, buffer_size, 0)})


@asynccontextmanager
async def ends(channels: Channels) -> AsyncGenerator[tuple[Any, Any]]:
    channels.start()
    async with channels.open("c", KEY, "write") as writer, channels.open("c", KEY, "read") as reader:
        yield writer, reader


@pytest.mark.parametrize("buffer_size", [1, 3])
async def test_a_put_waits_for_room_by_items(buffer_size: int) -> None:
    """E-39."""
    with fail_after(20):
        async with ends(one(buffer_size)) as (writer, reader), create_task_group() as tasks:
            await writer.send([b"x"] * buffer_size)
            written = anyio.Event()

            async def one_more() -> None:
                await writer.send([b"y"])
                written.set()

            tasks.start_soon(one_more)
            await wait_all_tasks_blocked()
            assert not written.is_set()
            assert len(await reader.receive_typed()) == buffer_size
            await written.wait()


async def test_a_put_waits_for_room_by_bytes_too_but_an_item_that_is_too_large_passes_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours: 1024 items of 64 MiB would be 64 GiB."""
    monkeypatch.setattr(_channels, "MAX_BYTES", 10)
    with fail_after(20):
        async with ends(one()) as (writer, reader), create_task_group() as tasks:
            await writer.send_binary([bytes(11)])
            tasks.start_soon(writer.send_binary, [b"1"])
            await wait_all_tasks_blocked()
            assert await reader.receive_typed() == [(False, bytes(11))]
            assert await reader.receive_typed() == [(False, b"1")]
            await writer.send_binary([b"12345"])
            await writer.send_binary([b"12345"])
            tasks.start_soon(writer.send_binary, [b""])  # no bytes, so there is room
            await wait_all_tasks_blocked()
            tasks.start_soon(writer.send_binary, [b"6"])
            await wait_all_tasks_blocked()
            assert await reader.receive_typed() == [(False, b"12345"), (False, b"12345"), (False, b"")]
            assert await reader.receive_typed() == [(False, b"6")]


async def test_a_cancelled_put_leaves_nothing_behind() -> None:
    with fail_after(20):
        async with ends(one(1)) as (writer, reader):
            await writer.send([b"1"])
            async with create_task_group() as tasks:
                tasks.start_soon(writer.send, [b"2"])
                await wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await writer.aclose()
            assert await drained(reader) == ([(True, b"1")], 1005)


async def test_a_writer_that_waits_for_room_is_cut_when_its_reader_leaves() -> None:
    codes: list[int] = []
    with fail_after(20):
        async with ends(one(1)) as (writer, reader), create_task_group() as tasks:
            await writer.send([b"1"])

            async def write_on() -> None:
                try:
                    await writer.send([b"2"])
                except LinkClosed as exc:
                    codes.append(exc.code)

            tasks.start_soon(write_on)
            await wait_all_tasks_blocked()
            await reader.abort()
        assert codes == [1006]


# -- channels that nobody uses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
@pytest.mark.parametrize("taken", ["read", "write", ""])
async def test_a_channel_with_an_end_nobody_took_goes_after_five_minutes(taken: str) -> None:
    """E-43, §12.4: checked every minute; a writer is cut, a reader sees the end."""
    table = {"c": Channel("c", KEY, 64, 0)}
    channels = Channels(table)
    channels.start()
    async with create_task_group() as tasks:
        tasks.start_soon(channels.run_sweeps)
        end: Any = channels.open("c", KEY, taken)
        if taken:
            await end.__aenter__()
        await anyio.sleep(359)
        assert "c" in table
        await anyio.sleep(2)
        assert "c" not in table
        if taken == "write":
            with pytest.raises(LinkClosed, match="1006"):
                await end.send([b"x"])
        elif taken:
            assert await drained(end) == ([], 1005)
        with pytest.raises(ConnectError, match="404"):
            await channels.open("c", KEY, "read").__aenter__()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_channel_in_use_stays_for_as_long_as_it_is_used() -> None:
    """E-43."""
    channels = one()
    async with create_task_group() as tasks:
        tasks.start_soon(channels.run_sweeps)
        async with ends(channels) as (writer, reader):
            await anyio.sleep(3600)
            await writer.send([b"x"])
            assert await reader.receive_typed() == [(True, b"x")]
        tasks.cancel_scope.cancel()


async def test_nothing_is_kept_of_a_channel_that_is_over() -> None:
    with fail_after(20):
        channels = one()
        async with ends(channels) as (writer, _):
            await writer.send([b"x"])
            assert "1 made, 1 in use" in repr(channels)
        assert "0 made, 0 in use" in repr(channels)
        await checkpoint()
