"""Cases in which an official SDK and this package use each other through one embedded engine.

The other side is a program that is told by its arguments ``URL TAG`` where the engine is and what its ids begin with.
It registers the functions ``TAG::official::…`` and the trigger type ``TAG::official`` and prints ``{"ready": true}``.
Then it reads commands from stdin, one JSON object a line, and answers each with one on stdout:

    {"trigger": request, "kib"?: n}   calls; a payload of so many KiB of text is made there    {"result"} or {"error"}
    {"bind": trigger}                 registers a trigger                                       {"bound": number}
    {"unbind": number}                takes it back
    {"told": n}, {"heard": n}         waits until its trigger type was told, its function ``note`` was called, so
                                      often since the last time; answers with all of it
    {"stream": name}                  provides a stream of this name
    {"observe": source}               has its function ``note`` observe this, and waits until it does; answers
                                      ``{"unsupported": true}`` when this SDK knows no observers
    {"external": url}                 registers the function ``TAG::official::external`` behind this URL

The end of stdin is its shutdown; it answers ``{"over": true}`` and ends with status 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio import create_task_group
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from iii_anyio import InitOptions, InvocationError, Stream, TriggerRegistrationError, Worker, open_worker
from iii_anyio.devengine import Engine, Listener, Rbac, open_engine
from iii_anyio.helpers import create_channel_async
from tests.contract.providers import Bindings
from tests.heard import Heard
from tests.proxy import TcpProxy, open_tcp_proxy

__all__ = ("CASES", "TAG", "NotInThisSdkError", "Official", "Stage", "official", "open_stage", "ours", "register")

TAG: Final = "interop"
OURS: Final = f"{TAG}::ours"
OFFICIAL: Final = f"{TAG}::official"
WORKERS: Final = {"iii-queue": {"queue_configs": {"jobs": {"max_retries": 1}}}}

CASES: Final[dict[str, Callable[[Stage], Awaitable[None]]]] = {}
"""What there is to judge, by its name, in the order in which it is done."""


class NotInThisSdkError(Exception):
    """The other side has nothing that could be judged."""


class Official:
    """The other worker's process: commands in, answers out."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def read(self) -> Any:
        return json.loads(await self._stdout.receive_until(b"\n", 1_000_000))

    async def ask(self, **command: Any) -> Any:
        await self._stdin.send(json.dumps(command).encode() + b"\n")
        return await self.read()

    async def take(self, kind: str, count: int = 1) -> list[Any]:
        """Wait until it was ``told`` or ``heard`` so much; all of it."""
        taken = (await self.ask(**{kind: count}))[kind]
        assert len(taken) == count, taken
        return list(taken)

    async def call(self, function_id: str, payload: Any = None, **more: Any) -> Any:
        """Have it call a function; its result, or its error as a tuple of code and message."""
        answer = await self.ask(trigger={"function_id": function_id, "payload": payload, **more})
        return answer["result"] if "result" in answer else tuple(answer["error"])

    async def trigger(self, function: str, payload: Any = None, **more: Any) -> Any:
        """The same for a function of ours."""
        return await self.call(f"{OURS}::{function}", payload, **more)

    async def end(self) -> None:
        """Let it shut down in order."""
        await self._stdin.aclose()
        assert await self.read() == {"over": True}


