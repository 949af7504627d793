"""State of the embedded engine: what it can be told, what outlives it, and our typed helper on top of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio import Event, create_task_group, fail_after, to_thread, wait_all_tasks_blocked
from anyio.abc import TaskStatus
from pydantic import BaseModel

from iii_anyio import InvocationError, Worker, get_context, open_worker
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine._tracing import new_traceparent, traced
from iii_anyio.devengine.builtins._fan_out import Binding, FanOut
from iii_anyio.state import State, StateEventData
from iii_anyio.stream import UpdateIncrement, UpdateMerge
from tests.contract.targets import until
from tests.heard import Heard

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(**options: Any) -> AsyncGenerator[Worker]:
    """A worker on an engine of its own."""
    with fail_after(20):
        async with open_engine(port=None, **options) as engine, open_worker(connector=engine.connector()) as iii:
            yield iii


async def write(iii: Worker, key: str, value: Any, scope: str = "s") -> Any:
    return await iii.trigger_async("state::set", {"scope": scope, "key": key, "value": value})


class Order(BaseModel):
    customer: str
    n: int = 0


# -- our helper ------------------------------------------------------------------------------------------------------


async def test_the_typed_helper_does_what_it_says_on_a_real_engine() -> None:
    """ST-1, ST-2, ST-5, ST-8."""
    async with running() as iii:
        state = State(iii)
        ada = Order(customer="Ada")
        first = await state.set_async("orders", "a", ada, model=Order)
        assert (first.old_value, first.new_value) == (None, ada)
        assert await state.get_async("orders", "a", model=Order) == ada
        assert await state.get_async("orders", "none", model=Order) is None
        updated = await state.update_async(
            "orders",
            "a",
            [UpdateIncrement(path="n", by=2), UpdateIncrement(path="customer", by=1), UpdateMerge(value={"x": 1})],
            model=Order,
        )
        assert updated.new_value == Order(customer="Ada", n=2)
        assert [(error.op_index, error.code) for error in updated.errors] == [(1, "increment.not_number")]
        assert await state.list_async("orders", model=Order) == [Order(customer="Ada", n=2)]
        assert await state.list_groups_async() == ["orders"]
        assert await state.delete_async("orders", "a", model=Order) == Order(customer="Ada", n=2)
        assert await state.delete_async("orders", "a") is None


async def test_the_typed_helper_blocks_threads() -> None:
    async with running() as iii:
        state = State(iii)

        def use() -> Any:
            state.set("s", "k", {"n": 1})
            state.update("s", "k", [{"type": "increment", "path": "n", "by": 1}])
            return state.get("s", "k"), state.list("s"), state.list_groups(), state.delete("s", "k")

        assert await to_thread.run_sync(use) == ({"n": 2}, [{"n": 2}], ["s"], {"n": 2})


async def test_an_event_is_what_its_model_says() -> None:
    """ST-10."""
    async with running() as iii:
        heard = Heard()
        iii.register_function("f", heard.hear)
        iii.register_trigger("state", "f", {"scope": "s"})
        await iii.wait_ready()
        await write(iii, "k", {"customer": "Ada"})
        event = StateEventData[Order].model_validate(await heard.take())
        assert (event.type, event.event_type, event.scope, event.key) == ("state", "state:created", "s", "k")
        assert (event.old_value, event.new_value) == (None, Order(customer="Ada"))


async def test_the_trace_of_a_write_goes_on_in_its_handlers() -> None:
    async with running() as iii:
        traceparent = new_traceparent()
        traces: list[str] = []
        called = Event()

        async def handler(_event: Any) -> None:
            traces.append((get_context().trace or "").split("-")[1])
            called.set()

        async def writer(_data: Any) -> None:
            traces.append((get_context().trace or "").split("-")[1])
            await write(iii, "k", 1)

        iii.register_function("f", handler)
        iii.register_function("writer", writer)
        iii.register_trigger("state", "f", {})
        await iii.wait_ready()
        with traced(iii, traceparent):
            await iii.trigger_async("writer")
        await called.wait()
        assert traces == [traceparent.split("-")[1]] * 2


# -- configuration ---------------------------------------------------------------------------------------------------


async def test_a_value_that_is_too_large_is_refused_and_nothing_happens() -> None:
    """ST-9: compact JSON counts; updates are not limited."""
    async with running(workers={"iii-state": {"max_value_bytes": 7}}) as iii:
        heard = Heard()
        iii.register_function("f", heard.hear)
        iii.register_trigger("state", "f", {})
        await iii.wait_ready()
        await write(iii, "k", [1, 2, 3])
        with pytest.raises(InvocationError, match="max_value_bytes allows 7") as caught:
            await write(iii, "k", "ü" * 3)
        assert caught.value.code == "VALUE_TOO_LARGE"
        ops = [{"type": "append", "value": "much longer"}]
        await iii.trigger_async("state::update", {"scope": "s", "key": "k", "ops": ops})
        events = sorted([event["event_type"] for event in await heard.take_all(2)])
        assert events == ["state:created", "state:updated"]
        assert not heard.has_more


async def test_triggers_can_be_switched_off_and_on_while_the_engine_runs() -> None:
    """ST-14, CF-14."""
    async with running(workers={"iii-state": {"triggers_enabled": False}}) as iii:
        heard = Heard()
        iii.register_function("f", heard.hear)
        iii.register_trigger("state", "f", {})
        await iii.wait_ready()
        await write(iii, "off", 1)
        read = await iii.trigger_async("configuration::get", {"id": "iii-state"})
        assert read == {"id": "iii-state", "value": {"triggers_enabled": False}}
        await iii.trigger_async("configuration::set", {"id": "iii-state", "value": {"triggers_enabled": True}})

        async def is_on() -> bool:
            await write(iii, "on", 1)
            return heard.has_more

        await until(is_on)
        assert (await heard.take())["key"] == "on"


async def test_a_configuration_that_is_not_allowed_keeps_the_one_before() -> None:
    """CF-3, CF-14."""
    async with running(workers={"iii-state": {"max_value_bytes": 3}}) as iii:
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async("configuration::set", {"id": "iii-state", "value": {"max_value_bytes": 0}})
        assert caught.value.code == "SCHEMA_INVALID"
        with pytest.raises(InvocationError, match="max_value_bytes allows 3"):
            await write(iii, "k", "long")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"triggers_enabled": "no"}, "iii-state: triggers_enabled must be true or false"),
        ({"max_value_bytes": 0}, "iii-state: max_value_bytes must be an integer from 1"),
        ({"save_interval_ms": 99}, "iii-state: save_interval_ms must be an integer from 100 to 3600000"),
        ({"adapter": {"name": "mongo"}}, "iii-state: adapter.name must be 'kv'"),
    ],
)
async def test_a_wrong_configuration_is_named_at_the_start(config: dict[str, Any], message: str) -> None:
    """§2.4."""
    with pytest.raises(ValueError, match=message):
        async with running(workers={"iii-state": config}):
            pytest.fail("it started")


async def test_what_the_configuration_asks_for_in_vain_is_told(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """§2.4."""
    files = {"adapter": {"name": "kv", "config": {"store_method": "file_based"}}}
    with caplog.at_level(logging.WARNING, "iii_anyio.devengine"):
        async with running(workers={"iii-state": files}, data=tmp_path):
            assert "--data" not in caplog.text
        async with running(workers={"iii-state": files | {"max_bytes": 1}}):
            pass
    assert "unknown key 'max_bytes'" in caplog.text
    assert "--data" in caplog.text


async def test_the_watch_of_the_configuration_is_hidden_as_a_function() -> None:
    """E-1, E-3, CF-14."""
    async with running() as iii:
        listed = await iii.trigger_async("engine::functions::list", {"worker": "iii-state"})
        functions = [row["function_id"] for row in listed["functions"]]
        assert functions == [f"state::{name}" for name in ("delete", "get", "list", "list_groups", "set", "update")]
        query = {"worker": "iii-state", "include_internal": True}
        listed = await iii.trigger_async("engine::functions::list", query)
        assert "iii-state::on-config-change" in [row["function_id"] for row in listed["functions"]]
        triggers = await iii.trigger_async("engine::registered-triggers::list", {"worker": "iii-state"})
        assert [row["config"] for row in triggers["registered_triggers"]] == [{"configuration_id": "iii-state"}]


# -- a data directory ------------------------------------------------------------------------------------------------


async def test_state_outlives_the_engine_in_its_order(tmp_path: Path) -> None:
    """ST-5, ST-6."""
    async with running(data=tmp_path) as iii:
        for key in ("b", "a", "c"):
            await write(iii, key, {"key": key})
        await write(iii, "gone", 1, scope="emptied")
        await iii.trigger_async("state::delete", {"scope": "emptied", "key": "gone"})
        await iii.trigger_async("state::delete", {"scope": "s", "key": "b"})
        await write(iii, "b", None)
        assert (await iii.trigger_async("state::list_groups", {}))["groups"] == ["emptied", "s"]
    async with running(data=tmp_path) as iii:
        assert await iii.trigger_async("state::list", {"scope": "s"}) == [{"key": "a"}, {"key": "c"}, None]
        assert (await iii.trigger_async("state::list_groups", {}))["groups"] == ["s"]


async def test_state_does_not_outlive_the_engine_without_a_directory() -> None:
    for _ in range(2):
        async with running() as iii:
            assert await iii.trigger_async("state::list_groups", {}) == {"groups": []}
            await write(iii, "k", 1)


# -- events that wait ------------------------------------------------------------------------------------------------


async def test_a_write_is_refused_while_too_many_events_wait_for_their_handlers() -> None:
    """Ours, for bounded memory: nothing is dropped, and nothing was changed."""
    release = Event()

    class Slow:
        async def trigger_async(self, request: Any, /) -> Any:
            await release.wait()

        def trigger(self, request: Any, /) -> Any:
            raise NotImplementedError

    bindings = [Binding("t", "f", "default", None, None)]
    with fail_after(20):
        async with create_task_group() as group:
            fan_out = FanOut(Slow(), group, max_events=2)
            for _ in range(2):
                fan_out.check_room("SET_ERROR", bindings)
                fan_out.start(bindings, {})
            with pytest.raises(InvocationError, match="2 events wait") as caught:
                fan_out.check_room("SET_ERROR", bindings)
            assert caught.value.code == "SET_ERROR"
            fan_out.check_room("SET_ERROR", [])  # nobody is bound to that one
            release.set()
            await wait_all_tasks_blocked()
            fan_out.check_room("SET_ERROR", bindings)


async def test_the_engine_ends_while_a_handler_still_runs() -> None:
    entered = Event()

    async def handler(_event: Any) -> None:
        entered.set()
        await Event().wait()

    async def serve(engine: Engine, *, task_status: TaskStatus[Worker]) -> None:
        async with open_worker(connector=engine.connector()) as iii:
            iii.register_function("f", handler)
            iii.register_trigger("state", "f", {})
            await iii.wait_ready()
            task_status.started(iii)
            await Event().wait()

    with fail_after(20):
        async with create_task_group() as group:
            async with open_engine(port=None) as engine:
                await write(await group.start(serve, engine), "k", 1)
                await entered.wait()
            group.cancel_scope.cancel()
