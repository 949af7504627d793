"""What a handler is given besides its payload: the seam between ``binding`` and who provides it.

``bind`` hands the parameters that could be provided to an ``Inject`` function and gets an ``Injection`` back, or None.
What is known at registration is a constant and costs a dictionary update per invocation, what must be made for each
invocation is entered before the handler and left behind it (``wrapping.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ("Enter", "Inject", "Injection")

Enter: TypeAlias = Callable[[AsyncExitStack], Awaitable[dict[str, Any]]]
"""Makes the values of one invocation, by parameter; what is to be left is in the stack."""


@dataclass(slots=True)
class Injection:
    """The parameters of one handler that its worker fills in, by name."""

    constants: dict[str, Any] = field(default_factory=dict[str, Any])
    computed: dict[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    """Made anew for each invocation, at once."""
    entered: frozenset[str] = frozenset()
    """What ``enter`` makes."""
    enter: Enter | None = None

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.constants) | frozenset(self.computed) | self.entered


Inject: TypeAlias = Callable[[str, Mapping[str, Any]], Injection | None]
"""Function id and annotations by parameter, to what is provided. Raises ``TypeError`` when it cannot be."""