@asynccontextmanager
async def official(command: Sequence[str], home: Path) -> AsyncGenerator[Official]:
    """Run it; at the block's end it must leave in order and without complaint."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("III_", "OTEL_"))},
        "HOME": str(home),
        "OTEL_ENABLED": "false",
    }
    with (home / "stderr").open("wb") as stderr:
        async with await anyio.open_process(command, stderr=stderr, env=environment, cwd=home) as process:
            try:
                other = Official(process)
                assert await other.read() == {"ready": True}
                yield other
                said = (home / "stderr").stat().st_size
                await other.end()
                assert await process.wait() == 0
            except BaseException:
                process.kill()
                print((home / "stderr").read_text())
                raise
    assert (home / "stderr").read_bytes()[said:] == b""


def ours(url: str, **options: Any) -> Any:
    return open_worker(url, InitOptions(worker_name=OURS, handle_signals=False, **options))


def register(iii: Worker) -> None:
    """The same plain functions as the other side has."""

    async def add(data: Any) -> Any:
        return data["a"] + data["b"]

    async def fail(_data: Any) -> None:
        raise InvocationError("sold_out", "out of stock")

    def http(request: Any) -> Any:
        return {
            "status_code": 201,
            "body": [request["method"], request["path_params"], request["query_params"], request["body"]],
            "headers": {"x-served-by": "ours"},
        }

    async def read(data: Any) -> Any:
        notes: list[str] = []
        data["reader"].on_message(notes.append)
        content = await data["reader"].read_all()
        return {"size": len(content), "start": content[:5].decode(), "notes": notes}

    handlers: dict[str, Any] = {
        "add": add,
        "double": lambda data: data * 2,
        "none": lambda data: None,
        "fail": fail,
        "meta": lambda data, metadata: [data, metadata],
        "http": http,
        "length": len,
        "read": read,
    }
    for name, handler in handlers.items():
        iii.register_function(f"{OURS}::{name}", handler)
    iii.register_trigger("http", f"{OURS}::http", {"api_path": f"{TAG}/ours/:id", "http_method": "POST"})


@dataclass(frozen=True)
class Stage:
    """Everything that a case needs."""

    engine: Engine
    iii: Worker
    other: Official
    proxy: TcpProxy
    """Between the other side and the engine."""
    heard: Heard
    """Of our function ``note``."""
    client: httpx.AsyncClient

    async def call(self, function: str, payload: Any = None, **more: Any) -> Any:
        """Call a function of the other side."""
        return await self.iii.trigger_async(f"{OFFICIAL}::{function}", payload, **more)

    async def their_own(self, function: str, payload: Any) -> Any:
        """Have the other side call a function of its own."""
        return await self.other.call(f"{OFFICIAL}::{function}", payload)

    async def bind(self, type_id: str, config: Any, function: str = "note", **more: Any) -> int:
        """Have the other side bind a function of its own; its number."""
        wanted = {"type": type_id, "function_id": f"{OFFICIAL}::{function}", "config": config, **more}
        return int((await self.other.ask(bind=wanted))["bound"])

    async def bind_both(self, type_id: str, config: Any) -> None:
        """Bind ``note`` of both sides, and wait until the engine has done so."""
        await self.bind(type_id, config)
        await self.settled()
        self.iii.register_trigger(type_id, f"{OURS}::note", config)
        await self.iii.wait_ready()

    async def settled(self) -> None:
        """Wait until the engine has read what the other side said, and its providers have bound it."""
        assert "triggers" in await self.other.call("engine::triggers::list", {})
        await self.iii.wait_ready()

    async def both_heard(self) -> Any:
        """What ``note`` of both sides was called with, which must be the same."""
        theirs = (await self.other.take("heard"))[0]
        assert await self.heard.take() == theirs
        return theirs


@asynccontextmanager
async def open_stage(command: Sequence[str], home: Path) -> AsyncGenerator[Stage]:
    """An engine, a worker of ours and the other side's program."""
    guarded = Listener(
        port=0,
        rbac=Rbac(auth_function_id=f"{OFFICIAL}::auth", on_function_registration_function_id=f"{OFFICIAL}::hook"),
        middleware_function_id=f"{OFFICIAL}::middleware",
    )
    listeners = [Listener(port=0), guarded]
    heard = Heard()
    async with (
        open_engine(listeners=listeners, port=0, http_port=0, stream_port=None, workers=WORKERS) as engine,
        ours(engine.url) as iii,
        httpx.AsyncClient(base_url=engine.http_url, trust_env=False) as client,
        open_tcp_proxy("127.0.0.1", int(engine.url.rpartition(":")[2])) as proxy,
    ):
        register(iii)
        iii.register_function(f"{OURS}::note", heard.hear)
        await iii.wait_ready()
        async with official([*command, f"ws://127.0.0.1:{proxy.port}", TAG], home) as other:
            yield Stage(engine, iii, other, proxy, heard, client)
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async(f"{OFFICIAL}::add", {"a": 1, "b": 2})
        assert caught.value.code == "function_not_found"


def case(function: Callable[[Stage], Awaitable[None]]) -> Callable[[Stage], Awaitable[None]]:
    CASES[function.__name__.replace("_", " ")] = function
    return function


@case
async def functions(it: Stage) -> None:
    """Each calls the other's: P-27, P-30, P-32, P-38."""
    for call in (it.call, it.other.trigger):
        assert await call("add", {"a": 1, "b": 2}) == 3
        assert await call("double", 4) == 8
        assert await call("none", {}) is None
        assert await call("meta", [1, "é😀"], metadata={"m": 1}) == [[1, "é😀"], {"m": 1}]
        assert await call("meta", [{"a": None}]) == [[{"a": None}], None]
        assert await call("none", {}, action={"type": "void"}) is None
    assert await it.call("meta", None) == [None, None]


