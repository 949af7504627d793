"""State that others react to: every sale changes the stock, and low stock orders more, wherever the sale was made.

Run it: ``python examples/reactive_state.py``
"""

from __future__ import annotations

import anyio
from pydantic import BaseModel
from where import open_place

from iii_anyio import App, State, open_worker
from iii_anyio.state import StateEventData

app = App("stock")
refilled = anyio.Event()


class Item(BaseModel):
    count: int = 0
    sold: int = 0


@app.function()
async def sell(sku: str, state: State) -> Item:
    """Changes several fields at once, and no sale is lost when two happen together."""
    changes = [{"type": "decrement", "path": "count", "by": 1}, {"type": "increment", "path": "sold", "by": 1}]
    return (await state.update_async("stock", sku, changes, model=Item)).new_value


@app.function("stock::is_low")
async def is_low(event: StateEventData[Item]) -> bool:
    return event.new_value is not None and event.new_value.count == 2


@app.on_state("stock", condition_function_id="stock::is_low")
async def refill(event: StateEventData[Item], state: State) -> None:
    print(f"{event.key} is low ({event.new_value and event.new_value.count}), ordering ten")
    await state.update_async("stock", event.key, [{"type": "increment", "path": "count", "by": 10}])
    refilled.set()


async def main() -> None:
    async with open_place() as place, open_worker(place.url) as iii, app.attach(iii):
        state = State(iii)
        await state.set_async("stock", "tea", Item(count=4))
        await iii.wait_ready()
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(iii.trigger_async, "stock::sell", "tea")
        with anyio.fail_after(5):
            await refilled.wait()
        print("in the end:", await state.get_async("stock", "tea", model=Item))
        await state.delete_async("stock", "tea")


if __name__ == "__main__":
    anyio.run(main)
