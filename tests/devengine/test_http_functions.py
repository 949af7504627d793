"""Functions behind URLs: what the engine sends there, and what callers get of the answers (X-…, §10)."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after
from anyio.abc import SocketStream, TaskStatus

from iii_anyio import (
    HttpAuthApiKey,
    HttpAuthBearer,
    HttpAuthHmac,
    HttpInvocationConfig,
    InitOptions,
    InvocationError,
    TriggerAction,
    Worker,
    open_worker,
)
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine._http_functions import is_private, read_answer
from tests.wire.servers import raw_serving, read_head

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"
ONLY_PUBLIC = {"security": {"block_private_ips": True}}


class Remote:
    """A server that keeps each request as (head, body) and gives the same answer to all."""

    def __init__(self, answer: bytes = OK, *, hold: bool = False) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.arrived = anyio.Event()
        self.release = anyio.Event()
        self.url = ""
        self.answer = answer
        self._hold = hold

    async def __call__(self, stream: SocketStream) -> None:
        head, _, rest = (await read_head(stream)).partition("\r\n\r\n")
        length = re.search(r"(?i)content-length: (\d+)", head)
        body = rest.encode("latin-1")
        while length is not None and len(body) < int(length[1]):
            body += await stream.receive()
        self.requests.append((head, body))
        self.arrived.set()
        if self._hold:
            await self.release.wait()
        await stream.send(self.answer)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Of the last request, in order."""
        lines = self.requests[-1][0].split("\r\n")[1:]
        return [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]

    def header(self, name: str) -> str:
        (value,) = [value for given, value in self.headers if given == name]
        return value


@asynccontextmanager
async def calling(
    answer: bytes = OK, *, hold: bool = False, config: Any = None, **options: Any
) -> AsyncGenerator[tuple[Remote, Worker, Engine]]:
    remote = Remote(answer, hold=hold)
    with fail_after(20):
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(raw_serving(remote))
            remote.url = f"http://127.0.0.1:{port}"
            workers = {} if config is None else {"iii-http-functions": config}
            engine = await stack.enter_async_context(open_engine(port=None, workers=workers, **options))
            named = InitOptions(worker_name="w")
            yield (
                remote,
                await stack.enter_async_context(open_worker(connector=engine.connector(), options=named)),
                engine,
            )


async def fails(iii: Worker, function_id: str, payload: Any = None) -> InvocationError:
    with pytest.raises(InvocationError) as caught:
        await iii.trigger_async(function_id, payload)
    return caught.value


def answering(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# -- the request -----------------------------------------------------------------------------------------------------


async def test_a_call_is_a_request_with_the_payload_as_sorted_json_and_these_headers() -> None:
    """X-1, X-2, X-3, P-136."""
    async with calling() as (remote, iii, _engine):
        url = f"{remote.url}/notify/a%20b?k=v"
        iii.register_function("external::notify", HttpInvocationConfig(url=url, headers={"X-Service": "a"}))
        payload = {"b": 2, "a": "é", "nested": {"z": 1, "y": None}}
        assert await iii.trigger_async("external::notify", payload, metadata={"m": 1}) is True
        head, body = remote.requests[0]
        assert head.startswith("POST /notify/a%20b?k=v HTTP/1.1\r\n")
        caller = json.loads(body)["_caller_worker_id"]
        assert body.decode() == f'{{"_caller_worker_id":"{caller}","a":"é","b":2,"nested":{{"y":null,"z":1}}}}'
        assert remote.header("host") == remote.url.removeprefix("http://")
        assert remote.header("content-type") == "application/json"
        assert remote.header("x-iii-function-path") == "external::notify"
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f-]{21}", remote.header("x-iii-invocation-id"))
        assert abs(int(remote.header("x-iii-timestamp")) - time.time()) < 60
        assert remote.header("x-service") == "a"
        assert not {name for name, _ in remote.headers} & {"traceparent", "baggage", "authorization"}
        await iii.trigger_async("external::notify", payload)
        first, second = (re.search(r"(?i)invocation-id: (\S+)", head) for head, _ in remote.requests)
        assert first is not None
        assert second is not None
        assert first[1] != second[1]


