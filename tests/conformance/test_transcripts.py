"""Recorded conversations of the official SDK with the real engine, held against our engine and our worker.

Each table lists what differs, as patterns of ``fnmatch``, and why. A difference that is not listed fails, and so does one
that does not occur any more.
"""

from __future__ import annotations

from importlib.metadata import version

import pytest
from anyio import create_task_group, fail_after

from iii_anyio.devengine import open_engine
from tests.conformance.recordings import Tap, compare_clients, load, replay, said, unexplained
from tests.conformance.scenarios import SCENARIOS

pytestmark = pytest.mark.anyio

NAMES = ["invoke", "http", "namespace", "conflict", "trigger-type", "reconnect"]
RECORDINGS = {name: [name] for name in NAMES} | {"reconnect": ["reconnect-1", "reconnect-2"]}

ENGINE: dict[str, dict[str, str]] = {name: {} for name in NAMES}
WORKER: dict[str, dict[str, str]] = {name: {} for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
async def test_the_engine_answers_the_official_sdk_as_the_real_one_did(name: str) -> None:
    """Protocol §5 to §9."""
    with fail_after(10):
        async with open_engine(port=None, http_port=0) as engine:
            found = await replay(engine, *map(load, RECORDINGS[name]))
    assert unexplained(found, ENGINE[name]) == []


@pytest.mark.parametrize("name", NAMES)
async def test_our_worker_says_what_the_official_sdk_said(name: str) -> None:
    """Protocol §5 to §9."""
    with fail_after(10):
        async with open_engine(port=None, http_port=0) as engine, create_task_group() as tasks:
            tap = Tap(engine, tasks)
            await SCENARIOS[name](tap)
    recordings = [load(part) for part in RECORDINGS[name]]
    recorded = {
        conn + 10 * number: texts
        for number, entries in enumerate(recordings)
        for conn, texts in said(entries).items()
    }
    assert unexplained(compare_clients(recorded, tap.texts), WORKER[name]) == []


def test_the_installed_sdk_is_the_one_that_was_recorded() -> None:
    assert version("iii-sdk") == "0.25.0"
