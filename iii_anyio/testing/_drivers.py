"""What sets triggers off in a test, and waits for what comes of it: HTTP requests, cron ticks, queues, state.

Below: the engine's own functions, so all but ``HttpDriver`` work with any engine. Above: the fixtures ``iii_http``,
``iii_cron``, ``iii_queue`` and ``iii_state``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlencode

import anyio
from anyio import fail_after

from .._protocol.jsontext import to_json
from ..state import State, StateEventData

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from ..devengine import Engine
    from ..worker import Worker

__all__ = ("CronDriver", "HttpAnswer", "HttpDriver", "QueueDriver", "StateChanges", "StateDriver")

_NOTHING: Final = object()
_POLL: Final = 0.01
_numbers: Final = count(1)


# -- http ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a client gets.

    Attributes:
        status_code: Of the response.
        headers: Names in lower case; of repeated ones the values, joined by commas.
        content: The body.
    """

    status_code: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    content: bytes = b""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


class HttpDriver:
    """Makes requests to the routes of ``http`` triggers, without a socket.

    ::

        answer = await http.post("/orders", {"item": "tea"})
        assert answer.status_code == 201

    Args:
        engine: In this process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def request(
        self,
        method: str,
        path: str,
        body: Any = _NOTHING,
        *,
        content: bytes = b"",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """Make a request and wait for the whole response.

        Args:
            method: Of the request.
            path: With or without a query.
            body: Sent as JSON.
            content: Sent as it is, in place of ``body``.
            query: Added to the path.
            headers: Of the request.
        """
        app = self._engine.http_app
        if app is None:
            raise RuntimeError("this engine serves no http triggers: it has not been entered, or iii-http is left out")
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if body is not _NOTHING:
            content = to_json(body)
            given.setdefault("content-type", "application/json")
        if content:
            given["content-length"] = str(len(content))
        given.setdefault("host", "iii.test")
        target, _, query_string = path.partition("?")
        if query:
            query_string = "&".join(filter(None, (query_string, urlencode(query, doseq=True))))
        target = f"/{target.lstrip('/')}"
        return await _exchange(app, method.upper(), target, query_string, given, content)

    async def get(self, path: str, **options: Any) -> HttpAnswer:
        """GET; options as for ``request``."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = _NOTHING, **options: Any) -> HttpAnswer:
        """POST ``body`` as JSON."""
        return await self.request("POST", path, body, **options)

    async def put(self, path: str, body: Any = _NOTHING, **options: Any) -> HttpAnswer:
        """PUT ``body`` as JSON."""
        return await self.request("PUT", path, body, **options)

    async def patch(self, path: str, body: Any = _NOTHING, **options: Any) -> HttpAnswer:
        """PATCH ``body`` as JSON."""
        return await self.request("PATCH", path, body, **options)

    async def delete(self, path: str, **options: Any) -> HttpAnswer:
        """DELETE; options as for ``request``."""
        return await self.request("DELETE", path, **options)


async def _exchange(
    app: Any, method: str, target: str, query: str, headers: Mapping[str, str], content: bytes
) -> HttpAnswer:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
    }
    is_sent = False
    status = 0
    answered: dict[str, str] = {}
    body: list[bytes] = []

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if is_sent:
            await anyio.sleep_forever()  # the client stays until it has its answer
        is_sent = True
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            for raw_name, raw_value in message["headers"]:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                answered[name] = f"{answered[name]}, {value}" if name in answered else value
        else:
            body.append(message.get("body", b""))

    await app(scope, receive, send)
    return HttpAnswer(status, answered, b"".join(body))


# -- cron ------------------------------------------------------------------------------------------------------------


