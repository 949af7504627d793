"""The built-in ``iii-stream``: items in groups of streams, told to triggers and to subscribers as they change (§3).

A change is made in memory and given its place among what is to be told, written to disk, told, and acknowledged;
triggers are started first, then subscribers are sent the message (SR-13). Operations that a custom stream provides are
asked of its provider.

Below: ``_stream_items``, ``_stream_events``, ``_stream_server``. Tasks: the server's, and those of ``_fan_out``; they
end with the service.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from anyio import create_task_group

from ..._protocol.messages import ABSENT
from ...errors import EncodeError, InvocationError
from .._settings import Section, check_adapter
from .._storage import StorageError
from .._stream_events import Announcement, Announcements, stream_message, written
from .._stream_items import StreamItems
from .._stream_schemas import (
    CONFIG_SCHEMA,
    FUNCTIONS,
    JOIN_EVENT_SCHEMA,
    STREAM_CONFIG_SCHEMA,
    STREAM_EVENT_SCHEMA,
)
from .._stream_server import StreamServer
from .._subscriptions import Request, join_event
from .._update_ops import apply_updates, read_updates
from ._config_entry import keep_entry
from ._fan_out import Binding, FanOut
from ._stream_triggers import JoinTriggers, StreamTriggers

if TYPE_CHECKING:
    from ...worker import Worker
    from .._services import Host

__all__ = ("StreamService", "serve_stream")

logger: Final = logging.getLogger("iii_anyio.devengine.stream")

NAME: Final = "iii-stream"

Place: TypeAlias = tuple[str, str, str]
"""Stream, group, item."""

AUTH_TIMEOUT_MS: Final = 5_000
"""A client waits for its handshake meanwhile, usually 10 s."""
PROVIDER_TIMEOUT_MS: Final = 300_000
"""For providers of custom streams. Callers have limits of their own, which the engine does not know."""
JOIN_TIMEOUT_MS: Final = 3_600_000
"""For each ``stream:join`` trigger. One that fails allows the join, so it gets all the time it may want."""


@asynccontextmanager
async def serve_stream(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[StreamService]:
    """Run the built-in ``iii-stream``: functions, trigger types, and the server of subscribers.

    Raises:
        ValueError: ``config`` holds what this engine cannot do.
    """
    async with create_task_group() as group:
        service = StreamService(iii, host, FanOut(iii, group))
        service.configure(config)
        service.register()
        await keep_entry(iii, host, NAME, "Stream", CONFIG_SCHEMA, config, service.configure)
        if host.stream_socket is not None:
            await group.start(service.server.serve, host.stream_socket, name="engine stream server")
        yield service
        group.cancel_scope.cancel()


class StreamService:
    """The functions and trigger types of streams. For the server of subscribers, the one who knows."""

    def __init__(self, iii: Worker, host: Host, fan_out: FanOut) -> None:
        self._iii = iii
        self._host = host
        self._fan_out = fan_out
        self._items = StreamItems(host.storage.table("stream"), strict=host.strict_upstream)
        self._triggers = StreamTriggers()
        self._joins = JoinTriggers("stream:join")
        self._leaves = JoinTriggers("stream:leave")
        self._announcements = Announcements()
        self._auth_function: str | None = None
        self.server: StreamServer = StreamServer(self, host.origins)

    def __repr__(self) -> str:
        return f"<StreamService {self._items!r} {len(self._triggers)} triggers {self.server!r}>"

    def configure(self, config: object) -> None:
        """Take a configuration (§3.6); at any time.

        Raises:
            ValueError: It is none; the one before stays.
        """
        root = Section(NAME, {} if config is None else config)
        check_adapter(root, "kv", "redis", "bridge")  # without a channel_size: what waits is bounded per subscriber
        root.ignore("host")
        port = root.integer("port", 0, 0, 65_535)
        auth_function = root.text("auth_function", "")
        root.end()
        if port and self._host.stream_socket is not None and self._host.stream_socket.fileno() >= 0:
            bound = self._host.stream_socket.getsockname()[1]
            if bound != port:
                logger.warning("%s: port %d is not used, stream_port of the engine decides: %d", NAME, port, bound)
        self._auth_function = auth_function or None

    def register(self) -> None:
        """Register everything with the engine."""
        handlers: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "set": self._set,
            "get": self._get,
            "delete": self._delete,
            "update": self._update,
            "list": self._list,
            "list_groups": self._list_groups,
            "list_all": self._list_all,
            "send": self._send,
        }
        for name, function in FUNCTIONS.items():
            self._iii.register_function(
                f"stream::{name}", handlers[name], description=function.description,
                request_format=function.request_format, response_format=function.response_format, validate=False,
            )  # fmt: skip
        stream = {"trigger_request_format": STREAM_CONFIG_SCHEMA, "call_request_format": STREAM_EVENT_SCHEMA}
        self._iii.register_trigger_type("stream", "Stream trigger", self._triggers, **stream)
        for triggers, word in ((self._joins, "join"), (self._leaves, "leave")):
            self._iii.register_trigger_type(
                f"stream:{word}", f"Stream {word} trigger", triggers, call_request_format=JOIN_EVENT_SCHEMA
            )

    # -- functions -----------------------------------------------------------------------------------------------

    async def _set(self, data: Any) -> Any:
        given = FUNCTIONS["set"].input.check("stream::set", data)
        place, provider = _place(given), self._provider("set", given)
        if provider is not None:
            return await self._write_by(provider, given, place, "STREAM_SET_ERROR")
        new_value = given["data"]
        old_value = await self._write("STREAM_SET_ERROR", place, new_value)
        return {"old_value": _or_null(old_value), "new_value": new_value}

    async def _update(self, data: Any) -> Any:
        given = FUNCTIONS["update"].input.check("stream::update", data)
        updates = read_updates("stream::update", given["ops"])
        place, provider = _place(given), self._provider("update", given)
        if provider is not None:
            return await self._write_by(provider, given, place, "STREAM_UPDATE_ERROR")
        # ``_write`` changes the item before it waits, so nobody comes between (ST-7).
        updated = apply_updates(self._items.get(*place), updates)
        return updated.answer(await self._write("STREAM_UPDATE_ERROR", place, updated.new_value))

    async def _delete(self, data: Any) -> Any:
        given = FUNCTIONS["delete"].input.check("stream::delete", data)
        place, provider = _place(given), self._provider("delete", given)
        if provider is not None:
            return await self._delete_by(provider, given, place)
        return {"old_value": _or_null(await self._write("STREAM_DELETE_ERROR", place, ABSENT))}

    async def _get(self, data: Any) -> Any:
        return await self._read_item(FUNCTIONS["get"].input.check("stream::get", data))

    async def _list(self, data: Any) -> Any:
        return await self._read_group(FUNCTIONS["list"].input.check("stream::list", data))

    async def _list_groups(self, data: Any) -> Any:
        given = FUNCTIONS["list_groups"].input.check("stream::list_groups", data)
        provider = self._provider("list_groups", given)
        return self._items.groups(given["stream_name"]) if provider is None else await self._ask(provider, given)

    async def _list_all(self, data: Any) -> Any:
        FUNCTIONS["list_all"].input.check("stream::list_all", data)
        streams = self._items.all()
        return {"stream": streams, "count": len(streams)}

    async def _send(self, data: Any) -> Any:
        given = FUNCTIONS["send"].input.check("stream::send", data)
        about = given["stream_name"], given["group_id"], given.get("id")
        bindings = self._triggers.matching(*about)
        self._fan_out.check_room("STREAM_SEND_ERROR", bindings)
        event = {"type": "event", "event": {"type": given["type"], "data": given["data"]}}
        self._tell(self._announcements.confirm(self._announcements.add(self._message(*about, event), bindings)))

    async def _read_item(self, given: dict[str, Any]) -> Any:
        provider = self._provider("get", given)
        return _or_null(self._items.get(*_place(given))) if provider is None else await self._ask(provider, given)

    async def _read_group(self, given: dict[str, Any]) -> Any:
        provider = self._provider("list", given)
        if provider is not None:
            return await self._ask(provider, given)
        return self._items.in_group(given["stream_name"], given["group_id"])

    async def _write(self, code: str, place: Place, value: Any) -> Any:
        """Set an item, or remove it (``ABSENT``), on disk too; tell it; return what was there before.

        Raises:
            InvocationError: With this code, when it cannot be stored or told.
        """
        bindings = self._triggers.matching(*place)
        self._fan_out.check_room(code, bindings)
        try:
            if value is ABSENT:
                old_value = self._items.delete(*place)
                # SR-9: nobody is told of what was not there.
                event = None if old_value is ABSENT else {"type": "delete", "data": old_value}
            else:
                old_value = self._items.put(*place, value)
                event = written(old_value, value)
            await self._keep(None if event is None else self._announcements.add(self._message(*place, event), bindings))
        except StorageError as error:
            raise InvocationError(code, str(error)) from error
        return old_value

    async def _keep(self, announcement: Announcement | None) -> None:
        """Wait until the change just made is on disk, and tell it in its turn."""
        try:
            await self._host.storage.flush()
        except BaseException:
            if announcement is not None:
                self._tell(self._announcements.withdraw(announcement))
            raise
        if announcement is not None:
            self._tell(self._announcements.confirm(announcement))

    # -- custom streams ------------------------------------------------------------------------------------------

    def _provider(self, operation: str, given: dict[str, Any]) -> str | None:
        """The function that has this operation of the stream, if somebody provides it (SR-18, SR-19)."""
        function_id = f"stream::{operation}({given['stream_name']})"
        return function_id if self._host.router.functions.get("default", function_id) is not None else None

    async def _ask(self, provider: str, given: dict[str, Any]) -> Any:
        """Answer with what the provider answers, an error too (SR-20)."""
        return await self._iii.trigger_async(
            {"function_id": provider, "payload": given, "namespace": "default", "timeout_ms": PROVIDER_TIMEOUT_MS}
        )

    async def _change_by(self, provider: str, given: dict[str, Any], code: str) -> dict[str, Any]:
        """Have the provider make a change (SR-21).

        Raises:
            InvocationError: ``code`` when it failed, ``JSON_ERROR`` when its answer cannot be read.
        """
        try:
            answer = await self._ask(provider, given)
        except InvocationError as exc:
            raise InvocationError(code, f"{provider} failed: {exc.code}: {exc.message}") from exc
        if answer is None:
            raise InvocationError(code, f"{provider} returned nothing")
        if not isinstance(answer, dict):
            raise InvocationError("JSON_ERROR", f"{provider} must return an object, not {answer!r:.100}")
        return cast("dict[str, Any]", answer)

    async def _write_by(self, provider: str, given: dict[str, Any], place: Place, code: str) -> dict[str, Any]:
        answer = await self._change_by(provider, given, code)
        if "new_value" not in answer:
            raise InvocationError("JSON_ERROR", f"{provider} must return an object with new_value")
        errors = answer.get("errors")
        if errors is not None and not isinstance(errors, list):
            raise InvocationError("JSON_ERROR", f"errors of {provider} must be an array, not {errors!r:.100}")
        result = {"old_value": answer.get("old_value"), "new_value": answer["new_value"]}
        # SR-22: without an old value it is new.
        old_value = ABSENT if result["old_value"] is None else result["old_value"]
        self._announce(place, written(old_value, result["new_value"]))
        return result | {"errors": errors} if errors and code == "STREAM_UPDATE_ERROR" else result

    async def _delete_by(self, provider: str, given: dict[str, Any], place: Place) -> dict[str, Any]:
        old_value = (await self._change_by(provider, given, "STREAM_DELETE_ERROR")).get("old_value")
        if old_value is not None:  # SR-22
            self._announce(place, {"type": "delete", "data": old_value})
        return {"old_value": old_value}

    # -- telling -------------------------------------------------------------------------------------------------

    def _message(self, stream_name: str, group_id: str, item_id: str | None, event: dict[str, Any]) -> dict[str, Any]:
        return stream_message(self._host.router.now_ms(), stream_name, group_id, item_id, event)

    def _announce(self, place: Place, event: dict[str, Any]) -> None:
        """Tell a change that somebody else has made, behind those that wait."""
        announcement = self._announcements.add(self._message(*place, event), self._triggers.matching(*place))
        self._tell(self._announcements.confirm(announcement))

    def _tell(self, announcements: Sequence[Announcement]) -> None:
        for announcement in announcements:
            message = announcement.message
            announcement.context.run(self._fan_out.start, announcement.bindings, message)
            try:
                self.server.send(message["streamName"], message["groupId"], message["id"], message)
            except EncodeError as exc:  # SR-7: the change was made
                logger.warning("a change of stream %r cannot be sent: %s", message["streamName"], exc)

    # -- for subscribers -----------------------------------------------------------------------------------------

    async def authenticate(self, request: dict[str, Any]) -> Any:
        """Ask the auth function for the context of a connection. It cannot refuse one (SR-29, SR-30)."""
        function_id = self._auth_function
        if function_id is None:
            return None
        try:
            result = await self._iii.trigger_async(
                {"function_id": function_id, "payload": request, "namespace": "default", "timeout_ms": AUTH_TIMEOUT_MS}
            )
        except (InvocationError, EncodeError) as exc:
            logger.warning("a subscriber has no context, %s failed: %s", function_id, exc)
            return None
        if not isinstance(result, dict):
            logger.warning("a subscriber has no context: %s must return an object with context", function_id)
            return None
        return cast("dict[str, Any]", result).get("context")

    async def join(self, request: Request, context: Any) -> bool:
        """Ask every join trigger; any of them can refuse, and only by ``unauthorized: true`` (SR-14 to SR-16)."""
        allowed = True
        for binding in self._joins.all():
            call = _call(binding, join_event(request, context))
            try:
                result = await self._iii.trigger_async({**call, "timeout_ms": JOIN_TIMEOUT_MS})
            except (InvocationError, EncodeError) as exc:
                logger.warning("a join is allowed although %s failed: %s", binding.function_id, exc)
            else:
                if isinstance(result, dict) and cast("dict[str, Any]", result).get("unauthorized") is True:
                    allowed = False
        return allowed

    async def leave(self, request: Request, context: Any) -> None:
        """Call every leave trigger (SR-17)."""
        for binding in self._leaves.all():
            call = _call(binding, join_event(request, context))
            try:
                await self._iii.trigger_async({**call, "action": {"type": "void"}})
            except (InvocationError, EncodeError) as exc:
                logger.warning("%s was not told of a leave: %s", binding.function_id, exc)

    async def sync(self, request: Request) -> Any:
        """The item, or the group, of a subscription; of a custom stream too (SR-23, SR-24)."""
        given = {"stream_name": request.stream_name, "group_id": request.group_id}
        if request.item_id is None:
            return await self._read_group(given)
        return await self._read_item({**given, "item_id": request.item_id})

    def message(self, request: Request, event: dict[str, Any]) -> dict[str, Any]:
        """An event for one subscription."""
        return self._message(request.stream_name, request.group_id, request.item_id, event)


def _call(binding: Binding, payload: dict[str, Any]) -> dict[str, Any]:
    """A call of a bound function, as the trigger was registered (§9.3)."""
    request = {"function_id": binding.function_id, "payload": payload, "namespace": binding.namespace}
    return request if binding.metadata is None else {**request, "metadata": binding.metadata}


def _place(given: dict[str, Any]) -> Place:
    return given["stream_name"], given["group_id"], given["item_id"]


def _or_null(value: Any) -> Any:
    return None if value is ABSENT else value
