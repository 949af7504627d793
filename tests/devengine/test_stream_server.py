"""The WebSocket server of streams (§3.5), with the ``stream:join`` and ``stream:leave`` triggers (§3.3)."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after
from anyio.abc import TaskStatus

from iii_anyio import InitOptions, InvocationError, Worker, open_worker
from iii_anyio.devengine import Engine, _stream_server, open_engine
from iii_anyio.devengine._subscriptions import auth_input, read_request
from iii_anyio.errors import ConnectError
from tests.devengine.subscribers import join, subscribing
from tests.heard import Heard

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(**config: Any) -> AsyncGenerator[tuple[Engine, Worker]]:
    with fail_after(20):
        async with (
            open_engine(port=None, stream_port=0, workers={"iii-stream": config}) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="app")) as iii,
        ):
            yield engine, iii


async def change(iii: Worker, data: Any, item_id: str = "i", group_id: str = "g", stream_name: str = "s") -> None:
    place = {"stream_name": stream_name, "group_id": group_id, "item_id": item_id}
    await iii.trigger_async("stream::set", {**place, "data": data})


def bind(iii: Worker, type_id: str, heard: Heard, name: str = "", config: Any = None) -> None:
    function_id = f"{type_id}{name}"
    iii.register_function(function_id, heard.hear)
    iii.register_trigger(type_id, function_id, config, {"m": 1})


# -- subscriptions ---------------------------------------------------------------------------------------------------


async def test_a_subscriber_of_a_group_gets_its_items_then_its_changes() -> None:
    """SR-8, SR-24, SR-25."""
    async with serving() as (engine, iii), subscribing(engine) as subscriber:
        await change(iii, {"n": 1})
        await subscriber.say(join())
        message = await subscriber.take()
        timestamp = message.pop("timestamp")
        assert timestamp > 1_600_000_000_000  # milliseconds (C-10)
        event = {"type": "sync", "data": [{"n": 1}]}
        assert message == {"type": "stream", "streamName": "s", "groupId": "g", "id": None, "event": event}
        await change(iii, {"n": 2})
        await change(iii, 1, group_id="other")
        await change(iii, 1, stream_name="other")
        place = {"stream_name": "s", "group_id": "g"}
        await iii.trigger_async("stream::send", {**place, "type": "typing", "data": {"by": "ann"}})
        await iii.trigger_async("stream::delete", {**place, "item_id": "i"})
        assert [await subscriber.take_event() for _ in range(3)] == [
            ("i", {"type": "update", "data": {"n": 2}}),
            (None, {"type": "event", "event": {"type": "typing", "data": {"by": "ann"}}}),
            ("i", {"type": "delete", "data": {"n": 2}}),
        ]


async def test_a_subscriber_of_an_item_gets_the_item_and_what_concerns_it() -> None:
    """SR-24, SR-25."""
    async with serving() as (engine, iii), subscribing(engine) as subscriber:
        assert await subscriber.join(item_id="i") == {"type": "sync", "data": None}
        await change(iii, 1)
        await change(iii, 2, "other")
        place = {"stream_name": "s", "group_id": "g"}
        await iii.trigger_async("stream::send", {**place, "type": "t", "data": 3})  # for the whole group
        await iii.trigger_async("stream::send", {**place, "type": "t", "data": 4, "id": "i"})
        assert await subscriber.take_event() == ("i", {"type": "create", "data": 1})
        assert await subscriber.take_event() == ("i", {"type": "event", "event": {"type": "t", "data": 4}})
        assert await subscriber.join(item_id="i", name="again") == {"type": "sync", "data": 1}


async def test_each_subscription_is_served_and_an_id_used_again_is_replaced() -> None:
    """SR-17, SR-24, SR-26."""
    async with serving() as (engine, iii), subscribing(engine) as subscriber, subscribing(engine) as other:
        await subscriber.join(name="1")
        await subscriber.join(name="2", item_id="i")
        await other.join(name="1")  # ids are each subscriber's own
        await change(iii, 1)
        assert [await subscriber.take_event() for _ in range(2)] == [("i", {"type": "create", "data": 1})] * 2
        await subscriber.join(group_id="h", name="1")
        await subscriber.leave("2")
        await subscriber.join(group_id="h", item_id="none", name="after")  # so that the leave is done
        await change(iii, 2)
        await change(iii, 3, group_id="h")
        assert await subscriber.take_event() == ("i", {"type": "create", "data": 3})
        assert [(await other.take_event())[1]["data"] for _ in range(2)] == [1, 2]


async def test_what_cannot_be_read_is_ignored_and_binary_is_read() -> None:
    """SR-27."""
    async with serving() as (engine, _), subscribing(engine) as subscriber:
        junk: list[Any] = [b"", b"  \n", b"{", b"5", [], {"type": "join"}, {"type": "JOIN", "data": {}}]
        await subscriber.say(*junk, {"type": "join", "data": []}, {"type": "join", "data": {"subscriptionId": "x"}})
        await subscriber.say({**join(), "data": {**join()["data"], "id": 5}})
        await subscriber.wire.send_binary([b"\xff\xfe"])
        await subscriber.wire.send_binary(
            [b'{"type":"join","data":{"subscriptionId":"1","streamName":"s","groupId":"g"}}']
        )
        assert (await subscriber.take())["event"] == {"type": "sync", "data": []}


def test_a_request_says_why_it_is_ignored() -> None:
    """SR-27: in the log."""
    assert read_request(b"[]") == "no JSON object"
    assert read_request(b'{"type":"stay","data":{}}') == "its type is neither join nor leave"
    assert "subscriptionId" in str(read_request(b'{"type":"join","data":{"subscriptionId":1}}'))


async def test_other_paths_and_plain_requests_are_refused() -> None:
    """§3.5: a README of upstream still mentions another path."""
    async with serving() as (engine, _):
        with pytest.raises(ConnectError, match="404"):
            async with subscribing(engine, "/stream/s/g/"):
                pass
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            response = await client.get(engine.stream_url.replace("ws:", "http:"))
        assert response.status_code == 426
        assert "stream listener" in response.text


async def test_pings_are_answered_while_a_join_waits() -> None:
    """SR-27."""
    async with serving() as (engine, iii):
        go, began = anyio.Event(), anyio.Event()

        async def wait(_data: Any) -> None:
            began.set()
            await go.wait()

        iii.register_function("wait", wait)
        iii.register_trigger("stream:join", "wait", None)
        await iii.wait_ready()
        async with subscribing(engine) as subscriber:
            await subscriber.say(join())
            await began.wait()
            await subscriber.wire.ping(b"are you there")
            async with anyio.create_task_group() as group:

                async def read() -> None:
                    assert (await subscriber.take())["event"]["type"] == "sync"

                group.start_soon(read)
                while subscriber.wire.pongs != [b"are you there"]:
                    await anyio.lowlevel.checkpoint()
                go.set()


# -- joining and leaving ---------------------------------------------------------------------------------------------


async def test_join_and_leave_triggers_are_told_who_wants_what() -> None:
    """SR-14, SR-15, SR-17; the config of the triggers has no effect."""
    joins, leaves = Heard(), Heard()
    async with serving() as (engine, iii):
        bind(iii, "stream:join", joins, config={"stream_name": "other"})
        bind(iii, "stream:leave", leaves)
        await iii.wait_ready()
        async with subscribing(engine) as subscriber:
            for name, item_id in (("1", "i"), ("2", None), ("2", None), ("3", None)):
                await subscriber.join(item_id=item_id, name=name)
            await subscriber.leave("1")
            await subscriber.leave("unknown", "x", "y")
            expected = {"subscription_id": "1", "stream_name": "s", "group_id": "g", "id": "i", "context": None}
            assert await joins.take() == expected
            assert [joined["subscription_id"] for joined in await joins.take_all(3)] == ["2", "2", "3"]
            # With the values of the message, which may name no item.
            assert await leaves.take() == {**expected, "id": None}
            unknown = {"subscription_id": "unknown", "stream_name": "x", "group_id": "y"}
            assert await leaves.take() == {**unknown, "id": None, "context": None}
        # Once for each that lives when the socket closes.
        assert sorted(left["subscription_id"] for left in await leaves.take_all(2)) == ["2", "3"]
        assert joins.metadata + leaves.metadata == [{"m": 1}] * 8
        assert not leaves.has_more


async def test_one_join_trigger_can_refuse_and_only_by_saying_so() -> None:
    """SR-16, SR-17, SR-24: the socket stays, nothing is recorded."""
    polite, strict, leaves = Heard({"unauthorized": False}), Heard(), Heard()
    async with serving() as (engine, iii):
        bind(iii, "stream:join", polite, "polite")
        bind(iii, "stream:join", strict, "strict")
        bind(iii, "stream:leave", leaves)
        await iii.wait_ready()
        async with subscribing(engine) as subscriber:
            strict.answer = {"unauthorized": True}
            assert await subscriber.join(item_id="i") == {"type": "unauthorized"}
            await change(iii, 1)
            for answer in (None, {}, {"unauthorized": "true"}, {"unauthorized": 1}, "unauthorized", [True]):
                strict.answer = answer
                assert await subscriber.join(name="ok") == {"type": "sync", "data": [1]}
            strict.error = ValueError("broken")
            assert await subscriber.join(name="ok") == {"type": "sync", "data": [1]}
            await polite.take_all(8)
        assert (await leaves.take())["subscription_id"] == "ok"
        assert not leaves.has_more


async def test_what_was_asked_right_before_the_end_is_done() -> None:
    """SR-17: every join that was told has its leave."""
    joins, leaves = Heard(), Heard()
    async with serving() as (engine, iii):
        bind(iii, "stream:join", joins)
        bind(iii, "stream:leave", leaves)
        await iii.wait_ready()
        async with subscribing(engine) as subscriber:
            await subscriber.say(*(join(name=str(n)) for n in range(40)))
        names = sorted(map(str, range(40)))
        assert sorted(joined["subscription_id"] for joined in await joins.take_all(40)) == names
        assert sorted(left["subscription_id"] for left in await leaves.take_all(40)) == names


async def test_the_end_of_the_engine_is_told_to_subscribers_and_leave_triggers() -> None:
    """SR-17."""
    leaves, stop = Heard(), anyio.Event()

    async def run(*, task_status: TaskStatus[Engine]) -> None:
        async with open_engine(port=None, stream_port=0) as engine:
            task_status.started(engine)
            await stop.wait()

    with fail_after(20):
        async with anyio.create_task_group() as group:
            engine: Engine = await group.start(run)
            options = InitOptions(worker_name="app")
            async with (
                open_worker(connector=engine.connector(), options=options) as iii,
                subscribing(engine) as subscriber,
            ):
                bind(iii, "stream:leave", leaves)
                await iii.wait_ready()
                await subscriber.join()
                stop.set()
                end = await subscriber.end()
                assert (end.code, end.reason) == (1001, "the engine is ending")
                assert (await leaves.take())["subscription_id"] == "sub"


# -- custom streams --------------------------------------------------------------------------------------------------


async def test_a_provider_answers_the_sync_and_one_that_fails_leaves_it_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SR-23, SR-24."""
    listed, got = Heard([1, 2]), Heard({"n": 1})
    async with serving() as (engine, iii), subscribing(engine) as subscriber:
        iii.register_function("stream::list(s)", listed.hear)
        iii.register_function("stream::get(s)", got.hear)
        await iii.wait_ready()
        assert await subscriber.join() == {"type": "sync", "data": [1, 2]}
        assert await subscriber.join(item_id="i") == {"type": "sync", "data": {"n": 1}}
        assert await got.take() == {"stream_name": "s", "group_id": "g", "item_id": "i"}
        listed.error = InvocationError("OUT", "no connection")
        await subscriber.say(join(group_id="h"))
        assert await listed.take() == {"stream_name": "s", "group_id": "g"}
        with caplog.at_level(logging.WARNING, "iii_anyio.devengine"):
            assert await listed.take() == {"stream_name": "s", "group_id": "h"}
            while "no connection" not in caplog.text:
                await anyio.lowlevel.checkpoint()
        await change(iii, 3, group_id="h")
        assert (await subscriber.take_event())[1] == {"type": "create", "data": 3}


