"""``iii-anyio dev --console``."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from iii_anyio import InitOptions, register_worker
from tests.cli.running import Running

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import os
from iii_anyio import App
app = App("tea")
@app.function()
def otel(_):
    return os.environ.get("OTEL_ENABLED")
"""


@pytest.mark.parametrize("more", [["--console"], ["--console-port", "0"]])
def test_the_console_is_served_and_the_app_tells_of_its_calls(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "tea.py").write_text(APP, "utf-8")
    ports = ["--port", "0", "--http-port", "0", "--stream-port", "0"]
    with Running("dev", "tea", *ports, *more, "--no-reload", "--json", cwd=tmp_path) as running:
        listening = json.loads(running.until('"listening"'))
        assert httpx.get(f"{listening['console_url']}/engine.json", timeout=30).json()["url"] == listening["urls"][0]
        running.until('"serving"')
        with register_worker(listening["urls"][0], InitOptions(worker_name="caller", handle_signals=False)) as iii:
            assert iii.trigger("tea::otel", {}) == "true"
        running.send(signal.SIGINT)
        assert running.ended() == 0
