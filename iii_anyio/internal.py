"""Upstream's ``iii.internal``: the request behind ``http()``."""

from __future__ import annotations

from ._streaming import InternalHttpRequest

__all__ = ("InternalHttpRequest",)
