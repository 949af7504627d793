"""What observers are described with: source, target, options, the envelope; and the hooks of a function's owner.

Below: pydantic, through ``_runtime/formats``. Above: ``Worker.observe`` and ``register_function(observe=...)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Literal, Required, TypeAlias, TypedDict, cast

from ._protocol.messages import ABSENT
from ._protocol.observing import ObservationState
from ._runtime.formats import as_format
from ._runtime.owning import Observer
from .errors import InvocationError

__all__ = (
    "Caller",
    "CallerParent",
    "Capture",
    "Delivery",
    "Filter",
    "ObserveHook",
    "ObserveHooks",
    "ObserveReason",
    "ObserveSource",
    "Observed",
    "ObserverOptions",
    "ObserverState",
    "Target",
    "TargetRef",
)

Capture: TypeAlias = Literal["input", "output", "error", "caller", "metadata"]
"""A part of an event. By default a target gets input, output and caller."""

Delivery: TypeAlias = Literal["auto", "owner"]
"""Who decides what an event is: every invocation is one, or the function's owner hands them out."""

Filter: TypeAlias = dict[str, Any]
"""Which events reach a target, e.g. ``{"input.amount": {"$gte": 500}}``; see ``iii_anyio.filter``."""

ObserverState: TypeAlias = ObservationState
"""``pending`` (no owner or target yet), ``active``, ``suspended`` (one of them is away), ``error`` or ``disposed``."""


class ObserveReason(TypedDict):
    """Why an observer is in its state."""

    code: str
    message: str


class TargetRef(TypedDict, total=False):
    """A target in a namespace of its own choice."""

    function_id: Required[str]
    namespace: str


Target: TypeAlias = str | TargetRef
"""The function that gets the events: its id, or the id and its namespace."""


class CallerParent(TypedDict, total=False):
    """Who made a call, one level up."""

    worker_id: str
    worker_name: str
    function_id: str
    invocation_id: str


class Caller(CallerParent, total=False):
    """Who made a call: which worker, and in which handler of it. ``parent`` is who called that handler."""

    parent: CallerParent


class Observed(TypedDict, total=False):
    """What a target receives with ``deliver: "envelope"``; parts that are not captured are absent."""

    observer_id: str
    activation_id: str
    function_id: str
    namespace: str
    invocation_id: str
    status: Literal["success", "error"]
    input: Any
    output: Any
    error: dict[str, Any]
    caller: Caller
    metadata: dict[str, Any]
    started_at_ms: int
    duration_ms: float


class ObserveSource(TypedDict, total=False):
    """What is observed.

    ``namespace``: by default the worker's; ``default`` for ``engine::*``. ``args``: for the owner of a function with
    owner delivery. ``filters``: by default every event. ``on``: by default ``success``. ``deliver``: what the target
    gets; by default ``envelope``.
    """

    function_id: Required[str]
    namespace: str
    args: dict[str, Any]
    filters: Filter
    on: Literal["success", "error", "complete"]
    capture: list[Capture]
    deliver: Literal["envelope", "input", "output"]


class ObserverOptions(TypedDict, total=False):
    """The observer itself.

    ``id``: by default a random one. ``max_fires``, ``expires_in_ms``: it ends after so many events, or so long.
    ``max_in_flight``: how many may be on their way to the target. ``metadata``: goes with every event.
    """

    id: str
    max_fires: int
    expires_in_ms: int
    max_in_flight: int
    metadata: dict[str, Any]


ObserveHook: TypeAlias = Callable[[Observer], Awaitable[None] | None]
"""Called with an observer. A sync one runs in a thread and may use the worker's blocking methods."""


