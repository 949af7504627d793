"""Codec: text ↔ message, by size of the payload.

python -m benchmarks.codec
"""

from __future__ import annotations

from functools import partial

from iii_anyio._protocol.codec import decode, encode
from iii_anyio._protocol.messages import InvocationResult, InvokeFunction

from ._timing import Row, per_call, show, text

ID = "3f0e8a52-6a0f-4b5c-9d5e-0c8f3f1f9a11"
NESTED = {"order": {"id": 7, "lines": [{"sku": "a", "count": 2}, {"sku": "b", "count": 1}]}, "note": "x" * 100}


def measure() -> list[Row]:
    """Both messages of a call, both ways."""
    rows: list[Row] = []
    for name, payload in [
        ("200 B", {"text": text(180)}),
        ("200 B nested", NESTED),
        ("10 KB", {"text": text(10_000)}),
        ("1 MB", {"text": text(1_000_000)}),
    ]:
        invoke, result = InvokeFunction("bench::echo", payload, ID), InvocationResult(ID, "bench::echo", payload)
        rows += [
            Row("codec", f"encode invokefunction {name}", per_call(partial(encode, invoke))),
            Row("codec", f"decode invokefunction {name}", per_call(partial(decode, encode(invoke)))),
            Row("codec", f"encode invocationresult {name}", per_call(partial(encode, result))),
            Row("codec", f"decode invocationresult {name}", per_call(partial(decode, encode(result)))),
        ]
    return rows


if __name__ == "__main__":
    show(measure())
