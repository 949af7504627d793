"""Observers, from the worker that makes them and from the owner of the function (§16, A.12; A-47 to A-50)."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread

from iii_anyio import InvocationError, ObserveHooks, Observer, ObserveRejection, ShutdownError, WorkerStateError
from tests.api.scripted import ScriptedEngine, native, portal

pytestmark = pytest.mark.anyio

SOURCE = {"function_id": "payments::charge", "filters": {"input.amount": {"$gte": 500}}, "on": "error"}
ALL = ["input", "output", "error", "caller", "metadata"]


async def echo(data: Any) -> Any:
    return data


def make_engine(**fields: Any) -> ScriptedEngine:
    engine = ScriptedEngine(**fields)
    engine.answers["fence"] = lambda call: {"result": None}
    return engine


# -- the observing worker ----------------------------------------------------------------------------------------------


async def test_an_observer_is_pending_at_once_and_announced_when_the_engine_knows_observers() -> None:
    """A-47, P-60: after the functions, as the user gave it, on every connection under the same id."""
    engine = make_engine()
    async with native(engine, namespace="orders") as iii:
        iii.register_function("f", echo)
        options = {"metadata": {"team": "a"}, "max_fires": 2, "expires_in_ms": 1000, "max_in_flight": 4}
        handle = iii.observe({**SOURCE, "args": {}}, "alerts::failed", options)
        assert (handle.state, handle.reason) == ("pending", None)
        message = await engine.wait("observe")
        assert message == {
            "type": "observe",
            "id": handle.id,
            "source": {**SOURCE, "args": {}, "namespace": "orders"},
            "target": {"function_id": "alerts::failed", "namespace": "orders"},
            **options,
        }
        kinds = [message["type"] for message in engine.received]
        assert kinds.index("registerfunction") < kinds.index("observe")
        engine.say("observeresult", id=handle.id, state="active")
        with fail_after(20):
            await handle.ready_async()
        await engine.drop()
        assert await engine.wait("observe", 2) == message


async def test_namespaces_are_those_of_calls() -> None:
    """§16.5: explicit, else default for the engine's own, else the worker's, else none."""
    engine = make_engine()
    async with native(engine) as iii:
        iii.observe({"function_id": "engine::functions::list"}, {"function_id": "t", "namespace": "n"}, {"id": "o"})
        message = await engine.wait("observe")
    assert message["source"] == {"function_id": "engine::functions::list", "namespace": "default"}
    assert message["target"] == {"function_id": "t", "namespace": "n"}
    assert message["id"] == "o"


@pytest.mark.parametrize(
    ("source", "target", "options", "error", "text"),
    [
        ("f", "t", None, TypeError, "source must be a dict"),
        ({}, "t", None, ValueError, "ObserveSource.function_id is missing"),
        ({"function_id": " "}, "t", None, ValueError, "ObserveSource.function_id is missing or blank"),
        ({"function_id": 1}, "t", None, TypeError, "ObserveSource.function_id must be str"),
        ({"function_id": "f", "namespace": " "}, "t", None, ValueError, "ObserveSource.namespace is blank"),
        ({"function_id": "f", "namespace": 1}, "t", None, TypeError, "ObserveSource.namespace must be str"),
        ({"function_id": "f"}, "", None, ValueError, "Target.function_id is missing"),
        ({"function_id": "f"}, 1, None, TypeError, "target must be a dict"),
        ({"function_id": "f"}, "t", [], TypeError, "options must be a dict"),
        ({"function_id": "f"}, "t", {"id": 1}, TypeError, r"options\['id'\] must be str"),
        ({"function_id": "f"}, "t", {"id": ""}, ValueError, "is blank"),
        ({"function_id": "f", "filters": {"input.a": {"$eq": float("nan")}}}, "t", None, TypeError, "must be JSON"),
        ({"function_id": "f"}, "t", {"max_fires": "1"}, TypeError, "max_fires must be an integer"),
        ({"function_id": "f"}, "t", {"id": "used"}, ValueError, "'used' is in use"),
    ],
)
async def test_mistakes_are_raised_at_once(source: Any, target: Any, options: Any, error: Any, text: str) -> None:
    async with native(make_engine()) as iii:
        iii.observe({"function_id": "f"}, "t", {"id": "used"})
        with pytest.raises(error, match=text):
            iii.observe(source, target, options)


async def test_states_and_reasons_are_the_engines() -> None:
    engine = make_engine()
    heard: list[tuple[str, Any, bool]] = []
    told = anyio.Event()
    loop = threading.get_ident()
    async with native(engine) as iii:
        handle = iii.observe(SOURCE, "t")
        token = anyio.lowlevel.current_token()

        def listen(state: str, reason: Any) -> None:
            iii.trigger("fence")  # off the loop, so it may block
            heard.append((state, reason, threading.get_ident() == loop))
            if state == "disposed":
                anyio.from_thread.run_sync(told.set, token=token)

        def broken(state: str, reason: Any) -> None:
            raise ValueError("listener")

        handle.on_state_change(broken)
        handle.on_state_change(listen)
        remove = handle.on_state_change(lambda state, reason: heard.append(("removed", None, True)))
        remove()
        remove()
        await engine.wait("observe")
        reason = {"code": "OBSERVER_DISCONNECTED", "message": "the target is away"}
        engine.say("observeresult", id=handle.id, state="pending")
        engine.say("observerstatechanged", id=handle.id, state="active", fires=0)
        engine.say("observerstatechanged", id=handle.id, state="suspended", reason=reason)
        engine.say("observerstatechanged", id=handle.id, state="sleeping")
        engine.say("observerstatechanged", id=handle.id, state="disposed", reason={"code": "MAX_FIRES", "message": "m"})
        engine.say("observerstatechanged", id=handle.id, state="active")
        with fail_after(20):
            await told.wait()
        assert heard == [
            ("active", None, False),
            ("suspended", reason, False),
            ("pending", None, False),
            ("disposed", {"code": "MAX_FIRES", "message": "m"}, False),
        ]
        assert (handle.state, handle.reason) == ("disposed", {"code": "MAX_FIRES", "message": "m"})
        with pytest.raises(ObserveRejection, match="MAX_FIRES: m"):
            await handle.ready_async()
        await engine.drop()
        await engine.wait("invokefunction", 2, function_id="engine::workers::register")
        await iii.wait_ready()
        handle.dispose()
        assert len(engine.got("observe")) == 1  # forgotten, and nothing to withdraw
        assert engine.got("unobserve") == []


async def test_ready_raises_what_the_engine_refuses_and_may_succeed_later() -> None:
    engine = make_engine()
    async with native(engine) as iii:
        handle = iii.observe(SOURCE, "t")
        await engine.wait("observe")
        engine.say("observeresult", id=handle.id, state="error", error={"code": "INVALID_ARGS", "message": "no"})
        with fail_after(20), pytest.raises(ObserveRejection) as raised:
            await handle.ready_async()
        assert (raised.value.code, raised.value.message) == ("INVALID_ARGS", "no")
        engine.say("observerstatechanged", id=handle.id, state="active")
        await iii.trigger_async("fence")
        await handle.ready_async()
        with pytest.raises(WorkerStateError, match="ready_async"):
            handle.ready()
        await to_thread.run_sync(handle.ready)
        await to_thread.run_sync(lambda: anyio.run(handle.ready_async, backend="asyncio"))


async def test_an_engine_without_observers_gets_nothing_and_says_so() -> None:
    """P-58, P-59, §16.10."""
    engine = make_engine(features=None)
    async with native(engine) as iii:
        early = iii.observe(SOURCE, "t")
        with fail_after(20), pytest.raises(ObserveRejection, match=r"UNSUPPORTED: .* 0\.25 or later"):
            await early.ready_async()
        late = iii.observe(SOURCE, "t")
        assert late.state == "error"
        late.dispose()
        engine.features = ("observe.v1",)
        await engine.drop()  # a younger engine takes over
        message = await engine.wait("observe")
        assert message["id"] == early.id
        assert early.state == "pending"
        await iii.trigger_async("fence")
    assert engine.got("unobserve") == []


async def test_disposing_withdraws_now_or_on_the_next_connection() -> None:
    """P-60."""
    engine = make_engine()
    async with native(engine) as iii:
        first, second, third = (iii.observe(SOURCE, "t", {"id": name}) for name in ("o1", "o2", "o3"))
        await engine.wait("observe", 3)
        first.dispose()
        first.dispose()
        assert (first.state, first.reason and first.reason["code"]) == ("disposed", "UNOBSERVED")
        await engine.wait("unobserve", id="o1")
        with pytest.raises(ObserveRejection, match="UNOBSERVED"):
            await first.ready_async()
        await engine.leave(iii)
        await second.dispose_async()
        engine.come_back()
        await engine.wait("unobserve", id="o2")
        await engine.wait("observe", 2, id="o3")
        assert third.state == "pending"
        assert len(engine.got("observe", id="o2")) == 1
        assert len(engine.got("unobserve")) == 2
        iii.observe(SOURCE, "t", {"id": "o1"})  # free again


async def test_who_waits_for_an_observer_hears_of_the_workers_end() -> None:
    engine = make_engine()
    failures: list[BaseException] = []
    handle: Any = None

    async def wait(handle: Any) -> None:
        try:
            await handle.ready_async()
        except ShutdownError as exc:
            failures.append(exc)

    async with anyio.create_task_group() as tasks, native(engine) as iii:
        handle = iii.observe(SOURCE, "t")
        tasks.start_soon(wait, handle)
        await engine.wait("observe")
    assert len(failures) == 1
    handle.dispose()
    assert handle.state == "disposed"
    with pytest.raises(ShutdownError):
        iii.observe(SOURCE, "t")


def test_a_portal_worker_observes() -> None:
    engine = make_engine()
    with portal(engine) as iii:
        handle = iii.observe(SOURCE, "t")
        engine.wait_blocking("observe")
        with pytest.raises(TimeoutError, match="still pending after 0"):
            handle.ready(0)
        engine.say("observeresult", id=handle.id, state="active")
        handle.ready(30)
        handle.dispose()
        engine.wait_blocking("unobserve")
        added: list[Any] = []
        function = iii.register_function("f", lambda data: data, observe={"on_observer_added": added.append})
        iii.wait_ready(30)
        engine.add("f", "o1", args={"x": 1})
        engine.wait_blocking("observerack", id="o1")
        assert [observer.id for observer in function.observers()] == ["o1"]
        assert added == function.observers()


# -- the owner: acknowledgements and hooks -----------------------------------------------------------------------------


async def test_every_announced_observer_is_acknowledged_once_it_is_active() -> None:
    """P-61."""
    engine = make_engine()
    engine.observers["f"] = [{"id": "o1", "target": "t::x"}]
    async with native(engine) as iii:
        function = iii.register_function("f", echo)
        ack = await engine.wait("observerack", id="o1")
        assert ack == {"type": "observerack", "function_id": "f", "id": "o1", "namespace": "default", "revision": 1}
        engine.add(
            "f", "o2", filters={"$and": [{"input.n": {"$gte": 2}}]}, on="error", capture=["input"], args={"x": 1}
        )
        ack = await engine.wait("observerack", id="o2")
        assert ack["revision"] == 2
        assert function.is_observed()
        first, second = function.observers()
        assert second.to_dict() == {
            "id": "o2", "function_id": "f", "args": {"x": 1}, "filters": {"$and": [{"input.n": {"$gte": 2}}]},
            "target": "t::x", "capture": ["input"], "on": "error",
        }  # fmt: skip
        assert second.matches({"input": {"n": 2}})
        assert not second.matches({"input": {"n": 1}})
        assert first.capture == ["input", "output", "caller"]
        engine.add("f", "o3", filters={"input.n": 1})
        ack = await engine.wait("observerack", id="o3")
        assert ack["error"]["code"] == "INVALID_FILTER"
        engine.remove("f", "o1")
        await iii.trigger_async("fence")
        assert [observer.id for observer in function.observers()] == ["o2"]


async def test_hooks_run_before_the_acknowledgement_and_may_refuse() -> None:
    """A-48."""
    engine = make_engine()
    calls: list[tuple[str, str, bool]] = []
    loop = threading.get_ident()

    class Hooks(ObserveHooks):
        delivery = "owner"
        args_format = dict[str, Any]

        async def on_observer_added(self, obs: Observer) -> None:
            calls.append(("added", obs.id, threading.get_ident() == loop))
            if obs.args.get("refuse") == "coded":
                raise ObserveRejection("INVALID_CRON_EXPRESSION", "bad day")
            if obs.args.get("refuse"):
                raise ValueError("just no")
            assert not engine.got("observerack", id=obs.id)

        def on_observer_removed(self, obs: Observer) -> None:
            calls.append(("removed", obs.id, threading.get_ident() == loop))
            raise ValueError("cannot fail")

    async with native(engine) as iii:
        function = iii.register_function("f", echo, observe=Hooks())
        registered = await engine.wait("registerfunction")
        assert registered["observe"]["delivery"] == "owner"
        assert registered["observe"]["args_format"]["type"] == "object"
        await iii.wait_ready()
        engine.add("f", "o1")
        await engine.wait("observerack", id="o1")
        engine.add("f", "o2", args={"refuse": "coded"})
        ack = await engine.wait("observerack", id="o2")
        assert ack["error"] == {"code": "INVALID_CRON_EXPRESSION", "message": "bad day"}
        engine.add("f", "o3", args={"refuse": True})
        ack = await engine.wait("observerack", id="o3")
        assert ack["error"] == {"code": "OBSERVE_REJECTED", "message": "just no"}
        assert [observer.id for observer in function.observers()] == ["o1"]
        engine.remove("f", "o1")
        engine.add("f", "o4")
        await engine.wait("observerack", id="o4")
    assert calls == [
        ("added", "o1", True), ("added", "o2", True), ("added", "o3", True), ("removed", "o1", False),
        ("added", "o4", True),
    ]  # fmt: skip


async def test_hooks_of_one_function_run_one_at_a_time_and_of_two_side_by_side() -> None:
    """P-63."""
    engine = make_engine()
    running: set[str] = set()
    both, proceed = anyio.Event(), anyio.Event()

    async def hold(obs: Observer) -> None:
        assert obs.function_id not in {name.split("/")[0] for name in running}
        running.add(f"{obs.function_id}/{obs.id}")
        if len(running) == 2:
            both.set()
        await proceed.wait()
        running.discard(f"{obs.function_id}/{obs.id}")

    async with native(engine) as iii:
        for name in ("f", "g"):
            iii.register_function(name, echo, observe=ObserveHooks(on_observer_added=hold))
        await iii.wait_ready()
        for name, observer in (("f", "o1"), ("f", "o2"), ("g", "o3")):
            engine.add(name, observer)
        with fail_after(20):
            await both.wait()
        assert running == {"f/o1", "g/o3"}
        proceed.set()
        for observer in ("o1", "o2", "o3"):
            await engine.wait("observerack", id=observer)


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_hook_that_takes_too_long_refuses_and_a_late_success_is_undone() -> None:
    """P-63."""
    engine = make_engine()
    calls: list[str] = []
    undone = anyio.Event()

    async def slow(obs: Observer) -> None:
        await anyio.sleep(40 if obs.id == "slow" else 0)
        calls.append(f"added {obs.id}")

    async def removed(obs: Observer) -> None:
        calls.append(f"removed {obs.id}")
        undone.set()

    async with native(engine, patience=None) as iii:
        iii.register_function("f", echo, observe={"on_observer_added": slow, "on_observer_removed": removed})
        await iii.wait_ready()
        engine.add("f", "slow")
        engine.add("f", "next")
        await anyio.sleep(31)
        assert (await engine.wait("observerack", id="slow"))["error"]["code"] == "OWNER_TIMEOUT"
        assert "error" not in await engine.wait("observerack", id="next")
        await undone.wait()
        assert calls == ["added next", "added slow", "removed slow"]


async def test_a_new_connection_compares_the_set_and_runs_hooks_only_for_what_changed() -> None:
    """§16.4: gone, kept, changed, new."""
    engine = make_engine()
    engine.observers["f"] = [{"id": name, "args": {"n": 1}, "target": "t"} for name in ("kept", "gone", "changed")]
    calls: list[str] = []

    async def added(obs: Observer) -> None:
        calls.append(f"+{obs.id}")

    async def removed(obs: Observer) -> None:
        calls.append(f"-{obs.id}")

    async with native(engine) as iii:
        function = iii.register_function(
            "f", echo, observe={"on_observer_added": added, "on_observer_removed": removed}
        )
        await engine.wait("observerack", id="changed")
        kept = function.observers()[0]
        engine.observers["f"] = [
            {"id": "kept", "args": {"n": 1}, "target": "t2", "filters": {"input.a": {"$eq": 1}}},
            {"id": "changed", "args": {"n": 2}, "target": "t"},
            {"id": "new", "target": "t"},
        ]
        calls.clear()
        engine.revision = 0  # revisions begin anew
        await engine.drop()
        await engine.wait("observerack", id="new")
        assert calls == ["-gone", "-changed", "+changed", "+new"]
        assert [observer.id for observer in function.observers()] == ["kept", "changed", "new"]
        assert function.observers()[0] is kept  # one object as long as the engine knows it
        assert (kept.target, kept.matches({"input": {"a": 2}})) == ("t2", False)
        assert len(engine.got("observerack", id="kept")) == 2


async def test_a_conflict_or_unregistering_drops_observers_without_acknowledgement() -> None:
    """§16.4."""
    engine = make_engine()
    calls: list[str] = []
    gone = anyio.Event()

    async def removed(obs: Observer) -> None:
        calls.append(f"-{obs.function_id}/{obs.id}")
        if len(calls) == 2:
            gone.set()

    async with native(engine) as iii:
        functions = [iii.register_function(name, echo, observe={"on_observer_removed": removed}) for name in ("f", "g")]
        await iii.wait_ready()
        for name in ("f", "g"):
            engine.add(name, "o1")
            await engine.wait("observerack", function_id=name)
        engine.say("registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT", function_id="f", namespace="default")
        functions[1].unregister()
        with fail_after(20):
            await gone.wait()
        engine.add("f", "o2")
        assert not any(function.is_observed() for function in functions[1:])
        assert sorted(calls) == ["-f/o1", "-g/o1"]


async def test_an_old_engine_gets_a_plain_function_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(features=None)
    async with native(engine) as iii:
        iii.register_function("f", echo, observe=ObserveHooks(delivery="owner"))
        await iii.wait_ready()
        await engine.drop()
        await engine.wait("registerfunction", 2)
        await iii.wait_ready()
    warnings = [record for record in caplog.records if "observe hooks never run" in record.message]
    assert [record.levelno for record in warnings] == [logging.WARNING]


@pytest.mark.parametrize(
    ("observe", "error", "text"),
    [
        (1, TypeError, "not int"),
        ({"deliver": "owner"}, TypeError, "does not know 'deliver'"),
        ({"delivery": "both"}, InvocationError, "INVALID_OBSERVE_DESCRIPTOR: .*'auto' or 'owner'"),
        ({"args_format": {}}, InvocationError, "INVALID_OBSERVE_DESCRIPTOR: .*args_format"),
        ({"allow": 1}, InvocationError, "INVALID_OBSERVE_DESCRIPTOR: .*allow"),
        ({"legacy_trigger_type": 1}, InvocationError, "INVALID_OBSERVE_DESCRIPTOR: .*legacy"),
        ({"on_observer_added": 1}, InvocationError, "INVALID_OBSERVE_DESCRIPTOR: .*hook"),
    ],
)
async def test_a_wrong_descriptor_is_refused_and_nothing_is_registered(observe: Any, error: Any, text: str) -> None:
    async with native(make_engine()) as iii:
        with pytest.raises(error, match=text):
            iii.register_function("f", echo, observe=observe)
        iii.register_function("f", echo)


# -- the owner: events -------------------------------------------------------------------------------------------------


async def test_a_matched_local_call_is_reported_with_what_its_observers_captured() -> None:
    """P-64: the union of captures, the input as it was sent, errors to those who want them."""
    engine = make_engine()

    async def charge(data: Any, metadata: Any = None) -> Any:
        if data["amount"] < 0:
            raise InvocationError("REFUSED", "negative")
        data["amount"] = 0
        return None

    async with native(engine) as iii:
        iii.register_function("charge", charge)
        await iii.wait_ready()
        engine.add("charge", "big", filters={"$and": [{"input.amount": {"$gte": 500}}]}, capture=["input"])
        engine.add("charge", "all", capture=["output", "metadata"])
        engine.add("charge", "bad", on="error", capture=ALL)
        await engine.wait("observerack", id="bad")
        await iii.trigger_async("charge", {"amount": 750}, metadata={"tenant": "x"})
        await iii.trigger_async("charge", {"amount": 1})
        with pytest.raises(InvocationError):
            await iii.trigger_async("charge", {"amount": -1})
        with fail_after(20):
            while len(items := [item for report in engine.got("invocationsobserved") for item in report["items"]]) < 3:
                await engine.wait("invocationsobserved", len(engine.got("invocationsobserved")) + 1)
        first, second, third = items
        assert (first["function_id"], first["namespace"], first["status"]) == ("charge", "default", "success")
        assert first["matched"] == ["big", "all"]
        assert (first["input"], first["output"], first["metadata"]) == ({"amount": 750}, None, {"tenant": "x"})
        assert "caller" not in first
        assert first["observe_depth"] == 0
        assert isinstance(first["started_at_ms"], int)
        assert second["matched"] == ["all"]
        assert not {"input", "metadata"} & set(second)
        assert (third["matched"], third["status"]) == (["bad"], "error")
        assert third["error"]["code"] == "REFUSED"
        assert third["caller"] == {"worker_id": "w-1", "worker_name": "w"}
        assert "output" not in third


async def test_reports_wait_for_the_acknowledgement_on_a_new_connection() -> None:
    """§16.8."""
    engine = make_engine()
    engine.observers["f"] = [{"id": "o1", "target": "t"}]
    async with native(engine) as iii:
        iii.register_function("f", echo)
        await engine.wait("observerack", id="o1")
        await iii.wait_ready()
        engine.confirms = False
        await engine.leave(iii)
        await iii.trigger_async("f", 1)
        engine.come_back()
        await engine.wait("registerfunction", 2)
        await iii.wait_ready()
        assert engine.got("invocationsobserved") == []
        engine.confirm("f")
        report = await engine.wait("invocationsobserved")
        assert [item["input"] for item in report["items"]] == [1]
        kinds = [message["type"] for message in engine.received]
        assert kinds.index("invocationsobserved") > len(kinds) - 1 - kinds[::-1].index("observerack")


async def test_an_owner_emits_events_to_its_observers() -> None:
    """A-49, §16.7: filtered, one item for one event, with the caller of where it comes from."""
    engine = make_engine()
    outcomes: list[bool] = []

    async def tick(data: Any) -> None:
        event = {"n": data}
        outcomes.extend(observer.emit(event) for observer in ticking.observers())

    async with native(engine) as iii:
        ticking = iii.register_function("tick", tick, observe={"delivery": "owner"})
        iii.register_function("auto", echo)
        await iii.wait_ready()
        engine.add("tick", "o1", capture=["input"])
        engine.add("tick", "o2", capture=["caller"])
        engine.add("tick", "o3", filters={"$and": [{"input.n": {"$lt": 0}}]})
        engine.add("auto", "o4")
        await engine.wait("observerack", id="o4")
        invocation_id = engine.invoke(
            "tick", 7, caller={"worker_name": "far"}, observe_depth=2, traceparent="00-a-b-01"
        )
        await engine.wait("invocationresult", invocation_id=invocation_id)
        assert outcomes == [True, True, False]
        (item,) = (await engine.wait("invocationsobserved"))["items"]
        assert item["matched"] == ["o1", "o2"]
        assert (item["input"], item["caller"]) == ({"n": 7}, {"worker_name": "far"})
        assert (item["invocation_id"], item["observe_depth"], item["duration_ms"]) == (invocation_id, 2, 0)
        assert item["traceparent"] == "00-a-b-01"

        observer = ticking.observers()[1]
        assert await to_thread.run_sync(observer.emit, "from a thread")
        (item,) = (await engine.wait("invocationsobserved", 2))["items"]
        assert item["caller"] == {"worker_id": "w-1", "worker_name": "w"}

        engine.remove("tick", "o2")
        await iii.trigger_async("fence")
        assert not observer.emit("gone")
        auto = next(iter(engine.got("observerack", id="o4")))
        assert "error" not in auto


async def test_auto_functions_deliver_by_themselves() -> None:
    engine = make_engine()
    async with native(engine) as iii:
        function = iii.register_function("auto", echo)
        await iii.wait_ready()
        engine.add("auto", "o1")
        await engine.wait("observerack")
        (observer,) = function.observers()
        with pytest.raises(InvocationError, match="NOT_OWNER_DELIVERED"):
            observer.emit(1)
        with pytest.raises(InvocationError, match="NOT_OWNER_DELIVERED"):
            await observer.call_async(1)


async def test_an_owner_calls_a_target_through_the_engine() -> None:
    """§16.7: with the activation, without a namespace."""
    engine = make_engine()
    engine.answers["jobs::run"] = lambda call: {"result": {"ran": call["data"]}}
    async with native(engine, namespace="orders") as iii:
        function = iii.register_function("tick", echo, observe={"delivery": "owner"})
        await iii.wait_ready()
        engine.add("tick", "o1", target="jobs::run", filters={"$and": [{"input.n": {"$gte": 1}}]})
        await engine.wait("observerack")
        (observer,) = function.observers()
        assert await observer.call_async({"n": 1}) == {"ran": {"n": 1}}
        assert await to_thread.run_sync(lambda: observer.call({"n": 2}, timeout_ms=5000)) == {"ran": {"n": 2}}
        call = engine.calls()[0]
        assert call["activation"] == {"observer_id": "o1"}
        assert "namespace" not in call
        number = len(engine.calls())
        with pytest.raises(InvocationError, match="FILTERS_NOT_MATCHED"):
            await observer.call_async({"n": 0})
        engine.answers["jobs::run"] = lambda call: {"error": {"code": "OBSERVER_NOT_ACTIVE", "message": "gone"}}
        with pytest.raises(InvocationError, match="OBSERVER_NOT_ACTIVE: gone"):
            await observer.call_async({"n": 1})
        engine.remove("tick", "o1")
        await iii.trigger_async("fence", namespace="default")
        with pytest.raises(InvocationError, match="OBSERVER_NOT_ACTIVE: observer o1"):
            await observer.call_async({"n": 1})
        assert len(engine.calls()) == number + 2


async def test_an_owner_rejects_late_and_keeps_saying_so() -> None:
    """§16.4: with the revision of the last acknowledgement; the hook runs when the engine removes it."""
    engine = make_engine()
    engine.observers["tick"] = [{"id": "o1", "target": "t"}]
    removed = anyio.Event()

    async def gone(obs: Observer) -> None:
        removed.set()

    async with native(engine) as iii:
        function = iii.register_function("tick", echo, observe={"delivery": "owner", "on_observer_removed": gone})
        await engine.wait("observerack")
        (observer,) = function.observers()
        await to_thread.run_sync(observer.reject, "RELOADED", "no longer")
        ack = await engine.wait("observerack", 2)
        assert (ack["revision"], ack["error"]) == (1, {"code": "RELOADED", "message": "no longer"})
        assert not observer.emit(1)
        assert function.observers() == []
        await engine.drop()
        ack = await engine.wait("observerack", 3)
        assert (ack["revision"], ack["error"]["code"]) == (2, "RELOADED")
        assert not removed.is_set()
        engine.remove("tick", "o1")
        with fail_after(20):
            await removed.wait()
        engine.add("tick", "o1")
        assert "error" not in await engine.wait("observerack", 4)


async def test_a_rejection_during_the_added_hook_wins() -> None:
    engine = make_engine()

    async def added(obs: Observer) -> None:
        obs.reject("FULL", "no room")

    async with native(engine) as iii:
        function = iii.register_function("tick", echo, observe={"delivery": "owner", "on_observer_added": added})
        await iii.wait_ready()
        engine.add("tick", "o1")
        ack = await engine.wait("observerack")
        assert ack["error"] == {"code": "FULL", "message": "no room"}
        assert not function.is_observed()


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_reports_linger_a_moment_go_in_batches_and_are_not_lost_at_the_end() -> None:
    """P-65: 5 ms, 256 items; §6.8: what is left goes out before the worker closes its link."""
    engine = make_engine()
    engine.observers["f"] = [{"id": "o1", "target": "t"}]
    async with native(engine, patience=None) as iii:
        iii.register_function("f", echo)
        await engine.wait("observerack")
        await iii.wait_ready()
        await iii.trigger_async("f", 0)
        await anyio.sleep(0.004)
        assert engine.got("invocationsobserved") == []
        await iii.trigger_async("f", 1)
        await anyio.sleep(0.002)
        assert [len(report["items"]) for report in engine.got("invocationsobserved")] == [2]
        before = anyio.current_time()
        for number in range(256):
            await iii.trigger_async("f", number)
        await anyio.wait_all_tasks_blocked()
        assert anyio.current_time() == before
        assert [len(report["items"]) for report in engine.got("invocationsobserved")] == [2, 256]
        await iii.trigger_async("f", 2)
    assert [len(report["items"]) for report in engine.got("invocationsobserved")] == [2, 256, 1]
    assert engine.got("localinvocationstats")[-1]["functions"][0]["count"] == 259


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_report_that_no_link_has_carried_is_sent_on_the_next() -> None:
    """The link is lost before the 5 ms are over that a report lingers."""
    engine = make_engine()
    engine.observers["f"] = [{"id": "o1", "target": "t"}]
    async with native(engine, patience=None) as iii:
        iii.register_function("f", echo)
        await engine.wait("observerack")
        await iii.wait_ready()
        await iii.trigger_async("f", "unwritten")
        await engine.leave(iii)
        engine.come_back()
        found = await engine.wait("invocationsobserved")
        assert [item["input"] for item in found["items"]] == ["unwritten"]
