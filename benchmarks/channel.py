"""Channels: megabytes a second through the embedded engine, over sockets and in process.

python -m benchmarks.channel
"""

from __future__ import annotations

import time
from typing import Any

import anyio

from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.helpers import create_channel_async

from ._timing import Row, show

TOTAL = 64 * 1024 * 1024


async def through(piece: int, *, is_direct: bool) -> float:
    """Megabytes a second, writer, engine and reader in this process."""
    options = InitOptions(handle_signals=False)
    async with open_engine(port=None if is_direct else 0, http_port=None, stream_port=None) as engine:
        connector = engine.connector() if is_direct else None
        async with open_worker(engine.url, options, connector=connector) as iii:
            await iii.wait_ready()
            best = 0.0
            for _ in range(3):
                channel = await create_channel_async(iii)
                data = bytes(piece)
                total = min(TOTAL, piece * 20_000)

                async def write(writer: Any = channel.writer, data: bytes = data, total: int = total) -> None:
                    async with writer:
                        for _ in range(total // len(data)):
                            await writer.write(data)

                start = time.perf_counter()
                async with anyio.create_task_group() as group:
                    group.start_soon(write)
                    async for _ in channel.reader:
                        pass
                best = max(best, total / (time.perf_counter() - start) / 1e6)
            return best


def measure() -> list[Row]:
    """By the size of a write."""
    rows: list[Row] = []
    for kind in ("asyncio", "uvloop", "trio"):
        backend = "trio" if kind == "trio" else "asyncio"
        options = {"use_uvloop": True} if kind == "uvloop" else {}
        for piece in (1024, 65_536, 1_048_576):

            async def run(piece: int = piece) -> float:
                return await through(piece, is_direct=False)

            rate = anyio.run(run, backend=backend, backend_options=options)
            rows.append(Row("channel", f"writes of {piece} bytes, {kind}", rate, "MB/s"))
    return rows


if __name__ == "__main__":
    show(measure())
