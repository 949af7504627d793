"""What a command can come to: exit codes, and errors that say what to do. Needs neither typer nor rich."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final

from pydantic import ValidationError

from ..errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    EncodeError,
    IIIError,
    InvocationError,
    OfflineQueueFullError,
    PayloadTooLargeError,
    RegistrationRejectedError,
    ShutdownError,
)

__all__ = ("ADDRESS_ADVICE", "CommandError", "ExitCode", "explained", "usage_errors")


class ExitCode(IntEnum):
    """How a command ended. Documented in docs/cli.md."""

    OK = 0
    """Done; a service or a watch ended by Ctrl-C or SIGTERM, drained."""
    FAILED = 1
    """The function failed or was refused, the app crashed, the engine cannot start."""
    USAGE = 2
    """Wrong arguments: nothing was done."""
    NO_CONNECTION = 3
    """The engine cannot be reached, refused us, or the connection was lost before the answer."""


class CommandError(Exception):
    """Ends a command with a sentence for the user.

    Attributes:
        code: Of the process.
        message: What happened.
        advice: What to do about it; may be empty.
        facts: More for machines, such as the code of an ``InvocationError``.
    """

    def __init__(self, code: ExitCode, message: str, advice: str = "", **facts: Any) -> None:
        super().__init__(code, message, advice, facts)
        self.code = code
        self.message = message
        self.advice = advice
        self.facts = facts

    def __str__(self) -> str:
        return self.message


_OWNERS: Final = {
    "state::": "iii-state",
    "stream::": "iii-stream",
    "iii::queue::": "iii-queue",
    "engine::queue::": "iii-queue",
    "iii::durable::": "iii-queue",
    "engine::logs::": "iii-observability",
}
"""Which part of the engine has the functions that commands call."""

_NO_ENGINE: Final = (
    "`iii-anyio doctor` finds out why; `iii-anyio dev` starts a development engine. Another address: --url or III_URL."
)
_ADVICE: Final = {
    "FORBIDDEN": "The engine's access rules decide; check III_TOKEN, and what its listener exposes.",
    "TIMEOUT": "The function may still be running. --timeout allows it more seconds.",
    "invalid_payload": "`iii-anyio describe {function_id}` shows what it takes, with an example.",
    "deserialization_error": "`iii-anyio describe {function_id}` shows what it takes, with an example.",
    "enqueue_error": "`iii-anyio queue list` shows the queues that are declared.",
    "worker_overloaded": "Try again later, or give its worker higher Limits.",
}


ADDRESS_ADVICE: Final = (
    "See --url, --namespace, and the variables III_URL, III_TOKEN, III_NAMESPACE and those of proxies."
)


@contextmanager
def usage_errors(advice: str = "") -> Generator[None]:
    """Make a usage error of the ``ValueError`` with which the SDK refuses what the user has given."""
    try:
        yield
    except ValidationError as exc:
        problem = exc.errors()[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise CommandError(ExitCode.USAGE, f"{where}: {problem['msg']}", advice) from exc
    except IIIError:
        raise
    except ValueError as exc:
        raise CommandError(ExitCode.USAGE, str(exc), advice) from exc


def explained(exc: Exception) -> CommandError | None:
    """What an exception means for the user of a command; None when it is a defect of ours."""
    match exc:
        case CommandError():
            return exc
        case ConnectionLostError() | OfflineQueueFullError() | ShutdownError():
            advice = (
                "What was asked for may have been done: look before you repeat it."
                if hasattr(exc, "may_have_run")
                else ""
            )
            return CommandError(ExitCode.NO_CONNECTION, str(exc), advice, **_facts(exc))
        case PayloadTooLargeError():
            return CommandError(ExitCode.USAGE, str(exc), **_facts(exc))
        case InvocationError():
            return CommandError(ExitCode.FAILED, str(exc), _advice(exc), **_facts(exc))
        case ConnectError():
            return CommandError(ExitCode.NO_CONNECTION, str(exc), _NO_ENGINE)
        case AuthenticationError() | RegistrationRejectedError():
            return CommandError(ExitCode.NO_CONNECTION, str(exc), "`iii-anyio doctor` shows more.", error_code=exc.code)
        case EncodeError() | DecodeError():
            return CommandError(ExitCode.USAGE, str(exc))
        case IIIError():
            return CommandError(ExitCode.FAILED, str(exc))
        case _:
            return None


def _facts(exc: InvocationError) -> dict[str, Any]:
    facts = {"error_code": exc.code, "function_id": exc.function_id, "stacktrace": exc.stacktrace}
    return {key: value for key, value in facts.items() if value is not None}


def _advice(exc: InvocationError) -> str:
    function_id = exc.function_id or ""
    if exc.code == "function_not_found":
        owner = next((name for prefix, name in _OWNERS.items() if function_id.startswith(prefix)), None)
        if owner is not None:
            return f"This engine runs without {owner}; add it to the workers of its configuration."
        return "`iii-anyio list functions` shows what there is; --namespace looks in another namespace."
    return _ADVICE.get(exc.code, "").format(function_id=function_id)