async def test_what_is_no_object_goes_as_it_is() -> None:
    """X-2."""
    async with calling() as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        for payload in (None, [1, 2], "text", 5):
            await iii.trigger_async("f", payload)
            assert json.loads(remote.requests[-1][1]) == payload


async def test_every_method_has_the_body() -> None:
    """X-1."""
    methods: tuple[Any, ...] = ("GET", "PUT", "PATCH", "DELETE")
    async with calling() as (remote, iii, _engine):
        for method in methods:
            iii.register_function(method, HttpInvocationConfig(url=remote.url, method=method))
            await iii.trigger_async(method, [1])
            head, body = remote.requests[-1]
            assert head.startswith(f"{method} / HTTP/1.1")
            assert body == b"[1]"


async def test_configured_headers_are_added_and_replace_none() -> None:
    """X-4; only ``Host`` is one."""
    async with calling() as (remote, iii, _engine):
        headers = {"content-type": "text/plain", "Host": "elsewhere"}
        iii.register_function("f", HttpInvocationConfig(url=remote.url, headers=headers))
        await iii.trigger_async("f", 1)
        types = [value for name, value in remote.headers if name == "content-type"]
        assert types == ["application/json", "text/plain"]
        assert remote.header("host") == "elsewhere"


async def test_credentials_come_from_variables_of_the_engine_as_they_were_at_registration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """X-19, and the three kinds of ``auth`` (§6)."""
    monkeypatch.setenv("TOKEN", "secret")
    async with calling() as (remote, iii, _engine):
        for id, auth in (
            ("bearer", HttpAuthBearer(token_key="TOKEN")),
            ("key", HttpAuthApiKey(header="X-Key", value_key="TOKEN")),
            ("hmac", HttpAuthHmac(secret_key="TOKEN")),
        ):
            iii.register_function(id, HttpInvocationConfig(url=remote.url, auth=auth))
        await iii.wait_ready()
        monkeypatch.setenv("TOKEN", "changed")
        await iii.trigger_async("bearer", 1)
        assert remote.header("authorization") == "Bearer secret"
        await iii.trigger_async("key", 1)
        assert remote.header("x-key") == "secret"
        await iii.trigger_async("hmac", {"a": 1})
        signed = remote.header("x-iii-timestamp").encode() + b":" + b64encode(remote.requests[-1][1])
        digest = hmac.new(b"secret", signed, hashlib.sha256).hexdigest()
        assert remote.header("x-iii-signature") == f"sha256={digest}"
        assert "secret" not in repr(remote.requests[-1])


async def test_a_secret_that_is_no_header_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """X-14: a line break at the end is easily overlooked."""
    monkeypatch.setenv("TOKEN", "s3cret\n")
    async with calling() as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url, auth=HttpAuthBearer(token_key="TOKEN")))
        error = await fails(iii, "f")
        assert error.code == "http_request_failed"
        assert "header 'Authorization' has a character" in error.message
        assert "s3cret" not in error.message
    assert "s3cret" not in caplog.text


async def test_credentials_of_the_url_are_basic_authorization_and_in_no_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with calling(b"nonsense\r\n\r\n") as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url.replace("//", "//me:pa%24s@") + "/x?key=hidden"))
        error = await fails(iii, "f")
        assert remote.header("authorization") == f"Basic {b64encode(b'me:pa$s').decode()}"
        assert "pa" not in error.message.replace("path", "")
        assert "hidden" not in error.message
    assert "pa%24s" not in caplog.text


# -- the answer ------------------------------------------------------------------------------------------------------


