"""Where frames end in a stream of WebSocket bytes, so that a fault can hit one in the middle, or come between two.

Not a parser: it looks at the length of each frame, and lets everything else through.
"""

from __future__ import annotations

from typing import Final

__all__ = ("Frames", "close_frame", "cut_point")

_HEAD_END: Final = b"\r\n\r\n"


class Frames:
    """Follows one direction of a connection: an HTTP head, then frames."""

    def __init__(self) -> None:
        self.has_head = False
        """Whether the handshake's message has passed."""
        self._head = b""
        self._header = b""
        self._left = 0

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a frame."""
        return self.has_head and not self._header and not self._left

    def feed(self, data: bytes) -> list[int]:
        """Take the next bytes; returns the places in them behind the end of the head and of each frame."""
        ends: list[int] = []
        at = 0
        if not self.has_head:
            before = len(self._head)
            self._head += data
            end = self._head.find(_HEAD_END)
            if end < 0:
                return ends
            at = end + len(_HEAD_END) - before
            self.has_head, self._head = True, b""
            ends.append(at)
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                self._header += data[at : at + 1]
                at += 1
                length = _payload_length(self._header)
                if length is None:
                    continue
                self._left, self._header = length, b""
            if not self._left:
                ends.append(at)
        return ends


def _payload_length(header: bytes) -> int | None:
    """Bytes behind a frame's header; None when it is not complete."""
    if len(header) < 2:
        return None
    short = header[1] & 0x7F
    more = {126: 2, 127: 8}.get(short, 0)
    mask = 4 if header[1] & 0x80 else 0
    if len(header) < 2 + more + mask:
        return None
    return int.from_bytes(header[2 : 2 + more], "big") if more else short


def cut_point(length: int, was_between: bool, ends: list[int]) -> int:
    """How many of so many bytes to let through so that a frame is torn, if that is possible at all."""
    at = length // 2
    is_boundary = at in ends or (at == 0 and was_between)
    return at + 1 if is_boundary and at < length else at


def close_frame(code: int, reason: str) -> bytes:
    """A server's close frame; 1005 is one without a status."""
    body = b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()[:123]
    return bytes([0x88, len(body)]) + body
