"""Workers of this package that observe each other through the embedded engine (§16, §17; A-54)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import fail_after

from iii_anyio import (
    InitOptions,
    InvocationError,
    ObserveHooks,
    Observer,
    ObserveRejection,
    ReconnectionConfig,
    Worker,
    open_worker,
)
from iii_anyio.abc import Connector, Wire
from iii_anyio.devengine import Engine, Listener, Rbac, open_engine
from tests.heard import Heard

pytestmark = pytest.mark.anyio

ALL = ["input", "output", "error", "caller", "metadata"]


class Link:
    """A way to the engine that can be cut."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wire: Wire | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Wire]:
        async with self._engine.connector()() as wire:
            self._wire = wire
            yield wire

    async def cut(self, iii: Worker) -> None:
        """Cut it, and wait until its worker has noticed."""
        assert self._wire is not None
        lost = anyio.Event()
        remove = iii.add_connection_state_listener(lambda state: lost.set() if state == "disconnected" else None)
        await self._wire.abort()
        await lost.wait()
        remove()


@asynccontextmanager
async def opened() -> AsyncGenerator[tuple[Engine, Worker, Worker]]:
    """An engine, the owner of functions, and who observes them."""
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            worker(engine.connector(), "owner") as owner,
            worker(engine.connector(), "watcher") as watcher,
        ):
            yield engine, owner, watcher


def worker(connector: Connector, name: str, **options: Any) -> AbstractAsyncContextManager[Worker]:
    at_once = ReconnectionConfig(initial_delay_ms=1)
    return open_worker(
        connector=connector, options=InitOptions(worker_name=name, reconnection_config=at_once, **options)
    )


async def double(data: Any) -> Any:
    return data * 2


def without_facts(envelope: dict[str, Any]) -> dict[str, Any]:
    """An envelope without what differs from event to event."""
    facts = {"activation_id", "invocation_id", "started_at_ms", "duration_ms"}
    assert facts < envelope.keys()
    return {key: value for key, value in envelope.items() if key not in facts}


async def listening(watcher: Worker, source: dict[str, Any], **options: Any) -> Heard:
    """Observe with a function that keeps what it hears."""
    heard = Heard("seen")
    watcher.register_function("note", heard.hear)
    await watcher.observe(source, "note", options).ready_async()
    return heard


async def test_local_and_routed_calls_give_equal_envelopes() -> None:
    """A-54, P-140; what a handler does not change."""
    async with opened() as (_, owner, watcher):

        async def pay(data: Any, metadata: Any = None) -> Any:
            answer = {"paid": data["amount"]}
            data.clear()
            return answer

        owner.register_function("pay", pay)
        await owner.wait_ready()
        source = {"function_id": "pay", "filters": {"input.amount": {"$gte": 5}}, "capture": ALL, "on": "complete"}
        heard = await listening(watcher, source)
        envelopes: list[dict[str, Any]] = []
        for dispatch in ("auto", "remote"):
            await owner.trigger_async("pay", {"amount": 1}, dispatch=dispatch)
            payload = {"amount": 7, "x": [None, 1.5, "é"]}
            await owner.trigger_async("pay", payload, metadata={"m": 1}, dispatch=dispatch)
            envelopes.append(without_facts(await heard.take()))
        assert envelopes[0] == envelopes[1]
        workers = (await owner.trigger_async("engine::workers::list", {"search": "owner"}))["workers"]
        assert envelopes[0] == {
            "observer_id": envelopes[0]["observer_id"],
            "function_id": "pay",
            "namespace": "default",
            "status": "success",
            "input": {"amount": 7, "x": [None, 1.5, "é"]},
            "output": {"paid": 7},
            "caller": {"worker_id": workers[0]["id"], "worker_name": "owner"},
            "metadata": {"m": 1},
        }
        assert not heard.has_more


