"""Bytes to messages and back: WebSocket framing without I/O.

Owns the frame layer of one connection after its handshake. Below it are the bytes a wire reads and writes, above it
the codec, or a channel's items. The common frame, a whole unfragmented message, is cut out of the read chunk here;
every other frame goes to the ``Protocol`` of websockets, which checks it and makes the pongs and close frames.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from struct import Struct
from typing import Final, TypeAlias

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from ..errors import LinkClosed

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ("MAX_MESSAGE", "MAX_SENT_FRAME", "Data", "Framing")

Data: TypeAlias = bytes | memoryview

MAX_MESSAGE: Final = 67_108_864
"""Bytes of a message, in one frame or many (§3.3)."""
MAX_SENT_FRAME: Final = 16_777_216
"""Bytes of a frame the engine takes; longer messages are cut into fragments (P-05)."""
FRAGMENT: Final = 1_048_576
"""Bytes of a fragment, and of a piece in which a long frame is written. Divisible by 4, as mask keys need."""

_CONTINUATION: Final = 0x00
_TEXT: Final = 0x01
_BINARY: Final = 0x02
_FIN: Final = 0x80
_WHOLE_BINARY: Final = _FIN | _BINARY
_WHOLE: Final = (_FIN | _TEXT, _WHOLE_BINARY)
_CLOSE: Final = _FIN | 0x08
_LAST_FRAGMENT: Final = bytes([_FIN | _CONTINUATION, 0])
_LAST_FRAGMENT_MASKED: Final = bytes([_FIN | _CONTINUATION, 0x80, 0, 0, 0, 0])
_SMALL: Final = 65_536
"""Up to here payloads are kept in the tail buffer when incomplete, and joined with others when sent."""
_JOINED: Final = 262_144
"""Bytes of small frames written at once."""
_KEY_POOL: Final = 4096
_PONGS_KEPT: Final = 64

_short, _medium, _long = Struct("!BB").pack, Struct("!BBH").pack, Struct("!BBQ").pack
_short_masked, _medium_masked, _long_masked = Struct("!BB4s").pack, Struct("!BBH4s").pack, Struct("!BBQ4s").pack
_unpack_medium, _unpack_long = Struct("!H").unpack_from, Struct("!Q").unpack_from

# websockets logs frames with excerpts of their payload; this package does not. What stays is its report of a bug.
_SILENT: Final = logging.Logger("iii_anyio.framing", logging.ERROR)


class Framing:
    """The frame layer of one open connection.

    Text that is not UTF-8 fails the connection with 1007 (RFC 6455 §8.1). Most messages are ASCII, which is told in a
    fraction of the time that decoding takes.

    Args:
        is_client: Whether our frames are masked and the peer's are not.
        max_message: Largest message accepted, bytes. More fails the connection with 1009.
        max_frame: Largest frame accepted, bytes. ``None`` is 64 MiB for a client, because the engine never fragments
            (P-04), and 16 MiB for an engine (P-102).
    """

    def __init__(self, *, is_client: bool, max_message: int = MAX_MESSAGE, max_frame: int | None = None) -> None:
        if max_frame is None:
            max_frame = max_message if is_client else MAX_SENT_FRAME
        self._is_client = is_client
        self._limit = min(max_message, max_frame)
        self._protocol = Protocol(CLIENT if is_client else SERVER, max_size=(max_message, max_frame), logger=_SILENT)
        self.pongs: list[bytes] = []
        """Payloads of pongs, newest last, until somebody clears the list. Only the newest 64 are kept."""
        self.closed: tuple[int, str] | None = None
        """Why no more messages will come: the peer's close code and reason (1005 when it gave none), the ones we sent
        when the peer broke the protocol, or 1006 when the stream just ended."""
        self.is_finished: bool = False
        """Whether the peer sent its close frame or ended the stream: nothing is left to wait for."""
        # At any time at most one of these three is in use.
        self._tail = bytearray()  # an incomplete frame; worth parsing again from _need bytes on
        self._need = 0
        self._growing: BytesIO | None = None  # payload of a long frame; _missing bytes to come
        self._missing = 0
        self._key = b""
        self._owed = 0  # bytes of a frame that is being passed on to _protocol
        self._fragments: BytesIO | None = None  # of a message whose end is to come; joined, for they may be tiny
        self._is_binary = False  # the message in _growing or _fragments
        self._binary: list[int] = []  # which of the messages just received were binary
        self._keys = b""
        self._next_key = 0

    # Receiving

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the peer and return the messages they complete, text and binary alike, oldest first.

        Never raises: what the peer does wrong is told by ``closed``. Look at ``data_to_send`` afterwards.

        Args:
            data: What was read; ``b""`` is the end of the stream.
        """
        messages: list[bytes] = []
        if self._binary:
            self._binary.clear()
        if not data:
            self._receive_eof()
            return messages
        if self.closed is not None:
            return messages
        at = 0
        if self._growing is not None:
            at = self._grow(data, messages)
        elif self._owed:
            at = min(self._owed, len(data))
            self._owed -= at
            self._pass_on(data[:at], messages)
        elif self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return messages
            data = bytes(self._tail)
            self._tail = bytearray()
        self._parse(data, at, messages)
        return messages

    def receive_typed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """Like ``receive``, with whether the message is text in front of each."""
        messages = self.receive(data)
        binary = frozenset(self._binary)
        return [(index not in binary, message) for index, message in enumerate(messages)]

    def _parse(self, data: bytes, at: int, messages: list[bytes]) -> None:
        end = len(data)
        limit, key_size = self._limit, 0 if self._is_client else 4
        mask_bit = 0 if self._is_client else 0x80
        need = 0
        while self.closed is None and end - at >= 2:
            first = data[at]
            # 5.1: a server must not mask, a client must. With the bit wrong this is 128 or more.
            length = data[at + 1] ^ mask_bit
            if length < 126:
                start = at + 2 + key_size
            elif length == 126:
                start = at + 4 + key_size
                if end < at + 4:
                    break
                (length,) = _unpack_medium(data, at + 2)
            elif length == 127:
                start = at + 10 + key_size
                if end < at + 10:
                    break
                (length,) = _unpack_long(data, at + 2)
            else:
                start, length = at + 2, 0
                first = 0  # two bytes are enough for the protocol to refuse it
            stop = start + length
            if first in _WHOLE and length <= limit and self._fragments is None:
                if stop <= end:
                    message = data[start:stop]
                    if key_size:
                        message = apply_mask(message, data[start - 4 : start])
                    if first == _WHOLE_BINARY:
                        self._binary.append(len(messages))
                    elif not message.isascii() and not _is_utf8(message):
                        self._fail_text()
                        break
                    messages.append(message)
                    at = stop
                    continue
                if length <= _SMALL:
                    need = stop - at
                    break
                if start > end:
                    break
                # One buffer of the announced length, filled in place. Zeroed bytes come as pages nobody has touched,
                # so an announcement alone takes no memory; and BytesIO hands out its own buffer in the end, where a
                # bytearray would have its zeros written at once and then be copied.
                self._growing, self._missing = BytesIO(bytes(length)), length
                self._key, self._is_binary = data[start - key_size : start], first == _WHOLE_BINARY
                at = self._grow(data[start:], messages) + start
                continue
            if first == _CLOSE and self._fragments is not None:
                # Control frames may come between fragments (RFC 6455 §5.4), a close frame too; websockets takes one for
                # a protocol error. It is told that the message is over, which nobody will get.
                self._fragments = None
                self._protocol.receive_data(_LAST_FRAGMENT if self._is_client else _LAST_FRAGMENT_MASKED)
                self._protocol.events_received()
            take = min(stop, end)
            self._owed = stop - take
            self._pass_on(data[at:take], messages)
            at = take
        if at < end and self.closed is None:
            self._tail += data[at:] if at else data
            self._need = need

    def _grow(self, data: bytes, messages: list[bytes]) -> int:
        """Add to the payload of a long frame; return how much of ``data`` belonged to it."""
        buffer, missing = self._growing, self._missing
        assert buffer is not None
        taken = min(missing, len(data))
        part = data if taken == len(data) else data[:taken]
        if self._key:
            # Unmasked part by part, while it is in the processor's cache.
            part = apply_mask(part, self._key)
            turn = taken & 3
            self._key = self._key[turn:] + self._key[:turn]
        buffer.write(part)
        self._missing = missing - taken
        if taken == missing:
            self._growing = None
            self._add(buffer.getvalue(), messages)
        return taken

    def _add(self, message: bytes, messages: list[bytes]) -> None:
        """Hand out a message that came in parts."""
        if self._is_binary:
            self._binary.append(len(messages))
        elif not message.isascii() and not _is_utf8(message):
            self._fail_text()
            return
        messages.append(message)

    def _fail_text(self) -> None:
        self._protocol.fail(CloseCode.INVALID_DATA, "text is not UTF-8")
        self._end(self._protocol.close_sent)

    def _pass_on(self, data: bytes, messages: list[bytes]) -> None:
        """Let websockets deal with a frame, or a part of it."""
        protocol = self._protocol
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            opcode = frame.opcode
            if opcode is Opcode.PONG:
                self.pongs.append(bytes(frame.data))
                del self.pongs[:-_PONGS_KEPT]
            elif opcode is Opcode.TEXT or opcode is Opcode.BINARY or opcode is Opcode.CONT:
                if self._fragments is None:
                    self._fragments = BytesIO()
                    self._is_binary = opcode is Opcode.BINARY
                self._fragments.write(frame.data)
                if frame.fin:
                    message = self._fragments.getvalue()
                    self._fragments = None
                    self._add(message, messages)
                    if self.closed is not None:
                        return
        if protocol.close_rcvd is not None:
            self.is_finished = True
            self._end(protocol.close_rcvd)
        elif protocol.parser_exc is not None:
            self._end(protocol.close_sent)

    def _receive_eof(self) -> None:
        self.is_finished = True
        if self.closed is None:
            self._protocol.receive_eof()
            self._end(None)

    def _end(self, close: Close | None) -> None:
        self.closed = (1006, "") if close is None else (int(close.code), close.reason)
        self._tail.clear()
        self._growing = self._fragments = None
        self._owed = 0

    # Sending

    def send(self, messages: Sequence[bytes]) -> Iterator[Iterable[Data]]:
        """Frame text messages. What comes out is to be written in this order, all of it.

        Each item is a run of writes that make up whole frames; between two runs, and only there, control frames may
        be written (P-08). Small frames come joined, long ones in pieces that are masked when they are asked for.

        Raises:
            LinkClosed: A close frame was sent or received.
        """
        self.check_open()
        return self._runs(_TEXT, messages)

    def send_binary(self, messages: Sequence[bytes]) -> Iterator[Iterable[Data]]:
        """Like ``send``, in binary frames."""
        self.check_open()
        return self._runs(_BINARY, messages)

    def _runs(self, opcode: int, messages: Sequence[bytes]) -> Iterator[Iterable[Data]]:
        parts: list[bytes] = []
        size = 0
        first = _FIN | opcode
        is_client = self._is_client
        for message in messages:
            length = len(message)
            if length <= _SMALL:
                if is_client:
                    at = self._next_key
                    key = self._keys[at : at + 4] or self._draw_keys()
                    self._next_key += 4
                    if length < 126:
                        parts.append(_short_masked(first, 0x80 | length, key))
                    elif length < 65_536:
                        parts.append(_medium_masked(first, 0xFE, length, key))
                    else:
                        parts.append(_long_masked(first, 0xFF, length, key))
                    parts.append(apply_mask(message, key))
                else:
                    if length < 126:
                        parts.append(_short(first, length))
                    elif length < 65_536:
                        parts.append(_medium(first, 126, length))
                    else:
                        parts.append(_long(first, 127, length))
                    parts.append(message)
                size += length
                if size < _JOINED:
                    continue
            if parts:
                yield (b"".join(parts),)
                parts.clear()
                size = 0
            if length > _SMALL:
                yield from self._long_runs(opcode, memoryview(message))
        if parts:
            yield (b"".join(parts),)

    def _long_runs(self, opcode: int, message: memoryview) -> Iterator[Iterable[Data]]:
        length = len(message)
        if not self._is_client or length <= MAX_SENT_FRAME:
            # The engine sends every message as one frame, whatever its size (P-102).
            yield self._frame(_FIN | opcode, message)
            return
        start, first = 0, opcode
        while length - start > FRAGMENT:
            stop = start + FRAGMENT
            if opcode == _TEXT:
                # P-05: cut on a character boundary. A character has at most three continuation bytes; what has more
                # is no text, and any place is as good as another.
                while message[stop] & 0xC0 == 0x80 and stop > start + FRAGMENT - 3:
                    stop -= 1
            yield self._frame(first, message[start:stop])
            start, first = stop, _CONTINUATION
        yield self._frame(_FIN | _CONTINUATION, message[start:])

    def _frame(self, first: int, payload: memoryview) -> Iterator[Data]:
        """One frame in pieces: the header goes out with the first of them, and no piece is long."""
        length = len(payload)
        if not self._is_client:
            head = _medium(first, 126, length) if length < 65_536 else _long(first, 127, length)
            yield b"".join((head, payload[:_SMALL]))
            for at in range(_SMALL, length, FRAGMENT):
                yield payload[at : at + FRAGMENT]
            return
        at = self._next_key
        key = self._keys[at : at + 4] or self._draw_keys()
        self._next_key += 4
        head = _medium_masked(first, 0xFE, length, key) if length < 65_536 else _long_masked(first, 0xFF, length, key)
        yield b"".join((head, apply_mask(payload[:_SMALL], key)))
        for at in range(_SMALL, length, FRAGMENT):
            yield apply_mask(payload[at : at + FRAGMENT], key)

    def _draw_keys(self) -> bytes:
        """Fill the pool; return its first key. One call of the system for many keys, as unpredictable as one each."""
        self._keys = os.urandom(_KEY_POOL)
        self._next_key = 0
        return self._keys[:4]

    def check_open(self) -> None:
        """Raise ``LinkClosed`` once a close frame was sent or received, or the stream ended."""
        if self._protocol.state is not OPEN:
            close = self._protocol.close_sent
            raise LinkClosed(*(self.closed or ((int(close.code), close.reason) if close is not None else (1006, ""))))

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more: a close frame was sent or received, or the stream ended."""
        return self._protocol.state is not OPEN

    # Control frames

    def ping(self, payload: bytes) -> None:
        """Put a ping into ``data_to_send``. At most 125 bytes.

        Raises:
            LinkClosed: A close frame was sent or received.
        """
        self.check_open()
        self._protocol.send_ping(payload)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Put our close frame into ``data_to_send``; nothing if one was sent or the stream ended.

        Codes that must not be sent, such as 1006, make it a frame without status. A long reason is cut at 123 bytes.
        """
        if self._protocol.state is not OPEN:
            return
        reason = reason.encode()[:123].decode(errors="ignore")
        try:
            self._protocol.send_close(code, reason)
        except ProtocolError:
            self._protocol.send_close()

    @property
    def has_data_to_send(self) -> bool:
        """Whether ``data_to_send`` has something."""
        return bool(self._protocol.writes)

    def data_to_send(self) -> list[bytes]:
        """Take the control frames to write: pings, pongs and close frames, in order."""
        # websockets marks the wish to end the stream by b"".
        return [data for data in self._protocol.data_to_send() if data]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
