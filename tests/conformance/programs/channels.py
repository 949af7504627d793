"""Data channels between functions: both directions, text messages beside bytes, references in payloads."""

from __future__ import annotations

import json
import os
from typing import Any

from iii import InitOptions, register_worker
from iii.channel import ChannelReader, ChannelWriter
from iii.helpers import create_channel_async, extract_channel_refs, is_channel_ref

handles: dict[str, Any] = {}


async def process(data: dict) -> dict:
    reader: ChannelReader = data["input"]
    writer: ChannelWriter = data["progress"]
    size = 0
    async for chunk in reader:
        size += len(chunk)
        await writer.send_message_async(json.dumps({"size": size}))
    await writer.write(b"done")
    await writer.close_async()
    return {"size": size}


async def send(data: dict) -> dict:
    iii = handles["worker"]
    upload = await create_channel_async(iii)
    progress = await create_channel_async(iii, 16)
    payload = {
        "input": upload.reader_ref.model_dump(mode="json"),
        "progress": progress.writer_ref.model_dump(mode="json"),
    }
    assert is_channel_ref(payload["input"])
    assert [path for path, _ in extract_channel_refs(payload)] == ["input", "progress"]
    await iii.trigger_async(
        {"function_id": "files::process", "payload": payload, "action": {"type": "void"}, "dispatch": "remote"}
    )
    notes: list[dict] = []
    progress.reader.on_message(lambda text: notes.append(json.loads(text)))
    for _ in range(4):
        await upload.writer.write(b"z" * data["part"])
    await upload.writer.close_async()
    result = await progress.reader.read_all()
    return {"result": result.decode(), "total": notes[-1]["size"]}


def register(iii: Any) -> None:
    handles["worker"] = iii
    iii.register_function("files::process", process)
    iii.register_function("files::send", send)


def use(iii: Any) -> None:
    answer = iii.trigger({"function_id": "files::send", "payload": {"part": 100_000}})
    assert answer == {"result": "done", "total": 400_000}


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="files"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