@case
async def errors(it: Stage) -> None:
    """P-32, P-33."""
    with pytest.raises(InvocationError) as caught:
        await it.call("fail", {})
    assert caught.value.code == "invocation_failed"
    assert "out of stock" in caught.value.message
    code, message = await it.other.trigger("fail", {})
    assert (code, message.removeprefix("sold_out: ")) == ("sold_out", "out of stock")
    with pytest.raises(InvocationError) as caught:
        await it.call("nowhere", {})
    assert caught.value.code == "function_not_found"
    code, _ = await it.other.trigger("nowhere", {})
    assert code == "function_not_found"


@case
async def large_payloads(it: Stage) -> None:
    """P-04: 4 MiB each way."""
    assert await it.call("length", "e" * 4_194_304) == 4_194_304
    length = {"function_id": f"{OURS}::length"}
    assert await it.other.ask(trigger=length, kib=4096) == {"result": 2_097_152}


@case
async def http(it: Stage) -> None:
    """H-18, H-37."""
    await it.bind("http", {"api_path": f"{TAG}/official/:id", "http_method": "POST"}, "http")
    await it.settled()
    for name in ("ours", "official"):
        response = await it.client.post(f"/{TAG}/{name}/a%20b?q=1", json={"x": [1]})
        assert (response.status_code, response.headers["x-served-by"]) == (201, name)
        assert response.json() == ["POST", {"id": "a%20b"}, {"q": "1"}, {"x": [1]}]


@case
async def http_streaming(it: Stage) -> None:
    """A raw body in, a streamed response out (H-40 ff.)."""
    await it.bind("http", {"api_path": f"{TAG}/stream", "http_method": "POST"}, "stream")
    await it.settled()
    response = await it.client.post(f"/{TAG}/stream", content=b"raw " * 50_000)
    assert (response.status_code, response.headers["x-served-by"]) == (202, "official")
    assert response.content == b"<" + b"raw " * 50_000 + b">"


@case
async def external_http_functions(it: Stage) -> None:
    """X-…: their function is a URL, here that of a route of ours."""
    await it.other.ask(external=f"{it.engine.http_url}/{TAG}/ours/x")
    await it.settled()
    method, path_params, _, body = await it.call("external", {"v": 1})
    assert (method, path_params, body["v"]) == ("POST", {"id": "x"}, 1)


@case
async def state(it: Stage) -> None:
    """S-…: the same values, and events for both."""
    await it.bind_both("state", {"scope": TAG})
    key = {"scope": TAG, "key": "k"}
    assert await it.other.call("state::set", {**key, "value": {"n": 1}}) == {"new_value": {"n": 1}, "old_value": None}
    assert (await it.both_heard())["event_type"] == "state:created"
    assert await it.iii.trigger_async("state::get", key) == {"n": 1}
    ops = [{"type": "increment", "path": "n", "by": 2}, {"type": "append", "path": "l", "value": 1}]
    await it.iii.trigger_async("state::update", {**key, "ops": ops})
    assert (await it.both_heard())["new_value"] == {"n": 3, "l": [1]}
    assert await it.other.call("state::get", key) == {"n": 3, "l": [1]}
    assert await it.other.call("state::list", {"scope": TAG}) == [{"n": 3, "l": [1]}]
    assert TAG in (await it.other.call("state::list_groups", {}))["groups"]
    assert await it.other.call("state::delete", key) == {"n": 3, "l": [1]}
    assert (await it.both_heard())["event_type"] == "state:deleted"
    assert await it.other.call("state::get", key) is None


@case
async def streams(it: Stage) -> None:
    """S-…: the same items, and events for both."""
    await it.bind_both("stream", {"stream_name": TAG})
    item = {"stream_name": TAG, "group_id": "g", "item_id": "i"}
    answer = await it.other.call("stream::set", {**item, "data": {"n": 1}})
    assert answer == {"new_value": {"n": 1}, "old_value": None}
    event = await it.both_heard()
    assert (event["streamName"], event["id"], event["event"]) == (TAG, "i", {"type": "create", "data": {"n": 1}})
    ops = [{"type": "increment", "path": "n", "by": 1}]
    assert (await it.iii.trigger_async("stream::update", {**item, "ops": ops}))["new_value"] == {"n": 2}
    assert (await it.both_heard())["event"] == {"type": "update", "data": {"n": 2}}
    group = {"stream_name": TAG, "group_id": "g"}
    assert await it.other.call("stream::get", item) == {"n": 2}
    assert await it.other.call("stream::list", group) == [{"n": 2}]
    assert await it.other.call("stream::send", {**group, "type": "note", "data": 5}) is None
    assert (await it.both_heard())["event"] == {"type": "event", "event": {"type": "note", "data": 5}}
    assert await it.other.call("stream::delete", item) == {"old_value": {"n": 2}}
    assert (await it.both_heard())["event"]["type"] == "delete"


