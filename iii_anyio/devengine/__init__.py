"""The embedded development engine: what the real one does, by plain import. Needs the extra ``engine``."""

from __future__ import annotations

from ._engine import Engine, open_engine
from .builtins.http import CorsOptions, GlobalMiddleware, HttpOptions

__all__ = ("CorsOptions", "Engine", "GlobalMiddleware", "HttpOptions", "open_engine")
