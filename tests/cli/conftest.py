"""An engine behind sockets for the tests of a module, and the worker whose functions they call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal

from iii_anyio import InitOptions, InvocationError, register_worker
from iii_anyio.devengine import Engine, open_engine
from tests.cli.running import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iii_anyio import IIIClient


@pytest.fixture(scope="module")
def server() -> Iterator[Engine]:
    opened = open_engine(port=0, http_port=0, stream_port=0)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as engine:
        yield engine


@pytest.fixture(scope="module")
def worker(server: Engine) -> Iterator[IIIClient]:
    """Has ``echo``, ``nothing`` and ``fails``."""

    def fails(data: Any) -> None:
        raise InvocationError("OUT_OF_TEA", "there is no tea", stacktrace="Traceback: in the kitchen")

    options = InitOptions(worker_name="kitchen", handle_signals=False)
    with register_worker(server.url, options) as iii:
        iii.register_function("test::echo", lambda data: data, description="gives it back")
        iii.register_function("test::nothing", lambda _: None)
        iii.register_function("test::fails", fails)
        iii.wait_ready(PATIENCE)
        yield iii


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test wants of the environment, it says."""
    for name in ("III_URL", "III_TOKEN", "III_NAMESPACE", "III_WORKER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
