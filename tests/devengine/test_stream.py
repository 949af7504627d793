"""Streams of the embedded engine: what only it does, and our own ``Stream`` and ``IStream`` on it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread
from pydantic import BaseModel

from iii_anyio import InitOptions, InvocationError, Worker, open_worker, register_worker
from iii_anyio._runtime.context import running_invocation
from iii_anyio.compat import IStream
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine._storage_file import StorageFile
from iii_anyio.devengine._stream_events import Announcements
from iii_anyio.devengine._tracing import traced
from iii_anyio.helpers import create_stream
from iii_anyio.stream import (
    Stream,
    StreamDeleteInput,
    StreamDeleteResult,
    StreamGetInput,
    StreamListGroupsInput,
    StreamListInput,
    StreamSetInput,
    StreamSetResult,
    StreamUpdateInput,
    StreamUpdateResult,
    UpdateIncrement,
)
from tests.heard import Heard

pytestmark = pytest.mark.anyio

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def opened(**options: Any) -> AsyncGenerator[tuple[Engine, Worker]]:
    with fail_after(20):
        async with (
            open_engine(**{"port": None, **options}) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="app")) as iii,
        ):
            yield engine, iii


def place(stream_name: str, group_id: str, item_id: str = "i", **more: Any) -> dict[str, Any]:
    return {"stream_name": stream_name, "group_id": group_id, "item_id": item_id, **more}


# -- our own API -----------------------------------------------------------------------------------------------------


class Message(BaseModel):
    text: str
    likes: int = 0


async def test_the_stream_helper_works_on_the_embedded_engine() -> None:
    """SR-1 to SR-3, SR-6."""
    async with opened() as (_, iii):
        chat, heard = Stream(iii, "chat"), Heard()
        iii.register_function("on_change", heard.hear)
        iii.register_trigger("stream", "on_change", {"stream_name": "chat"})
        await iii.wait_ready()
        first = await chat.set_async("room", "m1", Message(text="hi"), model=Message)
        assert (first.old_value, first.new_value) == (None, Message(text="hi"))
        assert await chat.get_async("room", "m1", model=Message) == Message(text="hi")
        liked = await chat.update_async("room", "m1", [UpdateIncrement(path="likes", by=2)], model=Message)
        assert (liked.new_value.likes, liked.errors) == (2, [])
        assert await chat.list_async("room", model=Message) == [Message(text="hi", likes=2)]
        assert await chat.list_groups_async() == ["room"]
        await chat.send_async("room", "typing", {"by": "ann"}, item_id="m1")
        assert await chat.delete_async("room", "m1", model=Message) == Message(text="hi", likes=2)
        assert await chat.get_async("room", "m1") is None
        events = sorted(message["event"]["type"] for message in await heard.take_all(4))
        assert events == ["create", "delete", "event", "update"]


def make_memory() -> Any:
    """A stream that keeps its items itself."""
    with pytest.warns(FutureWarning, match="IStream"):

        class Memory(IStream[Any]):
            def __init__(self) -> None:
                self.items: dict[str, Any] = {}

            async def get(self, input: StreamGetInput) -> Any:  # noqa: A002 - upstream's name
                return self.items.get(input.item_id)

            async def set(self, input: StreamSetInput) -> StreamSetResult[Any]:  # noqa: A002 - upstream's name
                old_value, self.items[input.item_id] = self.items.get(input.item_id), input.data
                return StreamSetResult[Any](old_value=old_value, new_value=input.data)

            async def delete(self, input: StreamDeleteInput) -> StreamDeleteResult:  # noqa: A002 - upstream's name
                return StreamDeleteResult(old_value=self.items.pop(input.item_id, None))

            async def list(self, input: StreamListInput) -> Any:  # noqa: A002 - upstream's name
                return list(self.items.values())

            async def list_groups(self, input: StreamListGroupsInput) -> Any:  # noqa: A002 - upstream's name
                return ["mine"]

            async def update(self, input: StreamUpdateInput) -> StreamUpdateResult[Any]:  # noqa: A002 - upstream's name
                self.items[input.item_id] = [op.type for op in input.ops]
                return StreamUpdateResult[Any](new_value=self.items[input.item_id])

    return Memory()


async def check_provided(iii: Worker, memory: Any) -> None:
    """Use the stream ``own`` through the engine."""
    stream = Stream(iii, "own")
    assert (await stream.set_async("g", "i", 1)).old_value is None
    assert (await stream.set_async("g", "i", 2)).old_value == 1
    assert memory.items == {"i": 2}
    assert await stream.get_async("g", "i") == 2
    assert await stream.list_async("g") == [2]
    assert await stream.list_groups_async() == ["mine"]
    assert (await stream.update_async("g", "j", [UpdateIncrement(path="n", by=1)])).new_value == ["increment"]
    assert await stream.delete_async("g", "i") == 2
    assert await stream.delete_async("g", "i") is None
    assert memory.items == {"j": ["increment"]}
    assert await iii.trigger_async("stream::list_all", {}) == {"stream": [], "count": 0}, "SR-5: only the store's"


async def test_a_stream_of_an_application_is_used_through_the_engine() -> None:
    """SR-18 to SR-22, with a provider on the native face."""
    memory, heard = make_memory(), Heard()
    async with opened() as (_, iii):
        with pytest.warns(FutureWarning, match="create_stream"):
            create_stream(iii, "own", memory)
        iii.register_function("on_change", heard.hear)
        iii.register_trigger("stream", "on_change", {"stream_name": "own"})
        await iii.wait_ready()
        await check_provided(iii, memory)
        events = sorted(message["event"]["type"] for message in await heard.take_all(4))
        assert events == ["create", "create", "delete", "update"]
        assert not heard.has_more


async def test_a_stream_of_a_synchronous_program_is_used_through_the_engine() -> None:
    """SR-18 to SR-22, with a provider on the portal face; the blocking ``Stream`` uses it, too."""
    memory = make_memory()
    async with opened(port=0) as (engine, iii):

        def provide() -> Any:
            client = register_worker(engine.url, InitOptions(worker_name="provider", handle_signals=False))
            with pytest.warns(FutureWarning, match="create_stream"):
                create_stream(client, "own", memory)
            client.wait_ready()
            return client

        client = await to_thread.run_sync(provide)
        try:
            await check_provided(iii, memory)
            assert await to_thread.run_sync(Stream(client, "own").list, "g") == [["increment"]]
        finally:
            await to_thread.run_sync(client.shutdown)


# -- as recorded -----------------------------------------------------------------------------------------------------

ITEM = {"stream_name": "recs", "group_id": "g", "item_id": "i"}
RECORDED: list[tuple[str, dict[str, Any], Any, dict[str, Any] | None]] = [
    (
        "set",
        {**ITEM, "data": {"n": 1}},
        {"new_value": {"n": 1}, "old_value": None},
        {"data": {"n": 1}, "type": "create"},
    ),
    ("get", ITEM, {"n": 1}, None),
    ("list", {"stream_name": "recs", "group_id": "g"}, [{"n": 1}], None),
    (
        "update",
        {**ITEM, "ops": [{"type": "increment", "path": "n", "by": 1}]},
        {"new_value": {"n": 2}, "old_value": {"n": 1}},
        {"data": {"n": 2}, "type": "update"},
    ),
    ("list_groups", {"stream_name": "recs"}, ["g"], None),
    ("list_all", {}, {"count": 1, "stream": [{"groups": ["g"], "id": "recs"}]}, None),
    (
        "send",
        {"stream_name": "recs", "group_id": "g", "type": "note", "data": {"a": 1}},
        None,
        {"event": {"data": {"a": 1}, "type": "note"}, "type": "event"},
    ),
    ("delete", ITEM, {"old_value": {"n": 2}}, {"data": {"n": 2}, "type": "delete"}),
]
"""What a session of the official SDK with engine 0.23 said: operation, payload, result, event."""


async def test_the_engine_answers_a_recorded_session_as_the_real_one_did() -> None:
    """SR-1 to SR-6, SR-8, SR-10, C-2."""
    async with opened() as (_, iii):
        heard = Heard()
        iii.register_function("ev", heard.hear)
        iii.register_trigger("stream", "ev", {"stream_name": "recs"})
        await iii.wait_ready()
        for operation, payload, result, event in RECORDED:
            assert await iii.trigger_async(f"stream::{operation}", payload) == result
            if event is not None:
                message = await heard.take()
                assert isinstance(message.pop("timestamp"), int)
                about = {"groupId": "g", "id": payload.get("item_id"), "streamName": "recs", "type": "stream"}
                assert message == {**about, "event": event}
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async("stream::get", {"stream_name": "recs"})
        expected = "Failed to deserialize input for stream::get: missing field `group_id`"
        assert (caught.value.code, caught.value.message) == ("deserialization_error", expected)


# -- what is told ----------------------------------------------------------------------------------------------------


async def test_a_write_does_not_wait_for_handlers_which_run_one_after_another() -> None:
    """SR-13 as ST-13: one event's handlers never run at once, and one that fails does not stop the next."""
    async with opened() as (_, iii):
        running: list[str] = []
        go = {"one": anyio.Event(), "two": anyio.Event()}
        began = {"one": anyio.Event(), "two": anyio.Event()}

        def handler(name: str) -> Callable[[Any], Any]:
            async def handle(_data: Any) -> None:
                running.append(name)
                began[name].set()
                await go[name].wait()
                raise ValueError("no")

            return handle

        for name in go:
            iii.register_function(name, handler(name))
            iii.register_trigger("stream", name, {"stream_name": "s"})
        await iii.wait_ready()
        await iii.trigger_async("stream::set", place("s", "g", data=1))
        while not running:
            await anyio.lowlevel.checkpoint()
        await iii.trigger_async("stream::get", place("s", "g"))  # meanwhile everything works
        assert len(running) == 1
        (first,) = running
        second = "two" if first == "one" else "one"
        go[first].set()
        await began[second].wait()
        go[second].set()


