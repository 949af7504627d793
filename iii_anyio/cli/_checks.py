"""The steps of a connection, one by one, for ``doctor``: address, token, name, TCP, TLS, handshake, identity, engine.

A step that fails is the last, for the later ones need it. No text holds a credential: of the token only that there is
one, of addresses neither user nor query. Below: ``_wire.connect``, a worker.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import SOCK_STREAM
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
from anyio import fail_after, move_on_after, to_thread
from anyio.streams.tls import TLSAttribute, TLSStream

from .._channel_end import resolve_headers
from .._identity import FEATURES, resolve_engine_url
from .._protocol.codec import decode
from .._protocol.messages import ErrorMessage
from .._version import __version__
from ..errors import ConnectError, DecodeError, IIIError, InvocationError, LinkClosed
from ._connection import CONNECT_TIMEOUT, connected, shown_url
from ._errors import CommandError, ExitCode

if TYPE_CHECKING:
    from ..worker import Worker

__all__ = ("Check", "examine")

Status: TypeAlias = Literal["ok", "warning", "failed"]

_CALLS: Final = 5
_SLOW: Final = 0.25
"""Seconds of a round trip from which on it is worth a word."""
_START: Final = "Start an engine: `iii-anyio dev`, or upstream's `iii`. Another address: III_URL or --url."


@dataclass(slots=True)
class Check:
    """What one step came to."""

    name: str
    status: Status
    detail: str
    advice: str = ""
    exit_code: ExitCode = ExitCode.NO_CONNECTION
    """When it failed."""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


class _Failed(Exception):
    """Ends the row of steps."""


async def examine(url: str | None, tell: Callable[[Check], None]) -> list[Check]:
    """Do one step after the other, up to the first that fails; each is told as it is known."""
    examination = _Examination(url, tell)
    with suppress(_Failed):
        await examination.run()
    return examination.checks


class _Examination:
    def __init__(self, url: str | None, tell: Callable[[Check], None]) -> None:
        self._given = url
        self._url = resolve_engine_url(url)
        self._tell = tell
        self._host = ""
        self._port = 0
        self._is_secure = False
        self._is_local = False
        self._worker_name = os.environ.get("III_WORKER_NAME")
        """Commands connect by another name, so it has to be looked at before."""
        self.checks: list[Check] = []

    def _ok(self, name: str, detail: str, **facts: Any) -> None:
        self._add(Check(name, "ok", detail, facts=facts))

    def _warn(self, name: str, detail: str, advice: str, **facts: Any) -> None:
        self._add(Check(name, "warning", detail, advice, facts=facts))

    def _fail(self, name: str, detail: str, advice: str, code: ExitCode = ExitCode.NO_CONNECTION) -> _Failed:
        self._add(Check(name, "failed", detail, advice, code))
        return _Failed(name)

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        self._tell(check)

    async def run(self) -> None:
        self._address()
        self._token()
        proxy = self._proxy()
        if proxy:
            self._ok("proxy", f"{proxy}, from the environment; name, TCP and TLS are for it to do")
        else:
            await self._network()
        await self._handshake()
        try:
            async with connected(self._url, "doctor") as iii:
                self._ok("identity", f"accepted in namespace {iii.namespace or 'default'}", worker_id=iii.worker_id)
                await self._round_trips(iii)
                await self._engine(iii)
        except (ConnectError, CommandError) as exc:
            reason = exc.reason if isinstance(exc, ConnectError) else str(exc)
            advice = "The engine's log says more. III_NAMESPACE and III_TOKEN decide what it may refuse."
            raise self._fail("identity", reason, advice) from exc
        except IIIError as exc:
            raise self._fail("identity", str(exc), "The engine's log says more.") from exc

    # -- without the network -------------------------------------------------------------------------------------

    def _address(self) -> None:
        source = "--url" if self._given else "III_URL" if os.environ.get("III_URL") else "the default: no III_URL"
        advice = "It looks like ws://127.0.0.1:49134, or wss:// behind a proxy with TLS."
        try:
            parts = urlsplit(self._url)
            self._port = parts.port or (443 if parts.scheme == "wss" else 80)
        except ValueError as exc:
            raise self._fail("address", f"from {source}: {exc}", advice, ExitCode.USAGE) from exc
        if parts.scheme not in {"ws", "wss"} or not parts.hostname:
            detail = f"{shown_url(self._url)!r}, from {source}, is no WebSocket address"
            raise self._fail("address", detail, advice, ExitCode.USAGE)
        self._host = parts.hostname
        self._is_secure = parts.scheme == "wss"
        try:
            self._is_local = ip_address(self._host).is_loopback
        except ValueError:
            self._is_local = self._host == "localhost"
        shown = shown_url(self._url)
        if parts.port is None and not self._is_secure:
            advice = "Without a port it is 80; an engine listens on 49134 unless configured otherwise."
            self._warn("address", f"{shown}, from {source}, has no port", advice, url=shown, source=source)
        else:
            self._ok("address", f"{shown}, from {source}", url=shown, source=source)

    def _token(self) -> None:
        if not (os.environ.get("III_TOKEN") or "").strip():
            self._ok("token", "none: III_TOKEN is not set")
        elif self._is_secure or self._is_local:
            self._ok("token", "III_TOKEN is sent, as a bearer token")
        else:
            advice = "Everybody on the way can read it: use wss://, or a tunnel."
            self._warn("token", "III_TOKEN is sent over an unencrypted connection", advice)

    def _proxy(self) -> str:
        """The proxy that the worker's socket would go through; the rule of ``_wire.connect``."""
        if self._is_local or proxy_bypass(f"{self._host}:{self._port}"):
            return ""
        proxies = getproxies()
        names = ("wss", "https", "all") if self._is_secure else ("ws", "http", "all")
        return next((shown_url(proxies[name]) for name in names if proxies.get(name)), "")

    # -- the network ---------------------------------------------------------------------------------------------

    async def _network(self) -> None:
        addresses = await self._timed("name", self._resolve, f"asking for {self._host}", "Check the DNS servers.")
        if addresses != [self._host]:
            self._ok("name", f"{self._host} is {', '.join(addresses)}", addresses=addresses)
        advice = "A firewall may drop it in silence; check host and port."
        where = f"{self._host} port {self._port}"
        stream = await self._timed("TCP", self._connect, f"connecting to {where}", advice)
        try:
            if self._is_secure:
                advice = "Is TLS spoken there at all? Try ws://."
                stream = await self._timed("TLS", lambda: self._start_tls(stream), "in the TLS handshake", advice)
        finally:
            with move_on_after(1, shield=True):
                await anyio.aclose_forcefully(stream)

    async def _timed(self, name: str, step: Callable[[], Awaitable[Any]], doing: str, advice: str) -> Any:
        try:
            with fail_after(CONNECT_TIMEOUT):
                return await step()
        except TimeoutError as exc:
            raise self._fail(name, f"no answer within {CONNECT_TIMEOUT:g} s, {doing}", advice) from exc

    async def _resolve(self) -> list[str]:
        try:
            found = await anyio.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            advice = f"Check the spelling, and whether `getent hosts {self._host}` or `nslookup` knows it here."
            raise self._fail("name", f"the host {self._host!r} is unknown ({reason})", advice) from exc
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def _connect(self) -> anyio.abc.ByteStream:
        started = perf_counter()
        try:
            stream = await anyio.connect_tcp(self._host, self._port)
        except OSError as exc:
            refused = any(isinstance(cause, ConnectionRefusedError) for cause in _causes(exc))
            detail = "connection refused" if refused else f"{exc}"
            advice = f"Nothing listens on {self._host} port {self._port}. {_START}" if refused else _START
            raise self._fail("TCP", detail, advice) from exc
        self._ok("TCP", f"connected in {_ms(started)}")
        return stream

    async def _start_tls(self, stream: anyio.abc.ByteStream) -> anyio.abc.ByteStream:
        from .._wire.connect import tls_context

        started = perf_counter()
        context = await to_thread.run_sync(tls_context, True)
        try:
            secured = await TLSStream.wrap(stream, hostname=self._host, ssl_context=context, standard_compatible=False)
        except ssl.SSLCertVerificationError as exc:
            advice = (
                "If an authority of your own signed it: SSL_CERT_FILE names its certificate. If it is for another "
                "host: use that name. verify_tls=False is for tests only."
            )
            raise self._fail("TLS", f"the certificate is not accepted: {exc.verify_message}", advice) from exc
        except (ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
            advice = "The peer may speak plain ws:// on this port."
            raise self._fail("TLS", f"the handshake failed: {exc or type(exc).__name__}", advice) from exc
        version = secured.extra(TLSAttribute.tls_version)
        self._ok("TLS", f"{version}, the certificate is good, in {_ms(started)}", version=version)
        return secured

    async def _handshake(self) -> None:
        """The WebSocket handshake, and what the engine says first: who we are, or that our credentials are no good."""
        from .._wire.connect import websocket_connector

        started = perf_counter()
        try:
            connect = websocket_connector(self._url, headers=resolve_headers({}), connect_timeout=CONNECT_TIMEOUT)
            async with connect() as wire:
                took = _ms(started)
                batch: list[bytes] = []
                with move_on_after(CONNECT_TIMEOUT):
                    while not batch:
                        batch = await wire.receive()
        except ValueError as exc:  # a token or a proxy's URL that cannot be right
            raise self._fail("handshake", str(exc), "See III_TOKEN, and the variables of proxies.") from exc
        except ConnectError as exc:
            advice = "Does an iii engine listen there, on its port for workers?"
            raise self._fail("handshake", exc.reason, advice) from exc
        except LinkClosed as exc:
            advice = "The engine or a proxy in between ended it; their logs say why."
            raise self._fail("handshake", f"accepted, then closed: {exc}", advice) from exc
        try:
            first = decode(batch[0]) if batch else None
        except DecodeError as exc:
            detail = "a WebSocket server that is no iii engine"
            raise self._fail("handshake", detail, "Check host, port and path.") from exc
        self._ok("handshake", f"101 in {took}")
        if isinstance(first, ErrorMessage):  # §5.7; that we are welcome may be said late (P-16)
            refusal = InvocationError.from_wire(first.error)
            advice = "Check III_TOKEN; the engine's listener decides by its rbac settings who comes in."
            raise self._fail("credentials", str(refusal), advice)

    # -- the engine ----------------------------------------------------------------------------------------------

    async def _round_trips(self, iii: Worker) -> None:
        took: list[float] = []
        try:
            for _ in range(_CALLS):
                started = perf_counter()
                await iii.trigger_async("engine::baggage::get", {"key": "iii-cli"}, timeout_ms=5000)
                took.append(perf_counter() - started)
        except InvocationError as exc:
            self._warn("round trip", f"a call failed: {exc}", "Other functions may work; `iii-anyio list functions`.")
            return
        middle = sorted(took)[len(took) // 2]
        facts = {"median_ms": round(middle * 1000, 3), "max_ms": round(max(took) * 1000, 3)}
        detail = f"{middle * 1000:.1f} ms median, {max(took) * 1000:.1f} ms at most, of {_CALLS} calls"
        if middle > _SLOW:
            self._warn("round trip", detail, "Far away, or an overloaded engine: give calls longer timeouts.", **facts)
        else:
            self._ok("round trip", detail, **facts)

    async def _engine(self, iii: Worker) -> None:
        try:
            workers = await iii.list_workers_async()
        except InvocationError as exc:
            advice = "The listener's rbac hides it; that is no fault."
            self._warn("engine", f"may not be looked at: {exc}", advice, sdk=__version__)
            return
        parts = {str(row.name): row for row in workers if row.runtime == "engine"}
        version = next((row.version for row in parts.values() if row.version), None)
        self._ok("engine", f"version {version or 'unknown'}; this SDK {__version__}", version=version, sdk=__version__)
        shown = sorted(name.removeprefix("iii-") for name in parts)
        self._ok("parts", ", ".join(shown) or "none are told", parts=sorted(parts))
        # The engine may name its features late, so the worker's session knows, and not the first message (G-24).
        has = iii._supervisor.session.features  # pyright: ignore[reportPrivateUsage] - of this package
        missing = [name for name in FEATURES if name not in has]
        detail = ", ".join(has) or "none"
        if missing:
            detail += f"; without {', '.join(missing)}, which 0.25 has"
        self._ok("features", detail, features=list(has))
        self._own_name([row.name for row in workers if row.namespace in (None, iii.namespace or "default")])

    def _own_name(self, taken: list[str | None]) -> None:
        name = self._worker_name
        if name and name in taken:
            advice = "One worker a name (E-35): another that is started with this environment is refused while it runs."
            self._warn("worker name", f"III_WORKER_NAME={name} is connected already", advice)


def _causes(exc: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while exc is not None:
        found.append(exc)
        if isinstance(exc, BaseExceptionGroup):
            for member in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
                found += _causes(member)
        exc = exc.__cause__ or exc.__context__
    return found


def _ms(started: float) -> str:
    return f"{(perf_counter() - started) * 1000:.1f} ms"
