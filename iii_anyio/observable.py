"""Upstream's name for the module of ``Observer``, what the owner of a function sees of an observer."""

from __future__ import annotations

from ._runtime.owning import Observer

__all__ = ("Observer",)