async def test_a_fire_carries_on_the_trace_of_the_write() -> None:
    """Protocol §7.6."""
    async with opened() as (_, iii):
        heard: list[str] = []
        is_heard = anyio.Event()

        async def on_change(_data: Any) -> None:
            invocation = running_invocation()
            assert invocation is not None
            assert invocation.traceparent is not None
            heard.append(invocation.traceparent)
            is_heard.set()

        iii.register_function("on_change", on_change)
        iii.register_trigger("stream", "on_change", {"stream_name": "s"})
        await iii.wait_ready()
        with traced(iii, TRACEPARENT):
            await iii.trigger_async("stream::set", place("s", "g", data=1))
        await is_heard.wait()
        assert [traceparent.split("-")[1] for traceparent in heard] == [TRACEPARENT.split("-")[1]]


def test_changes_are_told_in_the_order_in_which_they_were_made() -> None:
    """Whichever is on disk first; one that failed is passed over."""
    waiting = Announcements()
    first, second, third = (waiting.add({"n": n}, ()) for n in (1, 2, 3))
    assert waiting.confirm(third) == []
    assert waiting.confirm(first) == [first]
    assert waiting.withdraw(second) == [third]
    assert len(waiting) == 0


async def test_no_change_of_many_writers_at_once_is_lost(tmp_path: Path) -> None:
    """SR-13."""
    async with opened(data=tmp_path) as (_, iii):
        heard = Heard()
        iii.register_function("on_change", heard.hear)
        iii.register_trigger("stream", "on_change", {"stream_name": "s"})
        await iii.wait_ready()
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(iii.trigger_async, "stream::set", place("s", "g", data=n))
        values = [message["event"]["data"] for message in await heard.take_all(20)]
        assert sorted(values) == list(range(20))


