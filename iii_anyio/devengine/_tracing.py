"""Trace context of what the engine itself starts: requests and ticks. OpenTelemetry is not involved.

Above: the built-in workers that fire functions.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager

from .._runtime.context import Invocation, current

__all__ = ("new_traceparent", "traced")


def new_traceparent() -> str:
    """A ``traceparent`` that begins a trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


@contextmanager
def traced(owner: object, traceparent: str) -> Generator[None]:
    """Have the calls made inside carry this ``traceparent``: the worker takes it from the running invocation."""
    token = current.set(Invocation(owner, "", None, None, traceparent, None))
    try:
        yield
    finally:
        current.reset(token)