# -- authentication --------------------------------------------------------------------------------------------------


async def test_the_auth_function_gives_the_context_of_join_and_leave() -> None:
    """SR-15, SR-29."""
    auth, joins, leaves = Heard({"context": {"user": "alice"}}), Heard(), Heard()
    async with serving(auth_function="auth") as (engine, iii):
        iii.register_function("auth", auth.hear)
        bind(iii, "stream:join", joins)
        bind(iii, "stream:leave", leaves)
        await iii.wait_ready()
        path = "/?token=x&token=%20y&flag&=z"
        async with subscribing(engine, path, {"Authorization": "Bearer t"}) as subscriber:
            seen = await auth.take()
            assert seen["headers"]["authorization"] == "Bearer t"
            assert [name for name in seen["headers"] if name != name.lower()] == []
            assert (seen["path"], seen["query_params"]) == ("/", {"token": ["x", "%20y"], "flag": [""], "": ["z"]})
            host, _, port = seen["addr"].rpartition(":")
            assert (host, port.isdecimal(), set(seen)) == (
                "127.0.0.1", True, {"headers", "path", "query_params", "addr"},
            )  # fmt: skip
            await subscriber.join()
        assert (await joins.take())["context"] == {"user": "alice"}
        assert (await leaves.take())["context"] == {"user": "alice"}


