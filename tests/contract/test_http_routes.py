"""Which function an HTTP request comes to, and what may come before it."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group

from iii_anyio import InvocationError, TriggerRegistrationError
from iii_anyio.devengine import GlobalMiddleware, HttpOptions
from tests.contract.http_serving import bind, echo, serving
from tests.contract.targets import Target, until

pytestmark = pytest.mark.anyio


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