RESULTS: list[tuple[bytes, Any]] = [
    (answering("200 OK", b'{"a": [1, 2.5, null]}'), {"a": [1, 2.5, None]}),
    (answering("204 No Content"), None),  # X-7
    (answering("201 Created", b"null"), None),  # X-8
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n", [1]),
    (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, True),
    (b"HTTP/1.0 200 OK\r\n\r\n[5]", [5]),
    (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 4\r\n\r\ngone", None),  # X-5, X-10
    (answering("304 Not Modified"), None),
    (answering("300 Multiple Choices", b'{"a": 1}'), {"a": 1}),
]


async def test_an_answer_below_400_is_a_result() -> None:
    """X-5, X-7, X-8, X-10."""
    async with calling() as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        for number, (answer, expected) in enumerate(RESULTS, 1):
            remote.answer = answer
            assert await iii.trigger_async("f", {}) == expected
            assert len(remote.requests) == number


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (200, b"<p>", "invalid_response", "status 200"),  # X-9
        (404, b'{"error": {"code": "gone", "message": "no such thing"}}', "gone", "no such thing"),  # X-11
        (500, b'{"error": {"code": "x"}}', "x", "HTTP request failed"),  # X-12
        (500, b'{"error": {"message": "m"}}', "http_error", "m"),
        (500, b'{"error": "text"}', "http_error", "HTTP request failed"),
        (422, b'{"detail": 1}', "http_error", "HTTP 422 Unprocessable Entity"),  # X-13
        (413, b"", "http_error", "HTTP 413 Payload Too Large"),
        (404, b"<p>", "http_error", "HTTP 404 Not Found"),
        (500, b"[]", "http_error", "HTTP 500 Internal Server Error"),
        (599, b"", "http_error", "HTTP 599 <unknown status code>"),
    ],
)
def test_other_answers_are_errors(status: int, body: bytes, code: str, message: str) -> None:
    """X-9, X-11, X-12, X-13."""
    with pytest.raises(InvocationError) as caught:
        read_answer(status, body)
    assert caught.value.code == code
    assert message in caught.value.message


async def test_a_failing_server_is_an_error_of_its_own_words() -> None:
    """X-11, through everything."""
    async with calling(answering("503 Busy", b'{"error":{"code":"busy","message":"later"}}')) as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        error = await fails(iii, "f", {})
        assert (error.code, error.message, error.function_id) == ("busy", "later", "f")


async def test_a_connection_that_is_refused_is_an_error() -> None:
    """X-14."""
    async with calling() as (_remote, iii, _engine):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
        iii.register_function("f", HttpInvocationConfig(url=f"http://127.0.0.1:{port}/x?secret=1"))
        error = await fails(iii, "f")
        assert error.code == "http_request_failed"
        assert "Connection refused" in error.message
        assert f"http://127.0.0.1:{port}/x)" in error.message


async def test_an_answer_without_a_head_is_an_error() -> None:
    """X-14."""
    async with calling() as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        for remote.answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"nonsense\r\n\r\n", b"HTTP/1.1 103 A\r\n\r\n"):
            assert (await fails(iii, "f")).code == "http_request_failed"


async def test_an_answer_that_breaks_off_is_an_error() -> None:
    """X-15."""
    async with calling(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123") as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        assert (await fails(iii, "f")).code == "http_response_failed"


async def test_a_header_that_is_none_is_an_error_of_each_call() -> None:
    """X-14."""
    async with calling() as (remote, iii, _engine):
        for id, headers in enumerate(({"a b": "1"}, {"a": "line\r\nbreak: 1"}, {"a": "ü"}, {"ü": "a"})):
            iii.register_function(f"f{id}", HttpInvocationConfig(url=remote.url, headers=headers))
            assert (await fails(iii, f"f{id}")).code == "http_request_failed"
        assert remote.requests == []


async def test_the_timeout_covers_everything() -> None:
    """X-6, X-14."""
    async with calling(hold=True) as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url, timeout_ms=30))
        error = await fails(iii, "f")
        assert error.code == "http_request_failed"
        assert "operation timed out" in error.message