async def test_the_auth_function_cannot_refuse() -> None:
    """SR-30."""
    auth, joins = Heard(), Heard()
    async with serving(auth_function="auth") as (engine, iii):
        bind(iii, "stream:join", joins)
        await iii.wait_ready()
        contexts: list[Any] = []

        async def connect() -> None:
            async with subscribing(engine) as subscriber:
                await subscriber.join()
            contexts.append((await joins.take())["context"])

        await connect()  # there is no such function
        iii.register_function("auth", auth.hear)
        await iii.wait_ready()
        for auth.answer in (None, "yes", {}, {"context": None}, {"context": [1]}):
            await connect()
        auth.error = InvocationError("UNAUTHORIZED", "no")
        await connect()
        assert contexts == [None, None, None, None, None, [1], None]


async def test_a_new_auth_function_is_for_new_connections() -> None:
    """§3.6, CF-14."""
    auth = Heard({"context": 1})
    async with serving() as (engine, iii):
        iii.register_function("auth", auth.hear)
        await iii.wait_ready()
        await iii.trigger_async("configuration::set", {"id": "iii-stream", "value": {"auth_function": "auth"}})
        while not auth.has_more:
            async with subscribing(engine):
                pass


def test_what_is_no_text_does_not_reach_the_auth_function() -> None:
    """SR-29: it could not be sent."""
    seen = auth_input({"a": "x", "b": "\udcff"}, "/", "k=\udcc3\udcbc&\udcff", "127.0.0.1:1")
    assert (seen["headers"], seen["query_params"]) == ({"a": "x"}, {"k": ["ü"], "�": [""]})


