"""What this engine does about listeners beyond upstream's: a limit for auth functions, and where it listens."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from iii_anyio import InvocationError
from iii_anyio.devengine import Listener, Rbac, open_engine
from iii_anyio.devengine import _listeners as module
from iii_anyio.devengine._listeners import authenticate
from iii_anyio.devengine._router import Router

pytestmark = pytest.mark.anyio

OPEN = Rbac(expose_functions=['match("*")'])


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_an_auth_function_that_does_not_answer_refuses_after_its_time() -> None:
    """Upstream waits for ever, with the socket open."""
    router = Router(lambda: 0)
    trusted = router.connect()
    text = json.dumps({"type": "registerfunction", "id": "auth"}).encode()
    router.receive(trusted, text)
    router.grace_expired(trusted)
    accepted = cast("Any", SimpleNamespace(headers={"ok": "1", "not": "\udcff"}, query="a&\udcff=1", peer="::1"))
    started = anyio.current_time()
    with pytest.raises(InvocationError, match="did not answer in 30 s") as refusal:
        await authenticate(Listener(rbac=Rbac(auth_function_id="auth")), router, accepted, lambda: None)
    assert refusal.value.code == "AUTH_ERROR"
    assert anyio.current_time() - started == module.AUTH_TIMEOUT
    assert len(router.answers.open) == 0
    # Bytes that are no text, which JSON could not carry, have been left out (RB-9).
    (call,) = [json.loads(text) for text in trusted.take_outgoing() if b"invokefunction" in text]
    assert call["data"] == {"headers": {"ok": "1"}, "query_params": {"a": [""]}, "ip_address": "::1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
async def test_a_host_that_others_reach_needs_access_control_or_a_word(host: str) -> None:
    with pytest.raises(ValueError, match="allow_remote"):
        open_engine(listeners=[Listener(host=host)])
    with pytest.raises(ValueError, match="allow_remote"):
        open_engine(host=host)
    with pytest.raises(ValueError, match="HTTP server"):
        open_engine(host=host, listeners=[Listener(rbac=OPEN)])
    with pytest.raises(ValueError, match="for workers"):  # a middleware is no access control
        open_engine(listeners=[Listener(rbac=OPEN), Listener(host=host, middleware_function_id="m")])
    open_engine(listeners=[Listener(host=host, rbac=OPEN)])
    open_engine(listeners=[Listener(host=host)], allow_remote=True)
    open_engine(host=host, port=None, http_port=None, stream_port=None)


async def test_a_port_that_is_taken_ends_the_start() -> None:
    """RB-4: upstream goes on without that listener."""
    with anyio.fail_after(5):
        async with open_engine(port=0, http_port=None, stream_port=None) as first:
            port = int(first.url.rpartition(":")[2])
            with pytest.raises(OSError, match="in use"):
                async with open_engine(port=port, http_port=None, stream_port=None):
                    pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
async def test_loopback_needs_no_word(host: str) -> None:
    open_engine(host=host)


@pytest.mark.parametrize(("field", "value"), [("port", -1), ("port", 65536), ("handshake_timeout", 0)])
async def test_impossible_options_of_a_listener_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Listener(**{field: value})
