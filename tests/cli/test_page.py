"""docs/cli.md and the commands say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from iii_anyio.cli import main
from iii_anyio.cli._commands import app
from iii_anyio.cli._errors import ExitCode
from tests.cli.running import CLOSED, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iii_anyio import IIIClient
    from iii_anyio.devengine import Engine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## `?([^`\n]+)`?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COMMON = SECTIONS["For all commands"]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with what it is called, groups left out."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, child in inner.items():
        yield from commands(child, (*path, name))


ALL = dict(commands(get_command(app)))


def flags(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_command_and_its_options_are_on_the_page_and_in_its_help(path: tuple[str, ...]) -> None:
    section = SECTIONS[path[0]]
    assert path[-1] in section
    for flag in flags(ALL[path]):
        assert f"`{flag}`" in section + COMMON or f" {flag}" in section, flag
    done = cli(*path, "--help")
    assert done.exit_code == 0
    assert all(flag in done.stdout for flag in flags(ALL[path]))


def test_the_page_has_no_option_that_is_gone() -> None:
    known = {flag for command in ALL.values() for flag in flags(command)}
    known |= {"--help", "-h", "--version", "--install-completion", "--show-completion"}
    assert set(re.findall(r"(?<=`)--?[a-z][a-z-]*(?=[ `])", PAGE)) <= known
    assert set(SECTIONS) == {path[0] for path in ALL} | {"For all commands", "Exit codes"}


def test_the_exit_codes_are_those_of_the_page_and_of_the_help() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", SECTIONS["Exit codes"], re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {code.name: code.value for code in ExitCode}
    assert "3 no connection" in " ".join(cli("--help").stdout.split())


def test_every_command_with_output_knows_json() -> None:
    assert [path for path, command in ALL.items() if "--json" not in flags(command)] == []


def test_nothing_shows_a_variable_that_may_be_secret() -> None:
    assert "III_TOKEN" not in cli("trigger", "--help").stdout
    assert app.pretty_exceptions_enable is False


def test_the_script_of_the_package_is_this_command_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"iii-anyio": f"{main.__module__}:{main.__name__}"}


def test_the_shell_completes_commands_and_ids_of_functions(
    server: Engine, worker: IIIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def completed(words: str) -> str:
        variables = {"_III_ANYIO_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"iii-anyio {words}"}
        return CliRunner().invoke(app, [], prog_name="iii-anyio", env=variables).stdout

    assert "doctor" in completed("do")
    monkeypatch.setenv("III_URL", server.url)
    assert "test::echo" in completed("trigger test::e").replace("\\", "")
    monkeypatch.setenv("III_URL", CLOSED)
    assert completed("trigger test::e").strip() in {"", "_files"}


def test_the_version_is_shown_and_no_command_is_the_help() -> None:
    from iii_anyio._version import __version__

    assert cli("--version").stdout == f"{__version__}\n"
    assert "doctor" in cli().output
