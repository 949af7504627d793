"""``iii-anyio bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from iii_anyio.cli._bench import summary
from iii_anyio.testing import FaultProxy
from tests.cli.running import CLOSED, cli, cli_json

if TYPE_CHECKING:
    from iii_anyio import IIIClient
    from iii_anyio.devengine import Engine


@pytest.fixture(autouse=True)
def at_server(server: Engine, worker: IIIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("III_URL", server.url)


def test_calls_are_counted_to_the_number_that_was_wanted() -> None:
    result = cli_json("bench", "--calls", "40", "--concurrency", "7", "--seconds", "20")
    assert (result["calls"], result["failed"], result["concurrency"]) == (40, 0, 7)
    assert result["calls_per_second"] > 0
    latency = result["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert "calls/s" in cli("bench", "--seconds", "0.05").stdout


def test_a_function_of_ones_own_is_called_and_its_failures_are_1() -> None:
    assert cli_json("bench", "test::echo", "--calls", "5", "--data", "[1]")["function_id"] == "test::echo"
    done = cli("bench", "test::fails", "--calls", "5")
    assert done.exit_code == 1
    assert "OUT_OF_TEA" in done.stdout
    assert cli("bench", "--data", "{").exit_code == 2
    assert cli("bench", "--url", CLOSED).exit_code == 3


def test_a_connection_that_is_lost_is_3_and_ends_it(server: Engine, worker: IIIClient) -> None:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(FaultProxy(server.url)) as proxy:
        cuts = worker.register_function("test::cuts", lambda _: portal.call(proxy.reset))
        worker.wait_ready(30)
        done = cli("bench", "test::cuts", "--seconds", "20", "--url", proxy.url)
        cuts.unregister()
    assert done.exit_code == 3
    assert "lost" in done.stderr


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    latencies = [n / 1000 for n in range(1000, 0, -1)]
    result = summary(2.0, latencies, {"TIMEOUT": 2})
    assert result["latency_ms"] == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "p999": 999.0, "max": 1000.0}
    assert (result["calls_per_second"], result["failed"]) == (500.0, 2)
    assert summary(1.0, [0.003], {})["latency_ms"]["p50"] == 3.0
    assert summary(1.0, [], {})["latency_ms"] == {}
