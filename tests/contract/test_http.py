"""Functions behind ``http`` triggers, asked over real HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group

from iii_anyio import ApiRequest, ApiResponse, InvocationError, TriggerRegistrationError, Worker
from iii_anyio.devengine import GlobalMiddleware, HttpOptions
from tests.contract.targets import EngineUnderTest, Target, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(
    target: Target, http: bool | HttpOptions = True
) -> AsyncGenerator[tuple[EngineUnderTest, Worker, httpx.AsyncClient]]:
    """An engine that provides ``http`` triggers, a worker and an HTTP client."""
    async with target.open(http=http) as engine, engine.worker() as iii, engine.client() as client:
        await engine.needs_trigger_type(iii, "http")
        yield engine, iii, client


def bind(engine: EngineUnderTest, iii: Worker, name: str, path: str, method: str = "GET", **config: Any) -> Any:
    return iii.register_trigger("http", engine.id(name), {"api_path": path, "http_method": method, **config})


def echo(request: Any) -> Any:
    return {"body": request}


# -- the request -----------------------------------------------------------------------------------------------------


async def test_a_handler_gets_these_nine_keys_of_a_request(target: Target) -> None:
    """H-18, H-19, H-23, H-27, T-15, §12.6."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), echo)
        template = engine.path("users/:id/x")
        bind(engine, iii, "f", template, "POST")
        await iii.wait_ready()
        response = await client.post(f"/{engine.path('users/7/x')}?q=1", json={"z": 1})
        assert response.status_code == 200
        request = response.json()
        headers, reader, writer = (request.pop(key) for key in ("headers", "request_body", "response"))
        assert request == {
            "path_params": {"id": "7"},
            "query_params": {"q": "1"},
            "path": template,
            "method": "POST",
            "body": {"z": 1},
            "trigger": {"type": "http", "path": template, "method": "POST"},
        }
        assert headers["content-type"] == "application/json"
        for ref, direction in ((reader, "read"), (writer, "write")):
            assert ref.keys() == {"channel_id", "access_key", "direction"}
            assert ref["direction"] == direction
            assert all(isinstance(value, str) and value for value in ref.values())
        assert reader["channel_id"] != writer["channel_id"]


async def test_path_parameters_are_the_raw_segments(target: Target) -> None:
    """H-7, H-20."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: {"body": request["path_params"]})
        bind(engine, iii, "f", "/" + engine.path(":a/and/:b"))
        await iii.wait_ready()
        for sent in ("a%20b/and/c%2Fd", "%E6%9D%B1/and/%25", "A/and/b~c"):
            a, b = sent.split("/and/")
            response = await client.get(f"/{engine.path(sent)}")
            assert response.json() == {"a": a, "b": b}


async def test_query_parameters_are_decoded_and_the_last_of_a_name_counts(target: Target) -> None:
    """H-21."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: {"body": request["query_params"]})
        bind(engine, iii, "f", engine.path("q"))
        await iii.wait_ready()
        response = await client.get(f"/{engine.path('q')}?a=1&a=2&flag&e=+x%20y&%C3%BC=%E6%9D%B1&a[]=3")
        assert response.json() == {"a": "2", "flag": "", "e": " x y", "ü": "東", "a[]": "3"}