# -- who may call whom -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"require_https": True}, {"http://example.com": "require_https"}),
        ({"url_allowlist": ["*.example.com", "h"]}, {"http://example.com": "url_allowlist"}),
        (
            {"block_private_ips": True},
            {
                "http://127.0.0.1": "block_private_ips",
                "http://[::1]": "block_private_ips",
                "http://LOCALHOST": "block_private_ips",
                "http://a.localhost.": "block_private_ips",
                "http://[::ffff:10.0.0.1]": "block_private_ips",
            },
        ),
        ({}, {"ftp://example.com": "scheme", "nonsense": "scheme", "http://": "no host", "http://[::1": "no URL"}),
    ],
)
async def test_a_url_that_is_not_allowed_drops_the_registration_with_a_line_in_the_log(
    config: Any, refused: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """X-17, X-18."""
    async with calling(config={"security": config}) as (_remote, iii, _engine):
        for number, (url, problem) in enumerate(refused.items()):
            caplog.clear()
            iii.register_function(f"f{number}", HttpInvocationConfig(url=url))
            assert (await fails(iii, f"f{number}")).code == "function_not_found"
            assert problem in caplog.text


async def test_a_missing_variable_drops_the_registration(caplog: pytest.LogCaptureFixture) -> None:
    """X-17."""
    async with calling() as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url, auth=HttpAuthBearer(token_key="NO_SUCH_ONE")))
        assert (await fails(iii, "f")).code == "function_not_found"
    assert "no environment variable 'NO_SUCH_ONE'" in caplog.text


async def test_hosts_are_allowed_by_pattern() -> None:
    """X-17: the pattern is for the host alone, and minds no case."""
    async with calling(config={"security": {"url_allowlist": ["LOCAL*t", "127.*"]}}) as (remote, iii, _engine):
        for host in ("localhost", "127.0.0.1"):
            iii.register_function(host, HttpInvocationConfig(url=remote.url.replace("127.0.0.1", host)))
            assert await iii.trigger_async(host, 1) is True


async def test_a_name_with_a_private_address_is_refused_when_it_is_called() -> None:
    """X-16; a number of four bytes is such a name."""
    async with calling(config=ONLY_PUBLIC) as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url.replace("127.0.0.1", "2130706433")))
        assert (await fails(iii, "f")).code == "url_validation_failed"
        assert remote.requests == []


async def test_a_strict_engine_has_the_defaults_of_the_real_one() -> None:
    """X-18."""
    async with calling(strict_upstream=True) as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        assert (await fails(iii, "f")).code == "function_not_found"
    off = {"security": {"require_https": False, "block_private_ips": False}}
    async with calling(strict_upstream=True, config=off) as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        assert await iii.trigger_async("f", 1) is True


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "255.255.255.255",
        "192.0.2.1", "100.64.0.1", "224.0.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "2001:db8::1", "2001:0:1::1", "fec0::1",
    ],
)  # fmt: skip
def test_these_addresses_are_private(address: str) -> None:
    assert is_private(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_these_addresses_are_public(address: str) -> None:
    assert not is_private(ip_address(address))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"security": 1}, "security must be a mapping"),
        ({"security": {"url_allowlist": "*"}}, "security.url_allowlist must be a list of strings"),
        ({"security": {"require_https": "no"}}, "security.require_https must be true or false"),
    ],
)
async def test_a_wrong_configuration_is_an_error(config: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"iii-http-functions: {re.escape(problem)}"):
        async with open_engine(port=None, workers={"iii-http-functions": config}):
            pass


# -- as a function among others --------------------------------------------------------------------------------------


async def test_it_is_listed_until_it_is_unregistered() -> None:
    """X-20."""
    async with calling() as (remote, iii, _engine):
        function = iii.register_function("f", HttpInvocationConfig(url=remote.url), description="d")
        found = await iii.trigger_async("engine::functions::info", {"function_id": "f"})
        assert (found["worker_name"], found["description"]) == ("w", "d")
        function.unregister()
        assert (await fails(iii, "f")).code == "function_not_found"
        assert remote.requests == []


