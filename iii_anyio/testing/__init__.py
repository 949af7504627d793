"""Tools for tests of your own: a handler without an engine, an engine without ports, a network that breaks as told.

The fixtures of ``iii_anyio.pytest_plugin`` bring most of it to a test; ``docs/testing.md`` shows how. Those with an
engine need the extra ``engine``, ``virtual_time`` the extra ``trio``.
"""

from __future__ import annotations

from ._clock import virtual_time
from ._drivers import CronDriver, HttpAnswer, HttpDriver, QueueDriver, StateChanges, StateDriver
from ._faults import FAULTS, Fault, OnConnect
from ._invoke import FakeCall, FakeWorker, http_request, invoke
from ._tcp_faults import FaultProxy
from ._wire_faults import FaultConnector

__all__ = (
    "FAULTS",
    "CronDriver",
    "FakeCall",
    "FakeWorker",
    "Fault",
    "FaultConnector",
    "FaultProxy",
    "HttpAnswer",
    "HttpDriver",
    "OnConnect",
    "QueueDriver",
    "StateChanges",
    "StateDriver",
    "http_request",
    "invoke",
    "virtual_time",
)