async def test_header_names_are_lower_case_and_the_last_of_a_name_counts(target: Target) -> None:
    """H-22."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: {"body": request["headers"]})
        bind(engine, iii, "f", engine.path("h"))
        await iii.wait_ready()
        headers = [(b"X-Some-Name", b"Value"), (b"X-Twice", b"1"), (b"x-twice", b"2"), (b"X-Bytes", "ü".encode())]
        response = await client.get(f"/{engine.path('h')}", headers=headers)
        seen = response.json()
        assert [name for name in seen if name != name.lower()] == []
        assert (seen["x-some-name"], seen["x-twice"], seen["x-bytes"]) == ("Value", "2", "")


BODIES = [
    ("application/json", b'{"b": [1, null], "a": "\xc3\xbc"}', {"a": "ü", "b": [1, None]}),
    ("application/json; charset=utf-8", b"5", 5),
    ("application/json", b"{bad", None),
    ("application/json", b"", None),
    ("Application/JSON", b"5", None),
    ("application/vnd.api+json", b"5", None),
    ("application/x-www-form-urlencoded", b"a=1", None),
    ("application/octet-stream", b"\x00\xff", None),
]


async def test_only_json_bodies_are_parsed(target: Target) -> None:
    """H-23, H-24, H-25."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: {"body": [request["body"]]})
        bind(engine, iii, "f", engine.path("b"), "POST")
        await iii.wait_ready()
        for content_type, content, body in BODIES:
            response = await client.post(
                f"/{engine.path('b')}", content=content, headers={"content-type": content_type}
            )
            assert (content_type, content, response.json()) == (content_type, content, [body])


async def test_trigger_metadata_arrives_beside_the_request(target: Target) -> None:
    """T-12, T-13."""
    async with serving(target) as (engine, iii, client):
        seen: list[Any] = []

        def check(_request: Any, metadata: Any) -> bool:
            seen.append(metadata)
            return True

        iii.register_function(engine.id("check"), check)
        iii.register_function(engine.id("f"), lambda request, metadata: {"body": [metadata, "metadata" in request]})
        config = {"api_path": engine.path("m"), "condition_function_id": engine.id("check")}
        iii.register_trigger("http", engine.id("f"), config, {"tenant": "acme"})
        await iii.wait_ready()
        response = await client.get(f"/{engine.path('m')}")
        assert response.json() == [{"tenant": "acme"}, False]
        assert seen == [None]


# -- the response ----------------------------------------------------------------------------------------------------

RESULTS: list[tuple[Any, int, str, bytes]] = [
    ({"status_code": 201, "body": {"b": 1, "a": "ü"}}, 201, "application/json", '{"a":"ü","b":1}'.encode()),
    ({"headers": {"Content-Type": "text/xml"}, "body": "<r/>"}, 200, "text/xml", b"<r/>"),
    ({"headers": {"Content-Type": "application/json"}, "body": "raw"}, 200, "application/json", b"raw"),
    ({"status_code": 404, "headers": {"X-Ok": "1"}, "body": "<p>"}, 404, "application/json", b'"<p>"'),
    ({"headers": {"content-type": "text/plain"}, "body": None}, 200, "text/plain", b""),
    ({"headers": {"content-type": "text/plain"}, "body": [1, 2]}, 200, "text/plain", b"[1,2]"),
    ({"message": "hi"}, 200, "application/json", b"{}"),
    ({"body": None}, 200, "application/json", b"null"),
    ({"status_code": 204}, 204, "application/json", b""),
    ({"status_code": "201", "body": 1}, 200, "application/json", b"1"),
    ({"status_code": 99, "body": 1}, 200, "application/json", b"1"),
    ("hello", 200, "application/json", b"{}"),
    (False, 200, "application/json", b"{}"),
    ([1], 200, "application/json", b"{}"),
]


