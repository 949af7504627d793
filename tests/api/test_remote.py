"""Typed stubs: what they send, what they make of the answer, and whose worker they use."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from anyio import to_thread
from pydantic import BaseModel, Field, ValidationError

from iii_anyio import InvocationError, RetryPolicy, WorkerStateError, remote
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


class Person(BaseModel):
    name: str
    born: date | None = Field(default=None, alias="bornOn")


class Greeting(BaseModel):
    message: str
    day: date


greet = remote("greet", Person, Greeting)


async def test_a_stub_sends_its_input_by_alias_and_returns_its_output_as_a_model() -> None:
    got: list[Any] = []
    async with two_workers() as (caller, iii):

        @iii.function("greet", validate=False)
        def handler(data: Any) -> Any:
            got.append(data)
            return {"message": f"Hello, {data['name']}!", "day": "2026-11-23"}

        await iii.wait_ready()
        ada = Person(name="Ada", bornOn=date(1815, 12, 10))
        hello = Greeting(message="Hello, Ada!", day=date(2026, 11, 23))
        assert await caller.remote("greet", Person, Greeting)(ada) == hello
        assert await greet.on(caller)(ada) == hello
        assert await to_thread.run_sync(greet.on(caller).sync, ada) == hello
        assert got[0]["bornOn"] == "1815-12-10"


async def test_what_does_not_fit_is_refused_before_it_is_sent_or_when_it_comes_back() -> None:
    calls: list[Any] = []
    async with two_workers() as (caller, iii):
        iii.register_function("greet", calls.append)
        await iii.wait_ready()
        stub = greet.on(caller)
        with pytest.raises(ValidationError, match="name"):
            await stub({"nam": "Ada"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert calls == []
        with pytest.raises(ValidationError, match="Greeting"):
            await stub(Person(name="Ada"))
        assert len(calls) == 1


async def test_a_stub_of_any_types_and_options_of_the_call() -> None:
    async with two_workers() as (caller, iii):
        iii.register_function("f", lambda data, metadata: [data, metadata])
        await iii.wait_ready()
        assert await caller.remote("f", metadata={"m": 1})("x") == ["x", {"m": 1}]
        assert await caller.remote("f", set[int], list[Any])({2}) == [[2], None]
        slow = caller.remote("nowhere", timeout_ms=1000, retry=RetryPolicy(attempts=1), namespace="elsewhere")
        with pytest.raises(InvocationError, match="nowhere"):
            await slow(None)


async def test_an_unbound_stub_says_how_to_bind_it() -> None:
    assert repr(greet) == "<Remote greet, unbound>"
    with pytest.raises(WorkerStateError, match=r"call 'greet' through one with .on\(iii\)"):
        await greet(Person(name="Ada"))
    with pytest.raises(WorkerStateError, match=r"\.on\(iii\)"):
        greet.sync(Person(name="Ada"))
