"""Programs for iii-sdk 0.25, and of the time of the skill card, run unchanged with ``iii`` standing for this package.

Each of ``programs/`` is a script: ``register(iii)`` registers, ``use(iii)`` makes calls and checks what comes. As
``__main__`` it has a client of ``register_worker``; imported, the same two functions get a native worker.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from anyio import fail_after, to_thread
from anyio.from_thread import start_blocking_portal

import iii_anyio
from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import Engine, Listener, Rbac, open_engine
from tests.api.test_parity_names import OURS

PROGRAMS = Path(__file__).with_name("programs")
BOTH_FACES = sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "keep_alive")

pytestmark = [pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning")]
"""A.23: these programs are written as upstream's users write them."""


@contextmanager
def aliased() -> Iterator[None]:
    """``iii`` and ``iii_helpers`` are this package, module by module."""
    names = {"iii_helpers": ModuleType("iii_helpers")}
    names |= {theirs: importlib.import_module(ours) for theirs, ours in OURS.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] in {"iii", "iii_helpers"}]:
            patch.delitem(sys.modules, name)
        for name, module in names.items():
            patch.setitem(sys.modules, name, module)
        yield


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine for all of them, with a guarded listener for ``rbac_hooks``."""
    rbac = Rbac(auth_function_id="app::auth", on_function_registration_function_id="app::on-function")
    listeners = [Listener(), Listener(rbac=rbac, middleware_function_id="app::middleware")]
    opened = open_engine(port=0, http_port=0, stream_port=None, listeners=listeners)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("III_URL", engine.urls[0])
    monkeypatch.setenv("III_RBAC_URL", engine.urls[1])
    monkeypatch.setenv("III_HTTP_URL", str(engine.http_url))
    monkeypatch.setenv("OTEL_ENABLED", "false")
    monkeypatch.setenv("LEGACY_TOKEN", "")  # set by a program


@pytest.mark.parametrize("name", BOTH_FACES)
def test_a_program_runs_unchanged_as_a_script(name: str) -> None:
    with aliased():
        runpy.run_path(str(PROGRAMS / f"{name}.py"), run_name="__main__")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
@pytest.mark.parametrize("name", BOTH_FACES)
async def test_a_programs_functions_run_on_a_native_worker(name: str, anyio_backend_name: str) -> None:
    if (name, anyio_backend_name) == ("skill_card", "trio"):
        pytest.skip("its handler awaits asyncio.to_thread")
    with aliased():
        program = await to_thread.run_sync(runpy.run_path, str(PROGRAMS / f"{name}.py"))
    with fail_after(20):
        async with open_worker(options=InitOptions(worker_name=name, handle_signals=False)) as iii:
            program["register"](iii)
            await iii.wait_ready()
            await to_thread.run_sync(program["use"], iii)


@pytest.mark.parametrize("how", ["loop", "nothing"])
def test_a_program_serves_until_it_is_told_to_stop(how: str, tmp_path: Path) -> None:
    """A.21, B.11: both ways of staying alive; SIGTERM drains and ends either."""
    (tmp_path / "iii.py").write_text("from iii_anyio import *\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), str(PROGRAMS.parents[2])])
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / "keep_alive.py"), how],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            with iii_anyio.register_worker(options=InitOptions(handle_signals=False)) as caller:
                assert caller.trigger({"function_id": f"serves::{how}", "payload": {}}) == "pong"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in {0, -signal.SIGTERM, 128 + signal.SIGTERM}
        finally:
            process.kill()
