"""``iii-anyio list`` and ``describe``, and the examples that ``describe`` makes of schemas."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from iii_anyio import IIIClient, InitOptions, register_worker
from iii_anyio.cli._samples import sample
from tests.cli.running import cli, cli_json

if TYPE_CHECKING:
    from iii_anyio.devengine import Engine


class Address(BaseModel):
    city: str
    zip_code: str | None = None


class Order(BaseModel):
    customer: str
    quantity: int
    address: Address


@pytest.fixture(autouse=True)
def at_server(server: Engine, worker: IIIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("III_URL", server.url)


def test_functions_are_listed_with_the_filters_of_the_engine() -> None:
    rows = cli_json("list", "functions", "--prefix", "test::e")
    assert [(row["function_id"], row["worker_name"], row["description"]) for row in rows] == [
        ("test::echo", "kitchen", "gives it back")
    ]
    assert len(cli_json("list", "functions", "--worker", "kitchen")) == 3
    assert len(cli_json("list", "functions", "--all")) > len(cli_json("list", "functions"))
    table = cli("list", "functions", "--search", "gives").stdout.splitlines()
    assert [line.split()[:3] for line in table if "test::" in line] == [["test::echo", "default", "kitchen"]]
    nothing = cli("list", "functions", "--prefix", "nobody::")
    assert (nothing.stdout, nothing.stderr) == ("", "No functions.\n")


def test_workers_are_listed_without_the_command_itself() -> None:
    rows = cli_json("list", "workers")
    names = [row["name"] for row in rows]
    assert "kitchen" in names
    assert "iii-state" in names
    assert not [name for name in names if name.startswith("iii-cli")]
    assert "kitchen" in cli("list", "workers", "--runtime", "python").stdout


def test_triggers_and_their_types_are_listed(worker: IIIClient) -> None:
    trigger = worker.register_trigger("http", "test::echo", {"api_path": "echo"})
    worker.wait_ready(30)
    rows = cli_json("list", "triggers")
    assert [row["config"]["api_path"] for row in rows if row["function_id"] == "test::echo"] == ["echo"]
    assert {"http", "cron", "state"} <= {row["id"] for row in cli_json("list", "trigger-types")}
    assert "http" in cli("list", "trigger-types").stdout
    trigger.unregister()


def test_a_function_is_described_with_an_example_that_works(server: Engine) -> None:
    options = InitOptions(worker_name="shop", namespace="eu", handle_signals=False)

    def place(order: Order) -> str:
        return order.address.city

    with register_worker(server.url, options) as iii:
        iii.register_function("shop::place", place, description="takes an order")
        iii.register_trigger("http", "shop::place", {"api_path": "orders", "http_method": "POST"})
        iii.wait_ready(30)
        info = cli_json("describe", "shop::place")
        assert info["worker"]["name"] == "shop"
        assert info["example"]["payload"] == {"customer": "text", "quantity": 1, "address": {"city": "text"}}
        _, *words = shlex.split(info["example"]["shell"])
        assert cli_json(*words) == "text"
        said = cli("describe", "shop::place").stdout
    for fact in (
        "takes an order",
        "eu",
        "shop (python",
        "api_path",
        '"quantity"',
        "iii-anyio trigger",
        "trigger_async",
    ):
        assert fact in said


def test_what_has_no_schema_takes_anything_and_what_is_unknown_is_1() -> None:
    assert "published no schema" in cli("describe", "test::echo").stdout
    done = cli("describe", "test::ecko")
    assert done.exit_code == 1
    assert "Did you mean test::echo?" in done.stderr


def test_a_description_cannot_write_to_the_terminal(server: Engine) -> None:
    evil = "\x1b]0;gotcha\x07\x9b31m\u202etxt\r"
    with register_worker(server.url, InitOptions(worker_name="evil", handle_signals=False)) as iii:
        iii.register_function("evil::f", lambda _: evil, description=evil)
        iii.wait_ready(30)
        printed = [
            cli("list", "functions", "--prefix", "evil").stdout,
            cli("describe", "evil::f").stdout,
            cli("trigger", "evil::f").stdout,
        ]
        assert json.loads(printed[2]) == evil
    for text in printed:
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(text)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (None, {}),
        (True, {}),
        ({"type": "object"}, {}),
        ({"properties": {"a": {"type": "number"}, "b": {}}, "required": ["a"]}, {"a": 1.5}),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"type": "array"}, []),
        ({"type": ["null", "integer"], "minimum": 7}, 7),
        ({"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]}, "2026-01-31"),
        ({"type": "string", "minLength": 6}, "texttt"),
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 0}, 0),
        ({"default": "d", "type": "string"}, "d"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, 1),
        ({"$ref": "#/nowhere"}, {}),
        ({"$ref": "https://example.com/schema"}, {}),
        ({"type": "array", "items": 3, "minLength": "x"}, []),
    ],
)
def test_an_example_fits_its_schema(schema: Any, value: Any) -> None:
    assert sample(schema) == value


def test_a_schema_that_refers_to_itself_has_an_example_nevertheless() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}, "required": ["left"]}
    found = sample(tree)
    assert found["left"]["left"]