async def test_results_become_responses_by_these_rules(target: Target) -> None:
    """H-37, H-38, H-39, H-40."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: RESULTS[int(request["path_params"]["n"])][0])
        bind(engine, iii, "f", engine.path(":n"))
        await iii.wait_ready()
        for number, (_, status, content_type, body) in enumerate(RESULTS):
            response = await client.get(f"/{engine.path(str(number))}")
            assert (number, response.status_code, response.content) == (number, status, body)
            if status != 204:
                assert response.headers["content-type"] == content_type


async def test_a_header_can_be_repeated_by_a_list_of_lines(target: Target) -> None:
    """H-39."""
    async with serving(target) as (engine, iii, client):
        answer = {"headers": ["Set-Cookie: a=1", "Set-Cookie: b=2", "no colon"], "body": 1}
        iii.register_function(engine.id("f"), lambda _request: answer)
        bind(engine, iii, "f", engine.path("l"))
        await iii.wait_ready()
        response = await client.get(f"/{engine.path('l')}")
        assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]


async def test_models_of_requests_and_responses_work_over_http(target: Target) -> None:
    """R-9, H-37."""
    async with serving(target) as (engine, iii, client):

        async def create(request: ApiRequest[dict[str, int]]) -> ApiResponse[str]:
            total = sum(request.body.values())
            return ApiResponse(status_code=202, body=f"{request.path_params['id']} {total}", headers={"x-a": "1"})

        iii.register_function(engine.id("create"), create)
        bind(engine, iii, "create", engine.path("models/:id"), "POST")
        await iii.wait_ready()
        url = f"/{engine.path('models/7')}"
        response = await client.post(url, json={"a": 1, "b": 2})
        assert (response.status_code, response.json(), response.headers["x-a"]) == (202, "7 3", "1")
        response = await client.post(url, json={"a": "much"})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_payload"


# -- errors ----------------------------------------------------------------------------------------------------------


async def test_paths_and_methods_that_nobody_serves_are_404_and_405(target: Target) -> None:
    """H-9, H-45, H-46, H-47."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), echo)
        bind(engine, iii, "f", engine.path("here/:id"))
        await iii.wait_ready()
        for path in (engine.path("nowhere"), engine.path("here/1/"), engine.path("HERE/1")):
            response = await client.get(f"/{path}")
            assert response.status_code == 404
            assert response.json() == {"error": {"code": "NOT_FOUND", "message": "Not Found"}}
        response = await client.post(f"/{engine.path('here/1')}")
        assert (response.status_code, response.content) == (405, b"")
        assert response.headers["allow"] == "GET,HEAD"
        response = await client.head(f"/{engine.path('here/1')}")
        assert response.status_code == 404


async def test_what_functions_fail_with_is_a_500_without_traceback(target: Target) -> None:
    """H-42, H-43, H-49, H-53, R-1."""
    async with serving(target) as (engine, iii, client):

        def fail(_request: Any) -> None:
            raise ValueError("boom!")

        def refuse(_request: Any) -> None:
            raise InvocationError("unknown_sku", "no gold")

        iii.register_function(engine.id("fail"), fail)
        iii.register_function(engine.id("refuse"), refuse)
        for name in ("fail", "refuse", "none"):
            bind(engine, iii, name, engine.path(name))
        await iii.wait_ready()
        for name, code, message in (
            ("fail", "invocation_failed", "boom!"),
            ("refuse", "unknown_sku", "no gold"),
            ("none", "function_not_found", None),
        ):
            response = await client.get(f"/{engine.path(name)}")
            assert response.status_code == 500
            error = response.json()["error"]
            assert error.keys() == {"code", "message", "error_id"}
            assert error["code"] == code
            assert message is None or error["message"] == message
            assert 0 < len(error["error_id"]) <= 12
            assert int(error["error_id"], 16) >= 0


async def test_a_worker_that_leaves_while_it_serves_is_a_500(target: Target) -> None:
    """H-48, P-123."""
    async with (
        target.open(http=True) as engine,
        engine.line() as line,
        engine.worker(line=line) as iii,
        engine.client() as client,
    ):
        await engine.needs_trigger_type(iii, "http")
        started, done = anyio.Event(), anyio.Event()

        async def hang(_request: Any) -> None:
            started.set()
            await done.wait()

        iii.register_function(engine.id("hang"), hang)
        bind(engine, iii, "hang", engine.path("hang"))
        await iii.wait_ready()
        async with create_task_group() as tasks:

            async def ask() -> None:
                response = await client.get(f"/{engine.path('hang')}")
                assert response.status_code == 500
                assert response.json()["error"]["code"] == "invocation_stopped"

            tasks.start_soon(ask)
            await started.wait()
            line.cut()
        done.set()


