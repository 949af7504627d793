"""Calls and triggers as users write them.

Owns the models of requests and registrations, and the handles for what was registered. Below: pydantic. Above:
``_requests`` and the worker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from ._deprecations import warn_deprecated

if TYPE_CHECKING:
    from .functions import FunctionRef

__all__ = (
    "CallAction",
    "RegisterTriggerInput",
    "RegisterTriggerTypeInput",
    "Trigger",
    "TriggerAction",
    "TriggerActionEnqueue",
    "TriggerActionVoid",
    "TriggerConfig",
    "TriggerHandler",
    "TriggerRegistrar",
    "TriggerRequest",
    "TriggerTypeRef",
)

TConfig = TypeVar("TConfig")
C = TypeVar("C")
R = TypeVar("R")


# -- calls ---------------------------------------------------------------------------------------------------------


class TriggerActionEnqueue(BaseModel, defer_build=True):
    """Put the call into a named queue; the caller gets a receipt at once.

    Attributes:
        type: ``enqueue``.
        queue: Its name.
    """

    type: Literal["enqueue"] = "enqueue"
    queue: str


class TriggerActionVoid(BaseModel, defer_build=True):
    """Call without waiting for a result.

    Attributes:
        type: ``void``.
    """

    type: Literal["void"] = "void"


class TriggerAction:
    """The ways of calling a function other than waiting for its result."""

    @staticmethod
    def Enqueue(*, queue: str) -> TriggerActionEnqueue:
        """Put the call into a named queue."""
        return TriggerActionEnqueue(queue=queue)

    @staticmethod
    def Void() -> TriggerActionVoid:
        """Do not wait for a result."""
        return TriggerActionVoid()


CallAction = TriggerAction
"""The name announced for upstream 0.26."""


class TriggerRequest(BaseModel, defer_build=True):
    """A call as one value.

    Attributes:
        function_id: Which function.
        payload: What it gets. A model is sent by alias.
        action: ``TriggerAction.Enqueue(queue=...)`` or ``TriggerAction.Void()``; ``None`` waits for the result.
        timeout_ms: How long to wait; ``None`` and 0 are the worker's default.
        metadata: Delivered beside the payload.
        namespace: Where the function lives; by default the worker's namespace.
        dispatch: ``remote`` goes through the engine even for a function of this worker.
    """

    function_id: str
    payload: Any = None
    action: TriggerActionEnqueue | TriggerActionVoid | None = None
    timeout_ms: int | None = None
    metadata: Any = None
    namespace: str | None = None
    dispatch: Literal["auto", "remote"] | None = None


# -- triggers ------------------------------------------------------------------------------------------------------


class RegisterTriggerInput(BaseModel, defer_build=True):
    """A trigger to be registered.

    Attributes:
        type: Of the trigger: ``http``, ``cron``, ``subscribe``, ``state``, ``stream``, ..., or one of your own.
        function_id: What it calls.
        config: In the shape its type expects. A model is sent by alias.
        metadata: Delivered beside the payload of every call the trigger makes.
        namespace: Where the function lives; by default the worker's namespace.
        trigger_namespace: Where the provider of the type is; by default the worker's namespace, then the engine's.
    """

    type: str
    function_id: str
    config: Any = None
    metadata: Any = None
    namespace: str | None = None
    trigger_namespace: str | None = None


class RegisterTriggerTypeInput(BaseModel, defer_build=True):
    """A trigger type to be provided.

    Attributes:
        id: What triggers name as their ``type``.
        description: For people.
        trigger_request_format: JSON Schema of a trigger's ``config``, or a type to take it from.
        call_request_format: JSON Schema of the payload that functions get, or a type.
    """

    id: str
    description: str
    trigger_request_format: Any = None
    call_request_format: Any = None


class Trigger:
    """A registered trigger.

    .. deprecated:: 0.25.0
        Upstream's successor is the ``ObserverHandle`` of ``observe``.

    Attributes:
        id: Its id, made by this worker.
    """

    def __init__(self, unregister_fn: Callable[[], None], id: str = "") -> None:
        self.id = id
        self._unregister: Callable[[], None] | None = unregister_fn

    def __repr__(self) -> str:
        return f"<Trigger {self.id}{'' if self._unregister else ', unregistered'}>"

    def unregister(self) -> None:
        """Take the trigger back; from any thread. Doing it again changes nothing."""
        if self._unregister is not None:
            self._unregister()
            self._unregister = None


# -- providers of trigger types ------------------------------------------------------------------------------------


class TriggerConfig(BaseModel, Generic[TConfig]):
    """A trigger somebody has registered with our trigger type.

    .. deprecated:: 0.25.0
        Upstream's successor is the ``Observer`` that ``ObserveHooks.on_observer_added`` gets.

    Attributes:
        id: Of the trigger.
        function_id: What to call when it fires.
        config: As it was sent; the parameter documents it and checks nothing, as upstream's.
        metadata: To be passed with every such call.
        namespace: To be passed with every such call; ``None`` is the engine's default.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(defer_build=True, arbitrary_types_allowed=True)

    id: str
    function_id: str
    config: Any
    metadata: Any = None
    namespace: str | None = None


