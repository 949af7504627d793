"""The engine's own functions, introspection aside: identity, triggers by call, channels (§14, P-131).

Below: ``_builtin``. Above: ``_router`` puts them into its table of functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import ABSENT, RegisterTrigger
from ..errors import InvocationError
from ._builtin import Builtin, Deferred, Input
from ._triggers import REGISTRATION_FAILED

if TYPE_CHECKING:
    from ._router import Router

__all__ = ("MAX_BUFFER", "PROVIDER_TIMEOUT", "Channel", "engine_builtins")

PROVIDER_TIMEOUT: Final = 10.0
"""Seconds that an answer is held back for a provider's (E-45)."""
MAX_BUFFER: Final = 1024


@dataclass(slots=True, frozen=True)
class Channel:
    """A channel that may be opened: what its sockets must know (§12.1, E-39)."""

    channel_id: str
    access_key: str
    buffer_size: int
    """Messages that wait for the reader before the writer does."""
    created_at_ms: int

    def ref(self, direction: str) -> dict[str, str]:
        """The reference to one end, as it travels in payloads. Either ref opens either end."""
        return {"channel_id": self.channel_id, "access_key": self.access_key, "direction": direction}


def engine_builtins(router: Router) -> list[Builtin]:
    """The functions, ready for the router's table."""

    def register_trigger(session: EngineSession, data: dict[str, Any]) -> object:
        guard = router.guards.get(session)
        function_id: str = data["function_id"]
        if guard is not None:
            function_id = guard.durable_target(data["trigger_type"], function_id)
        return _register_trigger(router, data, function_id)

    def unregister_trigger(_session: EngineSession, data: dict[str, Any]) -> object:
        return {"removed": router.triggers.unregister(data["id"])}  # idempotent, whoever asks (E-47)

    def create_channel(_session: EngineSession, data: dict[str, Any]) -> object:
        writer, reader = router.create_channel(data.get("buffer_size", 64))
        return {"writer": writer, "reader": reader}

    return [
        Builtin(
            "engine::workers::register",
            router.identities.register,
            Input(
                runtime="string",
                version="string",
                name="string",
                description="string",
                os="string",
                pid="unsigned",
                isolation="string",
                namespace="string",
                telemetry="object",
                features="strings",
            ),
            "Tell the engine who this worker is; fixes its namespace",
        ),
        Builtin(
            "engine::register_trigger",
            register_trigger,
            Input(
                trigger_type="string!", function_id="string!", config="any", metadata="any", trigger_namespace="string"
            ),
            "Bind a function to a trigger for as long as the engine runs",
        ),
        Builtin(
            "engine::unregister_trigger",
            unregister_trigger,
            Input(id="string!", trigger_type="string"),
            "Remove a trigger",
        ),
        Builtin(
            "engine::channels::create",
            create_channel,
            Input(buffer_size="unsigned"),
            "Create a channel and return a reference to each of its ends",
        ),
    ]


def _register_trigger(router: Router, data: dict[str, Any], function_id: str) -> object:
    """Make a durable binding; wait for the provider's answer, but not for ever (E-44, E-45, P-130)."""
    trigger_namespace: str | None = data.get("trigger_namespace")
    if trigger_namespace is not None and not trigger_namespace.strip():
        raise InvocationError("INVALID_NAMESPACE", "trigger_namespace must not be blank")
    message = RegisterTrigger(
        router.new_id(),
        data["trigger_type"],
        function_id,
        data.get("config"),
        data.get("metadata", ABSENT),
        DEFAULT_NAMESPACE,
        trigger_namespace,
    )
    binding = router.triggers.register(None, message)
    if binding is None:
        raise InvocationError(REGISTRATION_FAILED, "too many triggers wait for a provider of their type")
    answer = {"id": binding.id}
    if not binding.is_awaiting or binding.type is None or binding.type.provider is None:
        return answer
    deferred = Deferred()
    is_in_process = binding.type.provider.is_in_process

    def answered(error: dict[str, Any] | None) -> None:
        if error is None or deferred.is_settled:
            deferred.settle(answer)
            return
        router.triggers.unregister(binding.id)  # the caller never learns the id, so nobody could remove it
        # In-process providers in their own words (T-8), workers with the code they gave (§9.5).
        text = error["message"] if is_in_process else f"{error['code']}: {error['message']}"
        deferred.settle(error=InvocationError(REGISTRATION_FAILED, text))

    binding.waiters.append(answered)
    router.call_later(PROVIDER_TIMEOUT, lambda: deferred.settle(answer))
    return deferred