async def test_an_owner_hands_out_events_and_asks_targets() -> None:
    """§16.7, A-49; args are checked before the hook runs."""
    added: list[Observer] = []

    async def on_added(observer: Observer) -> None:
        if observer.args["every"] <= 0:
            raise ObserveRejection("TOO_OFTEN", "every must be positive")
        added.append(observer)

    removed = anyio.Event()

    async def on_removed(_observer: Observer) -> None:
        removed.set()

    async with opened() as (_, owner, watcher):
        schema = {"type": "object", "properties": {"every": {"type": "integer"}}, "required": ["every"]}
        hooks = ObserveHooks(
            delivery="owner", args_format=schema, on_observer_added=on_added, on_observer_removed=on_removed
        )
        owner.register_function("tick", double, observe=hooks)
        await owner.wait_ready()
        source = {"function_id": "tick", "args": {"every": 5}, "filters": {"input.n": {"$gt": 1}}, "deliver": "input"}
        heard = await listening(watcher, source, metadata={"team": "a"})
        for args, code in (({"every": "x"}, "INVALID_ARGS"), ({"every": 0}, "TOO_OFTEN")):
            with pytest.raises(ObserveRejection, match=code):
                await watcher.observe({"function_id": "tick", "args": args}, "note").ready_async()
        (observer,) = added
        assert [observer.emit({"n": 1}), observer.emit({"n": 2})] == [False, True]
        assert await heard.take() == {"n": 2}
        assert await observer.call_async({"n": 3}) == "seen"
        assert await heard.take() == {"n": 3}
        assert heard.metadata == [{"team": "a"}] * 2
        await owner.trigger_async("tick", 1, dispatch="remote")  # no event
        observer.reject("BROKEN", "the clock has stopped")
        await removed.wait()
        with pytest.raises(InvocationError, match="OBSERVER_NOT_ACTIVE"):
            await observer.call_async({"n": 4})
        assert not heard.has_more


async def test_a_late_rejection_reaches_who_observes() -> None:
    """§16.4, A-48."""
    added: list[Observer] = []

    async def on_added(observer: Observer) -> None:
        added.append(observer)

    async with opened() as (_, owner, watcher):
        owner.register_function("tick", double, observe={"delivery": "owner", "on_observer_added": on_added})
        watcher.register_function("note", double)
        handle = watcher.observe({"function_id": "tick"}, "note")
        await handle.ready_async()
        failed = anyio.Event()
        token = anyio.lowlevel.current_token()
        handle.on_state_change(lambda state, reason: anyio.from_thread.run_sync(failed.set, token=token))
        added[0].reject("BROKEN", "the clock has stopped")
        await failed.wait()
        assert (handle.state, handle.reason) == ("error", {"code": "BROKEN", "message": "the clock has stopped"})


async def test_observers_and_local_calls_survive_reconnects_of_both_sides() -> None:
    """P-60, P-138, P-139, A-54: what is reported without a link is delivered after it."""
    with fail_after(20):
        async with open_engine(port=None, http_port=None) as engine:
            links = [Link(engine), Link(engine)]
            async with worker(links[0], "owner") as owner, worker(links[1], "watcher") as watcher:
                owner.register_function("f", double)
                await owner.wait_ready()
                heard = await listening(watcher, {"function_id": "f", "deliver": "output"})
                for number, link in enumerate([*links, *links], 1):
                    await link.cut(owner if link is links[0] else watcher)
                    if link is links[1]:  # what happens while it is away is not for it
                        await watcher.wait_ready()
                        await watcher.trigger_async("engine::functions::list", {})
                    assert await owner.trigger_async("f", number) == number * 2
                    assert await heard.take() == number * 2


async def test_an_observer_made_before_source_and_target_becomes_active() -> None:
    """§16.5."""
    async with opened() as (_, owner, watcher):
        handle = watcher.observe({"function_id": "later"}, "target")
        await watcher.wait_ready()
        await watcher.trigger_async("engine::functions::list", {})
        assert handle.state == "pending"
        owner.register_function("later", double)
        await owner.wait_ready()
        assert handle.state == "pending"
        heard = Heard()
        watcher.register_function("target", heard.hear)
        await handle.ready_async()
        await owner.trigger_async("later", 1)
        assert (await heard.take())["output"] == 2


