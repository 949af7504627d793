"""Every exception this package raises on purpose.

::

    IIIError
    ├── InvocationError                code, message; what a call came to, here or at the peer
    │   ├── InvocationTimeoutError     TIMEOUT; also a TimeoutError
    │   ├── InvocationForbiddenError   FORBIDDEN
    │   ├── ConnectionLostError        CONNECTION_LOST; the call may have run
    │   ├── OfflineQueueFullError      OFFLINE_QUEUE_FULL; the call was never sent
    │   ├── PayloadTooLargeError       payload_too_large; over 64 MiB on the wire
    │   └── ShutdownError              SHUTDOWN; this worker is closing or closed
    ├── RegistrationRejectedError      the engine refused this worker or one of its functions
    ├── ObserveRejection               an observer was refused, by its owner or by the engine
    ├── TriggerRegistrationError       a provider refused a trigger of ours
    ├── AuthenticationError            the engine's listener refused our credentials
    ├── ConnectError                   no link could be made; also a ConnectionError
    ├── EncodeError                    a payload JSON cannot carry; also a TypeError and a ValueError
    ├── DecodeError                    the peer sent what is no message; also a ValueError
    ├── WorkerStateError               used from the wrong thread, process or moment; also a RuntimeError
    └── LinkClosed                     one link ended; never leaves the runtime

Facts are attributes and constructor arguments, so each of them pickles.
"""

from __future__ import annotations

from typing import Final, cast

__all__ = (
    "AuthenticationError",
    "ConnectError",
    "ConnectionLostError",
    "DecodeError",
    "EncodeError",
    "IIIError",
    "InvocationError",
    "InvocationForbiddenError",
    "InvocationTimeoutError",
    "LinkClosed",
    "ObserveRejection",
    "OfflineQueueFullError",
    "PayloadTooLargeError",
    "RegistrationRejectedError",
    "ShutdownError",
    "TriggerRegistrationError",
    "WorkerStateError",
)

MAX_MESSAGE_BYTES: Final = 67_108_864
"""64 MiB: the largest serialized message either side takes (protocol §3.3)."""


class IIIError(Exception):
    """Base of every exception of this package."""


class InvocationError(IIIError):
    """A call that did not bring a result.

    Attributes:
        code: Stable identifier, e.g. ``function_not_found``. Codes this package does not know are kept as sent.
        message: What the failing side said.
        function_id: The function called, when known.
        stacktrace: The remote traceback, when the peer sent one. Kept out of ``str()``.
        invocation_id: Id of the call, when one was sent.
    """

    def __init__(
        self,
        code: str,
        message: str,
        function_id: str | None = None,
        stacktrace: str | None = None,
        invocation_id: str | None = None,
    ) -> None:
        super().__init__(code, message, function_id, stacktrace, invocation_id)
        self.code = code
        self.message = message
        self.function_id = function_id
        self.stacktrace = stacktrace
        self.invocation_id = invocation_id

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @staticmethod
    def from_wire(error: object, function_id: str | None = None, invocation_id: str | None = None) -> InvocationError:
        """Make the exception for an ``error`` value of the wire; malformed values never fail (P-31)."""
        if not isinstance(error, dict):
            return InvocationError("UNKNOWN", str(error), function_id, None, invocation_id)
        body = cast("dict[object, object]", error)
        code, message, stacktrace = body.get("code"), body.get("message"), body.get("stacktrace")
        if not isinstance(code, str):
            code = "UNKNOWN"
        cls = _BY_CODE.get(code, InvocationError)
        return cls(
            code,
            message if isinstance(message, str) else "<no message>",
            function_id,
            stacktrace if isinstance(stacktrace, str) else None,
            invocation_id,
        )


class InvocationTimeoutError(InvocationError, TimeoutError):
    """No answer within the call's timeout. The function may still be running."""


class InvocationForbiddenError(InvocationError):
    """The engine's access rules do not allow this call."""


class ConnectionLostError(InvocationError):
    """The link dropped after the call was sent and before its answer came; it may have run."""

    may_have_run = True


class OfflineQueueFullError(InvocationError):
    """Too many calls wait for the link; this one was refused and never sent."""


class PayloadTooLargeError(InvocationError):
    """The serialized message is over 64 MiB. Use a channel for data of that size."""


class ShutdownError(InvocationError):
    """The worker is shutting down or has shut down."""


