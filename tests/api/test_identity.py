"""What a worker tells the engine about itself, and from where it takes it (api A.3, A.22)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from iii_anyio import InitOptions, TelemetryOptions
from iii_anyio._identity import find_project_name, identity, resolve_engine_url, resolve_namespace, worker_name
from iii_anyio.channel import resolve_headers


def test_the_address_is_the_argument_else_a_non_empty_variable_else_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P-01."""
    monkeypatch.setenv("III_URL", "ws://there:1")
    assert resolve_engine_url("ws://here:1") == "ws://here:1"
    assert resolve_engine_url() == "ws://there:1"
    monkeypatch.setenv("III_URL", "")
    assert resolve_engine_url() == "ws://127.0.0.1:49134"


def test_the_namespace_is_the_option_else_a_variable_that_is_not_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """§4.3: a blank option is a mistake, a blank variable is unset."""
    monkeypatch.setenv("III_NAMESPACE", "from-environment")
    assert resolve_namespace(InitOptions(namespace="mine")) == "mine"
    assert resolve_namespace(InitOptions()) == "from-environment"
    monkeypatch.setenv("III_NAMESPACE", "  ")
    assert resolve_namespace(InitOptions()) is None
    with pytest.raises(ValueError, match=r"InitOptions\.namespace"):
        resolve_namespace(InitOptions(namespace=" "))


def test_the_name_is_the_variable_else_the_option_else_unique_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """§6.2, G-10."""
    base = f"{socket.gethostname()}:{os.getpid()}"
    with worker_name(InitOptions()) as first, worker_name(InitOptions()) as second:
        assert first != second
        assert first.startswith(base)
        assert second.startswith(base)
        with worker_name(InitOptions(worker_name="mine")) as given:
            assert given == "mine"
        monkeypatch.setenv("III_WORKER_NAME", "from-environment")
        with worker_name(InitOptions(worker_name="mine")) as given:
            assert given == "from-environment"
    monkeypatch.delenv("III_WORKER_NAME")
    with worker_name(InitOptions()) as again:
        assert again == first, "a name is free again when its client has gone"


def test_the_payload_has_what_the_engine_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-14, P-15."""
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    payload = identity("w", "orders", "shop", InitOptions(worker_description="Charges cards"))
    assert payload["runtime"] == "python"
    assert payload["pid"] == os.getpid()
    assert payload["namespace"] == "orders"
    assert payload["description"] == "Charges cards"
    assert payload["telemetry"] == {"language": "de_DE", "project_name": "shop", "framework": "iii-anyio"}
    options = InitOptions(telemetry=TelemetryOptions(language="x", project_name="y", framework="z"))
    assert identity("w", None, "shop", options)["telemetry"] == {"language": "x", "project_name": "y", "framework": "z"}
    assert "description" not in identity("w", None, None, InitOptions())
    keyed = InitOptions(telemetry=TelemetryOptions("x", "y", "z", "key"))
    assert identity("w", None, None, keyed)["telemetry"]["amplitude_api_key"] == "key"  # B.10


def test_variables_that_are_not_utf_8_do_not_keep_a_worker_from_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """G-2: a lone surrogate makes the whole register call undecodable."""
    monkeypatch.setenv("III_ISOLATION", "caf\udce9")
    assert identity("w", None, None, InitOptions())["isolation"] == "caf?"


@pytest.mark.parametrize(
    ("content", "expected"),
    [('[project]\nname = "shop"\n', "shop"), ("[project]\n", "here"), ("not toml", "here"), (None, "here")],
)
def test_the_project_is_the_one_of_the_current_directory(
    content: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    if content is not None:
        (here / "pyproject.toml").write_text(content)
    monkeypatch.chdir(here)
    assert find_project_name() == expected


@pytest.mark.parametrize(
    ("headers", "token", "merged"),
    [
        (None, None, {}),
        (None, " t \n", {"Authorization": "Bearer t"}),
        ({"X": "y"}, "t", {"X": "y", "Authorization": "Bearer t"}),
        ({"X": "y"}, " ", {"X": "y"}),
        ({"aUTHORIZATION": "Basic x"}, "t", {"aUTHORIZATION": "Basic x"}),
    ],
)
def test_the_token_is_sent_unless_there_is_an_authorization(
    headers: dict[str, str] | None, token: str | None, merged: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P-02."""
    if token is None:
        monkeypatch.delenv("III_TOKEN", raising=False)
    else:
        monkeypatch.setenv("III_TOKEN", token)
    assert resolve_headers(dict(headers or {})) == merged
