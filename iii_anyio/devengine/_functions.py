"""The functions of all connections and of the engine itself, by id and namespace; who owns them, who may take them.

Below: ``_builtin``. Above: ``_router``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import ABSENT, RegisterFunction, RegistrationRejected
from ._builtin import Builtin, Deferred
from ._errors import shorten
from ._observer_specs import Descriptor

__all__ = ("Endpoint", "Function", "FunctionListener", "FunctionTable")

logger: Final = logging.getLogger(__name__)

CONFLICT: Final = "FUNCTION_NAMESPACE_CONFLICT"
RESERVED_PREFIX: Final = "engine::"


class Endpoint(Protocol):
    """An external HTTP function, ready to be called (§10)."""

    def __call__(self, data: object, /) -> Deferred:
        """Begin a call."""
        ...


OpenEndpoint: TypeAlias = "Callable[[RegisterFunction], Endpoint | None]"
"""Makes the endpoint of a registration with ``invocation``; None when it is refused, and the log says why."""


@dataclass(slots=True, eq=False)
class Function:
    """One registered function. Exactly one of ``owner`` and ``builtin`` is set."""

    id: str
    namespace: str
    owner: EngineSession | None = None
    builtin: Builtin | None = None
    description: str | None = None
    request_format: Any = ABSENT
    response_format: Any = ABSENT
    metadata: Any = ABSENT
    endpoint: Endpoint | None = None
    """Set when the engine calls a URL, and not the owner."""
    shadows: Function | None = None
    """The engine's own function that an in-process worker has replaced; it comes back when that worker leaves."""
    observe: dict[str, Any] | None = None
    observability: Descriptor = field(init=False)
    """What ``observe`` says."""

    def __post_init__(self) -> None:
        self.observability = Descriptor(self.id, self.observe)

    @property
    def worker_name(self) -> str:
        """The worker shown as its owner (E-5)."""
        if self.builtin is not None:
            return self.builtin.worker_name
        name = self.owner.identity.name if self.owner is not None else None
        return name if name is not None else self.id.partition("::")[0]

    @property
    def is_in_process(self) -> bool:
        """Whether the engine itself or one of its built-in workers owns it."""
        return self.owner is None or self.owner.is_in_process


class FunctionListener(Protocol):
    """Who is told of functions that come and go."""

    def function_put(self, function: Function) -> None:
        """One is registered, perhaps again, or is there again."""
        ...

    def function_gone(self, function: Function) -> None:
        """One is registered no more."""
        ...


class FunctionTable:
    """Functions keyed by id, then namespace: the id alone tells in which namespaces it exists (P-115, P-117)."""

    def __init__(self) -> None:
        self._by_id: dict[str, dict[str, Function]] = {}
        self._was_there: dict[tuple[str, str], bool] = {}  # of those that came or went since `take_changed`
        self.open_endpoint: OpenEndpoint | None = None
        """Set by the built-in worker that calls external HTTP functions."""
        self.told: list[FunctionListener] = []

    def __iter__(self) -> Iterator[Function]:
        for functions in self._by_id.values():
            yield from functions.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_id.values()))

    def get(self, namespace: str, function_id: str) -> Function | None:
        """Find a function in exactly this namespace (P-117)."""
        functions = self._by_id.get(function_id)
        return None if functions is None else functions.get(namespace)

    def namespaces(self, function_id: str) -> list[str]:
        """Where this id is registered, in order."""
        return sorted(self._by_id.get(function_id, ()))

    @property
    def has_changed(self) -> bool:
        """Whether a (namespace, id) came or went since ``take_changed``, perhaps to come back."""
        return bool(self._was_there)

    def take_changed(self) -> bool:
        """Whether the set of (namespace, id) is another than at the last call. By what changed only."""
        before, self._was_there = self._was_there, {}
        return any((self.get(*key) is not None) is not was_there for key, was_there in before.items())

    def not_found(self, namespace: str, function_id: str) -> str:
        """The message of ``function_not_found``, word for word upstream's."""
        elsewhere = self.namespaces(function_id)
        hint = f" It is registered in namespace(s): {', '.join(elsewhere)}." if elsewhere else ""
        return f"Function {function_id} not found in namespace {namespace}.{hint}"

    def add_builtin(self, builtin: Builtin) -> None:
        """Add a function of the engine itself; they are all in ``default`` (C-1)."""
        self._put(
            Function(
                builtin.id,
                DEFAULT_NAMESPACE,
                builtin=builtin,
                description=builtin.description,
                request_format=builtin.input.schema,
            )
        )

    def claim(self, session: EngineSession, namespace: str, message: RegisterFunction) -> RegistrationRejected | None:
        """Take ownership for a connection, or say why not (P-115, P-116)."""
        existing = self.get(namespace, message.id)
        refused_by: str | None = None
        if message.id.startswith(RESERVED_PREFIX) and namespace != DEFAULT_NAMESPACE:
            refused_by = ""
        elif existing is not None and existing.owner is not session:
            if not existing.is_in_process:
                refused_by = existing.owner.worker_id if existing.owner is not None else ""
            elif existing.owner is not None or not session.is_in_process:
                refused_by = ""  # upstream lets a worker in `default` replace a built-in (G-16)
        if refused_by is not None:
            return RegistrationRejected(CONFLICT, namespace, function_id=message.id, owner_worker_id=refused_by)
        endpoint: Endpoint | None = None
        if message.invocation is not None:
            if self.open_endpoint is None:
                logger.warning("HTTP function %s dropped: iii-http-functions does not run", shorten(message.id))
            else:
                endpoint = self.open_endpoint(message)
            if endpoint is None:
                return None  # nothing is sent
        shadows = None
        if existing is not None:
            shadows = existing.shadows if existing.owner is session else existing
        session.functions[message.id] = None
        self._put(
            Function(
                message.id,
                namespace,
                session,
                None,
                message.description,
                message.request_format,
                message.response_format,
                message.metadata,
                endpoint,
                shadows,
                message.observe,
            )
        )
        return None

    def release(self, session: EngineSession, function_id: str) -> None:
        """Remove a connection's function; nothing when it does not own the id (§5.2)."""
        if function_id not in session.functions or session.namespace is None:
            return
        del session.functions[function_id]
        functions = self._by_id[function_id]
        released = functions.pop(session.namespace)
        if released.shadows is not None:
            functions[session.namespace] = released.shadows
        else:
            self._was_there.setdefault((session.namespace, function_id), True)
            if not functions:
                del self._by_id[function_id]
        for listener in self.told:
            listener.function_gone(released)
        if released.shadows is not None:
            self._tell_put(released.shadows)

    def release_all(self, session: EngineSession) -> None:
        """Remove everything a connection owns."""
        for function_id in list(session.functions):
            self.release(session, function_id)

    def _put(self, function: Function) -> None:
        functions = self._by_id.setdefault(function.id, {})
        if function.namespace not in functions:
            self._was_there.setdefault((function.namespace, function.id), False)
        functions[function.namespace] = function
        self._tell_put(function)

    def _tell_put(self, function: Function) -> None:
        for listener in self.told:
            listener.function_put(function)
