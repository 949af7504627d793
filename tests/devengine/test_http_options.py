"""The configuration of ``iii-http`` with the keys of the real engine's file (spec §2.1)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import HttpOptions, open_engine
from iii_anyio.devengine._http_messages import CorsOptions
from iii_anyio.devengine._http_options import GlobalMiddleware, read_options


def test_nothing_configured_is_the_default() -> None:
    assert read_options({}) == HttpOptions()
    assert read_options({"cors": None, "middleware": None, "default_timeout": None}) == HttpOptions()


def test_every_key_of_a_file_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """H-4, H-50, H-56, H-57."""
    options = read_options(
        {
            "host": "0.0.0.0",
            "port": 3111,
            "default_timeout": 1500,
            "concurrency_request_limit": 0,
            "cors": {"allowed_origins": ["http://a"], "allowed_methods": ["GET"]},
            "middleware": [{"function_id": "a"}, {"function_id": "b", "priority": -1, "phase": "onResponse"}],
        }
    )
    assert options.default_timeout == 1.5
    assert options.concurrency_limit == 1
    assert options.cors == CorsOptions(["http://a"], ["GET"])
    assert options.middleware == [GlobalMiddleware("a"), GlobalMiddleware("b", "onResponse", -1)]
    assert "middleware 'b' never runs" in caplog.text


def test_unknown_keys_are_reported_at_every_level(caplog: pytest.LogCaptureFixture) -> None:
    """H-1: the real engine rejects them."""
    read_options({"tls": 1, "cors": {"credentials": True}, "middleware": [{"function_id": "f", "when": 1}]})
    for key in ("'tls'", "'cors.credentials'", "'middleware[0].when'"):
        assert f"unknown key {key}" in caplog.text


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"default_timeout": 0}, "default_timeout must be an integer from 1 to 86400000, not 0"),
        ({"default_timeout": "30s"}, "default_timeout must be an integer"),
        ({"concurrency_request_limit": -1}, "concurrency_request_limit must be an integer from 0"),
        ({"concurrency_request_limit": True}, "concurrency_request_limit must be an integer"),
        ({"cors": []}, "cors must be a mapping"),
        ({"cors": {"allowed_origins": "*"}}, "cors.allowed_origins must be a list of strings"),
        ({"cors": {"allowed_methods": [1]}}, "cors.allowed_methods must be a list of strings"),
        ({"middleware": {}}, "middleware must be a list of mappings"),
        ({"middleware": ["f"]}, "middleware[0] must be a mapping"),
        ({"middleware": [{}]}, "middleware[0].function_id must be the id of a function"),
        ({"middleware": [{"function_id": "f", "priority": 1.5}]}, "middleware[0].priority must be an integer"),
        ({"middleware": [{"function_id": "f", "phase": 1}]}, "middleware[0].phase must be a string"),
    ],
)
def test_a_wrong_value_is_named_with_worker_and_key(config: Any, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        read_options(config)
    assert str(caught.value).startswith(f"iii-http: {problem}")


@pytest.mark.anyio
@pytest.mark.parametrize("http", [None, HttpOptions()])
async def test_the_configuration_counts_unless_there_are_options_in_code(http: HttpOptions | None) -> None:
    config = {"middleware": [{"function_id": "guard"}]}
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=0, http=http, workers={"iii-http": config}) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="w")) as iii,
            httpx.AsyncClient(base_url=engine.http_url, trust_env=False, timeout=None) as client,
        ):
            respond = {"action": "respond", "response": {"status_code": 403}}
            iii.register_function("guard", lambda _data: respond)
            iii.register_function("f", lambda _data: {"status_code": 200})
            iii.register_trigger("http", "f", {"api_path": "/f"})
            await iii.wait_ready()
            assert (await client.get("/f")).status_code == (403 if http is None else 200)