# -- the store -------------------------------------------------------------------------------------------------------


async def test_items_survive_the_engine_with_a_data_directory(tmp_path: Path) -> None:
    """design.md §5."""
    async with opened(data=tmp_path) as (_, iii):
        for item_id in "bac":
            await iii.trigger_async("stream::set", place("s", "g", item_id, data=item_id))
        await iii.trigger_async("stream::set", place("s", "h", data=1))
        await iii.trigger_async("stream::delete", place("s", "h"))
        await iii.trigger_async("stream::set", place("s", "g", "b", data={"again": None}))
        assert await iii.trigger_async("stream::list_groups", {"stream_name": "s"}) == ["g", "h"]
    async with opened(data=tmp_path) as (_, iii):
        assert await iii.trigger_async("stream::list", place("s", "g")) == [{"again": None}, "a", "c"]
        # ST-6: a group without items is listed until a restart.
        assert await iii.trigger_async("stream::list_all", {}) == {"stream": [{"id": "s", "groups": ["g"]}], "count": 1}


async def test_a_store_that_fails_fails_the_write_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SR-7. Nobody is told of what is not stored."""
    async with opened(data=tmp_path) as (_, iii):
        heard = Heard()
        iii.register_function("on_change", heard.hear)
        iii.register_trigger("stream", "on_change", {"stream_name": "s"})
        await iii.wait_ready()
        await iii.trigger_async("stream::set", place("s", "g", data=0))
        await heard.take()

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(StorageFile, "commit", fail)
        for operation in ("set", "update", "delete"):
            with pytest.raises(InvocationError, match="No space left") as caught:
                await iii.trigger_async(f"stream::{operation}", place("s", "g", data=1, ops=[]))
            assert caught.value.code == f"STREAM_{operation.upper()}_ERROR"
        await iii.trigger_async("stream::send", {"stream_name": "s", "group_id": "g", "type": "t", "data": 1})
        assert (await heard.take())["event"]["type"] == "event"
    caplog.clear()


@pytest.mark.parametrize("strict", [False, True])
async def test_colons_in_names_mislead_a_strict_engine_only(strict: bool) -> None:
    """SR-4."""
    async with opened(strict_upstream=strict) as (_, iii):
        for stream_name, group_id in (("a", "g"), ("a:b", "g"), ("iii:devtools:x", "g")):
            await iii.trigger_async("stream::set", place(stream_name, group_id, data=1))
        groups = await iii.trigger_async("stream::list_groups", {"stream_name": "a"})
        streams = (await iii.trigger_async("stream::list_all", {}))["stream"]
    if strict:
        assert groups == ["g", "b:g"]
        assert streams == [{"id": "a", "groups": ["b", "g"]}, {"id": "iii", "groups": ["devtools"]}]
    else:
        assert groups == ["g"]
        assert [(row["id"], row["groups"]) for row in streams] == [
            ("a", ["g"]), ("a:b", ["g"]), ("iii:devtools:x", ["g"]),
        ]  # fmt: skip


# -- discovery and configuration -------------------------------------------------------------------------------------


async def test_functions_and_trigger_types_are_described() -> None:
    """E-6, E-17, SR-10: the schema of the payload is the one that is sent, not upstream's."""
    async with opened() as (_, iii):
        found = await iii.trigger_async("engine::functions::list", {"prefix": "stream::"})
        names = ["delete", "get", "list", "list_all", "list_groups", "send", "set", "update"]
        assert [row["function_id"] for row in found["functions"]] == [f"stream::{name}" for name in names]
        assert {row["worker_name"] for row in found["functions"]} == {"iii-stream"}
        update = await iii.trigger_async("engine::functions::info", {"function_id": "stream::update"})
        assert update["request_schema"]["required"] == ["group_id", "item_id", "ops", "stream_name"]
        assert update["request_schema"]["properties"]["ops"]["type"] == "array"
        get = await iii.trigger_async("engine::functions::info", {"function_id": "stream::get"})
        assert "response_schema" not in get
        stream = await iii.trigger_async("engine::triggers::info", {"id": "stream"})
        assert stream["worker_name"] == "iii-stream"
        assert stream["configuration_schema"]["required"] == ["stream_name"]
        assert {"streamName", "groupId", "event"} <= set(stream["request_schema"]["required"])
        found = await iii.trigger_async("engine::triggers::list", {"prefix": "stream:"})
        assert [row["id"] for row in found["triggers"]] == ["stream:join", "stream:leave"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"port": "x"}, "iii-stream: port must be"),
        ({"auth_function": 5}, "iii-stream: auth_function must be a string"),
        ({"adapter": "kv"}, "iii-stream: adapter must be a mapping"),
        ({"adapter": {"name": "files"}}, "iii-stream: adapter.name must be 'kv'"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_wrong_configuration_is_an_error_that_says_what_is_allowed(config: Any, reason: str) -> None:
    """§3.6."""
    with pytest.raises(ValueError, match=reason):
        async with opened(workers={"iii-stream": config}):
            pass


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_what_has_no_effect_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """§3.6; the real engine rejects an unknown key."""
    config = {"host": "0.0.0.0", "adapter": {"name": "redis", "config": {"redis_url": "redis://x"}}, "ports": 1}
    with caplog.at_level(logging.WARNING, "iii_anyio.devengine"):
        async with opened(workers={"iii-stream": config}, stream_port=None):
            pass
    text = caplog.text
    assert "adapter 'redis' is the real engine's" in text
    assert "unknown key 'ports'" in text
