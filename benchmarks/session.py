"""Session: a call opened, sent and settled without I/O, by calls in flight.

python -m benchmarks.session
"""

from __future__ import annotations

from typing import Any

from iii_anyio._protocol.calls import Call, new_id
from iii_anyio._protocol.codec import decode, encode
from iii_anyio._protocol.messages import InvocationResult, InvokeFunction, WorkerRegistered
from iii_anyio._protocol.worker_session import WorkerSession

from ._timing import Row, per_call, show, text

PAYLOAD = {"text": text(180)}


def joined() -> WorkerSession:
    """A session whose engine has taken it."""
    session = WorkerSession({"name": "bench"}, max_queued=100_000)
    session.link_up(0.0)
    session.receive(encode(WorkerRegistered(new_id(), new_id())))
    for sent in session.take_outgoing():
        message: Any = decode(sent)
        if message.type == "invokefunction" and message.invocation_id:
            session.receive(encode(InvocationResult(message.invocation_id, message.function_id, {"success": True})))
    session.take_outgoing()
    return session


def measure() -> list[Row]:
    """With few and with many calls pending."""
    rows: list[Row] = []
    for pending in (1, 1_000, 10_000):
        session = joined()
        for _ in range(pending - 1):
            session.submit(make(), 0.0)
        session.take_outgoing()

        def one(session: WorkerSession = session) -> None:
            call = make()
            session.submit(call, 0.0)
            session.take_outgoing()
            session.receive(encode(InvocationResult(call.invocation_id or "", "bench::echo", PAYLOAD)))

        rows.append(Row("session", f"call and answer, {pending} pending", per_call(one)))
    return rows


def make() -> Call:
    """A call, encoded."""
    invocation_id = new_id()
    return Call("bench::echo", invocation_id, encode(InvokeFunction("bench::echo", PAYLOAD, invocation_id)), 30.0)


if __name__ == "__main__":
    show(measure())