async def test_a_handler_that_takes_too_long_or_returns_nothing_is_an_empty_504(target: Target) -> None:
    """H-44, H-51, H-52."""
    async with serving(target, HttpOptions(default_timeout=0.1)) as (engine, iii, client):
        done, finished = anyio.Event(), anyio.Event()

        async def slow(_request: Any) -> dict[str, int]:
            await done.wait()
            finished.set()
            return {"body": 1}

        iii.register_function(engine.id("slow"), slow)
        iii.register_function(engine.id("nothing"), lambda _request: None)
        iii.register_function(engine.id("quick"), lambda _request: {"body": 1})
        for name in ("slow", "nothing", "quick"):
            bind(engine, iii, name, engine.path(name))
        await iii.wait_ready()
        for name in ("slow", "nothing"):
            response = await client.get(f"/{engine.path(name)}")
            assert (response.status_code, response.content) == (504, b"")
            assert "access-control-allow-origin" not in response.headers
        done.set()
        await finished.wait()
        assert (await client.get(f"/{engine.path('quick')}")).status_code == 200


async def test_a_connection_takes_further_requests_whatever_the_first_came_to(target: Target) -> None:
    """H-45, H-46, H-54, R-10."""
    async with serving(target) as (engine, iii, _client):
        iii.register_function(engine.id("f"), lambda request: {"body": request["method"]})
        bind(engine, iii, "f", engine.path("k"))
        await iii.wait_ready()
        asked = [("GET", "nowhere", 404), ("POST", "k", 405), ("OPTIONS", "k", 200), ("GET", "k", 200)]
        address = httpx.URL(engine.http_url)
        async with await anyio.connect_tcp(address.host, address.port or 80) as stream:
            for number, (method, path, _) in enumerate(asked):
                last = "Connection: close\r\n" if number == len(asked) - 1 else ""
                head = f"{method} /{engine.path(path)} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n{last}\r\n"
                await stream.send(head.encode())
            received = b"".join([chunk async for chunk in stream])
        answers = re.findall(rb"HTTP/1\.1 (\d+)", received)
        assert [int(status) for status in answers] == [status for _, _, status in asked]
        assert received.endswith(b'"GET"')


# -- conditions and middleware ---------------------------------------------------------------------------------------


async def test_only_a_false_of_the_condition_keeps_a_request_from_its_handler(target: Target) -> None:
    """H-41, H-42, T-16, T-17, T-18."""
    answers: dict[str, Any] = {"true": True, "null": None, "zero": 0, "text": "false", "empty": {}, "false": False}
    async with serving(target) as (engine, iii, client):
        seen: list[Any] = []

        def check(request: Any) -> Any:
            seen.append(request)
            return answers[request["query_params"]["answer"]]

        iii.register_function(engine.id("check"), check)
        iii.register_function(engine.id("f"), echo)
        bind(engine, iii, "f", engine.path("c"), condition_function_id=engine.id("check"))
        bind(engine, iii, "f", engine.path("none"), condition_function_id=engine.id("none"))
        await iii.wait_ready()
        for answer in answers:
            response = await client.get(f"/{engine.path('c')}", params={"answer": answer})
            assert (answer, response.status_code) == (answer, 422 if answer == "false" else 200)
        response = await client.get(f"/{engine.path('c')}", params={"answer": "false"})
        assert response.json() == {
            "error": {"code": "CONDITION_NOT_MET", "message": "Request condition not met"},
            "skipped": True,
        }
        assert seen[0].keys() == {"path_params", "query_params", "headers", "path", "method", "body", "trigger"}
        for path, code in (("c", "invocation_failed"), ("none", "function_not_found")):
            response = await client.get(f"/{engine.path(path)}")
            assert (response.status_code, response.json()["error"]["code"]) == (500, code)