_BY_CODE: Final[dict[str, type[InvocationError]]] = {
    "TIMEOUT": InvocationTimeoutError,
    "FORBIDDEN": InvocationForbiddenError,
    "CONNECTION_LOST": ConnectionLostError,
    "OFFLINE_QUEUE_FULL": OfflineQueueFullError,
    "payload_too_large": PayloadTooLargeError,
    "SHUTDOWN": ShutdownError,
}


class RegistrationRejectedError(IIIError):
    """The engine refused this worker (fatal), or one of its functions (``function_id`` is set; the rest is served).

    Attributes:
        code: ``WORKER_NAMESPACE_CONFLICT``, ``FUNCTION_NAMESPACE_CONFLICT`` or what the engine sent.
        namespace: Where the conflict is.
        worker_name: The refused worker name, if that was refused.
        owner_worker_id: The live worker that holds the name or id.
        function_id: The refused function, if that was refused.
    """

    def __init__(
        self,
        code: str,
        namespace: str | None = None,
        worker_name: str | None = None,
        owner_worker_id: str | None = None,
        function_id: str | None = None,
    ) -> None:
        super().__init__(code, namespace, worker_name, owner_worker_id, function_id)
        self.code = code
        self.namespace = namespace
        self.worker_name = worker_name
        self.owner_worker_id = owner_worker_id
        self.function_id = function_id

    def __str__(self) -> str:
        what = f"function {self.function_id!r}" if self.function_id is not None else f"worker {self.worker_name!r}"
        owner = f"; worker {self.owner_worker_id} holds it" if self.owner_worker_id else ""
        hint = ""
        if self.code == "WORKER_NAMESPACE_CONFLICT":
            hint = ". Give each live worker its own InitOptions(worker_name=...)"
        elif self.code == "FUNCTION_NAMESPACE_CONFLICT":
            hint = ". Register it under another id or in another namespace"
        return f"{self.code}: the engine refused {what} in namespace {self.namespace!r}{owner}{hint}"


class ObserveRejection(IIIError):
    """An observer was refused. Raise it in an observe hook to refuse one with a code of your own.

    Attributes:
        code: Of the engine or of the owner, e.g. ``INVALID_ARGS``.
        message: What is wrong.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class TriggerRegistrationError(IIIError):
    """The provider of a trigger type refused a binding of ours."""

    def __init__(
        self,
        code: str,
        message: str,
        trigger_id: str | None = None,
        trigger_type: str | None = None,
        function_id: str | None = None,
    ) -> None:
        super().__init__(code, message, trigger_id, trigger_type, function_id)
        self.code = code
        self.message = message
        self.trigger_id = trigger_id
        self.trigger_type = trigger_type
        self.function_id = function_id

    def __str__(self) -> str:
        return (
            f"{self.code}: {self.trigger_type!r} trigger {self.trigger_id} "
            f"for function {self.function_id!r} was refused: {self.message}"
        )


class AuthenticationError(IIIError):
    """The engine's listener refused the connection's credentials (protocol §5.7)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}. Check III_TOKEN or InitOptions(headers=...)"


class ConnectError(IIIError, ConnectionError):
    """No link to the engine: unreachable, not a WebSocket, or not in time."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot connect to {self.address}: {self.reason}"


class EncodeError(IIIError, TypeError, ValueError):
    """A value that JSON, as the engine reads it, cannot carry."""


class DecodeError(IIIError, ValueError):
    """Text from the peer that is no message of the protocol."""


class WorkerStateError(IIIError, RuntimeError):
    """A method used on the wrong thread, in a forked process, or out of order."""


class LinkClosed(IIIError):
    """One link ended. ``code`` is the WebSocket close code, 1006 when there was no close frame."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"link closed with code {self.code}" + (f": {self.reason}" if self.reason else "")


def payload_too_large(
    size: int, function_id: str | None = None, invocation_id: str | None = None
) -> PayloadTooLargeError:
    """The error for a message of ``size`` bytes, in upstream's words (protocol §3.3)."""
    return PayloadTooLargeError(
        "payload_too_large",
        f"Serialized JSON envelope is {size} bytes; limit is {MAX_MESSAGE_BYTES} bytes. Use channels for larger "
        "payloads: https://iii.dev/docs/creating-workers/channels#payload-size",
        function_id,
        None,
        invocation_id,
    )