class ObserveHooks:
    """How the observers of a function are served: the ``observe`` of ``register_function``.

    Given as keyword arguments, or as attributes and methods of a subclass. The hooks of one function run one at a
    time, in the order of the engine's announcements; one that takes over 30 s refuses its observer (``OWNER_TIMEOUT``).

    Attributes:
        delivery: ``owner``: handlers hand out events by ``Observer.emit`` and ``Observer.call``. By default ``auto``.
        args_format: JSON Schema, or a type, that the engine checks the observers' ``args`` against; with ``owner``.
        legacy_trigger_type: The trigger type whose triggers become observers of this function.
        allow: False: nobody may observe it.
        on_observer_added: May refuse the observer by raising; an ``ObserveRejection`` says with which code.
        on_observer_removed: What it raises is logged.
    """

    delivery: Delivery | None = None
    args_format: Any = None
    legacy_trigger_type: str | None = None
    allow: bool | None = None
    on_observer_added: Callable[..., Any] | None = None
    on_observer_removed: Callable[..., Any] | None = None

    _KEYS: ClassVar[tuple[str, ...]] = (
        "delivery",
        "args_format",
        "legacy_trigger_type",
        "allow",
        "on_observer_added",
        "on_observer_removed",
    )

    def __init__(
        self,
        *,
        delivery: Delivery | None = ABSENT,
        args_format: Any = ABSENT,
        legacy_trigger_type: str | None = ABSENT,
        allow: bool | None = ABSENT,
        on_observer_added: ObserveHook | None = ABSENT,
        on_observer_removed: ObserveHook | None = ABSENT,
    ) -> None:
        """Set what is given; the rest is as the class has it."""
        given = (delivery, args_format, legacy_trigger_type, allow, on_observer_added, on_observer_removed)
        for name, value in zip(self._KEYS, given, strict=True):
            if value is not ABSENT:
                setattr(self, name, value)

    def __repr__(self) -> str:
        given = [f"{name}={getattr(self, name)!r}" for name in self._KEYS if getattr(self, name) is not None]
        return f"{type(self).__name__}({', '.join(given)})"

    @classmethod
    def from_value(cls, value: ObserveHooks | dict[str, Any] | None) -> ObserveHooks | None:
        """Bring what ``register_function`` was given into one shape.

        Raises:
            TypeError: Neither hooks nor a dict of their keyword arguments.
        """
        if value is None or isinstance(value, ObserveHooks):
            return value
        if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  callers without a type checker
            raise TypeError(f"observe is ObserveHooks or a dict of its arguments, not {type(value).__name__}")
        unknown = [key for key in value if key not in cls._KEYS]
        if unknown:
            raise TypeError(f"observe does not know {unknown[0]!r}; it takes {', '.join(cls._KEYS)}")
        return cls(**value)


_DELIVERIES: Final = (None, "auto", "owner")


def describe_hooks(function_id: str, hooks: ObserveHooks) -> dict[str, Any] | None:
    """``registerfunction.observe``: what travels of the hooks, of that only what is set (§16.2).

    Raises:
        InvocationError: ``INVALID_OBSERVE_DESCRIPTOR``.
    """

    def invalid(text: str) -> InvocationError:
        return InvocationError("INVALID_OBSERVE_DESCRIPTOR", f"observe of {function_id!r}: {text}", function_id)

    if hooks.delivery not in _DELIVERIES:
        raise invalid(f"delivery is 'auto' or 'owner', not {hooks.delivery!r}")
    if hooks.args_format is not None and hooks.delivery != "owner":
        raise invalid("args_format is for delivery='owner': with 'auto' nobody looks at the observers' args")
    if not isinstance(cast("object", hooks.legacy_trigger_type), str | None):
        raise invalid(f"legacy_trigger_type is a string, not {type(hooks.legacy_trigger_type).__name__}")
    if not isinstance(cast("object", hooks.allow), bool | None):
        raise invalid(f"allow is true or false, not {hooks.allow!r}")
    for hook in (hooks.on_observer_added, hooks.on_observer_removed):
        if hook is not None and not callable(hook):
            raise invalid(f"a hook is called, and {type(hook).__name__} cannot be")
    described = {
        "delivery": hooks.delivery,
        "args_format": None if hooks.args_format is None else as_format(hooks.args_format),
        "legacy_trigger_type": hooks.legacy_trigger_type,
        "allow": hooks.allow,
    }
    return {name: value for name, value in described.items() if value is not None} or None