async def test_middleware_may_answer_in_place_of_the_handler(target: Target) -> None:
    """H-29, H-30, H-31, H-32, H-33."""
    async with serving(target) as (engine, iii, client):
        seen: list[Any] = []
        reply = {"status_code": 418, "body": "no", "headers": {"X-A": "1"}}

        def first(data: Any) -> Any:
            seen.append(data)
            match data["request"]["query_params"].get("do"):
                case "respond":
                    return {"action": "respond", "response": reply}
                case "fail":
                    raise InvocationError("locked", "go away")
                case "nothing":
                    return None
                case _:
                    return {"action": "continue", "context": {"user": "ada"}}

        iii.register_function(engine.id("first"), first)
        iii.register_function(engine.id("second"), seen.append)
        iii.register_function(engine.id("f"), lambda _request: {"body": "handler"})
        ids = [engine.id("first"), engine.id("second")]
        bind(engine, iii, "f", engine.path("mw/:id"), middleware_function_ids=ids)
        bind(engine, iii, "f", engine.path("none"), middleware_function_ids=[engine.id("none")])
        await iii.wait_ready()
        url = f"/{engine.path('mw/7')}"

        async def ask(do: str) -> httpx.Response:
            seen.clear()
            return await client.get(url, params={"do": do})

        for do in ("continue", "nothing"):
            assert (await ask(do)).json() == "handler"
            assert seen[0] == seen[1]
            assert seen[0].pop("request").keys() == {"path_params", "query_params", "headers", "method"}
            assert seen[0] == {"phase": "preHandler", "context": {}}
        response = await ask("respond")
        assert (response.status_code, response.content, response.headers["x-a"]) == (418, b'"no"', "1")
        assert len(seen) == 1
        response = await ask("fail")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "locked")
        response = await client.get(f"/{engine.path('none')}")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "function_not_found")


async def test_condition_middleware_and_handler_run_in_this_order(target: Target) -> None:
    """H-15, H-16."""
    async with serving(target) as (engine, iii, client):
        order: list[str] = []
        for name in ("condition", "middleware", "handler"):

            def note(_data: Any, name: str = name) -> Any:
                order.append(name)
                return {"body": 1} if name == "handler" else None

            iii.register_function(engine.id(name), note, validate=False)
        config: dict[str, Any] = {
            "condition_function_id": engine.id("condition"),
            "middleware_function_ids": [engine.id("middleware")],
        }
        bind(engine, iii, "handler", engine.path("o"), **config)
        await iii.wait_ready()
        assert (await client.get(f"/{engine.path('o')}")).status_code == 200
        assert (await client.post(f"/{engine.path('o')}")).status_code == 405
        assert order == ["condition", "middleware", "handler"]


async def test_global_middleware_runs_first_by_priority_and_in_the_namespace_of_the_route(target: Target) -> None:
    """H-4, H-15, H-35."""
    middleware = [
        GlobalMiddleware("late", priority=5),
        GlobalMiddleware("early", priority=-1),
        GlobalMiddleware("never", phase="postHandler"),
        GlobalMiddleware("twin", priority=5),
    ]
    async with serving(target, HttpOptions(middleware=middleware)) as (engine, iii, client):
        order: list[str] = []
        for name in ("late", "early", "never", "twin", engine.id("condition"), engine.id("own"), engine.id("f")):

            def note(_data: Any, name: str = name) -> Any:
                order.append(name.rpartition("::")[2])
                return {"body": 1} if name == engine.id("f") else None

            iii.register_function(name, note, validate=False)
        config: dict[str, Any] = {
            "condition_function_id": engine.id("condition"),
            "middleware_function_ids": [engine.id("own")],
        }
        bind(engine, iii, "f", engine.path("o"), **config)
        async with engine.worker("blue", namespace=engine.id("blue")) as blue:
            blue.register_function(engine.id("f"), echo)
            bind(engine, blue, "f", engine.path("blue"))
            await iii.wait_ready()
            await blue.wait_ready()
            assert (await client.get(f"/{engine.path('o')}")).status_code == 200
            assert order == ["early", "late", "twin", "condition", "own", "f"]
            response = await client.get(f"/{engine.path('blue')}")
            assert (response.status_code, response.json()["error"]["code"]) == (500, "function_not_found")


