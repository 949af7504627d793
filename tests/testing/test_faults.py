"""``FaultProxy`` and ``FaultConnector``: what each fault looks like to a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import EndOfStream, fail_after
from anyio.abc import SocketStream
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio import ConnectError
from iii_anyio._protocol.framing import Framing
from iii_anyio._wire.connect import websocket_connector
from iii_anyio._wire.direct import DirectWire, direct_pair
from iii_anyio.errors import LinkClosed
from iii_anyio.testing import FaultConnector, FaultProxy
from iii_anyio.testing._frames import Frames, close_frame, cut_point
from tests.wire.servers import raw_serving, serving

pytestmark = pytest.mark.anyio

VIRTUAL = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)


@asynccontextmanager
async def proxied() -> AsyncGenerator[FaultProxy]:
    """A proxy before a server that echoes."""
    async with serving() as port, FaultProxy(f"ws://127.0.0.1:{port}/path") as proxy:
        with fail_after(20):
            yield proxy


async def test_it_forwards_everything_in_both_directions() -> None:
    async with proxied() as proxy, websocket_connector(proxy.url)() as wire:
        assert proxy.url.endswith("/path")
        await wire.send([b'"1"', b'"' + b"x" * 300_000 + b'"'])
        received: list[bytes] = []
        while len(received) < 2:
            received += await wire.receive()
        assert (received[0], len(received[1])) == (b'"1"', 300_002)
        assert (proxy.accepted, proxy.connections) == (1, 1)


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1011, 1012, 4999])
async def test_a_close_frame_with_any_code(code: int) -> None:
    async with proxied() as proxy, websocket_connector(proxy.url)() as wire:
        proxy.close(code, "" if code == 1005 else "why not")
        with pytest.raises(LinkClosed) as caught:
            await wire.receive()
        assert caught.value.code == code
        assert caught.value.reason == ("" if code == 1005 else "why not")


@pytest.mark.parametrize("end", ["reset", "eof"])
async def test_an_end_without_a_close_frame_is_1006(end: str) -> None:
    async with proxied() as proxy, websocket_connector(proxy.url)() as wire:
        getattr(proxy, end)()
        with pytest.raises(LinkClosed) as caught:
            await wire.receive()
        assert caught.value.code == 1006
        while proxy.connections:
            await anyio.lowlevel.checkpoint()


async def test_a_frame_is_torn() -> None:
    """The worker has read a part of a frame when the connection ends, and never sees the message."""
    async with proxied() as proxy, websocket_connector(proxy.url)() as wire:
        proxy.cut_frame()
        await wire.send([b'"torn"'])
        with pytest.raises(LinkClosed) as caught:
            while True:
                assert await wire.receive() == []
        assert caught.value.code == 1006


@pytest.mark.parametrize(
    ("what", "says"),
    [("eof", "without"), ("reset", "reset|without"), ("refuse", "reset|without"), ("http_503", "503")],
)
async def test_a_connection_that_does_not_come_about(what, says: str) -> None:
    async with proxied() as proxy:
        proxy.plan(what)
        with pytest.raises(ConnectError, match=says):
            async with websocket_connector(proxy.url)():
                pass
        async with websocket_connector(proxy.url)():
            assert proxy.accepted == 2


async def test_a_connection_that_ends_right_behind_the_handshake() -> None:
    async with proxied() as proxy:
        proxy.plan("eof_after_101")
        async with websocket_connector(proxy.url)() as wire:
            with pytest.raises(LinkClosed) as caught:
                await wire.receive()
            assert caught.value.code == 1006


async def test_nobody_listens_until_it_accepts_again() -> None:
    async with proxied() as proxy:
        proxy.refuse()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ConnectError, match="refused"):
            async with websocket_connector(proxy.url)():
                pass
        proxy.accept()
        while True:
            try:
                async with websocket_connector(proxy.url)():
                    break
            except ConnectError:
                await anyio.lowlevel.checkpoint()


async def test_neither_side_hears_anything_through_a_black_hole() -> None:
    async with proxied() as proxy, websocket_connector(proxy.url)() as wire:
        proxy.black_hole()
        await anyio.wait_all_tasks_blocked()
        await wire.send([b'"lost"'])
        with anyio.move_on_after(0.05) as scope:
            await wire.receive()
        assert scope.cancelled_caught


async def test_the_engine_may_be_left_in_the_dark() -> None:
    ended = anyio.Event()

    async def listen(stream: SocketStream) -> None:
        try:
            await stream.receive()
        except (EndOfStream, anyio.BrokenResourceError):
            ended.set()

    for is_told in (True, False):
        ended = anyio.Event()
        async with raw_serving(listen) as port, FaultProxy(f"ws://127.0.0.1:{port}") as proxy:
            with fail_after(20):
                async with await anyio.connect_tcp("127.0.0.1", int(proxy.url.rpartition(":")[2])) as stream:
                    while not proxy.connections:
                        await anyio.lowlevel.checkpoint()
                    proxy.eof(tell_engine=is_told)
                    with pytest.raises(EndOfStream):
                        await stream.receive()
            await anyio.wait_all_tasks_blocked()
            if is_told:
                with fail_after(20):
                    await ended.wait()
            assert ended.is_set() is is_told


async def test_only_a_plain_websocket_url_is_forwarded_to() -> None:
    for url in ("wss://127.0.0.1:1", "http://127.0.0.1", "nowhere"):
        with pytest.raises(ValueError, match="ws://"):
            FaultProxy(url)


# -- in process, in virtual time -------------------------------------------------------------------------------------


@asynccontextmanager
async def joined() -> AsyncGenerator[tuple[FaultConnector, DirectWire]]:
    """A connector with faults, and the engine's end of the wire that it connects to."""
    ours, theirs = direct_pair()

    @asynccontextmanager
    async def connect() -> AsyncGenerator[DirectWire]:
        yield ours

    async with FaultConnector(connect) as faults:
        with fail_after(1000):
            yield faults, theirs


