"""Channels as programs use them: both ends, refs in payloads, and the official SDK as the other end."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest
from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    create_task_group,
    fail_after,
    from_thread,
    to_thread,
    wait_all_tasks_blocked,
)
from anyio.abc import SocketAttribute, SocketListener
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from iii_anyio import ConnectError, EncodeError, InitOptions, InvocationError, Worker, WorkerStateError, open_worker
from iii_anyio._protocol.codec import to_json
from iii_anyio._refs import extract_channel_refs
from iii_anyio._runtime.invoke import may_hold_refs
from iii_anyio._wire.listen import Accepted, serve_websockets
from iii_anyio.channel import (
    Channel,
    ChannelClosedError,
    ChannelReader,
    ChannelWriter,
    StreamChannelRef,
    build_channel_url,
    create_channel,
    create_channel_async,
    resolve_headers,
)
from iii_anyio.devengine import Engine, open_engine
from tests.proxy import open_tcp_proxy
from tests.timing import until_still

pytestmark = pytest.mark.anyio

KIB = 1024
REF = StreamChannelRef(channel_id="c", access_key="k", direction="read")


class Ground:
    """An engine, and workers of it over sockets or in process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._count = 0

    @asynccontextmanager
    async def worker(self, address: str | None = None, **options: Any) -> AsyncGenerator[Worker]:
        self._count += 1
        merged = InitOptions(worker_name=f"w{self._count}", handle_signals=False, **options)
        url = address or self.engine.url
        opened = open_worker(url, merged) if url else open_worker(options=merged, connector=self.engine.connector())
        async with opened as iii:
            yield iii


@asynccontextmanager
async def ground(kind: str = "socket", seconds: float = 20) -> AsyncGenerator[Ground]:
    with fail_after(seconds):
        async with open_engine(port=0 if kind == "socket" else None, http_port=None) as engine:
            yield Ground(engine)


@asynccontextmanager
async def pipe(kind: str = "socket", buffer_size: int | None = None) -> AsyncGenerator[Channel]:
    async with ground(kind) as place, place.worker() as iii:
        channel = await create_channel_async(iii, buffer_size)
        async with channel.reader:
            yield channel
            await channel.writer.close_async()


both = pytest.mark.parametrize("kind", ["direct", "socket"])


# -- both ends -------------------------------------------------------------------------------------------------------


@both
async def test_bytes_are_cut_at_64_kib_and_joined_by_read_all(kind: str) -> None:
    """P-54, A.14."""
    data = bytes(range(256)) * 1200  # 300 KiB
    async with pipe(kind) as channel:
        await channel.writer.write(data)
        await channel.writer.close_async()
        sizes = [len(await channel.reader.receive())]
        assert sizes == [64 * KIB]
        assert data[: 64 * KIB] + await channel.reader.read_all() == data
        assert await channel.reader.read_all() == b""  # a second pass over a finished reader
        with pytest.raises(EndOfStream):
            await channel.reader.receive()


@both
async def test_text_goes_to_the_callbacks_in_the_order_of_the_stream(kind: str, caplog: Any) -> None:
    """P-53; a callback's error is logged and nobody else's business."""
    async with pipe(kind) as channel:
        heard: list[str] = []

        def fail(_text: str) -> None:
            raise ValueError("no")

        channel.reader.on_message(fail)
        channel.reader.on_message(heard.append)
        await channel.writer.send_message_async("ä1")
        await channel.writer.write(b"bytes")
        await channel.writer.send_message_async("")
        await channel.writer.close_async()
        chunks = [(chunk, list(heard)) async for chunk in channel.reader]
        assert chunks == [(b"bytes", ["ä1"])]
        assert heard == ["ä1", ""]
        assert "callback of channel" in caplog.text