# -- routes ----------------------------------------------------------------------------------------------------------


async def test_a_literal_segment_goes_before_a_parameter(target: Target) -> None:
    """H-7, H-8."""
    async with serving(target) as (engine, iii, client):
        for name, path in (("any", "p/:id"), ("me", "p/me")):
            iii.register_function(engine.id(name), lambda _request, name=name: {"body": name})
            bind(engine, iii, name, engine.path(path))
        await iii.wait_ready()
        assert (await client.get(f"/{engine.path('p/me')}")).json() == "me"
        assert (await client.get(f"/{engine.path('p/you')}")).json() == "any"


async def test_methods_of_one_path_are_routes_of_their_own(target: Target) -> None:
    """H-10, H-27; the default is GET and letters may be small."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: {"body": request["method"]})
        path = engine.path("m")
        iii.register_trigger("http", engine.id("f"), {"api_path": path})
        for method in ("post", "PUT", "Delete", "PATCH"):
            bind(engine, iii, "f", path, method)
        await iii.wait_ready()
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            assert (await client.request(method, f"/{path}")).json() == method


async def test_a_route_of_other_parameter_names_is_a_conflict(target: Target) -> None:
    """H-13, T-2; the first goes on."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda request: {"body": request["path_params"]})
        bind(engine, iii, "f", engine.path("c/:a/:b"))
        await iii.wait_ready()
        refused = bind(engine, iii, "f", engine.path("c/:b/:a"))
        with pytest.raises(TriggerRegistrationError) as caught:
            await iii.wait_ready()
        assert caught.value.code == "trigger_registration_failed"
        assert "conflicts with already-registered route" in caught.value.message
        assert caught.value.trigger_id == refused.id
        assert (await client.get(f"/{engine.path('c/1/2')}")).json() == {"a": "1", "b": "2"}


async def test_a_trigger_without_path_is_refused(target: Target) -> None:
    """H-5, T-2, T-8."""
    async with serving(target) as (engine, iii, _client):
        trigger = iii.register_trigger("http", engine.id("f"), {"http_method": "GET"})
        with pytest.raises(TriggerRegistrationError) as caught:
            await iii.wait_ready()
        assert (caught.value.code, caught.value.trigger_id) == ("trigger_registration_failed", trigger.id)
        with pytest.raises(InvocationError) as answered:
            wanted = {"trigger_type": "http", "function_id": engine.id("f"), "config": {}}
            await iii.trigger_async("engine::register_trigger", wanted)
        assert (answered.value.code, answered.value.message) == (caught.value.code, caught.value.message)


async def test_the_later_of_two_equal_routes_serves_until_it_is_taken_back(target: Target) -> None:
    """H-10, H-11, P-128."""
    async with serving(target) as (engine, iii, client):
        for name in ("first", "second"):
            iii.register_function(engine.id(name), lambda _request, name=name: {"body": name})
        path = engine.path("same")
        first = bind(engine, iii, "first", path)
        await iii.wait_ready()
        second = bind(engine, iii, "second", path)
        await iii.wait_ready()
        assert (await client.get(f"/{path}")).json() == "second"
        first.unregister()
        third = bind(engine, iii, "first", engine.path("other"))
        await iii.wait_ready()  # so the loser's withdrawal has been handled
        assert (await client.get(f"/{path}")).json() == "second"
        second.unregister()
        third.unregister()

        async def is_gone() -> bool:
            return (await client.get(f"/{path}")).status_code == 404

        await until(is_gone)


