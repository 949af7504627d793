"""Functions for the tests of handlers in processes, which import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from iii_anyio import InvocationError, State
from iii_anyio.observability import current_span_id, current_trace_id, get_all_baggage


class Job(BaseModel):
    """What to do."""

    of: int
    by: int = 1


def divide(job: Job, metadata: Any) -> dict[str, Any]:
    """Work."""
    if job.by < 0:
        raise InvocationError("negative", "by is below 0")
    return {"result": job.of / job.by, "pid": os.getpid(), "metadata": metadata}


def die(_: Any) -> None:
    """End the process without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(path: str) -> None:
    """Say which process this is, and block it."""
    Path(path).write_text(str(os.getpid()), "utf-8")
    time.sleep(60)


def interrupts(_: Any) -> str:
    """What happens to Ctrl-C here."""
    os.kill(os.getpid(), signal.SIGINT)
    return "went on"


def asks(data: Any, state: State) -> None:
    """Want what a process does not have."""


async def waits(data: Any) -> None:
    """Be no work for a process."""


def traced(_: Any) -> dict[str, Any]:
    """Which trace this is, as the process sees it."""
    return {"ids": [current_trace_id(), current_span_id()], "baggage": get_all_baggage(), "pid": os.getpid()}
