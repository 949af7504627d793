"""Listeners for workers: their options, and what is asked before a connection is taken (§6.1, §6.2).

Below: ``_access``. Above: ``_config`` makes the options, ``_engine`` opens the listeners and calls ``authenticate``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import anyio

from .._protocol.engine_session import DEFAULT_NAMESPACE
from ..errors import InvocationError
from ._access import Grants, Rule
from ._origins import Origins

if TYPE_CHECKING:
    from .._wire.listen import Accepted
    from ._router import Router

__all__ = ("Listener", "Rbac", "auth_input", "authenticate")

AUTH_TIMEOUT: Final = 30.0
"""Seconds for an auth function. Upstream waits for ever, with the connection open."""
_PORTS: Final = range(65_536)


@dataclass(frozen=True, kw_only=True)
class Rbac:
    """Access control of a listener. Functions are those of workers, in namespace ``default``.

    Attributes:
        auth_function_id: Called once for each connection with an ``AuthInput``; returns an ``AuthResult``, or raises to
            refuse. Without one everybody connects, and ``expose_functions`` says what can be called.
        expose_functions: What anybody may call: ``match("api::*")``, ``{"match": "orders::*", "namespace": "orders"}``
            or ``{"metadata": {"public": True}}``.
        on_function_registration_function_id: Hook; ``OnFunctionRegistrationInput`` to ``...Result``.
        on_trigger_registration_function_id: Hook; ``OnTriggerRegistrationInput`` to ``...Result``.
        on_trigger_type_registration_function_id: Hook; ``OnTriggerTypeRegistrationInput`` to ``...Result``.

    Raises:
        ValueError: An entry of ``expose_functions`` has another form.
    """

    auth_function_id: str | None = None
    expose_functions: Sequence[str | Mapping[str, Any]] = ()
    on_function_registration_function_id: str | None = None
    on_trigger_registration_function_id: str | None = None
    on_trigger_type_registration_function_id: str | None = None

    def __post_init__(self) -> None:
        _ = self.rules  # a wrong entry is told now, not at the first call

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """``expose_functions``, read."""
        rules: list[Rule] = []
        for index, entry in enumerate(self.expose_functions):
            try:
                rules.append(Rule.read(entry))
            except ValueError as exc:
                raise ValueError(f"expose_functions[{index}]: {exc}") from None
        return tuple(rules)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One address where workers connect.

    Attributes:
        port: 0 takes a free one.
        host: Other than loopback it needs ``rbac``, or ``open_engine(allow_remote=True)``.
        rbac: Access control; None lets everybody do everything.
        middleware_function_id: Called in place of every call that is permitted, with a ``MiddlewareFunctionInput``; in
            the namespace of the call.
        handshake_timeout: Seconds for a request head.
        allowed_origins: Web pages that may connect, such as ``https://shop.example``, besides those of this machine;
            ``*`` for all. None says those of this machine only, but all with ``rbac``, which is there to decide.

    Raises:
        ValueError: A value is none of those.
    """

    port: int = 49134
    host: str = "127.0.0.1"
    rbac: Rbac | None = None
    middleware_function_id: str | None = None
    handshake_timeout: float = 10.0
    allowed_origins: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _ = self.origins
        if self.port not in _PORTS:
            raise ValueError(f"port must be between 0 and 65535, not {self.port}")
        if not self.handshake_timeout > 0:
            raise ValueError(f"handshake_timeout must be more than 0 seconds, not {self.handshake_timeout}")

    @cached_property
    def origins(self) -> Origins:
        """``allowed_origins``, read."""
        if self.allowed_origins is None:
            return Origins(() if self.rbac is None else ("*",))
        return Origins(self.allowed_origins)

    @cached_property
    def reserved(self) -> frozenset[str]:
        """Functions that workers of this listener may not take, unlike upstream's: they decide about such workers.

        None without an auth function: then these workers may be the ones that have them.
        """
        rbac = self.rbac
        if rbac is None or rbac.auth_function_id is None:
            return frozenset()
        ids = (
            self.middleware_function_id,
            rbac.auth_function_id,
            rbac.on_function_registration_function_id,
            rbac.on_trigger_registration_function_id,
            rbac.on_trigger_type_registration_function_id,
        )
        return frozenset(function_id for function_id in ids if function_id is not None)

    @property
    def is_guarded(self) -> bool:
        """Whether something is to be decided about what arrives here."""
        return self.rbac is not None or self.middleware_function_id is not None


def auth_input(accepted: Accepted) -> dict[str, Any]:
    """What an auth function is called with; header values and queries that are no ASCII text are left out (RB-9)."""
    query: dict[str, list[str]] = {}
    for part in accepted.query.split("&"):
        if part and part.isascii():
            name, _, value = part.partition("=")
            query.setdefault(name, []).append(value)
    headers = {name: value for name, value in accepted.headers.items() if value.isascii() and name.isascii()}
    return {"headers": headers, "query_params": query, "ip_address": accepted.peer}


async def authenticate(listener: Listener, router: Router, accepted: Accepted, routed: Callable[[], None]) -> Grants:
    """Ask the listener's auth function who this is (RB-5 to RB-8). Nothing is read from the connection meanwhile.

    Args:
        listener: Where the connection came in.
        router: Calls the function.
        accepted: The connection.
        routed: To be called after the router took a message.

    Raises:
        InvocationError: ``AUTH_ERROR``: the connection is to be refused, with this message.
    """
    if listener.rbac is None or listener.rbac.auth_function_id is None:
        return Grants()
    outcome: list[tuple[Any, dict[str, Any] | None]] = []
    answered = anyio.Event()

    def settle(result: Any, error: dict[str, Any] | None) -> None:
        outcome.append((result, error))
        answered.set()

    function_id = listener.rbac.auth_function_id
    invocation = router.forwarding.ask(DEFAULT_NAMESPACE, function_id, auth_input(accepted), settle)
    routed()
    try:
        with anyio.move_on_after(AUTH_TIMEOUT):
            await answered.wait()
    finally:
        router.forwarding.abandon(invocation)
    if not outcome:
        raise InvocationError("AUTH_ERROR", f"the auth function {function_id} did not answer in {AUTH_TIMEOUT:g} s")
    result, error = outcome[0]
    if error is not None:
        raise InvocationError("AUTH_ERROR", error["message"])
    try:
        return Grants.read(result)
    except ValueError as exc:
        raise InvocationError("AUTH_ERROR", str(exc)) from exc
