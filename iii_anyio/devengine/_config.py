"""The engine's configuration: the real engine's file, and what of it arguments replace (§8.1).

Below: ``_yaml`` reads text, ``_listeners`` has the options. Above: ``_engine``.

Only what this engine does itself is looked at here; the ``config`` of each built-in worker is handed to it as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, Final, cast

from ._access import Rule
from ._http_options import HttpOptions
from ._listeners import Listener, Rbac
from ._origins import Origins, is_loopback
from ._yaml import Document, Path, expand, read_yaml

__all__ = (
    "AS_CONFIGURED",
    "Address",
    "Arguments",
    "EngineConfig",
    "Settings",
    "load_config",
    "read_config",
    "settle",
)

logger: Final = logging.getLogger("iii_anyio.devengine")

AS_CONFIGURED: Final = -1
"""What a port is by default: that of the configuration; else the usual one, or free or none as that for workers."""

LISTENER: Final = "iii-worker-manager"
HTTP: Final = "iii-http"
STREAM: Final = "iii-stream"
MANDATORY: Final = frozenset({LISTENER, "configuration", "iii-observability", "iii-engine-functions", "iii-telemetry"})
"""Workers that are there whether they are listed or not (EC-5)."""
BUILT_IN: Final = MANDATORY | {
    HTTP, STREAM, "iii-state", "iii-pubsub", "iii-cron", "iii-queue", "iii-http-functions", "iii-exec", "iii-bridge",
}  # fmt: skip
"""What upstream's engine has in itself (EC-7)."""
STANDALONE: Final = {name: f"iii-{name}" for name in ("http", "cron", "queue", "state", "pubsub")}
"""Upstream's newer programs, and the built-in worker that does the same (EC-7)."""
_ROOT_KEYS: Final = frozenset({"registration_namespace_grace_ms", "workers", "modules"})
_LISTENER_KEYS: Final = frozenset({"port", "host", "middleware_function_id", "rbac", "handshake_timeout_ms"})
_RBAC_IDS: Final = (
    "auth_function_id",
    "on_function_registration_function_id",
    "on_trigger_registration_function_id",
    "on_trigger_type_registration_function_id",
)
_PORTS: Final = range(65_536)
_USUAL_PORTS: Final = {LISTENER: 49134, HTTP: 3111, STREAM: 3112}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the configuration has a built-in worker listen. Without host it is loopback; upstream's is 0.0.0.0."""

    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What a configuration says."""

    listeners: tuple[Listener, ...] = ()
    grace: float | None = None
    addresses: Mapping[str, Address] = field(default_factory=dict[str, Address])
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Of each built-in worker that is listed, its ``config``."""
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where each listed worker is, by the name it has there."""

    def place_of(self, name: str) -> str | None:
        """Where a built-in worker is listed."""
        return self.places.get(name) or self.places.get(name.removeprefix("iii-"))

    def warn_unserved(self, served: Collection[str], url: str) -> None:
        """Log which of the listed workers nobody runs, and what to do about it."""
        for listed, place in self.places.items():
            name = STANDALONE.get(listed, listed)
            if name in served or name in MANDATORY:
                continue
            if name in BUILT_IN:
                logger.warning("%s: this engine has no %s; what needs it runs on upstream's engine only", place, listed)
            else:
                logger.warning(
                    "%s: this engine starts no programs, so worker %s is not running; start it yourself with "
                    "III_URL=%s",
                    place,
                    listed,
                    url or "the engine's URL",
                )


def load_config(path: str | os.PathLike[str]) -> EngineConfig:
    """Read a configuration file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is wrong; the message names file, line and key.
    """
    source = os.fspath(path)
    try:
        text = FilePath(path).read_text("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{source}: not UTF-8: {exc.reason} at byte {exc.start}") from exc
    return read_config(read_yaml(expand(text, source), source))


def read_config(document: Document) -> EngineConfig:
    """Read a configuration.

    Raises:
        ValueError: It is wrong; the message names the key.
    """
    root = _mapping(document, (), document.value if document.value is not None else {})
    _check_keys(document, (), root, _ROOT_KEYS)
    grace = root.get("registration_namespace_grace_ms")
    if grace is not None:
        grace = _integer(document, ("registration_namespace_grace_ms",), grace, minimum=0) / 1000
    entries: list[tuple[Path, dict[str, Any]]] = []
    for section in ("workers", "modules"):
        listed: object = root.get(section, [])
        if not isinstance(listed, list):
            raise document.problem((section,), "must be a list; write [] for none (EC-1)")
        for index, entry in enumerate(cast("list[object]", listed)):
            entries.append(((section, index), _mapping(document, (section, index), entry)))

    listeners: list[Listener] = []
    addresses: dict[str, Address] = {}
    workers: dict[str, Mapping[str, Any]] = {}
    places: dict[str, str] = {}
    for path, entry in entries:
        listed_name = _text(document, (*path, "name"), entry.get("name"))
        name = STANDALONE.get(listed_name, listed_name)
        if name in BUILT_IN and entry.get("image") is not None:
            raise document.problem((*path, "image"), f"{listed_name} is built in and has no image (EC-2)")
        at = (*path, "config")
        config = _mapping(document, at, entry["config"]) if entry.get("config") is not None else {}
        if name == LISTENER:
            listeners.append(_listener(document, at, config))
            continue
        other = next((known for known in places if STANDALONE.get(known, known) == name), None)
        if other is not None and other != listed_name:
            raise document.problem(path, f"{other} and {listed_name} do the same work; leave one out (EC-7)")
        if other is not None:
            logger.warning("%s: only the first entry of %s is used by this engine", document.place(path), name)
            continue
        places[listed_name] = document.place(path)
        workers[name] = config
        if name in (HTTP, STREAM):
            addresses[name] = _address(document, at, config, _USUAL_PORTS[name])
    return EngineConfig(listeners=tuple(listeners), grace=grace, addresses=addresses, workers=workers, places=places)


def _listener(document: Document, path: Path, config: dict[str, Any]) -> Listener:
    _check_keys(document, path, config, _LISTENER_KEYS)
    address = _address(document, path, config, _USUAL_PORTS[LISTENER])
    timeout = config.get("handshake_timeout_ms")
    seconds = (
        10.0 if timeout is None else _integer(document, (*path, "handshake_timeout_ms"), timeout, minimum=1) / 1000
    )
    middleware = _optional_text(document, (*path, "middleware_function_id"), config.get("middleware_function_id"))
    rbac = None
    if config.get("rbac") is not None:
        at = (*path, "rbac")
        options = _mapping(document, at, config["rbac"])
        for key in options.keys() - {*_RBAC_IDS, "expose_functions"}:
            logger.warning("%s: an unknown key, which changes nothing", document.place((*at, key)))
        exposed: object = options.get("expose_functions")
        if exposed is not None and not isinstance(exposed, list):
            raise document.problem((*at, "expose_functions"), "must be a list of rules (RB-10)")
        rules = cast("list[str | Mapping[str, Any]]", exposed or [])
        for index, rule in enumerate(rules):
            try:
                Rule.read(rule)
            except ValueError as exc:
                raise document.problem((*at, "expose_functions", index), str(exc)) from exc
        ids = {key: _optional_text(document, (*at, key), options.get(key)) for key in _RBAC_IDS}
        rbac = Rbac(expose_functions=rules, **ids)
    return Listener(
        port=address.port, host=address.host, rbac=rbac, middleware_function_id=middleware, handshake_timeout=seconds
    )


def _address(document: Document, path: Path, config: dict[str, Any], usual: int) -> Address:
    port: object = config.get("port", usual)
    if not isinstance(port, int) or isinstance(port, bool) or port not in _PORTS:
        raise document.problem((*path, "port"), f"must be a number from 0 to 65535, not {port!r}")
    host = _optional_text(document, (*path, "host"), config.get("host"))
    return Address(port) if host is None else Address(port, host)


# -- arguments -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an engine runs with."""

    listeners: tuple[Listener, ...]
    http_address: Address | None
    stream_address: Address | None
    grace: float
    http: HttpOptions | None
    workers: Mapping[str, Mapping[str, Any]]
    given: Collection[str]
    """Those of them that are configured by argument."""
    config: EngineConfig | None
    """What was read; None when there is no configuration, and every built-in worker is started."""
    origins: Origins
    """Web pages that may subscribe to streams."""

    def has_service(self, name: str) -> bool:
        """Whether a built-in worker is to be started."""
        return self.config is None or name in MANDATORY or name in self.workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What was given to ``open_engine``; see there."""

    host: str | None
    port: int | None
    http_port: int | None
    stream_port: int | None
    listeners: Sequence[Listener] | None
    allow_remote: bool
    namespace_grace: float | None
    http: HttpOptions | None
    workers: Mapping[str, Mapping[str, Any]] | None
    allowed_origins: Sequence[str] = ()


def settle(arguments: Arguments, config: EngineConfig | None) -> Settings:
    """Put arguments over the configuration.

    Raises:
        ValueError: Something would listen where others reach it, without ``rbac`` and without ``allow_remote``; a
            port is given for a worker that the configuration leaves out; or an allowed origin is none.
    """
    given = {STANDALONE.get(name, name): value for name, value in (arguments.workers or {}).items()}
    settings = Settings(
        listeners=_listeners(arguments, config),
        http_address=_address_of(HTTP, arguments.http_port, arguments, config, given),
        stream_address=_address_of(STREAM, arguments.stream_port, arguments, config, given),
        grace=_grace(arguments, config),
        http=arguments.http,
        workers={**(config.workers if config is not None else {}), **given},
        given=given.keys(),
        config=config,
        origins=Origins(arguments.allowed_origins),
    )
    if not arguments.allow_remote:
        for listener in settings.listeners:
            if listener.rbac is None:
                _check_local("the listener for workers", listener.host)
        for what, address in (("the HTTP server", settings.http_address), ("streams", settings.stream_address)):
            if address is not None:
                _check_local(what, address.host)
    return settings


def _listeners(arguments: Arguments, config: EngineConfig | None) -> tuple[Listener, ...]:
    if arguments.port is None:
        return ()
    listeners = tuple(arguments.listeners) if arguments.listeners is not None else ()
    if not listeners and config is not None:
        listeners = config.listeners
    listeners = listeners or (Listener(),)  # declaring one takes the place of the default (RB-3)
    if arguments.port == 0:
        listeners = tuple(replace(listener, port=0) for listener in listeners)
    elif arguments.port != AS_CONFIGURED:
        listeners = (replace(listeners[0], port=arguments.port), *listeners[1:])
    if arguments.host is not None:
        listeners = tuple(replace(listener, host=arguments.host) for listener in listeners)
    if arguments.allowed_origins:
        listeners = tuple(
            listener
            if listener.rbac is not None or listener.allowed_origins is not None
            else replace(listener, allowed_origins=arguments.allowed_origins)
            for listener in listeners
        )
    return listeners


def _address_of(
    name: str, port: int | None, arguments: Arguments, config: EngineConfig | None, given: Mapping[str, object]
) -> Address | None:
    is_wanted = config is None or name in config.addresses or name in given
    if port is None:
        return None
    if not is_wanted:
        if port == AS_CONFIGURED:
            return None
        raise ValueError(f"the configuration lists no worker {name}, so nothing serves port {port}; add it, or leave "
                         f"the port out")  # fmt: skip
    address = config.addresses.get(name) if config is not None else None
    address = address if address is not None else Address(_USUAL_PORTS[name])
    if port != AS_CONFIGURED:
        address = replace(address, port=port)
    elif arguments.port is None:
        return None
    elif arguments.port == 0:
        address = replace(address, port=0)
    return address if arguments.host is None else replace(address, host=arguments.host)


def _grace(arguments: Arguments, config: EngineConfig | None) -> float:
    """Seconds: the argument, the environment (EC-12), the configuration, 5."""
    if arguments.namespace_grace is not None:
        return arguments.namespace_grace
    text = os.environ.get("III_NAMESPACE_GRACE_MS", "")
    if text.isdecimal():
        return int(text) / 1000
    return config.grace if config is not None and config.grace is not None else 5.0


def _check_local(what: str, host: str) -> None:
    if not is_loopback(host):
        raise ValueError(
            f"host {host!r} of {what} can be reached by others, and nothing there checks credentials; listen on "
            "127.0.0.1, guard the listener with rbac, or pass allow_remote=True (--allow-remote) if that is what you "
            "want"
        )


# -- values --------------------------------------------------------------------------------------------------------


def _check_keys(document: Document, path: Path, fields: dict[str, Any], known: frozenset[str]) -> None:
    for key in fields:
        if key not in known:
            raise document.problem((*path, key), f"unknown key; known are {', '.join(sorted(known))}")


def _mapping(document: Document, path: Path, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise document.problem(path, f"must be a mapping, not {value!r}")
    return {str(key): entry for key, entry in cast("Mapping[object, object]", value).items()}


def _integer(document: Document, path: Path, value: object, *, minimum: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (minimum is not None and value < minimum):
        limit = "" if minimum is None else f", {minimum} or more"
        raise document.problem(path, f"must be a whole number{limit}, not {value!r}")
    return value


def _text(document: Document, path: Path, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        problem = "is required" if value is None else f"must be text, not {value!r}"
        raise document.problem(path, problem)
    return value


def _optional_text(document: Document, path: Path, value: object) -> str | None:
    return None if value is None else _text(document, path, value)
