"""``State`` and ``Stream`` over the functions of the engine (ST-1 to ST-9, SR-1 to SR-6), here a table in memory."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, assert_type

import iii_helpers.stream as upstream
import pytest
from anyio import fail_after
from pydantic import BaseModel, Field, ValidationError

from iii_anyio import InvocationError
from iii_anyio._protocol.codec import from_json, to_json
from iii_anyio.abc import Invoker
from iii_anyio.state import IState, State, StateEventData, StateEventType, StateSetResult, StateUpdateResult
from iii_anyio.stream import Stream, StreamSetResult, UpdateIncrement, UpdateMerge, UpdateOp, UpdateOpError, UpdateSet


class Order(BaseModel):
    customer_name: str = Field(alias="customerName")
    n: int = 0


ADA = Order(customerName="Ada")
NO_NUMBER = {"op_index": 0, "code": "increment.not_number", "message": "no number"}


class MemoryEngine:
    """The functions of ``iii-state`` and ``iii-stream``, and of update operations the ones that are used here."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], Any] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[dict[str, Any]] = []

    def trigger(self, request: Any, /) -> Any:
        call: dict[str, Any] = from_json(to_json(request))  # models are dumped as on the way to an engine
        function_id, payload = call["function_id"], call["payload"]
        if call.get("namespace") != "default":
            raise InvocationError("function_not_found", f"no {function_id} in {call.get('namespace')}")
        self.calls.append((function_id, payload))
        kind, _, name = function_id.partition("::")
        names = ("scope", "key") if kind == "state" else ("stream_name", "group_id", "item_id")
        place = tuple(payload[name] for name in names if name in payload)
        old = self.values.get(place)
        match name:
            case "get":
                return old
            case "set":
                new = self.values[place] = payload["value" if kind == "state" else "data"]
                return {"old_value": old, "new_value": new}
            case "delete":
                self.values.pop(place, None)
                return old if kind == "state" else {"old_value": old}  # ST-2, SR-2
            case "update":
                new, errors = updated(old, payload["ops"])
                self.values[place] = new
                return {"old_value": old, "new_value": new} | ({"errors": errors} if errors else {})
            case "list":
                return [value for at, value in self.values.items() if at[:-1] == place]
            case "list_groups":
                groups = {at[len(place)] for at in self.values if len(at) == len(names) and at[: len(place)] == place}
                return {"groups": sorted(groups)} if kind == "state" else sorted(groups)
            case "send":
                self.sent.append(payload)
                return None
            case _:
                raise InvocationError("function_not_found", function_id)

    async def trigger_async(self, request: Any, /) -> Any:
        return self.trigger(request)


