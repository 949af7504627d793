"""Asking the engine what there is (api B.5, B.6), on both faces."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread

from iii_anyio import CallAction, FunctionInfo, InitOptions, open_worker
from iii_anyio.devengine import open_engine

pytestmark = pytest.mark.anyio


async def test_lists_of_functions_workers_triggers_and_types() -> None:
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="w")) as iii,
        ):
            iii.register_function("shop::a", lambda _: None, description="the first")
            iii.register_function("shop::hidden", lambda _: None, metadata={"internal": True})
            iii.register_trigger("http", "shop::a", {"api_path": "a"})
            await iii.wait_ready()
            functions = await iii.list_functions_async(prefix="shop::")
            assert [(row.function_id, row.description) for row in functions] == [("shop::a", "the first")]
            assert len(await iii.list_functions_async(prefix="shop::", include_internal=True)) == 2
            assert [row.name for row in await iii.list_workers_async(search="w") if row.id == iii.worker_id] == ["w"]
            triggers = await iii.list_triggers_async()
            assert [row.function_id for row in triggers if row.worker_name == "w"] == ["shop::a"]
            assert "http" in [row.id for row in await iii.list_trigger_types_async()]
            assert await to_thread.run_sync(iii.list_triggers) == await iii.list_triggers_async()
            assert await to_thread.run_sync(iii.list_trigger_types) == await iii.list_trigger_types_async()
            by_thread = await to_thread.run_sync(lambda: iii.list_functions(worker="w"))
            assert by_thread == functions
            assert iii.worker_id in [row.id for row in await to_thread.run_sync(iii.list_workers)]


async def test_callbacks_hear_of_changed_functions_until_they_unsubscribe() -> None:
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):
            heard = anyio.Event()
            calls = 0

            def broken(_: list[FunctionInfo]) -> None:
                raise ValueError("not the others' problem")

            async def listen(functions: list[FunctionInfo]) -> None:
                nonlocal calls
                calls += 1
                if any(row.function_id == "new" for row in functions):
                    heard.set()

            end_broken, end = iii.on_functions_available(broken), iii.on_functions_available(listen)
            await iii.wait_ready()
            iii.register_function("new", lambda _: None)
            await heard.wait()
            for unsubscribe in (end, end, end_broken):
                unsubscribe()
            await iii.wait_ready()
            rows: list[Any] = await iii.list_functions_async(prefix="iii.on_functions", include_internal=True)
            assert rows == []


async def test_call_is_trigger_under_its_next_name() -> None:
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):
            iii.register_function("double", lambda n: n * 2)
            await iii.wait_ready()
            assert await iii.call_async("double", 2) == 4
            assert await to_thread.run_sync(iii.call, {"function_id": "double", "payload": 3}) == 6
            assert await iii.call_async({"function_id": "double", "payload": 1, "action": CallAction.Void()}) is None
