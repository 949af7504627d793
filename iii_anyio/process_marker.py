"""The file by which ``iii ps`` finds a worker however it was started: ``~/.iii/run/worker-<pid>-<n>.json``.

Best effort: where it cannot be written, the worker is only harder to find. One that a killed process leaves behind is
ignored, for its process is gone. Below: the codec. Above: whoever runs a worker.
"""

from __future__ import annotations

import atexit
import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ._protocol.codec import to_json

__all__ = ("announce_process",)

_numbers: Final = itertools.count(1)


def announce_process(url: str, name: str, directory: Path | None = None) -> Callable[[], None]:
    """Write the marker of one worker of this process. Touches the disk, so not on an event loop.

    Args:
        url: Of the engine.
        name: Of the worker.
        directory: By default ``~/.iii/run``.

    Returns:
        Removes the marker; happens at the end of the process as well.
    """
    pid = os.getpid()
    marker: Path | None = None
    # RuntimeError: there is no home directory. ValueError: a name that is no Unicode text.
    with suppress(OSError, RuntimeError, ValueError):
        directory = directory if directory is not None else Path.home() / ".iii" / "run"
        directory.mkdir(parents=True, exist_ok=True)
        marker = directory / f"worker-{pid}-{next(_numbers)}.json"
        started = int(time.time() * 1000)
        marker.write_bytes(to_json({"pid": pid, "url": url, "name": name, "sdk": "python", "started_at": started}))

    def remove() -> None:
        atexit.unregister(remove)
        # A forked child runs this too, and the marker is its parent's.
        if marker is not None and os.getpid() == pid:
            with suppress(OSError):
                marker.unlink()

    if marker is not None:
        atexit.register(remove)
    return remove