def updated(old: Any, ops: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    new, errors = dict(old or {}), []
    for index, op in enumerate(ops):
        match op:
            case {"type": "set", "path": path, "value": value}:
                new[path] = value
            case {"type": "merge", "value": value}:
                assert "path" not in op
                new |= value
            case {"type": "increment", "path": path, "by": by} if isinstance(new.get(path, 0), int):
                new[path] = new.get(path, 0) + by
            case {"type": "increment"}:
                errors.append({**NO_NUMBER, "op_index": index})
            case _:
                pytest.fail(f"not used here: {op}")
    return new, errors


class Twins:
    """One helper behind both of its faces: ``await twins.get(...)`` calls ``get`` or awaits ``get_async``."""

    def __init__(self, helper: State | Stream, is_async: bool) -> None:
        self.helper, self.is_async = helper, is_async

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with fail_after(20):
                if self.is_async:
                    return await getattr(self.helper, name + "_async")(*args, **kwargs)
                return getattr(self.helper, name)(*args, **kwargs)

        return call


pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture(params=["blocking", "awaiting"])
def state(engine: MemoryEngine, request: pytest.FixtureRequest) -> Twins:
    return Twins(State(engine), request.param == "awaiting")


@pytest.fixture(params=["blocking", "awaiting"])
def chat(engine: MemoryEngine, request: pytest.FixtureRequest) -> Twins:
    return Twins(Stream(engine, "chat"), request.param == "awaiting")


# -- state -----------------------------------------------------------------------------------------------------------


async def test_a_value_is_set_read_and_deleted(state: Twins, engine: MemoryEngine) -> None:
    """ST-1, ST-2: a new key has the old value None; a deletion gives the value itself."""
    assert await state.get("users", "u1") is None
    assert await state.set("users", "u1", {"n": 1}) == StateSetResult[Any](old_value=None, new_value={"n": 1})
    assert await state.set("users", "u1", {"n": 2}) == StateSetResult[Any](old_value={"n": 1}, new_value={"n": 2})
    assert await state.get("users", "u1") == {"n": 2}
    assert await state.delete("users", "u1") == {"n": 2}
    assert await state.delete("users", "u1") is None
    assert engine.calls[1] == ("state::set", {"scope": "users", "key": "u1", "value": {"n": 1}})
    assert engine.calls[-1] == ("state::delete", {"scope": "users", "key": "u1"})


async def test_a_deleted_value_that_looks_like_a_result_is_given_as_it_is(state: Twins) -> None:
    """ST-2: it is no ``StateDeleteResult``."""
    await state.set("users", "u1", {"old_value": 5})
    assert await state.delete("users", "u1") == {"old_value": 5}


async def test_values_are_models_when_asked_for(state: Twins, engine: MemoryEngine) -> None:
    written = await state.set("orders", "o1", ADA, model=Order)
    assert engine.values["orders", "o1"] == {"customerName": "Ada", "n": 0}, "models are sent by alias"
    assert (written.old_value, written.new_value) == (None, ADA)
    assert (await state.set("orders", "o1", ADA, model=Order)).old_value == ADA
    assert await state.get("orders", "o1", model=Order) == ADA
    assert await state.list("orders", model=Order) == [ADA]
    changed = await state.update("orders", "o1", [UpdateIncrement(path="n", by=2)], model=Order)
    assert (changed.old_value, changed.new_value.n) == (ADA, 2)
    assert await state.delete("orders", "o1", model=Order) == Order(customerName="Ada", n=2)
    assert await state.get("orders", "o1", model=Order) is None


async def test_any_type_that_pydantic_knows_is_a_model(state: Twins) -> None:
    await state.set("counts", "c1", ["1", 2])
    assert await state.get("counts", "c1", model=list[int]) == [1, 2]
    assert (await state.set("counts", "c1", {"a": "1"}, model=dict[str, int] | list[int])).old_value == [1, 2]


async def test_a_value_that_does_not_fit_the_model_is_refused(state: Twins, engine: MemoryEngine) -> None:
    await state.set("orders", "o1", {"n": 1})
    with pytest.raises(ValidationError, match="customerName"):
        await state.get("orders", "o1", model=Order)
    with pytest.raises(ValidationError, match="customerName"):
        await state.list("orders", model=Order)
    with pytest.raises(ValidationError, match="customerName"):
        await state.set("orders", "o1", ADA, model=Order)
    assert engine.values["orders", "o1"] == ADA.model_dump(by_alias=True), "the write came before"


async def test_a_stored_null_is_listed_and_reads_as_nothing(state: Twins) -> None:
    """ST-4."""
    await state.set("users", "u1", None)
    assert await state.get("users", "u1", model=Order) is None
    assert await state.list("users") == [None]


async def test_an_update_applies_what_it_can_and_tells_the_rest(state: Twins) -> None:
    """ST-7, ST-8: a key that was not there is made; errors are no failure of the call."""
    ops: list[UpdateOp | dict[str, Any]] = [
        UpdateSet(path="name", value="Ada"),
        {"type": "increment", "path": "name", "by": 1},
        UpdateMerge(value={"n": 1}),
        upstream.UpdateIncrement(path="n", by=1),  # type: ignore[list-item]
    ]
    assert await state.update("users", "u1", ops) == StateUpdateResult[Any](
        new_value={"name": "Ada", "n": 2},
        errors=[UpdateOpError(op_index=1, code="increment.not_number", message="no number")],
    )
    assert (await state.update("users", "u1", ())).errors == []


async def test_an_operation_that_is_none_is_not_sent(state: Twins, engine: MemoryEngine) -> None:
    with pytest.raises(ValidationError, match="push"):
        await state.update("users", "u1", [{"type": "push", "path": "a"}])
    assert engine.calls == []


async def test_scopes_and_their_values_are_listed(state: Twins) -> None:
    assert await state.list_groups() == []
    assert await state.list("users") == []
    await state.set("users", "u2", 2)
    await state.set("orders", "o1", 1)
    await state.set("users", "u1", 1)
    assert await state.list("users") == [2, 1]
    assert await state.list_groups() == ["orders", "users"]


async def test_errors_of_the_engine_come_through(state: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    """ST-9."""

    def refuse(_: object, request: Any) -> Any:
        raise InvocationError("VALUE_TOO_LARGE", "9 bytes", request["function_id"])

    monkeypatch.setattr(MemoryEngine, "trigger", refuse)
    with pytest.raises(InvocationError, match="VALUE_TOO_LARGE"):
        await state.set("users", "u1", "123456789")


def test_a_state_event_is_read_by_attribute_and_by_key() -> None:
    """ST-10, with upstream's enum and with ours."""
    payload = {
        "type": "state",
        "event_type": "state:updated",
        "scope": "orders",
        "key": "o1",
        "old_value": None,
        "new_value": {"customerName": "Ada"},
    }
    event = StateEventData[Order].model_validate(payload)
    assert event.event_type is StateEventType.UPDATED
    assert str(event.event_type) == "state:updated"
    assert (event.new_value, event["old_value"], event["key"]) == (ADA, None, "o1")


def test_a_state_of_your_own_has_all_five_operations() -> None:
    with pytest.raises(TypeError, match=r"delete.*get.*list.*set.*update"):
        IState()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


# -- streams ---------------------------------------------------------------------------------------------------------


async def test_an_item_is_set_read_and_deleted(chat: Twins, engine: MemoryEngine) -> None:
    """SR-1, SR-2: other names than state's, and a deletion that answers an object."""
    assert await chat.get("room1", "m1") is None
    assert await chat.set("room1", "m1", {"t": "hi"}) == StreamSetResult[Any](new_value={"t": "hi"})
    assert await chat.get("room1", "m1") == {"t": "hi"}
    assert await chat.delete("room1", "m1") == {"t": "hi"}
    assert await chat.delete("room1", "m1") is None
    place = {"stream_name": "chat", "group_id": "room1", "item_id": "m1"}
    assert engine.calls == [
        ("stream::get", place),
        ("stream::set", {**place, "data": {"t": "hi"}}),
        ("stream::get", place),
        ("stream::delete", place),
        ("stream::delete", place),
    ]


async def test_items_are_models_when_asked_for(chat: Twins) -> None:
    assert (await chat.set("room1", "m1", ADA, model=Order)).new_value == ADA
    assert await chat.get("room1", "m1", model=Order) == ADA
    assert await chat.list("room1", model=Order) == [ADA]
    changed = await chat.update("room1", "m1", [UpdateIncrement(path="n", by=1)], model=Order)
    assert (changed.old_value, changed.new_value.n, changed.errors) == (ADA, 1, [])
    assert (await chat.delete("room1", "m1", model=Order)).n == 1


async def test_groups_are_a_bare_array(chat: Twins, engine: MemoryEngine) -> None:
    """SR-2."""
    await chat.set("room2", "m1", 1)
    await chat.set("room1", "m1", 2)
    engine.values["mail", "inbox", "x"] = "of another stream"
    assert sorted(await chat.list_groups()) == ["room1", "room2"]
    assert await chat.list("room1") == [2]


async def test_a_message_is_sent_to_a_group_or_about_an_item(chat: Twins, engine: MemoryEngine) -> None:
    """SR-6: without an item there is no ``id``."""
    assert await chat.send("room1", "typing", {"who": "Ada"}) is None
    await chat.send("room1", "seen", None, item_id="m1")
    assert engine.sent == [
        {"stream_name": "chat", "group_id": "room1", "type": "typing", "data": {"who": "Ada"}},
        {"stream_name": "chat", "group_id": "room1", "type": "seen", "data": None, "id": "m1"},
    ]
    assert engine.values == {}


# -- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [State, Stream])
def test_each_operation_has_a_blocking_and_an_awaiting_twin(cls: type) -> None:
    """As ``trigger`` and ``trigger_async``: same parameters, same result."""
    names = {name for name in vars(cls) if not name.startswith("_")}
    blocking = {name for name in names if not name.endswith("_async")}
    assert names == blocking | {f"{name}_async" for name in blocking}
    for name in blocking:
        block, awaiting = getattr(cls, name), getattr(cls, f"{name}_async")
        assert inspect.signature(block) == inspect.signature(awaiting)
        assert inspect.iscoroutinefunction(awaiting)
        assert not inspect.iscoroutinefunction(block)


def test_a_worker_is_what_they_need() -> None:
    def check(invoker: Invoker) -> Invoker:
        return invoker

    assert repr(Stream(check(MemoryEngine()), "chat")) == "<Stream chat>"


def test_type_checkers_know_what_a_model_brings() -> None:
    """The assertions are theirs."""
    state, chat = State(MemoryEngine()), Stream(MemoryEngine(), "chat")
    assert_type(state.get("orders", "o1", model=Order), Order | None)
    assert_type(state.list("orders", model=dict[str, int]), list[dict[str, int]])
    assert_type(chat.get("orders", "o1"), Any | None)
    written = chat.set("orders", "o1", ADA, model=Order)
    assert_type(written.new_value, Order)
    assert_type(written.old_value, Order | None)
    assert_type(state.set("orders", "o1", 1).new_value, Any)
