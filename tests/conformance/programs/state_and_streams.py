"""State and streams by the engine's functions, with the models and update operations, and a trigger on a stream."""

from __future__ import annotations

import os
import queue
from typing import Any

from iii import InitOptions, register_worker
from iii.state import StateGetInput, StateSetInput, StateSetResult, StateUpdateInput
from iii_helpers.stream import (
    StreamChangeEvent,
    StreamSetInput,
    StreamTriggerConfig,
    StreamUpdateInput,
    UpdateAppend,
    UpdateIncrement,
    UpdateMerge,
    UpdateRemove,
    UpdateSet,
)

changes: queue.Queue[Any] = queue.Queue()


async def changed(data: dict) -> None:
    changes.put(StreamChangeEvent(**data))


def register(iii: Any) -> None:
    iii.register_function("chat::changed", changed)
    iii.register_trigger(
        {
            "type": "stream",
            "function_id": "chat::changed",
            "config": StreamTriggerConfig(stream_name="chat", group_id="room"),
        }
    )


def call(iii: Any, function_id: str, payload: Any) -> Any:
    return iii.trigger({"function_id": function_id, "payload": payload})


def use(iii: Any) -> None:
    result = call(iii, "state::set", StateSetInput(scope="users", key="u1", value={"n": 1, "tags": []}))
    assert StateSetResult(**result).new_value == {"n": 1, "tags": []}
    ops = [
        UpdateIncrement(path="n", by=2),
        UpdateAppend(path="tags", value="new"),
        UpdateSet(path="name", value="Ada"),
        UpdateMerge(value={"active": True}),
        UpdateRemove(path="active"),
    ]
    updated = call(iii, "state::update", StateUpdateInput(scope="users", key="u1", ops=ops))
    assert updated["new_value"] == {"n": 3, "tags": ["new"], "name": "Ada"}
    assert call(iii, "state::get", StateGetInput(scope="users", key="u1")) == updated["new_value"]
    assert call(iii, "state::list", {"scope": "users"}) == [updated["new_value"]]
    assert call(iii, "state::delete", {"scope": "users", "key": "u1"}) is not None
    assert call(iii, "state::get", {"scope": "users", "key": "u1"}) is None

    item = {"stream_name": "chat", "group_id": "room", "item_id": "m1"}
    while changes.empty():
        call(iii, "stream::set", StreamSetInput(**item, data={"text": "hi"}))
    event = changes.get()
    assert (event.streamName, event.groupId, event.id, event.event.data) == ("chat", "room", "m1", {"text": "hi"})
    call(iii, "stream::update", StreamUpdateInput(**item, ops=[UpdateSet(path="text", value="ho")]))
    assert call(iii, "stream::get", item) == {"text": "ho"}
    assert call(iii, "stream::list", {"stream_name": "chat", "group_id": "room"}) == [{"text": "ho"}]
    assert call(iii, "stream::list_groups", {"stream_name": "chat"}) == ["room"]
    call(iii, "stream::delete", item)
    assert call(iii, "stream::get", item) is None


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="storage"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
