"""Configuration of the embedded engine: placeholders, schemas, what outlives the engine, entries that expire."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio import InvocationError, Worker, open_worker
from iii_anyio._version import __version__
from iii_anyio.devengine import open_engine
from iii_anyio.devengine._schemas import Schema
from iii_anyio.devengine._templates import UnresolvedError, expand
from tests.heard import Heard

pytestmark = pytest.mark.anyio

ENTRY: dict[str, Any] = {"id": "svc", "name": "N", "description": "D", "schema": {"type": "object"}}


@asynccontextmanager
async def running(**options: Any) -> AsyncGenerator[Worker]:
    """A worker on an engine of its own."""
    with fail_after(20):
        async with open_engine(port=None, **options) as engine, open_worker(connector=engine.connector()) as iii:
            yield iii


async def code_of(iii: Worker, name: str, **payload: Any) -> str:
    with pytest.raises(InvocationError) as caught:
        await iii.trigger_async(f"configuration::{name}", payload)
    return caught.value.code


async def value_of(iii: Worker, id: str) -> Any:
    return (await iii.trigger_async("configuration::get", {"id": id}))["value"]


# -- placeholders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${NAME}", "Ada"),
        ("Hello ${NAME}, ${NAME}!", "Hello Ada, Ada!"),
        ("${NAME:other}", "Ada"),
        ("${NONE:http://host:80/}", "http://host:80/"),
        ("x${NONE:}y", "xy"),
        ("${NONE:}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:default}", ""),
        ("${PORT}", 8080),
        ("  ${PORT}  ", 8080),
        ("port ${PORT}", "port 8080"),
        ("${NONE:-5}", -5),
        ("${NONE:1.5}", 1.5),
        ("${NONE:1e3}", 1000.0),
        ("${NONE:0x1F}", 31),
        ("${NONE:007}", "007"),
        ("${NONE:true}", True),
        ("${NONE:False}", False),
        ("${NONE:yes}", "yes"),
        ("${NONE:null}", None),
        ("${NONE:'8080'}", "8080"),
        ("${NONE:.inf}", ".inf"),
        ("${NONE:1e999}", "1e999"),
        ("${NONE:[1, 2]}", "[1, 2]"),
        ("${NONE:__III_ENGINE_VERSION__}", "1.2.3"),
        ("$NAME $ {NAME} ${}", "$NAME $ {NAME} ${}"),
    ],
)
def test_placeholders_are_replaced(text: str, expanded: Any) -> None:
    """CF-6."""
    environment = {"NAME": "Ada", "PORT": "8080", "EMPTY": ""}
    found = expand({"a": [text], text: 1}, environment, "1.2.3")
    assert found == {"a": [expanded], text: 1}
    assert type(found["a"][0]) is type(expanded)


def test_a_placeholder_without_value_and_default_is_named_or_left() -> None:
    """CF-5, CF-8."""
    value = {"a": ["${SET}-${NONE}", "${NONE}", "${SET}"]}
    with pytest.raises(UnresolvedError, match="NONE is not set"):
        expand(value, {"SET": "x"}, "1")
    assert expand(value, {"SET": "x"}, "1", is_lenient=True) == {"a": ["x-${NONE}", "${NONE}", "x"]}


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_value_without_placeholders_stays_as_it_is(value: Any) -> None:
    """CF-6; whatever is in it, expanding never fails when it is lenient."""
    expanded = expand(value, {}, "1", is_lenient=True)
    if "${" not in str(value):
        assert expanded == value


# -- schemas ---------------------------------------------------------------------------------------------------------


def test_violations_name_the_place_and_are_limited() -> None:
    """CF-3."""
    schema = Schema({"type": "array", "items": {"type": "integer"}})
    assert schema.violations([1, 2]) == []
    (violation,) = schema.violations([1, "x"])
    assert violation.startswith("$[1]: ")
    assert len(schema.violations(["x"] * 100)) == 10


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 5},
        {"$ref": "#"},
        {"$ref": "http://example.invalid/schema"},
        {"$ref": "#/nowhere"},
        {"pattern": "("},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "nothing"},
        7,
    ],
)
def test_a_schema_that_cannot_be_used_is_told_and_never_looked_up(schema: Any) -> None:
    """CF-3. The suite has no network, so a look-up would be seen as another error."""
    (violation,) = Schema(schema).violations("value")
    assert violation.startswith("the schema cannot be used: ")


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", None])
def test_a_schema_is_read_by_its_own_draft(draft: str | None) -> None:
    """``prefixItems`` means nothing before 2020-12."""
    schema = {"prefixItems": [{"type": "integer"}]} | ({} if draft is None else {"$schema": draft})
    assert bool(Schema(schema).violations(["x"])) == (draft is None)


# -- what outlives the engine ----------------------------------------------------------------------------------------


async def test_values_outlive_the_engine_and_schemas_do_not(tmp_path: Path) -> None:
    """CF-2, CF-4, CF-7, CF-11."""
    async with running(data=tmp_path) as iii:
        entry = ENTRY | {"initial_value": {"port": "${III_TEST_NONE:80}"}, "metadata": {"m": 1}}
        await iii.trigger_async("configuration::register", entry)
    async with running(data=tmp_path) as iii:
        heard = Heard()
        iii.register_function("f", heard.hear)
        iii.register_trigger("configuration", "f", {"configuration_id": "svc"})
        await iii.wait_ready()
        assert await value_of(iii, "svc") == {"port": 80}
        assert await code_of(iii, "set", id="svc", value={}) == "SCHEMA_UNAVAILABLE"
        row = await iii.trigger_async("configuration::schema", {"id": "svc"})
        assert row == {"id": "svc", "name": "N", "description": "D", "schema": None, "metadata": {"m": 1}}
        answer = await iii.trigger_async("configuration::register", ENTRY)
        assert answer["value"] == {"port": "${III_TEST_NONE:80}"}
        assert (await heard.take())["event_type"] == "configuration:updated"
        await iii.trigger_async("configuration::set", {"id": "svc", "value": {}})


async def test_what_the_engine_is_told_wins_over_what_is_stored_unless_upstream_is_copied(tmp_path: Path) -> None:
    """CF-13 the other way round, as the page of built-ins advises; ``strict_upstream`` is CF-13."""
    told = {"iii-state": {"max_value_bytes": 10}}
    async with running(data=tmp_path) as iii:
        await iii.trigger_async("configuration::set", {"id": "iii-state", "value": {"max_value_bytes": 5}})
    async with running(data=tmp_path) as iii:
        assert await value_of(iii, "iii-state") == {"max_value_bytes": 5}
        with pytest.raises(InvocationError, match="max_value_bytes allows 5"):
            await iii.trigger_async("state::set", {"scope": "s", "key": "k", "value": "123456"})
    async with running(data=tmp_path, workers=told, strict_upstream=True) as iii:
        assert await value_of(iii, "iii-state") == {"max_value_bytes": 5}
        with pytest.raises(InvocationError, match="max_value_bytes allows 5"):
            await iii.trigger_async("state::set", {"scope": "s", "key": "k", "value": "123456"})
    async with running(data=tmp_path, workers=told) as iii:
        assert await value_of(iii, "iii-state") == {"max_value_bytes": 10}
        await iii.trigger_async("state::set", {"scope": "s", "key": "k", "value": "123456"})


BUILT_IN = {
    "iii-state": {"max_value_bytes": 0},
    "iii-stream": {"auth_function": 1},
    "iii-observability": {"logs_max_count": "many"},
    "iii-http": {"default_timeout": 0},
    "iii-cron": {"adapter": {"name": 7}},
    "iii-pubsub": {"adapter": []},
    "iii-queue": {"queue_configs": {"q": {"concurrency": 0}}},
}
"""Workers that have an entry (CF-13), and what none of them accepts."""


async def test_every_built_in_that_can_be_configured_has_an_entry_and_follows_it() -> None:
    """CF-13, CF-14, H-2: one function each that is told of changes, and hidden."""
    async with running(http_port=None) as iii:
        for name, wrong in BUILT_IN.items():
            assert await value_of(iii, name) == {}
            with pytest.raises(InvocationError) as refusal:
                await iii.trigger_async("configuration::set", {"id": name, "value": wrong})
            assert refusal.value.code == "SCHEMA_INVALID"
        listed = {row.function_id for row in await iii.list_functions_async()}
        assert not any(function_id.endswith("::on-config-change") for function_id in listed)
        told = await iii.trigger_async(
            "engine::registered-triggers::list", {"search": "::on-config-change", "trigger_type": "configuration"}
        )
        assert {row["function_id"] for row in told["registered_triggers"]} == {
            f"{name}::on-config-change" for name in BUILT_IN
        }


async def test_the_http_worker_follows_its_entry() -> None:
    """H-2, H-3: the time, CORS and middleware of the next request; what is wrong changes nothing."""
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None, workers={"iii-http": {"default_timeout": 5000}}) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):
            assert engine.http_app is not None
            client = httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", engine.http_app)), base_url="http://e")
            iii.register_function("hello", lambda _: {"body": "hello"})
            iii.register_function("no", lambda _: {"action": "respond", "response": {"status_code": 403, "body": None}})
            iii.register_trigger("http", "hello", {"api_path": "hello"})
            await iii.wait_ready()
            assert (await client.get("/hello")).headers["access-control-allow-origin"] == "*"
            value: dict[str, Any] = {
                "middleware": [{"function_id": "no"}],
                "cors": {"allowed_origins": ["http://mine"], "allowed_methods": []},
            }
            await iii.trigger_async("configuration::set", {"id": "iii-http", "value": value})
            while (answer := await client.get("/hello")).status_code != 403:
                await checkpoint()
            assert "access-control-allow-origin" not in answer.headers
            await client.aclose()


async def test_the_queue_worker_follows_its_entry() -> None:
    """Q-16: a queue that was added takes jobs; the others go on."""
    heard = Heard()
    async with running() as iii:
        iii.register_function("job", heard.hear)
        await iii.wait_ready()
        enqueue = {"function_id": "job", "payload": 1, "action": {"type": "enqueue", "queue": "late"}}
        with pytest.raises(InvocationError, match="not defined"):
            await iii.trigger_async(enqueue)
        value = {"queue_configs": {"late": {"concurrency": 3}}}
        await iii.trigger_async("configuration::set", {"id": "iii-queue", "value": value})
        while (await iii.trigger_async("engine::queue::topic_stats", {"topic": "late"}))["consumer_count"] != 3:
            await checkpoint()
        await iii.trigger_async(enqueue)
        assert await heard.take() == 1


async def test_the_observability_worker_follows_its_entry() -> None:
    """CF-14, OB-15: fewer logs are kept from now on."""
    async with running() as iii:
        for number in range(3):
            await iii.trigger_async("engine::log::info", {"message": f"log {number}"})
        await iii.trigger_async("configuration::set", {"id": "iii-observability", "value": {"logs_max_count": 1}})
        while (await iii.trigger_async("engine::logs::list", {}))["total"] != 1:
            await checkpoint()


async def test_the_version_of_the_engine_is_a_default() -> None:
    """CF-6."""
    async with running() as iii:
        entry = ENTRY | {"initial_value": {"v": "${III_TEST_NONE:__III_ENGINE_VERSION__}"}}
        await iii.trigger_async("configuration::register", entry)
        assert await value_of(iii, "svc") == {"v": __version__}


# -- entries that expire ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_an_entry_is_deleted_a_while_after_its_last_trigger_is_gone() -> None:
    """CF-7, CF-10."""
    workers = {"configuration": {"ttl_seconds": 60}}
    async with open_engine(port=None, workers=workers) as engine, open_worker(connector=engine.connector()) as iii:
        everything = Heard()
        iii.register_function("f", everything.hear)
        iii.register_trigger("configuration", "f", {"event_types": ["configuration:deleted"]})
        await iii.trigger_async("configuration::register", ENTRY | {"initial_value": {"a": 1}})
        triggers = [iii.register_trigger("configuration", "f", {"configuration_id": "svc"}) for _ in range(2)]
        await iii.wait_ready()

        async def unbind(trigger_id: str) -> None:
            await iii.trigger_async("engine::unregister_trigger", {"id": trigger_id})

        await unbind(triggers[0].id)
        await anyio.sleep(1000)
        assert await value_of(iii, "svc") == {"a": 1}  # one is left
        await unbind(triggers[1].id)
        await anyio.sleep(59)
        again = iii.register_trigger("configuration", "f", {"configuration_id": "svc"})
        await iii.wait_ready()
        await anyio.sleep(1000)
        assert await value_of(iii, "svc") == {"a": 1}  # it was bound again
        assert not everything.has_more
        await unbind(again.id)
        await anyio.sleep(59)
        assert await value_of(iii, "svc") == {"a": 1}
        await anyio.sleep(2)
        assert await code_of(iii, "get", id="svc") == "NOT_FOUND"
        event = await everything.take()
        assert (event["event_type"], event["old_value"], event["new_value"]) == (
            "configuration:deleted", {"a": 1}, None
        )  # fmt: skip
        assert not everything.has_more


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_entries_do_not_expire_by_default() -> None:
    """CF-10."""
    async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as iii:
        iii.register_function("f", lambda data: data)
        await iii.trigger_async("configuration::register", ENTRY | {"initial_value": {"a": 1}})
        trigger = iii.register_trigger("configuration", "f", {"configuration_id": "svc"})
        await iii.wait_ready()
        await iii.trigger_async("engine::unregister_trigger", {"id": trigger.id})
        await anyio.sleep(5000)
        assert await value_of(iii, "svc") == {"a": 1}


@pytest.mark.parametrize("config", [{"ttl_seconds": -1}, {"adapter": {"name": "etcd"}}, {"ttl_seconds": "1"}])
async def test_a_wrong_configuration_is_named_at_the_start(config: dict[str, Any]) -> None:
    """§4.3."""
    with pytest.raises(ValueError, match="configuration: "):
        async with running(workers={"configuration": config}):
            pytest.fail("it started")