@given(items=st.lists(st.one_of(st.text(max_size=50), st.binary(max_size=50)), max_size=100), size=st.integers(1, 5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_any_sequence_of_items_arrives_as_it_was_written(items: list[str | bytes], size: int) -> None:
    """§12.3: kind, order and boundaries, empty items included."""
    async with pipe("direct", size) as channel:

        async def write() -> None:
            for item in items:
                if isinstance(item, str):
                    await channel.writer.send_message_async(item)
                else:
                    await channel.writer.write(item)
            await channel.writer.write(b"end")

        received: list[str | bytes] = []
        async with create_task_group() as tasks:
            tasks.start_soon(write)
            while received[-1:] != [b"end"]:
                item = await channel.reader.receive_item()
                received.append(item.text if item.text is not None else item.binary or b"")
            assert received[:-1] == items[: len(received) - 1]
        while len(received) <= len(items):  # b"end" was one of the items
            item = await channel.reader.receive_item()
            received.append(item.text if item.text is not None else item.binary or b"")
        assert received == [*items, b"end"]


@both
async def test_a_reader_is_a_byte_stream_of_anyio_and_a_writer_too(kind: str) -> None:
    async with pipe(kind) as channel:
        await channel.writer.send("grüße\nzwei".encode())
        await channel.writer.aclose()
        buffered = BufferedByteReceiveStream(channel.reader)
        assert (await buffered.receive_until(b"\n", 100)).decode() == "grüße"
        assert [text async for text in TextReceiveStream(buffered)] == ["zwei"]


async def test_receive_gives_no_more_than_it_is_asked_for() -> None:
    async with pipe("direct") as channel:
        await channel.writer.write(b"abcdef")
        await channel.writer.write(b"g")
        assert [await channel.reader.receive(4) for _ in range(3)] == [b"abcd", b"ef", b"g"]
        await channel.writer.write(b"hij")
        assert await channel.reader.receive(1) == b"h"
        assert (await channel.reader.receive_item()).binary == b"ij"


@both
async def test_an_end_that_was_not_used_costs_no_connection_and_closing_it_does_nothing(kind: str) -> None:
    """P-52, A.14."""
    async with ground(kind) as place, place.worker() as iii:
        channel = await create_channel_async(iii)
        await channel.writer.close_async()
        await channel.writer.close_async()
        await channel.reader.close_async()
        assert not channel.writer.is_connected
        with pytest.raises(ClosedResourceError):
            await channel.writer.write(b"x")
        with pytest.raises(ClosedResourceError):
            await channel.reader.receive()
        # Nobody took either end:
        reader, writer = (
            ChannelReader("", channel.reader_ref, open_channel=iii.open_channel),
            ChannelWriter("", channel.writer_ref, open_channel=iii.open_channel),
        )
        async with writer:
            await writer.write(b"free")
        assert await reader.read_all() == b"free"


@both
async def test_a_slow_reader_holds_its_writer_up(kind: str) -> None:
    """P-54: what is under way is bounded, so a writer does not get to its end without a reader."""
    data = bytes(64 * KIB)
    count = 600
    async with ground(kind, 30) as place, place.worker() as iii:
        channel = await create_channel_async(iii, 2)
        written = 0

        async def write() -> None:
            nonlocal written
            async with channel.writer:
                for _ in range(count):
                    await channel.writer.write(data)
                    written += 1

        async with create_task_group() as tasks:
            tasks.start_soon(write)
            assert await until_still(lambda: written) < count
            assert len(await channel.reader.read_all()) == count * len(data)


@both
async def test_writes_of_several_tasks_stay_in_one_piece(kind: str) -> None:
    async with pipe(kind, 2) as channel:

        async def write(byte: bytes) -> None:
            await channel.writer.write(byte * (200 * KIB))

        data = b""
        async with create_task_group() as tasks:
            for byte in (b"a", b"b", b"c"):
                tasks.start_soon(write, byte)
            while len(data) < 600 * KIB:
                data += await channel.reader.receive()
        assert sorted(data[at : at + 200 * KIB] for at in range(0, len(data), 200 * KIB)) == [
            byte * (200 * KIB) for byte in (b"a", b"b", b"c")
        ]


async def test_two_tasks_cannot_read_at_once() -> None:
    async with pipe("direct") as channel, create_task_group() as tasks:
        tasks.start_soon(channel.reader.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(BusyResourceError):
            await channel.reader.receive()
        await channel.writer.write(b"x")


async def test_a_lone_surrogate_is_refused() -> None:
    async with pipe("direct") as channel:
        with pytest.raises(EncodeError, match="surrogate"):
            await channel.writer.send_message_async("\ud800")
        assert not channel.writer.is_connected


async def test_text_that_is_not_utf_8_closes_the_reader_with_1007() -> None:
    async with ground("direct") as place, place.worker() as iii:
        channel = await create_channel_async(iii)
        async with iii.open_channel(channel.writer_ref.channel_id, channel.writer_ref.access_key, "write") as wire:
            await wire.send([b"fine", b"\xff"])
            assert (await channel.reader.receive_item()).text == "fine"
            for _ in range(2):
                with pytest.raises(ChannelClosedError, match="1007"):
                    await channel.reader.receive_item()


# -- ends and errors -------------------------------------------------------------------------------------------------


@both
async def test_a_channel_that_is_not_there_is_an_error_that_says_so(kind: str) -> None:
    """P-53."""
    async with ground(kind) as place, place.worker() as iii:
        reader = ChannelReader("", REF, open_channel=iii.open_channel)
        for _ in range(2):
            with pytest.raises(ChannelClosedError, match="wrong id or key") as caught:
                await reader.read_all()
            assert caught.value.code == 404
        with pytest.raises(BrokenResourceError):
            await ChannelWriter("", REF, open_channel=iii.open_channel).write(b"x")


async def test_an_engine_that_is_not_there_is_a_connect_error() -> None:
    with fail_after(20):
        with pytest.raises(ConnectError, match="refused"):
            await ChannelReader("ws://127.0.0.1:9", REF).receive()


async def test_a_worker_whose_connector_opens_no_channels_says_so() -> None:
    async with ground("direct") as place:
        connect = place.engine.connector()
        async with open_worker(connector=lambda: connect(), options=InitOptions(handle_signals=False)) as iii:
            channel = await create_channel_async(iii)
            with pytest.raises(ConnectError, match="opens no channels"):
                await channel.writer.write(b"x")


@both
async def test_the_second_to_write_learns_that_the_end_was_taken(kind: str) -> None:
    """§12.2: the engine says it with a close frame, and reads nothing behind it."""
    async with ground(kind) as place, place.worker() as iii:
        channel = await create_channel_async(iii)
        await channel.writer.write(b"first")
        second = ChannelWriter("", channel.writer_ref, open_channel=iii.open_channel)
        with pytest.raises(ChannelClosedError, match="write end"):
            while True:
                await second.write(bytes(64 * KIB))
        await channel.writer.close_async()
        assert await channel.reader.read_all() == b"first"


@both
async def test_a_reader_that_closes_early_does_not_wait_and_its_writer_is_told(kind: str) -> None:
    """P-55, §12.4."""
    async with ground(kind, 30) as place, place.worker() as iii:
        channel = await create_channel_async(iii)
        await channel.writer.write(b"1")
        assert await channel.reader.receive() == b"1"
        await channel.reader.close_async()
        with pytest.raises(ClosedResourceError):
            await channel.reader.receive()
        with pytest.raises(ChannelClosedError) as caught:
            while True:
                await channel.writer.write(bytes(64 * KIB))
        assert caught.value.code == 1006
        with pytest.raises(ChannelClosedError):
            await channel.writer.write(b"x")
        await channel.writer.close_async()


@both
async def test_closing_a_reader_ends_the_read_that_waits(kind: str) -> None:
    async with pipe(kind) as channel, create_task_group() as tasks:
        await channel.writer.write(b"1")
        await channel.reader.receive()
        closed: list[bool] = []

        async def read() -> None:
            try:
                await channel.reader.receive()
            except ClosedResourceError:
                closed.append(True)

        tasks.start_soon(read)
        await wait_all_tasks_blocked()
        await channel.reader.close_async()
        while not closed:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("end", ["reader", "writer"])
async def test_a_connection_that_is_cut_raises_at_either_end(end: str) -> None:
    """1006; only the engine's close frame is an end."""
    async with ground(seconds=50) as place, place.worker() as iii:
        port = int(place.engine.url.rpartition(":")[2])
        async with open_tcp_proxy("127.0.0.1", port) as proxy, place.worker(f"ws://127.0.0.1:{proxy.port}") as far:
            channel = await create_channel_async(iii)
            reader = ChannelReader("", channel.reader_ref, open_channel=far.open_channel)
            if end == "reader":
                await channel.writer.write(b"half")
                assert await reader.receive() == b"half"
                proxy.cut(tell_engine=False)
                with pytest.raises(ChannelClosedError) as caught:
                    await reader.read_all()
                assert pickle.loads(pickle.dumps(caught.value)).code == 1006
                await channel.writer.close_async()
            else:
                writer = ChannelWriter("", channel.writer_ref, open_channel=far.open_channel)
                await writer.write(b"half")
                assert await channel.reader.receive() == b"half"
                proxy.cut()
                with pytest.raises(ChannelClosedError, match="1006"):
                    while True:
                        await writer.write(bytes(64 * KIB))
                assert b"half" not in await channel.reader.read_all()


@both
async def test_the_engine_s_end_is_no_end_of_the_stream(kind: str) -> None:
    codes: list[int] = []
    writers: list[ChannelWriter] = []

    async def read(reader: ChannelReader) -> None:
        with pytest.raises(ChannelClosedError) as caught:
            await reader.read_all()
        codes.append(caught.value.code)

    async with create_task_group() as tasks, ground(kind) as place, place.worker() as iii:
        channel = await create_channel_async(iii)
        await channel.writer.write(b"x")
        assert await channel.reader.receive() == b"x"
        writers.append(channel.writer)
        tasks.start_soon(read, channel.reader)
        await wait_all_tasks_blocked()
    await writers[0].close_async()
    assert codes == [1006]


@both
async def test_a_read_that_is_cancelled_loses_nothing(kind: str) -> None:
    async with pipe(kind) as channel:
        await channel.writer.write(b"1")
        assert await channel.reader.receive() == b"1"
        async with create_task_group() as tasks:
            tasks.start_soon(channel.reader.receive)
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await channel.writer.write(b"2")
        await channel.writer.close_async()
        assert await channel.reader.read_all() == b"2"


@both
async def test_a_first_use_that_is_cancelled_can_be_repeated(kind: str) -> None:
    async with pipe(kind) as channel:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await channel.writer.write(b"never")
        await channel.writer.write(b"1")
        await channel.writer.close_async()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await channel.reader.receive()
        assert await channel.reader.read_all() == b"1"


async def test_a_write_that_is_cancelled_while_it_waits_breaks_the_end() -> None:
    """P-08 for channels: a frame that is incomplete cannot be taken back."""
    async with ground(seconds=50) as place, place.worker() as iii:
        channel = await create_channel_async(iii, 1)
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await channel.writer.write(bytes(64 * KIB))
                written += 1

        async with create_task_group() as tasks:
            tasks.start_soon(write)
            await until_still(lambda: written)
            tasks.cancel_scope.cancel()
        with pytest.raises(ChannelClosedError, match="incomplete"):
            await channel.writer.write(b"x")
        await channel.writer.close_async()


# -- loops and threads -----------------------------------------------------------------------------------------------


async def test_an_end_belongs_to_the_loop_that_used_it_first() -> None:
    """Over sockets any loop will do; in process it is the engine's."""
    async with ground() as place, place.worker() as iii:
        channel = await create_channel_async(iii)
        await channel.writer.write(b"here")

        def elsewhere() -> bytes:
            with pytest.raises(WorkerStateError):
                anyio.run(channel.writer.write, b"x")

            async def read() -> bytes:
                async with channel.reader:
                    return await channel.reader.receive()

            return anyio.run(read)

        assert await to_thread.run_sync(elsewhere) == b"here"
        with pytest.raises(WorkerStateError):
            await channel.reader.receive()
        await channel.writer.close_async()


async def test_an_end_in_process_refuses_another_loop() -> None:
    async with pipe("direct") as channel:

        def elsewhere() -> None:
            with pytest.raises(WorkerStateError):
                anyio.run(channel.writer.write, b"x")

        await to_thread.run_sync(elsewhere)


async def test_create_channel_blocks_a_thread_and_not_the_loop() -> None:
    """A.14."""
    async with ground() as place, place.worker() as iii:
        with pytest.raises(WorkerStateError):
            create_channel(iii)
        channel = await to_thread.run_sync(create_channel, iii, 5)
        assert (channel.writer_ref.direction, channel.reader.ref) == ("write", channel.reader_ref)
        with pytest.raises(InvocationError, match="deserialization_error"):
            await create_channel_async(iii, -1)


# -- refs in payloads ------------------------------------------------------------------------------------------------


@both
async def test_refs_become_live_ends_at_any_depth_in_both_directions(kind: str) -> None:
    """P-56, §12.6."""
    async with ground(kind) as place, place.worker() as ours, place.worker() as theirs:
        kinds: list[Any] = []

        async def shout(data: Any) -> Any:
            source, sink = data["files"][0]["in"], data["out"]
            kinds.append((type(source), type(sink), data["plain"]))
            async for chunk in source:
                await sink.write(chunk.upper())
            await sink.send_message_async("done")
            await sink.close_async()
            return {"read": 2}

        for iii in (ours, theirs):
            iii.register_function(f"shout::{iii.worker_id or id(iii)}", shout)
        names = [f"shout::{iii.worker_id or id(iii)}" for iii in (theirs, ours)]
        for caller, name in zip((ours, theirs), names, strict=True):
            await caller.wait_ready()
            await (theirs if caller is ours else ours).wait_ready()
            there, back = await create_channel_async(caller), await create_channel_async(caller)
            heard: list[str] = []
            back.reader.on_message(heard.append)
            payload = {
                "files": [{"in": there.reader_ref}],  # a model, a live end and a dict: all are refs
                "out": back.writer if caller is ours else back.writer_ref.model_dump() | {"more": 1},
                "plain": {"channel_id": "c", "access_key": "k"},
            }
            results: list[Any] = []

            async def call(caller: Worker, name: str, payload: Any, results: list[Any]) -> None:
                results.append(await caller.trigger_async(name, payload))

            async with create_task_group() as tasks:
                tasks.start_soon(call, caller, name, payload, results)
                await there.writer.write(b"abc" * 50_000)
                await there.writer.close_async()
                assert await back.reader.read_all() == b"ABC" * 50_000
            assert heard == ["done"]
            assert results == [{"read": 2}]
            assert kinds.pop() == (ChannelReader, ChannelWriter, payload["plain"])


class Job(BaseModel):
    """A payload with ends."""

    source: ChannelReader
    sinks: list[ChannelWriter] = []


@both
async def test_models_take_live_ends_and_refuse_what_is_none(kind: str) -> None:
    """P-56."""
    async with ground(kind) as place, place.worker() as iii:

        async def take(job: Job) -> Any:
            data = await job.source.read_all()
            for sink in job.sinks:
                async with sink:
                    await sink.write(data)
            return [job.source, len(data)]  # in a result an end is its plain ref

        iii.register_function("take", take)
        await iii.wait_ready()
        source, sink = await create_channel_async(iii), await create_channel_async(iii)
        await source.writer.write(b"xyz")
        await source.writer.close_async()
        payload = {"source": source.reader_ref, "sinks": [sink.writer_ref]}
        assert await iii.trigger_async("take", payload) == [source.reader_ref.model_dump(), 3]
        assert await sink.reader.read_all() == b"xyz"
        for wrong in ({"source": "no"}, {"source": sink.writer_ref}, {}):
            with pytest.raises(InvocationError, match="invalid_payload"):
                await iii.trigger_async("take", wrong)


async def test_the_schema_of_an_end_is_that_of_its_ref_and_so_is_its_json() -> None:
    reader = ChannelReader("ws://x", REF)
    assert to_json({"a": [reader]}) == to_json({"a": [REF.model_dump()]})
    assert Job(source=reader).model_dump() == {"source": REF.model_dump(), "sinks": []}
    schema = Job.model_json_schema()["properties"]["source"]
    assert schema["required"] == ["channel_id", "access_key", "direction"]
    assert schema["properties"]["direction"] == {"const": "read"}


@both
async def test_a_sync_handler_uses_ends_through_its_loop(kind: str) -> None:
    async with ground(kind) as place, place.worker() as iii:
        iii.register_function("length", lambda data: len(from_thread.run(data["source"].read_all)))
        await iii.wait_ready()
        channel = await create_channel_async(iii)
        await channel.writer.write(b"12345")
        await channel.writer.close_async()
        assert await iii.trigger_async("length", {"source": channel.reader_ref}) == 5


@both
async def test_ends_left_open_are_closed_with_the_invocation_and_kept_ones_are_not(kind: str) -> None:
    async with ground(kind) as place, place.worker() as iii, create_task_group() as tasks:

        async def leave_open(data: Any) -> None:
            await data["sink"].write(b"left")
            if data["fail"]:
                raise ValueError("on the way")

        async def later(writer: ChannelWriter) -> None:
            await writer.write(b"+later")
            await writer.close_async()

        async def keep(data: Any) -> None:
            await data["sink"].write(b"kept")
            tasks.start_soon(later, data["sink"].keep_open())

        iii.register_function("leave", leave_open)
        iii.register_function("keep", keep)
        await iii.wait_ready()
        for fail in (False, True):
            channel = await create_channel_async(iii)
            with pytest.raises(InvocationError, match="on the way") if fail else nullcontext():
                await iii.trigger_async("leave", {"sink": channel.writer_ref, "fail": fail})
            assert await channel.reader.read_all() == b"left"
        channel = await create_channel_async(iii)
        await iii.trigger_async("keep", {"sink": channel.writer_ref})
        assert await channel.reader.read_all() == b"kept+later"


async def test_an_end_that_a_thread_used_in_a_loop_of_its_own_does_not_hurt_the_worker() -> None:
    async with ground() as place, place.worker() as iii:

        def own_loop(data: Any) -> int:
            async def read() -> int:
                async with data["source"] as reader:
                    return len(await reader.receive())

            return anyio.run(read)

        iii.register_function("own", own_loop)
        iii.register_function("ping", lambda _data: "pong")
        await iii.wait_ready()
        channel = await create_channel_async(iii)
        await channel.writer.write(b"12")
        assert await iii.trigger_async("own", {"source": channel.reader_ref}) == 2
        assert await iii.trigger_async("ping", {}) == "pong"
        with pytest.raises(ChannelClosedError):
            while True:
                await channel.writer.write(bytes(64 * KIB))


async def test_a_handler_that_ignores_its_ends_connects_none() -> None:
    """P-52: the end is still free afterwards, for whoever wants it."""
    async with ground() as place, place.worker() as iii:
        iii.register_function("ignore", lambda data: repr(data["end"]))
        await iii.wait_ready()
        channel = await create_channel_async(iii)
        assert "unused" in await iii.trigger_async("ignore", {"end": channel.writer_ref})
        await channel.writer.write(b"mine")
        await channel.writer.close_async()
        assert await channel.reader.read_all() == b"mine"


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("ws://h", "ws://h/ws/channels/C?key=K&dir=read"),
        ("ws://h/", "ws://h/ws/channels/C?key=K&dir=read"),
        ("ws://h/p/?token=abc&x=1", "ws://h/p/ws/channels/C?token=abc&x=1&key=K&dir=read"),
        ("ws://h/?t=1", "ws://h/ws/channels/C?t=1&key=K&dir=read"),
    ],
)
def test_the_url_of_an_end_keeps_path_and_query_of_the_address(base: str, url: str) -> None:
    """P-03, §2.1."""
    assert build_channel_url(base, "C", "K", "read") == url
    assert build_channel_url("ws://h", "C", "a/b c&d", "write").endswith("key=a/b%20c%26d&dir=write")


def test_the_token_is_added_unless_there_is_an_authorization(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-02."""
    monkeypatch.delenv("III_TOKEN", raising=False)
    assert resolve_headers() is None
    monkeypatch.setenv("III_TOKEN", " secret ")
    own = {"AUTHORIZATION": "mine"}
    assert resolve_headers(own) is own
    assert resolve_headers({"X": "1"}) == {"X": "1", "Authorization": "Bearer secret"}
    monkeypatch.setenv("III_TOKEN", "  ")
    assert resolve_headers(own) is own


async def test_a_worker_s_channels_carry_its_headers_token_and_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-02, P-03."""
    monkeypatch.setenv("III_TOKEN", "secret")
    seen: list[tuple[str, str, str | None, str | None]] = []

    async def engine(accepted: Accepted) -> None:
        headers = accepted.headers
        seen.append((accepted.path, accepted.query, headers.get("authorization"), headers.get("x-own")))
        wire = await accepted.accept()
        await wire.aclose(1005)

    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    assert isinstance(listener, SocketListener)
    with fail_after(20):
        async with listener, create_task_group() as tasks:
            tasks.start_soon(serve_websockets, listener, engine)
            url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/base/?t=1"
            options = InitOptions(headers={"X-Own": "1"}, handle_signals=False)
            async with open_worker(url, options) as iii:
                reader = ChannelReader("", REF, open_channel=iii.open_channel)
                assert await reader.read_all() == b""
                assert not reader.is_connected
            tasks.cancel_scope.cancel()
    assert ("/base/ws/channels/c", "t=1&key=k&dir=read", "Bearer secret", "1") in seen


JSON = st.recursive(
    st.none() | st.text(max_size=3) | st.just(REF.model_dump()),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=12), parts, max_size=3),
    max_leaves=8,
)


