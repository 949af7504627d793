"""One connection as the engine sees it, without I/O: who the worker is, what it owns, what must be sent to it.

Below: ``codec``. Above: ``devengine._router`` changes it; the engine's connection tasks write ``take_outgoing`` and
obey ``close`` and ``abort``.

Phases, one at a time (P-108, P-111):

    HELD ──namespace known──► SERVING
      │                          │
      ├──────────┬───────────────┴─ the engine ends it ──► CLOSING ──┐
      └──────────┴───────────────── the peer left ───────────────────┴──► GONE

    HELD      the namespace is unknown: registrations wait in ``held``, everything else is handled (§6.3)
    SERVING   registrations take effect
    CLOSING   owns nothing any more; what is in ``outgoing`` is still to be written, then ``close`` is carried out
    GONE      the socket has ended
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any, Final

from .codec import encode
from .messages import (
    Message,
    RegisterFunction,
    RegisterService,
    RegisterTrigger,
    RegisterTriggerType,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)

__all__ = ("DEFAULT_NAMESPACE", "EngineSession", "Phase", "WorkerIdentity", "clean_label")

DEFAULT_NAMESPACE: Final = "default"

HELD_MESSAGES: Final[frozenset[type[Any]]] = frozenset(
    {
        RegisterFunction,
        UnregisterFunction,
        RegisterTriggerType,
        UnregisterTriggerType,  # not among upstream's six; passing its own registration would leave the type behind
        RegisterTrigger,
        UnregisterTrigger,
        RegisterService,
    }
)
"""What waits for the namespace (§6.3)."""

MAX_LABEL: Final = 280
_INVISIBLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Phase(enum.Enum):
    """Where a connection stands; see the module's rules."""

    HELD = enum.auto()
    SERVING = enum.auto()
    CLOSING = enum.auto()
    GONE = enum.auto()


def clean_label(text: str | None) -> str | None:
    """Clean a name or description: no invisible characters, at most 280 of the rest; empty is absent (E-34)."""
    if text is None:
        return None
    return _INVISIBLE.sub("", text)[:MAX_LABEL].strip() or None


@dataclass(slots=True)
class WorkerIdentity:
    """What a worker told about itself in ``engine::workers::register`` (§6.2)."""

    runtime: str = "unknown"
    version: str | None = None
    telemetry: dict[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    os: str | None = None
    pid: int | None = None
    isolation: str | None = None
    features: tuple[str, ...] = ()

    def update(self, data: dict[str, Any]) -> None:
        """Take a register call: the first three fields are overwritten, the others only when given (E-32, E-37).

        Args:
            data: The call's fields, already checked for their types; null and absent are the same.
        """
        self.runtime = data.get("runtime") or "unknown"
        self.version = data.get("version")
        self.telemetry = data.get("telemetry")
        self.name = clean_label(data.get("name")) or self.name
        self.description = clean_label(data.get("description")) or self.description
        for field in ("os", "pid", "isolation"):
            if data.get(field) is not None:
                setattr(self, field, data[field])
        if data.get("features") is not None:
            self.features = tuple(data["features"])


class EngineSession:
    """State of one connection. The dictionaries with ``None`` values are sets that keep their order."""

    __slots__ = (
        "abort",
        "calls",
        "close",
        "connected_at_ms",
        "executing",
        "functions",
        "held",
        "held_bytes",
        "identity",
        "ip_address",
        "is_in_process",
        "names",
        "namespace",
        "outgoing",
        "outgoing_bytes",
        "phase",
        "reattach_token",
        "services",
        "trigger_types",
        "triggers",
        "worker_id",
    )

    def __init__(
        self,
        worker_id: str,
        reattach_token: str,
        *,
        connected_at_ms: int,
        ip_address: str | None = None,
        is_in_process: bool = False,
    ) -> None:
        self.worker_id: str = worker_id
        self.reattach_token: str = reattach_token
        self.connected_at_ms: int = connected_at_ms
        self.ip_address: str | None = ip_address
        self.is_in_process: bool = is_in_process
        self.phase: Phase = Phase.HELD
        self.namespace: str | None = None
        self.identity: WorkerIdentity = WorkerIdentity()
        self.names: list[tuple[str, str]] = []  # (namespace, name) pairs taken; all of them until the end (§6.2)
        self.held: list[Message] = []
        self.held_bytes: int = 0
        self.outgoing: list[bytes] = []
        self.outgoing_bytes: int = 0
        self.close: tuple[int | None, str] | None = None
        """Close frame to send once ``outgoing`` is written, as (code, reason); the code ``None`` is a frame without."""
        self.abort: bool = False
        """Drop the socket at once, without a close frame (§6.7); ``close`` then only holds the reason."""
        self.functions: dict[str, None] = {}
        self.trigger_types: dict[tuple[str, str], None] = {}
        self.triggers: dict[str, None] = {}
        self.services: dict[str, RegisterService] = {}
        self.calls: dict[str, None] = {}  # invocations we are the caller of
        self.executing: dict[str, None] = {}  # invocations we are the callee of

    def __repr__(self) -> str:
        return f"<EngineSession {self.label} {self.phase.name}>"

    @property
    def label(self) -> str:
        """The worker as log lines name it."""
        name = self.identity.name
        return f"{name!r} ({self.worker_id})" if name is not None else f"{self.worker_id} (no name yet)"

    @property
    def is_live(self) -> bool:
        """Whether messages are read from it and sent to it."""
        return self.phase is Phase.HELD or self.phase is Phase.SERVING

    @property
    def registrations(self) -> int:
        """How many functions, triggers, trigger types and services it has."""
        return len(self.functions) + len(self.triggers) + len(self.trigger_types) + len(self.services)

    def must_hold(self, message: Message) -> bool:
        """Whether this message waits for the namespace (P-108)."""
        return self.phase is Phase.HELD and type(message) in HELD_MESSAGES

    def hold(self, message: Message, size: int) -> None:
        """Keep a registration of ``size`` bytes until the namespace is known."""
        self.held.append(message)
        self.held_bytes += size

    def drop_held(self) -> None:
        """Forget the registrations that wait for the namespace."""
        self.held, self.held_bytes = [], 0

    def fix_namespace(self, namespace: str) -> list[Message]:
        """Fix the namespace for good and return the registrations to apply now, in arrival order (P-109)."""
        self.namespace = namespace
        self.phase = Phase.SERVING
        held, self.held, self.held_bytes = self.held, [], 0
        return held

    def send(self, message: Message) -> None:
        """Encode a message into ``outgoing``.

        Raises:
            EncodeError: The message holds what JSON cannot carry.
            PayloadTooLargeError: It is over 64 MiB.
        """
        text = encode(message)
        self.outgoing.append(text)
        self.outgoing_bytes += len(text)

    def take_outgoing(self) -> list[bytes]:
        """Hand over what must be written now, in order; take more once it is written, for what stays is counted."""
        texts, self.outgoing, self.outgoing_bytes = self.outgoing, [], 0
        return texts

    def end(self, code: int | None, reason: str, *, abort: bool = False) -> None:
        """Let the engine end the connection; with ``abort`` nothing more is written, not even a close frame."""
        self.phase = Phase.CLOSING
        self.close = (code, reason)
        self.abort = abort
        self.held, self.held_bytes = [], 0
        if abort:
            self.outgoing, self.outgoing_bytes = [], 0

    def ended(self) -> None:
        """Note that the socket has ended."""
        self.phase = Phase.GONE
        self.held, self.held_bytes = [], 0
        self.outgoing, self.outgoing_bytes = [], 0
