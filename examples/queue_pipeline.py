"""A pipeline of queues: an order is charged and shipped, a card that is refused ends among the dead letters.

Then somebody mends the cause and runs the dead job again. Run it: ``python examples/queue_pipeline.py``
"""

from __future__ import annotations

from typing import Any

import anyio
from pydantic import BaseModel
from where import open_place

from iii_anyio import App, Context, InvocationError, State, TriggerAction, Worker, open_worker
from iii_anyio.state import StateEventData

app = App("pipeline")
blocked_cards = {"4000"}
shipped: dict[str, anyio.Event] = {}


class Order(BaseModel):
    number: str
    card: str


@app.function("pipeline::charge")
async def charge(order: Order, iii: Worker, context: Context) -> None:
    """A job: when it raises, the queue runs it again, each time after a longer pause."""
    if order.card in blocked_cards:
        print(f"charge {order.number}: attempt {context.attempt or '?'}, the card is refused")
        raise InvocationError("card_refused", f"card {order.card} is refused")
    print(f"charge {order.number}: paid")
    await iii.trigger_async("pipeline::ship", order, action=TriggerAction.Enqueue(queue="pipeline-ship"))


@app.function("pipeline::ship", concurrency=2)
async def ship(order: Order, state: State) -> None:
    # A job may run twice: what it does has to bear that. Setting a key does.
    await state.set_async("pipeline", order.number, "shipped")


@app.on_state("pipeline")
async def tell(event: StateEventData[str]) -> None:
    print(f"order {event.key}: {event.new_value}")
    shipped[event.key].set()


async def dead_letters(iii: Worker) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = await iii.trigger_async(
        "engine::queue::dlq_messages", {"topic": "pipeline-charge"}
    )
    return messages


async def main() -> None:
    async with open_place() as place, open_worker(place.url) as iii, app.attach(iii):
        for queue in ("pipeline-charge", "pipeline-ship"):
            config = {"max_retries": 2, "backoff_ms": 50, "concurrency": 4}
            await iii.trigger_async("queue::define", {"queue": queue, "config": config})
        await iii.wait_ready()

        for number, card in (("A-1", "1111"), ("A-2", "4000")):
            shipped[number] = anyio.Event()
            to_charge = TriggerAction.Enqueue(queue="pipeline-charge")
            receipt = await iii.trigger_async("pipeline::charge", Order(number=number, card=card), action=to_charge)
            assert receipt["messageReceiptId"]  # it is kept from here on
        with anyio.fail_after(10):
            await shipped["A-1"].wait()
            while not (dead := await dead_letters(iii)):  # noqa: ASYNC110 - the engine announces them to nobody
                await anyio.sleep(0.05)
        print(f"dead: {dead[0]['payload']['number']}, because {dead[0]['error']}")

        blocked_cards.clear()
        again = await iii.trigger_async("iii::queue::redrive", {"queue": "pipeline-charge"})
        print(f"redriven: {again['redriven']}")
        with anyio.fail_after(10):
            await shipped["A-2"].wait()
        print(f"dead letters left: {len(await dead_letters(iii))}")


if __name__ == "__main__":
    anyio.run(main)
