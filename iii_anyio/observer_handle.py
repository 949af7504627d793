"""Upstream's name for the module of ``ObserverHandle``, what ``observe()`` returns."""

from __future__ import annotations

from ._runtime.observing import ObserverHandle, StateListener

__all__ = ("ObserverHandle", "StateListener")