@VIRTUAL
async def test_everything_takes_its_time_and_keeps_its_order() -> None:
    async with joined() as (faults, engine), faults() as wire:
        faults.delay, faults.jitter = 2.0, 1.0
        start = anyio.current_time()
        await wire.send([b"1"])
        assert 2.0 <= anyio.current_time() - start <= 3.0
        assert await engine.receive() == [b"1"]
        for n in range(10):
            await engine.send([b"%d" % n])
        start = anyio.current_time()
        received: list[bytes] = []
        while len(received) < 10:
            received += await wire.receive()
        assert received == [b"%d" % n for n in range(10)]
        assert 2.0 <= anyio.current_time() - start <= 6.0


@VIRTUAL
async def test_so_many_bytes_take_so_many_seconds() -> None:
    async with joined() as (faults, _), faults() as wire:
        faults.bytes_per_second = 100.0
        start = anyio.current_time()
        await wire.send([b"x" * 1000])
        assert anyio.current_time() - start == pytest.approx(10.0)


@VIRTUAL
async def test_in_a_black_hole_messages_and_pings_vanish() -> None:
    async with joined() as (faults, engine), faults() as wire:
        faults.black_hole()
        await wire.send([b"1"])
        await wire.ping(b"2")
        await engine.send([b"3"])
        assert not wire.send_now(lambda: [b"4"])
        with anyio.move_on_after(100) as scope:
            await wire.receive()
        assert scope.cancelled_caught
        assert wire.pongs == []
        with anyio.move_on_after(1) as scope:
            await engine.receive()
        assert scope.cancelled_caught


@VIRTUAL
async def test_a_cut_loses_the_next_message_and_ends_the_wire() -> None:
    async with joined() as (faults, engine), faults() as wire:
        faults.cut_frame()
        await engine.send([b"lost"])
        with pytest.raises(LinkClosed):
            await wire.receive()
        with pytest.raises(LinkClosed):
            await wire.send([b"1"])


@VIRTUAL
async def test_connections_that_do_not_come_about_say_why() -> None:
    async with joined() as (faults, _):
        faults.plan("refuse", "http_503")
        for says in ("refused", "503"):
            with pytest.raises(ConnectError, match=says):
                async with faults():
                    pass
        faults.refuse()
        with pytest.raises(ConnectError):
            async with faults():
                pass
        faults.accept()
        async with faults():
            assert (faults.accepted, faults.connections) == (4, 1)


# -- frames ----------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 70_000), max_size=5), is_client=st.booleans(), chunk=st.integers(1, 5000))
def test_the_ends_of_frames_are_found_however_they_come(sizes: list[int], is_client: bool, chunk: int) -> None:
    sender = Framing(is_client=is_client)
    head = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n"
    pieces = [head, *(b"".join(b"".join(run) for run in sender.send([b"x" * size])) for size in sizes)]
    data = b"".join(pieces)
    expected, at = [], 0
    for piece in pieces:
        at += len(piece)
        expected.append(at)
    frames, found = Frames(), []
    for start in range(0, len(data), chunk):
        found += [start + end for end in frames.feed(data[start : start + chunk])]
    assert found == expected
    assert frames.is_between


@given(length=st.integers(1, 50), was_between=st.booleans(), data=st.data())
def test_a_cut_is_never_between_two_frames(length: int, was_between: bool, data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(2, 10), max_size=10))
    first = data.draw(st.integers(2 if was_between else 1, 10))
    ends = [first + sum(gaps[:n]) for n in range(len(gaps) + 1)]
    ends = [end for end in ends if end <= length]
    at = cut_point(length, was_between, ends)
    assert 0 <= at <= length
    if length > 1:
        assert at not in ends or at == length
        assert not (at == 0 and was_between)


def test_a_close_frame_is_a_close_frame() -> None:
    assert close_frame(1000, "bye") == b"\x88\x05\x03\xe8bye"
    assert close_frame(1005, "") == b"\x88\x00"
