"""Calls of a worker's own functions that stay in its process (§17, A.11; A-50, P-67, P-68)."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, to_thread
from pydantic import BaseModel

from iii_anyio import (
    InvocationError,
    Limits,
    TriggerAction,
    TriggerRequest,
    Worker,
    WorkerStateError,
    current_invocation,
)
from iii_anyio.http import HttpInvocationConfig
from tests.api.scripted import ScriptedEngine, native, portal

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    sku: str
    count: int = 1


async def echo(data: Any) -> Any:
    return data


async def serving(iii: Worker, engine: ScriptedEngine, *functions: Any, **options: Any) -> None:
    """Register these functions under their names, and wait until the engine has confirmed them."""
    for function in functions:
        iii.register_function(function.__name__, function, **options)
    await iii.wait_ready()
    await engine.wait("registerfunction", len(functions))
    await iii.trigger_async("fence")


def make_engine(**fields: Any) -> ScriptedEngine:
    engine = ScriptedEngine(**fields)
    engine.answers["fence"] = lambda call: {"result": None}
    return engine


def remote_calls(engine: ScriptedEngine) -> list[str]:
    return [call["function_id"] for call in engine.calls() if call["function_id"] != "fence"]


# -- when a call stays here ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dict", "model", "keywords"])
async def test_a_confirmed_function_is_called_without_the_wire(form: str) -> None:
    """P-68."""
    engine = make_engine()
    async with native(engine) as iii:
        await serving(iii, engine, echo)
        before = len(engine.received)
        match form:
            case "dict":
                result = await iii.trigger_async({"function_id": "echo", "payload": {"a": 1}})
            case "model":
                result = await iii.trigger_async(TriggerRequest(function_id="echo", payload={"a": 1}))
            case _:
                result = await iii.trigger_async("echo", {"a": 1})
        assert result == {"a": 1}
        await iii.trigger_async("fence")
        assert [message["function_id"] for message in engine.received[before:]] == ["fence"]


async def test_what_is_not_confirmed_or_not_wanted_goes_through_the_engine() -> None:
    """P-67: permission of the engine, of the function, of the call; action; namespace; a handler."""
    engine = make_engine()
    for name in ("echo", "shy", "denied", "outside"):
        engine.answers[name] = lambda call: {"result": "remote"}
    async with native(engine) as iii:
        iii.register_function("shy", echo, local_dispatch=False)
        iii.register_function("outside", HttpInvocationConfig(url="http://127.0.0.1:9/"))
        engine.local = False
        iii.register_function("denied", echo)
        await engine.wait("registerfunction", id="denied")
        engine.local = True
        await serving(iii, engine, echo)
        for request in (
            {"function_id": "shy"},
            {"function_id": "denied"},
            {"function_id": "outside"},
            {"function_id": "echo", "dispatch": "remote"},
            {"function_id": "echo", "namespace": "elsewhere"},
            {"function_id": "echo", "action": TriggerAction.Enqueue(queue="q")},
        ):
            assert await iii.trigger_async(request) == "remote"
        assert await iii.trigger_async("echo", 1, dispatch="remote") == "remote"
        assert await iii.trigger_async(TriggerRequest(function_id="echo", dispatch="remote")) == "remote"
        assert await iii.trigger_async({"function_id": "echo", "payload": "x", "namespace": "default"}) == "x"
        assert await iii.trigger_async({"function_id": "echo", "payload": "x", "dispatch": "auto"}) == "x"
        with pytest.raises(ValueError, match="dispatch must be 'auto' or 'remote'"):
            await iii.trigger_async({"function_id": "echo", "dispatch": "here"})


async def test_the_namespace_is_the_one_the_engine_has_confirmed() -> None:
    engine = make_engine()
    engine.confirms = False
    engine.answers["echo"] = lambda call: {"result": "remote"}
    async with native(engine, namespace="orders") as iii:
        iii.register_function("echo", echo)
        await iii.wait_ready()
        engine.confirm("echo", namespace="default")
        await iii.trigger_async("fence")
        assert await iii.trigger_async("echo", 1) == "remote"
        engine.confirm("echo", namespace="orders")
        await iii.trigger_async("fence")
        assert await iii.trigger_async("echo", 1) == 1


async def test_local_calls_go_on_without_a_connection_and_end_with_the_function() -> None:
    """§17: permission survives a disconnect; a conflict or unregister ends it."""
    engine = make_engine()
    async with native(engine) as iii:
        function = iii.register_function("echo", echo)
        iii.register_function("taken", echo)
        await iii.wait_ready()
        await iii.trigger_async("fence")
        engine.say("registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT", function_id="taken", namespace="default")
        await iii.trigger_async("fence")
        await engine.leave(iii)
        assert await iii.trigger_async("echo", 1) == 1
        with pytest.raises(InvocationError, match="TIMEOUT: no connection"):
            await iii.trigger_async("taken", 1, timeout_ms=1)
        function.unregister()
        with pytest.raises(InvocationError, match="TIMEOUT: no connection"):
            await iii.trigger_async("echo", 1, timeout_ms=1)


async def test_the_65th_nested_call_goes_through_the_engine() -> None:
    engine = make_engine()
    engine.answers["down"] = lambda call: {"result": call["data"]}

    async def down(data: int) -> int:
        return int(await iii.trigger_async("down", data + 1))

    async with native(engine) as iii:
        await serving(iii, engine, down)
        assert await iii.trigger_async("down", 0) == 64
        assert remote_calls(engine) == ["down"]


# -- what passes -----------------------------------------------------------------------------------------------------


async def test_both_sides_have_their_own_copy_and_see_what_they_would_see_remotely() -> None:
    """A.25, 12: no difference between a local and a remote call."""
    engine = make_engine()
    kept: list[Any] = []

    async def keep(data: Any, metadata: Any = None) -> Any:
        kept.append((data, metadata))
        data["seen"] = True
        return Order(sku=data["sku"])

    payload, metadata = {"sku": "A", "when": datetime(2026, 1, 1, tzinfo=UTC), "pair": (1, 2)}, {"tenant": "x"}
    async with native(engine) as iii:
        await serving(iii, engine, keep)
        result = await iii.trigger_async("keep", payload, metadata=metadata)
    assert result == {"sku": "A", "count": 1}
    assert "seen" not in payload
    assert kept == [({"sku": "A", "when": "2026-01-01T00:00:00Z", "pair": [1, 2], "seen": True}, {"tenant": "x"})]
    assert kept[0][1] is not metadata


async def test_models_go_in_and_come_out_as_remotely() -> None:
    engine = make_engine()

    async def double(order: Order) -> Order:
        return Order(sku=order.sku, count=order.count * 2)

    async with native(engine) as iii:
        await serving(iii, engine, double)
        assert await iii.trigger_async("double", Order(sku="A", count=2)) == {"sku": "A", "count": 4}
        with pytest.raises(InvocationError, match="invalid_payload"):
            await iii.trigger_async("double", {"count": "x"})
        with pytest.raises(TypeError, match=r"data\.x is nan"):
            await iii.trigger_async("double", {"x": float("nan")})
    assert remote_calls(engine) == []


async def test_there_is_no_limit_of_size() -> None:
    """§17."""
    engine = make_engine()

    async def size(data: str) -> int:
        return len(data)

    async with native(engine) as iii:
        await serving(iii, engine, size)
        assert await iii.trigger_async("size", "x" * (65 * 1024 * 1024)) == 65 * 1024 * 1024


async def test_errors_are_those_of_a_remote_call_and_name_their_cause() -> None:
    engine = make_engine()

    async def fail(data: str) -> Any:
        if data == "coded":
            raise InvocationError("OUT_OF_STOCK", "none left")
        if data == "unsendable":
            return {"x": object()}
        raise {"value": ValueError, "exit": SystemExit}[data]("no")

    async with native(engine) as iii:
        await serving(iii, engine, fail)
        for data, code, cause in (
            ("value", "invocation_failed", ValueError),
            ("exit", "invocation_failed", SystemExit),
            ("coded", "OUT_OF_STOCK", InvocationError),
            ("unsendable", "invocation_failed", TypeError),
        ):
            with pytest.raises(InvocationError) as raised:
                await iii.trigger_async("fail", data)
            assert raised.value.code == code
            assert raised.value.function_id == "fail"
            assert isinstance(raised.value.__cause__, cause)
        assert await iii.trigger_async("fence") is None
    assert remote_calls(engine) == []


async def test_a_void_call_returns_at_once_and_its_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine()
    begun, proceed = anyio.Event(), anyio.Event()

    async def slow(data: Any) -> None:
        begun.set()
        await proceed.wait()
        raise ValueError("too late to say")

    async with native(engine) as iii:
        await serving(iii, engine, slow)
        assert await iii.trigger_async("slow", action=TriggerAction.Void()) is None
        await begun.wait()
        proceed.set()
    assert "a void call of 'slow' failed: invocation_failed: too late to say" in caplog.text
    assert remote_calls(engine) == []


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_timeout_leaves_the_handler_running_and_it_is_counted() -> None:
    """§17, §16.8."""
    engine = make_engine()
    ended = anyio.Event()

    async def slow(data: Any) -> None:
        await anyio.sleep(1)
        ended.set()

    async with native(engine, patience=None) as iii:
        await serving(iii, engine, slow)
        with pytest.raises(InvocationError, match=r"TIMEOUT: no answer within 0\.01 s"):
            await iii.trigger_async("slow", timeout_ms=10)
        assert not ended.is_set()
        await ended.wait()
        await anyio.sleep(10)
        stats = await engine.wait("localinvocationstats")
    assert [(entry["function_id"], entry["count"], entry["errors"]) for entry in stats["functions"]] == [("slow", 1, 0)]
    assert stats["dropped_reports"] == []


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_counts_go_out_every_ten_seconds_if_there_are_any() -> None:
    """§16.8: and what could not be sent goes into the next."""
    engine = make_engine()

    async def fail(data: Any) -> None:
        raise ValueError

    async with native(engine, patience=None) as iii:
        await serving(iii, engine, echo, fail)
        await anyio.sleep(25)
        assert engine.got("localinvocationstats") == []
        await iii.trigger_async("echo")
        await iii.trigger_async("echo")
        with pytest.raises(InvocationError):
            await iii.trigger_async("fail")
        await anyio.sleep(9.9)
        assert engine.got("localinvocationstats") == []
        await anyio.sleep(0.2)
        stats = await engine.wait("localinvocationstats")
        assert stats["window_ms"] == 10_000
        counted = {entry["function_id"]: (entry["count"], entry["errors"]) for entry in stats["functions"]}
        assert counted == {"echo": (2, 0), "fail": (1, 1)}
        assert all(entry["duration_ms_sum"] >= 0 for entry in stats["functions"])
        await anyio.sleep(30)
        assert len(engine.got("localinvocationstats")) == 1
        await iii.trigger_async("echo")
    assert len(engine.got("localinvocationstats")) == 2  # the last ones at the end (§6.8)


async def test_a_caller_that_is_cancelled_leaves_the_handler_running() -> None:
    engine = make_engine()
    begun, proceed, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def slow(data: Any) -> None:
        begun.set()
        await proceed.wait()
        ended.set()

    async with native(engine) as iii:
        await serving(iii, engine, slow)
        async with create_task_group() as tasks:
            tasks.start_soon(iii.trigger_async, "slow")
            await begun.wait()
            tasks.cancel_scope.cancel()
        proceed.set()
        with fail_after(20):
            await ended.wait()


async def test_the_shutdown_waits_for_local_calls_and_lets_handlers_make_them() -> None:
    engine = make_engine()
    begun, proceed = anyio.Event(), anyio.Event()
    results: list[Any] = []

    async def slow(data: Any) -> Any:
        begun.set()
        await proceed.wait()
        return await iii.trigger_async("echo", "nested")

    async with native(engine) as iii:
        await serving(iii, engine, echo, slow)

        async def call() -> None:
            results.append(await iii.trigger_async("slow"))

        async with create_task_group() as tasks:
            tasks.start_soon(call)
            await begun.wait()
            tasks.start_soon(iii.shutdown_async)
            await anyio.wait_all_tasks_blocked()
            proceed.set()
    assert results == ["nested"]


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_limits_and_backlog_hold_for_local_calls() -> None:
    engine = make_engine()
    proceed = anyio.Event()

    async def slow(data: Any) -> int:
        await proceed.wait()
        return int(data)

    async with native(engine, limits=Limits(backlog=1)) as iii:
        await serving(iii, engine, slow, concurrency=1)
        results: list[int] = []

        async def call(number: int) -> None:
            results.append(await iii.trigger_async("slow", number))

        async with create_task_group() as tasks:
            for number in (1, 2):
                tasks.start_soon(call, number)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(InvocationError, match="worker_overloaded"):
                await iii.trigger_async("slow", 3)
            await engine.leave(iii)  # what waits needs no link
            proceed.set()
        assert sorted(results) == [1, 2]


@pytest.mark.parametrize("is_sync", [False, True])
async def test_nested_local_calls_do_not_use_up_all_places(is_sync: bool) -> None:
    engine = make_engine()

    async def nest(data: int) -> int:
        return int(await iii.trigger_async("nest", data - 1)) + 1 if data else 0

    def nest_sync(data: int) -> int:
        return int(iii.trigger("nest_sync", data - 1)) + 1 if data else 0

    async with native(engine, limits=Limits(max_concurrency=2, max_threads=2)) as iii:
        await serving(iii, engine, nest, nest_sync)
        assert await iii.trigger_async("nest_sync" if is_sync else "nest", 10) == 10
    assert remote_calls(engine) == []


# -- where it may be called ------------------------------------------------------------------------------------------


async def test_threads_and_foreign_loops_call_locally() -> None:
    engine = make_engine()
    where: list[int] = []

    async def here(data: Any) -> Any:
        where.append(threading.get_ident())
        return data

    async with native(engine) as iii:
        await serving(iii, engine, here)
        assert await to_thread.run_sync(lambda: iii.trigger("here", 1)) == 1
        assert await to_thread.run_sync(lambda: iii.trigger("here", 2, action=TriggerAction.Void())) is None
        for backend in ("asyncio", "trio"):
            result = await to_thread.run_sync(
                lambda name: anyio.run(iii.trigger_async, "here", 3, backend=name), backend
            )
            assert result == 3
        with pytest.raises(WorkerStateError, match="trigger_async"):
            iii.trigger("here")
        assert set(where) == {threading.get_ident()}
    assert remote_calls(engine) == []


def test_a_portal_worker_calls_locally_from_its_program_and_its_handlers() -> None:
    engine = make_engine()

    def outer(data: Any) -> Any:
        return iii.trigger("inner", {"n": data}) | {"outer": current_invocation() is not None}

    async def inner(data: Any) -> Any:
        context = current_invocation()
        assert context is not None
        return {"caller": context.caller}

    with portal(engine) as iii:
        iii.register_function("outer", outer)
        iii.register_function("inner", inner)
        iii.wait_ready(30)
        iii.trigger("fence")
        result = iii.trigger("outer", 1)
        assert result["outer"]
        assert result["caller"]["function_id"] == "outer"
    assert remote_calls(engine) == []


# -- what a handler knows --------------------------------------------------------------------------------------------


async def test_the_caller_of_a_local_call_is_this_worker_and_the_calling_handler() -> None:
    engine = make_engine()
    seen: dict[str, Any] = {}

    async def outer(data: Any) -> None:
        seen["outer"] = current_invocation()
        await iii.trigger_async("inner")

    async def inner(data: Any) -> None:
        seen["inner"] = current_invocation()

    async with native(engine) as iii:
        await serving(iii, engine, outer, inner)
        await iii.trigger_async("outer")
        me = {"worker_id": "w-1", "worker_name": "w"}
        assert seen["outer"].caller == me
        assert seen["inner"].caller == me | {
            "function_id": "outer", "invocation_id": seen["outer"].invocation_id, "parent": me
        }  # fmt: skip
        assert (seen["inner"].observe_depth, seen["inner"].activation) == (0, None)
        invocation_id = engine.invoke("outer", {}, caller={"worker_name": "far"}, observe_depth=4)
        await engine.wait("invocationresult", invocation_id=invocation_id)
        assert seen["inner"].observe_depth == 4
        assert seen["inner"].caller["parent"] == {"worker_name": "far"}