class CronDriver:
    """Fires ``cron`` triggers, whatever the time is.

    Args:
        iii: Any worker of the engine.
    """

    def __init__(self, iii: Worker) -> None:
        self._iii = iii

    async def fire(
        self,
        function_id: str,
        *,
        at: datetime | None = None,
        trigger_id: str | None = None,
        namespace: str | None = None,
    ) -> Any:
        """Call a function as its cron trigger would, and return its result; None when the condition says no.

        Unlike a tick of the engine it raises what the function raises.

        Args:
            function_id: Of the function that is bound.
            at: The time for which it was scheduled; by default now.
            trigger_id: Which trigger, when the function has several.
            namespace: Of the function, when it is not the default one.

        Raises:
            LookupError: There is no such trigger, or there are several.
            InvocationError: The function failed.
        """
        request = {"trigger_type": "cron", "function_id": function_id, "include_internal": True}
        listed = await self._iii.trigger_async("engine::registered-triggers::list", request)
        rows = [row for row in listed["registered_triggers"] if trigger_id in (None, row["id"])]
        if len(rows) != 1:
            found = ", ".join(row["id"] for row in rows) or "none"
            raise LookupError(
                f"one cron trigger of {function_id!r} was to be fired, and there are {len(rows)}: {found}"
            )
        detail = await self._iii.trigger_async("engine::registered-triggers::info", {"id": rows[0]["id"]})
        moment = datetime.now(UTC) if at is None else at.astimezone(UTC)
        payload = {
            "trigger": "cron",
            "job_id": detail["id"],
            "scheduled_time": moment.isoformat(timespec="seconds"),
            "actual_time": moment.isoformat(timespec="microseconds"),
        }
        config: dict[str, Any] = detail["config"] or {}
        condition: str | None = config.get("condition_function_id")
        call = self._iii.trigger_async
        if condition is not None and await call(condition, payload, namespace=namespace) is False:
            return None
        return await call(function_id, payload, metadata=detail.get("metadata"), namespace=namespace)


# -- queues ----------------------------------------------------------------------------------------------------------


class QueueDriver:
    """Waits for queues, named ones and topics.

    Args:
        iii: Any worker of the engine.
    """

    def __init__(self, iii: Worker) -> None:
        self._iii = iii

    async def drain(self, queue: str = "default", *, timeout: float = 10.0) -> None:
        """Wait until nothing waits, runs or is to be tried again in this queue. Dead jobs do not count.

        Raises:
            LookupError: There is no such queue, nor a topic with subscribers.
            TimeoutError: There still is something after ``timeout`` seconds.
        """
        names = [row["name"] for row in await self._iii.trigger_async("engine::queue::list_topics", {})]
        if queue not in names:
            raise LookupError(f"there is no queue {queue!r}, only {', '.join(sorted(names)) or 'none'}")
        left = await self.depth(queue)
        try:
            with fail_after(timeout):
                while left:
                    await anyio.sleep(_POLL)  # the engine tells nobody when a queue is empty
                    left = await self.depth(queue)
        except TimeoutError:
            raise TimeoutError(f"{left} jobs are left in queue {queue!r} after {timeout:g} s") from None

    async def depth(self, queue: str = "default") -> int:
        """How many jobs wait, run, or are to be tried again."""
        stats = await self._iii.trigger_async("engine::queue::topic_stats", {"queue": queue})
        return int(stats["depth"])

    async def dead(self, queue: str = "default") -> list[dict[str, Any]]:
        """The jobs that failed for good, with ``payload`` and ``error``; the newest first."""
        dead: list[dict[str, Any]] = await self._iii.trigger_async("engine::queue::dlq_messages", {"queue": queue})
        return dead


# -- state -----------------------------------------------------------------------------------------------------------


class StateChanges:
    """What changes in state, from ``StateDriver.changes`` on.

    Attributes:
        seen: All of it so far.
    """

    def __init__(self) -> None:
        self.seen: list[StateEventData] = []
        self._taken = 0
        self._more = anyio.Event()

    def __repr__(self) -> str:
        return f"<StateChanges {len(self.seen)} seen, {self._taken} taken>"

    async def next(self, *, timeout: float = 5.0) -> StateEventData:
        """Wait for the next change.

        Raises:
            TimeoutError: None came in ``timeout`` seconds.
        """
        try:
            with fail_after(timeout):
                while self._taken == len(self.seen):
                    self._more = anyio.Event()
                    await self._more.wait()
        except TimeoutError:
            raise TimeoutError(f"no change of state in {timeout:g} s; {self._taken} came before") from None
        self._taken += 1
        return self.seen[self._taken - 1]

    async def _note(self, event: dict[str, Any]) -> None:
        self.seen.append(StateEventData.model_validate(event))
        self._more.set()


class StateDriver(State):
    """``State``, and what changes in it.

    Args:
        iii: Any worker of the engine; it is told of the changes.
    """

    def __init__(self, iii: Worker) -> None:
        super().__init__(iii)
        self._worker = iii

    async def changes(self, scope: str | None = None, key: str | None = None) -> StateChanges:
        """Watch a scope, or a key in it, or everything. Returns when the engine has confirmed it."""
        changes = StateChanges()
        config = {name: value for name, value in (("scope", scope), ("key", key)) if value is not None}
        function_id = f"iii_testing::changes::{next(_numbers)}"
        self._worker.register_function(function_id, changes._note, metadata={"internal": True})  # pyright: ignore[reportPrivateUsage] - of this module
        self._worker.register_trigger("state", function_id, config)
        await self._worker.wait_ready()
        return changes