@case
async def streams_of_their_own(it: Stage) -> None:
    """``create_stream``: the engine asks the worker that provides the stream."""
    assert await it.other.ask(stream=f"{TAG}-own") == {"stream": f"{TAG}-own"}
    await it.settled()
    stream = Stream(it.iii, f"{TAG}-own")
    assert (await stream.set_async("g", "i", {"n": 1})).new_value == {"n": 1}
    assert await stream.get_async("g", "i") == {"n": 1}
    assert await stream.list_async("g") == [{"n": 1}]
    assert await stream.list_groups_async() == ["g"]
    assert await stream.delete_async("g", "i") == {"n": 1}
    assert await stream.get_async("g", "i") is None


@case
async def pubsub(it: Stage) -> None:
    """PS-…: both publish, both hear."""
    await it.bind_both("subscribe", {"topic": f"{TAG}.topic"})
    for data, publish in (({"by": "ours"}, it.iii.trigger_async), ({"by": "theirs"}, it.other.call)):
        await publish("publish", {"topic": f"{TAG}.topic", "data": data})
        assert await it.both_heard() == data


@case
async def queues(it: Stage) -> None:
    """Q-5 ff.: each puts calls of the other's functions into a named queue."""
    enqueue = {"type": "enqueue", "queue": "jobs"}
    assert list(await it.call("note", {"n": 1}, action=enqueue)) == ["messageReceiptId"]
    assert await it.other.take("heard") == [{"n": 1}]
    assert list(await it.other.trigger("note", {"n": 2}, action=enqueue)) == ["messageReceiptId"]
    assert await it.heard.take() == {"n": 2}


@case
async def durable_topics(it: Stage) -> None:
    """Q-26 ff.: a message to every subscribed function."""
    await it.bind_both("durable:subscriber", {"topic": f"{TAG}.orders"})
    for data, publish in ((["ours"], it.iii.trigger_async), (["theirs"], it.other.call)):
        assert await publish("iii::durable::publish", {"topic": f"{TAG}.orders", "data": data}) is None
        assert await it.both_heard() == data


@case
async def channels(it: Stage) -> None:
    """P-52 ff.: made by each side, read and written by each side."""
    expected = {"size": 500_000, "start": "hello", "notes": ["note"]}
    assert await it.call("pipe", {"to": f"{OURS}::read", "count": 100_000}) == expected
    channel = await create_channel_async(it.iii)
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await it.call("read", {"reader": channel.reader_ref.model_dump(mode="json")}))

    async with create_task_group() as tasks:
        tasks.start_soon(ask)
        await channel.writer.send_message_async("note")
        await channel.writer.write(b"hello" * 100_000)
        await channel.writer.close_async()
    assert answers == [expected]
    channel = await create_channel_async(it.iii)
    notes: list[str] = []
    channel.reader.on_message(notes.append)
    async with create_task_group() as tasks:
        writer = channel.writer_ref.model_dump(mode="json")
        tasks.start_soon(it.call, "write", {"writer": writer, "count": 100_000})
        assert await channel.reader.read_all() == b"hello" * 100_000
    assert notes == ["note"]


@case
async def trigger_types(it: Stage) -> None:
    """P-46 to P-51: each binds a function to a trigger type of the other."""
    bindings = Bindings()
    it.iii.register_trigger_type(OURS, "Ours", bindings)
    await it.iii.wait_ready()
    number = await it.bind(OURS, {"a": 1}, "meta", metadata={"m": 1})
    _, config = await bindings.take()
    assert (config.function_id, config.config, config.metadata) == (f"{OFFICIAL}::meta", {"a": 1}, {"m": 1})
    assert await bindings.fire(it.iii, config.id, [5]) == [[5], {"m": 1}]
    await it.other.ask(unbind=number)
    await bindings.expect("unbind", config.id)

    trigger = it.iii.register_trigger(OFFICIAL, f"{OURS}::add", {"b": 2}, {"n": 2})
    assert await it.other.take("told") == [["bind", trigger.id, f"{OURS}::add", {"b": 2}, {"n": 2}]]
    await it.iii.wait_ready()
    refused = it.iii.register_trigger(OFFICIAL, f"{OURS}::add", "refuse")
    assert await it.other.take("told") == [["bind", refused.id, f"{OURS}::add", "refuse", None]]
    with pytest.raises(TriggerRegistrationError, match="the official one refuses") as caught:
        await it.settled()
    assert caught.value.trigger_id == refused.id
    refused.unregister()
    trigger.unregister()
    assert await it.other.take("told") == [["unbind", trigger.id]]


