"""What the engine answers to an enqueued call. Owns the model; below: pydantic; above: the worker's users."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ("EnqueueResult",)


class EnqueueResult(BaseModel, defer_build=True):
    """The answer to ``TriggerAction.Enqueue``; the call itself returns it as a plain dict, as upstream does.

    Attributes:
        messageReceiptId: Id of the queued job, made by the engine.
    """

    messageReceiptId: str
