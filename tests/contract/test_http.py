"""What functions behind ``http`` triggers get, and what comes of their results, over real HTTP."""

from __future__ import annotations

import re
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from iii_anyio import ApiRequest, ApiResponse, InvocationError
from iii_anyio.devengine import HttpOptions
from tests.contract.http_serving import bind, echo, serving
from tests.contract.targets import Target
from tests.timing import pass_time

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("anyio_backend", ["held"], indirect=True)
async def test_a_handler_that_takes_too_long_or_returns_nothing_is_an_empty_504(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """H-44, H-51, H-52."""
    async with serving(target, HttpOptions(default_timeout=2)) as (engine, iii, client):
        called, done, finished = anyio.Event(), anyio.Event(), anyio.Event()

        async def slow(_request: Any) -> dict[str, int]:
            called.set()
            await done.wait()
            finished.set()
            return {"body": 1}

        iii.register_function(engine.id("slow"), slow)
        iii.register_function(engine.id("nothing"), lambda _request: None)
        iii.register_function(engine.id("quick"), lambda _request: {"body": 1})
        for name in ("slow", "nothing", "quick"):
            bind(engine, iii, name, engine.path(name))
        await iii.wait_ready()

        async def wait(name: str) -> None:
            if name == "slow":
                await called.wait()
            else:
                while f"{engine.id(name)} returned None" not in caplog.text:
                    await checkpoint()
            pass_time(2)

        for name in ("slow", "nothing"):
            async with create_task_group() as tasks:
                tasks.start_soon(wait, name)
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