class TriggerHandler(ABC, Generic[TConfig]):
    """What the provider of a trigger type does when triggers come and go. An exception refuses the trigger.

    .. deprecated:: 0.25.0
        Upstream's successor is ``ObserveHooks``, for ``register_function``.
    """

    @abstractmethod
    async def register_trigger(self, config: TriggerConfig[TConfig]) -> None:
        """Begin to fire."""

    @abstractmethod
    async def unregister_trigger(self, config: TriggerConfig[TConfig]) -> None:
        """Stop firing. Of a trigger that was never bound here only the id is known."""


class TriggerRegistrar(Protocol):
    """What a ``TriggerTypeRef`` needs of a worker."""

    def register_trigger(self, type: str, function_id: str, config: Any, metadata: Any, /) -> Trigger:
        """Register a trigger."""
        ...

    def register_function(self, function_id: str, handler: Any, /, *, description: str | None = None) -> FunctionRef:
        """Register a function."""
        ...

    def unregister_trigger_type(self, trigger_type: str, /) -> None:
        """Stop providing a trigger type."""
        ...


class TriggerTypeRef(Generic[C, R]):
    """A trigger type this worker provides: ``C`` is the config of its triggers, ``R`` the payload of their calls.

    .. deprecated:: 0.25.0
        Upstream's successors are ``ObserveHooks`` for the provider and ``observe`` for who wants to hear. Its methods
        raise upstream's ``DeprecationWarning``; those of the same name on a worker do the same without one.

    Attributes:
        id: Of the trigger type.
    """

    def __init__(
        self,
        iii: TriggerRegistrar,
        trigger_type_id: str,
        config_cls: type[C] | None = None,
        request_cls: type[R] | None = None,
    ) -> None:
        self.id = trigger_type_id
        self._iii = iii
        self._config_cls = config_cls
        self._request_cls = request_cls

    def __repr__(self) -> str:
        return f"<TriggerTypeRef {self.id}>"

    def register_trigger(self, function_id: str, config: C, metadata: Any = None) -> Trigger:
        """Bind a function of this worker to a trigger of this type. A model is sent by alias.

        .. deprecated:: 0.25.0
            ``register_trigger`` of the worker does the same without a warning.
        """
        warn_deprecated("register_trigger")
        return self._iii.register_trigger(self.id, function_id, config, metadata)

    def register_function(
        self,
        function_id: str,
        handler: Callable[[R], Any] | Callable[[R], Awaitable[Any]],
        *,
        description: str | None = None,
        config: C | None = None,
        metadata: Any = None,
    ) -> FunctionRef:
        """Register a function for such triggers, and bind it as well when ``config`` is given.

        .. deprecated:: 0.25.0
            ``register_function`` of the worker does the same without a warning.
        """
        warn_deprecated("TriggerTypeRef.register_function")
        function = self._iii.register_function(function_id, handler, description=description)
        if config is not None:
            self._iii.register_trigger(self.id, function_id, config, metadata)
        return function

    def unregister(self) -> None:
        """Stop providing the type; doing it again changes nothing."""
        self._iii.unregister_trigger_type(self.id)
