"""What takes input from outside, each as a function that any input may be given to: it raises only when there is a bug.

``test_targets.py`` tries each a little; ``python -m tests.fuzz`` as long as one likes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import h11
from anyio import EndOfStream
from anyio.lowlevel import checkpoint
from hypothesis import strategies as st

from iii_anyio import InvocationError
from iii_anyio._protocol.codec import decode, encode
from iii_anyio._protocol.framing import Framing
from iii_anyio._protocol.jsontext import from_json, to_json
from iii_anyio._protocol.messages import ABSENT
from iii_anyio.devengine._access import Grants, Rule
from iii_anyio.devengine._asgi_server import _Connection  # pyright: ignore[reportPrivateUsage]
from iii_anyio.devengine._config import read_config
from iii_anyio.devengine._cron import CronError, Schedule
from iii_anyio.devengine._http_functions import read_answer
from iii_anyio.devengine._http_messages import read_middleware, read_result
from iii_anyio.devengine._http_options import read_options as read_http
from iii_anyio.devengine._queue_settings import read_queues, read_subscription
from iii_anyio.devengine._routes import Route, RouteError, RouteTable
from iii_anyio.devengine._schemas import Schema
from iii_anyio.devengine._telemetry import Telemetry
from iii_anyio.devengine._templates import UnresolvedError
from iii_anyio.devengine._templates import expand as expand_templates
from iii_anyio.devengine._update_ops import apply_updates, read_updates
from iii_anyio.devengine._yaml import Document, expand, read_yaml
from iii_anyio.devengine.builtins.http import HttpTrigger
from iii_anyio.devengine.builtins.observability import read_options as read_telemetry_options
from iii_anyio.errors import DecodeError, EncodeError
from iii_anyio.filter import FilterError, compile_filter
from tests.devengine.peers import REGISTER, Hub

__all__ = ("TARGETS", "Target")


@dataclass(frozen=True)
class Target:
    """One thing to try, and what to try it with."""

    inputs: st.SearchStrategy[Any]
    run: Callable[[Any], None]
    takes_bytes: bool = False
    """Whether any bytes are an input, so that a tool that changes bytes can make them."""


# -- values ----------------------------------------------------------------------------------------------------------

SCALARS: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", " ", "\ud800", "\x00", "a::b", 'match("*")', "${HOME}", "${NONE:1}", "__proto__", "*"])
)
JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def objects(*keys: str, more: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some of these keys, with values of any kind."""
    value = JSON if more is None else JSON | more
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), value, max_size=len(keys) + 1)


# -- the wire --------------------------------------------------------------------------------------------------------


def try_codec(text: bytes) -> None:
    """What can be read can be written, and reads the same again."""
    try:
        message = decode(text)
    except DecodeError:
        return
    with suppress(EncodeError):
        assert encode(decode(encode(message))) == encode(message)


def try_framing(data: bytes) -> None:
    """However it is cut: nothing raises, and nothing but the cut differs."""
    results: list[tuple[list[bytes], object]] = []
    for size in (len(data) or 1, 7, 1):
        framing = Framing(is_client=False, max_message=4096, max_frame=4096)
        messages: list[bytes] = []
        for at in range(0, len(data), size):
            messages += framing.receive(data[at : at + size])
        framing.receive(b"")
        framing.data_to_send()
        results.append((messages, framing.closed))
    assert results[0] == results[1] == results[2]


MESSAGE_TYPES: Final = (
    "registerfunction",
    "unregisterfunction",
    "registertriggertype",
    "unregistertriggertype",
    "registertrigger",
    "unregistertrigger",
    "triggerregistrationresult",
    "invokefunction",
    "invocationresult",
    "reattach",
    "ping",
    "pong",
    "registerservice",
    "workerregistered",
    "registrationrejected",
    "error",
    "observe",
    "unobserve",
    "observerack",
    "invocationsobserved",
    "localinvocationstats",
)
FUNCTIONS: Final = (
    REGISTER,
    "engine::functions::list",
    "engine::functions::info",
    "engine::workers::list",
    "engine::workers::info",
    "engine::triggers::list",
    "engine::triggers::info",
    "engine::registered-triggers::list",
    "engine::registered-triggers::info",
    "engine::register_trigger",
    "engine::unregister_trigger",
    "engine::channels::create",
    "engine::log::info",
    "engine::traces::list",
    "engine::traces::tree",
    "engine::traces::group_by",
    "engine::logs::list",
    "engine::metrics::list",
    "engine::rollups::list",
    "f",
)
_ids: Final = st.sampled_from([f"00000000-0000-4000-8000-{number:012x}" for number in range(8)])
_arguments: Final = objects(
    "name",
    "pid",
    "id",
    "function_id",
    "function_ids",
    "namespace",
    "trigger_type",
    "config",
    "limit",
    "offset",
    "trace_id",
    "attribute",
    "filter",
    "start_time",
    "end_time",
    "search",
    "worker",
    "include_internal",
    "features",
    more=_ids | st.sampled_from(["f", "t", "default", "observe.v1"]) | st.just(["observe.v1"]),
)
MESSAGES: Final = st.builds(
    lambda kind, fields, known: {**fields, **known, "type": kind},
    st.sampled_from(MESSAGE_TYPES),
    st.dictionaries(
        st.sampled_from(
            (
                "id",
                "invocation_id",
                "function_id",
                "data",
                "result",
                "error",
                "action",
                "metadata",
                "namespace",
                "trigger_type",
                "trigger_namespace",
                "config",
                "worker_id",
                "reattach_token",
                "description",
                "invocation",
                "observe",
                "target",
                "filter",
                "observer_id",
                "items",
                "stats",
                "traceparent",
                "baggage",
            )
        ),
        JSON | _ids,
        max_size=5,
    ),
    st.fixed_dictionaries(
        {"id": st.sampled_from(["f", "t", "u"]), "function_id": st.sampled_from(FUNCTIONS), "data": _arguments},
        optional={"invocation_id": _ids, "trigger_type": st.sampled_from(["t", "u"]), "config": JSON},
    ),
)


