"""The observers this worker has made: their states, and what must be sent of them (§16.5, §16.10). No I/O.

Below: the codec. Above: ``worker_session`` says when a link can carry them, ``_runtime/observing`` tells who waits.

    pending ──► active ◄──► suspended        error: by the engine, or here when it does not know observers
       └──────────┴── disposed               by the engine or by ``dispose``; forgotten, never replayed
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from .codec import encode
from .messages import Observe, ObserveResult, ObserverStateChanged, Unobserve

__all__ = ("Observation", "ObservationState", "Observations")

ObservationState: TypeAlias = Literal["pending", "active", "suspended", "error", "disposed"]

_STATES: Final = frozenset(get_args(ObservationState))

UNSUPPORTED: Final = {
    "code": "UNSUPPORTED",
    "message": "the engine does not know observers (no observe.v1 among its features); use one of 0.25 or later",
}
UNOBSERVED: Final = {"code": "UNOBSERVED", "message": "disposed by the observing worker"}


class Observation:
    """One observer of ours. ``changed`` is called on the loop after each change, until it is disposed."""

    __slots__ = ("changed", "id", "is_disposed", "link", "reason", "state", "text", "withdrawal")

    def __init__(self, message: Observe) -> None:
        """Encode the message, and its withdrawal.

        Raises:
            EncodeError: It is not JSON.
        """
        self.id: str = message.id
        self.text: bytes = encode(message)
        self.withdrawal: bytes = encode(Unobserve(message.id))
        self.state: ObservationState = "pending"
        self.reason: dict[str, str] | None = None
        self.link: int = 0  # number of the link it was last sent on
        self.is_disposed: bool = False
        """Set by whoever disposes of it, on any thread; from then on nothing else is true of it."""
        self.changed: Callable[[], None] | None = None

    def change(self, state: ObservationState, reason: dict[str, str] | None) -> None:
        """Enter a state. Nothing follows ``disposed``, and what has not changed is not told."""
        if self.state == "disposed" or (self.state, self.reason) == (state, reason):
            return
        self.state, self.reason = state, reason
        if self.changed is not None:
            self.changed()


class Observations:
    """Every observer of ours that is not disposed, in the order they were made, and withdrawals that wait."""

    def __init__(self) -> None:
        self._live: dict[str, Observation] = {}
        self._withdrawals: list[bytes] = []

    def add(self, observation: Observation) -> None:
        """Add one; its id must be new. May be called by any thread."""
        if self._live.setdefault(observation.id, observation) is not observation:
            raise ValueError(f"an observer with the id {observation.id!r} is in use on this worker; give each its own")

    def is_live(self, observation: Observation) -> bool:
        """Whether it still is to be sent."""
        return self._live.get(observation.id) is observation and not observation.is_disposed

    def dispose(self, observation: Observation) -> bool:
        """Forget one that its owner wants no more. True when the engine may know it."""
        if self._live.get(observation.id) is not observation:
            return False  # by the engine, already
        del self._live[observation.id]
        observation.change("disposed", UNOBSERVED)
        return observation.link > 0

    def withdraw_later(self, text: bytes) -> None:
        """Keep a withdrawal for a link that can carry it."""
        self._withdrawals.append(text)

    def to_send(self, link: int) -> tuple[list[bytes], list[bytes]]:
        """Hand over what this link, which knows observers, has not been sent: withdrawals, then observers (P-60)."""
        withdrawals, self._withdrawals = self._withdrawals, []
        texts: list[bytes] = []
        for observation in list(self._live.values()):
            if observation.link != link and not observation.is_disposed:
                observation.link = link
                if observation.reason is UNSUPPORTED:
                    observation.change("pending", None)
                texts.append(observation.text)
        return withdrawals, texts

    def refuse(self) -> None:
        """This link does not know observers: nothing is sent, and what waited is discarded (P-59, §16.10)."""
        self._withdrawals.clear()
        for observation in list(self._live.values()):
            observation.change("error", UNSUPPORTED)

    def take(self, message: ObserveResult | ObserverStateChanged) -> None:
        """Enter the state that the engine reports; one it has disposed of is forgotten."""
        observation = self._live.get(message.id)
        if observation is None:
            return
        # An unknown state of a later engine reads as pending (§16.1).
        state = cast("ObservationState", message.state if message.state in _STATES else "pending")
        if state == "disposed":
            del self._live[message.id]
        observation.change(state, _reason(message.error if isinstance(message, ObserveResult) else message.reason))

    def notify_all(self) -> None:
        """Wake who waits for an observer: the worker is over."""
        for observation in list(self._live.values()):
            if observation.changed is not None:
                observation.changed()


def _reason(body: dict[str, Any] | None) -> dict[str, str] | None:
    """A reason as users see it: ``code`` and ``message``, both text."""
    if not body:
        return None
    code, message = body.get("code"), body.get("message")
    return {
        "code": code if isinstance(code, str) else "UNKNOWN",
        "message": message if isinstance(message, str) else "<no message>",
    }
