"""The built-in ``iii-pubsub``: the trigger type ``subscribe`` and the function ``publish``.

A published value goes to every subscription of exactly its topic, as a void call each: publishing waits for nobody,
and nothing is stored or repeated (S-4 to S-6).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from anyio.lowlevel import checkpoint

from ...errors import IIIError, InvocationError
from ...trigger import TriggerConfig, TriggerHandler
from .._builtin import Input
from .._errors import shorten
from .._settings import Section, check_adapter
from ._config_entry import ADAPTER_SCHEMA, keep_entry

if TYPE_CHECKING:
    from ...abc import Invoker
    from ...worker import Worker
    from .._services import Host

__all__ = ("PubSub", "serve_pubsub")

logger: Final = logging.getLogger("iii_anyio.devengine.pubsub")

NAME: Final = "iii-pubsub"
PUBLISH: Final = "publish"
INPUT: Final = Input(topic="string!", data="any!")
SUBSCRIBE: Final[dict[str, Any]] = {
    "id": "subscribe",
    "description": "Subscribe to a topic",
    "trigger_request_format": {
        "type": "object",
        "properties": {"topic": {"type": "string"}, "condition_function_id": {"type": ["string", "null"]}},
        "required": ["topic"],
    },
}


class PubSub(TriggerHandler[Any]):
    """Who is subscribed to what, and the handler of ``publish``."""

    def __init__(self, iii: Invoker) -> None:
        self._iii = iii
        self._topics: dict[str, dict[str, TriggerConfig[Any]]] = {}  # by trigger id
        self._topic_of: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<PubSub {len(self._topics)} topics, {len(self._topic_of)} subscriptions>"

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Subscribe. A trigger id in use moves to its new topic; upstream leaks the old subscription (S-9)."""
        self._remove(config.id)
        given: object = config.config
        values = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        topic = values.get("topic")
        trigger, function = shorten(config.id), shorten(config.function_id)
        if not isinstance(topic, str) or not topic:  # S-7: no error, as upstream
            logger.warning("trigger %s of %s never fires: its config has no `topic`", trigger, function)
            return
        if values.get("condition_function_id") is not None:  # S-8, T-19
            logger.warning("trigger %s of %s: `subscribe` triggers call no condition", trigger, function)
        self._topics.setdefault(topic, {})[config.id] = config
        self._topic_of[config.id] = topic

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """End this one subscription. Upstream drops the whole topic (S-10)."""
        self._remove(config.id)

    async def publish(self, data: Any) -> None:
        """Call every subscribed function, and wait for none (S-1 to S-5).

        Raises:
            InvocationError: ``deserialization_error``, ``topic_not_set``.
        """
        fields = INPUT.check(PUBLISH, data)
        topic: str = fields["topic"]
        if not topic:
            raise InvocationError("topic_not_set", "Topic is not set", PUBLISH)
        for subscription in list(self._topics.get(topic, {}).values()):
            if subscription.id not in self._topic_of:
                continue  # it ended while an earlier call was being sent
            try:
                await self._iii.trigger_async(
                    {
                        "function_id": subscription.function_id,
                        "payload": fields["data"],  # verbatim, without the trigger's metadata (S-4, S-8, T-12)
                        "namespace": subscription.namespace or "default",
                        "action": {"type": "void"},
                    }
                )
            except IIIError as error:  # one that cannot be sent keeps nobody else's away
                logger.warning(
                    "%s was not told of topic %s: %s", shorten(subscription.function_id), shorten(topic), error
                )
        await checkpoint()

    def _remove(self, trigger_id: str) -> None:
        topic = self._topic_of.pop(trigger_id, None)
        if topic is None:
            return
        subscriptions = self._topics[topic]
        del subscriptions[trigger_id]
        if not subscriptions:
            del self._topics[topic]


@asynccontextmanager
async def serve_pubsub(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[PubSub]:
    """Run the built-in ``iii-pubsub``."""
    _check(config)
    pubsub = PubSub(iii)
    iii.register_trigger_type(**SUBSCRIBE, handler=pubsub)
    iii.register_function(
        PUBLISH, pubsub.publish, description="Publishes an event", request_format=INPUT.schema, response_format=None
    )
    await keep_entry(iii, host, NAME, "Pub/sub", ADAPTER_SCHEMA, config, _check)
    yield pubsub


def _check(config: object) -> None:
    root = Section(NAME, config)
    check_adapter(root, "local", "redis")
    root.end()
