"""Framing: bytes ↔ text, a message alone and 64 at once.

python -m benchmarks.framing
"""

from __future__ import annotations

from iii_anyio._protocol.framing import Framing

from ._timing import Row, per_call, show

LARGE = 16 * 1024 * 1024


def framed(framing: Framing, messages: list[bytes]) -> bytes:
    """What is written."""
    return b"".join(bytes(part) for run in framing.send(messages) for part in run)


def measure() -> list[Row]:
    """A worker's side: masked out, plain in."""
    rows: list[Row] = []
    for name, size, count in [("300 B", 300, 1), ("300 B, 64 at once", 300, 64), ("1 MB", 1_000_000, 1)]:
        messages = [b"x" * size] * count
        sender, receiver = Framing(is_client=True), Framing(is_client=True)
        data = framed(Framing(is_client=False), messages)
        rows += [
            Row("framing", f"send {name}", per_call(lambda s=sender, m=messages: framed(s, m)) / count),  # type: ignore[misc]
            Row("framing", f"receive {name}", per_call(lambda r=receiver, d=data: r.receive(d)) / count),  # type: ignore[misc]
        ]
    return rows


if __name__ == "__main__":
    show(measure())