async def test_max_fires_and_dispose_end_an_observer() -> None:
    """§16.9."""
    async with opened() as (_, owner, watcher):
        owner.register_function("f", double)
        heard = Heard()
        watcher.register_function("note", heard.hear)
        once = watcher.observe({"function_id": "f", "deliver": "input"}, "note", {"max_fires": 1})
        await once.ready_async()
        for number in (1, 2):
            await watcher.trigger_async("f", number)
        assert await heard.take() == 1
        await watcher.trigger_async("engine::functions::list", {})
        assert (once.state, (once.reason or {})["code"]) == ("disposed", "MAX_FIRES")
        second = watcher.observe({"function_id": "f", "deliver": "input"}, "note")
        await second.ready_async()
        await second.dispose_async()
        await watcher.trigger_async("f", 3)
        with pytest.raises(InvocationError, match="NOT_FOUND"):
            await watcher.trigger_async("engine::observers::get", {"id": second.id})
        assert not heard.has_more


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_an_observer_expires() -> None:
    """§16.9."""
    async with open_engine(port=None, http_port=None) as engine, worker(engine.connector(), "owner") as owner:
        owner.register_function("f", double)
        owner.register_function("note", double)
        handle = owner.observe({"function_id": "f"}, "note", {"expires_in_ms": 3_600_000})
        await handle.ready_async()
        await anyio.sleep(3601)
        assert (handle.state, (handle.reason or {})["code"]) == ("disposed", "EXPIRED")


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_observers_of_a_lost_worker_are_dropped_after_30_seconds() -> None:
    """P-139."""
    async with open_engine(port=None, http_port=None) as engine, worker(engine.connector(), "owner") as owner:
        owner.register_function("f", double)
        owner.register_function("note", double)
        await owner.wait_ready()
        async with worker(engine.connector(), "watcher") as watcher:
            await watcher.observe({"function_id": "f"}, "note", {"id": "w"}).ready_async()
        await anyio.sleep(31)
        with pytest.raises(InvocationError, match="NOT_FOUND"):
            await owner.trigger_async("engine::observers::get", {"id": "w"})


async def test_depth_travels_and_a_loop_ends() -> None:
    """P-140: nine times is too much."""
    async with opened() as (_, owner, watcher):
        depths: list[int] = []
        last = anyio.Event()

        async def note(_data: Any) -> None:
            invocation = watcher.current_invocation()
            assert invocation is not None
            depths.append(invocation.observe_depth)
            await watcher.trigger_async("f", 1)
            if len(depths) == 8:
                last.set()

        owner.register_function("f", double)
        watcher.register_function("note", note)
        handle = watcher.observe({"function_id": "f"}, "note")
        await handle.ready_async()
        await watcher.trigger_async("f", 1)
        await last.wait()
        await watcher.trigger_async("engine::functions::list", {})
        assert depths == [1, 2, 3, 4, 5, 6, 7, 8]
        found = await watcher.trigger_async("engine::observers::get", {"id": handle.id})
        assert (found["fires"], found["dropped"]) == (8, {"LOOP_GUARD": 1})


async def test_functions_of_built_in_workers_are_observed() -> None:
    """Their workers are workers like others."""
    async with opened() as (_, owner, watcher):
        heard = await listening(watcher, {"function_id": "state::set", "namespace": "default"})
        await owner.trigger_async("state::set", {"scope": "s", "key": "k", "value": 1})
        event = await heard.take()
        assert event["input"] == {"scope": "s", "key": "k", "value": 1}
        assert event["output"] == {"old_value": None, "new_value": 1}


async def test_behind_a_guarded_listener_only_what_may_be_called_may_be_observed() -> None:
    """§16.9 ``FORBIDDEN``; and calls of one's own functions go through the engine, where they are guarded."""
    rules = Rbac(expose_functions=['match("open::*")'])
    with fail_after(20):
        async with (
            open_engine(port=0, http_port=None, listeners=[Listener(port=0), Listener(port=0, rbac=rules)]) as engine,
            open_worker(engine.urls[0], InitOptions(worker_name="owner", handle_signals=False)) as owner,
            open_worker(engine.urls[1], InitOptions(worker_name="guest", handle_signals=False)) as guest,
        ):
            for function_id in ("open::f", "secret::f"):
                owner.register_function(function_id, double)
            await owner.wait_ready()
            heard = Heard()
            guest.register_function("mine", heard.hear)
            await guest.wait_ready()
            for source, target in (
                ("secret::f", "mine"),
                ("open::f", "secret::f"),
                ("engine::channels::create", "mine"),
                ("engine::workers::register", "mine"),
            ):
                with pytest.raises(ObserveRejection, match="FORBIDDEN"):
                    await guest.observe({"function_id": source}, target).ready_async()
            await guest.observe({"function_id": "open::f", "deliver": "output"}, "mine").ready_async()
            await owner.trigger_async("open::f", 2)
            assert await heard.take() == 4
            with pytest.raises(InvocationError, match="FORBIDDEN"):
                await guest.trigger_async("mine", 1)