# -- bad and slow peers ----------------------------------------------------------------------------------------------


async def test_a_subscriber_that_does_not_read_is_dropped_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SR-28: upstream loses messages without a word."""
    monkeypatch.setattr(_stream_server, "MAX_WAITING_BYTES", 2_000_000)
    monkeypatch.setattr(_stream_server, "LAST_WRITE", 0.05)
    leaves = Heard()
    async with serving() as (engine, iii), subscribing(engine) as slow, subscribing(engine) as quick:
        bind(iii, "stream:leave", leaves)
        await iii.wait_ready()
        await slow.join(name="slow")
        await quick.join(name="quick")
        text = "x" * 1_000_000
        while "it does not read" not in caplog.text:
            await change(iii, text)
            assert (await quick.take())["event"]["data"] == text
        assert (await leaves.take())["subscription_id"] == "slow"
        await change(iii, "still")
        assert (await quick.take())["event"]["data"] == "still"


async def test_a_subscriber_that_reads_in_time_is_told_why_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """SR-28."""
    monkeypatch.setattr(_stream_server, "MAX_WAITING", 3)
    monkeypatch.setattr(_stream_server, "LAST_WRITE", 30)
    async with serving() as (engine, iii), subscribing(engine) as slow:
        await slow.join()
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(change, iii, 1)
        end = await slow.end()
        assert (end.code, end.reason) == (1008, "the subscriber reads too slowly")


async def test_a_peer_that_breaks_the_rules_ends_its_own_connection_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one connection may ask for is bounded."""
    monkeypatch.setattr(_stream_server, "MAX_SUBSCRIPTIONS", 2)
    async with serving() as (engine, iii), subscribing(engine) as good:
        await good.join()
        async with subscribing(engine) as large:
            await large.say(join("s" * 70_000))
            assert (await large.end()).code == 1009
        async with subscribing(engine) as greedy:
            await greedy.say(*(join(name=str(n)) for n in range(3)))
            end = await greedy.end()
            assert (end.code, end.reason) == (1008, "more than 2 subscriptions")
        async with subscribing(engine) as gone:
            await gone.join()
            await gone.wire.abort()
        await change(iii, 1)
        assert await good.take_event() == ("i", {"type": "create", "data": 1})


async def test_much_that_is_asked_for_at_once_comes_as_fast_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber that reads is not dropped for what it has asked for itself."""
    monkeypatch.setattr(_stream_server, "MAX_WAITING_BYTES", 1_000_000)
    async with serving() as (engine, iii), subscribing(engine) as subscriber:
        await change(iii, "x" * 400_000)
        await subscriber.say(*(join(name=str(n)) for n in range(12)))
        for _ in range(12):
            assert (await subscriber.take_event())[1]["type"] == "sync"


async def test_one_that_leaves_while_much_waits_for_it_has_its_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """SR-17."""
    monkeypatch.setattr(_stream_server, "MAX_WAITING_BYTES", 1_000_000)
    joins, leaves = Heard(), Heard()
    async with serving() as (engine, iii):
        bind(iii, "stream:join", joins)
        bind(iii, "stream:leave", leaves)
        await iii.wait_ready()
        await change(iii, "x" * 900_000)
        async with subscribing(engine) as subscriber:
            await subscriber.say(*(join(name=str(n)) for n in range(30)))
            await anyio.wait_all_tasks_blocked()  # the server can write no more
            await subscriber.wire.abort()
        await joins.take_all(30)
        assert len({left["subscription_id"] for left in await leaves.take_all(30)}) == 30


async def test_without_a_port_there_is_no_server() -> None:
    with fail_after(20):
        async with open_engine(port=None) as engine:
            assert engine.stream_url == ""
