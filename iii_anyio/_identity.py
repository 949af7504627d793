"""Who this worker is, and where its engine is: options, else the environment, else a default. Read once per worker."""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ._version import __version__
from .options import DEFAULT_ENGINE_URL, InitOptions, TelemetryOptions

__all__ = ("FEATURES", "find_project_name", "identity", "resolve_engine_url", "resolve_namespace", "worker_name")

FEATURES: Final = ("observe.v1", "local-dispatch.v1", "large-messages.v1")
"""What this SDK declares in its register call (protocol §6.2)."""

_names_lock: Final = threading.Lock()
_default_names: Final[set[str]] = set()


def resolve_engine_url(address: str | None = None) -> str:
    """The argument, else a non-empty ``III_URL``, else ``ws://127.0.0.1:49134`` (P-01)."""
    return address or os.environ.get("III_URL") or DEFAULT_ENGINE_URL


def resolve_namespace(options: InitOptions) -> str | None:
    """The option, else a non-blank ``III_NAMESPACE``, else none (protocol §4.3)."""
    if options.namespace is not None:
        if not options.namespace.strip():
            raise ValueError("InitOptions.namespace must not be blank; leave it out for the default namespace")
        return options.namespace
    from_environment = _environment("III_NAMESPACE")
    return from_environment if from_environment and from_environment.strip() else None


@contextmanager
def worker_name(options: InitOptions) -> Generator[str]:
    """The name for one client while it lives; defaults are unique in the process.

    The engine allows one live worker a name (G-10), so a default shared by two clients would end the second.
    """
    given = _environment("III_WORKER_NAME") or options.worker_name
    if given:
        yield given
        return
    base = f"{socket.gethostname()}:{os.getpid()}"
    with _names_lock:
        number = 1
        while (name := base if number == 1 else f"{base}:{number}") in _default_names:
            number += 1
        _default_names.add(name)
    try:
        yield name
    finally:
        with _names_lock:
            _default_names.discard(name)


def identity(name: str, namespace: str | None, project_name: str | None, options: InitOptions) -> dict[str, Any]:
    """The payload of ``engine::workers::register`` (P-14, P-15)."""
    telemetry = options.telemetry or TelemetryOptions()
    payload: dict[str, Any] = {
        "runtime": "python",
        "version": __version__,
        "name": name,
        "os": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "pid": os.getpid(),
        "isolation": _environment("III_ISOLATION"),
        "namespace": namespace,
        "telemetry": {
            "language": telemetry.language or (_environment("LANG") or "").split(".")[0] or None,
            "project_name": telemetry.project_name or project_name,
            "framework": telemetry.framework or "iii-anyio",
        },
        "features": list(FEATURES),
    }
    if telemetry.amplitude_api_key is not None:
        payload["telemetry"]["amplitude_api_key"] = telemetry.amplitude_api_key
    if options.worker_description:
        payload["description"] = options.worker_description
    return payload


def _environment(name: str) -> str | None:
    """A variable's value. What is not UTF-8 in it arrives as lone surrogates, which no message can carry (G-2)."""
    value = os.environ.get(name)
    return value if value is None else _clean(value)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def find_project_name() -> str | None:
    """The name in ``pyproject.toml`` of the current directory, else the directory's own. Reads files."""
    try:
        here = Path.cwd()
    except OSError:  # the directory has been removed
        return None
    try:
        text = (here / "pyproject.toml").read_text(encoding="utf-8")
        import tomllib  # late: most workers run where there is no such file

        name = tomllib.loads(text).get("project", {}).get("name")
    except (OSError, ValueError, AttributeError):
        name = None
    return name if isinstance(name, str) and name else _clean(here.name) or None
