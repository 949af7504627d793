"""Portal: blocking calls from threads, and calls from another event loop, without a socket.

python -m benchmarks.portal
"""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
from anyio import create_task_group
from anyio.from_thread import start_blocking_portal

from iii_anyio import InitOptions, open_worker

from ._scripted import ScriptedEngine, cost_of_script
from ._timing import Row, show

CALLS = 4_000
SIZE = 180


def wall_and_cpu(function: Any, calls: int) -> tuple[float, float]:
    """Wall and CPU microseconds a call, the best of three."""
    best = (float("inf"), float("inf"))
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        best = min(best, ((time.perf_counter() - wall) / calls * 1e6, (time.process_time() - cpu) / calls * 1e6))
    return best


def measure() -> list[Row]:
    """With the worker on asyncio and on trio."""
    rows: list[Row] = []
    script = cost_of_script(SIZE)
    request = {"function_id": "bench::echo", "payload": {"text": "x" * SIZE}}
    for backend in ("asyncio", "trio"):
        with start_blocking_portal(backend) as portal:
            options = InitOptions(handle_signals=False)
            opened = portal.wrap_async_context_manager(open_worker("direct", options, connector=ScriptedEngine()))
            with opened as iii:
                portal.call(iii.wait_ready)
                for threads in (1, 16):

                    def block(threads: int = threads, iii: Any = iii) -> None:
                        def work() -> None:
                            for _ in range(CALLS // threads):
                                iii.trigger(request)

                        workers = [threading.Thread(target=work) for _ in range(threads)]
                        for worker in workers:
                            worker.start()
                        for worker in workers:
                            worker.join()

                    wall, cpu = wall_and_cpu(block, CALLS)
                    rows.append(Row("portal", f"trigger(), {threads} threads, {backend}", cpu - script))
                    rows.append(Row("portal", f"trigger(), {threads} threads, {backend}, waiting included", wall))
                for in_flight in (1, 64):

                    async def foreign(in_flight: int = in_flight, iii: Any = iii) -> None:
                        async def work() -> None:
                            for _ in range(CALLS // in_flight):
                                await iii.trigger_async(request)

                        async with create_task_group() as group:
                            for _ in range(in_flight):
                                group.start_soon(work)

                    _, cpu = wall_and_cpu(lambda f=foreign: anyio.run(f), CALLS)
                    rows.append(Row("portal", f"foreign loop, {in_flight} in flight, {backend}", cpu - script))
    return rows


if __name__ == "__main__":
    show(measure())
