"""A stream of one's own behind the engine's stream functions: IStream and create_stream."""

from __future__ import annotations

import os
import warnings
from typing import Any

from iii import InitOptions, register_worker
from iii.helpers import create_stream
from iii_helpers.stream import (
    StreamDeleteInput,
    StreamDeleteResult,
    StreamGetInput,
    StreamListGroupsInput,
    StreamListInput,
    StreamSetInput,
    StreamSetResult,
    StreamUpdateInput,
    StreamUpdateResult,
)

warnings.filterwarnings("ignore", category=FutureWarning)

from iii.stream import IStream  # noqa: E402 - behind the filter, as programs have it


class Todos(IStream[dict]):
    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict] = {}

    async def get(self, input: StreamGetInput) -> dict | None:
        return self.items.get((input.group_id, input.item_id))

    async def set(self, input: StreamSetInput) -> StreamSetResult[dict] | None:
        old = self.items.get((input.group_id, input.item_id))
        self.items[input.group_id, input.item_id] = input.data
        return StreamSetResult(old_value=old, new_value=input.data)

    async def delete(self, input: StreamDeleteInput) -> StreamDeleteResult:
        return StreamDeleteResult(old_value=self.items.pop((input.group_id, input.item_id), None))

    async def list(self, input: StreamListInput) -> list[dict]:
        return [item for (group, _), item in self.items.items() if group == input.group_id]

    async def list_groups(self, input: StreamListGroupsInput) -> list[str]:
        return sorted({group for group, _ in self.items})

    async def update(self, input: StreamUpdateInput) -> StreamUpdateResult[dict] | None:
        return None


todos = Todos()


def register(iii: Any) -> None:
    create_stream(iii, "todos", todos)


def use(iii: Any) -> None:
    def call(name: str, **payload: Any) -> Any:
        return iii.trigger({"function_id": f"stream::{name}", "payload": {"stream_name": "todos", **payload}})

    while not todos.items:  # until the engine knows who keeps this stream
        call("set", group_id="home", item_id="1", data={"text": "sweep"})
    assert call("get", group_id="home", item_id="1") == {"text": "sweep"}
    assert call("set", group_id="home", item_id="1", data={"text": "wash"})["old_value"] == {"text": "sweep"}
    assert call("list", group_id="home") == [{"text": "wash"}]
    assert call("list_groups") == ["home"]
    assert call("delete", group_id="home", item_id="1")["old_value"] == {"text": "wash"}
    assert todos.items == {}


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="todos"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