@given(data=JSON)
def test_no_ref_is_overlooked_by_the_test_whether_there_may_be_one(data: Any) -> None:
    """§12.6."""
    if extract_channel_refs(data):
        assert may_hold_refs(data)
    assert may_hold_refs([object()])
    assert not may_hold_refs([[{"a": {"b": "access"}}], "x"])


# -- the official SDK ------------------------------------------------------------------------------------------------


async def test_the_official_sdk_reads_what_we_write_and_we_read_what_it_writes() -> None:
    """P-52 to P-56, over a real socket."""
    iii_channels = pytest.importorskip("iii.channels")
    data = bytes(range(256)) * 1000
    async with ground(seconds=50) as place, place.worker() as iii:
        url = place.engine.url
        ours, theirs = await create_channel_async(iii), await create_channel_async(iii)

        def official(ref: StreamChannelRef) -> Any:
            kind = iii_channels.ChannelReader if ref.direction == "read" else iii_channels.ChannelWriter
            return kind(url, iii_channels.StreamChannelRef(**ref.model_dump()))

        async def read() -> tuple[bytes, list[str]]:
            heard: list[str] = []
            reader = official(ours.reader_ref)
            reader.on_message(heard.append)
            return await reader.read_all(), heard

        async def write() -> None:
            writer = official(theirs.writer_ref)
            await writer.send_message_async("first")
            await writer.write(data)
            await writer.close_async()

        async def give() -> None:
            async with ours.writer:
                await ours.writer.send_message_async("hällo")
                await ours.writer.write(data)

        async with create_task_group() as tasks:
            tasks.start_soon(give)
            assert await to_thread.run_sync(lambda: asyncio.run(read())) == (data, ["hällo"])
        heard: list[str] = []
        theirs.reader.on_message(heard.append)
        async with create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, lambda: asyncio.run(write()))
            assert await theirs.reader.read_all() == data
        assert heard == ["first"]
