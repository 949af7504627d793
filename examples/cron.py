"""Two schedules: one that ticks each second, and one that says by a condition when not to.

Run it: ``python examples/cron.py``; it ends after a few seconds.
"""

from __future__ import annotations

import anyio
from where import open_place

from iii_anyio import App, open_worker
from iii_anyio.triggers import CronEvent

app = App("clock")
ticks: list[CronEvent] = []
enough = anyio.Event()


@app.cron("* * * * * *")  # six fields, seconds first, in UTC
async def tick(event: CronEvent) -> None:
    ticks.append(event)
    print(f"tick {len(ticks)}: due {event.scheduled_time:%H:%M:%S}, came {event.actual_time:%H:%M:%S}")
    if len(ticks) == 2:
        enough.set()


@app.function("clock::is_open")
async def is_open(event: CronEvent) -> bool:
    return False


@app.cron("* * * * * *", condition_function_id="clock::is_open")
async def while_open(event: CronEvent) -> None:
    print("never: the condition says no")


async def main() -> None:
    async with open_place() as place, open_worker(place.url) as iii, app.attach(iii):
        await iii.wait_ready()
        with anyio.fail_after(10):
            await enough.wait()
    print(f"seconds between them: {(ticks[1].scheduled_time - ticks[0].scheduled_time).total_seconds():g}")


if __name__ == "__main__":
    anyio.run(main)
