"""Namespaces: where functions live, and where calls look for them."""

from __future__ import annotations

from typing import Any

import pytest

from iii_anyio import (
    InitOptions,
    InvocationError,
    RegistrationRejectedError,
    TriggerRegistrationError,
    Worker,
    open_worker,
)
from tests.contract.targets import Target

pytestmark = pytest.mark.anyio


async def code_of(iii: Worker, function_id: str, **call: Any) -> str:
    """The code of the error that a call ends with."""
    with pytest.raises(InvocationError) as caught:
        await iii.trigger_async(function_id, {}, **call)
    return caught.value.code


def answering(name: str) -> Any:
    return lambda _data: name


async def test_a_worker_s_functions_live_in_its_namespace_and_so_do_the_calls_it_makes(target: Target) -> None:
    """P-21, P-117, §4.3."""
    async with (
        target.open() as engine,
        engine.worker("blue", namespace=engine.id("blue")) as blue,
        engine.worker("friend", namespace=engine.id("blue")) as friend,
        engine.worker("plain") as plain,
    ):
        blue.register_function(engine.id("f"), answering("blue"))
        await blue.wait_ready()
        assert await blue.trigger_async(engine.id("f"), {}) == "blue"
        assert await friend.trigger_async(engine.id("f"), {}) == "blue"
        assert await code_of(plain, engine.id("f")) == "function_not_found"
        assert await plain.trigger_async(engine.id("f"), {}, namespace=engine.id("blue")) == "blue"
        assert (blue.namespace, plain.namespace) == (engine.id("blue"), None)


async def test_the_same_id_in_two_namespaces_is_two_functions(target: Target) -> None:
    """P-115, P-117, §4.3: nothing falls back from one namespace to another."""
    async with (
        target.open() as engine,
        engine.worker("blue", namespace=engine.id("blue")) as blue,
        engine.worker("red", namespace=engine.id("red")) as red,
        engine.worker("plain") as plain,
    ):
        for iii, name in ((blue, "blue"), (red, "red"), (plain, "plain")):
            iii.register_function(engine.id("who"), answering(name))
            iii.register_function(engine.id(f"only-{name}"), answering(name))
            await iii.wait_ready()
        for iii, own in ((blue, "blue"), (red, "red"), (plain, "plain")):
            assert await iii.trigger_async(engine.id("who"), {}) == own
            for name in ("blue", "red"):
                assert await iii.trigger_async(engine.id("who"), {}, namespace=engine.id(name)) == name
            assert await iii.trigger_async(engine.id("who"), {}, namespace="default") == "plain"
        assert await code_of(blue, engine.id("only-red")) == "function_not_found"
        assert await code_of(blue, engine.id("only-plain")) == "function_not_found"


async def test_a_name_is_taken_once_per_namespace(target: Target) -> None:
    """§6.4, P-110."""
    async with (
        target.open() as engine,
        engine.worker("same", namespace=engine.id("blue")) as blue,
        engine.worker("same", namespace=engine.id("red")) as red,
        engine.worker("same") as plain,
    ):
        for iii in (blue, red, plain):
            await iii.wait_ready()
        assert len({blue.worker_id, red.worker_id, plain.worker_id}) == 3


async def test_functions_of_the_engine_are_called_in_default_whatever_the_worker_s_namespace(target: Target) -> None:
    """P-37, §4.3."""
    async with target.open() as engine, engine.worker("blue", namespace=engine.id("blue")) as blue:
        blue.register_function(engine.id("f"), answering("blue"))
        await blue.wait_ready()
        assert await engine.has_function(blue, engine.id("f"))
        assert await code_of(blue, "engine::functions::list", namespace=engine.id("blue")) == "function_not_found"


async def test_a_blank_namespace_is_refused_before_anything_is_sent(target: Target) -> None:
    """P-20, §4.3."""
    async with target.open() as engine, engine.worker() as iii:
        await iii.wait_ready()
        for blank in ("", " ", "\t\n"):
            with pytest.raises(ValueError, match="blank"):
                async with open_worker(options=InitOptions(namespace=blank)):
                    pytest.fail("not reached")
            with pytest.raises(ValueError, match="blank"):
                await iii.trigger_async(engine.id("f"), {}, namespace=blank)
            with pytest.raises(ValueError, match="blank"):
                iii.register_trigger(engine.id("type"), engine.id("f"), namespace=blank)
        await iii.wait_ready()


async def test_the_engine_refuses_a_blank_namespace_of_a_provider(target: Target) -> None:
    """§8: upstream's SDK passes it on as it is, and so do we."""
    async with target.open() as engine, engine.worker() as iii:
        trigger = iii.register_trigger(engine.id("type"), engine.id("f"), {}, trigger_namespace=" ")
        with pytest.raises(TriggerRegistrationError) as caught:
            await iii.wait_ready()
        assert (caught.value.code, caught.value.trigger_id) == ("INVALID_NAMESPACE", trigger.id)
        trigger.unregister()
        await iii.wait_ready()


async def test_the_id_of_a_function_must_be_text_that_is_not_blank(target: Target) -> None:
    """P-20."""
    async with target.open() as engine, engine.worker() as iii:
        for blank in ("", "  "):
            with pytest.raises(ValueError, match="blank"):
                iii.register_function(blank, answering("?"))
        with pytest.raises(TypeError):
            iii.register_function(5, answering("?"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await iii.wait_ready()


async def test_ids_of_the_engine_cannot_be_taken_in_other_namespaces(target: Target) -> None:
    """P-116, §5.1."""
    async with target.open() as engine, engine.worker("blue", namespace=engine.id("blue")) as blue:
        blue.register_function(f"engine::{engine.tag}", answering("blue"))
        blue.register_function(engine.id("f"), answering("blue"))
        with pytest.raises(RegistrationRejectedError) as caught:
            await blue.wait_ready()
        assert caught.value.code == "FUNCTION_NAMESPACE_CONFLICT"
        assert caught.value.function_id == f"engine::{engine.tag}"
        assert await blue.trigger_async(engine.id("f"), {}) == "blue"


async def test_functions_of_the_engine_cannot_be_replaced(target: Target) -> None:
    """P-116, G-16."""
    target.skip_outside("that of 0.23 lets itself be broken for everybody")
    async with target.open() as engine, engine.worker() as iii:
        iii.register_function("engine::functions::list", answering("mine"))
        with pytest.raises(RegistrationRejectedError) as caught:
            await iii.wait_ready()
        assert caught.value.function_id == "engine::functions::list"
        assert await engine.has_function(iii, "engine::functions::list")
