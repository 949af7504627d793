"""``iii-anyio dev`` with an app, and the command line without its extra. The engine itself: tests/api."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from iii_anyio import InitOptions, register_worker
from iii_anyio.cli._dev import OPTIONS
from tests.cli.running import Running, cli

if TYPE_CHECKING:
    from pathlib import Path

APP = "from iii_anyio import App\napp = App('tea')\n@app.function()\ndef kinds(_):\n    return ['green']\n"
WITHOUT_EXTRA = """
import sys
sys.modules["{missing}"] = None
from iii_anyio.cli import main
sys.exit(main({arguments!r}))
"""


def without_extra(*arguments: str, missing: str = "typer") -> subprocess.CompletedProcess[str]:
    program = WITHOUT_EXTRA.format(missing=missing, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_an_app_is_served_by_the_engine_and_both_end_with_0(tmp_path: Path) -> None:
    (tmp_path / "tea.py").write_text(APP, "utf-8")
    ports = ["--port", "0", "--http-port", "0", "--stream-port", "0"]
    with Running("dev", "tea", *ports, "--json", cwd=tmp_path) as running:
        listening = json.loads(running.until('"listening"'))
        assert listening["stream_url"].startswith("ws://127.0.0.1:")
        assert json.loads(running.until('"serving"'))["functions"] == 1
        options = InitOptions(worker_name="caller", handle_signals=False)
        with register_worker(listening["urls"][0], options) as iii:
            assert iii.trigger("tea::kinds", {}) == ["green"]
        (tmp_path / "tea.py").write_text(APP.replace("green", "black"), "utf-8")
        running.until('"reloading"')
        running.until('"serving"')
        running.send(signal.SIGINT)
        assert running.ended() == 0


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--backend", "twisted"], ["--no-such-option"]])
def test_wrong_arguments_are_2_with_and_without_the_extra(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from iii_anyio.cli._dev import main

    done = cli("dev", *arguments)
    assert done.exit_code == 2
    assert arguments[-1] in done.stderr
    codes: list[object] = []
    try:
        codes.append(main(arguments))
    except SystemExit as exc:
        codes.append(exc.code)
    assert codes == [2]
    assert arguments[-1] in capsys.readouterr().err


def test_both_helps_show_every_option() -> None:
    """One table for both."""
    with_typer = cli("dev", "--help").stdout
    with pytest.raises(SystemExit):
        from iii_anyio.cli._dev import main

        main(["--help"])
    for option in OPTIONS:
        for flag in option.flags:
            assert flag in with_typer


def test_without_the_extra_dev_works_and_the_rest_says_what_to_install() -> None:
    done = without_extra("dev", "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for option in OPTIONS for flag in option.flags)
    done = without_extra("list", "functions", missing="rich")
    assert done.returncode == 2
    assert "pip install 'iii-anyio[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
