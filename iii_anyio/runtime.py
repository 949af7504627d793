"""Upstream's name for the module of handles and of the connection's state."""

from __future__ import annotations

from .functions import FunctionRef
from .options import IIIConnectionState
from .trigger import TriggerTypeRef

__all__ = ("FunctionRef", "IIIConnectionState", "TriggerTypeRef")
