"""The ``http`` trigger as an ASGI application, with functions that are called directly (H-…, T-…)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from iii_anyio._runtime.context import running_invocation
from iii_anyio.devengine._routes import RouteError
from iii_anyio.devengine.builtins.http import CorsOptions, GlobalMiddleware, HttpOptions, HttpTrigger
from iii_anyio.errors import EncodeError, InvocationError, InvocationTimeoutError
from iii_anyio.trigger import TriggerConfig

pytestmark = pytest.mark.anyio

VIRTUAL = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
ANY_ORIGIN = {"access-control-allow-origin": "*", "access-control-expose-headers": "*"}
VARY = "origin, access-control-request-method, access-control-request-headers"

Function = Callable[[Any], Awaitable[Any]]


@dataclass
class Call:
    function_id: str
    payload: Any
    namespace: str | None
    metadata: Any
    traceparent: str | None


class Functions:
    """Calls functions by id, as a worker would, and keeps what it was asked."""

    def __init__(self, **functions: Function) -> None:
        self.functions = functions
        self.calls: list[Call] = []
        self.abandoned: list[str] = []

    @property
    def called(self) -> list[str]:
        return [call.function_id for call in self.calls]

    def trigger(self, request: Any) -> Any:
        raise AssertionError("blocks the loop")

    async def trigger_async(self, request: Any) -> Any:
        function_id = request["function_id"]
        invocation = running_invocation()
        self.calls.append(
            Call(
                function_id,
                json.loads(json.dumps(request["payload"])),
                request.get("namespace"),
                request.get("metadata"),
                invocation.traceparent if invocation is not None else None,
            )
        )
        function = self.functions.get(function_id)
        if function is None:
            raise InvocationError("function_not_found", f"Function {function_id} not found")
        try:
            return await function(request["payload"])
        except anyio.get_cancelled_exc_class():
            self.abandoned.append(function_id)
            raise


def returns(value: Any) -> Function:
    async def function(_payload: Any) -> Any:
        await checkpoint()
        return value

    return function


def fails(code: str, message: str) -> Function:
    async def function(_payload: Any) -> Any:
        await checkpoint()
        raise InvocationError(code, message, stacktrace="Traceback: secret")

    return function


async def never(_payload: Any) -> Any:
    await anyio.sleep_forever()


OK = returns({"body": "ok"})
CONTINUE = returns({"action": "continue"})


async def bind(app: HttpTrigger, function_id: str, config: dict[str, Any], **more: Any) -> None:
    trigger_id = more.pop("id", f"t-{function_id}")
    await app.register_trigger(TriggerConfig(id=trigger_id, function_id=function_id, config=config, **more))


async def serving(functions: Functions, *paths: str, **options: Any) -> HttpTrigger:
    """An application with each path bound to the function of the same name, for GET and POST."""
    app = HttpTrigger(functions, options=HttpOptions(**options))
    for path in paths:
        name = path.partition("/")[0]
        for method in ("GET", "POST"):
            await bind(app, name, {"api_path": path, "http_method": method}, id=f"{method} {path}")
    return app


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} is repeated"
        return values[0] if values else None


@dataclass
class Client:
    """One request to the application; ``chunks`` are its body, ``leave`` when it closes its connection."""

    app: HttpTrigger
    leave: anyio.Event = field(default_factory=anyio.Event)
    sent: list[Any] = field(default_factory=list)

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        chunks: list[bytes | None] | None = None,
    ) -> Answer | None:
        path, _, query = target.encode("latin-1").partition(b"?")
        scope = {
            "type": "http",
            "method": method,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        }
        parts = list(chunks) if chunks is not None else [b""]

        async def receive() -> dict[str, Any]:
            if parts:
                part = parts.pop(0)
                if part is None:  # the client never sends the rest
                    await self.leave.wait()
                    return {"type": "http.disconnect"}
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            await self.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await checkpoint()
            self.sent.append(message)

        with anyio.fail_after(100):
            await self.app(scope, receive, send)
        if not self.sent:
            return None
        start, body = self.sent
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        assert not body.get("more_body")
        return Answer(
            start["status"],
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]],
            body["body"],
        )


async def ask(app: HttpTrigger, method: str, target: str, **more: Any) -> Answer:
    answer = await Client(app).request(method, target, **more)
    assert answer is not None
    return answer


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---------------------------------------------------------------- a request and its response


async def test_a_request_reaches_its_function_and_comes_back_as_its_response() -> None:  # H-18 to H-27
    functions = Functions(h=returns({"status_code": 201, "body": {"b": 1, "a": "é"}, "headers": {"X-A": "1"}}))
    app = HttpTrigger(functions)
    await bind(app, "h", {"api_path": "rec/:id", "http_method": "post"})
    answer = await ask(
        app,
        "POST",
        "/rec/a%20b?x=1&x=2&y=z",
        headers={"Host": "h", "content-type": "application/json"},
        chunks=[b'{"v": ', b"[1, 2]}"],
    )
    payload = functions.calls[0].payload
    for end in ("request_body", "response"):
        assert re.fullmatch("[0-9a-f-]{36}", payload[end].pop("channel_id"))
        assert re.fullmatch("[0-9a-f-]{36}", payload[end].pop("access_key"))
    assert payload == {
        "body": {"v": [1, 2]},
        "headers": {"content-type": "application/json", "host": "h"},
        "method": "POST",
        "path": "rec/:id",
        "path_params": {"id": "a%20b"},
        "query_params": {"x": "2", "y": "z"},
        "request_body": {"direction": "read"},
        "response": {"direction": "write"},
        "trigger": {"method": "POST", "path": "rec/:id", "type": "http"},
    }
    assert answer.status == 201
    assert answer.body == '{"a":"é","b":1}'.encode()
    assert dict(answer.headers) == {
        "content-type": "application/json",
        "content-length": "16",
        "x-a": "1",
        "vary": VARY,
        **ANY_ORIGIN,
    }


async def test_channels_come_from_the_engine_one_for_each_end() -> None:
    functions = Functions(h=OK)
    made: list[int] = []

    def create_channel() -> tuple[dict[str, Any], dict[str, Any]]:
        made.append(len(made))
        return {"channel_id": made[-1], "direction": "write"}, {"channel_id": made[-1], "direction": "read"}

    app = HttpTrigger(functions, create_channel=create_channel)
    await bind(app, "h", {"api_path": "h", "condition_function_id": "missing"}, id="refused")
    assert (await ask(app, "GET", "/h")).status == 500
    await bind(app, "h", {"api_path": "h"})
    await ask(app, "GET", "/h")
    payload = functions.calls[-1].payload
    assert payload["request_body"] == {"channel_id": 2, "direction": "read"}
    assert payload["response"] == {"channel_id": 3, "direction": "write"}


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "application/x-www-form-urlencoded"}, {"content-type": "Application/JSON"}, {}],
)
async def test_a_body_that_is_not_json_is_null_and_the_function_does_not_wait_for_it(
    headers: dict[str, str],
) -> None:  # H-17, H-23, H-25
    functions = Functions(h=OK)
    app = await serving(functions, "h")
    answer = await ask(app, "POST", "/h", headers=headers, chunks=[b"a=1", None])
    assert answer.json == "ok"
    assert functions.calls[0].payload["body"] is None


async def test_invalid_json_is_null_and_the_function_runs() -> None:  # H-24
    functions = Functions(h=OK)
    app = await serving(functions, "h")
    for body in (b"{oops", b""):
        await ask(app, "POST", "/h", headers={"content-type": "application/json"}, chunks=[body])
    assert [call.payload["body"] for call in functions.calls] == [None, None]


async def test_the_path_is_what_the_client_sent_and_not_decoded() -> None:  # H-20
    functions = Functions(h=OK)
    app = await serving(functions, "h/:id")
    assert (await ask(app, "GET", "/h/a%2Fb")).status == 200
    assert functions.calls[-1].payload["path_params"] == {"id": "a%2Fb"}
    assert (await ask(app, "GET", "/h/9/")).status == 404  # H-9


async def test_a_request_target_with_scheme_and_host_is_routed_by_its_path() -> None:
    app = await serving(Functions(h=OK), "h")
    assert (await ask(app, "GET", "http://127.0.0.1:3111/h")).status == 200
    assert (await ask(app, "GET", "http://127.0.0.1:3111")).status == 404


async def test_a_list_of_header_lines_repeats_a_header() -> None:  # H-39
    app = await serving(Functions(h=returns({"headers": ["Set-Cookie: a=1", "Set-Cookie: b=2"]})), "h")
    answer = await ask(app, "GET", "/h")
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]


async def test_a_header_that_would_split_the_response_is_skipped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:  # H-39
    app = await serving(Functions(h=returns({"headers": {"X-A": "1\r\nSet-Cookie: evil=1", "X-B": "2"}})), "h")
    answer = await ask(app, "GET", "/h")
    assert answer.header("x-a") is None
    assert answer.header("set-cookie") is None
    assert answer.header("x-b") == "2"
    assert warnings(caplog) == ["left out of the response of h: malformed header 'x-a'"]


async def test_a_function_cannot_set_the_length_of_its_response() -> None:
    result = {"headers": {"Content-Length": "1", "Transfer-Encoding": "chunked", "Content-Type": "a/b"}, "body": "four"}
    answer = await ask(await serving(Functions(h=returns(result)), "h"), "GET", "/h")
    assert answer.header("content-length") == "4"
    assert answer.header("transfer-encoding") is None
    assert answer.body == b"four"


@pytest.mark.parametrize("status", [204, 304])
async def test_responses_without_a_body_have_no_length(status: int) -> None:
    answer = await ask(await serving(Functions(h=returns({"status_code": status})), "h"), "GET", "/h")
    assert (answer.status, answer.body, answer.header("content-length")) == (status, b"", None)


async def test_a_status_below_200_cannot_end_a_request(caplog: pytest.LogCaptureFixture) -> None:
    answer = await ask(await serving(Functions(h=returns({"status_code": 101, "body": 1})), "h"), "GET", "/h")
    assert (answer.status, answer.body) == (500, b"")
    assert warnings(caplog) == ["h chose status 101, which cannot end a request"]


async def test_a_result_that_is_no_response_is_lost_with_one_hint(caplog: pytest.LogCaptureFixture) -> None:  # H-38
    app = await serving(Functions(h=returns({"message": "hi"})), "h")
    for _ in range(3):
        answer = await ask(app, "GET", "/h")
        assert (answer.status, answer.json) == (200, {})
    (hint,) = warnings(caplog)
    assert "the result of h is lost" in hint
    assert "status_code, headers or body" in hint
    await bind(app, "h", {"api_path": "h"}, id="GET h")  # registered anew: hinted anew
    await ask(app, "GET", "/h")
    assert len(warnings(caplog)) == 2


# ---------------------------------------------------------------- routing


async def test_an_unknown_path_is_404_and_a_known_one_405() -> None:  # H-45, H-46
    app = await serving(Functions(), "h")
    unknown = await ask(app, "GET", "/nowhere")
    assert (unknown.status, unknown.json) == (404, {"error": {"code": "NOT_FOUND", "message": "Not Found"}})
    assert unknown.header("access-control-allow-origin") == "*"  # H-55
    refused = await ask(app, "DELETE", "/h")
    assert (refused.status, refused.body, refused.header("allow")) == (405, b"", "GET,HEAD,POST")
    assert refused.header("content-type") is None
    assert refused.header("vary") == VARY


async def test_head_finds_nothing_on_a_get_route_and_has_no_body() -> None:  # H-47
    app = await serving(Functions(h=OK), "h")
    answer = await ask(app, "HEAD", "/h")
    assert (answer.status, answer.body) == (404, b"")
    await bind(app, "h", {"api_path": "h", "http_method": "HEAD"})
    answer = await ask(app, "HEAD", "/h")
    assert (answer.status, answer.body, answer.header("content-length")) == (200, b"", "4")


@pytest.mark.parametrize("path", ["/h", "/nowhere", "*"])
async def test_every_options_request_is_answered_before_routing(path: str) -> None:  # H-16, H-54
    functions = Functions(h=OK, m=CONTINUE)
    app = await serving(functions, "h", middleware=[GlobalMiddleware("m")])
    await bind(app, "h", {"api_path": "h", "http_method": "OPTIONS"})
    answer = await ask(app, "OPTIONS", path)
    assert (answer.status, answer.body) == (200, b"")
    assert dict(answer.headers) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "*",
        "access-control-allow-headers": "*",
        "vary": VARY,
        "content-length": "0",
    }
    assert functions.called == []


async def test_an_origin_that_is_not_allowed_still_runs_the_request() -> None:  # H-56
    functions = Functions(h=OK)
    app = await serving(functions, "h", cors=CorsOptions(["http://a.example"]))
    answer = await ask(app, "GET", "/h", headers={"origin": "http://b.example"})
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, None)
    answer = await ask(app, "GET", "/h", headers={"origin": "http://a.example"})
    assert answer.header("access-control-allow-origin") == "http://a.example"
    assert functions.called == ["h", "h"]


async def test_a_bad_configuration_raises_what_the_registrant_is_told() -> None:  # T-2, H-5, H-13
    app = HttpTrigger(Functions())
    with pytest.raises(RouteError, match="api_path is required"):
        await bind(app, "h", {})
    await bind(app, "h", {"api_path": "/c/:a/:b"})
    with pytest.raises(RouteError, match="conflicts with already-registered route"):
        await bind(app, "other", {"api_path": "/c/:b/:a"})


async def test_a_replaced_route_is_reported_and_its_loser_cannot_remove_it(
    caplog: pytest.LogCaptureFixture,
) -> None:  # H-10, H-11
    functions = Functions(first=OK, second=returns({"body": 2}))
    app = HttpTrigger(functions)
    await bind(app, "first", {"api_path": "/h"})
    await bind(app, "second", {"api_path": "h"})
    assert warnings(caplog) == ["route GET /h now calls second; trigger t-first of first lost it"]
    await app.unregister_trigger(TriggerConfig(id="t-first", function_id="first", config={"api_path": "/h"}))
    assert (await ask(app, "GET", "/h")).json == 2
    await app.unregister_trigger(TriggerConfig(id="t-second", function_id="second", config=None))
    assert (await ask(app, "GET", "/h")).status == 404


# ---------------------------------------------------------------- namespaces, metadata, trace


async def test_all_functions_of_a_route_are_looked_up_in_its_namespace() -> None:  # T-10, H-35
    functions = Functions(h=OK, c=returns(True), m=CONTINUE, g=CONTINUE)
    app = HttpTrigger(functions, options=HttpOptions(middleware=[GlobalMiddleware("g")]))
    config = {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["m"]}
    await bind(app, "h", config, namespace="orders")
    await ask(app, "GET", "/h")
    assert functions.called == ["g", "c", "m", "h"]
    assert {call.namespace for call in functions.calls} == {"orders"}
    await bind(app, "h", config)
    await ask(app, "GET", "/h")
    assert {call.namespace for call in functions.calls[4:]} == {"default"}


async def test_only_the_handler_gets_the_metadata() -> None:  # T-12, T-13
    functions = Functions(h=OK, c=returns(True), m=CONTINUE)
    app = HttpTrigger(functions)
    config = {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["m"]}
    await bind(app, "h", config, metadata={"team": "a"})
    await ask(app, "GET", "/h")
    assert [(call.function_id, call.metadata) for call in functions.calls] == [
        ("c", None), ("m", None), ("h", {"team": "a"}),
    ]  # fmt: skip
    assert "team" not in functions.calls[-1].payload


async def test_all_calls_of_a_request_belong_to_one_trace_and_continue_the_clients() -> None:
    functions = Functions(h=OK, c=returns(True), m=CONTINUE)
    app = HttpTrigger(functions)
    await bind(app, "h", {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["m"]})
    await ask(app, "GET", "/h")
    traces = {call.traceparent for call in functions.calls}
    assert len(traces) == 1
    await ask(app, "GET", "/h", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    (traceparent,) = {call.traceparent for call in functions.calls[3:]}
    assert traceparent is not None
    assert traceparent.startswith(f"00-{'a' * 32}-")
    assert traceparent not in traces
    assert running_invocation() is None


# ---------------------------------------------------------------- order, middleware, conditions


async def test_the_order_of_a_request() -> None:  # H-4, H-15
    functions = Functions(
        a=CONTINUE, b=CONTINUE, z=CONTINUE, late=CONTINUE, c=returns(None), r=CONTINUE, s=CONTINUE, h=OK
    )
    middleware = [
        GlobalMiddleware("z", priority=5),
        GlobalMiddleware("b"),
        GlobalMiddleware("late", phase="postHandler", priority=-9),
        GlobalMiddleware("a", priority=-1),
    ]
    app = HttpTrigger(functions, options=HttpOptions(middleware=middleware))
    await bind(app, "h", {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["s", 5, "r"]})
    await ask(app, "GET", "/h")
    assert functions.called == ["a", "b", "z", "c", "s", "r", "h"]


async def test_unmatched_requests_run_no_middleware() -> None:  # H-16
    functions = Functions(m=CONTINUE)
    app = await serving(functions, "h", middleware=[GlobalMiddleware("m")])
    for method, path in (("GET", "/x"), ("DELETE", "/h"), ("OPTIONS", "/h")):
        await ask(app, method, path)
    assert functions.called == []


@pytest.mark.parametrize("is_global", [True, False], ids=["global", "route"])
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (None, 200, "ok"),
        ("x", 200, "ok"),
        ({"action": "continue", "context": {"user": 1}}, 200, "ok"),
        ({"action": "unknown", "response": {"status_code": 500}}, 200, "ok"),
        ({"action": "respond"}, 200, None),
        ({"action": "respond", "response": {"status_code": 403, "body": {"error": "no"}}}, 403, {"error": "no"}),
        ({"action": "respond", "response": {"status_code": "403", "body": "no"}}, 200, "no"),
    ],
)
async def test_middleware_lets_pass_or_responds(
    answer: Any, status: int, body: Any, is_global: bool
) -> None:  # H-29, H-30, H-31
    functions = Functions(h=OK, m=returns(answer), n=CONTINUE)
    ids = ["m", "n"]
    app = HttpTrigger(
        functions, options=HttpOptions(middleware=[GlobalMiddleware(id) for id in ids] if is_global else [])
    )
    await bind(app, "h", {"api_path": "h/:id", "middleware_function_ids": [] if is_global else ids}, metadata={"m": 1})
    response = await ask(app, "GET", "/h/7?q=1", headers={"host": "x"})
    assert (response.status, response.json) == (status, body)
    assert response.header("access-control-allow-origin") == "*"
    assert functions.called == (["m", "n", "h"] if body == "ok" else ["m"])
    assert functions.calls[0].payload == {
        "phase": "preHandler",
        "context": {},
        "request": {"path_params": {"id": "7"}, "query_params": {"q": "1"}, "headers": {"host": "x"}, "method": "GET"},
    }
    if body == "ok":
        assert "user" not in json.dumps(functions.calls[-1].payload)


async def test_a_warning_about_a_response_names_the_middleware_that_made_it(caplog: pytest.LogCaptureFixture) -> None:
    functions = Functions(h=OK, m=returns({"action": "respond", "response": {"headers": {"X-A": 1}}}))
    app = await serving(functions, "h", middleware=[GlobalMiddleware("m")])
    await ask(app, "GET", "/h")
    assert warnings(caplog) == ["left out of the response of m: headers that are not an object of strings"]


@pytest.mark.parametrize("passing", [None, 0, "", "false", {}, [], True, 1, "x"])
async def test_everything_but_false_passes_a_condition(passing: Any) -> None:  # T-16
    functions = Functions(h=OK, c=returns(passing))
    app = HttpTrigger(functions)
    await bind(app, "h", {"api_path": "h", "condition_function_id": "c"})
    assert (await ask(app, "GET", "/h")).json == "ok"
    assert functions.called == ["c", "h"]


async def test_false_blocks_and_the_condition_sees_the_request_without_channels() -> None:  # T-16, T-17, H-41
    functions = Functions(h=OK, c=returns(False), m=CONTINUE)
    app = HttpTrigger(functions)
    config = {"api_path": "h", "http_method": "POST", "condition_function_id": "c", "middleware_function_ids": ["m"]}
    await bind(app, "h", config)
    answer = await ask(app, "POST", "/h", headers={"content-type": "application/json"}, chunks=[b"[1]"])
    assert answer.status == 422
    assert answer.json == {
        "error": {"code": "CONDITION_NOT_MET", "message": "Request condition not met"},
        "skipped": True,
    }
    assert functions.called == ["c"]
    payload = functions.calls[0].payload
    assert payload["body"] == [1]
    assert sorted(payload) == ["body", "headers", "method", "path", "path_params", "query_params", "trigger"]


@pytest.mark.parametrize("failing", ["h", "c", "m", "g"])
async def test_a_failing_function_is_a_500_with_its_own_code(failing: str) -> None:  # T-18, H-33, H-42, H-49
    functions = Functions(h=OK, c=returns(True), m=CONTINUE, g=CONTINUE)
    app = HttpTrigger(functions, options=HttpOptions(middleware=[GlobalMiddleware("g")]))
    await bind(app, "h", {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["m"]})
    functions.functions[failing] = fails("my_code", "boom!")
    answer = await ask(app, "GET", "/h")
    assert answer.status == 500
    error = answer.json["error"]
    assert re.fullmatch("[0-9a-f]{1,12}", error.pop("error_id"))
    assert error == {"code": "my_code", "message": "boom!"}
    assert b"secret" not in answer.body
    assert answer.header("access-control-allow-origin") == "*"
    assert functions.called[-1] == failing


@pytest.mark.parametrize("missing", ["h", "c", "m"])
async def test_a_missing_function_is_a_500(missing: str) -> None:  # T-4, T-18, H-33, H-43
    functions = Functions(h=OK, c=returns(True), m=CONTINUE)
    del functions.functions[missing]
    app = HttpTrigger(functions)
    await bind(app, "h", {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["m"]})
    answer = await ask(app, "GET", "/h")
    assert (answer.status, answer.json["error"]["code"]) == (500, "function_not_found")


async def test_a_lost_worker_is_a_500() -> None:  # H-48
    app = await serving(Functions(h=fails("invocation_stopped", "Invocation stopped")), "h")
    answer = await ask(app, "GET", "/h")
    assert (answer.status, answer.json["error"]["code"]) == (500, "invocation_stopped")


# ---------------------------------------------------------------- time, disconnects, limits


@VIRTUAL
@pytest.mark.parametrize("slow", ["h", "c", "m", "g"])
async def test_a_request_that_takes_too_long_is_an_empty_504(slow: str) -> None:  # H-34, H-44, H-52
    functions = Functions(h=OK, c=returns(True), m=CONTINUE, g=CONTINUE)
    functions.functions[slow] = never
    app = HttpTrigger(functions, options=HttpOptions(default_timeout=7.5, middleware=[GlobalMiddleware("g")]))
    await bind(app, "h", {"api_path": "h", "condition_function_id": "c", "middleware_function_ids": ["m"]})
    start = anyio.current_time()
    answer = await ask(app, "GET", "/h")
    assert anyio.current_time() - start == pytest.approx(7.5)
    assert (answer.status, answer.body, answer.headers) == (504, b"", [("content-length", "0")])
    assert functions.abandoned == [slow]


@VIRTUAL
async def test_a_body_that_never_ends_is_a_504() -> None:  # H-44
    functions = Functions(h=OK)
    app = await serving(functions, "h")
    answer = await ask(app, "POST", "/h", headers={"content-type": "application/json"}, chunks=[b"{", None])
    assert answer.status == 504
    assert functions.called == []


@VIRTUAL
async def test_no_result_is_a_504_after_the_timeout_and_a_warning_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:  # H-51
    app = await serving(Functions(h=returns(None)), "h")
    client = Client(app)
    async with anyio.create_task_group() as group:
        group.start_soon(client.request, "GET", "/h")
        await anyio.wait_all_tasks_blocked()
        (warning,) = warnings(caplog)
        assert warning.startswith("h returned None")
        assert not client.sent
    assert client.sent[0]["status"] == 504


@VIRTUAL
async def test_a_timeout_noticed_by_the_caller_first_is_the_requests_own() -> None:  # H-44
    async def capped(_payload: Any) -> Any:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)
        raise InvocationTimeoutError("TIMEOUT", "no answer")

    app = await serving(Functions(h=capped), "h")
    assert (await ask(app, "GET", "/h")).status == 504


async def test_a_timeout_inside_a_function_is_its_failure() -> None:  # H-42
    async def nested(_payload: Any) -> Any:
        raise InvocationTimeoutError("TIMEOUT", "a call of mine")

    answer = await ask(await serving(Functions(h=nested), "h"), "GET", "/h")
    assert (answer.status, answer.json["error"]["code"]) == (500, "TIMEOUT")


async def test_calls_outlast_the_request_so_that_its_limit_decides() -> None:
    timeouts: list[int] = []

    class Recorder(Functions):
        async def trigger_async(self, request: Any) -> Any:
            timeouts.append(request["timeout_ms"])
            return await super().trigger_async(request)

    await ask(await serving(Recorder(h=OK), "h", default_timeout=2.0), "GET", "/h")
    assert timeouts[0] > 2000


@pytest.mark.parametrize("when", ["body", "g", "h"])
async def test_a_client_that_leaves_ends_its_request_without_an_answer(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:  # H-52
    caplog.set_level(logging.INFO, "iii_anyio.devengine.http")
    functions = Functions(g=CONTINUE, h=OK)
    if when in functions.functions:
        functions.functions[when] = never
    app = await serving(functions, "h", middleware=[GlobalMiddleware("g")])
    client = Client(app)
    chunks: list[bytes | None] = [b"{", None] if when == "body" else [b"{}"]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            call = lambda: client.request(  # noqa: E731
                "POST", "/h", headers={"content-type": "application/json"}, chunks=chunks
            )
            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            client.leave.set()
    assert client.sent == []
    assert functions.abandoned == ([] if when == "body" else [when])
    assert functions.called == {"body": ["g"], "g": ["g"], "h": ["g", "h"]}[when]
    assert "client left" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("headers", "chunks"),
    [({"content-length": "11"}, [b"", None]), ({}, [b"[1,2", b",3,4", b",5]"]), ({}, [b"x" * 11, None])],
    ids=["announced", "streamed", "never ending"],
)
async def test_a_json_body_over_the_limit_is_413(headers: dict[str, str], chunks: list[bytes | None]) -> None:
    functions = Functions(h=OK)
    app = await serving(functions, "h", max_body=10)
    headers = {"content-type": "application/json", **headers}
    with anyio.fail_after(20):
        answer = await ask(app, "POST", "/h", headers=headers, chunks=chunks)
    assert (answer.status, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert functions.called == []
    fitting = await ask(app, "POST", "/h", headers={"content-type": "application/json"}, chunks=[b"[1,2,", b"3,45]"])
    assert fitting.json == "ok"
    assert functions.calls[0].payload["body"] == [1, 2, 3, 45]


async def test_other_bodies_have_no_limit() -> None:  # H-17
    app = await serving(Functions(h=OK), "h", max_body=10)
    answer = await ask(app, "POST", "/h", headers={"content-length": "99"}, chunks=[b"x" * 99])
    assert answer.status == 200


async def test_one_request_too_many_at_once_is_503() -> None:  # H-50, enforced
    release = anyio.Event()

    async def wait(_payload: Any) -> Any:
        await release.wait()
        return {"body": "ok"}

    app = await serving(Functions(h=wait), "h", concurrency_limit=2)
    clients = [Client(app) for _ in range(2)]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(client.request, "GET", "/h")
            await anyio.wait_all_tasks_blocked()
            refused = await ask(app, "GET", "/h")
            assert (refused.status, refused.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
            assert (await ask(app, "GET", "/nowhere")).status == 404
            release.set()
    assert [client.sent[0]["status"] for client in clients] == [200, 200]
    assert (await ask(app, "GET", "/h")).status == 200


@pytest.mark.parametrize(
    "options",
    [
        {"default_timeout": 0},
        {"default_timeout": float("inf")},
        {"default_timeout": float("nan")},
        {"concurrency_limit": 0},
        {"max_body": -1},
    ],
)
async def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HttpTrigger(Functions(), options=HttpOptions(**options))


# ---------------------------------------------------------------- robustness, log


@pytest.mark.parametrize("result", [{"body": object()}, {"body": float("nan")}, {"body": "\ud800"}])
async def test_what_goes_wrong_inside_is_a_500_and_logged(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = await serving(Functions(h=returns(result)), "h")
    answer = await ask(app, "GET", "/h")
    assert (answer.status, answer.json["error"]["code"]) == (500, "internal_error")
    assert any(record.exc_info for record in caplog.records)


async def test_a_body_that_no_message_can_carry_is_a_failure_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_payload: Any) -> Any:
        raise EncodeError("data.body: nested deeper than 127 levels")

    answer = await ask(await serving(Functions(h=refuse), "h"), "GET", "/h")
    assert (answer.status, answer.json["error"]["code"]) == (500, "invalid_payload")
    assert "nested deeper" in answer.json["error"]["message"]
    assert warnings(caplog) == []


async def test_a_client_that_left_before_its_response_raises_nothing() -> None:
    app = await serving(Functions(h=OK), "h")

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(_message: Any) -> None:
        raise OSError("connection reset")

    scope = {"type": "http", "method": "GET", "path": "/h", "raw_path": b"/h", "query_string": b"", "headers": []}
    with anyio.fail_after(20):
        await app(scope, receive, send)
    assert (await ask(app, "GET", "/h")).status == 200


async def test_each_request_has_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iii_anyio.devengine.http")
    app = await serving(Functions(h=OK), "h/:id")
    await ask(app, "GET", "/h/1?token=secret")
    await ask(app, "PUT", "/x")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert re.fullmatch(r"GET /h/1 200 \d+\.\d ms h", lines[0])
    assert re.fullmatch(r"PUT /x 404 \d+\.\d ms -", lines[1])


async def test_the_log_holds_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iii_anyio.devengine.http")
    app = await serving(Functions(h=OK), "h")
    await ask(app, "GET\x1b[2J", "/a\r\nGET /forged 200\x07\x9b" + "x" * 1000)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.isprintable()
    assert r"\r\n" in line
    assert len(line) < 700


async def test_a_websocket_is_refused() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await HttpTrigger(Functions())({"type": "websocket"}, receive, send)
    assert sent == ["websocket.close"]


async def test_the_lifespan_is_followed() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await HttpTrigger(Functions())({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
