"""One function for every built-in type of trigger, and what makes each of them fire.

Run it: ``python examples/triggers.py``
"""

from __future__ import annotations

from typing import Any

import anyio
import httpx
from where import Place, open_place

from iii_anyio import ApiRequest, App, InitOptions, Logger, State, Stream, Worker, open_worker
from iii_anyio.state import StateEventData
from iii_anyio.stream import StreamChangeEvent
from iii_anyio.triggers import (
    ConfigurationEvent,
    ConfigurationTrigger,
    CronEvent,
    FunctionsAvailableEvent,
    FunctionsAvailableTrigger,
    LogEvent,
    LogTrigger,
    TraceEvent,
    TraceTrigger,
    WorkersAvailableEvent,
    WorkersAvailableTrigger,
)

app = App("every")
KINDS = (
    "configuration",
    "cron",
    "functions",
    "http",
    "log",
    "queue",
    "state",
    "stream",
    "subscribe",
    "trace",
    "workers",
)
fired: dict[str, str] = {}
all_fired = anyio.Event()


def note(kind: str, what: object) -> None:
    fired.setdefault(kind, str(what))
    if len(fired) == len(KINDS):
        all_fired.set()


@app.http("GET", "/every/:name")
async def on_http(request: ApiRequest[None], logger: Logger) -> dict[str, Any]:
    note("http", f"{request.method} for {request.path_params['name']}")
    logger.error("an error, for the log trigger")
    return {"status_code": 200, "body": "thanks"}


@app.cron("* * * * * *")  # each second
async def on_cron(event: CronEvent) -> None:
    note("cron", f"tick of {event.scheduled_time:%H:%M:%S}")


@app.queue("every-mail")
async def on_queue(mail: dict[str, Any]) -> None:
    note("queue", mail)


@app.subscribe("every-news")
async def on_news(news: str) -> None:
    note("subscribe", news)


@app.on_state("every", "light")
async def on_state(event: StateEventData[str]) -> None:
    note("state", f"{event.key} is {event.new_value}")


@app.on_stream("every-chat")
async def on_stream(event: StreamChangeEvent) -> None:
    note("stream", f"{event.event.type} in {event.groupId}")


@app.on_trigger(ConfigurationTrigger(configuration_id="every-limits"))
async def on_configuration(event: ConfigurationEvent) -> None:
    note("configuration", f"{event.event_type} of {event.id}")


@app.on_trigger(LogTrigger(level="error"))
async def on_log(event: LogEvent) -> None:
    note("log", event.body)


@app.on_trigger(TraceTrigger())
async def on_trace(event: TraceEvent) -> None:
    note("trace", "new spans" if event.trace_ids else "")


@app.on_trigger(WorkersAvailableTrigger())
async def on_workers(event: WorkersAvailableEvent) -> None:
    note("workers", event.event)


@app.on_trigger(FunctionsAvailableTrigger())
async def on_functions(event: FunctionsAvailableEvent) -> None:
    note("functions", event.event)


async def fire_everything(iii: Worker, place: Place) -> None:
    async with httpx.AsyncClient(base_url=place.http_url) as client:
        await client.get("/every/Ada")
    await iii.trigger_async("iii::durable::publish", {"topic": "every-mail", "data": {"to": "Ada"}})
    await iii.trigger_async("publish", {"topic": "every-news", "data": "it rains"})
    await State(iii).set_async("every", "light", "on")
    await Stream(iii, "every-chat").set_async("lobby", "m1", {"text": "hello"})
    schema = {"type": "object"}
    limits = {"id": "every-limits", "name": "Limits", "description": "How much", "schema": schema}
    await iii.trigger_async("configuration::register", {**limits, "initial_value": {"n": 1}})


async def main() -> None:
    options = InitOptions(otel=True)  # without it, logs and spans stay in this process
    async with open_place() as place, open_worker(place.url, options) as iii, app.attach(iii):
        await iii.wait_ready()
        await fire_everything(iii, place)
        async with open_worker(place.url) as another:  # workers and functions come and go
            another.register_function("every::another", lambda: None)
            await another.wait_ready()
            with anyio.move_on_after(10):
                await all_fired.wait()
    for kind in KINDS:
        print(f"{kind:14}{fired.get(kind, 'did not fire')}")


if __name__ == "__main__":
    anyio.run(main)
