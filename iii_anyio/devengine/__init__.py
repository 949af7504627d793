"""The embedded development engine: what the real one does, by plain import. Needs the extra ``engine``."""

from __future__ import annotations

from ._engine import Engine, open_engine
from ._listeners import Listener, Rbac
from ._storage import StorageError
from .builtins.http import CorsOptions, GlobalMiddleware, HttpOptions

__all__ = (
    "CorsOptions",
    "Engine",
    "GlobalMiddleware",
    "HttpOptions",
    "Listener",
    "Rbac",
    "StorageError",
    "open_engine",
)
