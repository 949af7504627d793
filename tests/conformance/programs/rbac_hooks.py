"""Who may connect and do what: an auth function, registration hooks and a middleware for the guarded listener."""

from __future__ import annotations

import os
from typing import Any

import pytest
from iii import InitOptions, InvocationError, MiddlewareFunctionInput, register_worker
from iii_helpers.worker_connection_manager import (
    AuthInput,
    AuthResult,
    OnFunctionRegistrationInput,
    OnFunctionRegistrationResult,
)

handles: dict[str, Any] = {}


async def authenticate(data: dict) -> dict:
    request = AuthInput(**data)
    if request.headers.get("authorization") != "Bearer valid":
        raise PermissionError("unknown token")
    return AuthResult(
        allowed_functions=["shop::public"],
        forbidden_functions=["shop::secret"],
        function_registration_prefix="guest",
        context={"user": "ada"},
    ).model_dump()


async def on_function(data: dict) -> dict:
    wanted = OnFunctionRegistrationInput(**data)
    if wanted.function_id.endswith("denied"):
        raise PermissionError("not this one")
    return OnFunctionRegistrationResult(metadata={"by": wanted.context["user"]}).model_dump()


async def middleware(data: dict) -> Any:
    call = MiddlewareFunctionInput(**data)
    return await handles["worker"].trigger_async(
        {"function_id": call.function_id, "payload": {**call.payload, "user": call.context["user"]}}
    )


def register(iii: Any) -> None:
    handles["worker"] = iii
    iii.register_function("app::auth", authenticate)
    iii.register_function("app::on-function", on_function)
    iii.register_function("app::middleware", middleware)
    iii.register_function("shop::public", lambda data: {"public": data})
    iii.register_function("shop::secret", lambda data: "secret")


def use(iii: Any) -> None:
    guest = register_worker(
        os.environ["III_RBAC_URL"],
        InitOptions(worker_name="guest", headers={"Authorization": "Bearer valid"}, otel={"enabled": False}),
    )
    try:
        answer = guest.trigger({"function_id": "shop::public", "payload": {"n": 1}})
        assert answer == {"public": {"n": 1, "user": "ada"}}
        with pytest.raises(InvocationError) as refused:
            guest.trigger({"function_id": "shop::secret", "payload": {}})
        assert refused.value.code == "FORBIDDEN"
        assert "shop::secret" in refused.value.message
        guest.register_function("own", lambda data: "own")
        guest.register_function("denied", lambda data: "denied")
        listed: dict[str, Any] = {}
        while "guest::own" not in listed:
            rows = iii.trigger({"function_id": "engine::functions::list", "payload": {"worker": "guest"}})
            listed = {row["function_id"]: row for row in rows["functions"]}
        assert iii.trigger({"function_id": "guest::own", "payload": {}}) == "own"
        assert "guest::denied" not in listed
    finally:
        guest.shutdown()


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="gate"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
