"""What README, quick start and tutorial tell people to type works, in the order in which they tell it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.cli.running import Running, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
OWN_TESTS = {"pip", "python3", "cd", ".", "pytest", "make"}
"""Of these, ``make dist`` tries the installation, ``test_snippets`` knows the targets, and pytest is run below."""


def lines(page: Path) -> list[str]:
    """The commands of a page, without comments."""
    text = "".join(FENCE.findall(page.read_text("utf-8")))
    parts = (part.partition("  #")[0].strip() for line in text.splitlines() for part in line.split(" && "))
    return [part for part in parts if part]


class Served(NamedTuple):
    """An app beside the development engine, as ``iii-anyio dev app`` runs it."""

    url: str
    http_url: str
    process: Running


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    ports = ["--port", "0", "--http-port", "0", "--stream-port", "0"]
    with Running("dev", "app", *ports, "--json", cwd=folder, PYTHONPATH=str(ROOT)) as running:
        listening = json.loads(running.until('"listening"'))
        running.until('"serving"')
        yield Served(listening["urls"][0], listening["http_url"], running)
        running.send(signal.SIGINT)
        assert running.ended() == 0, running.output


def type_in(commands: list[str], there: Served) -> list[str]:
    """Type them in a second shell; what they print."""
    return [_typed(command, there) for command in commands]


def _typed(command: str, there: Served) -> str:
    words = shlex.split(command.replace("http://127.0.0.1:3111", there.http_url))
    if words[0] == "curl":
        if shutil.which("curl") is None:
            pytest.skip("needs curl")
        return subprocess.check_output(["curl", "-s", *words[1:]], text=True, timeout=60)
    assert words[0] == "iii-anyio", command
    done = cli(*words[1:])
    expected = 1 if "nome=" in command else 0  # the one that the page says is refused
    assert done.exit_code == expected, f"{command}\n{done.output}"
    return done.output


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("III_TOKEN", "III_NAMESPACE", "III_WORKER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")


def test_the_quick_start_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = lines(DOCS / "quickstart.md")
    before, after = commands[: commands.index("iii-anyio dev app")], commands[commands.index("iii-anyio dev app") + 1 :]
    monkeypatch.chdir(tmp_path)
    assert [command for command in before if command.split()[0] not in OWN_TESTS] == ["iii-anyio new shop"]
    assert cli("new", "shop").exit_code == 0
    with served(tmp_path / "shop") as there:
        monkeypatch.setenv("III_URL", there.url)
        printed = type_in([command for command in after if not command.startswith(". ")], there)
    called, curled, listed, described, refused, doctored = printed
    assert '"message": "Hello, Ada!"' in called
    assert json.loads(curled) == {"message": "Hello, Ada!", "times": 2}
    assert "shop::greet" in listed
    assert "engine::" not in listed
    assert "Person" in described
    assert "name: Field required" in refused
    assert "A worker can connect and work." in doctored


def test_the_function_that_the_quick_start_shows_is_that_of_a_new_project(tmp_path: Path) -> None:
    [shown] = re.findall(
        r"^@app\.function\(\)\n(?:(?!```).*\n)+", (DOCS / "quickstart.md").read_text("utf-8"), re.MULTILINE
    )
    assert cli("new", "shop", str(tmp_path)).exit_code == 0
    assert shown in (tmp_path / "app.py").read_text("utf-8")


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial leads to."""
    folder = tmp_path_factory.mktemp("orders")
    assert cli("new", "orders", str(folder)).exit_code == 0
    for name, code in FILE.findall((DOCS / "tutorial.md").read_text("utf-8")):
        assert (folder / name).exists()
        (folder / name).write_text(code, "utf-8")
    return folder


def test_the_tests_of_the_tutorial_pass(orders: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=orders, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_tutorial_runs_as_it_says(orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = lines(DOCS / "tutorial.md")
    start = commands.index("iii-anyio dev app") + 1
    wanted = [command for command in commands[start:] if not command.startswith("III_URL=")]
    with served(orders) as there:
        monkeypatch.setenv("III_URL", there.url)
        first = type_in(wanted[:3], there)
        there.process.until("it is kept as dead")  # after about 3 s of attempts
        listed, dead, redriven, stored = type_in(wanted[3:], there)
    assert "202 Accepted" in first[0]
    assert json.loads(first[1])["item"] == "tea"
    assert "default" in listed
    assert "card_refused" in dead
    assert redriven == "1 redriven\n"
    assert '"status": "paid"' in stored


def test_the_readme_tells_nothing_that_the_quick_start_does_not() -> None:
    readme, quick_start = lines(ROOT / "README.md"), lines(DOCS / "quickstart.md")
    others = [command for command in readme if not command.startswith("make ")]
    assert others
    assert [command for command in others if command not in quick_start] == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in lines(page):
        words = line.removeprefix("$ ").split()
        if words[0] == "make":
            assert {word for word in words[1:] if word.isalpha()} - targets == set(), line
        if words[0] == "iii-anyio" and len(words) > 1 and not words[1].startswith("-"):
            assert cli(words[1], "--help").exit_code == 0, line


def test_readme_is_under_two_pages() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
