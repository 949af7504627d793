"""A plain script without ``async``: handlers in threads, calls that block.

Run it: ``python examples/sync_script.py``
"""

from __future__ import annotations

from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel
from where import open_place

from iii_anyio import IIIClient, InitOptions, InvocationError, State, register_worker


class Temperature(BaseModel):
    celsius: float


def fahrenheit(reading: Temperature) -> float:
    """Runs in a thread: it may block, and call others."""
    return reading.celsius * 9 / 5 + 32


def work(iii: IIIClient) -> None:
    iii.register_function("weather::fahrenheit", fahrenheit)
    iii.wait_ready(timeout=10)

    print("20 °C =", iii.trigger("weather::fahrenheit", {"celsius": 20}), "°F")
    try:
        iii.trigger("weather::fahrenheit", {"celsius": "warm"})
    except InvocationError as error:
        print("refused:", error.code)

    state = State(iii)
    state.set("weather", "last", Temperature(celsius=20))
    print("stored:", state.get("weather", "last", model=Temperature))


def main() -> None:
    # Only for an engine inside this script; a program of yours begins with register_worker().
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_place()) as place,
        register_worker(place.url, InitOptions("script")) as iii,
    ):
        work(iii)


if __name__ == "__main__":
    main()