@case
async def functions_observed_by_us(it: Stage) -> None:
    """P-60 ff.: also the calls that their worker makes to itself."""
    handle = it.iii.observe({"function_id": f"{OFFICIAL}::add", "capture": ["input", "output"]}, f"{OURS}::note")
    await handle.ready_async()
    for call, data in ((it.call, {"a": 1, "b": 2}), (it.their_own, {"a": 3, "b": 4})):
        assert await call("add", data) == data["a"] + data["b"]
        event = await it.heard.take()
        assert {key: event["input"][key] for key in data} == data
        assert event["output"] == data["a"] + data["b"]
    await handle.dispose_async()


@case
async def functions_observed_by_them(it: Stage) -> None:
    """P-60 ff.: also the calls that our worker makes to itself."""
    source = {"function_id": f"{OURS}::double", "capture": ["input", "output"]}
    if "unsupported" in await it.other.ask(observe=source):
        raise NotInThisSdkError("it has no observers")
    assert await it.other.trigger("double", 2) == 4
    (event,) = await it.other.take("heard")
    assert (event["input"], event["output"]) == (2, 4)
    assert await it.iii.trigger_async(f"{OURS}::double", 3) == 6
    (event,) = await it.other.take("heard")
    assert (event["input"], event["output"]) == (3, 6)


@case
async def cron(it: Stage) -> None:
    """CR-8, CR-12."""
    number = await it.bind("cron", {"expression": "* * * * * *"})
    (tick, *_) = await it.other.take("heard")
    assert sorted(tick) == ["actual_time", "job_id", "scheduled_time", "trigger"]
    await it.other.ask(unbind=number)
    await it.settled()
    await it.other.ask(heard=0)


@case
async def access_control(it: Stage) -> None:
    """RB-5 ff.: their functions decide about a worker of ours on a guarded listener."""
    options = InitOptions(worker_name=f"{TAG}::guest", headers={"X-Token": "right"}, handle_signals=False)
    async with open_worker(it.engine.urls[1], options) as guest:
        guest.register_function(f"{TAG}::guest::fine", lambda data: data)
        guest.register_function(f"{TAG}::guest::denied", lambda data: data)
        await guest.wait_ready()
        row = await it.iii.trigger_async("engine::functions::info", {"function_id": f"{TAG}::guest::fine"})
        assert row["metadata"] == {"checked": "ann"}
        with pytest.raises(InvocationError) as caught:
            await it.iii.trigger_async(f"{TAG}::guest::denied", {})
        assert caught.value.code == "function_not_found"
        answer = await guest.trigger_async(f"{OURS}::add", {"a": 1, "b": 2})
        assert answer == {"seen": f"{OURS}::add", "payload": {"a": 1, "b": 2}, "user": "ann"}
        with pytest.raises(InvocationError) as caught:
            await guest.trigger_async("state::get", {"scope": "a", "key": "b"})
        assert caught.value.code == "FORBIDDEN"


@case
async def reconnecting(it: Stage) -> None:
    """P-12, P-22, P-112, P-123: after a reset, and when the engine believed the connection alive."""
    for tell_engine in (True, False):
        before = await identity(it.iii)
        it.proxy.cut(tell_engine=tell_engine)
        while await identity(it.iii) in (None, before):
            await anyio.lowlevel.checkpoint()
        assert await it.other.trigger("double", 4, timeout_ms=5000) == 8
        assert await it.call("double", 2) == 4
        response = await it.client.post(f"/{TAG}/official/1", json={})
        assert response.status_code == 201


async def identity(iii: Worker) -> str | None:
    """The id of the official worker's connection, if it has one and its functions are there."""
    found = await iii.trigger_async("engine::workers::list", {"search": OFFICIAL})
    rows = [row["id"] for row in found["workers"] if row["function_count"]]
    return rows[0] if rows else None
