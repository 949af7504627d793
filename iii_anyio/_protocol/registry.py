"""What this worker exports: services, trigger types, functions, triggers; replayed in that order on every link (P-13).

Each registration keeps its encoded message, so a replay is a copy of bytes. The dictionaries are written with single
atomic operations, so that any thread may register; when it is sent is decided on the loop (``worker_session``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import IIIError

__all__ = ("Registration", "Registry")


class Registration:
    """One exported thing: how it is announced and withdrawn, and what the runtime runs for it (``target``)."""

    __slots__ = ("id", "link", "refusal", "register", "target", "unregister")

    def __init__(self, id: str, register: bytes, unregister: bytes, target: Any = None) -> None:
        self.id: str = id
        # Copies: what orjson returns keeps the 4 KiB buffer it was written in.
        self.register: bytes = bytes(memoryview(register))
        self.unregister: bytes = bytes(memoryview(unregister))
        self.target: Any = target
        self.link: int = 0  # number of the link it was last sent on
        self.refusal: IIIError | None = None  # why the engine or a provider refused it on that link


class Registry:
    """The four kinds of registrations, each by id. Services cannot be withdrawn (§11)."""

    def __init__(self) -> None:
        self.services: dict[str, Registration] = {}
        self.trigger_types: dict[str, Registration] = {}
        self.functions: dict[str, Registration] = {}
        self.triggers: dict[str, Registration] = {}

    def add_function(self, registration: Registration) -> None:
        """Add a function; its id must be new (P-20)."""
        if self.functions.setdefault(registration.id, registration) is not registration:
            raise ValueError(f"function id {registration.id!r} already registered")

    def current(self, registration: Registration) -> Registration | None:
        """What is registered under the same kind and id now: the registration itself, its successor, or nothing."""
        for kind in (self.services, self.trigger_types, self.functions, self.triggers):
            entry = kind.get(registration.id)
            if entry is not None and entry.unregister == registration.unregister:  # the same text names the same thing
                return entry
        return None

    def replay(self) -> Iterator[Registration]:
        """Everything, in the order the engine must see it."""
        yield from list(self.services.values())
        yield from list(self.trigger_types.values())
        yield from list(self.functions.values())
        yield from list(self.triggers.values())

    def refusals(self) -> list[IIIError]:
        """Why registrations of the current link were refused."""
        return [entry.refusal for entry in self.replay() if entry.refusal is not None]
