"""``iii-anyio trigger``: payloads, results, errors and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal

from iii_anyio import IIIClient, InitOptions, get_context, register_worker
from iii_anyio.testing import FaultProxy
from tests.cli.running import CLOSED, cli, cli_json

if TYPE_CHECKING:
    from pathlib import Path

    from iii_anyio.devengine import Engine


@pytest.fixture(autouse=True)
def at_server(server: Engine, worker: IIIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("III_URL", server.url)


def echo(*arguments: str, stdin: str | None = None) -> Any:
    """What arrives, without what the engine adds (C-4)."""
    result = cli_json("trigger", "test::echo", *arguments, stdin=stdin)
    if isinstance(result, dict):
        result.pop("_caller_worker_id", None)
    return result


def test_a_payload_is_json_a_file_stdin_pairs_or_an_empty_object(tmp_path: Path) -> None:
    """CL-3, and what we add."""
    file = tmp_path / "order.json"
    file.write_text('{"n": 3}', "utf-8")
    assert echo() == {}
    assert echo('["tea", 2]') == ["tea", 2]
    assert echo('"a=b"') == "a=b"
    assert echo(f"@{file}") == {"n": 3}
    assert echo("-", stdin="[1]") == [1]
    assert echo("name=Ada", "n=3", 'deep={"a": [1]}', "eq=a=b") == {
        "name": "Ada", "n": 3, "deep": {"a": [1]}, "eq": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{"], "is not JSON"),
        (["NaN"], "is not JSON"),
        (["name=Ada", "3"], "is not KEY=VALUE"),
        (["@/no/such/file"], "cannot read"),
        (["{}", "--metadata", "{"], "is not JSON"),
        (["{}", "--void", "--queue", "q"], "cannot be combined"),
        (["{}", "--timeout", "0"], "--timeout"),
        (["{}", "--namespace", " "], "namespace"),
    ],
)
def test_a_wrong_argument_is_2_and_says_what_is_right(arguments: list[str], said: str) -> None:
    done = cli("trigger", "test::echo", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_blank_id_or_name_is_2() -> None:
    for words in (["trigger", ""], ["bench", " "], ["stream", "watch", ""]):
        done = cli(*words)
        assert done.exit_code == 2
        assert "Error" in done.stderr


def test_a_payload_is_looked_at_before_the_engine() -> None:
    assert cli("trigger", "test::echo", "{", "--url", CLOSED).exit_code == 2


def test_a_result_is_indented_for_people_and_one_line_for_machines() -> None:
    """CL-4: nothing is printed for no result."""
    assert cli("trigger", "test::echo", "[1]").stdout == "[\n  1\n]\n"
    assert cli("trigger", "test::echo", "[1]", "--json").stdout == "[1]\n"
    assert cli("trigger", "test::nothing").stdout == ""
    assert cli("trigger", "test::nothing", "--json").stdout == "null\n"


def test_a_function_that_fails_is_1_with_its_code() -> None:
    done = cli("trigger", "test::fails")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "OUT_OF_TEA: there is no tea" in done.stderr
    assert "kitchen" not in done.stderr
    assert "in the kitchen" in cli("trigger", "test::fails", "--verbose").stderr
    error = json.loads(cli("trigger", "test::fails", "--json").stderr)["error"]
    assert (error["error_code"], error["exit_code"], error["stacktrace"]) == (
        "OUT_OF_TEA", 1, "Traceback: in the kitchen",
    )  # fmt: skip


def test_an_unknown_function_is_1_and_names_one_that_looks_like_it() -> None:
    done = cli("trigger", "test::ecko")
    assert done.exit_code == 1
    assert "Did you mean test::echo?" in done.stderr


def test_a_void_call_does_not_wait_and_a_queued_one_has_a_receipt(worker: IIIClient) -> None:
    assert cli("trigger", "test::fails", "--void").exit_code == 0
    assert set(cli_json("trigger", "test::echo", "{}", "--queue", "default")) == {"messageReceiptId"}
    done = cli("trigger", "test::echo", "--queue", "nowhere")
    assert done.exit_code == 1
    assert "iii-anyio queue list" in done.stderr


def test_metadata_and_namespace_go_with_the_call(server: Engine) -> None:
    def look(_: Any) -> Any:
        return get_context().metadata

    options = InitOptions(worker_name="far", namespace="far", handle_signals=False)
    with register_worker(server.url, options) as iii:
        iii.register_function("look", look)
        iii.wait_ready(30)
        assert cli_json("trigger", "look", "-n", "far", "--metadata", '{"who": "Ada"}') == {"who": "Ada"}
        assert cli("trigger", "look").exit_code == 1


def test_no_engine_is_3_and_what_is_secret_in_the_address_is_not_shown() -> None:
    done = cli("trigger", "test::echo", "--url", "ws://ada:pa55@127.0.0.1:1/?token=s3cret")
    assert done.exit_code == 3
    assert "connection refused" in done.stderr
    assert "iii-anyio doctor" in done.stderr
    assert "s3cret" not in done.output
    assert "pa55" not in done.output
    error = json.loads(cli("trigger", "x", "--url", CLOSED, "--json").stderr)["error"]
    assert error["exit_code"] == 3


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:49134", "ws://"])
def test_an_address_that_is_none_is_2(url: str) -> None:
    done = cli("trigger", "test::echo", "--url", url)
    assert done.exit_code == 2
    assert "III_URL" in done.stderr


def test_a_token_that_no_header_can_carry_is_2_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("III_TOKEN", "s3\ncret")
    done = cli("trigger", "test::echo")
    assert done.exit_code == 2
    assert "cret" not in done.output


def test_the_name_of_an_application_is_not_taken_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """E-35: its worker runs under that name, and the variable is set in the same shell."""
    monkeypatch.setenv("III_WORKER_NAME", "kitchen")
    assert cli_json("trigger", "test::echo", "1") == 1


def test_a_connection_that_is_lost_before_the_answer_is_3(server: Engine, worker: IIIClient) -> None:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(FaultProxy(server.url)) as proxy:
        cuts = worker.register_function("test::cuts", lambda _: portal.call(proxy.reset))
        worker.wait_ready(30)
        done = cli("trigger", "test::cuts", "--url", proxy.url)
        cuts.unregister()
    assert done.exit_code == 3
    assert "may have been done" in done.stderr