async def test_it_may_be_registered_again_with_another_url() -> None:
    async with calling() as (remote, iii, _engine):
        function = iii.register_function("f", HttpInvocationConfig(url=f"{remote.url}/one"))
        await iii.trigger_async("f", 1)
        function.unregister()
        iii.register_function("f", HttpInvocationConfig(url=f"{remote.url}/two"))
        await iii.trigger_async("f", 1)
        assert [head.split()[1] for head, _ in remote.requests] == ["/one", "/two"]


async def test_a_void_call_is_made_and_not_answered() -> None:
    async with calling() as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        assert await iii.trigger_async("f", {"x": 1}, action=TriggerAction.Void()) is None
        await remote.arrived.wait()


async def test_a_void_call_that_fails_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with calling(answering("500 No")) as (remote, iii, _engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        await iii.trigger_async("f", {"x": 1}, action=TriggerAction.Void())
        await remote.arrived.wait()
        while "HTTP 500 Internal Server Error" not in caplog.text:
            await iii.trigger_async("engine::workers::list", {})


async def test_calls_run_side_by_side_and_end_without_their_caller() -> None:
    """§7.5: a lost caller does not stop the request."""
    async with calling(hold=True) as (remote, iii, engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        await iii.wait_ready()
        async with (
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="caller")) as caller,
            anyio.create_task_group() as group,
        ):
            group.start_soon(caller.trigger_async, "f", "lost")
            await remote.arrived.wait()
            group.cancel_scope.cancel()
        remote.arrived = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(iii.trigger_async, "f", "kept")
            await remote.arrived.wait()
            assert len(remote.requests) == 2
            remote.release.set()


async def test_an_engine_that_ends_gives_up_its_requests() -> None:
    remote = Remote(hold=True)
    stop = anyio.Event()

    async def run(*, task_status: TaskStatus[Engine]) -> None:
        async with open_engine(port=None) as engine:
            task_status.started(engine)
            await stop.wait()

    async def end_when_called() -> None:
        await remote.arrived.wait()
        stop.set()

    with fail_after(20):
        async with raw_serving(remote) as port, anyio.create_task_group() as group:
            engine: Engine = await group.start(run)
            async with open_worker(connector=engine.connector(), options=InitOptions(worker_name="w")) as iii:
                iii.register_function("f", HttpInvocationConfig(url=f"http://127.0.0.1:{port}"))
                group.start_soon(end_when_called)
                assert (await fails(iii, "f")).code == "invocation_stopped"


async def test_every_kind_of_trigger_can_call_it() -> None:
    """X-21, H-28: the whole request object goes out, the answer is a handler's result."""
    answer = answering("200 OK", b'{"status_code": 201, "body": {"made": true}}')
    async with calling(answer, http_port=0) as (remote, iii, engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        iii.register_trigger("http", "f", {"api_path": "/orders/:id", "http_method": "PUT"})
        iii.register_trigger("subscribe", "f", {"topic": "t"})
        await iii.wait_ready()
        async with httpx.AsyncClient(base_url=engine.http_url, trust_env=False, timeout=None) as client:
            response = await client.put("/orders/7", json={"x": 1})
        assert (response.status_code, response.json()) == (201, {"made": True})
        request = json.loads(remote.requests[0][1])
        assert request["path_params"] == {"id": "7"}
        assert request["request_body"]["direction"] == "read"
        assert "_caller_worker_id" not in request  # T-15
        remote.arrived = anyio.Event()
        await iii.trigger_async("publish", {"topic": "t", "data": [1]})
        await remote.arrived.wait()
        assert remote.requests[1][1] == b"[1]"


async def test_the_engines_own_triggers_can_call_it() -> None:
    """X-21."""
    async with calling() as (remote, iii, engine):
        iii.register_function("f", HttpInvocationConfig(url=remote.url))
        iii.register_trigger("engine::workers-available", "f", {})
        await iii.wait_ready()
        async with open_worker(connector=engine.connector(), options=InitOptions(worker_name="other")):
            await remote.arrived.wait()
        assert json.loads(remote.requests[0][1])["event"].startswith("worker_")
