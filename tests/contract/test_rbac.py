"""Guarded listeners as workers meet them: over sockets, with auth functions, hooks and middleware.

On the embedded engine only: the listeners of an outside one are configured where it runs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import (
    InitOptions,
    InvocationError,
    ReconnectionConfig,
    Worker,
    open_worker,
)
from iii_anyio._wire.connect import websocket_connector
from iii_anyio.devengine import Engine, Listener, Rbac, open_engine
from iii_anyio.errors import ConnectError, LinkClosed, RegistrationRejectedError, TriggerRegistrationError
from iii_anyio.trigger import TriggerConfig, TriggerHandler
from iii_anyio.worker_connection_manager import (
    AuthInput,
    AuthResult,
    MiddlewareFunctionInput,
    OnFunctionRegistrationInput,
    OnFunctionRegistrationResult,
    OnTriggerRegistrationInput,
    OnTriggerRegistrationResult,
)
from tests.proxy import open_tcp_proxy

pytestmark = pytest.mark.anyio


class Site:
    """An engine with a trusted listener and a guarded one, and a worker on the first."""

    def __init__(self, engine: Engine, trusted: Worker) -> None:
        self.engine = engine
        self.trusted = trusted

    @asynccontextmanager
    async def guest(self, address: str = "", **headers: str) -> AsyncGenerator[Worker]:
        """A worker on the guarded listener, or on a way to it."""
        options = InitOptions(
            worker_name="guest",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            handle_signals=False,
            reconnection_config=ReconnectionConfig(initial_delay_ms=20, max_delay_ms=20),
        )
        async with open_worker(address or self.engine.urls[1], options) as guest:
            yield guest

    async def seen(self, **headers: str) -> tuple[list[dict[str, Any]], int]:
        """What a connection gets that says nothing, until it is closed; and the close code."""
        messages: list[dict[str, Any]] = []
        async with websocket_connector(self.engine.urls[1], headers=headers)() as wire:
            try:
                while True:
                    messages += [json.loads(text) for text in await wire.receive()]
            except LinkClosed as exc:
                return messages, exc.code


@asynccontextmanager
async def site(
    rbac: Rbac | None, prepare: Callable[[Worker], None] = lambda _: None, *, middleware: str | None = None
) -> AsyncGenerator[Site]:
    """Everything above; ``prepare`` registers what the trusted worker has."""
    with fail_after(20):
        guarded = Listener(rbac=rbac, middleware_function_id=middleware)
        async with (
            open_engine(port=0, http_port=None, stream_port=None, listeners=[Listener(), guarded]) as engine,
            open_worker(engine.url, InitOptions(worker_name="trusted", handle_signals=False)) as trusted,
        ):
            prepare(trusted)
            await trusted.wait_ready()
            yield Site(engine, trusted)


# -- authentication --------------------------------------------------------------------------------------------------


async def test_an_auth_function_learns_headers_query_and_address_once_a_connection() -> None:
    """RB-5, RB-9: names in lower case, the query not decoded."""
    inputs: list[AuthInput] = []

    def prepare(trusted: Worker) -> None:
        @trusted.function("auth")
        async def auth(request: AuthInput) -> AuthResult:
            inputs.append(request)
            return AuthResult(allowed_functions=["who"], context={"user": request.headers["x-user"]})

        trusted.register_function("who", lambda _: "you")

    async with site(Rbac(auth_function_id="auth"), prepare) as it:
        async with it.guest(f"{it.engine.urls[1]}/?a=1&a=%20x&b", X_User="ada") as guest:
            assert await guest.trigger_async("who", {}) == "you"
            with pytest.raises(InvocationError) as refusal:
                await guest.trigger_async("engine::functions::list", {})
            assert refusal.value.code == "FORBIDDEN"
        (seen,) = inputs
    assert seen.headers["x-user"] == "ada"
    assert seen.query_params == {"a": ["1", "%20x"], "b": [""]}
    assert seen.ip_address == "127.0.0.1"


@pytest.mark.parametrize("kind", ["raises", "null", "shape", "unknown"])
async def test_a_refused_connection_gets_one_error_and_a_close_without_status(kind: str) -> None:
    """RB-5, RB-6, §5.7, P-134: after the upgrade, and without ``workerregistered``."""
    answers: dict[str, Any] = {"null": None, "shape": {"allowed_functions": None}}

    async def auth(_: Any) -> Any:
        if kind == "raises":
            raise PermissionError("no such token")
        return answers[kind]

    def prepare(trusted: Worker) -> None:
        if kind != "unknown":
            trusted.register_function("auth", auth)

    async with site(Rbac(auth_function_id="auth", expose_functions=['match("*")']), prepare) as it:
        messages, code = await it.seen()
        (message,) = messages
        assert (message["type"], message["error"]["code"], code) == ("error", "AUTH_ERROR", 1005)
        hint = {"raises": "no such token", "null": "no object", "shape": "allowed_functions", "unknown": "not found"}
        assert hint[kind] in message["error"]["message"]
        assert await it.trusted.trigger_async("engine::workers::list", {}) is not None
        assert it.engine.connections == 1


async def test_a_refused_worker_says_so() -> None:
    """P-19."""

    def prepare(trusted: Worker) -> None:
        @trusted.function("auth")
        async def auth(request: AuthInput) -> AuthResult:
            if request.headers.get("x-token") != "right":
                raise PermissionError("wrong token")
            return AuthResult()

    async with site(Rbac(auth_function_id="auth"), prepare) as it:
        options = InitOptions(
            headers={"X-Token": "wrong"},
            handle_signals=False,
            reconnection_config=ReconnectionConfig(initial_delay_ms=1, max_retries=1),
        )
        with pytest.raises(ConnectError, match="AUTH_ERROR: wrong token"):
            async with open_worker(it.engine.urls[1], options) as guest:
                await guest.trigger_async("who", {}, timeout_ms=5000)
        async with it.guest(X_Token="right") as guest:
            await guest.wait_ready()


async def test_what_a_worker_sends_before_it_is_let_in_waits() -> None:
    """It does not wait for ``workerregistered`` (P-16); nothing is read before it is known who it is."""
    asked, go = anyio.Event(), anyio.Event()

    def prepare(trusted: Worker) -> None:
        @trusted.function("auth")
        async def auth(_request: AuthInput) -> AuthResult:
            asked.set()
            await go.wait()
            return AuthResult(allowed_functions=["mine"])

    async with site(Rbac(auth_function_id="auth"), prepare) as it, it.guest() as guest:
        guest.register_function("mine", lambda _: "ready")
        await asked.wait()
        assert it.engine.connections == 1
        go.set()
        assert await guest.trigger_async("mine", {}) == "ready"


async def test_without_auth_function_everybody_connects_and_only_what_is_exposed_can_be_called() -> None:
    """RB-8."""

    def prepare(trusted: Worker) -> None:
        for function_id in ("public::f", "private::f"):
            trusted.register_function(function_id, lambda _: "answer")

    async with site(Rbac(expose_functions=['match("public::*")']), prepare) as it, it.guest() as guest:
        assert await guest.trigger_async("public::f", {}) == "answer"
        with pytest.raises(InvocationError, match=r"add to rbac\.expose_functions"):
            await guest.trigger_async("private::f", {})
        guest.register_function("mine", lambda _: "mine")
        await guest.wait_ready()
        assert await it.trusted.trigger_async("mine", {}) == "mine"
        assert await it.trusted.trigger_async("private::f", {}) == "answer"


# -- hooks, prefix, middleware ---------------------------------------------------------------------------------------


class Webhooks(TriggerHandler[Any]):
    """A provider that keeps what it is given."""

    def __init__(self) -> None:
        self.bound: list[TriggerConfig[Any]] = []

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        self.bound.append(config)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        self.bound.remove(config)


async def test_hooks_decide_about_registrations_with_upstreams_models() -> None:
    """RB-19, RB-20, RB-21, P-135: what the models do not set stays as it was."""
    webhooks = Webhooks()

    def prepare(trusted: Worker) -> None:
        @trusted.function("hook::function")
        async def on_function(request: OnFunctionRegistrationInput) -> OnFunctionRegistrationResult:
            if request.function_id.startswith("denied"):
                raise PermissionError(request.function_id)
            return OnFunctionRegistrationResult(metadata={"checked": True})

        @trusted.function("hook::trigger")
        async def on_trigger(request: OnTriggerRegistrationInput) -> OnTriggerRegistrationResult:
            return OnTriggerRegistrationResult(trigger_id=f"checked-{request.trigger_id}")

        trusted.register_trigger_type("webhook", "d", webhooks)

    rbac = Rbac(
        expose_functions=['match("*")'],
        on_function_registration_function_id="hook::function",
        on_trigger_registration_function_id="hook::trigger",
    )
    async with site(rbac, prepare) as it, it.guest() as guest:
        guest.register_function("fine", lambda _: 1, description="it is")
        guest.register_function("denied", lambda _: 2)
        guest.register_trigger("webhook", "fine", {"path": "x"})
        await guest.wait_ready()  # waits for the hooks, too
        detail = await it.trusted.trigger_async("engine::functions::info", {"function_id": "fine"})
        assert (detail["metadata"], detail["description"]) == ({"checked": True}, "it is")
        with pytest.raises(InvocationError) as missing:
            await it.trusted.trigger_async("denied", {})
        assert missing.value.code == "function_not_found"
        (binding,) = webhooks.bound
        assert (binding.id.startswith("checked-"), binding.config) == (True, {"path": "x"})


async def test_a_forbidden_target_of_a_trigger_is_reported_to_its_worker() -> None:
    """RB-17."""
    async with site(Rbac(expose_functions=[])) as it, it.guest() as guest:
        guest.register_function("own", lambda _: 1)
        guest.register_trigger("webhook", "own", {})
        with pytest.raises(TriggerRegistrationError, match="not allowed"):
            await guest.wait_ready()


async def test_a_prefix_keeps_tenants_apart() -> None:
    """RB-23: two workers with the same function ids."""

    def prepare(trusted: Worker) -> None:
        @trusted.function("auth")
        async def auth(request: AuthInput) -> AuthResult:
            return AuthResult(function_registration_prefix=request.headers["x-tenant"])

    async with site(Rbac(auth_function_id="auth"), prepare) as it, it.guest(X_Tenant="red") as red:
        red.register_function("greet", lambda _: "red")
        await red.wait_ready()
        options = InitOptions(worker_name="blue", headers={"X-Tenant": "blue"}, handle_signals=False)
        async with open_worker(it.engine.urls[1], options) as blue:
            blue.register_function("greet", lambda _: "blue")
            await blue.wait_ready()
            assert await it.trusted.trigger_async("red::greet", {}) == "red"
            assert await it.trusted.trigger_async("blue::greet", {}) == "blue"
            with pytest.raises(InvocationError):
                await blue.trigger_async("red::greet", {})


async def test_a_worker_sees_what_it_may_call_and_declares_what_it_was_granted() -> None:
    """E-8, RB-7, RB-10, RB-12, RB-13, RB-14, RB-15."""

    def prepare(trusted: Worker) -> None:
        trusted.register_function("auth", lambda _: {"namespaces": {"orders": ["jobs::*"]}})
        trusted.register_function("shown", lambda _: 1, metadata={"public": True})
        trusted.register_function("hidden", lambda _: 2, metadata={"public": False})

    rbac = Rbac(
        auth_function_id="auth",
        expose_functions=[
            {"metadata": {"public": True}},
            'match("engine::functions::*")',
            {"match": "api::*", "namespace": "orders"},
        ],
    )
    async with site(rbac, prepare) as it:
        options = InitOptions(worker_name="guest", namespace="orders", handle_signals=False)
        async with open_worker(it.engine.urls[1], options) as guest:
            for function_id in ("jobs::run", "api::run", "own"):
                guest.register_function(function_id, lambda _: "done")
            await guest.wait_ready()
            rows = (await guest.trigger_async("engine::functions::list", {}))["functions"]
            assert {row["function_id"] for row in rows} == {"shown", "jobs::run", "api::run"}
            for function_id in ("jobs::run", "api::run"):
                assert await guest.trigger_async(function_id, {}) == "done"
            for target in (
                {"function_id": "own"},
                {"function_id": "hidden", "namespace": "default"},
                {"function_id": "none", "namespace": "default"},
            ):
                with pytest.raises(InvocationError, match=r"rbac\.expose_functions") as refusal:
                    await guest.trigger_async({**target, "payload": {}})
                assert refusal.value.code == "FORBIDDEN"
        with pytest.raises(RegistrationRejectedError) as rejection:
            async with it.guest() as other:  # in `default`
                await other.wait_ready()
        assert rejection.value.code == "FORBIDDEN"


async def test_a_middleware_makes_the_call_itself_and_enriches_it() -> None:
    """RB-24, RB-25, RB-27, H-36: it gets no ``_caller_worker_id``, for it stands in for the engine."""

    def prepare(trusted: Worker) -> None:
        @trusted.function("middle")
        async def middle(request: MiddlewareFunctionInput) -> Any:
            assert "_caller_worker_id" not in request.payload
            payload = {**request.payload, "user": request.context["user"]}
            return await trusted.trigger_async({"function_id": request.function_id, "payload": payload})

        @trusted.function("auth")
        async def auth(_request: AuthInput) -> AuthResult:
            return AuthResult(context={"user": "ada"})

        trusted.register_function("echo", lambda data: data)

    rbac = Rbac(auth_function_id="auth", expose_functions=['match("echo")'])
    async with site(rbac, prepare, middleware="middle") as it, it.guest() as guest:
        answer = await guest.trigger_async("echo", {"n": 1})
        assert (answer["n"], answer["user"]) == (1, "ada")
        with pytest.raises(InvocationError) as refusal:
            await guest.trigger_async("middle", {})
        assert refusal.value.code == "FORBIDDEN"


async def test_a_guarded_worker_comes_back_with_all_it_had() -> None:
    """RB-28, §6.5: auth, hooks and prefix once more, and no conflict with what it was."""
    connected: list[AuthInput] = []

    def prepare(trusted: Worker) -> None:
        @trusted.function("auth")
        async def auth(request: AuthInput) -> AuthResult:
            connected.append(request)
            return AuthResult(function_registration_prefix="p")

        trusted.register_function("hook", lambda _: {})

    rbac = Rbac(auth_function_id="auth", on_function_registration_function_id="hook")
    async with (
        site(rbac, prepare) as it,
        open_tcp_proxy("127.0.0.1", urlsplit(it.engine.urls[1]).port or 0) as line,
        it.guest(f"ws://127.0.0.1:{line.port}") as guest,
    ):
        guest.register_function("f", lambda _: "answer")
        await guest.wait_ready()
        line.cut()
        while len(connected) < 2:
            await checkpoint()
        await guest.wait_ready()
        assert await it.trusted.trigger_async("p::f", {}) == "answer"
        assert len(connected) == 2


# -- listeners ------------------------------------------------------------------------------------------------------


async def test_every_listener_is_a_way_to_the_same_engine() -> None:
    """RB-1."""
    async with site(None) as it, it.guest() as guest:
        assert len(set(it.engine.urls)) == 2
        assert it.engine.url == it.engine.urls[0]
        guest.register_function("f", lambda _: "guest")
        await guest.wait_ready()
        assert await it.trusted.trigger_async("f", {}) == "guest"