async def test_the_routes_of_a_worker_go_with_it(target: Target) -> None:
    """T-7, P-128."""
    async with serving(target) as (engine, _iii, client):
        path = engine.path("leaves")
        async with engine.worker("leaves") as leaving:
            leaving.register_function(engine.id("f"), echo)
            bind(engine, leaving, "f", path)
            await leaving.wait_ready()
            assert (await client.get(f"/{path}")).status_code == 200

        async def is_gone() -> bool:
            return (await client.get(f"/{path}")).status_code == 404

        await until(is_gone)


async def test_a_route_made_by_function_serves_until_it_is_removed(target: Target) -> None:
    """T-7, T-8, P-130."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), lambda _request: {"body": "durable"})
        await iii.wait_ready()
        path = engine.path("durable")
        async with engine.worker("maker") as maker:
            wanted = {"trigger_type": "http", "function_id": engine.id("f"), "config": {"api_path": path}}
            trigger_id = (await maker.trigger_async("engine::register_trigger", wanted))["id"]
        assert (await client.get(f"/{path}")).json() == "durable"
        removed = await iii.trigger_async("engine::unregister_trigger", {"id": trigger_id})
        assert removed == {"removed": True}

        async def is_gone() -> bool:
            return (await client.get(f"/{path}")).status_code == 404

        await until(is_gone)


async def test_a_route_calls_the_namespace_of_its_worker(target: Target) -> None:
    """T-10, P-21."""
    async with (
        serving(target) as (engine, plain, client),
        engine.worker("blue", namespace=engine.id("blue")) as blue,
    ):
        for iii, name in ((blue, "blue"), (plain, "plain")):
            iii.register_function(engine.id("f"), lambda _request, name=name: {"body": name})
            iii.register_function(engine.id(f"only-{name}"), lambda _data: True)
            await iii.wait_ready()
        bind(engine, blue, "f", engine.path("blue"), condition_function_id=engine.id("only-blue"))
        bind(engine, plain, "f", engine.path("plain"), condition_function_id=engine.id("only-plain"))
        bind(engine, blue, "f", engine.path("mixed"), middleware_function_ids=[engine.id("only-plain")])
        await blue.wait_ready()
        await plain.wait_ready()
        for name in ("blue", "plain"):
            assert (await client.get(f"/{engine.path(name)}")).json() == name
        response = await client.get(f"/{engine.path('mixed')}")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "function_not_found")


# -- CORS ------------------------------------------------------------------------------------------------------------


async def test_options_requests_are_answered_before_any_route(target: Target) -> None:
    """H-54, H-55: on an engine that was told nothing about CORS."""
    async with serving(target) as (engine, iii, client):
        iii.register_function(engine.id("f"), echo)
        bind(engine, iii, "f", engine.path("o"), "OPTIONS")
        bind(engine, iii, "f", engine.path("o"))
        await iii.wait_ready()
        for path in ("o", "nowhere"):
            response = await client.options(f"/{engine.path(path)}")
            assert (response.status_code, response.content) == (200, b"")
            for name in ("origin", "methods", "headers"):
                assert response.headers[f"access-control-allow-{name}"] == "*"
        for path in ("o", "nowhere"):
            response = await client.get(f"/{engine.path(path)}")
            assert response.headers["access-control-allow-origin"] == "*"


# -- many at once ----------------------------------------------------------------------------------------------------


async def test_requests_are_served_at_the_same_time(target: Target) -> None:
    """P-41, H-50."""
    async with serving(target) as (engine, iii, client):
        running, all_running = 0, anyio.Event()

        async def together(request: Any) -> Any:
            nonlocal running
            running += 1
            if running == 20:
                all_running.set()
            await all_running.wait()
            return {"body": request["path_params"]["n"]}

        iii.register_function(engine.id("f"), together)
        bind(engine, iii, "f", engine.path(":n"))
        await iii.wait_ready()
        answers: list[str] = []

        async def ask(number: int) -> None:
            answers.append(json.loads((await client.get(f"/{engine.path(str(number))}")).content))

        async with create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
        assert sorted(answers, key=int) == [str(number) for number in range(20)]
