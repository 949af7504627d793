"""A trigger type of one's own: its provider, and functions bound to it by its handle and by anybody."""

from __future__ import annotations

import os
import queue
from typing import Any

from iii import InitOptions, register_worker
from iii.protocol import RegisterTriggerTypeInput
from iii.runtime import TriggerTypeRef
from iii.trigger import TriggerConfig, TriggerHandler
from pydantic import BaseModel


class WebhookConfig(BaseModel):
    path: str


class WebhookCall(BaseModel):
    body: str


class Webhooks(TriggerHandler[WebhookConfig]):
    def __init__(self) -> None:
        self.bound: dict[str, TriggerConfig[WebhookConfig]] = {}
        self.told: queue.Queue[tuple[str, str]] = queue.Queue()

    async def register_trigger(self, config: TriggerConfig[WebhookConfig]) -> None:
        if config.config["path"] == "taken":
            raise ValueError("path taken")
        self.bound[config.id] = config
        self.told.put(("bound", config.config["path"]))

    async def unregister_trigger(self, config: TriggerConfig[WebhookConfig]) -> None:
        gone = self.bound.pop(config.id)
        self.told.put(("unbound", gone.config["path"]))


webhooks = Webhooks()
calls: queue.Queue[Any] = queue.Queue()
handles: dict[str, Any] = {}


def on_webhook(data: dict) -> str:
    calls.put(data)
    return "thanks"


def register(iii: Any) -> None:
    webhook: TriggerTypeRef[WebhookConfig, WebhookCall] = iii.register_trigger_type(
        RegisterTriggerTypeInput(
            id="webhook",
            description="Incoming webhook",
            trigger_request_format=WebhookConfig,
            call_request_format=WebhookCall,
        ),
        webhooks,
    )
    webhook.register_function("hooks::typed", on_webhook, description="By the handle")
    handles["typed"] = webhook.register_trigger("hooks::typed", WebhookConfig(path="typed"), {"team": "a"})
    iii.register_function("hooks::plain", on_webhook)
    handles["plain"] = iii.register_trigger(
        {"type": "webhook", "function_id": "hooks::plain", "config": {"path": "plain"}}
    )


def use(iii: Any) -> None:
    assert {webhooks.told.get(timeout=9), webhooks.told.get(timeout=9)} == {("bound", "typed"), ("bound", "plain")}
    for binding in list(webhooks.bound.values()):
        answer = iii.trigger({"function_id": binding.function_id, "payload": {"body": binding.config["path"]}})
        assert answer == "thanks"
        assert calls.get(timeout=9) == {"body": binding.config["path"]}
    assert [b.metadata for b in webhooks.bound.values() if b.config["path"] == "typed"] == [{"team": "a"}]
    handles["typed"].unregister()
    handles["plain"].unregister()
    assert {webhooks.told.get(timeout=9), webhooks.told.get(timeout=9)} == {("unbound", "typed"), ("unbound", "plain")}
    iii.unregister_trigger_type({"id": "webhook", "description": "Incoming webhook"})


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="webhooks"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
