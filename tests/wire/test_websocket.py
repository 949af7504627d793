"""One WebSocket as a wire: `protocol.md` §3.1-3.4, P-04, P-05, P-08, P-09, P-104."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import CancelScope, create_task_group, fail_after, move_on_after, wait_all_tasks_blocked

from iii_anyio._protocol.framing import Framing
from iii_anyio._wire.websocket import WebSocketWire
from iii_anyio.errors import LinkClosed
from tests.wire.streams import memory_streams, wire_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iii_anyio.abc import Wire

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
virtual_time = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)


async def receive_one(wire: Wire) -> bytes:
    while True:
        messages = await wire.receive()
        if messages:
            (message,) = messages
            return message


async def read_to_end(wire: WebSocketWire, into: list[bytes]) -> None:
    try:
        while True:
            into += await wire.receive()
    except LinkClosed:
        pass


async def assert_closed(wire: WebSocketWire, code: int, reason: str | None = None) -> None:
    for attempt in (wire.receive(), wire.receive_typed(), wire.send([b"x"]), wire.send_binary([b"x"]), wire.ping(b"")):
        with pytest.raises(LinkClosed) as caught:
            await attempt
        assert caught.value.code == code
        assert reason is None or reason in caught.value.reason


# -- messages ---------------------------------------------------------------------------------------------------------


async def test_it_is_a_wire() -> None:
    wire: Wire = wire_pair()[0]
    assert wire.pongs == []


async def test_a_batch_goes_out_in_one_write_and_arrives_in_order() -> None:
    client, engine, near, _ = wire_pair()
    batch = [b"%d" % number for number in range(64)]
    with fail_after(20):
        await client.send(batch)
        assert len(near.writes) == 1
        assert await engine.receive() == batch


async def test_a_long_message_goes_out_in_pieces_without_being_joined() -> None:
    client, engine, near, _ = wire_pair()
    message = bytes(5 * MIB)
    with fail_after(20):
        await client.send([b"before", message, b"after"])
        assert max(map(len, near.writes)) <= MIB
        received: list[bytes] = []
        while len(received) < 3:
            received += await engine.receive()
    assert received == [b"before", message, b"after"]


async def test_large_messages_are_read_in_larger_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    client, engine, _, far = wire_pair()
    sizes: list[int] = []
    receive = far.receive

    async def receive_and_note(max_bytes: int) -> bytes:
        sizes.append(max_bytes)
        return await receive(max_bytes)

    monkeypatch.setattr(far, "receive", receive_and_note)
    with fail_after(20):
        await client.send([bytes(2 * MIB)])
        await receive_one(engine)
    assert sizes[0] <= 65_536
    assert sizes[-1] >= MIB


async def test_text_is_told_from_binary() -> None:
    """P-105, and channels (§12.3)."""
    client, engine, _, _ = wire_pair()
    with fail_after(20):
        await client.send_binary([b"OTLP"])
        await client.send([b"{}"])
        assert await engine.receive_typed() == [(False, b"OTLP")]
        assert await engine.receive_typed() == [(True, b"{}")]


async def test_a_part_of_a_message_returns_no_message() -> None:
    """The link learns that the peer is alive."""
    client, engine, _, _ = wire_pair()
    message = bytes(100_000)
    with fail_after(20):
        await client.send([message])
        assert await engine.receive() == []
        assert await receive_one(engine) == message


async def test_what_was_read_behind_the_handshake_comes_first() -> None:
    near, far = memory_streams()
    await WebSocketWire(far, Framing(is_client=False)).send([b"leading", b"read"])
    data = await near.receive(100)
    wire = WebSocketWire(near, Framing(is_client=True), leading=data[:9])
    await far.send(data[9:])
    with fail_after(20):
        assert await wire.receive() == [b"leading"]
        assert await wire.receive() == [b"read"]


# -- control frames ---------------------------------------------------------------------------------------------------


async def test_a_close_frame_read_behind_the_handshake_is_heard_by_a_wire_that_never_reads() -> None:
    far = Framing(is_client=False)
    far.close(1005)
    near, _ = memory_streams()
    wire = WebSocketWire(near, Framing(is_client=True), leading=b"".join(far.data_to_send()))
    with fail_after(20):
        await wire.aclose()
        with pytest.raises(LinkClosed) as caught:
            await wire.receive()
    assert caught.value.code == 1005


async def test_the_payload_of_a_ping_comes_back_as_a_pong() -> None:
    client, engine, _, _ = wire_pair()
    with fail_after(20):
        await client.ping(b"1")
        assert await engine.receive() == []
        assert await client.receive() == []
    assert client.pongs == [b"1"]
    client.pongs.clear()
    assert client.pongs == []


async def test_a_ping_is_answered_although_nobody_sends() -> None:
    """P-104."""
    client, engine, _, far = wire_pair()
    with fail_after(20):
        await client.ping(b"anyone?")
        await engine.receive()
    assert far.writes == [b"\x8a\x07anyone?"]


async def test_two_sides_that_only_write_do_not_wait_for_each_other() -> None:
    """§3.4: always keep reading. Every buffer between the two is full, and both ping."""
    client, engine, _, _ = wire_pair(buffer=0)
    message = bytes(3 * MIB)
    received: dict[WebSocketWire, list[bytes]] = {client: [], engine: []}

    async def write(wire: WebSocketWire) -> None:
        for _ in range(3):
            await wire.ping(b"p")
            await wire.send([message] * 2)

    async def read(wire: WebSocketWire) -> None:
        while len(received[wire]) < 6:
            received[wire] += await wire.receive()

    with fail_after(20):
        async with create_task_group() as tasks:
            for wire in (client, engine):
                tasks.start_soon(read, wire)
                tasks.start_soon(write, wire)
    assert received == {client: [message] * 6, engine: [message] * 6}
    assert client.pongs or engine.pongs


async def test_pings_come_between_fragments_and_nothing_comes_into_a_frame() -> None:
    """P-08. Every write waits for the other side to read, so whatever could interleave does."""
    client, engine, near, _ = wire_pair(buffer=0)
    message = bytes(17 * MIB)
    received: list[bytes] = []
    with fail_after(50):
        async with create_task_group() as tasks:
            tasks.start_soon(read_to_end, client, [])
            tasks.start_soon(client.send, [message, b"last"])
            await wait_all_tasks_blocked()
            while not received:
                await client.ping(b"ping")
                received += await engine.receive()
            received.append(await receive_one(engine))
            tasks.cancel_scope.cancel()
    assert received == [message, b"last"]
    pings = [index for index, data in enumerate(near.writes) if data[:1] == b"\x89"]
    assert pings[0] > 0, "not into the frame that was being written"
    assert len(pings) >= 17, "one behind each fragment"


async def test_messages_of_two_senders_stay_whole() -> None:
    """P-08: no other data frame into a fragmented message."""
    client, engine, _, _ = wire_pair(buffer=0)
    messages = [bytes([number]) * (17 * MIB) for number in (1, 2)]
    received: list[bytes] = []
    with fail_after(50):
        async with create_task_group() as tasks:
            for message in messages:
                tasks.start_soon(client.send, [message])
            while len(received) < 2:
                received += await engine.receive()
    assert sorted(received) == messages


@pytest.fixture
def full_socket() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket that takes nothing more, and its peer."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    try:
        while near.send(bytes(65_536)):
            pass
    except BlockingIOError:
        pass
    yield near, far
    near.close()
    far.close()


def drain(sock: socket.socket) -> None:
    try:
        while sock.recv(65_536):
            pass
    except BlockingIOError:
        pass


@virtual_time
async def test_a_pong_that_finds_no_room_goes_out_when_there_is_some(
    full_socket: tuple[socket.socket, socket.socket],
) -> None:
    """Nobody sends and nobody reads on: the reader itself tries again."""
    sock, its_peer = full_socket
    near, far = memory_streams()
    wire = WebSocketWire(near, Framing(is_client=False), socket=sock)
    peer = WebSocketWire(far, Framing(is_client=True))
    with fail_after(5):
        async with create_task_group() as tasks:
            await peer.ping(b"1")
            assert await wire.receive() == []
            assert near.writes == []
            tasks.start_soon(read_to_end, wire, [])
            await anyio.sleep(1)
            assert near.writes == []
            drain(its_peer)
            await peer.receive()
            assert peer.pongs == [b"1"]
            tasks.cancel_scope.cancel()


async def test_a_pong_that_found_no_room_goes_out_behind_the_next_message(
    full_socket: tuple[socket.socket, socket.socket],
) -> None:
    near, far = memory_streams()
    wire = WebSocketWire(near, Framing(is_client=False), socket=full_socket[0])
    peer = WebSocketWire(far, Framing(is_client=True))
    with fail_after(20):
        await peer.ping(b"1")
        await wire.receive()
        await wire.send([b"m"])
    assert near.writes == [b"\x81\x01m", b"\x8a\x011"]


async def test_a_message_is_received_while_a_pong_waits(full_socket: tuple[socket.socket, socket.socket]) -> None:
    near, far = memory_streams()
    wire = WebSocketWire(near, Framing(is_client=False), socket=full_socket[0])
    peer = WebSocketWire(far, Framing(is_client=True))
    with fail_after(20):
        await peer.ping(b"1")
        await wire.receive()
        await peer.send([b"m"])
        assert await wire.receive() == [b"m"]


async def test_a_peer_that_pings_and_never_reads_cannot_fill_our_memory(
    full_socket: tuple[socket.socket, socket.socket],
) -> None:
    near, far = memory_streams()
    wire = WebSocketWire(near, Framing(is_client=False), socket=full_socket[0])
    peer = WebSocketWire(far, Framing(is_client=True))
    with fail_after(20):
        for number in range(100):
            await peer.ping(b"%d" % number)
            await wire.receive()
        await wire.send([b"m"])
        await peer.receive()
        await peer.receive()
    assert peer.pongs == [b"%d" % number for number in range(68, 100)]


async def test_a_closed_socket_has_room_so_that_the_write_reports_it() -> None:
    sock = socket.socket()
    sock.close()
    near, far = memory_streams()
    wire = WebSocketWire(near, Framing(is_client=True), socket=sock)
    with fail_after(20):
        await wire.ping(b"")
        assert await far.receive(1)


@virtual_time
async def test_a_control_frame_that_does_not_go_out_after_all_ends_the_wire() -> None:
    """The system said there was room, and there was none."""
    client, _, near, _ = wire_pair(buffer=0)
    with fail_after(5):
        await client.ping(b"")
    await assert_closed(client, 1006, "stopped reading")
    assert near.writes == []


async def test_a_failed_pong_leaves_the_end_to_the_reader() -> None:
    client, engine, _, far = wire_pair()
    with fail_after(20):
        await client.ping(b"")
        await client.send([b"still readable"])
        far.write_error = ConnectionResetError("gone")
        assert await engine.receive() == []
        assert await engine.receive() == [b"still readable"]


# -- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_send_cancelled_before_its_first_byte_leaves_the_wire_open() -> None:
    """P-08."""
    client, engine, near, _ = wire_pair()
    with CancelScope() as scope:
        scope.cancel()
        await client.send([b"never"])
    assert scope.cancelled_caught
    assert near.writes == []
    with fail_after(20):
        await client.send([b"next"])
        assert await engine.receive() == [b"next"]


async def test_a_send_cancelled_in_the_queue_leaves_the_wire_open() -> None:
    """P-08."""
    client, engine, _, _ = wire_pair(buffer=0)
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(client.send, [b"first"])
            await wait_all_tasks_blocked()
            with move_on_after(0) as scope:
                await client.send([b"never"])
            assert scope.cancelled_caught
            assert await engine.receive() == [b"first"]
        async with create_task_group() as tasks:
            tasks.start_soon(client.send, [b"third"])
            assert await engine.receive() == [b"third"]


@pytest.mark.parametrize("size", [1, 17 * MIB])
async def test_a_send_cancelled_while_it_writes_breaks_the_wire(size: int) -> None:
    """P-08."""
    client, _, near, _ = wire_pair(buffer=0)
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(client.send, [bytes(size)])
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await assert_closed(client, 1006, "incomplete")
        await client.aclose()
    assert near.is_closed
    assert near.writes == [], "no close frame into the middle of a frame"


async def test_a_send_cancelled_after_its_last_byte_leaves_the_wire_open() -> None:
    """P-08."""
    client, engine, _, _ = wire_pair()
    with CancelScope() as scope:
        await client.send([b"done"])
        scope.cancel()
    with fail_after(20):
        await client.send([b"next"])
        assert await engine.receive() == [b"done"]
        assert await engine.receive() == [b"next"]


async def test_a_cancelled_receive_loses_nothing() -> None:
    client, engine, _, _ = wire_pair()
    with move_on_after(0):
        await engine.receive()
    with fail_after(20):
        await client.send([b"m"])
        assert await engine.receive() == [b"m"]


async def test_a_receive_cancelled_while_it_answers_a_ping_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    client, engine, _, far = wire_pair()
    receive = far.receive
    received: list[bytes] = []
    with fail_after(20):
        await client.ping(b"1")
        await client.send([b"m"])
        with CancelScope() as scope:

            async def receive_and_cancel(max_bytes: int) -> bytes:
                data = await receive(max_bytes) + await receive(max_bytes)
                scope.cancel()
                return data

            monkeypatch.setattr(far, "receive", receive_and_cancel)
            received += await engine.receive()
        await client.receive()
    assert received == [b"m"]
    assert client.pongs == [b"1"]


async def test_no_pong_is_written_into_a_broken_frame() -> None:
    client, engine, near, _ = wire_pair(buffer=0)
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read_to_end, engine, [])
            async with create_task_group() as sending:
                sending.start_soon(engine.send, [b"x"])
                await wait_all_tasks_blocked()
                sending.cancel_scope.cancel()
            tasks.start_soon(client.ping, b"1")
            await wait_all_tasks_blocked()
            assert len(near.unread) == 1
            await near.aclose()


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_the_end_of_the_stream_is_1006() -> None:
    client, _, _, far = wire_pair()
    await far.aclose()
    with fail_after(20):
        await assert_closed(client, 1006)
    assert repr(client) == "<WebSocketWire closed 1006>"


async def test_a_read_error_is_1006_and_says_what_the_system_said() -> None:
    client, _, near, _ = wire_pair()
    near.read_error = ConnectionResetError("reset by peer")
    with fail_after(20):
        await assert_closed(client, 1006, "reset by peer")


async def test_the_peers_code_is_reported_after_its_last_messages() -> None:
    client, engine, _, far = wire_pair()
    with fail_after(20):
        async with create_task_group() as tasks:
            await engine.send([b"last"])
            tasks.start_soon(engine.aclose, 4001, "bye")
            assert await client.receive() == [b"last"]
            await assert_closed(client, 4001, "bye")
    assert far.is_closed


async def test_messages_and_close_frame_in_one_read_come_one_after_the_other() -> None:
    near, far = memory_streams()
    framing = Framing(is_client=False)
    (run,) = framing.send([b"last"])
    framing.close(1001)
    await far.send(b"".join([*(bytes(part) for part in run), *framing.data_to_send()]))
    client = WebSocketWire(near, Framing(is_client=True))
    with fail_after(20):
        assert await client.receive() == [b"last"]
        await assert_closed(client, 1001)


async def test_a_protocol_violation_is_reported_with_the_code_we_sent() -> None:
    near, far = memory_streams()
    client = WebSocketWire(near, Framing(is_client=True, max_message=10))
    await far.send(b"\x81\x0b" + bytes(11))
    with fail_after(20):
        await assert_closed(client, 1009)
        assert (await far.receive(1))[:1] == b"\x88"


async def test_a_failed_write_reports_what_the_peer_said_before_it_went() -> None:
    """A refusal (§6.7) must not be hidden by the write that failed because of it."""
    client, _, near, far = wire_pair()
    received: list[bytes] = []
    farewell = Framing(is_client=False)
    (run,) = farewell.send([b"refused"])
    farewell.close(1008, "go away")
    near.write_error = BrokenPipeError("broken pipe")
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read_to_end, client, received)
            await wait_all_tasks_blocked()

            async def send() -> None:
                with pytest.raises(LinkClosed) as caught:
                    await client.send([b"x"])
                assert (caught.value.code, caught.value.reason) == (1008, "go away")

            tasks.start_soon(send)
            await wait_all_tasks_blocked()
            await far.send(b"".join(bytes(part) for part in run))
            await far.send(b"".join(farewell.data_to_send()))
    assert received == [b"refused"]


async def test_a_failed_write_without_a_reader_is_1006() -> None:
    client, _, near, _ = wire_pair()
    near.write_error = BrokenPipeError("broken pipe")
    with fail_after(20):
        await assert_closed_on_send(client)
        await assert_closed(client, 1006, "broken pipe")


async def assert_closed_on_send(wire: WebSocketWire) -> None:
    with pytest.raises(LinkClosed, match="broken pipe"):
        await wire.send([b"x"])


@virtual_time
async def test_a_failed_write_waits_only_so_long_for_the_reader() -> None:
    client, _, near, _ = wire_pair()
    near.write_error = BrokenPipeError("broken pipe")
    with fail_after(5):
        async with create_task_group() as tasks:
            tasks.start_soon(read_to_end, client, [])
            await wait_all_tasks_blocked()
            await assert_closed_on_send(client)
            tasks.cancel_scope.cancel()


async def test_nothing_follows_the_answer_to_a_close_frame() -> None:
    """The peer closes in the middle of our batch: the frame being written ends, the rest stays."""
    client, _, near, far = wire_pair(buffer=0)
    farewell = Framing(is_client=False)
    farewell.close(1001)
    written: list[bytes] = []

    async def send() -> None:
        with pytest.raises(LinkClosed) as caught:
            await client.send([bytes(200_000), b"never"])
        assert caught.value.code == 1001

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(read_to_end, client, [])
            await wait_all_tasks_blocked()
            await far.send(b"".join(farewell.data_to_send()))
            while not written or written[-1][:1] != b"\x88":
                written.append(await far.receive(MIB))
            await wait_all_tasks_blocked()
    assert far.unread == []
    assert sum(map(len, written[:-1])) == 200_000 + 14, "the first frame is whole"
    assert near.writes == written


# -- aclose and abort -------------------------------------------------------------------------------------------------


async def test_closing_sends_code_and_reason_and_waits_for_the_answer() -> None:
    client, engine, near, _ = wire_pair()
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(client.aclose, 4000, "done")
            with pytest.raises(LinkClosed) as caught:
                await engine.receive()
            assert (caught.value.code, caught.value.reason) == (4000, "done")
    assert near.is_closed
    assert len(near.writes) == 1
    await assert_closed(client, 4000)


async def test_closing_twice_is_closing_once() -> None:
    client, engine, near, _ = wire_pair()
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read_to_end, engine, [])
            await client.aclose()
            await client.aclose(1011)
    assert len(near.writes) == 1


@virtual_time
@pytest.mark.parametrize("buffer", [0, math.inf], ids=["a peer that reads nothing", "a peer that answers nothing"])
async def test_closing_never_takes_long(buffer: float) -> None:
    client, _, near, _ = wire_pair(buffer)
    start = anyio.current_time()
    with fail_after(5):
        await client.aclose()
    assert anyio.current_time() - start == pytest.approx(1)
    assert near.is_closed


@virtual_time
async def test_closing_does_not_wait_for_a_writer_that_is_stuck() -> None:
    client, _, near, _ = wire_pair(buffer=0)
    with fail_after(5):
        async with create_task_group() as tasks:

            async def send() -> None:
                with pytest.raises(LinkClosed):
                    await client.send([b"stuck"])

            tasks.start_soon(send)
            await wait_all_tasks_blocked()
            await client.aclose()
    assert near.is_closed


async def test_closing_works_in_a_cancelled_scope() -> None:
    client, engine, near, _ = wire_pair()
    codes: list[int] = []

    async def read() -> None:
        try:
            await engine.receive()
        except LinkClosed as exc:
            codes.append(exc.code)
            await engine.aclose()

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read)
            with CancelScope() as scope:
                scope.cancel()
                await client.aclose(1001)
    assert codes == [1001]
    assert near.is_closed


async def test_closing_reads_on_so_that_the_peer_can_finish() -> None:
    """Unread data would turn our close into a reset, which may overtake what we sent last."""
    client, engine, near, far = wire_pair(buffer=0)
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(engine.send, [bytes(300_000)])
            await wait_all_tasks_blocked()
            tasks.start_soon(client.aclose)
            await read_to_end(engine, [])
            await engine.aclose()
    assert near.is_closed
    assert far.is_closed
    await assert_closed(engine, 1000)


async def test_closing_leaves_the_reading_to_a_reader_that_is_at_it() -> None:
    client, engine, near, _ = wire_pair()
    received: list[bytes] = []
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(read_to_end, client, received)
            await wait_all_tasks_blocked()
            tasks.start_soon(client.aclose)
            await wait_all_tasks_blocked()
            await engine.send([b"late"])
            with pytest.raises(LinkClosed):
                await engine.receive()
            await engine.aclose()
    assert received == [b"late"]
    assert near.is_closed


async def test_closing_after_the_peer_closed_sends_nothing_more() -> None:
    client, engine, near, _ = wire_pair()
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(engine.aclose, 1001)
            with pytest.raises(LinkClosed):
                await client.receive()
            await client.aclose()
    assert [data[:1] for data in near.writes] == [b"\x88"], "one answer"
    await assert_closed(client, 1001)


async def test_closing_ends_when_the_stream_does() -> None:
    client, _, near, far = wire_pair()
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(client.aclose)
            await wait_all_tasks_blocked()
            await far.aclose()
    assert near.is_closed


async def test_closing_over_a_broken_stream_only_closes_it() -> None:
    client, _, near, _ = wire_pair()
    near.write_error = BrokenPipeError()
    with fail_after(20):
        await client.aclose()
    assert near.is_closed
    await assert_closed(client, 1000)


async def test_aborting_sends_no_close_frame() -> None:
    """§6.7: eviction; §12.5: a channel's reader that leaves early."""
    client, engine, near, _ = wire_pair()
    with fail_after(20):
        await client.abort()
        await client.abort()
        await client.aclose()
        await assert_closed(engine, 1006)
    assert near.writes == []
    await assert_closed(client, 1006, "aborted")


async def test_an_error_of_the_stream_while_closing_is_of_no_interest(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _, near, far = wire_pair()

    async def fail() -> None:
        raise OSError("cannot even close")

    await far.aclose()
    monkeypatch.setattr(near, "aclose", fail)
    with fail_after(20):
        await client.aclose()
    await assert_closed(client, 1000)
