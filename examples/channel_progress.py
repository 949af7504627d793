"""Megabytes through a data channel to another worker, with a progress bar (rich, of the extra ``cli``).

Run it: ``python examples/channel_progress.py``
"""

from __future__ import annotations

import hashlib
from typing import Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
from where import open_place

from iii_anyio import InitOptions, open_worker
from iii_anyio.channel import ChannelReader, create_channel_async

SIZE, CHUNK = 8 * 1024 * 1024, 256 * 1024


async def digest(upload: dict[str, Any]) -> dict[str, Any]:
    """The reference in the payload has become a live reader; the file is never whole in memory."""
    reader: ChannelReader = upload["reader"]
    seen, hashed = 0, hashlib.sha256()
    async for chunk in reader:
        hashed.update(chunk)
        seen += len(chunk)
    return {"name": upload["name"], "bytes": seen, "sha256": hashed.hexdigest()}


async def main() -> None:
    console = Console()
    async with (
        open_place() as place,
        open_worker(place.url, InitOptions("store")) as store,
        open_worker(place.url, InitOptions("client")) as client,
    ):
        store.register_function("store::digest", digest)
        await store.wait_ready()

        channel = await create_channel_async(client)
        answers: list[dict[str, Any]] = []

        async def call() -> None:
            answers.append(await client.trigger_async("store::digest", {"name": "film", "reader": channel.reader_ref}))

        expected = hashlib.sha256()
        columns = ("sending", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            with Progress(*columns, console=console) as progress:
                bar = progress.add_task("sending", total=SIZE)
                async with channel.writer as writer:  # leaving it says that this was all
                    for number in range(SIZE // CHUNK):
                        chunk = number.to_bytes(2, "big") * (CHUNK // 2)
                        expected.update(chunk)
                        await writer.write(chunk)  # waits when the reader is slower
                        progress.advance(bar, CHUNK)
    [answer] = answers
    print(f"{answer['name']}: {answer['bytes']} bytes arrived, intact: {answer['sha256'] == expected.hexdigest()}")


if __name__ == "__main__":
    anyio.run(main)
