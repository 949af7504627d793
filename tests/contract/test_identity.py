"""Who a worker is to the engine: its name, its id, and what it owns alone."""

from __future__ import annotations

import os
from typing import Any

import pytest

from iii_anyio import RegistrationRejectedError
from tests.contract.targets import Target, until

pytestmark = pytest.mark.anyio


async def test_a_second_worker_of_the_same_name_is_refused_for_good_out_of_its_block(target: Target) -> None:
    """P-17, P-110, §5.6, §6.3; the first goes on, and what the second had registered is discarded."""
    async with target.open() as engine, engine.worker("same") as first:
        first.register_function(engine.id("f"), lambda data: data)
        await first.wait_ready()
        states: list[str] = []
        with pytest.raises(RegistrationRejectedError) as caught:
            async with engine.worker("same") as second:
                second.add_connection_state_listener(states.append)
                second.register_function(engine.id("g"), lambda data: data)
                await second.wait_ready()
        error = caught.value
        assert error.code == "WORKER_NAMESPACE_CONFLICT"
        assert (error.worker_name, error.owner_worker_id) == (engine.id("same"), first.worker_id)
        assert states[-1] == "failed"
        assert await first.trigger_async(engine.id("f"), 1) == 1
        assert not await engine.has_function(first, engine.id("g"))


async def test_a_refused_worker_ends_its_block_also_while_that_waits_for_something_else(target: Target) -> None:
    """P-17, R-5."""
    async with target.open() as engine, engine.worker("same") as first:
        await first.wait_ready()
        with pytest.raises(RegistrationRejectedError):
            async with engine.worker("same") as second:
                await second.trigger_async(engine.id("f"), {}, timeout_ms=60_000)
        with pytest.raises(RegistrationRejectedError):
            async with engine.worker("same") as second:
                await second.serve()


async def test_a_name_is_free_again_when_its_worker_has_left(target: Target) -> None:
    """P-111, §6.4."""
    async with target.open() as engine:
        ids: set[str | None] = set()
        for _ in range(3):
            async with engine.worker("same") as iii:
                await iii.wait_ready()
                ids.add(iii.worker_id)
        assert len(ids) == 3
        assert None not in ids


async def test_a_function_somebody_else_has_is_refused_and_the_rest_is_served(target: Target) -> None:
    """P-18, P-115, §5.6."""
    async with target.open() as engine, engine.workers("owner", "late") as (owner, late):
        owner.register_function(engine.id("taken"), lambda _data: "owner")
        await owner.wait_ready()
        late.register_function(engine.id("taken"), lambda _data: "late")
        late.register_function(engine.id("free"), lambda _data: "late")
        for _ in range(2):  # it is not forgotten after it was told once
            with pytest.raises(RegistrationRejectedError) as caught:
                await late.wait_ready()
            error = caught.value
            assert error.code == "FUNCTION_NAMESPACE_CONFLICT"
            assert (error.function_id, error.owner_worker_id) == (engine.id("taken"), owner.worker_id)
        assert late.get_connection_state() == "connected"
        assert await owner.trigger_async(engine.id("taken"), {}) == "owner"
        assert await owner.trigger_async(engine.id("free"), {}) == "late"


async def test_a_refused_function_that_is_taken_back_is_no_problem_any_more(target: Target) -> None:
    """P-18, P-115: nor does that touch the owner's."""
    async with target.open() as engine, engine.workers("owner", "late") as (owner, late):
        owner.register_function(engine.id("taken"), lambda _data: "owner")
        await owner.wait_ready()
        ref = late.register_function(engine.id("taken"), lambda _data: "late")
        with pytest.raises(RegistrationRejectedError):
            await late.wait_ready()
        ref.unregister()
        await late.wait_ready()
        assert await late.trigger_async(engine.id("taken"), {}) == "owner"


async def test_a_function_can_be_taken_when_its_owner_has_left(target: Target) -> None:
    """P-111, P-115, §7.5."""
    async with target.open() as engine, engine.worker("late") as late:
        async with engine.worker("owner") as owner:
            owner.register_function(engine.id("f"), lambda _data: "owner")
            await owner.wait_ready()
            assert await late.trigger_async(engine.id("f"), {}) == "owner"
        late.register_function(engine.id("f"), lambda _data: "late")
        await late.wait_ready()
        assert await late.trigger_async(engine.id("f"), {}) == "late"


async def test_the_engine_knows_what_a_worker_said_of_itself(target: Target) -> None:
    """P-14, P-15, P-114, E-25, E-27, E-34."""
    async with (
        target.open() as engine,
        engine.worker("told", worker_description="Charges\tcards", namespace=engine.id("blue")) as told,
        engine.worker("plain") as plain,
    ):
        for name in "ab":
            told.register_function(engine.id(name), lambda data: data)
        await told.wait_ready()
        await plain.wait_ready()
        listed = await plain.trigger_async("engine::workers::list", {"search": engine.tag})
        rows: dict[str, dict[str, Any]] = {row["name"]: row for row in listed["workers"]}
        assert list(rows) == sorted([engine.id("plain"), engine.id("told")])
        row = rows[engine.id("told")]
        assert {key: row[key] for key in ("id", "namespace", "description", "runtime", "function_count", "status")} == {
            "id": told.worker_id,
            "namespace": engine.id("blue"),
            "description": "Chargescards",
            "runtime": "python",
            "function_count": 2,
            "status": "connected",
        }
        assert isinstance(row["version"], str)
        assert isinstance(row["os"], str)
        assert isinstance(row["connected_at_ms"], int)
        other = rows[engine.id("plain")]
        assert (other["id"], other["namespace"], other["description"]) == (plain.worker_id, "default", None)
        detail = await plain.trigger_async("engine::workers::info", {"name": engine.id("told")})
        assert detail["worker"]["pid"] == os.getpid()


async def test_a_worker_that_has_left_is_listed_no_more(target: Target) -> None:
    """§7.5, P-114."""
    async with target.open() as engine, engine.worker("stays") as stays:
        async with engine.worker("leaves") as leaves:
            await leaves.wait_ready()
            listed = await stays.trigger_async("engine::workers::list", {"search": engine.id("leaves")})
            assert [row["id"] for row in listed["workers"]] == [leaves.worker_id]

        async def is_gone() -> bool:
            listed = await stays.trigger_async("engine::workers::list", {"search": engine.id("leaves")})
            return listed["workers"] == []

        await until(is_gone)
