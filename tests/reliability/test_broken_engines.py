"""A peer that says nonsense: what can be skipped is skipped, anything else costs the link and nothing more.

The engine's side of the same is in ``tests/devengine/test_hostile.py``.
"""

from __future__ import annotations

import json
import struct
from typing import Any
from uuid import uuid4

import pytest

from iii_anyio.testing import FaultProxy
from tests.reliability.links import Linked, linked

pytestmark = pytest.mark.anyio

TEXT, BINARY, RSV1, FIN = 1, 2, 0x40, 0x80
HUGE = 1 << 20


def frame(payload: bytes, first: int = FIN | TEXT, *, length: int | None = None, mask: int = 0) -> bytes:
    """A frame as a server writes it, or a broken one."""
    size = len(payload) if length is None else length
    if size < 126:
        return bytes([first, mask | size]) + payload
    if size < 65_536:
        return bytes([first, mask | 126]) + struct.pack(">H", size) + payload
    return bytes([first, mask | 127]) + struct.pack(">Q", size) + payload


def message(**fields: Any) -> bytes:
    return frame(json.dumps(fields).encode())


SKIPPED: dict[str, bytes] = {
    "no JSON": frame(b"{nonsense"),
    "nothing": frame(b""),
    "an array": frame(b"[1, 2]"),
    "a string": frame(b'"invokefunction"'),
    "no type": frame(b"{}"),
    "a type that is a number": message(type=7),
    "an unknown type": message(type="teleport", to="mars"),
    "1 MiB of brackets": frame(b"[" * HUGE),
    "1 MiB of nested objects": frame(b'{"type":' * (HUGE // 8)),
    "a number no double can hold": frame(b'{"type":"invokefunction","function_id":"echo","data":1' + b"0" * 400 + b"}"),
    "NaN": frame(b'{"type":"invocationresult","invocation_id":NaN}'),
    "a lone surrogate": frame(b'{"type":"invokefunction","function_id":"\\ud800"}'),
    "a call without a function": message(type="invokefunction", invocation_id=str(uuid4()), data={}),
    "a call whose function is a list": message(type="invokefunction", function_id=["echo"], data={}),
    "a call whose id is a number": message(type="invokefunction", function_id="echo", invocation_id=7, data={}),
    "a result for nobody": message(type="invocationresult", invocation_id=str(uuid4()), function_id="f", result=1),
    "a result without an id": message(type="invocationresult", result=1),
    "a result whose error is a number": message(type="invocationresult", invocation_id=str(uuid4()), error=5),
    "an identity of another shape": message(type="workerregistered", worker_id={"a": 1}),
    "a rejection of a function it has not": message(
        type="registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT", function_id="nobody's", message="no"
    ),
    "a trigger of a type it has not": message(
        type="registertrigger", id="t", trigger_type="nobody's", function_id="f", config={}
    ),
    "an answer about no trigger": message(type="triggerregistrationresult", id="x", trigger_type="y", error={}),
    "binary": frame(b"\x00\xff", FIN | BINARY),
    "a pong for no ping": frame(b"hello", 0x8A),
    "a ping": frame(b"hello", 0x89),
    "a message in a thousand pieces": frame(b'{"type":', TEXT) + frame(b" ", 0) * 1000 + frame(b'"x"}', FIN),
}
ENDING: dict[str, bytes] = {
    "a compressed frame": frame(b"\x00" * 100, FIN | RSV1 | TEXT),
    "a masked frame": frame(b"\x01\x02\x03\x04" + b"{}", mask=0x80, length=2),
    "a frame of 2**63 bytes": frame(b"x", length=1 << 63),
    "a frame of one byte too many": frame(b"x", length=67_108_865),
    "a ping of 126 bytes": frame(b"x" * 126, 0x89),
    "a ping in pieces": frame(b"x", 0x09),
    "a rest without a beginning": frame(b"x", 0x80),
    "a beginning within a message": frame(b"x", TEXT) + frame(b"y", TEXT),
    "an unknown opcode": frame(b"x", 0x83),
    "bytes that are no text": frame(b"\xff\xfe"),
    "a close frame of one byte": frame(b"\x03", 0x88),
    "a close frame with a forbidden code": frame(struct.pack(">H", 1006), 0x88),
}


async def say(there: Linked, data: bytes) -> None:
    """Have the worker hear this between two frames of the engine."""
    assert isinstance(there.faults, FaultProxy)
    (connection,) = there.faults._open
    assert connection._frames.is_between
    await connection._worker.send(data)


async def test_what_is_no_message_is_skipped_and_the_link_stays() -> None:
    """P-10."""
    async with linked("socket") as there:
        for what, data in SKIPPED.items():
            await say(there, data)
            assert await there.iii.trigger_async("other::echo", what) == what
            assert await there.other.trigger_async("echo", what) == what
        assert there.faults.accepted == 1
        assert await there.registered() == (["echo"], 1)


@pytest.mark.parametrize("what", ENDING)
async def test_what_breaks_the_protocol_ends_the_link_and_the_next_one_works(what: str) -> None:
    async with linked("socket") as there:
        before = there.iii.worker_id
        await say(there, ENDING[what])
        await there.back(before)
        assert there.faults.accepted == 2
        assert await there.registered() == (["echo"], 1)


async def test_a_flood_of_nonsense_keeps_nobody_waiting() -> None:
    async with linked("socket") as there:
        nonsense = SKIPPED["an unknown type"] + SKIPPED["no JSON"] + SKIPPED["a result for nobody"]
        await say(there, nonsense * 2000)
        assert await there.iii.trigger_async("other::echo", 1) == 1
        assert there.faults.accepted == 1