def try_router(script: list[tuple[int, Any]]) -> None:
    """Whatever workers send, the router goes on, writes JSON, and forgets who has left."""
    hub = Hub(max_outgoing=100_000, max_held=20, max_parked=5, max_in_flight=10)
    empty = repr(hub.router)
    peers = [hub.open(), hub.open()]
    peers[0].invoke(REGISTER, {"name": "w", "features": ["observe.v1"]})
    for number, message in script:
        text = json.dumps(message) if not isinstance(message, bytes) else message
        peers[number].post(text)
        peers[number].take()
    for peer in peers:
        peer.leave()
    for binding in list(hub.router.triggers.bindings):
        hub.router.triggers.unregister(binding)
    assert repr(hub.router) == empty


# -- HTTP ------------------------------------------------------------------------------------------------------------


class _Stream:
    """A client that has written all it will write."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.written = b""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await checkpoint()
        data, self._data = self._data[:100], self._data[100:]
        if not data:
            raise EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        await checkpoint()
        self.written += item

    async def send_eof(self) -> None:
        await checkpoint()

    async def aclose(self) -> None:
        await checkpoint()


class _Echo:
    """Functions that return their payload as body."""

    async def trigger_async(self, request: Any, *_: Any, **__: Any) -> Any:
        await checkpoint()
        return {"body": request["payload"], "headers": request["payload"].get("headers")}


def try_http(data: bytes) -> None:
    """Whatever a client sends, the answer is HTTP and nothing raises."""

    async def serve() -> None:
        app = HttpTrigger(_Echo())  # type: ignore[arg-type]  # the one method it needs
        for method, path in (("GET", "a"), ("POST", "a/:id"), ("PUT", "")):
            app._table.add(Route.from_config(f"{method} {path}", "f", {"api_path": path, "http_method": method}))
        stream = _Stream(data)
        await _Connection(app, stream).run()  # type: ignore[arg-type]  # as much of a stream as it needs
        client = h11.Connection(h11.CLIENT)
        if stream.written:
            client.send(h11.Request(method="GET", target="/", headers=[("host", "e")]))
            client.send(h11.EndOfMessage())
            client.receive_data(stream.written)
            assert isinstance(client.next_event(), h11.Response | h11.InformationalResponse)

    anyio.run(serve)


REQUESTS: Final = st.builds(
    lambda method, target, version, headers, body: b"".join(
        [
            b"%s %s HTTP/%s\r\n" % (method, target, version),
            *(b"%s: %s\r\n" % pair for pair in headers),
            b"\r\n",
            body,
        ]
    ),
    st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"TRACE", b"get", b"\xff"]),
    st.sampled_from([b"/", b"/a", b"/a/%00?x=%ff&x=+", b"*", b"http://e/a", b"/a/../b", b"//a", b"/a/\xc3"])
    | st.binary(),
    st.sampled_from([b"1.1", b"1.0", b"2.0", b"x"]),
    st.lists(
        st.sampled_from(
            [
                (b"Host", b"e"),
                (b"Content-Length", b"3"),
                (b"Content-Length", b"-1"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Content-Type", b"application/json"),
                (b"Connection", b"close"),
                (b"Expect", b"100-continue"),
                (b"X", b"\xff\x00"),
                (b"traceparent", b"00-" + b"0" * 32 + b"-1-1"),
                (b"Upgrade", b"websocket"),
            ]
        ),
        max_size=5,
    ),
    st.sampled_from([b"", b"{}x", b"[1]", b"3\r\nabc\r\n0\r\n\r\n", b"\r\n\r\n"]) | st.binary(max_size=20),
)


def try_results(value: Any) -> None:
    """Any result of a handler or middleware is a response; any answer of a URL a result or an error."""
    try:
        value = from_json(to_json(value))  # what the wire can bring
    except EncodeError:
        return
    assert 100 <= read_result(value).status <= 999
    read_middleware(value)
    with suppress(InvocationError):
        read_answer(500 if value else 200, repr(value).encode("utf-8", "replace"))


def try_routes(script: list[tuple[Any, Any, bytes]]) -> None:
    """Any config is a route or refused; any path finds one or none."""
    table = RouteTable()
    for number, (path, method, asked) in enumerate(script):
        with suppress(RouteError):
            table.add(Route.from_config(str(number % 3), "f", {"api_path": path, "http_method": method}))
        table.match("GET", asked.decode("utf-8", "replace"))
        if number % 4 == 3:
            table.remove(str(number % 3))


# -- what workers give to built-ins ----------------------------------------------------------------------------------


def try_filter(value: Any) -> None:
    """Compiles or is refused, and matches anything or nothing."""
    try:
        compiled = compile_filter(value)
    except FilterError:
        return
    assert compiled.matches({"input": value, "caller": {}}) in {True, False}


def try_updates(value: Any) -> None:
    """Operations are refused as a whole, or applied with a code for each that failed."""
    start, operations = value
    try:
        updates = read_updates("state::update", operations)
    except InvocationError as error:
        if error.code != "deserialization_error":
            raise
        return
    updated = apply_updates(start, updates)
    assert all(entry["code"] and entry["message"] for entry in updated.errors)


OPERATIONS: Final = st.lists(
    objects("type", "path", "value", "by", more=st.sampled_from(["set", "merge", "increment", "append", "remove"])),
    max_size=4,
)


def try_telemetry(frame: bytes) -> None:
    """Whatever a frame holds, what is kept of it is JSON."""
    telemetry = Telemetry(version="0")
    for prefix in (b"OTLP", b"MTRC", b"LOGS"):
        telemetry.receive(prefix + frame, "fuzz")
    telemetry.sweep()


_ATTRIBUTES: Final = st.lists(
    objects("key", "value", more=objects("stringValue", "intValue", "boolValue", "arrayValue", "kvlistValue")),
    max_size=3,
)
_RECORD: Final = objects(
    "traceId",
    "spanId",
    "parentSpanId",
    "name",
    "startTimeUnixNano",
    "endTimeUnixNano",
    "status",
    "events",
    "links",
    "attributes",
    "timeUnixNano",
    "severityNumber",
    "severityText",
    "body",
    "gauge",
    "sum",
    "histogram",
    "unit",
    more=_ATTRIBUTES
    | objects("dataPoints", "isMonotonic", more=st.lists(objects("asInt", "asDouble", "count"), max_size=2)),
)


def _nested(outer: str, middle: str, inner: str) -> st.SearchStrategy[bytes]:
    scopes = st.lists(st.fixed_dictionaries({}, optional={inner: JSON | st.lists(_RECORD, max_size=3)}), max_size=2)
    resources = st.fixed_dictionaries(
        {}, optional={middle: JSON | scopes, "resource": objects("attributes", more=_ATTRIBUTES)}
    )
    return st.fixed_dictionaries({outer: JSON | st.lists(resources, max_size=2)}).map(
        lambda it: json.dumps(it).encode()
    )


FRAMES: Final = (
    st.binary(max_size=50)
    | _nested("resourceSpans", "scopeSpans", "spans")
    | _nested("resourceLogs", "scopeLogs", "logRecords")
    | _nested("resourceMetrics", "scopeMetrics", "metrics")
)


def try_schema(value: Any) -> None:
    """Any schema and value have violations or none; any placeholders are replaced, or named."""
    schema, instance = value
    Schema(schema).violations(instance)
    with suppress(UnresolvedError):
        expand_templates(instance, {"HOME": "x"}, "0")


def try_access(value: Any) -> None:
    """Rules and grants are read or refused with a reason."""
    with suppress(ValueError):
        Rule.read(value).covers("a::b", "default", value)
    with suppress(ValueError):
        grants = Grants.read(value)
        grants.covers("a::b", "default")
        grants.may_declare("orders")


# -- what people write -----------------------------------------------------------------------------------------------


def try_yaml(data: bytes) -> None:
    """A file is a configuration, or a ValueError says where it is wrong."""
    with suppress(ValueError):
        read_config(read_yaml(expand(data.decode("utf-8"), "f.yaml", {"HOME": "/"}), "f.yaml"))


def try_configs(value: Any) -> None:
    """The same for what built-in workers and triggers are configured with."""
    for read in (read_http, read_queues, read_subscription, read_telemetry_options):
        with suppress(ValueError):
            read(value)
    with suppress(ValueError):
        read_config(Document({"workers": value}))


YAML: Final = st.lists(
    st.sampled_from(
        [
            "workers:",
            "modules: []",
            "\n",
            "- name: iii-http",
            "  config:",
            "    port: ",
            "${HOME}",
            "${NONE:}",
            "1",
            "&a",
            "*a",
            "{",
            "}",
            "[",
            "]",
            "'",
            '"',
            "#",
            "|",
            "? ",
            ": ",
            "iii-worker-manager",
            "rbac: {expose_functions: [",
            'match("*")',
            "!!python/object:os.system",
            "<<: *a",
            "\t",
            "  ",
            "registration_namespace_grace_ms: 5",
        ]
    )
    | st.text(max_size=5),
    max_size=20,
).map(lambda parts: "".join(parts).encode("utf-8", "replace"))
CONFIGS: Final = objects(
    "adapter",
    "queue_configs",
    "default_timeout",
    "cors",
    "middleware",
    "topic",
    "queue_config",
    "sampling",
    "logs_max_count",
    "trace_storage",
    "concurrency_request_limit",
    "sampling_ratio",
    "name",
    "config",
    more=st.dictionaries(st.text(max_size=3), objects("type", "concurrency", "max_retries", "function_id"), max_size=2),
)


def try_cron(data: bytes) -> None:
    """An expression is refused, or has times that go up."""
    try:
        schedule = Schedule.parse(data.decode("utf-8", "replace"))
    except CronError:
        return
    moment: datetime | None = datetime(2026, 11, 23, tzinfo=UTC)
    for _ in range(3):
        assert moment is not None
        following = schedule.next_after(moment)
        if following is None:
            return
        assert following > moment
        moment = following


CRON: Final = st.lists(
    st.text("0123456789*/,-?# LW", min_size=1, max_size=5)
    | st.sampled_from(["*", "0", "mon-fri", "*/7", "31", "feb", "2099", "@daily", "1-5/2"]),
    min_size=1,
    max_size=8,
).map(lambda parts: " ".join(parts).encode())

TARGETS: Final = {
    "codec": Target(
        st.binary(max_size=100) | MESSAGES.map(lambda message: json.dumps(message).encode()),
        try_codec,
        takes_bytes=True,
    ),
    "framing": Target(
        st.lists(
            st.binary(max_size=20)
            | st.sampled_from([b"\x81\x85abcd", b"\x88\x80abcd", b"\x01\x80abcd", b"\x89\xfe\0\x80"])
        ).map(b"".join),
        try_framing,
        takes_bytes=True,
    ),
    "router": Target(
        st.lists(st.tuples(st.integers(0, 1), MESSAGES | st.binary(max_size=20)), max_size=12), try_router
    ),
    "http": Target(st.lists(REQUESTS | st.binary(max_size=30), max_size=3).map(b"".join), try_http, takes_bytes=True),
    "http results": Target(JSON | objects("status_code", "headers", "body", "action", "response"), try_results),
    "routes": Target(
        st.lists(
            st.tuples(
                JSON | st.text("/:ab{}*%.", max_size=12),
                JSON | st.sampled_from(["GET", "post", "X"]),
                st.binary(max_size=12).map(lambda path: b"/" + path),
            ),
            max_size=10,
        ),
        try_routes,
    ),
    "filter": Target(
        JSON
        | st.dictionaries(
            st.sampled_from(["input", "input.a", "caller", "$or", "$and", "$not", "metadata.x.0"]),
            objects("$eq", "$ne", "$gt", "$in", "$any", "$all", "$regex", "$exists", "$not", "$or", "a"),
            max_size=3,
        ),
        try_filter,
    ),
    "update operations": Target(st.tuples(st.just(ABSENT) | JSON, JSON | OPERATIONS), try_updates),
    "telemetry": Target(FRAMES, try_telemetry, takes_bytes=True),
    "schemas and placeholders": Target(
        st.tuples(JSON | objects("type", "properties", "items", "$ref", "enum", "pattern", "allOf"), JSON), try_schema
    ),
    "access": Target(
        JSON
        | objects(
            "match",
            "metadata",
            "namespace",
            "namespaces",
            "allowed_functions",
            "forbidden_functions",
            "context",
            "allowed_trigger_types",
            "function_registration_prefix",
            "allow_function_registration",
        ),
        try_access,
    ),
    "configuration file": Target(YAML, try_yaml, takes_bytes=True),
    "configurations": Target(CONFIGS | st.lists(CONFIGS, max_size=2) | JSON, try_configs),
    "cron": Target(CRON | st.binary(max_size=20), try_cron, takes_bytes=True),
}
"""By name."""
