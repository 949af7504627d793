"""What telemetry a worker is to have: options, else the environment, else a default (A.17, A.22)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

from ..options import InitOptions, OtelConfig

__all__ = ("has_metrics", "is_enabled", "is_off_by_environment", "otel_config", "resolve_int", "telemetry_url")

_FALSE: Final = {"false", "0", "no", "off"}
_TRUE: Final = {"true", "1", "yes", "on"}


def _switch(variable: str = "OTEL_ENABLED") -> str:
    return os.environ.get(variable, "").strip().lower()


def is_off_by_environment() -> bool:
    """Whether ``OTEL_ENABLED`` says no."""
    return _switch() in _FALSE


def has_metrics(config: OtelConfig) -> bool:
    """Unless the config or ``OTEL_METRICS_ENABLED`` says no: the variable is the Node SDK's (C.4)."""
    return config.metrics_enabled and _switch("OTEL_METRICS_ENABLED") not in _FALSE


def is_enabled(config: OtelConfig) -> bool:
    """``enabled`` decides, else ``OTEL_ENABLED``, else yes."""
    return not is_off_by_environment() if config.enabled is None else config.enabled


def otel_config(options: InitOptions) -> OtelConfig | None:
    """The telemetry that was asked for; None when none was.

    Raises:
        TypeError: It is no config, or has keys that there are not (A.25, 4).
    """
    given: Any = options.otel
    if given is None:
        return OtelConfig() if _switch() in _TRUE else None
    if isinstance(given, bool):
        return OtelConfig(enabled=given)
    if isinstance(given, OtelConfig):
        return given
    known = {field.name for field in dataclasses.fields(OtelConfig)}
    if isinstance(given, Mapping):
        fields: dict[str, Any] = {str(key): value for key, value in cast("Mapping[object, Any]", given).items()}
    elif dataclasses.is_dataclass(given) and not isinstance(given, type):  # upstream's own class
        fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(given) if field.name in known}
    else:
        raise TypeError(f"otel is an OtelConfig, a dict of its fields or a bool, not {type(given).__name__}")
    unknown = sorted(set(fields) - known)
    if unknown:
        raise TypeError(f"OtelConfig has no field {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return OtelConfig(**fields)


def resolve_int(value: int | None, variable: str, default: int, minimum: int = 0) -> int:
    """What was given, else a variable, unless it is no number or too small, else the default."""
    if value is not None:
        return value
    try:
        number = int(os.environ.get(variable, ""))
    except ValueError:
        return default
    return number if number >= minimum else default


def telemetry_url(address: str) -> str:
    """The engine's address with ``/otel`` behind its path; query and fragment stay (protocol §2.1)."""
    parts = urlsplit(address)
    path = parts.path.rstrip("/")
    if not path.endswith("/otel"):
        path += "/otel"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))
