"""The socket ``/otel``: telemetry frames in, nothing out (§15, OB-2).

It is no worker's connection: nobody is told of it, text and other binary messages are passed over. Below: a
``WebSocketWire``. Above: ``_engine``, in whose task for the connection it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._runtime.cleanup import last_words
from ._telemetry import PREFIXES

if TYPE_CHECKING:
    from .._wire.websocket import WebSocketWire
    from ._telemetry import Telemetry

__all__ = ("OTEL_PATH", "serve_otel")

OTEL_PATH: Final = "/otel"
CLOSE_TIMEOUT: Final = 1.0


async def serve_otel(wire: WebSocketWire, telemetry: Telemetry, ip_address: str) -> None:
    """Take what one exporter sends, until it leaves or the engine ends.

    Raises:
        LinkClosed: The peer is gone.
    """
    peer = f"an exporter at {ip_address}"
    try:
        while True:
            for is_text, message in await wire.receive_typed():
                if not is_text and message[:4] in PREFIXES:
                    telemetry.receive(message, peer)
            wire.pongs.clear()
    finally:
        with last_words(CLOSE_TIMEOUT):
            await wire.aclose(1001, "the engine is stopping")
